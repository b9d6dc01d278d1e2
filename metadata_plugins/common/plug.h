/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FM_PLUG_H
#define FM_PLUG_H

/*
 * What every metadata plugin needs and the ABI does not give: log lines, its configuration
 * read and checked, the clock. Compiled into each; no state.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ferry/metadata_plugin.h"

#define FM_LOG(host, level, ...)                                                               \
    do {                                                                                       \
        if ((int)(level) <= __atomic_load_n((host)->log_level, __ATOMIC_RELAXED))              \
            (host)->log((host), (level), __FILE__, __LINE__, __VA_ARGS__);                     \
    } while (0)

static inline uint64_t fm_now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* For waits on conditions on CLOCK_MONOTONIC. */
static inline struct timespec fm_timespec(uint64_t at_ms)
{
    return (struct timespec){.tv_sec = (time_t)(at_ms / 1000),
                             .tv_nsec = (long)(at_ms % 1000) * 1000000};
}

static inline void fm_cond_init(pthread_cond_t *cond)
{
    pthread_condattr_t attr;

    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(cond, &attr);
    pthread_condattr_destroy(&attr);
}

/* As pthread_create, with a name (15 characters at most); takes no signals: they are the
 * application's. */
static inline int fm_thread_start(pthread_t *thread_out, const char *name,
                                  void *(*fn)(void *arg), void *arg)
{
    sigset_t all, old;
    int rc;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    rc = pthread_create(thread_out, NULL, fn, arg);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (!rc)
        pthread_setname_np(*thread_out, name);
    return rc;
}

static inline const struct ferry_kv *fm_config_find(const struct ferry_kvs *config,
                                                    const char *key)
{
    for (size_t i = 0; config && i < config->n; i++) {
        if (!strcmp(config->v[i].key, key))
            return &config->v[i];
    }
    return NULL;
}

/* FERRY_EINVAL with one ERROR line for a key that is not in `known` (NULL-terminated) and does
 * not begin with "core.". */
static inline ferry_status fm_config_check(const struct ferry_host *host,
                                           const struct ferry_kvs *config, const char *scheme,
                                           const char *const *known)
{
    for (size_t i = 0; config && i < config->n; i++) {
        const char *const *name = known;

        if (!strncmp(config->v[i].key, "core.", 5))
            continue;
        while (*name && strcmp(*name, config->v[i].key) != 0)
            name++;
        if (!*name) {
            FM_LOG(host, FERRY_LOG_ERROR, "metadata store %s has no setting \"%s\"", scheme,
                   config->v[i].key);
            return FERRY_EINVAL;
        }
    }
    return FERRY_OK;
}

/* A copy of the text, the caller's (free); *out is NULL where the key is absent or empty. */
static inline ferry_status fm_config_text(const struct ferry_kvs *config, const char *key,
                                          char **out)
{
    const struct ferry_kv *kv = fm_config_find(config, key);

    *out = NULL;
    if (!kv || !kv->val_len)
        return FERRY_OK;
    *out = strndup(kv->val, kv->val_len);
    return *out ? FERRY_OK : FERRY_ENOMEM;
}

/* A number of [min, max]; *out is left alone where the key is absent. */
static inline ferry_status fm_config_u32(const struct ferry_host *host,
                                         const struct ferry_kvs *config, const char *key,
                                         uint32_t min, uint32_t max, uint32_t *out)
{
    const struct ferry_kv *kv = fm_config_find(config, key);
    char text[24] = "";
    char *end = text;
    unsigned long long n = 0;

    if (!kv)
        return FERRY_OK;
    if (kv->val_len && kv->val_len < sizeof(text)) {
        memcpy(text, kv->val, kv->val_len);
        n = strtoull(text, &end, 10);
    }
    if (text[0] < '0' || text[0] > '9' || *end || n < min || n > max) {
        FM_LOG(host, FERRY_LOG_ERROR, "metadata setting %s: \"%s\" is not a number of %u to %u",
               key, text, min, max);
        return FERRY_EINVAL;
    }
    *out = (uint32_t)n;
    return FERRY_OK;
}

/* "true", "false", "1", "0"; *out is left alone where the key is absent. */
static inline ferry_status fm_config_bool(const struct ferry_host *host,
                                          const struct ferry_kvs *config, const char *key,
                                          int *out)
{
    const struct ferry_kv *kv = fm_config_find(config, key);
    char text[8] = "";

    if (!kv)
        return FERRY_OK;
    if (kv->val_len < sizeof(text))
        memcpy(text, kv->val, kv->val_len);
    if (!strcmp(text, "true") || !strcmp(text, "1")) {
        *out = 1;
    } else if (!strcmp(text, "false") || !strcmp(text, "0")) {
        *out = 0;
    } else {
        FM_LOG(host, FERRY_LOG_ERROR, "metadata setting %s: neither true nor false", key);
        return FERRY_EINVAL;
    }
    return FERRY_OK;
}

#endif /* FM_PLUG_H */
