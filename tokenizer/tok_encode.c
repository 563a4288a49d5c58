/* Text to ids. A long text goes to SentencePiece in parts where that changes nothing: its BPE keeps
 * one queue of merge candidates for the whole text, which costs n log n and falls out of the cache;
 * in parts the cost is linear.
 *
 * Parts begin at a space that follows something else. The ids are those of the whole text if no
 * merge can cross such a place: no piece has U+2581 behind another character, and the text is not
 * rewritten (no rules, spaces kept). Where the library puts a space in front of a text, the part
 * is passed without its first space and gets it back. Unigram models are not split: their scores
 * are summed over the whole text. */
#include <stdlib.h>
#include <string.h>

#include "tokenizer/tok_impl.h"

enum { PART_BYTES = 8192 };

/* Positions inside SentencePiece are int, and a text needs about 100 bytes of work memory per
 * byte; a longer one is a caller's mistake. */
static const size_t max_text_bytes = (size_t)256 << 20;

static bool is_mark(const char *s, size_t n) {
    return n >= sizeof tok_space_mark && memcmp(s, tok_space_mark, sizeof tok_space_mark) == 0;
}

/* Marks at the beginning only, and no plain space. */
static bool stays_in_part(const tok_row *r) {
    size_t i = 0;
    while (is_mark(r->text + i, r->n - i))
        i += sizeof tok_space_mark;
    for (; i < r->n; i++) {
        if (r->text[i] == ' ' || is_mark(r->text + i, r->n - i))
            return false;
    }
    return true;
}

bool tok_can_split(const tok_proto *p) {
    bool has_mark = false; /* else it would be unknown, and unknown neighbours become one id */
    if (p->model_type != 2 || p->charsmap.n > 0 || p->remove_extra_whitespaces ||
        !p->escape_whitespaces)
        return false;
    for (size_t i = 0; i < p->n_rows; i++) {
        const tok_row *r = &p->rows[i];
        if (r->type != TOK_NORMAL && r->type != TOK_USER && r->type != TOK_UNUSED)
            continue;
        if (!stays_in_part(r))
            return false;
        has_mark |= r->n == sizeof tok_space_mark && is_mark(r->text, r->n);
    }
    return has_mark;
}

/* End of the part that begins at `begin`; never leaves a lone space behind. */
static size_t part_end(const tok_model *t, const char *text, size_t n, size_t begin) {
    if (!t->splits || n - begin <= PART_BYTES)
        return n;
    for (size_t i = begin + PART_BYTES; i + 1 < n; i++) {
        if (text[i] == ' ' && text[i - 1] != ' ' &&
            !is_mark(text + i - sizeof tok_space_mark, sizeof tok_space_mark))
            return i;
    }
    return n;
}

typedef struct id_list {
    int32_t *ids;
    size_t n, cap;
} id_list;

static tnl_status append(id_list *l, const int32_t *ids, size_t n, tnl_error *err) {
    if (l->cap - l->n < n) {
        size_t cap = l->n + n + l->n / 2;
        int32_t *grown = realloc(l->ids, cap * sizeof *grown);
        if (!grown)
            return tnl_fail(err, TNL_E_NOMEM, "tokenizer: no memory for %zu token ids", cap);
        l->ids = grown;
        l->cap = cap;
    }
    if (n > 0)
        memcpy(l->ids + l->n, ids, n * sizeof *ids);
    l->n += n;
    return TNL_OK;
}

static tnl_status encode_part(const tok_model *t, const char *text, size_t n, id_list *list,
                              tnl_error *err) {
    int32_t *ids;
    size_t n_ids;
    TNL_TRY(tok_spm_encode(t->spm, text, n, &ids, &n_ids, err));
    tnl_status st = append(list, ids, n_ids, err);
    free(ids);
    return st;
}

static tnl_status encode_parts(const tok_model *t, const char *text, size_t n, id_list *list,
                               tnl_error *err) {
    for (size_t begin = 0; begin < n;) {
        size_t end = part_end(t, text, n, begin);
        size_t skip = begin > 0 && t->dummy_prefix ? 1 : 0;
        TNL_TRY(encode_part(t, text + begin + skip, end - begin - skip, list, err));
        begin = end;
    }
    return TNL_OK;
}

tnl_status tok_encode(const tok_model *t, const char *text, size_t n, int32_t **ids, size_t *n_ids,
                      tnl_error *err) {
    if (n > max_text_bytes)
        return tnl_fail(err, TNL_E_LIMIT, "text of %zu bytes, at most %zu are tokenised at once", n,
                        max_text_bytes);
    id_list list = {malloc(16 * sizeof(int32_t)), 0, 16};
    if (!list.ids)
        return tnl_fail(err, TNL_E_NOMEM, "tokenizer: no memory for token ids");
    tnl_status st = encode_parts(t, text, n, &list, err);
    if (st != TNL_OK) {
        free(list.ids);
        return st;
    }
    /* Text never means a control piece, and no id lies outside: checked, not trusted. */
    for (size_t i = 0; i < list.n; i++) {
        if (list.ids[i] < 0 || list.ids[i] >= t->vocab ||
            t->entries[list.ids[i]].type == TOK_CONTROL)
            list.ids[i] = t->unk;
    }
    *ids = list.ids;
    *n_ids = list.n;
    return TNL_OK;
}
