/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is going on, as JSON: statistics, links, plugins, our document, the configuration.
 */
#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"
#include "error.h"
#include "util/clock.h"

static void add_counters(cJSON *object, const struct fy_counters *count)
{
    cJSON_AddNumberToObject(object, "requests", (double)atomic_load(&count->requests));
    cJSON_AddNumberToObject(object, "bytes", (double)atomic_load(&count->bytes));
    cJSON_AddNumberToObject(object, "failed", (double)atomic_load(&count->failed));
    cJSON_AddNumberToObject(object, "retried", (double)atomic_load(&count->retried));
}

static void add_up(struct fy_counters *sum, const struct fy_counters *count)
{
    sum->requests += atomic_load(&count->requests);
    sum->bytes += atomic_load(&count->bytes);
    sum->failed += atomic_load(&count->failed);
    sum->retried += atomic_load(&count->retried);
}

static double seconds_since(uint64_t then_ns)
{
    return (double)(fy_now_ns() - then_ns) / 1e9;
}

static void add_rates(cJSON *object, uint64_t current_Bps, const struct fy_counters *count,
                      double seconds)
{
    cJSON_AddNumberToObject(object, "current_Bps", (double)current_Bps);
    cJSON_AddNumberToObject(object, "average_Bps",
                            seconds > 0 ? (double)atomic_load(&count->bytes) / seconds : 0);
}

static cJSON *describe_rails(const struct ferry_engine *engine,
                             const struct fy_transport *transport)
{
    cJSON *list = cJSON_CreateArray();

    for (unsigned i = 0; i < transport->n_lanes; i++) {
        const struct fy_lane *lane = transport->lanes[i];
        cJSON *item = cJSON_CreateObject();
        char rail[40];

        fy_lane_name(lane, rail, sizeof(rail));
        cJSON_AddStringToObject(item, "rail", rail);
        cJSON_AddStringToObject(item, "state", atomic_load(&lane->dead) ? "lost" : "ready");
        cJSON_AddNumberToObject(item, "parts_under_way", atomic_load(&lane->parts));
        add_counters(item, &lane->count);
        add_rates(item, fy_rate_now(&lane->rate, &lane->count), &lane->count,
                  seconds_since(engine->opened_ns));
        cJSON_AddItemToArray(list, item);
    }
    return list;
}

static cJSON *describe_statistics(struct ferry_engine *engine)
{
    cJSON *root = cJSON_CreateObject(), *list = cJSON_AddArrayToObject(root, "transports");

    cJSON_AddStringToObject(root, "name", engine->name);
    cJSON_AddNumberToObject(root, "uptime_s", seconds_since(engine->opened_ns));
    cJSON_AddNumberToObject(root, "batches", (double)atomic_load(&engine->count.batches));
    cJSON_AddNumberToObject(root, "batches_under_way", atomic_load(&engine->n_active));
    cJSON_AddNumberToObject(root, "buffers", (double)fy_registry_count(engine->registry));
    for (unsigned i = 0; i < engine->n_transports; i++) {
        struct fy_transport *transport = engine->transports[i];
        struct fy_counters sum = {0};
        cJSON *item = cJSON_CreateObject();
        uint64_t Bps = 0;

        for (unsigned k = 0; k < transport->n_lanes; k++) {
            add_up(&sum, &transport->lanes[k]->count);
            Bps += fy_rate_now(&transport->lanes[k]->rate, &transport->lanes[k]->count);
        }
        cJSON_AddStringToObject(item, "name", transport->host.name);
        cJSON_AddNumberToObject(item, "queues", transport->n_lanes);
        add_counters(item, &sum);
        add_rates(item, Bps, &sum, seconds_since(engine->opened_ns));
        for (size_t a = 0; a < transport->attrs.kvs.n; a++) {
            const struct ferry_kv *kv = &transport->attrs.kvs.v[a];

            if (kv->flags & (FERRY_KV_TEXT | FERRY_KV_JSON))
                cJSON_AddStringToObject(item, kv->key, kv->val);
        }
        cJSON_AddItemToObject(item, "rails", describe_rails(engine, transport));
        cJSON_AddItemToArray(list, item);
    }
    return root;
}

static const char *state_name(int state)
{
    static const char *const names[] = {"new", "connecting", "ready", "lost", "lost"};

    return names[state];
}

