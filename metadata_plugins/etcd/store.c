/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The metadata plugin's calls for etcd v3: opening, put, get, del, list. Leases and watches are
 * lease.c's and watch.c's. Knows nothing of what the values mean.
 */
#include <cjson/cJSON.h>
#include <stdio.h>

#include "../common/base64.h"
#include "../common/plug.h"
#include "../common/url.h"
#include "etcd.h"

static void etcd_close(struct ferry_store *store)
{
    if (!store)
        return;
    etcd_watch_close(store);
    fm_leases_close(store->leases);
    fm_http_close(store->http);
    for (size_t i = 0; i < store->n_endpoints; i++)
        free(store->endpoints[i]);
    free(store->user);
    free(store->password);
    free(store->token);
    pthread_cond_destroy(&store->changed);
    pthread_mutex_destroy(&store->lock);
    free(store);
}

/* "host", "host:port", "[v6]:port" as "http://host:port". */
static char *endpoint_url(const char *text, size_t len, int tls)
{
    const char *bracket = memchr(text, ']', len);
    const char *rest = bracket ? bracket + 1 : text;
    int has_port = memchr(rest, ':', len - (size_t)(rest - text)) != NULL;
    char *url = NULL;

    return asprintf(&url, "%s://%.*s%s", tls ? "https" : "http", (int)len, text,
                    has_port ? "" : ":2379") < 0
               ? NULL
               : url;
}

static ferry_status take_endpoints(struct ferry_store *store, const char *list, int tls)
{
    while (*list) {
        size_t len = strcspn(list, ",;/");

        if (len) {
            char *url =
                store->n_endpoints < ETCD_MAX_ENDPOINTS ? endpoint_url(list, len, tls) : NULL;

            if (!url || strlen(url) > 280) {
                free(url);
                FM_LOG(store->host, FERRY_LOG_ERROR,
                       "etcd: more than %d endpoints, or one is too long", ETCD_MAX_ENDPOINTS);
                return FERRY_EINVAL;
            }
            store->endpoints[store->n_endpoints++] = url;
        }
        list += len;
        if (*list == '/' && list[1]) {
            FM_LOG(store->host, FERRY_LOG_ERROR, "etcd: endpoints have no path (\"%s\")", list);
            return FERRY_EINVAL;
        }
        list += *list != '\0';
    }
    if (!store->n_endpoints) {
        FM_LOG(store->host, FERRY_LOG_ERROR, "etcd: etcd://host:port,host:port is wanted");
        return FERRY_EINVAL;
    }
    return FERRY_OK;
}

static ferry_status take_settings(struct ferry_store *store, const char *uri,
                                  const struct ferry_kvs *config)
{
    static const char *const known[] = {
        "timeout_ms", "connect_timeout_ms", "proxy",    "ca_file", "cert_file", "key_file",
        "verify",     "username",           "password", "tls",     NULL};
    int tls = !strncmp(uri, "etcds://", 8);
    char *plain = NULL;
    const char *rest;
    ferry_status status = fm_config_check(store->host, config, "etcd", known);

    if (!status)
        status =
            fm_config_u32(store->host, config, "timeout_ms", 1, 3600000, &store->timeout_ms);
    if (!status)
        status = fm_config_bool(store->host, config, "tls", &tls);
    if (!status)
        status = fm_url_split_user(uri, &plain, &store->user, &store->password);
    if (!status && !store->user)
        status = fm_config_text(config, "username", &store->user);
    if (!status && !store->password)
        status = fm_config_text(config, "password", &store->password);
    if (!status) {
        rest = strstr(plain, "://");
        status = take_endpoints(store, rest ? rest + 3 : plain, tls);
    }
    free(plain);
    return status ? status : fm_http_open(store->host, config, &store->http);
}

static ferry_status etcd_open(const struct ferry_host *host, const char *uri,
                              const struct ferry_kvs *config, struct ferry_store **store_out)
{
    struct ferry_store *store = calloc(1, sizeof(*store));
    char name[300];
    ferry_status status;

    if (!store)
        return FERRY_ENOMEM;
    store->host = host;
    store->timeout_ms = 3000;
    pthread_mutex_init(&store->lock, NULL);
    fm_cond_init(&store->changed);
    status = take_settings(store, uri, config);
    if (!status) {
        snprintf(name, sizeof(name), "etcd %s", store->endpoints[0]);
        status = fm_leases_open(host, name, &etcd_leases_ops, store, &store->leases);
    }
    if (status) {
        etcd_close(store);
        return status;
    }
    *store_out = store;
    return FERRY_OK;
}

