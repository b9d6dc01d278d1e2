/* SPDX-License-Identifier: Apache-2.0 */
/*
 * JSON (RFC 8259, strictly) into a tree with places. cJSON, which the rest of the core uses,
 * keeps no line or column and lets through what is not JSON; a user who is told "line 5, column
 * 3" needs both. Knows no member's meaning.
 */
#include <stdlib.h>
#include <string.h>

#include "config_tree.h"
#include "error.h"
#include "util/buf.h"

struct reader {
    struct fy_tree tree;
    const char *at, *end;
    uint32_t line, column;
};

static void step(struct reader *r)
{
    if (*r->at == '\n') {
        r->line++;
        r->column = 1;
    } else if (r->at + 1 >= r->end || ((unsigned char)r->at[1] & 0xc0) != 0x80) {
        r->column++; /* columns count characters, not bytes */
    }
    r->at++;
}

static struct fy_place here(const struct reader *r)
{
    return (struct fy_place){r->tree.name, r->line, r->column};
}

/* What stands at the reader, for messages. */
static const char *found(const struct reader *r, char text[16])
{
    unsigned char c = r->at < r->end ? (unsigned char)*r->at : 0;

    if (r->at >= r->end)
        return "the end of the file";
    if (c == '\n')
        return "the end of the line";
    if (c < 0x20 || c >= 0x7f)
        return "an odd character";
    text[0] = text[2] = '\'';
    text[1] = (char)c;
    text[3] = 0;
    return text;
}

static ferry_status skip(struct reader *r)
{
    while (r->at < r->end && strchr(" \t\r\n", *r->at))
        step(r);
    if (r->at < r->end && (*r->at == '#' || *r->at == '/')) {
        struct fy_place place = here(r);

        return fy_fail_at(&place, "JSON has no comments; a YAML file (.yaml) may have them");
    }
    return FERRY_OK;
}

static int hex4(const struct reader *r, const char *at, uint32_t *out)
{
    uint32_t value = 0;

    if (r->end - at < 4)
        return 0;
    for (int i = 0; i < 4; i++) {
        char c = at[i];

        if (c >= '0' && c <= '9')
            value = value * 16 + (uint32_t)(c - '0');
        else if (c >= 'a' && c <= 'f')
            value = value * 16 + (uint32_t)(c - 'a' + 10);
        else if (c >= 'A' && c <= 'F')
            value = value * 16 + (uint32_t)(c - 'A' + 10);
        else
            return 0;
    }
    *out = value;
    return 1;
}

static ferry_status append_utf8(struct fy_buf *buf, uint32_t code)
{
    char utf8[4];
    size_t len;

    if (code < 0x80) {
        utf8[0] = (char)code;
        len = 1;
    } else if (code < 0x800) {
        utf8[0] = (char)(0xc0 | code >> 6);
        utf8[1] = (char)(0x80 | (code & 0x3f));
        len = 2;
    } else if (code < 0x10000) {
        utf8[0] = (char)(0xe0 | code >> 12);
        utf8[1] = (char)(0x80 | (code >> 6 & 0x3f));
        utf8[2] = (char)(0x80 | (code & 0x3f));
        len = 3;
    } else {
        utf8[0] = (char)(0xf0 | code >> 18);
        utf8[1] = (char)(0x80 | (code >> 12 & 0x3f));
        utf8[2] = (char)(0x80 | (code >> 6 & 0x3f));
        utf8[3] = (char)(0x80 | (code & 0x3f));
        len = 4;
    }
    return fy_buf_append(buf, utf8, len);
}

/* Bytes of the character at `at`; 0 = not UTF-8. */
static size_t utf8_len(const unsigned char *at, size_t room)
{
    size_t len = at[0] < 0x80                     ? 1
                 : at[0] >= 0xc2 && at[0] < 0xe0  ? 2
                 : at[0] >= 0xe0 && at[0] < 0xf0  ? 3
                 : at[0] >= 0xf0 && at[0] <= 0xf4 ? 4
                                                  : 0;

    if (!len || len > room)
        return 0;
    for (size_t i = 1; i < len; i++)
        if ((at[i] & 0xc0) != 0x80)
            return 0;
    if ((at[0] == 0xe0 && at[1] < 0xa0) || (at[0] == 0xed && at[1] >= 0xa0) ||
        (at[0] == 0xf0 && at[1] < 0x90) || (at[0] == 0xf4 && at[1] >= 0x90))
        return 0;
    return len;
}

