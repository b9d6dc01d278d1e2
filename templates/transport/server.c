/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The target: one thread that takes connections and serves slots. It never waits for a peer, so
 * that one that is stopped or killed holds nobody up. A peer may be broken or hostile: what it
 * wrote is copied first, then checked, and only the core says which memory it may touch.
 */
#include "sample.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

struct served {
    int fd;
    struct window *window; /* NULL before its hello */
    struct served *next, **link;
};

struct server {
    const struct ferry_host *host;
    int listen_fd, stop_fd, epoll;
    pthread_t thread;
    struct served *all; /* the thread's alone */
};

void sample_ring(int fd)
{
    (void)!send(fd, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
}

bool sample_heard(int fd)
{
    char bytes[256];
    ssize_t n;

    do
        n = recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT);
    while (n == (ssize_t)sizeof(bytes) || (n < 0 && errno == EINTR));
    return n > 0 || (n < 0 && errno == EAGAIN);
}

static ferry_status serve_slot(const struct ferry_host *host, uint32_t op, uint64_t addr,
                               uint64_t len, unsigned char *data)
{
    struct ferry_region region;
    ferry_status status;

    if (len == 0 || len > SLOT_LEN || (op != FERRY_OP_READ && op != FERRY_OP_WRITE))
        return FERRY_EINVAL;
    status = host->region_get(
        host, addr, len,
        op == FERRY_OP_READ ? FERRY_ACCESS_REMOTE_READ : FERRY_ACCESS_REMOTE_WRITE, &region);
    if (status)
        return status; /* FERRY_ERANGE or FERRY_EACCESS: goes to the initiator as it is */
    status = op == FERRY_OP_READ ? host->region_read(host, &region, addr, data, len)
                                 : host->region_write(host, &region, addr, data, len);
    host->region_put(host, &region); /* held until here, so the memory could not go away */
    return status;
}

static void serve_window(struct server *server, struct served *served)
{
    bool found = true;

    while (found) {
        found = false;
        for (unsigned k = 0; k < SLOTS; k++) {
            struct slot *slot = &served->window->slot[k];
            uint32_t ready = SLOT_READY;

            /* acquire: sees what the initiator filled in; fails where it took the slot back */
            if (!atomic_compare_exchange_strong_explicit(&slot->state, &ready, SLOT_BUSY,
                                                         memory_order_acquire,
                                                         memory_order_relaxed))
                continue;
            found = true;
            const uint32_t op = *(volatile uint32_t *)&slot->op; /* once: it may change */
            const uint64_t addr = *(volatile uint64_t *)&slot->addr;
            const uint64_t len = *(volatile uint64_t *)&slot->len;
            slot->status = serve_slot(server->host, op, addr, len, served->window->data[k]);
            atomic_store_explicit(&slot->state, SLOT_DONE, memory_order_release);
        }
        if (found)
            sample_ring(served->fd);
    }
}

static void end_served(struct served *served)
{
    *served->link = served->next;
    if (served->next)
        served->next->link = served->link;
    if (served->window)
        munmap(served->window, sizeof(*served->window));
    close(served->fd); /* leaves the epoll set too */
    free(served);
}

/* A window that can shrink would end this process with SIGBUS. */
static bool window_is_sound(int fd)
{
    struct stat st;
    int seals = fcntl(fd, F_GET_SEALS);

    return seals >= 0 && (seals & F_SEAL_SHRINK) && fstat(fd, &st) == 0 &&
           st.st_size == (off_t)sizeof(struct window);
}

