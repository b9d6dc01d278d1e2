/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The transport's part of the configuration: text in, checked numbers out. Must not know
 * sockets or what the values do.
 */
#include "tcp.h"

#include <stdlib.h>
#include <string.h>

struct number {
    const char *key;
    uint32_t min, max;
    size_t offset;
};

#define OFF(member) offsetof(struct tcp_config, member)

static const struct number numbers[] = {
    {"port", 0, 65535, OFF(port)},
    {"threads", 0, TCP_MAX_THREADS, OFF(threads)},
    {"spin_us", 0, 10000, OFF(spin_us)},
    {"user_timeout_ms", 0, 3600000, OFF(user_timeout_ms)},
    {"keepalive_count", 0, 127, OFF(keepalive_count)},
};

static const char *const allowed =
    "engine, dialect, port, threads, spin_us, congestion, user_timeout_ms, keepalive_count";

static const struct ferry_kv *find(const struct ferry_kvs *kvs, const char *key)
{
    for (size_t i = 0; kvs != NULL && i < kvs->n; i++)
        if (strcmp(kvs->v[i].key, key) == 0)
            return &kvs->v[i];
    return NULL;
}

static bool copy_text(const struct ferry_kv *kv, char *out, size_t len)
{
    if (kv->val_len >= len || memchr(kv->val, '\0', kv->val_len) != NULL)
        return false;
    if (kv->val_len > 0)
        memcpy(out, kv->val, kv->val_len);
    out[kv->val_len] = '\0';
    return true;
}

bool tcp_kv_text(const struct ferry_kvs *kvs, const char *key, char *out, size_t len)
{
    const struct ferry_kv *kv = find(kvs, key);

    return kv != NULL && copy_text(kv, out, len);
}

static ferry_status parse_number(const struct ferry_host *host, const struct number *number,
                                 const char *text, struct tcp_config *out)
{
    char *end;
    unsigned long v = strtoul(text, &end, 10);

    if (*text < '0' || *text > '9' || *end != '\0' || v < number->min || v > number->max) {
        TCP_LOG(host, FERRY_LOG_ERROR, "tcp: %s is \"%s\", allowed are %u to %u", number->key,
                text, number->min, number->max);
        return FERRY_EINVAL;
    }
    *(uint32_t *)(void *)((char *)out + number->offset) = (uint32_t)v;
    return FERRY_OK;
}

static ferry_status bad_word(const struct ferry_host *host, const char *key, const char *text,
                             const char *words)
{
    TCP_LOG(host, FERRY_LOG_ERROR, "tcp: %s is \"%s\", allowed are %s", key, text, words);
    return FERRY_EINVAL;
}

static ferry_status parse_one(const struct ferry_host *host, const char *key, const char *text,
                              struct tcp_config *out)
{
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (strcmp(key, numbers[i].key) == 0)
            return parse_number(host, &numbers[i], text, out);
    if (strcmp(key, "engine") == 0) {
        if (strcmp(text, "auto") == 0)
            out->engine = TCP_ENGINE_AUTO;
        else if (strcmp(text, "io_uring") == 0)
            out->engine = TCP_ENGINE_IO_URING;
        else if (strcmp(text, "epoll") == 0)
            out->engine = TCP_ENGINE_EPOLL;
        else
            return bad_word(host, key, text, "auto, io_uring, epoll");
        return FERRY_OK;
    }
    if (strcmp(key, "dialect") == 0) {
        if (strcmp(text, "auto") == 0)
            out->dialect = TCP_DIALECT_AUTO;
        else if (strcmp(text, "v2") == 0)
            out->dialect = TCP_DIALECT_V2;
        else
            return bad_word(host, key, text, "auto, v2");
        return FERRY_OK;
    }
    if (strcmp(key, "congestion") == 0) {
        if (text[0] == '\0' || strlen(text) >= sizeof out->congestion)
            return bad_word(host, key, text, "auto, system or an algorithm's name");
        memcpy(out->congestion, text, strlen(text) + 1);
        return FERRY_OK;
    }
    TCP_LOG(host, FERRY_LOG_ERROR, "tcp: unknown key \"%s\", allowed are %s", key, allowed);
    return FERRY_EINVAL;
}

ferry_status tcp_config_parse(const struct ferry_host *host, const struct ferry_kvs *kvs,
                              struct tcp_config *out)
{
    struct tcp_config config = {
        .congestion = "auto", .spin_us = 50, .user_timeout_ms = 10000, .keepalive_count = 5};
    char text[256];

    for (size_t i = 0; kvs != NULL && i < kvs->n; i++) {
        const struct ferry_kv *kv = &kvs->v[i];
        ferry_status status;

        if (strncmp(kv->key, "core.", 5) == 0)
            continue;
        if (!copy_text(kv, text, sizeof text))
            return bad_word(host, kv->key, "...", "texts below 256 bytes");
        status = parse_one(host, kv->key, text, &config);
        if (status != FERRY_OK)
            return status;
    }
    tcp_kv_text(kvs, "core.bind", config.bind, sizeof config.bind);
    tcp_kv_text(kvs, "core.host", config.host, sizeof config.host);
    if (tcp_kv_text(kvs, "core.port", text, sizeof text)) {
        unsigned long port = strtoul(text, NULL, 10);

        config.port_hint = port <= 65535 ? (uint32_t)port : 0;
    }
    *out = config;
    return FERRY_OK;
}
