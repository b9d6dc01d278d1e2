/* SPDX-License-Identifier: Apache-2.0 */
/* The transport suite's run: which points, in which processes, and how a point tells its end.
 */
#include "suite.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

unsigned fc_wait_ms;

#define EXIT_ENDED 9 /* of a process that has told its outcome */

int fc_point_limit(void)
{
    return fc_points[fc_n_points - 1].number + 1;
}

const char *fc_point_name(int number, const char **about_out)
{
    for (size_t i = 0; i < fc_n_points; i++) {
        if (fc_points[i].number == number) {
            if (about_out)
                *about_out = fc_points[i].about;
            return fc_points[i].name;
        }
    }
    return NULL;
}

static bool in_target(const struct fc_ctx *ctx)
{
    return ctx->up.ctx != NULL;
}

void fc_stage(struct fc_ctx *ctx, const char *name)
{
    atomic_store_explicit(in_target(ctx) ? &ctx->shared->target_stage : &ctx->shared->stage,
                          name, memory_order_relaxed);
}

/* The first outcome counts; a second one of another thread or process is dropped. */
static void __attribute__((format(printf, 4, 0)))
tell(struct fc_ctx *ctx, enum fc_result result, const char *expected, const char *fmt,
     va_list ap)
{
    struct fc_shared *shared = ctx->shared;
    int none = 0;
    if (!atomic_compare_exchange_strong(&shared->ended, &none, -1))
        return;
    snprintf(shared->expected, sizeof(shared->expected), "%s", expected);
    vsnprintf(shared->seen, sizeof(shared->seen), fmt, ap);
    for (unsigned i = 0; !in_target(ctx) && i < ctx->n_targets; i++) {
        struct fc_target *t = &ctx->target[i];
        int how = 0;
        bool gone = false;
        for (unsigned tries = 0; result == FC_FAIL && t->pid > 0 && !gone && tries < 10;
             tries++) {
            gone = waitpid(t->pid, &how, WNOHANG) == t->pid;
            if (!gone)
                fc_sleep_ms(2);
        }
        if (!gone)
            continue;
        size_t at = strlen(shared->seen);
        const char *in = atomic_load(&shared->target_stage);
        if (WIFSIGNALED(how))
            snprintf(shared->seen + at, sizeof(shared->seen) - at,
                     "; the target's process died of SIG%s%s%s", sigabbrev_np(WTERMSIG(how)),
                     in ? " in " : "", in ? in : "");
        else
            snprintf(shared->seen + at, sizeof(shared->seen) - at,
                     "; the target's process exited with status %d%s%s", WEXITSTATUS(how),
                     in ? " in " : "", in ? in : "");
    }
    atomic_store(&shared->ended, 1 + (int)result);
}

void fc_fail(struct fc_ctx *ctx, const char *expected, const char *seen, ...)
{
    va_list ap;
    va_start(ap, seen);
    tell(ctx, FC_FAIL, expected, seen, ap);
    va_end(ap);
    _exit(EXIT_ENDED);
}

void fc_not_applicable(struct fc_ctx *ctx, const char *seen, ...)
{
    va_list ap;
    va_start(ap, seen);
    tell(ctx, FC_NOT_APPLICABLE, "", seen, ap);
    va_end(ap);
    _exit(EXIT_ENDED);
}

void fc_skip(struct fc_ctx *ctx, const char *seen, ...)
{
    va_list ap;
    va_start(ap, seen);
    tell(ctx, FC_SKIPPED, "", seen, ap);
    va_end(ap);
    _exit(EXIT_ENDED);
}

void fc_note(struct fc_ctx *ctx, const char *seen, ...)
{
    va_list ap;
    va_start(ap, seen);
    vsnprintf(ctx->shared->seen, sizeof(ctx->shared->seen), seen, ap);
    va_end(ap);
}

struct child {
    const struct fc_options *opt;
    const struct fc_point *point;
    struct fc_shared *shared;
    bool two;
};

static void child_main(void *arg)
{
    static struct fc_ctx ctx;
    const struct child *child = arg;
    const struct fc_options *opt = child->opt;
    ctx.opt = opt;
    fc_wait_ms = FC_SLOW(opt->wait_ms ? opt->wait_ms : 10000u);
    ctx.shared = child->shared;
    ctx.number = child->point->number;
    ctx.two = child->two;
    ctx.rng = opt->seed * 0x9e3779b97f4a7c15u + (uint64_t)(child->point->number + 1);
    fc_node_init(&ctx.self, &ctx, "conf-a");
    for (size_t fd = 0; fd < FC_COUNT(ctx.inherited_fd); fd++)
        ctx.inherited_fd[fd] = fcntl((int)fd, F_GETFD) >= 0;
    if (child->point->targets)
        fc_targets_make(&ctx, child->point->targets);
    child->point->run(&ctx);
}

