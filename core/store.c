/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Mooncake's keys and values over whatever metadata plugin the configuration names: opening and
 * reading. Knows no service and no transport; documents are doc.c's.
 */
#include "store_inner.h"

#include <cjson/cJSON.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "error.h"
#include "util/clock.h"
#include "util/thread.h"

#define P2P_SERVER      "P2PHANDSHAKE"
#define DEFAULT_TIMEOUT 3000u

/* The plugin's last line in this thread: the words behind its status. While a call of ours is
 * under way they become the error's text, which is not to be said twice. */
static _Thread_local char plugin_words[512];
static _Thread_local int in_call;

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
    if (in_call && level <= FERRY_LOG_WARN)
        level = FERRY_LOG_DEBUG;
    if ((int)level <= *store->engine_host->log_level)
        store->engine_host->log(store->engine_host, level, file, line, "%s", text);
}

void fy_store_begin_call(void)
{
    plugin_words[0] = '\0';
    in_call = 1;
}

ferry_status fy_store_end_call(ferry_status status)
{
    in_call = 0;
    return status;
}

ferry_status fy_store_fail(const struct fy_store *store, ferry_status status, const char *what)
{
    return fy_fail(status, "%s at metadata server %s: %s", what, store->server,
                   plugin_words[0] ? plugin_words : ferry_strstatus(status));
}

/* ---- the plugin's calls, bounded by one deadline ---------------------------------------- */

uint32_t fy_store_left_ms(uint64_t deadline_ns)
{
    int ms = fy_ms_left(deadline_ns);

    return ms > 0 ? (uint32_t)ms : 1; /* 0 would mean the plugin's default */
}

uint64_t fy_store_deadline(uint32_t timeout_ms)
{
    return fy_now_ns() + (timeout_ms ? timeout_ms : DEFAULT_TIMEOUT) * FY_NS_PER_MS;
}

ferry_status fy_store_put(struct fy_store *store, const char *key, const char *val, size_t len,
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

    fy_store_begin_call();
    return fy_store_end_call(
        store->ops->put(store->handle, &args, fy_store_left_ms(deadline_ns), NULL));
}

ferry_status fy_store_get(struct fy_store *store, const char *key, uint64_t deadline_ns,
                          struct fy_buf *out, uint64_t *rev_out)
{
    fy_store_begin_call();
    *rev_out = 0;
    return fy_store_end_call(store->ops->get(store->handle, key, fy_store_left_ms(deadline_ns),
                                             &out->sink, rev_out));
}

ferry_status fy_store_del(struct fy_store *store, const char *key, uint64_t deadline_ns)
{
    fy_store_begin_call();
    return fy_store_end_call(
        store->ops->del(store->handle, key, fy_store_left_ms(deadline_ns)));
}

/* ---- keys and the rpc_meta value -------------------------------------------------------- */

/* "mooncake/[cluster/]ram/NAME", and without "ram/" where the name has a slash: Mooncake's. */
char *fy_store_doc_key(const struct fy_store *store, const char *name)
{
    char *key = NULL;

    while (*name == '/')
        name++;
    if (asprintf(&key, "%s%s%s", store->prefix, strchr(name, '/') ? "" : "ram/", name) < 0)
        return NULL;
    return key;
}

char *fy_store_rpc_key(const struct fy_store *store, const char *name)
{
    char *key = NULL;

    while (*name == '/')
        name++;
    return asprintf(&key, "%srpc_meta/%s", store->prefix, name) < 0 ? NULL : key;
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

static const char *server_of(const struct fy_config *config)
{
    return config->metadata_server ? config->metadata_server : P2P_SERVER;
}

static int is_p2p(const struct fy_config *config)
{
    return !strcmp(server_of(config), P2P_SERVER);
}

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

static ferry_status take_bool(const struct ferry_kv *kv, int *out)
{
    if (strcmp(kv->val, "true") != 0 && strcmp(kv->val, "false") != 0)
        return fy_fail(FERRY_EINVAL, "ferry.metadata.%s: true or false is wanted", kv->key);
    *out = !strcmp(kv->val, "true");
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
            else if (!strcmp(item->key, "refresh_ms"))
                status = take_number(item, 1000, &store->refresh_ms);
            else if (!strcmp(item->key, "watch"))
                status = take_bool(item, &store->may_watch);
            else
                status = fy_kv_put(out, item->key, item->val, item->val_len, item->flags);
        }
        fy_kv_fini(&kv);
    }
    return status;
}

static ferry_status open_plugin(struct fy_store *store, const struct fy_config *config,
                                const struct fy_metadata_plugin *plugin, const char *uri)
{
    struct fy_kv kv;
    ferry_status status;

    snprintf(store->plugin, sizeof(store->plugin), "%s", plugin->name);
    fy_kv_init(&kv);
    status = settings(store, config, plugin->name, &kv);
    if (!status) {
        fy_store_begin_call();
        status =
            fy_store_end_call(plugin->ops.open(&store->host, uri, &kv.kvs, &store->handle));
        if (status)
            fy_store_fail(store, status, "opening");
    }
    fy_kv_fini(&kv);
    if (status)
        return status;
    store->ops = &plugin->ops;
    store->caps.size = sizeof(store->caps);
    status = store->ops->query(store->handle, &store->caps);
    return status ? fy_store_fail(store, status, "asking for capabilities") : FERRY_OK;
}

ferry_status fy_store_open_on(const struct fy_config *config,
                              const struct fy_metadata_plugin *plugin, const char *uri,
                              const struct ferry_host *host, const struct fy_log *log,
                              struct fy_store **store_out)
{
    struct fy_store *store = calloc(1, sizeof(*store));
    ferry_status status;

