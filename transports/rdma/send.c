/* SPDX-License-Identifier: Apache-2.0 */
/*
 * HOT: sending and reaping. Items are cut into pieces, each piece goes to the rail that is
 * predicted to be done with it first, and what a call has cut is posted as one chain a queue
 * pair. Knows nothing of how rails are connected. The queue's lock is held throughout.
 */
#include "rdma.h"

#include <errno.h>
#include <string.h>

#define REAP_AT_ONCE  32
/* A measurement of less than this is noise: 256 KiB. */
#define MEASURE_BYTES (UINT64_C(1) << 18)
/* What a rail may have ahead of it before pieces wait for whichever is free first. */
#define AHEAD_NS      2e6
/* How often our own device may refuse an item before the item is at fault, not the port. */
#define REFUSED_MAX   3

static uint64_t min64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* ---- items */

static void give_comp(struct ferry_queue *queue, const struct rdma_item *item, uint64_t bytes)
{
    struct ferry_comp *last =
        queue->comp_n ? &queue->comps[(queue->comp_head + queue->comp_n - 1) % queue->depth]
                      : NULL;

    if (last && last->cookie == item->cookie && last->first + last->n == item->first &&
        last->status == item->status && last->vendor_err == item->vendor_err) {
        last->n += item->n;
        last->bytes += bytes;
        return;
    }
    queue->comps[(queue->comp_head + queue->comp_n++) % queue->depth] =
        (struct ferry_comp){.cookie = item->cookie,
                            .first = item->first,
                            .n = item->n,
                            .status = item->status,
                            .vendor_err = item->vendor_err,
                            .bytes = bytes};
}

void rdma_item_end(struct ferry_queue *queue, uint32_t index)
{
    struct rdma_item *item = &queue->items[index];

    give_comp(queue, item, item->done);
    item->used = false;
    item->next = queue->free_item;
    queue->free_item = index;
    queue->n_used--;
}

static bool cut_up(const struct rdma_item *item)
{
    return item->cursor == item->len || item->status != FERRY_OK;
}

/* A piece of the item has ended. The backlog lets go of items that are cut up by itself. */
static void piece_ended(struct ferry_queue *queue, uint32_t index)
{
    struct rdma_item *item = &queue->items[index];

    if (--item->out == 0 && cut_up(item) && !item->queued)
        rdma_item_end(queue, index);
}

void rdma_list_link(struct rdma_link *link)
{
    struct ferry_queue *queue = link->queue;

    if (link->listed)
        return;
    link->listed = true;
    link->next_listed = queue->listed;
    queue->listed = link;
}

/* ---- where a piece goes */

static bool has_room(const struct ferry_queue *queue, const struct rdma_rail *rail)
{
    const struct rdma_queue_device *dev = &queue->dev[rail->local];

    if (rail->state != RAIL_UP || dev->used + RDMA_PROBE_ROOM >= dev->cap ||
        queue->n_staged == queue->n_wrs)
        return false;
    for (uint32_t i = 0; i < rail->n_qp; i++)
        if (rail->qp[i].head - rail->qp[i].live_tail < rail->qp[i].cap)
            return true;
    return false;
}

static bool is_far(const struct rdma_rail *rail, const struct ferry_mr *mr)
{
    int32_t node = rail->link->queue->tp->device[rail->local].numa_node;

    return mr->numa_node >= 0 && node >= 0 && mr->numa_node != node;
}

static double cost(const struct rdma_rail *rail, const struct ferry_mr *mr, uint64_t bytes)
{
    return (double)(rail->out_bytes + bytes) * rail->ns_per_byte * (is_far(rail, mr) ? 2 : 1);
}

/* The one rail where one carries all: the first, or the first that is near. */
static struct rdma_rail *only_rail(struct rdma_link *link, const struct ferry_mr *mr)
{
    struct rdma_rail *only = NULL;

    for (uint32_t i = 0; i < link->n_rails; i++) {
        struct rdma_rail *rail = &link->rail[i];
        if (rail->state == RAIL_UP && (!only || (is_far(only, mr) && !is_far(rail, mr))))
            only = rail;
    }
    return only && has_room(link->queue, only) ? only : NULL;
}

