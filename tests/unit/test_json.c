/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "ferry/ferry.h"
#include "util/json.h"

static struct fy_json reading(const char *text)
{
    struct fy_json json = {0};

    assert_int_equal(fy_json_read(text, strlen(text), &json), FERRY_OK);
    return json;
}

/* On the heap and without a NUL, so that the address sanitizer sees a step too far. */
static ferry_status read_exact(const char *text, size_t len)
{
    char *copy = malloc(len + !len);
    struct fy_json json;
    ferry_status status;

    assert_non_null(copy);
    memcpy(copy, text, len);
    status = fy_json_read(copy, len, &json);
    free(copy);
    return status;
}

static void good_documents_are_read_and_every_cut_of_them_is_not(void **state)
{
    static const char text[] = "{\"a\" : [1, -2.5e+3, true, false, null, \"\\u00e9\\n\"], "
                               "\"b\": {\"\": {}, \"c\":[]}}";

    assert_int_equal(read_exact(text, sizeof(text) - 1), FERRY_OK);
    for (size_t len = 0; len < sizeof(text) - 1; len++)
        assert_int_equal(read_exact(text, len), FERRY_EINVAL);
    assert_int_equal(read_exact("\xef\xbb\xbf{} \n\0\0", 9), FERRY_OK);
}

static void what_is_wrong_is_named_with_its_place(void **state)
{
    static const struct {
        const char *text, *why;
    } wrong[] = {
        {"", "byte 0 of 0: ends too early"},
        {"[1,]", "byte 3 of 4: a value is wanted"},
        {"[1 2]", "byte 3 of 5: ',' or ']' is wanted"},
        {"{\"a\":1,}", "byte 7 of 8: a member's name is wanted"},
        {"{\"a\" 1}", "byte 5 of 7: ':' is wanted"},
        {"{\"a\":1]", "byte 6 of 7: ',' or '}' is wanted"},
        {"{} x", "byte 3 of 4: nothing may follow"},
        {"01", "malformed number"},
        {"-", "malformed number"},
        {"1.", "malformed number"},
        {"1e", "malformed number"},
        {"nul", "no such word"},
        {"\"\\x\"", "unknown escape"},
        {"\"\\u12g4\"", "four hexadecimal digits"},
        {"\"a\nb\"", "control character"},
        {"\"\xff\"", "not UTF-8"},
        {"\"\xc0\x80\"", "not UTF-8"},
        {"\"\xed\xa0\x80\"", "not UTF-8"},
        {"\"\xf4\x90\x80\x80\"", "not UTF-8"},
        {"/* */ {}", "a value is wanted"},
        {"'a'", "a value is wanted"},
    };

    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        assert_int_equal(read_exact(wrong[i].text, strlen(wrong[i].text)), FERRY_EINVAL);
        assert_non_null(strstr(ferry_error(), wrong[i].why));
    }
}

static void nesting_has_a_limit(void **state)
{
    char text[2 * FY_JSON_DEPTH + 4];

    memset(text, '[', FY_JSON_DEPTH);
    memset(text + FY_JSON_DEPTH, ']', FY_JSON_DEPTH);
    assert_int_equal(read_exact(text, 2 * FY_JSON_DEPTH), FERRY_OK);
    memset(text, '[', FY_JSON_DEPTH + 1);
    memset(text + FY_JSON_DEPTH + 1, ']', FY_JSON_DEPTH + 1);
    assert_int_equal(read_exact(text, 2 * FY_JSON_DEPTH + 2), FERRY_EINVAL);
    assert_non_null(strstr(ferry_error(), "nested too deeply"));
}

static void members_come_in_order_with_duplicates(void **state)
{
    struct fy_json json =
        reading(" { \"a\" : 1 , \"b\\u0062\" : [ true , {} ] , \"a\" : null } ");
    struct fy_json key, value, inner;
    struct fy_json_iter iter, items;

    fy_json_enter(&json, &iter);
    assert_int_equal(fy_json_next(&iter, &key, &value), 1);
    assert_true(fy_json_is(&key, "a"));
    assert_int_equal(value.type, FY_JSON_NUMBER);
    assert_int_equal(fy_json_next(&iter, &key, &value), 1);
    assert_true(fy_json_is(&key, "bb"));
    assert_false(fy_json_is(&key, "b"));
    assert_false(fy_json_is(&key, "bbb"));
    fy_json_enter(&value, &items);
    assert_int_equal(fy_json_next(&items, &key, &inner), 1);
    assert_int_equal(inner.type, FY_JSON_TRUE);
    assert_int_equal(fy_json_next(&items, &key, &inner), 1);
    assert_int_equal(inner.type, FY_JSON_OBJECT);
    assert_int_equal(fy_json_next(&items, &key, &inner), 0);
    assert_int_equal(fy_json_next(&iter, &key, &value), 1);
    assert_int_equal(value.type, FY_JSON_NULL);
    assert_int_equal(fy_json_next(&iter, &key, &value), 0);
}

