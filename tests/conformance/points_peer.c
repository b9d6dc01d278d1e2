/* SPDX-License-Identifier: Apache-2.0 */
/* Points 10, 16, 18: peers that are killed or stopped, and a long mixture of everything. */
#include "points.h"

#include <stdlib.h>
#include <sys/mman.h>

#define MIB (UINT64_C(1) << 20)
#define ALL (FERRY_ACCESS_LOCAL_WRITE | FERRY_ACCESS_REMOTE_READ | FERRY_ACCESS_REMOTE_WRITE)

static const enum ferry_op both[] = {FERRY_OP_WRITE, FERRY_OP_READ};

static void scribble_on_end(struct fc_track *track, uint32_t i)
{
    memset(track->v[i].local, 0x77, track->v[i].len);
}

static void untouched(struct fc_ctx *ctx, const struct fc_track *track)
{
    for (uint32_t i = 0; i < track->n; i++) {
        const uint8_t *p = track->v[i].local;
        for (uint64_t j = 0; track->state[i] == FC_ENDED && j < track->v[i].len; j++)
            FC_CHECK(ctx, p[j] == 0x77,
                     "local memory to be untouched after an element's completion",
                     "element %u (%s): byte %llu changed", i, fc_status(track->status[i]),
                     (unsigned long long)j);
    }
}

/* Every element has ended with FERRY_OK or with peer scope; returns how many with the latter.
 */
static unsigned lost(struct fc_ctx *ctx, const struct fc_track *track)
{
    unsigned n = 0;
    for (uint32_t i = 0; i < track->n; i++) {
        if (track->state[i] == FC_NEW)
            continue;
        ferry_status status = track->status[i];
        FC_CHECK(ctx, status == FERRY_OK || ferry_status_scope(status) == FERRY_SCOPE_PEER,
                 "a status with peer scope (FERRY_EUNREACH ... FERRY_ETIMEDOUT)",
                 "%s for element %u of a killed peer", fc_status(status), i);
        n += status != FERRY_OK;
    }
    return n;
}

