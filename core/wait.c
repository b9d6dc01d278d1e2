/* SPDX-License-Identifier: Apache-2.0 */
/*
 * HOT. How a caller waits for its batch: it looks at the lanes itself, spinning for a short,
 * bounded time, then sleeps on their descriptors. One waiter at a time attends a lane and finds
 * the completions of all; the others sleep until they are told.
 */
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "engine.h"
#include "util/clock.h"

#define BLIND_MS 1 /* how long to sleep where a transport has no event descriptor */

static struct fy_waiter *take_waiter(struct ferry_engine *engine)
{
    struct fy_waiter *waiter;

    pthread_mutex_lock(&engine->free_lock);
    waiter = engine->free_waiters;
    if (waiter)
        engine->free_waiters = waiter->next_free;
    pthread_mutex_unlock(&engine->free_lock);
    if (waiter)
        return waiter;
    waiter = calloc(1, sizeof(*waiter));
    if (!waiter)
        return NULL;
    waiter->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (waiter->fd < 0) {
        free(waiter);
        return NULL;
    }
    return waiter;
}

static void give_waiter(struct ferry_engine *engine, struct fy_waiter *waiter)
{
    pthread_mutex_lock(&engine->free_lock);
    waiter->next_free = engine->free_waiters;
    engine->free_waiters = waiter;
    pthread_mutex_unlock(&engine->free_lock);
}

void fy_wait_close(struct ferry_engine *engine)
{
    while (engine->free_waiters) {
        struct fy_waiter *next = engine->free_waiters->next_free;

        close(engine->free_waiters->fd);
        free(engine->free_waiters);
        engine->free_waiters = next;
    }
}

static bool has_ended(const struct fy_batch *batch)
{
    return atomic_load_explicit(&batch->ended, memory_order_acquire);
}

static void enlist(struct fy_batch *batch, struct fy_waiter *waiter)
{
    waiter->batch = batch;
    atomic_store(&waiter->asleep, false);
    pthread_mutex_lock(&batch->lock);
    waiter->next_in_batch = batch->waiters;
    batch->waiters = waiter;
    pthread_mutex_unlock(&batch->lock);
}

static void delist(struct fy_batch *batch, struct fy_waiter *waiter)
{
    struct fy_waiter **at = &batch->waiters;

    pthread_mutex_lock(&batch->lock);
    while (*at != waiter)
        at = &(*at)->next_in_batch;
    *at = waiter->next_in_batch;
    pthread_mutex_unlock(&batch->lock);
}

void fy_wait_wake(struct fy_batch *batch)
{
    pthread_mutex_lock(&batch->lock);
    for (struct fy_waiter *w = batch->waiters; w; w = w->next_in_batch) {
        if (atomic_load(&w->asleep)) /* pairs with sleep_on */
            eventfd_write(w->fd, 1);
    }
    pthread_mutex_unlock(&batch->lock);
}

static void set_listed(struct ferry_engine *engine, struct fy_waiter *waiter, bool listed)
{
    pthread_mutex_lock(&engine->waiters_lock);
    if (listed && !waiter->listed) {
        waiter->next_asleep = engine->asleep;
        waiter->prev_asleep = &engine->asleep;
        if (engine->asleep)
            engine->asleep->prev_asleep = &waiter->next_asleep;
        engine->asleep = waiter;
    } else if (!listed && waiter->listed) {
        *waiter->prev_asleep = waiter->next_asleep;
        if (waiter->next_asleep)
            waiter->next_asleep->prev_asleep = waiter->prev_asleep;
    }
    waiter->listed = listed;
    pthread_mutex_unlock(&engine->waiters_lock);
}

/* Lanes of the batch that nobody else attends become ours. Returns the set that is ours. */
static uint64_t attend(struct ferry_engine *engine, struct fy_waiter *waiter, uint64_t mine)
{
    uint64_t lanes = atomic_load_explicit(&waiter->batch->lanes, memory_order_relaxed) & ~mine;

    for (; lanes; lanes &= lanes - 1) {
        unsigned id = (unsigned)__builtin_ctzll(lanes);
        struct fy_waiter *nobody = NULL;

        if (!atomic_load_explicit(&engine->lanes[id]->attendant, memory_order_relaxed) &&
            atomic_compare_exchange_strong(&engine->lanes[id]->attendant, &nobody, waiter))
            mine |= 1ull << id;
    }
    return mine;
}

