/* Narrowing a distribution: see rowcut.h for how an edge is found. */
#include "server/engine/sampling/rowcut.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The last element that stays. `about`: how many stay, not below it. */
typedef struct edge {
    float key;
    int64_t at;
    int64_t about;
} edge;

/* Where to look for an edge: the shortest beginning of the order whose weight reaches target. */
typedef struct search {
    const float *key;
    const float *w; /* NULL: each weighs 1 */
    int64_t n;
    float top; /* the largest key */
    eng_mass total, target;
    const float *lane_max; /* of key, or NULL */
    int64_t head;          /* how many of the largest to try first; 0: none */
    float floor;           /* what is below will not stay anyway; -FLT_MAX: all may */
} search;

static int64_t lanes_of(int64_t n) {
    return (n + ENG_ROW_BLOCK - 1) / ENG_ROW_BLOCK * ENG_ROW_LANES;
}

tnl_status eng_cutter_open(eng_cutter *c, int64_t vocab) {
    size_t n = (size_t)vocab, lanes = (size_t)lanes_of(vocab);
    *c = (eng_cutter){.math = eng_rowmath_best()};
    c->limit = vocab / 128 < 8 ? 8 : vocab / 128 < 512 ? vocab / 128 : 512;
    c->lane_max = calloc(lanes, sizeof *c->lane_max);
    c->select = calloc(lanes * 2, sizeof *c->select);
    c->block = calloc(n / ENG_ROW_BLOCK + 1, sizeof *c->block);
    c->w = calloc(n, sizeof *c->w);
    c->key = calloc(n, sizeof *c->key);
    c->kept = calloc(n, sizeof *c->kept);
    c->kept_id = calloc(n, sizeof *c->kept_id);
    c->at = calloc(n, sizeof *c->at);
    c->order = calloc(n, sizeof *c->order);
    if (c->lane_max && c->select && c->block && c->w && c->key && c->kept && c->kept_id && c->at &&
        c->order)
        return TNL_OK;
    eng_cutter_close(c);
    return TNL_E_NOMEM;
}

void eng_cutter_close(eng_cutter *c) {
    free(c->lane_max);
    free(c->select);
    free(c->block);
    free(c->w);
    free(c->key);
    free(c->kept);
    free(c->kept_id);
    free(c->at);
    free(c->order);
    *c = (eng_cutter){0};
}

/* ---- among few ---- */

static bool before(const eng_ranked *a, const eng_ranked *b) {
    return a->key > b->key || (a->key == b->key && a->at < b->at);
}

/* Moves what comes before a[at] to the front of a[lo..hi); returns where the pivot landed and the
 * weight in front of it. */
static int64_t split(eng_ranked *a, int64_t lo, int64_t hi, int64_t at, eng_mass *front) {
    eng_ranked pivot = a[at];
    a[at] = a[hi - 1];
    int64_t to = lo;
    eng_mass sum = 0;
    for (int64_t i = lo; i < hi - 1; i++) {
        eng_ranked r = a[i];
        if (!before(&r, &pivot))
            continue;
        sum += r.mass;
        a[i] = a[to];
        a[to++] = r;
    }
    a[hi - 1] = a[to];
    a[to] = pivot;
    *front = sum;
    return to;
}

/* The index, once a is partitioned, of the element at which the running weight first reaches
 * target > 0; of the last one if there is not that much. Expected linear time. */
static int64_t cut_at(eng_ranked *a, int64_t n, eng_mass target) {
    int64_t lo = 0, hi = n, mid = 0;
    uint64_t r = 1;
    eng_mass acc = 0;
    while (lo < hi) {
        r = r * 6364136223846793005u + 1442695040888963407u;
        eng_mass front;
        mid = split(a, lo, hi, lo + (int64_t)((r >> 33) % (uint64_t)(hi - lo)), &front);
        if (acc + front >= target) {
            hi = mid;
        } else if (acc + front + a[mid].mass >= target || mid + 1 == hi) {
            return mid;
        } else {
            acc = acc + front + a[mid].mass;
            lo = mid + 1;
        }
    }
    return mid;
}

static eng_ranked ranked(const search *s, int32_t i) {
    return (eng_ranked){s->key[i], i, s->w ? eng_mass_of(s->w[i]) : 1};
}

