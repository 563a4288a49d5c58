/* The device of kernels/cuda/device.cuh, played by the host: threads of a block are fibers, blocks
 * run one after another. It is a hostile device: shared memory starts as NaN, an asynchronous copy
 * leaves NaN until it is waited for, and blocks, warps and lanes run in an order drawn anew for
 * every block, so that a missing barrier or wait shows. Divergent barriers, misaligned copies and
 * lanes missing from a warp operation end the program with a message. */
#ifndef TNL_TESTS_EMULATE_CUH
#define TNL_TESTS_EMULATE_CUH

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <functional>

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

typedef void *cudaStream_t;

/* Of the thread that runs now. */
struct emu_indices {
    dim3 thread, block, block_dim, grid_dim;
};
extern emu_indices emu_now;

#define threadIdx emu_now.thread
#define blockIdx emu_now.block
#define blockDim emu_now.block_dim
#define gridDim emu_now.grid_dim
#define __global__
#define __launch_bounds__(...)
#define KN_DEVICE static inline
#define KN_METHOD inline
#define KN_UNROLL
#define KN_UNROLL_8
#define KN_SHARED(name) unsigned char *const name = emu_shared()

enum { EMU_WARP = 32, EMU_SLOT = 32 };

unsigned char *emu_shared();
/* Run all blocks of a launch, or keep it while launches are recorded (emulated_launches.h). */
void emu_launch(dim3 grid, dim3 block, size_t shared, const std::function<void()> &body);

/* All lanes of a warp hand in `bytes`, at most EMU_SLOT; returns what each handed in, EMU_SLOT
 * bytes apart, valid until the warp's next operation but one. */
const unsigned char *emu_exchange(const void *mine, size_t bytes);

void kn_sync_block();
void kn_depend_early();
void kn_depend_wait();
void kn_copy_async(void *shared, const void *global);
void kn_copy_commit();
void emu_copy_wait(int keep);

template <int n> static inline void kn_copy_wait() {
    emu_copy_wait(n);
}

/* The seed of the orders that blocks, warps and lanes run in. */
void emu_seed(uint64_t seed);

template <typename... P, typename... A>
static inline void kn_launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared,
                             cudaStream_t, A... args) {
    emu_launch(grid, block, shared, [=] { kernel(args...); });
}

static inline int emu_lane() {
    return (int)(threadIdx.x % EMU_WARP);
}

static inline void kn_sync_warp() {
    emu_exchange("", 0);
}

static inline float kn_float_of_bits(uint32_t bits) {
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static inline uint32_t emu_bf16(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    if ((u & 0x7FFFFFFFu) > 0x7F800000u)
        return 0x7FFFu;
    return (u + 0x7FFFu + (u >> 16 & 1)) >> 16;
}

static inline uint32_t kn_pack_bf16(float low, float high) {
    return emu_bf16(low) | emu_bf16(high) << 16;
}

static inline uint32_t kn_mul_bf16(uint32_t x, uint32_t y) {
    return kn_pack_bf16(kn_float_of_bits(x << 16) * kn_float_of_bits(y << 16),
                        kn_float_of_bits(x & 0xFFFF0000u) * kn_float_of_bits(y & 0xFFFF0000u));
}

static inline uint32_t kn_bytes(uint32_t x, uint32_t which) {
    uint32_t r = 0;
    for (int i = 0; i < 4; i++, which >>= 4)
        r |= (which & 7) < 4 ? (x >> 8 * (which & 7) & 0xFFu) << 8 * i : 0;
    return r;
}

static inline uint32_t kn_bits_of_float(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

float kn_shfl_xor(float x, int mask);
uint32_t kn_shfl_xor_bits(uint32_t x, int mask);
uint32_t kn_shfl_bits(uint32_t x, int from);
void kn_read_16(uint32_t r[4], const void *global);
void kn_load_16(uint32_t r[4], const void *p);
void kn_load_8(uint32_t r[2], const void *p);
uint32_t kn_read_4(const void *global);
uint16_t kn_read_2(const void *global);
void kn_mma_u8s8(int32_t d[4], const uint32_t a[4], const uint32_t b[2]);
void kn_ldmatrix(uint32_t r[4], const void *row);
void kn_ldmatrix_trans(uint32_t r[4], const void *row);
uint32_t kn_movmatrix(uint32_t x);
void kn_mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2]);

#endif