/* A lane that still has work goes to another waiter of it, else to the progress thread. */
static void leave(struct ferry_engine *engine, uint64_t mine)
{
    for (; mine; mine &= mine - 1) {
        struct fy_lane *lane = engine->lanes[__builtin_ctzll(mine)];
        struct fy_waiter *w;

        atomic_store(&lane->attendant, NULL);
        if (!atomic_load(&lane->parts))
            continue;
        pthread_mutex_lock(&engine->waiters_lock);
        for (w = engine->asleep; w; w = w->next_asleep) {
            if (atomic_load_explicit(&w->batch->lanes, memory_order_relaxed) & 1ull << lane->id)
                break;
        }
        if (w)
            eventfd_write(w->fd, 1);
        pthread_mutex_unlock(&engine->waiters_lock);
        if (!w)
            fy_progress_kick(engine, true);
    }
}

static bool poll_lanes(struct ferry_engine *engine, uint64_t mine)
{
    bool found = false;

    for (; mine; mine &= mine - 1)
        found |= fy_lane_poll(engine->lanes[__builtin_ctzll(mine)]) > 0;
    return found;
}

/* false: time is over. */
static bool spin(struct ferry_engine *engine, struct fy_waiter *waiter, uint64_t *mine,
                 uint64_t deadline_ns)
{
    struct fy_batch *batch = waiter->batch;
    uint64_t spin_ns = engine->spin_ns, since = fy_now_ns(), now = since;
    bool may =
        spin_ns && atomic_fetch_add_explicit(&engine->spinners, 1, memory_order_relaxed) <
                       engine->max_spinners;

    do {
        *mine = attend(engine, waiter, *mine);
        if (poll_lanes(engine, *mine))
            since = now;
        if (has_ended(batch))
            break;
        now = fy_now_ns();
    } while (may && now - since < spin_ns && now < deadline_ns);
    if (spin_ns)
        atomic_fetch_sub_explicit(&engine->spinners, 1, memory_order_relaxed);
    return now < deadline_ns;
}

static void sleep_on(struct ferry_engine *engine, struct fy_waiter *waiter, uint64_t *mine,
                     uint64_t deadline_ns)
{
    struct pollfd fds[1 + FY_MAX_LANES] = {{.fd = waiter->fd, .events = POLLIN}};
    nfds_t n = 1;
    uint64_t before = *mine;
    int ms = deadline_ns == UINT64_MAX ? -1 : fy_ms_left(deadline_ns);
    eventfd_t ignored;

    set_listed(engine, waiter, true);
    atomic_store(&waiter->asleep,
                 true); /* before `ended` is looked at: pairs with batch_over */
    if (atomic_load(&waiter->batch->ended))
        ms = 0;
    /* A lane may have got free, or the batch onto one, before we were listed. */
    *mine = attend(engine, waiter, before);
    if (*mine != before)
        ms = 0;
    for (uint64_t left = *mine; left && ms; left &= left - 1) {
        struct fy_lane *lane = engine->lanes[__builtin_ctzll(left)];

        if (lane->fd < 0)
            ms = ms < 0 || ms > BLIND_MS ? BLIND_MS : ms;
        else if (fy_lane_arm(lane))
            fds[n++] = (struct pollfd){.fd = lane->fd, .events = POLLIN};
        else
            ms = 0;
    }
    if (poll(fds, n, ms) > 0 && fds[0].revents)
        eventfd_read(waiter->fd, &ignored);
    atomic_store(&waiter->asleep, false);
    set_listed(engine, waiter, false);
}

/* Without memory for a waiter: still correct, only coarse. */
static void wait_poorly(struct fy_batch *batch, uint64_t deadline_ns)
{
    struct timespec pause = {.tv_nsec = FY_NS_PER_MS};

    while (!has_ended(batch) && fy_now_ns() < deadline_ns) {
        fy_progress_kick(batch->engine, true);
        nanosleep(&pause, NULL);
    }
}

ferry_status fy_wait(struct fy_batch *batch, uint64_t deadline_ns)
{
    struct ferry_engine *engine = batch->engine;
    struct fy_waiter *waiter;
    uint64_t mine = 0;
    eventfd_t ignored;

    if (has_ended(batch))
        return FERRY_OK;
    if (fy_now_ns() >= deadline_ns)
        return FERRY_EAGAIN;
    waiter = take_waiter(engine);
    if (!waiter) {
        wait_poorly(batch, deadline_ns);
        return has_ended(batch) ? FERRY_OK : FERRY_EAGAIN;
    }
    enlist(batch, waiter);
    while (!has_ended(batch) && spin(engine, waiter, &mine, deadline_ns) && !has_ended(batch))
        sleep_on(engine, waiter, &mine, deadline_ns);
    leave(engine, mine);
    delist(batch, waiter);
    eventfd_read(waiter->fd, &ignored); /* a wake-up that came too late is nobody else's */
    give_waiter(engine, waiter);
    return has_ended(batch) ? FERRY_OK : FERRY_EAGAIN;
}
