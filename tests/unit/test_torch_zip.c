/* torch archives: what torch.save writes is read, what it never writes is refused by name. The
 * archives are made here byte by byte (zip: stored entries; pickle: the opcodes of protocol 2). */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

#include <cmocka.h>

#include "model/tensors.h"
#include "tests/unit/folder.h"

#define BIN "pytorch_model.bin"

/* ---- writing archives ---- */

typedef struct member {
    const char *name;
    const void *p;
    size_t n;
} member;

enum { MAX_MEMBERS = 8 };

typedef struct zip {
    buf b;
    size_t local[MAX_MEMBERS], central[MAX_MEMBERS]; /* where the headers stand */
    size_t dir, end;
} zip;

static void put_local(buf *b, const member *m) {
    put_le(b, 0x04034b50, 4), put_le(b, 20, 2), put_le(b, 0, 2), put_le(b, 0, 2);
    put_le(b, 0, 8); /* time, date, crc: torch does not need ours */
    put_le(b, m->n, 4), put_le(b, m->n, 4), put_le(b, strlen(m->name), 2);
    size_t pad = (64 - (b->n + 2 + strlen(m->name)) % 64) % 64;
    put_le(b, pad, 2);
    put_text(b, m->name);
    put_fill(b, 0, pad);
    put(b, m->p, m->n);
}

/* wide: sizes and offset stand in the zip64 extra field. */
static void put_central(buf *b, const member *m, size_t local, bool wide) {
    put_le(b, 0x02014b50, 4), put_le(b, 20, 2), put_le(b, 20, 2), put_le(b, 0, 2), put_le(b, 0, 2);
    put_le(b, 0, 8);
    uint64_t all = 0xFFFFFFFF;
    put_le(b, wide ? all : m->n, 4), put_le(b, wide ? all : m->n, 4);
    put_le(b, strlen(m->name), 2), put_le(b, wide ? 28 : 0, 2), put_le(b, 0, 2);
    put_le(b, 0, 2), put_le(b, 0, 2), put_le(b, 0, 4);
    put_le(b, wide ? all : local, 4);
    put_text(b, m->name);
    if (wide)
        put_le(b, 1, 2), put_le(b, 24, 2), put_le(b, m->n, 8), put_le(b, m->n, 8),
            put_le(b, local, 8);
}

static zip zip_of(const member *m, int n, bool wide) {
    zip z = {0};
    for (int i = 0; i < n; i++) {
        z.local[i] = z.b.n;
        put_local(&z.b, &m[i]);
    }
    z.dir = z.b.n;
    for (int i = 0; i < n; i++) {
        z.central[i] = z.b.n;
        put_central(&z.b, &m[i], z.local[i], wide);
    }
    size_t size = z.b.n - z.dir, end64 = z.b.n;
    if (wide) {
        put_le(&z.b, 0x06064b50, 4), put_le(&z.b, 44, 8), put_le(&z.b, 45, 2), put_le(&z.b, 45, 2);
        put_le(&z.b, 0, 8), put_le(&z.b, (uint64_t)n, 8), put_le(&z.b, (uint64_t)n, 8);
        put_le(&z.b, size, 8), put_le(&z.b, z.dir, 8);
        put_le(&z.b, 0x07064b50, 4), put_le(&z.b, 0, 4), put_le(&z.b, end64, 8), put_le(&z.b, 1, 4);
    }
    z.end = z.b.n;
    put_le(&z.b, 0x06054b50, 4), put_le(&z.b, 0, 4);
    put_le(&z.b, wide ? 0xFFFF : (uint64_t)n, 2), put_le(&z.b, wide ? 0xFFFF : (uint64_t)n, 2);
    put_le(&z.b, wide ? 0xFFFFFFFF : size, 4), put_le(&z.b, wide ? 0xFFFFFFFF : z.dir, 4);
    put_le(&z.b, 0, 2);
    return z;
}

