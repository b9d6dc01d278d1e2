/* SPDX-License-Identifier: Apache-2.0 */
/*
 * HOT: submit, poll, cancel. Elements wait in a FIFO until this thread copies them, in chunks,
 * inside its line of the page that the peer sees; small ones already in submit. Those whose
 * region is not granted yet are parked, so that one peer that does not answer holds up nobody
 * else's.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "shm.h"

#define ATTR_SIZE_1_0 (offsetof(struct ferry_queue_attr, priority) + sizeof(uint32_t))
#define LIST_SIZE_1_0 (offsetof(struct ferry_list, reserved) + sizeof(uint32_t))
#define INLINE_BYTES  (UINT64_C(64) << 10) /* that submit itself copies: some 10 us */
#define COLD_BYTES    (UINT64_C(4) << 20)  /* lists from here on are more than caches hold */
#define IOVS          64
#define HELD_UP_MS    50 /* far less than it takes until a pid is given again */

/* --- life ------------------------------------------------------------------------- */

static void push(struct shm_fifo *fifo, struct shm_elem *e)
{
    e->next = NULL;
    *fifo->last = e;
    fifo->last = &e->next;
}

static struct shm_elem *pop(struct shm_fifo *fifo)
{
    struct shm_elem *e = fifo->first;

    fifo->first = e->next;
    if (!fifo->first)
        fifo->last = &fifo->first;
    return e;
}

static void join(struct shm_fifo *fifo, struct shm_fifo *from)
{
    if (!from->first)
        return;
    *fifo->last = from->first;
    fifo->last = from->last;
    from->first = NULL;
    from->last = &from->first;
}

ferry_status shm_queue_open(struct ferry_tp *tp, const struct ferry_queue_attr *attr,
                            struct ferry_queue **queue_out)
{
    ferry_status status = FERRY_ENOMEM;
    struct ferry_queue *queue;
    uint32_t number = 0;

    if (attr->size < ATTR_SIZE_1_0 || attr->device != 0)
        return FERRY_EINVAL;
    queue = calloc(1, sizeof(*queue));
    if (!queue)
        return FERRY_ENOMEM;
    queue->tp = tp;
    queue->depth =
        attr->depth && attr->depth < tp->config.depth ? attr->depth : tp->config.depth;
    queue->run.last = &queue->run.first;
    queue->parked.last = &queue->parked.first;
    queue->done.last = &queue->done.first;
    queue->elems = calloc(queue->depth, sizeof(*queue->elems));
    queue->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (!queue->elems || queue->fd < 0)
        goto fail;
    for (uint32_t i = queue->depth; i-- > 0;) {
        queue->elems[i].next = queue->free;
        queue->free = &queue->elems[i];
    }
    pthread_mutex_lock(&tp->lock);
    while (number < SHM_MAX_QUEUES && tp->queues[number])
        number++;
    if (number < SHM_MAX_QUEUES)
        tp->queues[number] = queue;
    pthread_mutex_unlock(&tp->lock);
    if (number == SHM_MAX_QUEUES) {
        status = FERRY_ERANGE;
        goto fail;
    }
    queue->number = number;
    *queue_out = queue;
    return FERRY_OK;

fail:
    if (queue->fd >= 0)
        close(queue->fd);
    free(queue->elems);
    free(queue);
    return status;
}

/* This thread is the one that copies for the queue, so nothing is under way. */
void shm_queue_close(struct ferry_queue *queue)
{
    struct ferry_tp *tp;

    if (!queue)
        return;
    tp = queue->tp;
    pthread_mutex_lock(&tp->lock);
    while (queue->atts) {
        struct shm_att *att = queue->atts;

        queue->atts = att->next;
        if (att->peer)
            atomic_store(&att->peer->att[queue->number], NULL);
        shm_conn_put(att->conn);
        free(att);
    }
    tp->queues[queue->number] = NULL;
    pthread_mutex_unlock(&tp->lock);
    close(queue->fd);
    free(queue->elems);
    free(queue);
}

/* --- copying ------------------------------------------------------------------------ */

static uint64_t coarse_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* Is the peer's process the one we connected to? Asked once a pass, and again where this
 * process was held up in the middle of one: a copy into the mapping of
 * a dead one would succeed, and a pid may in time belong to somebody else. Inside a line. */
