/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How long paths take. A transport says what it takes for: latency + bytes / bandwidth; what is
 * kept, for each direction and class of sizes, is by how much the truth is more than that. So a
 * few numbers fit any transport, and sizes that were not seen yet are guessed from neighbours.
 */
#include "path_measure.h"

#include <string.h>

#include "util/clock.h"

#define ENOUGH       4    /* times measured before a judgement rests on it */
#define MANY         16   /* from then on only some are measured */
#define MANY_TURNS   8    /* one in so many */
#define CLEARLY      0.95 /* faster is less than so much of the other's time */
#define UNKNOWN_COST 4    /* a path that was never measured may take so many times as long */
#define ALLOWANCE    128  /* one part in so many of the time goes to trying others out */
#define SAVED_NS     (200 * FY_NS_PER_MS) /* most that is saved up for it */
#define YOUNG_NS     (10 * FY_NS_PER_MS)  /* between tries of one that is not known well */
#define AGAIN_NS     (5 * FY_NS_PER_S)    /* of one that is */
#define HOPELESS_NS  (60 * FY_NS_PER_S)   /* of one that is far slower */
#define WINDOW_NS    FY_NS_PER_S
#define DEFAULT_NS   100000.0
#define DEFAULT_BPS  1e9

static uint64_t pack(float ratio, uint32_t count)
{
    uint32_t bits;

    memcpy(&bits, &ratio, sizeof(bits));
    return (uint64_t)bits << 32 | count;
}

static float ratio_of(uint64_t packed)
{
    uint32_t bits = (uint32_t)(packed >> 32);
    float ratio;

    memcpy(&ratio, &bits, sizeof(ratio));
    return ratio;
}

static uint32_t count_of(const struct fy_path *path, uint32_t op, unsigned class)
{
    return (uint32_t)atomic_load_explicit(&path->measured[op][class], memory_order_relaxed);
}

unsigned fy_size_class(uint64_t bytes)
{
    unsigned class = 0;

    for (bytes = bytes ? (bytes - 1) >> 10 : 0; bytes && class < FY_SIZE_CLASSES - 1;
         bytes >>= 2)
        class ++;
    return class;
}

/* What the transport says of itself. */
static double stated_ns(const struct ferry_tp_caps *caps, uint64_t bytes)
{
    double latency = caps->latency_ns ? caps->latency_ns : DEFAULT_NS;
    double Bps = caps->bandwidth_Bps ? (double)caps->bandwidth_Bps : DEFAULT_BPS;

    return latency + (double)bytes * 1e9 / Bps;
}

/* The ratio of the class, or of the nearest one that was measured; 0 = of none. */
static float nearest(const struct fy_path *path, uint32_t op, unsigned class)
{
    for (unsigned away = 0; away < FY_SIZE_CLASSES; away++) {
        for (int side = -1; side <= 1; side += 2) {
            int at = (int)class + side * (int)away;
            uint64_t packed;

            if (at < 0 || at >= FY_SIZE_CLASSES)
                continue;
            packed = atomic_load_explicit(&path->measured[op][at], memory_order_relaxed);
            if ((uint32_t)packed)
                return ratio_of(packed);
        }
    }
    return 0;
}

static double predict_ns(const struct fy_segment *segment, unsigned t, uint32_t op,
                         uint64_t bytes, bool *measured_out)
{
    float ratio = nearest(&segment->paths[t], op, fy_size_class(bytes));

    if (measured_out)
        *measured_out = ratio > 0;
    return stated_ns(&segment->engine->transports[t]->caps, bytes) * (ratio > 0 ? ratio : 1);
}

double fy_path_predict_us(const struct fy_segment *segment, unsigned transport, uint32_t op,
                          uint64_t bytes, bool *measured_out)
{
    return predict_ns(segment, transport, op, bytes, measured_out) / 1e3;
}

bool fy_path_times(const struct fy_view *view, uint32_t op, uint64_t bytes)
{
    const struct fy_segment *segment = view->segment;
    unsigned offered = atomic_load_explicit(&segment->offered, memory_order_relaxed);
    uint32_t count;

    if (!segment->engine->feedback || !(offered & (offered - 1)))
        return false;
    count = count_of(&segment->paths[view->transport->index], op & 1, fy_size_class(bytes));
    return count < MANY ||
           atomic_load_explicit(&segment->turn, memory_order_relaxed) % MANY_TURNS == 1;
}

