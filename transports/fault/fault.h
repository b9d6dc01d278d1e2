/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FAULT_H
#define FAULT_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "ferry/transport_plugin.h"

#define FAULT_DEFAULT_DEPTH 1024u
#define FAULT_MAX_DEPTH     65536u
#define FAULT_MAX_RUN       256u

/* Per mille, all of them, but for the first four. */
struct fault_config {
    uint64_t seed;
    uint64_t delay_us;
    uint64_t attach_us, close_us;
    uint32_t refuse, delay, fail, truncate, kill, reorder, never;
    uint32_t open_fail, reg_fail, attach_fail, stale;
};

struct ferry_tp {
    const struct ferry_host *host;
    struct fault_config cfg;
    struct ferry_transport_ops inner; /* a copy, holes filled */
    struct ferry_tp *itp;
    uint32_t inner_flags;      /* enum of caps */
    pthread_mutex_t lock;      /* the lists of peers and queues, and each peer's of rmems */
    struct ferry_peer *closed; /* closed, and perhaps still named by elements */
    struct ferry_queue *queues;
    uint32_t n_queues;         /* ever opened: numbers their random streams */
    atomic_uint regs, attachs; /* calls so far: the same for theirs */
};

struct ferry_mr {
    struct ferry_tp *tp;
    struct ferry_mr *inner;
    uint8_t *addr;
    uint64_t len;
};

struct ferry_rmem {
    struct ferry_rmem *inner;
    struct ferry_peer *peer;
    uint64_t len;
    struct ferry_rmem *next, **link; /* the transport's lock */
};

struct ferry_peer {
    struct ferry_tp *tp;
    struct ferry_peer *inner;
    struct ferry_rmem *rmems;
    struct ferry_peer *next; /* among the closed */
    atomic_bool dead;        /* by `kill` */
    atomic_bool closed;      /* by peer_close; pairs with the scan of poll */
    atomic_uint refs;        /* elements in flight that name it */
};

enum fault_state { FAULT_FREE, FAULT_INNER, FAULT_HELD, FAULT_DONE };
enum fault_fate { FAULT_FORWARD, FAULT_TRUNCATE, FAULT_FAIL, FAULT_KILL, FAULT_NEVER };

struct fault_slot {
    struct ferry_peer *peer;
    uint64_t cookie;
    uint64_t sent, bytes; /* given to the inner transport; reported */
    uint64_t ready_ns;    /* not reported before */
    uint64_t ready_poll;
    uint64_t delay_ns; /* drawn at submit, counted from the inner completion */
    uint32_t polls;    /* likewise */
    uint32_t index;
    ferry_status status;
    int32_t vendor_err;
    uint8_t state, fate;
};

/*
 * Each element has a slot. Inner lists carry the outer cookie and the slot's number as index,
 * so that the inner transport's completions lead straight back and a cancel can be passed on.
 */
struct ferry_queue {
    struct ferry_tp *tp;
    struct ferry_queue *inner;
    struct fault_slot *slots;
    uint32_t n_slots, cursor;
    uint32_t depth, used;
    uint32_t held;  /* FAULT_HELD */
    uint32_t *done; /* slots to be reported, in order of their ends */
    uint32_t n_done;
    uint64_t polls, taken, calls;
    uint32_t stream;
    int fd, timer; /* epoll over the inner descriptor and the timer; -1 = none */
    bool armed;
    atomic_uint kicks; /* peers closed so far; see fault_queue_arm */
    struct ferry_queue *next, **link;
    struct ferry_xfer run[FAULT_MAX_RUN]; /* to be submitted to the inner transport */
    uint32_t run_first, n_run;
};

#define FAULT_LOG(host, level, ...)                                                            \
    do {                                                                                       \
        if ((int)(level) <= __atomic_load_n((host)->log_level, __ATOMIC_RELAXED))              \
            (host)->log((host), (level), __FILE__, __LINE__, __VA_ARGS__);                     \
    } while (0)

/* True `mille` times in a thousand; the same for the same seed, stream and number. */
uint64_t fault_random(const struct fault_config *cfg, uint32_t stream, uint64_t number);

/* Splits the configuration: ours into cfg, `inner.` without that prefix and `core.` into
 * inner_v, room for config->n. *inner_out: borrowed from config. */
ferry_status fault_configure(const struct ferry_host *host, const struct ferry_kvs *config,
                             struct fault_config *cfg, const struct ferry_kv **inner_out,
                             struct ferry_kv *inner_v, size_t *n_out);
/* Loads the transport named by kv: a name, found beside this plugin, or an absolute path. */
ferry_status fault_load(const struct ferry_host *host, const struct ferry_kv *kv,
                        struct ferry_transport_ops *ops_out);

ferry_status fault_probe(const struct ferry_host *host);
ferry_status fault_open(const struct ferry_host *host, const struct ferry_kvs *config,
                        struct ferry_tp **tp_out);
void fault_close(struct ferry_tp *tp);
ferry_status fault_query(struct ferry_tp *tp, struct ferry_tp_caps *caps);
ferry_status fault_device(struct ferry_tp *tp, uint32_t index, struct ferry_device *dev);
ferry_status fault_export_segment(struct ferry_tp *tp, struct ferry_kv_sink *out);
ferry_status fault_on_call(struct ferry_tp *tp, const char *peer_name, const void *req,
                           size_t req_len, struct ferry_buf_sink *reply);
ferry_status fault_on_connection(struct ferry_tp *tp, const void *req, size_t req_len,
                                 struct ferry_buf_sink *reply);
ferry_status fault_mem_reg(struct ferry_tp *tp, const struct ferry_mem_desc *desc, size_t n,
                           struct ferry_mr **mr_out);
void fault_mem_dereg(struct ferry_tp *tp, struct ferry_mr *const *mr, size_t n);
ferry_status fault_export_mem(struct ferry_mr *mr, struct ferry_kv_sink *out);
ferry_status fault_peer_open(struct ferry_tp *tp, const char *peer_name,
                             const struct ferry_kvs *attrs, struct ferry_peer **peer_out);
ferry_status fault_peer_attach(struct ferry_peer *peer, struct ferry_queue *queue,
                               uint32_t timeout_ms);
void fault_peer_close(struct ferry_peer *peer);
ferry_status fault_rmem_open(struct ferry_peer *peer, uint64_t remote_addr, uint64_t len,
                             const struct ferry_kvs *attrs, struct ferry_rmem **rmem_out);
void fault_rmem_close(struct ferry_rmem *rmem);
ferry_status fault_rail(struct ferry_peer *peer, struct ferry_queue *queue, char *text,
                        size_t len);
void fault_strerror_vendor(struct ferry_tp *tp, int32_t vendor_err, char *buf, size_t len);

ferry_status fault_queue_open(struct ferry_tp *tp, const struct ferry_queue_attr *attr,
                              struct ferry_queue **queue_out);
void fault_queue_close(struct ferry_queue *queue);
ferry_status fault_submit(struct ferry_queue *queue, const struct ferry_list *list,
                          uint32_t *accepted_out);
int32_t fault_poll(struct ferry_queue *queue, struct ferry_comp *comp, uint32_t max);
ferry_status fault_cancel(struct ferry_queue *queue, uint64_t cookie);
ferry_status fault_queue_fd(struct ferry_queue *queue, int *fd_out);
ferry_status fault_queue_arm(struct ferry_queue *queue);
/* Wakes whoever sleeps on the queue's descriptor; any thread. */
void fault_queue_kick(struct ferry_queue *queue);

#endif /* FAULT_H */
