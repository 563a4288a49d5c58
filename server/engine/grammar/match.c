/* The automaton: one byte at a time over a stack of frames. A frame is a value under way; what may
 * come next is decided by the top frame alone, so a byte costs a bounded number of steps. */
#include <string.h>

#include "server/engine/grammar/grammar_impl.h"

enum state {
    START,     /* the value's first byte is due */
    OBJ_OPEN,  /* after { */
    OBJ_KEY,   /* in a key of the properties */
    OBJ_TEXT,  /* in a free key */
    OBJ_COLON, /* after a key */
    OBJ_NEXT,  /* after a value */
    OBJ_COMMA, /* after a comma */
    ARR_OPEN,
    ARR_NEXT,
    TEXT, /* in a string */
    LITERAL,
    NUM_MINUS,
    NUM_ZERO,
    NUM_INT,
    NUM_DOT,
    NUM_FRAC,
    NUM_E,
    NUM_SIGN,
    NUM_EXP,
};

/* Numbers stay within what a double holds and a reader prints. */
enum { MAX_INT_DIGITS = 15, MAX_FRAC_DIGITS = 17, MAX_EXP_DIGITS = 2 };

/* Where in a character or escape a string stands. */
enum text_state {
    BETWEEN, /* two characters */
    TAIL1,   /* 1, 2, 3 bytes of a character are due */
    TAIL2,
    TAIL3,
    AFTER_E0, /* the second byte is restricted: no overlong forms, no surrogates */
    AFTER_ED,
    AFTER_F0,
    AFTER_F4,
    ESCAPE,
    HEX1, /* digits of \u that are due; HEX1 is the first */
    HEX2,
    HEX2_D, /* after d: the next digit is 0..7, which leaves surrogates out */
    HEX3,
    HEX4,
};

typedef enum verdict { NO, YES, AGAIN /* the value ended before this byte */ } verdict;

static eng_gframe *top(eng_match *m) {
    return &m->frame[m->depth - 1];
}

static const gnode *node_of(const eng_match *m, const eng_gframe *f) {
    return &m->grammar->nodes[f->node];
}

/* ---- values ---- */

/* Does a value of this node fit above the top frame? */
static bool fits(const eng_match *m, int node) {
    const eng_grammar *g = m->grammar;
    return m->depth + g->nodes[eng_gresolve(g, node)].height <= ENG_GRAMMAR_DEPTH;
}

static bool push(eng_match *m, int node) {
    if (!fits(m, node))
        return false;
    m->depth++;
    *top(m) = (eng_gframe){.node = eng_gresolve(m->grammar, node), .state = START};
    return true;
}

static verdict pop(eng_match *m, verdict v) {
    m->depth--;
    return v;
}

static bool digit(uint8_t c) {
    return c >= '0' && c <= '9';
}

static verdict begin_number(eng_gframe *f, uint8_t c) {
    f->state = c == '-' ? NUM_MINUS : c == '0' ? NUM_ZERO : NUM_INT;
    f->pos = c != '-';
    return YES;
}

/* Literals low..high share pos bytes; keep those that go on with c. */
static verdict next_literal(eng_match *m, eng_gframe *f, uint8_t c) {
    const gnode *n = node_of(m, f);
    int low = f->low, high = f->high;
    while (low <= high && (n->literals[low].n <= f->pos || (uint8_t)n->literals[low].s[f->pos] < c))
        low++;
    int end = low;
    while (end <= high && (uint8_t)n->literals[end].s[f->pos] == c)
        end++;
    if (low == end) /* the shortest comes first: is it whole? */
        return f->pos > 0 && n->literals[f->low].n == f->pos ? pop(m, AGAIN) : NO;
    f->low = (uint16_t)low;
    f->high = (uint16_t)(end - 1);
    f->pos++;
    if (low + 1 == end && n->literals[low].n == f->pos)
        return pop(m, YES);
    return YES;
}

