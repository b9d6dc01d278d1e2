/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The raw reference of the benchmark, both ends, and its questions to the target. Must not use
 * Ferry: it is what Ferry is compared with.
 */
#include "bench_raw.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define MOST_IOVECS 1024 /* IOV_MAX */
#define PATIENCE_MS 200

enum { OP_WRITE = 1, OP_READ, OP_REST, OP_USAGE, OP_PLACE, OP_FILL, OP_CHECK };
enum { FLAG_SPIN = 1 };

struct header {
    uint16_t op, flags;
    uint32_t n;     /* descriptors that follow */
    uint64_t total; /* bytes of payload */
};

struct descriptor {
    uint64_t off, len; /* in the target's region */
};

struct question {
    struct header header;
    uint64_t seed, moved, kept, region;
    struct {
        uint64_t size;
        uint32_t batch, threads, stride, hot;
    } spec;
    int64_t place;
};

struct answer {
    uint64_t a, b, c;
};

/* ---- moving bytes ---- */

/* Nothing has moved: is it to be tried again? */
static bool again(void)
{
    return (errno == EAGAIN || errno == EINTR) &&
           !atomic_load_explicit(&bench_stop, memory_order_relaxed);
}

/* EAGAIN: again at once where spinning is allowed, else after PATIENCE_MS. False: the
 * connection is gone, or bench_stop is set. */
static bool receive(int fd, void *into, size_t len, bool spin)
{
    char *at = into;

    while (len) {
        ssize_t n = recv(fd, at, len, spin ? MSG_DONTWAIT : 0);
        if (n > 0) {
            at += n;
            len -= (size_t)n;
        } else if (n == 0 || !again())
            return false;
    }
    return true;
}

/* Drops `n` bytes from the front of the vectors. */
static void advance(struct msghdr *msg, size_t n)
{
    while (msg->msg_iovlen && n >= msg->msg_iov->iov_len) {
        n -= msg->msg_iov->iov_len;
        msg->msg_iov++;
        msg->msg_iovlen--;
    }
    if (n) {
        msg->msg_iov->iov_base = (char *)msg->msg_iov->iov_base + n;
        msg->msg_iov->iov_len -= n;
    }
}

static bool receive_all(int fd, struct iovec *v, size_t n_v, size_t total, bool spin)
{
    struct msghdr msg = {.msg_iov = v};
    size_t left = n_v;

    while (total) {
        ssize_t n;
        struct iovec *from = msg.msg_iov;
        msg.msg_iovlen = left < MOST_IOVECS ? left : MOST_IOVECS;
        n = recvmsg(fd, &msg, spin ? MSG_DONTWAIT : MSG_WAITALL);
        if (n == 0 || (n < 0 && !again()))
            return false;
        if (n < 0)
            continue;
        total -= (size_t)n;
        advance(&msg, (size_t)n);
        left -= (size_t)(msg.msg_iov - from);
    }
    return true;
}

static bool send_all(int fd, struct iovec *v, size_t n_v, size_t total)
{
    struct msghdr msg = {.msg_iov = v};
    size_t left = n_v;

    while (total) {
        ssize_t n;
        struct iovec *from = msg.msg_iov;
        msg.msg_iovlen = left < MOST_IOVECS ? left : MOST_IOVECS;
        n = sendmsg(fd, &msg, MSG_NOSIGNAL);
        if (n < 0 && !again())
            return false;
        if (n < 0)
            continue;
        total -= (size_t)n;
        advance(&msg, (size_t)n);
        left -= (size_t)(msg.msg_iov - from);
    }
    return true;
}

static bool send_bytes(int fd, const void *bytes, size_t len)
{
    struct iovec v = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = len};

    return send_all(fd, &v, 1, len);
}

/* Joins neighbours in memory: fewer vectors for the kernel. */
static size_t join(struct iovec *v, size_t n)
{
    size_t last = 0;

    for (size_t i = 1; i < n; i++)
        if ((char *)v[last].iov_base + v[last].iov_len == (char *)v[i].iov_base)
            v[last].iov_len += v[i].iov_len;
        else
            v[++last] = v[i];
    return n ? last + 1 : 0;
}

