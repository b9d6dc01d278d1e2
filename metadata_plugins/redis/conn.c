/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connections to a redis server: hiredis forms commands and reads replies, the socket is ours,
 * so that every step is bounded. Knows nothing of metadata; the password goes to the server and
 * nowhere else.
 */
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../common/net.h"
#include "../common/plug.h"
#include "redis.h"

#define MAX_REPLY (512u << 20) /* bytes of one reply */

struct redis_conn {
    int fd, kept, failed;
    struct tls *tls; /* NULL = plain */
    redisReader *reader;
};

void redis_conn_close(struct redis_conn *conn)
{
    if (!conn)
        return;
    tls_close(conn->tls);
    if (conn->fd >= 0)
        close(conn->fd);
    if (conn->reader)
        redisReaderFree(conn->reader);
    free(conn);
}

int redis_was_kept(const struct redis_conn *conn)
{
    return conn->kept;
}

static ferry_status receive(struct redis_conn *conn, char *data, size_t room,
                            uint64_t deadline_ms, size_t *len_out, char *why, size_t why_room)
{
    ferry_status status = FERRY_OK;

    if (conn->tls)
        return tls_read(conn->tls, data, room, deadline_ms, len_out, why, why_room);
    while (!status) {
        ssize_t n = recv(conn->fd, data, room, 0);

        if (n > 0) {
            *len_out = (size_t)n;
            return FERRY_OK;
        }
        if (n == 0) {
            snprintf(why, why_room, "closed the connection");
            status = FERRY_EUNREACH;
        } else if (errno == EAGAIN) {
            status = fm_net_wait(conn->fd, POLLIN, deadline_ms, why, why_room);
        } else if (errno != EINTR) {
            snprintf(why, why_room, "receive: %s", strerror(errno));
            status = FERRY_EUNREACH;
        }
    }
    return status;
}

static ferry_status read_reply(struct redis_conn *conn, uint64_t deadline_ms,
                               redisReply **reply_out, char *why, size_t room)
{
    size_t total = 0;
    void *reply = NULL;
    ferry_status status;
    char *chunk = malloc(65536);

    if (!chunk)
        return FERRY_ENOMEM;
    for (;;) {
        size_t len = 0;

        if (redisReaderGetReply(conn->reader, &reply) != REDIS_OK) {
            snprintf(why, room, "not redis: %s", conn->reader->errstr);
            status = FERRY_EUNREACH;
            break;
        }
        if (reply) {
            *reply_out = reply;
            status = FERRY_OK;
            break;
        }
        status = receive(conn, chunk, 65536, deadline_ms, &len, why, room);
        if (!status && (len > MAX_REPLY - total ||
                        redisReaderFeed(conn->reader, chunk, len) != REDIS_OK)) {
            snprintf(why, room, "the reply is too long");
            status = FERRY_EUNREACH;
        }
        if (status)
            break;
        total += len;
    }
    free(chunk);
    return status;
}

ferry_status redis_command(struct redis_conn *conn, size_t n, const char *const *argv,
                           const size_t *lens, uint64_t deadline_ms, redisReply **reply_out,
                           char *why, size_t room)
{
    char *text = NULL, unheard[128];
    int len = redisFormatCommandArgv(&text, (int)n, (const char **)argv, lens);
    ferry_status status;

    if (len < 0)
        return FERRY_ENOMEM;
    status = conn->tls ? tls_write(conn->tls, text, (size_t)len, deadline_ms, why, room)
                       : fm_net_write(conn->fd, text, (size_t)len, deadline_ms, why, room);
    memset(text, 0, (size_t)len); /* may be an AUTH */
    redisFreeCommand(text);
    if (!status) {
        status = read_reply(conn, deadline_ms, reply_out, why, room);
    } else if (!read_reply(conn, fm_now_ms(), reply_out, unheard, sizeof(unheard))) {
        /* It refused the command before it had all of it, said why and closed. */
        conn->failed = 1;
        return FERRY_OK;
    }
    if (status)
        conn->failed = 1; /* a reply may still come: nobody may take it for another's */
    return status;
}

/* What stands first in an error, "WRONGPASS" of "WRONGPASS invalid ...". */
static int is_error(const redisReply *reply, const char *word)
{
    size_t len = strlen(word);

    return reply->type == REDIS_REPLY_ERROR && !strncmp(reply->str, word, len) &&
           (reply->str[len] == ' ' || !reply->str[len]);
}

/* What the user can do about a server's error; "" = it says all there is. */
static const char *remedy_of(const redisReply *reply)
{
    if (is_error(reply, "MOVED") || is_error(reply, "ASK") || is_error(reply, "CLUSTERDOWN"))
        return " (a Redis Cluster, which Ferry does not support: name a single server)";
    if (strstr(reply->str, "unknown command"))
        return " (a Sentinel? Ferry does not support it: name the server itself)";
    if (is_error(reply, "NOAUTH"))
        return " (set a password: redis://user:password@host or MC_REDIS_PASSWORD)";
    if (is_error(reply, "READONLY"))
        return " (a replica: name the primary)";
    return "";
}

