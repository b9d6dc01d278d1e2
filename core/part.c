/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What becomes of a part: it goes to a lane or waits for the connection; its elements end one
 * range after another; those that failed with their peer or device may be tried once more,
 * elsewhere or after a reconnect, but never while bytes of the first attempt can still land,
 * and never a second time in another incarnation of the peer than the one they were meant for.
 * Those that the peer refused are tried again where its memory has other keys by now.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"
#include "error.h"
#include "util/clock.h"

#define RELOAD_MS 3000

static uint64_t request_of(const struct fy_part *part, uint32_t i)
{
    return part->index ? part->index[i] : part->first + i;
}

static struct fy_path *path_of(const struct fy_part *part)
{
    return &part->view->segment->paths[part->view->transport->index];
}

static void fail_one(struct fy_part *part, uint32_t i, ferry_status status, const char *text)
{
    struct fy_batch *batch = part->batch;
    struct fy_lane *lane = atomic_load_explicit(&part->lane, memory_order_relaxed);
    uint64_t request = request_of(part, i);

    fy_set_result(batch, request, status);
    fy_batch_fault(batch, status, "request %llu: %s of %llu bytes at 0x%llx of %s over %s: %s",
                   (unsigned long long)request, part->op == FERRY_OP_READ ? "READ" : "WRITE",
                   (unsigned long long)part->v[i].len,
                   (unsigned long long)batch->remote[part->v + i - batch->v],
                   part->view->segment->name, part->view->transport->host.name,
                   text && text[0] ? text : ferry_strstatus(status));
    atomic_fetch_add_explicit(&batch->failed, 1, memory_order_relaxed);
    part->timed = false;
    atomic_fetch_add_explicit(&path_of(part)->count.failed, 1, memory_order_relaxed);
    if (lane)
        atomic_fetch_add_explicit(&lane->count.failed, 1, memory_order_relaxed);
}

static bool retryable(int result)
{
    return result == FY_AGAIN || result == FY_AGAIN_UNSENT;
}

static void fail_all_again(struct fy_part *part, bool sent_only, ferry_status status,
                           const char *text)
{
    for (uint32_t i = 0; i < part->n; i++) {
        int result = fy_get_result(part->batch, request_of(part, i));

        if (sent_only ? result == FY_AGAIN : retryable(result))
            fail_one(part, i, status, text);
    }
}

/* Fills a new part with what is left of an old one, its keys those of `view`. NULL: nothing is.
 */
static ferry_status refit(struct fy_part *old, struct fy_view *view, struct fy_part **part_out)
{
    struct fy_batch *batch = old->batch;
    struct ferry_engine *engine = batch->engine;
    unsigned tr = view->transport->index;
    struct fy_part *part;
    uint32_t *index;
    size_t hint = 0;
    uint32_t left = 0;
    ferry_status status = FERRY_OK;

    for (uint32_t i = 0; i < old->n; i++)
        left += retryable(fy_get_result(batch, request_of(old, i)));
    if (!left) {
        *part_out = NULL;
        return FERRY_OK;
    }
    part = calloc(1, sizeof(*part) + left * sizeof(*index));
    if (!part)
        return fy_fail(FERRY_ENOMEM, "no memory for another attempt");
    index = (uint32_t *)(part + 1);
    /* In place: the old attempt is quiet, so its elements can be reused, moved to the front. */
    left = 0;
    for (uint32_t i = 0; i < old->n && !status; i++) {
        uint64_t request = request_of(old, i);
        struct ferry_xfer *x = &old->v[left];
        struct fy_region *region;
        uint64_t remote;

        if (!retryable(fy_get_result(batch, request)))
            continue;
        *x = old->v[i];
        remote = batch->remote[old->v + i - batch->v];
        batch->remote[x - batch->v] = remote;
        status = fy_doc_find(view->doc, remote, x->len,
                             old->op == FERRY_OP_READ ? FERRY_ACCESS_REMOTE_READ
                                                      : FERRY_ACCESS_REMOTE_WRITE,
                             &hint);
        if (status) {
            fy_fail(status, "0x%llx is not in a buffer of the peer any more",
                    (unsigned long long)remote);
            break;
        }
        status = fy_view_rmem(view, hint, &x->rmem);
        if (status)
            break;
        x->remote_off = remote - view->doc->buffers[hint].addr;
        status = fy_registry_get(engine->registry, (uint64_t)(uintptr_t)x->local, x->len, 0,
                                 &region);
        if (status)
            break;
        x->mr = region->mr[tr]; /* the batch holds the region already */
        fy_region_put(region);
        if (!x->mr) {
            status = fy_fail(FERRY_ENOTSUP, "transport %s cannot reach the memory at %p",
                             view->transport->host.name, x->local);
            break;
        }
        index[left] = (uint32_t)request;
        part->bytes += x->len;
        left++;
    }
    if (status) {
        free(part);
        return status;
    }
    for (uint32_t i = 0; i < left; i++)
        fy_set_result(batch, index[i], FY_UNDER_WAY);
    part->batch = batch;
    part->view = view;
    part->meant = fy_view_stands(view);
    part->v = old->v;
    part->index = index;
    part->n = left;
    part->op = old->op;
    part->local_kind = old->local_kind;
    part->remote_kind = old->remote_kind;
    part->attempt = (uint8_t)(old->attempt + 1);
    *part_out = part;
    return FERRY_OK;
}

