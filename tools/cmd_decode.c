/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `ferry decode`: plays the decode node. Keeps a paged KV cache, tells the prefill node which
 * blocks it lacks, takes or fetches them, and checks every one (docs/handover.md). The main
 * thread receives; workers answer, fetch and check.
 */
#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

#include "commands.h"
#include "content.h"
#include "job.h"
#include "pool.h"

enum verify { VERIFY_CHECKSUM, VERIFY_FULL };

struct decode_options {
    struct job_options common;
    int verify;
    uint64_t wait_ms;
};

enum task { TASK_NONE, TASK_GRANT, TASK_FETCH, TASK_CHECK };

/* A request from its offer to our word that it is done. */
struct intake {
    struct intake *next;      /* of all */
    struct intake *next_task; /* of those that wait for a worker */
    enum task task;
    bool admitted; /* has its slots */
    bool granted;  /* a worker is through with it: `sent` may come */
    bool settled;  /* our own fresh blocks are ready or bad */
    struct kvmsg offer;
    uint32_t *slots;
    bool *fresh;
    size_t n_fresh;
    uint64_t *sums; /* of the fresh ones, in order; from `sent` or the offer */
    uint64_t verified, transfer_ns, verify_ns, bytes;
    char carrier[64], text[400];
};

struct decode {
    struct job job;
    const struct decode_options *options;
    struct kvmsg hello;
    struct layout peer_layout;

    /* job.lock */
    struct pool pool;
    struct intake *intakes, **last;
    struct intake *tasks, **last_task;
    bool over; /* workers go home */
    struct busy busy;
    uint64_t requests, tokens, verified, bad, reused, bytes, first_ns, last_ns;
    char carriers[128];
    struct samples transfer;
};

/* ---- tasks ---- */

/* job.lock held. */
static void add_task(struct decode *d, struct intake *intake, enum task task)
{
    intake->task = task;
    intake->next_task = NULL;
    *d->last_task = intake;
    d->last_task = &intake->next_task;
    pthread_cond_broadcast(&d->job.changed);
}

/* Slots for the offers that wait, in order of arrival. job.lock held. */
static void admit(struct decode *d)
{
    for (struct intake *i = d->intakes; i; i = i->next) {
        if (i->admitted)
            continue;
        if (!pool_acquire(&d->pool, i->offer.keys, i->offer.n, i->slots, i->fresh))
            break;
        i->admitted = true;
        for (size_t k = 0; k < i->offer.n; k++)
            i->n_fresh += i->fresh[k];
        add_task(d, i, d->hello.pull ? TASK_FETCH : TASK_GRANT);
    }
}

/* Once it says `granted`, a peer's `sent` may take it away. */
static void grant(struct decode *d, struct intake *intake)
{
    struct kvmsg msg = {.type = KVMSG_GRANT,
                        .session = d->job.session,
                        .request = intake->offer.request,
                        .n = intake->n_fresh};
    size_t at = 0;

    msg.index = calloc(intake->n_fresh + 1, sizeof(*msg.index));
    msg.slots_of = calloc(intake->n_fresh + 1, sizeof(*msg.slots_of));
    if (!msg.index || !msg.slots_of)
        job_stop(&d->job, EXIT_LOST, "out of memory");
    else {
        for (size_t k = 0; k < intake->offer.n; k++)
            if (intake->fresh[k]) {
                msg.index[at] = (uint32_t)k;
                msg.slots_of[at++] = intake->slots[k];
            }
        pthread_mutex_lock(&d->job.lock);
        intake->granted = true;
        pthread_mutex_unlock(&d->job.lock);
        job_send(&d->job, &msg);
    }
    kvmsg_free(&msg);
}

