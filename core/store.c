/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Mooncake's keys and values over whatever metadata plugin the configuration names: who owns a
 * name, in which order things are written and removed, and what is written again after the
 * service lost it. Knows no service and no transport; documents are doc.c's.
 */
#include "store.h"

#include <cjson/cJSON.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "control.h"
#include "error.h"
#include "names.h"
#include "util/clock.h"
#include "util/json.h"

#define P2P_SERVER      "P2PHANDSHAKE"
#define MAX_DOCUMENT    (128u << 20) /* bytes: what Mooncake's control channel can carry too */
#define DEFAULT_TIMEOUT 3000u
#define CLAIM_TRIES     4
#define RETRY_MIN_MS    250u

/* What this node has published or wants to. */
struct own {
    char *name, *doc;
    size_t doc_len;
    char host[FY_HOST_MAX];
    uint16_t port;
    int claimed; /* rpc_meta says host:port */
    int behind;  /* the service has not got the newest of it */
};

struct fy_store {
    struct ferry_host host; /* what the plugin gets: the engine's log, and nothing else */
    const struct ferry_host *engine_host;
    const struct fy_log *log;
    const struct ferry_metadata_ops *ops;
    struct ferry_store *handle;
    struct ferry_store_caps caps;
    char server[256]; /* as configured, without a password: for messages */
    char *prefix;     /* "mooncake/[cluster/]" */
    uint32_t ttl_ms, republish_ms;
    int is_p2p;

    /* Guards all below; never held over a plugin call. `busy`: one thread at a time writes our
     * own keys, the others wait for their turn. */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int busy, stop;
    struct own own;
    int keeper_runs;
    pthread_t keeper;
};

/* The plugin's last line in this thread: the words behind its status. */
static _Thread_local char plugin_words[512];

__attribute__((format(printf, 5, 6))) static void host_log(const struct ferry_host *host,
                                                           enum ferry_log_level level,
                                                           const char *file, int line,
                                                           const char *fmt, ...)
{
    const struct fy_store *store = (const struct fy_store *)host;
    char text[sizeof(plugin_words)];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    if (level <= FERRY_LOG_WARN)
        memcpy(plugin_words, text, sizeof(text));
    store->engine_host->log(store->engine_host, level, file, line, "%s", text);
}

static ferry_status fail(const struct fy_store *store, ferry_status status, const char *what)
{
    return fy_fail(status, "%s at metadata server %s: %s", what, store->server,
                   plugin_words[0] ? plugin_words : ferry_strstatus(status));
}

/* ---- the plugin's calls, bounded by one deadline ---------------------------------------- */

static uint32_t left_ms(uint64_t deadline_ns)
{
    int ms = fy_ms_left(deadline_ns);

    return ms > 0 ? (uint32_t)ms : 1; /* 0 would mean the plugin's default */
}

static uint64_t deadline_of(uint32_t timeout_ms)
{
    return fy_now_ns() + (timeout_ms ? timeout_ms : DEFAULT_TIMEOUT) * FY_NS_PER_MS;
}

static ferry_status do_put(struct fy_store *store, const char *key, const char *val, size_t len,
                           uint64_t expect_rev, uint64_t deadline_ns)
{
    int leases = (store->caps.flags & FERRY_STORE_CAP_LEASE) != 0;
    int cas = (store->caps.flags & FERRY_STORE_CAP_CAS) != 0;
    struct ferry_store_put args = {.size = sizeof(args),
                                   .ttl_ms = leases ? store->ttl_ms : 0,
                                   .expect_rev = cas ? expect_rev : FERRY_REV_ANY,
                                   .key = key,
                                   .val = val,
                                   .val_len = len};

    plugin_words[0] = '\0';
    return store->ops->put(store->handle, &args, left_ms(deadline_ns), NULL);
}

static ferry_status do_get(struct fy_store *store, const char *key, uint64_t deadline_ns,
                           struct fy_buf *out, uint64_t *rev_out)
{
    plugin_words[0] = '\0';
    *rev_out = 0;
    return store->ops->get(store->handle, key, left_ms(deadline_ns), &out->sink, rev_out);
}