/* Fills shared and outcome; returns whether the point's process could be made. */
static bool run_point(const struct fc_options *opt, const struct fc_point *point, bool two,
                      struct fc_shared *shared, struct fc_outcome *out)
{
    struct child child = {.opt = opt, .point = point, .shared = shared, .two = two};
    return fc_run_process(shared, point->number, point->name, point->about,
                          FC_SLOW((opt->limit_s ? opt->limit_s : point->limit_s) * 1000u),
                          child_main, &child, out);
}

/* Can a peer in a second process be reached? */
static void shape_run(struct fc_ctx *ctx)
{
    fc_target_open(&ctx->target[0]);
    fc_load(ctx);
    fc_open(ctx, &ctx->self);
    if (!(ctx->caps.flags & FERRY_CAP_LOOPBACK))
        return;
    struct fc_queue q;
    fc_queue_open(ctx, 8, &q);
    struct ferry_peer *peer = NULL;
    struct ferry_kvs attrs = fc_kvs_view(&ctx->target[0].attrs);
    ferry_status status =
        FC_CALL(ctx, peer_open, ctx->self.tp, ctx->target[0].node->name, &attrs, &peer);
    if (status == FERRY_OK)
        status = FC_CALL(ctx, peer_attach, peer, q.q, FC_ATTACH_MS);
    if (status != FERRY_OK)
        fc_not_applicable(ctx, "a peer in a second process gave %s", fc_status(status));
}

static const struct fc_point shape_point = {
    .number = -1, .name = "shape", .about = "", .run = shape_run, .targets = 1, .limit_s = 20};

static bool has_key(const struct ferry_kvs *kvs, const char *key)
{
    for (size_t i = 0; i < kvs->n; i++)
        if (!strcmp(kvs->v[i].key, key))
            return true;
    return false;
}

bool fc_run(const struct fc_options *options, struct fc_summary *summary_out)
{
    return fc_run_points(options, fc_points, fc_n_points, summary_out);
}

bool fc_run_points(const struct fc_options *given, const struct fc_point *points,
                   size_t n_points, struct fc_summary *summary_out)
{
    struct fc_options with_core = *given, *options = &with_core;
    struct ferry_kv *config =
        calloc(2 * given->config.n + given->target.n + 4, sizeof(*config));
    size_t n = 0, n_target = 0;
    if (!config)
        return false;
    struct ferry_kv *target = config + given->config.n + 2;
    for (unsigned i = 0; i < 2; i++) {
        const char *key = i ? "core.host" : "core.bind";
        if (!has_key(&given->config, key))
            config[n++] = (struct ferry_kv){
                .key = key, .val = "127.0.0.1", .val_len = 9, .flags = FERRY_KV_TEXT};
    }
    for (size_t i = 0; i < given->config.n; i++)
        config[n++] = given->config.v[i];
    options->config = (struct ferry_kvs){.v = config, .n = n};
    for (size_t i = 0; i < n; i++)
        if (!has_key(&given->target, config[i].key))
            target[n_target++] = config[i];
    for (size_t i = 0; i < given->target.n; i++)
        target[n_target++] = given->target.v[i];
    options->target = (struct ferry_kvs){.v = target, .n = n_target};
    struct fc_outcome outcome;
    memset(summary_out, 0, sizeof(*summary_out));
    struct fc_shared *shared = fc_shared_new();
    if (!shared) {
        free(config);
        return false;
    }
    bool two = options->processes != FC_PROCESSES_ONE;
    bool ok = true;
    if (options->processes == FC_PROCESSES_AUTO) {
        ok = run_point(options, &shape_point, true, shared, &outcome);
        if (ok && outcome.result == FC_NOT_APPLICABLE) {
            two = false;
            snprintf(summary_out->why_one, sizeof(summary_out->why_one), "%s", outcome.seen);
        }
    }
    summary_out->two_processes = two;
    for (size_t i = 0; ok && i < n_points; i++) {
        if (options->only && !options->only[points[i].number])
            continue;
        ok = run_point(options, &points[i], two, shared, &outcome);
        if (!ok)
            break;
        summary_out->passed += outcome.result == FC_PASS;
        summary_out->failed += outcome.result == FC_FAIL;
        summary_out->not_applicable += outcome.result == FC_NOT_APPLICABLE;
        summary_out->skipped += outcome.result == FC_SKIPPED;
        options->report(options->arg, &outcome);
    }
    fc_shared_free(shared);
    free(config);
    return ok;
}
