/* SPDX-License-Identifier: Apache-2.0 */
/* Conformance of metadata plugins: single calls, values and keys of every kind, many threads.
 */
#include "metadata_conformance.h"

#include <dirent.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static enum result put_get_del(void)
{
    const char *key = key_of("plain");

    CHECK_STATUS(get_status(store, key, 5000), absent);
    CHECK_STATUS(put(key, "one", 3, 0, FERRY_REV_ANY, NULL), FERRY_OK);
    CHECK(holds(key, "one", 3));
    CHECK_STATUS(put(key, "other", 5, 0, FERRY_REV_ANY, NULL), FERRY_OK);
    CHECK(holds(key, "other", 5));
    CHECK_STATUS(get_status(store, key_of("plai"), 5000), absent);
    CHECK_STATUS(get_status(store, key_of("plainer"), 5000), absent);
    CHECK_STATUS(ops->del(store, key, 5000), FERRY_OK);
    CHECK_STATUS(get_status(store, key, 5000), absent);
    CHECK_STATUS(ops->del(store, key, 5000), FERRY_OK);
    return PASSED;
}

static enum result get_appends(void)
{
    const char *key = key_of("appends");
    struct bytes bytes;
    ferry_status status;
    int same;

    CHECK_STATUS(put(key, "tail", 4, 0, FERRY_REV_ANY, NULL), FERRY_OK);
    bytes_init(&bytes);
    bytes.sink.append(&bytes.sink, "head", 4);
    status = ops->get(store, key, 0, &bytes.sink, NULL);
    same = bytes.len == 8 && !memcmp(bytes.data, "headtail", 8);
    bytes_free(&bytes);
    CHECK_STATUS(status, FERRY_OK);
    CHECK(same);
    CHECK_STATUS(ops->del(store, key, 0), FERRY_OK);
    return PASSED;
}

static enum result values_of_every_kind(void)
{
    const char *key = key_of("kinds");
    char all[512];

    for (size_t i = 0; i < sizeof(all); i++)
        all[i] = (char)i;
    CHECK_STATUS(put(key, all, sizeof(all), 0, FERRY_REV_ANY, NULL), FERRY_OK);
    CHECK(holds(key, all, sizeof(all)));
    CHECK_STATUS(put(key, "\0\0\0", 3, 0, FERRY_REV_ANY, NULL), FERRY_OK);
    CHECK(holds(key, "\0\0\0", 3));
    CHECK_STATUS(put(key, "", 0, 0, FERRY_REV_ANY, NULL), FERRY_OK);
    CHECK(holds(key, "", 0));
    CHECK_STATUS(put(key, "{\"a\":\"\\u0000\"}\n", 15, 0, FERRY_REV_ANY, NULL), FERRY_OK);
    CHECK(holds(key, "{\"a\":\"\\u0000\"}\n", 15));
    CHECK_STATUS(ops->del(store, key, 5000), FERRY_OK);
    return PASSED;
}

static enum result keys_of_every_kind(void)
{
    static const char *const names[] = {
        "10.0.0.1:12345",
        "[fe80::1%eth0]:1",
        "a b",
        "a+b",
        "a%2Fb",
        "a?b=c&d=e#f",
        "\xc3\xa4\xe2\x82",
        "*",
        "[a-z]?\\*^",
        "a//b/",
        "a/b/", /* not the same */
        "a",    /* nor the part of a URL before its question mark */
        "..",
        "\"quoted\"'",
    };
    const size_t n = sizeof(names) / sizeof(names[0]);

    for (size_t i = 0; i < n; i++)
        CHECK_STATUS(put(key_of(names[i]), names[i], strlen(names[i]), 0, FERRY_REV_ANY, NULL),
                     FERRY_OK);
    for (size_t i = 0; i < n; i++)
        CHECK(holds(key_of(names[i]), names[i], strlen(names[i])));
    for (size_t i = 0; i < n; i++) {
        CHECK_STATUS(ops->del(store, key_of(names[i]), 5000), FERRY_OK);
        CHECK_STATUS(get_status(store, key_of(names[i]), 5000), absent);
        for (size_t j = i + 1; j < n; j++)
            CHECK(holds(key_of(names[j]), names[j], strlen(names[j])));
    }
    return PASSED;
}

static enum result large_values(void)
{
    const char *key = key_of("large");
    size_t len = max_value && max_value < 4u << 20 ? (size_t)max_value : 4u << 20;
    char *val = malloc(len);
    enum result result = FAILED;

    if (!val)
        return FAILED;
    for (size_t i = 0; i < len; i++)
        val[i] = (char)((i + suite_seed) * 2654435761u >> 24);
    if (put(key, val, len, 0, FERRY_REV_ANY, NULL) == FERRY_OK && holds(key, val, len))
        result = PASSED;
    else
        fail_with(__FILE__, __LINE__, "all of a large value to come back",
                  "%zu bytes did not: %s", len, last_words());
    free(val);
    CHECK_STATUS(ops->del(store, key, 10000), FERRY_OK);
    return result;
}

