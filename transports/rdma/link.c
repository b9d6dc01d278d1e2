/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rails that come and go. What breaks one is found where completions are read; here it is taken
 * down at both ends, so that nothing late can land, and brought back, after a growing pause
 * where the path is at fault. A link whose rails are all gone has failed: its items end with
 * the cause. Knows nothing of how items are cut.
 */
#include "rdma.h"

#include <string.h>

#define MIN_BACKOFF_MS UINT64_C(100)
#define MAX_BACKOFF_MS UINT64_C(30000)
#define PROBE_MS       UINT64_C(3000)

static uint64_t ms(uint64_t n)
{
    return n * UINT64_C(1000000);
}

static void install(struct rdma_rail *rail, struct ibv_qp **qp, uint32_t max_inline)
{
    struct ferry_queue *queue = rail->link->queue;

    for (uint32_t i = 0; i < rail->n_qp; i++) {
        struct rdma_qp *q = &rail->qp[i];
        q->qp = qp[i];
        q->generation = ++queue->generations[q->index];
        q->live_tail = q->head = q->lost_end;
        q->unsignaled = 0;
        q->max_inline = max_inline;
        q->chain = NULL;
    }
    rail->progressed = rail->probed = rail->probe_failed = false;
    rail->out_bytes = 0;
    rail->out_wrs = 0;
    rail->busy_bytes = 0;
    rail->busy_ns = rail->progress_ns = ft_now_ns();
}

static void copy_qps(const struct rdma_rail *rail, struct ibv_qp **qp_out)
{
    for (uint32_t i = 0; i < rail->n_qp; i++)
        qp_out[i] = rail->qp[i].qp;
}

static void destroy(struct rdma_rail *rail, struct ibv_qp **qp)
{
    struct ferry_tp *tp = rail->link->queue->tp;
    struct ibv_qp_attr attr = {.qp_state = IBV_QPS_ERR};

    for (uint32_t i = 0; i < rail->n_qp; i++)
        if (qp[i]) {
            tp->ibv->modify_qp(qp[i], &attr, IBV_QP_STATE);
            if (tp->ibv->destroy_qp(qp[i]) != 0)
                FT_LOG(tp->host, FERRY_LOG_ERROR, "a queue pair cannot be destroyed");
        }
}

/* After destroy: the last completions are read, the rest is lost. */
static void settle(struct rdma_rail *rail)
{
    rdma_reap(rail->link->queue);
    rdma_rail_lost(rail);
    for (uint32_t i = 0; i < rail->n_qp; i++) {
        struct rdma_qp *q = &rail->qp[i];
        q->qp = NULL;
        q->generation = ++rail->link->queue->generations[q->index];
    }
    rail->state = RAIL_DOWN;
    pthread_cond_broadcast(&rail->link->queue->cond);
}

static void nap(uint32_t us)
{
    struct timespec ts = {.tv_nsec = (long)us * 1000};

    nanosleep(&ts, NULL);
}

