/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which address of this machine peers should be told, and whether those on other machines can
 * reach one that was given. Sends nothing; names are looked up where they have to be.
 */
#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "error.h"
#include "names.h"

static int is_loopback_or_any(const struct sockaddr *addr)
{
    if (addr->sa_family == AF_INET) {
        uint32_t v4 = ntohl(((const struct sockaddr_in *)(const void *)addr)->sin_addr.s_addr);

        return v4 == INADDR_ANY || v4 >> 24 == IN_LOOPBACKNET;
    }
    const struct in6_addr *v6 = &((const struct sockaddr_in6 *)(const void *)addr)->sin6_addr;

    return IN6_IS_ADDR_LOOPBACK(v6) || IN6_IS_ADDR_UNSPECIFIED(v6);
}

/* To connect a datagram socket sends nothing: it only chooses the route and with it the source.
 * The addresses are those reserved for documentation. */
static int host_of_default_route(int family, char *host_out)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(9)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(9)};
    struct sockaddr_storage own = {0};
    socklen_t len = sizeof(own);
    int fd, found = 0;

    inet_pton(AF_INET, "192.0.2.1", &v4.sin_addr);
    inet_pton(AF_INET6, "2001:db8::1", &v6.sin6_addr);
    fd = socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return 0;
    if (connect(fd, family == AF_INET ? (struct sockaddr *)&v4 : (struct sockaddr *)&v6,
                family == AF_INET ? sizeof(v4) : sizeof(v6)) == 0 &&
        getsockname(fd, (struct sockaddr *)&own, &len) == 0 &&
        !is_loopback_or_any((struct sockaddr *)&own))
        found = fy_net_numeric((struct sockaddr *)&own, len, host_out);
    close(fd);
    return found;
}

static int is_container_bridge(const char *interface)
{
    static const char *const prefixes[] = {"docker", "br-", "virbr", "veth", "cni", "podman"};

    for (size_t i = 0; i < sizeof(prefixes) / sizeof(prefixes[0]); i++)
        if (strncmp(interface, prefixes[i], strlen(prefixes[i])) == 0)
            return 1;
    return 0;
}

/* 0: of no use; the higher the better. */
static int interface_rank(const struct ifaddrs *i, int ipv6)
{
    const unsigned wanted = IFF_UP | IFF_RUNNING;

    if (!i->ifa_addr || (i->ifa_flags & wanted) != wanted || (i->ifa_flags & IFF_LOOPBACK) ||
        is_container_bridge(i->ifa_name))
        return 0;
    if (i->ifa_addr->sa_family == AF_INET)
        return is_loopback_or_any(i->ifa_addr) ? 0 : 3;
    if (i->ifa_addr->sa_family != AF_INET6 || is_loopback_or_any(i->ifa_addr))
        return 0;
    if (IN6_IS_ADDR_LINKLOCAL(
            &((const struct sockaddr_in6 *)(const void *)i->ifa_addr)->sin6_addr))
        return 1;
    return ipv6 ? 4 : 2;
}

static int host_of_an_interface(int ipv6, char *host_out)
{
    struct ifaddrs *list;
    const struct ifaddrs *best = NULL;
    int found = 0;

    if (getifaddrs(&list))
        return 0;
    for (const struct ifaddrs *i = list; i; i = i->ifa_next)
        if (interface_rank(i, ipv6) > (best ? interface_rank(best, ipv6) : 0))
            best = i;
    if (best)
        found =
            fy_net_numeric(best->ifa_addr,
                           best->ifa_addr->sa_family == AF_INET ? sizeof(struct sockaddr_in)
                                                                : sizeof(struct sockaddr_in6),
                           host_out);
    freeifaddrs(list);
    return found;
}

ferry_status fy_name_own_host(int ipv6, char *host_out)
{
    if (!host_of_default_route(ipv6 ? AF_INET6 : AF_INET, host_out) &&
        !host_of_default_route(ipv6 ? AF_INET : AF_INET6, host_out) &&
        !host_of_an_interface(ipv6, host_out))
        snprintf(host_out, FY_HOST_MAX, "127.0.0.1");
    return FERRY_OK;
}

/* ---- whom an address reaches ---- */