ferry_status redis_refused(struct ferry_store *store, const char *what, const redisReply *reply)
{
    if (reply->type != REDIS_REPLY_ERROR) {
        if (what)
            FM_LOG(store->host, FERRY_LOG_WARN, "%s: %s: a reply of type %d is not understood",
                   store->name, what, reply->type);
        return FERRY_EUNREACH;
    }
    if (what)
        FM_LOG(store->host, FERRY_LOG_WARN, "%s: %s: %s%s", store->name, what, reply->str,
               remedy_of(reply));
    return strstr(reply->str, "exceeds maximum allowed size") ||
                   strstr(reply->str, "invalid bulk length")
               ? FERRY_ERANGE
               : FERRY_EUNREACH;
}

/* One command of the greeting; FERRY_OK where the reply is no error. */
static ferry_status greet(struct redis_conn *conn, size_t n, const char *const *argv,
                          uint64_t deadline_ms, char *why, size_t room)
{
    redisReply *reply = NULL;
    size_t lens[4];
    ferry_status status;

    for (size_t i = 0; i < n; i++)
        lens[i] = strlen(argv[i]);
    status = redis_command(conn, n, argv, lens, deadline_ms, &reply, why, room);
    if (!status && reply->type == REDIS_REPLY_ERROR) {
        status = FERRY_EUNREACH;
        snprintf(why, room, "%s: %s%s", argv[0], reply->str, remedy_of(reply));
    }
    if (reply)
        freeReplyObject(reply);
    return status;
}

/* A cluster's node or a Sentinel would answer some keys and not others. Servers that do not let
 * us ask are believed. */
static ferry_status check_mode(struct redis_conn *conn, uint64_t deadline_ms, char *why,
                               size_t room)
{
    static const char *const info[] = {"INFO", "server"};
    static const size_t lens[] = {4, 6};
    redisReply *reply = NULL;
    ferry_status status = redis_command(conn, 2, info, lens, deadline_ms, &reply, why, room);

    if (!status && reply->type == REDIS_REPLY_STRING) {
        if (strstr(reply->str, "redis_mode:cluster"))
            snprintf(why, room,
                     "a Redis Cluster, which Ferry does not support: name a single server");
        else if (strstr(reply->str, "redis_mode:sentinel"))
            snprintf(why, room,
                     "a Sentinel, which Ferry does not support: name the server itself");
        else
            goto out;
        status = FERRY_EUNREACH;
    }
out:
    if (reply)
        freeReplyObject(reply);
    return status;
}

static ferry_status log_in(struct ferry_store *store, struct redis_conn *conn,
                           uint64_t deadline_ms, char *why, size_t room)
{
    const char *auth[] = {"AUTH", store->user ? store->user : store->password,
                          store->password ? store->password : ""};
    char db[16];
    const char *select[] = {"SELECT", db};
    ferry_status status = FERRY_OK;

    if (store->user || store->password)
        status = greet(conn, store->user ? 3 : 2, auth, deadline_ms, why, room);
    if (!status)
        status = check_mode(conn, deadline_ms, why, room);
    snprintf(db, sizeof(db), "%u", store->db);
    if (!status && store->db)
        status = greet(conn, 2, select, deadline_ms, why, room);
    return status;
}

static ferry_status conn_open(struct ferry_store *store, const char *what, uint64_t deadline_ms,
                              struct redis_conn **conn_out)
{
    struct redis_conn *conn = calloc(1, sizeof(*conn));
    uint64_t connect_ms = fm_now_ms() + store->connect_timeout_ms;
    char why[384] = "out of memory";
    ferry_status status = FERRY_ENOMEM;

    if (!conn)
        return FERRY_ENOMEM;
    if (connect_ms > deadline_ms)
        connect_ms = deadline_ms;
    conn->fd = -1;
    conn->reader = redisReaderCreate();
    if (conn->reader) {
        conn->reader->maxbuf = 0; /* large values are ordinary here */
        status =
            fm_net_connect(store->server, store->port, connect_ms, &conn->fd, why, sizeof(why));
    }
    if (!status && store->tls)
        status = tls_open(store->tls, conn->fd, store->server, deadline_ms, &conn->tls, why,
                          sizeof(why));
    if (!status)
        status = log_in(store, conn, deadline_ms, why, sizeof(why));
    if (status) {
        if (what)
            FM_LOG(store->host, FERRY_LOG_WARN, "%s: %s: %s", store->name, what, why);
        redis_conn_close(conn);
        return status;
    }
    *conn_out = conn;
    return FERRY_OK;
}

ferry_status redis_take(struct ferry_store *store, const char *what, uint64_t deadline_ms,
                        struct redis_conn **conn_out)
{
    struct redis_conn *conn;

    do {
        conn = NULL;
        pthread_mutex_lock(&store->lock);
        if (store->n_idle)
            conn = store->idle[--store->n_idle];
        pthread_mutex_unlock(&store->lock);
        if (conn) {
            struct pollfd p = {.fd = conn->fd, .events = POLLIN};

            if (poll(&p, 1, 0) == 0) { /* nothing to read: the server has not closed it */
                *conn_out = conn;
                return FERRY_OK;
            }
            redis_conn_close(conn);
        }
    } while (conn);
    return conn_open(store, what, deadline_ms, conn_out);
}

void redis_give(struct ferry_store *store, struct redis_conn *conn)
{
    if (!conn)
        return;
    pthread_mutex_lock(&store->lock);
    if (!conn->failed && store->n_idle < REDIS_MAX_IDLE) {
        conn->kept = 1;
        store->idle[store->n_idle++] = conn;
        conn = NULL;
    }
    pthread_mutex_unlock(&store->lock);
    redis_conn_close(conn);
}
