/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the libfabric transport's workers do beside a queue call. They are made slow where they
 * take and leave a lock, so that the call always comes between. Links the transport without its
 * table; both ends are in this process but where one is to be killed. Over the provider tcp.
 */
#include <dirent.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "fab.h"

#define MIB     UINT64_C(1048576)
#define LEN     (16 * MIB)
#define ALL     (FERRY_ACCESS_LOCAL_WRITE | FERRY_ACCESS_REMOTE_READ | FERRY_ACCESS_REMOTE_WRITE)
#define WAIT_NS UINT64_C(30000000000)

/* ---- slow workers: the linker sends the transport's calls here (--wrap) */

static atomic_uint before_lock_us, after_unlock_us;

int __real_pthread_mutex_lock(pthread_mutex_t *mutex);
int __wrap_pthread_mutex_lock(pthread_mutex_t *mutex);
int __real_pthread_mutex_unlock(pthread_mutex_t *mutex);
int __wrap_pthread_mutex_unlock(pthread_mutex_t *mutex);

static bool is_worker(void)
{
    static _Thread_local int known; /* 0 = not yet */
    char name[16];

    if (!known) {
        pthread_getname_np(pthread_self(), name, sizeof(name));
        known = strcmp(name, "fy-fab-work") == 0 ? 1 : -1;
    }
    return known > 0;
}

static void pause_worker(const atomic_uint *us)
{
    unsigned wait_us = atomic_load(us);

    if (wait_us && is_worker())
        usleep(wait_us);
}

int __wrap_pthread_mutex_lock(pthread_mutex_t *mutex)
{
    pause_worker(&before_lock_us);
    return __real_pthread_mutex_lock(mutex);
}

int __wrap_pthread_mutex_unlock(pthread_mutex_t *mutex)
{
    int rc = __real_pthread_mutex_unlock(mutex);

    pause_worker(&after_unlock_us);
    return rc;
}

/* ---- nodes, which answer each other's calls */

struct node {
    struct ferry_host host; /* first */
    int level;
    const char *name;
    struct node *other; /* NULL = in another process, at the end of `calls` */
    int calls;
    struct ferry_tp *tp;
    uint8_t *mem;
    struct ferry_mr *mr;
    atomic_uint asked[FAB_VALID + 1]; /* how often, by question */
    atomic_uint hold;                 /* bits, by question: not carried on meanwhile */
    atomic_bool gone;                 /* it logged that a link is */
};

static struct node ours, theirs;

static void __attribute__((format(printf, 5, 6)))
host_log(const struct ferry_host *host, enum ferry_log_level level, const char *file, int line,
         const char *fmt, ...)
{
    if (strstr(fmt, "its link is gone"))
        atomic_store(&((struct node *)(uintptr_t)host)->gone, true);
}

/* One message each way: the request; a status and the answer. */
static ferry_status call_process(int fd, const void *req, size_t req_len, uint32_t timeout_ms,
                                 struct ferry_buf_sink *reply)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    ferry_status status = FERRY_EUNREACH;
    struct pollfd answered = {.fd = fd, .events = POLLIN};
    char text[16384];
    ssize_t n = -1;

    pthread_mutex_lock(&lock);
    if (send(fd, req, req_len, MSG_NOSIGNAL) == (ssize_t)req_len) {
        if (poll(&answered, 1, (int)timeout_ms) == 1)
            n = recv(fd, text, sizeof(text), 0);
        else
            status = FERRY_ETIMEDOUT; /* it is stopped for good: no late answer comes */
    }
    pthread_mutex_unlock(&lock);
    if (n < (ssize_t)sizeof(status))
        return status;
    memcpy(&status, text, sizeof(status));
    return status == FERRY_OK
               ? reply->append(reply, text + sizeof(status), (size_t)n - sizeof(status))
               : status;
}

static ferry_status peer_call(const struct ferry_host *host, const char *peer_name,
                              const void *req, size_t req_len, uint32_t timeout_ms,
                              struct ferry_buf_sink *reply)
{
    struct node *node = (struct node *)(uintptr_t)host;
    struct fab_request request = {0};
    const char *why;

    if (fab_request_parse(req, req_len, &request, &why) != FERRY_OK)
        return FERRY_EINTERNAL;
    atomic_fetch_add(&node->asked[request.ask], 1);
    while (atomic_load(&node->hold) & 1u << request.ask)
        usleep(100);
    if (!node->other)
        return call_process(node->calls, req, req_len, timeout_ms, reply);
    return fab_on_call(node->other->tp, node->name, req, req_len, reply);
}

