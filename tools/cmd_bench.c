/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `ferry bench`: sizes x batches x threads, each row beside the raw reference of the same shape
 * in the same run. This file makes the rows and shows them; bench_ferry.c measures.
 */
#include <cjson/cJSON.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench_ferry.h"
#include "bench_plot.h"
#include "commands.h"
#include "out.h"

enum { MOST_VALUES = 16, MOST_ROWS = 2048 };

struct bench_options {
    const char *peer, *name, *bind, *metadata_server, *protocol, *device, *config_json,
        *against, *choices;
    const char *op, *size, *batch, *threads, *wait, *congestion, *json, *plot;
    bool local, hot, cold, verify, no_raw, no_pin, huge, latency;
    uint64_t stride, duration_ms, bytes, reps, memory, cold_len, timeout_ms;
    int log_level;
    /* Of --choices, once it is read. */
    char choice[BENCH_ENGINES - 1][24];
    int n_choices;
};

struct plan {
    struct bench_row *rows;
    size_t n;
    uint64_t region_len;
    bool waits[2]; /* spin, block: which are wanted */
};

static void on_signal(int number)
{
    bench_stop = number;
}

/* ---- the rows ---- */

static bool has_word(const char *list, const char *word)
{
    size_t len = strlen(word);

    for (const char *at = list; at; at = strchr(at, ',')) {
        at += *at == ',';
        if (strncmp(at, word, len) == 0 && (at[len] == ',' || !at[len]))
            return true;
    }
    return false;
}

/* Each word of `list` is one of two. */
static bool two_words(const struct command *self, const char *option, const char *list,
                      const char *a, const char *b, bool has[2])
{
    size_t len = strlen(list), want;

    has[0] = has_word(list, a);
    has[1] = has_word(list, b);
    want = (has[0] ? strlen(a) : 0) + (has[1] ? strlen(b) : 0) + (has[0] && has[1]);
    if (len == want && want)
        return true;
    args_usage_error(self, "--%s: '%s' is none of %s, %s and %s,%s", option, list, a, b, a, b);
    return false;
}

static bool make_plan(const struct command *self, const struct bench_options *o, bool target,
                      struct plan *plan)
{
    uint64_t sizes[MOST_VALUES], batches[MOST_VALUES], threads[MOST_VALUES];
    size_t n_sizes, n_batches, n_threads;
    bool ops[2], memories[2] = {o->hot || !o->cold, o->cold || !o->hot};
    char error[300];

    *plan = (struct plan){0};
    if (!two_words(self, "op", o->op, "write", "read", ops) ||
        !two_words(self, "wait", o->wait, "spin", "block", plan->waits))
        return false;
    if (!args_list(o->size, OPT_SIZE, 1, 1ull << 32, sizes, MOST_VALUES, &n_sizes, error,
                   sizeof(error)) ||
        !args_list(o->latency ? "1" : o->batch, OPT_COUNT, 1, BENCH_MAX_BATCH, batches,
                   MOST_VALUES, &n_batches, error, sizeof(error)) ||
        !args_list(o->latency ? "1" : o->threads, OPT_COUNT, 1, BENCH_MAX_THREADS, threads,
                   MOST_VALUES, &n_threads, error, sizeof(error))) {
        args_usage_error(self, "%s", error);
        return false;
    }
    plan->rows = calloc(MOST_ROWS, sizeof(*plan->rows));
    if (!plan->rows)
        return false;
    for (int spin = 1; spin >= 0; spin--)
        for (int read = 0; read < 2; read++)
            for (int cold = 0; cold < 2; cold++)
                for (size_t s = 0; s < n_sizes; s++)
                    for (size_t b = 0; b < n_batches; b++)
                        for (size_t t = 0; t < n_threads; t++) {
                            struct bench_spec spec = {.read = read,
                                                      .spin = spin,
                                                      .hot = !cold,
                                                      .size = sizes[s],
                                                      .batch = (uint32_t)batches[b],
                                                      .threads = (uint32_t)threads[t],
                                                      .stride = (uint32_t)o->stride};
                            uint64_t region = bench_region(&spec, o->cold_len);
                            if (!ops[read] || !plan->waits[!spin] || !memories[cold] ||
                                plan->n == MOST_ROWS)
                                continue;
                            plan->rows[plan->n++] =
                                (struct bench_row){.spec = spec, .region = region};
                            if (region > plan->region_len)
                                plan->region_len = region;
                        }
    if (plan->region_len > o->memory && !target) { /* a target is told no rows */
        char need[32], have[32];
        args_usage_error(self,
                         "the largest row needs a region of %s on each side, --memory is %s",
                         out_bytes(need, plan->region_len), out_bytes(have, o->memory));
        return false;
    }
    return true;
}

