/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FERRY_TOOL_STATS_H
#define FERRY_TOOL_STATS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Durations in a bounded number of places: once full, each further one replaces one at random
 * (reservoir), so that percentiles stay those of all. One thread at a time. */
struct samples {
    uint64_t *v;
    size_t n, room;
    uint64_t seen, random;
};

bool samples_init(struct samples *samples, size_t room);
void samples_fini(struct samples *samples);
void samples_clear(struct samples *samples);
void samples_add(struct samples *samples, uint64_t value);
/* All of `other`'s kept values. */
void samples_join(struct samples *samples, const struct samples *other);
/* The smallest kept value that is not below a share `p` (0 to 1) of them; 0 where there is
 * none. Sorts. */
uint64_t samples_percentile(struct samples *samples, double p);

/* Of `n` values, which are sorted by it; the mean of the middle two where n is even. */
double stats_median(double *values, size_t n);

#endif /* FERRY_TOOL_STATS_H */
