/* SPDX-License-Identifier: Apache-2.0 */
/* Points 0 to 6, 15: the descriptor, bytes, partial accept, refusals, canaries, size fields. */
#include "points.h"

#include <stdlib.h>
#include <sys/mman.h>

#define MIB  (UINT64_C(1) << 20)
#define PAGE 4096u
#define ALL  (FERRY_ACCESS_LOCAL_WRITE | FERRY_ACCESS_REMOTE_READ | FERRY_ACCESS_REMOTE_WRITE)

static const enum ferry_op both[] = {FERRY_OP_WRITE, FERRY_OP_READ};
static const char *const op_names[] = {[FERRY_OP_READ] = "READ", [FERRY_OP_WRITE] = "WRITE"};

void fc_point_load(struct fc_ctx *ctx)
{
    struct fc_counts before, after;
    fc_counts_here(&before);
    fc_load(ctx);
    fc_counts_here(&after);
    FC_CHECK(ctx, after.threads == before.threads, "no thread before open", "%u after dlopen",
             after.threads - before.threads);
}

/* Where a transfer takes its bytes from and where it puts them. */
static void ends(const struct fc_scene *s, enum ferry_op op, const struct ferry_xfer *x,
                 uint8_t **src, uint8_t **dst)
{
    uint8_t *remote = s->mem.view + x->remote_off;
    *src = op == FERRY_OP_READ ? remote : x->local;
    *dst = op == FERRY_OP_READ ? x->local : remote;
}

void fc_point_bytes(struct fc_ctx *ctx)
{
    static const uint64_t sizes[] = {1, 63, 64, 4095, 4097, MIB + 1};
    static const uint64_t shifts[] = {0, 1, 7, 61, 4093};
    struct fc_scene s;
    uint64_t seed = fc_random(ctx);
    fc_scene_open(ctx, 2 * MIB, 64, &s);
    for (unsigned o = 0; o < 2; o++) {
        if (!fc_can(ctx, both[o]))
            continue;
        for (unsigned i = 0; i < FC_COUNT(sizes); i++) {
            for (unsigned a = 0; a < FC_COUNT(shifts); a++) {
                struct ferry_xfer x = fc_xfer(&s, shifts[a], shifts[(a + i + 1) % 5], sizes[i]);
                if (ctx->caps.addr_align > 1) {
                    x = fc_xfer(&s, shifts[a] * ctx->caps.addr_align,
                                shifts[(a + i + 1) % 5] * ctx->caps.addr_align, sizes[i]);
                }
                if (sizes[i] > ctx->caps.max_xfer_len)
                    continue;
                uint8_t *src, *dst;
                ends(&s, both[o], &x, &src, &dst);
                fc_fill(src, x.len, ++seed);
                memset(dst, 0xee, x.len);
                fc_transfer(&s.q, both[o], s.peer, &x, 1);
                int64_t at = fc_differs(dst, x.len, seed);
                FC_CHECK(ctx, at < 0, "equal bytes as soon as the completion says FERRY_OK",
                         "%s of %llu bytes: byte %lld differs", op_names[both[o]],
                         (unsigned long long)x.len, (long long)at);
                FC_CHECK(ctx, fc_differs(src, x.len, seed) < 0, "the source to stay as it is",
                         "it changed");
            }
        }
    }
    fc_scene_close(ctx, &s);
}

