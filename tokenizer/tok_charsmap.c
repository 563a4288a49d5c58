/* The normalisation rules of a SentencePiece model: a double-array trie over the texts to replace,
 * and the replacements, NUL-terminated, behind it.
 *
 * Layout: u32 size of the trie in bytes; the trie, u32 units; the replacements. A unit holds, low
 * bit first: label (8 bits), has-leaf (1), offset scale (1), offset (22). From the unit at
 * position p a look-up goes to base = p ^ offset, then for key byte c to position base ^ c, and
 * stops if the label there (with bit 31) is not c. It reads that unit before it compares, so base
 * must leave room for any byte. If has-leaf is set the value is at base: an index into the
 * replacements. Everything little-endian.
 *
 * The trie may share tails, so it is walked as a graph: units are nodes, each visited once. */
#include <stdlib.h>
#include <string.h>

#include "kernels/base/utf8.h"
#include "tokenizer/tok_proto.h"

enum {
    UNITS_PER_BLOCK =
        256,         /* the builder pads the array to whole blocks of one unit per byte value */
    MAX_DEPTH = 256, /* bytes of the longest text to replace */
};

typedef struct trie {
    const unsigned char *units;
    size_t n_units;
    const char *texts;
    size_t n_texts;
} trie;

static uint32_t load_u32(const unsigned char *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint32_t unit_at(const trie *t, size_t pos) {
    return load_u32(t->units + 4 * pos);
}

static size_t base_of(const trie *t, size_t pos) {
    uint32_t u = unit_at(t, pos);
    return pos ^ ((size_t)(u >> 10) << ((u & 0x200u) >> 6));
}

static bool has_leaf(const trie *t, size_t pos) {
    return (unit_at(t, pos) >> 8) & 1u;
}

/* The node reached from `base` by byte c exists. */
static bool leads_to(const trie *t, size_t base, unsigned c) {
    return (unit_at(t, base ^ c) & 0x800000FFu) == c;
}

/* The replacement of the rule at pos, whose text has `depth` bytes at least. */
static tnl_status check_rule(const trie *t, size_t pos, size_t depth, tnl_error *err) {
    size_t value = unit_at(t, base_of(t, pos)) & 0x7FFFFFFFu;
    if (value >= t->n_texts)
        return tnl_fail(err, TNL_E_DATA,
                        "normaliser: rule at unit %zu points to byte %zu of %zu bytes of text", pos,
                        value, t->n_texts);
    /* The last text byte is NUL, so the length ends inside. */
    size_t limit = depth * TOK_MAX_EXPANSION;
    size_t len = strnlen(t->texts + value, limit + 1);
    if (len > limit)
        return tnl_fail(err, TNL_E_DATA,
                        "normaliser: rule at unit %zu makes more than %zu bytes out of %zu", pos,
                        limit, depth);
    if (!tnl_utf8_valid(t->texts + value, len))
        return tnl_fail(err, TNL_E_DATA, "normaliser: rule at unit %zu: text is not UTF-8", pos);
    return TNL_OK;
}

/* Breadth first: a node is met at its smallest depth, where the expansion limit is tightest. */
static tnl_status walk_wide(const trie *t, uint8_t *seen, uint32_t *queue, tnl_error *err) {
    size_t head = 0, tail = 0, level_end = 1, depth = 0;
    queue[tail++] = 0;
    seen[0] = 1;
    for (; head < tail; head++) {
        if (head == level_end) {
            depth++;
            level_end = tail;
        }
        size_t pos = queue[head], base = base_of(t, pos);
        if ((base | (UNITS_PER_BLOCK - 1)) >= t->n_units)
            return tnl_fail(err, TNL_E_DATA,
                            "normaliser: unit %zu points to unit %zu, the trie has %zu", pos, base,
                            t->n_units);
        if (pos == 0 && has_leaf(t, pos))
            return tnl_fail(err, TNL_E_DATA, "normaliser: a rule for the empty text");
        if (has_leaf(t, pos))
            TNL_TRY(check_rule(t, pos, depth, err));
        for (unsigned c = 0; c < UNITS_PER_BLOCK; c++) {
            if (!leads_to(t, base, c) || seen[base ^ c])
                continue;
            seen[base ^ c] = 1;
            queue[tail++] = (uint32_t)(base ^ c);
        }
    }
    return TNL_OK;
}

/* A place on the path of the depth-first walk. */
typedef struct step {
    uint32_t pos;
    uint16_t next; /* label to try next */
    uint8_t rules; /* most rules on any way down from here, this node not counted */
} step;

/* In `most`: 0 not visited, OPEN on the path, else 1 + the most rules from the node down. */
enum { OPEN = 255 };

static tnl_status enter(const trie *t, step *path, size_t *n, uint8_t *most, size_t pos,
                        tnl_error *err) {
    (void)t;
    if (*n == MAX_DEPTH)
        return tnl_fail(err, TNL_E_DATA, "normaliser: a rule longer than %d bytes, or endless",
                        MAX_DEPTH);
    most[pos] = OPEN;
    path[(*n)++] = (step){(uint32_t)pos, 0, 0};
    return TNL_OK;
}

static void raise_rules(step *s, uint8_t rules) {
    if (rules > s->rules)
        s->rules = rules;
}

/* Depth first: no cycle, and at most TOK_MAX_NESTED rules that are prefixes of one another. */
static tnl_status walk_deep(const trie *t, uint8_t *most, tnl_error *err) {
    step path[MAX_DEPTH];
    size_t n = 0;
    TNL_TRY(enter(t, path, &n, most, 0, err));
    while (n > 0) {
        step *s = &path[n - 1];
        if (s->next == UNITS_PER_BLOCK) {
            uint8_t rules = (uint8_t)(s->rules + has_leaf(t, s->pos));
            if (rules > TOK_MAX_NESTED)
                return tnl_fail(err, TNL_E_DATA,
                                "normaliser: more than %d rules that are prefixes of one another",
                                TOK_MAX_NESTED);
            most[s->pos] = (uint8_t)(1 + rules);
            n--;
            if (n > 0)
                raise_rules(&path[n - 1], rules);
            continue;
        }
        unsigned c = s->next++;
        size_t base = base_of(t, s->pos), child = base ^ c;
        if (!leads_to(t, base, c))
            continue;
        if (most[child] == OPEN)
            return tnl_fail(err, TNL_E_DATA, "normaliser: the trie has a cycle at unit %zu", child);
        if (most[child] != 0)
            raise_rules(s, (uint8_t)(most[child] - 1));
        else
            TNL_TRY(enter(t, path, &n, most, child, err));
    }
    return TNL_OK;
}

static tnl_status check_trie(const trie *t, tnl_error *err) {
    tnl_status st = TNL_E_NOMEM;
    uint8_t *marks = calloc(t->n_units, 2);
    uint32_t *queue = malloc(t->n_units * sizeof *queue);
    if (!marks || !queue)
        tnl_fail(err, TNL_E_NOMEM, "normaliser: no memory to check %zu units", t->n_units);
    else if ((st = walk_wide(t, marks, queue, err)) == TNL_OK)
        st = walk_deep(t, marks + t->n_units, err);
    free(queue);
    free(marks);
    return st;
}

tnl_status tok_charsmap_check(tok_span map, tnl_error *err) {
    if (map.n == 0)
        return TNL_OK;
    if (map.n > TOK_MAX_CHARSMAP_BYTES)
        return tnl_fail(err, TNL_E_DATA, "normaliser: %zu bytes of rules, at most %d", map.n,
                        TOK_MAX_CHARSMAP_BYTES);
    const unsigned char *p = (const unsigned char *)map.s;
    size_t size = map.n >= 4 ? load_u32(p) : 0;
    if (size == 0 || size % (4 * UNITS_PER_BLOCK) != 0 || size >= map.n - 4)
        return tnl_fail(err, TNL_E_DATA, "normaliser: trie of %zu bytes in a field of %zu", size,
                        map.n);
    trie t = {p + 4, size / 4, map.s + 4 + size, map.n - 4 - size};
    if (t.texts[t.n_texts - 1] != '\0')
        return tnl_fail(err, TNL_E_DATA, "normaliser: the last text is not terminated");
    return check_trie(&t, err);
}