static ferry_status etcd_query(struct ferry_store *store, struct ferry_store_caps *caps)
{
    struct ferry_store_caps all = {.flags = FERRY_STORE_CAP_LEASE | FERRY_STORE_CAP_CAS |
                                            FERRY_STORE_CAP_WATCH | FERRY_STORE_CAP_LIST,
                                   .max_value = ETCD_MAX_VALUE};

    all.size = caps->size < sizeof(all) ? caps->size : (uint32_t)sizeof(all);
    memcpy(caps, &all, all.size);
    return FERRY_OK;
}

/* ---- put ----------------------------------------------------------------------------------
 */

/* {"key":..,"value":..,"lease":".."} */
static char *put_json(const char *key64, const void *val, size_t len, uint64_t lease)
{
    char *value64 = fm_base64(val ? val : "", len), *json = NULL;

    if (value64 && asprintf(&json, "{\"key\":\"%s\",\"value\":\"%s\",\"lease\":\"%llu\"}",
                            key64, value64, (unsigned long long)lease) < 0)
        json = NULL;
    free(value64);
    return json;
}

/* A put that happens only at the expected revision, and otherwise shows what is there. */
static char *txn_json(const char *key64, const char *put, uint64_t expect_rev)
{
    char *json = NULL;

    return asprintf(&json,
                    "{\"compare\":[{\"key\":\"%s\",\"target\":\"MOD\",\"result\":\"EQUAL\","
                    "\"mod_revision\":\"%llu\"}],\"success\":[{\"requestPut\":%s}],"
                    "\"failure\":[{\"requestRange\":{\"key\":\"%s\"}}]}",
                    key64, expect_rev == FERRY_REV_ABSENT ? 0 : (unsigned long long)expect_rev,
                    put, key64) < 0
               ? NULL
               : json;
}

/* The first key-value of a range's answer; NULL: none. */
static const cJSON *first_kv(const cJSON *range)
{
    return cJSON_GetArrayItem(cJSON_GetObjectItemCaseSensitive(range, "kvs"), 0);
}

static char *value_of(const cJSON *kv, size_t *len_out)
{
    const cJSON *value = cJSON_GetObjectItemCaseSensitive(kv, "value");

    return fm_base64_decode(cJSON_IsString(value) ? value->valuestring : "", len_out);
}

/* The expectation failed: what is there? */
static void look_at_other(const cJSON *reply, const void *val, size_t len,
                          uint64_t *seen_rev_out, int *mine_out)
{
    const cJSON *response =
        cJSON_GetArrayItem(cJSON_GetObjectItemCaseSensitive(reply, "responses"), 0);
    const cJSON *kv = first_kv(cJSON_GetObjectItemCaseSensitive(response, "response_range"));
    size_t there_len = 0;
    char *there = kv ? value_of(kv, &there_len) : NULL;

    *mine_out = there && there_len == len && (!len || !memcmp(there, val, len));
    *seen_rev_out = kv ? etcd_u64(kv, "mod_revision") : 0;
    free(there);
}

ferry_status etcd_put_key(struct ferry_store *store, const char *key, const void *val,
                          size_t len, uint64_t lease, uint64_t expect_rev, uint64_t deadline_ms,
                          enum etcd_voice voice, uint64_t *rev_out, uint64_t *seen_rev_out,
                          int *mine_out)
{
    int expects = expect_rev != FERRY_REV_ANY, mine = 0;
    char *key64 = fm_base64(key, strlen(key)), *put = NULL, *txn = NULL, what[300];
    struct etcd_call call = {.path = expects ? "/v3/kv/txn" : "/v3/kv/put",
                             .what = what,
                             .deadline_ms = deadline_ms,
                             .voice = voice};
    uint64_t rev, seen_rev = 0;
    ferry_status status = FERRY_ENOMEM;

    snprintf(what, sizeof(what), "put %s", key);
    put = key64 ? put_json(key64, val, len, lease) : NULL;
    if (put && expects)
        txn = txn_json(key64, put, expect_rev);
    call.body = expects ? txn : put;
    if (call.body)
        status = etcd_do(store, &call);
    if (!status) {
        rev = etcd_revision(call.reply);
        if (expects &&
            !cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(call.reply, "succeeded"))) {
            look_at_other(call.reply, val, len, &seen_rev, &mine);
            /* An earlier attempt whose answer was lost may have been this very put. */
            status = mine && call.ambiguous ? FERRY_OK : FERRY_ECONFLICT;
            rev = seen_rev;
        }
        if (!status && rev_out)
            *rev_out = rev;
        if (seen_rev_out)
            *seen_rev_out = seen_rev;
        if (mine_out)
            *mine_out = mine;
    }
    cJSON_Delete(call.reply);
    free(txn);
    free(put);
    free(key64);
    return status;
}

