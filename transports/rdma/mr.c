/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory: registered on every device, in pieces where a device limits their size, by several
 * threads where it is much. Knows nothing of peers but the keys they are told.
 */
#include "rdma.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include <cJSON.h>

#define PARALLEL_FROM                                                                          \
    (UINT64_C(256) << 20) /* bytes: below, a thread costs more than it saves */
#define MAX_THREADS 8u

#define DESC_SIZE_1_0 (offsetof(struct ferry_mem_desc, reserved) + sizeof(uint32_t))

struct piece {
    const struct ferry_mem_desc *desc;
    struct ferry_mr *mr;
    uint32_t device, chunk;
    int error; /* errno */
};

struct work {
    struct ferry_tp *tp;
    struct piece *pieces;
    uint32_t n;
    atomic_uint next;
    atomic_bool failed;
};

/*
 * Relaxed ordering lets writes into our memory pass each other. A completion of ours comes
 * after them all the same, so it is safe for what we READ and for what peers may only read;
 * where a peer may WRITE, it learns of its completion before the last byte must be visible
 * here.
 */
static bool relaxed(const struct ferry_tp *tp, uint32_t access)
{
    if (!tp->ibv->reg_mr_iova2 || tp->config.relaxed_ordering == 0)
        return false;
    return tp->config.relaxed_ordering == 2 || !(access & FERRY_ACCESS_REMOTE_WRITE);
}

static struct ibv_mr *register_piece(struct ferry_tp *tp, const struct piece *piece)
{
    const struct ferry_mr *mr = piece->mr;
    struct ibv_pd *pd = tp->device[piece->device].pd;
    uint64_t off = (uint64_t)piece->chunk * mr->chunk_len;
    uint64_t len = mr->len - off < mr->chunk_len ? mr->len - off : mr->chunk_len;
    uint8_t *addr = mr->addr + off;
    int access = 0;

    if (mr->access & (FERRY_ACCESS_LOCAL_WRITE | FERRY_ACCESS_REMOTE_WRITE))
        access |= IBV_ACCESS_LOCAL_WRITE; /* verbs demand it beside remote write */
    if (mr->access & FERRY_ACCESS_REMOTE_READ)
        access |= IBV_ACCESS_REMOTE_READ;
    if (mr->access & FERRY_ACCESS_REMOTE_WRITE)
        access |= IBV_ACCESS_REMOTE_WRITE;
    if (piece->desc->dmabuf_fd >= 0 && mr->kind != FERRY_MEM_HOST && tp->ibv->reg_dmabuf_mr)
        return tp->ibv->reg_dmabuf_mr(pd, piece->desc->dmabuf_off + off, len, (uintptr_t)addr,
                                      piece->desc->dmabuf_fd, access);
    if (relaxed(tp, mr->access))
        return tp->ibv->reg_mr_iova2(pd, addr, len, (uintptr_t)addr,
                                     (unsigned)access | IBV_ACCESS_RELAXED_ORDERING);
    return tp->ibv->reg_mr(pd, addr, len, access);
}

static void *register_pieces(void *arg)
{
    struct work *work = arg;

    for (;;) {
        unsigned i = atomic_fetch_add_explicit(&work->next, 1, memory_order_relaxed);
        if (i >= work->n || atomic_load_explicit(&work->failed, memory_order_relaxed))
            return NULL;
        struct piece *piece = &work->pieces[i];
        struct ibv_mr *mr = register_piece(work->tp, piece);
        if (mr) {
            piece->mr->mr[(size_t)piece->device * piece->mr->n_chunks + piece->chunk] = mr;
        } else {
            piece->error = errno ? errno : EIO;
            atomic_store_explicit(&work->failed, true, memory_order_relaxed);
        }
    }
}

static void run(struct work *work, uint64_t bytes)
{
    pthread_t thread[MAX_THREADS];
    sigset_t all, old;
    uint32_t n = 0;

    sigfillset(&all); /* signals are the application's, in its own threads */
    pthread_sigmask(SIG_SETMASK, &all, &old);
    if (bytes >= PARALLEL_FROM)
        while (n < MAX_THREADS - 1 && n + 1 < work->n) {
            if (pthread_create(&thread[n], NULL, register_pieces, work) != 0)
                break;
            n++;
        }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    register_pieces(work);
    while (n)
        pthread_join(thread[--n], NULL);
}

