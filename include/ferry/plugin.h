/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FERRY_PLUGIN_H
#define FERRY_PLUGIN_H

#include <stddef.h>
#include <stdint.h>

#include "ferry/status.h"

#ifdef __cplusplus
#define FERRY_STATIC_ASSERT static_assert
#else
#define FERRY_STATIC_ASSERT __extension__ _Static_assert /* C99 has it as an extension */
#endif

/*
 * What every plugin and the core share.
 *
 * Rules that hold for every call in these headers:
 *  - A pointer passed in is borrowed until the call returns, unless its comment
 *    says otherwise. A pointer passed out belongs to whoever the comment names.
 *  - No allocation crosses the boundary: memory is freed by the side that made it.
 *  - Output arguments are last, named _out, and written only on success.
 *  - Structs that may grow start with `size`, set by whoever fills the struct.
 *    Readers use no byte beyond `size`; new fields go at the end, 0 = old behaviour.
 */

#define FERRY_PLUGIN_MAGIC 0x31595246u /* "FRY1" */

/* First member of every plugin descriptor. Never changes. */
struct ferry_plugin_hdr {
    uint32_t magic;      /* FERRY_PLUGIN_MAGIC */
    uint16_t abi_major;  /* must equal the core's */
    uint16_t abi_minor;  /* for messages only: `size` decides what is there */
    uint32_t size;       /* sizeof(the whole descriptor) in the plugin's build */
    uint32_t reserved;   /* 0 */
    const char *name;    /* lower case, e.g. "rdma": static storage */
    const char *version; /* of the plugin: static storage */
};

struct ferry_kv {
    const char *key; /* NUL-terminated, [a-z0-9_.]+ */
    const void *val; /* val_len bytes */
    uint32_t val_len;
    uint32_t flags; /* FERRY_KV_TEXT or FERRY_KV_JSON, else bytes */
};
#define FERRY_KV_TEXT 1u /* val is UTF-8: a JSON string in the segment's document */
#define FERRY_KV_JSON                                                                          \
    2u /* val is JSON text, put into the document as it is: a number, an array */

struct ferry_kvs {
    const struct ferry_kv *v;
    size_t n;
};

/* Where a callee writes keys and values. `put` copies: the callee keeps its own. */
struct ferry_kv_sink {
    ferry_status (*put)(struct ferry_kv_sink *sink, const struct ferry_kv *kv);
};

/* Where a callee writes bytes; each call appends a copy. */
struct ferry_buf_sink {
    ferry_status (*append)(struct ferry_buf_sink *sink, const void *data, size_t len);
};

enum ferry_log_level {
    FERRY_LOG_ERROR,
    FERRY_LOG_WARN,
    FERRY_LOG_INFO,
    FERRY_LOG_DEBUG,
    FERRY_LOG_TRACE
};

/* Kinds of memory. Whose accelerator it is, the memory plugin that recognised it says by its
 * name. */
enum ferry_mem_kind { FERRY_MEM_HOST, FERRY_MEM_DEVICE, FERRY_MEM_MANAGED, FERRY_MEM_FILE };
#define FERRY_MEM_BIT(kind) (1u << (kind))

enum {
    FERRY_ACCESS_LOCAL_WRITE = 1u << 0,
    FERRY_ACCESS_REMOTE_READ = 1u << 1,
    FERRY_ACCESS_REMOTE_WRITE = 1u << 2,
};

/* A registered region, held: it is not unregistered before region_put. */
struct ferry_region {
    void *opaque;
    uint32_t kind;  /* enum ferry_mem_kind */
    int32_t device; /* accelerator ordinal or NUMA node; -1 = unknown */
};

/*
 * What the core gives a plugin. Lives from open() until close() returns. Any thread
 * may call any member; from queue calls only `log`, region_get and region_put.
 */
struct ferry_host {
    uint32_t size;
    uint16_t abi_major, abi_minor;
    const int *log_level; /* read with relaxed atomics; skip formatting above it */

    void (*log)(const struct ferry_host *host, enum ferry_log_level level, const char *file,
                int line, const char *fmt, ...)
#if defined(__GNUC__)
        __attribute__((format(printf, 5, 6)))
#endif
        ;

    /*
     * Ask the same plugin in a peer a question (exchange of QP numbers and such)
     * over the core's control channel; it is answered by its on_call(). Blocks.
     */
    ferry_status (*peer_call)(const struct ferry_host *host, const char *peer_name,
                              const void *req, size_t req_len, uint32_t timeout_ms,
                              struct ferry_buf_sink *reply);

    /*
     * For the passive side, before it touches what a peer named: the registered region that
     * holds [addr, addr + len) with every right in `access`. FERRY_ERANGE: no such region;
     * FERRY_EACCESS: registered without that right. Lock-free.
     */
    ferry_status (*region_get)(const struct ferry_host *host, uint64_t addr, uint64_t len,
                               uint32_t access, struct ferry_region *region_out);
    void (*region_put)(const struct ferry_host *host, struct ferry_region *region);

    /*
     * Copy between the plugin's own host memory and a held region of any kind, for
     * transports whose wire ends in host memory. Blocks until the bytes are there.
     * Staging memory that is fast for every kind in use comes from stage_alloc.
     */
    ferry_status (*region_write)(const struct ferry_host *host, struct ferry_region *region,
                                 uint64_t addr, const void *src, size_t len);
    ferry_status (*region_read)(const struct ferry_host *host, struct ferry_region *region,
                                uint64_t addr, void *dst, size_t len);
    ferry_status (*stage_alloc)(const struct ferry_host *host, size_t len, void **mem_out);
    void (*stage_free)(const struct ferry_host *host, void *mem);

    /*
     * Since 1.1. As peer_call, but of a Mooncake node: `req` is the body of its Connection
     * message (JSON, docs/wire.md), and what is appended to `reply` is the body of its answer.
     */
    ferry_status (*peer_connection)(const struct ferry_host *host, const char *peer_name,
                                    const void *req, size_t req_len, uint32_t timeout_ms,
                                    struct ferry_buf_sink *reply);
};

#define FERRY_PLUGIN_EXPORT __attribute__((visibility("default")))

/* A plugin's header, its members in their order: C++ before 2020 knows no others. */
#define FERRY_PLUGIN_HDR(major_, minor_, type_, name_, version_)                               \
    {                                                                                          \
        FERRY_PLUGIN_MAGIC, (major_), (minor_), sizeof(type_), 0, (name_), (version_)          \
    }

#endif /* FERRY_PLUGIN_H */
