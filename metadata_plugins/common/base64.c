/* SPDX-License-Identifier: Apache-2.0 */
/* Base64 of RFC 4648, for services that carry bytes in JSON. */
#include "base64.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

char *fm_base64(const void *data, size_t len)
{
    const unsigned char *in = data;
    char *out = malloc((len + 2) / 3 * 4 + 1), *at = out;

    if (!out)
        return NULL;
    for (size_t i = 0; i < len; i += 3) {
        size_t left = len - i;
        uint32_t bits = (uint32_t)in[i] << 16;

        if (left > 1)
            bits |= (uint32_t)in[i + 1] << 8;
        if (left > 2)
            bits |= in[i + 2];
        *at++ = digits[bits >> 18];
        *at++ = digits[bits >> 12 & 63];
        *at++ = left > 1 ? digits[bits >> 6 & 63] : '=';
        *at++ = left > 2 ? digits[bits & 63] : '=';
    }
    *at = '\0';
    return out;
}

char *fm_base64_decode(const char *text, size_t *len_out)
{
    size_t len = strlen(text), n = 0;
    signed char value[256];
    char *out;
    uint32_t bits = 0;

    memset(value, -1, sizeof(value));
    for (int i = 0; i < 64; i++)
        value[(unsigned char)digits[i]] = (signed char)i;
    if (len % 4)
        return NULL;
    while (len && text[len - 1] == '=' && len % 4 != 2)
        len--;
    out = malloc(len / 4 * 3 + 4);
    if (!out)
        return NULL;
    for (size_t i = 0; i < len; i++) {
        int v = value[(unsigned char)text[i]];

        if (v < 0) {
            free(out);
            return NULL;
        }
        bits = bits << 6 | (uint32_t)v;
        if (i % 4)
            out[n++] = (char)(bits >> (6 - i % 4 * 2));
    }
    out[n] = '\0';
    *len_out = n;
    return out;
}
