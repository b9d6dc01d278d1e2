/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FY_ENGINE_H
#define FY_ENGINE_H

/*
 * The inner structures of an engine and who may touch them.
 *
 * Data goes one way: request -> batch -> part (one peer, one direction, one lane) -> submit ->
 * completion ranges -> batch status.
 *
 * LOCKS, in the order in which they are taken: engine.memory_lock, segment.lock,
 * view.control_lock, view.lock, lane.lock; then the leaves, none of which is held while another
 * lock than a pool's own is taken: engine.active_lock, waiters_lock, free_lock, reap_lock,
 * doc_lock, notice_lock, follow_lock, batch.lock, segment.again_lock. Plugin calls of class C
 * may block: only memory_lock, segment.lock (for peer_open, which does not connect) and
 * control_lock are held over them.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "config.h"
#include "control.h"
#include "doc.h"
#include "ferry/ferry.h"
#include "loader.h"
#include "local.h"
#include "names.h"
#include "path.h"
#include "registry.h"
#include "store.h"
#include "work.h"

#define FY_MAX_LANES 64

struct fy_batch;
struct fy_part;
struct fy_segment;
struct fy_transport;
struct fy_view;
struct fy_waiter;

/* What a plugin gets, with what the core needs to know again. */
struct fy_host {
    struct ferry_host pub;
    struct ferry_engine *engine;
    char name[32]; /* the plugin's, for log lines and for peer_call */
};

/* ---- lanes: one queue of one transport
 * ------------------------------------------------------- */

struct fy_lane {
    struct fy_transport *transport;
    struct ferry_queue *queue;
    unsigned id;     /* among all lanes of the engine, below FY_MAX_LANES */
    uint32_t device; /* of the transport */
    int fd;          /* -1 = the transport has no event descriptor */

    pthread_mutex_t lock; /* queue calls, and the members up to the next comment */
    struct fy_part *all;  /* parts that have not ended */
    struct fy_part *pending, **pending_tail; /* those not yet accepted to the end, in order */
    uint32_t pass;                           /* number of the walk over `pending` */
    atomic_int dead; /* the queue is spoilt: every part fails so, it is not called any more */
    bool ending;     /* and a worker ends what it had accepted */

    /* The waiter that spins or sleeps on this lane for all; others sleep on their own
     * descriptor. */
    _Atomic(struct fy_waiter *) attendant;
    atomic_uint parts;   /* that have not ended, pending ones included */
    atomic_ullong bytes; /* of those parts, for the choice of a lane */
    atomic_bool watched; /* the progress thread's epoll has it armed */
    struct fy_counters count;
    struct fy_rate rate;
};

struct fy_transport {
    const struct fy_transport_plugin *plugin;
    const struct ferry_transport_ops *ops; /* &plugin->ops */
    struct ferry_tp *tp;
    struct ferry_tp_caps caps;
    struct fy_host host;
    unsigned index; /* in engine->transports and fy_region.mr */
    unsigned n_lanes;
    struct fy_lane *lanes[FY_MAX_LANES];
    struct fy_kv attrs; /* export_segment */
};

/* ---- peers
 * ----------------------------------------------------------------------------------- */

enum fy_view_state {
    FY_VIEW_NEW,     /* nobody asked for a connection yet */
    FY_VIEW_OPENING, /* a worker connects; parts wait in `waiting` */
    FY_VIEW_READY,
    FY_VIEW_BREAKING, /* `cause` is being written */
    FY_VIEW_BROKEN,   /* takes no parts; replaced by a fresh one at the next need */
};

/* One incarnation of a peer through one transport: handle, keys, and the document both came
 * from. */
struct fy_view {
    atomic_uint refs;           /* the segment's, and one for each part */
    struct fy_segment *segment; /* counted */
    struct fy_transport *transport;
    struct fy_doc *doc;
    int doc_transport; /* index in the document */

