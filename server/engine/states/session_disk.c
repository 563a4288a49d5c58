/* Sessions on the disk, and the thread that puts them there.
 *
 * The folder holds ID.session for each session, ID.tmp while one is written, `secret` (what headers
 * are sealed with) and `lock` (one server at a time). A file appears under its name when it is
 * whole and on the disk: written aside, synced, renamed, the folder synced. A file that is refused
 * is set aside as ID.refused and named in the log; one of another model is left where it is, for
 * the day that model is served again, but no longer than a session may be left alone. Names are
 * made of ids, and ids are hexadecimal digits: no byte of a request reaches the file system. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "kernels/base/log.h"
#include "server/engine/request.h"
#include "server/engine/states/session_impl.h"

enum { NAME_MAX_BYTES = ENG_SESSION_ID_TEXT + 16, SWEEP_SECONDS = 5 };

static void name_of(char name[NAME_MAX_BYTES], const eng_session_id *id, const char *ending) {
    char text[ENG_SESSION_ID_TEXT];
    eng_session_id_write(text, id);
    snprintf(name, NAME_MAX_BYTES, "%s.%s", text, ending);
}

/* ---- the folder ---- */

static tnl_status fail_dir(tnl_error *err, const char *dir, const char *what) {
    return tnl_fail(err, TNL_E_IO, "--session-dir %.200s: %s: %s", dir, what, strerror(errno));
}

static tnl_status open_dir(eng_sessions *st, const char *dir, tnl_error *err) {
    struct stat s;
    if (mkdir(dir, 0700) != 0 && errno != EEXIST)
        return fail_dir(err, dir, "mkdir");
    st->dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (st->dir_fd < 0)
        return fail_dir(err, dir, "open");
    if (fstat(st->dir_fd, &s) != 0)
        return fail_dir(err, dir, "fstat");
    if (s.st_mode & (S_IWGRP | S_IWOTH))
        return tnl_fail(err, TNL_E_USAGE,
                        "--session-dir %.200s: mode %03o, others must not be able to write", dir,
                        (unsigned)s.st_mode & 0777);
    return TNL_OK;
}

