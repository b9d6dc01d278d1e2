/* SPDX-License-Identifier: Apache-2.0 */
/* Engines while their metadata server is away, and how they hear of peers that came back: over
 * http with the real server in this process, and over memory://, which has watches. */
#include <dirent.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine.h"
#include "engine_pair.h"
#include "ferry/admin.h"

#include <cjson/cJSON.h>

#include "metadata_server.h"
#include "names.h"
#include "util/clock.h"

#define LEN   (64u << 10)
#define LOCAL "{\"advertise\":\"127.0.0.1\"}"

static struct metadata_server *server;
static uint16_t port;
static char url[320];

static void server_start(size_t max_body)
{
    const struct metadata_server_options options = {
        .host = "127.0.0.1", .port = port, .max_body = max_body, .max_keys = 100};
    char error[256];

    if (metadata_server_open(&options, &server, url, error, sizeof(error)))
        fail_msg("%s", error);
    port = (uint16_t)atoi(strrchr(url, ':') + 1);
}

static void server_stop(void)
{
    metadata_server_close(server);
    server = NULL;
}

static int setup(void **state)
{
    port = 0;
    server_start(1 << 20);
    return 0;
}

static int teardown(void **state)
{
    server_stop();
    return 0;
}

static struct ferry_engine *node(const char *name, const char *store, const char *config)
{
    struct ferry_options options = {.size = sizeof(options),
                                    .log_level = FERRY_LOG_DEBUG,
                                    .name = name,
                                    .bind = "127.0.0.1",
                                    .metadata_server = store,
                                    .protocol = "tcp",
                                    .config_json = config,
                                    .log = pair_log,
                                    .log_arg = (void *)(uintptr_t)name};
    struct ferry_engine *engine;

    assert_ok(ferry_engine_open(&options, &engine));
    return engine;
}

static char *memory(struct ferry_engine *engine)
{
    void *memory;

    assert_ok(ferry_memory_alloc(engine, LEN, FERRY_REMOTE_READ | FERRY_REMOTE_WRITE, &memory));
    return memory;
}

static ferry_status write_to(struct ferry_engine *engine, ferry_segment peer, void *local,
                             void *remote)
{
    const struct ferry_request request = {.local = local,
                                          .remote = (uint64_t)(uintptr_t)remote,
                                          .len = LEN,
                                          .segment = peer,
                                          .op = FERRY_WRITE};

    return ferry_transfer(engine, &request, 1, NULL, NULL);
}

static size_t buffers_of(struct ferry_engine *engine, ferry_segment peer)
{
    size_t n = 0;

    assert_ok(ferry_segment_buffers(engine, peer, NULL, 0, &n));
    return n;
}

static uint64_t ms_since(uint64_t start)
{
    return (fy_now_ns() - start) / FY_NS_PER_MS;
}

static void memory_is_registered_and_found_while_it_is_away(void **state)
{
    struct ferry_engine *a = node("127.0.0.1:0", url, NULL),
                        *b = node("127.0.0.1:0", url, NULL);
    struct ferry_engine *c;
    char *ours = memory(a), *theirs = memory(b), *more;
    ferry_segment peer, seen = 0;
    uint64_t start;

    assert_ok(ferry_segment_open(a, ferry_engine_name(b), 2000, &peer));
    assert_ok(write_to(a, peer, ours, theirs));
    server_stop();
    start = fy_now_ns();
    more = memory(b);
    assert_true(ms_since(start) < 3000);
    memset(ours, 7, LEN);
    assert_ok(write_to(a, peer, ours, more)); /* which b itself told of */
    assert_memory_equal(ours, more, LEN);
    assert_int_equal(buffers_of(a, peer), 2);
    for (int i = 0; i < 8; i++) /* nobody waits for it again and again */
        memory(b);
    assert_true(ms_since(start) < 4000);

    server_start(1 << 20); /* without a word of what it knew */
    c = node("127.0.0.1:0", url, NULL);
    start = fy_now_ns();
    while (ferry_segment_open(c, ferry_engine_name(b), 500, &seen)) {
        assert_true(ms_since(start) < 5000);
        usleep(50000);
    }
    assert_int_equal(buffers_of(c, seen), 10);
    ferry_engine_close(c, 100);
    ferry_engine_close(a, 100);
    ferry_engine_close(b, 100);
}

