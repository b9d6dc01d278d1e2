/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Notifications: small messages on the control channel, in Mooncake's form with our own members
 * beside (docs/wire.md). Each carries a number of its sender, so that one that had to be sent
 * twice is queued once; a batch's also the incarnation that has the data, so that no later one
 * queues it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"
#include "error.h"
#include "util/base64.h"
#include "util/clock.h"
#include "util/json.h"

#define MAX_QUEUED 100000
#define RELOAD_MS  2000

static bool is_text(const char *data, size_t len)
{
    struct fy_buf scratch;
    bool text;

    if (memchr(data, 0, len))
        return false;
    fy_buf_init(&scratch, 0);
    text = !fy_json_put_string(&scratch, data, len);
    fy_buf_fini(&scratch);
    return text;
}

/* Members in the order of their names, as everywhere. Bytes that are no text travel in
 * "ferry_data". */
static ferry_status encode(struct ferry_engine *engine, const char *name, const char *data,
                           size_t len, const char *to, bool upstream, struct fy_buf *out)
{
    unsigned long long id = atomic_fetch_add(&engine->notify_seq, 1);
    bool text = is_text(data, len);
    ferry_status status = FERRY_OK;

    if (upstream && !text)
        return fy_fail(FERRY_EINVAL, "a notification to a Mooncake node must be UTF-8 text");
    status = fy_buf_printf(out, "{");
    if (!text) {
        if (!status)
            status = fy_buf_printf(out, "\"ferry_data\":\"");
        if (!status)
            status = fy_base64_encode(data, len, out);
        if (!status)
            status = fy_buf_printf(out, "\",");
    }
    if (!upstream) {
        if (!status)
            status = fy_buf_printf(out, "\"ferry_from\":");
        if (!status)
            status = fy_json_put_string(out, engine->name, strlen(engine->name));
        if (!status)
            status = fy_buf_printf(out, ",\"ferry_id\":\"%s-%llx\",", engine->epoch, id);
        if (!status && to) {
            status = fy_buf_printf(out, "\"ferry_to\":");
            if (!status)
                status = fy_json_put_string(out, to, strlen(to));
            if (!status)
                status = fy_buf_printf(out, ",");
        }
    }
    if (!status)
        status = fy_buf_printf(out, "\"name\":");
    if (!status)
        status = fy_json_put_string(out, name, strlen(name));
    if (!status)
        status = fy_buf_printf(out, ",\"notify_msg\":");
    if (!status)
        status = fy_json_put_string(out, text ? data : "", text ? len : 0);
    if (!status)
        status = fy_buf_printf(out, "}");
    return status;
}

static ferry_status restarted(void)
{
    return fy_fail(FERRY_ESTALE, "the peer restarted and does not have the data");
}

static ferry_status check_reply(const struct fy_buf *reply)
{
    struct fy_json json, key, value;
    struct fy_json_iter iter;

    if (fy_json_read(reply->data, reply->len, &json) || json.type != FY_JSON_OBJECT)
        return fy_fail(FERRY_EIO, "the peer takes no notifications");
    fy_json_enter(&json, &iter);
    while (fy_json_next(&iter, &key, &value)) {
        if (fy_json_is(&key, "notify_msg") && value.type == FY_JSON_STRING && value.len > 2)
            return FERRY_OK;
        if (fy_json_is(&key, "ferry_epoch"))
            return restarted();
    }
    return fy_fail(FERRY_EIO, "the peer refused the notification");
}

/* Mooncake writes this member since 0.3.5. What is older calls a handler that such nodes never
 * set when a notification comes, and dies of it. */
static bool dies_of_it(const struct fy_doc *doc)
{
    return !doc->epoch[0] && doc->n_transports &&
           !fy_kv_get(&doc->transports[0].attrs.kvs, "tcp_data_port");
}

