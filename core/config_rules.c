/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the values of mooncake.json mean: names with ports, the forms of metadata_server, lists.
 * Each rule takes one value and its place. Names no transport and no metadata service.
 */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "config_parts.h"
#include "error.h"
#include "util/buf.h"

#define EQUAL_URLS_APART 100 /* as Mooncake's clients do it */
#define NODES_APART      50  /* what Mooncake's documentation asks for */

const char fy_rule_p2p[] = "P2PHANDSHAKE";

/* ---- "host:port" ---- */

static int has_space(const char *text)
{
    for (; *text; text++)
        if (isspace((unsigned char)*text) || (unsigned char)*text < 0x20)
            return 1;
    return 0;
}

/* Port at `text`, which must be nothing else; 0 = none. */
static unsigned port_of(const char *text)
{
    unsigned long port;
    char *end;

    if (!isdigit((unsigned char)*text) || strlen(text) > 5)
        return 0;
    port = strtoul(text, &end, 10);
    return *end || port > 65535 ? 0 : (unsigned)port;
}

/* Length of the host in "host:port" or "[v6]:port", brackets included; 0 = not that form. */
static size_t host_len(const char *url, unsigned *port)
{
    const char *colon = strrchr(url, ':');
    size_t len;

    if (!colon || colon == url)
        return 0;
    len = (size_t)(colon - url);
    if (url[0] == '[' ? url[len - 1] != ']' || len < 4 : memchr(url, ':', len) != NULL)
        return 0;
    if (len > 255 || has_space(url) || strpbrk(url, "/@,;?#\"\\"))
        return 0;
    *port = port_of(colon + 1);
    return *port ? len : 0;
}

ferry_status fy_rule_url(const struct fy_place *place, const char *member, const char *value,
                         char **out)
{
    const char *first = strchr(value, ':');
    unsigned port;

    if (host_len(value, &port))
        return fy_set_text(out, value);
    if (strstr(value, "://"))
        return fy_fail_at(place,
                          "\"%s\" is \"%.200s\"; allowed is \"host:port\", with no scheme",
                          member, value);
    if (has_space(value))
        return fy_fail_at(place, "\"%s\" is \"%.200s\"; there are spaces in it", member, value);
    if (strpbrk(value, ",;"))
        return fy_fail_at(place, "\"%s\" is \"%.200s\"; it is one node, \"host:port\"", member,
                          value);
    if (first && value[0] != '[' && strchr(first + 1, ':'))
        return fy_fail_at(place,
                          "\"%s\" is \"%.200s\"; an IPv6 address stands in brackets: "
                          "\"[2001:db8::1]:13003\"",
                          member, value);
    if (first && isdigit((unsigned char)value[strlen(value) - 1]))
        return fy_fail_at(place, "\"%s\" is \"%.200s\"; a port is from 1 to 65535", member,
                          value);
    return fy_fail_at(place, "\"%s\" is \"%.200s\"; allowed is \"host:port\"", member, value);
}

ferry_status fy_rule_ports(const struct fy_place *place, const struct fy_log *log,
                           struct fy_config *config)
{
    unsigned prefill, decode, apart;
    size_t host;
    char url[300];

    if (!config->prefill_url || !config->decode_url)
        return FERRY_OK;
    host = host_len(config->prefill_url, &prefill);
    if (host != host_len(config->decode_url, &decode) ||
        strncasecmp(config->prefill_url, config->decode_url, host) != 0)
        return FERRY_OK;
    if (prefill == decode) {
        if (decode + EQUAL_URLS_APART > 65535)
            return fy_fail_at(place,
                              "prefill_url and decode_url are equal, and port %u + %d, which "
                              "the decode node would take, is above 65535",
                              decode, EQUAL_URLS_APART);
        snprintf(url, sizeof(url), "%.*s:%u", (int)host, config->decode_url,
                 decode + EQUAL_URLS_APART);
        fy_say_at(log, FERRY_LOG_INFO, place,
                  "prefill_url and decode_url are equal: the decode node takes %s", url);
        return fy_set_text(&config->decode_url, url);
    }
    apart = prefill > decode ? prefill - decode : decode - prefill;
    if (apart < NODES_APART)
        fy_say_at(log, FERRY_LOG_WARN, place,
                  "prefill_url and decode_url are %u apart on one host; keep them %d apart: "
                  "nodes of old Mooncake listen on the port after theirs as well, and its "
                  "clients count upward from it for each rank",
                  apart, NODES_APART);
    return FERRY_OK;
}

