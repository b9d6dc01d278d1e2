/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TCP_SERVER_H
#define TCP_SERVER_H

#include "tcp.h"

/* The passive side's threads: they accept, and drive what target.h does. */

/* Listens and starts the threads. */
ferry_status tcp_server_open(struct ferry_tp *tp, struct tcp_server **server_out);
void tcp_server_close(struct tcp_server *server);
uint16_t tcp_server_port(const struct tcp_server *server);

#endif /* TCP_SERVER_H */
