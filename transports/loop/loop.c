/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The loop transport's life, memory and peers. Peers are other open loop transports of this
 * process, found by a random token in one table; what they may touch at a peer is asked of that
 * peer's own host, as a server over a wire would. Copies nothing itself: queue.c does.
 */
#include "loop.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#define DESC_SIZE_1_0 (offsetof(struct ferry_mem_desc, reserved) + sizeof(uint32_t))

/* Guards the table, the domains' counts and their lists of attachments. Rank: innermost. */
static pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER;
static struct loop_domain *table;

static void domain_put_locked(struct loop_domain *domain)
{
    if (--domain->refs == 0)
        free(domain);
}

ferry_status loop_probe(const struct ferry_host *host)
{
    return FERRY_OK;
}

static bool parse_u64(const struct ferry_kv *kv, uint64_t min, uint64_t max, uint64_t *out)
{
    uint64_t value = 0;
    const char *p = kv->val;
    if (kv->val_len == 0 || kv->val_len > 19)
        return false;
    for (uint32_t i = 0; i < kv->val_len; i++) {
        if (p[i] < '0' || p[i] > '9')
            return false;
        value = value * 10 + (uint64_t)(p[i] - '0');
    }
    if (value < min || value > max)
        return false;
    *out = value;
    return true;
}

static ferry_status configure(struct ferry_tp *tp, const struct ferry_kvs *config)
{
    for (size_t i = 0; config && i < config->n; i++) {
        const struct ferry_kv *kv = &config->v[i];
        uint64_t value;
        if (!strncmp(kv->key, "core.", 5)) {
            continue;
        } else if (!strcmp(kv->key, "depth")) {
            if (!parse_u64(kv, 1, LOOP_MAX_DEPTH, &value))
                goto bad_value;
            tp->depth = (uint32_t)value;
        } else if (!strcmp(kv->key, "poll_bytes")) {
            if (!parse_u64(kv, 1, LOOP_MAX_XFER_LEN, &value))
                goto bad_value;
            tp->poll_bytes = value;
        } else {
            LOOP_LOG(tp->host, FERRY_LOG_ERROR,
                     "loop: unknown key \"%s\"; known are depth, poll_bytes", kv->key);
            return FERRY_EINVAL;
        }
        continue;
    bad_value:
        LOOP_LOG(tp->host, FERRY_LOG_ERROR, "loop: %s: \"%.*s\" is not a number in range",
                 kv->key, (int)kv->val_len, (const char *)kv->val);
        return FERRY_EINVAL;
    }
    return FERRY_OK;
}

static ferry_status random_token(char *token)
{
    unsigned char raw[LOOP_TOKEN_LEN / 2];
    if (getrandom(raw, sizeof(raw), 0) != (ssize_t)sizeof(raw))
        return FERRY_EINTERNAL;
    for (size_t i = 0; i < sizeof(raw); i++) {
        token[2 * i] = "0123456789abcdef"[raw[i] >> 4];
        token[2 * i + 1] = "0123456789abcdef"[raw[i] & 15];
    }
    token[LOOP_TOKEN_LEN] = '\0';
    return FERRY_OK;
}

ferry_status loop_open(const struct ferry_host *host, const struct ferry_kvs *config,
                       struct ferry_tp **tp_out)
{
    ferry_status status = FERRY_ENOMEM;
    struct ferry_tp *tp = calloc(1, sizeof(*tp));
    struct loop_domain *domain = calloc(1, sizeof(*domain));
    if (!tp || !domain)
        goto err_free;
    tp->host = host;
    tp->depth = LOOP_DEFAULT_DEPTH;
    tp->poll_bytes = UINT64_C(4) << 20;
    status = configure(tp, config);
    if (status != FERRY_OK)
        goto err_free;
    status = random_token(domain->token);
    if (status != FERRY_OK)
        goto err_free;
    domain->host = host;
    domain->refs = 1;
    atomic_init(&domain->alive, true);
    tp->domain = domain;
    pthread_mutex_init(&tp->lock, NULL);
    pthread_mutex_lock(&table_lock);
    domain->next = table;
    table = domain;
    pthread_mutex_unlock(&table_lock);
    *tp_out = tp;
    return FERRY_OK;

err_free:
    free(domain);
    free(tp);
    return status;
}

void loop_att_quiet(const struct loop_att *att)
{
    while (atomic_load(&att->busy))
        nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
}

void loop_close(struct ferry_tp *tp)
{
    if (!tp)
        return;
    struct loop_domain *domain = tp->domain;
    pthread_mutex_lock(&table_lock);
    for (struct loop_domain **link = &table; *link; link = &(*link)->next) {
        if (*link == domain) {
            *link = domain->next;
            break;
        }
    }
    atomic_store(&domain->alive, false);
    for (struct loop_att *att = domain->atts; att; att = att->dom_next)
        loop_att_quiet(att);
    domain_put_locked(domain);
    pthread_mutex_unlock(&table_lock);
    pthread_mutex_destroy(&tp->lock);
    free(tp);
}

