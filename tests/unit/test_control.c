/* SPDX-License-Identifier: Apache-2.0 */
/* The control channel: frames byte by byte, server and client against each other and against
 * peers that do not keep to the rules. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#include "control.h"
#include "control_pool.h"
#include "ferry/ferry.h"
#include "names.h"
#include "util/clock.h"

/* ---- frames ---- */

static const char probe_bytes[] = "\x04\0\0\0\0\0\0\0\x03{}\n";
static const char null_bytes[] = "\x06\0\0\0\0\0\0\0\x01null\n";
#define LEN(bytes)      (sizeof(bytes) - 1)
#define PROBE_REPLY_LEN 30 /* with handle() below */

static void frames_are_mooncakes(void **state)
{
    struct fy_buf out;

    fy_buf_init(&out, 0);
    assert_int_equal(fy_control_encode(FY_CONTROL_PROBE, "{}", 2, &out), FERRY_OK);
    assert_int_equal(out.len, LEN(probe_bytes));
    assert_memory_equal(out.data, probe_bytes, out.len);
    fy_buf_fini(&out);
    assert_int_equal(fy_control_encode(FY_CONTROL_METADATA, "null", 4, &out), FERRY_OK);
    assert_int_equal(out.len, LEN(null_bytes));
    assert_memory_equal(out.data, null_bytes, out.len);
    fy_buf_fini(&out);
    assert_int_equal(fy_control_encode(-1, "{}", 2, &out), FERRY_OK);
    assert_int_equal(out.len, 11);
    assert_memory_equal(out.data, "\x03\0\0\0\0\0\0\0{}\n", 11);
    fy_buf_fini(&out);
    fy_buf_init(&out, 6);
    assert_int_equal(fy_control_encode(FY_CONTROL_PROBE, "{}", 2, &out), FERRY_ERANGE);
    assert_int_equal(out.len, 0);
    fy_buf_fini(&out);
}

static void a_frame_is_known_by_its_last_byte(void **state)
{
    struct fy_control_frame frame = {-7, 7, 7};
    size_t need;

    for (size_t n = 0; n < LEN(probe_bytes); n++) {
        need = 0;
        assert_int_equal(fy_control_parse(probe_bytes, n, 0, &frame, &need), FERRY_EAGAIN);
        assert_int_equal(need, n < 9 ? 9 : LEN(probe_bytes));
        assert_int_equal(frame.type, -7);
    }
    assert_int_equal(fy_control_parse(probe_bytes, LEN(probe_bytes), 0, &frame, &need),
                     FERRY_OK);
    assert_int_equal(frame.type, FY_CONTROL_PROBE);
    assert_int_equal(frame.body, 9);
    assert_int_equal(frame.len, 3);
}

static void untyped_frames_begin_with_a_brace(void **state)
{
    struct fy_control_frame frame;
    size_t need;

    assert_int_equal(fy_control_parse("\x03\0\0\0\0\0\0\0{}\n", 11, 0, &frame, &need),
                     FERRY_OK);
    assert_int_equal(frame.type, -1);
    assert_int_equal(frame.body, 8);
    assert_int_equal(frame.len, 3);
}