static void tune(int fd, const char *congestion)
{
    int one = 1;

    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    if (setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, congestion,
                   (socklen_t)strlen(congestion)) != 0)
        setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "reno", 4);
}

/* The initiator's, once connected: so often it sees bench_stop. */
static void limit_waits(int fd)
{
    const struct timeval patience = {.tv_usec = PATIENCE_MS * 1000};

    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
}

/* ---- target ---- */

struct raw_server {
    int fd;
    char congestion[16];
    uint8_t *region;
    uint64_t len;
    pthread_t acceptor;
    pthread_mutex_t lock; /* what follows */
    pthread_cond_t changed;
    int *fds; /* of living connections */
    size_t n_fds, room;
    size_t living;
    bool closing, asked;
};

struct serving {
    struct raw_server *server;
    int fd;
};

static bool answer_question(struct raw_server *server, int fd, const struct header *header)
{
    struct question question = {.header = *header};
    struct answer answer = {0};

    if (!receive(fd, (char *)&question + sizeof(question.header),
                 sizeof(question) - sizeof(question.header), false))
        return false;
    pthread_mutex_lock(&server->lock);
    server->asked = true;
    pthread_mutex_unlock(&server->lock);
    if (header->op == OP_USAGE)
        answer = (struct answer){bench_cpu_ns(), bench_rss(), server->len};
    else if (header->op == OP_PLACE)
        bench_place((int)question.place);
    else if (header->op == OP_FILL)
        bench_fill(server->region, server->len, question.seed);
    else {
        struct bench_spec spec = {.size = question.spec.size,
                                  .batch = question.spec.batch,
                                  .threads = question.spec.threads,
                                  .stride = question.spec.stride,
                                  .hot = question.spec.hot};
        if (question.region > server->len || !spec.size || spec.size > server->len ||
            !spec.threads || spec.threads > BENCH_MAX_THREADS || !spec.batch ||
            spec.batch > BENCH_MAX_BATCH || !spec.stride || spec.stride > 1024 ||
            bench_region(&spec, 0) > question.region)
            return false;
        answer.a = bench_check(server->region, question.region, &spec, question.moved,
                               question.kept, &answer.b);
    }
    return send_bytes(fd, &answer, sizeof(answer));
}

/* Batches come one after the other. */
void raw_server_serve(struct raw_server *server, int fd)
{
    struct descriptor *descriptors = NULL;
    struct iovec *v = NULL;
    size_t room = 0;
    bool spin = false;
    struct header header;

    while (receive(fd, &header, sizeof(header), spin)) {
        size_t total = 0, n;
        if (header.op == OP_REST) {
            spin = false;
            continue;
        }
        if (header.op != OP_WRITE && header.op != OP_READ) {
            if (header.op < OP_USAGE || header.op > OP_CHECK ||
                !answer_question(server, fd, &header))
                break;
            continue;
        }
        spin = header.flags & FLAG_SPIN;
        if (!header.n || header.n > BENCH_MAX_BATCH)
            break;
        if (header.n > room) {
            free(descriptors);
            free(v);
            room = header.n;
            descriptors = malloc(room * sizeof(*descriptors));
            v = malloc((room + 1) * sizeof(*v));
            if (!descriptors || !v)
                break;
        }
        if (!receive(fd, descriptors, header.n * sizeof(*descriptors), spin))
            break;
        for (uint32_t i = 0; i < header.n; i++) {
            const struct descriptor *d = &descriptors[i];
            if (d->off > server->len || d->len > server->len - d->off)
                goto out;
            v[i + 1] = (struct iovec){server->region + d->off, d->len};
            total += d->len;
        }
        n = join(v + 1, header.n);
        if (header.op == OP_WRITE) {
            uint64_t status = 0;
            if (!receive_all(fd, v + 1, n, total, spin) ||
                !send_bytes(fd, &status, sizeof(status)))
                break;
        } else {
            v[0] = (struct iovec){&header, sizeof(header)};
            if (!send_all(fd, v, n + 1, total + sizeof(header)))
                break;
        }
    }
out:
    free(descriptors);
    free(v);
}

