/* SPDX-License-Identifier: Apache-2.0 */
/*
 * HOT: submit, poll, cancel. Queues of the loop transport: submit only notes the elements in a
 * ring, poll copies them in order, some bytes a call, so that what is in flight can be
 * cancelled, cut off and taken apart like on a wire. Knows nothing of how peers are found.
 */
#include "loop.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define ATTR_SIZE_1_0 (offsetof(struct ferry_queue_attr, priority) + sizeof(uint32_t))
#define LIST_SIZE_1_0 (offsetof(struct ferry_list, reserved) + sizeof(uint32_t))

ferry_status loop_queue_open(struct ferry_tp *tp, const struct ferry_queue_attr *attr,
                             struct ferry_queue **queue_out)
{
    if (attr->size < ATTR_SIZE_1_0 || attr->device != 0)
        return FERRY_EINVAL;
    struct ferry_queue *queue = calloc(1, sizeof(*queue));
    if (!queue)
        return FERRY_ENOMEM;
    ferry_status status = FERRY_ENOMEM;
    queue->tp = tp;
    queue->depth = attr->depth && attr->depth < tp->depth ? attr->depth : tp->depth;
    queue->ring = calloc(queue->depth, sizeof(*queue->ring));
    if (!queue->ring)
        goto err_free_queue;
    queue->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (queue->fd < 0) {
        LOOP_LOG(tp->host, FERRY_LOG_ERROR, "queue: eventfd: %s", strerror(errno));
        goto err_free_ring;
    }
    pthread_mutex_lock(&tp->lock);
    uint32_t number = tp->queues_used == UINT64_MAX
                          ? LOOP_MAX_QUEUES
                          : (uint32_t)__builtin_ctzll(~tp->queues_used);
    if (number < LOOP_MAX_QUEUES)
        tp->queues_used |= UINT64_C(1) << number;
    pthread_mutex_unlock(&tp->lock);
    if (number == LOOP_MAX_QUEUES) {
        status = FERRY_ERANGE;
        goto err_close_fd;
    }
    queue->number = number;
    *queue_out = queue;
    return FERRY_OK;

err_close_fd:
    close(queue->fd);
err_free_ring:
    free(queue->ring);
err_free_queue:
    free(queue);
    return status;
}

void loop_queue_close(struct ferry_queue *queue)
{
    if (!queue)
        return;
    struct ferry_tp *tp = queue->tp;
    pthread_mutex_lock(&tp->lock);
    while (queue->atts) {
        struct loop_att *att = queue->atts;
        queue->atts = att->next;
        if (att->peer)
            atomic_store(&att->peer->att[queue->number], NULL);
        loop_att_free(att);
    }
    tp->queues_used &= ~(UINT64_C(1) << queue->number);
    pthread_mutex_unlock(&tp->lock);
    close(queue->fd);
    free(queue->ring);
    free(queue);
}

static ferry_status check_element(const struct ferry_list *list, const struct ferry_xfer *x)
{
    if (!x->mr || !x->rmem || x->rmem->peer != list->peer || x->len == 0)
        return FERRY_EINVAL;
    uint64_t at = (uintptr_t)x->local - (uintptr_t)x->mr->addr;
    if (x->len > LOOP_MAX_XFER_LEN || (uintptr_t)x->local < (uintptr_t)x->mr->addr ||
        at > x->mr->len || x->len > x->mr->len - at)
        return FERRY_ERANGE;
    if (x->remote_off > x->rmem->len || x->len > x->rmem->len - x->remote_off)
        return FERRY_ERANGE;
    if (list->op == FERRY_OP_READ && !(x->mr->access & FERRY_ACCESS_LOCAL_WRITE))
        return FERRY_EACCESS;
    return FERRY_OK;
}

