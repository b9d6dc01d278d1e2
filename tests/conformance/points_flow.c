/* SPDX-License-Identifier: Apache-2.0 */
/* Points 7, 8, 9, 11, 19: threads, wake-ups, and what becomes of transfers that are cut short.
 */
#include "points.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/mman.h>

#define KIB UINT64_C(1024)
#define MIB (UINT64_C(1) << 20)
#define ALL (FERRY_ACCESS_LOCAL_WRITE | FERRY_ACCESS_REMOTE_READ | FERRY_ACCESS_REMOTE_WRITE)

static const enum ferry_op both[] = {FERRY_OP_WRITE, FERRY_OP_READ};

/* --- 7 ------------------------------------------------------------------------ */

struct worker {
    struct fc_ctx *ctx;
    struct fc_scene *s;
    struct fc_queue q;
    unsigned number;
    atomic_bool *done;
};

static void *two_queues_main(void *arg)
{
    enum { N = 32, CELL = 8192 };
    struct worker *w = arg;
    struct fc_ctx *ctx = w->ctx;
    const uint64_t base = (uint64_t)w->number * N * CELL;
    struct ferry_xfer v[N];
    for (unsigned round = 0; round < FC_ROUNDS(300u); round++) {
        enum ferry_op op = both[round % 2];
        if (!fc_can(ctx, op))
            continue;
        uint8_t *src = (op == FERRY_OP_READ ? w->s->mem.view : w->s->local) + base;
        uint8_t *dst = (op == FERRY_OP_READ ? w->s->local : w->s->mem.view) + base;
        fc_fill(src, N * CELL, round * 2654435761u + w->number);
        for (uint32_t i = 0; i < N; i++) {
            uint64_t at = base + (uint64_t)i * CELL;
            v[i] = fc_xfer(w->s, at, at, (round * 37u + i * 251u) % CELL + 1);
        }
        fc_transfer(&w->q, op, w->s->peer, v, N);
        for (uint32_t i = 0; i < N; i++)
            FC_CHECK(ctx, !memcmp(src + (uint64_t)i * CELL, dst + (uint64_t)i * CELL, v[i].len),
                     "equal bytes with two queues at work", "queue %u: element %u differs",
                     w->number, i);
    }
    return NULL;
}

/* Control calls from a third thread, beside the queues. */
static void *control_main(void *arg)
{
    struct worker *w = arg;
    struct fc_ctx *ctx = w->ctx;
    uint8_t *mem = fc_map(ctx, 65536);
    while (!atomic_load(w->done)) {
        struct ferry_mr *mr = fc_mem_reg(ctx, mem, 65536, ALL);
        struct ferry_rmem *rmem = fc_rmem_open(ctx, w->s->peer, &w->s->mem);
        fc_attach(ctx, w->s->peer, &w->s->q);
        FC_VOID(ctx, rmem_close, rmem);
        FC_VOID(ctx, mem_dereg, ctx->self.tp, &mr, 1);
        fc_sleep_ms(1);
    }
    munmap(mem, 65536);
    return NULL;
}

void fc_point_two_queues(struct fc_ctx *ctx)
{
    struct fc_scene s;
    atomic_bool done = false;
    pthread_t thread, control;
    fc_scene_open(ctx, MIB, 64, &s);
    if (ctx->caps.max_queues < 2)
        fc_not_applicable(ctx, "caps.max_queues is %u", ctx->caps.max_queues);
    struct worker a = {.ctx = ctx, .s = &s, .q = s.q, .number = 0, .done = &done};
    struct worker b = {.ctx = ctx, .s = &s, .number = 1, .done = &done};
    fc_queue_open(ctx, 64, &b.q);
    fc_attach(ctx, s.peer, &b.q);
    pthread_create(&control, NULL, control_main, &a);
    pthread_create(&thread, NULL, two_queues_main, &b);
    two_queues_main(&a);
    pthread_join(thread, NULL);
    atomic_store(&done, true);
    pthread_join(control, NULL);
    fc_queue_close(&b.q);
    fc_scene_close(ctx, &s);
}

/* --- 8 ------------------------------------------------------------------------ */

