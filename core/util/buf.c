/* SPDX-License-Identifier: Apache-2.0 */
/* A growing byte buffer, usable as a plugin's ferry_buf_sink. */
#include "util/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static ferry_status sink_append(struct ferry_buf_sink *sink, const void *data, size_t len)
{
    return fy_buf_append((struct fy_buf *)sink, data, len);
}

void fy_buf_init(struct fy_buf *buf, size_t max)
{
    *buf = (struct fy_buf){.sink = {sink_append}, .max = max};
}

void fy_buf_fini(struct fy_buf *buf)
{
    free(buf->data);
    fy_buf_init(buf, buf->max);
}

static ferry_status reserve(struct fy_buf *buf, size_t more)
{
    size_t cap = buf->cap ? buf->cap : 256;
    char *data;

    if (buf->max && more > buf->max - buf->len)
        return FERRY_ERANGE;
    if (more >= SIZE_MAX / 2 - buf->len)
        return FERRY_ENOMEM;
    if (buf->len + more < buf->cap)
        return FERRY_OK;
    while (cap <= buf->len + more)
        cap *= 2;
    data = realloc(buf->data, cap);
    if (!data)
        return FERRY_ENOMEM;
    buf->data = data;
    buf->cap = cap;
    return FERRY_OK;
}

ferry_status fy_buf_append(struct fy_buf *buf, const void *data, size_t len)
{
    ferry_status status = reserve(buf, len);

    if (status)
        return status;
    if (len)
        memcpy(buf->data + buf->len, data, len);
    buf->len += len;
    buf->data[buf->len] = '\0';
    return FERRY_OK;
}

ferry_status fy_buf_printf(struct fy_buf *buf, const char *fmt, ...)
{
    ferry_status status;
    va_list ap;
    int n;

    va_start(ap, fmt);
    n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0)
        return FERRY_EINVAL;
    status = reserve(buf, (size_t)n);
    if (status)
        return status;
    va_start(ap, fmt);
    vsnprintf(buf->data + buf->len, (size_t)n + 1, fmt, ap);
    va_end(ap);
    buf->len += (size_t)n;
    return FERRY_OK;
}

char *fy_buf_take(struct fy_buf *buf)
{
    char *data = buf->data ? buf->data : calloc(1, 1);

    buf->data = NULL;
    fy_buf_fini(buf);
    return data;
}