    atomic_int state;   /* enum fy_view_state; submits look at it under their lane's lock */
    ferry_status cause; /* why it is broken; fixed once it is */
    char cause_text[256];
    atomic_bool reported;     /* its path knows that it is broken */
    atomic_ullong opening_ns; /* since when it is being connected; 0 = it is not yet */
    atomic_ullong ready_ns;   /* since when it is connected; 0 = it is not */
    atomic_ullong lanes;      /* bit set of attached lanes */
    char (*rails)[40]; /* by lane of the transport; written before the lane is attached */
    uint32_t
        full[FY_MAX_LANES]; /* lane.pass in which the queue took no more; by the lane's lock */

    pthread_mutex_t control_lock; /* held while the peer is connected or closed */
    struct ferry_peer *peer;
    bool closed;        /* peer_close has returned: nothing of it moves any more */
    atomic_int trouble; /* how the last attempt to connect ended, while another one is made */

    pthread_mutex_t lock; /* guards what follows */
    struct fy_part *waiting, **waiting_tail;
    bool leaving; /* the peer is being closed: no key is opened with it any more */
    /* One for each buffer of the document, opened at first use; written under `lock`. */
    _Atomic(struct ferry_rmem *) *rmem;
};

struct fy_segment {
    struct ferry_engine *engine;
    char *name;
    atomic_uint refs;
    uint32_t opened; /* by the application; under engine.segments_lock */
    uint32_t slot, gen;

    pthread_mutex_t lock;    /* guards what follows */
    bool reloading;          /* one reader of the document at a time, without the lock */
    pthread_cond_t reloaded; /* it has ended */
    uint64_t asked_ns;       /* when the reading that last succeeded began */
    uint64_t failed_ns;      /* when one last failed, its time limit, and how */
    uint32_t failed_ms;
    ferry_status failed_status;
    char failed_text[256];
    struct fy_doc *doc;
    struct fy_view *views[FY_MAX_TRANSPORTS]; /* current ones; NULL = not opened */
    uint64_t fetched_ns;                      /* when the document was read */
    uint64_t opened_ns;
    atomic_uint offered; /* bit set of our transports that the document has, too */
    atomic_uint turn;    /* counts choices */
    /* By op and size: index + 1 of the transport that measuring chose; 0 = the first that works
     */
    uint8_t moved[2][FY_SIZE_CLASSES];
    struct fy_path paths[FY_MAX_TRANSPORTS];
    atomic_llong explore_ns; /* what may still be lost on trying others out */

    pthread_mutex_t again_lock;          /* guards what follows */
    struct fy_part *again, **again_tail; /* parts that wait for another attempt, in order */
    bool trying;                         /* a worker makes one after the other */
};

/* ---- batches
 * --------------------------------------------------------------------------------- */

/* In fy_batch.result, beside 0 and negative statuses. AGAIN: failed so that another attempt is
 * allowed; UNSENT: and no byte of it had left. */
enum { FY_UNDER_WAY = 1, FY_AGAIN = 2, FY_AGAIN_UNSENT = 3 };
#define FY_NO_LANE 255

struct fy_part {
    struct fy_part *next;          /* in view.waiting, lane.pending or segment.again */
    struct fy_part *next_in_batch; /* later attempts, in batch.later */
    struct fy_part *next_in_lane, **prev_in_lane; /* lane.all */
    struct fy_batch *batch;
    struct fy_view *view;           /* counted, until the batch is forgotten */
    _Atomic(struct fy_lane *) lane; /* NULL while it waits for a connection */
    struct ferry_xfer *v;
    const uint32_t *index; /* v[i] is request index[i]; NULL: request first + i */
    uint32_t first;
    uint32_t n, accepted, ended;
    uint32_t n_again; /* ended so that they may be tried again */
    uint32_t op;
    uint64_t bytes;
    ferry_status again; /* what those ended with */
    uint64_t again_ns;  /* and when it had ended */
    uint8_t attempt;
    bool cancel_asked;
    bool meant; /* for this incarnation alone: the connection to it stood */
    bool timed; /* its duration tells about the path: alone, whole, and waited for */
    uint32_t local_kind, remote_kind;
    uint64_t whole; /* bytes of it and of its sisters on other lanes */
};

