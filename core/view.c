/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One incarnation of a peer through one transport: connected in the background, broken once,
 * closed when nothing of it can move any more. Knows no document's attributes by name.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"
#include "error.h"
#include "util/clock.h"

#define MORE_MS 1000
#define SAY_WHY_NS                                                                             \
    (80 * FY_NS_PER_MS) /* before a batch's end its connection's trouble is known */

static const struct ferry_kvs no_attrs;

ferry_status fy_view_new(struct fy_segment *segment, struct fy_transport *transport,
                         struct fy_doc *doc, struct fy_view **view_out)
{
    int at = fy_doc_transport_index(doc, transport->host.name);
    struct fy_view *view = calloc(1, sizeof(*view));
    ferry_status status;

    if (!view)
        return fy_fail(FERRY_ENOMEM, "no memory for a peer");
    view->rmem = calloc(doc->n_buffers ? doc->n_buffers : 1, sizeof(*view->rmem));
    if (!view->rmem) {
        free(view);
        return fy_fail(FERRY_ENOMEM, "no memory for a peer with %zu buffers", doc->n_buffers);
    }
    status = transport->ops->peer_open(transport->tp, doc->name,
                                       at < 0 ? &no_attrs : &doc->transports[at].attrs.kvs,
                                       &view->peer);
    if (status) {
        free((void *)view->rmem);
        free(view);
        return fy_fail(status, "transport %s cannot use what %s publishes: %s",
                       transport->host.name, doc->name, ferry_strstatus(status));
    }
    view->rails = calloc(transport->n_lanes, sizeof(*view->rails)); /* can be done without */
    atomic_init(&view->refs, 1);
    atomic_fetch_add(&segment->refs, 1);
    view->segment = segment;
    view->transport = transport;
    view->doc = fy_doc_ref(doc);
    view->doc_transport = at;
    view->waiting_tail = &view->waiting;
    pthread_mutex_init(&view->lock, NULL);
    pthread_mutex_init(&view->control_lock, NULL);
    *view_out = view;
    return FERRY_OK;
}

void fy_view_rail(const struct fy_view *view, const struct fy_lane *lane, char *out,
                  size_t room)
{
    const struct fy_transport *transport = view->transport;

    for (unsigned i = 0; i < transport->n_lanes && view->rails; i++) {
        if (transport->lanes[i] == lane && view->rails[i][0] &&
            (atomic_load_explicit(&view->lanes, memory_order_acquire) & 1ull << lane->id)) {
            snprintf(out, room, "%s", view->rails[i]);
            return;
        }
    }
    fy_lane_name(lane, out, room);
}

static void close_peer(struct fy_view *view)
{
    struct fy_transport *transport = view->transport;

    pthread_mutex_lock(&view->control_lock);
    if (!view->closed) {
        pthread_mutex_lock(&view->lock);
        view->leaving = true;
        pthread_mutex_unlock(&view->lock);
        for (unsigned i = 0; i < transport->n_lanes; i++)
            fy_lane_barrier(transport->lanes[i]);
        transport->ops->peer_close(view->peer);
        view->closed = true;
    }
    pthread_mutex_unlock(&view->control_lock);
}

static void destroy(void *arg)
{
    struct fy_view *view = arg;

    close_peer(view);
    fy_doc_unref(view->doc);
    fy_segment_put(view->segment);
    pthread_mutex_destroy(&view->lock);
    pthread_mutex_destroy(&view->control_lock);
    free((void *)view->rmem);
    free(view->rails);
    free(view);
}

void fy_view_put(struct fy_view *view)
{
    if (!view || atomic_fetch_sub_explicit(&view->refs, 1, memory_order_acq_rel) != 1)
        return;
    /* Closing may block, and the caller may hold a lane. */
    if (fy_work_add(view->segment->engine->work, destroy, view))
        destroy(view);
}

ferry_status fy_view_cause(const struct fy_view *view, const char **text_out)
{
    if (atomic_load_explicit(&view->state, memory_order_acquire) == FY_VIEW_BROKEN) {
        *text_out = view->cause_text;
        return view->cause;
    }
    *text_out = "the connection failed";
    return FERRY_ECONNRESET;
}

void fy_view_refuse(const struct fy_view *view, struct fy_part *part)
{
    const char *text;
    ferry_status status = fy_view_cause(view, &text);

    fy_part_fail(part, status, text);
}

