/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A small pool of threads for calls that may block, so that neither the caller of a submit nor
 * the progress thread ever does. Knows nothing of the jobs.
 */
#include "work.h"
#include "util/clock.h"
#include "util/thread.h"

#include <pthread.h>
#include <stdlib.h>
#include <time.h>

struct job {
    struct job *next;
    void (*fn)(void *arg);
    void *arg;
};

struct thread {
    struct thread *next;
    struct fy_work *work;
    pthread_t id;
};

struct fy_work {
    pthread_mutex_t lock; /* all of it; a leaf */
    pthread_cond_t more;
    struct job *head, **tail;
    struct thread *ended; /* to be joined */
    unsigned threads, idle, queued, max;
    bool closing;
    const char *name;
    uint64_t idle_ns;
    pthread_cond_t none;
};

static struct job *next_job(struct fy_work *work)
{
    uint64_t until_ns = fy_now_ns() + work->idle_ns;
    struct timespec until = fy_timespec(until_ns);

    while (!work->head && !work->closing) {
        int rc;

        work->idle++;
        rc = pthread_cond_timedwait(&work->more, &work->lock, &until);
        work->idle--;
        if (rc && !work->head)
            return NULL;
    }
    if (work->head) {
        struct job *job = work->head;

        work->head = job->next;
        if (!work->head)
            work->tail = &work->head;
        work->queued--;
        return job;
    }
    return NULL;
}

static void *run(void *arg)
{
    struct thread *thread = arg;
    struct fy_work *work = thread->work;
    struct job *job;

    pthread_mutex_lock(&work->lock);
    while ((job = next_job(work))) {
        pthread_mutex_unlock(&work->lock);
        job->fn(job->arg);
        free(job);
        pthread_mutex_lock(&work->lock);
    }
    work->threads--;
    thread->next = work->ended;
    work->ended = thread;
    pthread_cond_signal(&work->none);
    pthread_mutex_unlock(&work->lock);
    return NULL;
}

static void join_ended(struct fy_work *work)
{
    struct thread *thread = work->ended;

    work->ended = NULL;
    while (thread) {
        struct thread *next = thread->next;

        pthread_join(thread->id, NULL);
        free(thread);
        thread = next;
    }
}

ferry_status fy_work_open(unsigned max, const char *name, uint32_t idle_ms,
                          struct fy_work **work_out)
{
    struct fy_work *work = calloc(1, sizeof(*work));

    if (!work)
        return FERRY_ENOMEM;
    work->max = max ? max : 1;
    work->name = name;
    work->idle_ns = idle_ms * FY_NS_PER_MS;
    work->tail = &work->head;
    pthread_mutex_init(&work->lock, NULL);
    fy_cond_init(&work->more);
    fy_cond_init(&work->none);
    *work_out = work;
    return FERRY_OK;
}

void fy_work_close(struct fy_work *work)
{
    if (!work)
        return;
    pthread_mutex_lock(&work->lock);
    work->closing = true;
    pthread_cond_broadcast(&work->more);
    while (work->threads)
        pthread_cond_wait(&work->none, &work->lock);
    join_ended(work);
    pthread_mutex_unlock(&work->lock);
    pthread_cond_destroy(&work->more);
    pthread_cond_destroy(&work->none);
    pthread_mutex_destroy(&work->lock);
    free(work);
}

static void start_thread(struct fy_work *work)
{
    struct thread *thread = calloc(1, sizeof(*thread));

    if (!thread)
        return;
    thread->work = work;
    if (fy_thread_start(&thread->id, work->name, run, thread))
        free(thread);
    else
        work->threads++;
}

ferry_status fy_work_add(struct fy_work *work, void (*fn)(void *arg), void *arg)
{
    struct job *job = calloc(1, sizeof(*job));

    if (!job)
        return FERRY_ENOMEM;
    job->fn = fn;
    job->arg = arg;
    pthread_mutex_lock(&work->lock);
    join_ended(work);
    if (work->queued + 1 > work->idle && work->threads < work->max)
        start_thread(work);
    if (!work->threads) {
        pthread_mutex_unlock(&work->lock);
        free(job);
        return FERRY_ENOMEM;
    }
    *work->tail = job;
    work->tail = &job->next;
    work->queued++;
    pthread_cond_signal(&work->more);
    pthread_mutex_unlock(&work->lock);
    return FERRY_OK;
}

bool fy_work_take_back(struct fy_work *work, void (*fn)(void *arg), void *arg)
{
    struct job **at = &work->head, *job;

    pthread_mutex_lock(&work->lock);
    while (*at && ((*at)->fn != fn || (*at)->arg != arg))
        at = &(*at)->next;
    job = *at;
    if (job) {
        *at = job->next;
        if (work->tail == &job->next)
            work->tail = at;
        work->queued--;
    }
    pthread_mutex_unlock(&work->lock);
    free(job);
    return job != NULL;
}