static ferry_status alive(struct ferry_queue *queue, struct shm_att *att)
{
    struct shm_conn *conn = att->conn;
    struct pollfd p[2] = {{.fd = conn->fd}, {.fd = conn->pidfd, .events = POLLIN}};
    ferry_status dead = atomic_load(&conn->dead);
    uint64_t now_ms = coarse_ms();

    if (dead || (att->checked == queue->pass && now_ms - att->checked_ms < HELD_UP_MS))
        return dead;
    if (poll(p, 2, 0) != 0 && (p[0].revents || p[1].revents)) {
        atomic_store(&conn->dead, FERRY_ECONNRESET);
        return FERRY_ECONNRESET;
    }
    att->checked = queue->pass;
    att->checked_ms = now_ms;
    return FERRY_OK;
}

/* May e be copied now? FERRY_EAGAIN: it has to wait. Else what it ends with. Inside a line. */
static ferry_status standing(struct ferry_queue *queue, struct shm_elem *e)
{
    struct shm_att *att = e->att;
    struct ferry_rmem *rmem = e->rmem;
    uint32_t right =
        e->op == FERRY_OP_READ ? FERRY_ACCESS_REMOTE_READ : FERRY_ACCESS_REMOTE_WRITE;
    uint64_t at;
    ferry_status status;
    int state;

    if (!atomic_load(&att->open) || e->cancelled)
        return FERRY_ECANCELED;
    status = alive(queue, att);
    if (status)
        return status;
    state = atomic_load(&rmem->state);
    if (state == SHM_REFUSED && e->asked)
        return (ferry_status)atomic_load(&rmem->refused);
    if (state == SHM_NONE || state == SHM_REFUSED) {
        if (atomic_load(&att->conn->asks) >= SHM_ASKS)
            return FERRY_EAGAIN; /* the answer to one of them kicks */
        if (shm_ask(att->conn, rmem))
            e->asked = true;
        else
            atomic_store(&queue->kick, true); /* again at the next poll */
        return FERRY_EAGAIN;
    }
    if (state == SHM_ASKED || !atomic_load(&att->conn->page->valid[rmem->slot])) {
        e->asked |= state == SHM_ASKED;
        return FERRY_EAGAIN;
    }
    if (!(rmem->access & right))
        return FERRY_EACCESS;
    at = rmem->addr + e->off - rmem->base;
    if (rmem->addr + e->off < rmem->base || at > rmem->size || e->len > rmem->size - at)
        return FERRY_ERANGE;
    return FERRY_OK;
}

static void end(struct ferry_queue *queue, struct shm_elem *e, ferry_status status)
{
    e->status = status;
    push(&queue->done, e);
}

/* How many bytes of e to copy next. */
static uint64_t portion(const struct shm_elem *e, uint64_t most)
{
    uint64_t left = e->len - e->done;

    return left < most ? left : most;
}

static void copy_mapped(struct ferry_queue *queue, struct shm_elem *e, uint64_t n)
{
    struct ferry_rmem *rmem = e->rmem;
    struct shm_piece piece = {
        .local = e->local + e->done,
        .remote = rmem->map + (rmem->addr + e->off - rmem->base) + e->done,
        .len = n,
        .read = e->op == FERRY_OP_READ,
        .cold = e->cold,
    };

    shm_copy_together(queue->tp->helpers, &piece);
    e->done += n;
}

static ferry_status cma_error(struct shm_att *att, int error)
{
    switch (error) {
    case EFAULT: /* unmapped under its registration, there or here */
        return FERRY_EACCESS;
    case ENOMEM:
        return FERRY_EIO;
    default: /* ESRCH: it has ended; EPERM: it has become another user's */
        atomic_store(&att->conn->dead, error == ESRCH ? FERRY_ECONNRESET : FERRY_EUNREACH);
        return error == ESRCH ? FERRY_ECONNRESET : FERRY_EUNREACH;
    }
}

