/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table. It and the descriptor are data: the core reads them in the file before it runs any
 * of our code, so this plugin has no constructors. What is left out (probe, on_call,
 * strerror_vendor) is optional.
 */
#include "sample.h"

static const struct ferry_transport_ops sample_ops = {
    .size = sizeof(sample_ops),
    .open = sample_open,
    .close = sample_close,
    .query = sample_query,
    .device = sample_device,
    .export_segment = sample_export_segment,
    .mem_reg = sample_mem_reg,
    .mem_dereg = sample_mem_dereg,
    .export_mem = sample_export_mem,
    .peer_open = sample_peer_open,
    .peer_attach = sample_peer_attach,
    .peer_close = sample_peer_close,
    .rmem_open = sample_rmem_open,
    .rmem_close = sample_rmem_close,
    .queue_open = sample_queue_open,
    .queue_close = sample_queue_close,
    .submit = sample_submit,
    .poll = sample_poll,
    .cancel = sample_cancel,
    .queue_fd = sample_queue_fd,
    .queue_arm = sample_queue_arm,
};

/* The name is that of the file: ferry_transport_sample.so. */
FERRY_TRANSPORT_PLUGIN("sample", "0.1.0", &sample_ops);