struct fy_batch {
    /* Generation (high 32) and references (low 32): the user's one, and one while it runs. */
    _Atomic uint64_t genref;
    struct ferry_engine *engine;
    uint32_t slot;
    struct fy_batch *next_free;
    struct fy_batch *next_active, **prev_active; /* engine.active_lock */

    uint64_t n;
    struct ferry_xfer *v; /* n of them, grouped by part */
    uint32_t *index;      /* v[i] is request index[i], where there is more than one group */
    bool permuted;
    uint64_t *remote;       /* v[i]'s address in the peer, for another attempt */
    _Atomic int8_t *result; /* by request: FY_UNDER_WAY and so on, or a ferry_status; relaxed */
    _Atomic uint8_t *carrier; /* by request: lane id; relaxed */
    size_t cap;               /* room of the five */
    struct fy_part *parts;    /* first attempts */
    size_t n_parts, cap_parts;
    struct fy_part *later; /* further attempts; under `lock`, freed with the batch's next use */
    struct fy_region **held; /* regions that our ranges are in, held */
    size_t n_held, cap_held;
    atomic_ullong lanes; /* bit set of lanes its parts are on */

    uint64_t began_ns, deadline_ns;
    uint32_t timeout_ms;
    bool waits;                      /* the caller waits for it and does nothing else */
    const struct fy_transport *only; /* ferry_submit.protocol */
    atomic_ullong done, failed, bytes;
    atomic_int first_error;
    atomic_uint parts_left;
    atomic_int abort;       /* 0, or the status that unfinished requests get */
    atomic_ullong abort_ns; /* when */
    bool forced;            /* peers were closed for it; progress thread only */
    atomic_bool let_go;     /* the user's reference is gone */
    atomic_bool ended;
    bool counted_fd; /* to be named by ferry_reap */
    char error[256]; /* text of the first error; batch.lock */

    char *notify_name;
    void *notify;
    size_t notify_len;

    pthread_mutex_t lock; /* waiters, later, error */
    struct fy_waiter *waiters;
    struct fy_batch *next_reap, **prev_reap; /* engine.reap_lock; NULL = not in the list */
};

/* ---- engine
 * ---------------------------------------------------------------------------------- */

/* A thread that waits for a batch. Kept for re-use: it owns an eventfd. */
struct fy_waiter {
    struct fy_waiter *next_free;
    struct fy_waiter *next_in_batch;
    struct fy_waiter *next_asleep, **prev_asleep; /* engine.waiters_lock */
    struct fy_batch *batch;
    atomic_bool asleep;
    bool listed; /* in engine.asleep */
    int fd;
};

struct fy_notice {
    struct ferry_notification pub;
    struct fy_notice *next;
};

#define FY_NOTICE_IDS 1024

struct ferry_engine {
    struct fy_log log;
    struct fy_config *config;
    struct fy_loader *loader;
    struct fy_store *store;
    struct fy_host *store_host;
    struct fy_registry *registry;
    struct fy_control *control;
    struct fy_local *local;     /* NULL = off, or it could not be made */
    struct fy_work *work;       /* closes peers, ends what was under way with them */
    struct fy_work *connectors; /* each job may take connect_ms */
    struct fy_work *notifiers;  /* each until its batch's deadline */
    struct fy_work *retriers;   /* make further attempts: each reads one peer's document */
    char name[FY_HOST_MAX + 8];
    char host[FY_HOST_MAX]; /* what peers are told */
    char epoch[20];
    uint16_t control_port;

    unsigned n_transports;
    struct fy_transport *transports[FY_MAX_TRANSPORTS]; /* in order of preference */
    bool feedback; /* the order is ours, not the configuration's: what is measured changes it */
    unsigned n_lanes;
    struct fy_lane *lanes[FY_MAX_LANES];

