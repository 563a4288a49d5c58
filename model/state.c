/* States: allocation, copy, undo, export and import. */
#include "model/state.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/internal.h"

/* Export layout, little-endian: this header, then the data of all layers. */
typedef struct export_header {
    char magic[8]; /* "TNLSTATE" */
    uint32_t version;
    uint32_t block;
    char fingerprint[16];
    int64_t pos;
    uint64_t payload_bytes;
} export_header;

_Static_assert(sizeof(export_header) == 48, "the export header is a file format");

static const char export_magic[8] = {'T', 'N', 'L', 'S', 'T', 'A', 'T', 'E'};
enum { EXPORT_VERSION = 1 };

static size_t data_bytes(const mdl_model *m) {
    return m->state_floats * sizeof(float);
}

static void move_bytes(mdl_model *m, void *dst, const void *src, size_t bytes) {
    kn_copy(m->be, dst, bytes, src, bytes, bytes, 1);
}

/* Before the host reads what has been moved to it, or writes again where something came from. What
 * the device has to say against it, it will say again to the next step. */
static void wait_for_device(mdl_model *m) {
    if (m->be->check)
        (void)m->be->check(m->be, NULL);
}

size_t mdl_state_bytes(const mdl_model *m) {
    return sizeof(mdl_state) + data_bytes(m);
}

mdl_state *mdl_state_new(mdl_model *m) {
    mdl_state *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->data = m->be->alloc(m->be, data_bytes(m), KN_ON_DEVICE);
    if (s->data)
        return s;
    free(s);
    return NULL;
}

void mdl_state_free(mdl_model *m, mdl_state *s) {
    if (!s)
        return;
    /* The state holds a conversation. The barrier keeps the compiler from dropping the scrub. */
    kn_clear(m->be, s->data, data_bytes(m));
    __asm__ volatile("" : : "r"(s->data) : "memory");
    m->be->free(m->be, s->data, KN_ON_DEVICE);
    free(s);
}

void mdl_state_reset(mdl_model *m, mdl_state *s) {
    kn_clear(m->be, s->data, data_bytes(m));
    s->pos = 0;
    s->in_step = false;
}

void mdl_state_poison(mdl_model *m, mdl_state *s) {
    enum { RUN = 1024 };
    uint32_t pattern[RUN];
    for (int i = 0; i < RUN; i++)
        pattern[i] = 0x7FA5A5A5u; /* a signalling NaN */
    for (size_t at = 0; at < m->state_floats; at += RUN) {
        size_t n = m->state_floats - at < RUN ? m->state_floats - at : RUN;
        move_bytes(m, s->data + at, pattern, n * sizeof *s->data);
    }
    wait_for_device(m);
}

void mdl_state_copy(mdl_model *m, mdl_state *dst, const mdl_state *src) {
    move_bytes(m, dst->data, src->data, data_bytes(m));
    dst->pos = src->pos;
    dst->in_step = false;
}

int64_t mdl_state_pos(const mdl_state *s) {
    return s->pos;
}

tnl_status mdl_state_truncate(mdl_model *m, mdl_state *s, int64_t pos) {
    int64_t boundary = s->pos - s->pos % m->be->block;
    if (pos < boundary || pos > s->pos)
        return TNL_E_LIMIT;
    s->pos = pos;
    return TNL_OK;
}

/* One short of a full block, which would be folded. */
int64_t mdl_state_spare(const mdl_model *m, int64_t pos) {
    return m->be->block - 1 - pos % m->be->block;
}

/* ---- export and import ---- */

/* Call fn for each run of floats that is in use, and (in_use false) for each pending row that is
 * not. Layout of a head: S [Dk][Dv], K [B][Dk], V [B][Dv]. */
typedef void (*run_fn)(void *ctx, float *run, size_t n, bool in_use);

