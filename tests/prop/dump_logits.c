/* Test tool: logits of every position of a token sequence, fed in slices of given sizes, and the
 * exported state at the end. Prints one JSON line about the model. The NumPy comparison
 * (tests/reference/test_logits.py) and whoever hunts a difference by hand use it.
 *
 *   dump_logits [-s N,N,..] [-t THREADS] [-w auto|f32|bf16|q8|q4|f8] [-c ISA] [-e STATE_OUT]
 *               MODEL_DIR TOKENS.i32 LOGITS.f32
 *
 * Tokens are raw int32, logits raw float32 [tokens][V]. The last slice size repeats. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/forward.h"

enum { MAX_SLICES = 4096 };

typedef struct dump_args {
    mdl_open_params open;
    const char *tokens_path, *logits_path, *state_path;
    int64_t slices[MAX_SLICES];
    int n_slices;
} dump_args;

static int usage(const char *what)
{
    fprintf(stderr, "dump_logits: %s\n", what);
    return 2;
}

static bool parse_slices(dump_args *a, const char *text)
{
    a->n_slices = 0;
    while (a->n_slices < MAX_SLICES) {
        char *end = NULL;
        errno = 0;
        long n = strtol(text, &end, 10);
        if (end == text || errno != 0 || n < 1)
            return false;
        a->slices[a->n_slices++] = n;
        if (*end == '\0')
            return true;
        if (*end != ',')
            return false;
        text = end + 1;
    }
    return false;
}

static bool parse_mode(dump_args *a, const char *text)
{
    for (int m = 0; m < MDL_W_MODE_COUNT; m++) {
        if (strcmp(text, mdl_weight_mode_names[m]) == 0) {
            a->open.weights = (mdl_weight_mode)m;
            return true;
        }
    }
    return false;
}

/* NULL when all is well, else what is wrong. */
static const char *parse_args(dump_args *a, int argc, char **argv)
{
    a->open.threads = 1;
    a->slices[0] = 1;
    a->n_slices = 1;
    for (int c; (c = getopt(argc, argv, "s:t:w:c:e:")) != -1;) {
        if (c == 's' && !parse_slices(a, optarg))
            return "-s needs sizes: 255,1";
        if (c == 't')
            a->open.threads = (int)strtol(optarg, NULL, 10);
        if (c == 'w' && !parse_mode(a, optarg))
            return "-w needs auto, f32 or bf16";
        if (c == 'c')
            a->open.isa = optarg;
        if (c == 'e')
            a->state_path = optarg;
        if (c == '?')
            return "unknown option";
    }
    if (argc - optind != 3)
        return "MODEL_DIR TOKENS LOGITS";
    a->open.dir = argv[optind];
    a->tokens_path = argv[optind + 1];
    a->logits_path = argv[optind + 2];
    return NULL;
}

/* Whole file of int32; *n elements. NULL on failure. */
static int32_t *read_tokens(const char *path, int64_t *n)
{
    FILE *f = fopen(path, "rb");
    if (!f)
        return NULL;
    int32_t *out = NULL;
    if (fseek(f, 0, SEEK_END) == 0) {
        long bytes = ftell(f);
        rewind(f);
        out = bytes >= 0 ? malloc((size_t)bytes + 1) : NULL;
        *n = bytes / (long)sizeof *out;
        if (out && fread(out, sizeof *out, (size_t)*n, f) != (size_t)*n) {
            free(out);
            out = NULL;
        }
    }
    fclose(f);
    return out;
}

static tnl_status feed(mdl_ctx *ctx, mdl_state *s, const dump_args *a, const int32_t *tokens,
                       int64_t n, int64_t vocab, FILE *out, tnl_error *err)
{
    int64_t done = 0;
    for (int i = 0; done < n; i++) {
        int64_t size = a->slices[i < a->n_slices ? i : a->n_slices - 1];
        int64_t len = size < n - done ? size : n - done;
        mdl_seg seg = {.state = s, .tokens = tokens + done, .n_tokens = len, .want = MDL_WANT_ALL};
        TNL_TRY(mdl_forward(ctx, &seg, 1, err));
        if (seg.nonfinite)
            return tnl_fail(err, TNL_E_NONFINITE, "non-finite output at token %" PRId64, done);
        size_t floats = (size_t)(len * vocab);
        if (fwrite(seg.logits, sizeof *seg.logits, floats, out) != floats)
            return tnl_fail(err, TNL_E_IO, "cannot write logits");
        done += len;
    }
    return TNL_OK;
}

static tnl_status dump_state(mdl_model *m, const mdl_state *s, const char *path, tnl_error *err)
{
    size_t n = mdl_state_export_bytes(m);
    void *buf = malloc(n);
    FILE *f = fopen(path, "wb");
    bool ok = buf && f;
    if (ok) {
        mdl_state_export(m, s, buf);
        ok = fwrite(buf, 1, n, f) == n;
    }
    if (f)
        ok = fclose(f) == 0 && ok;
    free(buf);
    return ok ? TNL_OK : tnl_fail(err, TNL_E_IO, "cannot write the state");
}

static int64_t largest_slice(const dump_args *a)
{
    int64_t most = 1;
    for (int i = 0; i < a->n_slices; i++)
        most = a->slices[i] > most ? a->slices[i] : most;
    return most;
}

static tnl_status dump(const dump_args *a, tnl_error *err)
{
    mdl_model *m = NULL;
    mdl_ctx *ctx = NULL;
    mdl_state *state = NULL;
    FILE *out = NULL;
    int64_t n = 0, most = largest_slice(a);
    int32_t *tokens = read_tokens(a->tokens_path, &n);
    tnl_status s = tokens ? TNL_OK : tnl_fail(err, TNL_E_NO_INPUT, "cannot read the tokens");
    if (s == TNL_OK)
        s = mdl_open(&m, &a->open, err);
    if (s == TNL_OK)
        s = mdl_ctx_open(&ctx, m, most, most, err);
    if (s == TNL_OK && !(state = mdl_state_new(m)))
        s = tnl_fail(err, TNL_E_NOMEM, "no memory for a state");
    if (s == TNL_OK && !(out = fopen(a->logits_path, "wb")))
        s = tnl_fail(err, TNL_E_IO, "cannot write logits");
    if (s == TNL_OK)
        s = feed(ctx, state, a, tokens, n, mdl_model_spec(m)->vocab, out, err);
    if (s == TNL_OK && a->state_path)
        s = dump_state(m, state, a->state_path, err);
    if (s == TNL_OK)
        printf("{\"block\":%d,\"vocab\":%" PRId64 ",\"isa\":\"%s\",\"arch\":\"%s\"}\n",
               mdl_model_backend(m)->block, mdl_model_spec(m)->vocab, mdl_model_backend(m)->isa,
               mdl_model_spec(m)->arch);
    if (out && fclose(out) != 0 && s == TNL_OK)
        s = tnl_fail(err, TNL_E_IO, "cannot write logits");
    if (m)
        mdl_state_free(m, state);
    mdl_ctx_close(ctx);
    mdl_close(m);
    free(tokens);
    return s;
}

int main(int argc, char **argv)
{
    dump_args *a = calloc(1, sizeof *a);
    const char *wrong = a ? parse_args(a, argc, argv) : "out of memory";
    int code = 0;
    if (wrong) {
        code = usage(wrong);
    } else {
        tnl_error err = {0};
        tnl_status s = dump(a, &err);
        if (s != TNL_OK) {
            fprintf(stderr, "%s\n", err.msg);
            code = tnl_status_exit_code(s);
        }
    }
    free(a);
    return code;
}
