/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The benchmark's two ends: engines, the region that all contenders share, and the taking of
 * turns. The public API only; what a row is stands in bench.h, the reference in bench_raw.h.
 */
#include "bench_ferry.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "ferry/plugin.h"
#include "out.h"

#define HELLO_NAME  "ferry.bench"
#define VERSION     1
#define PATIENCE_MS 1000 /* of one attempt to reach the target; so often bench_stop is seen */

struct lane {
    struct ferry_request *requests;
    size_t room;
};

struct contender {
    struct bench_side *side;
    struct ferry_engine *engine;
    ferry_segment segment;
    uint64_t base; /* of the target's region */
    struct lane lanes[BENCH_MAX_THREADS];
};

struct bench_side {
    struct bench_setup setup;
    char congestion[32]; /* of the first engine, as its transport logs it */
    uint8_t *region;
    struct contender ferry[BENCH_ENGINES];
    struct raw_server *server;
    uint16_t raw_port;
    struct raw_client *raw;
};

/* Also how the congestion control in use is found out: transports say it when they open. */
static void on_log(void *arg, int level, const char *message)
{
    static const char *const names[] = {"error", "warning", "info", "debug", "trace"};
    static const char words[] = "congestion control ";
    struct bench_side *side = arg;
    const char *found = strstr(message, words);

    if (found && !side->congestion[0]) {
        found += sizeof(words) - 1;
        snprintf(side->congestion, sizeof(side->congestion), "%.*s", (int)strcspn(found, " ,;"),
                 found);
    }
    if (level <= side->setup.log_level)
        fprintf(stderr, "ferry bench: %s: %s\n", level >= 0 && level < 5 ? names[level] : "log",
                message);
}

static bool complain(const char *what, const char *why)
{
    fprintf(stderr, "ferry bench: %s: %s\n", what, why);
    return false;
}

/* ---- JSON ---- */

static void merge(cJSON *base, const cJSON *over)
{
    const cJSON *item;

    cJSON_ArrayForEach(item, over)
    {
        cJSON *there = cJSON_GetObjectItemCaseSensitive(base, item->string);
        if (cJSON_IsObject(there) && cJSON_IsObject(item))
            merge(there, item);
        else {
            cJSON_DeleteItemFromObjectCaseSensitive(base, item->string);
            cJSON_AddItemToObject(base, item->string, cJSON_Duplicate(item, 1));
        }
    }
}

char *bench_merge_json(const char *base, const char *over)
{
    cJSON *a = cJSON_Parse(base ? base : "{}"), *b = cJSON_Parse(over ? over : "{}");
    char *text = NULL;

    if (cJSON_IsObject(a) && cJSON_IsObject(b)) {
        merge(a, b);
        text = cJSON_PrintUnformatted(a);
    }
    cJSON_Delete(a);
    cJSON_Delete(b);
    return text;
}

/* ---- a side ---- */

static bool open_engine(struct bench_side *side, int i, bool target)
{
    const struct bench_setup *setup = &side->setup;
    char *config = bench_merge_json(
        setup->spin ? NULL : "{\"spin_us\":0,\"tcp\":{\"spin_us\":0}}", setup->config_json[i]);
    struct ferry_options options = {
        .size = sizeof(options),
        .log_level = setup->log_level > FERRY_LOG_INFO ? setup->log_level : FERRY_LOG_INFO,
        .name = i == 0 ? setup->name : setup->second_name,
        .bind = setup->bind,
        .metadata_server = setup->metadata_server,
        .protocol = setup->protocol[i],
        .device_name = setup->device,
        .config_json = config,
        .log = on_log,
        .log_arg = side};
    struct ferry_buffer buffer = {.addr = side->region,
                                  .len = setup->region_len,
                                  .access = target ? FERRY_REMOTE_READ | FERRY_REMOTE_WRITE : 0,
                                  .location = "cpu:0"};
    bool good = false;

    if (!config)
        return complain("--config-json", "not a JSON object");
    side->ferry[i].side = side;
    if (ferry_engine_open(&options, &side->ferry[i].engine) != FERRY_OK)
        complain("engine", ferry_error());
    else if (ferry_memory_register(side->ferry[i].engine, &buffer, 1) != FERRY_OK)
        complain("registering memory", ferry_error());
    else
        good = true;
    free(config);
    return good;
}

