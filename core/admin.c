/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What operators ask of a metadata server. Reads keys and documents as nodes do; publishes
 * nothing and opens no transport.
 */
#include "ferry/admin.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "control.h"
#include "error.h"
#include "store_inner.h"
#include "util/clock.h"
#include "util/thread.h"

#define PROBE_MS 2000

struct ferry_admin {
    struct fy_log log;
    struct fy_config *config;
    struct fy_loader *loader;
    struct fy_store *store;
    struct ferry_host host;

    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t changed;
    int watching, news;
};

static void admin_log(const struct ferry_host *host, enum ferry_log_level level,
                      const char *file, int line, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));

static void admin_log(const struct ferry_host *host, enum ferry_log_level level,
                      const char *file, int line, const char *fmt, ...)
{
    const struct ferry_admin *admin =
        (const void *)((const char *)host - offsetof(struct ferry_admin, host));
    char text[1024];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    FY_LOG(&admin->log, level, "metadata: %s", text);
}

static ferry_status open_all(struct ferry_admin *admin, const char *path, const char *role,
                             const struct ferry_options *options)
{
    ferry_status status;

    if (path)
        status =
            fy_config_from_file(path, role ? role : "", options, &admin->log, &admin->config);
    else
        status = fy_config_from_options(options, &admin->log, &admin->config);
    if (!status)
        status = fy_loader_open(admin->config->plugin_path, &admin->log, &admin->loader);
    if (!status)
        status = fy_store_open(admin->config, admin->loader, &admin->host, &admin->log,
                               &admin->store);
    return status;
}

ferry_status ferry_admin_open(const char *path, const char *role,
                              const struct ferry_options *options,
                              struct ferry_admin **admin_out)
{
    struct ferry_admin *admin;
    ferry_status status;

    if (!admin_out || (!path && !options))
        return fy_fail(FERRY_EINVAL, "admin_open: a path or options, and a result are needed");
    if (options && options->size < sizeof(*options))
        return fy_fail(FERRY_EINVAL, "struct ferry_options: size %u, set it to sizeof (%zu)",
                       options->size, sizeof(*options));
    admin = calloc(1, sizeof(*admin));
    if (!admin)
        return fy_fail(FERRY_ENOMEM, "no memory");
    admin->log.level = options && options->log_level ? options->log_level : FERRY_LOG_WARN;
    if (options) {
        admin->log.fn = options->log;
        admin->log.arg = options->log_arg;
    }
    admin->host = (struct ferry_host){.size = sizeof(admin->host),
                                      .abi_major = FERRY_METADATA_ABI_MAJOR,
                                      .abi_minor = FERRY_METADATA_ABI_MINOR,
                                      .log_level = &admin->log.level,
                                      .log = admin_log};
    pthread_mutex_init(&admin->lock, NULL);
    fy_cond_init(&admin->changed);
    status = open_all(admin, path, role, options);
    if (status) {
        char text[1024];

        snprintf(text, sizeof(text), "%s", ferry_error());
        ferry_admin_close(admin);
        return fy_fail(status, "%s", text);
    }
    *admin_out = admin;
    return FERRY_OK;
}

void ferry_admin_close(struct ferry_admin *admin)
{
    if (!admin)
        return;
    fy_store_close(admin->store);
    fy_loader_close(admin->loader);
    fy_config_free(admin->config);
    pthread_cond_destroy(&admin->changed);
    pthread_mutex_destroy(&admin->lock);
    free(admin);
}

/* ---- describing ---- */

static cJSON *describe_store(const struct ferry_admin *admin)
{
    static const struct {
        uint32_t flag;
        const char *name;
    } caps[] = {{FERRY_STORE_CAP_LEASE, "lease"},
                {FERRY_STORE_CAP_CAS, "cas"},
                {FERRY_STORE_CAP_WATCH, "watch"},
                {FERRY_STORE_CAP_LIST, "list"}};
    const struct fy_store *store = admin->store;
    cJSON *root = cJSON_CreateObject(), *list;

    cJSON_AddStringToObject(root, "server", store->server);
    cJSON_AddStringToObject(root, "plugin", store->plugin);
    cJSON_AddBoolToObject(root, "serverless", store->is_p2p);
    cJSON_AddStringToObject(root, "prefix", store->prefix);
    list = cJSON_AddArrayToObject(root, "can");
    for (size_t i = 0; i < sizeof(caps) / sizeof(caps[0]); i++)
        if (store->caps.flags & caps[i].flag)
            cJSON_AddItemToArray(list, cJSON_CreateString(caps[i].name));
    cJSON_AddNumberToObject(root, "max_value", (double)store->caps.max_value);
    cJSON_AddNumberToObject(root, "ttl_ms", store->ttl_ms);
    return root;
}

