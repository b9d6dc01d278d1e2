/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What peers reach: an endpoint for each link of theirs, made and taken down as they ask, and
 * the thread that moves these on, for nobody here polls for what others do. It sleeps on the
 * endpoints' descriptors; where a provider has none it looks every POLL_NS while it serves.
 *
 * A process that was stopped may find bytes waiting that their sender has given up. So whenever
 * the thread notices that time has passed it by, it asks each sender whether its link is still
 * there before anything is moved.
 */
#include "fab.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define POLL_NS     50000L
#define GAP_NS      UINT64_C(300000000)
#define YOUNG_NS    UINT64_C(200000000)
#define SLEEP_MS    100 /* while it serves: not every provider wakes for all that it has to do */
#define MAX_EVENTS  32
#define EVENT_POKED 0 /* tags of served endpoints are links, which begin at 1 */

static void free_served(struct fab_served *served)
{
    fab_end_close(&served->end);
    free(served);
}

/* serve_lock is held. NULL = there is none. `serial` as in drop. */
static struct fab_served *take_served(struct ferry_tp *tp, const char *instance, uint64_t link,
                                      uint64_t serial)
{
    for (struct fab_served **at = &tp->served; *at; at = &(*at)->next) {
        struct fab_served *served = *at;
        if (served->link == link && strcmp(served->instance, instance) == 0 &&
            (!serial || served->serial == serial)) {
            *at = served->next;
            tp->n_served--;
            return served;
        }
    }
    return NULL;
}

/* `serial`: that one, and not another that came in its place; 0 = whatever there is. */
static bool drop(struct ferry_tp *tp, const char *instance, uint64_t link, uint64_t serial)
{
    pthread_mutex_lock(&tp->serve_lock); /* held while it is closed: nobody moves it on then */
    struct fab_served *served = take_served(tp, instance, link, serial);
    if (served)
        free_served(served);
    pthread_mutex_unlock(&tp->serve_lock);
    return served != NULL;
}

/* ---- asking those who reach us */

struct reply_sink {
    struct ferry_buf_sink sink;
    char text[4096];
    size_t len;
};

static ferry_status append(struct ferry_buf_sink *sink, const void *data, size_t len)
{
    struct reply_sink *r = (struct reply_sink *)sink;

    if (len > sizeof(r->text) - r->len)
        return FERRY_ERANGE;
    memcpy(r->text + r->len, data, len);
    r->len += len;
    return FERRY_OK;
}

/* Is the link of this sender still there? FERRY_OK: yes. FERRY_ETIMEDOUT: it says nothing. */
static ferry_status ask_sender(struct ferry_tp *tp, const char *peer, const char *instance,
                               uint64_t link)
{
    struct fab_request *request = calloc(1, sizeof(*request));
    struct fab_reply *reply = calloc(1, sizeof(*reply));
    struct reply_sink sink = {.sink.append = append};
    const char *why;
    char *text = NULL;
    ferry_status status = FERRY_ETIMEDOUT;

    if (request && reply) {
        request->ask = FAB_VALID;
        request->link = link;
        strcpy(request->instance, tp->instance);
        strcpy(request->expect, instance);
        text = fab_request_encode(request);
    }
    if (text)
        status =
            tp->host->peer_call(tp->host, peer, text, strlen(text), FAB_CONTROL_MS, &sink.sink);
    if (text && !status)
        status = fab_reply_parse(sink.text, sink.len, reply, &why) == FERRY_OK
                     ? (ferry_status)reply->status
                     : FERRY_EIO;
    free(text);
    free(reply);
    free(request);
    return status;
}

static void heard(struct ferry_tp *tp, uint64_t serial)
{
    pthread_mutex_lock(&tp->serve_lock);
    for (struct fab_served *served = tp->served; served; served = served->next)
        if (served->serial == serial)
            served->silent = 0;
    pthread_mutex_unlock(&tp->serve_lock);
}

