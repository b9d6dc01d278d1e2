/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Links come up, are made again after an error, and go down for good. All of it blocks, and is
 * done by callers of control calls and by the workers; nothing here is hot.
 */
#include "fab.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

/* ---- asking the peer */

struct text_sink {
    struct ferry_buf_sink sink;
    char *text;
    size_t len;
};

static ferry_status append(struct ferry_buf_sink *sink, const void *data, size_t len)
{
    struct text_sink *t = (struct text_sink *)sink;
    char *grown = realloc(t->text, t->len + len + 1);

    if (!grown)
        return FERRY_ENOMEM;
    t->text = grown;
    memcpy(grown + t->len, data, len);
    t->len += len;
    return FERRY_OK;
}

/* Whatever keeps an answer from us means that the peer is lost. */
static ferry_status lost(ferry_status status)
{
    return ferry_status_scope(status) == FERRY_SCOPE_PEER ? status : FERRY_EUNREACH;
}

static ferry_status ask(const struct ferry_peer *peer, const struct fab_request *request,
                        uint32_t timeout_ms, struct fab_reply *reply_out)
{
    const struct ferry_host *host = peer->tp->host;
    struct text_sink sink = {.sink.append = append};
    char *text = fab_request_encode(request);
    const char *why = "";
    ferry_status status;

    if (!text)
        return FERRY_ENOMEM;
    status = host->peer_call(host, peer->name, text, strlen(text), timeout_ms, &sink.sink);
    free(text);
    if (status != FERRY_OK) {
        status = lost(status);
    } else if (fab_reply_parse(sink.text ? sink.text : "", sink.len, reply_out, &why) !=
               FERRY_OK) {
        FT_LOG(host, FERRY_LOG_ERROR, "peer %s: %s", peer->name, why);
        status = FERRY_EUNREACH;
    }
    free(sink.text);
    return status;
}

static void fill(const struct fab_link *link, enum fab_ask what, struct fab_request *request)
{
    request->ask = what;
    request->link = link->id;
    request->device = link->remote_device;
    strcpy(request->instance, link->peer->tp->instance);
    strcpy(request->expect, link->peer->remote.instance);
}

ferry_status fab_link_ask(struct fab_link *link, enum fab_ask what, uint32_t timeout_ms)
{
    struct fab_request *request = calloc(1, sizeof(*request));
    struct fab_reply *reply = calloc(1, sizeof(*reply));
    ferry_status status = FERRY_ENOMEM;

    if (request && reply) {
        fill(link, what, request);
        status = ask(link->peer, request, timeout_ms, reply);
        if (status == FERRY_OK)
            status = reply->status;
    }
    free(request);
    free(reply);
    return status;
}

/* ---- connecting */

static uint32_t left_ms(uint64_t deadline_ns)
{
    uint64_t now = ft_now_ns();

    return now < deadline_ns ? (uint32_t)((deadline_ns - now) / 1000000 + 1) : 0;
}

/* READs the peer's word: its provider connects now and not in the first batch, and the one who
 * answers there is the one who told us the word. */
