/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FAKE_RDMA_H
#define FAKE_RDMA_H

/*
 * Devices for the rdma transport that do what a test says, for what no real one does on demand:
 * shortages, answers that come late, paths that carry probes and no data. The transport's peer
 * is itself; no byte is copied. A test sets `fake` and looks at it at any time.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <cmocka.h>

#include "rdma.h"

#define FAKE_RING 16384u

enum fake_data { DATA_ARRIVES, DATA_FAILS, DATA_STAYS };
/* LATE: when its answer is not waited for any more; MEANWHILE: it is still at it even then;
 * KEEPS: not before the test passes on what is in fake_kept. */
enum fake_answer { ANSWERS, ANSWERS_LATE, ANSWERS_MEANWHILE, KEEPS, REFUSES };

static struct {
    atomic_int data, answer;
    atomic_uint data_failures; /* so many, then as `data` says */
    atomic_int refusal;        /* a ferry_status, of REFUSES */
    atomic_bool no_qp;         /* none can be made */
    atomic_bool unreachable;   /* who asks cannot use the answer */
    atomic_uint answer_us;     /* so long it takes to make a queue pair of who answers */
    atomic_uint asked, n_qp;   /* questions; queue pairs that exist */
} fake;

struct fake_cq {
    struct ibv_cq cq;
    uint32_t head, n;
    struct ibv_wc wc[FAKE_RING];
};

struct fake_qp {
    struct ibv_qp qp;
    bool failed;
};

static struct ferry_tp *fake_tp;
static char fake_kept[4096]; /* the last question */

static struct ibv_comp_channel *fake_channel(struct ibv_context *ctx)
{
    struct ibv_comp_channel *channel = calloc(1, sizeof(*channel));

    assert_non_null(channel);
    channel->context = ctx;
    channel->fd = eventfd(0, EFD_CLOEXEC);
    return channel;
}

static int fake_channel_end(struct ibv_comp_channel *channel)
{
    close(channel->fd);
    free(channel);
    return 0;
}

static struct ibv_cq *fake_create_cq(struct ibv_context *ctx, int cqe, void *arg,
                                     struct ibv_comp_channel *channel, int vector)
{
    struct fake_cq *cq = calloc(1, sizeof(*cq));

    assert_non_null(cq);
    cq->cq.context = ctx;
    return &cq->cq;
}

static int fake_destroy_cq(struct ibv_cq *cq)
{
    free(cq);
    return 0;
}

static struct ibv_qp *fake_create_qp(struct ibv_pd *pd, struct ibv_qp_init_attr *attr)
{
    static atomic_uint number = 16;
    struct fake_qp *qp = fake.no_qp ? NULL : calloc(1, sizeof(*qp));

    if (attr->send_cq == fake_tp->device[0].serve_cq)
        usleep(fake.answer_us);
    if (!qp) {
        errno = ENOMEM;
        return NULL;
    }
    qp->qp.context = pd->context;
    qp->qp.send_cq = attr->send_cq;
    qp->qp.qp_num = ++number;
    fake.n_qp++;
    return &qp->qp;
}

static int fake_modify_qp(struct ibv_qp *qp, struct ibv_qp_attr *attr, int mask)
{
    bool asks = qp->send_cq != fake_tp->device[0].serve_cq;

    return asks && attr->qp_state == IBV_QPS_RTR && fake.unreachable ? ENETUNREACH : 0;
}

static int fake_destroy_qp(struct ibv_qp *qp)
{
    fake.n_qp--;
    free(qp);
    return 0;
}

static const char *fake_words(enum ibv_wc_status status)
{
    return "as the test has it";
}

static void complete(struct ibv_qp *qp, uint64_t id, enum ibv_wc_status status)
{
    struct fake_cq *cq = (struct fake_cq *)qp->send_cq;

    assert_true(cq->n < FAKE_RING);
    cq->wc[(cq->head + cq->n++) % FAKE_RING] = (struct ibv_wc){.wr_id = id, .status = status};
}