void fc_point_killed(struct fc_ctx *ctx)
{
    enum { N = 24, SMALL = 32768 };
    struct fc_scene s; /* target 0: the one that is killed */
    struct fc_target *bystander = &ctx->target[1], *again = &ctx->target[2];
    struct fc_mem beside, fresh;
    fc_scene_open(ctx, (N + 8) * MIB, 64, &s);
    fc_target_open(bystander);
    fc_target_reg(bystander, MIB, ALL, &beside);
    struct ferry_peer *peer = fc_peer_open(bystander);
    fc_attach(ctx, peer, &s.q);
    struct ferry_rmem *rmem = fc_rmem_open(ctx, peer, &beside);
    struct ferry_kvs stale = fc_kvs_view(&s.t->attrs);
    enum ferry_op op = fc_can(ctx, FERRY_OP_WRITE) ? FERRY_OP_WRITE : FERRY_OP_READ;
    enum ferry_op other = fc_can(ctx, FERRY_OP_READ) ? FERRY_OP_READ : FERRY_OP_WRITE;

    uint8_t *small = fc_map(ctx, SMALL);
    struct ferry_mr *small_mr = fc_mem_reg(ctx, small, SMALL, ALL);
    struct ferry_xfer ok = {.mr = small_mr, .rmem = rmem, .local = small, .len = SMALL};
    fc_transfer(&s.q, op, peer, &ok, 1);

    struct ferry_xfer v[N], w[4];
    struct fc_track track, late;
    uint32_t accepted;
    for (uint32_t i = 0; i < N; i++)
        v[i] = fc_xfer(&s, i * MIB, i * MIB, MIB);
    for (uint32_t i = 0; i < 4; i++)
        w[i] = fc_xfer(&s, (N + i) * MIB, (N + i) * MIB, MIB);
    fc_track_init(ctx, &track, v, N);
    fc_track_init(ctx, &late, w, 4);
    track.on_end = late.on_end = scribble_on_end;
    fc_track_add(&s.q, &track);
    fc_track_add(&s.q, &late);
    ferry_status status = fc_submit(&s.q, op, s.peer, &track, 0, N / 2, &accepted);
    FC_CHECK(ctx, status == FERRY_OK || status == FERRY_EAGAIN, "FERRY_OK or FERRY_EAGAIN",
             "%s", fc_status(status));
    if (status == FERRY_OK)
        fc_submit(&s.q, other, s.peer, &track, N / 2, N / 2, &accepted);
    fc_poll(&s.q);

    struct fc_kvs keep; /* the dead one's attributes, for the end */
    fc_kvs_init(&keep);
    for (size_t i = 0; i < stale.n; i++)
        keep.sink.put(&keep.sink, &stale.v[i]);
    uint64_t begin = fc_now_ms();
    fc_target_kill(s.t);
    fc_transfer(&s.q, op, peer, &ok, 1); /* the other peer does not notice */
    FC_CHECK(ctx, fc_finish(&s.q, &track, FC_WAIT_MS),
             "every element of a killed peer to end soon", "%u of %u did not within %u ms",
             track.accepted - track.ended, track.accepted, FC_WAIT_MS);
    unsigned cut = lost(ctx, &track);
    unsigned ms = (unsigned)(fc_now_ms() - begin);

    /* what is submitted now is refused or ends alike */
    status = fc_submit(&s.q, op, s.peer, &late, 0, 4, &accepted);
    FC_CHECK(ctx,
             status == FERRY_OK || status == FERRY_EAGAIN ||
                 ferry_status_scope(status) == FERRY_SCOPE_PEER,
             "submit to a dead peer to be taken, or refused with peer scope", "%s",
             fc_status(status));
    FC_CHECK(ctx, fc_finish(&s.q, &late, FC_WAIT_MS),
             "every element submitted to a dead peer to end", "%u of %u did not",
             late.accepted - late.ended, late.accepted);
    FC_CHECK(ctx, lost(ctx, &late) == late.accepted, "no FERRY_OK from a dead peer",
             "FERRY_OK");
    fc_transfer(&s.q, other, peer, &ok, 1);
    untouched(ctx, &track);
    untouched(ctx, &late);
    fc_track_remove(&s.q, &track);
    fc_track_remove(&s.q, &late);
    FC_VOID(ctx, peer_close, s.peer);

    /* nobody is there any more */
    struct ferry_kvs attrs = fc_kvs_view(&keep);
    status = FC_CALL(ctx, peer_open, ctx->self.tp, "conf-b0", &attrs, &s.peer);
    FC_CHECK(ctx, status == FERRY_OK || ferry_status_scope(status) == FERRY_SCOPE_PEER,
             "peer_open not to connect, or to fail with peer scope", "%s", fc_status(status));
    if (status == FERRY_OK) {
        begin = fc_now_ms();
        status = FC_CALL(ctx, peer_attach, s.peer, s.q.q, 1000);
        FC_CHECK(ctx, ferry_status_scope(status) == FERRY_SCOPE_PEER,
                 "peer_attach to a dead peer to fail with peer scope", "%s", fc_status(status));
        FC_CHECK(ctx, fc_now_ms() - begin < 1000 + FC_SLOW(2000),
                 "peer_attach to keep its timeout of 1000 ms", "%llu ms",
                 (unsigned long long)(fc_now_ms() - begin));
        FC_VOID(ctx, peer_close, s.peer);
    }

    /* the same name again */
    fc_target_open(again);
    fc_target_reg(again, MIB, ALL, &fresh);
    s.peer = fc_peer_open(again);
    fc_attach(ctx, s.peer, &s.q);
    s.rmem = fc_rmem_open(ctx, s.peer, &fresh);
    struct ferry_xfer x = fc_xfer(&s, 0, 0, MIB);
    fc_fill(s.local, MIB, 42);
    if (!fc_can(ctx, FERRY_OP_WRITE))
        fc_fill(fresh.view, MIB, 42);
    fc_transfer(&s.q, op, s.peer, &x, 1);
    FC_CHECK(ctx, fc_differs(op == FERRY_OP_READ ? s.local : fresh.view, MIB, 42) < 0,
             "the reopened peer to get the bytes", "other bytes");
    FC_VOID(ctx, rmem_close, s.rmem);
    FC_VOID(ctx, peer_close, s.peer);
    FC_VOID(ctx, peer_close, peer);
    FC_VOID(ctx, mem_dereg, ctx->self.tp, &small_mr, 1);
    s.rmem = NULL;
    s.peer = NULL;
    fc_target_close(again);
    fc_target_close(bystander);
    fc_track_free(&track);
    fc_track_free(&late);
    fc_kvs_clear(&keep);
    fc_kvs_clear(&fresh.attrs);
    fc_kvs_clear(&beside.attrs);
    fc_queue_close(&s.q);
    FC_VOID(ctx, mem_dereg, ctx->self.tp, &s.mr, 1);
    munmap(s.local, s.len);
    munmap(small, SMALL);
    fc_close(ctx, &ctx->self);
    fc_kvs_clear(&s.mem.attrs);
    fc_note(ctx, "%u of %u cut short, all ended within %u ms", cut, track.accepted, ms);
}

