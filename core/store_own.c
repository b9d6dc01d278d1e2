/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What this node publishes: who owns its name, what is written and removed in which order, and
 * what is written again after the service lost it or could not be told.
 */
#include "store_inner.h"

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "control.h"
#include "error.h"
#include "util/clock.h"
#include "util/json.h"
#include "util/thread.h"

#define CLAIM_TRIES  4
#define RETRY_MIN_MS 250u

/* Byte for byte what upstream writes: servers compare. */
static char *rpc_encode(const char *host, uint16_t port)
{
    cJSON *json = cJSON_CreateObject();
    char *text = NULL;

    if (cJSON_AddStringToObject(json, "ip_or_host_name", host) &&
        cJSON_AddNumberToObject(json, "rpc_port", port))
        text = cJSON_PrintUnformatted(json);
    cJSON_Delete(json);
    return text;
}

/* ---- writing ------------------------------------------------------------------------------
 */

/* Is this a document of a node of another name? */
static int is_of_another(const struct fy_buf *doc, const char *name)
{
    struct fy_json json, key, value;
    struct fy_json_iter iter;
    int otherwise = 0;

    if (fy_json_read(doc->data ? doc->data : "", doc->len, &json) ||
        json.type != FY_JSON_OBJECT)
        return 0;
    fy_json_enter(&json, &iter);
    while (fy_json_next(&iter, &key, &value)) {
        if (value.type == FY_JSON_STRING && value.len > 2 && fy_json_is(&key, "name"))
            otherwise = !fy_json_is(&value, name);
    }
    return otherwise;
}

/* Does the owner of `name` live at this address? A node that answers under another name has
 * only inherited the port of a dead one; what accepts a connection and says nothing (an old
 * node, a stopped one) counts as living. */
int fy_store_lives(const struct fy_store *store, const char *name, const char *host,
                   uint16_t port, uint64_t deadline_ns)
{
    uint64_t limit = fy_now_ns() + 2000 * FY_NS_PER_MS;
    struct fy_buf reply;
    ferry_status status;
    int fd, alive = 1;

    if (deadline_ns < limit)
        limit = deadline_ns;
    fy_buf_init(&reply, FY_MAX_DOCUMENT);
    status = fy_control_request(host, port, FY_CONTROL_PROBE, "{}", 2, limit, &reply);
    if (status == FERRY_EUNREACH) {
        alive = 0;
    } else if (status == FERRY_ETIMEDOUT) {
        alive = !fy_net_connect(host, port, fy_now_ns() + 200 * FY_NS_PER_MS, &fd);
        if (alive)
            close(fd);
    } else if (!status) {
        fy_buf_fini(&reply);
        if (!fy_control_request(host, port, FY_CONTROL_METADATA, "{}", 2, limit, &reply))
            alive = !is_of_another(&reply, name);
    }
    fy_buf_fini(&reply);
    return alive;
}

/* Makes rpc_meta of `name` say host:port, unless somebody else lives there. */
static ferry_status claim(struct fy_store *store, const char *name, const char *host,
                          uint16_t port, uint64_t deadline_ns)
{
    int leases = (store->caps.flags & FERRY_STORE_CAP_LEASE) != 0;
    int cas = (store->caps.flags & FERRY_STORE_CAP_CAS) != 0;
    char *key = fy_store_rpc_key(store, name), *text = rpc_encode(host, port);
    ferry_status status = FERRY_ECONFLICT;

    if (!key || !text) {
        status = fy_fail(FERRY_ENOMEM, "publishing %s: out of memory", name);
        goto out;
    }
    for (int i = 0; i < CLAIM_TRIES && status == FERRY_ECONFLICT; i++) {
        char owner[FY_HOST_MAX] = "";
        uint16_t owner_port = 0;
        uint64_t rev = 0;

        status = fy_store_get_address(store, key, deadline_ns, owner, &owner_port, &rev);
        if (status == FERRY_ENOENT) {
            rev = FERRY_REV_ABSENT;
        } else if (status && status != FERRY_EINVAL) {
            break;
        } else if (!status && !strcmp(owner, host) && owner_port == port) {
            if (!leases)
                break; /* as it should be; some servers refuse to be told twice */
        } else if (!status && store->lives(store, name, owner, owner_port, deadline_ns)) {
            status = fy_fail(FERRY_EEXIST,
                             "name %s is taken: its owner at %s port %u is alive "
                             "(metadata server %s)",
                             name, owner, owner_port, store->server);
            goto out;
        } else {
            FY_INFO(store->log, "name %s: taken over from %s port %u, which does not answer",
                    name, owner[0] ? owner : "an unreadable entry,", owner_port);
            status = cas ? FERRY_OK : fy_store_del(store, key, deadline_ns);
            if (status)
                break;
        }
        status = fy_store_put(store, key, text, strlen(text), rev, deadline_ns);
    }
    if (status)
        fy_store_fail(store, status, key);
out:
    cJSON_free(text);
    free(key);
    return status;
}

