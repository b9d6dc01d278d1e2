/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sockets by name: listening, connecting within a deadline. Knows nothing of
 * what is spoken over them.
 */
#include "names.h"

#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "error.h"
#include "util/clock.h"
#include "util/thread.h"

#define MAX_LOOKUPS 64 /* of names at once, those included that nobody waits for any more */

/* ---- looking up names ---- */

/* getaddrinfo knows no deadline; so it runs on a thread of its own, which is left behind where
 * it takes too long and then ends by itself. */
struct lookup {
    pthread_mutex_t lock; /* guards what follows; no other lock is taken under it */
    pthread_cond_t done_cond;
    int refs, done, rc;
    struct addrinfo hints, *list;
    char service[8];
    char host[FY_HOST_MAX];
};

static atomic_int n_lookups;

static void lookup_put(struct lookup *l)
{
    int last;

    pthread_mutex_lock(&l->lock);
    last = --l->refs == 0;
    pthread_mutex_unlock(&l->lock);
    if (!last)
        return;
    if (l->list)
        freeaddrinfo(l->list);
    pthread_cond_destroy(&l->done_cond);
    pthread_mutex_destroy(&l->lock);
    free(l);
}

static void *lookup_main(void *arg)
{
    struct lookup *l = arg;
    struct addrinfo *list = NULL;
    int rc;

    rc = getaddrinfo(l->host, l->service, &l->hints, &list);
    pthread_mutex_lock(&l->lock);
    l->list = rc ? NULL : list;
    l->rc = rc;
    l->done = 1;
    pthread_cond_signal(&l->done_cond);
    pthread_mutex_unlock(&l->lock);
    lookup_put(l);
    atomic_fetch_sub_explicit(&n_lookups, 1, memory_order_relaxed);
    return NULL;
}

static int start_detached(void *(*fn)(void *), void *arg)
{
    pthread_t thread;
    int rc = fy_thread_start(&thread, "ferry-lookup", fn, arg);

    if (!rc)
        pthread_detach(thread);
    return rc;
}

static ferry_status lookup_in_thread(const char *host, const char *service,
                                     const struct addrinfo *hints, uint64_t deadline_ns,
                                     struct addrinfo **list_out)
{
    struct timespec until = fy_timespec(deadline_ns);
    struct lookup *l = calloc(1, sizeof(*l));
    ferry_status status;
    int rc;

    if (!l)
        return fy_fail(FERRY_ENOMEM, "%s: out of memory", host);
    pthread_mutex_init(&l->lock, NULL);
    fy_cond_init(&l->done_cond);
    l->refs = 2;
    l->hints = *hints;
    snprintf(l->host, sizeof(l->host), "%s", host);
    snprintf(l->service, sizeof(l->service), "%s", service);

    if (atomic_fetch_add_explicit(&n_lookups, 1, memory_order_relaxed) >= MAX_LOOKUPS)
        rc = EAGAIN;
    else
        rc = start_detached(lookup_main, l);
    if (rc) {
        atomic_fetch_sub_explicit(&n_lookups, 1, memory_order_relaxed);
        l->refs = 1;
        lookup_put(l);
        return fy_fail(FERRY_EUNREACH, "%s: looking up the name: no thread for it (%s)", host,
                       strerror(rc));
    }
    pthread_mutex_lock(&l->lock);
    rc = 0;
    while (!l->done && rc != ETIMEDOUT)
        rc = pthread_cond_timedwait(&l->done_cond, &l->lock, &until);
    if (!l->done)
        status = fy_fail(FERRY_EUNREACH, "%s: looking up the name: no answer in time", host);
    else if (l->rc)
        status =
            fy_fail(FERRY_EUNREACH, "%s: looking up the name: %s", host, gai_strerror(l->rc));
    else {
        *list_out = l->list;
        l->list = NULL;
        status = FERRY_OK;
    }
    pthread_mutex_unlock(&l->lock);
    lookup_put(l);
    return status;
}

ferry_status fy_net_lookup(const char *host, uint16_t port, int flags, uint64_t deadline_ns,
                           struct addrinfo **list_out)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC,
                             .ai_socktype = SOCK_STREAM,
                             .ai_flags = flags | AI_NUMERICSERV | AI_NUMERICHOST};
    char service[8];

    if (strlen(host) >= FY_HOST_MAX)
        return fy_fail(FERRY_EINVAL, "a host name of %zu characters: at most %d", strlen(host),
                       FY_HOST_MAX - 1);
    snprintf(service, sizeof(service), "%u", port);
    if (getaddrinfo(host, service, &hints, list_out) == 0)
        return FERRY_OK;
    hints.ai_flags &= ~AI_NUMERICHOST;
    return lookup_in_thread(host, service, &hints, deadline_ns, list_out);
}

/* ---- addresses ---- */

int fy_net_numeric(const struct sockaddr *addr, socklen_t len, char *host_out)
{
    char host[FY_HOST_MAX];

    if (getnameinfo(addr, len, host, sizeof(host), NULL, 0, NI_NUMERICHOST))
        return 0;
    memcpy(host_out, host, sizeof(host));
    return 1;
}

