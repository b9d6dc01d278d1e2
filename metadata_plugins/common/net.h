/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FM_NET_H
#define FM_NET_H

#include <stddef.h>
#include <stdint.h>

#include "ferry/status.h"

/* Sockets for plugins, every step bounded. Deadlines are fm_now_ms() times. A failure is
 * FERRY_EUNREACH and leaves its reason in `why` (room bytes). */

/* A connected, non-blocking, close-on-exec socket with TCP_NODELAY. All addresses of the host
 * are tried. */
ferry_status fm_net_connect(const char *host, uint16_t port, uint64_t deadline_ms, int *fd_out,
                            char *why, size_t room);
ferry_status fm_net_write(int fd, const void *data, size_t len, uint64_t deadline_ms, char *why,
                          size_t room);
/* Exactly `len` bytes. */
ferry_status fm_net_read(int fd, void *data, size_t len, uint64_t deadline_ms, char *why,
                         size_t room);
/* Waits for `events` of poll(); FERRY_EUNREACH once the deadline has passed. */
ferry_status fm_net_wait(int fd, short events, uint64_t deadline_ms, char *why, size_t room);

/*
 * "host", "host:port", "[v6]:port", "v6", "v6%scope:port" as Mooncake reads names: the last
 * colon parts, and a port that is not a decimal number up to 65535 means the default.
 * FERRY_EINVAL: no host, or longer than `room`. host_out gets no brackets.
 */
ferry_status fm_net_split(const char *name, uint16_t default_port, char *host_out, size_t room,
                          uint16_t *port_out);

#endif /* FM_NET_H */
