/* SPDX-License-Identifier: Apache-2.0 */
/* The JSON reader: whatever it accepts can be walked, decoded, compacted and read again. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "util/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(int promise)
{
    if (!promise)
        abort();
}

static void walk_string(const struct fy_json *string)
{
    struct fy_buf plain, text;
    struct fy_json again;

    fy_buf_init(&plain, 0);
    fy_buf_init(&text, 0);
    check(fy_json_string(string, &plain) == FERRY_OK);
    check(fy_json_put_string(&text, plain.data, plain.len) == FERRY_OK);
    check(fy_json_read(text.data, text.len, &again) == FERRY_OK);
    if (strlen(plain.data) == plain.len)
        check(fy_json_is(string, plain.data) && fy_json_is(&again, plain.data));
    fy_buf_fini(&plain);
    fy_buf_fini(&text);
}

static size_t walk(const struct fy_json *json)
{
    struct fy_json_iter iter;
    struct fy_json key, value;
    uint64_t number;
    size_t n = 1;

    if (json->type == FY_JSON_STRING)
        walk_string(json);
    if (json->type == FY_JSON_NUMBER)
        (void)fy_json_u64(json, &number);
    if (json->type != FY_JSON_ARRAY && json->type != FY_JSON_OBJECT)
        return n;
    fy_json_enter(json, &iter);
    while (fy_json_next(&iter, &key, &value)) {
        if (json->type == FY_JSON_OBJECT)
            walk_string(&key);
        n += walk(&value);
    }
    return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fy_json json, again;
    struct fy_buf compact;
    size_t n;

    if (fy_json_read((const char *)data, size, &json))
        return 0;
    n = walk(&json);
    fy_buf_init(&compact, 0);
    check(fy_json_compact(&json, &compact) == FERRY_OK);
    check(fy_json_read(compact.data, compact.len, &again) == FERRY_OK);
    check(again.type == json.type && again.len == compact.len && walk(&again) == n);
    fy_buf_fini(&compact);
    return 0;
}