/* ---- listening ---- */

struct listen_at {
    const char *bind;     /* for messages; "" = every address */
    struct addrinfo *all; /* NULL = every address */
};

static int bound_socket(int family, const struct sockaddr *addr, socklen_t len)
{
    int on = 1, off = 0, saved;
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd < 0)
        return -1;
    /* A node that comes back takes its old port although its last connections linger. */
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
    if (bind(fd, addr, len) == 0)
        return fd;
    saved = errno;
    close(fd);
    errno = saved;
    return -1;
}

/* A bound socket, or -1 with errno. */
static int bound_at(const struct listen_at *at, uint16_t port)
{
    int fd = -1;

    if (!at->all) {
        struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
        struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(port)};

        fd = bound_socket(AF_INET6, (struct sockaddr *)&v6, sizeof(v6));
        if (fd < 0 && errno != EADDRINUSE && errno != EACCES)
            fd = bound_socket(AF_INET, (struct sockaddr *)&v4, sizeof(v4));
        return fd;
    }
    for (struct addrinfo *a = at->all; a && fd < 0; a = a->ai_next) {
        if (a->ai_family == AF_INET6)
            ((struct sockaddr_in6 *)(void *)a->ai_addr)->sin6_port = htons(port);
        else
            ((struct sockaddr_in *)(void *)a->ai_addr)->sin_port = htons(port);
        fd = bound_socket(a->ai_family, a->ai_addr, a->ai_addrlen);
    }
    return fd;
}

static uint16_t port_of(int fd)
{
    struct sockaddr_storage own = {0};
    socklen_t len = sizeof(own);

    if (getsockname(fd, (struct sockaddr *)&own, &len))
        return 0;
    return own.ss_family == AF_INET6 ? ntohs(((struct sockaddr_in6 *)(void *)&own)->sin6_port)
                                     : ntohs(((struct sockaddr_in *)(void *)&own)->sin_port);
}

/* A listening socket, or -1 with errno; EADDRINUSE: try another port. */
static int listening_at(const struct listen_at *at, uint16_t port, int with_next)
{
    int fd = bound_at(at, port), next, saved;

    if (fd < 0)
        return -1;
    if (listen(fd, SOMAXCONN)) {
        saved = errno;
        goto err_close;
    }
    if (!with_next)
        return fd;
    port = port_of(fd);
    if (port == UINT16_MAX) {
        saved = EADDRINUSE;
        goto err_close;
    }
    next = bound_at(at, (uint16_t)(port + 1));
    saved = errno;
    if (next >= 0) {
        close(next);
        return fd;
    }

err_close:
    close(fd);
    errno = saved;
    return -1;
}

static int listening_in(const struct listen_at *at, uint16_t min, uint16_t max, int with_next)
{
    uint32_t n = (uint32_t)max - min + 1, start = 0;
    int fd = -1;

    if (min == 0) { /* the system's choice; again only for with_next */
        for (int i = 0; i < 100 && fd < 0 && (i == 0 || errno == EADDRINUSE); i++)
            fd = listening_at(at, 0, with_next);
        return fd;
    }
    /* Without randomness every node of this host begins at the same port: slower, not wrong. */
    if (getrandom(&start, sizeof(start), GRND_NONBLOCK) != (ssize_t)sizeof(start))
        start = (uint32_t)fy_now_ns();
    start %= n;
    for (uint32_t i = 0; i < n && fd < 0; i++) {
        fd = listening_at(at, (uint16_t)(min + (start + i) % n), with_next);
        if (fd < 0 && errno != EADDRINUSE)
            break;
    }
    return fd;
}

static ferry_status listen_failed(const struct listen_at *at, uint16_t port, uint16_t min,
                                  uint16_t max, int with_next)
{
    int saved = errno;
    const char *where = at->bind[0] ? at->bind : "every address";
    const char *why = strerror(saved);
    ferry_status status = saved == EADDRINUSE                         ? FERRY_EEXIST
                          : saved == EACCES || saved == EADDRNOTAVAIL ? FERRY_EINVAL
                                                                      : FERRY_EIO;
    if (saved == EADDRINUSE)
        why = with_next ? "it or the port after it is taken" : "it is taken";
    if (port)
        return fy_fail(status, "listening on %s, port %u: %s", where, port, why);
    if (saved == EADDRINUSE)
        why = with_next ? "no two free ports in a row" : "no free port";
    return fy_fail(status, "listening on %s, a port of %u to %u: %s", where, min, max, why);
}

ferry_status fy_net_listen(const char *bind, uint16_t port, uint16_t min, uint16_t max,
                           int with_next, int *fd_out, uint16_t *port_out)
{
    struct listen_at at = {.bind = bind ? bind : ""};
    ferry_status status;
    int fd;

    if (!port && (min > max || (min == 0 && max != 0)))
        return fy_fail(FERRY_EINVAL,
                       "ports from %u to %u: the first is 1 or more, and no more "
                       "than the second",
                       min, max);
    if (at.bind[0]) {
        status = fy_net_lookup(at.bind, 0, AI_PASSIVE, fy_now_ns() + 5 * FY_NS_PER_S, &at.all);
        if (status)
            return fy_fail_in(FERRY_EINVAL, "the address to listen on: ");
    }
    fd = port ? listening_at(&at, port, with_next) : listening_in(&at, min, max, with_next);
    if (fd < 0) {
        status = listen_failed(&at, port, min, max, with_next);
    } else {
        *port_out = port_of(fd);
        *fd_out = fd;
        status = FERRY_OK;
    }
    if (at.all)
        freeaddrinfo(at.all);
    return status;
}

