/* SPDX-License-Identifier: Apache-2.0 */
/* Owned key-value lists, usable as a plugin's ferry_kv_sink. Short lists: looked up one by one.
 */
#include "util/kv.h"

#include <stdlib.h>
#include <string.h>

static ferry_status sink_put(struct ferry_kv_sink *sink, const struct ferry_kv *kv)
{
    if (!kv || !kv->key || (kv->val_len && !kv->val))
        return FERRY_EINVAL;
    return fy_kv_put((struct fy_kv *)sink, kv->key, kv->val, kv->val_len, kv->flags);
}

void fy_kv_init(struct fy_kv *kv)
{
    *kv = (struct fy_kv){.sink = {sink_put}};
}

static struct ferry_kv *items(struct fy_kv *kv)
{
    return (struct ferry_kv *)kv->kvs.v;
}

void fy_kv_fini(struct fy_kv *kv)
{
    for (size_t i = 0; i < kv->kvs.n; i++) {
        free((char *)kv->kvs.v[i].key);
        free((void *)kv->kvs.v[i].val);
    }
    free(items(kv));
    fy_kv_init(kv);
}

static struct ferry_kv *slot_for(struct fy_kv *kv, const char *key)
{
    for (size_t i = 0; i < kv->kvs.n; i++) {
        if (!strcmp(kv->kvs.v[i].key, key))
            return &items(kv)[i];
    }
    if (kv->kvs.n == kv->cap) {
        size_t cap = kv->cap ? kv->cap * 2 : 4;
        struct ferry_kv *v = realloc(items(kv), cap * sizeof(*v));

        if (!v)
            return NULL;
        kv->kvs.v = v;
        kv->cap = cap;
    }
    items(kv)[kv->kvs.n] = (struct ferry_kv){0};
    return &items(kv)[kv->kvs.n];
}

ferry_status fy_kv_put(struct fy_kv *kv, const char *key, const void *val, size_t len,
                       uint32_t flags)
{
    struct ferry_kv *slot;
    char *copy;

    if (len > UINT32_MAX)
        return FERRY_ERANGE;
    copy = malloc(len + 1);
    slot = copy ? slot_for(kv, key) : NULL;
    if (slot && !slot->key) {
        slot->key = strdup(key);
        if (slot->key)
            kv->kvs.n++;
    }
    if (!slot || !slot->key) {
        free(copy);
        return FERRY_ENOMEM;
    }
    if (len)
        memcpy(copy, val, len);
    copy[len] = '\0';
    free((void *)slot->val);
    slot->val = copy;
    slot->val_len = (uint32_t)len;
    slot->flags = flags;
    return FERRY_OK;
}

ferry_status fy_kv_put_text(struct fy_kv *kv, const char *key, const char *text)
{
    return fy_kv_put(kv, key, text, strlen(text), FERRY_KV_TEXT);
}

const struct ferry_kv *fy_kv_get(const struct ferry_kvs *kvs, const char *key)
{
    for (size_t i = 0; kvs && i < kvs->n; i++) {
        if (!strcmp(kvs->v[i].key, key))
            return &kvs->v[i];
    }
    return NULL;
}

const char *fy_kv_text(const struct ferry_kvs *kvs, const char *key, const char *otherwise)
{
    const struct ferry_kv *kv = fy_kv_get(kvs, key);

    return kv ? kv->val : otherwise;
}
