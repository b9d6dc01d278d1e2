/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Turns, the list of keys, the thread that renews, and a store's put and del on top. Knows no
 * server: what is said to it is the plugin's.
 */
#include <pthread.h>
#include <stdio.h>

#include "leases.h"
#include "plug.h"

#define KEEP_MAX_MS  4000u /* at the latest; so soon an emptied server is noticed */
#define RETRY_MIN_MS 200u
#define IDLE_MS      60000u

struct fm_leases {
    const struct ferry_host *host;
    const struct fm_leases_ops *ops;
    struct ferry_store *store;
    char name[300];

    /* Guards all below; never held over a call of the plugin. */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int busy; /* somebody writes leased keys; the others wait for their turn */
    int stop, keeper_runs;
    pthread_t keeper;
    struct fm_lease *first; /* changed with the turn and the lock, read with either */
};

/* ---- turns --------------------------------------------------------------------------------
 */

static ferry_status enter(struct fm_leases *leases, uint64_t deadline_ms)
{
    struct timespec until = fm_timespec(deadline_ms);
    ferry_status status = FERRY_OK;

    pthread_mutex_lock(&leases->lock);
    while (leases->busy && !status) {
        if (pthread_cond_timedwait(&leases->changed, &leases->lock, &until) && leases->busy)
            status = FERRY_EUNREACH;
    }
    if (!status)
        leases->busy = 1;
    pthread_mutex_unlock(&leases->lock);
    if (status)
        FM_LOG(leases->host, FERRY_LOG_WARN, "%s: an earlier write has not ended in time",
               leases->name);
    return status;
}

static void leave(struct fm_leases *leases)
{
    pthread_mutex_lock(&leases->lock);
    leases->busy = 0;
    pthread_cond_broadcast(&leases->changed);
    pthread_mutex_unlock(&leases->lock);
}

/* ---- the list -----------------------------------------------------------------------------
 */

static void leased_free(struct fm_leased *leased)
{
    if (!leased)
        return;
    free(leased->key);
    free(leased->val);
    free(leased);
}

static struct fm_leased *leased_new(const struct ferry_store_put *args)
{
    struct fm_leased *leased = calloc(1, sizeof(*leased));

    if (!leased)
        return NULL;
    leased->key = strdup(args->key);
    leased->val = malloc(args->val_len + 1);
    leased->len = args->val_len;
    if (!leased->key || !leased->val) {
        leased_free(leased);
        return NULL;
    }
    if (args->val_len)
        memcpy(leased->val, args->val, args->val_len);
    return leased;
}

static void drop(struct fm_leases *leases, struct fm_leased **at)
{
    struct fm_leased *gone = *at;

    pthread_mutex_lock(&leases->lock);
    *at = gone->next;
    pthread_mutex_unlock(&leases->lock);
    leased_free(gone);
}

static struct fm_leased **find(struct fm_leases *leases, const char *key)
{
    for (struct fm_lease *lease = leases->first; lease; lease = lease->next) {
        for (struct fm_leased **at = &lease->keys; *at; at = &(*at)->next) {
            if (!strcmp((*at)->key, key))
                return at;
        }
    }
    return NULL;
}

static int has(struct fm_leases *leases, const char *key)
{
    int found;

    pthread_mutex_lock(&leases->lock);
    found = find(leases, key) != NULL;
    pthread_mutex_unlock(&leases->lock);
    return found;
}

/* The key is kept alive no more; with the turn. */
static void forget(struct fm_leases *leases, const char *key)
{
    struct fm_leased **at = find(leases, key);

    if (at)
        drop(leases, at);
}

static struct fm_lease *lease_for(struct fm_leases *leases, uint32_t ttl_ms)
{
    struct fm_lease *lease;

    for (lease = leases->first; lease; lease = lease->next) {
        if (lease->ttl_ms == ttl_ms)
            return lease;
    }
    lease = calloc(1, sizeof(*lease));
    if (!lease)
        return NULL;
    lease->ttl_ms = ttl_ms;
    pthread_mutex_lock(&leases->lock);
    lease->next = leases->first;
    leases->first = lease;
    pthread_mutex_unlock(&leases->lock);
    return lease;
}