static void numbers_are_exact(void **state)
{
    static const struct {
        const char *text;
        uint64_t value;
    } good[] = {
        {"0", 0},
        {"18446744073709551615", UINT64_MAX},
        {"9007199254740993", 9007199254740993u},
        {"1e15", 1000000000000000u},
        {"1E+0", 1},
        {"5.0", 5},
        {"10e-1", 1},
        {"1.25e2", 125},
        {"0.0e99999999999", 0},
        {"1844674407370955161500e-2", 18446744073709551615u},
    };
    static const char *const bad[] = {"18446744073709551616",
                                      "-1",
                                      "-0",
                                      "0.5",
                                      "1e-1",
                                      "1e20",
                                      "1e999999",
                                      "15e-1",
                                      "1.00000000000000001",
                                      "1e-999",
                                      "99999999999999999999"};

    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        struct fy_json json = reading(good[i].text);
        uint64_t value = 7;

        assert_int_equal(fy_json_u64(&json, &value), FERRY_OK);
        assert_true(value == good[i].value);
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct fy_json json = reading(bad[i]);
        uint64_t value = 7;

        assert_int_equal(fy_json_u64(&json, &value), FERRY_EINVAL);
        assert_int_equal(value, 7);
    }
}

static void strings_are_decoded_and_written(void **state)
{
    static const struct {
        const char *text, *plain;
        size_t len;
    } good[] = {
        {"\"\"", "", 0},
        {"\"a\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "a\"\\/\b\f\n\r\t", 9},
        {"\"\\u00e9\\u20ac\"", "\xc3\xa9\xe2\x82\xac", 5},
        {"\"\\ud83d\\ude00\"", "\xf0\x9f\x98\x80", 4},
        {"\"\\ud83dx\"", "\xef\xbf\xbdx", 4},
        {"\"\\ude00\"", "\xef\xbf\xbd", 3},
        {"\"\\ud83d\\u0041\"", "\xef\xbf\xbd\x41", 4},
        {"\"a\\u0000b\"", "a\0b", 3},
    };

    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        struct fy_json json = reading(good[i].text);
        struct fy_buf plain, text, again;

        fy_buf_init(&plain, 0);
        fy_buf_init(&text, 0);
        fy_buf_init(&again, 0);
        assert_int_equal(fy_json_string(&json, &plain), FERRY_OK);
        assert_int_equal(plain.len, good[i].len);
        assert_memory_equal(plain.data, good[i].plain, good[i].len);
        assert_int_equal(fy_json_put_string(&text, plain.data, plain.len), FERRY_OK);
        json = reading(text.data);
        assert_int_equal(fy_json_string(&json, &again), FERRY_OK);
        assert_int_equal(again.len, plain.len);
        assert_memory_equal(again.data, plain.data, plain.len);
        fy_buf_fini(&plain);
        fy_buf_fini(&text);
        fy_buf_fini(&again);
    }
}

static void what_is_not_utf8_is_not_written(void **state)
{
    struct fy_buf buf;

    fy_buf_init(&buf, 0);
    assert_int_equal(fy_json_put_string(&buf, "a\xe2\x82", 3), FERRY_EINVAL);
    fy_buf_fini(&buf);
    assert_int_equal(fy_json_put_string(&buf, "\x01\x1f/\xc3\xa9", 5), FERRY_OK);
    assert_string_equal(buf.data, "\"\\u0001\\u001f/\xc3\xa9\"");
    fy_buf_fini(&buf);
    assert_int_equal(fy_json_put_u64(&buf, 0), FERRY_OK);
    assert_int_equal(fy_json_put_u64(&buf, UINT64_MAX), FERRY_OK);
    assert_string_equal(buf.data, "018446744073709551615");
    fy_buf_fini(&buf);
}

static void compacting_leaves_strings_alone(void **state)
{
    struct fy_json json = reading(" [ 1 ,\n { \"a b\\\" \" : \" c \" } , [ ] ] \n");
    struct fy_buf buf;

    fy_buf_init(&buf, 0);
    assert_int_equal(fy_json_compact(&json, &buf), FERRY_OK);
    assert_string_equal(buf.data, "[1,{\"a b\\\" \":\" c \"},[]]");
    fy_buf_fini(&buf);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_documents_are_read_and_every_cut_of_them_is_not),
        cmocka_unit_test(what_is_wrong_is_named_with_its_place),
        cmocka_unit_test(nesting_has_a_limit),
        cmocka_unit_test(members_come_in_order_with_duplicates),
        cmocka_unit_test(numbers_are_exact),
        cmocka_unit_test(strings_are_decoded_and_written),
        cmocka_unit_test(what_is_not_utf8_is_not_written),
        cmocka_unit_test(compacting_leaves_strings_alone),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
