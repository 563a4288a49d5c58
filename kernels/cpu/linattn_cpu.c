/* Lightning Attention over the canonical state (kernels.h). A work item is one head of one
 * segment: it walks the segment block by block. For the rows of one block,
 *   1. k and v are appended to the pending rows;
 *   2. o = q S (step order over Dk), times the decay since the block began;
 *   3. scores = q k^T over the rows in use (lane order), times the decay of each distance, and
 *      o += scores v (step order over the pending rows);
 *   4. a full block is folded into S.
 * Every element goes through these steps in this order whether a block arrives whole or row by
 * row; tiles only decide which elements share a load. Nothing is masked by multiplication and no
 * pending row beyond those in use is read. */
#include <string.h>

#include "kernels/cpu/cpu_ops.h"

#define ROWS 4        /* query rows that share loads of V; a tile of `outer` */
#define SCORE_ROWS 12 /* query rows scored together, up to the last one's pending row */
#define FOLD_ROWS 16  /* rows of S folded at a time */
#define FOLD_COLS 256
#define NEXT_HEAD_BYTES 4096

typedef struct linattn_job {
    kn_cpu *c;
    float *o;
    int64_t ldo;
    const float *q;
    int64_t ldq;
    const float *k;
    int64_t ldk;
    const float *v;
    int64_t ldv;
    const kn_decay *decay;
    const kn_linattn_dims *d;
    const kn_linattn_seg *segs;
    size_t state_offset;
} linattn_job;

/* One head of one segment: state, inputs and outputs moved to that head. */
typedef struct head_view {
    const kn_dsp *dsp;
    int64_t Dk, Dv, B;
    float *S, *K, *V; /* [Dk][Dv], pending [B][Dk] and [B][Dv] */
    const float *pow; /* [B+1] */
    float fold;
    float *scores;  /* [B][B] */
    float *scratch; /* of fold_block */
} head_view;

_Static_assert(KN_CPU_BLOCK *KN_CPU_BLOCK + FOLD_ROWS * (FOLD_COLS + KN_CPU_BLOCK) <=
                   KN_CPU_SCRATCH,
               "scores and fold_block's scratch");

