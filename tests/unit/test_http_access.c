/* SHA-256 against published vectors; the rules for Host, Origin and the key. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/base/sha256.h"
#include "server/http/access/access.h"

static void expect_digest(const char *data, size_t n, const char *want) {
    uint8_t d[TNL_SHA256_BYTES];
    char hex[2 * TNL_SHA256_BYTES + 1];
    tnl_sha256_of(d, data, n);
    for (int i = 0; i < TNL_SHA256_BYTES; i++)
        snprintf(hex + 2 * i, 3, "%02x", d[i]);
    assert_string_equal(hex, want);
}

static void test_sha256(void **unused) {
    (void)unused;
    expect_digest("", 0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    expect_digest("abc", 3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    expect_digest("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 56,
                  "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    char *million = malloc(1000000);
    assert_non_null(million);
    memset(million, 'a', 1000000);
    expect_digest(million, 1000000,
                  "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    free(million);
}

static void test_padding_edges(void **unused) {
    (void)unused;
    /* 55, 56, 63 and 64 bytes fall on the edges of the last block. */
    char a[65];
    memset(a, 'a', sizeof a);
    expect_digest(a, 55, "9f4390f8d30c2dd92ec9f095b65e2b9ae9b0a925a5258e241c9f1e910f734318");
    expect_digest(a, 56, "b35439a4ac6f0948b6d6f9e3c6af0f5f590ce20f1bde7090ef7970686ec6738a");
    expect_digest(a, 63, "7d3e74a05d7db15bce4ad9ec0658ea98e3f06eeecf16b4c6fff2da457ddc2f34");
    expect_digest(a, 64, "ffe054fe7ae0cb6dc65c3af9b61d5209f439851db43d0ba5997337df154668eb");
}

static void test_host(void **unused) {
    (void)unused;
    srv_access a = {.bind_host = "192.168.1.5", .allowed = "llm.example,b.example"};
    const char *yes[] = {"localhost",     "LocalHost:80", "127.0.0.1",   "127.1.2.3:9",
                         "[::1]",         "[::1]:8080",   "192.168.1.5", "192.168.1.5:8080",
                         "LLM.example:1", "b.example"};
    const char *no[] = {"",
                        "example",
                        "llm.example.com",
                        "localhost.",
                        "192.168.1.50",
                        "[::1",
                        "::1",
                        "[::2]",
                        "localhost:x",
                        "localhost:",
                        "a@localhost",
                        "llm.example,",
                        "[localhost",
                        "127.0.0.1.evil.com",
                        "*"};
    for (size_t i = 0; i < sizeof yes / sizeof yes[0]; i++)
        assert_true(srv_access_host_ok(&a, yes[i]));
    for (size_t i = 0; i < sizeof no / sizeof no[0]; i++)
        assert_false(srv_access_host_ok(&a, no[i]));
    a.bind_any = true;
    assert_true(srv_access_host_ok(&a, "10.2.3.4:80"));
    assert_true(srv_access_host_ok(&a, "[fe80::1]"));
    assert_false(srv_access_host_ok(&a, "evil.com"));
    a.allowed = "*";
    assert_true(srv_access_host_ok(&a, "evil.com"));
}

static void test_origin(void **unused) {
    (void)unused;
    assert_true(srv_access_origin_ok("http://localhost:8080", "localhost:8080"));
    assert_true(srv_access_origin_ok("https://a.example", "A.example"));
    assert_false(srv_access_origin_ok("http://localhost", "localhost:8080"));
    assert_false(srv_access_origin_ok("null", "localhost"));
    assert_false(srv_access_origin_ok("http://evil", "localhost"));
    assert_false(srv_access_origin_ok("http://localhost", NULL));
    assert_false(srv_access_origin_ok("ftp://localhost", "localhost"));
}

/* Keys as they come with the environment. */
static void open_keys(srv_access *a, const char *text) {
    tnl_error err = {0};
    srv_settings set = {.host = "127.0.0.1"};
    assert_int_equal(setenv("TNL_API_KEY", text, 1), 0);
    assert_int_equal(srv_access_open(a, &set, &err), TNL_OK);
    assert_null(getenv("TNL_API_KEY"));
}

