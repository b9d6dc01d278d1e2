/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FERRY_TOOL_BENCH_FERRY_H
#define FERRY_TOOL_BENCH_FERRY_H

#include "bench.h"
#include "bench_raw.h"
#include "ferry/ferry.h"

/* Ferry's two ends of a benchmark, with the raw reference beside them on the same memory. */

#define BENCH_ENGINES 5 /* Ferry, and Ferry configured otherwise */
#define BENCH_REPS    31

struct bench_setup {
    const char *name, *second_name, *bind, *metadata_server, *device, *congestion;
    const char *config_json[BENCH_ENGINES], *protocol[BENCH_ENGINES];
    int n_engines, log_level;
    bool spin, huge, pin, verify;
    uint64_t region_len;
    uint64_t timeout_ms;
};

struct bench_side; /* one process: engines, region */

/* False: a message has gone to stderr. */
bool bench_side_open(const struct bench_setup *setup, bool target,
                     struct bench_side **side_out);
void bench_side_close(struct bench_side *side);
const char *bench_side_name(const struct bench_side *side, int engine);
/* What Ferry's sockets use, "" where no transport told. */
const char *bench_side_congestion(const struct bench_side *side);

/* Target: serves one initiator, until it has gone or bench_stop is set. */
bool bench_serve(struct bench_side *side);

/* Initiator: finds the target's engines by name, and its raw reference. */
bool bench_connect(struct bench_side *side, const char *const *peers);
struct raw_client *bench_side_raw(const struct bench_side *side);

struct bench_numbers { /* medians of the repetitions */
    double GBps, cpu_s_per_GiB, p50_us, p90_us, p99_us, p999_us;
    double ratio, cpu_ratio; /* to the raw run beside it, medians of the pairs; 0 = none */
    double rss_beyond[2];    /* initiator, target: MiB, the most of all repetitions */
};

struct bench_row {
    struct bench_spec spec;
    uint64_t region;
    struct bench_numbers raw, ferry[BENCH_ENGINES];
    double first_to[BENCH_ENGINES]; /* the first engine's rate over this one's, turn by turn */
    bool verified;
    char error[300]; /* "" = measured */
};

struct bench_effort {
    uint64_t ns, bytes; /* of a run; bytes 0 = by time */
    int reps;
    bool raw;
};

/* All contenders in turns, so that what disturbs one disturbs the others. */
void bench_measure(struct bench_side *side, const struct bench_effort *effort,
                   struct bench_row *row);

/* Merges `over` into `base`, member by member. Both are JSON objects; NULL = empty. For free();
 * NULL: `over` is no object. */
char *bench_merge_json(const char *base, const char *over);
#endif /* FERRY_TOOL_BENCH_FERRY_H */
