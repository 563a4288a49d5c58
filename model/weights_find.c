/* Tensor names to roles: presence, shape, and what is odd. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/log.h"
#include "kernels/quant.h"
#include "model/arch.h"
#include "model/weights_find.h"

/* The pattern with its %d replaced by the layer, and for packed types its last word. */
void mdl_role_name(char out[MDL_ROLE_NAME], const mdl_role_row *row, int layer, kn_dtype type) {
    const char *at = strstr(row->pattern, "%d");
    if (at)
        snprintf(out, MDL_ROLE_NAME, "%.*s%d%s", (int)(at - row->pattern), row->pattern, layer,
                 at + 2);
    else
        snprintf(out, MDL_ROLE_NAME, "%s", row->pattern);
    char *dot = strrchr(out, '.');
    if (type >= KN_PLAIN_COUNT && dot)
        snprintf(dot + 1, MDL_ROLE_NAME - (size_t)(dot + 1 - out), "%s", kn_dtypes[type].name);
}

static void shape_text(char out[160], int rank, const int64_t *dims) {
    size_t n = (size_t)snprintf(out, 160, "[");
    for (int i = 0; i < rank && n < 140; i++)
        n += (size_t)snprintf(out + n, 160 - n, "%s%lld", i ? ", " : "", (long long)dims[i]);
    snprintf(out + n, 160 - n, "]");
}

static const char *files_label(const mdl_tensors *t) {
    int64_t n = mdl_tensors_count(t);
    if (n == 0)
        return "the weights";
    const char *first = mdl_tensors_at(t, 0)->file, *last = mdl_tensors_at(t, n - 1)->file;
    return strcmp(first, last) == 0 ? first : "all shards";
}

/* The packed tensor of a matrix role: of the folder's type, or q8 among q4. In an f8 folder all are
 * f8. */
static const mdl_tensor_view *find_packed(const mdl_finder *f, const mdl_role_row *row, int layer) {
    char name[MDL_ROLE_NAME];
    const int last = (int)f->spec->packed, first = last == KN_F8 ? KN_F8 : KN_Q8;
    for (int type = first; f->spec->quantized && row->matrix && type <= last; type++) {
        mdl_role_name(name, row, layer, (kn_dtype)type);
        const mdl_tensor_view *v = mdl_tensors_find(f->t, name);
        if (v && v->dtype == (kn_dtype)type)
            return v;
    }
    return NULL;
}

/* Of a packed matrix [rows][cols]. */
static void packed_dims(int64_t dims[3], kn_dtype type) {
    dims[0] = (dims[0] + KN_Q_OUTS - 1) / KN_Q_OUTS;
    dims[1] = kn_q_tile_bytes(type, dims[1]);
}

tnl_status mdl_find_role(mdl_finder *f, const mdl_role_row *row, int layer,
                         const mdl_tensor_view **out) {
    char name[MDL_ROLE_NAME], want[160], have[160];
    int64_t dims[3];
    int rank = mdl_role_dims(row, f->spec, layer, dims);
    mdl_role_name(name, row, layer, KN_F32);
    const mdl_tensor_view *v = find_packed(f, row, layer);
    if (v)
        packed_dims(dims, v->dtype);
    else
        v = mdl_tensors_find(f->t, name);
    shape_text(want, rank, dims);
    *out = v;
    if (!v && row->role == MDL_R_HEAD)
        return TNL_OK;
    if (!v)
        return tnl_fail(f->err, TNL_E_DATA, "%s: tensor \"%s\": missing%s, expected shape %s",
                        files_label(f->t), name,
                        f->spec->quantized && row->matrix ? ", plain and packed" : "", want);
    if (v->rank != rank || memcmp(v->dims, dims, (size_t)rank * sizeof *dims) != 0) {
        shape_text(have, v->rank, v->dims);
        return tnl_fail(f->err, TNL_E_DATA,
                        "%s: tensor \"%s\": found shape %s, expected %s by config.json", v->file,
                        v->name, have, want);
    }
    f->used[v - mdl_tensors_at(f->t, 0)] = true;
    return TNL_OK;
}