void fy_path_measured(struct fy_view *view, uint32_t op, uint64_t bytes, uint64_t ns)
{
    struct fy_segment *segment = view->segment;
    unsigned class = fy_size_class(bytes);
    _Atomic uint64_t *at = &segment->paths[view->transport->index].measured[op & 1][class];
    uint64_t packed = atomic_load_explicit(at, memory_order_relaxed);
    uint32_t count = (uint32_t)packed, turns = count < MANY ? 1 : MANY_TURNS;
    float seen = (float)((double)ns / stated_ns(&view->transport->caps, bytes));
    float ratio = ratio_of(packed), weight = 1.0f / (float)(count < 7 ? count + 1 : 8);

    if (count >= ENOUGH && seen > 4 * ratio)
        seen = 4 * ratio; /* somebody else had the processor */
    ratio += weight * (seen - ratio);
    atomic_store_explicit(at, pack(ratio, count < UINT32_MAX ? count + 1 : count),
                          memory_order_relaxed);
    if (atomic_load_explicit(&segment->explore_ns, memory_order_relaxed) < (long long)SAVED_NS)
        atomic_fetch_add_explicit(&segment->explore_ns, (long long)(ns * turns / ALLOWANCE),
                                  memory_order_relaxed);
}

bool fy_path_busy(const struct fy_path *path, uint32_t op, unsigned class)
{
    return count_of(path, op, class) >= MANY;
}

bool fy_path_beats(const struct fy_segment *segment, unsigned t, unsigned on, uint32_t op,
                   uint64_t bytes)
{
    unsigned class = fy_size_class(bytes);

    return count_of(&segment->paths[t], op, class) >= ENOUGH &&
           count_of(&segment->paths[on], op, class) >= ENOUGH &&
           predict_ns(segment, t, op, bytes, NULL) <
               CLEARLY * predict_ns(segment, on, op, bytes, NULL);
}

bool fy_path_explore(struct fy_segment *segment, unsigned t, unsigned on, uint32_t op,
                     uint64_t bytes)
{
    unsigned class = fy_size_class(bytes);
    struct fy_path *path = &segment->paths[t];
    double takes, usual = predict_ns(segment, on, op, bytes, NULL);
    uint64_t now = fy_now_ns(), wait = YOUNG_NS;
    long long cost;
    bool known;

    if (count_of(&segment->paths[on], op, class) < ENOUGH)
        return false; /* there is nothing to hold it against yet */
    takes = predict_ns(segment, t, op, bytes, &known);
    if (!known)
        takes = UNKNOWN_COST * (takes > usual ? takes : usual);
    else if (count_of(path, op, class) >= ENOUGH)
        wait = takes > 3 * usual ? HOPELESS_NS : AGAIN_NS;
    if (now - path->looked_ns[op][class] < wait)
        return false;
    cost = takes > usual ? (long long)(takes - usual) : 0;
    if (atomic_load_explicit(&segment->explore_ns, memory_order_relaxed) < cost)
        return false;
    atomic_fetch_sub_explicit(&segment->explore_ns, cost, memory_order_relaxed);
    path->looked_ns[op][class] = now;
    return true;
}

/* ---- rates ---- */

static uint64_t about_now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
    return (uint64_t)t.tv_sec * FY_NS_PER_S + (uint64_t)t.tv_nsec;
}

void fy_rate_note(struct fy_rate *rate, const struct fy_counters *count)
{
    uint64_t now = about_now_ns();
    unsigned long long since = atomic_load_explicit(&rate->since_ns, memory_order_relaxed);
    unsigned long long bytes, before;

    if (now - since < WINDOW_NS ||
        !atomic_compare_exchange_strong_explicit(&rate->since_ns, &since, now,
                                                 memory_order_relaxed, memory_order_relaxed))
        return;
    bytes = atomic_load_explicit(&count->bytes, memory_order_relaxed);
    before = atomic_exchange_explicit(&rate->bytes, bytes, memory_order_relaxed);
    if (since && bytes >= before)
        atomic_store_explicit(
            &rate->last_Bps,
            (unsigned long long)((double)(bytes - before) * 1e9 / (double)(now - since)),
            memory_order_relaxed);
}

uint64_t fy_rate_now(const struct fy_rate *rate, const struct fy_counters *count)
{
    uint64_t now = about_now_ns();
    unsigned long long since = atomic_load_explicit(&rate->since_ns, memory_order_relaxed);
    unsigned long long bytes = atomic_load_explicit(&count->bytes, memory_order_relaxed);
    unsigned long long before = atomic_load_explicit(&rate->bytes, memory_order_relaxed);

    if (!since || now <= since || now - since < WINDOW_NS)
        return atomic_load_explicit(&rate->last_Bps, memory_order_relaxed);
    return bytes > before ? (uint64_t)((double)(bytes - before) * 1e9 / (double)(now - since))
                          : 0;
}
