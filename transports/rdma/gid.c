/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which GID a port uses: what reaches others best comes first, and towards a peer the one from
 * which the kernel would route to it. Knows sysfs and routes, no verbs.
 */
#include "rdma.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const uint8_t v4_prefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

static bool is_v4(const uint8_t gid[16])
{
    return memcmp(gid, v4_prefix, 12) == 0;
}

static bool is_link_local(const uint8_t gid[16])
{
    return (gid[0] == 0xfe && (gid[1] & 0xc0) == 0x80) ||
           (is_v4(gid) && gid[12] == 169 && gid[13] == 254);
}

/* RoCE v2 before v1, since v1 does not leave its network segment; link-local addresses last. */
static int rank_of(const uint8_t gid[16], bool v2, bool ethernet)
{
    static const uint8_t zero[16];

    if (memcmp(gid, zero, 16) == 0)
        return 0;
    if (!ethernet)
        return 100;
    if (is_link_local(gid))
        return v2 ? 20 : 5;
    return (v2 ? 30 : 10) + (is_v4(gid) ? 2 : 0);
}

static bool read_line(const char *path, char *out, size_t room)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, out, room - 1);

    if (fd >= 0)
        close(fd);
    if (n <= 0) /* an empty entry of the table */
        return false;
    out[n] = '\0';
    out[strcspn(out, "\n")] = '\0';
    return true;
}

/* The form of sysfs: eight groups of four digits. */
static bool parse_gid(const char *text, uint8_t out[16])
{
    for (int i = 0; i < 8; i++) {
        unsigned v;
        if (sscanf(text, "%4x", &v) != 1)
            return false;
        out[i * 2] = (uint8_t)(v >> 8);
        out[i * 2 + 1] = (uint8_t)v;
        if (strlen(text) < (i < 7 ? 5u : 4u))
            return false;
        text += 5;
    }
    return true;
}

static int by_rank(const void *a, const void *b)
{
    const struct rdma_gid *x = a, *y = b;

    return x->rank != y->rank ? y->rank - x->rank : x->index - y->index;
}

static ferry_status add_gid(struct rdma_device *device, const uint8_t raw[16], int index,
                            bool v2)
{
    struct rdma_gid gid = {.index = index, .rank = rank_of(raw, v2, device->ethernet)};
    struct rdma_gid *grown;

    if (gid.rank == 0)
        return FERRY_OK;
    grown = realloc(device->gids, (device->n_gids + 1) * sizeof(*grown));
    if (!grown)
        return FERRY_ENOMEM;
    memcpy(gid.raw, raw, 16);
    device->gids = grown;
    device->gids[device->n_gids++] = gid;
    return FERRY_OK;
}

/* One call for the whole table: it may have a thousand entries, most of them empty. */
static ferry_status from_verbs(struct rdma_device *device, size_t room)
{
    struct ibv_gid_entry *entries = calloc(room ? room : 1, sizeof(*entries));
    ferry_status status = entries ? FERRY_OK : FERRY_ENOMEM;
    ssize_t n = entries ? device->tp->ibv->query_gid_table(device->ctx, entries, room, 0,
                                                           sizeof(*entries))
                        : 0;

    for (ssize_t i = 0; i < n && status == FERRY_OK; i++)
        if (entries[i].port_num == device->port)
            status = add_gid(device, entries[i].gid.raw, (int)entries[i].gid_index,
                             entries[i].gid_type == IBV_GID_TYPE_ROCE_V2);
    free(entries);
    return n < 0 ? FERRY_ENOTSUP : status;
}

static ferry_status from_sysfs(struct rdma_device *device, size_t room)
{
    ferry_status status = FERRY_OK;

    for (size_t i = 0; i < room && status == FERRY_OK; i++) {
        char path[256], gid[128], type[64];
        uint8_t raw[16];
        snprintf(path, sizeof(path), RDMA_PORT_SYSDIR "/%s/ports/%u/gids/%zu", device->name,
                 device->port, i);
        if (!read_line(path, gid, sizeof(gid)) || !parse_gid(gid, raw))
            continue;
        snprintf(path, sizeof(path), RDMA_PORT_SYSDIR "/%s/ports/%u/gid_attrs/types/%zu",
                 device->name, device->port, i);
        if (!read_line(path, type, sizeof(type)))
            type[0] = '\0';
        status = add_gid(device, raw, (int)i, strstr(type, "v2") != NULL);
    }
    return status;
}

ferry_status rdma_gids_read(struct rdma_device *device, size_t room)
{
    ferry_status status = FERRY_ENOTSUP;

    if (device->tp->ibv->query_gid_table)
        status = from_verbs(device, room);
    if (status == FERRY_ENOTSUP)
        status = from_sysfs(device, room);
    if (status == FERRY_OK && device->n_gids)
        qsort(device->gids, device->n_gids, sizeof(device->gids[0]), by_rank);
    return status;
}

/* The address from which the kernel would send to the peer's, as a GID. No packet is sent. */
static bool route_source(const uint8_t peer[16], uint8_t out[16])
{
    struct sockaddr_in6 a6 = {.sin6_family = AF_INET6, .sin6_port = htons(4791)};
    struct sockaddr_in a4 = {.sin_family = AF_INET, .sin_port = htons(4791)};
    struct sockaddr *addr = is_v4(peer) ? (void *)&a4 : (void *)&a6;
    socklen_t len = is_v4(peer) ? sizeof(a4) : sizeof(a6);
    bool found = false;
    int fd;

    memcpy(&a4.sin_addr, peer + 12, 4);
    memcpy(&a6.sin6_addr, peer, 16);
    fd = socket(addr->sa_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return false;
    if (connect(fd, addr, len) == 0 && getsockname(fd, addr, &len) == 0) {
        if (addr->sa_family == AF_INET) {
            memcpy(out, v4_prefix, 12);
            memcpy(out + 12, &a4.sin_addr, 4);
        } else {
            memcpy(out, &a6.sin6_addr, 16);
        }
        found = true;
    }
    close(fd);
    return found;
}

const char *rdma_gid_why(const struct rdma_device *device, const struct rdma_gid *gid)
{
    if (device->tp->config.gid_index >= 0)
        return "as configured";
    if (!device->ethernet)
        return "InfiniBand";
    if (gid->rank < 20)
        return is_link_local(gid->raw) ? "RoCE v1, link-local: there is no other"
                                       : "RoCE v1: there is no v2";
    if (is_link_local(gid->raw))
        return "RoCE v2, link-local: there is no other";
    return is_v4(gid->raw) ? "RoCE v2, IPv4" : "RoCE v2, IPv6: there is no IPv4";
}

const struct rdma_gid *rdma_gid_for(const struct rdma_device *device, const uint8_t peer[16])
{
    const struct rdma_gid *gids = device->gids;
    uint8_t source[16];

    if (!device->ethernet || device->n_gids == 1)
        return &gids[0];
    if (!is_link_local(peer) && route_source(peer, source))
        for (size_t i = 0; i < device->n_gids; i++)
            if (gids[i].rank >= 30 && memcmp(gids[i].raw, source, 16) == 0)
                return &gids[i];
    for (size_t i = 0; i < device->n_gids; i++)
        if (is_v4(gids[i].raw) == is_v4(peer) &&
            is_link_local(gids[i].raw) == is_link_local(peer))
            return &gids[i];
    return &gids[0];
}
