/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Percentiles and medians. Knows no units.
 */
#include "stats.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

bool samples_init(struct samples *samples, size_t room)
{
    *samples = (struct samples){.room = room, .random = 0x9e3779b97f4a7c15u};
    samples->v = malloc(room * sizeof(*samples->v));
    return samples->v != NULL;
}

void samples_fini(struct samples *samples)
{
    free(samples->v);
    *samples = (struct samples){0};
}

void samples_clear(struct samples *samples)
{
    samples->n = 0;
    samples->seen = 0;
}

void samples_add(struct samples *samples, uint64_t value)
{
    uint64_t place;

    samples->seen++;
    if (samples->n < samples->room) {
        samples->v[samples->n++] = value;
        return;
    }
    samples->random ^= samples->random << 13;
    samples->random ^= samples->random >> 7;
    samples->random ^= samples->random << 17;
    place = samples->random % samples->seen;
    if (place < samples->room)
        samples->v[place] = value;
}

void samples_join(struct samples *samples, const struct samples *other)
{
    for (size_t i = 0; i < other->n; i++)
        samples_add(samples, other->v[i]);
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

uint64_t samples_percentile(struct samples *samples, double p)
{
    size_t rank;

    if (!samples->n)
        return 0;
    qsort(samples->v, samples->n, sizeof(*samples->v), by_value);
    rank = (size_t)ceil(p * (double)samples->n);
    if (rank < 1)
        rank = 1;
    return samples->v[rank > samples->n ? samples->n - 1 : rank - 1];
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

double stats_median(double *values, size_t n)
{
    if (!n)
        return 0;
    qsort(values, n, sizeof(*values), by_size);
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}
