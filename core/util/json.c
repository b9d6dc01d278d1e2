/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A JSON reader that works on the text itself, and what is needed to write JSON. Knows nothing
 * of what documents mean. Everything it is given may come from anybody.
 */
#include "util/json.h"

#include <string.h>

#include "error.h"

/* Where reading stands; `wrong` says what was met first that cannot be. */
struct scan {
    const char *at, *end;
    const char *wrong;
};

static int is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static void skip_space(struct scan *scan)
{
    while (scan->at < scan->end && is_space(*scan->at))
        scan->at++;
}

static int fail(struct scan *scan, const char *wrong)
{
    scan->wrong = wrong;
    return 0;
}

/* Length of the UTF-8 character at `s`, 0 = none. */
static size_t utf8_len(const char *s, const char *end)
{
    const uint8_t *c = (const uint8_t *)s;
    size_t room = (size_t)(end - s), len;

    if (c[0] < 0x80)
        return 1;
    len = c[0] >= 0xc2 && c[0] < 0xe0 ? 2 : (c[0] & 0xf0) == 0xe0 ? 3 : 4;
    if (c[0] < 0xc2 || c[0] > 0xf4 || len > room)
        return 0;
    for (size_t i = 1; i < len; i++) {
        if ((c[i] & 0xc0) != 0x80)
            return 0;
    }
    if ((c[0] == 0xe0 && c[1] < 0xa0) || (c[0] == 0xed && c[1] > 0x9f) ||
        (c[0] == 0xf0 && c[1] < 0x90) || (c[0] == 0xf4 && c[1] > 0x8f))
        return 0;
    return len;
}

static int hex4(const char *s, const char *end, uint32_t *value_out)
{
    uint32_t value = 0;

    if (end - s < 4)
        return 0;
    for (int i = 0; i < 4; i++) {
        char c = s[i];
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;

        if (digit < 0)
            return 0;
        value = value << 4 | (uint32_t)digit;
    }
    *value_out = value;
    return 1;
}

static int read_string(struct scan *scan)
{
    uint32_t ignored;

    scan->at++;
    while (scan->at < scan->end && *scan->at != '"') {
        size_t len = utf8_len(scan->at, scan->end);

        if ((uint8_t)*scan->at < 0x20)
            return fail(scan, "control character in a string");
        if (!len)
            return fail(scan, "not UTF-8");
        if (*scan->at == '\\') {
            if (scan->end - scan->at < 2 || !memchr("\"\\/bfnrtu", scan->at[1], 9))
                return fail(scan, "unknown escape");
            len = 2;
            if (scan->at[1] == 'u') {
                if (!hex4(scan->at + 2, scan->end, &ignored))
                    return fail(scan, "\\u needs four hexadecimal digits");
                len = 6;
            }
        }
        scan->at += len;
    }
    if (scan->at == scan->end)
        return fail(scan, "string without an end");
    scan->at++;
    return 1;
}

static size_t digits(struct scan *scan)
{
    const char *start = scan->at;

    while (scan->at < scan->end && *scan->at >= '0' && *scan->at <= '9')
        scan->at++;
    return (size_t)(scan->at - start);
}

static int read_number(struct scan *scan)
{
    const char *first;
    size_t n;

    if (*scan->at == '-')
        scan->at++;
    first = scan->at;
    n = digits(scan);
    if (!n || (n > 1 && *first == '0'))
        return fail(scan, "malformed number");
    if (scan->at < scan->end && *scan->at == '.') {
        scan->at++;
        if (!digits(scan))
            return fail(scan, "malformed number");
    }
    if (scan->at < scan->end && (*scan->at == 'e' || *scan->at == 'E')) {
        scan->at++;
        if (scan->at < scan->end && (*scan->at == '+' || *scan->at == '-'))
            scan->at++;
        if (!digits(scan))
            return fail(scan, "malformed number");
    }
    return 1;
}

static int read_word(struct scan *scan, const char *word)
{
    size_t len = strlen(word);

    if ((size_t)(scan->end - scan->at) < len || memcmp(scan->at, word, len) != 0)
        return fail(scan, "no such word");
    scan->at += len;
    return 1;
}

static int read_value(struct scan *scan, int depth, struct fy_json *json_out);

static int read_list(struct scan *scan, int depth, char close)
{
    struct fy_json ignored;

    if (depth == FY_JSON_DEPTH)
        return fail(scan, "nested too deeply");
    scan->at++;
    skip_space(scan);
    if (scan->at < scan->end && *scan->at == close) {
        scan->at++;
        return 1;
    }
    for (;;) {
        if (close == '}') {
            skip_space(scan);
            if (scan->at == scan->end || *scan->at != '"')
                return fail(scan, "a member's name is wanted");
            if (!read_string(scan))
                return 0;
            skip_space(scan);
            if (scan->at == scan->end || *scan->at != ':')
                return fail(scan, "':' is wanted");
            scan->at++;
        }
        if (!read_value(scan, depth + 1, &ignored))
            return 0;
        skip_space(scan);
        if (scan->at == scan->end)
            return fail(scan, "ends too early");
        if (*scan->at == close) {
            scan->at++;
            return 1;
        }
        if (*scan->at != ',')
            return fail(scan, close == '}' ? "',' or '}' is wanted" : "',' or ']' is wanted");
        scan->at++;
    }
}

