/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The initiator: submit, poll, cancel. None of it blocks or allocates. An element is cut into
 * pieces of a slot; it ends when it holds no slot any more and is whole, failed or cancelled.
 */
#include "sample.h"

#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define ATTR_SIZE_1_0 (offsetof(struct ferry_queue_attr, priority) + sizeof(uint32_t))
#define LIST_SIZE_1_0 (offsetof(struct ferry_list, reserved) + sizeof(uint32_t))

/* --- slots and elements: queue->lock is held ---------------------------------------------- */

/* Moves what has ended to the queue's list of the ended. */
static void retire(struct conn *conn)
{
    struct ferry_queue *queue = conn->queue;
    struct elem **link = &conn->elems;

    while (*link) {
        struct elem *e = *link;

        if (e->in_slots || (e->done < e->len && !e->status && !e->cancelled)) {
            link = &e->next;
            continue;
        }
        if (e->done == e->len)
            e->status = FERRY_OK; /* whole before it could be cancelled */
        else if (!e->status)
            e->status = FERRY_ECANCELED;
        *link = e->next;
        e->next = NULL;
        *queue->ended_last = e;
        queue->ended_last = &e->next;
    }
    conn->last = link;
}

static void fill_slot(struct conn *conn, unsigned k, struct elem *e)
{
    struct slot *slot = &conn->window->slot[k];
    const uint64_t left = e->len - e->posted;
    const uint64_t len = left < SLOT_LEN ? left : SLOT_LEN;

    slot->op = e->op;
    slot->addr = e->remote + e->posted;
    slot->len = len;
    if (e->op == FERRY_OP_WRITE)
        memcpy(conn->window->data[k], e->local + e->posted, len);
    conn->owner[k] = e;
    conn->offset[k] = e->posted;
    e->posted += len;
    e->in_slots++;
    atomic_store_explicit(&slot->state, SLOT_READY, memory_order_release); /* with the server */
}

/* As much as there are slots for; one ring for all of it. */
static void post(struct conn *conn)
{
    unsigned k = 0;
    bool rang = false;

    for (struct elem *e = conn->elems; e; e = e->next) {
        while (!e->status && !e->cancelled && e->posted < e->len) {
            while (k < SLOTS && conn->owner[k])
                k++;
            if (k == SLOTS)
                goto out;
            fill_slot(conn, k, e);
            rang = true;
        }
    }
out:
    if (rang)
        sample_ring(conn->fd);
}

static bool could_post(const struct conn *conn)
{
    bool room = false;

    for (unsigned k = 0; k < SLOTS; k++)
        room = room || !conn->owner[k];
    for (const struct elem *e = conn->elems; room && e; e = e->next)
        if (!e->status && !e->cancelled && e->posted < e->len)
            return true;
    return false;
}

static bool is_done(const struct conn *conn, unsigned k)
{
    return conn->owner[k] && atomic_load_explicit(&conn->window->slot[k].state,
                                                  memory_order_acquire) == SLOT_DONE;
}

void sample_take(struct conn *conn, bool reads)
{
    for (unsigned k = 0; k < SLOTS; k++) {
        struct slot *slot = &conn->window->slot[k];
        struct elem *e = conn->owner[k];

        if (!is_done(conn, k) || (e->op == FERRY_OP_READ && !reads))
            continue;
        const uint64_t at = conn->offset[k];
        const uint64_t left = e->len - at, len = left < SLOT_LEN ? left : SLOT_LEN;
        const ferry_status status = slot->status;
        if (status == FERRY_OK) {
            if (e->op == FERRY_OP_READ)
                memcpy(e->local + at, conn->window->data[k], len);
            e->done += len;
        } else if (!e->status) {
            e->status = ferry_status_scope(status) <= FERRY_SCOPE_XFER && status < FERRY_EAGAIN
                            ? status
                            : FERRY_EIO; /* the peer's word is not trusted */
        }
        conn->owner[k] = NULL;
        e->in_slots--;
        atomic_store_explicit(&slot->state, SLOT_FREE, memory_order_relaxed);
    }
}

