/* SPDX-License-Identifier: Apache-2.0 */
/*
 * HOT: submit, poll, cancel. Decides each element's fate from the seed and its number in the
 * queue, passes runs of those that go through to the wrapped transport, and holds back what it
 * hears from there. Whatever it injects obeys the contract: an accepted element ends once.
 */
#include "fault.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define ATTR_SIZE_1_0 (offsetof(struct ferry_queue_attr, priority) + sizeof(uint32_t))
#define LIST_SIZE_1_0 (offsetof(struct ferry_list, reserved) + sizeof(uint32_t))
#define NONE          UINT32_MAX

static uint64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void set_timer(struct ferry_queue *queue, uint64_t at_ns)
{
    struct itimerspec when = {.it_value = {.tv_sec = (time_t)(at_ns / 1000000000u),
                                           .tv_nsec = (long)(at_ns % 1000000000u)}};
    if (queue->timer >= 0)
        timerfd_settime(queue->timer, TFD_TIMER_ABSTIME, &when, NULL);
}

void fault_queue_kick(struct ferry_queue *queue)
{
    atomic_fetch_add(&queue->kicks, 1);
    set_timer(queue, 1); /* long past */
}

/* An epoll descriptor over the inner one and a timer; none where the inner has none. */
static ferry_status open_fds(struct ferry_queue *queue)
{
    struct ferry_tp *tp = queue->tp;
    int inner;
    if (!(tp->inner_flags & FERRY_CAP_EVENT_FD))
        return FERRY_OK;
    ferry_status status = tp->inner.queue_fd(queue->inner, &inner);
    if (status != FERRY_OK)
        return status;
    struct epoll_event ev = {.events = EPOLLIN};
    queue->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    queue->fd = epoll_create1(EPOLL_CLOEXEC);
    if (queue->timer < 0 || queue->fd < 0 || epoll_ctl(queue->fd, EPOLL_CTL_ADD, inner, &ev) ||
        epoll_ctl(queue->fd, EPOLL_CTL_ADD, queue->timer, &ev)) {
        FAULT_LOG(tp->host, FERRY_LOG_ERROR, "fault: queue: %s", strerror(errno));
        return FERRY_EINTERNAL;
    }
    return FERRY_OK;
}

static void free_queue(struct ferry_queue *queue)
{
    if (queue->fd >= 0)
        close(queue->fd);
    if (queue->timer >= 0)
        close(queue->timer);
    free(queue->slots);
    free(queue->done);
    free(queue);
}

ferry_status fault_queue_open(struct ferry_tp *tp, const struct ferry_queue_attr *attr,
                              struct ferry_queue **queue_out)
{
    if (attr->size < ATTR_SIZE_1_0)
        return FERRY_EINVAL;
    struct ferry_queue *queue = calloc(1, sizeof(*queue));
    if (!queue)
        return FERRY_ENOMEM;
    ferry_status status = FERRY_ENOMEM;
    queue->tp = tp;
    queue->fd = queue->timer = -1;
    queue->depth = attr->depth ? attr->depth : FAULT_DEFAULT_DEPTH;
    if (queue->depth > FAULT_MAX_DEPTH)
        queue->depth = FAULT_MAX_DEPTH;
    queue->n_slots = 2 * queue->depth; /* room for runs beside elements that never end */
    queue->slots = calloc(queue->n_slots, sizeof(*queue->slots));
    queue->done = calloc(queue->n_slots, sizeof(*queue->done));
    if (!queue->slots || !queue->done)
        goto err_free;
    status = tp->inner.queue_open(tp->itp, attr, &queue->inner);
    if (status != FERRY_OK)
        goto err_free;
    status = open_fds(queue);
    if (status != FERRY_OK)
        goto err_close_inner;
    pthread_mutex_lock(&tp->lock);
    queue->stream = tp->n_queues++;
    queue->next = tp->queues;
    queue->link = &tp->queues;
    if (queue->next)
        queue->next->link = &queue->next;
    tp->queues = queue;
    pthread_mutex_unlock(&tp->lock);
    *queue_out = queue;
    return FERRY_OK;

err_close_inner:
    tp->inner.queue_close(queue->inner);
err_free:
    free_queue(queue);
    return status;
}

