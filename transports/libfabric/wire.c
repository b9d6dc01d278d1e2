/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What nodes tell each other, as text: in segments, with buffers, and over the control channel.
 * Knows nothing of libfabric.
 */
#include "wire.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cJSON.h>

#define MAX_TEXT (64u << 10)

/* ---- writing */

static void add_u64(cJSON *to, const char *name, uint64_t value)
{
    char text[24];

    snprintf(text, sizeof(text), "%" PRIu64, value);
    if (name)
        cJSON_AddStringToObject(to, name, text);
    else
        cJSON_AddItemToArray(to, cJSON_CreateString(text));
}

static void add_hex(cJSON *to, const char *name, const uint8_t *data, uint32_t len)
{
    static const char digits[] = "0123456789abcdef";
    char text[2 * FAB_EP_MAX + 1];

    for (uint32_t i = 0; i < len; i++) {
        text[2 * i] = digits[data[i] >> 4];
        text[2 * i + 1] = digits[data[i] & 15];
    }
    text[2 * len] = '\0';
    cJSON_AddStringToObject(to, name, text);
}

/* cJSON's additions fail only without memory, and leave a member out: the text would be short
 * of it and the reader refuses it. */
static char *print(cJSON *json)
{
    char *text = json ? cJSON_PrintUnformatted(json) : NULL;

    cJSON_Delete(json);
    return text;
}

static const char *const asks[] = {
    [FAB_OPEN] = "open", [FAB_CLOSE] = "close", [FAB_ALIVE] = "alive", [FAB_VALID] = "valid"};
#define N_ASKS (sizeof(asks) / sizeof(asks[0]))

char *fab_request_encode(const struct fab_request *request)
{
    cJSON *json = cJSON_CreateObject(), *list;

    cJSON_AddStringToObject(json, "ask", asks[request->ask]);
    add_u64(json, "link", request->link);
    cJSON_AddStringToObject(json, "instance", request->instance);
    cJSON_AddStringToObject(json, "expect", request->expect);
    cJSON_AddNumberToObject(json, "device", request->device);
    add_hex(json, "ep", request->ep, request->ep_len);
    list = cJSON_AddArrayToObject(json, "checks");
    for (uint32_t i = 0; list && i < request->n_checks; i++) {
        cJSON *one = cJSON_CreateObject();
        add_u64(one, "base", request->check[i].base);
        add_u64(one, "key", request->check[i].key);
        cJSON_AddNumberToObject(one, "access", request->check[i].access);
        cJSON_AddItemToArray(list, one);
    }
    return print(json);
}

char *fab_reply_encode(const struct fab_reply *reply)
{
    cJSON *json = cJSON_CreateObject(), *list;

    cJSON_AddNumberToObject(json, "status", reply->status);
    add_hex(json, "ep", reply->ep, reply->ep_len);
    add_u64(json, "word_addr", reply->word_addr);
    add_u64(json, "word_key", reply->word_key);
    add_u64(json, "word", reply->word);
    list = cJSON_AddArrayToObject(json, "checks");
    for (uint32_t i = 0; list && i < reply->n_checks; i++)
        cJSON_AddItemToArray(list, cJSON_CreateNumber(reply->check[i]));
    return print(json);
}

char *fab_remote_encode(const struct fab_remote *remote)
{
    cJSON *json = cJSON_CreateObject(), *list;

    cJSON_AddStringToObject(json, "instance", remote->instance);
    cJSON_AddStringToObject(json, "provider", remote->provider);
    list = cJSON_AddArrayToObject(json, "devices");
    for (uint32_t i = 0; list && i < remote->n; i++)
        cJSON_AddItemToArray(list, cJSON_CreateString(remote->device[i]));
    return print(json);
}

char *fab_keys_encode(const struct fab_keys *keys)
{
    cJSON *json = cJSON_CreateObject(), *list;

    add_u64(json, "base", keys->base);
    add_u64(json, "len", keys->len);
    cJSON_AddNumberToObject(json, "access", keys->access);
    list = cJSON_AddArrayToObject(json, "keys");
    for (uint32_t i = 0; list && i < keys->n; i++)
        add_u64(list, NULL, keys->key[i]);
    list = cJSON_AddArrayToObject(json, "addrs");
    for (uint32_t i = 0; list && i < keys->n; i++)
        add_u64(list, NULL, keys->addr[i]);
    return print(json);
}

