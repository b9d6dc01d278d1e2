/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Peers that are known: where they were found, so that a service that is away is not missed;
 * their documents from themselves; and word from the service that one of them came back.
 */
#include "store_inner.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control.h"
#include "error.h"
#include "util/clock.h"

#define MAX_KNOWN 65536

/* ---- addresses ---- */

/* Index of the name, or of the first one after it; known_lock is held. */
static size_t lower_bound(const struct fy_store *store, const char *name)
{
    size_t lo = 0, hi = store->n_known;

    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;

        if (strcmp(store->known[mid]->name, name) < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static struct fy_known *find(const struct fy_store *store, const char *name)
{
    size_t i = lower_bound(store, name);

    return i < store->n_known && !strcmp(store->known[i]->name, name) ? store->known[i] : NULL;
}

static void remember(struct fy_store *store, const char *name, const char *host, uint16_t port)
{
    struct fy_known *known;
    size_t at;

    pthread_mutex_lock(&store->known_lock);
    known = find(store, name);
    if (!known && store->n_known == store->cap_known && store->n_known < MAX_KNOWN) {
        size_t cap = store->cap_known ? store->cap_known * 2 : 16;
        struct fy_known **grown = realloc(store->known, cap * sizeof(struct fy_known *));

        if (grown) {
            store->known = grown;
            store->cap_known = cap;
        }
    }
    if (!known && store->n_known < store->cap_known) {
        known = calloc(1, sizeof(*known));
        if (known && !(known->name = strdup(name))) {
            free(known);
            known = NULL;
        }
        if (known) {
            at = lower_bound(store, name);
            memmove(&store->known[at + 1], &store->known[at],
                    (store->n_known - at) * sizeof(struct fy_known *));
            store->known[at] = known;
            store->n_known++;
        }
    }
    if (known) {
        snprintf(known->host, sizeof(known->host), "%s", host);
        known->port = port;
    }
    pthread_mutex_unlock(&store->known_lock);
}

static int recall(struct fy_store *store, const char *name, char *host_out, uint16_t *port_out)
{
    struct fy_known *known;

    pthread_mutex_lock(&store->known_lock);
    known = find(store, name);
    if (known) {
        memcpy(host_out, known->host, strlen(known->host) + 1);
        *port_out = known->port;
    }
    pthread_mutex_unlock(&store->known_lock);
    return known != NULL;
}

void fy_store_forget(struct fy_store *store, const char *name)
{
    struct fy_known *known;

    pthread_mutex_lock(&store->known_lock);
    known = find(store, name);
    if (known) {
        size_t i = lower_bound(store, name);

        memmove(&store->known[i], &store->known[i + 1],
                (store->n_known - i - 1) * sizeof(struct fy_known *));
        store->n_known--;
        free(known->name);
        free(known);
    }
    pthread_mutex_unlock(&store->known_lock);
}

void fy_store_forget_all(struct fy_store *store)
{
    for (size_t i = 0; i < store->n_known; i++) {
        free(store->known[i]->name);
        free(store->known[i]);
    }
    free(store->known);
    store->known = NULL;
    store->n_known = 0;
}

ferry_status fy_store_ask_address(struct fy_store *store, const char *name,
                                  uint64_t deadline_ns, char *host_out, uint16_t *port_out)
{
    char *key = fy_store_rpc_key(store, name);
    uint64_t rev;
    ferry_status status;

    if (!key)
        return fy_fail(FERRY_ENOMEM, "segment %s: out of memory", name);
    status = fy_store_get_address(store, key, deadline_ns, host_out, port_out, &rev);
    if (!status)
        remember(store, name, host_out, *port_out);
    else if (status == FERRY_ENOENT)
        fy_fail(status, "segment %s has no control address at metadata server %s", name,
                store->server);
    else if (status == FERRY_EINVAL)
        fy_fail(status, "%s at metadata server %s: not a control address", key, store->server);
    else
        fy_store_fail(store, status, key);
    free(key);
    return status;
}

ferry_status fy_store_address(struct fy_store *store, const char *name, uint32_t timeout_ms,
                              char *host_out, uint16_t *port_out)
{
    if (recall(store, name, host_out, port_out))
        return FERRY_OK;
    return fy_store_ask_address(store, name, fy_store_deadline(timeout_ms), host_out, port_out);
}

ferry_status fy_store_request(struct fy_store *store, const char *name, int type,
                              const char *body, size_t len, uint64_t deadline_ns,
                              struct fy_buf *reply)
{
    char host[FY_HOST_MAX], now[FY_HOST_MAX], text[1024];
    uint16_t port, port_now;
    int recalled = recall(store, name, host, &port);
    ferry_status status = FERRY_OK;

    if (!recalled)
        status = fy_store_ask_address(store, name, deadline_ns, host, &port);
    if (!status)
        status = fy_control_request(host, port, type, body, len, deadline_ns, reply);
    if (status != FERRY_EUNREACH || !recalled)
        return status;
    /* Nobody is there any more: it may have moved. What is not moved, or cannot be asked for,
     * failed as it did. */
    snprintf(text, sizeof(text), "%s", ferry_error());
    if (fy_store_ask_address(store, name, deadline_ns, now, &port_now) ||
        (!strcmp(now, host) && port_now == port))
        return fy_fail(status, "%s", text);
    return fy_control_request(now, port_now, type, body, len, deadline_ns, reply);
}

/* ---- documents ---- */

/* From the peer itself, which knows best. FERRY_ESTALE: another took its port. FERRY_ENOTSUP:
 * only our own nodes are sure to answer with it. */
static ferry_status ask_peer(const char *name, const char *host, uint16_t port,
                             uint64_t deadline_ns, struct fy_doc **doc_out)
{
    struct fy_buf reply;
    struct fy_doc *doc;
    ferry_status status;

    fy_buf_init(&reply, FY_MAX_DOCUMENT);
    status = fy_control_request(host, port, FY_CONTROL_METADATA, "{}", 2, deadline_ns, &reply);
    if (!status)
        status = fy_doc_parse(reply.data ? reply.data : "", reply.len, &doc);
    fy_buf_fini(&reply);
    if (status)
        return status;
    if (strcmp(doc->name, name) != 0)
        status = fy_fail(FERRY_ESTALE, "%s port %u is not %s any more", host, port, name);
    else if (!doc->epoch[0])
        status = fy_fail(FERRY_ENOTSUP, "%s does not say which incarnation it is", name);
    if (status)
        fy_doc_unref(doc);
    else
        *doc_out = doc;
    return status;
}

ferry_status fy_store_fetch_again(struct fy_store *store, const char *name, uint32_t timeout_ms,
                                  struct fy_doc **doc_out)
{
    uint64_t now = fy_now_ns();
    uint64_t half = (uint64_t)(timeout_ms ? timeout_ms : 1) * FY_NS_PER_MS / 2;
    int recalled, left_ms;
    char host[FY_HOST_MAX];
    uint16_t port;
    ferry_status status;

    recalled = !store->is_p2p && recall(store, name, host, &port);
    if (recalled) {
        status = ask_peer(name, host, port, now + half, doc_out);
        if (!status)
            return FERRY_OK;
        if (status == FERRY_ESTALE)
            fy_store_forget(store, name);
    }
    left_ms = fy_ms_left(now + 2 * half);
    status = fy_store_fetch(store, name, left_ms ? (uint32_t)left_ms : 1, doc_out);
    /* While the service is away, who stands still may go on before it is back. Where a node of
     * upstream's is was asked for just now. */
    if (recalled && !fy_is_away(status) && (status || (*doc_out)->epoch[0]))
        fy_store_forget(store, name);
    return status;
}

/* ---- news ---- */

static void on_event(void *arg, const struct ferry_store_event *event)
{
    struct fy_store *store = arg;
    size_t len = strlen(store->watch_prefix);

    if (event->type == FERRY_STORE_RESYNC)
        store->watch_cb(store->watch_arg, NULL);
    else if (event->type == FERRY_STORE_PUT && event->key &&
             !strncmp(event->key, store->watch_prefix, len))
        store->watch_cb(store->watch_arg, event->key + len);
}

ferry_status fy_store_watch(struct fy_store *store, void (*cb)(void *arg, const char *name),
                            void *arg)
{
    ferry_status status;

    if (!(store->caps.flags & FERRY_STORE_CAP_WATCH) || !store->may_watch)
        return fy_fail(FERRY_ENOTSUP, "metadata server %s has no watches", store->server);
    store->watch_prefix = fy_store_rpc_key(store, "");
    if (!store->watch_prefix)
        return fy_fail(FERRY_ENOMEM, "no memory for a watch");
    store->watch_cb = cb;
    store->watch_arg = arg;
    fy_store_begin_call();
    status = fy_store_end_call(store->ops->watch(store->handle, store->watch_prefix, on_event,
                                                 store, &store->watch_id));
    if (status) {
        free(store->watch_prefix);
        store->watch_prefix = NULL;
        return fy_store_fail(store, status, "watching");
    }
    return FERRY_OK;
}

void fy_store_unwatch(struct fy_store *store)
{
    if (!store->watch_prefix)
        return;
    store->ops->unwatch(store->handle, store->watch_id);
    free(store->watch_prefix);
    store->watch_prefix = NULL;
}

uint32_t fy_store_refresh_ms(const struct fy_store *store)
{
    return store->refresh_ms;
}
