/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The threads on which the control channel's handlers run. A request more than there are free
 * threads starts one, up to four; beyond that requests wait. Knows nothing of what it runs.
 */
#include "control_pool.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "error.h"
#include "util/clock.h"
#include "util/thread.h"

enum { MAX_WORKERS = 4 };

struct worker {
    struct fy_pool *pool;
    pthread_t thread;
    int started; /* to be joined; changed by whoever submits and closes */
    int ended;   /* will touch nothing any more */
};

struct jobs {
    struct fy_job *first, **last;
};

struct fy_pool {
    void (*run)(struct fy_job *job);
    void (*finished_fn)(void *arg);
    void *arg;
    uint64_t idle_ns;
    pthread_mutex_t lock; /* guards what follows; nothing else is locked under it */
    pthread_cond_t more;
    struct jobs waiting, finished;
    unsigned n_waiting, n_idle;
    int stopping;
    struct worker workers[MAX_WORKERS];
};

static void jobs_init(struct jobs *jobs)
{
    jobs->first = NULL;
    jobs->last = &jobs->first;
}

static void jobs_put(struct jobs *jobs, struct fy_job *job)
{
    job->next = NULL;
    *jobs->last = job;
    jobs->last = &job->next;
}

static struct fy_job *jobs_take(struct jobs *jobs)
{
    struct fy_job *job = jobs->first;

    jobs->first = job->next;
    if (!jobs->first)
        jobs->last = &jobs->first;
    return job;
}

/* With the lock held. 0: nothing came in idle_ns. */
static int wait_for_job(struct fy_pool *pool)
{
    uint64_t deadline_ns = fy_now_ns() + pool->idle_ns;
    struct timespec until = {(time_t)(deadline_ns / FY_NS_PER_S),
                             (long)(deadline_ns % FY_NS_PER_S)};
    int rc = 0;

    pool->n_idle++;
    while (!pool->waiting.first && !pool->stopping && rc != ETIMEDOUT)
        rc = pthread_cond_timedwait(&pool->more, &pool->lock, &until);
    pool->n_idle--;
    return pool->waiting.first != NULL;
}

static void *worker_main(void *arg)
{
    struct worker *worker = arg;
    struct fy_pool *pool = worker->pool;

    pthread_mutex_lock(&pool->lock);
    while (!pool->stopping && wait_for_job(pool) && !pool->stopping) {
        struct fy_job *job = jobs_take(&pool->waiting);

        pool->n_waiting--;
        pthread_mutex_unlock(&pool->lock);
        pool->run(job);
        pthread_mutex_lock(&pool->lock);
        jobs_put(&pool->finished, job);
        pool->finished_fn(pool->arg);
    }
    worker->ended = 1;
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

/* With the lock held. */
static int start_worker(struct fy_pool *pool)
{
    int rc = EAGAIN;

    for (int i = 0; i < MAX_WORKERS; i++) {
        struct worker *worker = &pool->workers[i];

        if (worker->started && !worker->ended)
            continue;
        if (worker->started)
            pthread_join(worker->thread, NULL);
        *worker = (struct worker){.pool = pool};
        rc = fy_thread_start(&worker->thread, "ferry-handler", worker_main, worker);
        worker->started = !rc;
        break;
    }
    return rc;
}

static int has_worker(const struct fy_pool *pool)
{
    for (int i = 0; i < MAX_WORKERS; i++)
        if (pool->workers[i].started && !pool->workers[i].ended)
            return 1;
    return 0;
}

ferry_status fy_pool_open(void (*run)(struct fy_job *job), void (*finished)(void *arg),
                          void *arg, uint32_t idle_ms, struct fy_pool **pool_out)
{
    struct fy_pool *pool = calloc(1, sizeof(*pool));
    pthread_condattr_t attr;

    if (!pool)
        return fy_fail(FERRY_ENOMEM, "threads for requests: out of memory");
    pool->run = run;
    pool->finished_fn = finished;
    pool->arg = arg;
    pool->idle_ns = idle_ms * FY_NS_PER_MS;
    jobs_init(&pool->waiting);
    jobs_init(&pool->finished);
    pthread_mutex_init(&pool->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&pool->more, &attr);
    pthread_condattr_destroy(&attr);
    *pool_out = pool;
    return FERRY_OK;
}

void fy_pool_close(struct fy_pool *pool)
{
    if (!pool)
        return;
    pthread_mutex_lock(&pool->lock);
    pool->stopping = 1;
    pthread_cond_broadcast(&pool->more);
    pthread_mutex_unlock(&pool->lock);
    for (int i = 0; i < MAX_WORKERS; i++)
        if (pool->workers[i].started)
            pthread_join(pool->workers[i].thread, NULL);
    pthread_cond_destroy(&pool->more);
    pthread_mutex_destroy(&pool->lock);
    free(pool);
}

ferry_status fy_pool_submit(struct fy_pool *pool, struct fy_job *job)
{
    ferry_status status = FERRY_OK;

    pthread_mutex_lock(&pool->lock);
    if (pool->n_waiting >= pool->n_idle && start_worker(pool) && !has_worker(pool)) {
        status = fy_fail(FERRY_EINTERNAL, "no thread for a request");
    } else {
        jobs_put(&pool->waiting, job);
        pool->n_waiting++;
        pthread_cond_signal(&pool->more);
    }
    pthread_mutex_unlock(&pool->lock);
    return status;
}

struct fy_job *fy_pool_finished(struct fy_pool *pool)
{
    struct fy_job *first;

    pthread_mutex_lock(&pool->lock);
    first = pool->finished.first;
    jobs_init(&pool->finished);
    pthread_mutex_unlock(&pool->lock);
    return first;
}
