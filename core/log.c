/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Log lines to the application's callback. Never prints by itself.
 */
#include "log.h"

#include <stdarg.h>
#include <stdio.h>

void fy_log_vwrite(const struct fy_log *log, enum ferry_log_level level, const char *prefix,
                   const char *fmt, va_list ap)
{
    char line[1024];
    int n;

    if (!fy_log_wants(log, level))
        return;
    n = snprintf(line, sizeof(line), "%s", prefix);
    if (n < 0 || (size_t)n >= sizeof(line))
        n = 0;
    vsnprintf(line + n, sizeof(line) - (size_t)n, fmt, ap);
    log->fn(log->arg, (int)level, line);
}

void fy_log_write(const struct fy_log *log, enum ferry_log_level level, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    fy_log_vwrite(log, level, "", fmt, ap);
    va_end(ap);
}