/* The first element and those after it that can go with it, in one system call. */
static uint64_t copy_cma(struct ferry_queue *queue, struct shm_elem *first, uint64_t most)
{
    struct shm_elem *v[IOVS], *e;
    struct iovec local[IOVS], remote[IOVS];
    pid_t pid = first->att->conn->pid;
    uint64_t sum = 0, moved;
    unsigned n = 0;
    ssize_t rc;
    int error;

    e = first;
    for (;;) {
        uint64_t part = portion(e, most - sum);

        local[n] = (struct iovec){e->local + e->done, part};
        remote[n] = (struct iovec){(void *)(uintptr_t)(e->rmem->addr + e->off + e->done), part};
        sum += part;
        v[n++] = e;
        e = queue->run.first;
        if (n == IOVS || sum >= most || !e || e->att != first->att || e->op != first->op ||
            atomic_load(&e->rmem->state) != SHM_HELD || e->rmem->map ||
            standing(queue, e) != FERRY_OK)
            break;
        pop(&queue->run);
    }
    if (n == 1 && sum >= SHM_SHARED_FROM) {
        struct shm_piece piece = {.local = local[0].iov_base,
                                  .remote = remote[0].iov_base,
                                  .len = sum,
                                  .pid = pid,
                                  .read = first->op == FERRY_OP_READ};

        shm_copy_together(queue->tp->helpers, &piece);
        moved = piece.moved;
        error = piece.error;
    } else {
        if (first->op == FERRY_OP_READ)
            rc = process_vm_readv(pid, local, n, remote, n, 0);
        else
            rc = process_vm_writev(pid, local, n, remote, n, 0);
        error = rc < 0 ? errno : rc == 0 ? EFAULT : 0;
        moved = rc > 0 ? (uint64_t)rc : 0;
    }
    for (unsigned i = 0; i < n; i++) {
        uint64_t part = local[i].iov_len < moved ? local[i].iov_len : moved;

        e = v[i];
        e->done += part;
        moved -= part;
        if (e->done == e->len)
            end(queue, e, FERRY_OK);
        else if (error && i == 0)
            end(queue, e, cma_error(e->att, error));
        else
            push(&queue->run, e); /* the rest of it; what stopped it shows when it is first */
    }
    return sum;
}

/* Copies, at most about `budget` bytes; inside one line as long as it is one peer's, a chunk.
 */
static void advance(struct ferry_queue *queue, uint64_t budget)
{
    struct shm_page *page = NULL;
    uint64_t inside = 0;

    while (queue->run.first && budget) {
        struct shm_elem *e = pop(&queue->run);
        uint64_t n = budget < SHM_CHUNK ? budget : SHM_CHUNK;
        ferry_status status;

        if (page != e->att->conn->page || inside >= SHM_CHUNK) {
            if (page)
                shm_leave(page, queue->number);
            page = e->att->conn->page;
            shm_enter(page, queue->number);
            inside = 0;
        }
        status = standing(queue, e);
        if (status == FERRY_EAGAIN) {
            push(&queue->parked, e);
            continue;
        }
        if (status) {
            end(queue, e, status);
            continue;
        }
        if (e->rmem->map) {
            n = portion(e, n);
            copy_mapped(queue, e, n);
            if (e->done == e->len) {
                end(queue, e, FERRY_OK);
            } else { /* in front: fewer are half done when something is cut short */
                e->next = queue->run.first;
                if (!e->next)
                    queue->run.last = &e->next;
                queue->run.first = e;
            }
        } else {
            n = copy_cma(queue, e, n);
        }
        inside += n;
        budget -= n < budget ? n : budget;
    }
    if (page)
        shm_leave(page, queue->number);
}

/* --- the table's members --------------------------------------------------------------- */

static ferry_status check_element(const struct ferry_list *list, const struct ferry_xfer *x)
{
    uint64_t at;

    if (!x->mr || !x->rmem || x->rmem->peer != list->peer || x->len == 0)
        return FERRY_EINVAL;
    at = (uintptr_t)x->local - (uintptr_t)x->mr->addr;
    if (x->len > SHM_MAX_XFER_LEN || (uintptr_t)x->local < (uintptr_t)x->mr->addr ||
        at > x->mr->len || x->len > x->mr->len - at)
        return FERRY_ERANGE;
    if (x->remote_off > x->rmem->len || x->len > x->rmem->len - x->remote_off)
        return FERRY_ERANGE;
    if (list->op == FERRY_OP_READ && !(x->mr->access & FERRY_ACCESS_LOCAL_WRITE))
        return FERRY_EACCESS;
    return FERRY_OK;
}