/* ---- writing pickles ---- */

static void op_text(buf *p, const char *s) {
    put_text(p, "X"), put_le(p, strlen(s), 4), put_text(p, s);
}

static void op_int(buf *p, uint64_t v) {
    if (v < 256)
        put_text(p, "K"), put_le(p, v, 1);
    else
        put_text(p, "J"), put_le(p, v, 4);
}

static void op_global(buf *p, const char *module, const char *name) {
    put_text(p, "c"), put_text(p, module), put_text(p, "\n"), put_text(p, name), put_text(p, "\n");
}

typedef struct tensor {
    const char *name, *storage, *key;
    uint64_t elems, offset;
    int rank;
    uint64_t dims[10], strides[10];
} tensor;

/* _rebuild_tensor_v2(persistent storage, offset, size, stride, False, OrderedDict()) */
static void op_tensor(buf *p, const tensor *t) {
    op_global(p, "torch._utils", "_rebuild_tensor_v2");
    put_text(p, "((");
    op_text(p, "storage"), op_global(p, "torch", t->storage), op_text(p, t->key), op_text(p, "cpu");
    op_int(p, t->elems);
    put_text(p, "tQ");
    op_int(p, t->offset);
    put_text(p, "(");
    for (int i = 0; i < t->rank; i++)
        op_int(p, t->dims[i]);
    put_text(p, "t(");
    for (int i = 0; i < t->rank; i++)
        op_int(p, t->strides[i]);
    put_text(p, "t\x89");
    op_global(p, "collections", "OrderedDict");
    put_text(p, ")RtR");
}

static buf pickle_of(const tensor *t, int n) {
    buf p = {0};
    put_text(&p, "\x80\x02}q");
    put_le(&p, 0, 1);
    put_text(&p, "(");
    for (int i = 0; i < n; i++) {
        op_text(&p, t[i].name);
        op_tensor(&p, &t[i]);
    }
    put_text(&p, "u.");
    return p;
}

static const float floats[6] = {1, -2, 3, -4, 5, -6};

/* The usual archive around a pickle; storage "0" holds the six floats. */
static zip archive_of(const buf *pickle, bool wide) {
    const member m[] = {{"model/data.pkl", pickle->p, pickle->n},
                        {"model/byteorder", "little", 6},
                        {"model/data/0", floats, sizeof floats},
                        {"model/version", "3\n", 2}};
    return zip_of(m, 4, wide);
}

/* ---- asking ---- */

static tnl_status open_bytes(const buf *b, mdl_tensors **t, tnl_error *err) {
    char *dir = folder_new();
    folder_write(dir, BIN, b->p, b->n);
    tnl_status s = mdl_tensors_open(t, dir, MDL_LOAD_READ, err);
    folder_free(dir);
    return s;
}

static void refused(buf *b, const char *label, const char *words) {
    mdl_tensors *t;
    tnl_error err = {0};
    tnl_status s = open_bytes(b, &t, &err);
    if (s == TNL_OK || !strstr(err.msg, words) || !strstr(err.msg, BIN))
        fail_msg("%s: status %d, \"%s\", expected \"%s\"", label, s, err.msg, words);
    drop(b);
}

static void refused_pickle(buf *p, const char *label, const char *words) {
    zip z = archive_of(p, false);
    refused(&z.b, label, words);
    drop(p);
}

/* ---- sound ---- */

