/* What a model is, as pure data: filled from config.json by an architecture row (arch.h), read by
 * everything else. Letters as in kernels/kernels.h. */
#ifndef TNL_MODEL_SPEC_H
#define TNL_MODEL_SPEC_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/kernels.h"

typedef enum mdl_norm_kind { MDL_NORM_SRMS, MDL_NORM_LAYERNORM } mdl_norm_kind;

/* What multiplies the normed mixer output. */
typedef enum mdl_gate_kind {
    MDL_GATE_LINEAR,           /* u of the fused projection, no activation (v1, v2) */
    MDL_GATE_LOW_RANK_SIGMOID, /* sigmoid(W1 (W0 a)), rank G (v3) */
} mdl_gate_kind;

/* One layer. Sizes are equal in all layers of today's families; they stand here so that hybrids
 * need no new shape. */
typedef struct mdl_layer_spec {
    kn_linattn_dims dims; /* H, Dk (doubled by LRPE), Dv */
    int head_dim;         /* Dk before LRPE */
    bool lrpe;            /* rotate q and k with a learned theta [H][head_dim] */
    bool act_on_v;        /* act applies to v as well as to q and k */
    kn_act act;
    mdl_gate_kind gate;
    int gate_rank; /* G; 0 unless the gate is low-rank */
    int glu;       /* F */
} mdl_layer_spec;

typedef struct mdl_spec {
    const char *arch; /* name of the arch row, for people: "transnormer-v2" */
    int64_t vocab;    /* V */
    int64_t width;    /* C */
    int64_t hidden;   /* H * head_dim */
    int n_layers;
    mdl_layer_spec *layers; /* [n_layers], owned */
    mdl_norm_kind norm;
    float norm_eps;     /* 1e-6 SRMS, 1e-5 LayerNorm */
    float embed_scale;  /* sqrt(C) or 1 */
    bool bias;          /* every projection but the head has one */
    bool tied;          /* the head is the embedding */
    bool tie_stated;    /* config.json says so itself; absent means tied too */
    bool add_bos;       /* of config.json, overridden by tokenizer_config.json */
    bool add_eos;
    int32_t bos_id, eos_id, pad_id; /* -1: none */
    kn_dtype torch_dtype;  /* what config.json says the weights are; the tensors win */
    bool has_torch_dtype;
    bool quantized;  /* the folder holds packed matrices */
    kn_dtype packed; /* then: the type of most of them: KN_Q8, KN_Q4 or KN_F8 */
} mdl_spec;

/* Slope of head h of H (0-based), before the layer factor: the ALiBi series, also for head counts
 * that are not a power of two. model-families: log2(1/slope) = 0.5, 1, ... 8 for H = 16. */
double mdl_slope(int h, int H);

/* s[h] of layer l of n: slope * (1 - l/(n-1) + 1e-5); n == 1 takes the factor of layer 0.
 * The factor and the slope are rounded to f32 and multiplied in f32 as the published code does,
 * then widened: s [H]. */
void mdl_layer_slopes(double *s, int H, int layer, int n_layers);

/* Release what the spec owns; NULL allowed. */
void mdl_spec_clear(mdl_spec *spec);

#endif
