/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host that the suite gives to plugins in place of the core: a table of regions, a log that
 * remembers its last lines, calls to the peer's on_call, memory for staging. Also watches that
 * queue calls use only what they may.
 */
#include "suite.h"

#include <stdarg.h>
#include <stdlib.h>

_Thread_local bool fc_in_queue_call;
_Thread_local unsigned fc_allocations;
bool fc_allocations_watched;

const char *fc_status(ferry_status status)
{
    static const struct {
        ferry_status status;
        const char *name;
    } names[] = {
        {FERRY_OK, "FERRY_OK"},
        {FERRY_EAGAIN, "FERRY_EAGAIN"},
        {FERRY_EINVAL, "FERRY_EINVAL"},
        {FERRY_ENOMEM, "FERRY_ENOMEM"},
        {FERRY_ENOTSUP, "FERRY_ENOTSUP"},
        {FERRY_ENOENT, "FERRY_ENOENT"},
        {FERRY_EEXIST, "FERRY_EEXIST"},
        {FERRY_ERANGE, "FERRY_ERANGE"},
        {FERRY_EABI, "FERRY_EABI"},
        {FERRY_ECONFLICT, "FERRY_ECONFLICT"},
        {FERRY_ECANCELED, "FERRY_ECANCELED"},
        {FERRY_EACCESS, "FERRY_EACCESS"},
        {FERRY_EIO, "FERRY_EIO"},
        {FERRY_EUNREACH, "FERRY_EUNREACH"},
        {FERRY_ECONNRESET, "FERRY_ECONNRESET"},
        {FERRY_ESTALE, "FERRY_ESTALE"},
        {FERRY_ETIMEDOUT, "FERRY_ETIMEDOUT"},
        {FERRY_EDEVICE, "FERRY_EDEVICE"},
        {FERRY_EINTERNAL, "FERRY_EINTERNAL"},
    };
    static _Thread_local char other[32];
    for (size_t i = 0; i < FC_COUNT(names); i++)
        if (names[i].status == status)
            return names[i].name;
    snprintf(other, sizeof(other), "status %d", (int)status);
    return other;
}

static ferry_status kvs_put(struct ferry_kv_sink *sink, const struct ferry_kv *kv)
{
    struct fc_kvs *kvs = (struct fc_kvs *)sink;
    if (kvs->n == FC_COUNT(kvs->v))
        return FERRY_ENOMEM;
    char *val = malloc(kv->val_len + 1);
    if (!val)
        return FERRY_ENOMEM;
    memcpy(val, kv->val, kv->val_len);
    val[kv->val_len] = '\0';
    kvs->v[kvs->n++] = (struct ferry_kv){
        .key = strdup(kv->key), .val = val, .val_len = kv->val_len, .flags = kv->flags};
    return FERRY_OK;
}

void fc_kvs_init(struct fc_kvs *kvs)
{
    *kvs = (struct fc_kvs){.sink.put = kvs_put};
}

void fc_kvs_clear(struct fc_kvs *kvs)
{
    for (size_t i = 0; i < kvs->n; i++) {
        free((void *)(uintptr_t)kvs->v[i].key);
        free((void *)(uintptr_t)kvs->v[i].val);
    }
    fc_kvs_init(kvs);
}

static ferry_status bytes_append(struct ferry_buf_sink *sink, const void *data, size_t len)
{
    struct fc_bytes *bytes = (struct fc_bytes *)sink;
    if (len > sizeof(bytes->data) - bytes->len)
        return FERRY_ENOMEM;
    memcpy(bytes->data + bytes->len, data, len);
    bytes->len += len;
    return FERRY_OK;
}

void fc_bytes_init(struct fc_bytes *bytes)
{
    bytes->sink.append = bytes_append;
    bytes->len = 0;
}

static struct fc_node *node_of(const struct ferry_host *host)
{
    return (struct fc_node *)(uintptr_t)host;
}

static void not_in_queue_call(struct fc_node *node, const char *member)
{
    if (fc_in_queue_call)
        fc_fail(node->ctx, "queue calls to use only log, region_get and region_put of the host",
                "host->%s called from a queue call", member);
}

static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;

static void __attribute__((format(printf, 5, 6)))
host_log(const struct ferry_host *host, enum ferry_log_level level, const char *file, int line,
         const char *fmt, ...)
{
    static const char *const names[] = {"error", "warn", "info", "debug", "trace"};
    struct fc_node *node = node_of(host);
    struct fc_shared *shared = node->ctx->shared;
    const size_t room = sizeof(shared->log[0]);
    unsigned at;
    char *row;
    int n;
    va_list ap;

    pthread_mutex_lock(&log_lock); /* threads come round to the same row */
    at = atomic_fetch_add(&shared->log_at, 1);
    row = shared->log[at % FC_COUNT(shared->log)];
    n = snprintf(row, room, "%s %s: ", node->name, names[(unsigned)level % 5]);
    va_start(ap, fmt);
    vsnprintf(row + n, room - (size_t)n, fmt, ap);
    va_end(ap);
    if (node->ctx->opt->verbose)
        fprintf(stderr, "    [%s] (%s:%d)\n", row, file, line);
    pthread_mutex_unlock(&log_lock);
}

