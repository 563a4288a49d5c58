/* The conversation and its file. */
#include "server/cli/chat/chat_log.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernels/base/json_scan.h"
#include "server/cli/client/client_dialect.h"

static const char *const role_names[] = {"system", "user", "assistant"};

void cli_chat_log_free(cli_chat_log *log) {
    for (size_t i = 0; i < log->n; i++)
        free(log->m[i].text);
    free(log->m);
    *log = (cli_chat_log){0};
}

static char *copy(const char *text, size_t n) {
    char *s = malloc(n + 1);
    if (!s)
        return NULL;
    memcpy(s, text, n);
    s[n] = 0;
    return s;
}

static tnl_status insert(cli_chat_log *log, size_t at, srv_role role, const char *text, size_t n,
                         tnl_error *err) {
    if (log->n == CLI_CHAT_MESSAGES || n > CLI_CHAT_MESSAGE_MAX)
        return tnl_fail(err, TNL_E_LIMIT, "a conversation holds %d messages of %d bytes at most",
                        CLI_CHAT_MESSAGES, CLI_CHAT_MESSAGE_MAX);
    if (log->n == log->cap) {
        size_t cap = 2 * log->cap + 16;
        srv_message *grown = realloc(log->m, cap * sizeof *grown);
        if (!grown)
            return tnl_fail(err, TNL_E_NOMEM, "out of memory");
        log->m = grown;
        log->cap = cap;
    }
    char *s = copy(text, n);
    if (!s)
        return tnl_fail(err, TNL_E_NOMEM, "out of memory");
    memmove(log->m + at + 1, log->m + at, (log->n - at) * sizeof *log->m);
    log->m[at] = (srv_message){.role = role, .text = s, .text_len = n};
    log->n++;
    return TNL_OK;
}

tnl_status cli_chat_log_add(cli_chat_log *log, srv_role role, const char *text, size_t n,
                            tnl_error *err) {
    return insert(log, log->n, role, text, n, err);
}

bool cli_chat_log_has_system(const cli_chat_log *log) {
    return log->n && log->m[0].role == SRV_ROLE_SYSTEM;
}

tnl_status cli_chat_log_system(cli_chat_log *log, const char *text, tnl_error *err) {
    bool had = cli_chat_log_has_system(log);
    if (text && *text)
        TNL_TRY(insert(log, 0, SRV_ROLE_SYSTEM, text, strlen(text), err));
    size_t old = text && *text ? 1 : 0;
    if (had) {
        free(log->m[old].text);
        memmove(log->m + old, log->m + old + 1, (log->n - old - 1) * sizeof *log->m);
        log->n--;
    }
    return TNL_OK;
}

void cli_chat_log_pop(cli_chat_log *log) {
    if (log->n > (size_t)cli_chat_log_has_system(log))
        free(log->m[--log->n].text);
}

void cli_chat_log_reset(cli_chat_log *log) {
    while (cli_chat_log_last(log) >= 0)
        cli_chat_log_pop(log);
}

int cli_chat_log_last(const cli_chat_log *log) {
    return log->n > (size_t)cli_chat_log_has_system(log) ? (int)log->m[log->n - 1].role : -1;
}

void cli_chat_log_text(srv_buf *out, const cli_chat_log *log) {
    for (size_t i = 0; i < log->n; i++)
        srv_buf_put(out, log->m[i].text, log->m[i].text_len);
}

/* ---- the file ---- */

static bool write_all(int fd, const srv_buf *b) {
    for (size_t at = 0; at < b->len;) {
        ssize_t n = write(fd, b->data + at, b->len - at);
        if (n < 0 && errno != EINTR)
            return false;
        at += n > 0 ? (size_t)n : 0;
    }
    return true;
}

static tnl_status write_file(const srv_buf *b, const char *path, tnl_error *err) {
    size_t room = strlen(path) + 8;
    char *temporary = malloc(room);
    if (!temporary)
        return tnl_fail(err, TNL_E_NOMEM, "out of memory");
    snprintf(temporary, room, "%s.XXXXXX", path);
    int fd = mkostemp(temporary, O_CLOEXEC); /* mode 0600 */
    bool ok = fd >= 0 && write_all(fd, b) && fsync(fd) == 0;
    ok = fd >= 0 && close(fd) == 0 && ok && rename(temporary, path) == 0;
    tnl_status s = ok ? TNL_OK : tnl_fail(err, TNL_E_IO, "%s: %s", path, strerror(errno));
    if (!ok && fd >= 0)
        unlink(temporary);
    free(temporary);
    return s;
}

