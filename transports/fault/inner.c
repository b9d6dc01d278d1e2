/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Loads the wrapped transport by the rules of the core's loader: the descriptor is checked
 * before any code runs, the table is copied and its holes are filled.
 */
#include "fault.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

static ferry_status no_on_call(struct ferry_tp *tp, const char *peer_name, const void *req,
                               size_t req_len, struct ferry_buf_sink *reply)
{
    return FERRY_ENOTSUP;
}

static ferry_status no_cancel(struct ferry_queue *queue, uint64_t cookie)
{
    return FERRY_ENOTSUP;
}

static ferry_status no_queue_fd(struct ferry_queue *queue, int *fd_out)
{
    return FERRY_ENOTSUP;
}

static ferry_status no_queue_arm(struct ferry_queue *queue)
{
    return FERRY_ENOTSUP;
}

/* A name becomes the path of its file beside this plugin's own. */
static bool find(const struct ferry_kv *kv, char *path, size_t room)
{
    static const char here;
    const char *name = kv->val;
    if (kv->val_len == 0 || memchr(name, '\0', kv->val_len))
        return false;
    if (name[0] == '/')
        return (size_t)snprintf(path, room, "%.*s", (int)kv->val_len, name) < room;
    if (memchr(name, '/', kv->val_len))
        return false;
    Dl_info info;
    if (!dladdr(&here, &info) || !info.dli_fname)
        return false;
    const char *slash = strrchr(info.dli_fname, '/');
    int dir_len = slash ? (int)(slash - info.dli_fname) : 1;
    return (size_t)snprintf(path, room, "%.*s/ferry_transport_%.*s.so", dir_len,
                            slash ? info.dli_fname : ".", (int)kv->val_len, name) < room;
}

ferry_status fault_load(const struct ferry_host *host, const struct ferry_kv *kv,
                        struct ferry_transport_ops *ops_out)
{
    char path[1024];
    if (!find(kv, path, sizeof(path))) {
        FAULT_LOG(host, FERRY_LOG_ERROR,
                  "fault: inner \"%.*s\" is neither a transport's name nor an absolute path",
                  (int)kv->val_len, (const char *)kv->val);
        return FERRY_EINVAL;
    }
    void *file = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (!file) {
        FAULT_LOG(host, FERRY_LOG_ERROR, "fault: %s", dlerror());
        return FERRY_ENOENT;
    }
    const struct ferry_transport_plugin *p = dlsym(file, FERRY_TRANSPORT_SYMBOL);
    if (!p || p->hdr.magic != FERRY_PLUGIN_MAGIC ||
        p->hdr.abi_major != FERRY_TRANSPORT_ABI_MAJOR || p->hdr.size < sizeof(*p) ||
        p->ops->size < FERRY_TRANSPORT_OPS_SIZE_1_0) {
        FAULT_LOG(host, FERRY_LOG_ERROR,
                  "fault: %s: not a transport of ABI %d (magic 0x%08x, major %u)", path,
                  FERRY_TRANSPORT_ABI_MAJOR, p ? p->hdr.magic : 0, p ? p->hdr.abi_major : 0);
        return FERRY_EABI;
    }
    struct ferry_transport_ops ops = {0};
    memcpy(&ops, p->ops, p->ops->size < sizeof(ops) ? p->ops->size : sizeof(ops));
    if (!ops.open || !ops.close || !ops.query || !ops.device || !ops.export_segment ||
        !ops.mem_reg || !ops.mem_dereg || !ops.export_mem || !ops.peer_open ||
        !ops.peer_attach || !ops.peer_close || !ops.rmem_open || !ops.rmem_close ||
        !ops.queue_open || !ops.queue_close || !ops.submit || !ops.poll) {
        FAULT_LOG(host, FERRY_LOG_ERROR, "fault: %s: its table lacks a mandatory member", path);
        return FERRY_EABI;
    }
    if (!ops.on_call)
        ops.on_call = no_on_call;
    if (!ops.cancel)
        ops.cancel = no_cancel;
    if (!ops.queue_fd)
        ops.queue_fd = no_queue_fd;
    if (!ops.queue_arm)
        ops.queue_arm = no_queue_arm;
    *ops_out = ops;
    return FERRY_OK;
}
