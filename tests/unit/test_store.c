/* SPDX-License-Identifier: Apache-2.0 */
/* Who owns a name, what is written and removed in which order, over memory:// and p2p with real
 * control channels on loopback. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#include "control.h"
#include "ferry/ferry.h"
#include "names.h"
#include "store_inner.h"
#include "util/clock.h"

static char last_log[1024];

__attribute__((format(printf, 5, 6))) static void host_log(const struct ferry_host *host,
                                                           enum ferry_log_level level,
                                                           const char *file, int line,
                                                           const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(last_log, sizeof(last_log), fmt, ap);
    va_end(ap);
}

static const int log_level = FERRY_LOG_DEBUG;
static const struct ferry_host host = {
    .size = sizeof(host), .abi_major = 1, .log_level = &log_level, .log = host_log};
static struct fy_loader *loader;

static int setup(void **state)
{
    return fy_loader_open(NULL, NULL, &loader);
}

static int teardown(void **state)
{
    fy_loader_close(loader);
    return 0;
}

static ferry_status open_with(const char *server, const char *json, struct fy_store **store_out)
{
    const struct ferry_options options = {
        .size = sizeof(options), .metadata_server = server, .config_json = json};
    struct fy_config *config;
    ferry_status status;

    assert_int_equal(fy_config_from_options(&options, NULL, &config), FERRY_OK);
    status = fy_store_open(config, loader, &host, NULL, store_out);
    fy_config_free(config);
    return status;
}

static struct fy_store *open_store(const char *server, const char *json)
{
    struct fy_store *store;

    if (open_with(server, json, &store) != FERRY_OK)
        fail_msg("%s", ferry_error());
    return store;
}

/* ---- the service seen from outside, as another node's plugin sees it ---- */

static const struct ferry_metadata_ops *raw;
static struct ferry_store *raw_store;

static void raw_open(const char *uri)
{
    const struct fy_metadata_plugin *plugin;

    assert_int_equal(fy_loader_metadata(loader, "memory", &plugin), FERRY_OK);
    raw = &plugin->ops;
    assert_int_equal(raw->open(&host, uri, NULL, &raw_store), FERRY_OK);
}

static const char *raw_get(const char *key)
{
    static char text[4][2048];
    static int turn;
    char *out = text[turn++ % 4];
    struct fy_buf buf;

    fy_buf_init(&buf, sizeof(text[0]) - 1);
    if (raw->get(raw_store, key, 1000, &buf.sink, NULL))
        return NULL;
    snprintf(out, sizeof(text[0]), "%s", buf.data ? buf.data : "");
    fy_buf_fini(&buf);
    return out;
}

static void raw_put(const char *key, const char *val)
{
    struct ferry_store_put args = {
        .size = sizeof(args), .key = key, .val = val, .val_len = strlen(val)};

    assert_int_equal(raw->put(raw_store, &args, 1000, NULL), FERRY_OK);
}

/* ---- nodes that answer at control addresses ---- */

enum manner { AS_NODE, AS_OLD_NODE, SILENT };

struct node {
    enum manner manner;
    const char *doc;
    uint16_t port;
    struct fy_control *control;
    int fd;
};

static ferry_status node_answer(void *arg, int type, const char *body, size_t len,
                                struct fy_buf *reply)
{
    const struct node *node = arg;

    if (type == FY_CONTROL_PROBE)
        return fy_buf_printf(reply, "{\"status\":\"success\"}");
    if (type == FY_CONTROL_METADATA && node->doc)
        return fy_buf_append(reply, node->doc, strlen(node->doc));
    return FERRY_ENOTSUP;
}

static void *old_node(void *arg)
{
    const struct node *node = arg;
    int fd;

    /* it accepts, reads a little, does not understand and closes */
    while ((fd = accept(node->fd, NULL, NULL)) >= 0) {
        char bytes[16];

        while (read(fd, bytes, sizeof(bytes)) == sizeof(bytes))
            ;
        close(fd);
    }
    return NULL;
}

static pthread_t old_thread;

static void node_open(struct node *node)
{
    assert_int_equal(fy_net_listen("127.0.0.1", 0, 15000, 17000, 0, &node->fd, &node->port),
                     FERRY_OK);
    if (node->manner == AS_NODE) {
        assert_int_equal(fy_control_open(node->fd, 0, node_answer, node, NULL, &node->control),
                         FERRY_OK);
    } else if (node->manner == AS_OLD_NODE) {
        assert_int_equal(fcntl(node->fd, F_SETFL, 0), 0); /* accept may block */
        assert_int_equal(pthread_create(&old_thread, NULL, old_node, node), 0);
    }
}