/* The edge among the m >= 1 elements listed in c->at, `above` more being in front of them. */
static edge edge_among(eng_cutter *c, const search *s, int64_t m, int64_t above, eng_mass target) {
    for (int64_t j = 0; j < m; j++)
        c->order[j] = ranked(s, c->at[j]);
    int64_t k = cut_at(c->order, m, target);
    return (edge){c->order[k].key, c->order[k].at, above + k + 1};
}

/* ---- among many ---- */

/* The k-th largest of a[0..n), 1 <= k <= n; b is room for n more. Both are overwritten. */
static float kth_largest(float *a, float *b, int64_t n, int64_t k) {
    for (;;) {
        float lo = fminf(a[0], a[n - 1]), hi = fmaxf(a[0], a[n - 1]);
        float pivot = fmaxf(lo, fminf(hi, a[n / 2]));
        int64_t above = 0, below = 0;
        for (int64_t i = 0; i < n; i++) { /* no branches: they would be guessed wrong */
            float v = a[i];
            b[above] = v;
            above += v > pivot;
            a[below] = v;
            below += v < pivot;
        }
        if (k <= above) {
            float *t = a;
            a = b;
            b = t;
            n = above;
        } else if (k <= n - below) {
            return pivot;
        } else {
            k -= n - below;
            n = below;
        }
    }
}

static float head_from(eng_cutter *c, const float *lane_max, int64_t n, int64_t k) {
    int64_t lanes = lanes_of(n);
    if (k > lanes)
        return -FLT_MAX;
    memcpy(c->select, lane_max, (size_t)lanes * sizeof *lane_max);
    return fmaxf(kth_largest(c->select, c->select + lanes, lanes, k), -FLT_MAX);
}

int64_t eng_cut_head(eng_cutter *c, const float *x, int64_t n, int64_t k) {
    return c->math->collect(c->at, x, c->lane_max, n, head_from(c, c->lane_max, n, k), INFINITY);
}

/* A threshold on the way to the edge: mass and count of the keys from it on. */
typedef struct bound {
    float key;
    eng_mass mass;
    int64_t count;
} bound;

/* Order of floats as order of integers, and back. */
static int64_t ordinal(float x) {
    int32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits < 0 ? (int64_t)INT32_MIN - bits : bits;
}