/* One empty WRITE there and its acknowledgement back: the path carries data, not only words. */
static bool probe(struct rdma_rail *rail, uint64_t deadline_ns)
{
    struct ferry_queue *queue = rail->link->queue;
    uint32_t us = 20;

    if (!rdma_post_probe(rail))
        return false;
    while (!rail->probed && !rail->probe_failed && ft_now_ns() < deadline_ns &&
           !rail->link->closing) {
        pthread_mutex_unlock(&queue->lock);
        nap(us);
        us = us < 1000 ? us * 2 : us;
        pthread_mutex_lock(&queue->lock);
        rdma_reap(queue);
    }
    return rail->probed;
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* From RAIL_DOWN. The lock is held, and let go meanwhile. */
static ferry_status connect_rail(struct rdma_rail *rail, uint64_t deadline_ns)
{
    struct ferry_queue *queue = rail->link->queue;
    struct ibv_qp *qp[RDMA_MAX_QPS] = {0};
    uint32_t max_inline = 0;
    uint64_t now = ft_now_ns();
    ferry_status status;

    rail->state = RAIL_CONNECTING;
    rail->cause = CAUSE_NONE;
    pthread_mutex_unlock(&queue->lock);
    status =
        now < deadline_ns
            ? rdma_connect(rail, (uint32_t)((deadline_ns - now) / 1000000 + 1), qp, &max_inline)
            : FERRY_ETIMEDOUT;
    pthread_mutex_lock(&queue->lock);
    if (status == FERRY_OK) {
        install(rail, qp, max_inline);
        if (probe(rail, earlier(deadline_ns, ft_now_ns() + ms(PROBE_MS)))) {
            rail->state = RAIL_UP;
            rail->link->width.measuring = false; /* it was of the others alone */
            pthread_cond_broadcast(&queue->cond);
            return FERRY_OK;
        }
        status = FERRY_EUNREACH;
        copy_qps(rail, qp);
        pthread_mutex_unlock(&queue->lock);
        destroy(rail, qp);
        rdma_disconnect(rail, RDMA_CONTROL_MS);
        pthread_mutex_lock(&queue->lock);
    }
    settle(rail);
    return status;
}

/* It comes up and carries nothing, time and again. */
static bool is_fruitless(const struct rdma_rail *rail)
{
    return rail->fruitless > rail->link->queue->tp->config.retry_count;
}

/* Another rail is up, or somebody is at it: those not needed before are tried now. */
static bool any_other(const struct rdma_rail *rail)
{
    struct rdma_link *link = rail->link;
    bool alive = false;

    rdma_link_spread(link);
    for (uint32_t i = 0; i < link->n_rails; i++)
        if (&link->rail[i] != rail && !is_fruitless(&link->rail[i]) &&
            (link->rail[i].state != RAIL_DOWN || link->rail[i].wanted))
            alive = true;
    return alive;
}

/* Another of the peer's devices next time, where it has more than one. */
static void next_remote(struct rdma_rail *rail)
{
    const struct rdma_remote *remote = &rail->link->peer->remote;

    do
        rail->remote = (rail->remote + 1) % remote->n;
    while (!remote->device[rail->remote].usable);
}

/*
 * What a rail fails with, as the link's own failure: of the peer, whatever was in the way,
 * which is in the log. A lesser status would be taken for the fault of one element after the
 * other, and nobody would connect again.
 */
static ferry_status of_peer(const struct rdma_rail *rail, ferry_status status)
{
    if (status == FERRY_OK || ferry_status_scope(status) >= FERRY_SCOPE_PEER)
        return status;
    FT_LOG(rail->link->queue->tp->host, FERRY_LOG_DEBUG,
           "the rail to %s failed with status %d: it counts as unreachable",
           rail->link->peer->name, status);
    return FERRY_EUNREACH;
}

/* A rail that could not be brought back. Whether the link lives on depends on the others. */
static void give_up(struct rdma_rail *rail, ferry_status status)
{
    struct rdma_link *link = rail->link;
    struct ferry_tp *tp = link->queue->tp;
    const struct rdma_remote *remote = &link->peer->remote;

    status = of_peer(rail, status);
    next_remote(rail);
    rail->failures++;
    if (!any_other(rail)) {
        if (status == FERRY_EUNREACH && rail->failures < remote->n &&
            rail->failures <= tp->config.retry_count && !is_fruitless(rail)) {
            rdma_job_add(&tp->jobs, &rail->job, ft_now_ns()); /* its other devices first */
            return;
        }
        FT_LOG(tp->host, FERRY_LOG_WARN, "no rail to %s is left (status %d)", link->peer->name,
               status);
        rdma_link_end_all(link, status);
        return;
    }
    rail->backoff_ms = rail->backoff_ms ? rail->backoff_ms * 2 : MIN_BACKOFF_MS;
    if (rail->backoff_ms > MAX_BACKOFF_MS)
        rail->backoff_ms = MAX_BACKOFF_MS;
    FT_LOG(tp->host, FERRY_LOG_WARN, "the rail from %s to %s is down, next attempt in %llu ms",
           tp->device[rail->local].name, link->peer->name,
           (unsigned long long)rail->backoff_ms);
    rdma_job_add(&tp->jobs, &rail->job, ft_now_ns() + ms(rail->backoff_ms));
}

static void came_up(struct rdma_rail *rail)
{
    const struct rdma_link *link = rail->link;

    if (rail->failures)
        FT_LOG(link->queue->tp->host, FERRY_LOG_INFO, "the rail from %s to %s (%s) is up again",
               link->queue->tp->device[rail->local].name, link->peer->name,
               link->peer->remote.device[rail->remote].name);
    rail->failures = 0;
    rdma_send(rail->link);
    rdma_queue_wake(rail->link->queue);
}

/* Takes a broken rail down at both ends. FERRY_OK: and the peer has said so. */
static ferry_status take_down(struct rdma_rail *rail)
{
    struct ferry_queue *queue = rail->link->queue;
    struct ibv_qp *qp[RDMA_MAX_QPS] = {0};
    ferry_status status;

    rail->state = RAIL_CONNECTING; /* another worker may have a job of it: not this one */
    copy_qps(rail, qp);
    pthread_mutex_unlock(&queue->lock);
    destroy(rail, qp);
    status = rdma_disconnect(rail, RDMA_CONTROL_MS);
    pthread_mutex_lock(&queue->lock);
    settle(rail);
    return status;
}

void rdma_rail_job(struct rdma_rail *rail)
{
    struct rdma_link *link = rail->link;
    struct ferry_queue *queue = link->queue;
    ferry_status status = FERRY_OK;

    pthread_mutex_lock(&queue->lock);
    rail->wanted = false;
    if (link->closing)
        goto out;
    if (rail->state == RAIL_BROKEN) {
        bool fault = rail->cause == CAUSE_PATH || rail->cause == CAUSE_DEVICE;
        bool stuck = fault && !rail->progressed;
        status = take_down(rail);
        if (status == FERRY_ENOTSUP)
            status = FERRY_OK; /* no such message there: new queue pairs will do it */
        rdma_send(link);       /* what was lost, on other rails */
        rdma_queue_wake(queue);
        rail->failures = stuck ? rail->failures + 1 : 0;
        rail->fruitless += stuck;
        if (status == FERRY_OK && stuck && is_fruitless(rail))
            status = FERRY_EUNREACH;
        if (!link->closing && status != FERRY_OK)
            give_up(rail, status);
    }
    if (!link->closing && status == FERRY_OK && link->status == FERRY_OK &&
        rail->state == RAIL_DOWN) {
        status = connect_rail(rail, ft_now_ns() + ms(RDMA_CONTROL_MS + PROBE_MS));
        if (link->closing)
            goto out;
        if (status == FERRY_OK) {
            came_up(rail);
        } else {
            give_up(rail, status);
            rdma_queue_wake(queue);
        }
    }
out:
    pthread_mutex_unlock(&queue->lock);
}

void rdma_link_spread(struct rdma_link *link)
{
    struct ferry_tp *tp = link->queue->tp;

    if (link->spread || link->closing)
        return;
    link->spread = true;
    for (uint32_t i = 0; i < link->n_rails; i++)
        if (link->rail[i].state == RAIL_DOWN &&
            rdma_job_add_unless_queued(&tp->jobs, &link->rail[i].job, ft_now_ns()))
            link->rail[i].wanted = true; /* before the job can look: it takes the lock */
}

void rdma_rail_broken(struct rdma_rail *rail, enum rdma_cause cause)
{
    struct ferry_tp *tp = rail->link->queue->tp;

    if (rail->state == RAIL_CONNECTING) {
        rail->probe_failed = true;
        return;
    }
    if (rail->state != RAIL_UP)
        return;
    rail->state = RAIL_BROKEN;
    rail->cause = cause;
    if (rail->link->closing)
        return;
    rdma_job_add(&tp->jobs, &rail->job, ft_now_ns());
    if (cause != CAUSE_CANCEL && cause != CAUSE_REFUSED)
        rdma_link_spread(rail->link);
}

static bool wait_until(struct ferry_queue *queue, uint64_t deadline_ns)
{
    struct timespec ts = {.tv_sec = (time_t)(deadline_ns / 1000000000),
                          .tv_nsec = (long)(deadline_ns % 1000000000)};

    return pthread_cond_timedwait(&queue->cond, &queue->lock, &ts) == 0;
}

ferry_status rdma_link_connect(struct rdma_link *link, uint32_t timeout_ms)
{
    struct ferry_queue *queue = link->queue;
    uint64_t deadline = ft_now_ns() + ms(timeout_ms);
    ferry_status status = FERRY_EUNREACH;
    bool up = false;

    pthread_mutex_lock(&queue->lock);
    link->status = FERRY_OK; /* one that failed may try again */
    link->spread = false;
    for (uint32_t i = 0; i < link->n_rails; i++)
        link->rail[i].fruitless = 0;
    for (uint32_t i = 0; i < link->n_rails && !up; i++) {
        struct rdma_rail *rail = &link->rail[i];
        uint32_t tries = link->peer->remote.n;
        while (rail->state == RAIL_CONNECTING || rail->state == RAIL_BROKEN)
            if (!wait_until(queue, deadline)) {
                pthread_mutex_unlock(&queue->lock);
                return FERRY_ETIMEDOUT;
            }
        while (rail->state == RAIL_DOWN && tries-- && ft_now_ns() < deadline) {
            status = of_peer(rail, connect_rail(rail, deadline));
            if (status != FERRY_OK)
                next_remote(rail);
            if (status != FERRY_EUNREACH)
                break;
        }
        up = rail->state == RAIL_UP;
        if (status != FERRY_OK && status != FERRY_EUNREACH)
            break; /* the peer itself does not answer: other rails would not either */
    }
    if (up)
        rdma_send(link);
    else if (link->status == FERRY_OK)
        link->status = status;
    pthread_mutex_unlock(&queue->lock);
    return up ? FERRY_OK : status;
}

void rdma_link_down(struct rdma_link *link)
{
    struct ferry_queue *queue = link->queue;
    struct ferry_tp *tp = queue->tp;

    pthread_mutex_lock(&queue->lock);
    link->closing = true;
    pthread_mutex_unlock(&queue->lock);
    for (uint32_t i = 0; i < link->n_rails; i++)
        rdma_job_cancel(&tp->jobs, &link->rail[i].job);

    pthread_mutex_lock(&queue->lock);
    for (uint32_t i = 0; i < link->n_rails; i++) {
        struct rdma_rail *rail = &link->rail[i];
        while (rail->state == RAIL_CONNECTING)
            pthread_cond_wait(&queue->cond, &queue->lock);
        if (rail->state != RAIL_DOWN)
            take_down(rail);
    }
    rdma_link_end_all(link, FERRY_ECANCELED);
    pthread_mutex_unlock(&queue->lock);
}
