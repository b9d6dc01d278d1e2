/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FERRY_TOOL_BENCH_H
#define FERRY_TOOL_BENCH_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "stats.h"

/*
 * What one row of the benchmark measures. The same offsets are used in the initiator's and in
 * the target's region: each thread walks through a slice of its own, batch after batch, piece
 * after piece, `stride` pieces apart.
 */
struct bench_spec {
    bool read; /* else write */
    bool spin; /* waiting callers may spin */
    bool hot;  /* every batch is the same memory; else a walk through a large region */
    uint32_t batch, threads, stride;
    uint64_t size;
};

#define BENCH_MAX_THREADS 64
#define BENCH_MAX_BATCH   (1u << 20)

/* Where a thread's batches are. */
struct bench_walk {
    uint64_t slice; /* first byte of its slice */
    uint64_t span;  /* bytes from batch to batch */
    uint64_t n;     /* batches until it starts again */
};

/* Least region that a row needs, or the one that makes it cold. */
uint64_t bench_region(const struct bench_spec *spec, uint64_t cold_len);
struct bench_walk bench_walk(const struct bench_spec *spec, uint64_t region, uint32_t thread);
/* Offset of a piece of the i-th batch. */
static inline uint64_t bench_off(const struct bench_spec *spec, const struct bench_walk *walk,
                                 uint64_t i, uint32_t piece)
{
    return walk->slice + i % walk->n * walk->span + piece * spec->size * spec->stride;
}

/* Fills by place and `seed`, so that no byte can stand in for another. */
void bench_fill(uint8_t *region, uint64_t len, uint64_t seed);
/* After one round of every thread: pieces must hold what stands at `moved`, all between them
 * what was there, `kept`. Bytes that do not; *first_out is the first of them. */
uint64_t bench_check(const uint8_t *region, uint64_t len, const struct bench_spec *spec,
                     uint64_t moved, uint64_t kept, uint64_t *first_out);

/* "4k", "1m", "1000". `text` has room for 24. */
const char *bench_size_text(char *text, uint64_t size);

/* Set by a signal: runs end, and with them what a run waits for. */
extern atomic_int bench_stop;

struct bench_result {
    double GBps, cpu_s_per_GiB;
    uint64_t batches, bytes, ns;
    uint64_t p50_ns, p90_ns, p99_ns, p999_ns, min_ns;
    int64_t rss_beyond[2]; /* initiator, target: resident bytes beyond the region */
};

/* Who is measured: knows how to move one batch. */
struct bench_mover {
    void *arg;
    /* Moves the pieces of batch `i`; called by one thread for each `thread`. False: `error`. */
    bool (*move)(void *arg, const struct bench_spec *spec, const struct bench_walk *walk,
                 uint32_t thread, uint64_t i, char *error, size_t room);
};

/* One run: at least `ns` long, at least `least` batches a thread. The caller's thread does it
 * where there is one. Fills times and batches of `result`; not CPU and memory. */
bool bench_run(const struct bench_mover *mover, const struct bench_spec *spec, uint64_t region,
               uint64_t ns, uint64_t least, uint64_t most, struct bench_result *result,
               char *error, size_t room);

/* CPU time of this process, resident bytes of it. */
uint64_t bench_cpu_ns(void);
uint64_t bench_rss(void);
/* Puts every thread of this process on the `nth` processor that it may use; -1 = on all. */
void bench_place(int nth);

#endif /* FERRY_TOOL_BENCH_H */
