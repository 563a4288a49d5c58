/* Which rows of a product go which way. Rows of whole slices are packed: made in one launch for all
 * sequences, multiplied tile by tile into memory of our own, and finished from there into the rows
 * of the step. */
#include "kernels/cuda/prompt_cuda.h"

#include <stdlib.h>

#include "kernels/base/log.h"
#include "kernels/cuda/linear_cuda.h"
#include "kernels/cuda/prompt_choice.h"
#include "kernels/quant.h"

enum {
    SUMS_SHARE = 256, /* of the device's memory, one part */
    ALIGNMENT = 256,  /* bytes: what algorithms are chosen for */
};
static const size_t most_sums = (size_t)256 << 20;

/* A shape that was met. */
typedef struct known_shape {
    struct known_shape *next;
    kn_dtype type;
    int64_t outs, inputs;
    kn_cuda_choice choice;
} known_shape;

struct kn_cuda_prompts {
    kn_cuda_device *device;
    kn_lt_api api;
    bool found;
    known_shape *shapes;
    float *sums; /* [rows of a tile][outs], those of w2 after those of w */
    size_t sums_bytes;
};

tnl_status kn_cuda_prompts_open(kn_cuda_prompts **out, kn_cuda_device *device, tnl_error *err) {
    tnl_error why = {0};
    kn_cuda_prompts *c = *out = calloc(1, sizeof *c);
    if (!c)
        return tnl_fail(err, TNL_E_NOMEM, "cuda backend: out of memory");
    c->device = device;
    c->found = kn_lt_load(&c->api, &why) == TNL_OK;
    if (!c->found)
        tnl_log(TNL_LOG_INFO, "prompts go through our own products: %s", why.msg);
    return TNL_OK;
}

void kn_cuda_prompts_close(kn_cuda_prompts *c) {
    if (!c)
        return;
    for (known_shape *s = c->shapes, *next; s; s = next) {
        next = s->next;
        kn_lt_close(s->choice.product);
        free(s);
    }
    kn_cuda_device_free(c->device, c->sums);
    free(c);
}

/* ---- shapes ---- */

/* Of device memory that stay allocated for sums, at most, for any product. */
static size_t most_bytes(const kn_cuda_device *device) {
    const size_t share = device->memory / SUMS_SHARE;
    return share < most_sums ? share : most_sums;
}

/* The matrix as the library reads it, and the rows that it is multiplied with. The outputs that
 * fill up the last tile of f8 are multiplied as well. */
static kn_lt_shape shape_of(const kn_tensor *w) {
    const int64_t outs = (w->rows + 63) / 64 * 64;
    if (w->dtype == KN_F8)
        return (kn_lt_shape){.outs = outs,
                             .inputs = kn_f8_padded(w->cols),
                             .ldy = outs,
                             .lda = kn_f8_padded(w->cols),
                             .ldw = kn_f8_stride(w->cols),
                             .e4m3 = true};
    return (kn_lt_shape){
        .outs = w->rows, .inputs = w->cols, .ldy = outs, .lda = w->cols, .ldw = w->cols};
}

/* Devices multiply e4m3 from compute capability 8.9 on. */
static bool is_for_library(const kn_cuda_prompts *c, const kn_tensor *w) {
    const int capability = c->device->major * 10 + c->device->minor;
    return c->found && ((w->dtype == KN_BF16 && w->cols % 8 == 0) ||
                        (w->dtype == KN_F8 && w->cols >= KN_F8_UNIT && capability >= 89));
}

/* Bytes of the sums of a slice. */
static size_t slice_bytes(const kn_tensor *w, bool two) {
    const kn_lt_shape s = shape_of(w);
    return (size_t)(KN_CUDA_SLICE_ROWS * s.ldy) * sizeof(float) * (two ? 2 : 1);
}

static int64_t slices_in(const kn_tensor *w, bool two, size_t bytes) {
    const size_t n = bytes / slice_bytes(w, two);
    return n < KN_CUDA_TILE_SLICES ? (int64_t)n : (int64_t)KN_CUDA_TILE_SLICES;
}

/* For as many slices as there may be, or fewer where memory is short: no bit depends on it. */
static tnl_status need_sums(kn_cuda_prompts *c, const kn_tensor *w, bool two, tnl_error *err) {
    int64_t n = slices_in(w, two, most_bytes(c->device));
    if (n < 1)
        n = 1;
    if (c->sums_bytes >= (size_t)n * slice_bytes(w, two))
        return TNL_OK;
    TNL_TRY(kn_cuda_device_wait(c->device, err));
    kn_cuda_device_free(c->device, c->sums);
    c->sums = NULL;
    for (; !c->sums && n > 0; n /= 2) {
        c->sums_bytes = (size_t)n * slice_bytes(w, two);
        c->sums = kn_cuda_device_alloc(c->device, c->sums_bytes);
    }
    if (c->sums)
        return TNL_OK;
    c->sums_bytes = 0;
    return tnl_fail(err, TNL_E_NOMEM, "cuda:%d: no memory for %zu bytes of sums of a prompt",
                    c->device->index, slice_bytes(w, two));
}

