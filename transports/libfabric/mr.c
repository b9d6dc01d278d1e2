/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory: registered with every device, with the rights it was given and no others. Knows
 * nothing of peers but the keys they are told.
 */
#include "fab.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define DESC_SIZE_1_0 (offsetof(struct ferry_mem_desc, reserved) + sizeof(uint32_t))
#define RIGHTS        (FERRY_ACCESS_LOCAL_WRITE | FERRY_ACCESS_REMOTE_READ | FERRY_ACCESS_REMOTE_WRITE)

ferry_status fab_mr_open(struct fab_device *device, void *addr, uint64_t len, uint64_t access,
                         struct fid_mr **mr_out)
{
    size_t key_size = device->info->domain_attr->mr_key_size;
    int rc = -FI_ENOKEY;

    /* A key of our own is a random one: it cannot be guessed, and comes back for no other
     * region. */
    for (int tries = 0; tries < 16 && rc == -FI_ENOKEY; tries++) {
        uint64_t key = 0;
        if (!(device->mr_mode & FI_MR_PROV_KEY)) {
            if (getrandom(&key, sizeof(key), 0) != (ssize_t)sizeof(key))
                return FERRY_EINTERNAL;
            if (key_size < 8)
                key &= (UINT64_C(1) << (8 * key_size)) - 1;
            if (key == UINT64_MAX)
                continue; /* FI_KEY_NOTAVAIL */
        }
        rc = fi_mr_reg(device->domain, addr, len, access, 0, key, 0, mr_out, NULL);
    }
    return fab_status(rc);
}

static void free_mr(struct ferry_mr *mr)
{
    if (!mr)
        return;
    for (uint32_t d = 0; d < mr->tp->n_devices; d++)
        if (mr->mr[d])
            fi_close(&mr->mr[d]->fid);
    free(mr);
}

static ferry_status new_mr(struct ferry_tp *tp, const struct ferry_mem_desc *desc,
                           struct ferry_mr **mr_out)
{
    struct ferry_mr *mr = calloc(1, sizeof(*mr));
    const bool remote = desc->access & (FERRY_ACCESS_REMOTE_READ | FERRY_ACCESS_REMOTE_WRITE);
    uint64_t access = FI_WRITE | FI_READ;

    if (!mr)
        return FERRY_ENOMEM;
    mr->tp = tp;
    mr->addr = desc->addr;
    mr->len = desc->len;
    mr->access = desc->access;
    if (desc->access & FERRY_ACCESS_REMOTE_READ)
        access |= FI_REMOTE_READ;
    if (desc->access & FERRY_ACCESS_REMOTE_WRITE)
        access |= FI_REMOTE_WRITE;
    for (uint32_t d = 0; d < tp->n_devices; d++) {
        struct fab_device *device = &tp->device[d];
        ferry_status status;
        if (!remote && !(device->mr_mode & FI_MR_LOCAL))
            continue;
        status = fab_mr_open(device, mr->addr, mr->len, access, &mr->mr[d]);
        if (status != FERRY_OK) {
            FT_LOG(tp->host, FERRY_LOG_ERROR, "%s: %llu bytes are not registered on %s%s",
                   tp->provider, (unsigned long long)mr->len, device->name,
                   status == FERRY_ENOMEM ? " (is the limit of locked memory too low)" : "");
            free_mr(mr);
            return status == FERRY_ENOMEM ? FERRY_ENOMEM : FERRY_EINVAL;
        }
        mr->desc[d] = device->mr_mode & FI_MR_LOCAL ? fi_mr_desc(mr->mr[d]) : NULL;
        mr->key[d] = fi_mr_key(mr->mr[d]);
    }
    *mr_out = mr;
    return FERRY_OK;
}

ferry_status fab_mem_reg(struct ferry_tp *tp, const struct ferry_mem_desc *desc, size_t n,
                         struct ferry_mr **mr_out)
{
    const char *at = (const char *)desc;
    const size_t stride = n ? desc->size : 0;
    struct ferry_mr **mrs = calloc(n ? n : 1, sizeof(struct ferry_mr *));
    ferry_status status = mrs ? FERRY_OK : FERRY_ENOMEM;

    for (size_t i = 0; i < n && status == FERRY_OK; i++) {
        const struct ferry_mem_desc *one = (const void *)(at + i * stride);
        if (one->size != stride || one->size < DESC_SIZE_1_0 || !one->addr || !one->len ||
            one->access & ~RIGHTS || one->len - 1 > UINTPTR_MAX - (uintptr_t)one->addr)
            status = FERRY_EINVAL;
        else if (one->kind != FERRY_MEM_HOST)
            status = FERRY_ENOTSUP;
        else
            status = new_mr(tp, one, &mrs[i]);
    }
    for (size_t i = 0; mrs && i < n; i++) {
        if (status != FERRY_OK) {
            free_mr(mrs[i]);
            continue;
        }
        pthread_mutex_lock(&tp->lock);
        mrs[i]->next = tp->mrs;
        mrs[i]->at = &tp->mrs;
        if (tp->mrs)
            tp->mrs->at = &mrs[i]->next;
        tp->mrs = mrs[i];
        pthread_mutex_unlock(&tp->lock);
        mr_out[i] = mrs[i];
    }
    free(mrs);
    return status;
}

void fab_mem_dereg(struct ferry_tp *tp, struct ferry_mr *const *mr, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        pthread_mutex_lock(&tp->lock);
        *mr[i]->at = mr[i]->next;
        if (mr[i]->next)
            mr[i]->next->at = mr[i]->at;
        pthread_mutex_unlock(&tp->lock);
        free_mr(mr[i]);
    }
}

ferry_status fab_export_mem(struct ferry_mr *mr, struct ferry_kv_sink *out)
{
    struct fab_keys keys = {
        .base = (uintptr_t)mr->addr, .len = mr->len, .n = mr->tp->n_devices};

    keys.access = mr->access & (FERRY_ACCESS_REMOTE_READ | FERRY_ACCESS_REMOTE_WRITE);
    if (!keys.access)
        return FERRY_OK;
    for (uint32_t d = 0; d < keys.n; d++) {
        keys.key[d] = mr->key[d];
        keys.addr[d] = mr->tp->device[d].mr_mode & FI_MR_VIRT_ADDR ? keys.base : 0;
    }
    return fab_put_json(out, fab_keys_encode(&keys));
}

ferry_status fab_mr_check(struct ferry_tp *tp, uint32_t device, const struct fab_check *check)
{
    ferry_status status = FERRY_EACCESS;

    pthread_mutex_lock(&tp->lock);
    for (struct ferry_mr *mr = tp->mrs; mr; mr = mr->next)
        if (mr->mr[device] && mr->key[device] == check->key &&
            (uintptr_t)mr->addr == check->base && (mr->access & check->access) == check->access)
            status = FERRY_OK;
    pthread_mutex_unlock(&tp->lock);
    return status;
}
