/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Drives the transport under test: queue calls with their rules checked at each call, tracks
 * that see every element end exactly once, patterns for the bytes.
 */
#include "suite.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#define QUEUE_CALL_MS 2000u /* "never blocks", with room for a busy machine */
#define MAX_COMP      64u

static uint64_t mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

uint64_t fc_random(struct fc_ctx *ctx)
{
    return mix(ctx->rng += 0x9e3779b97f4a7c15u);
}

void fc_fill(void *mem, uint64_t len, uint64_t seed)
{
    uint8_t *p = mem;
    uint64_t i = 0;
    for (; len - i >= 8; i += 8) {
        uint64_t word = mix(seed + i);
        memcpy(p + i, &word, 8);
    }
    uint64_t word = mix(seed + i);
    memcpy(p + i, &word, len - i);
}

int64_t fc_differs(const void *mem, uint64_t len, uint64_t seed)
{
    const uint8_t *p = mem;
    for (uint64_t i = 0; i < len; i += 8) {
        uint64_t word = mix(seed + i);
        uint64_t n = len - i < 8 ? len - i : 8;
        if (!memcmp(p + i, &word, n))
            continue;
        for (uint64_t j = 0; j < n; j++)
            if (p[i + j] != ((const uint8_t *)&word)[j])
                return (int64_t)(i + j);
    }
    return -1;
}

void fc_pause(unsigned *idle)
{
    if (++*idle < 1000)
        sched_yield();
    else
        nanosleep(&(struct timespec){.tv_nsec = 30000}, NULL);
}

bool fc_can(const struct fc_ctx *ctx, enum ferry_op op)
{
    return ctx->caps.flags & (op == FERRY_OP_READ ? FERRY_CAP_READ : FERRY_CAP_WRITE);
}

void fc_queue_open(struct fc_ctx *ctx, uint32_t depth, struct fc_queue *queue_out)
{
    struct ferry_queue_attr attr = {.size = sizeof(attr), .depth = depth};
    *queue_out = (struct fc_queue){.ctx = ctx};
    FC_OK(ctx, queue_open, ctx->self.tp, &attr, &queue_out->q);
}

void fc_queue_close(struct fc_queue *queue)
{
    FC_VOID(queue->ctx, queue_close, queue->q);
    queue->q = NULL;
}

struct ferry_peer *fc_peer_open(struct fc_target *t)
{
    struct fc_ctx *ctx = t->ctx;
    struct ferry_peer *peer = NULL;
    struct ferry_kvs attrs = fc_kvs_view(&t->attrs);
    FC_OK(ctx, peer_open, ctx->self.tp, t->node->name, &attrs, &peer);
    return peer;
}

void fc_attach(struct fc_ctx *ctx, struct ferry_peer *peer, struct fc_queue *queue)
{
    FC_OK(ctx, peer_attach, peer, queue->q, FC_ATTACH_MS);
}

struct ferry_mr *fc_mem_reg(struct fc_ctx *ctx, void *mem, uint64_t len, uint32_t access)
{
    struct ferry_mr *mr = NULL;
    struct ferry_mem_desc desc = {.size = sizeof(desc),
                                  .kind = FERRY_MEM_HOST,
                                  .addr = mem,
                                  .len = len,
                                  .device = -1,
                                  .dmabuf_fd = -1,
                                  .access = access};
    FC_OK(ctx, mem_reg, ctx->self.tp, &desc, 1, &mr);
    return mr;
}

struct ferry_rmem *fc_rmem_open(struct fc_ctx *ctx, struct ferry_peer *peer,
                                const struct fc_mem *mem)
{
    struct ferry_rmem *rmem = NULL;
    struct ferry_kvs attrs = fc_kvs_view(&mem->attrs);
    FC_OK(ctx, rmem_open, peer, mem->addr, mem->len, &attrs, &rmem);
    return rmem;
}

void *fc_map(struct fc_ctx *ctx, uint64_t len)
{
    void *mem = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    FC_CHECK(ctx, mem != MAP_FAILED, "memory", "%s", strerror(errno));
    return mem;
}