/* --- 16 ----------------------------------------------------------------------- */

struct frozen {
    struct fc_ctx *ctx;
    struct fc_scene *s;
    uint8_t *shadow;
    enum ferry_op op;
};

static void frozen_on_end(struct fc_track *track, uint32_t i)
{
    struct frozen *frozen = track->arg;
    const struct ferry_xfer *x = &track->v[i];
    uint8_t *remote = frozen->s->mem.view + x->remote_off;
    if (track->status[i] == FERRY_OK)
        FC_CHECK(frozen->ctx, !memcmp(remote, x->local, x->len),
                 "FERRY_OK only where the bytes are in place", "element %u differs", i);
    if (frozen->op == FERRY_OP_WRITE)
        memcpy(frozen->shadow + x->remote_off, remote, x->len);
    memset(x->local, 0x77, x->len);
}

static void stopped_round(struct fc_ctx *ctx, struct fc_scene *s, struct frozen *frozen,
                          enum ferry_op op)
{
    enum { N = 32 };
    struct ferry_xfer v[N];
    struct fc_track track;
    uint32_t accepted;
    frozen->op = op;
    fc_fill(op == FERRY_OP_READ ? s->mem.view : s->local, s->len, fc_random(ctx));
    memset(op == FERRY_OP_READ ? s->local : s->mem.view, 0xee, s->len);
    for (uint32_t i = 0; i < N; i++)
        v[i] = fc_xfer(s, i * MIB, i * MIB, MIB);
    fc_track_init(ctx, &track, v, N);
    track.on_end = frozen_on_end;
    track.arg = frozen;
    fc_track_add(&s->q, &track);

    fc_target_stop(s->t, true);
    uint64_t end = fc_now_ms() + 200;
    for (uint32_t from = 0; fc_now_ms() < end;) {
        if (from < N) {
            ferry_status status =
                fc_submit(&s->q, op, s->peer, &track, from, N - from, &accepted);
            FC_CHECK(ctx, status == FERRY_OK || status == FERRY_EAGAIN,
                     "submit to take elements for a stopped peer, or FERRY_EAGAIN", "%s",
                     fc_status(status));
            from += accepted;
        }
        fc_poll(&s->q);
        fc_sleep_ms(1);
    }
    uint64_t begin = fc_now_ms();
    ferry_status status = fc_cancel(&s->q, track.cookie);
    FC_CHECK(ctx, status == FERRY_OK || status == FERRY_ENOENT, "cancel to return FERRY_OK",
             "%s", fc_status(status));
    FC_CHECK(ctx, fc_finish(&s->q, &track, FC_WAIT_MS),
             "every cancelled element to end though the peer is stopped",
             "%u of %u did not within %u ms", track.accepted - track.ended, track.accepted,
             FC_WAIT_MS);
    uint64_t ms = fc_now_ms() - begin;
    for (uint32_t i = 0; i < track.n; i++) {
        status = track.status[i];
        FC_CHECK(ctx,
                 status == FERRY_OK || status == FERRY_ECANCELED ||
                     ferry_status_scope(status) == FERRY_SCOPE_PEER,
                 "FERRY_OK, FERRY_ECANCELED or peer scope", "%s for element %u",
                 fc_status(status), i);
    }
    /* a new queue meets the stopped peer: bounded, whatever comes of it */
    if (ctx->caps.max_queues > 1) {
        struct fc_queue q;
        fc_queue_open(ctx, 8, &q);
        begin = fc_now_ms();
        status = FC_CALL(ctx, peer_attach, s->peer, q.q, 300);
        FC_CHECK(ctx, fc_now_ms() - begin < 300 + FC_SLOW(2000),
                 "peer_attach to keep its timeout of 300 ms", "%llu ms",
                 (unsigned long long)(fc_now_ms() - begin));
        FC_CHECK(ctx, status == FERRY_OK || ferry_status_scope(status) == FERRY_SCOPE_PEER,
                 "peer_attach to a stopped peer to fail with peer scope", "%s",
                 fc_status(status));
        fc_queue_close(&q);
    }
    fc_target_stop(s->t, false);
    fc_sleep_ms(FC_SLOW(300));
    untouched(ctx, &track);
    unsigned scope[4] = {0};
    for (uint32_t i = 0; i < track.n; i++) {
        if (track.state[i] == FC_ENDED)
            scope[track.status[i] ? ferry_status_scope(track.status[i]) : 0]++;
        if (op == FERRY_OP_WRITE && track.state[i] == FC_ENDED)
            FC_CHECK(ctx,
                     !memcmp(frozen->shadow + v[i].remote_off, s->mem.view + v[i].remote_off,
                             v[i].len),
                     "no late byte to land when the stopped peer goes on",
                     "element %u (%s) changed", i, fc_status(track.status[i]));
    }
    char before[200];
    snprintf(before, sizeof(before), "%.199s", ctx->shared->seen);
    fc_note(ctx, "%s%s%s: %u ok, %u cancelled, %u peer lost, within %llu ms", before,
            before[0] ? "; " : "", op == FERRY_OP_READ ? "READ" : "WRITE", scope[0], scope[1],
            scope[2], (unsigned long long)ms);
    fc_track_remove(&s->q, &track);
    fc_track_free(&track);
    /* close and open again: it works as before */
    FC_VOID(ctx, rmem_close, s->rmem);
    FC_VOID(ctx, peer_close, s->peer);
    s->peer = fc_peer_open(s->t);
    fc_attach(ctx, s->peer, &s->q);
    s->rmem = fc_rmem_open(ctx, s->peer, &s->mem);
    v[0] = fc_xfer(s, 0, 0, MIB);
    fc_transfer(&s->q, op, s->peer, v, 1);
}

