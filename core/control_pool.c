/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The control channel's handlers on threads of their own, and their way back to the channel's.
 * Knows nothing of what it runs.
 */
#include "control_pool.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "error.h"
#include "work.h"

enum { MAX_WORKERS = 4 };

struct fy_pool {
    struct fy_work *work;
    void (*run)(struct fy_job *job);
    void (*finished_fn)(void *arg);
    void *arg;
    atomic_int stopping;
    pthread_mutex_t lock; /* guards what follows; nothing else is locked under it */
    struct fy_job *finished, **last;
};

ferry_status fy_pool_open(void (*run)(struct fy_job *job), void (*finished)(void *arg),
                          void *arg, uint32_t idle_ms, struct fy_pool **pool_out)
{
    struct fy_pool *pool = calloc(1, sizeof(*pool));

    if (!pool || fy_work_open(MAX_WORKERS, "ferry-handler", idle_ms, &pool->work)) {
        free(pool);
        return fy_fail(FERRY_ENOMEM, "threads for requests: out of memory");
    }
    pool->run = run;
    pool->finished_fn = finished;
    pool->arg = arg;
    pool->last = &pool->finished;
    pthread_mutex_init(&pool->lock, NULL);
    *pool_out = pool;
    return FERRY_OK;
}

void fy_pool_close(struct fy_pool *pool)
{
    if (!pool)
        return;
    atomic_store(&pool->stopping, 1);
    fy_work_close(pool->work);
    pthread_mutex_destroy(&pool->lock);
    free(pool);
}

static void run_one(void *arg)
{
    struct fy_job *job = arg;
    struct fy_pool *pool = job->pool;

    if (atomic_load(&pool->stopping))
        return;
    pool->run(job);
    job->next = NULL;
    pthread_mutex_lock(&pool->lock);
    *pool->last = job;
    pool->last = &job->next;
    pthread_mutex_unlock(&pool->lock);
    pool->finished_fn(pool->arg);
}

ferry_status fy_pool_submit(struct fy_pool *pool, struct fy_job *job)
{
    job->pool = pool;
    if (fy_work_add(pool->work, run_one, job))
        return fy_fail(FERRY_EINTERNAL, "no thread for a request");
    return FERRY_OK;
}

struct fy_job *fy_pool_finished(struct fy_pool *pool)
{
    struct fy_job *first;

    pthread_mutex_lock(&pool->lock);
    first = pool->finished;
    pool->finished = NULL;
    pool->last = &pool->finished;
    pthread_mutex_unlock(&pool->lock);
    return first;
}
