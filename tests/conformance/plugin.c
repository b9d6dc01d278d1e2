/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Loads a transport as the core does: the descriptor is data and is checked before any code of
 * the plugin runs, its table is copied and holes are filled with stubs.
 */
#include "suite.h"

#include <dlfcn.h>
#include <stdlib.h>

#include "loader_trace.h"

#define CAPS_SIZE_1_0 (offsetof(struct ferry_tp_caps, bandwidth_Bps) + sizeof(uint64_t))

static ferry_status no_probe(const struct ferry_host *host)
{
    return FERRY_ENOTSUP;
}

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

static void no_strerror(struct ferry_tp *tp, int32_t vendor_err, char *buf, size_t len)
{
    if (len)
        buf[0] = '\0';
}

static void check_table(struct fc_ctx *ctx, const struct ferry_transport_ops *ops)
{
    const struct {
        const char *name;
        bool there;
    } members[] = {
#define MEMBER(m) {#m, ops->m != NULL}
        MEMBER(open),           MEMBER(close),       MEMBER(query),       MEMBER(device),
        MEMBER(export_segment), MEMBER(mem_reg),     MEMBER(mem_dereg),   MEMBER(export_mem),
        MEMBER(peer_open),      MEMBER(peer_attach), MEMBER(peer_close),  MEMBER(rmem_open),
        MEMBER(rmem_close),     MEMBER(queue_open),  MEMBER(queue_close), MEMBER(submit),
        MEMBER(poll),
#undef MEMBER
    };
    for (size_t i = 0; i < FC_COUNT(members); i++)
        FC_CHECK(ctx, members[i].there, "every mandatory member of the table", "%s is NULL",
                 members[i].name);
}

void fc_load(struct fc_ctx *ctx)
{
    if (ctx->raw)
        return;
    fc_stage(ctx, "loading");
    void *file = dlopen(ctx->opt->plugin, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    FC_CHECK(ctx, file, "a loadable file that needs no symbol of the core", "%s", dlerror());
    const struct ferry_transport_plugin *p = dlsym(file, FERRY_TRANSPORT_SYMBOL);
    FC_CHECK(ctx, p, "the symbol " FERRY_TRANSPORT_SYMBOL, "none");
    FC_CHECK(ctx, p->hdr.magic == FERRY_PLUGIN_MAGIC, "magic 0x31595246", "0x%08x",
             (unsigned)p->hdr.magic);
    FC_CHECK(ctx, p->hdr.abi_major == FERRY_TRANSPORT_ABI_MAJOR, "ABI major 1", "%u.%u",
             (unsigned)p->hdr.abi_major, (unsigned)p->hdr.abi_minor);
    FC_CHECK(ctx, p->hdr.size >= sizeof(struct ferry_transport_plugin),
             "a descriptor of at least 48 bytes", "size %u", (unsigned)p->hdr.size);
    FC_CHECK(ctx, p->hdr.name && p->hdr.name[0], "a name", "none");
    FC_CHECK(ctx,
             strlen(p->hdr.name) < 32 &&
                 strspn(p->hdr.name, "abcdefghijklmnopqrstuvwxyz0123456789_") ==
                     strlen(p->hdr.name),
             "a name of at most 31 of a-z 0-9 _", "\"%s\"", p->hdr.name);
    FC_CHECK(ctx, p->hdr.version && p->hdr.version[0], "a version", "none");
    FC_CHECK(ctx, p->ops, "a table", "none");
    FC_CHECK(ctx, p->ops->size >= FERRY_TRANSPORT_OPS_SIZE_1_0,
             "a table that holds all of ABI 1.0", "%u of %zu bytes", (unsigned)p->ops->size,
             FERRY_TRANSPORT_OPS_SIZE_1_0);
    check_table(ctx, p->ops);
    ctx->raw = p->ops;
    memcpy(&ctx->ops, p->ops,
           p->ops->size < sizeof(ctx->ops) ? p->ops->size : sizeof(ctx->ops));
    fy_trace_transport(p->hdr.name, &ctx->ops, fc_status);
    if (!ctx->ops.probe)
        ctx->ops.probe = no_probe;
    if (!ctx->ops.on_call)
        ctx->ops.on_call = no_on_call;
    if (!ctx->ops.cancel)
        ctx->ops.cancel = no_cancel;
    if (!ctx->ops.queue_fd)
        ctx->ops.queue_fd = no_queue_fd;
    if (!ctx->ops.queue_arm)
        ctx->ops.queue_arm = no_queue_arm;
    if (!ctx->ops.strerror_vendor)
        ctx->ops.strerror_vendor = no_strerror;
    fc_stage(ctx, NULL);
}

void fc_probe(struct fc_ctx *ctx, struct fc_node *node)
{
    ferry_status status = FC_CALL(ctx, probe, &node->host);
    if (status == FERRY_EDEVICE)
        fc_skip(ctx, "probe: FERRY_EDEVICE");
    FC_CHECK(ctx, status == FERRY_OK || status == FERRY_ENOTSUP,
             "probe to return FERRY_OK or FERRY_EDEVICE", "%s", fc_status(status));
}

void fc_open(struct fc_ctx *ctx, struct fc_node *node)
{
    fc_probe(ctx, node);
    FC_OK(ctx, open, &node->host, node->is_target ? &ctx->opt->target : &ctx->opt->config,
          &node->tp);
    ctx->caps = (struct ferry_tp_caps){.size = sizeof(ctx->caps)};
    FC_OK(ctx, query, node->tp, &ctx->caps);
    FC_CHECK(ctx, ctx->caps.size >= CAPS_SIZE_1_0, "query to fill all caps of ABI 1.0",
             "%u of %zu bytes", (unsigned)ctx->caps.size, CAPS_SIZE_1_0);
}

void fc_close(struct fc_ctx *ctx, struct fc_node *node)
{
    FC_VOID(ctx, close, node->tp);
    node->tp = NULL;
}
