/* SPDX-License-Identifier: Apache-2.0 */
/* transport_conformance: every point once; or --stress; or --perf. */
#include "cli.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "perf.h"
#include "suite.h"

/* The points that stress repeats: threads, cancels, kills, stops, and everything mixed. */
static const int stress_points[] = {7, 9, 10, 11, 16, 18};

static const char *const stress_faults[][2] = {
    {"refuse", "100"},  {"delay", "200"},   {"delay_us", "3000"},
    {"fail", "20"},     {"truncate", "20"}, {"kill", "3"},
    {"reorder", "300"}, {"never", "2"},     {"attach_fail", "200"},
};

static bool run_once(struct cli *cli, struct fc_options *opt, char *tail, size_t room)
{
    struct fc_summary summary;
    if (!fc_run(opt, &summary)) {
        perror("transport_conformance: the suite itself");
        return false;
    }
    snprintf(tail, room, "; %s%s%s%s",
             summary.two_processes ? "two processes" : "both ends in one process",
             summary.why_one[0] ? " (" : "", summary.why_one, summary.why_one[0] ? ")" : "");
    return true;
}

static const char *beside(const struct cli *cli, const char *name, char path[1024])
{
    snprintf(path, 1024, "%s/ferry_transport_%s.so", cli->plugins ? cli->plugins : "", name);
    return cli->plugins && access(path, R_OK) == 0 ? path : NULL;
}

/* The same options for the fault transport, with the plugin inside of it. */
static void wrap(const struct cli *cli, struct fc_options *opt, struct ferry_kv *config,
                 char (*keys)[128], uint64_t *seed_text, size_t *n_out)
{
    size_t n = 0;
    config[n++] = (struct ferry_kv){.key = "inner",
                                    .val = cli->plugin,
                                    .val_len = (uint32_t)strlen(cli->plugin),
                                    .flags = FERRY_KV_TEXT};
    for (size_t i = 0; i < opt->config.n; i++) {
        config[n] = opt->config.v[i];
        if (strncmp(config[n].key, "core.", 5) != 0) {
            snprintf(keys[i], sizeof(keys[i]), "inner.%.100s", config[n].key);
            config[n].key = keys[i];
        }
        n++;
    }
    for (size_t i = 0; i < FC_COUNT(stress_faults); i++)
        config[n++] = (struct ferry_kv){.key = stress_faults[i][0],
                                        .val = stress_faults[i][1],
                                        .val_len = (uint32_t)strlen(stress_faults[i][1]),
                                        .flags = FERRY_KV_TEXT};
    snprintf((char *)seed_text, 32, "%llu", (unsigned long long)opt->seed);
    config[n++] = (struct ferry_kv){.key = "seed",
                                    .val = seed_text,
                                    .val_len = (uint32_t)strlen((char *)seed_text),
                                    .flags = FERRY_KV_TEXT};
    *n_out = n;
}

/* Round after round with other seeds, bare and with faults round it, until the time is over. */
static bool stress(struct cli *cli, struct fc_options *opt, char *tail, size_t room)
{
    const uint64_t end = fc_now_ms() + cli->stress_s * 1000u;
    bool chosen[CLI_MAX_POINTS] = {0}, churn[CLI_MAX_POINTS] = {[18] = true};
    char fault_path[1024], keys[CLI_MAX_KEYS][128];
    struct ferry_kv config[CLI_MAX_KEYS + 16];
    uint64_t seed_text[4];
    const char *fault = beside(cli, "fault", fault_path);
    unsigned rounds = 0;

    for (size_t i = 0; i < FC_COUNT(stress_points); i++)
        chosen[stress_points[i]] = !cli->some || cli->only[stress_points[i]];
    if (!fault)
        printf("not run: faults round the plugin: no ferry_transport_fault.so in --plugins\n");
    for (; fc_now_ms() < end && !cli->counts[FC_SKIPPED]; rounds++) {
        struct fc_options wrapped;
        opt->seed = cli->seed + rounds;
        opt->only = chosen;
        printf("== seed %llu\n", (unsigned long long)opt->seed);
        if (!run_once(cli, opt, tail, room))
            return false;
        if (!fault || fc_now_ms() >= end)
            continue;
        wrapped = *opt;
        wrapped.plugin = fault;
        wrapped.only = churn;
        wrapped.config.v = config;
        wrap(cli, opt, config, keys, seed_text, &wrapped.config.n);
        printf("== seed %llu, with faults\n", (unsigned long long)opt->seed);
        if (!run_once(cli, &wrapped, tail, room))
            return false;
    }
    snprintf(tail, room, " to %llu, %u rounds", (unsigned long long)(cli->seed + rounds - 1),
             rounds);
    return true;
}

int main(int argc, char **argv)
{
    struct cli cli = {
        .kind = "transport", .name_of = fc_point_name, .n_points = fc_point_limit()};
    char tail[400] = "";
    int status = cli_parse(&cli, argc, argv);
    if (status >= 0)
        return status;
    struct fc_options opt = {.plugin = cli.plugin,
                             .config = {cli.config, cli.n_config},
                             .target = {cli.target, cli.n_target},
                             .only = cli.some ? cli.only : NULL,
                             .seed = cli.seed,
                             .processes = cli.processes,
                             .limit_s = cli.limit_s,
                             .wait_ms = cli.wait_ms,
                             .inherits = cli.inherits,
                             .allocates = cli.allocates,
                             .verbose = cli.verbose,
                             .report = cli_report,
                             .arg = &cli};
    bool ok;
    if (cli.perf) {
        char loop[1024], tcp[1024];
        return fc_perf(&opt, beside(&cli, "loop", loop), beside(&cli, "tcp", tcp));
    }
    if (cli.stress_s)
        ok = stress(&cli, &opt, tail, sizeof(tail));
    else
        ok = run_once(&cli, &opt, tail, sizeof(tail));
    return ok ? cli_end(&cli, tail) : CLI_USAGE;
}
