/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which transport carries what: the order of the configuration, refusals, fail-over and return
 * under load with every byte looked at, and the choice that measuring makes.
 */
#include "engine_pair.h"

#include <cjson/cJSON.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "engine.h"
#include "path_measure.h"
#include "util/clock.h"

#define QUIET "{\"fault\": {\"inner\": \"tcp\"}}"

static const uint32_t all = FERRY_REMOTE_READ | FERRY_REMOTE_WRITE;

/* Two engines whose order and configuration may differ. */
static void open_two(struct pair *pair, const char *ours, const char *config,
                     const char *theirs, const char *their_config)
{
    pair->a = pair_engine("a", ours, config);
    pair->b = pair_engine("b", theirs, their_config);
    assert_ok(ferry_memory_alloc(pair->a, PAIR_LEN, all, (void **)&pair->ours));
    assert_ok(ferry_memory_alloc(pair->b, PAIR_LEN, all, (void **)&pair->theirs));
    pair->peer = 0;
}

static void open_peer(struct pair *pair)
{
    assert_ok(ferry_segment_open(pair->a, ferry_engine_name(pair->b), 5000, &pair->peer));
}

static struct ferry_request request_of(const struct pair *pair, uint64_t off, uint64_t len)
{
    return (struct ferry_request){.local = pair->ours + off,
                                  .remote = (uint64_t)(uintptr_t)pair->theirs + off,
                                  .len = len,
                                  .segment = pair->peer,
                                  .op = FERRY_WRITE};
}

/* Moves some bytes and returns what carried them. */
static const char *carrier(struct pair *pair, const char *protocol)
{
    static char name[20];
    struct ferry_submit attr = {.size = sizeof(attr), .protocol = protocol};
    struct ferry_request request = request_of(pair, 0, 16384);
    struct ferry_request_status status;
    ferry_batch batch;

    assert_ok(ferry_submit(pair->a, &request, 1, &attr, &batch));
    assert_ok(ferry_batch_wait(pair->a, batch, 20000, NULL));
    assert_ok(ferry_batch_request(pair->a, batch, 0, &status));
    if (status.status)
        fail_msg("%s", ferry_strstatus(status.status));
    assert_true(status.rail[0] != '\0');
    snprintf(name, sizeof(name), "%s", status.transport);
    ferry_batch_free(pair->a, batch);
    return name;
}

static cJSON *links_of(struct ferry_engine *engine)
{
    char *text;
    cJSON *json;

    assert_ok(ferry_engine_describe(engine, "links", &text));
    json = cJSON_Parse(text);
    ferry_string_free(text);
    assert_non_null(json);
    return json;
}

/* The path over one transport, in the description of the first link. */
static const cJSON *path_in(const cJSON *links, const char *transport)
{
    const cJSON *path, *link = cJSON_GetArrayItem(links, 0);

    cJSON_ArrayForEach(path, cJSON_GetObjectItem(link, "paths"))
    {
        if (!strcmp(cJSON_GetObjectItem(path, "transport")->valuestring, transport))
            return path;
    }
    fail_msg("no path over %s", transport);
    return NULL;
}

static double number_in(const cJSON *object, const char *member)
{
    return cJSON_GetNumberValue(cJSON_GetObjectItem(object, member));
}

static void a_nodes_own_name_is_no_device(void **state)
{
    static const char *const host[] = {
        "*",    "cpu:0",        "127.0.0.1:15211",   "[fd00::1]:15211", "node:15211",
        "node", "node-a:15211", "segments:4096:0,1", "cuda:",           "cuda"};
    static const char *const device[] = {"cuda:0", "npu:12"};

    for (size_t i = 0; i < sizeof(host) / sizeof(host[0]); i++)
        assert_int_equal(fy_location_kind(host[i], "node:15211"), FERRY_MEM_HOST);
    for (size_t i = 0; i < sizeof(device) / sizeof(device[0]); i++)
        assert_int_equal(fy_location_kind(device[i], "node:15211"), FERRY_MEM_DEVICE);
}

