/* Opening a model: config, tensors, weights, backend, and the tables derived from them. */
#include "model/model.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/base/checked.h"
#include "model/config.h"
#include "model/internal.h"

/* ---- identity ---- */

/* FNV-1a: an identity against mix-ups, not against malice. */
static void hash_bytes(uint64_t *h, const void *p, size_t n) {
    const unsigned char *b = p;
    for (size_t i = 0; i < n; i++)
        *h = (*h ^ b[i]) * UINT64_C(0x100000001b3);
}

static void hash_i64(uint64_t *h, int64_t v) {
    hash_bytes(h, &v, sizeof v);
}

static void hash_text(uint64_t *h, const char *s) {
    hash_i64(h, (int64_t)strlen(s));
    hash_bytes(h, s, strlen(s));
}

static void hash_layer(uint64_t *h, const mdl_layer_spec *l) {
    const int64_t fields[] = {l->dims.H, l->dims.Dk, l->dims.Dv,  l->head_dim,  l->lrpe,
                              l->act,    l->gate,    l->act_on_v, l->gate_rank, l->glu};
    hash_bytes(h, fields, sizeof fields);
}

static void hash_tensors(uint64_t *h, const mdl_tensors *t) {
    for (int64_t i = 0; i < mdl_tensors_count(t); i++) {
        const mdl_tensor_view *v = mdl_tensors_at(t, i);
        hash_text(h, v->name);
        hash_i64(h, v->dtype);
        hash_i64(h, (int64_t)v->bytes);
        hash_bytes(h, v->dims, (size_t)v->rank * sizeof v->dims[0]);
    }
}

static void set_fingerprint(mdl_model *m) {
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    const mdl_spec *s = &m->spec;
    hash_text(&h, s->arch);
    hash_text(&h, m->be->name);
    hash_text(&h, m->be->isa);
    const int64_t fields[] = {s->vocab, s->width, s->hidden,    s->n_layers,     s->norm,
                              s->bias,  s->tied,  m->be->block, m->weights.dtype};
    hash_bytes(&h, fields, sizeof fields);
    hash_bytes(&h, &s->embed_scale, sizeof s->embed_scale);
    hash_bytes(&h, &s->norm_eps, sizeof s->norm_eps);
    for (int i = 0; i < s->n_layers; i++)
        hash_layer(&h, &s->layers[i]);
    if (m->tensors)
        hash_tensors(&h, m->tensors);
    static const char hex[] = "0123456789abcdef";
    for (int i = 0; i < 16; i++)
        m->fingerprint[i] = hex[(h >> (60 - 4 * i)) & 15];
    m->fingerprint[16] = 0;
}

/* ---- tables ---- */

static tnl_status check_heads(const mdl_model *m, int layer, tnl_error *err) {
    const kn_linattn_dims *d = &m->spec.layers[layer].dims, *most = &m->be->most;
    if ((most->Dk == 0 || d->Dk <= most->Dk) && (most->Dv == 0 || d->Dv <= most->Dv))
        return TNL_OK;
    return tnl_fail(err, TNL_E_UNSUPPORTED,
                    "layer %d: heads of %d keys and %d values, %s takes at most %d and %d", layer,
                    d->Dk, d->Dv, m->be->name, most->Dk, most->Dv);
}

static tnl_status fill_layer_offsets(mdl_model *m, tnl_error *err) {
    m->layer_offset = calloc((size_t)m->spec.n_layers, sizeof *m->layer_offset);
    if (!m->layer_offset)
        return tnl_fail(err, TNL_E_NOMEM, "no memory for %d layers", m->spec.n_layers);
    uint64_t total = 0;
    for (int l = 0; l < m->spec.n_layers; l++) {
        TNL_TRY(check_heads(m, l, err));
        m->layer_offset[l] = (size_t)total;
        uint64_t floats = kn_linattn_state_floats(&m->spec.layers[l].dims, m->be->block);
        if (!tnl_add_u64(&total, total, floats) || total > SIZE_MAX / 8)
            return tnl_fail(err, TNL_E_LIMIT, "the state of layer %d overflows", l);
    }
    m->state_floats = (size_t)total;
    return TNL_OK;
}