/* As the engine chooses it (engine.c). */
static cJSON *describe_address(const struct ferry_admin *admin)
{
    static const char *const reaches[] = {"unknown", "loopback", "bridge", "here", "elsewhere"};
    const struct fy_config *config = admin->config;
    cJSON *root = cJSON_CreateObject();
    char host[FY_HOST_MAX] = "", interface[64] = "";
    const char *from = "the default route";
    uint64_t deadline_ns = fy_now_ns() + PROBE_MS * FY_NS_PER_MS;
    uint16_t port = 0;
    enum fy_reach reach;

    if (config->name && (admin->store->is_p2p || strchr(config->name, ':')) &&
        !fy_name_split(config->name, 0, host, &port))
        from = "the name";
    if (config->advertise) {
        snprintf(host, sizeof(host), "%s", config->advertise);
        from = "ferry.advertise";
    } else if (!host[0]) {
        fy_name_own_host(config->ipv6, host);
        from = "the default route";
    }
    reach = fy_host_reach(host, deadline_ns, interface, sizeof(interface));
    cJSON_AddStringToObject(root, "name", config->name ? config->name : "");
    cJSON_AddStringToObject(root, "host", host);
    cJSON_AddNumberToObject(root, "port", port);
    cJSON_AddStringToObject(root, "from", from);
    cJSON_AddStringToObject(root, "reach", reaches[reach]);
    cJSON_AddStringToObject(root, "interface", interface);
    cJSON_AddStringToObject(root, "bind", config->bind ? config->bind : "");
    if (!config->advertise && !admin->store->is_p2p &&
        fy_host_check(host, config->metadata_server, admin->store->server, deadline_ns))
        cJSON_AddStringToObject(root, "refused", ferry_error());
    return root;
}

ferry_status ferry_admin_describe(struct ferry_admin *admin, const char *what, char **json_out)
{
    cJSON *root;

    if (!admin || !what || !json_out)
        return fy_fail(FERRY_EINVAL, "admin_describe: something is missing");
    if (!strcmp(what, "config"))
        root = fy_config_describe(admin->config);
    else if (!strcmp(what, "store"))
        root = describe_store(admin);
    else if (!strcmp(what, "address"))
        root = describe_address(admin);
    else if (!strcmp(what, "plugins"))
        root = fy_loader_describe(admin->loader);
    else
        return fy_fail(FERRY_EINVAL,
                       "admin_describe: \"%s\" is none of config, store, address, plugins",
                       what);
    *json_out = root ? cJSON_PrintUnformatted(root) : NULL;
    cJSON_Delete(root);
    return *json_out ? FERRY_OK : fy_fail(FERRY_ENOMEM, "no memory to describe %s", what);
}

/* ---- names ---- */

struct names {
    struct ferry_kv_sink sink;
    const char *prefix;
    char **v;
    size_t n, cap;
};