/* ---- showing ---- */

static const char *choice_heads(const struct bench_options *o, char *text, size_t room)
{
    size_t len = 0;

    text[0] = 0;
    for (int i = 0; i < o->n_choices && len < room; i++)
        len += (size_t)snprintf(text + len, room - len, "%s%8s", i ? "" : " |", o->choice[i]);
    if (o->n_choices && len < room)
        snprintf(text + len, room - len, "  auto/best");
    return text;
}

/* The choice made by itself over the best single one, turn by turn. */
static double over_best(const struct bench_options *o, const struct bench_row *row)
{
    double least = row->first_to[1];

    for (int i = 2; i <= o->n_choices; i++)
        if (row->first_to[i] < least)
            least = row->first_to[i];
    return least;
}

static void head(const struct bench_options *o)
{
    char heads[32 + BENCH_ENGINES * 24];

    if (o->latency)
        printf("%-5s %5s %-5s %-4s | %8s %8s %8s %8s | %8s %6s | %6s\n", "OP", "SIZE", "WAIT",
               "MEM", "p50 us", "p90", "p99", "p99.9", "raw p50", "ratio", "GB/s");
    else
        printf("%-5s %5s x %-5s %3s %-5s %-4s | %7s %7s %6s | %9s %9s %9s | %6s %6s | %7s%s\n",
               "OP", "SIZE", "BATCH", "THR", "WAIT", "MEM", "GB/s", "raw", "ratio", "p50 us",
               "p99 us", "raw p50", "s/GiB", "ratio", "RSS MiB",
               o->against ? " |   other   o/f" : choice_heads(o, heads, sizeof(heads)));
    fflush(stdout);
}

static double over(double a, double b)
{
    return b > 0 ? a / b : 0;
}

static void show(const struct bench_options *o, const struct bench_row *row)
{
    const struct bench_spec *s = &row->spec;
    const struct bench_numbers *f = &row->ferry[0], *r = &row->raw;
    const char *op = s->read ? "read" : "write", *wait = s->spin ? "spin" : "block";
    const char *memory = s->hot ? "hot" : "cold";
    char size[24];

    bench_size_text(size, s->size);
    if (row->error[0])
        printf("%-5s %5s x %-5u %3u %-5s %-4s | failed: %s\n", op, size, s->batch, s->threads,
               wait, memory, row->error);
    else if (o->latency)
        printf("%-5s %5s %-5s %-4s | %8.1f %8.1f %8.1f %8.1f | %8.1f %6.2f | %6.2f\n", op, size,
               wait, memory, f->p50_us, f->p90_us, f->p99_us, f->p999_us, r->p50_us,
               over(f->p50_us, r->p50_us), f->GBps);
    else {
        printf("%-5s %5s x %-5u %3u %-5s %-4s | %7.3f %7.3f %6.2f | %9.1f %9.1f %9.1f | %6.3f "
               "%6.2f | %3.0f %3.0f",
               op, size, s->batch, s->threads, wait, memory, f->GBps, r->GBps, f->ratio,
               f->p50_us, f->p99_us, r->p50_us, f->cpu_s_per_GiB, f->cpu_ratio,
               f->rss_beyond[0], f->rss_beyond[1]);
        if (o->against)
            printf(" | %7.3f %5.2f", row->ferry[1].GBps, over(row->ferry[1].GBps, f->GBps));
        for (int i = 1; i <= o->n_choices; i++)
            printf("%s%8.3f", i == 1 ? " |" : "", row->ferry[i].GBps);
        if (o->n_choices)
            printf("  %9.2f", over_best(o, row));
        printf("%s\n", row->verified ? "  verified" : "");
    }
    fflush(stdout);
}

