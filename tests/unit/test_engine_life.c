/* The life of requests over a fake model: cancelling in every phase, pausing, bounds, drain, close,
 * faults that stay where they are, and threads that submit, read, cancel and release at random.
 * Runs under ASan and TSan too. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <pthread.h>
#include <unistd.h>

#include "engine_bench.h"

/* ---- cancelling, pausing ---- */

static void cancel_in_each_phase(void **state) {
    (void)state;
    bench b;
    eng_params p;
    eng_metrics m;
    bench_open(&b, 1, 4, 16);
    greedy_params(&p, 1000);
    p.ignore_eos = true;
    int32_t prompt[64];
    for (int i = 0; i < 64; i++)
        prompt[i] = 3 + i;
    /* prefill and queue: the first is inside its first slice of four, the second waits */
    fake_model_hold(b.m);
    eng_request *first = submit(&b, &p, prompt, 64);
    fake_model_wait_begun(b.m, 1);
    eng_request *second = submit(&b, &p, prompt, 64);
    eng_request_cancel(second);
    eng_request_cancel(second);
    fake_model_let(b.m, 1);
    answer *a = read_all(second);
    assert_int_equal(a->done.finish, ENG_FINISH_CANCELLED);
    assert_int_equal(a->n, 0);
    free(a);
    fake_model_wait_begun(b.m, 2);
    eng_request_cancel(first);
    fake_model_open(b.m);
    a = read_all(first);
    assert_int_equal(a->done.finish, ENG_FINISH_CANCELLED);
    free(a);
    /* decode */
    eng_request *third = submit(&b, &p, prompt, 1);
    eng_event ev;
    assert_true(eng_request_wait(third, &ev, -1));
    eng_event_clear(&ev);
    eng_request_cancel(third);
    while (eng_request_wait(third, &ev, -1) && ev.kind != ENG_EV_DONE)
        eng_event_clear(&ev);
    assert_int_equal(ev.finish, ENG_FINISH_CANCELLED);
    eng_request_cancel(third); /* too late, harmless */
    eng_metrics_get(b.e, &m);
    assert_int_equal(m.cancelled_queue, 1);
    assert_int_equal(m.cancelled_prefill, 1);
    assert_int_equal(m.cancelled_decode, 1);
    /* paused: nobody reads, the ring fills, then the reader leaves */
    eng_request *fourth = submit(&b, &p, prompt, 1);
    do {
        usleep(200);
        eng_metrics_get(b.e, &m);
    } while (m.paused != 1);
    eng_request_release(fourth);
    wait_running(&b, 0, 0);
    eng_metrics_get(b.e, &m);
    assert_int_equal(m.cancelled_decode, 2);
    check_identity(b.e);
    eng_request_release(first);
    eng_request_release(second);
    eng_request_release(third);
    bench_close(&b);
}

static void a_slow_reader_pauses_only_itself(void **state) {
    (void)state;
    bench b;
    eng_params p;
    eng_metrics m;
    bench_open(&b, 2, 8, 64);
    greedy_params(&p, 1500);
    p.ignore_eos = true;
    const int32_t slow_prompt[] = {3, 4}, other_prompt[] = {5};
    answer *want = run_one(&b, &p, slow_prompt, 2);
    eng_request *slow = submit(&b, &p, slow_prompt, 2);
    for (int i = 0; i < 3; i++) {
        answer *a = run_one(&b, &p, other_prompt, 1);
        assert_int_equal(a->n, 1500);
        free(a);
    }
    do {
        usleep(200);
        eng_metrics_get(b.e, &m);
    } while (m.paused != 1);
    assert_int_equal(m.running, 1);
    int64_t steps = fake_model_begun(b.m);
    usleep(20000);
    assert_int_equal(fake_model_begun(b.m), steps); /* no step is spent on it */
    eng_metrics_get(b.e, &m);
    assert_int_equal(m.generated_tokens, 4 * 1500 + ENG_EVENT_RING);
    answer *a = read_all(slow); /* catches up, and goes on to the end */
    assert_same_answer(want, a);
    free(a);
    free(want);
    eng_request_release(slow);
    bench_close(&b);
}

