/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "content.h"
#include "kvmsg.h"
#include "pool.h"

static char error[256];

static struct layout small_layout(void)
{
    struct model model;
    struct layout layout;

    assert_true(
        model_parse("layers=3,kv_heads=1,head_dim=3,dtype=1", &model, error, sizeof(error)));
    assert_true(layout_of(&model, 1, 5, &layout, error, sizeof(error)));
    return layout;
}

static void contents_are_checked_to_the_byte(void **state)
{
    struct layout layout = small_layout();
    uint8_t *base = malloc(layout.total_len);
    struct content_fault fault;
    uint64_t sum;

    assert_int_equal(layout.piece_len, 3); /* no multiple of a word */
    memset(base, 0xee, layout.total_len);
    content_fill(&layout, 42, base, 3);
    sum = content_sum(&layout, 42, base, 3);
    for (uint64_t i = 0; i < layout.total_len; i++) {
        bool inside = false;
        for (uint32_t layer = 0; layer < 3; layer++)
            for (uint32_t half = 0; half < 2; half++)
                inside |= i - layout_off(&layout, 3, layer, half) < layout.piece_len;
        if (!inside)
            assert_int_equal(base[i], 0xee);
        base[i] ^= 1;
        assert_int_equal(content_check(&layout, 42, base, 3, &fault), !inside);
        assert_int_equal(content_sum(&layout, 42, base, 3) == sum, !inside);
        if (inside)
            assert_int_equal(layout_off(&layout, 3, fault.layer, fault.half) + fault.off, i);
        base[i] ^= 1;
    }
    free(base);
}

static void a_block_in_the_wrong_place_is_found(void **state)
{
    struct layout layout;
    struct model model;
    struct content_fault fault;
    uint8_t *base;

    assert_true(
        model_parse("layers=2,kv_heads=1,head_dim=16,dtype=2", &model, error, sizeof(error)));
    assert_true(layout_of(&model, 16, 4, &layout, error, sizeof(error)));
    base = calloc(1, layout.total_len);
    content_fill(&layout, 1, base, 0);
    content_fill(&layout, 2, base, 1);
    assert_true(content_sum(&layout, 1, base, 0) != content_sum(&layout, 2, base, 1));
    assert_false(content_check(&layout, 2, base, 0, &fault));
    /* keys of layer 0 where the values of layer 1 belong */
    memcpy(base + layout_off(&layout, 0, 1, 1), base + layout_off(&layout, 0, 0, 0),
           layout.piece_len);
    assert_false(content_check(&layout, 1, base, 0, &fault));
    assert_int_equal(fault.layer, 1);
    assert_int_equal(fault.half, 1);
    /* the right piece, 8 bytes off */
    content_fill(&layout, 1, base, 0);
    memmove(base + layout_off(&layout, 0, 0, 1) + 8, base + layout_off(&layout, 0, 0, 1),
            layout.piece_len - 8);
    assert_false(content_check(&layout, 1, base, 0, &fault));
    assert_int_equal(fault.off, 8);
    free(base);
}

static void known_blocks_are_reused_and_the_oldest_goes_first(void **state)
{
    static const uint64_t one[] = {1, 2}, two[] = {1, 3}, three[] = {4, 5, 6},
                          six[] = {1, 2, 3, 7, 8, 9};
    uint32_t a[2], b[2], c[6];
    bool fresh[6];
    struct pool pool;

    assert_true(pool_init(&pool, 5));
    assert_true(pool_acquire(&pool, one, 2, a, fresh));
    assert_true(fresh[0] && fresh[1] && a[0] != a[1]);
    pool_ready(&pool, a[0], 11);
    pool_ready(&pool, a[1], 12);
    pool_release(&pool, a, 2);

    assert_true(pool_acquire(&pool, two, 2, b, fresh));
    assert_true(!fresh[0] && fresh[1]);
    assert_int_equal(b[0], a[0]);
    assert_int_equal(pool.blocks[b[0]].sum, 11);
    pool_ready(&pool, b[1], 13);

    /* 1 and 3 are pinned, 2 is idle: it gives way, they do not */
    assert_true(pool_acquire(&pool, three, 3, c, fresh));
    assert_true(fresh[0] && fresh[1] && fresh[2]);
    assert_true(c[0] == a[1] || c[1] == a[1] || c[2] == a[1]);
    assert_false(pool_acquire(&pool, one, 2, a, fresh));
    pool_release(&pool, b, 2);
    assert_true(pool_acquire(&pool, one, 2, a, fresh));
    assert_true(!fresh[0] && fresh[1]);
    assert_int_equal(a[1], b[1]); /* the slot of 3 */
    assert_false(pool_acquire(&pool, six, 6, c, fresh));
    pool_fini(&pool);
}

