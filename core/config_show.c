/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The configuration handed on: a plugin's section as keys and values, and everything as JSON
 * for people, without secrets. Knows no plugin's keys.
 */
#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "config_parts.h"
#include "error.h"
#include "util/buf.h"

/* ---- a plugin's section ---- */

static ferry_status flatten(const cJSON *item, const char *key, struct fy_kv *out);

/* As text: whole numbers without a point. NULL = no scalar. `room` is for numbers. */
static const char *scalar_text(const cJSON *item, char room[40])
{
    if (cJSON_IsString(item))
        return item->valuestring;
    if (cJSON_IsBool(item))
        return cJSON_IsTrue(item) ? "true" : "false";
    if (!cJSON_IsNumber(item))
        return NULL;
    if (fy_is_whole(item->valuedouble))
        snprintf(room, 40, "%lld", (long long)item->valuedouble);
    else if (!cJSON_PrintPreallocated((cJSON *)(uintptr_t)item, room, 40, 0))
        return NULL;
    return room;
}

/* "a,b" where all elements are scalars; else key.0, key.1 ... */
static ferry_status flatten_list(const cJSON *list, const char *key, struct fy_kv *out)
{
    ferry_status status = FERRY_OK;
    const cJSON *item;
    struct fy_buf joined;
    int plain = 1, i = 0;
    char room[40];

    fy_buf_init(&joined, 0);
    cJSON_ArrayForEach(item, list)
    {
        const char *text = scalar_text(item, room);

        plain = plain && text;
        if (plain && status == FERRY_OK)
            status = fy_buf_printf(&joined, "%s%s", i++ ? "," : "", text);
    }
    if (plain && status == FERRY_OK)
        status = fy_kv_put_text(out, key, joined.data ? joined.data : "");
    i = 0;
    cJSON_ArrayForEach(item, list)
    {
        char below[300];

        snprintf(below, sizeof(below), "%s.%d", key, i++);
        if (!plain && status == FERRY_OK)
            status = flatten(item, below, out);
    }
    fy_buf_fini(&joined);
    return status;
}

static ferry_status flatten(const cJSON *item, const char *key, struct fy_kv *out)
{
    ferry_status status = FERRY_OK;
    const cJSON *child;
    char room[40];
    const char *text = scalar_text(item, room);

    if (text)
        return fy_kv_put_text(out, key, text);
    if (cJSON_IsArray(item))
        return flatten_list(item, key, out);
    cJSON_ArrayForEach(child, item)
    {
        char below[300];

        if ((size_t)snprintf(below, sizeof(below), "%s%s%s", key, *key ? "." : "",
                             child->string) >= sizeof(below))
            return fy_fail(FERRY_EINVAL, "configuration: the name %.60s... is too long", below);
        status = flatten(child, below, out);
        if (status != FERRY_OK)
            return status;
    }
    return status;
}

ferry_status fy_config_section(const struct fy_config *config, const char *section,
                               struct fy_kv *out)
{
    const cJSON *object = cJSON_GetObjectItemCaseSensitive(config->ferry, section);

    return cJSON_IsObject(object) ? flatten(object, "", out) : FERRY_OK;
}

int64_t fy_config_int(const struct fy_config *config, const char *member, int64_t otherwise)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(config->ferry, member);

    return cJSON_IsNumber(item) ? (int64_t)item->valuedouble : otherwise;
}

int fy_config_bool(const struct fy_config *config, const char *member, int otherwise)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(config->ferry, member);

    return cJSON_IsBool(item) ? cJSON_IsTrue(item) : otherwise;
}

/* ---- for people ---- */

static int is_secret(const char *key)
{
    static const char *const parts[] = {"password", "passwd", "secret", "token", "credential"};
    size_t len = strlen(key);

    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
        if (strcasestr(key, parts[i]))
            return 1;
    return len >= 3 && strcasecmp(key + len - 3, "key") == 0;
}

