/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The metadata plugin's calls for one redis server: opening, put, get, del, list. Redis keeps
 * no revisions: a value's is a sum of its bytes, compared under WATCH. Leases are lease.c's.
 * Knows nothing of what the values mean.
 */
#include <stdio.h>

#include "../common/net.h"
#include "../common/plug.h"
#include "../common/url.h"
#include "redis.h"

static void redis_close(struct ferry_store *store)
{
    if (!store)
        return;
    fm_leases_close(store->leases);
    for (size_t i = 0; i < store->n_idle; i++)
        redis_conn_close(store->idle[i]);
    redis_tls_close(store->tls);
    if (store->password)
        memset(store->password, 0, strlen(store->password));
    free(store->user);
    free(store->password);
    pthread_mutex_destroy(&store->lock);
    free(store);
}

/* "host[:port][/db]"; Mooncake's own default port here is 12001, ours is redis's. */
static ferry_status take_address(struct ferry_store *store, const char *uri)
{
    const char *text = strstr(uri, "://");
    char *address = strdup(text ? text + 3 : uri), *slash, *end;
    ferry_status status = FERRY_OK;

    if (!address)
        return FERRY_ENOMEM;
    slash = strchr(address, '/');
    if (slash) {
        unsigned long db = strtoul(slash + 1, &end, 10);

        if (*end || db > 65535)
            status = FERRY_EINVAL;
        if (slash[1])
            store->db = (uint32_t)db;
        *slash = '\0';
    }
    if (strpbrk(address, ",;")) {
        FM_LOG(store->host, FERRY_LOG_ERROR,
               "redis: one server is wanted; Cluster and Sentinel are not supported");
        status = FERRY_EINVAL;
    } else if (status || fm_net_split(address, 6379, store->server, sizeof(store->server),
                                      &store->port)) {
        FM_LOG(store->host, FERRY_LOG_ERROR, "redis: redis://host[:port][/database] is wanted");
        status = FERRY_EINVAL;
    }
    snprintf(store->name, sizeof(store->name),
             strchr(store->server, ':') ? "redis [%s]:%u" : "redis %s:%u", store->server,
             store->port);
    free(address);
    return status;
}

static ferry_status take_tls(struct ferry_store *store, const char *uri,
                             const struct ferry_kvs *config)
{
    char *ca_file = NULL, *cert_file = NULL, *key_file = NULL, why[300] = "out of memory";
    int tls = !strncmp(uri, "rediss://", 9), verify = 1;
    ferry_status status = fm_config_bool(store->host, config, "tls", &tls);

    if (!status)
        status = fm_config_bool(store->host, config, "verify", &verify);
    if (!status)
        status = fm_config_text(config, "ca_file", &ca_file);
    if (!status)
        status = fm_config_text(config, "cert_file", &cert_file);
    if (!status)
        status = fm_config_text(config, "key_file", &key_file);
    if (!status && tls) {
        status =
            redis_tls_open(ca_file, cert_file, key_file, verify, &store->tls, why, sizeof(why));
        if (status)
            FM_LOG(store->host, FERRY_LOG_ERROR, "%s: %s", store->name, why);
    }
    free(ca_file);
    free(cert_file);
    free(key_file);
    return status;
}

static ferry_status take_settings(struct ferry_store *store, const char *uri,
                                  const struct ferry_kvs *config)
{
    static const char *const known[] = {
        "timeout_ms", "connect_timeout_ms", "username", "password", "db", "tls",
        "ca_file",    "cert_file",          "key_file", "verify",   NULL};
    const struct ferry_host *host = store->host;
    char *plain = NULL;
    ferry_status status = fm_config_check(host, config, "redis", known);

    if (!status)
        status = fm_config_u32(host, config, "timeout_ms", 1, 3600000, &store->timeout_ms);
    if (!status)
        status = fm_config_u32(host, config, "connect_timeout_ms", 1, 3600000,
                               &store->connect_timeout_ms);
    if (!status)
        status = fm_config_u32(host, config, "db", 0, 65535, &store->db);
    if (!status)
        status = fm_url_split_user(uri, &plain, &store->user, &store->password);
    if (!status && !store->user)
        status = fm_config_text(config, "username", &store->user);
    if (!status && !store->password)
        status = fm_config_text(config, "password", &store->password);
    if (!status && store->user && !*store->user) { /* redis://:password@host */
        free(store->user);
        store->user = NULL;
    }
    if (!status)
        status = take_address(store, plain);
    if (!status)
        status = take_tls(store, uri, config);
    free(plain);
    return status;
}

