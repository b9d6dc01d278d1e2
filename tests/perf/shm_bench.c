/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two processes of this host through the whole of Ferry over shm, beside the least that moves
 * the same bytes between the same buffers: memcpy into a mapping of the peer's memory, or one
 * process_vm_readv or writev a piece. One thread, contenders in turns, medians of the pairs;
 * `cpu` is the ratio of bytes moved in a second of CPU time, which holds on a busy machine too.
 * `./dev bench` prints it for docs/performance.md; not run as a test.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "ferry/ferry.h"

#define COLD      (UINT64_C(256) << 20)
#define REPS      7
#define RUN_NS    150000000u
#define MAX_BATCH 128u
#define SINGLES   20000u

struct side {
    struct ferry_engine *engine;
    uint8_t *mem;
};

struct hello { /* from the target */
    char name[256];
    uint64_t addr;
};

struct bench {
    struct side here;
    ferry_segment peer;
    uint64_t remote; /* the target's region, as it sees it */
    uint8_t *mapped; /* the same, mapped here; NULL = by process_vm_readv */
    pid_t pid;
};

static void die(const char *what, const char *why)
{
    fprintf(stderr, "shm_bench: %s: %s\n", what, why);
    exit(2);
}

static uint64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* `threads`: that may help; none beside a reference of one thread. */
static void open_side(struct side *side, const char *mode, unsigned threads, bool own_memory)
{
    char config[64];
    const uint32_t all = FERRY_REMOTE_READ | FERRY_REMOTE_WRITE;

    snprintf(config, sizeof(config), "{\"shm\":{\"mode\":\"%s\",\"copy_threads\":%u}}", mode,
             threads);
    struct ferry_options options = {.size = sizeof(options),
                                    .name = "127.0.0.1",
                                    .bind = "127.0.0.1",
                                    .protocol = "shm",
                                    .config_json = config};
    if (ferry_engine_open(&options, &side->engine))
        die("engine", ferry_error());
    if (own_memory) {
        if (ferry_memory_alloc(side->engine, COLD, all, (void **)&side->mem))
            die("memory", ferry_error());
    } else {
        side->mem =
            mmap(NULL, COLD, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (side->mem == MAP_FAILED)
            die("memory", strerror(errno));
        madvise(side->mem, COLD, MADV_NOHUGEPAGE); /* 4 KiB pages, as the peer's */
        struct ferry_buffer buffer = {.addr = side->mem, .len = COLD, .access = all};
        if (ferry_memory_register(side->engine, &buffer, 1))
            die("memory", ferry_error());
    }
    memset(side->mem, 1, COLD);
}

static pid_t start_target(const char *mode, struct hello *hello)
{
    int ctl[2];
    char byte;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ctl))
        die("socket", strerror(errno));
    pid_t pid = fork();
    if (pid == 0) {
        struct side side;
        struct hello mine = {.addr = 0};

        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(ctl[0]);
        open_side(&side, mode, 0, !strcmp(mode, "map"));
        snprintf(mine.name, sizeof(mine.name), "%s", ferry_engine_name(side.engine));
        mine.addr = (uintptr_t)side.mem;
        if (write(ctl[1], &mine, sizeof(mine)) < 0 || read(ctl[1], &byte, 1) < 0)
            exit(2);
        exit(0);
    }
    close(ctl[1]); /* the other end stays open as long as we live */
    if (recv(ctl[0], hello, sizeof(*hello), MSG_WAITALL) != (ssize_t)sizeof(*hello))
        die("target", "it has ended");
    return pid;
}