/* An echoed prompt, read slowly, beside a decoder. */
static void a_slow_reader_of_an_echo(void **state) {
    (void)state;
    bench b;
    eng_params p;
    bench_open(&b, 2, 8, 64);
    greedy_params(&p, 3);
    p.echo = true;
    int32_t prompt[600];
    for (int i = 0; i < 600; i++)
        prompt[i] = 3 + i % 200;
    answer *want = run_one(&b, &p, prompt, 600);
    eng_request *slow = submit(&b, &p, prompt, 600);
    p.echo = false;
    p.max_tokens = 50;
    p.ignore_eos = true;
    answer *a = run_one(&b, &p, prompt, 5);
    assert_int_equal(a->n, 50);
    free(a);
    a = read_all(slow);
    assert_same_answer(want, a);
    free(a);
    free(want);
    eng_request_release(slow);
    bench_close(&b);
}

/* ---- full, drain, close, timeout ---- */

static void the_queue_is_bounded(void **state) {
    (void)state;
    bench b;
    eng_params p;
    tnl_error err;
    eng_metrics m;
    bench_open(&b, 2, 3, 64);
    greedy_params(&p, 4);
    fake_model_hold(b.m);
    const int32_t prompt[] = {3};
    const eng_job job = {.tokens = prompt, .n_tokens = 1, .params = &p};
    eng_request *r[5], *none;
    for (int i = 0; i < 5; i++)
        assert_int_equal(eng_submit(&r[i], b.e, &job, &err), TNL_OK);
    for (int i = 0; i < 7; i++) {
        assert_int_equal(eng_submit(&none, b.e, &job, &err), TNL_E_BUSY);
        assert_null(none);
    }
    eng_metrics_get(b.e, &m);
    assert_int_equal(m.accepted, 5);
    assert_int_equal(m.rejected_full, 7);
    fake_model_open(b.m);
    for (int i = 0; i < 5; i++) {
        answer *a = read_all(r[i]);
        assert_int_equal(a->done.finish, ENG_FINISH_LENGTH);
        eng_request_release(r[i]);
        free(a);
    }
    answer *a = run_one(&b, &p, prompt, 1);
    free(a);
    bench_close(&b);
}

/* ---- several keys ---- */

enum { LINE = 12 };

typedef struct finish_line {
    int order[LINE]; /* the engine thread's, until all have arrived */
    atomic_int n;
} finish_line;

typedef struct runner {
    finish_line *line;
    int number;
    bool seen;
} runner;

static void arrives(void *user) {
    runner *x = user;
    if (x->seen)
        return;
    x->seen = true;
    x->line->order[atomic_load(&x->line->n)] = x->number;
    atomic_fetch_add(&x->line->n, 1);
}

/* One slot. keys[i] asks as the i-th; the first holds the slot until all have lined up. */
static void run_line(const uint64_t *keys, int n, finish_line *line) {
    bench b;
    eng_params p;
    tnl_error err;
    eng_request *r[LINE];
    runner runners[LINE];
    const int32_t prompt[] = {3};
    bench_open(&b, 1, LINE, 64);
    greedy_params(&p, 1);
    fake_model_hold(b.m);
    atomic_init(&line->n, 0);
    for (int i = 0; i < n; i++) {
        runners[i] = (runner){line, i, false};
        const eng_job job = {.tokens = prompt,
                             .n_tokens = 1,
                             .key = keys[i],
                             .params = &p,
                             .wake = arrives,
                             .wake_user = &runners[i]};
        assert_int_equal(eng_submit(&r[i], b.e, &job, &err), TNL_OK);
        if (i == 0)
            wait_running(&b, 1, 0);
    }
    fake_model_open(b.m);
    for (int i = 0; i < n; i++)
        free(read_all(r[i]));
    while (atomic_load(&line->n) < n) /* the end can be read before its wake call */
        usleep(100);
    for (int i = 0; i < n; i++)
        eng_request_release(r[i]);
    bench_close(&b);
}

