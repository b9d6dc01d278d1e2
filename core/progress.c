/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The engine's one progress thread: it looks after lanes that no caller attends, and after
 * deadlines. It sleeps without a timer while nothing is under way.
 */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "engine.h"
#include "error.h"
#include "util/clock.h"
#include "util/thread.h"

#define SOON_NS  (100 * 1000ull)     /* a caller that submits usually waits or polls at once */
#define TICK_NS  (20 * FY_NS_PER_MS) /* how exactly deadlines are kept */
#define BLIND_NS FY_NS_PER_MS        /* where a transport has no event descriptor */
#define FORCE_NS                                                                               \
    (300 * FY_NS_PER_MS) /* after a cancel that came to nothing, peers are closed */
#define WAKE  UINT64_MAX
#define TIMER (UINT64_MAX - 1)

static void set_timer(struct ferry_engine *engine, uint64_t ns)
{
    struct itimerspec t = {.it_value = fy_timespec(ns)};

    timerfd_settime(engine->progress_timer, 0, &t, NULL);
}

void fy_progress_kick(struct ferry_engine *engine, bool soon)
{
    if (soon && engine->reap_fd >= 0) { /* an event loop sleeps: be woken by the data itself */
        for (unsigned i = 0; i < engine->n_lanes; i++) {
            if (atomic_load_explicit(&engine->lanes[i]->parts, memory_order_relaxed))
                fy_progress_watch(engine->lanes[i]);
        }
    }
    if (soon) {
        if (!atomic_exchange(&engine->soon_armed, true)) {
            atomic_store(&engine->tick_armed, true);
            set_timer(engine, SOON_NS);
        }
    } else if (!atomic_load_explicit(&engine->tick_armed, memory_order_relaxed) &&
               !atomic_exchange(&engine->tick_armed, true)) {
        set_timer(engine, TICK_NS);
    }
}

void fy_progress_watch(struct fy_lane *lane)
{
    struct ferry_engine *engine = lane->transport->host.engine;
    struct epoll_event event = {.events = EPOLLIN | EPOLLONESHOT, .data.u64 = lane->id};

    if (lane->fd < 0 || atomic_load(&lane->dead) || atomic_exchange(&lane->watched, true))
        return;
    if (!fy_lane_arm(lane)) {
        atomic_store(&lane->watched, false);
        return;
    }
    if (epoll_ctl(engine->progress_epoll, EPOLL_CTL_MOD, lane->fd, &event))
        atomic_store(&lane->watched, false);
}

static void force(const struct fy_part *part)
{
    if (fy_view_stands(part->view))
        fy_view_break(part->view, FERRY_ETIMEDOUT, "did not let go of a canceled transfer");
}

static void close_peers_of(struct fy_batch *batch)
{
    struct fy_part *later;

    for (size_t i = 0; i < batch->n_parts; i++)
        force(&batch->parts[i]);
    pthread_mutex_lock(&batch->lock);
    later = batch->later; /* as in fy_batch_abort */
    pthread_mutex_unlock(&batch->lock);
    for (; later; later = later->next_in_batch)
        force(later);
}

/* Ends batches whose time is over; what a cancel did not end, closing its peers will. */
static void keep_deadlines(struct ferry_engine *engine)
{
    uint64_t now = fy_now_ns();

    for (;;) {
        struct fy_batch *batch;
        bool too_long = false;

        pthread_mutex_lock(&engine->active_lock);
        for (batch = engine->active; batch; batch = batch->next_active) {
            int abort = atomic_load(&batch->abort);

            if (!abort && now >= batch->deadline_ns)
                break;
            if (abort && !batch->forced && now > atomic_load(&batch->abort_ns) &&
                now - atomic_load(&batch->abort_ns) > FORCE_NS &&
                atomic_load(&batch->parts_left)) {
                batch->forced = too_long = true;
                break;
            }
        }
        if (batch) /* active ones have a reference of their own */
            atomic_fetch_add_explicit(&batch->genref, 1, memory_order_relaxed);
        pthread_mutex_unlock(&engine->active_lock);
        if (!batch)
            return;
        if (too_long)
            close_peers_of(batch);
        else
            fy_batch_abort(batch, FERRY_ETIMEDOUT);
        fy_batch_put(batch);
    }
}

