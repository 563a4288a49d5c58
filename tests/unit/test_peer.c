/* Addresses, networks, and whom forwarding headers name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <sys/un.h>

#include "server/http/access/peer.h"

static srv_addr addr(const char *text) {
    srv_addr a = {0};
    if (strcmp(text, "unix") == 0)
        a.kind = SRV_ADDR_UNIX;
    else
        assert_true(srv_addr_parse(&a, text, strlen(text)));
    return a;
}

static const char *text_of(const srv_addr *a) {
    static char out[SRV_ADDR_TEXT];
    srv_addr_text(out, a);
    return out;
}

static void forms_of_an_address(void **unused) {
    (void)unused;
    const char *good[][2] = {{"1.2.3.4", "1.2.3.4"},
                             {"1.2.3.4:80", "1.2.3.4"},
                             {"::1", "::1"},
                             {"[::1]", "::1"},
                             {"[2001:DB8::1]:65535", "2001:db8::1"},
                             {"::ffff:1.2.3.4", "1.2.3.4"},
                             {"[::ffff:1.2.3.4]:1", "1.2.3.4"}};
    const char *bad[] = {"",           "1.2.3",          "1.2.3.4.5", "1.2.3.256", "1.2.3.4:",
                         "1.2.3.4:x",  "1.2.3.4:123456", "[1.2.3.4]", "[::1",      "::1]",
                         "[::1]x",     "[::1]:",         "unknown",   "_hidden",   " 1.2.3.4",
                         "fe80::1%lo", "localhost",      "01.2.3.4",  "[]",        "unix"};
    srv_addr a;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        assert_true(srv_addr_parse(&a, good[i][0], strlen(good[i][0])));
        assert_string_equal(text_of(&a), good[i][1]);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_false(srv_addr_parse(&a, bad[i], strlen(bad[i])));
    assert_false(srv_addr_parse(&a, "1.2.3.4\0.5", 10));
}

static void addresses_of_sockets(void **unused) {
    (void)unused;
    struct sockaddr_in v4 = {.sin_family = AF_INET};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    inet_pton(AF_INET, "10.0.0.9", &v4.sin_addr);
    inet_pton(AF_INET6, "::ffff:10.0.0.9", &v6.sin6_addr);
    srv_addr a = srv_addr_of((const struct sockaddr *)&v4);
    srv_addr b = srv_addr_of((const struct sockaddr *)&v6);
    assert_memory_equal(&a, &b, sizeof a);
    a = srv_addr_of((const struct sockaddr *)&un);
    assert_string_equal(text_of(&a), "unix");
    a = srv_addr_of(NULL);
    assert_string_equal(text_of(&a), "-");
}

static void networks(void **unused) {
    (void)unused;
    srv_nets n;
    tnl_error err = {0};
    assert_int_equal(srv_nets_parse(&n, "10.0.0.0/8, 192.168.7.9 ,2001:db8::/33,unix", "t", &err),
                     TNL_OK);
    const char *in[] = {"10.255.0.1", "::ffff:10.1.1.1", "192.168.7.9", "2001:db8:7fff::1", "unix"};
    const char *out[] = {"11.0.0.1", "192.168.7.8", "2001:db8:8000::1", "::1", "9.255.255.255"};
    for (size_t i = 0; i < sizeof in / sizeof in[0]; i++) {
        srv_addr a = addr(in[i]);
        assert_true(srv_nets_hold(&n, &a));
    }
    for (size_t i = 0; i < sizeof out / sizeof out[0]; i++) {
        srv_addr a = addr(out[i]);
        assert_false(srv_nets_hold(&n, &a));
    }
    srv_addr none = {0};
    assert_false(srv_nets_hold(&n, &none));
    assert_int_equal(srv_nets_parse(&n, "0.0.0.0/0", "t", &err), TNL_OK);
    srv_addr four = addr("8.8.8.8"), six = addr("::1"), un = addr("unix");
    assert_true(srv_nets_hold(&n, &four));
    assert_false(srv_nets_hold(&n, &six) || srv_nets_hold(&n, &un));
    assert_int_equal(srv_nets_parse(&n, NULL, "t", &err), TNL_OK);
    assert_int_equal(n.n, 0);
    assert_int_equal(srv_nets_parse(&n, "10.1.2.3/8", "t", &err), TNL_OK); /* host bits are cut */
    srv_addr ten = addr("10.9.9.9");
    assert_true(srv_nets_hold(&n, &ten));
}