/* ---- metadata_server ---- */

static size_t scheme_len(const char *url)
{
    const char *end = strstr(url, "://");

    if (!end || !isalpha((unsigned char)*url))
        return 0;
    for (const char *c = url; c < end; c++)
        if (!isalnum((unsigned char)*c) && !strchr("+-.", *c))
            return 0;
    return (size_t)(end - url);
}

/* "host:port" or several with commas or semicolons. */
static int is_bare(const char *text)
{
    while (*text) {
        size_t len = strcspn(text, ",;");
        char one[300];
        unsigned port;

        if (len == 0 || len >= sizeof(one))
            return 0;
        memcpy(one, text, len);
        one[len] = 0;
        if (!host_len(one, &port))
            return 0;
        text += len;
        if (*text && !*++text)
            return 0;
    }
    return 1;
}

static ferry_status join_url(const struct fy_place *place, const char *scheme, size_t len,
                             const char *rest, char **out)
{
    struct fy_buf url;
    ferry_status status;

    fy_buf_init(&url, 0);
    status = fy_buf_append(&url, scheme, len);
    for (size_t i = 0; i < url.len; i++)
        url.data[i] = (char)tolower((unsigned char)url.data[i]);
    if (status == FERRY_OK)
        status = fy_buf_printf(&url, "://%s", rest);
    if (status == FERRY_OK)
        status = fy_set_text(out, url.data);
    else
        status = fy_fail(FERRY_ENOMEM, "%s: out of memory", place->name);
    fy_buf_fini(&url);
    return status;
}

ferry_status fy_rule_metadata(const struct fy_place *place, const char *server,
                              const struct fy_place *backend_place, const char *backend,
                              const struct fy_log *log, char **out)
{
    char shown[256];
    size_t len;

    if (strcmp(server, fy_rule_p2p) == 0) {
        if (backend)
            fy_say_at(log, FERRY_LOG_WARN, backend_place,
                      "\"metadata_backend\" is ignored beside %s", fy_rule_p2p);
        return fy_set_text(out, server);
    }
    fy_config_hide(server, shown, sizeof(shown));
    if (fy_word_is_near(server, fy_rule_p2p) || strcasecmp(server, "p2p") == 0)
        return fy_fail_at(place, "\"metadata_server\" is \"%s\"; did you mean \"%s\"?", shown,
                          fy_rule_p2p);
    if (has_space(server))
        return fy_fail_at(place, "\"metadata_server\" is \"%s\"; there are spaces in it",
                          shown);
    len = scheme_len(server);
    if (len) {
        if (!server[len + 3])
            return fy_fail_at(place, "\"metadata_server\" is \"%s\"; a host is missing", shown);
        if (backend && strncasecmp(server, backend, len) != 0)
            fy_say_at(log, FERRY_LOG_WARN, backend_place,
                      "\"metadata_backend\" is ignored: \"metadata_server\" says %.*s itself",
                      (int)len, server);
        return join_url(place, server, len, server + len + 3, out);
    }
    if (!is_bare(server))
        return fy_fail_at(place,
                          "\"metadata_server\" is \"%s\"; allowed are \"host:port\", "
                          "\"SCHEME://host:port\" and \"%s\"",
                          shown, fy_rule_p2p);
    if (!backend)
        backend = fy_env_bare_scheme;
    for (const char *c = backend; *c; c++)
        if (!isalnum((unsigned char)*c))
            return fy_fail_at(backend_place,
                              "\"metadata_backend\" is \"%.60s\"; allowed is the scheme "
                              "of a metadata service, as in \"SCHEME://host:port\"",
                              backend);
    return join_url(place, backend, strlen(backend), server, out);
}

