/* SPDX-License-Identifier: Apache-2.0 */
/*
 * HOT: submit, poll, cancel, arm. Items wait in their link's backlog and go out in pieces, only
 * so many at a time, so that a cancel has something left to hold back.
 */
#include "fab.h"

#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define ATTR_SIZE_1_0 (offsetof(struct ferry_queue_attr, priority) + sizeof(uint32_t))
#define LIST_SIZE_1_0 (offsetof(struct ferry_list, reserved) + sizeof(uint32_t))
#define MAX_DEPTH     65536u
#define MAX_SLOTS     4096u
#define BATCH         64u /* completions read at a time */

/* ---- items and slots */

static void join_comp(struct ferry_queue *queue, const struct fab_item *item,
                      ferry_status status)
{
    uint32_t last = (queue->comp_head + queue->comp_n + queue->depth - 1) % queue->depth;
    struct ferry_comp *c = &queue->comps[last];
    int32_t vendor = status == FERRY_OK ? 0 : item->link->vendor_err;

    if (queue->comp_n && c->cookie == item->cookie && c->first + c->n == item->first &&
        c->status == status && c->vendor_err == vendor) {
        c->n += item->n;
        c->bytes += item->done;
        queue->n_used--;
        return;
    }
    queue->comps[(queue->comp_head + queue->comp_n++) % queue->depth] =
        (struct ferry_comp){.cookie = item->cookie,
                            .first = item->first,
                            .n = item->n,
                            .status = status,
                            .vendor_err = vendor,
                            .bytes = item->done};
}

void fab_item_end(struct ferry_queue *queue, uint32_t index, ferry_status status)
{
    struct fab_item *item = &queue->items[index];

    if (item->cancelled && item->link->cancelled)
        item->link->cancelled--;
    join_comp(queue, item, status);
    item->used = false;
    item->next = queue->free_item;
    queue->free_item = index;
}

static void free_slot(struct fab_link *link, struct fab_slot *slot)
{
    struct ferry_queue *queue = link->queue;
    uint32_t index = (uint32_t)(slot - queue->slots);

    if (slot->prev == FAB_NONE)
        link->posted = slot->next;
    else
        queue->slots[slot->prev].next = slot->next;
    if (slot->next != FAB_NONE)
        queue->slots[slot->next].prev = slot->prev;
    link->n_posted--;
    link->posted_bytes -= slot->len;
    slot->next = queue->free_slot;
    queue->free_slot = index;
}

void fab_link_break(struct fab_link *link, int vendor_err)
{
    struct ferry_queue *queue = link->queue;

    fab_end_close(&link->end);
    link->state = LINK_BROKEN;
    link->vendor_err = vendor_err;
    while (link->posted != FAB_NONE)
        free_slot(link, &queue->slots[link->posted]);
    /* everything is sent again, from its start */
    link->backlog = FAB_NONE;
    link->backlog_tail = &link->backlog;
    link->cancelled = 0;
    for (uint32_t i = 0; i < queue->depth; i++) {
        struct fab_item *item = &queue->items[i];
        if (!item->used || item->link != link)
            continue;
        item->cursor = item->done = 0;
        item->out = 0;
        item->queued = true;
        item->next = FAB_NONE;
        *link->backlog_tail = i;
        link->backlog_tail = &item->next;
        link->cancelled += item->cancelled;
    }
    fab_workers_wake(queue->tp);
}

void fab_items_end(struct fab_link *link, ferry_status status)
{
    struct ferry_queue *queue = link->queue;

    while (link->backlog != FAB_NONE) {
        uint32_t i = link->backlog;
        link->backlog = queue->items[i].next;
        queue->items[i].queued = false;
        fab_item_end(queue, i, status);
    }
    link->backlog_tail = &link->backlog;
}

/* ---- sending */

/* Is there room for one more piece of that many bytes? */
static bool has_room(const struct fab_link *link, uint64_t len)
{
    const struct ferry_queue *queue = link->queue;

    return link->n_posted < queue->device->credits && queue->free_slot != FAB_NONE &&
           (!link->n_posted || link->posted_bytes + len <= queue->tp->config.window);
}

