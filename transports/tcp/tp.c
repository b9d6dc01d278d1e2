/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Opening and closing the transport, what it can do, what it publishes, and local memory. Must
 * not know how anything is transferred.
 */
#include "tp.h"

#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "server.h"

#define MAX_LIST          4096u
/* What a description of ABI 1.0 has at least. */
#define MEM_DESC_SIZE_1_0 (offsetof(struct ferry_mem_desc, access) + sizeof(uint32_t))
#define LATENCY_NS        25000u
#define BANDWIDTH_BPS     5000000000ull

static uint32_t usable_cpus(void)
{
    cpu_set_t set;
    int n;

    if (sched_getaffinity(0, sizeof set, &set) != 0)
        return 1;
    n = CPU_COUNT(&set);
    return n < 1 ? 1 : (uint32_t)n;
}

static ferry_status new_incarnation(uint64_t *out)
{
    uint64_t v = 0;

    while (v == 0)
        if (getrandom(&v, sizeof v, 0) != (ssize_t)sizeof v && errno != EINTR)
            return FERRY_EDEVICE;
    *out = v;
    return FERRY_OK;
}

ferry_status tcp_open(const struct ferry_host *host, const struct ferry_kvs *config,
                      struct ferry_tp **tp_out)
{
    struct ferry_tp *tp = calloc(1, sizeof *tp);
    ferry_status status;

    if (tp == NULL)
        return FERRY_ENOMEM;
    tp->host = host;
    tp->cpus = usable_cpus();
    status = tcp_config_parse(host, config, &tp->config);
    if (status == FERRY_OK)
        status = new_incarnation(&tp->incarnation);
    if (status != FERRY_OK)
        goto err_free;
    pthread_mutex_init(&tp->lock, NULL);
    status = tcp_server_open(tp, &tp->server);
    if (status != FERRY_OK)
        goto err_destroy_lock;
    *tp_out = tp;
    return FERRY_OK;

err_destroy_lock:
    pthread_mutex_destroy(&tp->lock);
err_free:
    free(tp);
    return status;
}

void tcp_close(struct ferry_tp *tp)
{
    if (tp == NULL)
        return;
    tcp_server_close(tp->server);
    pthread_mutex_destroy(&tp->lock);
    free(tp);
}

ferry_status tcp_query(struct ferry_tp *tp, struct ferry_tp_caps *caps)
{
    const struct ferry_tp_caps mine = {
        .flags = FERRY_CAP_READ | FERRY_CAP_WRITE | FERRY_CAP_CANCEL | FERRY_CAP_EVENT_FD |
                 FERRY_CAP_LOOPBACK | FERRY_CAP_MOONCAKE,
        .local_mem = FERRY_MEM_BIT(FERRY_MEM_HOST),
        .remote_mem = FERRY_MEM_BIT(FERRY_MEM_HOST),
        .max_xfer_len = 1ull << 62,
        .max_list = MAX_LIST,
        .max_queues = TCP_MAX_QUEUES,
        .n_devices = 1,
        .addr_align = 1,
        .latency_ns = LATENCY_NS,
        .bandwidth_Bps = BANDWIDTH_BPS,
    };

    (void)tp;
    return ft_give(caps, &mine, sizeof mine);
}

ferry_status tcp_device(struct ferry_tp *tp, uint32_t index, struct ferry_device *dev)
{
    const struct ferry_device mine = {
        .numa_node = -1, .bandwidth_Bps = BANDWIDTH_BPS, .name = "tcp"};

    (void)tp;
    return index == 0 ? ft_give(dev, &mine, sizeof mine) : FERRY_EINVAL;
}

static ferry_status put(struct ferry_kv_sink *out, const char *key, const char *val,
                        uint32_t flags)
{
    return out->put(
        out, &(struct ferry_kv){
                 .key = key, .val = val, .val_len = (uint32_t)strlen(val), .flags = flags});
}

ferry_status tcp_export_segment(struct ferry_tp *tp, struct ferry_kv_sink *out)
{
    char port[8], incarnation[20];
    ferry_status status;

    snprintf(port, sizeof port, "%u", tcp_server_port(tp->server));
    snprintf(incarnation, sizeof incarnation, "%016" PRIx64, tp->incarnation);
    status = put(out, "tcp_data_port", port, FERRY_KV_JSON);
    if (status == FERRY_OK)
        status = put(out, "tcp_proto_version", "3", FERRY_KV_JSON);
    if (status == FERRY_OK)
        status = put(out, "tcp_incarnation", incarnation, FERRY_KV_TEXT);
    if (status == FERRY_OK && tp->config.host[0] != '\0')
        status = put(out, "tcp_host", tp->config.host, FERRY_KV_TEXT);
    return status;
}

/* A newer core's descriptions are larger than ours, and lie so far apart. */
static const struct ferry_mem_desc *desc_at(const struct ferry_mem_desc *desc, size_t i)
{
    return (const void *)((const char *)desc + i * desc->size);
}

ferry_status tcp_mem_reg(struct ferry_tp *tp, const struct ferry_mem_desc *desc, size_t n,
                         struct ferry_mr **mr_out)
{
    struct ferry_mr *list = NULL;

    (void)tp;
    if (n > 0 && desc->size < MEM_DESC_SIZE_1_0)
        return FERRY_EINVAL;
    for (size_t i = 0; i < n; i++) {
        const struct ferry_mem_desc *d = desc_at(desc, i);

        if (d->kind != FERRY_MEM_HOST)
            return FERRY_ENOTSUP;
        if (d->addr == NULL || d->len == 0 || d->len > UINT64_MAX - (uintptr_t)d->addr)
            return FERRY_EINVAL;
    }
    for (size_t i = n; i-- > 0;) {
        const struct ferry_mem_desc *d = desc_at(desc, i);
        struct ferry_mr *mr = malloc(sizeof *mr);

        if (mr == NULL)
            goto err_free;
        *mr = (struct ferry_mr){
            .next = list, .addr = (uintptr_t)d->addr, .len = d->len, .access = d->access};
        list = mr;
    }
    for (size_t i = 0; i < n; i++, list = list->next)
        mr_out[i] = list;
    return FERRY_OK;

err_free:
    while (list != NULL) {
        struct ferry_mr *mr = list;

        list = mr->next;
        free(mr);
    }
    return FERRY_ENOMEM;
}

void tcp_mem_dereg(struct ferry_tp *tp, struct ferry_mr *const *mr, size_t n)
{
    (void)tp;
    for (size_t i = 0; i < n; i++)
        free(mr[i]);
}

ferry_status tcp_export_mem(struct ferry_mr *mr, struct ferry_kv_sink *out)
{
    /* Its address and length stand in every buffer's entry; there are no keys. */
    (void)mr;
    (void)out;
    return FERRY_OK;
}

void tcp_strerror_vendor(struct ferry_tp *tp, int32_t vendor_err, char *buf, size_t len)
{
    char text[128];

    (void)tp;
    if (len > 0)
        snprintf(buf, len, "%s", strerror_r(vendor_err, text, sizeof text));
}