void fc_point_stopped(struct fc_ctx *ctx)
{
    struct fc_scene s;
    if (!ctx->two)
        fc_not_applicable(ctx, "both ends live in one process");
    fc_scene_open(ctx, 32 * MIB, 64, &s);
    if (!(ctx->caps.flags & FERRY_CAP_CANCEL))
        fc_not_applicable(ctx, "caps deny FERRY_CAP_CANCEL");
    struct frozen frozen = {.ctx = ctx, .s = &s, .shadow = fc_map(ctx, s.len)};
    for (unsigned o = 0; o < 2; o++)
        if (fc_can(ctx, both[o]))
            stopped_round(ctx, &s, &frozen, both[o]);
    munmap(frozen.shadow, s.len);
    fc_scene_close(ctx, &s);
}

/* --- 18 ----------------------------------------------------------------------- */

enum { CELLS = 64, CELL = 65536, LISTS = 4 };

struct churn {
    struct fc_ctx *ctx;
    struct fc_scene s;
    bool peer_lost;
    unsigned ok, failed, cancelled, reopened;
};

struct churn_list {
    struct churn *churn;
    enum ferry_op op;
    bool used;
    uint32_t first_cell, sent; /* elements that submit took or refused */
    uint64_t since;
    bool cancelled;
    struct ferry_xfer v[CELLS / LISTS];
    struct fc_track track;
};

static uint8_t churn_seed(const struct churn_list *l, uint32_t i)
{
    return (uint8_t)(l->track.cookie + i * 31u);
}

static void churn_on_end(struct fc_track *track, uint32_t i)
{
    struct churn_list *l = track->arg;
    struct churn *churn = l->churn;
    struct fc_ctx *ctx = churn->ctx;
    const struct ferry_xfer *x = &track->v[i];
    ferry_status status = track->status[i];
    uint8_t *remote = churn->s.mem.view + x->remote_off;
    if (status == FERRY_OK) {
        churn->ok++;
        int64_t at =
            fc_differs(l->op == FERRY_OP_READ ? x->local : remote, x->len, churn_seed(l, i));
        FC_CHECK(ctx, at < 0, "FERRY_OK only where the bytes are in place",
                 "byte %lld of element %u differs", (long long)at, i);
    } else if (status == FERRY_ECANCELED) {
        churn->cancelled++;
    } else {
        churn->failed++;
    }
    FC_CHECK(ctx, ferry_status_scope(status) < FERRY_SCOPE_DEVICE, "a queue that works", "%s",
             fc_status(status));
    churn->peer_lost |= ferry_status_scope(status) == FERRY_SCOPE_PEER;
    uint8_t *local = x->local;
    for (unsigned j = 0; j < 64; j++)
        FC_CHECK(ctx, local[-1 - (int)j] == 0x3c && local[x->len + j] == 0x3c,
                 "no byte beside a range to be touched", "element %u: local, %u away", i, j);
    memset(local, 0x3c, x->len); /* a late touch shows when the cell is used again */
}

