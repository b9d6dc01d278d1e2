/* SPDX-License-Identifier: Apache-2.0 */
/* The registry of local ranges: its rules, and its lookups beside changes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <time.h>

#include "ferry/ferry.h"
#include "registry.h"
#include "util/clock.h"

#define RW (FERRY_ACCESS_REMOTE_READ | FERRY_ACCESS_REMOTE_WRITE)

static struct fy_region range(uint64_t addr, uint64_t len, uint32_t access)
{
    return (struct fy_region){.addr = addr, .len = len, .access = access, .location = "cpu:0"};
}

static struct fy_registry *opened(void)
{
    struct fy_registry *registry = NULL;

    assert_int_equal(fy_registry_open(&registry), FERRY_OK);
    return registry;
}

static void add(struct fy_registry *registry, uint64_t addr, uint64_t len, uint32_t access)
{
    struct fy_region region = range(addr, len, access);

    assert_int_equal(fy_registry_add(registry, &region, 1), FERRY_OK);
}

static ferry_status look_up(struct fy_registry *registry, uint64_t addr, uint64_t len,
                            uint32_t access, uint64_t *start)
{
    struct fy_region *region = NULL;
    ferry_status status = fy_registry_get(registry, addr, len, access, &region);

    if (status == FERRY_OK) {
        *start = region->addr;
        fy_region_put(region);
    } else {
        assert_null(region);
    }
    return status;
}

static void a_range_is_found_up_to_its_last_byte(void **state)
{
    struct fy_registry *registry = opened();
    uint64_t start = 0;

    add(registry, 0x1000, 0x100, RW);
    add(registry, 0x3000, 0x100, RW);
    add(registry, 0x1100, 0x100, RW); /* begins where the first ends */
    assert_int_equal(fy_registry_count(registry), 3);
    assert_int_equal(look_up(registry, 0x1000, 1, RW, &start), FERRY_OK);
    assert_int_equal(start, 0x1000);
    assert_int_equal(look_up(registry, 0x10ff, 1, RW, &start), FERRY_OK);
    assert_int_equal(start, 0x1000);
    assert_int_equal(look_up(registry, 0x1100, 0x100, RW, &start), FERRY_OK);
    assert_int_equal(start, 0x1100);
    assert_int_equal(look_up(registry, 0xfff, 1, RW, &start), FERRY_ERANGE);
    assert_int_equal(look_up(registry, 0x1200, 1, RW, &start), FERRY_ERANGE);
    assert_string_equal(ferry_error(), "0x1200+1 is in no registered buffer");
    assert_int_equal(look_up(registry, 0x10f0, 0x11, RW, &start), FERRY_ERANGE);
    assert_string_equal(ferry_error(),
                        "0x10f0+17 passes the end of the registered buffer 0x1000+256");
    assert_int_equal(look_up(registry, 0x30ff, UINT64_MAX, RW, &start), FERRY_ERANGE);
    assert_int_equal(look_up(registry, UINT64_MAX, 1, RW, &start), FERRY_ERANGE);
    assert_int_equal(look_up(registry, 0x1000, 0, RW, &start), FERRY_ERANGE);
    fy_registry_close(registry);
}

static void nothing_is_found_in_an_empty_one(void **state)
{
    struct fy_registry *registry = opened();
    uint64_t start;

    assert_int_equal(look_up(registry, 0, 1, 0, &start), FERRY_ERANGE);
    assert_int_equal(fy_registry_count(registry), 0);
    assert_null(fy_registry_at(registry, 0));
    assert_int_equal(fy_registry_add(registry, NULL, 0), FERRY_OK);
    assert_int_equal(fy_registry_remove(registry, NULL, 0, NULL), FERRY_OK);
    fy_registry_close(registry);
    fy_registry_close(NULL);
}

