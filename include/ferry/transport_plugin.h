/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FERRY_TRANSPORT_PLUGIN_H
#define FERRY_TRANSPORT_PLUGIN_H

#include "ferry/plugin.h"

#define FERRY_TRANSPORT_ABI_MAJOR 1
#define FERRY_TRANSPORT_ABI_MINOR 1
#define FERRY_TRANSPORT_SYMBOL    "ferry_transport_plugin"

/* Opaque: each plugin defines its own. */
struct ferry_tp;    /* one open transport (device set) */
struct ferry_queue; /* where transfers are submitted and reaped: one thread at a time */
struct ferry_peer;  /* one remote segment, seen through one transport */
struct ferry_mr;    /* local memory, registered */
struct ferry_rmem;  /* a peer's memory, its keys imported */

enum {
    FERRY_CAP_READ = 1u << 0,
    FERRY_CAP_WRITE = 1u << 1,
    FERRY_CAP_CANCEL = 1u << 2,
    FERRY_CAP_EVENT_FD = 1u << 3,      /* queue_fd and queue_arm work */
    FERRY_CAP_AUTO_PROGRESS = 1u << 4, /* transfers advance with nobody in poll() */
    FERRY_CAP_LOOPBACK = 1u << 5,      /* a peer may be this very process */
    FERRY_CAP_MANUAL = 1u << 6,   /* used only where it is named, never chosen automatically */
    FERRY_CAP_MEMFD = 1u << 7,    /* since 1.1: faster with memory that has FERRY_MEM_MEMFD */
    FERRY_CAP_MOONCAKE = 1u << 8, /* since 1.1: Mooncake's nodes know this protocol */
};

struct ferry_tp_caps {
    uint32_t size; /* in: room; out: bytes written */
    uint32_t flags;
    uint32_t local_mem;  /* FERRY_MEM_BIT() of kinds mem_reg accepts */
    uint32_t remote_mem; /* kinds a peer may expose; the core stages the rest */
    uint64_t max_xfer_len;
    uint32_t max_list; /* most elements worth passing to one submit */
    uint32_t max_queues;
    uint32_t n_devices;  /* NICs, GPUs; at least 1 */
    uint32_t addr_align; /* 1 = any */
    uint32_t latency_ns; /* estimates for ranking; 0 = unknown */
    uint64_t bandwidth_Bps;
};

/* One device, for the core's topology and for striping over several. */
struct ferry_device {
    uint32_t size;     /* in: room; out: bytes written */
    int32_t numa_node; /* -1 = unknown */
    uint64_t bandwidth_Bps;
    char name[64];
    char pci[16]; /* "0000:3b:00.0", "" = none */
};

struct ferry_mem_desc {
    uint32_t size;
    uint32_t kind; /* enum ferry_mem_kind: found once by the core, never per transfer */
    void *addr;
    uint64_t len;
    int32_t device;    /* accelerator ordinal or NUMA node; -1 = unknown */
    int32_t dmabuf_fd; /* -1 = none; borrowed */
    uint64_t dmabuf_off;
    uint32_t access; /* FERRY_ACCESS_ */
    uint32_t reserved;
    /* ABI 1.0 ends here. */
    uint32_t flags;     /* FERRY_MEM_MEMFD */
    int32_t memfd;      /* with that flag: a descriptor that others can map; borrowed */
    uint64_t memfd_off; /* of addr in it */
};
#define FERRY_MEM_MEMFD 1u /* a shared mapping of memfd, which its owner cannot shrink */

struct ferry_queue_attr {
    uint32_t size;
    uint32_t device;   /* index below caps.n_devices: the core stripes, not the plugin */
    uint32_t depth;    /* elements in flight wanted, a hint */
    uint32_t priority; /* 0 = ordinary */
};

/*
 * One transfer of a list. Frozen at 40 bytes: no growth, no per-element pointer
 * chasing. Thousands are laid out in one array that the plugin walks once.
 */
struct ferry_xfer {
    struct ferry_mr *mr;
    struct ferry_rmem *rmem;
    void *local;         /* inside mr */
    uint64_t remote_off; /* from the start of rmem */
    uint64_t len;        /* > 0 */
};

enum ferry_op { FERRY_OP_READ, FERRY_OP_WRITE };

/* Transfers to one peer, in one direction. No order among elements. */
struct ferry_list {
    uint32_t size;
    uint32_t op; /* enum ferry_op */
    struct ferry_peer *peer;
    const struct ferry_xfer *v; /* borrowed until submit returns */
    uint32_t n;
    uint32_t first;    /* what completions call v[0]: for the rest of a list */
    uint64_t cookie;   /* handed back in completions; never read otherwise */
    uint32_t flags;    /* 0 */
    uint32_t reserved; /* 0 */
};

/*
 * "Elements first .. first+n-1 of the list with this cookie have ended so."
 * Every accepted element is covered by exactly one completion. Plugins should
 * join neighbours that ended alike: 4096 small writes need not be 4096 entries.
 */