struct fm_leased **fm_leased_put_again(struct fm_leases *leases, struct fm_leased **at)
{
    FM_LOG(leases->host, FERRY_LOG_INFO, "%s: %s was lost and is put again", leases->name,
           (*at)->key);
    return &(*at)->next;
}

struct fm_leased **fm_leased_lost(struct fm_leases *leases, struct fm_leased **at)
{
    FM_LOG(leases->host, FERRY_LOG_WARN, "%s: %s is another's now; it is left alone",
           leases->name, (*at)->key);
    drop(leases, at);
    return at;
}

/* ---- the thread ---------------------------------------------------------------------------
 */

static uint32_t keep_ms(const struct fm_lease *lease)
{
    return lease->ttl_ms / 3 < KEEP_MAX_MS ? lease->ttl_ms / 3 : KEEP_MAX_MS;
}

/* When it is renewed next. Up to a quarter earlier: many nodes must not come in step. */
static void set_due(struct fm_lease *lease, ferry_status status, unsigned *seed)
{
    uint32_t ms = keep_ms(lease);

    lease->retry_ms = !status ? 0 : lease->retry_ms ? lease->retry_ms * 2 : RETRY_MIN_MS;
    if (lease->retry_ms > ms / 2)
        lease->retry_ms = ms / 2;
    if (lease->retry_ms)
        ms = lease->retry_ms;
    lease->due_ms = fm_now_ms() + ms - (uint32_t)rand_r(seed) % (ms / 4 + 1);
}

/* The lease that is due, or the time until one is; with the lock. */
static struct fm_lease *due(struct fm_leases *leases, uint64_t *at_ms)
{
    uint64_t now = fm_now_ms();

    *at_ms = now + IDLE_MS;
    for (struct fm_lease *lease = leases->first; lease; lease = lease->next) {
        if (!lease->keys)
            continue; /* left to expire; who uses it again finds out */
        if (lease->due_ms <= now)
            return lease;
        if (lease->due_ms < *at_ms)
            *at_ms = lease->due_ms;
    }
    return NULL;
}

static void *keeper_main(void *arg)
{
    struct fm_leases *leases = arg;
    unsigned seed = (unsigned)fm_now_ms() ^ (unsigned)(uintptr_t)leases;
    int complained = 0;

    pthread_mutex_lock(&leases->lock);
    while (!leases->stop) {
        uint64_t at_ms = fm_now_ms() + IDLE_MS;
        struct fm_lease *lease = leases->busy ? NULL : due(leases, &at_ms);
        ferry_status status;

        if (!lease) {
            struct timespec until = fm_timespec(at_ms);

            pthread_cond_timedwait(&leases->changed, &leases->lock, &until);
            continue;
        }
        leases->busy = 1;
        pthread_mutex_unlock(&leases->lock);
        status = leases->ops->renew(leases->store, lease);
        if (status && !complained)
            FM_LOG(leases->host, FERRY_LOG_WARN, "%s: keys cannot be renewed; trying again",
                   leases->name);
        complained = status != FERRY_OK;
        pthread_mutex_lock(&leases->lock);
        set_due(lease, status, &seed);
        leases->busy = 0;
        pthread_cond_broadcast(&leases->changed);
    }
    pthread_mutex_unlock(&leases->lock);
    return NULL;
}

static ferry_status keeper_start(struct fm_leases *leases)
{
    int rc = 0;

    pthread_mutex_lock(&leases->lock);
    if (!leases->keeper_runs) {
        rc = fm_thread_start(&leases->keeper, "ferry-leases", keeper_main, leases);
        leases->keeper_runs = !rc;
    }
    pthread_mutex_unlock(&leases->lock);
    if (rc)
        FM_LOG(leases->host, FERRY_LOG_WARN, "%s: no thread to renew keys: %s", leases->name,
               strerror(rc));
    return rc ? FERRY_ENOMEM : FERRY_OK;
}