static known_shape *find_shape(const kn_cuda_prompts *c, const kn_tensor *w) {
    known_shape *s = c->shapes;
    while (s && (s->type != w->dtype || s->outs != w->rows || s->inputs != w->cols))
        s = s->next;
    return s;
}

static tnl_status meet_shape(kn_cuda_prompts *c, const kn_tensor *w, tnl_error *err) {
    kn_lt_shape shape = shape_of(w);
    shape.rows = slices_in(w, false, c->sums_bytes) * KN_CUDA_SLICE_ROWS;
    known_shape *s = calloc(1, sizeof *s);
    if (!s)
        return tnl_fail(err, TNL_E_NOMEM, "cuda backend: out of memory");
    s->type = w->dtype;
    s->outs = w->rows;
    s->inputs = w->cols;
    tnl_status st = kn_cuda_choose(&s->choice, &c->api, &shape, c->sums, c->device, err);
    if (st != TNL_OK) {
        free(s);
        return st;
    }
    s->next = c->shapes;
    c->shapes = s;
    return TNL_OK;
}

/* For the shape of w, and of two such matrices if `two`. */
static tnl_status prepare(kn_cuda_prompts *c, const kn_tensor *w, bool two, tnl_error *err) {
    if (!is_for_library(c, w))
        return TNL_OK;
    TNL_TRY(need_sums(c, w, two, err));
    return find_shape(c, w) ? TNL_OK : meet_shape(c, w, err);
}

/* ---- one product ---- */

/* Rows [first, first + n) of p alone. */
static kn_linear rows_of(const kn_linear *p, int64_t first, int64_t n) {
    kn_linear r = *p;
    r.n = n;
    r.x += first * p->ldx;
    r.y += first * p->ldy;
    if (r.mul)
        r.mul += first * p->ldmul;
    return r;
}

static kn_cuda_row_map map_of(const kn_cuda_run *runs, int64_t n) {
    kn_cuda_row_map map = {.n_runs = n};
    for (int64_t i = 0; i < n; i++) {
        map.row[i] = runs[i].first;
        map.at[i + 1] = map.at[i] + runs[i].n;
    }
    return map;
}

static void *aligned(void *p) {
    return (char *)p + (ALIGNMENT - (uintptr_t)p % ALIGNMENT) % ALIGNMENT;
}

/* Rows of several places at once, so that the weights are read once for them: packed in the memory
 * of the sums. */
static void multiply_packed(kn_cuda_prompts *c, const kn_linear *p, const kn_cuda_row_map *map) {
    const int64_t cols = p->w->cols, outs = p->w->rows, n = map->at[map->n_runs];
    const kn_cuda_stream stream = c->device->stream;
    float *y = c->sums, *x = aligned(y + n * outs), *mul = aligned(x + n * cols);
    kn_linear packed = *p;
    packed.n = n;
    packed.x = x;
    packed.y = y;
    packed.ldx = packed.ldmul = cols;
    packed.ldy = outs;
    kn_cuda_prompt_pack(x, p->x, p->ldx, cols, map, stream);
    if (p->mul) {
        kn_cuda_prompt_pack(mul, p->mul, p->ldmul, cols, map, stream);
        packed.mul = mul;
    }
    if (p->epi == KN_ADD)
        kn_cuda_prompt_pack(y, p->y, p->ldy, outs, map, stream);
    kn_cuda_linear(&packed, stream);
    kn_cuda_prompt_unpack(p->y, p->ldy, y, outs, map, stream);
}

static void multiply_places(kn_cuda_prompts *c, const kn_linear *p, const kn_cuda_run *places,
                            int64_t n) {
    if (n > 1) {
        const kn_cuda_row_map map = map_of(places, n);
        multiply_packed(c, p, &map);
    } else if (n == 1) {
        const kn_linear rest = rows_of(p, places->first, places->n);
        kn_cuda_linear(&rest, c->device->stream);
    }
}

