// SentencePiece behind the C interface of tok_spm.h: each function turns the library's statuses and
// any exception into a tnl_status.
#include "tokenizer/tok_spm.h"

#include <sentencepiece_processor.h>

#include <cstdlib>
#include <cstring>
#include <exception>
#include <new>
#include <string_view>
#include <vector>

struct tok_spm {
    sentencepiece::SentencePieceProcessor processor;
};

namespace {

tnl_status from_library(tnl_error *err, const sentencepiece::util::Status &st) {
    if (st.code() == sentencepiece::util::StatusCode::kResourceExhausted)
        return tnl_fail(err, TNL_E_NOMEM, "sentencepiece: out of memory");
    return tnl_fail(err, TNL_E_DATA, "sentencepiece: %s", st.error_message());
}

// Call from a catch (...) block only.
tnl_status from_exception(tnl_error *err) {
    try {
        throw;
    } catch (const std::bad_alloc &) {
        return tnl_fail(err, TNL_E_NOMEM, "sentencepiece: out of memory");
    } catch (const std::exception &e) {
        return tnl_fail(err, TNL_E_INTERNAL, "sentencepiece: %s", e.what());
    } catch (...) {
        return tnl_fail(err, TNL_E_INTERNAL, "sentencepiece: unknown exception");
    }
}

tnl_status copy_out(const std::vector<int> &v, int32_t **ids, size_t *n_ids, tnl_error *err) {
    static_assert(sizeof(int) == sizeof(int32_t), "ids are 32-bit");
    int32_t *copy = static_cast<int32_t *>(std::malloc(v.empty() ? 1 : v.size() * sizeof *copy));
    if (!copy)
        return tnl_fail(err, TNL_E_NOMEM, "tokenizer: no memory for %zu token ids", v.size());
    if (!v.empty())
        std::memcpy(copy, v.data(), v.size() * sizeof *copy);
    *ids = copy;
    *n_ids = v.size();
    return TNL_OK;
}

} // namespace

extern "C" tnl_status tok_spm_open(tok_spm **out, const uint8_t *proto, size_t n, tnl_error *err) {
    tok_spm *s = nullptr;
    *out = nullptr;
    try {
        s = new tok_spm;
        const std::string_view bytes(reinterpret_cast<const char *>(proto), n);
        const auto st = s->processor.LoadFromSerializedProto(bytes);
        if (!st.ok()) {
            delete s;
            return from_library(err, st);
        }
    } catch (...) {
        delete s;
        return from_exception(err);
    }
    *out = s;
    return TNL_OK;
}

extern "C" void tok_spm_close(tok_spm *s) {
    try {
        delete s;
    } catch (...) {
        // nothing left to release
    }
}

extern "C" tnl_status tok_spm_encode(const tok_spm *s, const char *text, size_t n, int32_t **ids,
                                     size_t *n_ids, tnl_error *err) {
    try {
        std::vector<int> v;
        const auto st = s->processor.Encode(std::string_view(text, n), &v);
        if (!st.ok())
            return from_library(err, st);
        return copy_out(v, ids, n_ids, err);
    } catch (...) {
        return from_exception(err);
    }
}