static ferry_status warm(struct fab_link *link, struct fab_end *end, fi_addr_t addr,
                         const struct fab_reply *reply, uint64_t deadline_ns)
{
    struct fab_device *device = link->queue->device;
    struct ferry_tp *tp = link->queue->tp;
    uint64_t *word = &device->words[1 + link->id % 511];
    void *desc = device->mr_mode & FI_MR_LOCAL ? fi_mr_desc(device->word_mr) : NULL;
    struct fi_context2 ctx;
    bool sent = false;

    *word = ~reply->word;
    for (unsigned idle = 0;; idle++) {
        struct fi_cq_entry entry;
        ssize_t rc;
        if (!sent) {
            rc = fi_read(end->ep, word, sizeof(*word), desc, addr, reply->word_addr,
                         reply->word_key, &ctx);
            sent = rc == 0;
            if (rc != 0 && rc != -FI_EAGAIN) {
                FT_LOG(tp->host, FERRY_LOG_INFO, "peer %s: %s", link->peer->name,
                       tp->lib->strerror((int)-rc));
                return FERRY_EUNREACH;
            }
        }
        rc = fi_cq_read(end->cq, &entry, 1);
        if (rc == 1)
            break;
        if (rc != -FI_EAGAIN) {
            struct fi_cq_err_entry error = {0};
            if (rc == -FI_EAVAIL)
                fi_cq_readerr(end->cq, &error, 0);
            FT_LOG(tp->host, FERRY_LOG_INFO, "peer %s: %s", link->peer->name,
                   tp->lib->strerror(error.err ? error.err : (int)-rc));
            return FERRY_ECONNRESET;
        }
        if (left_ms(deadline_ns) == 0)
            return FERRY_ETIMEDOUT;
        if (idle > 20)
            nanosleep(&(struct timespec){.tv_nsec = idle < 200 ? 20000 : 1000000}, NULL);
    }
    return *word == reply->word ? FERRY_OK : FERRY_ESTALE;
}

static ferry_status connect_end(struct fab_link *link, const struct fab_reply *reply,
                                struct fab_end *end, uint64_t deadline_ns, fi_addr_t *addr_out)
{
    if (!reply->ep_len || fi_av_insert(end->av, reply->ep, 1, addr_out, 0, NULL) != 1) {
        FT_LOG(link->queue->tp->host, FERRY_LOG_ERROR,
               "peer %s: its endpoint's name is of no use here", link->peer->name);
        return FERRY_EUNREACH;
    }
    return warm(link, end, *addr_out, reply, deadline_ns);
}

ferry_status fab_link_connect(struct fab_link *link, const struct fab_check *checks,
                              uint32_t n_checks, int32_t *checked_out, uint32_t timeout_ms)
{
    struct ferry_queue *queue = link->queue;
    const uint64_t deadline_ns = ft_now_ns() + timeout_ms * UINT64_C(1000000);
    struct fab_request *request = calloc(1, sizeof(*request));
    struct fab_reply *reply = calloc(1, sizeof(*reply));
    struct fab_end end = {.fd = -1};
    fi_addr_t addr;
    ferry_status status = FERRY_ENOMEM;

    if (!request || !reply)
        goto out;
    status = fab_end_open(queue->tp, queue->device, queue->device->credits + 8, queue->epoll_fd,
                          link->id, &end);
    if (status != FERRY_OK)
        goto out;
    fill(link, FAB_OPEN, request);
    if (n_checks)
        memcpy(request->check, checks, n_checks * sizeof(*checks));
    request->n_checks = n_checks;
    status = fab_end_name(&end, request->ep, &request->ep_len);
    if (status == FERRY_OK)
        status = ask(link->peer, request, link->by_cancel ? FAB_CONTROL_MS : timeout_ms, reply);
    if (status == FERRY_OK)
        status = reply->status;
    if (status == FERRY_OK && reply->n_checks != n_checks)
        status = FERRY_EUNREACH;
    if (status == FERRY_OK) {
        pthread_mutex_lock(&queue->lock);
        link->by_cancel = false; /* its end of what was given up is down: this one is wanted */
        pthread_mutex_unlock(&queue->lock);
        status = connect_end(link, reply, &end, deadline_ns, &addr);
    }
    if (status != FERRY_OK) {
        fab_end_close(&end);
        goto out;
    }
    if (n_checks)
        memcpy(checked_out, reply->check, n_checks * sizeof(*checked_out));
    pthread_mutex_lock(&queue->lock);
    link->end = end;
    link->addr = addr;
    link->stalls = 0;
    link->progress_ns = ft_now_ns();
    pthread_mutex_unlock(&queue->lock);

out:
    free(request);
    free(reply);
    return status;
}

/* ---- after an error */