static void drop_peer(struct fault_slot *slot)
{
    /* the last touch: a closed peer may be freed from now on; pairs with reap_peers */
    atomic_fetch_sub_explicit(&slot->peer->refs, 1, memory_order_release);
    slot->peer = NULL;
}

void fault_queue_close(struct ferry_queue *queue)
{
    if (!queue)
        return;
    struct ferry_tp *tp = queue->tp;
    pthread_mutex_lock(&tp->lock);
    *queue->link = queue->next;
    if (queue->next)
        queue->next->link = queue->link;
    pthread_mutex_unlock(&tp->lock);
    if (queue->fd >= 0) { /* before the inner descriptor goes */
        close(queue->fd);
        queue->fd = -1;
    }
    tp->inner.queue_close(queue->inner);
    for (uint32_t i = 0; i < queue->n_slots; i++)
        if (queue->slots[i].state != FAULT_FREE)
            drop_peer(&queue->slots[i]);
    free_queue(queue);
}

/* --- submit ------------------------------------------------------------------- */

/* Queues a slot for reporting, held back as was drawn at submit. */
static void end_slot(struct ferry_queue *queue, uint32_t number, ferry_status status,
                     uint64_t bytes)
{
    struct fault_slot *slot = &queue->slots[number];
    slot->state = FAULT_DONE;
    slot->status = status;
    slot->bytes = bytes;
    slot->ready_ns = slot->delay_ns ? now_ns() + slot->delay_ns : 0;
    slot->ready_poll = queue->polls + slot->polls;
    queue->done[queue->n_done++] = number;
    if (queue->armed) {
        queue->armed = false;
        set_timer(queue, 1);
    }
}

static uint32_t take_slot(struct ferry_queue *queue)
{
    if (queue->used == queue->depth)
        return NONE;
    while (queue->slots[queue->cursor].state != FAULT_FREE)
        queue->cursor = (queue->cursor + 1) % queue->n_slots;
    uint32_t number = queue->cursor;
    queue->cursor = (queue->cursor + 1) % queue->n_slots;
    queue->used++;
    return number;
}

static void free_slot(struct ferry_queue *queue, uint32_t number)
{
    drop_peer(&queue->slots[number]);
    queue->slots[number].state = FAULT_FREE;
    queue->used--;
}

/* What both ends' sizes forbid is left to the wrapped transport to refuse. */
static bool is_good(const struct ferry_list *list, const struct ferry_xfer *x)
{
    uint64_t at = (uintptr_t)x->local - (uintptr_t)x->mr->addr;
    return x->len && (uintptr_t)x->local >= (uintptr_t)x->mr->addr && at <= x->mr->len &&
           x->len <= x->mr->len - at && x->remote_off <= x->rmem->len &&
           x->len <= x->rmem->len - x->remote_off && x->rmem->peer == list->peer;
}

static enum fault_fate draw(struct ferry_queue *queue, uint64_t number, struct fault_slot *slot)
{
    const struct fault_config *cfg = &queue->tp->cfg;
    uint64_t r = fault_random(cfg, queue->stream, number);
    uint32_t mille = (uint32_t)(r % 1000);
    if ((r >> 20) % 1000 < cfg->delay)
        slot->delay_ns = cfg->delay_us * 1000;
    if ((r >> 40) % 1000 < cfg->reorder)
        slot->polls = 1 + (uint32_t)(r >> 60) % 8;
    if (mille < cfg->never)
        return FAULT_NEVER;
    mille -= cfg->never;
    if (mille < cfg->fail)
        return FAULT_FAIL;
    mille -= cfg->fail;
    if (mille < cfg->truncate)
        return FAULT_TRUNCATE;
    mille -= cfg->truncate;
    return mille < cfg->kill ? FAULT_KILL : FAULT_FORWARD;
}

