/* response_format, and TGI's grammar: JSON Schema to a grammar.
 *
 * The subset, also in README: type (one or several), properties, required, additionalProperties,
 * items, minItems, maxItems, minLength, maxLength, enum and const of scalars, anyOf and oneOf of
 * alternatives that begin differently, allOf of one, $ref into the document's own definitions.
 * Annotations are read over. Anything else is refused by name: a constraint that is not kept would
 * be a lie. Objects come out with their declared properties only, in the order of the schema.
 *
 * Recursion follows the nesting of the body, which is bounded; definitions wait in a list. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "server/engine/grammar/grammar.h"
#include "server/http/json/json_parts.h"

enum { MAX_DEFINITIONS = 256 };

/* Keywords by what they belong to. */
enum {
    K_NOTE = 1,
    K_OBJECT = 2,
    K_ARRAY = 4,
    K_STRING = 8,
    K_VALUE = 16, /* enum, const */
    K_OTHER = 32, /* anyOf, oneOf, allOf, $ref */
    K_TYPE = 64,
};

static const struct {
    const char *name;
    int of;
} keywords[] = {
    {"title", K_NOTE},       {"description", K_NOTE},
    {"$schema", K_NOTE},     {"$id", K_NOTE},
    {"$comment", K_NOTE},    {"default", K_NOTE},
    {"examples", K_NOTE},    {"deprecated", K_NOTE},
    {"readOnly", K_NOTE},    {"writeOnly", K_NOTE},
    {"$defs", K_NOTE},       {"definitions", K_NOTE},
    {"type", K_TYPE},        {"properties", K_OBJECT},
    {"required", K_OBJECT},  {"additionalProperties", K_OBJECT},
    {"items", K_ARRAY},      {"minItems", K_ARRAY},
    {"maxItems", K_ARRAY},   {"minLength", K_STRING},
    {"maxLength", K_STRING}, {"enum", K_VALUE},
    {"const", K_VALUE},      {"anyOf", K_OTHER},
    {"oneOf", K_OTHER},      {"allOf", K_OTHER},
    {"$ref", K_OTHER},
};

typedef struct schema {
    eng_grammar *g;
    const cJSON *root;
    int any; /* node for any value, -1: not made yet */
    struct {
        const cJSON *at;
        int node;
    } definitions[MAX_DEFINITIONS]; /* a SAME node each; those from `done` on are still to be read
                                     */
    int n_definitions, done;
    const char *field;
    srv_problem *p;
} schema;

static int read_schema(schema *s, const cJSON *v);

/* `word`: a keyword, or NULL. */
static int refuse(schema *s, const char *word, const char *why) {
    srv_refuse(s->p, SRV_ERR_SCHEMA, s->field);
    snprintf(s->p->text, sizeof s->p->text, "schema: %.40s%s%.100s", word ? word : "",
             word ? ": " : "", why);
    return -1;
}

static int too_large(schema *s) {
    return refuse(s, NULL, "it has too many values, properties or alternatives.");
}

static const cJSON *get(const cJSON *v, const char *name) {
    return cJSON_GetObjectItemCaseSensitive(v, name);
}

static int keyword_of(const char *name) {
    for (size_t i = 0; i < sizeof keywords / sizeof keywords[0]; i++)
        if (strcmp(keywords[i].name, name) == 0)
            return keywords[i].of;
    return 0;
}

/* ---- scalars ---- */

static int add_literal(schema *s, int node, const cJSON *v) {
    srv_buf b = {0};
    if (cJSON_IsString(v))
        srv_json_string(&b, v->valuestring, strlen(v->valuestring));
    else if (cJSON_IsNumber(v) && trunc(v->valuedouble) == v->valuedouble &&
             fabs(v->valuedouble) <= 9007199254740991.0)
        srv_json_int(&b, (int64_t)v->valuedouble);
    else if (cJSON_IsNumber(v))
        srv_json_double(&b, v->valuedouble);
    else if (cJSON_IsBool(v) || cJSON_IsNull(v))
        srv_buf_puts(&b, cJSON_IsNull(v) ? "null" : cJSON_IsTrue(v) ? "true" : "false");
    else
        return refuse(s, "enum", "only strings, numbers, true, false and null.");
    bool ok = !b.failed && eng_grammar_literal(s->g, node, b.data, b.len);
    srv_buf_free(&b);
    return ok ? node : too_large(s);
}