static verdict begin_literal(eng_match *m, eng_gframe *f, uint8_t c) {
    f->state = LITERAL;
    f->pos = f->low = 0;
    f->high = (uint16_t)(node_of(m, f)->n_literals - 1);
    return next_literal(m, f, c);
}

/* ANY begins as what its first byte says. A map of anything stands for its objects. */
static verdict begin_any(eng_gframe *f, uint8_t c) {
    static const struct { const char *rest; } words[] = {{"true"}, {"false"}, {"null"}};
    switch (c) {
    case '{':
        f->state = OBJ_OPEN;
        return YES;
    case '[':
        f->state = ARR_OPEN;
        return YES;
    case '"':
        f->state = TEXT;
        return YES;
    default:
        break;
    }
    for (uint8_t i = 0; i < 3; i++) {
        if (c != (uint8_t)words[i].rest[0])
            continue;
        f->state = LITERAL;
        f->low = (uint16_t)(i + 1); /* of ANY: 1 true, 2 false, 3 null */
        f->pos = 1;
        return YES;
    }
    return begin_number(f, c);
}

static verdict next_word(eng_match *m, eng_gframe *f, uint8_t c) {
    static const char *const words[] = {"", "true", "false", "null"};
    const char *w = words[f->low];
    if ((uint8_t)w[f->pos] != c)
        return NO;
    f->pos++;
    return w[f->pos] ? YES : pop(m, YES);
}

static verdict begin_value(eng_match *m, eng_gframe *f, uint8_t c) {
    const eng_grammar *g = m->grammar;
    uint16_t begin = eng_gbegin(c);
    for (int hops = 0; node_of(m, f)->kind == ENG_G_CHOICE; hops++) {
        const gnode *n = node_of(m, f);
        int found = -1;
        for (int i = 0; i < n->n_choices && found < 0; i++)
            if (g->nodes[eng_gresolve(g, n->choices[i])].begins & begin)
                found = eng_gresolve(g, n->choices[i]);
        if (found < 0 || hops > g->n)
            return NO;
        f->node = found;
    }
    const gnode *n = node_of(m, f);
    if (!(n->begins & begin) || m->depth - 1 + n->height > ENG_GRAMMAR_DEPTH)
        return NO;
    switch (n->kind) {
    case ENG_G_ANY:
        return begin_any(f, c);
    case ENG_G_OBJECT:
    case ENG_G_MAP:
        f->state = OBJ_OPEN;
        return YES;
    case ENG_G_ARRAY:
        f->state = ARR_OPEN;
        return YES;
    case ENG_G_STRING:
        f->state = TEXT;
        return YES;
    case ENG_G_LITERAL:
        return begin_literal(m, f, c);
    default:
        return begin_number(f, c);
    }
}

/* ---- strings ---- */

static bool between(uint8_t c, uint8_t low, uint8_t high) {
    return c >= low && c <= high;
}

static bool is_hex(uint8_t c) {
    return digit(c) || between(c | 0x20, 'a', 'f');
}

/* A character begins: its state, or -1. */
static int begin_char(uint8_t c) {
    if (c < 0x20)
        return -1;
    if (c < 0x80)
        return c == '\\' ? ESCAPE : BETWEEN;
    if (between(c, 0xC2, 0xDF))
        return TAIL1;
    if (between(c, 0xE0, 0xEF))
        return c == 0xE0 ? AFTER_E0 : c == 0xED ? AFTER_ED : TAIL2;
    if (between(c, 0xF0, 0xF4))
        return c == 0xF0 ? AFTER_F0 : c == 0xF4 ? AFTER_F4 : TAIL3;
    return -1;
}

