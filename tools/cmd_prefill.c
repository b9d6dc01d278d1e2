/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `ferry prefill`: plays the prefill node. Makes up the KV cache of each request of a trace and
 * hands it to the decode node, or lets that one fetch it (docs/handover.md). Several threads
 * each see one request through; the main thread receives and shows.
 */
#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "commands.h"
#include "content.h"
#include "job.h"
#include "pool.h"

struct prefill_options {
    struct job_options common;
    const char *trace, *model, *scale, *peer;
    uint64_t limit, synthetic, block_tokens, speed, wait_ms;
};

/* One request on its way; each worker has one. */
struct handover {
    uint64_t request;
    size_t n;
    uint64_t *keys, *sums;
    uint32_t *slots;
    bool *fresh;
    bool answered;
    struct kvmsg answer;
    struct ferry_request *pieces; /* room for `piece_room` */
    size_t piece_room;
};

struct totals {
    uint64_t requests, failed, tokens, sent, reused, bad, bytes, ended_ns;
    char carriers[128];
    struct samples handover, transfer;
    struct busy busy;
};

struct prefill {
    struct job job;
    const struct prefill_options *options;
    struct trace trace;
    struct scale scale;
    size_t most_blocks;
    struct layout peer_layout;
    uint64_t peer_base;
    bool pull;

    pthread_mutex_t order; /* taken before job.lock: requests get their slots in this order */
    size_t next;

    /* job.lock */
    struct pool pool;
    struct totals totals;
    struct handover *handovers; /* one a worker */
    size_t n_workers, working;
    uint64_t started_ns;
};

/* ---- a worker ---- */

/* Waits for the message that answers this request. job.lock held. */
static bool await_answer(struct prefill *p, struct handover *h)
{
    while (!h->answered && !atomic_load(&p->job.stopped))
        job_wait(&p->job, UINT64_MAX);
    return h->answered;
}

static void clear_answer(struct handover *h)
{
    if (h->answered)
        kvmsg_free(&h->answer);
    h->answered = false;
}

/* The next request of the trace at its time, with a slot for each of its blocks. */
static const struct trace_request *take_next(struct prefill *p, struct handover *h)
{
    const struct trace_request *request = NULL;
    bool got = false;

    pthread_mutex_lock(&p->order);
    if (p->next < p->trace.n) {
        request = &p->trace.requests[p->next];
        h->n = scale_blocks(&p->scale, request);
        scale_keys(&p->scale, request, h->keys);
        pthread_mutex_lock(&p->job.lock);
        h->request = p->next++;
        while (!got && !atomic_load(&p->job.stopped)) {
            uint64_t speed = p->options->speed, now = out_now_ns();
            uint64_t due = speed ? p->started_ns + request->at_ms * 1000000 / speed : 0;
            if (now < due)
                job_wait(&p->job, due - now);
            else if (!(got = pool_acquire(&p->pool, h->keys, h->n, h->slots, h->fresh)))
                job_wait(&p->job, UINT64_MAX);
        }
        pthread_mutex_unlock(&p->job.lock);
    }
    pthread_mutex_unlock(&p->order);
    return got ? request : NULL;
}

/* What the model would compute: the blocks that are in no slot yet. */
static bool compute(struct prefill *p, struct handover *h)
{
    struct job *job = &p->job;

    for (size_t i = 0; i < h->n; i++) {
        uint64_t sum;
        if (!h->fresh[i])
            continue;
        content_fill(&job->layout, h->keys[i], job->memory, h->slots[i]);
        sum = content_sum(&job->layout, h->keys[i], job->memory, h->slots[i]);
        pthread_mutex_lock(&job->lock);
        pool_ready(&p->pool, h->slots[i], sum);
        pthread_mutex_unlock(&job->lock);
    }
    pthread_mutex_lock(&job->lock);
    pthread_cond_broadcast(&job->changed);
    for (size_t i = 0; i < h->n; i++) {
        const struct pool_block *block = &p->pool.blocks[h->slots[i]];
        while (block->state != BLOCK_READY && !atomic_load(&job->stopped))
            job_wait(job, UINT64_MAX);
        h->sums[i] = block->sum;
    }
    pthread_mutex_unlock(&job->lock);
    return !atomic_load(&job->stopped);
}

