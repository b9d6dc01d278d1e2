/* SPDX-License-Identifier: Apache-2.0 */
/*
 * FERRY_PLUGIN_TRACE: a line for each call of a plugin's table. Off, nothing of this is in the
 * way: the table is left as it is. Allocates nothing, so that it may stand in queue calls.
 */
#include "loader_trace.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { TRANSPORTS = 8, STORES = 4 };

static struct {
    char name[32];
    struct ferry_transport_ops ops;
} transports[TRANSPORTS];
static struct {
    char name[32];
    struct ferry_metadata_ops ops;
} stores[STORES];

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* the counts, and opening the file */
static unsigned n_transports, n_stores;
static int trace_fd = -1;
static const char *(*words_of)(ferry_status);

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* One write a line: threads and processes may share the file. `result` NULL = void. */
__attribute__((format(printf, 5, 6))) static void tell(const char *name, const char *call,
                                                       uint64_t begin, const char *result,
                                                       const char *fmt, ...)
{
    const uint64_t end = now_ns();
    char line[700];
    int n = snprintf(
        line, sizeof(line), "%llu.%06llu %d %s.%s(", (unsigned long long)(begin / 1000000000u),
        (unsigned long long)(begin / 1000 % 1000000), (int)syscall(SYS_gettid), name, call);
    va_list ap;

    va_start(ap, fmt);
    n += vsnprintf(line + n, sizeof(line) - (size_t)n - 100, fmt, ap);
    va_end(ap);
    if (n > (int)sizeof(line) - 101)
        n = (int)sizeof(line) - 101;
    n +=
        snprintf(line + n, sizeof(line) - (size_t)n, ")%s%.60s, %llu us\n", result ? " = " : "",
                 result ? result : "", (unsigned long long)((end - begin) / 1000));
    (void)!write(trace_fd, line, (size_t)n);
}

#define PASTE(name, slot)  name##_##slot
#define PASTE_(name, slot) PASTE(name, slot)
#define TRACED(name)       PASTE_(name, SLOT)

#define SLOT 0
#include "loader_trace_transport.inc"
#define SLOT 1
#include "loader_trace_transport.inc"
#define SLOT 2
#include "loader_trace_transport.inc"
#define SLOT 3
#include "loader_trace_transport.inc"
#define SLOT 4
#include "loader_trace_transport.inc"
#define SLOT 5
#include "loader_trace_transport.inc"
#define SLOT 6
#include "loader_trace_transport.inc"
#define SLOT 7
#include "loader_trace_transport.inc"
#define SLOT 0
#include "loader_trace_metadata.inc"
#define SLOT 1
#include "loader_trace_metadata.inc"
#define SLOT 2
#include "loader_trace_metadata.inc"
#define SLOT 3
#include "loader_trace_metadata.inc"

/* The lock is held. */
static bool is_on(const char *(*words)(ferry_status))
{
    const char *path = getenv("FERRY_PLUGIN_TRACE");

    if (!path || !*path)
        return false;
    if (trace_fd < 0)
        trace_fd = strcmp(path, "-") != 0
                       ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600)
                       : fcntl(2, F_DUPFD_CLOEXEC, 3);
    words_of = words;
    return trace_fd >= 0;
}

void fy_trace_transport(const char *name, struct ferry_transport_ops *ops,
                        const char *(*words)(ferry_status))
{
    static void (*const wrap[TRANSPORTS])(struct ferry_transport_ops *) = {
        transport_wrap_0, transport_wrap_1, transport_wrap_2, transport_wrap_3,
        transport_wrap_4, transport_wrap_5, transport_wrap_6, transport_wrap_7};

    pthread_mutex_lock(&lock);
    if (is_on(words) && n_transports < TRANSPORTS) {
        snprintf(transports[n_transports].name, sizeof(transports[0].name), "%s", name);
        transports[n_transports].ops = *ops;
        wrap[n_transports++](ops);
    }
    pthread_mutex_unlock(&lock);
}

void fy_trace_metadata(const char *name, struct ferry_metadata_ops *ops,
                       const char *(*words)(ferry_status))
{
    static void (*const wrap[STORES])(struct ferry_metadata_ops *) = {
        metadata_wrap_0, metadata_wrap_1, metadata_wrap_2, metadata_wrap_3};

    pthread_mutex_lock(&lock);
    if (is_on(words) && n_stores < STORES) {
        snprintf(stores[n_stores].name, sizeof(stores[0].name), "%s", name);
        stores[n_stores].ops = *ops;
        wrap[n_stores++](ops);
    }
    pthread_mutex_unlock(&lock);
}
