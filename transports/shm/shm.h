/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SHM_H
#define SHM_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/types.h>

#include "../common/plug.h"
#include "wire.h"

#define SHM_MAX_DEPTH    65536u
#define SHM_MAX_XFER_LEN (UINT64_C(1) << 40)
#define SHM_CHUNK                                                                              \
    (UINT64_C(1) << 20) /* most bytes of an element in one go: bounds every wait */
#define SHM_NAME_LEN     48u
#define SHM_COPY_THREADS 3u
#define SHM_ASKS         128u /* of a connection, without an answer: a socket takes 278 packets */
#define SHM_SHARED_FROM  (UINT64_C(256) << 10) /* bytes of a copy that helpers are worth */

enum shm_mode { SHM_MODE_AUTO, SHM_MODE_CMA, SHM_MODE_MAP };

struct shm_config {
    enum shm_mode mode;
    uint32_t depth;
    uint64_t poll_bytes;
    bool any_tracer;
    uint32_t copy_threads; /* that may help with large copies */
};

/* Who a process is, as far as another of the same host can check it. */
struct shm_ident {
    char boot[40];  /* boot id of the running kernel */
    uint64_t pidns; /* inode of the pid namespace */
    uint64_t start; /* when it began, clock ticks since boot: tells it from a later one */
    uint32_t uid;
    pid_t pid;
};

/* --- the passive side: what peers may reach here ------------------------------ */

struct ferry_mr {
    uint8_t *addr;
    uint64_t len;
    uint32_t access;
    int fd;          /* memory behind it, -1 = none; ours */
    uint64_t fd_off; /* of addr */
    struct ferry_mr *next, **link;
    struct shm_lease *leases;
};

/* A peer that came to us. All but `gone` and `page`: the transport's lock. */
struct shm_client {
    uint64_t id;
    int fd, pidfd;
    pid_t pid;
    bool welcome; /* has said whom it wants */
    bool leaving; /* expelled; forgotten when no line is as in `seen` */
    uint32_t seen[SHM_LINES];
    atomic_bool gone; /* can copy no more */
    struct shm_page *page;
    struct shm_lease *leases;
    uint32_t untold; /* of its leases; as long as there are, room on the socket wakes us */
    uint32_t next_slot, n_free; /* never used before; used and free again */
    uint32_t *free_slots;
    unsigned refs;
    struct shm_client *next;
};

/* A client may touch a region, until mem_dereg says otherwise. */
struct shm_lease {
    struct shm_client *client;
    struct ferry_mr *mr; /* NULL = revoked, and kept until the client has let go */
    const void *was;     /* the region that was revoked; only compared */
    bool untold;         /* of that, as there was no room to */
    uint32_t slot;
    struct shm_lease *mr_next, *client_next;
};

/* --- the active side ----------------------------------------------------------- */

/* The way to a peer's transport. Lives until the last queue has let go of it. */
struct shm_conn {
    uint64_t id;
    int fd, pidfd; /* closed by peer_close, which waits for the lines first */
    pid_t pid;
    struct shm_page *page;
    atomic_int dead;  /* a status of peer scope */
    atomic_uint asks; /* without an answer as yet */
    unsigned refs;    /* the transport's lock */
    struct ferry_peer *peer;
};

enum shm_grant { SHM_NONE, SHM_ASKED, SHM_HELD, SHM_REFUSED };

struct ferry_rmem {
    struct ferry_peer *peer;
    uint64_t addr, len;
    uint32_t index, generation; /* in the peer's table; make the id of questions */
    atomic_int state;           /* enum shm_grant; the rest is written before SHM_HELD */
    atomic_int refused;         /* why, a ferry_status; of the last answer */
    uint64_t base, size;        /* of the region, in the peer */
    uint32_t access, slot;
    uint8_t *map; /* where `base` is seen here, NULL = by process_vm_readv */
    void *map_start;
    size_t map_len;
};

/* A peer attached to a queue, as in a ring's elements. */
struct shm_att {
    struct shm_conn *conn;
    struct ferry_peer *peer; /* NULL once closed; the transport's lock */
    struct shm_att *next;    /* in the queue; the transport's lock */
    atomic_bool open;
    atomic_uint inflight;
    uint64_t checked, checked_ms; /* the queue's pass in which the peer was seen alive, when */
};