static int same_address(const struct sockaddr *a, const struct sockaddr *b)
{
    if (!a || !b || a->sa_family != b->sa_family)
        return 0;
    if (a->sa_family == AF_INET)
        return ((const struct sockaddr_in *)(const void *)a)->sin_addr.s_addr ==
               ((const struct sockaddr_in *)(const void *)b)->sin_addr.s_addr;
    return a->sa_family == AF_INET6 &&
           IN6_ARE_ADDR_EQUAL(&((const struct sockaddr_in6 *)(const void *)a)->sin6_addr,
                              &((const struct sockaddr_in6 *)(const void *)b)->sin6_addr);
}

/* Name of our interface that has this address; 0 = none has. */
static int interface_of(const struct sockaddr *addr, char *name_out, size_t room)
{
    struct ifaddrs *list;
    int found = 0;

    if (getifaddrs(&list))
        return 0;
    for (const struct ifaddrs *i = list; i && !found; i = i->ifa_next) {
        if (same_address(i->ifa_addr, addr)) {
            snprintf(name_out, room, "%s", i->ifa_name);
            found = 1;
        }
    }
    freeifaddrs(list);
    return found;
}

enum fy_reach fy_host_reach(const char *host, uint64_t deadline_ns, char *interface_out,
                            size_t room)
{
    enum fy_reach reach = FY_REACH_UNKNOWN;
    struct addrinfo *list;

    if (room)
        interface_out[0] = '\0';
    if (!strcmp(host, "localhost"))
        return FY_REACH_LOOPBACK;
    if (fy_net_lookup(host, 0, 0, deadline_ns, &list))
        return FY_REACH_UNKNOWN;
    for (const struct addrinfo *a = list; a; a = a->ai_next) {
        char interface[IF_NAMESIZE] = "";
        enum fy_reach one = FY_REACH_ELSEWHERE;

        if (is_loopback_or_any(a->ai_addr))
            one = FY_REACH_LOOPBACK;
        else if (interface_of(a->ai_addr, interface, sizeof(interface)))
            one = is_container_bridge(interface) ? FY_REACH_BRIDGE : FY_REACH_HERE;
        if (one > reach) { /* the best of a name's addresses counts */
            reach = one;
            snprintf(interface_out, room, "%s", interface);
        }
    }
    freeaddrinfo(list);
    return reach;
}

/* The hosts of "scheme://[user@]host[:port][,host...][/path]", one at a time. */
static const char *next_host(const char *at, char *host_out, size_t room)
{
    size_t len = strcspn(at, ",;/?#");
    const char *end = at + len, *begin = at;
    size_t host_len;

    for (const char *c = at; c < end; c++)
        if (*c == '@')
            begin = c + 1;
    if (*begin == '[') {
        begin++;
        host_len = strcspn(begin, "]");
    } else {
        host_len = strcspn(begin, ":,;/?#");
    }
    if (begin + host_len > end || host_len >= room)
        host_len = 0;
    memcpy(host_out, begin, host_len);
    host_out[host_len] = '\0';
    return *end == ',' || *end == ';' ? end + 1 : NULL;
}

int fy_url_is_remote(const char *url, uint64_t deadline_ns)
{
    const char *at = strstr(url, "://");

    at = at ? at + 3 : NULL;
    if (!at || !at[strcspn(at, ".:/,;")]) /* a mere name, as of a store in this process */
        return 0;
    while (at) {
        char host[FY_HOST_MAX];

        at = next_host(at, host, sizeof(host));
        if (host[0] && fy_host_reach(host, deadline_ns, NULL, 0) == FY_REACH_ELSEWHERE)
            return 1;
    }
    return 0;
}

ferry_status fy_host_check(const char *host, const char *server, const char *shown,
                           uint64_t deadline_ns)
{
    char interface[IF_NAMESIZE];
    enum fy_reach reach = fy_host_reach(host, deadline_ns, interface, sizeof(interface));

    if ((reach != FY_REACH_LOOPBACK && reach != FY_REACH_BRIDGE) ||
        !fy_url_is_remote(server, deadline_ns))
        return FERRY_OK;
    return fy_fail(
        FERRY_EINVAL,
        "this node would be published as %s, %s%s, at metadata server %s, which is on another "
        "machine: nobody there could reach it. Let its name (prefill_url, decode_url, "
        "ferry.name) have the address that peers reach, or set ferry.advertise, which is "
        "published unchecked",
        host, reach == FY_REACH_LOOPBACK ? "a loopback address" : "the container bridge ",
        interface[0] && reach == FY_REACH_BRIDGE ? interface : "", shown);
}
