/* The help page, and the nearest name for a mistyped one. */
#include <stdlib.h>
#include <string.h>

#include "server/cli/options/options.h"

enum { HELP_COLUMN = 30, HELP_WIDTH = 88, NAME_MAX_LEN = 48 };

/* Print words from `text` starting at HELP_COLUMN, wrapped. */
static void print_wrapped(FILE *f, const char *text) {
    int at = HELP_COLUMN;
    while (*text) {
        int n = (int)strcspn(text, " ");
        if (at > HELP_COLUMN && at + 1 + n > HELP_WIDTH) {
            fprintf(f, "\n%*s", HELP_COLUMN, "");
            at = HELP_COLUMN;
        }
        at += fprintf(f, "%s%.*s", at > HELP_COLUMN ? " " : "", n, text);
        text += n + strspn(text + n, " ");
    }
    fputc('\n', f);
}

static void print_choices(char *out, size_t cap, const cli_opt *o) {
    out[0] = 0;
    for (int i = 0; o->choices[i]; i++) {
        size_t used = strlen(out);
        snprintf(out + used, cap - used, "%s%s", i ? "|" : "", o->choices[i]);
    }
}

static void print_row(FILE *f, const cli_opt *o) {
    if (!o->flag) {
        fprintf(f, "\n%s\n", o->help);
        return;
    }
    char value[96] = "", left[160], right[768];
    if (o->type == CLI_CHOICE)
        print_choices(value, sizeof value, o);
    else if (o->arg)
        snprintf(value, sizeof value, "%s", o->arg);
    char letter[8] = "    ";
    if (o->letter)
        snprintf(letter, sizeof letter, "-%c, ", o->letter);
    int n = snprintf(left, sizeof left, "  %s--%s%s%s", letter, o->flag, *value ? " " : "", value);
    bool show_default = o->dflt && *o->dflt && o->type != CLI_BOOL;
    snprintf(right, sizeof right, show_default ? "%s (default %s)" : "%s", o->help, o->dflt);
    if (n >= HELP_COLUMN - 1)
        fprintf(f, "%s\n%*s", left, HELP_COLUMN, "");
    else
        fprintf(f, "%-*s", HELP_COLUMN, left);
    print_wrapped(f, right);
}

void cli_print_help(FILE *f, const cli_spec *spec) {
    fprintf(f, "usage: %s %s%s[options]\n%s\n", spec->name, spec->args, *spec->args ? " " : "",
            spec->about);
    if (spec->n_rows && spec->rows[0].flag)
        fputs("\nOptions:\n", f);
    for (int i = 0; i < spec->n_rows; i++)
        print_row(f, &spec->rows[i]);
    static const cli_opt help = {.flag = "help", .letter = 'h', .help = "this page"};
    static const cli_opt version = {.flag = "version", .help = "the version"};
    print_row(f, &help);
    print_row(f, &version);
    if (spec->notes)
        fprintf(f, "\n%s", spec->notes);
    if (spec->examples)
        fprintf(f, "\nExamples:\n%s", spec->examples);
    fputs("\nExit codes: 0 success, 2 usage, 65 bad data, 66 cannot open, 69 unavailable,\n"
          "70 internal, 71 out of memory, 74 input/output, 75 busy, 78 not supported.\n",
          f);
}

static int min3(int a, int b, int c) {
    int m = a < b ? a : b;
    return m < c ? m : c;
}

/* Edit distance with neighbour swaps counted as one; words are cut to NAME_MAX_LEN bytes. */
static int distance(const char *a, const char *b) {
    int d[3][NAME_MAX_LEN + 1];
    int na = (int)strnlen(a, NAME_MAX_LEN), nb = (int)strnlen(b, NAME_MAX_LEN);
    for (int j = 0; j <= nb; j++)
        d[0][j] = j;
    for (int i = 1; i <= na; i++) {
        int *row = d[i % 3], *up = d[(i + 2) % 3], *up2 = d[(i + 1) % 3];
        row[0] = i;
        for (int j = 1; j <= nb; j++) {
            row[j] = min3(up[j] + 1, row[j - 1] + 1, up[j - 1] + (a[i - 1] != b[j - 1]));
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                up2[j - 2] + 1 < row[j])
                row[j] = up2[j - 2] + 1;
        }
    }
    return d[na % 3][nb];
}

const char *cli_nearest(const char *word, const char *const *names) {
    const char *best = NULL;
    size_t len = strlen(word);
    int limit = len <= 4 ? 1 : len <= 7 ? 2 : 3, best_d = limit + 1;
    for (const char *const *name = names; *name; name++) {
        int d = len >= 3 && !strncmp(word, *name, len) ? 0 : distance(word, *name);
        if (d < best_d) { /* a beginning ("--temp") is as good as the name */
            best_d = d;
            best = *name;
        }
    }
    return best;
}