struct answer {
    struct ferry_buf_sink sink; /* first */
    size_t len;
    char text[16384];
};

static ferry_status append(struct ferry_buf_sink *sink, const void *data, size_t len)
{
    struct answer *answer = (struct answer *)sink;

    if (len > sizeof(answer->text) - answer->len)
        return FERRY_ENOMEM;
    memcpy(answer->text + answer->len, data, len);
    answer->len += len;
    return FERRY_OK;
}

struct answering {
    struct node *node;
    const char *peer;
    int fd;
};

/* What call_process asks, until its process has ended. */
static void *answer_calls(void *arg)
{
    const struct answering *a = arg;
    char req[16384];
    ssize_t n;

    while ((n = recv(a->fd, req, sizeof(req), 0)) > 0) {
        struct answer answer = {.sink.append = append, .len = sizeof(ferry_status)};
        ferry_status status = fab_on_call(a->node->tp, a->peer, req, (size_t)n, &answer.sink);
        memcpy(answer.text, &status, sizeof(status));
        if (send(a->fd, answer.text, answer.len, MSG_NOSIGNAL) < 0)
            break;
    }
    return NULL;
}

static void node_open(struct node *node, const char *name, struct node *other, int calls,
                      const struct ferry_kvs *config)
{
    struct ferry_mem_desc d = {
        .size = sizeof(d), .len = LEN, .device = -1, .dmabuf_fd = -1, .access = ALL};

    *node =
        (struct node){.level = FERRY_LOG_INFO, .name = name, .other = other, .calls = calls};
    node->host = (struct ferry_host){.size = sizeof(node->host),
                                     .log_level = &node->level,
                                     .log = host_log,
                                     .peer_call = peer_call};
    node->mem = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(node->mem != MAP_FAILED);
    assert_int_equal(fab_open(&node->host, config, &node->tp), FERRY_OK);
    d.addr = node->mem;
    assert_int_equal(fab_mem_reg(node->tp, &d, 1, &node->mr), FERRY_OK);
}

static void node_close(struct node *node)
{
    if (node->mr)
        fab_mem_dereg(node->tp, &node->mr, 1);
    fab_close(node->tp);
    munmap(node->mem, LEN);
}

/* What a node or a region of it tells others: one value. */
struct told {
    struct ferry_kv_sink sink; /* first */
    struct ferry_kv kv;
    struct ferry_kvs kvs;
    char text[4096];
};

static ferry_status put(struct ferry_kv_sink *sink, const struct ferry_kv *kv)
{
    struct told *told = (struct told *)sink;

    assert_true(kv->val_len < sizeof(told->text));
    memcpy(told->text, kv->val, kv->val_len);
    told->kv = (struct ferry_kv){FAB_KEY, told->text, kv->val_len, kv->flags};
    told->kvs = (struct ferry_kvs){&told->kv, 1};
    return FERRY_OK;
}

/* ---- ours attached to theirs */

static struct {
    struct ferry_peer *peer;
    struct ferry_queue *queue;
    struct ferry_rmem *rmem;
} at;

static const struct ferry_kv plain[] = {
    {"provider", "tcp", 3, FERRY_KV_TEXT},
    {"core.bind", "127.0.0.1", 9, FERRY_KV_TEXT},
};
static const struct ferry_kvs plain_config = {plain, 2};

static const struct ferry_kv small_window[] = {
    {"provider", "tcp", 3, FERRY_KV_TEXT},
    {"core.bind", "127.0.0.1", 9, FERRY_KV_TEXT},
    {"slice", "65536", 5, FERRY_KV_TEXT},
    {"window", "262144", 6, FERRY_KV_TEXT},
};

static void attach(struct node *node, const char *name, const struct ferry_kvs *segment,
                   struct ferry_peer **peer_out, struct ferry_queue **queue_out)
{
    struct ferry_queue_attr attr = {.size = sizeof(attr), .depth = 64};

    assert_int_equal(fab_peer_open(node->tp, name, segment, peer_out), FERRY_OK);
    assert_int_equal(fab_queue_open(node->tp, &attr, queue_out), FERRY_OK);
    assert_int_equal(fab_peer_attach(*peer_out, *queue_out, 10000), FERRY_OK);
}