static void add_numbers(cJSON *to, const char *name, const struct bench_numbers *n, bool raw)
{
    cJSON *json = cJSON_AddObjectToObject(to, name);

    cJSON_AddNumberToObject(json, "GBps", n->GBps);
    cJSON_AddNumberToObject(json, "p50_us", n->p50_us);
    cJSON_AddNumberToObject(json, "p90_us", n->p90_us);
    cJSON_AddNumberToObject(json, "p99_us", n->p99_us);
    cJSON_AddNumberToObject(json, "p999_us", n->p999_us);
    cJSON_AddNumberToObject(json, "cpu_s_per_GiB", n->cpu_s_per_GiB);
    if (raw)
        return;
    cJSON_AddNumberToObject(json, "ratio", n->ratio);
    cJSON_AddNumberToObject(json, "cpu_ratio", n->cpu_ratio);
    cJSON_AddNumberToObject(json, "rss_beyond_MiB_initiator", n->rss_beyond[0]);
    cJSON_AddNumberToObject(json, "rss_beyond_MiB_target", n->rss_beyond[1]);
}

static cJSON *as_json(const struct bench_options *o, const struct plan *plan,
                      const cJSON *about)
{
    cJSON *json = cJSON_Duplicate(about, 1), *rows = cJSON_AddArrayToObject(json, "rows");

    for (size_t i = 0; i < plan->n; i++) {
        const struct bench_row *row = &plan->rows[i];
        cJSON *item = cJSON_CreateObject();
        cJSON_AddItemToArray(rows, item);
        cJSON_AddStringToObject(item, "op", row->spec.read ? "read" : "write");
        cJSON_AddNumberToObject(item, "size", (double)row->spec.size);
        cJSON_AddNumberToObject(item, "batch", row->spec.batch);
        cJSON_AddNumberToObject(item, "threads", row->spec.threads);
        cJSON_AddNumberToObject(item, "stride", row->spec.stride);
        cJSON_AddStringToObject(item, "wait", row->spec.spin ? "spin" : "block");
        cJSON_AddStringToObject(item, "memory", row->spec.hot ? "hot" : "cold");
        cJSON_AddNumberToObject(item, "region", (double)row->region);
        if (row->error[0]) {
            cJSON_AddStringToObject(item, "error", row->error);
            continue;
        }
        cJSON_AddBoolToObject(item, "verified", row->verified);
        add_numbers(item, "ferry", &row->ferry[0], false);
        if (!o->no_raw)
            add_numbers(item, "raw", &row->raw, true);
        if (o->against)
            add_numbers(item, "other", &row->ferry[1], false);
        for (int c = 1; c <= o->n_choices; c++)
            add_numbers(item, o->choice[c - 1], &row->ferry[c], false);
        if (o->n_choices)
            cJSON_AddNumberToObject(item, "auto_over_best", over_best(o, row));
    }
    return json;
}

static void read_line(const char *path, char *text, size_t room)
{
    FILE *file = fopen(path, "re");

    text[0] = 0;
    if (file && fgets(text, (int)room, file))
        text[strcspn(text, "\n")] = 0;
    if (file)
        fclose(file);
}