    pthread_mutex_t memory_lock; /* registration, document */
    struct fy_doc *doc;          /* as published; swapped under doc_lock */
    pthread_mutex_t doc_lock;
    bool published;

    pthread_mutex_t segments_lock;
    struct fy_segment **segments; /* by slot; NULL = free */
    uint32_t *segment_gens;
    size_t n_segments;

    pthread_mutex_t free_lock;
    struct fy_batch *free_batches;
    _Atomic(struct fy_batch **)
        batch_table; /* by slot; grows by replacement, old ones are kept */
    atomic_uint n_batches;
    void *old_tables[32];
    unsigned n_old_tables;
    struct fy_waiter *free_waiters;

    pthread_mutex_t active_lock;
    struct fy_batch *active;
    atomic_uint n_active;

    pthread_mutex_t waiters_lock;
    struct fy_waiter *asleep;

    /* progress.c */
    pthread_t progress_thread;
    bool progress_started;
    int progress_epoll, progress_timer, progress_wake;
    atomic_bool tick_armed, soon_armed;
    atomic_bool stopping;
    atomic_bool closing; /* refuses new work */

    /* How long a waiting caller spins, and how many may at once. */
    uint64_t spin_ns;
    int max_spinners;
    atomic_int spinners;
    uint64_t
        stripe_min; /* bytes of a part from which it is split over lanes; UINT64_MAX = never */

    pthread_mutex_t reap_lock;
    atomic_int reap_fd; /* eventfd; -1 until asked for */
    struct fy_batch *reap_head, **reap_tail;

    pthread_mutex_t notice_lock;
    pthread_cond_t notice_cond;
    struct fy_notice *notices, **notices_tail;
    size_t n_notices;
    uint64_t notice_ids[FY_NOTICE_IDS]
                       [2]; /* the last ones seen, so that a repeated one is queued once */
    unsigned next_notice_id;
    atomic_ullong notify_seq;

    /* follow.c */
    pthread_mutex_t follow_lock; /* a leaf; guards what follows */
    pthread_cond_t follow_cond;
    pthread_t follow_thread;
    bool follow_started, follow_stop, follow_all;
    char *follow_names[256]; /* to be looked at soon; beyond that, all */
    size_t n_follow_names;

    struct fy_counters count;
    uint64_t opened_ns;
    uint32_t connect_ms;
    uint32_t store_ms;
    uint32_t batch_ms; /* of batches that name no time limit; see submit.c */

    char *locations[256]; /* under segments_lock: texts given out by ferry_segment_buffers */
    size_t n_locations;
};

/* host.c */
void fy_host_init(struct fy_host *host, struct ferry_engine *engine, const char *name);
/* Keeps the last line, INFO or worse, that a plugin logs on this thread until it is called with
 * NULL: a status alone does not say why a pair cannot work. */
void fy_host_listen(char *text, size_t room);

/* transports.c: opens what the configuration names, or all usable ones; closes them. */
ferry_status fy_transports_open(struct ferry_engine *engine);
void fy_transports_close(struct ferry_engine *engine);

/* The transport that a document names as its protocol: the first that Mooncake knows, else the
 * first. Its index. */
unsigned fy_primary(const struct ferry_engine *engine);
/* memory.c: builds and publishes the document from what is registered. memory_lock held. */
ferry_status fy_memory_publish(struct ferry_engine *engine, uint32_t timeout_ms);
struct fy_doc *fy_engine_doc(struct ferry_engine *engine); /* counted */
void fy_memory_close(struct ferry_engine *engine);         /* unregisters what is left */

/* serve.c: answers the control channel. */
ferry_status fy_serve(void *engine, int type, const char *body, size_t len,
                      struct fy_buf *reply);

/* The same for processes of this user: a topic of ferry_engine_describe. */
ferry_status fy_serve_local(void *engine, const char *topic, struct fy_buf *reply);

/* notify.c */
ferry_status fy_notify_receive(struct ferry_engine *engine, const char *body, size_t len,
                               struct fy_buf *reply);
