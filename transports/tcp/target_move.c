/* SPDX-License-Identifier: Apache-2.0 */
/*
 * HOT. Moves payload between a socket and registered memory: finds and holds the regions,
 * builds gather lists, sends refused payload to nowhere. Must not know what the bytes before
 * and after the payload mean.
 */
#include "target.h"

#include <errno.h>

static enum wire_status refusal(ferry_status status)
{
    return status == FERRY_EACCESS ? WIRE_ST_ACCESS : WIRE_ST_RANGE;
}

/*
 * Finds and holds the regions of d[i..n). Neighbours in the list mostly lie in one region, so
 * whole runs are asked for at once, shorter ones where that fails. False: one was refused.
 */
static bool hold_from(struct target *t, uint32_t i)
{
    const struct ferry_host *host = t->env->host;
    struct work *w = t->w;
    uint32_t access = w->write ? FERRY_ACCESS_REMOTE_WRITE : FERRY_ACCESS_REMOTE_READ;
    uint32_t run = w->n - i;
    bool all = true;

    w->held = true;
    while (i < w->n) {
        uint64_t lo = w->d[i].addr, hi = lo + w->d[i].len;
        ferry_status status;
        uint32_t k;

        if (w->st[i] != WIRE_ST_OK) {
            i++;
            continue;
        }
        for (k = i + 1; k < w->n && k - i < run && w->st[k] == WIRE_ST_OK; k++) {
            if (w->d[k].addr < lo)
                lo = w->d[k].addr;
            if (w->d[k].addr + w->d[k].len > hi)
                hi = w->d[k].addr + w->d[k].len;
        }
        status = host->region_get(host, lo, hi - lo, access, &w->hold[w->n_holds]);
        if (status == FERRY_OK) {
            run = 2 * (k - i);
            for (; i < k; i++)
                w->hold_of[i] = (uint16_t)w->n_holds;
            w->n_holds++;
        } else if (k - i > 1) {
            run = (k - i) / 2;
        } else {
            w->st[i++] = (uint8_t)refusal(status);
            all = false;
        }
    }
    return all;
}

void move_release(struct target *t)
{
    struct work *w = t->w;

    while (w->n_holds > 0)
        t->env->host->region_put(t->env->host, &w->hold[--w->n_holds]);
    w->held = false;
}

void move_end(struct target *t)
{
    move_release(t);
    t->w->active = false;
}

void move_start(struct target *t, uint32_t n, bool write, uint32_t lead)
{
    struct work *w = t->w;

    w->n = n;
    w->active = true;
    w->write = write;
    w->lead = lead;
    w->staged = false;
    w->moved = w->base_moved = 0;
    w->iov_at = w->iov_n = 1;
    w->win_left = 0;
    w->base_i = w->end_i = 0;
    w->base_off = w->end_off = 0;
    memset(w->st, WIRE_ST_OK, n);
    hold_from(t, 0);
}

void move_truncate(struct target *t, uint32_t n)
{
    struct work *w = t->w;
    uint32_t keep = 0;

    for (uint32_t i = 0; i < n; i++)
        if (w->hold_of[i] + 1u > keep)
            keep = w->hold_of[i] + 1u;
    while (w->n_holds > keep)
        t->env->host->region_put(t->env->host, &w->hold[--w->n_holds]);
    w->n = n;
}

/* How much of the wire an element takes: refused ones of a READ none. */
static uint64_t wire_len(const struct work *w, uint32_t i)
{
    if (w->write)
        return w->d[i].len;
    return w->st[i] == WIRE_ST_OK ? w->d[i].len + w->lead : 0;
}

uint64_t move_total(struct target *t)
{
    uint64_t total = 0;

    for (uint32_t i = 0; i < t->w->n; i++)
        total += wire_len(t->w, i);
    return total;
}

