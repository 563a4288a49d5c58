/* The device code, compiled for the host. One program may hold all of it: kernels are static. */
#include "kernels/cuda/linattn_prefill.cu"
#include "kernels/cuda/linattn_step.cu"
#include "kernels/cuda/linear_cuda.cu"
#include "kernels/cuda/linear_few.cu"
#include "kernels/cuda/linear_rows.cu"
#include "kernels/cuda/linear_tiles.cu"
#include "kernels/cuda/rows_cuda.cu"
#include "kernels/cuda/peaks_cuda.cu"
