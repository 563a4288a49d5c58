/* What device code may use beyond plain C++: threads, shared memory, warp exchanges, asynchronous
 * copies and matrix products. nvcc compiles this file to PTX instructions of sm_80 and later. Where
 * KN_DEVICE_EMULATION names a header, that header supplies the same names on the host
 * (tests/checkcuda/emulate.cuh), so that every block algorithm runs, and is checked, without a GPU.
 *
 * Fragments of kn_mma_bf16 (D[16][8] += A[16][16] B[16][8]; g = lane / 4, t = lane % 4):
 *   A  a[0] rows g, a[1] rows g+8, columns 2t, 2t+1; a[2], a[3] the same rows, columns 2t+8, 2t+9
 *   B  b[0] rows 2t, 2t+1 of column g; b[1] rows 2t+8, 2t+9
 *   D  d[0], d[1] row g, columns 2t, 2t+1; d[2], d[3] row g+8
 * Two bf16 lie in a register, the lower column or row in the lower half. */
#ifndef TNL_CUDA_DEVICE_CUH
#define TNL_CUDA_DEVICE_CUH

#include <stddef.h>
#include <stdint.h>

struct kn_bf16 {
    uint16_t bits;
};

#ifdef KN_DEVICE_EMULATION
#include KN_DEVICE_EMULATION
#else
#include <cuda_runtime.h>

#define KN_DEVICE __device__ __forceinline__
#define KN_METHOD __device__ __forceinline__ /* of a struct */
#define KN_UNROLL _Pragma("unroll")     /* before loops over arrays that must live in registers */
#define KN_UNROLL_8 _Pragma("unroll 8") /* before loops whose loads are to overlap */

/* Dynamic shared memory of the block, as many bytes as kn_launch was given. */
#define KN_SHARED(name) extern __shared__ __align__(128) unsigned char name[]

KN_DEVICE void kn_sync_block() {
    __syncthreads();
}

KN_DEVICE void kn_sync_warp() {
    __syncwarp();
}

KN_DEVICE float kn_shfl_xor(float x, int mask) {
    return __shfl_xor_sync(0xFFFFFFFFu, x, mask);
}

KN_DEVICE uint32_t kn_shared_address(const void *p) {
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* Four 8 x 8 matrices of bf16: lane i names row i % 8 of matrix i / 8, 16-byte aligned. Each lane
 * gets elements 2t, 2t+1 of row g of each. */
KN_DEVICE void kn_ldmatrix(uint32_t r[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(kn_shared_address(row))
                 : "memory");
}

/* The same, of the transposed matrices. */
KN_DEVICE void kn_ldmatrix_trans(uint32_t r[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(kn_shared_address(row))
                 : "memory");
}

/* Transpose an 8 x 8 matrix of bf16 that the warp holds in the order of kn_ldmatrix. */
KN_DEVICE uint32_t kn_movmatrix(uint32_t x) {
    uint32_t y;
    asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
    return y;
}

KN_DEVICE void kn_mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* D[16][8] += A[16][32] B[32][8] in integers, A of bytes 0..255, B of signed bytes; fragments as of
 * kn_mma_bf16 with four bytes a register: a[0] row g, columns 4t..4t+3, a[1] row g+8, a[2] and a[3]
 * the same rows, columns 4t+16..; b[0] rows 4t..4t+3 of column g, b[1] rows 4t+16... */
KN_DEVICE void kn_mma_u8s8(int32_t d[4], const uint32_t a[4], const uint32_t b[2]) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* Copy 16 bytes from global to shared memory, both 16-byte aligned, past the registers. They are
 * there for the thread that asked after kn_copy_wait, for the block after kn_sync_block. */
KN_DEVICE void kn_copy_async(void *shared, const void *global) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;"
                 :
                 : "r"(kn_shared_address(shared)), "l"(global)
                 : "memory");
}

/* Closes the group of copies asked for since the last one. */
KN_DEVICE void kn_copy_commit() {
    asm volatile("cp.async.commit_group;" : : : "memory");
}

/* Waits for all groups but the last n. */
template <int n> KN_DEVICE void kn_copy_wait() {
    asm volatile("cp.async.wait_group %0;" : : "n"(n) : "memory");
}

/* Two floats to bf16, to nearest even. */
KN_DEVICE uint32_t kn_pack_bf16(float low, float high) {
    uint32_t r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
}

/* Products of two pairs of bf16, to nearest even; subnormal numbers are numbers. */
KN_DEVICE uint32_t kn_mul_bf16(uint32_t x, uint32_t y) {
    uint32_t r;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(r) : "r"(x), "r"(y), "r"(0x80008000u));
    return r;
}