/* Completions that cannot be joined, reaped with little room. */
static void single_lists(struct fc_ctx *ctx, struct fc_scene *s)
{
    enum { LISTS = 96, DEPTH = 8 };
    static const uint32_t rooms[] = {1, 2, 5};
    enum ferry_op op = fc_can(ctx, FERRY_OP_WRITE) ? FERRY_OP_WRITE : FERRY_OP_READ;
    for (unsigned round = 0; round < FC_COUNT(rooms); round++) {
        static struct fc_track tracks[LISTS];
        static struct ferry_xfer v[LISTS];
        uint32_t begun = 0, ended = 0;
        uint64_t end = fc_now_ms() + FC_WAIT_MS;
        s->q.max = rooms[round];
        while (ended < LISTS) {
            while (begun < LISTS && begun - ended < DEPTH) {
                uint32_t accepted;
                v[begun] = fc_xfer(s, begun * 128u, begun * 128u, 100);
                fc_track_init(ctx, &tracks[begun], &v[begun], 1);
                fc_track_add(&s->q, &tracks[begun]);
                ferry_status status =
                    fc_submit(&s->q, op, s->peer, &tracks[begun], 0, 1, &accepted);
                if (status == FERRY_EAGAIN) {
                    fc_track_remove(&s->q, &tracks[begun]);
                    fc_track_free(&tracks[begun]);
                    break;
                }
                FC_CHECK(ctx, status == FERRY_OK, "FERRY_OK or FERRY_EAGAIN", "%s",
                         fc_status(status));
                begun++;
            }
            ended += fc_poll(&s->q);
            FC_CHECK(ctx, fc_now_ms() < end, "every accepted element to complete",
                     "%u of %u did not, polling with room for %u", begun - ended, begun,
                     rooms[round]);
        }
        for (uint32_t i = 0; i < LISTS; i++) {
            FC_CHECK(ctx, tracks[i].status[0] == FERRY_OK, "FERRY_OK", "%s",
                     fc_status(tracks[i].status[0]));
            fc_track_remove(&s->q, &tracks[i]);
            fc_track_free(&tracks[i]);
        }
    }
}

void fc_point_partial(struct fc_ctx *ctx)
{
    enum { N = 5000, LEN = 96, SPACE = 128 };
    static const uint32_t rooms[] = {64, 1, 3};
    struct fc_scene s;
    fc_scene_open(ctx, (uint64_t)N * SPACE, 8, &s);
    struct ferry_xfer *v = calloc(N, sizeof(*v));
    uint32_t full = 0;
    for (unsigned round = 0; round < 2 * FC_COUNT(rooms); round++) {
        enum ferry_op op = both[round % 2];
        if (!fc_can(ctx, op))
            continue;
        s.q.max = rooms[round / 2];
        uint8_t *src = op == FERRY_OP_READ ? s.mem.view : s.local;
        uint8_t *dst = op == FERRY_OP_READ ? s.local : s.mem.view;
        uint64_t seed = fc_random(ctx);
        fc_fill(src, s.len, seed);
        memset(dst, 0xee, s.len);
        /* element i goes to another place than it comes from, a permutation */
        for (uint32_t i = 0; i < N; i++)
            v[i] = fc_xfer(&s, (uint64_t)i * SPACE, (uint64_t)(i * 7u % N) * SPACE, LEN);

        struct fc_track track;
        fc_track_init(ctx, &track, v, N);
        fc_track_add(&s.q, &track);
        uint64_t end = fc_now_ms() + FC_WAIT_MS;
        for (uint32_t from = 0; from < N;) {
            uint32_t accepted;
            ferry_status status =
                fc_submit(&s.q, op, s.peer, &track, from, N - from, &accepted);
            FC_CHECK(ctx, status == FERRY_OK || status == FERRY_EAGAIN,
                     "FERRY_OK, or FERRY_EAGAIN with a prefix accepted", "%s at element %u",
                     fc_status(status), from + accepted);
            from += accepted;
            full += status == FERRY_EAGAIN;
            if (fc_poll(&s.q) || accepted)
                end = fc_now_ms() + FC_WAIT_MS;
            FC_CHECK(ctx, fc_now_ms() < end, "FERRY_EAGAIN to pass when completions are reaped",
                     "no progress at element %u of %u", from, (unsigned)N);
        }
        FC_CHECK(ctx, fc_finish(&s.q, &track, FC_WAIT_MS), "every accepted element to complete",
                 "%u of %u did not", track.accepted - track.ended, track.accepted);
        for (uint32_t i = 0; i < N; i++) {
            FC_CHECK(ctx, track.status[i] == FERRY_OK, "FERRY_OK", "%s for element %u",
                     fc_status(track.status[i]), i);
            uint64_t from = (uint64_t)i * SPACE, to = v[i].remote_off;
            const uint8_t *a = src + (op == FERRY_OP_READ ? to : from);
            const uint8_t *b = dst + (op == FERRY_OP_READ ? from : to);
            FC_CHECK(ctx, !memcmp(a, b, LEN), "the bytes of every element in its place",
                     "element %u of a %s differs", i, op_names[op]);
            for (unsigned j = LEN; j < SPACE; j++)
                FC_CHECK(ctx, b[j] == 0xee, "no byte between two ranges to be touched",
                         "byte %u behind element %u", j - LEN, i);
        }
        for (unsigned i = 0; i < 20; i++) /* nothing may come after all have ended */
            fc_poll(&s.q);
        fc_track_remove(&s.q, &track);
        fc_track_free(&track);
    }
    free(v);
    single_lists(ctx, &s);
    fc_scene_close(ctx, &s);
    if (!full)
        fc_note(ctx, "never full: all of 5000 were accepted at a depth of 8");
}