/* What the figures depend on; printed once, and kept for the JSON. */
static void describe(const struct bench_options *o, struct bench_side *side, cJSON *about)
{
    const char *ferry_cc = bench_side_congestion(side);
    char system_cc[32], raw_cc[32];
    struct utsname name;

    if (cJSON_GetObjectItemCaseSensitive(about, "congestion"))
        return;
    uname(&name);
    read_line("/proc/sys/net/ipv4/tcp_congestion_control", system_cc, sizeof(system_cc));
    raw_client_congestion(bench_side_raw(side), raw_cc, sizeof(raw_cc));
    printf("ferry %s, %s %s, %ld processors; congestion control: ferry %s, raw %s, system "
           "default %s\n",
           ferry_version(), name.sysname, name.release, sysconf(_SC_NPROCESSORS_ONLN),
           *ferry_cc ? ferry_cc : "not told", raw_cc, system_cc);
    printf("%llu runs a row and contender, in turns; medians; ratio = ferry/raw of the same "
           "turn; s/GiB = CPU of both ends\n\n",
           (unsigned long long)o->reps);
    cJSON_AddStringToObject(about, "ferry_version", ferry_version());
    cJSON_AddStringToObject(about, "kernel", name.release);
    cJSON_AddNumberToObject(about, "processors", (double)sysconf(_SC_NPROCESSORS_ONLN));
    cJSON_AddNumberToObject(about, "repetitions", (double)o->reps);
    about = cJSON_AddObjectToObject(about, "congestion");
    cJSON_AddStringToObject(about, "ferry", ferry_cc);
    cJSON_AddStringToObject(about, "raw", raw_cc);
    cJSON_AddStringToObject(about, "system", system_cc);
    head(o);
}

/* ---- the roles ---- */

static struct bench_setup setup_of(const struct bench_options *o, bool spin, uint64_t region)
{
    struct bench_setup setup = {.name = o->name,
                                .bind = o->bind,
                                .metadata_server = o->metadata_server,
                                .device = o->device,
                                .congestion = o->congestion,
                                .protocol = {o->protocol, o->protocol},
                                .config_json = {o->config_json, o->against},
                                .n_engines = o->against ? 2 : 1,
                                .log_level = o->log_level,
                                .spin = spin,
                                .huge = o->huge,
                                .pin = !o->no_pin,
                                .verify = o->verify,
                                .region_len = region,
                                .timeout_ms = o->timeout_ms};

    for (int i = 0; i < o->n_choices; i++) { /* the first one chooses by itself */
        setup.protocol[i + 1] = o->choice[i];
        setup.config_json[i + 1] = o->config_json;
    }
    if (o->n_choices)
        setup.n_engines = 1 + o->n_choices;
    return setup;
}

static int initiate(const struct bench_options *o, struct plan *plan, bool spin,
                    const struct bench_setup *setup, const char *const *peers, cJSON *about)
{
    struct bench_effort effort = {.ns = o->duration_ms * 1000000,
                                  .bytes = o->bytes,
                                  .reps = (int)o->reps,
                                  .raw = !o->no_raw};
    struct bench_side *side;
    int status = EXIT_OK;

    if (!bench_side_open(setup, false, &side))
        return EXIT_LOST;
    if (!bench_connect(side, peers))
        status = EXIT_LOST;
    for (size_t i = 0; status != EXIT_LOST && i < plan->n && !bench_stop; i++) {
        struct bench_row *row = &plan->rows[i];
        if (row->spec.spin != spin)
            continue;
        if (!cJSON_GetObjectItemCaseSensitive(about, "congestion")) {
            struct bench_row first = *row; /* connects, so that links can be described */
            struct bench_effort little = {.ns = 1000000, .reps = 1, .raw = effort.raw};
            bench_measure(side, &little, &first);
            describe(o, side, about);
        }
        bench_measure(side, &effort, row);
        if (bench_stop && row->error[0])
            snprintf(row->error, sizeof(row->error), "interrupted");
        show(o, row);
        if (row->error[0])
            status = EXIT_WRONG;
    }
    bench_side_close(side);
    return bench_stop ? EXIT_INTERRUPTED : status;
}

