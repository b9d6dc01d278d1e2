/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tcp transport's bytes: each header against the bytes that docs/wire-tcp.md and upstream's
 * format give, and every rule that a reader must hold its peer to.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "wire.h"

static void hello_bytes(void **state)
{
    static const uint8_t want[WIRE_HELLO_LEN] = {
        'F',  'E',  'R',  'R',  'Y',  'v',  '3',  0xf9, 3, 0, 32, 0, 0, 0, 0, 0,
        0x08, 0x07, 0x06, 0x05, 0x04, 0x03, 0x02, 0x01, 0, 0, 0,  0, 0, 0, 0, 0};
    struct wire_hello h = {.version = 3, .len = 32, .incarnation = 0x0102030405060708ull}, back;
    uint8_t p[WIRE_HELLO_LEN];

    (void)state;
    wire_put_hello(p, &h);
    assert_memory_equal(p, want, sizeof want);
    assert_true(wire_get_hello(p, &back));
    assert_int_equal(back.version, 3);
    assert_int_equal(back.incarnation, h.incarnation);
    /* As upstream's size it must be one that no server accepts. */
    assert_true(wire_get64(p) > INT64_MAX);
}

static void hello_refused(void **state)
{
    uint8_t p[WIRE_HELLO_LEN];
    struct wire_hello out;

    (void)state;
    wire_put_hello(p, &(struct wire_hello){.version = 3, .len = WIRE_HELLO_LEN - 1});
    assert_false(wire_get_hello(p, &out));
    wire_put_hello(p, &(struct wire_hello){.version = 3, .len = WIRE_HELLO_MAX + 1});
    assert_false(wire_get_hello(p, &out));
    wire_put_hello(p, &(struct wire_hello){.version = 9, .len = WIRE_HELLO_MAX});
    assert_true(wire_get_hello(p, &out)); /* a later one, with more behind it */
    p[7] ^= 1;
    assert_false(wire_get_hello(p, &out));
}

static void welcome_bytes(void **state)
{
    static const uint8_t want[WIRE_WELCOME_LEN] = {
        'F', 'E', 'R', 'R', 'Y', 'v', '3', 0xfa, 3, 0, 40,   0,    0, 0, 0, 0, 0x2a, 0, 0, 0,
        0,   0,   0,   0,   1,   0,   0,   0,    0, 0, 0xe8, 0x03, 0, 0, 1, 0, 0,    0, 0, 0};
    struct wire_welcome w = {.version = 3,
                             .len = 40,
                             .incarnation = 42,
                             .status = WIRE_WELCOME_STALE,
                             .max_desc = 1000u << 16,
                             .max_payload = 1u << 16},
                        back;
    uint8_t p[WIRE_WELCOME_LEN];

    (void)state;
    wire_put_welcome(p, &w);
    assert_memory_equal(p, want, sizeof want);
    assert_true(wire_get_welcome(p, &back));
    assert_int_equal(back.status, WIRE_WELCOME_STALE);
    assert_int_equal(back.max_payload, 1u << 16);
    p[7] = 0xf9; /* our own hello, echoed */
    assert_false(wire_get_welcome(p, &back));
}

static void frame_bytes(void **state)
{
    static const uint8_t want[WIRE_FRAME_LEN] = {'F', 'R', 'M', '3', 1, 0, 0xe8, 0x03, 7,   0,
                                                 0,   0,   0,   0,   0, 0, 0,    0,    0x40};
    uint8_t p[WIRE_FRAME_LEN];
    struct wire_frame f = {.type = WIRE_WRITE, .n = 1000, .cookie = 7, .payload = 4u << 20},
                      back;

    (void)state;
    wire_put_frame(p, &f);
    assert_memory_equal(p, want, sizeof want);
    assert_true(wire_get_frame(p, &back));
    assert_int_equal(back.n, 1000);
    assert_int_equal(back.payload, 4u << 20);
}

static void frame_refused(void **state)
{
    const struct wire_frame good = {.type = WIRE_READ, .n = 1, .payload = 1};
    struct wire_frame bad[] = {good, good, good, good, good}, out;
    uint8_t p[WIRE_FRAME_LEN];

    (void)state;
    bad[0].type = 0;
    bad[1].type = WIRE_READ_REPLY + 1;
    bad[2].n = 0;
    bad[3].n = WIRE_MAX_DESC + 1;
    bad[4].payload = WIRE_MAX_PAYLOAD + 1;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        wire_put_frame(p, &bad[i]);
        assert_false(wire_get_frame(p, &out));
    }
    wire_put_frame(p, &good);
    assert_true(wire_get_frame(p, &out));
    p[0] ^= 0x20;
    assert_false(wire_get_frame(p, &out));
}

