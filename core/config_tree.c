/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tree that both configuration languages are read into, its limits, and messages that begin
 * with a place. Knows neither language and no member's meaning.
 */
#include "config_tree.h"

#include <cjson/cJSON.h>
#include <locale.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"

#define EXACT_MAX 9007199254740992.0 /* 2^53: beyond it a double skips whole numbers */

static void put_place(const struct fy_place *place, char *out, size_t room)
{
    if (place->line)
        snprintf(out, room, "%.512s:%u:%u", place->name, place->line, place->column);
    else
        snprintf(out, room, "%.512s", place->name);
}

ferry_status fy_fail_at(const struct fy_place *place, const char *fmt, ...)
{
    char where[560], what[1024];
    va_list ap;

    put_place(place, where, sizeof(where));
    va_start(ap, fmt);
    vsnprintf(what, sizeof(what), fmt, ap);
    va_end(ap);
    return fy_fail(FERRY_EINVAL, "%s: %s", where, what);
}

void fy_say_at(const struct fy_log *log, enum ferry_log_level level,
               const struct fy_place *place, const char *fmt, ...)
{
    char where[560], what[1024];
    va_list ap;

    if (!fy_log_wants(log, level))
        return;
    put_place(place, where, sizeof(where));
    va_start(ap, fmt);
    vsnprintf(what, sizeof(what), fmt, ap);
    va_end(ap);
    fy_log_write(log, level, "%s: %s", where, what);
}

ferry_status fy_tree_node(struct fy_tree *tree, enum fy_node_kind kind, uint32_t line,
                          uint32_t column, struct fy_node **node_out)
{
    struct fy_node *node;

    if (tree->nodes >= FY_TREE_MAX_NODES)
        return fy_fail_at(&(struct fy_place){tree->name, line, column},
                          "more than %d values; a configuration holds fewer",
                          FY_TREE_MAX_NODES);
    node = calloc(1, sizeof(*node));
    if (!node)
        return fy_fail(FERRY_ENOMEM, "%s: out of memory", tree->name);
    tree->nodes++;
    node->kind = kind;
    node->line = line;
    node->column = column;
    *node_out = node;
    return FERRY_OK;
}

ferry_status fy_tree_add(struct fy_tree *tree, struct fy_node *parent, struct fy_node *node)
{
    for (struct fy_node *other = parent->child; node->key && other; other = other->next) {
        if (strcmp(other->key, node->key) == 0) {
            ferry_status status = fy_fail_at(
                &(struct fy_place){tree->name, node->key_line, node->key_column},
                "\"%s\" is there twice, first in line %u; which one counts is anyone's guess",
                node->key, other->key_line);

            fy_node_free(node);
            return status;
        }
    }
    if (parent->last)
        parent->last->next = node;
    else
        parent->child = node;
    parent->last = node;
    return FERRY_OK;
}

ferry_status fy_tree_number(struct fy_tree *tree, struct fy_node *node)
{
    const struct fy_place place = {tree->name, node->line, node->column};
    const char *point = localeconv()->decimal_point;
    char text[64];
    size_t len = strlen(node->text);
    char *dot;

    if (len >= sizeof(text))
        return fy_fail_at(&place, "a number of %zu characters; at most %zu", len,
                          sizeof(text) - 1);
    memcpy(text, node->text, len + 1);
    dot = strchr(text, '.');
    if (dot && point[0] && !point[1])
        *dot = point[0];
    node->number = strtod(text, NULL);
    if (!isfinite(node->number))
        return fy_fail_at(&place, "%s is too large for a number", node->text);
    if (fabs(node->number) > EXACT_MAX && !strpbrk(node->text, ".eE"))
        return fy_fail_at(&place,
                          "%s is larger than 2^53 and would be rounded; write it as text, in "
                          "double quotes",
                          node->text);
    return FERRY_OK;
}

void fy_node_free(struct fy_node *node)
{
    while (node) {
        struct fy_node *next = node->next;

        fy_node_free(node->child);
        free(node->key);
        free(node->text);
        free(node);
        node = next;
    }
}

const char *fy_node_kind_name(enum fy_node_kind kind)
{
    switch (kind) {
    case FY_NODE_NULL:
        return "null";
    case FY_NODE_BOOL:
        return "true or false";
    case FY_NODE_NUMBER:
        return "a number";
    case FY_NODE_TEXT:
        return "text";
    case FY_NODE_LIST:
        return "a list";
    default:
        return "an object";
    }
}

static cJSON *convert(const struct fy_node *node)
{
    cJSON *json;

    switch (node->kind) {
    case FY_NODE_NULL:
        return cJSON_CreateNull();
    case FY_NODE_BOOL:
        return cJSON_CreateBool(node->boolean);
    case FY_NODE_NUMBER:
        return cJSON_CreateNumber(node->number);
    case FY_NODE_TEXT:
        return cJSON_CreateString(node->text);
    case FY_NODE_LIST:
        json = cJSON_CreateArray();
        break;
    default:
        json = cJSON_CreateObject();
        break;
    }
    for (const struct fy_node *child = node->child; json && child; child = child->next) {
        cJSON *item;

        if (node->kind == FY_NODE_OBJECT && child->kind == FY_NODE_NULL)
            continue;
        item = convert(child);
        if (!item ||
            !(node->kind == FY_NODE_LIST ? cJSON_AddItemToArray(json, item)
                                         : cJSON_AddItemToObject(json, child->key, item))) {
            cJSON_Delete(item);
            cJSON_Delete(json);
            return NULL;
        }
    }
    return json;
}

struct cJSON *fy_tree_to_cjson(const struct fy_node *node)
{
    return convert(node);
}
