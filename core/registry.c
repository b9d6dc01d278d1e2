/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The registered ranges: an immutable sorted table behind one atomic pointer. Lookups search it
 * without a lock; a change makes a new table, puts it in place and frees the old one once every
 * lookup that may still see it has ended. Knows no transport and no document.
 *
 * A change copies the table: 24 bytes a region. Ten thousand ranges registered one by one copy
 * 1.2 GB in all, a fraction of a second; whoever has more registers them in one call.
 */
#include "registry.h"

#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <stdalign.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "error.h"

#define CACHE_LINE 64
#define STRIPES    16u

struct entry {
    uint64_t addr; /* the region's, so that a search touches no region but the one it finds */
    struct fy_region *region;
};

struct table {
    size_t n;
    struct fy_region **by_age; /* in the order of registration; lies behind `entries` */
    struct entry entries[];    /* by address */
};

/* Lookups under way, of the threads that share the stripe. Two counters, so that a change waits
 * for those that came before it and not for those that keep coming. */
struct stripe {
    alignas(CACHE_LINE) atomic_uint readers[2];
};

struct fy_registry {
    struct stripe stripes[STRIPES];
    alignas(CACHE_LINE) _Atomic(struct table *) table;
    atomic_uint phase;            /* which of the two counters newcomers use; a hint */
    atomic_size_t count;          /* of regions: the table may be freed beside who asks */
    pthread_mutex_t changes_lock; /* guards changes of `table`; nothing is taken under it */
};

static atomic_uint next_stripe;
static _Thread_local unsigned own_stripe; /* plus one; 0 = not given out yet */

static struct stripe *stripe_of_thread(struct fy_registry *registry)
{
    if (!own_stripe)
        own_stripe =
            atomic_fetch_add_explicit(&next_stripe, 1, memory_order_relaxed) % STRIPES + 1;
    return &registry->stripes[own_stripe - 1];
}

/* HOT. Last entry that starts at or before `addr`, or NULL. */
static const struct entry *search(const struct table *table, uint64_t addr)
{
    const struct entry *base = table->entries;
    size_t n = table->n;

    if (!n || base->addr > addr)
        return NULL;
    while (n > 1) {
        size_t half = n / 2;

        base = base[half].addr <= addr ? base + half : base;
        n -= half;
    }
    return base;
}

static void nap(unsigned *round)
{
    struct timespec time = {0};

    if ((*round)++ < 16) {
        sched_yield();
        return;
    }
    time.tv_nsec = *round < 64 ? 50000 : 1000000;
    nanosleep(&time, NULL);
}

/*
 * Returns once no lookup can see a table that was replaced before the call. Each counter is
 * seen at zero once: who was counted before is gone (acquire, pairs with the release in
 * fy_registry_get); who counts itself later comes after our load in the one order of all
 * seq_cst operations, hence after the store of the new table, and loads that one.
 */
static void wait_for_lookups(struct fy_registry *registry)
{
    for (unsigned flip = 0; flip < 2; flip++) {
        unsigned old = atomic_fetch_xor_explicit(&registry->phase, 1, memory_order_relaxed) & 1;

        for (unsigned i = 0; i < STRIPES; i++) {
            unsigned round = 0;

            while (
                atomic_load_explicit(&registry->stripes[i].readers[old], memory_order_seq_cst))
                nap(&round);
        }
    }
}

/* Changers only, under changes_lock. */
static void replace_table(struct fy_registry *registry, struct table *table)
{
    struct table *old = atomic_load_explicit(&registry->table, memory_order_relaxed);

    atomic_store_explicit(&registry->table, table, memory_order_seq_cst);
    atomic_store_explicit(&registry->count, table->n, memory_order_relaxed);
    wait_for_lookups(registry);
    free(old);
}

static struct table *table_new(size_t n)
{
    struct table *table;

