/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RDMA_WIRE_H
#define RDMA_WIRE_H

#include <stdbool.h>

#include "../common/plug.h"

#define RDMA_MAX_DEVICES 16u
#define RDMA_MAX_QPS     16u /* queue pairs of one connection */
#define RDMA_NAME_MAX    64u
#define RDMA_PATH_MAX    384u /* "server@device" */

/*
 * The message that connects queue pairs: Mooncake's Connection body, request and reply alike.
 * What is ours stands in its member "ferry", which Mooncake skips.
 */
struct rdma_hello {
    char local_nic_path[RDMA_PATH_MAX]; /* of whoever sends */
    char peer_nic_path[RDMA_PATH_MAX];
    uint32_t n_qp;
    uint32_t qp_num[RDMA_MAX_QPS];
    uint8_t gid[16];
    bool has_gid;
    uint16_t lid;
    char reply_msg[256]; /* "" = accepted */
    bool ready_ack;      /* never sent; the second message of peers that were asked for it */

    bool ferry;                     /* the sender is a Ferry node: the rest counts */
    char instance[FT_INSTANCE_MAX]; /* of whoever sends */
    char expect[FT_INSTANCE_MAX];   /* the incarnation it believes to talk to; "" = any */
    uint32_t mtu;                   /* bytes */
    uint32_t rd_atomic;             /* reads in flight it serves (reply) or wants (request) */
    bool bye;                       /* take the connection down */
    int32_t status;                 /* ferry_status that belongs to reply_msg */
};

/* JSON text, to be freed with free(); NULL = no memory. */
char *rdma_hello_encode(const struct rdma_hello *hello);
/* From untrusted text. FERRY_EINVAL: *why_out says in static words what is wrong. */
ferry_status rdma_hello_parse(const char *text, size_t len, struct rdma_hello *hello_out,
                              const char **why_out);

void rdma_gid_text(const uint8_t gid[16], char out[48]);
ferry_status rdma_gid_parse(const char *text, uint8_t gid_out[16]);

/* A peer's devices, as its segment tells them. */
struct rdma_remote_device {
    char name[RDMA_NAME_MAX];
    uint8_t gid[16];
    uint16_t lid;
    bool usable; /* Mooncake keeps dead devices in the list, with a zero GID */
};
struct rdma_remote {
    uint32_t n;
    struct rdma_remote_device device[RDMA_MAX_DEVICES];
    char server[256]; /* instead of its name in NIC paths; "" = its name */
    bool ferry;
    char instance[FT_INSTANCE_MAX];
};
ferry_status rdma_remote_parse(const struct ferry_kvs *attrs, struct rdma_remote *remote_out,
                               const char **why_out);

/* The keys of one buffer of a peer: key[device * n_chunks + chunk]. */
struct rdma_keys {
    uint64_t chunk_len; /* bytes; 0 = one chunk */
    uint32_t n_chunks;
    uint32_t *key; /* free() */
};
/* FERRY_EACCESS: it has none, so nobody may reach the buffer. */
ferry_status rdma_keys_parse(const struct ferry_kvs *attrs, uint32_t n_devices, uint64_t len,
                             struct rdma_keys *keys_out, const char **why_out);

#endif /* RDMA_WIRE_H */