static void the_first_of_the_list_carries(void **state)
{
    struct pair pair;
    cJSON *links;

    open_two(&pair, "fault,tcp", QUIET, "tcp,fault", QUIET);
    open_peer(&pair);
    assert_string_equal(carrier(&pair, NULL), "fault");
    assert_string_equal(carrier(&pair, "tcp"), "tcp");
    links = links_of(pair.a);
    assert_string_equal(
        cJSON_GetObjectItem(cJSON_GetArrayItem(links, 0), "carries")->valuestring, "fault");
    assert_true(number_in(path_in(links, "fault"), "bytes") == 16384);
    assert_true(number_in(path_in(links, "tcp"), "requests") == 1);
    assert_true(number_in(path_in(links, "tcp"), "since_s") >= 0);
    cJSON_Delete(links);
    pair_close(&pair);
    open_two(&pair, "tcp,fault", QUIET, "fault,tcp", QUIET);
    open_peer(&pair);
    assert_string_equal(carrier(&pair, NULL), "tcp");
    pair_close(&pair);
}

static void a_named_one_never_becomes_another(void **state)
{
    struct ferry_submit attr = {.size = sizeof(attr), .protocol = "fault"};
    struct ferry_request request;
    struct pair pair;

    open_two(&pair, "tcp", NULL, "fault", QUIET);
    assert_int_equal(ferry_segment_open(pair.a, ferry_engine_name(pair.b), 5000, &pair.peer),
                     FERRY_ENOTSUP);
    assert_non_null(strstr(ferry_error(), "it offers fault, ours are tcp"));
    assert_int_equal(ferry_segment_open(pair.b, ferry_engine_name(pair.a), 5000, &pair.peer),
                     FERRY_ENOTSUP);
    assert_non_null(strstr(ferry_error(), "it offers tcp, ours are fault"));
    pair.peer = 0;
    pair_close(&pair);
    open_two(&pair, "fault,tcp", QUIET, "tcp", NULL);
    open_peer(&pair);
    assert_string_equal(carrier(&pair, NULL), "tcp");
    request = request_of(&pair, 0, 8);
    assert_int_equal(ferry_transfer(pair.a, &request, 1, &attr, NULL), FERRY_ENOTSUP);
    assert_non_null(strstr(ferry_error(), "it offers tcp, asked for is fault"));
    pair_close(&pair);
}

static void a_pair_that_does_not_connect_is_passed_over(void **state)
{
    struct ferry_submit attr = {.size = sizeof(attr), .protocol = "fault", .timeout_ms = 2000};
    struct ferry_request request;
    const cJSON *path;
    struct pair pair;
    cJSON *links;

    open_two(&pair, "fault,tcp", "{\"fault\": {\"inner\": \"tcp\", \"attach_fail\": 1000}}",
             "fault,tcp", QUIET);
    open_peer(&pair);
    assert_string_equal(carrier(&pair, NULL), "tcp");
    links = links_of(pair.a);
    path = path_in(links, "fault");
    assert_non_null(
        strstr(cJSON_GetObjectItem(path, "passed_over")->valuestring, "cannot connect"));
    assert_non_null(cJSON_GetObjectItem(path, "last_error"));
    assert_string_equal(
        cJSON_GetObjectItem(cJSON_GetArrayItem(links, 0), "carries")->valuestring, "tcp");
    cJSON_Delete(links);
    request = request_of(&pair, 0, 8);
    assert_int_not_equal(ferry_transfer(pair.a, &request, 1, &attr, NULL), FERRY_OK);
    assert_string_equal(carrier(&pair, NULL), "tcp");
    pair_close(&pair);
}