static void tell_failure(struct ferry_tp *tp, const struct piece *piece)
{
    const struct rdma_device *device = &tp->device[piece->device];
    const struct ferry_mr *mr = piece->mr;
    struct rlimit limit = {0};
    char hint[256] = "";

    getrlimit(RLIMIT_MEMLOCK, &limit);
    if (piece->error == ENOMEM && limit.rlim_cur != RLIM_INFINITY)
        snprintf(hint, sizeof(hint),
                 "; the limit of locked memory is %llu KiB: raise it (ulimit -l unlimited, "
                 "LimitMEMLOCK=infinity, docker --ulimit memlock=-1)",
                 (unsigned long long)(limit.rlim_cur / 1024));
    else if (piece->error == EFAULT && mr->kind != FERRY_MEM_HOST)
        snprintf(hint, sizeof(hint),
                 "; accelerator memory needs a dma-buf or the peer memory module");
    else if (piece->error == EFAULT)
        snprintf(hint, sizeof(hint),
                 "; not all of it is mapped, or it is read-only memory that "
                 "was to be registered for writing");
    else if (mr->len > device->max_mr_len || piece->error == EINVAL || piece->error == EAGAIN)
        snprintf(hint, sizeof(hint), "; the device takes %llu bytes a region",
                 (unsigned long long)device->max_mr_len);
    FT_LOG(tp->host, FERRY_LOG_ERROR, "device %s: registering %llu bytes at %p: %s%s",
           device->name, (unsigned long long)mr->len, (void *)mr->addr, strerror(piece->error),
           hint);
}

static void free_mr(struct ferry_mr *mr)
{
    if (!mr)
        return;
    for (size_t i = 0; mr->mr && i < (size_t)mr->tp->n_devices * mr->n_chunks; i++)
        if (mr->mr[i] && mr->tp->ibv->dereg_mr(mr->mr[i]) != 0)
            FT_LOG(mr->tp->host, FERRY_LOG_ERROR, "unregistering memory at %p: %s",
                   (void *)mr->addr, strerror(errno));
    free(mr->mr);
    free(mr);
}

static struct ferry_mr *new_mr(struct ferry_tp *tp, const struct ferry_mem_desc *desc)
{
    struct ferry_mr *mr = calloc(1, sizeof(*mr));

    if (!mr)
        return NULL;
    mr->tp = tp;
    mr->addr = desc->addr;
    mr->len = desc->len;
    mr->access = desc->access;
    mr->kind = desc->kind;
    mr->numa_node = desc->kind == FERRY_MEM_HOST ? desc->device : -1;
    mr->chunk_len = UINT64_MAX;
    for (uint32_t i = 0; i < tp->n_devices; i++)
        if (tp->device[i].max_mr_len < mr->chunk_len)
            mr->chunk_len = tp->device[i].max_mr_len;
    mr->n_chunks = (uint32_t)((mr->len - 1) / mr->chunk_len + 1);
    mr->mr = calloc((size_t)tp->n_devices * mr->n_chunks, sizeof(struct ibv_mr *));
    if (!mr->mr) {
        free(mr);
        return NULL;
    }
    return mr;
}

static ferry_status check(struct ferry_tp *tp, const struct ferry_mem_desc *desc)
{
    struct ferry_tp_caps caps = {.size = sizeof(caps)};

    if (desc->size < DESC_SIZE_1_0 || !desc->addr || desc->len == 0 ||
        desc->len - 1 > UINT64_MAX - (uintptr_t)desc->addr)
        return FERRY_EINVAL;
    rdma_query(tp, &caps);
    if (desc->kind > FERRY_MEM_FILE || !(caps.local_mem & FERRY_MEM_BIT(desc->kind)))
        return FERRY_ENOTSUP;
    return FERRY_OK;
}

ferry_status rdma_mem_reg(struct ferry_tp *tp, const struct ferry_mem_desc *desc, size_t n,
                          struct ferry_mr **mr_out)
{
    struct work work = {.tp = tp};
    struct ferry_mr **mrs = calloc(n ? n : 1, sizeof(*mrs));
    const char *at = (const char *)desc; /* those of a newer core are larger */
    size_t stride = n ? desc->size : 0;
    ferry_status status = mrs ? FERRY_OK : FERRY_ENOMEM;
    uint64_t bytes = 0;