/* ---- waiting ---- */

#define STOP_LOOK_MS 20

static _Thread_local const atomic_int *stop_when;

void fy_net_stop_when(const atomic_int *stop)
{
    stop_when = stop;
}

/* 0 or an errno: ETIMEDOUT, ECANCELED, or poll()'s. */
static int wait_for(int fd, short events, uint64_t deadline_ns)
{
    struct pollfd p = {.fd = fd, .events = events};

    for (;;) {
        int ms = fy_ms_left(deadline_ns), rc;

        if (stop_when && atomic_load(stop_when) == FERRY_ECANCELED)
            return ECANCELED;
        if (stop_when && ms > STOP_LOOK_MS)
            ms = STOP_LOOK_MS;
        rc = poll(&p, 1, ms);
        if (rc > 0)
            return 0;
        if (rc < 0 && errno != EINTR)
            return errno;
        if (fy_now_ns() >= deadline_ns)
            return ETIMEDOUT;
    }
}

ferry_status fy_net_wait(int fd, short events, uint64_t deadline_ns)
{
    int error = wait_for(fd, events, deadline_ns);

    if (!error)
        return FERRY_OK;
    if (error == ETIMEDOUT)
        return FERRY_EAGAIN;
    if (error == ECANCELED)
        return fy_fail(FERRY_ECANCELED, "canceled");
    return fy_fail(FERRY_EINTERNAL, "poll: %s", strerror(error));
}

/* ---- connecting ---- */

/* The kernel may give the very port that is being connected to; then one is one's own peer. */
static int is_connected_to_itself(int fd)
{
    struct sockaddr_storage own = {0}, peer = {0};
    socklen_t own_len = sizeof(own), peer_len = sizeof(peer);

    return getsockname(fd, (struct sockaddr *)&own, &own_len) == 0 &&
           getpeername(fd, (struct sockaddr *)&peer, &peer_len) == 0 && own_len == peer_len &&
           memcmp(&own, &peer, own_len) == 0;
}

static int wait_connected(int fd, uint64_t deadline_ns)
{
    socklen_t len = sizeof(int);
    int error = wait_for(fd, POLLOUT, deadline_ns);

    if (error)
        return error;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len))
        return errno;
    return error;
}

/* 0 or an errno. */
static int connect_one(const struct addrinfo *a, uint64_t deadline_ns, int *fd_out)
{
    int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int error = 0;

    if (fd < 0)
        return errno;
    if (connect(fd, a->ai_addr, a->ai_addrlen))
        error =
            errno == EINPROGRESS || errno == EINTR ? wait_connected(fd, deadline_ns) : errno;
    if (!error && is_connected_to_itself(fd))
        error = ECONNREFUSED;
    if (error)
        close(fd);
    else
        *fd_out = fd;
    return error;
}

ferry_status fy_net_connect(const char *host, uint16_t port, uint64_t deadline_ns, int *fd_out)
{
    struct addrinfo *list;
    ferry_status status;
    char tried[512] = "";
    size_t used = 0;
    uint64_t left = 0;
    int error = 0, all_late = 1, literal = 0;

    status = fy_net_lookup(host, port, 0, deadline_ns, &list);
    if (status)
        return status;
    for (const struct addrinfo *a = list; a; a = a->ai_next)
        left++;
    for (const struct addrinfo *a = list; a; a = a->ai_next, left--) {
        /* An address that swallows everything leaves the others their share of the time. */
        uint64_t now = fy_now_ns();
        uint64_t until = now >= deadline_ns ? deadline_ns : now + (deadline_ns - now) / left;
        char address[FY_HOST_MAX] = "?", name[FY_HOST_MAX + 16];
        int n;

        error = connect_one(a, until, fd_out);
        if (!error) {
            freeaddrinfo(list);
            return FERRY_OK;
        }
        all_late &= error == ETIMEDOUT;
        fy_net_numeric(a->ai_addr, a->ai_addrlen, address);
        literal |= strcmp(address, host) == 0;
        fy_name_join(address, port, name, sizeof(name));
        n = snprintf(tried + used, sizeof(tried) - used, "%s%s: %s", used ? ", " : "", name,
                     error == ETIMEDOUT ? "no answer in time" : strerror(error));
        used =
            n < 0 || (size_t)n >= sizeof(tried) - used ? sizeof(tried) - 1 : used + (size_t)n;
    }
    freeaddrinfo(list);
    status = error == ECANCELED ? FERRY_ECANCELED : all_late ? FERRY_ETIMEDOUT : FERRY_EUNREACH;
    if (literal)
        return fy_fail(status, "%s", tried);
    return fy_fail(status, "%s (%s)", host, tried);
}
