/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "util/base64.h"

/* RFC 4648, section 10, and all the alphabet. */
static const struct {
    const char *bytes;
    size_t len;
    const char *text;
} vectors[] = {
    {"", 0, ""},
    {"f", 1, "Zg=="},
    {"fo", 2, "Zm8="},
    {"foo", 3, "Zm9v"},
    {"foob", 4, "Zm9vYg=="},
    {"fooba", 5, "Zm9vYmE="},
    {"foobar", 6, "Zm9vYmFy"},
    {"\xfb\xff\xbf\0", 4, "+/+/AA=="},
};

static void vectors_go_both_ways(void **state)
{
    for (size_t i = 0; i < sizeof(vectors) / sizeof(vectors[0]); i++) {
        struct fy_buf buf;

        fy_buf_init(&buf, 0);
        assert_int_equal(fy_buf_append(&buf, "<", 1), FERRY_OK);
        assert_int_equal(fy_base64_encode(vectors[i].bytes, vectors[i].len, &buf), FERRY_OK);
        assert_string_equal(buf.data + 1, vectors[i].text);
        buf.len = 1;
        assert_int_equal(fy_base64_decode(vectors[i].text, strlen(vectors[i].text), &buf),
                         FERRY_OK);
        assert_int_equal(buf.len, vectors[i].len + 1);
        assert_memory_equal(buf.data + 1, vectors[i].bytes, vectors[i].len);
        fy_buf_fini(&buf);
    }
}

static void anything_else_is_refused(void **state)
{
    static const char *const wrong[] = {
        "Z",    "Zg",   "Zg=",  "Zg==Zg==", "Zh==", "Zm9=",     "Zm9v\n",
        "Zm 9", "====", "A===", "=AAA",     "A=A=", "Zm9vZm9*", "Zm9-"};

    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        struct fy_buf buf;

        fy_buf_init(&buf, 0);
        assert_int_equal(fy_buf_append(&buf, "before", 6), FERRY_OK);
        assert_int_equal(fy_base64_decode(wrong[i], strlen(wrong[i]), &buf), FERRY_EINVAL);
        assert_string_equal(buf.data, "before");
        assert_int_equal(buf.len, 6);
        fy_buf_fini(&buf);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(vectors_go_both_ways),
        cmocka_unit_test(anything_else_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
