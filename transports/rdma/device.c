/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which RDMA devices are used, with which port, and what they can do. Knows nothing of peers.
 */
#include "rdma.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct rdma_ibv *ibv_of(const struct rdma_device *device)
{
    return device->tp->ibv;
}

static uint32_t mtu_bytes(enum ibv_mtu mtu)
{
    return mtu >= IBV_MTU_256 && mtu <= IBV_MTU_4096 ? 128u << mtu : 1024u;
}

/* Bytes a second of a port, from the codes of width and speed. */
static uint64_t port_rate(const struct ibv_port_attr *attr)
{
    static const struct {
        uint8_t code;
        uint32_t mbits; /* of one lane, after its coding */
    } speeds[] = {{1, 2000},   {2, 4000},   {4, 8000},   {8, 10000},
                  {16, 14000}, {32, 25000}, {64, 50000}, {128, 100000}};
    uint32_t lanes = attr->active_width == 1    ? 1
                     : attr->active_width == 2  ? 4
                     : attr->active_width == 4  ? 8
                     : attr->active_width == 8  ? 12
                     : attr->active_width == 16 ? 2
                                                : 1;
    uint64_t mbits = 0;

    for (size_t i = 0; i < sizeof(speeds) / sizeof(speeds[0]); i++)
        if (attr->active_speed == speeds[i].code)
            mbits = (uint64_t)speeds[i].mbits * lanes;
    return (mbits ? mbits : 10000) * 125000;
}

/* An own rule before use: what is told to peers must be an address they can answer to. */
static const char *read_gids(struct rdma_device *device, const struct rdma_config *config,
                             size_t room)
{
    if (rdma_gids_read(device, room) != FERRY_OK)
        return "no memory";
    if (config->gid_index >= 0) {
        for (size_t i = 0; i < device->n_gids; i++)
            if (device->gids[i].index == config->gid_index) {
                device->gids[0] = device->gids[i];
                device->n_gids = 1;
                return NULL;
            }
        return "it has no GID of the index configured (gid_index)";
    }
    if (device->n_gids == 0)
        return "its port has no usable GID: does its network interface have an address";
    return NULL;
}

static const char *open_device(struct rdma_device *device, struct ibv_device *found)
{
    const struct rdma_ibv *ibv = ibv_of(device);
    const struct rdma_config *config = &device->tp->config;
    struct ibv_device_attr attr;
    struct ibv_port_attr port;
    const char *why;

    device->ctx = ibv->open_device(found);
    if (!device->ctx)
        return errno == EACCES || errno == EPERM
                   ? "no permission for its /dev/infiniband/uverbs file"
                   : "it cannot be opened";
    if (ibv->query_device(device->ctx, &attr) != 0)
        return "it does not tell its limits";
    if (config->port > attr.phys_port_cnt)
        return "it has no port of the number configured (port)";
    device->port = (uint8_t)config->port;
    if (rdma_query_port(ibv, device->ctx, device->port, &port) != 0)
        return "its port cannot be queried";
    if (port.state != IBV_PORT_ACTIVE)
        return "its port is down";
    if (config->pkey_index && config->pkey_index >= port.pkey_tbl_len)
        return "it has no partition key of the index configured (pkey_index)";
    device->ethernet = port.link_layer == IBV_LINK_LAYER_ETHERNET;
    device->lid = port.lid;
    device->mtu = mtu_bytes(port.active_mtu);
    device->bandwidth_Bps = port_rate(&port);
    device->max_mr_len = attr.max_mr_size;
    if (config->max_mr_len && config->max_mr_len < device->max_mr_len)
        device->max_mr_len = config->max_mr_len;
    device->max_mr_len &= ~UINT64_C(4095);
    if (device->max_mr_len < 4096)
        return "it takes no memory regions of a page or more";
    device->max_rd_atomic = attr.max_qp_rd_atom > 16 ? 16 : (uint32_t)attr.max_qp_rd_atom;
    device->max_init_rd_atomic =
        attr.max_qp_init_rd_atom > 16 ? 16 : (uint32_t)attr.max_qp_init_rd_atom;
    if (attr.max_cqe > 0 && (uint32_t)attr.max_cqe <= RDMA_PROBE_ROOM)
        return "its completion queues are too short";
    device->max_cqe = attr.max_cqe;
    device->max_wr = attr.max_qp_wr;
    why = read_gids(device, config, (size_t)(port.gid_tbl_len > 0 ? port.gid_tbl_len : 0));
    if (why)
        return why;
    device->pd = ibv->alloc_pd(device->ctx);
    if (!device->pd)
        return "no protection domain to be had";
    device->serve_cq = ibv->create_cq(device->ctx, 16, NULL, NULL, 0);
    if (!device->serve_cq)
        return "no completion queue to be had";
    atomic_init(&device->port_up, true);
    return NULL;
}

