/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The transport's part of the configuration. Knows names, ranges and defaults only.
 */
#include "rdma.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct number {
    const char *key;
    size_t off;
    uint64_t min, max, start;
    bool wide; /* 64 bits */
};

#define N32(key, member, min, max, start)                                                      \
    {                                                                                          \
        key, offsetof(struct rdma_config, member), min, max, start, false                      \
    }
#define N64(key, member, min, max, start)                                                      \
    {                                                                                          \
        key, offsetof(struct rdma_config, member), min, max, start, true                       \
    }

/* docs/rdma.md has the same table in words. */
static const struct number numbers[] = {
    N32("port", port, 1, 255, 1),
    N32("mtu", mtu, 256, 4096, 4096),
    N32("traffic_class", traffic_class, 0, 255, 0),
    N32("service_level", service_level, 0, 15, 0),
    N32("pkey_index", pkey_index, 0, 65535, 0),
    N32("qp_per_peer", qps, 1, RDMA_MAX_QPS, 0),
    N32("max_wr", max_wr, 4, 16384, 256),
    N32("max_inline", max_inline, 0, 1024, 128),
    N32("max_cqe", max_cqe, 16, 4194304, 8192),
    N32("retry_count", retry_count, 1, 127, 9),
    N32("qp_retry", qp_retry, 0, 7, 6),
    N32("qp_timeout", qp_timeout, 1, 31, 14),
    N32("relaxed_ordering", relaxed_ordering, 0, 2, 1),
    N64("slice", slice, 4096, UINT64_C(1) << 30, UINT64_C(1) << 20),
    N64("max_mr_len", max_mr_len, 0, UINT64_C(1) << 60, 0),
    N32("stall_ms", stall_ms, 100, 600000, 10000),
};
#define N_NUMBERS (sizeof(numbers) / sizeof(numbers[0]))

static void set(struct rdma_config *config, const struct number *number, uint64_t value)
{
    char *at = (char *)config + number->off;
    uint32_t narrow = (uint32_t)value;

    if (number->wide)
        memcpy(at, &value, sizeof(value));
    else
        memcpy(at, &narrow, sizeof(narrow));
}

static bool parse(const char *text, uint64_t max, uint64_t *value_out)
{
    char *end;
    unsigned long long v;

    if (text[0] < '0' || text[0] > '9')
        return false;
    errno = 0;
    v = strtoull(text, &end, 0);
    if (errno || *end || v > max)
        return false;
    *value_out = v;
    return true;
}

static ferry_status bad(const struct ferry_host *host, const char *key, const char *text,
                        const char *allowed)
{
    RDMA_LOG(host, FERRY_LOG_ERROR, "%s is \"%.100s\": %s", key, text, allowed);
    return FERRY_EINVAL;
}

static ferry_status read_number(const struct ferry_host *host, const struct number *number,
                                const char *text, struct rdma_config *config)
{
    char allowed[96];
    uint64_t value;

    snprintf(allowed, sizeof(allowed), "a number from %llu to %llu is allowed",
             (unsigned long long)number->min, (unsigned long long)number->max);
    if (!parse(text, number->max, &value) || value < number->min)
        return bad(host, number->key, text, allowed);
    set(config, number, value);
    return FERRY_OK;
}

static ferry_status read_text(const struct ferry_host *host, const char *key, const char *text,
                              char *out, size_t room)
{
    if (strlen(text) >= room)
        return bad(host, key, text, "it is too long");
    strcpy(out, text);
    return FERRY_OK;
}

static ferry_status read_one(const struct ferry_host *host, const char *key, const char *text,
                             struct rdma_config *config)
{
    uint64_t value;

    for (size_t i = 0; i < N_NUMBERS; i++)
        if (strcmp(key, numbers[i].key) == 0)
            return read_number(host, &numbers[i], text, config);
    if (strcmp(key, "gid_index") == 0) {
        if (!parse(text, 255, &value))
            return bad(host, key, text, "a number from 0 to 255 is allowed");
        config->gid_index = (int32_t)value;
        return FERRY_OK;
    }
    if (strcmp(key, "topology") == 0)
        return read_text(host, key, text, config->topology, sizeof(config->topology));
    if (strcmp(key, "core.devices") == 0)
        return read_text(host, key, text, config->devices, sizeof(config->devices));
    if (strcmp(key, "core.name") == 0)
        return read_text(host, key, text, config->name, sizeof(config->name));
    if (strcmp(key, "max_sge") == 0 || strncmp(key, "core.", 5) == 0)
        return FERRY_OK; /* Mooncake's and the core's, of no use here */
    return bad(host, key, text, "there is no such member");
}

ferry_status rdma_config_read(const struct ferry_host *host, const struct ferry_kvs *kvs,
                              struct rdma_config *config_out)
{
    struct rdma_config config = {.gid_index = -1};
    char text[1024];

    for (size_t i = 0; i < N_NUMBERS; i++)
        set(&config, &numbers[i], numbers[i].start);
    for (size_t i = 0; kvs && i < kvs->n; i++) {
        const struct ferry_kv *kv = &kvs->v[i];
        ferry_status status;
        if (kv->val_len >= sizeof(text) || memchr(kv->val, '\0', kv->val_len))
            return bad(host, kv->key, "...", "it is too long, or no text");
        memcpy(text, kv->val, kv->val_len);
        text[kv->val_len] = '\0';
        status = read_one(host, kv->key, text, &config);
        if (status != FERRY_OK)
            return status;
    }
    *config_out = config;
    return FERRY_OK;
}
