/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Control calls of the active side: what a peer's attributes say, connecting it, greeting, and
 * closing so that nothing moves afterwards. Must not know how frames travel.
 */
#include "initiator.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

/* Upstream may publish its port a little before it listens there. */
#define UPSTREAM_RETRY_NS (500 * NS_PER_MS)

/* A number or text of the attributes, whether it comes as text or as JSON. */
static bool attr_text(const struct ferry_kvs *attrs, const char *key, char *out, size_t len)
{
    size_t n;

    if (!tcp_kv_text(attrs, key, out, len))
        return false;
    n = strlen(out);
    if (n >= 2 && out[0] == '"' && out[n - 1] == '"') {
        memmove(out, out + 1, n - 2);
        out[n - 2] = '\0';
    }
    return out[0] != '\0';
}

static uint64_t attr_number(const struct ferry_kvs *attrs, const char *key, int base)
{
    char text[32], *end;
    uint64_t v;

    if (!attr_text(attrs, key, text, sizeof text) || text[0] == '-')
        return 0;
    v = strtoull(text, &end, base);
    return *end == '\0' ? v : 0;
}

/* "host:port", "[v6]:port", "v6%scope:port", a bare host or a bare IPv6 address. */
static bool host_of_name(const char *name, char *out, size_t len)
{
    const char *colon = strrchr(name, ':'), *end = name + strlen(name);
    const char *scope = strchr(name, '%');
    size_t n;

    if (name[0] == '[') {
        name++;
        end = strchr(name, ']');
    } else if (colon != NULL &&
               (strchr(name, ':') == colon || (scope != NULL && colon > scope))) {
        end = colon;
    }
    if (end == NULL || end == name)
        return false;
    n = (size_t)(end - name);
    if (n >= len)
        return false;
    memcpy(out, name, n);
    out[n] = '\0';
    return true;
}

ferry_status tcp_peer_open(struct ferry_tp *tp, const char *peer_name,
                           const struct ferry_kvs *attrs, struct ferry_peer **peer_out)
{
    struct ferry_peer *peer = calloc(1, sizeof *peer);
    uint64_t port = attr_number(attrs, "tcp_data_port", 10);
    uint64_t version = attr_number(attrs, "tcp_proto_version", 10);

    if (peer == NULL)
        return FERRY_ENOMEM;
    if (port == 0) { /* upstream before 0.3.5 */
        port = attr_number(attrs, "core.rpc_port", 10);
        port += port > 0;
    }
    peer->incarnation = attr_number(attrs, "tcp_incarnation", 16);
    peer->ferry = version >= WIRE_VERSION && peer->incarnation != 0;
    peer->dialect = version < 2                                             ? TCP_DIALECT_V1
                    : peer->ferry && tp->config.dialect == TCP_DIALECT_AUTO ? TCP_DIALECT_V3
                                                                            : TCP_DIALECT_V2;
    if (port == 0 || port > 65535 ||
        (!attr_text(attrs, "tcp_host", peer->host, sizeof peer->host) &&
         !attr_text(attrs, "core.rpc_host", peer->host, sizeof peer->host) &&
         !host_of_name(peer_name, peer->host, sizeof peer->host))) {
        FT_LOG(tp->host, FERRY_LOG_ERROR,
               "tcp: peer %s publishes no usable address: tcp_data_port is missing or the name "
               "has no host",
               peer_name);
        free(peer);
        return FERRY_EINVAL;
    }
    peer->name = strdup(peer_name);
    if (peer->name == NULL) {
        free(peer);
        return FERRY_ENOMEM;
    }
    peer->port = (uint16_t)port;
    peer->tp = tp;
    pthread_mutex_init(&peer->lock, NULL);
    *peer_out = peer;
    return FERRY_OK;
}

static ferry_status exact(int fd, uint8_t *buf, size_t len, bool out, uint64_t deadline_ns)
{
    while (len > 0) {
        ssize_t r = out ? send(fd, buf, len, MSG_DONTWAIT | MSG_NOSIGNAL)
                        : recv(fd, buf, len, MSG_DONTWAIT);

        if (r > 0) {
            buf += r;
            len -= (size_t)r;
        } else if (r == 0) {
            return FERRY_ECONNRESET;
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            ferry_status status = tcp_wait_fd(fd, out ? POLLOUT : POLLIN, deadline_ns);

            if (status != FERRY_OK)
                return status;
        } else if (errno != EINTR) {
            return tcp_status_of(errno);
        }
    }
    return FERRY_OK;
}

