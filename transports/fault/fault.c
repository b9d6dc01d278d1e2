/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The fault transport's control calls: each passes on to the wrapped transport, some after a
 * throw of the dice. Attributes go through as they are, so that either end may do without this
 * wrapper. What happens to transfers is queue.c's.
 */
#include "fault.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Streams of random numbers; queues count up from 0 and down from UINT32_MAX. */
#define STREAM_OPEN   0x80000000u
#define STREAM_REG    0x80000001u
#define STREAM_ATTACH 0x80000002u

static bool hit(const struct ferry_tp *tp, uint32_t stream, uint64_t number, uint32_t mille)
{
    return mille && fault_random(&tp->cfg, stream, number) % 1000 < mille;
}

/* Which transport will be wrapped is known at open only. */
ferry_status fault_probe(const struct ferry_host *host)
{
    return FERRY_OK;
}

ferry_status fault_open(const struct ferry_host *host, const struct ferry_kvs *config,
                        struct ferry_tp **tp_out)
{
    static atomic_uint opens;
    const size_t n_keys = config ? config->n : 0;
    struct ferry_tp *tp = calloc(1, sizeof(*tp));
    struct ferry_kvs inner_config = {0};
    struct ferry_kv *v = calloc(n_keys + 1, sizeof(*v));
    const struct ferry_kv *inner;
    ferry_status status = FERRY_ENOMEM;
    if (!tp || !v)
        goto err_free;
    tp->host = host;
    status = fault_configure(host, config, &tp->cfg, &inner, v, &inner_config.n);
    if (status != FERRY_OK)
        goto err_free;
    inner_config.v = v;
    if (hit(tp, STREAM_OPEN, atomic_fetch_add(&opens, 1), tp->cfg.open_fail)) {
        FAULT_LOG(host, FERRY_LOG_INFO, "fault: open fails as asked");
        status = FERRY_EDEVICE;
        goto err_free;
    }
    status = fault_load(host, inner, &tp->inner);
    if (status != FERRY_OK)
        goto err_free;
    status = tp->inner.open(host, &inner_config, &tp->itp);
    if (status != FERRY_OK)
        goto err_free;
    struct ferry_tp_caps caps = {.size = sizeof(caps)};
    status = tp->inner.query(tp->itp, &caps);
    if (status != FERRY_OK) {
        tp->inner.close(tp->itp);
        goto err_free;
    }
    tp->inner_flags = caps.flags;
    pthread_mutex_init(&tp->lock, NULL);
    free(v);
    *tp_out = tp;
    return FERRY_OK;

err_free:
    free(v);
    free(tp);
    return status;
}

/* Frees closed peers that no element names any more; the lock is held. */
static void reap_peers(struct ferry_tp *tp)
{
    for (struct ferry_peer **link = &tp->closed; *link;) {
        struct ferry_peer *peer = *link;
        if (atomic_load_explicit(&peer->refs, memory_order_acquire)) { /* with queue.c */
            link = &peer->next;
        } else {
            *link = peer->next;
            free(peer);
        }
    }
}

void fault_close(struct ferry_tp *tp)
{
    if (!tp)
        return;
    tp->inner.close(tp->itp);
    reap_peers(tp);
    pthread_mutex_destroy(&tp->lock);
    free(tp);
}

ferry_status fault_query(struct ferry_tp *tp, struct ferry_tp_caps *caps)
{
    ferry_status status = tp->inner.query(tp->itp, caps);
    if (status == FERRY_OK &&
        caps->size >= offsetof(struct ferry_tp_caps, flags) + sizeof(caps->flags))
        caps->flags |= FERRY_CAP_MANUAL;
    return status;
}

ferry_status fault_device(struct ferry_tp *tp, uint32_t index, struct ferry_device *dev)
{
    return tp->inner.device(tp->itp, index, dev);
}

ferry_status fault_export_segment(struct ferry_tp *tp, struct ferry_kv_sink *out)
{
    return tp->inner.export_segment(tp->itp, out);
}

ferry_status fault_on_call(struct ferry_tp *tp, const char *peer_name, const void *req,
                           size_t req_len, struct ferry_buf_sink *reply)
{
    return tp->inner.on_call(tp->itp, peer_name, req, req_len, reply);
}

ferry_status fault_on_connection(struct ferry_tp *tp, const void *req, size_t req_len,
                                 struct ferry_buf_sink *reply)
{
    return tp->inner.on_connection ? tp->inner.on_connection(tp->itp, req, req_len, reply)
                                   : FERRY_ENOTSUP;
}

ferry_status fault_mem_reg(struct ferry_tp *tp, const struct ferry_mem_desc *desc, size_t n,
                           struct ferry_mr **mr_out)
{
    if (n == 0)
        return FERRY_OK;
    if (hit(tp, STREAM_REG, atomic_fetch_add(&tp->regs, 1), tp->cfg.reg_fail))
        return FERRY_ENOMEM;
    ferry_status status = FERRY_ENOMEM;
    struct ferry_mr **inner = calloc(n, sizeof(struct ferry_mr *));
    struct ferry_mr **outer = calloc(n, sizeof(struct ferry_mr *));
    size_t made = 0;
    if (!inner || !outer)
        goto out_free;
    for (; made < n; made++) {
        outer[made] = malloc(sizeof(struct ferry_mr));
        if (!outer[made])
            goto out_free;
    }
    status = tp->inner.mem_reg(tp->itp, desc, n, inner);
    if (status != FERRY_OK)
        goto out_free;
    for (size_t i = 0; i < n; i++) {
        const struct ferry_mem_desc *d = (const void *)((const char *)desc + i * desc->size);
        *outer[i] =
            (struct ferry_mr){.tp = tp, .inner = inner[i], .addr = d->addr, .len = d->len};
        mr_out[i] = outer[i];
    }
    made = 0;

out_free:
    while (made)
        free(outer[--made]);
    free(outer);
    free(inner);
    return status;
}

