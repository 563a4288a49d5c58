/* The CPU backend: host memory, a pool of threads, and the table of operations. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/base/memory.h"
#include "kernels/cpu/cpu_ops.h"

static void cpu_expect(kn_backend *be, const void *p, size_t bytes) {
    tnl_pool_expect(kn_cpu_of(be)->pool, p, bytes);
}

static const kn_ops cpu_ops = {
    .embed = kn_cpu_embed,
    .linear = kn_cpu_linear,
    .lrpe = kn_cpu_lrpe,
    .linattn = kn_cpu_linattn,
    .gather_rows = kn_cpu_gather_rows,
    .finite_rows = kn_cpu_finite_rows,
    .expect = cpu_expect,
};

_Static_assert(KN_CPU_SCRATCH % 16 == 0, "scratch areas start at cache lines");

static void *cpu_alloc(kn_backend *be, size_t bytes, kn_place place) {
    (void)be, (void)place;
    void *p = tnl_alloc_lines(bytes);
    if (p)
        memset(p, 0, bytes);
    return p;
}

static void cpu_free(kn_backend *be, void *p, kn_place place) {
    (void)be, (void)place;
    free(p);
}

static void cpu_each(kn_backend *be, int64_t n, tnl_pool_fn fn, void *ctx) {
    tnl_pool_run(kn_cpu_of(be)->pool, n, 1, fn, ctx);
}

static void cpu_close(kn_backend *be) {
    kn_cpu *c = kn_cpu_of(be);
    tnl_pool_close(c->pool);
    free(c->scratch);
    free(c);
}

/* Half of the second-level cache. */
static int64_t panel_bytes(void) {
    const int64_t least = 128 << 10, most = 1 << 20;
    int64_t l2 = sysconf(_SC_LEVEL2_CACHE_SIZE); /* 0 where unknown */
    int64_t half = l2 > 0 ? l2 / 2 : 256 << 10;
    return half < least ? least : half > most ? most : half;
}

/* A block of a group of rows takes half of the first-level cache; weights pass through the rest. */
static int64_t x_block(void) {
    const int64_t least = 256, most = 1024;
    int64_t l1 = sysconf(_SC_LEVEL1_DCACHE_SIZE); /* 0 where unknown */
    int64_t block = l1 / 2 / (KN_FEW_ROWS * (int64_t)sizeof(float)) / 16 * 16;
    return l1 <= 0 ? 512 : block < least ? least : block > most ? most : block;
}

static tnl_status open_parts(kn_cpu *c, int threads, const char *isa, tnl_error *err) {
    TNL_TRY(kn_dsp_init(&c->dsp, isa, err));
    TNL_TRY(tnl_pool_open(&c->pool, threads, err));
    c->panel_bytes = panel_bytes();
    c->x_block = x_block();
    const size_t bytes = KN_CPU_SCRATCH * sizeof *c->scratch;
    c->scratch = aligned_alloc(64, bytes * (size_t)threads);
    if (!c->scratch)
        return tnl_fail(err, TNL_E_NOMEM, "cpu backend: no memory for %d scratch areas of %zu B",
                        threads, bytes);
    return TNL_OK;
}

tnl_status kn_cpu_open(kn_backend **out, int threads, const char *isa, tnl_error *err) {
    *out = NULL;
    if (threads < 0 || threads > 4096)
        return tnl_fail(err, TNL_E_USAGE, "threads: found %d, expected 0 (all) to 4096", threads);
    if (threads == 0)
        threads = tnl_cpu_count();
    if (!isa)
        isa = getenv("TNL_CPU");
    if (isa && !*isa)
        isa = NULL;
    kn_cpu *c = calloc(1, sizeof *c);
    if (!c)
        return tnl_fail(err, TNL_E_NOMEM, "cpu backend: out of memory");
    c->base = (kn_backend){
        .name = "cpu",
        .block = KN_CPU_BLOCK,
        .threads = threads,
        .ops = &cpu_ops,
        .alloc = cpu_alloc,
        .free = cpu_free,
        .each = cpu_each,
        .close = cpu_close,
    };
    tnl_status st = open_parts(c, threads, isa, err);
    if (st != TNL_OK) {
        cpu_close(&c->base);
        return st;
    }
    c->base.isa = c->dsp.isa;
    *out = &c->base;
    return TNL_OK;
}
