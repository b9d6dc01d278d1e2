/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The shape of a benchmark: rows, walks through memory, runs of several threads, contents that
 * are known. Knows neither Ferry nor sockets; both are measured by the same loop.
 */
#include "bench.h"

#include <dirent.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "out.h"

atomic_int bench_stop;

static uint64_t span_of(const struct bench_spec *spec)
{
    return spec->size * spec->stride * spec->batch;
}

uint64_t bench_region(const struct bench_spec *spec, uint64_t cold_len)
{
    uint64_t least = span_of(spec) * spec->threads;

    return spec->hot || least > cold_len ? least : cold_len;
}

struct bench_walk bench_walk(const struct bench_spec *spec, uint64_t region, uint32_t thread)
{
    uint64_t slice = region / spec->threads / 64 * 64, span = span_of(spec);

    if (slice < span)
        slice = region / spec->threads;
    return (struct bench_walk){.slice = slice * thread,
                               .span = span,
                               .n = spec->hot || slice < span ? 1 : slice / span};
}

const char *bench_size_text(char *text, uint64_t size)
{
    if (size && size % (1 << 20) == 0)
        snprintf(text, 24, "%llum", (unsigned long long)size >> 20);
    else if (size && size % (1 << 10) == 0)
        snprintf(text, 24, "%lluk", (unsigned long long)size >> 10);
    else
        snprintf(text, 24, "%llu", (unsigned long long)size);
    return text;
}

/* ---- runs ---- */

struct run {
    const struct bench_mover *mover;
    const struct bench_spec *spec;
    uint64_t region, ns, least, most;
    pthread_barrier_t start;
    _Atomic uint64_t started_ns;
    atomic_bool failed;
};

struct lane {
    struct run *run;
    uint32_t thread;
    uint64_t batches;
    struct samples samples;
    char error[300];
};

static void go(struct lane *lane, uint64_t started)
{
    struct run *run = lane->run;
    struct bench_walk walk = bench_walk(run->spec, run->region, lane->thread);
    uint64_t before = started, end = started + run->ns;

    while (!atomic_load_explicit(&run->failed, memory_order_relaxed)) {
        uint64_t now;
        bool good = false;
        if (atomic_load_explicit(&bench_stop, memory_order_relaxed))
            snprintf(lane->error, sizeof(lane->error), "interrupted");
        else
            good = run->mover->move(run->mover->arg, run->spec, &walk, lane->thread,
                                    lane->batches, lane->error, sizeof(lane->error));
        if (!good) {
            atomic_store(&run->failed, true);
            return;
        }
        now = out_now_ns();
        samples_add(&lane->samples, now - before);
        before = now;
        lane->batches++;
        if ((now >= end && lane->batches >= run->least) || lane->batches == run->most)
            return;
    }
}

static void *lane_main(void *arg)
{
    struct lane *lane = arg;
    uint64_t none = 0;

    pthread_barrier_wait(&lane->run->start);
    atomic_compare_exchange_strong(&lane->run->started_ns, &none, out_now_ns());
    go(lane, atomic_load(&lane->run->started_ns));
    return NULL;
}

static void summarise(struct lane *lanes, const struct bench_spec *spec, uint64_t ns,
                      struct bench_result *result)
{
    struct samples *all = &lanes[0].samples;

    for (uint32_t t = 0; t < spec->threads; t++) {
        result->batches += lanes[t].batches;
        if (t)
            samples_join(all, &lanes[t].samples);
    }
    result->ns = ns;
    result->bytes = result->batches * spec->batch * spec->size;
    result->GBps = ns ? (double)result->bytes / (double)ns : 0;
    result->min_ns = samples_percentile(all, 0);
    result->p50_ns = samples_percentile(all, 0.5);
    result->p90_ns = samples_percentile(all, 0.9);
    result->p99_ns = samples_percentile(all, 0.99);
    result->p999_ns = samples_percentile(all, 0.999);
}

bool bench_run(const struct bench_mover *mover, const struct bench_spec *spec, uint64_t region,
               uint64_t ns, uint64_t least, uint64_t most, struct bench_result *result,
               char *error, size_t room)
{
    struct run run = {
        .mover = mover, .spec = spec, .region = region, .ns = ns, .least = least, .most = most};
    struct lane *lanes = calloc(spec->threads, sizeof(*lanes));
    pthread_t threads[BENCH_MAX_THREADS];
    uint32_t ready = 0, started = 0;
    bool good = lanes != NULL;
    uint64_t start;

    *result = (struct bench_result){0};
    for (; good && ready < spec->threads; ready++) {
        lanes[ready] = (struct lane){.run = &run, .thread = ready};
        good = samples_init(&lanes[ready].samples, 1 << 14);
    }
    if (!good)
        snprintf(error, room, "out of memory");
    else if (spec->threads == 1) {
        start = out_now_ns();
        go(&lanes[0], start);
        ns = out_now_ns() - start;
    } else {
        pthread_barrier_init(&run.start, NULL, spec->threads);
        for (; started < spec->threads; started++)
            if (pthread_create(&threads[started], NULL, lane_main, &lanes[started]) != 0)
                break;
        if (started < spec->threads) {
            /* The barrier would never open: those that wait at it cannot be ended otherwise. */
            fprintf(stderr, "ferry bench: cannot start %u threads\n", spec->threads);
            exit(3);
        }
        for (uint32_t t = 0; t < started; t++)
            pthread_join(threads[t], NULL);
        ns = out_now_ns() - atomic_load(&run.started_ns);
        pthread_barrier_destroy(&run.start);
    }
    if (good && atomic_load(&run.failed)) {
        good = false;
        for (uint32_t t = 0; t < spec->threads; t++)
            if (lanes[t].error[0])
                snprintf(error, room, "%s", lanes[t].error);
    }
    if (good)
        summarise(lanes, spec, ns, result);
    for (uint32_t t = 0; lanes && t < spec->threads; t++)
        samples_fini(&lanes[t].samples);
    free(lanes);
    return good;
}

/* ---- the process ---- */

uint64_t bench_cpu_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

uint64_t bench_rss(void)
{
    FILE *file = fopen("/proc/self/statm", "re");
    unsigned long long size, resident = 0;

    if (file && fscanf(file, "%llu %llu", &size, &resident) != 2)
        resident = 0;
    if (file)
        fclose(file);
    return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

void bench_place(int nth)
{
    static cpu_set_t may;
    static bool known;
    cpu_set_t set;
    DIR *dir;

    if (!known)
        known = sched_getaffinity(0, sizeof(may), &may) == 0;
    if (!known || (nth >= 0 && CPU_COUNT(&may) < 2))
        return;
    set = may;
    if (nth >= 0) {
        int seen = 0, count = CPU_COUNT(&may);
        CPU_ZERO(&set);
        for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
            if (CPU_ISSET(cpu, &may) && seen++ == nth % count)
                CPU_SET(cpu, &set);
    }
    dir = opendir("/proc/self/task");
    if (!dir)
        return;
    for (struct dirent *entry; (entry = readdir(dir));)
        if (entry->d_name[0] != '.')
            sched_setaffinity((pid_t)atoi(entry->d_name), sizeof(set), &set);
    closedir(dir);
}
