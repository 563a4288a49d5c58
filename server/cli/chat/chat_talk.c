/* The talk: lines in, commands and messages, answers out.
 *
 * Answers go to standard output, everything else (prompts, notes, figures) to standard error, so
 * that a pipe gets the answers alone. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/base/utf8.h"
#include "server/cli/chat/chat.h"
#include "server/cli/chat/chat_input.h"
#include "server/cli/terminal.h"

enum { MESSAGE_MAX = 4 << 20, EXIT_INTERRUPTED = 130 };

/* Ctrl-C since it was last looked at; written by the handler. */
static volatile sig_atomic_t interrupts;

typedef struct talk {
    const cli_voice *voice;
    cli_chat_settings *o;
    const cli_spec *spec;
    cli_input *in;
    cli_chat_log log;
    bool person; /* standard input is a terminal */
    bool leave, armed;
    int code;
    char *message; /* being collected over several lines, and the last one sent */
    size_t n, cap;
    char *lost; /* a message whose answer failed, for /retry */
    cli_filter filter;
    bool line_open; /* the last byte on standard output was no line feed */
    srv_buf said;
    cli_answer last;
    bool has_last;
    int64_t total_prompt, total_cached, total_tokens, answers;
} talk;

static void on_interrupt(int sig) {
    (void)sig;
    interrupts = interrupts + 1;
    if (interrupts > 2) /* whatever we are stuck in */
        _exit(EXIT_INTERRUPTED);
}

/* ---- saying ---- */

/* An error ends a talk that no person follows: the next line of a script may rely on this one. */
static void complain(talk *t, tnl_status s, const tnl_error *err) {
    fflush(stdout);
    fprintf(stderr, "%s: %s\n", t->spec->name, err->msg);
    if (!t->person || s == TNL_E_IO) {
        t->leave = !t->person;
        t->code = tnl_status_exit_code(s);
    }
}

static tnl_status put(talk *t, const char *s, size_t n, tnl_error *err) {
    if (n == 0)
        return TNL_OK;
    t->line_open = s[n - 1] != '\n';
    if (fwrite(s, 1, n, stdout) != n || fflush(stdout) != 0) {
        t->leave = true;
        t->code = tnl_status_exit_code(TNL_E_IO);
        return tnl_fail(err, TNL_E_IO, "cannot write standard output");
    }
    return TNL_OK;
}

static tnl_status on_text(void *user, const char *s, size_t n, tnl_error *err) {
    talk *t = user;
    char out[CLI_FILTER_ROOM(1024)];
    srv_buf_put(&t->said, s, n);
    if (t->said.failed)
        return tnl_fail(err, TNL_E_NOMEM, "out of memory");
    for (size_t at = 0; at < n; at += 1024) {
        size_t part = n - at < 1024 ? n - at : 1024;
        TNL_TRY(put(t, out, cli_filter_feed(&t->filter, out, s + at, part), err));
    }
    return TNL_OK;
}

static void print_figures(const cli_answer *a) {
    double decode = a->total_ms - a->first_ms;
    if (a->prompt_tokens >= 0)
        fprintf(stderr, "prompt %" PRId64 " tokens", a->prompt_tokens);
    if (a->prompt_tokens >= 0 && a->cached_tokens >= 0)
        fprintf(stderr, " (%" PRId64 " cached)", a->cached_tokens);
    fprintf(stderr, "%sanswer %" PRId64 " tokens", a->prompt_tokens >= 0 ? ", " : "", a->tokens);
    if (a->first_ms >= 0)
        fprintf(stderr, ", first after %.0f ms", a->first_ms);
    if (a->tokens > 1 && decode > 0 && a->first_ms >= 0)
        fprintf(stderr, ", then %.1f tokens/s", 1000 * (double)(a->tokens - 1) / decode);
    fprintf(stderr, "%s%s\n", *a->finish ? ", ended by " : "", a->finish);
}

