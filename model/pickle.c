/* The stack machine: a table of allowed opcodes over a heap of small values.
 *
 * Values refer to each other by index and are never walked recursively, so neither depth nor a
 * cycle made through the memo can harm. Source: the opcode descriptions in CPython's pickletools
 * module documentation. */
#include "model/pickle.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/log.h"
#include "model/tensor_dir.h"

typedef enum value_kind {
    V_NONE,
    V_BOOL,
    V_INT,
    V_FLOAT,
    V_TEXT,
    V_TUPLE,
    V_LIST,
    V_DICT,
    V_GLOBAL,
    V_STORAGE,
    V_TENSOR,
    V_MARK,
} value_kind;

typedef enum global_id { G_ORDERED_DICT, G_REBUILD_TENSOR, G_STORAGE } global_id;

static const char *const kind_words[] = {"None",     "a bool",    "an integer", "a float",
                                         "a text",   "a tuple",   "a list",     "a dict",
                                         "a global", "a storage", "a tensor",   "a mark"};

typedef uint32_t ref; /* index of a value */

typedef struct value {
    value_kind kind;
    kn_dtype dtype; /* of a storage or its type */
    union {
        int64_t i;
        global_id global;
        struct {
            const char *s;
            size_t n;
        } text;
        struct { /* tuple, list; a dict has key, value, key, value ... */
            ref *items;
            uint32_t n, cap;
        } seq;
        struct {
            ref key, elems;
        } storage;
        struct {
            ref storage, offset, size, stride;
        } tensor;
    };
} value;

typedef struct machine {
    const unsigned char *p;
    size_t n, at;
    size_t op_at; /* where the running opcode stands */
    const char *file;
    tnl_error *err;
    value *values;
    uint32_t n_values, cap_values;
    ref *stack;
    uint32_t depth, cap_stack;
    ref *memo; /* index + 1; 0 unset */
    uint32_t cap_memo, n_memo;
    bool stopped;
} machine;

static tnl_status bad(machine *m, const char *what) {
    return tnl_fail(m->err, TNL_E_DATA, "%s: data.pkl byte %zu: %s", m->file, m->op_at, what);
}

static tnl_status no_memory(machine *m) {
    return tnl_fail(m->err, TNL_E_NOMEM, "%s: no memory to read data.pkl", m->file);
}

/* ---- memory ---- */

/* The array with room for n >= 1 elements, new ones zero; NULL when memory is short, and then the
 * old array is still valid. */
static void *with_room(void *array, uint32_t *cap, uint64_t n, size_t elem) {
    if (n <= *cap)
        return array;
    uint64_t want = (uint64_t)*cap * 2;
    if (want < n)
        want = n;
    if (want > UINT32_MAX / 2)
        return NULL;
    char *more = realloc(array, (size_t)want * elem);
    if (!more)
        return NULL;
    memset(more + *cap * elem, 0, (size_t)(want - *cap) * elem);
    *cap = (uint32_t)want;
    return more;
}

static tnl_status push_ref(machine *m, ref r) {
    ref *stack = with_room(m->stack, &m->cap_stack, (uint64_t)m->depth + 1, sizeof *stack);
    if (!stack)
        return no_memory(m);
    m->stack = stack;
    m->stack[m->depth++] = r;
    return TNL_OK;
}

static tnl_status push(machine *m, value v) {
    value *values = with_room(m->values, &m->cap_values, (uint64_t)m->n_values + 1, sizeof *values);
    if (!values)
        return no_memory(m);
    m->values = values;
    m->values[m->n_values] = v;
    return push_ref(m, m->n_values++);
}

static tnl_status pop(machine *m, ref *out) {
    if (m->depth == 0)
        return bad(m, "the stack is empty");
    *out = m->stack[--m->depth];
    if (m->values[*out].kind == V_MARK)
        return bad(m, "a mark where a value is expected");
    return TNL_OK;
}

static tnl_status pop_kind(machine *m, ref *out, value_kind kind) {
    TNL_TRY(pop(m, out));
    if (m->values[*out].kind != kind)
        return tnl_fail(m->err, TNL_E_DATA, "%s: data.pkl byte %zu: found %s, expected %s", m->file,
                        m->op_at, kind_words[m->values[*out].kind], kind_words[kind]);
    return TNL_OK;
}