static void table(void **state)
{
    uint8_t p[2 * WIRE_DESC_LEN];
    struct wire_desc d[2];

    (void)state;
    wire_put_desc(p, 0x1000, 10);
    wire_put_desc(p + WIRE_DESC_LEN, 0x2000, 20);
    assert_true(wire_get_table(p, 2, 30, d));
    assert_int_equal(d[1].addr, 0x2000);
    assert_int_equal(d[1].len, 20);
    assert_false(wire_get_table(p, 2, 29, d));
    assert_false(wire_get_table(p, 2, 31, d));
    assert_false(wire_get_table(p, 2, 9, d));

    wire_put_desc(p, 0x1000, 0); /* empty */
    assert_false(wire_get_table(p, 2, 20, d));
    wire_put_desc(p, UINT64_MAX - 8, 9); /* ends where the address space does */
    assert_false(wire_get_table(p, 2, 30, d));
    /* Lengths whose sum, taken modulo 2^64, is the payload. */
    wire_put_desc(p, 0, UINT64_MAX - 9);
    wire_put_desc(p + WIRE_DESC_LEN, 0, 20);
    assert_false(wire_get_table(p, 2, 10, d));
}

static void ranges(void **state)
{
    static const uint8_t st[] = {0, 0, 0, 2, 1, 1};
    uint8_t p[sizeof st * WIRE_RANGE_LEN], back[sizeof st];

    (void)state;
    assert_int_equal(wire_put_ranges(p, st, sizeof st), 3);
    assert_int_equal(wire_get32(p), 3);
    assert_int_equal(wire_get32(p + 12), WIRE_ST_ACCESS);
    assert_true(wire_get_ranges(p, 3, sizeof st, back));
    assert_memory_equal(st, back, sizeof st);

    assert_false(wire_get_ranges(p, 2, sizeof st, back)); /* too few elements */
    assert_false(wire_get_ranges(p, 3, 5, back));         /* too many */
    wire_put32(p, 0);
    assert_false(wire_get_ranges(p, 3, sizeof st, back)); /* an empty one */
    wire_put32(p, UINT32_MAX);
    assert_false(wire_get_ranges(p, 3, sizeof st, back));
    wire_put32(p, 3);
    wire_put32(p + 4, WIRE_ST_N); /* a status that there is not */
    assert_false(wire_get_ranges(p, 3, sizeof st, back));
}

static void upstream(void **state)
{
    /* The header of the worked example of a v2 WRITE of 16 bytes to 0x7f8ae79ab800. */
    static const uint8_t want[WIRE_MC_LEN] = {0x10, 0,    0,    0,    0,    0,    0, 0,
                                              0x00, 0xb8, 0x9a, 0xe7, 0x8a, 0x7f, 0, 0,
                                              0x81, 0,    0,    0,    0,    0,    0, 0};
    uint8_t p[WIRE_MC_LEN], word[8];
    struct wire_mc r = {.size = 16, .addr = 0x7f8ae79ab800ull, .write = true, .v2 = true};

    (void)state;
    wire_put_mc(p, &r);
    assert_memory_equal(p, want, sizeof want);
    memset(p + 17, 0xa5, 7); /* upstream pads with whatever is in memory */
    p[16] = 0x80;
    wire_get_mc(p, &r);
    assert_false(r.write);
    assert_true(r.v2);
    p[16] = 0x01;
    wire_get_mc(p, &r);
    assert_true(r.write);
    assert_false(r.v2);
    p[16] = 0x83; /* what is not 1 is a READ */
    wire_get_mc(p, &r);
    assert_false(r.write);
    wire_put64(word, WIRE_MC_REJECTED);
    assert_memory_equal(word, "\1\0\0\0VTCM", 8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hello_bytes),   cmocka_unit_test(hello_refused),
        cmocka_unit_test(welcome_bytes), cmocka_unit_test(frame_bytes),
        cmocka_unit_test(frame_refused), cmocka_unit_test(table),
        cmocka_unit_test(ranges),        cmocka_unit_test(upstream),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
