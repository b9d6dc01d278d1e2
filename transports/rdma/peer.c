/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Peers and their memory, and which rails a link to a peer has. Knows neither queue pairs nor
 * work requests.
 */
#include "rdma.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

ferry_status rdma_peer_open(struct ferry_tp *tp, const char *peer_name,
                            const struct ferry_kvs *attrs, struct ferry_peer **peer_out)
{
    struct ferry_peer *peer = calloc(1, sizeof(*peer));
    const char *why = NULL;
    ferry_status status;
    uint32_t number = 0;

    if (!peer || !(peer->name = strdup(peer_name))) {
        status = FERRY_ENOMEM;
        goto err_free;
    }
    status = rdma_remote_parse(attrs, &peer->remote, &why);
    if (status != FERRY_OK) {
        FT_LOG(tp->host, FERRY_LOG_ERROR, "peer %s: %s", peer_name, why);
        goto err_free;
    }
    peer->tp = tp;
    pthread_mutex_lock(&tp->lock);
    while (number < tp->n_peers && tp->peers[number])
        number++;
    if (number == tp->n_peers) {
        uint32_t n = tp->n_peers ? tp->n_peers * 2 : 16;
        struct ferry_peer **grown = realloc(tp->peers, n * sizeof(*grown));
        if (!grown) {
            pthread_mutex_unlock(&tp->lock);
            status = FERRY_ENOMEM;
            goto err_free;
        }
        memset(grown + tp->n_peers, 0, (n - tp->n_peers) * sizeof(*grown));
        tp->peers = grown;
        tp->n_peers = n;
    }
    peer->number = number;
    tp->peers[number] = peer;
    pthread_mutex_unlock(&tp->lock);
    *peer_out = peer;
    return FERRY_OK;

err_free:
    if (peer)
        free(peer->name);
    free(peer);
    return status;
}

static uint32_t usable_at(const struct rdma_remote *remote, uint32_t want)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < remote->n; i++)
        n += remote->device[i].usable;
    want %= n;
    for (uint32_t i = 0;; i++)
        if (remote->device[i].usable && want-- == 0)
            return i;
}

/*
 * Our k-th device goes with the peer's of the same name, as clusters are cabled, else with its
 * k-th. Where one side has more devices than the other, each of them gets a rail.
 */
static void pair_rail(const struct ferry_tp *tp, const struct ferry_queue *queue,
                      const struct ferry_peer *peer, uint32_t k, struct rdma_rail *rail)
{
    const struct rdma_remote *remote = &peer->remote;
    uint32_t first;

    rail->local = (queue->home + k) % tp->n_devices;
    first = rail->local;
    for (uint32_t i = 0, nth = 0; i < remote->n; i++) {
        if (!remote->device[i].usable)
            continue;
        if (strcmp(remote->device[i].name, tp->device[rail->local].name) == 0)
            first = nth;
        nth++;
    }
    rail->remote = usable_at(remote, first + k / tp->n_devices);
}

static uint32_t count_rails(const struct ferry_tp *tp, const struct ferry_peer *peer)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < peer->remote.n; i++)
        n += peer->remote.device[i].usable;
    return n > tp->n_devices ? n : tp->n_devices;
}

static uint32_t power_of_two(uint32_t at_least)
{
    uint32_t p = 1;

    while (p < at_least)
        p *= 2;
    return p;
}

static void free_rails(struct rdma_link *link)
{
    for (uint32_t i = 0; i < link->n_rails; i++) {
        for (uint32_t k = 0; link->rail[i].qp && k < link->rail[i].n_qp; k++)
            free(link->rail[i].qp[k].slot);
        free(link->rail[i].qp);
    }
    free(link);
}

static struct rdma_link *new_link(struct ferry_peer *peer, struct ferry_queue *queue)
{
    struct ferry_tp *tp = peer->tp;
    uint32_t n = count_rails(tp, peer);
    uint32_t n_qp = tp->config.qps       ? tp->config.qps
                    : peer->remote.ferry ? RDMA_QPS
                                         : RDMA_QPS_FOREIGN;
    struct rdma_link *link = calloc(1, sizeof(*link) + n * sizeof(link->rail[0]));

