/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A transport that moves nothing and does not end by itself, for test_stuck.c. It cannot cancel
 * and has no descriptor. Its key `manner`:
 *   lost   a queue takes one element, then is lost; whoever calls it after that is wrong
 *   deaf   what is submitted first fails with its peer; nothing else ends until it is closed
 */
#include "ferry/transport_plugin.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define DEPTH 16

struct ferry_tp {
    bool is_lost, has_failed;
    pthread_mutex_t lock; /* guards all; nothing else is locked under it */
    struct ferry_queue *queue;
};

struct under_way {
    struct ferry_peer *peer;
    struct ferry_comp comp; /* status 0: does not end */
};

struct ferry_queue {
    struct ferry_tp *tp;
    struct under_way list[DEPTH];
    uint32_t n;
    bool lost;
};

struct ferry_mr {
    char none;
};

struct ferry_peer {
    struct ferry_tp *tp;
};

static ferry_status open_(const struct ferry_host *host, const struct ferry_kvs *config,
                          struct ferry_tp **tp_out)
{
    struct ferry_tp *tp = calloc(1, sizeof(*tp));

    for (size_t i = 0; i < config->n; i++)
        if (!strcmp(config->v[i].key, "manner"))
            tp->is_lost = config->v[i].val_len == 4 && !memcmp(config->v[i].val, "lost", 4);
    pthread_mutex_init(&tp->lock, NULL);
    *tp_out = tp;
    return FERRY_OK;
}

static void close_(struct ferry_tp *tp)
{
    pthread_mutex_destroy(&tp->lock);
    free(tp);
}

static ferry_status query(struct ferry_tp *tp, struct ferry_tp_caps *caps)
{
    *caps = (struct ferry_tp_caps){.size = sizeof(*caps),
                                   .flags = FERRY_CAP_READ | FERRY_CAP_WRITE |
                                            FERRY_CAP_LOOPBACK | FERRY_CAP_MANUAL,
                                   .max_xfer_len = 1u << 30,
                                   .max_list = DEPTH,
                                   .max_queues = 1,
                                   .n_devices = 1,
                                   .addr_align = 1};
    return FERRY_OK;
}

static ferry_status device(struct ferry_tp *tp, uint32_t index, struct ferry_device *dev)
{
    *dev = (struct ferry_device){.size = sizeof(*dev), .numa_node = -1, .name = "stuck0"};
    return FERRY_OK;
}

static ferry_status export_segment(struct ferry_tp *tp, struct ferry_kv_sink *out)
{
    return FERRY_OK;
}

static ferry_status mem_reg(struct ferry_tp *tp, const struct ferry_mem_desc *desc, size_t n,
                            struct ferry_mr **mr_out)
{
    for (size_t i = 0; i < n; i++)
        mr_out[i] = calloc(1, sizeof(**mr_out));
    return FERRY_OK;
}

static void mem_dereg(struct ferry_tp *tp, struct ferry_mr *const *mr, size_t n)
{
    for (size_t i = 0; i < n; i++)
        free(mr[i]);
}

static ferry_status export_mem(struct ferry_mr *mr, struct ferry_kv_sink *out)
{
    return FERRY_OK;
}

static ferry_status peer_open(struct ferry_tp *tp, const char *peer_name,
                              const struct ferry_kvs *attrs, struct ferry_peer **peer_out)
{
    *peer_out = calloc(1, sizeof(**peer_out));
    (*peer_out)->tp = tp;
    return FERRY_OK;
}

static ferry_status peer_attach(struct ferry_peer *peer, struct ferry_queue *queue,
                                uint32_t timeout_ms)
{
    return FERRY_OK;
}

static void peer_close(struct ferry_peer *peer)
{
    struct ferry_queue *queue = peer->tp->queue;

    pthread_mutex_lock(&peer->tp->lock);
    for (uint32_t i = 0; i < queue->n; i++)
        if (queue->list[i].peer == peer)
            queue->list[i].comp.status = FERRY_ECANCELED;
    pthread_mutex_unlock(&peer->tp->lock);
    free(peer);
}

static ferry_status rmem_open(struct ferry_peer *peer, uint64_t remote_addr, uint64_t len,
                              const struct ferry_kvs *attrs, struct ferry_rmem **rmem_out)
{
    *rmem_out = (struct ferry_rmem *)peer;
    return FERRY_OK;
}

static void rmem_close(struct ferry_rmem *rmem)
{
}

static ferry_status queue_open(struct ferry_tp *tp, const struct ferry_queue_attr *attr,
                               struct ferry_queue **queue_out)
{
    tp->queue = *queue_out = calloc(1, sizeof(**queue_out));
    tp->queue->tp = tp;
    return FERRY_OK;
}

static void queue_close(struct ferry_queue *queue)
{
    free(queue);
}

static ferry_status submit(struct ferry_queue *queue, const struct ferry_list *list,
                           uint32_t *accepted_out)
{
    struct ferry_tp *tp = queue->tp;
    ferry_status status = FERRY_OK;

    *accepted_out = 0;
    if (queue->lost)
        abort();
    pthread_mutex_lock(&tp->lock);
    if (queue->n == DEPTH || (tp->is_lost && queue->n)) {
        status = FERRY_EAGAIN;
    } else {
        *accepted_out = tp->is_lost ? 1 : list->n;
        if (*accepted_out < list->n)
            status = FERRY_EAGAIN;
        queue->list[queue->n++] = (struct under_way){
            .peer = list->peer,
            .comp = {.cookie = list->cookie,
                     .first = list->first,
                     .n = *accepted_out,
                     .status = tp->is_lost || tp->has_failed ? FERRY_OK : FERRY_ECONNRESET}};
        tp->has_failed = true;
    }
    pthread_mutex_unlock(&tp->lock);
    return status;
}

static int32_t poll_(struct ferry_queue *queue, struct ferry_comp *comp, uint32_t max)
{
    struct ferry_tp *tp = queue->tp;
    uint32_t left = 0, n = 0;

    if (queue->lost)
        abort();
    queue->lost = tp->is_lost && queue->n;
    if (queue->lost)
        return FERRY_EDEVICE;
    pthread_mutex_lock(&tp->lock);
    for (uint32_t i = 0; i < queue->n; i++) {
        if (queue->list[i].comp.status && n < max)
            comp[n++] = queue->list[i].comp;
        else
            queue->list[left++] = queue->list[i];
    }
    queue->n = left;
    pthread_mutex_unlock(&tp->lock);
    return (int32_t)n;
}

static const struct ferry_transport_ops ops = {.size = sizeof(ops),
                                               .open = open_,
                                               .close = close_,
                                               .query = query,
                                               .device = device,
                                               .export_segment = export_segment,
                                               .mem_reg = mem_reg,
                                               .mem_dereg = mem_dereg,
                                               .export_mem = export_mem,
                                               .peer_open = peer_open,
                                               .peer_attach = peer_attach,
                                               .peer_close = peer_close,
                                               .rmem_open = rmem_open,
                                               .rmem_close = rmem_close,
                                               .queue_open = queue_open,
                                               .queue_close = queue_close,
                                               .submit = submit,
                                               .poll = poll_};

FERRY_TRANSPORT_PLUGIN("stuck", "1.0.0", &ops);
