/* SPDX-License-Identifier: Apache-2.0 */
#ifndef ENGINE_PAIR_H
#define ENGINE_PAIR_H

/* Two engines of one process that know each other, for tests of the core. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "ferry/ferry.h"
#include "ferry/plugin.h"

#define PAIR_LEN (8u << 20)

struct pair {
    struct ferry_engine *a, *b;
    ferry_segment peer; /* b, seen from a */
    char *ours, *theirs;
};

static void pair_log(void *arg, int level, const char *message)
{
    if (getenv("FERRY_TEST_LOG"))
        fprintf(stderr, "[%s %d] %s\n", (const char *)arg, level, message);
}

#define assert_ok(call)                                                                        \
    do {                                                                                       \
        ferry_status status_ = (call);                                                         \
        if (status_)                                                                           \
            fail_msg("%s: %s: %s", #call, ferry_strstatus(status_), ferry_error());            \
    } while (0)

static struct ferry_engine *pair_engine(const char *name, const char *protocol,
                                        const char *config)
{
    struct ferry_options options = {.size = sizeof(options),
                                    .log_level = FERRY_LOG_DEBUG,
                                    .name = "127.0.0.1",
                                    .protocol = protocol,
                                    .config_json = config,
                                    .log = pair_log,
                                    .log_arg = (void *)(uintptr_t)name};
    struct ferry_engine *engine;

    assert_ok(ferry_engine_open(&options, &engine));
    return engine;
}

static __attribute__((unused)) void pair_open(struct pair *pair, const char *protocol,
                                              const char *config)
{
    const uint32_t all = FERRY_REMOTE_READ | FERRY_REMOTE_WRITE;

    pair->a = pair_engine("a", protocol, config);
    pair->b = pair_engine("b", protocol, config);
    assert_ok(ferry_memory_alloc(pair->a, PAIR_LEN, all, (void **)&pair->ours));
    assert_ok(ferry_memory_alloc(pair->b, PAIR_LEN, all, (void **)&pair->theirs));
    assert_ok(ferry_segment_open(pair->a, ferry_engine_name(pair->b), 5000, &pair->peer));
}

static __attribute__((unused)) void pair_close(struct pair *pair)
{
    ferry_segment_close(pair->a, pair->peer);
    ferry_engine_close(pair->a, 1000);
    ferry_engine_close(pair->b, 1000);
}

#endif /* ENGINE_PAIR_H */
