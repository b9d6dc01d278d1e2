/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FY_LOG_H
#define FY_LOG_H

#include "ferry/plugin.h"

/* Where an engine's log lines go. Set up once before use; any thread may log. */
struct fy_log {
    int level; /* enum ferry_log_level; read with relaxed atomics */
    void (*fn)(void *arg, int level, const char *message); /* NULL = silent */
    void *arg;
};

void fy_log_write(const struct fy_log *log, enum ferry_log_level level, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
void fy_log_vwrite(const struct fy_log *log, enum ferry_log_level level, const char *prefix,
                   const char *fmt, __builtin_va_list ap) __attribute__((format(printf, 4, 0)));

static inline int fy_log_wants(const struct fy_log *log, enum ferry_log_level level)
{
    return log && log->fn && (int)level <= __atomic_load_n(&log->level, __ATOMIC_RELAXED);
}

/* Formats nothing where the level is not wanted. Lower case, no full stop. */
#define FY_LOG(log, level, ...)                                                                \
    do {                                                                                       \
        if (fy_log_wants((log), (level)))                                                      \
            fy_log_write((log), (level), __VA_ARGS__);                                         \
    } while (0)
#define FY_ERROR(log, ...) FY_LOG(log, FERRY_LOG_ERROR, __VA_ARGS__)
#define FY_WARN(log, ...)  FY_LOG(log, FERRY_LOG_WARN, __VA_ARGS__)
#define FY_INFO(log, ...)  FY_LOG(log, FERRY_LOG_INFO, __VA_ARGS__)
#define FY_DEBUG(log, ...) FY_LOG(log, FERRY_LOG_DEBUG, __VA_ARGS__)

#endif /* FY_LOG_H */
