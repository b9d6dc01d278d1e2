/* SPDX-License-Identifier: Apache-2.0 */
/* The fault transport's keys and its random numbers. Knows nothing of transfers. */
#include "fault.h"

#include <string.h>

static uint64_t mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

uint64_t fault_random(const struct fault_config *cfg, uint32_t stream, uint64_t number)
{
    return mix(mix(cfg->seed + 0x9e3779b97f4a7c15u * (stream + 1)) +
               0x9e3779b97f4a7c15u * (number + 1));
}

static bool parse(const struct ferry_kv *kv, uint64_t max, uint64_t *out)
{
    uint64_t value = 0;
    const char *p = kv->val;
    if (kv->val_len == 0 || kv->val_len > 19)
        return false;
    for (uint32_t i = 0; i < kv->val_len; i++) {
        if (p[i] < '0' || p[i] > '9')
            return false;
        value = value * 10 + (uint64_t)(p[i] - '0');
    }
    *out = value;
    return value <= max;
}

ferry_status fault_configure(const struct ferry_host *host, const struct ferry_kvs *config,
                             struct fault_config *cfg, const struct ferry_kv **inner_out,
                             struct ferry_kv *inner_v, size_t *n_out)
{
    const struct {
        const char *key;
        uint32_t *value;
    } mille[] = {
        {"refuse", &cfg->refuse},     {"delay", &cfg->delay},
        {"fail", &cfg->fail},         {"truncate", &cfg->truncate},
        {"kill", &cfg->kill},         {"reorder", &cfg->reorder},
        {"never", &cfg->never},       {"open_fail", &cfg->open_fail},
        {"reg_fail", &cfg->reg_fail}, {"attach_fail", &cfg->attach_fail},
        {"stale", &cfg->stale},
    };
    const struct ferry_kv *inner = NULL;
    size_t n = 0;
    *cfg = (struct fault_config){.seed = 1, .delay_us = 1000};
    for (size_t i = 0; config && i < config->n; i++) {
        const struct ferry_kv *kv = &config->v[i];
        uint64_t value = 0;
        bool good = true, known = true;
        if (!strncmp(kv->key, "core.", 5)) {
            inner_v[n++] = *kv;
        } else if (!strncmp(kv->key, "inner.", 6)) {
            inner_v[n] = *kv;
            inner_v[n++].key = kv->key + 6;
        } else if (!strcmp(kv->key, "inner")) {
            inner = kv;
        } else if (!strcmp(kv->key, "seed")) {
            good = parse(kv, INT64_MAX, &cfg->seed);
        } else if (!strcmp(kv->key, "delay_us")) {
            good = parse(kv, UINT64_C(60000000), &cfg->delay_us);
        } else if (!strcmp(kv->key, "attach_us")) {
            good = parse(kv, UINT64_C(60000000), &cfg->attach_us);
        } else if (!strcmp(kv->key, "close_us")) {
            good = parse(kv, UINT64_C(60000000), &cfg->close_us);
        } else {
            known = false;
            for (size_t j = 0; j < sizeof(mille) / sizeof(mille[0]) && !known; j++) {
                if (strcmp(kv->key, mille[j].key) != 0)
                    continue;
                known = true;
                good = parse(kv, 1000, &value);
                *mille[j].value = (uint32_t)value;
            }
        }
        if (!known) {
            FAULT_LOG(host, FERRY_LOG_ERROR,
                      "fault: unknown key \"%s\"; the wrapped transport's keys are written "
                      "\"inner.%s\"",
                      kv->key, kv->key);
            return FERRY_EINVAL;
        }
        if (!good) {
            FAULT_LOG(host, FERRY_LOG_ERROR, "fault: %s: \"%.*s\" is not a number in range",
                      kv->key, (int)kv->val_len, (const char *)kv->val);
            return FERRY_EINVAL;
        }
    }
    if (!inner) {
        FAULT_LOG(host, FERRY_LOG_INFO, "fault: \"inner\" must name the transport to wrap");
        return FERRY_EINVAL;
    }
    if (cfg->never + cfg->fail + cfg->truncate + cfg->kill > 1000) {
        FAULT_LOG(host, FERRY_LOG_ERROR,
                  "fault: never, fail, truncate and kill are more than 1000 together");
        return FERRY_EINVAL;
    }
    *inner_out = inner;
    *n_out = n;
    return FERRY_OK;
}
