/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Peers by name: their documents, and the path that new work takes to each.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"
#include "error.h"
#include "util/clock.h"
#include "util/thread.h"

#define MAX_SEGMENTS 1000000

/* ---- slots
 * ----------------------------------------------------------------------------------- */

static ferry_segment handle_of(const struct fy_segment *segment)
{
    return (uint64_t)segment->gen << 32 | (segment->slot + 1);
}

struct fy_segment *fy_segment_get(struct ferry_engine *engine, ferry_segment handle)
{
    uint32_t slot = (uint32_t)handle - 1, gen = (uint32_t)(handle >> 32);
    struct fy_segment *segment = NULL;

    pthread_mutex_lock(&engine->segments_lock);
    if (slot < engine->n_segments && engine->segments[slot] &&
        engine->segment_gens[slot] == gen) {
        segment = engine->segments[slot];
        atomic_fetch_add_explicit(&segment->refs, 1, memory_order_relaxed);
    }
    pthread_mutex_unlock(&engine->segments_lock);
    if (!segment)
        fy_fail(FERRY_ENOENT, "no such segment: 0x%llx (closed?)", (unsigned long long)handle);
    return segment;
}

void fy_segment_put(struct fy_segment *segment)
{
    if (!segment || atomic_fetch_sub_explicit(&segment->refs, 1, memory_order_acq_rel) != 1)
        return;
    fy_doc_unref(segment->doc);
    pthread_mutex_destroy(&segment->lock);
    pthread_cond_destroy(&segment->reloaded);
    pthread_mutex_destroy(&segment->again_lock);
    free(segment->name);
    free(segment);
}

/* Gives its table's or opener's reference up, and its views, which hold it, too. */
static void drop_segment(struct fy_segment *segment)
{
    struct fy_view *views[FY_MAX_TRANSPORTS];

    pthread_mutex_lock(&segment->lock);
    memcpy(views, segment->views, sizeof(views));
    memset(segment->views, 0, sizeof(segment->views));
    pthread_mutex_unlock(&segment->lock);
    for (int i = 0; i < FY_MAX_TRANSPORTS; i++)
        fy_view_put(views[i]);
    fy_segment_put(segment);
}

static struct fy_segment *new_segment(struct ferry_engine *engine, const char *name,
                                      struct fy_doc *doc)
{
    struct fy_segment *segment = calloc(1, sizeof(*segment));

    if (segment)
        segment->name = strdup(name);
    if (!segment || !segment->name) {
        free(segment);
        return NULL;
    }
    segment->engine = engine;
    segment->doc = doc;
    segment->opened_ns = segment->fetched_ns = fy_now_ns();
    atomic_init(&segment->refs, 1);
    segment->again_tail = &segment->again;
    pthread_mutex_init(&segment->lock, NULL);
    pthread_mutex_init(&segment->again_lock, NULL);
    fy_cond_init(&segment->reloaded);
    fy_paths_reset(segment, true);
    return segment;
}

/* segments_lock held. */
static ferry_status place(struct ferry_engine *engine, struct fy_segment *segment)
{
    size_t slot = 0;

    while (slot < engine->n_segments && engine->segments[slot])
        slot++;
    if (slot == engine->n_segments) {
        size_t n = slot ? slot * 2 : 16;
        struct fy_segment **segments;
        uint32_t *gens;

        if (n > MAX_SEGMENTS)
            return FERRY_ENOMEM;
        segments = realloc(engine->segments, n * sizeof(*segments));
        if (!segments)
            return FERRY_ENOMEM;
        engine->segments = segments;
        gens = realloc(engine->segment_gens, n * sizeof(*gens));
        if (!gens)
            return FERRY_ENOMEM;
        engine->segment_gens = gens;
        memset(segments + slot, 0, (n - slot) * sizeof(*segments));
        memset(gens + slot, 0, (n - slot) * sizeof(*gens));
        engine->n_segments = n;
    }
    if (!++engine->segment_gens[slot])
        engine->segment_gens[slot] = 1;
    segment->slot = (uint32_t)slot;
    segment->gen = engine->segment_gens[slot];
    engine->segments[slot] = segment;
    return FERRY_OK;
}

/* ---- documents
 * ------------------------------------------------------------------------------- */

