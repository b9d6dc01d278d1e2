/* SPDX-License-Identifier: Apache-2.0 */
/*
 * HOT. Upstream's framing, v1 and v2, told apart per request: pipelined requests, answers in
 * their order, the end of the connection after a refusal.
 */
#include "target.h"

#define GATHER_DESC  450u /* READs answered by one send: two entries each */
#define GATHER_BYTES (4u << 20)
#define AHEAD_SMALL  TARGET_BUF_LEN /* where requests are small: many in one receive */
#define AHEAD_FIRST  4096u
#define SMALL_LEN    16384u

/* Reading ahead costs a second copy: for large payloads just the next header. */
static uint32_t ahead(const struct target *t)
{
    if (t->mc_last_len == 0)
        return AHEAD_FIRST;
    return t->mc_last_len < SMALL_LEN ? AHEAD_SMALL : WIRE_MC_LEN;
}

static bool plausible(const struct wire_mc *r)
{
    return r->size > 0 && r->size <= WIRE_MAX_PAYLOAD && r->size <= UINT64_MAX - r->addr;
}

static enum target_run refuse(struct target *t, bool v2)
{
    struct work *w = t->w;

    FT_LOG(t->env->host, FERRY_LOG_DEBUG, "tcp: a request outside of registered memory");
    move_end(t);
    if (!v2) {
        enum target_run run = target_flush(t);

        return run == TARGET_WRITE ? TARGET_RESET : TARGET_CLOSE;
    }
    wire_put64(w->out + w->out_len, WIRE_MC_REJECTED);
    w->out_len += WIRE_MC_STATUS_LEN;
    return target_refuse(t);
}

/* As many READs as are in the buffer, of one version and allowed. */
static uint32_t gather(struct target *t, struct wire_mc r)
{
    struct work *w = t->w;
    uint64_t bytes = 0;
    bool v2 = r.v2;
    uint32_t n = 0;

    do {
        w->d[n++] = (struct wire_desc){r.addr, r.size};
        bytes += r.size;
        if (n == GATHER_DESC || bytes >= GATHER_BYTES ||
            w->have - w->pos - n * WIRE_MC_LEN < WIRE_MC_LEN)
            break;
        wire_get_mc(w->buf + w->pos + n * WIRE_MC_LEN, &r);
    } while (!r.write && r.v2 == v2 && plausible(&r));
    return n;
}

static enum target_run start(struct target *t)
{
    struct work *w = t->w;
    struct wire_mc r;
    uint32_t n = 1, good;
    enum target_run run = target_fill(t, WIRE_MC_LEN, ahead(t));

    if (run != TARGET_DONE)
        return run;
    if (TARGET_OUT_LEN - w->out_len < WIRE_MC_STATUS_LEN) {
        run = target_flush(t);
        if (run != TARGET_DONE)
            return run;
    }
    wire_get_mc(w->buf + w->pos, &r);
    t->mc_last_len = r.write ? r.size : 1; /* of READs only headers come */
    t->v2 = r.v2;
    if (!plausible(&r))
        return refuse(t, r.v2);
    if (r.write)
        w->d[0] = (struct wire_desc){r.addr, r.size};
    else
        n = gather(t, r);
    move_start(t, n, r.write, !r.write && r.v2 ? WIRE_MC_STATUS_LEN : 0);
    for (good = 0; good < n && w->st[good] == WIRE_ST_OK; good++)
        ;
    if (good == 0)
        return refuse(t, r.v2);
    if (good < n)
        move_truncate(t, good); /* the refused one begins the next turn */
    w->pos += good * WIRE_MC_LEN;
    w->total = move_total(t);
    return TARGET_DONE;
}

enum target_run target_mc(struct target *t)
{
    struct work *w = t->w;
    enum target_run run;

    if (!w->active) {
        run = start(t);
        if (run != TARGET_DONE)
            return run;
    }
    run = w->write ? move_in(t, ahead(t)) : move_out(t);
    if (run != TARGET_DONE)
        return run;
    if (w->write) {
        bool stored = w->st[0] == WIRE_ST_OK;

        if (!stored)
            return refuse(t, t->v2);
        if (t->v2) {
            wire_put64(w->out + w->out_len, WIRE_MC_OK);
            w->out_len += WIRE_MC_STATUS_LEN;
        }
    }
    move_end(t);
    return TARGET_DONE;
}
