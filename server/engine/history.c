/* Which tokens a sequence holds: see eng_history in sampler.h. */
#include <stdlib.h>
#include <string.h>

#include "server/engine/sampling/sampler.h"

tnl_status eng_history_open(eng_history *h, int64_t vocab, tnl_error *err) {
    memset(h, 0, sizeof *h);
    h->vocab = vocab;
    h->seen = calloc((size_t)vocab, sizeof *h->seen);
    h->count = calloc((size_t)vocab, sizeof *h->count);
    h->known = calloc((size_t)vocab, sizeof *h->known);
    if (h->seen && h->count && h->known)
        return TNL_OK;
    eng_history_close(h);
    return tnl_fail(err, TNL_E_NOMEM, "out of memory for the token counts of a sequence");
}

void eng_history_close(eng_history *h) {
    free(h->seen);
    free(h->count);
    free(h->known);
    memset(h, 0, sizeof *h);
}

void eng_history_clear(eng_history *h) {
    for (int64_t i = 0; i < h->n_seen; i++) {
        h->count[h->seen[i]] = 0;
        h->known[h->seen[i]] = 0;
    }
    h->n_seen = 0;
}

void eng_history_add(eng_history *h, int32_t id, bool completion) {
    if (!h->known[id]) {
        h->known[id] = 1;
        h->seen[h->n_seen++] = id;
    }
    h->count[id] += completion;
}
