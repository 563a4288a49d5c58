/* The pool (every item once, however many threads and operations) and the opening of backends. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/threads.h"
#include "tests/checkkern/ck.h"

typedef struct pool_job {
    unsigned char *seen;
    int64_t n, grain;
    int threads;
    bool bad;
} pool_job;

static void mark_items(void *ctx, int64_t begin, int64_t end, int worker) {
    pool_job *j = ctx;
    if (begin < 0 || end > j->n || end - begin > j->grain || worker < 0 || worker >= j->threads)
        j->bad = true;
    else
        for (int64_t i = begin; i < end; i++)
            j->seen[i]++;
}

static void check_pool_size(ck *k, int threads) {
    tnl_pool *p;
    tnl_error err;
    static unsigned char seen[5000];
    if (tnl_pool_open(&p, threads, &err) != TNL_OK) {
        ck_expect(k, false, err.msg);
        return;
    }
    ck_expect(k, tnl_pool_threads(p) == threads, "thread count");
    for (int i = 0; i < 3000; i++) {
        pool_job j = {seen, ck_between(k, 0, i % 100 ? 40 : 5000), ck_between(k, 1, 9), threads,
                      false};
        memset(seen, 0, sizeof seen);
        tnl_pool_run(p, j.n, j.grain, mark_items, &j);
        bool once = !j.bad;
        for (int64_t a = 0; a < 5000; a++)
            once = once && seen[a] == (a < j.n);
        if (!once || i == 0)
            ck_expect(k, once, "every item exactly once");
    }
    tnl_pool_close(p);
}

void ck_check_pool(ck *k) {
    if (!ck_section(k, "pool"))
        return;
    k->isa = NULL;
    for (int threads = 1; threads <= 5; threads++)
        check_pool_size(k, threads);
    tnl_pool_close(NULL);
    tnl_pool *p;
    tnl_error err;
    ck_expect(k, tnl_pool_open(&p, 0, &err) != TNL_OK && !p, "a pool of no threads is refused");
    ck_expect(k, tnl_cpu_count() >= 1, "at least one processor");
}

void ck_check_open(ck *k) {
    if (!ck_section(k, "open"))
        return;
    k->isa = NULL;
    kn_backend *be;
    tnl_error err = {0};
    ck_expect(k, kn_cpu_open(&be, 1, "sse9", &err) == TNL_E_USAGE && !be &&
                     strstr(err.msg, "sse9"),
              "an unknown instruction set is an error that names it");
    ck_expect(k, kn_cpu_open(&be, -1, NULL, &err) != TNL_OK && !be, "-1 threads are refused");
    setenv("TNL_CPU", "ref", 1);
    ck_expect(k, kn_cpu_open(&be, 1, NULL, &err) == TNL_OK && !strcmp(be->isa, "ref"),
              "TNL_CPU=ref");
    void *p = be->alloc(be, 1000);
    bool zero = p != NULL && (uintptr_t)p % 64 == 0;
    for (int i = 0; zero && i < 1000; i++)
        zero = ((unsigned char *)p)[i] == 0;
    ck_expect(k, zero, "device memory is aligned and zeroed");
    be->free(be, p);
    ck_expect(k, be->alloc(be, SIZE_MAX - 3) == NULL, "too much memory is NULL");
    kn_backend_close(be);
    setenv("TNL_CPU", "nonsense", 1);
    ck_expect(k, kn_cpu_open(&be, 1, NULL, &err) != TNL_OK && strstr(err.msg, "nonsense"),
              "TNL_CPU with an unknown name is an error");
    unsetenv("TNL_CPU");
    kn_backend_close(NULL);
}