/* Which regions what is unfinished needs; each once. The queue's lock is held. */
static uint32_t gather(const struct fab_link *link, struct fab_check *checks)
{
    const struct ferry_queue *queue = link->queue;
    uint32_t n = 0;

    for (uint32_t i = link->backlog; i != FAB_NONE; i = queue->items[i].next) {
        const struct fab_item *item = &queue->items[i];
        struct fab_check check = {
            .base = item->rmem->keys.base,
            .key = item->rmem->keys.key[link->remote_device],
            .access = item->op == FERRY_OP_READ ? FERRY_ACCESS_REMOTE_READ
                                                : FERRY_ACCESS_REMOTE_WRITE,
        };
        uint32_t k = 0;
        while (k < n && (checks[k].key != check.key || checks[k].base != check.base ||
                         checks[k].access != check.access))
            k++;
        if (k == n && n < FAB_MAX_CHECKS)
            checks[n++] = check;
    }
    return n;
}

static ferry_status verdict(const struct fab_link *link, const struct fab_item *item,
                            const struct fab_check *checks, const int32_t *checked, uint32_t n)
{
    const uint32_t access =
        item->op == FERRY_OP_READ ? FERRY_ACCESS_REMOTE_READ : FERRY_ACCESS_REMOTE_WRITE;

    for (uint32_t k = 0; k < n; k++)
        if (checks[k].key == item->rmem->keys.key[link->remote_device] &&
            checks[k].base == item->rmem->keys.base && checks[k].access == access)
            return checked[k];
    return FERRY_OK;
}

static void kill_link(struct fab_link *link, ferry_status status)
{
    struct ferry_queue *queue = link->queue;

    FT_LOG(queue->tp->host, FERRY_LOG_INFO, "peer %s is lost (%d)", link->peer->name, status);
    pthread_mutex_lock(&queue->lock);
    if (link->state == LINK_UP)
        fab_link_break(link, 0);
    link->state = LINK_DEAD;
    link->status = status;
    fab_items_end(link, status);
    eventfd_write(queue->event_fd, 1);
    pthread_mutex_unlock(&queue->lock);
}

/*
 * Its endpoint is down, so nothing of it touches our memory. The peer takes its end down too
 * before it gives a new one, so that what was on its way to it cannot land any more; then what
 * was cancelled has ended, what may not be touched is refused, and the rest is sent again.
 */
static void mend(struct fab_link *link)
{
    struct ferry_queue *queue = link->queue;
    struct fab_check *checks = calloc(FAB_MAX_CHECKS, sizeof(*checks));
    int32_t *checked = calloc(FAB_MAX_CHECKS, sizeof(*checked));
    bool by_cancel;
    uint32_t n, next, tries;
    ferry_status status = FERRY_ENOMEM;

    pthread_mutex_lock(&queue->lock);
    by_cancel = link->by_cancel;
    tries = link->tries++;
    n = checks ? gather(link, checks) : 0;
    pthread_mutex_unlock(&queue->lock);
    if (tries >= FAB_MAX_TRIES)
        status = FERRY_ECONNRESET;
    else if (checks && checked)
        status = fab_link_connect(link, checks, n, checked, FAB_CONNECT_MS);
    if (status != FERRY_OK) {
        status = by_cancel || ferry_status_scope(status) != FERRY_SCOPE_PEER ? FERRY_EUNREACH
                                                                             : status;
        kill_link(link, status);
    } else {
        pthread_mutex_lock(&queue->lock);
        uint32_t i = link->backlog, *keep = &link->backlog;
        for (; i != FAB_NONE; i = next) {
            struct fab_item *item = &queue->items[i];
            next = item->next;
            status =
                item->cancelled ? FERRY_ECANCELED : verdict(link, item, checks, checked, n);
            if (status == FERRY_OK) {
                *keep = i;
                keep = &item->next;
                continue;
            }
            item->queued = false;
            fab_item_end(queue, i, status);
            if (status != FERRY_ECANCELED)
                link->tries = 0; /* the reason was found */
        }
        *keep = FAB_NONE;
        link->backlog_tail = keep;
        link->state = LINK_UP; /* and not before: what has just ended is not sent */
        fab_send(link);
        eventfd_write(queue->event_fd, 1);
        pthread_mutex_unlock(&queue->lock);
    }
    free(checked);
    free(checks);
}

