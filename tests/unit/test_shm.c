/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whom the shm transport refuses (another host, user, pid namespace, a pid that belongs to
 * somebody else by now), and that what was taken back is not touched any more. Links the
 * transport without its table.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "shm_end.h"

/* --- what it publishes, with single values forged -------------------------------------------
 */

static void forge(struct attrs *a, const char *key, const char *val)
{
    for (size_t i = 0; i < a->n; i++) {
        if (!strcmp(a->key[i], key)) {
            snprintf(a->val[i], sizeof(a->val[0]), "%s", val);
            return;
        }
    }
    fail_msg("no attribute %s", key);
}

/* Open and attached, or what refused it; the words are in last_words. */
static ferry_status reach(struct end *end, struct attrs *a)
{
    struct ferry_queue_attr attr = {.size = sizeof(attr), .depth = 8};
    struct ferry_peer *peer;
    struct ferry_queue *queue;
    ferry_status status = open_peer(end, a, &peer);

    if (status)
        return status;
    assert_int_equal(shm_queue_open(end->tp, &attr, &queue), FERRY_OK);
    status = shm_peer_attach(peer, queue, 1000);
    shm_peer_close(peer);
    shm_queue_close(queue);
    return status;
}

static void refused(struct end *end, struct attrs *a, const char *words)
{
    ferry_status status = reach(end, a);

    if (ferry_status_scope(status) != FERRY_SCOPE_PEER)
        fail_msg("status %d, expected one of peer scope", (int)status);
    if (!strstr(last_words, words))
        fail_msg("\"%s\" does not say \"%s\"", last_words, words);
}

/* --- a target in another process
 * --------------------------------------------------------------- */

/* Waits for a byte on `ctl`, then ends. Its attributes come first. */
static void target_main(int ctl, uid_t uid, const char *mode)
{
    static struct end end;
    static struct attrs a;
    char byte;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (uid && (setgid(uid) || setuid(uid)))
        _exit(3);
    prctl(PR_SET_DUMPABLE, 1); /* who changes its user is not, and cannot read its own /proc */
    end_open(&end, mode, F_SEAL_SHRINK);
    attrs_of(&end, &a);
    if (write(ctl, &a, sizeof(a)) != (ssize_t)sizeof(a) || read(ctl, &byte, 1) < 0)
        _exit(4);
    _exit(0);
}

static pid_t target_fork(uid_t uid, const char *mode, struct attrs *a, int *ctl_out)
{
    int ctl[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ctl), 0);
    pid_t pid = fork();
    if (pid == 0) {
        close(ctl[0]);
        target_main(ctl[1], uid, mode);
    }
    close(ctl[1]);
    assert_int_equal(recv(ctl[0], a, sizeof(*a), MSG_WAITALL), (int)sizeof(*a));
    *ctl_out = ctl[0];
    return pid;
}

static void target_end(pid_t pid, int ctl)
{
    close(ctl);
    waitpid(pid, NULL, 0);
}

/* Runs `body` in a process of its own; skips where it exits with 77. */
static void apart(const char *name, void (*body)(void))
{
    int how;
    pid_t pid;

    needs_fork(name);
    pid = fork();

    if (pid == 0) {
        body();
        _exit(0);
    }
    waitpid(pid, &how, 0);
    if (WIFEXITED(how) && WEXITSTATUS(how) == 77) {
        printf("not run: %s: needs root\n", name);
        skip();
    }
    assert_true(WIFEXITED(how));
    assert_int_equal(WEXITSTATUS(how), 0);
}

/* Inside `apart` cmocka's failures do not count: exit statuses do. */
#define MUST(what)                                                                             \
    do {                                                                                       \
        if (!(what)) {                                                                         \
            fprintf(stderr, "%s:%d: not so: %s (%s)\n", __FILE__, __LINE__, #what,             \
                    last_words);                                                               \
            _exit(1);                                                                          \
        }                                                                                      \
    } while (0)

static bool lost(ferry_status status, const char *words)
{
    return ferry_status_scope(status) == FERRY_SCOPE_PEER && strstr(last_words, words);
}

/* --- refusals
 * ---------------------------------------------------------------------------------------- */