static bool same_attrs(const struct ferry_kvs *a, const struct ferry_kvs *b)
{
    if (a->n != b->n)
        return false;
    for (size_t i = 0; i < a->n; i++) {
        const struct ferry_kv *kv = fy_kv_get(b, a->v[i].key);

        if (!kv || kv->val_len != a->v[i].val_len || memcmp(kv->val, a->v[i].val, kv->val_len))
            return false;
    }
    return true;
}

/* Would views of one serve for the other, and do they list the same in the same order? */
static bool same_doc(const struct fy_doc *a, const struct fy_doc *b)
{
    if (strcmp(a->epoch, b->epoch) || strcmp(a->name, b->name) ||
        a->n_transports != b->n_transports || a->n_buffers != b->n_buffers)
        return false;
    for (size_t i = 0; i < a->n_transports; i++) {
        if (strcmp(a->transports[i].name, b->transports[i].name) ||
            !same_attrs(&a->transports[i].attrs.kvs, &b->transports[i].attrs.kvs))
            return false;
    }
    for (size_t i = 0; i < a->n_buffers; i++) {
        const struct fy_doc_buffer *x = &a->buffers[i], *y = &b->buffers[i];

        if (x->addr != y->addr || x->len != y->len || x->access != y->access ||
            !x->attrs != !y->attrs)
            return false;
        for (size_t t = 0; x->attrs && t < a->n_transports; t++) {
            if (!same_attrs(&x->attrs[t].kvs, &y->attrs[t].kvs))
                return false;
        }
        if (a->listed[i]->addr != b->listed[i]->addr)
            return false;
    }
    return true;
}

/* Takes over `doc`. Views of the old one finish what they have; those of a dead incarnation
 * break. */
static void swap_doc(struct fy_segment *segment, struct fy_doc *doc)
{
    struct fy_view *old[FY_MAX_TRANSPORTS] = {NULL};
    struct fy_doc *before;
    bool restarted;

    pthread_mutex_lock(&segment->lock);
    segment->fetched_ns = fy_now_ns();
    if (same_doc(segment->doc, doc)) {
        pthread_mutex_unlock(&segment->lock);
        fy_doc_unref(doc);
        return;
    }
    before = segment->doc;
    segment->doc = doc;
    restarted = strcmp(before->epoch, doc->epoch) != 0;
    memcpy(old, segment->views, sizeof(old));
    memset(segment->views, 0, sizeof(segment->views));
    fy_paths_reset(segment, restarted);
    pthread_mutex_unlock(&segment->lock);
    for (int i = 0; i < FY_MAX_TRANSPORTS; i++) {
        if (old[i] && restarted)
            fy_view_break(old[i], FERRY_ESTALE, "the peer restarted");
        fy_view_put(old[i]);
    }
    fy_doc_unref(before);
}

/* Has somebody read the document since, or tried to for as long as the caller would? It would
 * only wait for the same answer. Lock held. */
static bool answered(const struct fy_segment *segment, uint64_t since_ns, uint32_t timeout_ms)
{
    return segment->asked_ns > since_ns ||
           (segment->failed_ns > since_ns && segment->failed_ms >= timeout_ms);
}

/* Until then, or until nobody reads it, or for as long as the caller has. Lock held. */
static void wait_for_reader(struct fy_segment *segment, uint64_t since_ns, uint32_t timeout_ms,
                            uint64_t deadline_ns)
{
    struct timespec until = fy_timespec(deadline_ns);

    while (segment->reloading && !answered(segment, since_ns, timeout_ms) &&
           !pthread_cond_timedwait(&segment->reloaded, &segment->lock, &until))
        ;
}

/* Our own is at hand, also while the service does not know it yet. */
static ferry_status read_doc(struct fy_segment *segment, uint64_t deadline_ns,
                             struct fy_doc **doc_out)
{
    struct ferry_engine *engine = segment->engine;

    if (strcmp(segment->name, engine->name) != 0)
        return fy_store_fetch_again(engine->store, segment->name,
                                    (uint32_t)fy_ms_left(deadline_ns), doc_out);
    *doc_out = fy_engine_doc(engine);
    return FERRY_OK;
}

