/* Products of few rows, which is decoding: each weight is read once, straight from memory to the
 * registers that the tensor cores take it from, and nothing else is to cost time.
 *
 * A block owns 32 outputs of up to 8 NT rows. Inputs are cut into groups of 128, groups into pieces
 * (linear_pieces.cuh), and batches of groups are dealt to the warps. A warp multiplies 32 outputs x
 * 128 inputs with the rows, weights as left operand, rows as right operand, eight at a time; so one
 * row costs the same reads of weights as sixty-four. DEPTH pieces are under way at any time: a
 * piece of the next batch is asked for when the registers of one of this batch have been used. The
 * sums of groups go to shared memory. Then every thread takes NT pairs (output, row) and adds their
 * groups up, ascending:
 *
 *   q8, q4  y = fma(dot, d scale, y)   dot is exact, so these are the bits of every other backend
 *   others  y += sum of the group; of f8 the finished sum is multiplied with the output's scale
 *
 * Neither depends on NT, on the number of rows or on the place of a row among them. With many
 * groups this goes in rounds. A second matrix (the GLU) follows the first as if it had more groups
 * of it. What follows a product is done on the finished sums.
 *
 * The first pieces are asked for before this launch waits for the one before it: no launch writes
 * weights. With up to eight rows each block may also make the input rows itself, in shared memory,
 * while those pieces are on their way (MAKE). That costs reading the rows once per block, from the
 * second-level cache, and saves a launch: see kn_linear_wants_one. */
#include "kernels/cuda/linear_pieces.cuh"
#include "kernels/cuda/linear_rows.cuh"

enum {
    OUTS = 32,
    ROUND_BYTES = 68 << 10, /* of sums; two blocks find room on every device */
    MOST_ONE_BYTES = 96 << 10,
};

static_assert((int)PRODUCT_THREADS == (int)ROW_THREADS, "a block of products makes rows");

template <kn_dtype FORMAT, int NT> struct few_shape {
    typedef kn_piece<FORMAT> piece;
    enum {
        MOST = 8 / NT < 4 / piece::OF_GROUP ? 8 / NT : 4 / piece::OF_GROUP,
        GROUPS = MOST > 1 ? MOST : 1, /* of a batch */
        PIECES = GROUPS * piece::OF_GROUP,
        /* of two blocks on a multiprocessor, a thread has 128 registers */
        ROOM = (NT == 8   ? 1
                : NT == 4 ? 2
                          : 4) /
               (FORMAT == KN_F8 && NT > 1 && NT < 8 ? 2 : 1),
        DEPTH = ROOM < PIECES ? ROOM : PIECES,
        PACKED = piece::PACKED,
    };
};

/* The batches of both matrices, and how the memory of a block is divided, in bytes. The first sums
 * lie where the rows were summed up before. */
struct few_plan {
    int cols;
    int batches, all; /* of a matrix, of both */
    int round;        /* batches at a time, a multiple of the warps */
    int words;        /* of a group's sums: [rows][32], then the scales of packed ones */
    int rows;         /* that have sums */
    int totals_at, rows_at, scales_at, row_bytes;
};

struct few_args {
    kn_linear_args x;
    few_plan plan;
};

/* ---- sums ---- */

/* Where the sum of an output and a row lies: outputs in an order that keeps stores of eight lanes
 * on different banks. */
KN_DEVICE int sum_place(int row, int out) {
    return row * OUTS + (out ^ (row >> 1 & 3) * 8);
}

/* The lane's four outputs of two rows of each eight. */
template <typename D, int NT>
KN_DEVICE void put_sums(uint32_t *parts, int rows, const D low[NT][4], const D high[NT][4]) {
    const int lane = (int)threadIdx.x % 32, g = lane / 4, t = lane % 4;
    KN_UNROLL
    for (int n = 0; n < NT; n++)
        for (int e = 0; e < 2; e++) {
            const int row = n * 8 + 2 * t + e;
            D *to = (D *)parts + sum_place(row, 4 * g);
            if (NT == 1 && row >= rows)
                continue;
            to[0] = low[n][e];
            to[1] = low[n][2 + e];
            to[2] = high[n][e];
            to[3] = high[n][2 + e];
        }
}

template <bool PACKED> struct sum_of;
template <> struct sum_of<true> { typedef int32_t type; };
template <> struct sum_of<false> { typedef float type; };

/* The pieces of a batch, as many as are under way at once. */
template <kn_dtype FORMAT, int NT> struct ring {
    kn_piece<FORMAT> piece[few_shape<FORMAT, NT>::DEPTH];
};

