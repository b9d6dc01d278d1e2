/* SPDX-License-Identifier: Apache-2.0 */
/*
 * HOT. The threads of the passive side: accept, hand out connections, spin for a short while
 * after work, sleep in the reactor. Must not know what travels on a connection.
 */
#include "server.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "reactor.h"
#include "target.h"

#define READY_MAX      64
#define LOOK_EVERY     16 /* spinning rounds, for connections that are not active */
#define ACCEPT_MAX     64 /* in a row */
#define ACCEPT_WAIT_NS (100 * NS_PER_MS) /* when there are no descriptors */
#define DEFAULT_MAX    4u

struct tcp_thread;

struct server_conn {
    struct reactor_source source; /* first: what the reactor reports */
    struct target target;
    struct server_conn *next, **at;               /* of all */
    struct server_conn *active_next, **active_at; /* of those that spin; NULL: not there */
    bool draining;
    uint32_t wants; /* POLLIN or POLLOUT, to go on */
};

struct tcp_thread {
    struct tcp_server *server;
    pthread_t thread;
    uint32_t index;
    struct reactor *reactor;
    struct reactor_source wake; /* an eventfd */
    struct reactor_source listener;
    struct server_conn *conns, *active;
    uint32_t n_active, n_draining;
    uint64_t accept_ns; /* until then there are no descriptors; 0 = there are */
    struct target_env env;

    pthread_mutex_t lock; /* guards the three below; leaf */
    int *inbox;           /* accepted by the first thread for this one */
    uint32_t n_inbox, inbox_room;
    atomic_bool stop; /* set before the eventfd is written, read after */
};

struct tcp_server {
    struct ferry_tp *tp;
    int listen_fd;
    uint16_t port;
    uint32_t n_threads, next_thread;
    pthread_mutex_t start_lock; /* guards those below */
    pthread_cond_t started;
    uint32_t n_started;
    bool go;
    ferry_status start_status;
    struct tcp_thread threads[];
};

/* Threads of this process that spin now, over all transports of this kind. */
static atomic_uint spinners;

static uint32_t spinners_max(const struct ferry_tp *tp)
{
    return tp->cpus <= 1 ? 0 : tp->cpus / 2;
}

static bool spin_enter(const struct ferry_tp *tp)
{
    /* Relaxed: a count, nothing is published with it. */
    if (tp->config.spin_us == 0)
        return false;
    if (atomic_fetch_add_explicit(&spinners, 1, memory_order_relaxed) < spinners_max(tp))
        return true;
    atomic_fetch_sub_explicit(&spinners, 1, memory_order_relaxed);
    return false;
}

static void spin_leave(void)
{
    atomic_fetch_sub_explicit(&spinners, 1, memory_order_relaxed);
}

/* --- one connection --- */

static void activate(struct tcp_thread *th, struct server_conn *c)
{
    if (c->active_at != NULL)
        return;
    c->active_next = th->active;
    c->active_at = &th->active;
    if (th->active != NULL)
        th->active->active_at = &c->active_next;
    th->active = c;
    th->n_active++;
}

static void deactivate(struct tcp_thread *th, struct server_conn *c)
{
    if (c->active_at == NULL)
        return;
    *c->active_at = c->active_next;
    if (c->active_next != NULL)
        c->active_next->active_at = c->active_at;
    c->active_at = NULL;
    th->n_active--;
}

static void conn_end(struct tcp_thread *th, struct server_conn *c, bool reset)
{
    deactivate(th, c);
    th->n_draining -= c->draining;
    *c->at = c->next;
    if (c->next != NULL)
        c->next->at = c->at;
    target_fini(&c->target);
    th->reactor->ops->del(th->reactor, &c->source);
    if (reset)
        tcp_reset(c->source.fd);
    else
        tcp_close_fd(c->source.fd);
    free(c);
}

static void conn_begin(struct tcp_thread *th, int fd)
{
    struct server_conn *c = malloc(sizeof *c);

    if (c == NULL)
        goto err_close;
    *c = (struct server_conn){.source = {.fd = fd}};
    if (th->reactor->ops->add(th->reactor, &c->source) != 0)
        goto err_free;
    target_init(&c->target, &th->env, fd, ft_now_ns());
    c->next = th->conns;
    c->at = &th->conns;
    if (c->next != NULL)
        c->next->at = &c->next;
    th->conns = c;
    activate(th, c);
    return;

err_free:
    free(c);
err_close:
    tcp_reset(fd);
}