void fc_track_init(struct fc_ctx *ctx, struct fc_track *track, const struct ferry_xfer *v,
                   uint32_t n)
{
    *track = (struct fc_track){
        .cookie = atomic_fetch_add(&ctx->next_cookie, 1) * UINT64_C(0x100000001) + 77,
        .n = n,
        .v = v,
        .state = calloc(n ? n : 1, 1),
        .status = calloc(n ? n : 1, sizeof(ferry_status))};
}

void fc_track_free(struct fc_track *track)
{
    free(track->state);
    free(track->status);
}

void fc_track_add(struct fc_queue *queue, struct fc_track *track)
{
    track->next = queue->tracks;
    queue->tracks = track;
}

void fc_track_remove(struct fc_queue *queue, struct fc_track *track)
{
    for (struct fc_track **link = &queue->tracks; *link; link = &(*link)->next) {
        if (*link == track) {
            *link = track->next;
            return;
        }
    }
}

static uint64_t enter(struct fc_ctx *ctx, const char *name)
{
    fc_stage(ctx, name);
    fc_in_queue_call = true;
    return fc_now_ms();
}

static void leave(struct fc_ctx *ctx, const char *name, uint64_t begin)
{
    uint64_t ms = fc_now_ms() - begin;
    fc_in_queue_call = false;
    fc_stage(ctx, NULL);
    FC_CHECK(ctx, ms <= FC_SLOW(QUEUE_CALL_MS), "queue calls never to block", "%s took %llu ms",
             name, (unsigned long long)ms);
}

ferry_status fc_submit(struct fc_queue *queue, enum ferry_op op, struct ferry_peer *peer,
                       struct fc_track *track, uint32_t from, uint32_t n,
                       uint32_t *accepted_out)
{
    struct fc_ctx *ctx = queue->ctx;
    /* a copy that is spoilt afterwards: v is borrowed only until submit returns */
    struct ferry_xfer *v = malloc((n ? n : 1) * sizeof(*v));
    FC_CHECK(ctx, v, "memory", "none");
    memcpy(v, track->v + from, n * sizeof(*v));
    struct ferry_list list = {.size = sizeof(list),
                              .op = op,
                              .peer = peer,
                              .v = v,
                              .n = n,
                              .first = from,
                              .cookie = track->cookie};
    uint32_t accepted = UINT32_MAX;
    uint64_t begin = enter(ctx, "submit");
    ferry_status status = ctx->ops.submit(queue->q, &list, &accepted);
    leave(ctx, "submit", begin);
    memset(v, 0x5a, n * sizeof(*v));
    memset(&list, 0x5a, sizeof(list));
    free(v);
    FC_CHECK(ctx, accepted <= n, "submit always to write *accepted_out, 0..n",
             "%u of %u with %s", accepted, n, fc_status(status));
    FC_CHECK(ctx, (status == FERRY_OK) == (accepted == n),
             "FERRY_OK where all were accepted "
             "and only there",
             "%s with %u of %u accepted", fc_status(status), accepted, n);
    for (uint32_t i = from; i < from + accepted; i++) {
        FC_CHECK(ctx, track->state[i] == FC_NEW, "the suite to submit each element once",
                 "element %u again", i);
        track->state[i] = FC_ACCEPTED;
    }
    track->accepted += accepted;
    *accepted_out = accepted;
    return status;
}