static void node_close(struct node *node)
{
    if (node->manner == AS_NODE) {
        fy_control_close(node->control);
        return;
    }
    shutdown(node->fd, SHUT_RDWR);
    if (node->manner == AS_OLD_NODE)
        pthread_join(old_thread, NULL);
    close(node->fd);
}

static const char *rpc_of(const char *address, unsigned port)
{
    static char text[128];

    snprintf(text, sizeof(text), "{\"ip_or_host_name\":\"%s\",\"rpc_port\":%u}", address, port);
    return text;
}

#define DOC     "{\"buffers\":[],\"name\":\"n:1\",\"protocol\":\"tcp\",\"tcp_data_port\":7}"
#define NAME    "n:1"
#define RPC_KEY "mooncake/rpc_meta/" NAME
#define DOC_KEY "mooncake/ram/" NAME
#define SHORT   "{\"metadata\":{\"ttl_ms\":2000}}"
#define PUBLISH(store, port)                                                                   \
    fy_store_publish((store), NAME, "127.0.0.1", (port), DOC, strlen(DOC), 3000)

/* ---- tests ---- */

/* "" where it has no such key. */
static const char *text_of(const struct ferry_kvs *kvs, const char *key)
{
    static char text[64];

    text[0] = '\0';
    for (size_t i = 0; i < kvs->n; i++) {
        if (!strcmp(kvs->v[i].key, key))
            snprintf(text, sizeof(text), "%.*s", (int)kvs->v[i].val_len,
                     (const char *)kvs->v[i].val);
    }
    return text;
}

struct order {
    char keys[8][64];
    int n;
    pthread_mutex_t lock;
    pthread_cond_t changed;
};

static void on_event(void *arg, const struct ferry_store_event *event)
{
    struct order *order = arg;

    pthread_mutex_lock(&order->lock);
    if (order->n < 8)
        snprintf(order->keys[order->n], sizeof(order->keys[0]), "%c%s",
                 event->type == FERRY_STORE_PUT ? '+' : '-', event->key);
    order->n++;
    pthread_cond_signal(&order->changed);
    pthread_mutex_unlock(&order->lock);
}

static void keys_values_and_order_are_mooncakes(void **state)
{
    struct order order = {.lock = PTHREAD_MUTEX_INITIALIZER,
                          .changed = PTHREAD_COND_INITIALIZER};
    struct fy_store *store = open_store("memory://order", NULL);
    uint64_t id;

    raw_open("memory://order");
    assert_int_equal(raw->watch(raw_store, "mooncake/", on_event, &order, &id), FERRY_OK);
    assert_int_equal(fy_store_is_p2p(store), 0);
    assert_int_equal(PUBLISH(store, 15123), FERRY_OK);
    assert_string_equal(raw_get(RPC_KEY),
                        "{\"ip_or_host_name\":\"127.0.0.1\",\"rpc_port\":15123}");
    assert_string_equal(raw_get(DOC_KEY), DOC);
    assert_int_equal(PUBLISH(store, 15123), FERRY_OK); /* memory registered: document only */
    fy_store_unpublish(store, NAME, 3000);
    assert_null(raw_get(RPC_KEY));
    assert_null(raw_get(DOC_KEY));
    pthread_mutex_lock(&order.lock);
    while (order.n < 5)
        pthread_cond_wait(&order.changed, &order.lock);
    pthread_mutex_unlock(&order.lock);
    assert_string_equal(order.keys[0], "+" RPC_KEY);
    assert_string_equal(order.keys[1], "+" DOC_KEY);
    assert_string_equal(order.keys[2], "+" DOC_KEY);
    assert_string_equal(order.keys[3], "-" DOC_KEY);
    assert_string_equal(order.keys[4], "-" RPC_KEY);
    raw->unwatch(raw_store, id);
    fy_store_close(store);
    raw->close(raw_store);
}

static void clusters_and_slashes_change_the_keys(void **state)
{
    struct fy_store *store = open_store("memory://keys", "{\"cluster_id\":\"prod\"}");

    raw_open("memory://keys");
    assert_int_equal(PUBLISH(store, 15123), FERRY_OK);
    assert_non_null(raw_get("mooncake/prod/rpc_meta/" NAME));
    assert_string_equal(raw_get("mooncake/prod/ram/" NAME), DOC);
    assert_null(raw_get(DOC_KEY));
    fy_store_close(store);

    store = open_store("memory://keys", NULL);
    assert_int_equal(fy_store_publish(store, "/a/b", "h", 1, DOC, strlen(DOC), 0), FERRY_OK);
    assert_string_equal(raw_get("mooncake/a/b"), DOC);
    assert_non_null(raw_get("mooncake/rpc_meta/a/b"));
    fy_store_close(store);
    raw->close(raw_store);
}

