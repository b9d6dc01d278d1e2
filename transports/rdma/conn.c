/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Queue pairs and the message that connects them: as the one who asks (for a rail) and as the
 * one who answers. A connection serves one direction only: who asked posts, who answered lets
 * the device serve. With Mooncake too, which would send both ways over one connection: our NIC
 * paths, which name it, are not those that its own requests ask for, so that both sides may
 * open at the same moment. Knows nothing of what is sent.
 */
#include "rdma.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_SERVED 65536u
/* For a bye where no time is left: it is sent, and nobody waits for the answer. */
#define BYE_MS     50u

struct rdma_served {
    struct rdma_served *next;
    char key[RDMA_PATH_MAX]; /* the asker's NIC path: with `device` it names the connection */
    char instance[FT_INSTANCE_MAX];
    struct rdma_device *device;
    uint32_t mtu;
    uint8_t gid[16]; /* ours */
    uint32_t n_qp;
    uint32_t peer_qp[RDMA_MAX_QPS];
    struct ibv_qp *qp[RDMA_MAX_QPS];
};

struct far_end {
    uint32_t qp_num;
    uint8_t gid[16];
    uint16_t lid;
    uint32_t mtu;
    uint32_t rd_atomic; /* reads in flight: to us where we answer, from us where we ask */
};

struct reply {
    struct ferry_buf_sink sink;
    char *data;
    size_t len, cap;
};

static ferry_status reply_append(struct ferry_buf_sink *sink, const void *data, size_t len)
{
    struct reply *reply = (struct reply *)sink; /* its first member */

    if (len > (UINT64_C(1) << 20) - reply->len)
        return FERRY_ERANGE;
    if (reply->len + len > reply->cap) {
        size_t cap = (reply->len + len) * 2;
        char *grown = realloc(reply->data, cap);
        if (!grown)
            return FERRY_ENOMEM;
        reply->data = grown;
        reply->cap = cap;
    }
    memcpy(reply->data + reply->len, data, len);
    reply->len += len;
    return FERRY_OK;
}

static enum ibv_mtu mtu_code(uint32_t bytes)
{
    return bytes >= 4096   ? IBV_MTU_4096
           : bytes >= 2048 ? IBV_MTU_2048
           : bytes >= 1024 ? IBV_MTU_1024
           : bytes >= 512  ? IBV_MTU_512
                           : IBV_MTU_256;
}

static uint32_t min32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static struct ibv_qp *make_qp(struct rdma_device *device, struct ibv_cq *cq, uint32_t max_wr,
                              uint32_t *max_inline)
{
    struct ibv_qp_init_attr attr = {
        .send_cq = cq,
        .recv_cq = cq,
        .qp_type = IBV_QPT_RC,
        .cap = {.max_send_wr = max_wr,
                .max_recv_wr = 1,
                .max_send_sge = 1,
                .max_recv_sge = 1,
                .max_inline_data = *max_inline},
    };
    struct ibv_qp *qp = device->tp->ibv->create_qp(device->pd, &attr);

    if (!qp && *max_inline) { /* some devices have none, and say so by refusing */
        attr.cap.max_inline_data = 0;
        qp = device->tp->ibv->create_qp(device->pd, &attr);
    }
    if (qp)
        *max_inline = attr.cap.max_inline_data;
    return qp;
}

static int to_init(struct rdma_device *device, struct ibv_qp *qp, bool serves)
{
    struct ibv_qp_attr attr = {
        .qp_state = IBV_QPS_INIT,
        .port_num = device->port,
        .pkey_index = (uint16_t)device->tp->config.pkey_index,
        .qp_access_flags = serves ? IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE : 0,
    };

    return device->tp->ibv->modify_qp(
        qp, &attr, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS);
}