/* The window begins anew at what has been moved so far. */
static void seek(struct work *w)
{
    uint64_t off = w->base_off + (w->moved - w->base_moved);
    uint32_t i = w->base_i;

    while (i < w->n && off >= wire_len(w, i))
        off -= wire_len(w, i++);
    w->base_i = i;
    w->base_off = off;
    w->base_moved = w->moved;
    w->iov_at = w->iov_n = 1;
    w->win_left = 0;
    w->staged = false;
}

static void window_add(struct work *w, void *base, size_t len)
{
    struct iovec *last = &w->iov[w->iov_n - 1];

    if (w->iov_n > 1 && (char *)last->iov_base + last->iov_len == (char *)base)
        last->iov_len += len;
    else
        w->iov[w->iov_n++] = (struct iovec){base, len};
    w->win_left += len;
}

/* Part of one element whose memory is not the host's. False: it could not be read. */
static bool window_stage(struct target *t, uint32_t i, uint64_t off)
{
    const struct ferry_host *host = t->env->host;
    struct work *w = t->w;
    size_t len = w->d[i].len - off < TARGET_STAGE_LEN ? w->d[i].len - off : TARGET_STAGE_LEN;

    if (w->stage == NULL && host->stage_alloc(host, TARGET_STAGE_LEN, &w->stage) != FERRY_OK) {
        w->stage = NULL;
        return false;
    }
    if (!w->write && host->region_read(host, &w->hold[w->hold_of[i]], w->d[i].addr + off,
                                       w->stage, len) != FERRY_OK)
        return false;
    w->staged = true;
    w->stage_off = off;
    w->stage_len = len;
    window_add(w, w->stage, len);
    return true;
}

/* Fills the empty window from its base on. False: what was promised cannot be read. */
static bool window_build(struct target *t)
{
    static const uint8_t ok_word[WIRE_MC_STATUS_LEN] = {0, 0, 0, 0, 0x56, 0x54, 0x43, 0x4d};
    struct work *w = t->w;
    uint32_t i = w->base_i;
    uint64_t off = w->base_off;

    w->iov_at = w->iov_n = 1;
    w->win_left = 0;
    w->staged = false;
    while (i < w->n && w->iov_n < TARGET_IOV && !w->staged) {
        const struct wire_desc *d = &w->d[i];

        if (w->st[i] != WIRE_ST_OK) {
            uint64_t len = w->write ? d->len - off : 0;

            if (len > TARGET_SCRATCH_LEN)
                len = TARGET_SCRATCH_LEN;
            if (len > 0)
                window_add(w, t->env->scratch, len);
            off += len;
            if (!w->write || off == d->len) {
                i++;
                off = 0;
            }
            continue;
        }
        if (off < w->lead) {
            window_add(w, (void *)(uintptr_t)(ok_word + off), w->lead - off);
            off = w->lead;
        }
        if (w->hold[w->hold_of[i]].kind != FERRY_MEM_HOST) {
            if (w->iov_n > 1)
                break;
            if (!window_stage(t, i, off - w->lead)) {
                if (!w->write)
                    return false;
                w->st[i] = WIRE_ST_IO;
                continue;
            }
            off += w->stage_len;
        } else {
            window_add(w, (void *)(uintptr_t)(d->addr + (off - w->lead)),
                       d->len - (off - w->lead));
            off = d->len + w->lead;
        }
        if (off == d->len + w->lead) {
            i++;
            off = 0;
        }
    }
    w->end_i = i;
    w->end_off = off;
    return true;
}

/* All of the window has been moved. */
static void window_done(struct target *t)
{
    const struct ferry_host *host = t->env->host;
    struct work *w = t->w;
    uint32_t i = w->base_i;

    if (w->staged && w->write && w->st[i] == WIRE_ST_OK &&
        host->region_write(host, &w->hold[w->hold_of[i]], w->d[i].addr + w->stage_off, w->stage,
                           w->stage_len) != FERRY_OK)
        w->st[i] = WIRE_ST_IO;
    w->base_i = w->end_i;
    w->base_off = w->end_off;
    w->base_moved = w->moved;
    w->iov_at = w->iov_n = 1;
}