void fault_mem_dereg(struct ferry_tp *tp, struct ferry_mr *const *mr, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        tp->inner.mem_dereg(tp->itp, &mr[i]->inner, 1);
        free(mr[i]);
    }
}

ferry_status fault_export_mem(struct ferry_mr *mr, struct ferry_kv_sink *out)
{
    return mr->tp->inner.export_mem(mr->inner, out);
}

ferry_status fault_peer_open(struct ferry_tp *tp, const char *peer_name,
                             const struct ferry_kvs *attrs, struct ferry_peer **peer_out)
{
    struct ferry_peer *peer = calloc(1, sizeof(*peer));
    if (!peer)
        return FERRY_ENOMEM;
    peer->tp = tp;
    ferry_status status = tp->inner.peer_open(tp->itp, peer_name, attrs, &peer->inner);
    if (status != FERRY_OK) {
        free(peer);
        return status;
    }
    pthread_mutex_lock(&tp->lock);
    reap_peers(tp);
    pthread_mutex_unlock(&tp->lock);
    *peer_out = peer;
    return FERRY_OK;
}

ferry_status fault_peer_attach(struct ferry_peer *peer, struct ferry_queue *queue,
                               uint32_t timeout_ms)
{
    static const ferry_status lost[] = {FERRY_EUNREACH, FERRY_ETIMEDOUT, FERRY_ECONNRESET};
    struct ferry_tp *tp = peer->tp;
    unsigned number = atomic_fetch_add(&tp->attachs, 1);
    if (atomic_load(&peer->dead))
        return FERRY_ECONNRESET;
    if (tp->cfg.attach_us / 1000 > timeout_ms) {
        usleep(timeout_ms * 1000);
        return FERRY_ETIMEDOUT;
    }
    usleep((useconds_t)tp->cfg.attach_us);
    if (hit(tp, STREAM_ATTACH, number, tp->cfg.attach_fail))
        return lost[number % 3];
    if (hit(tp, STREAM_ATTACH, UINT64_C(1) << 32 | number, tp->cfg.stale))
        return FERRY_ESTALE;
    return tp->inner.peer_attach(peer->inner, queue->inner, timeout_ms);
}

void fault_peer_close(struct ferry_peer *peer)
{
    if (!peer)
        return;
    struct ferry_tp *tp = peer->tp;
    usleep((useconds_t)tp->cfg.close_us);
    tp->inner.peer_close(peer->inner);
    pthread_mutex_lock(&tp->lock);
    while (peer->rmems) {
        struct ferry_rmem *rmem = peer->rmems;
        peer->rmems = rmem->next;
        free(rmem);
    }
    atomic_store(&peer->closed, true);
    for (struct ferry_queue *queue = tp->queues; queue; queue = queue->next)
        fault_queue_kick(queue);
    peer->next = tp->closed;
    tp->closed = peer;
    reap_peers(tp);
    pthread_mutex_unlock(&tp->lock);
}

ferry_status fault_rmem_open(struct ferry_peer *peer, uint64_t remote_addr, uint64_t len,
                             const struct ferry_kvs *attrs, struct ferry_rmem **rmem_out)
{
    struct ferry_tp *tp = peer->tp;
    struct ferry_rmem *rmem = calloc(1, sizeof(*rmem));
    if (!rmem)
        return FERRY_ENOMEM;
    ferry_status status =
        tp->inner.rmem_open(peer->inner, remote_addr, len, attrs, &rmem->inner);
    if (status != FERRY_OK) {
        free(rmem);
        return status;
    }
    rmem->peer = peer;
    rmem->len = len;
    pthread_mutex_lock(&tp->lock);
    rmem->next = peer->rmems;
    rmem->link = &peer->rmems;
    if (rmem->next)
        rmem->next->link = &rmem->next;
    peer->rmems = rmem;
    pthread_mutex_unlock(&tp->lock);
    *rmem_out = rmem;
    return FERRY_OK;
}

void fault_rmem_close(struct ferry_rmem *rmem)
{
    if (!rmem)
        return;
    struct ferry_tp *tp = rmem->peer->tp;
    tp->inner.rmem_close(rmem->inner);
    pthread_mutex_lock(&tp->lock);
    *rmem->link = rmem->next;
    if (rmem->next)
        rmem->next->link = rmem->link;
    pthread_mutex_unlock(&tp->lock);
    free(rmem);
}

ferry_status fault_rail(struct ferry_peer *peer, struct ferry_queue *queue, char *text,
                        size_t len)
{
    if (!peer->tp->inner.rail)
        return FERRY_ENOTSUP;
    return peer->tp->inner.rail(peer->inner, queue->inner, text, len);
}

void fault_strerror_vendor(struct ferry_tp *tp, int32_t vendor_err, char *buf, size_t len)
{
    if (len)
        buf[0] = '\0';
    if (tp->inner.strerror_vendor)
        tp->inner.strerror_vendor(tp->itp, vendor_err, buf, len);
}
