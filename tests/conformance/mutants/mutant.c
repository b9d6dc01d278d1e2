/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A transport that is wrong on purpose, for the conformance suite's own test: it passes
 * everything on to another one, with one fault. Faults of the descriptor are chosen by a macro,
 * all others by the key "mutant". Control calls are here, queue calls in mutant_queue.c.
 */
#include "mutant.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

struct ferry_transport_ops mutant_inner;
const struct ferry_host *mutant_host;
char mutant_name[64];

/* A host between the real one and the wrapped transport, which keeps what it was lent. */
static struct {
    struct ferry_host host; /* first */
    const struct ferry_host *real;
} grabbing[8];
static unsigned n_grabbing;
static int spare_fd = -1;

static ferry_status grab_get(const struct ferry_host *host, uint64_t addr, uint64_t len,
                             uint32_t access, struct ferry_region *region_out)
{
    const struct ferry_host *real = grabbing[0].real;
    for (unsigned i = 0; i < n_grabbing; i++)
        if (host == &grabbing[i].host)
            real = grabbing[i].real;
    return real->region_get(real, addr, len, access, region_out);
}

static void grab_put(const struct ferry_host *host, struct ferry_region *region)
{
}

static const struct ferry_host *grab(const struct ferry_host *real)
{
    unsigned i = n_grabbing++ % 8;
    grabbing[i].host = *real;
    grabbing[i].real = real;
    grabbing[i].host.region_get = grab_get;
    grabbing[i].host.region_put = grab_put;
    return &grabbing[i].host;
}

static void *idle_main(void *arg)
{
    for (;;)
        pause();
    return NULL;
}

static void start_idle_thread(void)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, idle_main, NULL) == 0)
        pthread_detach(thread);
}

static ferry_status mutant_probe(const struct ferry_host *host)
{
    return FERRY_OK;
}

static ferry_status load(const char *path)
{
    void *file = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    const struct ferry_transport_plugin *p = file ? dlsym(file, FERRY_TRANSPORT_SYMBOL) : NULL;
    if (!p)
        return FERRY_ENOENT;
    mutant_inner = *p->ops;
    return FERRY_OK;
}

static ferry_status mutant_open(const struct ferry_host *host, const struct ferry_kvs *config,
                                struct ferry_tp **tp_out)
{
    struct ferry_kv inner[64];
    struct ferry_kvs inner_config = {.v = inner};
    char path[1024] = "";
    for (size_t i = 0; i < config->n && inner_config.n < 64; i++) {
        const struct ferry_kv *kv = &config->v[i];
        if (!strcmp(kv->key, "mutant") && kv->val_len < sizeof(mutant_name)) {
            memcpy(mutant_name, kv->val, kv->val_len);
            mutant_name[kv->val_len] = '\0';
        } else if (!strcmp(kv->key, "wrapped") && kv->val_len < sizeof(path)) {
            memcpy(path, kv->val, kv->val_len);
            path[kv->val_len] = '\0';
        } else if (strcmp(kv->key, "no_such_key_as_this") || !mutant_is("takes-unknown-key")) {
            inner[inner_config.n++] = *kv;
        }
    }
    mutant_host = host;
    if (mutant_is("crashes-in-open"))
        *(volatile int *)(uintptr_t)(inner_config.n * 0) = 1;
    ferry_status status = load(path);
    if (status != FERRY_OK)
        return status;
    if (mutant_is("keeps-regions"))
        host = grab(host);
    status = mutant_inner.open(host, &inner_config, tp_out);
    if (status != FERRY_OK && mutant_is("writes-output-on-failure"))
        *tp_out = NULL;
    if (status != FERRY_OK)
        return status;
    if (mutant_is("leaks-descriptor") && fcntl(0, F_DUPFD_CLOEXEC, 3) < 0)
        return FERRY_EINTERNAL;
    if (mutant_is("open-on-exec"))
        spare_fd = dup(0);
    if (mutant_is("leaks-thread"))
        start_idle_thread();
    if (mutant_is("leaks-memory")) {
        char *mem = malloc(4096);
        if (mem)
            memset(mem, 1, 4096);
        __asm__ volatile("" : : "r"(mem) : "memory");
    }
    return FERRY_OK;
}

