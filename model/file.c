/* open, fstat, read or map; every failure says which path and why. */
#include "model/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

char *mdl_file_path(const char *dir, const char *name) {
    size_t n = strlen(dir) + strlen(name) + 2;
    char *path = malloc(n);
    if (path)
        snprintf(path, n, "%s/%s", dir, name);
    return path;
}

bool mdl_file_exists(const char *dir, const char *name) {
    struct stat st;
    char path[4096];
    int n = snprintf(path, sizeof path, "%s/%s", dir, name);
    if (n < 0 || (size_t)n >= sizeof path)
        return true; /* opening it will say what is wrong */
    return lstat(path, &st) == 0;
}

static const char *kind_of(mode_t mode) {
    if (S_ISDIR(mode))
        return "a directory";
    if (S_ISFIFO(mode))
        return "a FIFO";
    if (S_ISSOCK(mode))
        return "a socket";
    return "a device";
}

/* O_NONBLOCK, because opening a FIFO would otherwise wait for a writer. */
static tnl_status open_regular(int *fd, uint64_t *size, const char *path, tnl_error *err) {
    struct stat st;
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (*fd < 0)
        return tnl_fail(err, TNL_E_NO_INPUT, "%s: cannot open: %s", path, strerror(errno));
    tnl_status s = TNL_OK;
    if (fstat(*fd, &st) != 0)
        s = tnl_fail(err, TNL_E_IO, "%s: cannot stat: %s", path, strerror(errno));
    else if (!S_ISREG(st.st_mode))
        s = tnl_fail(err, TNL_E_DATA, "%s: found %s, expected a regular file", path,
                     kind_of(st.st_mode));
    if (s != TNL_OK)
        close(*fd);
    else
        *size = (uint64_t)st.st_size;
    return s;
}

static tnl_status read_all(int fd, void *dst, uint64_t n, const char *path, tnl_error *err) {
    for (uint64_t at = 0; at < n;) {
        uint64_t want = n - at < ((uint64_t)1 << 30) ? n - at : (uint64_t)1 << 30;
        ssize_t got = pread(fd, (char *)dst + at, (size_t)want, (off_t)at);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return tnl_fail(err, TNL_E_IO, "%s: cannot read: %s", path, strerror(errno));
        if (got == 0)
            return tnl_fail(err, TNL_E_IO,
                            "%s: became shorter while it was read: %llu of %llu bytes", path,
                            (unsigned long long)at, (unsigned long long)n);
        at += (uint64_t)got;
    }
    return TNL_OK;
}

tnl_status mdl_file_text(char **text, size_t *n, const char *path, size_t max, tnl_error *err) {
    int fd;
    uint64_t size = 0;
    *text = NULL;
    TNL_TRY(open_regular(&fd, &size, path, err));
    tnl_status s = TNL_OK;
    if (size > max)
        s = tnl_fail(err, TNL_E_LIMIT, "%s: %llu bytes, expected at most %zu", path,
                     (unsigned long long)size, max);
    else if (!(*text = malloc((size_t)size + 1)))
        s = tnl_fail(err, TNL_E_NOMEM, "%s: no memory to read it", path);
    else
        s = read_all(fd, *text, size, path, err);
    close(fd);
    if (s != TNL_OK) {
        free(*text);
        *text = NULL;
        return s;
    }
    (*text)[size] = 0;
    *n = (size_t)size;
    return TNL_OK;
}

static tnl_status map_copy(mdl_map *out, int fd, const char *path, tnl_error *err) {
    void *p =
        mmap(NULL, (size_t)out->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return tnl_fail(err, TNL_E_NOMEM, "%s: no memory for a copy of %llu bytes", path,
                        (unsigned long long)out->size);
    madvise(p, (size_t)out->size, MADV_HUGEPAGE); /* fewer page walks while weights stream */
    out->data = p;
    TNL_TRY(read_all(fd, p, out->size, path, err));
    mprotect(p, (size_t)out->size, PROT_READ);
    return TNL_OK;
}

static tnl_status map_file(mdl_map *out, int fd, const char *path, tnl_error *err) {
    void *p = mmap(NULL, (size_t)out->size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED)
        return tnl_fail(err, TNL_E_IO, "%s: cannot map: %s", path, strerror(errno));
    out->data = p;
    out->of_file = true;
    return TNL_OK;
}

tnl_status mdl_map_open(mdl_map *out, const char *path, mdl_load_mode mode, tnl_error *err) {
    int fd;
    *out = (mdl_map){0};
    TNL_TRY(open_regular(&fd, &out->size, path, err));
    tnl_status s = TNL_OK;
    if (out->size > SIZE_MAX / 2)
        s = tnl_fail(err, TNL_E_LIMIT, "%s: too large to map", path);
    else if (out->size > 0)
        s = mode == MDL_LOAD_READ ? map_copy(out, fd, path, err) : map_file(out, fd, path, err);
    close(fd);
    if (s != TNL_OK)
        mdl_map_close(out);
    return s;
}

void mdl_map_close(mdl_map *m) {
    if (m->data)
        munmap((void *)(uintptr_t)m->data, (size_t)m->size);
    *m = (mdl_map){0};
}
