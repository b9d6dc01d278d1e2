/* SPDX-License-Identifier: Apache-2.0 */
#ifndef ABI_1_0_H
#define ABI_1_0_H

/* The public structs as they were in ABI 1.0. Never changed (freeze.py). */
#include "ferry/ferry.h"
#include "ferry/memory_plugin.h"
#include "ferry/metadata_plugin.h"
#include "ferry/plugin.h"
#include "ferry/status.h"
#include "ferry/transport_plugin.h"

struct abi10_options {
    uint32_t size;
    int32_t log_level;
    const char *name;
    const char *bind;
    const char *metadata_server;
    const char *protocol;
    const char *device_name;
    const char *config_json;
    void (*log)(void *log_arg, int level, const char *message);
    void *log_arg;
};

struct abi10_buffer {
    void *addr;
    uint64_t len;
    uint32_t access;
    uint32_t reserved;
    const char *location;
};

struct abi10_request {
    void *local;
    uint64_t remote;
    uint64_t len;
    ferry_segment segment;
    uint32_t op;
    uint32_t reserved;
};

struct abi10_submit {
    uint32_t size;
    uint32_t flags;
    uint32_t timeout_ms;
    uint32_t priority;
    const char *protocol;
    const char *notify_name;
    const void *notify;
    size_t notify_len;
};

struct abi10_batch_status {
    uint64_t total, done, failed;
    uint64_t bytes;
    ferry_status first_error;
    uint32_t reserved;
};

struct abi10_request_status {
    ferry_status status;
    char transport[20];
    char rail[40];
};

struct abi10_notification {
    const char *from;
    const char *name;
    const void *data;
    size_t len;
};

struct abi10_memory_info {
    uint32_t size;
    uint32_t kind;
    int32_t device;
    int32_t numa_node;
    void *alloc_addr;
    uint64_t alloc_len;
    char location[32];
    char pci[16];
};

struct abi10_copy {
    void *dst;
    const void *src;
    uint64_t len;
};

struct abi10_memory_ops {
    uint32_t size;
    uint32_t reserved;
    ferry_status (*probe)(const struct ferry_host *host);
    ferry_status (*open)(const struct ferry_host *host, const struct ferry_kvs *config,
                         struct ferry_memory **mem_out);
    void (*close)(struct ferry_memory *mem);
    ferry_status (*identify)(struct ferry_memory *mem, const void *addr, uint64_t len,
                             struct ferry_memory_info *info_out);
    ferry_status (*copy)(struct ferry_memory *mem, const struct ferry_copy *v, size_t n,
                         struct ferry_copy_job **job_out);
    ferry_status (*job_poll)(struct ferry_copy_job *job);
    ferry_status (*job_wait)(struct ferry_copy_job *job);
    ferry_status (*stage_alloc)(struct ferry_memory *mem, size_t len, void **addr_out);
    void (*stage_free)(struct ferry_memory *mem, void *addr);
    ferry_status (*export_dmabuf)(struct ferry_memory *mem, const void *addr, uint64_t len,
                                  int *fd_out, uint64_t *offset_out);
    ferry_status (*export_ipc)(struct ferry_memory *mem, const void *addr, uint64_t len,
                               struct ferry_kv_sink *out);
    ferry_status (*import_ipc)(struct ferry_memory *mem, const struct ferry_kvs *attrs,
                               void **addr_out);
    void (*close_ipc)(struct ferry_memory *mem, void *addr);
};

struct abi10_memory_plugin {
    struct ferry_plugin_hdr hdr;
    const struct ferry_memory_ops *ops;
};

struct abi10_store_caps {
    uint32_t size;
    uint32_t flags;
    uint64_t max_value;
};

struct abi10_store_put {
    uint32_t size;
    uint32_t ttl_ms;
    uint64_t expect_rev;
    const char *key;
    const void *val;
    size_t val_len;
};