    if (n > (SIZE_MAX - sizeof(*table)) / (sizeof(struct entry) + sizeof(*table->by_age)))
        return NULL;
    table = malloc(sizeof(*table) + n * (sizeof(struct entry) + sizeof(*table->by_age)));
    if (table) {
        table->n = n;
        table->by_age = (struct fy_region **)&table->entries[n];
    }
    return table;
}

static void free_regions(struct table *table)
{
    if (!table)
        return;
    for (size_t i = 0; i < table->n; i++)
        free(table->entries[i].region);
    free(table);
}

ferry_status fy_registry_open(struct fy_registry **registry_out)
{
    struct fy_registry *registry = aligned_alloc(CACHE_LINE, sizeof(*registry));
    struct table *table = table_new(0);

    if (!registry || !table) {
        free(registry);
        free(table);
        return fy_fail(FERRY_ENOMEM, "opening a registry: out of memory");
    }
    memset(registry, 0, sizeof(*registry));
    atomic_init(&registry->table, table);
    pthread_mutex_init(&registry->changes_lock, NULL);
    *registry_out = registry;
    return FERRY_OK;
}

void fy_registry_close(struct fy_registry *registry)
{
    if (!registry)
        return;
    free_regions(atomic_load_explicit(&registry->table, memory_order_acquire));
    pthread_mutex_destroy(&registry->changes_lock);
    free(registry);
}

static int by_addr(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;

    return (x->addr > y->addr) - (x->addr < y->addr);
}

/* A table of copies of `regions`. */
static ferry_status copy_regions(const struct fy_region *regions, size_t n,
                                 struct table **table_out)
{
    struct table *table;

    for (size_t i = 0; i < n; i++) {
        if (!regions[i].len)
            return fy_fail(FERRY_EINVAL, "buffer %zu at 0x%" PRIx64 " is empty", i,
                           regions[i].addr);
        if (regions[i].len > UINT64_MAX - regions[i].addr)
            return fy_fail(FERRY_EINVAL,
                           "buffer %zu at 0x%" PRIx64 " of %" PRIu64
                           " bytes passes the end of the address space",
                           i, regions[i].addr, regions[i].len);
    }
    table = table_new(n);
    if (!table)
        return fy_fail(FERRY_ENOMEM, "registering %zu buffers: out of memory", n);
    for (size_t i = 0; i < n; i++) {
        struct fy_region *region = malloc(sizeof(*region));

        if (!region) {
            table->n = i;
            free_regions(table);
            return fy_fail(FERRY_ENOMEM, "registering %zu buffers: out of memory", n);
        }
        *region = regions[i];
        atomic_init(&region->holds, 0);
        atomic_init(&region->dying, 0);
        table->entries[i] = (struct entry){region->addr, region};
        table->by_age[i] = region;
    }
    qsort(table->entries, n, sizeof(struct entry), by_addr);
    *table_out = table;
    return FERRY_OK;
}

static ferry_status overlap(const struct fy_region *a, const struct fy_region *b,
                            const char *whose)
{
    return fy_fail(FERRY_EEXIST,
                   "buffer 0x%" PRIx64 "+%" PRIu64 " overlaps %s 0x%" PRIx64 "+%" PRIu64,
                   a->addr, a->len, whose, b->addr, b->len);
}

/* `old` is free of overlaps, and older. */
static ferry_status merge(const struct table *old, const struct table *fresh,
                          struct table *merged)
{
    const struct fy_region *before = NULL;
    int before_is_fresh = 0;
    size_t i = 0, j = 0;

