/* Sampling on the device. A block of threads takes a row, in passes over it, the first of which
 * brings it near:
 *   1. is every element finite; the largest, and the lowest id that has it
 *   2. the mass at temperature 1, for the logprob
 *   3. top_k and top_p each look for their edge, the last element that stays: a histogram of counts
 *      or of masses over BINS stretches between the largest element and those that weigh nothing;
 *      the elements of the stretch that holds the edge are listed, and the edge is found among them
 *   4. the masses of units of UNIT elements that stay; the draw finds its unit, then its element
 * A stretch with more than LISTED elements is divided again, by ordinals of floats, until they are
 * few, or all equal; then the edge is so-and-so many from the first.
 *
 * Masses add up exactly, so what is found does not depend on how: it is the host's choice, bit for
 * bit. What weighs nothing is never in question: no draw can reach it, and no edge but that of a
 * top_k which keeps all the others. */
#include "kernels/cuda/pick_cuda.h"

#include "kernels/cuda/pick_row.cuh"

enum {
    UNIT = 512, /* elements that a warp takes at a time */
    EACH = UNIT / PICK_WARP,
    BINS = 2048,
    LISTED = 256,
    LEAST_WARPS = 4,
};

static_assert(KN_PICK_MOST / UNIT <= BINS, "masses of units lie where the histogram was");

struct pick_args {
    kn_picked *out;
    const float *x;
    int64_t ldx;
    int n;
    const kn_pick_how *how;
};

struct pick_shared {
    uint64_t parts[PICK_MOST_WARPS];
    union {
        struct {
            uint32_t low[BINS], high[BINS]; /* halves of a mass or of a count */
        } bin;
        uint64_t unit[BINS]; /* masses */
    };
    /* elements of a stretch, in any order */
    uint64_t list_mass[LISTED];
    int32_t list_key[LISTED];
    int list_at[LISTED];
    uint32_t listed; /* how many there are, with those that found no room */
    /* where the running mass passes its target: the position, and what lies before it */
    int at;
    uint64_t before;
    int32_t edge_key;
    int edge_at;
    /* first pass, by warps */
    float best[PICK_MOST_WARPS], least[PICK_MOST_WARPS];
    int best_at[PICK_MOST_WARPS];
    uint32_t bad[PICK_MOST_WARPS];
};

/* ---- passes ---- */

KN_DEVICE int units_of(int n) {
    return (n + UNIT - 1) / UNIT;
}

/* A unit's elements as a warp takes them, lane by lane, so that a read is one stretch of memory;
 * behind the end there is `otherwise`. */
KN_DEVICE void load_unit(float x[EACH], const pick_row &r, int unit, float otherwise) {
    const int first = unit * UNIT + pick_lane();
    KN_UNROLL
    for (int j = 0; j < EACH; j++) {
        const int i = first + j * PICK_WARP;
        x[j] = i < r.n ? r.x[i] : otherwise;
    }
}

KN_DEVICE int index_in_unit(int unit, int j) {
    return unit * UNIT + j * PICK_WARP + pick_lane();
}

/* ---- the first pass ---- */

struct looked {
    float max, min;
    int at; /* the first that has max */
    uint32_t bad;
};

KN_DEVICE void look_also(looked *l, const looked &o) {
    if (o.max > l->max || (o.max == l->max && o.at < l->at)) {
        l->max = o.max;
        l->at = o.at;
    }
    l->min = o.min < l->min ? o.min : l->min;
    l->bad |= o.bad;
}

/* Adding one to the exponent carries into the sign exactly for infinities and NaNs. */
KN_DEVICE looked look_at_units(const pick_row &r) {
    looked l = {-INFINITY, INFINITY, r.n, 0};
    const float first = r.x[0];
    for (int u = pick_warp(); u < units_of(r.n); u += pick_warps()) {
        float x[EACH];
        load_unit(x, r, u, first);
        KN_UNROLL
        for (int j = 0; j < EACH; j++) {
            l.bad |= (kn_bits_of_float(x[j]) & 0x7FFFFFFFu) + 0x00800000u;
            l.at = x[j] > l.max ? index_in_unit(u, j) : l.at;
            l.max = x[j] > l.max ? x[j] : l.max;
            l.min = x[j] < l.min ? x[j] : l.min;
        }
    }
    return l;
}

