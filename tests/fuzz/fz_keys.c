/* Key files of any bytes: parsed or refused, names fit for a log, no word of the text in a message;
 * and forwarding headers of any bytes against a reading of their last item. */
#include <string.h>

#include "server/http/access/keys.h"
#include "server/http/access/peer.h"
#include "tests/fuzz/fuzz.h"

static void check_keys(const srv_keys *k) {
    FUZZ_CHECK(k->n >= 1 && k->n <= SRV_KEYS_MAX);
    for (size_t i = 0; i < k->n; i++) {
        const srv_key *a = &k->key[i];
        FUZZ_CHECK(srv_key_name_ok(a->name) && srv_key_id(a->name) != 0);
        FUZZ_CHECK(a->limits.parallel >= SRV_UNSET && a->limits.tokens_per_minute >= SRV_UNSET);
        for (size_t j = 0; j < i; j++)
            FUZZ_CHECK(strcmp(a->name, k->key[j].name) != 0 &&
                       memcmp(a->digest, k->key[j].digest, sizeof a->digest) != 0);
    }
}

/* A word of key length must not come back in a message. */
static void check_message(const tnl_error *err, const char *text, size_t n) {
    char word[SRV_KEY_MIN + 1];
    FUZZ_CHECK(strncmp(err->msg, "fuzz", 4) == 0 && !strchr(err->msg, '\n'));
    for (size_t i = 0; i + SRV_KEY_MIN <= n; i += SRV_KEY_MIN) {
        memcpy(word, text + i, SRV_KEY_MIN);
        word[SRV_KEY_MIN] = 0;
        FUZZ_CHECK(strlen(word) < SRV_KEY_MIN || strpbrk(word, " =_") || !strstr(err->msg, word));
    }
}

static void try_keys(const char *text, size_t n) {
    srv_keys *k;
    tnl_error err = {0};
    tnl_status s = srv_keys_parse(&k, text, n, "fuzz", &err);
    FUZZ_CHECK(s == TNL_OK || s == TNL_E_USAGE);
    if (s == TNL_OK)
        check_keys(k);
    else
        check_message(&err, text, n);
    if (s == TNL_OK)
        FUZZ_CHECK(srv_keys_find(k, "") == k->n);
    free(k);
}

/* What a proxy has appended behind the text stands, or nothing does. */
static void try_forwarded(const char *text, size_t n) {
    static const char *const tails[] = {",1.2.3.4", ", for=1.2.3.4"};
    srv_nets trusted;
    srv_addr peer, client;
    char *value = malloc(n + 16);
    if (!value)
        abort();
    memcpy(value, text, n);
    value[n] = 0;
    size_t len = strlen(value);
    FUZZ_CHECK(srv_addr_parse(&peer, "10.0.0.1", 8) && srv_addr_parse(&client, "1.2.3.4", 7));
    FUZZ_CHECK(srv_nets_parse(&trusted, "10.0.0.0/8", "t", NULL) == TNL_OK);
    for (int i = 0; i < 2; i++) {
        srv_forwarded f = {0};
        memcpy(value + len, tails[i], strlen(tails[i]) + 1);
        if (i == 0)
            f.x_forwarded_for[f.n_for++] = value;
        else
            f.forwarded[f.n_forwarded++] = value;
        srv_addr got = srv_client_addr(&trusted, &peer, &f);
        FUZZ_CHECK(memcmp(&got, &client, sizeof got) == 0 || memcmp(&got, &peer, sizeof got) == 0);
    }
    value[len] = 0;
    if (srv_nets_parse(&trusted, value, "t", NULL) == TNL_OK)
        FUZZ_CHECK(trusted.n <= SRV_NETS_MAX);
    free(value);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char *text = malloc(size + 1);
    if (!text)
        abort();
    memcpy(text, data, size);
    try_keys(text, size);
    try_forwarded(text, size);
    free(text);
    return 0;
}