static void every_right_asked_for_is_needed(void **state)
{
    struct fy_registry *registry = opened();
    uint64_t start;

    add(registry, 0x1000, 16, FERRY_ACCESS_REMOTE_READ);
    add(registry, 0x2000, 16, FERRY_ACCESS_REMOTE_WRITE);
    add(registry, 0x3000, 16, 0);
    assert_int_equal(look_up(registry, 0x1000, 1, FERRY_ACCESS_REMOTE_READ, &start), FERRY_OK);
    assert_int_equal(look_up(registry, 0x1000, 1, RW, &start), FERRY_EACCESS);
    assert_string_equal(ferry_error(), "buffer 0x1000+16 is registered without remote write");
    assert_int_equal(look_up(registry, 0x2000, 1, RW, &start), FERRY_EACCESS);
    assert_string_equal(ferry_error(), "buffer 0x2000+16 is registered without remote read");
    assert_int_equal(look_up(registry, 0x3000, 1, 0, &start), FERRY_OK);
    assert_int_equal(look_up(registry, 0x3000, 1, FERRY_ACCESS_LOCAL_WRITE, &start),
                     FERRY_EACCESS);
    /* Out of range goes before: no word on rights for bytes that are not registered. */
    assert_int_equal(look_up(registry, 0x1000, 17, RW, &start), FERRY_ERANGE);
    fy_registry_close(registry);
}

static void overlaps_are_refused_and_named(void **state)
{
    struct fy_registry *registry = opened();
    struct fy_region two[2] = {range(0x5000, 16, RW), range(0x10ff, 16, RW)};
    struct fy_region one;

    add(registry, 0x1000, 0x100, RW);
    assert_int_equal(fy_registry_add(registry, two, 2), FERRY_EEXIST);
    assert_string_equal(ferry_error(), "buffer 0x10ff+16 overlaps the registered 0x1000+256");
    assert_int_equal(fy_registry_count(registry), 1); /* 0x5000 was not added either */
    one = range(0xfff, 2, RW);
    assert_int_equal(fy_registry_add(registry, &one, 1), FERRY_EEXIST);
    assert_string_equal(ferry_error(), "buffer 0xfff+2 overlaps the registered 0x1000+256");
    one = range(0x1000, 0x100, RW);
    assert_int_equal(fy_registry_add(registry, &one, 1), FERRY_EEXIST);
    one = range(0x10, 0x10000, RW); /* swallows it */
    assert_int_equal(fy_registry_add(registry, &one, 1), FERRY_EEXIST);
    two[1] = range(0x4ff8, 16, RW);
    assert_int_equal(fy_registry_add(registry, two, 2), FERRY_EEXIST);
    assert_string_equal(ferry_error(),
                        "buffer 0x4ff8+16 overlaps another of the same call, 0x5000+16");
    assert_int_equal(fy_registry_count(registry), 1);
    fy_registry_close(registry);
}

static void empty_and_wrapping_ranges_are_refused(void **state)
{
    struct fy_registry *registry = opened();
    struct fy_region two[2] = {range(0x1000, 1, RW), range(0x2000, 0, RW)};
    uint64_t start;

    assert_int_equal(fy_registry_add(registry, two, 2), FERRY_EINVAL);
    assert_string_equal(ferry_error(), "buffer 1 at 0x2000 is empty");
    two[1] = range(UINT64_MAX - 15, 16, RW);
    assert_int_equal(fy_registry_add(registry, two, 2), FERRY_EINVAL);
    assert_non_null(strstr(ferry_error(), "passes the end of the address space"));
    two[1] = range(UINT64_MAX - 16, 16, RW);
    assert_int_equal(fy_registry_add(registry, two, 2), FERRY_OK);
    assert_int_equal(look_up(registry, UINT64_MAX - 1, 1, RW, &start), FERRY_OK);
    assert_int_equal(look_up(registry, UINT64_MAX - 1, 2, RW, &start), FERRY_ERANGE);
    fy_registry_close(registry);
}

