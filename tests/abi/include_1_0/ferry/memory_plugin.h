/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FERRY_MEMORY_PLUGIN_H
#define FERRY_MEMORY_PLUGIN_H

#include "ferry/plugin.h"

/*
 * Memory that is not plain host memory: what it is, how it is copied, how others reach it.
 * Host memory is the core's own. One plugin a vendor ("cuda"); the library of the vendor is
 * loaded by the plugin alone, so that a machine without it loses nothing but this plugin.
 */
#define FERRY_MEMORY_ABI_MAJOR 1
#define FERRY_MEMORY_ABI_MINOR 0
#define FERRY_MEMORY_SYMBOL    "ferry_memory_plugin"

struct ferry_memory; /* one opened plugin */
struct ferry_copy_job;

struct ferry_memory_info {
    uint32_t size;     /* in: room; out: bytes written */
    uint32_t kind;     /* enum ferry_mem_kind */
    int32_t device;    /* ordinal */
    int32_t numa_node; /* nearest; -1 = unknown */
    void *alloc_addr;  /* start and length of the allocation it lies in */
    uint64_t alloc_len;
    char location[32]; /* as published and as users write it: "cuda:0" */
    char pci[16];
};

/* One copy of a list. Frozen at 24 bytes. Either end may be any memory this plugin knows, or
 * host memory. */
struct ferry_copy {
    void *dst;
    const void *src;
    uint64_t len;
};

/*
 * THREADS. Any thread; a call sets the device it needs and leaves the thread's as it found it.
 * No call creates a context on a device that holds none of the memory named.
 */
struct ferry_memory_ops {
    uint32_t size;
    uint32_t reserved;

    /* FERRY_OK, or FERRY_EDEVICE with one INFO line why. Optional. */
    ferry_status (*probe)(const struct ferry_host *host);
    ferry_status (*open)(const struct ferry_host *host, const struct ferry_kvs *config,
                         struct ferry_memory **mem_out);
    void (*close)(struct ferry_memory *mem);

    /* FERRY_ENOENT: not ours (plain host memory). Called at registration, never per transfer.
     */
    ferry_status (*identify)(struct ferry_memory *mem, const void *addr, uint64_t len,
                             struct ferry_memory_info *info_out);

    /*
     * Copy a list, all of it under way at once: thousands of small pieces must cost about what
     * one large copy costs. *job_out: ended by job_wait.
     */
    ferry_status (*copy)(struct ferry_memory *mem, const struct ferry_copy *v, size_t n,
                         struct ferry_copy_job **job_out);
    /* FERRY_EAGAIN while it runs. */
    ferry_status (*job_poll)(struct ferry_copy_job *job);
    /* Blocks, frees the job, returns its result. Nothing is touched after it. */
    ferry_status (*job_wait)(struct ferry_copy_job *job);

    /* Host memory that this device copies to and from at full speed. */
    ferry_status (*stage_alloc)(struct ferry_memory *mem, size_t len, void **addr_out);
    void (*stage_free)(struct ferry_memory *mem, void *addr);

    /* For NICs: *fd_out belongs to the caller. FERRY_ENOTSUP where the driver cannot. Optional.
     */
    ferry_status (*export_dmabuf)(struct ferry_memory *mem, const void *addr, uint64_t len,
                                  int *fd_out, uint64_t *offset_out);

    /* For another process of this host: what it needs to map the memory, and the mapping.
     * Optional. */
    ferry_status (*export_ipc)(struct ferry_memory *mem, const void *addr, uint64_t len,
                               struct ferry_kv_sink *out);
    ferry_status (*import_ipc)(struct ferry_memory *mem, const struct ferry_kvs *attrs,
                               void **addr_out);
    void (*close_ipc)(struct ferry_memory *mem, void *addr);

    /* ABI 1.0 ends here. */
};

struct ferry_memory_plugin {
    struct ferry_plugin_hdr hdr;
    const struct ferry_memory_ops *ops;
};

#endif /* FERRY_MEMORY_PLUGIN_H */
