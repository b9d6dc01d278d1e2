/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bounded connecting, reading and writing, and host names looked up within a time limit.
 * Knows nothing of what is sent.
 */
#include "net.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "plug.h"

/* One look-up in a thread of its own. getaddrinfo() can be neither bounded nor interrupted, so
 * that the thread is left behind where the time is over; whoever is last frees the job. */
struct lookup {
    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t ended;
    int refs, done, rc;
    struct addrinfo *found;
    char host[256], port[8];
};

static int look_up(const char *host, const char *port, int flags, struct addrinfo **found_out)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = flags};

    return getaddrinfo(host, port, &hints, found_out);
}

static void lookup_unref(struct lookup *job)
{
    int last;

    pthread_mutex_lock(&job->lock);
    last = --job->refs == 0;
    pthread_mutex_unlock(&job->lock);
    if (!last)
        return;
    if (job->found)
        freeaddrinfo(job->found);
    pthread_cond_destroy(&job->ended);
    pthread_mutex_destroy(&job->lock);
    free(job);
}

static void *lookup_main(void *arg)
{
    struct lookup *job = arg;
    struct addrinfo *found = NULL;
    int rc = look_up(job->host, job->port, AI_ADDRCONFIG, &found);

    pthread_mutex_lock(&job->lock);
    job->rc = rc;
    job->found = found;
    job->done = 1;
    pthread_cond_signal(&job->ended);
    pthread_mutex_unlock(&job->lock);
    lookup_unref(job);
    return NULL;
}

static struct lookup *lookup_new(const char *host, const char *port)
{
    struct lookup *job = calloc(1, sizeof(*job));

    if (!job)
        return NULL;
    snprintf(job->host, sizeof(job->host), "%s", host);
    snprintf(job->port, sizeof(job->port), "%s", port);
    pthread_mutex_init(&job->lock, NULL);
    fm_cond_init(&job->ended);
    job->refs = 2;
    return job;
}

static ferry_status resolve(const char *host, uint16_t port, uint64_t deadline_ms,
                            struct addrinfo **found_out, char *why, size_t room)
{
    struct timespec until = fm_timespec(deadline_ms);
    struct lookup *job;
    pthread_t thread;
    char text[8];
    int rc;

    snprintf(text, sizeof(text), "%u", port);
    if (!look_up(host, text, AI_NUMERICHOST, found_out))
        return FERRY_OK;
    job = lookup_new(host, text);
    if (!job)
        return FERRY_ENOMEM;
    rc = fm_thread_start(&thread, "ferry-lookup", lookup_main, job);
    if (rc) {
        job->refs = 1;
        lookup_unref(job);
        snprintf(why, room, "no thread to look up %s: %s", host, strerror(rc));
        return FERRY_EUNREACH;
    }
    pthread_detach(thread);
    pthread_mutex_lock(&job->lock);
    while (!job->done && pthread_cond_timedwait(&job->ended, &job->lock, &until) != ETIMEDOUT)
        ;
    if (job->done && !job->rc) {
        *found_out = job->found;
        job->found = NULL;
        rc = 0;
    } else {
        snprintf(why, room, "host %s: %s", host,
                 job->done ? gai_strerror(job->rc) : "not looked up in time");
        rc = -1;
    }
    pthread_mutex_unlock(&job->lock);
    lookup_unref(job);
    return rc ? FERRY_EUNREACH : FERRY_OK;
}

ferry_status fm_net_wait(int fd, short events, uint64_t deadline_ms, char *why, size_t room)
{
    for (;;) {
        struct pollfd p = {.fd = fd, .events = events};
        uint64_t now = fm_now_ms();
        int rc;

        if (now >= deadline_ms) {
            snprintf(why, room, "no answer in time");
            return FERRY_EUNREACH;
        }
        rc = poll(&p, 1, deadline_ms - now > 60000 ? 60000 : (int)(deadline_ms - now));
        if (rc > 0)
            return FERRY_OK;
        if (rc < 0 && errno != EINTR) {
            snprintf(why, room, "poll: %s", strerror(errno));
            return FERRY_EUNREACH;
        }
    }
}

static int try_address(const struct addrinfo *ai, uint64_t deadline_ms, char *why, size_t room)
{
    int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int one = 1, err = 0;
    socklen_t len = sizeof(err);

    if (fd < 0) {
        snprintf(why, room, "socket: %s", strerror(errno));
        return -1;
    }
    if (connect(fd, ai->ai_addr, ai->ai_addrlen) && errno != EINPROGRESS) {
        err = errno;
    } else if (fm_net_wait(fd, POLLOUT, deadline_ms, why, room)) {
        close(fd);
        return -1;
    } else if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len)) {
        err = errno;
    }
    if (err) {
        snprintf(why, room, "connect: %s", strerror(err));
        close(fd);
        return -1;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    return fd;
}