static void *serve_main(void *arg)
{
    struct serving serving = *(struct serving *)arg;
    struct raw_server *server = serving.server;

    free(arg);
    raw_server_serve(server, serving.fd);
    pthread_mutex_lock(&server->lock);
    for (size_t i = 0; i < server->n_fds; i++)
        if (server->fds[i] == serving.fd) {
            server->fds[i] = server->fds[--server->n_fds];
            break;
        }
    close(serving.fd);
    server->living--;
    pthread_cond_broadcast(&server->changed);
    pthread_mutex_unlock(&server->lock);
    return NULL;
}

static bool start_serving(struct raw_server *server, int fd)
{
    struct serving *serving = malloc(sizeof(*serving));
    pthread_attr_t attr;
    pthread_t thread;
    bool good;

    pthread_mutex_lock(&server->lock);
    if (server->n_fds == server->room) {
        size_t room = server->room ? server->room * 2 : 16;
        int *grown = realloc(server->fds, room * sizeof(*grown));
        if (grown) {
            server->fds = grown;
            server->room = room;
        }
    }
    good = serving && server->n_fds < server->room && !server->closing;
    if (good) {
        server->fds[server->n_fds++] = fd;
        server->living++;
        *serving = (struct serving){server, fd};
        pthread_attr_init(&attr);
        pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
        good = pthread_create(&thread, &attr, serve_main, serving) == 0;
        pthread_attr_destroy(&attr);
        if (!good) {
            server->n_fds--;
            server->living--;
        }
    }
    pthread_mutex_unlock(&server->lock);
    if (!good)
        free(serving);
    return good;
}

static void *accept_main(void *arg)
{
    struct raw_server *server = arg;

    for (;;) {
        int fd = accept4(server->fd, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0 && (errno == EINTR || errno == ECONNABORTED))
            continue;
        if (fd < 0)
            return NULL;
        tune(fd, server->congestion);
        if (!start_serving(server, fd))
            close(fd);
    }
}

static int resolve_and(bool listening, const char *host, uint16_t port, const char *congestion,
                       char *error, size_t room)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                             .ai_flags = (listening ? AI_PASSIVE : 0) | AI_NUMERICSERV};
    struct addrinfo *list, *at;
    char service[8];
    int fd = -1, rc;

    snprintf(service, sizeof(service), "%u", port);
    rc = getaddrinfo(host, service, &hints, &list);
    if (rc != 0) {
        snprintf(error, room, "%s: %s", host ? host : "*", gai_strerror(rc));
        return -1;
    }
    for (at = list; at && fd < 0; at = at->ai_next) {
        fd = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0)
            continue;
        tune(fd, congestion);
        if (listening ? bind(fd, at->ai_addr, at->ai_addrlen) == 0 && listen(fd, 128) == 0
                      : connect(fd, at->ai_addr, at->ai_addrlen) == 0)
            break;
        snprintf(error, room, "raw reference at %s port %u: %s", host ? host : "*", port,
                 strerror(errno));
        close(fd);
        fd = -1;
    }
    freeaddrinfo(list);
    return fd;
}

bool raw_server_open(const char *host, const char *congestion, uint8_t *region, uint64_t len,
                     struct raw_server **server_out, uint16_t *port_out, char *error,
                     size_t room)
{
    struct raw_server *server = calloc(1, sizeof(*server));
    struct sockaddr_storage name;
    socklen_t name_len = sizeof(name);

    if (!server) {
        snprintf(error, room, "out of memory");
        return false;
    }
    server->region = region;
    server->len = len;
    snprintf(server->congestion, sizeof(server->congestion), "%s", congestion);
    pthread_mutex_init(&server->lock, NULL);
    pthread_cond_init(&server->changed, NULL);
    server->fd = resolve_and(true, host, 0, congestion, error, room);
    if (server->fd < 0)
        goto fail;
    if (getsockname(server->fd, (struct sockaddr *)&name, &name_len) != 0 ||
        pthread_create(&server->acceptor, NULL, accept_main, server) != 0) {
        snprintf(error, room, "raw reference: %s", strerror(errno));
        close(server->fd);
        goto fail;
    }
    *port_out =
        ntohs(name.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)(void *)&name)->sin6_port
                                         : ((struct sockaddr_in *)(void *)&name)->sin_port);
    *server_out = server;
    return true;