/* The target's process of --local: tells its names, serves, ends. */
static void be_local_target(const struct bench_setup *setup, int names)
{
    struct bench_side *side;
    char text[BENCH_ENGINES * 300] = "";
    int status = EXIT_LOST;

    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (bench_side_open(setup, true, &side)) {
        int len = 0;
        for (int i = 0; i < setup->n_engines; i++)
            len += snprintf(text + len, sizeof(text) - (size_t)len, "%s\n",
                            bench_side_name(side, i));
        if (write(names, text, (size_t)len) == len && close(names) == 0 && bench_serve(side))
            status = EXIT_OK;
        bench_side_close(side);
    }
    fflush(NULL);
    _exit(status);
}

/* Reads "name\nname\n" until the other end is closed. */
static bool read_names(int fd, int n, char names[BENCH_ENGINES][300])
{
    char text[BENCH_ENGINES * 300];
    size_t len = 0;
    ssize_t got;
    char *at = text;

    while (len < sizeof(text) - 1 && !bench_stop) {
        got = read(fd, text + len, sizeof(text) - 1 - len);
        if (got == 0 || (got < 0 && errno != EINTR))
            break;
        if (got > 0)
            len += (size_t)got;
    }
    text[len] = 0;
    for (int i = 0; i < n; i++) {
        size_t line = strcspn(at, "\n");
        if (!at[line])
            return false;
        snprintf(names[i], 300, "%.*s", (int)line, at);
        at += line + 1;
    }
    return true;
}

static int both(const struct bench_options *o, struct plan *plan, bool spin, cJSON *about)
{
    struct bench_setup setup = setup_of(o, spin, plan->region_len);
    char names[BENCH_ENGINES][300];
    const char *peers[BENCH_ENGINES];
    int fds[2], status = EXIT_LOST, ended = 0;
    pid_t child;

    for (int i = 0; i < BENCH_ENGINES; i++)
        peers[i] = names[i];
    setup.name = setup.second_name = "127.0.0.1:0";
    setup.bind = "127.0.0.1";
    if (pipe(fds) != 0 || (child = fork()) < 0) {
        fprintf(stderr, "ferry bench: %s\n", strerror(errno));
        return EXIT_LOST;
    }
    if (child == 0) {
        close(fds[0]);
        be_local_target(&setup, fds[1]);
    }
    close(fds[1]);
    if (read_names(fds[0], setup.n_engines, names))
        status = initiate(o, plan, spin, &setup, peers, about);
    else
        fprintf(stderr, "ferry bench: the target did not start\n");
    close(fds[0]);
    if (status == EXIT_LOST || status == EXIT_INTERRUPTED) {
        kill(child, SIGTERM);
        kill(child, SIGCONT); /* where it is stopped */
    }
    while (waitpid(child, &ended, 0) < 0 && errno == EINTR)
        ;
    if (status == EXIT_OK && (!WIFEXITED(ended) || WEXITSTATUS(ended) != EXIT_OK)) {
        fprintf(stderr, "ferry bench: the target ended badly\n");
        status = EXIT_WRONG;
    }
    return status;
}

static int be_target(const struct bench_options *o, bool spin)
{
    struct bench_setup setup = setup_of(o, spin, o->memory);
    char names[BENCH_ENGINES * 300] = "";
    struct bench_side *side;
    bool good;

    if (!bench_side_open(&setup, true, &side))
        return EXIT_LOST;
    for (int i = 0; i < setup.n_engines; i++) {
        size_t len = strlen(names);
        snprintf(names + len, sizeof(names) - len, "%s%s", i ? "," : "",
                 bench_side_name(side, i));
    }
    printf("target      %s waits for 'ferry bench initiator --peer %s'\n", names, names);
    fflush(stdout);
    good = bench_serve(side);
    bench_side_close(side);
    return bench_stop ? EXIT_INTERRUPTED : good ? EXIT_OK : EXIT_LOST;
}