static void mutant_close(struct ferry_tp *tp)
{
    if (mutant_is("hangs-in-close"))
        for (;;)
            pause();
    if (!tp && !mutant_is("crashes-at-close-of-null"))
        return;
    if (!tp)
        *(volatile int *)(uintptr_t)tp = 1;
    if (spare_fd >= 0)
        close(spare_fd);
    spare_fd = -1;
    mutant_inner.close(tp);
}

static ferry_status mutant_query(struct ferry_tp *tp, struct ferry_tp_caps *caps)
{
    struct ferry_tp_caps all = {.size = sizeof(all)};
    uint32_t room = caps->size;
    if (mutant_is("writes-beyond-size")) {
        ferry_status status = mutant_inner.query(tp, &all);
        *caps = all;
        return status;
    }
    ferry_status status = mutant_inner.query(tp, caps);
    if (status != FERRY_OK || room < sizeof(*caps))
        return status;
    if (mutant_is("denies-read"))
        caps->flags &= ~(uint32_t)FERRY_CAP_READ;
    if (mutant_is("denies-loopback"))
        caps->flags &= ~(uint32_t)FERRY_CAP_LOOPBACK;
    if (mutant_is("denies-cancel"))
        caps->flags &= ~(uint32_t)FERRY_CAP_CANCEL;
    if (mutant_is("few-queues"))
        caps->max_queues = 4;
    if (mutant_is("short-transfers"))
        caps->max_xfer_len = 4096;
    if (mutant_is("claims-device-memory"))
        caps->local_mem = FERRY_MEM_BIT(FERRY_MEM_DEVICE);
    return FERRY_OK;
}

static ferry_status mutant_device(struct ferry_tp *tp, uint32_t index, struct ferry_device *dev)
{
    return mutant_inner.device(tp, mutant_is("any-device") ? 0 : index, dev);
}

static ferry_status mutant_export_segment(struct ferry_tp *tp, struct ferry_kv_sink *out)
{
    return mutant_inner.export_segment(tp, out);
}

static ferry_status mutant_mem_reg(struct ferry_tp *tp, const struct ferry_mem_desc *desc,
                                   size_t n, struct ferry_mr **mr_out)
{
    struct ferry_mem_desc d[8];
    if (n > 8 || (!mutant_is("takes-any-kind") && !mutant_is("packed-descriptions") &&
                  !mutant_is("registers-some") && !mutant_is("ignores-local-access")))
        return mutant_inner.mem_reg(tp, desc, n, mr_out);
    const size_t stride = mutant_is("packed-descriptions") ? sizeof(*desc) : desc->size;
    for (size_t i = 0; i < n; i++) {
        d[i] = *(const struct ferry_mem_desc *)(const void *)((const char *)desc + i * stride);
        d[i].size = sizeof(d[i]);
        if (mutant_is("takes-any-kind"))
            d[i].kind = FERRY_MEM_HOST;
        if (mutant_is("ignores-local-access"))
            d[i].access |= FERRY_ACCESS_LOCAL_WRITE;
    }
    ferry_status status = mutant_inner.mem_reg(tp, d, n, mr_out);
    if (status != FERRY_OK && mutant_is("registers-some"))
        mutant_inner.mem_reg(tp, d, 1, mr_out);
    return status;
}

static void mutant_mem_dereg(struct ferry_tp *tp, struct ferry_mr *const *mr, size_t n)
{
    mutant_inner.mem_dereg(tp, mr, n);
}

static ferry_status mutant_export_mem(struct ferry_mr *mr, struct ferry_kv_sink *out)
{
    return mutant_inner.export_mem(mr, out);
}

static ferry_status mutant_peer_open(struct ferry_tp *tp, const char *peer_name,
                                     const struct ferry_kvs *attrs,
                                     struct ferry_peer **peer_out)
{
    return mutant_inner.peer_open(tp, peer_name, attrs, peer_out);
}

static ferry_status mutant_peer_attach(struct ferry_peer *peer, struct ferry_queue *queue,
                                       uint32_t timeout_ms)
{
    ferry_status status = mutant_inner.peer_attach(peer, queue, timeout_ms);
    if (status != FERRY_OK && mutant_is("attaches-to-the-dead"))
        return FERRY_OK;
    if (status != FERRY_OK && mutant_is("attach-takes-long"))
        nanosleep(&(struct timespec){.tv_sec = timeout_ms / 1000 + 3}, NULL);
    if (status != FERRY_OK && mutant_is("attach-blames-transfer"))
        return FERRY_EIO;
    return status;
}