/* Waits as a sleeping caller does: arms, sleeps on the descriptor, polls. */
static void sleep_until_ended(struct fc_ctx *ctx, struct fc_queue *q, int fd,
                              struct fc_track *track, unsigned round, unsigned *slept)
{
    bool poll_first = round % 2; /* else completions may be waiting when it arms */
    while (track->ended < track->n) {
        if (poll_first && fc_poll(q))
            continue;
        poll_first = true;
        ferry_status status = fc_arm(q);
        if (status == FERRY_EAGAIN)
            continue;
        FC_CHECK(ctx, status == FERRY_OK, "queue_arm to return FERRY_OK or FERRY_EAGAIN", "%s",
                 fc_status(status));
        struct pollfd p = {.fd = fd, .events = POLLIN};
        int rc;
        do
            rc = poll(&p, 1, (int)FC_SLOW(5000));
        while (rc < 0 && errno == EINTR);
        ++*slept;
        FC_CHECK(ctx, rc == 1, "an armed descriptor to become readable at the next completion",
                 "round %u: nothing for %u ms, %s", round, FC_SLOW(5000),
                 fc_poll(q) ? "though a completion was waiting" : "and nothing to poll");
        FC_CHECK(ctx, !(p.revents & POLLNVAL), "a descriptor that stays open", "POLLNVAL");
    }
}

void fc_point_arm(struct fc_ctx *ctx)
{
    const uint64_t most = 16 * MIB; /* does not go without a poll in between */
    struct fc_scene s;
    int fd = -1;
    unsigned slept = 0, round = 0;
    fc_scene_open(ctx, most, 16, &s);
    const uint64_t long_len = ctx->caps.max_xfer_len < most ? ctx->caps.max_xfer_len : most;
    if (!(ctx->caps.flags & FERRY_CAP_EVENT_FD))
        fc_not_applicable(ctx, "caps deny FERRY_CAP_EVENT_FD");
    FC_OK(ctx, queue_fd, s.q.q, &fd);
    const uint64_t end = fc_now_ms() + 8000; /* enough on a slow machine */
    for (; round < FC_ROUNDS(100000u) && fc_now_ms() < end; round++) {
        enum ferry_op op = fc_can(ctx, both[round % 2]) ? both[round % 2] : both[!(round % 2)];
        struct ferry_xfer v[3] = {fc_xfer(&s, 0, 0, 64), fc_xfer(&s, 4096, 4096, 64),
                                  fc_xfer(&s, 8192, 8192, 4096)};
        struct fc_track track;
        uint32_t accepted;
        bool is_long = round == 0 || round == 3; /* of those armed first: either direction */
        if (is_long)
            v[0] = fc_xfer(&s, 0, 0, long_len);
        fc_track_init(ctx, &track, v, round % 7 || is_long ? 1 : 3);
        fc_track_add(&s.q, &track);
        if (round % 3 == 0) { /* armed before there is anything */
            ferry_status status = fc_arm(&s.q);
            FC_CHECK(ctx, status == FERRY_OK || status == FERRY_EAGAIN,
                     "queue_arm to return FERRY_OK or FERRY_EAGAIN", "%s", fc_status(status));
            if (status == FERRY_OK) {
                struct pollfd p = {.fd = fd, .events = POLLIN};
                status = fc_submit(&s.q, op, s.peer, &track, 0, track.n, &accepted);
                FC_CHECK(ctx, status == FERRY_OK, "FERRY_OK", "submit: %s", fc_status(status));
                FC_CHECK(ctx, poll(&p, 1, (int)FC_SLOW(5000)) == 1,
                         "an armed descriptor to become readable at the next completion",
                         "round %u: nothing for %u ms, armed before submit of %llu bytes",
                         round, FC_SLOW(5000), (unsigned long long)v[0].len);
                slept++;
            }
        }
        if (!track.accepted) {
            ferry_status status = fc_submit(&s.q, op, s.peer, &track, 0, track.n, &accepted);
            FC_CHECK(ctx, status == FERRY_OK, "FERRY_OK", "submit: %s", fc_status(status));
        }
        sleep_until_ended(ctx, &s.q, fd, &track, round, &slept);
        fc_track_remove(&s.q, &track);
        fc_track_free(&track);
    }
    fc_scene_close(ctx, &s);
    fc_note(ctx, "%u rounds, %u sleeps", round, slept);
}

/* --- 9 and 11: cut short ------------------------------------------------------- */

/*
 * Watches the memory of elements from their completion on: the local side is overwritten at
 * once, and what a READ or a WRITE brought is remembered; nothing of it may change any more.
 */
struct quiet {
    struct fc_ctx *ctx;
    struct fc_scene *s;
    enum ferry_op op;
    uint8_t *shadow; /* of the target's memory, WRITE only */
    unsigned ended_ok, cut;
};