/* Every layer's keys and values of the blocks that decode asked for, as one batch; then word
 * that they are there. False: the job is stopped. */
static bool push(struct prefill *p, struct handover *h, const struct kvmsg *grant,
                 uint64_t *end_ns, uint64_t *took_ns, bool *arrived_out)
{
    struct job *job = &p->job;
    const struct layout *from = &job->layout, *to = &p->peer_layout;
    struct kvmsg sent = {.type = KVMSG_SENT,
                         .session = job->session,
                         .request = h->request,
                         .n = grant->n,
                         .sums = h->sums};
    struct ferry_submit attr = {.size = sizeof(attr), .notify_name = KVMSG_NAME};
    size_t n = grant->n * 2 * from->model.layers, at = 0;
    uint64_t start;
    ferry_batch batch;
    ferry_status status;
    char carrier[64] = "", doing[64];
    char *text;

    for (size_t i = 0; i < grant->n; i++) {
        if (grant->index[i] >= h->n || (i && grant->index[i] <= grant->index[i - 1]) ||
            grant->slots_of[i] >= to->slots) {
            job_stop(job, EXIT_LOST, "%s asks for block %u of %zu in its slot %u of %u",
                     job->peer_name, grant->index[i], h->n, grant->slots_of[i], to->slots);
            return false;
        }
        h->sums[i] = h->sums[grant->index[i]]; /* index[i] >= i */
    }
    *arrived_out = true;
    *took_ns = 0;
    if (!grant->n) {
        *end_ns = out_now_ns();
        return job_send(job, &sent);
    }
    for (uint32_t layer = 0; layer < from->model.layers; layer++)
        for (size_t i = 0; i < grant->n; i++)
            for (uint32_t half = 0; half < 2; half++)
                h->pieces[at++] = (struct ferry_request){
                    .local =
                        job->memory + layout_off(from, h->slots[grant->index[i]], layer, half),
                    .remote = p->peer_base + layout_off(to, grant->slots_of[i], layer, half),
                    .len = from->piece_len,
                    .segment = job->peer,
                    .op = FERRY_WRITE};
    text = kvmsg_encode(&sent, &attr.notify_len);
    if (!text) {
        job_stop(job, EXIT_LOST, "out of memory");
        return false;
    }
    attr.notify = text;
    pthread_mutex_lock(&job->lock);
    busy_begin(&p->totals.busy);
    pthread_mutex_unlock(&job->lock);
    snprintf(doing, sizeof(doing), "writing request %llu", (unsigned long long)h->request);
    start = out_now_ns();
    status = ferry_submit(job->engine, h->pieces, n, &attr, &batch);
    if (status != FERRY_OK)
        job_stop(job, EXIT_LOST, "%s: %s", doing, ferry_error());
    else
        status = job_batch(job, batch, doing, carrier, sent.text, sizeof(sent.text));
    *end_ns = out_now_ns();
    *took_ns = *end_ns - start;
    free(text);
    pthread_mutex_lock(&job->lock);
    busy_end(&p->totals.busy);
    if (status == FERRY_OK) {
        p->totals.sent += grant->n;
        p->totals.bytes += grant->n * from->block_len;
        job_add_name(p->totals.carriers, sizeof(p->totals.carriers), carrier);
    }
    pthread_mutex_unlock(&job->lock);
    if (atomic_load(&job->stopped))
        return false;
    *arrived_out = status == FERRY_OK;
    if (status != FERRY_OK) {
        sent.n = 0;
        return job_send(job, &sent); /* with the reason in its text */
    }
    return true;
}

