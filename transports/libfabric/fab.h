/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FAB_H
#define FAB_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <time.h>

#include "../common/plug.h"
#include "lib.h"
#include "wire.h"

/*
 * Words. A *device* is one of libfabric's domains (a NIC). A *link* is one queue's way to one
 * peer: an endpoint of its own on either side, so that taking it down stops what is on its way
 * and nothing else. The peer's end of it is *served*. An *item* is an accepted element, or
 * neighbours merged into one; it is sent in *pieces*, one operation of libfabric each.
 *
 * Locks, in the order in which they are taken: tp->lock (peers, links, queues, regions),
 * queue->lock (that queue's items and its links' endpoints), tp->serve_lock (what we serve).
 * None is held over peer_call.
 */

#define FAB_MAX_QUEUES 64u
#define FAB_MAX_SERVED 8192u
#define FAB_MAX_MERGE  (UINT64_C(1) << 20) /* bytes: neighbours above it gain nothing */
#define FAB_NONE       UINT32_MAX
#define FAB_WORKERS    4u
#define FAB_TICK_MS    100u
#define FAB_CONTROL_MS 1500u /* for a question to a peer that nobody waits for */
#define FAB_CONNECT_MS 5000u /* for a link that is made again */
#define FAB_MAX_TRIES  3u    /* of a link, in a row, without progress */
#define FAB_MAX_STALLS 2u    /* then a link is made again though its peer answers */
#ifndef FAB_OLD_MS           /* tests wait less */
#define FAB_OLD_MS 60000u    /* after so long the sender of a served link is asked after it */
#endif
#define FAB_PATIENCE 10u /* questions in a row that it may leave unanswered */

struct fab_config {
    char provider[FAB_NAME_MAX]; /* "" = the best that is here */
    char devices[512];           /* comma list; "" = all */
    char bind[128];              /* address; "" = any */
    uint64_t slice, window;      /* bytes: of one piece, and on their way on one link */
    uint32_t stall_ms, cancel_ms;
};
/* FERRY_EINVAL: logged, with the key and what is allowed. */
ferry_status fab_config_read(const struct ferry_host *host, const struct ferry_kvs *kvs,
                             struct fab_config *config_out);

struct fab_device {
    char name[FAB_NAME_MAX];
    char pci[16];
    uint64_t bandwidth_Bps;
    struct fi_info *info;
    struct fid_fabric *fabric;
    struct fid_domain *domain;
    bool wait_fd; /* its completion queues have a descriptor */
    uint32_t mr_mode;
    uint32_t credits; /* operations on their way on one endpoint */
    uint64_t max_piece;
    /* A page of ours: its first word may be read by peers, to prove the path; into the others
     * we read theirs. */
    uint64_t *words;
    struct fid_mr *word_mr;
    uint64_t word_key, word_addr;
};
/* Opens the devices that the configuration allows. FERRY_EINVAL: a name is wrong;
 * FERRY_EDEVICE: none is usable. Each one passed over is logged. */
ferry_status fab_devices_open(struct ferry_tp *tp);
void fab_devices_close(struct ferry_tp *tp);
bool fab_has_fabric(const struct ferry_tp *tp); /* not only sockets or memory of one host */

/* One endpoint with all that it needs, apart from any other. */
struct fab_end {
    struct fid_cq *cq;
    struct fid_av *av;
    struct fid_ep *ep;
    int fd;       /* of its completion queue; -1 = none */
    int epoll_fd; /* where the descriptor was put */
};
/* `epoll_fd`: where the descriptor of its completions is put, tagged with `tag`. */
ferry_status fab_end_open(struct ferry_tp *tp, struct fab_device *device, uint32_t cq_size,
                          int epoll_fd, uint64_t tag, struct fab_end *end_out);
/* Nothing of it touches memory any more. */
void fab_end_close(struct fab_end *end);
ferry_status fab_end_name(const struct fab_end *end, uint8_t name_out[FAB_EP_MAX],
                          uint32_t *len_out);
ferry_status fab_status(ssize_t rc); /* of what libfabric returned */

enum fab_link_state { LINK_UP, LINK_BROKEN, LINK_DEAD };