static ferry_status redis_open(const struct ferry_host *host, const char *uri,
                               const struct ferry_kvs *config, struct ferry_store **store_out)
{
    struct ferry_store *store = calloc(1, sizeof(*store));
    ferry_status status;

    if (!store)
        return FERRY_ENOMEM;
    store->host = host;
    store->timeout_ms = 3000;
    store->connect_timeout_ms = 1500;
    pthread_mutex_init(&store->lock, NULL);
    status = take_settings(store, uri, config);
    if (!status)
        status = fm_leases_open(host, store->name, &redis_leases_ops, store, &store->leases);
    if (status) {
        redis_close(store);
        return status;
    }
    *store_out = store;
    return FERRY_OK;
}

static ferry_status redis_query(struct ferry_store *store, struct ferry_store_caps *caps)
{
    struct ferry_store_caps some = {.flags = FERRY_STORE_CAP_LEASE | FERRY_STORE_CAP_CAS |
                                             FERRY_STORE_CAP_LIST,
                                    .max_value = REDIS_MAX_VALUE};

    some.size = caps->size < sizeof(some) ? caps->size : (uint32_t)sizeof(some);
    memcpy(caps, &some, some.size);
    return FERRY_OK;
}

static uint64_t deadline_of(const struct ferry_store *store, uint32_t timeout_ms)
{
    return fm_now_ms() + (timeout_ms ? timeout_ms : store->timeout_ms);
}

uint64_t redis_rev(const void *val, size_t len)
{
    const unsigned char *at = val;
    uint64_t sum = 14695981039346656037ull; /* FNV-1a, folded so that neighbours differ */

    for (size_t i = 0; i < len; i++)
        sum = (sum ^ at[i]) * 1099511628211ull;
    sum ^= sum >> 32;
    return sum == FERRY_REV_ANY || sum == FERRY_REV_ABSENT ? 1 : sum;
}

ferry_status redis_do(struct ferry_store *store, const char *what, size_t n,
                      const char *const *argv, const size_t *lens, uint64_t deadline_ms,
                      redisReply **reply_out)
{
    struct redis_conn *conn = NULL;
    char why[384] = "out of memory";
    ferry_status status = FERRY_OK;
    int again = 1;

    while (again) {
        status = redis_take(store, what, deadline_ms, &conn);
        if (status)
            return status;
        status = redis_command(conn, n, argv, lens, deadline_ms, reply_out, why, sizeof(why));
        again = status && redis_was_kept(conn) && fm_now_ms() < deadline_ms;
        redis_give(store, conn);
    }
    if (status && what)
        FM_LOG(store->host, FERRY_LOG_WARN, "%s: %s: %s", store->name, what, why);
    return status;
}

/* ---- put ----------------------------------------------------------------------------------
 */

static ferry_status plain_set(struct ferry_store *store, const char *what, const char *key,
                              const void *val, size_t len, const char *ttl, int only_absent,
                              uint64_t deadline_ms)
{
    const char *argv[6] = {"SET", key, len ? val : ""};
    size_t lens[6] = {3, strlen(key), len}, n = 3;
    redisReply *reply = NULL;
    ferry_status status;

    if (ttl) {
        argv[n] = "PX";
        lens[n++] = 2;
        argv[n] = ttl;
        lens[n++] = strlen(ttl);
    }
    if (only_absent) {
        argv[n] = "NX";
        lens[n++] = 2;
    }
    status = redis_do(store, what, n, argv, lens, deadline_ms, &reply);
    if (status)
        return status;
    if (reply->type == REDIS_REPLY_NIL)
        status = FERRY_ECONFLICT;
    else if (reply->type != REDIS_REPLY_STATUS)
        status = redis_refused(store, what, reply);
    freeReplyObject(reply);
    return status;
}

/* A command on this connection whose reply is judged by its type. */
static ferry_status step(struct ferry_store *store, struct redis_conn *conn, const char *what,
                         size_t n, const char *const *argv, const size_t *lens,
                         uint64_t deadline_ms, redisReply **reply_out)
{
    char why[384] = "out of memory";
    ferry_status status =
        redis_command(conn, n, argv, lens, deadline_ms, reply_out, why, sizeof(why));

    if (status && what && !redis_was_kept(conn))
        FM_LOG(store->host, FERRY_LOG_WARN, "%s: %s: %s", store->name, what, why);
    if (!status && (*reply_out)->type == REDIS_REPLY_ERROR) {
        status = redis_refused(store, what, *reply_out);
        freeReplyObject(*reply_out);
        *reply_out = NULL;
        status = status ? status : FERRY_EUNREACH;
    }
    return status;
}

