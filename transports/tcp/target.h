/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TCP_TARGET_H
#define TCP_TARGET_H

#include <sys/uio.h>

#include "tcp.h"
#include "wire.h"

/*
 * The passive side of one connection: a state machine over a non-blocking socket, both
 * dialects. It never waits: who drives it (server.c, the fuzz target) does.
 */

#define TARGET_BUF_LEN     65536u
#define TARGET_OUT_LEN     16384u
#define TARGET_SCRATCH_LEN 65536u
#define TARGET_STAGE_LEN   (1u << 20)
#define TARGET_IOV         1000u            /* in one system call, less than IOV_MAX */
#define TARGET_AHEAD_V3    8192u            /* received beyond what is needed now */
#define TARGET_SILENCE_NS  (10 * NS_PER_MS) /* after it, a reset is looked for first */
#define TARGET_DRAIN_NS    NS_PER_S

enum target_run {
    TARGET_AGAIN, /* its turn is over, there may be more to do */
    TARGET_IDLE,  /* between requests, nothing has come */
    TARGET_READ,  /* waits for input */
    TARGET_WRITE, /* waits for room to send */
    TARGET_DRAIN, /* refused: waits, until drain_ns, for the peer to end it */
    TARGET_CLOSE,
    TARGET_RESET,
    /* Inside only. */
    TARGET_DONE,
};

/* What a connection needs while it has something to do. */
struct work {
    struct work *next;
    uint32_t pos, have;        /* received and not yet used, in buf */
    uint32_t out_pos, out_len; /* to be sent before anything else, in out */

    /* The transfers being moved. */
    uint32_t n;
    bool active, write, held, staged;
    uint32_t lead;         /* bytes of status before each payload (v2 READ) */
    uint64_t total, moved; /* bytes of theirs on the wire */
    uint64_t cookie;       /* v3 */
    uint32_t n_holds;
    /* The window: the gather list of what moves next. It starts and ends at these places. */
    uint32_t iov_at, iov_n;
    uint64_t win_left;
    uint32_t base_i, end_i;
    uint64_t base_off, end_off, base_moved;
    void *stage; /* memory that is not the host's passes through it */
    uint64_t stage_off;
    size_t stage_len;

    struct wire_desc d[WIRE_MAX_DESC];
    uint8_t st[WIRE_MAX_DESC]; /* enum wire_status */
    uint16_t hold_of[WIRE_MAX_DESC];
    struct ferry_region hold[WIRE_MAX_DESC];
    struct iovec iov[TARGET_IOV + 4];
    uint8_t out[TARGET_OUT_LEN];
    uint8_t buf[TARGET_BUF_LEN];
};

/* What the connections of one thread share. */
struct target_env {
    const struct ferry_host *host;
    uint64_t incarnation;
    struct work *spare;
    uint32_t n_spare;
    uint8_t scratch[TARGET_SCRATCH_LEN]; /* where refused payload goes */
};

enum target_state { TARGET_S_FIRST, TARGET_S_V3, TARGET_S_MC, TARGET_S_DRAIN };

struct target {
    struct target_env *env;
    struct work *w; /* NULL while idle */
    int fd;
    uint8_t state;
    bool eof, refused;
    bool v2;              /* of the requests being moved */
    uint64_t mc_last_len; /* payload of the last request: how much to read ahead */
    uint64_t last_rx_ns;
    uint64_t progress_ns; /* when something moved last */
    uint64_t drain_ns;    /* TARGET_DRAIN's end */
};

void target_init(struct target *t, struct target_env *env, int fd, uint64_t now);
/* Does what can be done without waiting, for a bounded time. */
enum target_run target_run(struct target *t);
/* Nothing will be done for a while: lets go of regions, and between requests of its memory. */
void target_pause(struct target *t);
/* Frees all but the socket. */
void target_fini(struct target *t);
void target_env_fini(struct target_env *env);

/* --- between target.c, target_move.c and target_mc.c --- */
/* At least `need` bytes in buf, asking for `ahead`. TARGET_DONE: they are there. */
enum target_run target_fill(struct target *t, uint32_t need, uint32_t ahead);
enum target_run target_flush(struct target *t);
/* One receive; *n_out > 0 with TARGET_DONE. EFAULT is TARGET_DONE with 0. */
enum target_run target_recv(struct target *t, struct iovec *v, size_t n, size_t *n_out);
enum target_run target_refuse(struct target *t);
enum target_run target_mc(struct target *t);

/* d[0..n) as they are, all st[] OK; finds their regions. */
void move_start(struct target *t, uint32_t n, bool write, uint32_t lead);
/* Forgets those from n on. */
void move_truncate(struct target *t, uint32_t n);
/* What is on the wire, now that it is known which are refused. */
uint64_t move_total(struct target *t);
/* TARGET_DONE: all moved. */
enum target_run move_in(struct target *t, uint32_t ahead);
enum target_run move_out(struct target *t);
void move_release(struct target *t);
void move_end(struct target *t);

#endif /* TCP_TARGET_H */