/* ---- reading */

static bool u64_of(const cJSON *item, uint64_t *value_out)
{
    const char *p = cJSON_IsString(item) ? item->valuestring : "";
    uint64_t value = 0;

    if (!*p)
        return false;
    for (; *p; p++) {
        if (*p < '0' || *p > '9' || __builtin_mul_overflow(value, 10u, &value) ||
            __builtin_add_overflow(value, (uint64_t)(*p - '0'), &value))
            return false;
    }
    *value_out = value;
    return true;
}

static bool get_u64(const cJSON *json, const char *name, uint64_t *value_out)
{
    return u64_of(cJSON_GetObjectItemCaseSensitive(json, name), value_out);
}

static bool get_int(const cJSON *json, const char *name, double min, double max,
                    double *value_out)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, name);

    if (!cJSON_IsNumber(item) || !(item->valuedouble >= min && item->valuedouble <= max))
        return false;
    *value_out = item->valuedouble;
    return true;
}

static bool get_text(const cJSON *json, const char *name, char *out, size_t room)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, name);

    if (!cJSON_IsString(item) || strlen(item->valuestring) >= room)
        return false;
    strcpy(out, item->valuestring);
    return true;
}

static int nibble(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool get_hex(const cJSON *json, const char *name, uint8_t *out, uint32_t *len_out)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, name);
    size_t len = cJSON_IsString(item) ? strlen(item->valuestring) : 1;

    if (len % 2 || len / 2 > FAB_EP_MAX)
        return false;
    for (size_t i = 0; i < len / 2; i++) {
        int high = nibble(item->valuestring[2 * i]), low = nibble(item->valuestring[2 * i + 1]);
        if (high < 0 || low < 0)
            return false;
        out[i] = (uint8_t)(high << 4 | low);
    }
    *len_out = (uint32_t)(len / 2);
    return true;
}

static const cJSON *get_list(const cJSON *json, const char *name, uint32_t max)
{
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(json, name);

    return cJSON_IsArray(list) && (uint32_t)cJSON_GetArraySize(list) <= max ? list : NULL;
}

static ferry_status request_of(const cJSON *json, struct fab_request *r, const char **why_out)
{
    const cJSON *list = get_list(json, "checks", FAB_MAX_CHECKS), *one;
    char ask[16];
    double number;

    *why_out = "not a request of this transport";
    if (!get_text(json, "ask", ask, sizeof(ask)))
        return FERRY_EINVAL;
    for (r->ask = 0; r->ask < N_ASKS && strcmp(asks[r->ask], ask) != 0; r->ask++)
        ;
    if (r->ask == N_ASKS || !get_u64(json, "link", &r->link) ||
        !get_text(json, "instance", r->instance, sizeof(r->instance)) ||
        !get_text(json, "expect", r->expect, sizeof(r->expect)) ||
        !get_int(json, "device", 0, FAB_MAX_DEVICES - 1, &number) ||
        !get_hex(json, "ep", r->ep, &r->ep_len) || !list)
        return FERRY_EINVAL;
    r->device = (uint32_t)number;
    *why_out = "a check of it is not valid";
    cJSON_ArrayForEach(one, list)
    {
        struct fab_check *check = &r->check[r->n_checks++];
        if (!get_u64(one, "base", &check->base) || !get_u64(one, "key", &check->key) ||
            !get_int(one, "access", 0, 7, &number))
            return FERRY_EINVAL;
        check->access = (uint32_t)number;
    }
    return FERRY_OK;
}

static ferry_status reply_of(const cJSON *json, struct fab_reply *r, const char **why_out)
{
    const cJSON *list = get_list(json, "checks", FAB_MAX_CHECKS), *one;
    double number;

    *why_out = "not a reply of this transport";
    if (!get_int(json, "status", -1000, 0, &number) ||
        !get_hex(json, "ep", r->ep, &r->ep_len) || !get_u64(json, "word_addr", &r->word_addr) ||
        !get_u64(json, "word_key", &r->word_key) || !get_u64(json, "word", &r->word) || !list)
        return FERRY_EINVAL;
    r->status = (int32_t)number;
    cJSON_ArrayForEach(one, list)
    {
        if (!cJSON_IsNumber(one) || !(one->valuedouble >= -1000 && one->valuedouble <= 0))
            return FERRY_EINVAL;
        r->check[r->n_checks++] = (int32_t)one->valuedouble;
    }
    return FERRY_OK;
}

