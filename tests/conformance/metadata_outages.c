/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Conformance of metadata plugins: the server stopped, frozen, emptied. Absent is never
 * confused with unreachable, every call is bounded, and all is well again afterwards.
 */
#include "metadata_conformance.h"

#include <string.h>

static ferry_status list_nothing(struct ferry_kv_sink *sink, const struct ferry_kv *kv)
{
    return FERRY_OK;
}

static enum result every_call_unreachable(uint32_t timeout_ms, uint32_t at_most_ms)
{
    struct ferry_kv_sink sink = {list_nothing};
    struct ferry_store_put args = {
        .size = sizeof(args), .key = key_of("outage"), .val = "x", .val_len = 1};
    uint64_t start = now_ms();

    CHECK_STATUS(get_status(store, key_of("outage"), timeout_ms), FERRY_EUNREACH);
    CHECK(last_words()[0] != '\0');
    CHECK(now_ms() - start < at_most_ms);
    start = now_ms();
    CHECK_STATUS(get_status(store, key_of("never-there"), timeout_ms), FERRY_EUNREACH);
    CHECK(now_ms() - start < at_most_ms);
    start = now_ms();
    CHECK_STATUS(ops->put(store, &args, timeout_ms, NULL), FERRY_EUNREACH);
    CHECK(now_ms() - start < at_most_ms);
    start = now_ms();
    CHECK_STATUS(ops->del(store, key_of("outage"), timeout_ms), FERRY_EUNREACH);
    CHECK(now_ms() - start < at_most_ms);
    if (caps & FERRY_STORE_CAP_LIST) {
        start = now_ms();
        CHECK_STATUS(ops->list(store, key_of("out"), timeout_ms, &sink), FERRY_EUNREACH);
        CHECK(now_ms() - start < at_most_ms);
    }
    if (caps & FERRY_STORE_CAP_LEASE) {
        args.ttl_ms = 5000;
        start = now_ms();
        CHECK_STATUS(ops->put(store, &args, timeout_ms, NULL), FERRY_EUNREACH);
        CHECK(now_ms() - start < at_most_ms);
    }
    return PASSED;
}

static enum result stopped(void)
{
    const char *key = key_of("outage");
    enum result result;

    if (!have_server())
        return SKIPPED;
    CHECK_STATUS(put(key, "before", 6, 0, FERRY_REV_ANY, NULL), FERRY_OK);
    CHECK(server("stop"));
    result = every_call_unreachable(2000, 3500);
    CHECK(server("start"));
    CHECK(result == PASSED);
    CHECK(becomes(store, key, FERRY_OK, 5000));
    CHECK(holds(key, "before", 6));
    CHECK_STATUS(get_status(store, key_of("never-there"), 5000), absent);
    CHECK_STATUS(ops->del(store, key, 5000), FERRY_OK);
    return PASSED;
}

static enum result frozen(void)
{
    const char *key = key_of("frozen"); /* what is asked while frozen may be done later */
    enum result result;

    if (!have_server())
        return SKIPPED;
    CHECK_STATUS(put(key, "before", 6, 0, FERRY_REV_ANY, NULL), FERRY_OK);
    CHECK(server("freeze"));
    result = every_call_unreachable(400, 1500);
    CHECK(server("thaw"));
    CHECK(result == PASSED);
    CHECK(becomes(store, key, FERRY_OK, 5000));
    CHECK(holds(key, "before", 6));
    CHECK_STATUS(ops->del(store, key, 5000), FERRY_OK);
    return PASSED;
}

static ferry_status put_of(struct ferry_store *whose, const char *key, const char *val,
                           uint32_t ttl_ms)
{
    struct ferry_store *mine = store;
    ferry_status status;

    store = whose;
    status = put(key, val, strlen(val), ttl_ms, FERRY_REV_ANY, NULL);
    store = mine;
    return status;
}

static enum result emptied(void)
{
    const char *key = key_of("emptied"), *leased = key_of("leased");
    const uint32_t ttl_ms = 3000;
    struct ferry_store *owner;
    ferry_status status = FERRY_EUNREACH;

