/* SPDX-License-Identifier: Apache-2.0 */
/* How long a look at the document of a peer that says nothing may last, and whom it speaks for.
 */
#include <pthread.h>
#include <stdbool.h>
#include <unistd.h>

#include "engine.h"
#include "engine_pair.h"
#include "util/clock.h"

static uint64_t ms_since(uint64_t start)
{
    return (fy_now_ns() - start) / FY_NS_PER_MS;
}

static void *refreshes(void *arg)
{
    struct pair *pair = arg;

    ferry_segment_refresh(pair->a, pair->peer, 6000);
    return NULL;
}

/* Says nothing for a while. */
static void *stands_still(void *arg)
{
    struct pair *pair = arg;

    pthread_mutex_lock(&pair->b->doc_lock);
    usleep(800000);
    pthread_mutex_unlock(&pair->b->doc_lock);
    return NULL;
}

static void *refreshes_in_haste(void *arg)
{
    struct pair *pair = arg;

    return (void *)(intptr_t)ferry_segment_refresh(pair->a, pair->peer, 300);
}

static void who_has_time_does_not_fail_with_who_has_none(void **state)
{
    pthread_t still, hasty;
    struct pair pair;
    void *hasty_status;

    pair_open(&pair, "loop", NULL);
    assert_int_equal(pthread_create(&still, NULL, stands_still, &pair), 0);
    while (!pthread_mutex_trylock(&pair.b->doc_lock)) {
        pthread_mutex_unlock(&pair.b->doc_lock);
        usleep(1000);
    }
    assert_int_equal(pthread_create(&hasty, NULL, refreshes_in_haste, &pair), 0);
    usleep(100000);
    assert_ok(ferry_segment_refresh(pair.a, pair.peer, 10000));
    pthread_join(hasty, &hasty_status);
    assert_int_not_equal((intptr_t)hasty_status, FERRY_OK);
    pthread_join(still, NULL);
    pair_close(&pair);
}

/* Who waits for another's look at a silent peer waits no longer than for its own. */
static void each_look_at_a_silent_peer_ends_in_time(void **state)
{
    struct fy_segment *segment;
    bool reading = false;
    pthread_t thread;
    struct pair pair;
    uint64_t start;

    pair_open(&pair, "loop", NULL);
    segment = fy_segment_get(pair.a, pair.peer);
    pthread_mutex_lock(&pair.b->doc_lock); /* accepts questions, answers none */
    assert_int_equal(pthread_create(&thread, NULL, refreshes, &pair), 0);
    while (!reading) {
        usleep(1000);
        pthread_mutex_lock(&segment->lock);
        reading = segment->reloading;
        pthread_mutex_unlock(&segment->lock);
    }
    start = fy_now_ns();
    assert_int_equal(ferry_segment_refresh(pair.a, pair.peer, 300), FERRY_ETIMEDOUT);
    assert_non_null(strstr(ferry_error(), "being read"));
    assert_in_range(ms_since(start), 250, 3000);
    pthread_mutex_unlock(&pair.b->doc_lock);
    pthread_join(thread, NULL);
    assert_ok(ferry_segment_refresh(pair.a, pair.peer, 5000));
    fy_segment_put(segment);
    pair_close(&pair);
}

/* Also where the peer of an unknown range says nothing. */
static void submitting_ends_in_time(void **state)
{
    struct ferry_submit attr = {.size = sizeof(attr), .timeout_ms = 300};
    struct ferry_request request;
    struct pair pair;
    ferry_batch batch;
    uint64_t start;

    pair_open(&pair, "loop", NULL);
    request = (struct ferry_request){.local = pair.ours,
                                     .remote = 1ull << 40,
                                     .len = 4096,
                                     .segment = pair.peer,
                                     .op = FERRY_WRITE};
    pthread_mutex_lock(&pair.b->doc_lock); /* accepts questions, answers none */
    start = fy_now_ns();
    assert_int_equal(ferry_submit(pair.a, &request, 1, &attr, &batch), FERRY_ERANGE);
    assert_in_range(ms_since(start), 250, 1800);
    pthread_mutex_unlock(&pair.b->doc_lock);
    pair_close(&pair);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_look_at_a_silent_peer_ends_in_time),
        cmocka_unit_test(who_has_time_does_not_fail_with_who_has_none),
        cmocka_unit_test(submitting_ends_in_time),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
