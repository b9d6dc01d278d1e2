/* SPDX-License-Identifier: Apache-2.0 */
/* Peers, their memory, and connections: made by peer_attach, ended by whoever comes first. */
#include "sample.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define BUSY_WAIT_MS 1000 /* for a target that is stopped in the middle of a copy */

static uint64_t now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void nap_us(long us)
{
    nanosleep(&(struct timespec){.tv_nsec = us * 1000}, NULL);
}

ferry_status sample_peer_open(struct ferry_tp *tp, const char *peer_name,
                              const struct ferry_kvs *attrs, struct ferry_peer **peer_out)
{
    const struct ferry_kv *address = NULL;

    for (size_t i = 0; i < attrs->n; i++)
        if (!strcmp(attrs->v[i].key, "sample_address"))
            address = &attrs->v[i];
    if (!address || !address->val_len || address->val_len >= ADDRESS_LEN) {
        SAMPLE_LOG(tp->host, FERRY_LOG_ERROR, "sample: peer %s has no sample_address",
                   peer_name);
        return FERRY_EINVAL;
    }
    struct ferry_peer *peer = calloc(1, sizeof(*peer));
    if (!peer)
        return FERRY_ENOMEM;
    peer->tp = tp;
    memcpy(peer->address, address->val, address->val_len);
    *peer_out = peer;
    return FERRY_OK;
}

/* --- connecting --------------------------------------------------------------------------- */

static ferry_status connect_to(const char *address, uint64_t deadline, int *fd_out)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    const size_t len = strlen(address);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd < 0)
        return FERRY_ENOMEM;
    memcpy(name.sun_path + 1, address, len);
    while (connect(fd, (struct sockaddr *)&name,
                   (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + len))) {
        bool full = errno == EAGAIN; /* its backlog: a target that is stopped, or very busy */

        if (full && now_ms() < deadline) {
            nap_us(1000);
            continue;
        }
        close(fd);
        return full ? FERRY_ETIMEDOUT : FERRY_EUNREACH;
    }
    *fd_out = fd;
    return FERRY_OK;
}

static struct window *make_window(int *memfd_out)
{
    int fd = memfd_create("sample", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    void *mem = MAP_FAILED;

    if (fd >= 0 && ftruncate(fd, sizeof(struct window)) == 0 &&
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) == 0)
        mem = mmap(NULL, sizeof(struct window), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (mem == MAP_FAILED) {
        if (fd >= 0)
            close(fd);
        return NULL;
    }
    *memfd_out = fd;
    return mem;
}

/* Sends the window and waits until the target has it. */
static ferry_status hand_over(int fd, int memfd, uint64_t deadline)
{
    union {
        struct cmsghdr align;
        char room[CMSG_SPACE(sizeof(int))];
    } control = {.room = {0}};
    struct iovec iov = {.iov_base = (char[]){HELLO}, .iov_len = sizeof(HELLO) - 1};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = control.room,
                         .msg_controllen = sizeof(control.room)};
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
    struct pollfd ready = {.fd = fd, .events = POLLIN};
    char byte;

    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(c), &memfd, sizeof(memfd));
    if (sendmsg(fd, &msg, MSG_NOSIGNAL) < 0)
        return FERRY_ECONNRESET;
    for (;;) {
        uint64_t now = now_ms();
        int rc = poll(&ready, 1, now < deadline ? (int)(deadline - now) : 0);

        if (rc == 0)
            return FERRY_ETIMEDOUT;
        if (rc > 0)
            break;
    }
    return recv(fd, &byte, 1, MSG_DONTWAIT) == 1 ? FERRY_OK : FERRY_ECONNRESET;
}

static void free_conn(struct conn *conn)
{
    if (conn->window)
        munmap(conn->window, sizeof(*conn->window));
    if (conn->fd >= 0)
        close(conn->fd);
    free(conn);
}

static ferry_status make_conn(struct ferry_peer *peer, struct ferry_queue *queue,
                              uint32_t timeout_ms, struct conn **conn_out)
{
    const uint64_t deadline = now_ms() + timeout_ms;
    struct conn *conn = calloc(1, sizeof(*conn));
    ferry_status status;
    int memfd = -1;

    if (!conn)
        return FERRY_ENOMEM;
    conn->peer = peer;
    conn->queue = queue;
    conn->last = &conn->elems;
    conn->fd = -1;
    status = connect_to(peer->address, deadline, &conn->fd);
    if (!status) {
        conn->window = make_window(&memfd);
        status = conn->window ? hand_over(conn->fd, memfd, deadline) : FERRY_ENOMEM;
    }
    if (memfd >= 0)
        close(memfd); /* the mappings hold it */
    if (status)
        free_conn(conn);
    else
        *conn_out = conn;
    return status;
}

static struct conn *conn_of(struct ferry_peer *peer, const struct ferry_queue *queue)
{
    struct conn *conn = peer->conns;

    while (conn && conn->queue != queue)
        conn = conn->next_of_peer;
    return conn;
}

