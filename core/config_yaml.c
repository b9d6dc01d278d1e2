/* SPDX-License-Identifier: Apache-2.0 */
/*
 * YAML into the same tree, through libyaml's events. Scalars follow YAML 1.2's core schema, so
 * that "no" and "on" stay text. Anchors are copied within the tree's limits; tags and several
 * documents are refused. Knows no member's meaning.
 */
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "config_tree.h"
#include "error.h"

#define MAX_ANCHORS 64

struct anchor {
    char *name;
    const struct fy_node *node; /* in the tree, or not added to it yet */
};

struct reader {
    struct fy_tree tree;
    yaml_parser_t parser;
    const char *text;
    size_t len;
    struct anchor anchors[MAX_ANCHORS];
    size_t n_anchors;
};

static struct fy_place at(const struct reader *r, const yaml_mark_t *mark)
{
    return (struct fy_place){r->tree.name, (uint32_t)mark->line + 1,
                             (uint32_t)mark->column + 1};
}

/* Byte at a place, 0 beyond the end; columns count characters. */
static char byte_at(const struct reader *r, const struct fy_place *place)
{
    const char *at = r->text, *end = r->text + r->len;

    for (uint32_t line = 1; at && line < place->line; line++) {
        at = memchr(at, '\n', (size_t)(end - at));
        if (at)
            at++;
    }
    for (uint32_t column = 1; at && at < end && column < place->column; column++)
        do
            at++;
        while (at < end && ((unsigned char)*at & 0xc0) == 0x80);
    return at && at < end ? *at : 0;
}

/* libyaml's reader knows only how many bytes were good. */
static struct fy_place place_of_byte(const struct reader *r, size_t offset)
{
    struct fy_place place = {r->tree.name, 1, 1};

    for (size_t i = 0; i < offset && i < r->len; i++) {
        if (r->text[i] == '\n') {
            place.line++;
            place.column = 1;
        } else if (((unsigned char)r->text[i] & 0xc0) != 0x80) {
            place.column++;
        }
    }
    return place;
}

static ferry_status next(struct reader *r, yaml_event_t *event)
{
    const yaml_parser_t *p = &r->parser;
    struct fy_place place;
    const char *hint = "";

    if (yaml_parser_parse(&r->parser, event))
        return FERRY_OK;
    if (p->error == YAML_MEMORY_ERROR)
        return fy_fail(FERRY_ENOMEM, "%s: out of memory", r->tree.name);
    if (p->error == YAML_READER_ERROR) {
        place = place_of_byte(r, p->problem_offset);
        return fy_fail_at(&place, "this is not UTF-8 text: %s", p->problem);
    }
    place = at(r, &p->problem_mark);
    if (byte_at(r, &place) == '\t')
        hint = "; YAML is indented with spaces, not tabs";
    else if (p->context && strstr(p->context, "flow"))
        hint = "; a value that begins with [ or { stands in double quotes";
    if (p->context)
        return fy_fail_at(&place, "%s (%s, which began at %zu:%zu)%s",
                          p->problem ? p->problem : "not YAML", p->context,
                          p->context_mark.line + 1, p->context_mark.column + 1, hint);
    return fy_fail_at(&place, "%s%s", p->problem ? p->problem : "not YAML", hint);
}

static int one_of(const char *text, const char *const *words)
{
    for (; *words; words++)
        if (strcmp(text, *words) == 0)
            return 1;
    return 0;
}

/* [-+]? digits, with a fraction and an exponent perhaps; 0x and 0o count too. */
static int is_number(const char *text)
{
    const char *p = text + (*text == '-' || *text == '+');
    size_t whole, part = 0;

    if (p == text && p[0] == '0' && (p[1] == 'x' || p[1] == 'o'))
        return p[2] &&
               p[2 + strspn(p + 2, p[1] == 'x' ? "0123456789abcdefABCDEF" : "01234567")] == 0;
    whole = strspn(p, "0123456789");
    p += whole;
    if (*p == '.') {
        part = strspn(p + 1, "0123456789");
        p += 1 + part;
    }
    if (whole + part == 0)
        return 0;
    if (*p == 'e' || *p == 'E') {
        size_t power;

        p += 1 + (p[1] == '-' || p[1] == '+');
        power = strspn(p, "0123456789");
        if (power == 0)
            return 0;
        p += power;
    }
    return *p == 0;
}