struct abi10_store_event {
    uint32_t size;
    uint32_t type;
    const char *key;
    const void *val;
    size_t val_len;
    uint64_t rev;
};

struct abi10_metadata_ops {
    uint32_t size;
    uint32_t reserved;
    ferry_status (*open)(const struct ferry_host *host, const char *uri,
                         const struct ferry_kvs *config, struct ferry_store **store_out);
    void (*close)(struct ferry_store *store);
    ferry_status (*query)(struct ferry_store *store, struct ferry_store_caps *caps);
    ferry_status (*put)(struct ferry_store *store, const struct ferry_store_put *args,
                        uint32_t timeout_ms, uint64_t *rev_out);
    ferry_status (*get)(struct ferry_store *store, const char *key, uint32_t timeout_ms,
                        struct ferry_buf_sink *out, uint64_t *rev_out);
    ferry_status (*del)(struct ferry_store *store, const char *key, uint32_t timeout_ms);
    ferry_status (*list)(struct ferry_store *store, const char *prefix, uint32_t timeout_ms,
                         struct ferry_kv_sink *out);
    ferry_status (*watch)(struct ferry_store *store, const char *prefix,
                          void (*cb)(void *arg, const struct ferry_store_event *event),
                          void *arg, uint64_t *watch_id_out);
    void (*unwatch)(struct ferry_store *store, uint64_t watch_id);
};

struct abi10_metadata_plugin {
    struct ferry_plugin_hdr hdr;
    const struct ferry_metadata_ops *ops;
    const char *const *schemes;
};

struct abi10_plugin_hdr {
    uint32_t magic;
    uint16_t abi_major;
    uint16_t abi_minor;
    uint32_t size;
    uint32_t reserved;
    const char *name;
    const char *version;
};

struct abi10_kv {
    const char *key;
    const void *val;
    uint32_t val_len;
    uint32_t flags;
};

struct abi10_kvs {
    const struct ferry_kv *v;
    size_t n;
};

struct abi10_kv_sink {
    ferry_status (*put)(struct ferry_kv_sink *sink, const struct ferry_kv *kv);
};

struct abi10_buf_sink {
    ferry_status (*append)(struct ferry_buf_sink *sink, const void *data, size_t len);
};

struct abi10_region {
    void *opaque;
    uint32_t kind;
    int32_t device;
};

struct abi10_host {
    uint32_t size;
    uint16_t abi_major, abi_minor;
    const int *log_level;
    void (*log)(const struct ferry_host *host, enum ferry_log_level level, const char *file,
                int line, const char *fmt, ...)
#if defined(__GNUC__)
        __attribute__((format(printf, 5, 6)))
#endif
        ;
    ferry_status (*peer_call)(const struct ferry_host *host, const char *peer_name,
                              const void *req, size_t req_len, uint32_t timeout_ms,
                              struct ferry_buf_sink *reply);
    ferry_status (*region_get)(const struct ferry_host *host, uint64_t addr, uint64_t len,
                               uint32_t access, struct ferry_region *region_out);
    void (*region_put)(const struct ferry_host *host, struct ferry_region *region);
    ferry_status (*region_write)(const struct ferry_host *host, struct ferry_region *region,
                                 uint64_t addr, const void *src, size_t len);
    ferry_status (*region_read)(const struct ferry_host *host, struct ferry_region *region,
                                uint64_t addr, void *dst, size_t len);
    ferry_status (*stage_alloc)(const struct ferry_host *host, size_t len, void **mem_out);
    void (*stage_free)(const struct ferry_host *host, void *mem);
};

struct abi10_tp_caps {
    uint32_t size;
    uint32_t flags;
    uint32_t local_mem;
    uint32_t remote_mem;
    uint64_t max_xfer_len;
    uint32_t max_list;
    uint32_t max_queues;
    uint32_t n_devices;
    uint32_t addr_align;
    uint32_t latency_ns;
    uint64_t bandwidth_Bps;
};

