/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The answering side of the control channel. One thread owns every socket and never blocks;
 * handlers run on a few threads beside it (control_pool.c), since they may. What requests mean
 * is the handler's.
 */
#include "control.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "control_pool.h"
#include "error.h"
#include "ferry/ferry.h"
#include "names.h"
#include "util/clock.h"
#include "util/thread.h"

#define MAX_CONNS 1024
#define SILENCE_NS                                                                             \
    (5 * FY_NS_PER_S)                  /* without a byte of the request, or room for the reply \
                                        */
#define REQUEST_NS  (60 * FY_NS_PER_S) /* for the whole request */
#define LINGER_NS   (5 * FY_NS_PER_S)  /* for the client's close after the reply */
#define DRAIN_NS    (500 * FY_NS_PER_MS) /* for answers that are due when it is closed */
#define NO_FILES_NS (100 * FY_NS_PER_MS) /* before accepting again when descriptors ran out */
#define MIN_BUDGET  ((size_t)64 << 20)   /* for all unanswered requests together, at least */
#define IDLE_MS     10000                /* before a handler's thread ends */
#define NEVER       UINT64_MAX

enum conn_state {
    READING,
    HANDLING, /* the pool's: not in epoll */
    WRITING,
    LINGERING, /* half-closed; what still comes is thrown away */
};

struct conn {
    struct fy_job job; /* first */
    struct fy_control *control;
    struct conn *prev, *next;
    int fd;
    enum conn_state state;
    uint64_t deadline_ns, last_ns; /* last_ns: no deadline of the request is later */
    char *in;                      /* in_cap + 1 bytes */
    size_t in_len, in_cap;
    struct fy_control_frame frame;
    struct fy_buf out;
    size_t sent;
    ferry_status answer; /* of the handler; FERRY_ENOMEM also where `out` could not be made */
};

struct fy_control {
    size_t max_len, budget;
    fy_control_handler handler;
    void *arg;
    const struct fy_log *log;
    struct fy_pool *pool;
    int listen_fd, epoll_fd, wake_fd;
    int is_local;        /* AF_UNIX */
    atomic_int stopping; /* release by close, acquire by the I/O thread */
    pthread_t thread;
    /* The I/O thread's own, but for fy_control_close after it was joined. */
    struct conn *conns;
    size_t n_conns, buffered;
    int accepting;
    uint64_t accept_again_ns; /* NEVER = when a connection ends */
    uint64_t next_check_ns;   /* no deadline is earlier */
};

/* ---- connections ---- */

static void peer_of(const struct conn *conn, char *out, size_t room)
{
    struct sockaddr_storage addr;
    socklen_t len = sizeof(addr);
    char host[FY_HOST_MAX], port[8];

    if (getpeername(conn->fd, (struct sockaddr *)&addr, &len) ||
        getnameinfo((struct sockaddr *)&addr, len, host, sizeof(host), port, sizeof(port),
                    NI_NUMERICHOST | NI_NUMERICSERV) ||
        fy_name_join(host, (uint16_t)atoi(port), out, room))
        snprintf(out, room, "a peer");
}

static void log_conn(const struct conn *conn, const char *what, const char *why)
{
    char peer[FY_HOST_MAX + 16];

    if (!fy_log_wants(conn->control->log, FERRY_LOG_INFO))
        return;
    peer_of(conn, peer, sizeof(peer));
    FY_INFO(conn->control->log, "control channel: %s from %s: %s", what, peer, why);
}

static int watch(struct conn *conn, int op, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = conn};

    return epoll_ctl(conn->control->epoll_fd, op, conn->fd, &event);
}

static void set_deadline(struct conn *conn, uint64_t deadline_ns)
{
    conn->deadline_ns = deadline_ns;
    if (deadline_ns < conn->control->next_check_ns)
        conn->control->next_check_ns = deadline_ns;
}

static void set_accepting(struct fy_control *control, int accepting, uint64_t again_ns)
{
    struct epoll_event event = {.events = accepting ? EPOLLIN : 0, .data.ptr = control};

    control->accept_again_ns = again_ns;
    if (control->accepting == accepting)
        return;
    control->accepting = accepting;
    epoll_ctl(control->epoll_fd, EPOLL_CTL_MOD, control->listen_fd, &event);
}

