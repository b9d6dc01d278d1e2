/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The block table of a paged cache: hash table, pins, and a list of unpinned blocks in order of
 * last use. Knows slots and keys, not memory.
 */
#include "pool.h"

#include <stdlib.h>

#define NONE UINT32_MAX

static uint32_t bucket_of(const struct pool *pool, uint64_t key)
{
    return (uint32_t)((key * 0x9e3779b97f4a7c15u) >> 32) & (pool->n_buckets - 1);
}

bool pool_init(struct pool *pool, uint32_t slots)
{
    uint64_t random = 0x2545f4914f6cdd1du;

    *pool = (struct pool){.n = slots, .n_free = slots, .oldest = NONE, .newest = NONE};
    for (pool->n_buckets = 16; pool->n_buckets < slots; pool->n_buckets *= 2)
        ;
    pool->blocks = calloc(slots, sizeof(*pool->blocks));
    pool->buckets = malloc(pool->n_buckets * sizeof(*pool->buckets));
    pool->free_slots = malloc(slots * sizeof(*pool->free_slots));
    if (!pool->blocks || !pool->buckets || !pool->free_slots) {
        pool_fini(pool);
        return false;
    }
    for (uint32_t i = 0; i < pool->n_buckets; i++)
        pool->buckets[i] = NONE;
    for (uint32_t i = 0; i < slots; i++) {
        uint32_t j;
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        j = (uint32_t)(random % (i + 1));
        pool->free_slots[i] = pool->free_slots[j];
        pool->free_slots[j] = i;
    }
    return true;
}

void pool_fini(struct pool *pool)
{
    free(pool->blocks);
    free(pool->buckets);
    free(pool->free_slots);
    *pool = (struct pool){0};
}

static uint32_t find(const struct pool *pool, uint64_t key)
{
    uint32_t slot = pool->buckets[bucket_of(pool, key)];

    while (slot != NONE && pool->blocks[slot].key != key)
        slot = pool->blocks[slot].next_in_bucket;
    return slot;
}

static void forget(struct pool *pool, uint32_t slot)
{
    uint32_t *at = &pool->buckets[bucket_of(pool, pool->blocks[slot].key)];

    while (*at != NONE && *at != slot)
        at = &pool->blocks[*at].next_in_bucket;
    if (*at == slot)
        *at = pool->blocks[slot].next_in_bucket;
}

static void idle_add(struct pool *pool, uint32_t slot)
{
    struct pool_block *block = &pool->blocks[slot];

    block->newer = NONE;
    block->older = pool->newest;
    if (pool->newest != NONE)
        pool->blocks[pool->newest].newer = slot;
    else
        pool->oldest = slot;
    pool->newest = slot;
    pool->n_idle++;
}

static void idle_remove(struct pool *pool, uint32_t slot)
{
    struct pool_block *block = &pool->blocks[slot];

    if (block->older != NONE)
        pool->blocks[block->older].newer = block->newer;
    else
        pool->oldest = block->newer;
    if (block->newer != NONE)
        pool->blocks[block->newer].older = block->older;
    else
        pool->newest = block->older;
    pool->n_idle--;
}

static void pin(struct pool *pool, uint32_t slot)
{
    if (pool->blocks[slot].pins++ == 0)
        idle_remove(pool, slot);
}

static uint32_t take(struct pool *pool, uint64_t key)
{
    uint32_t slot, bucket = bucket_of(pool, key);

    if (pool->n_free)
        slot = pool->free_slots[--pool->n_free];
    else {
        slot = pool->oldest;
        idle_remove(pool, slot);
        forget(pool, slot);
    }
    pool->blocks[slot] = (struct pool_block){
        .key = key, .pins = 1, .state = BLOCK_FILLING, .next_in_bucket = pool->buckets[bucket]};
    pool->buckets[bucket] = slot;
    return slot;
}

bool pool_acquire(struct pool *pool, const uint64_t *keys, size_t n, uint32_t *slots,
                  bool *fresh)
{
    size_t missing = 0, idle = 0;

    for (size_t i = 0; i < n; i++) {
        uint32_t slot = find(pool, keys[i]);
        if (slot == NONE)
            missing++;
        else if (!pool->blocks[slot].pins)
            idle++;
    }
    if (missing + idle > (size_t)pool->n_free + pool->n_idle)
        return false;
    /* What is there is pinned before anything is evicted for what is not. */
    for (size_t i = 0; i < n; i++) {
        slots[i] = find(pool, keys[i]);
        fresh[i] = false;
        if (slots[i] != NONE)
            pin(pool, slots[i]);
    }
    for (size_t i = 0; i < n; i++) {
        if (slots[i] != NONE)
            continue;
        slots[i] = find(pool, keys[i]);
        fresh[i] = slots[i] == NONE;
        if (fresh[i])
            slots[i] = take(pool, keys[i]);
        else
            pin(pool, slots[i]);
    }
    return true;
}

void pool_ready(struct pool *pool, uint32_t slot, uint64_t sum)
{
    pool->blocks[slot].state = BLOCK_READY;
    pool->blocks[slot].sum = sum;
}

void pool_spoil(struct pool *pool, uint32_t slot)
{
    pool->blocks[slot].state = BLOCK_BAD;
    forget(pool, slot);
}

void pool_release(struct pool *pool, const uint32_t *slots, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct pool_block *block = &pool->blocks[slots[i]];
        if (--block->pins)
            continue;
        if (block->state == BLOCK_READY)
            idle_add(pool, slots[i]);
        else {
            if (block->state == BLOCK_FILLING)
                forget(pool, slots[i]);
            block->state = BLOCK_FREE;
            pool->free_slots[pool->n_free++] = slots[i];
        }
    }
}