/* A lane's outputs of the first matrix; those of the second are so many bytes on. */
struct places {
    kn_outs w;
    int64_t apart;
};

/* A piece of a batch, which is counted over both matrices. */
template <kn_dtype FORMAT, int NT> struct piece_place {
    typedef kn_piece<FORMAT> piece;
    int batch, group, part;
    bool second, there;
    KN_METHOD piece_place(const few_args &f, int virtual_batch, int p) {
        const int inputs = KN_Q_GROUP / piece::OF_GROUP;
        second = virtual_batch >= f.plan.batches;
        batch = virtual_batch - (second ? f.plan.batches : 0);
        group = batch * few_shape<FORMAT, NT>::GROUPS + p / piece::OF_GROUP;
        part = p % piece::OF_GROUP;
        there = virtual_batch < f.plan.all && group * KN_Q_GROUP + part * inputs < f.plan.cols;
    }
};

template <kn_dtype FORMAT, int NT>
KN_DEVICE void fetch_piece(ring<FORMAT, NT> &r, const few_args &f, const places &at, int batch,
                           int p) {
    const piece_place<FORMAT, NT> q(f, batch, p);
    kn_outs from = at.w;
    from.at += q.second ? at.apart : 0;
    if (q.there)
        kn_fetch(r.piece[p % few_shape<FORMAT, NT>::DEPTH], from, f.plan.cols, q.group, q.part);
}

/* The sums of a batch's groups, to parts; the next batch of this warp is asked for on the way. */
template <kn_dtype FORMAT, int NT>
KN_DEVICE void sum_batch(uint32_t *parts, ring<FORMAT, NT> &r, const few_args &f, const places &at,
                         const kn_row_view &rows, int batch) {
    typedef few_shape<FORMAT, NT> S;
    typedef typename sum_of<S::PACKED>::type D;
    D low[NT][4] = {}, high[NT][4] = {};
    KN_UNROLL
    for (int p = 0; p < S::PIECES; p++) {
        const piece_place<FORMAT, NT> q(f, batch, p);
        const int next = p + S::DEPTH;
        kn_piece<FORMAT> &piece = r.piece[p % S::DEPTH];
        if (q.there)
            kn_multiply<NT>(low, high, piece, rows, q.group, q.part);
        const bool whole = q.part == S::piece::OF_GROUP - 1;
        uint32_t *to = parts + (p / S::piece::OF_GROUP) * f.plan.words;
        if (q.part == 0 && S::PACKED)
            ((uint16_t *)(to + f.plan.rows * OUTS))[threadIdx.x % 32] = piece.d;
        fetch_piece<FORMAT, NT>(r, f, at, next < S::PIECES ? batch : batch + PRODUCT_WARPS,
                                next % S::PIECES);
        if (!whole)
            continue;
        put_sums<D, NT>(to, f.plan.rows, low, high);
        KN_UNROLL
        for (int n = 0; n < NT; n++)
            for (int e = 0; e < 4; e++)
                low[n][e] = high[n][e] = 0;
    }
}

/* ---- adding groups up ---- */

/* y after one more group of an output and a row. */
template <bool PACKED>
KN_DEVICE float add_group(float y, const uint32_t *part, const kn_qrows &q, int rows, int64_t group,
                          int row, int64_t of) {
    const int out = (int)threadIdx.x % OUTS;
    const uint32_t *sum = part + sum_place(row, out);
    if (!PACKED)
        return y + *(const float *)sum;
    const int64_t at = of * q.groups + group;
    const int32_t dot = *(const int32_t *)sum - 128 * q.sum[at];
    const uint16_t d = ((const uint16_t *)(part + rows * OUTS))[out];
    return fmaf((float)dot, kn_float_of_bits((uint32_t)d << 16) * q.scale[at], y);
}

/* What batches [begin, end) of a matrix add to this thread's outputs. totals: where they are kept
 * from round to round. */
template <kn_dtype FORMAT, int NT>
KN_DEVICE void add_batches(float *totals, const uint32_t *parts, const few_args &f,
                           const kn_qrows &q, int begin, int end, int64_t first) {
    typedef few_shape<FORMAT, NT> S;
    const int groups = (int)f.x.groups, to = end * S::GROUPS < groups ? end * S::GROUPS : groups;
    for (int i = 0; i < NT; i++) {
        const int row = (int)threadIdx.x / OUTS + i * (PRODUCT_THREADS / OUTS);
        const uint32_t *part = parts;
        if (first + row >= f.x.p.n)
            break;
        float y = begin ? totals[i * PRODUCT_THREADS] : 0;
        KN_UNROLL_8
        for (int g = begin * S::GROUPS; g < to; g++, part += f.plan.words)
            y = add_group<S::PACKED>(y, part, q, f.plan.rows, g, row, first + row);
        totals[i * PRODUCT_THREADS] = y;
    }
}

