/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RDMA_H
#define RDMA_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <time.h>

#include "../common/plug.h"
#include "ibv.h"
#include "topo.h"
#include "wire.h"

/*
 * Words. A *device* is one of our NICs. A *rail* is a pair (our device, peer's device) with its
 * queue pairs. A *link* is all rails between one queue and one peer. An *item* is an accepted
 * element, or neighbours merged into one; it is sent in *pieces*, one work request each.
 *
 * Locks, in the order in which they are taken: tp->lock (peers, queues), queue->lock (links,
 * rails, items, rings of that queue), tp->serve_lock (connections we answer), jobs.lock. None
 * is held over peer_call or over making and destroying queue pairs.
 */

#define RDMA_MAX_QUEUES  64u
#define RDMA_MAX_RAILS   RDMA_MAX_DEVICES
#define RDMA_QPS         1u
#define RDMA_QPS_FOREIGN 2u    /* Mooncake insists on its own number, and this is its default */
#define RDMA_CONTROL_MS  2000u /* for a question to a peer that nobody waits for */
#define RDMA_MAX_PIECE   (UINT64_C(1) << 30)
#define RDMA_MIN_SLICE   (UINT64_C(64) << 10)
/* With less than this at once, one rail is enough, and the others are not even connected. */
#define RDMA_SPREAD_LEN  (UINT64_C(512) << 10)
/* Completions of a queue on a device that are kept for probes: 32 rails of two queue pairs may
 * be tried at once while everything else is taken. */
#define RDMA_PROBE_ROOM  64u
#define RDMA_NO_ITEM     UINT32_MAX
#define RDMA_PORT_SYSDIR "/sys/class/infiniband"

struct rdma_config {
    char name[256];     /* what we call ourselves in NIC paths; "" = made up */
    char devices[512];  /* comma list; "" = all */
    char topology[512]; /* file with a priority_matrix; "" = found out */
    int32_t gid_index;  /* -1 = chosen */
    uint32_t port;
    uint32_t mtu; /* bytes, upper limit */
    uint32_t traffic_class, service_level, pkey_index;
    uint32_t qps;        /* of one rail; 0 = RDMA_QPS, or Mooncake's default to its nodes */
    uint32_t max_wr;     /* work requests of one queue pair */
    uint32_t max_inline; /* bytes */
    uint32_t max_cqe;
    uint32_t retry_count;          /* how often a rail is tried in a row without progress */
    uint32_t qp_retry, qp_timeout; /* of one packet, as queue pairs take them */
    uint32_t relaxed_ordering;     /* 0 never, 1 where it is safe, 2 always */
    uint64_t slice;                /* bytes */
    uint64_t max_mr_len;           /* bytes; 0 = the device's own limit */
    uint32_t stall_ms;
};

/* FERRY_EINVAL: logged, with the key and what is allowed. */
ferry_status rdma_config_read(const struct ferry_host *host, const struct ferry_kvs *kvs,
                              struct rdma_config *config_out);

struct rdma_gid {
    uint8_t raw[16];
    int index;
    int rank; /* the higher the better; 0 = unusable */
};

struct rdma_device {
    struct ferry_tp *tp;
    char name[RDMA_NAME_MAX];
    char pci[16];
    int32_t numa_node;
    uint8_t port;
    bool ethernet;
    uint16_t lid;
    uint32_t mtu; /* bytes, active */
    uint64_t bandwidth_Bps;
    uint64_t max_mr_len;
    uint32_t max_rd_atomic, max_init_rd_atomic; /* that we serve; that we may have in flight */
    int max_cqe, max_wr;
    size_t n_gids;
    struct rdma_gid *gids; /* best first */
    struct ibv_context *ctx;
    struct ibv_pd *pd;
    struct ibv_cq *serve_cq; /* of queue pairs that only answer: nothing ever completes there */
    atomic_bool port_up;
};

/* Opens the devices of config->devices, or all that are usable. FERRY_EINVAL: a name is wrong;
 * FERRY_EDEVICE: none is usable. Each one passed over is logged. */
ferry_status rdma_devices_open(struct ferry_tp *tp);
void rdma_devices_close(struct ferry_tp *tp);
/* Why it is the one: static words. */
const char *rdma_gid_why(const struct rdma_device *device, const struct rdma_gid *gid);
/* The GID of `device` to use towards a peer's: same family, the route's own source first. */
const struct rdma_gid *rdma_gid_for(const struct rdma_device *device, const uint8_t peer[16]);
/* All usable GIDs of the device's port, best first; none is no error. `room`: its table's. */
ferry_status rdma_gids_read(struct rdma_device *device, size_t room);