static uint64_t local_off(const struct quiet *quiet, const struct ferry_xfer *x)
{
    return (uint64_t)((uint8_t *)x->local - quiet->s->local);
}

static void quiet_on_end(struct fc_track *track, uint32_t i)
{
    struct quiet *quiet = track->arg;
    const struct ferry_xfer *x = &track->v[i];
    uint8_t *remote = quiet->s->mem.view + x->remote_off;
    if (track->status[i] == FERRY_OK) {
        quiet->ended_ok++;
        FC_CHECK(quiet->ctx, !memcmp(x->local, remote, x->len),
                 "equal bytes as soon as the completion says FERRY_OK", "element %u differs",
                 i);
    } else {
        quiet->cut++;
    }
    if (quiet->op == FERRY_OP_WRITE)
        memcpy(quiet->shadow + x->remote_off, remote, x->len);
    memset(x->local, 0x77, x->len); /* free to reuse at once */
}

static void quiet_check(struct quiet *quiet, const struct fc_track *track)
{
    for (uint32_t i = 0; i < track->n; i++) {
        const struct ferry_xfer *x = &track->v[i];
        if (track->state[i] != FC_ENDED)
            continue;
        for (uint64_t j = 0; j < x->len; j++)
            FC_CHECK(quiet->ctx, ((uint8_t *)x->local)[j] == 0x77,
                     "local memory to be untouched after an element's completion",
                     "element %u (%s): byte %llu changed", i, fc_status(track->status[i]),
                     (unsigned long long)j);
        if (quiet->op == FERRY_OP_WRITE &&
            ferry_status_scope(track->status[i]) < FERRY_SCOPE_PEER)
            FC_CHECK(quiet->ctx,
                     !memcmp(quiet->shadow + x->remote_off, quiet->s->mem.view + x->remote_off,
                             x->len),
                     "no byte to land at the target after an element's completion",
                     "element %u (%s) changed later at offset %llu", i,
                     fc_status(track->status[i]), (unsigned long long)local_off(quiet, x));
    }
}

enum { CUT_N = 32, SIDE_N = 8 };
#define CUT_LEN (512 * KIB)

/* Submits as many as there is room for. */
static void submit_some(struct fc_queue *q, enum ferry_op op, struct ferry_peer *peer,
                        struct fc_track *track)
{
    uint32_t accepted;
    ferry_status status = fc_submit(q, op, peer, track, 0, track->n, &accepted);
    FC_CHECK(q->ctx, status == FERRY_OK || status == FERRY_EAGAIN,
             "FERRY_OK or FERRY_EAGAIN for good elements", "%s", fc_status(status));
}

static void cut_list(struct fc_scene *s, struct quiet *quiet, enum ferry_op op,
                     struct ferry_xfer *v, struct fc_track *track)
{
    quiet->op = op;
    for (uint32_t i = 0; i < CUT_N; i++)
        v[i] = fc_xfer(s, i * CUT_LEN, i * CUT_LEN, CUT_LEN - i);
    fc_track_init(quiet->ctx, track, v, CUT_N);
    track->on_end = quiet_on_end;
    track->arg = quiet;
    fc_track_add(&s->q, track);
}