/* PSN 0 on both sides, as Mooncake has it. */
static int to_rts(struct rdma_device *device, struct ibv_qp *qp, int gid_index,
                  const struct far_end *far, bool serves)
{
    const struct rdma_config *config = &device->tp->config;
    struct ibv_qp_attr attr = {
        .qp_state = IBV_QPS_RTR,
        .path_mtu = mtu_code(far->mtu),
        .dest_qp_num = far->qp_num,
        .max_dest_rd_atomic = serves ? (uint8_t)far->rd_atomic : 1,
        .min_rnr_timer = 12,
        .ah_attr = {.is_global = 1,
                    .dlid = far->lid,
                    .sl = (uint8_t)config->service_level,
                    .port_num = device->port,
                    .grh = {.sgid_index = (uint8_t)gid_index,
                            .hop_limit = 64,
                            .traffic_class = (uint8_t)config->traffic_class}},
    };
    int rc;

    memcpy(attr.ah_attr.grh.dgid.raw, far->gid, 16);
    rc = device->tp->ibv->modify_qp(qp, &attr,
                                    IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU |
                                        IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
                                        IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER);
    if (rc)
        return rc;
    attr.qp_state = IBV_QPS_RTS;
    attr.timeout = (uint8_t)config->qp_timeout;
    attr.retry_cnt = (uint8_t)config->qp_retry;
    attr.rnr_retry = 6; /* 7 would be for ever; nobody here posts receives anyway */
    attr.sq_psn = 0;
    attr.max_rd_atomic = serves ? 1 : (uint8_t)far->rd_atomic;
    return device->tp->ibv->modify_qp(qp, &attr,
                                      IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT |
                                          IBV_QP_RNR_RETRY | IBV_QP_SQ_PSN |
                                          IBV_QP_MAX_QP_RD_ATOMIC);
}

static void destroy_qps(struct ferry_tp *tp, struct ibv_qp **qp, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        if (qp[i] && tp->ibv->destroy_qp(qp[i]) != 0)
            FT_LOG(tp->host, FERRY_LOG_ERROR, "destroying queue pair: %s", strerror(errno));
        qp[i] = NULL;
    }
}

/* ---- the one who asks */

static void own_path(const struct rdma_rail *rail, char out[RDMA_PATH_MAX])
{
    const struct ferry_tp *tp = rail->link->queue->tp;

    snprintf(out, RDMA_PATH_MAX, "%.255s@%s#%llu",
             tp->config.name[0] ? tp->config.name : tp->instance, tp->device[rail->local].name,
             (unsigned long long)rail->id);
}

static void fill_hello(const struct rdma_rail *rail, struct rdma_hello *hello)
{
    const struct ferry_tp *tp = rail->link->queue->tp;
    const struct rdma_device *device = &tp->device[rail->local];
    const struct ferry_peer *peer = rail->link->peer;

    memset(hello, 0, sizeof(*hello));
    own_path(rail, hello->local_nic_path);
    snprintf(hello->peer_nic_path, sizeof(hello->peer_nic_path), "%.255s@%s",
             peer->remote.server[0] ? peer->remote.server : peer->name,
             peer->remote.device[rail->remote].name);
    hello->ferry = peer->remote.ferry;
    snprintf(hello->instance, sizeof(hello->instance), "%s", tp->instance);
    snprintf(hello->expect, sizeof(hello->expect), "%s", peer->remote.instance);
    hello->mtu = min32(device->mtu, tp->config.mtu);
    hello->rd_atomic = device->max_init_rd_atomic;
    hello->lid = device->lid;
}

/* By the channel between plugins of one kind, or by Mooncake's own message. */
static ferry_status carry(const struct rdma_rail *rail, const char *text, uint32_t timeout_ms,
                          struct reply *reply)
{
    const struct ferry_host *host = rail->link->queue->tp->host;
    const struct ferry_peer *peer = rail->link->peer;

    if (peer->remote.ferry)
        return host->peer_call(host, peer->name, text, strlen(text), timeout_ms, &reply->sink);
    if (host->size <= offsetof(struct ferry_host, peer_connection) || !host->peer_connection)
        return FERRY_ENOTSUP; /* a core of 1.0 */
    return host->peer_connection(host, peer->name, text, strlen(text), timeout_ms,
                                 &reply->sink);
}