struct fab_link {
    struct ferry_queue *queue;
    struct ferry_peer *peer;
    struct fab_link *next;          /* of all: tp->lock */
    struct fab_link *next_of_queue; /* queue->lock and tp->lock */
    uint64_t id;
    uint32_t remote_device;
    bool working; /* a worker or a closer has it: tp->lock */
    bool closing;
    /* the queue's lock, from here */
    enum fab_link_state state;
    ferry_status status; /* of a dead link */
    struct fab_end end;
    fi_addr_t addr;
    uint32_t backlog, *backlog_tail; /* items with pieces to be sent, by `next` */
    uint32_t posted;                 /* slots in use, by `next` */
    uint32_t n_posted;
    uint64_t posted_bytes;
    uint64_t progress_ns, asked_ns;
    uint32_t cancelled;     /* items that shall end, with pieces on their way */
    uint32_t tries, stalls; /* how often in a row: made again; found without progress */
    bool hold;              /* nothing more is sent */
    bool by_cancel;         /* taken down since cancelled pieces did not end */
    int32_t vendor_err;
};

struct fab_item {
    struct fab_link *link;
    struct ferry_mr *mr;
    struct ferry_rmem *rmem;
    uint8_t *local;
    uint64_t remote_off, len;
    uint64_t cursor, done; /* bytes sent and ended */
    uint64_t cookie;
    uint32_t first, n;
    uint32_t out;  /* pieces on their way */
    uint32_t next; /* in the backlog, or among the free */
    uint8_t op;
    bool used, queued, cancelled;
};

struct fab_slot {
    struct fi_context2 ctx; /* first: libfabric hands its address back */
    uint32_t item;
    uint32_t prev, next; /* among the link's posted ones; next: among the free */
    uint64_t len;
};

struct ferry_queue {
    struct ferry_tp *tp;
    pthread_mutex_t lock;
    struct fab_device *device;
    uint32_t device_index, number;
    struct fab_link *links;
    uint32_t depth, n_used; /* items and completions that wait */
    struct fab_item *items;
    uint32_t free_item;
    struct fab_slot *slots;
    uint32_t free_slot;
    struct ferry_comp *comps; /* ring of `depth` */
    uint32_t comp_head, comp_n;
    int epoll_fd, event_fd;
    atomic_bool armed; /* its devices have no descriptor: the progress thread looks */
};

struct ferry_mr {
    struct ferry_tp *tp;
    uint8_t *addr;
    uint64_t len;
    uint32_t access;
    struct ferry_mr *next, **at; /* of all: tp->lock */
    struct fid_mr *mr[FAB_MAX_DEVICES];
    void *desc[FAB_MAX_DEVICES];
    uint64_t key[FAB_MAX_DEVICES];
};

struct ferry_rmem {
    struct ferry_peer *peer;
    uint64_t len, skip; /* skip: from the buffer's start */
    struct fab_keys keys;
    struct ferry_rmem *next, **at; /* tp->lock */
};

struct ferry_peer {
    struct ferry_tp *tp;
    char *name;
    struct fab_remote remote;
    struct ferry_rmem *rmems;                        /* tp->lock */
    _Atomic(struct fab_link *) link[FAB_MAX_QUEUES]; /* by the queue's number */
};

struct fab_served {
    struct fab_served *next;
    char peer[256];
    char instance[FT_INSTANCE_MAX];
    uint64_t link;
    uint64_t serial;     /* tells it from another of the same link, from 1 */
    uint64_t checked_ns; /* when its sender was last asked after it */
    uint32_t silent;     /* how often in a row without an answer */
    struct fab_device *device;
    struct fab_end end;
};

struct ferry_tp {
    const struct ferry_host *host;
    const struct fab_lib *lib;
    struct fab_config config;
    char instance[FT_INSTANCE_MAX];
    char provider[FAB_NAME_MAX];
    uint32_t n_devices;
    struct fab_device device[FAB_MAX_DEVICES];
    atomic_uint_fast64_t next_id;

    pthread_mutex_t lock;
    pthread_cond_t wake, idle; /* work for a worker; a link is nobody's */
    struct fab_link *links;
    struct ferry_mr *mrs;
    struct ferry_queue *queues[FAB_MAX_QUEUES];
    bool stop;
    bool ticking, asking; /* a worker has the clock; one asks after what we serve */
    uint64_t ask_ns;      /* when that is due */
    uint32_t n_workers;
    pthread_t worker[FAB_WORKERS];

    pthread_mutex_t serve_lock;
    struct fab_served *served;
    atomic_uint n_served;    /* changed under its lock */
    uint64_t serve_since_ns; /* the youngest of them */
    uint64_t serve_serial;   /* of the last one */
    pthread_t progress;
    int progress_epoll_fd, progress_event_fd;
    atomic_uint n_armed; /* queues without a descriptor that sleep */
};

/* tp.c */
ferry_status fab_probe(const struct ferry_host *host);
ferry_status fab_open(const struct ferry_host *host, const struct ferry_kvs *config,
                      struct ferry_tp **tp_out);
