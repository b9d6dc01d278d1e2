/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Batches: their slots and references, how they end, and the calls that look at them. A batch
 * ends once: when its last part has, and its notifications are delivered.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "engine.h"
#include "error.h"
#include "names.h"
#include "util/clock.h"

#define KEEP_CAP                                                                               \
    65536 /* arrays for more requests than this are not kept for the next batch                \
           */

/* ---- slots
 * ----------------------------------------------------------------------------------- */

static struct fy_batch *new_slot(struct ferry_engine *engine)
{
    unsigned n = atomic_load_explicit(&engine->n_batches, memory_order_relaxed);
    struct fy_batch **table = atomic_load_explicit(&engine->batch_table, memory_order_relaxed);
    struct fy_batch *batch = calloc(1, sizeof(*batch));

    if (!batch)
        return NULL;
    if (!(n &
          (n - 1))) { /* powers of two: the table is full; readers may still use the old one */
        struct fy_batch **more = calloc(n ? n * 2 : 1, sizeof(*more));

        if (!more || engine->n_old_tables == sizeof(engine->old_tables) / sizeof(void *)) {
            free(more);
            free(batch);
            return NULL;
        }
        if (n)
            memcpy(more, table, n * sizeof(*more));
        engine->old_tables[engine->n_old_tables++] = more;
        atomic_store_explicit(&engine->batch_table, more, memory_order_release);
        table = more;
    }
    batch->engine = engine;
    batch->slot = n;
    atomic_init(&batch->genref, 1ull << 32);
    pthread_mutex_init(&batch->lock, NULL);
    table[n] = batch;
    atomic_store_explicit(&engine->n_batches, n + 1, memory_order_release); /* pairs with get */
    return batch;
}

static void free_arrays(struct fy_batch *batch)
{
    free(batch->v);
    free(batch->index);
    free(batch->remote);
    free((void *)batch->result);
    free((void *)batch->carrier);
    batch->v = NULL;
    batch->index = NULL;
    batch->remote = NULL;
    batch->result = NULL;
    batch->carrier = NULL;
    batch->cap = 0;
}

static ferry_status make_room(struct fy_batch *batch, size_t n)
{
    if (n <= batch->cap)
        return FERRY_OK;
    free_arrays(batch);
    batch->v = malloc(n * sizeof(*batch->v));
    batch->index = malloc(n * sizeof(*batch->index));
    batch->remote = malloc(n * sizeof(*batch->remote));
    batch->result = malloc(n * sizeof(*batch->result));
    batch->carrier = malloc(n * sizeof(*batch->carrier));
    if (!batch->v || !batch->index || !batch->remote || !batch->result || !batch->carrier) {
        free_arrays(batch);
        return fy_fail(FERRY_ENOMEM, "no memory for a batch of %zu requests", n);
    }
    batch->cap = n;
    return FERRY_OK;
}

static void to_free_list(struct fy_batch *batch)
{
    struct ferry_engine *engine = batch->engine;

    pthread_mutex_lock(&engine->free_lock);
    batch->next_free = engine->free_batches;
    engine->free_batches = batch;
    pthread_mutex_unlock(&engine->free_lock);
}

ferry_status fy_batch_new(struct ferry_engine *engine, size_t n, struct fy_batch **batch_out)
{
    struct fy_batch *batch;
    uint64_t gen;

    pthread_mutex_lock(&engine->free_lock);
    batch = engine->free_batches;
    if (batch)
        engine->free_batches = batch->next_free;
    else
        batch = new_slot(engine);
    pthread_mutex_unlock(&engine->free_lock);
    if (!batch)
        return fy_fail(FERRY_ENOMEM, "no memory for a batch");
    if (make_room(batch, n)) {
        to_free_list(batch);
        return FERRY_ENOMEM;
    }
    batch->n = n;
    batch->permuted = false;
    batch->n_parts = batch->n_held = 0;
    batch->only = NULL;
    batch->forced = batch->counted_fd = false;
    batch->error[0] = '\0';
    batch->notify_name = NULL;
    batch->notify = NULL;
    batch->notify_len = 0;
    atomic_store_explicit(&batch->lanes, 0, memory_order_relaxed);
    atomic_store_explicit(&batch->done, 0, memory_order_relaxed);
    atomic_store_explicit(&batch->failed, 0, memory_order_relaxed);
    atomic_store_explicit(&batch->bytes, 0, memory_order_relaxed);
    atomic_store_explicit(&batch->first_error, FERRY_OK, memory_order_relaxed);
    atomic_store_explicit(&batch->parts_left, 0, memory_order_relaxed);
    atomic_store_explicit(&batch->abort, 0, memory_order_relaxed);
    atomic_store_explicit(&batch->abort_ns, UINT64_MAX, memory_order_relaxed);
    atomic_store_explicit(&batch->let_go, false, memory_order_relaxed);
    atomic_store_explicit(&batch->ended, false, memory_order_relaxed);
    gen = atomic_load_explicit(&batch->genref, memory_order_relaxed) >> 32;
    atomic_store_explicit(&batch->genref, gen << 32 | 2, memory_order_release);
    *batch_out = batch;
    return FERRY_OK;
}