static void malformed_frames_are_refused(void **state)
{
    struct fy_control_frame frame;
    unsigned char bytes[16] = {4, 0, 0, 0, 0, 0, 0, 0, 0, '{', '}', '\n'};
    size_t need;

    for (int type = 0; type < 256; type++) {
        bytes[8] = (unsigned char)type;
        assert_int_equal(fy_control_parse(bytes, 12, 0, &frame, &need),
                         type <= 3 || type == 0x46 || type == '{' ? FERRY_OK : FERRY_EINVAL);
        /* The type alone is enough to refuse it. */
        assert_int_equal(fy_control_parse(bytes, 9, 0, &frame, &need),
                         type <= 3 || type == 0x46 || type == '{' ? FERRY_EAGAIN
                                                                  : FERRY_EINVAL);
    }
    assert_int_equal(fy_control_parse("\0\0\0\0\0\0\0\0", 8, 0, &frame, &need), FERRY_EINVAL);
    assert_int_equal(fy_control_parse("\1\0\0\0\0\0\0\0\3", 9, 0, &frame, &need), FERRY_EINVAL);
    assert_int_equal(fy_control_parse(probe_bytes, LEN(probe_bytes), 4, &frame, &need),
                     FERRY_OK);
    assert_int_equal(fy_control_parse(probe_bytes, LEN(probe_bytes), 3, &frame, &need),
                     FERRY_ERANGE);
    assert_int_equal(fy_control_parse("\xff\xff\xff\xff\xff\xff\xff\xff", 8, 0, &frame, &need),
                     FERRY_ERANGE);
    assert_int_equal(fy_control_parse("\1\0\0\x08\0\0\0\0", 8, 0, &frame, &need), FERRY_ERANGE);
    assert_int_equal(fy_control_parse("\0\0\0\x08\0\0\0\0", 8, 0, &frame, &need), FERRY_EAGAIN);
}

/* ---- a server ---- */

struct server {
    struct fy_control *control;
    uint16_t port;
    atomic_int calls, inside, most_inside, hold;
};

/* Echoes type and body; "fail" fails, "empty" answers nothing, "hold" waits for server->hold to
 * be 0, "big" answers 8 MiB. */
static ferry_status handle(void *arg, int type, const char *body, size_t len,
                           struct fy_buf *reply)
{
    struct server *server = arg;
    int inside = atomic_fetch_add(&server->inside, 1) + 1;
    int most = atomic_load(&server->most_inside);
    ferry_status status = FERRY_OK;

    while (inside > most && !atomic_compare_exchange_weak(&server->most_inside, &most, inside))
        ;
    atomic_fetch_add(&server->calls, 1);
    if (strlen(body) != len)
        status = FERRY_EINTERNAL;
    else if (!strcmp(body, "\"fail\"")) {
        fy_buf_printf(reply, "half an ans");
        status = FERRY_EIO;
    } else if (!strcmp(body, "\"hold\"")) {
        while (atomic_load(&server->hold))
            usleep(1000);
        status = fy_buf_printf(reply, "\"held\"");
    } else if (!strcmp(body, "\"big\"")) {
        for (int i = 0; i < 8192 && !status; i++)
            status = fy_buf_printf(reply, "%1024d", i);
    } else if (strcmp(body, "\"empty\"") != 0) {
        status = fy_buf_printf(reply, "{\"type\":%d,\"body\":%s}", type, body);
    }
    atomic_fetch_sub(&server->inside, 1);
    return status;
}

static void server_open(struct server *server, size_t max_len)
{
    int fd;

    memset(server, 0, sizeof(*server));
    assert_int_equal(fy_net_listen("127.0.0.1", 0, 0, 0, 0, &fd, &server->port), FERRY_OK);
    assert_int_equal(fy_control_open(fd, max_len, handle, server, NULL, &server->control),
                     FERRY_OK);
}

static uint64_t in_ms(unsigned ms)
{
    return fy_now_ns() + ms * FY_NS_PER_MS;
}

static ferry_status ask(const struct server *server, int type, const char *body,
                        struct fy_buf *reply)
{
    fy_buf_init(reply, 0);
    return fy_control_request("127.0.0.1", server->port, type, body, strlen(body), in_ms(10000),
                              reply);
}

static void ask_expecting(const struct server *server, int type, const char *body,
                          const char *wanted)
{
    struct fy_buf reply;

    assert_int_equal(ask(server, type, body, &reply), FERRY_OK);
    assert_string_equal(reply.data, wanted);
    fy_buf_fini(&reply);
}

static int client(const struct server *server)
{
    struct timeval limit = {.tv_sec = 20};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in addr = {.sin_family = AF_INET,
                               .sin_port = htons(server->port),
                               .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};

    assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    return fd;
}

/* Everything until the other side's end; -1 after a reset. */
static ssize_t read_all(int fd, char *out, size_t room)
{
    size_t got = 0;

    for (;;) {
        ssize_t n = recv(fd, out + got, room - got, 0);

        if (n < 0)
            return -1;
        if (n == 0)
            return (ssize_t)got;
        got += (size_t)n;
    }
}