/* Asks after one last heard of before that. Who says nothing may do so `patience` times in a
 * row. False: there is none. */
static bool check_one(struct ferry_tp *tp, uint64_t before_ns, uint32_t patience)
{
    char peer[sizeof(tp->served->peer)], instance[FT_INSTANCE_MAX];
    uint64_t link, serial;
    uint32_t silent;
    struct fab_served *served;
    ferry_status status;

    pthread_mutex_lock(&tp->serve_lock);
    for (served = tp->served; served && served->checked_ns >= before_ns;)
        served = served->next;
    if (served) {
        served->checked_ns = ft_now_ns();
        strcpy(peer, served->peer);
        strcpy(instance, served->instance);
        link = served->link;
        serial = served->serial;
        silent = served->silent++;
    }
    pthread_mutex_unlock(&tp->serve_lock);
    if (!served)
        return false;
    status = ask_sender(tp, peer, instance, link);
    if (!status)
        heard(tp, serial);
    else if ((status != FERRY_ETIMEDOUT || silent >= patience) &&
             drop(tp, instance, link, serial))
        FT_LOG(tp->host, FERRY_LOG_INFO, "peer %s: its link is gone", peer);
    return true;
}

bool fab_serve_check_old(struct ferry_tp *tp)
{
    const uint64_t now = ft_now_ns(), old = FAB_OLD_MS * UINT64_C(1000000);

    return now > old && check_one(tp, now - old, FAB_PATIENCE);
}

/* ---- the thread */

/* Moves one on. False: it is not to be slept on yet. */
static bool progress_one(struct fab_served *served)
{
    struct fi_cq_entry entry[16];
    struct fi_cq_err_entry error = {0};
    struct fid *fid = &served->end.cq->fid;
    ssize_t n;

    /* nothing completes here, but this is what makes a provider work */
    while ((n = fi_cq_read(served->end.cq, entry, 16)) > 0 || n == -FI_EAVAIL)
        if (n == -FI_EAVAIL && fi_cq_readerr(served->end.cq, &error, 0) <= 0)
            break;
    return !served->device->wait_fd ||
           fi_trywait(served->device->fabric, &fid, 1) == FI_SUCCESS;
}

struct round {
    bool may_sleep, must_poll;
    int timeout_ms;
};

static struct round progress_all(struct ferry_tp *tp)
{
    struct round round = {.may_sleep = true, .timeout_ms = -1};

    pthread_mutex_lock(&tp->serve_lock);
    for (struct fab_served *served = tp->served; served; served = served->next) {
        round.must_poll |= !served->device->wait_fd;
        round.may_sleep &= progress_one(served);
        round.timeout_ms = SLEEP_MS;
    }
    if (ft_now_ns() - tp->serve_since_ns < YOUNG_NS)
        round.timeout_ms = 1;
    pthread_mutex_unlock(&tp->serve_lock);
    if (atomic_load(&tp->n_armed)) {
        pthread_mutex_lock(&tp->lock);
        for (uint32_t i = 0; i < FAB_MAX_QUEUES; i++)
            if (tp->queues[i] && atomic_load(&tp->queues[i]->armed))
                fab_queue_look(tp->queues[i]);
        pthread_mutex_unlock(&tp->lock);
        round.must_poll |= atomic_load(&tp->n_armed) > 0;
    }
    return round;
}