ferry_status fy_notify_send(struct ferry_engine *engine, struct fy_segment *segment,
                            const char *to, const char *name, const void *data, size_t len,
                            uint64_t deadline_ns)
{
    struct fy_buf body, reply;
    bool upstream, dies, stale;
    ferry_status status;

    pthread_mutex_lock(&segment->lock);
    stale = to && strcmp(to, segment->doc->epoch) != 0;
    upstream = !segment->doc->epoch[0];
    dies = dies_of_it(segment->doc);
    pthread_mutex_unlock(&segment->lock);
    if (stale)
        return restarted();
    if (dies)
        return fy_fail(FERRY_ENOTSUP,
                       "%s runs a Mooncake before 0.3.5, which a notification would end",
                       segment->name);
    fy_buf_init(&body, 0);
    fy_buf_init(&reply, 1u << 20);
    status = encode(engine, name, data ? data : "", len, to, upstream, &body);
    if (!status)
        status = fy_store_request(engine->store, segment->name, FY_CONTROL_NOTIFY, body.data,
                                  body.len, deadline_ns, &reply);
    /* Lost on the way there or back: the number makes a second one harmless to our own nodes.
     */
    if (status == FERRY_ECONNRESET && !upstream) {
        fy_buf_fini(&reply);
        status = fy_store_request(engine->store, segment->name, FY_CONTROL_NOTIFY, body.data,
                                  body.len, deadline_ns, &reply);
    }
    if (!status)
        status = check_reply(&reply);
    if (status == FERRY_ESTALE) { /* which those who come next need not find out once more */
        int left_ms = fy_ms_left(deadline_ns);

        fy_segment_reload(segment, fy_now_ns(),
                          left_ms < RELOAD_MS ? (uint32_t)left_ms : RELOAD_MS);
        restarted();
    }
    fy_buf_fini(&body);
    fy_buf_fini(&reply);
    return status;
}

/* ---- receiving
 * ------------------------------------------------------------------------------- */

static uint64_t hash(const char *text, uint64_t seed)
{
    uint64_t h = 0xcbf29ce484222325ull ^ seed; /* FNV-1a */

    for (; *text; text++)
        h = (h ^ (unsigned char)*text) * 0x100000001b3ull;
    return h;
}

/* notice_lock held. */
static bool seen_before(struct ferry_engine *engine, const char *id)
{
    uint64_t a = hash(id, 0), b = hash(id, 0x9e3779b97f4a7c15ull);

    for (unsigned i = 0; i < FY_NOTICE_IDS; i++) {
        if (engine->notice_ids[i][0] == a && engine->notice_ids[i][1] == b)
            return true;
    }
    engine->notice_ids[engine->next_notice_id][0] = a;
    engine->notice_ids[engine->next_notice_id][1] = b;
    engine->next_notice_id = (engine->next_notice_id + 1) % FY_NOTICE_IDS;
    return false;
}

struct parts {
    struct fy_buf from, id, to, name, msg, data;
};

static ferry_status decode(const char *body, size_t len, struct parts *parts)
{
    struct fy_json json, key, value;
    struct fy_json_iter iter;
    struct fy_buf text;
    ferry_status status = fy_json_read(body, len, &json);

    if (status || json.type != FY_JSON_OBJECT)
        return FERRY_EINVAL;
    fy_buf_init(&text, 0);
    fy_json_enter(&json, &iter);
    while (!status && fy_json_next(&iter, &key, &value)) {
        if (value.type != FY_JSON_STRING)
            continue;
        if (fy_json_is(&key, "name"))
            status = fy_json_string(&value, &parts->name);
        else if (fy_json_is(&key, "notify_msg"))
            status = fy_json_string(&value, &parts->msg);
        else if (fy_json_is(&key, "ferry_from"))
            status = fy_json_string(&value, &parts->from);
        else if (fy_json_is(&key, "ferry_id"))
            status = fy_json_string(&value, &parts->id);
        else if (fy_json_is(&key, "ferry_to"))
            status = fy_json_string(&value, &parts->to);
        else if (fy_json_is(&key, "ferry_data")) {
            status = fy_json_string(&value, &text);
            if (!status)
                status = fy_base64_decode(text.data ? text.data : "", text.len, &parts->data);
        }
    }
    fy_buf_fini(&text);
    return status;
}

static struct fy_notice *make_notice(const struct parts *parts)
{
    const struct fy_buf *data = parts->data.len ? &parts->data : &parts->msg;
    size_t from = parts->from.len + 1, name = parts->name.len + 1;
    struct fy_notice *notice = calloc(1, sizeof(*notice) + from + name + data->len + 1);
    char *at;

    if (!notice)
        return NULL;
    at = (char *)(notice + 1);
    notice->pub.from = at;
    memcpy(at, parts->from.data ? parts->from.data : "", from);
    notice->pub.name = at += from;
    memcpy(at, parts->name.data ? parts->name.data : "", name);
    notice->pub.data = at += name;
    if (data->len)
        memcpy(at, data->data, data->len);
    notice->pub.len = data->len;
    return notice;
}