/* ---- asking ---- */

static void note_answer(talk *t) {
    const cli_answer *a = &t->last;
    t->has_last = true;
    t->answers++;
    t->total_prompt += a->prompt_tokens > 0 ? a->prompt_tokens : 0;
    t->total_cached += a->cached_tokens > 0 ? a->cached_tokens : 0;
    t->total_tokens += a->tokens > 0 ? a->tokens : 0;
}

static void end_line(talk *t) {
    char out[4];
    tnl_error ignored;
    (void)put(t, out, cli_filter_end(&t->filter, out), &ignored);
    if (t->line_open)
        (void)put(t, "\n", 1, &ignored);
}

/* What was asked and got no answer leaves the conversation, but is kept for /retry. */
static void take_back(talk *t) {
    free(t->lost);
    t->lost = NULL;
    if (cli_chat_log_last(&t->log) != SRV_ROLE_USER)
        return;
    t->lost = strdup(t->log.m[t->log.n - 1].text);
    cli_chat_log_pop(&t->log);
}

/* The conversation as it stands wants an answer. */
static void ask(talk *t) {
    tnl_error err = {0};
    cli_question q = {.log = &t->log,
                      .plain = t->voice->plain,
                      .o = t->o,
                      .text = on_text,
                      .user = t,
                      .interrupts = &interrupts};
    t->last = (cli_answer){.prompt_tokens = -1, .cached_tokens = -1, .tokens = -1, .first_ms = -1};
    interrupts = 0;
    srv_buf_clear(&t->said);
    tnl_status s = t->voice->answer(t->voice->self, &q, &t->last, &err);
    end_line(t);
    if (s != TNL_OK) {
        complain(t, s, &err);
        take_back(t);
        return;
    }
    note_answer(t);
    s = cli_chat_log_add(&t->log, SRV_ROLE_ASSISTANT, t->said.len ? t->said.data : "", t->said.len,
                         &err);
    if (s != TNL_OK)
        complain(t, s, &err);
    if (t->last.stopped) {
        t->armed = true;
        fputs("(stopped)\n", stderr);
        t->leave = t->leave || !t->person || interrupts > 1;
        interrupts = 0;
        t->code = t->person ? t->code : EXIT_INTERRUPTED;
    }
    if (t->o->stats)
        print_figures(&t->last);
}

static void submit(talk *t, const char *text, size_t n) {
    tnl_error err = {0};
    tnl_status s = cli_chat_log_add(&t->log, SRV_ROLE_USER, text, n, &err);
    if (s != TNL_OK)
        complain(t, s, &err);
    else
        ask(t);
}

/* ---- commands ---- */

typedef struct command {
    const char *name, *args, *help;
    void (*run)(talk *t, char *rest);
} command;

static const command *commands_at(int i);

static void do_help(talk *t, char *rest) {
    (void)rest;
    for (int i = 0; commands_at(i); i++) {
        const command *c = commands_at(i);
        int n = fprintf(stderr, "  %s %s", c->name, c->args);
        fprintf(stderr, "%*s%s\n", n < 22 ? 22 - n : 1, "", c->help);
    }
    fputs(
        "A message is a line. A backslash at its end goes on to the next line; so does a message\n"
        "that begins with \"\"\", until a line that ends with \"\"\". //x sends /x.\n"
        "Ctrl-C stops an answer; again, or Ctrl-D, leaves.\n",
        stderr);
    if (t->voice->plain)
        fputs("Here what you write and what comes back is one text; an empty line goes on.\n",
              stderr);
}

static void do_system(talk *t, char *rest) {
    tnl_error err = {0};
    if (t->voice->plain) {
        fputs("There is no system message where text is continued.\n", stderr);
        return;
    }
    tnl_status s = cli_chat_log_system(&t->log, rest, &err);
    if (s != TNL_OK)
        complain(t, s, &err);
    else if (t->person)
        fputs(*rest ? "(system message set)\n" : "(no system message)\n", stderr);
}

