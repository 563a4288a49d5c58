/* The tree of known prefixes against a list of what was stored: what is found, how much of it is
 * shared, and that memory, keys and values are kept to. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine_bench.h"
#include "model/state.h"
#include "server/engine/states/prefix.h"

enum { MOST = 400 };

typedef struct text {
    uint64_t key;
    int64_t n;
    int32_t tokens[MOST];
} text;

typedef struct world {
    mdl_model *m;
    mdl_state *s;
    eng_prefix *c;
} world;

static world open_world(size_t budget) {
    tnl_error err;
    world w = {.m = fake_model_new()};
    w.s = mdl_state_new(w.m);
    assert_int_equal(eng_prefix_open(&w.c, w.m, budget, &err), TNL_OK);
    return w;
}

static void close_world(world *w) {
    eng_prefix_close(w->c);
    mdl_state_free(w->m, w->s);
    fake_model_free(w->m);
}

static uint64_t hash_of(world *w, const int32_t *tokens, int64_t n) {
    mdl_state_reset(w->m, w->s);
    fake_state_feed(w->m, w->s, tokens, n);
    return fake_state_hash(w->s);
}

static void store(world *w, const text *t) {
    mdl_state_reset(w->m, w->s);
    fake_state_feed(w->m, w->s, t->tokens, t->n);
    eng_prefix_store(w->c, w->s, t->key, t->tokens);
    const eng_prefix_stats s = eng_prefix_get_stats(w->c);
    assert_true(s.bytes <= s.budget);
}

/* Load, and check that the state is that of the tokens it claims. */
static eng_prefix_hit load(world *w, const text *t) {
    mdl_state_reset(w->m, w->s);
    eng_prefix_hit hit = eng_prefix_load(w->c, w->s, t->key, t->tokens, t->n);
    assert_int_equal(mdl_state_pos(w->s), hit.cached);
    assert_int_equal(hit.cached % FAKE_BLOCK, 0);
    assert_int_equal(hit.shared % FAKE_BLOCK, 0);
    assert_true(hit.cached <= hit.shared && hit.shared < t->n);
    uint64_t got = fake_state_hash(w->s);
    assert_true(got == hash_of(w, t->tokens, hit.cached));
    return hit;
}

static text make_text(uint64_t key, int64_t n, int32_t seed) {
    text t = {.key = key, .n = n};
    for (int64_t i = 0; i < n; i++)
        t.tokens[i] = 3 + (int32_t)((i * i + seed) % 250);
    return t;
}

/* ---- by example ---- */

static void found_at_block_boundaries(void **state) {
    (void)state;
    world w = open_world(1 << 20);
    text t = make_text(0, 100, 7);
    eng_prefix_hit h = load(&w, &t);
    assert_int_equal(h.cached + h.shared, 0);
    store(&w, &t);
    assert_int_equal(eng_prefix_get_stats(w.c).states, 1);
    assert_int_equal(load(&w, &t).cached, 96);
    t.n = 97;
    assert_int_equal(load(&w, &t).cached, 96);
    t.n = 96; /* one token must be left to read */
    h = load(&w, &t);
    assert_int_equal(h.cached, 0);
    assert_int_equal(h.shared, 80);
    t.n = 200;
    assert_int_equal(load(&w, &t).cached, 96);
    t.n = 1;
    assert_int_equal(load(&w, &t).shared, 0);
    t = make_text(0, 100, 7);
    t.tokens[50] = 299;
    h = load(&w, &t);
    assert_int_equal(h.cached, 0);
    assert_int_equal(h.shared, 48);
    t = make_text(0, 10, 7); /* no whole block: nothing to keep */
    store(&w, &t);
    assert_int_equal(eng_prefix_get_stats(w.c).states, 1);
    close_world(&w);
}

static void keys_see_nothing_of_each_other(void **state) {
    (void)state;
    world w = open_world(1 << 20);
    text a = make_text(1, 100, 7), b = make_text(2, 100, 7);
    store(&w, &a);
    eng_prefix_hit h = load(&w, &b);
    assert_int_equal(h.cached + h.shared, 0);
    store(&w, &b);
    assert_int_equal(eng_prefix_get_stats(w.c).states, 2);
    assert_int_equal(load(&w, &a).cached, 96);
    close_world(&w);
}

/* A flood under one key leaves another's texts alone until shares are equal. */
static void no_key_flushes_another(void **state) {
    (void)state;
    world w = open_world(40 << 10);
    for (int i = 0; i < 10; i++) {
        text a = make_text(1, 64, i);
        store(&w, &a);
    }
    for (int i = 0; i < 1000; i++) {
        text b = make_text(2, 64, i);
        store(&w, &b);
    }
    assert_true(eng_prefix_get_stats(w.c).evicted > 200);
    for (int i = 0; i < 10; i++) {
        text a = make_text(1, 65, i);
        assert_int_equal(load(&w, &a).cached, 64);
    }
    close_world(&w);
}

static text flood_text(int i) {
    text t = make_text(0, 32, i % 240);
    t.tokens[0] = 3 + i / 240;
    return t;
}

/* Other texts that it takes to push this one out, when it is stored once and not used. */
static int lasts(const text *t) {
    int lo = 1, hi = 3000;
    while (lo < hi) {
        int mid = (lo + hi) / 2;
        world w = open_world(24 << 10);
        store(&w, t);
        for (int i = 0; i < mid; i++) {
            text other = flood_text(i);
            store(&w, &other);
        }
        if (load(&w, t).cached > 0)
            lo = mid + 1;
        else
            hi = mid;
        close_world(&w);
    }
    return lo;
}