static void sound(void **state) {
    (void)state;
    const tensor t[] = {
        {"embed", "FloatStorage", "0", 6, 0, 2, {2, 3}, {3, 1}},
        {"lm_head", "FloatStorage", "0", 6, 0, 2, {2, 3}, {3, 1}}, /* tied: the same storage */
        {"slice", "FloatStorage", "0", 6, 3, 2, {1, 3}, {99, 1}},  /* an offset, a loose stride */
        {"scalar", "FloatStorage", "0", 6, 5, 0, {0}, {0}},
        {"empty", "FloatStorage", "0", 6, 0, 2, {0, 3}, {3, 1}},
    };
    for (int wide = 0; wide < 2; wide++) {
        buf p = pickle_of(t, 5);
        zip z = archive_of(&p, wide);
        if (wide) /* a comment behind the archive is legal */
            set_le(&z.b, z.end + 20, 5, 2), put_text(&z.b, "hello");
        mdl_tensors *d;
        tnl_error err = {0};
        if (open_bytes(&z.b, &d, &err) != TNL_OK)
            fail_msg("%s", err.msg);
        assert_int_equal(mdl_tensors_count(d), 5);
        const mdl_tensor_view *embed = mdl_tensors_find(d, "embed");
        assert_memory_equal(embed->data, floats, sizeof floats);
        assert_int_equal(embed->dims[0], 2);
        assert_int_equal(embed->dims[1], 3);
        assert_ptr_equal(mdl_tensors_find(d, "lm_head")->data, embed->data);
        assert_memory_equal(mdl_tensors_find(d, "slice")->data, floats + 3, 12);
        assert_memory_equal(mdl_tensors_find(d, "scalar")->data, floats + 5, 4);
        assert_int_equal(mdl_tensors_find(d, "empty")->bytes, 0);
        mdl_tensors_close(d);
        drop(&z.b);
        drop(&p);
    }
}

/* An ordered dict with the attributes a module's state has, nested values, memo and long ints. */
static void other_values(void **state) {
    (void)state;
    const tensor t = {"w", "FloatStorage", "0", 6, 0, 1, {6}, {1}};
    buf p = {0};
    put_text(&p, "\x80\x02");
    op_global(&p, "collections", "OrderedDict");
    put_text(&p, ")Rq\x01(");
    op_text(&p, "w"), op_tensor(&p, &t);
    op_text(&p, "list"), put_text(&p, "]q\x02(K\x01J\xff\xff\xff\xff\x88Ne");
    op_text(&p, "long"), put_text(&p, "\x8a\x05\x01\x02\x03\x04\x05");
    op_text(&p, "float"), put_text(&p, "G"), put_le(&p, 0, 8);
    op_text(&p, "again"), put_text(&p, "h\x02");
    op_text(&p, "dict"), put_text(&p, "}");
    op_text(&p, "k"), put_text(&p, "K\x01\x85s");
    put_text(&p, "u}");
    op_text(&p, "_metadata"), put_text(&p, "}sb.");
    zip z = archive_of(&p, false);
    mdl_tensors *d;
    tnl_error err = {0};
    if (open_bytes(&z.b, &d, &err) != TNL_OK)
        fail_msg("%s", err.msg);
    assert_int_equal(mdl_tensors_count(d), 1);
    mdl_tensors_close(d);
    drop(&z.b);
    drop(&p);
}

/* Opcodes of protocol 4, and the integer forms that the cases above do not use. */
static void newer_protocol(void **state) {
    (void)state;
    static const char head[] = "\x80\x04\x95\x10\0\0\0\0\0\0\0}\x94(\x8c\x01w";
    static const char global[] = "\x8c\x0ctorch._utils\x94\x8c\x12_rebuild_tensor_v2\x94\x93";
    static const char storage[] = "((\x8c\x07storage\x8c\x05torch\x8c\x0c"
                                  "FloatStorage\x93\x8c\x01"
                                  "0\x8c\x03"
                                  "cpuM\x06\0tQ";
    static const char rest[] = "K\0\x8a\x01\x06\x85K\x01\x85\x89NtR\x8c\x01n\x8a\x02\xff\xff"
                               "\x8c\x01tK\x01K\x02K\x03\x87u.";
    buf p = {0};
    put(&p, head, sizeof head - 1);
    put(&p, global, sizeof global - 1);
    put(&p, storage, sizeof storage - 1);
    put(&p, rest, sizeof rest - 1);
    zip z = archive_of(&p, false);
    mdl_tensors *d;
    tnl_error err = {0};
    if (open_bytes(&z.b, &d, &err) != TNL_OK)
        fail_msg("%s", err.msg);
    assert_int_equal(mdl_tensors_count(d), 1);
    assert_memory_equal(mdl_tensors_find(d, "w")->data, floats, sizeof floats);
    mdl_tensors_close(d);
    drop(&z.b);
    drop(&p);
}