static int read_value(struct scan *scan, int depth, struct fy_json *json_out)
{
    const char *start;
    enum fy_json_type type;
    int ok;

    skip_space(scan);
    if (scan->at == scan->end)
        return fail(scan, "ends too early");
    start = scan->at;
    switch (*start) {
    case '{':
        type = FY_JSON_OBJECT;
        ok = read_list(scan, depth, '}');
        break;
    case '[':
        type = FY_JSON_ARRAY;
        ok = read_list(scan, depth, ']');
        break;
    case '"':
        type = FY_JSON_STRING;
        ok = read_string(scan);
        break;
    case 't':
        type = FY_JSON_TRUE;
        ok = read_word(scan, "true");
        break;
    case 'f':
        type = FY_JSON_FALSE;
        ok = read_word(scan, "false");
        break;
    case 'n':
        type = FY_JSON_NULL;
        ok = read_word(scan, "null");
        break;
    default:
        type = FY_JSON_NUMBER;
        ok = *start == '-' || (*start >= '0' && *start <= '9')
                 ? read_number(scan)
                 : fail(scan, "a value is wanted");
    }
    if (ok)
        *json_out = (struct fy_json){type, start, (size_t)(scan->at - start)};
    return ok;
}

ferry_status fy_json_read(const char *text, size_t len, struct fy_json *json_out)
{
    struct scan scan = {text, text + len, NULL};
    struct fy_json json;

    if (len >= 3 && !memcmp(text, "\xef\xbb\xbf", 3))
        scan.at += 3;
    if (read_value(&scan, 0, &json)) {
        while (scan.at < scan.end && (is_space(*scan.at) || !*scan.at))
            scan.at++;
        if (scan.at < scan.end)
            scan.wrong = "nothing may follow";
    }
    if (scan.wrong)
        return fy_fail(FERRY_EINVAL, "malformed JSON at byte %zu of %zu: %s",
                       (size_t)(scan.at - text), len, scan.wrong);
    *json_out = json;
    return FERRY_OK;
}

void fy_json_enter(const struct fy_json *json, struct fy_json_iter *iter)
{
    iter->at = json->text + 1;
    iter->end = json->text + json->len - 1;
    iter->is_object = json->type == FY_JSON_OBJECT;
}

/* The text was checked when its outermost value was read; nesting is counted anew. */
int fy_json_next(struct fy_json_iter *iter, struct fy_json *key, struct fy_json *value)
{
    struct scan scan = {iter->at, iter->end, NULL};

    skip_space(&scan);
    if (scan.at < scan.end && *scan.at == ',')
        scan.at++;
    skip_space(&scan);
    if (scan.at == scan.end)
        return 0;
    if (iter->is_object) {
        const char *start = scan.at;

        if (!read_string(&scan))
            return 0;
        *key = (struct fy_json){FY_JSON_STRING, start, (size_t)(scan.at - start)};
        skip_space(&scan);
        scan.at++;
    }
    if (!read_value(&scan, 0, value))
        return 0;
    iter->at = scan.at;
    return 1;
}

static size_t utf8_put(uint32_t code, char *out)
{
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    if (code < 0x800) {
        out[0] = (char)(0xc0 | code >> 6);
        out[1] = (char)(0x80 | (code & 63));
        return 2;
    }
    if (code < 0x10000) {
        out[0] = (char)(0xe0 | code >> 12);
        out[1] = (char)(0x80 | (code >> 6 & 63));
        out[2] = (char)(0x80 | (code & 63));
        return 3;
    }
    out[0] = (char)(0xf0 | code >> 18);
    out[1] = (char)(0x80 | (code >> 12 & 63));
    out[2] = (char)(0x80 | (code >> 6 & 63));
    out[3] = (char)(0x80 | (code & 63));
    return 4;
}

/* What the escape at `at` (a backslash) stands for; returns the length of its text. */
static size_t unescape(const char *at, const char *end, char *out, size_t *out_len)
{
    static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    uint32_t code, low;
    size_t len = 6;

    if (at[1] != 'u') {
        out[0] = values[strchr(names, at[1]) - names];
        *out_len = 1;
        return 2;
    }
    (void)hex4(at + 2, end, &code);
    if (code >= 0xd800 && code < 0xe000) {
        if (code < 0xdc00 && end - at >= 12 && at[6] == '\\' && at[7] == 'u' &&
            hex4(at + 8, end, &low) && low >= 0xdc00 && low < 0xe000) {
            code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
            len = 12;
        } else {
            code = 0xfffd;
        }
    }
    *out_len = utf8_put(code, out);
    return len;
}

