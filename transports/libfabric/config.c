/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The transport's part of the configuration. Knows names, ranges and defaults only.
 */
#include "fab.h"

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

#define N32(key, min, max, start)                                                              \
    {                                                                                          \
#key, offsetof(struct fab_config, key), min, max, start, false                         \
    }
#define N64(key, min, max, start)                                                              \
    {                                                                                          \
#key, offsetof(struct fab_config, key), min, max, start, true                          \
    }

/* docs/libfabric.md has the same table in words. */
static const struct number numbers[] = {
    N64(slice, 4096, UINT64_C(1) << 30, UINT64_C(1) << 20),
    N64(window, 4096, UINT64_C(1) << 34, UINT64_C(4) << 20),
    N32(stall_ms, 100, 600000, 1000),
    N32(cancel_ms, 10, 600000, 500),
};
#define N_NUMBERS (sizeof(numbers) / sizeof(numbers[0]))

static const struct text {
    const char *key;
    size_t off, room;
} texts[] = {
    {"provider", offsetof(struct fab_config, provider),
     sizeof(((struct fab_config *)0)->provider)},
    {"core.devices", offsetof(struct fab_config, devices),
     sizeof(((struct fab_config *)0)->devices)},
    {"core.bind", offsetof(struct fab_config, bind), sizeof(((struct fab_config *)0)->bind)},
};
#define N_TEXTS (sizeof(texts) / sizeof(texts[0]))

static ferry_status bad(const struct ferry_host *host, const char *key, const char *text,
                        const char *allowed)
{
    FAB_LOG(host, FERRY_LOG_ERROR, "%s is \"%.100s\": %s", key, text, allowed);
    return FERRY_EINVAL;
}

static void set(struct fab_config *config, const struct number *number, uint64_t value)
{
    char *at = (char *)config + number->off;
    uint32_t narrow = (uint32_t)value;

    if (number->wide)
        memcpy(at, &value, sizeof(value));
    else
        memcpy(at, &narrow, sizeof(narrow));
}

static ferry_status read_one(const struct ferry_host *host, const char *key, const char *text,
                             struct fab_config *config)
{
    for (size_t i = 0; i < N_NUMBERS; i++) {
        char allowed[96], *end;
        unsigned long long value;
        if (strcmp(key, numbers[i].key) != 0)
            continue;
        errno = 0;
        value = strtoull(text, &end, 0);
        if (text[0] >= '0' && text[0] <= '9' && !errno && !*end && value >= numbers[i].min &&
            value <= numbers[i].max) {
            set(config, &numbers[i], value);
            return FERRY_OK;
        }
        snprintf(allowed, sizeof(allowed), "a number from %llu to %llu is allowed",
                 (unsigned long long)numbers[i].min, (unsigned long long)numbers[i].max);
        return bad(host, key, text, allowed);
    }
    for (size_t i = 0; i < N_TEXTS; i++) {
        if (strcmp(key, texts[i].key) != 0)
            continue;
        if (strlen(text) >= texts[i].room)
            return bad(host, key, text, "it is too long");
        strcpy((char *)config + texts[i].off, text);
        return FERRY_OK;
    }
    if (strncmp(key, "core.", 5) == 0)
        return FERRY_OK;
    return bad(
        host, key, text,
        "there is no such member; known are provider, slice, window, stall_ms, cancel_ms");
}

ferry_status fab_config_read(const struct ferry_host *host, const struct ferry_kvs *kvs,
                             struct fab_config *config_out)
{
    struct fab_config config = {0};
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
