/* Guarded, poisoned buffers. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/checkkern/ck.h"

/* As f32 a quiet NaN, as f16 and bf16 NaNs too. */
static const unsigned char poison[4] = {0xA5, 0xFF, 0xA5, 0xFF};

static void fill_poison(unsigned char *p, size_t n) {
    for (size_t i = 0; i < n; i++)
        p[i] = poison[((uintptr_t)p + i) % 4];
}

static bool is_poison(const unsigned char *p, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (p[i] != poison[((uintptr_t)p + i) % 4])
            return false;
    return true;
}

void *ck_matrix(ck *k, int64_t rows, int64_t cols, int64_t ld, int64_t elem) {
    if (k->n_bufs == CK_MOST_BUFS)
        abort();
    ck_buf *b = &k->bufs[k->n_bufs++];
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    *b = (ck_buf){.rows = rows, .cols = cols, .ld = ld, .elem = elem};
    b->bytes = (size_t)((rows - 1) * ld + cols) * (size_t)elem;
    b->readable = (b->bytes + page - 1) / page * page + page;
    b->map_bytes = b->readable + 2 * page;
    unsigned char *m = mmap(NULL, b->map_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (m == MAP_FAILED || mprotect(m + page, b->readable, PROT_READ | PROT_WRITE))
        abort();
    b->map = m + page;
    size_t room = b->readable - b->bytes, at;
    switch (ck_between(k, 0, 2)) {
    case 0:
        at = room; /* flush with the page that may not be read */
        break;
    case 1:
        at = 0;
        break;
    default:
        at = (size_t)ck_between(k, 0, (int64_t)room);
        break;
    }
    b->begin = b->map + at / (size_t)elem * (size_t)elem;
    fill_poison(b->map, b->readable);
    return b->begin;
}

float *ck_f32(ck *k, int64_t rows, int64_t cols, int64_t ld) {
    return ck_matrix(k, rows, cols, ld, 4);
}

float *ck_filled(ck *k, ck_fill f, int64_t rows, int64_t cols, int64_t ld) {
    float *p = ck_f32(k, rows, cols, ld);
    for (int64_t r = 0; r < rows; r++)
        ck_values(k, f, p + r * ld, cols);
    return p;
}

void ck_freeze(ck *k) {
    for (int i = 0; i < k->n_bufs; i++)
        if (mprotect(k->bufs[i].map, k->bufs[i].readable, PROT_READ))
            abort();
}

static bool buffer_intact(const ck_buf *b) {
    size_t before = (size_t)(b->begin - b->map);
    if (!is_poison(b->map, before) ||
        !is_poison(b->begin + b->bytes, b->readable - before - b->bytes))
        return false;
    for (int64_t r = 0; r + 1 < b->rows; r++)
        if (!is_poison(b->begin + (r * b->ld + b->cols) * b->elem,
                       (size_t)((b->ld - b->cols) * b->elem)))
            return false;
    return true;
}

void ck_buffers_done(ck *k, const char *what) {
    bool ok = true;
    for (int i = 0; i < k->n_bufs; i++) {
        ok = ok && buffer_intact(&k->bufs[i]);
        const size_t page = (size_t)sysconf(_SC_PAGESIZE);
        munmap(k->bufs[i].map - page, k->bufs[i].map_bytes);
    }
    k->n_bufs = 0;
    if (!ok) {
        char msg[300];
        snprintf(msg, sizeof msg, "%s: wrote outside its output", what);
        ck_expect(k, false, msg);
    }
}
