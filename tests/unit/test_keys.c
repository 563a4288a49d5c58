/* The text of the keys: what it may hold, and one clear line for what it may not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "server/http/access/keys.h"

#define SECRET "secret-0123456789"
#define HEX                                                                                        \
    "9f9f5111f7b27a781f1f1ddde5ebc2dd2b796bfc7365c9c28b548e564176929f" /* 0123456789abcdef */

static srv_keys *parse(const char *text) {
    srv_keys *k = NULL;
    tnl_error err = {0};
    if (srv_keys_parse(&k, text, strlen(text), "file", &err) != TNL_OK)
        fail_msg("%s", err.msg);
    return k;
}

static void one_bare_key(void **unused) {
    (void)unused;
    const char *texts[] = {SECRET, SECRET "\n", "# a\r\n\r\n  " SECRET " \r\n", SECRET "  # mine\n",
                           ("\n\n\t" SECRET)};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        srv_keys *k = parse(texts[i]);
        assert_int_equal(k->n, 1);
        assert_string_equal(k->key[0].name, "default");
        assert_int_equal(k->key[0].limits.parallel, SRV_UNSET);
        assert_false(k->key[0].admin);
        assert_int_equal(srv_keys_find(k, SECRET), 0);
        assert_int_equal(srv_keys_find(k, SECRET "x"), 1);
        free(k);
    }
}

static void several_with_limits(void **unused) {
    (void)unused;
    srv_keys *k = parse("# who key limits\n"
                        "alice  " SECRET "-a parallel=4\n"
                        "bob\tsha256:" HEX " requests_per_minute=60 tokens_per_minute=20000 # b\n"
                        "c-3.x_ SHA256:9F"
                        "9F5111F7B27A781F1F1DDDE5EBC2DD2B796BFC7365C9C28B548E564176929E"
                        " admin parallel=0\n" SECRET);
    assert_int_equal(k->n, 4);
    assert_string_equal(k->key[0].name, "alice");
    assert_int_equal(k->key[0].limits.parallel, 4);
    assert_int_equal(k->key[0].limits.requests_per_minute, SRV_UNSET);
    assert_int_equal(k->key[1].limits.requests_per_minute, 60);
    assert_int_equal(k->key[1].limits.tokens_per_minute, 20000);
    assert_string_equal(k->key[2].name, "c-3.x_");
    assert_true(k->key[2].admin && !k->key[1].admin);
    assert_int_equal(k->key[2].limits.parallel, 0);
    assert_string_equal(k->key[3].name, "default");
    assert_int_equal(srv_keys_find(k, SECRET "-a"), 0);
    assert_int_equal(srv_keys_find(k, "0123456789abcdef"), 1);
    assert_int_equal(srv_keys_find(k, SECRET), 3);
    assert_int_equal(srv_keys_find(k, "sha256:" HEX), 4); /* the digest is no key */
    assert_int_equal(srv_keys_find(k, HEX), 4);
    assert_int_equal(srv_keys_find(k, ""), 4);
    free(k);
}

typedef struct bad {
    const char *text, *says;
} bad;

