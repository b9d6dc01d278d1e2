/* SPDX-License-Identifier: Apache-2.0 */
/* Peers as the core sees them: what they published, their memory, their queues. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "shm.h"

static const struct ferry_kv *find(const struct ferry_kvs *attrs, const char *key)
{
    for (size_t i = 0; i < attrs->n; i++)
        if (!strcmp(attrs->v[i].key, key))
            return &attrs->v[i];
    return NULL;
}

static bool text_of(const struct ferry_kvs *attrs, const char *key, char *out, size_t room)
{
    const struct ferry_kv *kv = find(attrs, key);

    return kv && kv->val_len && ft_text(kv, out, room);
}

static bool number_of(const struct ferry_kvs *attrs, const char *key, uint64_t max,
                      uint64_t *out)
{
    char text[24], *end;

    if (!text_of(attrs, key, text, sizeof(text)) ||
        strspn(text, "0123456789") != strlen(text) || strlen(text) > 20)
        return false;
    *out = strtoull(text, &end, 10);
    return *out <= max;
}

static bool token_of(const struct ferry_kvs *attrs, uint8_t *out)
{
    char text[2 * SHM_TOKEN_LEN + 1];

    if (!text_of(attrs, "shm_token", text, sizeof(text)) || strlen(text) != 2 * SHM_TOKEN_LEN ||
        strspn(text, "0123456789abcdef") != 2 * SHM_TOKEN_LEN)
        return false;
    for (size_t i = 0; i < SHM_TOKEN_LEN; i++) {
        char pair[3] = {text[2 * i], text[2 * i + 1], '\0'};
        out[i] = (uint8_t)strtoul(pair, NULL, 16);
    }
    return true;
}

static bool read_attrs(const struct ferry_kvs *attrs, struct ferry_peer *peer)
{
    uint64_t uid, pid;

    if (!text_of(attrs, "shm_boot", peer->ident.boot, sizeof(peer->ident.boot)) ||
        !text_of(attrs, "shm_socket", peer->sock, sizeof(peer->sock)) ||
        !token_of(attrs, peer->token) || !number_of(attrs, "shm_uid", UINT32_MAX, &uid) ||
        !number_of(attrs, "shm_pid", INT32_MAX, &pid) ||
        !number_of(attrs, "shm_pidns", UINT64_MAX, &peer->ident.pidns) ||
        !number_of(attrs, "shm_start", UINT64_MAX, &peer->ident.start) ||
        !number_of(attrs, "shm_token_addr", UINTPTR_MAX, &peer->token_addr))
        return false;
    peer->ident.uid = (uint32_t)uid;
    peer->ident.pid = (pid_t)pid;
    return pid > 0;
}

/* What can be told without asking it. */
static ferry_status within_reach(const struct ferry_tp *tp, const struct ferry_peer *peer)
{
    const struct shm_ident *own = &tp->ident, *its = &peer->ident;

    if (strcmp(own->boot, its->boot) != 0) {
        FT_LOG(tp->host, FERRY_LOG_INFO,
               "peer %s is on another host: boot id %s there, %s here", peer->name, its->boot,
               own->boot);
        return FERRY_EUNREACH;
    }
    if (own->uid != its->uid) {
        FT_LOG(tp->host, FERRY_LOG_INFO,
               "peer %s runs as user %u, this process as user %u: shm is for one user",
               peer->name, (unsigned)its->uid, (unsigned)own->uid);
        return FERRY_EUNREACH;
    }
    if (own->pidns != its->pidns) {
        FT_LOG(tp->host, FERRY_LOG_INFO,
               "peer %s is in another pid namespace (%" PRIu64 " there, %" PRIu64
               " here): containers have to share one",
               peer->name, its->pidns, own->pidns);
        return FERRY_EUNREACH;
    }
    return FERRY_OK;
}

