/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes as text that JSON can carry. */
#include "util/base64.h"

static const char alphabet[] =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

ferry_status fy_base64_encode(const void *data, size_t len, struct fy_buf *out)
{
    const uint8_t *in = data;
    size_t start = out->len;

    for (size_t i = 0; i < len; i += 3) {
        size_t have = len - i < 3 ? len - i : 3;
        uint32_t bits = (uint32_t)in[i] << 16 | (have > 1 ? (uint32_t)in[i + 1] << 8 : 0) |
                        (have > 2 ? (uint32_t)in[i + 2] : 0);
        char four[4] = {alphabet[bits >> 18], alphabet[bits >> 12 & 63],
                        have > 1 ? alphabet[bits >> 6 & 63] : '=',
                        have > 2 ? alphabet[bits & 63] : '='};
        ferry_status status = fy_buf_append(out, four, sizeof(four));

        if (status) {
            out->len = start;
            return status;
        }
    }
    return FERRY_OK;
}

static int value_of(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

ferry_status fy_base64_decode(const char *text, size_t len, struct fy_buf *out)
{
    size_t start = out->len;
    ferry_status status = len % 4 ? FERRY_EINVAL : FERRY_OK;

    for (size_t i = 0; i < len && !status; i += 4) {
        int last = i + 4 == len;
        size_t pad = !last ? 0 : (size_t)(text[i + 3] == '=') + (size_t)(text[i + 2] == '=');
        uint32_t bits = 0;
        uint8_t three[3];

        for (size_t k = 0; k < 4; k++) {
            int value = k < 4 - pad ? value_of(text[i + k]) : text[i + k] == '=' ? 0 : -1;

            if (value < 0)
                status = FERRY_EINVAL;
            bits = bits << 6 | (uint32_t)(value & 63);
        }
        /* Bits beyond the last byte are 0, so that each byte string has one text. */
        if (pad && (bits & ((1u << 8 * pad) - 1)))
            status = FERRY_EINVAL;
        three[0] = (uint8_t)(bits >> 16);
        three[1] = (uint8_t)(bits >> 8);
        three[2] = (uint8_t)bits;
        if (!status)
            status = fy_buf_append(out, three, 3 - pad);
    }
    if (status) {
        out->len = start;
        if (out->data)
            out->data[start] = '\0';
    }
    return status;
}
