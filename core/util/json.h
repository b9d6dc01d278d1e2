/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FY_JSON_H
#define FY_JSON_H

#include "util/buf.h"

/*
 * Reads JSON in place, for large or exact documents: nothing is allocated, numbers keep their
 * text (cJSON rounds them to doubles), parts can be kept as text. RFC 8259; nesting is limited
 * to FY_JSON_DEPTH. Configuration files, which people write, are cJSON's.
 */
#define FY_JSON_DEPTH 64

enum fy_json_type {
    FY_JSON_NULL,
    FY_JSON_FALSE,
    FY_JSON_TRUE,
    FY_JSON_NUMBER,
    FY_JSON_STRING,
    FY_JSON_ARRAY,
    FY_JSON_OBJECT,
};

/* A value that was checked to its end; its text as it stands, borrowed. */
struct fy_json {
    enum fy_json_type type;
    const char *text;
    size_t len;
};

/* The one value in the text: white space and NUL bytes may follow, a byte order mark may go
 * before. FERRY_EINVAL: the error text gives the byte and what is wrong there. */
ferry_status fy_json_read(const char *text, size_t len, struct fy_json *json_out);

/* Walks the items of an array or the members of an object, in their order, duplicates too. */
struct fy_json_iter {
    const char *at, *end;
    int is_object;
};
void fy_json_enter(const struct fy_json *json, struct fy_json_iter *iter);
/* 0 at the end. `key` (a string) is written for members only. */
int fy_json_next(struct fy_json_iter *iter, struct fy_json *key, struct fy_json *value);

/* Is the key of a member exactly this? (Escapes are understood.) */
int fy_json_is(const struct fy_json *string, const char *text);
/* Appends the characters of a string, as UTF-8; half surrogate pairs become U+FFFD. */
ferry_status fy_json_string(const struct fy_json *string, struct fy_buf *out);
/* Exact. FERRY_EINVAL: negative, not whole or too large. "1e3" and "5.0" are whole. */
ferry_status fy_json_u64(const struct fy_json *number, uint64_t *value_out);
/* Appends the text without white space between tokens. */
ferry_status fy_json_compact(const struct fy_json *json, struct fy_buf *out);

/* Appends `text` as a JSON string. FERRY_EINVAL: it is not UTF-8. */
ferry_status fy_json_put_string(struct fy_buf *out, const char *text, size_t len);
ferry_status fy_json_put_u64(struct fy_buf *out, uint64_t value);

#endif /* FY_JSON_H */
