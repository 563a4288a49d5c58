/* Defaults and ranges of request parameters. Comparisons are written so that a NaN fails them. */
#include "server/engine/params.h"

#include <float.h>
#include <stddef.h>
#include <string.h>

#include "kernels/base/utf8.h"

void eng_params_default(eng_params *p) {
    memset(p, 0, sizeof *p);
    p->max_tokens = 256;
    p->temperature = 1.0f;
    p->top_p = 1.0f;
    p->typical_p = 1.0f;
    p->repetition_penalty = 1.0f;
    p->speculate = -1;
    p->cache_prompt = true;
}

bool eng_params_greedy(const eng_params *p) {
    return p->temperature < ENG_GREEDY_TEMPERATURE || p->top_p <= 0.0f || p->top_k == 1;
}

typedef struct float_row {
    const char *name;
    size_t offset;
    float min, max;
} float_row;

#define ROW(field, lo, hi)                                                                         \
    { #field, offsetof(eng_params, field), lo, hi }
static const float_row float_rows[] = {
    ROW(temperature, 0.0f, 100.0f),
    ROW(top_p, 0.0f, 1.0f),
    ROW(min_p, 0.0f, 1.0f),
    ROW(typical_p, FLT_MIN, 1.0f),
    ROW(repetition_penalty, FLT_MIN, FLT_MAX),
    ROW(presence_penalty, -2.0f, 2.0f),
    ROW(frequency_penalty, -2.0f, 2.0f),
};
#undef ROW

static tnl_status check_floats(const eng_params *p, tnl_error *err) {
    for (size_t i = 0; i < sizeof float_rows / sizeof float_rows[0]; i++) {
        const float_row *row = &float_rows[i];
        float v;
        memcpy(&v, (const char *)p + row->offset, sizeof v);
        if (!(v >= row->min && v <= row->max))
            return tnl_fail(err, TNL_E_USAGE, "%s: %g is outside %g..%g", row->name, (double)v,
                            (double)row->min, (double)row->max);
    }
    return TNL_OK;
}

static tnl_status check_int(const char *name, int64_t v, int64_t min, int64_t max, tnl_error *err) {
    if (v >= min && v <= max)
        return TNL_OK;
    return tnl_fail(err, TNL_E_USAGE, "%s: %lld is outside %lld..%lld", name, (long long)v,
                    (long long)min, (long long)max);
}

static tnl_status check_bias(const eng_params *p, int64_t vocab, tnl_error *err) {
    TNL_TRY(check_int("number of logit_bias entries", p->n_bias, 0, ENG_MAX_BIAS, err));
    for (int i = 0; i < p->n_bias; i++) {
        TNL_TRY(check_int("logit_bias token", p->bias_id[i], 0, vocab - 1, err));
        if (!(p->bias[i] >= ENG_BIAS_FORBID && p->bias[i] <= 100.0f))
            return tnl_fail(err, TNL_E_USAGE, "logit_bias of token %d: %g is outside -100..100",
                            (int)p->bias_id[i], (double)p->bias[i]);
    }
    return TNL_OK;
}

static tnl_status check_stop(const eng_params *p, tnl_error *err) {
    TNL_TRY(check_int("number of stop strings", p->n_stop, 0, ENG_MAX_STOP, err));
    for (int i = 0; i < p->n_stop; i++) {
        size_t n = strnlen(p->stop[i], ENG_MAX_STOP_BYTES + 1);
        if (n == 0 || n > ENG_MAX_STOP_BYTES)
            return tnl_fail(err, TNL_E_USAGE, "stop string %d has %zu bytes, expected 1..%d", i, n,
                            ENG_MAX_STOP_BYTES);
        if (!tnl_utf8_valid(p->stop[i], n))
            return tnl_fail(err, TNL_E_USAGE, "stop string %d is not UTF-8", i);
    }
    return TNL_OK;
}

tnl_status eng_params_check(const eng_params *p, int64_t vocab, tnl_error *err) {
    TNL_TRY(check_int("max_tokens", p->max_tokens, 0, ENG_MAX_TOKENS_LIMIT, err));
    TNL_TRY(check_floats(p, err));
    TNL_TRY(check_int("top_k", p->top_k, 0, INT32_MAX, err));
    TNL_TRY(check_int("logprobs", p->logprobs, 0, ENG_MAX_LOGPROBS, err));
    TNL_TRY(check_int("speculate", p->speculate, -1, ENG_SPECULATE_MAX, err));
    TNL_TRY(check_bias(p, vocab, err));
    return check_stop(p, err);
}
