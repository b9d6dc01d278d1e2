/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SUITE_H
#define SUITE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>

#include "conformance.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define FC_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define FC_SANITIZED 1
#endif
#endif
#ifndef FC_SANITIZED
#define FC_SANITIZED 0
#endif
/* Slower builds get more time and fewer rounds. */
#define FC_SLOW(ms)     ((ms) * (FC_SANITIZED ? 4u : 1u))
#define FC_ROUNDS(n)    ((n) / (FC_SANITIZED ? 10u : 1u))
#define FC_WAIT_MS      fc_wait_ms
#define FC_MAX_REGIONS  256u
#define FC_MAX_TARGETS  3u
#define FC_ARENA_LEN    (UINT64_C(80) << 20)
#define FC_ATTACH_MS    FC_SLOW(5000u)
#define FC_COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* How long an element may take to end; set before a point runs. */
extern unsigned fc_wait_ms;

/* What a point's process tells the runner even when it dies; shared memory. */
struct fc_shared {
    atomic_int ended; /* 1 + enum fc_result */
    char expected[320];
    char seen[640];
    /* The calls that the two ends are in: literals, at one address in every process. */
    _Atomic(const char *) stage, target_stage;
    atomic_uint log_at;
    char log[16][256];
};

/* Keys and values that own their bytes. */
struct fc_kvs {
    struct ferry_kv_sink sink; /* first */
    struct ferry_kv v[64];
    size_t n;
};
void fc_kvs_init(struct fc_kvs *kvs);
void fc_kvs_clear(struct fc_kvs *kvs);
static inline struct ferry_kvs fc_kvs_view(const struct fc_kvs *kvs)
{
    return (struct ferry_kvs){.v = kvs->v, .n = kvs->n};
}

struct fc_bytes {
    struct ferry_buf_sink sink; /* first */
    unsigned char data[32768];
    size_t len;
};
void fc_bytes_init(struct fc_bytes *bytes);

struct fc_host_region {
    uint64_t addr, len;
    uint32_t access, kind;
    atomic_int live;
    atomic_uint holds;
};

struct fc_ctx;

/* One end: a host, and the transport opened with it. */
struct fc_node {
    struct ferry_host host; /* first */
    struct fc_ctx *ctx;
    int log_level;
    char name[32];
    struct ferry_tp *tp;
    struct fc_host_region regions[FC_MAX_REGIONS]; /* each used once */
    atomic_uint n_regions;
    bool is_target;
    bool quiet; /* errors are expected now: nothing goes to stderr */
};

struct fc_mem {    /* one of a target's registered ranges, as the initiator sees it */
    uint64_t addr; /* at the target */
    uint64_t len;
    uint8_t *view; /* the same bytes, mapped here */
    uint32_t id;   /* the target's name for it */
    struct fc_kvs attrs;
};

/* The passive end, in a process of its own or (ctx->two == false) in this one. */
struct fc_target {
    struct fc_ctx *ctx;
    unsigned index;
    pid_t pid; /* 0 = none */
    int ctl;   /* commands to it */
    int back;  /* its plugin's questions to ours */
    pthread_t back_thread;
    atomic_bool back_running; /* open, in a process of its own */
    bool stopped;             /* by SIGSTOP */
    struct fc_node *node;     /* where it lives here, or inside its process */
    struct fc_kvs attrs;
    uint8_t *view;  /* the arena as the checks see it */
    uint8_t *arena; /* the arena where the target has it; not mapped here if ctx->two */
    int memfd;      /* behind the arena, where the target lives */
    uint64_t used;  /* of the arena */
    struct ferry_mr *mr[FC_MAX_REGIONS];
    struct fc_host_region *region[FC_MAX_REGIONS];
    uint32_t n_mr;
    uint32_t seq;
    pthread_mutex_t lock; /* ctl: one command at a time */
};

/* Every element's fate, to see that each ends exactly once. */
struct fc_track {
    uint64_t cookie;
    uint32_t n;
    uint32_t accepted, ended;
    const struct ferry_xfer *v;
    uint8_t *state; /* enum fc_state */
    ferry_status *status;
    void (*on_end)(struct fc_track *track, uint32_t index);
    void *arg;
    struct fc_track *next;
};
enum fc_state { FC_NEW, FC_ACCEPTED, FC_ENDED };

struct fc_queue {
    struct fc_ctx *ctx;
    struct ferry_queue *q;
    struct fc_track *tracks;
    uint32_t max; /* room given to each poll; 0 = 64 */
};

struct fc_ctx {
    const struct fc_options *opt;
    struct fc_shared *shared;
    int number;
    struct ferry_transport_ops ops; /* holes filled with stubs */
    const struct ferry_transport_ops *raw;
    struct ferry_tp_caps caps;
    bool two;
    uint64_t rng;
    struct fc_node self;
    struct fc_target target[FC_MAX_TARGETS];
    struct fc_target up; /* in a target's process: the way to the initiator */
    unsigned n_targets;
    atomic_uint_fast64_t next_cookie;
    bool inherited_fd[1024]; /* open before the plugin came */
};

