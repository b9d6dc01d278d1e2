/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Mooncake's metadata protocol over HTTP: GET, PUT and DELETE of BASE?key=KEY, and 200 is the
 * only success. Nothing else can be asked of such servers, so there are no leases, lists,
 * watches or compare-and-set here. Knows nothing of what the values mean.
 */
#include "store.h"

#include <stdio.h>

#include "../common/http.h"
#include "../common/plug.h"
#include "../common/url.h"

#define MAX_VALUE (128u << 20) /* bytes; servers have lower limits of their own */

struct ferry_store {
    const struct ferry_host *host;
    struct fm_http *http;
    char *base, *user, *password;
    uint32_t timeout_ms;
};

static void http_close(struct ferry_store *store)
{
    if (!store)
        return;
    fm_http_close(store->http);
    free(store->base);
    free(store->user);
    free(store->password);
    free(store);
}

static ferry_status http_open(const struct ferry_host *host, const char *uri,
                              const struct ferry_kvs *config, struct ferry_store **store_out)
{
    ferry_status status = fm_config_check(host, config, "http", fm_http_settings);
    struct ferry_store *store;

    if (status)
        return status;
    store = calloc(1, sizeof(*store));
    if (!store)
        return FERRY_ENOMEM;
    store->host = host;
    store->timeout_ms = 3000;
    status = fm_config_u32(host, config, "timeout_ms", 1, 3600000, &store->timeout_ms);
    if (!status)
        status = fm_url_split_user(uri, &store->base, &store->user, &store->password);
    if (!status && !store->user)
        status = fm_config_text(config, "username", &store->user);
    if (!status && !store->password)
        status = fm_config_text(config, "password", &store->password);
    if (!status)
        status = fm_http_open(host, config, &store->http);
    if (status) {
        http_close(store);
        return status;
    }
    *store_out = store;
    return FERRY_OK;
}

static ferry_status http_query(struct ferry_store *store, struct ferry_store_caps *caps)
{
    struct ferry_store_caps none = {.max_value = MAX_VALUE};

    none.size = caps->size < sizeof(none) ? caps->size : (uint32_t)sizeof(none);
    memcpy(caps, &none, none.size);
    return FERRY_OK;
}

/* One request for one key. FERRY_OK: there is an answer, whatever its status. */
static ferry_status ask(struct ferry_store *store, const char *method, const char *key,
                        const void *val, size_t val_len, uint32_t timeout_ms,
                        struct fm_http_reply *reply)
{
    struct fm_http_request request = {.method = method,
                                      .user = store->user,
                                      .password = store->password,
                                      .content_type = val ? "application/json" : NULL,
                                      .body = val,
                                      .body_len = val_len,
                                      .max_reply = MAX_VALUE,
                                      .timeout_ms =
                                          timeout_ms ? timeout_ms : store->timeout_ms};
    char why[512] = "", *escaped = fm_url_escape(key), *url = NULL;
    ferry_status status = FERRY_ENOMEM;

    if (escaped && asprintf(&url, "%s%ckey=%s", store->base,
                            strchr(store->base, '?') ? '&' : '?', escaped) < 0)
        url = NULL;
    if (url) {
        request.url = url;
        status = fm_http_do(store->http, &request, reply, why, sizeof(why));
        if (status)
            FM_LOG(store->host, FERRY_LOG_WARN, "%s %s: %s", method, url, why);
    }
    free(url);
    free(escaped);
    return status;
}

/* The service answered, and not what it should: with the beginning of what it said. */
static ferry_status refused(struct ferry_store *store, const char *method, const char *key,
                            const struct fm_http_reply *reply)
{
    int len = reply->len < 160 ? (int)reply->len : 160;

    for (int i = 0; i < len; i++) {
        if ((unsigned char)reply->body[i] < ' ')
            len = i;
    }
    FM_LOG(store->host, FERRY_LOG_WARN, "%s %s?key=%s: HTTP %ld%s%.*s", method, store->base,
           key, reply->status, len ? ": " : "", len, len ? reply->body : "");
    return reply->status == 413 ? FERRY_ERANGE : FERRY_EUNREACH;
}

static ferry_status http_put(struct ferry_store *store, const struct ferry_store_put *args,
                             uint32_t timeout_ms, uint64_t *rev_out)
{
    struct fm_http_reply reply;
    ferry_status status;

    if (args->ttl_ms || args->expect_rev != FERRY_REV_ANY)
        return FERRY_ENOTSUP;
    if (args->val_len > MAX_VALUE)
        return FERRY_ERANGE;
    status = ask(store, "PUT", args->key, args->val_len ? args->val : "", args->val_len,
                 timeout_ms, &reply);
    if (status)
        return status;
    if (reply.status != 200)
        status = refused(store, "PUT", args->key, &reply);
    else if (rev_out)
        *rev_out = 0;
    fm_http_reply_free(&reply);
    return status;
}

static ferry_status http_get(struct ferry_store *store, const char *key, uint32_t timeout_ms,
                             struct ferry_buf_sink *out, uint64_t *rev_out)
{
    struct fm_http_reply reply;
    ferry_status status = ask(store, "GET", key, NULL, 0, timeout_ms, &reply);

    if (status)
        return status;
    if (reply.status == 404)
        status = FERRY_ENOENT;
    else if (reply.status != 200)
        status = refused(store, "GET", key, &reply);
    else
        status = out->append(out, reply.body ? reply.body : "", reply.len);
    if (!status && rev_out)
        *rev_out = 0;
    fm_http_reply_free(&reply);
    return status;
}

static ferry_status http_del(struct ferry_store *store, const char *key, uint32_t timeout_ms)
{
    struct fm_http_reply reply;
    ferry_status status = ask(store, "DELETE", key, NULL, 0, timeout_ms, &reply);

    if (status)
        return status;
    if (reply.status != 200 && reply.status != 404)
        status = refused(store, "DELETE", key, &reply);
    fm_http_reply_free(&reply);
    return status;
}

const struct ferry_metadata_ops fm_http_ops = {
    .size = sizeof(struct ferry_metadata_ops),
    .open = http_open,
    .close = http_close,
    .query = http_query,
    .put = http_put,
    .get = http_get,
    .del = http_del,
};