static void other_host(void **state)
{
    struct end end;
    struct attrs a;

    end_open(&end, "auto", -1);
    attrs_of(&end, &a);
    assert_int_equal(reach(&end, &a), FERRY_OK);
    forge(&a, "shm_boot", "5b6f6c9e-0000-4000-8000-000000000000");
    refused(&end, &a, "on another host: boot id 5b6f6c9e-0000-4000-8000-000000000000 there");
    end_close(&end);
}

/* Whatever is published: the process that answers must be the one that is meant. */
static void forged(void **state)
{
    struct end end;
    struct attrs good, a;

    end_open(&end, "auto", -1);
    attrs_of(&end, &good);
    a = good;
    forge(&a, "shm_pid", "1");
    refused(&end, &a, "answers where process 1 is expected");
    a = good;
    forge(&a, "shm_start", "1");
    refused(&end, &a, "its number belongs to another one now");
    a = good;
    forge(&a, "shm_token", "00000000000000000000000000000000");
    assert_int_equal(reach(&end, &a), FERRY_ESTALE);
    a = good;
    forge(&a, "shm_socket", "ferry-shm-nobody");
    refused(&end, &a, "nobody listens at UNIX socket @ferry-shm-nobody");
    a = good;
    forge(&a, "shm_token_addr", "4096");
    refused(&end, &a, "process_vm_readv of process");
    a = good;
    char where[24];
    snprintf(where, sizeof(where), "%llu", (unsigned long long)(uintptr_t)end.mem);
    forge(&a, "shm_token_addr", where); /* readable, and other bytes */
    refused(&end, &a, "is not the peer's");
    a = good;
    forge(&a, "shm_uid", "-1");
    assert_int_equal(reach(&end, &a), FERRY_EINVAL);
    end_close(&end);
}

static void two_users_body(void)
{
    static struct end end;
    static struct attrs a;
    char own[24];
    int ctl;

    if (geteuid() != 0)
        _exit(77);
    pid_t pid = target_fork(65534, "auto", &a, &ctl);
    end_open(&end, "auto", -1);
    MUST(lost(reach(&end, &a), "runs as user 65534, this process as user 0"));
    snprintf(own, sizeof(own), "%u", (unsigned)geteuid());
    forge(&a, "shm_uid", own); /* what it says does not matter */
    MUST(lost(reach(&end, &a), "runs as user 65534, this process as user 0"));
    target_end(pid, ctl);

    /* the other way: somebody else knocks, and is shown the door by the target itself */
    attrs_of(&end, &a);
    pid = fork();
    if (pid == 0) {
        struct sockaddr_un addr = {.sun_family = AF_UNIX};
        struct shm_msg msg = {.magic = SHM_MAGIC, .type = SHM_HELLO};
        size_t len = strlen(end.tp->sock);
        int fd = socket(AF_UNIX, SOCK_SEQPACKET, 0);

        memcpy(addr.sun_path + 1, end.tp->sock, len);
        memcpy(msg.token, end.tp->token, SHM_TOKEN_LEN);
        if (setgid(65534) || setuid(65534) ||
            connect(fd, (void *)&addr,
                    (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + len)))
            _exit(2);
        if (send(fd, &msg, sizeof(msg), MSG_NOSIGNAL) < 0)
            _exit(0); /* closed already */
        _exit(recv(fd, &msg, sizeof(msg), 0) > 0 ? 1 : 0);
    }
    int how;
    waitpid(pid, &how, 0);
    MUST(WIFEXITED(how) && WEXITSTATUS(how) == 0);
    end_close(&end);
}

static void two_users(void **state)
{
    apart("two_users", two_users_body);
}

static void two_namespaces_body(void)
{
    static struct end end;
    static struct attrs a;
    char own[24];
    int ctl;

    if (geteuid() != 0)
        _exit(77);
    end_open(&end, "auto", -1); /* before: who has unshared starts no thread any more */
    if (unshare(CLONE_NEWPID))
        _exit(77);
    pid_t pid = target_fork(0, "auto", &a, &ctl); /* the first of the new namespace */
    MUST(lost(reach(&end, &a), "is in another pid namespace"));
    snprintf(own, sizeof(own), "%llu", (unsigned long long)end.tp->ident.pidns);
    forge(&a, "shm_pidns", own);
    MUST(lost(reach(&end, &a), "where process 1 is expected"));
    target_end(pid, ctl);
    end_close(&end);
}