/* Octal and hexadecimal as decimal text, so that a tree's numbers read alike. */
static ferry_status plain_digits(const struct reader *r, struct fy_node *node)
{
    const struct fy_place place = {r->tree.name, node->line, node->column};
    char digits[24], *text;

    if (node->text[0] != '0' || (node->text[1] != 'x' && node->text[1] != 'o'))
        return FERRY_OK;
    if (strlen(node->text) > 15)
        return fy_fail_at(&place, "%.40s is too large for a number", node->text);
    snprintf(digits, sizeof(digits), "%llu",
             strtoull(node->text + 2, NULL, node->text[1] == 'x' ? 16 : 8));
    text = strdup(digits);
    if (!text)
        return fy_fail(FERRY_ENOMEM, "%s: out of memory", r->tree.name);
    free(node->text);
    node->text = text;
    return FERRY_OK;
}

static ferry_status scalar(struct reader *r, const yaml_event_t *event, struct fy_node *node)
{
    static const char *const nulls[] = {"", "~", "null", "Null", "NULL", NULL};
    static const char *const trues[] = {"true", "True", "TRUE", NULL};
    static const char *const falses[] = {"false", "False", "FALSE", NULL};
    const struct fy_place place = at(r, &event->start_mark);
    const char *text = (const char *)event->data.scalar.value;
    ferry_status status;

    if (strlen(text) != event->data.scalar.length)
        return fy_fail_at(&place, "a NUL in a text");
    node->kind = FY_NODE_TEXT;
    node->text = strdup(text);
    if (!node->text)
        return fy_fail(FERRY_ENOMEM, "%s: out of memory", r->tree.name);
    if (event->data.scalar.style != YAML_PLAIN_SCALAR_STYLE)
        return FERRY_OK;
    if (one_of(text, nulls)) {
        node->kind = FY_NODE_NULL;
    } else if (one_of(text, trues) || one_of(text, falses)) {
        node->kind = FY_NODE_BOOL;
        node->boolean = one_of(text, trues);
    } else if (is_number(text)) {
        node->kind = FY_NODE_NUMBER;
        status = plain_digits(r, node);
        return status == FERRY_OK ? fy_tree_number(&r->tree, node) : status;
    }
    return FERRY_OK;
}

static ferry_status copy(struct reader *r, const struct fy_node *from, int depth,
                         struct fy_node **node_out)
{
    struct fy_node *node;
    ferry_status status = fy_tree_node(&r->tree, from->kind, from->line, from->column, &node);

    if (status != FERRY_OK)
        return status;
    node->key_line = from->key_line;
    node->key_column = from->key_column;
    node->number = from->number;
    node->boolean = from->boolean;
    if ((from->key && !(node->key = strdup(from->key))) ||
        (from->text && !(node->text = strdup(from->text))))
        status = fy_fail(FERRY_ENOMEM, "%s: out of memory", r->tree.name);
    if (status == FERRY_OK && depth > FY_TREE_MAX_DEPTH)
        status = fy_fail_at(&(struct fy_place){r->tree.name, from->line, from->column},
                            "nested deeper than %d", FY_TREE_MAX_DEPTH);
    for (const struct fy_node *child = from->child; status == FERRY_OK && child;
         child = child->next) {
        struct fy_node *twin;

        status = copy(r, child, depth + 1, &twin);
        if (status == FERRY_OK)
            status = fy_tree_add(&r->tree, node, twin);
    }
    if (status != FERRY_OK)
        fy_node_free(node);
    else
        *node_out = node;
    return status;
}