/* One question, one answer; a refusal is a failure with the peer's words in the log. */
static ferry_status ask(const struct rdma_rail *rail, const struct rdma_hello *hello,
                        uint32_t timeout_ms, struct rdma_hello *answer_out)
{
    struct ferry_tp *tp = rail->link->queue->tp;
    struct reply reply = {.sink = {reply_append}};
    char *text = rdma_hello_encode(hello);
    const char *why = NULL;
    ferry_status status;

    if (!text)
        return FERRY_ENOMEM;
    status = carry(rail, text, timeout_ms, &reply);
    free(text);
    if (status == FERRY_OK)
        status = rdma_hello_parse(reply.data ? reply.data : "", reply.len, answer_out, &why);
    free(reply.data);
    if (why) {
        FT_LOG(tp->host, FERRY_LOG_ERROR, "peer %s answered %s: %s", rail->link->peer->name,
               hello->peer_nic_path, why);
        return FERRY_EIO;
    }
    if (status != FERRY_OK) {
        FT_LOG(tp->host, hello->bye ? FERRY_LOG_DEBUG : FERRY_LOG_WARN,
               "%s does not answer (status %d)", hello->peer_nic_path, status);
        return ferry_status_scope(status) < FERRY_SCOPE_PEER ? FERRY_EUNREACH : status;
    }
    if (answer_out->reply_msg[0]) {
        status =
            answer_out->ferry && answer_out->status < 0 ? answer_out->status : FERRY_EUNREACH;
        FT_LOG(tp->host, hello->bye ? FERRY_LOG_DEBUG : FERRY_LOG_WARN, "%s refuses: %.200s%s",
               hello->peer_nic_path, answer_out->reply_msg,
               strstr(answer_out->reply_msg, "QP count")
                   ? " (ferry.rdma.qp_per_peer here, MC_NUM_QP_PER_EP there)"
                   : "");
    }
    return status;
}

static ferry_status finish(struct rdma_rail *rail, const struct rdma_gid *gid,
                           const struct rdma_hello *hello, const struct rdma_hello *answer,
                           struct ibv_qp **qp)
{
    struct ferry_tp *tp = rail->link->queue->tp;
    struct rdma_device *device = &tp->device[rail->local];
    const struct rdma_remote_device *remote = &rail->link->peer->remote.device[rail->remote];
    struct far_end far = {.lid = answer->has_gid ? answer->lid : remote->lid,
                          .mtu = hello->mtu,
                          .rd_atomic = hello->rd_atomic};

    if (answer->n_qp != rail->n_qp ||
        strcmp(answer->local_nic_path, hello->peer_nic_path) != 0 ||
        strcmp(answer->peer_nic_path, hello->local_nic_path) != 0) {
        FT_LOG(tp->host, FERRY_LOG_ERROR,
               "%s answers as %s with %u queue pairs where %u were asked for",
               hello->peer_nic_path, answer->local_nic_path, answer->n_qp, rail->n_qp);
        return FERRY_EIO;
    }
    memcpy(far.gid, answer->has_gid ? answer->gid : remote->gid, 16);
    if (answer->ferry) {
        far.mtu = min32(far.mtu, answer->mtu);
        far.rd_atomic = min32(far.rd_atomic, answer->rd_atomic);
    }
    for (uint32_t i = 0; i < rail->n_qp; i++) {
        int rc;
        far.qp_num = answer->qp_num[i];
        rc = to_rts(device, qp[i], gid->index, &far, false);
        if (rc) {
            char text[48];
            rdma_gid_text(far.gid, text);
            FT_LOG(tp->host, FERRY_LOG_WARN, "device %s cannot reach %s (GID %s): %s",
                   device->name, hello->peer_nic_path, text, strerror(rc));
            return FERRY_EUNREACH;
        }
    }
    return FERRY_OK;
}

/* The peer may have made its end, or be about to; nothing was posted to it. */
static void take_back(struct rdma_rail *rail, uint64_t deadline_ns)
{
    struct ferry_tp *tp = rail->link->queue->tp;
    uint64_t now = ft_now_ns(), left_ms = now < deadline_ns ? (deadline_ns - now) / 1000000 : 0;
    uint32_t timeout_ms = left_ms < BYE_MS ? BYE_MS : min32((uint32_t)left_ms, RDMA_CONTROL_MS);
    ferry_status status = rdma_disconnect(rail, timeout_ms);

    /* It may arrive after the next question, which is to be another one's. */
    if (status != FERRY_OK && status != FERRY_ENOTSUP)
        rail->id = atomic_fetch_add_explicit(&tp->next_id, 1, memory_order_relaxed);
}