static void what_is_refused(void **unused) {
    (void)unused;
    static const bad cases[] = {
        {"", "file: holds no key"},
        {"# nothing\n\n \n", "file: holds no key"},
        {"short", "file:1: the key has 5 characters, expected 16 to 4096"},
        {"\n\na short\n", "file:3: the key has 5 characters"},
        {"a sha256:12", "file:1: expected 64 hexadecimal digits"},
        {"a sha256:" HEX "0", "file:1: expected 64 hexadecimal digits"},
        {"a sha256:x" HEX, "file:1: expected 64 hexadecimal digits"},
        {"a " SECRET "\na " SECRET "2", "file:2: an earlier line has this name"},
        {SECRET "\ndefault " SECRET "2", "file:2: an earlier line has this name"},
        {"a " SECRET "\nb " SECRET, "file:2: an earlier line has this key"},
        {"a 0123456789abcdef\nb sha256:" HEX, "file:2: an earlier line has this key"},
        {"a/b " SECRET, "file:1: the first word is not a name"},
        {"-a " SECRET, "file:1: the first word is not a name"},
        {"\xC3\xA9 " SECRET, "file:1: the first word is not a name"},
        {SECRET " parallel=4", "file:1: a limit where the key should be"},
        {"a " SECRET " speed=9", "file:1: word 3 is not a limit, expected requests_per_minute=N"},
        {"a " SECRET " parallel", "file:1: word 3 is not a limit"},
        {"a " SECRET " Parallel=1", "file:1: word 3 is not a limit"},
        {"a " SECRET " parallel=", "file:1: parallel: expected a number in 0..1000000000000"},
        {"a " SECRET " parallel=-1", "file:1: parallel: expected a number"},
        {"a " SECRET " parallel=1.5", "file:1: parallel: expected a number"},
        {"a " SECRET " parallel=1000000000001", "file:1: parallel: expected a number"},
        {"a " SECRET " parallel=99999999999999999999999999", "file:1: parallel: expected"},
        {"a " SECRET " parallel=1 parallel=1", "file:1: parallel is given twice"},
        {"a " SECRET " 1 2 3 4 5 6 7", "file:1: more than 8 words"},
        {"a " SECRET "\x7F", "file:1: the key has a character that is not printable ASCII"},
        {"a " SECRET "\x01", "file:1: the key has a character"},
        {"a " SECRET "\xE9", "file:1: the key has a character"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        srv_keys *k = (srv_keys *)1;
        tnl_error err = {0};
        assert_int_equal(srv_keys_parse(&k, cases[i].text, strlen(cases[i].text), "file", &err),
                         TNL_E_USAGE);
        assert_null(k);
        if (strncmp(err.msg, cases[i].says, strlen(cases[i].says)) != 0)
            fail_msg("case %zu: %s", i, err.msg);
        assert_null(strstr(err.msg, "secret"));
        assert_null(strchr(err.msg, '\n'));
    }
}

static void bytes_of_all_kinds(void **unused) {
    (void)unused;
    srv_keys *k;
    tnl_error err = {0};
    assert_int_equal(srv_keys_parse(&k, "a " SECRET "\0x", 21, "file", &err), TNL_E_USAGE);
    char name[SRV_KEY_NAME_MAX + 2 + sizeof SECRET + 1];
    memset(name, 'n', sizeof name);
    memcpy(name + SRV_KEY_NAME_MAX, " " SECRET, sizeof SECRET + 1);
    k = parse(name);
    assert_int_equal(strlen(k->key[0].name), SRV_KEY_NAME_MAX);
    free(k);
    memcpy(name + SRV_KEY_NAME_MAX, "n " SECRET, sizeof SECRET + 2);
    assert_int_equal(srv_keys_parse(&k, name, strlen(name), "file", &err), TNL_E_USAGE);
    char *huge = malloc(SRV_KEY_TEXT_MAX + 1);
    assert_non_null(huge);
    memset(huge, '\n', SRV_KEY_TEXT_MAX + 1);
    assert_int_equal(srv_keys_parse(&k, huge, SRV_KEY_TEXT_MAX + 1, "file", &err), TNL_E_USAGE);
    assert_int_equal(srv_keys_parse(&k, huge, SRV_KEY_TEXT_MAX, "file", &err), TNL_E_USAGE);
    memset(huge, 'k', SRV_KEY_TEXT_MAX);
    assert_int_equal(srv_keys_parse(&k, huge, SRV_KEY_MAX, "file", &err), TNL_OK);
    free(k);
    assert_int_equal(srv_keys_parse(&k, huge, SRV_KEY_MAX + 1, "file", &err), TNL_E_USAGE);
    free(huge);
}

static void the_number_of_keys_is_bounded(void **unused) {
    (void)unused;
    char *text = malloc((SRV_KEYS_MAX + 1) * 40);
    size_t n = 0;
    srv_keys *k;
    tnl_error err = {0};
    assert_non_null(text);
    for (int i = 0; i < SRV_KEYS_MAX; i++)
        n += (size_t)snprintf(text + n, 40, "n%d " SECRET "%d\n", i, i);
    assert_int_equal(srv_keys_parse(&k, text, n, "file", &err), TNL_OK);
    assert_int_equal(k->n, SRV_KEYS_MAX);
    assert_int_equal(srv_keys_find(k, SECRET "1023"), 1023);
    free(k);
    n += (size_t)snprintf(text + n, 40, "more " SECRET "-more\n");
    assert_int_equal(srv_keys_parse(&k, text, n, "file", &err), TNL_E_USAGE);
    assert_string_equal(err.msg, "file:1025: more than 1024 keys");
    free(text);
}

static void a_name_has_one_number(void **unused) {
    (void)unused;
    assert_true(srv_key_id("alice") == srv_key_id("alice") && srv_key_id("alice") != 0);
    assert_true(srv_key_id("alice") != srv_key_id("alicf"));
    /* sessions on disk name their owner by it: it must never change */
    assert_true(srv_key_id("default") == UINT64_C(0xd858d8b4d0c9ad79));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_bare_key),
        cmocka_unit_test(several_with_limits),
        cmocka_unit_test(what_is_refused),
        cmocka_unit_test(bytes_of_all_kinds),
        cmocka_unit_test(the_number_of_keys_is_bounded),
        cmocka_unit_test(a_name_has_one_number),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
