/* SPDX-License-Identifier: Apache-2.0 */
/*
 * docs/configuration.md held against the tables in the code: every member and variable has its
 * row with the words of the table, the page names no variable that is not there, and its
 * examples are read without a complaint.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "config_parts.h"
#include "error.h"

static char *page;

/* Is there a row of a table with that first cell and those words? */
static int has_row(const char *name, const char *words)
{
    char cell[96];

    snprintf(cell, sizeof(cell), "| `%s`", name);
    for (const char *at = page; (at = strstr(at, cell)); at++) {
        const char *end = strchr(at, '\n');
        const char *found = strstr(at, words);

        if ((at == page || at[-1] == '\n') && found && end && found < end)
            return 1;
    }
    print_error("docs/configuration.md has no row | `%s` | ... %s |\n", name, words);
    return 0;
}

static void every_member_is_there(void **state)
{
    int missing = 0;

    for (size_t i = 0; i < fy_members_n; i++)
        missing += !has_row(fy_members[i].name, fy_members[i].help);
    assert_int_equal(missing, 0);
}

static void every_variable_is_there(void **state)
{
    int missing = 0;

    for (size_t i = 0; i < fy_envs_n; i++) {
        missing += !has_row(fy_envs[i].name, fy_envs[i].help);
        if (fy_envs[i].alias)
            missing += !strstr(page, fy_envs[i].alias);
        if (fy_envs[i].key)
            missing += !has_row(fy_envs[i].name, fy_envs[i].key);
    }
    assert_int_equal(missing, 0);
}

static int is_variable(const char *word, size_t len)
{
    for (size_t i = 0; i < fy_envs_n; i++)
        if ((strlen(fy_envs[i].name) == len && memcmp(fy_envs[i].name, word, len) == 0) ||
            (fy_envs[i].alias && strlen(fy_envs[i].alias) == len &&
             memcmp(fy_envs[i].alias, word, len) == 0))
            return 1;
    return 0;
}

static void no_other_variable_is_there(void **state)
{
    for (const char *at = page; (at = strstr(at, "MC_"));) {
        size_t len = strspn(at, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_");

        if (!is_variable(at, len))
            fail_msg("the page names %.*s, the table does not", (int)len, at);
        at += len;
    }
}

static void complain(void *arg, int level, const char *message)
{
    if (level <= FERRY_LOG_WARN && !strstr(message, "\"metadata_backend\" is deprecated"))
        fail_msg("an example of the page: %s", message);
}

static void examples_are_read(void **state)
{
    static const char *const roles[] = {"prefill", "decode"};
    const struct fy_log log = {.level = FERRY_LOG_INFO, .fn = complain};
    int n = 0;

    for (const char *at = page; (at = strstr(at, "\n```")); at += 4) {
        int yaml = strncmp(at + 4, "yaml\n", 5) == 0;
        int json = strncmp(at + 4, "json\n", 5) == 0;
        const char *text = at + 9, *end;

        if (!yaml && !json)
            continue;
        end = strstr(text, "\n```");
        assert_non_null(end);
        for (int i = 0; i < 2; i++) {
            struct fy_config *config = NULL;

            if (fy_config_parse(text, (size_t)(end - text), yaml, "example", roles[i], &log,
                                &config) != FERRY_OK)
                fail_msg("%s\n%.*s", ferry_error(), (int)(end - text), text);
            assert_non_null(config->name);
            assert_non_null(config->peer_name);
            fy_config_free(config);
        }
        at = end;
        n++;
    }
    assert_int_equal(n, 4);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_member_is_there),
        cmocka_unit_test(every_variable_is_there),
        cmocka_unit_test(no_other_variable_is_there),
        cmocka_unit_test(examples_are_read),
    };
    FILE *file = argc > 1 ? fopen(argv[1], "rb") : NULL;
    size_t len;
    int failed;

    page = calloc(1, 1 << 20);
    if (!file || !page) {
        fprintf(stderr, "usage: test_config_docs docs/configuration.md\n");
        return 2;
    }
    len = fread(page, 1, (1 << 20) - 1, file);
    fclose(file);
    if (len == 0)
        return 2;
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    free(page);
    return failed;
}