struct fy_batch *fy_batch_get(struct ferry_engine *engine, ferry_batch handle)
{
    uint32_t slot = (uint32_t)handle - 1, gen = (uint32_t)(handle >> 32);
    struct fy_batch *batch = NULL;
    uint64_t seen;

    if (slot < atomic_load_explicit(&engine->n_batches, memory_order_acquire)) {
        batch = atomic_load_explicit(&engine->batch_table, memory_order_acquire)[slot];
        seen = atomic_load_explicit(&batch->genref, memory_order_relaxed);
        do {
            if (seen >> 32 != gen || !(uint32_t)seen) {
                batch = NULL;
                break;
            }
        } while (!atomic_compare_exchange_weak_explicit(
            &batch->genref, &seen, seen + 1, memory_order_acquire, memory_order_relaxed));
    }
    if (!batch)
        fy_fail(FERRY_ENOENT, "no such batch: 0x%llx (freed?)", (unsigned long long)handle);
    return batch;
}

static void drop_parts(struct fy_batch *batch)
{
    for (size_t i = 0; i < batch->n_parts; i++)
        fy_view_put(batch->parts[i].view);
    batch->n_parts = 0;
    while (batch->later) {
        struct fy_part *next = batch->later->next_in_batch;

        fy_view_put(batch->later->view);
        free(batch->later);
        batch->later = next;
    }
}

void fy_batch_put(struct fy_batch *batch)
{
    uint64_t before = atomic_fetch_sub_explicit(&batch->genref, 1, memory_order_acq_rel);

    if ((uint32_t)before != 1)
        return;
    drop_parts(batch);
    if (batch->cap > KEEP_CAP)
        free_arrays(batch);
    free(batch->notify_name);
    free(batch->notify);
    batch->notify_name = NULL;
    batch->notify = NULL;
    /* Handles of this use are stale from here on; 0 is never a generation. */
    before = (before >> 32) + 1;
    atomic_store_explicit(&batch->genref, (before & 0xffffffff ? before : 1) << 32,
                          memory_order_release);
    to_free_list(batch);
}

void fy_batches_close(struct ferry_engine *engine)
{
    struct fy_batch **table = atomic_load(&engine->batch_table);
    unsigned n = atomic_load(&engine->n_batches);

    for (unsigned i = 0; i < n; i++) {
        struct fy_batch *batch = table[i];

        drop_parts(batch); /* those the user never freed */
        free(batch->notify_name);
        free(batch->notify);
        free_arrays(batch);
        free(batch->parts);
        free(batch->held);
        pthread_mutex_destroy(&batch->lock);
        free(batch);
    }
    for (unsigned i = 0; i < engine->n_old_tables; i++)
        free(engine->old_tables[i]);
}

/* ---- how a batch ends
 * ------------------------------------------------------------------------ */

void fy_batch_activate(struct fy_batch *batch)
{
    struct ferry_engine *engine = batch->engine;

    pthread_mutex_lock(&engine->active_lock);
    batch->next_active = engine->active;
    batch->prev_active = &engine->active;
    if (engine->active)
        engine->active->prev_active = &batch->next_active;
    engine->active = batch;
    pthread_mutex_unlock(&engine->active_lock);
    atomic_fetch_add_explicit(&engine->n_active, 1, memory_order_relaxed);
}

void fy_batch_release(struct fy_batch *batch)
{
    for (size_t i = 0; i < batch->n_held; i++)
        fy_region_put(batch->held[i]);
    batch->n_held = 0;
}

/* And ends it: who reaps it finds it ended, who sees it ended can take it off the list. */
static void to_reap(struct fy_batch *batch)
{
    struct ferry_engine *engine = batch->engine;

    pthread_mutex_lock(&engine->reap_lock);
    batch->next_reap = NULL;
    batch->prev_reap = engine->reap_tail;
    *engine->reap_tail = batch;
    engine->reap_tail = &batch->next_reap;
    if (engine->reap_head == batch)
        eventfd_write(engine->reap_fd, 1);
    atomic_store(&batch->ended, true); /* pairs with fy_wait */
    pthread_mutex_unlock(&engine->reap_lock);
}

