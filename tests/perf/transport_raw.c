/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two processes, one transport plugin, nothing of the core: batches of the shape that the
 * arguments say, from a target's registered memory or into it. For whoever tunes a transport;
 * not run as a test. `transport_raw --help` lists the arguments.
 */
#include <dirent.h>
#include <dlfcn.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "ferry/transport_plugin.h"

#define CHECK(what)                                                                            \
    do {                                                                                       \
        if (!(what)) {                                                                         \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #what);                         \
            exit(2);                                                                           \
        }                                                                                      \
    } while (0)

static struct {
    const char *plugin, *op, *mode, *keys;
    size_t block, batch, total, region, depth, queues, reps;
    bool adjacent, verify, pin, huge;
    int log_level;
} opt = {.op = "write",
         .mode = "spin",
         .keys = "",
         .block = 65536,
         .batch = 16,
         .total = 1u << 30,
         .region = 256u << 20,
         .depth = 1,
         .queues = 1,
         .reps = 3,
         .adjacent = true,
         .pin = true,
         .log_level = FERRY_LOG_WARN};

/* What the processes tell each other. */
struct shared {
    char port[16], version[16], incarnation[32];
    uint64_t addr;
    double cpu;
    int pad;
};
static struct shared *shared;
static char *region_base;

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double cpu(void)
{
    struct rusage r;

    getrusage(RUSAGE_SELF, &r);
    return (double)(r.ru_utime.tv_sec + r.ru_stime.tv_sec) +
           (double)(r.ru_utime.tv_usec + r.ru_stime.tv_usec) * 1e-6;
}

static size_t parse_size(const char *s)
{
    char *end;
    double v = strtod(s, &end);

    return (size_t)(v * (*end == 'k'   ? 1024
                         : *end == 'm' ? 1048576
                         : *end == 'g' ? 1073741824
                                       : 1));
}

/* --- a host of one region --- */

static void host_log(const struct ferry_host *host, enum ferry_log_level level,
                     const char *file, int line, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));

static void host_log(const struct ferry_host *host, enum ferry_log_level level,
                     const char *file, int line, const char *fmt, ...)
{
    va_list ap;

    (void)host;
    fprintf(stderr, "%s %s:%d: ", (const char *[]){"E", "W", "I", "D", "T"}[level], file, line);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
}

static ferry_status host_region_get(const struct ferry_host *host, uint64_t addr, uint64_t len,
                                    uint32_t access, struct ferry_region *out)
{
    uint64_t at = addr - (uintptr_t)region_base;

    (void)host;
    (void)access;
    if (at > opt.region || len > opt.region - at)
        return FERRY_ERANGE;
    *out = (struct ferry_region){.kind = FERRY_MEM_HOST, .device = -1};
    return FERRY_OK;
}

static void host_region_put(const struct ferry_host *host, struct ferry_region *region)
{
    (void)host;
    (void)region;
}

static const struct ferry_host host = {.size = sizeof host,
                                       .abi_major = FERRY_TRANSPORT_ABI_MAJOR,
                                       .log_level = &opt.log_level,
                                       .log = host_log,
                                       .region_get = host_region_get,
                                       .region_put = host_region_put};

struct sink {
    struct ferry_kv_sink base;
};

static ferry_status sink_put(struct ferry_kv_sink *sink, const struct ferry_kv *kv)
{
    char *to = strcmp(kv->key, "tcp_data_port") == 0       ? shared->port
               : strcmp(kv->key, "tcp_proto_version") == 0 ? shared->version
               : strcmp(kv->key, "tcp_incarnation") == 0   ? shared->incarnation
                                                           : NULL;

    (void)sink;
    if (to != NULL)
        memcpy(to, kv->val, kv->val_len);
    return FERRY_OK;
}

/* --- both processes --- */

