/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sockets: their options, listening, connecting, and what their errors mean. Knows neither
 * dialect nor who uses the connection.
 */
#include "tcp.h"

#include <errno.h>
#include <linux/sockios.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* Acknowledgements older than this, while something waits for one, do not come any more. */
#define SILENT_MS       400u
/* Keepalive: first probe after, and then every. */
#define KEEPALIVE_S     2
#define BACKLOG         1024
#define REFUSED_WAIT_MS 20
/* For a port that is demanded and still taken: how long, and how often it is tried. */
#define PORT_WAIT_NS    1000000000u
#define PORT_AGAIN_US   5000

static void set_int(int fd, int level, int name, int value)
{
    (void)setsockopt(fd, level, name, &value, sizeof value);
}

static bool set_congestion(int fd, const char *name)
{
    return setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, (socklen_t)strlen(name)) == 0;
}

void tcp_sock_options(const struct tcp_config *config, int fd, char *name_out)
{
    set_int(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    if (strcmp(config->congestion, "auto") == 0) {
        if (!set_congestion(fd, "cubic"))
            set_congestion(fd, "reno");
    } else if (strcmp(config->congestion, "system") != 0) {
        set_congestion(fd, config->congestion);
    }
    if (config->keepalive_count > 0) {
        set_int(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
        set_int(fd, IPPROTO_TCP, TCP_KEEPIDLE, KEEPALIVE_S);
        set_int(fd, IPPROTO_TCP, TCP_KEEPINTVL, KEEPALIVE_S);
        set_int(fd, IPPROTO_TCP, TCP_KEEPCNT, (int)config->keepalive_count);
    }
    if (config->user_timeout_ms > 0)
        set_int(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, (int)config->user_timeout_ms);
    if (name_out != NULL) {
        socklen_t len = TCP_MAX_CONGESTION - 1;

        if (getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name_out, &len) == 0)
            name_out[len] = '\0';
        else
            memcpy(name_out, "unknown", sizeof "unknown");
    }
}

static uint16_t port_of(const struct sockaddr *sa)
{
    return ntohs(sa->sa_family == AF_INET6
                     ? ((const struct sockaddr_in6 *)(const void *)sa)->sin6_port
                     : ((const struct sockaddr_in *)(const void *)sa)->sin_port);
}

static int listen_at(const struct tcp_config *config, const struct addrinfo *ai, uint32_t port)
{
    struct sockaddr_storage ss;
    int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int err;

    if (fd < 0)
        return -1;
    memcpy(&ss, ai->ai_addr, ai->ai_addrlen);
    if (ai->ai_family == AF_INET6) {
        ((struct sockaddr_in6 *)&ss)->sin6_port = htons((uint16_t)port);
        set_int(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0);
    } else {
        ((struct sockaddr_in *)&ss)->sin_port = htons((uint16_t)port);
    }
    set_int(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    tcp_sock_options(config, fd, NULL); /* accepted sockets inherit them */
    if (bind(fd, (struct sockaddr *)&ss, ai->ai_addrlen) == 0 && listen(fd, BACKLOG) == 0)
        return fd;
    err = errno;
    close(fd);
    errno = err;
    return -1;
}

/* Listens at the first port of these that is free, or -1 with errno. */
static int listen_at_one(const struct tcp_config *config, const uint32_t *ports, int n)
{
    /* Without an address: every one, IPv4 through the IPv6 socket where there is IPv6. */
    const char *const hosts[] = {config->bind[0] != '\0' ? config->bind : "::", "0.0.0.0"};
    struct addrinfo hints = {
        .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    int fd = -1, err = 0;

    for (int p = 0; fd < 0 && p < n; p++) {
        for (int h = 0; fd < 0 && h < (config->bind[0] != '\0' ? 1 : 2); h++) {
            struct addrinfo *list;
            int rc = getaddrinfo(hosts[h], NULL, &hints, &list);

            if (rc != 0) {
                err = rc == EAI_SYSTEM ? errno : EADDRNOTAVAIL;
                continue;
            }
            for (struct addrinfo *ai = list; fd < 0 && ai != NULL; ai = ai->ai_next) {
                fd = listen_at(config, ai, ports[p]);
                err = errno;
            }
            freeaddrinfo(list);
        }
    }
    errno = err;
    return fd;
}

ferry_status tcp_listen(const struct ferry_host *host, const struct tcp_config *config,
                        int *fd_out, uint16_t *port_out)
{
    const uint32_t ports[] = {config->port != 0 ? config->port : config->port_hint, 0};
    uint64_t deadline_ns = ft_now_ns() + PORT_WAIT_NS;
    struct sockaddr_storage ss;
    socklen_t len = sizeof ss;
    int fd = -1, err = 0;

    /* The kernel lets go of a killed process's io_uring, and so of the port that it polled,
     * some time after the process is gone. */
    do {
        if (err != 0)
            usleep(PORT_AGAIN_US);
        fd = listen_at_one(config, ports, config->port != 0 ? 1 : 2);
        err = errno;
    } while (fd < 0 && config->port != 0 && err == EADDRINUSE && ft_now_ns() < deadline_ns);
    if (fd < 0) {
        FT_LOG(host, FERRY_LOG_ERROR, "tcp: cannot listen on %s port %u: %s",
               config->bind[0] != '\0' ? config->bind : "every address", config->port,
               strerror(err));
        return FERRY_EDEVICE;
    }
    if (getsockname(fd, (struct sockaddr *)&ss, &len) != 0) {
        close(fd);
        return FERRY_EDEVICE;
    }
    *port_out = port_of((struct sockaddr *)&ss);
    *fd_out = fd;
    return FERRY_OK;
}

ferry_status tcp_wait_fd(int fd, short events, uint64_t deadline_ns)
{
    for (;;) {
        struct pollfd p = {.fd = fd, .events = events};
        uint64_t now = ft_now_ns();
        uint64_t ms = deadline_ns > now ? (deadline_ns - now + NS_PER_MS - 1) / NS_PER_MS : 0;
        int rc = poll(&p, 1, ms > 1000000 ? 1000000 : (int)ms);

        if (rc > 0)
            return FERRY_OK;
        if (rc == 0 && ft_now_ns() >= deadline_ns)
            return FERRY_ETIMEDOUT;
        if (rc < 0 && errno != EINTR)
            return FERRY_EIO;
    }
}

int tcp_connect_start(const struct tcp_config *config, const struct tcp_addr *addr)
{
    int fd = socket(addr->ss.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int err;

    if (fd < 0)
        return -1;
    tcp_sock_options(config, fd, NULL);
    if (connect(fd, (const struct sockaddr *)&addr->ss, addr->len) == 0 ||
        errno == EINPROGRESS || errno == EINTR)
        return fd;
    err = errno;
    close(fd);
    errno = err;
    return -1;
}

/* 0 or an errno. */
static int connect_one(const struct tcp_config *config, const struct tcp_addr *addr,
                       uint64_t deadline_ns, int *fd_out)
{
    int fd = tcp_connect_start(config, addr);
    int err = 0;
    socklen_t len = sizeof err;

    if (fd < 0)
        return errno;
    if (tcp_wait_fd(fd, POLLOUT, deadline_ns) != FERRY_OK)
        err = ETIMEDOUT;
    else if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len) != 0)
        err = errno;
    if (err != 0) {
        close(fd);
        return err;
    }
    *fd_out = fd;
    return 0;
}

ferry_status tcp_connect(const struct tcp_config *config, const char *host, uint16_t port,
                         uint64_t deadline_ns, uint64_t retry_ns, int *fd_out,
                         struct tcp_addr *addr_out)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    struct addrinfo *list;
    uint64_t give_up_ns = ft_now_ns() + retry_ns;
    char service[8];
    int err, fd = -1;

    snprintf(service, sizeof service, "%u", port);
    if (getaddrinfo(host, service, &hints, &list) != 0)
        return FERRY_EUNREACH;
    for (;;) {
        err = EADDRNOTAVAIL;
        for (struct addrinfo *ai = list; ai != NULL; ai = ai->ai_next) {
            uint64_t now = ft_now_ns(), until = deadline_ns;
            struct tcp_addr addr = {.len = ai->ai_addrlen};

            /* The later addresses of a name are to have a share of the time. */
            if (ai->ai_next != NULL && deadline_ns > now)
                until = now + (deadline_ns - now) / 2;
            memcpy(&addr.ss, ai->ai_addr, ai->ai_addrlen);
            err = connect_one(config, &addr, until, &fd);
            if (err == 0) {
                *addr_out = addr;
                break;
            }
        }
        if (err != ECONNREFUSED || ft_now_ns() + REFUSED_WAIT_MS * NS_PER_MS > give_up_ns)
            break;
        nanosleep(&(struct timespec){.tv_nsec = REFUSED_WAIT_MS * 1000000L}, NULL);
    }
    freeaddrinfo(list);
    if (err != 0)
        return err == EMFILE || err == ENFILE || err == ENOMEM || err == ENOBUFS
                   ? FERRY_ENOMEM
                   : FERRY_EUNREACH;
    *fd_out = fd;
    return FERRY_OK;
}

ferry_status tcp_status_of(int err)
{
    switch (err) {
    case ETIMEDOUT:
    case EHOSTUNREACH:
    case ENETUNREACH:
    case EHOSTDOWN:
    case ENETDOWN:
    case ECONNREFUSED:
    case EADDRNOTAVAIL:
        return FERRY_EUNREACH;
    default:
        return FERRY_ECONNRESET;
    }
}

bool tcp_unreachable(int fd)
{
    struct tcp_info info = {0};
    socklen_t len = sizeof info;
    int unsent = 0;

    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) != 0 ||
        info.tcpi_last_ack_recv < SILENT_MS)
        return false;
    /* A stopped peer's kernel leaves one probe of its closed window without an answer: it
     * answers at intervals. One of an idle connection it always answers. */
    (void)ioctl(fd, SIOCOUTQNSD, &unsent);
    return (info.tcpi_unacked > 0 && info.tcpi_retransmits > 0) ||
           info.tcpi_probes > (unsent > 0 ? 1 : 0);
}

bool tcp_heard_lately(int fd, uint32_t user_timeout_ms)
{
    struct tcp_info info = {0};
    socklen_t len = sizeof info;

    return user_timeout_ms > 0 && getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) == 0 &&
           info.tcpi_last_ack_recv < user_timeout_ms - user_timeout_ms / 5;
}

void tcp_reset(int fd)
{
    const struct sockaddr none = {.sa_family = AF_UNSPEC};
    const struct linger linger = {.l_onoff = 1, .l_linger = 0};

    if (connect(fd, &none, sizeof none) != 0) /* forbidden: at least where nobody else has it */
        (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
    close(fd);
}

void tcp_close_fd(int fd)
{
    (void)shutdown(fd, SHUT_RDWR);
    close(fd);
}
