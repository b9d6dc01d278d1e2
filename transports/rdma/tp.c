/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The transport as a whole: open and close, what it can do, what it tells peers, and the thread
 * that hears of ports and devices that fail. Knows nothing of single transfers.
 */
#include "rdma.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cJSON.h>

ferry_status rdma_probe(const struct ferry_host *host)
{
    const char *why = NULL;
    int found = 0;

    if (rdma_ibv_get(&why)) {
        struct dirent *entry;
        DIR *dir = opendir(RDMA_PORT_SYSDIR);
        while (dir && (entry = readdir(dir)))
            found += entry->d_name[0] != '.';
        if (dir)
            closedir(dir);
        if (!found)
            why = "this machine has no RDMA device";
        else if (access("/dev/infiniband", R_OK | X_OK) != 0)
            why = "/dev/infiniband is not here (is it passed into the container)";
    }
    if (!why)
        return FERRY_OK;
    FT_LOG(host, FERRY_LOG_INFO, "%s", why);
    return FERRY_EDEVICE;
}

/* ---- what happens to devices */

/* Rails of a device whose port went down are broken at once; those of one that came back are
 * tried at once. */
static void port_changed(struct ferry_tp *tp, uint32_t d, bool up)
{
    if (atomic_exchange_explicit(&tp->device[d].port_up, up, memory_order_relaxed) == up)
        return;
    FT_LOG(tp->host, up ? FERRY_LOG_INFO : FERRY_LOG_WARN, "the port of device %s is %s",
           tp->device[d].name, up ? "up again" : "down");
    pthread_mutex_lock(&tp->lock);
    for (uint32_t q = 0; q < RDMA_MAX_QUEUES; q++) {
        struct ferry_queue *queue = tp->queues[q];
        if (!queue)
            continue;
        pthread_mutex_lock(&queue->lock);
        for (uint32_t l = 0; l < queue->n_links; l++)
            for (uint32_t i = 0; queue->links[l] && i < queue->links[l]->n_rails; i++) {
                struct rdma_rail *rail = &queue->links[l]->rail[i];
                if (rail->local != d || queue->links[l]->closing)
                    continue;
                if (!up)
                    rdma_rail_broken(rail, CAUSE_DEVICE);
                else if (rail->state == RAIL_DOWN)
                    rdma_job_add(&tp->jobs, &rail->job, ft_now_ns());
            }
        pthread_mutex_unlock(&queue->lock);
    }
    pthread_mutex_unlock(&tp->lock);
}

static void read_event(struct ferry_tp *tp, uint32_t d)
{
    struct ibv_async_event event;
    enum ibv_event_type type;

    if (tp->ibv->get_async_event(tp->device[d].ctx, &event) != 0)
        return;
    type = event.event_type;
    tp->ibv->ack_async_event(&event);
    FT_LOG(tp->host, FERRY_LOG_DEBUG, "device %s: %s", tp->device[d].name,
           tp->ibv->event_type_str(type));
    if (type == IBV_EVENT_PORT_ERR || type == IBV_EVENT_DEVICE_FATAL)
        port_changed(tp, d, false);
    else if (type == IBV_EVENT_PORT_ACTIVE)
        port_changed(tp, d, true);
}

/* Who sleeps until something completes would never see that nothing does. */
static void look_for_stalls(struct ferry_tp *tp)
{
    pthread_mutex_lock(&tp->lock);
    for (uint32_t q = 0; q < RDMA_MAX_QUEUES; q++) {
        struct ferry_queue *queue = tp->queues[q];
        if (!queue)
            continue;
        pthread_mutex_lock(&queue->lock);
        rdma_reap(queue);
        if (queue->comp_n || queue->listed)
            rdma_queue_wake(queue);
        pthread_mutex_unlock(&queue->lock);
    }
    pthread_mutex_unlock(&tp->lock);
}

static void *hear_events(void *arg)
{
    struct ferry_tp *tp = arg;
    struct pollfd fds[RDMA_MAX_DEVICES + 1];
    int n;

    pthread_setname_np(pthread_self(), "fy-rdma-event");
    for (uint32_t d = 0; d < tp->n_devices; d++)
        fds[d] = (struct pollfd){.fd = tp->device[d].ctx->async_fd, .events = POLLIN};
    fds[tp->n_devices] = (struct pollfd){.fd = tp->events_stop_fd, .events = POLLIN};
    for (;;) {
        n = poll(fds, tp->n_devices + 1, (int)tp->config.stall_ms / 2);
        if (n < 0 && errno != EINTR)
            return NULL;
        if (n == 0)
            look_for_stalls(tp);
        if (fds[tp->n_devices].revents)
            return NULL;
        for (uint32_t d = 0; d < tp->n_devices; d++) {
            if (fds[d].revents & POLLIN)
                read_event(tp, d);
            else if (fds[d].revents)
                fds[d].fd = -1; /* the device is gone */
        }
    }
}