static tnl_status fill_decays(mdl_model *m, tnl_error *err) {
    size_t per_head = (size_t)m->be->block + 2, heads = 0;
    for (int l = 0; l < m->spec.n_layers; l++)
        heads += (size_t)m->spec.layers[l].dims.H;
    m->decay = calloc((size_t)m->spec.n_layers, sizeof *m->decay);
    m->decay_mem = calloc(heads * per_head, sizeof *m->decay_mem);
    m->slopes = calloc(heads, sizeof *m->slopes);
    if (!m->decay || !m->decay_mem || !m->slopes)
        return tnl_fail(err, TNL_E_NOMEM, "no memory for decay tables");
    float *p = m->decay_mem;
    double *slopes = m->slopes;
    for (int l = 0; l < m->spec.n_layers; l++) {
        int H = m->spec.layers[l].dims.H;
        float *pow = p, *fold = p + (size_t)H * ((size_t)m->be->block + 1);
        mdl_layer_slopes(slopes, H, l, m->spec.n_layers);
        kn_decay_fill(pow, fold, slopes, H, m->be->block);
        m->decay[l] = (kn_decay){.pow = pow, .fold = fold, .slopes = slopes};
        p = fold + H;
        slopes += H;
    }
    return TNL_OK;
}

static tnl_status finish_open(mdl_model *m, const char *device, int threads, const char *isa,
                              tnl_error *err) {
    TNL_TRY(kn_open(&m->be, device, threads, isa, err));
    TNL_TRY(mdl_weights_adopt(&m->weights, &m->spec, m->be, err));
    TNL_TRY(fill_layer_offsets(m, err));
    TNL_TRY(fill_decays(m, err));
    set_fingerprint(m);
    return TNL_OK;
}

/* ---- open and close ---- */

static tnl_status load_folder(mdl_model *m, const mdl_open_params *p, tnl_error *err) {
    TNL_TRY(mdl_config_load(&m->spec, p->dir, err));
    TNL_TRY(mdl_tensors_open(&m->tensors, p->dir, p->load, err));
    TNL_TRY(mdl_weights_bind(&m->weights, &m->spec, m->tensors, p->weights, p->progress,
                             p->progress_ctx, err));
    return finish_open(m, p->device, p->threads, p->isa, err);
}

static tnl_status give(mdl_model **out, mdl_model *m, tnl_status s) {
    if (s == TNL_OK)
        *out = m;
    else
        mdl_close(m);
    return s;
}

tnl_status mdl_open(mdl_model **out, const mdl_open_params *p, tnl_error *err) {
    *out = NULL;
    mdl_model *m = calloc(1, sizeof *m);
    if (!m)
        return tnl_fail(err, TNL_E_NOMEM, "no memory for a model");
    return give(out, m, load_folder(m, p, err));
}

static tnl_status make_random(mdl_model *m, const char *shape_file, kn_dtype dtype,
                              const char *device, int threads, const char *isa, uint64_t seed,
                              tnl_error *err) {
    TNL_TRY(mdl_config_load_file(&m->spec, shape_file, err));
    TNL_TRY(mdl_weights_random(&m->weights, &m->spec, dtype, seed, err));
    return finish_open(m, device, threads, isa, err);
}

tnl_status mdl_open_random(mdl_model **out, const char *shape_file, kn_dtype dtype,
                           const char *device, int threads, const char *isa, uint64_t seed,
                           tnl_error *err) {
    *out = NULL;
    mdl_model *m = calloc(1, sizeof *m);
    if (!m)
        return tnl_fail(err, TNL_E_NOMEM, "no memory for a model");
    return give(out, m, make_random(m, shape_file, dtype, device, threads, isa, seed, err));
}

void mdl_close(mdl_model *m) {
    if (!m)
        return;
    kn_backend_close(m->be);
    mdl_weights_clear(&m->weights, &m->spec);
    mdl_tensors_close(m->tensors);
    mdl_spec_clear(&m->spec);
    free(m->layer_offset);
    free(m->decay);
    free(m->decay_mem);
    free(m->slopes);
    free(m);
}

const mdl_spec *mdl_model_spec(const mdl_model *m) {
    return &m->spec;
}

const mdl_weights *mdl_model_weights(const mdl_model *m) {
    return &m->weights;
}

const mdl_tensors *mdl_model_tensors(const mdl_model *m) {
    return m->tensors;
}

kn_backend *mdl_model_backend(const mdl_model *m) {
    return m->be;
}

void mdl_model_use_backend(mdl_model *m, kn_backend *be) {
    m->be = be;
}

const char *mdl_model_fingerprint(const mdl_model *m) {
    return m->fingerprint;
}

tnl_status mdl_check_tokenizer(const mdl_model *m, int64_t pieces, tnl_error *err) {
    if (pieces <= m->spec.vocab)
        return TNL_OK;
    return tnl_fail(err, TNL_E_DATA,
                    "tokenizer.model: %lld pieces, but vocab_size in config.json is %lld",
                    (long long)pieces, (long long)m->spec.vocab);
}

void mdl_expect(const mdl_model *m, const kn_tensor *w) {
    uint64_t bytes = 0;
    if (w->data && kn_dtype_matrix_bytes(&bytes, w->dtype, (uint64_t)w->rows, (uint64_t)w->cols))
        m->be->ops->expect(m->be, w->data, (size_t)bytes);
}