static tnl_status append(machine *m, ref seq, const ref *items, uint32_t n) {
    value *v = &m->values[seq];
    if (n == 0)
        return TNL_OK;
    ref *room = with_room(v->seq.items, &v->seq.cap, (uint64_t)v->seq.n + n, sizeof *room);
    if (!room)
        return no_memory(m);
    v->seq.items = room;
    memcpy(room + v->seq.n, items, n * sizeof *items);
    v->seq.n += n;
    return TNL_OK;
}

/* ---- operands ---- */

static tnl_status take(machine *m, size_t n, const unsigned char **out) {
    if (n > m->n - m->at)
        return bad(m, "the pickle ends too early");
    *out = m->p + m->at;
    m->at += n;
    return TNL_OK;
}

static tnl_status take_le(machine *m, size_t n, uint64_t *out) {
    const unsigned char *p = NULL;
    TNL_TRY(take(m, n, &p));
    *out = 0;
    for (size_t i = n; i > 0; i--)
        *out = *out << 8 | p[i - 1];
    return TNL_OK;
}

static tnl_status take_line(machine *m, const char **s, size_t *n) {
    const unsigned char *from = m->p + m->at;
    const unsigned char *end = memchr(from, '\n', m->n - m->at);
    if (!end)
        return bad(m, "the pickle ends too early");
    *s = (const char *)from;
    *n = (size_t)(end - from);
    m->at += *n + 1;
    return TNL_OK;
}

/* ---- globals ---- */

static bool is(const char *s, size_t n, const char *text) {
    return n == strlen(text) && memcmp(s, text, n) == 0;
}

static tnl_status push_global(machine *m, const char *mod, size_t mod_n, const char *name,
                              size_t name_n) {
    value v = {.kind = V_GLOBAL};
    if (is(mod, mod_n, "collections") && is(name, name_n, "OrderedDict")) {
        v.global = G_ORDERED_DICT;
    } else if (is(mod, mod_n, "torch._utils") && is(name, name_n, "_rebuild_tensor_v2")) {
        v.global = G_REBUILD_TENSOR;
    } else if (is(mod, mod_n, "torch") && mdl_dtype_by_storage(&v.dtype, name, name_n)) {
        v.global = G_STORAGE;
    } else {
        char a[65], b[65];
        tnl_log_escape(a, sizeof a, mod, mod_n);
        tnl_log_escape(b, sizeof b, name, name_n);
        return tnl_fail(m->err, TNL_E_UNSUPPORTED,
                        "%s: data.pkl byte %zu: the global %s.%s is not allowed: expected only "
                        "tensors of f32, f16 or bf16 in a dict",
                        m->file, m->op_at, a, b);
    }
    return push(m, v);
}

static tnl_status op_global(machine *m) {
    const char *mod = NULL, *name = NULL;
    size_t mod_n = 0, name_n = 0;
    TNL_TRY(take_line(m, &mod, &mod_n));
    TNL_TRY(take_line(m, &name, &name_n));
    return push_global(m, mod, mod_n, name, name_n);
}

static tnl_status op_stack_global(machine *m) {
    ref name = 0, mod = 0;
    TNL_TRY(pop_kind(m, &name, V_TEXT));
    TNL_TRY(pop_kind(m, &mod, V_TEXT));
    value a = m->values[mod], b = m->values[name];
    return push_global(m, a.text.s, a.text.n, b.text.s, b.text.n);
}

/* ---- scalars ---- */

static tnl_status op_proto(machine *m) {
    uint64_t version = 0;
    TNL_TRY(take_le(m, 1, &version));
    return version >= 2 && version <= 5 ? TNL_OK : bad(m, "unknown pickle protocol");
}

static tnl_status op_frame(machine *m) { /* lengths of frames are of no use here */
    uint64_t n = 0;
    return take_le(m, 8, &n);
}

static tnl_status push_int(machine *m, int64_t i) {
    return push(m, (value){.kind = V_INT, .i = i});
}

