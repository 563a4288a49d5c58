/* How an architecture reads its keys: one table of rows {key, type, range, default, where to put
 * it}. Every row is checked the same way, and what fails names file, key, found and expected.
 * The JSON library stays behind these functions. */
#ifndef TNL_MODEL_CONFIG_KEYS_H
#define TNL_MODEL_CONFIG_KEYS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/base/status.h"

struct cJSON;

typedef enum cfg_type {
    CFG_INT,  /* int64_t; min..max */
    CFG_ID,   /* int32_t token id; 0..max, or -1 for null */
    CFG_BOOL, /* bool */
    CFG_WORD, /* int: index into `words`, a NULL-terminated list */
    CFG_NOTE, /* known, read elsewhere or without meaning here; any value */
} cfg_type;

typedef struct cfg_key {
    const char *key;
    cfg_type type;
    bool required;
    int64_t min, max;
    int64_t fallback; /* the value when the key is absent */
    size_t offset;    /* into the struct handed to mdl_config_keys */
    const char *const *words;
} cfg_key;

/* Fill `out` by the rows. Keys that no row knows are logged at debug level. */
tnl_status mdl_config_keys(void *out, const cfg_key *rows, size_t n_rows,
                           const struct cJSON *config, const char *file, tnl_error *err);

/* out [n] from a list of exactly n zeros and ones. */
tnl_status mdl_config_flags(bool *out, int64_t n, const struct cJSON *config, const char *key,
                            const char *file, tnl_error *err);

/* Fill spec->quantized and packed from quantization_config, if there is one. */
struct mdl_spec;
tnl_status mdl_config_quant(struct mdl_spec *spec, const struct cJSON *config, const char *file,
                            tnl_error *err);

bool mdl_config_has(const struct cJSON *config, const char *key); /* present and not null */
bool mdl_config_is_true(const struct cJSON *config, const char *key);
bool mdl_config_is_text(const struct cJSON *config, const char *key, const char *text);
/* The key holds a list that has this text among its members. */
bool mdl_config_lists(const struct cJSON *config, const char *key, const char *text);

#endif
