/* SPDX-License-Identifier: Apache-2.0 */
/*
 * HOT. One connection of a queue: sends frames and takes the answers in their order. Must not
 * know lists, how a caller waits, nor what it takes to end (conn_end.c).
 */
#include "initiator.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#define RX_TURNS 16 /* receives in a row, before other connections have theirs */
#define TX_TURNS 16 /* sends likewise */

struct conn *conn_new(struct ferry_queue *q, struct ferry_peer *peer,
                      const struct tcp_addr *addr)
{
    struct conn *c = malloc(sizeof *c);

    if (c == NULL)
        return NULL;
    memset(c, 0, offsetof(struct conn, rxbuf)); /* the buffer is touched when it is used */
    c->queue = q;
    c->peer = peer;
    c->dialect = peer->dialect;
    c->addr = *addr;
    c->fd = -1;
    c->last_io_ns = ft_now_ns();
    c->next = q->conns;
    q->conns = c;
    return c;
}

void conn_activate(struct conn *c)
{
    struct ferry_queue *q = c->queue;

    if (c->active_at != NULL)
        return;
    c->active_next = q->active;
    c->active_at = &q->active;
    if (q->active != NULL)
        q->active->active_at = &c->active_next;
    q->active = c;
    q->n_active++;
}

void conn_deactivate(struct conn *c)
{
    if (c->active_at == NULL)
        return;
    *c->active_at = c->active_next;
    if (c->active_next != NULL)
        c->active_next->active_at = c->active_at;
    c->active_at = NULL;
    c->queue->n_active--;
}

void conn_leave_closing(struct conn *c)
{
    if (c->state == CONN_HALF || c->state == CONN_GRACE)
        c->queue->n_closing--;
}

void conn_detach(struct conn *c)
{
    struct conn **at = &c->queue->conns;

    while (*at != c)
        at = &(*at)->next;
    *at = c->next;
    conn_deactivate(c);
    conn_leave_closing(c);
    if (c->fd >= 0)
        (void)epoll_ctl(c->queue->epfd, EPOLL_CTL_DEL, c->fd, NULL);
}

bool conn_connect(struct conn *c, uint64_t now)
{
    struct epoll_event ev = {.events = EPOLLIN | EPOLLRDHUP, .data.ptr = c};
    int fd = tcp_connect_start(&c->queue->tp->config, &c->addr);

    if (fd < 0)
        return false;
    if (epoll_ctl(c->queue->epfd, EPOLL_CTL_ADD, fd, &ev) != 0) {
        close(fd);
        return false;
    }
    c->fd = fd;
    c->state = CONN_OPEN;
    c->revive = false;
    c->life++;
    c->last_io_ns = now;
    if (c->dialect == TCP_DIALECT_V3) {
        wire_put_hello(c->hello, &(struct wire_hello){.version = WIRE_VERSION,
                                                      .len = WIRE_HELLO_LEN,
                                                      .incarnation = c->peer->incarnation});
        c->hello_left = WIRE_HELLO_LEN;
        c->greeting = true;
    }
    return true;
}

void conn_watch_out(struct conn *c, bool out)
{
    struct epoll_event ev = {.events = EPOLLIN | EPOLLRDHUP | (out ? EPOLLOUT : 0),
                             .data.ptr = c};

    if (c->fd < 0 || c->want_out == out)
        return;
    if (epoll_ctl(c->queue->epfd, EPOLL_CTL_MOD, c->fd, &ev) == 0)
        c->want_out = out;
}

bool conn_has_room(const struct conn *c)
{
    if (c->dialect == TCP_DIALECT_V1)
        return c->n_frames == 0;
    return c->n_frames < CONN_FRAMES_MIN ||
           (c->n_frames < CONN_FRAMES && c->bytes < CONN_BYTES);
}

void conn_push(struct conn *c, struct frame *f)
{
    if (c->tail != NULL)
        c->tail->next = f;
    else
        c->head = f;
    c->tail = f;
    if (c->tx == NULL)
        c->tx = f;
    c->n_frames++;
    c->bytes += f->payload;
    conn_activate(c);
}