static void own_memory_is_found_while_it_is_away(void **state)
{
    struct ferry_engine *a = node("127.0.0.1:0", url, NULL);
    char *ours = memory(a), *theirs = memory(a), *more;
    ferry_segment own;

    assert_ok(ferry_segment_open(a, ferry_engine_name(a), 2000, &own));
    assert_ok(write_to(a, own, ours, theirs));
    server_stop();
    more = memory(a);
    memset(ours, 7, LEN);
    assert_ok(write_to(a, own, ours, more));
    assert_memory_equal(ours, more, LEN);
    server_start(1 << 20);
    ferry_engine_close(a, 100);
}

static void words_reach_known_peers_while_it_is_away(void **state)
{
    struct ferry_engine *a = node("127.0.0.1:0", url, NULL),
                        *b = node("127.0.0.1:0", url, NULL);
    struct ferry_notification *got;
    ferry_segment peer;

    assert_ok(ferry_segment_open(a, ferry_engine_name(b), 2000, &peer));
    server_stop();
    assert_ok(ferry_notify(a, peer, "word", "x", 1, 1000));
    assert_ok(ferry_notification_next(b, 1000, &got));
    assert_string_equal(got->name, "word");
    ferry_notification_free(got);
    assert_ok(ferry_segment_probe(a, peer, 1000));
    assert_ok(ferry_segment_refresh(a, peer, 1000));
    server_start(1 << 20);
    ferry_engine_close(a, 100);
    ferry_engine_close(b, 100);
}

/* What was known of a peer that says nothing for a moment stays known. */
static void who_stood_still_is_reached_while_it_is_away(void **state)
{
    struct ferry_engine *a = node("127.0.0.1:0", url, NULL),
                        *b = node("127.0.0.1:0", url, NULL);
    ferry_segment peer;

    assert_ok(ferry_segment_open(a, ferry_engine_name(b), 2000, &peer));
    server_stop();
    pthread_mutex_lock(&b->doc_lock); /* accepts questions, answers none */
    assert_int_not_equal(ferry_segment_refresh(a, peer, 400), FERRY_OK);
    pthread_mutex_unlock(&b->doc_lock);
    assert_ok(ferry_notify(a, peer, "word", "x", 1, 2000));
    assert_ok(ferry_segment_probe(a, peer, 2000));
    assert_ok(ferry_segment_refresh(a, peer, 4000));
    server_start(1 << 20);
    ferry_engine_close(a, 100);
    ferry_engine_close(b, 100);
}

/* A node that moved while its peer remembered where it was. */
static void a_peer_that_moved_is_found(void **state)
{
    struct ferry_engine *a = node("127.0.0.1:0", url, NULL), *b = node("peer-b", url, LOCAL);
    char *ours = memory(a), *theirs = memory(b);
    ferry_segment peer;
    ferry_status status;

    assert_ok(ferry_segment_open(a, "peer-b", 2000, &peer));
    assert_ok(write_to(a, peer, ours, theirs));
    assert_ok(ferry_segment_probe(a, peer, 1000));
    ferry_engine_close(b, 100);
    b = node("peer-b", url, LOCAL); /* at another port */
    theirs = memory(b);
    assert_ok(ferry_segment_probe(a, peer, 1000));
    /* The end of the old connection may be noticed with bytes on the way, which are not sent to
     * another process. */
    status = write_to(a, peer, ours, theirs);
    if (status != FERRY_ESTALE)
        assert_ok(status);
    assert_ok(write_to(a, peer, ours, theirs));
    assert_ok(ferry_notify(a, peer, "word", "x", 1, 1000));
    ferry_engine_close(a, 100);
    ferry_engine_close(b, 100);
}

static void what_the_server_refuses_is_not_registered(void **state)
{
    struct ferry_engine *a, *b;
    char *ours;
    ferry_segment peer;
    char *room;

    server_stop();
    server_start(1500);
    a = node("127.0.0.1:0", url, NULL);
    b = node("127.0.0.1:0", url, NULL);
    ours = memory(a);
    room = calloc(64, 4096);
    for (size_t i = 0;; i++) {
        const struct ferry_buffer buffer = {
            .addr = room + 4096 * i, .len = 4096, .access = FERRY_REMOTE_WRITE};
        ferry_status status = ferry_memory_register(b, &buffer, 1);

        assert_true(i < 63);
        if (status) {
            assert_int_equal(status, FERRY_ERANGE);
            assert_non_null(strstr(ferry_error(), "413"));
            assert_ok(ferry_segment_open(a, ferry_engine_name(b), 2000, &peer));
            assert_int_equal(buffers_of(a, peer), i);
            assert_int_equal(write_to(a, peer, ours, buffer.addr), FERRY_ERANGE);
            break;
        }
    }
    ferry_engine_close(a, 100);
    ferry_engine_close(b, 100);
    free(room);
}