/* One queue pair that we post to. Positions count up for ever; slot = position & mask. */
struct rdma_slot {
    uint32_t item; /* RDMA_NO_ITEM: a probe */
    uint32_t len;
    uint64_t off; /* in the item */
};
struct rdma_qp {
    struct ibv_qp *qp; /* NULL = none */
    uint32_t cap;      /* work requests that may be in flight */
    uint32_t mask;     /* slots less one: there is room for every piece of the link twice */
    uint32_t index;    /* in queue->qps */
    uint16_t generation;
    /* [lost_tail, lost_end): pieces of an earlier queue pair, to be sent again.
     * [live_tail, head): posted. */
    uint32_t lost_tail, lost_end, live_tail, head;
    uint32_t unsignaled;
    uint32_t max_inline;
    struct ibv_send_wr *chain, *chain_last; /* staged, not posted; NULL = none */
    struct rdma_rail *rail;
    struct rdma_slot *slot;
};

/* RAIL_CONNECTING: somebody is at it, without the lock: brings it up, or takes it down. */
enum rdma_rail_state { RAIL_DOWN, RAIL_CONNECTING, RAIL_UP, RAIL_BROKEN };
enum rdma_cause { CAUSE_NONE, CAUSE_REFUSED, CAUSE_CANCEL, CAUSE_PATH, CAUSE_DEVICE };

struct rdma_job {
    struct rdma_job *next;
    uint64_t due_ns; /* jobs.lock, as the others */
    bool queued;
    uint32_t running;
    struct rdma_rail *rail;
};

struct rdma_rail {
    struct rdma_link *link;
    uint32_t local, remote; /* devices, by index */
    uint32_t first_remote;
    uint64_t id; /* names the connection to the peer */
    enum rdma_rail_state state;
    enum rdma_cause cause;
    uint32_t n_qp, next_qp;
    struct rdma_qp *qp;
    uint64_t out_bytes;
    uint32_t out_wrs;
    double ns_per_byte;  /* what was measured, else from the port's speed */
    uint64_t busy_ns;    /* since when the time of what is in flight runs */
    uint64_t busy_bytes; /* completed since then */
    uint64_t progress_ns;
    bool progressed; /* something completed since it was connected */
    bool wanted;     /* down, and about to be tried for the first time */
    bool probed, probe_failed;
    uint32_t failures;  /* in a row */
    uint32_t fruitless; /* how often in a row it came up, which a probe says, and broke before
                         * anything else had arrived */
    uint64_t backoff_ms;
    struct rdma_job job;
};

/* See width.c. */
struct rdma_width_op {
    bool narrow;                 /* one rail carries */
    bool trial;                  /* the way that is not the better one, for one measurement */
    double seen[2];              /* by `narrow`: bytes a ns; 0 = unknown */
    uint32_t since_trial, pause; /* measurements */
};
struct rdma_width {
    struct rdma_width_op of[2]; /* by enum ferry_op */
    /* what is being measured */
    bool measuring;
    enum ferry_op op;
    uint64_t left_over; /* bytes on their way that do not count */
    uint64_t bytes, ns;
    uint64_t fresh_bytes, since_ns; /* since something was in flight; not in bytes, ns yet */
};

struct rdma_link {
    struct ferry_queue *queue;
    struct ferry_peer *peer;
    struct rdma_link *next_of_peer;
    bool closing;
    bool spread; /* all rails are wanted, not only the first */
    bool listed; /* on the queue's list of links with something to send */
    struct rdma_link *next_listed;
    ferry_status status;             /* not FERRY_OK: it failed and takes no more */
    uint32_t backlog, *backlog_tail; /* items, linked by `next` */
    uint64_t backlog_bytes;
    uint32_t lost; /* pieces to be sent again */
    struct rdma_width width;
    uint32_t n_rails;
    struct rdma_rail rail[];
};

struct rdma_item {
    struct rdma_link *link;
    struct ferry_mr *mr;
    struct ferry_rmem *rmem;
    uint8_t *local;
    uint64_t remote_off, len;
    uint64_t cursor; /* bytes handed to queue pairs */
    uint64_t done;
    uint64_t cookie;
    uint32_t first, n;
    uint32_t out;  /* pieces handed out and not ended, lost ones too */
    uint32_t next; /* in the backlog or among the free */
    uint8_t op;
    bool used, queued;   /* queued: in the backlog */
    uint8_t refused;     /* pieces of it that our own device would not send */
    ferry_status status; /* not FERRY_OK: ended so, as soon as none of it is out */
    int32_t vendor_err;
};

struct rdma_queue_device {
    struct ibv_comp_channel *channel;
    struct ibv_cq *cq;
    uint32_t cap, used; /* completions that may come at the worst, RDMA_PROBE_ROOM included */
    bool armed;         /* the next one wakes a sleeper, or has done so */
};

