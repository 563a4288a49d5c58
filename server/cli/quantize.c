/* tnl quantize: a model folder with packed matrices, in the layout that the kernels read. The
 * folder is written under another name and takes its own when it is complete. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model/config.h"
#include "model/file.h"
#include "model/weights_write.h"
#include "server/cli/cli.h"
#include "server/cli/progress.h"

typedef struct settings {
    const char *random;
    int type;
    bool force;
    int64_t shard_mb, threads;
    uint64_t seed;
} settings;

static const char *const type_names[] = {"q8", "q4", "f8", NULL};
static const kn_dtype types[] = {KN_Q8, KN_Q4, KN_F8};

#define AT(field) .offset = offsetof(settings, field)

static const cli_opt rows[] = {
    {.flag = "type",
     .type = CLI_CHOICE,
     AT(type),
     .choices = type_names,
     .dflt = "q8",
     .help = "q8: 8.1 bits a weight; q4: 4.4 bits; f8: 8-bit floats, for GPUs"},
    {.flag = "shard-mb",
     .type = CLI_INT,
     AT(shard_mb),
     .min = 1,
     .max = 1 << 24,
     .dflt = "4000",
     .arg = "MB",
     .help = "size of a file, from which on another is begun"},
    {.flag = "threads",
     .letter = 't',
     .type = CLI_INT,
     AT(threads),
     .min = 0,
     .max = 1024,
     .dflt = "0",
     .arg = "N",
     .env = "TNL_THREADS",
     .help = "threads that compute; 0: one per processor"},
    {.flag = "force", .type = CLI_BOOL, AT(force), .help = "replace the model in DST"},
    {.flag = "random",
     .type = CLI_STRING,
     AT(random),
     .arg = "SHAPE.json",
     .help = "no SRC: random weights of this shape, for timing"},
    {.flag = "seed", .type = CLI_U64, AT(seed), .dflt = "1", .arg = "N", .help = "of --random"},
};

static const cli_spec spec = {
    .name = "tnl quantize",
    .args = "SRC DST",
    .about =
        "Write the model folder SRC to the new folder DST with its matrices as 8-bit or 4-bit\n"
        "integers, or 8-bit floats. DST loads at once: its files hold what the kernels read.",
    .rows = rows,
    .n_rows = sizeof rows / sizeof rows[0],
    .min_args = 1,
    .max_args = 2,
    .examples = "  tnl quantize configs/tales tales-q4 --type q4\n"
                "  tnl quantize --random configs/shapes/tnl-385m.json random-q8\n",
};

/* Files of a model folder that go along unchanged, where there are any. */
static const char *const companions[] = {
    "tokenizer.model",
    "tokenizer_config.json",
    "generation_config.json",
    "tokenizer.json",
    "added_tokens.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "LICENSE",
    "LICENSE.txt",
    "NOTICE",
};
enum { N_COMPANIONS = sizeof companions / sizeof companions[0], MAX_COMPANION = 256 << 20 };

typedef struct job {
    const settings *o;
    const char *src; /* NULL: random */
    char *dst;       /* no slash at its end */
    char *temp;      /* being written; NULL: none */
    bool exists;     /* dst is a folder */
    mdl_spec spec;
    mdl_tensors *tensors;
    mdl_weights random;
    uint64_t source_bytes;
    mdl_written written;
} job;

/* Set by the signal handler, read between parts. */
static volatile sig_atomic_t interrupted;

static void on_interrupt(int sig) {
    (void)sig;
    interrupted = 1;
}

/* ---- the folder ---- */

static bool is_dot(const char *name) {
    return !strcmp(name, ".") || !strcmp(name, "..");
}

/* Calls fn for every name in a folder; false if it cannot be read. */
static bool each_name(const char *dir, void (*fn)(void *ctx, const char *name), void *ctx) {
    DIR *d = opendir(dir);
    if (!d)
        return false;
    for (const struct dirent *e; (e = readdir(d));)
        if (!is_dot(e->d_name))
            fn(ctx, e->d_name);
    closedir(d);
    return true;
}

static void count_name(void *ctx, const char *name) {
    (void)name;
    ++*(int *)ctx;
}

static void remove_name(void *dir, const char *name) {
    char *path = mdl_file_path(dir, name);
    if (path)
        unlink(path);
    free(path);
}

/* Weights that would be found before ours, or belong to the model that is replaced. */
static void remove_weights(void *dir, const char *name) {
    const char *dot = strrchr(name, '.');
    bool shard = !strncmp(name, "model-", 6) && dot && !strcmp(dot, ".safetensors");
    if (shard || !strcmp(name, "model.safetensors") ||
        !strcmp(name, "model.safetensors.index.json"))
        remove_name(dir, name);
}

