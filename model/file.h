/* Reading model files: small texts whole, tensor files as read-only maps or private copies.
 *
 * Only regular files are opened, whatever the path leads to (a FIFO would block, a device has no
 * size). A symbolic link is followed: the Hugging Face cache is made of links into its own blob
 * folder, so refusing links would refuse the most common way to have a model. Any thread. */
#ifndef TNL_MODEL_FILE_H
#define TNL_MODEL_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/base/status.h"
#include "model/tensors.h"

/* DIR/NAME in new memory; NULL when memory is short. */
char *mdl_file_path(const char *dir, const char *name);

/* True if the path leads to anything at all (a dangling link counts: opening it says so). */
bool mdl_file_exists(const char *dir, const char *name);

/* The whole file as *text, NUL behind it; free() it. More than `max` bytes is TNL_E_LIMIT. */
tnl_status mdl_file_text(char **text, size_t *n, const char *path, size_t max, tnl_error *err);

typedef struct mdl_map {
    const unsigned char *data; /* page-aligned; NULL for an empty file */
    uint64_t size;
    bool of_file; /* pages of the file, not a private copy */
} mdl_map;

tnl_status mdl_map_open(mdl_map *out, const char *path, mdl_load_mode mode, tnl_error *err);
void mdl_map_close(mdl_map *m); /* a zeroed map is allowed */

#endif
