/* SPDX-License-Identifier: Apache-2.0 */
/* The core over one transport (the argument; loop without), in one process. */
#include "engine_pair.h"

#include <dirent.h>
#include <poll.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine.h"
#include "util/clock.h"

static const char *protocol = "loop";

static void set_up(struct pair *pair)
{
    pair_open(pair, protocol, NULL);
}

static void fill(char *at, size_t len, unsigned seed)
{
    for (size_t i = 0; i < len; i++)
        at[i] = (char)(i * 31 + seed);
}

static void writes_and_reads(void **state)
{
    struct pair pair;

    set_up(&pair);
    for (size_t len = 1; len <= PAIR_LEN; len = len * 7 + 1) {
        struct ferry_request request = {.local = pair.ours,
                                        .remote = (uint64_t)(uintptr_t)pair.theirs,
                                        .len = len,
                                        .segment = pair.peer,
                                        .op = FERRY_WRITE};
        size_t failed;

        fill(pair.ours, len, (unsigned)len);
        assert_ok(ferry_transfer(pair.a, &request, 1, NULL, &failed));
        assert_int_equal(failed, 1);
        assert_memory_equal(pair.ours, pair.theirs, len);
        memset(pair.ours, 0, len);
        request.op = FERRY_READ;
        assert_ok(ferry_transfer(pair.a, &request, 1, NULL, NULL));
        assert_memory_equal(pair.ours, pair.theirs, len);
    }
    pair_close(&pair);
}

static ferry_status on_connection(struct ferry_tp *tp, const void *req, size_t req_len,
                                  struct ferry_buf_sink *reply)
{
    if (req_len == 2 && !memcmp(req, "{}", 2)) /* a transport that fails */
        return FERRY_EINVAL;
    assert_ok(reply->append(reply, "{\"heard\":", 9));
    assert_ok(reply->append(reply, req, req_len));
    return reply->append(reply, "}", 1);
}

/* Mooncake's Connection message goes to the primary transport, and the body is not touched. */
static void connection_messages_are_carried(void **state)
{
    struct pair pair;
    struct fy_transport *from, *to;
    struct ferry_transport_ops ops;
    const struct ferry_transport_ops *own;
    const char *name;
    struct fy_buf reply;

    set_up(&pair);
    from = pair.a->transports[0];
    to = pair.b->transports[0];
    name = ferry_engine_name(pair.b);
    own = to->ops;
    fy_buf_init(&reply, 0);
    assert_ok(from->host.pub.peer_connection(&from->host.pub, name, "{\"x\":1}", 7, 5000,
                                             &reply.sink));
    assert_string_equal(reply.data, "null"); /* it takes none */
    fy_buf_fini(&reply);
    ops = *own;
    ops.on_connection = on_connection;
    to->ops = &ops;
    assert_ok(from->host.pub.peer_connection(&from->host.pub, name, "{\"x\":1}", 7, 5000,
                                             &reply.sink));
    assert_string_equal(reply.data, "{\"heard\":{\"x\":1}}");
    fy_buf_fini(&reply);
    assert_ok(
        from->host.pub.peer_connection(&from->host.pub, name, "{}", 2, 5000, &reply.sink));
    assert_string_equal(reply.data, "null");
    fy_buf_fini(&reply);
    assert_int_equal(from->host.pub.peer_connection(&from->host.pub, "127.0.0.1:9", "{}", 2,
                                                    1000, &reply.sink),
                     FERRY_EUNREACH);
    to->ops = own;
    pair_close(&pair);
}