static void churn_begin(struct churn *churn, struct churn_list *l)
{
    struct fc_ctx *ctx = churn->ctx;
    const uint32_t n = (uint32_t)(fc_random(ctx) % (CELLS / LISTS)) + 1;
    const uint64_t align = ctx->caps.addr_align ? ctx->caps.addr_align : 1;
    l->op = both[fc_random(ctx) % 2];
    if (!fc_can(ctx, l->op))
        l->op = l->op == FERRY_OP_READ ? FERRY_OP_WRITE : FERRY_OP_READ;
    l->churn = churn;
    fc_track_init(ctx, &l->track, l->v, n);
    l->track.on_end = churn_on_end;
    l->track.arg = l;
    for (uint32_t i = 0; i < n; i++) {
        uint64_t cell = (uint64_t)(l->first_cell + i) * CELL;
        uint64_t len = fc_random(ctx) % (fc_random(ctx) % 4 ? 2000 : 60000) + 1;
        uint64_t a = 64 + fc_random(ctx) % 2000 / align * align;
        uint64_t b = 64 + fc_random(ctx) % 2000 / align * align;
        uint8_t *local = churn->s.local + cell;
        for (uint32_t j = 0; j < CELL; j++)
            FC_CHECK(ctx, local[j] == 0x3c,
                     "local memory to be untouched after an element's completion",
                     "a byte of a free cell changed");
        l->v[i] = fc_xfer(&churn->s, cell + a, cell + b, len);
        uint8_t *remote = churn->s.mem.view + cell + b;
        memset(churn->s.mem.view + cell, 0x99, CELL);
        fc_fill(l->op == FERRY_OP_READ ? remote : local + a, len, churn_seed(l, i));
    }
    fc_track_add(&churn->s.q, &l->track);
    l->sent = 0;
    l->used = true;
    l->cancelled = false;
    l->since = fc_now_ms();
}

static void churn_end(struct churn *churn, struct churn_list *l)
{
    struct fc_ctx *ctx = churn->ctx;
    for (uint32_t i = 0; i < l->track.n; i++) {
        const struct ferry_xfer *x = &l->v[i];
        const uint64_t cell = (uint64_t)(l->first_cell + i) * CELL;
        const uint8_t *remote = churn->s.mem.view;
        for (uint64_t j = cell; j < cell + CELL; j++)
            FC_CHECK(ctx,
                     (j >= x->remote_off && j < x->remote_off + x->len) || remote[j] == 0x99,
                     "no byte beside a range to be touched", "element %u", i);
        memset(churn->s.local + cell, 0x3c, CELL); /* also of those that were refused */
    }
    fc_track_remove(&churn->s.q, &l->track);
    fc_track_free(&l->track);
    l->used = false;
}

static void churn_submit(struct churn *churn, struct churn_list *l)
{
    uint32_t accepted;
    if (l->sent == l->track.n)
        return;
    ferry_status status = fc_submit(&churn->s.q, l->op, churn->s.peer, &l->track, l->sent,
                                    l->track.n - l->sent, &accepted);
    l->sent += accepted;
    if (status != FERRY_OK && status != FERRY_EAGAIN) {
        FC_CHECK(churn->ctx,
                 ferry_status_scope(status) == FERRY_SCOPE_PEER || status == FERRY_EIO,
                 "good elements to be refused only with peer scope", "%s", fc_status(status));
        churn->peer_lost |= ferry_status_scope(status) == FERRY_SCOPE_PEER;
        churn->failed += l->track.n - l->sent;
        l->sent = l->track.n;
    }
}

