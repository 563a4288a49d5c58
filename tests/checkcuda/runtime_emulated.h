/* Faults of the emulated CUDA runtime. */
#ifndef TNL_TESTS_RUNTIME_EMULATED_H
#define TNL_TESTS_RUNTIME_EMULATED_H

typedef struct emu_faults {
    int allocations; /* the n-th allocation from now fails; 0: none */
    int waits;       /* the n-th wait from now finds the device lost; 0: none */
} emu_faults;

extern emu_faults emu_runtime;

#endif
