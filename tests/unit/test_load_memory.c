/* Loading a model while memory runs out: every allocation fails once. The answer is "out of
 * memory" each time, nothing crashes and nothing is left behind.
 *
 * malloc and its family are replaced in this program, which a sanitizer does itself; there the test
 * only loads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

#include <cmocka.h>

#include "model/config.h"
#include "model/weights.h"
#include "tests/unit/folder.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#endif

/* Allocations left until one fails; negative: never. And how many blocks are out. */
static long fuse = -1, blocks, asked;
static bool counting;

#if !defined(SANITIZED) && defined(__GLIBC__)
#define REPLACES __attribute__((visibility("default")))
void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t m);
void *__libc_realloc(void *p, size_t n);
void *__libc_memalign(size_t align, size_t n);
void __libc_free(void *p);

static bool fails(void) {
    if (!counting)
        return false;
    asked++;
    return fuse >= 0 && fuse-- == 0;
}

REPLACES void *malloc(size_t n) {
    void *p = fails() ? NULL : __libc_malloc(n);
    blocks += counting && p;
    return p;
}

REPLACES void *calloc(size_t n, size_t m) {
    void *p = fails() ? NULL : __libc_calloc(n, m);
    blocks += counting && p;
    return p;
}

REPLACES void *realloc(void *old, size_t n) {
    void *p = fails() ? NULL : __libc_realloc(old, n);
    blocks += counting && p && !old;
    return p;
}

REPLACES int posix_memalign(void **out, size_t align, size_t n) {
    void *p = fails() ? NULL : __libc_memalign(align, n);
    blocks += counting && p;
    *out = p;
    return p ? 0 : 12; /* ENOMEM */
}

REPLACES void free(void *p) {
    blocks -= counting && p;
    __libc_free(p);
}
#endif

/* One layer of v3 with bias, in bf16. */
static const struct {
    const char *name, *shape;
    int elems;
} rows[] = {
    {"model.embed_tokens.weight", "[4,2]", 8},
    {"model.layers.0.token_mixer.qkv_proj.weight", "[6,2]", 12},
    {"model.layers.0.token_mixer.qkv_proj.bias", "[6]", 6},
    {"model.layers.0.token_mixer.out_proj.weight", "[2,2]", 4},
    {"model.layers.0.token_mixer.out_proj.bias", "[2]", 2},
    {"model.layers.0.token_mixer.lrpe.theta", "[1,1,2]", 2},
    {"model.layers.0.token_mixer.output_gate.0.weight", "[1,2]", 2},
    {"model.layers.0.token_mixer.output_gate.0.bias", "[1]", 1},
    {"model.layers.0.token_mixer.output_gate.1.weight", "[2,1]", 2},
    {"model.layers.0.token_mixer.output_gate.1.bias", "[2]", 2},
    {"model.layers.0.channel_mixer.l1.weight", "[3,2]", 6},
    {"model.layers.0.channel_mixer.l1.bias", "[3]", 3},
    {"model.layers.0.channel_mixer.l2.weight", "[3,2]", 6},
    {"model.layers.0.channel_mixer.l2.bias", "[3]", 3},
    {"model.layers.0.channel_mixer.l3.weight", "[2,3]", 6},
    {"model.layers.0.channel_mixer.l3.bias", "[2]", 2},
};

static void write_folder(const char *dir) {
    folder_text(dir, "config.json",
                "{\"architectures\":[\"TransnormerForCausalLM\"],\"vocab_size\":4,"
                "\"decoder_layers\":1,\"decoder_embed_dim\":2,\"decoder_attention_heads\":1,"
                "\"hidden_dim\":2,\"glu_dim\":3,\"linear_use_lrpe_list\":[1],\"bias\":true,"
                "\"gate_dim\":1}");
    folder_text(dir, "tokenizer_config.json", "{\"add_bos_token\":true}");
    buf h = {0}, data = {0};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char entry[256];
        size_t bytes = (size_t)rows[i].elems * 2;
        snprintf(entry, sizeof entry,
                 "%s\"%s\":{\"dtype\":\"BF16\",\"shape\":%s,\"data_offsets\":[%zu,%zu]}",
                 i ? "," : "{", rows[i].name, rows[i].shape, data.n, data.n + bytes);
        put_text(&h, entry);
        put_fill(&data, 0, bytes);
    }
    put_text(&h, "}");
    if (h.n % 2 == 0)
        put_text(&h, " "); /* misaligned: the data is copied */
    put(&h, "", 1);
    buf b = st_file((char *)h.p, data.p, data.n);
    folder_write(dir, "shard.safetensors", b.p, b.n);
    drop(&b);
    drop(&data);
    drop(&h);
    buf x = {0};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        put_text(&x, i ? ",\"" : "{\"weight_map\":{\"");
        put_text(&x, rows[i].name);
        put_text(&x, "\":\"shard.safetensors\"");
    }
    put_text(&x, "}}");
    folder_write(dir, "model.safetensors.index.json", x.p, x.n);
    drop(&x);
}

static tnl_status load(const char *dir) {
    mdl_spec spec;
    mdl_tensors *t = NULL;
    mdl_weights w;
    tnl_error err = {0};
    tnl_status s = mdl_config_load(&spec, dir, &err);
    if (s == TNL_OK)
        s = mdl_tensors_open(&t, dir, MDL_LOAD_MAP, &err);
    if (s == TNL_OK)
        s = mdl_weights_bind(&w, &spec, t, MDL_W_F32, NULL, NULL, &err);
    if (s == TNL_OK)
        mdl_weights_clear(&w, &spec);
    mdl_tensors_close(t);
    mdl_spec_clear(&spec);
    return s;
}

static void every_allocation(void **state) {
    (void)state;
    char *dir = folder_new();
    write_folder(dir);
    tnl_status s = load(dir); /* once unmeasured: the library's own first uses */
    assert_int_equal(s, TNL_OK);
    asked = 0;
    counting = true;
    s = load(dir);
    counting = false;
    assert_int_equal(s, TNL_OK);
    assert_int_equal(blocks, 0);
    long total = asked;
    printf("%ld allocations\n", total);
    for (long n = 0; n < total; n++) {
        blocks = 0;
        fuse = n;
        counting = true;
        s = load(dir);
        counting = false;
        if (s != TNL_E_NOMEM || blocks != 0)
            fail_msg("allocation %ld: status %d, %ld blocks left", n, s, blocks);
    }
    fuse = -1;
    folder_free(dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_allocation)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
