/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a plugin gets from the core: log lines, questions to its like in a peer, and the one
 * place that decides whether a peer may touch an address.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"
#include "error.h"
#include "util/base64.h"
#include "util/clock.h"
#include "util/json.h"

static struct ferry_engine *engine_of(const struct ferry_host *host)
{
    return ((const struct fy_host *)host)->engine;
}

static _Thread_local struct {
    char *text;
    size_t room;
} heard;

void fy_host_listen(char *text, size_t room)
{
    heard.text = text;
    heard.room = room;
    if (text)
        text[0] = '\0';
}

__attribute__((format(printf, 5, 6))) static void host_log(const struct ferry_host *host,
                                                           enum ferry_log_level level,
                                                           const char *file, int line,
                                                           const char *fmt, ...)
{
    const struct fy_host *self = (const struct fy_host *)host;
    char prefix[48];
    va_list ap;

    snprintf(prefix, sizeof(prefix), "%s: ", self->name);
    va_start(ap, fmt);
    fy_log_vwrite(&self->engine->log, level, prefix, fmt, ap);
    va_end(ap);
    if (heard.text && level <= FERRY_LOG_INFO) {
        va_start(ap, fmt);
        vsnprintf(heard.text, heard.room, fmt, ap);
        va_end(ap);
    }
}

static ferry_status decode_reply(const struct fy_buf *text, struct ferry_buf_sink *reply)
{
    struct fy_json json, key, value;
    struct fy_json_iter iter;
    ferry_status status = FERRY_EIO;
    struct fy_buf data, word, why;

    fy_buf_init(&data, 0);
    fy_buf_init(&word, 0);
    fy_buf_init(&why, 0);
    if (!fy_json_read(text->data, text->len, &json) && json.type == FY_JSON_OBJECT) {
        fy_json_enter(&json, &iter);
        while (fy_json_next(&iter, &key, &value)) {
            if (fy_json_is(&key, "data") && value.type == FY_JSON_STRING &&
                !fy_json_string(&value, &word) &&
                !fy_base64_decode(word.data ? word.data : "", word.len, &data))
                status = FERRY_OK;
            else if (fy_json_is(&key, "error") && value.type == FY_JSON_STRING)
                fy_json_string(&value, &why);
        }
    }
    if (!status)
        status = reply->append(reply, data.data ? data.data : "", data.len);
    else
        fy_fail(status, "the peer's plugin did not answer: %s",
                why.data ? why.data : "no reason");
    fy_buf_fini(&data);
    fy_buf_fini(&word);
    fy_buf_fini(&why);
    return status;
}

static ferry_status host_peer_call(const struct ferry_host *host, const char *peer_name,
                                   const void *req, size_t req_len, uint32_t timeout_ms,
                                   struct ferry_buf_sink *reply)
{
    const struct fy_host *self = (const struct fy_host *)host;
    struct ferry_engine *engine = self->engine;
    uint64_t deadline_ns = fy_now_ns() + timeout_ms * FY_NS_PER_MS;
    struct fy_buf body, text;
    ferry_status status;

    fy_buf_init(&body, 0);
    fy_buf_init(&text, 64u << 20);
    status = fy_buf_printf(&body, "{\"data\":\"");
    if (!status)
        status = fy_base64_encode(req, req_len, &body);
    if (!status)
        status = fy_buf_printf(&body, "\",\"from\":");
    if (!status)
        status = fy_json_put_string(&body, engine->name, strlen(engine->name));
    if (!status)
        status = fy_buf_printf(&body, ",\"transport\":\"%s\"}", self->name);
    if (!status)
        status = fy_store_request(engine->store, peer_name, FY_CONTROL_CALL, body.data,
                                  body.len, deadline_ns, &text);
    if (!status)
        status = decode_reply(&text, reply);
    fy_buf_fini(&body);
    fy_buf_fini(&text);
    return status;
}

/* The bytes are the plugin's own affair here as well; only their frame is Mooncake's. */
static ferry_status host_peer_connection(const struct ferry_host *host, const char *peer_name,
                                         const void *req, size_t req_len, uint32_t timeout_ms,
                                         struct ferry_buf_sink *reply)
{
    uint64_t deadline_ns = fy_now_ns() + timeout_ms * FY_NS_PER_MS;
    struct fy_buf text;
    ferry_status status;

    fy_buf_init(&text, 1u << 20);
    status = fy_store_request(engine_of(host)->store, peer_name, FY_CONTROL_CONNECTION, req,
                              req_len, deadline_ns, &text);
    if (!status)
        status = reply->append(reply, text.data ? text.data : "", text.len);
    fy_buf_fini(&text);
    return status;
}

static ferry_status host_region_get(const struct ferry_host *host, uint64_t addr, uint64_t len,
                                    uint32_t access, struct ferry_region *region_out)
{
    struct fy_region *region;
    ferry_status status =
        fy_registry_get(engine_of(host)->registry, addr, len, access, &region);

    if (status)
        return status;
    *region_out =
        (struct ferry_region){.opaque = region, .kind = region->kind, .device = region->device};
    return FERRY_OK;
}

static void host_region_put(const struct ferry_host *host, struct ferry_region *region)
{
    fy_region_put(region->opaque);
}

/* Host memory is the core's own kind: the copies are plain ones. */
static ferry_status host_region_write(const struct ferry_host *host,
                                      struct ferry_region *region, uint64_t addr,
                                      const void *src, size_t len)
{
    if (region->kind != FERRY_MEM_HOST)
        return FERRY_ENOTSUP;
    memcpy((void *)(uintptr_t)addr, src, len);
    return FERRY_OK;
}

static ferry_status host_region_read(const struct ferry_host *host, struct ferry_region *region,
                                     uint64_t addr, void *dst, size_t len)
{
    if (region->kind != FERRY_MEM_HOST)
        return FERRY_ENOTSUP;
    memcpy(dst, (const void *)(uintptr_t)addr, len);
    return FERRY_OK;
}

static ferry_status host_stage_alloc(const struct ferry_host *host, size_t len, void **mem_out)
{
    void *mem = NULL;

    if (posix_memalign(&mem, 4096, len ? len : 1))
        return FERRY_ENOMEM;
    *mem_out = mem;
    return FERRY_OK;
}

static void host_stage_free(const struct ferry_host *host, void *mem)
{
    free(mem);
}

void fy_host_init(struct fy_host *host, struct ferry_engine *engine, const char *name)
{
    *host = (struct fy_host){
        .pub = {.size = sizeof(host->pub),
                .abi_major = FERRY_TRANSPORT_ABI_MAJOR,
                .abi_minor = FERRY_TRANSPORT_ABI_MINOR,
                .log_level = &engine->log.level,
                .log = host_log,
                .peer_call = host_peer_call,
                .region_get = host_region_get,
                .region_put = host_region_put,
                .region_write = host_region_write,
                .region_read = host_region_read,
                .stage_alloc = host_stage_alloc,
                .stage_free = host_stage_free,
                .peer_connection = host_peer_connection},
        .engine = engine,
    };
    snprintf(host->name, sizeof(host->name), "%s", name);
}
