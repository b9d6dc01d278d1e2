/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The active side's way to a peer: finds out that it is the process it says it is, on this host
 * and of this user, and takes its answers. Knows nothing of queues and copies.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "shm.h"

/* The core tells it to who named this transport; who did not is served by another. */
#define REFUSE(peer, ...) FT_LOG((peer)->tp->host, FERRY_LOG_INFO, __VA_ARGS__)

static uint64_t now_ms(void)
{
    return ft_now_ns() / 1000000;
}

bool shm_page_quiet(struct shm_page *page, const atomic_bool *gone, uint32_t timeout_ms)
{
    uint64_t end = now_ms() + timeout_ms;

    for (uint32_t i = 0; i < SHM_LINES; i++) {
        uint32_t seq = atomic_load(&page->line[i].seq);
        unsigned round = 0;

        while (seq & 1 && atomic_load(&page->line[i].seq) == seq) {
            if (gone && atomic_load(gone))
                return true;
            if (timeout_ms != UINT32_MAX && now_ms() >= end)
                return false;
            shm_pause(&round);
        }
    }
    return true;
}

/* --- handshake ------------------------------------------------------------------ */

static ferry_status dial(struct ferry_peer *peer, struct shm_conn *conn)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    size_t len = strlen(peer->sock);

    memcpy(addr.sun_path + 1, peer->sock, len);
    conn->fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (conn->fd < 0) {
        REFUSE(peer, "peer %s: no socket: %s", peer->name, strerror(errno));
        return FERRY_EDEVICE;
    }
    if (connect(conn->fd, (void *)&addr,
                (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + len))) {
        REFUSE(peer,
               "peer %s: nobody listens at UNIX socket @%s (%s): it has ended, or it runs in "
               "another network namespace",
               peer->name, peer->sock, strerror(errno));
        return FERRY_EUNREACH;
    }
    return FERRY_OK;
}

/* Is it the very process that published what we read? Not one that has its pid now. */
static ferry_status identify(struct ferry_peer *peer, struct shm_conn *conn)
{
    struct ucred cred;
    socklen_t len = sizeof(cred);

    if (getsockopt(conn->fd, SOL_SOCKET, SO_PEERCRED, &cred, &len))
        return FERRY_EUNREACH;
    if (cred.uid != peer->tp->ident.uid) {
        REFUSE(peer, "peer %s runs as user %u, this process as user %u: shm is for one user",
               peer->name, (unsigned)cred.uid, (unsigned)peer->tp->ident.uid);
        return FERRY_EUNREACH;
    }
    if (cred.pid <= 0 || cred.pid != peer->ident.pid) {
        REFUSE(peer,
               "peer %s: process %d answers where process %d is expected (another pid "
               "namespace, or another process)",
               peer->name, (int)cred.pid, (int)peer->ident.pid);
        return FERRY_EUNREACH;
    }
    conn->pid = cred.pid;
    conn->pidfd = shm_pidfd(conn->fd, cred.pid);
    if (conn->pidfd < 0 || shm_ended(conn->pidfd)) {
        REFUSE(peer, "peer %s: process %d has ended", peer->name, (int)cred.pid);
        return FERRY_EUNREACH;
    }
    if (shm_start_time(cred.pid) != peer->ident.start) {
        REFUSE(peer, "peer %s: process %d has ended, its number belongs to another one now",
               peer->name, (int)cred.pid);
        return FERRY_EUNREACH;
    }
    return FERRY_OK;
}