/* Pull: reads the missing blocks, all layers, as one batch. */
static ferry_status fetch(struct decode *d, struct intake *intake)
{
    struct job *job = &d->job;
    const struct layout *to = &job->layout, *from = &d->peer_layout;
    size_t n = intake->n_fresh * 2 * to->model.layers, at = 0, f = 0;
    struct ferry_submit attr = {.size = sizeof(attr)};
    struct ferry_request *pieces;
    ferry_status status;
    ferry_batch batch;
    char doing[64];
    uint64_t start;

    intake->sums = calloc(intake->n_fresh + 1, sizeof(*intake->sums));
    pieces = malloc((n + 1) * sizeof(*pieces));
    if (!pieces || !intake->sums) {
        free(pieces);
        job_stop(job, EXIT_LOST, "out of memory");
        return FERRY_ENOMEM;
    }
    for (size_t k = 0; k < intake->offer.n; k++)
        if (intake->fresh[k])
            intake->sums[f++] = intake->offer.sums[k];
    for (uint32_t layer = 0; layer < to->model.layers; layer++)
        for (size_t k = 0; k < intake->offer.n; k++)
            for (uint32_t half = 0; half < 2 && intake->fresh[k]; half++)
                pieces[at++] = (struct ferry_request){
                    .local = job->memory + layout_off(to, intake->slots[k], layer, half),
                    .remote = d->hello.base +
                              layout_off(from, intake->offer.slots_of[k], layer, half),
                    .len = to->piece_len,
                    .segment = job->peer,
                    .op = FERRY_READ};
    status = FERRY_OK;
    if (n) {
        pthread_mutex_lock(&job->lock);
        busy_begin(&d->busy);
        pthread_mutex_unlock(&job->lock);
        snprintf(doing, sizeof(doing), "reading request %llu",
                 (unsigned long long)intake->offer.request);
        start = out_now_ns();
        status = ferry_submit(job->engine, pieces, n, &attr, &batch);
        if (status != FERRY_OK)
            job_stop(job, EXIT_LOST, "%s: %s", doing, ferry_error());
        else
            status = job_batch(job, batch, doing, intake->carrier, intake->text,
                               sizeof(intake->text));
        pthread_mutex_lock(&job->lock);
        busy_end(&d->busy);
        intake->transfer_ns = out_now_ns() - start;
        if (status == FERRY_OK) {
            intake->bytes = intake->n_fresh * to->block_len;
            samples_add(&d->transfer, intake->transfer_ns);
            job_add_name(d->carriers, sizeof(d->carriers), intake->carrier);
        }
        pthread_mutex_unlock(&job->lock);
    }
    free(pieces);
    return status;
}

/* Every fresh block against the sender's sum, and against what it must hold if --verify=full.
 * The first fault goes into the request's text. */
static void check(struct decode *d, struct intake *intake, bool arrived)
{
    struct job *job = &d->job;
    const struct layout *layout = &job->layout;
    uint64_t start = out_now_ns();
    size_t f = 0;

    for (size_t k = 0; k < intake->offer.n; k++) {
        uint64_t key = intake->offer.keys[k], sum = 0;
        uint32_t slot = intake->slots[k];
        struct content_fault fault;
        bool good = arrived;

        if (!intake->fresh[k])
            continue;
        if (good) {
            sum = content_sum(layout, key, job->memory, slot);
            good = sum == intake->sums[f++];
            if (!good && !intake->text[0])
                snprintf(intake->text, sizeof(intake->text),
                         "block %zu in slot %u: its checksum differs from the sender's", k,
                         slot);
        }
        if (arrived && (!good || d->options->verify == VERIFY_FULL) &&
            !content_check(layout, key, job->memory, slot, &fault)) {
            good = false;
            snprintf(intake->text, sizeof(intake->text),
                     "block %zu in slot %u: wrong from byte %llu of the %s of layer %u on", k,
                     slot, (unsigned long long)fault.off, fault.half ? "values" : "keys",
                     fault.layer);
        }
        pthread_mutex_lock(&job->lock);
        if (good) {
            pool_ready(&d->pool, slot, sum);
            intake->verified++;
        } else
            pool_spoil(&d->pool, slot);
        pthread_mutex_unlock(&job->lock);
    }
    intake->verify_ns = out_now_ns() - start;
}

/* A request that is settled and whose shared blocks have been settled by others. Lock held. */
static struct intake *take_finished(struct decode *d)
{
    for (struct intake **at = &d->intakes; *at; at = &(*at)->next) {
        struct intake *i = *at;
        bool waits = !i->settled;
        for (size_t k = 0; !waits && k < i->offer.n; k++)
            waits = d->pool.blocks[i->slots[k]].state == BLOCK_FILLING;
        if (waits)
            continue;
        *at = i->next;
        if (d->last == &i->next)
            d->last = at;
        return i;
    }
    return NULL;
}

static void free_intake(struct intake *intake)
{
    kvmsg_free(&intake->offer);
    free(intake->slots);
    free(intake->fresh);
    free(intake->sums);
    free(intake);
}