static char *memory(size_t len)
{
    char *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    CHECK(p != MAP_FAILED);
    madvise(p, len, opt.huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    memset(p, 1, len);
    return p;
}

/* What the transfers touch. */
static size_t used_len(void)
{
    size_t batch = opt.block * opt.batch, n = opt.total / batch;

    return (n < opt.region / batch ? n : opt.region / batch) * batch;
}

static void pattern(char *p, uint64_t seed)
{
    for (size_t i = 0; i + 8 <= opt.region; i += 8) {
        uint64_t v = (i + seed) * 0x9e3779b97f4a7c15ull;

        memcpy(p + i, &v, 8);
    }
}

static void pin_all(int processor)
{
    DIR *d = opendir("/proc/self/task");
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(processor, &set);
    for (struct dirent *e; opt.pin && d != NULL && (e = readdir(d)) != NULL;)
        if (e->d_name[0] != '.')
            sched_setaffinity(atoi(e->d_name), sizeof set, &set);
    if (d != NULL)
        closedir(d);
}

static const struct ferry_transport_ops *load(struct ferry_tp **tp_out, bool target)
{
    void *so = dlopen(opt.plugin, RTLD_NOW | RTLD_LOCAL);
    const struct ferry_transport_plugin *plugin;
    struct ferry_kv kv[16] = {{"core.bind", "127.0.0.1", 9, FERRY_KV_TEXT}};
    struct ferry_kvs kvs = {kv, 1};
    char *keys = strdup(opt.keys), *save = NULL;

    if (so == NULL)
        fprintf(stderr, "%s\n", dlerror());
    CHECK(so != NULL);
    plugin = dlsym(so, FERRY_TRANSPORT_SYMBOL);
    CHECK(plugin != NULL);
    if (strcmp(opt.mode, "block") == 0 && target)
        kv[kvs.n++] = (struct ferry_kv){"spin_us", "0", 1, FERRY_KV_TEXT};
    for (char *k = strtok_r(keys, ",", &save); k != NULL && kvs.n < 16;
         k = strtok_r(NULL, ",", &save)) {
        char *v = strchr(k, '=');

        CHECK(v != NULL);
        *v++ = '\0';
        kv[kvs.n++] = (struct ferry_kv){k, v, (uint32_t)strlen(v), FERRY_KV_TEXT};
    }
    CHECK(plugin->ops->open(&host, &kvs, tp_out) == FERRY_OK);
    free(keys);
    return plugin->ops;
}

static void serve(int in, int out)
{
    struct sink sink = {.base = {.put = sink_put}};
    struct ferry_tp *tp;
    const struct ferry_transport_ops *ops;
    char c;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    region_base = memory(opt.region);
    if (opt.verify && strcmp(opt.op, "read") == 0)
        pattern(region_base, 7);
    ops = load(&tp, true);
    pin_all(1);
    CHECK(ops->export_segment(tp, &sink.base) == FERRY_OK);
    shared->addr = (uintptr_t)region_base;
    CHECK(write(out, "r", 1) == 1);
    while (read(in, &c, 1) == 1) {
        if (c == 'v') {
            char *want = memory(opt.region);
            size_t used = used_len();

            pattern(want, 7);
            shared->pad = memcmp(want, region_base, used);
            munmap(want, opt.region);
        }
        shared->cpu = cpu();
        CHECK(write(out, "k", 1) == 1);
    }
    ops->close(tp);
    exit(0);
}

struct run {
    const struct ferry_transport_ops *ops;
    struct ferry_queue *queue[16];
    struct ferry_peer *peer;
    struct ferry_mr *mr;
    struct ferry_rmem *rmem;
    struct ferry_xfer *xfer; /* of the batch being submitted */
    double *lat, *sent_at;
    size_t *left, *pos; /* elements to complete, to submit, of a batch */
    size_t n_batches;
};

/* Elements of batch b; where nothing is to be adjacent, in an order that sees to it. */
static void fill(struct run *r, size_t b)
{
    size_t slots = opt.region / (opt.block * opt.batch), base = b % slots * opt.batch;
    size_t step = opt.adjacent || opt.batch < 4 ? 1 : opt.batch / 2 + 1;

    while (step > 1 && opt.batch % step == 0)
        step++;
    for (size_t i = 0; i < opt.batch; i++) {
        size_t off = (base + i * step % opt.batch) * opt.block;

        r->xfer[i] = (struct ferry_xfer){r->mr, r->rmem, region_base + off, off, opt.block};
    }
}

static void sleep_on(struct run *r, size_t q)
{
    struct pollfd p = {.events = POLLIN};

    if (r->ops->queue_arm(r->queue[q]) != FERRY_OK)
        return;
    CHECK(r->ops->queue_fd(r->queue[q], &p.fd) == FERRY_OK);
    poll(&p, 1, 1000);
}

static void transfer(struct run *r)
{
    bool block = strcmp(opt.mode, "block") == 0;
    size_t next = 0, done = 0;

    while (done < r->n_batches) {
        size_t idle = 0;

        /* Batches go round the queues; each is submitted as far as it is taken. */
        while (next < r->n_batches && next - done < opt.depth) {
            size_t b = next, q = b % opt.queues;
            struct ferry_list list = {.size = sizeof list,
                                      .op = strcmp(opt.op, "read") == 0 ? FERRY_OP_READ
                                                                        : FERRY_OP_WRITE,
                                      .peer = r->peer,
                                      .cookie = b};
            uint32_t accepted;
            ferry_status status;

            if (r->pos[b] == 0)
                r->sent_at[b] = now();
            fill(r, b);
            list.v = r->xfer + r->pos[b];
            list.n = (uint32_t)(opt.batch - r->pos[b]);
            list.first = (uint32_t)r->pos[b];
            status = r->ops->submit(r->queue[q], &list, &accepted);
            CHECK(status == FERRY_OK || status == FERRY_EAGAIN);
            r->pos[b] += accepted;
            if (status == FERRY_EAGAIN)
                break;
            next++;
        }
        for (size_t q = 0; q < opt.queues; q++) {
            struct ferry_comp comp[64];
            int32_t n = r->ops->poll(r->queue[q], comp, 64);

            CHECK(n >= 0);
            idle += n == 0;
            for (int32_t i = 0; i < n; i++) {
                CHECK(comp[i].status == FERRY_OK);
                r->left[comp[i].cookie] -= comp[i].n;
                if (r->left[comp[i].cookie] == 0) {
                    r->lat[comp[i].cookie] = now() - r->sent_at[comp[i].cookie];
                    done++;
                }
            }
        }
        if (block && idle == opt.queues)
            sleep_on(r, done % opt.queues);
    }
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

static void measure(struct run *r, int in, int out)
{
    double gbps[64], cpu_per_gib = 0, p50 = 0, p99 = 0;
    double bytes = (double)(r->n_batches * opt.batch * opt.block);
    char c;

    for (size_t rep = 0; rep < opt.reps + 1; rep++) {
        double c0, c1, t;

        for (size_t b = 0; b < r->n_batches; b++) {
            r->left[b] = opt.batch;
            r->pos[b] = 0;
        }
        CHECK(write(out, "c", 1) == 1 && read(in, &c, 1) == 1);
        c0 = cpu() + shared->cpu;
        t = now();
        transfer(r);
        t = now() - t;
        CHECK(write(out, "c", 1) == 1 && read(in, &c, 1) == 1);
        c1 = cpu() + shared->cpu;
        if (rep == 0)
            continue;
        gbps[rep - 1] = bytes / t / 1e9;
        cpu_per_gib += (c1 - c0) / (bytes / 1073741824);
        qsort(r->lat, r->n_batches, sizeof(double), by_value);
        p50 += r->lat[r->n_batches / 2] * 1e6;
        p99 += r->lat[r->n_batches * 99 / 100] * 1e6;
    }
    qsort(gbps, opt.reps, sizeof(double), by_value);
    printf("raw %s mode=%s blk=%zu batch=%zu depth=%zu queues=%zu %s | GB/s min %.3f med %.3f "
           "max %.3f | cpu %.3f s/GiB | batch lat p50 %.1f p99 %.1f us\n",
           opt.op, opt.mode, opt.block, opt.batch, opt.depth, opt.queues, opt.keys, gbps[0],
           gbps[opt.reps / 2], gbps[opt.reps - 1], cpu_per_gib / (double)opt.reps,
           p50 / (double)opt.reps, p99 / (double)opt.reps);
}

static void usage(void)
{
    puts("transport_raw --plugin FILE.so [--op write|read] [--mode spin|block] [--block SIZE]\n"
         "  [--batch N] [--total SIZE] [--region SIZE] [--depth N] [--queues N] [--reps N]\n"
         "  [--adjacent 0|1] [--verify 0|1] [--pin 0|1] [--huge 0|1] [--log LEVEL]\n"
         "  [--keys k=v,k=v]   sizes take k, m, g");
    exit(0);
}

static void arguments(int argc, char **argv)
{
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *k = argv[i], *v = argv[i + 1];

        if (!strcmp(k, "--plugin"))
            opt.plugin = v;
        else if (!strcmp(k, "--op"))
            opt.op = v;
        else if (!strcmp(k, "--mode"))
            opt.mode = v;
        else if (!strcmp(k, "--keys"))
            opt.keys = v;
        else if (!strcmp(k, "--block"))
            opt.block = parse_size(v);
        else if (!strcmp(k, "--batch"))
            opt.batch = parse_size(v);
        else if (!strcmp(k, "--total"))
            opt.total = parse_size(v);
        else if (!strcmp(k, "--region"))
            opt.region = parse_size(v);
        else if (!strcmp(k, "--depth"))
            opt.depth = parse_size(v);
        else if (!strcmp(k, "--queues"))
            opt.queues = parse_size(v);
        else if (!strcmp(k, "--reps"))
            opt.reps = parse_size(v);
        else if (!strcmp(k, "--adjacent"))
            opt.adjacent = atoi(v);
        else if (!strcmp(k, "--verify"))
            opt.verify = atoi(v);
        else if (!strcmp(k, "--pin"))
            opt.pin = atoi(v);
        else if (!strcmp(k, "--huge"))
            opt.huge = atoi(v);
        else if (!strcmp(k, "--log"))
            opt.log_level = atoi(v);
        else
            usage();
    }
    if (opt.plugin == NULL || argc % 2 == 0)
        usage();
    if (opt.region < opt.block * opt.batch)
        opt.region = opt.block * opt.batch;
}

int main(int argc, char **argv)
{
    struct run r = {0};
    struct ferry_tp *tp;
    int down[2], up[2];
    pid_t child;
    char c;

    arguments(argc, argv);
    shared =
        mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(shared != MAP_FAILED && pipe(down) == 0 && pipe(up) == 0);
    child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        close(down[1]);
        serve(down[0], up[1]);
    }
    close(down[0]);
    CHECK(read(up[0], &c, 1) == 1);

    region_base = memory(opt.region);
    if (opt.verify && strcmp(opt.op, "write") == 0)
        pattern(region_base, 7);
    r.ops = load(&tp, false);
    pin_all(0);
    {
        struct ferry_kv kv[] = {
            {"tcp_data_port", shared->port, (uint32_t)strlen(shared->port), FERRY_KV_JSON},
            {"tcp_proto_version", shared->version, (uint32_t)strlen(shared->version),
             FERRY_KV_JSON},
            {"tcp_incarnation", shared->incarnation, (uint32_t)strlen(shared->incarnation),
             FERRY_KV_TEXT}};
        struct ferry_kvs kvs = {kv, 3};
        struct ferry_mem_desc d = {.size = sizeof d,
                                   .addr = region_base,
                                   .len = opt.region,
                                   .dmabuf_fd = -1,
                                   .access = FERRY_ACCESS_LOCAL_WRITE};

        CHECK(r.ops->peer_open(tp, "127.0.0.1:1", &kvs, &r.peer) == FERRY_OK);
        CHECK(r.ops->mem_reg(tp, &d, 1, &r.mr) == FERRY_OK);
        CHECK(r.ops->rmem_open(r.peer, shared->addr, opt.region, NULL, &r.rmem) == FERRY_OK);
    }
    for (size_t q = 0; q < opt.queues; q++) {
        struct ferry_queue_attr attr = {.size = sizeof attr};

        CHECK(r.ops->queue_open(tp, &attr, &r.queue[q]) == FERRY_OK);
        CHECK(r.ops->peer_attach(r.peer, r.queue[q], 5000) == FERRY_OK);
    }
    r.n_batches = opt.total / (opt.block * opt.batch);
    CHECK(r.n_batches >= 2);
    r.xfer = calloc(opt.batch, sizeof *r.xfer);
    r.lat = calloc(r.n_batches, sizeof *r.lat);
    r.sent_at = calloc(r.n_batches, sizeof *r.sent_at);
    r.left = calloc(r.n_batches, sizeof *r.left);
    r.pos = calloc(r.n_batches, sizeof *r.pos);
    measure(&r, up[0], down[1]);
    if (opt.verify) {
        size_t used = used_len();
        int differs;

        if (strcmp(opt.op, "write") == 0) {
            CHECK(write(down[1], "v", 1) == 1 && read(up[0], &c, 1) == 1);
            differs = shared->pad;
        } else {
            char *want = memory(opt.region);

            pattern(want, 7);
            differs = memcmp(want, region_base, used);
        }
        printf("verify: %s\n", differs ? "DIFFERS" : "equal");
    }
    for (size_t q = 0; q < opt.queues; q++)
        r.ops->queue_close(r.queue[q]);
    r.ops->peer_close(r.peer);
    r.ops->mem_dereg(tp, &r.mr, 1);
    r.ops->close(tp);
    close(down[1]);
    waitpid(child, NULL, 0);
    return 0;
}
