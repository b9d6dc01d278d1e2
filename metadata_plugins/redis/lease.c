/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keys with a time to live, renewed by one thread while the store is open. A key is renewed
 * only while it has our value; one that the server lost is put again, one that is another's by
 * now is left alone. Knows nothing of what the values mean.
 */
#include <openssl/evp.h>
#include <stdio.h>

#include "../common/plug.h"
#include "redis.h"

#define KEEP_MAX_MS  4000u /* at the latest; so soon an emptied server is noticed */
#define RETRY_MIN_MS 200u
#define CALL_MS      3000u

struct leased {
    struct leased *next;
    char *key;
    void *val;
    size_t len;
    uint32_t ttl_ms;
    char sha1[41];
};

/* -1: absent; 0: another value; 1: ours, and renewed. */
static const char renew_script[] =
    "local v = redis.call('GET', KEYS[1]) if not v then return -1 end "
    "if redis.sha1hex(v) ~= ARGV[1] then return 0 end "
    "return redis.call('PEXPIRE', KEYS[1], ARGV[2])";

/* ---- turns --------------------------------------------------------------------------------
 */

ferry_status redis_lease_enter(struct ferry_store *store, uint64_t deadline_ms)
{
    struct timespec until = fm_timespec(deadline_ms);
    ferry_status status = FERRY_OK;

    pthread_mutex_lock(&store->lock);
    while (store->busy && !status) {
        if (pthread_cond_timedwait(&store->changed, &store->lock, &until) && store->busy)
            status = FERRY_EUNREACH;
    }
    if (!status)
        store->busy = 1;
    pthread_mutex_unlock(&store->lock);
    if (status)
        FM_LOG(store->host, FERRY_LOG_WARN, "%s: an earlier write has not ended in time",
               store->name);
    return status;
}

void redis_lease_leave(struct ferry_store *store)
{
    pthread_mutex_lock(&store->lock);
    store->busy = 0;
    pthread_cond_broadcast(&store->changed);
    pthread_mutex_unlock(&store->lock);
}

/* ---- the list; changed with the turn and the lock, read with either -----------------------
 */

static void leased_free(struct leased *leased)
{
    if (!leased)
        return;
    free(leased->key);
    free(leased->val);
    free(leased);
}

static struct leased *leased_new(const struct ferry_store_put *args)
{
    struct leased *leased = calloc(1, sizeof(*leased));
    unsigned char sum[EVP_MAX_MD_SIZE];
    unsigned n = 0;

    if (!leased)
        return NULL;
    leased->key = strdup(args->key);
    leased->val = malloc(args->val_len + 1);
    leased->len = args->val_len;
    leased->ttl_ms = args->ttl_ms;
    if (!leased->key || !leased->val ||
        EVP_Digest(args->val_len ? args->val : "", args->val_len, sum, &n, EVP_sha1(), NULL) !=
            1) {
        leased_free(leased);
        return NULL;
    }
    if (args->val_len)
        memcpy(leased->val, args->val, args->val_len);
    for (unsigned i = 0; i < n && i < 20; i++)
        snprintf(leased->sha1 + i * 2, 3, "%02x", sum[i]);
    return leased;
}

static struct leased **find(struct ferry_store *store, const char *key)
{
    struct leased **at = &store->leased;

    while (*at && strcmp((*at)->key, key) != 0)
        at = &(*at)->next;
    return at;
}

int redis_lease_has(struct ferry_store *store, const char *key)
{
    int has;

    pthread_mutex_lock(&store->lock);
    has = *find(store, key) != NULL;
    pthread_mutex_unlock(&store->lock);
    return has;
}

void redis_lease_forget(struct ferry_store *store, const char *key)
{
    struct leased **at, *old;

    pthread_mutex_lock(&store->lock);
    at = find(store, key);
    old = *at;
    if (old)
        *at = old->next;
    pthread_mutex_unlock(&store->lock);
    leased_free(old);
}

/* ---- renewing -----------------------------------------------------------------------------
 */

/* The same as the script for users who may not run scripts; the value comes over. */
static ferry_status renew_by_hand(struct ferry_store *store, const struct leased *leased,
                                  int *found_out)
{
    ferry_status status =
        redis_set(store, NULL, leased->key, leased->val, leased->len, leased->ttl_ms,
                  redis_rev(leased->val, leased->len), fm_now_ms() + CALL_MS);

    *found_out = 1;
    if (status != FERRY_ECONFLICT)
        return status;
    *found_out = -1; /* absent or another's: put_again finds out */
    return FERRY_OK;
}

static ferry_status renew_key(struct ferry_store *store, const struct leased *leased,
                              int *found_out)
{
    char ttl[16];
    const char *argv[] = {"EVAL", renew_script, "1", leased->key, leased->sha1, ttl};
    size_t lens[6];
    redisReply *reply = NULL;
    ferry_status status;

    if (store->no_scripts)
        return renew_by_hand(store, leased, found_out);
    snprintf(ttl, sizeof(ttl), "%u", leased->ttl_ms);
    for (size_t i = 0; i < 6; i++)
        lens[i] = strlen(argv[i]);
    status = redis_do(store, NULL, 6, argv, lens, fm_now_ms() + CALL_MS, &reply);
    if (status)
        return status;
    if (reply->type == REDIS_REPLY_INTEGER) {
        *found_out = (int)reply->integer;
    } else if (reply->type == REDIS_REPLY_ERROR &&
               (strstr(reply->str, "NOPERM") || strstr(reply->str, "unknown command"))) {
        store->no_scripts = 1;
        status = renew_by_hand(store, leased, found_out);
    } else {
        status = FERRY_EUNREACH;
    }
    freeReplyObject(reply);
    return status;
}