static ferry_status host_region_get(const struct ferry_host *host, uint64_t addr, uint64_t len,
                                    uint32_t access, struct ferry_region *region_out)
{
    struct fc_node *node = node_of(host);
    const unsigned n = atomic_load_explicit(&node->n_regions, memory_order_acquire);
    for (unsigned i = 0; i < n; i++) { /* pairs with region_add */
        struct fc_host_region *r = &node->regions[i];
        if (!atomic_load(&r->live))
            continue;
        if (addr < r->addr || addr - r->addr > r->len || len > r->len - (addr - r->addr))
            continue;
        if ((r->access & access) != access)
            return FERRY_EACCESS;
        atomic_fetch_add(&r->holds, 1);
        if (!atomic_load(&r->live)) {
            atomic_fetch_sub(&r->holds, 1);
            continue;
        }
        *region_out = (struct ferry_region){.opaque = r, .kind = r->kind, .device = -1};
        return FERRY_OK;
    }
    return FERRY_ERANGE;
}

static void host_region_put(const struct ferry_host *host, struct ferry_region *region)
{
    struct fc_host_region *r = region->opaque;
    if (atomic_fetch_sub(&r->holds, 1) == 0)
        fc_fail(node_of(host)->ctx, "one region_put for each region_get",
                "region_put of a region that nobody holds");
}

static ferry_status host_region_write(const struct ferry_host *host,
                                      struct ferry_region *region, uint64_t addr,
                                      const void *src, size_t len)
{
    not_in_queue_call(node_of(host), "region_write");
    memcpy((void *)(uintptr_t)addr, src, len);
    return FERRY_OK;
}

static ferry_status host_region_read(const struct ferry_host *host, struct ferry_region *region,
                                     uint64_t addr, void *dst, size_t len)
{
    not_in_queue_call(node_of(host), "region_read");
    memcpy(dst, (void *)(uintptr_t)addr, len);
    return FERRY_OK;
}

static ferry_status host_stage_alloc(const struct ferry_host *host, size_t len, void **mem_out)
{
    not_in_queue_call(node_of(host), "stage_alloc");
    void *mem = NULL;
    if (posix_memalign(&mem, 4096, len ? len : 1))
        return FERRY_ENOMEM;
    *mem_out = mem;
    return FERRY_OK;
}

static void host_stage_free(const struct ferry_host *host, void *mem)
{
    not_in_queue_call(node_of(host), "stage_free");
    free(mem);
}

/* In the target's process the one peer is the initiator, at the other end of `back`. */
static ferry_status host_peer_call(const struct ferry_host *host, const char *peer_name,
                                   const void *req, size_t req_len, uint32_t timeout_ms,
                                   struct ferry_buf_sink *reply)
{
    struct fc_node *node = node_of(host);
    struct fc_ctx *ctx = node->ctx;
    not_in_queue_call(node, "peer_call");
    if (node->is_target) {
        if (strcmp(peer_name, ctx->self.name) != 0)
            return FERRY_ENOENT;
        if (!ctx->two)
            return ctx->ops.on_call(ctx->self.tp, node->name, req, req_len, reply);
        return fc_target_call(&ctx->up, node->name, req, req_len, timeout_ms, reply);
    }
    for (unsigned i = ctx->n_targets; i-- > 0;) {
        struct fc_target *t = &ctx->target[i];
        if (strcmp(peer_name, t->node->name) != 0 ||
            (ctx->two ? !t->back_running : !t->node->tp))
            continue;
        if (!ctx->two)
            return ctx->ops.on_call(t->node->tp, node->name, req, req_len, reply);
        return fc_target_call(t, node->name, req, req_len, timeout_ms, reply);
    }
    return FERRY_ENOENT;
}

void fc_node_init(struct fc_node *node, struct fc_ctx *ctx, const char *name)
{
    memset(node, 0, sizeof(*node));
    node->ctx = ctx;
    node->log_level = ctx->opt->verbose ? FERRY_LOG_TRACE : FERRY_LOG_INFO;
    snprintf(node->name, sizeof(node->name), "%s", name);
    node->host = (struct ferry_host){
        .size = sizeof(node->host),
        .abi_major = FERRY_TRANSPORT_ABI_MAJOR,
        .abi_minor = FERRY_TRANSPORT_ABI_MINOR,
        .log_level = &node->log_level,
        .log = host_log,
        .peer_call = host_peer_call,
        .region_get = host_region_get,
        .region_put = host_region_put,
        .region_write = host_region_write,
        .region_read = host_region_read,
        .stage_alloc = host_stage_alloc,
        .stage_free = host_stage_free,
    };
}

struct fc_host_region *fc_region_add(struct fc_node *node, uint64_t addr, uint64_t len,
                                     uint32_t access, uint32_t kind)
{
    unsigned i = atomic_load(&node->n_regions);
    if (i == FC_MAX_REGIONS)
        return NULL;
    struct fc_host_region *r = &node->regions[i];
    r->addr = addr;
    r->len = len;
    r->access = access;
    r->kind = kind;
    atomic_store(&r->live, 1);
    atomic_store_explicit(&node->n_regions, i + 1, memory_order_release); /* with region_get */
    return r;
}

bool fc_region_remove(struct fc_host_region *region)
{
    atomic_store(&region->live, 0);
    uint64_t end = fc_now_ms() + FC_WAIT_MS;
    while (atomic_load(&region->holds)) {
        if (fc_now_ms() > end)
            return false;
        fc_sleep_ms(1);
    }
    return true;
}

unsigned fc_regions_held(const struct fc_node *node)
{
    unsigned held = 0;
    for (size_t i = 0; i < FC_MAX_REGIONS; i++)
        held += atomic_load(&node->regions[i].holds);
    return held;
}