KN_DEVICE looked look(const pick_row &r, pick_shared *sh) {
    looked l = look_at_units(r);
    KN_UNROLL
    for (int apart = 1; apart < PICK_WARP; apart *= 2)
        look_also(&l, looked{kn_shfl_xor(l.max, apart), kn_shfl_xor(l.min, apart),
                             (int)kn_shfl_xor_bits((uint32_t)l.at, apart),
                             kn_shfl_xor_bits(l.bad, apart)});
    if (pick_lane() == 0) {
        sh->best[pick_warp()] = l.max;
        sh->best_at[pick_warp()] = l.at;
        sh->least[pick_warp()] = l.min;
        sh->bad[pick_warp()] = l.bad;
    }
    kn_sync_block();
    for (int i = 0; i < pick_warps(); i++)
        look_also(&l, looked{sh->best[i], sh->least[i], sh->best_at[i], sh->bad[i]});
    return l;
}

/* ---- masses by units, and the element where they pass a target ---- */

/* What is summed up for the draw, and for the mass of a row. */
struct drawn {
    const pick_row &r;
};

KN_DEVICE pick_parts part_of(const drawn &f, float x, int i) {
    return pick_kept(f.r, x, i) ? pick_weight(f.r, x) : pick_parts{0, 0};
}

/* One for each that has this key. */
struct equal {
    const pick_row &r;
    int32_t key;
};

KN_DEVICE pick_parts part_of(const equal &f, float x, int i) {
    return pick_parts{0, pick_ordinal(x) == f.key && pick_kept(f.r, x, i) ? 1 : 0};
}

/* Positions 0..count-1 in runs, one for each thread. */
KN_DEVICE int run_of(int count) {
    return (count + (int)blockDim.x - 1) / (int)blockDim.x;
}

KN_DEVICE uint64_t value_of_bin(const pick_shared *sh, int b) {
    return (uint64_t)sh->bin.high[b] << 32 | sh->bin.low[b];
}

KN_DEVICE uint64_t value_of_unit(const pick_shared *sh, int u) {
    return sh->unit[u];
}

typedef uint64_t value_fn(const pick_shared *sh, int i);

template <value_fn value> KN_DEVICE pick_scan scan_values(pick_shared *sh, int count) {
    const int run = run_of(count);
    uint64_t mine = 0;
    kn_sync_block(); /* values have been written */
    for (int i = (int)threadIdx.x * run; i < ((int)threadIdx.x + 1) * run && i < count; i++)
        mine += value(sh, i);
    return pick_scan_block(mine, sh->parts);
}

/* sh->at and before: the first position with which the running sum exceeds `target`. The scan is
 * that of the values. */
template <value_fn value>
KN_DEVICE void pass_target(pick_shared *sh, int count, pick_scan s, uint64_t target) {
    const int run = run_of(count);
    for (int i = (int)threadIdx.x * run; i < ((int)threadIdx.x + 1) * run && i < count; i++) {
        const uint64_t v = value(sh, i);
        if (s.before <= target && target < s.before + v) {
            sh->at = i;
            sh->before = s.before;
        }
        s.before += v;
    }
    kn_sync_block();
}

/* Fills sh->unit and scans it. */
template <typename F>
KN_DEVICE pick_scan sum_units(const pick_row &r, pick_shared *sh, const F &f) {
    kn_sync_block(); /* the histogram has been read */
    for (int u = pick_warp(); u < units_of(r.n); u += pick_warps()) {
        float x[EACH];
        pick_parts sum = {0, 0};
        load_unit(x, r, u, -INFINITY);
        KN_UNROLL
        for (int j = 0; j < EACH; j++) {
            const pick_parts p = part_of(f, x[j], index_in_unit(u, j));
            sum.hi += p.hi;
            sum.lo += p.lo;
        }
        const pick_scan s = pick_scan_warp(pick_mass(sum));
        if (pick_lane() == 0)
            sh->unit[u] = s.all;
    }
    return scan_values<value_of_unit>(sh, units_of(r.n));
}

/* The first element with which the running mass exceeds `target`; the scan is that of sum_units.
 * The first warp looks through its unit, each lane at EACH elements in a row. */
