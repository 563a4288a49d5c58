/* Choice of the instruction set. HAVE_* says which rungs this build contains. */
#include <stddef.h>
#include <string.h>

#include "kernels/cpu/cpuid.h"
#include "kernels/cpu/dsp.h"

typedef struct rung {
    const char *isa;
    unsigned needs; /* kn_cpuid_flags */
    void (*fill)(kn_dsp *d);
} rung;

/* Worst first; a rung is laid over those below it that need no more than it does: avx512 is what a
 * processor without AVX-VNNI has. */
static const rung rungs[] = {
    {"ref", 0, kn_dsp_fill_ref},
#ifdef HAVE_AVX2
    {"avx2", KN_CPUID_AVX2, kn_dsp_fill_avx2},
#endif
#ifdef HAVE_AVXVNNI
    {"avxvnni", KN_CPUID_AVX2 | KN_CPUID_AVXVNNI, kn_dsp_fill_avxvnni},
#endif
#ifdef HAVE_AVX512
    {"avx512", KN_CPUID_AVX2 | KN_CPUID_AVX512, kn_dsp_fill_avx512},
#endif
#ifdef HAVE_AVX512VNNI
    {"avx512vnni", KN_CPUID_AVX2 | KN_CPUID_AVX512 | KN_CPUID_AVX512VNNI, kn_dsp_fill_avx512vnni},
#endif
};

static const int n_rungs = (int)(sizeof rungs / sizeof rungs[0]);

static bool usable(const rung *r) {
    return (kn_cpuid_flags() & r->needs) == r->needs;
}

int kn_dsp_available(const char *names[], int cap) {
    int n = 0;
    for (int i = 0; i < n_rungs; i++)
        if (usable(&rungs[i]) && n < cap)
            names[n++] = rungs[i].isa;
    return n;
}

static int best_rung(void) {
    int best = 0;
    for (int i = 0; i < n_rungs; i++)
        if (usable(&rungs[i]))
            best = i;
    return best;
}

static tnl_status rung_by_name(int *out, const char *isa, tnl_error *err) {
    for (int i = 0; i < n_rungs; i++) {
        if (strcmp(isa, rungs[i].isa) != 0)
            continue;
        if (!usable(&rungs[i]))
            return tnl_fail(err, TNL_E_UNSUPPORTED,
                            "instruction set \"%s\": this processor or system does not have it "
                            "(best here: %s)",
                            isa, rungs[best_rung()].isa);
        *out = i;
        return TNL_OK;
    }
    return tnl_fail(err, TNL_E_USAGE,
                    "instruction set \"%s\": unknown or not in this build, expected ref, avx2, "
                    "avxvnni, avx512 or avx512vnni",
                    isa);
}

tnl_status kn_dsp_init(kn_dsp *d, const char *isa, tnl_error *err) {
    int top = best_rung();
    if (isa)
        TNL_TRY(rung_by_name(&top, isa, err));
    memset(d, 0, sizeof *d);
    for (int i = 0; i <= top; i++)
        if ((rungs[i].needs & ~rungs[top].needs) == 0)
            rungs[i].fill(d);
    d->isa = rungs[top].isa;
    return TNL_OK;
}