/* Tells prefill what became of it and lets its blocks go. job.lock held, and again afterwards.
 */
static void finish(struct decode *d, struct intake *i)
{
    struct job *job = &d->job;
    struct kvmsg done = {.type = KVMSG_DONE,
                         .session = job->session,
                         .request = i->offer.request,
                         .verified = i->verified,
                         .reused = i->offer.n - i->n_fresh,
                         .bytes = i->bytes,
                         .verify_ns = i->verify_ns,
                         .transfer_ns = i->transfer_ns};

    for (size_t k = 0; k < i->offer.n; k++)
        done.failed += d->pool.blocks[i->slots[k]].state != BLOCK_READY;
    memcpy(done.carrier, i->carrier, sizeof(done.carrier));
    memcpy(done.text, i->text, sizeof(done.text));
    if (done.failed)
        fprintf(stderr, "%sferry decode: request %llu: %llu blocks bad: %s\n",
                job->colour_line ? "\r\033[K" : "", (unsigned long long)i->offer.request,
                (unsigned long long)done.failed,
                i->text[0] ? i->text : "shared with a request that failed");
    d->requests++;
    d->tokens += i->offer.tokens;
    d->verified += i->verified;
    d->bad += i->n_fresh - i->verified;
    d->reused += done.reused;
    d->bytes += i->verified * job->layout.block_len;
    d->last_ns = out_now_ns();
    pool_release(&d->pool, i->slots, i->offer.n);
    pthread_mutex_unlock(&job->lock);
    job_send(job, &done);
    free_intake(i);
    pthread_mutex_lock(&job->lock);
}

static void *work(void *arg)
{
    struct decode *d = arg;
    struct job *job = &d->job;

    pthread_mutex_lock(&job->lock);
    while (!d->over && !atomic_load(&job->stopped)) {
        struct intake *intake = d->tasks, *finished;
        ferry_status status = FERRY_OK;
        enum task task;

        if (!intake) {
            job_wait(job, UINT64_MAX);
            continue;
        }
        d->tasks = intake->next_task;
        if (!d->tasks)
            d->last_task = &d->tasks;
        task = intake->task;
        pthread_mutex_unlock(&job->lock);
        if (task == TASK_GRANT)
            grant(d, intake); /* it may be gone when this returns */
        else {
            if (task == TASK_FETCH)
                status = fetch(d, intake);
            check(d, intake, status == FERRY_OK && (intake->sums || !intake->n_fresh));
        }
        pthread_mutex_lock(&job->lock);
        if (task != TASK_GRANT && !atomic_load(&job->stopped)) {
            intake->settled = true;
            while ((finished = take_finished(d)))
                finish(d, finished);
            admit(d);
        }
    }
    pthread_mutex_unlock(&job->lock);
    return NULL;
}

/* ---- the main thread ---- */

/* An answer to somebody who is not our peer (yet). */
static void refuse(struct decode *d, const char *to, uint64_t session, const char *why)
{
    struct kvmsg msg = {.type = KVMSG_REFUSE, .session = session};
    ferry_segment segment;
    size_t len;
    char *text;

    snprintf(msg.text, sizeof(msg.text), "%s", why);
    if (ferry_segment_open(d->job.engine, to, 2000, &segment) != FERRY_OK)
        return;
    text = kvmsg_encode(&msg, &len);
    if (text)
        ferry_notify(d->job.engine, segment, KVMSG_NAME, text, len, 2000);
    free(text);
    ferry_segment_close(d->job.engine, segment);
}

