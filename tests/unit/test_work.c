/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>
#include <cmocka.h>

#include "work.h"

static atomic_int ran, running, most;

static void job(void *arg)
{
    struct timespec pause = {.tv_nsec = 2000000};
    int now = atomic_fetch_add(&running, 1) + 1, seen = atomic_load(&most);

    while (now > seen && !atomic_compare_exchange_weak(&most, &seen, now))
        ;
    nanosleep(&pause, NULL);
    atomic_fetch_sub(&running, 1);
    atomic_fetch_add(&ran, 1);
}

static void runs_everything_on_few_threads(void **state)
{
    struct fy_work *work;

    assert_int_equal(fy_work_open(3, "test", 2000, &work), 0);
    for (int i = 0; i < 60; i++)
        assert_int_equal(fy_work_add(work, job, NULL), 0);
    fy_work_close(work); /* runs what is queued */
    assert_int_equal(ran, 60);
    assert_int_equal(most, 3);
}

static void adds_more(void *arg)
{
    assert_int_equal(fy_work_add(arg, job, NULL), 0);
}

static void jobs_may_add_jobs(void **state)
{
    struct fy_work *work;

    ran = 0;
    assert_int_equal(fy_work_open(2, "test", 2000, &work), 0);
    for (int i = 0; i < 10; i++)
        assert_int_equal(fy_work_add(work, adds_more, work), 0);
    fy_work_close(work);
    assert_int_equal(ran, 10);
}

static atomic_bool hold;

static void held(void *arg)
{
    struct timespec pause = {.tv_nsec = 1000000};

    atomic_fetch_add(&running, 1);
    while (atomic_load(&hold))
        nanosleep(&pause, NULL);
}

static void takes_back_what_has_not_begun(void **state)
{
    struct fy_work *work;
    int args[3];

    ran = running = 0;
    atomic_store(&hold, true);
    assert_int_equal(fy_work_open(1, "test", 2000, &work), 0);
    assert_int_equal(fy_work_add(work, held, work), 0);
    while (!atomic_load(&running))
        ;
    for (int i = 0; i < 3; i++)
        assert_int_equal(fy_work_add(work, job, &args[i]), 0);
    assert_false(fy_work_take_back(work, held, work));
    assert_false(fy_work_take_back(work, held, &args[1]));
    assert_true(fy_work_take_back(work, job, &args[1]));
    assert_true(fy_work_take_back(work, job, &args[2])); /* the last one: another may follow */
    assert_false(fy_work_take_back(work, job, &args[2]));
    assert_int_equal(fy_work_add(work, job, NULL), 0);
    atomic_store(&hold, false);
    fy_work_close(work);
    assert_int_equal(ran, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(runs_everything_on_few_threads),
        cmocka_unit_test(jobs_may_add_jobs),
        cmocka_unit_test(takes_back_what_has_not_begun),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