/* After a backslash. */
static ferry_status read_escape(struct reader *r, struct fy_buf *buf)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    const struct fy_place place = here(r);
    const char *known;
    uint32_t code, low;
    int steps = 5;

    if (r->at >= r->end)
        return fy_fail_at(&place, "the file ends inside a string");
    known = strchr(from, *r->at);
    if (known) {
        step(r);
        return fy_buf_append(buf, &to[known - from], 1);
    }
    if (*r->at != 'u' || !hex4(r, r->at + 1, &code))
        return fy_fail_at(&place, "unknown escape in a string; there are \\\" \\\\ \\/ \\b \\f "
                                  "\\n \\r \\t and \\uXXXX");
    if (code >= 0xd800 && code < 0xdc00 && r->end - r->at > 7 && r->at[5] == '\\' &&
        r->at[6] == 'u' && hex4(r, r->at + 7, &low) && low >= 0xdc00 && low < 0xe000) {
        code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
        steps = 11;
    }
    if (code == 0 || (code >= 0xd800 && code < 0xe000))
        return fy_fail_at(&place, "\\u%04x is no character", code);
    while (steps--)
        step(r);
    return append_utf8(buf, code);
}

static ferry_status read_string(struct reader *r, char **out)
{
    const struct fy_place start = here(r);
    ferry_status status = FERRY_OK;
    struct fy_buf buf;

    fy_buf_init(&buf, 0);
    step(r);
    while (status == FERRY_OK) {
        const struct fy_place place = here(r);
        size_t len;

        if (r->at >= r->end) {
            status = fy_fail_at(&start, "this string never ends: a \" is missing");
        } else if (*r->at == '"') {
            step(r);
            break;
        } else if (*r->at == '\\') {
            step(r);
            status = read_escape(r, &buf);
        } else if (*r->at == '\n') {
            status =
                fy_fail_at(&start, "this string does not end in its line: a \" is missing");
        } else if ((unsigned char)*r->at < 0x20) {
            status = fy_fail_at(&place, "control character 0x%02x in a string",
                                (unsigned char)*r->at);
        } else if ((len = utf8_len((const unsigned char *)r->at, (size_t)(r->end - r->at))) ==
                   0) {
            status = fy_fail_at(&place, "this string is not UTF-8");
        } else {
            status = fy_buf_append(&buf, r->at, len);
            while (len--)
                step(r);
        }
    }
    if (status == FERRY_OK) {
        *out = fy_buf_take(&buf);
        if (!*out)
            status = fy_fail(FERRY_ENOMEM, "%s: out of memory", r->tree.name);
    }
    fy_buf_fini(&buf);
    return status;
}

static int digits(struct reader *r)
{
    int n = 0;

    for (; r->at < r->end && *r->at >= '0' && *r->at <= '9'; n++)
        step(r);
    return n;
}

static ferry_status read_number(struct reader *r, struct fy_node **node_out)
{
    const struct fy_place place = here(r);
    const char *start = r->at;
    struct fy_node *node;
    ferry_status status;
    int good, zero;

    if (*r->at == '-')
        step(r);
    zero = r->at < r->end && *r->at == '0';
    good = digits(r);
    good = zero ? good == 1 : good > 0;
    if (good && r->at < r->end && *r->at == '.') {
        step(r);
        good = digits(r);
    }
    if (good && r->at < r->end && (*r->at == 'e' || *r->at == 'E')) {
        step(r);
        if (r->at < r->end && (*r->at == '+' || *r->at == '-'))
            step(r);
        good = digits(r);
    }
    if (!good)
        return fy_fail_at(&place, "not a number as JSON writes them (12, -1.5, 2e9); what is "
                                  "no number goes into double quotes");
    status = fy_tree_node(&r->tree, FY_NODE_NUMBER, place.line, place.column, &node);
    if (status != FERRY_OK)
        return status;
    node->text = strndup(start, (size_t)(r->at - start));
    status = node->text ? fy_tree_number(&r->tree, node)
                        : fy_fail(FERRY_ENOMEM, "%s: out of memory", r->tree.name);
    if (status != FERRY_OK)
        fy_node_free(node);
    else
        *node_out = node;
    return status;
}

static ferry_status read_word(struct reader *r, struct fy_node **node_out)
{
    const struct fy_place place = here(r);
    const char *start = r->at;
    struct fy_node *node;
    ferry_status status;
    enum fy_node_kind kind = FY_NODE_BOOL;
    size_t len;
    char shown[16];

    while (r->at < r->end && ((*r->at >= 'a' && *r->at <= 'z') ||
                              (*r->at >= 'A' && *r->at <= 'Z') || *r->at == '_'))
        step(r);
    len = (size_t)(r->at - start);
    if (len == 0)
        return fy_fail_at(&place, "a value is missing here, found %s", found(r, shown));
    if (len == 4 && memcmp(start, "null", 4) == 0)
        kind = FY_NODE_NULL;
    else if (!(len == 4 && memcmp(start, "true", 4) == 0) &&
             !(len == 5 && memcmp(start, "false", 5) == 0))
        return fy_fail_at(&place,
                          "%.*s is no value: text goes into double quotes, and the words are "
                          "true, false and null",
                          len > 40 ? 40 : (int)len, start);
    status = fy_tree_node(&r->tree, kind, place.line, place.column, &node);
    if (status == FERRY_OK) {
        node->boolean = start[0] == 't';
        *node_out = node;
    }
    return status;
}

