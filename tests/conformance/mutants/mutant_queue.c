/* SPDX-License-Identifier: Apache-2.0 */
/* The wrong queue calls of mutant.c. Each fault stands where the right call is passed on. */
#include "mutant.h"

#include <stdlib.h>
#include <time.h>

enum { MAX_RECORDS = 64, MAX_STASH = 4096 };

/* What is in flight, for faults that need to know more than a completion tells. */
struct record {
    struct ferry_queue *queue;
    struct ferry_list list; /* v: a copy, from element `first` on */
    uint8_t *accepted, *ended;
    bool used, swallow; /* its completions were made up already */
};
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct record records[MAX_RECORDS];
static struct ferry_comp stash[MAX_STASH];
static unsigned n_stash, completions;
static bool once;
static volatile uint8_t *touch;
static const struct ferry_list *kept;
static struct ferry_list kept_list;
static struct ferry_queue *kept_queue;

/* The lock is held. */
static struct record *find(struct ferry_queue *queue, uint64_t cookie, uint32_t index)
{
    for (struct record *r = records; r < records + MAX_RECORDS; r++)
        if (r->used && r->queue == queue && r->list.cookie == cookie &&
            index >= r->list.first && index - r->list.first < r->list.n &&
            r->accepted[index - r->list.first] && !r->ended[index - r->list.first])
            return r;
    return NULL;
}

static void remember(struct ferry_queue *queue, const struct ferry_list *list,
                     uint32_t accepted)
{
    pthread_mutex_lock(&lock);
    for (struct record *r = records; accepted && r < records + MAX_RECORDS; r++) {
        if (r->used)
            continue;
        struct ferry_xfer *v = calloc(accepted, sizeof(*v));
        memcpy(v, list->v, accepted * sizeof(*v));
        *r = (struct record){.queue = queue,
                             .list = *list,
                             .accepted = malloc(accepted),
                             .ended = calloc(accepted, 1),
                             .used = true};
        memset(r->accepted, 1, accepted);
        r->list.v = v;
        r->list.n = accepted;
        break;
    }
    pthread_mutex_unlock(&lock);
}

/* The record is done with once all have ended; the lock is held. */
static void note_end(struct record *r, uint32_t index)
{
    r->ended[index - r->list.first] = 1;
    for (uint32_t i = 0; i < r->list.n; i++)
        if (!r->ended[i])
            return;
    free((void *)(uintptr_t)r->list.v);
    free(r->accepted);
    free(r->ended);
    r->used = false;
}

ferry_status mutant_queue_open(struct ferry_tp *tp, const struct ferry_queue_attr *attr,
                               struct ferry_queue **queue_out)
{
    return mutant_inner.queue_open(tp, attr, queue_out);
}

static void *touch_main(void *arg)
{
    nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
    *(volatile uint8_t *)arg = 1;
    return NULL;
}

void mutant_queue_close(struct ferry_queue *queue)
{
    pthread_t thread;
    mutant_inner.queue_close(queue);
    if (mutant_is("touches-after-queue-close") && touch &&
        pthread_create(&thread, NULL, touch_main, (void *)(uintptr_t)touch) == 0)
        pthread_detach(thread);
}

/* With every element `more` bytes longer than asked. */
static ferry_status submit_longer(struct ferry_queue *queue, const struct ferry_list *list,
                                  uint32_t *accepted_out)
{
    struct ferry_list longer = *list;
    struct ferry_xfer *v = calloc(list->n, sizeof(*v));
    memcpy(v, list->v, list->n * sizeof(*v));
    for (uint32_t i = 0; i < list->n; i++)
        v[i].len++;
    longer.v = v;
    ferry_status status = mutant_inner.submit(queue, &longer, accepted_out);
    free(v);
    return status;
}