static void pair_open(const struct ferry_kv *v, size_t n)
{
    const struct ferry_kvs config = {.v = v, .n = n};
    struct told told = {.sink.put = put};

    node_open(&theirs, "theirs", &ours, -1, &config);
    node_open(&ours, "ours", &theirs, -1, &config);
    assert_int_equal(fab_export_segment(theirs.tp, &told.sink), FERRY_OK);
    attach(&ours, "theirs", &told.kvs, &at.peer, &at.queue);
    assert_int_equal(fab_export_mem(theirs.mr, &told.sink), FERRY_OK);
    assert_int_equal(fab_rmem_open(at.peer, (uintptr_t)theirs.mem, LEN, &told.kvs, &at.rmem),
                     FERRY_OK);
}

static void pair_close(void)
{
    fab_peer_close(at.peer);
    fab_queue_close(at.queue);
    node_close(&ours);
    node_close(&theirs);
}

/* ---- the tests */

/* A region of theirs, the last half MiB of their memory, that they take back at once. */
static struct ferry_rmem *revoked(void)
{
    struct ferry_mem_desc d = {.size = sizeof(d),
                               .addr = theirs.mem + LEN - MIB / 2,
                               .len = MIB / 2,
                               .device = -1,
                               .dmabuf_fd = -1,
                               .access = ALL};
    struct told told = {.sink.put = put};
    struct ferry_rmem *rmem;
    struct ferry_mr *mr;

    assert_int_equal(fab_mem_reg(theirs.tp, &d, 1, &mr), FERRY_OK);
    assert_int_equal(fab_export_mem(mr, &told.sink), FERRY_OK);
    fab_mem_dereg(theirs.tp, &mr, 1);
    assert_int_equal(fab_rmem_open(at.peer, (uintptr_t)d.addr, d.len, &told.kvs, &rmem),
                     FERRY_OK);
    return rmem;
}

static bool all_is(const uint8_t *mem, int value, size_t len)
{
    return mem[0] == value && memcmp(mem, mem + 1, len - 1) == 0;
}

/* One small WRITE, from its submit to its completion. */
static void write_some(uint64_t cookie)
{
    struct ferry_xfer x = {ours.mr, at.rmem, ours.mem, 0, 4096};
    struct ferry_list list = {.size = sizeof(list),
                              .op = FERRY_OP_WRITE,
                              .peer = at.peer,
                              .v = &x,
                              .n = 1,
                              .cookie = cookie};
    const uint64_t end_ns = ft_now_ns() + WAIT_NS;
    struct ferry_comp comp;
    uint32_t accepted;

    assert_int_equal(fab_submit(at.queue, &list, &accepted), FERRY_OK);
    while (fab_poll(at.queue, &comp, 1) == 0)
        assert_true(ft_now_ns() < end_ns);
    assert_int_equal(comp.cookie, cookie);
    assert_int_equal(comp.status, FERRY_OK);
}

/*
 * One list breaks the link, by a key that was taken back, and is cancelled before the link is
 * made again. Its elements end once, and then neither side's memory changes any more.
 */
static void break_and_cancel(enum ferry_op op, uint64_t cookie)
{
    const size_t long_len = LEN - MIB;
    struct ferry_xfer x[2] = {
        {ours.mr, revoked(), ours.mem + long_len, 0, 4096},
        {ours.mr, at.rmem, ours.mem, 0, long_len},
    };
    struct ferry_list list = {
        .size = sizeof(list), .op = op, .peer = at.peer, .v = x, .n = 2, .cookie = cookie};
    const unsigned opened = atomic_load(&ours.asked[FAB_OPEN]);
    unsigned ended[2] = {0};
    uint32_t accepted;
    uint64_t end_ns = ft_now_ns() + WAIT_NS, quiet_ns = 0;
    bool cancelled = false;

    atomic_store(&ours.hold, 1u << FAB_OPEN);
    assert_int_equal(fab_submit(at.queue, &list, &accepted), FERRY_OK);
    assert_int_equal(accepted, 2);
    while (!quiet_ns || ft_now_ns() < quiet_ns) {
        struct ferry_comp comp[4];
        int32_t n = fab_poll(at.queue, comp, 4);
        assert_true(n >= 0 && ft_now_ns() < end_ns);
        for (int32_t i = 0; i < n; i++) {
            assert_int_equal(comp[i].cookie, cookie);
            for (uint32_t k = 0; k < comp[i].n; k++)
                ended[comp[i].first + k]++;
        }
        if (!cancelled && atomic_load(&ours.asked[FAB_OPEN]) > opened) {
            assert_int_equal(fab_cancel(at.queue, cookie), FERRY_OK);
            cancelled = true;
            atomic_store(&ours.hold, 0);
        }
        if (ended[0] && ended[1] && !quiet_ns) {
            memset(ours.mem, 1, long_len);
            memset(theirs.mem, 2, long_len);
            quiet_ns = ft_now_ns() + 50000000; /* what comes too late comes now */
        }
        usleep(100);
    }
    assert_true(cancelled);
    assert_int_equal(ended[0], 1);
    assert_int_equal(ended[1], 1);
    assert_true(all_is(ours.mem, 1, long_len));
    assert_true(all_is(theirs.mem, 2, long_len));
    fab_rmem_close(x[0].rmem);
}

