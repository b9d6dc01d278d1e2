/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keeps the documents of peers young: those that the metadata service says came back are read
 * soon, each other one now and then, from the peer itself where it answers. A failure changes
 * nothing: what was known stays in use. Knows no service.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "engine.h"
#include "error.h"
#include "util/clock.h"
#include "util/thread.h"

#define LEAST_TICK_MS 250  /* at most so many looks a second, however many peers there are */
#define SETTLE_MS     100  /* a node writes its address before its document */
#define SPREAD_MS     400  /* nobody asks a node at the same moment as everybody */
#define LOOK_MS       2000 /* time limit of a look */

static struct fy_segment *by_slot(struct ferry_engine *engine, size_t slot)
{
    struct fy_segment *segment = NULL;

    pthread_mutex_lock(&engine->segments_lock);
    if (slot < engine->n_segments && engine->segments[slot]) {
        segment = engine->segments[slot];
        atomic_fetch_add_explicit(&segment->refs, 1, memory_order_relaxed);
    }
    pthread_mutex_unlock(&engine->segments_lock);
    return segment;
}

static void look(struct ferry_engine *engine, struct fy_segment *segment,
                 uint64_t older_than_ns)
{
    bool old;

    if (!segment)
        return;
    pthread_mutex_lock(&segment->lock);
    old = fy_now_ns() - segment->fetched_ns >= older_than_ns;
    pthread_mutex_unlock(&segment->lock);
    if (old && strcmp(segment->name, engine->name) != 0 &&
        fy_segment_reload(segment, fy_now_ns(), LOOK_MS) != FERRY_OK)
        FY_DEBUG(&engine->log, "looking at %s: %s", segment->name, ferry_error());
    fy_segment_put(segment);
}

/* Looks at every peer that is open under one of `names`. */
static void look_at(struct ferry_engine *engine, char **names, size_t n, bool all)
{
    size_t slots;

    pthread_mutex_lock(&engine->segments_lock);
    slots = engine->n_segments;
    pthread_mutex_unlock(&engine->segments_lock);
    for (size_t slot = 0; slot < slots && !atomic_load(&engine->closing); slot++) {
        struct fy_segment *segment = by_slot(engine, slot);
        bool named = all;

        for (size_t i = 0; segment && i < n && !named; i++)
            named = !strcmp(names[i], segment->name);
        if (named)
            look(engine, segment, 0);
        else
            fy_segment_put(segment);
    }
}

/* The next slot with a peer in it, round and round; *n_out: how many there are. */
static size_t next_peer(struct ferry_engine *engine, size_t after, size_t *n_out)
{
    size_t found = SIZE_MAX, n = 0;

    pthread_mutex_lock(&engine->segments_lock);
    for (size_t i = 0; i < engine->n_segments; i++) {
        size_t slot = (after + 1 + i) % engine->n_segments;

        if (!engine->segments[slot])
            continue;
        n++;
        if (found == SIZE_MAX)
            found = slot;
    }
    pthread_mutex_unlock(&engine->segments_lock);
    *n_out = n;
    return found;
}

/* Waits until `at`, or until there is news. follow_lock is held. */
static bool wait_until(struct ferry_engine *engine, uint64_t at, bool also_news)
{
    struct timespec until = fy_timespec(at);

    while (!engine->follow_stop && fy_now_ns() < at) {
        if (also_news && (engine->n_follow_names || engine->follow_all))
            return true;
        pthread_cond_timedwait(&engine->follow_cond, &engine->follow_lock, &until);
    }
    return also_news && (engine->n_follow_names || engine->follow_all);
}

/* follow_lock is held, and let go of meanwhile. */
static void take_news(struct ferry_engine *engine, unsigned *seed)
{
    char *names[sizeof(engine->follow_names) / sizeof(engine->follow_names[0])];
    uint64_t ms = SETTLE_MS + (uint64_t)rand_r(seed) % SPREAD_MS;
    size_t n;
    bool all;

    wait_until(engine, fy_now_ns() + ms * FY_NS_PER_MS, false);
    n = engine->n_follow_names;
    memcpy(names, engine->follow_names, n * sizeof(names[0]));
    engine->n_follow_names = 0;
    all = engine->follow_all;
    engine->follow_all = false;
    pthread_mutex_unlock(&engine->follow_lock);
    look_at(engine, names, n, all);
    for (size_t i = 0; i < n; i++)
        free(names[i]);
    pthread_mutex_lock(&engine->follow_lock);
}