    if (!have_server())
        return SKIPPED;
    CHECK_STATUS(put(key, "gone", 4, 0, FERRY_REV_ANY, NULL), FERRY_OK);
    CHECK_STATUS(open_store(&owner), FERRY_OK);
    if (caps & FERRY_STORE_CAP_LEASE)
        CHECK_STATUS(put_of(owner, leased, "mine", ttl_ms), FERRY_OK);
    CHECK(server("empty"));
    CHECK(becomes(store, key, absent, 5000));
    if (!(caps & FERRY_STORE_CAP_LEASE)) {
        ops->close(owner);
        return PASSED;
    }
    CHECK(becomes(store, leased, FERRY_OK, 5000)); /* put again by the plugin */
    CHECK(holds(leased, "mine", 4));

    /* What another put there meanwhile stays the other's, for as long as the other said. */
    CHECK(server("stop") && server("empty"));
    for (int i = 0; i < 50 && status == FERRY_EUNREACH; i++) {
        status = put_of(store, leased, "theirs", 0);
        if (status)
            sleep_ms(20);
    }
    sleep_ms(ttl_ms);
    ops->close(owner);
    CHECK_STATUS(status, FERRY_OK);
    CHECK(holds(leased, "theirs", 6));
    sleep_ms(ttl_ms + 500);
    CHECK(holds(leased, "theirs", 6));
    CHECK_STATUS(ops->del(store, leased, 5000), FERRY_OK);
    return PASSED;
}

/* A cluster without one of three: what is asked is answered within the time of one call. */
static enum result without_one(const char *command)
{
    const char *key = key_of("cluster");
    const char *leased = key_of("cluster-leased");
    uint64_t start;
    ferry_status status;

    if (!have_server())
        return SKIPPED;
    CHECK_STATUS(put(key, "before", 6, 0, FERRY_REV_ANY, NULL), FERRY_OK);
    if (caps & FERRY_STORE_CAP_LEASE)
        CHECK_STATUS(put(leased, "mine", 4, 3000, FERRY_REV_ANY, NULL), FERRY_OK);
    if (!server(command)) {
        CHECK_STATUS(ops->del(store, key, 5000), FERRY_OK);
        CHECK_STATUS(ops->del(store, leased, 5000), FERRY_OK);
        return SKIPPED;
    }
    start = now_ms();
    status = get_status(store, key, 5000);
    if (!status)
        status = put(key, "after", 5, 0, FERRY_REV_ANY, NULL);
    if (!status && !holds(key, "after", 5))
        status = FERRY_EIO;
    start = now_ms() - start;
    if (!status && (caps & FERRY_STORE_CAP_LEASE)) {
        sleep_ms(5000);
        status = get_status(store, leased, 5000); /* was kept alive by the rest */
    }
    CHECK(server("thaw") && server("start"));
    CHECK_STATUS(status, FERRY_OK);
    CHECK(start < 5000);
    CHECK_STATUS(ops->del(store, key, 5000), FERRY_OK);
    CHECK_STATUS(ops->del(store, leased, 5000), FERRY_OK);
    return PASSED;
}

static enum result leader_killed(void)
{
    return without_one("lose_leader");
}

/* The one that the plugin asks first. */
static enum result first_killed(void)
{
    return without_one("lose_first");
}

static enum result first_frozen(void)
{
    return without_one("freeze_first");
}

static enum result leader_frozen(void)
{
    return without_one("freeze_leader");
}

const struct test outage_tests[] = {
    {19, "stopped", "server stopped: unreachable, not absent; then well again", stopped},
    {20, "frozen", "server frozen: every call is bounded; then well again", frozen},
    {21, "emptied", "server emptied: what has a lease is put again", emptied},
    {22, "leader-killed", "a cluster's leader killed: the rest answers", leader_killed},
    {23, "leader-frozen", "a cluster's leader frozen: the rest answers", leader_frozen},
    {24, "first-killed", "a cluster's first member killed: the rest answers", first_killed},
    {25, "first-frozen", "a cluster's first member frozen: the rest answers", first_frozen},
    {0},
};
