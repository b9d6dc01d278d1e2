/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The transport's part of the configuration: text in, checked numbers out. Must not know
 * sockets or what the values do.
 */
#include "../common/members.h"
#include "tcp.h"

#include <string.h>

static const struct ft_member members[] = {
    FT_WORD("engine", struct tcp_config, engine, "auto, io_uring, epoll"), /* as in the enum */
    FT_WORD("dialect", struct tcp_config, dialect, "auto, v2"),
    FT_NUMBER("port", struct tcp_config, port, 0, 65535, 0),
    FT_NUMBER("threads", struct tcp_config, threads, 0, TCP_MAX_THREADS, 0),
    FT_NUMBER("spin_us", struct tcp_config, spin_us, 0, 10000, 50),
    FT_TEXT("congestion", struct tcp_config, congestion, 1, "auto"),
    FT_NUMBER("user_timeout_ms", struct tcp_config, user_timeout_ms, 0, 3600000, 10000),
    FT_NUMBER("keepalive_count", struct tcp_config, keepalive_count, 0, 127, 5),
    FT_TEXT("core.bind", struct tcp_config, bind, 0, ""),
    FT_TEXT("core.host", struct tcp_config, host, 0, ""),
    FT_NUMBER("core.port", struct tcp_config, port_hint, 0, 65535, 0),
};

bool tcp_kv_text(const struct ferry_kvs *kvs, const char *key, char *out, size_t len)
{
    for (size_t i = 0; kvs != NULL && i < kvs->n; i++)
        if (strcmp(kvs->v[i].key, key) == 0)
            return ft_text(&kvs->v[i], out, len);
    return false;
}

ferry_status tcp_config_parse(const struct ferry_host *host, const struct ferry_kvs *kvs,
                              struct tcp_config *out)
{
    struct tcp_config config;
    ferry_status status =
        ft_members_read(host, kvs, members, sizeof members / sizeof *members, &config);

    if (status == FERRY_OK)
        *out = config;
    return status;
}
