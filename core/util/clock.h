/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FY_CLOCK_H
#define FY_CLOCK_H

#include <stdint.h>
#include <time.h>

#define FY_NS_PER_MS 1000000ull
#define FY_NS_PER_S  1000000000ull

/* Nanoseconds of CLOCK_MONOTONIC. */
static inline uint64_t fy_now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * FY_NS_PER_S + (uint64_t)t.tv_nsec;
}

/* Milliseconds until `deadline_ns`, rounded up, for poll() and the like; 0 once it has passed.
 */
static inline int fy_ms_left(uint64_t deadline_ns)
{
    uint64_t now = fy_now_ns();
    uint64_t ms;

    if (deadline_ns <= now)
        return 0;
    ms = (deadline_ns - now + FY_NS_PER_MS - 1) / FY_NS_PER_MS;
    return ms > 0x7fffffff ? 0x7fffffff : (int)ms;
}

/* A time or a length as system calls take it. */
static inline struct timespec fy_timespec(uint64_t ns)
{
    return (struct timespec){.tv_sec = (time_t)(ns / FY_NS_PER_S),
                             .tv_nsec = (long)(ns % FY_NS_PER_S)};
}

#endif /* FY_CLOCK_H */