static ferry_status alias(struct reader *r, const yaml_event_t *event, int depth,
                          struct fy_node **node_out)
{
    const struct fy_place place = at(r, &event->start_mark);
    const char *name = (const char *)event->data.alias.anchor;

    for (size_t i = r->n_anchors; i-- > 0;) {
        ferry_status status;
        struct fy_node *node;

        if (strcmp(r->anchors[i].name, name) != 0)
            continue;
        if (!r->anchors[i].node)
            return fy_fail_at(&place, "*%.60s stands inside &%.60s itself", name, name);
        status = copy(r, r->anchors[i].node, depth, &node);
        if (status != FERRY_OK)
            return status;
        free(node->key);
        node->key = NULL;
        node->line = place.line;
        node->column = place.column;
        *node_out = node;
        return FERRY_OK;
    }
    return fy_fail_at(&place, "*%.60s names no anchor before it", name);
}

/* Remembers the anchor of a value that begins; *slot_out is NULL where there is none. */
static ferry_status begin_anchor(struct reader *r, const yaml_char_t *name,
                                 const struct fy_place *place, struct anchor **slot_out)
{
    *slot_out = NULL;
    if (!name)
        return FERRY_OK;
    if (r->n_anchors == MAX_ANCHORS)
        return fy_fail_at(place, "more than %d anchors", MAX_ANCHORS);
    *slot_out = &r->anchors[r->n_anchors];
    (*slot_out)->name = strdup((const char *)name);
    (*slot_out)->node = NULL;
    if (!(*slot_out)->name)
        return fy_fail(FERRY_ENOMEM, "%s: out of memory", r->tree.name);
    r->n_anchors++;
    return FERRY_OK;
}

static ferry_status value(struct reader *r, const yaml_event_t *event, int depth,
                          struct fy_node **node_out);

static ferry_status key_of(struct reader *r, const yaml_event_t *event, char **key,
                           struct fy_place *place)
{
    *place = at(r, &event->start_mark);
    if (event->type != YAML_SCALAR_EVENT)
        return fy_fail_at(place, "the name of a member is text");
    if (event->data.scalar.tag)
        return fy_fail_at(place, "tags (%.40s) are not allowed", event->data.scalar.tag);
    if (event->data.scalar.anchor)
        return fy_fail_at(place, "an anchor belongs before a value, not before a name");
    if (strlen((const char *)event->data.scalar.value) != event->data.scalar.length)
        return fy_fail_at(place, "a NUL in a name");
    if (strcmp((const char *)event->data.scalar.value, "<<") == 0)
        return fy_fail_at(place, "merge keys (<<) are not allowed; write the members out");
    *key = strdup((const char *)event->data.scalar.value);
    return *key ? FERRY_OK : fy_fail(FERRY_ENOMEM, "%s: out of memory", r->tree.name);
}

/* Members or elements up to the end event. */
static ferry_status members(struct reader *r, int depth, struct fy_node *parent)
{
    const int object = parent->kind == FY_NODE_OBJECT;

    for (;;) {
        struct fy_place place = {0};
        struct fy_node *node;
        ferry_status status;
        yaml_event_t event;
        char *key = NULL;

        status = next(r, &event);
        if (status != FERRY_OK)
            return status;
        if (event.type == YAML_MAPPING_END_EVENT || event.type == YAML_SEQUENCE_END_EVENT) {
            yaml_event_delete(&event);
            return FERRY_OK;
        }
        if (object) {
            status = key_of(r, &event, &key, &place);
            yaml_event_delete(&event);
            if (status == FERRY_OK)
                status = next(r, &event);
            if (status != FERRY_OK) {
                free(key);
                return status;
            }
        }
        status = value(r, &event, depth + 1, &node);
        yaml_event_delete(&event);
        if (status != FERRY_OK) {
            free(key);
            return status;
        }
        node->key = key;
        node->key_line = place.line;
        node->key_column = place.column;
        status = fy_tree_add(&r->tree, parent, node);
        if (status != FERRY_OK)
            return status;
    }
}