void fc_point_cancel(struct fc_ctx *ctx)
{
    struct fc_scene s;
    fc_scene_open(ctx, CUT_N * CUT_LEN + MIB, 128, &s);
    if (!(ctx->caps.flags & FERRY_CAP_CANCEL))
        fc_not_applicable(ctx, "caps deny FERRY_CAP_CANCEL");
    struct quiet quiet = {.ctx = ctx, .s = &s, .shadow = fc_map(ctx, s.len)};
    ferry_status status = fc_cancel(&s.q, 12345);
    FC_CHECK(ctx, status == FERRY_OK || status == FERRY_ENOENT,
             "cancel of nothing to return FERRY_OK or FERRY_ENOENT", "%s", fc_status(status));
    const unsigned rounds = FC_SANITIZED ? 6 : 16;
    for (unsigned round = 0; round < rounds; round++) {
        enum ferry_op op = both[round % 2];
        struct ferry_xfer v[CUT_N], side[SIDE_N];
        struct fc_track track, other;
        if (!fc_can(ctx, op))
            continue;
        fc_fill(op == FERRY_OP_READ ? s.mem.view : s.local, s.len, fc_random(ctx));
        cut_list(&s, &quiet, op, v, &track);
        for (uint32_t i = 0; i < SIDE_N; i++)
            side[i] =
                fc_xfer(&s, CUT_N * CUT_LEN + i * 65536, CUT_N * CUT_LEN + i * 65536, 65536);
        fc_track_init(ctx, &other, side, SIDE_N);
        fc_track_add(&s.q, &other);
        submit_some(&s.q, op, s.peer, &track);
        submit_some(&s.q, op, s.peer, &other);
        for (unsigned i = 0; i < round / 2 % 4; i++)
            fc_poll(&s.q);
        status = fc_cancel(&s.q, track.cookie);
        FC_CHECK(ctx,
                 status == FERRY_OK ||
                     (status == FERRY_ENOENT && track.ended == track.accepted),
                 "cancel to return FERRY_OK", "%s", fc_status(status));
        FC_CHECK(ctx, fc_finish(&s.q, &track, FC_WAIT_MS),
                 "every cancelled element to complete soon", "%u of %u did not within %u ms",
                 track.accepted - track.ended, track.accepted, FC_WAIT_MS);
        bool lost = false;
        for (uint32_t i = 0; i < track.n; i++) {
            status = track.status[i];
            FC_CHECK(ctx,
                     status == FERRY_OK || status == FERRY_ECANCELED ||
                         status == FERRY_EUNREACH,
                     "FERRY_OK, FERRY_ECANCELED or FERRY_EUNREACH", "%s for element %u",
                     fc_status(status), i);
            lost |= status == FERRY_EUNREACH;
        }
        FC_CHECK(ctx, fc_finish(&s.q, &other, FC_WAIT_MS),
                 "elements of other lists to complete", "%u of %u did not",
                 other.accepted - other.ended, other.accepted);
        for (uint32_t i = 0; i < other.n && !lost; i++)
            FC_CHECK(ctx,
                     other.state[i] == FC_NEW ||
                         (other.status[i] == FERRY_OK &&
                          !memcmp(side[i].local, s.mem.view + side[i].remote_off, side[i].len)),
                     "elements of other lists to end well, with their bytes in place",
                     "%s for element %u of %u", fc_status(other.status[i]), i, other.n);
        if (!lost) { /* peer and queue still work */
            struct ferry_xfer x = fc_xfer(&s, CUT_N * CUT_LEN, CUT_N * CUT_LEN, 65536);
            fc_transfer(&s.q, op, s.peer, &x, 1);
        }
        fc_sleep_ms(10);
        quiet_check(&quiet, &track);
        fc_track_remove(&s.q, &track);
        fc_track_remove(&s.q, &other);
        fc_track_free(&track);
        fc_track_free(&other);
        FC_CHECK(ctx, !lost, "a peer that answers to stay reachable after cancel",
                 "FERRY_EUNREACH");
    }
    FC_CHECK(ctx, quiet.cut, "cancel to cut at least one of many long transfers short",
             "all %u ended with FERRY_OK", quiet.ended_ok);
    munmap(quiet.shadow, s.len);
    fc_scene_close(ctx, &s);
    fc_note(ctx, "%u cut short, %u were done before", quiet.cut, quiet.ended_ok);
}

struct closer {
    struct fc_ctx *ctx;
    struct ferry_peer *peer;
    atomic_bool done;
};

static void *closer_main(void *arg)
{
    struct closer *closer = arg;
    FC_VOID(closer->ctx, peer_close, closer->peer);
    atomic_store(&closer->done, true);
    return NULL;
}

/* peer_close from this thread, or from another beside this queue's poll. */
static void close_peer(struct fc_ctx *ctx, struct fc_scene *s, bool beside)
{
    struct closer closer = {.ctx = ctx, .peer = s->peer};
    if (!beside) {
        closer_main(&closer);
    } else {
        pthread_t thread;
        pthread_create(&thread, NULL, closer_main, &closer);
        while (!atomic_load(&closer.done))
            fc_poll(&s->q);
        pthread_join(thread, NULL);
    }
    s->peer = NULL;
    s->rmem = NULL;
}

