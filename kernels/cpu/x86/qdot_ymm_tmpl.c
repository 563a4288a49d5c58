/* The rest of the packed products on 256-bit registers. Before it come, per instruction set:
 *   rows_q8(g, R, stream)  R rows of a group of q8
 *   run_dot(t, w, x)       t += w . x, codes of 0..15 in w; t need only hold a run of 16 inputs
 *   run_add(acc, t, sub)   acc += t times its factor
 *   run_start(sums)        what t starts at: minus eight times the sum of the run's inputs
 *   factor_bytes()         the shuffle that spreads eight bytes for run_add
 *   group_q4_many(g, rows) more than Q4_FEW rows
 *
 * q4 as it is stored: a run of 16 inputs is summed with its bare codes and multiplied by its
 * factor once, sub (sum of code x - 8 sum of x): one multiplication a run instead of an expansion
 * of every weight. */

/* -8 times the sum of each run, [R][RUNS]. */
FN void run_starts(int32_t starts[ROWS][RUNS], const group_args *g, const int R) {
    const __m256i ones = _mm256_set1_epi8(1), minus8 = _mm256_set1_epi16(-8);
    for (int r = 0; r < R; r++)
        for (int64_t u = 0; u < g->steps / 8; u++) {
            __m256i pairs = _mm256_maddubs_epi16(ones, load_y(g->q + r * g->ldq + 32 * u));
            __m256i fours = _mm256_madd_epi16(pairs, minus8);
            __m256i eights = _mm256_hadd_epi32(fours, fours);
            __m256i all = _mm256_hadd_epi32(eights, eights);
            starts[r][2 * u] = run_start(_mm256_cvtsi256_si32(all));
            starts[r][2 * u + 1] = run_start(_mm256_extract_epi32(all, 4));
        }
}

/* The factors of a pair of runs, eight outputs, for run_add: the first run's half-bytes shifted
 * up, the second's in place. */
FN __m256i factors_of(const unsigned char *subs, const int odd) {
    int64_t eight;
    memcpy(&eight, subs, sizeof eight);
    __m256i two = _mm256_shuffle_epi8(_mm256_set1_epi64x(eight), factor_bytes());
    return _mm256_srai_epi16(odd ? two : _mm256_slli_epi16(two, 4), 12);
}

/* One run: codes of step pair p at pairs + 256 p, or with `single` of step s at pairs + 256 s. */
FN void run_q4(__m256i t[ROWS], const unsigned char *pairs, const int8_t *q, int64_t ldq,
               const int R, const int single) {
    const __m256i low = _mm256_set1_epi8(15);
#pragma GCC unroll 2
    for (int p = 0; p < 2; p++) {
        __m256i lo, hi;
        if (single) {
            lo = load_y(pairs + 2 * p * STEP);
            hi = load_y(pairs + 2 * p * STEP + STEP);
        } else {
            __m256i two = load_y(pairs + p * STEP);
            lo = _mm256_and_si256(two, low);
            hi = _mm256_and_si256(_mm256_srli_epi16(two, 4), low);
        }
#pragma GCC unroll 6
        for (int r = 0; r < R; r++)
            t[r] = run_dot(t[r], lo, four_bytes(q + r * ldq + 8 * p));
#pragma GCC unroll 6
        for (int r = 0; r < R; r++)
            t[r] = run_dot(t[r], hi, four_bytes(q + r * ldq + 8 * p + 4));
    }
}

FN void tile_q4(const group_args *g, int32_t starts[ROWS][RUNS], int k, const int R, const int V,
                const int single) {
    const int64_t run_bytes = (single ? 4 : 2) * STEP;
    const int asks = single ? 8 : 4; /* for a pair of runs */
    __m256i acc[ROWS][VECS];
#pragma GCC unroll 6
    for (int r = 0; r < R; r++)
#pragma GCC unroll 8
        for (int v = 0; v < V; v++)
            acc[r][v] = _mm256_setzero_si256();
    for (int64_t run = 0; run < g->steps / 4; run += 2) {
        for (int i = 0; i < asks; i++)
            ask_ahead(g, run / 2 * asks + i, k, V, !single);
#pragma GCC unroll 2
        for (int odd = 0; odd < 2; odd++)
#pragma GCC unroll 8
            for (int v = 0; v < V; v++) {
                __m256i t[ROWS];
#pragma GCC unroll 6
                for (int r = 0; r < R; r++)
                    t[r] = _mm256_set1_epi32(starts[r][run + odd]);
                run_q4(t, g->codes + (run + odd) * run_bytes + 32 * (k + v),
                       g->q + (run + odd) * KN_Q4_RUN, g->ldq, R, single);
                __m256i sub = factors_of(g->subs + run / 2 * KN_Q_OUTS + 8 * (k + v), odd);
#pragma GCC unroll 6
                for (int r = 0; r < R; r++)
                    acc[r][v] = run_add(acc[r][v], t[r], sub);
            }
    }
    finish_tile(acc, g, k, R, V);
}

FN void rows_q4_as(const group_args *g, const int R, const int single) {
    const int V = R == 1 ? 8 : 4;
    int32_t starts[ROWS][RUNS];
    run_starts(starts, g, R);
    for (int k = 0; k < VECS; k += V)
        tile_q4(g, starts, k, R, V, single);
}

FN void rows_q4(const group_args *g, const int R) {
    rows_q4_as(g, R, 0);
}

FN void rows_q8_first(const group_args *g, const int R) {
    rows_q8(g, R, 1);
}

FN void rows_q8_again(const group_args *g, const int R) {
    rows_q8(g, R, 0);
}

/* ---- rows of a block, groups of a tile ---- */

#define ROW_SWITCH_3(fn)                                                                           \
    static __attribute__((noinline)) void fn##_some(const group_args *g, int64_t rows) {           \
        if (rows == 1)                                                                             \
            fn(g, 1);                                                                              \
        else if (rows == 2)                                                                        \
            fn(g, 2);                                                                              \
        else                                                                                       \
            fn(g, 3);                                                                              \
    }
ROW_SWITCH(rows_q8_first)
ROW_SWITCH(rows_q8_again)
ROW_SWITCH_3(rows_q4)

static void group_q8(const group_args *g, int64_t rows) {
    group_args h = *g;
    rows_q8_first_some(g, rows);
    h.ahead = g->codes + g->steps * STEP;
    rest_of_rows(h, ROWS, rows, ROWS, rows_q8_again_some);
}

static void group_q4_many(const group_args *g, int64_t rows);

static void group_q4(const group_args *g, int64_t rows) {
    if (rows <= Q4_FEW)
        rest_of_rows(*g, 0, rows, Q4_ROWS, rows_q4_some);
    else
        group_q4_many(g, rows);
}

static void qdot_q8(float *y, const kn_qrows *x, int64_t row0, int64_t rows, const void *tile,
                    int64_t cols) {
    qdot(y, x, row0, rows, tile, cols, KN_Q8, AHEAD, group_q8);
}

static void qdot_q4(float *y, const kn_qrows *x, int64_t row0, int64_t rows, const void *tile,
                    int64_t cols) {
    qdot(y, x, row0, rows, tile, cols, KN_Q4, AHEAD, group_q4);
}
