/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What comes over the UNIX socket, told to both sides of an open shm transport: the first byte
 * chooses the side, then packets follow, each a byte of length before it. Well-formed
 * beginnings are filled in for most of them, so that the numbers behind get their turn.
 */
#include <assert.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "shm.h"

#define LEN 65536u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint8_t memory[LEN] __attribute__((aligned(4096)));

static void no_log(const struct ferry_host *host, enum ferry_log_level level, const char *file,
                   int line, const char *fmt, ...)
{
}

static ferry_status region_get(const struct ferry_host *host, uint64_t addr, uint64_t len,
                               uint32_t access, struct ferry_region *region_out)
{
    uint64_t at = addr - (uintptr_t)memory;

    if (at > LEN || len > LEN - at)
        return FERRY_ERANGE;
    if (access & FERRY_ACCESS_REMOTE_WRITE)
        return FERRY_EACCESS;
    *region_out = (struct ferry_region){.kind = FERRY_MEM_HOST};
    return FERRY_OK;
}

static void region_put(const struct ferry_host *host, struct ferry_region *region)
{
}

static const int level = -1;
static const struct ferry_host host = {.size = sizeof(host),
                                       .log_level = &level,
                                       .log = no_log,
                                       .region_get = region_get,
                                       .region_put = region_put};

/* The next packet of the input. False: no more. */
static bool next(const uint8_t **data, size_t *size, struct shm_msg *msg, size_t *len,
                 bool *with_fd)
{
    uint8_t head;
    size_t n;

    memset(msg, 0, sizeof(*msg));
    if (*size < 2)
        return false;
    head = **data;
    *with_fd = head & 0x80;
    n = (*data)[1];
    *data += 2;
    *size -= 2;
    n = n < *size ? n : *size;
    *len = sizeof(*msg);
    if (head & 0x40) { /* as it comes, of any length */
        *len = n;
        memcpy(msg, *data, n < sizeof(*msg) ? n : sizeof(*msg));
    } else {
        size_t body = sizeof(*msg) - offsetof(struct shm_msg, id);
        msg->magic = SHM_MAGIC;
        msg->type = head & 7;
        memcpy(&msg->id, *data, n < body ? n : body);
    }
    *data += n;
    *size -= n;
    return true;
}

static int memfd_of(uint64_t len)
{
    int fd = memfd_create("fuzz", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    assert(fd >= 0 && !ftruncate(fd, (off_t)len));
    return fd;
}

static void to_target(struct ferry_tp *tp, const uint8_t *data, size_t size)
{
    struct ferry_mem_desc d = {.size = sizeof(d),
                               .addr = memory,
                               .len = LEN,
                               .dmabuf_fd = -1,
                               .access = FERRY_ACCESS_REMOTE_READ};
    struct shm_client *client = NULL;
    struct ferry_mr *mr;
    struct shm_msg msg;
    size_t len;
    bool with_fd;
    int pair[2];

    assert(!shm_mem_reg(tp, &d, 1, &mr));
    assert(!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair));
    pthread_mutex_lock(&tp->lock);
    shm_client_accept(tp, pair[0]);
    client = tp->clients;
    assert(client);
    client->leaving = true; /* the transport's own thread keeps away from it */
    while (next(&data, &size, &msg, &len, &with_fd)) {
        struct shm_msg answer;
        size_t n;
        int fd;

        if (msg.type == SHM_HELLO && !(msg.token[0] & 1))
            memcpy(msg.token, tp->token, SHM_TOKEN_LEN);
        if (msg.type == SHM_ASK && !(msg.addr >> 32))
            msg.addr = (uintptr_t)memory + msg.addr % (2 * LEN);
        if (!shm_client_feed(tp, client, &msg, len, with_fd ? memfd_of(1) : -1))
            break;
        while (shm_recv(pair[1], &answer, &n, &fd) > 0) {
            assert(shm_msg_ok(&answer, n));
            if (answer.type == SHM_GRANT && !answer.status)
                assert(answer.addr == (uintptr_t)memory && answer.len == LEN &&
                       answer.access == FERRY_ACCESS_REMOTE_READ && answer.slot < SHM_SLOTS);
            if (fd >= 0)
                close(fd);
        }
    }
    shm_client_drop(tp, client);
    pthread_mutex_unlock(&tp->lock);
    close(pair[1]);
    shm_mem_dereg(tp, &mr, 1);
}

static void to_initiator(struct ferry_tp *tp, const uint8_t *data, size_t size)
{
    struct ferry_peer *peer = calloc(1, sizeof(*peer));
    struct shm_conn *conn = calloc(1, sizeof(*conn));
    struct ferry_rmem *rmem[3];
    struct shm_msg msg;
    size_t len;
    bool with_fd;
    int pair[2];

    assert(!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair));
    peer->tp = tp;
    pthread_mutex_init(&peer->attach_lock, NULL);
    *conn = (struct shm_conn){.fd = pair[0], .pidfd = dup(pair[0]), .refs = 1, .peer = peer};
    conn->page = mmap(NULL, sizeof(*conn->page), PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    assert(conn->page != MAP_FAILED);
    peer->conn = conn;
    for (unsigned i = 0; i < 3; i++) {
        struct ferry_kvs none = {.n = 0};
        assert(!shm_rmem_open(peer, 4096 * i + 4096, 4096, &none, &rmem[i]));
    }
    pthread_mutex_lock(&tp->lock);
    while (next(&data, &size, &msg, &len, &with_fd)) {
        int fd = -1;

        if (with_fd) {
            fd = memfd_of(msg.reserved % 65536);
            if (msg.reserved & 0x10000)
                assert(!fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK));
        }
        if (!shm_conn_feed(tp, conn, &msg, len, fd))
            break;
        for (unsigned i = 0; i < 3; i++) {
            if (atomic_load(&rmem[i]->state) != SHM_HELD)
                continue;
            assert(rmem[i]->slot < SHM_SLOTS && rmem[i]->size);
            if (rmem[i]->map) { /* all of it is there */
                volatile uint8_t last = rmem[i]->map[rmem[i]->size - 1];
                (void)last;
            }
        }
    }
    pthread_mutex_unlock(&tp->lock);
    shm_peer_close(peer);
    close(pair[1]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct ferry_tp *tp;

    if (!tp)
        assert(!shm_tp_open(&host, NULL, &tp));
    if (size < 2)
        return 0;
    if (data[0] & 1)
        to_target(tp, data + 1, size - 1);
    else
        to_initiator(tp, data + 1, size - 1);
    return 0;
}