ferry_status mutant_submit(struct ferry_queue *queue, const struct ferry_list *list,
                           uint32_t *accepted_out)
{
    ferry_status status;
    uint32_t accepted = 0;
    if (mutant_is("blocks-in-submit"))
        nanosleep(&(struct timespec){.tv_sec = 3}, NULL);
    if (mutant_is("allocates-from-host")) {
        void *mem = NULL;
        if (mutant_host->stage_alloc(mutant_host, 64, &mem) == FERRY_OK)
            mutant_host->stage_free(mutant_host, mem);
    }
    if (mutant_is("allocates"))
        free(strdup("a message"));
    if (mutant_is("keeps-list")) {
        kept_list = *list;
        kept = &kept_list;
        kept_queue = queue;
        *accepted_out = list->n;
        return FERRY_OK;
    }
    if (mutant_is("writes-past-range") && list->op == FERRY_OP_WRITE)
        status = submit_longer(queue, list, &accepted);
    else
        status = mutant_inner.submit(queue, list, &accepted);
    if (list->n)
        touch = list->v[0].local;
    if (!mutant_is("none") && !mutant_is("allocates"))
        remember(queue, list, accepted);
    if (status == FERRY_EAGAIN && mutant_is("full-is-ok"))
        status = FERRY_OK;
    if (status != FERRY_OK && status != FERRY_EAGAIN) {
        if (mutant_is("leaves-accepted-unwritten"))
            return status;
        if (mutant_is("goes-on-after-bad-element")) {
            struct ferry_list rest = *list;
            uint32_t more = 0;
            rest.v += accepted + 1;
            rest.n -= accepted + 1;
            rest.first += accepted + 1;
            mutant_inner.submit(queue, &rest, &more);
        }
        if (mutant_is("drops-those-before-bad-element") && accepted)
            mutant_inner.cancel(queue, list->cookie);
    }
    *accepted_out = accepted;
    return status;
}

/* Completions that the wrapped transport has not given yet. */
static uint32_t make_up(struct ferry_queue *queue, ferry_status status, uint64_t cookie,
                        bool any, struct ferry_comp *comp, uint32_t max)
{
    uint32_t n = 0;
    for (struct record *r = records; r < records + MAX_RECORDS && n < max; r++) {
        if (!r->used || r->queue != queue || r->swallow || (!any && r->list.cookie != cookie))
            continue;
        if (any && r->list.op != FERRY_OP_WRITE)
            continue;
        uint64_t bytes = 0;
        for (uint32_t i = 0; i < r->list.n; i++)
            bytes += r->list.v[i].len;
        bool none = true;
        for (uint32_t i = 0; i < r->list.n; i++)
            none &= !r->ended[i];
        if (!none)
            continue;
        r->swallow = true;
        comp[n++] = (struct ferry_comp){.cookie = r->list.cookie,
                                        .first = r->list.first,
                                        .n = r->list.n,
                                        .status = status,
                                        .bytes = status == FERRY_OK ? bytes : 0};
    }
    return n;
}

static uint64_t cancelled;
static bool cancel_asked;

/* One completion of the wrapped transport, made wrong; false: not to be passed on. The lock is
 * held. */
static bool spoil(struct ferry_queue *queue, struct ferry_comp *c)
{
    struct record *r = find(queue, c->cookie, c->first);
    const bool lost = ferry_status_scope(c->status) == FERRY_SCOPE_PEER;
    bool pass = !(r && r->swallow);
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < c->n; i++) {
        struct record *e = find(queue, c->cookie, c->first + i);
        if (!e)
            continue;
        const struct ferry_xfer *x = &e->list.v[c->first + i - e->list.first];
        bytes += x->len;
        if (e->list.op == FERRY_OP_READ && c->status == FERRY_OK) {
            if (mutant_is("reads-past-range"))
                ((uint8_t *)x->local)[x->len] ^= 1;
            if (mutant_is("wrong-bytes") && x->len > 100)
                ((uint8_t *)x->local)[x->len / 2] ^= 1;
        }
        touch = x->local;
        note_end(e, c->first + i);
    }
    if (mutant_is("writes-past-range"))
        c->bytes = bytes;
    if (mutant_is("counts-no-bytes"))
        c->bytes = 0;
    if (mutant_is("completes-with-eagain"))
        c->status = FERRY_EAGAIN;
    if (mutant_is("ignores-access") &&
        (c->status == FERRY_EACCESS || c->status == FERRY_ERANGE)) {
        c->status = FERRY_OK;
        c->bytes = bytes;
    }
    if (mutant_is("forgets-dead-peers") && lost)
        pass = false;
    if (mutant_is("dead-peer-is-eio") && lost)
        c->status = FERRY_EIO;
    if (mutant_is("wrong-range") && c->n > 1)
        c->n += 100000;
    if (mutant_is("loses-element") && ++completions == 20)
        pass = false;
    return pass;
}

