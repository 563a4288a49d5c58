/* Fibers for the threads of a block, and the warp operations that need all 32 of them. Fibers are
 * made once and run one block after another. A switch is a few instructions where they are written
 * down here, else ucontext's, which costs a system call and thirty times as much. */
#include <stdio.h>
#include <stdlib.h>

#include <memory>
#include <vector>

#include "tests/checkcuda/emulate.cuh"
#include "tests/checkcuda/emulated_launches.h"

emu_indices emu_now;

/* ---- switching stacks ---- */

#ifdef __x86_64__
typedef void *context;

/* Store the stack pointer of who calls in *from, go on where `to` left off. */
extern "C" void emu_switch(context *from, context to);
__asm__(".text\n"
        ".type emu_switch, @function\n"
        "emu_switch:\n"
        "    push %rbp\n    push %rbx\n    push %r12\n    push %r13\n    push %r14\n    push %r15\n"
        "    mov %rsp, (%rdi)\n"
        "    mov %rsi, %rsp\n"
        "    pop %r15\n    pop %r14\n    pop %r13\n    pop %r12\n    pop %rbx\n    pop %rbp\n"
        "    ret\n"
        ".size emu_switch, . - emu_switch\n");

static void make_context(context *c, unsigned char *stack, size_t bytes, void (*main)()) {
    void **top = (void **)((uintptr_t)(stack + bytes) & ~(uintptr_t)15);
    *--top = nullptr; /* main does not return */
    *--top = (void *)main;
    for (int i = 0; i < 6; i++)
        *--top = nullptr;
    *c = top;
}

static void switch_context(context *from, context *to) {
    emu_switch(from, *to);
}
#else
#include <ucontext.h>
typedef ucontext_t context;

static void make_context(context *c, unsigned char *stack, size_t bytes, void (*main)()) {
    getcontext(c);
    c->uc_stack.ss_sp = stack;
    c->uc_stack.ss_size = bytes;
    c->uc_link = nullptr;
    makecontext(c, main, 0);
}

static void switch_context(context *from, context *to) {
    swapcontext(from, to);
}
#endif

namespace {

enum fiber_state { READY, AT_WARP, AT_BLOCK, DONE };

struct copy_request {
    void *dst;
    const void *src;
    long group;
};

struct fiber {
    context at;
    std::unique_ptr<unsigned char[]> stack;
    fiber_state state = DONE;
    dim3 index;
    std::vector<copy_request> copies;
    long groups = 0; /* committed */
    unsigned phase = 0;
    bool waited = false; /* for earlier launches */
};

struct warp {
    int arrived = 0;
    alignas(16) unsigned char slots[2][EMU_WARP * EMU_SLOT];
};

struct machine {
    std::vector<std::unique_ptr<fiber>> fibers;
    std::vector<warp> warps;
    unsigned char *shared = nullptr;
    context scheduler;
    const std::function<void()> *body = nullptr;
    size_t threads = 0, at_block = 0, running = 0;
    uint64_t rng = 1;
};

machine m;

const size_t STACK_BYTES = 256 << 10;

[[noreturn]] void give_up(const char *what) {
    fprintf(stderr, "emulated device: %s (block %u %u %u, thread %u)\n", what, blockIdx.x,
            blockIdx.y, blockIdx.z, threadIdx.x);
    abort();
}

uint64_t draw(uint64_t below) {
    m.rng = m.rng * 6364136223846793005u + 1442695040888963407u;
    return (m.rng >> 33) % below;
}

fiber &self() {
    return *m.fibers[m.running];
}

void yield() {
    switch_context(&self().at, &m.scheduler);
}

/* One block after another. */
void fiber_main() {
    for (;;) {
        (*m.body)();
        if (!self().waited)
            give_up("a thread ends that has not called kn_depend (device.cuh)");
        self().state = DONE;
        yield();
    }
}

void start_fiber(size_t i, dim3 index) {
    if (m.fibers.size() <= i) {
        m.fibers.push_back(std::make_unique<fiber>());
        fiber &made = *m.fibers[i];
        made.stack = std::make_unique<unsigned char[]>(STACK_BYTES);
        make_context(&made.at, made.stack.get(), STACK_BYTES, fiber_main);
    }
    fiber &f = *m.fibers[i];
    f.state = READY;
    f.index = index;
    f.copies.clear();
    f.groups = 0;
    f.phase = 0;
    f.waited = false;
}

void resume(size_t i) {
    m.running = i;
    emu_now.thread = m.fibers[i]->index;
    switch_context(&m.scheduler, &m.fibers[i]->at);
}

/* Run one warp until none of its lanes can go on. */
bool run_warp(size_t w, bool backwards) {
    bool any = false;
    for (bool again = true; again;) {
        again = false;
        for (size_t l = 0; l < EMU_WARP; l++) {
            size_t i = w * EMU_WARP + (backwards ? EMU_WARP - 1 - l : l);
            if (m.fibers[i]->state != READY)
                continue;
            resume(i);
            again = any = true;
        }
    }
    return any;
}

bool all_done() {
    for (size_t i = 0; i < m.threads; i++)
        if (m.fibers[i]->state != DONE)
            return false;
    return true;
}

void run_block() {
    const size_t warps = m.threads / EMU_WARP, first = draw(warps);
    const bool backwards = draw(2);
    m.at_block = 0;
    while (!all_done()) {
        bool any = false;
        for (size_t w = 0; w < warps; w++)
            any |= run_warp((first + (backwards ? warps - w : w)) % warps, backwards);
        if (m.at_block == m.threads) {
            m.at_block = 0;
            for (size_t i = 0; i < m.threads; i++)
                m.fibers[i]->state = READY;
        } else if (!any) {
            give_up("threads wait for others that do not come");
        }
    }
}

void prepare_block(size_t shared) {
    memset(m.shared, 0xFF, shared);
    const unsigned x = blockDim.x, y = blockDim.y;
    for (size_t i = 0; i < m.threads; i++)
        start_fiber(i, dim3((unsigned)i % x, (unsigned)i / x % y, (unsigned)i / x / y));
    for (warp &w : m.warps)
        w.arrived = 0;
}

uint32_t word(const unsigned char *all, int lane, int at) {
    uint32_t r;
    memcpy(&r, all + lane * EMU_SLOT + at * 4, sizeof r);
    return r;
}

float half_of(uint32_t pair, int high) {
    return kn_float_of_bits(high ? pair & 0xFFFF0000u : pair << 16);
}

} // namespace