/* WATCH, GET and, where the value is the expected one, MULTI, SET, EXEC. */
static ferry_status watched_set(struct ferry_store *store, struct redis_conn *conn,
                                const char *what, const char *key, const void *val, size_t len,
                                const char *ttl, uint64_t expect_rev, uint64_t deadline_ms)
{
    size_t key_len = strlen(key);
    const char *watch[] = {"WATCH", key}, *get[] = {"GET", key}, *multi[] = {"MULTI"};
    const char *set[] = {"SET", key, len ? val : "", "PX", ttl}, *exec[] = {"EXEC"};
    const char *unwatch[] = {"UNWATCH"};
    const size_t watch_lens[] = {5, key_len}, get_lens[] = {3, key_len}, multi_lens[] = {5};
    const size_t set_lens[] = {3, key_len, len, 2, ttl ? strlen(ttl) : 0}, exec_lens[] = {4};
    const size_t unwatch_lens[] = {7};
    redisReply *reply = NULL;
    int matches = 0;
    ferry_status status = step(store, conn, what, 2, watch, watch_lens, deadline_ms, &reply);

    if (!status) {
        freeReplyObject(reply);
        status = step(store, conn, what, 2, get, get_lens, deadline_ms, &reply);
    }
    if (!status) {
        matches = reply->type == REDIS_REPLY_STRING &&
                  redis_rev(reply->str, (size_t)reply->len) == expect_rev;
        freeReplyObject(reply);
        status = matches
                     ? step(store, conn, what, 1, multi, multi_lens, deadline_ms, &reply)
                     : step(store, conn, what, 1, unwatch, unwatch_lens, deadline_ms, &reply);
    }
    if (!status) {
        freeReplyObject(reply);
        if (!matches)
            return FERRY_ECONFLICT;
        status = step(store, conn, what, ttl ? 5 : 3, set, set_lens, deadline_ms, &reply);
    }
    if (!status) {
        freeReplyObject(reply);
        status = step(store, conn, what, 1, exec, exec_lens, deadline_ms, &reply);
    }
    if (!status) {
        status = reply->type == REDIS_REPLY_ARRAY ? FERRY_OK : FERRY_ECONFLICT;
        freeReplyObject(reply);
    }
    return status;
}

ferry_status redis_set(struct ferry_store *store, const char *what, const char *key,
                       const void *val, size_t len, uint32_t ttl_ms, uint64_t expect_rev,
                       uint64_t deadline_ms)
{
    struct redis_conn *conn = NULL;
    char ttl[16];
    ferry_status status = FERRY_EUNREACH;
    int kept = 1;

    snprintf(ttl, sizeof(ttl), "%u", ttl_ms);
    if (expect_rev == FERRY_REV_ANY || expect_rev == FERRY_REV_ABSENT)
        return plain_set(store, what, key, val, len, ttl_ms ? ttl : NULL,
                         expect_rev == FERRY_REV_ABSENT, deadline_ms);
    while (status == FERRY_EUNREACH && kept) {
        status = redis_take(store, what, deadline_ms, &conn);
        if (status)
            return status;
        kept = redis_was_kept(conn);
        status = watched_set(store, conn, what, key, val, len, ttl_ms ? ttl : NULL, expect_rev,
                             deadline_ms);
        if (status && status != FERRY_ECONFLICT)
            redis_conn_close(conn); /* it may be in the middle of a transaction */
        else
            redis_give(store, conn);
    }
    return status;
}

ferry_status redis_put_key(struct ferry_store *store, const struct ferry_store_put *args,
                           uint64_t deadline_ms, uint64_t *rev_out)
{
    ferry_status status;
    char what[300];

    snprintf(what, sizeof(what), "put %s", args->key);
    status = redis_set(store, what, args->key, args->val, args->val_len, args->ttl_ms,
                       args->expect_rev, deadline_ms);
    if (!status && rev_out)
        *rev_out = redis_rev(args->val, args->val_len);
    return status;
}

static ferry_status redis_put(struct ferry_store *store, const struct ferry_store_put *args,
                              uint32_t timeout_ms, uint64_t *rev_out)
{
    if (args->val_len > REDIS_MAX_VALUE)
        return FERRY_ERANGE;
    return fm_leases_put(store->leases, args, deadline_of(store, timeout_ms), rev_out);
}

/* ---- get, del, list -----------------------------------------------------------------------
 */

static ferry_status redis_get(struct ferry_store *store, const char *key, uint32_t timeout_ms,
                              struct ferry_buf_sink *out, uint64_t *rev_out)
{
    const char *argv[] = {"GET", key};
    const size_t lens[] = {3, strlen(key)};
    redisReply *reply = NULL;
    char what[300];
    ferry_status status;

    snprintf(what, sizeof(what), "get %s", key);
    status = redis_do(store, what, 2, argv, lens, deadline_of(store, timeout_ms), &reply);
    if (status)
        return status;
    if (reply->type == REDIS_REPLY_NIL) {
        status = FERRY_ENOENT;
    } else if (reply->type != REDIS_REPLY_STRING) {
        status = redis_refused(store, what, reply);
    } else {
        status = out->append(out, reply->str, (size_t)reply->len);
        if (!status && rev_out)
            *rev_out = redis_rev(reply->str, (size_t)reply->len);
    }
    freeReplyObject(reply);
    return status;
}