struct ferry_queue {
    struct ferry_tp *tp;
    pthread_mutex_t lock;
    pthread_cond_t cond; /* a rail left RAIL_CONNECTING */
    uint32_t number, home;
    struct rdma_queue_device *dev; /* by device */
    struct rdma_link **links;      /* by the peer's number */
    uint32_t n_links;
    struct rdma_link *listed; /* links with something to send */
    struct rdma_qp **qps;     /* by index; NULL = free */
    uint16_t *generations;
    uint32_t n_qps;
    uint32_t depth, n_used;
    struct rdma_item *items;
    uint32_t free_item;
    struct ferry_comp *comps; /* ring of `depth` */
    uint32_t comp_head, comp_n;
    struct ibv_send_wr *wrs; /* staged; linked per queue pair */
    struct ibv_sge *sges;
    uint32_t n_wrs, n_staged;
    uint32_t outstanding; /* pieces posted */
    uint64_t next_stall_check_ns;
    int epoll_fd, event_fd;
    bool sleeps; /* somebody relies on wake-ups */
};

struct ferry_mr {
    struct ferry_tp *tp;
    uint8_t *addr;
    uint64_t len;
    uint32_t access, kind;
    int32_t numa_node;
    uint64_t chunk_len;
    uint32_t n_chunks;
    struct ibv_mr **mr; /* [device * n_chunks + chunk] */
};

struct ferry_rmem {
    struct ferry_peer *peer;
    uint64_t addr, len;
    struct rdma_keys keys;
    struct ferry_rmem *next, **link;
};

struct ferry_peer {
    struct ferry_tp *tp;
    char *name;
    uint32_t number;
    struct rdma_remote remote;
    struct rdma_link *links;  /* tp->lock */
    struct ferry_rmem *rmems; /* tp->lock */
};

struct rdma_served;  /* a connection that a peer asked for */
struct rdma_serving; /* one that is being made */

#define RDMA_WORKERS 4u
struct rdma_jobs {
    pthread_mutex_t lock;
    pthread_cond_t wake, idle;
    struct rdma_job *first; /* by time */
    bool stop;
    uint32_t n_threads, n_busy;
    pthread_t thread[RDMA_WORKERS];
};

struct ferry_tp {
    const struct ferry_host *host;
    const struct rdma_ibv *ibv;
    struct rdma_config config;
    char instance[FT_INSTANCE_MAX];
    uint32_t n_devices;
    struct rdma_device device[RDMA_MAX_DEVICES];
    pthread_mutex_t lock;
    struct ferry_peer **peers; /* by number; NULL = free */
    uint32_t n_peers;
    struct ferry_queue *queues[RDMA_MAX_QUEUES]; /* by number; NULL = free */
    atomic_uint_fast64_t next_id;
    pthread_mutex_t serve_lock;
    pthread_cond_t serve_cond; /* one more is made, or is not to be had */
    struct cJSON *matrix;      /* which devices are near which memory */
    struct rdma_served *served;
    uint32_t n_served;
    struct rdma_serving *serving;
    struct rdma_jobs jobs;
    pthread_t events;
    int events_stop_fd;
};

/* tp.c */
ferry_status rdma_probe(const struct ferry_host *host);
ferry_status rdma_open(const struct ferry_host *host, const struct ferry_kvs *config,
                       struct ferry_tp **tp_out);
void rdma_close(struct ferry_tp *tp);
ferry_status rdma_query(struct ferry_tp *tp, struct ferry_tp_caps *caps);
ferry_status rdma_device_info(struct ferry_tp *tp, uint32_t index, struct ferry_device *dev);
ferry_status rdma_export_segment(struct ferry_tp *tp, struct ferry_kv_sink *out);
void rdma_strerror(struct ferry_tp *tp, int32_t vendor_err, char *buf, size_t len);

/* mr.c */
ferry_status rdma_mem_reg(struct ferry_tp *tp, const struct ferry_mem_desc *desc, size_t n,
                          struct ferry_mr **mr_out);
void rdma_mem_dereg(struct ferry_tp *tp, struct ferry_mr *const *mr, size_t n);
ferry_status rdma_export_mem(struct ferry_mr *mr, struct ferry_kv_sink *out);

/* conn.c: queue pairs, and both ends of the message that connects them */
ferry_status rdma_on_call(struct ferry_tp *tp, const char *peer_name, const void *req,
                          size_t req_len, struct ferry_buf_sink *reply);
ferry_status rdma_on_connection(struct ferry_tp *tp, const void *req, size_t req_len,
                                struct ferry_buf_sink *reply);