/* The state after c within a character or escape, or -1. */
static int continue_char(uint8_t sub, uint8_t c) {
    switch (sub) {
    case TAIL1:
        return between(c, 0x80, 0xBF) ? BETWEEN : -1;
    case TAIL2:
        return between(c, 0x80, 0xBF) ? TAIL1 : -1;
    case TAIL3:
        return between(c, 0x80, 0xBF) ? TAIL2 : -1;
    case AFTER_E0:
        return between(c, 0xA0, 0xBF) ? TAIL1 : -1;
    case AFTER_ED:
        return between(c, 0x80, 0x9F) ? TAIL1 : -1;
    case AFTER_F0:
        return between(c, 0x90, 0xBF) ? TAIL2 : -1;
    case AFTER_F4:
        return between(c, 0x80, 0x8F) ? TAIL2 : -1;
    case ESCAPE:
        return c == 'u' ? HEX1 : c && strchr("\"\\/bfnrt", c) ? BETWEEN : -1;
    case HEX1:
        return !is_hex(c) ? -1 : (c | 0x20) == 'd' ? HEX2_D : HEX2;
    case HEX2:
        return is_hex(c) ? HEX3 : -1;
    case HEX2_D:
        return between(c, '0', '7') ? HEX3 : -1;
    case HEX3:
        return is_hex(c) ? HEX4 : -1;
    default:
        return is_hex(c) ? BETWEEN : -1;
    }
}

/* One byte of a string; *closed: it was the quote at the end. */
static verdict next_text(eng_gframe *f, uint32_t min, uint32_t max, uint8_t c, bool *closed) {
    int sub;
    *closed = false;
    if (f->sub == BETWEEN && c == '"') {
        *closed = true;
        return f->count >= min ? YES : NO;
    }
    if (f->sub == BETWEEN) {
        if (f->count >= max)
            return NO;
        f->count += f->count < ENG_GRAMMAR_NO_MAX; /* no limit counts no further */
        sub = begin_char(c);
    } else {
        sub = continue_char(f->sub, c);
    }
    f->sub = (uint8_t)(sub < 0 ? 0 : sub);
    return sub < 0 ? NO : YES;
}

static verdict in_string(eng_match *m, eng_gframe *f, uint8_t c) {
    const gnode *n = node_of(m, f);
    bool any = n->kind == ENG_G_ANY, closed;
    verdict v = next_text(f, any ? 0 : n->min, any ? ENG_GRAMMAR_NO_MAX : n->max, c, &closed);
    return v == YES && closed ? pop(m, YES) : v;
}

/* ---- numbers ---- */

static bool integer_only(const eng_match *m, const eng_gframe *f) {
    return node_of(m, f)->kind == ENG_G_INTEGER;
}

static verdict digits(eng_gframe *f, uint8_t state, int most) {
    if (f->pos >= most)
        return NO;
    f->state = state;
    f->pos++;
    return YES;
}

static verdict after_digits(eng_match *m, eng_gframe *f, uint8_t c) {
    bool fraction = f->state == NUM_FRAC;
    if (!integer_only(m, f) && ((c == '.' && !fraction) || (c | 0x20) == 'e')) {
        f->state = c == '.' ? NUM_DOT : NUM_E;
        f->pos = 0;
        return YES;
    }
    return pop(m, AGAIN);
}

static verdict in_number(eng_match *m, eng_gframe *f, uint8_t c) {
    switch (f->state) {
    case NUM_MINUS:
        return digit(c) ? begin_number(f, c) : NO;
    case NUM_ZERO:
        return digit(c) ? NO : after_digits(m, f, c);
    case NUM_INT:
        return digit(c) ? digits(f, NUM_INT, MAX_INT_DIGITS) : after_digits(m, f, c);
    case NUM_DOT:
        return digit(c) ? digits(f, NUM_FRAC, MAX_FRAC_DIGITS) : NO;
    case NUM_FRAC:
        return digit(c) ? digits(f, NUM_FRAC, MAX_FRAC_DIGITS) : after_digits(m, f, c);
    case NUM_E:
        if (c == '+' || c == '-') {
            f->state = NUM_SIGN;
            return YES;
        }
        return digit(c) ? digits(f, NUM_EXP, MAX_EXP_DIGITS) : NO;
    case NUM_SIGN:
        return digit(c) ? digits(f, NUM_EXP, MAX_EXP_DIGITS) : NO;
    default:
        return digit(c) ? digits(f, NUM_EXP, MAX_EXP_DIGITS) : pop(m, AGAIN);
    }
}

