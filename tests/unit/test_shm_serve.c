/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The shm transport's thread: it sleeps while there is nothing to do, whoever forked, died or
 * took the last descriptor; and it serves many questions at once.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>

#include "bystander.h"
#include "shm_end.h"

#define PATIENCE_NS (10 * UINT64_C(1000000000))

static void sleep_ms(unsigned ms)
{
    nanosleep(&(struct timespec){.tv_nsec = ms * 1000000L}, NULL);
}

static uint64_t cpu_ns(const struct end *end)
{
    struct timespec ts;
    clockid_t clock;

    assert_int_equal(pthread_getcpuclockid(end->tp->thread, &clock), 0);
    assert_int_equal(clock_gettime(clock, &ts), 0);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void sleeps(const struct end *end)
{
    uint64_t before = cpu_ns(end);

    sleep_ms(300);
    assert_true(cpu_ns(end) - before < 100000000u);
}

/* Another process that is attached to `there`. */
static pid_t fork_initiator(struct end *there)
{
    static struct attrs a;
    int pipes[2];
    char byte;

    attrs_of(there, &a);
    assert_int_equal(pipe(pipes), 0);
    pid_t pid = fork();
    if (pid == 0) {
        static struct end here;
        struct way way;

        prctl(PR_SET_PDEATHSIG, SIGKILL);
        end_open(&here, "map", -1);
        if (way_open(&here, &a, &way) || write(pipes[1], "x", 1) < 0)
            _exit(3);
        for (;;)
            pause();
    }
    close(pipes[1]);
    assert_int_equal(read(pipes[0], &byte, 1), 1);
    close(pipes[0]);
    return pid;
}

/* Another process with a target, which publishes `a`. */
static pid_t fork_target(struct attrs *a)
{
    int pipes[2];

    assert_int_equal(pipe(pipes), 0);
    pid_t pid = fork();
    if (pid == 0) {
        static struct end there;

        prctl(PR_SET_PDEATHSIG, SIGKILL);
        end_open(&there, "map", F_SEAL_SHRINK);
        attrs_of(&there, a);
        if (write(pipes[1], a, sizeof(*a)) < 0)
            _exit(3);
        for (;;)
            pause();
    }
    close(pipes[1]);
    assert_int_equal(read(pipes[0], a, sizeof(*a)), sizeof(*a));
    close(pipes[0]);
    return pid;
}

static void killed_initiator_after_fork(void **state)
{
    struct end there;

    needs_fork("killed_initiator_after_fork");
    end_open(&there, "map", F_SEAL_SHRINK);
    pid_t pid = fork_initiator(&there);
    pid_t child = fork_bystander();
    end_process(pid);
    sleeps(&there);
    end_close(&there);
    end_process(child);
}

static void killed_target_after_fork(void **state)
{
    static struct attrs a;
    struct end here;
    struct way way;

    needs_fork("killed_target_after_fork");
    pid_t pid = fork_target(&a);
    end_open(&here, "map", -1);
    assert_int_equal(way_open(&here, &a, &way), FERRY_OK);
    pid_t child = fork_bystander();
    way_close(&way);
    end_process(pid);
    sleeps(&here);
    end_close(&here);
    end_process(child);
}

static bool has_clients(struct end *end)
{
    pthread_mutex_lock(&end->tp->lock);
    bool any = end->tp->clients;
    pthread_mutex_unlock(&end->tp->lock);
    return any;
}

/* The other end is told at once: it forgets the grants, or reaches nobody. */
static void closed_after_fork(void **state)
{
    struct end here, there;
    struct attrs a;
    struct way way;

    needs_fork("closed_after_fork");
    end_open(&here, "map", -1);
    end_open(&there, "map", F_SEAL_SHRINK);
    attrs_of(&there, &a);
    assert_int_equal(way_open(&here, &a, &way), FERRY_OK);
    pid_t child = fork_bystander();
    way_close(&way);
    for (uint64_t end = ft_now_ns() + PATIENCE_NS; has_clients(&there); sleep_ms(1))
        assert_true(ft_now_ns() < end);
    end_close(&there);
    assert_int_equal(way_open(&here, &a, &way), FERRY_EUNREACH);
    assert_true(said("nobody listens"));
    way_close(&way);
    end_close(&here);
    end_process(child);
}

/* Who knocks while no descriptor is to be had waits, and is let in later. */
static void no_descriptors(void **state)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    struct rlimit limit, none;
    struct end there;

    end_open(&there, "map", F_SEAL_SHRINK);
    size_t len = strlen(there.tp->sock);
    memcpy(addr.sun_path + 1, there.tp->sock, len);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    none = limit;
    none.rlim_cur = (rlim_t)dup(fd); /* the lowest that is free */
    close((int)none.rlim_cur);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    assert_int_equal(connect(fd, (void *)&addr,
                             (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + len)),
                     0);
    for (uint64_t end = ft_now_ns() + PATIENCE_NS; !said("Too many open files"); sleep_ms(1))
        assert_true(ft_now_ns() < end);
    sleeps(&there);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    for (uint64_t end = ft_now_ns() + PATIENCE_NS; !has_clients(&there); sleep_ms(1))
        assert_true(ft_now_ns() < end);
    close(fd);
    end_close(&there);
}

