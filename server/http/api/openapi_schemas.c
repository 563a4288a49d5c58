/* The schemas of answers, and of what goes into a body beyond single fields. */
#include <stddef.h>

#include "server/http/api/openapi.h"

#define STR "{'type':'string'}"
#define INT "{'type':'integer'}"
#define NUM "{'type':'number'}"
#define BOOL "{'type':'boolean'}"
#define REF(name) "{'$ref':'#/components/schemas/" name "'}"
#define NULLABLE(schema) "{'anyOf':[" schema ",{'type':'null'}]}"
#define LIST(schema) "{'type':'array','items':" schema "}"
/* An object whose properties are all there: names, then schemas. */
#define OBJECT(required, properties)                                                               \
    "{'type':'object','required':[" required "],'properties':{" properties "}}"
#define CONST(word) "{'const':'" word "'}"

#define CHOICE(more_required, more)                                                                \
    OBJECT("'index','logprobs','finish_reason'," more_required,                                    \
           "'index':" INT                                                                          \
           ",'logprobs':" NULLABLE("{'type':'object'}") ",'finish_reason':"                        \
                                                        "{'enum':['stop','length']}," more)
#define OPENAI(object, choice)                                                                     \
    OBJECT("'id','object','created','model','system_fingerprint','choices','usage'",               \
           "'id':" STR                                                                             \
           ",'object':" CONST(object) ",'created':" INT ",'model':" STR                            \
                                      ",'system_fingerprint':" STR                                 \
                                      ",'choices':" LIST(choice) ",'usage':" REF("Usage"))

static const struct {
    const char *name, *schema;
} rows[] = {
    {"Error", OBJECT("'error'", "'error':" OBJECT("'message','type','param','code'",
                                                  "'message':" STR ",'type':" STR ",'param':"
                                                  "{'type':['string','null']},'code':" STR))},
    {"TgiError", OBJECT("'error','error_type'", "'error':" STR ",'error_type':" STR)},
    {"AnyError", "{'anyOf':[" REF("Error") "," REF("TgiError") "]}"},
    {"Status", "{'anyOf':[" REF("Error") "," OBJECT("'status'", "'status':" STR) "]}"},
    {"Usage",
     OBJECT("'prompt_tokens','completion_tokens','total_tokens'",
            "'prompt_tokens':" INT ",'completion_tokens':" INT ",'total_tokens':" INT
            ",'prompt_tokens_details':" OBJECT("'cached_tokens'", "'cached_tokens':" INT))},
    {"Completion", OPENAI("text_completion", CHOICE("'text'", "'text':" STR))},
    {"ChatCompletion",
     OPENAI(
         "chat.completion",
         CHOICE("'message'", "'message':" OBJECT("'role','content'",
                                                 "'role':" CONST("assistant") ",'content':" STR)))},
    {"Model", OBJECT("'id','object','created','owned_by'",
                     "'id':" STR ",'object':" CONST("model") ",'created':" INT ",'owned_by':" STR)},
    {"Models", OBJECT("'object','data'", "'object':" CONST("list") ",'data':" LIST(REF("Model")))},
    {"Token", OBJECT("'id','text','logprob'",
                     "'id':" INT ",'text':" STR ",'logprob':{'type':['number','null']}")},
    {"GenerateAnswer",
     OBJECT("'text','tokens','finish_reason','usage','timings'",
            "'text':" STR ",'session_id':" STR ",'session_tokens':" INT ",'tokens':" LIST(REF(
                "Token")) ",'finish_reason':"
                          "{'enum':['length','stop','eos','cancelled']},'usage':{'type':'object'},"
                          "'timings':{'type':'object'}")},
    {"TgiAnswer", OBJECT("'generated_text'",
                         "'generated_text':" STR ",'details':" OBJECT(
                             "'finish_reason','generated_tokens'",
                             "'finish_reason':{'enum':['length','eos_token','stop_sequence']},"
                             "'generated_tokens':" INT ",'seed':{'type':['integer','null']},"
                             "'prefill':" LIST(REF("Token")) ",'tokens':" LIST(REF("Token"))))},
    {"TgiAnswers", "{'type':'array','minItems':1,'maxItems':1,'items':" REF("TgiAnswer") "}"},
    {"AnyGenerateAnswer", "{'anyOf':[" REF("GenerateAnswer") "," REF("TgiAnswer") "]}"},
    {"Info", OBJECT("'model_id','max_input_tokens','max_total_tokens','version'",
                    "'model_id':" STR ",'max_input_tokens':" INT ",'max_total_tokens':" INT
                    ",'version':" STR)},
    {"SessionHead",
     OBJECT("'session_id','session_tokens'", "'session_id':" STR ",'session_tokens':" INT)},
    {"Session", OBJECT("'session_id','session_tokens','bytes','created','used','busy','in_memory',"
                       "'saved','tokens','text'",
                       "'session_id':" STR ",'session_tokens':" INT ",'bytes':" INT
                       ",'created':" INT ",'used':" INT ",'busy':" BOOL ",'in_memory':" BOOL
                       ",'saved':" BOOL ",'tokens':" LIST(INT) ",'text':" NULLABLE(STR))},
    {"SessionGone", OBJECT("'session_id','deleted'", "'session_id':" STR ",'deleted':" BOOL)},
    {"State", OBJECT("'status'", "'status':" STR)},
    {"TokenizeRequest", "{'type':'object','additionalProperties':false,'required':['text'],"
                        "'properties':{'text':" STR "}}"},
    {"TokenizeAnswer", OBJECT("'tokens','pieces'", "'tokens':" LIST(INT) ",'pieces':" LIST(STR))},
    {"DetokenizeRequest",
     "{'type':'object','additionalProperties':false,'required':['tokens'],'properties':{'tokens':"
     "{'type':'array','items':{'type':'integer','minimum':0}}}}"},
    {"DetokenizeAnswer", OBJECT("'text'", "'text':" STR)},
    {"Document", OBJECT("'openapi','paths'", "'openapi':" STR ",'paths':{'type':'object'}")},
    {"AnyBody", "{'type':'object'}"},
    {"Message",
     "{'type':'object','required':['role','content'],'additionalProperties':false,'properties':{"
     "'role':{'enum':['system','developer','user','assistant']},'name':" STR ",'content':{'anyOf':"
     "[" STR ",{'type':'array','minItems':1,'items':{'type':'object','required':['type','text'],"
     "'properties':{'type':" CONST("text") ",'text':" STR "}}}]}}}"},
    {"ResponseFormat",
     "{'type':'object','required':['type'],'properties':{'type':{'enum':['text','json_object',"
     "'json_schema']},'schema':{'type':'object'},'json_schema':{'type':'object','required':"
     "['schema'],'properties':{'name':" STR ",'description':" STR ",'strict':" BOOL
     ",'schema':{'type':'object'}},'additionalProperties':false}},'additionalProperties':false}"},
    {"TgiGrammar",
     "{'type':'object','required':['type','value'],'properties':{'type':{'enum':['json',"
     "'json_schema']},'value':{'type':'object'}},'additionalProperties':false}"},
};

void srv_openapi_put(srv_buf *b, const char *s) {
    for (; *s; s++)
        srv_buf_put(b, *s == '\'' ? "\"" : s, 1);
}

void srv_openapi_schemas(srv_buf *b) {
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        srv_openapi_put(b, i ? ",'" : "'");
        srv_buf_puts(b, rows[i].name);
        srv_openapi_put(b, "':");
        srv_openapi_put(b, rows[i].schema);
    }
}