void conn_pop(struct conn *c)
{
    struct frame *f = c->head;

    c->head = f->next;
    if (c->head == NULL)
        c->tail = NULL;
    c->n_frames--;
    c->bytes -= f->payload;
    c->rx_body = false;
    c->rx_left = 0;
}

void conn_close_fd(struct conn *c, bool reset)
{
    if (c->fd < 0)
        return;
    (void)epoll_ctl(c->queue->epfd, EPOLL_CTL_DEL, c->fd, NULL); /* a fork may hold the file */
    if (reset)
        tcp_reset(c->fd);
    else
        tcp_close_fd(c->fd);
    c->fd = -1;
    c->want_out = false;
    c->tx_blocked = false;
}

/* The head of the line has ended well, or as its st[] says. */
static void complete(struct conn *c, uint64_t now)
{
    struct frame *f = c->head;

    conn_pop(c);
    queue_done(c->queue, f);
    c->last_io_ns = now;
    if (c->dialect == TCP_DIALECT_V1) {
        conn_close_fd(c, false);
        c->rx_pos = c->rx_have = 0;
        if (c->state != CONN_OPEN)
            conn_down(c, FERRY_ECONNRESET, 0);
    }
    if (c->n_frames == 0 && c->state == CONN_OPEN)
        conn_deactivate(c);
}

static void protocol_error(struct conn *c, const char *what)
{
    FT_LOG(c->queue->tp->host, FERRY_LOG_WARN, "tcp: peer %s broke the protocol: %s",
           c->peer->name, what);
    conn_close_fd(c, true);
    conn_down(c, FERRY_ECONNRESET, EPROTO);
}

/* Where a gather list has got to. It stays as it was made: a frame may begin again. */
static void cursor_advance(const struct iovec *v, uint16_t *at, uint16_t end, uint64_t *off,
                           size_t n)
{
    *off += n;
    while (*at < end && *off >= v[*at].iov_len)
        *off -= v[(*at)++].iov_len;
}

/* The entry at hand without what is done of it; returns it as it was, to be put back. */
static struct iovec cursor_trim(struct iovec *v, uint64_t off)
{
    struct iovec whole = *v;

    v->iov_base = (char *)v->iov_base + off;
    v->iov_len -= off;
    return whole;
}

/* An error of a send: answers that came before the end may still be there to be read. */
static void tx_error(struct conn *c, int err, uint64_t now)
{
    uint32_t life = c->life;

    if (err == EAGAIN || err == EWOULDBLOCK || err == EINTR) {
        c->tx_blocked = true;
        c->tx_retry_ns = now + TX_RETRY_NS;
        return;
    }
    if (err == EFAULT) {
        protocol_error(c, "local memory is not there");
        return;
    }
    c->tx = NULL;
    c->tx_blocked = false;
    if (err == EPIPE || err == ECONNRESET)
        conn_rx(c, now);
    if (c->fd >= 0 && c->life == life)
        conn_error(c, err);
}

/* Frames may follow at once: a target that does not take the hello takes nothing. */
static bool tx_hello(struct conn *c, uint64_t now)
{
    while (c->hello_left > 0) {
        ssize_t r = send(c->fd, c->hello + WIRE_HELLO_LEN - c->hello_left, c->hello_left,
                         MSG_DONTWAIT | MSG_NOSIGNAL | MSG_MORE);

        if (r < 0) {
            tx_error(c, errno, now);
            return false;
        }
        c->hello_left -= (uint8_t)r;
    }
    return true;
}