    for (size_t k = 0; k < merged->n; k++) {
        int is_fresh =
            i == old->n || (j < fresh->n && fresh->entries[j].addr <= old->entries[i].addr);
        struct entry entry = is_fresh ? fresh->entries[j++] : old->entries[i++];
        struct fy_region *region = entry.region;

        if (before && region->addr - before->addr < before->len) {
            if (is_fresh && before_is_fresh)
                return overlap(before, region, "another of the same call,");
            return is_fresh ? overlap(region, before, "the registered")
                            : overlap(before, region, "the registered");
        }
        merged->entries[k] = entry;
        before = region;
        before_is_fresh = is_fresh;
    }
    memcpy(merged->by_age, old->by_age, old->n * sizeof(*old->by_age));
    memcpy(merged->by_age + old->n, fresh->by_age, fresh->n * sizeof(*fresh->by_age));
    return FERRY_OK;
}

ferry_status fy_registry_add(struct fy_registry *registry, const struct fy_region *regions,
                             size_t n)
{
    struct table *old, *fresh = NULL, *merged;
    ferry_status status;

    if (!n)
        return FERRY_OK;
    status = copy_regions(regions, n, &fresh);
    if (status)
        return status;
    pthread_mutex_lock(&registry->changes_lock);
    old = atomic_load_explicit(&registry->table, memory_order_relaxed);
    merged = table_new(old->n + n);
    status = merged ? merge(old, fresh, merged)
                    : fy_fail(FERRY_ENOMEM, "registering %zu buffers: out of memory", n);
    if (!status)
        replace_table(registry, merged);
    pthread_mutex_unlock(&registry->changes_lock);
    if (status) {
        free(merged);
        free_regions(fresh);
    } else {
        free(fresh);
    }
    return status;
}

/* Finds all, marks their places in the table. */
static ferry_status find_all(const struct table *table, const uint64_t *addrs, size_t n,
                             struct fy_region **found, unsigned char *marks)
{
    for (size_t i = 0; i < n; i++) {
        const struct entry *entry = search(table, addrs[i]);

        if (!entry || entry->addr != addrs[i])
            return fy_fail(FERRY_ENOENT, "no registered buffer starts at 0x%" PRIx64, addrs[i]);
        if (marks[entry - table->entries])
            return fy_fail(FERRY_ENOENT, "buffer 0x%" PRIx64 " is named twice", addrs[i]);
        marks[entry - table->entries] = 1;
        found[i] = entry->region;
    }
    return FERRY_OK;
}

static ferry_status take_out(struct fy_registry *registry, const uint64_t *addrs, size_t n,
                             struct fy_region **found)
{
    struct table *old = atomic_load_explicit(&registry->table, memory_order_relaxed);
    unsigned char *marks = calloc(old->n + 1, 1);
    struct table *rest = NULL;
    ferry_status status = FERRY_ENOMEM;
    size_t kept = 0, aged = 0;

    if (marks)
        status = find_all(old, addrs, n, found, marks);
    if (status == FERRY_OK) {
        rest = table_new(old->n - n);
        status = rest ? FERRY_OK : FERRY_ENOMEM;
    }
    if (status == FERRY_OK) {
        for (size_t i = 0; i < n; i++)
            atomic_store_explicit(&found[i]->dying, 1, memory_order_relaxed);
        for (size_t i = 0; i < old->n; i++) {
            if (!marks[i])
                rest->entries[kept++] = old->entries[i];
            if (!atomic_load_explicit(&old->by_age[i]->dying, memory_order_relaxed))
                rest->by_age[aged++] = old->by_age[i];
        }
        replace_table(registry, rest);
    }
    free(marks);
    return status == FERRY_ENOMEM ? fy_fail(status, "unregistering: out of memory") : status;
}

ferry_status fy_registry_remove(struct fy_registry *registry, const uint64_t *addrs, size_t n,
                                struct fy_region *removed)
{
    struct fy_region **found;
    ferry_status status;