static void many_small_requests_in_one_batch(void **state)
{
    enum { N = 100000, SIZE = 64 };
    struct ferry_request *requests = calloc(N, sizeof(*requests));
    struct ferry_batch_status status;
    struct pair pair;
    ferry_batch batch;

    set_up(&pair);
    fill(pair.ours, PAIR_LEN, 1);
    for (size_t i = 0; i < N; i++) {
        size_t to = (i * 7919) % N; /* every place once */

        requests[i] =
            (struct ferry_request){.local = pair.ours + i * SIZE,
                                   .remote = (uint64_t)(uintptr_t)pair.theirs + to * SIZE,
                                   .len = SIZE,
                                   .segment = pair.peer,
                                   .op = FERRY_WRITE};
    }
    assert_ok(ferry_submit(pair.a, requests, N, NULL, &batch));
    assert_ok(ferry_batch_wait(pair.a, batch, 20000, &status));
    assert_int_equal(status.done, N);
    assert_int_equal(status.failed, 0);
    assert_int_equal(status.bytes, N * SIZE);
    for (size_t i = 0; i < N; i++)
        assert_memory_equal(pair.ours + i * SIZE, pair.theirs + (i * 7919) % N * SIZE, SIZE);
    ferry_batch_free(pair.a, batch);
    assert_int_equal(ferry_batch_poll(pair.a, batch, NULL), FERRY_ENOENT);
    free(requests);
    pair_close(&pair);
}

static void reads_and_writes_mixed(void **state)
{
    enum { N = 1000, SIZE = 512 };
    struct ferry_request requests[N];
    struct ferry_request_status one;
    struct pair pair;
    ferry_batch batch;

    set_up(&pair);
    fill(pair.ours, PAIR_LEN / 2, 1);
    fill(pair.theirs + PAIR_LEN / 2, PAIR_LEN / 2, 2);
    for (size_t i = 0; i < N; i++) {
        size_t at = i * SIZE + (i % 3 ? 0 : PAIR_LEN / 2);

        requests[i] = (struct ferry_request){.local = pair.ours + at,
                                             .remote = (uint64_t)(uintptr_t)pair.theirs + at,
                                             .len = SIZE,
                                             .segment = pair.peer,
                                             .op = i % 3 ? FERRY_WRITE : FERRY_READ};
    }
    assert_ok(ferry_submit(pair.a, requests, N, NULL, &batch));
    assert_ok(ferry_batch_wait(pair.a, batch, 5000, NULL));
    for (size_t i = 0; i < N; i++) {
        assert_memory_equal(requests[i].local, (void *)(uintptr_t)requests[i].remote, SIZE);
        assert_ok(ferry_batch_request(pair.a, batch, i, &one));
        assert_int_equal(one.status, FERRY_OK);
        assert_string_equal(one.transport, protocol);
        assert_true(one.rail[0] != '\0');
    }
    assert_int_equal(ferry_batch_request(pair.a, batch, N, &one), FERRY_EINVAL);
    ferry_batch_free(pair.a, batch);
    pair_close(&pair);
}

static void refuses_what_is_not_registered(void **state)
{
    const uint32_t all = FERRY_REMOTE_READ | FERRY_REMOTE_WRITE;
    static char stack[4096], read_only[4096];
    struct ferry_buffer buffer = {
        .addr = read_only, .len = sizeof(read_only), .access = FERRY_REMOTE_READ};
    struct ferry_request request, two[2];
    struct pair pair;
    ferry_batch batch;
    size_t failed;

    set_up(&pair);
    request = (struct ferry_request){.local = stack,
                                     .remote = (uint64_t)(uintptr_t)pair.theirs,
                                     .len = 8,
                                     .segment = pair.peer,
                                     .op = FERRY_WRITE};
    assert_int_equal(ferry_transfer(pair.a, &request, 1, NULL, &failed), FERRY_ERANGE);
    assert_non_null(strstr(ferry_error(), "request 0: local range"));
    assert_int_equal(failed, 0);
    request.local = pair.ours;
    two[0] = two[1] = request;
    two[1].local = stack;
    assert_int_equal(ferry_transfer(pair.a, two, 2, NULL, &failed), FERRY_ERANGE);
    assert_int_equal(failed, 1);
    request.remote += PAIR_LEN - 4;
    assert_int_equal(ferry_submit(pair.a, &request, 1, NULL, &batch), FERRY_ERANGE);
    assert_non_null(strstr(ferry_error(), ferry_engine_name(pair.b)));
    assert_ok(ferry_memory_register(pair.b, &buffer, 1));
    request.remote =
        (uint64_t)(uintptr_t)read_only; /* found after the document is read again */
    assert_int_equal(ferry_transfer(pair.a, &request, 1, NULL, NULL), FERRY_EACCESS);
    assert_non_null(strstr(ferry_error(), "right to write"));
    request.op = FERRY_READ;
    assert_ok(ferry_transfer(pair.a, &request, 1, NULL, NULL));
    request.len = 0;
    assert_int_equal(ferry_transfer(pair.a, &request, 1, NULL, NULL), FERRY_EINVAL);
    request.len = 8;
    request.op = 9;
    assert_int_equal(ferry_transfer(pair.a, &request, 1, NULL, NULL), FERRY_EINVAL);
    request.segment = 77;
    request.op = FERRY_READ;
    assert_int_equal(ferry_transfer(pair.a, &request, 1, NULL, NULL), FERRY_ENOENT);
    buffer.addr = pair.theirs + 100;
    buffer.access = all;
    assert_int_equal(ferry_memory_register(pair.b, &buffer, 1), FERRY_EEXIST);
    buffer.addr = read_only;
    assert_ok(ferry_memory_unregister(pair.b, &buffer.addr, 1));
    assert_int_equal(ferry_memory_unregister(pair.b, &buffer.addr, 1), FERRY_ENOENT);
    pair_close(&pair);
}

