/* Status codes and error messages.
 *
 * Every function that can fail returns a tnl_status and, where a person will read about it,
 * fills a caller-owned tnl_error with one line: what, where, found, expected. Nothing here
 * allocates, prints or exits; any thread may call any function.
 */
#ifndef TNL_BASE_STATUS_H
#define TNL_BASE_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

/* name, process exit code (sysexits where one fits), words */
#define TNL_STATUS_LIST(X)                                                                         \
    X(OK, 0, "success")                                                                            \
    X(E_USAGE, 2, "usage error")                                                                   \
    X(E_DATA, 65, "malformed data")                                                                \
    X(E_NO_INPUT, 66, "cannot open input")                                                         \
    X(E_UNAVAILABLE, 69, "service unavailable")                                                    \
    X(E_INTERNAL, 70, "internal error")                                                            \
    X(E_NOMEM, 71, "out of memory")                                                                \
    X(E_IO, 74, "input/output error")                                                              \
    X(E_UNSUPPORTED, 78, "not supported")                                                          \
    X(E_LIMIT, 65, "limit exceeded")                                                               \
    X(E_NONFINITE, 65, "non-finite value")                                                         \
    X(E_BUSY, 75, "busy")                                                                          \
    X(E_QUOTA, 75, "more than its share")                                                          \
    X(E_CANCELLED, 70, "cancelled")

typedef enum tnl_status {
#define X(name, exit_code, words) TNL_##name,
    TNL_STATUS_LIST(X)
#undef X
} tnl_status;

/* One error, one line. `msg` is always NUL-terminated, valid UTF-8 free of control bytes. */
typedef struct tnl_error {
    tnl_status code;
    char msg[512];
} tnl_error;

/* Words for a status, never NULL. */
const char *tnl_status_str(tnl_status s);

/* Process exit code for a status. */
int tnl_status_exit_code(tnl_status s);

/* Fill *err (NULL allowed) and return `code`. Control bytes and invalid UTF-8 that reach the
 * message through arguments (file names, tensor names) are replaced by '?'; too long a message
 * is cut. */
tnl_status tnl_fail(tnl_error *err, tnl_status code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Forward a failure to the caller. */
#define TNL_TRY(expr)                                                                              \
    do {                                                                                           \
        tnl_status tnl_try_s_ = (expr);                                                            \
        if (tnl_try_s_ != TNL_OK)                                                                  \
            return tnl_try_s_;                                                                     \
    } while (0)

#ifdef __cplusplus
}
#endif
#endif
