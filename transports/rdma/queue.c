/* SPDX-License-Identifier: Apache-2.0 */
/*
 * HOT: submit, poll, cancel, arm. A queue has a completion queue on every device, so that its
 * transfers can use all rails. Its lock is taken by others only while peers come and go. Knows
 * not how items become work requests.
 */
#include "rdma.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define ATTR_SIZE_1_0 (offsetof(struct ferry_queue_attr, priority) + sizeof(uint32_t))
#define LIST_SIZE_1_0 (offsetof(struct ferry_list, reserved) + sizeof(uint32_t))
#define DEFAULT_DEPTH 1024u
#define MAX_DEPTH     65536u
#define STAGED        256u

static bool watch(struct ferry_queue *queue, int fd)
{
    struct epoll_event event = {.events = EPOLLIN};

    return epoll_ctl(queue->epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0;
}

static bool open_device_part(struct ferry_queue *queue, uint32_t d)
{
    struct ferry_tp *tp = queue->tp;
    struct rdma_device *device = &tp->device[d];
    struct rdma_queue_device *part = &queue->dev[d];
    uint32_t cap = tp->config.max_cqe + RDMA_PROBE_ROOM;
    int flags;

    if (device->max_cqe > 0 && (uint32_t)device->max_cqe < cap)
        cap = (uint32_t)device->max_cqe;
    part->cap = cap;
    part->channel = tp->ibv->create_comp_channel(device->ctx);
    if (!part->channel)
        return false;
    flags = fcntl(part->channel->fd, F_GETFL);
    if (flags < 0 || fcntl(part->channel->fd, F_SETFL, flags | O_NONBLOCK) != 0)
        return false;
    part->cq = tp->ibv->create_cq(device->ctx, (int)cap, NULL, part->channel, 0);
    return part->cq && watch(queue, part->channel->fd);
}

static void free_queue(struct ferry_queue *queue)
{
    struct ferry_tp *tp = queue->tp;

    for (uint32_t d = 0; queue->dev && d < tp->n_devices; d++) {
        if (queue->dev[d].cq)
            tp->ibv->destroy_cq(queue->dev[d].cq);
        if (queue->dev[d].channel)
            tp->ibv->destroy_comp_channel(queue->dev[d].channel);
    }
    if (queue->event_fd >= 0)
        close(queue->event_fd);
    if (queue->epoll_fd >= 0)
        close(queue->epoll_fd);
    pthread_cond_destroy(&queue->cond);
    pthread_mutex_destroy(&queue->lock);
    free(queue->dev);
    free(queue->links);
    free(queue->qps);
    free(queue->generations);
    free(queue->items);
    free(queue->comps);
    free(queue->wrs);
    free(queue->sges);
    free(queue);
}

static bool fill_queue(struct ferry_queue *queue)
{
    struct ferry_tp *tp = queue->tp;

    queue->dev = calloc(tp->n_devices, sizeof(*queue->dev));
    queue->items = calloc(queue->depth, sizeof(*queue->items));
    queue->comps = calloc(queue->depth, sizeof(*queue->comps));
    queue->wrs = calloc(STAGED, sizeof(*queue->wrs));
    queue->sges = calloc(STAGED, sizeof(*queue->sges));
    queue->n_wrs = STAGED;
    queue->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    queue->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (!queue->dev || !queue->items || !queue->comps || !queue->wrs || !queue->sges ||
        queue->epoll_fd < 0 || queue->event_fd < 0 || !watch(queue, queue->event_fd))
        return false;
    for (uint32_t i = 0; i < queue->depth; i++)
        queue->items[i].next = i + 1 < queue->depth ? i + 1 : RDMA_NO_ITEM;
    for (uint32_t d = 0; d < tp->n_devices; d++)
        if (!open_device_part(queue, d))
            return false;
    return true;
}

ferry_status rdma_queue_open(struct ferry_tp *tp, const struct ferry_queue_attr *attr,
                             struct ferry_queue **queue_out)
{
    struct ferry_queue *queue;
    pthread_condattr_t cond;
    ferry_status status = FERRY_OK;

    if (attr->size < ATTR_SIZE_1_0 || attr->device >= tp->n_devices)
        return FERRY_EINVAL;
    queue = calloc(1, sizeof(*queue));
    if (!queue)
        return FERRY_ENOMEM;
    queue->tp = tp;
    queue->home = attr->device;
    queue->depth = attr->depth ? attr->depth : DEFAULT_DEPTH;
    if (queue->depth > MAX_DEPTH)
        queue->depth = MAX_DEPTH;
    queue->epoll_fd = queue->event_fd = -1;
    pthread_mutex_init(&queue->lock, NULL);
    pthread_condattr_init(&cond);
    pthread_condattr_setclock(&cond, CLOCK_MONOTONIC);
    pthread_cond_init(&queue->cond, &cond);
    pthread_condattr_destroy(&cond);
    if (!fill_queue(queue)) {
        FT_LOG(tp->host, FERRY_LOG_ERROR, "opening a queue: %s", strerror(errno));
        free_queue(queue);
        return FERRY_ENOMEM;
    }
    pthread_mutex_lock(&tp->lock);
    while (queue->number < RDMA_MAX_QUEUES && tp->queues[queue->number])
        queue->number++;
    if (queue->number < RDMA_MAX_QUEUES)
        tp->queues[queue->number] = queue;
    else
        status = FERRY_ERANGE;
    pthread_mutex_unlock(&tp->lock);
    if (status != FERRY_OK) {
        free_queue(queue);
        return status;
    }
    *queue_out = queue;
    return FERRY_OK;
}

/* Takes one link of the queue off its peer's list. */
static struct rdma_link *take_link(struct ferry_queue *queue)
{
    struct rdma_link *link = NULL;

    pthread_mutex_lock(&queue->tp->lock);
    pthread_mutex_lock(&queue->lock);
    for (uint32_t i = 0; i < queue->n_links && !link; i++)
        link = queue->links[i];
    if (link)
        for (struct rdma_link **at = &link->peer->links; *at; at = &(*at)->next_of_peer)
            if (*at == link) {
                *at = link->next_of_peer;
                break;
            }
    pthread_mutex_unlock(&queue->lock);
    pthread_mutex_unlock(&queue->tp->lock);
    return link;
}

void rdma_queue_close(struct ferry_queue *queue)
{
    struct rdma_link *link;

    if (!queue)
        return;
    while ((link = take_link(queue)))
        rdma_link_close(link);
    pthread_mutex_lock(&queue->tp->lock);
    queue->tp->queues[queue->number] = NULL;
    pthread_mutex_unlock(&queue->tp->lock);
    free_queue(queue);
}

static ferry_status check(const struct ferry_list *list, const struct ferry_xfer *x)
{
    uint64_t at;

    if (!x->mr || !x->rmem || x->rmem->peer != list->peer || x->len == 0)
        return FERRY_EINVAL;
    at = (uintptr_t)x->local - (uintptr_t)x->mr->addr; /* huge where it is below */
    if (at > x->mr->len || x->len > x->mr->len - at || x->remote_off > x->rmem->len ||
        x->len > x->rmem->len - x->remote_off)
        return FERRY_ERANGE;
    if (list->op == FERRY_OP_READ && !(x->mr->access & FERRY_ACCESS_LOCAL_WRITE))
        return FERRY_EACCESS;
    return FERRY_OK;
}

static bool follows(const struct rdma_item *item, const struct ferry_xfer *x, uint64_t limit)
{
    return item && item->mr == x->mr && item->rmem == x->rmem &&
           item->local + item->len == x->local &&
           item->remote_off + item->len == x->remote_off && item->len <= limit &&
           x->len <= limit - item->len;
}

static struct rdma_item *new_item(struct ferry_queue *queue, struct rdma_link *link,
                                  const struct ferry_list *list, const struct ferry_xfer *x,
                                  uint32_t first)
{
    uint32_t index = queue->free_item;
    struct rdma_item *item = &queue->items[index];

    queue->free_item = item->next;
    queue->n_used++;
    *item = (struct rdma_item){.link = link,
                               .mr = x->mr,
                               .rmem = x->rmem,
                               .local = x->local,
                               .remote_off = x->remote_off,
                               .len = x->len,
                               .cookie = list->cookie,
                               .first = first,
                               .n = 1,
                               .next = RDMA_NO_ITEM,
                               .op = (uint8_t)list->op,
                               .used = true,
                               .queued = true};
    *link->backlog_tail = index;
    link->backlog_tail = &item->next;
    return item;
}

ferry_status rdma_submit(struct ferry_queue *queue, const struct ferry_list *list,
                         uint32_t *accepted_out)
{
    ferry_status status = FERRY_OK;
    struct rdma_item *item = NULL;
    struct rdma_link *link;
    uint32_t i = 0;

    *accepted_out = 0;
    if (list->size < LIST_SIZE_1_0 || list->op > FERRY_OP_WRITE || list->flags || !list->peer)
        return FERRY_EINVAL;
    pthread_mutex_lock(&queue->lock);
    link = list->peer->number < queue->n_links ? queue->links[list->peer->number] : NULL;
    if (!link || link->status != FERRY_OK) {
        status = link ? link->status : FERRY_EINVAL;
        pthread_mutex_unlock(&queue->lock);
        return status;
    }
    for (; i < list->n; i++) {
        const struct ferry_xfer *x = &list->v[i];
        status = check(list, x);
        if (status != FERRY_OK)
            break;
        if (follows(item, x, queue->tp->config.slice)) {
            item->len += x->len;
            item->n++;
        } else if (queue->n_used + queue->comp_n < queue->depth) {
            item = new_item(queue, link, list, x, list->first + i);
        } else {
            status = FERRY_EAGAIN;
            break;
        }
        link->backlog_bytes += x->len;
    }
    *accepted_out = i;
    if (i)
        rdma_send(link);
    pthread_mutex_unlock(&queue->lock);
    return status;
}

static void send_listed(struct ferry_queue *queue)
{
    struct rdma_link *link = queue->listed;

    queue->listed = NULL;
    while (link) {
        struct rdma_link *next = link->next_listed;
        link->listed = false;
        rdma_send(link); /* lists it again where something is left */
        link = next;
    }
}

int32_t rdma_poll(struct ferry_queue *queue, struct ferry_comp *comp, uint32_t max)
{
    uint32_t n = 0;

    pthread_mutex_lock(&queue->lock);
    if (queue->outstanding)
        rdma_reap(queue);
    if (queue->listed)
        send_listed(queue);
    while (n < max && queue->comp_n) {
        comp[n++] = queue->comps[queue->comp_head];
        queue->comp_head = (queue->comp_head + 1) % queue->depth;
        queue->comp_n--;
    }
    pthread_mutex_unlock(&queue->lock);
    return (int32_t)n;
}

/* Pieces of items that are to end are out on this rail: only taking it down calls them back. */
static bool holds_ended(const struct ferry_queue *queue, const struct rdma_rail *rail)
{
    for (uint32_t k = 0; k < rail->n_qp; k++) {
        const struct rdma_qp *qp = &rail->qp[k];
        for (uint32_t p = qp->live_tail; p != qp->head; p++) {
            uint32_t item = qp->slot[p & qp->mask].item;
            if (item != RDMA_NO_ITEM && queue->items[item].status == FERRY_ECANCELED)
                return true;
        }
    }
    return false;
}

ferry_status rdma_cancel(struct ferry_queue *queue, uint64_t cookie)
{
    bool found = false;

    pthread_mutex_lock(&queue->lock);
    rdma_reap(queue);
    for (uint32_t i = 0; i < queue->depth && queue->n_used; i++) {
        struct rdma_item *item = &queue->items[i];
        if (!item->used || item->cookie != cookie || item->status != FERRY_OK)
            continue;
        item->status = FERRY_ECANCELED;
        found = true;
    }
    for (uint32_t l = 0; found && l < queue->n_links; l++) {
        struct rdma_link *link = queue->links[l];
        if (!link)
            continue;
        rdma_link_sweep(link);
        for (uint32_t i = 0; i < link->n_rails; i++)
            if (link->rail[i].state == RAIL_UP && holds_ended(queue, &link->rail[i]))
                rdma_rail_broken(&link->rail[i], CAUSE_CANCEL);
    }
    pthread_mutex_unlock(&queue->lock);
    return FERRY_OK;
}

ferry_status rdma_queue_fd(struct ferry_queue *queue, int *fd_out)
{
    *fd_out = queue->epoll_fd;
    return FERRY_OK;
}

void rdma_queue_wake(struct ferry_queue *queue)
{
    eventfd_write(queue->event_fd, 1);
}

ferry_status rdma_queue_arm(struct ferry_queue *queue)
{
    struct ferry_tp *tp = queue->tp;
    ferry_status status = FERRY_OK;
    eventfd_t spent;

    pthread_mutex_lock(&queue->lock);
    eventfd_read(queue->event_fd, &spent);
    queue->sleeps = true;
    for (uint32_t d = 0; d < tp->n_devices; d++) {
        struct rdma_queue_device *dev = &queue->dev[d];
        struct ibv_cq *cq;
        void *arg;
        if (dev->armed && tp->ibv->get_cq_event(dev->channel, &cq, &arg) == 0) {
            tp->ibv->ack_cq_events(dev->cq, 1);
            dev->armed = false;
        }
        /* a device with nothing to do costs nothing: it is armed when it gets something */
        if (dev->used && !rdma_arm_device(queue, d))
            status = FERRY_EDEVICE;
    }
    rdma_reap(queue); /* what came before the arming */
    if (queue->listed)
        send_listed(queue);
    if (queue->comp_n)
        status = FERRY_EAGAIN;
    pthread_mutex_unlock(&queue->lock);
    return status;
}