static void do_reset(talk *t, char *rest) {
    (void)rest;
    cli_chat_log_reset(&t->log);
    free(t->lost);
    t->lost = NULL;
    if (t->person)
        fputs("(the conversation begins anew)\n", stderr);
}

static void do_undo(talk *t, char *rest) {
    (void)rest;
    if (cli_chat_log_last(&t->log) < 0) {
        fputs("There is nothing to undo.\n", stderr);
        return;
    }
    if (cli_chat_log_last(&t->log) == SRV_ROLE_ASSISTANT)
        cli_chat_log_pop(&t->log);
    if (cli_chat_log_last(&t->log) == SRV_ROLE_USER)
        cli_chat_log_pop(&t->log);
    if (t->person)
        fprintf(stderr, "(undone; %zu messages)\n", t->log.n);
}

static void do_retry(talk *t, char *rest) {
    (void)rest;
    if (t->lost) {
        char *text = t->lost;
        t->lost = NULL;
        submit(t, text, strlen(text));
        free(text);
        return;
    }
    if (cli_chat_log_last(&t->log) == SRV_ROLE_ASSISTANT)
        cli_chat_log_pop(&t->log);
    if (cli_chat_log_last(&t->log) == SRV_ROLE_USER)
        ask(t);
    else
        fputs("There is nothing to ask again.\n", stderr);
}

static void do_save(talk *t, char *rest) {
    tnl_error err = {0};
    tnl_status s = *rest ? cli_chat_log_save(&t->log, rest, &err)
                         : tnl_fail(&err, TNL_E_USAGE, "/save needs a file name");
    if (s != TNL_OK)
        complain(t, s, &err);
    else if (t->person)
        fprintf(stderr, "(%zu messages saved)\n", t->log.n);
}

static void do_load(talk *t, char *rest) {
    tnl_error err = {0};
    tnl_status s = *rest ? cli_chat_log_load(&t->log, rest, &err)
                         : tnl_fail(&err, TNL_E_USAGE, "/load needs a file name");
    if (s != TNL_OK)
        complain(t, s, &err);
    else if (t->person)
        fprintf(stderr, "(%zu messages loaded)\n", t->log.n);
}

static void print_setting(const talk *t, const cli_opt *row, bool given) {
    const char *at = (const char *)t->o + row->offset;
    fprintf(stderr, "  %-20s", row->flag);
    if (row->type == CLI_REAL)
        fprintf(stderr, "%-10.6g", *(const double *)(const void *)at);
    else if (row->type == CLI_U64 && !given)
        fprintf(stderr, "%-10s", "drawn");
    else if (row->type == CLI_U64)
        fprintf(stderr, "%-10" PRIu64, *(const uint64_t *)(const void *)at);
    else
        fprintf(stderr, "%-10" PRId64, *(const int64_t *)(const void *)at);
    fprintf(stderr, "  %s%s\n", row->help, given ? "" : " [default]");
}

static bool same_name(const char *flag, const char *word) {
    for (; *flag && *word; flag++, word++)
        if (*flag != *word && !(*flag == '-' && *word == '_'))
            return false;
    return *flag == *word;
}

static void do_set(talk *t, char *rest) {
    int n, first;
    tnl_error err = {0};
    const cli_opt *rows = cli_chat_set_rows(&n, &first);
    char *value = rest + strcspn(rest, " \t");
    if (*value)
        *value++ = 0;
    value += strspn(value, " \t");
    for (int i = 0; i < n; i++) {
        if (!*rest)
            print_setting(t, &rows[i], t->o->given[first + i]);
        if (!*rest || !same_name(rows[i].flag, rest))
            continue;
        tnl_status s = cli_set(&rows[i], t->o, value, rows[i].flag, &err);
        t->o->given[first + i] = t->o->given[first + i] || s == TNL_OK;
        if (s != TNL_OK)
            complain(t, s, &err);
        return;
    }
    if (*rest) {
        tnl_fail(&err, TNL_E_USAGE, "/set %.40s: no such setting; /set lists them", rest);
        complain(t, TNL_E_USAGE, &err);
    }
}