/*
 * The rail that would be done first; NULL where waiting for it is better than any that has
 * room. A rail with much ahead of it stands aside for others, as long as these end before the
 * whole backlog would on it.
 */
static struct rdma_rail *choose_rail(struct rdma_link *link, const struct rdma_item *item,
                                     uint64_t len)
{
    struct ferry_queue *queue = link->queue;
    struct rdma_rail *best = NULL, *first = NULL;
    double best_cost = 0, first_cost = 0;

    if (link->n_rails == 1)
        return has_room(queue, &link->rail[0]) ? &link->rail[0] : NULL;
    if (link->width.of[item->op].narrow)
        return only_rail(link, item->mr);
    for (uint32_t i = 0; i < link->n_rails; i++) {
        struct rdma_rail *rail = &link->rail[i];
        if (rail->state != RAIL_UP)
            continue;
        double c = cost(rail, item->mr, len);
        if (!first || c < first_cost) {
            first = rail;
            first_cost = c;
        }
        if (!has_room(queue, rail) ||
            (rail->out_bytes && (double)rail->out_bytes * rail->ns_per_byte > AHEAD_NS))
            continue;
        if (!best || c < best_cost) {
            best = rail;
            best_cost = c;
        }
    }
    if (best && best != first &&
        best_cost > first_cost + (double)link->backlog_bytes * first->ns_per_byte)
        return NULL;
    return best;
}

static struct rdma_qp *choose_qp(struct rdma_rail *rail)
{
    for (uint32_t i = 0; i < rail->n_qp; i++) {
        struct rdma_qp *qp = &rail->qp[rail->next_qp++ % rail->n_qp];
        if (qp->head - qp->live_tail < qp->cap)
            return qp;
    }
    return NULL;
}

/* ---- pieces */

/* How much of [off, ...) of the item goes into one work request. */
static uint64_t piece_len(const struct rdma_link *link, const struct rdma_item *item,
                          uint64_t off)
{
    const struct rdma_config *config = &link->queue->tp->config;
    uint64_t left = item->len - off, slice = config->slice;
    uint64_t at = (uint64_t)(item->local - item->mr->addr) + off;
    uint64_t remote = item->remote_off + off;
    uint32_t up = rdma_width(link, item->op);

    if (up > 1 && left / (4 * up) < slice) { /* enough pieces to share out */
        slice = left / (4 * up) & ~UINT64_C(4095);
        if (slice < RDMA_MIN_SLICE)
            slice = min64(RDMA_MIN_SLICE, config->slice);
    }
    if (left < slice + slice / 4)
        slice = left; /* no crumbs */
    if (item->mr->n_chunks > 1)
        slice = min64(slice, item->mr->chunk_len - at % item->mr->chunk_len);
    if (item->rmem->keys.n_chunks > 1)
        slice = min64(slice, item->rmem->keys.chunk_len - remote % item->rmem->keys.chunk_len);
    return min64(min64(slice, left), RDMA_MAX_PIECE);
}

static void stage(struct rdma_qp *qp, uint32_t index, uint64_t off, uint32_t len)
{
    struct rdma_rail *rail = qp->rail;
    struct ferry_queue *queue = rail->link->queue;
    const struct rdma_item *item = &queue->items[index];
    const struct ferry_mr *mr = item->mr;
    const struct rdma_keys *keys = &item->rmem->keys;
    uint64_t at = (uint64_t)(item->local - mr->addr) + off;
    uint64_t remote = item->remote_off + off;
    uint32_t local_chunk = mr->n_chunks > 1 ? (uint32_t)(at / mr->chunk_len) : 0;
    uint32_t remote_chunk = keys->n_chunks > 1 ? (uint32_t)(remote / keys->chunk_len) : 0;
    struct ibv_send_wr *wr = &queue->wrs[queue->n_staged];
    struct ibv_sge *sge = &queue->sges[queue->n_staged++];

    sge->addr = (uintptr_t)item->local + off;
    sge->length = len;
    sge->lkey = mr->mr[(size_t)rail->local * mr->n_chunks + local_chunk]->lkey;
    memset(wr, 0, sizeof(*wr));
    wr->sg_list = sge;
    wr->num_sge = 1;
    wr->opcode = item->op == FERRY_OP_WRITE ? IBV_WR_RDMA_WRITE : IBV_WR_RDMA_READ;
    wr->wr.rdma.remote_addr = item->rmem->addr + remote;
    wr->wr.rdma.rkey = keys->key[(size_t)rail->remote * keys->n_chunks + remote_chunk];
    if (item->op == FERRY_OP_WRITE && len <= qp->max_inline && mr->kind == FERRY_MEM_HOST)
        wr->send_flags = IBV_SEND_INLINE;
    wr->wr_id = (uint64_t)qp->index << 48 | (uint64_t)qp->generation << 32 | qp->head;
    if (++qp->unsignaled >= qp->cap / 4) {
        wr->send_flags |= IBV_SEND_SIGNALED;
        qp->unsignaled = 0;
    }
    qp->slot[qp->head++ & qp->mask] = (struct rdma_slot){index, len, off};
    if (qp->chain)
        qp->chain_last->next = wr;
    else
        qp->chain = wr;
    qp->chain_last = wr;
    if (rail->out_wrs == 0) {
        rail->busy_ns = rail->progress_ns = ft_now_ns();
        rail->busy_bytes = 0;
    }
    if (rail->link->n_rails > 1)
        rdma_width_stage(rail->link, item->op);
    rail->out_bytes += len;
    rail->out_wrs++;
    queue->dev[rail->local].used++;
    queue->outstanding++;
}