ferry_status rdma_connect(struct rdma_rail *rail, uint32_t timeout_ms, struct ibv_qp **qp_out,
                          uint32_t *max_inline_out)
{
    struct ferry_queue *queue = rail->link->queue;
    struct ferry_tp *tp = queue->tp;
    struct rdma_device *device = &tp->device[rail->local];
    const struct rdma_remote_device *remote = &rail->link->peer->remote.device[rail->remote];
    const struct rdma_gid *gid = rdma_gid_for(device, remote->gid);
    struct ibv_qp *qp[RDMA_MAX_QPS] = {0};
    uint32_t max_inline = tp->config.max_inline;
    uint64_t deadline_ns = ft_now_ns() + timeout_ms * UINT64_C(1000000);
    struct rdma_hello hello, answer = {0};
    ferry_status status;

    if (!atomic_load_explicit(&device->port_up, memory_order_relaxed))
        return FERRY_EUNREACH;
    fill_hello(rail, &hello);
    memcpy(hello.gid, gid->raw, 16);
    hello.has_gid = true;
    for (uint32_t i = 0; i < rail->n_qp; i++) {
        int rc = 0;
        qp[i] = make_qp(device, queue->dev[rail->local].cq, rail->qp[i].cap, &max_inline);
        if (!qp[i] || (rc = to_init(device, qp[i], false)) != 0) {
            FT_LOG(tp->host, FERRY_LOG_ERROR, "device %s: making a queue pair: %s",
                   device->name, strerror(rc ? rc : errno));
            destroy_qps(tp, qp, rail->n_qp);
            return FERRY_ENOMEM;
        }
        hello.qp_num[hello.n_qp++] = qp[i]->qp_num;
    }
    status = ask(rail, &hello, timeout_ms, &answer);
    if (status == FERRY_OK)
        status = finish(rail, gid, &hello, &answer, qp);
    if (status != FERRY_OK) {
        destroy_qps(tp, qp, rail->n_qp);
        if (!answer.reply_msg[0])
            take_back(rail, deadline_ns);
        return status;
    }
    memcpy(qp_out, qp, rail->n_qp * sizeof(qp[0]));
    *max_inline_out = max_inline;
    FT_LOG(tp->host, FERRY_LOG_DEBUG, "%s is connected to %s", hello.local_nic_path,
           hello.peer_nic_path);
    return FERRY_OK;
}

ferry_status rdma_disconnect(struct rdma_rail *rail, uint32_t timeout_ms)
{
    struct rdma_hello hello, answer;

    if (!rail->link->peer->remote.ferry)
        return FERRY_ENOTSUP;
    fill_hello(rail, &hello);
    hello.bye = true;
    return ask(rail, &hello, timeout_ms, &answer);
}

/* ---- the one who answers */

static void served_free(struct ferry_tp *tp, struct rdma_served *served)
{
    destroy_qps(tp, served->qp, served->n_qp);
    free(served);
}

/*
 * Takes out the connection of that name, and with `instance` all those that an earlier
 * incarnation of the same node left behind. For the caller to free, without the lock.
 */
static struct rdma_served *take_served(struct ferry_tp *tp, const char *key,
                                       const struct rdma_device *device, const char *instance)
{
    size_t server = strcspn(key, "@");
    struct rdma_served *taken = NULL, **at = &tp->served;

    while (*at) {
        struct rdma_served *served = *at;
        bool stale = instance && served->instance[0] &&
                     strcmp(served->instance, instance) != 0 &&
                     strncmp(served->key, key, server + 1) == 0;
        if (!stale && (served->device != device || strcmp(served->key, key) != 0)) {
            at = &served->next;
            continue;
        }
        *at = served->next;
        served->next = taken;
        taken = served;
        tp->n_served--;
    }
    return taken;
}

static void free_taken(struct ferry_tp *tp, struct rdma_served *taken)
{
    while (taken) {
        struct rdma_served *next = taken->next;
        served_free(tp, taken);
        taken = next;
    }
}

static struct rdma_device *asked_device(struct ferry_tp *tp, const char *path)
{
    const char *name = strchr(path, '@');

    for (uint32_t i = 0; name && i < tp->n_devices; i++)
        if (strcmp(tp->device[i].name, name + 1) == 0)
            return &tp->device[i];
    return NULL;
}

/* The same question again (its answer was lost): the same answer, as Mooncake has it. Ferry
 * nodes make new queue pairs for each question, whose numbers may be those of old ones. */
static bool answer_again(struct ferry_tp *tp, const struct rdma_hello *hello,
                         struct rdma_hello *answer)
{
    const struct rdma_device *device = asked_device(tp, hello->peer_nic_path);
    bool found = false;

