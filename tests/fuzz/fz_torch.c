/* A torch archive of any bytes: refused with a line, or every tensor lies inside the file. To reach
 * the unpickler without finding its way through a zip directory, an input that begins with the
 * pickle protocol byte is run as a pickle alone. */
#include "tests/fuzz/fuzz.h"

#include <string.h>

#include "model/pickle.h"
#include "model/tensor_dir.h"

static tnl_status on_tensor(void *ctx, const mdl_pickled_tensor *t, tnl_error *err) {
    const uint8_t *const *range = ctx;
    const uint8_t *name = (const uint8_t *)t->name, *key = (const uint8_t *)t->storage;
    (void)err;
    FUZZ_CHECK(name >= range[0] && name + t->name_len <= range[1]);
    FUZZ_CHECK(key >= range[0] && key + t->storage_len <= range[1]);
    FUZZ_CHECK(t->rank >= 0 && t->rank <= MDL_MAX_RANK);
    return TNL_OK;
}

static void check(const mdl_tensors *t, size_t size) {
    for (int64_t i = 0; i < mdl_tensors_count(t); i++) {
        const mdl_tensor_view *v = mdl_tensors_at(t, i);
        FUZZ_CHECK(v->bytes <= size && v->file_offset <= size - v->bytes);
        FUZZ_CHECK(mdl_tensors_find(t, v->name) == v);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    tnl_error err = {TNL_OK, ""};
    if (size && data[0] == 0x80) {
        const uint8_t *range[2] = {data, data + size};
        tnl_status p = mdl_pickle_tensors(data, size, "data.pkl", on_tensor, range, &err);
        FUZZ_CHECK(p == TNL_OK || (err.code == p && strlen(err.msg) > 0));
        return 0;
    }
    mdl_tensors *t = calloc(1, sizeof *t);
    mdl_tensor_file *file = calloc(1, sizeof *file);
    if (!t || !file)
        abort();
    file->name = strdup("pytorch_model.bin");
    file->map = (mdl_map){.data = data, .size = size};
    t->files = file;
    t->n_files = 1;
    tnl_status s = mdl_torch_zip_read(t, 0, &err);
    if (s == TNL_OK)
        check(t, size);
    else
        FUZZ_CHECK(err.code == s && strlen(err.msg) > 0);
    file->map = (mdl_map){0}; /* the bytes are the fuzzer's */
    mdl_tensors_close(t);
    return 0;
}