fail:
    pthread_cond_destroy(&server->changed);
    pthread_mutex_destroy(&server->lock);
    free(server);
    return false;
}

bool raw_server_ended(struct raw_server *server)
{
    bool ended;

    pthread_mutex_lock(&server->lock);
    ended = server->asked && !server->living;
    pthread_mutex_unlock(&server->lock);
    return ended;
}

void raw_server_close(struct raw_server *server)
{
    if (!server)
        return;
    shutdown(server->fd, SHUT_RDWR);
    pthread_join(server->acceptor, NULL);
    close(server->fd);
    pthread_mutex_lock(&server->lock);
    server->closing = true;
    for (size_t i = 0; i < server->n_fds; i++)
        shutdown(server->fds[i], SHUT_RDWR);
    while (server->living)
        pthread_cond_wait(&server->changed, &server->lock);
    pthread_mutex_unlock(&server->lock);
    pthread_cond_destroy(&server->changed);
    pthread_mutex_destroy(&server->lock);
    free(server->fds);
    free(server);
}

/* ---- initiator ---- */

struct raw_lane {
    int fd;
    struct header header;
    struct descriptor *descriptors;
    struct iovec *v;
    size_t room;
};

struct raw_client {
    char host[300], congestion[16];
    uint16_t port;
    uint8_t *region;
    uint64_t len;
    int control;
    struct raw_lane lanes[BENCH_MAX_THREADS];
    uint32_t n_lanes;
};

bool raw_client_open(const char *host, uint16_t port, const char *congestion, uint8_t *region,
                     uint64_t len, struct raw_client **client_out, char *error, size_t room)
{
    struct raw_client *client = calloc(1, sizeof(*client));

    if (!client) {
        snprintf(error, room, "out of memory");
        return false;
    }
    snprintf(client->host, sizeof(client->host), "%s", host);
    snprintf(client->congestion, sizeof(client->congestion), "%s", congestion);
    client->port = port;
    client->region = region;
    client->len = len;
    client->control = resolve_and(false, host, port, congestion, error, room);
    if (client->control < 0) {
        free(client);
        return false;
    }
    limit_waits(client->control);
    *client_out = client;
    return true;
}

void raw_client_close(struct raw_client *client)
{
    if (!client)
        return;
    for (uint32_t i = 0; i < client->n_lanes; i++) {
        close(client->lanes[i].fd);
        free(client->lanes[i].descriptors);
        free(client->lanes[i].v);
    }
    close(client->control);
    free(client);
}

bool raw_client_ready(struct raw_client *client, const struct bench_spec *spec, char *error,
                      size_t room)
{
    while (client->n_lanes < spec->threads) {
        int fd =
            resolve_and(false, client->host, client->port, client->congestion, error, room);
        if (fd < 0)
            return false;
        limit_waits(fd);
        client->lanes[client->n_lanes++].fd = fd;
    }
    for (uint32_t i = 0; i < spec->threads; i++) {
        struct raw_lane *lane = &client->lanes[i];
        if (lane->room >= spec->batch)
            continue;
        free(lane->descriptors);
        free(lane->v);
        lane->descriptors = malloc(spec->batch * sizeof(*lane->descriptors));
        lane->v = malloc((spec->batch + 2) * sizeof(*lane->v));
        lane->room = lane->descriptors && lane->v ? spec->batch : 0;
        if (!lane->room) {
            snprintf(error, room, "out of memory");
            return false;
        }
    }
    return true;
}

void raw_client_rest(struct raw_client *client)
{
    struct header header = {.op = OP_REST};

    for (uint32_t i = 0; i < client->n_lanes; i++)
        send_bytes(client->lanes[i].fd, &header, sizeof(header));
}