static ssize_t post(struct fab_link *link, struct fab_item *item, uint64_t len, bool more)
{
    struct ferry_queue *queue = link->queue;
    const uint32_t d = queue->device_index, r = link->remote_device;
    struct fab_slot *slot = &queue->slots[queue->free_slot];
    uint32_t index = queue->free_slot;
    struct iovec iov = {.iov_base = item->local + item->cursor, .iov_len = len};
    struct fi_rma_iov rma = {
        .addr = item->rmem->keys.addr[r] + item->rmem->skip + item->remote_off + item->cursor,
        .len = len,
        .key = item->rmem->keys.key[r],
    };
    struct fi_msg_rma msg = {
        .msg_iov = &iov,
        .desc = &item->mr->desc[d],
        .iov_count = 1,
        .addr = link->addr,
        .rma_iov = &rma,
        .rma_iov_count = 1,
        .context = &slot->ctx,
    };
    /* For a READ too: without it shm copies past the peer, who then holds us to no rights. */
    uint64_t flags = FI_COMPLETION | FI_DELIVERY_COMPLETE | (more ? FI_MORE : 0);
    ssize_t rc = item->op == FERRY_OP_READ ? fi_readmsg(link->end.ep, &msg, flags)
                                           : fi_writemsg(link->end.ep, &msg, flags);

    if (rc != 0)
        return rc;
    queue->free_slot = slot->next;
    slot->item = (uint32_t)(item - queue->items);
    slot->len = len;
    slot->prev = FAB_NONE;
    slot->next = link->posted;
    if (link->posted != FAB_NONE)
        queue->slots[link->posted].prev = index;
    link->posted = index;
    if (!link->n_posted)
        link->progress_ns = ft_now_ns(); /* the time of what is on its way runs */
    link->n_posted++;
    link->posted_bytes += len;
    item->cursor += len;
    item->out++;
    return 0;
}

static uint64_t piece_len(const struct fab_link *link, const struct fab_item *item)
{
    uint64_t left = item->len - item->cursor, max = link->queue->device->max_piece;

    return left < max ? left : max;
}

void fab_send(struct fab_link *link)
{
    struct ferry_queue *queue = link->queue;

    while (link->state == LINK_UP && !link->hold && link->backlog != FAB_NONE) {
        struct fab_item *item = &queue->items[link->backlog];
        uint64_t len = piece_len(link, item);
        bool more;
        ssize_t rc;
        if (!has_room(link, len))
            return;
        more = link->n_posted + 1 < queue->device->credits &&
               queue->slots[queue->free_slot].next != FAB_NONE &&
               (item->cursor + len < item->len || item->next != FAB_NONE);
        if (more) { /* the next one follows for certain */
            uint64_t next = item->cursor + len < item->len ? item->len - item->cursor - len
                                                           : queue->items[item->next].len;
            if (next > queue->device->max_piece)
                next = queue->device->max_piece;
            more = link->posted_bytes + len + next <= queue->tp->config.window;
        }
        rc = post(link, item, len, more);
        if (rc == -FI_EAGAIN)
            return;
        if (rc != 0) {
            fab_link_break(link, (int)-rc);
            return;
        }
        if (item->cursor == item->len) {
            link->backlog = item->next;
            if (link->backlog == FAB_NONE)
                link->backlog_tail = &link->backlog;
            item->queued = false;
        }
    }
}

/* ---- completions */

static void piece_done(struct fab_link *link, struct fab_slot *slot)
{
    struct ferry_queue *queue = link->queue;
    struct fab_item *item = &queue->items[slot->item];

    item->out--;
    item->done += slot->len;
    if (item->done == item->len)
        fab_item_end(queue, slot->item, FERRY_OK);
    else if (item->cancelled && !item->out)
        fab_item_end(queue, slot->item, FERRY_ECANCELED);
    free_slot(link, slot);
}