enum conn_run { CONN_MORE, CONN_WAITS, CONN_GONE };

static enum conn_run conn_run(struct tcp_thread *th, struct server_conn *c)
{
    enum target_run run = target_run(&c->target);

    switch (run) {
    case TARGET_AGAIN:
        return CONN_MORE;
    case TARGET_CLOSE:
    case TARGET_RESET:
        conn_end(th, c, run == TARGET_RESET);
        return CONN_GONE;
    default:
        break;
    }
    if (c->target.state == TARGET_S_DRAIN && !c->draining) {
        c->draining = true;
        th->n_draining++;
    }
    c->wants = run == TARGET_WRITE ? POLLOUT : POLLIN;
    return CONN_WAITS;
}

/* Lets it sleep: the reactor wakes us. */
static void conn_pause(struct tcp_thread *th, struct server_conn *c)
{
    deactivate(th, c);
    target_pause(&c->target);
    th->reactor->ops->want(th->reactor, &c->source, c->wants);
}

/* --- accepting --- */

static void hand_out(struct tcp_thread *th, int fd)
{
    struct tcp_server *server = th->server;
    struct tcp_thread *to = &server->threads[server->next_thread++ % server->n_threads];
    uint64_t one = 1;
    bool ok = true;

    if (to == th) {
        conn_begin(th, fd);
        return;
    }
    pthread_mutex_lock(&to->lock);
    if (to->n_inbox == to->inbox_room) {
        uint32_t room = 2 * to->inbox_room + 16;
        int *inbox = realloc(to->inbox, room * sizeof *inbox);

        if (inbox != NULL) {
            to->inbox = inbox;
            to->inbox_room = room;
        } else {
            ok = false;
        }
    }
    if (ok)
        to->inbox[to->n_inbox++] = fd;
    pthread_mutex_unlock(&to->lock);
    if (!ok)
        tcp_reset(fd);
    else if (write(to->wake.fd, &one, sizeof one) < 0)
        FT_LOG(server->tp->host, FERRY_LOG_DEBUG, "tcp: a wake-up was not taken");
}

static void accept_some(struct tcp_thread *th)
{
    for (int i = 0; i < ACCEPT_MAX; i++) {
        int fd = accept4(th->server->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

        if (fd >= 0) {
            hand_out(th, fd);
            continue;
        }
        if (errno == EINTR || errno == ECONNABORTED)
            continue;
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            FT_LOG(th->server->tp->host, FERRY_LOG_WARN, "tcp: cannot accept a connection: %s",
                   strerror(errno));
            th->accept_ns = ft_now_ns() + ACCEPT_WAIT_NS;
        }
        break;
    }
    th->reactor->ops->want(th->reactor, &th->listener, th->accept_ns == 0 ? POLLIN : 0);
}

static void take_inbox(struct tcp_thread *th)
{
    uint64_t count;

    (void)!read(th->wake.fd, &count, sizeof count);
    pthread_mutex_lock(&th->lock);
    for (uint32_t i = 0; i < th->n_inbox; i++)
        conn_begin(th, th->inbox[i]);
    th->n_inbox = 0;
    pthread_mutex_unlock(&th->lock);
    th->reactor->ops->want(th->reactor, &th->wake, POLLIN);
}

/* --- the loop --- */

static void look(struct tcp_thread *th, int64_t timeout_ns)
{
    struct reactor_source *ready[READY_MAX];
    int n = th->reactor->ops->wait(th->reactor, timeout_ns, ready, READY_MAX);
    uint64_t now = 0;

    for (int i = 0; i < n; i++) {
        if (ready[i] == &th->wake) {
            take_inbox(th);
        } else if (ready[i] == &th->listener) {
            accept_some(th);
        } else {
            struct server_conn *c = (void *)ready[i];

            if (now == 0)
                now = ft_now_ns();
            c->target.progress_ns = now; /* it is active from now on */
            activate(th, c);
        }
    }
}

