/* How many processors this process may use: the affinity mask, capped by the quota of its cgroup
 * or of any parent (version 2 and version 1 files). */
#include <errno.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/base/threads.h"

#define PATH_CAP 1024

static int affinity_count(void) {
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        return CPU_COUNT(&set);
    long n = sysconf(_SC_NPROCESSORS_ONLN); /* more processors than a cpu_set_t holds */
    return n > 0 && n < 1 << 20 ? (int)n : 1;
}

/* Read the first line of dir/name; false when there is none. */
static bool read_line(char *line, int cap, const char *dir, const char *name) {
    char path[2 * PATH_CAP];
    int n = snprintf(path, sizeof path, "%s/%s", dir, name);
    if (n < 0 || (size_t)n >= sizeof path)
        return false;
    FILE *f = fopen(path, "re");
    if (!f)
        return false;
    bool ok = fgets(line, cap, f) != NULL;
    fclose(f);
    return ok;
}

/* Processors that quota/period amount to, rounded to the nearest; 0 when there is no limit. */
static int quota_cpus(long long quota, long long period) {
    if (quota <= 0 || period <= 0)
        return 0;
    long long n = (quota + period / 2) / period;
    return n < 1 ? 1 : n > 1 << 20 ? 1 << 20 : (int)n;
}

static int dir_limit(const char *dir, bool v2) {
    char line[128], *end;
    if (v2) {
        if (!read_line(line, sizeof line, dir, "cpu.max"))
            return 0;
        errno = 0;
        long long quota = strtoll(line, &end, 10); /* "max" parses as 0: no limit */
        return errno ? 0 : quota_cpus(quota, strtoll(end, NULL, 10));
    }
    if (!read_line(line, sizeof line, dir, "cpu.cfs_quota_us"))
        return 0;
    long long quota = strtoll(line, NULL, 10);
    if (!read_line(line, sizeof line, dir, "cpu.cfs_period_us"))
        return 0;
    return quota_cpus(quota, strtoll(line, NULL, 10));
}

/* The smallest limit of root/path and its parents; 0 when there is none. */
static int walk_limits(const char *root, const char *path, bool v2) {
    char dir[PATH_CAP];
    int n = snprintf(dir, sizeof dir, "%s%s", root, path);
    if (n < 0 || (size_t)n >= sizeof dir)
        return 0;
    int best = 0;
    for (size_t root_len = strlen(root);;) {
        int limit = dir_limit(dir, v2);
        if (limit && (!best || limit < best))
            best = limit;
        char *slash = strrchr(dir, '/');
        if (!slash || (size_t)(slash - dir) < root_len)
            return best;
        *slash = '\0';
    }
}

/* Does the comma-separated list of v1 controllers name "cpu"? */
static bool has_cpu(const char *list, const char *end) {
    for (const char *p = list; p < end;) {
        const char *comma = memchr(p, ',', (size_t)(end - p));
        const char *stop = comma ? comma : end;
        if (stop - p == 3 && memcmp(p, "cpu", 3) == 0)
            return true;
        p = stop + 1;
    }
    return false;
}

static int cgroup_limit(void) {
    FILE *f = fopen("/proc/self/cgroup", "re");
    if (!f)
        return 0;
    int best = 0;
    char line[PATH_CAP];
    while (fgets(line, sizeof line, f)) { /* id:controllers:path */
        line[strcspn(line, "\n")] = '\0';
        char *list = strchr(line, ':');
        char *path = list ? strchr(list + 1, ':') : NULL;
        if (!path)
            continue;
        bool v2 = path == list + 1;
        if (!v2 && !has_cpu(list + 1, path))
            continue;
        int limit = walk_limits(v2 ? "/sys/fs/cgroup" : "/sys/fs/cgroup/cpu", path + 1, v2);
        if (limit && (!best || limit < best))
            best = limit;
    }
    fclose(f);
    return best;
}

int tnl_cpu_count(void) {
    int n = affinity_count(), limit = cgroup_limit();
    if (limit && limit < n)
        n = limit;
    return n < 1 ? 1 : n;
}
