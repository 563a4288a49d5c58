/* Token ids to text, one id at a time: whole UTF-8 characters come out as soon as they are
 * complete.
 *
 * All decoding goes through here (tok_decode is a loop over it), so a streamed answer and a decoded
 * one cannot differ. An ill-formed sequence becomes one U+FFFD per maximal subpart (the longest
 * beginning of a character that the bytes still agreed with), wherever the bytes were cut. */
#include "kernels/base/utf8.h"
#include "tokenizer/tok_impl.h"

#include <string.h>

static const char replacement[3] = {'\xEF', '\xBF', '\xBD'};

void tok_stream_init(tok_stream *s, const tok_model *model, bool continuing) {
    memset(s, 0, sizeof *s);
    s->model = model;
    s->at_start = !continuing;
}

/* Length of the maximal subpart of an ill-formed sequence at p, n >= 1. */
static size_t subpart_len(const char *p, size_t n) {
    size_t len = 1;
    while (len < n && tnl_utf8_char_len(p, len) == -1 && tnl_utf8_char_len(p, len + 1) == -1)
        len++;
    return len;
}

/* Write the complete characters of p[0..n), keep an unfinished one. */
static size_t flush_chars(tok_stream *s, const char *p, size_t n, char *out) {
    size_t w = 0, i = 0;
    while (i < n) {
        int len = tnl_utf8_char_len(p + i, n - i);
        if (len < 0)
            break;
        if (len > 0) {
            memcpy(out + w, p + i, (size_t)len);
            w += (size_t)len;
            i += (size_t)len;
        } else {
            memcpy(out + w, replacement, sizeof replacement);
            w += sizeof replacement;
            i += subpart_len(p + i, n - i);
        }
    }
    s->n_held = (uint8_t)(n - i);
    memcpy(s->held, p + i, n - i);
    return w;
}

/* Drop the space that stands for the beginning of the text; SentencePiece's rule. */
static void strip_start(tok_stream *s, const tok_entry *e, const char **bytes, size_t *n) {
    if (*n == 0)
        return; /* control pieces do not begin a text */
    s->at_start = false;
    if (!s->model->strip_first || !e->space_mark)
        return;
    ++*bytes;
    --*n;
    s->at_start = s->model->strip_runs && *n == 0;
}

size_t tok_stream_push(tok_stream *s, int32_t id, char *out, size_t cap) {
    if (id < 0 || id >= s->model->vocab || cap < TOK_STREAM_MAX)
        return 0;
    const tok_entry *e = &s->model->entries[id];
    const char *bytes = e->bytes;
    size_t n = e->n_bytes;
    if (s->at_start)
        strip_start(s, e, &bytes, &n);
    char joined[sizeof s->held + 256]; /* a piece has at most 256 bytes, tok_proto.h */
    memcpy(joined, s->held, s->n_held);
    memcpy(joined + s->n_held, bytes, n);
    return flush_chars(s, joined, s->n_held + n, out);
}

size_t tok_stream_finish(tok_stream *s, char *out, size_t cap) {
    if (s->n_held == 0 || cap < sizeof replacement)
        return 0;
    s->n_held = 0;
    memcpy(out, replacement, sizeof replacement);
    return sizeof replacement;
}