static void fail_waiting(struct fy_view *view)
{
    struct fy_part *part, *next;

    pthread_mutex_lock(&view->lock);
    part = view->waiting;
    view->waiting = NULL;
    view->waiting_tail = &view->waiting;
    pthread_mutex_unlock(&view->lock);
    for (; part; part = next) {
        next = part->next;
        fy_view_refuse(view, part);
    }
}

bool fy_view_unwait(struct fy_view *view, struct fy_part *part)
{
    bool found;

    pthread_mutex_lock(&view->lock);
    found = fy_part_unlink(&view->waiting, &view->waiting_tail, part);
    pthread_mutex_unlock(&view->lock);
    return found;
}

void fy_view_quiesce(struct fy_view *view)
{
    close_peer(view);
    fail_waiting(view);
    /* Elements that were under way complete at the next look at their queues. */
    fy_progress_kick(view->segment->engine, true);
}

ferry_status fy_view_trouble(const struct fy_view *view)
{
    ferry_status status =
        atomic_load(&view->state) == FY_VIEW_BROKEN ? view->cause : atomic_load(&view->trouble);

    return ferry_status_scope(status) == FERRY_SCOPE_PEER ? status : FERRY_OK;
}

static void quiesce_job(void *arg)
{
    fy_path_lost(arg);
    fy_view_quiesce(arg);
    fy_view_put(arg);
}

void fy_view_break(struct fy_view *view, ferry_status cause, const char *text)
{
    int state = atomic_load(&view->state);

    do {
        if (state >= FY_VIEW_BREAKING)
            return;
    } while (!atomic_compare_exchange_weak(&view->state, &state, FY_VIEW_BREAKING));
    view->cause = cause;
    snprintf(view->cause_text, sizeof(view->cause_text), "%s",
             text && text[0] ? text : ferry_strstatus(cause));
    atomic_store_explicit(&view->state, FY_VIEW_BROKEN, memory_order_release);
    FY_INFO(&view->segment->engine->log, "peer %s over %s is lost: %s", view->segment->name,
            view->transport->host.name, view->cause_text);
    fy_view_ref(view);
    if (fy_work_add(view->segment->engine->work, quiesce_job, view))
        fy_view_put(view); /* closed with its last reference then */
}

/* Attaches one lane after the other; work starts with the first. */
static ferry_status attach(struct fy_view *view, uint32_t connect_ms)
{
    struct fy_transport *transport = view->transport;
    ferry_status first = FERRY_EUNREACH;

    for (unsigned i = 0; i < transport->n_lanes; i++) {
        struct fy_lane *lane = transport->lanes[i];
        struct fy_part *part, *next;
        int opening = FY_VIEW_OPENING;
        ferry_status status;

        /* Further connections are not worth a long wait: work goes on over the first. */
        status = atomic_load(&lane->dead);
        if (!status)
            status = transport->ops->peer_attach(
                view->peer, lane->queue, first || connect_ms < MORE_MS ? connect_ms : MORE_MS);
        if (status) {
            if (first)
                first = status;
            FY_DEBUG(&view->segment->engine->log,
                     "peer %s: queue %u of %s does not connect: %s", view->segment->name, i,
                     transport->host.name, ferry_strstatus(status));
            if (ferry_status_scope(status) == FERRY_SCOPE_PEER)
                break;
            continue;
        }
        /* Asked once, while the peer is surely there. */
        if (view->rails &&
            transport->ops->rail(view->peer, lane->queue, view->rails[i], sizeof(*view->rails)))
            view->rails[i][0] = '\0';
        atomic_fetch_or_explicit(&view->lanes, 1ull << lane->id, memory_order_release);
        if (!first)
            continue;
        first = FERRY_OK;
        pthread_mutex_lock(&view->lock);
        atomic_store_explicit(&view->ready_ns, fy_now_ns(), memory_order_relaxed);
        if (!atomic_compare_exchange_strong(&view->state, &opening, FY_VIEW_READY)) {
            pthread_mutex_unlock(&view->lock);
            break;
        }
        part = view->waiting;
        view->waiting = NULL;
        view->waiting_tail = &view->waiting;
        pthread_mutex_unlock(&view->lock);
        for (; part; part = next) {
            next = part->next;
            fy_lane_start(lane, part);
        }
        fy_progress_kick(view->segment->engine, true);
    }
    return first;
}