/* Makes and connects the queue pairs of one rail. Blocks. qp_out: rail->n_qp of them. */
ferry_status rdma_connect(struct rdma_rail *rail, uint32_t timeout_ms, struct ibv_qp **qp_out,
                          uint32_t *max_inline_out);
/* Asks the peer to take its end down. FERRY_OK: nothing that we sent can land any more. */
ferry_status rdma_disconnect(struct rdma_rail *rail, uint32_t timeout_ms);
void rdma_served_close(struct ferry_tp *tp);

/* peer.c: peers, their memory, and links as objects */
ferry_status rdma_peer_open(struct ferry_tp *tp, const char *peer_name,
                            const struct ferry_kvs *attrs, struct ferry_peer **peer_out);
ferry_status rdma_peer_attach(struct ferry_peer *peer, struct ferry_queue *queue,
                              uint32_t timeout_ms);
void rdma_peer_close(struct ferry_peer *peer);
ferry_status rdma_rail_names(struct ferry_peer *peer, struct ferry_queue *queue, char *text,
                             size_t len);
void rdma_link_close(struct rdma_link *link); /* it is on its peer's list no more */
ferry_status rdma_rmem_open(struct ferry_peer *peer, uint64_t remote_addr, uint64_t len,
                            const struct ferry_kvs *attrs, struct ferry_rmem **rmem_out);
void rdma_rmem_close(struct ferry_rmem *rmem);

/* link.c: rails that come and go. The queue's lock is held where a comment does not say else.
 */
/* Takes all rails down for good and ends its items, FERRY_ECANCELED; without the lock. */
void rdma_link_down(struct rdma_link *link);
/* Connects what is down, waiting for the first rail; without the lock. */
ferry_status rdma_link_connect(struct rdma_link *link, uint32_t timeout_ms);
/* Much is to be sent, or a rail broke: the others are connected too, from now on. */
void rdma_link_spread(struct rdma_link *link);
void rdma_rail_broken(struct rdma_rail *rail, enum rdma_cause cause);
void rdma_rail_job(struct rdma_rail *rail); /* by a worker, without the lock */

/* jobs.c */
ferry_status rdma_jobs_open(struct rdma_jobs *jobs);
void rdma_jobs_close(struct rdma_jobs *jobs);
void rdma_job_add(struct rdma_jobs *jobs, struct rdma_job *job, uint64_t due_ns);
/* False: it is queued already, for whenever that is. */
bool rdma_job_add_unless_queued(struct rdma_jobs *jobs, struct rdma_job *job, uint64_t due_ns);
void rdma_job_cancel(struct rdma_jobs *jobs, struct rdma_job *job); /* waits while it runs */

/* queue.c */
ferry_status rdma_queue_open(struct ferry_tp *tp, const struct ferry_queue_attr *attr,
                             struct ferry_queue **queue_out);
void rdma_queue_close(struct ferry_queue *queue);
ferry_status rdma_submit(struct ferry_queue *queue, const struct ferry_list *list,
                         uint32_t *accepted_out);
int32_t rdma_poll(struct ferry_queue *queue, struct ferry_comp *comp, uint32_t max);
ferry_status rdma_cancel(struct ferry_queue *queue, uint64_t cookie);
ferry_status rdma_queue_fd(struct ferry_queue *queue, int *fd_out);
ferry_status rdma_queue_arm(struct ferry_queue *queue);
void rdma_queue_wake(struct ferry_queue *queue); /* its sleeper shall poll */

/* send.c: items and pieces; the queue's lock is held */
void rdma_send(struct rdma_link *link); /* posts what fits */
void rdma_reap(struct ferry_queue *queue);
void rdma_item_end(struct ferry_queue *queue, uint32_t index);
void rdma_list_link(struct rdma_link *link);
/* The device's next completion wakes whoever sleeps. False: it could not be asked to. */
bool rdma_arm_device(struct ferry_queue *queue, uint32_t device);
/* What was posted on the rail counts as lost from now on. */
void rdma_rail_lost(struct rdma_rail *rail);
/* Ends all of the link's items with that status; nothing of it is posted any more. */
void rdma_link_end_all(struct rdma_link *link, ferry_status status);
/* Lets go of what has ended and is not posted. */
void rdma_link_sweep(struct rdma_link *link);
bool rdma_post_probe(struct rdma_rail *rail);

/* width.c: how many rails carry; the queue's lock is held */
uint32_t rdma_width(const struct rdma_link *link, enum ferry_op op);
uint64_t rdma_in_flight(const struct rdma_link *link); /* bytes, over all rails */
/* Before a piece is counted as sent, and after it is counted as done. */
void rdma_width_stage(struct rdma_link *link, enum ferry_op op);
void rdma_width_done(struct rdma_link *link, uint64_t bytes, uint64_t now);

#endif /* RDMA_H */
