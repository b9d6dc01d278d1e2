/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The workers: threads that do for links what blocks. They look for what is due themselves, so
 * that a queue call only has to change a state. One that has nothing to do has the clock; all
 * are asleep where there are no links and nothing is served.
 */
#include "fab.h"

#include <signal.h>

#define ASK_NS (FAB_OLD_MS * UINT64_C(1000000) / 8) /* between two looks for old ones */

static bool is_due(struct fab_link *link)
{
    const struct fab_config *config = &link->queue->tp->config;
    bool due = false;

    pthread_mutex_lock(&link->queue->lock);
    if (link->state == LINK_BROKEN) {
        due = true;
    } else if (link->state == LINK_UP && link->n_posted) {
        /* read under the lock, so that no time the poller set is ahead of it */
        const uint64_t now = ft_now_ns();
        uint64_t quiet = now - link->progress_ns, stall = config->stall_ms * UINT64_C(1000000);
        due = (quiet > stall && now - link->asked_ns > stall) ||
              (link->cancelled && quiet > config->cancel_ms * UINT64_C(1000000));
    }
    pthread_mutex_unlock(&link->queue->lock);
    return due;
}

static struct fab_link *find_due(struct ferry_tp *tp)
{
    for (struct fab_link *link = tp->links; link; link = link->next)
        if (!link->working && !link->closing && is_due(link))
            return link;
    return NULL;
}

static void tick(struct ferry_tp *tp)
{
    struct timespec until;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += FAB_TICK_MS * 1000000L;
    until.tv_sec += until.tv_nsec / 1000000000L;
    until.tv_nsec %= 1000000000L;
    pthread_cond_timedwait(&tp->wake, &tp->lock, &until);
}

static void *work(void *arg)
{
    struct ferry_tp *tp = arg;

    pthread_setname_np(pthread_self(), "fy-fab-work");
    pthread_mutex_lock(&tp->lock);
    while (!tp->stop) {
        struct fab_link *link = find_due(tp);
        if (link) {
            link->working = true;
            pthread_cond_signal(&tp->wake); /* there may be more, and there is the clock */
            pthread_mutex_unlock(&tp->lock);
            fab_link_work(link);
            pthread_mutex_lock(&tp->lock);
            link->working = false;
            pthread_cond_broadcast(&tp->idle);
        } else if (!tp->asking && atomic_load(&tp->n_served) && ft_now_ns() > tp->ask_ns) {
            tp->asking = true; /* one alone: who does not answer keeps no other from links */
            pthread_cond_signal(&tp->wake);
            pthread_mutex_unlock(&tp->lock);
            bool more = fab_serve_check_old(tp);
            pthread_mutex_lock(&tp->lock);
            tp->asking = false;
            if (!more)
                tp->ask_ns = ft_now_ns() + ASK_NS;
        } else if (!tp->ticking && (tp->links || atomic_load(&tp->n_served))) {
            tp->ticking = true;
            tick(tp);
            tp->ticking = false;
        } else {
            pthread_cond_wait(&tp->wake, &tp->lock);
        }
    }
    pthread_mutex_unlock(&tp->lock);
    return NULL;
}

ferry_status fab_workers_open(struct ferry_tp *tp)
{
    pthread_condattr_t attr;
    sigset_t all, old;
    int rc = 0;

    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&tp->wake, &attr);
    pthread_cond_init(&tp->idle, &attr);
    pthread_condattr_destroy(&attr);
    sigfillset(&all); /* signals are the application's, in its own threads */
    pthread_sigmask(SIG_SETMASK, &all, &old);
    pthread_mutex_lock(&tp->lock);
    while (tp->n_workers < FAB_WORKERS && rc == 0) {
        rc = pthread_create(&tp->worker[tp->n_workers], NULL, work, tp);
        tp->n_workers += rc == 0;
    }
    pthread_mutex_unlock(&tp->lock);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (rc == 0)
        return FERRY_OK;
    fab_workers_close(tp);
    return FERRY_ENOMEM;
}

void fab_workers_close(struct ferry_tp *tp)
{
    pthread_mutex_lock(&tp->lock);
    tp->stop = true;
    pthread_cond_broadcast(&tp->wake);
    pthread_mutex_unlock(&tp->lock);
    while (tp->n_workers)
        pthread_join(tp->worker[--tp->n_workers], NULL);
    pthread_cond_destroy(&tp->idle);
    pthread_cond_destroy(&tp->wake);
}

/* Without the lock, which is taken before a queue's: what is missed waits for the next tick. */
void fab_workers_wake(struct ferry_tp *tp)
{
    pthread_cond_broadcast(&tp->wake);
}

void fab_link_take(struct fab_link *link)
{
    struct ferry_tp *tp = link->queue->tp;

    pthread_mutex_lock(&tp->lock);
    link->closing = true;
    while (link->working)
        pthread_cond_wait(&tp->idle, &tp->lock);
    for (struct fab_link **at = &tp->links; *at; at = &(*at)->next)
        if (*at == link) {
            *at = link->next;
            break;
        }
    pthread_mutex_unlock(&tp->lock);
}