ferry_status welcome_status(const struct ferry_peer *peer, const struct wire_welcome *w)
{
    if (w->status == WIRE_WELCOME_STALE || w->incarnation != peer->incarnation)
        return FERRY_ESTALE;
    if (w->status == WIRE_WELCOME_OK && w->version == WIRE_VERSION &&
        w->max_desc >= WIRE_MAX_DESC && w->max_payload >= FRAME_BYTES)
        return FERRY_OK;
    FT_LOG(peer->tp->host, FERRY_LOG_ERROR,
           "tcp: peer %s speaks version %u of the data protocol (status %u), here is %u",
           peer->name, w->version, w->status, WIRE_VERSION);
    return FERRY_ENOTSUP;
}

/* The greeting of v3. */
static ferry_status greet(struct ferry_peer *peer, int fd, uint64_t deadline_ns)
{
    const struct ferry_host *host = peer->tp->host;
    uint8_t buf[WIRE_HELLO_MAX];
    struct wire_welcome w;
    ferry_status status;

    wire_put_hello(buf, &(struct wire_hello){.version = WIRE_VERSION,
                                             .len = WIRE_HELLO_LEN,
                                             .incarnation = peer->incarnation});
    status = exact(fd, buf, WIRE_HELLO_LEN, true, deadline_ns);
    if (status == FERRY_OK)
        status = exact(fd, buf, WIRE_WELCOME_LEN, false, deadline_ns);
    if (status != FERRY_OK)
        return status;
    if (!wire_get_welcome(buf, &w)) {
        FT_LOG(host, FERRY_LOG_INFO, "tcp: another program answers at %s (%s port %u)",
               peer->name, peer->host, peer->port);
        return FERRY_ESTALE;
    }
    status = exact(fd, buf, w.len - WIRE_WELCOME_LEN, false, deadline_ns);
    if (status != FERRY_OK)
        return status;
    return welcome_status(peer, &w);
}

/* Puts the connection into the queue; the socket is its own now. */
static ferry_status adopt(struct ferry_peer *peer, struct ferry_queue *q, int fd,
                          const struct tcp_addr *addr)
{
    uint32_t lanes = peer->dialect == TCP_DIALECT_V1 ? V1_LANES : 1;
    struct epoll_event ev = {.events = EPOLLIN | EPOLLRDHUP};
    struct conn *first = NULL;

    for (uint32_t i = 0; i < lanes; i++) {
        struct conn *c = conn_new(q, peer, addr);

        if (c == NULL)
            goto err_free_lanes;
        c->lane_next = first;
        first = c;
    }
    if (peer->dialect == TCP_DIALECT_V1) {
        close(fd);
    } else {
        ev.data.ptr = first;
        if (epoll_ctl(q->epfd, EPOLL_CTL_ADD, fd, &ev) != 0)
            goto err_free_lanes;
        first->fd = fd;
    }
    peer->conns[q->index] = first;
    return FERRY_OK;

err_free_lanes:
    while (first != NULL) {
        struct conn *c = first;

        first = c->lane_next;
        conn_detach(c);
        free(c);
    }
    return FERRY_ENOMEM;
}

/* True: nothing to do. Otherwise what is there is dead or dying, and is left to the queue. */
static bool attached(struct ferry_peer *peer, struct ferry_queue *q)
{
    struct conn *c = peer->conns[q->index];

    if (c != NULL && conn_alive(c, ft_now_ns()))
        return true;
    for (; c != NULL; c = c->lane_next)
        c->replaced = true;
    peer->conns[q->index] = NULL;
    queue_reap(q);
    return false;
}