static void what_is_published_is_found(void **state)
{
    struct fy_store *store = open_store("memory://found", NULL);
    struct fy_store *other = open_store("memory://found", NULL);
    char address[FY_HOST_MAX];
    struct fy_doc *doc;
    uint16_t port = 0;

    assert_int_equal(fy_store_fetch(other, NAME, 1000, &doc), FERRY_ENOENT);
    assert_non_null(strstr(ferry_error(), NAME));
    assert_non_null(strstr(ferry_error(), "memory://found"));
    assert_int_equal(fy_store_address(other, NAME, 1000, address, &port), FERRY_ENOENT);
    assert_int_equal(PUBLISH(store, 15123), FERRY_OK);
    assert_int_equal(fy_store_fetch(other, NAME, 1000, &doc), FERRY_OK);
    assert_string_equal(doc->name, NAME);
    /* Where a node of upstream's is, the document does not say. */
    assert_string_equal(text_of(&doc->transports[0].attrs.kvs, "core.rpc_host"), "127.0.0.1");
    assert_string_equal(text_of(&doc->transports[0].attrs.kvs, "core.rpc_port"), "15123");
    fy_doc_unref(doc);
    assert_int_equal(fy_store_address(other, NAME, 1000, address, &port), FERRY_OK);
    assert_string_equal(address, "127.0.0.1");
    assert_int_equal(port, 15123);
    fy_store_close(store);
    fy_store_close(other);
}

static void garbage_is_named_and_not_used(void **state)
{
    static const char *const bad[] = {"",
                                      "null",
                                      "[]",
                                      "{\"ip_or_host_name\":\"h\"}",
                                      "{\"ip_or_host_name\":\"h\",\"rpc_port\":0}",
                                      "{\"ip_or_host_name\":\"h\",\"rpc_port\":65536}",
                                      "{\"ip_or_host_name\":\"h\",\"rpc_port\":\"1\"}",
                                      "{\"ip_or_host_name\":\"\",\"rpc_port\":1}",
                                      "{\"ip_or_host_name\":7,\"rpc_port\":1}"};
    struct fy_store *store = open_store("memory://bad", NULL);
    char address[FY_HOST_MAX];
    struct fy_doc *doc;
    uint16_t port;

    raw_open("memory://bad");
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        raw_put(RPC_KEY, bad[i]);
        assert_int_equal(fy_store_address(store, NAME, 1000, address, &port), FERRY_EINVAL);
        assert_non_null(strstr(ferry_error(), RPC_KEY));
    }
    raw_put(DOC_KEY, "{\"name\":");
    assert_int_equal(fy_store_fetch(store, NAME, 1000, &doc), FERRY_EINVAL);
    assert_non_null(strstr(ferry_error(), NAME));
    assert_int_equal(PUBLISH(store, 15123), FERRY_OK); /* an unreadable owner is none */
    assert_string_equal(raw_get(RPC_KEY), rpc_of("127.0.0.1", 15123));
    fy_store_close(store);
    raw->close(raw_store);
}

static void a_living_owner_keeps_the_name(void **state)
{
    static const enum manner manners[] = {AS_NODE, AS_OLD_NODE, SILENT};
    struct fy_store *store = open_store("memory://living", NULL);
    char port[16];

    raw_open("memory://living");
    for (size_t i = 0; i < 3; i++) {
        struct node node = {.manner = manners[i], .doc = DOC};
        uint64_t start = fy_now_ns();
        ferry_status status;

        node_open(&node);
        raw_put(RPC_KEY, rpc_of("127.0.0.1", node.port));
        raw_put(DOC_KEY, "theirs");
        status = fy_store_publish(store, NAME, "127.0.0.1", 9, DOC, strlen(DOC), 1000);
        node_close(&node);
        assert_int_equal(status, FERRY_EEXIST);
        assert_true(fy_now_ns() - start < 2 * FY_NS_PER_S);
        snprintf(port, sizeof(port), "%u", node.port);
        assert_non_null(strstr(ferry_error(), "127.0.0.1"));
        assert_non_null(strstr(ferry_error(), port));
        assert_string_equal(raw_get(RPC_KEY), rpc_of("127.0.0.1", node.port));
        assert_string_equal(raw_get(DOC_KEY), "theirs");
    }
    fy_store_close(store);
    raw->close(raw_store);
}

