/* The options of sampling that `tnl generate` and `tnl chat` share. */
#ifndef TNL_SERVER_CLI_SAMPLING_H
#define TNL_SERVER_CLI_SAMPLING_H

#include <stddef.h>
#include <stdint.h>

#include "server/cli/options/options.h"
#include "server/engine/engine.h"

typedef struct cli_sampling {
    int64_t top_k;
    double temperature, top_p, min_p, repetition, presence, frequency;
} cli_sampling;

/* Option rows for a settings struct T with a cli_sampling member `m`. */
/* clang-format off */
#define CLI_SAMPLING_REAL(T, member, lo, hi, preset)                                               \
    .type = CLI_REAL, .offset = offsetof(T, member), .min = lo, .max = hi, .dflt = preset
#define CLI_SAMPLING_ROWS(T, m)                                                                    \
    {.flag = "temperature", CLI_SAMPLING_REAL(T, m.temperature, 0, 100, "1"), .arg = "T",          \
     .help = "0: always the likeliest token"},                                                     \
    {.flag = "top-k", .type = CLI_INT, .offset = offsetof(T, m.top_k), .min = 0,                   \
     .max = INT32_MAX, .dflt = "0", .arg = "K", .help = "only the K likeliest; 0: off"},           \
    {.flag = "top-p", CLI_SAMPLING_REAL(T, m.top_p, 0, 1, "1"), .arg = "P",                        \
     .help = "only the likeliest that sum to P"},                                                  \
    {.flag = "min-p", CLI_SAMPLING_REAL(T, m.min_p, 0, 1, "0"), .arg = "P",                        \
     .help = "only those at least P times as likely as the likeliest"},                            \
    {.flag = "repetition-penalty", CLI_SAMPLING_REAL(T, m.repetition, 1e-3, 1000, "1"),            \
     .arg = "X", .help = "over prompt and output; 1: off"},                                        \
    {.flag = "presence-penalty", CLI_SAMPLING_REAL(T, m.presence, -2, 2, "0"), .arg = "X",         \
     .help = "for tokens that occurred in the output"},                                            \
    {.flag = "frequency-penalty", CLI_SAMPLING_REAL(T, m.frequency, -2, 2, "0"), .arg = "X",       \
     .help = "the same, times their count"}
/* clang-format on */

static inline void cli_set_sampling(eng_params *p, const cli_sampling *s) {
    p->temperature = (float)s->temperature;
    p->top_k = (int32_t)s->top_k;
    p->top_p = (float)s->top_p;
    p->min_p = (float)s->min_p;
    p->repetition_penalty = (float)s->repetition;
    p->presence_penalty = (float)s->presence;
    p->frequency_penalty = (float)s->frequency;
}

#endif
