/* Words are short and common, so that most tokenizers have a token or two for each. */
#include "server/cli/load/load_prompt.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/json_scan.h"
#include "kernels/base/splitmix.h"
#include "kernels/base/utf8.h"
#include "server/cli/cli.h"

enum { MAX_WORDS = 1000000, MAX_FILE = 256 << 20, MAX_LINE = 8 << 20 };

static const char *const words[] = {
    "the",     "of",    "and",  "to",    "in",     "a",     "was",  "he",    "his",   "that",
    "it",      "with",  "had",  "as",    "at",     "on",    "for",  "is",    "they",  "be",
    "but",     "so",    "him",  "her",   "not",    "she",   "all",  "said",  "have",  "when",
    "then",    "you",   "from", "there", "were",   "which", "one",  "out",   "up",    "into",
    "king",    "old",   "man",  "came",  "little", "went",  "day",  "time",  "house", "wood",
    "good",    "down",  "home", "night", "great",  "took",  "long", "water", "fire",  "road",
    "brother", "white", "gold", "tree",
};
enum { N_WORDS = sizeof words / sizeof words[0] };

static bool scan_count(int64_t *out, const char *s, const char **end) {
    char *stop;
    errno = 0;
    long long v = *s >= '0' && *s <= '9' ? strtoll(s, &stop, 10) : -1;
    if (v < 1 || v > MAX_WORDS || errno)
        return false;
    *out = v;
    *end = stop;
    return true;
}

tnl_status cli_prompts_range(int64_t *least, int64_t *most, const char *text, tnl_error *err) {
    const char *end = text;
    bool ok = scan_count(least, text, &end);
    *most = *least;
    if (ok && strncmp(end, "..", 2) == 0)
        ok = scan_count(most, end + 2, &end);
    if (!ok || *end || *most < *least)
        return tnl_fail(err, TNL_E_USAGE,
                        "--prompt-words %.40s: expected N or LEAST..MOST, 1 to %d", text,
                        MAX_WORDS);
    return TNL_OK;
}

/* ---- a file ---- */

/* The prompt replaces the JSON around it, which is longer. */
static tnl_status unwrap(char *line, const char *path, size_t number, tnl_error *err) {
    static const tnl_json_limits limits = {
        .max_bytes = MAX_LINE, .max_values = 1 << 16, .max_depth = 16, .max_keys = 1 << 10};
    size_t n = strlen(line);
    tnl_error why = {0};
    if (tnl_json_check(line, n, &limits, NULL, &why) != TNL_OK)
        return tnl_fail(err, TNL_E_DATA, "%s: line %zu: %.200s", path, number, why.msg);
    cJSON *root = cJSON_ParseWithLength(line, n);
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(root, "prompt"));
    size_t len = text ? strlen(text) : 0;
    if (text && len && len < n)
        memcpy(line, text, len + 1);
    cJSON_Delete(root);
    return text && len && len < n
               ? TNL_OK
               : tnl_fail(err, TNL_E_DATA, "%s: line %zu: \"prompt\" is no string, or empty", path,
                          number);
}

static tnl_status take_line(cli_prompts *p, char *line, const char *path, size_t number,
                            tnl_error *err) {
    size_t n = strlen(line);
    if (n && line[n - 1] == '\r')
        line[--n] = 0;
    if (n == 0)
        return TNL_OK;
    if (n > MAX_LINE)
        return tnl_fail(err, TNL_E_LIMIT, "%s: line %zu: more than %d bytes", path, number,
                        MAX_LINE);
    if (*line == '{')
        TNL_TRY(unwrap(line, path, number, err));
    p->lines[p->n_lines++] = line;
    return TNL_OK;
}

tnl_status cli_prompts_file(cli_prompts *p, const char *path, tnl_error *err) {
    size_t n = 0, count = 1, number = 0;
    TNL_TRY(cli_read_file(path, &p->file, &n, err));
    if (n > MAX_FILE)
        return tnl_fail(err, TNL_E_LIMIT, "%s: %zu bytes, at most %d", path, n, MAX_FILE);
    if (!tnl_utf8_valid(p->file, n) || memchr(p->file, 0, n))
        return tnl_fail(err, TNL_E_DATA, "%s: not UTF-8 text", path);
    for (size_t i = 0; i < n; i++)
        count += p->file[i] == '\n';
    p->lines = calloc(count, sizeof *p->lines);
    if (!p->lines)
        return tnl_fail(err, TNL_E_NOMEM, "out of memory");
    char *rest = p->file;
    for (char *line; (line = strsep(&rest, "\n"));)
        TNL_TRY(take_line(p, line, path, ++number, err));
    return p->n_lines ? TNL_OK : tnl_fail(err, TNL_E_DATA, "%s: no prompts", path);
}

void cli_prompts_free(cli_prompts *p) {
    free(p->file);
    free(p->lines);
    p->file = NULL;
    p->lines = NULL;
    p->n_lines = 0;
}

/* ---- a prompt ---- */

static void write_words(srv_buf *out, int64_t n, uint64_t state) {
    for (int64_t i = 0; i < n; i++) {
        uint64_t r = tnl_splitmix_next(&state);
        if (out->len)
            srv_buf_put(out, " ", 1);
        srv_buf_puts(out, words[r % N_WORDS]);
        if (r >> 32 & 1 && r >> 33 & 1 && r >> 34 & 1)
            srv_buf_put(out, ",", 1);
    }
}

void cli_prompts_write(srv_buf *out, const cli_prompts *p, uint64_t number) {
    uint64_t state = tnl_splitmix(p->seed) ^ tnl_splitmix(number);
    if (p->prefix_words) {
        uint64_t which = tnl_splitmix_next(&state) % (uint64_t)p->prefixes;
        write_words(out, p->prefix_words, tnl_splitmix(p->seed ^ 0x5eed) + which);
        srv_buf_puts(out, p->lines ? "\n" : "");
    }
    if (p->lines) {
        srv_buf_puts(out, p->lines[number % p->n_lines]);
        return;
    }
    uint64_t span = (uint64_t)(p->most - p->least) + 1;
    int64_t n = p->least + (int64_t)(tnl_splitmix_next(&state) % span);
    write_words(out, n, state);
}