/* ---- pickles refused ---- */

static void globals(void **state) {
    (void)state;
    static const char *const bad[][2] = {{"os", "system"},
                                         {"builtins", "eval"},
                                         {"torch", "LongStorage"},
                                         {"torch", "DoubleStorage"},
                                         {"torch._utils", "_rebuild_parameter"},
                                         {"collections", "Counter"},
                                         {"numpy.core.multiarray", "_reconstruct"},
                                         {"", ""}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        buf p = {0};
        char full[96];
        snprintf(full, sizeof full, "the global %s.%s is not allowed", bad[i][0], bad[i][1]);
        put_text(&p, "\x80\x02");
        op_global(&p, bad[i][0], bad[i][1]);
        put_text(&p, ")R.");
        refused_pickle(&p, "global", full);
    }
}

typedef struct raw_case {
    const char *label, *p;
    size_t n;
    const char *words;
} raw_case;
#define RAW(label, text, words)                                                                    \
    { label, text, sizeof text - 1, words }

static const raw_case raws[] = {
    RAW("empty", "", "ends too early"),
    RAW("no stop", "\x80\x02}", "ends too early"),
    RAW("old protocol", "\x80\x01}.", "unknown pickle protocol"),
    RAW("new protocol", "\x80\x06}.", "unknown pickle protocol"),
    RAW("not a dict", "\x80\x02].", "found a list, expected a dict"),
    RAW("nothing", "\x80\x02.", "more or less than one value"),
    RAW("two values", "\x80\x02}}.", "more or less than one value"),
    RAW("bytes behind", "\x80\x02}.}", "bytes after the end"),
    RAW("opcode INST", "\x80\x02(ios\nsystem\n.", "opcode 0x69 is not allowed"),
    RAW("opcode OBJ", "\x80\x02(o.", "opcode 0x6f"),
    RAW("opcode NEWOBJ", "\x80\x02)\x81.", "opcode 0x81"),
    RAW("opcode EXT1", "\x80\x02\x82\x01.", "opcode 0x82"),
    RAW("opcode PERSID", "\x80\x02P0\n.", "opcode 0x50"),
    RAW("opcode LONG4", "\x80\x02\x8b\xff\xff\xff\xff.", "opcode 0x8b"),
    RAW("empty stack", "\x80\x02\x85.", "the stack is empty"),
    RAW("append to nothing",
        "\x80\x02K\x01"
        "a.",
        "the stack is empty"),
    RAW("append to a dict",
        "\x80\x02}K\x01"
        "a.",
        "not such a container"),
    RAW("set in a list", "\x80\x02]K\x01K\x02s.", "not such a container"),
    RAW("odd items", "\x80\x02}(K\x01u.", "not such a container"),
    RAW("no mark", "\x80\x02}u.", "no mark"),
    RAW("tuple without mark", "\x80\x02K\x01t.", "no mark"),
    RAW("mark as a value", "\x80\x02((\x85.", "a mark where a value is expected"),
    RAW("build on an int", "\x80\x02K\x01}b.", "not a dict"),
    RAW("reduce an int", "\x80\x02K\x01)R.", "found an integer, expected a global"),
    RAW("call a storage",
        "\x80\x02"
        "ctorch\nFloatStorage\n)R.",
        "a call of a storage type"),
    RAW("dict of pairs",
        "\x80\x02"
        "ccollections\nOrderedDict\n]\x85R.",
        "with arguments"),
    RAW("rebuild nothing",
        "\x80\x02"
        "ctorch._utils\n_rebuild_tensor_v2\n)R.",
        "unexpected arguments"),
    RAW("persistent int", "\x80\x02K\x01Q.", "found an integer, expected a tuple"),
    RAW("persistent pair", "\x80\x02K\x01K\x02\x86Q.", "persistent id that is not a storage"),
    RAW("get unset", "\x80\x02h\x07.", "memo index"),
    RAW("get far", "\x80\x02j\xff\xff\xff\xff.", "memo index"),
    RAW("put far", "\x80\x02}r\xff\xff\xff\xff.", "memo index"),
    RAW("put nothing", "\x80\x02q\x01.", "nothing to remember"),
    RAW("long text", "\x80\x02X\xff\xff\xff\x7f.", "ends too early"),
    RAW("cut int", "\x80\x02J\x01", "ends too early"),
    RAW("cut global",
        "\x80\x02"
        "cos",
        "ends too early"),
    RAW("wide long", "\x80\x02\x8a\x09\x01\x01\x01\x01\x01\x01\x01\x01\x01.", "more than 8 bytes"),
    RAW("int as a key", "\x80\x02}K\x01K\x02s.", "a key is an integer"),
};

