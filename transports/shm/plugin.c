/* SPDX-License-Identifier: Apache-2.0 */
/* The table of the shm transport, and nothing else. */
#include "shm.h"

static const struct ferry_transport_ops shm_ops = {
    .size = sizeof(shm_ops),
    .probe = shm_probe,
    .open = shm_tp_open,
    .close = shm_tp_close,
    .query = shm_query,
    .device = shm_device,
    .export_segment = shm_export_segment,
    .mem_reg = shm_mem_reg,
    .mem_dereg = shm_mem_dereg,
    .export_mem = shm_export_mem,
    .peer_open = shm_peer_open,
    .peer_attach = shm_peer_attach,
    .peer_close = shm_peer_close,
    .rmem_open = shm_rmem_open,
    .rmem_close = shm_rmem_close,
    .queue_open = shm_queue_open,
    .queue_close = shm_queue_close,
    .submit = shm_submit,
    .poll = shm_poll,
    .cancel = shm_cancel,
    .queue_fd = shm_queue_fd,
    .queue_arm = shm_queue_arm,
    .strerror_vendor = shm_strerror_vendor,
};

FERRY_TRANSPORT_PLUGIN("shm", FERRY_VERSION, &shm_ops);
