/* SPDX-License-Identifier: Apache-2.0 */
/* Points 12, 13, 14, 17: configuration, open and close, kinds of memory, what caps deny. */
#include "points.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define ALL (FERRY_ACCESS_LOCAL_WRITE | FERRY_ACCESS_REMOTE_READ | FERRY_ACCESS_REMOTE_WRITE)

static ferry_status open_with(struct fc_ctx *ctx, const struct ferry_kv *more, size_t n,
                              struct ferry_tp **tp_out)
{
    const struct ferry_kvs *have = &ctx->opt->config;
    struct ferry_kv *v = calloc(have->n + n, sizeof(*v));
    memcpy(v, have->v, have->n * sizeof(*v));
    memcpy(v + have->n, more, n * sizeof(*v));
    struct ferry_kvs config = {.v = v, .n = have->n + n};
    ferry_status status = FC_CALL(ctx, open, &ctx->self.host, &config, tp_out);
    free(v);
    return status;
}

#define TEXT(k, v)                                                                             \
    {                                                                                          \
        .key = (k), .val = (v), .val_len = (uint32_t)strlen(v), .flags = FERRY_KV_TEXT         \
    }

void fc_point_unknown_key(struct fc_ctx *ctx)
{
    struct ferry_tp *const untouched = (struct ferry_tp *)(uintptr_t)0x5a5a;
    struct ferry_tp *tp = untouched;
    fc_load(ctx);
    fc_probe(ctx, &ctx->self);
    struct ferry_kv unknown = TEXT("no_such_key_as_this", "1");
    ferry_status status = open_with(ctx, &unknown, 1, &tp);
    FC_CHECK(ctx, status == FERRY_EINVAL, "FERRY_EINVAL", "%s", fc_status(status));
    FC_CHECK(ctx, tp == untouched, "outputs to be written on success only",
             "*tp_out was written");

    struct ferry_kv core = TEXT("core.no_such_key_as_this", "1");
    status = open_with(ctx, &core, 1, &tp);
    FC_CHECK(ctx, status == FERRY_OK, "keys of the core that are of no use to be passed over",
             "%s for core.no_such_key_as_this", fc_status(status));
    FC_VOID(ctx, close, tp);

    int taken = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(at);
    if (taken < 0 || bind(taken, (void *)&at, sizeof(at)) || listen(taken, 1) ||
        getsockname(taken, (void *)&at, &len))
        fc_fail(ctx, "a listening socket", "none");
    char port[8];
    snprintf(port, sizeof(port), "%u", (unsigned)ntohs(at.sin_port));
    struct ferry_kv place[] = {TEXT("core.port", port), TEXT("core.devices", "")};
    status = open_with(ctx, place, FC_COUNT(place), &tp);
    FC_CHECK(ctx, status == FERRY_OK, "a preferred port that is taken to be no error",
             "%s with core.port taken", fc_status(status));
    FC_VOID(ctx, close, tp);
    close(taken);
    FC_VOID(ctx, close, NULL);
}

/* Counts fall a little after the calls that make them: a joined thread's entry, a socket of the
 * other end. Waits for the level, not longer than a second. */
static bool settles(struct fc_target *t, const struct fc_counts *level, struct fc_counts *now)
{
    for (unsigned i = 0; i < 100; i++) {
        if (t)
            fc_target_counts(t, now);
        else
            fc_counts_here(now);
        if (now->fds <= level->fds && now->threads <= level->threads)
            return true;
        fc_sleep_ms(FC_SLOW(10));
    }
    return false;
}

static void one_life(struct fc_ctx *ctx, void *mem, bool more)
{
    struct fc_queue q;
    fc_open(ctx, &ctx->self);
    if (more) {
        struct fc_kvs attrs;
        fc_kvs_init(&attrs);
        FC_OK(ctx, export_segment, ctx->self.tp, &attrs.sink);
        fc_kvs_clear(&attrs);
        struct ferry_mr *mr = fc_mem_reg(ctx, mem, 65536, ALL);
        FC_OK(ctx, export_mem, mr, &attrs.sink);
        fc_kvs_clear(&attrs);
        fc_queue_open(ctx, 16, &q);
        fc_queue_close(&q);
        FC_VOID(ctx, mem_dereg, ctx->self.tp, &mr, 1);
    }
    fc_close(ctx, &ctx->self);
}