    if (!n)
        return FERRY_OK;
    found = calloc(n, sizeof(struct fy_region *));
    if (!found)
        return fy_fail(FERRY_ENOMEM, "unregistering %zu buffers: out of memory", n);
    pthread_mutex_lock(&registry->changes_lock);
    status = take_out(registry, addrs, n, found);
    pthread_mutex_unlock(&registry->changes_lock);
    if (status) {
        free(found);
        return status;
    }
    /* They are ours now: out of the table, and no lookup is left that saw them there. Waiting
     * without the lock lets other changes go on beside a long transfer. */
    for (size_t i = 0; i < n; i++) {
        unsigned round = 0;

        /* Pairs with the release in fy_region_put. */
        while (atomic_load_explicit(&found[i]->holds, memory_order_acquire))
            nap(&round);
        if (removed)
            removed[i] = *found[i];
        free(found[i]);
    }
    free(found);
    return FERRY_OK;
}

/* Never on the way of a transfer that goes well. */
static ferry_status refuse(const struct entry *entry, uint64_t addr, uint64_t len,
                           uint32_t access)
{
    const struct fy_region *region = entry ? entry->region : NULL;

    if (!len)
        return fy_fail(FERRY_ERANGE, "the range at 0x%" PRIx64 " is empty", addr);
    if (!region || addr - region->addr >= region->len)
        return fy_fail(FERRY_ERANGE, "0x%" PRIx64 "+%" PRIu64 " is in no registered buffer",
                       addr, len);
    if (len > region->len - (addr - region->addr))
        return fy_fail(FERRY_ERANGE,
                       "0x%" PRIx64 "+%" PRIu64 " passes the end of the registered buffer "
                       "0x%" PRIx64 "+%" PRIu64,
                       addr, len, region->addr, region->len);
    if ((region->access & access) == access)
        return fy_fail(FERRY_ERANGE, "buffer 0x%" PRIx64 "+%" PRIu64 " is being unregistered",
                       region->addr, region->len);
    return fy_fail(FERRY_EACCESS, "buffer 0x%" PRIx64 "+%" PRIu64 " is registered without %s",
                   region->addr, region->len,
                   (access & ~region->access & FERRY_ACCESS_REMOTE_WRITE)  ? "remote write"
                   : (access & ~region->access & FERRY_ACCESS_REMOTE_READ) ? "remote read"
                                                                           : "local write");
}

/* HOT. */
ferry_status fy_registry_get(struct fy_registry *registry, uint64_t addr, uint64_t len,
                             uint32_t access, struct fy_region **region_out)
{
    struct stripe *stripe = stripe_of_thread(registry);
    unsigned phase = atomic_load_explicit(&registry->phase, memory_order_relaxed) & 1;
    ferry_status status = FERRY_OK;
    const struct entry *entry;
    struct fy_region *region;

    /* Counted before the table is loaded, in the one order of all seq_cst operations: pairs
     * with the store in replace_table and the load in wait_for_lookups. */
    atomic_fetch_add_explicit(&stripe->readers[phase], 1, memory_order_seq_cst);
    entry = search(atomic_load_explicit(&registry->table, memory_order_seq_cst), addr);
    region = entry ? entry->region : NULL;
    if (len && region && addr - region->addr < region->len &&
        len <= region->len - (addr - region->addr) && (region->access & access) == access &&
        !atomic_load_explicit(&region->dying, memory_order_relaxed))
        /* A removal that begins meanwhile waits for this lookup, then for the hold. */
        atomic_fetch_add_explicit(&region->holds, 1, memory_order_relaxed);
    else
        status = refuse(entry, addr, len, access);
    atomic_fetch_sub_explicit(&stripe->readers[phase], 1, memory_order_release);
    if (status == FERRY_OK)
        *region_out = region;
    return status;
}

size_t fy_registry_count(const struct fy_registry *registry)
{
    return atomic_load_explicit(&registry->count, memory_order_relaxed);
}

struct fy_region *fy_registry_at(const struct fy_registry *registry, size_t index)
{
    const struct table *table = atomic_load_explicit(&registry->table, memory_order_acquire);

    return index < table->n ? table->by_age[index] : NULL;
}