static void a_dead_owner_is_followed(void **state)
{
    struct fy_store *store = open_store("memory://dead", NULL);
    struct node node = {.manner = AS_NODE, .doc = "{\"name\":\"another:2\"}"};

    raw_open("memory://dead");
    node_open(&node);
    node_close(&node); /* nobody listens there any more */
    raw_put(RPC_KEY, rpc_of("127.0.0.1", node.port));
    assert_int_equal(PUBLISH(store, 15123), FERRY_OK);
    assert_string_equal(raw_get(RPC_KEY), rpc_of("127.0.0.1", 15123));
    fy_store_unpublish(store, NAME, 1000);

    node_open(&node); /* its port went to a node of another name */
    raw_put(RPC_KEY, rpc_of("127.0.0.1", node.port));
    assert_int_equal(PUBLISH(store, 15123), FERRY_OK);
    node_close(&node);
    assert_string_equal(raw_get(RPC_KEY), rpc_of("127.0.0.1", 15123));
    fy_store_close(store);
    raw->close(raw_store);
}

static void a_name_lost_to_another_is_left_to_it(void **state)
{
    struct fy_store *store = open_store("memory://lost", NULL);

    raw_open("memory://lost");
    assert_int_equal(PUBLISH(store, 15123), FERRY_OK);
    raw_put(RPC_KEY, rpc_of("127.0.0.1", 9));
    raw_put(DOC_KEY, "theirs");
    fy_store_unpublish(store, NAME, 1000);
    assert_string_equal(raw_get(RPC_KEY), rpc_of("127.0.0.1", 9));
    assert_string_equal(raw_get(DOC_KEY), "theirs");
    fy_store_close(store);
    raw->close(raw_store);
}

static struct fy_store *open_and_lose(const char *server, const struct node *other)
{
    struct fy_store *store = open_store(server, NULL);

    store->no_keeper = 1; /* we take its turns */
    raw_open(server);
    assert_int_equal(PUBLISH(store, 15123), FERRY_OK);
    raw_put(RPC_KEY, rpc_of("127.0.0.1", other->port));
    raw_put(DOC_KEY, "theirs");
    fy_store_turn(store);
    return store;
}

/* As after a partition that was longer than the lease. */
static void a_name_lost_to_another_is_not_written_over(void **state)
{
    struct node other = {.manner = AS_NODE, .doc = DOC};
    struct fy_store *store;

    node_open(&other);
    store = open_and_lose("memory://overwritten", &other);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(PUBLISH(store, 15123), FERRY_EEXIST);
        assert_string_equal(raw_get(RPC_KEY), rpc_of("127.0.0.1", other.port));
        assert_string_equal(raw_get(DOC_KEY), "theirs");
        fy_store_turn(store);
        assert_string_equal(raw_get(DOC_KEY), "theirs");
    }
    assert_int_equal(raw->del(raw_store, RPC_KEY, 1000), FERRY_OK);
    fy_store_turn(store);
    assert_string_equal(raw_get(RPC_KEY), rpc_of("127.0.0.1", 15123));
    assert_string_equal(raw_get(DOC_KEY), DOC);
    node_close(&other);
    fy_store_close(store);
    raw->close(raw_store);
}

static void a_name_lost_comes_back(void **state)
{
    struct node other = {.manner = AS_NODE, .doc = DOC};
    struct fy_store *store;

    node_open(&other);
    store = open_and_lose("memory://back", &other);
    raw_put(RPC_KEY, rpc_of("127.0.0.1", 15123)); /* the document is still another's */
    fy_store_turn(store);
    assert_string_equal(raw_get(DOC_KEY), DOC);
    raw_put(RPC_KEY, rpc_of("127.0.0.1", other.port));
    fy_store_turn(store);
    node_close(&other);
    assert_int_equal(PUBLISH(store, 15123), FERRY_OK); /* the other one died */
    assert_string_equal(raw_get(RPC_KEY), rpc_of("127.0.0.1", 15123));
    raw_put(DOC_KEY, "old");
    assert_int_equal(PUBLISH(store, 15123), FERRY_OK); /* ours as ever */
    assert_string_equal(raw_get(DOC_KEY), DOC);
    fy_store_close(store);
    raw->close(raw_store);
}

