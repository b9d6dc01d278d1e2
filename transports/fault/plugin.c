/* SPDX-License-Identifier: Apache-2.0 */
/* The table of the fault transport, and nothing else. */
#include "fault.h"

static const struct ferry_transport_ops fault_ops = {
    .size = sizeof(fault_ops),
    .probe = fault_probe,
    .open = fault_open,
    .close = fault_close,
    .query = fault_query,
    .device = fault_device,
    .export_segment = fault_export_segment,
    .on_call = fault_on_call,
    .mem_reg = fault_mem_reg,
    .mem_dereg = fault_mem_dereg,
    .export_mem = fault_export_mem,
    .peer_open = fault_peer_open,
    .peer_attach = fault_peer_attach,
    .peer_close = fault_peer_close,
    .rmem_open = fault_rmem_open,
    .rmem_close = fault_rmem_close,
    .queue_open = fault_queue_open,
    .queue_close = fault_queue_close,
    .submit = fault_submit,
    .poll = fault_poll,
    .cancel = fault_cancel,
    .queue_fd = fault_queue_fd,
    .queue_arm = fault_queue_arm,
    .strerror_vendor = fault_strerror_vendor,
    .on_connection = fault_on_connection,
    .rail = fault_rail,
};

FERRY_TRANSPORT_PLUGIN("fault", FERRY_VERSION, &fault_ops);