/* One turn for each active connection; those that are quiet for too long go to sleep. */
static void turn(struct tcp_thread *th, bool spin)
{
    uint64_t spin_ns = th->server->tp->config.spin_us * NS_PER_US;
    struct server_conn *next;

    for (struct server_conn *c = th->active; c != NULL; c = next) {
        next = c->active_next;
        if (conn_run(th, c) == CONN_WAITS &&
            (!spin || ft_now_ns() - c->target.progress_ns > spin_ns))
            conn_pause(th, c);
    }
}

static void timers(struct tcp_thread *th)
{
    uint64_t now = ft_now_ns();
    struct server_conn *next;

    if (th->accept_ns != 0 && now >= th->accept_ns) {
        th->accept_ns = 0;
        th->reactor->ops->want(th->reactor, &th->listener, POLLIN);
    }
    for (struct server_conn *c = th->conns; c != NULL && th->n_draining > 0; c = next) {
        next = c->next;
        if (c->draining && now >= c->target.drain_ns)
            conn_end(th, c, true);
    }
}

static int64_t sleep_ns(const struct tcp_thread *th)
{
    uint64_t now = ft_now_ns(), first = th->accept_ns;

    for (const struct server_conn *c = th->conns; c != NULL && th->n_draining > 0; c = c->next)
        if (c->draining && (first == 0 || c->target.drain_ns < first))
            first = c->target.drain_ns;
    if (first == 0)
        return -1;
    return first > now ? (int64_t)(first - now) : 1;
}

static void loop(struct tcp_thread *th)
{
    bool spin = false;
    uint32_t round = 0;

    th->reactor->ops->want(th->reactor, &th->wake, POLLIN);
    if (th->index == 0)
        th->reactor->ops->want(th->reactor, &th->listener, POLLIN);
    /* Acquire: pairs with the release in tcp_server_close. */
    while (!atomic_load_explicit(&th->stop, memory_order_acquire)) {
        if (th->active == NULL) {
            if (spin)
                spin_leave();
            spin = false;
            timers(th);
            look(th, sleep_ns(th));
            continue;
        }
        if (!spin)
            spin = spin_enter(th->server->tp);
        turn(th, spin);
        if (++round % LOOK_EVERY == 0) {
            timers(th);
            look(th, 0);
        }
    }
    if (spin)
        spin_leave();
}

/* --- life --- */

static int reactor_open(struct tcp_thread *th)
{
    const struct ferry_tp *tp = th->server->tp;
    int rc = -ENOSYS;

    if (tp->config.engine != TCP_ENGINE_EPOLL) {
        rc = reactor_uring_open(&th->reactor);
        if (rc == 0)
            return 0;
        if (th->index == 0)
            FT_LOG(tp->host,
                   tp->config.engine == TCP_ENGINE_AUTO ? FERRY_LOG_INFO : FERRY_LOG_ERROR,
                   "tcp: no io_uring here (%s)%s", strerror(-rc),
                   tp->config.engine == TCP_ENGINE_AUTO ? ", epoll serves" : "");
        if (tp->config.engine == TCP_ENGINE_IO_URING)
            return rc;
    }
    return reactor_epoll_open(&th->reactor);
}

static void thread_fini(struct tcp_thread *th)
{
    while (th->conns != NULL)
        conn_end(th, th->conns, false);
    if (th->reactor != NULL)
        th->reactor->ops->close(th->reactor);
    target_env_fini(&th->env);
}

static ferry_status thread_init(struct tcp_thread *th)
{
    struct tcp_server *server = th->server;

    th->env.host = server->tp->host;
    th->env.incarnation = server->tp->incarnation;
    th->listener.fd = server->listen_fd;
    if (reactor_open(th) != 0)
        return FERRY_EDEVICE;
    if (th->reactor->ops->add(th->reactor, &th->wake) != 0 ||
        (th->index == 0 && th->reactor->ops->add(th->reactor, &th->listener) != 0))
        return FERRY_ENOMEM;
    return FERRY_OK;
}