static void *follow_main(void *arg)
{
    struct ferry_engine *engine = arg;
    uint64_t period_ns = fy_store_refresh_ms(engine->store) * FY_NS_PER_MS;
    size_t slot = SIZE_MAX, n = 1;
    unsigned seed = 0;

    if (getrandom(&seed, sizeof(seed), GRND_NONBLOCK) != (ssize_t)sizeof(seed))
        seed = (unsigned)fy_now_ns();
    pthread_mutex_lock(&engine->follow_lock);
    while (!engine->follow_stop) {
        uint64_t tick_ns = period_ns / (n ? n : 1);

        if (tick_ns < LEAST_TICK_MS * FY_NS_PER_MS)
            tick_ns = LEAST_TICK_MS * FY_NS_PER_MS;
        if (wait_until(engine, fy_now_ns() + tick_ns, true)) {
            take_news(engine, &seed);
            continue;
        }
        if (engine->follow_stop)
            break;
        pthread_mutex_unlock(&engine->follow_lock);
        slot = next_peer(engine, slot, &n);
        if (slot != SIZE_MAX)
            look(engine, by_slot(engine, slot), period_ns / 2);
        pthread_mutex_lock(&engine->follow_lock);
    }
    pthread_mutex_unlock(&engine->follow_lock);
    return NULL;
}

/* On a thread of the store's plugin. */
static void on_news(void *arg, const char *name)
{
    struct ferry_engine *engine = arg;
    const size_t room = sizeof(engine->follow_names) / sizeof(engine->follow_names[0]);
    bool known = !name;
    char *copy;

    pthread_mutex_lock(&engine->segments_lock);
    for (size_t i = 0; i < engine->n_segments && !known; i++)
        known = engine->segments[i] && !strcmp(engine->segments[i]->name, name);
    pthread_mutex_unlock(&engine->segments_lock);
    if (!known)
        return;
    copy = name ? strdup(name) : NULL;
    pthread_mutex_lock(&engine->follow_lock);
    for (size_t i = 0; i < engine->n_follow_names && copy; i++) {
        if (!strcmp(engine->follow_names[i], copy)) {
            pthread_mutex_unlock(&engine->follow_lock);
            free(copy);
            return;
        }
    }
    if (copy && engine->n_follow_names < room) {
        engine->follow_names[engine->n_follow_names++] = copy;
    } else {
        engine->follow_all = true;
        free(copy);
    }
    pthread_cond_signal(&engine->follow_cond);
    pthread_mutex_unlock(&engine->follow_lock);
}

void fy_follow_peer(struct ferry_engine *engine, const char *name, uint64_t deadline_ns)
{
    int left_ms = fy_ms_left(deadline_ns);
    uint32_t limit_ms = left_ms < LOOK_MS ? (uint32_t)left_ms : LOOK_MS;
    char host[FY_HOST_MAX];
    bool first;
    uint16_t port;
    int rc;

    /* So that it is known where it is when the service is away. */
    if (!fy_store_is_p2p(engine->store) &&
        fy_store_address(engine->store, name, limit_ms ? limit_ms : 1, host, &port))
        FY_DEBUG(&engine->log, "control address of %s: %s", name, ferry_error());
    pthread_mutex_lock(&engine->follow_lock);
    first = !engine->follow_started && !engine->follow_stop;
    if (first) {
        rc = fy_thread_start(&engine->follow_thread, "ferry-follow", follow_main, engine);
        engine->follow_started = !rc;
        if (rc)
            FY_WARN(&engine->log, "no thread to look after peers: %s", strerror(rc));
    }
    pthread_mutex_unlock(&engine->follow_lock);
    if (first && fy_store_watch(engine->store, on_news, engine))
        FY_DEBUG(&engine->log, "%s; peers are looked at every %u ms", ferry_error(),
                 fy_store_refresh_ms(engine->store));
}

void fy_follow_stop(struct ferry_engine *engine)
{
    if (engine->store)
        fy_store_unwatch(engine->store);
    pthread_mutex_lock(&engine->follow_lock);
    engine->follow_stop = true;
    pthread_cond_signal(&engine->follow_cond);
    pthread_mutex_unlock(&engine->follow_lock);
    if (engine->follow_started)
        pthread_join(engine->follow_thread, NULL);
    for (size_t i = 0; i < engine->n_follow_names; i++)
        free(engine->follow_names[i]);
    engine->n_follow_names = 0;
}