static void expect_bytes(const struct server *server, const char *request, size_t len,
                         const char *reply, size_t reply_len)
{
    char got[256];
    int fd = client(server);

    assert_int_equal(send(fd, request, len, MSG_NOSIGNAL), len);
    assert_int_equal(read_all(fd, got, sizeof(got)), reply_len);
    assert_memory_equal(got, reply, reply_len);
    close(fd);
}

static void answers_every_type(void **state)
{
    struct server server;

    server_open(&server, 0);
    ask_expecting(&server, FY_CONTROL_CONNECTION, "{}", "{\"type\":0,\"body\":{}}");
    ask_expecting(&server, FY_CONTROL_METADATA, "1", "{\"type\":1,\"body\":1}");
    ask_expecting(&server, FY_CONTROL_NOTIFY, "[ ]", "{\"type\":2,\"body\":[ ]}");
    ask_expecting(&server, FY_CONTROL_PROBE, "{}", "{\"type\":3,\"body\":{}}");
    ask_expecting(&server, FY_CONTROL_CALL, "{}", "{\"type\":70,\"body\":{}}");
    ask_expecting(&server, FY_CONTROL_CALL, "\"fail\"", "null");
    ask_expecting(&server, FY_CONTROL_CALL, "\"empty\"", "null");
    fy_control_close(server.control);
}

static void replies_byte_by_byte(void **state)
{
    static const char untyped[] = "\x0b\0\0\0\0\0\0\0{\"a\":[1]}\r\n";
    static const char untyped_reply[] =
        "\x1d\0\0\0\0\0\0\0{\"type\":0,\"body\":{\"a\":[1]}\r}\n";
    static const char bare[] = "\x03\0\0\0\0\0\0\0\x03{}";
    static const char reply[] = "\x16\0\0\0\0\0\0\0\x03{\"type\":3,\"body\":{}}\n";
    static const char fails[] = "\x07\0\0\0\0\0\0\0\x01\"fail\"";
    struct server server;

    server_open(&server, 0);
    expect_bytes(&server, probe_bytes, LEN(probe_bytes), reply, LEN(reply));
    expect_bytes(&server, bare, LEN(bare), reply, LEN(reply));
    expect_bytes(&server, untyped, LEN(untyped), untyped_reply, LEN(untyped_reply));
    expect_bytes(&server, fails, LEN(fails), null_bytes, LEN(null_bytes));
    fy_control_close(server.control);
}

/* No reply, and an orderly end rather than a reset: a Mooncake node that still writes would die
 * of SIGPIPE. */
static void refuses_without_a_reply(void **state)
{
    static const char empty[] = "\0\0\0\0\0\0\0\0{}";
    static const char unknown[] = "\x04\0\0\0\0\0\0\0\x04{}\n";
    static const char signed_char[] = "\x04\0\0\0\0\0\0\0\xfe{}\n";
    char too_long[2048] = "\x01\x04\0\0\0\0\0\0\x03{}"; /* 1025 */
    char fits[1032] = "\0\x04\0\0\0\0\0\0\x03\"fail\"";
    struct server server;

    server_open(&server, 1024);
    expect_bytes(&server, empty, LEN(empty), "", 0);
    expect_bytes(&server, unknown, LEN(unknown), "", 0);
    expect_bytes(&server, signed_char, LEN(signed_char), "", 0);
    expect_bytes(&server, too_long, sizeof(too_long), "", 0);
    assert_int_equal(atomic_load(&server.calls), 0);
    expect_bytes(&server, fits, sizeof(fits), "\x06\0\0\0\0\0\0\0\x03null\n", 14);
    fy_control_close(server.control);
}