static bool hand_over(struct prefill *p, struct handover *h,
                      const struct trace_request *request)
{
    struct job *job = &p->job;
    struct kvmsg offer = {.type = KVMSG_OFFER,
                          .session = job->session,
                          .request = h->request,
                          .tokens = scale_tokens(&p->scale, request),
                          .n = h->n,
                          .keys = h->keys,
                          .slots_of = p->pull ? h->slots : NULL,
                          .sums = p->pull ? h->sums : NULL};
    uint64_t start = out_now_ns(), end = 0, took = 0, failed;
    bool arrived = true;

    if (!job_send(job, &offer))
        return false;
    pthread_mutex_lock(&job->lock);
    if (!await_answer(p, h)) {
        pthread_mutex_unlock(&job->lock);
        return false;
    }
    if (!p->pull) {
        struct kvmsg grant = h->answer;
        bool good = grant.type == KVMSG_GRANT;
        h->answered = false;
        pthread_mutex_unlock(&job->lock);
        if (good)
            good = push(p, h, &grant, &end, &took, &arrived);
        else
            job_stop(job, EXIT_LOST, "%s answers an offer out of turn", job->peer_name);
        kvmsg_free(&grant);
        if (!good)
            return false;
        pthread_mutex_lock(&job->lock);
        if (!await_answer(p, h)) {
            pthread_mutex_unlock(&job->lock);
            return false;
        }
    }
    if (h->answer.type != KVMSG_DONE) {
        pthread_mutex_unlock(&job->lock);
        job_stop(job, EXIT_LOST, "%s answers out of turn", job->peer_name);
        return false;
    }
    if (p->pull) {
        end = out_now_ns() - h->answer.verify_ns;
        took = h->answer.transfer_ns;
        p->totals.sent += h->answer.verified;
        p->totals.bytes += h->answer.bytes;
        job_add_name(p->totals.carriers, sizeof(p->totals.carriers), h->answer.carrier);
    }
    failed = h->answer.failed;
    p->totals.ended_ns = out_now_ns();
    p->totals.requests++;
    p->totals.tokens += offer.tokens;
    p->totals.reused += h->answer.reused;
    p->totals.bad += failed;
    if (failed || !arrived)
        p->totals.failed++;
    else {
        samples_add(&p->totals.handover, end > start ? end - start : 0);
        if (took)
            samples_add(&p->totals.transfer, took);
    }
    if (failed)
        fprintf(stderr, "%sferry prefill: request %llu: %llu blocks bad: %s\n",
                job->colour_line ? "\r\033[K" : "", (unsigned long long)h->request,
                (unsigned long long)failed, h->answer.text);
    pthread_mutex_unlock(&job->lock);
    return true;
}

static void *work(void *arg)
{
    struct prefill *p = arg;
    struct job *job = &p->job;
    struct handover *h;
    const struct trace_request *request;
    bool good = true;

    pthread_mutex_lock(&job->lock);
    h = &p->handovers[p->working++];
    pthread_mutex_unlock(&job->lock);
    while (good && (request = take_next(p, h))) {
        good = compute(p, h) && hand_over(p, h, request);
        pthread_mutex_lock(&job->lock);
        clear_answer(h);
        pool_release(&p->pool, h->slots, h->n);
        pthread_cond_broadcast(&job->changed);
        pthread_mutex_unlock(&job->lock);
    }
    pthread_mutex_lock(&job->lock);
    p->n_workers--;
    pthread_mutex_unlock(&job->lock);
    return NULL;
}

/* ---- the main thread ---- */

static bool load(struct prefill *p, char *error, size_t room)
{
    const struct prefill_options *o = p->options;
    struct layout *layout = &p->job.layout;
    struct model model;
    uint64_t divisor;

    if (!model_parse(o->model, &model, error, room) ||
        !layout_make(&model, (uint32_t)o->block_tokens, o->common.memory, layout, error, room))
        return false;
    if (!o->trace == !o->synthetic) {
        snprintf(error, room, "one of --trace FILE and --synthetic N is needed");
        return false;
    }
    if (o->trace && !trace_read(o->trace, o->limit, &p->trace, error, room))
        return false;
    if (!o->trace &&
        !trace_synthetic(o->limit && o->limit < o->synthetic ? o->limit : o->synthetic,
                         &p->trace)) {
        snprintf(error, room, "out of memory");
        return false;
    }
    if (strcmp(o->scale, "auto") == 0) {
        if (!scale_choose(&p->trace, layout, &p->scale, error, room))
            return false;
    } else if (!args_number(strncmp(o->scale, "1/", 2) == 0 ? o->scale + 2 : o->scale,
                            OPT_COUNT, &divisor) ||
               divisor > TRACE_BLOCK_TOKENS) {
        snprintf(error, room, "--scale: '%s' is neither auto nor 1/N", o->scale);
        return false;
    } else if (!scale_make((uint32_t)divisor, layout->block_tokens, &p->scale, error, room))
        return false;
    for (size_t i = 0; i < p->trace.n; i++) {
        size_t blocks = scale_blocks(&p->scale, &p->trace.requests[i]);
        p->most_blocks = blocks > p->most_blocks ? blocks : p->most_blocks;
    }
    if (p->most_blocks > layout->slots || p->most_blocks > KVMSG_MAX_BLOCKS) {
        snprintf(
            error, room,
            "the largest request takes %zu blocks, the memory holds %u: --scale auto would "
            "fit",
            p->most_blocks, layout->slots);
        return false;
    }
    return true;
}