struct ferry_comp {
    uint64_t cookie;
    uint32_t first;
    uint32_t n;
    ferry_status status;
    int32_t vendor_err; /* for strerror_vendor; 0 = none */
    uint64_t bytes;     /* moved by these elements; all of them if FERRY_OK */
};
FERRY_STATIC_ASSERT(sizeof(struct ferry_comp) == 32, "frozen ABI");
FERRY_STATIC_ASSERT(sizeof(void *) != 8 || sizeof(struct ferry_xfer) == 40, "frozen ABI");

/*
 * THREADS. C = control call: any thread, any time, may block, the plugin locks.
 * Q = queue call: never blocks, never allocates; one thread at a time for one
 * queue, no lock needed; different queues run in parallel and share nothing hot.
 * From a Q call the plugin calls host->log, region_get and region_put, nothing else of the
 * core.
 *
 * COMPLETION. After an element's completion, whatever its status, the transport
 * touches its local memory no more; nor the peer's, unless the status has scope
 * PEER or DEVICE. FERRY_OK on a write means delivered, not sent: whatever reaches
 * that peer later finds the bytes in place. There are no timeouts here: the core
 * times, cancels, at last closes the peer, and each time waits for completions.
 *
 * Optional members may be NULL; the core replaces them with stubs that return
 * FERRY_ENOTSUP, so that no caller tests for NULL.
 */
struct ferry_transport_ops {
    uint32_t size;
    uint32_t reserved;

    /* --- life: open -> (calls) -> close ------------------------------ C --- */

    /*
     * Is this machine fit (devices, kernel, permissions)? FERRY_OK, or FERRY_EDEVICE
     * with one INFO line saying why. Cheap, leaves nothing behind. Optional.
     */
    ferry_status (*probe)(const struct ferry_host *host);

    /*
     * `config`: this transport's part of the configuration, flattened; unknown
     * keys are FERRY_EINVAL. `host` outlives the transport. *tp_out: freed by close.
     * Serving peers' requests starts here (threads, listening sockets).
     *
     * Keys that begin with "core." come from the core, to every transport alike; those of
     * no use are passed over: core.name (ours, as peers know it), core.bind (address to listen
     * on, "" = every address), core.host (the address that peers are told), core.port (a free
     * port nearby, text; to be preferred over any, and no error where it is taken),
     * core.devices (comma list, "" = all).
     */
    ferry_status (*open)(const struct ferry_host *host, const struct ferry_kvs *config,
                         struct ferry_tp **tp_out);

    /*
     * All queues, peers and registrations are already gone (the core sees to it).
     * Joins every thread the plugin started. Cannot fail; NULL is allowed.
     */
    void (*close)(struct ferry_tp *tp);

    ferry_status (*query)(struct ferry_tp *tp, struct ferry_tp_caps *caps);
    ferry_status (*device)(struct ferry_tp *tp, uint32_t index, struct ferry_device *dev);

    /* What peers need to reach us (addresses, GIDs, ports): goes into our segment. */
    ferry_status (*export_segment)(struct ferry_tp *tp, struct ferry_kv_sink *out);

    /* Answer a peer plugin's host->peer_call(). On a core thread. Optional. */
    ferry_status (*on_call)(struct ferry_tp *tp, const char *peer_name, const void *req,
                            size_t req_len, struct ferry_buf_sink *reply);

    /* --- memory ------------------------------------------------------ C --- */

    /*
     * Register n regions on all devices; mr_out has room for n. All or nothing. Each desc
     * begins desc->size bytes after the one before it: a newer core's is longer.
     * The memory stays the caller's and must outlive its mr. mr_out[i]: freed by
     * mem_dereg.
     */
    ferry_status (*mem_reg)(struct ferry_tp *tp, const struct ferry_mem_desc *desc, size_t n,
                            struct ferry_mr **mr_out);
    /* No transfer using them is in flight. Cannot fail. */
    void (*mem_dereg)(struct ferry_tp *tp, struct ferry_mr *const *mr, size_t n);
    /* What a peer needs to reach this region (rkeys): goes into its buffer entry. */
    ferry_status (*export_mem)(struct ferry_mr *mr, struct ferry_kv_sink *out);

    /* --- peers ------------------------------------------------------- C --- */

    /*
     * `attrs`: what the peer's export_segment wrote; copied if needed. Does not
     * connect. *peer_out: freed by peer_close. From the core, where the peer is a node of
     * Mooncake's: core.rpc_host and core.rpc_port (text), its control address.
     */
    ferry_status (*peer_open)(struct ferry_tp *tp, const char *peer_name,
                              const struct ferry_kvs *attrs, struct ferry_peer **peer_out);
    /*
     * Connect the peer on this queue, so that submit never has to. May run beside
     * the queue's poll. FERRY_OK at once where they are connected already.
     * FERRY_ESTALE: another incarnation than the one `attrs` came from answers there.
     */
    ferry_status (*peer_attach)(struct ferry_peer *peer, struct ferry_queue *queue,
                                uint32_t timeout_ms);
    /*
     * Blocks until nothing of this peer's transfers can touch local memory any
     * more. Those unfinished complete with FERRY_ECANCELED at the next poll of
     * their queue. No submit to this peer is running. Detaches it from all queues
     * and closes those of its rmems that are still open. Cannot fail.
     */
    void (*peer_close)(struct ferry_peer *peer);

