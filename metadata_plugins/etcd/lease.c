/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Leases at the server: one for each time to live in use, kept alive with one request however
 * many keys it has. Where the server has forgotten one, its keys are put again under a new one.
 */
#include <cjson/cJSON.h>
#include <stdio.h>

#include "../common/plug.h"
#include "etcd.h"

static ferry_status grant(struct ferry_store *store, struct fm_lease *lease,
                          uint64_t deadline_ms, enum etcd_voice voice)
{
    char body[64];
    struct etcd_call call = {.path = "/v3/lease/grant",
                             .body = body,
                             .what = "grant a lease",
                             .deadline_ms = deadline_ms,
                             .voice = voice};
    ferry_status status;
    uint64_t id = 0;

    snprintf(body, sizeof(body), "{\"TTL\":\"%u\"}", (lease->ttl_ms + 999) / 1000);
    status = etcd_do(store, &call);
    if (!status) {
        id = etcd_u64(call.reply, "ID");
        if (!id)
            status = FERRY_EUNREACH;
    }
    cJSON_Delete(call.reply);
    if (!status)
        lease->id = id;
    return status == FERRY_ENOENT ? FERRY_EUNREACH : status;
}

/* FERRY_ENOENT: the server does not know this lease (any more). */
static ferry_status keep_alive(struct ferry_store *store, const struct fm_lease *lease,
                               uint64_t deadline_ms)
{
    char body[64];
    struct etcd_call call = {.path = "/v3/lease/keepalive",
                             .body = body,
                             .what = "keep a lease alive",
                             .deadline_ms = deadline_ms,
                             .voice = ETCD_QUIET};
    ferry_status status;

    snprintf(body, sizeof(body), "{\"ID\":\"%llu\"}", (unsigned long long)lease->id);
    status = etcd_do(store, &call);
    if (!status && !etcd_u64(cJSON_GetObjectItemCaseSensitive(call.reply, "result"), "TTL"))
        status = FERRY_ENOENT;
    cJSON_Delete(call.reply);
    return status;
}

/* Puts one key under its lease unless it is another's. FERRY_ECONFLICT: it is. */
static ferry_status put_again(struct ferry_store *store, const struct fm_lease *lease,
                              const struct fm_leased *leased)
{
    uint64_t expect_rev = FERRY_REV_ABSENT, seen_rev = 0;
    ferry_status status = FERRY_ECONFLICT;
    int mine = 1;

    for (int i = 0; i < 3 && status == FERRY_ECONFLICT && mine; i++) {
        status =
            etcd_put_key(store, leased->key, leased->val, leased->len, lease->id, expect_rev,
                         fm_now_ms() + FM_LEASE_CALL_MS, ETCD_QUIET, NULL, &seen_rev, &mine);
        expect_rev = seen_rev ? seen_rev : FERRY_REV_ABSENT;
    }
    return status;
}

static ferry_status renew(struct ferry_store *store, struct fm_lease *lease)
{
    struct fm_leased **at = &lease->keys;
    ferry_status status = FERRY_OK;

    if (lease->id && !lease->owed) {
        status = keep_alive(store, lease, fm_now_ms() + FM_LEASE_CALL_MS);
        if (status != FERRY_ENOENT)
            return status;
    }
    lease->owed = 1;
    status = grant(store, lease, fm_now_ms() + FM_LEASE_CALL_MS, ETCD_QUIET);
    if (status)
        return status;
    while (*at) {
        status = put_again(store, lease, *at);
        if (!status)
            at = fm_leased_put_again(store->leases, at);
        else if (status == FERRY_ECONFLICT)
            at = fm_leased_lost(store->leases, at);
        else
            return status == FERRY_ENOENT ? FERRY_EUNREACH : status;
    }
    lease->owed = 0;
    return FERRY_OK;
}

static ferry_status put(struct ferry_store *store, struct fm_lease *lease,
                        const struct ferry_store_put *args, uint64_t deadline_ms,
                        uint64_t *rev_out)
{
    ferry_status status = FERRY_ENOENT;

    if (!lease)
        return etcd_put_key(store, args->key, args->val, args->val_len, 0, args->expect_rev,
                            deadline_ms, ETCD_LOUD, rev_out, NULL, NULL);
    for (int i = 0; i < 2 && status == FERRY_ENOENT; i++) {
        status = lease->id ? FERRY_OK : grant(store, lease, deadline_ms, ETCD_LOUD);
        if (status)
            break;
        status = etcd_put_key(store, args->key, args->val, args->val_len, lease->id,
                              args->expect_rev, deadline_ms, i ? ETCD_LOUD : ETCD_ABSENT_QUIET,
                              rev_out, NULL, NULL);
        if (status == FERRY_ENOENT) {
            lease->id = 0; /* unknown there: the server restarted empty, or it expired */
            lease->owed = 1;
        }
    }
    return status == FERRY_ENOENT ? FERRY_EUNREACH : status;
}

const struct fm_leases_ops etcd_leases_ops = {
    .put = put,
    .del = etcd_del_key,
    .renew = renew,
};
