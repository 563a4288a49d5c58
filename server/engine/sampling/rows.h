/* The rows of one step, sampled on the threads that computed them: with many sequences, choosing
 * their tokens one after the other would take a share of the step that one thread cannot hide. A
 * token does not depend on which thread chose it. Engine thread only. */
#ifndef TNL_SERVER_ENGINE_ROWS_H
#define TNL_SERVER_ENGINE_ROWS_H

#include "kernels/kernels.h"
#include "server/engine/sampling/sampler.h"

/* A call of eng_sample: its arguments, then its results. */
typedef struct eng_row_job {
    const float *row;
    const eng_params *p;
    const eng_history *h;
    uint64_t seed;
    int64_t position;
    eng_pick pick;
    tnl_status status;
} eng_row_job;

typedef struct eng_rows eng_rows;

/* A sampler for each thread that `be` lends (NULL: none). `be` outlives it. */
tnl_status eng_rows_open(eng_rows **out, kn_backend *be, int64_t vocab, tnl_error *err);
void eng_rows_close(eng_rows *r); /* NULL allowed */

/* The sampler of the calling thread, for rows that come one by one. */
eng_sampler *eng_rows_sampler(eng_rows *r);

/* Fills pick and status of each job. */
void eng_rows_sample(eng_rows *r, eng_row_job *jobs, int64_t n);

#endif