ferry_status fy_json_string(const struct fy_json *string, struct fy_buf *out)
{
    const char *at = string->text + 1, *end = string->text + string->len - 1;

    while (at < end) {
        const char *escape = memchr(at, '\\', (size_t)(end - at));
        ferry_status status = fy_buf_append(out, at, (size_t)((escape ? escape : end) - at));
        char plain[4];
        size_t len;

        if (status || !escape)
            return status;
        at = escape + unescape(escape, end, plain, &len);
        status = fy_buf_append(out, plain, len);
        if (status)
            return status;
    }
    return fy_buf_append(out, "", 0);
}

int fy_json_is(const struct fy_json *string, const char *text)
{
    const char *at = string->text + 1, *end = string->text + string->len - 1;

    while (at < end) {
        char plain[4] = {*at};
        size_t len = 1;

        at += *at == '\\' ? unescape(at, end, plain, &len) : 1;
        if (strncmp(text, plain, len) != 0 || !*text)
            return 0;
        text += len;
    }
    return !*text;
}

ferry_status fy_json_u64(const struct fy_json *number, uint64_t *value_out)
{
    const char *at = number->text, *end = number->text + number->len;
    /* Zeros are counted and multiplied in late, so that "10e-1" and "1.0" are whole. */
    int64_t exponent = 0, sign = 1, written = 0, zeros = 0;
    uint64_t value = 0;
    int seen_point = 0;

    if (*at == '-')
        return FERRY_EINVAL;

    for (; at < end && *at != 'e' && *at != 'E'; at++) {
        if (*at == '.') {
            seen_point = 1;
            continue;
        }
        exponent -= seen_point;
        if (*at == '0') {
            zeros += value != 0;
            continue;
        }
        for (; zeros >= 0; zeros--) {
            if (value > UINT64_MAX / 10)
                return FERRY_EINVAL;
            value *= 10;
        }
        zeros = 0;
        if (value > UINT64_MAX - (uint64_t)(*at - '0'))
            return FERRY_EINVAL;
        value += (uint64_t)(*at - '0');
    }
    for (at += at < end; at < end; at++) {
        if (*at == '-')
            sign = -1;
        else if (*at != '+' && written < 1000000000)
            written = written * 10 + (*at - '0');
    }
    if (!value) {
        *value_out = 0;
        return FERRY_OK;
    }
    /* zeros + exponent: what is left to multiply by, as a power of ten. */
    exponent += zeros + sign * written;
    if (exponent < 0)
        return FERRY_EINVAL;
    for (; exponent > 0; exponent--) {
        if (value > UINT64_MAX / 10)
            return FERRY_EINVAL;
        value *= 10;
    }
    *value_out = value;
    return FERRY_OK;
}

ferry_status fy_json_compact(const struct fy_json *json, struct fy_buf *out)
{
    const char *at = json->text, *end = json->text + json->len;
    const char *start = at;
    ferry_status status = FERRY_OK;

    while (at < end && !status) {
        if (*at == '"') {
            struct scan scan = {at, end, NULL};

            (void)read_string(&scan);
            at = scan.at;
        } else if (is_space(*at)) {
            status = fy_buf_append(out, start, (size_t)(at - start));
            start = ++at;
        } else {
            at++;
        }
    }
    return status ? status : fy_buf_append(out, start, (size_t)(at - start));
}

ferry_status fy_json_put_string(struct fy_buf *out, const char *text, size_t len)
{
    static const char hex[] = "0123456789abcdef";
    const char *at = text, *end = text + len, *start = text;
    ferry_status status = fy_buf_append(out, "\"", 1);

    while (at < end && !status) {
        size_t one = utf8_len(at, end);
        uint8_t c = (uint8_t)*at;
        char escape[6] = {'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15]};
        size_t escape_len = sizeof(escape);

        if (!one)
            return FERRY_EINVAL;
        if (c >= 0x20 && c != '"' && c != '\\') {
            at += one;
            continue;
        }
        if (c >= 0x20 || c == '\n') {
            escape[1] = c == '\n' ? 'n' : (char)c;
            escape_len = 2;
        }
        status = fy_buf_append(out, start, (size_t)(at - start));
        if (!status)
            status = fy_buf_append(out, escape, escape_len);
        start = ++at;
    }
    if (!status)
        status = fy_buf_append(out, start, (size_t)(at - start));
    return status ? status : fy_buf_append(out, "\"", 1);
}

ferry_status fy_json_put_u64(struct fy_buf *out, uint64_t value)
{
    char text[20];
    size_t at = sizeof(text);

    do
        text[--at] = (char)('0' + value % 10);
    while (value /= 10);
    return fy_buf_append(out, text + at, sizeof(text) - at);
}