void fab_close(struct ferry_tp *tp);
ferry_status fab_query(struct ferry_tp *tp, struct ferry_tp_caps *caps);
ferry_status fab_device_info(struct ferry_tp *tp, uint32_t index, struct ferry_device *dev);
ferry_status fab_export_segment(struct ferry_tp *tp, struct ferry_kv_sink *out);
void fab_strerror(struct ferry_tp *tp, int32_t vendor_err, char *buf, size_t len);
ferry_status fab_put_json(struct ferry_kv_sink *out, char *text); /* frees it */

/* mr.c */
ferry_status fab_mem_reg(struct ferry_tp *tp, const struct ferry_mem_desc *desc, size_t n,
                         struct ferry_mr **mr_out);
void fab_mem_dereg(struct ferry_tp *tp, struct ferry_mr *const *mr, size_t n);
ferry_status fab_export_mem(struct ferry_mr *mr, struct ferry_kv_sink *out);
/* Registers with one device; the key is made up where the provider does not give one. */
ferry_status fab_mr_open(struct fab_device *device, void *addr, uint64_t len, uint64_t access,
                         struct fid_mr **mr_out);
/* Is this key of ours, with those rights? tp->lock is not held. */
ferry_status fab_mr_check(struct ferry_tp *tp, uint32_t device, const struct fab_check *check);

/* serve.c: endpoints that peers reach, and the thread that moves them on */
ferry_status fab_serve_open(struct ferry_tp *tp);
void fab_serve_close(struct ferry_tp *tp);
ferry_status fab_on_call(struct ferry_tp *tp, const char *peer_name, const void *req,
                         size_t req_len, struct ferry_buf_sink *reply);
void fab_serve_poke(struct ferry_tp *tp); /* its thread shall look at n_armed again */
/* Asks after one that was not asked after for FAB_OLD_MS. False: there is none. */
bool fab_serve_check_old(struct ferry_tp *tp);

/* peer.c */
ferry_status fab_peer_open(struct ferry_tp *tp, const char *peer_name,
                           const struct ferry_kvs *attrs, struct ferry_peer **peer_out);
ferry_status fab_peer_attach(struct ferry_peer *peer, struct ferry_queue *queue,
                             uint32_t timeout_ms);
void fab_peer_close(struct ferry_peer *peer);
ferry_status fab_rmem_open(struct ferry_peer *peer, uint64_t remote_addr, uint64_t len,
                           const struct ferry_kvs *attrs, struct ferry_rmem **rmem_out);
void fab_rmem_close(struct ferry_rmem *rmem);

/* link.c: links come and go */
/* Makes both ends; FERRY_OK: they work, and the caller may set LINK_UP. `link` is nobody
 * else's. */
ferry_status fab_link_connect(struct fab_link *link, const struct fab_check *checks,
                              uint32_t n_checks, int32_t *checked_out, uint32_t timeout_ms);
/* Asks the peer. FERRY_OK: it did so; FERRY_ENOENT: it knows no such link. */
ferry_status fab_link_ask(struct fab_link *link, enum fab_ask ask, uint32_t timeout_ms);
void fab_link_work(struct fab_link *link); /* by a worker */
/* Takes it off the lists, down at both ends, ends its items, frees it. */
void fab_link_close(struct fab_link *link);

/* work.c: the workers, and what is due */
ferry_status fab_workers_open(struct ferry_tp *tp);
void fab_workers_close(struct ferry_tp *tp);
void fab_workers_wake(struct ferry_tp *tp);
void fab_link_take(struct fab_link *link); /* off the list; no worker has it any more */

/* queue.c */
ferry_status fab_queue_open(struct ferry_tp *tp, const struct ferry_queue_attr *attr,
                            struct ferry_queue **queue_out);
void fab_queue_close(struct ferry_queue *queue);
ferry_status fab_submit(struct ferry_queue *queue, const struct ferry_list *list,
                        uint32_t *accepted_out);
int32_t fab_poll(struct ferry_queue *queue, struct ferry_comp *comp, uint32_t max);
ferry_status fab_cancel(struct ferry_queue *queue, uint64_t cookie);
ferry_status fab_queue_fd(struct ferry_queue *queue, int *fd_out);
ferry_status fab_queue_arm(struct ferry_queue *queue);
/* The queue's lock is held for these. */
void fab_send(struct fab_link *link);
void fab_reap(struct fab_link *link);
void fab_link_break(struct fab_link *link, int vendor_err); /* takes its endpoint down */
void fab_item_end(struct ferry_queue *queue, uint32_t index, ferry_status status);
/* Ends all of the link's items so; its endpoint is down. */
void fab_items_end(struct fab_link *link, ferry_status status);
bool fab_queue_look(struct ferry_queue *queue); /* for an armed one: are there completions */

#endif /* FAB_H */