static void refused(struct ferry_engine *engine, const struct ferry_buffer *buffers, size_t n,
                    ferry_status status, const char *words)
{
    assert_int_equal(ferry_memory_register(engine, buffers, n), status);
    if (!strstr(ferry_error(), words))
        fail_msg("\"%s\" is not in: %s", words, ferry_error());
}

/* The first peer that wrote there would end the process. */
static void refuses_memory_that_it_cannot_touch(void **state)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    char *pages = mmap(NULL, 3 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    void *const bad[] = {pages + 2 * page, (void *)(uintptr_t)4096, // NOLINT: nothing is there
                         (void *)(uintptr_t)1};                     // NOLINT
    struct ferry_buffer buffers[2];
    char words[120];
    struct pair pair;

    assert_true(pages != MAP_FAILED);
    assert_int_equal(mprotect(pages, 2 * page, PROT_READ | PROT_WRITE), 0);
    set_up(&pair);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        buffers[0] = (struct ferry_buffer){.addr = pages, .len = page};
        buffers[1] = (struct ferry_buffer){.addr = bad[i], .len = page};
        snprintf(words, sizeof(words),
                 "buffer 1: %p+%zu is not memory that this process can read", bad[i], page);
        refused(pair.a, buffers, 2, FERRY_EINVAL, words);
    }
    buffers[0] = (struct ferry_buffer){.addr = pages, .len = 2 * page + 1};
    refused(pair.a, buffers, 1, FERRY_EINVAL, "buffer 0: ");
    buffers[0] = (struct ferry_buffer){.addr = pages, .len = page, .location = "cuda:0"};
    refused(pair.a, buffers, 1, FERRY_ENOTSUP, "\"cuda:0\" is device memory");
    assert_non_null(strstr(ferry_error(), protocol));
    /* Where a transport takes device memory it is that one's to say, unless it is the host's.
     */
    pair.a->transports[0]->caps.local_mem |= FERRY_MEM_BIT(FERRY_MEM_DEVICE);
    buffers[0] = (struct ferry_buffer){.addr = pages + 2 * page, .len = page};
    snprintf(words, sizeof(words), "transport %s does not register", protocol);
    refused(pair.a, buffers, 1, FERRY_ENOTSUP, words);
    buffers[0].location = "cpu:0";
    refused(pair.a, buffers, 1, FERRY_EINVAL, "buffer 0: ");
    /* To its last byte, and nothing was left of the calls before. */
    buffers[0] = (struct ferry_buffer){.addr = pages + 1, .len = 2 * page - 1};
    assert_ok(ferry_memory_register(pair.a, buffers, 1));
    assert_ok(ferry_memory_unregister(pair.a, &buffers[0].addr, 1));
    pair_close(&pair);
    munmap(pages, 3 * page);
}

