/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FY_THREAD_H
#define FY_THREAD_H

#include <pthread.h>
#include <signal.h>
#include <time.h>

/*
 * As pthread_create, with two differences: the thread takes no signals, which are the
 * application's and its own threads'; and it has a name (at most 15 characters) for ps and gdb.
 */
static inline int fy_thread_start(pthread_t *thread_out, const char *name,
                                  void *(*fn)(void *arg), void *arg)
{
    sigset_t all, old;
    int rc;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    rc = pthread_create(thread_out, NULL, fn, arg);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (!rc)
        pthread_setname_np(*thread_out, name);
    return rc;
}

/* Whose timed waits go by CLOCK_MONOTONIC. */
static inline void fy_cond_init(pthread_cond_t *cond)
{
    pthread_condattr_t attr;

    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(cond, &attr);
    pthread_condattr_destroy(&attr);
}

#endif /* FY_THREAD_H */
