/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CONFORMANCE_H
#define CONFORMANCE_H

#include <stdbool.h>

#include "ferry/transport_plugin.h"

/*
 * The transport conformance suite as a library: a table of points, each run in processes of its
 * own with a time limit, so that a crash or a hang of the plugin is that point's failure and
 * nobody else's. It needs no core: it brings a small host. A program that links it may not have
 * threads when it calls fc_run.
 */

enum fc_result {
    FC_PASS,
    FC_FAIL,
    FC_NOT_APPLICABLE, /* the caps say that there is nothing to check; `seen` says which */
    FC_SKIPPED,        /* probe() said FERRY_EDEVICE: this machine cannot run the transport */
};

enum fc_processes {
    FC_PROCESSES_AUTO, /* two; one where a peer in another process cannot be reached */
    FC_PROCESSES_ONE,  /* both ends in one process */
    FC_PROCESSES_TWO,
};

struct fc_outcome {
    int number;
    const char *name;
    enum fc_result result;
    const char *expected;
    const char *seen;
    const char *log; /* last lines that the plugin logged; "" = none */
    unsigned ms;
};

struct fc_options {
    const char *plugin;      /* path of the .so */
    struct ferry_kvs config; /* what open() is given; core.bind and core.host = 127.0.0.1 are
                              * put before it, as the core gives them to every transport */
    struct ferry_kvs target; /* at the target, in place of these keys of `config` */
    const bool *only;        /* by number, fc_point_limit() long; NULL = all */
    uint64_t seed;
    enum fc_processes processes;
    unsigned limit_s; /* for a point; 0 = each point's own */
    unsigned wait_ms; /* how long an element may take to end; 0 = 10000 */
    bool verbose;     /* what the plugin logs goes to stderr */
    /* Why descriptors of a library that the plugin uses may stay open over exec; NULL = they
     * may not. They are counted and told with the reason. */
    const char *inherits;
    /* Why such a library allocates in queue calls now and then; NULL = it may not. What comes
     * with each call or element is more than 100 a second, and fails with this too. */
    const char *allocates;
    void (*report)(void *arg, const struct fc_outcome *outcome);
    void *arg;
};

struct fc_summary {
    unsigned passed, failed, not_applicable, skipped;
    bool two_processes;
    char why_one[256]; /* why both ends ran in one process; "" where they did not */
};

/* One above the highest number. */
int fc_point_limit(void);
/* NULL where there is no point of this number. `about_out`: what is expected. */
const char *fc_point_name(int number, const char **about_out);

/* Runs the points in order. False where the suite itself could not run (errno text on stderr of
 * the caller's choice: `seen` of a failed outcome number -1). */
bool fc_run(const struct fc_options *options, struct fc_summary *summary_out);

#endif /* CONFORMANCE_H */