/* Ends of the value of a parameter of a URL: "token=abc&". */
static size_t hide_parameters(char *text)
{
    char *at = strchr(text, '?');
    size_t hidden = 0;

    while (at) {
        char *name = at + 1, *equal = strpbrk(name, "=&"), *end;

        if (!equal || *equal == '&') {
            at = equal;
            continue;
        }
        end = equal + 1 + strcspn(equal + 1, "&");
        *equal = 0;
        if (is_secret(name) && end - equal > 3) {
            memcpy(equal + 1, "***", 3);
            memmove(equal + 4, end, strlen(end) + 1);
            end = equal + 4;
            hidden++;
        } else if (is_secret(name)) {
            memset(equal + 1, '*', (size_t)(end - equal - 1));
        }
        *equal = '=';
        at = *end ? end : NULL;
    }
    return hidden;
}

void fy_config_hide(const char *url, char *out, size_t room)
{
    const char *scheme = strstr(url, "://");
    const char *start = scheme ? scheme + 3 : url;
    const char *at = strrchr(start, '@');
    const char *colon = at ? memchr(start, ':', (size_t)(at - start)) : NULL;

    /* The last '@', so that one in a password hides too much and never too little. */
    if (at)
        snprintf(out, room, "%.*s%s***%s", (int)((colon ? colon : start) - url), url,
                 colon ? ":" : "", at);
    else
        snprintf(out, room, "%s", url);
    hide_parameters(out);
}

static cJSON *hidden_text(const char *text)
{
    size_t room = strlen(text) + 8;
    char *out = malloc(room);
    cJSON *item;

    if (!out)
        return NULL;
    fy_config_hide(text, out, room);
    item = cJSON_CreateString(out);
    free(out);
    return item;
}

static int add_text(cJSON *json, const char *key, const char *text)
{
    cJSON *item = text ? hidden_text(text) : cJSON_CreateNull();

    if (item && cJSON_AddItemToObject(json, key, item))
        return 1;
    cJSON_Delete(item);
    return 0;
}

static cJSON *hide(const cJSON *from, const char *key)
{
    const cJSON *child;
    cJSON *copy;

    if (key && is_secret(key) && !cJSON_IsBool(from))
        return cJSON_CreateString("***");
    if (cJSON_IsString(from))
        return hidden_text(from->valuestring);
    if (!cJSON_IsObject(from) && !cJSON_IsArray(from))
        return cJSON_Duplicate(from, 1);
    copy = cJSON_IsObject(from) ? cJSON_CreateObject() : cJSON_CreateArray();
    cJSON_ArrayForEach(child, from)
    {
        cJSON *item = copy ? hide(child, child->string) : NULL;

        if (!item || !(child->string ? cJSON_AddItemToObject(copy, child->string, item)
                                     : cJSON_AddItemToArray(copy, item))) {
            cJSON_Delete(item);
            cJSON_Delete(copy);
            return NULL;
        }
    }
    return copy;
}

struct cJSON *fy_config_describe(const struct fy_config *config)
{
    cJSON *json = cJSON_CreateObject(), *ferry;
    int good = json != NULL;

    good = good && add_text(json, "path", config->path);
    good = good && add_text(json, "role", config->role);
    good = good && add_text(json, "name", config->name);
    good = good && add_text(json, "peer_name", config->peer_name);
    good = good && add_text(json, "prefill_url", config->prefill_url);
    good = good && add_text(json, "decode_url", config->decode_url);
    good = good && add_text(json, "bind", config->bind);
    good = good && add_text(json, "advertise", config->advertise);
    good = good && cJSON_AddBoolToObject(json, "ipv6", config->ipv6);
    good = good && add_text(json, "metadata_server", config->metadata_server);
    good = good && add_text(json, "cluster_id", config->cluster_id);
    good = good && add_text(json, "protocol", config->protocol);
    good = good && add_text(json, "device_name", config->device_name);
    good = good && add_text(json, "plugin_path", config->plugin_path);
    good = good && cJSON_AddNumberToObject(json, "default_port", config->default_port);
    good = good && cJSON_AddNumberToObject(json, "min_port", config->min_port);
    good = good && cJSON_AddNumberToObject(json, "max_port", config->max_port);
    good = good && cJSON_AddNumberToObject(json, "log_level", config->log_level);
    ferry = good ? hide(config->ferry, NULL) : NULL;
    if (ferry && cJSON_AddItemToObject(json, "ferry", ferry))
        return json;
    cJSON_Delete(ferry);
    cJSON_Delete(json);
    return NULL;
}