static int fake_post_send(struct ibv_qp *qp, struct ibv_send_wr *wr, struct ibv_send_wr **bad)
{
    struct fake_qp *self = (struct fake_qp *)qp;

    for (; wr; wr = wr->next) {
        bool probe = wr->num_sge == 0;
        if (self->failed) {
            complete(qp, wr->wr_id, IBV_WC_WR_FLUSH_ERR);
        } else if (!probe && (fake.data == DATA_FAILS || fake.data_failures)) {
            self->failed = true;
            fake.data_failures -= fake.data_failures > 0;
            complete(qp, wr->wr_id, IBV_WC_RETRY_EXC_ERR);
        } else if ((probe || fake.data == DATA_ARRIVES) && wr->send_flags & IBV_SEND_SIGNALED) {
            complete(qp, wr->wr_id, IBV_WC_SUCCESS);
        }
    }
    return 0;
}

static int fake_poll_cq(struct ibv_cq *from, int n, struct ibv_wc *wc)
{
    struct fake_cq *cq = (struct fake_cq *)from;
    int i = 0;

    for (; i < n && cq->n; i++, cq->n--)
        wc[i] = cq->wc[cq->head++ % FAKE_RING];
    return i;
}

static const struct rdma_ibv fake_ibv = {
    .create_comp_channel = fake_channel,
    .destroy_comp_channel = fake_channel_end,
    .create_cq = fake_create_cq,
    .destroy_cq = fake_destroy_cq,
    .create_qp = fake_create_qp,
    .modify_qp = fake_modify_qp,
    .destroy_qp = fake_destroy_qp,
    .wc_status_str = fake_words,
};

static ferry_status fake_refuse(const void *req, size_t len, struct ferry_buf_sink *reply)
{
    struct rdma_hello hello;
    const char *why;
    ferry_status status = rdma_hello_parse(req, len, &hello, &why);
    char *text;

    if (status != FERRY_OK)
        return status;
    hello.n_qp = 0;
    hello.status = fake.refusal;
    strcpy(hello.reply_msg, "as the test has it");
    text = rdma_hello_encode(&hello);
    assert_non_null(text);
    status = reply->append(reply, text, strlen(text));
    free(text);
    return status;
}

static ferry_status fake_forget(struct ferry_buf_sink *sink, const void *data, size_t len)
{
    return FERRY_OK;
}

static void *fake_answer(void *request)
{
    struct ferry_buf_sink nobody = {fake_forget};

    rdma_on_call(fake_tp, "itself", request, strlen(request), &nobody);
    free(request);
    return NULL;
}

/* One question is answered by a thread of its own, until the next one has been. */
static ferry_status fake_answer_meanwhile(const void *req, size_t len,
                                          struct ferry_buf_sink *reply)
{
    static bool answering;
    static pthread_t thread;
    ferry_status status;

    if (!answering) {
        fake.answer_us = 100000;
        assert_int_equal(pthread_create(&thread, NULL, fake_answer, strndup(req, len)), 0);
        usleep(20000);
        answering = true;
        return FERRY_ETIMEDOUT;
    }
    status = rdma_on_call(fake_tp, "itself", req, len, reply);
    pthread_join(thread, NULL);
    answering = false;
    return status;
}

static ferry_status fake_call(const struct ferry_host *host, const char *peer_name,
                              const void *req, size_t len, uint32_t timeout_ms,
                              struct ferry_buf_sink *reply)
{
    ferry_status status;

    fake.asked++;
    if (fake.answer == REFUSES)
        return fake_refuse(req, len, reply);
    if (fake.answer == KEEPS) {
        assert_true(len < sizeof(fake_kept));
        memcpy(fake_kept, req, len);
        fake_kept[len] = '\0';
        return FERRY_ETIMEDOUT;
    }
    if (fake.answer == ANSWERS_MEANWHILE)
        return fake_answer_meanwhile(req, len, reply);
    status = rdma_on_call(fake_tp, "itself", req, len, reply);
    return fake.answer == ANSWERS_LATE ? FERRY_ETIMEDOUT : status;
}