template <kn_dtype FORMAT, int NT>
KN_DEVICE void add_round(float *totals, const uint32_t *parts, const few_args &f, const kn_qrows &q,
                         int begin, int end, int64_t first) {
    const int one = f.plan.batches;
    if (begin < one)
        add_batches<FORMAT, NT>(totals, parts, f, q, begin, end < one ? end : one, first);
    if (end <= one)
        return;
    const int skipped = begin < one ? one - begin : 0;
    add_batches<FORMAT, NT>(totals + NT * PRODUCT_THREADS,
                            parts + skipped * few_shape<FORMAT, NT>::GROUPS * f.plan.words, f, q,
                            begin + skipped - one, end - one, first);
}

/* ---- rows in shared memory ---- */

template <kn_dtype FORMAT>
KN_DEVICE kn_row_room room_for_rows(unsigned char *shared, const few_args &f) {
    kn_row_room r = {};
    unsigned char *rows = shared + f.plan.rows_at;
    r.filled = kn_padded(f.plan.cols);
    r.ld = f.plan.row_bytes / kn_piece<FORMAT>::ROW_BYTES;
    if (!kn_piece<FORMAT>::PACKED) {
        r.half = (uint16_t *)rows;
    } else {
        r.q = (int8_t *)rows;
        r.scale = (float *)(shared + f.plan.scales_at);
        r.sum = (int32_t *)(r.scale + f.x.p.n * f.x.groups);
    }
    return r;
}

/* The rows, and their scales, where the products are to find them. */
template <kn_dtype FORMAT, bool MAKE>
KN_DEVICE kn_row_view take_rows(kn_qrows *q, unsigned char *shared, const few_args &f,
                                int64_t first) {
    const kn_linear_args &x = f.x;
    const int lane = (int)threadIdx.x % 4 * kn_piece<FORMAT>::LANE_BYTES;
    kn_row_view v = {};
    v.first = (int)first + (int)threadIdx.x % 32 / 4;
    v.last = (int)x.p.n - 1;
    *q = x.q;
    if (!MAKE) {
        const bool half = !kn_piece<FORMAT>::PACKED;
        v.data = (half ? (const unsigned char *)x.half : (const unsigned char *)x.q.q) + lane;
        v.stride = (uint32_t)(half ? x.lda * 2 : x.q.ldq);
        v.filled = (int)(half ? x.lda : x.q.ldq);
        return v;
    }
    const kn_row_room room = room_for_rows<FORMAT>(shared, f);
    for (int64_t row = 0; row < x.p.n; row++)
        kn_make_row(x, room, row, (float *)shared);
    kn_sync_block();
    v.data = shared + f.plan.rows_at + lane;
    v.stride = (uint32_t)f.plan.row_bytes;
    v.filled = (int)room.filled;
    q->scale = room.scale;
    q->sum = room.sum;
    return v;
}

/* ---- the kernel ---- */

/* The scale of an output of f8; others are finished without. */
template <kn_dtype FORMAT>
KN_DEVICE float scale_of(const few_args &f, const kn_tensor &w, int64_t out) {
    if (FORMAT != KN_F8)
        return 1;
    const int64_t row = kn_f8_bytes(f.plan.cols);
    return kn_float_of_bits(
        kn_read_4((const unsigned char *)w.data + (out + 1) * row - KN_F8_TAIL));
}

/* A thread's outputs. */
template <kn_dtype FORMAT, int NT>
KN_DEVICE void finish_outputs(const few_args &f, const float *totals, kn_out_extras extras,
                              const float scales[2], int64_t out, int64_t row0) {
    for (int i = 0; i < NT; i++) {
        const int64_t row = row0 + i * (PRODUCT_THREADS / OUTS);
        if (out >= f.x.w.rows || row >= f.x.p.n)
            break;
        if (NT > 1)
            extras = kn_linear_extras(f.x, out, row);
        const float y = totals[i * PRODUCT_THREADS];
        const float z = f.x.two ? totals[(NT + i) * PRODUCT_THREADS] : 0;
        kn_linear_finish(f.x, extras, FORMAT == KN_F8 ? y * scales[0] : y,
                         FORMAT == KN_F8 ? z * scales[1] : z, out, row);
    }
}

