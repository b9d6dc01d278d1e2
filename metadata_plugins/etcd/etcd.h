/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FM_ETCD_H
#define FM_ETCD_H

#include <pthread.h>

#include "ferry/metadata_plugin.h"

#include "../common/http.h"
#include "../common/leases.h"

struct cJSON;

extern const struct ferry_metadata_ops fm_etcd_ops;

#define ETCD_MAX_ENDPOINTS 16
#define ETCD_MAX_VALUE     (64u << 20) /* bytes; servers have lower limits of their own */

struct etcd_watch;

struct ferry_store {
    const struct ferry_host *host;
    struct fm_http *http;
    uint32_t timeout_ms;
    size_t n_endpoints;
    char *endpoints[ETCD_MAX_ENDPOINTS]; /* "http://host:port" */
    char *user, *password;

    /* Guards what follows; never held over a request. Rank: the only lock. */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    size_t current; /* the endpoint that answered last */
    char *token;    /* of authentication; NULL = none yet */
    uint64_t next_watch;
    struct etcd_watch *watches;

    struct fm_leases *leases; /* has a lock of its own */
};

/* ---- api.c: requests to whichever endpoint answers ---- */

enum etcd_voice {
    ETCD_LOUD,         /* a failure is logged */
    ETCD_ABSENT_QUIET, /* except FERRY_ENOENT */
    ETCD_QUIET,        /* the caller says what is to be said */
};

struct etcd_call {
    const char *path, *body; /* "/v3/kv/put", JSON */
    const char *what;        /* for messages: "put KEY" */
    uint64_t deadline_ms;
    enum etcd_voice voice;

    struct cJSON *reply; /* out; for cJSON_Delete */
    int ambiguous;       /* out: an attempt before the last may have been carried out */
    char why[512];       /* out: of a failure */
};

/*
 * FERRY_OK, and `reply` is the parsed answer. FERRY_ENOENT: the server says "not found" (a
 * lease). FERRY_ERANGE: too large for it. All else is FERRY_EUNREACH.
 */
ferry_status etcd_do(struct ferry_store *store, struct etcd_call *call);

/* One request that goes on until it is stopped, fails or its time is over. */
ferry_status etcd_stream(struct ferry_store *store, const char *path, const char *body,
                         uint32_t timeout_ms, struct fm_http_stop *stop,
                         int (*piece)(void *arg, const char *data, size_t len), void *arg,
                         char *why, size_t room);

uint64_t etcd_deadline(const struct ferry_store *store, uint32_t timeout_ms);

/* ---- json.c ---- */

/* Numbers of 64 bits are strings in the gateway's JSON; absent = 0. */
uint64_t etcd_u64(const struct cJSON *object, const char *member);
uint64_t etcd_revision(const struct cJSON *reply); /* of its header */
/* "key":"..","range_end":".." of all keys that begin with the prefix; the caller's to free. */
char *etcd_range_of(const char *prefix);

/* ---- store.c ---- */

/* A put under `lease` (0 = none), expecting as in ferry_store_put. On FERRY_ECONFLICT
 * *seen_rev_out is the revision of what is there (0 = nothing) and *mine_out says that it has
 * this very value. All outputs may be NULL. */
ferry_status etcd_put_key(struct ferry_store *store, const char *key, const void *val,
                          size_t len, uint64_t lease, uint64_t expect_rev, uint64_t deadline_ms,
                          enum etcd_voice voice, uint64_t *rev_out, uint64_t *seen_rev_out,
                          int *mine_out);
ferry_status etcd_del_key(struct ferry_store *store, const char *key, uint64_t deadline_ms);

/* ---- lease.c ---- */

extern const struct fm_leases_ops etcd_leases_ops;

/* ---- events.c ---- */

struct etcd_events {
    void (*cb)(void *arg, const struct ferry_store_event *event);
    void *arg;
    uint64_t next_rev; /* first revision not yet told; 0 = from now on, and say RESYNC */
    int again;         /* end this stream and make another from next_rev */
    int alive;         /* the server has said something */
    char *line;        /* what has come of the next message; free() */
    size_t len, cap;
};

/* A piece of the stream, from an untrusted server. Other than 0: no more of it. */
int etcd_events_take(struct etcd_events *events, const char *data, size_t len);
void etcd_events_resync(struct etcd_events *events);

/* ---- watch.c ---- */

ferry_status etcd_watch(struct ferry_store *store, const char *prefix,
                        void (*cb)(void *arg, const struct ferry_store_event *event), void *arg,
                        uint64_t *watch_id_out);
void etcd_unwatch(struct ferry_store *store, uint64_t watch_id);
void etcd_watch_close(struct ferry_store *store);

#endif /* FM_ETCD_H */