    if (!store)
        return fy_fail(FERRY_ENOMEM, "metadata store: out of memory");
    store->host = (struct ferry_host){.size = sizeof(store->host),
                                      .abi_major = host->abi_major,
                                      .abi_minor = host->abi_minor,
                                      .log_level = &store->log_level,
                                      .log = host_log};
    /* A plugin says nothing above this; its warnings are the texts of our errors. */
    store->log_level =
        *host->log_level > FERRY_LOG_WARN ? *host->log_level : (int)FERRY_LOG_WARN;
    store->engine_host = host;
    store->log = log;
    store->ttl_ms = 30000;
    store->republish_ms = 4000;
    store->refresh_ms = 60000;
    store->may_watch = 1;
    store->is_p2p = is_p2p(config);
    store->lives = fy_store_lives;
    store->seed = (unsigned)fy_now_ns() ^ (unsigned)getpid();
    pthread_mutex_init(&store->lock, NULL);
    pthread_mutex_init(&store->known_lock, NULL);
    fy_cond_init(&store->changed);
    fy_config_hide(server_of(config), store->server, sizeof(store->server));
    if (asprintf(&store->prefix, "mooncake/%s", config->cluster_id ? config->cluster_id : "") <
        0) {
        store->prefix = NULL;
        status = fy_fail(FERRY_ENOMEM, "metadata store: out of memory");
    } else {
        status = open_plugin(store, config, plugin, uri);
    }
    if (status) {
        fy_store_close(store);
        return status;
    }
    *store_out = store;
    return FERRY_OK;
}

ferry_status fy_store_open(const struct fy_config *config, struct fy_loader *loader,
                           const struct ferry_host *host, const struct fy_log *log,
                           struct fy_store **store_out)
{
    const char *uri = is_p2p(config) ? "p2p://" : server_of(config);
    const struct fy_metadata_plugin *plugin;
    char *scheme = scheme_of(uri), shown[256];
    ferry_status status;

    if (!scheme)
        return fy_fail(FERRY_ENOMEM, "metadata store: out of memory");
    status = fy_loader_metadata(loader, scheme, &plugin);
    free(scheme);
    fy_config_hide(server_of(config), shown, sizeof(shown));
    if (status == FERRY_ENOENT)
        return fy_fail_in(FERRY_ENOTSUP, "metadata server %s: ", shown);
    return status ? status : fy_store_open_on(config, plugin, uri, host, log, store_out);
}

void fy_store_close(struct fy_store *store)
{
    if (!store)
        return;
    fy_store_unwatch(store);
    fy_store_end_keeper(store);
    if (store->handle)
        store->ops->close(store->handle);
    fy_store_forget_all(store);
    free(store->prefix);
    pthread_cond_destroy(&store->changed);
    pthread_mutex_destroy(&store->lock);
    pthread_mutex_destroy(&store->known_lock);
    free(store);
}

int fy_store_is_p2p(const struct fy_store *store)
{
    return store->is_p2p;
}
const char *fy_store_server(const struct fy_store *store)
{
    return store->server;
}

/* ---- reading ------------------------------------------------------------------------------
 */

/* Upstream's documents do not say where their node is: its control address does. */
static ferry_status add_address(struct fy_store *store, const char *name, uint64_t deadline_ns,
                                struct fy_doc *doc)
{
    char host[FY_HOST_MAX];
    uint16_t port;
    ferry_status status = FERRY_OK;

    if (!doc->epoch[0])
        status = fy_store_ask_address(store, name, deadline_ns, host, &port);
    if (!doc->epoch[0] && !status)
        status = fy_doc_set_address(doc, host, port);
    return status == FERRY_ENOENT ? FERRY_OK : status; /* its transport may know one */
}

ferry_status fy_store_fetch(struct fy_store *store, const char *name, uint32_t timeout_ms,
                            struct fy_doc **doc_out)
{
    uint64_t deadline_ns = fy_store_deadline(timeout_ms), rev;
    char *key = fy_store_doc_key(store, name);
    struct fy_doc *doc = NULL;
    struct fy_buf buf;
    ferry_status status;

    if (!key)
        return fy_fail(FERRY_ENOMEM, "segment %s: out of memory", name);
    fy_buf_init(&buf, FY_MAX_DOCUMENT);
    status = fy_store_get(store, key, deadline_ns, &buf, &rev);
    if (status == FERRY_ENOENT)
        fy_fail(status, "segment %s is not known to metadata server %s", name, store->server);
    else if (status)
        fy_store_fail(store, status, key);
    else if ((status = fy_doc_parse(buf.data ? buf.data : "", buf.len, &doc)))
        fy_fail_in(status, "document of segment %s: ", name);
    fy_buf_fini(&buf);
    free(key);
    if (!status)
        status = add_address(store, name, deadline_ns, doc);
    if (status)
        fy_doc_unref(doc);
    else
        *doc_out = doc;
    return status;
}

ferry_status fy_store_get_address(struct fy_store *store, const char *key, uint64_t deadline_ns,
                                  char *host_out, uint16_t *port_out, uint64_t *rev_out)
{
    struct fy_buf buf;
    ferry_status status;

    fy_buf_init(&buf, 65536);
    status = fy_store_get(store, key, deadline_ns, &buf, rev_out);
    if (!status)
        status = rpc_parse(buf.data, buf.len, host_out, port_out);
    fy_buf_fini(&buf);
    return status;
}
