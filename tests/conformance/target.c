/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The passive end: a transport opened in a second process (or in this one, for transports that
 * reach no other), told what to do over a socket pair. Its memory is mapped twice, so that the
 * initiator can look at the bytes at the very moment of a completion; at the target's own
 * address nothing is mapped in the initiator, so that a wrong copy is a crash and no success.
 */
#include "suite.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE        4096u
#define GUARD       64u
#define MSG_MAX_LEN 60000u

enum op { OP_OPEN, OP_CLOSE, OP_REG, OP_DEREG, OP_HASH, OP_COUNTS, OP_CALL };

struct msg {
    uint32_t op, seq;
    int32_t status;
    uint32_t len; /* of data */
    uint64_t a, b, c;
    char from[32];
    unsigned char data[MSG_MAX_LEN];
};
#define MSG_HDR offsetof(struct msg, data)

/* What another thread of the plugin stored is ordered before this by the wire, across two
 * processes: no race detector can know. */
__attribute__((no_sanitize("thread"))) uint64_t fc_hash(const void *data, size_t len)
{
    const unsigned char *p = data;
    uint64_t h = 14695981039346656037u;
    for (size_t i = 0; i < len; i++)
        h = (h ^ p[i]) * 1099511628211u;
    return h;
}

static uint32_t count_dir(const char *path)
{
    uint32_t n = 0;
    DIR *dir = opendir(path);
    if (!dir)
        return 0;
    while (readdir(dir))
        n++;
    closedir(dir);
    return n - 2; /* . and .. */
}

void fc_counts_here(struct fc_counts *counts_out)
{
    unsigned long size = 0, resident = 0, shared = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    if (f) {
        if (fscanf(f, "%lu %lu %lu", &size, &resident, &shared) != 3)
            resident = shared = 0;
        fclose(f);
    }
    *counts_out = (struct fc_counts){.fds = count_dir("/proc/self/fd"),
                                     .threads = count_dir("/proc/self/task"),
                                     .rss = (uint64_t)(resident - shared) * PAGE};
}

/* --- what the target does, in either process -------------------------------- */

static ferry_status do_open(struct fc_target *t, struct fc_kvs *attrs)
{
    struct fc_ctx *ctx = t->ctx;
    fc_load(ctx);
    fc_open(ctx, t->node);
    fc_kvs_init(attrs);
    return FC_CALL(ctx, export_segment, t->node->tp, &attrs->sink);
}

static ferry_status do_reg(struct fc_target *t, uint64_t addr, uint64_t len, uint32_t access,
                           struct fc_kvs *attrs, uint32_t *id_out)
{
    struct fc_ctx *ctx = t->ctx;
    struct ferry_mem_desc desc = {.size = sizeof(desc),
                                  .kind = FERRY_MEM_HOST,
                                  .addr = (void *)(uintptr_t)addr,
                                  .len = len,
                                  .device = -1,
                                  .dmabuf_fd = -1,
                                  .access = access,
                                  .flags = FERRY_MEM_MEMFD,
                                  .memfd = t->memfd,
                                  .memfd_off = addr - (uintptr_t)t->arena};
    uint32_t id = t->n_mr;
    fc_kvs_init(attrs);
    ferry_status status = FC_CALL(ctx, mem_reg, t->node->tp, &desc, 1, &t->mr[id]);
    if (status != FERRY_OK)
        return status;
    status = FC_CALL(ctx, export_mem, t->mr[id], &attrs->sink);
    if (status != FERRY_OK)
        return status;
    t->region[id] = fc_region_add(t->node, addr, len, access, FERRY_MEM_HOST);
    if (!t->region[id])
        return FERRY_ENOMEM;
    t->n_mr++;
    *id_out = id;
    return FERRY_OK;
}

static void do_dereg(struct fc_target *t, uint32_t id)
{
    if (!t->mr[id])
        return;
    FC_CHECK(t->ctx, fc_region_remove(t->region[id]),
             "each region_get to be followed by region_put once the transfer has ended",
             "the target's plugin still holds a region");
    FC_VOID(t->ctx, mem_dereg, t->node->tp, &t->mr[id], 1);
    t->mr[id] = NULL;
}