tnl_status cli_chat_log_save(const cli_chat_log *log, const char *path, tnl_error *err) {
    srv_buf b = {0};
    for (size_t i = 0; i < log->n; i++) {
        srv_buf_printf(&b, "{\"role\":\"%s\",\"content\":", role_names[log->m[i].role]);
        srv_json_string(&b, log->m[i].text, log->m[i].text_len);
        srv_buf_puts(&b, "}\n");
    }
    tnl_status s =
        b.failed ? tnl_fail(err, TNL_E_NOMEM, "out of memory") : write_file(&b, path, err);
    srv_buf_free(&b);
    return s;
}

static int role_of(const char *name) {
    for (int i = 0; name && i <= SRV_ROLE_ASSISTANT; i++)
        if (strcmp(role_names[i], name) == 0)
            return i;
    return -1;
}

static tnl_status add_object(cli_chat_log *log, const cJSON *root, tnl_error *err) {
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(root, "content"));
    int role = role_of(cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(root, "role")));
    if (role < 0)
        return tnl_fail(err, TNL_E_DATA, "role is not system, user or assistant");
    if (!text)
        return tnl_fail(err, TNL_E_DATA, "content is not a string");
    if (role == SRV_ROLE_SYSTEM && log->n)
        return tnl_fail(err, TNL_E_DATA, "a system message must come first");
    return cli_chat_log_add(log, (srv_role)role, text, strlen(text), err);
}

static tnl_status add_line(cli_chat_log *log, const char *line, tnl_error *err) {
    static const tnl_json_limits limits = {
        .max_bytes = CLI_CHAT_FILE_MAX, .max_values = 4096, .max_depth = 16, .max_keys = 1024};
    size_t n = strlen(line);
    if (n == 0)
        return TNL_OK;
    TNL_TRY(tnl_json_check(line, n, &limits, NULL, err));
    cJSON *root = cJSON_ParseWithLength(line, n);
    tnl_status s = add_object(log, root, err);
    cJSON_Delete(root);
    return s;
}

tnl_status cli_chat_log_parse(cli_chat_log *log, char *text, size_t n, const char *name,
                              tnl_error *err) {
    cli_chat_log fresh = {0};
    tnl_error why = {0};
    size_t number = 0;
    tnl_status s = TNL_OK;
    if (n > CLI_CHAT_FILE_MAX)
        return tnl_fail(err, TNL_E_LIMIT, "%s: %zu bytes, at most %d", name, n, CLI_CHAT_FILE_MAX);
    if (memchr(text, 0, n))
        return tnl_fail(err, TNL_E_DATA, "%s: not text", name);
    cli_json_forgive_nul(text, n);
    char *rest = text;
    for (char *line; s == TNL_OK && (line = strsep(&rest, "\n")); number++)
        s = add_line(&fresh, line, &why);
    if (s != TNL_OK) {
        cli_chat_log_free(&fresh);
        return tnl_fail(err, s, "%s: line %zu: %.300s", name, number, why.msg);
    }
    cli_chat_log_free(log);
    *log = fresh;
    return TNL_OK;
}

static tnl_status read_file(char **text, size_t *n, const char *path, tnl_error *err) {
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        tnl_status s = tnl_fail(err, TNL_E_NO_INPUT, "%s: %s", path,
                                fd < 0 ? strerror(errno) : "not a regular file");
        if (fd >= 0)
            close(fd);
        return s;
    }
    size_t cap = CLI_CHAT_FILE_MAX < st.st_size ? CLI_CHAT_FILE_MAX : (size_t)st.st_size;
    ssize_t got = 0;
    *n = 0;
    *text = malloc(cap + 2);
    while (*text && *n <= cap && (got = read(fd, *text + *n, cap + 1 - *n)) > 0)
        *n += (size_t)got;
    close(fd);
    if (*text && got >= 0) {
        (*text)[*n] = 0;
        return TNL_OK;
    }
    tnl_status s = *text ? tnl_fail(err, TNL_E_IO, "%s: %s", path, strerror(errno))
                         : tnl_fail(err, TNL_E_NOMEM, "out of memory");
    free(*text);
    *text = NULL;
    return s;
}

tnl_status cli_chat_log_load(cli_chat_log *log, const char *path, tnl_error *err) {
    char *text = NULL;
    size_t n = 0;
    TNL_TRY(read_file(&text, &n, path, err));
    tnl_status s = cli_chat_log_parse(log, text, n, path, err);
    free(text);
    return s;
}