static void a_frame_may_come_in_pieces(void **state)
{
    static const char reply[] = "\x16\0\0\0\0\0\0\0\x03{\"type\":3,\"body\":{}}\n";
    struct server server;
    char got[64];
    int fd;

    server_open(&server, 0);
    fd = client(&server);
    for (size_t i = 0; i < LEN(probe_bytes); i++) {
        assert_int_equal(send(fd, probe_bytes + i, 1, MSG_NOSIGNAL), 1);
        usleep(2000);
    }
    assert_int_equal(read_all(fd, got, sizeof(got)), LEN(reply));
    assert_memory_equal(got, reply, LEN(reply));
    close(fd);
    fy_control_close(server.control);
}

/* Bytes after the request do not cost the client its reply. */
static void what_follows_the_request_is_thrown_away(void **state)
{
    static char garbage[200000];
    struct server server;
    struct pollfd p;
    char got[64];
    int fd;

    server_open(&server, 0);
    fd = client(&server);
    assert_int_equal(send(fd, probe_bytes, LEN(probe_bytes), MSG_NOSIGNAL), LEN(probe_bytes));
    assert_int_equal(send(fd, garbage, sizeof(garbage), MSG_NOSIGNAL), sizeof(garbage));
    p = (struct pollfd){.fd = fd, .events = POLLIN};
    assert_int_equal(poll(&p, 1, 10000), 1);
    usleep(20000);
    assert_int_equal(read_all(fd, got, sizeof(got)), PROBE_REPLY_LEN);
    close(fd);
    fy_control_close(server.control);
}

static void long_bodies_both_ways(void **state)
{
    size_t len = 3 << 20;
    char *body = malloc(len + 1);
    struct server server;
    struct fy_buf reply;

    assert_non_null(body);
    memset(body, '7', len);
    body[len] = '\0';
    server_open(&server, 0);
    assert_int_equal(ask(&server, FY_CONTROL_METADATA, body, &reply), FERRY_OK);
    assert_int_equal(reply.len, len + strlen("{\"type\":1,\"body\":}"));
    assert_memory_equal(reply.data + strlen("{\"type\":1,\"body\":"), body, len);
    fy_buf_fini(&reply);
    assert_int_equal(ask(&server, FY_CONTROL_METADATA, "\"big\"", &reply), FERRY_OK);
    assert_int_equal(reply.len, 8192 * 1024);
    assert_string_equal(reply.data + reply.len - 5, " 8191");
    fy_buf_fini(&reply);
    free(body);
    fy_control_close(server.control);
}

struct asking {
    const struct server *server;
    const char *body;
    int n;
    ferry_status status;
};

static void *asking_main(void *arg)
{
    struct asking *asking = arg;

    for (int i = 0; i < asking->n && !asking->status; i++) {
        struct fy_buf reply;

        asking->status = ask(asking->server, FY_CONTROL_NOTIFY, asking->body, &reply);
        fy_buf_fini(&reply);
    }
    return NULL;
}

static void wait_until(const atomic_int *what, int value)
{
    uint64_t deadline = in_ms(10000);

    while (atomic_load(what) != value && fy_now_ns() < deadline)
        usleep(1000);
    assert_int_equal(atomic_load(what), value);
}

static void blocking_handlers_run_beside_each_other(void **state)
{
    struct server server;
    struct asking asking[6];
    pthread_t threads[6];

    server_open(&server, 0);
    atomic_store(&server.hold, 1);
    for (int i = 0; i < 6; i++) {
        asking[i] = (struct asking){&server, "\"hold\"", 1, FERRY_OK};
        assert_int_equal(pthread_create(&threads[i], NULL, asking_main, &asking[i]), 0);
    }
    wait_until(&server.inside, 4);
    usleep(20000);
    assert_int_equal(atomic_load(&server.most_inside), 4);
    atomic_store(&server.hold, 0);
    for (int i = 0; i < 6; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(asking[i].status, FERRY_OK);
    }
    assert_int_equal(atomic_load(&server.calls), 6);
    fy_control_close(server.control);
}

static void many_clients_at_once(void **state)
{
    struct server server;
    struct asking asking[8];
    pthread_t threads[8];

    server_open(&server, 0);
    for (int i = 0; i < 8; i++) {
        asking[i] = (struct asking){&server, "{}", 100, FERRY_OK};
        assert_int_equal(pthread_create(&threads[i], NULL, asking_main, &asking[i]), 0);
    }
    for (int i = 0; i < 8; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(asking[i].status, FERRY_OK);
    }
    assert_int_equal(atomic_load(&server.calls), 800);
    fy_control_close(server.control);
}