static void conn_free(struct conn *conn)
{
    struct fy_control *control = conn->control;

    if (conn->prev)
        conn->prev->next = conn->next;
    else
        control->conns = conn->next;
    if (conn->next)
        conn->next->prev = conn->prev;
    control->n_conns--;
    control->buffered -= conn->in_cap;
    /* By hand: a child that was forked meanwhile may hold it open, and events would go on. */
    watch(conn, EPOLL_CTL_DEL, 0);
    close(conn->fd);
    free(conn->in);
    fy_buf_fini(&conn->out);
    free(conn);
    if (!control->accepting)
        set_accepting(control, 1, NEVER);
}

static void conn_new(struct fy_control *control, int fd)
{
    uint64_t now = fy_now_ns();
    struct conn *conn = calloc(1, sizeof(*conn));
    int on = 1;

    if (!conn) {
        close(fd);
        return;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    conn->control = control;
    conn->fd = fd;
    conn->last_ns = now + REQUEST_NS;
    fy_buf_init(&conn->out, 0);
    conn->next = control->conns;
    if (conn->next)
        conn->next->prev = conn;
    control->conns = conn;
    control->n_conns++;
    set_deadline(conn, now + SILENCE_NS);
    if (watch(conn, EPOLL_CTL_ADD, EPOLLIN))
        conn_free(conn);
}

/* On a socket of the file system's the kernel knows whose the client is. */
static int may_come_in(const struct fy_control *control, int fd)
{
    struct ucred who = {0};
    socklen_t len = sizeof(who);

    if (!control->is_local)
        return 1;
    if (!getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &len) && who.uid == geteuid())
        return 1;
    FY_WARN(control->log, "status socket: user %u turned away", (unsigned)who.uid);
    return 0;
}

static void accept_some(struct fy_control *control)
{
    for (int i = 0; i < 64; i++) {
        int fd;

        if (control->n_conns >= MAX_CONNS) {
            set_accepting(control, 0, NEVER);
            return;
        }
        fd = accept4(control->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0 && !may_come_in(control, fd)) {
            close(fd);
        } else if (fd >= 0) {
            conn_new(control, fd);
        } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            FY_WARN(control->log, "control channel: accepting: %s; trying again",
                    strerror(errno));
            set_accepting(control, 0, fy_now_ns() + NO_FILES_NS);
            return;
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            return;
        }
    }
}

/* ---- one exchange ---- */

/* Reads away what comes until the client closes, so that our close cannot reset the connection
 * before the client has read the reply, or while it still writes. */
static void linger(struct conn *conn)
{
    shutdown(conn->fd, SHUT_WR);
    free(conn->in);
    conn->in = NULL;
    conn->control->buffered -= conn->in_cap;
    conn->in_cap = conn->in_len = 0;
    fy_buf_fini(&conn->out);
    conn->state = LINGERING;
    set_deadline(conn, fy_now_ns() + LINGER_NS);
}

static void conn_linger(struct conn *conn)
{
    char waste[16384];

    for (int i = 0; i < 64; i++) { /* then the others' turn */
        ssize_t n = recv(conn->fd, waste, sizeof(waste), 0);

        if (n > 0 || (n < 0 && errno == EINTR))
            continue;
        if (n == 0 || (errno != EAGAIN && errno != EWOULDBLOCK))
            conn_free(conn);
        return;
    }
}

static void conn_write(struct conn *conn)
{
    while (conn->sent < conn->out.len) {
        ssize_t n = send(conn->fd, conn->out.data + conn->sent, conn->out.len - conn->sent,
                         MSG_NOSIGNAL);

        if (n >= 0) {
            conn->sent += (size_t)n;
            set_deadline(conn, fy_now_ns() + SILENCE_NS);
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            return;
        } else if (errno != EINTR) {
            log_conn(conn, "the reply to a request", strerror(errno));
            conn_free(conn);
            return;
        }
    }
    linger(conn);
    if (watch(conn, EPOLL_CTL_MOD, EPOLLIN))
        conn_free(conn);
}

static int conn_type(const struct conn *conn)
{
    return conn->frame.type < 0 ? FY_CONTROL_CONNECTION : conn->frame.type;
}

/* On a thread of the pool. */
static void conn_handle(struct fy_job *job)
{
    struct conn *conn = (struct conn *)job;
    struct fy_control *control = conn->control;
    struct fy_buf reply;

    fy_buf_init(&reply, 0);
    fy_fail(FERRY_OK, "%s", ""); /* no words of an earlier request */
    conn->answer = control->handler(control->arg, conn_type(conn), conn->in + conn->frame.body,
                                    conn->frame.len, &reply);
    if (conn->answer) {
        log_conn(conn, fy_control_type_name(conn_type(conn)),
                 ferry_error()[0] ? ferry_error() : ferry_strstatus(conn->answer));
        fy_buf_fini(&reply);
    }
    if (reply.len == 0)
        conn->answer = fy_control_encode(conn->frame.type, "null", 4, &conn->out);
    else
        conn->answer = fy_control_encode(conn->frame.type, reply.data, reply.len, &conn->out);
    fy_buf_fini(&reply);
}