struct ferry_peer {
    struct ferry_tp *tp;
    char name[128];
    char sock[SHM_NAME_LEN];
    uint8_t token[SHM_TOKEN_LEN];
    uint64_t token_addr; /* in the peer: the probe reads it */
    struct shm_ident ident;
    pthread_mutex_t attach_lock; /* one connects; rank: before the transport's */
    struct shm_conn *conn;       /* the transport's lock, as all below */
    struct ferry_rmem **table;
    uint32_t table_len, table_used, table_hint, generation;
    _Atomic(struct shm_att *) att[SHM_MAX_QUEUES];
    struct ferry_peer *next;
};

struct shm_elem {
    struct shm_att *att;
    struct ferry_rmem *rmem;
    struct shm_elem *next;
    uint64_t cookie;
    uint8_t *local;
    uint64_t off, len, done; /* off: in rmem */
    uint32_t index;
    ferry_status status;
    uint8_t op;
    bool cancelled, asked, cold;
};

struct shm_fifo {
    struct shm_elem *first, **last;
};

struct ferry_queue {
    struct ferry_tp *tp;
    uint32_t number, depth, used;
    int fd;
    uint64_t pass;
    struct shm_elem *elems, *free;
    struct shm_fifo run, parked, done; /* to copy; waiting for a grant; to be reaped */
    atomic_bool kick;                  /* what is parked may go on */
    atomic_bool armed;
    struct shm_att *atts; /* the transport's lock */
};

struct shm_helpers;

/* One copy: to or from a mapping, or by the kernel where `pid` is another process. */
struct shm_piece {
    uint8_t *local, *remote;
    uint64_t len;
    pid_t pid; /* 0: `remote` is mapped here */
    bool read, cold;
    uint64_t moved; /* out; less than len where `error` (errno's) stopped it */
    int error;
};

struct ferry_tp {
    const struct ferry_host *host;
    struct shm_config config;
    struct shm_ident ident;
    char sock[SHM_NAME_LEN]; /* abstract, without the leading NUL */
    uint8_t token[SHM_TOKEN_LEN];
    int listen_fd, epoll_fd, stop_fd;
    pthread_t thread;
    struct shm_helpers *helpers; /* NULL = none; set by the first attach and never again */
    bool helpers_asked;
    pthread_mutex_t lock;
    uint64_t next_id;
    struct ferry_mr *mrs;
    struct shm_client *clients;
    struct ferry_peer *peers;
    struct ferry_queue *queues[SHM_MAX_QUEUES];
};

/* config.c */
ferry_status shm_config_parse(const struct ferry_host *host, const struct ferry_kvs *kvs,
                              struct shm_config *config_out);

/* ident.c */
bool shm_ident_self(struct shm_ident *ident_out);
/* 0 = no such process. `pid` 0 = this one. */
uint64_t shm_start_time(pid_t pid);
/* The process at the other end of a socket, as a descriptor that becomes readable when it has
 * ended; -1 where it has already. */
int shm_pidfd(int sock, pid_t pid);
bool shm_ended(int pidfd);
/* Yama's ptrace_scope, -1 = none. */
int shm_ptrace_scope(void);

/* wire and watching: serve.c */
ferry_status shm_serve_start(struct ferry_tp *tp);
void shm_serve_stop(struct ferry_tp *tp);
bool shm_watch(struct ferry_tp *tp, int fd, uint64_t id);
/* Waits for other events of it from now on. */
void shm_watch_for(struct ferry_tp *tp, int fd, uint64_t id, uint32_t events);
/* Closes it. A child that was forked may have the file too: it is gone for everybody. */
void shm_unwatch(struct ferry_tp *tp, int fd);
void shm_kick_locked(struct ferry_tp *tp);
void shm_pause(unsigned *round);

/* client.c: the transport's lock is held */
void shm_client_accept(struct ferry_tp *tp, int fd);
void shm_client_ready(struct ferry_tp *tp, struct shm_client *client);
/* One packet; false: it is not from our like, drop the connection. Takes the fd. */
bool shm_client_feed(struct ferry_tp *tp, struct shm_client *client, const void *data,
                     size_t len, int fd);