/* Returns whether the lane needs another look without an event. */
static bool look_after(struct fy_lane *lane)
{
    if (atomic_load(&lane->attendant))
        return false;
    for (int i = 0; i < 16 && atomic_load(&lane->parts); i++) {
        if (fy_lane_poll(lane) <= 0)
            break;
    }
    /* An idle lane is watched too: a peer that goes away is noticed before the next transfer.
     */
    fy_progress_watch(lane);
    return atomic_load(&lane->parts) && !atomic_load(&lane->watched);
}

static void tick(struct ferry_engine *engine)
{
    bool blind = false;

    atomic_store(&engine->soon_armed, false);
    atomic_store(&engine->tick_armed, false);
    keep_deadlines(engine);
    for (unsigned i = 0; i < engine->n_lanes; i++)
        blind |= look_after(engine->lanes[i]);
    if (!atomic_load(&engine->n_active))
        return;
    if (!atomic_exchange(&engine->tick_armed, true))
        set_timer(engine, blind ? BLIND_NS : TICK_NS);
}

static void *run(void *arg)
{
    struct ferry_engine *engine = arg;
    struct epoll_event events[16];
    uint64_t ignored;

    while (!atomic_load(&engine->stopping)) {
        int n = epoll_wait(engine->progress_epoll, events, 16, -1);

        for (int i = 0; i < n; i++) {
            uint64_t what = events[i].data.u64;

            if (what == WAKE) {
                continue;
            } else if (what == TIMER) {
                if (read(engine->progress_timer, &ignored, sizeof(ignored)) > 0)
                    tick(engine);
            } else {
                struct fy_lane *lane = engine->lanes[what];

                atomic_store(&lane->watched, false);
                fy_lane_poll(lane);
                if (atomic_load(&lane->parts) && look_after(lane))
                    fy_progress_kick(engine, true);
            }
        }
    }
    return NULL;
}

static int add(int epoll, int fd, uint32_t events, uint64_t what)
{
    struct epoll_event event = {.events = events, .data.u64 = what};

    return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
}

ferry_status fy_progress_start(struct ferry_engine *engine)
{
    int rc;

    engine->progress_epoll = epoll_create1(EPOLL_CLOEXEC);
    engine->progress_timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    engine->progress_wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (engine->progress_epoll < 0 || engine->progress_timer < 0 || engine->progress_wake < 0 ||
        add(engine->progress_epoll, engine->progress_timer, EPOLLIN, TIMER) ||
        add(engine->progress_epoll, engine->progress_wake, EPOLLIN, WAKE))
        return fy_fail(FERRY_EDEVICE, "cannot make an epoll set: %s", strerror(errno));
    for (unsigned i = 0; i < engine->n_lanes; i++) {
        struct fy_lane *lane = engine->lanes[i];

        if (lane->fd >= 0 && add(engine->progress_epoll, lane->fd, EPOLLONESHOT, lane->id))
            return fy_fail(FERRY_EDEVICE, "cannot watch a queue of %s: %s",
                           lane->transport->host.name, strerror(errno));
    }
    rc = fy_thread_start(&engine->progress_thread, "ferry-progress", run, engine);
    if (rc)
        return fy_fail(FERRY_ENOMEM, "cannot start a thread: error %d", rc);
    engine->progress_started = true;
    return FERRY_OK;
}

void fy_progress_stop(struct ferry_engine *engine)
{
    if (engine->progress_started) {
        atomic_store(&engine->stopping, true);
        eventfd_write(engine->progress_wake, 1);
        pthread_join(engine->progress_thread, NULL);
        engine->progress_started = false;
    }
}

void fy_progress_close(struct ferry_engine *engine)
{
    if (engine->progress_epoll >= 0)
        close(engine->progress_epoll);
    if (engine->progress_timer >= 0)
        close(engine->progress_timer);
    if (engine->progress_wake >= 0)
        close(engine->progress_wake);
    engine->progress_epoll = engine->progress_timer = engine->progress_wake = -1;
}