    pthread_mutex_lock(&tp->serve_lock);
    for (struct rdma_served *s = tp->served; s && !found; s = s->next) {
        if (s->device != device || strcmp(s->key, hello->local_nic_path) != 0 ||
            s->n_qp != hello->n_qp ||
            memcmp(s->peer_qp, hello->qp_num, s->n_qp * sizeof(s->peer_qp[0])) != 0)
            continue;
        found = true;
        answer->n_qp = s->n_qp;
        for (uint32_t i = 0; i < s->n_qp; i++)
            answer->qp_num[i] = s->qp[i]->qp_num;
        memcpy(answer->gid, s->gid, 16);
        answer->has_gid = true;
        answer->lid = s->device->lid;
        answer->mtu = s->mtu;
        answer->rd_atomic = s->device->max_rd_atomic;
    }
    pthread_mutex_unlock(&tp->serve_lock);
    return found;
}

static ferry_status refuse(struct rdma_hello *answer, ferry_status status, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static ferry_status refuse(struct rdma_hello *answer, ferry_status status, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(answer->reply_msg, sizeof(answer->reply_msg), fmt, ap);
    va_end(ap);
    answer->status = status;
    answer->n_qp = 0;
    return status;
}

static ferry_status serve(struct ferry_tp *tp, const struct rdma_hello *hello,
                          struct rdma_hello *answer)
{
    struct rdma_device *device = asked_device(tp, hello->peer_nic_path);
    struct rdma_served *served, *taken;
    const struct rdma_gid *gid;
    struct far_end far;
    uint32_t none = 0;

    if (!device)
        return refuse(answer, FERRY_ENOENT, "no device in use here: %.200s",
                      hello->peer_nic_path);
    if (!hello->has_gid || hello->n_qp == 0 || !strchr(hello->local_nic_path, '@'))
        return refuse(answer, FERRY_EINVAL, "the request has no GID, path or queue pairs");
    served = calloc(1, sizeof(*served));
    if (!served)
        return refuse(answer, FERRY_ENOMEM, "out of memory");
    gid = rdma_gid_for(device, hello->gid);
    strcpy(served->key, hello->local_nic_path);
    strcpy(served->instance, hello->instance);
    served->device = device;
    memcpy(served->gid, gid->raw, 16);
    served->n_qp = hello->n_qp;
    memcpy(served->peer_qp, hello->qp_num, sizeof(served->peer_qp));
    served->mtu = min32(device->mtu, tp->config.mtu);
    if (hello->ferry)
        served->mtu = min32(served->mtu, hello->mtu);
    far = (struct far_end){
        .lid = hello->lid, .mtu = served->mtu, .rd_atomic = device->max_rd_atomic};
    memcpy(far.gid, hello->gid, 16);
    for (uint32_t i = 0; i < served->n_qp; i++) {
        int rc = 0;
        far.qp_num = hello->qp_num[i];
        served->qp[i] = make_qp(device, device->serve_cq, 1, &none);
        if (!served->qp[i] || (rc = to_init(device, served->qp[i], true)) != 0 ||
            (rc = to_rts(device, served->qp[i], gid->index, &far, true)) != 0) {
            bool made = served->qp[i] != NULL;
            rc = rc ? rc : errno;
            served_free(tp, served);
            return refuse(answer, FERRY_EUNREACH, "device %s: %s: %s", device->name,
                          made ? "queue pair to that address" : "making a queue pair",
                          strerror(rc));
        }
        answer->qp_num[i] = served->qp[i]->qp_num;
    }
    answer->n_qp = served->n_qp;
    memcpy(answer->gid, gid->raw, 16);
    answer->has_gid = true;
    answer->lid = device->lid;
    answer->mtu = served->mtu;
    answer->rd_atomic = device->max_rd_atomic;

    pthread_mutex_lock(&tp->serve_lock);
    taken = take_served(tp, served->key, device, hello->ferry ? hello->instance : NULL);
    if (tp->n_served >= MAX_SERVED) {
        pthread_mutex_unlock(&tp->serve_lock);
        free_taken(tp, taken);
        served_free(tp, served);
        return refuse(answer, FERRY_ENOMEM, "too many connections here: %u", MAX_SERVED);
    }
    served->next = tp->served;
    tp->served = served;
    tp->n_served++;
    pthread_mutex_unlock(&tp->serve_lock);
    free_taken(tp, taken); /* after the new one is there, so that numbers differ */
    return FERRY_OK;
}

/* A question that is being answered; a bye that overtakes it waits. */
struct rdma_serving {
    const char *key;
    struct rdma_serving *next;
};

static void serve_noted(struct ferry_tp *tp, const struct rdma_hello *hello,
                        struct rdma_hello *answer)
{
    struct rdma_serving self = {hello->local_nic_path, NULL}, **at;

    pthread_mutex_lock(&tp->serve_lock);
    self.next = tp->serving;
    tp->serving = &self;
    pthread_mutex_unlock(&tp->serve_lock);
    serve(tp, hello, answer);
    pthread_mutex_lock(&tp->serve_lock);
    for (at = &tp->serving; *at != &self; at = &(*at)->next)
        ;
    *at = self.next;
    pthread_cond_broadcast(&tp->serve_cond);
    pthread_mutex_unlock(&tp->serve_lock);
}

static bool is_serving(const struct ferry_tp *tp, const char *key)
{
    const struct rdma_serving *one = tp->serving;

    while (one && strcmp(one->key, key) != 0)
        one = one->next;
    return one != NULL;
}

static void bye(struct ferry_tp *tp, const struct rdma_hello *hello)
{
    struct rdma_served *taken;

    pthread_mutex_lock(&tp->serve_lock);
    while (is_serving(tp, hello->local_nic_path))
        pthread_cond_wait(&tp->serve_cond, &tp->serve_lock);
    taken =
        take_served(tp, hello->local_nic_path, asked_device(tp, hello->peer_nic_path), NULL);
    pthread_mutex_unlock(&tp->serve_lock);
    free_taken(tp, taken);
}

/* Mooncake's second message, which says that the first one's answer arrived: only nodes send it
 * that were promised to wait for it, which we never do. Queue pairs stay as they are. */
static void acknowledge(struct ferry_tp *tp, const struct rdma_hello *hello,
                        struct rdma_hello *answer)
{
    if (!answer_again(tp, hello, answer))
        refuse(answer, FERRY_ESTALE, "ready_ack for queue pairs that are not connected here");
    answer->n_qp = 0;
}

static ferry_status answer_hello(struct ferry_tp *tp, const char *peer_name, const void *req,
                                 size_t req_len, struct ferry_buf_sink *reply)
{
    struct rdma_hello hello = {0}, answer = {0};
    const char *why = NULL;
    ferry_status status;
    char *text;

    status = rdma_hello_parse(req, req_len, &hello, &why);
    strcpy(answer.local_nic_path, hello.peer_nic_path);
    strcpy(answer.peer_nic_path, hello.local_nic_path);
    answer.ferry = hello.ferry;
    strcpy(answer.instance, tp->instance);
    if (status != FERRY_OK)
        refuse(&answer, status, "%s", why);
    else if (hello.expect[0] && strcmp(hello.expect, tp->instance) != 0)
        refuse(&answer, FERRY_ESTALE, "another incarnation runs here now");
    else if (hello.bye)
        bye(tp, &hello);
    else if (hello.ready_ack)
        acknowledge(tp, &hello, &answer);
    else if (hello.ferry || !answer_again(tp, &hello, &answer))
        serve_noted(tp, &hello, &answer);
    if (answer.reply_msg[0])
        FT_LOG(tp->host, FERRY_LOG_WARN, "refused %.200s of %s: %s", hello.local_nic_path,
               peer_name, answer.reply_msg);
    text = rdma_hello_encode(&answer);
    if (!text)
        return FERRY_ENOMEM;
    status = reply->append(reply, text, strlen(text));
    free(text);
    return status;
}

ferry_status rdma_on_call(struct ferry_tp *tp, const char *peer_name, const void *req,
                          size_t req_len, struct ferry_buf_sink *reply)
{
    return answer_hello(tp, peer_name, req, req_len, reply);
}

ferry_status rdma_on_connection(struct ferry_tp *tp, const void *req, size_t req_len,
                                struct ferry_buf_sink *reply)
{
    return answer_hello(tp, "a Mooncake node", req, req_len, reply);
}

void rdma_served_close(struct ferry_tp *tp)
{
    struct rdma_served *all = tp->served;

    tp->served = NULL;
    tp->n_served = 0;
    free_taken(tp, all);
}
