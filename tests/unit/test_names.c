/* SPDX-License-Identifier: Apache-2.0 */
/* Names of nodes, and sockets by name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "ferry/ferry.h"
#include "names.h"
#include "util/clock.h"

static void splits_as_mooncake_does(void **state)
{
    static const struct {
        const char *name, *host;
        unsigned port;
    } good[] = {
        {"10.0.0.1:15123", "10.0.0.1", 15123},
        {"10.0.0.1", "10.0.0.1", 12001},
        {"node-a.example:0", "node-a.example", 0},
        {"node_a:65535", "node_a", 65535},
        {"a:00080", "a", 80},
        {"::1", "::1", 12001},
        {"fd00::1:1512", "fd00::1:1512", 12001}, /* the whole of it is an address */
        {"fd00::1:15123", "fd00::1", 15123},     /* it is none: five digits */
        {"[fd00::1]:15123", "fd00::1", 15123},
        {"[fd00::1]", "fd00::1", 12001},
        {"[fe80::1%eth0]:7", "fe80::1%eth0", 7},
        {"fe80::1%eth0", "fe80::1%eth0", 12001},
        {"fe80::1%eth0:15123", "fe80::1%eth0", 15123},
        {"1:2:3:4:5:6:7:8:9", "1:2:3:4:5:6:7:8", 9}, /* at the last colon */
        {"a:b:1", "a:b", 1},
        {"::ffff:10.0.0.1", "::ffff:10.0.0.1", 12001},
    };

    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        char host[FY_HOST_MAX] = "";
        uint16_t port = 1;

        assert_int_equal(fy_name_split(good[i].name, 12001, host, &port), FERRY_OK);
        assert_string_equal(host, good[i].host);
        assert_int_equal(port, good[i].port);
    }
}

static void refuses_what_is_no_name(void **state)
{
    static const char *const bad[] = {
        "",       ":80",   "a:",     "a:65536",  "a:99999",     "a:123456", "a:+1",
        "a:1x",   "a:-1",  "a b:1",  "a\n:1",    "http://a:80", "[::1",     "[::1]80",
        "[a]:80", "[]:80", "[::1]:", "[::1%]:1", "[::1]:1]",    "a]:1"};
    char longest[FY_HOST_MAX + 8], host[FY_HOST_MAX] = "as before";
    uint16_t port = 7;

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_int_equal(fy_name_split(bad[i], 1, host, &port), FERRY_EINVAL);
        assert_string_not_equal(ferry_error(), "");
    }
    assert_string_equal(host, "as before");
    assert_int_equal(port, 7);

    memset(longest, 'a', sizeof(longest));
    strcpy(longest + FY_HOST_MAX - 1, ":1");
    assert_int_equal(fy_name_split(longest, 1, host, &port), FERRY_OK);
    assert_int_equal(strlen(host), FY_HOST_MAX - 1);
    longest[FY_HOST_MAX - 1] = 'a';
    strcpy(longest + FY_HOST_MAX, ":1");
    assert_int_equal(fy_name_split(longest, 1, host, &port), FERRY_EINVAL);
}

static void joins_with_brackets_round_ipv6(void **state)
{
    char out[32];

    assert_int_equal(fy_name_join("10.0.0.1", 1, out, sizeof(out)), FERRY_OK);
    assert_string_equal(out, "10.0.0.1:1");
    assert_int_equal(fy_name_join("fe80::1%eth0", 15123, out, sizeof(out)), FERRY_OK);
    assert_string_equal(out, "[fe80::1%eth0]:15123");
    assert_int_equal(fy_name_join("host", 65535, out, 11), FERRY_OK);
    assert_string_equal(out, "host:65535");
    assert_int_equal(fy_name_join("host", 65535, out, 10), FERRY_ERANGE);
}