static void raw_pickles(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof raws / sizeof raws[0]; i++) {
        buf p = {0};
        put(&p, raws[i].p, raws[i].n);
        refused_pickle(&p, raws[i].label, raws[i].words);
    }
    for (int c = 0; c < 4; c++) { /* depth and a cycle cost nothing, since nothing recurses */
        static const char *const heads[] = {"\x80\x02)", "\x80\x02", "\x80\x02}q\x01K\x01h\x01s",
                                            "\x80\x02"};
        static const int fill[] = {0x85, '(', 'N', ']'};
        buf p = {0};
        put_text(&p, heads[c]);
        put_fill(&p, fill[c], 1000000);
        put_text(&p, ".");
        refused_pickle(&p, "flood", "data.pkl");
    }
}

static void tensors_refused(void **state) {
    (void)state;
    static const struct {
        const char *label;
        tensor t;
        const char *words;
    } bad[] = {
        {"no storage",
         {"w", "FloatStorage", "7", 6, 0, 1, {6}, {1}},
         "its storage data/7 is missing"},
        {"path", {"w", "FloatStorage", "../data.pkl", 6, 0, 1, {6}, {1}}, "is missing"},
        {"elements",
         {"w", "FloatStorage", "0", 7, 0, 1, {6}, {1}},
         "found 24 bytes of storage, expected 7 elements of f32"},
        {"type", {"w", "HalfStorage", "0", 6, 0, 1, {6}, {1}}, "expected 6 elements of f16"},
        {"offset", {"w", "FloatStorage", "0", 6, 1, 1, {6}, {1}}, "end beyond its storage"},
        {"far offset", {"w", "FloatStorage", "0", 6, 0x7FFFFFFF, 1, {6}, {1}}, "end beyond"},
        {"negative offset", {"w", "FloatStorage", "0", 6, 0xFFFFFFFF, 1, {6}, {1}}, "offset -1"},
        {"size", {"w", "FloatStorage", "0", 6, 0, 2, {2, 4}, {4, 1}}, "end beyond its storage"},
        {"negative size",
         {"w", "FloatStorage", "0", 6, 0, 1, {0xFFFFFFFF}, {1}},
         "a negative number"},
        {"product",
         {"w", "FloatStorage", "0", 6, 0, 4, {0x7FFFFFFF, 0x7FFFFFFF, 0x7FFFFFFF, 1}, {1, 1, 1, 1}},
         "expected row-major"},
        {"transposed", {"w", "FloatStorage", "0", 6, 0, 2, {3, 2}, {1, 3}}, "expected row-major"},
        {"gaps", {"w", "FloatStorage", "0", 6, 0, 1, {3}, {2}}, "expected row-major"},
        {"repeated", {"w", "FloatStorage", "0", 6, 0, 2, {2, 3}, {0, 1}}, "expected row-major"},
        {"rank 9",
         {"w",
          "FloatStorage",
          "0",
          6,
          0,
          9,
          {1, 1, 1, 1, 1, 1, 1, 1, 1},
          {1, 1, 1, 1, 1, 1, 1, 1, 1}},
         "found 9 sizes"},
        {"no name", {"", "FloatStorage", "0", 6, 0, 1, {6}, {1}}, "tensor name"},
        {"line feed", {"a\nb", "FloatStorage", "0", 6, 0, 1, {6}, {1}}, "tensor name"},
        {"not UTF-8", {"\xFF", "FloatStorage", "0", 6, 0, 1, {6}, {1}}, "tensor name"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        buf p = pickle_of(&bad[i].t, 1);
        refused_pickle(&p, bad[i].label, bad[i].words);
    }
    const tensor twice[] = {{"w", "FloatStorage", "0", 6, 0, 1, {6}, {1}},
                            {"w", "FloatStorage", "0", 6, 0, 1, {6}, {1}}};
    buf p = pickle_of(twice, 2);
    refused_pickle(&p, "twice", "tensor \"w\": found again");
}

/* ---- archives refused ---- */

static zip usual(bool wide) {
    const tensor t = {"w", "FloatStorage", "0", 6, 0, 1, {6}, {1}};
    buf p = pickle_of(&t, 1);
    zip z = archive_of(&p, wide);
    drop(&p);
    return z;
}

/* Members of the usual archive: 0 data.pkl, 1 byteorder, 2 data/0, 3 version. */
static void archives(void **state) {
    (void)state;
    static const struct {
        const char *label;
        int place; /* 0 central, 1 local, 2 end, 3 zip64 end */
        int member;
        size_t at;
        uint64_t value;
        int bytes;
        const char *words;
    } bad[] = {
        {"deflated", 0, 2, 10, 8, 2, "compressed"},
        {"encrypted", 0, 2, 8, 1, 2, "encrypted"},
        {"sizes differ", 0, 2, 20, 23, 4, "compressed"},
        {"size to the end", 0, 2, 24, 0xFFFFFFFE, 4, "compressed"},
        {"central signature", 0, 1, 0, 0, 4, "the central directory is cut"},
        {"central name", 0, 1, 28, 0xFFFF, 2, "the central directory is cut"},
        {"local offset", 0, 2, 42, 0x7FFFFFFF, 4, "a local header is missing"},
        {"local signature", 1, 2, 0, 0, 4, "a local header is missing"},
        {"local name", 1, 2, 31, 'x', 1, "another name"},
        {"local extra", 1, 2, 28, 0xFFFF, 2, "outside the file"},
        {"two names", 0, 3, 46 + 6, 0, 1, "another name"},
        {"entries", 2, 0, 10, 0xFF, 2, "more entries than its size allows"},
        {"directory size", 2, 0, 12, 0x7FFFFFFF, 4, "outside the file"},
        {"directory offset", 2, 0, 16, 0x7FFFFFFF, 4, "outside the file"},
        {"end signature", 2, 0, 0, 0, 4, "no end record"},
        {"comment length", 2, 0, 20, 1, 2, "no end record"},
        {"zip64 expected", 2, 0, 16, 0xFFFFFFFF, 4, "zip64 locator is missing"},
        {"zip64 signature", 3, 0, 0, 0, 4, "zip64 end record is missing"},
        {"zip64 entries", 3, 0, 32, UINT64_MAX, 8, "more entries than its size allows"},
        {"zip64 size", 3, 0, 40, UINT64_MAX, 8, "outside the file"},
        {"zip64 offset", 3, 0, 48, UINT64_MAX, 8, "outside the file"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        zip z = usual(bad[i].place == 3);
        size_t base[] = {z.central[bad[i].member], z.local[bad[i].member], z.end, z.end - 76};
        set_le(&z.b, base[bad[i].place] + bad[i].at, bad[i].value, bad[i].bytes);
        refused(&z.b, bad[i].label, bad[i].words);
    }
}

static void members(void **state) {
    (void)state;
    const tensor t = {"w", "FloatStorage", "0", 6, 0, 1, {6}, {1}};
    buf p = pickle_of(&t, 1);
    const member no_pickle[] = {{"model/data/0", floats, sizeof floats}};
    const member deep[] = {{"a/b/data.pkl", p.p, p.n}, {"a/b/data/0", floats, sizeof floats}};
    const member two[] = {
        {"a/data.pkl", p.p, p.n}, {"b/data.pkl", p.p, p.n}, {"a/data/0", floats, sizeof floats}};
    const member same[] = {{"a/data.pkl", p.p, p.n},
                           {"a/data/0", floats, sizeof floats},
                           {"a/data/0", floats, sizeof floats}};
    const member big[] = {
        {"a/data.pkl", p.p, p.n}, {"a/data/0", floats, sizeof floats}, {"a/byteorder", "big", 3}};
    zip z = zip_of(no_pickle, 1, false);
    refused(&z.b, "no pickle", "no data.pkl");
    z = zip_of(deep, 2, false);
    refused(&z.b, "deep prefix", "no data.pkl");
    z = zip_of(two, 3, false);
    refused(&z.b, "two pickles", "more than one data.pkl");
    z = zip_of(same, 3, false);
    refused(&z.b, "same entry", "same name");
    z = zip_of(big, 3, false);
    refused(&z.b, "byte order", "byteorder: found \"big\", expected \"little\"");
    z = zip_of(NULL, 0, false);
    refused(&z.b, "no entries", "no data.pkl");
    drop(&p);
    buf old = {0};
    put_text(&old, "\x80\x02\x8a\nl\xfc\x9c\x46\xf9 j\xa8P\x19.");
    refused(&old, "old format", "before 1.6");
    buf nothing = {0};
    refused(&nothing, "empty file", "no end record");
}

/* Every cut of a sound archive, and random changes of it. */
static void cuts_and_mutants(void **state) {
    (void)state;
    const char *from = getenv("TNL_TEST_SEED");
    uint64_t seed = from ? strtoull(from, NULL, 10) : 20240103, r = seed;
    printf("seed %llu (TNL_TEST_SEED)\n", (unsigned long long)seed);
    zip z = usual(true);
    mdl_tensors *d;
    tnl_error err;
    for (size_t n = 0; n < z.b.n; n++) {
        buf cut = {0};
        put(&cut, z.b.p, n);
        assert_int_not_equal(open_bytes(&cut, &d, &err), TNL_OK);
        drop(&cut);
    }
    for (int i = 0; i < 2000; i++) {
        buf b = {0};
        put(&b, z.b.p, z.b.n);
        for (int k = 0; k < 1 + i % 3; k++) {
            r = r * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
            b.p[(size_t)(r >> 33) % b.n] = (unsigned char)(r >> 20);
        }
        if (open_bytes(&b, &d, &err) == TNL_OK) {
            for (int64_t k = 0; k < mdl_tensors_count(d); k++)
                assert_true(mdl_tensors_at(d, k)->file_offset + mdl_tensors_at(d, k)->bytes <= b.n);
            mdl_tensors_close(d);
        }
        drop(&b);
    }
    drop(&z.b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(newer_protocol),   cmocka_unit_test(sound),
        cmocka_unit_test(other_values),     cmocka_unit_test(globals),
        cmocka_unit_test(raw_pickles),      cmocka_unit_test(tensors_refused),
        cmocka_unit_test(archives),         cmocka_unit_test(members),
        cmocka_unit_test(cuts_and_mutants),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