static const char *holder_of(srv_access *a, const char *value) {
    static char name[SRV_KEY_NAME_MAX + 1];
    srv_tenant *t = srv_access_holder(a, value);
    if (t)
        snprintf(name, sizeof name, "%s", t->name);
    srv_tenant_unref(t);
    return t ? name : "";
}

static void test_key(void **unused) {
    (void)unused;
    srv_access a;
    open_keys(&a, "0123456789abcdef");
    assert_true(a.keyed);
    assert_string_equal(holder_of(&a, "Bearer 0123456789abcdef"), "default");
    assert_string_equal(holder_of(&a, "bearer 0123456789abcdef"), "default");
    const char *no[] = {NULL,
                        "",
                        "Bearer",
                        "Bearer ",
                        "Bearer 0123456789abcdeF",
                        "0123456789abcdef",
                        "Bearer  0123456789abcdef",
                        "Bearer 0123456789abcdef ",
                        "Basic 0123456789abcdef"};
    for (size_t i = 0; i < sizeof no / sizeof no[0]; i++)
        assert_string_equal(holder_of(&a, no[i]), "");
    srv_access_close(&a);
}

static void test_several_keys(void **unused) {
    (void)unused;
    srv_access a;
    open_keys(&a, "alice alice-0123456789ab parallel=1\n"
                  "bob sha256:9F9F5111F7B27A781F1F1DDDE5EBC2DD2B796BFC7365C9C28B548E564176929F\n");
    assert_string_equal(holder_of(&a, "Bearer alice-0123456789ab"), "alice");
    assert_string_equal(holder_of(&a, "Bearer 0123456789abcdef"), "bob");
    /* the digest is no key */
    assert_string_equal(
        holder_of(&a, "Bearer sha256:"
                      "9f9f5111f7b27a781f1f1ddde5ebc2dd2b796bfc7365c9c28b548e564176929f"),
        "");
    srv_access_close(&a);
}

static void test_listed_origins(void **unused) {
    (void)unused;
    srv_access a = {.cors = "https://a.example,http://b.example:81"};
    const char *no[] = {"https://a.example:443",
                        "https://a.exampl",
                        "http://a.example",
                        "null",
                        "",
                        "*",
                        "https://a.example,http://b.example:81"};
    srv_origin o = srv_access_cors(&a, "https://A.example");
    assert_ptr_equal(o.p, a.cors); /* the list's spelling, not the client's */
    assert_int_equal(o.n, strlen("https://a.example"));
    assert_non_null(srv_access_cors(&a, "http://b.example:81").p);
    for (size_t i = 0; i < sizeof no / sizeof no[0]; i++)
        assert_null(srv_access_cors(&a, no[i]).p);
    a.cors = "*";
    assert_int_equal(srv_access_cors(&a, "null").n, 1);
    a.cors = NULL;
    assert_null(srv_access_cors(&a, "https://a.example").p);
}

static void test_origin_lists(void **unused) {
    (void)unused;
    tnl_error err = {0};
    const char *yes[] = {"*", "https://a", "https://a.example:8443,http://[::1]:80",
                         "chrome-extension://abcdef,*"};
    const char *no[] = {"a.example",   "https://",    "https://a/", "https://a/b",
                        "null",        "https://a b", ",",          "https://a,,https://b",
                        "https://u@a", "https://*.a", "://a"};
    for (size_t i = 0; i < sizeof yes / sizeof yes[0]; i++)
        assert_int_equal(srv_access_check_origins(yes[i], &err), TNL_OK);
    for (size_t i = 0; i < sizeof no / sizeof no[0]; i++)
        assert_int_equal(srv_access_check_origins(no[i], &err), TNL_E_USAGE);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sha256),
        cmocka_unit_test(test_padding_edges),
        cmocka_unit_test(test_host),
        cmocka_unit_test(test_origin),
        cmocka_unit_test(test_key),
        cmocka_unit_test(test_several_keys),
        cmocka_unit_test(test_listed_origins),
        cmocka_unit_test(test_origin_lists),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