static void do_close(struct fc_target *t)
{
    for (uint32_t i = 0; i < t->n_mr; i++)
        do_dereg(t, i);
    fc_close(t->ctx, t->node);
}

/* --- the target's process ----------------------------------------------------- */

static uint32_t pack(const struct fc_kvs *kvs, unsigned char *out, size_t room)
{
    size_t at = 0;
    for (size_t i = 0; i < kvs->n; i++) {
        const struct ferry_kv *kv = &kvs->v[i];
        uint32_t key_len = (uint32_t)strlen(kv->key) + 1;
        if (12 + key_len + kv->val_len > room - at)
            return UINT32_MAX;
        memcpy(out + at, &key_len, 4);
        memcpy(out + at + 4, &kv->val_len, 4);
        memcpy(out + at + 8, &kv->flags, 4);
        memcpy(out + at + 12, kv->key, key_len);
        memcpy(out + at + 12 + key_len, kv->val, kv->val_len);
        at += 12 + key_len + kv->val_len;
    }
    return (uint32_t)at;
}

static void unpack(const unsigned char *data, size_t len, struct fc_kvs *kvs)
{
    fc_kvs_init(kvs);
    for (size_t at = 0; at < len;) {
        uint32_t key_len;
        struct ferry_kv kv;
        memcpy(&key_len, data + at, 4);
        memcpy(&kv.val_len, data + at + 4, 4);
        memcpy(&kv.flags, data + at + 8, 4);
        kv.key = (const char *)data + at + 12;
        kv.val = data + at + 12 + key_len;
        kvs->sink.put(&kvs->sink, &kv);
        at += 12 + key_len + kv.val_len;
    }
}

static void answer_call(struct fc_ctx *ctx, struct fc_node *node, struct msg *m)
{
    struct fc_bytes *reply = calloc(1, sizeof(*reply));
    fc_bytes_init(reply);
    m->from[sizeof(m->from) - 1] = '\0';
    m->status = FC_CALL(ctx, on_call, node->tp, m->from, m->data, m->len, &reply->sink);
    memcpy(m->data, reply->data, reply->len);
    m->len = (uint32_t)reply->len;
    free(reply);
}

static void target_main(struct fc_target *t)
{
    struct fc_ctx *ctx = t->ctx;
    static struct msg m;
    for (;;) {
        ssize_t n = recv(t->ctl, &m, sizeof(m), 0);
        if (n < (ssize_t)MSG_HDR)
            exit(0); /* not _exit: a leak checker has its say */
        struct fc_kvs kvs;
        struct fc_counts counts;
        uint32_t id;
        m.status = FERRY_OK;
        switch ((enum op)m.op) {
        case OP_OPEN:
            m.status = do_open(t, &kvs);
            m.len = pack(&kvs, m.data, sizeof(m.data));
            fc_kvs_clear(&kvs);
            break;
        case OP_CLOSE:
            do_close(t);
            m.len = 0;
            break;
        case OP_REG:
            m.status = do_reg(t, m.a, m.b, (uint32_t)m.c, &kvs, &id);
            m.len = pack(&kvs, m.data, sizeof(m.data));
            m.a = id;
            fc_kvs_clear(&kvs);
            break;
        case OP_DEREG:
            do_dereg(t, (uint32_t)m.a);
            m.len = 0;
            break;
        case OP_HASH:
            m.c = fc_hash((void *)(uintptr_t)m.a, m.b);
            m.len = 0;
            break;
        case OP_COUNTS:
            fc_counts_here(&counts);
            counts.held = fc_regions_held(t->node);
            memcpy(m.data, &counts, sizeof(counts));
            m.len = sizeof(counts);
            break;
        case OP_CALL:
            answer_call(ctx, t->node, &m);
            break;
        }
        if (send(t->ctl, &m, MSG_HDR + m.len, MSG_NOSIGNAL) < 0)
            _exit(0);
    }
}

