/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tcp transport with many of everything: 256 peers at once on two queues that two threads
 * drive, a million elements, memory that stays small. Both ends are this process.
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

#include "initiator.h"
#include "tp.h"

#define PEERS   256u
#define QUEUES  2u
#define SHARE   8192u /* bytes of each peer on each queue */
#define LEN     (PEERS * QUEUES * SHARE)
#define MILLION 1000000u

/* Their shadow memory counts as resident. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#define SANITIZED (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer))
#else
#define SANITIZED 0
#endif

static uint8_t *there, *here;
static const int log_level = FERRY_LOG_WARN;

static void print_log(const struct ferry_host *host, enum ferry_log_level level,
                      const char *file, int line, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));

static void print_log(const struct ferry_host *host, enum ferry_log_level level,
                      const char *file, int line, const char *fmt, ...)
{
    va_list ap;

    (void)host, (void)level;
    fprintf(stderr, "%s:%d: ", file, line);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
}

static ferry_status region_get(const struct ferry_host *host, uint64_t addr, uint64_t len,
                               uint32_t access, struct ferry_region *out)
{
    uint64_t at = addr - (uintptr_t)there;

    (void)host, (void)access;
    if (at > LEN || len > LEN - at)
        return FERRY_ERANGE;
    *out = (struct ferry_region){.kind = FERRY_MEM_HOST};
    return FERRY_OK;
}

static void region_put(const struct ferry_host *host, struct ferry_region *region)
{
    (void)host, (void)region;
}

static const struct ferry_host host = {.size = sizeof host,
                                       .log_level = &log_level,
                                       .log = print_log,
                                       .region_get = region_get,
                                       .region_put = region_put};

struct published {
    struct ferry_kv_sink base;
    struct ferry_kv kv[8];
    struct ferry_kvs kvs;
    char text[8][32];
};

static ferry_status put(struct ferry_kv_sink *sink, const struct ferry_kv *kv)
{
    struct published *p = (struct published *)(void *)sink;
    size_t i = p->kvs.n++;

    memcpy(p->text[i], kv->val, kv->val_len);
    p->kv[i] = (struct ferry_kv){kv->key, p->text[i], kv->val_len, kv->flags};
    return FERRY_OK;
}

static struct {
    struct ferry_tp *tp;
    struct ferry_mr *mr;
    struct ferry_queue *queue[QUEUES];
    struct ferry_peer *peer[PEERS];
    struct ferry_rmem *rmem[PEERS];
} g;

static size_t rss(void)
{
    unsigned long size, resident;
    FILE *f = fopen("/proc/self/statm", "r");

    assert_non_null(f);
    assert_int_equal(fscanf(f, "%lu %lu", &size, &resident), 2);
    fclose(f);
    return resident * (size_t)sysconf(_SC_PAGESIZE);
}

static uint8_t *map(void)
{
    uint8_t *p = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    assert_true(p != MAP_FAILED);
    memset(p, 0, LEN); /* so that it is resident before it is measured */
    return p;
}

static int set_up(void **state)
{
    struct published p = {.base = {.put = put}};
    struct ferry_mem_desc d = {
        .size = sizeof d, .len = LEN, .dmabuf_fd = -1, .access = FERRY_ACCESS_LOCAL_WRITE};
    struct ferry_queue_attr attr = {.size = sizeof attr};
    struct ferry_kv at = {"core.bind", "127.0.0.1", 9, FERRY_KV_TEXT};
    struct ferry_kvs config = {&at, 1};
    struct rlimit files;

    (void)state;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &files), 0);
    files.rlim_cur = files.rlim_max; /* four of each peer, as both ends are here */
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &files), 0);
    here = map();
    there = map();
    p.kvs.v = p.kv;
    assert_int_equal(tcp_open(&host, &config, &g.tp), FERRY_OK);
    assert_int_equal(tcp_export_segment(g.tp, &p.base), FERRY_OK);
    d.addr = here;
    assert_int_equal(tcp_mem_reg(g.tp, &d, 1, &g.mr), FERRY_OK);
    for (uint32_t q = 0; q < QUEUES; q++)
        assert_int_equal(tcp_queue_open(g.tp, &attr, &g.queue[q]), FERRY_OK);
    for (uint32_t i = 0; i < PEERS; i++) {
        assert_int_equal(tcp_peer_open(g.tp, "127.0.0.1:1", &p.kvs, &g.peer[i]), FERRY_OK);
        assert_int_equal(tcp_rmem_open(g.peer[i], (uintptr_t)there, LEN, NULL, &g.rmem[i]),
                         FERRY_OK);
    }
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < PEERS; i++)
        tcp_peer_close(g.peer[i]);
    for (uint32_t q = 0; q < QUEUES; q++)
        tcp_queue_close(g.queue[q]);
    tcp_mem_dereg(g.tp, &g.mr, 1);
    tcp_close(g.tp);
    return 0;
}