/* Regions in numbers: REGIONS parts of one memfd, each registered by itself. */
enum { REGIONS = 2000, PART = 128 };

static void register_parts(struct end *end, struct ferry_mr **parts)
{
    struct ferry_mem_desc *d = calloc(REGIONS, sizeof(*d));

    assert_non_null(d);
    for (uint32_t i = 0; i < REGIONS; i++)
        d[i] = (struct ferry_mem_desc){.size = sizeof(*d),
                                       .addr = end->mem + i * PART,
                                       .len = PART,
                                       .dmabuf_fd = -1,
                                       .access = ALL,
                                       .flags = FERRY_MEM_MEMFD,
                                       .memfd = end->memfd,
                                       .memfd_off = (uint64_t)i * PART};
    assert_int_equal(shm_mem_reg(end->tp, d, REGIONS, parts), FERRY_OK);
    free(d);
}

/* False: the queue is full. */
static bool submit_part(struct end *here, struct way *way, struct ferry_rmem *rmem, uint32_t i)
{
    struct ferry_xfer x = {
        .mr = here->mr, .rmem = rmem, .local = here->mem + i * PART, .len = PART};
    struct ferry_list list = {.size = sizeof(list),
                              .op = FERRY_OP_WRITE,
                              .peer = way->peer,
                              .v = &x,
                              .n = 1,
                              .cookie = i};
    uint32_t accepted;
    ferry_status status = shm_submit(way->queue, &list, &accepted);

    assert_true(status == FERRY_OK || status == FERRY_EAGAIN);
    return accepted;
}

static void transfer_parts(struct end *here, struct way *way, struct ferry_rmem **rmem)
{
    uint64_t end = ft_now_ns() + PATIENCE_NS;

    for (uint32_t next = 0, done = 0; done < REGIONS;) {
        struct ferry_comp comp;

        if (next < REGIONS)
            next += submit_part(here, way, rmem[next], next);
        while (shm_poll(way->queue, &comp, 1)) {
            assert_int_equal(comp.status, FERRY_OK);
            done++;
        }
        assert_true(ft_now_ns() < end);
    }
}

/* More questions than a socket takes, while the answers are not read: the target answers those
 * that it gets, and the others are asked when that is over. */
static void many_regions(void **state)
{
    static struct ferry_mr *parts[REGIONS];
    static struct ferry_rmem *rmem[REGIONS];
    struct ferry_queue_attr attr = {.size = sizeof(attr), .depth = REGIONS};
    struct ferry_kvs none = {.n = 0};
    struct end here, there;
    struct attrs a;
    struct way way;
    struct rlimit files;

    assert_int_equal(getrlimit(RLIMIT_NOFILE, &files), 0);
    files.rlim_cur = files.rlim_max; /* one of each region */
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &files), 0);
    end_open(&here, "map", -1);
    end_open(&there, "map", F_SEAL_SHRINK);
    shm_mem_dereg(there.tp, &there.mr, 1);
    there.mr = NULL;
    register_parts(&there, parts);
    attrs_of(&there, &a);
    assert_int_equal(open_peer(&here, &a, &way.peer), FERRY_OK);
    for (uint32_t i = 0; i < REGIONS; i++)
        assert_int_equal(shm_rmem_open(way.peer, a.mem + i * PART, PART, &none, &rmem[i]),
                         FERRY_OK);
    assert_int_equal(shm_queue_open(here.tp, &attr, &way.queue), FERRY_OK);
    assert_int_equal(shm_peer_attach(way.peer, way.queue, 5000), FERRY_OK);

    pthread_mutex_lock(&here.tp->lock); /* its thread takes no answer now */
    for (int round = 0; round < 10; round++) {
        for (uint32_t i = 0; i < REGIONS; i++)
            shm_ask(way.peer->conn, rmem[i]);
        sleep_ms(10);
    }
    pthread_mutex_unlock(&here.tp->lock);

    memset(here.mem, 0x42, LEN);
    transfer_parts(&here, &way, rmem);
    assert_memory_equal(here.mem, there.mem, REGIONS * PART);

    /* Nor is what is taken back too much, all at once. */
    pthread_mutex_lock(&here.tp->lock);
    shm_mem_dereg(there.tp, parts, REGIONS);
    pthread_mutex_unlock(&here.tp->lock);
    register_parts(&there, parts);
    memset(here.mem, 0x17, LEN);
    transfer_parts(&here, &way, rmem);
    assert_memory_equal(here.mem, there.mem, REGIONS * PART);
    shm_peer_close(way.peer);
    shm_queue_close(way.queue);
    shm_mem_dereg(there.tp, parts, REGIONS);
    end_close(&here);
    end_close(&there);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(killed_initiator_after_fork),
        cmocka_unit_test(killed_target_after_fork),
        cmocka_unit_test(closed_after_fork),
        cmocka_unit_test(no_descriptors),
        cmocka_unit_test(many_regions),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