/* What is known against it, and its last failure, which may be over. */
static void describe_trouble(cJSON *item, const struct fy_path *path)
{
    uint64_t now = fy_now_ns();
    cJSON *last;

    if (path->why) {
        cJSON_AddStringToObject(item, path->refused ? "refused" : "passed_over",
                                path->last_text);
        cJSON_AddNumberToObject(item, "retry_in_s",
                                path->retry_ns > now ? (double)(path->retry_ns - now) / 1e9
                                                     : 0);
    }
    if (!path->last_status)
        return;
    last = cJSON_AddObjectToObject(item, "last_error");
    cJSON_AddStringToObject(last, "status", ferry_strstatus(path->last_status));
    cJSON_AddStringToObject(last, "text", path->last_text);
    cJSON_AddNumberToObject(last, "ago_s", seconds_since(path->last_ns));
}

/* What the choice among several rests on. */
static void describe_expected(cJSON *item, const struct fy_segment *segment, unsigned t)
{
    static const struct {
        const char *name;
        uint64_t bytes;
    } sizes[] = {{"4k", 4096}, {"64k", 65536}, {"1m", 1 << 20}, {"16m", 16 << 20}};
    cJSON *expected = cJSON_AddObjectToObject(item, "expected_us");

    for (uint32_t op = 0; op < 2; op++) {
        cJSON *list = cJSON_AddObjectToObject(expected, op == FERRY_OP_READ ? "read" : "write");

        for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
            cJSON_AddNumberToObject(list, sizes[i].name,
                                    fy_path_predict_us(segment, t, op, sizes[i].bytes, NULL));
    }
}

/* segment.lock held. */
static cJSON *describe_path(struct fy_segment *segment, unsigned t)
{
    const struct ferry_engine *engine = segment->engine;
    const struct fy_path *path = &segment->paths[t];
    const struct fy_view *view = segment->views[t];
    cJSON *item = cJSON_CreateObject(), *rails;
    int state = view ? atomic_load_explicit(&view->state, memory_order_acquire) : FY_VIEW_NEW;

    cJSON_AddStringToObject(item, "transport", engine->transports[t]->host.name);
    cJSON_AddStringToObject(item, "state",
                            !view ? path->refused ? "refused" : "unused" : state_name(state));
    if (view) {
        uint64_t lanes = atomic_load(&view->lanes), since = atomic_load(&view->ready_ns);

        cJSON_AddNumberToObject(item, "queues", __builtin_popcountll(lanes));
        if (state == FY_VIEW_READY && since)
            cJSON_AddNumberToObject(item, "since_s", seconds_since(since));
        if (state == FY_VIEW_BROKEN)
            cJSON_AddStringToObject(item, "cause", view->cause_text);
        rails = cJSON_AddArrayToObject(item, "rails");
        for (; lanes; lanes &= lanes - 1) {
            char rail[40];

            fy_view_rail(view, engine->lanes[__builtin_ctzll(lanes)], rail, sizeof(rail));
            cJSON_AddItemToArray(rails, cJSON_CreateString(rail));
        }
    }
    add_counters(item, &path->count);
    add_rates(item, fy_rate_now(&path->rate, &path->count), &path->count,
              seconds_since(segment->opened_ns));
    describe_trouble(item, path);
    describe_expected(item, segment, t);
    return item;
}

static const char *const class_names[FY_SIZE_CLASSES] = {"1k", "4k", "16k", "64k", "256k",
                                                         "1m", "4m", "16m", "64m", "more"};

/* Where measuring changed the order: {"read": {"64k": NAME}, "write": {}}. */
static void describe_moved(cJSON *item, const struct fy_segment *segment)
{
    cJSON *moved = cJSON_AddObjectToObject(item, "moved");

    for (uint32_t op = 0; op < 2; op++) {
        cJSON *list = cJSON_AddObjectToObject(moved, op == FERRY_OP_READ ? "read" : "write");

        for (unsigned c = 0; c < FY_SIZE_CLASSES; c++)
            if (segment->moved[op][c])
                cJSON_AddStringToObject(
                    list, class_names[c],
                    segment->engine->transports[segment->moved[op][c] - 1]->host.name);
    }
}