void sample_revoke(struct conn *conn, const uint64_t *cookie)
{
    for (struct elem *e = conn->elems; e; e = e->next)
        e->cancelled = e->cancelled || !cookie || e->cookie == *cookie;
    for (unsigned k = 0; k < SLOTS; k++) {
        struct elem *e = conn->owner[k];
        uint32_t ready = SLOT_READY;

        /* Where this fails the target is at it or has done it: its answer is waited for. */
        if (e && e->cancelled &&
            atomic_compare_exchange_strong(&conn->window->slot[k].state, &ready, SLOT_FREE)) {
            conn->owner[k] = NULL;
            e->in_slots--;
        }
    }
}

void sample_drop(struct conn *conn, ferry_status status)
{
    retire(conn);
    for (struct elem *e = conn->elems; e; e = e->next) {
        e->in_slots = 0;
        if (!e->status)
            e->status = status;
    }
    memset(conn->owner, 0, sizeof(conn->owner));
    retire(conn);
}

/* --- life: control calls ------------------------------------------------------------------ */

static void free_queue(struct ferry_queue *queue)
{
    if (queue->epoll >= 0)
        close(queue->epoll);
    if (queue->kick >= 0)
        close(queue->kick);
    pthread_mutex_destroy(&queue->lock);
    free(queue->all);
    free(queue);
}

ferry_status sample_queue_open(struct ferry_tp *tp, const struct ferry_queue_attr *attr,
                               struct ferry_queue **queue_out)
{
    if (attr->size < ATTR_SIZE_1_0 || attr->device != 0)
        return FERRY_EINVAL;
    struct ferry_queue *queue = calloc(1, sizeof(*queue));
    if (!queue)
        return FERRY_ENOMEM;
    const uint32_t depth = attr->depth && attr->depth < tp->depth ? attr->depth : tp->depth;
    struct epoll_event event = {.events = EPOLLIN};
    bool room;

    pthread_mutex_init(&queue->lock, NULL);
    queue->tp = tp;
    queue->ended_last = &queue->ended;
    queue->all = calloc(depth, sizeof(*queue->all));
    queue->epoll = epoll_create1(EPOLL_CLOEXEC);
    queue->kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (!queue->all || queue->epoll < 0 || queue->kick < 0 ||
        epoll_ctl(queue->epoll, EPOLL_CTL_ADD, queue->kick, &event)) {
        free_queue(queue);
        return FERRY_ENOMEM;
    }
    for (uint32_t i = depth; i-- > 0;) {
        queue->all[i].next = queue->free;
        queue->free = &queue->all[i];
    }
    pthread_mutex_lock(&tp->lock);
    room = tp->n_queues < MAX_QUEUES;
    tp->n_queues += room;
    pthread_mutex_unlock(&tp->lock);
    if (!room) {
        free_queue(queue);
        return FERRY_ENOMEM;
    }
    *queue_out = queue;
    return FERRY_OK;
}

void sample_queue_close(struct ferry_queue *queue)
{
    if (!queue)
        return;
    struct ferry_tp *tp = queue->tp;
    pthread_mutex_lock(&tp->lock);
    while (queue->conns)
        sample_conn_end(queue->conns);
    tp->n_queues--;
    pthread_mutex_unlock(&tp->lock);
    free_queue(queue);
}

/* --- queue calls -------------------------------------------------------------------------- */

/* Differences are unsigned: what lies before the start is very far behind it. */
static ferry_status check(const struct ferry_list *list, const struct ferry_xfer *x)
{
    const uint64_t at = (uint64_t)((uintptr_t)x->local - (uintptr_t)x->mr->addr);

    if (x->len == 0 || x->rmem->peer != list->peer)
        return FERRY_EINVAL;
    if (x->len > MAX_XFER_LEN || at > x->mr->len || x->len > x->mr->len - at ||
        x->remote_off > x->rmem->len || x->len > x->rmem->len - x->remote_off)
        return FERRY_ERANGE;
    if (list->op == FERRY_OP_READ && !(x->mr->access & FERRY_ACCESS_LOCAL_WRITE))
        return FERRY_EACCESS;
    return FERRY_OK;
}