static ferry_status do_del(struct fy_store *store, const char *key, uint64_t deadline_ns)
{
    plugin_words[0] = '\0';
    return store->ops->del(store->handle, key, left_ms(deadline_ns));
}

/* ---- keys and the rpc_meta value -------------------------------------------------------- */

/* "mooncake/[cluster/]ram/NAME", and without "ram/" where the name has a slash: Mooncake's. */
static char *key_of_doc(const struct fy_store *store, const char *name)
{
    char *key = NULL;

    while (*name == '/')
        name++;
    if (asprintf(&key, "%s%s%s", store->prefix, strchr(name, '/') ? "" : "ram/", name) < 0)
        return NULL;
    return key;
}

static char *key_of_rpc(const struct fy_store *store, const char *name)
{
    char *key = NULL;

    while (*name == '/')
        name++;
    return asprintf(&key, "%srpc_meta/%s", store->prefix, name) < 0 ? NULL : key;
}

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

static ferry_status rpc_parse(const char *text, size_t len, char *host_out, uint16_t *port_out)
{
    cJSON *json = cJSON_ParseWithLength(text ? text : "", len);
    const cJSON *host = cJSON_GetObjectItemCaseSensitive(json, "ip_or_host_name");
    const cJSON *port = cJSON_GetObjectItemCaseSensitive(json, "rpc_port");
    ferry_status status = FERRY_EINVAL;

    if (cJSON_IsString(host) && host->valuestring[0] &&
        strlen(host->valuestring) < FY_HOST_MAX && cJSON_IsNumber(port) &&
        port->valuedouble >= 1 && port->valuedouble <= 65535) {
        memcpy(host_out, host->valuestring, strlen(host->valuestring) + 1);
        *port_out = (uint16_t)port->valuedouble;
        status = FERRY_OK;
    }
    cJSON_Delete(json);
    return status;
}

/* ---- opening ------------------------------------------------------------------------------
 */

static char *scheme_of(const char *uri)
{
    const char *end = strstr(uri, "://");

    return strndup(uri, end ? (size_t)(end - uri) : strlen(uri));
}

static ferry_status take_number(const struct ferry_kv *kv, uint32_t min, uint32_t *out)
{
    char *end;
    unsigned long n = strtoul(kv->val, &end, 10);

    if (!kv->val_len || *end || n < min || n > 86400000)
        return fy_fail(FERRY_EINVAL, "ferry.metadata.%s: a number of %u to 86400000 is wanted",
                       kv->key, min);
    *out = (uint32_t)n;
    return FERRY_OK;
}

/* The sections "metadata" and, before it, the one that is named after the plugin; what is the
 * core's own is taken out. */
static ferry_status settings(struct fy_store *store, const struct fy_config *config,
                             const char *plugin, struct fy_kv *out)
{
    const char *const sections[] = {"metadata", plugin};
    char port[16];
    ferry_status status;

    snprintf(port, sizeof(port), "%d", (int)fy_config_int(config, "default_port", 12001));
    status = fy_kv_put_text(out, "core.default_port", port);
    for (size_t s = 0; s < 2 && !status; s++) {
        struct fy_kv kv;

        fy_kv_init(&kv);
        status = fy_config_section(config, sections[s], &kv);
        for (size_t i = 0; i < kv.kvs.n && !status; i++) {
            const struct ferry_kv *item = &kv.kvs.v[i];

            if (!strcmp(item->key, "ttl_ms"))
                status = take_number(item, 2000, &store->ttl_ms);
            else if (!strcmp(item->key, "republish_ms"))
                status = take_number(item, 100, &store->republish_ms);
            else
                status = fy_kv_put(out, item->key, item->val, item->val_len, item->flags);
        }
        fy_kv_fini(&kv);
    }
    return status;
}

static ferry_status open_plugin(struct fy_store *store, const struct fy_config *config,
                                struct fy_loader *loader, const char *uri, const char *scheme)
{
    const struct fy_metadata_plugin *plugin;
    struct fy_kv kv;
    ferry_status status = fy_loader_metadata(loader, scheme, &plugin);

