/* Model folders for unit tests: growing byte buffers, and files in a temporary folder that is
 * removed afterwards. Included by one test file each. */
#ifndef TNL_TEST_FOLDER_H
#define TNL_TEST_FOLDER_H

#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct buf {
    unsigned char *p;
    size_t n, cap;
} buf;

static inline void must(int ok, const char *what) {
    if (!ok) {
        fprintf(stderr, "test set-up failed: %s\n", what);
        exit(1);
    }
}

static inline void put(buf *b, const void *p, size_t n) {
    if (b->n + n > b->cap) {
        b->cap = 2 * (b->n + n);
        b->p = realloc(b->p, b->cap);
        must(b->p != NULL, "memory");
    }
    if (n)
        memcpy(b->p + b->n, p, n);
    b->n += n;
}

static inline void put_text(buf *b, const char *s) {
    put(b, s, strlen(s));
}

static inline void put_le(buf *b, uint64_t v, int bytes) {
    for (int i = 0; i < bytes; i++, v >>= 8) {
        unsigned char c = (unsigned char)v;
        put(b, &c, 1);
    }
}

static inline void set_le(buf *b, size_t at, uint64_t v, int bytes) {
    for (int i = 0; i < bytes; i++, v >>= 8)
        b->p[at + (size_t)i] = (unsigned char)v;
}

static inline void put_fill(buf *b, int byte, size_t n) {
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)byte;
        put(b, &c, 1);
    }
}

static inline void drop(buf *b) {
    free(b->p);
    *b = (buf){0};
}

/* A safetensors file: length, header, data. */
static inline buf st_file(const char *header, const void *data, size_t n) {
    buf b = {0};
    put_le(&b, strlen(header), 8);
    put_text(&b, header);
    put(&b, data, n);
    return b;
}

static inline char *folder_new(void) {
    const char *tmp = getenv("TMPDIR");
    char path[512];
    snprintf(path, sizeof path, "%s/tnl-test-XXXXXX", tmp ? tmp : "/tmp");
    must(mkdtemp(path) != NULL, "temporary folder");
    char *copy = strdup(path);
    must(copy != NULL, "memory");
    return copy;
}

static inline const char *folder_path(const char *dir, const char *name) {
    static char path[1024]; /* one at a time is enough here */
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

static inline void folder_write(const char *dir, const char *name, const void *p, size_t n) {
    FILE *f = fopen(folder_path(dir, name), "wb");
    must(f && (n == 0 || fwrite(p, 1, n, f) == n) && fclose(f) == 0, name);
}

static inline void folder_text(const char *dir, const char *name, const char *text) {
    folder_write(dir, name, text, strlen(text));
}

static inline void folder_free(char *dir) {
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            if (unlink(folder_path(dir, e->d_name)) != 0)
                rmdir(folder_path(dir, e->d_name));
    if (d)
        closedir(d);
    rmdir(dir);
    free(dir);
}

#endif
