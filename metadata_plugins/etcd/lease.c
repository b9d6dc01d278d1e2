/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Leases: one for each time to live in use, kept alive by one thread. Where the server has
 * forgotten one (restarted empty, or this process slept too long), its keys are put again
 * under a new one, unless they are another's by then. Knows nothing of what the values mean.
 */
#include <cjson/cJSON.h>
#include <stdio.h>

#include "../common/plug.h"
#include "etcd.h"

#define KEEP_MAX_MS  4000u /* at the latest; so soon an emptied server is noticed */
#define RETRY_MIN_MS 200u
#define CALL_MS      3000u

struct leased {
    struct leased *next;
    char *key;
    void *val;
    size_t len;
};

struct etcd_lease {
    struct etcd_lease *next;
    uint32_t ttl_ms;
    uint64_t id; /* 0 = to be granted */
    struct leased *keys;
    int owed; /* some of its keys may not be at the server under this id */
    uint64_t due_ms;
    uint32_t retry_ms;
};

/* ---- turns --------------------------------------------------------------------------------
 */

ferry_status etcd_lease_enter(struct ferry_store *store, uint64_t deadline_ms)
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
        FM_LOG(store->host, FERRY_LOG_WARN, "etcd: an earlier write has not ended in time");
    return status;
}

void etcd_lease_leave(struct ferry_store *store)
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

static struct leased *leased_new(const char *key, const void *val, size_t len)
{
    struct leased *leased = calloc(1, sizeof(*leased));

    if (!leased)
        return NULL;
    leased->key = strdup(key);
    leased->val = malloc(len + 1);
    leased->len = len;
    if (!leased->key || !leased->val) {
        leased_free(leased);
        return NULL;
    }
    if (len)
        memcpy(leased->val, val, len);
    return leased;
}

static struct leased **find(struct etcd_lease *leases, const char *key)
{
    for (struct etcd_lease *lease = leases; lease; lease = lease->next) {
        for (struct leased **at = &lease->keys; *at; at = &(*at)->next) {
            if (!strcmp((*at)->key, key))
                return at;
        }
    }
    return NULL;
}

int etcd_lease_has(struct ferry_store *store, const char *key)
{
    int has;

    pthread_mutex_lock(&store->lock);
    has = find(store->leases, key) != NULL;
    pthread_mutex_unlock(&store->lock);
    return has;
}

void etcd_lease_forget(struct ferry_store *store, const char *key)
{
    struct leased **at, *old = NULL;

    pthread_mutex_lock(&store->lock);
    at = find(store->leases, key);
    if (at) {
        old = *at;
        *at = old->next;
    }
    pthread_mutex_unlock(&store->lock);
    leased_free(old);
}

static struct etcd_lease *lease_for(struct ferry_store *store, uint32_t ttl_ms)
{
    struct etcd_lease *lease;

    for (lease = store->leases; lease; lease = lease->next) {
        if (lease->ttl_ms == ttl_ms)
            return lease;
    }
    lease = calloc(1, sizeof(*lease));
    if (!lease)
        return NULL;
    lease->ttl_ms = ttl_ms;
    pthread_mutex_lock(&store->lock);
    lease->next = store->leases;
    store->leases = lease;
    pthread_mutex_unlock(&store->lock);
    return lease;
}

/* ---- the server's side --------------------------------------------------------------------
 */

static ferry_status grant(struct ferry_store *store, struct etcd_lease *lease,
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
    if (status == FERRY_ENOENT)
        status = FERRY_EUNREACH;
    if (!status) {
        pthread_mutex_lock(&store->lock);
        lease->id = id;
        pthread_mutex_unlock(&store->lock);
    }
    return status;
}

