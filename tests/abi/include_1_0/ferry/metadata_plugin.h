/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FERRY_METADATA_PLUGIN_H
#define FERRY_METADATA_PLUGIN_H

#include "ferry/plugin.h"

#define FERRY_METADATA_ABI_MAJOR 1
#define FERRY_METADATA_ABI_MINOR 0
#define FERRY_METADATA_SYMBOL    "ferry_metadata_plugin"

struct ferry_store; /* one connection to one metadata service */

enum {
    FERRY_STORE_CAP_LEASE = 1u << 0, /* ttl_ms is honoured; else the core republishes */
    FERRY_STORE_CAP_CAS = 1u << 1,   /* expect_rev is honoured */
    FERRY_STORE_CAP_WATCH = 1u << 2,
    FERRY_STORE_CAP_LIST = 1u << 3,
};

struct ferry_store_caps {
    uint32_t size; /* in: room; out: bytes written */
    uint32_t flags;
    uint64_t max_value;
};

/* ttl_ms: the plugin keeps the key alive for as long as its store is open and the key neither
 * deleted nor put again; it vanishes ttl_ms after the store was closed or the process died. */
struct ferry_store_put {
    uint32_t size;
    uint32_t ttl_ms;     /* 0 = for ever */
    uint64_t expect_rev; /* FERRY_REV_ANY, FERRY_REV_ABSENT, or the rev last seen */
    const char *key;
    const void *val;
    size_t val_len;
};
#define FERRY_REV_ANY    0u
#define FERRY_REV_ABSENT UINT64_MAX

enum ferry_store_event_type { FERRY_STORE_PUT, FERRY_STORE_DELETED, FERRY_STORE_RESYNC };

/* Borrowed until the callback returns. RESYNC: events were lost, list again. */
struct ferry_store_event {
    uint32_t size;
    uint32_t type;
    const char *key;
    const void *val;
    size_t val_len;
    uint64_t rev;
};

/*
 * Key-value only: the meaning of values (JSON of segments) is the core's.
 *
 * THREADS. Every call may come from any thread, at once with others, and may
 * block up to its timeout_ms (0 = the store's default, never for ever). The
 * plugin locks or keeps one connection for each thread. watch callbacks run on
 * the plugin's thread and must not call the store.
 *
 * ERRORS. FERRY_ENOENT means the service answered and the key is absent. Anything
 * it could not find out is FERRY_EUNREACH: the core keeps what it has cached then.
 * FERRY_ERANGE: the value is longer than caps.max_value or than the service takes.
 * FERRY_ECONFLICT: expect_rev does not hold. What the caps deny (a ttl_ms, an expect_rev)
 * is FERRY_ENOTSUP. The reason of a failure is one WARN line, logged in the caller's
 * thread before the call returns: the core shows it to the user. No secrets in it.
 *
 * Of `host`, metadata plugins use `log` and `log_level`; the other members may be NULL.
 */
struct ferry_metadata_ops {
    uint32_t size;
    uint32_t reserved;

    /*
     * `uri`: e.g. "etcd://10.0.0.1:2379"; need not connect yet. `host` outlives
     * the store. *store_out: freed by close. `config`: as with transports; unknown keys
     * are FERRY_EINVAL, except those that begin with "core.".
     */
    ferry_status (*open)(const struct ferry_host *host, const char *uri,
                         const struct ferry_kvs *config, struct ferry_store **store_out);
    /* No calls are under way; stops watches, joins threads. Leaves keys in place. */
    void (*close)(struct ferry_store *store);

    ferry_status (*query)(struct ferry_store *store, struct ferry_store_caps *caps);

    /* *rev_out (may be NULL): the key's new revision, 0 if the service has none. */
    ferry_status (*put)(struct ferry_store *store, const struct ferry_store_put *args,
                        uint32_t timeout_ms, uint64_t *rev_out);

    /* Appends the value to `out`; nothing is appended unless FERRY_OK. */
    ferry_status (*get)(struct ferry_store *store, const char *key, uint32_t timeout_ms,
                        struct ferry_buf_sink *out, uint64_t *rev_out);

    /* FERRY_OK also where the key was absent. */
    ferry_status (*del)(struct ferry_store *store, const char *key, uint32_t timeout_ms);

    /* Keys below prefix, no values: kv.val is NULL. Optional. */
    ferry_status (*list)(struct ferry_store *store, const char *prefix, uint32_t timeout_ms,
                         struct ferry_kv_sink *out);

    /* `arg` stays the caller's until unwatch returns, and no callback runs after. Optional. */
    ferry_status (*watch)(struct ferry_store *store, const char *prefix,
                          void (*cb)(void *arg, const struct ferry_store_event *event),
                          void *arg, uint64_t *watch_id_out);
    void (*unwatch)(struct ferry_store *store, uint64_t watch_id);

    /* ABI 1.0 ends here. */
};
#define FERRY_METADATA_OPS_SIZE_1_0                                                            \
    (offsetof(struct ferry_metadata_ops, unwatch) + sizeof(void (*)(void)))

struct ferry_metadata_plugin {
    struct ferry_plugin_hdr hdr;
    const struct ferry_metadata_ops *ops;
    const char *const *schemes; /* NULL-terminated: {"etcd", "etcds", NULL} */
};

/* In each plugin, once: FERRY_METADATA_PLUGIN("etcd", "1.0.0", &etcd_ops, schemes); */
#define FERRY_METADATA_PLUGIN(name_, version_, ops_, schemes_)                                 \
    extern FERRY_PLUGIN_EXPORT const struct ferry_metadata_plugin ferry_metadata_plugin;       \
    const struct ferry_metadata_plugin ferry_metadata_plugin = {                               \
        .hdr = {.magic = FERRY_PLUGIN_MAGIC,                                                   \
                .abi_major = FERRY_METADATA_ABI_MAJOR,                                         \
                .abi_minor = FERRY_METADATA_ABI_MINOR,                                         \
                .size = sizeof(struct ferry_metadata_plugin),                                  \
                .name = (name_),                                                               \
                .version = (version_)},                                                        \
        .ops = (ops_),                                                                         \
        .schemes = (schemes_),                                                                 \
    }

#endif /* FERRY_METADATA_PLUGIN_H */
