/* See snapshot.h. */
#include "server/engine/states/snapshot.h"

#include <stdlib.h>
#include <string.h>

/* Conversations. The barrier keeps the compiler from dropping the scrub. */
static void scrub(void *p, size_t n) {
    if (!p)
        return;
    memset(p, 0, n);
    __asm__ volatile("" : : "r"(p) : "memory");
    free(p);
}

size_t eng_snapshot_bytes(const eng_snapshot *s) {
    return sizeof *s + (size_t)s->n * sizeof *s->tokens + s->core_bytes;
}

eng_snapshot *eng_snapshot_new(atomic_size_t *account, int64_t n, int64_t pos, size_t core_bytes) {
    eng_snapshot *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    atomic_init(&s->refs, 1);
    s->account = account;
    s->n = n;
    s->pos = pos;
    s->core_bytes = pos > 0 ? core_bytes : 0;
    s->tokens = malloc((size_t)n * sizeof *s->tokens + 1);
    s->core = s->core_bytes ? malloc(s->core_bytes) : NULL;
    if (!s->tokens || (s->core_bytes && !s->core)) {
        free(s->tokens);
        free(s->core);
        free(s);
        return NULL;
    }
    atomic_fetch_add(account, eng_snapshot_bytes(s));
    return s;
}

eng_snapshot *eng_snapshot_ref(eng_snapshot *s) {
    atomic_fetch_add(&s->refs, 1);
    return s;
}

void eng_snapshot_unref(eng_snapshot *s) {
    if (!s || atomic_fetch_sub(&s->refs, 1) != 1)
        return;
    atomic_fetch_sub(s->account, eng_snapshot_bytes(s));
    scrub(s->tokens, (size_t)s->n * sizeof *s->tokens);
    scrub(s->core, s->core_bytes);
    free(s);
}