/* ---- lists with commas ---- */

/* The elements joined again, trimmed, each checked. An empty list leaves `out` alone. */
static ferry_status split(const struct fy_place *place, const char *member, const char *value,
                          const struct fy_log *log,
                          ferry_status (*check)(const struct fy_place *, const char *element),
                          char **out)
{
    ferry_status status = FERRY_OK;
    int trimmed = 0, n = 0;
    struct fy_buf list;
    const char *at = value;
    char element[128];

    fy_buf_init(&list, 0);
    for (;; at++) {
        size_t len = strcspn(at, ","), skip = strspn(at, " \t");
        const char *next = at + len;

        skip = skip > len ? len : skip;
        trimmed |= skip > 0;
        at += skip;
        len -= skip;
        for (; len && (at[len - 1] == ' ' || at[len - 1] == '\t'); len--)
            trimmed = 1;
        if (len >= sizeof(element)) {
            status = fy_fail_at(place, "\"%s\": a name of %zu characters", member, len);
            break;
        }
        memcpy(element, at, len);
        element[len] = 0;
        if (len == 0 && (n || *next)) {
            status = fy_fail_at(place, "\"%s\" is \"%.200s\"; a name is missing at a comma",
                                member, value);
            break;
        }
        for (const char *other = list.data; len && other && status == FERRY_OK;) {
            size_t other_len = strcspn(other, ",");

            if (other_len == len && memcmp(other, element, len) == 0)
                status = fy_fail_at(place, "\"%s\" is \"%.200s\"; \"%s\" is there twice",
                                    member, value, element);
            other = other[other_len] ? other + other_len + 1 : NULL;
        }
        if (status == FERRY_OK && len)
            status = check(place, element);
        if (status == FERRY_OK && len)
            status = fy_buf_printf(&list, "%s%s", n ? "," : "", element);
        n++;
        at = next;
        if (status != FERRY_OK || !*at)
            break;
    }
    if (status == FERRY_OK && trimmed)
        fy_say_at(log, FERRY_LOG_WARN, place,
                  "\"%s\" has spaces around its names, which Mooncake would take for part of "
                  "them; they are left out here",
                  member);
    if (status == FERRY_OK && list.len)
        status = fy_set_text(out, list.data);
    fy_buf_fini(&list);
    return status;
}

static ferry_status check_transport(const struct fy_place *place, const char *name)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyz0123456789_";
    char lower[32] = "";

    for (size_t i = 0; name[i] && i < sizeof(lower) - 1; i++)
        lower[i] = (char)tolower((unsigned char)name[i]);

    if (strcasecmp(name, "auto") == 0)
        return fy_fail_at(
            place, "\"protocol\" is \"%s\"; leave the member out for the automatic choice",
            name);
    if (strcmp(lower, name) != 0 && !lower[strspn(lower, allowed)])
        return fy_fail_at(place, "\"protocol\" has \"%s\"; did you mean \"%s\"?", name, lower);
    if (strcmp(lower, name) != 0 || name[strspn(name, allowed)])
        return fy_fail_at(place,
                          "\"protocol\": \"%s\" is no transport's name; those are lower-case "
                          "letters and digits",
                          name);
    return FERRY_OK;
}

static ferry_status check_device(const struct fy_place *place, const char *name)
{
    if (has_space(name) || strpbrk(name, "/@;:\"\\"))
        return fy_fail_at(place,
                          "\"device_name\": \"%s\" is no device's name; several have commas "
                          "between",
                          name);
    return FERRY_OK;
}

ferry_status fy_rule_protocol(const struct fy_place *place, const char *value,
                              const struct fy_log *log, char **out)
{
    return split(place, "protocol", value, log, check_transport, out);
}

ferry_status fy_rule_devices(const struct fy_place *place, const char *value,
                             const struct fy_log *log, char **out)
{
    return split(place, "device_name", value, log, check_device, out);
}
