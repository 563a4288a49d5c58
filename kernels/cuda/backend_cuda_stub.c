/* In the place of the CUDA backend where there is no toolkit to build it with. */
#include "kernels/kernels.h"

tnl_status kn_cuda_open(kn_backend **out, int index, int threads, tnl_error *err) {
    (void)threads;
    *out = NULL;
    return tnl_fail(err, TNL_E_UNAVAILABLE, "cuda:%d: this tnl was built without CUDA", index);
}