/* Waits for a prefill node that suits; sets the session. */
static bool await_hello(struct decode *d)
{
    struct job *job = &d->job;
    const struct decode_options *o = d->options;
    uint64_t end = out_now_ns() + o->wait_ms * 1000000;
    struct layout layout;
    struct kvmsg msg;
    char from[300], why[400];

    while (!atomic_load(&job->stopped)) {
        if (o->wait_ms && out_now_ns() > end) {
            job_stop(job, EXIT_LOST, "no prefill node came within %g s",
                     (double)o->wait_ms / 1000);
            break;
        }
        if (!job_receive(job, 200, &msg, from))
            continue;
        if (msg.type != KVMSG_HELLO) {
            kvmsg_free(&msg);
            continue;
        }
        why[0] = 0;
        if (!layout_make(&msg.model, msg.block_tokens, o->common.memory, &layout, why,
                         sizeof(why)))
            ;
        else if (msg.most_blocks > layout.slots)
            snprintf(why, sizeof(why),
                     "its largest request takes %llu blocks, the cache here holds %u: decode "
                     "needs more --memory, or prefill a larger divisor in --scale",
                     (unsigned long long)msg.most_blocks, layout.slots);
        else if ((o->common.push && msg.pull) || (o->common.pull && !msg.pull))
            snprintf(why, sizeof(why), "it wants to %s, decode was told to %s",
                     msg.pull ? "be read (--pull)" : "write (--push)",
                     msg.pull ? "be written to (--push)" : "read (--pull)");
        if (why[0]) {
            fprintf(stderr, "ferry decode: refused %s: %s\n", from, why);
            refuse(d, from, msg.session, why);
            continue;
        }
        d->hello = msg;
        job->session = msg.session;
        if (!layout_of(&msg.model, msg.block_tokens, msg.slots, &d->peer_layout, why,
                       sizeof(why))) {
            job_stop(job, EXIT_LOST, "%s: %s", from, why);
            return false;
        }
        return job_find_peer(job, from, 10000) &&
               job_memory(job, &layout, msg.pull ? 0 : FERRY_REMOTE_WRITE);
    }
    return false;
}

static bool welcome(struct decode *d)
{
    struct job *job = &d->job;
    const struct layout *l = &job->layout;
    struct kvmsg msg = {.type = KVMSG_WELCOME,
                        .session = job->session,
                        .model = l->model,
                        .block_tokens = l->block_tokens,
                        .slots = l->slots,
                        .base = (uint64_t)(uintptr_t)job->memory};
    char cache[32], block[32];

    printf("prefill     %s: %llu requests of %s, %s\n", job->peer_name,
           (unsigned long long)d->hello.requests, l->model.name,
           d->hello.pull ? "to be pulled" : "pushed");
    printf("cache       %s: %u blocks of %u tokens, %s each\n", out_bytes(cache, l->total_len),
           l->slots, l->block_tokens, out_bytes(block, l->block_len));
    fflush(stdout);
    if (!pool_init(&d->pool, l->slots) || !samples_init(&d->transfer, 1 << 16)) {
        job_stop(job, EXIT_LOST, "out of memory");
        return false;
    }
    return job_send(job, &msg);
}

static void take_offer(struct decode *d, struct kvmsg *msg)
{
    struct job *job = &d->job;
    struct intake *intake;

    if (!msg->n || msg->n > job->layout.slots || !msg->sums != !d->hello.pull ||
        !msg->slots_of != !d->hello.pull) {
        job_stop(job, EXIT_LOST, "request %llu of %s is malformed or too large",
                 (unsigned long long)msg->request, job->peer_name);
        return;
    }
    for (size_t i = 0; msg->slots_of && i < msg->n; i++)
        if (msg->slots_of[i] >= d->peer_layout.slots) {
            job_stop(job, EXIT_LOST, "%s names its slot %u of %u", job->peer_name,
                     msg->slots_of[i], d->peer_layout.slots);
            return;
        }
    intake = calloc(1, sizeof(*intake));
    if (intake) {
        intake->slots = calloc(msg->n, sizeof(*intake->slots));
        intake->fresh = calloc(msg->n, sizeof(*intake->fresh));
    }
    if (!intake || !intake->slots || !intake->fresh) {
        if (intake)
            free_intake(intake);
        job_stop(job, EXIT_LOST, "out of memory");
        return;
    }
    intake->offer = *msg;
    msg->keys = msg->sums = NULL;
    msg->slots_of = NULL;
    pthread_mutex_lock(&job->lock);
    if (!d->first_ns)
        d->first_ns = out_now_ns();
    *d->last = intake;
    d->last = &intake->next;
    admit(d);
    pthread_mutex_unlock(&job->lock);
}

static void take_sent(struct decode *d, struct kvmsg *msg)
{
    struct intake *i;

    pthread_mutex_lock(&d->job.lock);
    for (i = d->intakes; i; i = i->next)
        if (i->offer.request == msg->request && i->granted && i->task == TASK_GRANT)
            break;
    if (i && (msg->n == i->n_fresh || msg->text[0])) {
        if (msg->text[0])
            snprintf(i->text, sizeof(i->text), "not sent: %.380s", msg->text);
        else {
            i->sums = msg->sums;
            msg->sums = NULL;
        }
        add_task(d, i, TASK_CHECK);
        i = NULL;
        msg->n = 0;
        pthread_mutex_unlock(&d->job.lock);
        return;
    }
    pthread_mutex_unlock(&d->job.lock);
    job_stop(&d->job, EXIT_LOST, "%s sent request %llu out of turn", d->job.peer_name,
             (unsigned long long)msg->request);
}