bool rdma_arm_device(struct ferry_queue *queue, uint32_t device)
{
    struct rdma_queue_device *dev = &queue->dev[device];

    if (!dev->armed)
        dev->armed = ibv_req_notify_cq(dev->cq, 0) == 0;
    return dev->armed;
}

/* One doorbell. What the device refuses breaks the rail: our own credits are meant to prevent
 * it, and the pieces are kept as lost. */
static void post_chain(struct rdma_qp *qp)
{
    struct ibv_send_wr *bad = NULL;
    struct rdma_rail *rail = qp->rail;
    int rc;

    qp->chain_last->send_flags |= IBV_SEND_SIGNALED;
    qp->unsignaled = 0;
    if (rail->link->queue->sleeps)
        rdma_arm_device(rail->link->queue, rail->local);
    rc = ibv_post_send(qp->qp, qp->chain, &bad);
    qp->chain = NULL;
    if (rc == 0)
        return;
    FT_LOG(rail->link->queue->tp->host, FERRY_LOG_ERROR, "device %s: posting: %s",
           rail->link->queue->tp->device[rail->local].name, strerror(rc));
    rdma_rail_broken(rail, CAUSE_DEVICE);
}

static void post_all(struct rdma_link *link)
{
    for (uint32_t i = 0; i < link->n_rails; i++)
        for (uint32_t k = 0; k < link->rail[i].n_qp; k++)
            if (link->rail[i].qp[k].chain)
                post_chain(&link->rail[i].qp[k]);
    link->queue->n_staged = 0;
}

bool rdma_post_probe(struct rdma_rail *rail)
{
    struct ferry_queue *queue = rail->link->queue;
    struct rdma_queue_device *dev = &queue->dev[rail->local];

    for (uint32_t i = 0; i < rail->n_qp; i++) {
        struct rdma_qp *qp = &rail->qp[i];
        struct ibv_send_wr wr = {
            .wr_id = (uint64_t)qp->index << 48 | (uint64_t)qp->generation << 32 | qp->head,
            .opcode = IBV_WR_RDMA_WRITE,
            .send_flags = IBV_SEND_SIGNALED,
        };
        struct ibv_send_wr *bad;
        if (dev->used == dev->cap)
            return false;
        if (ibv_post_send(qp->qp, &wr, &bad) != 0)
            return false;
        qp->slot[qp->head++ & qp->mask] = (struct rdma_slot){RDMA_NO_ITEM, 0, 0};
        rail->out_wrs++;
        dev->used++;
        queue->outstanding++;
    }
    return true;
}

/* ---- what was lost with a rail */

