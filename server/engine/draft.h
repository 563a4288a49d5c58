/* Guessing what a sequence says next from what it said before (prompt lookup): find an earlier
 * place with the same last tokens, and take what followed there.
 *
 * An index over the newest tokens of one sequence, prompt and answer: a table for each of a few
 * lengths of grams, which gives the newest place of a gram. A token costs a few table writes, a
 * guess a few lookups, whatever the length of the text; memory is bounded by ENG_DRAFT_WINDOW.
 * A place found is compared token by token, so a table that mixes two grams up costs a guess and
 * nothing else.
 *
 * How far the match reaches back says how good a guess is. For each kind of match the share of
 * guesses that came true is tracked, also of those that nobody had the model check: so text that
 * does not repeat stops costing anything, and is noticed when it begins to. Nothing is shared
 * between sequences. One thread. */
#ifndef TNL_SERVER_ENGINE_DRAFT_H
#define TNL_SERVER_ENGINE_DRAFT_H

#include "server/engine/engine.h"

enum {
    ENG_DRAFT_WINDOW = 1 << 17, /* tokens looked back at most */
    ENG_DRAFT_GRAMS = 3,        /* lengths of grams, see draft.c */
    ENG_DRAFT_KINDS = 4,        /* of matches, by how far they reach back */
};

/* Zeroed: no memory, no guesses. */
typedef struct eng_draft {
    size_t cap;     /* tokens that the memory below is for, a power of two */
    int32_t *token; /* [cap] the newest tokens, token i at i mod window */
    uint32_t
        *place[ENG_DRAFT_GRAMS];  /* [cap] by hash: index behind the newest such gram, 0: none */
    size_t window;                /* in use for this sequence, <= cap; 0: no guessing */
    int64_t n;                    /* tokens so far */
    float share[ENG_DRAFT_KINDS]; /* of first guesses that came true */
    int seen[ENG_DRAFT_KINDS];    /* how many there were, up to a bound */
    int kind;                     /* of the guess at hand */
    int n_guess;
    int32_t guess[ENG_SPECULATE_MAX];
} eng_draft;

/* Begin a sequence of `tokens` or so; more make the memory grow. False: there is none, there will
 * be no guesses. */
bool eng_draft_begin(eng_draft *d, int64_t tokens);
void eng_draft_end(eng_draft *d); /* forget the sequence, keep memory that is not large */
void eng_draft_close(eng_draft *d);

/* The sequence goes on with this token. */
void eng_draft_add(eng_draft *d, int32_t id);

/* Fill guess[0..n_guess), at most `most`, for what follows the last token; returns n_guess. */
int eng_draft_propose(eng_draft *d, int64_t most);

/* How likely each guess is to be true, given that those before it were. */
float eng_draft_chance(const eng_draft *d);

/* Of the first `checked` guesses, `agreed` came true, and then one did not (agreed < checked) or
 * there was none left. Once for each proposal; add the tokens themselves besides. */
void eng_draft_learn(eng_draft *d, int checked, int agreed);

#endif
