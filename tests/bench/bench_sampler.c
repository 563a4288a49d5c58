/* What choosing a token costs at a vocabulary of 64,000: microseconds per row (the median of many
 * calls) for each usual mix of parameters, on rows of three shapes. Prints, judges nothing. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "server/engine/params.h"
#include "server/engine/sampling/rows.h"
#include "server/engine/sampling/sampler.h"

enum { VOCAB = 64000, ROWS = 32, HISTORY = 4000, CALLS = 200 };

static uint64_t state = 20240917;

static double uniform(void) {
    state += 0x9E3779B97F4A7C15u;
    uint64_t z = state;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return (double)((z ^ (z >> 31)) >> 11) * 0x1p-53;
}

static double normal(void) {
    double sum = -6;
    for (int i = 0; i < 12; i++)
        sum += uniform();
    return sum;
}

/* A language model's row: common tokens have low ids, a few candidates stand out. */
static void fill_peaked(float *x) {
    for (int i = 0; i < VOCAB; i++)
        x[i] = (float)(2.0 * normal() - 1.0 * log(1.0 + i));
    for (int i = 0; i < 60; i++)
        x[(int)(uniform() * uniform() * VOCAB)] = (float)(9.0 - 2.5 * log(1.0 + i) + normal());
}

/* A hesitant model: no candidate stands out. */
static void fill_broad(float *x) {
    for (int i = 0; i < VOCAB; i++)
        x[i] = (float)(2.0 * normal());
}

/* An untrained model: nearly equal logits. */
static void fill_flat(float *x) {
    for (int i = 0; i < VOCAB; i++)
        x[i] = (float)(0.3 * normal());
}

typedef struct mix {
    const char *name;
    float temperature, top_p, min_p, typical_p;
    int top_k;
    float repetition, frequency, presence;
    int logprobs;
} mix;

static const mix mixes[] = {
    {"greedy", 0, 1, 0, 1, 0, 1, 0, 0, 0},
    {"temperature 1", 1, 1, 0, 1, 0, 1, 0, 0, 0},
    {"temperature 0.8", .8f, 1, 0, 1, 0, 1, 0, 0, 0},
    {"top_k 40", .8f, 1, 0, 1, 40, 1, 0, 0, 0},
    {"top_k 40 top_p .95", .8f, .95f, 0, 1, 40, 1, 0, 0, 0},
    {"top_k 40 top_p .95 min_p .05", .8f, .95f, .05f, 1, 40, 1, 0, 0, 0},
    {"top_k 5000", .8f, 1, 0, 1, 5000, 1, 0, 0, 0},
    {"top_p .95", .8f, .95f, 0, 1, 0, 1, 0, 0, 0},
    {"top_p .5", 1, .5f, 0, 1, 0, 1, 0, 0, 0},
    {"top_p .99", 1, .99f, 0, 1, 0, 1, 0, 0, 0},
    {"min_p .05", .8f, 1, .05f, 1, 0, 1, 0, 0, 0},
    {"top_p .95 min_p .05", .8f, .95f, .05f, 1, 0, 1, 0, 0, 0},
    {"typical_p .9", .8f, 1, 0, .9f, 0, 1, 0, 0, 0},
    {"penalties, greedy", 0, 1, 0, 1, 0, 1.1f, .2f, .2f, 0},
    {"penalties, temperature .8", .8f, 1, 0, 1, 0, 1.1f, .2f, .2f, 0},
    {"logprobs 5, greedy", 0, 1, 0, 1, 0, 1, 0, 0, 5},
    {"logprobs 20, temperature .8", .8f, 1, 0, 1, 0, 1, 0, 0, 20},
    {"all of them", .8f, .95f, .05f, 1, 40, 1.1f, .2f, .2f, 20},
    {"all, no top_k", .8f, .95f, .01f, 1, 0, 1.1f, .2f, .2f, 20},
    {"all and typical_p .9", .8f, .95f, .05f, .9f, 40, 1.1f, .2f, .2f, 20},
};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void set_params(eng_params *p, const mix *m) {
    eng_params_default(p);
    p->temperature = m->temperature;
    p->top_k = m->top_k;
    p->top_p = m->top_p;
    p->min_p = m->min_p;
    p->typical_p = m->typical_p;
    p->repetition_penalty = m->repetition;
    p->frequency_penalty = m->frequency;
    p->presence_penalty = m->presence;
    p->logprobs = m->logprobs;
}

