/* The host in the place of the CUDA runtime (kernels/cuda/runtime_cuda.h): one device, whose
 * allocations and waits fail when emu_runtime says so.
 *
 * Memory of the device lies in pages that cannot be touched from a wait until the next launch or
 * copy, so that a host that reads it as if it were its own is caught; an allocation ends where its
 * last page ends, so that one that reads beyond is caught as well. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kernels/cuda/runtime_cuda.h"
#include "tests/checkcuda/emulated_launches.h"
#include "tests/checkcuda/runtime_emulated.h"

enum { ALIGNMENT = 256, MOST_BLOCKS = 4096 };

/* An allocation: pages, and one behind them that stays closed. */
typedef struct pages {
    char *begin;
    size_t bytes;
    void *p; /* what the caller has */
} pages;

emu_faults emu_runtime;

static bool lost; /* the device, until it is opened again */

static struct {
    pages v[MOST_BLOCKS];
    int n;
    bool open;
} blocks;

/* ---- memory ---- */

static void protect(const pages *b, bool open) {
    if (mprotect(b->begin, b->bytes, open ? PROT_READ | PROT_WRITE : PROT_NONE) != 0)
        abort();
}

static void set_open(bool open) {
    for (int i = 0; blocks.open != open && i < blocks.n; i++)
        protect(&blocks.v[i], open);
    blocks.open = open;
}

static void open_memory(void) {
    set_open(true);
}

static bool no_memory(void) {
    return emu_runtime.allocations > 0 && --emu_runtime.allocations == 0;
}

void *kn_cuda_device_alloc(kn_cuda_device *d, size_t bytes) {
    (void)d;
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const size_t used = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    const size_t room = (used + page) / page * page;
    if (no_memory() || blocks.n == MOST_BLOCKS)
        return NULL;
    char *at = mmap(NULL, room + page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        return NULL;
    const pages b = {at, room, at + room - used};
    blocks.v[blocks.n++] = b;
    protect(&b, blocks.open);
    return b.p;
}

void kn_cuda_device_free(kn_cuda_device *d, void *p) {
    (void)d;
    if (!p)
        return;
    for (int i = 0; i < blocks.n; i++) {
        const pages b = blocks.v[i];
        if (b.p != p)
            continue;
        munmap(b.begin, b.bytes + (size_t)sysconf(_SC_PAGESIZE));
        blocks.v[i] = blocks.v[--blocks.n];
        return;
    }
    fprintf(stderr, "emulated device: memory is freed that it has not given\n");
    abort();
}

void *kn_cuda_host_alloc(kn_cuda_device *d, size_t bytes) {
    (void)d;
    return no_memory() ? NULL : calloc(bytes ? bytes : 1, 1);
}

void kn_cuda_host_free(kn_cuda_device *d, void *p) {
    (void)d;
    free(p);
}

void kn_cuda_device_copy(kn_cuda_device *d, void *dst, size_t dst_pitch, const void *src,
                         size_t src_pitch, size_t width, size_t rows) {
    (void)d;
    open_memory();
    emu_runtime.copied += width * rows;
    for (size_t i = 0; i < rows; i++)
        memcpy((char *)dst + i * dst_pitch, (const char *)src + i * src_pitch, width);
}

void kn_cuda_device_clear(kn_cuda_device *d, void *p, size_t bytes) {
    (void)d;
    open_memory();
    memset(p, 0, bytes);
}

/* ---- the device ---- */

tnl_status kn_cuda_device_open(kn_cuda_device *d, int index, tnl_error *err) {
    memset(d, 0, sizeof *d);
    setenv("TNL_CUBLASLT", "/none", 0); /* a real one would look for our pointers on a device */
    d->index = index;
    if (index > 0)
        return tnl_fail(err, TNL_E_UNAVAILABLE, "cuda:%d: found 1 GPU, counted from 0", index);
    snprintf(d->name, sizeof d->name, "emulated");
    d->major = 8;
    d->processors = 3;
    d->memory = (size_t)1 << 30;
    d->shared_bytes = 99 << 10;
    lost = false;
    emu_before_launches(open_memory);
    return TNL_OK;
}

void kn_cuda_device_close(kn_cuda_device *d) {
    (void)d;
}

tnl_status kn_cuda_device_wait(kn_cuda_device *d, tnl_error *err) {
    set_open(false);
    lost |= emu_runtime.waits > 0 && --emu_runtime.waits == 0;
    if (lost)
        return tnl_fail(err, TNL_E_INTERNAL, "cuda:%d: lost: unspecified launch failure", d->index);
    return TNL_OK;
}

/* ---- recording ---- */

bool kn_cuda_record(kn_cuda_device *d) {
    (void)d;
    emu_runtime.recorded++;
    if (emu_runtime.record_refused == EMU_AT_BEGIN)
        return false;
    emu_record();
    return true;
}

kn_cuda_graph kn_cuda_record_end(kn_cuda_device *d) {
    kn_cuda_graph g = emu_record_end();
    if (emu_runtime.record_refused != EMU_AT_END)
        return g;
    kn_cuda_graph_free(d, g);
    return NULL;
}

void kn_cuda_graph_launch(kn_cuda_device *d, kn_cuda_graph graph) {
    (void)d;
    emu_runtime.replayed++;
    emu_replay(graph);
}

void kn_cuda_graph_free(kn_cuda_device *d, kn_cuda_graph graph) {
    (void)d;
    emu_recorded_free(graph);
}