static void *late_peer_close(void *arg)
{
    nanosleep(&(struct timespec){.tv_nsec = 400000000}, NULL);
    mutant_inner.peer_close(arg);
    return NULL;
}

static void mutant_peer_close(struct ferry_peer *peer)
{
    pthread_t thread;
    if (mutant_is("peer-close-does-not-wait") &&
        pthread_create(&thread, NULL, late_peer_close, peer) == 0) {
        pthread_detach(thread);
        return;
    }
    mutant_inner.peer_close(peer);
}

static ferry_status mutant_rmem_open(struct ferry_peer *peer, uint64_t remote_addr,
                                     uint64_t len, const struct ferry_kvs *attrs,
                                     struct ferry_rmem **rmem_out)
{
    return mutant_inner.rmem_open(peer, remote_addr, len, attrs, rmem_out);
}

static void mutant_rmem_close(struct ferry_rmem *rmem)
{
    mutant_inner.rmem_close(rmem);
}

static ferry_status mutant_queue_fd(struct ferry_queue *queue, int *fd_out)
{
    if (mutant_is("deaf-descriptor")) {
        *fd_out = eventfd(0, EFD_CLOEXEC);
        return FERRY_OK;
    }
    return mutant_inner.queue_fd(queue, fd_out);
}

static ferry_status mutant_on_call(struct ferry_tp *tp, const char *peer_name, const void *req,
                                   size_t req_len, struct ferry_buf_sink *reply)
{
    return mutant_inner.on_call ? mutant_inner.on_call(tp, peer_name, req, req_len, reply)
                                : FERRY_ENOTSUP;
}

#ifdef MUTANT_THREAD_AT_LOAD
__attribute__((constructor)) static void at_load(void)
{
    start_idle_thread();
}
#endif

#ifndef MUTANT_MAGIC
#define MUTANT_MAGIC FERRY_PLUGIN_MAGIC
#endif
#ifndef MUTANT_MAJOR
#define MUTANT_MAJOR FERRY_TRANSPORT_ABI_MAJOR
#endif
#ifndef MUTANT_TABLE_SIZE
#define MUTANT_TABLE_SIZE sizeof(struct ferry_transport_ops)
#endif
#ifndef MUTANT_POLL
#define MUTANT_POLL mutant_poll
#endif
#ifndef MUTANT_NAME
#define MUTANT_NAME "mutant"
#endif
#ifndef MUTANT_SYMBOL
#define MUTANT_SYMBOL ferry_transport_plugin
#endif

static const struct ferry_transport_ops mutant_ops = {
    .size = MUTANT_TABLE_SIZE,
    .probe = mutant_probe,
    .open = mutant_open,
    .close = mutant_close,
    .query = mutant_query,
    .device = mutant_device,
    .export_segment = mutant_export_segment,
    .on_call = mutant_on_call,
    .mem_reg = mutant_mem_reg,
    .mem_dereg = mutant_mem_dereg,
    .export_mem = mutant_export_mem,
    .peer_open = mutant_peer_open,
    .peer_attach = mutant_peer_attach,
    .peer_close = mutant_peer_close,
    .rmem_open = mutant_rmem_open,
    .rmem_close = mutant_rmem_close,
    .queue_open = mutant_queue_open,
    .queue_close = mutant_queue_close,
    .submit = mutant_submit,
    .poll = MUTANT_POLL,
    .cancel = mutant_cancel,
    .queue_fd = mutant_queue_fd,
    .queue_arm = mutant_queue_arm,
};

extern FERRY_PLUGIN_EXPORT const struct ferry_transport_plugin MUTANT_SYMBOL;
const struct ferry_transport_plugin MUTANT_SYMBOL = {
    .hdr = {.magic = MUTANT_MAGIC,
            .abi_major = MUTANT_MAJOR,
            .size = sizeof(struct ferry_transport_plugin),
            .name = MUTANT_NAME,
            .version = "1"},
    .ops = &mutant_ops,
};
