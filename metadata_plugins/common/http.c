/* SPDX-License-Identifier: Apache-2.0 */
/*
 * HTTP by libcurl: a pool of easy handles, each with its kept connections, one to a request.
 * Knows nothing of metadata; secrets that pass through never reach a message.
 */
#include "http.h"

#include <curl/curl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>

#include "plug.h"

#define MAX_IDLE 16 /* handles kept; beyond that they are closed after use */

struct fm_http {
    pthread_mutex_t lock; /* guards idle, n_idle; never held over a request */
    CURL *idle[MAX_IDLE];
    size_t n_idle;
    char *proxy, *ca_file, *cert_file, *key_file;
    int verify;
    uint32_t connect_timeout_ms;
};

const char *const fm_http_settings[] = {
    "timeout_ms", "connect_timeout_ms", "proxy",    "ca_file", "cert_file", "key_file",
    "verify",     "username",           "password", NULL};

static pthread_once_t curl_once = PTHREAD_ONCE_INIT;

static void curl_start(void)
{
    curl_global_init(CURL_GLOBAL_DEFAULT);
}

ferry_status fm_http_open(const struct ferry_host *host, const struct ferry_kvs *config,
                          struct fm_http **http_out)
{
    struct fm_http *http = calloc(1, sizeof(*http));
    ferry_status status;

    if (!http)
        return FERRY_ENOMEM;
    pthread_once(&curl_once, curl_start);
    pthread_mutex_init(&http->lock, NULL);
    http->verify = 1;
    http->connect_timeout_ms = 1500;
    status = fm_config_u32(host, config, "connect_timeout_ms", 1, 3600000,
                           &http->connect_timeout_ms);
    if (!status)
        status = fm_config_bool(host, config, "verify", &http->verify);
    if (!status)
        status = fm_config_text(config, "proxy", &http->proxy);
    if (!status)
        status = fm_config_text(config, "ca_file", &http->ca_file);
    if (!status)
        status = fm_config_text(config, "cert_file", &http->cert_file);
    if (!status)
        status = fm_config_text(config, "key_file", &http->key_file);
    if (status) {
        fm_http_close(http);
        return status;
    }
    *http_out = http;
    return FERRY_OK;
}

void fm_http_close(struct fm_http *http)
{
    if (!http)
        return;
    for (size_t i = 0; i < http->n_idle; i++)
        curl_easy_cleanup(http->idle[i]);
    free(http->proxy);
    free(http->ca_file);
    free(http->cert_file);
    free(http->key_file);
    pthread_mutex_destroy(&http->lock);
    free(http);
}

static CURL *take(struct fm_http *http)
{
    CURL *curl = NULL;

    pthread_mutex_lock(&http->lock);
    if (http->n_idle)
        curl = http->idle[--http->n_idle];
    pthread_mutex_unlock(&http->lock);
    if (curl)
        curl_easy_reset(curl); /* keeps the connections */
    return curl ? curl : curl_easy_init();
}

static void give(struct fm_http *http, CURL *curl)
{
    pthread_mutex_lock(&http->lock);
    if (http->n_idle < MAX_IDLE) {
        http->idle[http->n_idle++] = curl;
        curl = NULL;
    }
    pthread_mutex_unlock(&http->lock);
    if (curl)
        curl_easy_cleanup(curl);
}

struct fm_http_stop {
    CURLM *multi;
    atomic_int now;
};

struct transfer {
    CURL *curl;
    const struct fm_http_request *request;
    struct fm_http_reply *reply;
    int too_long, ended;
};

static size_t on_data(char *data, size_t size, size_t n, void *arg)
{
    struct transfer *t = arg;
    struct fm_http_reply *reply = t->reply;
    size_t len = size * n;
    long status = 0;

    if (t->request->piece) {
        curl_easy_getinfo(t->curl, CURLINFO_RESPONSE_CODE, &status);
        if (status == 200) {
            t->ended = t->request->piece(t->request->arg, data, len) != 0;
            return t->ended ? 0 : len;
        }
    }
    if (len > t->request->max_reply - reply->len) {
        t->too_long = 1;
        return 0;
    }
    if (len >= reply->cap - reply->len) {
        size_t cap = reply->cap ? reply->cap * 2 : 1024;
        char *body;

        while (cap <= reply->len + len)
            cap *= 2;
        body = realloc(reply->body, cap);
        if (!body)
            return 0;
        reply->body = body;
        reply->cap = cap;
    }
    memcpy(reply->body + reply->len, data, len);
    reply->len += len;
    reply->body[reply->len] = '\0';
    return len;
}

static struct curl_slist *headers_of(const struct fm_http_request *request)
{
    struct curl_slist *list = curl_slist_append(NULL, "Expect:"); /* no wait before the body */
    char line[4096];

    if (request->content_type) {
        snprintf(line, sizeof(line), "Content-Type: %s", request->content_type);
        list = curl_slist_append(list, line);
    }
    if (request->authorization) {
        snprintf(line, sizeof(line), "Authorization: %s", request->authorization);
        list = curl_slist_append(list, line);
    }
    return list;
}

