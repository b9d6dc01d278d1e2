/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TCP_INITIATOR_H
#define TCP_INITIATOR_H

#include <sys/uio.h>

#include "tcp.h"
#include "wire.h"

/*
 * The active side: queues, their connections, and the frames in flight on them. A queue's lock
 * guards everything that hangs on the queue; no lock is taken under it.
 */

#define QUEUE_FRAMES       64u /* that one queue keeps in flight, to all its peers */
#define CONN_FRAMES        16u /* on one connection, where they are small */
#define CONN_FRAMES_MIN    4u  /* on one connection, however large */
#define CONN_BYTES         (8u << 20)
#define FRAME_BYTES        (4u << 20) /* a frame is closed once it holds so much */
#define MC_FRAME_DESC      500u       /* requests of v2 gathered into one */
#define RX_BUF_LEN         8192u      /* holds any acknowledgement */
#define V1_LANES           4u /* connections at a time to peers that want one a request */
#define FRAME_IOV          (WIRE_MAX_DESC + 4)
#define FRAME_HEAD_LEN     (WIRE_FRAME_LEN + WIRE_MAX_DESC * WIRE_DESC_LEN)
#define EOF_WAIT_NS        (50 * NS_PER_MS)   /* for the target to end after our half-close */
#define RESET_GRACE_NS     (20 * NS_PER_MS)   /* and after a reset; see docs/adr/ */
#define TIMEOUT_GRACE_NS   (4500 * NS_PER_MS) /* and after ETIMEDOUT: two of its keepalives */
#define TX_RETRY_NS        (15 * NS_PER_US)   /* a full send buffer is not tried before */
#define PEEK_AFTER_IDLE_NS NS_PER_MS

/* In frame->st[], beside enum wire_status: as the whole frame. */
#define ST_AS_FRAME 0xff

/*
 * A part of a list, sent as one: for v3 a frame of the wire, for v2 a run of requests, for v1
 * one request. iov[0] is the header's; which entries are sent and which received into, the
 * dialect decides.
 */
struct frame {
    struct frame *next;
    uint64_t cookie; /* the list's */
    uint64_t seq;    /* the frame's, on its connection */
    uint64_t payload;
    uint64_t tx_left, tx_len;
    uint64_t rx_len; /* v1, v2: what answers it */
    uint64_t ok_end; /* v2 READ: where in the answer the next status word ends */
    uint32_t first, n;
    uint32_t ok_n; /* v2: elements that have ended well so far */
    uint32_t emitted;
    uint64_t tx_off, rx_off;               /* in the entries at hand */
    uint32_t from;                         /* v2: elements before it have ended */
    uint16_t tx_at, tx_end, rx_at, rx_end; /* in iov[] */
    bool skipped;                          /* READ of v3: iov[] has been changed */
    uint8_t op;                            /* enum ferry_op */
    bool v2, v3;
    bool cancelled;
    bool mixed; /* the elements' statuses are in st[] */
    ferry_status status;
    int32_t vendor_err;
    uint8_t st[WIRE_MAX_DESC];
    struct iovec iov[FRAME_IOV];
    uint8_t head[FRAME_HEAD_LEN];
};

enum conn_state {
    CONN_OPEN,
    CONN_HALF,  /* half-closed: the target is to read the rest and end */
    CONN_GRACE, /* reset: the target is given time to see it */
    CONN_DEAD,
};

struct conn {
    struct ferry_queue *queue;
    struct ferry_peer *peer;
    struct conn *next;                     /* in queue->conns */
    struct conn *active_next, **active_at; /* in queue->active; active_at NULL: not there */
    struct conn *lane_next;                /* v1 */
    int fd;                                /* -1 = none */
    uint8_t dialect;                       /* enum tcp_dialect */
    uint8_t state;                         /* enum conn_state */
    bool want_out;                         /* the epoll set waits for room to send */
    bool tx_blocked;
    bool rx_body;
    bool unreach;
    bool replaced; /* the peer has another one by now */
    bool revive;   /* ended by us alone: the next submit connects again */
    bool greeting; /* v3: its answer is still to come */
    uint8_t hello_left;
    uint32_t life; /* counts its connections */
    uint8_t hello[WIRE_HELLO_LEN];
    struct tcp_addr addr;
    struct frame *head, *tail; /* in flight, in the order of their answers */
    struct frame *tx;          /* the first not sent whole */
    uint32_t n_frames;
    uint64_t bytes;
    uint64_t seq;
    uint64_t rx_left;
    uint64_t last_io_ns;
    uint64_t tx_retry_ns;
    uint64_t deadline_ns; /* HALF, GRACE */
    uint32_t rx_pos, rx_have;
    uint8_t rxbuf[RX_BUF_LEN];
};

struct ferry_queue {
    struct ferry_tp *tp;
    pthread_mutex_t lock; /* rank: below tp->lock */
    uint32_t index;
    int epfd, timerfd;
    bool armed;
    uint32_t tick;
    uint32_t n_active, n_closing;
    struct conn *conns;
    struct conn *active; /* with frames in flight, or closing */
    struct frame *done, **done_tail;
    struct frame *pool, *free;
    uint32_t pool_used;
    struct iovec tmp[FRAME_IOV];
};