template <typename F>
KN_DEVICE int find_element(const pick_row &r, pick_shared *sh, const F &f, pick_scan s,
                           uint64_t target) {
    pass_target<value_of_unit>(sh, units_of(r.n), s, target);
    if (pick_warp() == 0) {
        const int first = sh->at * UNIT + pick_lane() * EACH;
        uint64_t mine = 0;
        for (int i = first; i < first + EACH && i < r.n; i++)
            mine += pick_mass(part_of(f, r.x[i], i));
        uint64_t run = sh->before + pick_scan_warp(mine).before;
        for (int i = first; i < first + EACH && i < r.n; i++) {
            const uint64_t v = pick_mass(part_of(f, r.x[i], i));
            if (run <= target && target < run + v)
                sh->edge_at = i;
            run += v;
        }
    }
    kn_sync_block();
    return sh->edge_at;
}

/* ---- the edge ---- */

/* The stretch of the order that is looked at, cut in BINS, descending. */
struct stretch {
    bool linear;    /* bins are equal parts of what lies between max and max - BINS / scale */
    float scale;    /* linear */
    int32_t lo, hi; /* else: ordinals, both in it */
    int shift;      /* so many bits of them are one bin */
    int bin;        /* the one that holds the edge */
};

/* BINS: outside. A larger element is in no later bin. */
KN_DEVICE int bin_of(const pick_row &r, const stretch &s, float x) {
    if (s.linear) {
        const float at = kn_mul(kn_sub(r.max, x), s.scale);
        return at < (float)BINS ? (int)at : BINS; /* not at all if scale is 0 and x infinite */
    }
    const int32_t key = pick_ordinal(x);
    return key < s.lo || key > s.hi ? BINS : (int)(((uint32_t)s.hi - (uint32_t)key) >> s.shift);
}

/* What is 28 / inv_t below max weighs exp(-28), less than half a unit. */
KN_DEVICE stretch whole_stretch(const pick_row &r, float min, float temperature) {
    const float range = kn_sub(r.max, min), far = kn_mul(28.0f, temperature);
    const float window = range < far ? range : far, scale = kn_div(BINS * (1 - 0x1p-20f), window);
    stretch s = {true, 0, 0, 0, 0, 0};
    if (window > 0)
        s.scale = scale < FLT_MAX ? scale : FLT_MAX;
    return s;
}

KN_DEVICE void add_to_bin(pick_shared *sh, int b, uint64_t value) {
    const uint32_t low = (uint32_t)value;
    const uint32_t carry = kn_shared_add(&sh->bin.low[b], low) > ~low ? 1 : 0;
    const uint32_t high = (uint32_t)(value >> 32) + carry;
    if (high > 0)
        kn_shared_add(&sh->bin.high[b], high);
}

/* The histogram: of masses, or of counts. */
KN_DEVICE pick_scan fill_bins(const pick_row &r, pick_shared *sh, const stretch &s, bool masses) {
    kn_sync_block(); /* what lay there has been read */
    for (int b = (int)threadIdx.x; b < BINS; b += (int)blockDim.x)
        sh->bin.low[b] = sh->bin.high[b] = 0;
    kn_sync_block();
    for (int u = pick_warp(); u < units_of(r.n); u += pick_warps()) {
        float x[EACH];
        load_unit(x, r, u, -INFINITY);
        KN_UNROLL
        for (int j = 0; j < EACH; j++) {
            const int b = bin_of(r, s, x[j]);
            if (b == BINS || !pick_kept(r, x[j], index_in_unit(u, j)))
                continue;
            const uint64_t value = masses ? pick_mass(pick_weight(r, x[j])) : 1;
            if (value > 0)
                add_to_bin(sh, b, value);
        }
    }
    return scan_values<value_of_bin>(sh, BINS);
}

/* The elements of bin s.bin, as far as there is room. */
KN_DEVICE void list_bin(const pick_row &r, pick_shared *sh, const stretch &s, bool masses) {
    if (threadIdx.x == 0)
        sh->listed = 0;
    kn_sync_block();
    for (int u = pick_warp(); u < units_of(r.n); u += pick_warps()) {
        float x[EACH];
        load_unit(x, r, u, -INFINITY);
        KN_UNROLL
        for (int j = 0; j < EACH; j++) {
            const int i = index_in_unit(u, j);
            if (bin_of(r, s, x[j]) != s.bin || !pick_kept(r, x[j], i))
                continue;
            const uint32_t to = kn_shared_add(&sh->listed, 1);
            if (to < LISTED) {
                sh->list_key[to] = pick_ordinal(x[j]);
                sh->list_at[to] = i;
                sh->list_mass[to] = masses ? pick_mass(pick_weight(r, x[j])) : 1;
            }
        }
    }
    kn_sync_block();
}