static int read_values(schema *s, const cJSON *v) {
    const cJSON *list = get(v, "enum"), *one = get(v, "const"), *item;
    int node = eng_grammar_node(s->g, ENG_G_LITERAL);
    if (node < 0)
        return too_large(s);
    if (one && list)
        return refuse(s, "const", "not beside enum.");
    if (one)
        return add_literal(s, node, one);
    if (!cJSON_IsArray(list) || !list->child)
        return refuse(s, "enum", "must be an array with at least one value.");
    cJSON_ArrayForEach(item, list) {
        if (add_literal(s, node, item) < 0)
            return -1;
    }
    return node;
}

static int word_node(schema *s, const char *a, const char *b) {
    int node = eng_grammar_node(s->g, ENG_G_LITERAL);
    bool ok = node >= 0 && eng_grammar_literal(s->g, node, a, strlen(a)) &&
              (!b || eng_grammar_literal(s->g, node, b, strlen(b)));
    return ok ? node : too_large(s);
}

/* A count such as maxItems; `otherwise` where it is not given. False: refused. */
static bool count_of(schema *s, const cJSON *v, const char *name, uint32_t otherwise,
                     uint32_t *out) {
    const cJSON *n = get(v, name);
    *out = otherwise;
    if (!n)
        return true;
    if (!cJSON_IsNumber(n) || n->valuedouble < 0 || n->valuedouble > 1e9 ||
        trunc(n->valuedouble) != n->valuedouble) {
        refuse(s, name, "must be an integer of 0 to 1000000000.");
        return false;
    }
    *out = (uint32_t)n->valuedouble;
    return true;
}

static bool read_bounds(schema *s, int node, const cJSON *v, const char *min_name,
                        const char *max_name) {
    uint32_t min, max;
    if (!count_of(s, v, min_name, 0, &min) || !count_of(s, v, max_name, ENG_GRAMMAR_NO_MAX, &max))
        return false;
    if (eng_grammar_bounds(s->g, node, min, max))
        return true;
    refuse(s, min_name, "is above its maximum.");
    return false;
}

/* ---- containers ---- */

static int any_node(schema *s) {
    if (s->any < 0)
        s->any = eng_grammar_node(s->g, ENG_G_ANY);
    return s->any < 0 ? too_large(s) : s->any;
}

static bool is_required(const cJSON *required, const char *name) {
    const cJSON *item;
    cJSON_ArrayForEach(item, required) {
        if (cJSON_IsString(item) && strcmp(item->valuestring, name) == 0)
            return true;
    }
    return false;
}

static int check_required(schema *s, const cJSON *required, const cJSON *properties) {
    const cJSON *item;
    if (required && !cJSON_IsArray(required))
        return refuse(s, "required", "must be an array of names.");
    cJSON_ArrayForEach(item, required) {
        if (!cJSON_IsString(item))
            return refuse(s, "required", "must be an array of names.");
        if (!get(properties, item->valuestring))
            return refuse(s, "required", "names a property that is not declared.");
    }
    return 0;
}

static int add_property(schema *s, int node, const cJSON *property, bool required) {
    srv_buf key = {0};
    int value = read_schema(s, property);
    if (value < 0)
        return -1;
    srv_json_string(&key, property->string, strlen(property->string));
    bool ok = !key.failed && eng_grammar_property(s->g, node, key.data, key.len, value, required);
    srv_buf_free(&key);
    return ok ? node : too_large(s);
}

/* Without properties, additionalProperties says what the values of any keys are. */
static int read_map(schema *s, const cJSON *more) {
    int node = eng_grammar_node(s->g, cJSON_IsFalse(more) ? ENG_G_OBJECT : ENG_G_MAP);
    if (node < 0)
        return too_large(s);
    if (cJSON_IsFalse(more))
        return node;
    int item = more ? read_schema(s, more) : any_node(s);
    return item >= 0 && eng_grammar_item(s->g, node, item) ? node : -1;
}