static void keys_take_turns(void **state) {
    (void)state;
    finish_line line;
    const uint64_t one[] = {0, 0, 0, 0, 0, 0};
    run_line(one, 6, &line);
    for (int i = 0; i < 6; i++)
        assert_int_equal(line.order[i], i);
    const uint64_t two[] = {7, 7, 7, 7, 7, 8, 8, 8};
    const int want_two[] = {0, 5, 1, 6, 2, 7, 3, 4};
    run_line(two, 8, &line);
    assert_memory_equal(line.order, want_two, sizeof want_two);
    const uint64_t three[] = {7, 7, 7, 7, 8, 8, 9, 0, 0};
    const int want_three[] = {0, 4, 6, 7, 1, 5, 8, 2, 3};
    run_line(three, 9, &line);
    assert_memory_equal(line.order, want_three, sizeof want_three);
}

static void a_key_leaves_slots_to_others(void **state) {
    (void)state;
    bench b;
    eng_params p;
    tnl_error err;
    const int32_t prompt[] = {3};
    eng_request *r[8];
    bench_open(&b, 4, 8, 64);
    greedy_params(&p, 20);
    p.ignore_eos = true;
    fake_model_hold(b.m);
    eng_job job = {.tokens = prompt, .n_tokens = 1, .key = 7, .params = &p, .most_running = 3};
    for (int i = 0; i < 6; i++)
        assert_int_equal(eng_submit(&r[i], b.e, &job, &err), TNL_OK);
    fake_model_let(b.m, 1);
    wait_running(&b, 3, 3);
    job.key = 8;
    job.most_running = 1;
    for (int i = 6; i < 8; i++)
        assert_int_equal(eng_submit(&r[i], b.e, &job, &err), TNL_OK);
    fake_model_let(b.m, 1);
    wait_running(&b, 4, 4);
    fake_model_open(b.m);
    for (int i = 0; i < 8; i++) {
        free(read_all(r[i]));
        eng_request_release(r[i]);
    }
    check_identity(b.e);
    bench_close(&b);
}

static void a_key_has_a_share_of_the_queue(void **state) {
    (void)state;
    bench b;
    eng_params p;
    tnl_error err;
    const int32_t prompt[] = {3};
    eng_request *r[8], *none;
    bench_open(&b, 2, 6, 64);
    greedy_params(&p, 1);
    fake_model_hold(b.m);
    eng_job job = {.tokens = prompt, .n_tokens = 1, .key = 7, .params = &p, .most_waiting = 3};
    for (int i = 0; i < 5; i++) /* two slots and three places, whether admitted by now or not */
        assert_int_equal(eng_submit(&r[i], b.e, &job, &err), TNL_OK);
    assert_int_equal(eng_submit(&none, b.e, &job, &err), TNL_E_QUOTA);
    assert_null(none);
    job.key = 8;
    for (int i = 5; i < 8; i++)
        assert_int_equal(eng_submit(&r[i], b.e, &job, &err), TNL_OK);
    assert_int_equal(eng_submit(&none, b.e, &job, &err), TNL_E_BUSY);
    fake_model_open(b.m);
    for (int i = 0; i < 8; i++) {
        free(read_all(r[i]));
        eng_request_release(r[i]);
    }
    check_identity(b.e);
    bench_close(&b);
}

static void drain_finishes_what_is_there(void **state) {
    (void)state;
    bench b;
    eng_params p;
    tnl_error err;
    bench_open(&b, 1, 3, 64);
    greedy_params(&p, 4);
    p.ignore_eos = true;
    fake_model_hold(b.m);
    const int32_t prompt[] = {3};
    eng_request *r1 = submit(&b, &p, prompt, 1), *r2 = submit(&b, &p, prompt, 1), *none;
    eng_drain(b.e);
    const eng_job job = {.tokens = prompt, .n_tokens = 1, .params = &p};
    assert_int_equal(eng_submit(&none, b.e, &job, &err), TNL_E_UNAVAILABLE);
    assert_false(eng_idle(b.e));
    fake_model_open(b.m);
    answer *a = read_all(r1), *c = read_all(r2);
    assert_int_equal(a->n, 4);
    assert_int_equal(c->n, 4);
    assert_true(eng_idle(b.e));
    free(a);
    free(c);
    eng_request_release(r1);
    eng_request_release(r2);
    bench_close(&b);
}

