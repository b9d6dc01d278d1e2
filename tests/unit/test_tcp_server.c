/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tcp transport's passive side: how it ends connections, and what it does without
 * descriptors.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "reactor.h"
#include "server.h"
#include "tcp_end.h"

#define PATIENCE_MS 10000

static const char *const engines[] = {"epoll", "io_uring"};

/* In place of the library's: a number that is closed twice may be somebody else's by then. */
static atomic_uint closed_twice;

int close(int fd)
{
    int rc = (int)syscall(SYS_close, fd);

    if (rc != 0 && errno == EBADF)
        atomic_fetch_add(&closed_twice, 1);
    return rc;
}

static int dial(const struct tcp_end *end)
{
    struct sockaddr_in sin = {.sin_family = AF_INET};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    sin.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    sin.sin_port = htons(tcp_server_port(end->tp->server));
    assert_int_equal(connect(fd, (struct sockaddr *)&sin, sizeof sin), 0);
    return fd;
}

/* Skips engines that this machine lacks. */
static bool try_open(struct tcp_end *end, const char *engine, const char *threads)
{
    struct reactor *r;

    if (strcmp(engine, "io_uring") == 0) {
        if (reactor_uring_open(&r) != 0)
            return false;
        r->ops->close(r);
    }
    tcp_end_open(end, 65536, engine, threads);
    return true;
}

static void reset_closes_once(void **state)
{
    for (size_t i = 0; i < sizeof engines / sizeof *engines; i++) {
        uint8_t hello[WIRE_HELLO_LEN];
        struct tcp_end end;
        char byte;
        int fd;

        if (!try_open(&end, engines[i], "1"))
            continue;
        fd = dial(&end);
        wire_put_hello(hello, &(struct wire_hello){.version = WIRE_VERSION, .len = 1});
        assert_int_equal(send(fd, hello, sizeof hello, 0), sizeof hello);
        assert_int_equal(recv(fd, &byte, 1, 0), -1);
        assert_int_equal(errno, ECONNRESET);
        close(fd);
        tcp_end_close(&end);
        assert_int_equal(closed_twice, 0);
    }
}

static unsigned open_files(void)
{
    struct dirent *entry;
    DIR *dir = opendir("/proc/self/fd");
    unsigned n = 0;

    assert_non_null(dir);
    while ((entry = readdir(dir)) != NULL)
        n += entry->d_name[0] != '.';
    closedir(dir);
    return n;
}

/* What the first thread accepts for others that have ended is closed as well. */
static void closed_while_accepting(void **state)
{
    enum { ROUNDS = 20, CONNS = 300 };
    unsigned before = open_files();
    struct tcp_end end;
    int fd[CONNS];

    for (int round = 0; round < ROUNDS; round++) {
        assert_true(try_open(&end, "epoll", "4"));
        for (int i = 0; i < CONNS; i++)
            fd[i] = dial(&end);
        tcp_end_close(&end);
        for (int i = 0; i < CONNS; i++)
            close(fd[i]);
        assert_int_equal(open_files(), before);
    }
}

/* Without descriptors it says so now and then, and accepts what has waited when it can. */
static void no_descriptors(void **state)
{
    for (size_t i = 0; i < sizeof engines / sizeof *engines; i++) {
        struct sockaddr_in sin = {.sin_family = AF_INET};
        struct rlimit limit, none;
        struct pollfd p = {.events = POLLIN};
        uint8_t hello[WIRE_HELLO_LEN];
        struct tcp_end end;
        uint64_t from;
        unsigned warnings;

        if (!try_open(&end, engines[i], "1"))
            continue;
        sin.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        sin.sin_port = htons(tcp_server_port(end.tp->server));
        p.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
        none = limit;
        none.rlim_cur = (rlim_t)dup(p.fd); /* the lowest that is free */
        close((int)none.rlim_cur);
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
        assert_int_equal(connect(p.fd, (struct sockaddr *)&sin, sizeof sin), 0);
        from = ft_now_ns();
        nanosleep(&(struct timespec){.tv_nsec = 500000000}, NULL);
        warnings = atomic_load(&end.warnings);
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
        assert_true(warnings >= 1);
        assert_true(warnings <= 2 + (ft_now_ns() - from) / (100 * NS_PER_MS));

        wire_put_hello(hello,
                       &(struct wire_hello){.version = WIRE_VERSION, .len = WIRE_HELLO_LEN});
        assert_int_equal(send(p.fd, hello, sizeof hello, 0), sizeof hello);
        assert_int_equal(poll(&p, 1, PATIENCE_MS), 1);
        close(p.fd);
        tcp_end_close(&end);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reset_closes_once),
        cmocka_unit_test(closed_while_accepting),
        cmocka_unit_test(no_descriptors),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
