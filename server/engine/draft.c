/* The index and the guesses: see draft.h. */
#include "server/engine/draft.h"

#include <stdlib.h>
#include <string.h>

/* Longer grams first: the longest match found is taken. */
static const int gram_len[ENG_DRAFT_GRAMS] = {8, 4, 2};

/* A match of at least `reach` tokens is of this kind; `share` is where its estimate starts: what
 * was counted on stories, where matches are chance, but for the longest. */
static const struct {
    int reach;
    float share;
} kinds[ENG_DRAFT_KINDS] = {{2, 0.2f}, {4, 0.45f}, {8, 0.6f}, {16, 0.9f}};

enum {
    MAX_REACH = 16,
    MIN_WINDOW = 64,
    KEPT_WINDOW = 1 << 14, /* memory for a larger one is given back at the end of a text */
    FIRST_WEIGHT = 4,      /* a new observation counts 1/FIRST_WEIGHT, later 1/LAST_WEIGHT */
    LAST_WEIGHT = 16,
};

/* ---- memory ---- */

/* A text was in it. The barrier keeps the compiler from dropping the scrub. */
static void scrub_and_free(void *p, size_t bytes) {
    if (!p)
        return;
    memset(p, 0, bytes);
    __asm__ volatile("" : : "r"(p) : "memory");
    free(p);
}

static void free_memory(eng_draft *d) {
    scrub_and_free(d->token, d->cap * sizeof *d->token);
    d->token = NULL;
    for (int g = 0; g < ENG_DRAFT_GRAMS; g++) {
        scrub_and_free(d->place[g], d->cap * sizeof *d->place[g]);
        d->place[g] = NULL;
    }
    d->cap = 0;
}

static bool reserve(eng_draft *d, size_t cap) {
    if (cap <= d->cap)
        return true;
    free_memory(d);
    d->cap = cap;
    bool ok = (d->token = calloc(cap, sizeof *d->token)) != NULL;
    for (int g = 0; g < ENG_DRAFT_GRAMS; g++)
        ok &= (d->place[g] = calloc(cap, sizeof *d->place[g])) != NULL;
    if (!ok)
        free_memory(d);
    return ok;
}

bool eng_draft_begin(eng_draft *d, int64_t tokens) {
    size_t window = MIN_WINDOW;
    eng_draft_end(d);
    while (window < ENG_DRAFT_WINDOW && (int64_t)window < tokens)
        window *= 2;
    if (!reserve(d, window))
        return false;
    d->window = window;
    for (int k = 0; k < ENG_DRAFT_KINDS; k++)
        d->share[k] = kinds[k].share;
    return true;
}

void eng_draft_end(eng_draft *d) {
    if (d->cap > KEPT_WINDOW) {
        free_memory(d);
    } else if (d->window > 0) {
        memset(d->token, 0, d->window * sizeof *d->token);
        for (int g = 0; g < ENG_DRAFT_GRAMS; g++)
            memset(d->place[g], 0, d->window * sizeof *d->place[g]);
    }
    d->window = 0;
    d->n = 0;
    d->n_guess = 0;
    memset(d->seen, 0, sizeof d->seen);
}

void eng_draft_close(eng_draft *d) {
    free_memory(d);
    memset(d, 0, sizeof *d);
}

/* ---- the index ---- */

static int32_t token_at(const eng_draft *d, int64_t i) {
    return d->token[(size_t)i & (d->window - 1)];
}

/* Where the last gram_len[g] tokens are filed. */
static uint32_t *entry(const eng_draft *d, int g) {
    uint64_t h = 0;
    for (int i = 1; i <= gram_len[g]; i++)
        h = (h ^ (uint32_t)token_at(d, d->n - i)) * UINT64_C(0x9E3779B97F4A7C15);
    h ^= h >> 32;
    return &d->place[g][(size_t)h & (d->window - 1)];
}

static void append(eng_draft *d, int32_t id) {
    for (int g = 0; g < ENG_DRAFT_GRAMS; g++)
        if (d->n >= gram_len[g])
            *entry(d, g) = (uint32_t)d->n;
    d->token[(size_t)d->n & (d->window - 1)] = id;
    d->n++;
}

/* The window is full for the first time: twice as large, if it may be and there is memory. Else the
 * oldest tokens are forgotten. */
static void grow(eng_draft *d) {
    eng_draft bigger = {0};
    if (d->window == ENG_DRAFT_WINDOW || !reserve(&bigger, 2 * d->window))
        return;
    bigger.window = 2 * d->window;
    for (int64_t i = 0; i < d->n; i++)
        append(&bigger, d->token[i]);
    free_memory(d);
    d->token = bigger.token;
    memcpy(d->place, bigger.place, sizeof d->place);
    d->cap = bigger.cap;
    d->window = bigger.window;
}

/* The grams that end at the last token are filed only now, when the next token comes, so that a
 * lookup in between finds an earlier place and not the end itself. */
void eng_draft_add(eng_draft *d, int32_t id) {
    if (d->window == 0)
        return;
    if (d->n == (int64_t)d->window)
        grow(d);
    append(d, id);
    d->n_guess = 0;
}

/* Equal tokens in front of `at` and in front of the end, up to MAX_REACH. */
static int reach_of(const eng_draft *d, int64_t at) {
    int64_t oldest = d->n > (int64_t)d->window ? d->n - (int64_t)d->window : 0;
    int r = 0;
    while (r < MAX_REACH && at - r > oldest && token_at(d, at - 1 - r) == token_at(d, d->n - 1 - r))
        r++;
    return r;
}

/* The place filed for gram g, 0: none that is really one. Entries hold the low 32 bits. */
static int64_t find(const eng_draft *d, int g, int *reach) {
    if (d->n < gram_len[g])
        return 0;
    uint32_t filed = *entry(d, g), back = (uint32_t)d->n - filed;
    if (filed == 0 || back == 0 || back >= d->window || back >= (uint64_t)d->n)
        return 0;
    int64_t at = d->n - (int64_t)back;
    *reach = reach_of(d, at);
    return *reach >= gram_len[g] ? at : 0;
}

/* ---- guesses ---- */

int eng_draft_propose(eng_draft *d, int64_t most) {
    int64_t at = 0;
    int reach = 0;
    d->n_guess = 0;
    for (int g = 0; g < ENG_DRAFT_GRAMS && at == 0 && d->window > 0; g++)
        at = find(d, g, &reach);
    if (at == 0)
        return 0;
    for (d->kind = ENG_DRAFT_KINDS - 1; reach < kinds[d->kind].reach;)
        d->kind--;
    most = most < ENG_SPECULATE_MAX ? most : ENG_SPECULATE_MAX;
    /* a place nearer than the guess is long: it repeats itself */
    for (int64_t i = 0; i < most; i++, d->n_guess++)
        d->guess[i] = at + i < d->n ? token_at(d, at + i) : d->guess[at + i - d->n];
    return d->n_guess;
}

float eng_draft_chance(const eng_draft *d) {
    return d->share[d->kind];
}

static void observe(eng_draft *d, float hit) {
    int *seen = &d->seen[d->kind], weight = FIRST_WEIGHT + *seen;
    *seen += weight < LAST_WEIGHT;
    d->share[d->kind] += (hit - d->share[d->kind]) / (float)weight;
}

void eng_draft_learn(eng_draft *d, int checked, int agreed) {
    for (int i = 0; i < agreed; i++)
        observe(d, 1.0f);
    if (agreed < checked)
        observe(d, 0.0f);
}