static void own_host_is_an_address_of_ours(void **state)
{
    char host[FY_HOST_MAX];
    uint16_t port;
    int fd;

    for (int ipv6 = 0; ipv6 < 2; ipv6++) {
        assert_int_equal(fy_name_own_host(ipv6, host), FERRY_OK);
        assert_int_equal(fy_net_listen(host, 0, 0, 0, 0, &fd, &port), FERRY_OK);
        close(fd);
    }
}

static int can_connect(const char *host, uint16_t port)
{
    int fd;

    if (fy_net_connect(host, port, fy_now_ns() + FY_NS_PER_S, &fd))
        return 0;
    close(fd);
    return 1;
}

static void every_address_is_both_families(void **state)
{
    int fd, probe = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    uint16_t port;

    assert_int_equal(fy_net_listen(NULL, 0, 0, 0, 0, &fd, &port), FERRY_OK);
    assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
    assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    assert_true(can_connect("127.0.0.1", port));
    assert_true(can_connect("localhost", port));
    if (probe >= 0 && bind(probe, (struct sockaddr *)&v6, sizeof(v6)) == 0)
        assert_true(can_connect("::1", port));
    close(probe);
    close(fd);
}

static void one_address_is_one_address(void **state)
{
    uint16_t port;
    int fd, other;

    assert_int_equal(fy_net_listen("127.0.0.2", 0, 0, 0, 0, &fd, &port), FERRY_OK);
    assert_true(can_connect("127.0.0.2", port));
    assert_false(can_connect("127.0.0.1", port));
    close(fd);
    assert_int_equal(fy_net_listen("192.0.2.77", 0, 0, 0, 0, &other, &port), FERRY_EINVAL);
    assert_non_null(strstr(ferry_error(), "192.0.2.77"));
    assert_int_equal(fy_net_listen("no such host", 0, 0, 0, 0, &other, &port), FERRY_EINVAL);
}

static void a_taken_port_is_said_to_be(void **state)
{
    uint16_t port, again;
    char number[8];
    int fd, other;

    assert_int_equal(fy_net_listen("127.0.0.1", 0, 0, 0, 0, &fd, &port), FERRY_OK);
    assert_int_equal(fy_net_listen("127.0.0.1", port, 0, 0, 0, &other, &again), FERRY_EEXIST);
    snprintf(number, sizeof(number), "%u", port);
    assert_non_null(strstr(ferry_error(), number));
    assert_non_null(strstr(ferry_error(), "127.0.0.1"));
    assert_int_equal(fy_net_listen("", port, 0, 0, 0, &other, &again), FERRY_EEXIST);
    /* A range of this one port. */
    assert_int_equal(fy_net_listen("127.0.0.1", 0, port, port, 0, &other, &again),
                     FERRY_EEXIST);
    close(fd);
    assert_int_equal(fy_net_listen("127.0.0.1", 0, port, port, 0, &other, &again), FERRY_OK);
    assert_int_equal(again, port);
    close(other);
    assert_int_equal(fy_net_listen("127.0.0.1", 0, 9, 8, 0, &other, &again), FERRY_EINVAL);
}

/* A loopback address of this process alone, so that runs beside it cannot take its ports. */
static const char *own_loopback(void)
{
    static char address[24];
    unsigned pid = (unsigned)getpid();

    snprintf(address, sizeof(address), "127.%u.%u.%u", 100 + (pid >> 16) % 100, pid >> 8 & 255,
             pid & 255);
    return address;
}

static void a_random_port_lies_in_the_range(void **state)
{
    int fds[32];

    for (int i = 0; i < 32; i++) {
        uint16_t port;

        assert_int_equal(fy_net_listen(own_loopback(), 0, 20000, 20039, 0, &fds[i], &port),
                         FERRY_OK);
        assert_in_range(port, 20000, 20039);
    }
    for (int i = 0; i < 32; i++)
        close(fds[i]);
}

