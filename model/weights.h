/* Weights bound from tensor names to roles. Names, shapes and presence come from the role table of
 * the architecture (arch.h): loading is validation. */
#ifndef TNL_MODEL_WEIGHTS_H
#define TNL_MODEL_WEIGHTS_H

#include "kernels/kernels.h"
#include "model/spec.h"
#include "model/tensors.h"

/* Matrices are kn_tensor, vectors (bias, norm, theta) are f32 copies with the same index. */
typedef enum mdl_role {
    MDL_R_EMBED, /* [V][C] */
    MDL_R_HEAD,  /* [V][C], the embedding when tied */
    MDL_R_FINAL_NORM_W, MDL_R_FINAL_NORM_B, /* [C] LayerNorm only */
    MDL_R_GLOBAL_COUNT,
    /* per layer */
    MDL_R_IN = MDL_R_GLOBAL_COUNT, /* fused projection: qkvu [4h][C] or qkv [3h][C] */
    MDL_R_IN_B,
    MDL_R_OUT, MDL_R_OUT_B,     /* [C][h], [C] */
    MDL_R_THETA,                /* [H][1][head_dim], LRPE layers */
    MDL_R_GATE0, MDL_R_GATE0_B, /* [G][C] low-rank gate */
    MDL_R_GATE1, MDL_R_GATE1_B, /* [h][G] */
    MDL_R_L1, MDL_R_L1_B,       /* [F][C] */
    MDL_R_L2, MDL_R_L2_B,       /* [F][C] */
    MDL_R_L3, MDL_R_L3_B,       /* [C][F] */
    MDL_R_TOKEN_NORM_W, MDL_R_TOKEN_NORM_B,     /* [C] LayerNorm only */
    MDL_R_CHANNEL_NORM_W, MDL_R_CHANNEL_NORM_B, /* [C] */
    MDL_R_MIXER_NORM_W, MDL_R_MIXER_NORM_B,     /* [h] */
    MDL_R_COUNT
} mdl_role;

typedef struct mdl_layer_weights {
    kn_tensor m[MDL_R_COUNT]; /* matrices by role; data NULL where the role is absent */
    const float *v[MDL_R_COUNT]; /* vectors by role, f32; NULL where absent */
} mdl_layer_weights;

/* How matrices are kept in memory. */
typedef enum mdl_weight_mode {
    MDL_W_AUTO, /* as stored: views into the map */
    MDL_W_F32,  /* widened to f32 in memory */
    MDL_W_BF16, /* f32 and f16 rounded to bf16 in memory */
    MDL_W_Q8,   /* packed in memory (kernels/quant.h), but for narrow matrices */
    MDL_W_Q4,
    MDL_W_F8,
    MDL_W_MODE_COUNT
} mdl_weight_mode;

extern const char *const mdl_weight_mode_names[MDL_W_MODE_COUNT]; /* "auto", "f32", ... */

typedef struct mdl_weights {
    mdl_layer_weights global;   /* roles below MDL_R_GLOBAL_COUNT */
    mdl_layer_weights *layers;  /* [n_layers] */
    uint64_t params;            /* distinct parameters (tied counted once) */
    uint64_t bytes_owned;       /* memory beyond the map */
    uint64_t bytes_mapped;      /* matrices that are views into the map */
    uint64_t bytes_read_per_token; /* weight bytes a one-sequence decode step must read: every
                                      matrix and the head once, one embedding row */
    kn_dtype dtype;             /* of the matrices that are read most, for tables */
    void *owned;                /* private */
} mdl_weights;

/* Bind and check every role of `spec`; NaN or infinity in any tensor is an error naming it.
 * `progress` (NULL allowed) is called with bytes done and total. On failure *out is cleared. */
typedef void (*mdl_progress_fn)(void *ctx, uint64_t done, uint64_t total);
tnl_status mdl_weights_bind(mdl_weights *out, const mdl_spec *spec, const mdl_tensors *t,
                            mdl_weight_mode mode, mdl_progress_fn progress, void *progress_ctx,
                            tnl_error *err);

/* Random weights of that shape in memory, for timing: dtype f32, bf16, q8, q4 or f8, scaled so
 * that activations stay of order one. Deterministic in seed. */
tnl_status mdl_weights_random(mdl_weights *out, const mdl_spec *spec, kn_dtype dtype,
                              uint64_t seed, tnl_error *err);

/* Hand all weights to a backend that wants copies of its own, and use those from now on. What was
 * bound stays the weights' own. */
tnl_status mdl_weights_adopt(mdl_weights *w, const mdl_spec *spec, kn_backend *be, tnl_error *err);

void mdl_weights_clear(mdl_weights *w, const mdl_spec *spec);

#endif