/* Waits until there may be something to do. False: we were stopped meanwhile. */
static bool wait_for_work(struct ferry_tp *tp, const struct round *round, bool *stop_out)
{
    struct epoll_event event[MAX_EVENTS];
    uint64_t before = ft_now_ns();
    eventfd_t poked;
    int n;

    if (round->must_poll)
        nanosleep(&(struct timespec){.tv_nsec = POLL_NS}, NULL);
    n = epoll_wait(tp->progress_epoll_fd, event, MAX_EVENTS,
                   round->may_sleep && !round->must_poll ? round->timeout_ms : 0);
    for (int i = 0; i < n; i++)
        if (event[i].data.u64 == EVENT_POKED) {
            eventfd_read(tp->progress_event_fd, &poked);
            *stop_out = poked > UINT32_MAX; /* see fab_serve_close */
        }
    /* A signal that stops, and no other, interrupts a thread that has all of them blocked; but
     * where the wait was over at that moment it is the clock alone that tells. */
    if (n < 0)
        return errno != EINTR;
    return round->timeout_ms < 0 || ft_now_ns() - before < GAP_NS;
}

static void check_all(struct ferry_tp *tp)
{
    const uint64_t now = ft_now_ns();

    while (check_one(tp, now, 0)) /* we stood still: who does not answer may have given up */
        ;
}

static void *progress_main(void *arg)
{
    struct ferry_tp *tp = arg;
    uint64_t begin;
    bool stop = false;

    pthread_setname_np(pthread_self(), "fy-fab-serve");
    while (!stop) {
        begin = ft_now_ns();
        struct round round = progress_all(tp);
        bool steady = ft_now_ns() - begin < GAP_NS;
        if (!wait_for_work(tp, &round, &stop) || !steady)
            check_all(tp);
    }
    return NULL;
}

void fab_serve_poke(struct ferry_tp *tp)
{
    eventfd_write(tp->progress_event_fd, 1);
}

ferry_status fab_serve_open(struct ferry_tp *tp)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = EVENT_POKED};
    sigset_t all, old;
    int rc;

    tp->progress_epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    tp->progress_event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (tp->progress_epoll_fd < 0 || tp->progress_event_fd < 0 ||
        epoll_ctl(tp->progress_epoll_fd, EPOLL_CTL_ADD, tp->progress_event_fd, &event) != 0)
        goto err;
    sigfillset(&all); /* signals are the application's, in its own threads */
    pthread_sigmask(SIG_SETMASK, &all, &old);
    rc = pthread_create(&tp->progress, NULL, progress_main, tp);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (rc == 0)
        return FERRY_OK;

err:
    if (tp->progress_event_fd >= 0)
        close(tp->progress_event_fd);
    if (tp->progress_epoll_fd >= 0)
        close(tp->progress_epoll_fd);
    return FERRY_ENOMEM;
}

void fab_serve_close(struct ferry_tp *tp)
{
    eventfd_write(tp->progress_event_fd, UINT64_C(1) << 40);
    pthread_join(tp->progress, NULL);
    while (tp->served) {
        struct fab_served *served = tp->served;
        tp->served = served->next;
        free_served(served);
    }
    close(tp->progress_event_fd);
    close(tp->progress_epoll_fd);
}

/* ---- what peers ask */