struct abi10_device {
    uint32_t size;
    int32_t numa_node;
    uint64_t bandwidth_Bps;
    char name[64];
    char pci[16];
};

struct abi10_mem_desc {
    uint32_t size;
    uint32_t kind;
    void *addr;
    uint64_t len;
    int32_t device;
    int32_t dmabuf_fd;
    uint64_t dmabuf_off;
    uint32_t access;
    uint32_t reserved;
};

struct abi10_queue_attr {
    uint32_t size;
    uint32_t device;
    uint32_t depth;
    uint32_t priority;
};

struct abi10_xfer {
    struct ferry_mr *mr;
    struct ferry_rmem *rmem;
    void *local;
    uint64_t remote_off;
    uint64_t len;
};

struct abi10_list {
    uint32_t size;
    uint32_t op;
    struct ferry_peer *peer;
    const struct ferry_xfer *v;
    uint32_t n;
    uint32_t first;
    uint64_t cookie;
    uint32_t flags;
    uint32_t reserved;
};

struct abi10_comp {
    uint64_t cookie;
    uint32_t first;
    uint32_t n;
    ferry_status status;
    int32_t vendor_err;
    uint64_t bytes;
};

struct abi10_transport_ops {
    uint32_t size;
    uint32_t reserved;
    ferry_status (*probe)(const struct ferry_host *host);
    ferry_status (*open)(const struct ferry_host *host, const struct ferry_kvs *config,
                         struct ferry_tp **tp_out);
    void (*close)(struct ferry_tp *tp);
    ferry_status (*query)(struct ferry_tp *tp, struct ferry_tp_caps *caps);
    ferry_status (*device)(struct ferry_tp *tp, uint32_t index, struct ferry_device *dev);
    ferry_status (*export_segment)(struct ferry_tp *tp, struct ferry_kv_sink *out);
    ferry_status (*on_call)(struct ferry_tp *tp, const char *peer_name, const void *req,
                            size_t req_len, struct ferry_buf_sink *reply);
    ferry_status (*mem_reg)(struct ferry_tp *tp, const struct ferry_mem_desc *desc, size_t n,
                            struct ferry_mr **mr_out);
    void (*mem_dereg)(struct ferry_tp *tp, struct ferry_mr *const *mr, size_t n);
    ferry_status (*export_mem)(struct ferry_mr *mr, struct ferry_kv_sink *out);
    ferry_status (*peer_open)(struct ferry_tp *tp, const char *peer_name,
                              const struct ferry_kvs *attrs, struct ferry_peer **peer_out);
    ferry_status (*peer_attach)(struct ferry_peer *peer, struct ferry_queue *queue,
                                uint32_t timeout_ms);
    void (*peer_close)(struct ferry_peer *peer);
    ferry_status (*rmem_open)(struct ferry_peer *peer, uint64_t remote_addr, uint64_t len,
                              const struct ferry_kvs *attrs, struct ferry_rmem **rmem_out);
    void (*rmem_close)(struct ferry_rmem *rmem);
    ferry_status (*queue_open)(struct ferry_tp *tp, const struct ferry_queue_attr *attr,
                               struct ferry_queue **queue_out);
    void (*queue_close)(struct ferry_queue *queue);
    ferry_status (*submit)(struct ferry_queue *queue, const struct ferry_list *list,
                           uint32_t *accepted_out);
    int32_t (*poll)(struct ferry_queue *queue, struct ferry_comp *comp, uint32_t max);
    ferry_status (*cancel)(struct ferry_queue *queue, uint64_t cookie);
    ferry_status (*queue_fd)(struct ferry_queue *queue, int *fd_out);
    ferry_status (*queue_arm)(struct ferry_queue *queue);
    void (*strerror_vendor)(struct ferry_tp *tp, int32_t vendor_err, char *buf, size_t len);
};

struct abi10_transport_plugin {
    struct ferry_plugin_hdr hdr;
    const struct ferry_transport_ops *ops;
};

#endif /* ABI_1_0_H */
