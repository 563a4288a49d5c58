/* The architectures we know; the first row that matches a config.json is taken. */
#include <string.h>

#include "model/arch.h"

const mdl_arch *const mdl_arch_list[] = {
    &mdl_arch_transnormer_v3,
    &mdl_arch_transnormer_v2,
    &mdl_arch_transnormer_v1,
};
const int mdl_arch_count = sizeof mdl_arch_list / sizeof mdl_arch_list[0];

const mdl_arch *mdl_arch_of(const mdl_spec *spec) {
    for (int i = 0; i < mdl_arch_count; i++)
        if (strcmp(mdl_arch_list[i]->name, spec->arch) == 0)
            return mdl_arch_list[i];
    return NULL;
}