/* What a lists of b, as b registered them: where in `at` each begins. */
static void assert_listed(struct pair *pair, const char *at, const size_t *offsets, size_t n)
{
    struct ferry_buffer buffers[8];
    size_t found = 0;

    assert_ok(ferry_segment_refresh(pair->a, pair->peer, 5000));
    memset(buffers, 0, sizeof(buffers));
    assert_ok(ferry_segment_buffers(pair->a, pair->peer, buffers, 8, &found));
    assert_int_equal(found, n + 1);
    assert_ptr_equal(buffers[0].addr, pair->theirs);
    for (size_t i = 0; i < n; i++)
        assert_ptr_equal(buffers[i + 1].addr, at + offsets[i]);
    buffers[1].addr = NULL;
    assert_ok(ferry_segment_buffers(pair->a, pair->peer, buffers, 1, &found));
    assert_int_equal(found, n + 1);
    assert_ptr_equal(buffers[0].addr, pair->theirs);
    assert_null(buffers[1].addr); /* room for one */
}

static void buffers_are_listed_as_they_were_registered(void **state)
{
    static char pages[4][4096];
    char *at = pages[0];
    const struct ferry_buffer buffers[] = {
        {.addr = at + 8192, .len = 4096, .access = FERRY_REMOTE_WRITE},
        {.addr = at + 12288, .len = 4096, .access = FERRY_REMOTE_WRITE},
        {.addr = at, .len = 4096}, /* not for peers */
        {.addr = at + 4096, .len = 4096, .access = FERRY_REMOTE_WRITE}};
    struct pair pair;

    set_up(&pair);
    assert_ok(ferry_memory_register(pair.b, buffers, 3));
    assert_ok(ferry_memory_register(pair.b, &buffers[3], 1));
    assert_listed(&pair, at, (size_t[]){8192, 12288, 4096}, 3);
    /* Between two looks: the same buffers in another order. */
    assert_ok(ferry_memory_unregister(pair.b, (void *[]){at + 8192}, 1));
    assert_ok(ferry_memory_register(pair.b, buffers, 1));
    assert_listed(&pair, at, (size_t[]){12288, 4096, 8192}, 3);
    assert_ok(ferry_memory_unregister(pair.b, (void *[]){at + 4096, at + 12288}, 2));
    assert_listed(&pair, at, (size_t[]){8192}, 1);
    pair_close(&pair);
}

static void notifies_after_the_data_once(void **state)
{
    const char bytes[] = "a\0\xff bin";
    struct ferry_submit attr = {.size = sizeof(attr),
                                .notify_name = "ready",
                                .notify = bytes,
                                .notify_len = sizeof(bytes)};
    struct ferry_notification *note;
    struct ferry_request request;
    struct pair pair;

    set_up(&pair);
    request = (struct ferry_request){.local = pair.ours,
                                     .remote = (uint64_t)(uintptr_t)pair.theirs,
                                     .len = 1 << 20,
                                     .segment = pair.peer,
                                     .op = FERRY_WRITE};
    fill(pair.ours, 1 << 20, 5);
    assert_ok(ferry_transfer(pair.a, &request, 1, &attr, NULL));
    assert_ok(
        ferry_notification_next(pair.b, 0, &note)); /* there already: the batch waited for it */
    assert_memory_equal(pair.ours, pair.theirs, 1 << 20);
    assert_string_equal(note->name, "ready");
    assert_string_equal(note->from, ferry_engine_name(pair.a));
    assert_int_equal(note->len, sizeof(bytes));
    assert_memory_equal(note->data, bytes, sizeof(bytes));
    ferry_notification_free(note);
    assert_int_equal(ferry_notification_next(pair.b, 10, &note), FERRY_EAGAIN);
    assert_ok(ferry_notify(pair.a, pair.peer, "text", "h\xc3\xa9llo", 6, 1000));
    assert_ok(ferry_notification_next(pair.b, 1000, &note));
    assert_string_equal(note->data, "h\xc3\xa9llo");
    ferry_notification_free(note);
    pair_close(&pair);
}

static uint64_t ms_since(uint64_t start)
{
    return (fy_now_ns() - start) / FY_NS_PER_MS;
}

/* Until only the notification is missing. */
static void wait_for_data(struct pair *pair, ferry_batch handle)
{
    struct fy_batch *batch = fy_batch_get(pair->a, handle);

    assert_non_null(batch);
    while (atomic_load(&batch->parts_left))
        usleep(1000);
    fy_batch_put(batch);
}

