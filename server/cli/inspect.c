/* tnl inspect: what a model folder holds and what it needs. Opening is validation, so a folder that
 * inspects without an error also serves. */
#include <inttypes.h>
#include <string.h>

#include "model/forward.h"
#include "server/cli/cli.h"
#include "server/engine/engine.h"

typedef struct settings {
    cli_model_opts model;
    bool json, tensors;
    int64_t parallel, step_tokens;
} settings;

#define AT(field) .offset = offsetof(settings, field)

static const cli_opt rows[] = {
    {.flag = "tensors", .type = CLI_BOOL, AT(tensors), .help = "list every tensor"},
    {.flag = "parallel",
     .type = CLI_INT,
     AT(parallel),
     .min = 1,
     .max = 4096,
     .dflt = "8",
     .arg = "N",
     .help = "sequences at once, for the memory needed"},
    {.flag = "step-tokens",
     .type = CLI_INT,
     AT(step_tokens),
     .min = 0,
     .max = 65536,
     .dflt = "0",
     .arg = "N",
     .help = "token budget of a step, for the memory needed; 0: 256, on a GPU 2048"},
    {.flag = "json", .type = CLI_BOOL, AT(json), .help = "one JSON object"},
    CLI_MODEL_ROWS(settings, model),
};

static const cli_spec spec = {
    .name = "tnl inspect",
    .args = "MODEL_DIR",
    .about = "Hyperparameters, tensors, parameter count, the constant bytes of state per sequence\n"
             "and the memory that serving needs. Every tensor is checked on the way.",
    .rows = rows,
    .n_rows = sizeof rows / sizeof rows[0],
    .min_args = 1,
    .max_args = 1,
    .examples = "  tnl inspect configs/tales\n  tnl inspect configs/tales --tensors --json\n",
};

/* ---- a report is rows of key and value, printed as a table or as JSON ---- */

typedef struct report {
    bool json;
    int n; /* rows so far */
} report;

static void put_key(report *r, const char *key) {
    if (r->json)
        printf("%s\"%s\":", r->n ? "," : "{", key);
    else
        printf("%-24s", key);
    r->n++;
}

static void put_int(report *r, const char *key, int64_t v) {
    put_key(r, key);
    printf(r->json ? "%" PRId64 : "%" PRId64 "\n", v);
}

static void put_real(report *r, const char *key, double v) {
    put_key(r, key);
    printf(r->json ? "%.7g" : "%.7g\n", v);
}

static void put_bool(report *r, const char *key, bool v) {
    put_key(r, key);
    fputs(r->json ? (v ? "true" : "false") : (v ? "yes\n" : "no\n"), stdout);
}

static void put_text(report *r, const char *key, const char *v) {
    put_key(r, key);
    if (r->json)
        cli_json_string(stdout, v, strlen(v));
    else
        puts(v);
}

/* Bytes, with a readable size beside them in the table. */
static void put_bytes(report *r, const char *key, uint64_t v) {
    if (r->json) {
        put_int(r, key, (int64_t)v);
        return;
    }
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double x = (double)v;
    int u = 0;
    for (; x >= 1024 && u < 4; u++)
        x /= 1024;
    put_key(r, key);
    printf("%" PRIu64, v);
    printf(u ? " (%.1f %s)\n" : "\n", x, units[u]);
}

/* ---- what is reported ---- */

static const char *const act_names[KN_ACT_COUNT] = {
    [KN_ACT_NONE] = "none", [KN_ACT_GELU] = "gelu",       [KN_ACT_RELU] = "relu",
    [KN_ACT_ELU] = "elu",   [KN_ACT_SIGMOID] = "sigmoid", [KN_ACT_EXP] = "exp",
    [KN_ACT_LEAK] = "leak", [KN_ACT_1PELU] = "1+elu",     [KN_ACT_2PELU] = "2+elu",
    [KN_ACT_SILU] = "silu", [KN_ACT_SINE] = "sine",
};

/* "0", "0 2 5", "none": the layers with LRPE. */
static void lrpe_layers(char *out, size_t cap, const mdl_spec *s) {
    size_t used = 0;
    snprintf(out, cap, "none");
    for (int i = 0; i < s->n_layers; i++) {
        if (!s->layers[i].lrpe || used + 12 > cap)
            continue;
        used += (size_t)snprintf(out + used, cap - used, "%s%d", used ? " " : "", i);
    }
}

static void put_spec(report *r, const mdl_spec *s) {
    char lrpe[256];
    const mdl_layer_spec *l = &s->layers[0];
    lrpe_layers(lrpe, sizeof lrpe, s);
    put_text(r, "architecture", s->arch);
    put_int(r, "layers", s->n_layers);
    put_int(r, "width", s->width);
    put_int(r, "heads", l->dims.H);
    put_int(r, "head_dim", l->head_dim);
    put_int(r, "hidden", s->hidden);
    put_int(r, "glu", l->glu);
    put_int(r, "vocab", s->vocab);
    put_text(r, "activation", act_names[l->act]);
    put_bool(r, "activation_on_v", l->act_on_v);
    put_text(r, "gate", l->gate == MDL_GATE_LINEAR ? "linear" : "low-rank sigmoid");
    put_int(r, "gate_rank", l->gate_rank);
    put_text(r, "lrpe_layers", lrpe);
    put_text(r, "norm", s->norm == MDL_NORM_SRMS ? "simplermsnorm" : "layernorm");
    put_real(r, "norm_eps", (double)s->norm_eps);
    put_real(r, "embed_scale", (double)s->embed_scale);
    put_bool(r, "bias", s->bias);
    put_bool(r, "tied_embeddings", s->tied);
    put_bool(r, "add_bos", s->add_bos);
    put_int(r, "bos_id", s->bos_id);
    put_int(r, "eos_id", s->eos_id);
    put_int(r, "pad_id", s->pad_id);
}

