/* SPDX-License-Identifier: Apache-2.0 */
/*
 * HOT. The reactor over io_uring: one-shot polls, armed only before sleeping, so that a
 * spinning thread makes no call here. One system call arms everything and sleeps.
 */
#include "reactor.h"

#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>

#define ENTRIES    256
#define CQ_ENTRIES 4096
#define IGNORED    UINT64_MAX /* user data of what nobody waits for */

/* A source's number in user data, with a generation: late events of a past owner are told. */
struct slot {
    struct reactor_source *source;
    uint32_t generation;
    uint32_t next_free;
};

struct uring_reactor {
    struct reactor base;
    struct io_uring ring;
    struct slot *slots;
    uint32_t n_slots, free_slot; /* n_slots = none */
};

static uint64_t tag(const struct uring_reactor *u, uint32_t id)
{
    return (uint64_t)u->slots[id].generation << 32 | id;
}

static struct io_uring_sqe *get_sqe(struct uring_reactor *u)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);

    if (sqe == NULL && io_uring_submit(&u->ring) > 0)
        sqe = io_uring_get_sqe(&u->ring);
    return sqe;
}

/* Every poll that is under way is told to end; its event will bear an old generation. */
static void disarm(struct uring_reactor *u, struct reactor_source *s)
{
    struct io_uring_sqe *sqe = get_sqe(u);

    if (sqe != NULL) {
        io_uring_prep_poll_remove(sqe, tag(u, s->id));
        io_uring_sqe_set_data64(sqe, IGNORED);
    }
    u->slots[s->id].generation++;
    s->armed = 0;
}

static bool grow(struct uring_reactor *u)
{
    uint32_t n = u->n_slots > 0 ? 2 * u->n_slots : 64;
    struct slot *slots = realloc(u->slots, n * sizeof *slots);

    if (slots == NULL)
        return false;
    for (uint32_t i = u->n_slots; i < n; i++)
        slots[i] = (struct slot){.next_free = i + 1};
    u->slots = slots;
    u->free_slot = u->n_slots;
    u->n_slots = n;
    return true;
}

static int ur_add(struct reactor *r, struct reactor_source *s)
{
    struct uring_reactor *u = (struct uring_reactor *)r;

    if (u->free_slot == u->n_slots && !grow(u))
        return -ENOMEM;
    s->id = u->free_slot;
    s->want = s->armed = 0;
    u->free_slot = u->slots[s->id].next_free;
    u->slots[s->id].source = s;
    return 0;
}

static void ur_del(struct reactor *r, struct reactor_source *s)
{
    struct uring_reactor *u = (struct uring_reactor *)r;

    if (s->armed != 0)
        disarm(u, s);
    u->slots[s->id].source = NULL;
    u->slots[s->id].generation++;
    u->slots[s->id].next_free = u->free_slot;
    u->free_slot = s->id;
}

static void ur_want(struct reactor *r, struct reactor_source *s, uint32_t events)
{
    struct uring_reactor *u = (struct uring_reactor *)r;
    struct io_uring_sqe *sqe;

    s->want = events;
    if (s->armed == events)
        return;
    if (s->armed != 0)
        disarm(u, s);
    if (events == 0)
        return;
    sqe = get_sqe(u);
    if (sqe == NULL)
        return;
    io_uring_prep_poll_add(sqe, s->fd, events);
    io_uring_sqe_set_data64(sqe, tag(u, s->id));
    s->armed = events;
}

static int reap(struct uring_reactor *u, struct reactor_source **out, int max)
{
    struct io_uring_cqe *cqe;
    int n = 0;

    while (n < max && io_uring_peek_cqe(&u->ring, &cqe) == 0) {
        uint64_t data = io_uring_cqe_get_data64(cqe);
        uint32_t id = (uint32_t)data;

        io_uring_cqe_seen(&u->ring, cqe);
        if (data == IGNORED || id >= u->n_slots ||
            u->slots[id].generation != (uint32_t)(data >> 32) || u->slots[id].source == NULL)
            continue;
        u->slots[id].source->armed = 0;
        out[n++] = u->slots[id].source;
    }
    return n;
}

static int ur_wait(struct reactor *r, int64_t timeout_ns, struct reactor_source **out, int max)
{
    struct uring_reactor *u = (struct uring_reactor *)r;
    struct io_uring_cqe *cqe;

    if (timeout_ns == 0) {
        (void)io_uring_submit_and_get_events(&u->ring);
    } else if (timeout_ns < 0) {
        (void)io_uring_submit_and_wait(&u->ring, 1);
    } else {
        struct __kernel_timespec ts = {timeout_ns / 1000000000, timeout_ns % 1000000000};

        (void)io_uring_submit_and_wait_timeout(&u->ring, &cqe, 1, &ts, NULL);
    }
    return reap(u, out, max);
}

static void ur_close(struct reactor *r)
{
    struct uring_reactor *u = (struct uring_reactor *)r;

    io_uring_queue_exit(&u->ring);
    free(u->slots);
    free(u);
}

static const struct reactor_ops ops = {
    .name = "io_uring",
    .close = ur_close,
    .add = ur_add,
    .del = ur_del,
    .want = ur_want,
    .wait = ur_wait,
};

int reactor_uring_open(struct reactor **out)
{
    /* The best first; older kernels refuse flags that they do not know. */
    static const unsigned flags[] = {
        IORING_SETUP_CQSIZE | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
        IORING_SETUP_CQSIZE | IORING_SETUP_COOP_TASKRUN, IORING_SETUP_CQSIZE};
    struct uring_reactor *u = calloc(1, sizeof *u);
    int rc = -EINVAL;

    if (u == NULL)
        return -ENOMEM;
    u->base.ops = &ops;
    for (size_t i = 0; rc == -EINVAL && i < sizeof flags / sizeof *flags; i++) {
        struct io_uring_params p = {.flags = flags[i], .cq_entries = CQ_ENTRIES};

        rc = io_uring_queue_init_params(ENTRIES, &u->ring, &p);
        /* Waiting with a time-out, without a helper's event, is of the same kernels. */
        if (rc == 0 && !(p.features & IORING_FEAT_EXT_ARG)) {
            io_uring_queue_exit(&u->ring);
            rc = -ENOSYS;
        }
    }
    if (rc != 0) {
        free(u);
        return rc;
    }
    *out = &u->base;
    return 0;
}