static void announce(const struct prefill *p)
{
    const struct layout *l = &p->job.layout;
    char cache[32], block[32], piece[32];

    printf("model       %s: %u layers, %u KV heads of %u, %u bytes a number\n", l->model.name,
           l->model.layers, l->model.kv_heads, l->model.head_dim, l->model.dtype);
    printf("cache       %s: %u blocks of %u tokens, %s each in %u pieces of %s\n",
           out_bytes(cache, l->total_len), l->slots, l->block_tokens,
           out_bytes(block, l->block_len), 2 * l->model.layers, out_bytes(piece, l->piece_len));
    printf("requests    %zu", p->trace.n);
    if (p->scale.divisor > 1)
        printf(", tokens scaled to 1/%u so that they fit", p->scale.divisor);
    printf("; the largest takes %zu blocks\n", p->most_blocks);
    fflush(stdout);
}

/* Hello and welcome. */
static bool meet(struct prefill *p)
{
    struct job *job = &p->job;
    const struct prefill_options *o = p->options;
    struct kvmsg hello = {.type = KVMSG_HELLO,
                          .session = job->session,
                          .model = job->layout.model,
                          .block_tokens = job->layout.block_tokens,
                          .slots = job->layout.slots,
                          .base = (uint64_t)(uintptr_t)job->memory,
                          .pull = p->pull,
                          .requests = p->trace.n,
                          .most_blocks = p->most_blocks};
    struct kvmsg msg;
    char name[300], error[256];
    uint64_t end = out_now_ns() + (o->wait_ms + 10000) * 1000000;

    if (o->peer)
        snprintf(name, sizeof(name), "%s", o->peer);
    else
        job_configured_peer(job, name, sizeof(name));
    if (!name[0]) {
        job_stop(job, EXIT_USAGE, "the configuration has no decode_url; --peer names the node");
        return false;
    }
    if (!job_find_peer(job, name, o->wait_ms) || !job_send(job, &hello))
        return false;
    while (!atomic_load(&job->stopped)) {
        if (out_now_ns() > end) {
            job_stop(job, EXIT_LOST, "%s is there but no ferry decode answers", name);
            return false;
        }
        if (!job_receive(job, 200, &msg, name))
            continue;
        if (msg.type == KVMSG_REFUSE) {
            job->peer_gone = true;
            job_stop(job, EXIT_LOST, "%s refuses: %s", name, msg.text);
        } else if (msg.type == KVMSG_WELCOME) {
            bool good = layout_of(&job->layout.model, job->layout.block_tokens, msg.slots,
                                  &p->peer_layout, error, sizeof(error));
            p->peer_base = msg.base;
            kvmsg_free(&msg);
            if (!good)
                job_stop(job, EXIT_LOST, "%s: %s", name, error);
            return good;
        }
        kvmsg_free(&msg);
    }
    return false;
}

static void dispatch(struct prefill *p, struct kvmsg *msg)
{
    bool taken = false;

    pthread_mutex_lock(&p->job.lock);
    for (size_t i = 0; i < p->working && !taken; i++) {
        struct handover *h = &p->handovers[i];
        if ((msg->type == KVMSG_GRANT || msg->type == KVMSG_DONE) &&
            h->request == msg->request && !h->answered) {
            h->answer = *msg;
            h->answered = taken = true;
            pthread_cond_broadcast(&p->job.changed);
        }
    }
    pthread_mutex_unlock(&p->job.lock);
    if (!taken)
        kvmsg_free(msg);
}

static void show(struct prefill *p, struct progress *progress)
{
    char note[64], bytes[32];
    uint64_t done;

    pthread_mutex_lock(&p->job.lock);
    done = p->totals.requests;
    snprintf(note, sizeof(note), "%s sent, %llu blocks reused",
             out_bytes(bytes, p->totals.bytes), (unsigned long long)p->totals.reused);
    pthread_mutex_unlock(&p->job.lock);
    progress_at(progress, done, note);
}