static ferry_status write_own(struct fy_store *store, const struct fy_own *own, int claimed,
                              uint64_t deadline_ns)
{
    char *rpc_key = fy_store_rpc_key(store, own->name),
         *doc_key = fy_store_doc_key(store, own->name);
    char *text = rpc_encode(own->host, own->port);
    ferry_status status = FERRY_OK;

    if (!rpc_key || !doc_key || !text)
        status = fy_fail(FERRY_ENOMEM, "publishing %s: out of memory", own->name);
    else if (store->is_p2p)
        status = fy_store_put(store, rpc_key, text, strlen(text), FERRY_REV_ANY, deadline_ns);
    else if (!claimed)
        status = claim(store, own->name, own->host, own->port, deadline_ns);
    if (!status) {
        status =
            fy_store_put(store, doc_key, own->doc, own->doc_len, FERRY_REV_ANY, deadline_ns);
        if (status)
            fy_store_fail(store, status, doc_key);
    }
    cJSON_free(text);
    free(rpc_key);
    free(doc_key);
    return status;
}

/* Waits for the turn to write; the lock is held. */
static ferry_status enter(struct fy_store *store, uint64_t deadline_ns)
{
    struct timespec until = fy_timespec(deadline_ns);

    while (store->busy) {
        if (pthread_cond_timedwait(&store->changed, &store->lock, &until) && store->busy)
            return fy_fail(FERRY_EUNREACH,
                           "metadata server %s: an earlier write has not ended yet",
                           store->server);
    }
    store->busy = 1;
    return FERRY_OK;
}

/* The lock is held. */
static void leave(struct fy_store *store)
{
    struct fy_own *own = &store->own;

    if (own->newer) {
        free(own->doc);
        own->doc = own->newer;
        own->doc_len = own->newer_len;
        own->newer = NULL;
        own->behind = 1;
    }
    store->busy = 0;
    pthread_cond_broadcast(&store->changed);
}

static void *keeper_main(void *arg);

static void keeper_start(struct fy_store *store)
{
    int rc;

    if (store->keeper_runs || store->is_p2p || store->no_keeper)
        return;
    rc = fy_thread_start(&store->keeper, "ferry-keeper", keeper_main, store);
    if (rc) {
        FY_WARN(store->log, "no thread to keep up what is published: %s", strerror(rc));
        return;
    }
    store->keeper_runs = 1;
}

void fy_store_end_keeper(struct fy_store *store)
{
    pthread_mutex_lock(&store->lock);
    store->stop = 1;
    pthread_cond_broadcast(&store->changed);
    pthread_mutex_unlock(&store->lock);
    if (store->keeper_runs)
        pthread_join(store->keeper, NULL);
    free(store->own.name);
    free(store->own.doc);
    free(store->own.newer);
}

/* The lock is held. The service is away, which the keeper knows: nobody waits for that again.
 */
static ferry_status publish_later(struct fy_store *store, char **doc, size_t doc_len)
{
    struct fy_own *own = &store->own;

    free(own->newer);
    own->newer = *doc;
    own->newer_len = doc_len;
    *doc = NULL;
    if (!store->busy)
        leave(store);
    return fy_fail(FERRY_EUNREACH, "metadata server %s has not answered lately", store->server);
}

