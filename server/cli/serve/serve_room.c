/* Is there memory for a second model beside the one that serves? An estimate that errs on the side
 * of refusing: running out would end the requests that a reload must not touch. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "server/cli/serve/serve_load.h"

static bool ends_with(const char *name, const char *end) {
    size_t n = strlen(name), e = strlen(end);
    return n > e && strcmp(name + n - e, end) == 0;
}

static tnl_status weight_bytes(uint64_t *out, const char *dir, tnl_error *err) {
    *out = 0;
    DIR *d = opendir(dir);
    if (!d)
        return tnl_fail(err, TNL_E_NO_INPUT, "%s: %s", dir, strerror(errno));
    for (const struct dirent *e = readdir(d); e; e = readdir(d)) {
        struct stat st;
        if (!ends_with(e->d_name, ".safetensors") && !ends_with(e->d_name, ".bin"))
            continue;
        if (fstatat(dirfd(d), e->d_name, &st, 0) == 0 && S_ISREG(st.st_mode))
            *out += (uint64_t)st.st_size;
    }
    closedir(d);
    return TNL_OK;
}

/* The number behind `name` at the beginning of a line of a file; false: not there. */
static bool figure(uint64_t *out, const char *file, const char *name) {
    char line[256];
    bool found = false;
    FILE *f = fopen(file, "re");
    if (!f)
        return false;
    while (!found && fgets(line, sizeof line, f)) {
        unsigned long long v;
        if (strncmp(line, name, strlen(name)) == 0 &&
            sscanf(line + strlen(name), "%llu", &v) == 1) {
            *out = v;
            found = true;
        }
    }
    fclose(f);
    return found;
}

static uint64_t machine_available(void) {
    uint64_t kib;
    return figure(&kib, "/proc/meminfo", "MemAvailable:") ? kib * 1024 : UINT64_MAX;
}

/* What the control group (v2) of this process still grants; its page cache can be given back. */
static uint64_t group_available(void) {
    char line[512], path[640];
    uint64_t max, current, file = 0;
    FILE *f = fopen("/proc/self/cgroup", "re");
    if (!f)
        return UINT64_MAX;
    bool v2 = false;
    while (!v2 && fgets(line, sizeof line, f))
        v2 = strncmp(line, "0::/", 4) == 0;
    fclose(f);
    if (!v2)
        return UINT64_MAX;
    line[strcspn(line, "\n")] = 0;
    snprintf(path, sizeof path, "/sys/fs/cgroup%s/memory.max", line + 3);
    if (!figure(&max, path, "")) /* "max" is no number */
        return UINT64_MAX;
    snprintf(path, sizeof path, "/sys/fs/cgroup%s/memory.current", line + 3);
    if (!figure(&current, path, ""))
        return UINT64_MAX;
    snprintf(path, sizeof path, "/sys/fs/cgroup%s/memory.stat", line + 3);
    figure(&file, path, "file ");
    current -= file < current ? file : current;
    return max > current ? max - current : 0;
}

/* What a byte of weight file takes in memory, with these settings. */
static double share_of(const mdl_model *m) {
    const mdl_weights *w = mdl_model_weights(m);
    const mdl_tensors *t = mdl_model_tensors(m);
    uint64_t file = t ? mdl_tensors_file_bytes(t) : 0;
    return file ? (double)(w->bytes_owned + w->bytes_mapped) / (double)file : 1.0;
}

tnl_status cli_check_room(const char *dir, const mdl_model *now, int64_t states, tnl_error *err) {
    uint64_t files, machine = machine_available(), group = group_available();
    double have = (double)(machine < group ? machine : group);
    TNL_TRY(weight_bytes(&files, dir, err));
    double need = (double)files * share_of(now) + (double)mdl_state_bytes(now) * (double)states;
    if (need > have)
        return tnl_fail(err, TNL_E_NOMEM,
                        "%s: takes about %.0f MiB beside the model that serves, %.0f MiB are free",
                        dir, need / 1048576, have / 1048576);
    return TNL_OK;
}