static bool run_workers(struct prefill *p)
{
    struct job *job = &p->job;
    size_t n = p->options->common.inflight, started = 0;
    pthread_t threads[64];
    struct progress progress;
    struct kvmsg msg;
    char from[300];
    bool left = true;

    p->started_ns = out_now_ns();
    p->n_workers = n;
    for (; started < n; started++)
        if (pthread_create(&threads[started], NULL, work, p) != 0) {
            job_stop(job, EXIT_LOST, "cannot start a thread");
            break;
        }
    progress_start(&progress, "handing over", p->trace.n);
    while (left && !atomic_load(&job->stopped)) {
        if (job_receive(job, 50, &msg, from))
            dispatch(p, &msg);
        show(p, &progress);
        pthread_mutex_lock(&job->lock);
        left = p->n_workers > 0;
        pthread_mutex_unlock(&job->lock);
    }
    progress_end(&progress);
    for (size_t i = 0; i < started; i++)
        pthread_join(threads[i], NULL);
    return !atomic_load(&job->stopped);
}

/* Decode looks at everything once more and says what it found. */
static bool part(struct prefill *p, struct kvmsg *bye)
{
    struct job *job = &p->job;
    struct kvmsg end = {.type = KVMSG_END, .session = job->session};
    char from[300];

    if (!job_send(job, &end))
        return false;
    while (!atomic_load(&job->stopped)) {
        if (!job_receive(job, 200, bye, from))
            continue;
        if (bye->type == KVMSG_BYE) {
            job->peer_gone = true;
            return true;
        }
        kvmsg_free(bye);
    }
    return false;
}

static cJSON *as_json(struct prefill *p, const struct kvmsg *bye, uint64_t wall_ns,
                      uint64_t busy_ns)
{
    struct totals *t = &p->totals;
    const struct layout *l = &p->job.layout;
    cJSON *json = cJSON_CreateObject();

    cJSON_AddStringToObject(json, "command", "prefill");
    cJSON_AddStringToObject(json, "model", l->model.name);
    cJSON_AddStringToObject(json, "mode", p->pull ? "pull" : "push");
    cJSON_AddStringToObject(json, "transports", t->carriers);
    cJSON_AddNumberToObject(json, "block_tokens", l->block_tokens);
    cJSON_AddNumberToObject(json, "block_bytes", (double)l->block_len);
    cJSON_AddNumberToObject(json, "piece_bytes", (double)l->piece_len);
    cJSON_AddNumberToObject(json, "scale_divisor", p->scale.divisor);
    cJSON_AddNumberToObject(json, "requests", (double)t->requests);
    cJSON_AddNumberToObject(json, "requests_failed", (double)t->failed);
    cJSON_AddNumberToObject(json, "tokens", (double)t->tokens);
    cJSON_AddNumberToObject(json, "blocks_sent", (double)t->sent);
    cJSON_AddNumberToObject(json, "blocks_reused", (double)t->reused);
    cJSON_AddNumberToObject(json, "blocks_verified", (double)bye->verified);
    cJSON_AddNumberToObject(json, "blocks_bad",
                            (double)(bye->failed > t->bad ? bye->failed : t->bad));
    cJSON_AddNumberToObject(json, "bytes", (double)t->bytes);
    cJSON_AddNumberToObject(json, "wall_s", (double)wall_ns / 1e9);
    cJSON_AddNumberToObject(json, "transfer_s", (double)busy_ns / 1e9);
    cJSON_AddNumberToObject(json, "transfer_GBps",
                            busy_ns ? (double)t->bytes / (double)busy_ns : 0);
    cJSON_AddNumberToObject(json, "handover_p50_ms",
                            (double)samples_percentile(&t->handover, 0.5) / 1e6);
    cJSON_AddNumberToObject(json, "handover_p99_ms",
                            (double)samples_percentile(&t->handover, 0.99) / 1e6);
    cJSON_AddNumberToObject(json, "transfer_p50_ms",
                            (double)samples_percentile(&t->transfer, 0.5) / 1e6);
    cJSON_AddNumberToObject(json, "transfer_p99_ms",
                            (double)samples_percentile(&t->transfer, 0.99) / 1e6);
    return json;
}

