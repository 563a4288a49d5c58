/* A config.json of any bytes: refused with a line and an empty spec, or every size is in its range
 * and a second parse gives the same spec. */
#include "tests/fuzz/fuzz.h"

#include <string.h>

#include "model/arch.h"
#include "model/config.h"

static void check_layer(const mdl_spec *s, const mdl_layer_spec *l) {
    FUZZ_CHECK(l->dims.H >= 1 && l->head_dim >= 1);
    FUZZ_CHECK((int64_t)l->dims.H * l->head_dim == s->hidden);
    FUZZ_CHECK(l->dims.Dk == (l->lrpe ? 2 : 1) * l->head_dim && l->dims.Dv == l->head_dim);
    FUZZ_CHECK(l->act >= 0 && l->act < KN_ACT_COUNT);
    FUZZ_CHECK(l->glu >= 1 && l->glu <= 1 << 20);
    FUZZ_CHECK((l->gate == MDL_GATE_LOW_RANK_SIGMOID) == (l->gate_rank > 0));
}

static void check(const mdl_spec *s) {
    FUZZ_CHECK(mdl_arch_of(s) != NULL);
    FUZZ_CHECK(s->vocab >= 1 && s->vocab <= 1 << 24);
    FUZZ_CHECK(s->width >= 1 && s->width <= 1 << 17);
    FUZZ_CHECK(s->n_layers >= 1 && s->n_layers <= 1024);
    FUZZ_CHECK(s->bos_id >= -1 && s->bos_id < s->vocab);
    FUZZ_CHECK(s->eos_id >= -1 && s->eos_id < s->vocab);
    FUZZ_CHECK(s->pad_id >= -1 && s->pad_id < s->vocab);
    FUZZ_CHECK(!s->quantized || s->packed >= KN_PLAIN_COUNT);
    for (int i = 0; i < s->n_layers; i++)
        check_layer(s, &s->layers[i]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    mdl_spec a, b;
    tnl_error err = {TNL_OK, ""};
    tnl_status s = mdl_config_parse(&a, (const char *)data, size, "config.json", &err);
    if (s != TNL_OK) {
        FUZZ_CHECK(err.code == s && strlen(err.msg) > 0 && !a.layers);
        return 0;
    }
    check(&a);
    FUZZ_CHECK(mdl_config_parse(&b, (const char *)data, size, "config.json", &err) == TNL_OK);
    FUZZ_CHECK(a.n_layers == b.n_layers && a.width == b.width && a.arch == b.arch);
    FUZZ_CHECK(memcmp(a.layers, b.layers, (size_t)a.n_layers * sizeof *a.layers) == 0);
    mdl_spec_clear(&a);
    mdl_spec_clear(&b);
    return 0;
}