bool bench_side_open(const struct bench_setup *setup, bool target, struct bench_side **side_out)
{
    struct bench_side *side = calloc(1, sizeof(*side));
    void *region = mmap(NULL, setup->region_len, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    bool good = true;

    if (!side || region == MAP_FAILED) {
        free(side);
        return complain("memory", "there is not enough of it for the region");
    }
    side->setup = *setup;
    side->region = region;
    madvise(region, setup->region_len, setup->huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    bench_fill(side->region, setup->region_len, 0);
    for (int i = 0; i < setup->n_engines && good; i++)
        good = open_engine(side, i, target);
    if (good && target) {
        char error[300], host[300] = "";
        const char *name = ferry_engine_name(side->ferry[0].engine);
        size_t len = strcspn(name, "]:");
        if (name[0] == '[')
            snprintf(host, sizeof(host), "%.*s", (int)strcspn(name + 1, "]"), name + 1);
        else
            snprintf(host, sizeof(host), "%.*s", (int)len, name);
        good = raw_server_open(setup->bind ? setup->bind : host, setup->congestion,
                               side->region, setup->region_len, &side->server, &side->raw_port,
                               error, sizeof(error)) ||
               complain("target", error);
    }
    if (!good) {
        bench_side_close(side);
        return false;
    }
    *side_out = side;
    return true;
}

void bench_side_close(struct bench_side *side)
{
    if (!side)
        return;
    raw_client_close(side->raw);
    raw_server_close(side->server);
    for (int i = 0; i < BENCH_ENGINES; i++) {
        struct contender *c = &side->ferry[i];
        if (c->segment)
            ferry_segment_close(c->engine, c->segment);
        ferry_engine_close(c->engine, 1000);
        for (int t = 0; t < BENCH_MAX_THREADS; t++)
            free(c->lanes[t].requests);
    }
    munmap(side->region, side->setup.region_len);
    free(side);
}

const char *bench_side_name(const struct bench_side *side, int engine)
{
    return ferry_engine_name(side->ferry[engine].engine);
}

const char *bench_side_congestion(const struct bench_side *side)
{
    return side->congestion;
}

struct raw_client *bench_side_raw(const struct bench_side *side)
{
    return side->raw;
}

/* ---- finding each other ---- */

static bool answer_hello(struct bench_side *side, const char *from)
{
    struct ferry_engine *engine = side->ferry[0].engine;
    char text[128];
    ferry_segment segment;
    bool good;

    snprintf(text, sizeof(text), "{\"v\":%d,\"raw_port\":%u}", VERSION, side->raw_port);
    if (ferry_segment_open(engine, from, (uint32_t)side->setup.timeout_ms, &segment) !=
        FERRY_OK)
        return complain(from, ferry_error());
    good = ferry_notify(engine, segment, HELLO_NAME, text, strlen(text),
                        (uint32_t)side->setup.timeout_ms) == FERRY_OK ||
           complain(from, ferry_error());
    ferry_segment_close(engine, segment);
    return good;
}

bool bench_serve(struct bench_side *side)
{
    while (!bench_stop && !raw_server_ended(side->server)) {
        struct ferry_notification *notification;
        bool good = true;

        if (ferry_notification_next(side->ferry[0].engine, 100, &notification) != FERRY_OK)
            continue;
        if (strcmp(notification->name, HELLO_NAME) == 0)
            good = answer_hello(side, notification->from);
        ferry_notification_free(notification);
        if (!good)
            return false;
    }
    return true;
}

/* Does waiting go on? Says why not, but where the user ended it. */
static bool goes_on(uint64_t end, const char *what, const char *why)
{
    if (bench_stop)
        return false;
    return out_now_ns() < end || complain(what, why);
}

static bool await_port(struct bench_side *side, uint16_t *port_out)
{
    uint64_t end = out_now_ns() + side->setup.timeout_ms * 1000000;

    while (goes_on(end, "target", "it is there, but no 'ferry bench target' answers")) {
        struct ferry_notification *notification;
        const cJSON *port, *version;
        bool good = false;
        cJSON *json;

        if (ferry_notification_next(side->ferry[0].engine, 100, &notification) != FERRY_OK)
            continue;
        json = cJSON_ParseWithLength(notification->data, notification->len);
        port = cJSON_GetObjectItemCaseSensitive(json, "raw_port");
        version = cJSON_GetObjectItemCaseSensitive(json, "v");
        if (strcmp(notification->name, HELLO_NAME) == 0 && cJSON_IsNumber(port) &&
            cJSON_IsNumber(version) && version->valueint == VERSION && port->valueint > 0 &&
            port->valueint < 65536) {
            *port_out = (uint16_t)port->valueint;
            good = true;
        }
        cJSON_Delete(json);
        ferry_notification_free(notification);
        if (good)
            return true;
    }
    return false;
}

static bool open_peer(struct bench_side *side, int i, const char *peer)
{
    struct contender *c = &side->ferry[i];
    uint64_t end = out_now_ns() + side->setup.timeout_ms * 1000000;
    struct ferry_buffer buffer;
    size_t n;

    while (ferry_segment_open(c->engine, peer, PATIENCE_MS, &c->segment) != FERRY_OK) {
        if (!goes_on(end, peer, ferry_error()))
            return false;
        usleep(100000);
    }
    if (ferry_segment_buffers(c->engine, c->segment, &buffer, 1, &n) != FERRY_OK)
        return complain(peer, ferry_error());
    if (n != 1 || buffer.len < side->setup.region_len)
        return complain(peer, "its region is smaller than what these rows need; give both the "
                              "same --memory");
    c->base = (uint64_t)(uintptr_t)buffer.addr;
    return true;
}

/* May arrive twice; the second answer is not looked at. */
static bool say_hello(struct bench_side *side, const char *peer)
{
    struct contender *c = &side->ferry[0];
    uint64_t end = out_now_ns() + side->setup.timeout_ms * 1000000;
    ferry_status status;

    do
        status = ferry_notify(c->engine, c->segment, HELLO_NAME, "{}", 2, PATIENCE_MS);
    while (status == FERRY_ETIMEDOUT && goes_on(end, peer, ferry_error()));
    return !status || (status != FERRY_ETIMEDOUT && complain(peer, ferry_error()));
}

bool bench_connect(struct bench_side *side, const char *const *peers)
{
    const struct bench_setup *setup = &side->setup;
    char host[300], error[300];
    uint16_t port;

    for (int i = 0; i < setup->n_engines; i++)
        if (!open_peer(side, i, peers[i]))
            return false;
    if (!say_hello(side, peers[0]) || !await_port(side, &port))
        return false;
    if (peers[0][0] == '[')
        snprintf(host, sizeof(host), "%.*s", (int)strcspn(peers[0] + 1, "]"), peers[0] + 1);
    else
        snprintf(host, sizeof(host), "%.*s", (int)strcspn(peers[0], ":"), peers[0]);
    return raw_client_open(host, port, setup->congestion, side->region, setup->region_len,
                           &side->raw, error, sizeof(error)) ||
           complain("target", error);
}

/* ---- measuring ---- */

static bool move(void *arg, const struct bench_spec *spec, const struct bench_walk *walk,
                 uint32_t thread, uint64_t i, char *error, size_t room)
{
    struct contender *c = arg;
    struct ferry_request *requests = c->lanes[thread].requests;
    size_t failed;

    for (uint32_t piece = 0; piece < spec->batch; piece++) {
        uint64_t off = bench_off(spec, walk, i, piece);
        requests[piece] = (struct ferry_request){.local = c->side->region + off,
                                                 .remote = c->base + off,
                                                 .len = spec->size,
                                                 .segment = c->segment,
                                                 .op = spec->read ? FERRY_READ : FERRY_WRITE};
    }
    if (ferry_transfer(c->engine, requests, spec->batch, NULL, &failed) == FERRY_OK)
        return true;
    snprintf(error, room, "piece %zu: %s", failed, ferry_error());
    return false;
}

static bool make_ready(struct bench_side *side, const struct bench_spec *spec, char *error,
                       size_t room)
{
    int place = side->setup.pin && spec->threads == 1;

    for (int e = 0; e < side->setup.n_engines; e++)
        for (uint32_t t = 0; t < spec->threads; t++) {
            struct lane *lane = &side->ferry[e].lanes[t];
            if (lane->room >= spec->batch)
                continue;
            free(lane->requests);
            lane->requests = malloc(spec->batch * sizeof(*lane->requests));
            lane->room = lane->requests ? spec->batch : 0;
            if (!lane->room) {
                snprintf(error, room, "out of memory");
                return false;
            }
        }
    bench_place(place ? 0 : -1);
    if (!raw_ask_place(side->raw, place ? 1 : -1)) {
        snprintf(error, room, "the target is gone");
        return false;
    }
    return raw_client_ready(side->raw, spec, error, room);
}

/* One run with what it cost both processes. */
static bool measured_run(struct bench_side *side, const struct bench_mover *mover,
                         struct bench_row *row, uint64_t ns, uint64_t least, uint64_t most,
                         struct bench_result *result)
{
    struct raw_usage before, after;
    uint64_t cpu;

    if (!raw_ask_usage(side->raw, &before)) {
        snprintf(row->error, sizeof(row->error), "the target is gone");
        return false;
    }
    cpu = bench_cpu_ns();
    if (!bench_run(mover, &row->spec, row->region, ns, least, most, result, row->error,
                   sizeof(row->error)))
        return false;
    cpu = bench_cpu_ns() - cpu;
    raw_client_rest(side->raw);
    if (!raw_ask_usage(side->raw, &after)) {
        snprintf(row->error, sizeof(row->error), "the target is gone");
        return false;
    }
    result->cpu_s_per_GiB = (double)(cpu + after.cpu_ns - before.cpu_ns) / 1e9 /
                            ((double)result->bytes / (double)(1 << 30));
    result->rss_beyond[0] = (int64_t)bench_rss() - (int64_t)side->setup.region_len;
    result->rss_beyond[1] = (int64_t)after.rss - (int64_t)after.region_len;
    return true;
}

/* A run of just one round, with contents that tell where every byte came from. */
static bool verify(struct bench_side *side, int e, struct bench_row *row)
{
    const struct bench_mover mover = {&side->ferry[e], move};
    const uint64_t ours = 0x1111 * ((uint64_t)e + 1), theirs = 0x7777 * ((uint64_t)e + 1);
    struct bench_walk walk = bench_walk(&row->spec, row->region, 0);
    struct bench_result result;
    uint64_t bad, first;

    bench_fill(side->region, side->setup.region_len, ours);
    if (!raw_ask_fill(side->raw, theirs) ||
        !bench_run(&mover, &row->spec, row->region, 0, walk.n, walk.n, &result, row->error,
                   sizeof(row->error)))
        return false;
    if (row->spec.read)
        bad = bench_check(side->region, row->region, &row->spec, theirs, ours, &first);
    else if (!raw_ask_check(side->raw, &row->spec, row->region, ours, theirs, &bad, &first)) {
        snprintf(row->error, sizeof(row->error), "the target is gone");
        return false;
    }
    if (bad)
        snprintf(row->error, sizeof(row->error), "%llu bytes are wrong, the first at %llu",
                 (unsigned long long)bad, (unsigned long long)first);
    return bad == 0;
}

struct series {
    double GBps[BENCH_REPS], cpu[BENCH_REPS], p50[BENCH_REPS], p90[BENCH_REPS], p99[BENCH_REPS],
        p999[BENCH_REPS], rss[2];
};

static void note(struct series *series, int rep, const struct bench_result *result)
{
    series->GBps[rep] = result->GBps;
    series->cpu[rep] = result->cpu_s_per_GiB;
    series->p50[rep] = (double)result->p50_ns / 1e3;
    series->p90[rep] = (double)result->p90_ns / 1e3;
    series->p99[rep] = (double)result->p99_ns / 1e3;
    series->p999[rep] = (double)result->p999_ns / 1e3;
    for (int i = 0; i < 2; i++)
        if ((double)result->rss_beyond[i] / (1 << 20) > series->rss[i])
            series->rss[i] = (double)result->rss_beyond[i] / (1 << 20);
}

static double median_of_ratios(const double *a, const double *b, int n)
{
    double ratios[BENCH_REPS];

    for (int i = 0; i < n; i++)
        ratios[i] = b[i] > 0 ? a[i] / b[i] : 0;
    return stats_median(ratios, (size_t)n);
}

static void summarise(struct series *own, const struct series *raw, int reps,
                      struct bench_numbers *numbers)
{
    size_t n = (size_t)reps;

    *numbers = (struct bench_numbers){.rss_beyond = {own->rss[0], own->rss[1]}};
    if (raw) {
        numbers->ratio = median_of_ratios(own->GBps, raw->GBps, reps);
        numbers->cpu_ratio = median_of_ratios(own->cpu, raw->cpu, reps);
    }
    numbers->GBps = stats_median(own->GBps, n);
    numbers->cpu_s_per_GiB = stats_median(own->cpu, n);
    numbers->p50_us = stats_median(own->p50, n);
    numbers->p90_us = stats_median(own->p90, n);
    numbers->p99_us = stats_median(own->p99, n);
    numbers->p999_us = stats_median(own->p999, n);
}

void bench_measure(struct bench_side *side, const struct bench_effort *effort,
                   struct bench_row *row)
{
    static struct series series[1 + BENCH_ENGINES]; /* the reference first */
    struct bench_mover movers[1 + BENCH_ENGINES];
    int n = 1 + side->setup.n_engines;
    uint64_t batch = row->spec.size * row->spec.batch, least = 3, most = 0;

    memset(series, 0, sizeof(series));
    if (!make_ready(side, &row->spec, row->error, sizeof(row->error)))
        return;
    movers[0] = raw_client_mover(side->raw);
    for (int e = 0; e < side->setup.n_engines; e++)
        movers[1 + e] = (struct bench_mover){&side->ferry[e], move};
    if (effort->bytes) {
        least = effort->bytes / batch / row->spec.threads;
        least = least ? least : 1;
        most = least;
    }
    for (int rep = -1; rep < effort->reps; rep++) /* -1: warming up */
        for (int k = 0; k < n; k++) {
            int c = rep % 2 ? n - 1 - k : k;
            struct bench_result result;
            if (c == 0 && !effort->raw)
                continue;
            if (rep < 0) {
                if (!bench_run(&movers[c], &row->spec, row->region,
                               effort->bytes ? 0 : effort->ns / 4, 2, 0, &result, row->error,
                               sizeof(row->error)))
                    return;
                raw_client_rest(side->raw);
                continue;
            }
            if (!measured_run(side, &movers[c], row, effort->bytes ? 0 : effort->ns, least,
                              most, &result))
                return;
            note(&series[c], rep, &result);
        }
    for (int e = 0; side->setup.verify && e < side->setup.n_engines; e++)
        if (!verify(side, e, row))
            return;
    row->verified = side->setup.verify;
    for (int e = 0; e < side->setup.n_engines; e++)
        summarise(&series[1 + e], effort->raw ? &series[0] : NULL, effort->reps,
                  &row->ferry[e]);
    for (int e = 0; e < side->setup.n_engines; e++)
        row->first_to[e] = median_of_ratios(series[1].GBps, series[1 + e].GBps, effort->reps);
    if (effort->raw)
        summarise(&series[0], NULL, effort->reps, &row->raw);
}