static void *closing_main(void *arg)
{
    fy_control_close(arg);
    return NULL;
}

static void close_waits_for_handlers_and_their_answers(void **state)
{
    struct asking asking;
    struct server server;
    pthread_t asker, closer;

    server_open(&server, 0);
    atomic_store(&server.hold, 1);
    asking = (struct asking){&server, "\"hold\"", 1, FERRY_OK};
    assert_int_equal(pthread_create(&asker, NULL, asking_main, &asking), 0);
    wait_until(&server.inside, 1);
    assert_int_equal(pthread_create(&closer, NULL, closing_main, server.control), 0);
    usleep(50000);
    assert_int_equal(pthread_tryjoin_np(closer, NULL), EBUSY);
    atomic_store(&server.hold, 0);
    pthread_join(closer, NULL);
    assert_int_equal(atomic_load(&server.inside), 0);
    pthread_join(asker, NULL);
    assert_int_equal(asking.status, FERRY_OK);
    fy_control_close(NULL);
}

static int n_fds(void)
{
    DIR *dir = opendir("/proc/self/fd");
    int n = 0;

    while (readdir(dir))
        n++;
    closedir(dir);
    return n;
}

/* More clients than it takes at once, all of them silent but one: that one is served as soon as
 * others go, and nothing is left open. */
static void too_many_clients_wait_their_turn(void **state)
{
    enum { N = 1100 };
    static int fds[N];
    struct rlimit limit;
    struct server server;
    struct pollfd p;
    char got[64];
    int before;

    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    if (limit.rlim_max < 2 * N + 200)
        skip();
    limit.rlim_cur = limit.rlim_max < 8192 ? limit.rlim_max : 8192;
    setrlimit(RLIMIT_NOFILE, &limit);
    server_open(&server, 0);
    before = n_fds();
    for (int i = 0; i < N; i++)
        fds[i] = client(&server);
    assert_int_equal(send(fds[N - 1], probe_bytes, LEN(probe_bytes), MSG_NOSIGNAL),
                     LEN(probe_bytes));
    p = (struct pollfd){.fd = fds[N - 1], .events = POLLIN};
    assert_int_equal(poll(&p, 1, 200), 0);
    assert_int_equal(n_fds() - before, N + 1024);
    for (int i = 0; i < N - 1; i++)
        close(fds[i]);
    assert_int_equal(read_all(fds[N - 1], got, sizeof(got)), PROBE_REPLY_LEN);
    close(fds[N - 1]);
    for (uint64_t deadline = in_ms(10000); n_fds() != before && fy_now_ns() < deadline;)
        usleep(5000);
    assert_int_equal(n_fds(), before);
    fy_control_close(server.control);
}

/* Clients that say nothing, stop halfway or stay after the reply are closed after 5 s; all
 * three at once, so that the test waits once. */
static void idle_clients_are_closed_in_time(void **state)
{
    struct server server;
    uint64_t began = fy_now_ns(), took;
    int silent, halfway, staying;
    char got[64];

    server_open(&server, 0);
    silent = client(&server);
    halfway = client(&server);
    staying = client(&server);
    assert_int_equal(send(halfway, probe_bytes, 10, MSG_NOSIGNAL), 10);
    assert_int_equal(send(staying, probe_bytes, LEN(probe_bytes), MSG_NOSIGNAL),
                     LEN(probe_bytes));
    assert_int_equal(read_all(staying, got, sizeof(got)), PROBE_REPLY_LEN);
    took = (fy_now_ns() - began) / FY_NS_PER_MS;
    assert_in_range(took, 0, 3000); /* half-closed at once */
    assert_int_equal(read_all(silent, got, sizeof(got)), 0);
    assert_int_equal(read_all(halfway, got, sizeof(got)), 0);
    took = (fy_now_ns() - began) / FY_NS_PER_MS;
    assert_in_range(took, 4900, 9000);
    /* The one that stays is gone as well: writing to it is answered by a reset. */
    usleep(200000);
    send(staying, "x", 1, MSG_NOSIGNAL);
    usleep(50000);
    assert_int_equal(send(staying, "x", 1, MSG_NOSIGNAL), -1);
    close(silent);
    close(halfway);
    close(staying);
    fy_control_close(server.control);
}