static char *epoch_seen(struct ferry_engine *engine)
{
    char *text, *epoch;
    cJSON *json;

    assert_ok(ferry_engine_describe(engine, "links", &text));
    json = cJSON_Parse(text);
    ferry_string_free(text);
    epoch = strdup(cJSON_GetStringValue(
        cJSON_GetObjectItemCaseSensitive(cJSON_GetArrayItem(json, 0), "epoch")));
    cJSON_Delete(json);
    return epoch;
}

/* Milliseconds until a hears, without a transfer, that b is another process; 0 = not in time.
 */
static uint64_t hears_of_a_restart(const char *store, const char *config, uint64_t limit_ms)
{
    struct ferry_engine *a = node("a", store, config), *b = node("b", store, config);
    ferry_segment peer;
    uint64_t start, took = 0;
    char *before;

    assert_ok(ferry_segment_open(a, "b", 2000, &peer));
    before = epoch_seen(a);
    ferry_engine_close(b, 100);
    b = node("b", store, config);
    start = fy_now_ns();
    while (!took && ms_since(start) < limit_ms) {
        char *now = epoch_seen(a);

        if (strcmp(now, before) != 0)
            took = ms_since(start) + 1;
        free(now);
        usleep(20000);
    }
    free(before);
    ferry_engine_close(a, 100);
    ferry_engine_close(b, 100);
    return took;
}

/* The names of this process's threads of ours that would take the application's SIGTERM. */
static unsigned takers_of_sigterm(char *names, size_t room)
{
    DIR *dir = opendir("/proc/self/task");
    unsigned n_ours = 0;

    names[0] = '\0';
    assert_non_null(dir);
    for (struct dirent *entry = readdir(dir); entry; entry = readdir(dir)) {
        char path[300], line[256], name[32] = "";
        FILE *file;

        snprintf(path, sizeof(path), "/proc/self/task/%s/status", entry->d_name);
        file = fopen(path, "r");
        while (file && fgets(line, sizeof(line), file)) {
            unsigned long long blocked;

            sscanf(line, "Name: %31s", name);
            if (sscanf(line, "SigBlk: %llx", &blocked) == 1 && !strncmp(name, "ferry-", 6)) {
                n_ours++;
                if (!(blocked >> (SIGTERM - 1) & 1))
                    snprintf(strchr(names, '\0'), room - strlen(names), "%s ", name);
            }
        }
        if (file)
            fclose(file);
    }
    closedir(dir);
    return n_ours;
}

/* A server with one document, which accepts every other question and answers none. */
struct slow {
    int fd, held[64];
    size_t n_held;
    struct fy_buf doc;
    pthread_t thread;
};

static void *answers_slowly(void *arg)
{
    struct slow *slow = arg;
    struct timeval limit = {.tv_sec = 1};
    char ask[4096], head[100];

    for (int fd; (fd = accept(slow->fd, NULL, NULL)) >= 0;) {
        size_t len = 0;
        ssize_t n = 1;

        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
        ask[0] = '\0';
        while (n > 0 && !strstr(ask, "\r\n\r\n") && len < sizeof(ask) - 1) {
            n = recv(fd, ask + len, sizeof(ask) - 1 - len, 0);
            len += n > 0 ? (size_t)n : 0;
            ask[len] = '\0';
        }
        if (strncmp(ask, "GET", 3) != 0 || strstr(ask, "rpc_meta") || strstr(ask, "nobody")) {
            slow->held[slow->n_held++ % 64] = fd;
            continue;
        }
        snprintf(head, sizeof(head),
                 "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n",
                 slow->doc.len);
        send(fd, head, strlen(head), MSG_NOSIGNAL);
        send(fd, slow->doc.data, slow->doc.len, MSG_NOSIGNAL);
        close(fd);
    }
    return NULL;
}