static void with_next_needs_two(void **state)
{
    uint16_t got;
    int taken, fd;

    assert_int_equal(fy_net_listen(own_loopback(), 21002, 0, 0, 0, &taken, &got), FERRY_OK);
    assert_int_equal(fy_net_listen(own_loopback(), 21001, 0, 0, 1, &fd, &got), FERRY_EEXIST);
    assert_int_equal(fy_net_listen(own_loopback(), 0, 21001, 21002, 1, &fd, &got),
                     FERRY_EEXIST);
    assert_int_equal(fy_net_listen(own_loopback(), 0, 21001, 21003, 1, &fd, &got), FERRY_OK);
    assert_int_equal(got, 21003);
    close(fd);
    close(taken);
    assert_int_equal(fy_net_listen(own_loopback(), 21001, 0, 0, 1, &fd, &got), FERRY_OK);
    close(fd);
    assert_int_equal(fy_net_listen(own_loopback(), 65535, 0, 0, 1, &fd, &got), FERRY_EEXIST);
}

static void a_port_is_free_again_at_once(void **state)
{
    uint16_t port, again;
    int fd, client, served;

    assert_int_equal(fy_net_listen("127.0.0.1", 0, 0, 0, 0, &fd, &port), FERRY_OK);
    assert_int_equal(fy_net_connect("127.0.0.1", port, fy_now_ns() + FY_NS_PER_S, &client),
                     FERRY_OK);
    served = accept(fd, NULL, NULL);
    assert_true(served >= 0);
    close(served); /* first, so that it is the server's side that lingers */
    close(client);
    close(fd);
    assert_int_equal(fy_net_listen("127.0.0.1", port, 0, 0, 0, &fd, &again), FERRY_OK);
    close(fd);
}

static void a_refused_connection_names_the_address(void **state)
{
    uint64_t began = fy_now_ns();
    uint16_t port;
    char name[32];
    int fd;

    assert_int_equal(fy_net_listen("127.0.0.1", 0, 0, 0, 0, &fd, &port), FERRY_OK);
    close(fd);
    assert_int_equal(fy_net_connect("127.0.0.1", port, began + 10 * FY_NS_PER_S, &fd),
                     FERRY_EUNREACH);
    snprintf(name, sizeof(name), "127.0.0.1:%u: ", port);
    assert_non_null(strstr(ferry_error(), name));
    assert_non_null(strstr(ferry_error(), "refused"));
    assert_true(fy_now_ns() - began < 5 * FY_NS_PER_S);
}

static void an_unknown_host_is_unreachable(void **state)
{
    int fd;

    assert_int_equal(fy_net_connect("ferry-test.invalid", 1, fy_now_ns() + FY_NS_PER_S, &fd),
                     FERRY_EUNREACH);
    assert_non_null(strstr(ferry_error(), "ferry-test.invalid"));
}

/* A listener whose queue is full drops further connection requests. */
static void no_answer_ends_at_the_deadline(void **state)
{
    struct sockaddr_in addr = {.sin_family = AF_INET,
                               .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(addr);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), clients[4], n = 0;
    ferry_status status = FERRY_OK;
    uint64_t began = 0;

    assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
    assert_int_equal(listen(fd, 0), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&addr, &len), 0);
    while (!status && n < 4) {
        began = fy_now_ns();
        status = fy_net_connect("127.0.0.1", ntohs(addr.sin_port), began + 200 * FY_NS_PER_MS,
                                &clients[n]);
        n += !status;
    }
    assert_int_equal(status, FERRY_ETIMEDOUT);
    assert_in_range((fy_now_ns() - began) / FY_NS_PER_MS, 200, 2000);
    while (n > 0)
        close(clients[--n]);
    close(fd);
}

static enum fy_reach reach(const char *host)
{
    char interface[64];

    return fy_host_reach(host, fy_now_ns() + FY_NS_PER_S, interface, sizeof(interface));
}

