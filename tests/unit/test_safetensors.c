/* safetensors files and their index, sound and broken. The labels S1..S46 are the cases of our
 * list of hostile files; each refusal must name the file and what is wrong with it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "model/tensors.h"
#include "tests/unit/folder.h"

#define ST "model.safetensors"
#define INDEX "model.safetensors.index.json"

/* Open a folder and demand a refusal whose line has `words`. */
static void refused(const char *dir, const char *label, const char *words) {
    mdl_tensors *t;
    tnl_error err = {0};
    tnl_status s = mdl_tensors_open(&t, dir, MDL_LOAD_MAP, &err);
    if (s == TNL_OK || t || !strstr(err.msg, words) || strchr(err.msg, '\n'))
        fail_msg("%s: status %d, \"%s\", expected \"%s\"", label, s, err.msg, words);
    assert_int_equal(mdl_tensors_open(&t, dir, MDL_LOAD_READ, NULL), s);
}

static mdl_tensors *opened(const char *dir, mdl_load_mode mode) {
    mdl_tensors *t;
    tnl_error err = {0};
    if (mdl_tensors_open(&t, dir, mode, &err) != TNL_OK)
        fail_msg("%s", err.msg);
    return t;
}

/* ---- headers ---- */

typedef struct header_case {
    const char *label, *header;
    size_t data;       /* bytes of data behind it */
    const char *words; /* NULL: accepted */
} header_case;

#define T(shape, offsets) "{\"dtype\":\"F32\",\"shape\":" shape ",\"data_offsets\":" offsets "}"
#define ONE(shape, offsets) "{\"a\":" T(shape, offsets) "}"
#define TWO(first, second) "{\"a\":" first ",\"b\":" second "}"

