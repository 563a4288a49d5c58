/* A life of slots under the scheduler: requests of any size come, pause, resume and leave in any
 * order. Budgets hold, whoever may run is served in time, every request ends once, and the
 * counters add up. */
#include <string.h>

#include "server/engine/sched.h"
#include "tests/fuzz/fuzz.h"

enum { MAX_SLOTS = 12, MAX_WAITING = 20 };

typedef struct request {
    int64_t prompt_left, decode_left;
    bool all_rows;
} request;

typedef struct world {
    int n_slots, n_waiting, cursor;
    eng_sched_budget budget;
    eng_sched_slot slot[MAX_SLOTS];
    int64_t decode_left[MAX_SLOTS], unserved[MAX_SLOTS];
    request waiting[MAX_WAITING];
    int64_t accepted, refused, completed, cancelled;
} world;

static void submit(world *w, unsigned a, unsigned b) {
    if (w->n_waiting == MAX_WAITING) {
        w->refused++;
        return;
    }
    w->accepted++;
    w->waiting[w->n_waiting++] = (request){
        .prompt_left = 1 + (int64_t)(a * a / 16), .decode_left = 1 + b % 32, .all_rows = b >= 200};
}

static void admit(world *w) {
    int n = eng_sched_admit(w->slot, w->n_slots, w->n_waiting), entered = 0;
    for (int i = 0; i < w->n_slots && entered < n; i++) {
        if (w->slot[i].used)
            continue;
        const request *r = &w->waiting[entered++];
        w->slot[i] = (eng_sched_slot){.used = true,
                                      .all_rows = r->all_rows,
                                      .prompt_left = r->prompt_left,
                                      .most = r->all_rows ? 255 : INT64_MAX};
        w->decode_left[i] = r->decode_left;
        w->unserved[i] = 0;
    }
    FUZZ_CHECK(entered == n);
    w->n_waiting -= n;
    memmove(w->waiting, w->waiting + n, (size_t)w->n_waiting * sizeof w->waiting[0]);
}

static void leave(world *w, int i) {
    w->slot[i] = (eng_sched_slot){0};
}

static void serve(world *w, int i, int64_t n) {
    eng_sched_slot *s = &w->slot[i];
    bool run = s->used && !s->paused && s->most > 0;
    FUZZ_CHECK(n >= 0 && (run || n == 0));
    if (!run)
        return;
    w->unserved[i] = n > 0 ? 0 : w->unserved[i] + 1;
    FUZZ_CHECK(w->unserved[i] <= w->n_slots);
    if (s->prompt_left == 0) {
        FUZZ_CHECK(n >= 1 && n <= 1 + s->draft);
        if (--w->decode_left[i] == 0) { /* every guess was wrong */
            w->completed++;
            leave(w, i);
        }
        return;
    }
    FUZZ_CHECK(n <= s->prompt_left && n <= s->most);
    s->prompt_left -= n;
    s->all_rows = s->all_rows && s->prompt_left > 0;
}

static int64_t step(world *w) {
    int64_t give[MAX_SLOTS], tokens = 0, rows = 0;
    admit(w);
    int64_t total = eng_sched_step(give, w->slot, w->n_slots, &w->budget, &w->cursor);
    FUZZ_CHECK(w->cursor >= 0 && w->cursor < w->n_slots);
    for (int i = 0; i < w->n_slots; i++) {
        tokens += give[i];
        bool decodes = w->slot[i].used && w->slot[i].prompt_left == 0;
        rows += w->slot[i].all_rows || decodes ? give[i] : give[i] > 0;
        serve(w, i, give[i]);
    }
    FUZZ_CHECK(tokens == total && total <= w->budget.tokens && rows <= w->budget.rows);
    return total;
}

static int64_t running(const world *w) {
    int64_t n = 0;
    for (int i = 0; i < w->n_slots; i++)
        n += w->slot[i].used;
    return n;
}

static void act(world *w, unsigned op, unsigned a, unsigned b) {
    int i = (int)(a % (unsigned)w->n_slots);
    switch (op % 8) {
    case 0:
    case 1:
        submit(w, a, b);
        break;
    case 2:
        if (w->slot[i].used) {
            w->cancelled++;
            leave(w, i);
        }
        break;
    case 3:
        w->slot[i].paused = w->slot[i].used;
        break;
    case 4:
        w->slot[i].paused = false;
        break;
    case 5:
        if (w->slot[i].used && w->slot[i].all_rows)
            w->slot[i].most = b;
        else if (w->slot[i].used && w->slot[i].prompt_left == 0)
            w->slot[i].draft = b % 70;
        break;
    default:
        step(w);
        break;
    }
    FUZZ_CHECK(w->accepted == w->completed + w->cancelled + running(w) + w->n_waiting);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    world w;
    if (size < 3)
        return 0;
    memset(&w, 0, sizeof w);
    w.n_slots = 1 + data[0] % MAX_SLOTS;
    w.budget.tokens = w.n_slots + data[1];
    w.budget.rows = w.n_slots + data[2] % 40;
    for (size_t at = 3; at + 3 <= size; at += 3)
        act(&w, data[at], data[at + 1], data[at + 2]);
    /* everybody may run: everything ends */
    while (running(&w) + w.n_waiting > 0) {
        for (int i = 0; i < w.n_slots; i++) {
            w.slot[i].paused = false;
            w.slot[i].most = w.slot[i].most > 0 ? w.slot[i].most : 1;
        }
        FUZZ_CHECK(step(&w) > 0);
    }
    FUZZ_CHECK(w.accepted == w.completed + w.cancelled);
    return 0;
}
