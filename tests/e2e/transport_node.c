/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One node with one transport and nothing of the core, told what to do line by line, for tests
 * that cut cables and stop processes. Knows no transport: attributes pass through as text.
 *
 *   transport_node [--no-io-uring] PLUGIN.so LEN [KEY=VALUE]...
 *
 * writes "attr KEY VALUE" for what it publishes, "ready ADDRESS", and answers:
 *
 *   peer NAME ADDRESS KEY=VALUE...   opens a peer with one region of LEN at ADDRESS
 *   attach MS                        connects it: "attach STATUS MS"
 *   write|read BYTE LEN              one element (of a buffer filled with BYTE): "done COOKIE
 * STATUS MS" cancel COOKIE                    "cancelled COOKIE" reopen closes the peer and
 * opens it again: "reopened MS" fill BYTE | count BYTE LEN       its memory; "count N": how
 * many of the first LEN bytes are BYTE
 */
#include <dlfcn.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "ferry/transport_plugin.h"

#define MAX_KV  32
#define MAX_OUT 64

#define CHECK(what)                                                                            \
    do {                                                                                       \
        if (!(what)) {                                                                         \
            printf("%s:%d: %s\n", __FILE__, __LINE__, #what);                                  \
            exit(2);                                                                           \
        }                                                                                      \
    } while (0)

static const struct ferry_transport_ops *ops;
static struct ferry_tp *tp;
static struct ferry_queue *queue;
static struct ferry_peer *peer;
static struct ferry_rmem *rmem;
static struct ferry_mr *mr;
static uint8_t *memory; /* what peers reach */
static uint8_t *buffer; /* what our transfers use */
static uint64_t memory_len;

static char peer_name[256], peer_text[4096];
static struct ferry_kv peer_kv[MAX_KV];
static struct ferry_kvs peer_kvs = {peer_kv, 0};
static uint64_t peer_addr;
static double began[MAX_OUT];
static uint64_t n_lists;

static double now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static const int log_level = FERRY_LOG_DEBUG;

static void host_log(const struct ferry_host *host, enum ferry_log_level level,
                     const char *file, int line, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));

static void host_log(const struct ferry_host *host, enum ferry_log_level level,
                     const char *file, int line, const char *fmt, ...)
{
    char text[1024];
    va_list ap;

    (void)host, (void)file, (void)line;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    printf("log %d %s\n", (int)level, text);
}

static ferry_status region_get(const struct ferry_host *host, uint64_t addr, uint64_t len,
                               uint32_t access, struct ferry_region *out)
{
    uint64_t at = addr - (uintptr_t)memory;

    (void)host, (void)access;
    if (at > memory_len || len > memory_len - at)
        return FERRY_ERANGE;
    *out = (struct ferry_region){.kind = FERRY_MEM_HOST, .device = -1};
    return FERRY_OK;
}

static void region_put(const struct ferry_host *host, struct ferry_region *region)
{
    (void)host, (void)region;
}

static const struct ferry_host host = {.size = sizeof host,
                                       .abi_major = FERRY_TRANSPORT_ABI_MAJOR,
                                       .log_level = &log_level,
                                       .log = host_log,
                                       .region_get = region_get,
                                       .region_put = region_put};

static ferry_status print_attr(struct ferry_kv_sink *sink, const struct ferry_kv *kv)
{
    (void)sink;
    printf("attr %s %.*s\n", kv->key, (int)kv->val_len, (const char *)kv->val);
    return FERRY_OK;
}

/* As the default profile of containers does. */
static void forbid_io_uring(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
    struct sock_fprog prog = {.len = sizeof code / sizeof *code, .filter = code};

    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) == 0);
}

static uint8_t *map(uint64_t len)
{
    void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    CHECK(p != MAP_FAILED);
    return p;
}

static struct ferry_kv pair(char *text)
{
    char *eq = strchr(text, '=');

    CHECK(eq != NULL);
    *eq = '\0';
    return (struct ferry_kv){text, eq + 1, (uint32_t)strlen(eq + 1), FERRY_KV_TEXT};
}

static void peer_open(void)
{
    CHECK(ops->peer_open(tp, peer_name, &peer_kvs, &peer) == FERRY_OK);
    CHECK(ops->rmem_open(peer, peer_addr, memory_len, NULL, &rmem) == FERRY_OK);
}

static void cmd_peer(char *args)
{
    char *save = NULL, *word;

    snprintf(peer_text, sizeof peer_text, "%s", args);
    word = strtok_r(peer_text, " ", &save);
    CHECK(word != NULL);
    snprintf(peer_name, sizeof peer_name, "%s", word);
    word = strtok_r(NULL, " ", &save);
    CHECK(word != NULL);
    peer_addr = strtoull(word, NULL, 10);
    while ((word = strtok_r(NULL, " ", &save)) != NULL && peer_kvs.n < MAX_KV)
        peer_kv[peer_kvs.n++] = pair(word);
    peer_open();
    puts("peer");
}

static void cmd_attach(const char *args)
{
    double t = now_ms();
    ferry_status status = ops->peer_attach(peer, queue, (uint32_t)atoi(args));

    printf("attach %d %.0f\n", status, now_ms() - t);
}

static void cmd_reopen(void)
{
    double t = now_ms();

    ops->peer_close(peer);
    peer_open();
    printf("reopened %.0f\n", now_ms() - t);
}