static ferry_status etcd_put(struct ferry_store *store, const struct ferry_store_put *args,
                             uint32_t timeout_ms, uint64_t *rev_out)
{
    if (args->val_len > ETCD_MAX_VALUE)
        return FERRY_ERANGE;
    return fm_leases_put(store->leases, args, etcd_deadline(store, timeout_ms), rev_out);
}

/* ---- get, del, list -----------------------------------------------------------------------
 */

static ferry_status etcd_get(struct ferry_store *store, const char *key, uint32_t timeout_ms,
                             struct ferry_buf_sink *out, uint64_t *rev_out)
{
    char *key64 = fm_base64(key, strlen(key)), *body = NULL, *val = NULL, what[300];
    struct etcd_call call = {
        .path = "/v3/kv/range", .what = what, .deadline_ms = etcd_deadline(store, timeout_ms)};
    ferry_status status = FERRY_ENOMEM;
    const cJSON *kv;
    size_t len = 0;

    snprintf(what, sizeof(what), "get %s", key);
    if (key64 && asprintf(&body, "{\"key\":\"%s\"}", key64) < 0)
        body = NULL;
    call.body = body;
    if (body)
        status = etcd_do(store, &call);
    if (!status) {
        kv = first_kv(call.reply);
        val = kv ? value_of(kv, &len) : NULL;
        if (!kv)
            status = FERRY_ENOENT;
        else if (!val)
            status = FERRY_EUNREACH;
        else
            status = out->append(out, val, len);
        if (!status && rev_out)
            *rev_out = etcd_u64(kv, "mod_revision");
    } else if (status == FERRY_ENOENT) {
        status = FERRY_EUNREACH; /* "not found" of the gateway itself */
    }
    free(val);
    cJSON_Delete(call.reply);
    free(body);
    free(key64);
    return status;
}

ferry_status etcd_del_key(struct ferry_store *store, const char *key, uint64_t deadline_ms)
{
    char *key64 = fm_base64(key, strlen(key)), *body = NULL, what[300];
    struct etcd_call call = {
        .path = "/v3/kv/deleterange", .what = what, .deadline_ms = deadline_ms};
    ferry_status status = FERRY_ENOMEM;

    snprintf(what, sizeof(what), "delete %s", key);
    if (key64 && asprintf(&body, "{\"key\":\"%s\"}", key64) < 0)
        body = NULL;
    call.body = body;
    if (body)
        status = etcd_do(store, &call);
    cJSON_Delete(call.reply);
    free(body);
    free(key64);
    return status == FERRY_ENOENT ? FERRY_EUNREACH : status;
}

static ferry_status etcd_del(struct ferry_store *store, const char *key, uint32_t timeout_ms)
{
    return fm_leases_del(store->leases, key, etcd_deadline(store, timeout_ms));
}

static ferry_status etcd_list(struct ferry_store *store, const char *prefix,
                              uint32_t timeout_ms, struct ferry_kv_sink *out)
{
    char *range = etcd_range_of(prefix), *body = NULL, what[300];
    struct etcd_call call = {
        .path = "/v3/kv/range", .what = what, .deadline_ms = etcd_deadline(store, timeout_ms)};
    ferry_status status = FERRY_ENOMEM;
    const cJSON *kv;

    snprintf(what, sizeof(what), "list %s", prefix);
    if (range && asprintf(&body, "{%s,\"keys_only\":true}", range) < 0)
        body = NULL;
    call.body = body;
    if (body)
        status = etcd_do(store, &call);
    if (status == FERRY_ENOENT)
        status = FERRY_EUNREACH;
    if (!status) {
        cJSON_ArrayForEach(kv, cJSON_GetObjectItemCaseSensitive(call.reply, "kvs"))
        {
            const cJSON *key64 = cJSON_GetObjectItemCaseSensitive(kv, "key");
            size_t len;
            char *key =
                cJSON_IsString(key64) ? fm_base64_decode(key64->valuestring, &len) : NULL;
            struct ferry_kv item = {.key = key};

            if (key && !status)
                status = out->put(out, &item);
            free(key);
        }
    }
    cJSON_Delete(call.reply);
    free(body);
    free(range);
    return status;
}

const struct ferry_metadata_ops fm_etcd_ops = {
    .size = sizeof(struct ferry_metadata_ops),
    .open = etcd_open,
    .close = etcd_close,
    .query = etcd_query,
    .put = etcd_put,
    .get = etcd_get,
    .del = etcd_del,
    .list = etcd_list,
    .watch = etcd_watch,
    .unwatch = etcd_unwatch,
};