static void much_to_spare_lasts_longer(void **state) {
    (void)state;
    text few = make_text(0, 33, 1000), many = make_text(0, MOST - 1, 1000);
    int short_life = lasts(&few), long_life = lasts(&many);
    print_message("%d and %d texts\n", short_life, long_life);
    assert_true(short_life > 10);
    assert_true(long_life > short_life);
    assert_true(long_life < 3000);
}

static void what_is_of_use_stays(void **state) {
    (void)state;
    world w = open_world(24 << 10);
    text used = make_text(0, 65, 1000);
    store(&w, &used);
    for (int i = 0; i < 2000; i++) {
        text t = flood_text(i);
        store(&w, &t);
        assert_int_equal(load(&w, &used).cached, 64);
    }
    assert_true(eng_prefix_get_stats(w.c).evicted > 1000);
    close_world(&w);
}

static void a_budget_too_small_keeps_nothing(void **state) {
    (void)state;
    world w = open_world(100);
    text t = make_text(0, 100, 7);
    store(&w, &t);
    assert_int_equal(load(&w, &t).cached, 0);
    assert_int_equal(eng_prefix_get_stats(w.c).states, 0);
    assert_int_equal(eng_prefix_get_stats(w.c).bytes, 0);
    close_world(&w);
}

/* ---- at random ---- */

/* Texts that branch from each other anywhere. */
static void random_text(text *t, const text *known, int n_known, uint64_t *g) {
    int64_t keep = 0;
    memset(t, 0, sizeof *t);
    t->n = 1 + (int64_t)(next_random(g) % MOST);
    t->key = next_random(g) % 3;
    if (n_known > 0 && next_random(g) % 8) {
        const text *from = &known[next_random(g) % (uint64_t)n_known];
        keep = (int64_t)(next_random(g) % (uint64_t)(from->n + 1));
        keep = keep < t->n ? keep : t->n;
        memcpy(t->tokens, from->tokens, (size_t)keep * sizeof t->tokens[0]);
        t->key = from->key;
    }
    for (int64_t i = keep; i < t->n; i++)
        t->tokens[i] = (int32_t)(next_random(g) % 5);
}

static int64_t alike(const text *a, const text *b) {
    int64_t n = 0;
    while (n < a->n && n < b->n && a->tokens[n] == b->tokens[n])
        n++;
    return a->key == b->key ? n : 0;
}

static int64_t whole(int64_t n) {
    return n / FAKE_BLOCK * FAKE_BLOCK;
}

static void check_against_list(world *w, const text *t, const text *known, int n_known) {
    int64_t cached = 0, shared = 0, most = whole(t->n - 1);
    for (int i = 0; i < n_known; i++) {
        int64_t same = alike(t, &known[i]), kept = whole(known[i].n);
        int64_t both = whole(same) < kept ? whole(same) : kept;
        both = both < most ? both : most;
        shared = both > shared ? both : shared;
        if (same >= kept && kept <= most && kept > cached)
            cached = kept;
    }
    eng_prefix_hit h = load(w, t);
    assert_int_equal(h.cached, cached);
    assert_int_equal(h.shared, shared);
}

static void everything_is_found(void **state) {
    (void)state;
    enum { TEXTS = 400 };
    text *known = calloc(TEXTS + 1, sizeof *known);
    uint64_t g = 0xA11CEu;
    assert_non_null(known);
    print_message("seed %llu\n", (unsigned long long)g);
    world w = open_world(64 << 20);
    for (int i = 0; i < TEXTS; i++) {
        random_text(&known[TEXTS], known, i, &g); /* a question */
        check_against_list(&w, &known[TEXTS], known, i);
        random_text(&known[i], known, i, &g);
        check_against_list(&w, &known[i], known, i);
        store(&w, &known[i]);
    }
    assert_int_equal(eng_prefix_get_stats(w.c).evicted, 0);
    close_world(&w);
    free(known);
}

static void what_is_found_is_true(void **state) {
    (void)state;
    enum { TEXTS = 64, ROUNDS = 4000 };
    text *known = calloc(TEXTS, sizeof *known);
    uint64_t g = 0xB0Bu, hits = 0;
    assert_non_null(known);
    print_message("seed %llu\n", (unsigned long long)g);
    for (size_t budget = 1000; budget < 100000; budget *= 5) {
        world w = open_world(budget);
        for (int i = 0; i < ROUNDS; i++) {
            text *t = &known[next_random(&g) % TEXTS];
            random_text(t, known, TEXTS, &g);
            hits += load(&w, t).cached > 0;
            store(&w, t);
        }
        assert_true(budget < 2000 || eng_prefix_get_stats(w.c).evicted > 100);
        close_world(&w);
    }
    assert_true(hits > 100);
    free(known);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(found_at_block_boundaries),
        cmocka_unit_test(keys_see_nothing_of_each_other),
        cmocka_unit_test(no_key_flushes_another),
        cmocka_unit_test(much_to_spare_lasts_longer),
        cmocka_unit_test(what_is_of_use_stays),
        cmocka_unit_test(a_budget_too_small_keeps_nothing),
        cmocka_unit_test(everything_is_found),
        cmocka_unit_test(what_is_found_is_true),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