/* ---- objects and arrays ---- */

static bool free_keys(const gnode *n) {
    return n->kind != ENG_G_OBJECT;
}

/* The properties that may come next: from f->count on, up to the first that is required. */
static uint64_t next_keys(const eng_match *m, const eng_gframe *f) {
    const gnode *n = node_of(m, f);
    uint64_t keys = 0;
    for (int i = (int)f->count; i < n->n_properties; i++) {
        if (fits(m, n->properties[i].value))
            keys |= (uint64_t)1 << i;
        if (n->properties[i].required)
            break;
    }
    return keys;
}

static bool may_close(const eng_match *m, const eng_gframe *f) {
    const gnode *n = node_of(m, f);
    for (int i = (int)f->count; !free_keys(n) && i < n->n_properties; i++)
        if (n->properties[i].required)
            return false;
    return true;
}

/* What the values of a map, of ANY and of an array are. */
static int item_of(const eng_match *m, const eng_gframe *f) {
    const gnode *n = node_of(m, f);
    return n->kind == ENG_G_ANY ? f->node : n->item;
}

static bool more_keys(const eng_match *m, const eng_gframe *f) {
    return free_keys(node_of(m, f)) ? fits(m, item_of(m, f)) : next_keys(m, f) != 0;
}

static verdict begin_key(eng_match *m, eng_gframe *f) {
    if (!more_keys(m, f))
        return NO;
    if (free_keys(node_of(m, f))) {
        f->state = OBJ_TEXT;
        f->sub = BETWEEN;
        f->count = 0;
        return YES;
    }
    f->keys = next_keys(m, f);
    f->state = OBJ_KEY;
    f->pos = 1; /* the quote */
    return YES;
}

static verdict in_key(eng_match *m, eng_gframe *f, uint8_t c) {
    const gnode *n = node_of(m, f);
    uint64_t keep = 0;
    for (uint64_t left = f->keys; left; left &= left - 1) {
        int i = __builtin_ctzll(left);
        const gtext *key = &n->properties[i].key;
        if (f->pos >= key->n || (uint8_t)key->s[f->pos] != c)
            continue;
        keep |= (uint64_t)1 << i;
        if (f->pos + 1u == key->n) { /* the quote at its end: no other key goes on from here */
            f->low = (uint16_t)i;
            f->count = (uint32_t)i + 1;
            f->state = OBJ_COLON;
            return YES;
        }
    }
    f->keys = keep;
    f->pos++;
    return keep ? YES : NO;
}

static verdict in_free_key(eng_gframe *f, uint8_t c) {
    bool closed;
    verdict v = next_text(f, 0, ENG_GRAMMAR_NO_MAX, c, &closed);
    if (v == YES && closed)
        f->state = OBJ_COLON;
    return v;
}

static verdict after_key(eng_match *m, eng_gframe *f, uint8_t c) {
    const gnode *n = node_of(m, f);
    if (c != ':')
        return NO;
    f->state = OBJ_NEXT;
    int value = free_keys(n) ? item_of(m, f) : n->properties[f->low].value;
    return push(m, value) ? YES : NO;
}

static verdict in_object(eng_match *m, eng_gframe *f, uint8_t c) {
    if (c == '"' && f->state != OBJ_NEXT)
        return begin_key(m, f);
    if (c == '}' && f->state != OBJ_COMMA)
        return may_close(m, f) ? pop(m, YES) : NO;
    if (c == ',' && f->state == OBJ_NEXT && more_keys(m, f)) {
        f->state = OBJ_COMMA;
        return YES;
    }
    return NO;
}

