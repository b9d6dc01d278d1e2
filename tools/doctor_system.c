/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a machine allows its processes, looked at for `ferry doctor`. Changes nothing; knows no
 * configuration.
 */
#include "doctor.h"

#include <errno.h>
#include <linux/io_uring.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "out.h"

#define FEW_DESCRIPTORS 4096
#define LITTLE_MEMLOCK  (1ull << 30)
#define CLOCK_MS        2000

static bool read_word(const char *path, char *text, size_t room)
{
    FILE *file = fopen(path, "re");
    bool good = file && fgets(text, (int)room, file);

    if (good)
        text[strcspn(text, "\n")] = 0;
    if (file)
        fclose(file);
    return good;
}

void doctor_memlock(struct findings *findings, bool pins)
{
    struct rlimit limit;
    char size[32];

    if (getrlimit(RLIMIT_MEMLOCK, &limit))
        return;
    if (limit.rlim_cur == RLIM_INFINITY) {
        found(findings, "memlock", IS_OK, "", "locked memory is not limited");
        return;
    }
    out_bytes(size, limit.rlim_cur);
    if (pins && limit.rlim_cur < LITTLE_MEMLOCK)
        found(findings, "memlock", IS_WARN,
              "ulimit -l unlimited; LimitMEMLOCK=infinity for systemd; --ulimit memlock=-1 for "
              "containers",
              "at most %s of memory may be locked, and transports that give memory to a device "
              "lock all that is registered",
              size);
    else
        found(findings, "memlock", IS_OK, "", "%s may be locked%s", size,
              pins ? "" : "; the transports used lock none");
}

void doctor_io_uring(struct findings *findings)
{
    struct io_uring_params params = {0};
    int fd = (int)syscall(SYS_io_uring_setup, 1, &params), saved = errno;
    char setting[16] = "0";

    if (fd >= 0) {
        close(fd);
        found(findings, "io_uring", IS_OK, "", "allowed");
        return;
    }
    read_word("/proc/sys/kernel/io_uring_disabled", setting, sizeof(setting));
    if (strcmp(setting, "0") != 0)
        found(findings, "io_uring", IS_WARN, "sysctl kernel.io_uring_disabled=0",
              "forbidden by kernel.io_uring_disabled=%s; tcp uses epoll", setting);
    else
        found(findings, "io_uring", IS_WARN,
              saved == ENOSYS
                  ? "a kernel with io_uring, or nothing: epoll does the same"
                  : "a seccomp profile that allows io_uring, or nothing: epoll does "
                    "the same",
              "not usable (%s); tcp uses epoll", strerror(saved));
}

void doctor_congestion(struct findings *findings, const char *congestion)
{
    char own[64] = "unknown", all[256] = "";
    char padded[280], wanted[80];

    read_word("/proc/sys/net/ipv4/tcp_congestion_control", own, sizeof(own));
    read_word("/proc/sys/net/ipv4/tcp_available_congestion_control", all, sizeof(all));
    snprintf(padded, sizeof(padded), " %s ", all);
    snprintf(wanted, sizeof(wanted), " %s ", congestion);
    if (*congestion && strcmp(congestion, "auto") != 0 && strcmp(congestion, "system") != 0) {
        if (*all && !strstr(padded, wanted))
            found(findings, "congestion", IS_FAIL,
                  "ferry.tcp.congestion: one of those, or auto",
                  "\"%s\" is configured; this kernel has %s", congestion, all);
        else
            found(findings, "congestion", IS_OK, "", "%s, as configured (the system's: %s)",
                  congestion, own);
    } else if (strcmp(congestion, "system") == 0 && strncmp(own, "bbr", 3) == 0) {
        found(findings, "congestion", IS_WARN, "ferry.tcp.congestion: auto",
              "the system's, which is %s: made for long lines, it slows transfers within a "
              "machine or a rack",
              own);
    } else if (strcmp(congestion, "system") == 0 || strstr(padded, " cubic ") ||
               strstr(padded, " reno ")) {
        found(findings, "congestion", IS_OK, "", "%s (the system's: %s)",
              strcmp(congestion, "system") == 0 ? own
              : strstr(padded, " cubic ")       ? "cubic"
                                                : "reno",
              own);
    } else {
        found(findings, "congestion", IS_WARN, "modprobe tcp_cubic",
              "neither cubic nor reno is there; the system's %s is used", own);
    }
}

void doctor_descriptors(struct findings *findings)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit))
        return;
    if (limit.rlim_cur != RLIM_INFINITY && limit.rlim_cur < FEW_DESCRIPTORS)
        found(findings, "descriptors", IS_WARN, "ulimit -n 65536",
              "%llu at most: enough for about %llu peers", (unsigned long long)limit.rlim_cur,
              (unsigned long long)limit.rlim_cur / 6);
    else
        found(findings, "descriptors", IS_OK, "", "%llu at most",
              (unsigned long long)limit.rlim_cur);
}