/* Back on the I/O thread. */
static void conn_answered(struct conn *conn)
{
    if (conn->answer) {
        log_conn(conn, "no reply to a request", ferry_strstatus(conn->answer));
        conn_free(conn);
        return;
    }
    conn->state = WRITING;
    set_deadline(conn, fy_now_ns() + SILENCE_NS);
    if (watch(conn, EPOLL_CTL_ADD, EPOLLOUT))
        conn_free(conn);
    else
        conn_write(conn);
}

static void conn_submit(struct conn *conn)
{
    struct fy_control_frame *frame = &conn->frame;

    if (conn->in[frame->body + frame->len - 1] == '\n')
        frame->len--;
    conn->in[frame->body + frame->len] = '\0';
    conn->state = HANDLING;
    set_deadline(conn, NEVER);
    watch(conn, EPOLL_CTL_DEL, 0);
    if (fy_pool_submit(conn->control->pool, &conn->job)) {
        log_conn(conn, "a request", "no thread to answer it");
        conn_free(conn);
    }
}

static int grow(struct conn *conn, size_t need)
{
    struct fy_control *control = conn->control;
    size_t cap = conn->in_cap ? 2 * conn->in_cap : 512;
    char *in;

    if (cap > need)
        cap = need;
    if (cap - conn->in_cap > control->budget - control->buffered)
        return -1;
    in = realloc(conn->in, cap + 1);
    if (!in)
        return -1;
    control->buffered += cap - conn->in_cap;
    conn->in = in;
    conn->in_cap = cap;
    return 0;
}

static void conn_read(struct conn *conn)
{
    for (;;) {
        size_t need = 0;
        ferry_status status = fy_control_parse(conn->in, conn->in_len, conn->control->max_len,
                                               &conn->frame, &need);
        uint64_t deadline_ns;
        ssize_t n;

        if (status == FERRY_OK) {
            conn_submit(conn);
            return;
        }
        if (status != FERRY_EAGAIN) {
            log_conn(conn, "refused a request", ferry_error());
            linger(conn);
            return;
        }
        if (conn->in_len == conn->in_cap && grow(conn, need)) {
            log_conn(conn, "refused a request", "too much memory in use for requests");
            linger(conn);
            return;
        }
        n = recv(conn->fd, conn->in + conn->in_len, conn->in_cap - conn->in_len, 0);
        if (n > 0) {
            conn->in_len += (size_t)n;
            deadline_ns = fy_now_ns() + SILENCE_NS;
            set_deadline(conn, deadline_ns < conn->last_ns ? deadline_ns : conn->last_ns);
        } else if (n == 0 || (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)) {
            conn_free(conn);
            return;
        } else if (errno != EINTR) {
            return;
        }
    }
}

/* ---- the I/O thread ---- */

static void conn_event(struct conn *conn)
{
    switch (conn->state) {
    case READING:
        conn_read(conn);
        break;
    case WRITING:
        conn_write(conn);
        break;
    case LINGERING:
        conn_linger(conn);
        break;
    case HANDLING:
        break;
    }
}

static void check_deadlines(struct fy_control *control)
{
    uint64_t now = fy_now_ns();
    struct conn *next;

    if (now >= control->accept_again_ns)
        set_accepting(control, 1, NEVER);
    if (now < control->next_check_ns)
        return;
    control->next_check_ns = NEVER;
    for (struct conn *conn = control->conns; conn; conn = next) {
        next = conn->next;
        if (conn->deadline_ns > now) {
            set_deadline(conn, conn->deadline_ns);
            continue;
        }
        if (conn->state == READING)
            log_conn(conn, "closing a connection", "no request in time");
        conn_free(conn);
    }
}

static void take_answers(struct fy_control *control)
{
    struct fy_job *job, *next;
    uint64_t count;

    if (read(control->wake_fd, &count, sizeof(count)) < 0)
        return;
    for (job = fy_pool_finished(control->pool); job; job = next) {
        next = job->next;
        conn_answered((struct conn *)job);
    }
}

static int wait_ms(const struct fy_control *control)
{
    uint64_t until = control->next_check_ns < control->accept_again_ns
                         ? control->next_check_ns
                         : control->accept_again_ns;

    return until == NEVER ? -1 : fy_ms_left(until);
}

