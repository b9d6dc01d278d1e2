/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The messages of a hand-over, to JSON and back. Numbers of 64 bits and arrays are written in
 * hexadecimal, because JSON readers round numbers above 2^53. Knows nothing of what the
 * messages are for.
 */
#include "kvmsg.h"

#include <cjson/cJSON.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const type_names[KVMSG_TYPES] = {
    [KVMSG_HELLO] = "hello", [KVMSG_WELCOME] = "welcome", [KVMSG_REFUSE] = "refuse",
    [KVMSG_OFFER] = "offer", [KVMSG_GRANT] = "grant",     [KVMSG_SENT] = "sent",
    [KVMSG_DONE] = "done",   [KVMSG_END] = "end",         [KVMSG_BYE] = "bye",
    [KVMSG_ABORT] = "abort",
};

static bool fail(char *error, size_t room, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static bool fail(char *error, size_t room, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(error, room, fmt, ap);
    va_end(ap);
    return false;
}

/* ---- writing ---- */

static bool put_hex(cJSON *json, const char *name, uint64_t value)
{
    char text[20];

    snprintf(text, sizeof(text), "%llx", (unsigned long long)value);
    return cJSON_AddStringToObject(json, name, text) != NULL;
}

static bool put_array(cJSON *json, const char *name, const void *values, size_t n, size_t width)
{
    static const char digits[] = "0123456789abcdef";
    char *text;
    bool good;

    if (!values)
        return true;
    text = malloc(n * width * 2 + 1);
    if (!text)
        return false;
    for (size_t i = 0; i < n; i++) {
        uint64_t v = width == 8 ? ((const uint64_t *)values)[i] : ((const uint32_t *)values)[i];
        for (size_t d = width * 2; d-- > 0; v >>= 4)
            text[i * width * 2 + d] = digits[v & 15];
    }
    text[n * width * 2] = 0;
    good = cJSON_AddStringToObject(json, name, text) != NULL;
    free(text);
    return good;
}

static bool put_number(cJSON *json, const char *name, uint64_t value)
{
    return cJSON_AddNumberToObject(json, name, (double)value) != NULL;
}

static bool put_geometry(cJSON *json, const struct kvmsg *msg)
{
    cJSON *model = cJSON_AddObjectToObject(json, "model");

    return model && cJSON_AddStringToObject(model, "name", msg->model.name) &&
           put_number(model, "layers", msg->model.layers) &&
           put_number(model, "kv_heads", msg->model.kv_heads) &&
           put_number(model, "head_dim", msg->model.head_dim) &&
           put_number(model, "dtype", msg->model.dtype) &&
           put_number(json, "block_tokens", msg->block_tokens) &&
           put_number(json, "slots", msg->slots) && put_hex(json, "base", msg->base);
}

static bool put_body(cJSON *json, const struct kvmsg *msg)
{
    switch (msg->type) {
    case KVMSG_HELLO:
        return put_geometry(json, msg) && cJSON_AddBoolToObject(json, "pull", msg->pull) &&
               put_number(json, "requests", msg->requests) &&
               put_number(json, "most_blocks", msg->most_blocks);
    case KVMSG_WELCOME:
        return put_geometry(json, msg);
    case KVMSG_OFFER:
        return put_number(json, "tokens", msg->tokens) && put_number(json, "n", msg->n) &&
               put_array(json, "keys", msg->keys, msg->n, 8) &&
               put_array(json, "slots_of", msg->slots_of, msg->n, 4) &&
               put_array(json, "sums", msg->sums, msg->n, 8);
    case KVMSG_GRANT:
        return put_number(json, "n", msg->n) &&
               put_array(json, "index", msg->index, msg->n, 4) &&
               put_array(json, "slots_of", msg->slots_of, msg->n, 4);
    case KVMSG_SENT:
        return put_number(json, "n", msg->n) && put_array(json, "sums", msg->sums, msg->n, 8);
    case KVMSG_DONE:
    case KVMSG_BYE:
        return put_number(json, "verified", msg->verified) &&
               put_number(json, "failed", msg->failed) &&
               put_number(json, "reused", msg->reused) && put_hex(json, "bytes", msg->bytes) &&
               put_hex(json, "verify_ns", msg->verify_ns) &&
               put_hex(json, "transfer_ns", msg->transfer_ns) &&
               cJSON_AddStringToObject(json, "carrier", msg->carrier);
    default:
        return true;
    }
}

char *kvmsg_encode(const struct kvmsg *msg, size_t *len_out)
{
    cJSON *json = cJSON_CreateObject();
    char *text = NULL;

    if (json && put_number(json, "v", KVMSG_VERSION) &&
        cJSON_AddStringToObject(json, "type", type_names[msg->type]) &&
        put_hex(json, "session", msg->session) && put_hex(json, "request", msg->request) &&
        cJSON_AddStringToObject(json, "text", msg->text) && put_body(json, msg))
        text = cJSON_PrintUnformatted(json);
    cJSON_Delete(json);
    if (text)
        *len_out = strlen(text);
    return text;
}

/* ---- reading ---- */

struct reader {
    const cJSON *json;
    char *error;
    size_t room;
};

static bool get_number(const struct reader *r, const cJSON *from, const char *name,
                       uint64_t max, uint64_t *value_out)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(from, name);

    if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0) || item->valuedouble > (double)max)
        return fail(r->error, r->room, "\"%s\" is no number from 0 to %llu", name,
                    (unsigned long long)max);
    *value_out = (uint64_t)item->valuedouble;
    return true;
}

