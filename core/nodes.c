/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Other processes of this user that have an engine: which there are, and what each says of
 * itself. Needs no engine of its own.
 */
#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "ferry/admin.h"
#include "local.h"
#include "util/clock.h"

#define ONE_NS (500 * FY_NS_PER_MS) /* of the time for all, so much for one */

struct listing {
    cJSON *list;
    uint64_t deadline_ns;
};

static ferry_status add_node(void *arg, const char *path)
{
    struct listing *listing = arg;
    uint64_t until = fy_now_ns() + ONE_NS;
    struct fy_buf reply;
    cJSON *node = NULL;

    if (fy_now_ns() >= listing->deadline_ns)
        return FERRY_ETIMEDOUT;
    fy_buf_init(&reply, 0);
    if (!fy_local_ask(path, "node", until < listing->deadline_ns ? until : listing->deadline_ns,
                      &reply))
        node = cJSON_ParseWithLength(reply.data, reply.len);
    if (cJSON_IsObject(node)) {
        cJSON_AddStringToObject(node, "socket", path);
        cJSON_AddItemToArray(listing->list, node);
    } else {
        cJSON_Delete(node);
    }
    fy_buf_fini(&reply);
    return FERRY_OK;
}

static cJSON *list_nodes(uint64_t deadline_ns)
{
    struct listing listing = {.list = cJSON_CreateArray(), .deadline_ns = deadline_ns};

    fy_local_list(add_node, &listing);
    return listing.list;
}

ferry_status ferry_nodes(uint32_t timeout_ms, char **json_out)
{
    cJSON *list;

    if (!json_out)
        return fy_fail(FERRY_EINVAL, "nodes: nowhere to put them");
    list = list_nodes(fy_now_ns() + timeout_ms * FY_NS_PER_MS);
    *json_out = cJSON_PrintUnformatted(list);
    cJSON_Delete(list);
    return *json_out ? FERRY_OK : fy_fail(FERRY_ENOMEM, "no memory for nodes");
}

static const char *text_in(const cJSON *node, const char *member)
{
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(node, member));

    return text ? text : "";
}

static bool is_called(const cJSON *node, const char *name)
{
    const cJSON *pid = cJSON_GetObjectItemCaseSensitive(node, "pid");
    char text[32];

    snprintf(text, sizeof(text), "%.0f", cJSON_IsNumber(pid) ? pid->valuedouble : 0);
    return !name || !strcmp(text_in(node, "name"), name) || !strcmp(text, name);
}

/* The one that is meant. */
static ferry_status find_node(const cJSON *list, const char *name, const cJSON **node_out)
{
    const cJSON *node, *found = NULL;
    char names[400] = "";
    unsigned n = 0;

    cJSON_ArrayForEach(node, list)
    {
        size_t len = strlen(names);

        snprintf(names + len, sizeof(names) - len, "%s%s", len ? ", " : "",
                 text_in(node, "name"));
        if (is_called(node, name)) {
            found = node;
            n++;
        }
    }
    if (n == 1) {
        *node_out = found;
        return FERRY_OK;
    }
    if (n)
        return fy_fail(FERRY_EEXIST, "several nodes run here: %s; name one of them", names);
    if (!names[0])
        return fy_fail(FERRY_ENOENT, "no node of this user runs on this machine (or its "
                                     "configuration has \"status_socket\": false)");
    return fy_fail(FERRY_ENOENT, "no node \"%s\"; there are: %s", name ? name : "", names);
}

ferry_status ferry_node_describe(const char *node, const char *what, uint32_t timeout_ms,
                                 char **json_out)
{
    uint64_t deadline_ns = fy_now_ns() + timeout_ms * FY_NS_PER_MS;
    const cJSON *found;
    struct fy_buf reply;
    ferry_status status;
    cJSON *list;

    if (!what || !json_out)
        return fy_fail(FERRY_EINVAL, "node_describe: topic and result are needed");
    fy_buf_init(&reply, 0);
    list = list_nodes(deadline_ns);
    status = find_node(list, node, &found);
    if (!status)
        status = fy_local_ask(text_in(found, "socket"), what, deadline_ns, &reply);
    if (!status && reply.len == 4 && !memcmp(reply.data, "null", 4))
        status =
            fy_fail(FERRY_EINVAL, "%s does not tell of \"%s\"", text_in(found, "name"), what);
    if (!status) {
        *json_out = fy_buf_take(&reply);
        if (!*json_out)
            status = fy_fail(FERRY_ENOMEM, "no memory for the answer");
    }
    cJSON_Delete(list);
    fy_buf_fini(&reply);
    return status;
}