static float of_ordinal(int64_t k) {
    int32_t bits = (int32_t)(k < 0 ? (int64_t)INT32_MIN - k : k);
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* Keys between which a sample of every so many elements expects the edge, low and high, then two
 * lower ones in case it errs. False: there are too few to tell. */
static bool guess(eng_cutter *c, const search *s, const bound *lo, const bound *hi, float at[4]) {
    enum { SAMPLE = 256, FEW = 32 };
    double sum = 0, squares = 0;
    double share = (double)(s->target - hi->mass) / (double)(lo->mass - hi->mass);
    int64_t m = 0, stride = s->n / SAMPLE + 1;
    at[3] = s->top;
    for (int64_t i = 0; i < s->n; i += stride)
        if (s->key[i] < hi->key && s->key[i] >= lo->key) {
            eng_ranked one = c->order[m++] = ranked(s, (int32_t)i);
            sum += (double)one.mass;
            squares += (double)one.mass * (double)one.mass;
            at[3] = fminf(at[3], s->key[i]);
        }
    if (m < FEW || !(squares > 0))
        return false;
    double sigma = sqrt(fmax(share * (1 - share), 0) * squares) / sum, spread = 0.01 + 2 * sigma;
    at[0] = c->order[cut_at(c->order, m, (eng_mass)(fmin(share + spread, 1) * sum))].key;
    at[1] = c->order[cut_at(c->order, m, (eng_mass)(fmax(share - spread, 0) * sum))].key;
    at[2] = c->order[cut_at(c->order, m, (eng_mass)(fmin(share + 3 * spread, 1) * sum))].key;
    return true;
}

/* Mass and count from a key between lo and hi on, which then replace one of them: 1, lo; -1, hi. */
static int probe(eng_cutter *c, const search *s, float key, bound *lo, bound *hi) {
    bound b = {.key = key};
    b.mass = c->math->mass_from(&b.count, s->key, s->w, s->n, key);
    *(b.mass >= s->target ? lo : hi) = b;
    return b.mass >= s->target ? 1 : -1;
}

/* ln(mass / rest), nearly straight as a function of the key for most rows, kept from infinity. */
static double straightened(const search *s, double mass) {
    double total = (double)s->total, rest = total - mass, least = 1e-6 * total;
    return eng_log(fmax(mass, least)) - eng_log(fmax(rest, least));
}

/* Where to probe next, between lo and hi: by false position, aiming a little past the target on
 * the side that did not move last, so that the two sides meet about it, and four times as far
 * each time that side would not move. Past PATIENCE the ordinals are halved, which ends any
 * search. */
static float next_probe(const eng_cutter *c, const search *s, const bound *lo, const bound *hi,
                        int run, int step) {
    enum { PATIENCE = 16 };
    int64_t first = ordinal(lo->key) + 1, last = ordinal(hi->key) - 1, k;
    double from = (double)lo->key, to = (double)fminf(hi->key, FLT_MAX);
    double each = (double)(lo->mass - hi->mass) / (double)(lo->count - hi->count);
    double aside = each * (double)c->limit / 3;
    for (int i = 1; i < run || i < -run; i++)
        aside *= 4;
    double at_lo = straightened(s, (double)lo->mass), at_hi = straightened(s, (double)hi->mass);
    double aim = straightened(s, (double)s->target + (run > 0 ? -aside : aside));
    if (step > PATIENCE)
        k = first + (last - first) / 2;
    else if (!(aim < at_lo && aim > at_hi))
        k = ordinal((float)(from / 2 + to / 2));
    else
        k = ordinal((float)(from + (at_lo - aim) / (at_lo - at_hi) * (to - from)));
    return of_ordinal(k < first ? first : k > last ? last : k);
}

static bool close_by(const eng_cutter *c, const bound *lo, const bound *hi) {
    return lo->count - hi->count <= c->limit || ordinal(hi->key) - ordinal(lo->key) < 2;
}

/* Brings the sides together until few elements, or equal ones, lie between. */
static void close_in(eng_cutter *c, const search *s, bound *lo, bound *hi) {
    float at[4];
    if (!close_by(c, lo, hi) && guess(c, s, lo, hi, at))
        for (int i = 0; i < 4; i++)
            if (at[i] > lo->key && at[i] < hi->key && (i < 2 || lo->key == -FLT_MAX))
                (void)probe(c, s, at[i], lo, hi);
    for (int step = 0, run = 0; !close_by(c, lo, hi); step++) {
        int way = probe(c, s, next_probe(c, s, lo, hi, run, step), lo, hi);
        run = run * way > 0 ? run + way : way;
    }
}

/* The head of the order: its mass, and in c->at its elements. */
static bound head_bound(eng_cutter *c, const search *s) {
    bound b = {.key = head_from(c, s->lane_max, s->n, s->head)};
    b.count = c->math->collect(c->at, s->key, s->lane_max, s->n, b.key, INFINITY);
    for (int64_t j = 0; j < b.count; j++)
        b.mass += ranked(s, c->at[j]).mass;
    return b;
}

static edge find_edge(eng_cutter *c, const search *s) {
    bound lo = {-FLT_MAX, s->total, s->n};
    bound hi = {of_ordinal(ordinal(s->top) + 1), 0, 0};
    if (s->head > 0 && s->n > c->limit) {
        hi = head_bound(c, s);
        if (hi.mass >= s->target)
            return edge_among(c, s, hi.count, 0, s->target);
    }
    if (s->floor >= hi.key)
        return (edge){s->floor, s->n, hi.count};
    if (s->floor > lo.key)
        (void)probe(c, s, s->floor, &lo, &hi);
    if (hi.key == s->floor)
        return (edge){s->floor, s->n, hi.count};
    close_in(c, s, &lo, &hi);
    int64_t m = c->math->collect(c->at, s->key, NULL, s->n, lo.key, hi.key);
    if (m == 0) /* as many are wanted as there are, and more */
        return (edge){hi.key, s->n, hi.count};
    return edge_among(c, s, m, hi.count, s->target - hi.mass);
}

/* ---- what stays ---- */

static void pack(eng_cutter *c, eng_row *r, const float *key, edge e) {
    int64_t m = 0;
    int64_t found = c->math->collect(c->at, key, r->mapped && key == r->x ? c->lane_max : NULL,
                                     r->n, e.key, INFINITY);
    for (int64_t j = 0; j < found; j++) { /* in place: m <= j <= at[j] */
        int32_t i = c->at[j];
        if (key[i] == e.key && i > e.at)
            continue;
        float x = r->x[i];
        c->kept_id[m] = r->id ? r->id[i] : i;
        if (r->w)
            c->w[m] = r->w[i];
        c->kept[m++] = x;
    }
    r->id = c->kept_id;
    r->n = m;
}

static void mask(eng_cutter *c, eng_row *r, const float *key, edge e, bool last) {
    if (r->w)
        c->math->keep(c->w, r->w, key, r->n, e.key, e.at, 0.0f);
    if (!r->w || !last)
        c->math->keep(c->kept, r->x, key, r->n, e.key, e.at, -INFINITY);
}

/* `last`: weights are all that the draw will look at, where there are any. */
static void narrow(eng_cutter *c, eng_row *r, const float *key, edge e, bool last) {
    if (r->id || e.about <= r->n / 32)
        pack(c, r, key, e);
    else
        mask(c, r, key, e, last);
    r->x = c->kept;
    r->w = r->w ? c->w : NULL;
    r->summed = r->mapped = false;
}

static void weigh(eng_cutter *c, eng_row *r) {
    if (!r->w)
        r->sum = c->math->exp_sums(c->block, c->w, r->x, r->n, r->max, r->inv_t);
    else if (!r->summed)
        r->sum = c->math->sums(c->block, r->w, r->n);
    r->w = r->w ? r->w : c->w;
    r->summed = true;
}

static eng_mass share_of(eng_mass sum, float p) {
    eng_mass share = (eng_mass)((double)p * (double)sum);
    return share < 1 ? 1 : share;
}

void eng_cut_top_k(eng_cutter *c, eng_row *r, int64_t k) {
    if (k >= r->n)
        return;
    bool head = r->mapped && k <= lanes_of(r->n) / 2;
    const search s = {r->x, NULL, r->n, r->max, r->n, k, c->lane_max, head ? k : 0, -FLT_MAX};
    narrow(c, r, r->x, find_edge(c, &s), false);
}

/* -ln p = ln sum - z, and the entropy is its mean: so |-ln p - entropy| = |z - mean of z|. */
void eng_cut_typical_p(eng_cutter *c, eng_row *r, float p) {
    weigh(c, r);
    float top, mean = (float)(c->math->mean_sum(r->w, r->x, r->n, r->max, r->inv_t) /
                              eng_mass_value(r->sum));
    c->math->distances(c->key, r->x, r->n, r->max, r->inv_t, mean);
    (void)c->math->maxima(c->lane_max, &top, c->key, r->n);
    r->mapped = false;
    const search s = {
        c->key,  r->w, r->n, top, r->sum, share_of(r->sum, p), c->lane_max, lanes_of(r->n) / 16,
        -FLT_MAX};
    narrow(c, r, c->key, find_edge(c, &s), false);
    r->w = NULL; /* the likeliest may be gone: weights start anew */
    (void)c->math->maxima(c->lane_max, &r->max, r->x, r->n);
    r->mapped = true;
}

void eng_cut_top_p_min_p(eng_cutter *c, eng_row *r, float top_p, float min_p) {
    /* w >= min_p, the largest w being 1, as a bound on the logit */
    float floor = -FLT_MAX;
    if (min_p > 0.0f)
        floor = (float)fmax((double)r->max + eng_log((double)min_p) / (double)r->inv_t,
                            -(double)FLT_MAX);
    edge e = {floor, r->n, r->n};
    if (top_p < 1.0f) {
        weigh(c, r);
        const search s = {r->x,        r->w,
                          r->n,        r->max,
                          r->sum,      share_of(r->sum, top_p),
                          c->lane_max, r->mapped ? lanes_of(r->n) / 16 : 0,
                          floor};
        edge found = find_edge(c, &s);
        e.about = found.about;
        e = found.key >= floor ? found : e;
    } else {
        (void)c->math->mass_from(&e.about, r->x, NULL, r->n, floor);
    }
    narrow(c, r, r->x, e, true);
}

/* ---- the draw ---- */

/* Find the block by its sum, then the token in it. Rounding of the target must not carry it past
 * the end. */
int32_t eng_cut_draw(eng_cutter *c, eng_row *r, double u) {
    weigh(c, r);
    eng_mass target = (eng_mass)(u * (double)r->sum), acc = 0;
    target = target < r->sum ? target : r->sum - 1;
    int64_t b = 0;
    while (acc + c->block[b] <= target)
        acc += c->block[b++];
    int64_t i = b * ENG_ROW_BLOCK;
    while ((acc += eng_mass_of(r->w[i])) <= target)
        i++;
    return r->id ? r->id[i] : (int32_t)i;
}