    /* `attrs`: what the peer's export_mem wrote. *rmem_out: freed by rmem_close or
     * peer_close. */
    ferry_status (*rmem_open)(struct ferry_peer *peer, uint64_t remote_addr, uint64_t len,
                              const struct ferry_kvs *attrs, struct ferry_rmem **rmem_out);
    /* No transfer using it is in flight. Cannot fail. */
    void (*rmem_close)(struct ferry_rmem *rmem);

    /* --- queues ------------------------------------- open, close: C; rest: Q --- */

    /* *queue_out: freed by queue_close. */
    ferry_status (*queue_open)(struct ferry_tp *tp, const struct ferry_queue_attr *attr,
                               struct ferry_queue **queue_out);
    /* Like peer_close for all its transfers, except that no completions follow. */
    void (*queue_close)(struct ferry_queue *queue);

    /*
     * Start a prefix of the list: *accepted_out (always written, 0..n) elements
     * now belong to the transport and will complete; the others are untouched.
     * FERRY_OK: all accepted. FERRY_EAGAIN: queue full; poll, then submit the rest.
     * Other: element *accepted_out is at fault and was not started.
     * One doorbell, one system call or one flush per call, not per element.
     */
    ferry_status (*submit)(struct ferry_queue *queue, const struct ferry_list *list,
                           uint32_t *accepted_out);

    /*
     * Advance transfers and fill `comp`, room for max. Returns how many (0: none
     * yet), or the error that spoilt the whole queue: no Q call on it follows, and what
     * it had accepted has ended once its peer is closed. Errors of single elements are
     * completions, never return values, and never stop the reaping of others.
     */
    int32_t (*poll)(struct ferry_queue *queue, struct ferry_comp *comp, uint32_t max);

    /*
     * Ask that the unfinished elements of a list end soon. They still complete: with
     * FERRY_ECANCELED, or with FERRY_EUNREACH where the transport can tell that nothing it
     * sends arrives. Elements whose bytes may still land complete only once they cannot.
     */
    ferry_status (*cancel)(struct ferry_queue *queue, uint64_t cookie);

    /* A descriptor for epoll, owned by the queue: never read, write or close it. */
    ferry_status (*queue_fd)(struct ferry_queue *queue, int *fd_out);
    /*
     * Make the descriptor readable at the next completion, and wherever a poll is needed before
     * there can be one; also for what is submitted only afterwards, as another thread may.
     * FERRY_EAGAIN: some are waiting already, so poll first; this closes the lost wake-up gap.
     */
    ferry_status (*queue_arm)(struct ferry_queue *queue);

    /* --- words ------------------------------------------------------- C --- */

    /* Writes at most len bytes, NUL-terminated. Optional. */
    void (*strerror_vendor)(struct ferry_tp *tp, int32_t vendor_err, char *buf, size_t len);

    /* ABI 1.0 ends here. Append below, with the minor version that brought it. */

    /*
     * Since 1.1. Answer a Mooncake node's Connection message (JSON, docs/wire.md); what is
     * refused is answered by a `reply_msg`. Asked of the primary transport only. A failure is
     * answered "null". On a core thread. Optional.
     */
    ferry_status (*on_connection)(struct ferry_tp *tp, const void *req, size_t req_len,
                                  struct ferry_buf_sink *reply);

    /*
     * Since 1.1. Which devices carry what this queue submits to this peer, "OURS-THEIRS", for
     * people. NUL-terminated, at most len bytes. After a successful peer_attach, of the same
     * kind of call (C). Optional.
     */
    ferry_status (*rail)(struct ferry_peer *peer, struct ferry_queue *queue, char *text,
                         size_t len);
};
#define FERRY_TRANSPORT_OPS_SIZE_1_0                                                           \
    (offsetof(struct ferry_transport_ops, strerror_vendor) + sizeof(void (*)(void)))

/* The exported symbol's type: data, so that it is checked before any code runs. */
struct ferry_transport_plugin {
    struct ferry_plugin_hdr hdr;
    const struct ferry_transport_ops *ops;
};

/* In each plugin, once: FERRY_TRANSPORT_PLUGIN("tcp", "1.0.0", &tcp_ops); */
#define FERRY_TRANSPORT_PLUGIN(name_, version_, ops_)                                          \
    extern FERRY_PLUGIN_EXPORT const struct ferry_transport_plugin ferry_transport_plugin;     \
    const struct ferry_transport_plugin ferry_transport_plugin = {                             \
        FERRY_PLUGIN_HDR(FERRY_TRANSPORT_ABI_MAJOR, FERRY_TRANSPORT_ABI_MINOR,                 \
                         struct ferry_transport_plugin, name_, version_),                      \
        (ops_)}

#endif /* FERRY_TRANSPORT_PLUGIN_H */