static void cancelled_while_broken_ends_once(void **state)
{
    pair_open(small_window, sizeof(small_window) / sizeof(small_window[0]));
    atomic_store(&after_unlock_us, 3000);
    for (uint64_t round = 0; round < 6; round++) {
        write_some(100 + round);
        break_and_cancel(round % 2 ? FERRY_OP_READ : FERRY_OP_WRITE, round);
    }
    atomic_store(&after_unlock_us, 0);
    pair_close();
}

/*
 * One list after the other for half a second, each cancelled at once where `cancel` says so.
 * Their link always has something on its way, which always moves on.
 */
static void keep_busy(bool cancel)
{
    const uint64_t end_ns = ft_now_ns() + 500000000, fail_ns = end_ns + WAIT_NS;
    struct ferry_xfer x = {ours.mr, at.rmem, ours.mem, 0, cancel ? LEN : LEN / 4};
    struct ferry_list list = {
        .size = sizeof(list), .op = FERRY_OP_WRITE, .peer = at.peer, .v = &x, .n = 1};
    uint32_t submitted = 0, ended = 0;

    while (ended < submitted || ft_now_ns() < end_ns) {
        struct ferry_comp comp;
        uint32_t accepted;
        assert_true(ft_now_ns() < fail_ns);
        if (submitted - ended < (cancel ? 1 : 2) && ft_now_ns() < end_ns) {
            list.cookie = submitted++;
            assert_int_equal(fab_submit(at.queue, &list, &accepted), FERRY_OK);
            if (cancel)
                assert_int_equal(fab_cancel(at.queue, list.cookie), FERRY_OK);
        }
        if (fab_poll(at.queue, &comp, 1) == 1) {
            assert_int_equal(comp.status, cancel ? FERRY_ECANCELED : FERRY_OK);
            ended++;
        }
    }
}

/* Their limits are so long that whoever is asked, or taken down, is so by mistake. */
static void what_moves_is_neither_asked_nor_taken_down(void **state)
{
    static const struct ferry_kv patient[] = {
        {"provider", "tcp", 3, FERRY_KV_TEXT},
        {"core.bind", "127.0.0.1", 9, FERRY_KV_TEXT},
        {"stall_ms", "600000", 6, FERRY_KV_TEXT},
        {"cancel_ms", "600000", 6, FERRY_KV_TEXT},
    };

    pair_open(patient, sizeof(patient) / sizeof(patient[0]));
    atomic_store(&before_lock_us, 3000);
    keep_busy(false);
    keep_busy(true);
    atomic_store(&before_lock_us, 0);
    assert_int_equal(atomic_load(&ours.asked[FAB_ALIVE]), 0);
    assert_int_equal(atomic_load(&ours.asked[FAB_OPEN]), 1);
    pair_close();
}

static void wait_for(bool (*holds)(void))
{
    const uint64_t end_ns = ft_now_ns() + WAIT_NS;

    while (!holds()) {
        assert_true(ft_now_ns() < end_ns);
        usleep(1000);
    }
}

static bool they_are_asked(void)
{
    return atomic_load(&theirs.asked[FAB_VALID]) > 0;
}

static bool ours_is_stalled(void)
{
    return atomic_load(&ours.asked[FAB_ALIVE]) > 0;
}

static bool we_ask(void)
{
    return atomic_load(&ours.asked[FAB_VALID]) > 0;
}

/* Whoever reaches us does not answer whether it still wants its link; we see that another one
 * does not move all the same. */