enum { BAD_N = 16, BAD_AT = 7, BAD_LEN = 512 };

static void bad_round(struct fc_ctx *ctx, struct fc_scene *s, enum ferry_op op,
                      const char *what, const struct ferry_xfer *bad)
{
    struct ferry_xfer v[BAD_N];
    uint8_t *src = op == FERRY_OP_READ ? s->mem.view : s->local;
    uint8_t *dst = op == FERRY_OP_READ ? s->local : s->mem.view;
    uint64_t seed = fc_random(ctx);
    fc_fill(src, s->len, seed);
    memset(dst, 0xee, s->len);
    for (uint32_t i = 0; i < BAD_N; i++)
        v[i] = fc_xfer(s, (uint64_t)i * 1024, (uint64_t)i * 1024, BAD_LEN);
    v[BAD_AT] = *bad;

    struct fc_track track;
    fc_track_init(ctx, &track, v, BAD_N);
    fc_track_add(&s->q, &track);
    uint32_t from = 0;
    ferry_status status;
    uint64_t end = fc_now_ms() + FC_WAIT_MS;
    do {
        uint32_t accepted;
        status = fc_submit(&s->q, op, s->peer, &track, from, BAD_N - from, &accepted);
        from += accepted;
        if (status == FERRY_EAGAIN)
            fc_poll(&s->q);
    } while (status == FERRY_EAGAIN && fc_now_ms() < end);
    FC_CHECK(ctx, status != FERRY_OK && status != FERRY_EAGAIN && from == BAD_AT,
             "submit to stop at the element at fault with its status", "%s: %s after %u of %d",
             what, fc_status(status), from, BAD_N);
    FC_CHECK(ctx, fc_finish(&s->q, &track, FC_WAIT_MS), "those before it to complete",
             "%s: %u of %u did not", what, track.accepted - track.ended, track.accepted);
    for (unsigned i = 0; i < 20; i++)
        fc_poll(&s->q);
    for (uint32_t i = 0; i < BAD_N; i++) {
        const uint8_t *b = dst + (uint64_t)i * 1024;
        if (i < BAD_AT) {
            FC_CHECK(ctx, track.status[i] == FERRY_OK, "those before it to end with FERRY_OK",
                     "%s: %s for element %u", what, fc_status(track.status[i]), i);
            FC_CHECK(ctx, !memcmp(b, src + (uint64_t)i * 1024, BAD_LEN),
                     "the bytes of those before it", "%s: element %u differs", what, i);
        } else {
            for (unsigned j = 0; j < 1024; j++)
                FC_CHECK(ctx, b[j] == 0xee, "the bad element and those after it untouched",
                         "%s: byte %u of element %u was written", what, j, i);
        }
    }
    fc_track_remove(&s->q, &track);
    fc_track_free(&track);
    /* the rest goes on as if nothing had been */
    fc_transfer(&s->q, op, s->peer, v + BAD_AT + 1, BAD_N - BAD_AT - 1);
    for (uint32_t i = BAD_AT + 1; i < BAD_N; i++)
        FC_CHECK(ctx, !memcmp(dst + (uint64_t)i * 1024, src + (uint64_t)i * 1024, BAD_LEN),
                 "the rest of the list to work when submitted again", "%s: element %u differs",
                 what, i);
}

