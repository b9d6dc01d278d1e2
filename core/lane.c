/* SPDX-License-Identifier: Apache-2.0 */
/*
 * HOT. A lane is one queue of one transport: parts go in, completion ranges come out. Whoever
 * holds the lock makes the queue calls; nobody sleeps with it.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"
#include "error.h"
#include "util/clock.h"

#define COMPS 64

static const char lost_text[] = "the transport's queue is lost";

ferry_status fy_lane_open(struct fy_transport *transport, uint32_t device,
                          struct fy_lane **lane_out)
{
    struct ferry_engine *engine = transport->host.engine;
    struct ferry_queue_attr attr = {.size = sizeof(attr), .device = device, .depth = 1024};
    struct fy_lane *lane = calloc(1, sizeof(*lane));
    ferry_status status;

    if (!lane)
        return fy_fail(FERRY_ENOMEM, "no memory for a queue");
    lane->transport = transport;
    lane->device = device;
    lane->id = engine->n_lanes;
    lane->fd = -1;
    lane->pending_tail = &lane->pending;
    pthread_mutex_init(&lane->lock, NULL);
    status = transport->ops->queue_open(transport->tp, &attr, &lane->queue);
    if (status) {
        pthread_mutex_destroy(&lane->lock);
        free(lane);
        return fy_fail(status, "transport %s: cannot open a queue: %s", transport->host.name,
                       ferry_strstatus(status));
    }
    if (transport->caps.flags & FERRY_CAP_EVENT_FD)
        transport->ops->queue_fd(lane->queue, &lane->fd);
    engine->lanes[engine->n_lanes++] = lane;
    transport->lanes[transport->n_lanes++] = lane;
    *lane_out = lane;
    return FERRY_OK;
}

void fy_lane_close(struct fy_lane *lane)
{
    if (!lane)
        return;
    lane->transport->ops->queue_close(lane->queue);
    pthread_mutex_destroy(&lane->lock);
    free(lane);
}

void fy_lane_name(const struct fy_lane *lane, char *out, size_t room)
{
    struct ferry_device dev = {.size = sizeof(dev)};

    if (lane->transport->ops->device(lane->transport->tp, lane->device, &dev) || !dev.name[0])
        snprintf(dev.name, sizeof(dev.name), "queue");
    snprintf(out, room, "%.28s/%u", dev.name, lane->id);
}

struct fy_lane *fy_lane_choose(const struct fy_view *view)
{
    const struct fy_transport *transport = view->transport;
    uint64_t attached = atomic_load_explicit(&view->lanes, memory_order_acquire);
    struct fy_lane *best = NULL;
    uint64_t best_load = UINT64_MAX;

    for (unsigned i = 0; i < transport->n_lanes; i++) {
        struct fy_lane *lane = transport->lanes[i];
        uint64_t load;

        if (!(attached & 1ull << lane->id))
            continue;
        load = atomic_load_explicit(&lane->bytes, memory_order_relaxed);
        if (atomic_load_explicit(&lane->dead, memory_order_relaxed))
            load = UINT64_MAX - 1; /* only where there is no other */
        if (load < best_load) {
            best = lane;
            best_load = load;
        }
    }
    return best;
}

static void leave_pending(struct fy_lane *lane, struct fy_part *part)
{
    if (fy_part_unlink(&lane->pending, &lane->pending_tail, part))
        part->next = NULL;
}

void fy_lane_left(struct fy_lane *lane, struct fy_part *part)
{
    *part->prev_in_lane = part->next_in_lane;
    if (part->next_in_lane)
        part->next_in_lane->prev_in_lane = part->prev_in_lane;
    atomic_fetch_sub_explicit(&lane->bytes, part->bytes, memory_order_relaxed);
    atomic_fetch_sub_explicit(&lane->parts, 1, memory_order_relaxed);
}

