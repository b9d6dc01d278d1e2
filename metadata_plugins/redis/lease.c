/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keys with a time to live: each is renewed for itself, and only while it has our value.
 */
#include <openssl/evp.h>
#include <stdio.h>

#include "../common/plug.h"
#include "redis.h"

/* What became of one key. -1: absent; 0: another value; 1: ours, and renewed. */
static const char renew_script[] =
    "local v = redis.call('GET', KEYS[1]) if not v then return -1 end "
    "if redis.sha1hex(v) ~= ARGV[1] then return 0 end "
    "return redis.call('PEXPIRE', KEYS[1], ARGV[2])";

/* In hexadecimal, as the script's redis.sha1hex; 0: this OpenSSL has none. */
static int sha1_of(const void *val, size_t len, char *hex)
{
    unsigned char sum[EVP_MAX_MD_SIZE];
    unsigned n = 0;

    if (EVP_Digest(val, len, sum, &n, EVP_sha1(), NULL) != 1)
        return 0;
    for (unsigned i = 0; i < n; i++)
        snprintf(hex + i * 2, 3, "%02x", sum[i]);
    return 1;
}

/* The same as the script for users who may not run scripts; the value comes over. */
static ferry_status renew_by_hand(struct ferry_store *store, const struct fm_lease *lease,
                                  const struct fm_leased *leased, int *found_out)
{
    ferry_status status =
        redis_set(store, NULL, leased->key, leased->val, leased->len, lease->ttl_ms,
                  redis_rev(leased->val, leased->len), fm_now_ms() + FM_LEASE_CALL_MS);

    *found_out = 1;
    if (status != FERRY_ECONFLICT)
        return status;
    *found_out = -1; /* absent or another's: renew() finds out */
    return FERRY_OK;
}

static ferry_status renew_key(struct ferry_store *store, const struct fm_lease *lease,
                              const struct fm_leased *leased, int *found_out)
{
    char ttl[16];
    char sha1[2 * EVP_MAX_MD_SIZE + 1];
    const char *argv[] = {"EVAL", renew_script, "1", leased->key, sha1, ttl};
    size_t lens[6];
    redisReply *reply = NULL;
    ferry_status status;

    if (store->no_scripts || !sha1_of(leased->val, leased->len, sha1))
        return renew_by_hand(store, lease, leased, found_out);
    snprintf(ttl, sizeof(ttl), "%u", lease->ttl_ms);
    for (size_t i = 0; i < 6; i++)
        lens[i] = strlen(argv[i]);
    status = redis_do(store, NULL, 6, argv, lens, fm_now_ms() + FM_LEASE_CALL_MS, &reply);
    if (status)
        return status;
    if (reply->type == REDIS_REPLY_INTEGER) {
        *found_out = (int)reply->integer;
    } else if (reply->type == REDIS_REPLY_ERROR &&
               (strstr(reply->str, "NOPERM") || strstr(reply->str, "unknown command"))) {
        store->no_scripts = 1;
        status = renew_by_hand(store, lease, leased, found_out);
    } else {
        status = FERRY_EUNREACH;
    }
    freeReplyObject(reply);
    return status;
}

static ferry_status renew(struct ferry_store *store, struct fm_lease *lease)
{
    struct fm_leased **at = &lease->keys;
    ferry_status status = FERRY_OK;

    while (*at) {
        struct fm_leased *leased = *at;
        int found = 0;

        status = renew_key(store, lease, leased, &found);
        if (!status && found < 0)
            status = redis_set(store, NULL, leased->key, leased->val, leased->len,
                               lease->ttl_ms, FERRY_REV_ABSENT, fm_now_ms() + FM_LEASE_CALL_MS);
        if (status && status != FERRY_ECONFLICT)
            return status;
        if (status || !found)
            at = fm_leased_lost(store->leases, at);
        else if (found < 0)
            at = fm_leased_put_again(store->leases, at);
        else
            at = &leased->next;
    }
    return FERRY_OK;
}

static ferry_status put(struct ferry_store *store, struct fm_lease *lease,
                        const struct ferry_store_put *args, uint64_t deadline_ms,
                        uint64_t *rev_out)
{
    (void)lease;
    return redis_put_key(store, args, deadline_ms, rev_out);
}

const struct fm_leases_ops redis_leases_ops = {
    .put = put,
    .del = redis_del_key,
    .renew = renew,
};
