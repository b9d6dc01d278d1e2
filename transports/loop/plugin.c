/* SPDX-License-Identifier: Apache-2.0 */
/* The table of the loop transport, and nothing else. */
#include "loop.h"

static const struct ferry_transport_ops loop_ops = {
    .size = sizeof(loop_ops),
    .probe = loop_probe,
    .open = loop_open,
    .close = loop_close,
    .query = loop_query,
    .device = loop_device,
    .export_segment = loop_export_segment,
    .mem_reg = loop_mem_reg,
    .mem_dereg = loop_mem_dereg,
    .export_mem = loop_export_mem,
    .peer_open = loop_peer_open,
    .peer_attach = loop_peer_attach,
    .peer_close = loop_peer_close,
    .rmem_open = loop_rmem_open,
    .rmem_close = loop_rmem_close,
    .queue_open = loop_queue_open,
    .queue_close = loop_queue_close,
    .submit = loop_submit,
    .poll = loop_poll,
    .cancel = loop_cancel,
    .queue_fd = loop_queue_fd,
    .queue_arm = loop_queue_arm,
};

FERRY_TRANSPORT_PLUGIN("loop", FERRY_VERSION, &loop_ops);