static const header_case headers[] = {
    {"sound", ONE("[1]", "[0,4]"), 4, NULL},
    {"no tensors", "{}", 0, NULL},
    {"rank 0", ONE("[]", "[0,4]"), 4, NULL},
    {"rank 8", ONE("[1,1,1,1,1,1,1,1]", "[0,4]"), 4, NULL},
    {"dimension 0", ONE("[0,5]", "[0,0]"), 0, NULL},
    {"spaces behind", ONE("[1]", "[0,4]") "   ", 4, NULL},
    {"spaces inside",
     "{ \"a\" : {\"dtype\" : \"F32\", \"shape\": [ 1 ] ,\n\"data_offsets\":[0 , 4]} }", 4, NULL},
    {"metadata", "{\"__metadata__\":{\"format\":\"pt\",\"x\":\"\\n\"},\"a\":" T("[1]", "[0,4]") "}",
     4, NULL},
    {"two, second first", TWO(T("[1]", "[4,8]"), T("[1]", "[0,4]")), 8, NULL},
    {"empty between",
     "{\"a\":" T("[1]", "[0,4]") ",\"z\":" T("[0]", "[4,4]") ",\"b\":" T("[1]", "[4,8]") "}", 8,
     NULL},
    {"S11", ONE("[1]", "[0,4]"), 3, "data_offsets: found 0..4, expected a range in 0..3"},
    {"S12", ONE("[1]", "[0,4]"), 5, "tensors end at byte 4 of the data, expected 5"},
    {"S12 no tensors", "{}", 1, "tensors end at byte 0"},
    {"S21", "{\"a\":", 0, "header: byte 5"},
    {"S22 array", "[]", 0, "expected '{'"},
    {"S22 number", "1", 0, "expected '{'"},
    {"S23 space", " {}", 0, "expected '{'"},
    {"S23 mark", "\xEF\xBB\xBF{}", 0, "expected '{'"},
    {"S20", "{\"\xFF\":" T("[1]", "[0,4]") "}", 4, "UTF-8"},
    {"S25", "{}{}", 0, "text after"},
    {"S25 newline", "{}\n", 0, "only spaces"},
    {"S26", "{\"a\":" T("[1]", "[0,4]") ",\"a\":" T("[1]", "[4,8]") "}", 8, "duplicate key \"a\""},
    {"S26 escaped", "{\"a\":" T("[1]", "[0,4]") ",\"\\u0061\":" T("[1]", "[4,8]") "}", 8,
     "duplicate key"},
    {"S27", "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"shape\":[1],\"data_offsets\":[0,4]}}", 4,
     "duplicate key \"shape\""},
    {"S30 empty", "{\"\":" T("[1]", "[0,4]") "}", 4, "tensor name"},
    {"S30 escape", "{\"a\\nb\":" T("[1]", "[0,4]") "}", 4, "tensor name"},
    {"S31 number", "{\"__metadata__\":{\"a\":1}}", 0, "__metadata__: \"a\""},
    {"S31 list", "{\"__metadata__\":[]}", 0, "__metadata__"},
    {"S31 tensor", "{\"__metadata__\":" T("[1]", "[0,4]") "}", 4, "__metadata__: \"shape\""},
    {"S32 dtype", "{\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "dtype: missing"},
    {"S32 shape", "{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, "shape: missing"},
    {"S32 offsets", "{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 0, "data_offsets: missing"},
    {"S32 empty", "{\"a\":{}}", 0, "dtype: missing"},
    {"S32 no object", "{\"a\":7}", 0, "entry: found 7, expected an object"},
    {"S33", "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"x\":1}}", 4,
     "unknown key \"x\""},
    {"S34 text", ONE("[1]", "[\"0\",4]"), 4, "data_offsets: found \"0\""},
    {"S34 float", ONE("[1]", "[0.0,4]"), 4, "data_offsets: found 0.0"},
    {"S34 exponent", ONE("[1]", "[0,4e0]"), 4, "data_offsets: found 4e0"},
    {"S34 negative", ONE("[1]", "[-1,4]"), 4, "data_offsets: found -1"},
    {"S34 minus zero", ONE("[1]", "[-0,4]"), 4, "data_offsets: found -0"},
    {"S34 infinite", ONE("[1]", "[0,1e999]"), 4, "number too large"},
    {"S34 no list", ONE("[1]", "4"), 4, "data_offsets: found 4, expected a list"},
    {"S34 null", ONE("[1]", "null"), 4, "data_offsets: found null"},
    {"S34 shape", ONE("[1.0]", "[0,4]"), 4, "shape: found 1.0"},
    {"S34 shape text", ONE("\"1\"", "[0,4]"), 4, "shape: found \"1\""},
    {"S34 shape negative", ONE("[-1]", "[0,4]"), 4, "shape: found -1"},
    {"S35", ONE("[1]", "[4,0]"), 4, "found 4..0"},
    {"S36 one", ONE("[1]", "[4]"), 4, "data_offsets: found [4], expected two"},
    {"S36 three", ONE("[1]", "[0,4,4]"), 4, "data_offsets: found [0,4,4], expected two"},
    {"S36 none", ONE("[1]", "[]"), 4, "expected two"},
    {"S37", ONE("[2]", "[0,8]"), 4, "found 0..8, expected a range in 0..4"},
    {"S38 2^53", ONE("[1]", "[0,9007199254740993]"), 4, "found 0..9007199254740993"},
    {"S38 2^63", ONE("[1]", "[0,9223372036854775808]"), 4, "found 0..9223372036854775808"},
    {"S38 2^64", ONE("[1]", "[0,18446744073709551616]"), 4, "a whole number below 2^64"},
    {"S38 2^64+4", ONE("[1]", "[0,18446744073709551620]"), 4, "a whole number below 2^64"},
    {"S38 begin", ONE("[1]", "[18446744073709551612,0]"), 4, "found 18446744073709551612..0"},
    {"S39", TWO(T("[2]", "[0,8]"), T("[2]", "[4,12]")), 12, "overlaps another tensor"},
    {"S39 inside", TWO(T("[3]", "[0,12]"), T("[1]", "[4,8]")), 12, "overlaps another tensor"},
    {"S40", TWO(T("[1]", "[0,4]"), T("[1]", "[0,4]")), 4, "overlaps another tensor"},
    {"S41", TWO(T("[1]", "[0,4]"), T("[1]", "[8,12]")), 12,
     "a hole before it: found begin 8, expected 4"},
    {"S41 first", ONE("[1]", "[4,8]"), 8, "a hole before it"},
    {"S42", ONE("[4294967296,4294967296]", "[0,4]"), 4, "its size overflows"},
    {"S42 bytes", ONE("[4611686018427387904]", "[0,0]"), 0, "its size overflows"},
    {"S42 zero", ONE("[0,9223372036854775807,9223372036854775807]", "[0,0]"), 0,
     "its size overflows"},
    {"S42 dimension", ONE("[0,18446744073709551615]", "[0,0]"), 0, "its size overflows"},
    {"S43", ONE("[1,1,1,1,1,1,1,1,1]", "[0,4]"), 4, "at most 8 dimensions"},
    {"S44 more", ONE("[2]", "[0,4]"), 4, "found 4 bytes of data, expected 8"},
    {"S44 less", ONE("[1]", "[0,8]"), 8, "found 8 bytes of data, expected 4"},
    {"S44 empty", ONE("[0]", "[0,4]"), 4, "found 4 bytes of data, expected 0"},
    {"S45 F64", "{\"a\":{\"dtype\":\"F64\",\"shape\":[1],\"data_offsets\":[0,8]}}", 8,
     "dtype: found \"F64\", expected \"F32\", \"F16\" or \"BF16\""},
    {"S45 I8", "{\"a\":{\"dtype\":\"I8\",\"shape\":[4],\"data_offsets\":[0,4]}}", 4, "dtype"},
    {"S45 case", "{\"a\":{\"dtype\":\"f32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "dtype"},
    {"S45 number", "{\"a\":{\"dtype\":32,\"shape\":[1],\"data_offsets\":[0,4]}}", 4,
     "dtype: found 32"},
};

static void header_table(void **state) {
    (void)state;
    char *dir = folder_new();
    for (size_t i = 0; i < sizeof headers / sizeof headers[0]; i++) {
        const header_case *c = &headers[i];
        unsigned char data[16] = {0};
        buf b = st_file(c->header, data, c->data);
        folder_write(dir, ST, b.p, b.n);
        drop(&b);
        if (c->words) {
            refused(dir, c->label, ST);
            refused(dir, c->label, c->words);
        } else {
            mdl_tensors_close(opened(dir, MDL_LOAD_MAP));
            mdl_tensors_close(opened(dir, MDL_LOAD_READ));
        }
    }
    folder_free(dir);
}

/* S1 to S10, S24: the eight bytes of length, and cuts. */
static void container(void **state) {
    (void)state;
    static const struct {
        const char *label;
        uint64_t length;
        const char *words;
    } lengths[] = {
        {"S3", 0, "header"},
        {"S4", 1, "header"},
        {"S5", 999, "header length: found 999"},
        {"S7", UINT64_C(1) << 63, "found 9223372036854775808"},
        {"S8", UINT64_MAX, "found 18446744073709551615"},
        {"S9", UINT64_MAX - 7, "found 18446744073709551608"},
    };
    char *dir = folder_new();
    const char *header = ONE("[1]", "[0,4]");
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        buf b = st_file(header, "\0\0\0", 4);
        set_le(&b, 0, lengths[i].length, 8);
        folder_write(dir, ST, b.p, b.n);
        drop(&b);
        refused(dir, lengths[i].label, lengths[i].words);
    }
    buf whole = st_file(header, "\0\0\0", 4);
    for (size_t n = 0; n < whole.n; n++) { /* S1, S2, S10 */
        folder_write(dir, ST, whole.p, n);
        refused(dir, "cut", ST);
    }
    whole.p[10] = 0; /* S24 */
    folder_write(dir, ST, whole.p, whole.n);
    refused(dir, "S24", "NUL");
    drop(&whole);
    buf big = {0}; /* S6: the length fits the sparse file, but is beyond the limit */
    put_le(&big, 100000001, 8);
    folder_write(dir, ST, big.p, big.n);
    must(truncate(folder_path(dir, ST), 100000009) == 0, "sparse file");
    refused(dir, "S6", "header length: found 100000001, expected at most 16777216");
    drop(&big);
    folder_free(dir);
}

/* S28 to S30: much of one thing. */
static void floods(void **state) {
    (void)state;
    char *dir = folder_new();
    for (int kind = 0; kind < 3; kind++) {
        buf h = {0};
        put_text(&h, kind == 0 ? "{\"a\":" : "{\"");
        if (kind == 0)
            put_fill(&h, '[', 100000);
        else
            put_fill(&h, 'x', kind == 1 ? 1 << 20 : 513);
        if (kind)
            put_text(&h, "\":" T("[1]", "[0,4]") "}");
        put(&h, "", 1);
        buf b = st_file((char *)h.p, "\0\0\0", 4);
        folder_write(dir, ST, b.p, b.n);
        refused(dir, "flood", kind ? "tensor name" : "nested too deeply");
        drop(&b);
        drop(&h);
    }
    buf h = {0}; /* 100,000 empty tensors are many, but sound */
    for (int i = 0; i < 100000; i++) {
        char entry[96];
        snprintf(entry, sizeof entry, "%s\"t%d\":" T("[0]", "[0,0]"), i ? "," : "{", i);
        put_text(&h, entry);
    }
    put(&h, "}", 2);
    buf b = st_file((char *)h.p, NULL, 0);
    folder_write(dir, ST, b.p, b.n);
    mdl_tensors *t = opened(dir, MDL_LOAD_MAP);
    assert_int_equal(mdl_tensors_count(t), 100000);
    assert_string_equal(mdl_tensors_find(t, "t99999")->name, "t99999");
    assert_null(mdl_tensors_find(t, "t100000"));
    mdl_tensors_close(t);
    drop(&b);
    drop(&h);
    folder_free(dir);
}

/* S13 to S16: what stands where a file should. */
static void kinds_of_file(void **state) {
    (void)state;
    char *dir = folder_new();
    must(mkdir(folder_path(dir, ST), 0700) == 0, "mkdir");
    refused(dir, "S13 directory", "found a directory, expected a regular file");
    must(rmdir(folder_path(dir, ST)) == 0, "rmdir");
    must(mkfifo(folder_path(dir, ST), 0600) == 0, "mkfifo");
    refused(dir, "S13 fifo", "found a FIFO");
    must(unlink(folder_path(dir, ST)) == 0, "unlink");
    must(symlink("/dev/zero", folder_path(dir, ST)) == 0, "symlink");
    refused(dir, "S13 device", "found a device");
    must(unlink(folder_path(dir, ST)) == 0, "unlink");
    must(symlink("nowhere", folder_path(dir, ST)) == 0, "symlink");
    refused(dir, "S15 dangling", "cannot open");
    must(unlink(folder_path(dir, ST)) == 0, "unlink");
    must(symlink(ST, folder_path(dir, ST)) == 0, "symlink");
    refused(dir, "S15 loop", "cannot open");
    must(unlink(folder_path(dir, ST)) == 0, "unlink");
    refused(dir, "nothing there", "found no weights");
    buf b = st_file("{}", NULL, 0); /* S14: the Hugging Face cache is made of links */
    folder_write(dir, "blob", b.p, b.n);
    must(symlink("blob", folder_path(dir, ST)) == 0, "symlink");
    mdl_tensors_close(opened(dir, MDL_LOAD_MAP));
    drop(&b);
    folder_free(dir);
}

/* ---- what a sound file becomes ---- */

static void views(void **state) {
    (void)state;
    char *dir = folder_new();
    static const float f[3] = {1.5f, -2.0f, 3.25f};
    static const uint16_t h[4] = {0x3F80, 0x4000, 0xBF80, 0x0000};
    buf data = {0};
    put(&data, f, sizeof f);
    put(&data, h, sizeof h);
    for (int mode = 0; mode < 2; mode++)
        for (int pad = 0; pad < 8; pad++) { /* S46: every alignment of the data */
            char header[256];
            snprintf(header, sizeof header,
                     "{\"f\":{\"dtype\":\"F32\",\"shape\":[3,1],\"data_offsets\":[0,12]},"
                     "\"h\":{\"dtype\":\"BF16\",\"shape\":[2,2],\"data_offsets\":[12,20]}}%*s",
                     pad, "");
            buf b = st_file(header, data.p, data.n);
            folder_write(dir, ST, b.p, b.n);
            drop(&b);
            mdl_tensors *t = opened(dir, (mdl_load_mode)mode);
            const mdl_tensor_view *v = mdl_tensors_find(t, "f"), *w = mdl_tensors_find(t, "h");
            assert_int_equal((uintptr_t)v->data % 4, 0);
            assert_int_equal((uintptr_t)w->data % 2, 0);
            assert_memory_equal(v->data, f, sizeof f);
            assert_memory_equal(w->data, h, sizeof h);
            assert_int_equal(v->rank, 2);
            assert_int_equal(v->dims[0], 3);
            assert_int_equal(v->dims[1], 1);
            assert_int_equal(v->dtype, KN_F32);
            assert_int_equal(w->dtype, KN_BF16);
            assert_int_equal(w->bytes, 8);
            assert_int_equal(v->file_offset, 8 + strlen(header));
            assert_string_equal(v->file, ST);
            assert_int_equal(mdl_tensors_file_bytes(t), 8 + strlen(header) + data.n);
            if ((8 + strlen(header)) % 4 == 0)
                assert_string_equal(mdl_tensors_file_of(t, v->data), ST);
            assert_null(mdl_tensors_file_of(t, &data));
            assert_null(mdl_tensors_at(t, 2));
            assert_null(mdl_tensors_at(t, -1));
            mdl_tensors_close(t);
        }
    drop(&data);
    folder_free(dir);
}

/* ---- shards ---- */

static void write_shards(const char *dir) {
    buf a = st_file("{\"a\":" T("[1]", "[0,4]") "}", "\0\0\0", 4);
    buf b = st_file("{\"b\":" T("[1]", "[0,4]") "}", "\0\0\0", 4);
    folder_write(dir, "s1.safetensors", a.p, a.n);
    folder_write(dir, "s2.safetensors", b.p, b.n);
    drop(&a);
    drop(&b);
}

static const struct {
    const char *label, *map, *words;
} indexes[] = {
    {"missing shard", "{\"a\":\"s1.safetensors\",\"b\":\"s3.safetensors\"}", "s3.safetensors"},
    {"slash", "{\"a\":\"./s1.safetensors\"}", "expected the name of a file in the same folder"},
    {"parent", "{\"a\":\"..\"}", "expected the name of a file"},
    {"parent path", "{\"a\":\"../x/s1.safetensors\"}", "expected the name of a file"},
    {"absolute", "{\"a\":\"/etc/passwd\"}", "expected the name of a file"},
    {"empty", "{\"a\":\"\"}", "expected the name of a file"},
    {"escape", "{\"a\":\"s1\\u002fsafetensors\"}", "expected the name of a file"},
    {"number", "{\"a\":1}", "found 1, expected the name"},
    {"itself", "{\"a\":\"" INDEX "\"}", "expected the name of a file"},
    {"wrong shard", "{\"a\":\"s2.safetensors\",\"b\":\"s1.safetensors\"}",
     "tensor \"a\": found in s1.safetensors, expected in s2.safetensors"},
    {"not in shard", "{\"a\":\"s1.safetensors\",\"c\":\"s1.safetensors\"}",
     "tensor \"c\": found in no shard"},
    {"list", "[]", "weight_map: expected an object"},
    {"twice", "{\"a\":\"s1.safetensors\",\"a\":\"s2.safetensors\"}", "duplicate key \"a\""},
    {"same tensor in two shards", "{\"a\":\"s1.safetensors\",\"b\":\"copy.safetensors\"}",
     "copy.safetensors: tensor \"a\": found again, first in s1.safetensors"},
};

static void index_table(void **state) {
    (void)state;
    char *dir = folder_new(), text[512];
    write_shards(dir);
    buf copy = st_file("{\"a\":" T("[1]", "[0,4]") "}", "\0\0\0", 4);
    folder_write(dir, "copy.safetensors", copy.p, copy.n);
    drop(&copy);
    for (size_t i = 0; i < sizeof indexes / sizeof indexes[0]; i++) {
        snprintf(text, sizeof text, "{\"metadata\":{\"total_size\":8},\"weight_map\":%s}",
                 indexes[i].map);
        folder_text(dir, INDEX, text);
        refused(dir, indexes[i].label, indexes[i].words);
    }
    folder_text(dir, INDEX, "{\"metadata\":{}}");
    refused(dir, "no map", INDEX ": weight_map: missing");
    folder_text(dir, INDEX, "[]");
    refused(dir, "list", INDEX ": expected an object");
    folder_text(dir, INDEX, "");
    refused(dir, "empty", INDEX);
    buf many = {0};
    put_text(&many, "{\"weight_map\":{\"a\":\"s1.safetensors\"");
    for (int i = 0; i < 10000; i++) {
        snprintf(text, sizeof text, ",\"t%d\":\"x%d\"", i, i);
        put_text(&many, text);
    }
    put_text(&many, "}}");
    folder_write(dir, INDEX, many.p, many.n);
    refused(dir, "ten thousand shards", "x0");
    drop(&many);
    folder_free(dir);
}

static void sound_index(void **state) {
    (void)state;
    char *dir = folder_new();
    write_shards(dir);
    folder_text(dir, ST, "an index comes before this file"); /* and so it is not opened */
    folder_text(
        dir, INDEX,
        "{\"metadata\":{\"total_size\":8,\"x\":[1]},\"weight_map\":{\"a\":\"s1.safetensors\","
        "\"b\":\"s2.safetensors\"},\"other\":null}");
    mdl_tensors *t = opened(dir, MDL_LOAD_MAP);
    assert_int_equal(mdl_tensors_count(t), 2);
    assert_string_equal(mdl_tensors_find(t, "b")->file, "s2.safetensors");
    mdl_tensors_close(t);
    folder_text(dir, INDEX, /* total_size is wrong: a warning only */
                "{\"metadata\":{\"total_size\":9},\"weight_map\":{\"a\":\"s1.safetensors\"}}");
    t = opened(dir, MDL_LOAD_MAP);
    assert_int_equal(mdl_tensors_count(t), 1);
    mdl_tensors_close(t);
    folder_free(dir);
}

/* One to three bytes changed: refused or accepted, but never a crash, and what is accepted lies
 * inside the file. */
static void mutants(void **state) {
    (void)state;
    const char *from = getenv("TNL_TEST_SEED");
    uint64_t seed = from ? strtoull(from, NULL, 10) : 20240103, r = seed;
    printf("seed %llu (TNL_TEST_SEED)\n", (unsigned long long)seed);
    char *dir = folder_new();
    buf whole = st_file(TWO(T("[2,1]", "[0,8]"), T("[1]", "[8,12]")), "\0\0\0\0\0\0\0\0\0\0\0", 12);
    for (int i = 0; i < 2000; i++) {
        buf b = {0};
        put(&b, whole.p, whole.n);
        for (int k = 0; k < 1 + i % 3; k++) {
            r = r * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
            static const char likely[] = "0123456789[]{},:\"-.eF\\ a";
            size_t at = (size_t)(r >> 33) % b.n;
            b.p[at] = at < 8 ? (unsigned char)(r >> 20)
                             : (unsigned char)likely[(r >> 20) % (sizeof likely - 1)];
        }
        folder_write(dir, ST, b.p, b.n);
        mdl_tensors *t;
        tnl_error err = {0};
        if (mdl_tensors_open(&t, dir, MDL_LOAD_READ, &err) == TNL_OK) {
            for (int64_t k = 0; k < mdl_tensors_count(t); k++) {
                const mdl_tensor_view *v = mdl_tensors_at(t, k);
                assert_true(v->file_offset + v->bytes <= b.n);
            }
            mdl_tensors_close(t);
        } else {
            assert_int_not_equal(strlen(err.msg), 0);
        }
        drop(&b);
    }
    drop(&whole);
    folder_free(dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(header_table),  cmocka_unit_test(container), cmocka_unit_test(floods),
        cmocka_unit_test(kinds_of_file), cmocka_unit_test(views),     cmocka_unit_test(index_table),
        cmocka_unit_test(sound_index),   cmocka_unit_test(mutants),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
