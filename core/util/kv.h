/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FY_KV_H
#define FY_KV_H

#include "ferry/plugin.h"

/* Keys and values that are ours. `sink` first, so that a plugin can put into it; a key put
 * again replaces the value. `kvs` is what is passed to plugins. One thread at a time while it
 * is filled; read by any number after that. A NUL follows every value. */
struct fy_kv {
    struct ferry_kv_sink sink;
    struct ferry_kvs kvs;
    size_t cap;
};

void fy_kv_init(struct fy_kv *kv);
void fy_kv_fini(struct fy_kv *kv);
ferry_status fy_kv_put(struct fy_kv *kv, const char *key, const void *val, size_t len,
                       uint32_t flags);
ferry_status fy_kv_put_text(struct fy_kv *kv, const char *key, const char *text);
const struct ferry_kv *fy_kv_get(const struct ferry_kvs *kvs,
                                 const char *key); /* NULL: not there */
const char *fy_kv_text(const struct ferry_kvs *kvs, const char *key, const char *otherwise);

#endif /* FY_KV_H */
