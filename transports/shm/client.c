/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The passive side: peers that came to us, what they were granted, and how it is taken back.
 * Copies nothing: they do. What they may touch is asked of the core when they ask us; mem_dereg
 * clears the grant's mark in the page that both see and waits out who is just copying.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "shm.h"

static void put(struct shm_client *client)
{
    if (--client->refs)
        return;
    if (client->page)
        munmap(client->page, sizeof(*client->page));
    free(client->free_slots);
    free(client);
}

static void free_lease(struct shm_lease *lease)
{
    struct shm_lease **at;

    if (lease->mr) {
        for (at = &lease->mr->leases; *at != lease; at = &(*at)->mr_next)
            ;
        *at = lease->mr_next;
    }
    for (at = &lease->client->leases; *at != lease; at = &(*at)->client_next)
        ;
    *at = lease->client_next;
    lease->client->untold -= lease->untold;
    free(lease);
}

void shm_client_accept(struct ferry_tp *tp, int fd)
{
    struct shm_client *client = calloc(1, sizeof(*client));
    struct ucred cred = {.pid = 0};
    socklen_t len = sizeof(cred);

    if (!client || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len)) {
        free(client);
        close(fd);
        return;
    }
    client->fd = fd;
    client->pid = cred.pid;
    client->pidfd = cred.uid == tp->ident.uid && cred.pid > 0 ? shm_pidfd(fd, cred.pid) : -1;
    client->id = tp->next_id++;
    client->refs = 1;
    if (client->pidfd < 0 || !shm_watch(tp, fd, client->id) ||
        !shm_watch(tp, client->pidfd, client->id)) {
        FT_LOG(tp->host, FERRY_LOG_WARN,
               "turned away process %d of user %u: only visible processes of user %u are let "
               "in",
               (int)cred.pid, (unsigned)cred.uid, (unsigned)tp->ident.uid);
        if (client->pidfd >= 0)
            shm_unwatch(tp, client->pidfd);
        shm_unwatch(tp, fd);
        free(client);
        return;
    }
    client->next = tp->clients;
    tp->clients = client;
}

void shm_client_drop(struct ferry_tp *tp, struct shm_client *client)
{
    for (struct shm_client **at = &tp->clients; *at; at = &(*at)->next) {
        if (*at == client) {
            *at = client->next;
            break;
        }
    }
    while (client->leases)
        free_lease(client->leases);
    shm_unwatch(tp, client->fd);
    shm_unwatch(tp, client->pidfd);
    atomic_store(&client->gone, true);
    put(client);
}

/* It has broken the rules or does not read what we write: it loses every grant, and is
 * forgotten once it has stopped copying. */
static void expel(struct ferry_tp *tp, struct shm_client *client)
{
    if (client->leaving)
        return;
    client->leaving = true;
    epoll_ctl(tp->epoll_fd, EPOLL_CTL_DEL, client->fd, NULL);
    shutdown(client->fd, SHUT_RDWR);
    for (struct shm_lease *lease = client->leases; lease; lease = lease->client_next)
        atomic_store(&client->page->valid[lease->slot], 0);
    for (uint32_t i = 0; client->page && i < SHM_LINES; i++)
        client->seen[i] = atomic_load(&client->page->line[i].seq);
}

bool shm_clients_leaving(struct ferry_tp *tp)
{
    bool any = false;

    for (struct shm_client *client = tp->clients, *next; client; client = next) {
        bool quiet = true;

        next = client->next;
        if (!client->leaving)
            continue;
        for (uint32_t i = 0; client->page && i < SHM_LINES; i++)
            quiet &= !(client->seen[i] & 1) ||
                     atomic_load(&client->page->line[i].seq) != client->seen[i];
        if (quiet)
            shm_client_drop(tp, client);
        else
            any = true;
    }
    return any;
}

/* Only as long as the kernel calls its socket writable, which is a quarter full: the rest is
 * for answers, for want of which it would be expelled. */
static bool tell(struct shm_client *client, const struct shm_lease *lease)
{
    struct shm_msg msg = {.magic = SHM_MAGIC, .type = SHM_REVOKED, .slot = lease->slot};
    struct pollfd p = {.fd = client->fd, .events = POLLOUT};

    return poll(&p, 1, 0) == 1 && p.revents == POLLOUT && shm_send(client->fd, &msg, -1);
}

