/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FY_CONFIG_TREE_H
#define FY_CONFIG_TREE_H

#include <stddef.h>
#include <stdint.h>

#include "log.h"

struct cJSON;

/* A configuration text as read, JSON and YAML alike, with the place of everything in it. */
enum fy_node_kind {
    FY_NODE_NULL,
    FY_NODE_BOOL,
    FY_NODE_NUMBER,
    FY_NODE_TEXT,
    FY_NODE_LIST,
    FY_NODE_OBJECT
};

struct fy_node {
    enum fy_node_kind kind;
    uint32_t line, column;         /* of the value, both from 1 */
    uint32_t key_line, key_column; /* of the member's name; 0 = not a member */
    char *key;                     /* NULL = not a member */
    char *text;                    /* of TEXT; of NUMBER as it is written */
    double number;                 /* of NUMBER: finite, and exact where it is whole */
    int boolean;                   /* of BOOL */
    struct fy_node *child, *last, *next;
};

/* Where a value comes from, for messages: "mooncake.json:3:5", or a name alone (line 0). */
struct fy_place {
    const char *name;
    uint32_t line, column;
};

#define FY_TREE_MAX_DEPTH 16
#define FY_TREE_MAX_NODES 4096

/* What the two readers build a tree with. */
struct fy_tree {
    const char *name;
    size_t nodes;
};

ferry_status fy_tree_node(struct fy_tree *tree, enum fy_node_kind kind, uint32_t line,
                          uint32_t column, struct fy_node **node_out);
/* Takes `node` over, also where it fails: a name that is there already is an error. */
ferry_status fy_tree_add(struct fy_tree *tree, struct fy_node *parent, struct fy_node *node);
/* Sets a number's value from its text. */
ferry_status fy_tree_number(struct fy_tree *tree, struct fy_node *node);
void fy_node_free(struct fy_node *node); /* NULL is allowed */

static inline int fy_is_whole(double x)
{
    return x > -1e18 && x < 1e18 && (double)(int64_t)x == x;
}

const char *fy_node_kind_name(enum fy_node_kind kind); /* "a number", "text" ... */

/* The readers. `text` holds no NUL. FERRY_EINVAL, text "NAME:LINE:COLUMN: ...". An empty text
 * is an error. */
ferry_status fy_tree_from_json(const char *text, size_t len, const char *name,
                               struct fy_node **node_out);
ferry_status fy_tree_from_yaml(const char *text, size_t len, const char *name,
                               struct fy_node **node_out);

/* As cJSON, without members that are null. NULL = out of memory. */
struct cJSON *fy_tree_to_cjson(const struct fy_node *node);

/* Sets the error text, the place before it; FERRY_EINVAL. */
ferry_status fy_fail_at(const struct fy_place *place, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
void fy_say_at(const struct fy_log *log, enum ferry_log_level level,
               const struct fy_place *place, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

#endif /* FY_CONFIG_TREE_H */