struct fc_point {
    int number;
    const char *name;
    const char *about;
    void (*run)(struct fc_ctx *ctx);
    unsigned targets; /* made before anything of the plugin is loaded */
    unsigned limit_s;
};
extern const struct fc_point fc_points[];
extern const size_t fc_n_points;
/* fc_run for these points. */
bool fc_run_points(const struct fc_options *options, const struct fc_point *points,
                   size_t n_points, struct fc_summary *summary_out);

/* --- ending a point: none of these returns --------------------------------- */
void fc_fail(struct fc_ctx *ctx, const char *expected, const char *seen, ...)
    __attribute__((noreturn, format(printf, 3, 4)));
void fc_not_applicable(struct fc_ctx *ctx, const char *seen, ...)
    __attribute__((noreturn, format(printf, 2, 3)));
void fc_skip(struct fc_ctx *ctx, const char *seen, ...)
    __attribute__((noreturn, format(printf, 2, 3)));
/* What a point that passes has to tell. */
void fc_note(struct fc_ctx *ctx, const char *seen, ...) __attribute__((format(printf, 2, 3)));
#define FC_CHECK(ctx, cond, expected, ...)                                                     \
    do {                                                                                       \
        if (!(cond))                                                                           \
            fc_fail((ctx), (expected), __VA_ARGS__);                                           \
    } while (0)

