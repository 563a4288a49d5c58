/* Memory of the CUDA backend: copies made once, buffers that grow; and waiting. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/cuda/cuda_impl.h"

enum { FIRST_PAIR = 256 << 10 }; /* bytes */

void kn_cuda_fail_memory(kn_cuda *c, size_t bytes) {
    if (!kn_cuda_has_failed(c))
        tnl_fail(&c->failure, TNL_E_NOMEM, "cuda:%d: no memory for %zu bytes", c->device.index,
                 bytes);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void kn_cuda_wait(kn_cuda *c) {
    tnl_error after = {0}; /* the first failure is the one that counts */
    kn_cuda_device_wait(&c->device, kn_cuda_has_failed(c) ? &after : &c->failure);
    if (c->step_ended)
        c->idle_since = now();
    c->step_ended = false;
}

void kn_cuda_busy(kn_cuda *c) {
    if (c->idle_since > 0)
        c->idle += now() - c->idle_since;
    c->idle_since = 0;
}

/* ---- copies ---- */

void *kn_cuda_find_copy(const kn_cuda_copies *l, const void *of) {
    for (size_t i = 0; i < l->n; i++)
        if (l->v[i].of == of)
            return l->v[i].copy;
    return NULL;
}

static bool make_room(kn_cuda_copies *l) {
    if (l->n < l->room)
        return true;
    size_t room = l->room ? 2 * l->room : 64;
    kn_cuda_copy *v = realloc(l->v, room * sizeof *v);
    if (!v)
        return false;
    l->v = v;
    l->room = room;
    return true;
}

void *kn_cuda_copy_once(kn_cuda *c, kn_cuda_copies *l, const void *of, const void *from,
                        size_t bytes) {
    void *copy = kn_cuda_find_copy(l, of);
    if (copy || !make_room(l))
        return copy;
    copy = kn_cuda_device_alloc(&c->device, bytes);
    if (!copy)
        return NULL;
    kn_cuda_device_copy(&c->device, copy, bytes, from, bytes, bytes, 1);
    kn_cuda_wait(c);
    l->v[l->n++] = (kn_cuda_copy){of, copy};
    return copy;
}

void kn_cuda_free_copies(kn_cuda *c, kn_cuda_copies *l) {
    for (size_t i = 0; i < l->n; i++)
        kn_cuda_device_free(&c->device, l->v[i].copy);
    free(l->v);
    *l = (kn_cuda_copies){0};
}

/* ---- memory that grows ---- */

bool kn_cuda_grow(kn_cuda *c, void **p, size_t *have, size_t bytes) {
    if (*have >= bytes)
        return true;
    kn_cuda_wait(c);
    kn_cuda_device_free(&c->device, *p);
    *p = kn_cuda_device_alloc(&c->device, bytes);
    *have = *p ? bytes : 0;
    if (!*p)
        kn_cuda_fail_memory(c, bytes);
    return *p != NULL;
}

void kn_cuda_free_pair(kn_cuda *c, kn_cuda_pair *p) {
    kn_cuda_host_free(&c->device, p->host);
    kn_cuda_device_free(&c->device, p->device);
    *p = (kn_cuda_pair){0};
}

bool kn_cuda_grow_pair(kn_cuda *c, kn_cuda_pair *p, size_t bytes) {
    if (p->bytes >= bytes)
        return true;
    kn_cuda_wait(c);
    kn_cuda_free_pair(c, p);
    for (p->bytes = FIRST_PAIR; p->bytes < bytes;)
        p->bytes *= 2;
    p->host = kn_cuda_host_alloc(&c->device, p->bytes);
    p->device = kn_cuda_device_alloc(&c->device, p->bytes);
    if (p->host && p->device)
        return true;
    kn_cuda_fail_memory(c, p->bytes);
    kn_cuda_free_pair(c, p);
    return false;
}

void kn_cuda_upload(kn_cuda *c, const kn_cuda_pair *p, size_t bytes) {
    kn_cuda_device_copy(&c->device, p->device, bytes, p->host, bytes, bytes, 1);
}