/* What failed is the cause, although the time for another attempt went by with cleaning up. */
static void a_cause_outlives_the_deadline(void **state)
{
    struct ferry_submit attr = {.size = sizeof(attr), .timeout_ms = 300};
    struct ferry_request request;
    struct pair pair;

    open_two(&pair, "fault",
             "{\"fault\": {\"inner\": \"tcp\", \"attach_fail\": 1000, \"close_us\": 500000}}",
             "fault", QUIET);
    open_peer(&pair);
    request = request_of(&pair, 0, 8);
    assert_int_not_equal(ferry_transfer(pair.a, &request, 1, &attr, NULL), FERRY_OK);
    assert_non_null(strstr(ferry_error(), "cannot connect"));
    pair_close(&pair);
}

static void a_pair_that_the_transport_refuses_is_passed_over(void **state)
{
    const cJSON *path;
    struct pair pair;
    cJSON *links;

    /* Not one of its like is behind what the peer publishes under this name. */
    open_two(&pair, "fault,tcp", QUIET, "fault,tcp", "{\"fault\": {\"inner\": \"loop\"}}");
    open_peer(&pair);
    assert_string_equal(carrier(&pair, NULL), "tcp");
    links = links_of(pair.a);
    path = path_in(links, "fault");
    assert_true(cJSON_IsString(cJSON_GetObjectItem(path, "refused")));
    assert_string_equal(cJSON_GetObjectItem(path, "state")->valuestring, "refused");
    assert_true(number_in(path, "retry_in_s") > 1);
    cJSON_Delete(links);
    pair_close(&pair);
}

static void one_that_connects_slowly_is_not_waited_for(void **state)
{
    struct ferry_request request;
    struct pair pair;
    ferry_batch first;
    bool back = false;

    open_two(&pair, "fault,tcp", "{\"fault\": {\"inner\": \"tcp\", \"attach_us\": 1200000}}",
             "fault,tcp", QUIET);
    open_peer(&pair);
    usleep(300000);
    /* The first one after that has the other path connected, and waits itself. */
    request = request_of(&pair, 4 << 20, 8);
    assert_ok(ferry_submit(pair.a, &request, 1, NULL, &first));
    usleep(100000);
    assert_string_equal(carrier(&pair, NULL), "tcp");
    assert_int_equal(ferry_batch_poll(pair.a, first, NULL), FERRY_EAGAIN);
    assert_ok(ferry_batch_wait(pair.a, first, 20000, NULL));
    ferry_batch_free(pair.a, first);
    for (int tries = 0; tries < 500 && !back; tries++) {
        back = !strcmp(carrier(&pair, NULL), "fault");
        usleep(10000);
    }
    assert_true(back);
    pair_close(&pair);
}

/* ---- fail-over and return ---- */

enum { THREADS = 3, SLOT = 96 << 10, PIECES = 12 };

struct load {
    struct pair *pair;
    int id;
    atomic_bool *stop;
    unsigned done;
};

static uint64_t hash(const char *at, size_t len)
{
    uint64_t h = 1469598103934665603u;

    for (size_t i = 0; i < len; i++)
        h = (h ^ (uint8_t)at[i]) * 1099511628211u;
    return h;
}

static void *keep_writing(void *arg)
{
    struct load *load = arg;
    struct pair *pair = load->pair;
    char *mine = pair->ours + load->id * SLOT, *there = pair->theirs + load->id * SLOT;

    for (unsigned round = 1; round == 1 || !atomic_load(load->stop); round++) {
        struct ferry_request requests[PIECES];
        uint64_t sent;

        for (size_t i = 0; i < SLOT; i++)
            mine[i] = (char)(i * round * 31 + (i >> 9) + round);
        sent = hash(mine, SLOT);
        for (int i = 0; i < PIECES; i++) {
            requests[i] = request_of(pair, (uint64_t)load->id * SLOT + i * (SLOT / PIECES),
                                     SLOT / PIECES);
        }
        assert_ok(ferry_transfer(pair->a, requests, PIECES, NULL, NULL));
        assert_true(hash(there, SLOT) == sent);
        /* Its end was its end: a second copy that comes late is seen. */
        memset(there, 0x5a, SLOT);
        memset(mine, 0x11, SLOT);
        if (round % 4 == 0)
            usleep(2000);
        for (size_t i = 0; i < SLOT; i++)
            assert_int_equal(there[i], 0x5a);
        load->done++;
    }
    return NULL;
}

