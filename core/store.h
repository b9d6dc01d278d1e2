/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FY_STORE_H
#define FY_STORE_H

#include "config.h"
#include "doc.h"
#include "loader.h"

/*
 * The engine's view of the metadata service: Mooncake's keys and values over any metadata
 * plugin
 * ("mooncake/[cluster/]ram/NAME" = document, "mooncake/[cluster/]rpc_meta/NAME" = control
 * address). Any thread. Every call is bounded by its timeout_ms.
 */
struct fy_store;

/* `host`: lives as long as the store. Does not connect. FERRY_ENOTSUP: no plugin for the
 * scheme, the text lists those that are there. */
ferry_status fy_store_open(const struct fy_config *config, struct fy_loader *loader,
                           const struct ferry_host *host, const struct fy_log *log,
                           struct fy_store **store_out);
void fy_store_close(struct fy_store *store);

/* Is it the serverless one, where a name is the peer's control address? */
int fy_store_is_p2p(const struct fy_store *store);
/* As configured, without its password. */
const char *fy_store_server(const struct fy_store *store);

/*
 * rpc_meta first, then the document; FERRY_EEXIST where a living node owns the name, also one
 * that took it while we were cut off. What is published is kept up from then on: looked for now
 * and then, and written again where the service lost it or could not be told (FERRY_EUNREACH,
 * FERRY_ETIMEDOUT: it will be), or where another node gave our name up. While the service is
 * known to be away this returns FERRY_EUNREACH at once.
 */
ferry_status fy_store_publish(struct fy_store *store, const char *name, const char *host,
                              uint16_t rpc_port, const char *doc, size_t doc_len,
                              uint32_t timeout_ms);
/* Removes both. Best effort, bounded. */
void fy_store_unpublish(struct fy_store *store, const char *name, uint32_t timeout_ms);

/* Document of a peer. FERRY_ENOENT, FERRY_EUNREACH, FERRY_ETIMEDOUT, FERRY_EINVAL (malformed).
 */
ferry_status fy_store_fetch(struct fy_store *store, const char *name, uint32_t timeout_ms,
                            struct fy_doc **doc_out);
/* The same of a peer whose address is known: it is asked itself, the service only if it does
 * not answer. */
ferry_status fy_store_fetch_again(struct fy_store *store, const char *name, uint32_t timeout_ms,
                                  struct fy_doc **doc_out);
/* Control address of a peer: rpc_meta, or the name itself without a server. Remembered: the
 * service is asked once. host_out: FY_HOST_MAX. */
ferry_status fy_store_address(struct fy_store *store, const char *name, uint32_t timeout_ms,
                              char *host_out, uint16_t *port_out);
void fy_store_forget(struct fy_store *store, const char *name);
/* fy_control_request to a peer by name; where nobody is at the address that was remembered, at
 * the one that the service has now. */
ferry_status fy_store_request(struct fy_store *store, const char *name, int type,
                              const char *body, size_t len, uint64_t deadline_ns,
                              struct fy_buf *reply);

/*
 * Calls `cb` when the control address of any node is written: it came or came back. `name`
 * NULL: events were lost. On a thread of the plugin's; must not call the store nor block. Once
 * a store. FERRY_ENOTSUP: the service has no watches, or ferry.metadata.watch says no.
 */
ferry_status fy_store_watch(struct fy_store *store, void (*cb)(void *arg, const char *name),
                            void *arg);
void fy_store_unwatch(struct fy_store *store);
/* How old a peer's document may become before it is read again (ferry.metadata.refresh_ms). */
uint32_t fy_store_refresh_ms(const struct fy_store *store);

#endif /* FY_STORE_H */