void shm_client_drop(struct ferry_tp *tp, struct shm_client *client);
/* Forgets who was expelled and has stopped copying; true where somebody has not. */
bool shm_clients_leaving(struct ferry_tp *tp);
/* Takes the lock itself. After it no peer touches the region. */
void shm_revoke(struct ferry_tp *tp, struct ferry_mr *mr);

/* conn.c */
/* `timeout_ms` bounds it. Logs what was wrong. */
ferry_status shm_conn_open(struct ferry_peer *peer, uint32_t timeout_ms,
                           struct shm_conn **conn_out);
/* The transport's lock is held for all below. */
void shm_conn_ready(struct ferry_tp *tp, struct shm_conn *conn);
bool shm_conn_feed(struct ferry_tp *tp, struct shm_conn *conn, const void *data, size_t len,
                   int fd);
void shm_conn_put(struct shm_conn *conn);
/* The peer may mark another grant in this slot. */
void shm_let_go(struct shm_conn *conn, uint32_t slot);
/* Waits until whoever copies now has left, or is gone (may be NULL): later ones see what was
 * stored before. Needs no lock. False where timeout_ms passed first. */
bool shm_page_quiet(struct shm_page *page, const atomic_bool *gone, uint32_t timeout_ms);
/* Asks for the region of this rmem. False: no room on the socket, or too many questions are on
 * their way. Any thread, inside a line or with the lock. */
bool shm_ask(struct shm_conn *conn, struct ferry_rmem *rmem);

/* copy.c */
void shm_copy_init(void);
/* `cold`: much more follows than caches hold, so that stores may go round them. */
void shm_copy(void *dst, const void *src, size_t len, bool cold);

/* helpers.c */
/* NULL: none are wanted, or to be had. */
struct shm_helpers *shm_helpers_start(uint32_t most);
void shm_helpers_stop(struct shm_helpers *helpers); /* NULL is allowed */
/* HOT. Returns when all of it is done or has failed. */
void shm_copy_together(struct shm_helpers *helpers, struct shm_piece *piece);

/* the table's members */
ferry_status shm_probe(const struct ferry_host *host);
ferry_status shm_tp_open(const struct ferry_host *host, const struct ferry_kvs *config,
                         struct ferry_tp **tp_out);
void shm_tp_close(struct ferry_tp *tp);
ferry_status shm_query(struct ferry_tp *tp, struct ferry_tp_caps *caps);
ferry_status shm_device(struct ferry_tp *tp, uint32_t index, struct ferry_device *dev);
ferry_status shm_export_segment(struct ferry_tp *tp, struct ferry_kv_sink *out);
ferry_status shm_mem_reg(struct ferry_tp *tp, const struct ferry_mem_desc *desc, size_t n,
                         struct ferry_mr **mr_out);
void shm_mem_dereg(struct ferry_tp *tp, struct ferry_mr *const *mr, size_t n);
ferry_status shm_export_mem(struct ferry_mr *mr, struct ferry_kv_sink *out);
ferry_status shm_peer_open(struct ferry_tp *tp, const char *peer_name,
                           const struct ferry_kvs *attrs, struct ferry_peer **peer_out);
ferry_status shm_peer_attach(struct ferry_peer *peer, struct ferry_queue *queue,
                             uint32_t timeout_ms);
void shm_peer_close(struct ferry_peer *peer);
ferry_status shm_rmem_open(struct ferry_peer *peer, uint64_t remote_addr, uint64_t len,
                           const struct ferry_kvs *attrs, struct ferry_rmem **rmem_out);
void shm_rmem_close(struct ferry_rmem *rmem);
ferry_status shm_queue_open(struct ferry_tp *tp, const struct ferry_queue_attr *attr,
                            struct ferry_queue **queue_out);
void shm_queue_close(struct ferry_queue *queue);
ferry_status shm_submit(struct ferry_queue *queue, const struct ferry_list *list,
                        uint32_t *accepted_out);
int32_t shm_poll(struct ferry_queue *queue, struct ferry_comp *comp, uint32_t max);
ferry_status shm_cancel(struct ferry_queue *queue, uint64_t cookie);
ferry_status shm_queue_fd(struct ferry_queue *queue, int *fd_out);
ferry_status shm_queue_arm(struct ferry_queue *queue);
void shm_strerror_vendor(struct ferry_tp *tp, int32_t vendor_err, char *buf, size_t len);

#endif /* SHM_H */
