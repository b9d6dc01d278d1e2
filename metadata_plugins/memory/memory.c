/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A key-value store in this process: memory://NAME is one store for all who open that NAME
 * here. The reference for the tests: it keeps every promise of metadata_plugin.h, leases,
 * compare-and-set, watches and lists included. Knows nothing of what the values mean.
 */
#include "memory.h"

#include <pthread.h>
#include <stdio.h>

#include "../common/plug.h"

#define MAX_VALUE  (64u << 20) /* bytes */
#define MAX_EVENTS 1024        /* waiting for one watch; beyond that it is told to list again */

struct entry {
    char *key, *val;
    size_t val_len;
    uint64_t rev;
    uint32_t ttl_ms;
    struct ferry_store *owner; /* keeps it alive while open; NULL = nobody */
    uint64_t expires_ms;       /* without an owner; 0 = never */
};

struct queued {
    struct queued *next;
    uint32_t type;
    uint64_t rev;
    char *key, *val;
    size_t val_len;
};

struct watch {
    struct watch *next;
    struct ferry_store *store;
    uint64_t id;
    char *prefix;
    void (*cb)(void *arg, const struct ferry_store_event *event);
    void *arg;
    struct queued *head, **tail;
    size_t n_queued;
    int lost, stop;
    pthread_t thread;
};

struct space {
    struct space *next;
    char *name;
    size_t refs;
    pthread_cond_t changed; /* for the watches' threads */
    struct entry *v;        /* sorted by key */
    size_t n, cap;
    uint64_t rev, next_watch;
    struct watch *watches;
};

struct ferry_store {
    const struct ferry_host *host;
    struct space *space;
};