/* More than there are threads for: they hold up no connection, and each ends in time. */
static void notifications_that_hang_hold_up_nothing_else(void **state)
{
    enum { N = 100, SIZE = 4096 };
    struct ferry_submit attr = {
        .size = sizeof(attr), .timeout_ms = 30000, .notify_name = "ready"};
    struct ferry_batch_status status;
    struct ferry_request request;
    ferry_batch batches[N];
    struct pair pair, other;
    uint64_t start;

    set_up(&pair);
    other = (struct pair){.a = pair.a, .ours = pair.ours};
    other.b = pair_engine("c", protocol, NULL);
    assert_ok(
        ferry_memory_alloc(other.b, PAIR_LEN, FERRY_REMOTE_WRITE, (void **)&other.theirs));
    request = (struct ferry_request){.local = pair.ours,
                                     .remote = (uint64_t)(uintptr_t)pair.theirs,
                                     .len = SIZE,
                                     .segment = pair.peer,
                                     .op = FERRY_WRITE};
    assert_ok(ferry_transfer(pair.a, &request, 1, NULL, NULL));
    pthread_mutex_lock(&pair.b->notice_lock); /* accepts notifications, answers none */
    for (int i = 0; i < N; i++) {
        attr.timeout_ms = i == N - 1 ? 1000 : 30000;
        request.local = pair.ours + i * SIZE;
        request.remote = (uint64_t)(uintptr_t)pair.theirs + i * SIZE;
        assert_ok(ferry_submit(pair.a, &request, 1, &attr, &batches[i]));
    }
    for (int i = 0; i < N; i++)
        wait_for_data(&pair, batches[i]);

    start = fy_now_ns();
    assert_ok(ferry_segment_open(pair.a, ferry_engine_name(other.b), 5000, &other.peer));
    request.segment = other.peer;
    request.remote = (uint64_t)(uintptr_t)other.theirs;
    attr = (struct ferry_submit){.size = sizeof(attr), .timeout_ms = 8000};
    assert_ok(ferry_transfer(pair.a, &request, 1, &attr, NULL));
    assert_in_range(ms_since(start), 0, 4000);

    /* Of those that no thread has looked at yet: one whose time ends, one that is canceled. */
    assert_ok(ferry_batch_wait(pair.a, batches[N - 1], 5000, &status));
    assert_int_equal(status.first_error, FERRY_ETIMEDOUT);
    assert_int_equal(status.done, 1);
    start = fy_now_ns();
    assert_ok(ferry_batch_cancel(pair.a, batches[N - 2], 5000));
    assert_ok(ferry_batch_wait(pair.a, batches[N - 2], 0, &status));
    assert_int_equal(status.first_error, FERRY_ECANCELED);
    for (int i = 0; i < N; i++)
        ferry_batch_free(pair.a, batches[i]);
    assert_in_range(ms_since(start), 0, 10000);
    pthread_mutex_unlock(&pair.b->notice_lock);
    ferry_segment_close(pair.a, other.peer);
    ferry_engine_close(other.b, 1000);
    pair_close(&pair);
}

static void expect_note(struct ferry_engine *engine, const char *name)
{
    struct ferry_notification *note;

    assert_ok(ferry_notification_next(engine, 1000, &note));
    assert_string_equal(note->name, name);
    ferry_notification_free(note);
}

static void expect_no_note(struct ferry_engine *engine)
{
    struct ferry_notification *note;

    assert_int_equal(ferry_notification_next(engine, 50, &note), FERRY_EAGAIN);
}

static struct ferry_engine *engine_named(const char *name)
{
    struct ferry_options options = {.size = sizeof(options),
                                    .name = name,
                                    .protocol = protocol,
                                    .log = pair_log,
                                    .log_arg = (void *)"named"};
    struct ferry_engine *engine;

    assert_ok(ferry_engine_open(&options, &engine));
    return engine;
}

/* A batch to two peers. While the first one takes its time over the notification, it turns out
 * that the second has restarted: in the midst of the data, as a Mooncake node before, or after
 * it. */
