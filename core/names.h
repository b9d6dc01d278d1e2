/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FY_NAMES_H
#define FY_NAMES_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "ferry/status.h"

#define FY_HOST_MAX 256

/* "host:port", "host", "[v6]:port", "v6", "v6%scope:port" as Mooncake reads them; a missing
 * port is `default_port`. FERRY_EINVAL with a text, also for a port that is no number (where
 * Mooncake warns and takes the default). host_out has room for FY_HOST_MAX, no brackets. */
ferry_status fy_name_split(const char *name, uint16_t default_port, char *host_out,
                           uint16_t *port_out);
/* The other way: brackets round IPv6. FERRY_ERANGE if it does not fit. */
ferry_status fy_name_join(const char *host, uint16_t port, char *out, size_t room);

/* Address that peers should be told: the source address of the default route, else of the first
 * interface that is up and neither loopback nor a container bridge; 127.0.0.1 if there is
 * nothing. `ipv6`: IPv6 first. */
ferry_status fy_name_own_host(int ipv6, char *host_out);

/* Who can reach an address of a node, from the worst to the best. */
enum fy_reach {
    FY_REACH_UNKNOWN,   /* the name is not known */
    FY_REACH_LOOPBACK,  /* this machine alone; also the address that means every one */
    FY_REACH_BRIDGE,    /* containers of this machine */
    FY_REACH_HERE,      /* an address of ours */
    FY_REACH_ELSEWHERE, /* not ours */
};
/* Names are looked up until the deadline at most. interface_out (may be NULL where room is 0):
 * which of ours has it, else "". */
enum fy_reach fy_host_reach(const char *host, uint64_t deadline_ns, char *interface_out,
                            size_t room);
/* Is one of the URL's hosts another machine's? */
int fy_url_is_remote(const char *url, uint64_t deadline_ns);
/* FERRY_EINVAL where `host` would be published at a `server` on another machine and nobody
 * there could reach it; `shown`: the server without its password. */
ferry_status fy_host_check(const char *host, const char *server, const char *shown,
                           uint64_t deadline_ns);

/* getaddrinfo for stream sockets, bounded; freeaddrinfo. FERRY_EUNREACH. */
struct addrinfo;
ferry_status fy_net_lookup(const char *host, uint16_t port, int flags, uint64_t deadline_ns,
                           struct addrinfo **list_out);
/* 0: it cannot be written. host_out: FY_HOST_MAX. */
int fy_net_numeric(const struct sockaddr *addr, socklen_t len, char *host_out);

/* A listening socket (close-on-exec, non-blocking, dual stack where `bind` is NULL or ""), on
 * `port`, or where it is 0 on a random port of [min, max]; [0, 0]: one of the system's choice.
 * *port_out: the port it got.
 * `with_next`: the following port must have been free as well at that moment. FERRY_EEXIST:
 * taken. */
ferry_status fy_net_listen(const char *bind, uint16_t port, uint16_t min, uint16_t max,
                           int with_next, int *fd_out, uint16_t *port_out);
/* A connected non-blocking socket, all addresses tried, within the deadline (CLOCK_MONOTONIC
 * ns). FERRY_EUNREACH: refused, no route, unknown host; FERRY_ETIMEDOUT: no answer from any of
 * its addresses. The text names address and cause. */
ferry_status fy_net_connect(const char *host, uint16_t port, uint64_t deadline_ns, int *fd_out);
/* Waits for poll()'s `events`. FERRY_EAGAIN: time is over; FERRY_ECANCELED: see below. */
ferry_status fy_net_wait(int fd, short events, uint64_t deadline_ns);
/* From now on this thread's waits, those of fy_net_connect too, end soon after *stop has become
 * FERRY_ECANCELED. NULL = they do not. Borrowed until the next call. */
void fy_net_stop_when(const atomic_int *stop);

#endif /* FY_NAMES_H */
