/* The packed formats, one element at a time. */
#include "kernels/quant.h"

#include <string.h>

#include "kernels/base/half.h"

/* The integer that a weight is a multiple of its scale: output o (0..63), input i of a group. */
static int weight_of(kn_dtype t, const unsigned char *group, int64_t g, int64_t o, int64_t i) {
    const unsigned char *subs = group + KN_Q_SCALES;
    if (t == KN_Q8)
        return subs[i / 4 * 256 + 4 * o + i % 4] - 128;
    const unsigned char *codes = subs + 2 * g;
    int64_t run = i / KN_Q4_RUN;
    int pair = codes[i / 8 * 256 + 4 * o + i % 4], two = subs[run / 2 * KN_Q_OUTS + o];
    int code = i % 8 < 4 ? pair & 15 : pair >> 4, sub = run % 2 ? two >> 4 : two & 15;
    return (sub < 8 ? sub : sub - 16) * (code - 8);
}

static void f8_row_to_f32(float *dst, const unsigned char *codes, int64_t cols) {
    float d = kn_f8_scale(codes, cols);
    for (int64_t i = 0; i < cols; i++)
        dst[i] = d * tnl_f32_from_e4m3(codes[i]);
}

void kn_q_row_to_f32(float *dst, const void *data, kn_dtype t, int64_t cols, int64_t row) {
    if (t == KN_F8) {
        f8_row_to_f32(dst, (const unsigned char *)data + row * kn_f8_stride(cols), cols);
        return;
    }
    const unsigned char *group =
        (const unsigned char *)data + row / KN_Q_OUTS * kn_q_tile_bytes(t, cols);
    int64_t o = row % KN_Q_OUTS;
    for (int64_t at = 0; at < cols; at += KN_Q_GROUP) {
        int64_t left = cols - at, g = kn_q_padded(left < KN_Q_GROUP ? left : KN_Q_GROUP);
        float d = tnl_f32_from_bf16((uint16_t)(group[2 * o] | group[2 * o + 1] << 8));
        for (int64_t i = 0; i < KN_Q_GROUP && at + i < cols; i++)
            dst[at + i] = d * (float)weight_of(t, group, g, o, i);
        group += kn_q_group_bytes(t, g);
    }
}

/* Rounded up, so that what follows in memory stays aligned. */
static size_t part(int64_t bytes) {
    return ((size_t)bytes + 63) / 64 * 64;
}

size_t kn_qrows_bytes(int64_t n, int64_t cols) {
    return part(n * kn_q_padded(cols)) + 2 * part(n * kn_q_groups(cols) * 4);
}

kn_qrows kn_qrows_at(void *memory, int64_t n, int64_t cols) {
    char *p = memory;
    kn_qrows x = {.ldq = kn_q_padded(cols), .groups = kn_q_groups(cols)};
    x.q = (int8_t *)p;
    x.scale = (float *)(p + part(n * x.ldq));
    x.sum = (int32_t *)(p + part(n * x.ldq) + part(n * x.groups * 4));
    return x;
}