    if (!link)
        return NULL;
    link->queue = queue;
    link->peer = peer;
    link->backlog = RDMA_NO_ITEM;
    link->backlog_tail = &link->backlog;
    link->n_rails = n;
    for (uint32_t i = 0; i < n; i++) {
        struct rdma_rail *rail = &link->rail[i];
        const struct rdma_device *device;
        uint32_t cap = tp->config.max_wr;
        rail->link = link;
        rail->job.rail = rail;
        rail->n_qp = n_qp;
        pair_rail(tp, queue, peer, i, rail);
        device = &tp->device[rail->local];
        rail->id = atomic_fetch_add_explicit(&tp->next_id, 1, memory_order_relaxed);
        rail->ns_per_byte = 1e9 / (double)device->bandwidth_Bps;
        if (device->max_wr > 0 && (uint32_t)device->max_wr < cap)
            cap = (uint32_t)device->max_wr;
        rail->qp = calloc(n_qp, sizeof(*rail->qp));
        for (uint32_t k = 0; rail->qp && k < n_qp; k++) {
            struct rdma_qp *qp = &rail->qp[k];
            uint32_t slots = power_of_two(2 * n * n_qp * cap);
            qp->rail = rail;
            qp->cap = cap;
            qp->mask = slots - 1;
            qp->slot = calloc(slots, sizeof(*qp->slot));
            if (!qp->slot)
                break;
        }
        if (!rail->qp || !rail->qp[n_qp - 1].slot) {
            free_rails(link);
            return NULL;
        }
    }
    return link;
}

/* Numbers for its queue pairs, and a place by the peer's number. The queue's lock is held. */
static ferry_status enter_link(struct ferry_queue *queue, struct rdma_link *link)
{
    uint32_t number = link->peer->number, next = 0;
    uint32_t want = link->n_rails * link->rail[0].n_qp;

    if (number >= queue->n_links) {
        uint32_t n = power_of_two(number + 1);
        struct rdma_link **links = realloc(queue->links, n * sizeof(*links));
        if (!links)
            return FERRY_ENOMEM;
        memset(links + queue->n_links, 0, (n - queue->n_links) * sizeof(*links));
        queue->links = links;
        queue->n_links = n;
    }
    for (uint32_t i = 0; i < queue->n_qps; i++)
        want -= want && !queue->qps[i];
    if (want) {
        uint32_t n = power_of_two(queue->n_qps + want);
        struct rdma_qp **qps;
        uint16_t *generations;
        if (n > UINT16_MAX)
            return FERRY_ERANGE;
        qps = realloc(queue->qps, n * sizeof(*qps));
        if (!qps)
            return FERRY_ENOMEM;
        queue->qps = qps;
        generations = realloc(queue->generations, n * sizeof(*generations));
        if (!generations)
            return FERRY_ENOMEM;
        queue->generations = generations;
        memset(qps + queue->n_qps, 0, (n - queue->n_qps) * sizeof(*qps));
        memset(generations + queue->n_qps, 0, (n - queue->n_qps) * sizeof(*generations));
        queue->n_qps = n;
    }
    for (uint32_t i = 0; i < link->n_rails; i++)
        for (uint32_t k = 0; k < link->rail[i].n_qp; k++) {
            while (queue->qps[next])
                next++;
            link->rail[i].qp[k].index = next;
            queue->qps[next] = &link->rail[i].qp[k];
        }
    queue->links[number] = link;
    return FERRY_OK;
}

/* Its numbers are free again. The queue's lock is held. */
static void leave_link(struct ferry_queue *queue, struct rdma_link *link)
{
    for (struct rdma_link **at = &queue->listed; *at; at = &(*at)->next_listed)
        if (*at == link) {
            *at = link->next_listed;
            break;
        }
    queue->links[link->peer->number] = NULL;
    for (uint32_t i = 0; i < link->n_rails; i++)
        for (uint32_t k = 0; k < link->rail[i].n_qp; k++)
            queue->qps[link->rail[i].qp[k].index] = NULL;
}

ferry_status rdma_peer_attach(struct ferry_peer *peer, struct ferry_queue *queue,
                              uint32_t timeout_ms)
{
    struct ferry_tp *tp = peer->tp;
    struct rdma_link *link;
    ferry_status status = FERRY_OK;

    pthread_mutex_lock(&tp->lock);
    pthread_mutex_lock(&queue->lock);
    link = peer->number < queue->n_links ? queue->links[peer->number] : NULL;
    if (!link) {
        link = new_link(peer, queue);
        status = link ? enter_link(queue, link) : FERRY_ENOMEM;
        if (status == FERRY_OK) {
            link->next_of_peer = peer->links;
            peer->links = link;
        } else if (link) {
            free_rails(link);
        }
    }
    pthread_mutex_unlock(&queue->lock);
    pthread_mutex_unlock(&tp->lock);
    return status == FERRY_OK ? rdma_link_connect(link, timeout_ms) : status;
}

