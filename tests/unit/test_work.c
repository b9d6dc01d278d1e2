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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(runs_everything_on_few_threads),
        cmocka_unit_test(jobs_may_add_jobs),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