static void run_load(struct pair *pair, unsigned ms)
{
    struct load loads[THREADS];
    pthread_t threads[THREADS];
    atomic_bool stop = false;

    for (int i = 0; i < THREADS; i++) {
        loads[i] = (struct load){.pair = pair, .id = i, .stop = &stop};
        pthread_create(&threads[i], NULL, keep_writing, &loads[i]);
    }
    usleep(ms * 1000);
    atomic_store(&stop, true);
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        assert_true(loads[i].done > 0);
    }
}

static void fails_over_under_load(void **state)
{
    struct pair pair;
    cJSON *links;

    open_two(&pair, "fault,tcp", "{\"fault\": {\"inner\": \"tcp\", \"kill\": 4, \"seed\": 11}}",
             "fault,tcp", QUIET);
    open_peer(&pair);
    run_load(&pair, 1500);
    links = links_of(pair.a);
    assert_true(number_in(path_in(links, "fault"), "bytes") > 0);
    assert_true(number_in(path_in(links, "tcp"), "bytes") > 0);
    assert_true(number_in(path_in(links, "tcp"), "retried") > 0);
    assert_true(number_in(cJSON_GetArrayItem(links, 0), "failed") == 0);
    cJSON_Delete(links);
    pair_close(&pair);
}

/* The first attempt to connect fails, as this seed has it, and a later one does not. */
static void returns_to_the_preferred_one(void **state)
{
    struct pair pair;
    bool back = false;

    open_two(&pair, "fault,tcp",
             "{\"fault\": {\"inner\": \"tcp\", \"attach_fail\": 500, \"seed\": 5}}",
             "fault,tcp", QUIET);
    open_peer(&pair);
    assert_string_equal(carrier(&pair, NULL), "tcp");
    for (int tries = 0; tries < 40 && !back; tries++) {
        run_load(&pair, 100);
        back = !strcmp(carrier(&pair, NULL), "fault");
    }
    assert_true(back);
    run_load(&pair, 200);
    assert_string_equal(carrier(&pair, NULL), "fault");
    pair_close(&pair);
}

/* Whoever breaks a connection may be interrupted before it is told. */
static void one_that_breaks_late_does_not_take_its_successor_along(void **state)
{
    struct pair pair;
    struct fy_segment *segment;
    struct fy_view *late;

    open_two(&pair, "fault,tcp", QUIET, "fault,tcp", QUIET);
    open_peer(&pair);
    assert_string_equal(carrier(&pair, NULL), "fault");
    segment = fy_segment_get(pair.a, pair.peer);
    assert_non_null(segment);
    late = fy_view_ref(segment->views[0]);
    atomic_store(&late->state, FY_VIEW_BREAKING);
    assert_string_equal(carrier(&pair, NULL), "fault"); /* opened anew */
    assert_ptr_not_equal(segment->views[0], late);
    late->cause = FERRY_ECONNRESET;
    atomic_store(&late->state, FY_VIEW_BROKEN);
    fy_path_lost(late);
    fy_view_quiesce(late);
    fy_view_put(late);
    fy_segment_put(segment);
    assert_string_equal(carrier(&pair, NULL), "fault");
    pair_close(&pair);
}

/* ---- several transports on one host ---- */

/* false: this build or this machine does not have it. */
static bool have(const char *protocol)
{
    struct ferry_options options = {
        .size = sizeof(options), .name = "127.0.0.1", .protocol = protocol};
    struct ferry_engine *engine;

    if (ferry_engine_open(&options, &engine)) {
        print_message("not run: %s: %s\n", protocol, ferry_error());
        return false;
    }
    ferry_engine_close(engine, 0);
    return true;
}