static int be_initiator(const struct bench_options *o, struct plan *plan, bool spin,
                        cJSON *about)
{
    struct bench_setup setup = setup_of(o, spin, plan->region_len);
    char names[BENCH_ENGINES * 300];
    const char *peers[BENCH_ENGINES];
    char *save = NULL;
    int n = 0;

    snprintf(names, sizeof(names), "%s", o->peer);
    for (char *at = strtok_r(names, ",", &save); at && n < BENCH_ENGINES;
         at = strtok_r(NULL, ",", &save))
        peers[n++] = at;
    if (n != setup.n_engines) {
        fprintf(stderr, "ferry bench: --peer has %d names; the target printed %d\n", n,
                setup.n_engines);
        return EXIT_USAGE;
    }
    return initiate(o, plan, spin, &setup, peers, about);
}

static int worse(int a, int b)
{
    return a > b ? a : b;
}

static bool read_choices(struct bench_options *o)
{
    const char *at = o->choices;

    for (o->n_choices = 0; *at; o->n_choices++) {
        size_t len = strcspn(at, ",");
        if (!len || len >= sizeof(o->choice[0]) || o->n_choices == BENCH_ENGINES - 1)
            return false;
        snprintf(o->choice[o->n_choices], sizeof(o->choice[0]), "%.*s", (int)len, at);
        at += len + (at[len] == ',');
    }
    return o->n_choices > 0;
}

static int run(const struct command *self, const void *options, int argc, char **argv)
{
    struct bench_options copy = *(const struct bench_options *)options;
    const struct bench_options *o = &copy;
    const char *role = argc ? argv[0] : "";
    bool target = strcmp(role, "target") == 0, initiator = strcmp(role, "initiator") == 0;
    struct sigaction action = {.sa_handler = on_signal};
    struct plan plan;
    int status = EXIT_OK;
    cJSON *about;

    if (target + initiator + o->local != 1)
        return args_usage_error(self, "one of target, initiator and --local is needed");
    if (initiator && !o->peer)
        return args_usage_error(self, "initiator needs --peer NAME, which the target prints");
    if (initiator && o->against && !strchr(o->peer, ','))
        return args_usage_error(self, "--against needs --peer NAME,NAME");
    if (o->choices && (o->against || o->protocol))
        return args_usage_error(self, "--choices leaves no room for --against and --protocol");
    if (o->choices && !read_choices(&copy))
        return args_usage_error(self, "--choices: '%s' is not one to %d names", o->choices,
                                BENCH_ENGINES - 1);
    if (!make_plan(self, o, target, &plan)) {
        free(plan.rows);
        return EXIT_USAGE;
    }
    if (!o->local && plan.waits[0] && plan.waits[1]) {
        free(plan.rows);
        return args_usage_error(self, "--wait: one of spin and block, on both sides the same");
    }
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
    about = cJSON_CreateObject();
    if (target)
        status = be_target(o, plan.waits[0]);
    else if (initiator)
        status = be_initiator(o, &plan, plan.waits[0], about);
    else
        for (int spin = 1; spin >= 0 && status != EXIT_LOST && !bench_stop; spin--)
            if (plan.waits[!spin])
                status = worse(status, both(o, &plan, spin, about));
    if (!target && o->json) {
        cJSON *json = as_json(o, &plan, about);
        if (!out_json(o->json, json))
            status = worse(status, EXIT_WRONG);
        cJSON_Delete(json);
    }
    if (!target && o->plot && !bench_plot(o->plot, plan.rows, plan.n))
        status = worse(status, EXIT_WRONG);
    cJSON_Delete(about);
    free(plan.rows);
    return status;
}

#define AT(member) offsetof(struct bench_options, member)