static tnl_status check_target(job *j, tnl_error *err) {
    struct stat st, src;
    if (stat(j->dst, &st) != 0) {
        if (errno == ENOENT)
            return TNL_OK;
        return tnl_fail(err, TNL_E_IO, "%s: %s", j->dst, strerror(errno));
    }
    if (!S_ISDIR(st.st_mode))
        return tnl_fail(err, TNL_E_USAGE, "%s: found a file, expected a folder or nothing", j->dst);
    if (j->src && stat(j->src, &src) == 0 && src.st_dev == st.st_dev && src.st_ino == st.st_ino)
        return tnl_fail(err, TNL_E_USAGE, "%s: source and target are the same folder", j->dst);
    int names = 0;
    if (!each_name(j->dst, count_name, &names))
        return tnl_fail(err, TNL_E_IO, "%s: %s", j->dst, strerror(errno));
    if (names > 0 && !j->o->force)
        return tnl_fail(err, TNL_E_USAGE,
                        "%s: found a folder that is not empty, expected a new one (--force "
                        "replaces the model in it)",
                        j->dst);
    j->exists = true;
    return TNL_OK;
}

static tnl_status make_temp(job *j, tnl_error *err) {
    static const char tail[] = ".partial-XXXXXX";
    size_t n = strlen(j->dst) + sizeof tail;
    char *path = malloc(n);
    if (!path)
        return tnl_fail(err, TNL_E_NOMEM, "out of memory");
    snprintf(path, n, "%s%s", j->dst, tail);
    if (!mkdtemp(path)) {
        tnl_status s = tnl_fail(err, TNL_E_IO, "%s: cannot create: %s", path, strerror(errno));
        free(path);
        return s;
    }
    j->temp = path;
    mode_t mask = umask(0);
    umask(mask);
    chmod(path, 0777 & ~mask); /* mkdtemp keeps others out */
    return TNL_OK;
}

static void drop_temp(job *j) {
    if (j->temp) {
        each_name(j->temp, remove_name, j->temp);
        rmdir(j->temp);
    }
    free(j->temp);
    j->temp = NULL;
}

typedef struct move {
    const char *from, *to;
    bool config; /* only config.json, or all but it */
    int error;   /* errno of the first failure */
} move;

static void move_name(void *ctx, const char *name) {
    move *m = ctx;
    if (m->error || (strcmp(name, "config.json") == 0) != m->config)
        return;
    char *from = mdl_file_path(m->from, name), *to = mdl_file_path(m->to, name);
    m->error = !from || !to ? ENOMEM : rename(from, to) != 0 ? errno : 0;
    free(from);
    free(to);
}

/* Into a folder that exists, file by file. It has no config.json until the last one is there. */
static tnl_status fill_target(job *j, tnl_error *err) {
    move m = {.from = j->temp, .to = j->dst};
    remove_name(j->dst, "config.json");
    each_name(j->dst, remove_weights, j->dst);
    each_name(j->temp, move_name, &m);
    m.config = true;
    each_name(j->temp, move_name, &m);
    if (m.error)
        return tnl_fail(err, TNL_E_IO, "%s: cannot move files into it: %s", j->dst,
                        strerror(m.error));
    drop_temp(j);
    return TNL_OK;
}

static tnl_status publish(job *j, tnl_error *err) {
    if (j->exists)
        return fill_target(j, err);
    if (rename(j->temp, j->dst) != 0)
        return tnl_fail(err, TNL_E_IO, "%s: cannot rename to %s: %s", j->temp, j->dst,
                        strerror(errno));
    free(j->temp);
    j->temp = NULL;
    return TNL_OK;
}

/* ---- what goes into it ---- */

static tnl_status write_config(const job *j, const char *path, tnl_error *err) {
    char *text = NULL, *ours = NULL;
    size_t n = 0;
    mdl_spec check = {0};
    tnl_status s = mdl_file_text(&text, &n, path, 1 << 20, err);
    if (s == TNL_OK)
        s = mdl_config_add_quant(&ours, text, n, types[j->o->type], err);
    if (s == TNL_OK) /* what is written must be what is read */
        s = mdl_config_parse(&check, ours, strlen(ours), "config.json", err);
    if (s == TNL_OK)
        s = mdl_write_file(j->temp, "config.json", ours, strlen(ours), err);
    mdl_spec_clear(&check);
    free(text);
    free(ours);
    return s;
}

static tnl_status copy_companion(const job *j, const char *name, tnl_error *err) {
    char *text = NULL, *path = mdl_file_path(j->src, name);
    size_t n = 0;
    if (!path)
        return tnl_fail(err, TNL_E_NOMEM, "%s: no memory to copy it", name);
    tnl_status s = TNL_OK;
    if (mdl_file_exists(j->src, name)) {
        s = mdl_file_text(&text, &n, path, MAX_COMPANION, err);
        if (s == TNL_OK)
            s = mdl_write_file(j->temp, name, text, n, err);
    }
    free(text);
    free(path);
    return s;
}

