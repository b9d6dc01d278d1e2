/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TCP_REACTOR_H
#define TCP_REACTOR_H

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>

#include "ferry/status.h"

/*
 * How a server thread sleeps on many descriptors: io_uring, or epoll where that is forbidden
 * or missing. Thread-bound: opened, used and closed by one thread.
 */

struct reactor_source {
    int fd;
    uint32_t id;   /* the reactor's own */
    uint32_t want; /* POLLIN, POLLOUT or none */
    uint32_t armed;
};

struct reactor {
    const struct reactor_ops *ops;
};

struct reactor_ops {
    const char *name;
    void (*close)(struct reactor *r);
    /* 0 or -errno. The source's memory stays where it is until del. */
    int (*add)(struct reactor *r, struct reactor_source *s);
    /* Before its descriptor is closed. */
    void (*del)(struct reactor *r, struct reactor_source *s);
    /*
     * Sources are reported when one of these events is there (or an error is), at the next
     * wait; after a report it must be said again. May be reported without need.
     */
    void (*want)(struct reactor *r, struct reactor_source *s, uint32_t events);
    /* Sleeps until one is ready, at most timeout_ns (negative: no limit). How many were
     * written to `out`. */
    int (*wait)(struct reactor *r, int64_t timeout_ns, struct reactor_source **out, int max);
};

/* 0 or -errno. */
int reactor_uring_open(struct reactor **out);
int reactor_epoll_open(struct reactor **out);

#endif /* TCP_REACTOR_H */