static void wake(struct ferry_queue *queue)
{
    if (atomic_load_explicit(&queue->armed, memory_order_relaxed)) {
        atomic_store(&queue->armed, false);
        eventfd_write(queue->fd, 1);
    }
}

ferry_status shm_submit(struct ferry_queue *queue, const struct ferry_list *list,
                        uint32_t *accepted_out)
{
    struct shm_att *att;
    ferry_status status = FERRY_OK;
    uint64_t bytes = 0;
    bool idle = !queue->run.first;
    struct shm_elem **from = queue->run.last;
    uint32_t i = 0;

    *accepted_out = 0;
    if (list->size < LIST_SIZE_1_0 || list->op > FERRY_OP_WRITE || list->flags || !list->peer)
        return FERRY_EINVAL;
    att = atomic_load_explicit(&list->peer->att[queue->number],
                               memory_order_acquire); /* pairs with attach */
    if (!att)
        return FERRY_EINVAL;
    for (; i < list->n; i++) {
        const struct ferry_xfer *x = &list->v[i];
        struct shm_elem *e = queue->free;

        status = check_element(list, x);
        if (status == FERRY_OK && !e)
            status = FERRY_EAGAIN;
        if (status != FERRY_OK)
            break;
        queue->free = e->next;
        *e = (struct shm_elem){
            .att = att,
            .rmem = x->rmem,
            .cookie = list->cookie,
            .local = x->local,
            .off = x->remote_off,
            .len = x->len,
            .index = list->first + i,
            .op = (uint8_t)list->op,
        };
        bytes += x->len;
        push(&queue->run, e);
    }
    *accepted_out = i;
    if (!i)
        return status;
    atomic_fetch_add_explicit(&att->inflight, i, memory_order_relaxed);
    if (bytes >= COLD_BYTES)
        for (struct shm_elem *e = *from; e; e = e->next)
            e->cold = true;
    if (idle && bytes <= INLINE_BYTES) {
        queue->pass++;
        advance(queue, INLINE_BYTES);
    }
    wake(queue);
    return status;
}

int32_t shm_poll(struct ferry_queue *queue, struct ferry_comp *comp, uint32_t max)
{
    uint32_t n = 0;

    if (!max)
        return 0;
    if (queue->parked.first && atomic_exchange(&queue->kick, false))
        join(&queue->run, &queue->parked);
    if (queue->run.first && !queue->done.first) {
        queue->pass++;
        advance(queue, queue->tp->config.poll_bytes);
    }
    while (queue->done.first) {
        struct shm_elem *e = queue->done.first;
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
        pop(&queue->done);
        /* the last touch of att: a closed one may be freed from now on */
        atomic_fetch_sub_explicit(&e->att->inflight, 1, memory_order_release);
        e->next = queue->free;
        queue->free = e;
    }
    return (int32_t)n;
}

ferry_status shm_cancel(struct ferry_queue *queue, uint64_t cookie)
{
    for (struct shm_elem *e = queue->run.first; e; e = e->next)
        if (e->cookie == cookie)
            e->cancelled = true;
    for (struct shm_elem *e = queue->parked.first; e; e = e->next) {
        if (e->cookie == cookie) {
            e->cancelled = true;
            atomic_store(&queue->kick, true);
        }
    }
    return FERRY_OK;
}

ferry_status shm_queue_fd(struct ferry_queue *queue, int *fd_out)
{
    *fd_out = queue->fd;
    return FERRY_OK;
}

/* Nothing is copied outside submit and poll, so whatever can be copied is a reason to poll. */
ferry_status shm_queue_arm(struct ferry_queue *queue)
{
    eventfd_t spent;

    eventfd_read(queue->fd, &spent);
    atomic_store(&queue->armed,
                 true); /* before kick is looked at: pairs with shm_kick_locked */
    if (queue->run.first || queue->done.first ||
        (queue->parked.first && atomic_load(&queue->kick))) {
        atomic_store(&queue->armed, false);
        return FERRY_EAGAIN;
    }
    return FERRY_OK;
}