/* One list for each peer, all under way at once, as far as they are taken. */
static void each_peer(uint32_t q, enum ferry_op op)
{
    uint32_t next = 0, done = 0;

    while (done < PEERS) {
        struct ferry_comp comp[32];
        int32_t n;

        while (next < PEERS) {
            uint64_t off = ((uint64_t)next * QUEUES + q) * SHARE;
            struct ferry_xfer x[2] = {
                {g.mr, g.rmem[next], here + off, off, SHARE / 2},
                {g.mr, g.rmem[next], here + off + SHARE / 2, off + SHARE / 2, SHARE / 2}};
            struct ferry_list list = {.size = sizeof list,
                                      .op = op,
                                      .peer = g.peer[next],
                                      .v = x,
                                      .n = 2,
                                      .cookie = next};
            uint32_t accepted;
            ferry_status status = tcp_submit(g.queue[q], &list, &accepted);

            assert_true(status == FERRY_OK || (status == FERRY_EAGAIN && accepted == 0));
            if (status != FERRY_OK)
                break;
            next++;
        }
        n = tcp_poll(g.queue[q], comp, 32);
        for (int32_t i = 0; i < n; i++) {
            assert_int_equal(comp[i].status, FERRY_OK);
            assert_int_equal(comp[i].n, 2);
            assert_int_equal(comp[i].bytes, SHARE);
            done++;
        }
    }
}

static void *drive(void *arg)
{
    uint32_t q = (uint32_t)(uintptr_t)arg;

    for (uint32_t i = 0; i < PEERS; i++)
        assert_int_equal(tcp_peer_attach(g.peer[i], g.queue[q], 10000), FERRY_OK);
    for (int round = 0; round < 3; round++) {
        each_peer(q, FERRY_OP_WRITE);
        each_peer(q, FERRY_OP_READ);
    }
    return NULL;
}

static void many_peers(void **state)
{
    size_t before = rss();
    pthread_t thread[QUEUES];

    (void)state;
    for (size_t i = 0; i < LEN; i++)
        here[i] = (uint8_t)(i * 31 ^ i >> 8);
    for (uint32_t q = 0; q < QUEUES; q++)
        assert_int_equal(pthread_create(&thread[q], NULL, drive, (void *)(uintptr_t)q), 0);
    for (uint32_t q = 0; q < QUEUES; q++)
        assert_int_equal(pthread_join(thread[q], NULL), 0);
    for (size_t i = 0; i < LEN; i++)
        if (there[i] != (uint8_t)(i * 31 ^ i >> 8))
            fail_msg("byte %zu", i);
    assert_true(SANITIZED || rss() - before < 32u << 20); /* both ends of 512 connections */
}

/* More than is ever in flight: the rest of the list is submitted as there is room. */
static void a_million_elements(void **state)
{
    struct ferry_xfer *x = calloc(MILLION, sizeof *x);
    uint32_t at = 0, done = 0;
    size_t before;

    (void)state;
    assert_non_null(x);
    for (uint32_t i = 0; i < MILLION; i++) {
        uint64_t off = (uint64_t)i * 7919 % (LEN / 8) * 8;

        x[i] = (struct ferry_xfer){g.mr, g.rmem[0], here + off, off, 8};
    }
    memset(there, 0, LEN);
    before = rss();
    while (done < MILLION) {
        struct ferry_list list = {.size = sizeof list,
                                  .op = FERRY_OP_WRITE,
                                  .peer = g.peer[0],
                                  .v = x + at,
                                  .n = MILLION - at,
                                  .first = at};
        struct ferry_comp comp;
        uint32_t accepted = 0;

        if (at < MILLION) {
            ferry_status status = tcp_submit(g.queue[0], &list, &accepted);

            assert_true(status == FERRY_OK || status == FERRY_EAGAIN);
        }
        at += accepted;
        while (tcp_poll(g.queue[0], &comp, 1) == 1) {
            assert_int_equal(comp.status, FERRY_OK);
            assert_int_equal(comp.first, done); /* one connection: in their order */
            done += comp.n;
        }
    }
    assert_true(SANITIZED || rss() - before < 8u << 20);
    assert_memory_equal(here, there, LEN);
    free(x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(many_peers),
        cmocka_unit_test(a_million_elements),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
