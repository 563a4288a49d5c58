/* A text already read and the state that goes with it: a value that never changes once it is made.
 *
 * `tokens` is the whole text; `core` is the state as of a block boundary `pos` (model/state.h, two
 * thirds of a whole state), so going on means to restore it and to read tokens[pos..) again. Since
 * states are canonical, that gives the bytes that reading everything would give.
 *
 * Owners hold references and share the memory: a fork is one more reference. The last one to go
 * scrubs it. Any thread. */
#ifndef TNL_SERVER_ENGINE_SNAPSHOT_H
#define TNL_SERVER_ENGINE_SNAPSHOT_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

typedef struct eng_snapshot {
    atomic_int refs;
    atomic_size_t *account;    /* what the memory is counted in; outlives the snapshot */
    int64_t n;                 /* tokens */
    int64_t pos;               /* of the core, a multiple of the block, <= n; 0: there is no core */
    size_t core_bytes;         /* 0 without one */
    int32_t *tokens;           /* [n] */
    void *core;                /* [core_bytes] */
    struct eng_snapshot *next; /* of an owner's own list */
} eng_snapshot;

/* With one reference, its contents for the caller to fill; NULL: memory is short. */
eng_snapshot *eng_snapshot_new(atomic_size_t *account, int64_t n, int64_t pos, size_t core_bytes);
eng_snapshot *eng_snapshot_ref(eng_snapshot *s);
void eng_snapshot_unref(eng_snapshot *s); /* NULL allowed */

size_t eng_snapshot_bytes(const eng_snapshot *s);

#endif
