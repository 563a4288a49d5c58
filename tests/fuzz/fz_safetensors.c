/* A safetensors file of any bytes: refused with a line, or every tensor lies inside the file, no
 * two share a byte, and the ranges cover the data. */
#include "tests/fuzz/fuzz.h"

#include <string.h>

#include "model/tensor_dir.h"

/* Ranges of an accepted file, summed up: with none outside and none overlapping, the sum of their
 * sizes equals the data only when there is no hole either. */
static void check(const mdl_tensors *t, size_t size) {
    uint64_t sum = 0;
    for (int64_t i = 0; i < mdl_tensors_count(t); i++) {
        const mdl_tensor_view *v = mdl_tensors_at(t, i);
        uint64_t elems = 1, bytes = 1, align = 64; /* packed */
        FUZZ_CHECK((int)v->dtype >= 0 && v->dtype < KN_DTYPE_COUNT);
        if (v->dtype < KN_PLAIN_COUNT)
            bytes = align = (uint64_t)kn_dtypes[v->dtype].elem_bytes;
        FUZZ_CHECK(v->bytes <= size && v->file_offset <= size - v->bytes);
        for (int k = 0; k < v->rank; k++) {
            FUZZ_CHECK(v->dims[k] >= 0);
            elems *= (uint64_t)v->dims[k];
        }
        FUZZ_CHECK(elems * bytes == v->bytes);
        FUZZ_CHECK(mdl_tensors_find(t, v->name) == v);
        FUZZ_CHECK((uintptr_t)v->data % align == 0 || v->bytes == 0);
        for (int64_t k = 0; k < i && k < 64; k++) {
            const mdl_tensor_view *w = mdl_tensors_at(t, k);
            FUZZ_CHECK(v->bytes == 0 || w->bytes == 0 ||
                       v->file_offset >= w->file_offset + w->bytes ||
                       w->file_offset >= v->file_offset + v->bytes);
        }
        sum += v->bytes;
    }
    FUZZ_CHECK(size >= 8 && sum <= size - 8);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    tnl_error err = {TNL_OK, ""};
    mdl_tensors *t = calloc(1, sizeof *t);
    mdl_tensor_file *file = calloc(1, sizeof *file);
    if (!t || !file)
        abort();
    file->name = strdup("model.safetensors");
    file->map = (mdl_map){.data = data, .size = size};
    t->files = file;
    t->n_files = 1;
    tnl_status s = mdl_safetensors_read(t, 0, &err);
    if (s == TNL_OK)
        check(t, size);
    else
        FUZZ_CHECK(err.code == s && strlen(err.msg) > 0);
    file->map = (mdl_map){0}; /* the bytes are the fuzzer's */
    mdl_tensors_close(t);
    return 0;
}
