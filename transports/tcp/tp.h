/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TCP_TP_H
#define TCP_TP_H

#include "tcp.h"

ferry_status tcp_open(const struct ferry_host *host, const struct ferry_kvs *config,
                      struct ferry_tp **tp_out);
void tcp_close(struct ferry_tp *tp);
ferry_status tcp_query(struct ferry_tp *tp, struct ferry_tp_caps *caps);
ferry_status tcp_device(struct ferry_tp *tp, uint32_t index, struct ferry_device *dev);
ferry_status tcp_export_segment(struct ferry_tp *tp, struct ferry_kv_sink *out);
ferry_status tcp_mem_reg(struct ferry_tp *tp, const struct ferry_mem_desc *desc, size_t n,
                         struct ferry_mr **mr_out);
void tcp_mem_dereg(struct ferry_tp *tp, struct ferry_mr *const *mr, size_t n);
ferry_status tcp_export_mem(struct ferry_mr *mr, struct ferry_kv_sink *out);
void tcp_strerror_vendor(struct ferry_tp *tp, int32_t vendor_err, char *buf, size_t len);

#endif /* TCP_TP_H */