/* Receives until prefill says that it was all. */
static bool serve(struct decode *d)
{
    struct job *job = &d->job;
    struct progress progress;
    struct kvmsg msg;
    char from[300], note[64], bytes[32];
    uint64_t done;
    bool ended = false;

    progress_start(&progress, "taking over", d->hello.requests);
    while (!ended && !atomic_load(&job->stopped)) {
        if (job_receive(job, 100, &msg, from)) {
            if (msg.session != job->session)
                refuse(d, from, msg.session, "busy with another prefill node");
            else if (msg.type == KVMSG_OFFER)
                take_offer(d, &msg);
            else if (msg.type == KVMSG_SENT)
                take_sent(d, &msg);
            else if (msg.type == KVMSG_END)
                ended = true;
            kvmsg_free(&msg);
        }
        pthread_mutex_lock(&job->lock);
        done = d->requests;
        snprintf(note, sizeof(note), "%s verified, %llu blocks reused",
                 out_bytes(bytes, d->bytes), (unsigned long long)d->reused);
        pthread_mutex_unlock(&job->lock);
        progress_at(&progress, done, note);
    }
    progress_end(&progress);
    return ended;
}

/* Everything that is still in the cache is looked at once more: a late or stray write would
 * have changed it. */
static uint64_t sweep(struct decode *d, uint64_t *looked_at)
{
    struct job *job = &d->job;
    uint64_t bad = 0;

    *looked_at = 0;
    for (uint32_t slot = 0; slot < d->pool.n; slot++) {
        const struct pool_block *block = &d->pool.blocks[slot];
        if (block->state != BLOCK_READY)
            continue;
        ++*looked_at;
        if (content_sum(&job->layout, block->key, job->memory, slot) != block->sum) {
            fprintf(stderr, "ferry decode: slot %u changed after it was verified\n", slot);
            bad++;
        }
    }
    return bad;
}

static void report(struct decode *d, uint64_t changed, uint64_t looked_at)
{
    uint64_t wall_ns = d->last_ns - d->first_ns;
    char a[32], b[32], c[32];
    bool good = !d->bad && !changed && d->requests == d->hello.requests;

    printf("taken over  %llu requests, %llu tokens, %s%s%s\n", (unsigned long long)d->requests,
           (unsigned long long)d->tokens, d->hello.pull ? "pulled" : "pushed",
           *d->carriers ? ", over " : "", d->carriers);
    printf("blocks      %llu verified (%s), %llu reused, %llu bad\n",
           (unsigned long long)d->verified,
           d->options->verify == VERIFY_FULL ? "checksum and every byte" : "checksum",
           (unsigned long long)d->reused, (unsigned long long)d->bad);
    printf("            %llu still in the cache and looked at again, %llu changed\n",
           (unsigned long long)looked_at, (unsigned long long)changed);
    if (d->hello.pull)
        printf("bytes       %s at %.2f GB/s while transfers were under way (%s of %s)\n",
               out_bytes(a, d->bytes),
               d->busy.total_ns ? (double)d->bytes / (double)d->busy.total_ns : 0.0,
               out_duration(b, d->busy.total_ns), out_duration(c, wall_ns));
    else
        printf("bytes       %s in %s\n", out_bytes(a, d->bytes), out_duration(b, wall_ns));
    printf("result      %s\n", good ? "every block verified" : "FAILED");
    fflush(stdout);
    if (d->options->common.json) {
        cJSON *json = cJSON_CreateObject();
        cJSON_AddStringToObject(json, "command", "decode");
        cJSON_AddStringToObject(json, "model", d->job.layout.model.name);
        cJSON_AddStringToObject(json, "mode", d->hello.pull ? "pull" : "push");
        cJSON_AddStringToObject(json, "verify",
                                d->options->verify == VERIFY_FULL ? "full" : "checksum");
        cJSON_AddNumberToObject(json, "requests", (double)d->requests);
        cJSON_AddNumberToObject(json, "tokens", (double)d->tokens);
        cJSON_AddNumberToObject(json, "blocks_verified", (double)d->verified);
        cJSON_AddNumberToObject(json, "blocks_reused", (double)d->reused);
        cJSON_AddNumberToObject(json, "blocks_bad", (double)d->bad);
        cJSON_AddNumberToObject(json, "blocks_looked_at_again", (double)looked_at);
        cJSON_AddNumberToObject(json, "blocks_changed", (double)changed);
        cJSON_AddNumberToObject(json, "bytes", (double)d->bytes);
        cJSON_AddNumberToObject(json, "wall_s", (double)wall_ns / 1e9);
        if (!out_json(d->options->common.json, json))
            good = false;
        cJSON_Delete(json);
    }
    if (!good)
        d->job.status = EXIT_WRONG;
}