/* Cuts every connection that this process has to an abstract name: those over shared memory. */
static unsigned cut_abstract_sockets(void)
{
    unsigned n = 0;

    for (int fd = 3; fd < 1024; fd++) {
        struct sockaddr_un ours = {0}, theirs = {0};
        socklen_t len = sizeof(ours), their_len = sizeof(theirs);

        if (getsockname(fd, (struct sockaddr *)&ours, &len) || ours.sun_family != AF_UNIX ||
            getpeername(fd, (struct sockaddr *)&theirs, &their_len))
            continue;
        if ((len > sizeof(sa_family_t) && !ours.sun_path[0]) ||
            (their_len > sizeof(sa_family_t) && !theirs.sun_path[0]))
            n += !shutdown(fd, SHUT_RDWR);
    }
    return n;
}

/* All wait for a connection and lose it; while they look for the next one, the first, which
 * reads the document for all, is cancelled. */
static void a_cancelled_second_attempt_spares_the_others(void **state)
{
    const struct timespec pause = {.tv_nsec = 500000000}; /* all are that far by then */
    struct ferry_request request;
    struct fy_segment *segment;
    struct ferry_batch_status ended;
    struct pair pair;
    ferry_batch kept[8], cancelled;

    open_two(&pair, "fault", "{\"fault\": {\"inner\": \"tcp\", \"attach_us\": 300000}}",
             "fault", QUIET);
    open_peer(&pair);
    segment = fy_segment_get(pair.a, pair.peer);
    request = request_of(&pair, 8 * 4096, 4096);
    assert_ok(ferry_submit(pair.a, &request, 1, NULL, &cancelled));
    for (int i = 0; i < 8; i++) {
        request = request_of(&pair, (uint64_t)i * 4096, 4096);
        assert_ok(ferry_submit(pair.a, &request, 1, NULL, &kept[i]));
    }
    pthread_mutex_lock(&pair.b->doc_lock);
    fy_view_break(segment->views[0], FERRY_ECONNRESET, "lost on purpose");
    nanosleep(&pause, NULL);
    ferry_batch_cancel(pair.a, cancelled, 0);
    pthread_mutex_unlock(&pair.b->doc_lock);
    for (int i = 0; i < 8; i++) {
        assert_ok(ferry_batch_wait(pair.a, kept[i], 20000, &ended));
        assert_int_equal(ended.first_error, FERRY_OK);
        ferry_batch_free(pair.a, kept[i]);
    }
    assert_ok(ferry_batch_wait(pair.a, cancelled, 20000, &ended));
    assert_int_equal(ended.first_error, FERRY_ECANCELED);
    ferry_batch_free(pair.a, cancelled);
    fy_segment_put(segment);
    pair_close(&pair);
}

static uint64_t ms_since(uint64_t start)
{
    return (fy_now_ns() - start) / FY_NS_PER_MS;
}