static void take(struct fc_queue *queue, const struct ferry_comp *c)
{
    struct fc_ctx *ctx = queue->ctx;
    struct fc_track *track = queue->tracks;
    while (track && track->cookie != c->cookie)
        track = track->next;
    FC_CHECK(ctx, track, "completions of lists that are in flight only",
             "cookie 0x%llx, first %u, n %u, %s", (unsigned long long)c->cookie, c->first, c->n,
             fc_status(c->status));
    FC_CHECK(ctx, c->n && c->first < track->n && c->n <= track->n - c->first,
             "completion ranges inside the list", "first %u, n %u of %u elements", c->first,
             c->n, track->n);
    FC_CHECK(ctx, c->status != FERRY_EAGAIN && c->status <= 0,
             "a final status in each completion", "%s", fc_status(c->status));
    uint64_t bytes = 0;
    for (uint32_t i = c->first; i < c->first + c->n; i++) {
        FC_CHECK(ctx, track->state[i] != FC_NEW, "completions of accepted elements only",
                 "element %u of %u completed and was never accepted", i, track->n);
        FC_CHECK(ctx, track->state[i] != FC_ENDED, "each accepted element to complete once",
                 "element %u of %u completed a second time (%s)", i, track->n,
                 fc_status(c->status));
        bytes += track->v[i].len;
        track->state[i] = FC_ENDED;
        track->status[i] = c->status;
        track->ended++;
        if (track->on_end)
            track->on_end(track, i);
    }
    FC_CHECK(ctx, c->status == FERRY_OK ? c->bytes == bytes : c->bytes <= bytes,
             "a completion's bytes to be those its elements moved",
             "%llu of %llu bytes with %s", (unsigned long long)c->bytes,
             (unsigned long long)bytes, fc_status(c->status));
}

uint32_t fc_poll(struct fc_queue *queue)
{
    struct fc_ctx *ctx = queue->ctx;
    struct ferry_comp comp[MAX_COMP + 1];
    uint32_t max = queue->max ? queue->max : MAX_COMP;
    uint32_t ended = 0;

    memset(&comp[max], 0xc5, sizeof(comp[max]));
    uint64_t begin = enter(ctx, "poll");
    int32_t n = ctx->ops.poll(queue->q, comp, max);
    leave(ctx, "poll", begin);
    FC_CHECK(ctx, n >= 0, "a queue that works", "poll returned %s", fc_status(n));
    FC_CHECK(ctx, (uint32_t)n <= max, "poll to return at most max", "%d of %u", n, max);
    for (size_t i = 0; i < sizeof(comp[max]); i++)
        FC_CHECK(ctx, ((unsigned char *)&comp[max])[i] == 0xc5,
                 "poll to write at most max completions", "more written (max %u)", max);
    for (int32_t i = 0; i < n; i++) {
        take(queue, &comp[i]);
        ended += comp[i].n;
    }
    return ended;
}

ferry_status fc_cancel(struct fc_queue *queue, uint64_t cookie)
{
    uint64_t begin = enter(queue->ctx, "cancel");
    ferry_status status = queue->ctx->ops.cancel(queue->q, cookie);
    leave(queue->ctx, "cancel", begin);
    return status;
}

ferry_status fc_arm(struct fc_queue *queue)
{
    uint64_t begin = enter(queue->ctx, "queue_arm");
    ferry_status status = queue->ctx->ops.queue_arm(queue->q);
    leave(queue->ctx, "queue_arm", begin);
    return status;
}

bool fc_finish(struct fc_queue *queue, struct fc_track *track, unsigned timeout_ms)
{
    uint64_t end = fc_now_ms() + timeout_ms;
    unsigned idle = 0;
    while (track->ended < track->accepted) {
        if (fc_poll(queue)) {
            idle = 0;
        } else {
            if (fc_now_ms() > end)
                return false;
            fc_pause(&idle);
        }
    }
    return true;
}

void fc_transfer_any(struct fc_queue *queue, enum ferry_op op, struct ferry_peer *peer,
                     const struct ferry_xfer *v, uint32_t n, ferry_status *status)
{
    struct fc_ctx *ctx = queue->ctx;
    struct fc_track track;
    fc_track_init(ctx, &track, v, n);
    fc_track_add(queue, &track);
    uint64_t end = fc_now_ms() + FC_WAIT_MS;
    unsigned idle = 0;
    for (uint32_t from = 0; from < n;) {
        uint32_t accepted;
        ferry_status s = fc_submit(queue, op, peer, &track, from, n - from, &accepted);
        from += accepted;
        if (s == FERRY_EAGAIN) {
            if (fc_poll(queue) || accepted) {
                idle = 0;
                end = fc_now_ms() + FC_WAIT_MS;
            } else {
                FC_CHECK(ctx, fc_now_ms() < end,
                         "FERRY_EAGAIN to pass when completions are "
                         "reaped",
                         "no element accepted within %u ms, %u in flight", FC_WAIT_MS,
                         track.accepted - track.ended);
                fc_pause(&idle);
            }
        } else if (s != FERRY_OK) {
            track.status[from++] = s;
        }
    }
    FC_CHECK(ctx, fc_finish(queue, &track, FC_WAIT_MS), "every accepted element to complete",
             "%u of %u did not within %u ms", track.accepted - track.ended, track.accepted,
             FC_WAIT_MS);
    if (status)
        memcpy(status, track.status, n * sizeof(*status));
    fc_track_remove(queue, &track);
    fc_track_free(&track);
}

