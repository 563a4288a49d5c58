/* SentencePiece behind C. tok_spm.cc is the only C++ file and the only one that includes the
 * library's header; no exception leaves it.
 *
 * The library trusts its model file: some malformed ones crash it. So tok_model.c passes only bytes
 * that tok_proto_scan has accepted and that have survived tok_probe. An open tok_spm is immutable;
 * any thread may encode. */
#ifndef TNL_TOK_SPM_H
#define TNL_TOK_SPM_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tok_spm tok_spm;

/* Load a serialised model; `proto` is not kept. */
tnl_status tok_spm_open(tok_spm **out, const uint8_t *proto, size_t n, tnl_error *err);
void tok_spm_close(tok_spm *s); /* NULL allowed */

/* *ids is malloc'd (never NULL on success, even for no ids); set on success only. */
tnl_status tok_spm_encode(const tok_spm *s, const char *text, size_t n, int32_t **ids,
                          size_t *n_ids, tnl_error *err);

#ifdef __cplusplus
}
#endif
#endif