void conn_tx(struct conn *c, uint64_t now)
{
    if (!tx_hello(c, now))
        return;
    for (int turn = 0; c->tx != NULL && turn < TX_TURNS; turn++) {
        struct frame *f = c->tx;
        struct msghdr m = {.msg_iov = &f->iov[f->tx_at],
                           .msg_iovlen = (size_t)(f->tx_end - f->tx_at)};
        struct iovec whole = cursor_trim(m.msg_iov, f->tx_off);
        ssize_t r = sendmsg(c->fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);

        *m.msg_iov = whole;
        if (r < 0) {
            tx_error(c, errno, now);
            return;
        }
        c->last_io_ns = now;
        f->tx_left -= (size_t)r;
        if (f->tx_left > 0) {
            cursor_advance(f->iov, &f->tx_at, f->tx_end, &f->tx_off, (size_t)r);
            c->tx_blocked = true;
            c->tx_retry_ns = now + TX_RETRY_NS;
            return;
        }
        c->tx = f->next;
        /* Older peers acknowledge a WRITE by nothing but the end of the connection. */
        if (c->dialect == TCP_DIALECT_V1 && f->op == FERRY_OP_WRITE)
            (void)shutdown(c->fd, SHUT_WR);
    }
    c->tx_blocked = false;
}

/* The head of an answer of v3. False: not all there, or the connection is down. */
static bool rx_head_v3(struct conn *c)
{
    const uint8_t *p = c->rxbuf + c->rx_pos;
    uint32_t have = c->rx_have - c->rx_pos, need;
    struct frame *f = c->head;
    struct wire_frame w;
    bool read = f->op == FERRY_OP_READ;
    uint64_t accepted = f->payload;

    if (have < WIRE_FRAME_LEN)
        return false;
    if (!wire_get_frame(p, &w) || w.type != (read ? WIRE_READ_REPLY : WIRE_WRITE_ACK) ||
        w.cookie != f->seq || f->tx_left > 0) {
        protocol_error(c, "not the answer that was due");
        return false;
    }
    need = WIRE_FRAME_LEN + w.n * WIRE_RANGE_LEN;
    if (have < need)
        return false;
    if (!wire_get_ranges(p + WIRE_FRAME_LEN, w.n, f->n, f->st)) {
        protocol_error(c, "statuses that do not cover the frame");
        return false;
    }
    f->mixed = w.n > 1 || f->st[0] != WIRE_ST_OK;
    if (read && f->mixed) {
        accepted = frame_skip_refused(f, c->queue->tmp);
        f->skipped = true;
    }
    if (w.payload != (read ? accepted : 0)) {
        f->mixed = false;
        protocol_error(c, "an answer of another length");
        return false;
    }
    c->rx_pos += need;
    c->rx_left = w.payload;
    return true;
}

static void rx_from_buffer(struct conn *c, struct frame *f)
{
    while (c->rx_left > 0 && c->rx_pos < c->rx_have) {
        const struct iovec *v = &f->iov[f->rx_at];
        size_t n = c->rx_have - c->rx_pos;

        if (n > v->iov_len - f->rx_off)
            n = v->iov_len - f->rx_off;
        memcpy((char *)v->iov_base + f->rx_off, c->rxbuf + c->rx_pos, n);
        c->rx_pos += (uint32_t)n;
        c->rx_left -= n;
        cursor_advance(f->iov, &f->rx_at, f->rx_end, &f->rx_off, n);
    }
}

/* The answer to a hello that was sent with frames behind it. False: not all there, or down. */
static bool rx_welcome(struct conn *c)
{
    const uint8_t *p = c->rxbuf + c->rx_pos;
    struct wire_welcome w;
    ferry_status status;

    if (c->rx_have - c->rx_pos < WIRE_WELCOME_LEN)
        return false;
    if (!wire_get_welcome(p, &w)) {
        conn_down(c, FERRY_ESTALE, 0);
        return false;
    }
    status = welcome_status(c->peer, &w);
    if (status != FERRY_OK) {
        conn_down(c, status, 0);
        return false;
    }
    if (c->rx_have - c->rx_pos < w.len)
        return false;
    c->rx_pos += w.len;
    c->greeting = false;
    return true;
}

