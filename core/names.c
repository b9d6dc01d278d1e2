/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Names of nodes, "host:port", taken apart and put together by Mooncake's rules. Text only:
 * nothing is resolved here, and no socket is opened.
 */
#include "names.h"

#include <arpa/inet.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "error.h"

/* With or without "%scope". */
static int is_ipv6(const char *text, size_t len)
{
    const char *percent = memchr(text, '%', len);
    size_t n = percent ? (size_t)(percent - text) : len;
    char address[INET6_ADDRSTRLEN];
    struct in6_addr parsed;

    if (n >= sizeof(address) || (percent && n + 1 == len))
        return 0;
    memcpy(address, text, n);
    address[n] = '\0';
    return inet_pton(AF_INET6, address, &parsed) == 1;
}

static ferry_status read_port(const char *name, const char *text, uint16_t *port_out)
{
    unsigned value = 0;
    size_t n = strlen(text);

    if (n == 0 || n > 5 || strspn(text, "0123456789") != n)
        return fy_fail(FERRY_EINVAL, "\"%s\": the port \"%s\" is not a number from 0 to 65535",
                       name, text);
    for (size_t i = 0; i < n; i++)
        value = value * 10 + (unsigned)(text[i] - '0');
    if (value > UINT16_MAX)
        return fy_fail(FERRY_EINVAL, "\"%s\": the port %u is above 65535", name, value);
    *port_out = (uint16_t)value;
    return FERRY_OK;
}

static int is_host_char(unsigned char c)
{
    return c > ' ' && c != 0x7f && !strchr("/[]\"\\", c);
}

ferry_status fy_name_split(const char *name, uint16_t default_port, char *host_out,
                           uint16_t *port_out)
{
    size_t len = strlen(name);
    const char *host = name, *port_text = NULL;
    size_t host_len = len;
    uint16_t port = default_port;
    ferry_status status;

    if (name[0] == '[') {
        const char *end = strchr(name, ']');

        host = name + 1;
        host_len = end ? (size_t)(end - host) : 0;
        if (!end || !is_ipv6(host, host_len) || (end[1] != '\0' && end[1] != ':'))
            return fy_fail(FERRY_EINVAL,
                           "\"%s\": brackets hold an IPv6 address, as in \"[fd00::1]:12001\"",
                           name);
        if (end[1] == ':')
            port_text = end + 2;
    } else if (!is_ipv6(name, len) || strchr(name, '%')) {
        const char *percent = strchr(name, '%');
        const char *colon = NULL;

        if (percent && is_ipv6(name, (size_t)(percent - name)))
            colon = strchr(percent, ':');
        else
            colon = strrchr(name, ':');
        if (colon) {
            host_len = (size_t)(colon - name);
            port_text = colon + 1;
        }
    }
    if (host_len == 0)
        return fy_fail(FERRY_EINVAL, "\"%s\": no host", name);
    if (host_len >= FY_HOST_MAX)
        return fy_fail(FERRY_EINVAL, "a host name of %zu characters: at most %d", host_len,
                       FY_HOST_MAX - 1);
    for (size_t i = 0; i < host_len; i++)
        if (!is_host_char((unsigned char)host[i]))
            return fy_fail(FERRY_EINVAL, "\"%s\": no host name has the character 0x%02x", name,
                           (unsigned char)host[i]);
    if (port_text) {
        status = read_port(name, port_text, &port);
        if (status)
            return status;
    }
    memcpy(host_out, host, host_len);
    host_out[host_len] = '\0';
    *port_out = port;
    return FERRY_OK;
}

ferry_status fy_name_join(const char *host, uint16_t port, char *out, size_t room)
{
    int v6 = strchr(host, ':') != NULL;
    size_t need = strlen(host) + (v6 ? 2 : 0) + (size_t)snprintf(NULL, 0, ":%u", port) + 1;

    if (need > room || need > INT_MAX)
        return fy_fail(FERRY_ERANGE, "the name of host %.64s needs %zu bytes, there are %zu",
                       host, need, room);
    snprintf(out, room, v6 ? "[%s]:%u" : "%s:%u", host, port);
    return FERRY_OK;
}