static void removal_is_all_or_none_and_in_the_order_asked(void **state)
{
    struct fy_registry *registry = opened();
    struct fy_region removed[2], *region = NULL;
    struct fy_region marked = range(0x2000, 16, RW);
    uint64_t start;

    marked.mr[3] = (struct ferry_mr *)&marked;
    add(registry, 0x1000, 16, RW);
    assert_int_equal(fy_registry_add(registry, &marked, 1), FERRY_OK);
    add(registry, 0x3000, 16, RW);
    memset(removed, 0, sizeof(removed));
    assert_int_equal(fy_registry_remove(registry, (uint64_t[]){0x1000, 0x2008}, 2, removed),
                     FERRY_ENOENT);
    assert_string_equal(ferry_error(), "no registered buffer starts at 0x2008");
    assert_int_equal(fy_registry_remove(registry, (uint64_t[]){0x1000, 0x1000}, 2, removed),
                     FERRY_ENOENT);
    assert_string_equal(ferry_error(), "buffer 0x1000 is named twice");
    assert_int_equal(fy_registry_count(registry), 3);
    assert_int_equal(removed[0].addr, 0);
    assert_int_equal(look_up(registry, 0x1000, 1, RW, &start), FERRY_OK);

    assert_int_equal(fy_registry_remove(registry, (uint64_t[]){0x3000, 0x2000}, 2, removed),
                     FERRY_OK);
    assert_int_equal(removed[0].addr, 0x3000);
    assert_int_equal(removed[1].addr, 0x2000);
    assert_ptr_equal(removed[1].mr[3], &marked);
    assert_int_equal(look_up(registry, 0x2000, 1, RW, &start), FERRY_ERANGE);
    assert_int_equal(fy_registry_count(registry), 1);
    assert_int_equal(fy_registry_at(registry, 0)->addr, 0x1000);
    assert_int_equal(fy_registry_get(registry, 0x1000, 1, RW, &region), FERRY_OK);
    fy_region_put(region);
    fy_registry_close(registry);
}

struct removal {
    struct fy_registry *registry;
    uint64_t addr;
    atomic_int over;
};

static void *remove_it(void *arg)
{
    struct removal *removal = arg;
    ferry_status status = fy_registry_remove(removal->registry, &removal->addr, 1, NULL);

    atomic_store(&removal->over, status == FERRY_OK ? 1 : -1);
    return NULL;
}

static void sleep_ms(long ms)
{
    nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL);
}

static void removal_waits_for_whoever_holds(void **state)
{
    struct fy_registry *registry = opened();
    struct removal removal = {.registry = registry, .addr = 0x1000};
    uint64_t start, deadline = fy_now_ns() + 10 * FY_NS_PER_S;
    struct fy_region *region = NULL;
    pthread_t thread;

    add(registry, 0x1000, 16, RW);
    assert_int_equal(fy_registry_get(registry, 0x1000, 1, RW, &region), FERRY_OK);
    fy_region_hold_again(region);
    assert_int_equal(pthread_create(&thread, NULL, remove_it, &removal), 0);
    while (look_up(registry, 0x1000, 1, RW, &start) == FERRY_OK && fy_now_ns() < deadline)
        sleep_ms(1);
    assert_int_equal(look_up(registry, 0x1000, 1, RW, &start), FERRY_ERANGE);
    fy_region_put(region);
    sleep_ms(20);
    assert_int_equal(atomic_load(&removal.over), 0); /* held once more */
    assert_int_equal(region->addr, 0x1000);

    add(registry, 0x2000, 16, RW); /* other changes do not wait with it */
    assert_int_equal(look_up(registry, 0x2000, 1, RW, &start), FERRY_OK);
    fy_region_put(region);
    pthread_join(thread, NULL);
    assert_int_equal(atomic_load(&removal.over), 1);
    fy_registry_close(registry);
}

/*
 * Threads look ranges up and read what they hold, plainly, while others take the same ranges
 * out and spoil them: a hold that does not protect shows as a wrong value, and to the thread
 * sanitizer as a race.
 */
#define SLOTS       32
#define SLOT_LEN    4096
#define LOOKERS     4
#define CHANGERS    2
#define CHANGES     400
#define ALIVE_VALUE 0x600df00d

struct slot {
    unsigned value; /* plain on purpose */
};

struct crowd {
    struct fy_registry *registry;
    struct slot slots[SLOTS];
    atomic_int stop, wrong;
    atomic_ulong found;
};

struct member {
    struct crowd *crowd;
    unsigned number;
};

static uint64_t slot_addr(unsigned slot)
{
    return 0x100000 + (uint64_t)slot * SLOT_LEN;
}