/* No other attempt: the first one's failure is the cause; `then`, the search for the peer, adds
 * to it, "" = there was none. */
static void give_up(struct fy_part *part, const char *then)
{
    struct fy_view *view = part->view;
    char text[600];

    snprintf(text, sizeof(text), "%s%s%s",
             atomic_load(&view->state) == FY_VIEW_BROKEN ? view->cause_text
                                                         : ferry_strstatus(part->again),
             then[0] ? "; then " : "", then);
    fail_all_again(part, false, part->again, text);
}

/* Of one transfer; the connection is as good as before. */
static bool is_refusal(ferry_status status)
{
    return status == FERRY_EACCESS || status == FERRY_ERANGE;
}

/* The next attempt of what failed with its peer, or was refused by it. May be a job. */
static void try_again(void *arg)
{
    struct fy_part *part = arg, *fresh = NULL;
    struct fy_batch *batch = part->batch;
    struct fy_segment *segment = part->view->segment;
    struct fy_view *view = NULL;
    const struct fy_need need = {.only = batch->only,
                                 .op = part->op,
                                 .local_kind = part->local_kind,
                                 .remote_kind = part->remote_kind};
    ferry_status status;

    if (!is_refusal(part->again)) {
        fy_view_quiesce(part->view);
        fy_path_lost(part->view);
    }
    status = atomic_load(&batch->abort);
    if (!status) {
        int left_ms = fy_ms_left(batch->deadline_ns);
        struct fy_doc *before = part->view->doc;

        status = fy_segment_reload(segment, part->again_ns,
                                   left_ms < RELOAD_MS ? (uint32_t)left_ms : RELOAD_MS);
        if (!status)
            status = fy_segment_view(segment, &need, &view);
        if (!status && is_refusal(part->again) && view->doc == before)
            fail_all_again(part, false, part->again, NULL); /* it was meant so */
        if (!status && strcmp(view->doc->epoch, before->epoch))
            fail_all_again(part, !part->meant, FERRY_ESTALE,
                           "the peer restarted while it was under way");
        if (!status)
            status = refit(part, view, &fresh);
        if (status)
            give_up(part, ferry_error());
    } else if (status == FERRY_ETIMEDOUT) {
        give_up(part, ""); /* too late for another attempt, and the cause is known */
    } else {
        fail_all_again(part, false, status, ferry_strstatus(status));
    }
    if (fresh) {
        atomic_fetch_add_explicit(&path_of(fresh)->count.retried, fresh->n,
                                  memory_order_relaxed);
        pthread_mutex_lock(&batch->lock);
        fresh->next_in_batch = batch->later;
        batch->later = fresh;
        pthread_mutex_unlock(&batch->lock);
        fy_part_start(fresh); /* inherits the count in parts_left */
        return;
    }
    fy_view_put(view);
    fy_batch_part_done(batch);
}

bool fy_part_unlink(struct fy_part **first, struct fy_part ***tail, struct fy_part *part)
{
    struct fy_part **at = first;

    while (*at && *at != part)
        at = &(*at)->next;
    if (!*at)
        return false;
    *at = part->next;
    if (*tail == &part->next)
        *tail = at;
    return true;
}