ferry_status fy_segment_reload(struct fy_segment *segment, uint64_t since_ns,
                               uint32_t timeout_ms)
{
    uint64_t deadline_ns = fy_now_ns() + timeout_ms * FY_NS_PER_MS, asked;
    struct fy_doc *doc;
    ferry_status status = FERRY_OK;
    bool ours = false;

    pthread_mutex_lock(&segment->lock);
    wait_for_reader(segment, since_ns, timeout_ms, deadline_ns);
    if (answered(segment, since_ns, timeout_ms)) {
        if (segment->asked_ns <= since_ns)
            status = fy_fail(segment->failed_status, "%s", segment->failed_text);
    } else if (segment->reloading) {
        status =
            fy_fail(FERRY_ETIMEDOUT,
                    "its document is being read, and has not come within %u ms", timeout_ms);
    } else {
        ours = segment->reloading = true;
    }
    pthread_mutex_unlock(&segment->lock);
    if (!ours)
        return status;
    asked = fy_now_ns();
    status = read_doc(segment, deadline_ns, &doc);
    if (!status)
        swap_doc(segment, doc);
    pthread_mutex_lock(&segment->lock);
    if (!status) {
        segment->asked_ns = asked;
    } else {
        segment->failed_ns = fy_now_ns();
        segment->failed_ms = timeout_ms;
        segment->failed_status = status;
        snprintf(segment->failed_text, sizeof(segment->failed_text), "%s", ferry_error());
    }
    segment->reloading = false;
    pthread_cond_broadcast(&segment->reloaded);
    pthread_mutex_unlock(&segment->lock);
    return status;
}

/* ---- calls
 * ----------------------------------------------------------------------------------- */

/* segments_lock held. */
static struct fy_segment *find(struct ferry_engine *engine, const char *name)
{
    for (size_t i = 0; i < engine->n_segments; i++) {
        if (engine->segments[i] && !strcmp(engine->segments[i]->name, name))
            return engine->segments[i];
    }
    return NULL;
}

static ferry_status open_known(struct ferry_engine *engine, const char *name,
                               ferry_segment *segment_out)
{
    struct fy_segment *segment;

    pthread_mutex_lock(&engine->segments_lock);
    segment = find(engine, name);
    if (segment) {
        segment->opened++;
        *segment_out = handle_of(segment);
    }
    pthread_mutex_unlock(&engine->segments_lock);
    return segment ? FERRY_OK : FERRY_ENOENT;
}

static ferry_status insert(struct ferry_engine *engine, struct fy_segment *segment,
                           ferry_segment *segment_out)
{
    struct fy_segment *known;
    ferry_status status = FERRY_OK;

    pthread_mutex_lock(&engine->segments_lock);
    known = find(engine, segment->name);
    if (!known) {
        status = place(engine, segment);
        known = segment;
    }
    if (!status) {
        known->opened++;
        *segment_out = handle_of(known);
    }
    pthread_mutex_unlock(&engine->segments_lock);
    if (status || known != segment) /* somebody else was faster */
        drop_segment(segment);
    return status ? fy_fail(status, "no memory for a segment") : FERRY_OK;
}

ferry_status ferry_segment_open(struct ferry_engine *engine, const char *name,
                                uint32_t timeout_ms, ferry_segment *segment_out)
{
    const struct fy_need need = {.bytes = 0};
    uint64_t deadline_ns = fy_now_ns() + timeout_ms * FY_NS_PER_MS;
    struct fy_segment *segment;
    struct fy_view *view = NULL;
    struct fy_doc *doc;
    ferry_status status;

    if (!engine || !name || !segment_out)
        return fy_fail(FERRY_EINVAL, "segment_open: engine, name and result are needed");
    while (*name == '/') /* as Mooncake does */
        name++;
    if (!*name)
        return fy_fail(FERRY_EINVAL, "segment_open: empty name");
    if (!open_known(engine, name, segment_out))
        return FERRY_OK;
    if (!strcmp(name, engine->name))
        doc = fy_engine_doc(engine), status = FERRY_OK;
    else
        status = fy_store_fetch(engine->store, name, timeout_ms ? timeout_ms : 1, &doc);
    if (status)
        return fy_fail_in(status, "segment %s: ", name);
    segment = new_segment(engine, name, doc);
    if (!segment) {
        fy_doc_unref(doc);
        return fy_fail(FERRY_ENOMEM, "no memory for a segment");
    }
    status = fy_segment_view(segment, &need, &view);
    if (status) {
        drop_segment(segment);
        return status;
    }
    fy_view_connect(view); /* so that the first transfer finds it ready */
    fy_view_put(view);
    if (strcmp(name, engine->name) != 0)
        fy_follow_peer(engine, name, deadline_ns);
    return insert(engine, segment, segment_out);
}