/* Submits the run; *taken_out of its elements are in flight, the slots of the others free. */
static ferry_status flush(struct ferry_queue *queue, const struct ferry_list *list,
                          uint32_t *taken_out)
{
    struct ferry_list inner = {.size = sizeof(inner),
                               .op = list->op,
                               .peer = list->peer->inner,
                               .v = queue->run,
                               .n = queue->n_run,
                               .first = queue->run_first,
                               .cookie = list->cookie};
    uint32_t taken = 0;
    ferry_status status = FERRY_OK;
    if (queue->n_run)
        status = queue->tp->inner.submit(queue->inner, &inner, &taken);
    for (uint32_t i = taken; i < queue->n_run; i++)
        free_slot(queue, queue->run_first + i);
    *taken_out = taken;
    queue->n_run = 0;
    return status;
}

/* Ends what is held for the peer, and asks the wrapped transport to end the rest. */
static void kill_peer(struct ferry_queue *queue, struct ferry_peer *peer)
{
    atomic_store(&peer->dead, true);
    uint64_t last = 0;
    bool any = false;
    for (uint32_t i = 0; i < queue->n_slots; i++) {
        struct fault_slot *slot = &queue->slots[i];
        if (slot->peer != peer)
            continue;
        if (slot->state == FAULT_HELD) {
            queue->held--;
            end_slot(queue, i, FERRY_ECONNRESET, 0);
        } else if (slot->state == FAULT_INNER && (!any || slot->cookie != last)) {
            queue->tp->inner.cancel(queue->inner, slot->cookie);
            last = slot->cookie;
            any = true;
        }
    }
}

/* Takes element i, into the run or to its injected end. */
static bool take(struct ferry_queue *queue, const struct ferry_list *list, uint32_t i,
                 uint32_t number)
{
    const struct ferry_xfer *x = &list->v[i];
    struct fault_slot *slot = &queue->slots[number];
    *slot = (struct fault_slot){.peer = list->peer,
                                .cookie = list->cookie,
                                .index = list->first + i,
                                .state = FAULT_INNER,
                                .sent = x->len};
    atomic_fetch_add_explicit(&list->peer->refs, 1, memory_order_relaxed);
    if (is_good(list, x))
        slot->fate = (uint8_t)(atomic_load_explicit(&list->peer->dead, memory_order_relaxed)
                                   ? FAULT_KILL
                                   : draw(queue, queue->taken + i, slot));
    if (slot->fate == FAULT_TRUNCATE && x->len < 2)
        slot->fate = FAULT_FAIL;
    if (slot->fate > FAULT_TRUNCATE)
        return false;
    if (slot->fate == FAULT_TRUNCATE)
        slot->sent = x->len / 2;
    if (!queue->n_run)
        queue->run_first = number;
    queue->run[queue->n_run] = *x;
    queue->run[queue->n_run].mr = x->mr->inner;
    queue->run[queue->n_run].rmem = x->rmem->inner;
    queue->run[queue->n_run++].len = slot->sent;
    return true;
}

static void inject(struct ferry_queue *queue, struct ferry_peer *peer, uint32_t number)
{
    switch ((enum fault_fate)queue->slots[number].fate) {
    case FAULT_NEVER:
        queue->slots[number].state = FAULT_HELD;
        queue->held++;
        break;
    case FAULT_KILL:
        end_slot(queue, number, FERRY_ECONNRESET, 0);
        if (!atomic_load(&peer->dead))
            kill_peer(queue, peer);
        break;
    default:
        end_slot(queue, number, FERRY_EIO, 0);
    }
}