/* Faults may refuse this a few times. */
static void churn_attach(struct churn *churn)
{
    struct fc_ctx *ctx = churn->ctx;
    ferry_status status = FERRY_OK;
    for (unsigned i = 0; i < 50; i++) {
        status = FC_CALL(ctx, peer_attach, churn->s.peer, churn->s.q.q, FC_ATTACH_MS);
        if (status == FERRY_OK)
            return;
        FC_CHECK(ctx, ferry_status_scope(status) == FERRY_SCOPE_PEER,
                 "peer_attach to fail with peer scope", "%s", fc_status(status));
        FC_VOID(ctx, peer_close, churn->s.peer);
        churn->s.peer = fc_peer_open(churn->s.t);
    }
    fc_fail(ctx, "a peer that can be attached", "50 times %s", fc_status(status));
}

static void churn_reopen(struct churn *churn, struct churn_list *lists)
{
    struct fc_ctx *ctx = churn->ctx;
    FC_VOID(ctx, peer_close, churn->s.peer);
    for (unsigned i = 0; i < LISTS; i++) {
        struct churn_list *l = &lists[i];
        if (!l->used)
            continue;
        l->sent = l->track.n;
        FC_CHECK(ctx, fc_finish(&churn->s.q, &l->track, FC_WAIT_MS),
                 "unfinished elements to complete at the next poll after peer_close",
                 "%u of %u did not", l->track.accepted - l->track.ended, l->track.accepted);
    }
    /* what peer scope allows to land late at the target has landed before cells are reused */
    fc_sleep_ms(20);
    for (unsigned i = 0; i < LISTS; i++)
        if (lists[i].used)
            churn_end(churn, &lists[i]);
    churn->s.peer = fc_peer_open(churn->s.t);
    churn_attach(churn);
    churn->s.rmem = fc_rmem_open(ctx, churn->s.peer, &churn->s.mem);
    churn->peer_lost = false;
    churn->reopened++;
}

void fc_point_churn(struct fc_ctx *ctx)
{
    static struct churn churn;
    static struct churn_list lists[LISTS];
    const unsigned want = FC_ROUNDS(1500u);
    const uint64_t stop = fc_now_ms() + 12000;
    unsigned begun = 0, open = 0, idle = 0;
    churn.ctx = ctx;
    fc_scene_open_unattached(ctx, (uint64_t)CELLS * CELL, 24, &churn.s);
    FC_VOID(ctx, rmem_close, churn.s.rmem);
    churn_attach(&churn);
    churn.s.rmem = fc_rmem_open(ctx, churn.s.peer, &churn.s.mem);
    memset(churn.s.local, 0x3c, churn.s.len);
    for (unsigned i = 0; i < LISTS; i++)
        lists[i].first_cell = i * (CELLS / LISTS);
    while (begun < want || open) {
        if (fc_now_ms() > stop && begun > 100)
            begun = want;
        bool moved = false;
        open = 0;
        for (unsigned i = 0; i < LISTS; i++) {
            struct churn_list *l = &lists[i];
            if (!l->used && begun < want && !churn.peer_lost) {
                churn_begin(&churn, l);
                begun++;
            }
            if (l->used && !churn.peer_lost)
                churn_submit(&churn, l);
            uint64_t age = l->used ? fc_now_ms() - l->since : 0;
            bool late = age > 150, unlucky = fc_random(ctx) % 400 == 0;
            if (l->used && !l->cancelled && (late || unlucky) &&
                (ctx->caps.flags & FERRY_CAP_CANCEL)) {
                fc_cancel(&churn.s.q, l->track.cookie);
                l->cancelled = true;
                l->sent = l->track.n;
                l->since = fc_now_ms();
            }
            FC_CHECK(ctx, age < FC_WAIT_MS, "every element to end",
                     "%u of %u did not within %u ms%s", l->track.accepted - l->track.ended,
                     l->track.accepted, FC_WAIT_MS,
                     l->cancelled ? " after their cancellation" : "");
            if (fc_poll(&churn.s.q))
                moved = true;
            if (l->used && l->sent == l->track.n && l->track.ended == l->track.accepted)
                churn_end(&churn, l);
            open += l->used;
        }
        if (churn.peer_lost || fc_random(ctx) % 60 == 0) {
            churn_reopen(&churn, lists);
            open = 0;
        }
        if (moved)
            idle = 0;
        else
            fc_pause(&idle);
    }
    fc_scene_close(ctx, &churn.s);
    fc_note(ctx, "%u ok, %u failed, %u cancelled, peer opened again %u times", churn.ok,
            churn.failed, churn.cancelled, churn.reopened);
}