/* ---- the handlers' threads ---- */

static atomic_int n_run, n_finished;

static void run_job(struct fy_job *job)
{
    atomic_fetch_add(&n_run, 1);
}

static void job_finished(void *arg)
{
    atomic_fetch_add(&n_finished, 1);
}

static int n_threads(void)
{
    DIR *dir = opendir("/proc/self/task");
    struct dirent *entry;
    int n = 0;

    while ((entry = readdir(dir)))
        n += entry->d_name[0] != '.';
    closedir(dir);
    return n;
}

static void idle_threads_end_and_others_follow(void **state)
{
    struct fy_job jobs[3];
    struct fy_pool *pool;
    int before;

    usleep(50000); /* threads of the tests before this one have been joined, but may still be
                      listed */
    before = n_threads();
    atomic_store(&n_run, 0);
    atomic_store(&n_finished, 0);
    assert_int_equal(fy_pool_open(run_job, job_finished, NULL, 50, &pool), FERRY_OK);
    assert_int_equal(n_threads(), before);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(fy_pool_submit(pool, &jobs[i]), FERRY_OK);
        wait_until(&n_finished, i + 1);
        assert_ptr_equal(fy_pool_finished(pool), &jobs[i]);
        assert_null(fy_pool_finished(pool));
        for (uint64_t deadline = in_ms(5000); n_threads() != before && fy_now_ns() < deadline;)
            usleep(5000);
        assert_int_equal(n_threads(), before);
    }
    assert_int_equal(atomic_load(&n_run), 3);
    fy_pool_close(pool);
}

/* ---- a client, and servers that do what they please ---- */

struct rude {
    int listen_fd;
    uint16_t port;
    const char *reply;
    size_t reply_len;
    int read_first, stay_ms;
    pthread_t thread;
    ssize_t got;
    char request[256];
    uint64_t closed_after_ms; /* the client, after the reply */
};

static void *rude_main(void *arg)
{
    struct rude *rude = arg;
    struct pollfd p = {.fd = rude->listen_fd, .events = POLLIN};
    uint64_t sent;
    int fd;

    if (poll(&p, 1, 5000) != 1)
        return NULL;
    fd = accept(rude->listen_fd, NULL, NULL);
    if (rude->read_first) {
        usleep(20000); /* a request in one write is there as a whole */
        rude->got = recv(fd, rude->request, sizeof(rude->request), MSG_DONTWAIT);
    }
    if (send(fd, rude->reply, rude->reply_len, MSG_NOSIGNAL) < 0)
        rude->got = -1;
    sent = fy_now_ns();
    if (rude->stay_ms) {
        p = (struct pollfd){.fd = fd, .events = POLLIN};
        poll(&p, 1, rude->stay_ms);
        rude->closed_after_ms = (fy_now_ns() - sent) / FY_NS_PER_MS;
    }
    close(fd);
    return NULL;
}

static ferry_status ask_rude(struct rude *rude, int type, unsigned ms, struct fy_buf *reply)
{
    ferry_status status;

    assert_int_equal(fy_net_listen("127.0.0.1", 0, 0, 0, 0, &rude->listen_fd, &rude->port),
                     FERRY_OK);
    assert_int_equal(pthread_create(&rude->thread, NULL, rude_main, rude), 0);
    fy_buf_init(reply, 0);
    status = fy_control_request("127.0.0.1", rude->port, type, "{}", 2, in_ms(ms), reply);
    pthread_join(rude->thread, NULL);
    close(rude->listen_fd);
    return status;
}