void doctor_port(struct findings *findings, const char *bind_to, uint16_t port,
                 const char *what)
{
    struct addrinfo hints = {.ai_family = *bind_to ? AF_UNSPEC : AF_INET6,
                             .ai_socktype = SOCK_STREAM,
                             .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    struct addrinfo *list = NULL;
    char service[8];
    int on = 1, rc = EADDRNOTAVAIL, fd = -1;

    snprintf(service, sizeof(service), "%u", port);
    if (getaddrinfo(*bind_to ? bind_to : NULL, service, &hints, &list)) {
        found(findings, "ports", IS_FAIL, "ferry.bind: an address of this machine",
              "%s: %s is no address", what, bind_to);
        return;
    }
    for (const struct addrinfo *a = list; a && rc; a = a->ai_next) {
        int off = 0;

        fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0) {
            rc = errno;
            continue;
        }
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
        if (a->ai_family == AF_INET6)
            setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
        rc = bind(fd, a->ai_addr, a->ai_addrlen) || listen(fd, 1) ? errno : 0;
        close(fd);
    }
    freeaddrinfo(list);
    if (!rc)
        found(findings, "ports", IS_OK, "", "%s %u is free", what, port);
    else if (rc == EADDRINUSE)
        found(findings, "ports", IS_WARN,
              "nothing if that is the node itself; else another port in the URL",
              "%s %u is taken", what, port);
    else
        found(findings, "ports", IS_FAIL, "ferry.bind: an address of this machine",
              "%s %u cannot be listened on: %s", what, port, strerror(rc));
}

/* ---- the server's clock ---- */

static int connect_to(const char *host, const char *port)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM}, *list;
    struct timeval limit = {.tv_sec = CLOCK_MS / 1000};
    int fd = -1;

    if (getaddrinfo(host, port, &hints, &list))
        return -1;
    for (const struct addrinfo *a = list; a && fd < 0; a = a->ai_next) {
        fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0)
            continue;
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)); /* connect's too */
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
        if (connect(fd, a->ai_addr, a->ai_addrlen)) {
            close(fd);
            fd = -1;
        }
    }
    freeaddrinfo(list);
    return fd;
}

/* One question, the beginning of its answer. */
static bool ask(const char *host, const char *port, const char *question, const char *until,
                char *answer, size_t room)
{
    int fd = connect_to(host, port);
    size_t len = 0;
    ssize_t n;

    if (fd < 0)
        return false;
    answer[0] = 0;
    if (send(fd, question, strlen(question), MSG_NOSIGNAL) == (ssize_t)strlen(question))
        while (len + 1 < room && (n = recv(fd, answer + len, room - 1 - len, 0)) > 0) {
            len += (size_t)n;
            answer[len] = 0;
            if (strstr(answer, until))
                break;
        }
    close(fd);
    return len > 0;
}

static bool http_time(const char *answer, double *time_out)
{
    const char *at = strcasestr(answer, "\ndate:");
    struct tm tm = {0};

    if (!at || !strptime(at + 6, " %a, %d %b %Y %H:%M:%S GMT", &tm))
        return false;
    *time_out = (double)timegm(&tm) + 0.5; /* it is cut to seconds */
    return true;
}

static bool redis_time(const char *answer, double *time_out)
{
    double seconds, micros;

    if (sscanf(answer, "*2\r\n$%*d\r\n%lf\r\n$%*d\r\n%lf", &seconds, &micros) != 2)
        return false;
    *time_out = seconds + micros / 1e6;
    return true;
}

bool doctor_clock(const char *url, double *ahead_s_out)
{
    const char *at = strstr(url, "://"), *colon;
    bool redis = strncmp(url, "redis:", 6) == 0;
    char host[256], port[8] = "80", answer[2048];
    struct timespec before, after;
    size_t len;
    double theirs;
    bool good;

    if (!at || (!redis && strncmp(url, "http:", 5) != 0 && strncmp(url, "etcd:", 5) != 0))
        return false; /* by TLS it would have to be spoken first */
    at += 3;
    len = strcspn(at, ",;/?");
    if (memchr(at, '@', len)) {
        const char *user_end = memchr(at, '@', len);

        len -= (size_t)(user_end + 1 - at);
        at = user_end + 1;
    }
    if (len == 0 || len >= sizeof(host))
        return false;
    memcpy(host, at, len);
    host[len] = 0;
    colon = strrchr(host, ':');
    snprintf(port, sizeof(port), "%.7s",
             colon && !strchr(colon, ']')    ? colon + 1
             : redis                         ? "6379"
             : strncmp(url, "etcd:", 5) == 0 ? "2379"
                                             : "80");
    if (colon && !strchr(colon, ']'))
        host[colon - host] = 0;
    if (host[0] == '[' && strchr(host, ']')) {
        *strchr(host, ']') = 0;
        memmove(host, host + 1, strlen(host));
    }
    clock_gettime(CLOCK_REALTIME, &before);
    good = redis ? ask(host, port, "TIME\r\n", "\r\n", answer, sizeof(answer)) &&
                       redis_time(answer, &theirs)
                 : ask(host, port, "GET /health HTTP/1.0\r\n\r\n", "\r\n\r\n", answer,
                       sizeof(answer)) &&
                       http_time(answer, &theirs);
    clock_gettime(CLOCK_REALTIME, &after);
    if (!good)
        return false;
    *ahead_s_out = theirs - ((double)before.tv_sec + (double)after.tv_sec) / 2 -
                   ((double)before.tv_nsec + (double)after.tv_nsec) / 2e9;
    return true;
}