void emu_seed(uint64_t seed) {
    m.rng = seed * 2 + 1;
}

unsigned char *emu_shared() {
    return m.shared;
}

static void run_launch(dim3 grid, dim3 block, size_t shared, const std::function<void()> &body) {
    m.threads = (size_t)block.x * block.y * block.z;
    emu_now.grid_dim = grid;
    emu_now.block_dim = block;
    if (m.threads == 0 || m.threads > 1024 || m.threads % EMU_WARP)
        give_up("a block has 32 to 1024 threads, whole warps");
    if (shared > 227 << 10)
        give_up("more shared memory than a device has");
    if (grid.y > 65535 || grid.z > 65535 || !grid.x || !grid.y || !grid.z)
        give_up("grid of a size that no device takes");
    m.warps = std::vector<warp>(m.threads / EMU_WARP);
    /* exactly as large as asked for: an address sanitizer sees the end */
    void *memory = nullptr;
    if (posix_memalign(&memory, 128, shared ? shared : 1) != 0)
        give_up("no memory");
    m.shared = (unsigned char *)memory;
    m.body = &body;
    const size_t blocks = (size_t)grid.x * grid.y * grid.z, start = draw(blocks);
    const bool backwards = draw(2);
    for (size_t n = 0; n < blocks; n++) {
        size_t b = (start + (backwards ? blocks - n : n)) % blocks;
        emu_now.block = dim3((unsigned)(b % grid.x), (unsigned)(b / grid.x % grid.y),
                             (unsigned)(b / grid.x / grid.y));
        prepare_block(shared);
        run_block();
    }
    free(memory);
}

const unsigned char *emu_exchange(const void *mine, size_t bytes) {
    const size_t i = m.running;
    warp &w = m.warps[i / EMU_WARP];
    fiber &f = self();
    unsigned char *slots = w.slots[f.phase++ & 1];
    memcpy(slots + i % EMU_WARP * EMU_SLOT, mine, bytes);
    if (++w.arrived < EMU_WARP) {
        f.state = AT_WARP;
        yield();
        return slots;
    }
    w.arrived = 0;
    for (size_t l = 0; l < EMU_WARP; l++)
        m.fibers[i / EMU_WARP * EMU_WARP + l]->state = READY;
    return slots;
}

void kn_sync_block() {
    self().state = AT_BLOCK;
    m.at_block++;
    yield();
}

void kn_depend_early() {
    if (self().waited)
        give_up("kn_depend_early comes after kn_depend_wait");
}

void kn_depend_wait() {
    self().waited = true;
}

void kn_copy_async(void *shared, const void *global) {
    if ((uintptr_t)shared % 16 || (uintptr_t)global % 16)
        give_up("asynchronous copy of a misaligned address");
    memset(shared, 0xFF, 16);
    self().copies.push_back({shared, global, self().groups});
}

void kn_copy_commit() {
    self().groups++;
}

void emu_copy_wait(int keep) {
    fiber &f = self();
    std::vector<copy_request> later;
    for (const copy_request &c : f.copies)
        if (c.group < f.groups - keep)
            memcpy(c.dst, c.src, 16);
        else
            later.push_back(c);
    f.copies.swap(later);
}

float kn_shfl_xor(float x, int mask) {
    const unsigned char *all = emu_exchange(&x, sizeof x);
    return kn_float_of_bits(word(all, emu_lane() ^ mask, 0));
}

uint32_t kn_shfl_xor_bits(uint32_t x, int mask) {
    return word(emu_exchange(&x, sizeof x), emu_lane() ^ mask, 0);
}

uint32_t kn_shfl_bits(uint32_t x, int from) {
    return word(emu_exchange(&x, sizeof x), from, 0);
}