static void prepare(struct fm_http *http, struct transfer *t, struct curl_slist *headers,
                    char *errors)
{
    const struct fm_http_request *request = t->request;
    uint32_t connect_ms = http->connect_timeout_ms < request->timeout_ms
                              ? http->connect_timeout_ms
                              : request->timeout_ms;
    CURL *curl = t->curl;

    curl_easy_setopt(curl, CURLOPT_URL, request->url);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    /* A resolver that does not answer is left behind, else the end of the transfer waits for
     * it; plugins stay loaded. */
    curl_easy_setopt(curl, CURLOPT_QUICK_EXIT, 1L);
    curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, errors);
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, (long)request->timeout_ms);
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, (long)connect_ms);
    curl_easy_setopt(curl, CURLOPT_TCP_KEEPALIVE, 1L);
    curl_easy_setopt(curl, CURLOPT_PROXY, http->proxy ? http->proxy : "");
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_data);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, t);
    if (strcmp(request->method, "GET") != 0) {
        curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, request->method);
        if (request->body) {
            curl_easy_setopt(curl, CURLOPT_POSTFIELDS, request->body);
            curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)request->body_len);
        }
    }
    if (request->user) {
        curl_easy_setopt(curl, CURLOPT_HTTPAUTH, (long)CURLAUTH_BASIC);
        curl_easy_setopt(curl, CURLOPT_USERNAME, request->user);
        curl_easy_setopt(curl, CURLOPT_PASSWORD, request->password ? request->password : "");
    }
    if (http->ca_file)
        curl_easy_setopt(curl, CURLOPT_CAINFO, http->ca_file);
    if (http->cert_file)
        curl_easy_setopt(curl, CURLOPT_SSLCERT, http->cert_file);
    if (http->key_file)
        curl_easy_setopt(curl, CURLOPT_SSLKEY, http->key_file);
    if (!http->verify) {
        curl_easy_setopt(curl, CURLOPT_SSL_VERIFYPEER, 0L);
        curl_easy_setopt(curl, CURLOPT_SSL_VERIFYHOST, 0L);
    }
}

ferry_status fm_http_stop_open(struct fm_http_stop **stop_out)
{
    struct fm_http_stop *stop = calloc(1, sizeof(*stop));

    pthread_once(&curl_once, curl_start);
    if (stop)
        stop->multi = curl_multi_init();
    if (!stop || !stop->multi) {
        free(stop);
        return FERRY_ENOMEM;
    }
    *stop_out = stop;
    return FERRY_OK;
}

void fm_http_stop_now(struct fm_http_stop *stop)
{
    atomic_store_explicit(&stop->now, 1, memory_order_release); /* pairs with perform() */
    curl_multi_wakeup(stop->multi);
}

void fm_http_stop_close(struct fm_http_stop *stop)
{
    if (!stop)
        return;
    curl_multi_cleanup(stop->multi);
    free(stop);
}

/* As curl_easy_perform(), and stoppable. */
static CURLcode perform(struct transfer *t)
{
    struct fm_http_stop *stop = t->request->stop;
    CURLcode rc = CURLE_FAILED_INIT;
    int running = 1, left;
    CURLMsg *msg;

    if (!stop)
        return curl_easy_perform(t->curl);
    if (curl_multi_add_handle(stop->multi, t->curl))
        return rc;
    while (running && !atomic_load_explicit(&stop->now, memory_order_acquire)) {
        if (curl_multi_perform(stop->multi, &running))
            break;
        if (running)
            curl_multi_poll(stop->multi, NULL, 0, 1000, NULL);
    }
    if (running)
        t->ended = 1;
    while ((msg = curl_multi_info_read(stop->multi, &left))) {
        if (msg->msg == CURLMSG_DONE)
            rc = msg->data.result;
    }
    curl_multi_remove_handle(stop->multi, t->curl);
    return rc;
}

ferry_status fm_http_do(struct fm_http *http, const struct fm_http_request *request,
                        struct fm_http_reply *reply, char *why, size_t room)
{
    struct transfer t = {.curl = take(http), .request = request, .reply = reply};
    struct curl_slist *headers = headers_of(request);
    char errors[CURL_ERROR_SIZE] = "";
    ferry_status status = FERRY_OK;
    CURLcode rc = CURLE_OUT_OF_MEMORY;
    long error_number = 0, sent = 0;

    *reply = (struct fm_http_reply){0};
    if (t.curl && headers) {
        prepare(http, &t, headers, errors);
        rc = perform(&t);
        curl_easy_getinfo(t.curl, CURLINFO_RESPONSE_CODE, &reply->status);
        curl_easy_getinfo(t.curl, CURLINFO_OS_ERRNO, &error_number);
        curl_easy_getinfo(t.curl, CURLINFO_REQUEST_SIZE, &sent);
        reply->sent = sent > 0;
    }
    if (rc != CURLE_OK && !t.ended) {
        status = rc == CURLE_OUT_OF_MEMORY ? FERRY_ENOMEM : FERRY_EUNREACH;
        if (t.too_long)
            snprintf(why, room, "the answer is longer than %zu bytes", request->max_reply);
        else if (rc == CURLE_COULDNT_CONNECT && error_number)
            snprintf(why, room, "%s (%s)", errors, strerror((int)error_number));
        else
            snprintf(why, room, "%s", errors[0] ? errors : curl_easy_strerror(rc));
        fm_http_reply_free(reply);
    }
    curl_slist_free_all(headers);
    if (t.curl && rc == CURLE_OK)
        give(http, t.curl);
    else
        curl_easy_cleanup(t.curl);
    return status;
}

void fm_http_reply_free(struct fm_http_reply *reply)
{
    free(reply->body);
    reply->body = NULL;
    reply->len = reply->cap = 0;
}
