/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Loads libibverbs when the transport is first asked for, so that neither the core nor the
 * other transports need it. Knows nothing of what is done with it.
 */
#include "ibv.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

static struct rdma_ibv table;
static char why[256];
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void load(void)
{
    const struct {
        const char *name;
        void *slot;
        int optional;
    } symbols[] = {
        {"ibv_get_device_list", &table.get_device_list, 0},
        {"ibv_free_device_list", &table.free_device_list, 0},
        {"ibv_get_device_name", &table.get_device_name, 0},
        {"ibv_open_device", &table.open_device, 0},
        {"ibv_close_device", &table.close_device, 0},
        {"ibv_query_device", &table.query_device, 0},
        {"ibv_query_port", &table.query_port_compat, 0},
        {"_ibv_query_gid_table", &table.query_gid_table, 1},
        {"ibv_get_async_event", &table.get_async_event, 0},
        {"ibv_ack_async_event", &table.ack_async_event, 0},
        {"ibv_event_type_str", &table.event_type_str, 0},
        {"ibv_alloc_pd", &table.alloc_pd, 0},
        {"ibv_dealloc_pd", &table.dealloc_pd, 0},
        {"ibv_reg_mr", &table.reg_mr, 0},
        {"ibv_reg_mr_iova2", &table.reg_mr_iova2, 1},
        {"ibv_reg_dmabuf_mr", &table.reg_dmabuf_mr, 1},
        {"ibv_dereg_mr", &table.dereg_mr, 0},
        {"ibv_create_comp_channel", &table.create_comp_channel, 0},
        {"ibv_destroy_comp_channel", &table.destroy_comp_channel, 0},
        {"ibv_create_cq", &table.create_cq, 0},
        {"ibv_destroy_cq", &table.destroy_cq, 0},
        {"ibv_get_cq_event", &table.get_cq_event, 0},
        {"ibv_ack_cq_events", &table.ack_cq_events, 0},
        {"ibv_create_qp", &table.create_qp, 0},
        {"ibv_modify_qp", &table.modify_qp, 0},
        {"ibv_destroy_qp", &table.destroy_qp, 0},
        {"ibv_wc_status_str", &table.wc_status_str, 0},
    };
    void *lib = dlopen("libibverbs.so.1", RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (!lib) {
        snprintf(why, sizeof(why), "libibverbs is not here: %s", dlerror());
        return;
    }
    for (size_t i = 0; i < sizeof(symbols) / sizeof(symbols[0]); i++) {
        void *fn = dlsym(lib, symbols[i].name);
        if (!fn && !symbols[i].optional) {
            snprintf(why, sizeof(why), "libibverbs is too old: it has no %s", symbols[i].name);
            return;
        }
        memcpy(symbols[i].slot, &fn, sizeof(fn));
    }
}

const struct rdma_ibv *rdma_ibv_get(const char **why_out)
{
    pthread_once(&once, load);
    if (why[0]) {
        *why_out = why;
        return NULL;
    }
    return &table;
}

int rdma_query_port(const struct rdma_ibv *ibv, struct ibv_context *ctx, uint8_t port,
                    struct ibv_port_attr *attr)
{
    struct verbs_context *vctx = verbs_get_ctx(ctx);

    memset(attr, 0, sizeof(*attr));
    if (vctx && vctx->sz >= sizeof(*vctx) - offsetof(struct verbs_context, query_port) &&
        vctx->query_port)
        return vctx->query_port(ctx, port, attr, sizeof(*attr));
    return ibv->query_port_compat(ctx, port, (struct _compat_ibv_port_attr *)attr);
}
