/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which transport carries new work to a peer: the first that works, in the order of the
 * configuration or of what transports say of themselves; where the order is ours, another one
 * that was measured to be clearly faster. docs/adr/ has the reasons, docs/selection.md the
 * rules in words. Measuring itself is in path_measure.c.
 */
#include "path.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"
#include "error.h"
#include "path_measure.h"
#include "util/clock.h"

/* Before the first probe of a path that failed, and at most before a later one. */
#define RETRY_NS        (500 * FY_NS_PER_MS)
#define RETRY_MOST_NS   (60 * FY_NS_PER_S)
/* The same where the transport says that the pair is not for it. */
#define REFUSED_NS      (30 * FY_NS_PER_S)
#define REFUSED_MOST_NS (600 * FY_NS_PER_S)
/* A path that held for so long fails for the first time again. */
#define STABLE_NS       (30 * FY_NS_PER_S)
/* Of connecting, before another path is used meanwhile. */
#define SLOW_NS         (250 * FY_NS_PER_MS)

uint32_t fy_location_kind(const char *location, const char *node)
{
    size_t word = strspn(location, "abcdefghijklmnopqrstuvwxyz");
    const char *number = location + word + 1;

    /* Some of Mooncake's nodes write their own name there, and "segments:..." of memory that
     * is spread over NUMA nodes. */
    if (!word || location[word] != ':' || !*number || number[strspn(number, "0123456789")] ||
        !strncmp(location, "cpu:", 4) || !strcmp(location, node))
        return FERRY_MEM_HOST;
    return FERRY_MEM_DEVICE;
}

bool fy_takes(uint32_t kinds, uint32_t kind)
{
    return !kinds || kinds & FERRY_MEM_BIT(kind); /* 0: a plugin that does not say */
}

static bool state_is(const struct fy_view *view, int state)
{
    return view && atomic_load_explicit(&view->state, memory_order_acquire) == state;
}

/* It stands, or may come to. */
static bool is_alive(const struct fy_view *view)
{
    return view && atomic_load_explicit(&view->state, memory_order_acquire) < FY_VIEW_BREAKING;
}

/* ---- what is known against a path; segment.lock held ---- */

static uint64_t back_off(uint64_t first_ns, uint64_t most_ns, unsigned failures)
{
    uint64_t ns = first_ns << (failures < 16 ? failures : 16);

    return ns < most_ns ? ns : most_ns;
}

static void against(struct fy_segment *segment, unsigned t, ferry_status status, bool refused,
                    const char *text)
{
    struct fy_path *path = &segment->paths[t];
    uint64_t now = fy_now_ns();

    if (path->restored_ns && now - path->restored_ns > STABLE_NS)
        path->failures = 0;
    path->restored_ns = 0;
    path->retry_ns = now + (refused ? back_off(REFUSED_NS, REFUSED_MOST_NS, path->failures)
                                    : back_off(RETRY_NS, RETRY_MOST_NS, path->failures));
    path->failures++;
    path->why = path->last_status = status;
    path->last_ns = now;
    path->refused = refused;
    snprintf(path->last_text, sizeof(path->last_text), "%s",
             text && text[0] ? text : ferry_strstatus(status));
}

/* Its words, where the plugin has any. */
static ferry_status open_view(struct fy_segment *segment, unsigned t, struct fy_view **old_out)
{
    struct fy_path *path = &segment->paths[t];
    struct fy_view *view = NULL;
    char words[200], text[256];
    ferry_status status;

    fy_host_listen(words, sizeof(words));
    status = fy_view_new(segment, segment->engine->transports[t], segment->doc, &view);
    fy_host_listen(NULL, 0);
    *old_out = segment->views[t];
    segment->views[t] = status ? NULL : view;
    if (status) {
        snprintf(text, sizeof(text), "%s", words[0] ? words : ferry_strstatus(status));
        against(segment, t, status, true, text);
        FY_INFO(&segment->engine->log, "peer %s: transport %s is passed over: %s",
                segment->name, segment->engine->transports[t]->host.name, text);
    } else if (path->why) { /* an attempt, whatever it will say; the next one no sooner */
        path->retry_ns = fy_now_ns() + RETRY_NS;
    }
    return status;
}

/* Of an incarnation that is gone, or of a document since when much may be different, nothing
 * follows for the one of today. */
static void report(struct fy_segment *segment, struct fy_view *view)
{
    if (atomic_exchange(&view->reported, true) || view->cause == FERRY_ESTALE ||
        strcmp(view->doc->epoch, segment->doc->epoch) != 0)
        return;
    against(segment, view->transport->index, view->cause, false, view->cause_text);
}

