/* SPDX-License-Identifier: Apache-2.0 */
/*
 * HOT. The queue calls: submit, poll, cancel, arm. System calls go to the connections
 * directly; the epoll set is for callers that sleep and for many connections at once. Must not
 * know dialects.
 */
#include "initiator.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define DIRECT_CONNS 4  /* so many active ones are tried without asking epoll */
#define SWEEP_EVERY  64 /* polls, to see what happens to idle connections */
#define SWEEP_EVENTS 64

static struct frame *frame_get(struct ferry_queue *q)
{
    struct frame *f = q->free;

    if (f != NULL)
        q->free = f->next;
    else if (q->pool_used < QUEUE_FRAMES)
        f = &q->pool[q->pool_used++];
    return f;
}

static void frame_put(struct ferry_queue *q, struct frame *f)
{
    f->next = q->free;
    q->free = f;
}

void queue_done(struct ferry_queue *q, struct frame *f)
{
    f->next = NULL;
    *q->done_tail = f;
    q->done_tail = &f->next;
}

static void set_timer(struct ferry_queue *q, uint64_t ns)
{
    struct itimerspec t = {.it_value = {(time_t)(ns / NS_PER_S), (long)(ns % NS_PER_S)}};

    (void)timerfd_settime(q->timerfd, TFD_TIMER_ABSTIME, &t, NULL);
}

void queue_wake(struct ferry_queue *q)
{
    set_timer(q, 1);
}

void queue_timer(struct ferry_queue *q)
{
    uint64_t first = 0;

    for (struct conn *c = q->active; c != NULL && q->n_closing > 0; c = c->active_next)
        if ((c->state == CONN_HALF || c->state == CONN_GRACE) &&
            (first == 0 || c->deadline_ns < first))
            first = c->deadline_ns;
    set_timer(q, first);
}

void queue_reap(struct ferry_queue *q)
{
    for (struct conn *c = q->conns, *next; c != NULL; c = next) {
        next = c->next;
        if (c->state == CONN_DEAD && c->replaced) {
            conn_detach(c);
            free(c);
        }
    }
}

ferry_status tcp_queue_open(struct ferry_tp *tp, const struct ferry_queue_attr *attr,
                            struct ferry_queue **queue_out)
{
    struct ferry_queue *q;
    struct epoll_event ev = {.events = EPOLLIN};
    void *pool;
    uint32_t index;
    ferry_status status = FERRY_ENOMEM;