/* The hello and the window's descriptor, from a process of the same user. */
static bool greet(struct server *server, struct served *served)
{
    union {
        struct cmsghdr align;
        char room[CMSG_SPACE(sizeof(int))];
    } control;
    char hello[sizeof(HELLO) - 1];
    struct iovec iov = {.iov_base = hello, .iov_len = sizeof(hello)};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = control.room,
                         .msg_controllen = sizeof(control.room)};
    struct ucred who;
    socklen_t len = sizeof(who);
    ssize_t n = recvmsg(served->fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(&msg) : NULL;
    int fd = -1;

    if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS &&
        c->cmsg_len == CMSG_LEN(sizeof(int)))
        memcpy(&fd, CMSG_DATA(c), sizeof(fd));
    if (n == (ssize_t)sizeof(hello) && !memcmp(hello, HELLO, sizeof(hello)) && fd >= 0 &&
        getsockopt(served->fd, SOL_SOCKET, SO_PEERCRED, &who, &len) == 0 &&
        who.uid == geteuid() && window_is_sound(fd)) {
        void *mem =
            mmap(NULL, sizeof(struct window), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

        served->window = mem == MAP_FAILED ? NULL : mem;
    }
    if (fd >= 0)
        close(fd);
    if (!served->window && n > 0)
        SAMPLE_LOG(server->host, FERRY_LOG_WARN,
                   "sample: a connection that is not one of ours");
    else if (served->window)
        sample_ring(served->fd); /* what peer_attach waits for */
    return served->window != NULL;
}

static void take_connection(struct server *server)
{
    int fd = accept4(server->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    struct served *served = fd < 0 ? NULL : calloc(1, sizeof(*served));
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = served};

    if (!served || epoll_ctl(server->epoll, EPOLL_CTL_ADD, fd, &event)) {
        if (fd >= 0)
            close(fd);
        free(served);
        return;
    }
    served->fd = fd;
    served->next = server->all;
    served->link = &server->all;
    if (served->next)
        served->next->link = &served->next;
    server->all = served;
}

static void *server_main(void *arg)
{
    struct server *server = arg;
    struct epoll_event events[32];

    for (;;) {
        int n = epoll_wait(server->epoll, events, 32, -1);

        for (int i = 0; i < n; i++) {
            struct served *served = events[i].data.ptr;

            if (events[i].data.ptr == &server->stop_fd)
                return NULL;
            if (events[i].data.ptr == &server->listen_fd)
                take_connection(server);
            else if (!served->window) {
                if (!greet(server, served))
                    end_served(served);
            } else if (!sample_heard(served->fd))
                end_served(served); /* killed or closed: nothing of it is left */
            else
                serve_window(server, served);
        }
    }
}

static int listen_at(const char *address)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX}; /* abstract: begins with NUL, no file */
    const size_t len = strlen(address);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    memcpy(name.sun_path + 1, address, len);
    if (fd >= 0 && (bind(fd, (struct sockaddr *)&name,
                         (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + len)) ||
                    listen(fd, 128))) {
        close(fd);
        fd = -1;
    }
    return fd;
}

static int start_thread(struct server *server)
{
    sigset_t all, before;
    int rc;

    sigfillset(&all); /* signals are the application's */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    rc = pthread_create(&server->thread, NULL, server_main, server);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc;
}

ferry_status sample_server_start(const struct ferry_host *host, const char *address,
                                 struct server **server_out)
{
    struct server *server = calloc(1, sizeof(*server));

    if (!server)
        return FERRY_ENOMEM;
    server->host = host;
    server->listen_fd = listen_at(address);
    server->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    server->epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event a = {.events = EPOLLIN, .data.ptr = &server->listen_fd};
    struct epoll_event b = {.events = EPOLLIN, .data.ptr = &server->stop_fd};
    if (server->listen_fd >= 0 && server->stop_fd >= 0 && server->epoll >= 0 &&
        epoll_ctl(server->epoll, EPOLL_CTL_ADD, server->listen_fd, &a) == 0 &&
        epoll_ctl(server->epoll, EPOLL_CTL_ADD, server->stop_fd, &b) == 0 &&
        start_thread(server) == 0) {
        *server_out = server;
        return FERRY_OK;
    }
    SAMPLE_LOG(host, FERRY_LOG_ERROR, "sample: cannot listen: %s", strerror(errno));
    if (server->listen_fd >= 0)
        close(server->listen_fd);
    if (server->stop_fd >= 0)
        close(server->stop_fd);
    if (server->epoll >= 0)
        close(server->epoll);
    free(server);
    return FERRY_EDEVICE;
}

void sample_server_stop(struct server *server)
{
    eventfd_write(server->stop_fd, 1);
    pthread_join(server->thread, NULL);
    while (server->all)
        end_served(server->all);
    close(server->listen_fd);
    close(server->stop_fd);
    close(server->epoll);
    free(server);
}
