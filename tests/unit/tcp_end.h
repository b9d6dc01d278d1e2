/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TCP_END_H
#define TCP_END_H

/*
 * For tests that link the tcp transport without its table: one end with a host of one region,
 * and the way from one to another. Include after cmocka's headers.
 */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "initiator.h"
#include "tp.h"

#define TCP_ALL                                                                                \
    (FERRY_ACCESS_LOCAL_WRITE | FERRY_ACCESS_REMOTE_READ | FERRY_ACCESS_REMOTE_WRITE)

struct tcp_end {
    struct ferry_host host; /* first */
    int level;
    atomic_uint warnings;
    uint8_t *mem;
    uint64_t len;
    struct ferry_tp *tp;
    struct ferry_mr *mr;
};

/* What an end publishes, or a test in the name of a server of its own. */
struct tcp_attrs {
    struct ferry_kv_sink sink; /* first */
    struct ferry_kvs kvs;
    struct ferry_kv kv[8];
    char key[8][32], val[8][32];
};

struct tcp_way {
    struct ferry_queue *queue;
    struct ferry_peer *peer;
    struct ferry_rmem *rmem;
    int fd;
};

static void __attribute__((format(printf, 5, 6)))
tcp_end_log(const struct ferry_host *host, enum ferry_log_level level, const char *file,
            int line, const char *fmt, ...)
{
    struct tcp_end *end = (struct tcp_end *)(uintptr_t)host;
    va_list ap;

    if (level <= FERRY_LOG_WARN)
        atomic_fetch_add(&end->warnings, 1);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
}

static ferry_status tcp_end_region_get(const struct ferry_host *host, uint64_t addr,
                                       uint64_t len, uint32_t access,
                                       struct ferry_region *region_out)
{
    const struct tcp_end *end = (const void *)host;
    uint64_t at = addr - (uintptr_t)end->mem;

    if (at > end->len || len > end->len - at)
        return FERRY_ERANGE;
    *region_out = (struct ferry_region){.kind = FERRY_MEM_HOST};
    return FERRY_OK;
}

static void tcp_end_region_put(const struct ferry_host *host, struct ferry_region *region)
{
}

/* On loopback; `engine` and `threads` as in the configuration. */
static inline void tcp_end_open(struct tcp_end *end, uint64_t len, const char *engine,
                                const char *threads)
{
    struct ferry_kv kv[] = {
        {"core.bind", "127.0.0.1", 9, FERRY_KV_TEXT},
        {"engine", engine, (uint32_t)strlen(engine), FERRY_KV_TEXT},
        {"threads", threads, (uint32_t)strlen(threads), FERRY_KV_TEXT},
    };
    struct ferry_kvs config = {kv, sizeof kv / sizeof *kv};
    struct ferry_mem_desc d = {
        .size = sizeof d, .len = len, .dmabuf_fd = -1, .access = TCP_ALL};

    memset(end, 0, sizeof *end);
    end->level = FERRY_LOG_WARN;
    end->len = len;
    end->host = (struct ferry_host){.size = sizeof end->host,
                                    .log_level = &end->level,
                                    .log = tcp_end_log,
                                    .region_get = tcp_end_region_get,
                                    .region_put = tcp_end_region_put};
    end->mem = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(end->mem != MAP_FAILED);
    assert_int_equal(tcp_open(&end->host, &config, &end->tp), FERRY_OK);
    d.addr = end->mem;
    assert_int_equal(tcp_mem_reg(end->tp, &d, 1, &end->mr), FERRY_OK);
}

static inline void tcp_end_close(struct tcp_end *end)
{
    tcp_mem_dereg(end->tp, &end->mr, 1);
    tcp_close(end->tp);
    munmap(end->mem, end->len);
}

static inline ferry_status tcp_attrs_put(struct ferry_kv_sink *sink, const struct ferry_kv *kv)
{
    struct tcp_attrs *a = (struct tcp_attrs *)(void *)sink;
    size_t i = a->kvs.n++;

    snprintf(a->key[i], sizeof a->key[i], "%s", kv->key);
    memcpy(a->val[i], kv->val, kv->val_len);
    a->kv[i] = (struct ferry_kv){a->key[i], a->val[i], kv->val_len, kv->flags};
    a->kvs.v = a->kv;
    return FERRY_OK;
}

static inline void tcp_attrs_of(const struct tcp_end *end, struct tcp_attrs *a)
{
    *a = (struct tcp_attrs){.sink.put = tcp_attrs_put};
    assert_int_equal(tcp_export_segment(end->tp, &a->sink), FERRY_OK);
}

/* Attached; to memory of the peer at `addr`. */
static inline void tcp_way_open(struct tcp_end *end, const struct tcp_attrs *a, uint64_t addr,
                                uint64_t len, struct tcp_way *way)
{
    struct ferry_queue_attr attr = {.size = sizeof attr};

    assert_int_equal(tcp_queue_open(end->tp, &attr, &way->queue), FERRY_OK);
    assert_int_equal(tcp_queue_fd(way->queue, &way->fd), FERRY_OK);
    assert_int_equal(tcp_peer_open(end->tp, "127.0.0.1:1", &a->kvs, &way->peer), FERRY_OK);
    assert_int_equal(tcp_rmem_open(way->peer, addr, len, NULL, &way->rmem), FERRY_OK);
    assert_int_equal(tcp_peer_attach(way->peer, way->queue, 5000), FERRY_OK);
}

static inline void tcp_way_close(struct tcp_way *way)
{
    tcp_peer_close(way->peer);
    tcp_queue_close(way->queue);
}

/* One element at the beginning of both memories. */
static inline ferry_status tcp_way_submit(struct tcp_end *end, struct tcp_way *way,
                                          enum ferry_op op, uint64_t len, uint64_t cookie)
{
    struct ferry_xfer x = {end->mr, way->rmem, end->mem, 0, len};
    struct ferry_list list = {
        .size = sizeof list, .op = op, .peer = way->peer, .v = &x, .n = 1, .cookie = cookie};
    uint32_t accepted;

    return tcp_submit(way->queue, &list, &accepted);
}

#endif /* TCP_END_H */
