/* Holds the declarations of blaslt_cuda.h to the toolkit's own header. Compiled where there is one;
 * there is nothing here to run. */
#include <cublasLt.h>

#include "kernels/cuda/blaslt_cuda.h"

#define SAME(ours, theirs) _Static_assert((int)(ours) == (int)(theirs), #theirs)

SAME(KN_LT_OK, CUBLAS_STATUS_SUCCESS);
SAME(KN_LT_F32, CUDA_R_32F);
SAME(KN_LT_BF16, CUDA_R_16BF);
SAME(KN_LT_E4M3, CUDA_R_8F_E4M3);
SAME(KN_LT_SUM_F32, CUBLAS_COMPUTE_32F);
SAME(KN_LT_TRANSPOSED, CUBLAS_OP_T);
SAME(KN_LT_DESC_TRANS_A, CUBLASLT_MATMUL_DESC_TRANSA);
SAME(KN_LT_LAYOUT_COLS, CUBLASLT_MATRIX_LAYOUT_COLS);
SAME(KN_LT_PREF_MEMORY, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES);
SAME(KN_LT_PREF_REDUCTIONS, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK);
SAME(KN_LT_ALGO_SPLITS, CUBLASLT_ALGO_CONFIG_SPLITK_NUM);
SAME(KN_LT_ALGO_REDUCTION, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME);
SAME(sizeof(kn_lt_algo), sizeof(cublasLtMatmulAlgo_t));
SAME(sizeof(kn_lt_choice), sizeof(cublasLtMatmulHeuristicResult_t));
SAME(offsetof(kn_lt_choice, memory), offsetof(cublasLtMatmulHeuristicResult_t, workspaceSize));
SAME(offsetof(kn_lt_choice, state), offsetof(cublasLtMatmulHeuristicResult_t, state));