static bool get_number32(const struct reader *r, const cJSON *from, const char *name,
                         uint32_t *value_out)
{
    uint64_t value;

    if (!get_number(r, from, name, UINT32_MAX, &value))
        return false;
    *value_out = (uint32_t)value;
    return true;
}

static bool nibbles(const char *text, size_t n, uint64_t *value_out)
{
    uint64_t value = 0;

    for (size_t i = 0; i < n; i++) {
        char c = text[i];
        if (c >= '0' && c <= '9')
            value = value << 4 | (uint64_t)(c - '0');
        else if (c >= 'a' && c <= 'f')
            value = value << 4 | (uint64_t)(c - 'a' + 10);
        else
            return false;
    }
    *value_out = value;
    return true;
}

static bool get_hex(const struct reader *r, const char *name, uint64_t *value_out)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(r->json, name);
    size_t len = cJSON_IsString(item) ? strlen(item->valuestring) : 0;

    if (len < 1 || len > 16 || !nibbles(item->valuestring, len, value_out))
        return fail(r->error, r->room, "\"%s\" is no hexadecimal number of 64 bits", name);
    return true;
}

static bool get_array(const struct reader *r, const char *name, size_t n, size_t width,
                      bool optional, void **values_out)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(r->json, name);
    void *values;

    if (!item && optional)
        return true;
    if (!cJSON_IsString(item) || strlen(item->valuestring) != n * width * 2)
        return fail(r->error, r->room, "\"%s\" does not hold %zu values", name, n);
    values = malloc(n ? n * width : 1);
    if (!values)
        return fail(r->error, r->room, "out of memory");
    for (size_t i = 0; i < n; i++) {
        uint64_t v;
        if (!nibbles(item->valuestring + i * width * 2, width * 2, &v)) {
            free(values);
            return fail(r->error, r->room, "\"%s\"[%zu] is not hexadecimal", name, i);
        }
        if (width == 8)
            ((uint64_t *)values)[i] = v;
        else
            ((uint32_t *)values)[i] = (uint32_t)v;
    }
    *values_out = values;
    return true;
}

static bool get_text(const struct reader *r, const char *name, char *text, size_t room)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(r->json, name);

    if (!cJSON_IsString(item))
        return fail(r->error, r->room, "\"%s\" is no text", name);
    snprintf(text, room, "%s", item->valuestring);
    for (; *text; text++) /* it may go to a terminal */
        if ((unsigned char)*text < ' ' || *text == 0x7f)
            *text = '?';
    return true;
}

static bool get_u64s(const struct reader *r, const char *name, size_t n, bool optional,
                     uint64_t **values_out)
{
    void *values = NULL;

    if (!get_array(r, name, n, sizeof(uint64_t), optional, &values))
        return false;
    *values_out = values;
    return true;
}

static bool get_u32s(const struct reader *r, const char *name, size_t n, bool optional,
                     uint32_t **values_out)
{
    void *values = NULL;

    if (!get_array(r, name, n, sizeof(uint32_t), optional, &values))
        return false;
    *values_out = values;
    return true;
}