    for (size_t i = 0; status == FERRY_OK && i < n; i++) {
        const struct ferry_mem_desc *one = (const void *)(at + i * stride);
        status = check(tp, one);
        if (status == FERRY_OK && !(mrs[i] = new_mr(tp, one)))
            status = FERRY_ENOMEM;
        if (status == FERRY_OK) {
            work.n += tp->n_devices * mrs[i]->n_chunks;
            bytes += one->len;
        }
    }
    if (status == FERRY_OK &&
        !(work.pieces = calloc(work.n ? work.n : 1, sizeof(*work.pieces))))
        status = FERRY_ENOMEM;
    if (status == FERRY_OK) {
        uint32_t k = 0;
        for (size_t i = 0; i < n; i++)
            for (uint32_t d = 0; d < tp->n_devices; d++)
                for (uint32_t c = 0; c < mrs[i]->n_chunks; c++)
                    work.pieces[k++] =
                        (struct piece){(const void *)(at + i * stride), mrs[i], d, c, 0};
        run(&work, bytes);
        for (k = 0; k < work.n && status == FERRY_OK; k++) {
            if (work.pieces[k].error == 0)
                continue;
            tell_failure(tp, &work.pieces[k]);
            status = work.pieces[k].error == ENOMEM ? FERRY_ENOMEM : FERRY_EINVAL;
        }
    }
    for (size_t i = 0; mrs && i < n; i++) {
        if (status == FERRY_OK)
            mr_out[i] = mrs[i];
        else
            free_mr(mrs[i]);
    }
    free(work.pieces);
    free(mrs);
    return status;
}

void rdma_mem_dereg(struct ferry_tp *tp, struct ferry_mr *const *mr, size_t n)
{
    for (size_t i = 0; i < n; i++)
        free_mr(mr[i]);
}

static bool put_json(struct ferry_kv_sink *out, const char *key, cJSON *value,
                     ferry_status *status)
{
    char *text = value ? cJSON_PrintUnformatted(value) : NULL;
    struct ferry_kv kv = {.key = key, .val = text, .flags = FERRY_KV_JSON};

    cJSON_Delete(value);
    if (!text) {
        *status = FERRY_ENOMEM;
        return false;
    }
    kv.val_len = (uint32_t)strlen(text);
    *status = out->put(out, &kv);
    free(text);
    return *status == FERRY_OK;
}

static cJSON *keys_of(const struct ferry_mr *mr, uint32_t chunk)
{
    cJSON *row = cJSON_CreateArray();

    for (uint32_t d = 0; row && d < mr->tp->n_devices; d++) {
        const struct ibv_mr *v = mr->mr[(size_t)d * mr->n_chunks + chunk];
        cJSON *n = cJSON_CreateNumber(v->rkey);
        if (!n || !cJSON_AddItemToArray(row, n)) {
            cJSON_Delete(n);
            cJSON_Delete(row);
            return NULL;
        }
    }
    return row;
}

/* What may only be used from here has no keys to tell. lkeys are of no use to anyone else, but
 * Mooncake counts them: ours are the rkeys again. */
ferry_status rdma_export_mem(struct ferry_mr *mr, struct ferry_kv_sink *out)
{
    ferry_status status = FERRY_OK;
    cJSON *ours, *rows;

    if (!(mr->access & (FERRY_ACCESS_REMOTE_READ | FERRY_ACCESS_REMOTE_WRITE)))
        return FERRY_OK;
    if (!put_json(out, "rkey", keys_of(mr, 0), &status) ||
        !put_json(out, "lkey", keys_of(mr, 0), &status) || mr->n_chunks == 1)
        return status;
    ours = cJSON_CreateObject();
    rows = cJSON_AddArrayToObject(ours, "rkeys");
    cJSON_AddNumberToObject(ours, "chunk", (double)mr->chunk_len);
    for (uint32_t c = 0; rows && c < mr->n_chunks; c++) {
        cJSON *row = keys_of(mr, c);
        if (!row || !cJSON_AddItemToArray(rows, row)) {
            cJSON_Delete(row);
            cJSON_Delete(ours);
            return FERRY_ENOMEM;
        }
    }
    put_json(out, "ferry_rdma", ours, &status);
    return status;
}
