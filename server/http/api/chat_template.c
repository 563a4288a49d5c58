/* The rows of chat templates, and the one routine that writes a conversation by a row. */
#include "server/http/api/chat_template.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/sha256.h"
#include "server/http/api/text.h"

/* In a row's texts: where the model's begin- and end-of-sequence tokens stand. */
#define BOS "\1"
#define EOS "\2"

enum { MAX_MARKS = 5, MAX_KNOWN = 5 };

struct srv_chat_template {
    const char *name;
    const char *begin;
    const char *system[2], *user[2], *assistant[2]; /* before and after */
    const char *reply;                              /* where the answer begins */
    const char *between;                            /* two messages */
    bool system_inside; /* the system message goes into the first user message */
    bool alternate;     /* user and assistant take turns, the user begins and ends */
    bool strip;         /* white space around a message is dropped */
    const char *stop;
    const char *marks[MAX_MARKS]; /* ids rather than text, where the vocabulary has them */
    const char *known[MAX_KNOWN]; /* SHA-256 of Jinja texts that say the same */
};

static const srv_chat_template rows[] = {
    {.name = "plain",
     .system = {"", ""},
     .user = {"", ""},
     .assistant = {"", ""},
     .between = "\n\n"},
    /* What the fine-tuning script of TransNormerLLM trains on. */
    {.name = "transnormer",
     .system = {"", "\n"},
     .user = {"Human:\n", "\n"},
     .assistant = {"Assistant:\n", EOS},
     .reply = "Assistant:\n"},
    {.name = "chatml",
     .system = {"<|im_start|>system\n", "<|im_end|>\n"},
     .user = {"<|im_start|>user\n", "<|im_end|>\n"},
     .assistant = {"<|im_start|>assistant\n", "<|im_end|>\n"},
     .reply = "<|im_start|>assistant\n",
     .stop = "<|im_end|>",
     .marks = {"<|im_start|>", "<|im_end|>"},
     .known = {"153280e3ff55d19da1398bdb3914ee2a51b80429bfaedde11d7d216c39db80f3",
               "fcf7a096fe99a48fd9ad2b250bf9237e96e8f48bffec1c7ea4d3f225176cd40e",
               "58c1a1f04baa7adaeaba1f90267c3d57d9396f0c1f0129bdde9e76d3c6784af7",
               "d7b5b8c7b58f7a6bf868aa46a5f73ee976d7292f40fcb9c3e7a1defd8d235cfb"}},
    {.name = "llama-2",
     .system = {"<<SYS>>\n", "\n<</SYS>>\n\n"},
     .user = {BOS "[INST] ", " [/INST]"},
     .assistant = {" ", " " EOS},
     .system_inside = true,
     .alternate = true,
     .strip = true,
     .known = {"1623de5159d584da0b6c78f86ae57b2328746122f2c58446ab7f84bce8c7c57f",
               "e8d5b5a546d3f19df16a5320c614fab05bdc4edd50e850f1afd947b503ea41cf",
               "17b9854f459dd1e767c9a01a117f61fc1ddf30ca7e5fdd450e4ea20933f7933c",
               "9780fae5bfea3cfd7be37d328c6edfd296a8869be8131495bbe7eb37e780c88c"}},
    {.name = "llama-3",
     .begin = BOS,
     .system = {"<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>"},
     .user = {"<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"},
     .assistant = {"<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"},
     .reply = "<|start_header_id|>assistant<|end_header_id|>\n\n",
     .strip = true,
     .stop = "<|eot_id|>",
     .marks = {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"}},
    {.name = "zephyr",
     .system = {"<|system|>\n", EOS "\n"},
     .user = {"<|user|>\n", EOS "\n"},
     .assistant = {"<|assistant|>\n", EOS "\n"},
     .reply = "<|assistant|>\n",
     .known = {"66291cf0045c2425a3a667cf3cbb7af2b11f09e025c02f97245323ab79119362"}},
    {.name = "vicuna",
     .system = {"", "\n\n"},
     .user = {"USER: ", "\n"},
     .assistant = {"ASSISTANT: ", EOS "\n"},
     .reply = "ASSISTANT:"},
    {.name = "alpaca",
     .system = {"", "\n\n"},
     .user = {"### Instruction:\n", "\n\n"},
     .assistant = {"### Response:\n", EOS "\n\n"},
     .reply = "### Response:\n",
     .stop = "### Instruction:"},
};

const srv_chat_template *srv_chat_find(const char *name) {
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (!name || strcmp(rows[i].name, name) == 0)
            return &rows[i];
    return NULL;
}

const char *srv_chat_name(const srv_chat_template *t) {
    return t->name;
}

void srv_chat_names(char *out, size_t cap) {
    size_t at = 0;
    out[0] = 0;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0] && at < cap; i++)
        at += (size_t)snprintf(out + at, cap - at, "%s%s", i ? ", " : "", rows[i].name);
}