/* Answers the target's plugin: the initiator's core thread. */
static void *back_main(void *arg)
{
    struct fc_target *t = arg;
    struct msg *m = malloc(sizeof(*m));
    pthread_setname_np(pthread_self(), "conf-back");
    while (m && recv(t->back, m, sizeof(*m), 0) >= (ssize_t)MSG_HDR) {
        answer_call(t->ctx, &t->ctx->self, m);
        if (send(t->back, m, MSG_HDR + m->len, MSG_NOSIGNAL) < 0)
            break;
    }
    free(m);
    return NULL;
}

/* False: no answer within timeout_ms, or the target is gone. */
static bool exchange(struct fc_target *t, struct msg *m, uint32_t timeout_ms)
{
    bool ok = false;
    uint64_t end = fc_now_ms() + timeout_ms;
    struct timespec by;
    clock_gettime(CLOCK_REALTIME, &by);
    by.tv_sec += timeout_ms / 1000 + 1;
    if (pthread_mutex_timedlock(&t->lock, &by) != 0)
        return false; /* others wait for a target that does not answer */
    uint32_t seq = m->seq = ++t->seq;
    if (send(t->ctl, m, MSG_HDR + m->len, MSG_NOSIGNAL) >= 0) {
        for (;;) {
            uint64_t now = fc_now_ms();
            struct pollfd p = {.fd = t->ctl, .events = POLLIN};
            if (now >= end || poll(&p, 1, (int)(end - now)) <= 0)
                break;
            if (recv(t->ctl, m, sizeof(*m), 0) < (ssize_t)MSG_HDR)
                break;
            if (m->seq == seq) { /* else: the answer to one that timed out */
                ok = true;
                break;
            }
        }
    }
    pthread_mutex_unlock(&t->lock);
    return ok;
}

static void command(struct fc_target *t, struct msg *m)
{
    if (exchange(t, m, FC_WAIT_MS))
        return;
    static const char *const names[] = {"open",       "close",  "mem_reg", "mem_dereg",
                                        "bytes seen", "counts", "on_call"};
    fc_fail(t->ctx, "the target's process to answer", "no answer to \"%s\" within %u ms",
            names[m->op], FC_WAIT_MS);
}

/* --- the initiator's side ------------------------------------------------------- */

static void map_arena(struct fc_target *t, int fd)
{
    t->memfd =
        fcntl(fd, F_DUPFD_CLOEXEC, 3); /* what descriptions name; until the process ends */
    if (t->memfd < 0 || mmap(t->arena, FC_ARENA_LEN, PROT_READ | PROT_WRITE,
                             MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED)
        fc_fail(t->ctx, "memory for a target", "%s", strerror(errno));
}

static void spawn(struct fc_target *t, int fd)
{
    struct fc_ctx *ctx = t->ctx;
    int ctl[2], back[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ctl) ||
        socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, back))
        fc_fail(ctx, "a socket pair", "%s", strerror(errno));
    fflush(NULL);
    t->pid = fork();
    if (t->pid < 0)
        fc_fail(ctx, "a second process", "fork: %s", strerror(errno));
    if (t->pid) {
        close(ctl[1]);
        close(back[1]);
        t->ctl = ctl[0];
        t->back = back[0];
        return;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (unsigned i = 0; i < t->index; i++) { /* not ours: their owner's end must show EOF */
        close(ctx->target[i].ctl);
        close(ctx->target[i].back);
    }
    close(ctl[0]);
    close(back[0]);
    t->ctl = ctl[1];
    ctx->up.ctx = ctx;
    ctx->up.ctl = back[1];
    pthread_mutex_init(&ctx->up.lock, NULL);
    map_arena(t, fd);
    munmap(t->view, FC_ARENA_LEN);
    target_main(t);
}