static void expect_words(const struct rude *rude, const char *type, const char *words)
{
    char peer[32];

    snprintf(peer, sizeof(peer), "127.0.0.1:%u", rude->port);
    assert_non_null(strstr(ferry_error(), peer));
    assert_non_null(strstr(ferry_error(), type));
    assert_non_null(strstr(ferry_error(), words));
}

#define REPLIES(bytes) .reply = (bytes), .reply_len = sizeof(bytes) - 1

static void the_request_is_one_write_and_the_end_is_prompt(void **state)
{
    struct rude rude = {REPLIES(probe_bytes), .read_first = 1, .stay_ms = 3000};
    struct fy_buf reply;

    assert_int_equal(ask_rude(&rude, FY_CONTROL_PROBE, 5000, &reply), FERRY_OK);
    assert_string_equal(reply.data, "{}");
    assert_int_equal(rude.got, LEN(probe_bytes));
    assert_memory_equal(rude.request, probe_bytes, LEN(probe_bytes));
    assert_in_range(rude.closed_after_ms, 0, 1500);
    fy_buf_fini(&reply);
}

static void closed_without_a_reply(void **state)
{
    struct rude rude = {REPLIES(""), .read_first = 1};
    struct rude resets = {REPLIES("")};
    struct fy_buf reply;

    assert_int_equal(ask_rude(&rude, FY_CONTROL_PROBE, 5000, &reply), FERRY_ECONNRESET);
    expect_words(&rude, "probe",
                 "closed without a reply (older Mooncake nodes do so for requests they do not "
                 "know)");
    assert_int_equal(ask_rude(&resets, FY_CONTROL_NOTIFY, 5000, &reply), FERRY_ECONNRESET);
    expect_words(&resets, "notify", "");
    assert_null(reply.data);
}

static void closed_within_the_reply(void **state)
{
    struct rude rude = {REPLIES("\x04\0\0\0\0\0\0\0\x03{"), .read_first = 1};
    struct fy_buf reply;

    assert_int_equal(ask_rude(&rude, FY_CONTROL_PROBE, 5000, &reply), FERRY_ECONNRESET);
    expect_words(&rude, "probe", "after 10 bytes, of at least 12");
}

static void malformed_replies(void **state)
{
    struct rude other = {REPLIES(null_bytes), .read_first = 1};
    struct rude untyped = {REPLIES("\x03\0\0\0\0\0\0\0{}\n"), .read_first = 1};
    struct rude huge = {REPLIES("\xff\0\0\0\xff\0\0\0\x03{}"), .read_first = 1};
    struct rude http = {REPLIES("HTTP/1.1 400 Bad Request\r\n\r\n"), .read_first = 1};
    struct fy_buf reply;

    assert_int_equal(ask_rude(&other, FY_CONTROL_PROBE, 5000, &reply), FERRY_EIO);
    expect_words(&other, "probe", "type 1 (metadata)");
    assert_int_equal(ask_rude(&untyped, FY_CONTROL_METADATA, 5000, &reply), FERRY_EIO);
    expect_words(&untyped, "metadata", "malformed reply");
    assert_int_equal(ask_rude(&huge, FY_CONTROL_PROBE, 5000, &reply), FERRY_EIO);
    expect_words(&huge, "probe", "at most 134217728");
    assert_int_equal(ask_rude(&http, FY_CONTROL_PROBE, 5000, &reply), FERRY_EIO);
    expect_words(&http, "probe", "malformed reply");
    assert_null(reply.data);
}

static void silence_ends_at_the_deadline(void **state)
{
    struct rude silent = {REPLIES(""), .read_first = 1, .stay_ms = 5000};
    struct rude halfway = {REPLIES("\x04\0\0\0"), .read_first = 1, .stay_ms = 5000};
    uint64_t began = fy_now_ns();
    struct fy_buf reply;

    assert_int_equal(ask_rude(&silent, FY_CONTROL_METADATA, 200, &reply), FERRY_ETIMEDOUT);
    expect_words(&silent, "metadata", "waiting for the reply");
    assert_int_equal(ask_rude(&halfway, FY_CONTROL_METADATA, 200, &reply), FERRY_ETIMEDOUT);
    assert_in_range((fy_now_ns() - began) / FY_NS_PER_MS, 400, 4000);
}

