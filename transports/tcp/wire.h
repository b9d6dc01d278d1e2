/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TCP_WIRE_H
#define TCP_WIRE_H

#include <endian.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/*
 * The bytes on a data connection, both dialects (docs/wire-tcp.md). Pure functions: nothing
 * here allocates, blocks or knows a socket. Every integer is little-endian.
 */

/* "FERRYv3" and a last byte that makes the first eight bytes, read as upstream's size, exceed
 * every address space. */
#define WIRE_HELLO_MAGIC   0xf933765952524546ull
#define WIRE_WELCOME_MAGIC 0xfa33765952524546ull
#define WIRE_FRAME_MAGIC   0x334d5246u /* "FRM3" */

#define WIRE_VERSION     3
#define WIRE_HELLO_LEN   32u
#define WIRE_HELLO_MAX   4096u /* with what later versions append */
#define WIRE_WELCOME_LEN 40u
#define WIRE_FRAME_LEN   32u
#define WIRE_DESC_LEN    16u
#define WIRE_RANGE_LEN   8u
#define WIRE_MAX_DESC    1000u
#define WIRE_MAX_PAYLOAD (1ull << 62)

#define WIRE_MC_LEN        24u
#define WIRE_MC_STATUS_LEN 8u
#define WIRE_MC_OK         0x4d43545600000000ull
#define WIRE_MC_REJECTED   0x4d43545600000001ull

enum wire_type { WIRE_WRITE = 1, WIRE_READ = 2, WIRE_WRITE_ACK = 3, WIRE_READ_REPLY = 4 };

/* How one element ended. */
enum wire_status { WIRE_ST_OK, WIRE_ST_RANGE, WIRE_ST_ACCESS, WIRE_ST_IO, WIRE_ST_N };

/* How a hello was taken. */
enum wire_welcome_status { WIRE_WELCOME_OK, WIRE_WELCOME_STALE, WIRE_WELCOME_VERSION };

struct wire_hello {
    uint16_t version;
    uint16_t len; /* of the whole hello */
    uint32_t features;
    uint64_t incarnation; /* of the target, as its segment says; 0 = any */
};

struct wire_welcome {
    uint16_t version;
    uint16_t len;
    uint32_t features;
    uint64_t incarnation;
    uint32_t status; /* enum wire_welcome_status */
    uint32_t max_desc;
    uint64_t max_payload;
};

struct wire_frame {
    uint8_t type; /* enum wire_type */
    uint16_t n;   /* descriptors or ranges that follow */
    uint64_t cookie;
    uint64_t payload;
};

struct wire_desc {
    uint64_t addr, len;
};

/* Upstream's request. */
struct wire_mc {
    uint64_t size, addr;
    bool write, v2;
};

static inline void wire_put16(uint8_t *p, uint16_t v)
{
    v = htole16(v);
    memcpy(p, &v, sizeof v);
}

static inline void wire_put32(uint8_t *p, uint32_t v)
{
    v = htole32(v);
    memcpy(p, &v, sizeof v);
}

static inline void wire_put64(uint8_t *p, uint64_t v)
{
    v = htole64(v);
    memcpy(p, &v, sizeof v);
}

static inline uint16_t wire_get16(const uint8_t *p)
{
    uint16_t v;

    memcpy(&v, p, sizeof v);
    return le16toh(v);
}

static inline uint32_t wire_get32(const uint8_t *p)
{
    uint32_t v;

    memcpy(&v, p, sizeof v);
    return le32toh(v);
}

static inline uint64_t wire_get64(const uint8_t *p)
{
    uint64_t v;

    memcpy(&v, p, sizeof v);
    return le64toh(v);
}

static inline void wire_put_desc(uint8_t *p, uint64_t addr, uint64_t len)
{
    wire_put64(p, addr);
    wire_put64(p + 8, len);
}

/* Each writes its fixed length. */
void wire_put_hello(uint8_t *p, const struct wire_hello *hello);
void wire_put_welcome(uint8_t *p, const struct wire_welcome *welcome);
void wire_put_frame(uint8_t *p, const struct wire_frame *frame);
void wire_put_mc(uint8_t *p, const struct wire_mc *req);

/* Each reads its fixed length; false: not a valid one. */
bool wire_get_hello(const uint8_t *p, struct wire_hello *out);
bool wire_get_welcome(const uint8_t *p, struct wire_welcome *out);
bool wire_get_frame(const uint8_t *p, struct wire_frame *out);
void wire_get_mc(const uint8_t *p, struct wire_mc *out);

/*
 * The n descriptors of a frame into `out`; false where one is empty, wraps round the end of the
 * address space, or their lengths do not add up to `payload`.
 */
bool wire_get_table(const uint8_t *p, uint32_t n, uint64_t payload, struct wire_desc *out);

/* Joins equal neighbours of st[0..n) into ranges at `p` (room for n); returns how many. */
uint32_t wire_put_ranges(uint8_t *p, const uint8_t *st, uint32_t n);

/*
 * The other way: n_ranges at `p` into st[0..n). False unless they cover exactly n elements with
 * known statuses.
 */
bool wire_get_ranges(const uint8_t *p, uint32_t n_ranges, uint32_t n, uint8_t *st);

#endif /* TCP_WIRE_H */