/* What was not accepted never will be. Lock held. The part may be gone afterwards. */
static void fail_rest(struct fy_lane *lane, struct fy_part *part, ferry_status status,
                      const char *text)
{
    uint32_t at = part->accepted;

    leave_pending(lane, part);
    part->accepted = part->n;
    fy_part_ended(part, at, part->n - at, status, false, text);
}

/* May this part still be submitted? Else what its rest ends with. Lock held. */
static ferry_status standing(const struct fy_lane *lane, const struct fy_part *part,
                             const char **text_out)
{
    int state = atomic_load_explicit(&part->view->state, memory_order_acquire);

    if (atomic_load(&part->batch->abort)) {
        *text_out = "canceled before it was sent";
        return FERRY_ECANCELED;
    }
    if (lane->dead) {
        *text_out = lost_text;
        return lane->dead;
    }
    return state == FY_VIEW_READY ? FERRY_OK : fy_view_cause(part->view, text_out);
}

/* Offers one part's rest to the queue. Lock held. The part may be gone afterwards. */
static void offer(struct fy_lane *lane, struct fy_part *part)
{
    const struct ferry_transport_ops *ops = lane->transport->ops;
    const char *text = "refused by the transport";
    ferry_status status = standing(lane, part, &text);

    if (status == FERRY_ECANCELED && part->accepted > part->ended)
        return; /* fy_lane_cancel, which is on its way, ends the rest with them */
    while (!status) {
        struct ferry_list list = {
            .size = sizeof(list),
            .op = part->op,
            .peer = part->view->peer,
            .v = part->v + part->accepted,
            .n = part->n - part->accepted,
            .first = part->accepted,
            .cookie = (uint64_t)(uintptr_t)part,
        };
        uint32_t accepted = 0;

        status = ops->submit(lane->queue, &list, &accepted);
        part->accepted += accepted < list.n ? accepted : list.n;
        if (part->accepted == part->n) {
            leave_pending(lane, part);
            return;
        }
        if (status == FERRY_EAGAIN || (!status && !accepted)) {
            part->view->full[lane->id] = lane->pass;
            return;
        }
        if (status && ferry_status_scope(status) <= FERRY_SCOPE_XFER) {
            uint32_t at = part->accepted++;
            bool last = part->accepted == part->n;

            if (last)
                leave_pending(lane, part);
            fy_part_ended(part, at, 1, status, false, text);
            if (last)
                return;
            status = FERRY_OK;
        }
    }
    fail_rest(lane, part, status, text);
}

/* A peer whose window is full holds up its own parts only. */
static void push(struct fy_lane *lane)
{
    struct fy_part *part = lane->pending, *next;

    lane->pass++;
    for (; part; part = next) {
        next = part->next;
        if (part->view->full[lane->id] != lane->pass)
            offer(lane, part);
    }
}

void fy_lane_start(struct fy_lane *lane, struct fy_part *part)
{
    if (atomic_fetch_add_explicit(&lane->parts, 1, memory_order_relaxed))
        part->timed = false; /* it shares the queue */
    atomic_fetch_add_explicit(&lane->bytes, part->bytes, memory_order_relaxed);
    atomic_fetch_or(&part->batch->lanes, 1ull << lane->id);
    pthread_mutex_lock(&lane->lock);
    atomic_store(&part->lane,
                 lane); /* before `abort` is looked at: pairs with fy_batch_abort */
    part->next_in_lane = lane->all;
    part->prev_in_lane = &lane->all;
    if (lane->all)
        lane->all->prev_in_lane = &part->next_in_lane;
    lane->all = part;
    part->next = NULL;
    *lane->pending_tail = part;
    lane->pending_tail = &part->next;
    if (lane->pending == part)
        lane->pass++;
    if (part->view->full[lane->id] != lane->pass)
        offer(lane, part);
    pthread_mutex_unlock(&lane->lock);
}