/* More spinning threads than processors, both ends counted, would only hold each other up. */
static bool may_spin(const struct bench_spec *spec)
{
    return spec->spin && spec->threads * 2 <= sysconf(_SC_NPROCESSORS_ONLN);
}

static bool move(void *arg, const struct bench_spec *spec, const struct bench_walk *walk,
                 uint32_t thread, uint64_t i, char *error, size_t room)
{
    struct raw_client *client = arg;
    struct raw_lane *lane = &client->lanes[thread];
    size_t payload = spec->batch * spec->size, table = spec->batch * sizeof(struct descriptor);
    struct iovec *v = lane->v;
    uint64_t answer;
    bool good, spin = may_spin(spec);

    lane->header = (struct header){.op = spec->read ? OP_READ : OP_WRITE,
                                   .flags = spin ? FLAG_SPIN : 0,
                                   .n = spec->batch,
                                   .total = payload};
    for (uint32_t piece = 0; piece < spec->batch; piece++) {
        uint64_t off = bench_off(spec, walk, i, piece);
        lane->descriptors[piece] = (struct descriptor){off, spec->size};
        v[2 + piece] = (struct iovec){client->region + off, spec->size};
    }
    v[0] = (struct iovec){&lane->header, sizeof(lane->header)};
    v[1] = (struct iovec){lane->descriptors, table};
    if (!spec->read)
        good = send_all(lane->fd, v, 2 + join(v + 2, spec->batch),
                        sizeof(lane->header) + table + payload) &&
               receive(lane->fd, &answer, sizeof(answer), spin);
    else {
        size_t n = join(v + 2, spec->batch);
        good = send_all(lane->fd, v, 2, sizeof(lane->header) + table);
        v[1] = (struct iovec){&lane->header, sizeof(lane->header)};
        good =
            good && receive_all(lane->fd, v + 1, n + 1, sizeof(lane->header) + payload, spin);
    }
    if (!good)
        snprintf(error, room, "raw reference: the connection is gone: %s", strerror(errno));
    return good;
}

struct bench_mover raw_client_mover(struct raw_client *client)
{
    return (struct bench_mover){.arg = client, .move = move};
}

void raw_client_congestion(struct raw_client *client, char *name, size_t room)
{
    char text[32] = "";
    socklen_t len = sizeof(text) - 1;

    getsockopt(client->control, IPPROTO_TCP, TCP_CONGESTION, text, &len);
    snprintf(name, room, "%s", text);
}

static bool ask(struct raw_client *client, uint16_t op, struct question *question,
                struct answer *answer)
{
    question->header = (struct header){.op = op};
    return send_bytes(client->control, question, sizeof(*question)) &&
           receive(client->control, answer, sizeof(*answer), false);
}

bool raw_ask_usage(struct raw_client *client, struct raw_usage *usage_out)
{
    struct question question = {0};
    struct answer answer;

    if (!ask(client, OP_USAGE, &question, &answer))
        return false;
    *usage_out = (struct raw_usage){answer.a, answer.b, answer.c};
    return true;
}

bool raw_ask_place(struct raw_client *client, int nth)
{
    struct question question = {.place = nth};
    struct answer answer;

    return ask(client, OP_PLACE, &question, &answer);
}

bool raw_ask_fill(struct raw_client *client, uint64_t seed)
{
    struct question question = {.seed = seed};
    struct answer answer;

    return ask(client, OP_FILL, &question, &answer);
}

bool raw_ask_check(struct raw_client *client, const struct bench_spec *spec, uint64_t region,
                   uint64_t moved, uint64_t kept, uint64_t *bad_out, uint64_t *first_out)
{
    struct question question = {.region = region, .moved = moved, .kept = kept};
    struct answer answer;

    question.spec.size = spec->size;
    question.spec.batch = spec->batch;
    question.spec.threads = spec->threads;
    question.spec.stride = spec->stride;
    question.spec.hot = spec->hot;
    if (!ask(client, OP_CHECK, &question, &answer))
        return false;
    *bad_out = answer.a;
    *first_out = answer.b;
    return true;
}