/* All of them, the first one first: others come up when there is much to send. Cut where they
 * are many. */
ferry_status rdma_rail_names(struct ferry_peer *peer, struct ferry_queue *queue, char *text,
                             size_t len)
{
    struct rdma_link *link;
    size_t used = 0;

    if (len == 0)
        return FERRY_EINVAL;
    text[0] = '\0';
    pthread_mutex_lock(&queue->lock);
    link = peer->number < queue->n_links ? queue->links[peer->number] : NULL;
    for (uint32_t i = 0; link && i < link->n_rails && used < len; i++) {
        const struct rdma_rail *rail = &link->rail[i];
        used += (size_t)snprintf(text + used, len - used, "%s%s-%s", used ? "," : "",
                                 peer->tp->device[rail->local].name,
                                 peer->remote.device[rail->remote].name);
    }
    pthread_mutex_unlock(&queue->lock);
    return link ? FERRY_OK : FERRY_ENOENT;
}

void rdma_link_close(struct rdma_link *link)
{
    struct ferry_queue *queue = link->queue;

    rdma_link_down(link);
    pthread_mutex_lock(&queue->lock);
    leave_link(queue, link);
    rdma_queue_wake(queue);
    pthread_mutex_unlock(&queue->lock);
    free_rails(link);
}

void rdma_peer_close(struct ferry_peer *peer)
{
    struct ferry_tp *tp;

    if (!peer)
        return;
    tp = peer->tp;
    for (;;) {
        struct rdma_link *link;
        pthread_mutex_lock(&tp->lock);
        link = peer->links;
        if (link)
            peer->links = link->next_of_peer;
        pthread_mutex_unlock(&tp->lock);
        if (!link)
            break;
        rdma_link_close(link);
    }
    pthread_mutex_lock(&tp->lock);
    while (peer->rmems) {
        struct ferry_rmem *rmem = peer->rmems;
        peer->rmems = rmem->next;
        free(rmem->keys.key);
        free(rmem);
    }
    tp->peers[peer->number] = NULL;
    pthread_mutex_unlock(&tp->lock);
    free(peer->name);
    free(peer);
}

ferry_status rdma_rmem_open(struct ferry_peer *peer, uint64_t remote_addr, uint64_t len,
                            const struct ferry_kvs *attrs, struct ferry_rmem **rmem_out)
{
    struct ferry_tp *tp = peer->tp;
    struct ferry_rmem *rmem = calloc(1, sizeof(*rmem));
    const char *why = NULL;
    ferry_status status;

    if (!rmem)
        return FERRY_ENOMEM;
    status = len && len - 1 <= UINT64_MAX - remote_addr
                 ? rdma_keys_parse(attrs, peer->remote.n, len, &rmem->keys, &why)
                 : FERRY_EINVAL;
    if (status != FERRY_OK) {
        FT_LOG(tp->host, FERRY_LOG_ERROR, "memory of %s at 0x%llx: %s", peer->name,
               (unsigned long long)remote_addr, why ? why : "no valid range");
        free(rmem);
        return status;
    }
    rmem->peer = peer;
    rmem->addr = remote_addr;
    rmem->len = len;
    pthread_mutex_lock(&tp->lock);
    rmem->next = peer->rmems;
    if (rmem->next)
        rmem->next->link = &rmem->next;
    rmem->link = &peer->rmems;
    peer->rmems = rmem;
    pthread_mutex_unlock(&tp->lock);
    *rmem_out = rmem;
    return FERRY_OK;
}

void rdma_rmem_close(struct ferry_rmem *rmem)
{
    struct ferry_tp *tp;

    if (!rmem)
        return;
    tp = rmem->peer->tp;
    pthread_mutex_lock(&tp->lock);
    *rmem->link = rmem->next;
    if (rmem->next)
        rmem->next->link = rmem->link;
    pthread_mutex_unlock(&tp->lock);
    free(rmem->keys.key);
    free(rmem);
}