static void complete(struct fy_lane *lane, const struct ferry_comp *comp)
{
    struct fy_part *part = (struct fy_part *)(uintptr_t)comp->cookie;
    char text[160];

    if (comp->status == FERRY_OK) {
        fy_part_ended(part, comp->first, comp->n, FERRY_OK, true, NULL);
        return;
    }
    text[0] = '\0';
    if (comp->vendor_err)
        lane->transport->ops->strerror_vendor(lane->transport->tp, comp->vendor_err, text,
                                              sizeof(text));
    fy_part_ended(part, comp->first, comp->n, comp->status, true,
                  text[0] ? text : ferry_strstatus(comp->status));
}

/* A view with elements that the lost queue had accepted, counted; NULL = there is none. */
static struct fy_view *stranded(struct fy_lane *lane)
{
    struct fy_view *view = NULL;

    pthread_mutex_lock(&lane->lock);
    for (struct fy_part *part = lane->all; part && !view; part = part->next_in_lane)
        if (part->accepted > part->ended)
            view = fy_view_ref(part->view);
    pthread_mutex_unlock(&lane->lock);
    return view;
}

/* A worker's job. A lost queue completes nothing any more, but what it had accepted may still
 * move until its peer is closed. */
static void end_stranded(void *arg)
{
    struct fy_lane *lane = arg;
    struct fy_part *part, *next;
    struct fy_view *view;

    while ((view = stranded(lane))) {
        fy_view_break(view, lane->dead, lost_text);
        fy_view_quiesce(view);
        pthread_mutex_lock(&lane->lock);
        for (part = lane->all; part; part = next) {
            next = part->next_in_lane;
            if (part->view == view)
                fy_part_lost(part, lane->dead, lost_text);
        }
        pthread_mutex_unlock(&lane->lock);
        fy_view_put(view);
    }
}

/* Lock held. */
static int look(struct fy_lane *lane)
{
    struct ferry_engine *engine = lane->transport->host.engine;
    struct ferry_comp comp[COMPS];
    int32_t n = lane->dead ? 0 : lane->transport->ops->poll(lane->queue, comp, COMPS);

    for (int32_t i = 0; i < n; i++)
        complete(lane, &comp[i]);
    if (n < 0) {
        lane->dead = n;
        FY_ERROR(&engine->log, "transport %s: queue %u is lost: %s", lane->transport->host.name,
                 lane->id, ferry_strstatus(n));
    }
    if (lane->dead && !lane->ending)
        lane->ending = !fy_work_add(engine->work, end_stranded, lane);
    if (lane->pending)
        push(lane);
    return n > 0 ? n : 0;
}

int fy_lane_poll(struct fy_lane *lane)
{
    int n;

    if (pthread_mutex_trylock(&lane->lock))
        return -1;
    n = look(lane);
    pthread_mutex_unlock(&lane->lock);
    return n;
}

bool fy_lane_arm(struct fy_lane *lane)
{
    ferry_status status;

    if (pthread_mutex_trylock(&lane->lock))
        return false;
    status = lane->dead ? FERRY_OK : lane->transport->ops->queue_arm(lane->queue);
    pthread_mutex_unlock(&lane->lock);
    return status == FERRY_OK;
}

void fy_lane_barrier(struct fy_lane *lane)
{
    pthread_mutex_lock(&lane->lock);
    pthread_mutex_unlock(&lane->lock);
}

void fy_lane_cancel(struct fy_lane *lane, struct fy_part *part)
{
    pthread_mutex_lock(&lane->lock);
    if (!part->cancel_asked && part->ended < part->n) {
        part->cancel_asked = true;
        if (part->accepted == part->ended) {
            fail_rest(lane, part, FERRY_ECANCELED, "canceled before it was sent");
        } else {
            /* What the transport says of those that it has is the cause for the rest too. */
            leave_pending(lane, part);
            if (!lane->dead)
                lane->transport->ops->cancel(lane->queue, (uint64_t)(uintptr_t)part);
            /* Who sleeps on the lane's descriptor is not woken by what ends just now. */
            while (look(lane) == COMPS)
                ;
        }
    }
    pthread_mutex_unlock(&lane->lock);
}