static void *look(void *arg)
{
    struct member *self = arg;
    struct crowd *crowd = self->crowd;
    unsigned seed = self->number + 1;

    while (!atomic_load_explicit(&crowd->stop, memory_order_relaxed)) {
        unsigned slot = (seed = seed * 1103515245 + 12345) >> 16 & (SLOTS - 1);
        struct fy_region *region;

        if (fy_registry_get(crowd->registry, slot_addr(slot) + 100, 8, RW, &region))
            continue;
        for (int i = 0; i < 8; i++) {
            if (((struct slot *)region->owner)->value != ALIVE_VALUE)
                atomic_store(&crowd->wrong, 1);
        }
        if (region->addr != slot_addr(slot))
            atomic_store(&crowd->wrong, 2);
        atomic_fetch_add_explicit(&crowd->found, 1, memory_order_relaxed);
        fy_region_put(region);
        sched_yield(); /* outside a lookup, which a change would have to wait for */
    }
    return NULL;
}

/* In a thread that does not look up, which would order it after changes. */
static void *count(void *arg)
{
    struct crowd *crowd = arg;

    while (!atomic_load_explicit(&crowd->stop, memory_order_relaxed)) {
        size_t n = fy_registry_count(crowd->registry);

        if (n > SLOTS || n < SLOTS - 2 * CHANGERS)
            atomic_store(&crowd->wrong, 5);
        sched_yield();
    }
    return NULL;
}

static void *change(void *arg)
{
    struct member *self = arg;
    struct crowd *crowd = self->crowd;
    unsigned share = SLOTS / CHANGERS, seed = 77 + self->number;

    for (int i = 0; i < CHANGES; i++) {
        unsigned first = (seed = seed * 1103515245 + 12345) >> 16 & (share - 2);
        uint64_t addrs[2];
        struct fy_region regions[2];

        for (unsigned k = 0; k < 2; k++)
            addrs[k] = slot_addr(self->number * share + first + k);
        if (fy_registry_remove(crowd->registry, addrs, 2, regions))
            atomic_store(&crowd->wrong, 3);
        for (unsigned k = 0; k < 2; k++)
            ((struct slot *)regions[k].owner)->value = 0;
        for (unsigned k = 0; k < 2; k++)
            ((struct slot *)regions[k].owner)->value = ALIVE_VALUE;
        if (fy_registry_add(crowd->registry, regions, 2))
            atomic_store(&crowd->wrong, 4);
    }
    return NULL;
}

static void lookups_are_safe_beside_changes(void **state)
{
    struct crowd *crowd = calloc(1, sizeof(*crowd));
    struct member members[LOOKERS + CHANGERS];
    pthread_t threads[LOOKERS + CHANGERS], counter;

    assert_non_null(crowd);
    crowd->registry = opened();
    for (unsigned i = 0; i < SLOTS; i++) {
        struct fy_region region = range(slot_addr(i), SLOT_LEN, RW);

        crowd->slots[i].value = ALIVE_VALUE;
        region.owner = &crowd->slots[i];
        assert_int_equal(fy_registry_add(crowd->registry, &region, 1), FERRY_OK);
    }
    assert_int_equal(pthread_create(&counter, NULL, count, crowd), 0);
    for (unsigned i = 0; i < LOOKERS + CHANGERS; i++) {
        members[i] = (struct member){crowd, i < LOOKERS ? i : i - LOOKERS};
        if (i == LOOKERS) /* or the changes are over before the first look */
            while (!atomic_load(&crowd->found))
                sched_yield();
        assert_int_equal(
            pthread_create(&threads[i], NULL, i < LOOKERS ? look : change, &members[i]), 0);
    }
    for (unsigned i = LOOKERS; i < LOOKERS + CHANGERS; i++)
        pthread_join(threads[i], NULL);
    atomic_store(&crowd->stop, 1);
    for (unsigned i = 0; i < LOOKERS; i++)
        pthread_join(threads[i], NULL);
    pthread_join(counter, NULL);
    assert_int_equal(atomic_load(&crowd->wrong), 0);
    assert_int_equal(fy_registry_count(crowd->registry), SLOTS);
    for (unsigned i = 0; i < SLOTS; i++)
        assert_int_equal(atomic_load(&fy_registry_at(crowd->registry, i)->holds), 0);
    fy_registry_close(crowd->registry);
    free(crowd);
}