ferry_status sample_submit(struct ferry_queue *queue, const struct ferry_list *list,
                           uint32_t *accepted_out)
{
    ferry_status status = FERRY_OK;
    struct conn *conn;
    uint32_t i = 0;

    *accepted_out = 0; /* always written */
    if (list->size < LIST_SIZE_1_0)
        return FERRY_EINVAL;
    if (list->op != FERRY_OP_READ && list->op != FERRY_OP_WRITE)
        return FERRY_ENOTSUP;
    pthread_mutex_lock(&queue->lock);
    for (conn = queue->conns; conn && conn->peer != list->peer; conn = conn->next_of_queue)
        ;
    if (!conn || conn->dead) {
        pthread_mutex_unlock(&queue->lock);
        return conn ? FERRY_ECONNRESET : FERRY_EINVAL; /* EINVAL: not attached */
    }
    for (; i < list->n; i++) {
        const struct ferry_xfer *x = &list->v[i];
        struct elem *e = queue->free;

        status = check(list, x);
        if (!status && !e)
            status = FERRY_EAGAIN;
        if (status)
            break;
        queue->free = e->next;
        *e = (struct elem){.cookie = list->cookie,
                           .index = list->first + i,
                           .op = list->op,
                           .local = x->local,
                           .remote = x->rmem->addr + x->remote_off,
                           .len = x->len};
        *conn->last = e;
        conn->last = &e->next;
    }
    post(conn);
    pthread_mutex_unlock(&queue->lock);
    *accepted_out = i;
    return status;
}

static void advance(struct conn *conn)
{
    /* Hear before looking: what is done after the look rings again. */
    if (!sample_heard(conn->fd)) {
        conn->dead = true;
        epoll_ctl(conn->queue->epoll, EPOLL_CTL_DEL, conn->fd, NULL); /* readable for ever */
    }
    sample_take(conn, true);
    if (conn->dead)
        sample_drop(conn, FERRY_ECONNRESET);
    retire(conn);
    if (!conn->dead)
        post(conn);
}

int32_t sample_poll(struct ferry_queue *queue, struct ferry_comp *comp, uint32_t max)
{
    uint32_t n = 0;

    pthread_mutex_lock(&queue->lock);
    for (struct conn *conn = queue->conns; conn; conn = conn->next_of_queue)
        if (!conn->closing && !conn->dead)
            advance(conn);
    while (queue->ended) {
        struct elem *e = queue->ended;
        struct ferry_comp *c = n ? &comp[n - 1] : NULL;

        if (c && c->cookie == e->cookie && c->first + c->n == e->index &&
            c->status == e->status) { /* neighbours that ended alike */
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
        queue->ended = e->next;
        e->next = queue->free;
        queue->free = e;
    }
    if (!queue->ended)
        queue->ended_last = &queue->ended;
    pthread_mutex_unlock(&queue->lock);
    return (int32_t)n;
}

ferry_status sample_cancel(struct ferry_queue *queue, uint64_t cookie)
{
    pthread_mutex_lock(&queue->lock);
    for (struct conn *conn = queue->conns; conn; conn = conn->next_of_queue) {
        if (conn->closing || conn->dead)
            continue;
        sample_revoke(conn, &cookie);
        retire(conn);
    }
    pthread_mutex_unlock(&queue->lock);
    return FERRY_OK;
}

ferry_status sample_queue_fd(struct ferry_queue *queue, int *fd_out)
{
    *fd_out = queue->epoll;
    return FERRY_OK;
}

/* Clear what has rung, then look: whatever is done later rings again. */
ferry_status sample_queue_arm(struct ferry_queue *queue)
{
    bool waiting;
    eventfd_t spent;

    pthread_mutex_lock(&queue->lock);
    eventfd_read(queue->kick, &spent);
    waiting = queue->ended != NULL;
    for (struct conn *conn = queue->conns; conn && !waiting; conn = conn->next_of_queue) {
        if (conn->closing || conn->dead)
            continue;
        waiting = !sample_heard(conn->fd) || could_post(conn);
        for (unsigned k = 0; k < SLOTS; k++)
            waiting = waiting || is_done(conn, k);
    }
    pthread_mutex_unlock(&queue->lock);
    return waiting ? FERRY_EAGAIN : FERRY_OK;
}