ferry_status shm_peer_open(struct ferry_tp *tp, const char *peer_name,
                           const struct ferry_kvs *attrs, struct ferry_peer **peer_out)
{
    struct ferry_peer *peer = calloc(1, sizeof(*peer));
    ferry_status status;

    if (!peer)
        return FERRY_ENOMEM;
    peer->tp = tp;
    snprintf(peer->name, sizeof(peer->name), "%s", peer_name);
    if (!read_attrs(attrs, peer)) {
        FT_LOG(tp->host, FERRY_LOG_ERROR, "peer %s: its shm_ attributes are not complete",
               peer_name);
        status = FERRY_EINVAL;
    } else {
        status = within_reach(tp, peer);
    }
    if (status) {
        free(peer);
        return status;
    }
    pthread_mutex_init(&peer->attach_lock, NULL);
    pthread_mutex_lock(&tp->lock);
    peer->next = tp->peers;
    tp->peers = peer;
    pthread_mutex_unlock(&tp->lock);
    *peer_out = peer;
    return FERRY_OK;
}

/* Frees what peers left behind on this queue once its last element was reaped. */
static void reap_atts(struct ferry_queue *queue)
{
    for (struct shm_att **link = &queue->atts; *link;) {
        struct shm_att *att = *link;

        if (!att->peer &&
            !atomic_load_explicit(&att->inflight, memory_order_acquire)) { /* pairs with poll */
            *link = att->next;
            shm_conn_put(att->conn);
            free(att);
        } else {
            link = &att->next;
        }
    }
}

/* Makes the connection if there is none. attach_lock is held. */
static ferry_status connect_peer(struct ferry_peer *peer, uint32_t timeout_ms)
{
    struct ferry_tp *tp = peer->tp;
    struct shm_conn *conn = peer->conn;
    ferry_status status = conn ? atomic_load(&conn->dead) : FERRY_OK;

    if (conn || status)
        return status;
    status = shm_conn_open(peer, timeout_ms, &conn);
    if (status)
        return status;
    pthread_mutex_lock(&tp->lock);
    conn->id = tp->next_id++;
    peer->conn = conn;
    if (!shm_watch(tp, conn->fd, conn->id) || !shm_watch(tp, conn->pidfd, conn->id)) {
        peer->conn = NULL;
        shm_unwatch(tp, conn->fd);
        shm_unwatch(tp, conn->pidfd);
        shm_conn_put(conn);
        status = FERRY_ENOMEM;
    }
    for (uint32_t i = 0; !status && i < peer->table_len; i++)
        if (peer->table[i])
            shm_ask(conn, peer->table[i]); /* no room: asked at the first transfer */
    pthread_mutex_unlock(&tp->lock);
    return status;
}

ferry_status shm_peer_attach(struct ferry_peer *peer, struct ferry_queue *queue,
                             uint32_t timeout_ms)
{
    struct ferry_tp *tp = peer->tp;
    struct shm_att *att = calloc(1, sizeof(*att));
    ferry_status status;

    if (!att)
        return FERRY_ENOMEM;
    pthread_mutex_lock(&peer->attach_lock);
    status = connect_peer(peer, timeout_ms);
    pthread_mutex_lock(&tp->lock);
    reap_atts(queue);
    if (!status && !tp->helpers_asked) { /* not in open: who is only served needs none */
        tp->helpers_asked = true;
        tp->helpers = shm_helpers_start(tp->config.copy_threads);
    }
    if (!status && !atomic_load(&peer->att[queue->number])) {
        att->conn = peer->conn;
        att->conn->refs++;
        att->peer = peer;
        atomic_init(&att->open, true);
        att->next = queue->atts;
        queue->atts = att;
        atomic_store_explicit(&peer->att[queue->number], att,
                              memory_order_release); /* pairs with submit */
        att = NULL;
    }
    pthread_mutex_unlock(&tp->lock);
    pthread_mutex_unlock(&peer->attach_lock);
    free(att);
    return status;
}

static void unmap(struct ferry_rmem *rmem)
{
    if (atomic_load(&rmem->state) == SHM_HELD && rmem->map)
        munmap(rmem->map_start, rmem->map_len);
}

