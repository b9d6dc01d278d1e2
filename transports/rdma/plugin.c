/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table of the rdma transport, and nothing else.
 */
#include "rdma.h"

static const struct ferry_transport_ops rdma_ops = {
    .size = sizeof(struct ferry_transport_ops),
    .probe = rdma_probe,
    .open = rdma_open,
    .close = rdma_close,
    .query = rdma_query,
    .device = rdma_device_info,
    .export_segment = rdma_export_segment,
    .on_call = rdma_on_call,
    .mem_reg = rdma_mem_reg,
    .mem_dereg = rdma_mem_dereg,
    .export_mem = rdma_export_mem,
    .peer_open = rdma_peer_open,
    .peer_attach = rdma_peer_attach,
    .peer_close = rdma_peer_close,
    .rmem_open = rdma_rmem_open,
    .rmem_close = rdma_rmem_close,
    .queue_open = rdma_queue_open,
    .queue_close = rdma_queue_close,
    .submit = rdma_submit,
    .poll = rdma_poll,
    .cancel = rdma_cancel,
    .queue_fd = rdma_queue_fd,
    .queue_arm = rdma_queue_arm,
    .strerror_vendor = rdma_strerror,
    .on_connection = rdma_on_connection,
    .rail = rdma_rail_names,
};

FERRY_TRANSPORT_PLUGIN("rdma", FERRY_VERSION, &rdma_ops);
