/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a peer of the tcp transport may answer, against the active side: lists are in flight on
 * a connection whose other end sends arbitrary bytes, in each dialect. Every element must end
 * exactly once, and nothing but the local memory of READs may change.
 */
#include <assert.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "initiator.h"

#define LEN    65536u
#define LISTS  3u
#define MAX_N  64u
#define CANARY 0xc5

static const int log_level = FERRY_LOG_TRACE;

static void no_log(const struct ferry_host *host, enum ferry_log_level level, const char *file,
                   int line, const char *fmt, ...)
{
    (void)host, (void)level, (void)file, (void)line, (void)fmt;
}

static const struct ferry_host host = {
    .size = sizeof host, .log_level = &log_level, .log = no_log};
static struct ferry_tp tp = {
    .host = &host, .config = {.congestion = "auto"}, .lock = PTHREAD_MUTEX_INITIALIZER};
static uint8_t memory[LEN];
static uint8_t ends[LISTS][MAX_N];

static void reap(struct ferry_queue *q)
{
    struct ferry_comp comp[8];
    int32_t n;

    while ((n = tcp_poll(q, comp, 8)) > 0)
        for (int32_t i = 0; i < n; i++) {
            assert(comp[i].cookie < LISTS && comp[i].first + comp[i].n <= MAX_N);
            for (uint32_t k = 0; k < comp[i].n; k++)
                ends[comp[i].cookie][comp[i].first + k]++;
        }
}

/* Elements of one list, some touching, in the half of the memory that is its direction's. */
static uint32_t submit(struct ferry_queue *q, struct ferry_peer *peer, struct ferry_mr *mr,
                       struct ferry_rmem *rmem, uint64_t cookie, uint32_t n, bool read)
{
    struct ferry_xfer x[MAX_N];
    struct ferry_list list = {.size = sizeof list,
                              .op = read ? FERRY_OP_READ : FERRY_OP_WRITE,
                              .peer = peer,
                              .v = x,
                              .n = n,
                              .cookie = cookie};
    uint32_t accepted;

    for (uint32_t i = 0; i < n; i++) {
        uint64_t off = (read ? LEN / 2 : 0) + i * 256 + i % 3;

        x[i] = (struct ferry_xfer){mr, rmem, memory + off, off, 256 - i % 3};
    }
    (void)tcp_submit(q, &list, &accepted);
    return accepted;
}

static void sink(int fd)
{
    static char bytes[65536];

    while (recv(fd, bytes, sizeof bytes, MSG_DONTWAIT) > 0)
        ;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/*
 * The first byte: dialect, size of the pieces, whether a list is cancelled on the way. The
 * second: which lists read, and how long they are.
 */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const size_t pieces[] = {65536, 100, 8, 41};
    struct ferry_queue_attr attr = {.size = sizeof attr};
    struct ferry_peer peer = {.tp = &tp, .name = (char *)"peer", .incarnation = 1};
    struct ferry_rmem rmem = {.peer = &peer, .addr = 0x10000, .len = LEN};
    struct ferry_mr mr = {
        .addr = (uintptr_t)memory, .len = LEN, .access = FERRY_ACCESS_LOCAL_WRITE};
    struct tcp_addr nowhere = {.len = 0};
    struct epoll_event ev = {.events = EPOLLIN | EPOLLRDHUP};
    uint32_t accepted[LISTS];
    struct ferry_queue *q;
    struct conn *c;
    int fd[2];

    if (size < 2 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fd) != 0)
        return 0;
    memset(memory, CANARY, sizeof memory);
    memset(ends, 0, sizeof ends);
    peer.dialect = data[0] & 1 ? TCP_DIALECT_V2 : TCP_DIALECT_V3;
    assert(tcp_queue_open(&tp, &attr, &q) == FERRY_OK);
    c = conn_new(q, &peer, &nowhere);
    assert(c != NULL);
    ev.data.ptr = c;
    assert(epoll_ctl(q->epfd, EPOLL_CTL_ADD, fd[0], &ev) == 0);
    c->fd = fd[0];
    peer.conns[q->index] = c;
    for (uint32_t i = 0; i < LISTS; i++)
        accepted[i] = submit(q, &peer, &mr, &rmem, i, 1 + (data[1] >> 3) * (i + 1) % MAX_N,
                             data[1] >> i & 1);

    for (size_t at = 2; at < size;) {
        size_t piece = pieces[data[0] >> 1 & 3];
        ssize_t sent =
            send(fd[1], data + at, size - at < piece ? size - at : piece, MSG_NOSIGNAL);

        if (sent <= 0)
            break;
        at += (size_t)sent;
        reap(q);
        sink(fd[1]);
        if (data[0] & 8) /* the end of a half-closed connection comes with the next piece */
            tcp_cancel(q, (data[0] >> 4) % LISTS);
    }
    close(fd[1]);
    reap(q);
    reap(q);
    for (uint32_t i = 0; i < LISTS; i++)
        for (uint32_t k = 0; k < MAX_N; k++)
            assert(ends[i][k] == (k < accepted[i]));
    for (uint32_t i = 0; i < LEN / 2; i++)
        assert(memory[i] == CANARY);
    tcp_queue_close(q);
    return 0;
}