static void networks_that_are_none(void **unused) {
    (void)unused;
    const char *bad[] = {",",      "10.0.0.0/33",     "10.0.0.0/-1", "10.0.0.0/",
                         "::/129", "10.0.0.0/8,,::1", "example.org", "10.0.0/8",
                         "unix/8", "10.0.0.0/8x",     "[::1]",       "10.0.0.1:80",
                         "*",      "10.0.0.0/0008"};
    srv_nets n;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        tnl_error err = {0};
        assert_int_equal(srv_nets_parse(&n, bad[i], "--trust-proxy", &err), TNL_E_USAGE);
        assert_non_null(strstr(err.msg, "--trust-proxy: "));
    }
    char many[SRV_NETS_MAX * 4 + 8] = "::1";
    for (int i = 0; i < SRV_NETS_MAX; i++)
        memcpy(many + 3 + 4 * i, ",::1", 5);
    tnl_error err = {0};
    assert_int_equal(srv_nets_parse(&n, many, "t", &err), TNL_E_USAGE);
}

typedef struct forward_case {
    const char *peer, *x, *x2, *forwarded, *want;
} forward_case;

static void whom_the_headers_name(void **unused) {
    (void)unused;
    static const forward_case cases[] = {
        /* a stranger is not believed */
        {"9.9.9.9", "1.2.3.4", NULL, NULL, "9.9.9.9"},
        {"9.9.9.9", NULL, NULL, "for=1.2.3.4", "9.9.9.9"},
        /* one proxy, two, and what a client put in front */
        {"10.0.0.1", NULL, NULL, NULL, "10.0.0.1"},
        {"10.0.0.1", "1.2.3.4", NULL, NULL, "1.2.3.4"},
        {"10.0.0.1", "1.2.3.4, 10.0.0.2", NULL, NULL, "1.2.3.4"},
        {"10.0.0.1", "6.6.6.6,1.2.3.4 ,10.0.0.2", NULL, NULL, "1.2.3.4"},
        {"10.0.0.1", "6.6.6.6", "1.2.3.4", NULL, "1.2.3.4"},
        {"10.0.0.1", "1.2.3.4", "10.0.0.2, 10.0.0.3", NULL, "1.2.3.4"},
        {"10.0.0.1", "10.0.0.9,10.0.0.2", NULL, NULL, "10.0.0.9"}, /* all are proxies */
        {"unix", "1.2.3.4", NULL, NULL, "1.2.3.4"},
        {"10.0.0.1", "[2001:db8::5]:99", NULL, NULL, "2001:db8::5"},
        /* junk left of the client is the client's own affair */
        {"10.0.0.1", "junk,1.2.3.4", NULL, NULL, "1.2.3.4"},
        /* junk where a proxy should have written */
        {"10.0.0.1", "1.2.3.4,junk", NULL, NULL, "10.0.0.1"},
        {"10.0.0.1", "1.2.3.4,", NULL, NULL, "10.0.0.1"},
        {"10.0.0.1", "", NULL, NULL, "10.0.0.1"},
        {"10.0.0.1", "unknown", NULL, NULL, "10.0.0.1"},
        {"10.0.0.1", "junk,10.0.0.2", NULL, NULL, "10.0.0.1"},
        {"10.0.0.1", "1.2.3.4", "", NULL, "10.0.0.1"},
        /* Forwarded */
        {"10.0.0.1", NULL, NULL, "for=1.2.3.4;proto=https;by=10.0.0.1", "1.2.3.4"},
        {"10.0.0.1", NULL, NULL, "proto=https; For=\"[2001:db8::5]:80\"", "2001:db8::5"},
        {"10.0.0.1", NULL, NULL, "for=6.6.6.6, for=1.2.3.4, for=10.0.0.2", "1.2.3.4"},
        {"10.0.0.1", NULL, NULL, "for=_hidden", "10.0.0.1"},
        {"10.0.0.1", NULL, NULL, "proto=https", "10.0.0.1"},
        /* an open quote must not swallow what the proxy wrote */
        {"10.0.0.1", NULL, NULL, "for=6.6.6.6;x=\", for=1.2.3.4", "10.0.0.1"},
        {"10.0.0.1", NULL, NULL, "for=6.6.6.6;x=\", for=\"1.2.3.4\"", "10.0.0.1"},
        {"10.0.0.1", NULL, NULL, "host=\"a;for=6.6.6.6\";for=1.2.3.4", "1.2.3.4"},
        {"10.0.0.1", NULL, NULL, "host=\"a,for=6.6.6.6\";for=1.2.3.4", "1.2.3.4"},
        /* two headers that agree, and two that do not */
        {"10.0.0.1", "1.2.3.4", NULL, "for=1.2.3.4", "1.2.3.4"},
        {"10.0.0.1", "1.2.3.4", NULL, "for=6.6.6.6", "10.0.0.1"},
        {"10.0.0.1", "1.2.3.4", NULL, "junk", "10.0.0.1"},
    };
    srv_nets trusted;
    tnl_error err = {0};
    assert_int_equal(srv_nets_parse(&trusted, "10.0.0.0/24,unix", "t", &err), TNL_OK);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const forward_case *c = &cases[i];
        srv_forwarded f = {0};
        if (c->x)
            f.x_forwarded_for[f.n_for++] = c->x;
        if (c->x2)
            f.x_forwarded_for[f.n_for++] = c->x2;
        if (c->forwarded)
            f.forwarded[f.n_forwarded++] = c->forwarded;
        srv_addr peer = addr(c->peer), got = srv_client_addr(&trusted, &peer, &f);
        if (strcmp(text_of(&got), c->want) != 0)
            fail_msg("case %zu: %s, expected %s", i, text_of(&got), c->want);
    }
}

