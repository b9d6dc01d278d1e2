/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Contents of the benchmark's regions, and the look whether they are where they belong. Knows a
 * row's walk, nothing of how bytes are moved.
 */
#include "bench.h"

#include <string.h>

static inline uint64_t pattern(uint64_t seed, uint64_t word)
{
    uint64_t x = (seed + word) * 0x9e3779b97f4a7c15u;

    return x ^ x >> 29;
}

void bench_fill(uint8_t *region, uint64_t len, uint64_t seed)
{
    uint64_t i = 0, w;

    for (; i + 8 <= len; i += 8) {
        w = pattern(seed, i / 8);
        memcpy(region + i, &w, 8);
    }
    w = pattern(seed, i / 8);
    memcpy(region + i, &w, len - i);
}

static uint64_t differing(const uint8_t *region, uint64_t from, uint64_t to, uint64_t seed,
                          uint64_t *first)
{
    uint64_t bad = 0, w, got;

    for (uint64_t i = from; i < to;) {
        w = pattern(seed, i / 8);
        if (i % 8 == 0 && i + 8 <= to) {
            memcpy(&got, region + i, 8);
            if (got == w) {
                i += 8;
                continue;
            }
        }
        if (region[i] != ((const uint8_t *)&w)[i % 8]) {
            if (i < *first)
                *first = i;
            bad++;
        }
        i++;
    }
    return bad;
}

uint64_t bench_check(const uint8_t *region, uint64_t len, const struct bench_spec *spec,
                     uint64_t moved, uint64_t kept, uint64_t *first_out)
{
    uint64_t bad = 0, at = 0, first = UINT64_MAX;

    for (uint32_t t = 0; t < spec->threads; t++) {
        struct bench_walk walk = bench_walk(spec, len, t);
        for (uint64_t i = 0; i < walk.n; i++)
            for (uint32_t piece = 0; piece < spec->batch; piece++) {
                uint64_t off = bench_off(spec, &walk, i, piece);
                bad += differing(region, at, off, kept, &first);
                bad += differing(region, off, off + spec->size, moved, &first);
                at = off + spec->size;
            }
    }
    bad += differing(region, at, len, kept, &first);
    *first_out = first;
    return bad;
}