static void do_stats(talk *t, char *rest) {
    (void)rest;
    if (!t->has_last) {
        fputs("There was no answer yet.\n", stderr);
        return;
    }
    fputs("last answer: ", stderr);
    print_figures(&t->last);
    fprintf(stderr,
            "all %" PRId64 " answers: prompts %" PRId64 " tokens (%" PRId64
            " cached), answers %" PRId64 " tokens\n",
            t->answers, t->total_prompt, t->total_cached, t->total_tokens);
}

static void do_quit(talk *t, char *rest) {
    (void)rest;
    t->leave = true;
}

static const command commands[] = {
    {"/help", "", "this list", do_help},
    {"/system", "[TEXT]", "set the system message; without TEXT: none", do_system},
    {"/reset", "", "forget the conversation, keep the system message", do_reset},
    {"/undo", "", "take back the last message and its answer", do_undo},
    {"/retry", "", "ask the last message again", do_retry},
    {"/save", "FILE", "write the conversation as JSON Lines", do_save},
    {"/load", "FILE", "go on with a saved conversation", do_load},
    {"/set", "[NAME VALUE]", "sampling settings: list them, change one", do_set},
    {"/stats", "", "tokens and speed of the last answer and of all", do_stats},
    {"/quit", "", "leave", do_quit},
};

static const command *commands_at(int i) {
    return i < (int)(sizeof commands / sizeof commands[0]) ? &commands[i] : NULL;
}

static void obey(talk *t, char *line) {
    char *rest = line + strcspn(line, " \t\n");
    if (*rest)
        *rest++ = 0;
    rest += strspn(rest, " \t");
    for (int i = 0; commands_at(i); i++)
        if (strcmp(commands_at(i)->name, line) == 0) {
            commands_at(i)->run(t, rest);
            return;
        }
    tnl_error err = {0};
    tnl_fail(&err, TNL_E_USAGE, "%.40s: unknown command; /help lists them", line);
    complain(t, TNL_E_USAGE, &err);
}

/* ---- reading ---- */

static bool append(talk *t, const char *s, size_t n) {
    if (t->n + n + 1 > t->cap) {
        size_t cap = 2 * (t->n + n + 1);
        char *grown = realloc(t->message, cap);
        if (!grown)
            return false;
        t->message = grown;
        t->cap = cap;
    }
    memcpy(t->message + t->n, s, n);
    t->n += n;
    t->message[t->n] = 0;
    return true;
}

static bool ends_with(const char *s, size_t n, const char *end) {
    size_t len = strlen(end);
    return n >= len && memcmp(s + n - len, end, len) == 0;
}

/* Add a line to the message. True: the message is whole. */
static tnl_status add_line(talk *t, const char *line, size_t n, bool *quoted, bool *whole,
                           tnl_error *err) {
    if (t->n == 0 && !*quoted && n >= 3 && memcmp(line, "\"\"\"", 3) == 0) {
        *quoted = true;
        line += 3;
        n -= 3;
    }
    bool closes = *quoted && ends_with(line, n, "\"\"\"");
    bool goes_on = !*quoted && ends_with(line, n, "\\");
    n -= closes ? 3 : goes_on ? 1 : 0;
    *whole = *quoted ? closes : !goes_on;
    if (t->n + n > MESSAGE_MAX)
        return tnl_fail(err, TNL_E_LIMIT, "the message has more than %d bytes", MESSAGE_MAX);
    if (!append(t, line, n) || (!*whole && !append(t, "\n", 1)))
        return tnl_fail(err, TNL_E_NOMEM, "out of memory");
    return TNL_OK;
}

