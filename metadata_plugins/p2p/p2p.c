/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The metadata "service" of Mooncake's P2PHANDSHAKE: there is no server. A segment's name is
 * the control address of its node, and its document is asked of that node by Mooncake's
 * Metadata exchange (docs/wire.md). What this node puts stays here. Knows the two kinds of keys
 * and nothing of the documents.
 */
#include "p2p.h"

#include <endian.h>
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

#include "../common/net.h"
#include "../common/plug.h"

#define MAX_REPLY        (128u << 20) /* bytes: Mooncake's own upper limit */
#define REQUEST_METADATA 1
#define HOST_MAX         256

struct own {
    struct own *next;
    char *key, *val;
    size_t val_len;
};

struct ferry_store {
    const struct ferry_host *host;
    uint32_t timeout_ms, default_port;
    pthread_mutex_t lock; /* guards own; the only lock, never held over a connection */
    struct own *own;      /* a handful */
};

static ferry_status p2p_open(const struct ferry_host *host, const char *uri,
                             const struct ferry_kvs *config, struct ferry_store **store_out)
{
    static const char *const known[] = {"timeout_ms", NULL};
    struct ferry_store *store;
    ferry_status status = fm_config_check(host, config, "p2p", known);

    if (status)
        return status;
    if (strcmp(uri, "p2p://") != 0) {
        FM_LOG(host, FERRY_LOG_ERROR, "metadata store \"%s\": p2p:// has no server", uri);
        return FERRY_EINVAL;
    }
    store = calloc(1, sizeof(*store));
    if (!store)
        return FERRY_ENOMEM;
    store->host = host;
    store->timeout_ms = 5000;
    store->default_port = 12001;
    status = fm_config_u32(host, config, "timeout_ms", 1, 3600000, &store->timeout_ms);
    if (!status)
        status =
            fm_config_u32(host, config, "core.default_port", 1, 65535, &store->default_port);
    if (status) {
        free(store);
        return status;
    }
    pthread_mutex_init(&store->lock, NULL);
    *store_out = store;
    return FERRY_OK;
}

static void own_free(struct own *own)
{
    if (!own)
        return;
    free(own->key);
    free(own->val);
    free(own);
}

static void p2p_close(struct ferry_store *store)
{
    if (!store)
        return;
    while (store->own) {
        struct own *own = store->own;

        store->own = own->next;
        own_free(own);
    }
    pthread_mutex_destroy(&store->lock);
    free(store);
}

static ferry_status p2p_query(struct ferry_store *store, struct ferry_store_caps *caps)
{
    struct ferry_store_caps none = {.max_value = MAX_REPLY};

    none.size = caps->size < sizeof(none) ? caps->size : (uint32_t)sizeof(none);
    memcpy(caps, &none, none.size);
    return FERRY_OK;
}

static struct own **own_find(struct ferry_store *store, const char *key)
{
    struct own **at = &store->own;

    while (*at && strcmp((*at)->key, key) != 0)
        at = &(*at)->next;
    return at;
}

static ferry_status p2p_put(struct ferry_store *store, const struct ferry_store_put *args,
                            uint32_t timeout_ms, uint64_t *rev_out)
{
    struct own *own, *old, **at;

    if (args->expect_rev != FERRY_REV_ANY || args->ttl_ms)
        return FERRY_ENOTSUP;
    if (args->val_len > MAX_REPLY)
        return FERRY_ERANGE;
    own = calloc(1, sizeof(*own));
    if (!own)
        return FERRY_ENOMEM;
    own->key = strdup(args->key);
    own->val = malloc(args->val_len + 1);
    own->val_len = args->val_len;
    if (!own->key || !own->val) {
        own_free(own);
        return FERRY_ENOMEM;
    }
    if (args->val_len)
        memcpy(own->val, args->val, args->val_len);
    pthread_mutex_lock(&store->lock);
    at = own_find(store, args->key);
    old = *at;
    own->next = old ? old->next : NULL;
    *at = own;
    pthread_mutex_unlock(&store->lock);
    own_free(old);
    if (rev_out)
        *rev_out = 0;
    return FERRY_OK;
}

static ferry_status p2p_del(struct ferry_store *store, const char *key, uint32_t timeout_ms)
{
    struct own **at, *old;

    pthread_mutex_lock(&store->lock);
    at = own_find(store, key);
    old = *at;
    if (old)
        *at = old->next;
    pthread_mutex_unlock(&store->lock);
    own_free(old);
    return FERRY_OK;
}

