/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Watches: one thread and one streaming request each, made again from the revision after the
 * last one seen, so that nothing is missed; RESYNC where the server cannot tell any more
 * (compaction, a server that lost its data). Knows nothing of what the values mean.
 */
#include <cjson/cJSON.h>
#include <stdio.h>

#include "../common/plug.h"
#include "etcd.h"

#define STREAM_MS    60000u /* then it is made again: a connection that died is noticed */
#define RETRY_MIN_MS 100u
#define RETRY_MAX_MS 2000u

struct etcd_watch {
    struct etcd_watch *next;
    struct ferry_store *store;
    uint64_t id;
    char *range;
    struct fm_http_stop *stop_request;
    pthread_t thread;
    int stop; /* guarded by the store's lock */

    struct etcd_events events; /* the thread's own */
};

static int stopping(struct etcd_watch *watch)
{
    int stop;

    pthread_mutex_lock(&watch->store->lock);
    stop = watch->stop;
    pthread_mutex_unlock(&watch->store->lock);
    return stop;
}

static int on_piece(void *arg, const char *data, size_t len)
{
    struct etcd_watch *watch = arg;

    return etcd_events_take(&watch->events, data, len) || stopping(watch);
}

static char *request_of(const struct etcd_watch *watch)
{
    char *body = NULL;

    return asprintf(&body, "{\"create_request\":{%s,\"start_revision\":\"%llu\"}}",
                    watch->range, (unsigned long long)watch->events.next_rev) < 0
               ? NULL
               : body;
}

/* The revision now; 0 where the server does not answer. */
static uint64_t revision_now(struct ferry_store *store, const char *range)
{
    char *body = NULL;
    struct etcd_call call = {.path = "/v3/kv/range",
                             .what = "watch",
                             .deadline_ms = etcd_deadline(store, 0),
                             .voice = ETCD_QUIET};
    uint64_t rev = 0;

    if (asprintf(&body, "{%s,\"count_only\":true}", range) < 0)
        return 0;
    call.body = body;
    if (etcd_do(store, &call) == FERRY_OK)
        rev = etcd_revision(call.reply);
    cJSON_Delete(call.reply);
    free(body);
    return rev;
}

/* Before a stream is made again: is there a server that answers, and is it the same history? */
static int look(struct etcd_watch *watch)
{
    uint64_t rev = revision_now(watch->store, watch->range);

    if (rev && watch->events.next_rev > rev + 1) {
        watch->events.next_rev = rev + 1;
        etcd_events_resync(&watch->events);
    }
    return rev != 0;
}

static void *watch_main(void *arg)
{
    struct etcd_watch *watch = arg;
    struct ferry_store *store = watch->store;
    unsigned seed = (unsigned)fm_now_ms() ^ (unsigned)(uintptr_t)watch;
    uint32_t retry_ms = 0;
    int complained = 0, again = 0;

    while (!stopping(watch)) {
        char *body = NULL, why[384] = "";
        uint64_t start = fm_now_ms();
        struct timespec until;

        watch->events.again = watch->events.alive = 0;
        watch->events.len = 0;
        if (!again || look(watch))
            body = request_of(watch);
        again = 1;
        if (body)
            etcd_stream(store, "/v3/watch", body, STREAM_MS, watch->stop_request, on_piece,
                        watch, why, sizeof(why));
        free(body);
        if (!watch->events.alive && !watch->events.again && !complained && !stopping(watch))
            FM_LOG(store->host, FERRY_LOG_WARN, "etcd %s: watch: %s; trying again",
                   store->endpoints[0], why[0] ? why : "no answer");
        complained = !watch->events.alive && !watch->events.again;
        if (!complained && fm_now_ms() - start > 1000)
            retry_ms = 0;
        else
            retry_ms = !retry_ms || !complained  ? RETRY_MIN_MS
                       : retry_ms < RETRY_MAX_MS ? retry_ms * 2
                                                 : RETRY_MAX_MS;
        until = fm_timespec(fm_now_ms() + retry_ms / 2 +
                            (uint32_t)rand_r(&seed) % (retry_ms / 2 + 1));
        pthread_mutex_lock(&store->lock);
        while (!watch->stop &&
               pthread_cond_timedwait(&store->changed, &store->lock, &until) == 0)
            ;
        pthread_mutex_unlock(&store->lock);
    }
    return NULL;
}

static void watch_free(struct etcd_watch *watch)
{
    fm_http_stop_close(watch->stop_request);
    free(watch->range);
    free(watch->events.line);
    free(watch);
}

ferry_status etcd_watch(struct ferry_store *store, const char *prefix,
                        void (*cb)(void *arg, const struct ferry_store_event *event), void *arg,
                        uint64_t *watch_id_out)
{
    struct etcd_watch *watch = calloc(1, sizeof(*watch));
    uint64_t rev;
    int rc;

    if (!watch)
        return FERRY_ENOMEM;
    *watch = (struct etcd_watch){
        .store = store, .events = {.cb = cb, .arg = arg}, .range = etcd_range_of(prefix)};
    if (!watch->range || fm_http_stop_open(&watch->stop_request)) {
        watch_free(watch);
        return FERRY_ENOMEM;
    }
    rev = revision_now(store, watch->range); /* what changes after we return is told */
    watch->events.next_rev = rev ? rev + 1 : 0;
    pthread_mutex_lock(&store->lock);
    rc = fm_thread_start(&watch->thread, "ferry-watch", watch_main, watch);
    if (!rc) {
        watch->id = ++store->next_watch;
        watch->next = store->watches;
        store->watches = watch;
        *watch_id_out = watch->id;
    }
    pthread_mutex_unlock(&store->lock);
    if (rc) {
        FM_LOG(store->host, FERRY_LOG_WARN, "watch %s: no thread: %s", prefix, strerror(rc));
        watch_free(watch);
        return FERRY_ENOMEM;
    }
    return FERRY_OK;
}

/* Takes the first watch with that id (0 = any) off the list, and joins its thread. */
static int end_watch(struct ferry_store *store, uint64_t id)
{
    struct etcd_watch **at, *watch;

    pthread_mutex_lock(&store->lock);
    at = &store->watches;
    while (*at && id && (*at)->id != id)
        at = &(*at)->next;
    watch = *at;
    if (watch) {
        *at = watch->next;
        watch->stop = 1;
        pthread_cond_broadcast(&store->changed);
    }
    pthread_mutex_unlock(&store->lock);
    if (!watch)
        return 0;
    fm_http_stop_now(watch->stop_request);
    pthread_join(watch->thread, NULL);
    watch_free(watch);
    return 1;
}

void etcd_unwatch(struct ferry_store *store, uint64_t watch_id)
{
    if (watch_id)
        end_watch(store, watch_id);
}

void etcd_watch_close(struct ferry_store *store)
{
    while (end_watch(store, 0))
        ;
}
