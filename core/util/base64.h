/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FY_BASE64_H
#define FY_BASE64_H

#include "util/buf.h"

/* RFC 4648 with padding, no line feeds. Both append. */
ferry_status fy_base64_encode(const void *data, size_t len, struct fy_buf *out);
/* FERRY_EINVAL where it is anything else; `out` is then as it was. */
ferry_status fy_base64_decode(const char *text, size_t len, struct fy_buf *out);

#endif /* FY_BASE64_H */
