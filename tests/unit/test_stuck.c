/* SPDX-License-Identifier: Apache-2.0 */
/* Batches end although the transport (plugins/stuck/) does not end what it accepted. */
#include "engine_pair.h"

#include <unistd.h>

#define LIMIT_MS 1000

/* The plugin built with this program, and those that everybody has. */
static int find_plugins(void **state)
{
    const char *known = getenv("FERRY_PLUGIN_PATH");
    char path[8192];
    ssize_t len = readlink("/proc/self/exe", path, 4000);

    if (len <= 0)
        return -1;
    path[len] = '\0';
    len = strrchr(path, '/') - path;
    snprintf(path + len, sizeof(path) - (size_t)len, "/plugins/stuck:%s", known ? known : "");
    return setenv("FERRY_PLUGIN_PATH", path, 1);
}

/* n requests, which fail in time; how. */
static ferry_status submit_and_wait(struct pair *pair, int n)
{
    struct ferry_submit attr = {.size = sizeof(attr), .timeout_ms = LIMIT_MS};
    struct ferry_request requests[4];
    struct ferry_batch_status status;
    ferry_batch batch;

    for (int i = 0; i < n; i++)
        requests[i] =
            (struct ferry_request){.local = pair->ours + i * 4096,
                                   .remote = (uint64_t)(uintptr_t)pair->theirs + i * 4096,
                                   .len = 4096,
                                   .segment = pair->peer,
                                   .op = FERRY_WRITE};
    assert_ok(ferry_submit(pair->a, requests, (size_t)n, &attr, &batch));
    assert_ok(ferry_batch_wait(pair->a, batch, 2 * LIMIT_MS, &status));
    assert_int_equal(status.failed, n);
    ferry_batch_free(pair->a, batch);
    return status.first_error;
}

static void what_a_lost_queue_had_accepted_ends(void **state)
{
    struct pair pair;

    pair_open(&pair, "stuck", "{\"stuck\": {\"manner\": \"lost\"}}");
    assert_int_equal(submit_and_wait(&pair, 4), FERRY_EDEVICE);
    assert_int_equal(submit_and_wait(&pair, 1), FERRY_EDEVICE); /* not offered to it */
    pair_close(&pair);
}

/* With another transport there, nobody notices. */
static void and_goes_over_another_transport(void **state)
{
    struct ferry_request request = {.len = 4096, .op = FERRY_WRITE};
    struct pair pair;

    pair_open(&pair, "stuck,loop", "{\"stuck\": {\"manner\": \"lost\"}}");
    request.local = memset(pair.ours, 7, 4096);
    request.remote = (uint64_t)(uintptr_t)pair.theirs;
    request.segment = pair.peer;
    assert_ok(ferry_transfer(pair.a, &request, 1, NULL, NULL));
    assert_memory_equal(pair.ours, pair.theirs, 4096);
    pair_close(&pair);
}

static void another_attempt_that_hangs_ends(void **state)
{
    struct pair pair;

    pair_open(&pair, "stuck", "{\"stuck\": {\"manner\": \"deaf\"}}");
    assert_int_equal(submit_and_wait(&pair, 1), FERRY_ETIMEDOUT);
    pair_close(&pair);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(another_attempt_that_hangs_ends),
        cmocka_unit_test(what_a_lost_queue_had_accepted_ends),
        cmocka_unit_test(and_goes_over_another_transport),
    };

    return cmocka_run_group_tests(tests, find_plugins, NULL);
}