void fab_link_work(struct fab_link *link)
{
    struct ferry_queue *queue = link->queue;
    const struct fab_config *config = &queue->tp->config;
    bool broken, stalled = false;
    uint64_t now;

    pthread_mutex_lock(&queue->lock);
    now = ft_now_ns(); /* as in is_due */
    if (link->state == LINK_UP && link->cancelled &&
        now - link->progress_ns > config->cancel_ms * UINT64_C(1000000)) {
        fab_link_break(link, 0);
        link->by_cancel = true;
    } else if (link->state == LINK_UP) {
        stalled = true;
        link->asked_ns = now;
    }
    broken = link->state == LINK_BROKEN;
    pthread_mutex_unlock(&queue->lock);
    if (broken) {
        mend(link);
    } else if (stalled) {
        ferry_status status = fab_link_ask(link, FAB_ALIVE, FAB_CONTROL_MS);
        if (status != FERRY_OK && status != FERRY_ETIMEDOUT) { /* that one may be asleep */
            kill_link(link, status == FERRY_ESTALE ? status : FERRY_ECONNRESET);
        } else if (status == FERRY_OK) {
            /* it is awake and nothing ends: some providers drop what they refuse */
            pthread_mutex_lock(&queue->lock);
            if (link->state == LINK_UP && link->n_posted &&
                ft_now_ns() - link->progress_ns > config->stall_ms * UINT64_C(1000000) &&
                ++link->stalls >= FAB_MAX_STALLS)
                fab_link_break(link, 0);
            pthread_mutex_unlock(&queue->lock);
        }
    }
}

/* ---- the end */

/*
 * Lets what is on its way arrive, which it does soon where the peer is well. Endpoints are
 * closed with operations on their way only where it does not: ofi_rxm of 1.17 may crash then.
 */
static void drain(struct fab_link *link)
{
    struct ferry_queue *queue = link->queue;
    const uint64_t deadline_ns = ft_now_ns() + queue->tp->config.cancel_ms * UINT64_C(1000000);
    bool done;

    do {
        pthread_mutex_lock(&queue->lock);
        link->hold = true;
        if (link->n_posted)
            fab_reap(link);
        done = link->n_posted == 0;
        pthread_mutex_unlock(&queue->lock);
        if (!done)
            nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
    } while (!done && ft_now_ns() < deadline_ns);
}

void fab_link_close(struct fab_link *link)
{
    struct ferry_queue *queue = link->queue;
    bool dead;

    fab_link_take(link);
    drain(link);
    pthread_mutex_lock(&queue->lock);
    dead = link->state == LINK_DEAD;
    if (link->state == LINK_UP)
        fab_link_break(link, 0);
    link->state = LINK_DEAD;
    for (struct fab_link **at = &queue->links; *at; at = &(*at)->next_of_queue)
        if (*at == link) {
            *at = link->next_of_queue;
            break;
        }
    atomic_store(&link->peer->link[queue->number], NULL);
    pthread_mutex_unlock(&queue->lock);
    /* what was sent may land until the peer has taken its end down */
    fab_link_ask(link, FAB_CLOSE, dead ? FAB_CONTROL_MS / 4 : FAB_CONTROL_MS);
    pthread_mutex_lock(&queue->lock);
    fab_items_end(link, FERRY_ECANCELED);
    eventfd_write(queue->event_fd, 1);
    pthread_mutex_unlock(&queue->lock);
    free(link);
}
