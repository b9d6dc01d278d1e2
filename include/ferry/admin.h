/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FERRY_ADMIN_H
#define FERRY_ADMIN_H

/*
 * For operators: what a metadata server holds, whose it is, and whether its owners live. Opens
 * no transport, listens on nothing and publishes nothing, so that it can be used beside running
 * nodes with their own configuration. The rules of ferry.h hold: any thread, at once with
 * others; ferry_error() has the words; JSON texts are freed by ferry_string_free.
 */
#include "ferry/ferry.h"

#ifdef __cplusplus
extern "C" {
#endif

struct ferry_admin;

/*
 * The metadata server of a configuration: of the file `path`, or with NULL of `options` alone.
 * `role` is as in ferry_engine_open_file, NULL for none. Does not connect. `options` may be
 * NULL where there is a path. FERRY_EINVAL, FERRY_ENOENT: the configuration; FERRY_ENOTSUP: no
 * plugin for the server's scheme.
 */
FERRY_API ferry_status ferry_admin_open(const char *path, const char *role,
                                        const struct ferry_options *options,
                                        struct ferry_admin **admin_out);
/* NULL is allowed. */
FERRY_API void ferry_admin_close(struct ferry_admin *admin);

/*
 * "config": as understood, without secrets. "store": server, plugin, what it can do. "address":
 * what a node with this configuration would publish, and what is wrong with it. "plugins": as
 * ferry_engine_describe. Does not wait for the server.
 */
FERRY_API ferry_status ferry_admin_describe(struct ferry_admin *admin, const char *what,
                                            char **json_out);

/* Names of the nodes that are published, as a list of texts. FERRY_ENOTSUP: the server cannot
 * list; FERRY_EUNREACH: it does not answer. */
FERRY_API ferry_status ferry_admin_names(struct ferry_admin *admin, uint32_t timeout_ms,
                                         char **json_out);

/*
 * One node: "name", "kind" ("ferry" or "mooncake"), "address" (control), "transports",
 * "buffers", "bytes", "epoch", "published" (time of its last document, in its own time zone),
 * "document" as it is, and "state": "answers"; "silent" (its port accepts and says nothing);
 * "gone" (nobody is there, or another node); "unknown" (it has no address). "why" has the
 * words. Waits for server and node. FERRY_ENOENT: nothing of that name is published.
 */
FERRY_API ferry_status ferry_admin_node(struct ferry_admin *admin, const char *name,
                                        uint32_t timeout_ms, char **json_out);

/*
 * Removes what a node left behind. It is asked once more first: FERRY_EEXIST where it answers
 * or is silent, and nothing is removed.
 */
FERRY_API ferry_status ferry_admin_remove(struct ferry_admin *admin, const char *name,
                                          uint32_t timeout_ms);

/*
 * Blocks until a node is published or published again. The first call begins to listen and
 * returns FERRY_OK at once: who looked before it may have missed something, and looks again.
 * FERRY_EAGAIN: none in that time; FERRY_ENOTSUP: the server has no watches. One thread at a
 * time.
 */
FERRY_API ferry_status ferry_admin_wait(struct ferry_admin *admin, uint32_t timeout_ms);

/*
 * Running nodes of this user on this machine, a list of objects: "name", "pid", "epoch",
 * "version", "socket". Nodes with "status_socket": false are not among them. Waits at most
 * `timeout_ms` for all of them together; one that does not answer is left out.
 */
FERRY_API ferry_status ferry_nodes(uint32_t timeout_ms, char **json_out);
/*
 * What ferry_engine_describe says in another process of this user: `node` is the name of its
 * engine, or its process id as text; NULL where there is only one. FERRY_ENOENT: there is no
 * such node (the text lists those that are there); FERRY_EEXIST: there are several;
 * FERRY_ETIMEDOUT: it does not answer.
 */
FERRY_API ferry_status ferry_node_describe(const char *node, const char *what,
                                           uint32_t timeout_ms, char **json_out);

#ifdef __cplusplus
}
#endif

#endif /* FERRY_ADMIN_H */
