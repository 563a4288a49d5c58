/* A weight file that shrinks or fails under its map raises SIGBUS. The guard turns that into one
 * line with the file's name and exit code 74. */
#ifndef TNL_HTTP_GUARD_H
#define TNL_HTTP_GUARD_H

#include <stdbool.h>

#include "model/tensors.h"

/* Install the handler; before there is a directory to ask, the line names no file. */
void srv_guard_install(bool json); /* the form of that line */
/* A directory to ask from now on, and no longer. NULL: nothing. */
void srv_guard_watch(const mdl_tensors *t);
void srv_guard_forget(const mdl_tensors *t);

#endif
