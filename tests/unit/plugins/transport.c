/* SPDX-License-Identifier: Apache-2.0 */
/* Transports that do nothing, right and wrong ones: what differs is set by the build. */
#include "ferry/transport_plugin.h"

#include <stdlib.h>

#ifndef MAGIC
#define MAGIC FERRY_PLUGIN_MAGIC
#endif
#ifndef MAJOR
#define MAJOR FERRY_TRANSPORT_ABI_MAJOR
#endif
#ifndef HDR_SIZE
#define HDR_SIZE sizeof(struct ferry_transport_plugin)
#endif
#ifndef OPS_SIZE
#define OPS_SIZE sizeof(struct ferry_transport_ops)
#endif
#ifndef HAS_TABLE
#define HAS_TABLE 1
#endif
#ifndef SYMBOL
#define SYMBOL ferry_transport_plugin
#endif

#ifdef LATE
static void fill_in(void);
#endif

/* Whoever loads the file runs this: a refusal before that leaves no trace. */
__attribute__((constructor)) static void loaded(void)
{
    setenv("FERRY_TEST_LOADED", NAME, 1);
#ifdef LATE
    fill_in();
#endif
}

#ifdef UNRESOLVED
int test_defined_nowhere(void);
#endif

#ifdef PROBE
static ferry_status probe(const struct ferry_host *host)
{
    if (PROBE)
        host->log(host, FERRY_LOG_INFO, __FILE__, __LINE__, "no device of vendor %d", 7);
    return PROBE;
}
#endif

static ferry_status open_(const struct ferry_host *host, const struct ferry_kvs *config,
                          struct ferry_tp **tp_out)
{
#ifdef UNRESOLVED
    return test_defined_nowhere();
#else
    return FERRY_EDEVICE;
#endif
}

static void close_(struct ferry_tp *tp)
{
}

static ferry_status query(struct ferry_tp *tp, struct ferry_tp_caps *caps)
{
    return FERRY_EDEVICE;
}

static ferry_status device(struct ferry_tp *tp, uint32_t index, struct ferry_device *dev)
{
    return FERRY_EDEVICE;
}

static ferry_status export_segment(struct ferry_tp *tp, struct ferry_kv_sink *out)
{
    return FERRY_EDEVICE;
}

static ferry_status mem_reg(struct ferry_tp *tp, const struct ferry_mem_desc *desc, size_t n,
                            struct ferry_mr **mr_out)
{
    return FERRY_EDEVICE;
}

static void mem_dereg(struct ferry_tp *tp, struct ferry_mr *const *mr, size_t n)
{
}

static ferry_status export_mem(struct ferry_mr *mr, struct ferry_kv_sink *out)
{
    return FERRY_EDEVICE;
}

static ferry_status peer_open(struct ferry_tp *tp, const char *peer_name,
                              const struct ferry_kvs *attrs, struct ferry_peer **peer_out)
{
    return FERRY_EDEVICE;
}

static ferry_status peer_attach(struct ferry_peer *peer, struct ferry_queue *queue,
                                uint32_t timeout_ms)
{
    return FERRY_EDEVICE;
}

static void peer_close(struct ferry_peer *peer)
{
}

static ferry_status rmem_open(struct ferry_peer *peer, uint64_t remote_addr, uint64_t len,
                              const struct ferry_kvs *attrs, struct ferry_rmem **rmem_out)
{
    return FERRY_EDEVICE;
}

static void rmem_close(struct ferry_rmem *rmem)
{
}

static ferry_status queue_open(struct ferry_tp *tp, const struct ferry_queue_attr *attr,
                               struct ferry_queue **queue_out)
{
    return FERRY_EDEVICE;
}

static void queue_close(struct ferry_queue *queue)
{
}

static ferry_status submit(struct ferry_queue *queue, const struct ferry_list *list,
                           uint32_t *accepted_out)
{
    *accepted_out = 0;
    return FERRY_EDEVICE;
}

static int32_t poll_(struct ferry_queue *queue, struct ferry_comp *comp, uint32_t max)
{
    return 0;
}

#ifdef LATE
#define TABLE late_table /* filled in by the constructor, which is too late */
static struct {
    struct ferry_transport_ops ops;
} late_table;
#else
#define TABLE table
#endif

/* Of a later minor version, if OPS_SIZE says so. */
static const struct {
    struct ferry_transport_ops ops;
    void (*later[2])(void);
} table __attribute__((unused)) = {
    .ops = {.size = OPS_SIZE,
#ifdef PROBE
            .probe = probe,
#endif
            .open = open_,
            .close = close_,
            .query = query,
            .device = device,
            .export_segment = export_segment,
            .mem_reg = mem_reg,
            .mem_dereg = mem_dereg,
            .export_mem = export_mem,
            .peer_open = peer_open,
            .peer_attach = peer_attach,
            .peer_close = peer_close,
            .rmem_open = rmem_open,
            .rmem_close = rmem_close,
            .queue_open = queue_open,
            .queue_close = queue_close,
#ifndef NO_SUBMIT
            .submit = submit,
#endif
            .poll = poll_},
#ifndef NO_SUBMIT
    .later = {(void (*)(void))submit, (void (*)(void))poll_},
#else
    .later = {(void (*)(void))poll_, (void (*)(void))submit},
#endif
};

#ifdef LATE
static void fill_in(void)
{
    late_table.ops = table.ops;
}
#endif

#if defined(FUNCTION)
FERRY_PLUGIN_EXPORT void SYMBOL(void);
void SYMBOL(void)
{
}
#elif defined(BSS)
extern FERRY_PLUGIN_EXPORT struct ferry_transport_plugin SYMBOL;
struct ferry_transport_plugin SYMBOL;
#else
extern FERRY_PLUGIN_EXPORT const struct ferry_transport_plugin SYMBOL;
const struct ferry_transport_plugin SYMBOL = {
    .hdr = {.magic = MAGIC,
            .abi_major = MAJOR,
            .abi_minor = 3,
            .size = HDR_SIZE,
            .name = NAME,
            .version = "4.5.6"},
    .ops = HAS_TABLE ? &TABLE.ops : NULL,
};
#endif