ferry_status fab_request_parse(const char *text, size_t len, struct fab_request *request_out,
                               const char **why_out)
{
    struct fab_request *r = calloc(1, sizeof(*r));
    cJSON *json = len <= MAX_TEXT ? cJSON_ParseWithLength(text, len) : NULL;
    ferry_status status = r ? request_of(json, r, why_out) : FERRY_ENOMEM;

    if (status == FERRY_OK)
        *request_out = *r;
    cJSON_Delete(json);
    free(r);
    return status;
}

ferry_status fab_reply_parse(const char *text, size_t len, struct fab_reply *reply_out,
                             const char **why_out)
{
    struct fab_reply *r = calloc(1, sizeof(*r));
    cJSON *json = len <= MAX_TEXT ? cJSON_ParseWithLength(text, len) : NULL;
    ferry_status status = r ? reply_of(json, r, why_out) : FERRY_ENOMEM;

    if (status == FERRY_OK)
        *reply_out = *r;
    cJSON_Delete(json);
    free(r);
    return status;
}

/* Our member of what a peer published; NULL = not there, or no JSON. */
static cJSON *own_member(const struct ferry_kvs *attrs, bool *there_out)
{
    *there_out = false;
    for (size_t i = 0; attrs && i < attrs->n; i++) {
        const struct ferry_kv *kv = &attrs->v[i];
        if (strcmp(kv->key, FAB_KEY) != 0)
            continue;
        *there_out = true;
        return kv->val_len <= MAX_TEXT ? cJSON_ParseWithLength(kv->val, kv->val_len) : NULL;
    }
    return NULL;
}

ferry_status fab_remote_parse(const struct ferry_kvs *attrs, struct fab_remote *remote_out,
                              const char **why_out)
{
    struct fab_remote r = {0};
    bool there;
    cJSON *json = own_member(attrs, &there);
    const cJSON *list = get_list(json, "devices", FAB_MAX_DEVICES), *one;
    ferry_status status = FERRY_EINVAL;

    *why_out =
        there ? "its entry of this transport is not valid" : "it does not use this transport";
    if (get_text(json, "instance", r.instance, sizeof(r.instance)) && r.instance[0] &&
        get_text(json, "provider", r.provider, sizeof(r.provider)) && list)
        status = FERRY_OK;
    cJSON_ArrayForEach(one, list)
    {
        if (!cJSON_IsString(one) || strlen(one->valuestring) >= FAB_NAME_MAX)
            status = FERRY_EINVAL;
        else
            strcpy(r.device[r.n++], one->valuestring);
    }
    if (r.n == 0)
        status = FERRY_EINVAL;
    if (status == FERRY_OK)
        *remote_out = r;
    cJSON_Delete(json);
    return status;
}

ferry_status fab_keys_parse(const struct ferry_kvs *attrs, struct fab_keys *keys_out,
                            const char **why_out)
{
    struct fab_keys k = {0};
    bool there;
    cJSON *json = own_member(attrs, &there);
    const cJSON *list = get_list(json, "keys", FAB_MAX_DEVICES), *one;
    const cJSON *addrs = get_list(json, "addrs", FAB_MAX_DEVICES);
    ferry_status status = FERRY_EINVAL;
    double access;
    uint32_t n = 0;

    *why_out = there ? "its entry of this transport is not valid" : "nobody may reach it";
    if (!there)
        return FERRY_EACCESS;
    if (get_u64(json, "base", &k.base) && get_u64(json, "len", &k.len) && k.len &&
        k.len - 1 <= UINT64_MAX - k.base && get_int(json, "access", 0, 7, &access) && list &&
        addrs) {
        k.access = (uint32_t)access;
        status = FERRY_OK;
    }
    cJSON_ArrayForEach(one, list)
    {
        if (!u64_of(one, &k.key[k.n++]))
            status = FERRY_EINVAL;
    }
    cJSON_ArrayForEach(one, addrs)
    {
        if (!u64_of(one, &k.addr[n++]))
            status = FERRY_EINVAL;
    }
    if (n != k.n || n == 0)
        status = FERRY_EINVAL;
    if (status == FERRY_OK)
        *keys_out = k;
    cJSON_Delete(json);
    return status;
}