static ferry_status greet(struct ferry_peer *peer, struct shm_conn *conn, uint64_t end_ms)
{
    struct shm_msg msg = {.magic = SHM_MAGIC, .type = SHM_HELLO};
    struct pollfd p[2] = {{.fd = conn->fd, .events = POLLIN},
                          {.fd = conn->pidfd, .events = POLLIN}};
    size_t len;
    int fd = -1, rc = 0;
    struct stat st;
    void *page;

    memcpy(msg.token, peer->token, SHM_TOKEN_LEN);
    if (!shm_send(conn->fd, &msg, -1))
        rc = -1;
    while (!rc) {
        uint64_t now = now_ms();

        if (now >= end_ms) {
            REFUSE(peer, "peer %s: process %d does not answer (is it stopped?)", peer->name,
                   (int)conn->pid);
            return FERRY_ETIMEDOUT;
        }
        poll(p, 2, (int)(end_ms - now));
        rc = shm_recv(conn->fd, &msg, &len, &fd);
        if (!rc && p[1].revents)
            rc = -1;
    }
    if (rc < 0) {
        REFUSE(peer, "peer %s: process %d closed the connection", peer->name, (int)conn->pid);
        return FERRY_ECONNRESET;
    }
    if (!shm_msg_ok(&msg, len) || msg.type != SHM_WELCOME || msg.status || fd < 0 ||
        fstat(fd, &st) || st.st_size != sizeof(struct shm_page)) {
        REFUSE(peer, "peer %s: process %d does not let us in (status %d)", peer->name,
               (int)conn->pid, msg.type == SHM_WELCOME ? (int)msg.status : FERRY_EINVAL);
        if (fd >= 0)
            close(fd);
        return msg.type == SHM_WELCOME && msg.status == FERRY_ESTALE ? FERRY_ESTALE
                                                                     : FERRY_EUNREACH;
    }
    page = mmap(NULL, sizeof(struct shm_page), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (page == MAP_FAILED)
        return FERRY_ENOMEM;
    conn->page = page;
    return FERRY_OK;
}

/* Reads the peer's token where it says that it is. */
static ferry_status try_cma(struct ferry_peer *peer, struct shm_conn *conn)
{
    uint8_t seen[SHM_TOKEN_LEN];
    struct iovec local = {seen, sizeof(seen)};
    struct iovec remote = {(void *)(uintptr_t)peer->token_addr, sizeof(seen)};

    if (process_vm_readv(conn->pid, &local, 1, &remote, 1, 0) == (ssize_t)sizeof(seen)) {
        if (!memcmp(seen, peer->token, sizeof(seen)))
            return FERRY_OK;
        REFUSE(peer, "peer %s: the memory of process %d is not the peer's", peer->name,
               (int)conn->pid);
        return FERRY_EUNREACH;
    }
    int error = errno, scope = shm_ptrace_scope();
    if (error == EPERM && scope > 0)
        REFUSE(peer,
               "peer %s: process_vm_readv of process %d is not permitted: "
               "/proc/sys/kernel/yama/ptrace_scope is %d; %s, or use only memory of "
               "ferry_memory_alloc and \"mode\": \"map\"",
               peer->name, (int)conn->pid, scope,
               scope == 1 ? "set it to 0, or \"any_tracer\": true at the peer" : "set it to 0");
    else
        REFUSE(peer, "peer %s: process_vm_readv of process %d: %s%s", peer->name,
               (int)conn->pid, strerror(error),
               error == EPERM    ? " (it is not dumpable, has other capabilities, or a "
                                   "security module forbids it)"
               : error == ENOSYS ? " (a seccomp profile forbids it)"
                                 : "");
    return FERRY_EUNREACH;
}

ferry_status shm_conn_open(struct ferry_peer *peer, uint32_t timeout_ms,
                           struct shm_conn **conn_out)
{
    struct shm_conn *conn = calloc(1, sizeof(*conn));
    uint64_t end_ms = now_ms() + timeout_ms;
    ferry_status status;

    if (!conn)
        return FERRY_ENOMEM;
    conn->fd = conn->pidfd = -1;
    conn->refs = 1;
    conn->peer = peer;
    status = dial(peer, conn);
    if (!status)
        status = identify(peer, conn);
    if (!status)
        status = greet(peer, conn, end_ms);
    if (!status && peer->tp->config.mode != SHM_MODE_MAP)
        status = try_cma(peer, conn);
    if (status) {
        if (conn->fd >= 0)
            close(conn->fd);
        if (conn->pidfd >= 0)
            close(conn->pidfd);
        shm_conn_put(conn);
        return status;
    }
    *conn_out = conn;
    return FERRY_OK;
}

void shm_conn_put(struct shm_conn *conn)
{
    if (--conn->refs)
        return;
    if (conn->page)
        munmap(conn->page, sizeof(*conn->page));
    free(conn);
}

/* --- grants --------------------------------------------------------------------- */

static uint64_t id_of(const struct ferry_rmem *rmem)
{
    return (uint64_t)rmem->generation << 32 | rmem->index;
}

bool shm_ask(struct shm_conn *conn, struct ferry_rmem *rmem)
{
    struct shm_msg msg = {
        .magic = SHM_MAGIC, .type = SHM_ASK, .id = id_of(rmem), .addr = rmem->addr};
    int none = atomic_load(&rmem->state);

    if (none != SHM_NONE && none != SHM_REFUSED)
        return true; /* another queue has asked */
    /* Who asks more than it can take answers for is taken for one that does not read. */
    if (atomic_load(&conn->asks) >= SHM_ASKS)
        return false;
    if (!atomic_compare_exchange_strong(&rmem->state, &none, SHM_ASKED))
        return true;
    atomic_fetch_add(&conn->asks, 1);
    if (shm_send(conn->fd, &msg, -1))
        return true;
    atomic_fetch_sub(&conn->asks, 1);
    atomic_store(&rmem->state, SHM_NONE);
    return false;
}

void shm_let_go(struct shm_conn *conn, uint32_t slot)
{
    struct shm_msg msg = {.magic = SHM_MAGIC, .type = SHM_RELEASE, .slot = slot};

    shm_send(conn->fd, &msg, -1); /* where there is no room the slot stays taken */
}

/* Maps the region: the pages that hold it, of whatever size they are. */
static bool map_region(struct ferry_rmem *rmem, const struct shm_msg *msg, int fd)
{
    struct stat st;
    uint64_t start, end, page;
    void *at;
    int seals = fcntl(fd, F_GET_SEALS);

    /* What its owner can shrink would kill whoever copies from it. */
    if (seals < 0 || !(seals & F_SEAL_SHRINK) || fstat(fd, &st) || st.st_size < 0 ||
        msg->map_off > (uint64_t)st.st_size || msg->len > (uint64_t)st.st_size - msg->map_off)
        return false;
    page = st.st_blksize > 0 ? (uint64_t)st.st_blksize : 4096;
    start = msg->map_off / page * page;
    end = (msg->map_off + msg->len + page - 1) / page * page;
    at = mmap(NULL, end - start,
              msg->access & FERRY_ACCESS_REMOTE_WRITE ? PROT_READ | PROT_WRITE : PROT_READ,
              MAP_SHARED, fd, (off_t)start);
    if (at == MAP_FAILED)
        return false;
    madvise(at, end - start, MADV_HUGEPAGE); /* where the kernel has them for such memory */
    rmem->map_start = at;
    rmem->map_len = end - start;
    rmem->map = (uint8_t *)at + (msg->map_off - start);
    return true;
}

static bool grant(struct ferry_tp *tp, struct shm_conn *conn, const struct shm_msg *msg, int fd)
{
    struct ferry_peer *peer = conn->peer;
    uint32_t index = (uint32_t)msg->id, generation = (uint32_t)(msg->id >> 32);
    struct ferry_rmem *rmem = index < peer->table_len ? peer->table[index] : NULL;

    if (msg->status > 0 || (!msg->status && (msg->slot >= SHM_SLOTS || !msg->len ||
                                             msg->len - 1 > UINT64_MAX - msg->addr)))
        return false;
    if (!rmem || rmem->generation != generation || atomic_load(&rmem->state) != SHM_ASKED) {
        if (!msg->status)
            shm_let_go(conn, msg->slot);
        return true;
    }
    if (msg->status) {
        atomic_store(&rmem->refused, (int)msg->status);
        atomic_store(&rmem->state, SHM_REFUSED);
        return true;
    }
    rmem->base = msg->addr;
    rmem->size = msg->len;
    rmem->access = msg->access;
    rmem->slot = msg->slot;
    rmem->map = NULL;
    if (tp->config.mode != SHM_MODE_CMA && fd >= 0 && !map_region(rmem, msg, fd))
        FT_LOG(tp->host, FERRY_LOG_DEBUG, "peer %s: its memory at 0x%llx cannot be mapped",
               peer->name, (unsigned long long)msg->addr);
    if (!rmem->map && tp->config.mode == SHM_MODE_MAP) {
        FT_LOG(tp->host, FERRY_LOG_WARN,
               "peer %s: its memory at 0x%llx is not from ferry_memory_alloc and \"mode\" is "
               "\"map\"",
               peer->name, (unsigned long long)msg->addr);
        shm_let_go(conn, msg->slot);
        atomic_store(&rmem->refused, FERRY_EACCESS);
        atomic_store(&rmem->state, SHM_REFUSED);
    } else {
        atomic_store(&rmem->state, SHM_HELD);
    }
    return true;
}

static void revoked(struct ferry_tp *tp, struct shm_conn *conn, const struct shm_msg *msg)
{
    for (uint32_t i = 0; i < conn->peer->table_len; i++) {
        struct ferry_rmem *rmem = conn->peer->table[i];

        if (!rmem || atomic_load(&rmem->state) != SHM_HELD || rmem->slot != msg->slot)
            continue;
        atomic_store(&rmem->state, SHM_NONE);
        shm_page_quiet(conn->page, NULL, UINT32_MAX); /* our own threads */
        if (rmem->map)
            munmap(rmem->map_start, rmem->map_len);
        rmem->map = NULL;
        shm_let_go(conn, msg->slot);
        shm_kick_locked(tp);
        return;
    }
}

bool shm_conn_feed(struct ferry_tp *tp, struct shm_conn *conn, const void *data, size_t len,
                   int fd)
{
    struct shm_msg msg;
    bool ok = shm_msg_ok(data, len);

    if (ok) {
        memcpy(&msg, data, sizeof(msg));
        if (msg.type == SHM_GRANT) {
            if (atomic_load(&conn->asks) > 0)
                atomic_fetch_sub(&conn->asks, 1);
            ok = grant(tp, conn, &msg, fd);
            shm_kick_locked(tp); /* who waits for it, or to ask for more */
        } else if (msg.type == SHM_REVOKED) {
            revoked(tp, conn, &msg);
        } else {
            ok = false;
        }
    }
    if (fd >= 0)
        close(fd);
    return ok;
}

void shm_conn_ready(struct ferry_tp *tp, struct shm_conn *conn)
{
    struct shm_msg msg;
    size_t len;
    int fd, rc;

    while ((rc = shm_recv(conn->fd, &msg, &len, &fd)) > 0) {
        if (!shm_conn_feed(tp, conn, &msg, len, fd)) {
            FT_LOG(tp->host, FERRY_LOG_WARN, "peer %s does not keep to the protocol",
                   conn->peer->name);
            rc = -1;
            break;
        }
    }
    if (!rc && !shm_ended(conn->pidfd))
        return;
    epoll_ctl(tp->epoll_fd, EPOLL_CTL_DEL, conn->fd, NULL);
    epoll_ctl(tp->epoll_fd, EPOLL_CTL_DEL, conn->pidfd, NULL);
    atomic_store(&conn->dead, FERRY_ECONNRESET);
    shm_kick_locked(tp);
}