/* More of them than there are threads, to a peer that says nothing. */
static void attempts_that_hang_hold_up_no_other_peer(void **state)
{
    enum { N = 100, SIZE = 4096 };
    struct ferry_submit attr = {.size = sizeof(attr), .timeout_ms = 30000};
    struct ferry_batch_status ended;
    struct ferry_request request;
    ferry_batch batches[N], shorter;
    struct pair pair, other;
    uint64_t start;

    open_two(&pair, "fault", "{\"fault\": {\"inner\": \"tcp\", \"kill\": 1000}}", "fault",
             QUIET);
    open_peer(&pair);
    other = (struct pair){.a = pair.a, .ours = pair.ours};
    other.b = pair_engine("c", "fault", QUIET);
    assert_ok(ferry_memory_alloc(other.b, PAIR_LEN, all, (void **)&other.theirs));
    open_peer(&other);
    pthread_mutex_lock(&pair.b->doc_lock); /* accepts questions, answers none */
    start = fy_now_ns();
    for (int i = 0; i < N; i++) {
        request = request_of(&pair, (uint64_t)i * SIZE, SIZE);
        assert_ok(ferry_submit(pair.a, &request, 1, &attr, &batches[i]));
    }
    attr.timeout_ms = 500;
    request = request_of(&pair, N * SIZE, SIZE);
    assert_ok(ferry_submit(pair.a, &request, 1, &attr, &shorter));

    request = request_of(&other, 0, SIZE);
    attr.timeout_ms = 10000;
    assert_int_not_equal(ferry_transfer(pair.a, &request, 1, &attr, NULL), FERRY_OK);
    assert_in_range(ms_since(start), 0, 2500);
    assert_ok(ferry_batch_wait(pair.a, shorter, 10000, &ended));
    assert_in_range(ms_since(start), 450, 2500);
    assert_int_equal(ended.failed, 1);
    ferry_batch_free(pair.a, shorter);
    for (int i = 0; i < N; i++) {
        assert_ok(ferry_batch_wait(pair.a, batches[i], 10000, &ended));
        assert_int_equal(ended.failed, 1);
        ferry_batch_free(pair.a, batches[i]);
    }
    assert_in_range(ms_since(start), 2500, 9000); /* one reading for all */
    pthread_mutex_unlock(&pair.b->doc_lock);
    ferry_segment_close(pair.a, other.peer);
    ferry_engine_close(other.b, 1000);
    pair_close(&pair);
}

static void shared_memory_is_preferred_killed_and_taken_again(void **state)
{
    struct load loads[THREADS];
    pthread_t threads[THREADS];
    atomic_bool stop = false;
    struct pair pair;
    unsigned cuts = 0;
    bool back = false;
    cJSON *links;

    if (!have("shm,tcp"))
        skip();
    open_two(&pair, NULL, NULL, NULL, NULL);
    open_peer(&pair);
    assert_string_equal(carrier(&pair, NULL), "shm"); /* by itself */
    pair_close(&pair);
    open_two(&pair, "shm,tcp", NULL, "shm,tcp", NULL);
    open_peer(&pair);
    for (int i = 0; i < THREADS; i++) {
        loads[i] = (struct load){.pair = &pair, .id = i, .stop = &stop};
        pthread_create(&threads[i], NULL, keep_writing, &loads[i]);
    }
    for (int i = 0; i < 3; i++) {
        usleep(100000);
        cuts += cut_abstract_sockets();
    }
    atomic_store(&stop, true);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    assert_true(cuts > 0);
    links = links_of(pair.a);
    assert_true(number_in(cJSON_GetArrayItem(links, 0), "failed") == 0);
    assert_true(number_in(path_in(links, "tcp"), "bytes") > 0);
    assert_non_null(cJSON_GetObjectItem(path_in(links, "shm"), "last_error"));
    cJSON_Delete(links);
    for (int tries = 0; tries < 100 && !back; tries++) {
        run_load(&pair, 100);
        back = !strcmp(carrier(&pair, NULL), "shm");
    }
    assert_true(back);
    pair_close(&pair);
}

