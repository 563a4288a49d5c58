/* Lightning Attention: against the plain recurrence in double, and in bits against itself fed
 * row by row, in random slices, beside other sequences, with other threads, on other
 * instruction sets. The states' pending rows start as NaN: reading one too many shows. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/checkkern/ck.h"

enum { MOST_SEGS = 4 };

typedef struct attn_case {
    kn_linattn_dims d;
    int B;
    int64_t n_segs, len[MOST_SEGS], first[MOST_SEGS], rows;
    int64_t ldq, ldk, ldv, ldo;
    const float *q, *k, *v;
    double slope[8];
    kn_decay decay;
    size_t state_floats;
    char what[200];
} attn_case;

static int head_size(ck *k) {
    static const int sizes[] = {1, 3, 16, 17, 31, 64, 65, 96, 128};
    return sizes[ck_between(k, 0, 8)];
}

static attn_case draw_attn(ck *k, int B) {
    attn_case c = {.B = B, .n_segs = ck_between(k, 1, MOST_SEGS)};
    c.d = (kn_linattn_dims){(int)ck_between(k, 1, 5), head_size(k), head_size(k)};
    for (int64_t s = 0; s < c.n_segs; s++) {
        c.len[s] = ck_between(k, 0, 3) ? ck_between(k, 0, 2 * B + 9) : ck_between(k, 0, 2);
        c.first[s] = c.rows;
        c.rows += c.len[s] + ck_between(k, 0, 1); /* rows of nobody in between */
    }
    c.rows += 1;
    c.ldq = c.d.H * c.d.Dk + ck_between(k, 0, 3);
    c.ldk = c.d.H * c.d.Dk + ck_between(k, 0, 3);
    c.ldv = c.d.H * c.d.Dv + ck_between(k, 0, 3);
    c.ldo = c.d.H * c.d.Dv + ck_between(k, 0, 3);
    ck_fill fill = ck_between(k, 0, 1) ? CK_NORMAL : (ck_fill)ck_between(k, 0, 3);
    c.q = ck_filled(k, fill, c.rows, c.d.H * c.d.Dk, c.ldq);
    c.k = ck_filled(k, fill, c.rows, c.d.H * c.d.Dk, c.ldk);
    c.v = ck_filled(k, CK_NORMAL, c.rows, c.d.H * c.d.Dv, c.ldv);
    float *pow = ck_f32(k, c.d.H, B + 1, B + 1), *fold = ck_f32(k, 1, c.d.H, c.d.H);
    for (int h = 0; h < c.d.H; h++)
        c.slope[h] = exp(-17 * ck_uniform(k)); /* 1 .. 4e-8 */
    kn_decay_fill(pow, fold, c.slope, c.d.H, B);
    c.decay = (kn_decay){.pow = pow, .fold = fold};
    c.state_floats = kn_linattn_state_floats(&c.d, B);
    snprintf(c.what, sizeof c.what, "H=%d Dk=%d Dv=%d segs=%d first len=%d %s", c.d.H, c.d.Dk,
             c.d.Dv, (int)c.n_segs, (int)c.len[0], ck_fill_name(fill));
    return c;
}

/* S zero, pending rows left poisoned. */
static float *new_state(ck *k, const attn_case *c) {
    float *s = ck_f32(k, 1, (int64_t)c->state_floats, (int64_t)c->state_floats);
    const size_t Dk = (size_t)c->d.Dk, Dv = (size_t)c->d.Dv, B = (size_t)c->B;
    for (int h = 0; h < c->d.H; h++)
        memset(s + (size_t)h * (Dk * Dv + B * (Dk + Dv)), 0, Dk * Dv * sizeof *s);
    return s;
}

typedef struct attn_result {
    float *o, *state[MOST_SEGS];
} attn_result;

/* How the rows are fed: all at once, one segment after the other in slices of at most `slice`
 * rows, or (slice 0) whole. */
static attn_result run_attn(ck *k, const attn_case *c, int threads, int64_t slice) {
    attn_result r = {ck_f32(k, c->rows, c->d.H * c->d.Dv, c->ldo), {0}};
    kn_backend *be;
    tnl_error err;
    if (kn_cpu_open(&be, threads, k->isa, &err) != TNL_OK)
        abort();
    kn_linattn_seg segs[MOST_SEGS];
    for (int64_t s = 0; s < c->n_segs; s++) {
        r.state[s] = new_state(k, c);
        segs[s] = (kn_linattn_seg){r.state[s], 0, c->first[s], slice ? 0 : c->len[s]};
    }
    for (bool more = true; more;) {
        more = false;
        for (int64_t s = 0; slice && s < c->n_segs; s++) {
            int64_t left = c->first[s] + c->len[s] - segs[s].first;
            segs[s].len = slice < 0 ? ck_between(k, 0, left) : left < slice ? left : slice;
            more |= segs[s].len < left;
        }
        be->ops->linattn(be, r.o, c->ldo, c->q, c->ldq, c->k, c->ldk, c->v, c->ldv, &c->decay,
                         &c->d, &(kn_step){.segs = segs, .n_segs = c->n_segs}, 0);
        for (int64_t s = 0; s < c->n_segs; s++) {
            segs[s].first += segs[s].len;
            segs[s].pos += segs[s].len;
        }
    }
    kn_backend_close(be);
    return r;
}