ferry_status tcp_peer_attach(struct ferry_peer *peer, struct ferry_queue *q,
                             uint32_t timeout_ms)
{
    struct ferry_tp *tp = peer->tp;
    uint64_t deadline_ns = ft_now_ns() + timeout_ms * NS_PER_MS;
    struct tcp_addr addr;
    ferry_status status;
    bool there;
    int fd;

    pthread_mutex_lock(&q->lock);
    there = attached(peer, q);
    pthread_mutex_unlock(&q->lock);
    if (there)
        return FERRY_OK;

    status = tcp_connect(&tp->config, peer->host, peer->port, deadline_ns,
                         peer->ferry ? 0 : UPSTREAM_RETRY_NS, &fd, &addr);
    if (status == FERRY_OK && peer->dialect == TCP_DIALECT_V3) {
        status = greet(peer, fd, deadline_ns);
        if (status != FERRY_OK)
            close(fd);
    }
    if (status != FERRY_OK) {
        FT_LOG(tp->host, FERRY_LOG_DEBUG, "tcp: no connection to peer %s (%s port %u)",
               peer->name, peer->host, peer->port);
        return status;
    }
    pthread_mutex_lock(&q->lock);
    if (attached(peer, q)) { /* by another thread, meanwhile */
        close(fd);
    } else {
        status = adopt(peer, q, fd, &addr);
        if (status != FERRY_OK)
            close(fd);
    }
    pthread_mutex_unlock(&q->lock);
    return status;
}

/* Takes this peer's connections out of the queue, so that its poll does not see them. */
static struct conn *detach_all(struct ferry_peer *peer, struct ferry_queue *q,
                               struct conn *list)
{
    pthread_mutex_lock(&q->lock);
    peer->conns[q->index] = NULL;
    for (struct conn *c = q->conns, *next; c != NULL; c = next) {
        next = c->next;
        if (c->peer != peer)
            continue;
        conn_detach(c);
        c->next = list;
        list = c;
    }
    pthread_mutex_unlock(&q->lock);
    return list;
}

static void end_frames(struct conn *c)
{
    struct ferry_queue *q = c->queue;

    pthread_mutex_lock(&q->lock);
    if (c->head != NULL)
        queue_wake(q);
    conn_drop_frames(c);
    pthread_mutex_unlock(&q->lock);
}

void tcp_peer_close(struct ferry_peer *peer)
{
    struct conn *list = NULL;
    struct ferry_tp *tp;

    if (peer == NULL)
        return;
    tp = peer->tp;
    pthread_mutex_lock(&tp->lock);
    for (uint32_t i = 0; i < TCP_MAX_QUEUES; i++)
        if (tp->queues[i] != NULL)
            list = detach_all(peer, tp->queues[i], list);
    conns_quiet_wait(list);
    while (list != NULL) {
        struct conn *c = list;

        list = c->next;
        end_frames(c);
        free(c);
    }
    pthread_mutex_unlock(&tp->lock);

    while (peer->rmems != NULL)
        tcp_rmem_close(peer->rmems);
    pthread_mutex_destroy(&peer->lock);
    free(peer->name);
    free(peer);
}

ferry_status tcp_rmem_open(struct ferry_peer *peer, uint64_t remote_addr, uint64_t len,
                           const struct ferry_kvs *attrs, struct ferry_rmem **rmem_out)
{
    struct ferry_rmem *rmem;

    (void)attrs; /* an address is all that this transport needs */
    if (len == 0 || len > UINT64_MAX - remote_addr)
        return FERRY_EINVAL;
    rmem = malloc(sizeof *rmem);
    if (rmem == NULL)
        return FERRY_ENOMEM;
    *rmem = (struct ferry_rmem){.peer = peer, .addr = remote_addr, .len = len};
    pthread_mutex_lock(&peer->lock);
    rmem->next = peer->rmems;
    rmem->at = &peer->rmems;
    if (rmem->next != NULL)
        rmem->next->at = &rmem->next;
    peer->rmems = rmem;
    pthread_mutex_unlock(&peer->lock);
    *rmem_out = rmem;
    return FERRY_OK;
}

void tcp_rmem_close(struct ferry_rmem *rmem)
{
    if (rmem == NULL)
        return;
    pthread_mutex_lock(&rmem->peer->lock);
    *rmem->at = rmem->next;
    if (rmem->next != NULL)
        rmem->next->at = rmem->at;
    pthread_mutex_unlock(&rmem->peer->lock);
    free(rmem);
}