/* One engine, a peer behind each transport, and one that has them all. */
static void each_peer_by_its_best_path(void **state)
{
    static const char *const each[] = {"shm", "rdma", "tcp", "libfabric"};
    struct pair pairs[4];
    struct ferry_engine *a;
    char *ours, names[64] = "";
    int n = 0;

    if (getenv("RXE_VM")) /* tests/rxe-vm: here is a device */
        assert_true(have("rdma"));
    /* By name, since libfabric over sockets is never chosen otherwise. */
    for (size_t i = 0; i < sizeof(each) / sizeof(each[0]); i++) {
        if (have(each[i]))
            snprintf(strchr(names, '\0'), 16, "%s%s", names[0] ? "," : "", each[i]);
    }
    a = pair_engine("a", names, NULL);
    assert_ok(ferry_memory_alloc(a, PAIR_LEN, all, (void **)&ours));
    for (size_t i = 0; i < sizeof(each) / sizeof(each[0]); i++) {
        struct pair *pair = &pairs[n];

        if (!strstr(names, each[i]))
            continue;
        *pair = (struct pair){.a = a, .ours = ours, .b = pair_engine(each[i], each[i], NULL)};
        assert_ok(ferry_memory_alloc(pair->b, PAIR_LEN, all, (void **)&pair->theirs));
        open_peer(pair);
        assert_string_equal(carrier(pair, NULL), each[i]);
        n++;
    }
    /* Again, all of them open, with what each moved looked at. */
    for (int i = 0; i < n; i++)
        run_load(&pairs[i], 100);
    /* A node that has a single one refuses the peers of the others, and says what they offer.
     */
    for (int i = 0; i < n; i++) {
        for (int k = 0; k < n; k++) {
            ferry_segment none;
            if (i == k)
                continue;
            assert_int_equal(
                ferry_segment_open(pairs[i].b, ferry_engine_name(pairs[k].b), 5000, &none),
                FERRY_ENOTSUP);
            assert_non_null(strstr(ferry_error(), "it offers"));
        }
    }
    for (int i = 0; i < n; i++) {
        ferry_segment_close(a, pairs[i].peer);
        ferry_engine_close(pairs[i].b, 1000);
    }
    ferry_engine_close(a, 1000);
}

/* ---- measuring ---- */

/* Two transports that say the same of themselves. */
struct fake {
    struct ferry_engine engine;
    struct fy_transport transports[2];
    struct fy_segment segment;
    struct fy_view views[2];
};

static struct fake *fake_new(void)
{
    struct fake *fake = calloc(1, sizeof(*fake));

    fake->engine.n_transports = 2;
    fake->engine.feedback = true;
    fake->segment.engine = &fake->engine;
    fake->segment.offered = 3;
    for (unsigned t = 0; t < 2; t++) {
        fake->transports[t].index = t;
        fake->transports[t].caps.latency_ns = 10000;
        fake->transports[t].caps.bandwidth_Bps = 1000000000;
        fake->engine.transports[t] = &fake->transports[t];
        fake->views[t].segment = &fake->segment;
        fake->views[t].transport = &fake->transports[t];
    }
    return fake;
}

static void sizes_are_told_apart(void **state)
{
    struct fake *fake = fake_new();

    assert_int_equal(fy_size_class(1), 0);
    assert_int_equal(fy_size_class(1024), 0);
    assert_int_equal(fy_size_class(1025), 1);
    assert_int_equal(fy_size_class(4096), 1);
    assert_int_equal(fy_size_class(64 << 20), 8);
    assert_int_equal(fy_size_class(UINT64_MAX), FY_SIZE_CLASSES - 1);
    /* 0: 5 us + 1 us a KiB; 1: 50 us + 0.1 us a KiB. They meet at 50 KiB. */
    for (int i = 0; i < 20; i++) {
        for (uint64_t len = 1024; len <= 64 << 20; len *= 4) {
            fy_path_measured(&fake->views[0], 0, len, 5000 + len / 1024 * 1000);
            fy_path_measured(&fake->views[1], 0, len, 50000 + len / 1024 * 100);
        }
    }
    for (uint64_t len = 1024; len <= 64 << 20; len *= 4) {
        assert_int_equal(fy_path_beats(&fake->segment, 0, 1, 0, len), len < 50 << 10);
        assert_int_equal(fy_path_beats(&fake->segment, 1, 0, 0, len), len > 50 << 10);
        assert_false(fy_path_beats(&fake->segment, 1, 0, 1, len)); /* writes: not measured */
    }
    free(fake);
}

