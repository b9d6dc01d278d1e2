/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests to etcd's JSON gateway: over the endpoints in turn, with a token where there is a
 * user, and its errors in our words. Knows nothing of keys and leases; no secret leaves it.
 */
#include <cjson/cJSON.h>
#include <stdio.h>

#include "../common/plug.h"
#include "etcd.h"

#define MAX_REPLY (512u << 20) /* bytes */

/* gRPC's numbers, as the gateway gives them in "code". */
enum { DEADLINE = 4, NOT_FOUND = 5, EXHAUSTED = 8, UNAVAILABLE = 14, UNAUTHENTICATED = 16 };

uint64_t etcd_deadline(const struct ferry_store *store, uint32_t timeout_ms)
{
    return fm_now_ms() + (timeout_ms ? timeout_ms : store->timeout_ms);
}

/* ---- one endpoint -------------------------------------------------------------------------
 */

/* What became of one request. */
struct answer {
    int code;       /* gRPC's; 0 = fine, -1 = no answer at all */
    int unsent;     /* nothing of it reached the server */
    cJSON *json;    /* where code is 0 */
    char text[384]; /* where it is not */
};

static void read_error(const struct fm_http_reply *reply, struct answer *answer)
{
    const char *text = reply->body ? reply->body : "";
    cJSON *json = cJSON_ParseWithLength(text, reply->len);
    const cJSON *error = cJSON_GetObjectItemCaseSensitive(json, "error");
    const cJSON *code = cJSON_GetObjectItemCaseSensitive(json, "code");

    if (cJSON_IsObject(error)) { /* of a stream */
        code = cJSON_GetObjectItemCaseSensitive(error, "grpc_code");
        error = cJSON_GetObjectItemCaseSensitive(error, "message");
    }
    answer->code = cJSON_IsNumber(code)   ? code->valueint
                   : reply->status == 503 ? UNAVAILABLE
                   : reply->status == 401 ? UNAUTHENTICATED
                                          : 2;
    if (cJSON_IsString(error))
        snprintf(answer->text, sizeof(answer->text), "%s", error->valuestring);
    else
        snprintf(answer->text, sizeof(answer->text), "HTTP %ld: %.*s%s", reply->status,
                 (int)strcspn(text, "\r\n"), text,
                 strstr(text, "CommonName") ? " (use a client certificate without one)" : "");
    cJSON_Delete(json);
}

static void ask(struct ferry_store *store, size_t endpoint, const char *path, const char *body,
                const char *token, uint64_t deadline_ms, struct answer *answer)
{
    uint64_t now = fm_now_ms();
    struct fm_http_request request = {
        .method = "POST",
        .authorization = token,
        .content_type = "application/json",
        .body = body,
        .body_len = strlen(body),
        .max_reply = MAX_REPLY,
        .timeout_ms = deadline_ms > now ? (uint32_t)(deadline_ms - now) : 1};
    struct fm_http_reply reply;
    char url[320], why[256] = "";

    *answer = (struct answer){0};
    snprintf(url, sizeof(url), "%s%s", store->endpoints[endpoint], path);
    request.url = url;
    if (fm_http_do(store->http, &request, &reply, why, sizeof(why))) {
        answer->code = -1;
        answer->unsent = !reply.sent;
        snprintf(answer->text, sizeof(answer->text), "%s", why);
        return;
    }
    if (reply.status != 200) {
        read_error(&reply, answer);
    } else {
        answer->json = cJSON_ParseWithLength(reply.body ? reply.body : "", reply.len);
        if (!cJSON_IsObject(answer->json)) {
            cJSON_Delete(answer->json);
            answer->json = NULL;
            answer->code = 2;
            snprintf(answer->text, sizeof(answer->text), "the answer is no JSON object");
        }
    }
    fm_http_reply_free(&reply);
}

/* ---- authentication -----------------------------------------------------------------------
 */