struct ferry_peer {
    struct ferry_tp *tp;
    char *name;
    char host[256];
    uint16_t port;
    uint8_t dialect; /* enum tcp_dialect */
    bool ferry;      /* not upstream's */
    uint64_t incarnation;
    struct conn *conns[TCP_MAX_QUEUES]; /* each under its queue's lock */
    pthread_mutex_t lock;               /* guards rmems; rank: leaf */
    struct ferry_rmem *rmems;
};

struct ferry_rmem {
    struct ferry_peer *peer;
    struct ferry_rmem *next, **at;
    uint64_t addr, len;
};

/* --- peer.c --- */
/* What the answer to our hello means. */
ferry_status welcome_status(const struct ferry_peer *peer, const struct wire_welcome *w);

/* --- frame.c --- */
/* As many elements of the list from `at` on as fit; 0..n. *status: why the next one is at
 * fault, or FERRY_OK. */
uint32_t frame_fill(struct frame *f, struct conn *c, const struct ferry_list *list, uint32_t at,
                    ferry_status *status);
uint64_t frame_elem_len(const struct frame *f, uint32_t i);
/* READ of v3 with refused elements: what is received into, without them. tmp: FRAME_IOV. */
uint64_t frame_skip_refused(struct frame *f, struct iovec *tmp);
/* As if nothing of it had been sent, from f->from on. False: it cannot begin again. */
bool frame_rewind(struct frame *f);
/* v2: looks at the status words that have come; false: one of them is bad. */
bool frame_check_words(struct frame *f, uint64_t received);
/* The next completion of an ended frame; false: there is none left. */
bool frame_next_comp(struct frame *f, struct ferry_comp *out);

/* --- conn.c, conn_end.c: all under the queue's lock --- */
struct conn *conn_new(struct ferry_queue *q, struct ferry_peer *peer,
                      const struct tcp_addr *addr);
/* Starts to connect, greeting included; does not wait. */
bool conn_connect(struct conn *c, uint64_t now);
/* Whether room to send makes the queue's descriptor readable. */
void conn_watch_out(struct conn *c, bool out);
bool conn_has_room(const struct conn *c);
void conn_push(struct conn *c, struct frame *f);
/* Sends what the socket takes; receives what has come. */
void conn_tx(struct conn *c, uint64_t now);
void conn_rx(struct conn *c, uint64_t now);
/* HALF and GRACE: their time is up? */
void conn_tick(struct conn *c, uint64_t now);
/* The socket is open, as far as can be told without sending. */
bool conn_alive(struct conn *c, uint64_t now);
/* Begins to end the connection so that nothing of it lands later; goes on in poll. */
void conn_quiet(struct conn *c, uint64_t now);
void conn_cancel(struct conn *c, uint64_t cookie, uint64_t now);
/* Closes, and ends all frames: cancelled ones so, the others with `status`. */
void conn_down(struct conn *c, ferry_status status, int err);
/* A detached one's frames end with FERRY_ECANCELED. */
void conn_drop_frames(struct conn *c);
/* Takes it out of its queue's lists; frames stay with it. */
void conn_detach(struct conn *c);
/* Not under the lock, the connections detached: blocks until nothing of them can touch memory
 * here or there. `list` is linked by next. */
void conns_quiet_wait(struct conn *list);

/* --- between conn.c and conn_end.c --- */
void conn_activate(struct conn *c);
void conn_deactivate(struct conn *c);
void conn_leave_closing(struct conn *c);
void conn_pop(struct conn *c);
void conn_close_fd(struct conn *c, bool reset);
/* The socket says so. */
void conn_error(struct conn *c, int err);
/* After an end of our own making: closes, connects anew, sends again what is left. */
void conn_restart(struct conn *c, uint64_t now);

/* --- queue.c --- */
void queue_done(struct ferry_queue *q, struct frame *f);
void queue_wake(struct ferry_queue *q);
void queue_timer(struct ferry_queue *q);
/* Frees dead connections that no peer has any more; under the lock, in control calls. */
void queue_reap(struct ferry_queue *q);

ferry_status tcp_queue_open(struct ferry_tp *tp, const struct ferry_queue_attr *attr,
                            struct ferry_queue **queue_out);
void tcp_queue_close(struct ferry_queue *queue);
ferry_status tcp_submit(struct ferry_queue *queue, const struct ferry_list *list,
                        uint32_t *accepted_out);
int32_t tcp_poll(struct ferry_queue *queue, struct ferry_comp *comp, uint32_t max);
ferry_status tcp_cancel(struct ferry_queue *queue, uint64_t cookie);
ferry_status tcp_queue_fd(struct ferry_queue *queue, int *fd_out);
ferry_status tcp_queue_arm(struct ferry_queue *queue);

/* --- peer.c --- */
ferry_status tcp_peer_open(struct ferry_tp *tp, const char *peer_name,
                           const struct ferry_kvs *attrs, struct ferry_peer **peer_out);
ferry_status tcp_peer_attach(struct ferry_peer *peer, struct ferry_queue *queue,
                             uint32_t timeout_ms);
void tcp_peer_close(struct ferry_peer *peer);
ferry_status tcp_rmem_open(struct ferry_peer *peer, uint64_t remote_addr, uint64_t len,
                           const struct ferry_kvs *attrs, struct ferry_rmem **rmem_out);
void tcp_rmem_close(struct ferry_rmem *rmem);

#endif /* TCP_INITIATOR_H */