static void notifies_only_the_incarnation_that_has_the_data(void **state)
{
    const struct ferry_submit attr = {
        .size = sizeof(attr), .timeout_ms = 20000, .notify_name = "ready"};
    struct ferry_request requests[2];
    struct ferry_batch_status status;
    struct ferry_engine *c = engine_named("127.0.0.1");
    ferry_segment peer;
    ferry_batch handle;
    struct pair pair;
    char name[64];
    void *memory;

    set_up(&pair);
    snprintf(name, sizeof(name), "%s", ferry_engine_name(c));
    assert_ok(ferry_memory_alloc(c, 4096, FERRY_REMOTE_WRITE, &memory));
    assert_ok(ferry_segment_open(pair.a, name, 5000, &peer));
    requests[0] = (struct ferry_request){.local = pair.ours,
                                         .remote = (uint64_t)(uintptr_t)pair.theirs,
                                         .len = 4096,
                                         .segment = pair.peer,
                                         .op = FERRY_WRITE};
    requests[1] = requests[0];
    requests[1].remote = (uint64_t)(uintptr_t)memory;
    requests[1].segment = peer;
    assert_ok(ferry_transfer(pair.a, requests, 2, &attr, NULL));
    expect_note(pair.b, "ready");
    expect_note(c, "ready");

    for (int round = 0; round < 3; round++) {
        struct fy_batch *batch;
        struct fy_part other;
        struct fy_view view;
        struct fy_doc doc;

        pthread_mutex_lock(&pair.b->notice_lock);
        assert_ok(ferry_submit(pair.a, requests, 2, &attr, &handle));
        wait_for_data(&pair, handle);
        batch = fy_batch_get(pair.a, handle);
        if (round == 2) {
            ferry_engine_close(c, 1000);
            c = engine_named(name);
        } else { /* as if a further attempt had carried it, or a part of it */
            pthread_mutex_lock(&batch->lock);
            other = batch->parts[1];
            view = *other.view;
            doc = *view.doc;
            doc.epoch = (char *)(round ? "" : "another");
            view.doc = &doc;
            other.view = &view;
            batch->later = &other;
            if (round)
                batch->parts[1].n_again = batch->parts[1].n;
            pthread_mutex_unlock(&batch->lock);
        }
        pthread_mutex_unlock(&pair.b->notice_lock);
        assert_ok(ferry_batch_wait(pair.a, handle, 20000, &status));
        assert_int_equal(status.first_error, FERRY_ESTALE);
        assert_int_equal(status.done, 2);
        batch->later = NULL;
        fy_batch_put(batch);
        ferry_batch_free(pair.a, handle);
        expect_note(pair.b, "ready");
        expect_no_note(c);
    }
    assert_ok(ferry_notify(pair.a, peer, "by name", NULL, 0, 5000));
    expect_note(c, "by name");
    ferry_segment_close(pair.a, peer);
    ferry_engine_close(c, 1000);
    pair_close(&pair);
}

static void an_event_loop_is_told(void **state)
{
    struct ferry_request request;
    struct pair pair;
    ferry_batch batches[3], ended[3];
    size_t n = 0;
    int fd;

    set_up(&pair);
    request = (struct ferry_request){.local = pair.ours,
                                     .remote = (uint64_t)(uintptr_t)pair.theirs,
                                     .len = 1 << 16,
                                     .segment = pair.peer,
                                     .op = FERRY_WRITE};
    fd = ferry_engine_fd(pair.a);
    for (int i = 0; i < 3; i++) { /* each has a place of its own: they are under way at once */
        assert_ok(ferry_submit(pair.a, &request, 1, NULL, &batches[i]));
        request.local = (char *)request.local + request.len;
        request.remote += request.len;
    }
    while (n < 3) {
        struct pollfd p = {.fd = fd, .events = POLLIN};

        assert_int_equal(poll(&p, 1, 5000), 1);
        n += ferry_reap(pair.a, ended + n, 3 - n);
    }
    assert_int_equal(poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, 0), 0);
    for (int i = 0; i < 3; i++)
        ferry_batch_free(pair.a, batches[i]);
    request.len = 8;
    for (int i = 0; i < 2000; i++) { /* what is named has ended, however soon one asks */
        assert_ok(ferry_submit(pair.a, &request, 1, NULL, &batches[0]));
        while (!ferry_reap(pair.a, ended, 1))
            ;
        assert_ok(ferry_batch_poll(pair.a, ended[0], NULL));
        ferry_batch_free(pair.a, ended[0]);
    }
    pair_close(&pair);
}