/* A server that never reads: sending a long request blocks. */
static void sending_ends_at_the_deadline(void **state)
{
    size_t len = 64 << 20;
    char *body = calloc(1, len);
    uint64_t began;
    struct fy_buf reply;
    uint16_t port;
    int fd;

    assert_non_null(body);
    assert_int_equal(fy_net_listen("127.0.0.1", 0, 0, 0, 0, &fd, &port), FERRY_OK);
    fy_buf_init(&reply, 0);
    began = fy_now_ns();
    assert_int_equal(
        fy_control_request("127.0.0.1", port, FY_CONTROL_CALL, body, len, in_ms(500), &reply),
        FERRY_ETIMEDOUT);
    assert_non_null(strstr(ferry_error(), "call request to 127.0.0.1:"));
    assert_non_null(strstr(ferry_error(), "sending the request"));
    assert_in_range((fy_now_ns() - began) / FY_NS_PER_MS, 450, 5000);
    close(fd);
    free(body);
}

static void nobody_listens(void **state)
{
    struct rude rude = {0};
    struct fy_buf reply;

    assert_int_equal(fy_net_listen("127.0.0.1", 0, 0, 0, 0, &rude.listen_fd, &rude.port),
                     FERRY_OK);
    close(rude.listen_fd);
    fy_buf_init(&reply, 0);
    assert_int_equal(fy_control_request("127.0.0.1", rude.port, FY_CONTROL_METADATA, "{}", 2,
                                        in_ms(2000), &reply),
                     FERRY_EUNREACH);
    expect_words(&rude, "metadata", "connecting: ");
    expect_words(&rude, "metadata", "refused");
}

static void bodies_that_cannot_be_sent(void **state)
{
    struct server server;
    struct fy_buf reply;

    server_open(&server, 0);
    fy_buf_init(&reply, 4);
    assert_int_equal(fy_control_request("127.0.0.1", server.port, FY_CONTROL_PROBE, "{}",
                                        FY_CONTROL_MAX_LEN, in_ms(1000), &reply),
                     FERRY_ERANGE);
    assert_int_equal(fy_control_request("127.0.0.1", server.port, FY_CONTROL_PROBE, "{}", 2,
                                        in_ms(1000), &reply),
                     FERRY_ERANGE); /* the reply is longer than 4 bytes */
    assert_int_equal(reply.len, 0);
    fy_buf_fini(&reply);
    fy_control_close(server.control);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frames_are_mooncakes),
        cmocka_unit_test(a_frame_is_known_by_its_last_byte),
        cmocka_unit_test(untyped_frames_begin_with_a_brace),
        cmocka_unit_test(malformed_frames_are_refused),
        cmocka_unit_test(answers_every_type),
        cmocka_unit_test(replies_byte_by_byte),
        cmocka_unit_test(refuses_without_a_reply),
        cmocka_unit_test(a_frame_may_come_in_pieces),
        cmocka_unit_test(what_follows_the_request_is_thrown_away),
        cmocka_unit_test(long_bodies_both_ways),
        cmocka_unit_test(blocking_handlers_run_beside_each_other),
        cmocka_unit_test(many_clients_at_once),
        cmocka_unit_test(close_waits_for_handlers_and_their_answers),
        cmocka_unit_test(too_many_clients_wait_their_turn),
        cmocka_unit_test(idle_clients_are_closed_in_time),
        cmocka_unit_test(idle_threads_end_and_others_follow),
        cmocka_unit_test(the_request_is_one_write_and_the_end_is_prompt),
        cmocka_unit_test(closed_without_a_reply),
        cmocka_unit_test(closed_within_the_reply),
        cmocka_unit_test(malformed_replies),
        cmocka_unit_test(silence_ends_at_the_deadline),
        cmocka_unit_test(sending_ends_at_the_deadline),
        cmocka_unit_test(nobody_listens),
        cmocka_unit_test(bodies_that_cannot_be_sent),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