/* May new work go over it? */
static bool works(struct fy_segment *segment, unsigned t)
{
    struct fy_path *path = &segment->paths[t];
    struct fy_view *view = segment->views[t];

    if (state_is(view, FY_VIEW_BROKEN))
        report(segment, view); /* before those do who close it */

    if (!path->why)
        return true;
    /* What is held against it was about an earlier view: one that stands since disproves it. */
    if (!state_is(view, FY_VIEW_READY))
        return false;
    path->why = FERRY_OK;
    path->refused = false;
    path->restored_ns = fy_now_ns();
    FY_INFO(&segment->engine->log, "peer %s: transport %s works again", segment->name,
            segment->engine->transports[t]->host.name);
    return true;
}

void fy_path_lost(struct fy_view *view)
{
    struct fy_segment *segment = view->segment;

    if (atomic_load(&view->reported))
        return;
    while (state_is(view, FY_VIEW_BREAKING)) /* its cause is being written */
        sched_yield();
    pthread_mutex_lock(&segment->lock);
    report(segment, view);
    pthread_mutex_unlock(&segment->lock);
}

void fy_paths_reset(struct fy_segment *segment, bool restarted)
{
    const struct ferry_engine *engine = segment->engine;

    unsigned offered = 0;

    for (unsigned t = 0; t < engine->n_transports; t++) {
        const struct fy_transport *transport = engine->transports[t];
        struct fy_path *path = &segment->paths[t];

        if (fy_doc_transport_index(segment->doc, transport->host.name) >= 0 &&
            ((transport->caps.flags & FERRY_CAP_LOOPBACK) ||
             strcmp(segment->name, engine->name) != 0))
            offered |= 1u << t;
        /* Memory that is new may be why it was refused; a new process is nobody's enemy. */
        if (restarted || path->refused) {
            path->why = FERRY_OK;
            path->refused = false;
            path->failures = 0;
        }
    }
    atomic_store_explicit(&segment->offered, offered, memory_order_relaxed);
}

/* ---- choosing; segment.lock held ---- */

struct choice {
    struct fy_segment *segment;
    const struct fy_need *need;
    uint32_t tried;                         /* transports that were refused just now */
    struct fy_view *old[FY_MAX_TRANSPORTS]; /* to be let go of once the lock is */
    unsigned n_old;
};

static void keep_old(struct choice *c, struct fy_view *old)
{
    if (old && c->n_old < FY_MAX_TRANSPORTS)
        c->old[c->n_old++] = old;
}

static bool fits(const struct choice *c, unsigned t)
{
    const struct fy_transport *transport = c->segment->engine->transports[t];

    return (atomic_load_explicit(&c->segment->offered, memory_order_relaxed) & ~c->tried &
            1u << t) &&
           (!c->need->only || c->need->only == transport) &&
           fy_takes(transport->caps.local_mem, c->need->local_kind) &&
           fy_takes(transport->caps.remote_mem, c->need->remote_kind);
}

/* In the background: no work waits for it. */
static void connect_beside(struct choice *c, unsigned t)
{
    struct fy_segment *segment = c->segment;
    struct fy_view *view = segment->views[t], *old = NULL;

    if (!is_alive(view)) {
        if (open_view(segment, t, &old))
            c->tried |= 1u << t;
        keep_old(c, old);
        view = segment->views[t];
    }
    if (view)
        fy_view_connect(view);
}

static bool is_ready(const struct choice *c, unsigned t)
{
    return state_is(c->segment->views[t], FY_VIEW_READY);
}

/* The first that works is `best`. What was measured says another one, or one is to be tried
 * out. */
static unsigned by_measure(struct choice *c, unsigned best)
{
    struct fy_segment *segment = c->segment;
    const struct ferry_engine *engine = segment->engine;
    uint32_t op = c->need->op & 1;
    unsigned class = fy_size_class(c->need->bytes), now_on = segment->moved[op][class];
    unsigned on = best;

    if (now_on && fits(c, now_on - 1) && works(segment, now_on - 1))
        on = now_on - 1;
    if (atomic_fetch_add_explicit(&segment->turn, 1, memory_order_relaxed) % FY_MEASURE_TURNS)
        return on;
    for (unsigned t = 0; t < engine->n_transports; t++) {
        if (t == on || !fits(c, t) || !works(segment, t))
            continue;
        if (!is_ready(c, t)) {
            if (fy_path_busy(&segment->paths[on], op, class))
                connect_beside(c, t); /* so that it can be tried out, and steps in at once */
            continue;
        }
        if (fy_path_beats(segment, t, on, op, c->need->bytes)) {
            FY_INFO(&engine->log,
                    "peer %s: %s of about %llu bytes go over %s now: %.1f us instead of %.1f "
                    "over %s",
                    segment->name, op == FERRY_OP_READ ? "reads" : "writes",
                    (unsigned long long)c->need->bytes, engine->transports[t]->host.name,
                    fy_path_predict_us(segment, t, op, c->need->bytes, NULL),
                    fy_path_predict_us(segment, on, op, c->need->bytes, NULL),
                    engine->transports[on]->host.name);
            on = t;
            segment->moved[op][class] = (uint8_t)(t == best ? 0 : t + 1);
        } else if (fy_path_explore(segment, t, on, op, c->need->bytes)) {
            return t;
        }
    }
    return on;
}