    if (status == FERRY_ENOENT)
        return fy_fail_in(FERRY_ENOTSUP, "metadata server %s: ", store->server);
    if (status)
        return status;
    fy_kv_init(&kv);
    status = settings(store, config, plugin->name, &kv);
    if (!status) {
        plugin_words[0] = '\0';
        status = plugin->ops.open(&store->host, uri, &kv.kvs, &store->handle);
        if (status)
            fail(store, status, "opening");
    }
    fy_kv_fini(&kv);
    if (status)
        return status;
    store->ops = &plugin->ops;
    store->caps.size = sizeof(store->caps);
    status = store->ops->query(store->handle, &store->caps);
    return status ? fail(store, status, "asking for capabilities") : FERRY_OK;
}

ferry_status fy_store_open(const struct fy_config *config, struct fy_loader *loader,
                           const struct ferry_host *host, const struct fy_log *log,
                           struct fy_store **store_out)
{
    const char *server = config->metadata_server ? config->metadata_server : P2P_SERVER;
    struct fy_store *store = calloc(1, sizeof(*store));
    pthread_condattr_t attr;
    char *scheme = NULL;
    const char *uri;
    ferry_status status;

    if (!store)
        return fy_fail(FERRY_ENOMEM, "metadata store: out of memory");
    store->host = (struct ferry_host){.size = sizeof(store->host),
                                      .abi_major = host->abi_major,
                                      .abi_minor = host->abi_minor,
                                      .log_level = host->log_level,
                                      .log = host_log};
    store->engine_host = host;
    store->log = log;
    store->ttl_ms = 30000;
    store->republish_ms = 4000;
    store->is_p2p = !strcmp(server, P2P_SERVER);
    pthread_mutex_init(&store->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&store->changed, &attr);
    pthread_condattr_destroy(&attr);

    uri = store->is_p2p ? "p2p://" : server;
    scheme = scheme_of(uri);
    fy_config_hide(server, store->server, sizeof(store->server));
    if (!scheme || asprintf(&store->prefix, "mooncake/%s",
                            config->cluster_id ? config->cluster_id : "") < 0) {
        store->prefix = NULL;
        status = fy_fail(FERRY_ENOMEM, "metadata store: out of memory");
    } else {
        status = open_plugin(store, config, loader, uri, scheme);
    }
    free(scheme);
    if (status) {
        fy_store_close(store);
        return status;
    }
    *store_out = store;
    return FERRY_OK;
}

void fy_store_close(struct fy_store *store)
{
    if (!store)
        return;
    pthread_mutex_lock(&store->lock);
    store->stop = 1;
    pthread_cond_broadcast(&store->changed);
    pthread_mutex_unlock(&store->lock);
    if (store->keeper_runs)
        pthread_join(store->keeper, NULL);
    if (store->handle)
        store->ops->close(store->handle);
    free(store->own.name);
    free(store->own.doc);
    free(store->prefix);
    pthread_cond_destroy(&store->changed);
    pthread_mutex_destroy(&store->lock);
    free(store);
}

int fy_store_is_p2p(const struct fy_store *store)
{
    return store->is_p2p;
}

/* ---- reading ------------------------------------------------------------------------------
 */

ferry_status fy_store_fetch(struct fy_store *store, const char *name, uint32_t timeout_ms,
                            struct fy_doc **doc_out)
{
    uint64_t deadline_ns = deadline_of(timeout_ms), rev;
    char *key = key_of_doc(store, name);
    struct fy_buf buf;
    ferry_status status;

    if (!key)
        return fy_fail(FERRY_ENOMEM, "segment %s: out of memory", name);
    fy_buf_init(&buf, MAX_DOCUMENT);
    status = do_get(store, key, deadline_ns, &buf, &rev);
    if (status == FERRY_ENOENT)
        fy_fail(status, "segment %s is not known to metadata server %s", name, store->server);
    else if (status)
        fail(store, status, key);
    else if ((status = fy_doc_parse(buf.data ? buf.data : "", buf.len, doc_out)))
        fy_fail_in(status, "document of segment %s: ", name);
    fy_buf_fini(&buf);
    free(key);
    return status;
}

