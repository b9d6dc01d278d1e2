/* SPDX-License-Identifier: Apache-2.0 */
/*
 * HOT. The reactor over epoll: level-triggered, so that saying `want` again costs nothing.
 */
#include "reactor.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#define EVENTS 64

struct epoll_reactor {
    struct reactor base;
    int fd;
};

static void er_close(struct reactor *r)
{
    struct epoll_reactor *e = (struct epoll_reactor *)r;

    close(e->fd);
    free(e);
}

static int control(struct reactor *r, int op, struct reactor_source *s, uint32_t events)
{
    struct epoll_event ev = {.events = events, .data.ptr = s}; /* POLLIN is EPOLLIN */

    return epoll_ctl(((struct epoll_reactor *)r)->fd, op, s->fd, &ev) == 0 ? 0 : -errno;
}

static int er_add(struct reactor *r, struct reactor_source *s)
{
    s->want = s->armed = 0;
    return control(r, EPOLL_CTL_ADD, s, 0);
}

static void er_del(struct reactor *r, struct reactor_source *s)
{
    (void)control(r, EPOLL_CTL_DEL, s, 0);
}

static void er_want(struct reactor *r, struct reactor_source *s, uint32_t events)
{
    if (s->armed != events && control(r, EPOLL_CTL_MOD, s, events) == 0)
        s->armed = events;
    s->want = events;
}

static int er_wait(struct reactor *r, int64_t timeout_ns, struct reactor_source **out, int max)
{
    struct epoll_event ev[EVENTS];
    int ms = timeout_ns < 0 ? -1 : (int)((timeout_ns + 999999) / 1000000);
    int n = epoll_wait(((struct epoll_reactor *)r)->fd, ev, max < EVENTS ? max : EVENTS, ms);

    for (int i = 0; i < n; i++)
        out[i] = ev[i].data.ptr;
    return n < 0 ? 0 : n;
}

static const struct reactor_ops ops = {
    .name = "epoll",
    .close = er_close,
    .add = er_add,
    .del = er_del,
    .want = er_want,
    .wait = er_wait,
};

int reactor_epoll_open(struct reactor **out)
{
    struct epoll_reactor *e = calloc(1, sizeof *e);
    int err;

    if (e == NULL)
        return -ENOMEM;
    e->base.ops = &ops;
    e->fd = epoll_create1(EPOLL_CLOEXEC);
    if (e->fd < 0) {
        err = errno;
        free(e);
        return -err;
    }
    *out = &e->base;
    return 0;
}