ferry_status ferry_segment_refresh(struct ferry_engine *engine, ferry_segment handle,
                                   uint32_t timeout_ms)
{
    struct fy_segment *segment = engine ? fy_segment_get(engine, handle) : NULL;
    ferry_status status;

    if (!segment)
        return engine ? FERRY_ENOENT : fy_fail(FERRY_EINVAL, "no engine");
    status = fy_segment_reload(segment, fy_now_ns(), timeout_ms);
    if (status)
        fy_fail_in(status, "segment %s: ", segment->name);
    fy_segment_put(segment);
    return status;
}

/* Texts that outlive documents; there are few different ones. */
static const char *keep_location(struct ferry_engine *engine, const char *text)
{
    const size_t room = sizeof(engine->locations) / sizeof(engine->locations[0]);
    const char *kept = "*";

    for (size_t i = 0; i < engine->n_locations; i++) {
        if (!strcmp(engine->locations[i], text))
            return engine->locations[i];
    }
    if (engine->n_locations < room) {
        char *copy = strdup(text);

        if (copy)
            kept = engine->locations[engine->n_locations++] = copy;
    }
    return kept;
}

ferry_status ferry_segment_buffers(struct ferry_engine *engine, ferry_segment handle,
                                   struct ferry_buffer *buffers, size_t room, size_t *n_out)
{
    struct fy_segment *segment = engine ? fy_segment_get(engine, handle) : NULL;
    struct fy_doc *doc;

    if (!segment)
        return engine ? FERRY_ENOENT : fy_fail(FERRY_EINVAL, "no engine");
    if (!n_out || (room && !buffers)) {
        fy_segment_put(segment);
        return fy_fail(FERRY_EINVAL, "segment_buffers: nowhere to put them");
    }
    pthread_mutex_lock(&segment->lock);
    doc = fy_doc_ref(segment->doc);
    pthread_mutex_unlock(&segment->lock);
    pthread_mutex_lock(&engine->segments_lock);
    for (size_t i = 0; i < doc->n_buffers && i < room; i++) {
        const struct fy_doc_buffer *buffer = doc->listed[i];

        buffers[i] = (struct ferry_buffer){
            .addr = (void *)(uintptr_t)buffer->addr,
            .len = buffer->len,
            .access = buffer->access,
            .location = keep_location(engine, buffer->location),
        };
    }
    pthread_mutex_unlock(&engine->segments_lock);
    *n_out = doc->n_buffers;
    fy_doc_unref(doc);
    fy_segment_put(segment);
    return FERRY_OK;
}

ferry_status ferry_segment_probe(struct ferry_engine *engine, ferry_segment handle,
                                 uint32_t timeout_ms)
{
    struct fy_segment *segment = engine ? fy_segment_get(engine, handle) : NULL;
    uint64_t deadline_ns = fy_now_ns() + timeout_ms * FY_NS_PER_MS;
    struct fy_buf reply;
    ferry_status status;

    if (!segment)
        return engine ? FERRY_ENOENT : fy_fail(FERRY_EINVAL, "no engine");
    fy_buf_init(&reply, 65536);
    status = fy_store_request(engine->store, segment->name, FY_CONTROL_PROBE, "{}", 2,
                              deadline_ns, &reply);
    pthread_mutex_lock(&segment->lock);
    if (status == FERRY_ECONNRESET && !segment->doc->epoch[0])
        status =
            FERRY_OK; /* an old node that knows no probes answers by closing: it is there */
    pthread_mutex_unlock(&segment->lock);
    fy_buf_fini(&reply);
    fy_segment_put(segment);
    return status;
}

void ferry_segment_close(struct ferry_engine *engine, ferry_segment handle)
{
    struct fy_segment *segment = engine && handle ? fy_segment_get(engine, handle) : NULL;
    bool last;

    if (!segment)
        return;
    pthread_mutex_lock(&engine->segments_lock);
    last = engine->segments[segment->slot] == segment && !--segment->opened;
    if (last)
        engine->segments[segment->slot] = NULL;
    pthread_mutex_unlock(&engine->segments_lock);
    if (last)
        drop_segment(segment);
    fy_segment_put(segment);
}

void fy_segments_close(struct ferry_engine *engine)
{
    for (size_t i = 0; i < engine->n_segments; i++) {
        if (engine->segments[i])
            drop_segment(engine->segments[i]);
    }
    free(engine->segments);
    free(engine->segment_gens);
    engine->segments = NULL;
    engine->n_segments = 0;
    for (size_t i = 0; i < engine->n_locations; i++)
        free(engine->locations[i]);
}