static ferry_status get_address(struct fy_store *store, const char *key, uint64_t deadline_ns,
                                char *host_out, uint16_t *port_out, uint64_t *rev_out)
{
    struct fy_buf buf;
    ferry_status status;

    fy_buf_init(&buf, 65536);
    status = do_get(store, key, deadline_ns, &buf, rev_out);
    if (!status)
        status = rpc_parse(buf.data, buf.len, host_out, port_out);
    fy_buf_fini(&buf);
    return status;
}

ferry_status fy_store_address(struct fy_store *store, const char *name, uint32_t timeout_ms,
                              char *host_out, uint16_t *port_out)
{
    char *key = key_of_rpc(store, name);
    uint64_t rev;
    ferry_status status;

    if (!key)
        return fy_fail(FERRY_ENOMEM, "segment %s: out of memory", name);
    status = get_address(store, key, deadline_of(timeout_ms), host_out, port_out, &rev);
    if (status == FERRY_ENOENT)
        fy_fail(status, "segment %s has no control address at metadata server %s", name,
                store->server);
    else if (status == FERRY_EINVAL)
        fy_fail(status, "%s at metadata server %s: not a control address", key, store->server);
    else if (status)
        fail(store, status, key);
    free(key);
    return status;
}

/* ---- writing ------------------------------------------------------------------------------
 */

/* Is this a document of a node of another name? */
static int is_named_otherwise(const struct fy_buf *doc, const char *name)
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
static int lives(const char *name, const char *host, uint16_t port, uint64_t deadline_ns)
{
    uint64_t limit = fy_now_ns() + 2000 * FY_NS_PER_MS;
    struct fy_buf reply;
    ferry_status status;
    int fd, alive = 1;

    if (deadline_ns < limit)
        limit = deadline_ns;
    fy_buf_init(&reply, MAX_DOCUMENT);
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
            alive = !is_named_otherwise(&reply, name);
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
    char *key = key_of_rpc(store, name), *text = rpc_encode(host, port);
    ferry_status status = FERRY_ECONFLICT;

    if (!key || !text) {
        status = fy_fail(FERRY_ENOMEM, "publishing %s: out of memory", name);
        goto out;
    }
    for (int i = 0; i < CLAIM_TRIES && status == FERRY_ECONFLICT; i++) {
        char owner[FY_HOST_MAX] = "";
        uint16_t owner_port = 0;
        uint64_t rev = 0;

        status = get_address(store, key, deadline_ns, owner, &owner_port, &rev);
        if (status == FERRY_ENOENT) {
            rev = FERRY_REV_ABSENT;
        } else if (status && status != FERRY_EINVAL) {
            break;
        } else if (!status && !strcmp(owner, host) && owner_port == port) {
            if (!leases)
                break; /* as it should be; some servers refuse to be told twice */
        } else if (!status && lives(name, owner, owner_port, deadline_ns)) {
            status = fy_fail(FERRY_EEXIST,
                             "name %s is taken: its owner at %s port %u is alive "
                             "(metadata server %s)",
                             name, owner, owner_port, store->server);
            goto out;
        } else {
            FY_INFO(store->log, "name %s: taken over from %s port %u, which does not answer",
                    name, owner[0] ? owner : "an unreadable entry,", owner_port);
            status = cas ? FERRY_OK : do_del(store, key, deadline_ns);
            if (status)
                break;
        }
        status = do_put(store, key, text, strlen(text), rev, deadline_ns);
    }
    if (status)
        fail(store, status, key);
out:
    cJSON_free(text);
    free(key);
    return status;
}