ferry_status fault_submit(struct ferry_queue *queue, const struct ferry_list *list,
                          uint32_t *accepted_out)
{
    struct ferry_tp *tp = queue->tp;
    const uint32_t need = list->op == FERRY_OP_READ ? FERRY_CAP_READ : FERRY_CAP_WRITE;
    *accepted_out = 0;
    if (list->size < LIST_SIZE_1_0 || list->flags || list->op > FERRY_OP_WRITE)
        return FERRY_EINVAL;
    if (!(tp->inner_flags & need))
        return FERRY_ENOTSUP;
    uint32_t n = list->n, accepted = 0, taken;
    ferry_status status = FERRY_OK;
    /* only where a completion is bound to come, or the caller might wait for ever */
    if (n && queue->used > queue->held) {
        uint64_t r = fault_random(&tp->cfg, ~queue->stream, queue->calls++);
        if (r % 1000 < tp->cfg.refuse) {
            n = (uint32_t)(r >> 32) % n;
            status = FERRY_EAGAIN;
        }
    }
    queue->n_run = 0;
    uint32_t i = 0;
    for (; i < n; i++) {
        uint32_t number = take_slot(queue);
        ferry_status s = FERRY_OK;
        taken = queue->n_run;
        if (queue->n_run && (number == NONE || number != queue->run_first + queue->n_run ||
                             queue->n_run == FAULT_MAX_RUN)) {
            uint32_t run = queue->n_run;
            s = flush(queue, list, &taken);
            accepted += taken;
            if (s != FERRY_OK || taken < run) {
                if (number != NONE)
                    queue->used--; /* not named by any peer yet */
                status = s;
                goto out;
            }
        }
        if (number == NONE) {
            status = FERRY_EAGAIN;
            goto out;
        }
        if (take(queue, list, i, number))
            continue;
        uint32_t run = queue->n_run;
        s = flush(queue, list, &taken);
        accepted += taken;
        if (s != FERRY_OK || taken < run) {
            free_slot(queue, number);
            status = s;
            goto out;
        }
        inject(queue, list->peer, number);
        accepted++;
    }
    uint32_t run = queue->n_run;
    ferry_status s = flush(queue, list, &taken);
    accepted += taken;
    if (s != FERRY_OK || taken < run)
        status = s;
out:
    queue->taken += accepted;
    *accepted_out = accepted;
    return status;
}

/* --- poll --------------------------------------------------------------------- */

static void take_completion(struct ferry_queue *queue, const struct ferry_comp *c)
{
    for (uint32_t i = 0; i < c->n; i++) {
        uint32_t number = c->first + i;
        struct fault_slot *slot = &queue->slots[number];
        ferry_status status = c->status;
        uint64_t bytes = status == FERRY_OK ? slot->sent : c->n == 1 ? c->bytes : 0;
        if (slot->fate == FAULT_TRUNCATE && status == FERRY_OK)
            status = FERRY_EIO;
        else if (status == FERRY_ECANCELED && atomic_load(&slot->peer->dead) &&
                 !atomic_load(&slot->peer->closed))
            status = FERRY_ECONNRESET;
        slot->vendor_err = c->vendor_err;
        end_slot(queue, number, status, bytes);
    }
}

/* Elements of closed peers end now, whatever they were held for. */
static void end_closed(struct ferry_queue *queue)
{
    for (uint32_t i = 0; queue->held && i < queue->n_slots; i++) {
        struct fault_slot *slot = &queue->slots[i];
        if (slot->state == FAULT_HELD && atomic_load(&slot->peer->closed)) {
            queue->held--;
            end_slot(queue, i, FERRY_ECANCELED, 0);
        }
    }
    for (uint32_t i = 0; i < queue->n_done; i++) {
        struct fault_slot *slot = &queue->slots[queue->done[i]];
        if (atomic_load(&slot->peer->closed))
            slot->ready_ns = slot->ready_poll = 0;
    }
}

static bool is_ready(const struct ferry_queue *queue, const struct fault_slot *slot,
                     uint64_t *now)
{
    if (slot->ready_poll > queue->polls)
        return false;
    if (!slot->ready_ns)
        return true;
    if (!*now)
        *now = now_ns();
    return slot->ready_ns <= *now;
}

