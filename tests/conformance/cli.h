/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_H
#define CLI_H

#include <stdio.h>

#include "conformance.h"

/* What the commands of both suites share: options, one line a point, JUnit, exit statuses. */

#define CLI_MAX_KEYS   64
#define CLI_MAX_POINTS 64

enum { CLI_PASSED = 0, CLI_FAILED = 1, CLI_USAGE = 2, CLI_UNFIT = 77 };

struct cli {
    const char *kind; /* "transport" or "metadata" */
    const char *(*name_of)(int number, const char **about_out);
    int n_points; /* numbers are below it */

    char *plugin; /* the real path */
    struct ferry_kv config[CLI_MAX_KEYS], target[CLI_MAX_KEYS];
    size_t n_config, n_target;
    bool only[CLI_MAX_POINTS], some; /* `some`: --only was given */
    uint64_t seed;
    enum fc_processes processes;
    unsigned limit_s, wait_ms, stress_s;
    bool verbose, perf, absent_unreach;
    const char *junit, *uri, *plugins, *inherits, *allocates;
    char **server; /* what follows --server; NULL = none */

    unsigned counts[4]; /* by enum fc_result */
    uint64_t ms;
    char skip_reason[512]; /* the last one */
    FILE *cases;           /* of the JUnit file, in memory */
    char *cases_text;
    size_t cases_len;
};

/* -1: go on; else the exit status, everything said. --list is done here. */
int cli_parse(struct cli *cli, int argc, char **argv);
/* A fc_options.report, with the cli as `arg`. */
void cli_report(void *arg, const struct fc_outcome *outcome);
/* Writes the JUnit file; returns the exit status. `tail` ends the line of the totals. */
int cli_end(struct cli *cli, const char *tail);

#endif /* CLI_H */