/* Guards the spaces and everything in them; never held over a callback. The only lock. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct space *spaces;

static void queued_free(struct queued *event)
{
    free(event->key);
    free(event->val);
    free(event);
}

static void watch_clear(struct watch *watch)
{
    while (watch->head) {
        struct queued *event = watch->head;

        watch->head = event->next;
        queued_free(event);
    }
    watch->tail = &watch->head;
    watch->n_queued = 0;
}

static struct queued *queued_new(uint32_t type, const struct entry *entry)
{
    struct queued *event = calloc(1, sizeof(*event));

    if (!event)
        return NULL;
    event->type = type;
    event->rev = entry->rev;
    event->key = strdup(entry->key);
    if (type == FERRY_STORE_PUT) {
        event->val = malloc(entry->val_len + 1);
        event->val_len = entry->val_len;
        if (event->val)
            memcpy(event->val, entry->val, entry->val_len);
    }
    if (!event->key || (type == FERRY_STORE_PUT && !event->val)) {
        queued_free(event);
        return NULL;
    }
    return event;
}

static void tell_watches(struct space *space, uint32_t type, const struct entry *entry)
{
    for (struct watch *w = space->watches; w; w = w->next) {
        struct queued *event;

        if (w->lost || strncmp(entry->key, w->prefix, strlen(w->prefix)) != 0)
            continue;
        event = w->n_queued < MAX_EVENTS ? queued_new(type, entry) : NULL;
        if (event) {
            *w->tail = event;
            w->tail = &event->next;
            w->n_queued++;
        } else {
            watch_clear(w);
            w->lost = 1;
        }
    }
    pthread_cond_broadcast(&space->changed);
}

/* Index of the key, or of the first one after it. */
static size_t lower_bound(const struct space *space, const char *key)
{
    size_t lo = 0, hi = space->n;

    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;

        if (strcmp(space->v[mid].key, key) < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static struct entry *find(const struct space *space, const char *key)
{
    size_t i = lower_bound(space, key);

    return i < space->n && !strcmp(space->v[i].key, key) ? &space->v[i] : NULL;
}

static void entry_remove(struct space *space, struct entry *entry)
{
    struct entry gone = *entry;
    size_t i = (size_t)(entry - space->v);

    memmove(entry, entry + 1, (space->n - i - 1) * sizeof(*entry));
    space->n--;
    gone.rev = ++space->rev;
    tell_watches(space, FERRY_STORE_DELETED, &gone);
    free(gone.key);
    free(gone.val);
}

/* Takes out what has expired; returns when the next key will, 0 = none. */
static uint64_t expire(struct space *space)
{
    uint64_t now = fm_now_ms(), next = 0;
    size_t i = 0;

    while (i < space->n) {
        uint64_t at = space->v[i].expires_ms;

        if (at && at <= now) {
            entry_remove(space, &space->v[i]);
            continue;
        }
        if (at && (!next || at < next))
            next = at;
        i++;
    }
    return next;
}

static void space_put(struct space *space)
{
    struct space **at = &spaces;

    if (--space->refs)
        return;
    while (*at != space)
        at = &(*at)->next;
    *at = space->next;
    for (size_t i = 0; i < space->n; i++) {
        free(space->v[i].key);
        free(space->v[i].val);
    }
    free(space->v);
    pthread_cond_destroy(&space->changed);
    free(space->name);
    free(space);
}

static struct space *space_get(const char *name)
{
    struct space *space;

    for (space = spaces; space; space = space->next) {
        if (!strcmp(space->name, name)) {
            space->refs++;
            return space;
        }
    }
    space = calloc(1, sizeof(*space));
    if (!space)
        return NULL;
    space->name = strdup(name);
    if (!space->name) {
        free(space);
        return NULL;
    }
    fm_cond_init(&space->changed);
    space->refs = 1;
    space->next = spaces;
    spaces = space;
    return space;
}

static ferry_status memory_open(const struct ferry_host *host, const char *uri,
                                const struct ferry_kvs *config, struct ferry_store **store_out)
{
    static const char *const known[] = {"timeout_ms", NULL};
    const char prefix[] = "memory://";
    struct ferry_store *store;
    ferry_status status;

    status = fm_config_check(host, config, "memory", known);
    if (status)
        return status;
    if (strncmp(uri, prefix, sizeof(prefix) - 1) != 0) {
        FM_LOG(host, FERRY_LOG_ERROR, "metadata store \"%s\": memory://NAME is wanted", uri);
        return FERRY_EINVAL;
    }
    store = calloc(1, sizeof(*store));
    if (!store)
        return FERRY_ENOMEM;
    store->host = host;
    pthread_mutex_lock(&lock);
    store->space = space_get(uri + sizeof(prefix) - 1);
    pthread_mutex_unlock(&lock);
    if (!store->space) {
        free(store);
        return FERRY_ENOMEM;
    }
    *store_out = store;
    return FERRY_OK;
}

/* Takes the watch off its space and joins its thread; called with the lock held, returns with
 * it held. */
static void watch_end(struct space *space, struct watch **at)
{
    struct watch *watch = *at;

    *at = watch->next;
    watch->stop = 1;
    pthread_cond_broadcast(&space->changed);
    pthread_mutex_unlock(&lock);
    pthread_join(watch->thread, NULL);
    pthread_mutex_lock(&lock);
    watch_clear(watch);
    free(watch->prefix);
    free(watch);
}

static void memory_close(struct ferry_store *store)
{
    struct space *space;
    struct watch **at;
    uint64_t now;

    if (!store)
        return;
    space = store->space;
    pthread_mutex_lock(&lock);
    at = &space->watches;
    while (*at) {
        if ((*at)->store == store) {
            watch_end(space, at);
            at = &space->watches;
        } else {
            at = &(*at)->next;
        }
    }
    now = fm_now_ms();
    for (size_t i = 0; i < space->n; i++) {
        if (space->v[i].owner == store) {
            space->v[i].owner = NULL;
            space->v[i].expires_ms = now + space->v[i].ttl_ms;
        }
    }
    pthread_cond_broadcast(&space->changed);
    space_put(space);
    pthread_mutex_unlock(&lock);
    free(store);
}

static ferry_status memory_query(struct ferry_store *store, struct ferry_store_caps *caps)
{
    struct ferry_store_caps all = {.flags = FERRY_STORE_CAP_LEASE | FERRY_STORE_CAP_CAS |
                                            FERRY_STORE_CAP_WATCH | FERRY_STORE_CAP_LIST,
                                   .max_value = MAX_VALUE};

    all.size = caps->size < sizeof(all) ? caps->size : (uint32_t)sizeof(all);
    memcpy(caps, &all, all.size);
    return FERRY_OK;
}

/* The key's entry, made where it is absent; its value is the caller's to set. */
static struct entry *entry_for(struct space *space, const char *key)
{
    size_t i = lower_bound(space, key);
    char *copy;

    if (i < space->n && !strcmp(space->v[i].key, key))
        return &space->v[i];
    if (space->n == space->cap) {
        size_t cap = space->cap ? space->cap * 2 : 16;
        struct entry *v = realloc(space->v, cap * sizeof(*v));

        if (!v)
            return NULL;
        space->v = v;
        space->cap = cap;
    }
    copy = strdup(key);
    if (!copy)
        return NULL;
    memmove(&space->v[i + 1], &space->v[i], (space->n - i) * sizeof(*space->v));
    space->v[i] = (struct entry){.key = copy};
    space->n++;
    return &space->v[i];
}

static ferry_status memory_put(struct ferry_store *store, const struct ferry_store_put *args,
                               uint32_t timeout_ms, uint64_t *rev_out)
{
    struct space *space = store->space;
    const struct entry *old;
    struct entry *entry;
    ferry_status status = FERRY_OK;
    char *val;

    if (args->val_len > MAX_VALUE)
        return FERRY_ERANGE;
    val = malloc(args->val_len + 1);
    if (!val)
        return FERRY_ENOMEM;
    if (args->val_len)
        memcpy(val, args->val, args->val_len);
    pthread_mutex_lock(&lock);
    expire(space);
    old = find(space, args->key);
    if (args->expect_rev != FERRY_REV_ANY &&
        (args->expect_rev == FERRY_REV_ABSENT ? old != NULL
                                              : !old || old->rev != args->expect_rev)) {
        status = FERRY_ECONFLICT;
        goto out;
    }
    entry = entry_for(space, args->key);
    if (!entry) {
        status = FERRY_ENOMEM;
        goto out;
    }
    free(entry->val);
    entry->val = val;
    val = NULL;
    entry->val_len = args->val_len;
    entry->rev = ++space->rev;
    entry->ttl_ms = args->ttl_ms;
    entry->owner = args->ttl_ms ? store : NULL;
    entry->expires_ms = 0;
    if (rev_out)
        *rev_out = entry->rev;
    tell_watches(space, FERRY_STORE_PUT, entry);
out:
    pthread_mutex_unlock(&lock);
    free(val);
    return status;
}

static ferry_status memory_get(struct ferry_store *store, const char *key, uint32_t timeout_ms,
                               struct ferry_buf_sink *out, uint64_t *rev_out)
{
    const struct entry *entry;
    ferry_status status = FERRY_ENOENT;

    pthread_mutex_lock(&lock);
    expire(store->space);
    entry = find(store->space, key);
    if (entry) {
        status = out->append(out, entry->val, entry->val_len);
        if (!status && rev_out)
            *rev_out = entry->rev;
    }
    pthread_mutex_unlock(&lock);
    return status;
}

static ferry_status memory_del(struct ferry_store *store, const char *key, uint32_t timeout_ms)
{
    struct entry *entry;

    pthread_mutex_lock(&lock);
    expire(store->space);
    entry = find(store->space, key);
    if (entry)
        entry_remove(store->space, entry);
    pthread_mutex_unlock(&lock);
    return FERRY_OK;
}

static ferry_status memory_list(struct ferry_store *store, const char *prefix,
                                uint32_t timeout_ms, struct ferry_kv_sink *out)
{
    struct space *space = store->space;
    size_t len = strlen(prefix);
    ferry_status status = FERRY_OK;

    pthread_mutex_lock(&lock);
    expire(space);
    for (size_t i = lower_bound(space, prefix); i < space->n && !status; i++) {
        struct ferry_kv kv = {.key = space->v[i].key};

        if (strncmp(kv.key, prefix, len) != 0)
            break;
        status = out->put(out, &kv);
    }
    pthread_mutex_unlock(&lock);
    return status;
}

static void *watch_main(void *arg)
{
    struct watch *watch = arg;
    struct space *space = watch->store->space;

    pthread_mutex_lock(&lock);
    while (!watch->stop) {
        struct ferry_store_event event = {.size = sizeof(event), .type = FERRY_STORE_RESYNC};
        struct queued *queued = watch->head;
        uint64_t next;

        if (watch->lost) {
            watch->lost = 0;
            queued = NULL;
        } else if (queued) {
            watch->head = queued->next;
            if (!watch->head)
                watch->tail = &watch->head;
            watch->n_queued--;
            event.type = queued->type;
            event.key = queued->key;
            event.val = queued->val;
            event.val_len = queued->val_len;
            event.rev = queued->rev;
        } else {
            next = expire(space);
            if (watch->head || watch->lost)
                continue;
            if (next) {
                struct timespec at = fm_timespec(next);

                pthread_cond_timedwait(&space->changed, &lock, &at);
            } else {
                pthread_cond_wait(&space->changed, &lock);
            }
            continue;
        }
        pthread_mutex_unlock(&lock);
        watch->cb(watch->arg, &event);
        if (queued)
            queued_free(queued);
        pthread_mutex_lock(&lock);
    }
    pthread_mutex_unlock(&lock);
    return NULL;
}

static ferry_status memory_watch(struct ferry_store *store, const char *prefix,
                                 void (*cb)(void *arg, const struct ferry_store_event *event),
                                 void *arg, uint64_t *watch_id_out)
{
    struct watch *watch = calloc(1, sizeof(*watch));
    int rc;

    if (!watch)
        return FERRY_ENOMEM;
    *watch = (struct watch){.store = store, .cb = cb, .arg = arg, .prefix = strdup(prefix)};
    watch->tail = &watch->head;
    if (!watch->prefix) {
        free(watch);
        return FERRY_ENOMEM;
    }
    pthread_mutex_lock(&lock);
    rc = fm_thread_start(&watch->thread, "ferry-watch", watch_main, watch);
    if (!rc) {
        watch->id = ++store->space->next_watch;
        watch->next = store->space->watches;
        store->space->watches = watch;
        *watch_id_out = watch->id;
    }
    pthread_mutex_unlock(&lock);
    if (rc) {
        FM_LOG(store->host, FERRY_LOG_ERROR, "watch %s: no thread: %s", prefix, strerror(rc));
        free(watch->prefix);
        free(watch);
        return FERRY_ENOMEM;
    }
    return FERRY_OK;
}

static void memory_unwatch(struct ferry_store *store, uint64_t watch_id)
{
    struct watch **at;

    pthread_mutex_lock(&lock);
    for (at = &store->space->watches; *at; at = &(*at)->next) {
        if ((*at)->id == watch_id && (*at)->store == store) {
            watch_end(store->space, at);
            break;
        }
    }
    pthread_mutex_unlock(&lock);
}

const struct ferry_metadata_ops fm_memory_ops = {
    .size = sizeof(struct ferry_metadata_ops),
    .open = memory_open,
    .close = memory_close,
    .query = memory_query,
    .put = memory_put,
    .get = memory_get,
    .del = memory_del,
    .list = memory_list,
    .watch = memory_watch,
    .unwatch = memory_unwatch,
};