static void close_with_live_requests(void **state) {
    (void)state;
    bench b;
    eng_params p;
    bench_open(&b, 2, 8, 64);
    greedy_params(&p, 1000000);
    p.ignore_eos = true;
    const int32_t prompt[] = {3};
    eng_request *r[6];
    for (int i = 0; i < 6; i++)
        r[i] = submit(&b, &p, prompt, 1);
    wait_running(&b, 2, 4);
    bench_close(&b);
    for (int i = 0; i < 6; i++) {
        answer *a = read_all(r[i]); /* still readable: what was made, then the end */
        assert_int_equal(a->done.finish, ENG_FINISH_CANCELLED);
        free(a);
        eng_request_cancel(r[i]);
        eng_request_release(r[i]);
    }
}

static void waiting_too_long(void **state) {
    (void)state;
    bench b;
    eng_params p;
    bench_open(&b, 1, 8, 64);
    eng_close(b.e);
    b.o.queue_timeout_s = 0.03;
    tnl_error err;
    assert_int_equal(eng_open(&b.e, &b.o, &err), TNL_OK);
    greedy_params(&p, 1000);
    p.ignore_eos = true;
    const int32_t prompt[] = {3};
    eng_request *holder = submit(&b, &p, prompt, 1); /* fills its ring, then sits in the slot */
    eng_request *late = submit(&b, &p, prompt, 1);
    answer *a = read_all(late);
    assert_int_equal(a->done.finish, ENG_FINISH_ERROR);
    assert_int_equal(a->done.error, TNL_E_BUSY);
    free(a);
    a = read_all(holder);
    assert_int_equal(a->n, 1000);
    free(a);
    eng_request_release(late);
    eng_request_release(holder);
    check_identity(b.e);
    bench_close(&b);
}

/* ---- one request's trouble stays its own ---- */

static void nonfinite_ends_one_request(void **state) {
    (void)state;
    bench b;
    eng_params p;
    eng_metrics m;
    bench_open(&b, 4, 8, 64);
    greedy_params(&p, 40);
    p.ignore_eos = true;
    const int32_t good[] = {3, 4, 5}, bad[] = {3, FAKE_NAN, 5};
    answer *want = run_one(&b, &p, good, 3);
    for (int round = 0; round < 10; round++) {
        p.echo = false;
        eng_request *r1 = submit(&b, &p, good, 3);
        p.echo = round % 2;
        eng_request *r2 = submit(&b, &p, bad, 3);
        p.echo = false;
        eng_request *r3 = submit(&b, &p, good, 3);
        answer *a1 = read_all(r1), *a2 = read_all(r2), *a3 = read_all(r3);
        assert_int_equal(a2->done.finish, ENG_FINISH_ERROR);
        assert_int_equal(a2->done.error, TNL_E_NONFINITE);
        assert_same_answer(want, a1);
        assert_same_answer(want, a3);
        free(a1);
        free(a2);
        free(a3);
        eng_request_release(r1);
        eng_request_release(r2);
        eng_request_release(r3);
    }
    eng_metrics_get(b.e, &m);
    assert_int_equal(m.nonfinite, 10);
    free(want);
    bench_close(&b);
}

static void a_failed_step_ends_its_requests(void **state) {
    (void)state;
    bench b;
    eng_params p;
    bench_open(&b, 2, 8, 64);
    greedy_params(&p, 3);
    const int32_t bad[] = {FAKE_BREAK}, good[] = {3};
    answer *a = run_one(&b, &p, bad, 1);
    assert_int_equal(a->done.finish, ENG_FINISH_ERROR);
    assert_int_equal(a->done.error, TNL_E_INTERNAL);
    free(a);
    a = run_one(&b, &p, good, 1);
    assert_int_equal(a->n, 3);
    free(a);
    bench_close(&b);
}

/* ---- wake and release ---- */

typedef struct reader {
    atomic_int wakes;
    atomic_bool gone;
} reader;

static atomic_int late_wakes;

