/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SHM_END_H
#define SHM_END_H

/*
 * For tests that link the shm transport without its table: one end with a host of one region,
 * what it publishes, and the way from one to another. Include after cmocka's headers.
 */
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "shm.h"

#if defined(__has_feature)
#define RACE_DETECTOR __has_feature(thread_sanitizer)
#else
#define RACE_DETECTOR 0
#endif

#define LEN UINT64_C(262144)
#define ALL (FERRY_ACCESS_LOCAL_WRITE | FERRY_ACCESS_REMOTE_READ | FERRY_ACCESS_REMOTE_WRITE)

/* --- a host with one region, and one end with it -------------------------------------------
 */

static char last_words[1024];
static pthread_mutex_t words_lock = PTHREAD_MUTEX_INITIALIZER;

struct end {
    struct ferry_host host; /* first */
    int level;
    uint8_t *mem;
    uint32_t access;
    int memfd;
    atomic_bool live;
    struct ferry_tp *tp;
    struct ferry_mr *mr;
};

static void __attribute__((format(printf, 5, 6)))
host_log(const struct ferry_host *host, enum ferry_log_level level, const char *file, int line,
         const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    pthread_mutex_lock(&words_lock);
    vsnprintf(last_words, sizeof(last_words), fmt, ap);
    pthread_mutex_unlock(&words_lock);
    va_end(ap);
}

/* Was that said last? Beside threads that log. */
static inline bool said(const char *words)
{
    pthread_mutex_lock(&words_lock);
    bool so = strstr(last_words, words);
    pthread_mutex_unlock(&words_lock);
    return so;
}

static ferry_status region_get(const struct ferry_host *host, uint64_t addr, uint64_t len,
                               uint32_t access, struct ferry_region *region_out)
{
    const struct end *end = (const void *)host;
    uint64_t at = addr - (uintptr_t)end->mem;

    if (!atomic_load(&end->live) || at > LEN || len > LEN - at)
        return FERRY_ERANGE;
    if ((end->access & access) != access)
        return FERRY_EACCESS;
    *region_out = (struct ferry_region){.kind = FERRY_MEM_HOST};
    return FERRY_OK;
}

static void region_put(const struct ferry_host *host, struct ferry_region *region)
{
}

static inline void register_mem(struct end *end, uint32_t access)
{
    struct ferry_mem_desc d = {.size = sizeof(d),
                               .addr = end->mem,
                               .len = LEN,
                               .dmabuf_fd = -1,
                               .access = access,
                               .flags = end->memfd >= 0 ? FERRY_MEM_MEMFD : 0,
                               .memfd = end->memfd};

    assert_int_equal(shm_mem_reg(end->tp, &d, 1, &end->mr), FERRY_OK);
    end->access = access;
    atomic_store(&end->live, true);
}

/* `seals`: of a memfd behind the memory; -1 = ordinary memory. */
static inline void end_open(struct end *end, const char *mode, int seals)
{
    struct ferry_kv kv = {.key = "mode", .val = mode, .val_len = (uint32_t)strlen(mode)};
    struct ferry_kvs config = {.v = &kv, .n = 1};

    memset(end, 0, sizeof(*end));
    end->level = FERRY_LOG_INFO;
    end->host = (struct ferry_host){.size = sizeof(end->host),
                                    .log_level = &end->level,
                                    .log = host_log,
                                    .region_get = region_get,
                                    .region_put = region_put};
    end->memfd = -1;
    if (seals >= 0) {
        end->memfd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        assert_true(end->memfd >= 0 && !ftruncate(end->memfd, (off_t)LEN));
        assert_int_equal(fcntl(end->memfd, F_ADD_SEALS, seals), 0);
    }
    end->mem = mmap(NULL, LEN, PROT_READ | PROT_WRITE,
                    seals >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS, end->memfd, 0);
    assert_true(end->mem != MAP_FAILED);
    assert_int_equal(shm_tp_open(&end->host, &config, &end->tp), FERRY_OK);
    register_mem(end, ALL);
}

static inline void end_close(struct end *end)
{
    atomic_store(&end->live, false);
    if (end->mr)
        shm_mem_dereg(end->tp, &end->mr, 1);
    shm_tp_close(end->tp);
    munmap(end->mem, LEN);
    if (end->memfd >= 0)
        close(end->memfd);
}

/* --- what it publishes ----------------------------------------------------------------- */

struct attrs {
    struct ferry_kv_sink sink; /* first */
    struct ferry_kv v[16];
    char key[16][24], val[16][64];
    size_t n;
    uint64_t mem; /* where the target's memory is */
};

static ferry_status attrs_put(struct ferry_kv_sink *sink, const struct ferry_kv *kv)
{
    struct attrs *a = (struct attrs *)sink;

    snprintf(a->key[a->n], sizeof(a->key[0]), "%s", kv->key);
    snprintf(a->val[a->n], sizeof(a->val[0]), "%.*s", (int)kv->val_len, (const char *)kv->val);
    a->n++;
    return FERRY_OK;
}

static inline void attrs_of(struct end *end, struct attrs *a)
{
    *a = (struct attrs){.sink.put = attrs_put, .mem = (uintptr_t)end->mem};
    assert_int_equal(shm_export_segment(end->tp, &a->sink), FERRY_OK);
}

static inline ferry_status open_peer(struct end *end, struct attrs *a,
                                     struct ferry_peer **peer_out)
{
    for (size_t i = 0; i < a->n; i++)
        a->v[i] = (struct ferry_kv){
            .key = a->key[i], .val = a->val[i], .val_len = (uint32_t)strlen(a->val[i])};
    struct ferry_kvs kvs = {.v = a->v, .n = a->n};
    last_words[0] = '\0';
    return shm_peer_open(end->tp, "peer", &kvs, peer_out);
}

/* --- one transfer ---------------------------------------------------------------------- */

struct way {
    struct ferry_peer *peer;
    struct ferry_queue *queue;
    struct ferry_rmem *rmem;
};

static inline ferry_status transfer(struct end *end, struct way *way, enum ferry_op op,
                                    uint64_t len)
{
    struct ferry_xfer x = {.mr = end->mr, .rmem = way->rmem, .local = end->mem, .len = len};
    struct ferry_list list = {
        .size = sizeof(list), .op = op, .peer = way->peer, .v = &x, .n = 1, .cookie = 1};
    struct ferry_comp comp;
    uint32_t accepted;
    ferry_status status = shm_submit(way->queue, &list, &accepted);

    if (status)
        return status;
    while (!shm_poll(way->queue, &comp, 1))
        sched_yield();
    return comp.status;
}

static inline ferry_status way_open(struct end *end, struct attrs *a, struct way *way)
{
    struct ferry_queue_attr attr = {.size = sizeof(attr), .depth = 8};
    struct ferry_kvs none = {.n = 0};
    ferry_status status = shm_queue_open(end->tp, &attr, &way->queue);

    if (!status)
        status = open_peer(end, a, &way->peer);
    if (!status)
        status = shm_rmem_open(way->peer, a->mem, LEN, &none, &way->rmem);
    return status ? status : shm_peer_attach(way->peer, way->queue, 1000);
}

static inline void way_close(struct way *way)
{
    shm_rmem_close(way->rmem);
    shm_peer_close(way->peer);
    shm_queue_close(way->queue);
}

/* The race detector knows no threads of a process that was forked from one with threads. */
static inline void needs_fork(const char *name)
{
    if (RACE_DETECTOR) {
        printf("not run: %s: forks, which the race detector does not follow\n", name);
        skip();
    }
}

#endif /* SHM_END_H */