static bool take_over(struct decode *d)
{
    struct job *job = &d->job;
    size_t n = d->options->common.inflight, started = 0;
    pthread_t threads[64];
    struct kvmsg bye = {.type = KVMSG_BYE};
    uint64_t looked_at, changed;
    bool ended;

    for (; started < n; started++)
        if (pthread_create(&threads[started], NULL, work, d) != 0) {
            job_stop(job, EXIT_LOST, "cannot start a thread");
            break;
        }
    ended = serve(d);
    pthread_mutex_lock(&job->lock);
    d->over = true;
    pthread_cond_broadcast(&job->changed);
    pthread_mutex_unlock(&job->lock);
    for (size_t i = 0; i < started; i++)
        pthread_join(threads[i], NULL);
    if (!ended || atomic_load(&job->stopped))
        return false;
    changed = sweep(d, &looked_at);
    bye.session = job->session;
    bye.verified = d->verified;
    bye.failed = d->bad + changed;
    bye.reused = d->reused;
    bye.bytes = d->bytes;
    bye.transfer_ns = d->busy.total_ns;
    job_send_last(job, &bye);
    report(d, changed, looked_at);
    return true;
}

static int run(const struct command *self, const void *options, int argc, char **argv)
{
    struct decode d = {.options = options};
    struct job *job = &d.job;
    int status = job_open(job, self, &d.options->common, "decode");

    d.last = &d.intakes;
    d.last_task = &d.tasks;
    if (status == EXIT_OK) {
        printf("decode      %s waits for a prefill node\n", ferry_engine_name(job->engine));
        fflush(stdout);
        if (await_hello(&d) && welcome(&d))
            take_over(&d);
        if (atomic_load(&job->stopped))
            job_say_abort(job);
        status = job->status;
    }
    job_close(job);
    while (d.intakes) {
        struct intake *next = d.intakes->next;
        free_intake(d.intakes);
        d.intakes = next;
    }
    pool_fini(&d.pool);
    samples_fini(&d.transfer);
    return status;
}

static const struct opt opts[] = {
    {.name = "verify",
     .meta = "HOW",
     .type = OPT_CHOICE,
     .choices = "checksum|full",
     .def = "checksum",
     .help = "check each block against the sender's sum, or make its contents up again and "
             "compare every byte as well",
     .offset = offsetof(struct decode_options, verify)},
    {.name = "wait",
     .meta = "SECONDS",
     .type = OPT_SECONDS,
     .def = "0",
     .help = "how long to wait for a prefill node; 0 = for ever",
     .offset = offsetof(struct decode_options, wait_ms)},
    JOB_OPTS(struct decode_options),
    {0},
};

static const struct example examples[] = {
    {"ferry decode --config mooncake.json",
     "takes over what 'ferry prefill --config mooncake.json' hands over, then ends"},
    {"ferry decode --config mooncake.json --memory 4g --verify=full",
     "with a larger cache, comparing every byte"},
    {0},
};

const struct command cmd_decode = {
    .name = "decode",
    .summary = "take over the KV cache that 'ferry prefill' hands over, and check it",
    .synopsis = "",
    .words = "",
    .about =
        "Plays the decode node of a disaggregated model: waits for a prefill node, keeps a paged "
        "KV cache of the geometry that it names, tells it for each request which blocks are "
        "missing, and verifies every block that arrives. At the end the whole cache is looked at "
        "again, because a stray or late write would have changed it. Ends when the prefill node "
        "is through, or has been lost.\n\n"
        "Both sides read the same mooncake.json; which of its URLs is ours follows from the "
        "command.",
    .opts = opts,
    .examples = examples,
    .options_size = sizeof(struct decode_options),
    .run = run,
};
