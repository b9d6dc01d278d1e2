/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FT_PLUG_H
#define FT_PLUG_H

/*
 * What every transport needs and the ABI does not give: log lines, the clock, a name for itself
 * that no other has. Compiled into each; no state.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "ferry/transport_plugin.h"

#define FT_LOG(host_, level_, ...)                                                             \
    do {                                                                                       \
        if ((int)(level_) <= __atomic_load_n((host_)->log_level, __ATOMIC_RELAXED))            \
            (host_)->log((host_), (level_), __FILE__, __LINE__, __VA_ARGS__);                  \
    } while (0)

/* Monotonic. */
static inline uint64_t ft_now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * UINT64_C(1000000000) + (uint64_t)ts.tv_nsec;
}

/*
 * Hands out a struct of the ABI, whose first member is its size: as much of `own` as both sides
 * know, and how much that is. FERRY_EINVAL: there is no room even for the size.
 */
static inline ferry_status ft_give(void *to, const void *own, uint32_t own_len)
{
    uint32_t room, len;

    memcpy(&room, to, sizeof(room));
    len = room < own_len ? room : own_len;
    if (len < sizeof(len))
        return FERRY_EINVAL;
    memcpy(to, own, len);
    memcpy(to, &len, sizeof(len));
    return FERRY_OK;
}

/* A value as text, with a NUL; false: it is longer than the room, or no text. */
static inline bool ft_text(const struct ferry_kv *kv, char *out, size_t room)
{
    if (kv->val_len >= room || (kv->val_len && memchr(kv->val, '\0', kv->val_len)))
        return false;
    if (kv->val_len)
        memcpy(out, kv->val, kv->val_len);
    out[kv->val_len] = '\0';
    return true;
}

#define FT_INSTANCE_MAX 33u /* bytes, with the NUL */

/* 128 random bits in hexadecimal; false: the kernel gave none, see errno. */
static inline bool ft_instance(char out[FT_INSTANCE_MAX])
{
    uint8_t raw[16];

    if (getrandom(raw, sizeof(raw), 0) != (ssize_t)sizeof(raw))
        return false;
    for (size_t i = 0; i < sizeof(raw); i++)
        snprintf(out + i * 2, 3, "%02x", raw[i]);
    return true;
}

#endif /* FT_PLUG_H */
