/* Client addresses: as numbers, in lists of networks, and as proxies report them.
 *
 * X-Forwarded-For and Forwarded are believed only from a peer that the operator trusts, read from
 * the right as far as trusted proxies wrote them. Anything odd and the peer's own address stands.
 * Pure; any thread. */
#ifndef TNL_HTTP_PEER_H
#define TNL_HTTP_PEER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "kernels/base/status.h"

typedef enum srv_addr_kind { SRV_ADDR_NONE, SRV_ADDR_V4, SRV_ADDR_V6, SRV_ADDR_UNIX } srv_addr_kind;

/* IPv4-mapped IPv6 is IPv4. */
typedef struct srv_addr {
    srv_addr_kind kind;
    uint8_t b[16]; /* network order; the first 4 for IPv4; zeros behind */
} srv_addr;

enum {
    SRV_ADDR_TEXT = 48,
    SRV_NETS_MAX = 64,    /* networks of a list */
    SRV_FORWARD_MAX = 64, /* hops looked at, header fields looked at */
};

typedef struct srv_nets {
    int n;
    struct {
        srv_addr addr; /* zeros behind the prefix */
        int bits;
    } net[SRV_NETS_MAX];
} srv_nets;

srv_addr srv_addr_of(const struct sockaddr *sa); /* SRV_ADDR_NONE for what it does not know */
/* "1.2.3.4", "::1" or "[::1]", with ":port" where that is not ambiguous. */
bool srv_addr_parse(srv_addr *out, const char *s, size_t n);
void srv_addr_text(char out[SRV_ADDR_TEXT], const srv_addr *a); /* "unix", "-" for none */

/* "10.0.0.0/8,::1,unix"; `where` names it in messages. NULL or empty: none. */
tnl_status srv_nets_parse(srv_nets *out, const char *list, const char *where, tnl_error *err);
bool srv_nets_hold(const srv_nets *nets, const srv_addr *a);

/* The fields of one request, in their order. */
typedef struct srv_forwarded {
    int n_for, n_forwarded;                       /* beyond the bound: not believed */
    const char *x_forwarded_for[SRV_FORWARD_MAX]; /* values */
    const char *forwarded[SRV_FORWARD_MAX];
} srv_forwarded;

/* Who the client is. Where both headers name one and they differ, one of them may be the client's
 * own invention: the peer's address stands. */
srv_addr srv_client_addr(const srv_nets *trusted, const srv_addr *peer, const srv_forwarded *f);

#endif