static int read_object(schema *s, const cJSON *v) {
    const cJSON *properties = get(v, "properties"), *required = get(v, "required"), *item;
    const cJSON *more = get(v, "additionalProperties");
    if (properties && !cJSON_IsObject(properties))
        return refuse(s, "properties", "must be an object.");
    if (more && !cJSON_IsBool(more) && !cJSON_IsObject(more))
        return refuse(s, "additionalProperties", "must be a schema.");
    if (check_required(s, required, properties) < 0)
        return -1;
    if (!properties || !properties->child)
        return read_map(s, more);
    int node = eng_grammar_node(s->g, ENG_G_OBJECT);
    if (node < 0)
        return too_large(s);
    cJSON_ArrayForEach(item, properties) {
        if (add_property(s, node, item, is_required(required, item->string)) < 0)
            return -1;
    }
    return node;
}

static int read_array(schema *s, const cJSON *v) {
    const cJSON *items = get(v, "items");
    int node = eng_grammar_node(s->g, ENG_G_ARRAY);
    if (node < 0)
        return too_large(s);
    int item = items ? read_schema(s, items) : any_node(s);
    if (item < 0 || !read_bounds(s, node, v, "minItems", "maxItems"))
        return -1;
    eng_grammar_item(s->g, node, item);
    return node;
}

/* ---- types and alternatives ---- */

static int read_string(schema *s, const cJSON *v) {
    int node = eng_grammar_node(s->g, ENG_G_STRING);
    if (node < 0)
        return too_large(s);
    return read_bounds(s, node, v, "minLength", "maxLength") ? node : -1;
}

static int plain_node(schema *s, eng_gkind kind) {
    int node = eng_grammar_node(s->g, kind);
    return node < 0 ? too_large(s) : node;
}

static int read_type(schema *s, const cJSON *v, const char *type) {
    if (strcmp(type, "object") == 0)
        return read_object(s, v);
    if (strcmp(type, "array") == 0)
        return read_array(s, v);
    if (strcmp(type, "string") == 0)
        return read_string(s, v);
    if (strcmp(type, "number") == 0)
        return plain_node(s, ENG_G_NUMBER);
    if (strcmp(type, "integer") == 0)
        return plain_node(s, ENG_G_INTEGER);
    if (strcmp(type, "boolean") == 0)
        return word_node(s, "true", "false");
    if (strcmp(type, "null") == 0)
        return word_node(s, "null", NULL);
    return refuse(s, "type", "must be object, array, string, number, integer, boolean or null.");
}

static int read_types(schema *s, const cJSON *v, const cJSON *types) {
    const cJSON *item;
    if (cJSON_IsString(types))
        return read_type(s, v, types->valuestring);
    if (!cJSON_IsArray(types) || !types->child)
        return refuse(s, "type", "must be a name, or an array of names.");
    int node = eng_grammar_node(s->g, ENG_G_CHOICE);
    if (node < 0)
        return too_large(s);
    cJSON_ArrayForEach(item, types) {
        int one = cJSON_IsString(item) ? read_type(s, v, item->valuestring)
                                       : refuse(s, "type", "must be an array of names.");
        if (one < 0)
            return -1;
        if (!eng_grammar_alternative(s->g, node, one))
            return too_large(s);
    }
    return node;
}

/* Are all alternatives plain constants? Then they are one enum, and may begin alike. */
static bool all_values(const cJSON *list) {
    const cJSON *item, *k;
    cJSON_ArrayForEach(item, list) {
        if (!get(item, "const") && !get(item, "enum"))
            return false;
        cJSON_ArrayForEach(k, item) {
            if (!(keyword_of(k->string) & (K_VALUE | K_NOTE | K_TYPE)))
                return false;
        }
    }
    return true;
}

static int merge_values(schema *s, const cJSON *list) {
    const cJSON *item, *value;
    int node = eng_grammar_node(s->g, ENG_G_LITERAL);
    if (node < 0)
        return too_large(s);
    cJSON_ArrayForEach(item, list) {
        if (get(item, "const") && add_literal(s, node, get(item, "const")) < 0)
            return -1;
        cJSON_ArrayForEach(value, get(item, "enum")) {
            if (add_literal(s, node, value) < 0)
                return -1;
        }
    }
    return node;
}