static tnl_status write_rest(const job *j, tnl_error *err) {
    if (!j->src)
        return write_config(j, j->o->random, err);
    for (int i = 0; i < N_COMPANIONS; i++)
        TNL_TRY(copy_companion(j, companions[i], err));
    char *path = mdl_file_path(j->src, "config.json");
    tnl_status s = path ? write_config(j, path, err)
                        : tnl_fail(err, TNL_E_NOMEM, "config.json: no memory to write it");
    free(path);
    return s;
}

static tnl_status open_source(job *j, tnl_error *err) {
    if (!j->src) {
        TNL_TRY(mdl_config_load_file(&j->spec, j->o->random, err));
        return mdl_weights_random(&j->random, &j->spec, types[j->o->type], j->o->seed, err);
    }
    TNL_TRY(mdl_config_load(&j->spec, j->src, err));
    if (j->spec.quantized)
        return tnl_fail(err, TNL_E_UNSUPPORTED,
                        "%s: found a folder quantised as %s, expected the original weights", j->src,
                        kn_dtypes[j->spec.packed].name);
    TNL_TRY(mdl_tensors_open(&j->tensors, j->src, MDL_LOAD_MAP, err));
    j->source_bytes = mdl_tensors_file_bytes(j->tensors);
    return TNL_OK;
}

static void show_progress(void *ctx, uint64_t done, uint64_t total) {
    cli_progress_update(ctx, done, total);
}

static tnl_status write_weights(job *j, tnl_error *err) {
    cli_progress bar;
    cli_progress_begin(&bar, "quantising", "MB", 1e6);
    mdl_write p = {.dir = j->temp,
                   .spec = &j->spec,
                   .tensors = j->tensors,
                   .weights = j->tensors ? NULL : &j->random,
                   .type = types[j->o->type],
                   .threads = (int)j->o->threads,
                   .shard_bytes = (uint64_t)j->o->shard_mb * 1000000,
                   .progress = show_progress,
                   .progress_ctx = &bar,
                   .stop = &interrupted};
    tnl_status s = mdl_weights_write(&j->written, &p, err);
    cli_progress_end(&bar);
    return s;
}

static tnl_status quantize(job *j, tnl_error *err) {
    TNL_TRY(check_target(j, err));
    TNL_TRY(open_source(j, err));
    TNL_TRY(make_temp(j, err));
    TNL_TRY(write_weights(j, err));
    TNL_TRY(write_rest(j, err));
    return publish(j, err);
}

/* ---- the command ---- */

static tnl_status set_paths(job *j, const cli_args *a, tnl_error *err) {
    int want = j->o->random ? 1 : 2;
    if (a->n != want)
        return tnl_fail(err, TNL_E_USAGE, "expected %s, found %d operands",
                        want == 1 ? "DST alone after --random" : "SRC and DST", a->n);
    j->src = want == 2 ? a->v[0] : NULL;
    j->dst = strdup(a->v[want - 1]);
    if (!j->dst)
        return tnl_fail(err, TNL_E_NOMEM, "out of memory");
    for (size_t n = strlen(j->dst); n > 1 && j->dst[n - 1] == '/'; n--)
        j->dst[n - 1] = 0;
    return *j->dst ? TNL_OK : tnl_fail(err, TNL_E_USAGE, "DST is empty");
}

static void print_result(const job *j) {
    printf("%s: %s, %.1f MB in %d file%s", j->dst, type_names[j->o->type],
           (double)j->written.bytes / 1e6, j->written.files, j->written.files == 1 ? "" : "s");
    if (j->src)
        printf(" (%s: %.1f MB)", j->src, (double)j->source_bytes / 1e6);
    putchar('\n');
}

int cli_quantize(int argc, char **argv) {
    settings o;
    cli_args a;
    int code;
    if (cli_begin(&a, &spec, &o, argc, argv, &code)) {
        struct sigaction act = {.sa_handler = on_interrupt, .sa_flags = (int)SA_RESETHAND};
        tnl_error err = {0};
        job j = {.o = &o};
        sigaction(SIGINT, &act, NULL); /* a second Ctrl-C kills */
        sigaction(SIGTERM, &act, NULL);
        tnl_status s = set_paths(&j, &a, &err);
        if (s == TNL_OK)
            s = quantize(&j, &err);
        if (s == TNL_OK)
            print_result(&j);
        else
            code = cli_report(&spec, s, &err);
        drop_temp(&j);
        mdl_weights_clear(&j.random, &j.spec);
        mdl_tensors_close(j.tensors);
        mdl_spec_clear(&j.spec);
        free(j.dst);
    }
    cli_args_clear(&a);
    return code;
}