int32_t mutant_poll(struct ferry_queue *queue, struct ferry_comp *comp, uint32_t max)
{
    if (mutant_is("keeps-list") && kept) {
        uint32_t accepted;
        kept = NULL;
        mutant_inner.submit(kept_queue, &kept_list, &accepted);
    }
    if (mutant_is("touches-after-completion") && touch && once)
        *touch ^= 1;
    once = true;
    pthread_mutex_lock(&lock);
    uint32_t made = 0;
    if (mutant_is("completes-early"))
        made = make_up(queue, FERRY_OK, 0, true, comp, max);
    else if (mutant_is("cancel-does-not-wait") && cancel_asked)
        made = make_up(queue, FERRY_ECANCELED, cancelled, false, comp, max);
    cancel_asked = false;
    pthread_mutex_unlock(&lock);
    if (made)
        return (int32_t)made;

    int32_t n = mutant_inner.poll(queue, comp, mutant_is("overfills") ? max + 1 : max);
    pthread_mutex_lock(&lock);
    int32_t kept_n = 0;
    bool refusal = false, dead = false;
    for (int32_t i = 0; i < n; i++) {
        refusal |= comp[i].status == FERRY_EACCESS || comp[i].status == FERRY_ERANGE;
        dead |= ferry_status_scope(comp[i].status) == FERRY_SCOPE_PEER;
    }
    for (int32_t i = 0; i < n; i++) {
        struct ferry_comp c = comp[i];
        if (mutant_is("refusal-spoils-others") && refusal && c.status == FERRY_OK)
            c.status = FERRY_EIO;
        if (spoil(queue, &c))
            comp[kept_n++] = c;
    }
    n = n < 0 ? n : kept_n;
    if (mutant_is("completes-twice") && n > 0 && (uint32_t)n < max && ++completions == 10) {
        comp[n] = comp[n - 1];
        n++;
    }
    if (mutant_is("mixes-queues")) { /* one heap of completions for all queues */
        uint32_t had = n_stash;
        for (int32_t i = 0; i < n && n_stash < MAX_STASH; i++)
            stash[n_stash++] = comp[i];
        for (n = 0; (uint32_t)n < had && (uint32_t)n < max; n++)
            comp[n] = stash[n];
        n_stash -= (uint32_t)n;
        memmove(stash, stash + n, n_stash * sizeof(*stash));
    }
    pthread_mutex_unlock(&lock);
    if (mutant_is("dead-peer-spoils-queue") && dead)
        return FERRY_ECONNRESET;
    return n;
}

ferry_status mutant_cancel(struct ferry_queue *queue, uint64_t cookie)
{
    if (mutant_is("refuses-cancel"))
        return FERRY_ENOTSUP;
    if (mutant_is("ignores-cancel"))
        return FERRY_OK;
    if (mutant_is("cancel-does-not-wait")) {
        pthread_mutex_lock(&lock);
        cancelled = cookie;
        cancel_asked = true;
        pthread_mutex_unlock(&lock);
        return FERRY_OK;
    }
    if (mutant_is("cancels-everything"))
        for (struct record *r = records; r < records + MAX_RECORDS; r++)
            if (r->used && r->queue == queue)
                mutant_inner.cancel(queue, r->list.cookie);
    return mutant_inner.cancel(queue, cookie);
}

ferry_status mutant_queue_arm(struct ferry_queue *queue)
{
    ferry_status status = mutant_inner.queue_arm(queue);
    if (mutant_is("arms-with-completions-waiting") && status == FERRY_EAGAIN)
        return FERRY_OK;
    return status;
}