static void cmd_transfer(enum ferry_op op, const char *args)
{
    char *end;
    int byte = (int)strtol(args, &end, 10);
    uint64_t len = strtoull(end, NULL, 10);
    struct ferry_xfer x = {mr, rmem, buffer, 0, len};
    struct ferry_list list = {
        .size = sizeof list, .op = op, .peer = peer, .v = &x, .n = 1, .cookie = n_lists};
    uint32_t accepted;
    ferry_status status;

    memset(buffer, byte, len);
    began[n_lists % MAX_OUT] = now_ms();
    do
        status = ops->submit(queue, &list, &accepted);
    while (status == FERRY_EAGAIN && accepted == 0 && ops->poll(queue, NULL, 0) == 0);
    if (status == FERRY_OK)
        n_lists++;
    else
        printf("submit %d\n", status);
}

static void cmd_count(const char *args)
{
    char *end;
    int byte = (int)strtol(args, &end, 10);
    uint64_t len = strtoull(end, NULL, 10), n = 0;

    for (uint64_t i = 0; i < len; i++)
        n += memory[i] == byte;
    printf("count %llu\n", (unsigned long long)n);
}

static void command(char *line)
{
    char *args = strchr(line, ' ');

    if (args != NULL)
        *args++ = '\0';
    else
        args = line + strlen(line);
    if (!strcmp(line, "peer"))
        cmd_peer(args);
    else if (!strcmp(line, "attach"))
        cmd_attach(args);
    else if (!strcmp(line, "reopen"))
        cmd_reopen();
    else if (!strcmp(line, "write"))
        cmd_transfer(FERRY_OP_WRITE, args);
    else if (!strcmp(line, "read"))
        cmd_transfer(FERRY_OP_READ, args);
    else if (!strcmp(line, "cancel")) {
        CHECK(ops->cancel(queue, strtoull(args, NULL, 10)) == FERRY_OK);
        printf("cancelled %s\n", args);
    } else if (!strcmp(line, "fill")) {
        memset(memory, atoi(args), memory_len);
        puts("filled");
    } else if (!strcmp(line, "count"))
        cmd_count(args);
    else
        CHECK(!"a known command");
}

/* Lines that have come; false: there will be no more. */
static int read_lines(void)
{
    static char text[8192];
    static size_t have;
    ssize_t r = read(STDIN_FILENO, text + have, sizeof text - 1 - have);
    char *nl;

    if (r <= 0)
        return 0;
    have += (size_t)r;
    text[have] = '\0';
    while ((nl = strchr(text, '\n')) != NULL) {
        *nl = '\0';
        command(text);
        have -= (size_t)(nl + 1 - text);
        memmove(text, nl + 1, have + 1);
    }
    return 1;
}

static void loop(void)
{
    struct pollfd p[2] = {{.fd = STDIN_FILENO, .events = POLLIN}, {.events = POLLIN}};

    CHECK(ops->queue_fd(queue, &p[1].fd) == FERRY_OK);
    for (;;) {
        struct ferry_comp comp[16];
        int32_t n = ops->poll(queue, comp, 16);

        CHECK(n >= 0);
        for (int32_t i = 0; i < n; i++)
            printf("done %llu %d %.0f\n", (unsigned long long)comp[i].cookie, comp[i].status,
                   now_ms() - began[comp[i].cookie % MAX_OUT]);
        if (n > 0 || ops->queue_arm(queue) != FERRY_OK)
            continue;
        poll(p, 2, -1);
        if (p[0].revents != 0 && !read_lines())
            return;
    }
}

int main(int argc, char **argv)
{
    struct ferry_kv_sink sink = {.put = print_attr};
    struct ferry_queue_attr attr = {.size = sizeof attr};
    const struct ferry_transport_plugin *plugin;
    struct ferry_kv kv[MAX_KV];
    struct ferry_kvs kvs = {kv, 0};
    struct ferry_mem_desc d = {.size = sizeof d,
                               .dmabuf_fd = -1,
                               .access = FERRY_ACCESS_LOCAL_WRITE | FERRY_ACCESS_REMOTE_READ |
                                         FERRY_ACCESS_REMOTE_WRITE};
    int at = 1;
    void *so;

    setvbuf(stdout, NULL, _IOLBF, 0);
    if (at < argc && !strcmp(argv[at], "--no-io-uring")) {
        forbid_io_uring();
        at++;
    }
    CHECK(argc >= at + 2);
    so = dlopen(argv[at], RTLD_NOW | RTLD_LOCAL);
    if (so == NULL)
        puts(dlerror());
    CHECK(so != NULL && (plugin = dlsym(so, FERRY_TRANSPORT_SYMBOL)) != NULL);
    ops = plugin->ops;
    memory_len = strtoull(argv[at + 1], NULL, 10);
    memory = map(memory_len);
    buffer = map(memory_len);
    for (int i = at + 2; i < argc && kvs.n < MAX_KV; i++)
        kv[kvs.n++] = pair(argv[i]);
    CHECK(ops->open(&host, &kvs, &tp) == FERRY_OK);
    d.addr = buffer;
    d.len = memory_len;
    CHECK(ops->mem_reg(tp, &d, 1, &mr) == FERRY_OK);
    CHECK(ops->queue_open(tp, &attr, &queue) == FERRY_OK);
    CHECK(ops->export_segment(tp, &sink) == FERRY_OK);
    printf("ready %llu\n", (unsigned long long)(uintptr_t)memory);
    loop();
    ops->peer_close(peer);
    ops->queue_close(queue);
    ops->mem_dereg(tp, &mr, 1);
    ops->close(tp);
    return 0;
}