struct worker {
    struct pair *pair;
    int id;
};

static void *keep_writing(void *arg)
{
    enum { SIZE = 4096, N = 16 };
    struct worker *worker = arg;
    struct pair *pair = worker->pair;
    struct ferry_request requests[N];
    char *mine = pair->ours + (size_t)worker->id * SIZE * N;
    char *there = pair->theirs + (size_t)worker->id * SIZE * N;

    for (int i = 0; i < N; i++)
        requests[i] =
            (struct ferry_request){.local = mine + i * SIZE,
                                   .remote = (uint64_t)(uintptr_t)there + (unsigned)i * SIZE,
                                   .len = SIZE,
                                   .segment = pair->peer,
                                   .op = FERRY_WRITE};
    for (int round = 0; round < 300; round++) {
        fill(mine, SIZE * N, (unsigned)(round * 17 + worker->id));
        if (round % 3) {
            assert_ok(ferry_transfer(pair->a, requests, N, NULL, NULL));
        } else {
            ferry_batch batch;

            assert_ok(ferry_submit(pair->a, requests, N, NULL, &batch));
            while (round % 2 && ferry_batch_poll(pair->a, batch, NULL) == FERRY_EAGAIN)
                ;
            assert_ok(ferry_batch_wait(pair->a, batch, 20000, NULL));
            ferry_batch_free(pair->a, batch);
        }
        assert_memory_equal(mine, there, SIZE * N);
    }
    return NULL;
}

static void many_threads_at_once(void **state)
{
    struct worker workers[8];
    pthread_t threads[8];
    struct pair pair;

    set_up(&pair);
    for (int i = 0; i < 8; i++) {
        workers[i] = (struct worker){.pair = &pair, .id = i};
        pthread_create(&threads[i], NULL, keep_writing, &workers[i]);
    }
    for (int i = 0; i < 8; i++)
        pthread_join(threads[i], NULL);
    pair_close(&pair);
}

static int count_descriptors(void)
{
    DIR *dir = opendir("/proc/self/fd");
    int n = 0;

    assert_non_null(dir);
    while (readdir(dir))
        n++;
    closedir(dir);
    return n;
}

/* Connections are closed in the background. At most `most`, or as many as stay. */
static int descriptors_left(int most)
{
    int n = count_descriptors(), same = 0;

    while (n > most && same < 100) {
        int before = n;

        usleep(10000);
        n = count_descriptors();
        same = n == before ? same + 1 : 0;
    }
    return n;
}

struct opener {
    struct pair *pair;
    pthread_barrier_t *at_once;
    ferry_segment segment;
};

static void *open_segment(void *arg)
{
    struct opener *opener = arg;

    pthread_barrier_wait(opener->at_once);
    assert_ok(ferry_segment_open(opener->pair->a, ferry_engine_name(opener->pair->b), 5000,
                                 &opener->segment));
    return NULL;
}

/* Those that come too late leave nothing behind: no connection, and under ASan no memory. */
static void one_segment_opened_by_many_threads(void **state)
{
    enum { N = 8 };
    struct opener openers[N];
    pthread_t threads[N];
    pthread_barrier_t at_once;
    struct ferry_request request = {.len = 4096, .op = FERRY_WRITE};
    struct pair pair;
    int before;

    set_up(&pair);
    request.local = pair.ours;
    request.remote = (uint64_t)(uintptr_t)pair.theirs;
    request.segment = pair.peer;
    assert_ok(ferry_transfer(pair.a, &request, 1, NULL, NULL)); /* has one for who waits */
    ferry_segment_close(pair.a, pair.peer);
    before = descriptors_left(0);
    pthread_barrier_init(&at_once, NULL, N);
    for (int i = 0; i < N; i++) {
        openers[i] = (struct opener){.pair = &pair, .at_once = &at_once};
        pthread_create(&threads[i], NULL, open_segment, &openers[i]);
    }
    for (int i = 0; i < N; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < N; i++) {
        assert_int_equal(openers[i].segment, openers[0].segment);
        request.segment = openers[i].segment;
        assert_ok(ferry_transfer(pair.a, &request, 1, NULL, NULL));
        ferry_segment_close(pair.a, openers[i].segment);
    }
    assert_int_equal(ferry_transfer(pair.a, &request, 1, NULL, NULL), FERRY_ENOENT);
    assert_in_range(descriptors_left(before), 0, before);
    pthread_barrier_destroy(&at_once);
    pair_close(&pair);
}

