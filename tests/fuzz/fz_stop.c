/* Stop strings: any strings, any text, any cuts; equal to a naive search of the whole text, and no
 * byte comes out before it may. */
#include <string.h>

#include "server/engine/stop.h"
#include "tests/fuzz/fuzz.h"

typedef struct input {
    const uint8_t *p;
    size_t n;
} input;

static unsigned take(input *in) {
    if (in->n == 0)
        return 0;
    in->n--;
    return *in->p++;
}

/* Bytes are folded onto a few letters so that matches happen. */
static char letter(unsigned byte, unsigned alphabet) {
    return (char)('a' + byte % alphabet);
}

static size_t naive(const eng_params *p, const char *text, size_t n, bool *found) {
    for (size_t end = 1; end <= n; end++) {
        size_t cut = 0;
        for (int i = 0; i < p->n_stop; i++) {
            size_t len = strlen(p->stop[i]);
            if (len <= end && len > cut && memcmp(text + end - len, p->stop[i], len) == 0)
                cut = len;
        }
        if (cut > 0) {
            *found = true;
            return end - cut;
        }
    }
    *found = false;
    return n;
}

static void check(const eng_params *p, const char *text, size_t n, unsigned cuts, char *out) {
    eng_stop s;
    bool any, found = false;
    size_t limit = naive(p, text, n, &any), n_out = 0;
    eng_stop_init(&s, p);
    for (size_t at = 0; at < n && !found;) {
        size_t len = 1 + (cuts = cuts * 1103515245u + 12345u) / 65536 % 7, got;
        len = len < n - at ? len : n - at;
        found = eng_stop_push(&s, text + at, len, out + n_out, &got);
        n_out += got;
        at += len;
        FUZZ_CHECK(n_out <= limit && s.n_held < ENG_MAX_STOP_BYTES);
    }
    n_out += eng_stop_flush(&s, out + n_out);
    FUZZ_CHECK(found == any && n_out == limit && memcmp(out, text, n_out) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    input in = {data, size};
    if (size < 4 || size > 4096)
        return 0;
    eng_params *p = calloc(1, sizeof *p);
    char *text = malloc(size + 1), *out = malloc(size + ENG_MAX_STOP_BYTES + 1);
    if (!p || !text || !out)
        abort();
    p->n_stop = 1 + (int)(take(&in) % ENG_MAX_STOP);
    unsigned alphabet = 1 + take(&in) % 6, cuts = take(&in);
    for (int i = 0; i < p->n_stop; i++) {
        unsigned len = take(&in);
        len = len < 240 ? 1 + len % 9 : 1 + len;
        for (unsigned k = 0; k < len; k++)
            p->stop[i][k] = letter(take(&in), alphabet);
    }
    size_t n = in.n;
    for (size_t i = 0; i < n; i++)
        text[i] = letter(take(&in), alphabet);
    check(p, text, n, cuts, out);
    free(p);
    free(text);
    free(out);
    return 0;
}