void fc_point_close_in_flight(struct fc_ctx *ctx)
{
    struct fc_scene s;
    fc_scene_open(ctx, CUT_N * CUT_LEN, 128, &s);
    struct quiet quiet = {.ctx = ctx, .s = &s, .shadow = fc_map(ctx, s.len)};
    const unsigned rounds = FC_SANITIZED ? 12 : 24;
    for (unsigned round = 0; round < rounds; round++) {
        enum ferry_op op = both[round / 3 % 2];
        unsigned how = round % 3; /* peer_close, peer_close beside poll, queue_close */
        struct ferry_xfer v[CUT_N];
        struct fc_track track;
        if (!fc_can(ctx, op))
            continue;
        fc_fill(op == FERRY_OP_READ ? s.mem.view : s.local, s.len, fc_random(ctx));
        cut_list(&s, &quiet, op, v, &track);
        submit_some(&s.q, op, s.peer, &track);
        for (unsigned i = 0; i < round / 6 % 3; i++)
            fc_poll(&s.q);
        if (how == 2) {
            fc_queue_close(&s.q);
        } else {
            close_peer(ctx, &s, how == 1);
            if (op == FERRY_OP_READ) /* before the completions are reaped */
                memset(s.local, 0x77, s.len);
            track.on_end = op == FERRY_OP_READ ? NULL : quiet_on_end;
            FC_CHECK(ctx, fc_finish(&s.q, &track, FC_WAIT_MS),
                     "unfinished elements to complete at the next poll after peer_close",
                     "%u of %u did not", track.accepted - track.ended, track.accepted);
            for (uint32_t i = 0; i < track.n; i++)
                FC_CHECK(ctx, track.status[i] == FERRY_OK || track.status[i] == FERRY_ECANCELED,
                         "FERRY_ECANCELED for what peer_close cut short", "%s for element %u",
                         fc_status(track.status[i]), i);
            fc_sleep_ms(5);
            quiet_check(&quiet, &track);
            fc_track_remove(&s.q, &track);
        }
        /* a touch from now on is a crash */
        FC_VOID(ctx, mem_dereg, ctx->self.tp, &s.mr, 1);
        munmap(s.local, s.len);
        fc_sleep_ms(5);
        if (how == 2) {
            fc_queue_open(ctx, 128, &s.q);
        } else {
            s.peer = fc_peer_open(s.t);
            s.rmem = fc_rmem_open(ctx, s.peer, &s.mem);
        }
        fc_attach(ctx, s.peer, &s.q);
        s.local = fc_map(ctx, s.len);
        s.mr = fc_mem_reg(ctx, s.local, s.len, ALL);
        struct ferry_xfer x = fc_xfer(&s, 0, 0, 300000);
        fc_transfer(&s.q, op, s.peer, &x, 1);
        fc_track_free(&track);
    }
    munmap(quiet.shadow, s.len);
    fc_scene_close(ctx, &s);
}

/* --- 19 ----------------------------------------------------------------------- */

void fc_point_allocations(struct fc_ctx *ctx)
{
    enum { N = 48, HOUSEKEEPING_PER_S = 100 };
    static const uint64_t lens[] = {64, 4096, 100000};
    uint64_t begin = 0;
    struct fc_scene s;
    struct ferry_xfer v[N];
    if (!fc_allocations_watched)
        fc_not_applicable(ctx, "this build cannot watch the allocator");
    fc_scene_open(ctx, N * 100000, 64, &s);
    for (unsigned round = 0; round < 200; round++) {
        enum ferry_op op = both[round % 2];
        if (!fc_can(ctx, op))
            continue;
        for (uint32_t i = 0; i < N; i++)
            v[i] = fc_xfer(&s, i * 100000u, i * 100000u, lens[(round + i) % 3]);
        if (round == 20) { /* what is made at first use was made */
            fc_allocations = 0;
            begin = fc_now_ms();
        }
        if (round % 5 == 0 && ctx->caps.flags & FERRY_CAP_CANCEL)
            fc_cancel(&s.q, 12345);
        if (round % 5 == 1 && ctx->caps.flags & FERRY_CAP_EVENT_FD)
            fc_arm(&s.q);
        fc_transfer(&s.q, op, s.peer, v, N);
    }
    const char *why = ctx->opt->allocates;
    uint64_t ms = fc_now_ms() - begin;
    uint64_t allowed = why ? (ms + 10) * HOUSEKEEPING_PER_S / 1000 : 0;
    FC_CHECK(ctx, fc_allocations <= allowed,
             "submit, poll, cancel and queue_arm to allocate nothing",
             "%u allocations in 180 lists of %d, %llu ms", fc_allocations, N,
             (unsigned long long)ms);
    if (fc_allocations)
        fc_note(ctx, "%u allocations in %llu ms, 180 lists of %d: %s", fc_allocations,
                (unsigned long long)ms, N, why);
    fc_scene_close(ctx, &s);
}
