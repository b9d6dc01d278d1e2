/* SPDX-License-Identifier: Apache-2.0 */
/*
 * HOT. The passive side of a connection: which dialect, the greeting, and the frames of v3.
 * Must not know threads, nor how anybody waits for the socket.
 */
#include "target.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#define SPARE_WORKS 4  /* kept by a thread for connections that wake up */
#define TURNS       32 /* frames in a row, before other connections have theirs */
#define DRAIN_TURNS 64

void target_init(struct target *t, struct target_env *env, int fd, uint64_t now)
{
    memset(t, 0, sizeof *t);
    t->env = env;
    t->fd = fd;
    t->last_rx_ns =
        0; /* it may have come, sent and been reset while this process was stopped */
    t->progress_ns = now;
}

static struct work *work_get(struct target_env *env)
{
    struct work *w = env->spare;

    if (w != NULL) {
        env->spare = w->next;
        env->n_spare--;
    } else {
        w = malloc(sizeof *w);
        if (w == NULL)
            return NULL;
        w->stage = NULL;
    }
    w->pos = w->have = w->out_pos = w->out_len = 0;
    w->n_holds = 0;
    w->active = w->held = w->staged = false;
    return w;
}

static void work_put(struct target_env *env, struct work *w)
{
    if (w->stage != NULL) {
        env->host->stage_free(env->host, w->stage);
        w->stage = NULL;
    }
    if (env->n_spare >= SPARE_WORKS) {
        free(w);
        return;
    }
    w->next = env->spare;
    env->spare = w;
    env->n_spare++;
}

void target_pause(struct target *t)
{
    struct work *w = t->w;

    if (w == NULL)
        return;
    move_release(t);
    if (!w->active && w->pos == w->have && w->out_pos == w->out_len) {
        work_put(t->env, w);
        t->w = NULL;
    }
}

void target_fini(struct target *t)
{
    if (t->w == NULL)
        return;
    move_release(t);
    work_put(t->env, t->w);
    t->w = NULL;
}

void target_env_fini(struct target_env *env)
{
    while (env->spare != NULL) {
        struct work *w = env->spare;

        env->spare = w->next;
        free(w);
    }
    env->n_spare = 0;
}

enum target_run target_flush(struct target *t)
{
    struct work *w = t->w;

    while (w->out_pos < w->out_len) {
        ssize_t r = send(t->fd, w->out + w->out_pos, w->out_len - w->out_pos,
                         MSG_DONTWAIT | MSG_NOSIGNAL);

        if (r >= 0)
            w->out_pos += (uint32_t)r;
        else if (errno == EAGAIN || errno == EWOULDBLOCK)
            return TARGET_WRITE;
        else if (errno != EINTR)
            return TARGET_CLOSE;
    }
    w->out_pos = w->out_len = 0;
    return TARGET_DONE;
}

/*
 * After a pause this process may have been stopped while the peer gave up, reset the connection
 * and told its user that nothing lands any more. Linux delivers what came before the reset.
 */
static bool was_reset(const struct target *t, uint64_t now)
{
    struct pollfd p = {.fd = t->fd, .events = POLLIN};

    return now - t->last_rx_ns > TARGET_SILENCE_NS && poll(&p, 1, 0) > 0 &&
           (p.revents & (POLLERR | POLLHUP)) != 0;
}

enum target_run target_recv(struct target *t, struct iovec *v, size_t n, size_t *n_out)
{
    struct msghdr m = {.msg_iov = v, .msg_iovlen = n};
    uint64_t now = ft_now_ns();
    ssize_t r;

    if (was_reset(t, now))
        return TARGET_CLOSE;
    do
        r = recvmsg(t->fd, &m, MSG_DONTWAIT);
    while (r < 0 && errno == EINTR);
    if (r > 0) {
        t->last_rx_ns = t->progress_ns = now;
        *n_out = (size_t)r;
        return TARGET_DONE;
    }
    if (r == 0) {
        t->eof = true;
        return TARGET_READ;
    }
    if (errno == EFAULT) {
        *n_out = 0;
        return TARGET_DONE;
    }
    return errno == EAGAIN || errno == EWOULDBLOCK ? TARGET_READ : TARGET_CLOSE;
}

