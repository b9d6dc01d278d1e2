/* SPDX-License-Identifier: Apache-2.0 */
/*
 * HOT: whether a link's pieces go over all of its rails or over one. Rails that share what
 * limits them (a PCIe switch, a memory bus, processors that emulate them) are slower together
 * than one alone, and no property of a device tells. So both ways are measured, READ and WRITE
 * apart: bytes over the time in which something was in flight. All rails carry at first; now
 * and then the way that is not in use is tried for one measurement, more seldom each time that
 * it loses. The queue's lock is held throughout.
 */
#include "rdma.h"

#define MEASURE_NS  UINT64_C(20000000) /* of something in flight */
/* All rails have to be better by so much: where they are not, the others are left to others. */
#define CLEARLY     1.05
#define FIRST_PAUSE 16u /* measurements from one trial to the next */
#define LAST_PAUSE  256u

uint64_t rdma_in_flight(const struct rdma_link *link)
{
    uint64_t bytes = 0;

    for (uint32_t i = 0; i < link->n_rails; i++)
        bytes += link->rail[i].out_bytes;
    return bytes;
}

uint32_t rdma_width(const struct rdma_link *link, enum ferry_op op)
{
    uint32_t up = 0;

    for (uint32_t i = 0; i < link->n_rails; i++)
        up += link->rail[i].state == RAIL_UP;
    return up > 1 && link->width.of[op].narrow ? 1 : up;
}

void rdma_width_stage(struct rdma_link *link, enum ferry_op op)
{
    struct rdma_width *w = &link->width;

    if (!w->measuring) {
        *w = (struct rdma_width){.of = {w->of[0], w->of[1]},
                                 .measuring = true,
                                 .op = op,
                                 .left_over = rdma_in_flight(link),
                                 .since_ns = ft_now_ns()};
    } else if (rdma_in_flight(link) == 0) {
        w->since_ns = ft_now_ns();
    }
    if (op != w->op)
        w->measuring = false; /* says nothing about either */
}

/* One measurement more of the way in use: which way from here on? */
static void decide(struct rdma_link *link, double rate)
{
    struct rdma_width_op *of = &link->width.of[link->width.op];
    double *seen = &of->seen[of->narrow];

    *seen = *seen > 0 ? (*seen + rate) / 2 : rate;
    if (!of->trial) {
        of->trial = of->since_trial++ >= of->pause;
        of->narrow ^= of->trial;
        return;
    }
    bool narrow = of->seen[true] * CLEARLY > of->seen[false];
    of->pause = narrow == of->narrow || !of->pause ? FIRST_PAUSE
                : of->pause < LAST_PAUSE           ? of->pause * 2
                                                   : LAST_PAUSE;
    of->trial = false;
    of->since_trial = 0;
    of->narrow = narrow;
    FT_LOG(link->queue->tp->host, FERRY_LOG_DEBUG,
           "%s, %s: %.0f MB/s over all rails, %.0f MB/s over one", link->peer->name,
           link->width.op == FERRY_OP_READ ? "READ" : "WRITE", of->seen[false] * 1e3,
           of->seen[true] * 1e3);
}

void rdma_width_done(struct rdma_link *link, uint64_t bytes, uint64_t now)
{
    struct rdma_width *w = &link->width;

    if (!w->measuring)
        return;
    if (w->left_over) { /* that was sent the other way */
        w->left_over -= bytes < w->left_over ? bytes : w->left_over;
        w->since_ns = now;
        return;
    }
    w->fresh_bytes += bytes;
    bool idle = rdma_in_flight(link) == 0;
    bool enough = w->ns + (now - w->since_ns) >= MEASURE_NS &&
                  w->bytes + w->fresh_bytes >= RDMA_SPREAD_LEN;
    if (!idle && !enough)
        return;
    if (w->fresh_bytes >= RDMA_SPREAD_LEN || !idle) { /* less is latency, not bandwidth */
        w->bytes += w->fresh_bytes;
        w->ns += now - w->since_ns;
    }
    w->fresh_bytes = 0;
    w->since_ns = now;
    if (enough && w->bytes >= RDMA_SPREAD_LEN) {
        w->measuring = false;
        if (rdma_width(link, w->op) > 1 || w->of[w->op].narrow)
            decide(link, (double)w->bytes / (double)w->ns);
    }
}
