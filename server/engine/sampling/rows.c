/* Rows sampled side by side: see rows.h. */
#include "server/engine/sampling/rows.h"

#include <stdlib.h>

struct eng_rows {
    kn_backend *be;
    int n;             /* samplers */
    eng_row_job *jobs; /* those under way */
    eng_sampler *sampler[];
};

tnl_status eng_rows_open(eng_rows **out, kn_backend *be, int64_t vocab, tnl_error *err) {
    int n = be && be->each ? be->threads : 1;
    eng_rows *r = *out = calloc(1, sizeof *r + (size_t)n * sizeof r->sampler[0]);
    if (!r)
        return tnl_fail(err, TNL_E_NOMEM, "out of memory for %d samplers", n);
    r->be = be;
    r->n = n;
    for (int i = 0; i < n; i++) {
        tnl_status st = eng_sampler_open(&r->sampler[i], vocab, err);
        if (st != TNL_OK) {
            eng_rows_close(r);
            *out = NULL;
            return st;
        }
    }
    return TNL_OK;
}

void eng_rows_close(eng_rows *r) {
    for (int i = 0; r && i < r->n; i++)
        eng_sampler_close(r->sampler[i]);
    free(r);
}

eng_sampler *eng_rows_sampler(eng_rows *r) {
    return r->sampler[0];
}

static void sample_range(void *ctx, int64_t begin, int64_t end, int worker) {
    eng_rows *r = ctx;
    for (eng_row_job *j = r->jobs + begin; j < r->jobs + end; j++)
        j->status =
            eng_sample(r->sampler[worker], &j->pick, j->row, j->p, j->h, j->seed, j->position);
}

void eng_rows_sample(eng_rows *r, eng_row_job *jobs, int64_t n) {
    r->jobs = jobs;
    if (n > 1 && r->n > 1)
        r->be->each(r->be, n, sample_range, r);
    else
        sample_range(r, 0, n, 0);
    r->jobs = NULL;
}