void fab_reap(struct fab_link *link)
{
    struct fi_cq_entry entry[BATCH];
    ssize_t n;

    while (link->state == LINK_UP &&
           (n = fi_cq_read(link->end.cq, entry, BATCH)) != -FI_EAGAIN) {
        if (n <= 0) {
            struct fi_cq_err_entry error = {0};
            if (n == -FI_EAVAIL)
                fi_cq_readerr(link->end.cq, &error, 0);
            fab_link_break(link, error.err ? error.err : (int)-n);
            return;
        }
        for (ssize_t i = 0; i < n; i++)
            piece_done(link, entry[i].op_context);
        link->progress_ns = ft_now_ns();
        link->tries = link->stalls = 0;
        if (n < (ssize_t)BATCH)
            return;
    }
}

static void advance(struct ferry_queue *queue)
{
    for (struct fab_link *link = queue->links; link; link = link->next_of_queue) {
        if (link->n_posted)
            fab_reap(link);
        if (link->backlog != FAB_NONE)
            fab_send(link);
    }
}

static uint32_t take_comps(struct ferry_queue *queue, struct ferry_comp *comp, uint32_t max)
{
    uint32_t n = 0;

    while (queue->comp_n && n < max) {
        comp[n++] = queue->comps[queue->comp_head];
        queue->comp_head = (queue->comp_head + 1) % queue->depth;
        queue->comp_n--;
        queue->n_used--;
    }
    return n;
}

static void disarm(struct ferry_queue *queue)
{
    if (atomic_exchange(&queue->armed, false))
        atomic_fetch_sub(&queue->tp->n_armed, 1);
}

int32_t fab_poll(struct ferry_queue *queue, struct ferry_comp *comp, uint32_t max)
{
    uint32_t n;

    pthread_mutex_lock(&queue->lock);
    advance(queue);
    n = take_comps(queue, comp, max);
    pthread_mutex_unlock(&queue->lock);
    if (atomic_load_explicit(&queue->armed, memory_order_relaxed))
        disarm(queue);
    return (int32_t)n;
}

/* ---- submit */

static ferry_status check_element(const struct ferry_list *list, const struct ferry_xfer *x)
{
    uint64_t at;
    uint32_t needs =
        list->op == FERRY_OP_READ ? FERRY_ACCESS_REMOTE_READ : FERRY_ACCESS_REMOTE_WRITE;

    if (!x->mr || !x->rmem || x->rmem->peer != list->peer || x->len == 0)
        return FERRY_EINVAL;
    at = (uintptr_t)x->local - (uintptr_t)x->mr->addr;
    if ((uintptr_t)x->local < (uintptr_t)x->mr->addr || at > x->mr->len ||
        x->len > x->mr->len - at || x->remote_off > x->rmem->len ||
        x->len > x->rmem->len - x->remote_off)
        return FERRY_ERANGE;
    if (list->op == FERRY_OP_READ && !(x->mr->access & FERRY_ACCESS_LOCAL_WRITE))
        return FERRY_EACCESS;
    /* told by the peer; its provider holds us to it all the same */
    return x->rmem->keys.access & needs ? FERRY_OK : FERRY_EACCESS;
}

/* Goes on where the item before it ends, on both sides: one piece instead of two. */
static bool merge(struct fab_item *item, const struct ferry_list *list,
                  const struct ferry_xfer *x, uint32_t index)
{
    if (!item || item->mr != x->mr || item->rmem != x->rmem || item->first + item->n != index ||
        item->local + item->len != x->local || item->remote_off + item->len != x->remote_off ||
        item->len + x->len > FAB_MAX_MERGE)
        return false;
    item->len += x->len;
    item->n++;
    return true;
}

