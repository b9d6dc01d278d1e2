/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SAMPLE_H
#define SAMPLE_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* memfd_create, SO_PEERCRED; so this header comes first */
#endif

/*
 * A transport between processes of one host. Who transfers (the initiator) connects over a UNIX
 * socket to who is reached (the target), one connection for each pair of peer and queue, and
 * hands over a piece of shared memory, the window, with it. The window has slots. The initiator
 * fills a slot and marks it READY, the target takes it (BUSY), copies between slot and its own
 * registered memory, and marks it DONE. Bytes on the socket say "look again", nothing else.
 *
 * Why slots and not bytes in a stream: who cancels must know that nothing lands later, even if
 * the target is stopped now and goes on in an hour. One compare-and-swap decides it: a slot
 * that goes from READY back to FREE is never read. A device has something like it: find it
 * first.
 *
 *   tp.c      open, close, what we can do, memory      plugin.c  the table
 *   server.c  the target: one thread                   peer.c    connections
 *   queue.c   the initiator: submit, poll, cancel
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "ferry/transport_plugin.h"

#define SLOTS         16u
#define SLOT_LEN      65536u
#define MAX_QUEUES    64u
#define MAX_DEPTH     4096u
#define DEFAULT_DEPTH 256u
#define MAX_XFER_LEN  (UINT64_C(1) << 40)
#define ADDRESS_LEN   64u

/* --- the wire: shared with the peer, so every value read from it is suspect --------------- */

#define HELLO "FSM1" /* first bytes on a connection, with the window's descriptor */

enum slot_state { SLOT_FREE, SLOT_READY, SLOT_BUSY, SLOT_DONE };

struct slot {
    _Atomic uint32_t state; /* READY, FREE: by the initiator; BUSY, DONE: by the target */
    uint32_t op;            /* enum ferry_op */
    uint64_t addr, len;     /* at the target */
    int32_t status;         /* written before DONE */
    uint32_t reserved;
};

struct window {
    struct slot slot[SLOTS];
    unsigned char data[SLOTS][SLOT_LEN];
};

/* --- what the core holds of ours ---------------------------------------------------------- */

/* Locks, in the order in which they may be taken: tp->lock, then queue->lock. */
struct ferry_tp {
    const struct ferry_host *host;
    uint32_t depth;
    char address[ADDRESS_LEN]; /* of the socket; random, so that no later process has it */
    struct server *server;
    pthread_mutex_t lock; /* n_queues, all lists of connections and rmems */
    uint32_t n_queues;
};

struct ferry_mr {
    unsigned char *addr;
    uint64_t len;
    uint32_t access;
};

struct ferry_rmem {
    struct ferry_peer *peer;
    uint64_t addr, len;
    struct ferry_rmem *next;
};

struct ferry_peer {
    struct ferry_tp *tp;
    char address[ADDRESS_LEN];
    struct conn *conns;
    struct ferry_rmem *rmems;
};

struct elem { /* one accepted element */
    uint64_t cookie;
    uint32_t index, op;
    unsigned char *local;
    uint64_t remote, len;
    uint64_t posted, done; /* bytes put into slots, bytes that the target is done with */
    unsigned in_slots;     /* slots that it holds: while there are any it cannot end */
    bool cancelled;
    ferry_status status;
    struct elem *next;
};

struct conn { /* a peer on a queue */
    struct ferry_peer *peer;
    struct ferry_queue *queue;
    struct conn *next_of_queue; /* changed with both locks held */
    struct conn *next_of_peer;  /* tp->lock */
    int fd;
    struct window *window;
    /* The queue's lock: */
    bool dead;          /* the target closed its end */
    bool closing;       /* poll keeps away */
    struct elem *elems; /* not ended, in the order of submit */
    struct elem **last;
    struct elem *owner[SLOTS]; /* who is in this slot; NULL = free */
    uint64_t offset[SLOTS];    /* which piece of it */
};