void rdma_rail_lost(struct rdma_rail *rail)
{
    struct rdma_link *link = rail->link;
    struct ferry_queue *queue = link->queue;

    for (uint32_t i = 0; i < rail->n_qp; i++) {
        struct rdma_qp *qp = &rail->qp[i];
        uint32_t posted = qp->head - qp->live_tail, kept = qp->lost_end;
        for (uint32_t p = qp->live_tail; p != qp->head; p++) {
            struct rdma_slot slot = qp->slot[p & qp->mask];
            if (slot.item == RDMA_NO_ITEM)
                continue;
            if (queue->items[slot.item].status != FERRY_OK) {
                piece_ended(queue, slot.item);
                continue;
            }
            qp->slot[kept++ & qp->mask] = slot;
            link->backlog_bytes += slot.len;
        }
        link->lost += kept - qp->lost_end;
        qp->lost_end = qp->live_tail = qp->head = kept;
        qp->chain = NULL;
        queue->dev[rail->local].used -= posted;
        queue->outstanding -= posted;
    }
    rail->out_bytes = 0;
    rail->out_wrs = 0;
    link->width.measuring = false;
    if (link->lost)
        rdma_list_link(link);
}

static void drop_lost_head(struct rdma_link *link, struct rdma_qp *qp)
{
    link->backlog_bytes -= qp->slot[qp->lost_tail & qp->mask].len;
    link->lost--;
    if (++qp->lost_tail == qp->lost_end)
        qp->lost_tail = qp->lost_end = qp->live_tail;
}

/* The next lost piece that is still wanted. */
static struct rdma_qp *next_lost(struct rdma_link *link)
{
    for (uint32_t i = 0; i < link->n_rails && link->lost; i++)
        for (uint32_t k = 0; k < link->rail[i].n_qp; k++) {
            struct rdma_qp *qp = &link->rail[i].qp[k];
            while (qp->lost_tail != qp->lost_end) {
                uint32_t index = qp->slot[qp->lost_tail & qp->mask].item;
                if (link->queue->items[index].status == FERRY_OK)
                    return qp;
                drop_lost_head(link, qp);
                piece_ended(link->queue, index);
            }
        }
    return NULL;
}

static bool send_lost(struct rdma_link *link)
{
    struct ferry_queue *queue = link->queue;
    struct rdma_qp *from;

    while ((from = next_lost(link))) {
        struct rdma_slot slot = from->slot[from->lost_tail & from->mask];
        struct rdma_rail *rail = choose_rail(link, &queue->items[slot.item], slot.len);
        if (!rail)
            return false;
        drop_lost_head(link, from);
        stage(choose_qp(rail), slot.item, slot.off, slot.len);
    }
    return true;
}

/* Lost pieces and the backlog, less what has ended: nothing of it can land any more. */
void rdma_link_sweep(struct rdma_link *link)
{
    struct ferry_queue *queue = link->queue;
    uint32_t *at = &link->backlog;

    for (uint32_t i = 0; i < link->n_rails; i++)
        for (uint32_t k = 0; k < link->rail[i].n_qp; k++) {
            struct rdma_qp *qp = &link->rail[i].qp[k];
            uint32_t kept = qp->lost_tail;
            for (uint32_t p = qp->lost_tail; p != qp->lost_end; p++) {
                struct rdma_slot slot = qp->slot[p & qp->mask];
                if (queue->items[slot.item].status == FERRY_OK) {
                    qp->slot[kept++ & qp->mask] = slot;
                    continue;
                }
                link->lost--;
                link->backlog_bytes -= slot.len;
                piece_ended(queue, slot.item);
            }
            qp->lost_end = kept;
            if (qp->lost_tail == qp->lost_end)
                qp->lost_tail = qp->lost_end = qp->live_tail;
        }
    link->backlog_tail = at;
    while (*at != RDMA_NO_ITEM) {
        uint32_t index = *at;
        struct rdma_item *item = &queue->items[index];
        if (item->status == FERRY_OK) {
            at = link->backlog_tail = &item->next;
            continue;
        }
        *at = item->next;
        link->backlog_bytes -= item->len - item->cursor;
        item->queued = false;
        if (item->out == 0)
            rdma_item_end(queue, index);
    }
}

/* ---- sending */

static void drop_backlog_head(struct rdma_link *link)
{
    struct ferry_queue *queue = link->queue;
    uint32_t index = link->backlog;
    struct rdma_item *item = &queue->items[index];

    link->backlog = item->next;
    if (link->backlog == RDMA_NO_ITEM)
        link->backlog_tail = &link->backlog;
    item->queued = false;
    if (item->out == 0)
        rdma_item_end(queue, index);
}

