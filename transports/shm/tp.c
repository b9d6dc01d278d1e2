/* SPDX-License-Identifier: Apache-2.0 */
/* The transport's life, what it says of itself, and this process's own memory. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/uio.h>
#include <unistd.h>

#include "shm.h"

#define DESC_SIZE_1_0 (offsetof(struct ferry_mem_desc, reserved) + sizeof(uint32_t))
#define DESC_SIZE_1_1 (offsetof(struct ferry_mem_desc, memfd_off) + sizeof(uint64_t))

ferry_status shm_probe(const struct ferry_host *host)
{
    struct shm_ident ident;

    if (shm_ident_self(&ident))
        return FERRY_OK;
    FT_LOG(host, FERRY_LOG_INFO, "/proc does not tell who this process is");
    return FERRY_EDEVICE;
}

static void to_hex(const uint8_t *raw, size_t n, char *out)
{
    for (size_t i = 0; i < n; i++) {
        out[2 * i] = "0123456789abcdef"[raw[i] >> 4];
        out[2 * i + 1] = "0123456789abcdef"[raw[i] & 15];
    }
    out[2 * n] = '\0';
}

ferry_status shm_tp_open(const struct ferry_host *host, const struct ferry_kvs *config,
                         struct ferry_tp **tp_out)
{
    struct ferry_tp *tp = calloc(1, sizeof(*tp));
    uint8_t name[SHM_TOKEN_LEN];
    ferry_status status = FERRY_ENOMEM;

    if (!tp)
        return FERRY_ENOMEM;
    tp->host = host;
    tp->listen_fd = tp->epoll_fd = tp->stop_fd = -1;
    status = shm_config_parse(host, config, &tp->config);
    if (!status && !shm_ident_self(&tp->ident))
        status = FERRY_EDEVICE;
    if (!status && (getrandom(name, sizeof(name), 0) != (ssize_t)sizeof(name) ||
                    getrandom(tp->token, sizeof(tp->token), 0) != (ssize_t)sizeof(tp->token)))
        status = FERRY_EINTERNAL;
    if (status)
        goto fail;
    memcpy(tp->sock, "ferry-shm-", 10);
    to_hex(name, sizeof(name), tp->sock + 10);
    shm_copy_init();
    pthread_mutex_init(&tp->lock, NULL);
    status = shm_serve_start(tp);
    if (status) {
        pthread_mutex_destroy(&tp->lock);
        goto fail;
    }
#ifdef PR_SET_PTRACER
    if (tp->config.any_tracer)
        prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0); /* an error: no Yama, no need */
#endif
    *tp_out = tp;
    return FERRY_OK;

fail:
    free(tp);
    return status;
}

void shm_tp_close(struct ferry_tp *tp)
{
    if (!tp)
        return;
    shm_serve_stop(tp);
    shm_helpers_stop(tp->helpers);
    pthread_mutex_destroy(&tp->lock);
    free(tp);
}

ferry_status shm_query(struct ferry_tp *tp, struct ferry_tp_caps *caps)
{
    struct ferry_tp_caps have = {
        .flags = FERRY_CAP_READ | FERRY_CAP_WRITE | FERRY_CAP_CANCEL | FERRY_CAP_EVENT_FD |
                 FERRY_CAP_LOOPBACK | FERRY_CAP_MEMFD,
        .local_mem = FERRY_MEM_BIT(FERRY_MEM_HOST),
        .remote_mem = FERRY_MEM_BIT(FERRY_MEM_HOST),
        .max_xfer_len = SHM_MAX_XFER_LEN,
        .max_list = tp->config.depth,
        .max_queues = SHM_MAX_QUEUES,
        .n_devices = 1,
        .addr_align = 1,
        .latency_ns = 1000,
        .bandwidth_Bps = UINT64_C(10) << 30,
    };

    return ft_give(caps, &have, sizeof(have));
}

ferry_status shm_device(struct ferry_tp *tp, uint32_t index, struct ferry_device *dev)
{
    struct ferry_device have = {
        .numa_node = -1, .bandwidth_Bps = UINT64_C(10) << 30, .name = "shm"};

    return index ? FERRY_EINVAL : ft_give(dev, &have, sizeof(have));
}

static ferry_status put(struct ferry_kv_sink *out, const char *key, const char *text)
{
    struct ferry_kv kv = {
        .key = key, .val = text, .val_len = (uint32_t)strlen(text), .flags = FERRY_KV_TEXT};

    return out->put(out, &kv);
}

static ferry_status put_number(struct ferry_kv_sink *out, const char *key, uint64_t value)
{
    char text[24];

    snprintf(text, sizeof(text), "%" PRIu64, value);
    return put(out, key, text);
}

