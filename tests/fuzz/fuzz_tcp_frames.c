/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What any program may send to the tcp transport's port, against the passive side's whole state
 * machine: both dialects, in pieces, with regions that come and go, memory that is not the
 * host's, and canaries round every registered byte.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "target.h"

/* At a fixed place, so that seeds can name it. */
#define BASE       0x200000000000ull
#define REGION_LEN 4096u
#define STRIDE     (3u * REGION_LEN) /* a region lies between two pages of canaries */
#define CANARY     0xc5

enum { BOTH, READ_ONLY, WRITE_ONLY, DEVICE, N_REGIONS };

static const uint32_t rights[N_REGIONS] = {
    FERRY_ACCESS_REMOTE_READ | FERRY_ACCESS_REMOTE_WRITE, FERRY_ACCESS_REMOTE_READ,
    FERRY_ACCESS_REMOTE_WRITE, FERRY_ACCESS_REMOTE_READ | FERRY_ACCESS_REMOTE_WRITE};

static uint8_t *memory;
static uint32_t revoked; /* a bit for each region */
static int held, staged;

static void no_log(const struct ferry_host *host, enum ferry_log_level level, const char *file,
                   int line, const char *fmt, ...)
{
    (void)host, (void)level, (void)file, (void)line, (void)fmt;
}

static ferry_status region_get(const struct ferry_host *host, uint64_t addr, uint64_t len,
                               uint32_t access, struct ferry_region *out)
{
    (void)host;
    assert(len > 0);
    for (uint32_t i = 0; i < N_REGIONS; i++) {
        uint64_t at = addr - (BASE + i * STRIDE + REGION_LEN);

        if (at >= REGION_LEN || len > REGION_LEN - at || (revoked >> i & 1))
            continue;
        if ((rights[i] & access) != access)
            return FERRY_EACCESS;
        held++;
        *out = (struct ferry_region){.opaque = &held,
                                     .kind = i == DEVICE ? FERRY_MEM_DEVICE : FERRY_MEM_HOST};
        return FERRY_OK;
    }
    return FERRY_ERANGE;
}

static void region_put(const struct ferry_host *host, struct ferry_region *region)
{
    (void)host;
    assert(region->opaque == &held && held > 0);
    region->opaque = NULL;
    held--;
}

static ferry_status region_write(const struct ferry_host *host, struct ferry_region *region,
                                 uint64_t addr, const void *src, size_t len)
{
    (void)host;
    assert(region->opaque == &held && region->kind == FERRY_MEM_DEVICE);
    memcpy((void *)(uintptr_t)addr, src, len);
    return FERRY_OK;
}

static ferry_status region_read(const struct ferry_host *host, struct ferry_region *region,
                                uint64_t addr, void *dst, size_t len)
{
    (void)host;
    assert(region->opaque == &held && region->kind == FERRY_MEM_DEVICE);
    memcpy(dst, (const void *)(uintptr_t)addr, len);
    return FERRY_OK;
}

static ferry_status stage_alloc(const struct ferry_host *host, size_t len, void **mem_out)
{
    (void)host;
    *mem_out = malloc(len);
    staged += *mem_out != NULL;
    return *mem_out != NULL ? FERRY_OK : FERRY_ENOMEM;
}

static void stage_free(const struct ferry_host *host, void *mem)
{
    (void)host;
    free(mem);
    staged--;
}

static const int log_level = FERRY_LOG_TRACE;
static const struct ferry_host host = {.size = sizeof host,
                                       .log_level = &log_level,
                                       .log = no_log,
                                       .region_get = region_get,
                                       .region_put = region_put,
                                       .region_write = region_write,
                                       .region_read = region_read,
                                       .stage_alloc = stage_alloc,
                                       .stage_free = stage_free};
static struct target_env env = {.host = &host, .incarnation = 0x1122334455667788ull};

static void memory_reset(void)
{
    if (memory == NULL) {
        memory = mmap((void *)(uintptr_t)BASE, N_REGIONS * STRIDE, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
        assert(memory == (void *)(uintptr_t)BASE);
    }
    memset(memory, CANARY, N_REGIONS * STRIDE);
}

static void memory_check(void)
{
    for (size_t i = 0; i < N_REGIONS * STRIDE; i++) {
        size_t region = i / STRIDE, page = i % STRIDE / REGION_LEN;

        if (page != 1 || !(rights[region] & FERRY_ACCESS_REMOTE_WRITE))
            assert(memory[i] == CANARY);
    }
}

static bool run(struct target *t, int peer)
{
    static char sink[65536];

    for (;;) {
        enum target_run r = target_run(t);

        while (recv(peer, sink, sizeof sink, MSG_DONTWAIT) > 0)
            ;
        switch (r) {
        case TARGET_AGAIN:
        case TARGET_WRITE:
            continue;
        case TARGET_CLOSE:
        case TARGET_RESET:
            return false;
        default:
            return true;
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The first byte: how large the pieces are, whether it pauses between, what is revoked then. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const size_t pieces[] = {65536, 4096, 100, 24};
    struct target t;
    size_t piece, at;
    bool pause, going = true;
    int fd[2];

    if (size < 1)
        return 0;
    piece = pieces[data[0] & 3];
    pause = data[0] & 4;
    revoked = 0;
    memory_reset();
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fd) != 0)
        return 0;
    target_init(&t, &env, fd[0], ft_now_ns());
    for (at = 1; going && at < size;) {
        size_t n = size - at < piece ? size - at : piece;
        ssize_t sent = send(fd[1], data + at, n, MSG_DONTWAIT | MSG_NOSIGNAL);

        if (sent <= 0)
            break;
        at += (size_t)sent;
        going = run(&t, fd[1]);
        if (going && pause) {
            target_pause(&t);
            assert(held == 0);
            revoked ^= data[0] >> 4;
        }
    }
    shutdown(fd[1], SHUT_WR);
    if (going)
        run(&t, fd[1]);
    target_fini(&t);
    close(fd[0]);
    close(fd[1]);
    assert(held == 0);
    target_env_fini(&env);
    assert(staged == 0);
    memory_check();
    return 0;
}