const srv_chat_template *srv_chat_recognise(const char *jinja, size_t n) {
    uint8_t digest[TNL_SHA256_BYTES];
    char hex[2 * TNL_SHA256_BYTES + 1];
    tnl_sha256_of(digest, jinja, n);
    for (size_t i = 0; i < sizeof digest; i++)
        snprintf(hex + 2 * i, 3, "%02x", digest[i]);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        for (int k = 0; k < MAX_KNOWN && rows[i].known[k]; k++)
            if (strcmp(rows[i].known[k], hex) == 0)
                return &rows[i];
    return NULL;
}

tnl_status srv_chat_choose(const srv_chat_template **out, const char *name, const char *dir,
                           tnl_error *err) {
    char names[128], *jinja = NULL;
    srv_chat_names(names, sizeof names);
    *out = srv_chat_find(name);
    if (name)
        return *out ? TNL_OK
                    : tnl_fail(err, TNL_E_USAGE, "--chat-template %.40s: unknown; one of %s", name,
                               names);
    TNL_TRY(srv_chat_read(&jinja, dir, err));
    if (!jinja)
        return TNL_OK;
    *out = srv_chat_recognise(jinja, strlen(jinja));
    free(jinja);
    if (*out)
        return TNL_OK;
    return tnl_fail(err, TNL_E_DATA,
                    "tokenizer_config.json: chat_template is not one we know; choose with "
                    "--chat-template: %s",
                    names);
}

/* ---- writing ---- */

typedef struct writer {
    const srv_chat_template *t;
    const tok_model *tok;
    const mdl_spec *spec;
    int32_t mark_id[MAX_MARKS]; /* -1: text */
    srv_buf run;                /* text not yet encoded */
    srv_prompt *out;
    size_t cap;
    srv_problem *p;
} writer;

static bool add_ids(writer *w, const int32_t *ids, size_t n) {
    srv_prompt *to = w->out;
    if (to->n_ids + n > w->cap) {
        size_t cap = 2 * (to->n_ids + n);
        int32_t *grown = realloc(to->ids, cap * sizeof *grown);
        if (!grown)
            return srv_refuse(w->p, SRV_ERR_NOMEM, NULL);
        to->ids = grown;
        w->cap = cap;
    }
    memcpy(to->ids + to->n_ids, ids, n * sizeof *ids);
    to->n_ids += n;
    return true;
}

/* Text between two marks is encoded as one piece of text. */
static bool flush(writer *w) {
    int32_t *ids = NULL;
    size_t n = 0;
    tnl_error err = {0};
    if (w->run.failed)
        return srv_refuse(w->p, SRV_ERR_NOMEM, NULL);
    if (w->run.len == 0)
        return true;
    tnl_status s = srv_text_encode(w->tok, NULL, w->run.data, w->run.len, &ids, &n, &err);
    srv_buf_clear(&w->run);
    if (s != TNL_OK)
        return srv_refuse(w->p,
                          s == TNL_E_UNSUPPORTED ? SRV_ERR_NO_TOKENIZER
                          : s == TNL_E_NOMEM     ? SRV_ERR_NOMEM
                                                 : SRV_ERR_TEXT_REFUSED,
                          "messages");
    bool ok = n == 0 || add_ids(w, ids, n);
    free(ids);
    return ok;
}

static bool put_id(writer *w, int32_t id) {
    return id < 0 || (flush(w) && add_ids(w, &id, 1));
}

