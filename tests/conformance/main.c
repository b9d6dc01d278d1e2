/* SPDX-License-Identifier: Apache-2.0 */
/* transport_conformance: the suite's command line, one line a point. */
#include "conformance.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXIT_SKIPPED 77
#define MAX_KEYS     64

static void usage(FILE *to)
{
    fputs("usage: transport_conformance PLUGIN.so [--config KEY=VALUE]... [--only N,...]\n"
          "           [--seed N] [--processes auto|one|two] [--limit SECONDS] [--wait MS]\n"
          "           [--target KEY=VALUE]... [--list] [--verbose]\n"
          "\n"
          "--target is --config for the target alone, in place of the same keys.\n"
          "--limit is a point's, --wait what an element may take to end.\n"
          "Runs the conformance points against a transport plugin. Exit status: 0 all passed,\n"
          "1 some failed, 2 usage, 77 the plugin's probe says that this machine is not fit.\n",
          to);
}

static char skip_reason[512]; /* the last one */

static void report(void *arg, const struct fc_outcome *o)
{
    static const char *const words[] = {"pass", "FAIL", "n/a", "skip"};
    const char *note = o->seen[0] && o->result != FC_FAIL ? o->seen : "";
    printf("%2d %-14s %-4s %6u ms%s%s\n", o->number, o->name, words[o->result], o->ms,
           note[0] ? "  " : "", note);
    if (o->result == FC_FAIL) {
        printf("     expected: %s\n     seen:     %s\n", o->expected, o->seen);
        for (const char *line = o->log; *line;) {
            size_t n = strcspn(line, "\n");
            printf("     logged:   %.*s\n", (int)n, line);
            line += n + (line[n] == '\n');
        }
    }
    if (o->result == FC_SKIPPED) {
        const char *line = strrchr(o->log, '\n');
        line = line ? line + 1 : o->log;
        snprintf(skip_reason, sizeof(skip_reason), "%s%s%s", o->seen, *line ? ": " : "", line);
    }
    fflush(stdout);
}

static bool parse_only(const char *text, bool *only)
{
    while (*text) {
        char *end;
        long number = strtol(text, &end, 10);
        if (end == text || number < 0 || number >= fc_point_limit() ||
            !fc_point_name((int)number, NULL) || (*end && *end != ','))
            return false;
        only[number] = true;
        text = *end ? end + 1 : end;
    }
    return true;
}

static void list_points(void)
{
    for (int i = 0; i < fc_point_limit(); i++) {
        const char *about;
        const char *name = fc_point_name(i, &about);
        if (name)
            printf("%2d %-14s %s\n", i, name, about);
    }
}

static bool add_key(struct ferry_kvs *kvs, struct ferry_kv *v, char *key, char *equals)
{
    if (!equals || kvs->n == MAX_KEYS)
        return false;
    *equals = '\0';
    v[kvs->n++] = (struct ferry_kv){.key = key,
                                    .val = equals + 1,
                                    .val_len = (uint32_t)strlen(equals + 1),
                                    .flags = FERRY_KV_TEXT};
    return true;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"config", required_argument, NULL, 'c'},
                                            {"only", required_argument, NULL, 'o'},
                                            {"seed", required_argument, NULL, 's'},
                                            {"list", no_argument, NULL, 'l'},
                                            {"processes", required_argument, NULL, 'p'},
                                            {"verbose", no_argument, NULL, 'v'},
                                            {"target", required_argument, NULL, 't'},
                                            {"limit", required_argument, NULL, 'L'},
                                            {"wait", required_argument, NULL, 'w'},
                                            {"help", no_argument, NULL, 'h'},
                                            {NULL, 0, NULL, 0}};
    struct ferry_kv config[MAX_KEYS], target[MAX_KEYS];
    bool *only = calloc((size_t)fc_point_limit(), sizeof(*only));
    struct fc_options opt = {
        .seed = 1, .config.v = config, .target.v = target, .report = report};
    int c;
    while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
        char *equals = c == 'c' || c == 't' ? strchr(optarg, '=') : NULL;
        switch (c) {
        case 'c':
        case 't':
            if (!add_key(c == 'c' ? &opt.config : &opt.target, c == 'c' ? config : target,
                         optarg, equals)) {
                fprintf(stderr, "--config and --target want KEY=VALUE, at most %d times\n",
                        MAX_KEYS);
                return 2;
            }
            break;
        case 'o':
            if (!parse_only(optarg, only)) {
                fprintf(stderr, "--only %s: wants numbers of --list\n", optarg);
                return 2;
            }
            opt.only = only;
            break;
        case 's':
            opt.seed = strtoull(optarg, NULL, 0);
            break;
        case 'p':
            opt.processes = !strcmp(optarg, "one")   ? FC_PROCESSES_ONE
                            : !strcmp(optarg, "two") ? FC_PROCESSES_TWO
                                                     : FC_PROCESSES_AUTO;
            break;
        case 'L':
            opt.limit_s = (unsigned)strtoul(optarg, NULL, 10);
            break;
        case 'w':
            opt.wait_ms = (unsigned)strtoul(optarg, NULL, 10);
            break;
        case 'l':
            list_points();
            return 0;
        case 'v':
            opt.verbose = true;
            break;
        case 'h':
            usage(stdout);
            return 0;
        default:
            usage(stderr);
            return 2;
        }
    }
    if (optind + 1 != argc) {
        usage(stderr);
        return 2;
    }
    opt.plugin = argv[optind];
    char *path = realpath(opt.plugin, NULL);
    if (!path) {
        perror(opt.plugin);
        return 2;
    }
    opt.plugin = path;
    struct fc_summary summary;
    if (!fc_run(&opt, &summary)) {
        perror("transport_conformance: the suite itself");
        return 2;
    }
    printf("%u passed, %u failed, %u not applicable, %u skipped; seed %llu; %s%s%s%s\n",
           summary.passed, summary.failed, summary.not_applicable, summary.skipped,
           (unsigned long long)opt.seed,
           summary.two_processes ? "two processes" : "both ends in one process",
           summary.why_one[0] ? " (" : "", summary.why_one, summary.why_one[0] ? ")" : "");
    free(path);
    free(only);
    if (summary.failed)
        return 1;
    if (!summary.skipped)
        return 0;
    /* point 0 passes without the device */
    printf("%s\n", skip_reason);
    return EXIT_SKIPPED;
}
