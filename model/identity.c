/* The identity of a model, its weights included. Tensors are gigabytes, so their bytes go through
 * eight lanes at the pace of memory; what comes out, and all that is small, goes through SHA-256.
 */
#include <string.h>

#include "kernels/base/sha256.h"
#include "model/internal.h"

enum { LANES = 8 };

/* Each step of a lane is one to one in the word and in what the lane held: two runs of words that
 * differ in one of them end apart. */
static uint64_t step(uint64_t lane, uint64_t word) {
    uint64_t x = (lane ^ word) * UINT64_C(0x9e3779b97f4a7c15);
    return x << 29 | x >> 35;
}

static void mix_lanes(uint64_t lane[LANES], const unsigned char *p, size_t n) {
    uint64_t word[LANES];
    for (size_t at = 0; at + sizeof word <= n; at += sizeof word) {
        memcpy(word, p + at, sizeof word);
        for (int i = 0; i < LANES; i++)
            lane[i] = step(lane[i], word[i]);
    }
    size_t rest = n % sizeof word;
    if (rest == 0)
        return;
    memset(word, 0, sizeof word);
    memcpy(word, p + n - rest, rest);
    for (int i = 0; i < LANES; i++)
        lane[i] = step(lane[i], word[i]);
}

static void add_tensor(tnl_sha256 *s, const mdl_tensors *all, const mdl_tensor_view *t,
                       bool release) {
    uint64_t lane[LANES] = {1, 2, 3, 4, 5, 6, 7, 8};
    mix_lanes(lane, t->data, (size_t)t->bytes);
    if (release)
        mdl_tensors_release(all, t->data, t->bytes);
    tnl_sha256_add(s, t->name, strlen(t->name) + 1);
    tnl_sha256_add(s, &t->bytes, sizeof t->bytes);
    tnl_sha256_add(s, lane, sizeof lane);
}

void mdl_model_identity(const mdl_model *m, uint8_t out[MDL_IDENTITY_BYTES]) {
    tnl_sha256 s;
    tnl_sha256_begin(&s);
    tnl_sha256_add(&s, m->fingerprint, sizeof m->fingerprint);
    int64_t n = m->tensors ? mdl_tensors_count(m->tensors) : 0;
    for (int64_t i = 0; i < n; i++) {
        const mdl_tensor_view *t = mdl_tensors_at(m->tensors, i);
        /* packed or widened at load: the file's pages are not what the model reads */
        add_tensor(&s, m->tensors, t, m->weights.bytes_mapped == 0);
    }
    tnl_sha256_end(&s, out);
}
