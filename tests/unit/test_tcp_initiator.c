/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tcp transport's active side where it is hard to come by over two whole ends: servers that
 * answer just so, callers that sleep, and connections that end.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <unistd.h>

#include "bystander.h"
#include "tcp_end.h"

#define MIB       (UINT64_C(1) << 20)
#define PATIENCE  (10 * NS_PER_S)
#define SHORT_LEN 65536u     /* fits into the sockets' buffers */
#define LONG_LEN  (64 * MIB) /* does not */

static void start_server(int *fd_out, struct tcp_attrs *a)
{
    struct sockaddr_in sin = {.sin_family = AF_INET};
    socklen_t len = sizeof sin;
    char port[8];

    sin.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    *fd_out = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(*fd_out >= 0);
    assert_int_equal(bind(*fd_out, (struct sockaddr *)&sin, sizeof sin), 0);
    assert_int_equal(listen(*fd_out, 8), 0);
    assert_int_equal(getsockname(*fd_out, (struct sockaddr *)&sin, &len), 0);
    snprintf(port, sizeof port, "%u", ntohs(sin.sin_port));
    *a = (struct tcp_attrs){.sink.put = tcp_attrs_put};
    tcp_attrs_put(&a->sink, &(struct ferry_kv){"tcp_data_port", port, (uint32_t)strlen(port),
                                               FERRY_KV_JSON});
    tcp_attrs_put(&a->sink, &(struct ferry_kv){"tcp_proto_version", "2", 1, FERRY_KV_JSON});
}

/* Receives exactly so much, the queue being polled meanwhile; none of it may complete. */
static void receive(int fd, struct ferry_queue *queue, uint8_t *buf, size_t len)
{
    uint64_t end = ft_now_ns() + PATIENCE;
    struct ferry_comp comp;

    for (size_t have = 0; have < len && ft_now_ns() < end;) {
        ssize_t r = recv(fd, buf + have, len - have, MSG_DONTWAIT);

        if (r > 0)
            have += (size_t)r;
        else
            assert_true(r < 0 && errno == EAGAIN);
        assert_int_equal(tcp_poll(queue, &comp, 1), 0);
    }
    assert_true(ft_now_ns() < end);
}

/* The queue sees the end of a connection, and makes the next. */
static int accept_again(int listener, struct ferry_queue *queue)
{
    uint64_t end = ft_now_ns() + PATIENCE;
    struct pollfd p = {.fd = listener, .events = POLLIN};
    struct ferry_comp comp;

    while (poll(&p, 1, 0) == 0) {
        assert_true(ft_now_ns() < end);
        assert_int_equal(tcp_poll(queue, &comp, 1), 0);
    }
    return accept(listener, NULL, NULL);
}

static void finish(struct ferry_queue *queue, struct ferry_comp *comp)
{
    uint64_t end = ft_now_ns() + PATIENCE;

    while (tcp_poll(queue, comp, 1) == 0)
        assert_true(ft_now_ns() < end);
}

/*
 * v2, as Mooncake's servers speak it. One list has been sent whole and is cancelled, and the
 * server acknowledges it; the one behind it is sent again on a new connection, as it was.
 */
static void v2_sent_again_as_it_was(void **state)
{
    const uint64_t remote = 0x7f0000000000;
    const struct wire_mc want = {.size = LONG_LEN, .addr = remote, .write = true, .v2 = true};
    uint8_t *buf = malloc(LONG_LEN), head[WIRE_MC_LEN], word[WIRE_MC_STATUS_LEN];
    struct ferry_comp comp;
    struct tcp_attrs a;
    struct tcp_end end;
    struct tcp_way way;
    int listener, fd;
    ssize_t r;

    start_server(&listener, &a);
    tcp_end_open(&end, LONG_LEN, "auto", "1");
    tcp_way_open(&end, &a, remote, LONG_LEN, &way);
    for (uint64_t i = 0; i < LONG_LEN; i++)
        end.mem[i] = (uint8_t)(i * 31 ^ i >> 8);
    fd = accept(listener, NULL, NULL);
    assert_true(buf != NULL && fd >= 0);
    assert_int_equal(tcp_way_submit(&end, &way, FERRY_OP_WRITE, SHORT_LEN, 1), FERRY_OK);
    assert_int_equal(tcp_way_submit(&end, &way, FERRY_OP_WRITE, LONG_LEN, 2), FERRY_OK);
    assert_int_equal(tcp_cancel(way.queue, 1), FERRY_OK);
    way.peer->conns[way.queue->index]->deadline_ns += PATIENCE; /* on a busy machine, too */

    receive(fd, way.queue, buf, WIRE_MC_LEN + SHORT_LEN);
    wire_put64(word, WIRE_MC_OK);
    assert_int_equal(send(fd, word, sizeof word, 0), sizeof word);
    finish(way.queue, &comp);
    assert_int_equal(comp.cookie, 1);
    assert_int_equal(tcp_poll(way.queue, &comp, 1), 0); /* waits for the second one's word */
    while ((r = recv(fd, buf, LONG_LEN, 0)) > 0)
        ;
    assert_int_equal(r, 0);
    close(fd);

    fd = accept_again(listener, way.queue);
    receive(fd, way.queue, buf, WIRE_MC_LEN);
    wire_put_mc(head, &want);
    assert_memory_equal(buf, head, WIRE_MC_LEN);
    receive(fd, way.queue, buf, LONG_LEN);
    assert_memory_equal(buf, end.mem, LONG_LEN);
    assert_int_equal(send(fd, word, sizeof word, 0), sizeof word);
    finish(way.queue, &comp);
    assert_int_equal(comp.cookie, 2);
    assert_int_equal(comp.status, FERRY_OK);
    tcp_way_close(&way);
    tcp_end_close(&end);
    close(fd);
    close(listener);
    free(buf);
}