static tnl_status op_binint(machine *m) {
    uint64_t v = 0;
    TNL_TRY(take_le(m, 4, &v));
    return push_int(m, (int32_t)(uint32_t)v);
}

static tnl_status op_binint1(machine *m) {
    uint64_t v = 0;
    TNL_TRY(take_le(m, 1, &v));
    return push_int(m, (int64_t)v);
}

static tnl_status op_binint2(machine *m) {
    uint64_t v = 0;
    TNL_TRY(take_le(m, 2, &v));
    return push_int(m, (int64_t)v);
}

static tnl_status op_long1(machine *m) {
    uint64_t n = 0, v = 0;
    TNL_TRY(take_le(m, 1, &n));
    if (n > 8)
        return bad(m, "an integer of more than 8 bytes");
    TNL_TRY(take_le(m, (size_t)n, &v));
    if (n > 0 && n < 8 && v >> (8 * n - 1)) /* the top bit is the sign */
        v |= UINT64_MAX << (8 * n);
    return push_int(m, (int64_t)v);
}

static tnl_status op_binfloat(machine *m) { /* no tensor needs its value */
    const unsigned char *p = NULL;
    TNL_TRY(take(m, 8, &p));
    return push(m, (value){.kind = V_FLOAT});
}

static tnl_status push_text(machine *m, size_t len_bytes) {
    uint64_t n;
    const unsigned char *p = NULL;
    TNL_TRY(take_le(m, len_bytes, &n));
    if (n > m->n)
        return bad(m, "the pickle ends too early");
    TNL_TRY(take(m, (size_t)n, &p));
    return push(m, (value){.kind = V_TEXT, .text = {(const char *)p, (size_t)n}});
}

static tnl_status op_binunicode(machine *m) {
    return push_text(m, 4);
}

static tnl_status op_short_binunicode(machine *m) {
    return push_text(m, 1);
}

static tnl_status op_none(machine *m) {
    return push(m, (value){.kind = V_NONE});
}

static tnl_status op_true(machine *m) {
    return push(m, (value){.kind = V_BOOL, .i = 1});
}

static tnl_status op_false(machine *m) {
    return push(m, (value){.kind = V_BOOL});
}

/* ---- containers ---- */

static tnl_status op_mark(machine *m) {
    return push(m, (value){.kind = V_MARK});
}

static tnl_status op_empty_tuple(machine *m) {
    return push(m, (value){.kind = V_TUPLE});
}

static tnl_status op_empty_list(machine *m) {
    return push(m, (value){.kind = V_LIST});
}

static tnl_status op_empty_dict(machine *m) {
    return push(m, (value){.kind = V_DICT});
}

/* The values above the topmost mark: their place on the stack. */
static tnl_status above_mark(machine *m, uint32_t *from, uint32_t *n) {
    uint32_t i = m->depth;
    while (i > 0 && m->values[m->stack[i - 1]].kind != V_MARK)
        i--;
    if (i == 0)
        return bad(m, "no mark on the stack");
    *from = i;
    *n = m->depth - i;
    return TNL_OK;
}

/* Replace the topmost n stack entries, and `below` more, by a tuple of the n. */
static tnl_status make_tuple(machine *m, uint32_t n, uint32_t below) {
    if (m->depth < n + below)
        return bad(m, "the stack is empty");
    uint32_t from = m->depth - n;
    for (uint32_t i = from; i < m->depth; i++)
        if (m->values[m->stack[i]].kind == V_MARK)
            return bad(m, "a mark where a value is expected");
    TNL_TRY(push(m, (value){.kind = V_TUPLE}));
    ref tuple = m->stack[m->depth - 1];
    TNL_TRY(append(m, tuple, m->stack + from, n));
    m->depth = from - below;
    return push_ref(m, tuple);
}

static tnl_status op_tuple(machine *m) {
    uint32_t from = 0, n = 0;
    TNL_TRY(above_mark(m, &from, &n));
    return make_tuple(m, n, 1);
}

static tnl_status op_tuple1(machine *m) {
    return make_tuple(m, 1, 0);
}

