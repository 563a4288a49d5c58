/* config.json (and tokenizer_config.json, generation_config.json beside it) to an mdl_spec.
 * cJSON stops here. Any value we do not know is an error that names file, key, found, expected;
 * unknown extra keys are logged at debug level and ignored. */
#ifndef TNL_MODEL_CONFIG_H
#define TNL_MODEL_CONFIG_H

#include "kernels/base/status.h"
#include "model/spec.h"

/* Read DIR/config.json. *spec is zeroed first; on success release with mdl_spec_clear. */
tnl_status mdl_config_load(mdl_spec *spec, const char *dir, tnl_error *err);

/* One file only, nothing beside it is read: configs/shapes and the like. */
tnl_status mdl_config_load_file(mdl_spec *spec, const char *path, tnl_error *err);

/* The same from memory; `name` stands for the file in messages. Fuzz entry. */
tnl_status mdl_config_parse(mdl_spec *spec, const char *json, size_t n, const char *name,
                            tnl_error *err);

/* *out (free it): the text of a config.json, sound and without quantization_config, with the
 * quantization_config of packed matrices added. */
tnl_status mdl_config_add_quant(char **out, const char *config, size_t n, kn_dtype type,
                                tnl_error *err);

#endif