static void on_wake(void *user) {
    reader *r = user;
    atomic_fetch_add(&r->wakes, 1);
    usleep(20); /* a release meanwhile has to wait */
    atomic_fetch_add(&late_wakes, atomic_load(&r->gone));
}

static void wake_is_not_called_after_release(void **state) {
    (void)state;
    bench b;
    eng_params p;
    tnl_error err;
    bench_open(&b, 4, 64, 64);
    greedy_params(&p, 100);
    p.ignore_eos = true;
    const int32_t prompt[] = {3};
    int woken = 0;
    for (int i = 0; i < 400; i++) {
        reader *rd = calloc(1, sizeof *rd);
        const eng_job job = {
            .tokens = prompt, .n_tokens = 1, .params = &p, .wake = on_wake, .wake_user = rd};
        eng_request *r;
        assert_int_equal(eng_submit(&r, b.e, &job, &err), TNL_OK);
        for (int spin = 0; spin < i % 50; spin++) {
            eng_event ev;
            if (eng_request_wait(r, &ev, 1))
                eng_event_clear(&ev);
        }
        eng_request_release(r);
        atomic_store(&rd->gone, true);
        woken += atomic_load(&rd->wakes) > 0;
        free(rd); /* a later call would touch freed memory */
    }
    assert_int_equal(atomic_load(&late_wakes), 0);
    assert_true(woken > 100);
    wait_running(&b, 0, 0);
    check_identity(b.e);
    bench_close(&b);
}

/* ---- everything at once ---- */

/* Of everything an event says, bit for bit. */
static uint64_t fold(uint64_t h, const void *data, size_t n) {
    const unsigned char *p = data;
    for (size_t i = 0; i < n; i++)
        h = (h ^ p[i]) * 0x100000001B3u;
    return h;
}

static uint64_t fold_event(uint64_t h, const eng_event *ev) {
    h = fold(h, &ev->id, sizeof ev->id);
    h = fold(h, &ev->logprob, sizeof ev->logprob);
    h = fold(h, ev->alts, (size_t)ev->n_alts * sizeof ev->alts[0]);
    return ev->text_len > 0 ? fold(h, ev->text, ev->text_len) : h;
}

/* What the request gives on an engine with one slot. */
static uint64_t solo_hash(bench *alone, const eng_job *job) {
    eng_request *r;
    tnl_error err;
    eng_event ev;
    uint64_t h = 0;
    eng_job quiet = *job;
    quiet.wake = NULL;
    if (eng_submit(&r, alone->e, &quiet, &err) != TNL_OK)
        return 0;
    while (eng_request_wait(r, &ev, -1) && ev.kind != ENG_EV_DONE) {
        h = fold_event(h, &ev);
        eng_event_clear(&ev);
    }
    eng_request_release(r);
    return h;
}

typedef struct client {
    bench *b, *alone;
    uint64_t seed;
    int rounds;
    pthread_t thread;
    uint64_t accepted, completed, busy, compared;
    bool failed;
} client;

static void client_round(client *c, uint64_t *g, spec *sp) {
    eng_request *r;
    tnl_error err;
    reader rd = {0};
    random_spec(sp, g);
    sp->n = sp->n > 200 ? 200 : sp->n;
    const eng_job job = {.tokens = sp->tokens,
                         .n_tokens = sp->n,
                         .params = &sp->p,
                         .wake = next_random(g) % 2 ? on_wake : NULL,
                         .wake_user = &rd};
    tnl_status st;
    while ((st = eng_submit(&r, c->b->e, &job, &err)) == TNL_E_BUSY) {
        c->busy++;
        usleep(100);
    }
    c->failed |= st != TNL_OK;
    if (st != TNL_OK)
        return;
    c->accepted++;
    int64_t patience = next_random(g) % 2 ? INT64_MAX : (int64_t)(next_random(g) % 40);
    bool cancel = next_random(g) % 3 == 0;
    eng_event ev = {0};
    int64_t index = 0;
    uint64_t h = 0;
    while (patience-- > 0) {
        if (!(next_random(g) % 2 ? eng_request_poll(r, &ev) : eng_request_wait(r, &ev, 5)))
            continue;
        if (ev.kind == ENG_EV_DONE) {
            c->completed++;
            break;
        }
        h = fold_event(h, &ev);
        c->failed |= ev.index != index++;
        eng_event_clear(&ev);
        if (cancel && next_random(g) % 8 == 0)
            eng_request_cancel(r);
    }
    eng_request_release(r);
    if (ev.kind == ENG_EV_DONE && ev.finish != ENG_FINISH_CANCELLED) {
        c->failed |= h != solo_hash(c->alone, &job);
        c->compared++;
    }
}