void fc_transfer(struct fc_queue *queue, enum ferry_op op, struct ferry_peer *peer,
                 const struct ferry_xfer *v, uint32_t n)
{
    ferry_status *status = calloc(n ? n : 1, sizeof(*status));
    FC_CHECK(queue->ctx, status, "memory", "none");
    fc_transfer_any(queue, op, peer, v, n, status);
    for (uint32_t i = 0; i < n; i++)
        FC_CHECK(queue->ctx, status[i] == FERRY_OK, "FERRY_OK for a good element",
                 "%s for element %u of %u (%s of %llu bytes)", fc_status(status[i]), i, n,
                 op == FERRY_OP_READ ? "READ" : "WRITE", (unsigned long long)v[i].len);
    free(status);
}

void fc_scene_open_unattached(struct fc_ctx *ctx, uint64_t len, uint32_t depth,
                              struct fc_scene *s)
{
    const uint32_t all =
        FERRY_ACCESS_LOCAL_WRITE | FERRY_ACCESS_REMOTE_READ | FERRY_ACCESS_REMOTE_WRITE;
    s->t = &ctx->target[0];
    s->len = len;
    fc_target_open(s->t);
    fc_load(ctx);
    fc_open(ctx, &ctx->self);
    fc_queue_open(ctx, depth, &s->q);
    s->peer = fc_peer_open(s->t);
    s->local = fc_map(ctx, len);
    s->mr = fc_mem_reg(ctx, s->local, len, all);
    fc_target_reg(s->t, len, all, &s->mem);
    s->rmem = fc_rmem_open(ctx, s->peer, &s->mem);
}

void fc_scene_open(struct fc_ctx *ctx, uint64_t len, uint32_t depth, struct fc_scene *s)
{
    fc_scene_open_unattached(ctx, len, depth, s);
    fc_attach(ctx, s->peer, &s->q);
}

/*
 * The target learns of a READ's end after the initiator, or never: it puts its region back when
 * its own thread next runs, and is given the time for that.
 */
static void check_regions_put(struct fc_ctx *ctx, struct fc_target *t)
{
    const uint64_t end = fc_now_ms() + FC_WAIT_MS;
    struct fc_counts counts;
    for (;;) {
        fc_target_counts(t, &counts);
        if (!counts.held || fc_now_ms() > end)
            break;
        fc_sleep_ms(1);
    }
    FC_CHECK(ctx, counts.held == 0, "one region_put for each region_get",
             "%u regions held after every transfer has ended", counts.held);
}

/* What is NULL was closed by the point itself. */
void fc_scene_close(struct fc_ctx *ctx, struct fc_scene *s)
{
    if (s->rmem)
        FC_VOID(ctx, rmem_close, s->rmem);
    if (s->peer)
        FC_VOID(ctx, peer_close, s->peer);
    if (s->q.q)
        fc_queue_close(&s->q);
    if (s->mr) {
        FC_VOID(ctx, mem_dereg, ctx->self.tp, &s->mr, 1);
        munmap(s->local, s->len);
    }
    fc_close(ctx, &ctx->self);
    if (!ctx->two || s->t->pid) {
        check_regions_put(ctx, s->t);
        fc_target_close(s->t);
    }
    fc_kvs_clear(&s->mem.attrs);
}

struct ferry_xfer fc_xfer(const struct fc_scene *s, uint64_t local_off, uint64_t remote_off,
                          uint64_t len)
{
    return (struct ferry_xfer){.mr = s->mr,
                               .rmem = s->rmem,
                               .local = s->local + local_off,
                               .remote_off = remote_off,
                               .len = len};
}