static void give_up_for_memory(struct fy_part *part)
{
    fail_all_again(part, false, part->again, "no memory for another attempt");
    fy_batch_part_done(part->batch);
}

/* Its batch was aborted: nothing is read for it any more, and so nobody is waited for. */
static void try_no_more(struct fy_part *part)
{
    if (fy_work_add(part->batch->engine->work, try_again, part))
        give_up_for_memory(part);
}

static struct fy_part *next_again(struct fy_segment *segment)
{
    struct fy_part *part;

    pthread_mutex_lock(&segment->again_lock);
    part = segment->again;
    if (part)
        segment->again = part->next;
    else
        segment->trying = false;
    if (!segment->again)
        segment->again_tail = &segment->again;
    pthread_mutex_unlock(&segment->again_lock);
    return part;
}

/* A job, one for each peer: all would wait for the same document. */
static void try_all_again(void *arg)
{
    struct fy_segment *segment = arg;
    struct fy_part *part;

    while ((part = next_again(segment)))
        try_again(part);
    fy_segment_put(segment);
}

static void try_later(struct fy_part *part)
{
    struct fy_segment *segment = part->view->segment;
    struct ferry_engine *engine = segment->engine;
    bool first = false, aborted;

    part->again_ns = fy_now_ns();
    part->next = NULL;
    pthread_mutex_lock(&segment->again_lock);
    /* Abort takes this lock after it set the flag, so it finds the part, or we the flag. */
    aborted = atomic_load(&part->batch->abort) != 0;
    if (!aborted) {
        *segment->again_tail = part;
        segment->again_tail = &part->next;
        first = !segment->trying;
        segment->trying = true;
        if (first)
            atomic_fetch_add_explicit(&segment->refs, 1, memory_order_relaxed);
    }
    pthread_mutex_unlock(&segment->again_lock);
    if (aborted)
        try_no_more(part);
    if (!first || !fy_work_add(engine->retriers, try_all_again, segment))
        return;
    while ((part = next_again(segment)))
        give_up_for_memory(part);
    fy_segment_put(segment);
}

void fy_part_aborted(struct fy_part *part)
{
    struct fy_segment *segment = part->view->segment;
    bool found;

    pthread_mutex_lock(&segment->again_lock);
    found = fy_part_unlink(&segment->again, &segment->again_tail, part);
    pthread_mutex_unlock(&segment->again_lock);
    if (found)
        try_no_more(part);
}

static void part_over(struct fy_part *part)
{
    struct fy_lane *lane = atomic_load_explicit(&part->lane, memory_order_relaxed);

    if (lane) {
        fy_lane_left(lane, part);
        fy_rate_note(&lane->rate, &lane->count);
    }
    fy_rate_note(&path_of(part)->rate, &path_of(part)->count);
    if (part->timed && !part->n_again)
        fy_path_measured(part->view, part->op, part->whole,
                         fy_now_ns() - part->batch->began_ns);
    if (part->n_again)
        try_later(part);
    else
        fy_batch_part_done(part->batch);
}

static void count_done(struct fy_counters *count, uint32_t n, uint64_t bytes)
{
    atomic_fetch_add_explicit(&count->requests, n, memory_order_relaxed);
    atomic_fetch_add_explicit(&count->bytes, bytes, memory_order_relaxed);
}

static bool may_try_again(const struct fy_part *part, ferry_status status)
{
    const struct fy_batch *batch = part->batch;

    return (ferry_status_scope(status) >= FERRY_SCOPE_PEER || is_refusal(status)) &&
           part->attempt < batch->engine->n_transports && !atomic_load(&batch->abort) &&
           !atomic_load_explicit(&batch->engine->closing, memory_order_relaxed) &&
           fy_now_ns() < batch->deadline_ns;
}

