/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "util/buf.h"
#include "util/kv.h"

static void grows_and_keeps_a_nul(void **state)
{
    struct fy_buf buf;

    fy_buf_init(&buf, 0);
    for (int i = 0; i < 1000; i++)
        assert_int_equal(fy_buf_printf(&buf, "%03d,", i), FERRY_OK);
    assert_int_equal(buf.len, 4000);
    assert_string_equal(buf.data + 3996, "999,");
    fy_buf_fini(&buf);
    assert_null(buf.data);
}

static void refuses_beyond_its_limit(void **state)
{
    struct fy_buf buf;

    fy_buf_init(&buf, 10);
    assert_int_equal(fy_buf_append(&buf, "12345678", 8), FERRY_OK);
    assert_int_equal(fy_buf_append(&buf, "abc", 3), FERRY_ERANGE);
    assert_int_equal(buf.len, 8);
    assert_int_equal(buf.sink.append(&buf.sink, "ab", 2), FERRY_OK);
    assert_string_equal(buf.data, "12345678ab");
    fy_buf_fini(&buf);
}

static void take_gives_an_empty_string(void **state)
{
    struct fy_buf buf;
    char *text;

    fy_buf_init(&buf, 0);
    text = fy_buf_take(&buf);
    assert_string_equal(text, "");
    free(text);
}

static void a_key_put_again_replaces(void **state)
{
    struct fy_kv kv;

    fy_kv_init(&kv);
    assert_int_equal(fy_kv_put_text(&kv, "port", "1"), FERRY_OK);
    assert_int_equal(fy_kv_put(&kv, "key", "a\0b", 3, 0), FERRY_OK);
    assert_int_equal(fy_kv_put_text(&kv, "port", "22"), FERRY_OK);
    assert_int_equal(kv.kvs.n, 2);
    assert_string_equal(fy_kv_text(&kv.kvs, "port", "-"), "22");
    assert_string_equal(fy_kv_text(&kv.kvs, "nothing", "-"), "-");
    assert_int_equal(fy_kv_get(&kv.kvs, "key")->val_len, 3);
    assert_memory_equal(fy_kv_get(&kv.kvs, "key")->val, "a\0b", 3);
    fy_kv_fini(&kv);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(grows_and_keeps_a_nul),
        cmocka_unit_test(refuses_beyond_its_limit),
        cmocka_unit_test(take_gives_an_empty_string),
        cmocka_unit_test(a_key_put_again_replaces),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