static ferry_status write_own(struct fy_store *store, const struct own *own, int claimed,
                              uint64_t deadline_ns)
{
    char *rpc_key = key_of_rpc(store, own->name), *doc_key = key_of_doc(store, own->name);
    char *text = rpc_encode(own->host, own->port);
    ferry_status status = FERRY_OK;

    if (!rpc_key || !doc_key || !text)
        status = fy_fail(FERRY_ENOMEM, "publishing %s: out of memory", own->name);
    else if (store->is_p2p)
        status = do_put(store, rpc_key, text, strlen(text), FERRY_REV_ANY, deadline_ns);
    else if (!claimed)
        status = claim(store, own->name, own->host, own->port, deadline_ns);
    if (!status) {
        status = do_put(store, doc_key, own->doc, own->doc_len, FERRY_REV_ANY, deadline_ns);
        if (status)
            fail(store, status, doc_key);
    }
    cJSON_free(text);
    free(rpc_key);
    free(doc_key);
    return status;
}

/* Waits for the turn to write; the lock is held. */
static ferry_status enter(struct fy_store *store, uint64_t deadline_ns)
{
    struct timespec until = {.tv_sec = (time_t)(deadline_ns / FY_NS_PER_S),
                             .tv_nsec = (long)(deadline_ns % FY_NS_PER_S)};

    while (store->busy) {
        if (pthread_cond_timedwait(&store->changed, &store->lock, &until) && store->busy)
            return fy_fail(FERRY_EUNREACH,
                           "metadata server %s: an earlier write has not ended yet",
                           store->server);
    }
    store->busy = 1;
    return FERRY_OK;
}

static void leave(struct fy_store *store)
{
    store->busy = 0;
    pthread_cond_broadcast(&store->changed);
}

static void *keeper_main(void *arg);

static void keeper_start(struct fy_store *store)
{
    int rc;

    if (store->keeper_runs || store->is_p2p)
        return;
    rc = pthread_create(&store->keeper, NULL, keeper_main, store);
    if (rc) {
        FY_WARN(store->log, "no thread to keep up what is published: %s", strerror(rc));
        return;
    }
    pthread_setname_np(store->keeper, "ferry-keeper");
    store->keeper_runs = 1;
}

ferry_status fy_store_publish(struct fy_store *store, const char *name, const char *host,
                              uint16_t rpc_port, const char *doc, size_t doc_len,
                              uint32_t timeout_ms)
{
    uint64_t deadline_ns = deadline_of(timeout_ms);
    struct own *own = &store->own;
    char *name_copy = strdup(name), *doc_copy = malloc(doc_len + 1);
    ferry_status status;
    int claimed;

    if (!name_copy || !doc_copy || strlen(host) >= sizeof(own->host)) {
        status = fy_fail(FERRY_EINVAL, "publishing %s: host too long", name);
        goto out;
    }
    memcpy(doc_copy, doc, doc_len);
    doc_copy[doc_len] = '\0';
    pthread_mutex_lock(&store->lock);
    status = enter(store, deadline_ns);
    if (status) {
        pthread_mutex_unlock(&store->lock);
        goto out;
    }
    claimed = own->claimed && own->name && !strcmp(own->name, name) &&
              !strcmp(own->host, host) && own->port == rpc_port;
    free(own->name);
    free(own->doc);
    own->name = name_copy;
    own->doc = doc_copy;
    own->doc_len = doc_len;
    memcpy(own->host, host, strlen(host) + 1);
    own->port = rpc_port;
    own->claimed = claimed;
    name_copy = doc_copy = NULL;
    pthread_mutex_unlock(&store->lock);

    status = write_own(store, own, claimed, deadline_ns);

    pthread_mutex_lock(&store->lock);
    own->behind = claimed && status != FERRY_OK;
    if (!status)
        own->claimed = 1;
    if (own->claimed)
        keeper_start(store);
    leave(store);
    pthread_mutex_unlock(&store->lock);
out:
    free(name_copy);
    free(doc_copy);
    return status;
}

/* Is rpc_meta (still) ours? FERRY_ENOENT: it is not there; FERRY_EEXIST: it is another's. */
static ferry_status check_own(struct fy_store *store, const struct own *own,
                              uint64_t deadline_ns)
{
    char host[FY_HOST_MAX], *key = key_of_rpc(store, own->name);
    uint16_t port;
    uint64_t rev;
    ferry_status status;

    if (!key)
        return FERRY_ENOMEM;
    status = get_address(store, key, deadline_ns, host, &port, &rev);
    free(key);
    if (status == FERRY_EINVAL || (!status && (strcmp(host, own->host) || port != own->port)))
        return FERRY_EEXIST;
    return status;
}