void fc_point_bad_element(struct fc_ctx *ctx)
{
    struct fc_scene s;
    fc_scene_open(ctx, 64 * 1024, 64, &s);
    const uint64_t len = s.len;
    struct ferry_xfer below = fc_xfer(&s, 0, 0, BAD_LEN);
    below.local = s.local - 8;
    const struct {
        const char *what;
        struct ferry_xfer x;
    } bad[] = {
        {"no length", fc_xfer(&s, 0, 0, 0)},
        {"local end behind mr", fc_xfer(&s, len - BAD_LEN + 1, 0, BAD_LEN)},
        {"local start before mr", below},
        {"remote end behind rmem", fc_xfer(&s, 0, len - BAD_LEN + 1, BAD_LEN)},
        {"remote start behind rmem", fc_xfer(&s, 0, len + 1, 1)},
        {"remote offset that wraps", fc_xfer(&s, 0, UINT64_MAX - 15, BAD_LEN)},
        {"length that wraps", fc_xfer(&s, 0, 1024, UINT64_MAX - 512)},
    };
    for (unsigned o = 0; o < 2; o++)
        for (unsigned i = 0; fc_can(ctx, both[o]) && i < FC_COUNT(bad); i++)
            bad_round(ctx, &s, both[o], bad[i].what, &bad[i].x);
    fc_scene_close(ctx, &s);
}

/* One forbidden element between two good ones: refused, untouched, the others done. */
static void refused(struct fc_ctx *ctx, struct fc_scene *s, enum ferry_op op, const char *what,
                    struct ferry_xfer bad, uint8_t *bad_dst, uint64_t bad_dst_len)
{
    struct ferry_xfer v[3] = {fc_xfer(s, 0, 0, 4096), bad, fc_xfer(s, 8192, 8192, 4096)};
    ferry_status status[3];
    uint8_t *src = op == FERRY_OP_READ ? s->mem.view : s->local;
    uint8_t *dst = op == FERRY_OP_READ ? s->local : s->mem.view;
    uint8_t *keep = malloc(bad_dst_len);
    fc_fill(src, s->len, fc_random(ctx));
    memset(dst, 0xee, s->len);
    memcpy(keep, bad_dst, bad_dst_len);
    fc_transfer_any(&s->q, op, s->peer, v, 3, status);
    FC_CHECK(ctx, status[1] == FERRY_ERANGE || status[1] == FERRY_EACCESS,
             "FERRY_ERANGE or FERRY_EACCESS for what is not allowed", "%s: %s", what,
             fc_status(status[1]));
    FC_CHECK(ctx, !memcmp(keep, bad_dst, bad_dst_len), "a refused element to touch nothing",
             "%s: bytes changed", what);
    for (unsigned i = 0; i < 3; i += 2) {
        FC_CHECK(ctx, status[i] == FERRY_OK, "the other elements of the list to be done",
                 "%s: %s for element %u", what, fc_status(status[i]), i);
        FC_CHECK(ctx, !memcmp(dst + i * 4096, src + i * 4096, 4096),
                 "the other elements' bytes in place", "%s: element %u differs", what, i);
    }
    free(keep);
}