static void walk_head(const kn_linattn_dims *d, size_t block, size_t used, float *head, run_fn fn,
                      void *ctx) {
    size_t Dk = (size_t)d->Dk, Dv = (size_t)d->Dv;
    float *K = head + Dk * Dv, *V = K + block * Dk;
    fn(ctx, head, Dk * Dv, true);
    fn(ctx, K, used * Dk, true);
    fn(ctx, K + used * Dk, (block - used) * Dk, false);
    fn(ctx, V, used * Dv, true);
    fn(ctx, V + used * Dv, (block - used) * Dv, false);
}

static void walk_state(const mdl_model *m, int64_t pos, float *data, run_fn fn, void *ctx) {
    size_t block = (size_t)m->be->block, used = (size_t)(pos % m->be->block);
    for (int l = 0; l < m->spec.n_layers; l++) {
        const kn_linattn_dims *d = &m->spec.layers[l].dims;
        size_t Dk = (size_t)d->Dk, Dv = (size_t)d->Dv;
        size_t head_floats = Dk * Dv + block * (Dk + Dv);
        float *head = data + m->layer_offset[l];
        for (int h = 0; h < d->H; h++, head += head_floats)
            walk_head(d, block, used, head, fn, ctx);
        /* rounding of the layer up to 64 bytes */
        size_t end = l + 1 < m->spec.n_layers ? m->layer_offset[l + 1] : m->state_floats;
        fn(ctx, head, (size_t)(data + end - head), false);
    }
}

static void zero_unused(void *ctx, float *run, size_t n, bool in_use) {
    (void)ctx;
    if (!in_use)
        memset(run, 0, n * sizeof *run);
}

static void check_run(void *ctx, float *run, size_t n, bool in_use) {
    bool *good = ctx;
    for (size_t i = 0; i < n; i++)
        *good &= in_use ? isfinite(run[i]) != 0 : run[i] == 0.0f;
}

int64_t mdl_state_block(const mdl_model *m) {
    return m->be->block;
}

/* Move the matrix of each head, one behind the other in `core`, to the state's data or from there.
 * A layer's are one run of rows. */
static void move_core(mdl_model *m, float *data, char *core, bool out) {
    size_t block = (size_t)m->be->block;
    for (int l = 0; l < m->spec.n_layers; l++) {
        const kn_linattn_dims *d = &m->spec.layers[l].dims;
        size_t matrix = (size_t)d->Dk * (size_t)d->Dv, heads = (size_t)d->H;
        size_t width = matrix * sizeof *data;
        size_t pitch = width + block * ((size_t)d->Dk + (size_t)d->Dv) * sizeof *data;
        float *layer = data + m->layer_offset[l];
        if (out)
            kn_copy(m->be, core, width, layer, pitch, width, heads);
        else
            kn_copy(m->be, layer, pitch, core, width, width, heads);
        core += heads * width;
    }
    wait_for_device(m);
}

size_t mdl_state_core_bytes(const mdl_model *m) {
    size_t floats = 0;
    for (int l = 0; l < m->spec.n_layers; l++) {
        const kn_linattn_dims *d = &m->spec.layers[l].dims;
        floats += (size_t)d->H * (size_t)d->Dk * (size_t)d->Dv;
    }
    return floats * sizeof(float);
}

void mdl_state_core_save(mdl_model *m, const mdl_state *s, void *buf) {
    move_core(m, s->data, buf, true);
}

void mdl_state_core_load(mdl_model *m, mdl_state *s, const void *buf, int64_t pos) {
    /* shared with save, which writes; loading only reads */
    move_core(m, s->data, (char *)(uintptr_t)buf, false);
    s->pos = pos;
}

bool mdl_state_core_finite(const void *buf, size_t n) {
    bool good = true;
    for (size_t i = 0; i + sizeof(float) <= n; i += sizeof(float)) {
        float v;
        memcpy(&v, (const char *)buf + i, sizeof v);
        good &= isfinite(v) != 0;
    }
    return good;
}

