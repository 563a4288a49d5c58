/* A loaded model: spec, weights and the backend that computes them. Immutable after opening, so
 * it may be read from any thread; forward (forward.h) runs on one thread at a time. */
#ifndef TNL_MODEL_MODEL_H
#define TNL_MODEL_MODEL_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/kernels.h"
#include "model/spec.h"
#include "model/tensors.h"
#include "model/weights.h"

typedef struct mdl_model mdl_model;

typedef struct mdl_open_params {
    const char *dir; /* a Hugging Face model folder */
    mdl_weight_mode weights;
    mdl_load_mode load;
    const char *device;       /* as kn_open takes it; NULL: the CPU */
    int threads;              /* 0: one per processor */
    const char *isa;          /* NULL: TNL_CPU or the best */
    mdl_progress_fn progress; /* NULL allowed */
    void *progress_ctx;
} mdl_open_params;

/* On failure *out is NULL and err says why in one line. */
tnl_status mdl_open(mdl_model **out, const mdl_open_params *p, tnl_error *err);

/* A model of a published shape with random weights (file: a config.json). */
tnl_status mdl_open_random(mdl_model **out, const char *shape_file, kn_dtype dtype,
                           const char *device, int threads, const char *isa, uint64_t seed,
                           tnl_error *err);

void mdl_close(mdl_model *m); /* NULL allowed */

const mdl_spec *mdl_model_spec(const mdl_model *m);
const mdl_weights *mdl_model_weights(const mdl_model *m);
const mdl_tensors *mdl_model_tensors(const mdl_model *m); /* NULL for random weights */
kn_backend *mdl_model_backend(const mdl_model *m);

/* Compute with another backend of the same kind from now on: with other threads, or one that counts
 * (kernels/profile.h). The caller keeps it, and puts the model's own back before mdl_close. */
void mdl_model_use_backend(mdl_model *m, kn_backend *be);

/* Does a tokenizer of `pieces` pieces fit? Fewer than the vocabulary is legal (padded embeddings),
 * more is an error. */
tnl_status mdl_check_tokenizer(const mdl_model *m, int64_t pieces, tnl_error *err);

/* Bytes of one sequence's state: constant, whatever the context. */
size_t mdl_state_bytes(const mdl_model *m);

/* Identity of spec and tensor directory (names, shapes, dtypes, sizes) and of numeric class;
 * 16 hex digits and NUL. Equal for equal models. */
const char *mdl_model_fingerprint(const mdl_model *m);

/* The same and every byte of the weights, as a digest: what a state kept on a disk belongs to.
 * Reads all weights once. Guards against mix-ups: of two models that differ in a single word of a
 * tensor it never makes one, of any others with a chance of 2^-64; against malice it is no proof.
 */
enum { MDL_IDENTITY_BYTES = 32 };
void mdl_model_identity(const mdl_model *m, uint8_t out[MDL_IDENTITY_BYTES]);

#endif
