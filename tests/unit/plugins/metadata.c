/* SPDX-License-Identifier: Apache-2.0 */
/* Metadata stores that hold nothing, right and wrong ones: what differs is set by the build. */
#include "ferry/metadata_plugin.h"

static ferry_status open_(const struct ferry_host *host, const char *uri,
                          const struct ferry_kvs *config, struct ferry_store **store_out)
{
    return FERRY_EUNREACH;
}

static void close_(struct ferry_store *store)
{
}

static ferry_status query(struct ferry_store *store, struct ferry_store_caps *caps)
{
    return FERRY_EUNREACH;
}

static ferry_status put(struct ferry_store *store, const struct ferry_store_put *args,
                        uint32_t timeout_ms, uint64_t *rev_out)
{
    return FERRY_EUNREACH;
}

static ferry_status get(struct ferry_store *store, const char *key, uint32_t timeout_ms,
                        struct ferry_buf_sink *out, uint64_t *rev_out)
{
    return FERRY_EUNREACH;
}

static ferry_status del(struct ferry_store *store, const char *key, uint32_t timeout_ms)
{
    return FERRY_EUNREACH;
}

static const struct ferry_metadata_ops ops = {
    .size = sizeof(ops),
    .open = open_,
    .close = close_,
    .query = query,
    .put = put,
    .get = get,
#ifndef NO_DEL
    .del = del,
#endif
};

#ifdef NO_DEL
extern FERRY_PLUGIN_EXPORT ferry_status (*const ferry_test_unused)(struct ferry_store *store,
                                                                   const char *key,
                                                                   uint32_t timeout_ms);
ferry_status (*const ferry_test_unused)(struct ferry_store *store, const char *key,
                                        uint32_t timeout_ms) = del;
#endif

static const char *const schemes[] = {SCHEMES NULL};

extern FERRY_PLUGIN_EXPORT const struct ferry_metadata_plugin ferry_metadata_plugin;
const struct ferry_metadata_plugin ferry_metadata_plugin = {
    .hdr = {.magic = FERRY_PLUGIN_MAGIC,
            .abi_major = FERRY_METADATA_ABI_MAJOR,
            .abi_minor = FERRY_METADATA_ABI_MINOR,
            .size = sizeof(struct ferry_metadata_plugin),
            .name = NAME,
            .version = "1.0"},
    .ops = &ops,
    .schemes = schemes,
};