/* Returns how many do not, where they need not. */
static unsigned descriptors_close_on_exec(struct fc_ctx *ctx)
{
    unsigned inherited = 0;
    DIR *dir = opendir("/proc/self/fd");
    struct dirent *e;
    while (dir && (e = readdir(dir))) {
        int fd = atoi(e->d_name);
        char path[64], what[128] = "";
        if (e->d_name[0] == '.' || fd <= 2)
            continue;
        int flags = fcntl(fd, F_GETFD);
        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        ssize_t n = readlink(path, what, sizeof(what) - 1);
        what[n > 0 ? n : 0] = '\0';
        bool ours = fd < (int)FC_COUNT(ctx->inherited_fd) && ctx->inherited_fd[fd];
        bool closed = ours || flags < 0 || (flags & FD_CLOEXEC);
        FC_CHECK(ctx, closed || ctx->opt->inherits, "descriptors that are closed on exec",
                 "descriptor %d (%s) is not", fd, what);
        inherited += !closed;
    }
    if (dir)
        closedir(dir);
    return inherited;
}

/* A peer that comes and goes, on an open transport: both ends stay level. */
static unsigned peers_come_and_go(struct fc_ctx *ctx, unsigned *inherited_out)
{
    struct fc_scene s;
    struct fc_counts here, there, now;
    fc_scene_open(ctx, 65536, 16, &s);
    *inherited_out = descriptors_close_on_exec(ctx);
    FC_VOID(ctx, rmem_close, s.rmem);
    FC_VOID(ctx, peer_close, s.peer);
    fc_queue_close(&s.q);
    enum ferry_op op = fc_can(ctx, FERRY_OP_WRITE) ? FERRY_OP_WRITE : FERRY_OP_READ;
    const unsigned rounds = FC_ROUNDS(200u), warm = 10;
    for (unsigned round = 0; round < rounds + warm; round++) {
        if (round == warm) {
            fc_sleep_ms(FC_SLOW(50));
            fc_counts_here(&here);
            fc_target_counts(s.t, &there);
        }
        fc_queue_open(ctx, 16, &s.q);
        s.peer = fc_peer_open(s.t);
        fc_attach(ctx, s.peer, &s.q);
        s.rmem = fc_rmem_open(ctx, s.peer, &s.mem);
        struct ferry_xfer x = fc_xfer(&s, 0, 0, 4096);
        fc_transfer(&s.q, op, s.peer, &x, 1);
        if (round % 2)
            FC_VOID(ctx, rmem_close, s.rmem);
        if (round % 3) {
            FC_VOID(ctx, peer_close, s.peer);
            fc_queue_close(&s.q);
        } else {
            fc_queue_close(&s.q);
            FC_VOID(ctx, peer_close, s.peer);
        }
    }
    FC_CHECK(ctx, settles(NULL, &here, &now), "as many descriptors and threads as before",
             "%u descriptors and %u threads after %u peers, %u and %u before", now.fds,
             now.threads, rounds, here.fds, here.threads);
    FC_CHECK(ctx, settles(s.t, &there, &now),
             "as many descriptors and threads at the target as before",
             "%u descriptors and %u threads after %u peers, %u and %u before", now.fds,
             now.threads, rounds, there.fds, there.threads);
    s.peer = NULL;
    s.rmem = NULL;
    fc_scene_close(ctx, &s);
    return rounds;
}

void fc_point_open_close(struct fc_ctx *ctx)
{
    struct fc_counts before, after;
    uint8_t *mem = fc_map(ctx, 65536);
    const unsigned want = FC_ROUNDS(1000u), warm = FC_ROUNDS(100u);
    unsigned inherited, peers = peers_come_and_go(ctx, &inherited);
    for (unsigned i = 0; i < warm; i++)
        one_life(ctx, mem, true);
    fc_sleep_ms(FC_SLOW(20));
    fc_counts_here(&before);
    for (unsigned i = 0; i < want; i++)
        one_life(ctx, mem, i % 8 == 0);
    FC_CHECK(ctx, settles(NULL, &before, &after), "as many descriptors and threads as before",
             "%u descriptors and %u threads after %u rounds, %u and %u before", after.fds,
             after.threads, want, before.fds, before.threads);
    const uint64_t slack = UINT64_C(384) << 10;
    FC_CHECK(ctx, FC_SANITIZED || after.rss <= before.rss + slack,
             "memory to stay level (within 384 KiB in 1000 rounds)", "%llu KiB more",
             (unsigned long long)((after.rss - before.rss) >> 10));
    munmap(mem, 65536);
    fc_note(ctx, "%u times open and close, %u peers", want, peers);
    if (inherited)
        fc_note(ctx,
                "%u times open and close, %u peers; %u descriptors stay open over exec: %s",
                want, peers, inherited, ctx->opt->inherits);
}

