/* Architectures as rows of data: how to recognise a config.json, how to fill a spec from it, and
 * which tensor plays which role with which shape. A new family is a file in model/arch/ and a line
 * in arch_list.c. */
#ifndef TNL_MODEL_ARCH_H
#define TNL_MODEL_ARCH_H

#include <stdbool.h>

#include "kernels/base/status.h"
#include "model/spec.h"
#include "model/weights.h"

struct cJSON;

/* One tensor role: printf pattern with one %d for the layer (none for global roles), shape in
 * symbols resolved against a spec, and the condition under which it must be present. */
typedef int64_t (*mdl_dim_fn)(const mdl_spec *s, const mdl_layer_spec *l);
typedef bool (*mdl_when_fn)(const mdl_spec *s, const mdl_layer_spec *l);

typedef struct mdl_role_row {
    mdl_role role;
    const char *pattern;   /* "model.layers.%d.token_mixer.out_proj.weight" */
    mdl_dim_fn dims[3];    /* NULL-terminated when shorter */
    bool matrix;           /* else a vector, widened to f32 */
    mdl_when_fn when;      /* NULL: always */
} mdl_role_row;

typedef struct mdl_arch {
    const char *name;
    bool (*match)(const struct cJSON *config);
    tnl_status (*fill_spec)(mdl_spec *spec, const struct cJSON *config, const char *file,
                            tnl_error *err);
    const mdl_role_row *roles;
    int n_roles;
} mdl_arch;

extern const mdl_arch *const mdl_arch_list[];
extern const int mdl_arch_count;

/* model/arch/transnormer.c */
extern const mdl_arch mdl_arch_transnormer_v1, mdl_arch_transnormer_v2, mdl_arch_transnormer_v3;

/* The row a spec was filled by (by name), never NULL for a filled spec. */
const mdl_arch *mdl_arch_of(const mdl_spec *spec);

#endif