ferry_status fm_net_connect(const char *host, uint16_t port, uint64_t deadline_ms, int *fd_out,
                            char *why, size_t room)
{
    struct addrinfo *found = NULL;
    uint64_t left = 0;
    ferry_status status = resolve(host, port, deadline_ms, &found, why, room);
    int fd = -1;

    if (status)
        return status;
    for (struct addrinfo *ai = found; ai; ai = ai->ai_next)
        left++;
    for (struct addrinfo *ai = found; ai && fd < 0; ai = ai->ai_next, left--) {
        uint64_t now = fm_now_ms();
        uint64_t share = deadline_ms > now ? (deadline_ms - now) / left : 0;

        fd = try_address(ai, now + share, why, room);
    }
    freeaddrinfo(found);
    if (fd < 0)
        return FERRY_EUNREACH;
    *fd_out = fd;
    return FERRY_OK;
}

ferry_status fm_net_write(int fd, const void *data, size_t len, uint64_t deadline_ms, char *why,
                          size_t room)
{
    const char *at = data;

    while (len) {
        ssize_t n = send(fd, at, len, MSG_NOSIGNAL);

        if (n >= 0) {
            at += n;
            len -= (size_t)n;
        } else if (errno == EAGAIN) {
            ferry_status status = fm_net_wait(fd, POLLOUT, deadline_ms, why, room);

            if (status)
                return status;
        } else if (errno != EINTR) {
            snprintf(why, room, "send: %s", strerror(errno));
            return FERRY_EUNREACH;
        }
    }
    return FERRY_OK;
}

ferry_status fm_net_read(int fd, void *data, size_t len, uint64_t deadline_ms, char *why,
                         size_t room)
{
    char *at = data;

    while (len) {
        ssize_t n = recv(fd, at, len, 0);

        if (n > 0) {
            at += n;
            len -= (size_t)n;
        } else if (n == 0) {
            snprintf(why, room, "closed the connection");
            return FERRY_EUNREACH;
        } else if (errno == EAGAIN) {
            ferry_status status = fm_net_wait(fd, POLLIN, deadline_ms, why, room);

            if (status)
                return status;
        } else if (errno != EINTR) {
            snprintf(why, room, "receive: %s", strerror(errno));
            return FERRY_EUNREACH;
        }
    }
    return FERRY_OK;
}

static int is_v6(const char *text, size_t len)
{
    char plain[64];
    struct in6_addr addr;
    const char *scope = memchr(text, '%', len);
    size_t n = scope ? (size_t)(scope - text) : len;

    if (n >= sizeof(plain))
        return 0;
    memcpy(plain, text, n);
    plain[n] = '\0';
    return inet_pton(AF_INET6, plain, &addr) == 1;
}

static uint16_t port_or(const char *text, uint16_t otherwise)
{
    unsigned long n = 0;
    size_t len = strlen(text);

    if (!len || len > 5 || strspn(text, "0123456789") != len)
        return otherwise;
    n = strtoul(text, NULL, 10);
    return n > 65535 ? otherwise : (uint16_t)n;
}

ferry_status fm_net_split(const char *name, uint16_t default_port, char *host_out, size_t room,
                          uint16_t *port_out)
{
    const char *host = name, *port = "", *end;
    const char *colon, *scope = strchr(name, '%');
    size_t len = strlen(name);

    if (name[0] == '[' && (end = strchr(name, ']')) &&
        is_v6(name + 1, (size_t)(end - name) - 1) && (!end[1] || end[1] == ':')) {
        host = name + 1;
        len = (size_t)(end - host);
        port = end[1] ? end + 2 : "";
    } else if (scope && is_v6(name, (size_t)(scope - name)) && (colon = strchr(scope, ':'))) {
        len = (size_t)(colon - name);
        port = colon + 1;
    } else if (!is_v6(name, len) && (colon = strrchr(name, ':'))) {
        len = (size_t)(colon - name);
        port = colon + 1;
    }
    if (!len || len >= room)
        return FERRY_EINVAL;
    memcpy(host_out, host, len);
    host_out[len] = '\0';
    *port_out = port_or(port, default_port);
    return FERRY_OK;
}
