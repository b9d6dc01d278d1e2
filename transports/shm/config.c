/* SPDX-License-Identifier: Apache-2.0 */
/* The transport's part of the configuration: text in, checked values out. */
#include <string.h>

#include "shm.h"

static bool is(const struct ferry_kv *kv, const char *text)
{
    return kv->val_len == strlen(text) && !memcmp(kv->val, text, kv->val_len);
}

static bool number(const struct ferry_kv *kv, uint64_t min, uint64_t max, uint64_t *out)
{
    uint64_t value = 0;
    const char *p = kv->val;

    if (kv->val_len == 0 || kv->val_len > 18)
        return false;
    for (uint32_t i = 0; i < kv->val_len; i++) {
        if (p[i] < '0' || p[i] > '9')
            return false;
        value = value * 10 + (uint64_t)(p[i] - '0');
    }
    *out = value;
    return value >= min && value <= max;
}

static const char *set(const struct ferry_kv *kv, struct shm_config *config)
{
    uint64_t value;

    if (!strcmp(kv->key, "mode")) {
        if (is(kv, "auto"))
            config->mode = SHM_MODE_AUTO;
        else if (is(kv, "cma"))
            config->mode = SHM_MODE_CMA;
        else if (is(kv, "map"))
            config->mode = SHM_MODE_MAP;
        else
            return "auto, cma, map";
    } else if (!strcmp(kv->key, "depth")) {
        if (!number(kv, 1, SHM_MAX_DEPTH, &value))
            return "1 to 65536";
        config->depth = (uint32_t)value;
    } else if (!strcmp(kv->key, "poll_bytes")) {
        if (!number(kv, 1, UINT64_C(1) << 30, &config->poll_bytes))
            return "1 to 1073741824";
    } else if (!strcmp(kv->key, "copy_threads")) {
        if (!number(kv, 0, SHM_COPY_THREADS, &value))
            return "0 to 3";
        config->copy_threads = (uint32_t)value;
    } else if (!strcmp(kv->key, "any_tracer")) {
        if (is(kv, "true") || is(kv, "1"))
            config->any_tracer = true;
        else if (is(kv, "false") || is(kv, "0"))
            config->any_tracer = false;
        else
            return "true, false";
    } else {
        return "";
    }
    return NULL;
}

ferry_status shm_config_parse(const struct ferry_host *host, const struct ferry_kvs *kvs,
                              struct shm_config *config_out)
{
    struct shm_config config = {
        .depth = 1024, .poll_bytes = UINT64_C(4) << 20, .copy_threads = SHM_COPY_THREADS};

    for (size_t i = 0; kvs && i < kvs->n; i++) {
        const struct ferry_kv *kv = &kvs->v[i];
        const char *allowed;

        if (!strncmp(kv->key, "core.", 5))
            continue;
        allowed = set(kv, &config);
        if (!allowed)
            continue;
        if (!allowed[0])
            SHM_LOG(
                host, FERRY_LOG_ERROR,
                "unknown key \"%s\", allowed are mode, depth, poll_bytes, copy_threads, any_tracer",
                kv->key);
        else
            SHM_LOG(host, FERRY_LOG_ERROR, "%s is \"%.*s\", allowed are %s", kv->key,
                    (int)kv->val_len, (const char *)kv->val, allowed);
        return FERRY_EINVAL;
    }
    *config_out = config;
    return FERRY_OK;
}