static void wait_readable(const struct tcp_way *way)
{
    struct pollfd p = {.fd = way->fd, .events = POLLIN};

    assert_int_equal(poll(&p, 1, (int)(PATIENCE / NS_PER_MS)), 1);
}

/* As who sleeps: arms, sleeps, polls until there is nothing. */
static void sleep_until_done(struct tcp_way *way, struct ferry_comp *comp)
{
    bool armed = true;

    for (;;) {
        if (armed)
            wait_readable(way);
        if (tcp_poll(way->queue, comp, 1) == 1)
            return;
        armed = tcp_queue_arm(way->queue) == FERRY_OK;
    }
}

/* One thread sleeps on the queue, another submits more than the socket takes at once. */
static void armed_before_submit(void **state)
{
    struct ferry_comp comp;
    struct tcp_attrs a;
    struct tcp_end here, there;
    struct tcp_way way;

    tcp_end_open(&here, LONG_LEN, "auto", "1");
    tcp_end_open(&there, LONG_LEN, "auto", "1");
    tcp_attrs_of(&there, &a);
    tcp_way_open(&here, &a, (uintptr_t)there.mem, LONG_LEN, &way);
    memset(here.mem, 0x42, LONG_LEN);
    assert_int_equal(tcp_queue_arm(way.queue), FERRY_OK);
    assert_int_equal(tcp_way_submit(&here, &way, FERRY_OP_WRITE, LONG_LEN, 1), FERRY_OK);
    sleep_until_done(&way, &comp);
    assert_int_equal(comp.status, FERRY_OK);
    assert_memory_equal(here.mem, there.mem, LONG_LEN);
    tcp_way_close(&way);
    tcp_end_close(&here);
    tcp_end_close(&there);
}

/* What a cancel ends, and what it has to send again, wakes a sleeper too. */
static void armed_before_cancel(void **state)
{
    struct ferry_comp comp;
    struct tcp_attrs a;
    struct tcp_end here, there;
    struct tcp_way way;

    tcp_end_open(&here, LONG_LEN, "auto", "1");
    tcp_end_open(&there, LONG_LEN, "auto", "1");
    tcp_attrs_of(&there, &a);
    tcp_way_open(&here, &a, (uintptr_t)there.mem, LONG_LEN, &way);
    memset(there.mem, 0x42, LONG_LEN);
    assert_int_equal(tcp_queue_arm(way.queue), FERRY_OK);
    assert_int_equal(tcp_way_submit(&here, &way, FERRY_OP_READ, LONG_LEN, 1), FERRY_OK);
    assert_int_equal(tcp_way_submit(&here, &way, FERRY_OP_READ, SHORT_LEN, 2), FERRY_OK);
    assert_int_equal(tcp_cancel(way.queue, 1), FERRY_OK);
    wait_readable(&way);
    assert_int_equal(tcp_poll(way.queue, &comp, 1), 1); /* looks no further */
    assert_int_equal(comp.cookie, 1);
    assert_int_equal(comp.status, FERRY_ECANCELED);
    queue_timer(way.queue); /* what woke it is over: now the new connection does */
    sleep_until_done(&way, &comp);
    assert_int_equal(comp.cookie, 2);
    assert_int_equal(comp.status, FERRY_OK);
    tcp_way_close(&way);
    tcp_end_close(&here);
    tcp_end_close(&there);
}