template <kn_dtype FORMAT, int NT, bool MAKE>
static __global__ void __launch_bounds__(PRODUCT_THREADS, FORMAT == KN_F8 && NT == 8 ? 1 : 2)
    products(few_args f) {
    KN_SHARED(shared);
    typedef few_shape<FORMAT, NT> S;
    const kn_linear_args &x = f.x;
    const int64_t out0 = (int64_t)blockIdx.x * OUTS, first = (int64_t)blockIdx.y * NT * 8;
    const int64_t apart = x.two ? (const char *)x.w2.data - (const char *)x.w.data : 0;
    const places at = {kn_outs_at<FORMAT>(x, x.w, out0), apart};
    int batch = (int)threadIdx.x / 32;
    ring<FORMAT, NT> r = {};

    kn_depend_early();
    KN_UNROLL
    for (int p = 0; p < S::DEPTH; p++)
        fetch_piece<FORMAT, NT>(r, f, at, batch, p);
    const int64_t out = out0 + threadIdx.x % OUTS, my_row = first + threadIdx.x / OUTS;
    const float scales[2] = {scale_of<FORMAT>(f, x.w, out),
                             x.two ? scale_of<FORMAT>(f, x.w2, out) : 1};
    kn_depend_wait();

    kn_qrows q;
    const kn_row_view rows = take_rows<FORMAT, MAKE>(&q, shared, f, first);
    kn_out_extras extras = {};
    if (NT == 1 && out < x.w.rows && my_row < x.p.n)
        extras = kn_linear_extras(x, out, my_row);

    uint32_t *parts = (uint32_t *)shared;
    float *totals = (float *)(shared + f.plan.totals_at) + threadIdx.x;
    for (int begin = 0; begin < f.plan.all; begin += f.plan.round) {
        const int to = begin + f.plan.round, end = to < f.plan.all ? to : f.plan.all;
        for (; batch < end; batch += PRODUCT_WARPS)
            sum_batch<FORMAT, NT>(parts + (batch - begin) * S::GROUPS * f.plan.words, r, f, at,
                                  rows, batch);
        kn_sync_block();
        add_round<FORMAT, NT>(totals, parts, f, q, begin, end, first);
        if (end < f.plan.all)
            kn_sync_block();
    }
    finish_outputs<FORMAT, NT>(f, totals, extras, scales, out, my_row);
}

/* ---- launches ---- */

static int64_t round_up(int64_t n, int64_t to) {
    return (n + to - 1) / to * to;
}

template <kn_dtype FORMAT, int NT> static few_plan plan_few(const kn_linear_args &x, int64_t room) {
    typedef few_shape<FORMAT, NT> S;
    few_plan p = {};
    p.cols = (int)x.w.cols;
    p.batches = (int)kn_ceil_div(x.groups, S::GROUPS);
    p.all = (x.two ? 2 : 1) * p.batches;
    p.rows = NT > 1 || x.p.n > 8 ? NT * 8 : (int)x.p.n;
    p.words = p.rows * OUTS + (S::PACKED ? OUTS / 2 : 0);
    const int64_t batch_bytes = (int64_t)S::GROUPS * p.words * 4, fits = room / batch_bytes;
    const int64_t all = round_up(p.all, PRODUCT_WARPS), some = fits / PRODUCT_WARPS * PRODUCT_WARPS;
    p.round = (int)(some > all ? all : some < PRODUCT_WARPS ? (int64_t)PRODUCT_WARPS : some);
    p.totals_at = (int)round_up(p.round * batch_bytes, 128);
    p.rows_at = p.totals_at + 2 * NT * PRODUCT_THREADS * 4;
    return p;
}

/* Rows in shared memory, behind the sums. */
template <kn_dtype FORMAT> static few_plan plan_one(const kn_linear_args &x) {
    typedef kn_piece<FORMAT> piece;
    const int64_t row_bytes = round_up(x.w.cols * piece::ROW_BYTES, 128) + piece::ROW_TURN;
    const int64_t scales = x.packed ? x.p.n * x.groups * 8 : 0;
    const int64_t totals = 2 * PRODUCT_THREADS * 4 + 128;
    few_plan p = plan_few<FORMAT, 1>(x, MOST_ONE_BYTES - x.p.n * row_bytes - scales - totals);
    p.row_bytes = (int)row_bytes;
    p.scales_at = p.rows_at + (int)(x.p.n * row_bytes);
    return p;
}