static void read_aligned(void *to, const void *from, size_t bytes) {
    if ((uintptr_t)from % bytes)
        give_up("read at a misaligned address");
    memcpy(to, from, bytes);
}

void kn_read_16(uint32_t r[4], const void *global) {
    read_aligned(r, global, 16);
}

void kn_load_16(uint32_t r[4], const void *p) {
    read_aligned(r, p, 16);
}

void kn_load_8(uint32_t r[2], const void *p) {
    read_aligned(r, p, 8);
}

uint32_t kn_read_4(const void *global) {
    uint32_t r;
    read_aligned(&r, global, sizeof r);
    return r;
}

uint16_t kn_read_2(const void *global) {
    uint16_t r;
    read_aligned(&r, global, sizeof r);
    return r;
}

void kn_mma_u8s8(int32_t d[4], const uint32_t a[4], const uint32_t b[2]) {
    const uint32_t mine[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
    const unsigned char *all = emu_exchange(mine, sizeof mine);
    const int g = emu_lane() / 4, t = emu_lane() % 4;
    for (int i = 0; i < 4; i++) {
        const int row = g + i / 2 * 8, col = 2 * t + i % 2;
        for (int k = 0; k < 32; k++) {
            uint32_t x = word(all, row % 8 * 4 + k % 16 / 4, row / 8 + k / 16 * 2);
            uint32_t y = word(all, col * 4 + k % 16 / 4, 4 + k / 16);
            d[i] += (int32_t)(x >> k % 4 * 8 & 0xFFu) * (int8_t)(y >> k % 4 * 8);
        }
    }
}

/* Hand in the row that this lane names. */
static const unsigned char *exchange_rows(const void *row) {
    if ((uintptr_t)row % 16)
        give_up("matrix row at a misaligned address");
    return emu_exchange(row, 16);
}

static uint32_t matrix_element(const unsigned char *all, int n, int row, int col) {
    return word(all, n * 8 + row, col / 2) >> 16 * (col % 2) & 0xFFFFu;
}

void kn_ldmatrix(uint32_t r[4], const void *row) {
    const unsigned char *all = exchange_rows(row);
    const int g = emu_lane() / 4, t = emu_lane() % 4;
    for (int n = 0; n < 4; n++)
        r[n] = matrix_element(all, n, g, 2 * t) | matrix_element(all, n, g, 2 * t + 1) << 16;
}

void kn_ldmatrix_trans(uint32_t r[4], const void *row) {
    const unsigned char *all = exchange_rows(row);
    const int g = emu_lane() / 4, t = emu_lane() % 4;
    for (int n = 0; n < 4; n++)
        r[n] = matrix_element(all, n, 2 * t, g) | matrix_element(all, n, 2 * t + 1, g) << 16;
}

uint32_t kn_movmatrix(uint32_t x) {
    const unsigned char *all = emu_exchange(&x, sizeof x);
    const int g = emu_lane() / 4, t = emu_lane() % 4;
    uint32_t y = 0;
    for (int e = 0; e < 2; e++) /* element (g, 2t+e) of the result is (2t+e, g) of x */
        y |= (word(all, (2 * t + e) * 4 + g / 2, 0) >> 16 * (g % 2) & 0xFFFFu) << 16 * e;
    return y;
}

void kn_mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2]) {
    const uint32_t mine[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
    const unsigned char *all = emu_exchange(mine, sizeof mine);
    const int g = emu_lane() / 4, t = emu_lane() % 4;
    for (int i = 0; i < 4; i++) {
        const int row = g + i / 2 * 8, col = 2 * t + i % 2;
        double sum = (double)d[i];
        for (int k = 0; k < 16; k++) {
            uint32_t x = word(all, row % 8 * 4 + k % 8 / 2, row / 8 + k / 8 * 2);
            uint32_t y = word(all, col * 4 + k % 8 / 2, 4 + k / 8);
            sum += (double)half_of(x, k % 2) * (double)half_of(y, k % 2);
        }
        d[i] = (float)sum;
    }
}

extern "C" void emu_seed_c(uint64_t seed);
void emu_seed_c(uint64_t seed) {
    emu_seed(seed);
}

/* ---- launches ---- */

namespace {

struct launch {
    dim3 grid, block;
    size_t shared;
    std::function<void()> body;
};
typedef std::vector<launch> launches;

launches *recording;
void (*before_launch)(void);

void run(const launch &l) {
    if (before_launch)
        before_launch();
    run_launch(l.grid, l.block, l.shared, l.body);
}

} // namespace

void emu_launch(dim3 grid, dim3 block, size_t shared, const std::function<void()> &body) {
    const launch l = {grid, block, shared, body};
    if (recording)
        recording->push_back(l);
    else
        run(l);
}

void emu_before_launches(void (*fn)(void)) {
    before_launch = fn;
}

void emu_record(void) {
    recording = new launches;
}

void *emu_record_end(void) {
    launches *done = recording;
    recording = nullptr;
    return done;
}

void emu_replay(void *recorded) {
    for (const launch &l : *(const launches *)recorded)
        run(l);
}

void emu_recorded_free(void *recorded) {
    delete (launches *)recorded;
}
