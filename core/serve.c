/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a node answers on its control channel: its document, notifications, probes, questions
 * of transports to their like, and Mooncake's to a transport. Runs on the control server's
 * threads.
 */
#include <string.h>
#include <unistd.h>

#include "engine.h"
#include "error.h"
#include "util/base64.h"
#include "util/json.h"

static ferry_status answer_call(struct ferry_engine *engine, const char *body, size_t len,
                                struct fy_buf *reply)
{
    struct fy_json json, key, value;
    struct fy_json_iter iter;
    struct fy_buf data, answer, text, from, name;
    ferry_status status = fy_json_read(body, len, &json);

    fy_buf_init(&data, 0);
    fy_buf_init(&answer, 0);
    fy_buf_init(&text, 0);
    fy_buf_init(&from, 0);
    fy_buf_init(&name, 0);
    if (!status && json.type != FY_JSON_OBJECT)
        status = FERRY_EINVAL;
    if (!status)
        fy_json_enter(&json, &iter);
    while (!status && fy_json_next(&iter, &key, &value)) {
        if (value.type != FY_JSON_STRING)
            continue;
        if (fy_json_is(&key, "data"))
            status = fy_json_string(&value, &text);
        else if (fy_json_is(&key, "from"))
            status = fy_json_string(&value, &from);
        else if (fy_json_is(&key, "transport"))
            status = fy_json_string(&value, &name);
    }
    if (!status && text.len)
        status = fy_base64_decode(text.data, text.len, &data);
    if (!status) {
        status = FERRY_ENOENT;
        for (unsigned i = 0; i < engine->n_transports && name.data; i++) {
            struct fy_transport *transport = engine->transports[i];

            if (!strcmp(transport->host.name, name.data))
                status =
                    transport->ops->on_call(transport->tp, from.data ? from.data : "",
                                            data.data ? data.data : "", data.len, &answer.sink);
        }
    }
    if (!status)
        status = fy_buf_printf(reply, "{\"data\":\"");
    if (!status)
        status = fy_base64_encode(answer.data ? answer.data : "", answer.len, reply);
    if (!status)
        status = fy_buf_printf(reply, "\"}");
    if (status) { /* the caller is told why, instead of "null" */
        fy_buf_fini(reply);
        status = fy_buf_printf(reply, "{\"error\":\"%s\",\"status\":%d}",
                               ferry_strstatus(status), status);
    }
    fy_buf_fini(&data);
    fy_buf_fini(&answer);
    fy_buf_fini(&text);
    fy_buf_fini(&from);
    fy_buf_fini(&name);
    return status;
}

/* Mooncake knows one protocol of a node, the one its document names: the primary. */
static ferry_status answer_connection(struct ferry_engine *engine, const char *body, size_t len,
                                      struct fy_buf *reply)
{
    struct fy_transport *primary =
        engine->n_transports ? engine->transports[fy_primary(engine)] : NULL;

    return primary ? primary->ops->on_connection(primary->tp, body, len, &reply->sink)
                   : FERRY_ENOTSUP;
}

static ferry_status answer_metadata(struct ferry_engine *engine, struct fy_buf *reply)
{
    struct fy_doc *doc = fy_engine_doc(engine);
    ferry_status status = fy_doc_encode(doc, reply);

    fy_doc_unref(doc);
    return status;
}

static ferry_status answer_node(const struct ferry_engine *engine, struct fy_buf *reply)
{
    ferry_status status = fy_buf_printf(reply, "{\"name\":");

    if (!status)
        status = fy_json_put_string(reply, engine->name, strlen(engine->name));
    if (!status)
        status = fy_buf_printf(reply, ",\"pid\":%ld,\"epoch\":\"%s\",\"version\":\"%s\"}",
                               (long)getpid(), engine->epoch, ferry_version());
    return status;
}

ferry_status fy_serve(void *arg, int type, const char *body, size_t len, struct fy_buf *reply)
{
    struct ferry_engine *engine = arg;

    switch (type) {
    case FY_CONTROL_CONNECTION:
        return answer_connection(engine, body, len, reply);
    case FY_CONTROL_METADATA:
        return answer_metadata(engine, reply);
    case FY_CONTROL_NOTIFY:
        return fy_notify_receive(engine, body, len, reply);
    case FY_CONTROL_PROBE:
        return fy_buf_printf(reply, "{\"status\":\"success\"}");
    case FY_CONTROL_CALL:
        return answer_call(engine, body, len, reply);
    default:
        return FERRY_ENOTSUP;
    }
}

ferry_status fy_serve_local(void *engine, const char *topic, struct fy_buf *reply)
{
    char *text;
    ferry_status status;

    if (!strcmp(topic, "node"))
        return answer_node(engine, reply);
    status = ferry_engine_describe(engine, topic, &text);
    if (!status) {
        status = fy_buf_append(reply, text, strlen(text));
        ferry_string_free(text);
    }
    return status;
}