static char *token_now(struct ferry_store *store)
{
    char *token = NULL;

    pthread_mutex_lock(&store->lock);
    if (store->token)
        token = strdup(store->token);
    pthread_mutex_unlock(&store->lock);
    return token;
}

static void token_drop(struct ferry_store *store, const char *token)
{
    pthread_mutex_lock(&store->lock);
    if (store->token && token && !strcmp(store->token, token)) {
        free(store->token);
        store->token = NULL;
    }
    pthread_mutex_unlock(&store->lock);
}

/* A token from this endpoint; `answer` says what went wrong where it is NULL. */
static char *authenticate(struct ferry_store *store, size_t endpoint, uint64_t deadline_ms,
                          struct answer *answer)
{
    cJSON *login = cJSON_CreateObject();
    const cJSON *token;
    char *body = NULL, *fresh = NULL;

    if (cJSON_AddStringToObject(login, "name", store->user) &&
        cJSON_AddStringToObject(login, "password", store->password ? store->password : ""))
        body = cJSON_PrintUnformatted(login);
    cJSON_Delete(login);
    if (!body) {
        *answer = (struct answer){.code = 2, .text = "out of memory"};
        return NULL;
    }
    ask(store, endpoint, "/v3/auth/authenticate", body, NULL, deadline_ms, answer);
    memset(body, 0, strlen(body));
    cJSON_free(body);
    if (answer->code)
        return NULL;
    token = cJSON_GetObjectItemCaseSensitive(answer->json, "token");
    if (cJSON_IsString(token))
        fresh = strdup(token->valuestring);
    cJSON_Delete(answer->json);
    answer->json = NULL;
    if (!fresh) {
        answer->code = 2;
        snprintf(answer->text, sizeof(answer->text), "no token for user %s", store->user);
        return NULL;
    }
    pthread_mutex_lock(&store->lock);
    free(store->token);
    store->token = strdup(fresh);
    pthread_mutex_unlock(&store->lock);
    return fresh;
}

static int is_stale_token(const struct answer *answer)
{
    return answer->code == UNAUTHENTICATED || /* in words, before 3.5: */
           strstr(answer->text, "invalid auth token") ||
           strstr(answer->text, "revision of auth store is old");
}

/* With a token where there is a user; a token that has expired is replaced once. */
static void ask_as_user(struct ferry_store *store, size_t endpoint, const char *path,
                        const char *body, uint64_t deadline_ms, struct answer *answer)
{
    char *token = NULL;

    if (!store->user) {
        ask(store, endpoint, path, body, NULL, deadline_ms, answer);
        return;
    }
    for (int i = 0; i < 2; i++) {
        token = token_now(store);
        if (!token)
            token = authenticate(store, endpoint, deadline_ms, answer);
        if (!token)
            return;
        ask(store, endpoint, path, body, token, deadline_ms, answer);
        /* A server that lost its data waits, with a token of its former life, until it is as
         * far as it was then: no answer is a reason to ask for a new one, too. */
        if (is_stale_token(answer) || (answer->code == -1 && !answer->unsent))
            token_drop(store, token);
        free(token);
        if (!is_stale_token(answer))
            return;
    }
}

/* ---- all endpoints ------------------------------------------------------------------------
 */

static ferry_status status_of(const struct answer *answer)
{
    if (answer->code == NOT_FOUND)
        return FERRY_ENOENT;
    if (strstr(answer->text, "too large") || strstr(answer->text, "larger than max"))
        return FERRY_ERANGE;
    return FERRY_EUNREACH;
}

/* Worth asking another one, or again: this one is down, cut off, or without a leader. */
static int is_passing(const struct answer *answer)
{
    return answer->code == -1 || answer->code == UNAVAILABLE || answer->code == DEADLINE ||
           strstr(answer->text, "no leader") || strstr(answer->text, "timed out") ||
           strstr(answer->text, "leader changed");
}

