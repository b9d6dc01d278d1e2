/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The TCP transport's table, and nothing else.
 */
#include "initiator.h"
#include "tp.h"

static const struct ferry_transport_ops tcp_ops = {
    .size = sizeof tcp_ops,
    .open = tcp_open,
    .close = tcp_close,
    .query = tcp_query,
    .device = tcp_device,
    .export_segment = tcp_export_segment,
    .mem_reg = tcp_mem_reg,
    .mem_dereg = tcp_mem_dereg,
    .export_mem = tcp_export_mem,
    .peer_open = tcp_peer_open,
    .peer_attach = tcp_peer_attach,
    .peer_close = tcp_peer_close,
    .rmem_open = tcp_rmem_open,
    .rmem_close = tcp_rmem_close,
    .queue_open = tcp_queue_open,
    .queue_close = tcp_queue_close,
    .submit = tcp_submit,
    .poll = tcp_poll,
    .cancel = tcp_cancel,
    .queue_fd = tcp_queue_fd,
    .queue_arm = tcp_queue_arm,
    .strerror_vendor = tcp_strerror_vendor,
};

FERRY_TRANSPORT_PLUGIN("tcp", FERRY_VERSION, &tcp_ops);
