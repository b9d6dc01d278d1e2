/* SPDX-License-Identifier: Apache-2.0 */
/* Opening, closing, what we can do, and memory. All of it control calls: they may block. */
#include "sample.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define DESC_SIZE_1_0 (offsetof(struct ferry_mem_desc, reserved) + sizeof(uint32_t))

/* Values of text keys are not NUL-terminated. */
static bool number_of(const struct ferry_kv *kv, uint32_t max, uint32_t *out)
{
    const char *text = kv->val;
    uint64_t value = 0;

    for (uint32_t i = 0; i < kv->val_len; i++) {
        if (text[i] < '0' || text[i] > '9' || value > max)
            return false;
        value = value * 10 + (uint64_t)(text[i] - '0');
    }
    if (!kv->val_len || !value || value > max)
        return false;
    *out = (uint32_t)value;
    return true;
}

static ferry_status configure(struct ferry_tp *tp, const struct ferry_kvs *config)
{
    for (size_t i = 0; i < config->n; i++) {
        const struct ferry_kv *kv = &config->v[i];

        if (!strncmp(kv->key, "core.", 5))
            continue; /* the core gives these to every transport */
        if (strcmp(kv->key, "depth") != 0) {
            SAMPLE_LOG(tp->host, FERRY_LOG_ERROR, "sample: unknown key \"%s\"; known is depth",
                       kv->key);
            return FERRY_EINVAL;
        }
        if (!number_of(kv, MAX_DEPTH, &tp->depth)) {
            SAMPLE_LOG(tp->host, FERRY_LOG_ERROR, "sample: depth: \"%.*s\" is not 1 to %u",
                       (int)kv->val_len, (const char *)kv->val, MAX_DEPTH);
            return FERRY_EINVAL;
        }
    }
    return FERRY_OK;
}

ferry_status sample_open(const struct ferry_host *host, const struct ferry_kvs *config,
                         struct ferry_tp **tp_out)
{
    struct ferry_tp *tp = calloc(1, sizeof(*tp));
    uint64_t random[2];
    ferry_status status;

    if (!tp)
        return FERRY_ENOMEM;
    tp->host = host;
    tp->depth = DEFAULT_DEPTH;
    status = configure(tp, config);
    if (!status && getrandom(random, sizeof(random), 0) != (ssize_t)sizeof(random))
        status = FERRY_EINTERNAL;
    if (!status) {
        snprintf(tp->address, sizeof(tp->address), "ferry-sample-%016llx%016llx",
                 (unsigned long long)random[0], (unsigned long long)random[1]);
        status = sample_server_start(host, tp->address, &tp->server);
    }
    if (status) {
        free(tp);
        return status;
    }
    pthread_mutex_init(&tp->lock, NULL);
    *tp_out = tp;
    return FERRY_OK;
}

void sample_close(struct ferry_tp *tp)
{
    if (!tp)
        return;
    sample_server_stop(tp->server);
    pthread_mutex_destroy(&tp->lock);
    free(tp);
}

/* The caller may be older (less room) or newer (more) than these headers. */
static ferry_status give(void *to, uint32_t room, void *from, uint32_t have)
{
    uint32_t len = room < have ? room : have;

    if (len < sizeof(uint32_t))
        return FERRY_EINVAL;
    memcpy(from, &len, sizeof(len)); /* `size` is the first member of both */
    memcpy(to, from, len);
    return FERRY_OK;
}

ferry_status sample_query(struct ferry_tp *tp, struct ferry_tp_caps *caps)
{
    /* Say no more than what is true: the suite tries what is claimed and what is denied.
     * MANUAL: used only where a configuration names it. Take it out when you trust it. */
    struct ferry_tp_caps have = {
        .flags = FERRY_CAP_READ | FERRY_CAP_WRITE | FERRY_CAP_CANCEL | FERRY_CAP_EVENT_FD |
                 FERRY_CAP_LOOPBACK | FERRY_CAP_MANUAL,
        .local_mem = FERRY_MEM_BIT(FERRY_MEM_HOST),
        .remote_mem = FERRY_MEM_BIT(FERRY_MEM_HOST),
        .max_xfer_len = MAX_XFER_LEN,
        .max_list = tp->depth,
        .max_queues = MAX_QUEUES,
        .n_devices = 1,
        .addr_align = 1,
        .latency_ns = 20000,
        .bandwidth_Bps = UINT64_C(2) << 30,
    };

    return give(caps, caps->size, &have, sizeof(have));
}

ferry_status sample_device(struct ferry_tp *tp, uint32_t index, struct ferry_device *dev)
{
    struct ferry_device have = {
        .numa_node = -1, .bandwidth_Bps = UINT64_C(2) << 30, .name = "sample"};

    (void)tp;
    return index ? FERRY_EINVAL : give(dev, dev->size, &have, sizeof(have));
}

/* What peers need to reach us; they get it back in peer_open. Keys are ours to choose. */
ferry_status sample_export_segment(struct ferry_tp *tp, struct ferry_kv_sink *out)
{
    struct ferry_kv kv = {.key = "sample_address",
                          .val = tp->address,
                          .val_len = (uint32_t)strlen(tp->address),
                          .flags = FERRY_KV_TEXT};

    return out->put(out, &kv);
}

ferry_status sample_mem_reg(struct ferry_tp *tp, const struct ferry_mem_desc *desc, size_t n,
                            struct ferry_mr **mr_out)
{
    const uint32_t stride = n ? desc->size : 0; /* a newer core's are longer than ours */
    size_t made = 0;
    ferry_status status = FERRY_OK;

    if (n && stride < DESC_SIZE_1_0)
        return FERRY_EINVAL;
    struct ferry_mr **mr = calloc(n + 1, sizeof(*mr)); /* outputs only on success */
    if (!mr)
        return FERRY_ENOMEM;
    for (; made < n; made++) {
        const struct ferry_mem_desc *d =
            (const void *)((const char *)desc + made * (size_t)stride);

        if (!d->addr || !d->len)
            status = FERRY_EINVAL;
        else if (d->kind != FERRY_MEM_HOST)
            status = FERRY_ENOTSUP; /* as caps.local_mem says */
        else if ((mr[made] = malloc(sizeof(**mr))) == NULL)
            status = FERRY_ENOMEM;
        if (status)
            break;
        *mr[made] = (struct ferry_mr){.addr = d->addr, .len = d->len, .access = d->access};
    }
    if (status) /* all or nothing */
        sample_mem_dereg(tp, mr, made);
    else
        memcpy(mr_out, mr, n * sizeof(*mr));
    free(mr);
    return status;
}

void sample_mem_dereg(struct ferry_tp *tp, struct ferry_mr *const *mr, size_t n)
{
    (void)tp;
    for (size_t i = 0; i < n; i++)
        free(mr[i]);
}

/* Addresses are all that it takes: the target asks its core what may be touched, each time. A
 * transport with keys (rkeys) puts them here. */
ferry_status sample_export_mem(struct ferry_mr *mr, struct ferry_kv_sink *out)
{
    (void)mr;
    (void)out;
    return FERRY_OK;
}