static int32_t eos_of(const writer *w) {
    return w->spec->eos_id >= 0 ? w->spec->eos_id : srv_text_eos(w->tok);
}

/* Length of the mark that begins at s, its id in *id; 0: none. */
static size_t mark_at(const writer *w, const char *s, int32_t *id) {
    for (int i = 0; i < MAX_MARKS && w->t->marks[i]; i++) {
        size_t n = strlen(w->t->marks[i]);
        *id = w->mark_id[i];
        if (*id >= 0 && strncmp(s, w->t->marks[i], n) == 0)
            return n;
    }
    return 0;
}

/* A text of the row. */
static bool put_row(writer *w, const char *s) {
    for (; s && *s; s++) {
        int32_t id;
        size_t n = mark_at(w, s, &id);
        bool ok = true;
        if (*s == *BOS)
            ok = put_id(w, w->spec->bos_id);
        else if (*s == *EOS)
            ok = put_id(w, eos_of(w));
        else if (n)
            ok = put_id(w, id);
        else
            srv_buf_put(&w->run, s, 1);
        if (!ok)
            return false;
        s += n ? n - 1 : 0;
    }
    return true;
}

static bool is_space(char c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static void put_text(writer *w, const srv_message *m) {
    const char *s = m->text;
    size_t n = m->text_len;
    while (w->t->strip && n && is_space(s[0]))
        s++, n--;
    while (w->t->strip && n && is_space(s[n - 1]))
        n--;
    srv_buf_put(&w->run, s, n);
}

static const char *const *around_of(const srv_chat_template *t, srv_role role) {
    return role == SRV_ROLE_SYSTEM ? t->system : role == SRV_ROLE_USER ? t->user : t->assistant;
}

/* `opened`: what stands before a message of this role is there already. */
static bool put_message(writer *w, const srv_message *system, const srv_message *m, bool opened) {
    const srv_chat_template *t = w->t;
    const char *const *around = around_of(t, m->role);
    if (!opened && !put_row(w, around[0]))
        return false;
    if (system) {
        if (!put_row(w, t->system[0]))
            return false;
        srv_buf_put(&w->run, system->text, system->text_len);
        if (!put_row(w, t->system[1]))
            return false;
    }
    put_text(w, m);
    return put_row(w, around[1]);
}

static bool refuse(srv_problem *p, const char *why) {
    srv_refuse(p, SRV_ERR_TEMPLATE, "messages");
    snprintf(p->text, sizeof p->text, "The chat template cannot express this: %s.", why);
    return false;
}

/* Only what the row can express without guessing. */
static bool check(const srv_chat_template *t, const srv_message *m, size_t n, srv_problem *p) {
    size_t first = t->system_inside && m[0].role == SRV_ROLE_SYSTEM;
    for (size_t i = first; i < n; i++) {
        srv_role want = (i - first) % 2 ? SRV_ROLE_ASSISTANT : SRV_ROLE_USER;
        if (t->alternate && m[i].role != want)
            return refuse(p, "after an optional system message, user and assistant take turns");
    }
    if (t->alternate && (n - first) % 2 == 0)
        return refuse(p, "the last message is the user's");
    return true;
}

static bool put_all(writer *w, const srv_message *m, size_t n) {
    const srv_chat_template *t = w->t;
    size_t first = t->system_inside && m[0].role == SRV_ROLE_SYSTEM;
    bool begins = t->begin || (t->user[0] && t->user[0][0] == *BOS);
    if (!begins && w->spec->add_bos && !put_id(w, w->spec->bos_id))
        return false;
    if (!put_row(w, t->begin))
        return false;
    for (size_t i = first; i < n; i++) {
        if (i > first && !put_row(w, t->between))
            return false;
        if (!put_message(w, first && i == first ? m : NULL, &m[i], false))
            return false;
    }
    return put_row(w, t->reply) && flush(w);
}

/* ---- going on ---- */

/* Where in `row` the id `last` has been said: behind it; 0: nowhere. */
static size_t said_by_id(const writer *w, const char *row, int32_t last) {
    for (size_t i = 0; row[i]; i++) {
        int32_t id;
        size_t n = mark_at(w, row + i, &id);
        if (row[i] == *EOS && last == eos_of(w))
            return i + 1;
        if (n && id == last)
            return i + n;
        i += n ? n - 1 : 0;
    }
    return 0;
}

/* The same for a stop string that the model wrote out. */
static bool ends_with_stop(const writer *w, const int32_t *past, size_t n_past) {
    char *text = NULL;
    size_t n = 0, k = strlen(w->t->stop);
    tnl_error err;
    if (srv_text_decode(w->tok, past, n_past, &text, &n, &err) != TNL_OK)
        return false;
    bool ends = n >= k && memcmp(text + n - k, w->t->stop, k) == 0;
    free(text);
    return ends;
}

/* What stands between an answer and the next message, without what the text ends with. */
static bool put_glue(writer *w, const int32_t *past, size_t n_past, const srv_message *next) {
    const srv_chat_template *t = w->t;
    srv_buf glue = {0};
    size_t said = n_past == 0 ? 0 : said_by_id(w, t->assistant[1], past[n_past - 1]);
    srv_buf_puts(&glue, t->assistant[1]);
    srv_buf_puts(&glue, t->between ? t->between : "");
    srv_buf_puts(&glue, around_of(t, next->role)[0]);
    srv_buf_put(&glue, "", 1);
    if (glue.failed) {
        srv_buf_free(&glue);
        return srv_refuse(w->p, SRV_ERR_NOMEM, NULL);
    }
    const char *stop = said == 0 && t->stop ? strstr(glue.data, t->stop) : NULL;
    if (stop && ends_with_stop(w, past, n_past))
        said = (size_t)(stop - glue.data) + strlen(t->stop);
    bool ok = put_row(w, glue.data + said);
    srv_buf_free(&glue);
    return ok;
}

static bool put_more(writer *w, const int32_t *past, size_t n_past, const srv_message *m,
                     size_t n) {
    const srv_chat_template *t = w->t;
    if (!put_glue(w, past, n_past, &m[0]))
        return false;
    for (size_t i = 0; i < n; i++) {
        if (i > 0 && !put_row(w, t->between))
            return false;
        if (!put_message(w, NULL, &m[i], i == 0))
            return false;
    }
    return put_row(w, t->reply) && flush(w);
}

static void find_marks(writer *w) {
    for (int i = 0; i < MAX_MARKS && w->t->marks[i]; i++)
        w->mark_id[i] = srv_text_find(w->tok, w->t->marks[i]);
}

bool srv_chat_more(srv_prompt *out, const srv_chat_template *t, const int32_t *past, size_t n_past,
                   const srv_message *m, size_t n, const tok_model *tok, const mdl_spec *spec,
                   srv_problem *p) {
    writer w = {.t = t ? t : &rows[0], .tok = tok, .spec = spec, .out = out, .p = p};
    size_t from = n_past > SRV_CHAT_PAST ? n_past - SRV_CHAT_PAST : 0;
    if (w.t->system_inside && m[0].role == SRV_ROLE_SYSTEM)
        return refuse(p, "a system message comes first or not at all");
    if (!check(w.t, m, n, p))
        return false;
    find_marks(&w);
    bool ok = put_more(&w, past + from, n_past - from, m, n);
    srv_buf_free(&w.run);
    return ok;
}

bool srv_chat_prompt(srv_prompt *out, const srv_chat_template *t, const srv_message *m, size_t n,
                     const tok_model *tok, const mdl_spec *spec, srv_problem *p) {
    writer w = {.t = t ? t : &rows[0], .tok = tok, .spec = spec, .out = out, .p = p};
    if (!check(w.t, m, n, p))
        return false;
    find_marks(&w);
    bool ok = put_all(&w, m, n);
    srv_buf_free(&w.run);
    return ok && (out->n_ids > 0 || srv_refuse(p, SRV_ERR_PROMPT_EMPTY, "messages"));
}

bool srv_chat_stops(eng_params *params, const srv_chat_template *t, const tok_model *tok,
                    srv_problem *p) {
    if (!t || !t->stop || !tok)
        return true;
    if (params->n_stop == ENG_MAX_STOP)
        return srv_refuse(p, SRV_ERR_OUT_OF_RANGE, "stop");
    memcpy(params->stop[params->n_stop++], t->stop, strlen(t->stop) + 1);
    return true;
}
