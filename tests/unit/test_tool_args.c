/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "args.h"
#include "help.h"
#include "stats.h"

struct options {
    bool loud;
    uint64_t count, size, wait_ms;
    const char *text;
    int choice;
};

static const struct opt opts[] = {
    {.name = "loud",
     .letter = 'l',
     .type = OPT_FLAG,
     .help = "be loud",
     .offset = offsetof(struct options, loud)},
    {.name = "count",
     .letter = 'n',
     .meta = "N",
     .type = OPT_COUNT,
     .def = "4",
     .min = 1,
     .max = 64,
     .help = "how many",
     .offset = offsetof(struct options, count)},
    {.name = "size",
     .meta = "SIZE",
     .type = OPT_SIZE,
     .def = "1g",
     .min = 4096,
     .help = "how large",
     .offset = offsetof(struct options, size)},
    {.name = "wait",
     .meta = "SECONDS",
     .type = OPT_SECONDS,
     .def = "1.5",
     .help = "how long",
     .offset = offsetof(struct options, wait_ms)},
    {.name = "text",
     .meta = "WORD",
     .type = OPT_TEXT,
     .help = "what",
     .offset = offsetof(struct options, text)},
    {.name = "verify",
     .meta = "HOW",
     .type = OPT_CHOICE,
     .choices = "checksum|full",
     .def = "checksum",
     .help = "which",
     .offset = offsetof(struct options, choice)},
    {0},
};

static const struct command command = {
    .name = "try",
    .summary = "tries",
    .synopsis = "[ROLE]",
    .words = "one two",
    .about = "First paragraph.\n\nSecond one.",
    .opts = opts,
    .options_size = sizeof(struct options),
    .max_args = 1,
};

static struct options o;
static int n_args;
static bool wants_help;
static char error[256];

static bool parse(const char *const *words, int n)
{
    char *argv[16];

    assert_true(n <= 16);
    memcpy(argv, words, (size_t)n * sizeof(argv[0]));
    error[0] = 0;
    return args_parse(&command, n, argv, &o, &n_args, &wants_help, error, sizeof(error));
}
#define PARSE(...)                                                                             \
    parse((const char *const[]){__VA_ARGS__},                                                  \
          (int)(sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *)))

static void defaults_come_from_the_table(void **state)
{
    assert_true(PARSE("one"));
    assert_int_equal(n_args, 1);
    assert_false(o.loud);
    assert_int_equal(o.count, 4);
    assert_int_equal(o.size, 1 << 30);
    assert_int_equal(o.wait_ms, 1500);
    assert_null(o.text);
    assert_int_equal(o.choice, 0);
}

static void values_are_read_in_every_spelling(void **state)
{
    assert_true(PARSE("--count=7", "-l", "--size", "64k", "--verify=full", "two", "--wait",
                      "250ms", "--text", "-x"));
    assert_true(o.loud);
    assert_int_equal(o.count, 7);
    assert_int_equal(o.size, 65536);
    assert_int_equal(o.choice, 1);
    assert_int_equal(o.wait_ms, 250);
    assert_string_equal(o.text, "-x");
    assert_int_equal(n_args, 1);
    assert_true(PARSE("-n9", "--", "--loud"));
    assert_int_equal(o.count, 9);
    assert_int_equal(n_args, 1);
    assert_false(o.loud);
    assert_true(PARSE("--wait", "2m", "--size=1.5MiB"));
    assert_int_equal(o.wait_ms, 120000);
    assert_int_equal(o.size, 3 << 19);
}

static void a_wrong_line_is_refused_with_its_reason(void **state)
{
    assert_false(PARSE("--cuont", "3"));
    assert_string_equal(error, "no option --cuont; did you mean --count?");
    assert_false(PARSE("--zzz"));
    assert_string_equal(error, "no option --zzz; see ferry try --help");
    assert_false(PARSE("-z"));
    assert_false(PARSE("--count", "65"));
    assert_string_equal(error, "--count: 65 is outside 1 to 64");
    assert_false(PARSE("--size", "1k"));
    assert_string_equal(error, "--size: 1k is too small, at least 4k");
    assert_false(PARSE("--size", "12q"));
    assert_false(PARSE("--size", "-1"));
    assert_false(PARSE("--size", "nan"));
    assert_false(PARSE("--size", "99999999999999999999g"));
    assert_false(PARSE("--count", "3x"));
    assert_false(PARSE("--count"));
    assert_string_equal(error, "--count needs a value (N)");
    assert_false(PARSE("--loud=yes"));
    assert_string_equal(error, "--loud takes no value");
    assert_false(PARSE("--verify", "ful"));
    assert_string_equal(error, "--verify: 'ful' is none of checksum|full");
    assert_false(PARSE("one", "two"));
    assert_false(PARSE("--text="));
}