static enum result too_large_values(void)
{
    const char *key = key_of("too-large");
    ferry_status status;
    char *val;

    if (!max_value || max_value > 1u << 30)
        return SKIPPED;
    val = calloc(1, (size_t)max_value + 1);
    CHECK(val != NULL);
    status = put(key, val, (size_t)max_value + 1, 0, FERRY_REV_ANY, NULL);
    free(val);
    CHECK_STATUS(status, FERRY_ERANGE);
    CHECK_STATUS(get_status(store, key, 5000), absent);
    return PASSED;
}

struct worker {
    pthread_t thread;
    int number, failed;
};

static void *work(void *arg)
{
    struct worker *worker = arg;
    char name[64], val[64];

    for (int i = 0; i < 40 && !worker->failed; i++) {
        const char *key;
        int len = snprintf(val, sizeof(val), "value %d of %d", i, worker->number);

        snprintf(name, sizeof(name), "thread/%d/%d", worker->number, i % 5);
        key = key_of(name);
        if (put(key, val, (size_t)len, 0, FERRY_REV_ANY, NULL) ||
            !holds(key, val, (size_t)len) || put(key_of("thread/all"), "same", 4, 0, 0, NULL) ||
            !holds(key_of("thread/all"), "same", 4) ||
            (i % 3 == 0 &&
             (ops->del(store, key, 5000) || get_status(store, key, 5000) != absent))) {
            fail_with(__FILE__, __LINE__, "each thread to find what it put",
                      "thread %d, round %d did not: %s", worker->number, i, last_words());
            worker->failed = 1;
        }
    }
    return NULL;
}

static enum result eight_threads(void)
{
    struct worker workers[8] = {0};
    int failed = 0;

    for (int i = 0; i < 8; i++) {
        workers[i].number = i;
        CHECK(pthread_create(&workers[i].thread, NULL, work, &workers[i]) == 0);
    }
    for (int i = 0; i < 8; i++) {
        pthread_join(workers[i].thread, NULL);
        failed += workers[i].failed;
    }
    CHECK(failed == 0);
    return PASSED;
}

static enum result small_caps(void)
{
    unsigned char room[sizeof(struct ferry_store_caps) + 16];
    struct ferry_store_caps *small = (struct ferry_store_caps *)(void *)room;

    memset(room, 0xa5, sizeof(room));
    small->size = 8;
    CHECK_STATUS(ops->query(store, small), FERRY_OK);
    CHECK(small->size <= 8 && small->flags == caps);
    for (size_t i = 8; i < sizeof(room); i++)
        CHECK(room[i] == 0xa5);
    memset(room, 0xa5, sizeof(room));
    small->size = sizeof(room);
    CHECK_STATUS(ops->query(store, small), FERRY_OK);
    CHECK(small->size == sizeof(struct ferry_store_caps) && small->max_value == max_value);
    for (size_t i = sizeof(struct ferry_store_caps); i < sizeof(room); i++)
        CHECK(room[i] == 0xa5);
    return PASSED;
}

static size_t count_in(const char *dir)
{
    DIR *d = opendir(dir);
    size_t n = 0;

    while (d && readdir(d))
        n++;
    if (d)
        closedir(d);
    return n;
}

static enum result opening_leaks_nothing(void)
{
    size_t fds = 0, threads = 0;

    for (int i = 0; i < 40; i++) {
        struct ferry_store *other;

        CHECK_STATUS(open_store(&other), FERRY_OK);
        get_status(other, key_of("nothing"), 5000);
        ops->close(other);
        if (i == 9) {
            fds = count_in("/proc/self/fd");
            threads = count_in("/proc/self/task");
        }
    }
    sleep_ms(50);
    CHECK(count_in("/proc/self/fd") <= fds + 2);
    CHECK(count_in("/proc/self/task") <= threads + 1);
    ops->close(NULL);
    return PASSED;
}

const struct test value_tests[] = {
    {1, "put-get-del", "put, get, del, and absent is absent", put_get_del},
    {2, "get-appends", "get appends to what is there", get_appends},
    {3, "values", "values with NUL bytes, empty, all bytes", values_of_every_kind},
    {4, "keys", "keys with ports, slashes, percent signs, patterns", keys_of_every_kind},
    {5, "large", "a value of 4 MiB or the greatest there is", large_values},
    {6, "too-large", "a value beyond max_value is refused", too_large_values},
    {7, "threads", "eight threads on one store", eight_threads},
    {8, "caps-size", "query fills no more than it is given", small_caps},
    {9, "open-close", "opening and closing leaks nothing", opening_leaks_nothing},
    {0},
};