ferry_status fab_submit(struct ferry_queue *queue, const struct ferry_list *list,
                        uint32_t *accepted_out)
{
    struct fab_link *link;
    struct fab_item *last = NULL;
    ferry_status status = FERRY_OK;
    uint32_t i = 0;

    *accepted_out = 0;
    if (list->size < LIST_SIZE_1_0 || list->op > FERRY_OP_WRITE || list->flags || !list->peer)
        return FERRY_EINVAL;
    link = atomic_load_explicit(&list->peer->link[queue->number], memory_order_acquire);
    if (!link)
        return FERRY_EINVAL;
    pthread_mutex_lock(&queue->lock);
    if (link->state == LINK_DEAD) {
        status = link->status;
        goto out;
    }
    for (; i < list->n; i++) {
        const struct ferry_xfer *x = &list->v[i];
        uint32_t at = queue->free_item;
        status = check_element(list, x);
        if (status != FERRY_OK)
            break;
        if (merge(last, list, x, list->first + i))
            continue;
        if (queue->n_used == queue->depth) {
            status = FERRY_EAGAIN;
            break;
        }
        last = &queue->items[at];
        queue->free_item = last->next;
        queue->n_used++;
        *last = (struct fab_item){.link = link,
                                  .mr = x->mr,
                                  .rmem = x->rmem,
                                  .local = x->local,
                                  .remote_off = x->remote_off,
                                  .len = x->len,
                                  .cookie = list->cookie,
                                  .first = list->first + i,
                                  .n = 1,
                                  .next = FAB_NONE,
                                  .op = (uint8_t)list->op,
                                  .used = true,
                                  .queued = true};
        *link->backlog_tail = at;
        link->backlog_tail = &last->next;
    }
    *accepted_out = i;
    fab_send(link);

out:
    pthread_mutex_unlock(&queue->lock);
    return status;
}

/* ---- cancel */

/* What has not been sent ends here; what is on its way ends by itself, or its link is taken
 * down (work.c). */
ferry_status fab_cancel(struct ferry_queue *queue, uint64_t cookie)
{
    pthread_mutex_lock(&queue->lock);
    for (struct fab_link *link = queue->links; link; link = link->next_of_queue) {
        uint32_t next, *keep = &link->backlog;
        for (uint32_t i = link->backlog; i != FAB_NONE; i = next) {
            struct fab_item *item = &queue->items[i];
            next = item->next;
            /* of a broken link it may have been sent: the peer has to answer first */
            if (item->cookie != cookie || link->state != LINK_UP) {
                *keep = i;
                keep = &item->next;
                continue;
            }
            item->queued = false;
            if (!item->out)
                fab_item_end(queue, i, FERRY_ECANCELED);
        }
        *keep = FAB_NONE;
        link->backlog_tail = keep;
    }
    for (uint32_t i = 0; i < queue->depth; i++) {
        struct fab_item *item = &queue->items[i];
        if (item->used && item->cookie == cookie && !item->cancelled) {
            item->cancelled = true;
            if (!item->link->cancelled++)
                item->link->progress_ns = ft_now_ns();
        }
    }
    if (queue->comp_n)
        eventfd_write(queue->event_fd, 1);
    pthread_mutex_unlock(&queue->lock);
    return FERRY_OK;
}

/* ---- sleeping */

ferry_status fab_queue_fd(struct ferry_queue *queue, int *fd_out)
{
    *fd_out = queue->epoll_fd;
    return FERRY_OK;
}

/* The queue's lock is held. FERRY_EAGAIN: there is something to poll for. */
static ferry_status try_wait(struct ferry_queue *queue)
{
    for (struct fab_link *link = queue->links; link; link = link->next_of_queue) {
        if (link->state != LINK_UP)
            continue;
        fab_reap(
            link); /* also of those with nothing on its way: their descriptor is quiet then */
        fab_send(link);
        if (queue->comp_n || (link->backlog != FAB_NONE && !link->n_posted))
            return FERRY_EAGAIN;
        if (queue->device->wait_fd && link->state == LINK_UP) {
            struct fid *fid = &link->end.cq->fid;
            if (fi_trywait(queue->device->fabric, &fid, 1) != FI_SUCCESS)
                return FERRY_EAGAIN;
        }
    }
    return queue->comp_n ? FERRY_EAGAIN : FERRY_OK;
}