static ferry_status start_events(struct ferry_tp *tp)
{
    sigset_t all, old;
    int rc;

    tp->events_stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (tp->events_stop_fd < 0)
        return FERRY_ENOMEM;
    for (uint32_t d = 0; d < tp->n_devices; d++) {
        int flags = fcntl(tp->device[d].ctx->async_fd, F_GETFL);
        if (flags >= 0)
            fcntl(tp->device[d].ctx->async_fd, F_SETFL, flags | O_NONBLOCK);
    }
    sigfillset(&all); /* signals are the application's, in its own threads */
    pthread_sigmask(SIG_SETMASK, &all, &old);
    rc = pthread_create(&tp->events, NULL, hear_events, tp);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (rc == 0)
        return FERRY_OK;
    close(tp->events_stop_fd);
    return FERRY_ENOMEM;
}

/* ---- near and far */

/*
 * The matrix that peers are told, found out or read from the file configured. A file also says
 * which of our devices are near our own memory.
 */
static ferry_status find_matrix(struct ferry_tp *tp)
{
    struct rdma_topo *topo = rdma_topo_read("/sys");
    const char *file = tp->config.topology, *names[RDMA_MAX_DEVICES];
    char why[512] = "";
    size_t unknown;

    if (!topo)
        return FERRY_ENOMEM;
    for (uint32_t d = 0; d < tp->n_devices; d++)
        names[d] = tp->device[d].name;
    if (rdma_topo_keep(topo, names, tp->n_devices, &unknown))
        tp->matrix =
            file[0] ? rdma_topo_load(file, topo, why, sizeof(why)) : rdma_topo_matrix(topo);
    else
        snprintf(why, sizeof(why), "device %s is not in sysfs", names[unknown]);
    for (uint32_t d = 0; tp->matrix && d < tp->n_devices; d++) {
        tp->device[d].numa_node =
            file[0] ? rdma_topo_node_of(tp->matrix, names[d]) : topo->nic[d].numa_node;
        strcpy(tp->device[d].pci, topo->nic[d].pci);
    }
    free(topo);
    if (why[0])
        FT_LOG(tp->host, tp->matrix ? FERRY_LOG_WARN : FERRY_LOG_ERROR, "topology: %s", why);
    return tp->matrix ? FERRY_OK : file[0] ? FERRY_EINVAL : FERRY_ENOMEM;
}

/* ---- open and close */

ferry_status rdma_open(const struct ferry_host *host, const struct ferry_kvs *config,
                       struct ferry_tp **tp_out)
{
    struct ferry_tp *tp = calloc(1, sizeof(*tp));
    const char *why = NULL;
    ferry_status status = FERRY_ENOMEM;

    if (!tp)
        return FERRY_ENOMEM;
    tp->host = host;
    atomic_init(&tp->next_id, 1);
    status = rdma_config_read(host, config, &tp->config);
    if (status != FERRY_OK)
        goto err_free;
    tp->ibv = rdma_ibv_get(&why);
    if (!tp->ibv || !ft_instance(tp->instance)) {
        FT_LOG(host, FERRY_LOG_ERROR, "%s", why ? why : strerror(errno));
        status = FERRY_EDEVICE;
        goto err_free;
    }
    status = rdma_devices_open(tp);
    if (status != FERRY_OK)
        goto err_free;
    pthread_mutex_init(&tp->lock, NULL);
    pthread_mutex_init(&tp->serve_lock, NULL);
    pthread_cond_init(&tp->serve_cond, NULL);
    status = find_matrix(tp);
    if (status != FERRY_OK)
        goto err_devices;
    status = rdma_jobs_open(&tp->jobs);
    if (status != FERRY_OK)
        goto err_devices;
    status = start_events(tp);
    if (status != FERRY_OK)
        goto err_jobs;
    *tp_out = tp;
    return FERRY_OK;

err_jobs:
    rdma_jobs_close(&tp->jobs);
err_devices:
    pthread_cond_destroy(&tp->serve_cond);
    pthread_mutex_destroy(&tp->serve_lock);
    pthread_mutex_destroy(&tp->lock);
    cJSON_Delete(tp->matrix);
    rdma_devices_close(tp);
err_free:
    free(tp);
    return status;
}