static void report(struct prefill *p, const struct kvmsg *bye, uint64_t wall_ns)
{
    struct totals *t = &p->totals;
    uint64_t busy_ns = p->pull ? bye->transfer_ns : t->busy.total_ns;
    char a[32], b[32], c[32], d[32];
    bool good = !t->failed && !t->bad && !bye->failed && t->requests == p->trace.n;

    printf("handed over %llu requests, %llu tokens, %s, over %s\n",
           (unsigned long long)t->requests, (unsigned long long)t->tokens,
           p->pull ? "pulled" : "pushed", *t->carriers ? t->carriers : "nothing");
    printf("blocks      %llu sent, %llu reused, %llu verified, %llu bad\n",
           (unsigned long long)t->sent, (unsigned long long)t->reused,
           (unsigned long long)bye->verified, (unsigned long long)bye->failed);
    printf("bytes       %s at %.2f GB/s while transfers were under way (%s of %s)\n",
           out_bytes(a, t->bytes), busy_ns ? (double)t->bytes / (double)busy_ns : 0.0,
           out_duration(b, busy_ns), out_duration(c, wall_ns));
    printf("hand-over   p50 %s, p99 %s from the offer to all blocks in place\n",
           out_duration(a, samples_percentile(&t->handover, 0.5)),
           out_duration(b, samples_percentile(&t->handover, 0.99)));
    printf("transfer    p50 %s, p99 %s\n",
           out_duration(c, samples_percentile(&t->transfer, 0.5)),
           out_duration(d, samples_percentile(&t->transfer, 0.99)));
    printf("result      %s\n", good ? "every block verified" : "FAILED");
    fflush(stdout);
    if (p->options->common.json) {
        cJSON *json = as_json(p, bye, wall_ns, busy_ns);
        if (!out_json(p->options->common.json, json))
            good = false;
        cJSON_Delete(json);
    }
    if (!good)
        p->job.status = EXIT_WRONG;
}

static bool make_room(struct prefill *p)
{
    size_t n = p->options->common.inflight, pieces = 2 * p->job.layout.model.layers;

    p->handovers = calloc(n, sizeof(*p->handovers));
    if (!p->handovers || !pool_init(&p->pool, p->job.layout.slots) ||
        !samples_init(&p->totals.handover, 1 << 16) ||
        !samples_init(&p->totals.transfer, 1 << 16))
        return false;
    for (size_t i = 0; i < n; i++) {
        struct handover *h = &p->handovers[i];
        h->request = UINT64_MAX;
        h->keys = calloc(p->most_blocks, sizeof(*h->keys));
        h->sums = calloc(p->most_blocks, sizeof(*h->sums));
        h->slots = calloc(p->most_blocks, sizeof(*h->slots));
        h->fresh = calloc(p->most_blocks, sizeof(*h->fresh));
        h->pieces = p->pull ? NULL : calloc(p->most_blocks * pieces, sizeof(*h->pieces));
        if (!h->keys || !h->sums || !h->slots || !h->fresh || (!p->pull && !h->pieces))
            return false;
    }
    return true;
}

static void free_all(struct prefill *p)
{
    for (size_t i = 0; p->handovers && i < p->options->common.inflight; i++) {
        free(p->handovers[i].keys);
        free(p->handovers[i].sums);
        free(p->handovers[i].slots);
        free(p->handovers[i].fresh);
        free(p->handovers[i].pieces);
    }
    free(p->handovers);
    pool_fini(&p->pool);
    samples_fini(&p->totals.handover);
    samples_fini(&p->totals.transfer);
    trace_free(&p->trace);
}

static int run(const struct command *self, const void *options, int argc, char **argv)
{
    struct prefill p = {.options = options};
    struct job *job = &p.job;
    struct layout layout;
    struct kvmsg bye;
    char error[512];
    int status;

    p.pull = p.options->common.pull;
    pthread_mutex_init(&p.order, NULL);
    if (!load(&p, error, sizeof(error))) {
        free_all(&p);
        return args_usage_error(self, "%s", error);
    }
    layout = job->layout;
    status = job_open(job, self, &p.options->common, "prefill");
    if (status == EXIT_OK) {
        job->layout = layout;
        if (getrandom(&job->session, sizeof(job->session), 0) != sizeof(job->session) ||
            !job->session)
            job->session = out_now_ns() | 1;
        announce(&p);
        if (!make_room(&p))
            job_stop(job, EXIT_LOST, "out of memory");
        else if (job_memory(job, &layout, p.pull ? FERRY_REMOTE_READ : 0) && meet(&p) &&
                 run_workers(&p) && part(&p, &bye)) {
            report(&p, &bye, p.totals.ended_ns - p.started_ns);
            kvmsg_free(&bye);
        }
        if (atomic_load(&job->stopped))
            job_say_abort(job);
        status = job->status;
    }
    job_close(job);
    free_all(&p);
    pthread_mutex_destroy(&p.order);
    return status;
}