void fc_point_memory_kinds(struct fc_ctx *ctx)
{
    static const char *const names[] = {"HOST", "DEVICE", "MANAGED", "FILE"};
    struct fc_scene s;
    char untried[64] = "";
    fc_scene_open(ctx, 65536, 16, &s);
    uint8_t *mem = fc_map(ctx, 3 * 65536);
    for (uint32_t kind = 0; kind < 6; kind++) {
        bool claimed = kind < 4 && (ctx->caps.local_mem & FERRY_MEM_BIT(kind));
        struct ferry_mr *mr[3] = {NULL, NULL, NULL};
        struct ferry_mem_desc d[3];
        for (unsigned i = 0; i < 3; i++)
            d[i] = (struct ferry_mem_desc){.size = sizeof(d[i]),
                                           .kind = i == 2 ? kind : FERRY_MEM_HOST,
                                           .addr = mem + i * 65536,
                                           .len = 65536,
                                           .device = -1,
                                           .dmabuf_fd = -1,
                                           .access = ALL};
        if (claimed && kind != FERRY_MEM_HOST) {
            size_t at = strlen(untried);
            snprintf(untried + at, sizeof(untried) - at, " %s", names[kind]);
            continue;
        }
        ferry_status status = FC_CALL(ctx, mem_reg, ctx->self.tp, d, 3, mr);
        if (claimed) {
            FC_CHECK(ctx, status == FERRY_OK, "mem_reg to take each kind in caps.local_mem",
                     "%s for kind %s", fc_status(status), names[kind]);
            for (unsigned o = 0; o < 2; o++) {
                struct ferry_xfer x = {
                    .mr = mr[2], .rmem = s.rmem, .local = mem + 2 * 65536, .len = 65536};
                enum ferry_op op = o ? FERRY_OP_READ : FERRY_OP_WRITE;
                if (fc_can(ctx, op))
                    fc_transfer(&s.q, op, s.peer, &x, 1);
            }
            FC_VOID(ctx, mem_dereg, ctx->self.tp, mr, 3);
        } else {
            FC_CHECK(ctx, status == FERRY_ENOTSUP || status == FERRY_EINVAL,
                     "mem_reg to refuse each kind that caps.local_mem lacks", "%s for kind %u",
                     fc_status(status), kind);
            FC_CHECK(ctx, !mr[0] && !mr[1] && !mr[2], "mem_reg to register all or nothing",
                     "outputs written");
        }
    }
    FC_CHECK(ctx, ctx->caps.local_mem, "at least one kind in caps.local_mem", "none");
    munmap(mem, 3 * 65536);
    fc_scene_close(ctx, &s);
    if (untried[0])
        fc_note(ctx, "claimed and not tried, no such memory here:%s", untried);
}

static void deny_op(struct fc_ctx *ctx, struct fc_scene *s, enum ferry_op op, const char *name)
{
    struct ferry_xfer x = fc_xfer(s, 0, 0, 64);
    struct fc_track track;
    uint32_t accepted;
    fc_track_init(ctx, &track, &x, 1);
    ferry_status status = fc_submit(&s->q, op, s->peer, &track, 0, 1, &accepted);
    FC_CHECK(ctx, status == FERRY_ENOTSUP || status == FERRY_EINVAL,
             "submit to refuse an operation that caps deny", "%s: %s", name, fc_status(status));
    fc_track_free(&track);
}

