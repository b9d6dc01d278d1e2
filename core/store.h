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

/* rpc_meta first, then the document; FERRY_EEXIST where a living node owns the name. */
ferry_status fy_store_publish(struct fy_store *store, const char *name, const char *host,
                              uint16_t rpc_port, const char *doc, size_t doc_len,
                              uint32_t timeout_ms);
/* Removes both. Best effort, bounded. */
void fy_store_unpublish(struct fy_store *store, const char *name, uint32_t timeout_ms);

/* Document of a peer. FERRY_ENOENT, FERRY_EUNREACH, FERRY_ETIMEDOUT, FERRY_EINVAL (malformed).
 */
ferry_status fy_store_fetch(struct fy_store *store, const char *name, uint32_t timeout_ms,
                            struct fy_doc **doc_out);
/* Control address of a peer: rpc_meta, or the name itself without a server. host_out:
 * FY_HOST_MAX. */
ferry_status fy_store_address(struct fy_store *store, const char *name, uint32_t timeout_ms,
                              char *host_out, uint16_t *port_out);

#endif /* FY_STORE_H */
