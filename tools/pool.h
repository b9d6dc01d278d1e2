/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FERRY_TOOL_POOL_H
#define FERRY_TOOL_POOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Which block is in which slot of a paged cache. Blocks that nobody uses stay until their slot
 * is needed, the least recently used first. One thread at a time.
 */
enum block_state { BLOCK_FREE, BLOCK_FILLING, BLOCK_READY, BLOCK_BAD };

struct pool_block {
    uint64_t key, sum;
    uint32_t pins;
    uint32_t next_in_bucket;
    uint32_t older, newer; /* among unpinned blocks */
    uint8_t state;         /* enum block_state */
};

struct pool {
    struct pool_block *blocks; /* by slot */
    uint32_t *buckets;
    uint32_t *free_slots;
    uint32_t n, n_free, n_idle, n_buckets;
    uint32_t oldest, newest;
};

/* Slots are given out in a scattered order, as in a cache that has been running for long. */
bool pool_init(struct pool *pool, uint32_t slots);
void pool_fini(struct pool *pool);

/*
 * Pins a slot for each key, all or none: slots[i] holds or will hold keys[i]; fresh[i] says
 * that it is empty (BLOCK_FILLING) and the caller's to fill. False: too few slots are unpinned.
 */
bool pool_acquire(struct pool *pool, const uint64_t *keys, size_t n, uint32_t *slots,
                  bool *fresh);
/* The contents of a slot that was fresh are there, or are not to be used: then it is forgotten
 * as soon as nobody pins it, and is not found any more. */
void pool_ready(struct pool *pool, uint32_t slot, uint64_t sum);
void pool_spoil(struct pool *pool, uint32_t slot);
void pool_release(struct pool *pool, const uint32_t *slots, size_t n);

#endif /* FERRY_TOOL_POOL_H */