static tnl_status check_role(void *ctx, const mdl_role_row *row, int layer) {
    mdl_finder *f = ctx;
    const mdl_tensor_view *v;
    TNL_TRY(mdl_find_role(f, row, layer, &v));
    if (!v)
        return TNL_OK;
    if (row->role == MDL_R_HEAD)
        f->head_bound = true;
    if (f->spec->has_torch_dtype && v->dtype != f->spec->torch_dtype && row->matrix &&
        v->dtype < KN_PLAIN_COUNT && !f->other)
        f->other = v;
    f->bytes += v->bytes;
    return TNL_OK;
}

/* A tied model may still carry a head: normally the embedding again. One that differs is not used,
 * as in the published code, unless config.json itself says tied: then the folder contradicts
 * itself. */
static tnl_status check_tied_head(mdl_finder *f) {
    const mdl_tensor_view *head = mdl_tensors_find(f->t, "lm_head.weight");
    const mdl_tensor_view *embed = mdl_tensors_find(f->t, "model.embed_tokens.weight");
    if (!head || !f->spec->tied || !embed)
        return TNL_OK;
    f->used[head - mdl_tensors_at(f->t, 0)] = true;
    f->head_ignored =
        head->dtype != embed->dtype || head->bytes != embed->bytes ||
        (head->data != embed->data && memcmp(head->data, embed->data, head->bytes) != 0);
    if (f->head_ignored && f->spec->tie_stated)
        return tnl_fail(f->err, TNL_E_DATA,
                        "%s: tensor \"lm_head.weight\": found other values than in the embedding, "
                        "expected the same since tie_word_embeddings is true",
                        head->file);
    return TNL_OK;
}

static bool ignorable(const char *name) {
    static const char tail[] = "decoder.version";
    size_t n = strlen(name), t = sizeof tail - 1;
    return n >= t && strcmp(name + n - t, tail) == 0;
}

static void report_choices(const mdl_finder *f) {
    if (f->head_ignored)
        tnl_log(TNL_LOG_WARN,
                "lm_head.weight differs from the embedding, but tie_word_embeddings is absent: the "
                "embedding is used");
    if (!f->spec->tied && !f->head_bound)
        tnl_log(TNL_LOG_WARN, "%s: lm_head.weight is missing, the embedding is used",
                files_label(f->t));
    if (f->other)
        tnl_log(TNL_LOG_WARN, "%s: tensor \"%s\" is %s, but torch_dtype says %s: the tensor wins",
                f->other->file, f->other->name, kn_dtypes[f->other->dtype].name,
                kn_dtypes[f->spec->torch_dtype].name);
}

static void report_extra(const mdl_finder *f) {
    int64_t extra = 0, first = -1;
    for (int64_t i = 0; i < mdl_tensors_count(f->t); i++) {
        if (f->used[i] || ignorable(mdl_tensors_at(f->t, i)->name))
            continue;
        if (extra++ == 0)
            first = i;
    }
    if (extra)
        tnl_log(TNL_LOG_WARN, "%s: %lld tensors are not used, the first is \"%s\"",
                mdl_tensors_at(f->t, first)->file, (long long)extra,
                mdl_tensors_at(f->t, first)->name);
}

tnl_status mdl_finder_check(mdl_finder *f) {
    f->used = calloc((size_t)mdl_tensors_count(f->t) + 1, sizeof *f->used);
    if (!f->used)
        return tnl_fail(f->err, TNL_E_NOMEM, "no memory to bind the weights");
    TNL_TRY(mdl_weights_each_role(f->spec, check_role, f));
    return check_tied_head(f);
}

void mdl_finder_report(const mdl_finder *f) {
    report_choices(f);
    report_extra(f);
}

void mdl_finder_clear(mdl_finder *f) {
    free(f->used);
    f->used = NULL;
}