static ferry_status value(struct reader *r, const yaml_event_t *event, int depth,
                          struct fy_node **node_out)
{
    const struct fy_place place = at(r, &event->start_mark);
    const yaml_char_t *tag = NULL, *name = NULL;
    enum fy_node_kind kind = FY_NODE_TEXT;
    struct anchor *anchor;
    struct fy_node *node;
    ferry_status status;

    if (event->type == YAML_ALIAS_EVENT)
        return alias(r, event, depth, node_out);
    if (event->type == YAML_SCALAR_EVENT) {
        tag = event->data.scalar.tag;
        name = event->data.scalar.anchor;
    } else if (event->type == YAML_MAPPING_START_EVENT) {
        kind = FY_NODE_OBJECT;
        tag = event->data.mapping_start.tag;
        name = event->data.mapping_start.anchor;
    } else {
        kind = FY_NODE_LIST;
        tag = event->data.sequence_start.tag;
        name = event->data.sequence_start.anchor;
    }
    if (tag)
        return fy_fail_at(&place, "tags (%.40s) are not allowed", tag);
    if (depth > FY_TREE_MAX_DEPTH)
        return fy_fail_at(&place, "nested deeper than %d", FY_TREE_MAX_DEPTH);
    status = begin_anchor(r, name, &place, &anchor);
    if (status == FERRY_OK)
        status = fy_tree_node(&r->tree, kind, place.line, place.column, &node);
    if (status != FERRY_OK)
        return status;
    status = kind == FY_NODE_TEXT ? scalar(r, event, node) : members(r, depth, node);
    if (status != FERRY_OK) {
        fy_node_free(node);
        return status;
    }
    if (anchor)
        anchor->node = node;
    *node_out = node;
    return FERRY_OK;
}

/* Reads one event, which must be of that type. */
static ferry_status want(struct reader *r, yaml_event_type_t type, const char *otherwise)
{
    yaml_event_t event;
    ferry_status status = next(r, &event);

    if (status != FERRY_OK)
        return status;
    if (event.type != type) {
        struct fy_place place = at(r, &event.start_mark);

        status = fy_fail_at(&place, "%s", otherwise);
    }
    yaml_event_delete(&event);
    return status;
}

static ferry_status document(struct reader *r, struct fy_node **node_out)
{
    struct fy_node *node = NULL;
    ferry_status status;
    yaml_event_t event;

    status = want(r, YAML_STREAM_START_EVENT, "not YAML");
    if (status == FERRY_OK)
        status = want(r, YAML_DOCUMENT_START_EVENT, "there is nothing in this file");
    if (status == FERRY_OK)
        status = next(r, &event);
    if (status != FERRY_OK)
        return status;
    status = value(r, &event, 1, &node);
    yaml_event_delete(&event);
    if (status == FERRY_OK)
        status = want(r, YAML_DOCUMENT_END_EVENT, "not YAML");
    if (status == FERRY_OK)
        status = want(r, YAML_STREAM_END_EVENT,
                      "a second document begins here; a configuration is one");
    if (status != FERRY_OK)
        fy_node_free(node);
    else
        *node_out = node;
    return status;
}

ferry_status fy_tree_from_yaml(const char *text, size_t len, const char *name,
                               struct fy_node **node_out)
{
    struct reader *r = calloc(1, sizeof(*r));
    ferry_status status;

    if (!r)
        return fy_fail(FERRY_ENOMEM, "%s: out of memory", name);
    r->tree.name = name;
    r->text = text;
    r->len = len;
    if (!yaml_parser_initialize(&r->parser)) {
        free(r);
        return fy_fail(FERRY_ENOMEM, "%s: out of memory", name);
    }
    yaml_parser_set_encoding(&r->parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&r->parser, (const unsigned char *)text, len);
    status = document(r, node_out);
    yaml_parser_delete(&r->parser);
    for (size_t i = 0; i < r->n_anchors; i++)
        free(r->anchors[i].name);
    free(r);
    return status;
}