static bool send_backlog(struct rdma_link *link)
{
    struct ferry_queue *queue = link->queue;

    while (link->backlog != RDMA_NO_ITEM) {
        uint32_t index = link->backlog;
        struct rdma_item *item = &queue->items[index];
        while (item->status == FERRY_OK && item->cursor < item->len) {
            uint64_t len = piece_len(link, item, item->cursor);
            struct rdma_rail *rail = choose_rail(link, item, len);
            if (!rail)
                return false;
            item->out++;
            stage(choose_qp(rail), index, item->cursor, (uint32_t)len);
            item->cursor += len;
            link->backlog_bytes -= len;
        }
        if (item->status != FERRY_OK)
            link->backlog_bytes -= item->len - item->cursor;
        drop_backlog_head(link);
    }
    return true;
}

void rdma_send(struct rdma_link *link)
{
    struct ferry_queue *queue = link->queue;
    bool full;

    do {
        if (send_lost(link))
            send_backlog(link);
        full = queue->n_staged == queue->n_wrs;
        post_all(link);
    } while (full);
    if (link->lost || link->backlog != RDMA_NO_ITEM)
        rdma_list_link(link);
    if (!link->spread && link->n_rails > 1 &&
        link->backlog_bytes + rdma_in_flight(link) >= RDMA_SPREAD_LEN)
        rdma_link_spread(link);
}

/* ---- reaping */

/* Bandwidth as seen: bytes over the time in which something was in flight. */
static void measure(struct rdma_rail *rail, uint64_t now)
{
    uint64_t ns = now - rail->busy_ns;

    if (rail->busy_bytes >= MEASURE_BYTES && ns) {
        double seen = (double)ns / (double)rail->busy_bytes;
        rail->ns_per_byte += (seen - rail->ns_per_byte) / 8;
        rail->busy_ns = now;
        rail->busy_bytes = 0;
    }
}

/* All up to and including position `upto` are done. */
static void done_upto(struct rdma_qp *qp, uint32_t upto, uint64_t now)
{
    struct rdma_rail *rail = qp->rail;
    struct ferry_queue *queue = rail->link->queue;
    uint64_t bytes = 0;
    uint32_t n = 0;

    for (; qp->live_tail != upto + 1; n++) {
        struct rdma_slot slot = qp->slot[qp->live_tail++ & qp->mask];
        if (qp->lost_tail == qp->lost_end)
            qp->lost_tail = qp->lost_end = qp->live_tail;
        if (slot.item == RDMA_NO_ITEM) {
            rail->probed = rail->out_wrs - n == 1;
            continue;
        }
        queue->items[slot.item].done += slot.len;
        rail->out_bytes -= slot.len;
        rail->busy_bytes += slot.len;
        rail->progressed = true;
        bytes += slot.len;
        piece_ended(queue, slot.item);
    }
    if (n == 0)
        return;
    rail->out_wrs -= n;
    queue->dev[rail->local].used -= n;
    queue->outstanding -= n;
    rail->progress_ns = now;
    measure(rail, now);
    if (rail->link->n_rails > 1)
        rdma_width_done(rail->link, bytes, now);
    if (rail->progressed) {
        rail->backoff_ms = 0;
        rail->fruitless = 0;
    }
}

static ferry_status status_of(enum ibv_wc_status status, enum rdma_cause *cause_out)
{
    *cause_out = CAUSE_REFUSED;
    switch (status) {
    case IBV_WC_REM_ACCESS_ERR:
        return FERRY_EACCESS;
    case IBV_WC_LOC_PROT_ERR:
    case IBV_WC_LOC_LEN_ERR:
    case IBV_WC_LOC_QP_OP_ERR:
    case IBV_WC_REM_INV_REQ_ERR:
    case IBV_WC_REM_OP_ERR:
    case IBV_WC_LOC_ACCESS_ERR:
        return FERRY_EIO;
    case IBV_WC_FATAL_ERR:
    case IBV_WC_GENERAL_ERR:
        *cause_out = CAUSE_DEVICE;
        return FERRY_OK;
    default: /* retries exceeded, flushed: of no one's making, to be sent again */
        *cause_out = CAUSE_PATH;
        return FERRY_OK;
    }
}