static const struct opt opts[] = {
    {.name = "local",
     .type = OPT_FLAG,
     .help = "both ends here: starts a target of its own on loopback",
     .offset = AT(local)},
    {.name = "peer",
     .meta = "NAME",
     .type = OPT_TEXT,
     .help = "the target's name, as it printed it",
     .offset = AT(peer)},
    {.name = "name",
     .meta = "NAME",
     .type = OPT_TEXT,
     .help = "our own host:port",
     .offset = AT(name)},
    {.name = "bind",
     .meta = "ADDRESS",
     .type = OPT_TEXT,
     .help = "address to listen on",
     .offset = AT(bind)},
    {.name = "metadata-server",
     .meta = "URL",
     .type = OPT_TEXT,
     .help = "where names are found; else the name is the address",
     .offset = AT(metadata_server)},
    {.name = "protocol",
     .meta = "NAMES",
     .type = OPT_TEXT,
     .help = "transports in order of preference",
     .offset = AT(protocol)},
    {.name = "device",
     .meta = "NAMES",
     .type = OPT_TEXT,
     .help = "network devices, with commas between; else all",
     .offset = AT(device)},
    {.name = "config-json",
     .meta = "JSON",
     .type = OPT_TEXT,
     .help = "the member \"ferry\" of mooncake.json, for both ends of --local",
     .offset = AT(config_json)},
    {.name = "against",
     .meta = "JSON",
     .type = OPT_TEXT,
     .help = "measure Ferry with this configuration too, in the same turns",
     .offset = AT(against)},
    {.name = "choices",
     .meta = "NAMES",
     .type = OPT_TEXT,
     .help = "measure each of these transports alone too, beside the choice that Ferry makes "
             "by itself, in the same turns",
     .offset = AT(choices)},
    {.name = "op",
     .meta = "LIST",
     .type = OPT_TEXT,
     .def = "write,read",
     .help = "write, read or both",
     .offset = AT(op)},
    {.name = "size",
     .letter = 's',
     .meta = "LIST",
     .type = OPT_TEXT,
     .def = "4k,64k,1m",
     .help = "bytes a piece",
     .offset = AT(size)},
    {.name = "batch",
     .letter = 'b',
     .meta = "LIST",
     .type = OPT_TEXT,
     .def = "1,16,128",
     .help = "pieces a batch",
     .offset = AT(batch)},
    {.name = "threads",
     .letter = 't',
     .meta = "LIST",
     .type = OPT_TEXT,
     .def = "1",
     .help = "threads that submit and wait",
     .offset = AT(threads)},
    {.name = "stride",
     .meta = "N",
     .type = OPT_COUNT,
     .def = "1",
     .min = 1,
     .max = 64,
     .help = "pieces lie N sizes apart; from 2 on nothing is adjacent",
     .offset = AT(stride)},
    {.name = "wait",
     .letter = 'w',
     .meta = "LIST",
     .type = OPT_TEXT,
     .def = "spin",
     .help = "spin: waiting callers may spin; block: they may not; or both",
     .offset = AT(wait)},
    {.name = "hot",
     .type = OPT_FLAG,
     .help = "every batch is the same memory (default: hot and cold rows)",
     .offset = AT(hot)},
    {.name = "cold",
     .type = OPT_FLAG,
     .help = "batches walk through a large region",
     .offset = AT(cold)},
    {.name = "region",
     .meta = "SIZE",
     .type = OPT_SIZE,
     .def = "256m",
     .min = 4096,
     .help = "that region",
     .offset = AT(cold_len)},
    {.name = "latency",
     .type = OPT_FLAG,
     .help = "one transfer at a time, with more percentiles; --batch and --threads are 1",
     .offset = AT(latency)},
    {.name = "duration",
     .letter = 'd',
     .meta = "SECONDS",
     .type = OPT_SECONDS,
     .def = "0.3",
     .min = 1,
     .max = 600000,
     .help = "of one run",
     .offset = AT(duration_ms)},
    {.name = "bytes",
     .meta = "SIZE",
     .type = OPT_SIZE,
     .help = "of one run, instead of its duration",
     .offset = AT(bytes)},
    {.name = "reps",
     .letter = 'r',
     .meta = "N",
     .type = OPT_COUNT,
     .def = "5",
     .min = 1,
     .max = BENCH_REPS,
     .help = "runs a row and contender",
     .offset = AT(reps)},
    {.name = "verify",
     .type = OPT_FLAG,
     .help = "after each row, move known contents once and look at every byte of the region",
     .offset = AT(verify)},
    {.name = "memory",
     .letter = 'm',
     .meta = "SIZE",
     .type = OPT_SIZE,
     .def = "1g",
     .min = 4096,
     .help = "most that the region of one side may take; what a target offers",
     .offset = AT(memory)},
    {.name = "huge", .type = OPT_FLAG, .help = "ask for huge pages", .offset = AT(huge)},
    {.name = "no-raw",
     .type = OPT_FLAG,
     .help = "leave the raw reference out",
     .offset = AT(no_raw)},
    {.name = "no-pin",
     .type = OPT_FLAG,
     .help = "let the scheduler place the two processes of a row with one thread",
     .offset = AT(no_pin)},
    {.name = "congestion",
     .meta = "NAME",
     .type = OPT_TEXT,
     .def = "cubic",
     .help = "congestion control of the raw reference",
     .offset = AT(congestion)},
    {.name = "timeout",
     .meta = "SECONDS",
     .type = OPT_SECONDS,
     .def = "30",
     .min = 100,
     .help = "how long the target may take to appear",
     .offset = AT(timeout_ms)},
    {.name = "json",
     .meta = "FILE",
     .type = OPT_FILE,
     .help = "write the rows as JSON too; - = standard output",
     .offset = AT(json)},
    {.name = "plot",
     .meta = "FILE",
     .type = OPT_FILE,
     .help = "draw the rows as SVG; needs gnuplot",
     .offset = AT(plot)},
    {.name = "log",
     .meta = "LEVEL",
     .type = OPT_CHOICE,
     .choices = "error|warn|info|debug|trace",
     .def = "warn",
     .help = "what the library may say on standard error",
     .offset = AT(log_level)},
    {0},
};