/* tp->lock is held: both lists and `dead` are stable enough for a control call. */
static ferry_status state_of(struct conn *conn)
{
    ferry_status status;

    pthread_mutex_lock(&conn->queue->lock);
    status = conn->dead ? FERRY_ECONNRESET : FERRY_OK;
    pthread_mutex_unlock(&conn->queue->lock);
    return status;
}

ferry_status sample_peer_attach(struct ferry_peer *peer, struct ferry_queue *queue,
                                uint32_t timeout_ms)
{
    struct ferry_tp *tp = peer->tp;
    struct conn *conn, *fresh;
    ferry_status status = FERRY_OK;

    pthread_mutex_lock(&tp->lock);
    conn = conn_of(peer, queue);
    if (conn)
        status = state_of(conn);
    pthread_mutex_unlock(&tp->lock);
    if (conn)
        return status;
    status = make_conn(peer, queue, timeout_ms, &fresh); /* no lock: this may take its time */
    if (status)
        return status;

    struct epoll_event event = {.events = EPOLLIN};
    pthread_mutex_lock(&tp->lock);
    conn = conn_of(peer, queue);
    if (!conn && epoll_ctl(queue->epoll, EPOLL_CTL_ADD, fresh->fd, &event))
        status = FERRY_ENOMEM;
    else if (!conn) {
        fresh->next_of_peer = peer->conns;
        peer->conns = fresh;
        pthread_mutex_lock(&queue->lock);
        fresh->next_of_queue = queue->conns;
        queue->conns = fresh;
        pthread_mutex_unlock(&queue->lock);
        fresh = NULL;
    }
    pthread_mutex_unlock(&tp->lock);
    if (fresh) /* another thread was faster, or it failed */
        free_conn(fresh);
    return status;
}

/* --- ending ------------------------------------------------------------------------------- */

static bool is_busy(const struct conn *conn)
{
    for (unsigned k = 0; k < SLOTS; k++)
        if (conn->owner[k] && atomic_load(&conn->window->slot[k].state) == SLOT_BUSY)
            return true;
    return false;
}

static bool has_hung_up(const struct conn *conn)
{
    struct pollfd p = {.fd = conn->fd, .events = POLLRDHUP};

    return poll(&p, 1, 0) > 0 && (p.revents & (POLLRDHUP | POLLHUP | POLLERR));
}

void sample_conn_end(struct conn *conn)
{
    struct ferry_queue *queue = conn->queue;
    const uint64_t end = now_ms() + BUSY_WAIT_MS;
    struct conn **link;

    /* From here on poll leaves it alone: local memory is touched no more. */
    pthread_mutex_lock(&queue->lock);
    conn->closing = true;
    sample_revoke(conn, NULL);
    pthread_mutex_unlock(&queue->lock);
    /* What the target is copying right now is a matter of microseconds, or it is stopped. */
    while (is_busy(conn) && !has_hung_up(conn) && now_ms() < end)
        nap_us(50);

    pthread_mutex_lock(&queue->lock);
    sample_take(conn, false);
    sample_drop(conn, FERRY_ECANCELED);
    for (link = &queue->conns; *link != conn; link = &(*link)->next_of_queue)
        ;
    *link = conn->next_of_queue;
    if (queue->ended)
        eventfd_write(queue->kick, 1); /* somebody may sleep on the queue's descriptor */
    pthread_mutex_unlock(&queue->lock);
    for (link = &conn->peer->conns; *link != conn; link = &(*link)->next_of_peer)
        ;
    *link = conn->next_of_peer;
    free_conn(conn);
}

void sample_peer_close(struct ferry_peer *peer)
{
    if (!peer)
        return;
    struct ferry_tp *tp = peer->tp;
    pthread_mutex_lock(&tp->lock);
    while (peer->conns)
        sample_conn_end(peer->conns);
    while (peer->rmems) {
        struct ferry_rmem *rmem = peer->rmems;

        peer->rmems = rmem->next;
        free(rmem);
    }
    pthread_mutex_unlock(&tp->lock);
    free(peer);
}

ferry_status sample_rmem_open(struct ferry_peer *peer, uint64_t remote_addr, uint64_t len,
                              const struct ferry_kvs *attrs, struct ferry_rmem **rmem_out)
{
    (void)attrs; /* what export_mem wrote: nothing */
    if (!len || len - 1 > UINT64_MAX - remote_addr)
        return FERRY_EINVAL;
    struct ferry_rmem *rmem = calloc(1, sizeof(*rmem));
    if (!rmem)
        return FERRY_ENOMEM;
    rmem->peer = peer;
    rmem->addr = remote_addr;
    rmem->len = len;
    pthread_mutex_lock(&peer->tp->lock);
    rmem->next = peer->rmems;
    peer->rmems = rmem;
    pthread_mutex_unlock(&peer->tp->lock);
    *rmem_out = rmem;
    return FERRY_OK;
}

void sample_rmem_close(struct ferry_rmem *rmem)
{
    if (!rmem)
        return;
    struct ferry_tp *tp = rmem->peer->tp;
    struct ferry_rmem **link;
    pthread_mutex_lock(&tp->lock);
    for (link = &rmem->peer->rmems; *link != rmem; link = &(*link)->next)
        ;
    *link = rmem->next;
    pthread_mutex_unlock(&tp->lock);
    free(rmem);
}