static void failed_at(struct rdma_qp *qp, uint32_t position, const struct ibv_wc *wc)
{
    struct rdma_rail *rail = qp->rail;
    struct ferry_queue *queue = rail->link->queue;
    struct rdma_slot slot = qp->slot[position & qp->mask];
    struct ferry_tp *tp = queue->tp;
    enum rdma_cause cause;
    ferry_status status = status_of(wc->status, &cause);

    FT_LOG(tp->host, status == FERRY_EACCESS ? FERRY_LOG_INFO : FERRY_LOG_WARN,
           "%s to %s (%s): %s, vendor error %u", tp->device[rail->local].name,
           rail->link->peer->name, rail->link->peer->remote.device[rail->remote].name,
           tp->ibv->wc_status_str(wc->status), wc->vendor_err);
    if (status != FERRY_OK && slot.item != RDMA_NO_ITEM) {
        struct rdma_item *item = &queue->items[slot.item];
        if (wc->status == IBV_WC_LOC_QP_OP_ERR && ++item->refused < REFUSED_MAX)
            cause = CAUSE_PATH; /* Soft-RoCE says so of a port that has just gone down */
        else if (item->status == FERRY_OK) {
            item->status = status;
            item->vendor_err = (int32_t)wc->status;
        }
    }
    rdma_rail_broken(rail, cause);
}

static void handle(struct ferry_queue *queue, const struct ibv_wc *wc, uint64_t now)
{
    uint32_t index = (uint32_t)(wc->wr_id >> 48), position = (uint32_t)wc->wr_id;
    struct rdma_qp *qp = index < queue->n_qps ? queue->qps[index] : NULL;

    if (!qp || qp->generation != (uint16_t)(wc->wr_id >> 32) ||
        position - qp->live_tail >= qp->head - qp->live_tail)
        return; /* of a queue pair that is gone */
    if (wc->status == IBV_WC_SUCCESS) {
        done_upto(qp, position, now);
        return;
    }
    if (wc->status == IBV_WC_WR_FLUSH_ERR)
        return; /* it follows a failure that is known, and is lost with the rail */
    done_upto(qp, position - 1, now); /* they ended well without a completion of their own */
    failed_at(qp, position, wc);
}

static void check_stalls(struct ferry_queue *queue, uint64_t now)
{
    uint64_t limit = (uint64_t)queue->tp->config.stall_ms * 1000000;

    for (uint32_t l = 0; l < queue->n_links; l++) {
        struct rdma_link *link = queue->links[l];
        for (uint32_t i = 0; link && i < link->n_rails; i++) {
            struct rdma_rail *rail = &link->rail[i];
            if (rail->state != RAIL_UP || rail->out_wrs == 0 || now - rail->progress_ns < limit)
                continue;
            FT_LOG(queue->tp->host, FERRY_LOG_WARN, "%s to %s: nothing has completed for %u ms",
                   queue->tp->device[rail->local].name, link->peer->name,
                   queue->tp->config.stall_ms);
            rdma_rail_broken(rail, CAUSE_PATH);
        }
    }
}

void rdma_reap(struct ferry_queue *queue)
{
    struct ibv_wc wc[REAP_AT_ONCE];
    uint64_t now = queue->outstanding ? ft_now_ns() : 0;
    int n;

    for (uint32_t d = 0; d < queue->tp->n_devices; d++)
        for (n = REAP_AT_ONCE; n == REAP_AT_ONCE && queue->dev[d].used;) {
            n = ibv_poll_cq(queue->dev[d].cq, REAP_AT_ONCE, wc);
            for (int i = 0; i < n; i++)
                handle(queue, &wc[i], now);
        }
    if (queue->outstanding && now >= queue->next_stall_check_ns) {
        queue->next_stall_check_ns = now + UINT64_C(100000000);
        check_stalls(queue, now);
    }
}

void rdma_link_end_all(struct rdma_link *link, ferry_status status)
{
    struct ferry_queue *queue = link->queue;

    link->status = status;
    for (uint32_t i = 0; i < queue->depth; i++)
        if (queue->items[i].used && queue->items[i].link == link &&
            queue->items[i].status == FERRY_OK)
            queue->items[i].status = status;
    rdma_link_sweep(link);
}