static tnl_status op_tuple2(machine *m) {
    return make_tuple(m, 2, 0);
}

static tnl_status op_tuple3(machine *m) {
    return make_tuple(m, 3, 0);
}

/* Move the topmost n entries into the container under them (and under `below` more). */
static tnl_status extend(machine *m, uint32_t n, uint32_t below, value_kind kind) {
    if ((uint64_t)m->depth < (uint64_t)n + below + 1)
        return bad(m, "the stack is empty");
    ref seq = m->stack[m->depth - n - below - 1];
    if (m->values[seq].kind != kind || (kind == V_DICT && n % 2))
        return bad(m, "items for something that is not such a container");
    for (uint32_t i = m->depth - n; i < m->depth; i++)
        if (m->values[m->stack[i]].kind == V_MARK)
            return bad(m, "a mark where a value is expected");
    TNL_TRY(append(m, seq, m->stack + m->depth - n, n));
    m->depth -= n + below;
    return TNL_OK;
}

static tnl_status op_setitem(machine *m) {
    return extend(m, 2, 0, V_DICT);
}

static tnl_status op_append(machine *m) {
    return extend(m, 1, 0, V_LIST);
}

static tnl_status op_setitems(machine *m) {
    uint32_t from = 0, n = 0;
    TNL_TRY(above_mark(m, &from, &n));
    return extend(m, n, 1, V_DICT);
}

static tnl_status op_appends(machine *m) {
    uint32_t from = 0, n = 0;
    TNL_TRY(above_mark(m, &from, &n));
    return extend(m, n, 1, V_LIST);
}

/* ---- memo ---- */

static tnl_status remember(machine *m, uint64_t index) {
    if (m->depth == 0 || m->values[m->stack[m->depth - 1]].kind == V_MARK)
        return bad(m, "nothing to remember");
    if (index >= m->n) /* a pickle of n bytes has fewer values */
        return bad(m, "memo index out of range");
    ref *memo = with_room(m->memo, &m->cap_memo, index + 1, sizeof *memo);
    if (!memo)
        return no_memory(m);
    m->memo = memo;
    m->memo[index] = m->stack[m->depth - 1] + 1;
    m->n_memo++;
    return TNL_OK;
}

static tnl_status recall(machine *m, uint64_t index) {
    if (index >= m->cap_memo || !m->memo[index])
        return bad(m, "memo index out of range");
    return push_ref(m, m->memo[index] - 1);
}

static tnl_status op_binput(machine *m) {
    uint64_t i = 0;
    TNL_TRY(take_le(m, 1, &i));
    return remember(m, i);
}

static tnl_status op_long_binput(machine *m) {
    uint64_t i = 0;
    TNL_TRY(take_le(m, 4, &i));
    return remember(m, i);
}

static tnl_status op_memoize(machine *m) {
    return remember(m, m->n_memo);
}

static tnl_status op_binget(machine *m) {
    uint64_t i = 0;
    TNL_TRY(take_le(m, 1, &i));
    return recall(m, i);
}

static tnl_status op_long_binget(machine *m) {
    uint64_t i = 0;
    TNL_TRY(take_le(m, 4, &i));
    return recall(m, i);
}

/* ---- objects ---- */

static const value *item(const machine *m, const value *seq, uint32_t i) {
    return &m->values[seq->seq.items[i]];
}

/* ("storage", torch.XStorage, key, location, elements) */
static tnl_status op_persistent(machine *m) {
    ref r = 0;
    TNL_TRY(pop_kind(m, &r, V_TUPLE));
    const value *t = &m->values[r];
    bool good = t->seq.n == 5 && item(m, t, 0)->kind == V_TEXT &&
                is(item(m, t, 0)->text.s, item(m, t, 0)->text.n, "storage") &&
                item(m, t, 1)->kind == V_GLOBAL && item(m, t, 1)->global == G_STORAGE &&
                item(m, t, 2)->kind == V_TEXT && item(m, t, 4)->kind == V_INT &&
                item(m, t, 4)->i >= 0;
    if (!good)
        return bad(m, "a persistent id that is not a storage");
    value v = {.kind = V_STORAGE, .dtype = item(m, t, 1)->dtype};
    v.storage.key = t->seq.items[2];
    v.storage.elems = t->seq.items[4];
    return push(m, v);
}