/* `to`: epoch of the only incarnation that it is for, which no later one gets (FERRY_ESTALE);
 * "" = a Mooncake node. NULL: it is for whoever has the name. */
ferry_status fy_notify_send(struct ferry_engine *engine, struct fy_segment *segment,
                            const char *to, const char *name, const void *data, size_t len,
                            uint64_t deadline_ns);
void fy_notify_close(struct ferry_engine *engine);

/* segment.c */
struct fy_segment *fy_segment_get(struct ferry_engine *engine,
                                  ferry_segment handle); /* counted */
void fy_segment_put(struct fy_segment *segment);
void fy_segments_close(struct ferry_engine *engine);
/* Reads the document again, unless somebody did since `since_ns`, or waits for whoever does; at
 * most timeout_ms altogether. Views of a peer that restarted are broken with FERRY_ESTALE. */
ferry_status fy_segment_reload(struct fy_segment *segment, uint64_t since_ns,
                               uint32_t timeout_ms);

/* view.c */
ferry_status fy_view_new(struct fy_segment *segment, struct fy_transport *transport,
                         struct fy_doc *doc, struct fy_view **view_out);
void fy_view_put(struct fy_view *view);
static inline struct fy_view *fy_view_ref(struct fy_view *view)
{
    atomic_fetch_add_explicit(&view->refs, 1, memory_order_relaxed);
    return view;
}
void fy_view_connect(struct fy_view *view); /* starts it if nobody has; does not block */
/* No part gets in any more; closes the peer in the background, which ends those under way. Any
 * lock may be held. */
void fy_view_break(struct fy_view *view, ferry_status cause, const char *text);
/* Connected: the peer is the incarnation that the document tells of. */
static inline bool fy_view_stands(const struct fy_view *view)
{
    return atomic_load_explicit(&view->state, memory_order_acquire) == FY_VIEW_READY;
}
/* Why no part goes over it any more, as far as whoever breaks it has said so by now. The text
 * is the view's. */
ferry_status fy_view_cause(const struct fy_view *view, const char **text_out);
/* Ends a part that found it so. */
void fy_view_refuse(const struct fy_view *view, struct fy_part *part);
/* What is known to be wrong with the peer, for requests whose time is over; 0 = nothing. */
ferry_status fy_view_trouble(const struct fy_view *view);
/* What a lane of it goes over: "OURS-THEIRS", devices, where the transport tells; else the
 * lane's name. */
void fy_view_rail(const struct fy_view *view, const struct fy_lane *lane, char *out,
                  size_t room);
/* Blocks until nothing of a broken view can move any more. */
void fy_view_quiesce(struct fy_view *view);
/* Takes a part that waits for the connection out again. false: it does not wait there any more.
 */
bool fy_view_unwait(struct fy_view *view, struct fy_part *part);
/* The key of one buffer of the document; NULL in a view that is broken. HOT after the first
 * time. */
ferry_status fy_view_rmem(struct fy_view *view, size_t buffer, struct ferry_rmem **rmem_out);

/* lane.c */
ferry_status fy_lane_open(struct fy_transport *transport, uint32_t device,
                          struct fy_lane **lane_out);
void fy_lane_close(struct fy_lane *lane);
/* HOT. Hands a part of a connected view over; it ends by completions. Do not touch it
 * afterwards. */
void fy_lane_start(struct fy_lane *lane, struct fy_part *part);
/* HOT. One look at the queue, unless somebody else has it. Returns completions seen, -1: taken.
 */
int fy_lane_poll(struct fy_lane *lane);
/* Before sleeping on lane->fd: 0 = there is something to poll first. */
bool fy_lane_arm(struct fy_lane *lane);
/* Waits for whoever makes queue calls on it now. */
void fy_lane_barrier(struct fy_lane *lane);
/* Ends what is unfinished of a part soon. */
void fy_lane_cancel(struct fy_lane *lane, struct fy_part *part);
/* "DEVICE/3": the device and the queue's number. */
void fy_lane_name(const struct fy_lane *lane, char *out, size_t room);
/* The part has ended. Lane lock held. */
void fy_lane_left(struct fy_lane *lane, struct fy_part *part);
/* The one with the least to do, among those the peer is connected on. */
struct fy_lane *fy_lane_choose(const struct fy_view *view);