static ferry_status serve_link(struct ferry_tp *tp, const char *peer_name,
                               const struct fab_request *request, struct fab_reply *reply)
{
    struct fab_device *device = &tp->device[request->device];
    struct fab_served *served;
    ferry_status status;
    fi_addr_t addr;

    drop(tp, request->instance, request->link, 0);
    if (request->device >= tp->n_devices || strlen(peer_name) >= sizeof(served->peer))
        return FERRY_EINVAL;
    served = calloc(1, sizeof(*served));
    if (!served)
        return FERRY_ENOMEM;
    strcpy(served->peer, peer_name);
    strcpy(served->instance, request->instance);
    served->link = request->link;
    served->checked_ns = ft_now_ns();
    served->device = device;
    served->end.fd = -1;
    status = fab_end_open(tp, device, 64, tp->progress_epoll_fd, request->link, &served->end);
    if (status == FERRY_OK && request->ep_len &&
        fi_av_insert(served->end.av, request->ep, 1, &addr, 0, NULL) != 1)
        status = FERRY_EINVAL;
    if (status == FERRY_OK)
        status = fab_end_name(&served->end, reply->ep, &reply->ep_len);
    pthread_mutex_lock(&tp->serve_lock);
    if (status == FERRY_OK && tp->n_served == FAB_MAX_SERVED)
        status = FERRY_ENOMEM;
    if (status == FERRY_OK) {
        served->serial = ++tp->serve_serial;
        served->next = tp->served;
        tp->served = served;
        tp->n_served++;
        tp->serve_since_ns = ft_now_ns(); /* connecting is where wake-ups are missed most */
    }
    pthread_mutex_unlock(&tp->serve_lock);
    if (status != FERRY_OK) {
        free_served(served);
        return status;
    }
    fab_serve_poke(tp);
    pthread_mutex_lock(&tp->lock); /* no worker is between its look at n_served and its sleep */
    pthread_cond_signal(&tp->wake);
    pthread_mutex_unlock(&tp->lock);
    reply->word = device->words[0];
    reply->word_key = device->word_key;
    reply->word_addr = device->word_addr;
    reply->n_checks = request->n_checks;
    for (uint32_t i = 0; i < request->n_checks; i++)
        reply->check[i] = fab_mr_check(tp, request->device, &request->check[i]);
    return FERRY_OK;
}

static bool is_served(struct ferry_tp *tp, const struct fab_request *request)
{
    bool found = false;

    pthread_mutex_lock(&tp->serve_lock);
    for (struct fab_served *served = tp->served; served; served = served->next)
        found |= served->link == request->link && !strcmp(served->instance, request->instance);
    pthread_mutex_unlock(&tp->serve_lock);
    return found;
}

/* Is it a link of ours, and one that we have not given up? */
static bool is_ours(struct ferry_tp *tp, uint64_t id)
{
    bool found = false;

    pthread_mutex_lock(&tp->lock);
    for (struct fab_link *link = tp->links; link; link = link->next) {
        if (link->id != id || link->closing)
            continue;
        pthread_mutex_lock(&link->queue->lock);
        found = link->state == LINK_UP || (link->state == LINK_BROKEN && !link->by_cancel);
        pthread_mutex_unlock(&link->queue->lock);
    }
    pthread_mutex_unlock(&tp->lock);
    return found;
}

static ferry_status answer(struct ferry_tp *tp, const char *peer_name,
                           const struct fab_request *request, struct fab_reply *reply)
{
    if (strcmp(request->expect, tp->instance) != 0)
        return FERRY_ESTALE;
    switch (request->ask) {
    case FAB_OPEN:
        return serve_link(tp, peer_name, request, reply);
    case FAB_CLOSE:
        drop(tp, request->instance, request->link, 0);
        return FERRY_OK;
    case FAB_ALIVE:
        return is_served(tp, request) ? FERRY_OK : FERRY_ENOENT;
    case FAB_VALID:
        return is_ours(tp, request->link) ? FERRY_OK : FERRY_ENOENT;
    }
    return FERRY_EINVAL;
}

ferry_status fab_on_call(struct ferry_tp *tp, const char *peer_name, const void *req,
                         size_t req_len, struct ferry_buf_sink *sink)
{
    struct fab_request *request = calloc(1, sizeof(*request));
    struct fab_reply *reply = calloc(1, sizeof(*reply));
    const char *why = "no memory";
    ferry_status status = FERRY_ENOMEM;
    char *text;

    if (request && reply) {
        status = fab_request_parse(req, req_len, request, &why);
        if (status == FERRY_OK) {
            reply->status = answer(tp, peer_name, request, reply);
            text = fab_reply_encode(reply);
            status = text ? sink->append(sink, text, strlen(text)) : FERRY_ENOMEM;
            free(text);
        } else {
            FT_LOG(tp->host, FERRY_LOG_INFO, "peer %s: %s", peer_name, why);
        }
    }
    free(reply);
    free(request);
    return status;
}