enum target_run target_fill(struct target *t, uint32_t need, uint32_t ahead)
{
    struct work *w = t->w;
    enum target_run run;
    struct iovec v;
    size_t n;

    while (w->have - w->pos < need) {
        if (t->eof) {
            run = target_flush(t);
            return run == TARGET_WRITE ? run : TARGET_CLOSE;
        }
        if (w->pos > 0) {
            memmove(w->buf, w->buf + w->pos, w->have - w->pos);
            w->have -= w->pos;
            w->pos = 0;
        }
        /* v3 answers before it asks for more: its initiators wait. */
        if (w->out_len > 0 && (t->state != TARGET_S_MC || w->out_len > TARGET_OUT_LEN / 2)) {
            run = target_flush(t);
            if (run != TARGET_DONE)
                return run;
        }
        v = (struct iovec){w->buf + w->have, (need > ahead ? need : ahead) - w->have};
        run = target_recv(t, &v, 1, &n);
        if (run == TARGET_READ && w->out_len > 0) {
            run = target_flush(t);
            if (run != TARGET_DONE)
                return run;
            run = TARGET_READ;
        }
        if (run == TARGET_READ && t->eof)
            return TARGET_CLOSE;
        if (run != TARGET_DONE)
            return run == TARGET_READ && w->have == 0 ? TARGET_IDLE : run;
        if (n == 0)
            return TARGET_CLOSE;
        w->have += (uint32_t)n;
    }
    return TARGET_DONE;
}

enum target_run target_refuse(struct target *t)
{
    t->refused = true;
    t->state = TARGET_S_DRAIN;
    t->drain_ns = ft_now_ns() + TARGET_DRAIN_NS;
    return TARGET_AGAIN;
}

/* The answer is on its way: half-close, and read on, lest a reset destroy it. */
static enum target_run drain(struct target *t)
{
    struct iovec v = {t->env->scratch, TARGET_SCRATCH_LEN};
    enum target_run run = target_flush(t);
    size_t n;

    if (run != TARGET_DONE)
        return run == TARGET_WRITE && ft_now_ns() >= t->drain_ns ? TARGET_RESET : run;
    if (t->refused) {
        t->refused = false;
        (void)shutdown(t->fd, SHUT_WR);
    }
    t->w->pos = t->w->have = 0;
    for (int turn = 0; turn < DRAIN_TURNS; turn++) {
        run = target_recv(t, &v, 1, &n);
        if (t->eof || ft_now_ns() >= t->drain_ns)
            return TARGET_CLOSE;
        if (run != TARGET_DONE)
            return run == TARGET_READ ? TARGET_DRAIN : run;
    }
    return TARGET_AGAIN;
}

static enum target_run greet(struct target *t)
{
    struct work *w = t->w;
    struct wire_hello hello;
    uint32_t status = WIRE_WELCOME_OK;
    enum target_run run = target_fill(t, WIRE_HELLO_LEN, WIRE_HELLO_LEN);

    if (run != TARGET_DONE)
        return run;
    if (!wire_get_hello(w->buf + w->pos, &hello))
        return TARGET_RESET;
    run = target_fill(t, hello.len, hello.len);
    if (run != TARGET_DONE)
        return run;
    w->pos += hello.len;
    if (hello.version < WIRE_VERSION)
        status = WIRE_WELCOME_VERSION;
    else if (hello.incarnation != 0 && hello.incarnation != t->env->incarnation)
        status = WIRE_WELCOME_STALE;
    wire_put_welcome(w->out + w->out_len,
                     &(struct wire_welcome){.version = WIRE_VERSION,
                                            .len = WIRE_WELCOME_LEN,
                                            .incarnation = t->env->incarnation,
                                            .status = status,
                                            .max_desc = WIRE_MAX_DESC,
                                            .max_payload = WIRE_MAX_PAYLOAD});
    w->out_len += WIRE_WELCOME_LEN;
    if (status != WIRE_WELCOME_OK)
        return target_refuse(t);
    t->state = TARGET_S_V3;
    return TARGET_DONE;
}