/* Its socket has room again, or else wakes us once more. */
static void tell_more(struct ferry_tp *tp, struct shm_client *client)
{
    for (struct shm_lease *lease = client->leases; lease; lease = lease->client_next) {
        if (!lease->untold)
            continue;
        if (!tell(client, lease))
            return;
        lease->untold = false;
        client->untold--;
    }
    shm_watch_for(tp, client->fd, client->id, EPOLLIN);
}

void shm_client_ready(struct ferry_tp *tp, struct shm_client *client)
{
    struct shm_msg msg;
    size_t len;
    int fd, rc;

    while (!client->leaving && (rc = shm_recv(client->fd, &msg, &len, &fd)) != 0) {
        if (rc < 0) {
            shm_client_drop(tp, client);
            return;
        }
        if (!shm_client_feed(tp, client, &msg, len, fd)) {
            FT_LOG(tp->host, FERRY_LOG_WARN, "process %d does not keep to the protocol",
                   (int)client->pid);
            expel(tp, client);
        }
    }
    if (client->untold && !client->leaving)
        tell_more(tp, client);
    if (shm_ended(client->pidfd))
        shm_client_drop(tp, client);
}

static struct shm_page *make_page(int *fd_out)
{
    int fd = memfd_create("ferry-shm-page", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    void *page = MAP_FAILED;

    if (fd >= 0 && !ftruncate(fd, sizeof(struct shm_page)) &&
        !fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
        page = mmap(NULL, sizeof(struct shm_page), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (page == MAP_FAILED) {
        if (fd >= 0)
            close(fd);
        return NULL;
    }
    *fd_out = fd;
    return page;
}

static bool hello(struct ferry_tp *tp, struct shm_client *client, const struct shm_msg *msg)
{
    struct shm_msg reply = {.magic = SHM_MAGIC, .type = SHM_WELCOME, .id = msg->id};
    int fd = -1;
    bool sent;

    if (client->welcome)
        return false;
    if (memcmp(msg->token, tp->token, SHM_TOKEN_LEN) != 0) {
        reply.status = FERRY_ESTALE;
    } else {
        client->page = make_page(&fd);
        if (!client->page) {
            FT_LOG(tp->host, FERRY_LOG_ERROR, "no shared page: %s", strerror(errno));
            reply.status = FERRY_ENOMEM;
        }
    }
    sent = shm_send(client->fd, &reply, fd);
    if (fd >= 0)
        close(fd);
    client->welcome = sent && reply.status == FERRY_OK;
    return sent;
}

/* A slot that no grant marks. Those of the past are free again once the client let go. */
static bool take_slot(struct shm_client *client, uint32_t *slot_out)
{
    if (client->next_slot < SHM_SLOTS) {
        *slot_out = client->next_slot++;
        return true;
    }
    if (!client->n_free)
        return false;
    *slot_out = client->free_slots[--client->n_free];
    return true;
}

static void free_slot(struct shm_client *client, uint32_t slot)
{
    if (!client->free_slots)
        client->free_slots = malloc(SHM_SLOTS * sizeof(*client->free_slots));
    if (client->free_slots)
        client->free_slots[client->n_free++] = slot;
}

/* Which rights a peer has to this whole region: the core's word, for each right. */
static uint32_t rights(struct ferry_tp *tp, const struct ferry_mr *mr, ferry_status *status_out)
{
    const uint32_t each[] = {FERRY_ACCESS_REMOTE_READ, FERRY_ACCESS_REMOTE_WRITE};
    uint32_t access = 0;

    for (unsigned i = 0; i < 2; i++) {
        struct ferry_region region;
        ferry_status status =
            tp->host->region_get(tp->host, (uintptr_t)mr->addr, mr->len, each[i], &region);

        if (status) {
            *status_out = status;
            continue;
        }
        if (region.kind == FERRY_MEM_HOST)
            access |= each[i];
        tp->host->region_put(tp->host, &region);
    }
    return access;
}

static bool ask(struct ferry_tp *tp, struct shm_client *client, const struct shm_msg *msg)
{
    struct shm_msg reply = {
        .magic = SHM_MAGIC, .type = SHM_GRANT, .id = msg->id, .status = FERRY_ERANGE};
    struct shm_lease *lease = NULL;
    struct ferry_mr *mr = tp->mrs;
    char path[32];
    int fd = -1;
    bool sent;

    if (!client->welcome)
        return false;
    while (mr &&
           (msg->addr < (uintptr_t)mr->addr || msg->addr - (uintptr_t)mr->addr >= mr->len))
        mr = mr->next;
    /* Unregistering waits for this lock in mem_dereg, after the core has taken the region out:
     * what the core still knows here is told of its end through the lease. */
    if (mr) {
        reply.status = FERRY_EACCESS;
        reply.access = rights(tp, mr, &reply.status);
    }
    if (reply.access) {
        lease = calloc(1, sizeof(*lease));
        reply.status = lease && take_slot(client, &reply.slot) ? FERRY_OK : FERRY_ENOMEM;
    }
    if (!reply.status) {
        *lease = (struct shm_lease){.client = client,
                                    .mr = mr,
                                    .slot = reply.slot,
                                    .mr_next = mr->leases,
                                    .client_next = client->leases};
        mr->leases = client->leases = lease;
        reply.addr = (uintptr_t)mr->addr;
        reply.len = mr->len;
        reply.map_off = mr->fd_off;
        atomic_store(&client->page->valid[reply.slot], 1);
        if (mr->fd >= 0) { /* to read only, as another opening of the same memory */
            snprintf(path, sizeof(path), "/proc/self/fd/%d", mr->fd);
            fd = reply.access & FERRY_ACCESS_REMOTE_WRITE ? mr->fd
                                                          : open(path, O_RDONLY | O_CLOEXEC);
        }
    } else {
        free(lease);
        reply.access = 0;
    }
    sent = shm_send(client->fd, &reply, fd);
    if (fd >= 0 && fd != mr->fd)
        close(fd);
    return sent;
}

static bool release(struct shm_client *client, const struct shm_msg *msg)
{
    for (struct shm_lease *lease = client->leases; lease; lease = lease->client_next) {
        if (lease->slot == msg->slot) {
            atomic_store(&client->page->valid[lease->slot], 0);
            free_slot(client, lease->slot);
            free_lease(lease);
            return true;
        }
    }
    return false;
}

bool shm_client_feed(struct ferry_tp *tp, struct shm_client *client, const void *data,
                     size_t len, int fd)
{
    struct shm_msg msg;

    if (fd >= 0) /* clients have none to give */
        close(fd);
    if (!shm_msg_ok(data, len))
        return false;
    memcpy(&msg, data, sizeof(msg));
    switch (msg.type) {
    case SHM_HELLO:
        return hello(tp, client, &msg);
    case SHM_ASK:
        return ask(tp, client, &msg);
    case SHM_RELEASE:
        return release(client, &msg);
    default:
        return false;
    }
}

/* The next client that has not yet let go of the region; held. */
static struct shm_client *next_holder(struct ferry_tp *tp, const struct ferry_mr *mr,
                                      uint64_t after)
{
    struct shm_client *best = NULL;

    for (struct shm_client *c = tp->clients; c; c = c->next) {
        if (c->id <= after || (best && c->id > best->id))
            continue;
        for (struct shm_lease *lease = c->leases; lease; lease = lease->client_next)
            if (lease->was == mr)
                best = c;
    }
    if (best)
        best->refs++;
    return best;
}

void shm_revoke(struct ferry_tp *tp, struct ferry_mr *mr)
{
    struct shm_client *client;
    uint64_t after = 0;

    pthread_mutex_lock(&tp->lock);
    *mr->link = mr->next;
    if (mr->next)
        mr->next->link = mr->link;
    while (mr->leases) {
        struct shm_lease *lease = mr->leases;

        client = lease->client;
        mr->leases = lease->mr_next;
        lease->mr = NULL;
        lease->was = mr;
        atomic_store(&client->page->valid[lease->slot], 0);
        if (!client->leaving && (client->untold || !tell(client, lease))) {
            lease->untold = true;
            client->untold++;
            shm_watch_for(tp, client->fd, client->id, EPOLLIN | EPOLLOUT);
        }
    }
    while ((client = next_holder(tp, mr, after)) != NULL) {
        after = client->id;
        pthread_mutex_unlock(&tp->lock);
        if (!shm_page_quiet(client->page, &client->gone, 1000)) {
            FT_LOG(tp->host, FERRY_LOG_WARN,
                   "process %d is in the middle of a copy to or from %p (is it stopped?): "
                   "unregistering waits for it",
                   (int)client->pid, (void *)mr->addr);
            shm_page_quiet(client->page, &client->gone, UINT32_MAX);
        }
        pthread_mutex_lock(&tp->lock);
        put(client);
    }
    pthread_mutex_unlock(&tp->lock);
}
