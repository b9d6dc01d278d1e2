/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FY_LOCAL_H
#define FY_LOCAL_H

#include "control.h"

/*
 * The socket where other processes of this user on this machine ask a running node what it
 * does. One file a node, in a folder that only this user can look into; on top of that both
 * ends ask the kernel who the other one is. Frames are the control channel's, of type
 * FY_CONTROL_CALL; the body is a topic of ferry_engine_describe, as a JSON text.
 */
struct fy_local;

/* Answers a topic. Runs on a thread of the socket's own; must not wait for the network. */
typedef ferry_status (*fy_local_handler)(void *arg, const char *topic, struct fy_buf *reply);

/* `id`: what tells the node from others of this process. `log` is borrowed until close. */
ferry_status fy_local_open(const char *id, fy_local_handler handler, void *arg,
                           const struct fy_log *log, struct fy_local **local_out);
/* No handler runs after it has returned. NULL is allowed. */
void fy_local_close(struct fy_local *local);

/* Calls `found` with the path of each node's socket until it returns other than FERRY_OK, which
 * is returned. Removes those whose node is gone. */
ferry_status fy_local_list(ferry_status (*found)(void *arg, const char *path), void *arg);
/* Asks one of them, blocking until the deadline at most; `reply` gets the JSON text. */
ferry_status fy_local_ask(const char *path, const char *topic, uint64_t deadline_ns,
                          struct fy_buf *reply);

#endif /* FY_LOCAL_H */
