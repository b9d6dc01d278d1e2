/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FY_WORK_H
#define FY_WORK_H

#include "ferry/status.h"

#include <stdbool.h>
#include <stdint.h>

/* Threads for what may block: connecting, closing, publishing, answering. Started when needed,
 * at most `max`, ended after `idle_ms` without work. Jobs run in the order given, several at
 * once. */
struct fy_work;

/* `name`: of the threads, at most 15 characters; stays the caller's and must live as long. */
ferry_status fy_work_open(unsigned max, const char *name, uint32_t idle_ms,
                          struct fy_work **work_out);
/* Runs what is queued, then joins. */
void fy_work_close(struct fy_work *work);
/* Never fails for want of a thread: then the job runs when one is free. FERRY_ENOMEM. */
ferry_status fy_work_add(struct fy_work *work, void (*job)(void *arg), void *arg);
/* Takes a job back that has not begun. false: it has, or is none. */
bool fy_work_take_back(struct fy_work *work, void (*job)(void *arg), void *arg);

#endif /* FY_WORK_H */
