/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FY_STORE_INNER_H
#define FY_STORE_INNER_H

/* What the files store*.c share, and the simulation of many nodes with them. */
#include <pthread.h>

#include "names.h"
#include "store.h"

#define FY_MAX_DOCUMENT                                                                        \
    (128u << 20) /* bytes: what Mooncake's control channel can carry too                       \
                  */

/* What this node has published or wants to. */
struct fy_own {
    char *name, *doc;
    size_t doc_len;
    char host[FY_HOST_MAX];
    uint16_t port;
    int claimed; /* rpc_meta said host:port, once at least */
    int lost;    /* and another's address when it was last looked at */
    int behind;  /* the service has not got the newest of it */
    int away;    /* the service did not answer the last time */
    char *newer; /* takes the place of `doc` when the turn ends; NULL = none */
    size_t newer_len;
};

/* Where a peer was found. */
struct fy_known {
    char *name;
    char host[FY_HOST_MAX];
    uint16_t port;
};

struct fy_store {
    struct ferry_host host; /* what the plugin gets: the engine's log, and nothing else */
    const struct ferry_host *engine_host;
    int log_level;
    const struct fy_log *log;
    const struct ferry_metadata_ops *ops;
    struct ferry_store *handle;
    struct ferry_store_caps caps;
    char plugin[32];
    char server[256]; /* as configured, without a password: for messages */
    char *prefix;     /* "mooncake/[cluster/]" */
    uint32_t ttl_ms, republish_ms, refresh_ms;
    int is_p2p, may_watch;

    /* Does the owner of `name` live at host:port? The simulation has its own answer, and takes
     * the keeper's turns itself (`no_keeper`). */
    int (*lives)(const struct fy_store *store, const char *name, const char *host,
                 uint16_t port, uint64_t deadline_ns);
    void *lives_arg;
    int no_keeper;

    /* Guards all below; never held over a plugin call. `busy`: one thread at a time writes our
     * own keys, the others wait for their turn. */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int busy, stop;
    struct fy_own own;
    int keeper_runs;
    unsigned seed;
    uint32_t retry_ms; /* 0 = all is well */
    pthread_t keeper;

    pthread_mutex_t known_lock; /* guards these; no other lock is taken under it */
    struct fy_known **known;    /* sorted by name */
    size_t n_known, cap_known;

    void (*watch_cb)(void *arg, const char *name);
    void *watch_arg;
    char *watch_prefix; /* NULL = nothing is watched */
    uint64_t watch_id;
};

/* store.c */
ferry_status fy_store_open_on(const struct fy_config *config,
                              const struct fy_metadata_plugin *plugin, const char *uri,
                              const struct ferry_host *host, const struct fy_log *log,
                              struct fy_store **store_out);
/* The error text: what was wanted, the server, the plugin's words. Returns `status`. */
ferry_status fy_store_fail(const struct fy_store *store, ferry_status status, const char *what);
uint64_t fy_store_deadline(uint32_t timeout_ms);
uint32_t fy_store_left_ms(uint64_t deadline_ns);
/* Round a call of the plugin that may fail; the second returns its status. */
void fy_store_begin_call(void);
ferry_status fy_store_end_call(ferry_status status);
ferry_status fy_store_put(struct fy_store *store, const char *key, const char *val, size_t len,
                          uint64_t expect_rev, uint64_t deadline_ns);
ferry_status fy_store_get(struct fy_store *store, const char *key, uint64_t deadline_ns,
                          struct fy_buf *out, uint64_t *rev_out);
ferry_status fy_store_del(struct fy_store *store, const char *key, uint64_t deadline_ns);
/* The caller's; NULL = out of memory. */
char *fy_store_doc_key(const struct fy_store *store, const char *name);
char *fy_store_rpc_key(const struct fy_store *store, const char *name);
/* What rpc_meta at `key` says. No error text. */
ferry_status fy_store_get_address(struct fy_store *store, const char *key, uint64_t deadline_ns,
                                  char *host_out, uint16_t *port_out, uint64_t *rev_out);

/* store_own.c */
int fy_store_lives(const struct fy_store *store, const char *name, const char *host,
                   uint16_t port, uint64_t deadline_ns);
/* One turn of the keeper; returns milliseconds until the next. */
uint32_t fy_store_turn(struct fy_store *store);
void fy_store_end_keeper(struct fy_store *store);

/* store_peers.c */
void fy_store_forget_all(struct fy_store *store);
/* From the metadata server, whatever is known; it is remembered. */
ferry_status fy_store_ask_address(struct fy_store *store, const char *name,
                                  uint64_t deadline_ns, char *host_out, uint16_t *port_out);

/* The service did not answer, for whatever reason: what is known stays good. */
static inline int fy_is_away(ferry_status status)
{
    return status == FERRY_EUNREACH || status == FERRY_ETIMEDOUT || status == FERRY_ECONNRESET;
}

#endif /* FY_STORE_INNER_H */
