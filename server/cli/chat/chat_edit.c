/* Lines with libedit (BSD licence): arrow keys, history of this session, the user's editrc. Its
 * characters come through our own reader, so that Ctrl-C ends the wait. Where one of the three
 * streams is no terminal, lines are read plainly. */
#include <errno.h>
#include <histedit.h>
#include <langinfo.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <wchar.h>

#include "kernels/base/utf8.h"
#include "server/cli/chat/chat_reader.h"

enum { HISTORY = 1000 };

struct cli_input {
    cli_reader reader;
    EditLine *el; /* NULL: plain */
    History *history;
    const char *prompt;
    bool interrupted;
};

static char *prompt_of(EditLine *el) {
    cli_input *in = NULL;
    el_get(el, EL_CLIENTDATA, &in);
    return (char *)(in && in->prompt ? in->prompt : ""); /* libedit does not write to it */
}

/* One character; -1 with errno EINTR ends the line. Bytes that are not UTF-8 are skipped. */
static int next_char(EditLine *el, wchar_t *out) {
    cli_input *in = NULL;
    char bytes[4];
    size_t n = 0;
    el_get(el, EL_CLIENTDATA, &in);
    for (;;) {
        cli_input_kind k = cli_reader_byte(&in->reader, &bytes[n]);
        in->interrupted = k == CLI_INPUT_INTERRUPTED;
        if (k != CLI_INPUT_LINE) {
            errno = EINTR;
            return k == CLI_INPUT_END ? 0 : -1;
        }
        int len = tnl_utf8_char_len(bytes, ++n);
        mbstate_t state = {0};
        if (len > 0 && mbrtowc(out, bytes, n, &state) <= n)
            return 1;
        if (len >= 0)
            n = 0;
    }
}

static void open_editor(cli_input *in) {
    const char *term = getenv("TERM");
    bool terminal = in->reader.terminal && isatty(STDOUT_FILENO) == 1 && isatty(STDERR_FILENO) == 1;
    if (!terminal || !term || strcmp(term, "dumb") == 0)
        return;
    setlocale(LC_CTYPE, "");
    if (strcmp(nl_langinfo(CODESET), "UTF-8") != 0 && !setlocale(LC_CTYPE, "C.UTF-8"))
        return; /* libedit would lose what is not ASCII */
    in->el = el_init("tnl", stdin, stderr, stderr);
    in->history = in->el ? history_init() : NULL;
    HistEvent ev;
    if (!in->history)
        return;
    history(in->history, &ev, H_SETSIZE, HISTORY);
    history(in->history, &ev, H_SETUNIQUE, 1);
    el_set(in->el, EL_CLIENTDATA, in);
    el_set(in->el, EL_PROMPT, prompt_of);
    el_set(in->el, EL_EDITOR, "emacs");
    el_set(in->el, EL_HIST, history, in->history);
    el_wset(in->el, EL_GETCFN, next_char);
    el_source(in->el, NULL);
}

cli_input *cli_input_open(const volatile sig_atomic_t *interrupts) {
    cli_input *in = calloc(1, sizeof *in);
    if (!in)
        return NULL;
    in->reader.interrupts = interrupts;
    in->reader.terminal = isatty(STDIN_FILENO) == 1;
    open_editor(in);
    return in;
}

void cli_input_close(cli_input *in) {
    if (!in)
        return;
    if (in->history)
        history_end(in->history);
    if (in->el)
        el_end(in->el);
    free(in->reader.line);
    free(in);
}

cli_input_kind cli_input_line(cli_input *in, const char *prompt, char **line, size_t *n) {
    if (!in->el)
        return cli_reader_line(&in->reader, prompt, line, n);
    int count = 0;
    in->prompt = prompt;
    in->interrupted = false;
    el_resize(in->el);               /* the window may have changed during an answer */
    el_set(in->el, EL_PREP_TERM, 1); /* before the prompt invites to type: Ctrl-D would be lost */
    const char *got = el_gets(in->el, &count);
    if (!got || count <= 0)
        return in->interrupted ? CLI_INPUT_INTERRUPTED : CLI_INPUT_END;
    HistEvent ev;
    if (strspn(got, " \t\n") < (size_t)count)
        history(in->history, &ev, H_ENTER, got);
    *n = (size_t)count - (got[count - 1] == '\n');
    char *copy = realloc(in->reader.line, *n + 1);
    if (!copy)
        return CLI_INPUT_FAILED;
    memcpy(copy, got, *n);
    copy[*n] = 0;
    *line = in->reader.line = copy;
    in->reader.cap = *n + 1;
    return *n < CLI_INPUT_MAX ? CLI_INPUT_LINE : CLI_INPUT_LONG;
}