void fc_targets_make(struct fc_ctx *ctx, unsigned n)
{
    int fds[FC_MAX_TARGETS];
    ctx->n_targets = n;
    for (unsigned i = 0; i < n; i++) {
        struct fc_target *t = &ctx->target[i];
        t->ctx = ctx;
        t->index = i;
        pthread_mutex_init(&t->lock, NULL);
        fds[i] = memfd_create("conformance", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        if (fds[i] < 0 || ftruncate(fds[i], (off_t)FC_ARENA_LEN) ||
            fcntl(fds[i], F_ADD_SEALS, F_SEAL_SHRINK))
            fc_fail(ctx, "memory for a target", "%s", strerror(errno));
        t->view = mmap(NULL, FC_ARENA_LEN, PROT_READ | PROT_WRITE, MAP_SHARED, fds[i], 0);
        t->arena = mmap(NULL, FC_ARENA_LEN, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        t->node = calloc(1, sizeof(*t->node));
        if (t->view == MAP_FAILED || t->arena == MAP_FAILED || !t->node)
            fc_fail(ctx, "memory for a target", "%s", strerror(errno));
        fc_node_init(t->node, ctx, "conf-b");
        /* the last one takes the name of the first, as a peer that was started again does */
        if (i + 1 < n || n < 3)
            snprintf(t->node->name, sizeof(t->node->name), "conf-b%u", i);
        else
            snprintf(t->node->name, sizeof(t->node->name), "conf-b0");
        t->node->is_target = true;
    }
    for (unsigned i = 0; i < n; i++) {
        struct fc_target *t = &ctx->target[i];
        if (ctx->two)
            spawn(t, fds[i]);
        else
            map_arena(t, fds[i]);
    }
    for (unsigned i = 0; i < n; i++)
        close(fds[i]);
}

void fc_target_open(struct fc_target *t)
{
    fc_kvs_init(&t->attrs);
    if (!t->ctx->two) {
        ferry_status status = do_open(t, &t->attrs);
        FC_CHECK(t->ctx, status == FERRY_OK, "export_segment to return FERRY_OK", "%s",
                 fc_status(status));
        return;
    }
    struct msg *m = calloc(1, sizeof(*m));
    m->op = OP_OPEN;
    command(t, m);
    FC_CHECK(t->ctx, m->status == FERRY_OK, "export_segment to return FERRY_OK", "%s",
             fc_status(m->status));
    FC_CHECK(t->ctx, m->len <= sizeof(m->data), "export_segment to write at most 60000 bytes",
             "more");
    unpack(m->data, m->len, &t->attrs);
    free(m);
    t->back_running = !pthread_create(&t->back_thread, NULL, back_main, t);
}

void fc_target_close(struct fc_target *t)
{
    if (!t->ctx->two) {
        do_close(t);
    } else if (t->pid) {
        struct msg *m = calloc(1, sizeof(*m));
        m->op = OP_CLOSE;
        command(t, m);
        free(m);
        int how = 0;
        shutdown(t->ctl, SHUT_RDWR);
        waitpid(t->pid, &how, 0);
        t->pid = 0;
        FC_CHECK(t->ctx, WIFEXITED(how) && WEXITSTATUS(how) == 0,
                 "the target's process to end well", "%s %d (a sanitizer's report?)",
                 WIFSIGNALED(how) ? "signal" : "exit status",
                 WIFSIGNALED(how) ? WTERMSIG(how) : WEXITSTATUS(how));
        if (t->back_running)
            pthread_join(t->back_thread, NULL);
        t->back_running = false;
        close(t->ctl);
        close(t->back);
    }
    fc_kvs_clear(&t->attrs);
}

void fc_target_reg(struct fc_target *t, uint64_t len, uint32_t access, struct fc_mem *mem_out)
{
    struct fc_ctx *ctx = t->ctx;
    uint64_t off = t->used + PAGE; /* a page that nobody may touch before each range */
    if (len > FC_ARENA_LEN - off)
        fc_fail(ctx, "room in the arena", "none for %llu bytes", (unsigned long long)len);
    t->used = (off + len + PAGE - 1) / PAGE * PAGE;
    mem_out->addr = (uintptr_t)t->arena + off;
    mem_out->len = len;
    mem_out->view = t->view + off;
    ferry_status status;
    if (!ctx->two) {
        status = do_reg(t, mem_out->addr, len, access, &mem_out->attrs, &mem_out->id);
    } else {
        struct msg *m = calloc(1, sizeof(*m));
        m->op = OP_REG;
        m->a = mem_out->addr;
        m->b = len;
        m->c = access;
        command(t, m);
        status = m->status;
        mem_out->id = (uint32_t)m->a;
        unpack(m->data, status == FERRY_OK ? m->len : 0, &mem_out->attrs);
        free(m);
    }
    FC_CHECK(ctx, status == FERRY_OK, "mem_reg and export_mem to return FERRY_OK at the target",
             "%s", fc_status(status));
}

void fc_target_dereg(struct fc_target *t, struct fc_mem *mem)
{
    if (!t->ctx->two) {
        do_dereg(t, mem->id);
        return;
    }
    struct msg *m = calloc(1, sizeof(*m));
    m->op = OP_DEREG;
    m->a = mem->id;
    command(t, m);
    free(m);
}

uint64_t fc_target_hash(struct fc_target *t, const struct fc_mem *mem, uint64_t off,
                        uint64_t len)
{
    if (!t->ctx->two)
        return fc_hash((void *)(uintptr_t)(mem->addr + off), len);
    struct msg *m = calloc(1, sizeof(*m));
    m->op = OP_HASH;
    m->a = mem->addr + off;
    m->b = len;
    command(t, m);
    uint64_t hash = m->c;
    free(m);
    return hash;
}

void fc_target_counts(struct fc_target *t, struct fc_counts *counts_out)
{
    if (!t->ctx->two) {
        fc_counts_here(counts_out);
        counts_out->held = fc_regions_held(t->node);
        return;
    }
    struct msg *m = calloc(1, sizeof(*m));
    m->op = OP_COUNTS;
    command(t, m);
    memcpy(counts_out, m->data, sizeof(*counts_out));
    free(m);
}

ferry_status fc_target_call(struct fc_target *t, const char *from, const void *req,
                            size_t req_len, uint32_t timeout_ms, struct ferry_buf_sink *reply)
{
    struct msg *m = calloc(1, sizeof(*m));
    if (!m || req_len > sizeof(m->data)) {
        free(m);
        return FERRY_ENOMEM;
    }
    m->op = OP_CALL;
    m->len = (uint32_t)req_len;
    snprintf(m->from, sizeof(m->from), "%s", from);
    memcpy(m->data, req, req_len);
    ferry_status status = FERRY_ETIMEDOUT;
    if (exchange(t, m, timeout_ms)) {
        status = m->status;
        if (status == FERRY_OK && m->len)
            status = reply->append(reply, m->data, m->len);
    }
    free(m);
    return status;
}

void fc_target_kill(struct fc_target *t)
{
    if (!t->ctx->two) {
        do_close(t);
        fc_kvs_clear(&t->attrs);
        return;
    }
    kill(t->pid, SIGKILL);
    waitpid(t->pid, NULL, 0);
    t->pid = 0;
    shutdown(t->back, SHUT_RDWR);
    if (t->back_running)
        pthread_join(t->back_thread, NULL);
    t->back_running = false;
    pthread_mutex_lock(&t->lock); /* a thread of the plugin's may be asking it */
    close(t->ctl);
    t->ctl = -1;
    pthread_mutex_unlock(&t->lock);
    close(t->back);
    fc_kvs_clear(&t->attrs);
}

void fc_target_stop(struct fc_target *t, bool stop)
{
    int how;
    kill(t->pid, stop ? SIGSTOP : SIGCONT);
    if (stop)
        waitpid(t->pid, &how, WUNTRACED);
    t->stopped = stop;
}
