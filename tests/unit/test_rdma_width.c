/* SPDX-License-Identifier: Apache-2.0 */
/* One rail or all of them: what the rdma transport makes of what it measures. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "rdma.h"

#define MIB         (UINT64_C(1) << 20)
#define SOON        UINT64_C(25000000) /* a measurement, and some */
#define TWO         2u
#define READS(link) ((link)->width.of[FERRY_OP_READ])

static int level = FERRY_LOG_INFO;
static const struct ferry_host host = {.size = sizeof(host), .log_level = &level};
static struct ferry_tp tp = {.host = &host};
static struct ferry_queue queue = {.tp = &tp};
static char peer_name[] = "peer";
static struct ferry_peer peer = {.name = peer_name};

static struct rdma_link *two_rails(void)
{
    struct rdma_link *link = calloc(1, sizeof(*link) + TWO * sizeof(link->rail[0]));

    assert_non_null(link);
    link->queue = &queue;
    link->peer = &peer;
    link->n_rails = TWO;
    for (uint32_t i = 0; i < TWO; i++)
        link->rail[i].state = RAIL_UP;
    return link;
}

/* A batch that is all in flight at once, `len` of it, and done SOON. */
static void carry(struct rdma_link *link, enum ferry_op op, uint64_t len)
{
    rdma_width_stage(link, op);
    link->rail[0].out_bytes = len;
    link->rail[0].out_bytes = 0;
    rdma_width_done(link, len, ft_now_ns() + SOON);
}

/* Batches for `ways` MiB over all and over one; how many of them went over one. */
static unsigned narrow_of(struct rdma_link *link, enum ferry_op op, unsigned batches,
                          uint64_t all, uint64_t one)
{
    unsigned narrow = 0;

    for (unsigned i = 0; i < batches; i++) {
        bool is_narrow = rdma_width(link, op) == 1;
        narrow += is_narrow;
        carry(link, op, (is_narrow ? one : all) * MIB);
    }
    return narrow;
}

static void all_where_they_are_faster(void **state)
{
    struct rdma_link *link = two_rails();

    assert_int_equal(rdma_width(link, FERRY_OP_WRITE), 2);
    /* one trial at once, then ever fewer: 8 are more than enough for 2000 */
    assert_in_range(narrow_of(link, FERRY_OP_WRITE, 2000, 8, 4), 1, 16);
    free(link);
}

static void one_where_all_are_slower_or_no_faster(void **state)
{
    for (uint64_t all = 6; all <= 8; all++) {
        struct rdma_link *link = two_rails();
        assert_in_range(narrow_of(link, FERRY_OP_READ, 2000, all, 8), 2000 - 16, 1999);
        free(link);
    }
}

static void each_operation_for_itself(void **state)
{
    struct rdma_link *link = two_rails();
    unsigned reads = 0, writes = 0;

    for (unsigned i = 0; i < 100; i++) {
        reads += narrow_of(link, FERRY_OP_READ, 1, 4, 8);
        writes += narrow_of(link, FERRY_OP_WRITE, 1, 8, 4);
    }
    assert_in_range(reads, 90, 99);
    assert_in_range(writes, 1, 10);
    free(link);
}

static void what_changes_is_noticed(void **state)
{
    struct rdma_link *link = two_rails();

    narrow_of(link, FERRY_OP_READ, 100, 4, 8);
    assert_int_equal(rdma_width(link, FERRY_OP_READ), 1);
    narrow_of(link, FERRY_OP_READ, 300, 16, 8);
    assert_int_equal(rdma_width(link, FERRY_OP_READ), 2);
    narrow_of(link, FERRY_OP_READ, 300, 4, 8);
    assert_int_equal(rdma_width(link, FERRY_OP_READ), 1);
    free(link);
}

static void nothing_is_learned_from(void **state)
{
    struct rdma_link *link = two_rails();

    /* small transfers, which a second rail cannot help */
    for (unsigned i = 0; i < 1000; i++)
        carry(link, FERRY_OP_READ, 4096);
    assert_true(READS(link).seen[false] == 0);
    /* READs and WRITEs at once */
    for (unsigned i = 0; i < 1000; i++) {
        rdma_width_stage(link, FERRY_OP_READ);
        link->rail[0].out_bytes = MIB;
        carry(link, FERRY_OP_WRITE, 8 * MIB);
    }
    assert_true(READS(link).seen[false] == 0);
    assert_true(link->width.of[FERRY_OP_WRITE].seen[false] == 0);
    /* the only rail that is up */
    link->rail[1].state = RAIL_DOWN;
    narrow_of(link, FERRY_OP_READ, 100, 8, 8);
    assert_true(READS(link).seen[false] == 0);
    assert_int_equal(rdma_width(link, FERRY_OP_READ), 1);
    free(link);
}

static void what_went_the_other_way_does_not_count(void **state)
{
    struct rdma_link *link = two_rails();

    link->rail[0].out_bytes = 4 * MIB; /* before the measurement begins */
    rdma_width_stage(link, FERRY_OP_READ);
    link->rail[1].out_bytes = MIB;
    link->rail[0].out_bytes = 0;
    rdma_width_done(link, 4 * MIB, ft_now_ns() + SOON);
    assert_true(READS(link).seen[false] == 0);
    link->rail[1].out_bytes = 0;
    rdma_width_done(link, MIB, ft_now_ns() + 2 * SOON);
    assert_in_range(READS(link).seen[false] * 1000, MIB * 1000 / SOON / 2,
                    MIB * 1000 / SOON + 1);
    free(link);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_where_they_are_faster),
        cmocka_unit_test(one_where_all_are_slower_or_no_faster),
        cmocka_unit_test(each_operation_for_itself),
        cmocka_unit_test(what_changes_is_noticed),
        cmocka_unit_test(nothing_is_learned_from),
        cmocka_unit_test(what_went_the_other_way_does_not_count),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