void fy_store_unpublish(struct fy_store *store, const char *name, uint32_t timeout_ms)
{
    uint64_t deadline_ns = deadline_of(timeout_ms);
    struct own *own = &store->own;
    char *rpc_key = key_of_rpc(store, name), *doc_key = key_of_doc(store, name);
    ferry_status status;

    pthread_mutex_lock(&store->lock);
    status = enter(store, deadline_ns);
    pthread_mutex_unlock(&store->lock);
    if (status || !rpc_key || !doc_key)
        goto out;
    if (own->name && !strcmp(own->name, name)) {
        if (!store->is_p2p && check_own(store, own, deadline_ns) == FERRY_EEXIST)
            FY_WARN(store->log, "name %s is another's now; its keys are left in place", name);
        else if (do_del(store, doc_key, deadline_ns) || do_del(store, rpc_key, deadline_ns))
            FY_WARN(store->log, "name %s could not be removed from metadata server %s", name,
                    store->server);
    }
    pthread_mutex_lock(&store->lock);
    own->claimed = own->behind = 0;
    leave(store);
    pthread_mutex_unlock(&store->lock);
out:
    free(rpc_key);
    free(doc_key);
}

/* ---- keeping it published -----------------------------------------------------------------
 */

/* A service without leases forgets what it was told when it restarts empty; one with leases is
 * looked after by its plugin. What it could not be told is told again in both. */
static ferry_status keep(struct fy_store *store, int *again_out)
{
    struct own *own = &store->own;
    uint64_t deadline_ns = deadline_of(0);
    ferry_status status = FERRY_OK;
    int lost = 0;

    if (!(store->caps.flags & FERRY_STORE_CAP_LEASE)) {
        status = check_own(store, own, deadline_ns);
        lost = status == FERRY_ENOENT;
        if (lost)
            status = FERRY_OK;
    }
    if (!status && (lost || own->behind)) {
        status = write_own(store, own, !lost, deadline_ns);
        if (!status)
            FY_INFO(store->log, "name %s: published again at metadata server %s", own->name,
                    store->server);
    }
    *again_out = status != FERRY_OK && status != FERRY_EEXIST;
    if (!status)
        own->behind = 0;
    return status;
}

/* Half to all of it: a thousand nodes must not come back in step. */
static uint32_t jittered(uint32_t ms, unsigned *seed)
{
    return ms / 2 + (uint32_t)rand_r(seed) % (ms / 2 + 1);
}

static void *keeper_main(void *arg)
{
    struct fy_store *store = arg;
    unsigned seed = (unsigned)fy_now_ns();
    uint32_t retry_ms = 0;
    int warned = 0;

    pthread_mutex_lock(&store->lock);
    while (!store->stop) {
        uint32_t ms = retry_ms ? retry_ms : store->republish_ms;
        uint64_t at = fy_now_ns() + jittered(ms, &seed) * FY_NS_PER_MS;
        struct timespec until = {.tv_sec = (time_t)(at / FY_NS_PER_S),
                                 .tv_nsec = (long)(at % FY_NS_PER_S)};
        ferry_status status;
        int again = 0;

        while (!store->stop &&
               pthread_cond_timedwait(&store->changed, &store->lock, &until) == 0)
            ;
        if (store->stop || store->busy || !store->own.claimed)
            continue;
        store->busy = 1;
        pthread_mutex_unlock(&store->lock);
        status = keep(store, &again);
        pthread_mutex_lock(&store->lock);
        leave(store);
        if (status == FERRY_EEXIST && !warned)
            FY_WARN(store->log, "name %s is held by another node now (metadata server %s)",
                    store->own.name, store->server);
        warned = status == FERRY_EEXIST;
        retry_ms = !again ? 0 : retry_ms ? retry_ms * 2 : RETRY_MIN_MS;
        if (retry_ms > store->republish_ms)
            retry_ms = store->republish_ms;
    }
    pthread_mutex_unlock(&store->lock);
    return NULL;
}