ferry_status shm_export_segment(struct ferry_tp *tp, struct ferry_kv_sink *out)
{
    char token[2 * SHM_TOKEN_LEN + 1];
    ferry_status status;

    to_hex(tp->token, SHM_TOKEN_LEN, token);
    status = put(out, "shm_boot", tp->ident.boot);
    if (!status)
        status = put_number(out, "shm_uid", tp->ident.uid);
    if (!status)
        status = put_number(out, "shm_pidns", tp->ident.pidns);
    if (!status)
        status = put_number(out, "shm_pid", (uint64_t)tp->ident.pid);
    if (!status)
        status = put_number(out, "shm_start", tp->ident.start);
    if (!status)
        status = put(out, "shm_socket", tp->sock);
    if (!status)
        status = put(out, "shm_token", token);
    if (!status)
        status = put_number(out, "shm_token_addr", (uintptr_t)tp->token);
    return status;
}

/* --- memory of this process -------------------------------------------------------- */

static ferry_status check_desc(const struct ferry_mem_desc *d, uint32_t stride)
{
    const uint32_t known =
        FERRY_ACCESS_LOCAL_WRITE | FERRY_ACCESS_REMOTE_READ | FERRY_ACCESS_REMOTE_WRITE;

    if (d->size != stride || d->size < DESC_SIZE_1_0 || !d->addr || !d->len ||
        d->access & ~known || d->len - 1 > UINTPTR_MAX - (uintptr_t)d->addr)
        return FERRY_EINVAL;
    return d->kind == FERRY_MEM_HOST ? FERRY_OK : FERRY_ENOTSUP;
}

static struct ferry_mr *make_mr(struct ferry_tp *tp, const struct ferry_mem_desc *d)
{
    struct ferry_mr *mr = calloc(1, sizeof(*mr));

    if (!mr)
        return NULL;
    *mr = (struct ferry_mr){.addr = d->addr, .len = d->len, .access = d->access, .fd = -1};
    if (d->size >= DESC_SIZE_1_1 && d->flags & FERRY_MEM_MEMFD &&
        tp->config.mode != SHM_MODE_CMA) {
        mr->fd = fcntl(d->memfd, F_DUPFD_CLOEXEC, 3);
        mr->fd_off = d->memfd_off;
        if (mr->fd < 0)
            FT_LOG(tp->host, FERRY_LOG_WARN, "%p: no descriptor for its memory: %s", d->addr,
                   strerror(errno));
    }
    return mr;
}

ferry_status shm_mem_reg(struct ferry_tp *tp, const struct ferry_mem_desc *desc, size_t n,
                         struct ferry_mr **mr_out)
{
    const uint32_t stride = n ? desc->size : 0;
    struct ferry_mr **mr;

    for (size_t i = 0; i < n; i++) {
        ferry_status status =
            check_desc((const void *)((const char *)desc + i * stride), stride);
        if (status)
            return status;
    }
    mr = calloc(n ? n : 1, sizeof(struct ferry_mr *));
    for (size_t i = 0; mr && i < n; i++) {
        mr[i] = make_mr(tp, (const void *)((const char *)desc + i * stride));
        if (mr[i])
            continue;
        while (i > 0) {
            if (mr[--i]->fd >= 0)
                close(mr[i]->fd);
            free(mr[i]);
        }
        free(mr);
        mr = NULL;
    }
    if (!mr)
        return FERRY_ENOMEM;
    pthread_mutex_lock(&tp->lock);
    for (size_t i = 0; i < n; i++) {
        mr[i]->next = tp->mrs;
        mr[i]->link = &tp->mrs;
        if (mr[i]->next)
            mr[i]->next->link = &mr[i]->next;
        tp->mrs = mr[i];
    }
    pthread_mutex_unlock(&tp->lock);
    memcpy(mr_out, mr, n * sizeof(struct ferry_mr *));
    free(mr);
    return FERRY_OK;
}

void shm_mem_dereg(struct ferry_tp *tp, struct ferry_mr *const *mr, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        shm_revoke(tp, mr[i]);
        if (mr[i]->fd >= 0)
            close(mr[i]->fd);
        free(mr[i]);
    }
}

/* The peer asks us over the socket: nothing that is published would be believed. */
ferry_status shm_export_mem(struct ferry_mr *mr, struct ferry_kv_sink *out)
{
    return FERRY_OK;
}

void shm_strerror_vendor(struct ferry_tp *tp, int32_t vendor_err, char *buf, size_t len)
{
    if (len)
        snprintf(buf, len, "%s", vendor_err ? strerror(vendor_err) : "");
}
