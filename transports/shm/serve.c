/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The transport's one thread: it accepts peers, answers their questions and takes the answers
 * to ours. Sleeps while there is nothing of the kind: no byte of a transfer passes through it.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "shm.h"

enum { ID_LISTEN, ID_STOP, ID_FIRST };

#define LEAVING_MS 10  /* how often a client that is being dropped is looked at */
#define DEAF_MS    100 /* how long who knocks waits where there are no descriptors */

void shm_pause(unsigned *round)
{
    long us = 20L << (*round < 6 ? *round : 6);

    ++*round;
    nanosleep(&(struct timespec){.tv_nsec = us * 1000}, NULL);
}

bool shm_watch(struct ferry_tp *tp, int fd, uint64_t id)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = id};

    return !epoll_ctl(tp->epoll_fd, EPOLL_CTL_ADD, fd, &event);
}

void shm_watch_for(struct ferry_tp *tp, int fd, uint64_t id, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.u64 = id};

    epoll_ctl(tp->epoll_fd, EPOLL_CTL_MOD, fd, &event);
}

void shm_unwatch(struct ferry_tp *tp, int fd)
{
    epoll_ctl(tp->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
    shutdown(fd, SHUT_RDWR); /* nothing to a pidfd */
    close(fd);
}

void shm_kick_locked(struct ferry_tp *tp)
{
    for (unsigned i = 0; i < SHM_MAX_QUEUES; i++) {
        struct ferry_queue *queue = tp->queues[i];

        if (!queue)
            continue;
        atomic_store(&queue->kick, true);
        if (atomic_load(&queue->armed))
            eventfd_write(queue->fd, 1);
    }
}

static void handle(struct ferry_tp *tp, uint64_t id)
{
    for (struct shm_client *c = tp->clients; c; c = c->next) {
        if (c->id == id) {
            shm_client_ready(tp, c);
            return;
        }
    }
    for (struct ferry_peer *p = tp->peers; p; p = p->next) {
        if (p->conn && p->conn->id == id) {
            shm_conn_ready(tp, p->conn);
            return;
        }
    }
}

/* False: it has to wait, there are no descriptors. */
static bool accept_one(struct ferry_tp *tp)
{
    int fd = accept4(tp->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (fd >= 0) {
        shm_client_accept(tp, fd);
    } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
        FT_LOG(tp->host, FERRY_LOG_WARN, "cannot accept a connection: %s", strerror(errno));
        return false;
    }
    return true;
}

static void *serve_main(void *arg)
{
    struct ferry_tp *tp = arg;
    uint64_t deaf_ns = 0; /* until then; 0 = it listens */
    int timeout_ms = -1;

    pthread_setname_np(pthread_self(), "ferry-shm");
    for (;;) {
        struct epoll_event event;
        /* One at a time: what an event names may be gone after the one before it. */
        int n = epoll_wait(tp->epoll_fd, &event, 1, timeout_ms);

        if (n < 0 && errno != EINTR)
            break;
        if (n > 0 && event.data.u64 == ID_STOP)
            break;
        pthread_mutex_lock(&tp->lock);
        if (deaf_ns && ft_now_ns() >= deaf_ns) {
            deaf_ns = 0;
            shm_watch_for(tp, tp->listen_fd, ID_LISTEN, EPOLLIN);
        }
        if (n > 0 && event.data.u64 == ID_LISTEN) {
            if (!accept_one(tp)) {
                deaf_ns = ft_now_ns() + DEAF_MS * UINT64_C(1000000);
                shm_watch_for(tp, tp->listen_fd, ID_LISTEN, 0);
            }
        } else if (n > 0) {
            handle(tp, event.data.u64);
        }
        timeout_ms = shm_clients_leaving(tp) ? LEAVING_MS : deaf_ns ? DEAF_MS : -1;
        pthread_mutex_unlock(&tp->lock);
    }
    return NULL;
}

static ferry_status listen_at(struct ferry_tp *tp)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    size_t len = strlen(tp->sock);

    memcpy(addr.sun_path + 1, tp->sock, len);
    tp->listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (tp->listen_fd < 0 ||
        bind(tp->listen_fd, (void *)&addr,
             (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + len)) ||
        listen(tp->listen_fd, 128)) {
        FT_LOG(tp->host, FERRY_LOG_ERROR, "cannot listen at UNIX socket @%s: %s", tp->sock,
               strerror(errno));
        return FERRY_EDEVICE;
    }
    return FERRY_OK;
}

static int start_thread(struct ferry_tp *tp)
{
    sigset_t all, old;
    int rc;

    sigfillset(&all); /* signals are the application's, in its own threads */
    pthread_sigmask(SIG_SETMASK, &all, &old);
    rc = pthread_create(&tp->thread, NULL, serve_main, tp);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return rc;
}

ferry_status shm_serve_start(struct ferry_tp *tp)
{
    ferry_status status = listen_at(tp);

    tp->next_id = ID_FIRST;
    if (!status) {
        tp->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
        tp->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (tp->epoll_fd < 0 || tp->stop_fd < 0 || !shm_watch(tp, tp->listen_fd, ID_LISTEN) ||
            !shm_watch(tp, tp->stop_fd, ID_STOP)) {
            FT_LOG(tp->host, FERRY_LOG_ERROR, "no descriptors: %s", strerror(errno));
            status = FERRY_ENOMEM;
        }
    }
    if (!status && start_thread(tp)) {
        FT_LOG(tp->host, FERRY_LOG_ERROR, "cannot start a thread");
        status = FERRY_ENOMEM;
    }
    if (status) {
        const int fds[] = {tp->listen_fd, tp->epoll_fd, tp->stop_fd};
        for (size_t i = 0; i < sizeof(fds) / sizeof(*fds); i++)
            if (fds[i] >= 0)
                close(fds[i]);
    }
    return status;
}

void shm_serve_stop(struct ferry_tp *tp)
{
    eventfd_write(tp->stop_fd, 1);
    pthread_join(tp->thread, NULL);
    shm_unwatch(tp, tp->listen_fd);
    close(tp->stop_fd);
    while (tp->clients)
        shm_client_drop(tp, tp->clients);
    close(tp->epoll_fd);
}