static bool room_for_item(const eng_match *m, const eng_gframe *f) {
    const gnode *n = node_of(m, f);
    return (n->kind == ENG_G_ANY || f->count < n->max) && fits(m, item_of(m, f));
}

static verdict in_array(eng_match *m, eng_gframe *f, uint8_t c) {
    const gnode *n = node_of(m, f);
    if (c == ']')
        return n->kind == ENG_G_ANY || f->count >= n->min ? pop(m, YES) : NO;
    if (!room_for_item(m, f) || (f->state == ARR_NEXT && c != ','))
        return NO;
    bool comma = f->state == ARR_NEXT;
    f->state = ARR_NEXT;
    f->count++;
    push(m, item_of(m, f));
    return comma ? YES : AGAIN; /* the first item begins with this byte */
}

/* ---- bytes ---- */

static bool takes_space(const eng_gframe *f) {
    return f->state != OBJ_KEY && f->state != OBJ_TEXT && f->state <= ARR_NEXT;
}

static verdict step(eng_match *m, uint8_t c) {
    eng_gframe *f = top(m);
    switch (f->state) {
    case START:
        return begin_value(m, f, c);
    case OBJ_KEY:
        return in_key(m, f, c);
    case OBJ_TEXT:
        return in_free_key(f, c);
    case OBJ_COLON:
        return after_key(m, f, c);
    case OBJ_OPEN:
    case OBJ_NEXT:
    case OBJ_COMMA:
        return in_object(m, f, c);
    case ARR_OPEN:
    case ARR_NEXT:
        return in_array(m, f, c);
    case TEXT:
        return in_string(m, f, c);
    case LITERAL:
        return node_of(m, f)->kind == ENG_G_ANY ? next_word(m, f, c) : next_literal(m, f, c);
    default:
        return in_number(m, f, c);
    }
}

void eng_match_begin(eng_match *m, const eng_grammar *g) {
    memset(m, 0, sizeof *m);
    m->grammar = g;
    push(m, g->root);
}

size_t eng_match_bytes(const eng_match *m) {
    return offsetof(eng_match, frame) + (size_t)m->depth * sizeof m->frame[0];
}

/* A frame that ends before the byte hands it to the one below; an array hands it to its first
 * item. Each hand-over changes the depth by one, so they are few. */
bool eng_match_byte(eng_match *m, uint8_t byte) {
    verdict v = AGAIN;
    while (v == AGAIN) {
        if (m->depth == 0)
            return false;
        if (byte == ' ' && takes_space(top(m)))
            return m->space++ < ENG_GRAMMAR_SPACE;
        v = step(m, byte);
    }
    m->space = 0;
    return v == YES;
}

bool eng_match_text(eng_match *m, const char *text, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!eng_match_byte(m, (uint8_t)text[i]))
            return false;
    return true;
}

bool eng_match_complete(const eng_match *m) {
    return m->depth == 0;
}

bool eng_match_may_end(const eng_match *m) {
    const eng_gframe *f = &m->frame[0];
    if (m->depth != 1)
        return m->depth == 0;
    if (f->state == LITERAL && node_of(m, f)->kind == ENG_G_LITERAL)
        return node_of(m, f)->literals[f->low].n == f->pos;
    return f->state == NUM_ZERO || f->state == NUM_INT || f->state == NUM_FRAC ||
           f->state == NUM_EXP;
}

bool eng_match_in_text(const eng_match *m, size_t chars) {
    if (m->depth == 0)
        return false;
    const eng_gframe *f = &m->frame[m->depth - 1];
    const gnode *n = node_of(m, f);
    if (f->sub != BETWEEN || (f->state != TEXT && f->state != OBJ_TEXT))
        return false;
    bool open = f->state == OBJ_TEXT || n->kind == ENG_G_ANY || n->max == ENG_GRAMMAR_NO_MAX;
    return open || (f->count <= n->max && n->max - f->count >= chars);
}
