/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FM_REDIS_H
#define FM_REDIS_H

#include <hiredis/hiredis.h>
#include <pthread.h>

#include "ferry/metadata_plugin.h"

#include "../common/leases.h"

extern const struct ferry_metadata_ops fm_redis_ops;

#define REDIS_MAX_VALUE (128u << 20) /* bytes */
#define REDIS_MAX_IDLE  8            /* connections kept */

struct redis_conn;
struct redis_tls; /* settings of TLS connections */
struct tls;       /* one of them */

struct ferry_store {
    const struct ferry_host *host;
    char server[256], name[300]; /* host; "redis HOST:PORT" for messages */
    uint16_t port;
    uint32_t timeout_ms, connect_timeout_ms, db;
    char *user, *password;
    struct redis_tls *tls; /* NULL = plain */

    struct fm_leases *leases;
    int no_scripts; /* of lease.c, with the leases' turn: this user may not run them */

    /* Guards all below; never held over a request. Rank: the only lock. */
    pthread_mutex_t lock;
    struct redis_conn *idle[REDIS_MAX_IDLE];
    size_t n_idle;
};

/* ---- tls.c ---- */

/* Any of the files may be NULL. FERRY_EINVAL: one cannot be used; `why` names it. */
ferry_status redis_tls_open(const char *ca_file, const char *cert_file, const char *key_file,
                            int verify, struct redis_tls **tls_out, char *why, size_t room);
void redis_tls_close(struct redis_tls *tls);
/* The handshake on a connected socket, which stays the caller's. */
ferry_status tls_open(struct redis_tls *settings, int fd, const char *host,
                      uint64_t deadline_ms, struct tls **tls_out, char *why, size_t room);
ferry_status tls_write(struct tls *tls, const void *data, size_t len, uint64_t deadline_ms,
                       char *why, size_t room);
/* At least one byte; *len_out = 0: the peer closed. */
ferry_status tls_read(struct tls *tls, void *data, size_t room, uint64_t deadline_ms,
                      size_t *len_out, char *why, size_t why_room);
void tls_close(struct tls *tls);

/* ---- conn.c: one thread at a time for one connection ---- */

/* One that was kept, or a new one: connected, authenticated, the database selected. Failures
 * are logged with `what`, unless it is NULL. */
ferry_status redis_take(struct ferry_store *store, const char *what, uint64_t deadline_ms,
                        struct redis_conn **conn_out);
/* Was it used before, so that the server may have closed it since? */
int redis_was_kept(const struct redis_conn *conn);
/* Keeps it, or closes it where something failed on it. NULL is allowed. */
void redis_give(struct ferry_store *store, struct redis_conn *conn);
void redis_conn_close(struct redis_conn *conn);

/*
 * One command and its reply (freeReplyObject). FERRY_OK: the server answered, if with an error
 * (reply->type); FERRY_EUNREACH: it did not, or not within the deadline; `why` says what.
 */
ferry_status redis_command(struct redis_conn *conn, size_t n, const char *const *argv,
                           const size_t *lens, uint64_t deadline_ms, redisReply **reply_out,
                           char *why, size_t room);

/* A server's error in our words, logged unless `what` is NULL; FERRY_EUNREACH, or FERRY_ERANGE
 * where the value is too long for it. */
ferry_status redis_refused(struct ferry_store *store, const char *what,
                           const redisReply *reply);

/* ---- store.c ---- */

/* A command that may be sent twice, over a kept or new connection. */
ferry_status redis_do(struct ferry_store *store, const char *what, size_t n,
                      const char *const *argv, const size_t *lens, uint64_t deadline_ms,
                      redisReply **reply_out);
/* SET with expectation; ttl_ms 0 = none; `what` NULL = not a word in the log. */
ferry_status redis_set(struct ferry_store *store, const char *what, const char *key,
                       const void *val, size_t len, uint32_t ttl_ms, uint64_t expect_rev,
                       uint64_t deadline_ms);
/* The revision of a value: redis has none, so that it is a sum of the bytes. Never ANY, ABSENT.
 */
uint64_t redis_rev(const void *val, size_t len);

/* As the ops' put and del, whatever the key's time to live. */
ferry_status redis_put_key(struct ferry_store *store, const struct ferry_store_put *args,
                           uint64_t deadline_ms, uint64_t *rev_out);
ferry_status redis_del_key(struct ferry_store *store, const char *key, uint64_t deadline_ms);

/* ---- lease.c ---- */

extern const struct fm_leases_ops redis_leases_ops;

#endif /* FM_REDIS_H */
