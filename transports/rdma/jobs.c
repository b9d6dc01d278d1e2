/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A few threads that take down and bring back rails, so that queue calls never block. One is
 * there from the start, more come when all are busy. Knows times and rails, not what is done
 * with them.
 */
#include "rdma.h"

#include <errno.h>
#include <signal.h>
#include <time.h>

static void *worker(void *arg);

/* One more where all are busy. jobs->lock is held. */
static void start_worker(struct rdma_jobs *jobs)
{
    sigset_t all, old;

    if (jobs->n_busy < jobs->n_threads || jobs->n_threads == RDMA_WORKERS)
        return;
    sigfillset(&all); /* signals are the application's, in its own threads */
    pthread_sigmask(SIG_SETMASK, &all, &old);
    if (pthread_create(&jobs->thread[jobs->n_threads], NULL, worker, jobs) == 0)
        jobs->n_threads++;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
}

static void *worker(void *arg)
{
    struct rdma_jobs *jobs = arg;

    pthread_setname_np(pthread_self(), "fy-rdma-link");
    pthread_mutex_lock(&jobs->lock);
    while (!jobs->stop) {
        struct rdma_job *job = jobs->first;
        if (!job) {
            pthread_cond_wait(&jobs->wake, &jobs->lock);
            continue;
        }
        if (job->due_ns > ft_now_ns()) {
            struct timespec ts = {.tv_sec = (time_t)(job->due_ns / 1000000000),
                                  .tv_nsec = (long)(job->due_ns % 1000000000)};
            pthread_cond_timedwait(&jobs->wake, &jobs->lock, &ts);
            continue;
        }
        jobs->first = job->next;
        job->queued = false;
        job->running++;
        jobs->n_busy++;
        if (jobs->first && jobs->first->due_ns <= ft_now_ns())
            start_worker(jobs);
        pthread_mutex_unlock(&jobs->lock);
        rdma_rail_job(job->rail);
        pthread_mutex_lock(&jobs->lock);
        jobs->n_busy--;
        job->running--;
        pthread_cond_broadcast(&jobs->idle);
    }
    pthread_mutex_unlock(&jobs->lock);
    return NULL;
}

ferry_status rdma_jobs_open(struct rdma_jobs *jobs)
{
    pthread_condattr_t attr;

    if (pthread_condattr_init(&attr) != 0)
        return FERRY_ENOMEM;
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&jobs->lock, NULL);
    pthread_cond_init(&jobs->wake, &attr);
    pthread_cond_init(&jobs->idle, &attr);
    pthread_condattr_destroy(&attr);
    pthread_mutex_lock(&jobs->lock);
    start_worker(jobs);
    pthread_mutex_unlock(&jobs->lock);
    if (jobs->n_threads)
        return FERRY_OK;
    rdma_jobs_close(jobs);
    return FERRY_ENOMEM;
}

static void take(struct rdma_jobs *jobs, struct rdma_job *job)
{
    struct rdma_job **at = &jobs->first;

    if (!job->queued)
        return;
    while (*at != job)
        at = &(*at)->next;
    *at = job->next;
    job->queued = false;
}

/* jobs->lock is held. */
static void put(struct rdma_jobs *jobs, struct rdma_job *job, uint64_t due_ns)
{
    struct rdma_job **at;

    take(jobs, job);
    job->due_ns = due_ns;
    for (at = &jobs->first; *at && (*at)->due_ns <= due_ns; at = &(*at)->next)
        ;
    job->next = *at;
    *at = job;
    job->queued = true;
    start_worker(jobs);
    pthread_cond_broadcast(&jobs->wake);
}

void rdma_job_add(struct rdma_jobs *jobs, struct rdma_job *job, uint64_t due_ns)
{
    pthread_mutex_lock(&jobs->lock);
    put(jobs, job, due_ns);
    pthread_mutex_unlock(&jobs->lock);
}

bool rdma_job_add_unless_queued(struct rdma_jobs *jobs, struct rdma_job *job, uint64_t due_ns)
{
    bool added;

    pthread_mutex_lock(&jobs->lock);
    added = !job->queued;
    if (added)
        put(jobs, job, due_ns);
    pthread_mutex_unlock(&jobs->lock);
    return added;
}

void rdma_job_cancel(struct rdma_jobs *jobs, struct rdma_job *job)
{
    pthread_mutex_lock(&jobs->lock);
    take(jobs, job);
    while (job->running) {
        pthread_cond_wait(&jobs->idle, &jobs->lock);
        take(jobs, job); /* it may have put itself on the list again */
    }
    pthread_mutex_unlock(&jobs->lock);
}

void rdma_jobs_close(struct rdma_jobs *jobs)
{
    pthread_mutex_lock(&jobs->lock);
    jobs->stop = true;
    pthread_cond_broadcast(&jobs->wake);
    pthread_mutex_unlock(&jobs->lock);
    for (uint32_t i = 0; i < jobs->n_threads; i++)
        pthread_join(jobs->thread[i], NULL);
    pthread_cond_destroy(&jobs->idle);
    pthread_cond_destroy(&jobs->wake);
    pthread_mutex_destroy(&jobs->lock);
}
