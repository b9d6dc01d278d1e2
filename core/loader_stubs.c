/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which members of a plugin's table must be there, and what stands in for those that need not:
 * stubs that return FERRY_ENOTSUP, so that no caller tests for NULL. What a transport says in
 * its capabilities to lack (cancel, event descriptors) it may leave out.
 */
#include "loader_inner.h"

#include <stdio.h>
#include <string.h>

struct member {
    size_t offset;
    const char *name;
};

#define MEMBER(type, name)                                                                     \
    {                                                                                          \
        offsetof(struct type, name), #name                                                     \
    }

static const struct member transport_members[] = {
    MEMBER(ferry_transport_ops, open),           MEMBER(ferry_transport_ops, close),
    MEMBER(ferry_transport_ops, query),          MEMBER(ferry_transport_ops, device),
    MEMBER(ferry_transport_ops, export_segment), MEMBER(ferry_transport_ops, mem_reg),
    MEMBER(ferry_transport_ops, mem_dereg),      MEMBER(ferry_transport_ops, export_mem),
    MEMBER(ferry_transport_ops, peer_open),      MEMBER(ferry_transport_ops, peer_attach),
    MEMBER(ferry_transport_ops, peer_close),     MEMBER(ferry_transport_ops, rmem_open),
    MEMBER(ferry_transport_ops, rmem_close),     MEMBER(ferry_transport_ops, queue_open),
    MEMBER(ferry_transport_ops, queue_close),    MEMBER(ferry_transport_ops, submit),
    MEMBER(ferry_transport_ops, poll),
};

static const struct member metadata_members[] = {
    MEMBER(ferry_metadata_ops, open),  MEMBER(ferry_metadata_ops, close),
    MEMBER(ferry_metadata_ops, query), MEMBER(ferry_metadata_ops, put),
    MEMBER(ferry_metadata_ops, get),   MEMBER(ferry_metadata_ops, del),
};

static const char *missing(const void *ops, const struct member *members, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        void (*function)(void);

        memcpy(&function, (const char *)ops + members[i].offset, sizeof(function));
        if (!function)
            return members[i].name;
    }
    return NULL;
}

static ferry_status no_probe(const struct ferry_host *host)
{
    return FERRY_ENOTSUP;
}

static ferry_status no_on_call(struct ferry_tp *tp, const char *peer_name, const void *req,
                               size_t req_len, struct ferry_buf_sink *reply)
{
    return FERRY_ENOTSUP;
}

static ferry_status no_on_connection(struct ferry_tp *tp, const void *req, size_t req_len,
                                     struct ferry_buf_sink *reply)
{
    return FERRY_ENOTSUP;
}

static ferry_status no_cancel(struct ferry_queue *queue, uint64_t cookie)
{
    return FERRY_ENOTSUP;
}

static ferry_status no_queue_fd(struct ferry_queue *queue, int *fd_out)
{
    return FERRY_ENOTSUP;
}

static ferry_status no_queue_arm(struct ferry_queue *queue)
{
    return FERRY_ENOTSUP;
}

static ferry_status no_rail(struct ferry_peer *peer, struct ferry_queue *queue, char *text,
                            size_t len)
{
    return FERRY_ENOTSUP;
}

static void no_strerror_vendor(struct ferry_tp *tp, int32_t vendor_err, char *buf, size_t len)
{
    if (len)
        snprintf(buf, len, "error %d", (int)vendor_err);
}

const char *fy_transport_complete(struct ferry_transport_ops *ops)
{
    const char *name = missing(ops, transport_members,
                               sizeof(transport_members) / sizeof(transport_members[0]));

    if (name)
        return name;
    ops->probe = ops->probe ? ops->probe : no_probe;
    ops->on_call = ops->on_call ? ops->on_call : no_on_call;
    ops->on_connection = ops->on_connection ? ops->on_connection : no_on_connection;
    ops->cancel = ops->cancel ? ops->cancel : no_cancel;
    ops->queue_fd = ops->queue_fd ? ops->queue_fd : no_queue_fd;
    ops->queue_arm = ops->queue_arm ? ops->queue_arm : no_queue_arm;
    ops->strerror_vendor = ops->strerror_vendor ? ops->strerror_vendor : no_strerror_vendor;
    ops->rail = ops->rail ? ops->rail : no_rail;
    return NULL;
}

int fy_transport_has_probe(const struct ferry_transport_ops *ops)
{
    return ops->probe != no_probe;
}

static ferry_status no_list(struct ferry_store *store, const char *prefix, uint32_t timeout_ms,
                            struct ferry_kv_sink *out)
{
    return FERRY_ENOTSUP;
}

static ferry_status no_watch(struct ferry_store *store, const char *prefix,
                             void (*cb)(void *arg, const struct ferry_store_event *event),
                             void *arg, uint64_t *watch_id_out)
{
    return FERRY_ENOTSUP;
}

static void no_unwatch(struct ferry_store *store, uint64_t watch_id)
{
}

const char *fy_metadata_complete(struct ferry_metadata_ops *ops)
{
    const char *name =
        missing(ops, metadata_members, sizeof(metadata_members) / sizeof(metadata_members[0]));

    if (name)
        return name;
    ops->list = ops->list ? ops->list : no_list;
    if (!ops->watch || !ops->unwatch) {
        ops->watch = no_watch;
        ops->unwatch = no_unwatch;
    }
    return NULL;
}