/* Starts at the endpoint that answered last. Each is given its share of what time is left; a
 * round that found somebody there, if unable, is repeated until the deadline. */
ferry_status etcd_do(struct ferry_store *store, struct etcd_call *call)
{
    struct answer answer = {.code = -1, .text = "no time left"};
    size_t n = store->n_endpoints, first, endpoint = 0;
    int again = 1;

    call->reply = NULL;
    call->ambiguous = 0;
    pthread_mutex_lock(&store->lock);
    first = store->current;
    pthread_mutex_unlock(&store->lock);
    while (again) {
        again = 0;
        for (size_t i = 0; i < n; i++) {
            uint64_t now = fm_now_ms(), left;

            left = call->deadline_ms > now ? call->deadline_ms - now : 0;
            if (!left)
                break;
            endpoint = (first + i) % n;
            ask_as_user(store, endpoint, call->path, call->body,
                        now + (left + n - i - 1) / (n - i), &answer);
            if (!is_passing(&answer))
                goto out;
            again |= answer.code != -1;
            call->ambiguous |= !answer.unsent;
        }
        if (again) {
            uint64_t now = fm_now_ms();
            struct timespec pause = {.tv_nsec = 50 * 1000000};

            again = now + 50 < call->deadline_ms;
            if (again)
                nanosleep(&pause, NULL);
        }
    }
out:
    if (!answer.code) {
        pthread_mutex_lock(&store->lock);
        store->current = endpoint;
        pthread_mutex_unlock(&store->lock);
        call->reply = answer.json;
        return FERRY_OK;
    }
    snprintf(call->why, sizeof(call->why), "%s at etcd %s: %s", call->what,
             store->endpoints[endpoint], answer.text);
    if (call->voice == ETCD_LOUD ||
        (call->voice == ETCD_ABSENT_QUIET && answer.code != NOT_FOUND))
        FM_LOG(store->host, FERRY_LOG_WARN, "%s", call->why);
    return status_of(&answer);
}

ferry_status etcd_stream(struct ferry_store *store, const char *path, const char *body,
                         uint32_t timeout_ms, struct fm_http_stop *stop,
                         int (*piece)(void *arg, const char *data, size_t len), void *arg,
                         char *why, size_t room)
{
    struct answer answer = {0};
    struct fm_http_reply reply;
    struct fm_http_request request = {.method = "POST",
                                      .content_type = "application/json",
                                      .body = body,
                                      .body_len = strlen(body),
                                      .max_reply = 65536,
                                      .timeout_ms = timeout_ms,
                                      .piece = piece,
                                      .arg = arg,
                                      .stop = stop};
    char url[320], *token = NULL;
    ferry_status status;
    size_t endpoint;

    pthread_mutex_lock(&store->lock);
    endpoint = store->current;
    pthread_mutex_unlock(&store->lock);
    if (store->user) {
        token = token_now(store);
        if (!token)
            token = authenticate(store, endpoint, fm_now_ms() + store->timeout_ms, &answer);
        if (!token) {
            snprintf(why, room, "%s", answer.text);
            status = FERRY_EUNREACH;
            goto out;
        }
    }
    snprintf(url, sizeof(url), "%s%s", store->endpoints[endpoint], path);
    request.url = url;
    request.authorization = token;
    status = fm_http_do(store->http, &request, &reply, why, room);
    if (!status && reply.status != 200 && reply.status != 0) {
        read_error(&reply, &answer);
        snprintf(why, room, "%s", answer.text);
        if (is_stale_token(&answer))
            token_drop(store, token);
        status = FERRY_EUNREACH;
    }
    if (!status)
        fm_http_reply_free(&reply);
out:
    free(token);
    if (status) { /* the next attempt goes to another one */
        pthread_mutex_lock(&store->lock);
        if (store->current == endpoint)
            store->current = (endpoint + 1) % store->n_endpoints;
        pthread_mutex_unlock(&store->lock);
    }
    return status;
}