/* ---- put and del --------------------------------------------------------------------------
 */

/* Takes the key over into its lease's list. The thread is woken by leave(). */
static void remember(struct fm_leases *leases, struct fm_lease *lease, struct fm_leased *fresh)
{
    forget(leases, fresh->key);
    pthread_mutex_lock(&leases->lock);
    if (!lease->keys)
        lease->due_ms = fm_now_ms() + keep_ms(lease) / 2;
    fresh->next = lease->keys;
    lease->keys = fresh;
    pthread_mutex_unlock(&leases->lock);
}

static ferry_status put_leased(struct fm_leases *leases, const struct ferry_store_put *args,
                               uint64_t deadline_ms, uint64_t *rev_out)
{
    struct fm_leased *fresh = leased_new(args);
    struct fm_lease *lease;
    ferry_status status = fresh ? keeper_start(leases) : FERRY_ENOMEM;

    if (!status)
        status = enter(leases, deadline_ms);
    if (status) {
        leased_free(fresh);
        return status;
    }
    lease = lease_for(leases, args->ttl_ms);
    status = lease ? leases->ops->put(leases->store, lease, args, deadline_ms, rev_out)
                   : FERRY_ENOMEM;
    if (!status) {
        remember(leases, lease, fresh);
        fresh = NULL;
    }
    leave(leases);
    leased_free(fresh);
    return status;
}

ferry_status fm_leases_put(struct fm_leases *leases, const struct ferry_store_put *args,
                           uint64_t deadline_ms, uint64_t *rev_out)
{
    ferry_status status;

    if (args->ttl_ms)
        return put_leased(leases, args, deadline_ms, rev_out);
    if (!has(leases, args->key))
        return leases->ops->put(leases->store, NULL, args, deadline_ms, rev_out);
    status = enter(leases, deadline_ms);
    if (status)
        return status;
    status = leases->ops->put(leases->store, NULL, args, deadline_ms, rev_out);
    if (!status)
        forget(leases, args->key);
    leave(leases);
    return status;
}

ferry_status fm_leases_del(struct fm_leases *leases, const char *key, uint64_t deadline_ms)
{
    ferry_status status;

    if (!has(leases, key))
        return leases->ops->del(leases->store, key, deadline_ms);
    status = enter(leases, deadline_ms);
    if (status)
        return status;
    /* Forgotten first: whatever comes of it, it is not to be put again. */
    forget(leases, key);
    status = leases->ops->del(leases->store, key, deadline_ms);
    leave(leases);
    return status;
}

/* ---- life ---------------------------------------------------------------------------------
 */

ferry_status fm_leases_open(const struct ferry_host *host, const char *name,
                            const struct fm_leases_ops *ops, struct ferry_store *store,
                            struct fm_leases **leases_out)
{
    struct fm_leases *leases = calloc(1, sizeof(*leases));

    if (!leases)
        return FERRY_ENOMEM;
    leases->host = host;
    leases->ops = ops;
    leases->store = store;
    snprintf(leases->name, sizeof(leases->name), "%s", name);
    pthread_mutex_init(&leases->lock, NULL);
    fm_cond_init(&leases->changed);
    *leases_out = leases;
    return FERRY_OK;
}

void fm_leases_close(struct fm_leases *leases)
{
    if (!leases)
        return;
    pthread_mutex_lock(&leases->lock);
    leases->stop = 1;
    pthread_cond_broadcast(&leases->changed);
    pthread_mutex_unlock(&leases->lock);
    if (leases->keeper_runs)
        pthread_join(leases->keeper, NULL);
    while (leases->first) {
        struct fm_lease *lease = leases->first;

        while (lease->keys)
            drop(leases, &lease->keys);
        leases->first = lease->next;
        free(lease);
    }
    pthread_cond_destroy(&leases->changed);
    pthread_mutex_destroy(&leases->lock);
    free(leases);
}
