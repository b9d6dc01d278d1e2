/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FY_CONTROL_POOL_H
#define FY_CONTROL_POOL_H

#include "ferry/status.h"

/* A few threads for jobs that may block; started when needed, ended when idle. */
struct fy_pool;

/* Embedded in what is to be done; the pool's from submit until fy_pool_finished gave it back.
 */
struct fy_job {
    struct fy_job *next;
    struct fy_pool *pool;
};

/* `run`: on a thread of the pool, at most four at once. `finished(arg)`: on the same, each time
 * there is something for fy_pool_finished. A thread without work for `idle_ms` ends. */
ferry_status fy_pool_open(void (*run)(struct fy_job *job), void (*finished)(void *arg),
                          void *arg, uint32_t idle_ms, struct fy_pool **pool_out);
/* Waits for the jobs that run; those that wait are dropped. */
void fy_pool_close(struct fy_pool *pool);

/* FERRY_EINTERNAL: there is no thread, and none could be started. Called by one thread. */
ferry_status fy_pool_submit(struct fy_pool *pool, struct fy_job *job);
/* A chain of jobs that were run, oldest first; the caller's again. NULL: none. */
struct fy_job *fy_pool_finished(struct fy_pool *pool);

#endif /* FY_CONTROL_POOL_H */
