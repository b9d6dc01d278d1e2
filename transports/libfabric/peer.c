/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Peers, their memory, and which device of theirs a link goes to.
 */
#include "fab.h"

#include <stdlib.h>
#include <string.h>

ferry_status fab_peer_open(struct ferry_tp *tp, const char *peer_name,
                           const struct ferry_kvs *attrs, struct ferry_peer **peer_out)
{
    struct ferry_peer *peer = calloc(1, sizeof(*peer));
    const char *why = NULL;
    ferry_status status;

    if (!peer || !(peer->name = strdup(peer_name))) {
        free(peer);
        return FERRY_ENOMEM;
    }
    peer->tp = tp;
    status = fab_remote_parse(attrs, &peer->remote, &why);
    if (status == FERRY_OK && strcmp(peer->remote.provider, tp->provider) != 0) {
        FT_LOG(tp->host, FERRY_LOG_ERROR,
               "peer %s uses the provider \"%s\" and we \"%s\": set \"provider\" alike",
               peer_name, peer->remote.provider, tp->provider);
        status = FERRY_ENOTSUP;
    } else if (status != FERRY_OK) {
        FT_LOG(tp->host, FERRY_LOG_ERROR, "peer %s: %s", peer_name, why);
    }
    if (status != FERRY_OK) {
        free(peer->name);
        free(peer);
        return status;
    }
    *peer_out = peer;
    return FERRY_OK;
}

/* The peer's device of the same name, as clusters are cabled, else its k-th for our k-th. */
static uint32_t pair(const struct ferry_queue *queue, const struct fab_remote *remote)
{
    for (uint32_t i = 0; i < remote->n; i++)
        if (strcmp(remote->device[i], queue->device->name) == 0)
            return i;
    return queue->device_index % remote->n;
}

ferry_status fab_peer_attach(struct ferry_peer *peer, struct ferry_queue *queue,
                             uint32_t timeout_ms)
{
    struct ferry_tp *tp = peer->tp;
    struct fab_link *link = atomic_load(&peer->link[queue->number]);
    ferry_status status;

    if (link) {
        pthread_mutex_lock(&queue->lock);
        status = link->state == LINK_DEAD ? link->status : FERRY_OK;
        pthread_mutex_unlock(&queue->lock);
        return status;
    }
    link = calloc(1, sizeof(*link));
    if (!link)
        return FERRY_ENOMEM;
    link->queue = queue;
    link->peer = peer;
    link->id = atomic_fetch_add_explicit(&tp->next_id, 1, memory_order_relaxed);
    link->remote_device = pair(queue, &peer->remote);
    link->end.fd = -1;
    link->backlog = link->posted = FAB_NONE;
    link->backlog_tail = &link->backlog;
    link->state = LINK_BROKEN;
    link->working = true;
    pthread_mutex_lock(&tp->lock); /* before it is up: the peer may ask after it */
    link->next = tp->links;
    tp->links = link;
    pthread_mutex_unlock(&tp->lock);
    status = fab_link_connect(link, NULL, 0, NULL, timeout_ms);
    pthread_mutex_lock(&tp->lock);
    link->working = false;
    if (status == FERRY_OK) {
        pthread_mutex_lock(&queue->lock);
        link->state = LINK_UP;
        link->next_of_queue = queue->links;
        queue->links = link;
        pthread_mutex_unlock(&queue->lock);
        atomic_store_explicit(&peer->link[queue->number], link, memory_order_release);
        pthread_cond_broadcast(&tp->wake); /* the clock runs */
    }
    pthread_mutex_unlock(&tp->lock);
    if (status != FERRY_OK) {
        fab_link_take(link);
        free(link);
    }
    return status;
}

void fab_peer_close(struct ferry_peer *peer)
{
    struct ferry_tp *tp;

    if (!peer)
        return;
    tp = peer->tp;
    for (uint32_t i = 0; i < FAB_MAX_QUEUES; i++) {
        struct fab_link *link = atomic_load(&peer->link[i]);
        if (link)
            fab_link_close(link);
    }
    pthread_mutex_lock(&tp->lock);
    while (peer->rmems) {
        struct ferry_rmem *rmem = peer->rmems;
        peer->rmems = rmem->next;
        free(rmem);
    }
    pthread_mutex_unlock(&tp->lock);
    free(peer->name);
    free(peer);
}

ferry_status fab_rmem_open(struct ferry_peer *peer, uint64_t remote_addr, uint64_t len,
                           const struct ferry_kvs *attrs, struct ferry_rmem **rmem_out)
{
    struct ferry_tp *tp = peer->tp;
    struct ferry_rmem *rmem = calloc(1, sizeof(*rmem));
    const char *why = NULL;
    ferry_status status;

    if (!rmem)
        return FERRY_ENOMEM;
    status = fab_keys_parse(attrs, &rmem->keys, &why);
    if (status == FERRY_OK && rmem->keys.n != peer->remote.n) {
        why = "it has not as many keys as the peer has devices";
        status = FERRY_EINVAL;
    }
    if (status == FERRY_OK && (!len || remote_addr < rmem->keys.base ||
                               remote_addr - rmem->keys.base > rmem->keys.len ||
                               len > rmem->keys.len - (remote_addr - rmem->keys.base))) {
        why = "the range is not inside of it";
        status = FERRY_ERANGE;
    }
    if (status != FERRY_OK) {
        FT_LOG(tp->host, FERRY_LOG_ERROR, "memory of %s at 0x%llx: %s", peer->name,
               (unsigned long long)remote_addr, why);
        free(rmem);
        return status;
    }
    rmem->peer = peer;
    rmem->len = len;
    rmem->skip = remote_addr - rmem->keys.base;
    pthread_mutex_lock(&tp->lock);
    rmem->next = peer->rmems;
    if (rmem->next)
        rmem->next->at = &rmem->next;
    rmem->at = &peer->rmems;
    peer->rmems = rmem;
    pthread_mutex_unlock(&tp->lock);
    *rmem_out = rmem;
    return FERRY_OK;
}

void fab_rmem_close(struct ferry_rmem *rmem)
{
    struct ferry_tp *tp;

    if (!rmem)
        return;
    tp = rmem->peer->tp;
    pthread_mutex_lock(&tp->lock);
    *rmem->at = rmem->next;
    if (rmem->next)
        rmem->next->at = rmem->at;
    pthread_mutex_unlock(&tp->lock);
    free(rmem);
}