/* Each element of the list finds what is in front of it; at one of them the target is passed. */
KN_DEVICE void edge_of_list(pick_shared *sh, uint64_t target) {
    const int n = (int)sh->listed;
    for (int i = (int)threadIdx.x; i < n; i += (int)blockDim.x) {
        const int32_t key = sh->list_key[i];
        const int at = sh->list_at[i];
        uint64_t front = sh->before;
        for (int j = 0; j < n; j++) {
            const int32_t other = sh->list_key[j];
            front += other > key || (other == key && sh->list_at[j] < at) ? sh->list_mass[j] : 0;
        }
        if (front <= target && target < front + sh->list_mass[i]) {
            sh->edge_key = key;
            sh->edge_at = at;
        }
    }
    kn_sync_block();
}

/* The lowest ordinal whose bin is `bin` or an earlier one. */
KN_DEVICE int32_t lowest_in(const pick_row &r, const stretch &s, int bin) {
    int64_t lo = pick_ordinal(-FLT_MAX), hi = pick_ordinal(r.max);
    while (lo < hi) {
        const int64_t mid = lo + (hi - lo) / 2;
        if (bin_of(r, s, pick_of_ordinal((int32_t)mid)) <= bin)
            hi = mid;
        else
            lo = mid + 1;
    }
    return (int32_t)lo;
}

/* From a stretch to its bin, cut anew. */
KN_DEVICE void zoom_in(const pick_row &r, stretch *s) {
    if (s->linear) {
        const int32_t lo = lowest_in(r, *s, s->bin);
        s->hi = s->bin == 0 ? pick_ordinal(r.max) : lowest_in(r, *s, s->bin - 1) - 1;
        s->lo = lo;
        s->linear = false;
    } else {
        const uint32_t hi = (uint32_t)s->hi - ((uint32_t)s->bin << s->shift);
        const uint32_t left = hi - (uint32_t)s->lo, size = (1u << s->shift) - 1;
        s->hi = (int32_t)hi;
        s->lo = (int32_t)(hi - (left < size ? left : size));
    }
    s->shift = 0;
    while ((((uint32_t)s->hi - (uint32_t)s->lo) >> s->shift) >= BINS)
        s->shift++;
}

/* Too many for a list, and all of one key: the edge is so far from the first of them. */
KN_DEVICE void edge_of_equals(const pick_row &r, pick_shared *sh, int32_t key, bool masses,
                              uint64_t target) {
    const uint64_t each = masses ? pick_mass(pick_weight(r, pick_of_ordinal(key))) : 1;
    const uint64_t nth = (target - sh->before) / each;
    const equal f = {r, key};
    const pick_scan s = sum_units(r, sh, f);
    (void)find_element(r, sh, f, s, nth);
    if (threadIdx.x == 0)
        sh->edge_key = key;
    kn_sync_block();
}

/* The edge at which the running mass (or count) exceeds `target`, which is less than there is; the
 * scan is that of the bins. */
KN_DEVICE void find_edge(pick_row *r, pick_shared *sh, stretch s, pick_scan bins, bool masses,
                         uint64_t target) {
    for (;;) {
        pass_target<value_of_bin>(sh, BINS, bins, target);
        s.bin = sh->at;
        list_bin(*r, sh, s, masses);
        if (sh->listed <= LISTED) {
            edge_of_list(sh, target);
            break;
        }
        zoom_in(*r, &s);
        if (s.lo == s.hi) {
            edge_of_equals(*r, sh, s.lo, masses, target);
            break;
        }
        const uint64_t before = sh->before;
        bins = fill_bins(*r, sh, s, masses);
        bins.before += before;
    }
    r->edge_key = sh->edge_key;
    r->edge_at = sh->edge_at;
    kn_sync_block(); /* all have read it */
}

KN_DEVICE void cut_top_k(pick_row *r, pick_shared *sh, const stretch &s, int32_t k) {
    const pick_scan bins = fill_bins(*r, sh, s, false);
    if ((uint64_t)k < bins.all)
        find_edge(r, sh, s, bins, false, (uint64_t)k - 1);
}