/* At the place of the one that was stopped, with the document of `node`. */
static void slow_start(struct slow *slow, struct ferry_engine *node)
{
    struct sockaddr_in at = {.sin_family = AF_INET,
                             .sin_port = htons(port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int on = 1;

    slow->n_held = 0;
    fy_buf_init(&slow->doc, 1 << 20);
    assert_ok(fy_control_request("127.0.0.1", node->control_port, FY_CONTROL_METADATA, "{}", 2,
                                 fy_now_ns() + 5 * FY_NS_PER_S, &slow->doc));
    slow->fd = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(slow->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    assert_int_equal(bind(slow->fd, (struct sockaddr *)&at, sizeof(at)), 0);
    assert_int_equal(listen(slow->fd, 64), 0);
    assert_int_equal(pthread_create(&slow->thread, NULL, answers_slowly, slow), 0);
}

static void slow_stop(struct slow *slow)
{
    shutdown(slow->fd, SHUT_RDWR);
    pthread_join(slow->thread, NULL);
    close(slow->fd);
    for (size_t i = 0; i < slow->n_held && i < 64; i++)
        close(slow->held[i]);
    fy_buf_fini(&slow->doc);
}

static void opening_ends_in_time_while_it_is_slow(void **state)
{
    struct ferry_engine *a = node("127.0.0.1:0", url, NULL),
                        *b = node("127.0.0.1:0", url, NULL);
    ferry_segment peer;
    struct slow slow;
    uint64_t start;

    server_stop();
    slow_start(&slow, b);
    start = fy_now_ns();
    assert_int_not_equal(ferry_segment_open(a, "nobody", 0, &peer), FERRY_OK);
    assert_in_range(ms_since(start), 0, 1500);
    start = fy_now_ns();
    assert_ok(ferry_segment_open(a, ferry_engine_name(b), 500, &peer));
    assert_in_range(ms_since(start), 0, 1800); /* though nobody says where it listens */
    slow_stop(&slow);
    server_start(1 << 20);
    ferry_engine_close(a, 100);
    ferry_engine_close(b, 100);
}

/* Its keys are gone as well: nobody can say where it is, and nothing was moved. */
static void who_has_left_is_not_written_to(void **state)
{
    struct ferry_engine *a = node("127.0.0.1:0", url, NULL),
                        *b = node("127.0.0.1:0", url, NULL);
    char *ours = memory(a), *theirs = memory(b);
    const struct ferry_request request = {
        .local = ours, .remote = (uint64_t)(uintptr_t)theirs, .len = LEN, .op = FERRY_WRITE};
    struct ferry_request requests[2] = {request, request};
    struct ferry_batch_status status;
    ferry_segment peer;
    ferry_batch batch;

    assert_ok(ferry_segment_open(a, ferry_engine_name(b), 2000, &peer));
    assert_ok(write_to(a, peer, ours, theirs));
    ferry_engine_close(b, 100);
    requests[0].segment = requests[1].segment = peer;
    assert_ok(ferry_submit(a, requests, 2, NULL, &batch));
    assert_int_equal(ferry_batch_wait(a, batch, 20000, &status), FERRY_OK);
    assert_int_equal(status.failed, 2);
    assert_int_equal(status.done, 0);
    ferry_batch_free(a, batch);
    assert_int_not_equal(write_to(a, peer, ours, theirs), FERRY_OK);
    assert_non_null(strstr(ferry_error(), "metadata"));
    ferry_engine_close(a, 100);
}

/* The name is a key: vLLM calls its ranks after ports in a row, the second of which is the
 * first one's for data. And where no two ports in a row are free, one will do. */
static void a_port_that_is_taken_is_not_insisted_on(void **state)
{
    struct ferry_engine *a = node("127.0.0.1:0", url, NULL), *b, *c;
    char *ours = memory(a), *theirs, name[64];
    unsigned taken = (unsigned)atoi(strrchr(ferry_engine_name(a), ':') + 1) + 1;
    ferry_segment peer;
    uint16_t got;
    int fd;

    snprintf(name, sizeof(name), "127.0.0.1:%u", taken);
    b = node(name, url, NULL);
    assert_string_equal(ferry_engine_name(b), name);
    theirs = memory(b);
    memset(ours, 0x3c, LEN);
    assert_ok(ferry_segment_open(a, name, 2000, &peer));
    assert_ok(write_to(a, peer, ours, theirs));
    assert_memory_equal(ours, theirs, LEN);
    ferry_engine_close(a, 100);
    ferry_engine_close(b, 100);

    assert_int_equal(fy_net_listen(NULL, 21402, 0, 0, 0, &fd, &got), FERRY_OK);
    c = node("127.0.0.1", "P2PHANDSHAKE", "{\"min_port\":21401,\"max_port\":21401}");
    ferry_engine_close(c, 100);
    close(fd);
}

static void signals_are_left_to_the_application(void **state)
{
    struct ferry_engine *a = node("a", "memory://signals", LOCAL);
    struct ferry_engine *b = node("b", "memory://signals", LOCAL);
    char names[512];
    ferry_segment peer;

    assert_ok(ferry_segment_open(a, "b", 2000, &peer));
    assert_ok(ferry_notify(a, peer, "n", "", 0, 2000)); /* starts a handler */
    assert_true(takers_of_sigterm(names, sizeof(names)) > 4);
    assert_string_equal(names, "");
    ferry_engine_close(a, 100);
    ferry_engine_close(b, 100);
}

static void restarts_are_heard_of(void **state)
{
    assert_true(hears_of_a_restart("memory://watched", LOCAL, 3000));
    assert_false(hears_of_a_restart(
        "memory://not", "{\"advertise\":\"127.0.0.1\",\"metadata\":{\"watch\":false}}", 1200));
    assert_true(hears_of_a_restart(
        "memory://polled",
        "{\"advertise\":\"127.0.0.1\",\"metadata\":{\"watch\":false,\"refresh_ms\":1000}}",
        5000));
    assert_true(hears_of_a_restart(
        url, "{\"advertise\":\"127.0.0.1\",\"metadata\":{\"refresh_ms\":1000}}", 5000));
}

/* The address is of those for documentation: nobody's, and so another machine's. */
static void what_nobody_could_reach_is_not_published(void **state)
{
    struct ferry_options options = {.size = sizeof(options),
                                    .name = "127.0.0.1:0",
                                    .metadata_server =
                                        "http://u:secret@192.0.2.177:9/metadata"};
    struct ferry_engine *engine;

    assert_int_equal(ferry_engine_open(&options, &engine), FERRY_EINVAL);
    assert_non_null(strstr(ferry_error(), "127.0.0.1, a loopback address"));
    assert_non_null(strstr(ferry_error(), "ferry.advertise"));
    assert_null(strstr(ferry_error(), "secret"));
    options.name = "localhost:0";
    assert_int_equal(ferry_engine_open(&options, &engine), FERRY_EINVAL);
    options.config_json = "{\"advertise\":\"127.0.0.1\",\"http\":{\"connect_timeout_ms\":100}}";
    assert_int_equal(ferry_engine_open(&options, &engine), FERRY_EUNREACH);
}

/* As `ferry metadata watch` does it: a node that comes between its look and its first wait. */
static void nobody_is_missed_between_look_and_wait(void **state)
{
    struct ferry_options options = {
        .size = sizeof(options), .metadata_server = "memory://seen", .config_json = LOCAL};
    struct ferry_admin *admin;
    struct ferry_engine *a;
    char *names;

    assert_ok(ferry_admin_open(NULL, NULL, &options, &admin));
    assert_ok(ferry_admin_names(admin, 1000, &names));
    assert_string_equal(names, "[]");
    ferry_string_free(names);
    a = node("a", "memory://seen", LOCAL);
    assert_ok(ferry_admin_wait(admin, 1000));
    assert_ok(ferry_admin_names(admin, 1000, &names));
    assert_string_equal(names, "[\"a\"]");
    ferry_string_free(names);
    while (!ferry_admin_wait(admin, 50)) /* what it told while it was published */
        ;
    ferry_engine_close(a, 1000);
    assert_int_equal(ferry_admin_wait(admin, 50), FERRY_EAGAIN);
    a = node("a", "memory://seen", LOCAL);
    assert_ok(ferry_admin_wait(admin, 1000));
    ferry_engine_close(a, 1000);
    ferry_admin_close(admin);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(memory_is_registered_and_found_while_it_is_away, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(own_memory_is_found_while_it_is_away, setup, teardown),
        cmocka_unit_test_setup_teardown(words_reach_known_peers_while_it_is_away, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(who_stood_still_is_reached_while_it_is_away, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_peer_that_moved_is_found, setup, teardown),
        cmocka_unit_test_setup_teardown(what_the_server_refuses_is_not_registered, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(restarts_are_heard_of, setup, teardown),
        cmocka_unit_test_setup_teardown(a_port_that_is_taken_is_not_insisted_on, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(opening_ends_in_time_while_it_is_slow, setup, teardown),
        cmocka_unit_test_setup_teardown(who_has_left_is_not_written_to, setup, teardown),
        cmocka_unit_test(what_nobody_could_reach_is_not_published),
        cmocka_unit_test(signals_are_left_to_the_application),
        cmocka_unit_test(nobody_is_missed_between_look_and_wait),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
