/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The files in tests/data/config, one for each rule, held against "expected" beside them: what
 * is logged and what becomes of the values, word for word, places included. `test_config_files
 * DIR FILE [ROLE]` prints what it finds in that form.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cjson/cJSON.h>
#include <cmocka.h>

#include "config.h"
#include "error.h"
#include "util/buf.h"

static const char *folder;

static void keep_line(void *arg, int level, const char *message)
{
    static const char *const levels[] = {"error", "warn", "info", "debug", "trace"};

    assert_int_equal(fy_buf_printf(arg, "  %s: %s\n", levels[level], message), FERRY_OK);
}

static void *read_all(const char *name, size_t *len)
{
    char path[512], *text = malloc(1 << 20);
    FILE *file;

    snprintf(path, sizeof(path), "%s/%s", folder, name);
    file = fopen(path, "rb");
    if (!file || !text)
        fail_msg("%s cannot be read", path);
    *len = fread(text, 1, (1 << 20) - 1, file);
    text[*len] = 0;
    fclose(file);
    return text;
}

/* Members of the description that differ from those of an empty file, one a line. */
static void put_values(const struct fy_config *config, struct fy_buf *out)
{
    struct fy_config *none;
    cJSON *given, *empty, *item;

    assert_int_equal(fy_config_parse("{}", 2, 0, "", "", NULL, &none), FERRY_OK);
    given = fy_config_describe(config);
    empty = fy_config_describe(none);
    cJSON_ArrayForEach(item, given)
    {
        char *text;

        if (!strcmp(item->string, "path") || !strcmp(item->string, "role") ||
            cJSON_Compare(item, cJSON_GetObjectItem(empty, item->string), 1))
            continue;
        text = cJSON_PrintUnformatted(item);
        assert_int_equal(fy_buf_printf(out, "  %s = %s\n", item->string, text), FERRY_OK);
        free(text);
    }
    cJSON_Delete(given);
    cJSON_Delete(empty);
    fy_config_free(none);
}

static void read_one(const char *name, const char *role, struct fy_buf *out)
{
    const struct fy_log log = {.level = FERRY_LOG_INFO, .fn = keep_line, .arg = out};
    struct fy_config *config = NULL;
    size_t len;
    char *text = read_all(name, &len);
    ferry_status status =
        fy_config_parse(text, len, strstr(name, ".yaml") != NULL, name, role, &log, &config);

    if (status == FERRY_OK) {
        put_values(config, out);
    } else {
        assert_null(config);
        assert_int_equal(status, FERRY_EINVAL);
        assert_int_equal(fy_buf_printf(out, "  error: %s\n", ferry_error()), FERRY_OK);
    }
    fy_config_free(config);
    free(text);
}

/* expected: "FILE [ROLE]" and below it, indented, what comes of it. */
static void reads_as_expected(void **state)
{
    size_t len, cases = 0, bad = 0;
    char *expected = read_all("expected", &len), *at = expected;

    while (*at) {
        char name[64], role[16] = "", *block, saved;
        struct fy_buf found;

        if (*at == '#' || *at == '\n') {
            at += strcspn(at, "\n");
            at += *at == '\n';
            continue;
        }
        assert_int_not_equal(*at, ' ');
        at[strcspn(at, "\n")] = 0;
        assert_true(sscanf(at, "%63s %15s", name, role) >= 1);
        block = at += strlen(at) + 1;
        while (*at == ' ') {
            at += strcspn(at, "\n");
            at += *at == '\n';
        }
        saved = *at;
        *at = 0;
        fy_buf_init(&found, 0);
        read_one(name, role, &found);
        cases++;
        if (strcmp(block, found.data ? found.data : "")) {
            bad++;
            print_error("%s %s: expected\n%sfound\n%s", name, role, block,
                        found.data ? found.data : "");
        }
        fy_buf_fini(&found);
        *at = saved;
    }
    free(expected);
    assert_int_equal(bad, 0);
    assert_true(cases > 100);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_as_expected),
    };

    if (argc < 2)
        return 2;
    folder = argv[1];
    if (argc > 2) {
        struct fy_buf found;

        fy_buf_init(&found, 0);
        read_one(argv[2], argc > 3 ? argv[3] : "", &found);
        printf("%s%s%s\n%s", argv[2], argc > 3 ? " " : "", argc > 3 ? argv[3] : "",
               found.data ? found.data : "");
        fy_buf_fini(&found);
        return 0;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