/* Returns the mass of which it takes its share. */
KN_DEVICE uint64_t cut_top_p(pick_row *r, pick_shared *sh, const stretch &s, float p) {
    const pick_scan bins = fill_bins(*r, sh, s, true);
    const uint64_t share = (uint64_t)kn_mul((double)p, (double)bins.all);
    find_edge(r, sh, s, bins, true, share > 0 ? share - 1 : 0);
    return bins.all;
}

KN_DEVICE void cut_min_p(pick_row *r, pick_shared *sh, float p) {
    if (threadIdx.x == 0) {
        const double below = kn_div(pick_log((double)p), (double)r->inv_t);
        const double floor = kn_add((double)r->max, below), least = -(double)FLT_MAX;
        sh->edge_key = pick_ordinal((float)(floor > least ? floor : least));
    }
    kn_sync_block();
    if (sh->edge_key > r->edge_key) {
        r->edge_key = sh->edge_key;
        r->edge_at = r->n;
    }
}

/* ---- a row ---- */

/* The mass of the row at temperature 1. */
KN_DEVICE uint64_t raw_mass(pick_row r, pick_shared *sh) {
    r.inv_t = 1.0f;
    r.edge_key = INT32_MIN;
    r.edge_at = r.n;
    return sum_units(r, sh, drawn{r}).all;
}

struct chosen {
    int at;
    uint64_t raw; /* the mass at temperature 1; 0: not known yet */
};

KN_DEVICE chosen choose(pick_row r, pick_shared *sh, const kn_pick_how &how, float min) {
    chosen c = {0, 0};
    r.inv_t = kn_div(1.0f, how.temperature);
    const stretch whole = whole_stretch(r, min, how.temperature);
    if (how.top_k > 0 && how.top_k < r.n)
        cut_top_k(&r, sh, whole, how.top_k);
    const bool all = r.edge_key == INT32_MIN && r.inv_t == 1.0f;
    if (how.top_p < 1.0f) {
        const uint64_t mass = cut_top_p(&r, sh, whole, how.top_p);
        c.raw = all ? mass : 0;
    }
    if (how.min_p > 0.0f)
        cut_min_p(&r, sh, how.min_p);
    const pick_scan s = sum_units(r, sh, drawn{r});
    if (r.edge_key == INT32_MIN && r.inv_t == 1.0f)
        c.raw = s.all;
    c.at = find_element(r, sh, drawn{r}, s, pick_share(how.u, s.all));
    return c;
}

KN_DEVICE float logprob_of(const pick_row &r, int at, uint64_t raw) {
    const double log_sum = pick_log(pick_mass_value(raw));
    return (float)kn_sub(kn_sub((double)r.x[at], (double)r.max), log_sum);
}

static __global__ void __launch_bounds__(PICK_WARP *PICK_MOST_WARPS) pick(pick_args a) {
    KN_SHARED(memory);
    kn_depend();
    pick_shared *sh = (pick_shared *)memory;
    const kn_pick_how how = a.how[blockIdx.x];
    pick_row r = {a.x + blockIdx.x * a.ldx, a.n, 0, 1.0f, INT32_MIN, a.n};
    const looked l = look(r, sh);
    kn_picked out = {-1, 0.0f, (l.bad & 0x80000000u) == 0};
    if (out.finite && how.kind != KN_PICK_LOOK) {
        chosen c = {l.at, 0};
        r.max = l.max;
        if (how.kind == KN_PICK_DRAW)
            c = choose(r, sh, how, l.min);
        if (c.raw == 0)
            c.raw = raw_mass(r, sh);
        out.id = c.at;
        if (threadIdx.x == 0)
            out.logprob = logprob_of(r, c.at, c.raw);
    }
    if (threadIdx.x == 0)
        a.out[blockIdx.x] = out;
}

void kn_cuda_pick(kn_picked *out, const float *x, int64_t ldx, int64_t n, int64_t dim,
                  const kn_pick_how *how, kn_cuda_stream stream) {
    const int64_t units = (dim + UNIT - 1) / UNIT;
    const int64_t some = units < LEAST_WARPS ? (int64_t)LEAST_WARPS : units;
    const int64_t warps = some < PICK_MOST_WARPS ? some : (int64_t)PICK_MOST_WARPS;
    const pick_args a = {out, x, ldx, (int)dim, how};
    if (n > 0)
        kn_launch(pick, dim3((unsigned)n), dim3((unsigned)(warps * PICK_WARP)), sizeof(pick_shared),
                  (cudaStream_t)stream, a);
}
