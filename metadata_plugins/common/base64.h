/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FM_BASE64_H
#define FM_BASE64_H

#include <stddef.h>

/* Text of any bytes and back, padded. The caller's to free; NULL: out of memory or, decoding,
 * not base64. A NUL follows what was decoded. */
char *fm_base64(const void *data, size_t len);
char *fm_base64_decode(const char *text, size_t *len_out);

#endif /* FM_BASE64_H */