static ferry_status enqueue(struct ferry_engine *engine, const struct parts *parts)
{
    struct fy_notice *notice = make_notice(parts);
    ferry_status status = FERRY_OK;

    if (!notice)
        return FERRY_ENOMEM;
    pthread_mutex_lock(&engine->notice_lock);
    if (engine->n_notices >= MAX_QUEUED) {
        status = FERRY_EAGAIN;
    } else if (!parts->id.len || !seen_before(engine, parts->id.data)) {
        *engine->notices_tail = notice;
        engine->notices_tail = &notice->next;
        engine->n_notices++;
        notice = NULL;
        pthread_cond_signal(&engine->notice_cond);
    }
    pthread_mutex_unlock(&engine->notice_lock);
    free(notice);
    if (status)
        FY_WARN(&engine->log, "notification refused: %d wait to be read already", MAX_QUEUED);
    return status;
}

ferry_status fy_notify_receive(struct ferry_engine *engine, const char *body, size_t len,
                               struct fy_buf *reply)
{
    struct parts parts;
    bool ours = true;
    ferry_status status;

    fy_buf_init(&parts.from, 0);
    fy_buf_init(&parts.id, 0);
    fy_buf_init(&parts.to, 0);
    fy_buf_init(&parts.name, 0);
    fy_buf_init(&parts.msg, 0);
    fy_buf_init(&parts.data, 0);
    status = decode(body, len, &parts);
    if (!status && parts.to.len)
        ours = !strcmp(parts.to.data, engine->epoch);
    if (!status && ours)
        status = enqueue(engine, &parts);
    fy_buf_fini(&parts.from);
    fy_buf_fini(&parts.id);
    fy_buf_fini(&parts.to);
    fy_buf_fini(&parts.name);
    fy_buf_fini(&parts.msg);
    fy_buf_fini(&parts.data);
    if (status)
        return status;
    if (!ours)
        return fy_buf_printf(
            reply, "{\"ferry_epoch\":\"%s\",\"name\":\"\",\"notify_msg\":\"\"}", engine->epoch);
    return fy_buf_printf(reply, "{\"name\":\"\",\"notify_msg\":\"success\"}");
}

/* ---- calls
 * ----------------------------------------------------------------------------------- */

ferry_status ferry_notify(struct ferry_engine *engine, ferry_segment handle, const char *name,
                          const void *data, size_t len, uint32_t timeout_ms)
{
    struct fy_segment *segment;
    ferry_status status;

    if (!engine || !name || (len && !data))
        return fy_fail(FERRY_EINVAL, "notify: engine, name and data are needed");
    segment = fy_segment_get(engine, handle);
    if (!segment)
        return FERRY_ENOENT;
    status = fy_notify_send(engine, segment, NULL, name, data, len,
                            fy_now_ns() + timeout_ms * FY_NS_PER_MS);
    fy_segment_put(segment);
    return status;
}

ferry_status ferry_notification_next(struct ferry_engine *engine, uint32_t timeout_ms,
                                     struct ferry_notification **notification_out)
{
    uint64_t until = fy_now_ns() + timeout_ms * FY_NS_PER_MS;
    struct timespec at = fy_timespec(until);
    struct fy_notice *notice;
    int rc = 0;

    if (!engine || !notification_out)
        return fy_fail(FERRY_EINVAL, "notification_next: engine and result are needed");
    pthread_mutex_lock(&engine->notice_lock);
    while (!engine->notices && timeout_ms && !rc && !atomic_load(&engine->closing))
        rc = timeout_ms == FERRY_FOREVER
                 ? pthread_cond_wait(&engine->notice_cond, &engine->notice_lock)
                 : pthread_cond_timedwait(&engine->notice_cond, &engine->notice_lock, &at);
    notice = engine->notices;
    if (notice) {
        engine->notices = notice->next;
        if (!engine->notices)
            engine->notices_tail = &engine->notices;
        engine->n_notices--;
    }
    pthread_mutex_unlock(&engine->notice_lock);
    if (!notice)
        return fy_fail(FERRY_EAGAIN, "no notification");
    *notification_out = &notice->pub;
    return FERRY_OK;
}

void ferry_notification_free(struct ferry_notification *notification)
{
    free(notification); /* `pub` is the first member */
}

void fy_notify_close(struct ferry_engine *engine)
{
    while (engine->notices) {
        struct fy_notice *next = engine->notices->next;

        free(engine->notices);
        engine->notices = next;
    }
}
