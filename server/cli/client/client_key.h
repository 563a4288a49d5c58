/* What a client needs in every build: how a URL looks, and the API key it sends: from a file or
 * TNL_API_KEY, never from the command line, where every user of the machine could read it. */
#ifndef TNL_SERVER_CLI_CLIENT_KEY_H
#define TNL_SERVER_CLI_CLIENT_KEY_H

#include <stdbool.h>

#include "kernels/base/status.h"

enum { CLI_KEY_MAX = 4096 };

/* The first line of the file (NULL: TNL_API_KEY, which is wiped) that is neither empty nor a
 * comment; "" if there is no key. A file that others can read is TNL_E_USAGE. The caller wipes. */
tnl_status cli_key_read(char key[CLI_KEY_MAX + 1], const char *file, tnl_error *err);

/* Rather than a folder: it begins with http://, https:// or unix: */
bool cli_is_url(const char *text);

#endif