static void window_advance(struct target *t, size_t n)
{
    struct work *w = t->w;

    w->moved += n;
    w->win_left -= n;
    if (w->win_left == 0) {
        window_done(t);
        return;
    }
    while (n >= w->iov[w->iov_at].iov_len)
        n -= w->iov[w->iov_at++].iov_len;
    w->iov[w->iov_at].iov_base = (char *)w->iov[w->iov_at].iov_base + n;
    w->iov[w->iov_at].iov_len -= n;
}

/* The regions were let go of during a pause: they may have been unregistered since. */
static bool hold_again(struct target *t)
{
    if (!t->w->staged)
        seek(t->w);
    return hold_from(t, t->w->base_i);
}

static void take_buffered(struct target *t)
{
    struct work *w = t->w;
    struct iovec *v = &w->iov[w->iov_at];
    size_t n = w->have - w->pos;

    if (n > v->iov_len)
        n = v->iov_len;
    memcpy(v->iov_base, w->buf + w->pos, n);
    w->pos += (uint32_t)n;
    window_advance(t, n);
}

enum target_run move_in(struct target *t, uint32_t ahead)
{
    struct work *w = t->w;

    if (!w->held)
        hold_again(t);
    while (w->moved < w->total) {
        enum target_run run;
        uint32_t tail = 0;
        size_t n;

        if (w->win_left == 0)
            window_build(t);
        if (w->pos < w->have) {
            take_buffered(t);
            continue;
        }
        if (t->eof)
            return TARGET_CLOSE;
        w->pos = w->have = 0;
        if (w->out_len > 0 && t->state == TARGET_S_V3) {
            run = target_flush(t);
            if (run != TARGET_DONE)
                return run;
        }
        if (w->win_left == w->total - w->moved && !w->staged) {
            w->iov[w->iov_n] = (struct iovec){w->buf, ahead}; /* what follows the payload */
            tail = 1;
        }
        run = target_recv(t, &w->iov[w->iov_at], w->iov_n - w->iov_at + tail, &n);
        if (run == TARGET_READ && !t->eof && w->out_len > 0) {
            run = target_flush(t);
            return run == TARGET_DONE ? TARGET_READ : run;
        }
        if (run != TARGET_DONE)
            return t->eof ? TARGET_CLOSE : run;
        if (n == 0) { /* registered, but not there: the element at hand has failed */
            seek(w);
            w->st[w->base_i] = WIRE_ST_IO;
        } else if (n > w->win_left) {
            w->have = (uint32_t)(n - w->win_left);
            window_advance(t, w->win_left);
        } else {
            window_advance(t, n);
        }
    }
    return TARGET_DONE;
}

enum target_run move_out(struct target *t)
{
    struct work *w = t->w;

    if (!w->held && !hold_again(t))
        return TARGET_RESET; /* it was promised, and cannot be taken back */
    while (w->moved < w->total) {
        struct msghdr m;
        uint32_t at, out = w->out_len - w->out_pos;
        ssize_t r;

        if (w->win_left == 0 && !window_build(t))
            return TARGET_RESET;
        at = w->iov_at;
        if (out > 0) {
            w->iov[0] = (struct iovec){w->out + w->out_pos, out};
            at = 0;
        }
        m = (struct msghdr){.msg_iov = &w->iov[at], .msg_iovlen = w->iov_n - at};
        r = sendmsg(t->fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (r < 0) {
            if (errno == EINTR)
                continue;
            if (errno == EFAULT)
                return TARGET_RESET;
            return errno == EAGAIN || errno == EWOULDBLOCK ? TARGET_WRITE : TARGET_CLOSE;
        }
        t->progress_ns = ft_now_ns();
        if ((size_t)r < out) {
            w->out_pos += (uint32_t)r;
            continue;
        }
        w->out_pos = w->out_len = 0;
        if ((size_t)r > out)
            window_advance(t, (size_t)r - out);
    }
    return TARGET_DONE;
}
