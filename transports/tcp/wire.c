/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Encoding and decoding of both dialects' headers. Trusts nothing it reads. Must not know
 * sockets, memory regions or who is at the other end.
 */
#include "wire.h"

void wire_put_hello(uint8_t *p, const struct wire_hello *hello)
{
    memset(p, 0, WIRE_HELLO_LEN);
    wire_put64(p, WIRE_HELLO_MAGIC);
    wire_put16(p + 8, hello->version);
    wire_put16(p + 10, hello->len);
    wire_put32(p + 12, hello->features);
    wire_put64(p + 16, hello->incarnation);
}

bool wire_get_hello(const uint8_t *p, struct wire_hello *out)
{
    struct wire_hello h = {.version = wire_get16(p + 8),
                           .len = wire_get16(p + 10),
                           .features = wire_get32(p + 12),
                           .incarnation = wire_get64(p + 16)};

    if (wire_get64(p) != WIRE_HELLO_MAGIC || h.len < WIRE_HELLO_LEN || h.len > WIRE_HELLO_MAX)
        return false;
    *out = h;
    return true;
}

void wire_put_welcome(uint8_t *p, const struct wire_welcome *welcome)
{
    wire_put64(p, WIRE_WELCOME_MAGIC);
    wire_put16(p + 8, welcome->version);
    wire_put16(p + 10, welcome->len);
    wire_put32(p + 12, welcome->features);
    wire_put64(p + 16, welcome->incarnation);
    wire_put32(p + 24, welcome->status);
    wire_put32(p + 28, welcome->max_desc);
    wire_put64(p + 32, welcome->max_payload);
}

bool wire_get_welcome(const uint8_t *p, struct wire_welcome *out)
{
    struct wire_welcome w = {.version = wire_get16(p + 8),
                             .len = wire_get16(p + 10),
                             .features = wire_get32(p + 12),
                             .incarnation = wire_get64(p + 16),
                             .status = wire_get32(p + 24),
                             .max_desc = wire_get32(p + 28),
                             .max_payload = wire_get64(p + 32)};

    if (wire_get64(p) != WIRE_WELCOME_MAGIC || w.len < WIRE_WELCOME_LEN ||
        w.len > WIRE_HELLO_MAX)
        return false;
    *out = w;
    return true;
}

void wire_put_frame(uint8_t *p, const struct wire_frame *frame)
{
    wire_put32(p, WIRE_FRAME_MAGIC);
    p[4] = frame->type;
    p[5] = 0;
    wire_put16(p + 6, frame->n);
    wire_put64(p + 8, frame->cookie);
    wire_put64(p + 16, frame->payload);
    wire_put64(p + 24, 0);
}

bool wire_get_frame(const uint8_t *p, struct wire_frame *out)
{
    struct wire_frame f = {.type = p[4],
                           .n = wire_get16(p + 6),
                           .cookie = wire_get64(p + 8),
                           .payload = wire_get64(p + 16)};

    if (wire_get32(p) != WIRE_FRAME_MAGIC || f.type < WIRE_WRITE || f.type > WIRE_READ_REPLY ||
        f.n == 0 || f.n > WIRE_MAX_DESC || f.payload > WIRE_MAX_PAYLOAD)
        return false;
    *out = f;
    return true;
}

bool wire_get_table(const uint8_t *p, uint32_t n, uint64_t payload, struct wire_desc *out)
{
    uint64_t left = payload;

    for (uint32_t i = 0; i < n; i++, p += WIRE_DESC_LEN) {
        uint64_t addr = wire_get64(p), len = wire_get64(p + 8);

        if (len == 0 || len > left || len > UINT64_MAX - addr)
            return false;
        left -= len;
        out[i] = (struct wire_desc){addr, len};
    }
    return left == 0;
}

uint32_t wire_put_ranges(uint8_t *p, const uint8_t *st, uint32_t n)
{
    uint32_t n_ranges = 0;

    for (uint32_t i = 0, k; i < n; i = k) {
        for (k = i + 1; k < n && st[k] == st[i]; k++)
            ;
        wire_put32(p, k - i);
        wire_put32(p + 4, st[i]);
        p += WIRE_RANGE_LEN;
        n_ranges++;
    }
    return n_ranges;
}

bool wire_get_ranges(const uint8_t *p, uint32_t n_ranges, uint32_t n, uint8_t *st)
{
    uint32_t at = 0;

    for (uint32_t i = 0; i < n_ranges; i++, p += WIRE_RANGE_LEN) {
        uint32_t count = wire_get32(p), status = wire_get32(p + 4);

        if (count == 0 || count > n - at || status >= WIRE_ST_N)
            return false;
        memset(st + at, (int)status, count);
        at += count;
    }
    return at == n;
}

void wire_put_mc(uint8_t *p, const struct wire_mc *req)
{
    memset(p, 0, WIRE_MC_LEN);
    wire_put64(p, req->size);
    wire_put64(p + 8, req->addr);
    p[16] = (uint8_t)((req->write ? 1 : 0) | (req->v2 ? 0x80 : 0));
}

void wire_get_mc(const uint8_t *p, struct wire_mc *out)
{
    out->size = wire_get64(p);
    out->addr = wire_get64(p + 8);
    out->write = (p[16] & 0x7f) == 1;
    out->v2 = (p[16] & 0x80) != 0;
}
