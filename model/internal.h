/* What the files of model/ share and nobody else sees: the structs behind the opaque names. */
#ifndef TNL_MODEL_INTERNAL_H
#define TNL_MODEL_INTERNAL_H

#include "model/forward.h"

struct mdl_model {
    mdl_spec spec;
    mdl_weights weights;
    mdl_tensors *tensors; /* NULL for random weights */
    kn_backend *be;
    char fingerprint[17];
    size_t *layer_offset; /* [n_layers] f32 elements from the start of a state's data */
    size_t state_floats;  /* of all layers */
    kn_decay *decay;      /* [n_layers], into decay_mem */
    float *decay_mem;
    double *slopes; /* of all layers, one after another */
};

struct mdl_state {
    int64_t pos;
    bool in_step; /* guards against one state in two segments of a step */
    float *data;  /* [state_floats] on the device */
};

/* Working memory of a step; every row count is max_tokens unless said otherwise. Letters as in
 * kernels/kernels.h, h = hidden. */
struct mdl_ctx {
    mdl_model *m;
    int64_t max_tokens, max_logits;
    void *memory, *host_memory; /* on the device and the host, carved into what follows */
    size_t bytes[2];            /* of each, by kn_place */
    /* on the device */
    float *x;          /* [N][C] the residual stream */
    void *work;        /* kn_linear_work_bytes(N, the widest input) */
    float *proj;       /* [N][4h or 3h] fused projection */
    float *o;          /* [N][h] mixer output */
    float *gate;       /* [N][h] low-rank gate; NULL when no layer has one */
    float *low;        /* [N][G] its inner vector */
    float *q2, *k2;    /* [N][2h] rotated q and k; NULL when no layer has LRPE */
    float *glu;        /* [N][F] the product of the halves of the GLU */
    float *rows;       /* [max_logits][C] rows whose logits are wanted */
    float *logits;     /* [max_logits][V] */
    kn_picked *picked; /* [max_logits] of the rows of logits, where the backend samples */
    bool *finite;      /* [N + max_logits] behind it: of the rows of x, then, if not, of logits */
    /* on the host */
    int32_t *ids;           /* [N] */
    int64_t *pos;           /* [N] absolute positions */
    int64_t *wanted;        /* [max_logits] rows whose logits are wanted */
    kn_linattn_seg *segs;   /* [N] segments with at least one token */
    kn_pick_how *how;       /* [max_logits] */
    float *host_logits;     /* what logits, picked and finite were found to be; the same memory */
    kn_picked *host_picked; /* where the device is the host */
    bool *host_finite;
    kn_step step; /* this one; while it is computed, as the backend sees it */
};

/* One layer's two halves: read ctx->x, add their branch to it. */
void mdl_mixer_run(mdl_ctx *ctx, int layer);
void mdl_ffn_run(mdl_ctx *ctx, int layer);

/* The norm kind of this model; w and b are used by LayerNorm only. */
kn_norm mdl_norm(const mdl_model *m, const float *w, const float *b);

/* Tell the backend which weights follow the operation that comes next; w without data: nothing. */
void mdl_expect(const mdl_model *m, const kn_tensor *w);

/* Columns of a layer's fused projection: 4h (q k v u) or 3h (q k v). */
int64_t mdl_proj_cols(const mdl_spec *s, const mdl_layer_spec *l);

#endif