static void on_ctrl_c(talk *t) {
    interrupts = 0;
    fputc('\n', stderr);
    if (t->armed || !t->person) {
        t->leave = true;
        t->code = t->person ? t->code : EXIT_INTERRUPTED;
    } else if (t->person) {
        fputs("(Ctrl-C again or Ctrl-D leaves)\n", stderr);
    }
    t->armed = true;
}

static void stop_reading(talk *t, cli_input_kind k) {
    tnl_error err = {0};
    if (k == CLI_INPUT_INTERRUPTED) {
        on_ctrl_c(t);
    } else if (k == CLI_INPUT_LONG) {
        tnl_fail(&err, TNL_E_LIMIT, "the line has more than %d bytes", CLI_INPUT_MAX);
        complain(t, TNL_E_LIMIT, &err);
    } else if (k == CLI_INPUT_FAILED) {
        tnl_fail(&err, TNL_E_IO, "cannot read standard input: %s", strerror(errno));
        complain(t, TNL_E_IO, &err);
        t->leave = true;
    } else {
        if (t->person)
            fputc('\n', stderr);
        t->leave = true;
    }
}

/* A whole message or command in t->message. */
static bool read_message(talk *t) {
    tnl_error err = {0};
    bool quoted = false, whole = false;
    t->n = 0;
    while (!whole) {
        char *line;
        size_t n;
        cli_input_kind k = cli_input_line(t->in,
                                          t->n || quoted    ? "... "
                                          : t->voice->plain ? "+ "
                                                            : "> ",
                                          &line, &n);
        if (k == CLI_INPUT_END && (t->n || quoted) && !t->person)
            break; /* the pipe ended inside a message: it is whole now */
        if (k != CLI_INPUT_LINE) {
            stop_reading(t, k);
            return false;
        }
        t->armed = false;
        tnl_status s = add_line(t, line, n, &quoted, &whole, &err);
        if (s == TNL_OK && (memchr(line, 0, n) || !tnl_utf8_valid(line, n)))
            s = tnl_fail(&err, TNL_E_DATA, "the line is not UTF-8 text");
        if (s != TNL_OK) {
            complain(t, s, &err);
            return false;
        }
    }
    return t->n > 0 || (append(t, "", 0) && t->voice->plain && t->person);
}

static void turn(talk *t) {
    if (!read_message(t))
        return;
    if (t->message[0] == '/' && t->message[1] != '/')
        obey(t, t->message);
    else
        submit(t, t->message + (t->message[0] == '/'), t->n - (t->message[0] == '/'));
}

static void clear(talk *t) {
    cli_input_close(t->in);
    cli_chat_log_free(&t->log);
    srv_buf_free(&t->said);
    free(t->message);
    free(t->lost);
}

int cli_talk(const cli_voice *voice, cli_chat_settings *o, const cli_spec *spec) {
    talk t = {.voice = voice, .o = o, .spec = spec, .person = isatty(STDIN_FILENO) == 1};
    tnl_error err = {0};
    tnl_status s = TNL_OK;
    /* A write to a slow terminal goes on; waiting does not, poll is never restarted. */
    struct sigaction act = {.sa_handler = on_interrupt, .sa_flags = SA_RESTART};
    sigaction(SIGINT, &act, NULL);
    if (!(t.in = cli_input_open(&interrupts)))
        s = tnl_fail(&err, TNL_E_NOMEM, "out of memory");
    if (s == TNL_OK && o->system && voice->plain)
        s = tnl_fail(&err, TNL_E_USAGE, "--system: there is none where text is continued");
    if (s == TNL_OK)
        s = cli_chat_log_system(&t.log, o->system, &err);
    if (s != TNL_OK) {
        clear(&t);
        return cli_report(spec, s, &err);
    }
    if (t.person)
        fprintf(stderr, "%s. /help lists commands.\n", voice->name);
    while (!t.leave)
        turn(&t);
    clear(&t);
    return t.code;
}
