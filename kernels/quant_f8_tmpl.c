/* Packs rows of f8: a part of quant_tile_tmpl.c, compiled with it for each vector width. A row is
 * read in pieces and its errors are summed in sixteen lanes, so all widths give the same bytes. */

enum { F8_PIECE = 256, F8_SUMS = 16, F8_TRIES = 8 };

/* Scales to try, in max|x| / 448. Codes are floats: a scale twice as large changes next to nothing,
 * so these are one binade. The best of them leaves 2% less error than the first in rows of 4096
 * normally distributed weights, 7% in rows of 256, whose largest ones weigh more. */
static const float f8_tries[F8_TRIES] = {1.0f, 1.09f, 1.19f, 1.3f, 1.41f, 1.54f, 1.68f, 1.83f};

typedef struct f8_row {
    const char *src;
    kn_dtype from;
    int64_t cols;
    float up; /* a power of two: with it 1 <= max|x| < 2 */
} f8_row;

/* Inputs [at, at + F8_PIECE) times up; zero beyond the row. Returns how many there are. */
static int64_t read_f8(vec piece[F8_PIECE / LANES], const f8_row *r, int64_t at) {
    float *x = (float *)piece;
    int64_t n = r->cols - at < F8_PIECE ? r->cols - at : F8_PIECE;
    kn_dtype_to_f32(x, r->src + at * kn_dtypes[r->from].elem_bytes, r->from, (size_t)n);
    for (int64_t i = 0; i < n; i++)
        x[i] *= r->up;
    for (int64_t i = n; i < F8_PIECE; i++)
        x[i] = 0;
    return n;
}

static float f8_top(const f8_row *r) {
    vec piece[F8_PIECE / LANES], top = {0};
    float v[LANES], most = 0;
    for (int64_t at = 0; at < r->cols; at += F8_PIECE) {
        read_f8(piece, r, at);
        for (int i = 0; i < F8_PIECE / LANES; i++)
            top = vmax(top, vabs(piece[i]));
    }
    memcpy(v, &top, sizeof v);
    for (int i = 0; i < LANES; i++)
        most = v[i] > most ? v[i] : most;
    return most;
}

/* The e4m3 nearest to a >= 0, as in half.h. */
static inline vec nearest_e4m3(vec a) {
    ivec b = (ivec)a;
    vec small = (a + 0x1p14f) - 0x1p14f;
    vec large = (vec)((b + 0x7FFFF + ((b >> 20) & 1)) & ~0xFFFFF);
    return pick(a < 0x1p-6f, small, vmin(large, (vec){0} + TNL_E4M3_MOST));
}

/* Squared errors of a piece with scale d, added to sum. */
static void f8_errors(vec sum[F8_SUMS / LANES], const vec piece[F8_PIECE / LANES], float d) {
    const float inv = 1.0f / d;
    for (int i = 0; i < F8_PIECE / LANES; i += F8_SUMS / LANES)
        for (int k = 0; k < F8_SUMS / LANES; k++) {
            vec a = vabs(piece[i + k]), e = nearest_e4m3(a * inv) * d - a;
            sum[k] += e * e;
        }
}

/* The scale with the smallest squared error; `down` is 1 / up. */
static float f8_search(const f8_row *r, float top, float down) {
    vec piece[F8_PIECE / LANES], sum[F8_TRIES][F8_SUMS / LANES] = {0};
    float best = 0, least = 0;
    for (int64_t at = 0; at < r->cols; at += F8_PIECE) {
        read_f8(piece, r, at);
        for (int t = 0; t < F8_TRIES; t++)
            f8_errors(sum[t], piece, top / TNL_E4M3_MOST * f8_tries[t]);
    }
    for (int t = 0; t < F8_TRIES; t++) {
        float v[F8_SUMS], d = top / TNL_E4M3_MOST * f8_tries[t], error = 0;
        memcpy(v, sum[t], sizeof v);
        for (int i = 0; i < F8_SUMS; i++)
            error += v[i];
        if (t > 0 && (error >= least || d * down > KN_F8_SCALE_MOST))
            continue;
        least = error;
        best = d;
    }
    return best;
}

/* Codes of a row that is not zero; returns its scale. */
static float pack_f8_row(unsigned char *codes, f8_row r, int exponent) {
    vec piece[F8_PIECE / LANES];
    const float down = tnl_f32_from_bits((uint32_t)exponent << 23);
    r.up = tnl_f32_from_bits((uint32_t)(254 - exponent) << 23);
    const float d = f8_search(&r, f8_top(&r), down), inv = 1.0f / d;
    for (int64_t at = 0; at < r.cols; at += F8_PIECE) {
        const float *x = (const float *)piece;
        int64_t n = read_f8(piece, &r, at);
        for (int64_t i = 0; i < n; i++)
            codes[at + i] = tnl_e4m3_from_f32(x[i] * inv);
    }
    return d * down;
}

static void pack_f8(unsigned char *tile, const char *src, kn_dtype from, int64_t outs,
                    int64_t cols) {
    const int64_t stride = kn_f8_stride(cols), row_bytes = cols * kn_dtypes[from].elem_bytes;
    for (int64_t o = 0; o < KN_Q_OUTS; o++, tile += stride) {
        float d = 1;
        memset(tile, 0, (size_t)stride);
        if (o < outs) {
            f8_row r = {src + o * row_bytes, from, cols, 1};
            int exponent = (int)(tnl_bits_from_f32(f8_top(&r)) >> 23);
            d = exponent < TINY ? 1 : pack_f8_row(tile, r, exponent);
        }
        memcpy(tile + kn_f8_padded(cols), &d, sizeof d);
    }
}
