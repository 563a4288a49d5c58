/* Reading the key, by the rules of the server's key file; and what a URL looks like. */
#include "server/cli/client/client_key.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FILE_MAX = 65536 };

static tnl_status take(char *key, const char *text, size_t n, const char *where, tnl_error *err) {
    if (n > CLI_KEY_MAX)
        return tnl_fail(err, TNL_E_USAGE, "%s: the key has %zu characters, at most %d", where, n,
                        CLI_KEY_MAX);
    for (size_t i = 0; i < n; i++)
        if (text[i] <= 0x20 || text[i] >= 0x7F) /* a line end would begin a header of its own */
            return tnl_fail(err, TNL_E_USAGE,
                            "%s: the key has a character that is not printable ASCII", where);
    memcpy(key, text, n);
    key[n] = 0;
    return TNL_OK;
}

/* The first line with something on it that is no comment. */
static tnl_status take_line(char *key, char *text, const char *where, tnl_error *err) {
    char *rest = text;
    for (char *line; (line = strsep(&rest, "\n"));) {
        size_t n = strlen(line);
        while (n && (line[n - 1] == '\r' || line[n - 1] == ' '))
            n--;
        if (n && *line != '#')
            return take(key, line, n, where, err);
    }
    return tnl_fail(err, TNL_E_USAGE, "%s: the key file holds no key", where);
}

static tnl_status check_file(int fd, const char *path, tnl_error *err) {
    struct stat st;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
        return tnl_fail(err, TNL_E_USAGE, "%s: the key file is not a regular file", path);
    if (st.st_mode & 077)
        return tnl_fail(err, TNL_E_USAGE,
                        "%s: the key file has mode %04o, others can read it; expected 0600", path,
                        (unsigned)(st.st_mode & 07777));
    return TNL_OK;
}

static tnl_status read_file(char *key, const char *path, tnl_error *err) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return tnl_fail(err, TNL_E_NO_INPUT, "%s: %s", path, strerror(errno));
    tnl_status s = check_file(fd, path, err);
    char *text = s == TNL_OK ? calloc(1, FILE_MAX + 1) : NULL;
    if (s == TNL_OK && !text)
        s = tnl_fail(err, TNL_E_NOMEM, "out of memory");
    if (s == TNL_OK && read(fd, text, FILE_MAX) < 0)
        s = tnl_fail(err, TNL_E_IO, "%s: %s", path, strerror(errno));
    if (s == TNL_OK)
        s = take_line(key, text, path, err);
    if (text)
        explicit_bzero(text, FILE_MAX);
    free(text);
    close(fd);
    return s;
}

bool cli_is_url(const char *text) {
    return strncmp(text, "http://", 7) == 0 || strncmp(text, "https://", 8) == 0 ||
           strncmp(text, "unix:", 5) == 0;
}

tnl_status cli_key_read(char key[CLI_KEY_MAX + 1], const char *file, tnl_error *err) {
    key[0] = 0;
    if (file && *file)
        return read_file(key, file, err);
    char *value = getenv("TNL_API_KEY");
    if (!value || !*value)
        return TNL_OK;
    tnl_status s = take(key, value, strlen(value), "TNL_API_KEY", err);
    explicit_bzero(value, strlen(value)); /* not left in /proc/self/environ */
    unsetenv("TNL_API_KEY");
    return s;
}