ferry_status redis_del_key(struct ferry_store *store, const char *key, uint64_t deadline_ms)
{
    const char *argv[] = {"DEL", key};
    const size_t lens[] = {3, strlen(key)};
    redisReply *reply = NULL;
    ferry_status status;
    char what[300];

    snprintf(what, sizeof(what), "delete %s", key);
    status = redis_do(store, what, 2, argv, lens, deadline_ms, &reply);
    if (!status && reply->type != REDIS_REPLY_INTEGER)
        status = redis_refused(store, what, reply);
    if (reply)
        freeReplyObject(reply);
    return status;
}

static ferry_status redis_del(struct ferry_store *store, const char *key, uint32_t timeout_ms)
{
    return fm_leases_del(store->leases, key, deadline_of(store, timeout_ms));
}

struct keys {
    char **v;
    size_t n, room;
};

static int keys_add(struct keys *keys, const char *key)
{
    if (keys->n == keys->room) {
        size_t room = keys->room ? keys->room * 2 : 64;
        char **v = realloc(keys->v, room * sizeof(*v));

        if (!v)
            return 0;
        keys->v = v;
        keys->room = room;
    }
    keys->v[keys->n] = strdup(key);
    return keys->v[keys->n] && ++keys->n;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The prefix as a pattern that stands for itself, and a star. */
static char *pattern_of(const char *prefix)
{
    char *pattern = malloc(strlen(prefix) * 2 + 2), *at = pattern;

    if (!pattern)
        return NULL;
    for (; *prefix; prefix++) {
        if (strchr("*?[]^\\-", *prefix))
            *at++ = '\\';
        *at++ = *prefix;
    }
    *at++ = '*';
    *at = '\0';
    return pattern;
}

/* A page of SCAN; the cursor is replaced by the next one, "0" at the end. */
static ferry_status scan(struct ferry_store *store, const char *what, char *cursor, size_t room,
                         const char *pattern, uint64_t deadline_ms, struct keys *keys)
{
    const char *argv[] = {"SCAN", cursor, "MATCH", pattern, "COUNT", "1000"};
    const size_t lens[] = {4, strlen(cursor), 5, strlen(pattern), 5, 4};
    redisReply *reply = NULL;
    ferry_status status = redis_do(store, what, 6, argv, lens, deadline_ms, &reply);

    if (status)
        return status;
    if (reply->type != REDIS_REPLY_ARRAY || reply->elements != 2 ||
        reply->element[0]->type != REDIS_REPLY_STRING ||
        reply->element[1]->type != REDIS_REPLY_ARRAY) {
        status = redis_refused(store, what, reply);
    } else {
        snprintf(cursor, room, "%s", reply->element[0]->str);
        for (size_t i = 0; i < reply->element[1]->elements && !status; i++) {
            const redisReply *key = reply->element[1]->element[i];

            if (key->type == REDIS_REPLY_STRING && !keys_add(keys, key->str))
                status = FERRY_ENOMEM;
        }
    }
    freeReplyObject(reply);
    return status;
}

static ferry_status redis_list(struct ferry_store *store, const char *prefix,
                               uint32_t timeout_ms, struct ferry_kv_sink *out)
{
    uint64_t deadline_ms = deadline_of(store, timeout_ms);
    char *pattern = pattern_of(prefix), cursor[32] = "0", what[300];
    ferry_status status = pattern ? FERRY_OK : FERRY_ENOMEM;
    struct keys keys = {0};

    snprintf(what, sizeof(what), "list %s", prefix);
    do {
        if (!status)
            status = scan(store, what, cursor, sizeof(cursor), pattern, deadline_ms, &keys);
    } while (!status && strcmp(cursor, "0") != 0);
    if (keys.n)
        qsort(keys.v, keys.n, sizeof(*keys.v), by_name);
    for (size_t i = 0; i < keys.n; i++) {
        struct ferry_kv kv = {.key = keys.v[i]};

        /* SCAN may name a key twice */
        if (!status && (!i || strcmp(keys.v[i - 1], keys.v[i]) != 0))
            status = out->put(out, &kv);
    }
    for (size_t i = 0; i < keys.n; i++)
        free(keys.v[i]);
    free(keys.v);
    free(pattern);
    return status;
}

const struct ferry_metadata_ops fm_redis_ops = {
    .size = sizeof(struct ferry_metadata_ops),
    .open = redis_open,
    .close = redis_close,
    .query = redis_query,
    .put = redis_put,
    .get = redis_get,
    .del = redis_del,
    .list = redis_list,
};