static const struct opt opts[] = {
    {.name = "trace",
     .letter = 't',
     .meta = "FILE",
     .type = OPT_FILE,
     .help = "requests in Mooncake's JSONL trace format",
     .offset = offsetof(struct prefill_options, trace)},
    {.name = "synthetic",
     .meta = "N",
     .type = OPT_COUNT,
     .min = 1,
     .max = 1 << 20,
     .help = "N made-up requests instead, with shared prefixes",
     .offset = offsetof(struct prefill_options, synthetic)},
    {.name = "limit",
     .letter = 'l',
     .meta = "N",
     .type = OPT_COUNT,
     .min = 1,
     .help = "only the first N requests of the trace",
     .offset = offsetof(struct prefill_options, limit)},
    {.name = "model",
     .meta = "NAME",
     .type = OPT_TEXT,
     .def = "qwen2.5-7b",
     .help = "geometry of the cache: qwen2.5-0.5b, -7b, -14b, -72b, llama-3.1-8b, -70b, or "
             "layers=28,kv_heads=4,head_dim=128,dtype=2",
     .offset = offsetof(struct prefill_options, model)},
    {.name = "block-tokens",
     .meta = "N",
     .type = OPT_COUNT,
     .def = "16",
     .min = 1,
     .max = TRACE_BLOCK_TOKENS,
     .help = "tokens a block",
     .offset = offsetof(struct prefill_options, block_tokens)},
    {.name = "scale",
     .meta = "1/N",
     .type = OPT_TEXT,
     .def = "auto",
     .help = "each request gets 1/N of its tokens; auto = the least N with which the largest "
             "fits into half of the memory",
     .offset = offsetof(struct prefill_options, scale)},
    {.name = "speed",
     .meta = "N",
     .type = OPT_COUNT,
     .def = "0",
     .help = "keep the trace's times, N times as fast; 0 = as fast as possible",
     .offset = offsetof(struct prefill_options, speed)},
    {.name = "peer",
     .meta = "NAME",
     .type = OPT_TEXT,
     .help = "the decode node, instead of the decode_url in the file",
     .offset = offsetof(struct prefill_options, peer)},
    {.name = "wait",
     .meta = "SECONDS",
     .type = OPT_SECONDS,
     .def = "30",
     .help = "how long the decode node may take to appear",
     .offset = offsetof(struct prefill_options, wait_ms)},
    JOB_OPTS(struct prefill_options),
    {0},
};

static const struct example examples[] = {
    {"ferry prefill --config mooncake.json --trace conversation_trace.jsonl --limit 500",
     "hands the first 500 requests of a trace to 'ferry decode --config mooncake.json'"},
    {"ferry prefill --config mooncake.json --synthetic 50 --pull --memory 256m",
     "50 made-up requests that the decode node fetches"},
    {0},
};

const struct command cmd_prefill = {
    .name = "prefill",
    .summary = "hand the KV cache of a trace's requests to 'ferry decode'",
    .synopsis = "",
    .words = "",
    .about =
        "Plays the prefill node of a disaggregated model: for each request of the trace it makes "
        "up the KV cache of the prompt, block by block in a paged layout, and hands it to the "
        "decode node named in the configuration. Blocks that the decode node still has from an "
        "earlier request with the same prefix are not sent again. Contents follow from the "
        "block, the layer and the place, so that the decode node finds every byte that is "
        "wrong or in the wrong place.\n\n"
        "Both sides read the same mooncake.json; which of its URLs is ours follows from the "
        "command. Either may be started first.",
    .opts = opts,
    .examples = examples,
    .options_size = sizeof(struct prefill_options),
    .run = run,
};
