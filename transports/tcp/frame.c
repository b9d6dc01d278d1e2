/* SPDX-License-Identifier: Apache-2.0 */
/*
 * HOT. Turns parts of lists into frames (headers and gather lists) in each dialect, and ended
 * frames into completion ranges. Must not know sockets, queues or when a frame is sent.
 */
#include "initiator.h"

#include <errno.h>

static ferry_status check(const struct ferry_xfer *x, const struct ferry_list *list)
{
    uint64_t at;

    if (x->mr == NULL || x->rmem == NULL || x->len == 0 || x->rmem->peer != list->peer)
        return FERRY_EINVAL;
    at = (uintptr_t)x->local - x->mr->addr;
    if (at > x->mr->len || x->len > x->mr->len - at)
        return FERRY_ERANGE;
    if (x->remote_off > x->rmem->len || x->len > x->rmem->len - x->remote_off)
        return FERRY_ERANGE;
    if (list->op == FERRY_OP_READ && !(x->mr->access & FERRY_ACCESS_LOCAL_WRITE))
        return FERRY_EACCESS;
    return FERRY_OK;
}

/* v3: header and table, then (WRITE) the payload. READ receives into the same entries. */
static void seal_v3(struct frame *f, struct conn *c, uint32_t last_iov)
{
    struct wire_frame w = {.type = f->op == FERRY_OP_WRITE ? WIRE_WRITE : WIRE_READ,
                           .n = (uint16_t)f->n,
                           .cookie = f->seq = ++c->seq,
                           .payload = f->payload};
    size_t head_len = WIRE_FRAME_LEN + (size_t)f->n * WIRE_DESC_LEN;

    wire_put_frame(f->head, &w);
    f->iov[0] = (struct iovec){f->head, head_len};
    f->tx_at = 0;
    f->rx_at = 1;
    f->rx_end = (uint16_t)(last_iov + 1);
    f->tx_end = f->op == FERRY_OP_WRITE ? f->rx_end : 1;
    f->tx_len = head_len + (f->op == FERRY_OP_WRITE ? f->payload : 0);
    f->rx_len = 0;
}

static uint32_t fill_v3(struct frame *f, struct conn *c, const struct ferry_list *list,
                        uint32_t at, ferry_status *status)
{
    uint8_t *desc = f->head + WIRE_FRAME_LEN;
    struct iovec *v = f->iov;
    uint32_t n = 0, last = 0;
    uint64_t payload = 0;

    for (; at < list->n && n < WIRE_MAX_DESC && payload < FRAME_BYTES; at++, n++) {
        const struct ferry_xfer *x = &list->v[at];

        *status = check(x, list);
        if (*status != FERRY_OK || (n > 0 && x->len > FRAME_BYTES - payload))
            break;
        wire_put_desc(desc, x->rmem->addr + x->remote_off, x->len);
        desc += WIRE_DESC_LEN;
        payload += x->len;
        if (last > 0 && (char *)v[last].iov_base + v[last].iov_len == (char *)x->local)
            v[last].iov_len += x->len;
        else
            v[++last] = (struct iovec){x->local, x->len};
    }
    f->n = n;
    f->payload = payload;
    seal_v3(f, c, last);
    return n;
}

/*
 * v2: requests one after the other. WRITE sends {header, payload}* and receives the status
 * words into one array; READ sends the headers in one piece and receives {word, payload}*.
 * v1 is the same without words, and one request only.
 */
static uint32_t fill_mc(struct frame *f, struct conn *c, const struct ferry_list *list,
                        uint32_t at, ferry_status *status)
{
    bool v2 = c->dialect == TCP_DIALECT_V2, write = list->op == FERRY_OP_WRITE;
    uint32_t max = v2 ? MC_FRAME_DESC : 1, n = 0, k = 1;
    uint8_t *words = f->head + MC_FRAME_DESC * WIRE_MC_LEN;
    uint64_t payload = 0;

    for (; at < list->n && n < max && payload < FRAME_BYTES; at++, n++) {
        const struct ferry_xfer *x = &list->v[at];
        uint8_t *head = f->head + (size_t)n * WIRE_MC_LEN;

        *status = check(x, list);
        if (*status != FERRY_OK || (n > 0 && x->len > FRAME_BYTES - payload))
            break;
        wire_put_mc(head, &(struct wire_mc){.size = x->len,
                                            .addr = x->rmem->addr + x->remote_off,
                                            .write = write,
                                            .v2 = v2});
        payload += x->len;
        if (write)
            f->iov[k++] = (struct iovec){head, WIRE_MC_LEN};
        else if (v2)
            f->iov[k++] =
                (struct iovec){words + (size_t)n * WIRE_MC_STATUS_LEN, WIRE_MC_STATUS_LEN};
        f->iov[k++] = (struct iovec){x->local, x->len};
    }
    f->n = n;
    f->payload = payload;
    frame_rewind(f);
    return n;
}