static const struct example examples[] = {
    {"ferry bench --local --size 64k,1m --batch 16 --op write",
     "two rows hot and two cold, both ends on this machine"},
    {"ferry bench --local --latency --size 4k --wait spin,block --hot",
     "one 4 KiB transfer at a time, with callers that spin and that sleep"},
    {"ferry bench --local --against '{\"tcp\":{\"engine\":\"epoll\"}}' --json rows.json",
     "the epoll engine beside the default, and the rows kept as JSON"},
    {"ferry bench --local --choices shm,tcp --size 4k,64k,1m,64m --batch 1 --no-raw --cold",
     "what is chosen by itself, beside each of the two alone"},
    {"ferry bench target --name 10.0.0.2:17000",
     "on one machine; 'ferry bench initiator --peer 10.0.0.2:17000' on the other"},
    {0},
};

const struct command cmd_bench = {
    .name = "bench",
    .summary = "measure transfers beside a raw reference of the same shape",
    .synopsis = "[target | initiator]",
    .words = "target initiator",
    .about =
        "Moves batches of pieces from one process to another, one row for each combination of "
        "operation, size, batch, threads, kind of waiting and memory. Beside Ferry, in the same "
        "run and in turns, it measures a reference: the least that moves such a batch over TCP, "
        "one connection a thread, one frame a batch, received into place, answered with 8 "
        "bytes, on the same memory and the same processors. The ratio of the two says more "
        "than either figure, above all on machines that others use too.\n\n"
        "With one thread, initiator and target are each put on a processor of their own. With so "
        "many threads that both ends' together outnumber the processors, the reference does not "
        "spin, because spinners that wait for a processor only hold each other up. A "
        "target serves one initiator and then ends; it lets every peer read and write its "
        "region, so it belongs on a network that is trusted.",
    .opts = opts,
    .examples = examples,
    .options_size = sizeof(struct bench_options),
    .max_args = 1,
    .run = run,
};