void fy_part_ended(struct fy_part *part, uint32_t at, uint32_t n, ferry_status status,
                   bool sent, const char *text)
{
    struct fy_batch *batch = part->batch;
    struct fy_view *view = part->view;
    struct fy_lane *lane = atomic_load_explicit(&part->lane, memory_order_relaxed);
    uint8_t carrier = lane ? (uint8_t)lane->id : FY_NO_LANE;
    int abort = atomic_load(&batch->abort);
    ferry_status told = status;

    if (at >= part->n || n > part->n - at || n > part->n - part->ended) {
        FY_ERROR(&batch->engine->log, "transport %s completed elements that are not under way",
                 view->transport->host.name);
        return;
    }
    if (status == FERRY_OK) {
        uint64_t bytes = 0;

        for (uint32_t i = at; i < at + n; i++) {
            uint64_t request = request_of(part, i);

            bytes += part->v[i].len;
            fy_set_result(batch, request, FERRY_OK);
            atomic_store_explicit(&batch->carrier[request], carrier, memory_order_relaxed);
        }
        atomic_fetch_add_explicit(&batch->bytes, bytes, memory_order_relaxed);
        atomic_fetch_add_explicit(&batch->done, n, memory_order_relaxed);
        count_done(&path_of(part)->count, n, bytes);
        if (lane)
            count_done(&lane->count, n, bytes);
    } else {
        bool again;

        if (status == FERRY_ECANCELED && !abort) { /* a bystander of a peer that was closed */
            status = fy_view_cause(view, &text);
            text = ferry_strstatus(status);
        }
        if (ferry_status_scope(status) >= FERRY_SCOPE_PEER)
            fy_view_break(view, status, text);
        if (abort && (status == FERRY_ECANCELED || abort == FERRY_ECANCELED)) {
            ferry_status trouble = abort == FERRY_ETIMEDOUT ? fy_view_trouble(view) : FERRY_OK;

            status = trouble ? trouble : abort;
        }
        again = may_try_again(part, status);
        for (uint32_t i = at; i < at + n; i++) {
            uint64_t request = request_of(part, i);

            atomic_store_explicit(&batch->carrier[request], carrier, memory_order_relaxed);
            if (again)
                fy_set_result(batch, request, sent ? FY_AGAIN : FY_AGAIN_UNSENT);
            else
                fail_one(part, i, status, abort ? ferry_strstatus(status) : text);
        }
        if (again) {
            if (!part->n_again || !is_refusal(status))
                part->again = status;
            part->n_again += n;
        }
    }
    part->ended += n;
    if (part->ended == part->n) {
        part_over(part);
    } else if (part->cancel_asked && part->ended == part->accepted) {
        uint32_t rest = part->n - part->accepted;

        part->accepted = part->n;
        fy_part_ended(part, part->n - rest, rest, told ? told : FERRY_ECANCELED, false, text);
    }
}

void fy_part_lost(struct fy_part *part, ferry_status status, const char *text)
{
    uint32_t left = part->accepted - part->ended;

    for (uint32_t i = 0; left; i++) {
        if (fy_get_result(part->batch, request_of(part, i)) != FY_UNDER_WAY)
            continue;
        left--; /* first: with its last element the part may go */
        fy_part_ended(part, i, 1, status, true, text);
    }
}

void fy_part_fail(struct fy_part *part, ferry_status status, const char *text)
{
    part->accepted = part->n;
    fy_part_ended(part, 0, part->n, status, false, text);
}

void fy_part_start(struct fy_part *part)
{
    struct fy_view *view = part->view;
    int state = atomic_load_explicit(&view->state, memory_order_acquire);
    struct fy_lane *lane;

    if (state < FY_VIEW_READY) {
        pthread_mutex_lock(&view->lock);
        state = atomic_load_explicit(&view->state, memory_order_relaxed);
        /* Abort takes this lock after it set the flag, so one of the two sees the other. */
        if (state < FY_VIEW_READY && !atomic_load(&part->batch->abort)) {
            part->next = NULL;
            *view->waiting_tail = part;
            view->waiting_tail = &part->next;
            pthread_mutex_unlock(&view->lock);
            fy_view_connect(view);
            return;
        }
        pthread_mutex_unlock(&view->lock);
        if (state < FY_VIEW_READY) {
            fy_part_fail(part, FERRY_ECANCELED, "canceled before it was sent");
            return;
        }
    }
    lane = fy_lane_choose(view);
    if (lane)
        fy_lane_start(lane, part);
    else
        fy_view_refuse(view, part);
}