static void put_memory(report *r, const mdl_model *m, const settings *o) {
    const mdl_weights *w = mdl_model_weights(m);
    const mdl_tensors *t = mdl_model_tensors(m);
    kn_backend *be = mdl_model_backend(m);
    uint64_t state = mdl_state_bytes(m), n = (uint64_t)o->parallel;
    uint64_t mapped = mdl_tensors_file_bytes(t);
    uint64_t weights = w->bytes_mapped + w->bytes_owned;
    int64_t step = o->step_tokens ? o->step_tokens : eng_step_tokens(m, (int)o->parallel);
    uint64_t work = mdl_ctx_bytes(m, step, o->parallel);
    put_int(r, "parameters", (int64_t)w->params);
    put_text(r, "weights", kn_dtypes[w->dtype].name);
    put_bool(r, "quantized_folder", mdl_model_spec(m)->quantized);
    put_int(r, "tensors", mdl_tensors_count(t));
    put_bytes(r, "file_bytes", mapped);
    put_bytes(r, "weight_bytes_owned", w->bytes_owned);
    put_bytes(r, "weight_bytes_per_token", w->bytes_read_per_token);
    put_text(r, "kernels", be->isa);
    put_int(r, "block", be->block);
    put_bytes(r, "state_bytes", state);
    put_int(r, "parallel", o->parallel);
    put_bytes(r, "working_bytes", work);
    put_bytes(r, "memory_bytes", weights + n * state + work);
    put_text(r, "fingerprint", mdl_model_fingerprint(m));
}

static void shape_text(char *out, size_t cap, const mdl_tensor_view *v) {
    size_t used = 0;
    out[0] = 0;
    for (int i = 0; i < v->rank; i++)
        used += (size_t)snprintf(out + used, cap - used, "%s%" PRId64, i ? "," : "", v->dims[i]);
}

static void put_tensor(bool json, int64_t i, const mdl_tensor_view *v) {
    char shape[MDL_MAX_RANK * 21 + 1];
    const bool packed = v->dtype >= KN_PLAIN_COUNT;
    const char *type = packed ? kn_dtypes[v->dtype].name : kn_dtypes[v->dtype].st_name;
    shape_text(shape, sizeof shape, v);
    if (!json) {
        printf("%-5s %12" PRIu64 "  [%s]  %s  %s\n", type, v->bytes, shape, v->name, v->file);
        return;
    }
    fputs(i ? ",{\"name\":" : "{\"name\":", stdout);
    cli_json_string(stdout, v->name, strlen(v->name));
    printf(",\"dtype\":\"%s\",\"shape\":[%s],\"bytes\":%" PRIu64 ",\"offset\":%" PRIu64
           ",\"file\":",
           type, shape, v->bytes, v->file_offset);
    cli_json_string(stdout, v->file, strlen(v->file));
    putchar('}');
}

static void put_tensors(report *r, const mdl_tensors *t) {
    if (r->json)
        fputs(",\"tensor_list\":[", stdout);
    else
        putchar('\n');
    for (int64_t i = 0; i < mdl_tensors_count(t); i++)
        put_tensor(r->json, i, mdl_tensors_at(t, i));
    if (r->json)
        putchar(']');
}

/* The tokenizer, if there is one, must fit the model; a folder without one is fine. */
static tnl_status check_tokenizer(report *r, const char *dir, const mdl_model *m, tnl_error *err) {
    const tok_model *t = NULL;
    tnl_status s = cli_open_tokenizer(&t, dir, m, err);
    if (s != TNL_OK && s != TNL_E_NO_INPUT && s != TNL_E_UNSUPPORTED)
        return s;
    cli_close_tokenizer(t);
    put_text(r, "tokenizer",
             s == TNL_OK           ? "sentencepiece"
             : s == TNL_E_NO_INPUT ? "none"
                                   : "not in this build");
    return TNL_OK;
}

int cli_inspect(int argc, char **argv) {
    settings o;
    cli_args a;
    int code;
    if (cli_begin(&a, &spec, &o, argc, argv, &code)) {
        tnl_error err = {0};
        mdl_model *m = NULL;
        report r = {.json = o.json};
        tnl_status s = cli_open_model(&m, &o.model, a.v[0], &err);
        if (s == TNL_OK)
            s = check_tokenizer(&r, a.v[0], m, &err);
        if (s == TNL_OK) {
            put_spec(&r, mdl_model_spec(m));
            put_memory(&r, m, &o);
            if (o.tensors)
                put_tensors(&r, mdl_model_tensors(m));
            if (o.json)
                puts("}");
        } else {
            code = cli_report(&spec, s, &err);
        }
        mdl_close(m);
    }
    cli_args_clear(&a);
    return code;
}