/* What submit finds broken ends at once, and takes what would have woken the sleeper along. */
static void armed_and_broken(void **state)
{
    struct linger linger = {.l_onoff = 1, .l_linger = 0};
    struct ferry_comp comp;
    struct tcp_attrs a;
    struct tcp_end end;
    struct tcp_way way;
    int listener, fd;

    start_server(&listener, &a);
    tcp_end_open(&end, SHORT_LEN, "auto", "1");
    tcp_way_open(&end, &a, 0x7f0000000000, SHORT_LEN, &way);
    fd = accept(listener, NULL, NULL);
    assert_true(fd >= 0);
    assert_int_equal(tcp_queue_arm(way.queue), FERRY_OK);
    assert_int_equal(tcp_way_submit(&end, &way, FERRY_OP_READ, SHORT_LEN, 1), FERRY_OK);
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger), 0);
    close(fd);
    wait_readable(&way);
    assert_int_equal(tcp_way_submit(&end, &way, FERRY_OP_READ, SHORT_LEN, 2), FERRY_OK);
    for (uint64_t cookie = 1; cookie <= 2; cookie++) {
        sleep_until_done(&way, &comp);
        assert_int_equal(comp.cookie, cookie);
        assert_int_equal(comp.status, FERRY_ECONNRESET);
    }
    tcp_way_close(&way);
    tcp_end_close(&end);
    close(listener);
}

/* A connection that is gone is out of the queue's set too. */
static void closed_after_fork(void **state)
{
    struct pollfd p = {.events = POLLIN};
    struct ferry_comp comp;
    struct tcp_attrs a;
    struct tcp_end here, there;
    struct tcp_way way;
    pid_t child;

    tcp_end_open(&here, SHORT_LEN, "auto", "1");
    tcp_end_open(&there, SHORT_LEN, "auto", "1");
    tcp_attrs_of(&there, &a);
    tcp_way_open(&here, &a, (uintptr_t)there.mem, SHORT_LEN, &way);
    child = fork_bystander();
    tcp_end_close(&there);
    wait_readable(&way);
    for (int i = 0; i < 100; i++)
        assert_int_equal(tcp_poll(way.queue, &comp, 1), 0);
    tcp_peer_close(way.peer);
    for (int i = 0; i < 100; i++)
        assert_int_equal(tcp_poll(way.queue, &comp, 1), 0);
    p.fd = way.fd;
    assert_int_equal(poll(&p, 1, 0), 0);
    tcp_queue_close(way.queue);
    tcp_end_close(&here);
    end_process(child);
}

/* Either way the peer learns of it at once. */
static void ended_after_fork(void **state)
{
    for (int reset = 0; reset < 2; reset++) {
        struct tcp_attrs a;
        struct tcp_end end;
        struct tcp_way way;
        struct pollfd p = {.events = POLLIN};
        pid_t child;
        int listener;
        char byte;

        start_server(&listener, &a);
        tcp_end_open(&end, SHORT_LEN, "auto", "1");
        tcp_way_open(&end, &a, 0x7f0000000000, SHORT_LEN, &way);
        p.fd = accept(listener, NULL, NULL);
        assert_true(p.fd >= 0);
        child = fork_bystander();
        conn_close_fd(way.peer->conns[way.queue->index], reset);
        assert_int_equal(poll(&p, 1, (int)(PATIENCE / NS_PER_MS)), 1);
        errno = 0;
        assert_int_equal(recv(p.fd, &byte, 1, 0), reset ? -1 : 0);
        assert_int_equal(errno, reset ? ECONNRESET : 0);
        end_process(child);
        tcp_way_close(&way);
        tcp_end_close(&end);
        close(p.fd);
        close(listener);
    }
}

static uint64_t cpu_ns(void)
{
    struct timespec ts;

    assert_int_equal(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts), 0);
    return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

/* Closing waits out what may still land, a second and more after a time-out, asleep. */
static void long_grace_is_slept(void **state)
{
    uint64_t from, cpu;
    struct tcp_attrs a;
    struct tcp_end end;
    struct tcp_way way;
    struct conn *c;

    tcp_end_open(&end, SHORT_LEN, "auto", "1");
    tcp_attrs_of(&end, &a);
    tcp_way_open(&end, &a, (uintptr_t)end.mem, SHORT_LEN, &way);
    c = way.peer->conns[way.queue->index];
    conn_close_fd(c, false);
    from = ft_now_ns();
    cpu = cpu_ns();
    c->state = CONN_GRACE; /* as conn_error leaves it */
    c->deadline_ns = from + NS_PER_S + 200 * NS_PER_MS;
    way.queue->n_closing++;
    tcp_peer_close(way.peer);
    assert_true(ft_now_ns() - from > NS_PER_S);
    assert_true(cpu_ns() - cpu < 100 * NS_PER_MS);
    tcp_queue_close(way.queue);
    tcp_end_close(&end);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(v2_sent_again_as_it_was), cmocka_unit_test(armed_before_submit),
        cmocka_unit_test(armed_before_cancel),     cmocka_unit_test(armed_and_broken),
        cmocka_unit_test(closed_after_fork),       cmocka_unit_test(ended_after_fork),
        cmocka_unit_test(long_grace_is_slept),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