/* Copies what the caller has room for; its `size` then says how much that was. */
static ferry_status give(void *dst, uint32_t room, void *src, uint32_t have)
{
    uint32_t n = room < have ? room : have;
    if (n < sizeof(uint32_t))
        return FERRY_EINVAL;
    memcpy(src, &n, sizeof(n));
    memcpy(dst, src, n);
    return FERRY_OK;
}

ferry_status loop_query(struct ferry_tp *tp, struct ferry_tp_caps *caps)
{
    struct ferry_tp_caps have = {
        .flags = FERRY_CAP_READ | FERRY_CAP_WRITE | FERRY_CAP_CANCEL | FERRY_CAP_EVENT_FD |
                 FERRY_CAP_LOOPBACK | FERRY_CAP_MANUAL,
        .local_mem = FERRY_MEM_BIT(FERRY_MEM_HOST),
        .remote_mem = FERRY_MEM_BIT(FERRY_MEM_HOST),
        .max_xfer_len = LOOP_MAX_XFER_LEN,
        .max_list = tp->depth,
        .max_queues = LOOP_MAX_QUEUES,
        .n_devices = 1,
        .addr_align = 1,
        .latency_ns = 200,
        .bandwidth_Bps = UINT64_C(10) << 30,
    };
    return give(caps, caps->size, &have, sizeof(have));
}

ferry_status loop_device(struct ferry_tp *tp, uint32_t index, struct ferry_device *dev)
{
    struct ferry_device have = {
        .numa_node = -1, .bandwidth_Bps = UINT64_C(10) << 30, .name = "loop"};
    if (index != 0)
        return FERRY_EINVAL;
    return give(dev, dev->size, &have, sizeof(have));
}

ferry_status loop_export_segment(struct ferry_tp *tp, struct ferry_kv_sink *out)
{
    struct ferry_kv kv = {.key = "loop_token",
                          .val = tp->domain->token,
                          .val_len = LOOP_TOKEN_LEN,
                          .flags = FERRY_KV_TEXT};
    return out->put(out, &kv);
}

ferry_status loop_mem_reg(struct ferry_tp *tp, const struct ferry_mem_desc *desc, size_t n,
                          struct ferry_mr **mr_out)
{
    const uint32_t stride = n ? desc->size : 0;
    const uint32_t known =
        FERRY_ACCESS_LOCAL_WRITE | FERRY_ACCESS_REMOTE_READ | FERRY_ACCESS_REMOTE_WRITE;
    for (size_t i = 0; i < n; i++) {
        const struct ferry_mem_desc *d = (const void *)((const char *)desc + i * stride);
        if (d->size != stride || d->size < DESC_SIZE_1_0 || !d->addr || !d->len ||
            d->access & ~known || d->len - 1 > UINTPTR_MAX - (uintptr_t)d->addr)
            return FERRY_EINVAL;
        if (d->kind != FERRY_MEM_HOST)
            return FERRY_ENOTSUP;
    }
    struct ferry_mr **mr = calloc(n ? n : 1, sizeof(struct ferry_mr *));
    if (!mr)
        return FERRY_ENOMEM;
    for (size_t i = 0; i < n; i++) {
        const struct ferry_mem_desc *d = (const void *)((const char *)desc + i * stride);
        mr[i] = malloc(sizeof(*mr[i]));
        if (!mr[i]) {
            loop_mem_dereg(tp, mr, i);
            free(mr);
            return FERRY_ENOMEM;
        }
        *mr[i] = (struct ferry_mr){.addr = d->addr, .len = d->len, .access = d->access};
    }
    memcpy(mr_out, mr, n * sizeof(struct ferry_mr *));
    free(mr);
    return FERRY_OK;
}

void loop_mem_dereg(struct ferry_tp *tp, struct ferry_mr *const *mr, size_t n)
{
    for (size_t i = 0; i < n; i++)
        free(mr[i]);
}

/* Addresses are all that it takes inside one process. */
ferry_status loop_export_mem(struct ferry_mr *mr, struct ferry_kv_sink *out)
{
    return FERRY_OK;
}

ferry_status loop_peer_open(struct ferry_tp *tp, const char *peer_name,
                            const struct ferry_kvs *attrs, struct ferry_peer **peer_out)
{
    const struct ferry_kv *token = NULL;
    for (size_t i = 0; i < attrs->n; i++)
        if (!strcmp(attrs->v[i].key, "loop_token"))
            token = &attrs->v[i];
    if (!token || token->val_len != LOOP_TOKEN_LEN) {
        LOOP_LOG(tp->host, FERRY_LOG_ERROR, "loop: peer %s: no loop_token of %u characters",
                 peer_name, LOOP_TOKEN_LEN);
        return FERRY_EINVAL;
    }
    struct ferry_peer *peer = calloc(1, sizeof(*peer));
    if (!peer)
        return FERRY_ENOMEM;
    peer->tp = tp;
    memcpy(peer->token, token->val, LOOP_TOKEN_LEN);
    *peer_out = peer;
    return FERRY_OK;
}