template <kn_dtype FORMAT, int NT>
static void launch_rows(const kn_linear_args &x, cudaStream_t stream) {
    const few_args f = {x, plan_few<FORMAT, NT>(x, ROUND_BYTES)};
    kn_launch(products<FORMAT, NT, false>,
              dim3(kn_ceil_div(x.w.rows, OUTS), kn_ceil_div(x.p.n, NT * 8)), dim3(PRODUCT_THREADS),
              (size_t)f.plan.rows_at, stream, f);
}

template <kn_dtype FORMAT>
static void launch_products(const kn_linear_args &x, cudaStream_t stream) {
    if (x.p.n <= 8)
        launch_rows<FORMAT, 1>(x, stream);
    else if (x.p.n <= 16)
        launch_rows<FORMAT, 2>(x, stream);
    else if (x.p.n <= 32)
        launch_rows<FORMAT, 4>(x, stream);
    else
        launch_rows<FORMAT, 8>(x, stream);
}

void kn_linear_few(const kn_linear_args &x, cudaStream_t stream) {
    if (x.w.dtype == KN_BF16)
        launch_products<KN_BF16>(x, stream);
    else if (x.w.dtype == KN_F8)
        launch_products<KN_F8>(x, stream);
    else if (x.w.dtype == KN_Q8)
        launch_products<KN_Q8>(x, stream);
    else
        launch_products<KN_Q4>(x, stream);
}

static few_plan plan_of(const kn_linear_args &x) {
    return x.w.dtype == KN_BF16 ? plan_one<KN_BF16>(x)
           : x.w.dtype == KN_F8 ? plan_one<KN_F8>(x)
           : x.w.dtype == KN_Q8 ? plan_one<KN_Q8>(x)
                                : plan_one<KN_Q4>(x);
}

static int64_t one_bytes(const kn_linear_args &x, const few_plan &p) {
    return p.scales_at + (x.packed ? x.p.n * x.groups * 8 : 0);
}

/* Whether two matrices of n rows share memory: as columns of one they may interlace. */
static bool overlap(const float *a, int64_t lda, int64_t a_cols, const float *b, int64_t ldb,
                    int64_t b_cols, int64_t n) {
    const uintptr_t a0 = (uintptr_t)a, b0 = (uintptr_t)b;
    const uintptr_t a1 = a0 + (uintptr_t)((n - 1) * lda + a_cols) * sizeof *a;
    const uintptr_t b1 = b0 + (uintptr_t)((n - 1) * ldb + b_cols) * sizeof *b;
    if (a1 <= b0 || b1 <= a0)
        return false;
    if (lda != ldb)
        return true;
    const int64_t apart = (int64_t)((b0 - a0) / sizeof *a) % lda,
                  at = apart < 0 ? apart + lda : apart;
    return at < a_cols || at + b_cols > lda;
}

bool kn_linear_fits_one(const kn_linear_args &x) {
    const kn_linear &p = x.p;
    if (p.n > 8 || x.plain || overlap(p.x, p.ldx, x.w.cols, p.y, p.ldy, x.w.rows, p.n) ||
        (p.mul && overlap(p.mul, p.ldmul, x.w.cols, p.y, p.ldy, x.w.rows, p.n)))
        return false;
    return one_bytes(x, plan_of(x)) <= MOST_ONE_BYTES;
}

/* A launch of its own for the rows costs about 2 us: its own start, the reading of a row, and a
 * second wait of the products. Rows made by every block are read blocks times, at the 5 TB/s or so
 * of a second-level cache: 8 MiB take as long. */
bool kn_linear_wants_one(const kn_linear_args &x) {
    const int64_t blocks = kn_ceil_div(x.w.rows, OUTS);
    const int64_t row_bytes = x.w.cols * (x.p.mul ? 8 : 4);
    return blocks * x.p.n * row_bytes <= 8 << 20;
}

void kn_linear_in_one(const kn_linear_args &x, cudaStream_t stream) {
    const few_args f = {x, plan_of(x)};
    void (*kernel)(few_args) = x.w.dtype == KN_BF16 ? products<KN_BF16, 1, true>
                               : x.w.dtype == KN_F8 ? products<KN_F8, 1, true>
                               : x.w.dtype == KN_Q8 ? products<KN_Q8, 1, true>
                                                    : products<KN_Q4, 1, true>;
    kn_launch(kernel, dim3(kn_ceil_div(x.w.rows, OUTS)), dim3(PRODUCT_THREADS),
              (size_t)one_bytes(x, f.plan), stream, f);
}
