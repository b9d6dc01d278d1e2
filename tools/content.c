/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Contents of KV blocks and their checksums. Knows the layout, nothing of transfers.
 */
#define XXH_INLINE_ALL
#include "content.h"

#include <string.h>
#include <xxhash.h>

static uint64_t mix(uint64_t x)
{
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9u;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

static uint64_t seed_of(uint64_t key, uint32_t layer, uint32_t half)
{
    return mix(mix(key + 0x9e3779b97f4a7c15u) + layer * 2ull + half);
}

static inline uint64_t word(uint64_t seed, uint64_t i)
{
    uint64_t x = (seed + i) * 0x9e3779b97f4a7c15u;

    return x ^ x >> 32;
}

static void fill_piece(uint8_t *at, uint64_t len, uint64_t seed)
{
    uint64_t words = len / 8, last;

    for (uint64_t i = 0; i < words; i++) {
        uint64_t w = word(seed, i);
        memcpy(at + i * 8, &w, 8);
    }
    last = word(seed, words);
    memcpy(at + words * 8, &last, len % 8);
}

static bool check_piece(const uint8_t *at, uint64_t len, uint64_t seed, uint64_t *off_out)
{
    uint64_t words = len / 8, last, wrong = 0, w;

    for (uint64_t i = 0; i < words; i++) {
        memcpy(&w, at + i * 8, 8);
        wrong |= w ^ word(seed, i);
    }
    last = word(seed, words);
    if (!wrong && memcmp(at + words * 8, &last, len % 8) == 0)
        return true;
    for (uint64_t off = 0; off < len; off++) {
        last = word(seed, off / 8);
        if (at[off] != ((const uint8_t *)&last)[off % 8]) {
            *off_out = off;
            break;
        }
    }
    return false;
}

void content_fill(const struct layout *layout, uint64_t key, uint8_t *base, uint32_t slot)
{
    for (uint32_t layer = 0; layer < layout->model.layers; layer++)
        for (uint32_t half = 0; half < 2; half++)
            fill_piece(base + layout_off(layout, slot, layer, half), layout->piece_len,
                       seed_of(key, layer, half));
}

bool content_check(const struct layout *layout, uint64_t key, const uint8_t *base,
                   uint32_t slot, struct content_fault *fault_out)
{
    for (uint32_t layer = 0; layer < layout->model.layers; layer++)
        for (uint32_t half = 0; half < 2; half++) {
            struct content_fault fault = {.layer = layer, .half = half};
            if (!check_piece(base + layout_off(layout, slot, layer, half), layout->piece_len,
                             seed_of(key, layer, half), &fault.off)) {
                *fault_out = fault;
                return false;
            }
        }
    return true;
}

uint64_t content_sum(const struct layout *layout, uint64_t key, const uint8_t *base,
                     uint32_t slot)
{
    XXH3_state_t state;

    XXH3_INITSTATE(&state);
    XXH3_64bits_reset_withSeed(&state, key);
    for (uint32_t layer = 0; layer < layout->model.layers; layer++)
        for (uint32_t half = 0; half < 2; half++)
            XXH3_64bits_update(&state, base + layout_off(layout, slot, layer, half),
                               layout->piece_len);
    return XXH3_64bits_digest(&state);
}