void fc_point_access(struct fc_ctx *ctx)
{
    enum { LEN = 32768 };
    struct fc_scene s;
    struct fc_mem only_read, only_write, gone, none;
    fc_scene_open(ctx, LEN, 64, &s);
    fc_target_reg(s.t, LEN, FERRY_ACCESS_LOCAL_WRITE | FERRY_ACCESS_REMOTE_READ, &only_read);
    fc_target_reg(s.t, LEN, FERRY_ACCESS_LOCAL_WRITE | FERRY_ACCESS_REMOTE_WRITE, &only_write);
    fc_target_reg(s.t, LEN, FERRY_ACCESS_LOCAL_WRITE, &none);
    fc_target_reg(s.t, LEN, ALL, &gone);
    struct {
        const char *what;
        struct fc_mem *mem;
        uint64_t grow;
        bool may[2]; /* by op */
    } cases[] = {
        {"only REMOTE_READ", &only_read, 0, {true, false}},
        {"only REMOTE_WRITE", &only_write, 0, {false, true}},
        {"no remote right", &none, 0, {false, false}},
        {"a length beyond the region", &only_write, PAGE, {false, false}},
        {"a region that was unregistered", &gone, 0, {false, false}},
    };
    /* local memory that may not be written */
    uint8_t *fixed = fc_map(ctx, LEN);
    struct ferry_mr *fixed_mr = fc_mem_reg(ctx, fixed, LEN, FERRY_ACCESS_REMOTE_READ);
    fc_target_dereg(s.t, &gone);
    for (unsigned i = 0; i < FC_COUNT(cases); i++) {
        struct fc_mem forged = *cases[i].mem;
        struct ferry_kvs attrs = fc_kvs_view(&forged.attrs);
        struct ferry_rmem *rmem = NULL;
        forged.len += cases[i].grow;
        ferry_status status =
            FC_CALL(ctx, rmem_open, s.peer, forged.addr, forged.len, &attrs, &rmem);
        if (status != FERRY_OK) {
            FC_CHECK(ctx,
                     status == FERRY_ERANGE || status == FERRY_EACCESS ||
                         status == FERRY_EINVAL,
                     "rmem_open to take it, or to refuse the range", "%s: %s", cases[i].what,
                     fc_status(status));
            continue;
        }
        for (unsigned o = 0; o < 2; o++) {
            enum ferry_op op = both[o];
            if (!fc_can(ctx, op))
                continue;
            struct ferry_xfer x = fc_xfer(&s, 16384, 0, 5000);
            x.rmem = rmem;
            x.remote_off = cases[i].grow ? LEN - 2500 : 300;
            if (cases[i].may[op]) {
                fc_transfer(&s.q, op, s.peer, &x, 1);
                continue;
            }
            uint8_t *dst = op == FERRY_OP_READ ? s.local + 16384 : forged.view;
            refused(ctx, &s, op, cases[i].what, x, dst,
                    op == FERRY_OP_READ ? 8192 : LEN + (cases[i].grow ? PAGE : 0));
        }
        FC_VOID(ctx, rmem_close, rmem);
    }
    if (fc_can(ctx, FERRY_OP_READ)) {
        struct ferry_xfer x = fc_xfer(&s, 0, 16384, 5000);
        x.mr = fixed_mr;
        x.local = fixed + 100;
        refused(ctx, &s, FERRY_OP_READ, "READ into memory without LOCAL_WRITE", x, fixed, LEN);
    }
    FC_VOID(ctx, mem_dereg, ctx->self.tp, &fixed_mr, 1);
    munmap(fixed, LEN);
    fc_kvs_clear(&only_read.attrs);
    fc_kvs_clear(&only_write.attrs);
    fc_kvs_clear(&none.attrs);
    fc_kvs_clear(&gone.attrs);
    fc_scene_close(ctx, &s);
}

void fc_point_canaries(struct fc_ctx *ctx)
{
    enum { N = 64, ROUNDS = 24, CELL = 16384 };
    struct fc_scene s;
    fc_scene_open(ctx, (uint64_t)N * CELL, 128, &s);
    struct ferry_xfer v[N];
    for (unsigned round = 0; round < ROUNDS; round++) {
        enum ferry_op op = both[round % 2];
        if (!fc_can(ctx, op))
            continue;
        uint8_t *src = op == FERRY_OP_READ ? s.mem.view : s.local;
        uint8_t *dst = op == FERRY_OP_READ ? s.local : s.mem.view;
        fc_fill(src, s.len, fc_random(ctx));
        memset(dst, 0xa7, s.len);
        uint64_t align = ctx->caps.addr_align ? ctx->caps.addr_align : 1;
        for (uint32_t i = 0; i < N; i++) {
            uint64_t len = fc_random(ctx) % (i % 4 ? 300 : 8000) + 1;
            uint64_t a = fc_random(ctx) % (CELL - len - 64) / align * align;
            uint64_t b = fc_random(ctx) % (CELL - len - 64) / align * align;
            v[i] = fc_xfer(&s, (uint64_t)i * CELL + a, (uint64_t)i * CELL + b, len);
        }
        fc_transfer(&s.q, op, s.peer, v, N);
        for (uint32_t i = 0; i < N; i++) {
            uint64_t to = op == FERRY_OP_READ ? (uint64_t)((uint8_t *)v[i].local - s.local)
                                              : v[i].remote_off;
            uint64_t from = op == FERRY_OP_READ ? v[i].remote_off
                                                : (uint64_t)((uint8_t *)v[i].local - s.local);
            FC_CHECK(ctx, !memcmp(dst + to, src + from, v[i].len), "equal bytes",
                     "element %u (%llu bytes) differs", i, (unsigned long long)v[i].len);
            const uint64_t cell = (uint64_t)i * CELL;
            for (uint64_t j = cell; j < cell + CELL; j++)
                FC_CHECK(ctx, (j >= to && j < to + v[i].len) || dst[j] == 0xa7,
                         "no byte beside the range to be touched",
                         "%s of %llu bytes: byte %lld from its start", op_names[op],
                         (unsigned long long)v[i].len, (long long)(j - to));
        }
    }
    fc_scene_close(ctx, &s);
}

