/* SPDX-License-Identifier: Apache-2.0 */
/* The table of the libfabric transport, and nothing else. */
#include "fab.h"

static const struct ferry_transport_ops fab_ops = {
    .size = sizeof(struct ferry_transport_ops),
    .probe = fab_probe,
    .open = fab_open,
    .close = fab_close,
    .query = fab_query,
    .device = fab_device_info,
    .export_segment = fab_export_segment,
    .on_call = fab_on_call,
    .mem_reg = fab_mem_reg,
    .mem_dereg = fab_mem_dereg,
    .export_mem = fab_export_mem,
    .peer_open = fab_peer_open,
    .peer_attach = fab_peer_attach,
    .peer_close = fab_peer_close,
    .rmem_open = fab_rmem_open,
    .rmem_close = fab_rmem_close,
    .queue_open = fab_queue_open,
    .queue_close = fab_queue_close,
    .submit = fab_submit,
    .poll = fab_poll,
    .cancel = fab_cancel,
    .queue_fd = fab_queue_fd,
    .queue_arm = fab_queue_arm,
    .strerror_vendor = fab_strerror,
};

FERRY_TRANSPORT_PLUGIN("libfabric", FERRY_VERSION, &fab_ops);