/* Calls of the plugin go through these, so that a crash or a hang can be named. */
void fc_stage(struct fc_ctx *ctx, const char *name);
#define FC_CALL(ctx, member, ...)                                                              \
    (fc_stage((ctx), #member), fc_back((ctx), (ctx)->ops.member(__VA_ARGS__)))
#define FC_VOID(ctx, member, ...)                                                              \
    do {                                                                                       \
        fc_stage((ctx), #member);                                                              \
        (ctx)->ops.member(__VA_ARGS__);                                                        \
        fc_stage((ctx), NULL);                                                                 \
    } while (0)
static inline ferry_status fc_back(struct fc_ctx *ctx, ferry_status status)
{
    fc_stage(ctx, NULL);
    return status;
}
/* FERRY_OK, or the point ends. */
#define FC_OK(ctx, member, ...)                                                                \
    do {                                                                                       \
        ferry_status fc_s_ = FC_CALL(ctx, member, __VA_ARGS__);                                \
        if (fc_s_ != FERRY_OK)                                                                 \
            fc_fail((ctx), #member " to return FERRY_OK", "%s", fc_status(fc_s_));             \
    } while (0)

/* --- process.c --------------------------------------------------------------- */
struct fc_shared *fc_shared_new(void);
void fc_shared_free(struct fc_shared *shared);
/* Clears `shared`, forks, waits at most limit_ms for the child (which passes where it returns),
 * ends its whole group. False where there is no process to be had. */
bool fc_run_process(struct fc_shared *shared, int number, const char *name, const char *about,
                    uint64_t limit_ms, void (*child)(void *arg), void *arg,
                    struct fc_outcome *outcome_out);

/* --- host.c ------------------------------------------------------------------ */
const char *fc_status(ferry_status status);
void fc_node_init(struct fc_node *node, struct fc_ctx *ctx, const char *name);
struct fc_host_region *fc_region_add(struct fc_node *node, uint64_t addr, uint64_t len,
                                     uint32_t access, uint32_t kind);
/* Waits until nobody holds it; false where somebody does for ever. */
bool fc_region_remove(struct fc_host_region *region);
unsigned fc_regions_held(const struct fc_node *node);
extern _Thread_local bool fc_in_queue_call;
/* Counted by alloc_watch.c, where the program has it. */
extern _Thread_local unsigned fc_allocations;
extern bool fc_allocations_watched;

/* --- plugin.c ---------------------------------------------------------------- */
/* Loads and checks the descriptor; ends the point where it must be refused. */
void fc_load(struct fc_ctx *ctx);
/* Ends the point where this machine is not fit. */
void fc_probe(struct fc_ctx *ctx, struct fc_node *node);
/* Opens a node's transport and queries its caps into ctx->caps. */
void fc_open(struct fc_ctx *ctx, struct fc_node *node);
void fc_close(struct fc_ctx *ctx, struct fc_node *node);

/* --- target.c ---------------------------------------------------------------- */
/* Before the plugin is loaded: arenas, and processes where ctx->two. */
void fc_targets_make(struct fc_ctx *ctx, unsigned n);
/* Opens the transport there, fills t->attrs. False (status_out) where open failed. */
void fc_target_open(struct fc_target *t);
void fc_target_close(struct fc_target *t);
/* Registers `len` bytes of its arena, page-aligned plus `shift`, with guard bytes around. */
void fc_target_reg(struct fc_target *t, uint64_t len, uint32_t access, struct fc_mem *mem_out);
void fc_target_dereg(struct fc_target *t, struct fc_mem *mem);
/* Asks the target itself, over the control channel, for the hash of its bytes. */
uint64_t fc_target_hash(struct fc_target *t, const struct fc_mem *mem, uint64_t off,
                        uint64_t len);
struct fc_counts {
    uint32_t fds, threads, held;
    uint64_t rss;
};
void fc_target_counts(struct fc_target *t, struct fc_counts *counts_out);
ferry_status fc_target_call(struct fc_target *t, const char *from, const void *req,
                            size_t req_len, uint32_t timeout_ms, struct ferry_buf_sink *reply);
void fc_target_kill(struct fc_target *t); /* SIGKILL; in one process: close */
void fc_target_stop(struct fc_target *t, bool stop);
uint64_t fc_hash(const void *data, size_t len);
void fc_counts_here(struct fc_counts *counts_out);

/* --- drive.c ----------------------------------------------------------------- */
uint64_t fc_now_ms(void);
void fc_sleep_ms(unsigned ms);
uint64_t fc_random(struct fc_ctx *ctx);
/* Bytes of a pattern that differ for every seed and position. */
void fc_fill(void *mem, uint64_t len, uint64_t seed);
/* -1 where all bytes are the pattern's, else the first that is not. */
int64_t fc_differs(const void *mem, uint64_t len, uint64_t seed);

void fc_queue_open(struct fc_ctx *ctx, uint32_t depth, struct fc_queue *queue_out);
void fc_queue_close(struct fc_queue *queue);
struct ferry_peer *fc_peer_open(struct fc_target *t);
void fc_attach(struct fc_ctx *ctx, struct ferry_peer *peer, struct fc_queue *queue);
struct ferry_mr *fc_mem_reg(struct fc_ctx *ctx, void *mem, uint64_t len, uint32_t access);
struct ferry_rmem *fc_rmem_open(struct fc_ctx *ctx, struct ferry_peer *peer,
                                const struct fc_mem *mem);
void *fc_map(struct fc_ctx *ctx, uint64_t len);

void fc_track_init(struct fc_ctx *ctx, struct fc_track *track, const struct ferry_xfer *v,
                   uint32_t n);
void fc_track_free(struct fc_track *track);
void fc_track_add(struct fc_queue *queue, struct fc_track *track);
void fc_track_remove(struct fc_queue *queue, struct fc_track *track);
/* One call; what was accepted is noted in the track. */
ferry_status fc_submit(struct fc_queue *queue, enum ferry_op op, struct ferry_peer *peer,
                       struct fc_track *track, uint32_t from, uint32_t n,
                       uint32_t *accepted_out);
/* One call; every completion is checked against the tracks. Returns how many elements ended. */
uint32_t fc_poll(struct fc_queue *queue);
ferry_status fc_cancel(struct fc_queue *queue, uint64_t cookie);
ferry_status fc_arm(struct fc_queue *queue);
/* Polls until all accepted elements of the track have ended, or timeout_ms passed (false). */
bool fc_finish(struct fc_queue *queue, struct fc_track *track, unsigned timeout_ms);
/* Submits all of v, polling where the queue is full, and waits. All end with FERRY_OK or the
 * point ends. */
void fc_transfer(struct fc_queue *queue, enum ferry_op op, struct ferry_peer *peer,
                 const struct ferry_xfer *v, uint32_t n);
/* The same; statuses (may be NULL) get what each ended with, a refusal by submit included. */
void fc_transfer_any(struct fc_queue *queue, enum ferry_op op, struct ferry_peer *peer,
                     const struct ferry_xfer *v, uint32_t n, ferry_status *status);
/* Backs off between empty polls. */
void fc_pause(unsigned *idle);

/* The usual scene: self and target 0 open, one queue, one attached peer, memory of `len` bytes
 * on both sides with all rights. */
struct fc_scene {
    struct fc_target *t;
    struct fc_queue q;
    struct ferry_peer *peer;
    uint8_t *local;
    struct ferry_mr *mr;
    struct fc_mem mem;
    struct ferry_rmem *rmem;
    uint64_t len;
};
void fc_scene_open(struct fc_ctx *ctx, uint64_t len, uint32_t depth, struct fc_scene *s);
void fc_scene_close(struct fc_ctx *ctx, struct fc_scene *s);
/* The same without peer_attach. */
void fc_scene_open_unattached(struct fc_ctx *ctx, uint64_t len, uint32_t depth,
                              struct fc_scene *s);
/* One transfer in the scene. */
struct ferry_xfer fc_xfer(const struct fc_scene *s, uint64_t local_off, uint64_t remote_off,
                          uint64_t len);
bool fc_can(const struct fc_ctx *ctx, enum ferry_op op);

#endif /* SUITE_H */