static void *client_main(void *arg) {
    client *c = arg;
    uint64_t g = c->seed;
    spec *sp = calloc(1, sizeof *sp);
    for (int i = 0; i < c->rounds && sp; i++)
        client_round(c, &g, sp);
    free(sp);
    return NULL;
}

static void many_clients_at_random(void **state) {
    (void)state;
    enum { CLIENTS = 6, ROUNDS = 170 };
    bench b, alone;
    bench_open(&b, 3, 2, 24);
    bench_open(&alone, 1, CLIENTS, 256);
    client c[CLIENTS];
    memset(c, 0, sizeof c);
    for (int i = 0; i < CLIENTS; i++) {
        c[i] = (client){
            .b = &b, .alone = &alone, .seed = 1000003u * (uint64_t)(i + 1), .rounds = ROUNDS};
        assert_int_equal(pthread_create(&c[i].thread, NULL, client_main, &c[i]), 0);
    }
    for (int i = 0; i < 200; i++) {
        check_identity(b.e);
        usleep(300);
    }
    uint64_t accepted = 0, busy = 0, completed = 0, compared = 0;
    for (int i = 0; i < CLIENTS; i++) {
        pthread_join(c[i].thread, NULL);
        assert_false(c[i].failed);
        accepted += c[i].accepted;
        busy += c[i].busy;
        completed += c[i].completed;
        compared += c[i].compared;
    }
    wait_running(&b, 0, 0);
    check_identity(b.e);
    eng_metrics m;
    eng_metrics_get(b.e, &m);
    print_message("%llu accepted, %llu seen to the end, %llu equal to solo runs, %llu refused\n",
                  (unsigned long long)accepted, (unsigned long long)completed,
                  (unsigned long long)compared, (unsigned long long)busy);
    assert_true(compared > 100);
    assert_int_equal(m.accepted, accepted);
    assert_int_equal(m.rejected_full, busy);
    assert_int_equal(accepted, CLIENTS * ROUNDS);
    assert_int_equal(m.finished[ENG_FINISH_ERROR], 0);
    assert_int_equal(atomic_load(&late_wakes), 0);
    bench_close(&alone);
    bench_close(&b);
}

/* Nothing to do: no step begins. */
static void an_idle_engine_rests(void **state) {
    (void)state;
    bench b;
    eng_params p;
    bench_open(&b, 2, 4, 64);
    greedy_params(&p, 3);
    const int32_t prompt[] = {3};
    free(run_one(&b, &p, prompt, 1));
    int64_t begun = fake_model_begun(b.m);
    usleep(30000);
    assert_int_equal(fake_model_begun(b.m), begun);
    bench_close(&b);
}

int main(void) {
    alarm(110); /* a lost wake-up must not hang the suite */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cancel_in_each_phase),
        cmocka_unit_test(a_slow_reader_pauses_only_itself),
        cmocka_unit_test(a_slow_reader_of_an_echo),
        cmocka_unit_test(the_queue_is_bounded),
        cmocka_unit_test(keys_take_turns),
        cmocka_unit_test(a_key_leaves_slots_to_others),
        cmocka_unit_test(a_key_has_a_share_of_the_queue),
        cmocka_unit_test(drain_finishes_what_is_there),
        cmocka_unit_test(close_with_live_requests),
        cmocka_unit_test(waiting_too_long),
        cmocka_unit_test(nonfinite_ends_one_request),
        cmocka_unit_test(a_failed_step_ends_its_requests),
        cmocka_unit_test(wake_is_not_called_after_release),
        cmocka_unit_test(many_clients_at_random),
        cmocka_unit_test(an_idle_engine_rests),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