size_t mdl_state_export_bytes(const mdl_model *m) {
    return sizeof(export_header) + data_bytes(m);
}

void mdl_state_export(mdl_model *m, const mdl_state *s, void *buf) {
    export_header h = {.version = EXPORT_VERSION,
                       .block = (uint32_t)m->be->block,
                       .pos = s->pos,
                       .payload_bytes = data_bytes(m)};
    memcpy(h.magic, export_magic, sizeof h.magic);
    memcpy(h.fingerprint, m->fingerprint, sizeof h.fingerprint);
    memcpy(buf, &h, sizeof h);
    float *data = (float *)((char *)buf + sizeof h);
    move_bytes(m, data, s->data, data_bytes(m));
    wait_for_device(m);
    walk_state(m, s->pos, data, zero_unused, NULL);
}

static tnl_status check_header(const mdl_model *m, const export_header *h, size_t n,
                               tnl_error *err) {
    if (memcmp(h->magic, export_magic, sizeof h->magic) != 0)
        return tnl_fail(err, TNL_E_DATA, "state: not a state (magic)");
    if (h->version != EXPORT_VERSION)
        return tnl_fail(err, TNL_E_DATA, "state: version %u, expected %d", h->version,
                        EXPORT_VERSION);
    if (memcmp(h->fingerprint, m->fingerprint, sizeof h->fingerprint) != 0)
        return tnl_fail(err, TNL_E_DATA, "state: of model %.16s, expected %s", h->fingerprint,
                        m->fingerprint);
    if (h->block != (uint32_t)m->be->block)
        return tnl_fail(err, TNL_E_DATA, "state: block length %u, expected %d", h->block,
                        m->be->block);
    /* the upper bound leaves room for every step to come */
    if (h->pos < 0 || h->pos > INT64_MAX / 2 || h->payload_bytes != data_bytes(m) ||
        n != mdl_state_export_bytes(m))
        return tnl_fail(err, TNL_E_DATA, "state: %zu bytes at position %lld, expected %zu bytes", n,
                        (long long)h->pos, mdl_state_export_bytes(m));
    return TNL_OK;
}

tnl_status mdl_state_import(mdl_model *m, mdl_state *s, const void *buf, size_t n, tnl_error *err) {
    export_header h;
    if (n < sizeof h)
        return tnl_fail(err, TNL_E_DATA, "state: %zu bytes, expected %zu", n,
                        mdl_state_export_bytes(m));
    memcpy(&h, buf, sizeof h);
    TNL_TRY(check_header(m, &h, n, err));
    /* check_run only reads; the walk is shared with export, which writes */
    bool good = true;
    walk_state(m, h.pos, (float *)((uintptr_t)buf + sizeof h), check_run, &good);
    if (!good)
        return tnl_fail(err, TNL_E_NONFINITE,
                        "state: a value is not finite, or not zero where "
                        "none is in use");
    mdl_state_reset(m, s);
    s->pos = h.pos;
    move_bytes(m, s->data, (const char *)buf + sizeof h, data_bytes(m));
    wait_for_device(m);
    return TNL_OK;
}

tnl_status mdl_state_randomize(mdl_model *m, mdl_state *s, int64_t pos, uint64_t seed) {
    float *data = malloc(data_bytes(m));
    if (!data)
        return TNL_E_NOMEM;
    uint64_t r = seed | 1;
    for (size_t i = 0; i < m->state_floats; i++) {
        r = r * 6364136223846793005u + 1442695040888963407u;
        data[i] = (float)((int32_t)(r >> 32)) * 0x1p-31f;
    }
    walk_state(m, pos, data, zero_unused, NULL);
    mdl_state_reset(m, s);
    s->pos = pos;
    move_bytes(m, s->data, data, data_bytes(m));
    wait_for_device(m);
    free(data);
    return TNL_OK;
}