static void assert_listed(struct fy_registry *registry, const uint64_t *addrs, size_t n)
{
    assert_int_equal(fy_registry_count(registry), n);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(fy_registry_at(registry, i)->addr, addrs[i]);
    assert_null(fy_registry_at(registry, n));
}

static void the_order_of_registration_is_kept(void **state)
{
    struct fy_registry *registry = opened();
    struct fy_region three[] = {range(0x5000, 16, RW), range(0x9000, 16, RW),
                                range(0x1000, 16, RW)};

    add(registry, 0x7000, 16, RW);
    assert_int_equal(fy_registry_add(registry, three, 3), FERRY_OK);
    add(registry, 0x3000, 16, RW);
    assert_listed(registry, (uint64_t[]){0x7000, 0x5000, 0x9000, 0x1000, 0x3000}, 5);
    assert_int_equal(fy_registry_remove(registry, (uint64_t[]){0x9000, 0x7000}, 2, NULL),
                     FERRY_OK);
    assert_listed(registry, (uint64_t[]){0x5000, 0x1000, 0x3000}, 3);
    add(registry, 0x7000, 16, RW); /* again: the youngest now */
    assert_listed(registry, (uint64_t[]){0x5000, 0x1000, 0x3000, 0x7000}, 4);
    assert_int_equal(fy_registry_add(registry, three, 1), FERRY_EEXIST);
    assert_listed(registry, (uint64_t[]){0x5000, 0x1000, 0x3000, 0x7000}, 4);
    fy_registry_close(registry);
}

static void a_hundred_thousand_ranges_go_in_and_out(void **state)
{
    enum { N = 100000, ONE_BY_ONE = 4000 };
    struct fy_registry *registry = opened();
    struct fy_region *regions = calloc(N, sizeof(*regions));
    uint64_t *addrs = calloc(N, sizeof(*addrs));
    uint64_t start, began = fy_now_ns(), ms_at_once, ms_single;

    assert_non_null(regions);
    assert_non_null(addrs);
    for (size_t i = 0; i < N; i++) {
        addrs[i] = 0x10000 + (i * 7919 % N) * 64; /* no order */
        regions[i] = range(addrs[i], 64, RW);
    }
    assert_int_equal(fy_registry_add(registry, regions, N), FERRY_OK);
    assert_int_equal(fy_registry_count(registry), N);
    for (size_t i = 0; i < N; i++) {
        assert_int_equal(look_up(registry, addrs[i] + 63, 1, RW, &start), FERRY_OK);
        assert_int_equal(start, addrs[i]);
    }
    assert_int_equal(fy_registry_remove(registry, addrs, N, regions), FERRY_OK);
    ms_at_once = (fy_now_ns() - began) / FY_NS_PER_MS;
    assert_int_equal(fy_registry_count(registry), 0);

    began = fy_now_ns();
    for (size_t i = 0; i < ONE_BY_ONE; i++)
        assert_int_equal(fy_registry_add(registry, &regions[i], 1), FERRY_OK);
    ms_single = (fy_now_ns() - began) / FY_NS_PER_MS;
    for (size_t i = 0; i < ONE_BY_ONE; i++)
        assert_true(fy_registry_at(registry, i)->addr == regions[i].addr);
    print_message("%d at once, found, removed: %" PRIu64 " ms; %d one by one: %" PRIu64 " ms\n",
                  N, ms_at_once, ONE_BY_ONE, ms_single);
    assert_true(ms_at_once < 5000); /* generous: a loop over all for each takes minutes */
    assert_true(ms_single < 20000);
    free(addrs);
    free(regions);
    fy_registry_close(registry);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_range_is_found_up_to_its_last_byte),
        cmocka_unit_test(nothing_is_found_in_an_empty_one),
        cmocka_unit_test(every_right_asked_for_is_needed),
        cmocka_unit_test(overlaps_are_refused_and_named),
        cmocka_unit_test(empty_and_wrapping_ranges_are_refused),
        cmocka_unit_test(removal_is_all_or_none_and_in_the_order_asked),
        cmocka_unit_test(removal_waits_for_whoever_holds),
        cmocka_unit_test(lookups_are_safe_beside_changes),
        cmocka_unit_test(the_order_of_registration_is_kept),
        cmocka_unit_test(a_hundred_thousand_ranges_go_in_and_out),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