static void the_least_recently_used_block_gives_way(void **state)
{
    uint32_t slots[5], again, fourth;
    struct pool pool;
    bool fresh;

    assert_true(pool_init(&pool, 3));
    for (uint64_t key = 1; key <= 3; key++) {
        assert_true(pool_acquire(&pool, &key, 1, &slots[key], &fresh));
        pool_ready(&pool, slots[key], key);
        pool_release(&pool, &slots[key], 1);
    }
    assert_true(pool_acquire(&pool, &(uint64_t){1}, 1, &again, &fresh));
    assert_true(!fresh && again == slots[1]);
    pool_release(&pool, &again, 1);
    assert_true(pool_acquire(&pool, &(uint64_t){4}, 1, &fourth, &fresh));
    assert_true(fresh);
    assert_int_equal(fourth, slots[2]);
    pool_fini(&pool);
}

static void a_spoilt_block_is_not_found_again(void **state)
{
    static const uint64_t keys[] = {1, 2};
    uint32_t a[2], b[2];
    bool fresh[2];
    struct pool pool;

    assert_true(pool_init(&pool, 4));
    assert_true(pool_acquire(&pool, keys, 2, a, fresh));
    pool_ready(&pool, a[0], 1);
    pool_spoil(&pool, a[1]);
    assert_true(pool_acquire(&pool, keys, 2, b, fresh));
    assert_true(!fresh[0] && fresh[1]);
    assert_int_not_equal(a[1], b[1]);
    pool_release(&pool, a, 2);
    assert_int_equal(pool.n_free, 2);
    /* never filled, because the sender died: gone as well */
    pool_release(&pool, b, 2);
    assert_int_equal(pool.n_free, 3);
    assert_int_equal(pool.n_idle, 1);
    assert_true(pool_acquire(&pool, keys, 2, a, fresh));
    assert_true(!fresh[0] && fresh[1]);
    pool_fini(&pool);
}

static void a_pool_survives_a_long_random_life(void **state)
{
    enum { SLOTS = 64, HELD = 6, MOST = 8 };
    uint64_t random = 12345, slot_key[SLOTS] = {0};
    struct {
        uint32_t slots[MOST];
        size_t n;
    } held[HELD] = {0};
    struct pool pool;
    size_t refused = 0, reused = 0;

    assert_true(pool_init(&pool, SLOTS));
    for (int step = 0; step < 20000; step++) {
        uint64_t keys[MOST];
        bool fresh[MOST];
        size_t h;

        random = random * 6364136223846793005u + 1442695040888963407u;
        h = (random >> 33) % HELD;
        pool_release(&pool, held[h].slots, held[h].n);
        held[h].n = 1 + (random >> 40) % MOST;
        for (size_t i = 0; i < held[h].n; i++)
            keys[i] = (random >> (8 + i * 3)) % 150;
        if (!pool_acquire(&pool, keys, held[h].n, held[h].slots, fresh)) {
            held[h].n = 0;
            refused++;
            continue;
        }
        for (size_t i = 0; i < held[h].n; i++) {
            uint32_t slot = held[h].slots[i];
            assert_true(slot < SLOTS);
            if (fresh[i]) {
                slot_key[slot] = keys[i];
                pool_ready(&pool, slot, keys[i]);
            } else
                reused++;
            assert_true(slot_key[slot] == keys[i]);
            assert_true(pool.blocks[slot].pins > 0);
        }
    }
    for (size_t h = 0; h < HELD; h++)
        pool_release(&pool, held[h].slots, held[h].n);
    assert_int_equal(pool.n_free + pool.n_idle, SLOTS);
    assert_true(reused > 1000);
    pool_fini(&pool);
}