static int read_alternatives(schema *s, const char *word, const cJSON *list) {
    const cJSON *item;
    if (!cJSON_IsArray(list) || !list->child)
        return refuse(s, word, "must be an array with at least one schema.");
    if (!list->child->next)
        return read_schema(s, list->child);
    if (strcmp(word, "allOf") == 0)
        return refuse(s, word, "only of one schema.");
    if (all_values(list))
        return merge_values(s, list);
    int node = eng_grammar_node(s->g, ENG_G_CHOICE);
    if (node < 0)
        return too_large(s);
    cJSON_ArrayForEach(item, list) {
        int one = read_schema(s, item);
        if (one < 0)
            return -1;
        if (!eng_grammar_alternative(s->g, node, one))
            return too_large(s);
    }
    return node;
}

/* ---- references ---- */

/* "#", "#/$defs/NAME" or "#/definitions/NAME". */
static const cJSON *target_of(const schema *s, const char *ref) {
    static const char *const places[] = {"$defs", "definitions"};
    if (strcmp(ref, "#") == 0)
        return s->root;
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        size_t n = strlen(places[i]);
        if (strncmp(ref, "#/", 2) == 0 && strncmp(ref + 2, places[i], n) == 0 && ref[2 + n] == '/')
            return get(get(s->root, places[i]), ref + 3 + n);
    }
    return NULL;
}

static int read_reference(schema *s, const cJSON *v) {
    const cJSON *at = cJSON_IsString(v) ? target_of(s, v->valuestring) : NULL;
    if (!at)
        return refuse(s, "$ref", "must lead to #, #/$defs/NAME or #/definitions/NAME.");
    for (int i = 0; i < s->n_definitions; i++)
        if (s->definitions[i].at == at)
            return s->definitions[i].node;
    int node = eng_grammar_node(s->g, ENG_G_SAME);
    if (node < 0 || s->n_definitions == MAX_DEFINITIONS)
        return too_large(s);
    s->definitions[s->n_definitions].at = at;
    s->definitions[s->n_definitions++].node = node;
    return node;
}

static int read_definitions(schema *s) {
    for (; s->done < s->n_definitions; s->done++) {
        int node = read_schema(s, s->definitions[s->done].at);
        if (node < 0)
            return -1;
        eng_grammar_item(s->g, s->definitions[s->done].node, node);
    }
    return 0;
}

/* ---- a schema ---- */

/* The only keyword of K_OTHER, if there is one. */
static int read_other(schema *s, const cJSON *v, int others) {
    static const char *const words[] = {"anyOf", "oneOf", "allOf"};
    if (others > 1)
        return refuse(s, NULL, "anyOf, oneOf, allOf and $ref only one at a time.");
    if (get(v, "$ref"))
        return read_reference(s, get(v, "$ref"));
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (get(v, words[i]))
            return read_alternatives(s, words[i], get(v, words[i]));
    return -1;
}

static int type_bits(const cJSON *types) {
    const cJSON *item;
    int bits = 0;
    if (cJSON_IsString(types))
        return strcmp(types->valuestring, "object") == 0   ? K_OBJECT
               : strcmp(types->valuestring, "array") == 0  ? K_ARRAY
               : strcmp(types->valuestring, "string") == 0 ? K_STRING
                                                           : 0;
    if (cJSON_IsArray(types))
        cJSON_ArrayForEach(item, types) bits |= type_bits(cJSON_IsString(item) ? item : NULL);
    return bits;
}

/* What kinds of keywords there are; negative: one that is not known. */
static int kinds_of(schema *s, const cJSON *v, int *others) {
    const cJSON *k;
    int kinds = 0;
    *others = 0;
    cJSON_ArrayForEach(k, v) {
        int kind = keyword_of(k->string);
        if (!kind)
            return refuse(s, k->string, "not supported.");
        kinds |= kind;
        *others += kind == K_OTHER;
    }
    return kinds & ~K_NOTE;
}