/* It works as far as is known, and has been connecting for long. */
static bool is_slow(const struct choice *c, unsigned t)
{
    const struct fy_view *view = c->segment->views[t];
    unsigned long long since;

    if (!state_is(view, FY_VIEW_OPENING))
        return false;
    since = atomic_load_explicit(&view->opening_ns, memory_order_relaxed);
    return since && fy_now_ns() - since > SLOW_NS;
}

/* Until `best` stands, the next one that does; it is connected meanwhile. */
static unsigned stand_in(struct choice *c, unsigned best)
{
    for (unsigned t = best + 1; t < c->segment->engine->n_transports; t++) {
        if (!fits(c, t) || !works(c->segment, t))
            continue;
        if (is_ready(c, t))
            return t;
        connect_beside(c, t);
    }
    return best;
}

/* -1: none fits. */
static int choose(struct choice *c)
{
    struct fy_segment *segment = c->segment;
    const struct ferry_engine *engine = segment->engine;
    int best = -1, fallback = -1;
    uint32_t due = 0;

    for (unsigned t = 0; t < engine->n_transports && best < 0; t++) {
        const struct fy_path *path = &segment->paths[t];

        if (!fits(c, t))
            continue;
        if (works(segment, t)) {
            best = (int)t;
        } else {
            /* A probe that stands does not get here; one under way is the best of bad ones. */
            if (fallback < 0 || path->retry_ns < segment->paths[fallback].retry_ns)
                fallback = (int)t;
            if (!is_alive(segment->views[t]) && fy_now_ns() >= path->retry_ns)
                due |= 1u << t;
        }
    }
    if (best < 0)
        return fallback;
    for (; due; due &= due - 1)
        connect_beside(c, (unsigned)__builtin_ctz(due));
    if (!c->need->only && is_slow(c, (unsigned)best))
        return (int)stand_in(c, (unsigned)best);
    if (engine->feedback && !c->need->only && c->need->bytes)
        return (int)by_measure(c, (unsigned)best);
    return best;
}

int fy_path_first(struct fy_segment *segment)
{
    for (unsigned t = 0; t < segment->engine->n_transports; t++)
        if ((atomic_load(&segment->offered) & 1u << t) && works(segment, t))
            return (int)t;
    return -1;
}

static void append(char *text, size_t room, const char *more)
{
    strncat(text, more, room - strlen(text) - 1);
}

/* Why nothing was chosen: what both sides have, and what was refused. */
static ferry_status no_path(const struct choice *c)
{
    const struct fy_segment *segment = c->segment;
    const struct ferry_engine *engine = segment->engine;
    char ours[128] = "", theirs[128] = "", why[400] = "";
    ferry_status status = FERRY_ENOTSUP;

    for (unsigned t = 0; t < engine->n_transports; t++) {
        append(ours, sizeof(ours), t ? ", " : "");
        append(ours, sizeof(ours), engine->transports[t]->host.name);
        if (!(c->tried & 1u << t))
            continue;
        append(why, sizeof(why), "; ");
        append(why, sizeof(why), engine->transports[t]->host.name);
        append(why, sizeof(why), ": ");
        append(why, sizeof(why), segment->paths[t].last_text);
        if (c->tried == 1u << t)
            status = segment->paths[t].last_status;
    }
    for (size_t i = 0; i < segment->doc->n_transports; i++) {
        append(theirs, sizeof(theirs), i ? ", " : "");
        append(theirs, sizeof(theirs), segment->doc->transports[i].name);
    }
    if (!c->tried && atomic_load_explicit(&segment->offered, memory_order_relaxed) &&
        !c->need->only)
        append(why, sizeof(why), "; none of these takes both kinds of memory");
    return fy_fail(status, "no transport reaches %s: it offers %s, %s %s%s", segment->name,
                   theirs[0] ? theirs : "none", c->need->only ? "asked for is" : "ours are",
                   c->need->only ? c->need->only->host.name : ours, why);
}

ferry_status fy_segment_view(struct fy_segment *segment, const struct fy_need *need,
                             struct fy_view **view_out)
{
    struct choice c = {.segment = segment, .need = need};
    struct fy_view *view = NULL, *old;
    ferry_status status = FERRY_OK;

    pthread_mutex_lock(&segment->lock);
    while (!view && !status) {
        int t = choose(&c);

        if (t < 0) {
            status = no_path(&c);
            break;
        }
        view = segment->views[t];
        if (is_alive(view))
            break;
        if (open_view(segment, (unsigned)t, &old))
            c.tried |= 1u << t;
        keep_old(&c, old);
        view = segment->views[t];
    }
    if (!status)
        *view_out = fy_view_ref(view);
    pthread_mutex_unlock(&segment->lock);
    while (c.n_old)
        fy_view_put(c.old[--c.n_old]);
    return status;
}