/* What follows the last "/ram/" or "/rpc_meta/" of the key; NULL: neither is in it. */
static const char *name_of(const char *key, int *is_rpc_meta)
{
    const char *at = strstr(key, "/rpc_meta/");

    *is_rpc_meta = at != NULL;
    if (at)
        return at + strlen("/rpc_meta/");
    at = strstr(key, "/ram/");
    return at ? at + strlen("/ram/") : NULL;
}

static ferry_status address_of(const char *host, uint16_t port, struct ferry_buf_sink *out)
{
    char json[HOST_MAX + 64];
    int n;

    for (const char *c = host; *c; c++) {
        if ((unsigned char)*c <= ' ' || *c == '"' || *c == '\\' || *c == 127)
            return FERRY_EUNREACH;
    }
    n = snprintf(json, sizeof(json), "{\"ip_or_host_name\":\"%s\",\"rpc_port\":%u}", host,
                 port);
    return out->append(out, json, (size_t)n);
}

/* Reads the reply's frame; *body_out is the caller's. */
static ferry_status read_reply(int fd, uint64_t deadline_ms, char **body_out, size_t *len_out,
                               char *why, size_t room)
{
    unsigned char head[9];
    uint64_t len;
    ferry_status status = fm_net_read(fd, head, sizeof(head), deadline_ms, why, room);
    char *body;

    if (status)
        return status;
    memcpy(&len, head, sizeof(len));
    len = le64toh(len);
    if (len < 2 || len > MAX_REPLY || head[8] != REQUEST_METADATA) {
        snprintf(why, room, "not a Metadata reply (type %u, %llu bytes)", head[8],
                 (unsigned long long)len);
        return FERRY_EUNREACH;
    }
    len--;
    body = malloc((size_t)len);
    if (!body)
        return FERRY_ENOMEM;
    status = fm_net_read(fd, body, (size_t)len, deadline_ms, why, room);
    if (status) {
        free(body);
        return status;
    }
    while (len && strchr("\n\r\t ", body[len - 1]))
        len--;
    if (len == 4 && !memcmp(body, "null", 4)) {
        snprintf(why, room, "has no document (still starting, or uses a metadata server)");
        free(body);
        return FERRY_EUNREACH;
    }
    *body_out = body;
    *len_out = (size_t)len;
    return FERRY_OK;
}

static ferry_status exchange(struct ferry_store *store, const char *host, uint16_t port,
                             uint32_t timeout_ms, struct ferry_buf_sink *out)
{
    static const unsigned char request[] = {4,   0,   0,   0, 0, 0, 0, 0, REQUEST_METADATA,
                                            '{', '}', '\n'};
    uint64_t deadline_ms = fm_now_ms() + timeout_ms;
    char why[256] = "out of memory";
    char *body = NULL;
    size_t len = 0;
    int fd = -1;
    ferry_status status = fm_net_connect(host, port, deadline_ms, &fd, why, sizeof(why));

    if (!status)
        status = fm_net_write(fd, request, sizeof(request), deadline_ms, why, sizeof(why));
    if (!status)
        status = read_reply(fd, deadline_ms, &body, &len, why, sizeof(why));
    if (fd >= 0)
        close(fd);
    if (status) {
        FM_LOG(store->host, FERRY_LOG_WARN, "peer %s port %u: asked for its document: %s", host,
               port, why);
        return status;
    }
    status = out->append(out, body, len);
    free(body);
    return status;
}

static ferry_status p2p_get(struct ferry_store *store, const char *key, uint32_t timeout_ms,
                            struct ferry_buf_sink *out, uint64_t *rev_out)
{
    char host[HOST_MAX];
    uint16_t port = 0;
    int is_rpc_meta, found;
    const char *name;
    struct own *own;
    ferry_status status = FERRY_OK;

    pthread_mutex_lock(&store->lock);
    own = *own_find(store, key);
    found = own != NULL;
    if (own)
        status = out->append(out, own->val, own->val_len);
    pthread_mutex_unlock(&store->lock);
    if (!found) {
        name = name_of(key, &is_rpc_meta);
        if (!name ||
            fm_net_split(name, (uint16_t)store->default_port, host, sizeof(host), &port)) {
            FM_LOG(store->host, FERRY_LOG_WARN, "%s: not a peer's host:port", key);
            return FERRY_EUNREACH;
        }
        status = is_rpc_meta ? address_of(host, port, out)
                             : exchange(store, host, port,
                                        timeout_ms ? timeout_ms : store->timeout_ms, out);
    }
    if (!status && rev_out)
        *rev_out = 0;
    return status;
}

const struct ferry_metadata_ops fm_p2p_ops = {
    .size = sizeof(struct ferry_metadata_ops),
    .open = p2p_open,
    .close = p2p_close,
    .query = p2p_query,
    .put = p2p_put,
    .get = p2p_get,
    .del = p2p_del,
};