static int read_schema(schema *s, const cJSON *v) {
    int others, kinds;
    if (cJSON_IsTrue(v))
        return any_node(s);
    if (!cJSON_IsObject(v))
        return refuse(s, NULL, "must be an object, or true.");
    kinds = kinds_of(s, v, &others);
    if (kinds <= 0)
        return kinds < 0 ? -1 : any_node(s);
    const cJSON *types = get(v, "type");
    if (kinds & K_OTHER)
        return kinds == K_OTHER ? read_other(s, v, others)
                                : refuse(s, NULL, "anyOf, oneOf, allOf and $ref stand alone.");
    if (kinds & K_VALUE) /* a type beside it says nothing new when the values fit it */
        return (kinds & ~(K_VALUE | K_TYPE)) == 0 ? read_values(s, v)
                                                  : refuse(s, NULL, "enum and const stand alone.");
    int shape = kinds & (K_OBJECT | K_ARRAY | K_STRING);
    if (types && (shape & ~type_bits(types)))
        return refuse(s, NULL, "a keyword does not belong to the type.");
    if (types)
        return read_types(s, v, types);
    return shape == K_OBJECT   ? read_object(s, v)
           : shape == K_ARRAY  ? read_array(s, v)
           : shape == K_STRING ? read_string(s, v)
                               : refuse(s, NULL, "needs a type.");
}

static int read_root(schema *s, const cJSON *v) {
    int root = read_schema(s, v);
    return root < 0 || read_definitions(s) < 0 ? -1 : root;
}

/* v NULL: any object. */
static bool compile(srv_reading *r, const char *field, const cJSON *v) {
    schema s = {.root = v, .any = -1, .field = field, .p = r->p};
    tnl_error err = {0};
    s.g = eng_grammar_new();
    if (!s.g)
        return srv_refuse(r->p, SRV_ERR_NOMEM, NULL);
    int root = v ? read_root(&s, v) : read_map(&s, NULL);
    bool ok = root >= 0 && eng_grammar_finish(s.g, root, &err) == TNL_OK;
    if (root >= 0 && !ok)
        refuse(&s, NULL, err.msg);
    if (ok)
        r->g->grammar = s.g;
    else
        eng_grammar_unref(s.g);
    return ok;
}

static bool only_keys(srv_reading *r, const cJSON *v, const char *const *names) {
    const cJSON *item;
    cJSON_ArrayForEach(item, v) {
        bool known = false;
        for (int i = 0; names[i]; i++)
            known |= strcmp(item->string, names[i]) == 0;
        if (!known)
            return srv_refuse(r->p, SRV_ERR_UNSUPPORTED, item->string);
    }
    return true;
}

/* {"name": .., "schema": ..} */
static bool named_schema(srv_reading *r, const srv_field *f, const cJSON *v) {
    static const char *const names[] = {"name", "description", "schema", "strict", NULL};
    const cJSON *inner = get(v, "schema");
    if (!cJSON_IsObject(v) || !inner)
        return srv_json_refuse(r->p, SRV_ERR_INVALID_TYPE, f);
    return only_keys(r, v, names) && compile(r, f->name, inner);
}

bool srv_json_format(srv_reading *r, const srv_field *f, const cJSON *v) {
    static const char *const names[] = {"type", "json_schema", "schema", NULL};
    const cJSON *type = get(v, "type");
    if (!cJSON_IsObject(v) || !cJSON_IsString(type))
        return srv_json_refuse(r->p, SRV_ERR_INVALID_TYPE, f);
    if (!only_keys(r, v, names))
        return false;
    if (strcmp(type->valuestring, "text") == 0)
        return true;
    if (strcmp(type->valuestring, "json_object") == 0)
        return compile(r, f->name, get(v, "schema"));
    if (strcmp(type->valuestring, "json_schema") == 0)
        return named_schema(r, f, get(v, "json_schema"));
    return srv_json_refuse(r->p, SRV_ERR_OUT_OF_RANGE, f);
}

bool srv_json_grammar(srv_reading *r, const srv_field *f, const cJSON *v) {
    static const char *const names[] = {"type", "value", NULL};
    const cJSON *type = get(v, "type"), *value = get(v, "value");
    if (!cJSON_IsObject(v) || !cJSON_IsString(type) || !cJSON_IsObject(value))
        return srv_json_refuse(r->p, SRV_ERR_INVALID_TYPE, f);
    if (!only_keys(r, v, names))
        return false;
    if (strcmp(type->valuestring, "json") == 0)
        return compile(r, f->name, value);
    if (strcmp(type->valuestring, "json_schema") == 0)
        return named_schema(r, f, value);
    return srv_json_refuse(r->p, SRV_ERR_OUT_OF_RANGE, f);
}