/* Takes it off the list, where it still is. reap_lock held. */
static void unreap(struct fy_batch *batch)
{
    struct ferry_engine *engine = batch->engine;
    eventfd_t ignored;

    if (!batch->prev_reap)
        return;
    *batch->prev_reap = batch->next_reap;
    if (batch->next_reap)
        batch->next_reap->prev_reap = batch->prev_reap;
    else
        engine->reap_tail = batch->prev_reap;
    batch->prev_reap = NULL;
    if (!engine->reap_head)
        eventfd_read(engine->reap_fd, &ignored);
}

static void batch_over(struct fy_batch *batch)
{
    struct ferry_engine *engine = batch->engine;

    pthread_mutex_lock(&engine->active_lock);
    *batch->prev_active = batch->next_active;
    if (batch->next_active)
        batch->next_active->prev_active = batch->prev_active;
    pthread_mutex_unlock(&engine->active_lock);
    fy_batch_release(batch);
    atomic_fetch_add_explicit(&engine->count.batches, 1, memory_order_relaxed);
    if (batch->counted_fd)
        to_reap(batch);
    else
        atomic_store(&batch->ended, true); /* pairs with fy_wait */
    fy_wait_wake(batch);
    fy_batch_put(batch);
    /* Last: the engine may be closed, and the batch forgotten, from here on. */
    atomic_fetch_sub_explicit(&engine->n_active, 1, memory_order_release);
}

/* Of a batch without failures. Did `part` carry anything to the segment? Then to *epoch, which
 * is set by the first that did; false: to another incarnation than that. */
static bool agrees(const struct fy_part *part, const struct fy_segment *segment,
                   const char **epoch)
{
    const char *its = part->view->doc->epoch;

    if (part->view->segment != segment || part->n_again == part->n)
        return true;
    if (!*epoch)
        *epoch = its;
    return !strcmp(*epoch, its);
}

/* To the incarnation that has the data, all of it. */
static ferry_status notify_peer(struct fy_batch *batch, struct fy_segment *segment)
{
    const char *epoch = NULL;
    bool agreed = true;

    pthread_mutex_lock(&batch->lock);
    for (size_t i = 0; i < batch->n_parts; i++)
        agreed &= agrees(&batch->parts[i], segment, &epoch);
    for (const struct fy_part *part = batch->later; part; part = part->next_in_batch)
        agreed &= agrees(part, segment, &epoch);
    pthread_mutex_unlock(&batch->lock);
    if (!agreed)
        return fy_fail(FERRY_ESTALE, "the peer restarted and has only a part of the data");
    return fy_notify_send(batch->engine, segment, epoch, batch->notify_name, batch->notify,
                          batch->notify_len, batch->deadline_ns);
}

/* A worker's job: the notifications, now that the data is there. */
static void notify_peers(void *arg)
{
    struct fy_batch *batch = arg;

    fy_net_stop_when(&batch->abort);
    for (size_t i = 0; i < batch->n_parts; i++) {
        struct fy_segment *segment = batch->parts[i].view->segment;
        ferry_status status;
        size_t j = 0;

        while (batch->parts[j].view->segment != segment)
            j++;
        if (j < i)
            continue; /* was told already */
        status = notify_peer(batch, segment);
        if (status)
            fy_batch_fault(batch, status, "data delivered, notification to %s not: %s",
                           segment->name, ferry_error());
    }
    fy_net_stop_when(NULL);
    batch_over(batch);
}

static void end_unnotified(struct fy_batch *batch, ferry_status status)
{
    fy_batch_fault(batch, status, "data delivered, notification not: %s",
                   ferry_strstatus(status));
    batch_over(batch);
}

void fy_batch_part_done(struct fy_batch *batch)
{
    ferry_status status;

    if (atomic_fetch_sub_explicit(&batch->parts_left, 1, memory_order_acq_rel) != 1)
        return;
    if (!batch->notify_name || atomic_load_explicit(&batch->failed, memory_order_relaxed)) {
        batch_over(batch);
        return;
    }
    /* Abort takes this lock after it set the flag, so it finds the job, or we the flag. */
    pthread_mutex_lock(&batch->lock);
    status = atomic_load(&batch->abort);
    if (!status)
        status = fy_work_add(batch->engine->notifiers, notify_peers, batch);
    pthread_mutex_unlock(&batch->lock);
    if (status)
        end_unnotified(batch, status);
}