/* The lock belongs to the open file: a descriptor of the store before shares it. */
static tnl_status lock_dir(eng_sessions *st, const eng_sessions *before, tnl_error *err) {
    if (before && before->lock_fd >= 0) {
        st->lock_fd = fcntl(before->lock_fd, F_DUPFD_CLOEXEC, 0);
        return st->lock_fd >= 0 ? TNL_OK : fail_dir(err, st->dir, "dup");
    }
    st->lock_fd = openat(st->dir_fd, "lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (st->lock_fd < 0)
        return fail_dir(err, st->dir, "lock");
    if (flock(st->lock_fd, LOCK_EX | LOCK_NB) != 0)
        return tnl_fail(err, TNL_E_UNAVAILABLE, "--session-dir %.200s: another server uses it",
                        st->dir);
    return TNL_OK;
}

static tnl_status write_whole(int fd, const void *data, size_t n) {
    return write(fd, data, n) == (ssize_t)n && fsync(fd) == 0 ? TNL_OK : TNL_E_IO;
}

static tnl_status make_secret(eng_sessions *st, tnl_error *err) {
    eng_session_id half[2];
    if (!eng_session_new_id(&half[0]) || !eng_session_new_id(&half[1]))
        return tnl_fail(err, TNL_E_IO, "getrandom: no secret");
    memcpy(st->codec.secret, half, sizeof st->codec.secret);
    unlinkat(st->dir_fd, "secret.tmp", 0);
    int fd = openat(st->dir_fd, "secret.tmp", O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
                    0600);
    if (fd < 0)
        return fail_dir(err, st->dir, "secret");
    tnl_status s = write_whole(fd, st->codec.secret, sizeof st->codec.secret);
    close(fd);
    if (s != TNL_OK || renameat(st->dir_fd, "secret.tmp", st->dir_fd, "secret") != 0 ||
        fsync(st->dir_fd) != 0)
        return fail_dir(err, st->dir, "secret");
    return TNL_OK;
}

static tnl_status read_secret(eng_sessions *st, tnl_error *err) {
    struct stat s;
    int fd = openat(st->dir_fd, "secret", O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? make_secret(st, err) : fail_dir(err, st->dir, "secret");
    bool good = fstat(fd, &s) == 0 && S_ISREG(s.st_mode) &&
                s.st_size == (off_t)sizeof st->codec.secret &&
                read(fd, st->codec.secret, sizeof st->codec.secret) == s.st_size;
    close(fd);
    if (!good || (s.st_mode & 077))
        return tnl_fail(err, TNL_E_DATA,
                        "--session-dir %.200s: `secret` must be a file of %zu bytes, mode 0600",
                        st->dir, sizeof st->codec.secret);
    return TNL_OK;
}

/* ---- reading ---- */

/* Waits for nothing, follows no link. */
static int open_session(const eng_sessions *st, const eng_session_id *id) {
    char name[NAME_MAX_BYTES];
    name_of(name, id, "session");
    return openat(st->dir_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
}

static void set_aside(const eng_sessions *st, const eng_session_id *id, const tnl_error *err) {
    char from[NAME_MAX_BYTES], to[NAME_MAX_BYTES];
    name_of(from, id, "session");
    name_of(to, id, "refused");
    tnl_log(TNL_LOG_WARN, "session file %s refused, kept as %s: %s", from, to, err->msg);
    if (renameat(st->dir_fd, from, st->dir_fd, to) != 0)
        tnl_log(TNL_LOG_WARN, "cannot rename %s: %s", from, strerror(errno));
}

static tnl_status check_name(const eng_session_meta *m, const eng_session_id *id, tnl_error *err) {
    if (memcmp(m->id.byte, id->byte, sizeof id->byte) != 0)
        return tnl_fail(err, TNL_E_DATA, "its name is not the session's");
    return TNL_OK;
}

static bool is_refusal(tnl_status s) {
    return s == TNL_E_DATA || s == TNL_E_NONFINITE || s == TNL_E_UNSUPPORTED;
}

/* The session ends with its file, whatever became of it meanwhile. */
static void end_refused(eng_sessions *st, uint64_t key, const eng_session_id *id,
                        const tnl_error *err) {
    set_aside(st, id, err);
    pthread_mutex_lock(&st->lock);
    eng_session *s = eng_session_find(st, key, id);
    st->refused++;
    if (s) {
        s->has_file = false; /* there is no file of that name any more */
        eng_session_remove(st, s);
    }
    pthread_mutex_unlock(&st->lock);
    eng_session_clean(st);
}

tnl_status eng_session_load(eng_sessions *st, const eng_session_id *id, uint64_t key,
                            eng_snapshot **snap, int32_t **tokens, int64_t *n, tnl_error *err) {
    eng_session_meta m = {0};
    tnl_error why = {0};
    int fd = open_session(st, id);
    if (fd < 0 && errno == ENOENT)
        return tnl_fail(err, TNL_E_NO_INPUT, "there is no such session");
    tnl_status s =
        fd < 0 ? tnl_fail(&why, errno == ELOOP ? TNL_E_DATA : TNL_E_IO, "open: %s", strerror(errno))
        : snap ? eng_session_file_read(snap, &m, fd, &st->codec, &st->memory, &why)
               : eng_session_file_text(tokens, &m, fd, &st->codec, &why);
    if (fd >= 0)
        close(fd);
    if (s == TNL_OK && (s = check_name(&m, id, &why)) == TNL_OK && m.key != key)
        s = tnl_fail(&why, TNL_E_DATA, "it belongs to another key");
    if (s != TNL_OK && snap) {
        eng_snapshot_unref(*snap);
        *snap = NULL;
    } else if (s != TNL_OK) {
        free(*tokens);
        *tokens = NULL;
    }
    *n = m.n;
    if (is_refusal(s)) {
        end_refused(st, key, id, &why);
        return tnl_fail(err, TNL_E_NO_INPUT, "the session's file is not usable: %s", why.msg);
    }
    if (s != TNL_OK)
        return tnl_fail(err, s, "session: %s", why.msg);
    pthread_mutex_lock(&st->lock);
    st->restores++;
    pthread_mutex_unlock(&st->lock);
    return TNL_OK;
}

/* ---- finding what is there ---- */

static bool ends_with(const char *name, const char *ending) {
    size_t n = strlen(name), k = strlen(ending);
    return n > k && strcmp(name + n - k, ending) == 0;
}

/* One that the lists can hold without pushing out what was used later. */
static bool makes_room(eng_sessions *st, const eng_session_meta *m) {
    return st->count < st->p.most || (st->oldest->used < m->used && eng_session_room(st, m->key));
}

static void keep_found(eng_sessions *st, const eng_session_meta *m) {
    int64_t now = eng_session_clock();
    eng_session *s = makes_room(st, m) ? eng_session_add(st, m->key, &m->id) : NULL;
    if (!s) {
        st->dropped++;
        eng_session_unlink(st, &m->id);
        return;
    }
    s->created = m->created;
    s->used = m->used;
    s->idle_since -= s->used < now ? (double)(now - s->used) * 1e-6 : 0;
    s->version = s->saved = 1;
    s->has_file = true;
    s->file_bytes = eng_session_file_bytes(&st->codec, m->n, m->pos);
    st->disk_bytes += s->file_bytes;
    eng_session_size(s, m->n, (size_t)s->file_bytes - ENG_SESSION_HEADER + sizeof(eng_snapshot));
    /* in order of use: the list is sorted but for this one, at its end */
    while (s->older && s->older->used > s->used) {
        eng_session *o = s->older;
        *(s->newer ? &s->newer->older : &st->newest) = o;
        o->newer = s->newer;
        s->newer = o;
        s->older = o->older;
        *(o->older ? &o->older->newer : &st->oldest) = s;
        o->older = s;
    }
}

/* One of another model is not in the table, which would drop it in time. */
static bool left_too_long(const eng_sessions *st, int fd) {
    struct stat f;
    return st->p.idle_s > 0 && fstat(fd, &f) == 0 &&
           difftime(time(NULL), f.st_mtime) > st->p.idle_s;
}

static void find_one(eng_sessions *st, const char *name) {
    eng_session_id id;
    eng_session_meta m;
    char text[ENG_SESSION_ID_TEXT];
    tnl_error err = {0};
    snprintf(text, sizeof text, "%.*s", ENG_SESSION_ID_TEXT - 1, name);
    if (strlen(name) != ENG_SESSION_ID_TEXT - 1 + strlen(".session") ||
        !eng_session_id_read(&id, text))
        return;
    int fd = open_session(st, &id);
    if (fd < 0 && errno == ENOENT)
        return; /* deleted meanwhile, by a store of another model */
    tnl_status s =
        fd < 0 ? tnl_fail(&err, errno == ELOOP ? TNL_E_DATA : TNL_E_IO, "open: %s", strerror(errno))
               : eng_session_file_head(&m, fd, &st->codec, &err);
    bool late = s == TNL_E_UNSUPPORTED && left_too_long(st, fd);
    if (fd >= 0)
        close(fd);
    if (late) {
        eng_session_unlink(st, &id);
        return;
    }
    if (s == TNL_OK)
        s = check_name(&m, &id, &err);
    st->refused += is_refusal(s);
    st->foreign += s == TNL_E_UNSUPPORTED;
    if (s == TNL_OK)
        keep_found(st, &m);
    else if (s == TNL_E_DATA)
        set_aside(st, &id, &err);
    else
        tnl_log(s == TNL_E_UNSUPPORTED ? TNL_LOG_DEBUG : TNL_LOG_WARN,
                "session file %s left alone: %s", name, err.msg);
}

/* `first`: no other store of this process writes here. */
static tnl_status scan(eng_sessions *st, bool first, tnl_error *err) {
    int fd = openat(st->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
    if (!d) {
        if (fd >= 0)
            close(fd);
        return fail_dir(err, st->dir, "read");
    }
    const struct dirent *e;
    while ((e = readdir(d))) {
        if (first && ends_with(e->d_name, ".tmp"))
            unlinkat(st->dir_fd, e->d_name, 0);
        else if (ends_with(e->d_name, ".session"))
            find_one(st, e->d_name);
    }
    closedir(d);
    eng_session_expire(st);
    eng_session_trim(st, NULL);
    eng_session_clean(st);
    return TNL_OK;
}

tnl_status eng_session_disk_open(eng_sessions *st, const eng_sessions *before, tnl_error *err) {
    TNL_TRY(open_dir(st, st->p.dir, err));
    st->dir = strdup(st->p.dir);
    if (!st->dir)
        return tnl_fail(err, TNL_E_NOMEM, "out of memory for a path");
    TNL_TRY(lock_dir(st, before, err));
    TNL_TRY(read_secret(st, err));
    TNL_TRY(scan(st, before == NULL, err));
    tnl_log(TNL_LOG_INFO, "sessions: %lld found in %s", (long long)st->count, st->dir);
    if (st->foreign > 0)
        tnl_log(TNL_LOG_WARN, "%lld session files in %s are of another model or tokenizer: left",
                (long long)st->foreign, st->dir);
    return TNL_OK;
}

void eng_session_disk_close(eng_sessions *st) {
    if (st->lock_fd >= 0)
        close(st->lock_fd);
    if (st->dir_fd >= 0)
        close(st->dir_fd);
}

/* ---- writing ---- */

void eng_session_queue(eng_sessions *st, eng_session *s) {
    s->save_failed = false;
    if (!st->dir || s->in_line)
        return;
    s->in_line = true;
    s->refs++;
    s->save_next = NULL;
    *(st->save_last ? &st->save_last->save_next : &st->save_first) = s;
    st->save_last = s;
    pthread_cond_signal(&st->work);
}

void eng_session_unlink(eng_sessions *st, const eng_session_id *id) {
    char name[NAME_MAX_BYTES];
    name_of(name, id, "session");
    if (unlinkat(st->dir_fd, name, 0) != 0 && errno != ENOENT)
        tnl_log(TNL_LOG_WARN, "cannot remove session file %s: %s", name, strerror(errno));
}

/* A whole file under the name `tmp`, on the disk. */
static tnl_status write_aside(const eng_sessions *st, const char *tmp, const eng_session_meta *m,
                              const eng_snapshot *snap, tnl_error *err) {
    unlinkat(st->dir_fd, tmp, 0);
    int fd = openat(st->dir_fd, tmp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return tnl_fail(err, TNL_E_IO, "open: %s", strerror(errno));
    tnl_status s = eng_session_file_write(fd, &st->codec, m, snap, err);
    if (s == TNL_OK && fsync(fd) != 0)
        s = tnl_fail(err, TNL_E_IO, "fsync: %s", strerror(errno));
    close(fd);
    return s;
}

/* The new file takes the old one's place, unless the session is gone: who deletes it takes `files`
 * after it is marked, and finds the file then. */
static tnl_status put_in_place(eng_sessions *st, eng_session *s, const char *tmp, tnl_error *err) {
    char name[NAME_MAX_BYTES];
    tnl_status done = TNL_OK;
    name_of(name, &s->id, "session");
    pthread_mutex_lock(&st->files);
    pthread_mutex_lock(&st->lock);
    bool gone = s->gone;
    if (!gone)
        s->has_file = true; /* from here on there may be one */
    pthread_mutex_unlock(&st->lock);
    if (gone)
        unlinkat(st->dir_fd, tmp, 0);
    else if (renameat(st->dir_fd, tmp, st->dir_fd, name) != 0)
        done = tnl_fail(err, TNL_E_IO, "rename: %s", strerror(errno));
    pthread_mutex_unlock(&st->files);
    return done;
}

/* Locked. */
static void note_success(eng_sessions *st, eng_session *s, uint64_t version,
                         const eng_snapshot *snap) {
    st->saves++;
    st->failing = false;
    if (s->gone)
        return;
    s->saved = version;
    st->disk_bytes -= s->file_bytes;
    s->file_bytes = eng_session_file_bytes(&st->codec, snap->n, snap->pos);
    st->disk_bytes += s->file_bytes;
}

/* Locked. */
static void note_failure(eng_sessions *st, eng_session *s, const tnl_error *err) {
    s->save_failed = true;
    st->save_errors++;
    if (!st->failing)
        tnl_log(TNL_LOG_ERROR, "sessions cannot be saved in %s: %s", st->dir, err->msg);
    st->failing = true;
}

/* Locked on entry and on return, not while it writes. */
static void save(eng_sessions *st, eng_session *s) {
    char tmp[NAME_MAX_BYTES];
    tnl_error err = {0};
    if (s->gone || !s->snap)
        return;
    eng_snapshot *snap = eng_snapshot_ref(s->snap);
    eng_session_meta m = {
        .id = s->id, .key = s->owner->key, .created = s->created, .used = s->used};
    uint64_t version = s->version;
    name_of(tmp, &s->id, "tmp");
    pthread_mutex_unlock(&st->lock);
    tnl_status done = write_aside(st, tmp, &m, snap, &err);
    if (done == TNL_OK)
        done = put_in_place(st, s, tmp, &err);
    if (done == TNL_OK)
        fsync(st->dir_fd);
    else
        unlinkat(st->dir_fd, tmp, 0);
    pthread_mutex_lock(&st->lock);
    if (done == TNL_OK)
        note_success(st, s, version, snap);
    else
        note_failure(st, s, &err);
    eng_session_trash(st, snap);
    eng_session_trim(st, NULL);
}

/* What could not be written is tried again. */
static void sweep(eng_sessions *st) {
    eng_session_expire(st);
    for (eng_session *s = st->oldest; s; s = s->newer)
        if (s->save_failed && s->snap)
            eng_session_queue(st, s);
}

static struct timespec sweep_time(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_sec += SWEEP_SECONDS;
    return t;
}

/* Locked on entry and on return. */
static void clean_up(eng_sessions *st) {
    st->cleaning = true;
    pthread_mutex_unlock(&st->lock);
    eng_session_clean(st);
    pthread_mutex_lock(&st->lock);
    st->cleaning = false;
    pthread_cond_broadcast(&st->quiet);
}

static void *writer(void *arg) {
    eng_sessions *st = arg;
    struct timespec next = sweep_time();
    pthread_mutex_lock(&st->lock);
    while (!st->stop || st->save_first) {
        eng_session *s = st->save_first;
        if (st->trash || st->doomed) {
            clean_up(st);
            continue;
        }
        if (!s) {
            if (pthread_cond_timedwait(&st->work, &st->lock, &next) == ETIMEDOUT) {
                sweep(st);
                next = sweep_time();
            }
            continue;
        }
        st->save_first = s->save_next;
        if (!st->save_first)
            st->save_last = NULL;
        s->in_line = false;
        st->writing = true;
        save(st, s);
        st->writing = false;
        eng_session_unref(s);
        pthread_cond_broadcast(&st->quiet);
    }
    pthread_mutex_unlock(&st->lock);
    return NULL;
}

tnl_status eng_session_disk_start(eng_sessions *st, tnl_error *err) {
    sigset_t all, before;
    sigfillset(&all);
    static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS};
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++)
        sigdelset(&all, faults[i]);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    st->started = pthread_create(&st->thread, NULL, writer, st) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return st->started ? TNL_OK : tnl_fail(err, TNL_E_NOMEM, "cannot start the sessions' thread");
}

void eng_session_disk_stop(eng_sessions *st) {
    if (!st->started)
        return;
    pthread_mutex_lock(&st->lock);
    st->stop = true;
    pthread_cond_signal(&st->work);
    pthread_mutex_unlock(&st->lock);
    pthread_join(st->thread, NULL);
    st->started = false;
}

void eng_sessions_flush(eng_sessions *st) {
    pthread_mutex_lock(&st->lock);
    while (st->save_first || st->writing || st->trash || st->doomed || st->cleaning)
        pthread_cond_wait(&st->quiet, &st->lock);
    pthread_mutex_unlock(&st->lock);
}