__attribute__((format(printf, 5, 6))) static void fake_log(const struct ferry_host *host,
                                                           enum ferry_log_level level,
                                                           const char *file, int line,
                                                           const char *fmt, ...)
{
    va_list ap;

    if (!getenv("FERRY_TEST_LOG"))
        return;
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
}

static int fake_level = FERRY_LOG_DEBUG;
static const struct ferry_host fake_host = {
    .size = sizeof(fake_host),
    .log_level = &fake_level,
    .log = fake_log,
    .peer_call = fake_call,
};

/* `n` devices fake0, fake1, ...; opened by hand, for rdma_open wants a machine that has some.
 */
static struct ferry_tp *fake_open(uint32_t n)
{
    struct ferry_tp *tp = calloc(1, sizeof(*tp));

    assert_non_null(tp);
    memset(&fake, 0, sizeof(fake));
    tp->host = &fake_host;
    tp->ibv = &fake_ibv;
    atomic_init(&tp->next_id, 1);
    assert_true(ft_instance(tp->instance));
    assert_int_equal(rdma_config_read(tp->host, NULL, &tp->config), FERRY_OK);
    for (tp->n_devices = 0; tp->n_devices < n; tp->n_devices++) {
        struct rdma_device *device = &tp->device[tp->n_devices];
        device->tp = tp;
        snprintf(device->name, sizeof(device->name), "fake%u", tp->n_devices);
        device->numa_node = -1;
        device->mtu = 4096;
        device->bandwidth_Bps = 1250000000;
        device->max_rd_atomic = device->max_init_rd_atomic = 16;
        device->gids = calloc(1, sizeof(device->gids[0]));
        device->ctx = calloc(1, sizeof(*device->ctx));
        device->pd = calloc(1, sizeof(*device->pd));
        assert_true(device->gids && device->ctx && device->pd);
        device->n_gids = 1;
        device->gids[0].raw[15] = (uint8_t)(tp->n_devices + 1);
        device->ctx->ops.post_send = fake_post_send;
        device->ctx->ops.poll_cq = fake_poll_cq;
        device->pd->context = device->ctx;
        atomic_init(&device->port_up, true);
    }
    tp->device[0].serve_cq = fake_create_cq(tp->device[0].ctx, 1, NULL, NULL, 0);
    for (uint32_t d = 1; d < n; d++) /* one for all: it says who answers */
        tp->device[d].serve_cq = tp->device[0].serve_cq;
    pthread_mutex_init(&tp->lock, NULL);
    pthread_mutex_init(&tp->serve_lock, NULL);
    pthread_cond_init(&tp->serve_cond, NULL);
    assert_int_equal(rdma_jobs_open(&tp->jobs), FERRY_OK);
    return fake_tp = tp;
}

static void fake_close(struct ferry_tp *tp)
{
    rdma_jobs_close(&tp->jobs);
    rdma_served_close(tp);
    assert_int_equal(fake.n_qp, 0);
    fake_destroy_cq(tp->device[0].serve_cq);
    for (uint32_t d = 0; d < tp->n_devices; d++) {
        free(tp->device[d].gids);
        free(tp->device[d].ctx);
        free(tp->device[d].pd);
    }
    pthread_cond_destroy(&tp->serve_cond);
    pthread_mutex_destroy(&tp->serve_lock);
    pthread_mutex_destroy(&tp->lock);
    free(tp->peers);
    free(tp);
}

static struct ferry_queue *fake_queue(struct ferry_tp *tp)
{
    struct ferry_queue_attr attr = {.size = sizeof(attr)};
    struct ferry_queue *queue;