void fy_batch_fault(struct fy_batch *batch, ferry_status status, const char *fmt, ...)
{
    int none = FERRY_OK;
    va_list ap;

    if (atomic_load_explicit(&batch->first_error, memory_order_relaxed) ||
        !atomic_compare_exchange_strong(&batch->first_error, &none, status))
        return;
    va_start(ap, fmt);
    pthread_mutex_lock(&batch->lock);
    vsnprintf(batch->error, sizeof(batch->error), fmt, ap);
    pthread_mutex_unlock(&batch->lock);
    va_end(ap);
    FY_LOG(&batch->engine->log, FERRY_LOG_DEBUG, "%s", batch->error);
}

static void abort_part(struct fy_part *part, ferry_status status)
{
    struct fy_lane *lane = atomic_load(&part->lane);

    if (lane)
        fy_lane_cancel(lane, part);
    else if (fy_view_unwait(part->view, part))
        fy_part_fail(part, FERRY_ECANCELED, ferry_strstatus(status)); /* not the peer's fault */
    fy_part_aborted(part);
}

void fy_batch_abort(struct fy_batch *batch, ferry_status status)
{
    int none = 0;
    struct fy_part *later;

    if (atomic_load(&batch->ended) ||
        !atomic_compare_exchange_strong(&batch->abort, &none, status))
        return;
    atomic_store(&batch->abort_ns, fy_now_ns());
    for (size_t i = 0; i < batch->n_parts; i++)
        abort_part(&batch->parts[i], status);
    pthread_mutex_lock(&batch->lock);
    later = batch->later; /* grows at the head only, and not once `abort` is set and seen */
    pthread_mutex_unlock(&batch->lock);
    for (; later; later = later->next_in_batch)
        abort_part(later, status);
    if (fy_work_take_back(batch->engine->notifiers, notify_peers, batch))
        end_unnotified(batch, status);
    fy_progress_kick(batch->engine, true);
}

/* ---- calls
 * ----------------------------------------------------------------------------------- */

static ferry_status look(struct fy_batch *batch, struct ferry_batch_status *status_out)
{
    bool ended = atomic_load_explicit(&batch->ended, memory_order_acquire);
    struct ferry_batch_status status = {
        .total = batch->n,
        .done = atomic_load_explicit(&batch->done, memory_order_relaxed),
        .failed = atomic_load_explicit(&batch->failed, memory_order_relaxed),
        .bytes = atomic_load_explicit(&batch->bytes, memory_order_relaxed),
        .first_error = atomic_load_explicit(&batch->first_error, memory_order_relaxed),
    };

    /* The last request's count comes a moment before the batch's end: do not promise too early.
     */
    if (!ended && status.done + status.failed == status.total) {
        if (status.failed)
            status.failed--;
        else
            status.done--;
    }
    if (status_out)
        *status_out = status;
    if (status.first_error) {
        pthread_mutex_lock(&batch->lock);
        fy_fail(FERRY_OK, "%s", batch->error);
        pthread_mutex_unlock(&batch->lock);
    }
    return ended ? FERRY_OK : FERRY_EAGAIN;
}

static uint64_t until(uint32_t timeout_ms)
{
    return timeout_ms == FERRY_FOREVER ? UINT64_MAX : fy_now_ns() + timeout_ms * FY_NS_PER_MS;
}

ferry_status ferry_batch_wait(struct ferry_engine *engine, ferry_batch handle,
                              uint32_t timeout_ms, struct ferry_batch_status *status_out)
{
    struct fy_batch *batch = engine ? fy_batch_get(engine, handle) : NULL;
    ferry_status status;

    if (!batch)
        return engine ? FERRY_ENOENT : fy_fail(FERRY_EINVAL, "no engine");
    fy_wait(batch, until(timeout_ms));
    status = look(batch, status_out);
    fy_batch_put(batch);
    return status;
}

ferry_status ferry_batch_poll(struct ferry_engine *engine, ferry_batch handle,
                              struct ferry_batch_status *status_out)
{
    struct fy_batch *batch = engine ? fy_batch_get(engine, handle) : NULL;
    ferry_status status;

    if (!batch)
        return engine ? FERRY_ENOENT : fy_fail(FERRY_EINVAL, "no engine");
    if (!atomic_load_explicit(&batch->ended, memory_order_acquire)) {
        uint64_t lanes = atomic_load_explicit(&batch->lanes, memory_order_relaxed);

        for (; lanes; lanes &= lanes - 1)
            fy_lane_poll(engine->lanes[__builtin_ctzll(lanes)]);
    }
    status = look(batch, status_out);
    fy_batch_put(batch);
    return status;
}

