/* What loaded and random weights share: the walk over roles, memory, and the figures. */
#include "model/weights.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/base/memory.h"
#include "model/arch.h"
#include "model/weights_memory.h"

const char *const mdl_weight_mode_names[MDL_W_MODE_COUNT] = {"auto", "f32", "bf16",
                                                             "q8",   "q4",  "f8"};

typedef struct block {
    struct block *next;
    char *memory;
    uint64_t used, size;
} block;

/* Weights stream by faster from huge pages: q4 matrices of 2 MB read from small ones reached two
 * thirds of the bandwidth. Most matrices are smaller than that, so they share large blocks. */
#define BLOCK_BYTES ((uint64_t)32 << 20)
#define SHARED_LEAST ((uint64_t)64 << 10) /* less has a block of its own */

static block *new_block(mdl_weights *w, uint64_t bytes) {
    block *b = malloc(sizeof *b);
    void *memory = b ? tnl_alloc_lines((size_t)bytes) : NULL;
    if (!memory) {
        free(b);
        return NULL;
    }
    *b = (block){.next = w->owned, .memory = memory, .size = bytes};
    w->owned = b;
    return b;
}

void *mdl_weights_alloc(mdl_weights *w, uint64_t bytes) {
    block *b = w->owned;
    uint64_t need = (bytes + 63) / 64 * 64; /* the next one begins aligned */
    if (bytes > SIZE_MAX / 2)
        return NULL;
    if (need < SHARED_LEAST)
        b = new_block(w, need ? need : 64);
    else if (!b || b->size - b->used < need)
        b = new_block(w, need > BLOCK_BYTES ? need : BLOCK_BYTES);
    if (!b)
        return NULL;
    void *p = b->memory + b->used;
    b->used += need;
    w->bytes_owned += bytes;
    return p;
}

void mdl_weights_clear(mdl_weights *w, const mdl_spec *spec) {
    (void)spec;
    if (!w)
        return;
    for (block *b = w->owned; b;) {
        block *next = b->next;
        free(b->memory);
        free(b);
        b = next;
    }
    free(w->layers);
    memset(w, 0, sizeof *w);
}

/* ---- roles ---- */

static tnl_status walk(const mdl_spec *spec, int layer, mdl_role_fn fn, void *ctx) {
    const mdl_arch *arch = mdl_arch_of(spec);
    const mdl_layer_spec *l = layer < 0 ? NULL : &spec->layers[layer];
    for (int i = 0; i < arch->n_roles; i++) {
        const mdl_role_row *row = &arch->roles[i];
        bool global = row->role < MDL_R_GLOBAL_COUNT;
        if (global == (layer < 0) && (!row->when || row->when(spec, l)))
            TNL_TRY(fn(ctx, row, layer));
    }
    return TNL_OK;
}

tnl_status mdl_weights_each_role(const mdl_spec *spec, mdl_role_fn fn, void *ctx) {
    for (int layer = -1; layer < spec->n_layers; layer++)
        TNL_TRY(walk(spec, layer, fn, ctx));
    return TNL_OK;
}

int mdl_role_dims(const mdl_role_row *row, const mdl_spec *spec, int layer, int64_t dims[3]) {
    int rank = 0;
    const mdl_layer_spec *l = layer < 0 ? NULL : &spec->layers[layer];
    for (; rank < 3 && row->dims[rank]; rank++)
        dims[rank] = row->dims[rank](spec, l);
    return rank;
}

mdl_layer_weights *mdl_weights_of(mdl_weights *w, int layer) {
    return layer < 0 ? &w->global : &w->layers[layer];
}

tnl_status mdl_weights_begin(mdl_weights *w, const mdl_spec *spec, tnl_error *err) {
    memset(w, 0, sizeof *w);
    w->layers = calloc((size_t)spec->n_layers, sizeof *w->layers);
    return w->layers ? TNL_OK
                     : tnl_fail(err, TNL_E_NOMEM, "no memory for %d layers", spec->n_layers);
}

/* ---- figures ---- */

typedef struct figures {
    mdl_weights *w;
    const mdl_spec *spec;
    uint64_t bytes_of[KN_DTYPE_COUNT]; /* of matrices a decode step reads */
} figures;

static uint64_t bytes_of(const kn_tensor *t) {
    uint64_t bytes = 0;
    kn_dtype_matrix_bytes(&bytes, t->dtype, (uint64_t)t->rows, (uint64_t)t->cols);
    return bytes;
}

static tnl_status count_role(void *ctx, const mdl_role_row *row, int layer) {
    figures *f = ctx;
    int64_t dims[3];
    int rank = mdl_role_dims(row, f->spec, layer, dims);
    uint64_t params = 1;
    for (int i = 0; i < rank; i++)
        params *= (uint64_t)dims[i];
    const mdl_layer_weights *lw = mdl_weights_of(f->w, layer);
    bool shared = row->role == MDL_R_HEAD && lw->m[MDL_R_HEAD].data == lw->m[MDL_R_EMBED].data;
    if (!shared)
        f->w->params += params;
    if (row->matrix && row->role != MDL_R_EMBED && row->role != MDL_R_HEAD)
        f->bytes_of[lw->m[row->role].dtype] += bytes_of(&lw->m[row->role]);
    return TNL_OK;
}

void mdl_weights_count(mdl_weights *w, const mdl_spec *spec) {
    figures f = {.w = w, .spec = spec};
    const kn_tensor *head = &w->global.m[MDL_R_HEAD], *embed = &w->global.m[MDL_R_EMBED];
    mdl_weights_each_role(spec, count_role, &f);
    f.bytes_of[head->dtype] += bytes_of(head);
    w->bytes_read_per_token = bytes_of(embed) / (uint64_t)embed->rows; /* one row */
    for (int i = 0; i < KN_DTYPE_COUNT; i++) {
        w->bytes_read_per_token += f.bytes_of[i];
        if (f.bytes_of[i] > f.bytes_of[w->dtype])
            w->dtype = (kn_dtype)i;
    }
}