void shm_peer_close(struct ferry_peer *peer)
{
    struct ferry_tp *tp;
    struct shm_conn *conn;

    if (!peer)
        return;
    tp = peer->tp;
    pthread_mutex_lock(&tp->lock);
    for (struct ferry_peer **at = &tp->peers; *at; at = &(*at)->next) {
        if (*at == peer) {
            *at = peer->next;
            break;
        }
    }
    conn = peer->conn;
    for (uint32_t i = 0; i < SHM_MAX_QUEUES; i++) {
        struct shm_att *att = atomic_load(&peer->att[i]);
        if (att)
            atomic_store(&att->open, false);
    }
    if (conn)
        shm_page_quiet(conn->page, NULL, UINT32_MAX); /* our own threads, a chunk each */
    for (uint32_t i = 0; i < SHM_MAX_QUEUES; i++) {
        struct shm_att *att = atomic_load(&peer->att[i]);
        if (att)
            att->peer = NULL;
        if (tp->queues[i])
            reap_atts(tp->queues[i]);
    }
    for (uint32_t i = 0; i < peer->table_len; i++) {
        if (!peer->table[i])
            continue;
        unmap(peer->table[i]);
        free(peer->table[i]);
    }
    if (conn) {
        shm_unwatch(tp, conn->fd); /* the peer forgets our grants */
        shm_unwatch(tp, conn->pidfd);
        shm_conn_put(conn);
    }
    shm_kick_locked(tp); /* what is parked ends with FERRY_ECANCELED */
    pthread_mutex_unlock(&tp->lock);
    pthread_mutex_destroy(&peer->attach_lock);
    free(peer->table);
    free(peer);
}

/* A free place in the peer's table; false: no memory. */
static bool take_index(struct ferry_peer *peer, uint32_t *index_out)
{
    uint32_t len = peer->table_len;

    if (peer->table_used == len) {
        uint32_t more = len ? 2 * len : 16;
        struct ferry_rmem **table = realloc(peer->table, more * sizeof(struct ferry_rmem *));

        if (!table)
            return false;
        memset(table + len, 0, (more - len) * sizeof(struct ferry_rmem *));
        peer->table = table;
        peer->table_len = more;
        peer->table_hint = len;
    }
    while (peer->table[peer->table_hint])
        peer->table_hint = (peer->table_hint + 1) % peer->table_len;
    *index_out = peer->table_hint;
    return true;
}

ferry_status shm_rmem_open(struct ferry_peer *peer, uint64_t remote_addr, uint64_t len,
                           const struct ferry_kvs *attrs, struct ferry_rmem **rmem_out)
{
    struct ferry_rmem *rmem;
    bool ok;

    if (!len || len - 1 > UINT64_MAX - remote_addr)
        return FERRY_EINVAL;
    rmem = calloc(1, sizeof(*rmem));
    if (!rmem)
        return FERRY_ENOMEM;
    rmem->peer = peer;
    rmem->addr = remote_addr;
    rmem->len = len;
    pthread_mutex_lock(&peer->tp->lock);
    ok = take_index(peer, &rmem->index);
    if (ok) {
        rmem->generation = ++peer->generation;
        peer->table[rmem->index] = rmem;
        peer->table_used++;
        if (peer->conn && !atomic_load(&peer->conn->dead))
            shm_ask(peer->conn, rmem); /* no room: asked at the first transfer */
    }
    pthread_mutex_unlock(&peer->tp->lock);
    if (!ok) {
        free(rmem);
        return FERRY_ENOMEM;
    }
    *rmem_out = rmem;
    return FERRY_OK;
}

void shm_rmem_close(struct ferry_rmem *rmem)
{
    struct ferry_peer *peer;

    if (!rmem)
        return;
    peer = rmem->peer;
    pthread_mutex_lock(&peer->tp->lock);
    peer->table[rmem->index] = NULL;
    peer->table_used--;
    unmap(rmem);
    if (peer->conn && atomic_load(&rmem->state) == SHM_HELD)
        shm_let_go(peer->conn, rmem->slot);
    pthread_mutex_unlock(&peer->tp->lock);
    free(rmem);
}
