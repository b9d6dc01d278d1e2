/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FM_HTTP_H
#define FM_HTTP_H

#include <stddef.h>
#include <stdint.h>

#include "ferry/metadata_plugin.h"

/*
 * Bounded HTTP requests over kept connections, for plugins whose service speaks HTTP. Any
 * thread. No redirects, no cookies, and no proxy unless the setting `proxy` names one: the
 * environment's are for web traffic. Settings: proxy, ca_file, cert_file, key_file, verify,
 * connect_timeout_ms.
 */
struct fm_http;

extern const char *const fm_http_settings[]; /* NULL-terminated */

ferry_status fm_http_open(const struct ferry_host *host, const struct ferry_kvs *config,
                          struct fm_http **http_out);
/* No request is under way. NULL is allowed. */
void fm_http_close(struct fm_http *http);

struct fm_http_request {
    const char *method, *url;
    const char *user, *password; /* HTTP basic authentication; NULL = none */
    const char *authorization;   /* value of that header; NULL = none */
    const char *content_type;    /* NULL = none */
    const void *body;
    size_t body_len;
    size_t max_reply; /* bytes; more is an error */
    uint32_t timeout_ms;
    /* NULL, or called with each piece of a 200's body, which is not gathered then; other than 0
     * ends the request, which is FERRY_OK then. */
    int (*piece)(void *arg, const char *data, size_t len);
    void *arg;
    struct fm_http_stop *stop; /* NULL, or ends the request from another thread */
};

struct fm_http_reply {
    long status; /* HTTP's */
    int sent;    /* written on failure too: something of the request went out */
    char *body;  /* a NUL follows; for fm_http_reply_free */
    size_t len, cap;
};

/*
 * FERRY_OK: the server answered, whatever the status. FERRY_EUNREACH: it did not; `why` says
 * so. Nothing of user, password or authorization is ever in `why`.
 */
ferry_status fm_http_do(struct fm_http *http, const struct fm_http_request *request,
                        struct fm_http_reply *reply, char *why, size_t room);
void fm_http_reply_free(struct fm_http_reply *reply);

/* Ends the requests that name it, one at a time, at once and for good: they are FERRY_OK. */
ferry_status fm_http_stop_open(struct fm_http_stop **stop_out);
void fm_http_stop_now(struct fm_http_stop *stop);
void fm_http_stop_close(struct fm_http_stop *stop);

#endif /* FM_HTTP_H */
