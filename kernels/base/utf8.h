/* UTF-8 on bounded byte ranges. No allocation, no locale; any thread. */
#ifndef TNL_BASE_UTF8_H
#define TNL_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Length in bytes (1..4) of the well-formed character at s (n bytes are readable), 0 if the bytes
 * there are not UTF-8, or -1 if they are a correct beginning that n cuts short. Overlong forms,
 * surrogates and values above U+10FFFF are not UTF-8. */
int tnl_utf8_char_len(const char *s, size_t n);

/* True if all n bytes are well-formed UTF-8. */
bool tnl_utf8_valid(const char *s, size_t n);

/* Bytes at the end of s[0..n) that begin a character without completing it: 0..3. */
size_t tnl_utf8_incomplete_tail(const char *s, size_t n);

/* Replace control bytes and bytes that are not UTF-8 by '?' in a NUL-terminated string. */
void tnl_utf8_make_printable(char *s);

#ifdef __cplusplus
}
#endif
#endif