/* Takes what is in the buffer as far as it goes. */
static void parse(struct conn *c, uint64_t now)
{
    if (c->greeting && !rx_welcome(c))
        return;
    while (c->head != NULL) {
        struct frame *f = c->head;

        if (!c->rx_body) {
            if (c->dialect == TCP_DIALECT_V3) {
                if (!rx_head_v3(c))
                    return;
            } else {
                c->rx_left = f->rx_len;
            }
            c->rx_body = true;
        }
        rx_from_buffer(c, f);
        if (c->dialect == TCP_DIALECT_V2 && !frame_check_words(f, f->rx_len - c->rx_left)) {
            /* Refused: the peer ends the connection, and does nothing of what follows. */
            f->mixed = true;
            f->from = f->ok_n + 1;
            conn_restart(c, now);
            return;
        }
        if (c->rx_left > 0)
            return;
        if (c->dialect == TCP_DIALECT_V1 && f->op == FERRY_OP_WRITE)
            break; /* the end of the connection says that it is done */
        if (f->tx_left > 0) {
            protocol_error(c, "an answer before the request");
            return;
        }
        complete(c, now);
    }
    if (c->rx_pos < c->rx_have)
        protocol_error(c, "bytes that nobody asked for");
}

static void rx_eof(struct conn *c, uint64_t now)
{
    struct frame *f = c->head;

    if (c->dialect == TCP_DIALECT_V1 && f != NULL && f->op == FERRY_OP_WRITE && f->tx_left == 0)
        complete(c, now);
    else if (c->state == CONN_HALF)
        conn_restart(c, now);
    else
        conn_down(c, FERRY_ECONNRESET, 0);
}

void conn_rx(struct conn *c, uint64_t now)
{
    for (int turn = 0; c->fd >= 0 && turn < RX_TURNS; turn++) {
        struct frame *f = c->head;
        bool body = f != NULL && c->rx_body && c->rx_left > 0;
        struct iovec head, whole = {0}, after = {0};
        struct msghdr m = {.msg_iov = &head, .msg_iovlen = 1};
        size_t room;
        ssize_t r;

        if (c->rx_pos > 0) {
            memmove(c->rxbuf, c->rxbuf + c->rx_pos, c->rx_have - c->rx_pos);
            c->rx_have -= c->rx_pos;
            c->rx_pos = 0;
        }
        room = RX_BUF_LEN - c->rx_have;
        head = (struct iovec){c->rxbuf + c->rx_have, room};
        if (body) {
            /* Into its place, and what follows it into the buffer. In a WRITE of v2 the entry
             * behind is one that is sent, perhaps once more. */
            after = f->iov[f->rx_end];
            f->iov[f->rx_end] = head;
            m.msg_iov = &f->iov[f->rx_at];
            m.msg_iovlen = (size_t)(f->rx_end - f->rx_at + 1);
            room += c->rx_left;
            whole = cursor_trim(m.msg_iov, f->rx_off);
        }
        r = recvmsg(c->fd, &m, MSG_DONTWAIT);
        if (body) {
            *m.msg_iov = whole;
            f->iov[f->rx_end] = after;
        }
        if (r < 0) {
            if (errno == EINTR)
                continue;
            if (errno != EAGAIN && errno != EWOULDBLOCK)
                conn_error(c, errno);
            return;
        }
        if (r == 0) {
            rx_eof(c, now);
            return;
        }
        c->last_io_ns = now;
        if (body) {
            size_t n = (uint64_t)r < c->rx_left ? (size_t)r : (size_t)c->rx_left;

            cursor_advance(f->iov, &f->rx_at, f->rx_end, &f->rx_off, n);
            c->rx_left -= n;
            c->rx_have += (uint32_t)((size_t)r - n);
        } else {
            c->rx_have += (uint32_t)r;
        }
        parse(c, now);
        if ((size_t)r < room)
            return; /* there was no more */
    }
}

bool conn_alive(struct conn *c, uint64_t now)
{
    char byte;
    ssize_t r;

    if (c->dialect == TCP_DIALECT_V1)
        return c->state == CONN_OPEN;
    if (c->state != CONN_OPEN || c->fd < 0)
        return false;
    if (c->n_frames > 0 || now - c->last_io_ns < PEEK_AFTER_IDLE_NS)
        return true;
    r = recv(c->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    if (r < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
        return true;
    conn_down(c, FERRY_ECONNRESET, r < 0 ? errno : 0);
    return false;
}
