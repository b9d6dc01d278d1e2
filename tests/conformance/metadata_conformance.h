/* SPDX-License-Identifier: Apache-2.0 */
#ifndef METADATA_CONFORMANCE_H
#define METADATA_CONFORMANCE_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "conformance.h"
#include "ferry/metadata_plugin.h"

/* What the tests share. One plugin and one service a run. */
extern const struct ferry_metadata_ops *ops;
extern struct ferry_store *store; /* open before each test, closed after it */
extern uint32_t caps;             /* FERRY_STORE_CAP_ */
extern uint64_t max_value;
extern uint64_t suite_seed;
extern ferry_status
    absent; /* what get says of an absent key: FERRY_ENOENT, or EUNREACH (p2p) */

ferry_status open_store(struct ferry_store **store_out);
/* The last ERROR or WARN line that the plugin logged in this thread. */
const char *last_words(void);

/* Tells the program that minds the real server: "stop", "start", "empty", "freeze", "thaw",
 * "compact". 1: done; 0: it cannot, or there is no server. */
int server(const char *command);
int have_server(void);
/* A process of its own that puts the key with this ttl and then waits to be killed. */
int holder_start(const char *key, uint32_t ttl_ms);
void holder_kill(int pid);

/* Bytes that a get gathers. */
struct bytes {
    struct ferry_buf_sink sink;
    char *data;
    size_t len;
};
void bytes_init(struct bytes *bytes);
void bytes_free(struct bytes *bytes);

ferry_status put(const char *key, const void *val, size_t len, uint32_t ttl_ms,
                 uint64_t expect_rev, uint64_t *rev_out);
/* get into fresh bytes and compare with `want` */
int holds(const char *key, const void *want, size_t len);
ferry_status get_status(struct ferry_store *from, const char *key, uint32_t timeout_ms);
/* Asks again until get says `status` or the time is over. */
int becomes(struct ferry_store *from, const char *key, ferry_status status, uint32_t within_ms);
uint64_t now_ms(void);
void sleep_ms(unsigned ms);
/* A key below "conformance/RUN/": no test sees another's or a former run's. Static, 8 in turn.
 */
const char *key_of(const char *name);

/* What a point has to tell beside its result; the first words of a failure count. */
void fail_with(const char *file, int line, const char *expected, const char *seen, ...)
    __attribute__((format(printf, 4, 5)));

/* A check that fails ends its point. */
#define CHECK(cond)                                                                            \
    do {                                                                                       \
        if (!(cond)) {                                                                         \
            fail_with(__FILE__, __LINE__, #cond, "it is not so; plugin: %s", last_words());    \
            return FAILED;                                                                     \
        }                                                                                      \
    } while (0)
/* The same with both values shown. */
#define CHECK_STATUS(call, want)                                                               \
    do {                                                                                       \
        ferry_status got_ = (call);                                                            \
        if (got_ != (want)) {                                                                  \
            fail_with(__FILE__, __LINE__, #call " to give " #want, "%s; plugin: %s",           \
                      status_name(got_), last_words());                                        \
            return FAILED;                                                                     \
        }                                                                                      \
    } while (0)
const char *status_name(ferry_status status);

enum result { PASSED, FAILED, SKIPPED };
struct test {
    int number; /* for ever, as is the name */
    const char *name, *about;
    enum result (*run)(void);
};
/* Each ends with {0}. */
extern const struct test value_tests[];
extern const struct test change_tests[]; /* watch, list, leases, compare-and-set */
extern const struct test outage_tests[]; /* need a server that is minded */
enum { N_TESTS = 26 };

#endif /* METADATA_CONFORMANCE_H */
