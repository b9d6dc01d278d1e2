/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FY_PATH_H
#define FY_PATH_H

/*
 * A path is one transport to one peer: what it carried, how fast it is, what is known against
 * it. docs/selection.md tells how one is chosen; no transport is known by name.
 */
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "ferry/status.h"

struct cJSON;
struct fy_part;
struct fy_segment;
struct fy_transport;
struct fy_view;

/* Counted with relaxed atomics, read by describe. */
struct fy_counters {
    atomic_ullong requests, failed, bytes, retried, batches;
};

/* Bytes a second over about the last second. */
struct fy_rate {
    atomic_ullong since_ns, bytes; /* when the window began, and the counter's value then */
    atomic_ullong last_Bps;        /* of the window before */
};
void fy_rate_note(struct fy_rate *rate, const struct fy_counters *count);
uint64_t fy_rate_now(const struct fy_rate *rate, const struct fy_counters *count);

#define FY_SIZE_CLASSES 10 /* up to 1 KiB, 4 KiB, 16 KiB ... 64 MiB and more */

struct fy_path {
    /* Under segment.lock. */
    ferry_status why;         /* why no new work goes over it; FERRY_OK = it may */
    bool refused;             /* the transport says that it cannot serve this pair */
    unsigned failures;        /* in a row, for the back-off */
    uint64_t retry_ns;        /* not probed before */
    uint64_t restored_ns;     /* when it last came back */
    ferry_status last_status; /* the last failure, which stays to be looked at */
    char last_text[256];
    uint64_t last_ns;
    uint64_t looked_ns[2][FY_SIZE_CLASSES]; /* when it was last tried out, by op and size */

    struct fy_counters count;
    struct fy_rate rate;
    /* By op and size: measured time over that of the transport's own estimate (a float, high
     * half), and how often it was measured (low half). Relaxed; a lost update does no harm. */
    _Atomic uint64_t measured[2][FY_SIZE_CLASSES];
};

/* What new work asks of a path. */
struct fy_need {
    const struct fy_transport *only; /* just this transport; NULL = any */
    uint32_t op;
    uint32_t local_kind, remote_kind; /* enum ferry_mem_kind */
    uint64_t bytes;                   /* about; 0 = not known */
};

/* The view that new work for this segment takes; the result is counted. */
ferry_status fy_segment_view(struct fy_segment *segment, const struct fy_need *need,
                             struct fy_view **view_out);
/* Index of the first transport in order that works, -1 = none. segment.lock held. */
int fy_path_first(struct fy_segment *segment);
/* What this peer's document offers of ours has changed, or its incarnation. segment.lock held.
 */
void fy_paths_reset(struct fy_segment *segment, bool restarted);
/* The view is broken: its path is passed over for a while. Any number of times. */
void fy_path_lost(struct fy_view *view);
/* HOT. A part that was alone on its queue has moved all its bytes in `ns`. */
void fy_path_measured(struct fy_view *view, uint32_t op, uint64_t bytes, uint64_t ns);
/* HOT. Is this part worth timing? */
bool fy_path_times(const struct fy_view *view, uint32_t op, uint64_t bytes);
/* Microseconds that the path is expected to take, and whether it was measured. */
double fy_path_predict_us(const struct fy_segment *segment, unsigned transport, uint32_t op,
                          uint64_t bytes, bool *measured_out);
/* FERRY_MEM_ kind of a location in the document of `node`: a word and a number ("gpu:0") are a
 * device's memory; "cpu:0", "*", the node's own name and whatever else are the host's. */
uint32_t fy_location_kind(const char *location, const char *node);
/* Is this kind of memory among those of a transport's caps? */
bool fy_takes(uint32_t kinds, uint32_t kind);

#endif /* FY_PATH_H */
