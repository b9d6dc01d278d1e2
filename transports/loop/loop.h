/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LOOP_H
#define LOOP_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "ferry/transport_plugin.h"

#define LOOP_MAX_QUEUES    64u
#define LOOP_DEFAULT_DEPTH 1024u
#define LOOP_MAX_DEPTH     65536u
#define LOOP_MAX_XFER_LEN  (UINT64_C(1) << 40)
#define LOOP_TOKEN_LEN     32u

/*
 * What one open transport offers to peers in this process. Outlives the transport while peers
 * hold it, so that they learn that it is gone instead of touching freed memory.
 */
struct loop_domain {
    char token[LOOP_TOKEN_LEN + 1];
    const struct ferry_host *host; /* valid while alive */
    atomic_bool alive;
    unsigned refs;            /* guarded by the table's lock */
    struct loop_att *atts;    /* those that copy to and from here; the table's lock */
    struct loop_domain *next; /* in the table */
};

/*
 * A peer attached to a queue. `busy` is stored by the queue's thread round each copy; whoever
 * closes the peer or the target's transport clears `open` or `alive` and then waits for !busy:
 * both sides use sequentially consistent accesses, so that one of them sees the other.
 */
struct loop_att {
    struct loop_domain *domain;
    struct ferry_peer *peer; /* NULL once closed; the transport's lock */
    struct ferry_queue *queue;
    struct loop_att *next;     /* in the queue; the transport's lock */
    struct loop_att *dom_next; /* in the domain; the table's lock */
    atomic_bool open;
    atomic_bool busy;
    atomic_uint inflight; /* elements in the queue's ring that name this one */
};

struct ferry_tp {
    const struct ferry_host *host;
    struct loop_domain *domain;
    uint32_t depth;
    uint64_t poll_bytes;
    pthread_mutex_t lock; /* peers, attachments, queue numbers. Rank: before the table's */
    uint64_t queues_used; /* bit = queue number */
};

struct ferry_mr {
    uint8_t *addr;
    uint64_t len;
    uint32_t access;
};

struct ferry_rmem {
    struct ferry_peer *peer;
    uint64_t addr, len;
    struct ferry_rmem *next, **link;
};

struct ferry_peer {
    struct ferry_tp *tp;
    char token[LOOP_TOKEN_LEN + 1];
    struct ferry_rmem *rmems;                        /* the transport's lock */
    _Atomic(struct loop_att *) att[LOOP_MAX_QUEUES]; /* by queue number */
};

struct loop_elem {
    struct loop_att *att;
    uint64_t cookie;
    uint8_t *local;
    uint64_t remote;
    uint64_t len, done;
    uint32_t index;
    ferry_status status;
    uint8_t op;
    bool ended, cancelled;
};

struct ferry_queue {
    struct ferry_tp *tp;
    struct loop_elem *ring;
    uint32_t depth, head, used;
    uint32_t number;
    int fd;
    bool armed;
    struct loop_att *atts; /* the transport's lock */
};

#define LOOP_LOG(host, level, ...)                                                             \
    do {                                                                                       \
        if ((int)(level) <= __atomic_load_n((host)->log_level, __ATOMIC_RELAXED))              \
            (host)->log((host), (level), __FILE__, __LINE__, __VA_ARGS__);                     \
    } while (0)

ferry_status loop_probe(const struct ferry_host *host);
ferry_status loop_open(const struct ferry_host *host, const struct ferry_kvs *config,
                       struct ferry_tp **tp_out);
void loop_close(struct ferry_tp *tp);
ferry_status loop_query(struct ferry_tp *tp, struct ferry_tp_caps *caps);
ferry_status loop_device(struct ferry_tp *tp, uint32_t index, struct ferry_device *dev);
ferry_status loop_export_segment(struct ferry_tp *tp, struct ferry_kv_sink *out);
ferry_status loop_mem_reg(struct ferry_tp *tp, const struct ferry_mem_desc *desc, size_t n,
                          struct ferry_mr **mr_out);
void loop_mem_dereg(struct ferry_tp *tp, struct ferry_mr *const *mr, size_t n);
ferry_status loop_export_mem(struct ferry_mr *mr, struct ferry_kv_sink *out);
ferry_status loop_peer_open(struct ferry_tp *tp, const char *peer_name,
                            const struct ferry_kvs *attrs, struct ferry_peer **peer_out);
ferry_status loop_peer_attach(struct ferry_peer *peer, struct ferry_queue *queue,
                              uint32_t timeout_ms);
void loop_peer_close(struct ferry_peer *peer);
ferry_status loop_rmem_open(struct ferry_peer *peer, uint64_t remote_addr, uint64_t len,
                            const struct ferry_kvs *attrs, struct ferry_rmem **rmem_out);
void loop_rmem_close(struct ferry_rmem *rmem);

ferry_status loop_queue_open(struct ferry_tp *tp, const struct ferry_queue_attr *attr,
                             struct ferry_queue **queue_out);
void loop_queue_close(struct ferry_queue *queue);
ferry_status loop_submit(struct ferry_queue *queue, const struct ferry_list *list,
                         uint32_t *accepted_out);
int32_t loop_poll(struct ferry_queue *queue, struct ferry_comp *comp, uint32_t max);
ferry_status loop_cancel(struct ferry_queue *queue, uint64_t cookie);
ferry_status loop_queue_fd(struct ferry_queue *queue, int *fd_out);
ferry_status loop_queue_arm(struct ferry_queue *queue);

/* Attachments, made in loop.c; the transport's lock is held. */
void loop_att_quiet(const struct loop_att *att); /* waits until no copy is under way */
void loop_att_free(struct loop_att *att);

#endif /* LOOP_H */