/*
 * Queue calls come from one thread at a time, but peer_close and peer_attach come from others
 * beside them. So there is a lock, held for moments and never while anything is waited for.
 */
struct ferry_queue {
    struct ferry_tp *tp;
    pthread_mutex_t lock;
    struct conn *conns;
    struct elem *all,
        *free; /* `depth` of them, allocated by queue_open: submit allocates not */
    struct elem *ended, **ended_last;
    int epoll; /* every connection and `kick`: what queue_fd gives */
    int kick;  /* eventfd: elements ended in another thread's peer_close */
};

#define SAMPLE_LOG(host, level, ...)                                                           \
    do {                                                                                       \
        if ((int)(level) <= __atomic_load_n((host)->log_level, __ATOMIC_RELAXED))              \
            (host)->log((host), (level), __FILE__, __LINE__, __VA_ARGS__);                     \
    } while (0)

/* tp.c */
ferry_status sample_open(const struct ferry_host *host, const struct ferry_kvs *config,
                         struct ferry_tp **tp_out);
void sample_close(struct ferry_tp *tp);
ferry_status sample_query(struct ferry_tp *tp, struct ferry_tp_caps *caps);
ferry_status sample_device(struct ferry_tp *tp, uint32_t index, struct ferry_device *dev);
ferry_status sample_export_segment(struct ferry_tp *tp, struct ferry_kv_sink *out);
ferry_status sample_mem_reg(struct ferry_tp *tp, const struct ferry_mem_desc *desc, size_t n,
                            struct ferry_mr **mr_out);
void sample_mem_dereg(struct ferry_tp *tp, struct ferry_mr *const *mr, size_t n);
ferry_status sample_export_mem(struct ferry_mr *mr, struct ferry_kv_sink *out);

/* server.c */
ferry_status sample_server_start(const struct ferry_host *host, const char *address,
                                 struct server **server_out);
void sample_server_stop(struct server *server);
/* "Look again." Never blocks: where the socket is full the other end has not looked yet. */
void sample_ring(int fd);
/* Reads what rang. False: the other end is gone. */
bool sample_heard(int fd);

/* peer.c */
ferry_status sample_peer_open(struct ferry_tp *tp, const char *peer_name,
                              const struct ferry_kvs *attrs, struct ferry_peer **peer_out);
ferry_status sample_peer_attach(struct ferry_peer *peer, struct ferry_queue *queue,
                                uint32_t timeout_ms);
void sample_peer_close(struct ferry_peer *peer);
ferry_status sample_rmem_open(struct ferry_peer *peer, uint64_t remote_addr, uint64_t len,
                              const struct ferry_kvs *attrs, struct ferry_rmem **rmem_out);
void sample_rmem_close(struct ferry_rmem *rmem);
/* Ends all that is in flight on it and frees it; tp->lock is held, the queue's is not. */
void sample_conn_end(struct conn *conn);

/* queue.c; the queue's lock is held for the three */
void sample_revoke(struct conn *conn, const uint64_t *cookie); /* NULL = all lists */
void sample_take(struct conn *conn, bool reads);               /* what the target has done */
void sample_drop(struct conn *conn, ferry_status status);      /* all end so */
ferry_status sample_queue_open(struct ferry_tp *tp, const struct ferry_queue_attr *attr,
                               struct ferry_queue **queue_out);
void sample_queue_close(struct ferry_queue *queue);
ferry_status sample_submit(struct ferry_queue *queue, const struct ferry_list *list,
                           uint32_t *accepted_out);
int32_t sample_poll(struct ferry_queue *queue, struct ferry_comp *comp, uint32_t max);
ferry_status sample_cancel(struct ferry_queue *queue, uint64_t cookie);
ferry_status sample_queue_fd(struct ferry_queue *queue, int *fd_out);
ferry_status sample_queue_arm(struct ferry_queue *queue);

#endif /* SAMPLE_H */