static void a_node_that_is_gone_is_forgotten(void **state)
{
    struct fy_store *store = open_store("memory://ttl", SHORT);
    uint64_t end = fy_now_ns() + 5 * FY_NS_PER_S;

    raw_open("memory://ttl");
    assert_int_equal(PUBLISH(store, 15123), FERRY_OK);
    fy_store_close(store);
    assert_non_null(raw_get(RPC_KEY));
    while (raw_get(RPC_KEY) || raw_get(DOC_KEY)) {
        assert_true(fy_now_ns() < end);
        usleep(50000);
    }
    raw->close(raw_store);
}

static void without_a_server_the_peer_is_asked(void **state)
{
    struct fy_store *store = open_store(NULL, NULL);
    struct node node = {.manner = AS_NODE, .doc = DOC};
    char name[64], address[FY_HOST_MAX];
    struct fy_doc *doc;
    uint16_t port;
    uint64_t start;

    assert_int_equal(fy_store_is_p2p(store), 1);
    node_open(&node);
    snprintf(name, sizeof(name), "127.0.0.1:%u", node.port);
    assert_int_equal(fy_store_fetch(store, name, 2000, &doc), FERRY_OK);
    assert_string_equal(doc->name, NAME);
    fy_doc_unref(doc);
    assert_int_equal(fy_store_address(store, name, 2000, address, &port), FERRY_OK);
    assert_string_equal(address, "127.0.0.1");
    assert_int_equal(port, node.port);
    assert_int_equal(fy_store_address(store, "[::1]:77", 2000, address, &port), FERRY_OK);
    assert_string_equal(address, "::1");
    assert_int_equal(port, 77);
    assert_int_equal(fy_store_address(store, "host", 2000, address, &port), FERRY_OK);
    assert_string_equal(address, "host");
    assert_int_equal(port, 12001);

    node.doc = NULL; /* answers null: not ready, or uses a server */
    assert_int_equal(fy_store_fetch(store, name, 2000, &doc), FERRY_EUNREACH);
    assert_non_null(strstr(ferry_error(), "has no document"));
    node_close(&node);
    assert_int_equal(fy_store_fetch(store, name, 2000, &doc), FERRY_EUNREACH);
    assert_non_null(strstr(ferry_error(), "Connection refused"));

    node.manner = AS_OLD_NODE;
    node_open(&node);
    snprintf(name, sizeof(name), "127.0.0.1:%u", node.port);
    assert_int_equal(fy_store_fetch(store, name, 500, &doc), FERRY_EUNREACH);
    node_close(&node);

    node.manner = SILENT;
    node_open(&node);
    snprintf(name, sizeof(name), "127.0.0.1:%u", node.port);
    start = fy_now_ns();
    assert_int_equal(fy_store_fetch(store, name, 300, &doc), FERRY_EUNREACH);
    assert_true(fy_now_ns() - start < FY_NS_PER_S);
    assert_non_null(strstr(ferry_error(), "no answer in time"));
    node_close(&node);

    assert_int_equal(PUBLISH(store, 15123), FERRY_OK);
    assert_int_equal(fy_store_fetch(store, NAME, 500, &doc), FERRY_OK); /* our own */
    fy_doc_unref(doc);
    fy_store_unpublish(store, NAME, 500);
    fy_store_close(store);
}

static void what_cannot_be_opened_says_why(void **state)
{
    struct fy_store *store;

    assert_int_equal(open_with("nosuch://h:1", NULL, &store), FERRY_ENOTSUP);
    assert_non_null(strstr(ferry_error(), "nosuch://h:1"));
    assert_int_equal(open_with("memory://x", "{\"metadata\":{\"colour\":\"red\"}}", &store),
                     FERRY_EINVAL);
    assert_non_null(strstr(ferry_error(), "colour"));
    assert_int_equal(open_with("memory://x", "{\"metadata\":{\"ttl_ms\":10}}", &store),
                     FERRY_EINVAL);
    assert_non_null(strstr(ferry_error(), "ttl_ms"));
    fy_store_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys_values_and_order_are_mooncakes),
        cmocka_unit_test(clusters_and_slashes_change_the_keys),
        cmocka_unit_test(what_is_published_is_found),
        cmocka_unit_test(garbage_is_named_and_not_used),
        cmocka_unit_test(a_living_owner_keeps_the_name),
        cmocka_unit_test(a_dead_owner_is_followed),
        cmocka_unit_test(a_name_lost_to_another_is_left_to_it),
        cmocka_unit_test(a_name_lost_to_another_is_not_written_over),
        cmocka_unit_test(a_name_lost_comes_back),
        cmocka_unit_test(a_node_that_is_gone_is_forgotten),
        cmocka_unit_test(without_a_server_the_peer_is_asked),
        cmocka_unit_test(what_cannot_be_opened_says_why),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