/* segment.lock held. */
static cJSON *describe_segment(struct fy_segment *segment)
{
    struct ferry_engine *engine = segment->engine;
    cJSON *item = cJSON_CreateObject(), *paths = cJSON_CreateArray(), *offers;
    struct fy_counters sum = {0};
    uint64_t Bps = 0;
    int carries;

    cJSON_AddStringToObject(item, "peer", segment->name);
    cJSON_AddStringToObject(item, "kind", segment->doc->epoch[0] ? "ferry" : "mooncake");
    cJSON_AddStringToObject(item, "epoch", segment->doc->epoch);
    cJSON_AddNumberToObject(item, "buffers", (double)segment->doc->n_buffers);
    cJSON_AddNumberToObject(item, "since_s", seconds_since(segment->opened_ns));
    offers = cJSON_AddArrayToObject(item, "offers");
    for (size_t i = 0; i < segment->doc->n_transports; i++)
        cJSON_AddItemToArray(offers, cJSON_CreateString(segment->doc->transports[i].name));
    for (unsigned t = 0; t < engine->n_transports; t++) {
        add_up(&sum, &segment->paths[t].count);
        Bps += fy_rate_now(&segment->paths[t].rate, &segment->paths[t].count);
        if (segment->views[t] || segment->paths[t].why ||
            (atomic_load(&segment->offered) & 1u << t))
            cJSON_AddItemToArray(paths, describe_path(segment, t));
    }
    add_counters(item, &sum);
    add_rates(item, Bps, &sum, seconds_since(segment->opened_ns));
    carries = fy_path_first(segment);
    cJSON_AddStringToObject(item, "carries",
                            carries < 0 ? "" : engine->transports[carries]->host.name);
    if (engine->feedback)
        describe_moved(item, segment);
    cJSON_AddItemToObject(item, "paths", paths);
    return item;
}

static cJSON *describe_links(struct ferry_engine *engine)
{
    cJSON *root = cJSON_CreateArray();

    for (size_t i = 0;; i++) {
        struct fy_segment *segment;

        pthread_mutex_lock(&engine->segments_lock);
        if (i >= engine->n_segments) {
            pthread_mutex_unlock(&engine->segments_lock);
            return root;
        }
        segment = engine->segments[i];
        if (segment)
            atomic_fetch_add_explicit(&segment->refs, 1, memory_order_relaxed);
        pthread_mutex_unlock(&engine->segments_lock);
        if (!segment)
            continue;
        pthread_mutex_lock(&segment->lock);
        cJSON_AddItemToArray(root, describe_segment(segment));
        pthread_mutex_unlock(&segment->lock);
        fy_segment_put(segment);
    }
}

static cJSON *describe_plugins(struct ferry_engine *engine)
{
    struct fy_log silent = {0};
    struct fy_loader *loader;
    cJSON *root;

    if (engine)
        return fy_loader_describe(engine->loader);
    if (fy_loader_open(NULL, &silent, &loader))
        return NULL;
    root = fy_loader_describe(loader);
    fy_loader_close(loader);
    return root;
}

static ferry_status own_document(struct ferry_engine *engine, char **json_out)
{
    struct fy_doc *doc = fy_engine_doc(engine);
    struct fy_buf text;
    ferry_status status;

    fy_buf_init(&text, 0);
    status = fy_doc_encode(doc, &text);
    fy_doc_unref(doc);
    if (!status) {
        *json_out = fy_buf_take(&text);
        if (!*json_out)
            status = fy_fail(FERRY_ENOMEM, "no memory for the document");
    }
    fy_buf_fini(&text);
    return status;
}

static cJSON *describe_config(struct ferry_engine *engine)
{
    cJSON *root = fy_config_describe(engine->config);

    if (root) {
        cJSON_DeleteItemFromObject(root, "engine_name");
        cJSON_AddStringToObject(root, "engine_name", engine->name);
        cJSON_AddNumberToObject(root, "control_port", engine->control_port);
    }
    return root;
}

ferry_status ferry_engine_describe(struct ferry_engine *engine, const char *what,
                                   char **json_out)
{
    cJSON *root = NULL;

    if (!what || !json_out || (!engine && strcmp(what, "plugins") != 0))
        return fy_fail(FERRY_EINVAL, "describe: engine, topic and result are needed");
    if (!strcmp(what, "segment"))
        return own_document(engine, json_out);
    if (!strcmp(what, "statistics"))
        root = describe_statistics(engine);
    else if (!strcmp(what, "links"))
        root = describe_links(engine);
    else if (!strcmp(what, "plugins"))
        root = describe_plugins(engine);
    else if (!strcmp(what, "config"))
        root = describe_config(engine);
    else
        return fy_fail(
            FERRY_EINVAL,
            "describe: \"%s\" is none of statistics, links, plugins, segment, config", what);
    *json_out = root ? cJSON_PrintUnformatted(root) : NULL;
    cJSON_Delete(root);
    return *json_out ? FERRY_OK : fy_fail(FERRY_ENOMEM, "no memory to describe %s", what);
}

void ferry_string_free(char *string)
{
    free(string);
}