/* `len` bytes that end at a page nobody may touch; aligned like len. */
static void *at_edge(struct fc_ctx *ctx, size_t len)
{
    uint8_t *page = fc_map(ctx, 2 * PAGE);
    mprotect(page + PAGE, PAGE, PROT_NONE);
    memset(page, 0xc5, PAGE);
    return page + PAGE - len;
}

static void check_out(struct fc_ctx *ctx, const char *what, ferry_status status,
                      const unsigned char *mem, uint32_t room, uint32_t total)
{
    uint32_t wrote;
    memcpy(&wrote, mem, 4);
    FC_CHECK(ctx, status == FERRY_OK || (status == FERRY_EINVAL && room < total),
             "FERRY_OK, or FERRY_EINVAL for a struct smaller than ABI 1.0's", "%s: %s", what,
             fc_status(status));
    FC_CHECK(ctx, wrote <= room, "size to say how many bytes were written",
             "%s: size %u with room for %u", what, wrote, room);
    for (uint32_t i = wrote; i < room; i++)
        FC_CHECK(ctx, mem[i] == 0xc5, "nothing to be written beyond what size says",
                 "%s: byte %u, size %u", what, i, wrote);
}

void fc_point_sizes(struct fc_ctx *ctx)
{
    struct fc_scene s;
    fc_scene_open(ctx, 65536, 16, &s);
    char what[64];

    for (uint32_t room = 8; room <= sizeof(struct ferry_tp_caps) + 64; room += 8) {
        unsigned char *mem = at_edge(ctx, room);
        memcpy(mem, &room, 4);
        snprintf(what, sizeof(what), "query with size %u", room);
        ferry_status status = FC_CALL(ctx, query, ctx->self.tp, (void *)mem);
        check_out(ctx, what, status, mem, room, sizeof(struct ferry_tp_caps));
    }
    for (uint32_t room = 8; room <= sizeof(struct ferry_device) + 64; room += 8) {
        unsigned char *mem = at_edge(ctx, room);
        memcpy(mem, &room, 4);
        snprintf(what, sizeof(what), "device with size %u", room);
        ferry_status status = FC_CALL(ctx, device, ctx->self.tp, 0, (void *)mem);
        check_out(ctx, what, status, mem, room, sizeof(struct ferry_device));
    }
    /* a queue attribute of a core older and of one newer than the plugin */
    for (uint32_t size = 4; size <= sizeof(struct ferry_queue_attr) + 32; size += 4) {
        struct ferry_queue_attr have = {.size = size, .depth = 8};
        unsigned char *mem = at_edge(ctx, size);
        struct ferry_queue *q = NULL;
        memset(mem, 0, size);
        memcpy(mem, &have, size < sizeof(have) ? size : sizeof(have));
        ferry_status status = FC_CALL(ctx, queue_open, ctx->self.tp, (void *)mem, &q);
        FC_CHECK(ctx, status == FERRY_OK || (status == FERRY_EINVAL && size < sizeof(have)),
                 "queue_open to take an attribute of at least ABI 1.0's size", "size %u: %s",
                 size, fc_status(status));
        if (status == FERRY_OK)
            FC_VOID(ctx, queue_close, q);
    }
    /* descriptions of a newer core: the next one is `size` bytes further on */
    const uint32_t stride = sizeof(struct ferry_mem_desc) + 24;
    unsigned char *descs = at_edge(ctx, 3 * stride);
    struct ferry_mr *mr[3] = {NULL, NULL, NULL};
    uint8_t *mem = fc_map(ctx, 3 * PAGE);
    for (unsigned i = 0; i < 3; i++) {
        struct ferry_mem_desc d = {.size = stride,
                                   .kind = FERRY_MEM_HOST,
                                   .addr = mem + i * PAGE,
                                   .len = PAGE,
                                   .device = -1,
                                   .dmabuf_fd = -1,
                                   .access = ALL};
        memset(descs + i * stride, 0, stride);
        memcpy(descs + i * stride, &d, sizeof(d));
    }
    FC_OK(ctx, mem_reg, ctx->self.tp, (void *)descs, 3, mr);
    for (unsigned o = 0; o < 2; o++) {
        if (!fc_can(ctx, both[o]))
            continue;
        struct ferry_xfer v[3];
        for (unsigned i = 0; i < 3; i++) {
            v[i] = fc_xfer(&s, 0, i * PAGE, PAGE);
            v[i].mr = mr[i];
            v[i].local = mem + i * PAGE;
        }
        fc_transfer(&s.q, both[o], s.peer, v, 3);
    }
    FC_VOID(ctx, mem_dereg, ctx->self.tp, mr, 3);

    /* a list of a newer core */
    unsigned char *big = at_edge(ctx, sizeof(struct ferry_list) + 32);
    enum ferry_op op = fc_can(ctx, FERRY_OP_WRITE) ? FERRY_OP_WRITE : FERRY_OP_READ;
    struct ferry_xfer x = fc_xfer(&s, 0, 0, 100);
    struct fc_track track;
    fc_track_init(ctx, &track, &x, 1);
    fc_track_add(&s.q, &track);
    struct ferry_list list = {.size = sizeof(list) + 32,
                              .op = op,
                              .peer = s.peer,
                              .v = &x,
                              .n = 1,
                              .cookie = track.cookie};
    memset(big, 0, sizeof(list) + 32);
    memcpy(big, &list, sizeof(list));
    uint32_t accepted = 0;
    FC_OK(ctx, submit, s.q.q, (void *)big, &accepted);
    track.accepted = 1;
    track.state[0] = FC_ACCEPTED;
    FC_CHECK(ctx,
             accepted == 1 && fc_finish(&s.q, &track, FC_WAIT_MS) &&
                 track.status[0] == FERRY_OK,
             "a list with a larger size to work", "%u accepted, %s", accepted,
             fc_status(track.status[0]));
    fc_track_remove(&s.q, &track);
    fc_track_free(&track);
    fc_scene_close(ctx, &s);
}

