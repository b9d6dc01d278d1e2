/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FM_LEASES_H
#define FM_LEASES_H

/*
 * Keys with a time to live, for plugins whose server forgets a key that nobody renews. One
 * thread keeps them alive while the store is open; a key that the server lost (restarted empty,
 * or this process slept too long) is put again, unless it is another's by then. Whoever writes
 * such a key takes turns with that thread. Knows nothing of what the values mean.
 */
#include "ferry/metadata_plugin.h"

#define FM_LEASE_CALL_MS 3000u /* for one call of the thread's to the server */

struct fm_leases;

struct fm_leased {
    struct fm_leased *next;
    char *key;
    void *val;
    size_t len;
};

/* All keys of one time to live. */
struct fm_lease {
    struct fm_lease *next;
    uint32_t ttl_ms;
    struct fm_leased *keys;
    uint64_t due_ms; /* when to renew */
    uint32_t retry_ms;

    /* The plugin's own. */
    uint64_t id; /* 0 = none yet */
    int owed;    /* some of its keys may not be at the server under this id */
};

/* What a plugin does at its server; each with the turn and without a lock. */
struct fm_leases_ops {
    /* lease NULL: without a time to live. rev_out may be NULL. */
    ferry_status (*put)(struct ferry_store *store, struct fm_lease *lease,
                        const struct ferry_store_put *args, uint64_t deadline_ms,
                        uint64_t *rev_out);
    ferry_status (*del)(struct ferry_store *store, const char *key, uint64_t deadline_ms);
    /* FERRY_OK: each of its keys is there, or was another's and is dropped. */
    ferry_status (*renew)(struct ferry_store *store, struct fm_lease *lease);
};

/* `name` ("etcd http://host:port") is copied. *leases_out: for fm_leases_close. */
ferry_status fm_leases_open(const struct ferry_host *host, const char *name,
                            const struct fm_leases_ops *ops, struct ferry_store *store,
                            struct fm_leases **leases_out);
/* Joins the thread. The keys are left to expire. NULL is allowed. */
void fm_leases_close(struct fm_leases *leases);

/* A store's put and del: in turn where the key has or is to have a time to live. */
ferry_status fm_leases_put(struct fm_leases *leases, const struct ferry_store_put *args,
                           uint64_t deadline_ms, uint64_t *rev_out);
ferry_status fm_leases_del(struct fm_leases *leases, const char *key, uint64_t deadline_ms);

/* Of `renew`: says that *at was put again, and goes on; or that it is another's, and drops it.
 * The next one to look at. */
struct fm_leased **fm_leased_put_again(struct fm_leases *leases, struct fm_leased **at);
struct fm_leased **fm_leased_lost(struct fm_leases *leases, struct fm_leased **at);

#endif /* FM_LEASES_H */
