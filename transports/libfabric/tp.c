/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The transport as a whole: open and close, what it can do, what it tells peers. Knows nothing
 * of single transfers.
 */
#include "fab.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

ferry_status fab_probe(const struct ferry_host *host)
{
    struct ferry_tp tp = {.host = host};
    struct fi_info *hints, *info = NULL;
    const char *why = NULL;

    tp.lib = fab_lib_get(&why);
    if (tp.lib) {
        hints = tp.lib->dupinfo(NULL);
        if (hints) {
            hints->caps = FI_RMA;
            hints->ep_attr->type = FI_EP_RDM;
            hints->domain_attr->mr_mode = FI_MR_LOCAL | FI_MR_VIRT_ADDR | FI_MR_ALLOCATED |
                                          FI_MR_PROV_KEY | FI_MR_ENDPOINT;
            if (tp.lib->getinfo(FAB_API, NULL, NULL, 0, hints, &info) != 0)
                why = "libfabric has no provider of reliable datagrams with RMA here";
            else
                tp.lib->freeinfo(info);
            tp.lib->freeinfo(hints);
        }
    }
    if (!why)
        return FERRY_OK;
    FT_LOG(host, FERRY_LOG_INFO, "%s", why);
    return FERRY_EDEVICE;
}

ferry_status fab_open(const struct ferry_host *host, const struct ferry_kvs *config,
                      struct ferry_tp **tp_out)
{
    struct ferry_tp *tp = calloc(1, sizeof(*tp));
    const char *why = NULL;
    ferry_status status = FERRY_ENOMEM;

    if (!tp)
        return FERRY_ENOMEM;
    tp->host = host;
    atomic_init(&tp->next_id, 1);
    status = fab_config_read(host, config, &tp->config);
    if (status != FERRY_OK)
        goto err_free;
    tp->lib = fab_lib_get(&why);
    if (!tp->lib || !ft_instance(tp->instance)) {
        FT_LOG(host, FERRY_LOG_ERROR, "%s", why ? why : "no random numbers");
        status = FERRY_EDEVICE;
        goto err_free;
    }
    status = fab_devices_open(tp);
    if (status != FERRY_OK)
        goto err_free;
    pthread_mutex_init(&tp->lock, NULL);
    pthread_mutex_init(&tp->serve_lock, NULL);
    status = fab_serve_open(tp);
    if (status != FERRY_OK)
        goto err_devices;
    status = fab_workers_open(tp);
    if (status != FERRY_OK)
        goto err_serve;
    *tp_out = tp;
    return FERRY_OK;

err_serve:
    fab_serve_close(tp);
err_devices:
    pthread_mutex_destroy(&tp->serve_lock);
    pthread_mutex_destroy(&tp->lock);
    fab_devices_close(tp);
err_free:
    free(tp);
    return status;
}

void fab_close(struct ferry_tp *tp)
{
    if (!tp)
        return;
    fab_workers_close(tp);
    fab_serve_close(tp);
    fab_devices_close(tp);
    pthread_mutex_destroy(&tp->serve_lock);
    pthread_mutex_destroy(&tp->lock);
    free(tp);
}

ferry_status fab_query(struct ferry_tp *tp, struct ferry_tp_caps *caps)
{
    struct ferry_tp_caps own = {
        .flags = FERRY_CAP_READ | FERRY_CAP_WRITE | FERRY_CAP_CANCEL | FERRY_CAP_EVENT_FD |
                 FERRY_CAP_LOOPBACK,
        .local_mem = FERRY_MEM_BIT(FERRY_MEM_HOST),
        .remote_mem = FERRY_MEM_BIT(FERRY_MEM_HOST),
        .max_xfer_len = UINT64_MAX, /* cut to pieces */
        .max_list = 1024,
        .max_queues = FAB_MAX_QUEUES,
        .n_devices = tp->n_devices,
        .addr_align = 1,
        .latency_ns = 5000,
    };

    if (!fab_has_fabric(tp)) /* the engine's own tcp and shm are the better choice */
        own.flags |= FERRY_CAP_MANUAL;
    for (uint32_t d = 0; d < tp->n_devices; d++)
        own.bandwidth_Bps += tp->device[d].bandwidth_Bps;
    return ft_give(caps, &own, sizeof(own));
}

ferry_status fab_device_info(struct ferry_tp *tp, uint32_t index, struct ferry_device *dev)
{
    struct ferry_device own = {.numa_node = -1};

    if (index >= tp->n_devices)
        return FERRY_ENOENT;
    own.bandwidth_Bps = tp->device[index].bandwidth_Bps;
    strcpy(own.name, tp->device[index].name);
    strcpy(own.pci, tp->device[index].pci);
    return ft_give(dev, &own, sizeof(own));
}

ferry_status fab_put_json(struct ferry_kv_sink *out, char *text)
{
    struct ferry_kv kv = {.key = FAB_KEY, .val = text, .flags = FERRY_KV_JSON};
    ferry_status status = FERRY_ENOMEM;

    if (text) {
        kv.val_len = (uint32_t)strlen(text);
        status = out->put(out, &kv);
    }
    free(text);
    return status;
}

ferry_status fab_export_segment(struct ferry_tp *tp, struct ferry_kv_sink *out)
{
    struct fab_remote own = {.n = tp->n_devices};

    strcpy(own.instance, tp->instance);
    strcpy(own.provider, tp->provider);
    for (uint32_t d = 0; d < own.n; d++)
        strcpy(own.device[d], tp->device[d].name);
    return fab_put_json(out, fab_remote_encode(&own));
}

void fab_strerror(struct ferry_tp *tp, int32_t vendor_err, char *buf, size_t len)
{
    snprintf(buf, len, "%s", vendor_err ? tp->lib->strerror(vendor_err) : "");
}
