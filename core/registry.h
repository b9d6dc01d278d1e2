/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FY_REGISTRY_H
#define FY_REGISTRY_H

#include <stdatomic.h>

#include "ferry/transport_plugin.h"

#define FY_MAX_TRANSPORTS 8

/* One registered range. Ranges never overlap. Fixed from insertion to removal. */
struct fy_region {
    uint64_t addr, len;
    uint32_t access; /* FERRY_ACCESS_ */
    uint32_t kind;   /* enum ferry_mem_kind */
    int32_t device;
    int32_t memfd;      /* behind it, -1 = none; looked at while it is registered */
    uint64_t memfd_off; /* of addr */
    char location[32];
    struct ferry_mr *mr[FY_MAX_TRANSPORTS]; /* by the engine's transport index; NULL = none */
    void *owner;                            /* what ferry_memory_alloc needs to free it */
    atomic_uint holds;                      /* transfers that use it now */
    atomic_int dying;                       /* set by removal: no new holds */
};

/*
 * The registered ranges of one engine. Lookup is lock-free and may run in any thread, also on
 * hot paths; changes are serialised by the caller's lock (rank: below the engine's).
 */
struct fy_registry;

ferry_status fy_registry_open(struct fy_registry **registry_out);
/* All regions are freed; nobody holds any. */
void fy_registry_close(struct fy_registry *registry);

/* Inserts copies of `n` regions (at any addresses), all or none. FERRY_EEXIST: overlap, with
 * the error text naming both ranges; FERRY_EINVAL: empty or wrapping range. */
ferry_status fy_registry_add(struct fy_registry *registry, const struct fy_region *regions,
                             size_t n);
/*
 * Takes out the regions that start at these addresses, all or none (FERRY_ENOENT), waiting
 * until nobody holds them. `removed` (room for n) gets copies, for mem_dereg; in the order of
 * `addrs`. Lookups fail from the moment it begins.
 */
ferry_status fy_registry_remove(struct fy_registry *registry, const uint64_t *addrs, size_t n,
                                struct fy_region *removed);

/*
 * HOT. Finds the one region that holds [addr, addr+len) with every right in `access` and holds
 * it. FERRY_ERANGE: none. FERRY_EACCESS: a right is missing. len > 0.
 */
ferry_status fy_registry_get(struct fy_registry *registry, uint64_t addr, uint64_t len,
                             uint32_t access, struct fy_region **region_out);
/* HOT. */
static inline void fy_region_put(struct fy_region *region)
{
    atomic_fetch_sub_explicit(&region->holds, 1, memory_order_release); /* pairs with remove */
}
static inline void fy_region_hold_again(struct fy_region *region)
{
    atomic_fetch_add_explicit(&region->holds, 1, memory_order_relaxed); /* is held already */
}

/* How many, at any time; and each, while nobody changes them, in the order of registration (of
 * one call: the order in it). */
size_t fy_registry_count(const struct fy_registry *registry);
struct fy_region *fy_registry_at(const struct fy_registry *registry, size_t index);

#endif /* FY_REGISTRY_H */