static double time_mix(eng_sampler *s, const mix *m, const float *rows, const eng_history *h) {
    static eng_params p;
    static double us[CALLS];
    set_params(&p, m);
    for (int i = 0; i < CALLS; i++) {
        eng_pick pick;
        double start = now();
        if (eng_sample(s, &pick, rows + (int64_t)(i % ROWS) * VOCAB, &p, h, 1, i) != TNL_OK)
            return NAN;
        us[i] = now() - start;
    }
    qsort(us, CALLS, sizeof us[0], ascending);
    return us[CALLS / 2];
}

/* All rows of one step, for each of them, on `threads` threads. */
static double time_step(const mix *m, const float *rows, const eng_history *h, int threads) {
    static eng_params p;
    static double us[CALLS];
    kn_backend *be = NULL;
    eng_rows *r = NULL;
    double median = NAN;
    set_params(&p, m);
    if (kn_cpu_open(&be, threads, NULL, NULL) == TNL_OK &&
        eng_rows_open(&r, be, VOCAB, NULL) == TNL_OK) {
        for (int i = 0; i < CALLS; i++) {
            eng_row_job jobs[ROWS];
            for (int j = 0; j < ROWS; j++)
                jobs[j] = (eng_row_job){.row = rows + (int64_t)j * VOCAB, .p = &p, .h = h};
            double start = now();
            eng_rows_sample(r, jobs, ROWS);
            us[i] = (now() - start) / ROWS;
        }
        qsort(us, CALLS, sizeof us[0], ascending);
        median = us[CALLS / 2];
    }
    eng_rows_close(r);
    kn_backend_close(be);
    return median;
}

int main(void) {
    static void (*const fills[])(float *) = {fill_peaked, fill_broad, fill_flat};
    enum { SHAPES = sizeof fills / sizeof fills[0] };
    float *rows[SHAPES] = {NULL};
    eng_sampler *s = NULL;
    eng_history h = {0};
    if (eng_sampler_open(&s, VOCAB, NULL) != TNL_OK || eng_history_open(&h, VOCAB, NULL) != TNL_OK)
        return 1;
    for (int f = 0; f < SHAPES; f++) {
        rows[f] = malloc(sizeof(float) * ROWS * VOCAB);
        if (!rows[f])
            return 1;
        for (int r = 0; r < ROWS; r++)
            fills[f](rows[f] + (int64_t)r * VOCAB);
    }
    for (int i = 0; i < HISTORY; i++)
        eng_history_add(&h, (int32_t)(uniform() * uniform() * VOCAB), i % 2);
    printf("us per row, vocabulary %d   peaked   broad    flat\n", VOCAB);
    for (size_t m = 0; m < sizeof mixes / sizeof mixes[0]; m++) {
        printf("%-30s", mixes[m].name);
        for (int f = 0; f < SHAPES; f++)
            printf(" %8.1f", time_mix(s, &mixes[m], rows[f], &h));
        printf("\n");
    }
    for (int threads = 1; threads <= 2; threads++)
        printf("temperature 0.8, peaked, %d rows of a step on %d: %.1f each\n", ROWS, threads,
               time_step(&mixes[2], rows[0], &h, threads));
    for (int f = 0; f < SHAPES; f++)
        free(rows[f]);
    eng_history_close(&h);
    eng_sampler_close(s);
    return 0;
}
