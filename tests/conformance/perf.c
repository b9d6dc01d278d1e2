/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How fast is the plugin beside loop and tcp on this machine? Rounds of each in turns, so that
 * what else the machine does meets all alike; the best round counts. Orientation, no benchmark:
 * `ferry bench` measures through the core.
 */
#include "perf.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#include "suite.h"

#define MIB   (UINT64_C(1) << 20)
#define SPACE (32 * MIB)

enum { ROUNDS = 3, ROUND_MS = 300, N_SHAPES = 4 };

static const struct {
    const char *name;
    enum ferry_op op;
    uint32_t n;
    uint64_t len;
} shapes[N_SHAPES] = {
    {"WRITE 16 x 1 MiB", FERRY_OP_WRITE, 16, MIB},
    {"READ 16 x 1 MiB", FERRY_OP_READ, 16, MIB},
    {"WRITE 128 x 4 KiB", FERRY_OP_WRITE, 128, 4096},
    {"WRITE 1 x 4 KiB", FERRY_OP_WRITE, 1, 4096},
};

static double *figures; /* shared with the point's process: transfers a second; 0 = cannot */

static uint64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* One list from its first submit to its last completion, with no checks in between. */
static void once(struct fc_ctx *ctx, struct fc_scene *s, struct ferry_list list)
{
    const struct ferry_xfer *v = list.v;
    struct ferry_comp comp[64];
    uint32_t submitted = 0, ended = 0;
    const uint32_t n = list.n;
    const uint64_t end = fc_now_ms() + FC_WAIT_MS;

    while (ended < n) {
        uint32_t accepted = 0;
        ferry_status status = FERRY_OK;
        if (submitted < n) {
            list.v = v + submitted;
            list.n = n - submitted;
            list.first = submitted;
            status = ctx->ops.submit(s->q.q, &list, &accepted);
            submitted += accepted;
        }
        FC_CHECK(ctx, status == FERRY_OK || status == FERRY_EAGAIN, "submit to take the list",
                 "%s", fc_status(status));
        int32_t got = ctx->ops.poll(s->q.q, comp, 64);
        for (int32_t i = 0; i < got; i++) {
            FC_CHECK(ctx, comp[i].status == FERRY_OK, "FERRY_OK", "%s",
                     fc_status(comp[i].status));
            ended += comp[i].n;
        }
        FC_CHECK(ctx, fc_now_ms() < end, "every element to complete", "%u of %u did", ended, n);
    }
}

static void perf_run(struct fc_ctx *ctx)
{
    struct fc_scene s;
    struct ferry_xfer v[128];

    fc_scene_open(ctx, SPACE, 128, &s);
    memset(s.local, 1, s.len);
    memset(s.mem.view, 2, s.len);
    for (unsigned k = 0; k < N_SHAPES; k++) {
        if (!fc_can(ctx, shapes[k].op))
            continue;
        for (uint32_t i = 0; i < shapes[k].n; i++)
            v[i] = fc_xfer(&s, i * shapes[k].len, i * shapes[k].len, shapes[k].len);
        struct ferry_list list = {.size = sizeof(list),
                                  .op = shapes[k].op,
                                  .peer = s.peer,
                                  .v = v,
                                  .n = shapes[k].n,
                                  .cookie = 7};
        once(ctx, &s, list); /* pages and caches */
        uint64_t begin = now_ns(), lists = 0, ns;
        do {
            once(ctx, &s, list);
            lists++;
            ns = now_ns() - begin;
        } while (ns < ROUND_MS * UINT64_C(1000000));
        double rate = (double)lists * shapes[k].n * 1e9 / (double)ns;
        figures[k] = rate > figures[k] ? rate : figures[k];
    }
    fc_scene_close(ctx, &s);
}

static const struct fc_point perf_point = {.number = 0,
                                           .name = "perf",
                                           .about = "figures",
                                           .run = perf_run,
                                           .targets = 1,
                                           .limit_s = 60};

static void report(void *arg, const struct fc_outcome *outcome)
{
    if (outcome->result == FC_PASS)
        return;
    printf("%s: expected %s; seen %s\n", (const char *)arg, outcome->expected, outcome->seen);
    fflush(stdout);
}

static bool measure(const struct fc_options *given, const char *plugin, const char *name,
                    bool own, double best[N_SHAPES])
{
    struct fc_options options = *given;
    struct fc_summary summary;

    memset(figures, 0, N_SHAPES * sizeof(*figures));
    options.plugin = plugin;
    options.only = NULL;
    options.report = report;
    options.arg = (void *)(uintptr_t)name;
    if (!own)
        options.config = options.target = (struct ferry_kvs){NULL, 0};
    if (!own)
        options.processes = !strcmp(name, "loop") ? FC_PROCESSES_ONE : FC_PROCESSES_TWO;
    if (!fc_run_points(&options, &perf_point, 1, &summary) || !summary.passed)
        return false;
    for (unsigned k = 0; k < N_SHAPES; k++)
        best[k] = figures[k] > best[k] ? figures[k] : best[k];
    return true;
}

static void show(const char *text, double rate, uint64_t len, double own)
{
    if (rate <= 0)
        printf("  %s %8s", text, "-");
    else if (len >= MIB)
        printf("  %s %6.2f GB/s", text, rate * (double)len / 1e9);
    else
        printf("  %s %6.0f k/s ", text, rate / 1e3);
    if (own > 0 && rate > 0)
        printf(" (%.2f of it)", own / rate);
}

int fc_perf(const struct fc_options *options, const char *loop, const char *tcp)
{
    const char *const path[] = {options->plugin, loop, tcp}, *const name[] = {"plugin", "loop",
                                                                              "tcp"};
    double best[3][N_SHAPES] = {{0}};

    figures = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (figures == MAP_FAILED)
        return 2;
    for (unsigned i = 1; i < 3; i++)
        if (!path[i])
            printf("not run: %s: no ferry_transport_%s.so in --plugins\n", name[i], name[i]);
    for (unsigned round = 0; round < ROUNDS; round++)
        for (unsigned i = 0; i < 3; i++)
            if (path[i] && !measure(options, path[i], name[i], i == 0, best[i]))
                return 1;
    for (unsigned k = 0; k < N_SHAPES; k++) {
        printf("%-18s", shapes[k].name);
        show("plugin", best[0][k], shapes[k].len, 0);
        for (unsigned i = 1; i < 3; i++)
            if (path[i])
                show(name[i], best[i][k], shapes[k].len, best[0][k]);
        putchar('\n');
    }
    return 0;
}