/* The first bytes tell the dialect: no size of upstream's is as large as our magic. */
static enum target_run first_bytes(struct target *t)
{
    enum target_run run = target_fill(t, sizeof(uint64_t), TARGET_AHEAD_V3);

    if (run != TARGET_DONE)
        return run;
    if (wire_get64(t->w->buf + t->w->pos) == WIRE_HELLO_MAGIC)
        return greet(t);
    t->state = TARGET_S_MC;
    return TARGET_DONE;
}

static void answer_v3(struct target *t)
{
    struct work *w = t->w;
    uint8_t *p = w->out + w->out_len;
    uint32_t n = wire_put_ranges(p + WIRE_FRAME_LEN, w->st, w->n);

    wire_put_frame(p, &(struct wire_frame){
                          .type = w->write ? WIRE_WRITE_ACK : WIRE_READ_REPLY,
                          .n = (uint16_t)n,
                          .cookie = w->cookie,
                          .payload = w->write ? 0 : w->total,
                      });
    w->out_len += WIRE_FRAME_LEN + n * WIRE_RANGE_LEN;
}

static enum target_run start_v3(struct target *t)
{
    struct work *w = t->w;
    struct wire_frame f;
    uint32_t table;
    enum target_run run = target_fill(t, WIRE_FRAME_LEN, TARGET_AHEAD_V3);

    if (run != TARGET_DONE)
        return run;
    if (!wire_get_frame(w->buf + w->pos, &f) || f.type > WIRE_READ)
        return TARGET_RESET;
    table = WIRE_FRAME_LEN + f.n * WIRE_DESC_LEN;
    run = target_fill(t, table, TARGET_AHEAD_V3);
    if (run != TARGET_DONE)
        return run == TARGET_IDLE ? TARGET_READ : run;
    if (!wire_get_table(w->buf + w->pos + WIRE_FRAME_LEN, f.n, f.payload, w->d))
        return TARGET_RESET;
    w->pos += table;
    w->cookie = f.cookie;
    if (TARGET_OUT_LEN - w->out_len < WIRE_FRAME_LEN + f.n * WIRE_RANGE_LEN) {
        run = target_flush(t);
        if (run != TARGET_DONE)
            return run;
    }
    move_start(t, f.n, f.type == WIRE_WRITE, 0);
    w->total = f.type == WIRE_WRITE ? f.payload : move_total(t);
    if (f.type == WIRE_READ)
        answer_v3(t);
    return TARGET_DONE;
}

static enum target_run run_v3(struct target *t)
{
    struct work *w = t->w;
    enum target_run run;

    if (!w->active) {
        run = start_v3(t);
        if (run != TARGET_DONE)
            return run;
    }
    run = w->write ? move_in(t, TARGET_AHEAD_V3) : move_out(t);
    if (run != TARGET_DONE)
        return run;
    if (w->write)
        answer_v3(t);
    move_end(t);
    return TARGET_DONE;
}

enum target_run target_run(struct target *t)
{
    enum target_run run = TARGET_DONE;

    if (t->w == NULL) {
        t->w = work_get(t->env);
        if (t->w == NULL)
            return TARGET_RESET;
    }
    for (int turn = 0; run == TARGET_DONE && turn < TURNS; turn++) {
        switch ((enum target_state)t->state) {
        case TARGET_S_FIRST:
            run = first_bytes(t);
            break;
        case TARGET_S_V3:
            run = run_v3(t);
            break;
        case TARGET_S_MC:
            run = target_mc(t);
            break;
        case TARGET_S_DRAIN:
            run = drain(t);
            break;
        }
    }
    return run == TARGET_DONE ? TARGET_AGAIN : run;
}