/* With the turn. FERRY_OK: each key is there, or another's. */
static ferry_status renew_all(struct ferry_store *store)
{
    struct leased **at = &store->leased;
    ferry_status status = FERRY_OK;

    while (*at) {
        struct leased *leased = *at;
        int found = 0;

        status = renew_key(store, leased, &found);
        if (!status && found < 0) {
            status = redis_set(store, NULL, leased->key, leased->val, leased->len,
                               leased->ttl_ms, FERRY_REV_ABSENT, fm_now_ms() + CALL_MS);
            if (!status)
                FM_LOG(store->host, FERRY_LOG_INFO, "%s: %s was lost and is put again",
                       store->name, leased->key);
            found = status != FERRY_ECONFLICT;
            if (!found)
                status = FERRY_OK;
        }
        if (status)
            return status;
        if (found) {
            at = &leased->next;
            continue;
        }
        FM_LOG(store->host, FERRY_LOG_WARN, "%s: %s is another's now; it is left alone",
               store->name, leased->key);
        redis_lease_forget(store, leased->key);
    }
    return FERRY_OK;
}

/* A third of the shortest time to live; with the lock. */
static uint32_t period_ms(const struct ferry_store *store)
{
    uint32_t ms = KEEP_MAX_MS;

    for (const struct leased *leased = store->leased; leased; leased = leased->next) {
        if (leased->ttl_ms / 3 < ms)
            ms = leased->ttl_ms / 3;
    }
    return ms;
}

static void *keeper_main(void *arg)
{
    struct ferry_store *store = arg;
    unsigned seed = (unsigned)fm_now_ms() ^ (unsigned)(uintptr_t)store;
    uint32_t retry_ms = 0;

    pthread_mutex_lock(&store->lock);
    while (!store->stop) {
        struct timespec until;
        uint32_t ms;
        ferry_status status;

        if (store->busy || !store->leased || store->due_ms > fm_now_ms()) {
            until = fm_timespec(store->leased && !store->busy ? store->due_ms
                                                              : fm_now_ms() + 60000);
            pthread_cond_timedwait(&store->changed, &store->lock, &until);
            continue;
        }
        store->busy = 1;
        pthread_mutex_unlock(&store->lock);
        status = renew_all(store);
        if (status && !retry_ms)
            FM_LOG(store->host, FERRY_LOG_WARN, "%s: keys cannot be renewed; trying again",
                   store->name);
        pthread_mutex_lock(&store->lock);
        ms = period_ms(store);
        retry_ms = !status ? 0 : retry_ms ? retry_ms * 2 : RETRY_MIN_MS;
        if (retry_ms > ms / 2)
            retry_ms = ms / 2;
        if (retry_ms)
            ms = retry_ms;
        store->due_ms = fm_now_ms() + ms - (uint32_t)rand_r(&seed) % (ms / 4 + 1);
        store->busy = 0;
        pthread_cond_broadcast(&store->changed);
    }
    pthread_mutex_unlock(&store->lock);
    return NULL;
}

static ferry_status keeper_start(struct ferry_store *store)
{
    int rc = 0;

    pthread_mutex_lock(&store->lock);
    if (!store->keeper_runs) {
        rc = pthread_create(&store->keeper, NULL, keeper_main, store);
        store->keeper_runs = !rc;
    }
    pthread_mutex_unlock(&store->lock);
    if (rc)
        FM_LOG(store->host, FERRY_LOG_WARN, "%s: no thread to renew keys: %s", store->name,
               strerror(rc));
    return rc ? FERRY_ENOMEM : FERRY_OK;
}

ferry_status redis_lease_put(struct ferry_store *store, const struct ferry_store_put *args,
                             uint64_t deadline_ms)
{
    struct leased *fresh = leased_new(args);
    ferry_status status = fresh ? keeper_start(store) : FERRY_ENOMEM;
    char what[300];
    uint64_t due_ms;

    if (!status)
        status = redis_lease_enter(store, deadline_ms);
    if (status) {
        leased_free(fresh);
        return status;
    }
    snprintf(what, sizeof(what), "put %s", args->key);
    status = redis_set(store, what, args->key, args->val, args->val_len, args->ttl_ms,
                       args->expect_rev, deadline_ms);
    if (!status) {
        redis_lease_forget(store, args->key);
        pthread_mutex_lock(&store->lock);
        fresh->next = store->leased;
        store->leased = fresh;
        fresh = NULL;
        due_ms = fm_now_ms() + period_ms(store);
        if (!store->leased->next || due_ms < store->due_ms)
            store->due_ms = due_ms;
        pthread_mutex_unlock(&store->lock);
    }
    redis_lease_leave(store);
    leased_free(fresh);
    return status;
}

void redis_lease_close(struct ferry_store *store)
{
    pthread_mutex_lock(&store->lock);
    store->stop = 1;
    pthread_cond_broadcast(&store->changed);
    pthread_mutex_unlock(&store->lock);
    if (store->keeper_runs)
        pthread_join(store->keeper, NULL);
    while (store->leased) {
        struct leased *leased = store->leased;

        store->leased = leased->next;
        leased_free(leased);
    }
}