static void two_namespaces(void **state)
{
    apart("two_namespaces", two_namespaces_body);
}

/* A target dies, a fork of it keeps its sockets, and its number goes to another process that
 * has memory at the very address. */
static void recycled_in(const char *mode, int seals)
{
    static struct end end;
    static struct attrs a;
    struct way way;
    int ctl[2], pipes[2];
    char byte, text[16];

    MUST(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ctl) && !pipe2(pipes, O_CLOEXEC));
    pid_t pid = fork();
    if (pid == 0) {
        static struct end target;
        end_open(&target, mode, seals);
        attrs_of(&target, &a);
        if (write(ctl[1], &a, sizeof(a)) < 0 || read(ctl[1], &byte, 1) < 0)
            _exit(4);
        if (fork() == 0) { /* keeps what is open */
            prctl(PR_SET_PDEATHSIG, 0);
            if (write(ctl[1], "k", 1) < 0)
                _exit(4);
            for (;;)
                pause();
        }
        for (;;)
            pause();
    }
    MUST(recv(ctl[0], &a, sizeof(a), MSG_WAITALL) == (ssize_t)sizeof(a));
    end_open(&end, mode, -1);
    MUST(way_open(&end, &a, &way) == FERRY_OK);
    MUST(transfer(&end, &way, FERRY_OP_WRITE, 4096) == FERRY_OK);
    MUST(write(ctl[0], "x", 1) == 1 && read(ctl[0], &byte, 1) == 1);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);

    snprintf(text, sizeof(text), "%d", (int)pid - 1);
    int fd = open("/proc/sys/kernel/ns_last_pid", O_WRONLY);
    if (fd < 0 || write(fd, text, strlen(text)) < 0)
        _exit(77);
    close(fd);
    pid_t again = fork();
    if (again == 0) {
        uint8_t *mem = mmap((void *)(uintptr_t)a.mem, LEN, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        memset(mem, 0x5a, LEN);
        if (write(pipes[1], "r", 1) < 0 || read(ctl[1], &byte, 1) < 0)
            _exit(4);
        for (uint64_t i = 0; i < LEN; i++)
            if (mem[i] != 0x5a)
                _exit(9);
        _exit(0);
    }
    MUST(again == pid);
    MUST(read(pipes[0], &byte, 1) == 1);
    memset(end.mem, 0xee, LEN);
    MUST(ferry_status_scope(transfer(&end, &way, FERRY_OP_WRITE, LEN)) == FERRY_SCOPE_PEER);
    MUST(lost(reach(&end, &a), "has ended"));
    MUST(write(ctl[0], "x", 1) == 1);
    int how;
    waitpid(again, &how, 0);
    MUST(WIFEXITED(how) && WEXITSTATUS(how) == 0); /* 9: it was written to */
    way_close(&way);
    end_close(&end);
}

static void recycled_body(void)
{
    if (geteuid() != 0 || unshare(CLONE_NEWPID | CLONE_NEWNS))
        _exit(77);
    pid_t first = fork(); /* the namespace's init: what is left in it dies with it */
    if (first == 0) {
        if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
            mount("proc", "/proc", "proc", 0, NULL))
            _exit(77);
        recycled_in("cma", -1);
        recycled_in("map", F_SEAL_SHRINK);
        _exit(0);
    }
    int how;
    waitpid(first, &how, 0);
    _exit(WIFEXITED(how) ? WEXITSTATUS(how) : 1);
}

static void recycled(void **state)
{
    apart("recycled", recycled_body);
}

/* --- rights and their end
 * ------------------------------------------------------------------------------ */

/* Permissions of the mapping at `at`, as /proc tells them. */
static void perms_of(const void *at, char perms[5])
{
    char line[512];
    FILE *f = fopen("/proc/self/maps", "re");

    assert_non_null(f);
    perms[0] = '\0';
    while (fgets(line, sizeof(line), f)) {
        unsigned long from, to;
        char p[5];
        if (sscanf(line, "%lx-%lx %4s", &from, &to, p) == 3 && (uintptr_t)at >= from &&
            (uintptr_t)at < to)
            memcpy(perms, p, 5);
    }
    fclose(f);
}