/* part.c: what becomes of parts. After each of these the part may be gone. */
void fy_part_start(struct fy_part *part); /* to a lane, or to wait for the connection */
/* Elements [at, at+n) of the part ended so; `sent`: the transport had accepted them. Lane lock
 * held, or nobody else has the part. */
void fy_part_ended(struct fy_part *part, uint32_t at, uint32_t n, ferry_status status,
                   bool sent, const char *text);
/* What the queue had accepted of it, and will not complete. Lane lock held, the peer closed. */
void fy_part_lost(struct fy_part *part, ferry_status status, const char *text);
/* Takes it out of a list by `next`, whose lock is held. false: it is not in it. */
bool fy_part_unlink(struct fy_part **first, struct fy_part ***tail, struct fy_part *part);
/* The part as a whole never reached a queue. */
void fy_part_fail(struct fy_part *part, ferry_status status, const char *text);
/* Its batch's abort is set: if it waits for another attempt, it ends soon instead. */
void fy_part_aborted(struct fy_part *part);

static inline void fy_set_result(struct fy_batch *batch, uint64_t request, int result)
{
    atomic_store_explicit(&batch->result[request], (int8_t)result, memory_order_relaxed);
}
static inline int fy_get_result(const struct fy_batch *batch, uint64_t request)
{
    return atomic_load_explicit(&batch->result[request], memory_order_relaxed);
}

/* batch.c */
/* An empty one with room for n requests; both references are the caller's. */
ferry_status fy_batch_new(struct ferry_engine *engine, size_t n, struct fy_batch **batch_out);
static inline ferry_batch fy_batch_handle(const struct fy_batch *batch)
{
    uint64_t gen = atomic_load_explicit(&batch->genref, memory_order_relaxed) >> 32;

    return gen << 32 | (batch->slot + 1);
}
void fy_batch_activate(struct fy_batch *batch);
void fy_batch_release(struct fy_batch *batch); /* what it holds of the engine's */
void fy_batch_part_done(struct fy_batch *batch);
void fy_batch_abort(struct fy_batch *batch, ferry_status status);
/* Keeps the first failure's status and text. */
void fy_batch_fault(struct fy_batch *batch, ferry_status status, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
void fy_batch_put(struct fy_batch *batch);
struct fy_batch *fy_batch_get(struct ferry_engine *engine, ferry_batch handle);
void fy_batches_close(struct ferry_engine *engine);

/* wait.c */
ferry_status fy_wait(struct fy_batch *batch,
                     uint64_t deadline_ns); /* FERRY_EAGAIN: time is over */
void fy_wait_wake(struct fy_batch *batch);  /* it has ended */
void fy_wait_close(struct ferry_engine *engine);

/* progress.c */
ferry_status fy_progress_start(struct ferry_engine *engine);
void fy_progress_stop(
    struct ferry_engine *engine); /* joins the thread; kicks do nothing then */
void fy_progress_close(struct ferry_engine *engine); /* and its descriptors */
/* Somebody must look at the lanes soon (`soon`), or at the deadlines now and then. */
void fy_progress_kick(struct ferry_engine *engine, bool soon);
/* The progress thread is woken by this lane's next event. */
void fy_progress_watch(struct fy_lane *lane);

/* follow.c: keeps the documents of peers young. Asks where the peer is, until the deadline. */
void fy_follow_peer(struct ferry_engine *engine, const char *name, uint64_t deadline_ns);
void fy_follow_stop(struct ferry_engine *engine);

/* describe.c: see ferry_engine_describe */

#endif /* FY_ENGINE_H */