ferry_status fy_store_publish(struct fy_store *store, const char *name, const char *host,
                              uint16_t rpc_port, const char *doc, size_t doc_len,
                              uint32_t timeout_ms)
{
    uint64_t deadline_ns = fy_store_deadline(timeout_ms);
    struct fy_own *own = &store->own;
    char *name_copy = strdup(name), *doc_copy = malloc(doc_len + 1);
    ferry_status status;
    int same;

    if (!name_copy || !doc_copy || strlen(host) >= sizeof(own->host)) {
        status = fy_fail(FERRY_EINVAL, "publishing %s: host too long", name);
        goto out;
    }
    memcpy(doc_copy, doc, doc_len);
    doc_copy[doc_len] = '\0';
    pthread_mutex_lock(&store->lock);
    if (own->away && own->claimed && !strcmp(own->name, name) && !strcmp(own->host, host) &&
        own->port == rpc_port) {
        status = publish_later(store, &doc_copy, doc_len);
        pthread_mutex_unlock(&store->lock);
        goto out;
    }
    status = enter(store, deadline_ns);
    if (status) {
        pthread_mutex_unlock(&store->lock);
        goto out;
    }
    same = own->claimed && own->name && !strcmp(own->name, name) && !strcmp(own->host, host) &&
           own->port == rpc_port;
    free(own->name);
    free(own->doc);
    own->name = name_copy;
    own->doc = doc_copy;
    own->doc_len = doc_len;
    memcpy(own->host, host, strlen(host) + 1);
    own->port = rpc_port;
    own->claimed = same;
    own->lost &= same;
    name_copy = doc_copy = NULL;
    pthread_mutex_unlock(&store->lock);

    status = write_own(store, own, same && !own->lost, deadline_ns);

    pthread_mutex_lock(&store->lock);
    own->behind = same && status != FERRY_OK;
    own->away = own->behind && fy_is_away(status);
    if (!status) {
        own->claimed = 1;
        own->lost = 0;
    }
    if (own->claimed)
        keeper_start(store);
    if (own->away && !store->retry_ms) { /* the keeper goes on where this ended */
        store->retry_ms = RETRY_MIN_MS;
        pthread_cond_broadcast(&store->changed);
    }
    leave(store);
    pthread_mutex_unlock(&store->lock);
out:
    free(name_copy);
    free(doc_copy);
    return status;
}

/* Is rpc_meta (still) ours? FERRY_ENOENT: it is not there; FERRY_EEXIST: it is another's. */
static ferry_status check_own(struct fy_store *store, const struct fy_own *own,
                              uint64_t deadline_ns)
{
    char host[FY_HOST_MAX], *key = fy_store_rpc_key(store, own->name);
    uint16_t port;
    uint64_t rev;
    ferry_status status;

    if (!key)
        return FERRY_ENOMEM;
    status = fy_store_get_address(store, key, deadline_ns, host, &port, &rev);
    if (status && status != FERRY_EINVAL && status != FERRY_ENOENT)
        fy_store_fail(store, status, key);
    free(key);
    if (status == FERRY_EINVAL || (!status && (strcmp(host, own->host) || port != own->port)))
        return FERRY_EEXIST;
    return status;
}

void fy_store_unpublish(struct fy_store *store, const char *name, uint32_t timeout_ms)
{
    uint64_t deadline_ns = fy_store_deadline(timeout_ms);
    struct fy_own *own = &store->own;
    char *rpc_key = fy_store_rpc_key(store, name), *doc_key = fy_store_doc_key(store, name);
    ferry_status status;

    pthread_mutex_lock(&store->lock);
    status = enter(store, deadline_ns);
    pthread_mutex_unlock(&store->lock);
    if (status || !rpc_key || !doc_key)
        goto out;
    if (own->name && !strcmp(own->name, name)) {
        if (!store->is_p2p && check_own(store, own, deadline_ns) == FERRY_EEXIST)
            FY_WARN(store->log, "name %s is another's now; its keys are left in place", name);
        else if ((status = fy_store_del(store, doc_key, deadline_ns)) ||
                 (status = fy_store_del(store, rpc_key, deadline_ns))) {
            fy_store_fail(store, status, "removing our name");
            FY_WARN(store->log, "%s", ferry_error());
        }
    }
    pthread_mutex_lock(&store->lock);
    own->claimed = own->lost = own->behind = own->away = 0;
    leave(store);
    pthread_mutex_unlock(&store->lock);
out:
    free(rpc_key);
    free(doc_key);
}