    assert_int_equal(rdma_queue_open(tp, &attr, &queue), FERRY_OK);
    return queue;
}

static struct ferry_peer *fake_peer(struct ferry_tp *tp)
{
    char devices[1024] = "[", instance[64];
    struct ferry_kv v[2];
    const struct ferry_kvs kvs = {.v = v, .n = 2};
    struct ferry_peer *peer;

    for (uint32_t d = 0; d < tp->n_devices; d++) {
        char gid[48], one[128];
        rdma_gid_text(tp->device[d].gids[0].raw, gid);
        snprintf(one, sizeof(one), "%s{\"name\":\"%s\",\"lid\":0,\"gid\":\"%s\"}", d ? "," : "",
                 tp->device[d].name, gid);
        strcat(devices, one);
    }
    strcat(devices, "]");
    snprintf(instance, sizeof(instance), "{\"instance\":\"%s\"}", tp->instance);
    v[0] = (struct ferry_kv){
        .key = "devices", .val = devices, .val_len = (uint32_t)strlen(devices)};
    v[1] = (struct ferry_kv){
        .key = "ferry_rdma", .val = instance, .val_len = (uint32_t)strlen(instance)};
    assert_int_equal(rdma_peer_open(tp, "itself", &kvs, &peer), FERRY_OK);
    return peer;
}

/* Memory at both ends: any address does, for nothing is read or written. */
struct fake_memory {
    uint32_t key[RDMA_MAX_DEVICES];
    struct ibv_mr region, *regions[RDMA_MAX_DEVICES];
    struct ferry_mr mr;
    struct ferry_rmem rmem;
};

static void fake_memory(struct ferry_peer *peer, uint64_t len, struct fake_memory *m)
{
    memset(m, 0, sizeof(*m));
    for (uint32_t d = 0; d < RDMA_MAX_DEVICES; d++)
        m->regions[d] = &m->region;
    m->mr = (struct ferry_mr){.tp = peer->tp,
                              .addr = (uint8_t *)UINT64_C(0x100000),
                              .len = len,
                              .access = FERRY_ACCESS_LOCAL_WRITE,
                              .numa_node = -1,
                              .n_chunks = 1,
                              .mr = m->regions};
    m->rmem = (struct ferry_rmem){
        .peer = peer, .addr = 0x200000, .len = len, .keys = {.n_chunks = 1, .key = m->key}};
}

/* `n` WRITEs of `len` each, nothing adjacent. What is accepted. */
static uint32_t fake_write(struct ferry_queue *queue, struct fake_memory *m, uint32_t n,
                           uint64_t len, ferry_status *status_out)
{
    struct ferry_xfer *v = calloc(n, sizeof(*v));
    struct ferry_list list = {.size = sizeof(list),
                              .op = FERRY_OP_WRITE,
                              .peer = m->rmem.peer,
                              .v = v,
                              .n = n,
                              .cookie = 1};
    uint32_t accepted;

    assert_non_null(v);
    for (uint32_t i = 0; i < n; i++)
        v[i] = (struct ferry_xfer){.local = m->mr.addr + (n - 1 - i) * len,
                                   .mr = &m->mr,
                                   .rmem = &m->rmem,
                                   .remote_off = (n - 1 - i) * len,
                                   .len = len};
    *status_out = rdma_submit(queue, &list, &accepted);
    free(v);
    return accepted;
}

/* Of the next element to end within five seconds; FERRY_EAGAIN: none does. */
static ferry_status fake_ended(struct ferry_queue *queue)
{
    uint64_t until = ft_now_ns() + UINT64_C(5000000000);
    struct ferry_comp comp;

    while (rdma_poll(queue, &comp, 1) == 0) {
        if (ft_now_ns() > until)
            return FERRY_EAGAIN;
        usleep(500);
    }
    return comp.status;
}

#endif /* FAKE_RDMA_H */
