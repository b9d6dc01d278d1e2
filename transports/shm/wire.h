/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SHM_WIRE_H
#define SHM_WIRE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * What two shm transports say to each other over their UNIX socket (SOCK_SEQPACKET, one struct
 * a packet, this machine's byte order: both ends are on it), and the memory that both see.
 *
 *   initiator                         target
 *   HELLO token               ->
 *                             <-      WELCOME status [+ the shared page]
 *   ASK id addr               ->
 *                             <-      GRANT id status base len access slot [+ the memory]
 *                             <-      REVOKED slot
 *   RELEASE slot              ->
 */
#define SHM_MAGIC     0x316d6873u /* "shm1" */
#define SHM_TOKEN_LEN 16u

enum shm_type {
    SHM_HELLO = 1,
    SHM_WELCOME,
    SHM_ASK,
    SHM_GRANT,
    SHM_REVOKED,
    SHM_RELEASE,
    SHM_TYPES
};

struct shm_msg {
    uint32_t magic, type;
    uint64_t id;      /* the initiator's, handed back */
    uint64_t addr;    /* ASK: any address of the region; GRANT: the region's first */
    uint64_t len;     /* of the region */
    uint64_t map_off; /* of `addr` in the descriptor that comes along */
    uint32_t access;  /* FERRY_ACCESS_REMOTE_ */
    uint32_t slot;    /* where the grant is marked in the shared page */
    int32_t status;   /* ferry_status */
    uint32_t reserved;
    uint8_t token[SHM_TOKEN_LEN]; /* HELLO: whom we want to reach */
};

#define SHM_MAX_QUEUES 32u
#define SHM_LINES      SHM_MAX_QUEUES /* who helps a queue to copy does so inside its line */
#define SHM_SLOTS      65536u

/*
 * One per connection, made by the target. A line belongs to one thread at a time of the
 * initiator: odd while it copies. valid[slot] is the target's: 1 while the grant holds.
 * The initiator makes its line odd and then looks at valid; the target clears valid and then
 * looks at the lines; all four are sequentially consistent, so that one sees the other.
 */
struct shm_page {
    struct {
        _Atomic uint32_t seq;
        uint32_t pad[15];
    } line[SHM_LINES];
    _Atomic uint32_t valid[SHM_SLOTS];
};

/* Never blocks. `fd` goes along, -1 = none. False: errno says why (EAGAIN: no room). */
bool shm_send(int sock, const struct shm_msg *msg, int fd);
/*
 * Never blocks. 1: a packet of `len_out` bytes is in `msg`, with *fd_out (the caller's) or -1.
 * 0: none. -1: the other end is gone.
 */
int shm_recv(int sock, struct shm_msg *msg, size_t *len_out, int *fd_out);
/* Is this a message at all? What its numbers mean is for the receiver to check. */
bool shm_msg_ok(const void *data, size_t len);

/* Enters and leaves a copy on a line of the page. */
static inline void shm_enter(struct shm_page *page, uint32_t line)
{
    uint32_t seq = atomic_load_explicit(&page->line[line].seq, memory_order_relaxed);
    atomic_store(&page->line[line].seq, seq + 1);
}
static inline void shm_leave(struct shm_page *page, uint32_t line)
{
    uint32_t seq = atomic_load_explicit(&page->line[line].seq, memory_order_relaxed);
    atomic_store_explicit(&page->line[line].seq, seq + 1, memory_order_release);
}

#endif /* SHM_WIRE_H */