static ferry_status read_value(struct reader *r, int depth, struct fy_node **node_out);

/* The name and colon of a member; leaves the reader at the value. */
static ferry_status read_key(struct reader *r, struct fy_place *place, char **key)
{
    ferry_status status;
    char shown[16];

    *place = here(r);
    if (r->at < r->end && *r->at == '\'')
        return fy_fail_at(place, "JSON knows double quotes only");
    if (r->at >= r->end || *r->at != '"')
        return fy_fail_at(place, "expected the name of a member in double quotes, found %s",
                          found(r, shown));
    status = read_string(r, key);
    if (status == FERRY_OK)
        status = skip(r);
    if (status == FERRY_OK && (r->at >= r->end || *r->at != ':')) {
        const struct fy_place colon = here(r);

        status =
            fy_fail_at(&colon, "expected ':' after \"%.60s\", found %s", *key, found(r, shown));
    }
    if (status == FERRY_OK) {
        step(r);
        status = skip(r);
    }
    return status;
}

static ferry_status read_members(struct reader *r, int depth, struct fy_node *parent)
{
    const int object = parent->kind == FY_NODE_OBJECT;
    const char close = object ? '}' : ']';
    struct fy_place comma = {0};
    ferry_status status;
    char shown[16];

    step(r);
    status = skip(r);
    while (status == FERRY_OK && !(r->at < r->end && *r->at == close && !comma.line)) {
        struct fy_place key_place = {0};
        struct fy_node *node = NULL;
        char *key = NULL;

        if (comma.line && r->at < r->end && *r->at == close)
            return fy_fail_at(&comma, "a comma before '%c': JSON wants none after the last one",
                              close);
        if (object)
            status = read_key(r, &key_place, &key);
        if (status == FERRY_OK)
            status = read_value(r, depth + 1, &node);
        if (status != FERRY_OK) {
            free(key);
            return status;
        }
        node->key = key;
        node->key_line = key_place.line;
        node->key_column = key_place.column;
        status = fy_tree_add(&r->tree, parent, node);
        if (status == FERRY_OK)
            status = skip(r);
        comma = (struct fy_place){0};
        if (status == FERRY_OK && r->at < r->end && *r->at == ',') {
            comma = here(r);
            step(r);
            status = skip(r);
        } else if (status == FERRY_OK && (r->at >= r->end || *r->at != close)) {
            const struct fy_place place = here(r);

            status =
                fy_fail_at(&place, "expected ',' or '%c', found %s", close, found(r, shown));
        }
    }
    if (status == FERRY_OK)
        step(r);
    return status;
}

static ferry_status read_value(struct reader *r, int depth, struct fy_node **node_out)
{
    const struct fy_place place = here(r);
    struct fy_node *node;
    ferry_status status;
    char c;

    if (r->at >= r->end)
        return fy_fail_at(&place, "the file ends where a value is expected");
    if (depth > FY_TREE_MAX_DEPTH)
        return fy_fail_at(&place, "nested deeper than %d", FY_TREE_MAX_DEPTH);
    c = *r->at;
    if (c == '-' || (c >= '0' && c <= '9'))
        return read_number(r, node_out);
    if (c == '\'')
        return fy_fail_at(&place, "JSON knows double quotes only");
    if (c != '"' && c != '{' && c != '[')
        return read_word(r, node_out);

    status = fy_tree_node(&r->tree,
                          c == '"'   ? FY_NODE_TEXT
                          : c == '{' ? FY_NODE_OBJECT
                                     : FY_NODE_LIST,
                          place.line, place.column, &node);
    if (status != FERRY_OK)
        return status;
    status = c == '"' ? read_string(r, &node->text) : read_members(r, depth, node);
    if (status != FERRY_OK)
        fy_node_free(node);
    else
        *node_out = node;
    return status;
}

ferry_status fy_tree_from_json(const char *text, size_t len, const char *name,
                               struct fy_node **node_out)
{
    struct reader r = {
        .tree = {.name = name}, .at = text, .end = text + len, .line = 1, .column = 1};
    struct fy_node *node = NULL;
    ferry_status status;

    if (len >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0)
        r.at += 3;
    status = skip(&r);
    if (status == FERRY_OK)
        status = read_value(&r, 1, &node);
    if (status == FERRY_OK)
        status = skip(&r);
    if (status == FERRY_OK && r.at < r.end) {
        const struct fy_place place = here(&r);

        status = fy_fail_at(&place, "more text after the end of the document");
    }
    if (status != FERRY_OK) {
        fy_node_free(node);
        return status;
    }
    *node_out = node;
    return FERRY_OK;
}