void loop_att_free(struct loop_att *att)
{
    pthread_mutex_lock(&table_lock);
    for (struct loop_att **link = &att->domain->atts; *link; link = &(*link)->dom_next) {
        if (*link == att) {
            *link = att->dom_next;
            break;
        }
    }
    domain_put_locked(att->domain);
    pthread_mutex_unlock(&table_lock);
    free(att);
}

/* Frees what peers left behind on this queue once its last element was reaped. */
static void reap_atts(struct ferry_queue *queue)
{
    for (struct loop_att **link = &queue->atts; *link;) {
        struct loop_att *att = *link;
        if (!att->peer &&
            !atomic_load_explicit(&att->inflight, memory_order_acquire)) { /* pairs with poll */
            *link = att->next;
            loop_att_free(att);
        } else {
            link = &att->next;
        }
    }
}

ferry_status loop_peer_attach(struct ferry_peer *peer, struct ferry_queue *queue,
                              uint32_t timeout_ms)
{
    struct ferry_tp *tp = peer->tp;
    ferry_status status = FERRY_OK;
    struct loop_att *att = calloc(1, sizeof(*att));
    if (!att)
        return FERRY_ENOMEM;
    pthread_mutex_lock(&tp->lock);
    struct loop_att *old = atomic_load(&peer->att[queue->number]);
    if (old) {
        if (!atomic_load(&old->domain->alive))
            status = FERRY_ECONNRESET;
        goto out_unlock;
    }
    reap_atts(queue);
    pthread_mutex_lock(&table_lock);
    for (struct loop_domain *d = table; d && !att->domain; d = d->next)
        if (!strcmp(d->token, peer->token))
            att->domain = d;
    if (att->domain) {
        att->domain->refs++;
        att->dom_next = att->domain->atts;
        att->domain->atts = att;
    }
    pthread_mutex_unlock(&table_lock);
    if (!att->domain) {
        status = FERRY_EUNREACH;
        goto out_unlock;
    }
    att->peer = peer;
    att->queue = queue;
    atomic_init(&att->open, true);
    att->next = queue->atts;
    queue->atts = att;
    atomic_store_explicit(&peer->att[queue->number], att,
                          memory_order_release); /* pairs with submit */
    att = NULL;

out_unlock:
    pthread_mutex_unlock(&tp->lock);
    free(att);
    return status;
}

void loop_peer_close(struct ferry_peer *peer)
{
    if (!peer)
        return;
    struct ferry_tp *tp = peer->tp;
    pthread_mutex_lock(&tp->lock);
    for (uint32_t i = 0; i < LOOP_MAX_QUEUES; i++) {
        struct loop_att *att = atomic_load(&peer->att[i]);
        if (!att)
            continue;
        atomic_store(&att->open, false);
        loop_att_quiet(att);
        att->peer = NULL;
        reap_atts(att->queue);
    }
    while (peer->rmems) {
        struct ferry_rmem *rmem = peer->rmems;
        peer->rmems = rmem->next;
        free(rmem);
    }
    pthread_mutex_unlock(&tp->lock);
    free(peer);
}

ferry_status loop_rmem_open(struct ferry_peer *peer, uint64_t remote_addr, uint64_t len,
                            const struct ferry_kvs *attrs, struct ferry_rmem **rmem_out)
{
    if (!len || len - 1 > UINT64_MAX - remote_addr)
        return FERRY_EINVAL;
    struct ferry_rmem *rmem = calloc(1, sizeof(*rmem));
    if (!rmem)
        return FERRY_ENOMEM;
    rmem->peer = peer;
    rmem->addr = remote_addr;
    rmem->len = len;
    pthread_mutex_lock(&peer->tp->lock);
    rmem->next = peer->rmems;
    rmem->link = &peer->rmems;
    if (rmem->next)
        rmem->next->link = &rmem->next;
    peer->rmems = rmem;
    pthread_mutex_unlock(&peer->tp->lock);
    *rmem_out = rmem;
    return FERRY_OK;
}

void loop_rmem_close(struct ferry_rmem *rmem)
{
    if (!rmem)
        return;
    pthread_mutex_lock(&rmem->peer->tp->lock);
    *rmem->link = rmem->next;
    if (rmem->next)
        rmem->next->link = rmem->link;
    pthread_mutex_unlock(&rmem->peer->tp->lock);
    free(rmem);
}