/* FERRY_ENOENT: the server does not know this lease (any more). */
static ferry_status keep_alive(struct ferry_store *store, const struct etcd_lease *lease,
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
static ferry_status put_again(struct ferry_store *store, const struct etcd_lease *lease,
                              const struct leased *leased)
{
    uint64_t expect_rev = FERRY_REV_ABSENT, seen_rev = 0;
    ferry_status status = FERRY_ECONFLICT;
    int mine = 1;

    for (int i = 0; i < 3 && status == FERRY_ECONFLICT && mine; i++) {
        status =
            etcd_put_key(store, leased->key, leased->val, leased->len, lease->id, expect_rev,
                         fm_now_ms() + CALL_MS, ETCD_QUIET, NULL, &seen_rev, &mine);
        expect_rev = seen_rev ? seen_rev : FERRY_REV_ABSENT;
    }
    return status;
}

/* With the turn. FERRY_OK: every key is at the server. */
static ferry_status renew(struct ferry_store *store, struct etcd_lease *lease)
{
    struct leased **at = &lease->keys, *gone;
    ferry_status status = FERRY_OK;

    if (lease->id && !lease->owed) {
        status = keep_alive(store, lease, fm_now_ms() + CALL_MS);
        if (status != FERRY_ENOENT)
            return status;
    }
    lease->owed = 1;
    status = grant(store, lease, fm_now_ms() + CALL_MS, ETCD_QUIET);
    if (status)
        return status;
    while (*at) {
        status = put_again(store, lease, *at);
        if (status == FERRY_ECONFLICT) {
            FM_LOG(store->host, FERRY_LOG_WARN,
                   "etcd: %s was lost and is another's now; it is left alone", (*at)->key);
            pthread_mutex_lock(&store->lock);
            gone = *at;
            *at = gone->next;
            pthread_mutex_unlock(&store->lock);
            leased_free(gone);
        } else if (status) {
            return status == FERRY_ENOENT ? FERRY_EUNREACH : status;
        } else {
            FM_LOG(store->host, FERRY_LOG_INFO, "etcd: %s was lost and is put again",
                   (*at)->key);
            at = &(*at)->next;
        }
    }
    lease->owed = 0;
    return FERRY_OK;
}

/* ---- the thread ---------------------------------------------------------------------------
 */

/* Up to a quarter less: many nodes must not come in step. */
static uint32_t jittered(uint32_t ms, unsigned *seed)
{
    return ms - (uint32_t)rand_r(seed) % (ms / 4 + 1);
}

static uint32_t keep_ms(const struct etcd_lease *lease)
{
    return lease->ttl_ms / 3 < KEEP_MAX_MS ? lease->ttl_ms / 3 : KEEP_MAX_MS;
}

/* The lease that is due, or the time until one is; with the lock. */
static struct etcd_lease *due(struct ferry_store *store, uint64_t *at_ms)
{
    uint64_t now = fm_now_ms();

    *at_ms = now + 60000;
    for (struct etcd_lease *lease = store->leases; lease; lease = lease->next) {
        if (!lease->keys)
            continue; /* left to expire; who uses it again finds out and is granted another */
        if (lease->due_ms <= now)
            return lease;
        if (lease->due_ms < *at_ms)
            *at_ms = lease->due_ms;
    }
    return NULL;
}

static void *keeper_main(void *arg)
{
    struct ferry_store *store = arg;
    unsigned seed = (unsigned)fm_now_ms() ^ (unsigned)(uintptr_t)store;
    int complained = 0;

    pthread_mutex_lock(&store->lock);
    while (!store->stop) {
        uint64_t at_ms = 0;
        struct etcd_lease *lease = store->busy ? NULL : due(store, &at_ms);
        ferry_status status;

        if (!lease) {
            struct timespec until = fm_timespec(store->busy ? fm_now_ms() + 60000 : at_ms);

            pthread_cond_timedwait(&store->changed, &store->lock, &until);
            continue;
        }
        store->busy = 1;
        pthread_mutex_unlock(&store->lock);
        status = renew(store, lease);
        if (status && !complained)
            FM_LOG(store->host, FERRY_LOG_WARN,
                   "etcd %s: leases cannot be renewed; trying again", store->endpoints[0]);
        complained = status != FERRY_OK;
        pthread_mutex_lock(&store->lock);
        lease->retry_ms = !status ? 0 : lease->retry_ms ? lease->retry_ms * 2 : RETRY_MIN_MS;
        if (lease->retry_ms > keep_ms(lease) / 2)
            lease->retry_ms = keep_ms(lease) / 2;
        lease->due_ms =
            fm_now_ms() + jittered(lease->retry_ms ? lease->retry_ms : keep_ms(lease), &seed);
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
        FM_LOG(store->host, FERRY_LOG_WARN, "etcd: no thread to renew leases: %s",
               strerror(rc));
    return rc ? FERRY_ENOMEM : FERRY_OK;
}

/* ---- put ----------------------------------------------------------------------------------
 */

/* Takes the key over into its lease's list. */
static void remember(struct ferry_store *store, struct etcd_lease *lease, struct leased *fresh)
{
    etcd_lease_forget(store, fresh->key);
    pthread_mutex_lock(&store->lock);
    if (!lease->keys)
        lease->due_ms = fm_now_ms() + keep_ms(lease) / 2;
    fresh->next = lease->keys;
    lease->keys = fresh;
    pthread_mutex_unlock(&store->lock);
}

ferry_status etcd_lease_put(struct ferry_store *store, const struct ferry_store_put *args,
                            uint64_t deadline_ms, uint64_t *rev_out)
{
    struct leased *fresh = leased_new(args->key, args->val, args->val_len);
    struct etcd_lease *lease;
    ferry_status status = fresh ? keeper_start(store) : FERRY_ENOMEM;

    if (!status)
        status = etcd_lease_enter(store, deadline_ms);
    if (status) {
        leased_free(fresh);
        return status;
    }
    lease = lease_for(store, args->ttl_ms);
    status = lease ? FERRY_OK : FERRY_ENOMEM;
    for (int i = 0; i < 2 && !status; i++) {
        if (!lease->id)
            status = grant(store, lease, deadline_ms, ETCD_LOUD);
        if (status)
            break;
        status = etcd_put_key(store, args->key, args->val, args->val_len, lease->id,
                              args->expect_rev, deadline_ms, i ? ETCD_LOUD : ETCD_ABSENT_QUIET,
                              rev_out, NULL, NULL);
        if (status != FERRY_ENOENT)
            break;
        lease->id = 0; /* the server knows nothing of it: it restarted empty, or it expired */
        lease->owed = 1;
        status = FERRY_OK;
    }
    if (status == FERRY_ENOENT)
        status = FERRY_EUNREACH;
    if (!status) {
        remember(store, lease, fresh);
        fresh = NULL;
    }
    etcd_lease_leave(store);
    leased_free(fresh);
    return status;
}

void etcd_lease_close(struct ferry_store *store)
{
    pthread_mutex_lock(&store->lock);
    store->stop = 1;
    pthread_cond_broadcast(&store->changed);
    pthread_mutex_unlock(&store->lock);
    if (store->keeper_runs)
        pthread_join(store->keeper, NULL);
    while (store->leases) {
        struct etcd_lease *lease = store->leases;

        while (lease->keys) {
            struct leased *leased = lease->keys;

            lease->keys = leased->next;
            leased_free(leased);
        }
        store->leases = lease->next;
        free(lease);
    }
}