/* o_t = sum over i <= t of exp(-s (t-i)) (q_t . k_i) v_i, all in double. */
static void attn_oracle(ck *k, const attn_case *c, const float *o) {
    const int Dk = c->d.Dk, Dv = c->d.Dv;
    double *want = malloc(2 * (size_t)Dv * sizeof *want), *size = want + Dv;
    for (int64_t s = 0; want && s < c->n_segs; s++)
        for (int h = 0; h < c->d.H; h++)
            for (int64_t t = 0; t < c->len[s]; t++) {
                memset(want, 0, 2 * (size_t)Dv * sizeof *want);
                const float *q = c->q + (c->first[s] + t) * c->ldq + h * Dk;
                for (int64_t i = 0; i <= t; i++) {
                    const float *kk = c->k + (c->first[s] + i) * c->ldk + h * Dk;
                    const float *v = c->v + (c->first[s] + i) * c->ldv + h * Dv;
                    double dot = 0, mag = 0, f = exp(-c->slope[h] * (double)(t - i));
                    for (int j = 0; j < Dk; j++) {
                        dot += (double)q[j] * (double)kk[j];
                        mag += fabs((double)q[j] * (double)kk[j]);
                    }
                    for (int j = 0; j < Dv; j++) {
                        want[j] += f * dot * (double)v[j];
                        size[j] += f * mag * fabs((double)v[j]);
                    }
                }
                const float *got = o + (c->first[s] + t) * c->ldo + h * Dv;
                for (int j = 0; j < Dv; j++)
                    if (!ck_near(k, c->what, got + j, want + j, 1,
                                 (ck_tol){1e-6, size[j] * 4e-6 + 1e-38})) {
                        free(want);
                        return;
                    }
            }
    free(want);
}

static void same_attn(ck *k, const attn_case *c, const char *how, const attn_result *a,
                      const attn_result *b) {
    char what[300];
    snprintf(what, sizeof what, "%s: %s", how, c->what);
    for (int64_t s = 0; s < c->n_segs; s++) {
        for (int64_t t = c->first[s]; t < c->first[s] + c->len[s]; t++)
            if (!ck_same_bits(k, what, a->o + t * c->ldo, b->o + t * c->ldo, c->d.H * c->d.Dv))
                return;
        if (!ck_same_bits(k, what, a->state[s], b->state[s], (int64_t)c->state_floats))
            return;
    }
}

static void check_attn_case(ck *k, int B) {
    attn_case c = draw_attn(k, B);
    attn_result first = {0};
    for (int i = 0; i < k->n_isas; i++) {
        k->isa = k->isas[i];
        attn_result whole = run_attn(k, &c, 1, 0);
        attn_oracle(k, &c, whole.o);
        attn_result other = run_attn(k, &c, 2, 0);
        same_attn(k, &c, "2 threads", &other, &whole);
        other = run_attn(k, &c, 1, 1);
        same_attn(k, &c, "row by row", &other, &whole);
        other = run_attn(k, &c, 3, -1);
        same_attn(k, &c, "random slices", &other, &whole);
        if (strcmp(k->isa, "ref") == 0)
            continue;
        if (first.o)
            same_attn(k, &c, "instruction sets", &whole, &first);
        first = whole;
    }
    ck_buffers_done(k, c.what);
}

static void check_tables(ck *k) {
    enum { B = 64 };
    float pow[2 * (B + 1)], fold[2];
    const double s[2] = {0.5, 3.9e-8};
    double want_pow[B + 1], want_fold;
    kn_decay_fill(pow, fold, s, 2, B);
    for (int h = 0; h < 2; h++) {
        for (int n = 0; n <= B; n++)
            want_pow[n] = exp(-s[h] * n);
        want_fold = expm1(-s[h] * B);
        ck_near(k, "decay powers", pow + h * (B + 1), want_pow, B + 1, (ck_tol){0x1p-24, 0});
        ck_near(k, "fold factor", fold + h, &want_fold, 1, (ck_tol){0x1p-24, 0});
    }
    kn_linattn_dims d = {3, 5, 7};
    ck_expect(k, kn_linattn_state_floats(&d, 4) == 256, "state size"); /* 3 (35+48) = 249 */
}

void ck_check_linattn(ck *k) {
    if (!ck_section(k, "linattn"))
        return;
    k->isa = NULL;
    check_tables(k);
    kn_backend *be;
    if (kn_cpu_open(&be, 1, NULL, NULL) != TNL_OK)
        abort();
    int B = be->block;
    kn_backend_close(be);
    for (int i = 0; i < 60; i++)
        check_attn_case(k, B);
}