/* When the first of those that wait has to know what is wrong, of those with time left. */
static uint64_t first_deadline(struct fy_view *view, uint64_t now)
{
    uint64_t first = UINT64_MAX;

    pthread_mutex_lock(&view->lock);
    for (struct fy_part *part = view->waiting; part; part = part->next) {
        uint64_t deadline_ns = part->batch->deadline_ns;

        if (deadline_ns > now + 2 * SAY_WHY_NS && deadline_ns - SAY_WHY_NS < first)
            first = deadline_ns - SAY_WHY_NS;
    }
    pthread_mutex_unlock(&view->lock);
    return first;
}

/*
 * An attempt ends before the first waiting batch does, because only its end tells whether the
 * peer is stopped or cut off. Those with more time wait for the next one.
 */
static ferry_status attempts(struct fy_view *view)
{
    uint64_t now = fy_now_ns();
    uint64_t end = now + view->segment->engine->connect_ms * FY_NS_PER_MS;
    uint64_t until = first_deadline(view, now);
    ferry_status status;

    for (;;) {
        if (until > end)
            until = end;
        status = attach(view, (uint32_t)((until - now) / FY_NS_PER_MS));
        now = fy_now_ns();
        if (!status || now + FY_NS_PER_MS < until || now + SAY_WHY_NS > end)
            return status;
        until = first_deadline(view, now);
        if (until == UINT64_MAX)
            return status;
        atomic_store(&view->trouble, status);
    }
}

static void connect_job(void *arg)
{
    struct fy_view *view = arg;
    char words[160] = "";
    ferry_status status = FERRY_OK;

    pthread_mutex_lock(&view->control_lock);
    fy_host_listen(words, sizeof(words));
    if (!view->closed)
        status = attempts(view);
    fy_host_listen(NULL, 0);
    atomic_store(&view->trouble, FERRY_OK);
    pthread_mutex_unlock(&view->control_lock);
    if (status) {
        char text[256];

        snprintf(text, sizeof(text), "cannot connect: %s%s%s", ferry_strstatus(status),
                 words[0] ? ": " : "", words);
        /* Nothing was sent: whatever the transport says against it, another one may try. */
        if (ferry_status_scope(status) < FERRY_SCOPE_PEER)
            status = FERRY_EUNREACH;
        fy_view_break(view, status, text);
    }
    if (atomic_load(&view->state) == FY_VIEW_BROKEN)
        fail_waiting(view);
    fy_view_put(view);
}

void fy_view_connect(struct fy_view *view)
{
    int fresh = FY_VIEW_NEW;

    if (!atomic_compare_exchange_strong(&view->state, &fresh, FY_VIEW_OPENING))
        return;
    atomic_store_explicit(&view->opening_ns, fy_now_ns(), memory_order_relaxed);
    fy_view_ref(view);
    if (!fy_work_add(view->segment->engine->connectors, connect_job, view))
        return;
    fy_view_break(view, FERRY_ENOMEM, "no thread to connect with");
    fail_waiting(view);
    fy_view_put(view);
}

ferry_status fy_view_rmem(struct fy_view *view, size_t buffer, struct ferry_rmem **rmem_out)
{
    struct ferry_rmem *rmem = atomic_load_explicit(&view->rmem[buffer], memory_order_acquire);
    const struct fy_doc_buffer *b = &view->doc->buffers[buffer];
    ferry_status status = FERRY_OK;

    if (!rmem) {
        pthread_mutex_lock(&view->lock);
        rmem = atomic_load_explicit(&view->rmem[buffer], memory_order_relaxed);
        /* Without a peer there is no key; a part of this view is not submitted any more. */
        if (!rmem && !view->leaving) {
            const struct ferry_kvs *attrs = b->attrs && view->doc_transport >= 0
                                                ? &b->attrs[view->doc_transport].kvs
                                                : &no_attrs;

            status = view->transport->ops->rmem_open(view->peer, b->addr, b->len, attrs, &rmem);
            if (!status)
                atomic_store_explicit(&view->rmem[buffer], rmem, memory_order_release);
        }
        pthread_mutex_unlock(&view->lock);
        if (status)
            return fy_fail(status,
                           "transport %s cannot use the keys of buffer 0x%llx of %s: %s",
                           view->transport->host.name, (unsigned long long)b->addr,
                           view->segment->name, ferry_strstatus(status));
    }
    *rmem_out = rmem;
    return FERRY_OK;
}
