/* SPDX-License-Identifier: Apache-2.0 */
/* What the core does for a service without leases: publishes again what it lost, over http with
 * the real server in this process. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "ferry/ferry.h"
#include "metadata_server.h"
#include "names.h"
#include "store.h"
#include "util/clock.h"

__attribute__((format(printf, 5, 6))) static void host_log(const struct ferry_host *host,
                                                           enum ferry_log_level level,
                                                           const char *file, int line,
                                                           const char *fmt, ...)
{
}

static const int log_level = FERRY_LOG_DEBUG;
static const struct ferry_host host = {
    .size = sizeof(host), .abi_major = 1, .log_level = &log_level, .log = host_log};
static struct fy_loader *loader;
static struct metadata_server *server;
static struct fy_store *store, *other;
static uint16_t port;

#define DOC  "{\"buffers\":[],\"name\":\"n:1\",\"protocol\":\"tcp\"}"
#define DOC2 "{\"buffers\":[],\"name\":\"n:1\",\"protocol\":\"tcp\",\"tcp_data_port\":2}"
#define NAME "n:1"

static void server_start(void)
{
    const struct metadata_server_options options = {
        .host = "127.0.0.1", .port = port, .max_body = 1 << 20, .max_keys = 100};
    char url[320], error[256];

    if (metadata_server_open(&options, &server, url, error, sizeof(error)))
        fail_msg("%s", error);
    port = (uint16_t)atoi(strrchr(url, ':') + 1);
}

static void server_stop(void)
{
    metadata_server_close(server);
    server = NULL;
}

static struct fy_store *open_store(void)
{
    struct ferry_options options = {.size = sizeof(options)};
    struct fy_config *config;
    struct fy_store *fresh = NULL;
    char url[64];

    snprintf(url, sizeof(url), "http://127.0.0.1:%u/metadata", port);
    options.metadata_server = url;
    options.config_json = "{\"metadata\":{\"republish_ms\":400}}";
    assert_int_equal(fy_config_from_options(&options, NULL, &config), FERRY_OK);
    if (fy_store_open(config, loader, &host, NULL, &fresh))
        fail_msg("%s", ferry_error());
    fy_config_free(config);
    return fresh;
}

static int setup(void **state)
{
    port = 0;
    server_start();
    if (fy_loader_open(NULL, NULL, &loader))
        return -1;
    store = open_store();
    other = open_store();
    return 0;
}

static int teardown(void **state)
{
    fy_store_close(store);
    fy_store_close(other);
    fy_loader_close(loader);
    server_stop();
    return 0;
}

static ferry_status publish(const char *doc)
{
    return fy_store_publish(store, NAME, "127.0.0.1", 15123, doc, strlen(doc), 1000);
}

static int is_found(const char *protocol_port)
{
    struct fy_doc *doc;
    char address[FY_HOST_MAX];
    const struct ferry_kv *kv = NULL;
    uint16_t found = 0;
    int ok;

    if (fy_store_address(other, NAME, 1000, address, &found) ||
        fy_store_fetch(other, NAME, 1000, &doc))
        return 0;
    kv = fy_kv_get(&doc->transports[0].attrs.kvs, "tcp_data_port");
    ok = found == 15123 && (!protocol_port || (kv && !strcmp(kv->val, protocol_port)));
    fy_doc_unref(doc);
    return ok;
}

static int becomes_found(const char *protocol_port, unsigned within_s)
{
    uint64_t end = fy_now_ns() + within_s * FY_NS_PER_S;

    while (!is_found(protocol_port)) {
        if (fy_now_ns() > end)
            return 0;
        usleep(20000);
    }
    return 1;
}

static void what_the_server_lost_is_published_again(void **state)
{
    assert_int_equal(publish(DOC), FERRY_OK);
    assert_true(is_found(NULL));
    server_stop();
    server_start(); /* empty */
    assert_false(is_found(NULL));
    assert_true(becomes_found(NULL, 5));
}

static void what_it_could_not_be_told_is_told_later(void **state)
{
    assert_int_equal(publish(DOC), FERRY_OK);
    server_stop();
    assert_int_equal(publish(DOC2), FERRY_EUNREACH);
    assert_non_null(strstr(ferry_error(), "Connection refused"));
    usleep(900000); /* a few attempts in vain */
    server_start();
    assert_true(becomes_found("2", 5));
}

static void a_name_is_taken_again_where_rpc_meta_may_not_change(void **state)
{
    assert_int_equal(publish(DOC), FERRY_OK);
    assert_int_equal(publish(DOC2), FERRY_OK); /* rpc_meta is not put twice */
    /* a new life of the node, with another port; nobody listens at the old one */
    assert_int_equal(fy_store_publish(other, NAME, "127.0.0.1", 15124, DOC, strlen(DOC), 3000),
                     FERRY_OK);
    fy_store_unpublish(store, NAME, 1000); /* the old one may not remove the new one's keys */
    assert_int_equal(fy_store_publish(other, NAME, "127.0.0.1", 15124, DOC, strlen(DOC), 0),
                     FERRY_OK);
    fy_store_unpublish(other, NAME, 1000);
    assert_false(is_found(NULL));
}

static void absent_is_not_unreachable(void **state)
{
    struct fy_doc *doc;

    assert_int_equal(fy_store_fetch(store, "nobody:1", 1000, &doc), FERRY_ENOENT);
    server_stop();
    assert_int_equal(fy_store_fetch(store, "nobody:1", 1000, &doc), FERRY_EUNREACH);
    server_start();
    assert_int_equal(fy_store_fetch(store, "nobody:1", 1000, &doc), FERRY_ENOENT);
}

/* Its document comes from the server each time, and so does its address. */
static void a_node_without_an_epoch_stays_known(void **state)
{
    struct fy_doc *doc;
    char address[FY_HOST_MAX];
    uint16_t found;

    assert_int_equal(publish(DOC), FERRY_OK);
    assert_true(is_found(NULL));
    assert_int_equal(fy_store_fetch_again(other, NAME, 1000, &doc), FERRY_OK);
    fy_doc_unref(doc);
    server_stop();
    assert_int_equal(fy_store_address(other, NAME, 1000, address, &found), FERRY_OK);
    assert_int_equal(fy_store_fetch_again(other, NAME, 1000, &doc), FERRY_EUNREACH);
    assert_int_equal(fy_store_address(other, NAME, 1000, address, &found), FERRY_OK);
    server_start();
}

static void values_beyond_the_servers_limit_are_named(void **state)
{
    char *large = calloc(1, 2 << 20);

    memset(large, ' ', (2 << 20) - 1);
    assert_int_equal(publish(large), FERRY_ERANGE);
    assert_non_null(strstr(ferry_error(), "413"));
    free(large);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_the_server_lost_is_published_again, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(what_it_could_not_be_told_is_told_later, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_name_is_taken_again_where_rpc_meta_may_not_change,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(absent_is_not_unreachable, setup, teardown),
        cmocka_unit_test_setup_teardown(a_node_without_an_epoch_stays_known, setup, teardown),
        cmocka_unit_test_setup_teardown(values_beyond_the_servers_limit_are_named, setup,
                                        teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
