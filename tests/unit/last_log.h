/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LAST_LOG_H
#define LAST_LOG_H

/* A host for parts of plugins that only log: what was said last is in `last`. */
#include <stdarg.h>
#include <stdio.h>

#include "ferry/plugin.h"

static char last[1024];
static int level = FERRY_LOG_INFO;

__attribute__((format(printf, 5, 6))) static void keep(const struct ferry_host *host,
                                                       enum ferry_log_level at,
                                                       const char *file, int line,
                                                       const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(last, sizeof(last), fmt, ap);
    va_end(ap);
}

static const struct ferry_host host = {.size = sizeof(host), .log_level = &level, .log = keep};

#endif /* LAST_LOG_H */