static void *thread_main(void *arg)
{
    struct tcp_thread *th = arg;
    struct tcp_server *server = th->server;
    ferry_status status = thread_init(th);

    if (status == FERRY_OK && th->index == 0)
        FT_LOG(server->tp->host, FERRY_LOG_DEBUG, "tcp: served by %s", th->reactor->ops->name);
    pthread_mutex_lock(&server->start_lock);
    server->n_started++;
    if (status != FERRY_OK)
        server->start_status = status;
    pthread_cond_broadcast(&server->started);
    /* Peers may connect already: nobody serves them before all threads are counted. */
    while (!server->go)
        pthread_cond_wait(&server->started, &server->start_lock);
    pthread_mutex_unlock(&server->start_lock);
    if (status == FERRY_OK)
        loop(th);
    thread_fini(th);
    return NULL;
}

static ferry_status thread_start(struct tcp_thread *th)
{
    char name[16];
    sigset_t all, old;
    int rc;

    th->wake.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (th->wake.fd < 0)
        return FERRY_ENOMEM;
    pthread_mutex_init(&th->lock, NULL);
    /* Signals are the application's. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    rc = pthread_create(&th->thread, NULL, thread_main, th);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (rc != 0) {
        pthread_mutex_destroy(&th->lock);
        close(th->wake.fd);
        return FERRY_ENOMEM;
    }
    snprintf(name, sizeof name, "ferry-tcp-%u", th->index);
    (void)pthread_setname_np(th->thread, name);
    return FERRY_OK;
}

ferry_status tcp_server_open(struct ferry_tp *tp, struct tcp_server **server_out)
{
    uint32_t n = tp->config.threads;
    struct tcp_server *server;
    ferry_status status;
    char congestion[TCP_MAX_CONGESTION];

    if (n == 0)
        n = tp->cpus / 2 < 1 ? 1 : tp->cpus / 2 > DEFAULT_MAX ? DEFAULT_MAX : tp->cpus / 2;
    server = calloc(1, sizeof *server + n * sizeof server->threads[0]);
    if (server == NULL)
        return FERRY_ENOMEM;
    server->tp = tp;
    status = tcp_listen(tp->host, &tp->config, &server->listen_fd, &server->port);
    if (status != FERRY_OK) {
        free(server);
        return status;
    }
    pthread_mutex_init(&server->start_lock, NULL);
    pthread_cond_init(&server->started, NULL);
    while (status == FERRY_OK && server->n_threads < n) {
        struct tcp_thread *th = &server->threads[server->n_threads];

        th->server = server;
        th->index = server->n_threads;
        status = thread_start(th);
        server->n_threads += status == FERRY_OK;
    }
    pthread_mutex_lock(&server->start_lock);
    while (server->n_started < server->n_threads)
        pthread_cond_wait(&server->started, &server->start_lock);
    if (status == FERRY_OK)
        status = server->start_status;
    server->go = true;
    pthread_cond_broadcast(&server->started);
    pthread_mutex_unlock(&server->start_lock);
    if (status != FERRY_OK) {
        tcp_server_close(server);
        return status;
    }
    tcp_sock_options(&tp->config, server->listen_fd, congestion);
    FT_LOG(tp->host, FERRY_LOG_INFO, "tcp: port %u, %u thread%s, congestion control %s",
           server->port, n, n == 1 ? "" : "s", congestion);
    *server_out = server;
    return FERRY_OK;
}

void tcp_server_close(struct tcp_server *server)
{
    uint64_t one = 1;

    if (server == NULL)
        return;
    for (uint32_t i = 0; i < server->n_threads; i++) {
        struct tcp_thread *th = &server->threads[i];

        atomic_store_explicit(&th->stop, true, memory_order_release);
        (void)!write(th->wake.fd, &one, sizeof one);
    }
    for (uint32_t i = 0; i < server->n_threads; i++)
        pthread_join(server->threads[i].thread, NULL);
    for (uint32_t i = 0; i < server->n_threads; i++) {
        struct tcp_thread *th = &server->threads[i];

        for (uint32_t n = 0; n < th->n_inbox; n++) /* some came after it had gone */
            tcp_close_fd(th->inbox[n]);
        pthread_mutex_destroy(&th->lock);
        free(th->inbox);
        close(th->wake.fd);
    }
    shutdown(server->listen_fd, SHUT_RDWR); /* the port is free now, whoever holds the file */
    close(server->listen_fd);
    pthread_cond_destroy(&server->started);
    pthread_mutex_destroy(&server->start_lock);
    free(server);
}

uint16_t tcp_server_port(const struct tcp_server *server)
{
    return server->port;
}