/* (storage, offset, size, stride, requires_grad, hooks ...) */
static tnl_status rebuild_tensor(machine *m, const value *args) {
    bool good = args->seq.n >= 4 && args->seq.n <= 7 && item(m, args, 0)->kind == V_STORAGE &&
                item(m, args, 1)->kind == V_INT && item(m, args, 2)->kind == V_TUPLE &&
                item(m, args, 3)->kind == V_TUPLE;
    if (!good)
        return bad(m, "unexpected arguments for rebuilding a tensor");
    value v = {.kind = V_TENSOR, .dtype = item(m, args, 0)->dtype};
    v.tensor.storage = args->seq.items[0];
    v.tensor.offset = args->seq.items[1];
    v.tensor.size = args->seq.items[2];
    v.tensor.stride = args->seq.items[3];
    return push(m, v);
}

static tnl_status op_reduce(machine *m) {
    ref args = 0, fn = 0;
    TNL_TRY(pop_kind(m, &args, V_TUPLE));
    TNL_TRY(pop_kind(m, &fn, V_GLOBAL));
    const value *a = &m->values[args];
    switch (m->values[fn].global) {
    case G_ORDERED_DICT:
        if (a->seq.n)
            return bad(m, "an ordered dict with arguments");
        return push(m, (value){.kind = V_DICT});
    case G_REBUILD_TENSOR:
        return rebuild_tensor(m, a);
    case G_STORAGE:
        break;
    }
    return bad(m, "a call of a storage type");
}

/* Attributes of a state dict (_metadata: module versions) have no meaning for us. */
static tnl_status op_build(machine *m) {
    ref attributes = 0;
    TNL_TRY(pop(m, &attributes));
    if (m->depth == 0 || m->values[m->stack[m->depth - 1]].kind != V_DICT)
        return bad(m, "attributes for something that is not a dict");
    return TNL_OK;
}

static tnl_status op_stop(machine *m) {
    m->stopped = true;
    if (m->depth != 1)
        return bad(m, "the pickle ends with more or less than one value");
    return m->at == m->n ? TNL_OK : bad(m, "bytes after the end of the pickle");
}

/* ---- the table ---- */

typedef tnl_status (*op_fn)(machine *m);

static const op_fn ops[256] = {
    [0x80] = op_proto,
    [0x95] = op_frame,
    ['c'] = op_global,
    [0x93] = op_stack_global,
    ['J'] = op_binint,
    ['K'] = op_binint1,
    ['M'] = op_binint2,
    [0x8A] = op_long1,
    ['G'] = op_binfloat,
    ['X'] = op_binunicode,
    [0x8C] = op_short_binunicode,
    ['N'] = op_none,
    [0x88] = op_true,
    [0x89] = op_false,
    ['('] = op_mark,
    [')'] = op_empty_tuple,
    [']'] = op_empty_list,
    ['}'] = op_empty_dict,
    ['t'] = op_tuple,
    [0x85] = op_tuple1,
    [0x86] = op_tuple2,
    [0x87] = op_tuple3,
    ['s'] = op_setitem,
    ['a'] = op_append,
    ['u'] = op_setitems,
    ['e'] = op_appends,
    ['q'] = op_binput,
    ['r'] = op_long_binput,
    [0x94] = op_memoize,
    ['h'] = op_binget,
    ['j'] = op_long_binget,
    ['Q'] = op_persistent,
    ['R'] = op_reduce,
    ['b'] = op_build,
    ['.'] = op_stop,
};

static tnl_status run(machine *m) {
    while (!m->stopped) {
        m->op_at = m->at;
        if (m->at >= m->n)
            return bad(m, "the pickle ends too early");
        unsigned char op = m->p[m->at++];
        if (!ops[op])
            return tnl_fail(m->err, TNL_E_UNSUPPORTED,
                            "%s: data.pkl byte %zu: the opcode 0x%02x is not allowed", m->file,
                            m->op_at, op);
        TNL_TRY(ops[op](m));
    }
    return TNL_OK;
}

