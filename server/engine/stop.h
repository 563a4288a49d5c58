/* Stop strings found in a text that arrives in pieces.
 *
 * Where the text ends: at the first byte at which some stop string is complete; it is cut in front
 * of that stop string (of the longest one, if several end there). The result is the same however
 * the text is cut into pieces. Bytes that may still turn out to be the beginning of a stop string
 * are held back, so no part of one is ever released.
 *
 * One scanner per stop string walks the text once (Knuth-Morris-Pratt), so the cost is linear for
 * any input. Pieces of whole UTF-8 in, pieces of whole UTF-8 out, since stop strings are whole
 * UTF-8 themselves. No allocation; one thread. */
#ifndef TNL_SERVER_ENGINE_STOP_H
#define TNL_SERVER_ENGINE_STOP_H

#include "server/engine/engine.h"

typedef struct eng_stop {
    int n;
    bool found;
    const char *str[ENG_MAX_STOP]; /* borrowed from the parameters */
    uint16_t len[ENG_MAX_STOP];
    uint16_t matched[ENG_MAX_STOP]; /* longest prefix of str[i] that the text so far ends with */
    uint16_t border[ENG_MAX_STOP][ENG_MAX_STOP_BYTES]; /* of the prefix of k+1 bytes */
    uint16_t n_held;
    char held[ENG_MAX_STOP_BYTES]; /* text not released: a proper prefix of a stop string */
} eng_stop;

/* p (checked, eng_params_check) must outlive s. */
void eng_stop_init(eng_stop *s, const eng_params *p);

/* Feed n bytes; what is safe to release is written to out, which has room for
 * ENG_MAX_STOP_BYTES + n. True if a stop string is complete: out ends in front of it, and nothing
 * more comes out of s. */
bool eng_stop_push(eng_stop *s, const char *in, size_t n, char *out, size_t *n_out);

/* The text ended: release what is held. Returns the number of bytes (room as above). */
size_t eng_stop_flush(eng_stop *s, char *out);

#endif