void rdma_close(struct ferry_tp *tp)
{
    if (!tp)
        return;
    eventfd_write(tp->events_stop_fd, 1);
    pthread_join(tp->events, NULL);
    close(tp->events_stop_fd);
    rdma_jobs_close(&tp->jobs);
    rdma_served_close(tp);
    rdma_devices_close(tp);
    pthread_cond_destroy(&tp->serve_cond);
    pthread_mutex_destroy(&tp->serve_lock);
    pthread_mutex_destroy(&tp->lock);
    cJSON_Delete(tp->matrix);
    free(tp->peers);
    free(tp);
}

/* ---- what it is */

/* Accelerator memory: where the kernel can find it for the NIC, by dma-buf or by the peer
 * memory module. */
static bool reaches_devices(const struct ferry_tp *tp)
{
    return access("/dev/nvidiactl", F_OK) == 0 &&
           (tp->ibv->reg_dmabuf_mr || access("/sys/module/nvidia_peermem", F_OK) == 0);
}

ferry_status rdma_query(struct ferry_tp *tp, struct ferry_tp_caps *caps)
{
    uint32_t mem = FERRY_MEM_BIT(FERRY_MEM_HOST);
    struct ferry_tp_caps own = {
        .flags = FERRY_CAP_READ | FERRY_CAP_WRITE | FERRY_CAP_CANCEL | FERRY_CAP_EVENT_FD |
                 FERRY_CAP_LOOPBACK | FERRY_CAP_MOONCAKE,
        .max_xfer_len = UINT64_MAX, /* cut to pieces */
        .max_list = 1024,
        .max_queues = RDMA_MAX_QUEUES,
        .n_devices = tp->n_devices,
        .addr_align = 1,
        .latency_ns = 3000,
    };

    if (reaches_devices(tp))
        mem |= FERRY_MEM_BIT(FERRY_MEM_DEVICE);
    own.local_mem = own.remote_mem = mem;
    for (uint32_t d = 0; d < tp->n_devices; d++)
        own.bandwidth_Bps += tp->device[d].bandwidth_Bps;
    return ft_give(caps, &own, sizeof(own));
}

ferry_status rdma_device_info(struct ferry_tp *tp, uint32_t index, struct ferry_device *dev)
{
    const struct rdma_device *device = &tp->device[index];
    struct ferry_device own = {0};

    if (index >= tp->n_devices)
        return FERRY_ENOENT;
    own.numa_node = device->numa_node;
    own.bandwidth_Bps = device->bandwidth_Bps;
    strcpy(own.name, device->name);
    strcpy(own.pci, device->pci);
    return ft_give(dev, &own, sizeof(own));
}

static cJSON *devices_json(const struct ferry_tp *tp)
{
    cJSON *list = cJSON_CreateArray();

    for (uint32_t d = 0; list && d < tp->n_devices; d++) {
        const struct rdma_device *device = &tp->device[d];
        cJSON *one = cJSON_CreateObject();
        char gid[48];
        rdma_gid_text(device->gids[0].raw, gid);
        if (!one || !cJSON_AddStringToObject(one, "name", device->name) ||
            !cJSON_AddNumberToObject(one, "lid", device->lid) ||
            !cJSON_AddStringToObject(one, "gid", gid) || !cJSON_AddItemToArray(list, one)) {
            cJSON_Delete(one);
            cJSON_Delete(list);
            return NULL;
        }
    }
    return list;
}

static ferry_status put_json(struct ferry_kv_sink *out, const char *key, cJSON *value)
{
    char *text = value ? cJSON_PrintUnformatted(value) : NULL;
    struct ferry_kv kv = {.key = key, .val = text, .flags = FERRY_KV_JSON};
    ferry_status status = FERRY_ENOMEM;

    cJSON_Delete(value);
    if (text) {
        kv.val_len = (uint32_t)strlen(text);
        status = out->put(out, &kv);
    }
    free(text);
    return status;
}

ferry_status rdma_export_segment(struct ferry_tp *tp, struct ferry_kv_sink *out)
{
    cJSON *ours = cJSON_CreateObject();
    ferry_status status = put_json(out, "devices", devices_json(tp));

    if (status == FERRY_OK)
        status = put_json(out, "priority_matrix", cJSON_Duplicate(tp->matrix, true));
    if (status == FERRY_OK && cJSON_AddStringToObject(ours, "instance", tp->instance))
        return put_json(out, "ferry_rdma", ours);
    cJSON_Delete(ours);
    return status == FERRY_OK ? FERRY_ENOMEM : status;
}

void rdma_strerror(struct ferry_tp *tp, int32_t vendor_err, char *buf, size_t len)
{
    snprintf(buf, len, "%s",
             vendor_err > 0 ? tp->ibv->wc_status_str((enum ibv_wc_status)vendor_err) : "");
}
