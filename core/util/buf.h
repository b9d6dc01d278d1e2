/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FY_BUF_H
#define FY_BUF_H

#include "ferry/plugin.h"

/* Bytes that grow. `sink` first, so that a plugin can append to it. {0} via fy_buf_init; a NUL
 * always follows the bytes, so that text can be read in place. One thread at a time. */
struct fy_buf {
    struct ferry_buf_sink sink;
    char *data; /* NULL while nothing was appended */
    size_t len, cap;
    size_t max; /* appending beyond is FERRY_ERANGE; 0 = no limit */
};

void fy_buf_init(struct fy_buf *buf, size_t max);
void fy_buf_fini(struct fy_buf *buf); /* frees; may be used again */
ferry_status fy_buf_append(struct fy_buf *buf, const void *data, size_t len);
ferry_status fy_buf_printf(struct fy_buf *buf, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
char *fy_buf_take(struct fy_buf *buf); /* the bytes, now the caller's (free); "" never NULL
                                          unless out of memory */

#endif /* FY_BUF_H */