/* ---- keeping it published -----------------------------------------------------------------
 */

/* Every service may forget what it was told: restarted empty, cleared by somebody, or a lease
 * ended while this process was stopped. One look at one small key tells. */
static ferry_status keep(struct fy_store *store, int *away_out)
{
    struct fy_own *own = &store->own;
    uint64_t deadline_ns = fy_store_deadline(0);
    ferry_status status = check_own(store, own, deadline_ns);
    int gone = status == FERRY_ENOENT;

    if (gone)
        status = FERRY_OK;
    if (!status && (gone || own->lost || own->behind)) {
        status = write_own(store, own, !gone, deadline_ns);
        if (!status) {
            FY_INFO(store->log, "name %s: published again at metadata server %s", own->name,
                    store->server);
            own->behind = 0;
        }
    }
    *away_out = fy_is_away(status);
    return status;
}

/* Half to all of it: a thousand nodes must not come back in step. */
static uint32_t jittered(struct fy_store *store, uint32_t ms)
{
    return ms / 2 + (uint32_t)rand_r(&store->seed) % (ms / 2 + 1);
}

/* With leases the service forgets the dead by itself, and the plugin looks after the lease. */
static uint32_t interval_of(const struct fy_store *store)
{
    int leases = (store->caps.flags & FERRY_STORE_CAP_LEASE) != 0;
    uint32_t half = store->ttl_ms / 2;

    return leases && half > store->republish_ms ? half : store->republish_ms;
}

/* Lock held. Milliseconds until the next turn. */
static uint32_t pause_of(struct fy_store *store)
{
    return jittered(store, store->retry_ms ? store->retry_ms : interval_of(store));
}

uint32_t fy_store_turn(struct fy_store *store)
{
    ferry_status status;
    uint32_t ms;
    int away;

    pthread_mutex_lock(&store->lock);
    if (store->busy || !store->own.claimed) {
        ms = pause_of(store);
        pthread_mutex_unlock(&store->lock);
        return ms;
    }
    store->busy = 1;
    pthread_mutex_unlock(&store->lock);
    status = keep(store, &away);
    pthread_mutex_lock(&store->lock);
    if (away && !store->own.away)
        FY_WARN(
            store->log,
            "%s; peers that are known are not affected, and %s is published again when it is "
            "back",
            ferry_error(), store->own.name);
    else if (!away && store->own.away)
        FY_INFO(store->log, "metadata server %s answers again", store->server);
    store->own.away = away;
    if (status == FERRY_EEXIST && !store->own.lost)
        FY_WARN(store->log, "name %s is held by another node now (metadata server %s)",
                store->own.name, store->server);
    if (!status || status == FERRY_EEXIST) {
        store->own.lost = status == FERRY_EEXIST;
        store->retry_ms = 0;
    } else {
        store->retry_ms = store->retry_ms ? store->retry_ms * 2 : RETRY_MIN_MS;
    }
    if (store->retry_ms > store->republish_ms)
        store->retry_ms = store->republish_ms;
    leave(store);
    ms = pause_of(store);
    pthread_mutex_unlock(&store->lock);
    return ms;
}

static void *keeper_main(void *arg)
{
    struct fy_store *store = arg;
    uint64_t began = fy_now_ns();
    uint32_t ms;

    pthread_mutex_lock(&store->lock);
    ms = pause_of(store);
    while (!store->stop) {
        uint64_t at = began + ms * FY_NS_PER_MS;
        struct timespec until = fy_timespec(at);

        if (fy_now_ns() < at) {
            uint32_t retry_ms = store->retry_ms;

            pthread_cond_timedwait(&store->changed, &store->lock, &until);
            if (store->retry_ms && !retry_ms) { /* somebody found the service away */
                began = fy_now_ns();
                ms = pause_of(store);
            }
            continue;
        }
        pthread_mutex_unlock(&store->lock);
        ms = fy_store_turn(store);
        pthread_mutex_lock(&store->lock);
        began = fy_now_ns();
    }
    pthread_mutex_unlock(&store->lock);
    return NULL;
}