static void reads_only(void **state)
{
    struct end here, there;
    struct attrs a;
    struct way way;
    char perms[5];

    end_open(&here, "map", -1);
    end_open(&there, "map", F_SEAL_SHRINK);
    atomic_store(&there.live, false);
    shm_mem_dereg(there.tp, &there.mr, 1);
    register_mem(&there, FERRY_ACCESS_REMOTE_READ);
    attrs_of(&there, &a);
    assert_int_equal(way_open(&here, &a, &way), FERRY_OK);
    memset(there.mem, 0x21, LEN);
    assert_int_equal(transfer(&here, &way, FERRY_OP_READ, LEN), FERRY_OK);
    assert_memory_equal(here.mem, there.mem, LEN);
    assert_int_equal(transfer(&here, &way, FERRY_OP_WRITE, 1), FERRY_EACCESS);
    assert_non_null(way.rmem->map);
    perms_of(way.rmem->map, perms);
    assert_string_equal(perms, "r--s");
    assert_int_not_equal(mprotect(way.rmem->map_start, way.rmem->map_len, PROT_WRITE), 0);
    way_close(&way);
    end_close(&here);
    end_close(&there);
}

/* Memory that its owner could shrink is read by the kernel, which survives that. */
static void maps_what_is_sealed(void **state)
{
    for (int sealed = 0; sealed < 2; sealed++) {
        struct end here, there;
        struct attrs a;
        struct way way;

        end_open(&here, "auto", -1);
        end_open(&there, "auto", sealed ? F_SEAL_SHRINK : 0);
        attrs_of(&there, &a);
        assert_int_equal(way_open(&here, &a, &way), FERRY_OK);
        memset(here.mem, 0x42, LEN);
        assert_int_equal(transfer(&here, &way, FERRY_OP_WRITE, LEN), FERRY_OK);
        assert_memory_equal(here.mem, there.mem, LEN);
        assert_int_equal(way.rmem->map != NULL, sealed);
        if (!sealed) {
            assert_int_equal(ftruncate(there.memfd, 0), 0);
            assert_int_equal(transfer(&here, &way, FERRY_OP_READ, LEN), FERRY_EACCESS);
        }
        way_close(&way);
        end_close(&here);
        end_close(&there);
    }
}

struct copier {
    struct end *end;
    struct way *way;
    atomic_bool stop;
    atomic_uint done, turned_away;
};

static void *copier_main(void *arg)
{
    struct copier *c = arg;

    while (!atomic_load(&c->stop)) {
        ferry_status status = transfer(c->end, c->way, FERRY_OP_WRITE, LEN);
        if (status == FERRY_OK)
            c->done++;
        else if (status == FERRY_ERANGE)
            c->turned_away++;
        else
            abort();
    }
    return NULL;
}

/* A peer writes without end; from the moment mem_dereg returns not a byte of it lands. */
static void revoked_in(const char *mode, int seals)
{
    struct end here, there;
    struct attrs a;
    struct way way;
    pthread_t thread;

    end_open(&here, mode, -1);
    end_open(&there, mode, seals);
    attrs_of(&there, &a);
    assert_int_equal(way_open(&here, &a, &way), FERRY_OK);
    memset(here.mem, 0xee, LEN);
    struct copier c = {.end = &here, .way = &way};
    assert_int_equal(pthread_create(&thread, NULL, copier_main, &c), 0);
    for (unsigned round = 0; round < 100; round++) {
        nanosleep(&(struct timespec){.tv_nsec = 1000000 + round * 10000}, NULL);
        atomic_store(&there.live, false);
        shm_mem_dereg(there.tp, &there.mr, 1);
        there.mr = NULL;
        memset(there.mem, 0x11, LEN);
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        for (uint64_t i = 0; i < LEN; i++)
            if (there.mem[i] != 0x11)
                fail_msg("%s: round %u: byte %llu written after mem_dereg", mode, round,
                         (unsigned long long)i);
        register_mem(&there, ALL);
    }
    atomic_store(&c.stop, true);
    pthread_join(thread, NULL);
    assert_true(c.done && c.turned_away);
    way_close(&way);
    end_close(&here);
    end_close(&there);
}