static int64_t min64(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static int64_t head_floats(int64_t Dk, int64_t Dv, int64_t B) {
    return Dk * Dv + B * (Dk + Dv);
}

/* scores[r][i] = (q_r . k_i) exp(-s (r-i)) for i <= r, rows r0..r0+n of the block. */
static void block_scores(const head_view *h, const float *q, int64_t ldq, int64_t r0, int64_t n) {
    const kn_xrows x = {q, ldq, h->Dk, 0};
    for (int64_t g = 0; g < n; g += SCORE_ROWS) {
        int64_t rows = min64(SCORE_ROWS, n - g), in_use = r0 + g + rows;
        float *s = h->scores + (r0 + g) * h->B;
        if (rows <= KN_FEW_ROWS)
            h->dsp->dot_few[KN_F32](s, h->B, q + g * ldq, ldq, rows, h->K, in_use, h->Dk);
        else
            for (int64_t i = 0; i < in_use; i += KN_PANEL_OUTS)
                h->dsp->dot_many[KN_F32](s + i, h->B, &x, g, rows, h->K + i * h->Dk,
                                         min64(KN_PANEL_OUTS, in_use - i), h->Dk, NULL, 0);
    }
    for (int64_t r = r0; r < r0 + n; r++)
        for (int64_t i = 0; i <= r; i++)
            h->scores[r * h->B + i] *= h->pow[r - i];
}

/* o = exp(-s (r+1)) (q S), rows r0..r0+n of the block. */
static void block_state(const head_view *h, float *o, int64_t ldo, const float *q, int64_t ldq,
                        int64_t r0, int64_t n) {
    h->dsp->outer(o, ldo, q, ldq, 1, h->S, h->Dv, n, h->Dk, h->Dv, false);
    for (int64_t i = 0; i < n; i++)
        h->dsp->scale(o + i * ldo, o + i * ldo, h->Dv, h->pow[r0 + i + 1]);
}

/* o += scores v, rows r0..r0+n of the block. */
static void block_pending(const head_view *h, float *o, int64_t ldo, int64_t r0, int64_t n) {
    const kn_dsp *dsp = h->dsp;
    for (int64_t g = 0; g < n; g += ROWS) {
        int64_t rows = min64(ROWS, n - g), r = r0 + g;
        /* Pending rows 0..r concern all rows of the group, the next ones only the later rows. */
        dsp->outer(o + g * ldo, ldo, h->scores + r * h->B, h->B, 1, h->V, h->Dv, rows, r + 1, h->Dv,
                   true);
        for (int64_t i = 1; i < rows; i++)
            dsp->outer(o + (g + i) * ldo, ldo, h->scores + (r + i) * h->B + r + 1, h->B, 1,
                       h->V + (r + 1) * h->Dv, h->Dv, 1, i, h->Dv, true);
    }
}

/* Ask for the pending rows in use: short runs that would otherwise be waited for one by one. They
 * arrive while S streams by. */
static void fetch_pending(const head_view *h, int64_t r0) {
    const char *k = (const char *)h->K, *v = (const char *)h->V;
    for (int64_t at = 0; at < r0 * h->Dk * (int64_t)sizeof(float); at += 64)
        __builtin_prefetch(k + at);
    for (int64_t at = 0; at < r0 * h->Dv * (int64_t)sizeof(float); at += 64)
        __builtin_prefetch(v + at);
}

/* Ask for the beginning of the next head's S, which follows this one's pending rows: computing on
 * those would leave memory idle. */
static void fetch_next_head(const head_view *h) {
    const char *s = (const char *)(h->S + head_floats(h->Dk, h->Dv, h->B));
    for (int64_t at = 0; at < NEXT_HEAD_BYTES; at += 64)
        __builtin_prefetch(s + at);
}

/* Ask for one head of a row of q, k or v: short runs a row apart, which no prefetcher of the
 * processor foresees. */
static void fetch_row(const float *x, int64_t n) {
    for (int64_t i = 0; i < n; i += 16)
        __builtin_prefetch(x + i);
}

/* Append k and v of rows at.. to the pending rows r0.., and ask for the rows of the next block. */
static void append_rows(const linattn_job *j, const head_view *h, int64_t head, int64_t at,
                        int64_t r0, int64_t n, int64_t end) {
    const float *q = j->q + head * h->Dk, *k = j->k + head * h->Dk, *v = j->v + head * h->Dv;
    for (int64_t i = at; i < at + n; i++, r0++) {
        memcpy(h->K + r0 * h->Dk, k + i * j->ldk, (size_t)h->Dk * sizeof *h->K);
        memcpy(h->V + r0 * h->Dv, v + i * j->ldv, (size_t)h->Dv * sizeof *h->V);
        if (i + h->B < end) {
            fetch_row(q + (i + h->B) * j->ldq, h->Dk);
            fetch_row(k + (i + h->B) * j->ldk, h->Dk);
            fetch_row(v + (i + h->B) * j->ldv, h->Dv);
        }
    }
}

/* S decays by exp(-s B) and gains a = sum over j of (exp(-s (B-1-j)) k_j) v_j^T, tile by tile of S.
 * A slow head adds its small loss (1 - exp(-s B) in f32 would keep two digits of it). A fast head
 * must not: S + (a - S) leaves a rounding error of the size of the old S, however little of it
 * should remain. */
static void fold_block(const head_view *h) {
    float *sum = h->scratch;                /* [FOLD_ROWS][FOLD_COLS] */
    float *k = sum + FOLD_ROWS * FOLD_COLS; /* [B][FOLD_ROWS] decayed keys */
    const bool slow = h->fold >= -0.5f;
    for (int64_t d0 = 0; d0 < h->Dk; d0 += FOLD_ROWS) {
        int64_t rows = min64(FOLD_ROWS, h->Dk - d0);
        for (int64_t j = 0; j < h->B; j++)
            h->dsp->scale(k + j * FOLD_ROWS, h->K + j * h->Dk + d0, rows, h->pow[h->B - 1 - j]);
        for (int64_t c0 = 0; c0 < h->Dv; c0 += FOLD_COLS) {
            int64_t cols = min64(FOLD_COLS, h->Dv - c0);
            h->dsp->outer(sum, FOLD_COLS, k, 1, FOLD_ROWS, h->V + c0, h->Dv, rows, h->B, cols,
                          false);
            for (int64_t d = 0; d < rows; d++) {
                float *s = h->S + (d0 + d) * h->Dv + c0;
                if (slow)
                    h->dsp->fold_slow(s, sum + d * FOLD_COLS, cols, h->fold);
                else
                    h->dsp->fold_fast(s, sum + d * FOLD_COLS, cols, h->pow[h->B]);
            }
        }
    }
}

static head_view view_head(const linattn_job *j, const kn_linattn_seg *seg, int64_t head,
                           int worker) {
    const int64_t Dk = j->d->Dk, Dv = j->d->Dv, B = j->c->base.block;
    float *at = seg->state + j->state_offset + head * head_floats(Dk, Dv, B);
    return (head_view){
        .dsp = &j->c->dsp,
        .Dk = Dk,
        .Dv = Dv,
        .B = B,
        .S = at,
        .K = at + Dk * Dv,
        .V = at + Dk * Dv + B * Dk,
        .pow = j->decay->pow + head * (B + 1),
        .fold = j->decay->fold[head],
        .scores = kn_cpu_scratch(j->c, worker),
        .scratch = kn_cpu_scratch(j->c, worker) + B * B,
    };
}

static void run_head(const linattn_job *j, const kn_linattn_seg *seg, int64_t head, int worker) {
    const head_view h = view_head(j, seg, head, worker);
    int64_t r0 = seg->pos % h.B;
    for (int64_t done = 0; done < seg->len;) {
        int64_t n = min64(h.B - r0, seg->len - done), at = seg->first + done;
        const float *q = j->q + at * j->ldq + head * h.Dk;
        float *o = j->o + at * j->ldo + head * h.Dv;
        if (n < ROWS)
            fetch_pending(&h, r0);
        append_rows(j, &h, head, at, r0, n, seg->first + seg->len);
        block_state(&h, o, j->ldo, q, j->ldq, r0, n);
        if (n < ROWS)
            fetch_next_head(&h);
        block_scores(&h, q, j->ldq, r0, n);
        block_pending(&h, o, j->ldo, r0, n);
        if (r0 + n == h.B)
            fold_block(&h);
        done += n;
        r0 = 0;
    }
}

static void run_heads(void *ctx, int64_t begin, int64_t end, int worker) {
    const linattn_job *j = ctx;
    for (int64_t i = begin; i < end; i++)
        run_head(j, &j->segs[i / j->d->H], i % j->d->H, worker);
}

void kn_cpu_linattn(kn_backend *be, float *o, int64_t ldo, const float *q, int64_t ldq,
                    const float *k, int64_t ldk, const float *v, int64_t ldv, const kn_decay *decay,
                    const kn_linattn_dims *d, const kn_step *step, size_t state_offset) {
    kn_cpu *c = kn_cpu_of(be);
    linattn_job j = {c, o, ldo, q, ldq, k, ldk, v, ldv, decay, d, step->segs, state_offset};
    tnl_pool_run(c->pool, step->n_segs * d->H, 1, run_heads, &j);
}