static void near_ties_do_not_move_and_one_bad_time_does_not(void **state)
{
    struct fake *fake = fake_new();

    for (int i = 0; i < 50; i++) {
        fy_path_measured(&fake->views[0], 1, 4096, 20000);
        fy_path_measured(&fake->views[1], 1, 4096, 19000);
    }
    assert_false(fy_path_beats(&fake->segment, 1, 0, 1, 4096));
    fy_path_measured(&fake->views[1], 1, 4096, 900000000);
    fy_path_measured(&fake->views[0], 1, 4096, 20000);
    assert_true(fy_path_predict_us(&fake->segment, 1, 1, 4096, NULL) < 40);
    for (int i = 0; i < 50; i++)
        fy_path_measured(&fake->views[1], 1, 4096, 12000);
    assert_true(fy_path_beats(&fake->segment, 1, 0, 1, 4096));
    free(fake);
}

static void trying_out_costs_little(void **state)
{
    struct fake *fake = fake_new();
    const double used = 10000, other = 80000; /* ns */
    double spent = 0, lost = 0;

    for (int i = 0; i < 200000; i++) {
        if (fy_path_explore(&fake->segment, 1, 0, 0, 4096)) {
            fy_path_measured(&fake->views[1], 0, 4096, (uint64_t)other);
            lost += other - used;
            /* As if the pause between two tries were over. */
            fake->segment.paths[1].looked_ns[0][1] = 0;
        }
        fy_path_measured(&fake->views[0], 0, 4096, (uint64_t)used);
        spent += used;
    }
    assert_true(lost > 0); /* it is tried */
    assert_true(lost < spent * 0.1);
    free(fake);
}

static void what_is_slow_is_left(void **state)
{
    struct ferry_request request;
    struct pair pair;
    unsigned moved = 0;
    cJSON *links;

    open_two(&pair, "fault,tcp",
             "{\"fault\": {\"inner\": \"tcp\", \"delay\": 1000, \"delay_us\": 3000}}",
             "fault,tcp", QUIET);
    pair.a->feedback = true; /* as without a list; both of these are used only where named */
    open_peer(&pair);
    assert_string_equal(carrier(&pair, NULL), "fault");
    request = request_of(&pair, 0, 16384);
    for (unsigned i = 0; i < 4000 && !moved; i++) {
        assert_ok(ferry_transfer(pair.a, &request, 1, NULL, NULL));
        links = links_of(pair.a);
        moved = cJSON_GetObjectItem(
                    cJSON_GetObjectItem(
                        cJSON_GetObjectItem(cJSON_GetArrayItem(links, 0), "moved"), "write"),
                    "16k") != NULL;
        cJSON_Delete(links);
    }
    assert_true(moved);
    assert_string_equal(carrier(&pair, "fault"), "fault"); /* asked for by name: kept to */
    pair.a->feedback = false;
    assert_string_equal(carrier(&pair, NULL), "fault"); /* a list is an order */
    pair_close(&pair);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_nodes_own_name_is_no_device),
        cmocka_unit_test(the_first_of_the_list_carries),
        cmocka_unit_test(a_named_one_never_becomes_another),
        cmocka_unit_test(a_pair_that_does_not_connect_is_passed_over),
        cmocka_unit_test(a_cause_outlives_the_deadline),
        cmocka_unit_test(a_pair_that_the_transport_refuses_is_passed_over),
        cmocka_unit_test(one_that_connects_slowly_is_not_waited_for),
        cmocka_unit_test(fails_over_under_load),
        cmocka_unit_test(returns_to_the_preferred_one),
        cmocka_unit_test(one_that_breaks_late_does_not_take_its_successor_along),
        cmocka_unit_test(a_cancelled_second_attempt_spares_the_others),
        cmocka_unit_test(attempts_that_hang_hold_up_no_other_peer),
        cmocka_unit_test(shared_memory_is_preferred_killed_and_taken_again),
        cmocka_unit_test(each_peer_by_its_best_path),
        cmocka_unit_test(sizes_are_told_apart),
        cmocka_unit_test(near_ties_do_not_move_and_one_bad_time_does_not),
        cmocka_unit_test(trying_out_costs_little),
        cmocka_unit_test(what_is_slow_is_left),
    };

    if (argc > 1) /* with wildcards: one of them, where there are more devices */
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