    if (attr == NULL || attr->size < offsetof(struct ferry_queue_attr, depth) ||
        attr->device != 0)
        return FERRY_EINVAL;
    q = calloc(1, sizeof *q);
    if (q == NULL)
        return FERRY_ENOMEM;
    /* Frames are large and seldom all in use: untouched ones cost nothing. */
    pool = mmap(NULL, QUEUE_FRAMES * sizeof(struct frame), PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (pool == MAP_FAILED)
        goto err_free_queue;
    q->tp = tp;
    q->pool = pool;
    q->done_tail = &q->done;
    q->epfd = epoll_create1(EPOLL_CLOEXEC);
    if (q->epfd < 0)
        goto err_free_pool;
    q->timerfd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (q->timerfd < 0)
        goto err_close_epoll;
    if (epoll_ctl(q->epfd, EPOLL_CTL_ADD, q->timerfd, &ev) != 0)
        goto err_close_timer;
    pthread_mutex_init(&q->lock, NULL);

    pthread_mutex_lock(&tp->lock);
    for (index = 0; index < TCP_MAX_QUEUES && tp->queues[index] != NULL; index++)
        ;
    if (index < TCP_MAX_QUEUES) {
        q->index = index;
        tp->queues[index] = q;
        status = FERRY_OK;
    }
    pthread_mutex_unlock(&tp->lock);
    if (status != FERRY_OK)
        goto err_destroy_lock;
    *queue_out = q;
    return FERRY_OK;

err_destroy_lock:
    pthread_mutex_destroy(&q->lock);
err_close_timer:
    close(q->timerfd);
err_close_epoll:
    close(q->epfd);
err_free_pool:
    munmap(pool, QUEUE_FRAMES * sizeof(struct frame));
err_free_queue:
    free(q);
    return status;
}

void tcp_queue_close(struct ferry_queue *q)
{
    struct conn *list;

    if (q == NULL)
        return;
    pthread_mutex_lock(&q->tp->lock);
    pthread_mutex_lock(&q->lock);
    list = NULL;
    while (q->conns != NULL) {
        struct conn *c = q->conns;

        conn_detach(c);
        if (!c->replaced)
            c->peer->conns[q->index] = NULL;
        c->next = list;
        list = c;
    }
    pthread_mutex_unlock(&q->lock);
    conns_quiet_wait(list);
    while (list != NULL) {
        struct conn *c = list;

        list = c->next;
        free(c);
    }
    q->tp->queues[q->index] = NULL;
    pthread_mutex_unlock(&q->tp->lock);

    pthread_mutex_destroy(&q->lock);
    close(q->timerfd);
    close(q->epfd);
    munmap(q->pool, QUEUE_FRAMES * sizeof(struct frame));
    free(q);
}

/* The connection of this peer that takes the next frame; NULL: none has room. */
static struct conn *with_room(struct conn *c)
{
    for (; c != NULL; c = c->lane_next)
        if (conn_has_room(c))
            return c;
    return NULL;
}

/* Somebody may sleep on the queue already: room for the rest wakes who does. */
static void send_now(struct conn *c, uint64_t now)
{
    if (!c->tx_blocked)
        conn_tx(c, now);
    if (c->tx_blocked)
        conn_watch_out(c, true);
}

static ferry_status submit(struct ferry_queue *q, const struct ferry_list *list,
                           uint32_t *accepted_out)
{
    uint64_t now = ft_now_ns();
    struct conn *first = list->peer->conns[q->index];
    uint32_t at = 0;
    ferry_status status = FERRY_OK;

    if (first == NULL)
        return FERRY_ECONNRESET;
    if (first->revive && first->state != CONN_OPEN) {
        if (first->state != CONN_DEAD)
            return FERRY_EAGAIN; /* what a cancel left is being ended */
        if (!conn_connect(first, now))
            return FERRY_EUNREACH;
    }
    if (!conn_alive(first, now))
        return FERRY_ECONNRESET;
    while (at < list->n && status == FERRY_OK) {
        struct conn *c = with_room(first);
        struct frame *f = c != NULL ? frame_get(q) : NULL;
        uint32_t n;

        if (f == NULL) {
            status = FERRY_EAGAIN;
            break;
        }
        if (c->fd < 0 && !conn_connect(c, now)) { /* v1: one for each request */
            frame_put(q, f);
            status = at > 0 ? FERRY_EAGAIN : FERRY_EUNREACH;
            break;
        }
        n = frame_fill(f, c, list, at, &status);
        if (n == 0) {
            frame_put(q, f);
            break;
        }
        conn_push(c, f);
        at += n;
        *accepted_out = at;
        if (c->dialect == TCP_DIALECT_V1)
            send_now(c, now);
    }
    if (first->tx != NULL)
        send_now(first, now);
    return status;
}

ferry_status tcp_submit(struct ferry_queue *q, const struct ferry_list *list,
                        uint32_t *accepted_out)
{
    ferry_status status;
    bool had;

    *accepted_out = 0;
    if (list->op > FERRY_OP_WRITE || list->peer == NULL || list->peer->tp != q->tp)
        return FERRY_EINVAL;
    pthread_mutex_lock(&q->lock);
    had = q->done != NULL;
    status = submit(q, list, accepted_out);
    if (!had && q->done != NULL) /* it broke, and its socket wakes nobody any more */
        queue_wake(q);
    pthread_mutex_unlock(&q->lock);
    return status;
}

static void advance(struct conn *c, uint64_t now)
{
    if (c->tx != NULL && (!c->tx_blocked || now >= c->tx_retry_ns))
        conn_tx(c, now);
    if (c->fd >= 0)
        conn_rx(c, now);
    if (c->want_out && c->tx == NULL)
        conn_watch_out(c, false);
}

/* Asks epoll: for sleepers that woke, many connections, and idle ones that were closed. */
static void sweep(struct ferry_queue *q, uint64_t now)
{
    struct epoll_event ev[SWEEP_EVENTS];
    int n = epoll_wait(q->epfd, ev, SWEEP_EVENTS, 0);
    uint64_t ticks;

    for (int i = 0; i < n; i++) {
        struct conn *c = ev[i].data.ptr;

        if (c == NULL) {
            if (read(q->timerfd, &ticks, sizeof ticks) > 0)
                queue_timer(q);
        } else if (c->fd >= 0) {
            if (ev[i].events & EPOLLOUT)
                c->tx_retry_ns = now;
            advance(c, now);
        }
    }
}

static void progress(struct ferry_queue *q)
{
    uint64_t now = ft_now_ns();
    struct conn *next;
    bool many = q->n_active > DIRECT_CONNS;

    if (q->armed || many || q->n_active == 0 || q->tick++ % SWEEP_EVERY == 0) {
        q->armed = false;
        sweep(q, now);
    }
    for (struct conn *c = q->active; c != NULL; c = next) {
        next = c->active_next;
        if (c->state != CONN_OPEN)
            conn_tick(c, now);
        if (!many)
            advance(c, now);
        else if (c->tx != NULL && (!c->tx_blocked || now >= c->tx_retry_ns))
            conn_tx(c, now);
    }
}

static uint32_t emit(struct ferry_queue *q, struct ferry_comp *comp, uint32_t n, uint32_t max)
{
    while (q->done != NULL && n < max) {
        struct frame *f = q->done;
        struct ferry_comp x, *last = n > 0 ? &comp[n - 1] : NULL;

        if (!frame_next_comp(f, &x)) {
            q->done = f->next;
            if (q->done == NULL)
                q->done_tail = &q->done;
            frame_put(q, f);
        } else if (last != NULL && last->cookie == x.cookie && last->status == x.status &&
                   last->vendor_err == x.vendor_err && last->first + last->n == x.first) {
            last->n += x.n;
            last->bytes += x.bytes;
        } else {
            comp[n++] = x;
        }
    }
    return n;
}

int32_t tcp_poll(struct ferry_queue *q, struct ferry_comp *comp, uint32_t max)
{
    uint32_t n;

    pthread_mutex_lock(&q->lock);
    n = emit(q, comp, 0, max);
    if (n < max) {
        progress(q);
        n = emit(q, comp, n, max);
    }
    pthread_mutex_unlock(&q->lock);
    return (int32_t)n;
}

ferry_status tcp_cancel(struct ferry_queue *q, uint64_t cookie)
{
    uint64_t now = ft_now_ns();
    struct conn *next;

    pthread_mutex_lock(&q->lock);
    for (struct conn *c = q->active; c != NULL; c = next) {
        next = c->active_next;
        conn_cancel(c, cookie, now);
    }
    if (q->done != NULL)
        queue_wake(q);
    else
        queue_timer(q);
    pthread_mutex_unlock(&q->lock);
    return FERRY_OK;
}

ferry_status tcp_queue_fd(struct ferry_queue *q, int *fd_out)
{
    *fd_out = q->epfd;
    return FERRY_OK;
}

ferry_status tcp_queue_arm(struct ferry_queue *q)
{
    ferry_status status = FERRY_OK;

    pthread_mutex_lock(&q->lock);
    for (struct conn *c = q->active; c != NULL; c = c->active_next) {
        conn_watch_out(c, c->tx_blocked);
        if (c->tx != NULL && !c->tx_blocked)
            status = FERRY_EAGAIN; /* more can be sent at once */
    }
    if (q->done != NULL)
        status = FERRY_EAGAIN;
    q->armed = true;
    pthread_mutex_unlock(&q->lock);
    return status;
}
