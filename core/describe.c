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

static cJSON *describe_statistics(struct ferry_engine *engine)
{
    cJSON *root = cJSON_CreateObject(), *list = cJSON_AddArrayToObject(root, "transports");

    cJSON_AddStringToObject(root, "name", engine->name);
    cJSON_AddNumberToObject(root, "uptime_s", (double)(fy_now_ns() - engine->opened_ns) / 1e9);
    cJSON_AddNumberToObject(root, "batches", (double)atomic_load(&engine->count.batches));
    cJSON_AddNumberToObject(root, "batches_under_way", atomic_load(&engine->n_active));
    cJSON_AddNumberToObject(root, "buffers", (double)fy_registry_count(engine->registry));
    for (unsigned i = 0; i < engine->n_transports; i++) {
        struct fy_transport *transport = engine->transports[i];
        cJSON *item = cJSON_CreateObject();

        cJSON_AddStringToObject(item, "name", transport->host.name);
        cJSON_AddNumberToObject(item, "queues", transport->n_lanes);
        add_counters(item, &transport->count);
        for (size_t a = 0; a < transport->attrs.kvs.n; a++) {
            const struct ferry_kv *kv = &transport->attrs.kvs.v[a];

            if (kv->flags & (FERRY_KV_TEXT | FERRY_KV_JSON))
                cJSON_AddStringToObject(item, kv->key, kv->val);
        }
        cJSON_AddItemToArray(list, item);
    }
    return root;
}

static const char *state_name(int state)
{
    static const char *const names[] = {"new", "connecting", "ready", "lost", "lost"};

    return names[state];
}

/* segment.lock held. */
static cJSON *describe_segment(struct fy_segment *segment)
{
    struct ferry_engine *engine = segment->engine;
    cJSON *item = cJSON_CreateObject(), *paths;

    cJSON_AddStringToObject(item, "peer", segment->name);
    cJSON_AddStringToObject(item, "kind", segment->doc->epoch[0] ? "ferry" : "mooncake");
    cJSON_AddStringToObject(item, "epoch", segment->doc->epoch);
    cJSON_AddNumberToObject(item, "buffers", (double)segment->doc->n_buffers);
    add_counters(item, &segment->count);
    paths = cJSON_AddArrayToObject(item, "paths");
    for (unsigned t = 0; t < engine->n_transports; t++) {
        struct fy_view *view = segment->views[t];
        cJSON *path;
        int state;

        if (!view)
            continue;
        path = cJSON_CreateObject();
        state = atomic_load_explicit(&view->state, memory_order_acquire);
        cJSON_AddStringToObject(path, "transport", engine->transports[t]->host.name);
        cJSON_AddStringToObject(path, "state", state_name(state));
        cJSON_AddNumberToObject(path, "queues",
                                __builtin_popcountll(atomic_load(&view->lanes)));
        if (state == FY_VIEW_BROKEN)
            cJSON_AddStringToObject(path, "cause", view->cause_text);
        cJSON_AddItemToArray(paths, path);
    }
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
