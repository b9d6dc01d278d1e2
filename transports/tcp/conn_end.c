/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How connections end: broken, refused, cancelled or closed, and what becomes of the frames in
 * flight. docs/adr/0005 says why it takes these steps. Must not know what frames say.
 */
#include "initiator.h"

#include <errno.h>
#include <poll.h>
#include <unistd.h>

#define WAIT_CHUNK    64   /* connections in one poll() */
#define DISCARD_LEN   4096 /* what is thrown away at a time */
#define DISCARD_TURNS 16

/* A frame that is in no list ends: cancelled ones so, others with `status`. */
static void end_frame(struct conn *c, struct frame *f, ferry_status status, int err)
{
    f->status = !f->cancelled ? status : c->unreach ? FERRY_EUNREACH : FERRY_ECANCELED;
    f->vendor_err = f->cancelled ? 0 : err;
    if (f->v3) {
        f->mixed = false; /* announced, but its payload has not come */
    } else if (f->ok_n > 0) {
        memset(f->st + f->ok_n, ST_AS_FRAME, f->n - f->ok_n);
        f->mixed = true;
    }
    queue_done(c->queue, f);
}

static void end_frames(struct conn *c, ferry_status status, int err)
{
    while (c->head != NULL) {
        struct frame *f = c->head;

        conn_pop(c);
        end_frame(c, f, status, err);
    }
}

void conn_drop_frames(struct conn *c)
{
    end_frames(c, FERRY_ECANCELED, 0);
}

void conn_down(struct conn *c, ferry_status status, int err)
{
    conn_close_fd(c, false);
    conn_leave_closing(c);
    c->state = c->dialect == TCP_DIALECT_V1 && !c->replaced ? CONN_OPEN : CONN_DEAD;
    c->tx = NULL;
    c->rx_pos = c->rx_have = 0;
    c->greeting = false;
    c->hello_left = 0;
    end_frames(c, status, err);
    c->unreach = false;
    conn_deactivate(c);
}

/* Something of a WRITE has left, and its end is not known. */
static bool writes_out(const struct conn *c)
{
    for (const struct frame *f = c->head; f != NULL; f = f->next)
        if (f->op == FERRY_OP_WRITE && f->tx_left < f->tx_len)
            return true;
    return false;
}

void conn_error(struct conn *c, int err)
{
    if (err != ETIMEDOUT || !tcp_heard_lately(c->fd, c->queue->tp->config.user_timeout_ms)) {
        conn_down(c, tcp_status_of(err), err);
        return;
    }
    /*
     * It acknowledges, and takes nothing: stopped. The kernel gave the connection up without a
     * word; the target's keepalive finds that out, and only then nothing lands any more.
     */
    if (!writes_out(c)) {
        conn_down(c, FERRY_ETIMEDOUT, err);
        return;
    }
    conn_leave_closing(c);
    conn_close_fd(c, false);
    c->tx = NULL;
    c->revive = false;
    c->state = CONN_GRACE;
    c->deadline_ns = ft_now_ns() + TIMEOUT_GRACE_NS;
    c->queue->n_closing++;
    conn_activate(c);
    queue_timer(c->queue);
}

/*
 * The connection has ended, and by our own doing: a cancel, or v2's way to refuse. Nothing of
 * it moves any more, so what others had in flight on it is sent again on a new one.
 */
void conn_restart(struct conn *c, uint64_t now)
{
    struct frame *keep = NULL, **end = &keep, *f;
    bool again = c->dialect != TCP_DIALECT_V1 && !c->replaced;

    while ((f = c->head) != NULL) {
        conn_pop(c);
        f->next = NULL;
        if (!again || f->cancelled || !frame_rewind(f)) {
            end_frame(c, f, FERRY_ECONNRESET, 0);
        } else if (f->from == f->n) {
            queue_done(c->queue, f); /* the last one was what was refused */
        } else {
            *end = f;
            end = &f->next;
        }
    }
    conn_down(c, FERRY_ECONNRESET, 0);
    c->revive = true;
    if (keep != NULL)
        again = conn_connect(c, now);
    while ((f = keep) != NULL) {
        keep = f->next;
        f->next = NULL;
        if (again)
            conn_push(c, f);
        else
            end_frame(c, f, FERRY_EUNREACH, 0);
    }
    if (c->tx != NULL) /* wakes a sleeper: the next poll sends */
        conn_watch_out(c, true);
}