/* ---- results ---- */

static tnl_status read_ints(machine *m, const value *tuple, uint64_t *out, const char *name,
                            size_t name_n, tnl_error *err) {
    for (uint32_t i = 0; i < tuple->seq.n; i++) {
        const value *v = item(m, tuple, i);
        if (v->kind != V_INT || v->i < 0)
            return tnl_fail(err, TNL_E_DATA,
                            "%s: tensor \"%.*s\": size or stride: found %s, expected whole numbers",
                            m->file, (int)(name_n < 200 ? name_n : 200), name,
                            v->kind == V_INT ? "a negative number" : kind_words[v->kind]);
        out[i] = (uint64_t)v->i;
    }
    return TNL_OK;
}

static tnl_status give_tensor(machine *m, const value *name, const value *t, mdl_pickle_fn fn,
                              void *ctx) {
    const value *storage = &m->values[t->tensor.storage];
    const value *key = &m->values[storage->storage.key];
    const value *size = &m->values[t->tensor.size], *stride = &m->values[t->tensor.stride];
    const value *offset = &m->values[t->tensor.offset];
    int shown = (int)(name->text.n < 200 ? name->text.n : 200);
    if (size->seq.n > MDL_MAX_RANK || size->seq.n != stride->seq.n || offset->i < 0)
        return tnl_fail(m->err, TNL_E_DATA,
                        "%s: tensor \"%.*s\": found %u sizes, %u strides and offset %lld, expected "
                        "at most %d, as many, and 0 or more",
                        m->file, shown, name->text.s, size->seq.n, stride->seq.n,
                        (long long)offset->i, MDL_MAX_RANK);
    mdl_pickled_tensor out = {
        .name = name->text.s,
        .name_len = name->text.n,
        .storage = key->text.s,
        .storage_len = key->text.n,
        .dtype = storage->dtype,
        .storage_elems = (uint64_t)m->values[storage->storage.elems].i,
        .offset = (uint64_t)offset->i,
        .rank = (int)size->seq.n,
    };
    TNL_TRY(read_ints(m, size, out.dims, out.name, out.name_len, m->err));
    TNL_TRY(read_ints(m, stride, out.strides, out.name, out.name_len, m->err));
    return fn(ctx, &out, m->err);
}

static tnl_status give_all(machine *m, mdl_pickle_fn fn, void *ctx) {
    const value *dict = &m->values[m->stack[0]];
    if (dict->kind != V_DICT)
        return tnl_fail(m->err, TNL_E_DATA, "%s: data.pkl: found %s, expected a dict of tensors",
                        m->file, kind_words[dict->kind]);
    for (uint32_t i = 0; i + 1 < dict->seq.n; i += 2) {
        const value *name = item(m, dict, i), *t = item(m, dict, i + 1);
        if (name->kind != V_TEXT)
            return tnl_fail(m->err, TNL_E_DATA, "%s: data.pkl: a key is %s, expected a text",
                            m->file, kind_words[name->kind]);
        if (t->kind == V_TENSOR) {
            TNL_TRY(give_tensor(m, name, t, fn, ctx));
            continue;
        }
        char shown[65];
        tnl_log_escape(shown, sizeof shown, name->text.s, name->text.n);
        tnl_log(TNL_LOG_DEBUG, "%s: entry \"%s\" is %s and not used", m->file, shown,
                kind_words[t->kind]);
    }
    return TNL_OK;
}

tnl_status mdl_pickle_tensors(const unsigned char *p, size_t n, const char *file, mdl_pickle_fn fn,
                              void *ctx, tnl_error *err) {
    machine m = {.p = p, .n = n, .file = file, .err = err};
    tnl_status s = run(&m);
    if (s == TNL_OK)
        s = give_all(&m, fn, ctx);
    for (uint32_t i = 0; i < m.n_values; i++)
        if (m.values[i].kind == V_TUPLE || m.values[i].kind == V_LIST || m.values[i].kind == V_DICT)
            free(m.values[i].seq.items);
    free(m.values);
    free(m.stack);
    free(m.memo);
    return s;
}