static void the_clock_goes_on_while_one_is_asked(void **state)
{
    struct told told = {.sink.put = put};
    struct ferry_peer *peer;
    struct ferry_queue *queue;
    struct ferry_xfer x;
    struct ferry_list list = {
        .size = sizeof(list), .op = FERRY_OP_WRITE, .v = &x, .n = 1, .cookie = 1};
    struct ferry_comp comp;
    uint32_t accepted;

    pair_open(plain, sizeof(plain) / sizeof(plain[0]));
    assert_int_equal(fab_export_segment(ours.tp, &told.sink), FERRY_OK);
    attach(&theirs, "ours", &told.kvs, &peer, &queue);
    atomic_store(&ours.hold, 1u << FAB_VALID);
    wait_for(we_ask);
    pthread_mutex_lock(&theirs.tp->serve_lock); /* nothing that reaches them moves on */
    list.peer = at.peer;
    x = (struct ferry_xfer){ours.mr, at.rmem, ours.mem, 0, LEN};
    assert_int_equal(fab_submit(at.queue, &list, &accepted), FERRY_OK);
    wait_for(ours_is_stalled);
    pthread_mutex_unlock(&theirs.tp->serve_lock);
    atomic_store(&ours.hold, 0);
    while (fab_poll(at.queue, &comp, 1) == 0)
        ;
    assert_int_equal(comp.status, FERRY_OK);
    fab_peer_close(peer);
    fab_queue_close(queue);
    pair_close();
}

/* ---- a process to be killed */

static struct {
    pid_t pid;
    int up, down, ready; /* its calls; calls to it; readable once it is attached */
} process;

/* Attaches to whoever tells it its segment, and stays. Outside of a test: what fails here ends
 * the process. */
static void initiate(int up, int down, int ready)
{
    struct answering answering = {&ours, "theirs", down};
    struct told told;
    ssize_t n = recv(up, told.text, sizeof(told.text), 0);

    if (n <= 0)
        _exit(0);
    told.kv = (struct ferry_kv){FAB_KEY, told.text, (uint32_t)n, FERRY_KV_JSON};
    told.kvs = (struct ferry_kvs){&told.kv, 1};
    node_open(&ours, "ours", NULL, up, &plain_config);
    attach(&ours, "theirs", &told.kvs, &at.peer, &at.queue);
    if (write(ready, "", 1) == 1)
        answer_calls(&answering);
    _exit(1);
}

/* Before there is any thread. */
static void process_start(void)
{
    int up[2], down[2], ready[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, up), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, down), 0);
    assert_int_equal(pipe(ready), 0);
    process.pid = fork();
    assert_true(process.pid >= 0);
    if (process.pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(up[0]);
        close(down[0]);
        initiate(up[1], down[1], ready[1]);
    }
    close(up[1]);
    close(down[1]);
    close(ready[1]);
    process.up = up[0];
    process.down = down[0];
    process.ready = ready[0];
}

static unsigned descriptors(void)
{
    DIR *dir = opendir("/proc/self/fd");
    unsigned n = 0;

    assert_non_null(dir);
    while (readdir(dir))
        n++;
    closedir(dir);
    return n;
}

static unsigned descriptors_before;

static bool it_is_cleaned_up(void)
{
    return atomic_load(&theirs.gone) && descriptors() == descriptors_before;
}

/* Nobody here but it; nothing tells that it has died. */
static void what_is_served_to_a_killed_process_goes(void **state)
{
    struct answering answering = {&theirs, "ours", process.up};
    struct pollfd ready = {.fd = process.ready, .events = POLLIN};
    struct told told = {.sink.put = put};
    pthread_t thread;
    char byte;

    node_open(&theirs, "theirs", NULL, process.down, &plain_config);
    assert_int_equal(fab_export_segment(theirs.tp, &told.sink), FERRY_OK);
    descriptors_before = descriptors();
    assert_int_equal(send(process.up, told.text, told.kv.val_len, 0), told.kv.val_len);
    assert_int_equal(pthread_create(&thread, NULL, answer_calls, &answering), 0);
    assert_int_equal(poll(&ready, 1, 30000), 1);
    assert_int_equal(read(process.ready, &byte, 1), 1);
    wait_for(they_are_asked);
    usleep(100000);
    assert_true(descriptors() > descriptors_before); /* it answers, and is served on */
    assert_false(atomic_load(&theirs.gone));
    assert_int_equal(kill(process.pid, SIGSTOP), 0); /* in a debugger, say */
    usleep(3000000);
    assert_false(atomic_load(&theirs.gone));
    assert_int_equal(kill(process.pid, SIGKILL), 0);
    assert_int_equal(waitpid(process.pid, NULL, 0), process.pid);
    wait_for(it_is_cleaned_up);
    assert_int_equal(pthread_join(thread, NULL), 0);
    node_close(&theirs);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cancelled_while_broken_ends_once),
        cmocka_unit_test(what_moves_is_neither_asked_nor_taken_down),
        cmocka_unit_test(the_clock_goes_on_while_one_is_asked),
        cmocka_unit_test(what_is_served_to_a_killed_process_goes),
    };
    const char *why;

    process_start();
    if (!fab_lib_get(&why)) {
        printf("%s\n", why);
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