/* The target's memory itself, which its engine keeps to itself: found among its descriptors. */
static uint8_t *map_of(pid_t pid)
{
    char path[300], what[128];
    struct dirent *e;
    uint8_t *at = MAP_FAILED;

    snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
    DIR *dir = opendir(path);
    while (dir && at == MAP_FAILED && (e = readdir(dir)) != NULL) {
        snprintf(path, sizeof(path), "/proc/%d/fd/%s", (int)pid, e->d_name);
        ssize_t n = readlink(path, what, sizeof(what) - 1);
        what[n > 0 ? n : 0] = '\0';
        if (!strstr(what, "memfd:ferry-memory"))
            continue;
        int fd = open(path, O_RDWR | O_CLOEXEC);
        at = mmap(NULL, COLD, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        close(fd);
    }
    if (dir)
        closedir(dir);
    if (at == MAP_FAILED)
        die("the target's memory", "not found");
    return at;
}

/* --- what is compared -----------------------------------------------------------------------
 */

typedef void mover(struct bench *bench, bool read, uint64_t off, uint64_t size, unsigned batch);

static void move_ferry(struct bench *bench, bool read, uint64_t off, uint64_t size,
                       unsigned batch)
{
    struct ferry_request v[MAX_BATCH];

    for (unsigned i = 0; i < batch; i++)
        v[i] = (struct ferry_request){.local = bench->here.mem + off + i * size,
                                      .remote = bench->remote + off + i * size,
                                      .len = size,
                                      .segment = bench->peer,
                                      .op = read ? FERRY_READ : FERRY_WRITE};
    if (ferry_transfer(bench->here.engine, v, batch, NULL, NULL))
        die("transfer", ferry_error());
}

static void move_raw(struct bench *bench, bool read, uint64_t off, uint64_t size,
                     unsigned batch)
{
    for (unsigned i = 0; i < batch; i++) {
        uint8_t *local = bench->here.mem + off + i * size;

        if (bench->mapped) {
            uint8_t *remote = bench->mapped + off + i * size;
            memcpy(read ? local : remote, read ? remote : local, size);
        } else {
            struct iovec l = {local, size};
            struct iovec r = {(void *)(uintptr_t)(bench->remote + off + i * size), size};
            ssize_t n = read ? process_vm_readv(bench->pid, &l, 1, &r, 1, 0)
                             : process_vm_writev(bench->pid, &l, 1, &r, 1, 0);
            if (n != (ssize_t)size)
                die("process_vm", strerror(errno));
        }
    }
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median(double *v, unsigned n)
{
    qsort(v, n, sizeof(*v), by_value);
    return v[n / 2];
}

static uint64_t cpu_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* GB/s; *cpu_out: GB for each second of CPU time. */
static double stream(struct bench *bench, mover *move, bool read, uint64_t size, unsigned batch,
                     double *cpu_out)
{
    static uint64_t at; /* goes on where the last one stopped: cold for both */
    uint64_t bytes = 0, from = now_ns(), cpu = cpu_ns(), ns;

    do {
        if (at + size * batch > COLD)
            at = 0;
        move(bench, read, at, size, batch);
        at += size * batch;
        bytes += size * batch;
        ns = now_ns() - from;
    } while (ns < RUN_NS);
    *cpu_out = (double)bytes / (double)(cpu_ns() - cpu);
    return (double)bytes / (double)ns;
}

static void row(struct bench *bench, const char *mode, bool read, uint64_t size, unsigned batch)
{
    double raw[REPS], ferry[REPS], ratio[REPS], cpu[REPS];

    for (unsigned i = 0; i < REPS; i++) {
        double raw_cpu, ferry_cpu;

        raw[i] = stream(bench, move_raw, read, size, batch, &raw_cpu);
        ferry[i] = stream(bench, move_ferry, read, size, batch, &ferry_cpu);
        ratio[i] = ferry[i] / raw[i];
        cpu[i] = ferry_cpu / raw_cpu;
    }
    printf("%-4s  %-5s  %6lluk x %-3u  %6.2f  %6.2f  %5.2f  %5.2f\n", mode,
           read ? "read" : "write", (unsigned long long)size >> 10, batch, median(raw, REPS),
           median(ferry, REPS), median(ratio, REPS), median(cpu, REPS));
    fflush(stdout);
}

static void single(struct bench *bench, const char *mode, bool read)
{
    static double ns[2][SINGLES];

    for (unsigned i = 0; i < SINGLES; i++) {
        for (unsigned who = 0; who < 2; who++) {
            uint64_t from = now_ns();
            (who ? move_ferry : move_raw)(bench, read, 0, 4096, 1);
            ns[who][i] = (double)(now_ns() - from);
        }
    }
    double raw = median(ns[0], SINGLES), ferry = median(ns[1], SINGLES);
    printf("%-4s  %-5s  one of 4 KiB, us: p50 %.2f raw, %.2f ferry; p99 %.2f raw, %.2f ferry\n",
           mode, read ? "read" : "write", raw / 1000, ferry / 1000,
           ns[0][SINGLES / 100 * 99] / 1000, ns[1][SINGLES / 100 * 99] / 1000);
    fflush(stdout);
}

static void compare(const char *mode, unsigned threads)
{
    static const struct {
        uint64_t size;
        unsigned batch;
    } shapes[] = {{4096, 128}, {65536, 16}, {1 << 20, 1}, {1 << 20, 16}, {16 << 20, 4}};
    struct bench bench = {.mapped = NULL};
    struct hello hello;

    bench.pid = start_target(mode, &hello);
    open_side(&bench.here, mode, threads, false);
    bench.remote = hello.addr;
    if (!strcmp(mode, "map"))
        bench.mapped = map_of(bench.pid);
    if (ferry_segment_open(bench.here.engine, hello.name, 5000, &bench.peer))
        die("segment", ferry_error());
    for (uint64_t off = 0; off < COLD; off += 16 << 20) { /* every page is mapped, everywhere */
        move_ferry(&bench, false, off, 16 << 20, 1);
        move_raw(&bench, false, off, 16 << 20, 1);
    }
    for (unsigned read = 0; read < 2; read++)
        for (unsigned i = threads ? 2 : 0; i < sizeof(shapes) / sizeof(*shapes); i++)
            row(&bench, mode, read, shapes[i].size, shapes[i].batch);
    for (unsigned read = 0; read < 2 && !threads; read++)
        single(&bench, mode, read);
    ferry_engine_close(bench.here.engine, 1000);
    munmap(bench.here.mem, COLD);
    if (bench.mapped)
        munmap(bench.mapped, COLD);
    kill(bench.pid, SIGKILL);
}

int main(void)
{
    printf(
        "mode  op       size x batch     raw   ferry  ratio    cpu   (GB/s, %llu MiB cold)\n",
        (unsigned long long)(COLD >> 20));
    compare("map", 0);
    compare("cma", 0);
    printf("with helpers while processors are idle, beside the same one thread\n");
    compare("map", 3);
    compare("cma", 3);
    return 0;
}