static void lists_are_read_whole_or_not_at_all(void **state)
{
    uint64_t v[3];
    size_t n;

    assert_true(args_list("4k,64k,1m", OPT_SIZE, 1, 0, v, 3, &n, error, sizeof(error)));
    assert_int_equal(n, 3);
    assert_int_equal(v[2], 1 << 20);
    assert_false(args_list("1,2,3,4", OPT_COUNT, 1, 0, v, 3, &n, error, sizeof(error)));
    assert_false(args_list("1,,3", OPT_COUNT, 1, 0, v, 3, &n, error, sizeof(error)));
    assert_false(args_list("", OPT_COUNT, 1, 0, v, 3, &n, error, sizeof(error)));
    assert_false(args_list("0", OPT_COUNT, 1, 8, v, 3, &n, error, sizeof(error)));
}

static char *text_of(void (*print)(FILE *out))
{
    char *text = NULL;
    size_t len;
    FILE *out = open_memstream(&text, &len);

    assert_non_null(out);
    print(out);
    fclose(out);
    return text;
}

static const struct command *const commands[] = {&command, NULL};

static void print_help(FILE *out)
{
    help_command(out, &command);
}

static void print_man(FILE *out)
{
    help_man(out, commands, "1.2");
}

static void print_bash(FILE *out)
{
    help_bash(out, commands);
}

static void every_option_is_in_help_manual_and_completion(void **state)
{
    char *help = text_of(print_help), *man = text_of(print_man), *bash = text_of(print_bash);

    assert_true(PARSE("--help"));
    assert_true(wants_help);
    for (const struct opt *opt = opts; opt->name; opt++) {
        assert_non_null(strstr(help, opt->name));
        assert_non_null(strstr(man, opt->name));
        assert_non_null(strstr(bash, opt->name));
    }
    assert_non_null(strstr(help, "-n, --count N"));
    assert_non_null(strstr(help, "checksum|full (default checksum)"));
    assert_non_null(strstr(man, ".PP\nSecond one."));
    assert_non_null(strstr(bash, "'try --verify') COMPREPLY=($(compgen -W \"checksum full\""));
    free(help);
    free(man);
    free(bash);
}

static void percentiles_are_nearest_ranks(void **state)
{
    struct samples samples;
    double even[] = {4, 1, 3, 2}, odd[] = {9, 1, 5};

    assert_true(samples_init(&samples, 100));
    assert_int_equal(samples_percentile(&samples, 0.5), 0);
    for (uint64_t i = 100; i > 0; i--)
        samples_add(&samples, i);
    assert_int_equal(samples_percentile(&samples, 0.5), 50);
    assert_int_equal(samples_percentile(&samples, 0.99), 99);
    assert_int_equal(samples_percentile(&samples, 1), 100);
    assert_int_equal(samples_percentile(&samples, 0), 1);
    samples_fini(&samples);
    assert_true(stats_median(even, 4) == 2.5);
    assert_true(stats_median(odd, 3) == 5);
}

static void a_full_reservoir_keeps_the_distribution(void **state)
{
    struct samples samples;
    uint64_t p50;

    assert_true(samples_init(&samples, 1000));
    for (uint64_t i = 0; i < 100000; i++)
        samples_add(&samples, i);
    assert_int_equal(samples.n, 1000);
    p50 = samples_percentile(&samples, 0.5);
    assert_in_range(p50, 44000, 56000);
    samples_fini(&samples);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_come_from_the_table),
        cmocka_unit_test(values_are_read_in_every_spelling),
        cmocka_unit_test(a_wrong_line_is_refused_with_its_reason),
        cmocka_unit_test(lists_are_read_whole_or_not_at_all),
        cmocka_unit_test(every_option_is_in_help_manual_and_completion),
        cmocka_unit_test(percentiles_are_nearest_ranks),
        cmocka_unit_test(a_full_reservoir_keeps_the_distribution),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