void fc_point_delivered(struct fc_ctx *ctx)
{
    struct fc_scene s;
    fc_scene_open(ctx, 8 * MIB, 64, &s);
    if (!fc_can(ctx, FERRY_OP_WRITE))
        fc_not_applicable(ctx, "caps deny FERRY_CAP_WRITE");
    for (unsigned round = 0; round < FC_ROUNDS(300u); round++) {
        uint64_t len = round % 10 ? fc_random(ctx) % 20000 + 1 : 7 * MIB;
        uint64_t seed = fc_random(ctx), off = fc_random(ctx) % 4096;
        if (ctx->caps.addr_align > 1)
            off = off / ctx->caps.addr_align * ctx->caps.addr_align;
        struct ferry_xfer x = fc_xfer(&s, off, off, len);
        fc_fill(x.local, len, seed);
        fc_transfer(&s.q, FERRY_OP_WRITE, s.peer, &x, 1);
        int64_t at = fc_differs(s.mem.view + off, len, seed);
        FC_CHECK(ctx, at < 0, "the bytes to be in the target's memory at FERRY_OK",
                 "byte %lld of %llu is not", (long long)at, (unsigned long long)len);
        if (len < 100000)
            FC_CHECK(ctx, fc_target_hash(s.t, &s.mem, off, len) == fc_hash(x.local, len),
                     "the target itself to see the bytes when it is asked next",
                     "other bytes there (%llu bytes)", (unsigned long long)len);
    }
    fc_scene_close(ctx, &s);
}