/* Of a batch of less than 64 MiB that names no limit. */
static uint32_t default_limit(const char *config)
{
    struct ferry_request request = {.len = PAIR_LEN, .op = FERRY_WRITE};
    struct fy_batch *inside;
    struct pair pair;
    ferry_batch batch;
    uint32_t limit;

    pair_open(&pair, "loop", config);
    request.local = pair.ours;
    request.remote = (uint64_t)(uintptr_t)pair.theirs;
    request.segment = pair.peer;
    assert_ok(ferry_submit(pair.a, &request, 1, NULL, &batch));
    inside = fy_batch_get(pair.a, batch);
    assert_non_null(inside);
    limit = inside->timeout_ms;
    fy_batch_put(inside);
    ferry_batch_free(pair.a, batch);
    pair_close(&pair);
    return limit;
}

static void the_time_limit_is_configured(void **state)
{
    assert_int_equal(default_limit(NULL), 30000);
    assert_int_equal(default_limit("{\"timeout_ms\": 7000}"), 7000);
}

static void describes_itself(void **state)
{
    static const char *const topics[] = {"statistics", "links", "plugins", "segment", "config"};
    struct pair pair;
    char *json;

    set_up(&pair);
    for (size_t i = 0; i < sizeof(topics) / sizeof(topics[0]); i++) {
        assert_ok(ferry_engine_describe(pair.a, topics[i], &json));
        assert_true(json[0] == '{' || json[0] == '[');
        ferry_string_free(json);
    }
    assert_int_equal(ferry_engine_describe(pair.a, "wether", &json), FERRY_EINVAL);
    assert_ok(ferry_segment_probe(pair.a, pair.peer, 2000));
    pair_close(&pair);
}

static void a_name_that_is_not_there(void **state)
{
    struct ferry_options options = {
        .size = sizeof(options), .name = "127.0.0.1", .protocol = "lop"};
    struct ferry_engine *engine;
    struct pair pair;
    ferry_segment segment;

    assert_int_equal(ferry_engine_open(&options, &engine), FERRY_ENOTSUP);
    assert_non_null(strstr(ferry_error(), "loop"));
    set_up(&pair);
    assert_int_equal(ferry_segment_open(pair.a, "127.0.0.1:1", 1000, &segment), FERRY_EUNREACH);
    assert_non_null(strstr(ferry_error(), "127.0.0.1:1"));
    pair_close(&pair);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(writes_and_reads),
        cmocka_unit_test(connection_messages_are_carried),
        cmocka_unit_test(many_small_requests_in_one_batch),
        cmocka_unit_test(reads_and_writes_mixed),
        cmocka_unit_test(refuses_what_is_not_registered),
        cmocka_unit_test(refuses_memory_that_it_cannot_touch),
        cmocka_unit_test(buffers_are_listed_as_they_were_registered),
        cmocka_unit_test(notifies_after_the_data_once),
        cmocka_unit_test(notifications_that_hang_hold_up_nothing_else),
        cmocka_unit_test(notifies_only_the_incarnation_that_has_the_data),
        cmocka_unit_test(an_event_loop_is_told),
        cmocka_unit_test(many_threads_at_once),
        cmocka_unit_test(one_segment_opened_by_many_threads),
        cmocka_unit_test(the_time_limit_is_configured),
        cmocka_unit_test(describes_itself),
        cmocka_unit_test(a_name_that_is_not_there),
    };

    if (argc > 1)
        protocol = argv[1];
    return cmocka_run_group_tests(tests, NULL, NULL);
}
