/* SPDX-License-Identifier: Apache-2.0 */
/* Stores whose server's name nobody resolves: the resolver's silence is not the caller's. */
#include <dlfcn.h>
#include <netdb.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "loader.h"
#include "util/buf.h"
#include "util/clock.h"

#define SILENT     "silent.ferry.invalid"
#define SILENCE_S  4u /* longer than all that is allowed below */
#define TIMEOUT_MS 500u

static struct fy_loader *loader;
static atomic_int waiting;

/* The one that libcurl finds: this program exports it. */
int getaddrinfo(const char *host, const char *service, const struct addrinfo *hints,
                struct addrinfo **list)
{
    int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **);

    if (host && !strcmp(host, SILENT)) {
        atomic_fetch_add(&waiting, 1);
        sleep(SILENCE_S);
        atomic_fetch_sub(&waiting, 1);
        return EAI_AGAIN;
    }
    *(void **)&real = dlsym(RTLD_NEXT, "getaddrinfo");
    return real(host, service, hints, list);
}

__attribute__((format(printf, 5, 6))) static void host_log(const struct ferry_host *host,
                                                           enum ferry_log_level level,
                                                           const char *file, int line,
                                                           const char *fmt, ...)
{
}

static const int log_level = FERRY_LOG_WARN;
static const struct ferry_host host = {
    .size = sizeof(host), .abi_major = 1, .log_level = &log_level, .log = host_log};

static const struct ferry_metadata_ops *open_store(const char *scheme, const char *uri,
                                                   struct ferry_store **store_out)
{
    const struct ferry_kv timeout = {.key = "timeout_ms", .val = "500", .val_len = 3};
    const struct ferry_kvs config = {.v = &timeout, .n = 1};
    const struct fy_metadata_plugin *plugin;

    if (fy_loader_metadata(loader, scheme, &plugin))
        skip(); /* not built here */
    assert_int_equal(plugin->ops.open(&host, uri, &config, store_out), FERRY_OK);
    return &plugin->ops;
}

static uint64_t ms_since(uint64_t start_ns)
{
    return (fy_now_ns() - start_ns) / FY_NS_PER_MS;
}

static void http_calls_end_in_their_time(void **state)
{
    const struct ferry_store_put put = {
        .size = sizeof(put), .key = "k", .val = "v", .val_len = 1};
    struct ferry_store *store;
    const struct ferry_metadata_ops *ops =
        open_store("http", "http://" SILENT ":8080/metadata", &store);
    struct fy_buf buf;
    uint64_t start;

    fy_buf_init(&buf, 1000);
    start = fy_now_ns();
    assert_int_equal(ops->get(store, "k", TIMEOUT_MS, &buf.sink, NULL), FERRY_EUNREACH);
    assert_in_range(ms_since(start), 0, 1500);
    start = fy_now_ns();
    assert_int_equal(ops->put(store, &put, TIMEOUT_MS, NULL), FERRY_EUNREACH);
    assert_in_range(ms_since(start), 0, 1500);
    start = fy_now_ns();
    assert_int_equal(ops->del(store, "k", TIMEOUT_MS), FERRY_EUNREACH);
    assert_in_range(ms_since(start), 0, 1500);
    fy_buf_fini(&buf);
    start = fy_now_ns();
    ops->close(store);
    assert_in_range(ms_since(start), 0, 1500);
}

static void on_event(void *arg, const struct ferry_store_event *event)
{
}

static void etcd_ends_a_watch_at_once(void **state)
{
    struct ferry_store *store;
    const struct ferry_metadata_ops *ops = open_store("etcd", "etcd://" SILENT ":2379", &store);
    uint64_t start = fy_now_ns(), watch;

    assert_int_equal(ops->watch(store, "k", on_event, NULL, &watch), FERRY_OK);
    assert_in_range(ms_since(start), 0, 1500);
    usleep(200000); /* its thread asks for the name */
    start = fy_now_ns();
    ops->close(store);
    assert_in_range(ms_since(start), 0, 2000);
}

static void those_left_behind_end_by_themselves(void **state)
{
    uint64_t start = fy_now_ns();

    while (atomic_load(&waiting)) {
        assert_in_range(ms_since(start), 0, 20000);
        usleep(20000);
    }
    usleep(200000); /* libcurl frees what they had */
}

static int setup(void **state)
{
    return fy_loader_open(NULL, NULL, &loader) ? -1 : 0;
}

static int teardown(void **state)
{
    fy_loader_close(loader);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(http_calls_end_in_their_time),
        cmocka_unit_test(etcd_ends_a_watch_at_once),
        cmocka_unit_test(those_left_behind_end_by_themselves),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