static void addresses_reach_whom_they_do(void **state)
{
    assert_int_equal(reach("127.0.0.1"), FY_REACH_LOOPBACK);
    assert_int_equal(reach("127.9.9.9"), FY_REACH_LOOPBACK);
    assert_int_equal(reach("::1"), FY_REACH_LOOPBACK);
    assert_int_equal(reach("0.0.0.0"), FY_REACH_LOOPBACK);
    assert_int_equal(reach("localhost"), FY_REACH_LOOPBACK);
    assert_int_equal(reach("192.0.2.177"), FY_REACH_ELSEWHERE);
    assert_int_equal(reach("2001:db8::77"), FY_REACH_ELSEWHERE);
}

static void urls_are_of_this_machine_or_another(void **state)
{
    static const struct {
        const char *url;
        int remote;
    } cases[] = {{"http://127.0.0.1:8080/metadata", 0},
                 {"etcd://localhost:2379", 0},
                 {"etcd://127.0.0.1:2379,192.0.2.177:2379", 1},
                 {"etcd://192.0.2.177:2379;127.0.0.1:2379", 1},
                 {"redis://user:p@ss@192.0.2.177:6379", 1},
                 {"redis://192.0.2.177@127.0.0.1:6379", 0},
                 {"http://[::1]:8080/metadata", 0},
                 {"http://[2001:db8::77]:8080/metadata", 1},
                 {"http://192.0.2.177/metadata", 1},
                 {"memory://here", 0},
                 {"http://", 0},
                 {"no url", 0}};

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        if (fy_url_is_remote(cases[i].url, fy_now_ns() + FY_NS_PER_S) != cases[i].remote)
            fail_msg("%s", cases[i].url);
}

/* In a network namespace of its own, with an interface that is called as those of container
 * engines are. Skipped without the right to make one. */
static void a_bridges_address_is_known(void **state)
{
    pid_t child = fork();
    int status;

    assert_true(child >= 0);
    if (!child) {
        if (unshare(CLONE_NEWNET) ||
            system("ip link add br-fy type veth peer name fy0 2>/dev/null && "
                   "ip addr add 203.0.113.5/24 dev br-fy && ip link set br-fy up && "
                   "ip addr add 203.0.113.9/32 dev fy0 && ip link set fy0 up"))
            _exit(77);
        if (reach("203.0.113.5") != FY_REACH_BRIDGE || reach("203.0.113.9") != FY_REACH_HERE)
            _exit(1);
        if (fy_host_check("203.0.113.5", "etcd://203.0.113.77:2379", "shown",
                          fy_now_ns() + FY_NS_PER_S) != FERRY_EINVAL ||
            !strstr(ferry_error(), "container bridge br-fy"))
            _exit(2);
        if (fy_host_check("203.0.113.5", "etcd://127.0.0.1:2379", "shown",
                          fy_now_ns() + FY_NS_PER_S) ||
            fy_host_check("203.0.113.9", "etcd://203.0.113.77:2379", "shown",
                          fy_now_ns() + FY_NS_PER_S))
            _exit(3);
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == 77)
        skip();
    assert_int_equal(WEXITSTATUS(status), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(addresses_reach_whom_they_do),
        cmocka_unit_test(urls_are_of_this_machine_or_another),
        cmocka_unit_test(a_bridges_address_is_known),
        cmocka_unit_test(splits_as_mooncake_does),
        cmocka_unit_test(refuses_what_is_no_name),
        cmocka_unit_test(joins_with_brackets_round_ipv6),
        cmocka_unit_test(own_host_is_an_address_of_ours),
        cmocka_unit_test(every_address_is_both_families),
        cmocka_unit_test(one_address_is_one_address),
        cmocka_unit_test(a_taken_port_is_said_to_be),
        cmocka_unit_test(a_random_port_lies_in_the_range),
        cmocka_unit_test(with_next_needs_two),
        cmocka_unit_test(a_port_is_free_again_at_once),
        cmocka_unit_test(a_refused_connection_names_the_address),
        cmocka_unit_test(an_unknown_host_is_unreachable),
        cmocka_unit_test(no_answer_ends_at_the_deadline),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