static void close_device(struct rdma_device *device)
{
    const struct rdma_ibv *ibv = ibv_of(device);

    if (device->serve_cq)
        ibv->destroy_cq(device->serve_cq);
    if (device->pd)
        ibv->dealloc_pd(device->pd);
    if (device->ctx)
        ibv->close_device(device->ctx);
    free(device->gids);
    memset(device, 0, sizeof(*device));
}

/* Opens `found` as the next device; a reason it is passed over is logged, not returned. */
static bool add_device(struct ferry_tp *tp, struct ibv_device *found)
{
    struct rdma_device *device = &tp->device[tp->n_devices];
    const char *name = tp->ibv->get_device_name(found), *why;
    char gid[48];

    for (uint32_t i = 0; i < tp->n_devices; i++)
        if (strcmp(tp->device[i].name, name) == 0)
            return true; /* named twice */
    if (tp->n_devices == RDMA_MAX_DEVICES) {
        FT_LOG(tp->host, FERRY_LOG_WARN, "device %s is not used: at most %u are", name,
               RDMA_MAX_DEVICES);
        return false;
    }
    memset(device, 0, sizeof(*device));
    device->tp = tp;
    if (strlen(name) >= sizeof(device->name))
        return false;
    strcpy(device->name, name);
    why = open_device(device, found);
    if (why) {
        FT_LOG(tp->host, FERRY_LOG_WARN, "device %s is not used: %s", name, why);
        close_device(device);
        return false;
    }
    rdma_gid_text(device->gids[0].raw, gid);
    FT_LOG(tp->host, FERRY_LOG_INFO,
           "device %s port %u, MTU %u, GID %d %s (%s), LID %u, regions up to %llu bytes", name,
           device->port, device->mtu, device->gids[0].index, gid,
           rdma_gid_why(device, &device->gids[0]), device->lid,
           (unsigned long long)device->max_mr_len);
    tp->n_devices++;
    return true;
}

static ferry_status unknown_device(struct ferry_tp *tp, const char *name,
                                   struct ibv_device **list)
{
    char names[512] = "";
    size_t len = 0;

    for (; *list && len < sizeof(names) - RDMA_NAME_MAX; list++)
        len += (size_t)snprintf(names + len, sizeof(names) - len, "%s%.60s", len ? ", " : "",
                                tp->ibv->get_device_name(*list));
    FT_LOG(tp->host, FERRY_LOG_ERROR, "there is no device \"%s\"; there %s: %s", name,
           len ? "are" : "is none", names);
    return FERRY_EINVAL;
}

/* The names of a comma list, each trimmed. */
static ferry_status open_named(struct ferry_tp *tp, struct ibv_device **list)
{
    char *rest = tp->config.devices, *name;

    while ((name = strsep(&rest, ","))) {
        struct ibv_device **found = list;
        char *end = name + strlen(name);
        bool spaces = false;
        while (*name == ' ' || *name == '\t') {
            name++;
            spaces = true;
        }
        while (end > name && (end[-1] == ' ' || end[-1] == '\t')) {
            *--end = '\0';
            spaces = true;
        }
        if (spaces)
            FT_LOG(tp->host, FERRY_LOG_WARN,
                   "spaces round the device name \"%s\" "
                   "are passed over",
                   name);
        if (!*name)
            continue;
        while (*found && strcmp(tp->ibv->get_device_name(*found), name) != 0)
            found++;
        if (!*found)
            return unknown_device(tp, name, list);
        add_device(tp, *found);
    }
    return FERRY_OK;
}

ferry_status rdma_devices_open(struct ferry_tp *tp)
{
    struct ibv_device **list = tp->ibv->get_device_list(NULL);
    ferry_status status = FERRY_OK;

    if (!list) {
        FT_LOG(tp->host, FERRY_LOG_ERROR, "the list of devices: %s", strerror(errno));
        return FERRY_EDEVICE;
    }
    if (tp->config.devices[0])
        status = open_named(tp, list);
    else
        for (struct ibv_device **found = list; *found; found++)
            add_device(tp, *found);
    tp->ibv->free_device_list(list);
    if (status == FERRY_OK && tp->n_devices == 0) {
        FT_LOG(tp->host, FERRY_LOG_ERROR, "no usable device");
        status = FERRY_EDEVICE;
    }
    if (status != FERRY_OK)
        rdma_devices_close(tp);
    return status;
}

void rdma_devices_close(struct ferry_tp *tp)
{
    while (tp->n_devices)
        close_device(&tp->device[--tp->n_devices]);
}