void fc_point_denied(struct fc_ctx *ctx)
{
    struct fc_scene s;
    int fd = -1;
    fc_scene_open(ctx, 65536, 16, &s);
    const struct ferry_tp_caps caps = ctx->caps;
    FC_CHECK(ctx, caps.flags & (FERRY_CAP_READ | FERRY_CAP_WRITE), "READ or WRITE in caps",
             "flags 0x%x", caps.flags);
    FC_CHECK(ctx, caps.n_devices >= 1, "at least one device", "none");
    FC_CHECK(ctx, caps.max_queues >= 1 && caps.max_xfer_len && caps.max_list,
             "limits that leave room for one", "max_queues %u, max_list %u", caps.max_queues,
             caps.max_list);
    if (!(caps.flags & FERRY_CAP_READ))
        deny_op(ctx, &s, FERRY_OP_READ, "READ");
    if (!(caps.flags & FERRY_CAP_WRITE))
        deny_op(ctx, &s, FERRY_OP_WRITE, "WRITE");
    deny_op(ctx, &s, (enum ferry_op)7, "operation 7");

    ferry_status status;
    if (!(caps.flags & FERRY_CAP_CANCEL)) {
        status = fc_cancel(&s.q, 1);
        FC_CHECK(ctx, status == FERRY_ENOTSUP, "cancel to return FERRY_ENOTSUP", "%s",
                 fc_status(status));
    } else {
        FC_CHECK(ctx, ctx->raw->cancel, "cancel where caps claim it", "NULL");
    }
    if (!(caps.flags & FERRY_CAP_EVENT_FD)) {
        status = FC_CALL(ctx, queue_fd, s.q.q, &fd);
        FC_CHECK(ctx, status == FERRY_ENOTSUP, "queue_fd to return FERRY_ENOTSUP", "%s",
                 fc_status(status));
    } else {
        FC_OK(ctx, queue_fd, s.q.q, &fd);
        FC_CHECK(ctx, fcntl(fd, F_GETFD) >= 0, "queue_fd to give an open descriptor", "%d", fd);
    }

    /* devices and queues beyond those there are */
    for (uint32_t i = 0; i < caps.n_devices; i++) {
        struct ferry_device dev = {.size = sizeof(dev)};
        FC_OK(ctx, device, ctx->self.tp, i, &dev);
        FC_CHECK(ctx, memchr(dev.name, 0, sizeof(dev.name)) && dev.name[0],
                 "a name for each device", "none for %u", i);
    }
    struct ferry_device dev = {.size = sizeof(dev)};
    status = FC_CALL(ctx, device, ctx->self.tp, caps.n_devices, &dev);
    FC_CHECK(ctx, status != FERRY_OK, "device to refuse an index that is not there",
             "FERRY_OK for %u of %u", caps.n_devices, caps.n_devices);
    struct ferry_queue *q = NULL;
    struct ferry_queue_attr attr = {.size = sizeof(attr), .device = caps.n_devices, .depth = 8};
    status = FC_CALL(ctx, queue_open, ctx->self.tp, &attr, &q);
    FC_CHECK(ctx, status != FERRY_OK, "queue_open to refuse a device that is not there",
             "FERRY_OK");
    if (caps.max_queues <= 1024) {
        struct ferry_queue **all = calloc(caps.max_queues, sizeof(struct ferry_queue *));
        attr.device = 0;
        for (uint32_t i = 1; i < caps.max_queues; i++)
            FC_OK(ctx, queue_open, ctx->self.tp, &attr, &all[i]);
        status = FC_CALL(ctx, queue_open, ctx->self.tp, &attr, &q);
        FC_CHECK(ctx, status != FERRY_OK, "queue_open to refuse more than caps.max_queues",
                 "FERRY_OK for number %u", caps.max_queues + 1);
        for (uint32_t i = 1; i < caps.max_queues; i++)
            FC_VOID(ctx, queue_close, all[i]);
        free(all);
    }
    if (caps.max_xfer_len < UINT64_C(1) << 45) { /* address space only: never touched */
        uint64_t len = caps.max_xfer_len + 4096;
        void *big = mmap(NULL, len, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        struct ferry_mem_desc d = {.size = sizeof(d),
                                   .addr = big,
                                   .len = len,
                                   .device = -1,
                                   .dmabuf_fd = -1,
                                   .access = ALL};
        struct ferry_mr *mr = NULL;
        struct ferry_rmem *rmem = NULL;
        struct ferry_kvs attrs = fc_kvs_view(&s.mem.attrs);
        if (!FC_SANITIZED && big != MAP_FAILED &&
            FC_CALL(ctx, mem_reg, ctx->self.tp, &d, 1, &mr) == FERRY_OK &&
            FC_CALL(ctx, rmem_open, s.peer, s.mem.addr, len, &attrs, &rmem) == FERRY_OK) {
            struct ferry_xfer x = {
                .mr = mr, .rmem = rmem, .local = big, .len = caps.max_xfer_len + 1};
            ferry_status got;
            fc_transfer_any(&s.q, fc_can(ctx, FERRY_OP_READ) ? FERRY_OP_READ : FERRY_OP_WRITE,
                            s.peer, &x, 1, &got);
            FC_CHECK(ctx, got == FERRY_ERANGE || got == FERRY_EINVAL,
                     "an element longer than caps.max_xfer_len to be refused", "%s",
                     fc_status(got));
        }
        if (rmem)
            FC_VOID(ctx, rmem_close, rmem);
        if (mr)
            FC_VOID(ctx, mem_dereg, ctx->self.tp, &mr, 1);
        if (big != MAP_FAILED)
            munmap(big, len);
    }

    if (!(caps.flags & FERRY_CAP_LOOPBACK)) {
        struct fc_kvs own;
        struct ferry_peer *peer = NULL;
        fc_kvs_init(&own);
        FC_OK(ctx, export_segment, ctx->self.tp, &own.sink);
        struct ferry_kvs attrs = fc_kvs_view(&own);
        status = FC_CALL(ctx, peer_open, ctx->self.tp, ctx->self.name, &attrs, &peer);
        if (status == FERRY_OK) {
            status = FC_CALL(ctx, peer_attach, peer, s.q.q, 500);
            FC_VOID(ctx, peer_close, peer);
        }
        FC_CHECK(ctx, status != FERRY_OK,
                 "a peer in this process to be refused where caps "
                 "deny FERRY_CAP_LOOPBACK",
                 "FERRY_OK");
        fc_kvs_clear(&own);
    }
    fc_scene_close(ctx, &s);
}