/* The rows between runs, as many places together as there is memory for. */
static void multiply_others(kn_cuda_prompts *c, const kn_linear *p, const kn_cuda_run *runs,
                            int64_t n_runs) {
    const int64_t row_bytes = (p->w->rows + 2 * p->w->cols) * (int64_t)sizeof(float);
    const int64_t room = ((int64_t)c->sums_bytes - 2 * ALIGNMENT) / row_bytes;
    kn_cuda_run places[KN_CUDA_MAP_RUNS];
    int64_t at = 0, n = 0, rows = 0;
    for (int64_t i = 0; i <= n_runs; i++) {
        const kn_cuda_run gap = {at, (i < n_runs ? runs[i].first : p->n) - at};
        at = i < n_runs ? runs[i].first + runs[i].n : p->n;
        if (gap.n == 0)
            continue;
        if (n == KN_CUDA_MAP_RUNS || (n > 0 && rows + gap.n > room)) {
            multiply_places(c, p, places, n);
            n = rows = 0;
        }
        places[n++] = gap;
        rows += gap.n;
    }
    multiply_places(c, p, places, n);
}

/* In kn_linear.work, which has room for f32. */
static kn_cuda_prompt_rows rows_at(const kn_linear *p, const kn_lt_shape *s, int64_t n) {
    kn_cuda_prompt_rows rows = {.a = aligned(p->work), .lda = s->lda};
    if (s->e4m3)
        rows.scale = aligned((char *)rows.a + n * s->lda);
    return rows;
}

/* One tile of packed rows. */
static tnl_status multiply_tile(kn_cuda_prompts *c, const kn_cuda_choice *choice,
                                const kn_linear *p, const kn_cuda_prompt_rows *rows,
                                kn_cuda_prompt_sums *s, tnl_error *err) {
    const kn_lt_algo *algo = &choice->algos[s->n / KN_CUDA_SLICE_ROWS - 1];
    const void *a = (const char *)rows->a + s->first * rows->lda * (rows->scale ? 1 : 2);
    float *z = p->w2 ? c->sums + s->n * s->ld : NULL;
    const kn_cuda_stream stream = c->device->stream;
    s->y = c->sums;
    s->z = z;
    TNL_TRY(kn_lt_run_rows(choice->product, algo, s->n, c->sums, a, p->w->data, stream, err));
    return z ? kn_lt_run_rows(choice->product, algo, s->n, z, a, p->w2->data, stream, err) : TNL_OK;
}

/* Runs that one map holds, in tiles of about the same size. */
static tnl_status multiply_slices(kn_cuda_prompts *c, const kn_cuda_choice *choice,
                                  const kn_linear *p, const kn_cuda_run *runs, int64_t n_runs,
                                  tnl_error *err) {
    const kn_lt_shape shape = shape_of(p->w);
    const kn_cuda_row_map map = map_of(runs, n_runs);
    const kn_cuda_prompt_rows rows = rows_at(p, &shape, map.at[n_runs]);
    const int64_t slices = map.at[n_runs] / KN_CUDA_SLICE_ROWS;
    const int64_t room = slices_in(p->w, p->w2 != NULL, c->sums_bytes);
    const int64_t most = room < choice->slices ? room : choice->slices;
    const int64_t tiles = (slices + most - 1) / most;
    kn_cuda_prompt_sums s = {.ld = shape.ldy};
    kn_cuda_prompt_make(&rows, p, &map, c->device->stream);
    for (int64_t tile = 0; tile < tiles; tile++) {
        s.first += s.n;
        s.n = (slices * (tile + 1) / tiles - slices * tile / tiles) * KN_CUDA_SLICE_ROWS;
        TNL_TRY(multiply_tile(c, choice, p, &rows, &s, err));
        kn_cuda_prompt_finish(&s, &rows, p, &map, c->device->stream);
    }
    return TNL_OK;
}

static bool is_aligned(const kn_linear *p) {
    return (uintptr_t)p->w->data % ALIGNMENT == 0 &&
           (!p->w2 || (uintptr_t)p->w2->data % ALIGNMENT == 0);
}

tnl_status kn_cuda_prompts_linear(kn_cuda_prompts *c, const kn_linear *p, const kn_cuda_run *runs,
                                  int64_t n_runs, tnl_error *err) {
    const bool tried = n_runs > 0 && is_for_library(c, p->w) && is_aligned(p);
    if (tried)
        TNL_TRY(prepare(c, p->w, p->w2 != NULL, err));
    const known_shape *s = tried ? find_shape(c, p->w) : NULL;
    if (!s || !s->choice.product) {
        kn_cuda_linear(p, c->device->stream);
        return TNL_OK;
    }
    multiply_others(c, p, runs, n_runs);
    for (int64_t i = 0; i < n_runs; i += KN_CUDA_MAP_RUNS) {
        const int64_t left = n_runs - i, n = left < KN_CUDA_MAP_RUNS ? left : KN_CUDA_MAP_RUNS;
        TNL_TRY(multiply_slices(c, &s->choice, p, runs + i, n, err));
    }
    return TNL_OK;
}