static bool get_geometry(const struct reader *r, struct kvmsg *msg)
{
    const cJSON *model = cJSON_GetObjectItemCaseSensitive(r->json, "model");
    const struct reader inner = {model, r->error, r->room};
    struct layout layout;

    return get_text(&inner, "name", msg->model.name, sizeof(msg->model.name)) &&
           get_number32(r, model, "layers", &msg->model.layers) &&
           get_number32(r, model, "kv_heads", &msg->model.kv_heads) &&
           get_number32(r, model, "head_dim", &msg->model.head_dim) &&
           get_number32(r, model, "dtype", &msg->model.dtype) &&
           get_number32(r, r->json, "block_tokens", &msg->block_tokens) &&
           get_number32(r, r->json, "slots", &msg->slots) && get_hex(r, "base", &msg->base) &&
           layout_of(&msg->model, msg->block_tokens, msg->slots, &layout, r->error, r->room);
}

static bool get_n(const struct reader *r, struct kvmsg *msg)
{
    uint64_t n;

    if (!get_number(r, r->json, "n", KVMSG_MAX_BLOCKS, &n))
        return false;
    msg->n = (size_t)n;
    return true;
}

static bool get_body(const struct reader *r, struct kvmsg *msg)
{
    switch (msg->type) {
    case KVMSG_HELLO:
        msg->pull = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(r->json, "pull"));
        return get_geometry(r, msg) &&
               get_number(r, r->json, "requests", 1ull << 53, &msg->requests) &&
               get_number(r, r->json, "most_blocks", KVMSG_MAX_BLOCKS, &msg->most_blocks);
    case KVMSG_WELCOME:
        return get_geometry(r, msg);
    case KVMSG_OFFER:
        return get_number(r, r->json, "tokens", 1ull << 53, &msg->tokens) && get_n(r, msg) &&
               get_u64s(r, "keys", msg->n, false, &msg->keys) &&
               get_u32s(r, "slots_of", msg->n, true, &msg->slots_of) &&
               get_u64s(r, "sums", msg->n, true, &msg->sums);
    case KVMSG_GRANT:
        return get_n(r, msg) && get_u32s(r, "index", msg->n, false, &msg->index) &&
               get_u32s(r, "slots_of", msg->n, false, &msg->slots_of);
    case KVMSG_SENT:
        return get_n(r, msg) && get_u64s(r, "sums", msg->n, false, &msg->sums);
    case KVMSG_DONE:
    case KVMSG_BYE:
        return get_number(r, r->json, "verified", 1ull << 53, &msg->verified) &&
               get_number(r, r->json, "failed", 1ull << 53, &msg->failed) &&
               get_number(r, r->json, "reused", 1ull << 53, &msg->reused) &&
               get_hex(r, "bytes", &msg->bytes) && get_hex(r, "verify_ns", &msg->verify_ns) &&
               get_hex(r, "transfer_ns", &msg->transfer_ns) &&
               get_text(r, "carrier", msg->carrier, sizeof(msg->carrier));
    default:
        return true;
    }
}

bool kvmsg_decode(const char *text, size_t len, struct kvmsg *msg, char *error, size_t room)
{
    cJSON *json = cJSON_ParseWithLength(text, len);
    struct reader r = {json, error, room};
    uint64_t version;
    char type[16];
    bool good = false;
    int i;

    memset(msg, 0, sizeof(*msg));
    if (!cJSON_IsObject(json)) {
        fail(error, room, "not a JSON object");
        goto out;
    }
    if (!get_number(&r, json, "v", UINT32_MAX, &version))
        goto out;
    if (version != KVMSG_VERSION) {
        fail(error, room, "version %llu of the hand-over messages, ours is %d",
             (unsigned long long)version, KVMSG_VERSION);
        goto out;
    }
    if (!get_text(&r, "type", type, sizeof(type)))
        goto out;
    for (i = 0; i < KVMSG_TYPES && strcmp(type, type_names[i]) != 0; i++)
        ;
    if (i == KVMSG_TYPES) {
        fail(error, room, "no message type \"%s\"", type);
        goto out;
    }
    msg->type = (enum kvmsg_type)i;
    good = get_hex(&r, "session", &msg->session) && get_hex(&r, "request", &msg->request) &&
           get_text(&r, "text", msg->text, sizeof(msg->text)) && get_body(&r, msg);
out:
    cJSON_Delete(json);
    if (!good)
        kvmsg_free(msg);
    return good;
}

void kvmsg_free(struct kvmsg *msg)
{
    free(msg->keys);
    free(msg->sums);
    free(msg->slots_of);
    free(msg->index);
    msg->keys = msg->sums = NULL;
    msg->slots_of = msg->index = NULL;
}