int32_t fault_poll(struct ferry_queue *queue, struct ferry_comp *comp, uint32_t max)
{
    struct ferry_comp got[64];
    int32_t n_got;
    queue->polls++;
    do {
        n_got = queue->tp->inner.poll(queue->inner, got, 64);
        for (int32_t i = 0; i < n_got; i++)
            take_completion(queue, &got[i]);
    } while (n_got == 64);
    if (n_got < 0)
        return n_got;
    end_closed(queue);

    uint64_t now = 0;
    uint32_t n = 0, kept = 0;
    for (uint32_t i = 0; i < queue->n_done; i++) {
        uint32_t number = queue->done[i];
        struct fault_slot *slot = &queue->slots[number];
        struct ferry_comp *c = n ? &comp[n - 1] : NULL;
        if (!is_ready(queue, slot, &now)) {
            queue->done[kept++] = number;
            continue;
        }
        if (c && c->cookie == slot->cookie && c->first + c->n == slot->index &&
            c->status == slot->status && c->vendor_err == slot->vendor_err) {
            c->n++;
            c->bytes += slot->bytes;
        } else if (n < max) {
            comp[n++] = (struct ferry_comp){.cookie = slot->cookie,
                                            .first = slot->index,
                                            .n = 1,
                                            .status = slot->status,
                                            .vendor_err = slot->vendor_err,
                                            .bytes = slot->bytes};
        } else {
            queue->done[kept++] = number;
            continue;
        }
        free_slot(queue, number);
    }
    queue->n_done = kept;
    return (int32_t)n;
}

ferry_status fault_cancel(struct ferry_queue *queue, uint64_t cookie)
{
    bool inner = false;
    for (uint32_t i = 0; i < queue->n_slots; i++) {
        struct fault_slot *slot = &queue->slots[i];
        if (slot->state == FAULT_FREE || slot->cookie != cookie)
            continue;
        if (slot->state == FAULT_HELD) {
            queue->held--;
            slot->delay_ns = slot->polls = 0;
            end_slot(queue, i, FERRY_ECANCELED, 0);
        } else if (slot->state == FAULT_DONE) {
            slot->ready_ns = slot->ready_poll = 0;
            if (queue->armed)
                set_timer(queue, 1);
        } else {
            slot->delay_ns = slot->polls = 0;
            inner = true;
        }
    }
    if (!inner && queue->tp->inner_flags & FERRY_CAP_CANCEL)
        return FERRY_OK;
    return queue->tp->inner.cancel(queue->inner, cookie);
}

ferry_status fault_queue_fd(struct ferry_queue *queue, int *fd_out)
{
    if (queue->fd < 0)
        return FERRY_ENOTSUP;
    *fd_out = queue->fd;
    return FERRY_OK;
}

ferry_status fault_queue_arm(struct ferry_queue *queue)
{
    if (queue->fd < 0)
        return FERRY_ENOTSUP;
    /* a peer closed after this line is seen below, or its kick comes after our set_timer */
    unsigned kicks = atomic_load(&queue->kicks);
    uint64_t spent, now = 0, first = 0;
    queue->armed = false;
    if (read(queue->timer, &spent, sizeof(spent)) < 0 && errno != EAGAIN)
        return FERRY_EINTERNAL;
    end_closed(queue);
    for (uint32_t i = 0; i < queue->n_done; i++) {
        const struct fault_slot *slot = &queue->slots[queue->done[i]];
        if (slot->ready_poll > queue->polls || is_ready(queue, slot, &now))
            return FERRY_EAGAIN;
        if (!first || slot->ready_ns < first)
            first = slot->ready_ns;
    }
    ferry_status status = queue->tp->inner.queue_arm(queue->inner);
    if (status != FERRY_OK)
        return status;
    queue->armed = true;
    set_timer(queue, first); /* 0 disarms */
    return atomic_load(&queue->kicks) == kicks ? FERRY_OK : FERRY_EAGAIN;
}