void conn_quiet(struct conn *c, uint64_t now)
{
    if (c->state != CONN_OPEN)
        return;
    if (c->fd >= 0 && c->n_frames > 0)
        c->unreach = tcp_unreachable(c->fd);
    c->revive = true;
    if (c->fd < 0 || !writes_out(c)) {
        conn_restart(c, now);
        return;
    }
    (void)shutdown(c->fd, SHUT_WR);
    c->tx = NULL;
    c->tx_blocked = false;
    c->state = CONN_HALF;
    c->deadline_ns = now + EOF_WAIT_NS;
    c->queue->n_closing++;
    conn_activate(c);
}

void conn_tick(struct conn *c, uint64_t now)
{
    if ((c->state != CONN_HALF && c->state != CONN_GRACE) || now < c->deadline_ns)
        return;
    if (c->state == CONN_HALF) {
        conn_close_fd(c, true);
        c->state = CONN_GRACE;
        c->deadline_ns = now + RESET_GRACE_NS;
        return;
    }
    if (c->revive)
        conn_restart(c, now);
    else
        conn_down(c, FERRY_ETIMEDOUT, ETIMEDOUT);
}

void conn_cancel(struct conn *c, uint64_t cookie, uint64_t now)
{
    struct frame **at = &c->head, *last = NULL;
    bool sent = false;
    bool unreach =
        c->state == CONN_OPEN && c->fd >= 0 && c->n_frames > 0 && tcp_unreachable(c->fd);

    while (*at != NULL) {
        struct frame *f = *at;

        if (f->cookie != cookie) {
            last = f;
            at = &f->next;
        } else if (f->tx_left < f->tx_len) {
            f->cancelled = sent = true;
            last = f;
            at = &f->next;
        } else {
            if (f == c->head)
                c->rx_body = false; /* v2 may be looking for its first word */
            *at = f->next;
            if (c->tx == f)
                c->tx = f->next;
            c->n_frames--;
            c->bytes -= f->payload;
            f->status = unreach ? FERRY_EUNREACH : FERRY_ECANCELED;
            queue_done(c->queue, f);
        }
    }
    c->tail = last;
    if (sent)
        conn_quiet(c, now);
    else if (c->n_frames == 0 && c->state == CONN_OPEN)
        conn_deactivate(c);
}

/* One round of waiting for the ends of half-closed connections; false: none is left. */
static bool wait_some(struct conn *list, uint64_t until)
{
    struct pollfd p[WAIT_CHUNK];
    struct conn *of[WAIT_CHUNK];
    char discard[DISCARD_LEN];
    uint64_t now = ft_now_ns();
    nfds_t n = 0;

    for (struct conn *c = list; c != NULL && n < WAIT_CHUNK; c = c->next)
        if (c->state == CONN_HALF && c->fd >= 0) {
            p[n] = (struct pollfd){.fd = c->fd, .events = POLLIN};
            of[n++] = c;
        }
    if (n == 0 || now >= until)
        return false;
    if (poll(p, n, (int)((until - now + NS_PER_MS - 1) / NS_PER_MS)) <= 0)
        return true;
    for (nfds_t i = 0; i < n; i++) {
        ssize_t r = 1;

        if (p[i].revents == 0)
            continue;
        for (int turn = 0; r > 0 && turn < DISCARD_TURNS; turn++)
            r = recv(p[i].fd, discard, sizeof discard, MSG_DONTWAIT);
        if (r == 0 || (r < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR))
            conn_close_fd(of[i], false);
    }
    return true;
}

void conns_quiet_wait(struct conn *list)
{
    uint64_t until = ft_now_ns() + EOF_WAIT_NS, grace = 0;

    for (struct conn *c = list; c != NULL; c = c->next) {
        if (c->state == CONN_OPEN && c->fd >= 0 && writes_out(c)) {
            (void)shutdown(c->fd, SHUT_WR);
            c->state = CONN_HALF;
        } else if (c->state == CONN_OPEN) {
            conn_close_fd(c, false);
        } else if (c->state == CONN_GRACE && c->deadline_ns > grace) {
            grace = c->deadline_ns;
        }
    }
    while (wait_some(list, until))
        ;
    for (struct conn *c = list; c != NULL; c = c->next)
        if (c->fd >= 0) {
            conn_close_fd(c, true);
            grace = ft_now_ns() + RESET_GRACE_NS;
        }
    for (uint64_t now = ft_now_ns(); now < grace; now = ft_now_ns()) {
        uint64_t left = grace - now;

        nanosleep(&(struct timespec){(time_t)(left / NS_PER_S), (long)(left % NS_PER_S)}, NULL);
    }
}