static void revoked(void **state)
{
    revoked_in("cma", -1);
    revoked_in("map", F_SEAL_SHRINK);
}

/* Two queues ask for what is gone, each again after its own refusal: the answer to one comes
 * while the other looks at the last. */
static void refused_to_two_queues(void **state)
{
    struct ferry_queue_attr attr = {.size = sizeof(attr), .depth = 8};
    struct end here, there;
    struct attrs a;
    struct way ways[2];
    struct copier copiers[2];
    pthread_t threads[2];

    end_open(&here, "cma", -1);
    end_open(&there, "cma", -1);
    attrs_of(&there, &a);
    atomic_store(&there.live, false);
    shm_mem_dereg(there.tp, &there.mr, 1);
    there.mr = NULL;
    assert_int_equal(way_open(&here, &a, &ways[0]), FERRY_OK);
    ways[1] = ways[0];
    assert_int_equal(shm_queue_open(here.tp, &attr, &ways[1].queue), FERRY_OK);
    assert_int_equal(shm_peer_attach(ways[1].peer, ways[1].queue, 1000), FERRY_OK);
    for (unsigned i = 0; i < 2; i++) {
        copiers[i] = (struct copier){.end = &here, .way = &ways[i]};
        assert_int_equal(pthread_create(&threads[i], NULL, copier_main, &copiers[i]), 0);
    }
    for (unsigned i = 0; i < 2; i++)
        while (atomic_load(&copiers[i].turned_away) < 2000 && !atomic_load(&copiers[i].done))
            sched_yield();
    for (unsigned i = 0; i < 2; i++) {
        atomic_store(&copiers[i].stop, true);
        pthread_join(threads[i], NULL);
        assert_int_equal(copiers[i].done, 0);
    }
    way_close(&ways[0]);
    shm_queue_close(ways[1].queue);
    end_close(&here);
    end_close(&there);
}

/* One that was killed in the middle of a copy holds up nobody: its line stays odd for ever. */
static void killed_while_copying(void **state)
{
    struct end there;
    struct attrs a;
    int ctl[2];
    char byte;

    needs_fork("killed_while_copying");
    end_open(&there, "map", F_SEAL_SHRINK);
    attrs_of(&there, &a);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ctl), 0);
    pid_t pid = fork();
    if (pid == 0) {
        static struct end here;
        struct way way;
        end_open(&here, "map", -1);
        if (way_open(&here, &a, &way) || transfer(&here, &way, FERRY_OP_WRITE, 64))
            _exit(3);
        shm_enter(way.peer->conn->page, 0);
        if (write(ctl[1], "x", 1) < 0)
            _exit(3);
        for (;;)
            pause();
    }
    assert_int_equal(read(ctl[0], &byte, 1), 1);
    close(ctl[0]);
    close(ctl[1]);
    /* ends it while mem_dereg waits */
    pid_t killer = fork();
    if (killer == 0) {
        nanosleep(&(struct timespec){.tv_nsec = 200000000}, NULL);
        kill(pid, SIGKILL);
        _exit(0);
    }
    struct timespec from, to;
    clock_gettime(CLOCK_MONOTONIC, &from);
    atomic_store(&there.live, false);
    shm_mem_dereg(there.tp, &there.mr, 1);
    there.mr = NULL;
    clock_gettime(CLOCK_MONOTONIC, &to);
    int64_t ms = (to.tv_sec - from.tv_sec) * 1000 + (to.tv_nsec - from.tv_nsec) / 1000000;
    assert_true(ms >= 100); /* it has waited as long as bytes could come */
    waitpid(pid, NULL, 0);
    waitpid(killer, NULL, 0);
    end_close(&there);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(other_host),
        cmocka_unit_test(forged),
        cmocka_unit_test(two_users),
        cmocka_unit_test(two_namespaces),
        cmocka_unit_test(recycled),
        cmocka_unit_test(reads_only),
        cmocka_unit_test(maps_what_is_sealed),
        cmocka_unit_test(revoked),
        cmocka_unit_test(refused_to_two_queues),
        cmocka_unit_test(killed_while_copying),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