ferry_status fab_queue_arm(struct ferry_queue *queue)
{
    ferry_status status;
    eventfd_t spent;

    pthread_mutex_lock(&queue->lock);
    eventfd_read(queue->event_fd, &spent);
    status = try_wait(queue);
    pthread_mutex_unlock(&queue->lock);
    if (status == FERRY_OK && !queue->device->wait_fd &&
        !atomic_exchange(&queue->armed, true)) {
        atomic_fetch_add(&queue->tp->n_armed, 1);
        fab_serve_poke(queue->tp);
    }
    return status;
}

bool fab_queue_look(struct ferry_queue *queue)
{
    bool found;

    pthread_mutex_lock(&queue->lock);
    advance(queue);
    found = queue->comp_n > 0;
    if (found) {
        disarm(queue);
        eventfd_write(queue->event_fd, 1);
    }
    pthread_mutex_unlock(&queue->lock);
    return found;
}

/* ---- open and close */

static uint32_t clamp(uint32_t value, uint32_t min, uint32_t max)
{
    return value < min ? min : value > max ? max : value;
}

ferry_status fab_queue_open(struct ferry_tp *tp, const struct ferry_queue_attr *attr,
                            struct ferry_queue **queue_out)
{
    struct epoll_event event = {.events = EPOLLIN};
    struct ferry_queue *queue;
    uint32_t n_slots, number = 0;

    if (attr->size < ATTR_SIZE_1_0 || attr->device >= tp->n_devices)
        return FERRY_EINVAL;
    queue = calloc(1, sizeof(*queue));
    if (!queue)
        return FERRY_ENOMEM;
    queue->tp = tp;
    queue->device_index = attr->device;
    queue->device = &tp->device[attr->device];
    queue->depth = attr->depth ? clamp(attr->depth, 8, MAX_DEPTH) : 1024;
    n_slots = clamp(4 * queue->depth, 64, MAX_SLOTS);
    queue->items = calloc(queue->depth, sizeof(*queue->items));
    queue->comps = calloc(queue->depth, sizeof(*queue->comps));
    queue->slots = calloc(n_slots, sizeof(*queue->slots));
    queue->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    queue->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    pthread_mutex_init(&queue->lock, NULL);
    if (!queue->items || !queue->comps || !queue->slots || queue->epoll_fd < 0 ||
        queue->event_fd < 0 ||
        epoll_ctl(queue->epoll_fd, EPOLL_CTL_ADD, queue->event_fd, &event) != 0) {
        number = FAB_MAX_QUEUES;
    } else {
        for (uint32_t i = 0; i < queue->depth; i++)
            queue->items[i].next = i + 1 < queue->depth ? i + 1 : FAB_NONE;
        for (uint32_t i = 0; i < n_slots; i++)
            queue->slots[i].next = i + 1 < n_slots ? i + 1 : FAB_NONE;
    }
    pthread_mutex_lock(&tp->lock);
    while (number < FAB_MAX_QUEUES && tp->queues[number])
        number++;
    if (number < FAB_MAX_QUEUES)
        tp->queues[number] = queue;
    queue->number = number;
    pthread_mutex_unlock(&tp->lock);
    if (number == FAB_MAX_QUEUES) {
        fab_queue_close(queue);
        return FERRY_ENOMEM;
    }
    *queue_out = queue;
    return FERRY_OK;
}

void fab_queue_close(struct ferry_queue *queue)
{
    if (!queue)
        return;
    while (queue->links) /* nobody else changes it: no call of this queue's is running */
        fab_link_close(queue->links);
    disarm(queue);
    pthread_mutex_lock(&queue->tp->lock);
    if (queue->number < FAB_MAX_QUEUES)
        queue->tp->queues[queue->number] = NULL;
    pthread_mutex_unlock(&queue->tp->lock);
    if (queue->event_fd >= 0)
        close(queue->event_fd);
    if (queue->epoll_fd >= 0)
        close(queue->epoll_fd);
    pthread_mutex_destroy(&queue->lock);
    free(queue->slots);
    free(queue->comps);
    free(queue->items);
    free(queue);
}
