/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames of the control channel as bytes (docs/wire.md). Knows no sockets and no JSON.
 */
#include "control.h"

#include "error.h"

enum { LEN_BYTES = 8, TYPE_BYTES = 1 };

const char *fy_control_type_name(int type)
{
    switch (type) {
    case FY_CONTROL_CONNECTION:
        return "connection";
    case FY_CONTROL_METADATA:
        return "metadata";
    case FY_CONTROL_NOTIFY:
        return "notify";
    case FY_CONTROL_PROBE:
        return "probe";
    case FY_CONTROL_CALL:
        return "call";
    default:
        return "unknown";
    }
}

static int is_type(unsigned char byte)
{
    return byte <= FY_CONTROL_PROBE || byte == FY_CONTROL_CALL;
}

ferry_status fy_control_parse(const void *data, size_t len, size_t max_len,
                              struct fy_control_frame *frame_out, size_t *need_out)
{
    const unsigned char *bytes = data;
    uint64_t frame_len = 0;
    int typed;

    if (max_len == 0)
        max_len = FY_CONTROL_MAX_LEN;
    if (len < LEN_BYTES) {
        *need_out = LEN_BYTES + TYPE_BYTES;
        return FERRY_EAGAIN;
    }
    for (int i = LEN_BYTES - 1; i >= 0; i--)
        frame_len = frame_len << 8 | bytes[i];
    if (frame_len == 0)
        return fy_fail(FERRY_EINVAL, "an empty frame");
    if (frame_len > max_len)
        return fy_fail(FERRY_ERANGE, "a frame of %llu bytes: at most %zu",
                       (unsigned long long)frame_len, max_len);
    *need_out = LEN_BYTES + (size_t)frame_len;
    if (len < LEN_BYTES + TYPE_BYTES) {
        *need_out = LEN_BYTES + TYPE_BYTES;
        return FERRY_EAGAIN;
    }
    typed = is_type(bytes[LEN_BYTES]);
    if (!typed && bytes[LEN_BYTES] != '{')
        return fy_fail(FERRY_EINVAL, "a frame of unknown type 0x%02x", bytes[LEN_BYTES]);
    if (typed && frame_len == TYPE_BYTES)
        return fy_fail(FERRY_EINVAL, "a frame without a body");
    if (len - LEN_BYTES < frame_len)
        return FERRY_EAGAIN;
    frame_out->type = typed ? bytes[LEN_BYTES] : -1;
    frame_out->body = LEN_BYTES + (typed ? TYPE_BYTES : 0);
    frame_out->len = (size_t)frame_len - (typed ? TYPE_BYTES : 0);
    return FERRY_OK;
}

ferry_status fy_control_encode(int type, const char *body, size_t len, struct fy_buf *out)
{
    unsigned char head[LEN_BYTES + TYPE_BYTES];
    size_t head_len = LEN_BYTES + (type < 0 ? 0 : TYPE_BYTES);
    size_t had = out->len;
    uint64_t frame_len;
    ferry_status status;

    if (len > FY_CONTROL_MAX_LEN - TYPE_BYTES - 1)
        return fy_fail(FERRY_ERANGE, "a body of %zu bytes: at most %zu", len,
                       FY_CONTROL_MAX_LEN - TYPE_BYTES - 1);
    frame_len = len + 1 + (type < 0 ? 0 : TYPE_BYTES);
    for (int i = 0; i < LEN_BYTES; i++)
        head[i] = (unsigned char)(frame_len >> (8 * i));
    head[LEN_BYTES] = (unsigned char)type;
    status = fy_buf_append(out, head, head_len);
    if (!status)
        status = fy_buf_append(out, body, len);
    if (!status)
        status = fy_buf_append(out, "\n", 1);
    if (status) {
        out->len = had;
        if (out->data)
            out->data[had] = '\0';
        return fy_fail(status, "no room for a frame of %zu bytes", len);
    }
    return FERRY_OK;
}