/* More hops, or fields, than are looked at. */
static void endless_lists(void **unused) {
    (void)unused;
    char hops[SRV_FORWARD_MAX * 9 + 16] = "6.6.6.6";
    srv_nets trusted;
    tnl_error err = {0};
    srv_forwarded f = {.n_for = 1, .x_forwarded_for = {hops}};
    srv_addr peer = addr("10.0.0.1"), got;
    assert_int_equal(srv_nets_parse(&trusted, "10.0.0.1", "t", &err), TNL_OK);
    for (int i = 0; i < SRV_FORWARD_MAX - 1; i++)
        memcpy(hops + 7 + 9 * i, ",10.0.0.1", 10);
    got = srv_client_addr(&trusted, &peer, &f);
    assert_string_equal(text_of(&got), "6.6.6.6");
    memcpy(hops + 7 + 9 * (SRV_FORWARD_MAX - 1), ",10.0.0.1", 10);
    got = srv_client_addr(&trusted, &peer, &f);
    assert_string_equal(text_of(&got), "10.0.0.1");
    f.x_forwarded_for[0] = "6.6.6.6";
    f.n_for = SRV_FORWARD_MAX + 1;
    got = srv_client_addr(&trusted, &peer, &f);
    assert_string_equal(text_of(&got), "10.0.0.1");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forms_of_an_address),
        cmocka_unit_test(addresses_of_sockets),
        cmocka_unit_test(networks),
        cmocka_unit_test(networks_that_are_none),
        cmocka_unit_test(whom_the_headers_name),
        cmocka_unit_test(endless_lists),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