static bool has(const struct fy_part *part, uint64_t request)
{
    if (!part->index)
        return request >= part->first && request - part->first < part->n;
    for (uint32_t i = 0; i < part->n; i++)
        if (part->index[i] == request)
            return true;
    return false;
}

/* The view that carried a request; NULL: of another transport than is looked for. */
static const struct fy_view *view_of(struct fy_batch *batch, uint64_t request,
                                     const struct fy_transport *transport)
{
    const struct fy_view *view = NULL;

    pthread_mutex_lock(&batch->lock);
    for (const struct fy_part *part = batch->later; part && !view; part = part->next_in_batch)
        if (part->view->transport == transport && has(part, request))
            view = part->view;
    pthread_mutex_unlock(&batch->lock);
    for (size_t i = 0; i < batch->n_parts && !view; i++)
        if (batch->parts[i].view->transport == transport && has(&batch->parts[i], request))
            view = batch->parts[i].view;
    return view;
}

ferry_status ferry_batch_request(struct ferry_engine *engine, ferry_batch handle,
                                 uint64_t index, struct ferry_request_status *status_out)
{
    struct fy_batch *batch = engine ? fy_batch_get(engine, handle) : NULL;
    struct ferry_request_status status = {0};
    unsigned lane;
    int result;

    if (!batch)
        return engine ? FERRY_ENOENT : fy_fail(FERRY_EINVAL, "no engine");
    if (!status_out || index >= batch->n) {
        fy_batch_put(batch);
        return fy_fail(FERRY_EINVAL, "request %llu: the batch has %llu",
                       (unsigned long long)index, (unsigned long long)batch->n);
    }
    result = fy_get_result(batch, index);
    status.status = result > 0 ? FERRY_EAGAIN : result;
    lane = atomic_load_explicit(&batch->carrier[index], memory_order_relaxed);
    if (lane < engine->n_lanes) {
        const struct fy_lane *l = engine->lanes[lane];
        const struct fy_view *view = view_of(batch, index, l->transport);

        snprintf(status.transport, sizeof(status.transport), "%.19s", l->transport->host.name);
        if (view)
            fy_view_rail(view, l, status.rail, sizeof(status.rail));
        else
            fy_lane_name(l, status.rail, sizeof(status.rail));
    }
    *status_out = status;
    fy_batch_put(batch);
    return FERRY_OK;
}

ferry_status ferry_batch_cancel(struct ferry_engine *engine, ferry_batch handle,
                                uint32_t timeout_ms)
{
    struct fy_batch *batch = engine ? fy_batch_get(engine, handle) : NULL;
    ferry_status status;

    if (!batch)
        return engine ? FERRY_ENOENT : fy_fail(FERRY_EINVAL, "no engine");
    fy_batch_abort(batch, FERRY_ECANCELED);
    fy_wait(batch, until(timeout_ms));
    status = look(batch, NULL);
    fy_batch_put(batch);
    return status;
}

void ferry_batch_free(struct ferry_engine *engine, ferry_batch handle)
{
    struct fy_batch *batch = engine && handle ? fy_batch_get(engine, handle) : NULL;

    if (!batch)
        return;
    if (!atomic_load_explicit(&batch->ended, memory_order_acquire)) {
        fy_batch_abort(batch, FERRY_ECANCELED);
        fy_wait(batch, UINT64_MAX);
    }
    if (batch->counted_fd) {
        pthread_mutex_lock(&engine->reap_lock);
        unreap(batch);
        pthread_mutex_unlock(&engine->reap_lock);
    }
    if (!atomic_exchange(&batch->let_go, true))
        fy_batch_put(batch); /* the user's */
    fy_batch_put(batch);
}

int ferry_engine_fd(struct ferry_engine *engine)
{
    int fd;

    if (!engine)
        return -1;
    pthread_mutex_lock(&engine->reap_lock);
    if (engine->reap_fd < 0)
        engine->reap_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    fd = engine->reap_fd;
    pthread_mutex_unlock(&engine->reap_lock);
    return fd;
}

size_t ferry_reap(struct ferry_engine *engine, ferry_batch *batches, size_t room)
{
    size_t n = 0;

    if (!engine || !batches)
        return 0;
    pthread_mutex_lock(&engine->reap_lock);
    while (n < room && engine->reap_head) {
        batches[n++] = fy_batch_handle(engine->reap_head);
        unreap(engine->reap_head);
    }
    pthread_mutex_unlock(&engine->reap_lock);
    return n;
}
