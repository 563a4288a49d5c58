/* Words to the service manager that started us (systemd, Type=notify): one datagram to the socket
 * in $NOTIFY_SOCKET; nothing where there is none. The main thread only. */
#ifndef TNL_CLI_NOTIFY_H
#define TNL_CLI_NOTIFY_H

#include <stdbool.h>

bool cli_notify_wanted(void);

/* Lines as sd_notify(3) lists them, printf-style: "READY=1\nSTATUS=serving". */
void cli_notify(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* That a reload begins; "READY=1" ends it. */
void cli_notify_reloading(void);

#endif
