/* Try a model file in a child process, so that a crash inside SentencePiece becomes an error line.
 *
 * The child loads the bytes and encodes sample texts under limits on processor time and address
 * space. Call before threads are started where possible: the child allocates after fork, which
 * glibc supports. */
#ifndef TNL_TOK_PROBE_H
#define TNL_TOK_PROBE_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/base/status.h"

/* `sample`: text of the model's own pieces, encoded beside the built-in samples; n_sample may be 0.
 * TNL_E_DATA when the library refuses the bytes, dies on them or does not finish. */
tnl_status tok_probe(const uint8_t *proto, size_t n, const char *sample, size_t n_sample,
                     tnl_error *err);

#endif