static ferry_status names_put(struct ferry_kv_sink *sink, const struct ferry_kv *kv)
{
    struct names *names = (struct names *)sink;
    size_t len = strlen(names->prefix);

    if (!kv || !kv->key || strncmp(kv->key, names->prefix, len) != 0 || !kv->key[len])
        return FERRY_OK;
    if (names->n == names->cap) {
        size_t cap = names->cap ? names->cap * 2 : 64;
        char **v = realloc(names->v, cap * sizeof(*v));

        if (!v)
            return FERRY_ENOMEM;
        names->v = v;
        names->cap = cap;
    }
    names->v[names->n] = strdup(kv->key + len);
    return names->v[names->n] ? (names->n++, FERRY_OK) : FERRY_ENOMEM;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Only what is under these two: other clusters' keys begin with the same letters. */
static ferry_status collect(struct fy_store *store, uint64_t deadline_ns, struct names *names)
{
    static const char *const folders[] = {"rpc_meta/", "ram/"};
    ferry_status status = FERRY_OK;

    for (size_t i = 0; i < 2 && !status; i++) {
        char *prefix;

        if (asprintf(&prefix, "%s%s", store->prefix, folders[i]) < 0)
            return fy_fail(FERRY_ENOMEM, "no memory for names");
        names->prefix = prefix;
        fy_store_begin_call();
        status = fy_store_end_call(store->ops->list(
            store->handle, prefix, fy_store_left_ms(deadline_ns), &names->sink));
        if (status)
            fy_store_fail(store, status, "listing");
        free(prefix);
    }
    if (names->n)
        qsort(names->v, names->n, sizeof(*names->v), by_text);
    return status;
}

ferry_status ferry_admin_names(struct ferry_admin *admin, uint32_t timeout_ms, char **json_out)
{
    struct names names = {.sink = {names_put}};
    cJSON *root = NULL;
    ferry_status status;

    if (!admin || !json_out)
        return fy_fail(FERRY_EINVAL, "admin_names: something is missing");
    if (!(admin->store->caps.flags & FERRY_STORE_CAP_LIST))
        return fy_fail(FERRY_ENOTSUP, "metadata server %s cannot list what it has",
                       admin->store->server);
    status = collect(admin->store, fy_store_deadline(timeout_ms), &names);
    if (!status) {
        root = cJSON_CreateArray();
        for (size_t i = 0; i < names.n; i++)
            if (!i || strcmp(names.v[i], names.v[i - 1]) != 0)
                cJSON_AddItemToArray(root, cJSON_CreateString(names.v[i]));
        *json_out = cJSON_PrintUnformatted(root);
        cJSON_Delete(root);
        if (!*json_out)
            status = fy_fail(FERRY_ENOMEM, "no memory for names");
    }
    for (size_t i = 0; i < names.n; i++)
        free(names.v[i]);
    free(names.v);
    return status;
}

/* ---- one node ---- */

enum state { ANSWERS, SILENT, GONE, UNKNOWN };
static const char *const state_names[] = {"answers", "silent", "gone", "unknown"};

/* ferry_error() says why, except for ANSWERS. */
static enum state ask(const struct fy_store *store, const char *name, const char *host,
                      uint16_t port, uint64_t deadline_ns)
{
    uint64_t until = fy_now_ns() + PROBE_MS * FY_NS_PER_MS;
    struct fy_buf reply;
    ferry_status status;

    if (deadline_ns < until)
        until = deadline_ns;
    fy_buf_init(&reply, 65536);
    status = fy_control_request(host, port, FY_CONTROL_PROBE, "{}", 2, until, &reply);
    fy_buf_fini(&reply);
    if (status == FERRY_ETIMEDOUT)
        return SILENT;
    if (status == FERRY_EUNREACH)
        return GONE;
    if (store->lives(store, name, host, port, until))
        return ANSWERS;
    fy_fail(FERRY_ESTALE, "another node is at %s port %u", host, port);
    return GONE;
}

struct found {
    char host[FY_HOST_MAX];
    uint16_t port;
    int has_address, has_doc;
    struct fy_buf text;
};

static ferry_status look(struct fy_store *store, const char *name, uint64_t deadline_ns,
                         struct found *found)
{
    char *rpc_key = fy_store_rpc_key(store, name), *doc_key = fy_store_doc_key(store, name);
    ferry_status address = FERRY_ENOMEM, doc = FERRY_ENOMEM;
    uint64_t rev;

    if (rpc_key && doc_key) {
        address =
            fy_store_get_address(store, rpc_key, deadline_ns, found->host, &found->port, &rev);
        if (!address || address == FERRY_ENOENT || address == FERRY_EINVAL)
            doc = fy_store_get(store, doc_key, deadline_ns, &found->text, &rev);
        else
            doc = address;
    }
    free(rpc_key);
    free(doc_key);
    found->has_address = !address;
    found->has_doc = !doc;
    if (doc && doc != FERRY_ENOENT)
        return fy_store_fail(store, doc, name);
    if (address == FERRY_ENOENT && doc == FERRY_ENOENT)
        return fy_fail(FERRY_ENOENT, "nothing is published under %s at metadata server %s",
                       name, store->server);
    /* Without an address the name may be one. */
    if (address && strchr(name, ':') && !fy_name_split(name, 0, found->host, &found->port) &&
        found->port)
        found->has_address = 1;
    return FERRY_OK;
}

static void add_document(cJSON *root, const struct fy_buf *text)
{
    cJSON *raw = cJSON_ParseWithLength(text->data ? text->data : "", text->len), *list;
    const cJSON *time = cJSON_GetObjectItemCaseSensitive(raw, "timestamp");
    struct fy_doc *doc;
    uint64_t bytes = 0;

    if (fy_doc_parse(text->data ? text->data : "", text->len, &doc)) {
        cJSON_AddStringToObject(root, "bad_document", ferry_error());
    } else {
        cJSON_AddStringToObject(root, "kind", doc->epoch[0] ? "ferry" : "mooncake");
        cJSON_AddStringToObject(root, "epoch", doc->epoch);
        list = cJSON_AddArrayToObject(root, "transports");
        for (size_t i = 0; i < doc->n_transports; i++)
            cJSON_AddItemToArray(list, cJSON_CreateString(doc->transports[i].name));
        for (size_t i = 0; i < doc->n_buffers; i++)
            bytes += doc->buffers[i].len;
        cJSON_AddNumberToObject(root, "buffers", (double)doc->n_buffers);
        cJSON_AddNumberToObject(root, "bytes", (double)bytes);
        fy_doc_unref(doc);
    }
    if (cJSON_IsString(time))
        cJSON_AddStringToObject(root, "published", time->valuestring);
    if (raw)
        cJSON_AddItemToObject(root, "document", raw);
}

ferry_status ferry_admin_node(struct ferry_admin *admin, const char *name, uint32_t timeout_ms,
                              char **json_out)
{
    uint64_t deadline_ns = fy_store_deadline(timeout_ms);
    struct found found = {.port = 0};
    char address[FY_HOST_MAX + 16];
    enum state state = UNKNOWN;
    ferry_status status;
    cJSON *root;

    if (!admin || !name || !*name || !json_out)
        return fy_fail(FERRY_EINVAL, "admin_node: something is missing");
    fy_buf_init(&found.text, FY_MAX_DOCUMENT);
    status = look(admin->store, name, deadline_ns, &found);
    if (status) {
        fy_buf_fini(&found.text);
        return status;
    }
    root = cJSON_CreateObject();
    cJSON_AddStringToObject(root, "name", name);
    if (found.has_address) {
        state = ask(admin->store, name, found.host, found.port, deadline_ns);
        if (state != ANSWERS)
            cJSON_AddStringToObject(root, "why", ferry_error());
        if (!fy_name_join(found.host, found.port, address, sizeof(address)))
            cJSON_AddStringToObject(root, "address", address);
    } else {
        cJSON_AddStringToObject(root, "why", "no control address is published");
    }
    cJSON_AddStringToObject(root, "state", state_names[state]);
    if (found.has_doc)
        add_document(root, &found.text);
    fy_buf_fini(&found.text);
    *json_out = cJSON_PrintUnformatted(root);
    cJSON_Delete(root);
    return *json_out ? FERRY_OK : fy_fail(FERRY_ENOMEM, "no memory for %s", name);
}

ferry_status ferry_admin_remove(struct ferry_admin *admin, const char *name,
                                uint32_t timeout_ms)
{
    uint64_t deadline_ns = fy_store_deadline(timeout_ms);
    struct fy_store *store;
    struct found found = {.port = 0};
    char *rpc_key, *doc_key;
    enum state state;
    ferry_status status;

    if (!admin || !name || !*name)
        return fy_fail(FERRY_EINVAL, "admin_remove: something is missing");
    store = admin->store;
    if (store->is_p2p)
        return fy_fail(FERRY_ENOTSUP, "without a metadata server nothing is left behind");
    fy_buf_init(&found.text, FY_MAX_DOCUMENT);
    status = look(store, name, deadline_ns, &found);
    fy_buf_fini(&found.text);
    if (status)
        return status;
    state = found.has_address ? ask(store, name, found.host, found.port, deadline_ns) : UNKNOWN;
    if (state == ANSWERS || state == SILENT)
        return fy_fail(FERRY_EEXIST, "%s %s at %s port %u; nothing was removed", name,
                       state == ANSWERS ? "answers" : "is there, though it says nothing,",
                       found.host, found.port);
    rpc_key = fy_store_rpc_key(store, name);
    doc_key = fy_store_doc_key(store, name);
    status = rpc_key && doc_key ? fy_store_del(store, doc_key, deadline_ns) : FERRY_ENOMEM;
    if (!status)
        status = fy_store_del(store, rpc_key, deadline_ns);
    if (status)
        fy_store_fail(store, status, name);
    free(rpc_key);
    free(doc_key);
    return status;
}

/* ---- waiting for news ---- */

static void on_news(void *arg, const char *name)
{
    struct ferry_admin *admin = arg;

    pthread_mutex_lock(&admin->lock);
    admin->news = 1;
    pthread_cond_signal(&admin->changed);
    pthread_mutex_unlock(&admin->lock);
}

ferry_status ferry_admin_wait(struct ferry_admin *admin, uint32_t timeout_ms)
{
    uint64_t at = fy_now_ns() + timeout_ms * FY_NS_PER_MS;
    struct timespec until = fy_timespec(at);
    ferry_status status;
    int news;

    if (!admin)
        return fy_fail(FERRY_EINVAL, "admin_wait: nothing to wait for");
    if (!admin->watching) {
        status = fy_store_watch(admin->store, on_news, admin);
        if (status)
            return status;
        admin->watching = 1;
        return FERRY_OK; /* what changed until now was not told */
    }
    pthread_mutex_lock(&admin->lock);
    while (!admin->news &&
           pthread_cond_timedwait(&admin->changed, &admin->lock, &until) != ETIMEDOUT)
        ;
    news = admin->news;
    admin->news = 0;
    pthread_mutex_unlock(&admin->lock);
    return news ? FERRY_OK : fy_fail(FERRY_EAGAIN, "nothing happened");
}