/* Once it stops: are there peers whose answer is on its way? What a handler did must not look
 * undone to them. */
static int goes_on(struct fy_control *control, uint64_t *drain_until_ns)
{
    if (!atomic_load_explicit(&control->stopping, memory_order_acquire))
        return 1;
    if (!*drain_until_ns) {
        *drain_until_ns = fy_now_ns() + DRAIN_NS;
        set_accepting(control, 0, NEVER);
    }
    for (const struct conn *conn = control->conns; conn; conn = conn->next) {
        if (conn->state == HANDLING || conn->state == WRITING)
            return fy_now_ns() < *drain_until_ns;
    }
    return 0;
}

static void *control_main(void *arg)
{
    struct fy_control *control = arg;
    struct epoll_event events[64];
    uint64_t drain_until_ns = 0;

    while (goes_on(control, &drain_until_ns)) {
        int ms = drain_until_ns ? fy_ms_left(drain_until_ns) : wait_ms(control);
        int woken = 0, n = epoll_wait(control->epoll_fd, events, 64, ms);

        for (int i = 0; i < n; i++) {
            if (events[i].data.ptr == control)
                accept_some(control);
            else if (events[i].data.ptr == &control->wake_fd)
                woken = 1;
            else
                conn_event(events[i].data.ptr);
        }
        if (woken)
            take_answers(control);
        check_deadlines(control);
    }
    return NULL;
}

static void wake(void *arg)
{
    struct fy_control *control = arg;
    uint64_t one = 1;

    /* It cannot fail but by being full, and then the thread is awake anyway. */
    if (write(control->wake_fd, &one, sizeof(one)) < 0)
        return;
}

/* ---- life ---- */

static int add_fd(struct fy_control *control, int fd, void *tag)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = tag};

    return epoll_ctl(control->epoll_fd, EPOLL_CTL_ADD, fd, &event);
}

ferry_status fy_control_open(int listen_fd, size_t max_len, fy_control_handler handler,
                             void *arg, const struct fy_log *log,
                             struct fy_control **control_out)
{
    struct fy_control *control = calloc(1, sizeof(*control));
    ferry_status status = FERRY_OK;
    socklen_t len = sizeof(int);
    int rc, domain = 0;

    if (!control)
        return fy_fail(FERRY_ENOMEM, "control channel: out of memory");
    control->max_len = max_len && max_len < FY_CONTROL_MAX_LEN ? max_len : FY_CONTROL_MAX_LEN;
    control->budget = control->max_len > MIN_BUDGET / 4 ? 4 * control->max_len : MIN_BUDGET;
    control->handler = handler;
    control->arg = arg;
    control->log = log;
    control->listen_fd = listen_fd;
    control->is_local =
        !getsockopt(listen_fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) && domain == AF_UNIX;
    control->accepting = 1;
    control->accept_again_ns = control->next_check_ns = NEVER;
    control->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    control->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (control->epoll_fd < 0 || control->wake_fd < 0 ||
        fcntl(listen_fd, F_SETFL, fcntl(listen_fd, F_GETFL) | O_NONBLOCK) ||
        add_fd(control, listen_fd, control) ||
        add_fd(control, control->wake_fd, &control->wake_fd)) {
        status = fy_fail(FERRY_EINTERNAL, "control channel: %s", strerror(errno));
        goto err_close;
    }
    status = fy_pool_open(conn_handle, wake, control, IDLE_MS, &control->pool);
    if (status)
        goto err_close;
    rc = fy_thread_start(&control->thread, "ferry-control", control_main, control);
    if (rc) {
        status = fy_fail(FERRY_EINTERNAL, "control channel: no thread: %s", strerror(rc));
        goto err_pool;
    }
    *control_out = control;
    return FERRY_OK;

err_pool:
    fy_pool_close(control->pool);
err_close:
    if (control->epoll_fd >= 0)
        close(control->epoll_fd);
    if (control->wake_fd >= 0)
        close(control->wake_fd);
    free(control);
    return status;
}

void fy_control_close(struct fy_control *control)
{
    if (!control)
        return;
    atomic_store_explicit(&control->stopping, 1, memory_order_release);
    wake(control);
    pthread_join(control->thread, NULL);
    close(control->listen_fd);
    control->listen_fd = -1; /* the number may be somebody's by now; conn_free still has it */
    fy_pool_close(control->pool);
    while (control->conns)
        conn_free(control->conns);
    close(control->epoll_fd);
    close(control->wake_fd);
    free(control);
}