static void messages_come_back_as_they_went(void **state)
{
    uint64_t keys[] = {0, UINT64_MAX, 0x123456789abcdef0u}, sums[] = {1, 2, UINT64_MAX - 1};
    uint32_t slots[] = {0, 7, UINT32_MAX};
    struct kvmsg offer = {.type = KVMSG_OFFER,
                          .session = UINT64_MAX,
                          .request = 77,
                          .tokens = 41,
                          .n = 3,
                          .keys = keys,
                          .sums = sums,
                          .slots_of = slots};
    struct kvmsg hello = {.type = KVMSG_HELLO,
                          .session = 5,
                          .block_tokens = 16,
                          .slots = 1170,
                          .base = 0xfffffffffff00000u,
                          .pull = true,
                          .requests = 500,
                          .most_blocks = 474};
    struct kvmsg got;
    size_t len;
    char *text = kvmsg_encode(&offer, &len);

    assert_true(kvmsg_decode(text, len, &got, error, sizeof(error)));
    assert_int_equal(got.type, KVMSG_OFFER);
    assert_true(got.session == UINT64_MAX && got.request == 77 && got.tokens == 41);
    assert_int_equal(got.n, 3);
    assert_memory_equal(got.keys, keys, sizeof(keys));
    assert_memory_equal(got.sums, sums, sizeof(sums));
    assert_memory_equal(got.slots_of, slots, sizeof(slots));
    kvmsg_free(&got);
    /* cut anywhere, it is refused */
    for (size_t i = 0; i < len; i++)
        assert_false(kvmsg_decode(text, i, &got, error, sizeof(error)));
    free(text);

    assert_true(model_parse("qwen2.5-7b", &hello.model, error, sizeof(error)));
    text = kvmsg_encode(&hello, &len);
    assert_true(kvmsg_decode(text, len, &got, error, sizeof(error)));
    assert_memory_equal(&got.model, &hello.model, sizeof(got.model));
    assert_true(got.base == hello.base && got.pull && got.slots == 1170 &&
                got.most_blocks == 474 && got.requests == 500);
    kvmsg_free(&got);
    free(text);
}

static void foreign_messages_are_refused_with_a_reason(void **state)
{
    static const struct {
        const char *text, *error;
    } cases[] = {
        {"{}", "\"v\" is no number from 0 to 4294967295"},
        {"{\"v\":2,\"type\":\"end\"}", "version 2 of the hand-over messages, ours is 1"},
        {"{\"v\":1,\"type\":\"hallo\"}", "no message type \"hallo\""},
        {"{\"v\":1,\"type\":\"end\",\"session\":\"xyz\"}",
         "\"session\" is no hexadecimal number of 64 bits"},
        {"{\"v\":1,\"type\":\"grant\",\"session\":\"1\",\"request\":\"1\",\"text\":\"\",\"n\":2,"
         "\"index\":\"0000000000000001\",\"slots_of\":\"00000000\"}",
         "\"slots_of\" does not hold 2 values"},
        {"{\"v\":1,\"type\":\"sent\",\"session\":\"1\",\"request\":\"1\",\"text\":\"\",\"n\":1,"
         "\"sums\":\"000000000000000g\"}",
         "\"sums\"[0] is not hexadecimal"},
        {"{\"v\":1,\"type\":\"sent\",\"session\":\"1\",\"request\":\"1\",\"text\":\"\","
         "\"n\":1e12,\"sums\":\"\"}",
         "\"n\" is no number from 0 to 1048576"},
        {"{\"v\":1,\"type\":\"hello\",\"session\":\"1\",\"request\":\"0\",\"text\":\"\","
         "\"model\":{\"name\":\"x\",\"layers\":4000000,\"kv_heads\":1,\"head_dim\":1,"
         "\"dtype\":1},\"block_tokens\":16,\"slots\":4,\"base\":\"0\"}",
         "a model has 1 to 1024 layers, 1 to 1024 kv_heads, a head_dim of 1 to 4096 and a dtype "
         "of 1 to 8 bytes"},
    };
    static const char rude[] =
        "{\"v\":1,\"type\":\"abort\",\"session\":\"1\",\"request\":\"0\",\"text\":\"\\u001b[2J\"}";
    struct kvmsg msg;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_false(
            kvmsg_decode(cases[i].text, strlen(cases[i].text), &msg, error, sizeof(error)));
        assert_string_equal(error, cases[i].error);
    }
    assert_true(kvmsg_decode(rude, sizeof(rude) - 1, &msg, error, sizeof(error)));
    assert_string_equal(msg.text, "?[2J");
    kvmsg_free(&msg);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(contents_are_checked_to_the_byte),
        cmocka_unit_test(a_block_in_the_wrong_place_is_found),
        cmocka_unit_test(known_blocks_are_reused_and_the_oldest_goes_first),
        cmocka_unit_test(the_least_recently_used_block_gives_way),
        cmocka_unit_test(a_spoilt_block_is_not_found_again),
        cmocka_unit_test(a_pool_survives_a_long_random_life),
        cmocka_unit_test(messages_come_back_as_they_went),
        cmocka_unit_test(foreign_messages_are_refused_with_a_reason),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