/* Four bytes, the lowest digit of `which` naming the lowest: 0 to 3 those of x, 4 to 7 zero. */
KN_DEVICE uint32_t kn_bytes(uint32_t x, uint32_t which) {
    return __byte_perm(x, 0, which);
}

KN_DEVICE float kn_float_of_bits(uint32_t bits) {
    return __uint_as_float(bits);
}

KN_DEVICE uint32_t kn_bits_of_float(float x) {
    return __float_as_uint(x);
}

KN_DEVICE uint32_t kn_shfl_xor_bits(uint32_t x, int mask) {
    return __shfl_xor_sync(0xFFFFFFFFu, x, mask);
}

/* What lane `from` hands in. */
KN_DEVICE uint32_t kn_shfl_bits(uint32_t x, int from) {
    return __shfl_sync(0xFFFFFFFFu, x, from);
}

/* 16 bytes, aligned, read once: weights that need not stay in the first-level cache. */
KN_DEVICE void kn_read_16(uint32_t r[4], const void *global) {
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "l"(global));
}

/* The same, 4 and 2 bytes. */
KN_DEVICE uint32_t kn_read_4(const void *global) {
    uint32_t r;
    asm volatile("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(r) : "l"(global));
    return r;
}

KN_DEVICE uint16_t kn_read_2(const void *global) {
    uint16_t r;
    asm volatile("ld.global.nc.L1::no_allocate.u16 %0, [%1];" : "=h"(r) : "l"(global));
    return r;
}

/* 16 and 8 bytes of any memory, aligned. */
KN_DEVICE void kn_load_16(uint32_t r[4], const void *p) {
    const uint4 x = *(const uint4 *)p;
    r[0] = x.x;
    r[1] = x.y;
    r[2] = x.z;
    r[3] = x.w;
}

KN_DEVICE void kn_load_8(uint32_t r[2], const void *p) {
    const uint2 x = *(const uint2 *)p;
    r[0] = x.x;
    r[1] = x.y;
}

/* ---- launches ----
 *
 * On devices of compute capability 9.0 and later a kernel may begin while the one launched before
 * it ends: what it does without looking at earlier launches (starting its blocks, asking for
 * weights) then costs no time of its own. Two calls make that safe:
 *
 *   kn_depend_early  the next kernel may begin, once all blocks of this one have come so far
 *   kn_depend_wait   waits until the kernel before has ended, and all that it wrote can be seen
 *
 * EVERY kernel calls both, or kn_depend, in every thread, before it reads or writes anything that a
 * launch reads or writes. A kernel that ended without waiting could end before the one in front of
 * it, and the next one, which waits for its neighbour alone, would read what is not there yet: the
 * guarantee of each kernel stands on those of all others. Only what no launch writes, which is
 * weights, may be read before kn_depend_wait. The emulation ends with a message where a thread has
 * not waited. */
KN_DEVICE void kn_depend_early() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}

KN_DEVICE void kn_depend_wait() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" : : : "memory");
#endif
}

/* Before the first launch of a kernel with so much shared memory, and before every other one: true
 * where kernels may begin early (launch_cuda.cu). */
bool kn_launch_prepare(const void *kernel, size_t shared);

template <typename... P, typename... A>
static inline void kn_launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared,
                             cudaStream_t stream, A... args) {
    cudaLaunchAttribute early = {};
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t how = {};
    how.gridDim = grid;
    how.blockDim = block;
    how.dynamicSmemBytes = shared;
    how.stream = stream;
    how.attrs = &early;
    how.numAttrs = kn_launch_prepare((const void *)kernel, shared) ? 1 : 0;
    cudaLaunchKernelEx(&how, kernel, args...);
}
#endif

/* ---- the same on both ---- */

/* For a kernel that does nothing early. */
KN_DEVICE void kn_depend() {
    kn_depend_early();
    kn_depend_wait();
}

KN_DEVICE float kn_low_bf16(uint32_t pair) {
    return kn_float_of_bits(pair << 16);
}

KN_DEVICE float kn_high_bf16(uint32_t pair) {
    return kn_float_of_bits(pair & 0xFFFF0000u);
}

KN_DEVICE float kn_to_float(kn_bf16 x) {
    return kn_float_of_bits((uint32_t)x.bits << 16);
}

KN_DEVICE float kn_to_float(float x) {
    return x;
}

KN_DEVICE kn_bf16 kn_to_bf16(float x) {
    kn_bf16 r;
    r.bits = (uint16_t)kn_pack_bf16(x, 0.0f);
    return r;
}

KN_DEVICE void kn_store(float *p, float x) {
    *p = x;
}

KN_DEVICE void kn_store(kn_bf16 *p, float x) {
    *p = kn_to_bf16(x);
}

#endif
