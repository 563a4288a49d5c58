/* Faults of the emulated CUDA runtime, and what it has seen. */
#ifndef TNL_TESTS_RUNTIME_EMULATED_H
#define TNL_TESTS_RUNTIME_EMULATED_H

#include <stddef.h>

typedef enum emu_refusal { EMU_NEVER, EMU_AT_BEGIN, EMU_AT_END } emu_refusal;

typedef struct emu_faults {
    int allocations;            /* the n-th allocation from now fails; 0: none */
    int waits;                  /* the n-th wait from now finds the device lost; 0: none */
    emu_refusal record_refused; /* where recordings fail */
    int recorded, replayed;     /* counted: recordings begun, graphs launched */
    size_t copied;              /* bytes moved by copies, either way */
} emu_faults;

extern emu_faults emu_runtime;

#endif