ferry_status loop_submit(struct ferry_queue *queue, const struct ferry_list *list,
                         uint32_t *accepted_out)
{
    *accepted_out = 0;
    if (list->size < LIST_SIZE_1_0 || list->op > FERRY_OP_WRITE || list->flags || !list->peer)
        return FERRY_EINVAL;
    struct loop_att *att = atomic_load_explicit(&list->peer->att[queue->number],
                                                memory_order_acquire); /* pairs with attach */
    if (!att)
        return FERRY_EINVAL;

    ferry_status status = FERRY_OK;
    uint32_t i = 0;
    for (; i < list->n; i++) {
        const struct ferry_xfer *x = &list->v[i];
        status = check_element(list, x);
        if (status == FERRY_OK && queue->used == queue->depth)
            status = FERRY_EAGAIN;
        if (status != FERRY_OK)
            break;
        struct loop_elem *e = &queue->ring[(queue->head + queue->used++) % queue->depth];
        *e = (struct loop_elem){
            .att = att,
            .cookie = list->cookie,
            .local = x->local,
            .remote = x->rmem->addr + x->remote_off,
            .len = x->len,
            .index = list->first + i,
            .op = (uint8_t)list->op,
        };
    }
    *accepted_out = i;
    if (i) {
        atomic_fetch_add_explicit(&att->inflight, i, memory_order_relaxed);
        if (queue->armed) {
            queue->armed = false;
            eventfd_write(queue->fd, 1);
        }
    }
    return status;
}

/* Copies up to `budget` bytes of e; sets e->ended and e->status where that was all of it. */
static void advance(struct loop_elem *e, uint64_t *budget)
{
    struct loop_att *att = e->att;
    uint64_t n = e->len - e->done < *budget ? e->len - e->done : *budget;

    atomic_store(&att->busy, true);
    if (!atomic_load(&att->open) || e->cancelled) {
        e->status = FERRY_ECANCELED;
        e->ended = true;
    } else if (!atomic_load(&att->domain->alive)) {
        e->status = FERRY_ECONNRESET;
        e->ended = true;
    } else {
        const struct ferry_host *host = att->domain->host;
        struct ferry_region region;
        uint32_t access =
            e->op == FERRY_OP_READ ? FERRY_ACCESS_REMOTE_READ : FERRY_ACCESS_REMOTE_WRITE;
        /* the whole element each time: a bad tail fails before a byte of it is touched */
        e->status = host->region_get(host, e->remote, e->len, access, &region);
        if (e->status == FERRY_OK) {
            void *remote = (void *)(uintptr_t)(e->remote + e->done);
            if (region.kind != FERRY_MEM_HOST)
                e->status = FERRY_EACCESS;
            else if (e->op == FERRY_OP_READ)
                memcpy(e->local + e->done, remote, n);
            else
                memcpy(remote, e->local + e->done, n);
            host->region_put(host, &region);
        }
        if (e->status == FERRY_OK) {
            e->done += n;
            *budget -= n;
        }
        e->ended = e->status != FERRY_OK || e->done == e->len;
    }
    atomic_store(&att->busy, false);
}

int32_t loop_poll(struct ferry_queue *queue, struct ferry_comp *comp, uint32_t max)
{
    uint64_t budget = queue->tp->poll_bytes;
    uint32_t n = 0;

    while (queue->used && max) {
        struct loop_elem *e = &queue->ring[queue->head];
        if (!e->ended) {
            if (!budget)
                break;
            advance(e, &budget);
            if (!e->ended)
                break;
        }
        struct ferry_comp *c = n ? &comp[n - 1] : NULL;
        if (c && c->cookie == e->cookie && c->first + c->n == e->index &&
            c->status == e->status) {
            c->n++;
            c->bytes += e->done;
        } else if (n < max) {
            comp[n++] = (struct ferry_comp){.cookie = e->cookie,
                                            .first = e->index,
                                            .n = 1,
                                            .status = e->status,
                                            .bytes = e->done};
        } else {
            break;
        }
        /* the last touch of att: a closed one may be freed from now on */
        atomic_fetch_sub_explicit(&e->att->inflight, 1, memory_order_release);
        queue->head = (queue->head + 1) % queue->depth;
        queue->used--;
    }
    return (int32_t)n;
}

ferry_status loop_cancel(struct ferry_queue *queue, uint64_t cookie)
{
    for (uint32_t i = 0; i < queue->used; i++) {
        struct loop_elem *e = &queue->ring[(queue->head + i) % queue->depth];
        if (e->cookie == cookie)
            e->cancelled = true;
    }
    return FERRY_OK;
}

ferry_status loop_queue_fd(struct ferry_queue *queue, int *fd_out)
{
    *fd_out = queue->fd;
    return FERRY_OK;
}

/* Nothing moves outside poll, so whatever is in flight is a reason to poll and not to sleep. */
ferry_status loop_queue_arm(struct ferry_queue *queue)
{
    eventfd_t spent;
    eventfd_read(queue->fd, &spent);
    if (queue->used)
        return FERRY_EAGAIN;
    queue->armed = true;
    return FERRY_OK;
}