/* v1, v2: what is sent and received, from element f->from on. */
static void rewind_mc(struct frame *f)
{
    uint8_t *words = f->head + MC_FRAME_DESC * WIRE_MC_LEN;
    uint32_t left = f->n - f->from, per = f->v2 || f->op == FERRY_OP_WRITE ? 2 : 1;
    uint64_t heads = (uint64_t)left * WIRE_MC_LEN;
    uint64_t word_bytes = f->v2 ? (uint64_t)left * WIRE_MC_STATUS_LEN : 0;
    uint64_t payload = f->payload;
    uint16_t begin = (uint16_t)(1 + f->from * per), end = (uint16_t)(1 + f->n * per);

    for (uint32_t i = 0; i < f->from; i++)
        payload -= frame_elem_len(f, i);
    f->ok_n = f->from;
    f->ok_end = WIRE_MC_STATUS_LEN;
    if (f->op == FERRY_OP_WRITE) {
        f->iov[0] = (struct iovec){words + (size_t)f->from * WIRE_MC_STATUS_LEN, word_bytes};
        f->tx_at = begin;
        f->tx_end = end;
        f->tx_len = heads + payload;
        f->rx_at = 0;
        f->rx_end = 1;
        f->rx_len = word_bytes;
    } else {
        f->iov[0] = (struct iovec){f->head + (size_t)f->from * WIRE_MC_LEN, heads};
        f->tx_at = 0;
        f->tx_end = 1;
        f->tx_len = heads;
        f->rx_at = begin;
        f->rx_end = end;
        f->rx_len = word_bytes + payload;
    }
}

bool frame_rewind(struct frame *f)
{
    if (f->skipped)
        return false;
    if (!f->v3) {
        rewind_mc(f);
    } else {
        f->tx_at = 0;
        f->rx_at = 1;
        f->mixed = false;
    }
    f->tx_off = f->rx_off = 0;
    f->tx_left = f->tx_len;
    return true;
}

uint32_t frame_fill(struct frame *f, struct conn *c, const struct ferry_list *list, uint32_t at,
                    ferry_status *status)
{
    f->next = NULL;
    f->cookie = list->cookie;
    f->first = list->first + at;
    f->op = (uint8_t)list->op;
    f->v3 = c->dialect == TCP_DIALECT_V3;
    f->v2 = c->dialect == TCP_DIALECT_V2;
    f->cancelled = false;
    f->mixed = false;
    f->ok_n = 0;
    f->emitted = 0;
    f->status = FERRY_OK;
    f->vendor_err = 0;
    f->seq = 0;
    f->from = 0;
    f->skipped = false;
    f->tx_off = f->rx_off = 0;
    *status = FERRY_OK;
    if (f->v3)
        fill_v3(f, c, list, at, status);
    else
        fill_mc(f, c, list, at, status);
    f->tx_left = f->tx_len;
    return f->n;
}

uint64_t frame_elem_len(const struct frame *f, uint32_t i)
{
    if (f->v3)
        return wire_get64(f->head + WIRE_FRAME_LEN + (size_t)i * WIRE_DESC_LEN + 8);
    return wire_get64(f->head + (size_t)i * WIRE_MC_LEN);
}

uint64_t frame_skip_refused(struct frame *f, struct iovec *tmp)
{
    const struct iovec *from = &f->iov[f->rx_at];
    uint64_t accepted = 0;
    size_t off = 0;
    uint32_t k = 0;

    /* The gather list is the elements' local memory in their order, neighbours joined. */
    for (uint32_t i = 0; i < f->n; i++) {
        uint64_t left = frame_elem_len(f, i);
        char *at = (char *)from->iov_base + off;

        off += left;
        if (f->st[i] == WIRE_ST_OK) {
            tmp[k++] = (struct iovec){at, left};
            accepted += left;
        }
        if (off == from->iov_len) {
            from++;
            off = 0;
        }
    }
    memcpy(&f->iov[f->rx_at], tmp, k * sizeof *tmp);
    f->rx_end = (uint16_t)(f->rx_at + k);
    return accepted;
}

bool frame_check_words(struct frame *f, uint64_t received)
{
    const uint8_t *words = f->head + MC_FRAME_DESC * WIRE_MC_LEN;

    while (f->ok_n < f->n && f->ok_end <= received) {
        uint64_t word = wire_get64(words + (size_t)f->ok_n * WIRE_MC_STATUS_LEN);
        uint64_t len = f->op == FERRY_OP_READ ? frame_elem_len(f, f->ok_n) : 0;

        if (word != WIRE_MC_OK) {
            f->st[f->ok_n] = word == WIRE_MC_REJECTED ? WIRE_ST_ACCESS : WIRE_ST_IO;
            return false;
        }
        if (len > received - f->ok_end)
            return true; /* its payload is still to come */
        f->ok_end += len + WIRE_MC_STATUS_LEN;
        f->st[f->ok_n++] = WIRE_ST_OK;
    }
    return true;
}

static ferry_status status_of(const struct frame *f, uint32_t i, int32_t *vendor_err)
{
    uint8_t st = f->mixed ? f->st[i] : ST_AS_FRAME;

    switch (st) {
    case WIRE_ST_OK:
        *vendor_err = 0;
        return FERRY_OK;
    case WIRE_ST_RANGE:
        *vendor_err = ERANGE;
        return FERRY_EACCESS;
    case WIRE_ST_ACCESS:
        *vendor_err = EACCES;
        return FERRY_EACCESS;
    case WIRE_ST_IO:
        *vendor_err = EIO;
        return FERRY_EIO;
    default:
        *vendor_err = f->vendor_err;
        return f->status;
    }
}

bool frame_next_comp(struct frame *f, struct ferry_comp *out)
{
    uint32_t i = f->emitted;
    uint64_t bytes = 0;

    if (i == f->n)
        return false;
    out->cookie = f->cookie;
    out->first = f->first + i;
    out->status = status_of(f, i, &out->vendor_err);
    if (!f->mixed) {
        bytes = f->payload;
        i = f->n;
    } else {
        for (uint8_t st = f->st[i]; i < f->n && f->st[i] == st; i++)
            bytes += frame_elem_len(f, i);
    }
    out->n = i - f->emitted;
    out->bytes = out->status == FERRY_OK ? bytes : 0;
    f->emitted = i;
    return true;
}
