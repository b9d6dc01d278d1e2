/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Command lines, read by the tables of args.h. Knows no subcommand and no option by name except
 * --help, which every subcommand has.
 */
#include "args.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

static bool fail(char *error, size_t room, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static bool fail(char *error, size_t room, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(error, room, fmt, ap);
    va_end(ap);
    return false;
}

static size_t distance(const char *a, const char *b)
{
    enum { MAX = 63 };
    size_t row[MAX + 1], la = strlen(a), lb = strlen(b);

    if (la > MAX || lb > MAX)
        return MAX;
    for (size_t j = 0; j <= lb; j++)
        row[j] = j;
    for (size_t i = 1; i <= la; i++) {
        size_t corner = row[0];
        row[0] = i;
        for (size_t j = 1; j <= lb; j++) {
            size_t best = corner + (a[i - 1] != b[j - 1]);
            corner = row[j];
            if (row[j] + 1 < best)
                best = row[j] + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            row[j] = best;
        }
    }
    return row[lb];
}

const char *args_nearest(const char *word, const char *const *words, size_t n)
{
    const char *best = NULL;
    size_t least = strlen(word) / 3 + 2;

    for (size_t i = 0; i < n; i++) {
        size_t d = distance(word, words[i]);
        if (d < least) {
            least = d;
            best = words[i];
        }
    }
    if (best)
        return best;
    for (size_t i = 0; i < n; i++)
        if (strlen(word) >= 3 && strncmp(word, words[i], strlen(word)) == 0)
            return words[i];
    return NULL;
}

bool args_number(const char *text, enum opt_type type, uint64_t *value_out)
{
    char *end;
    double value;
    double unit = 1;

    if (!isdigit((unsigned char)text[0]) && text[0] != '.')
        return false;
    if (strpbrk(text, "xX"))
        return false;
    errno = 0;
    if (type == OPT_COUNT) {
        unsigned long long whole = strtoull(text, &end, 10);
        if (errno || *end)
            return false;
        *value_out = whole;
        return true;
    }
    value = strtod(text, &end);
    if (errno || end == text)
        return false;
    if (type == OPT_SECONDS) {
        if (strcmp(end, "ms") == 0)
            end += 2;
        else if (strcmp(end, "s") == 0 || !*end)
            unit = 1000, end += strlen(end);
        else if (strcmp(end, "m") == 0)
            unit = 60000, end++;
    } else {
        const char *units = "kmgt";
        const char *found = *end ? strchr(units, tolower((unsigned char)*end)) : NULL;
        if (found) {
            unit = (double)(1ull << (10 * (found - units + 1)));
            end++;
            if (end[0] == 'i' && end[1] == 'B')
                end += 2;
            else if (end[0] == 'B')
                end++;
        }
    }
    if (*end || value * unit > 9e18)
        return false;
    *value_out = (uint64_t)llround(value * unit);
    return true;
}

static void show(char *text, size_t room, uint64_t value, enum opt_type type)
{
    if (type == OPT_SECONDS)
        snprintf(text, room, "%g", (double)value / 1000);
    else if (type == OPT_SIZE && value && value % (1 << 30) == 0)
        snprintf(text, room, "%llug", (unsigned long long)value >> 30);
    else if (type == OPT_SIZE && value && value % (1 << 20) == 0)
        snprintf(text, room, "%llum", (unsigned long long)value >> 20);
    else if (type == OPT_SIZE && value && value % (1 << 10) == 0)
        snprintf(text, room, "%lluk", (unsigned long long)value >> 10);
    else
        snprintf(text, room, "%llu", (unsigned long long)value);
}

static bool in_range(const char *what, const char *text, enum opt_type type, uint64_t min,
                     uint64_t max, uint64_t *value_out, char *error, size_t room)
{
    static const char *const kinds[] = {[OPT_COUNT] = "a whole number",
                                        [OPT_SIZE] = "a size such as 4096, 64k or 1g",
                                        [OPT_SECONDS] = "seconds such as 30 or 0.5"};
    uint64_t value;

    if (!args_number(text, type, &value))
        return fail(error, room, "%s: '%s' is not %s", what, text, kinds[type]);
    if (value < min || (max && value > max)) {
        char low[32], high[32];
        show(low, sizeof(low), min, type);
        show(high, sizeof(high), max, type);
        if (!max)
            return fail(error, room, "%s: %s is too small, at least %s", what, text, low);
        return fail(error, room, "%s: %s is outside %s to %s", what, text, low, high);
    }
    *value_out = value;
    return true;
}

bool args_list(const char *text, enum opt_type type, uint64_t min, uint64_t max,
               uint64_t *values, size_t room, size_t *n_out, char *error, size_t error_room)
{
    size_t n = 0;

    for (const char *at = text;; at++) {
        char item[64];
        size_t len = strcspn(at, ",");
        if (len >= sizeof(item))
            return fail(error, error_room, "'%.20s...' is too long for a number", at);
        if (n == room)
            return fail(error, error_room, "more than %zu values", room);
        memcpy(item, at, len);
        item[len] = 0;
        if (!in_range("list", item, type, min, max, &values[n], error, error_room))
            return false;
        n++;
        at += len;
        if (!*at)
            break;
    }
    *n_out = n;
    return true;
}

static bool choose(const struct opt *opt, const char *text, int *index_out, char *error,
                   size_t room)
{
    int index = 0;

    for (const char *at = opt->choices;; index++) {
        size_t len = strcspn(at, "|");
        if (len == strlen(text) && strncmp(at, text, len) == 0) {
            *index_out = index;
            return true;
        }
        at += len;
        if (!*at++)
            break;
    }
    return fail(error, room, "--%s: '%s' is none of %s", opt->name, text, opt->choices);
}

static bool store(const struct opt *opt, const char *text, void *options, char *error,
                  size_t room)
{
    char *at = (char *)options + opt->offset;
    char what[72];
    uint64_t value;

    switch (opt->type) {
    case OPT_FLAG:
        *(bool *)(void *)at = true;
        return true;
    case OPT_TEXT:
    case OPT_FILE:
        if (!*text)
            return fail(error, room, "--%s: empty", opt->name);
        memcpy(at, &text, sizeof(text));
        return true;
    case OPT_CHOICE:
        return choose(opt, text, (int *)(void *)at, error, room);
    default:
        snprintf(what, sizeof(what), "--%s", opt->name);
        if (!in_range(what, text, opt->type, opt->min, opt->max, &value, error, room))
            return false;
        memcpy(at, &value, sizeof(value));
        return true;
    }
}

static const struct opt *find(const struct command *command, const char *name, size_t len)
{
    for (const struct opt *opt = command->opts; opt->name; opt++)
        if (strlen(opt->name) == len && strncmp(opt->name, name, len) == 0)
            return opt;
    return NULL;
}

static bool unknown(const struct command *command, const char *word, char *error, size_t room)
{
    enum { MAX = 64 };
    const char *names[MAX] = {"help"};
    char bare[64];
    size_t n = 1;
    const char *near;

    snprintf(bare, sizeof(bare), "%.*s", (int)strcspn(word + 2, "="), word + 2);
    for (const struct opt *opt = command->opts; opt->name && n < MAX; opt++)
        names[n++] = opt->name;
    near = args_nearest(bare, names, n);
    if (near)
        return fail(error, room, "no option --%s; did you mean --%s?", bare, near);
    return fail(error, room, "no option --%s; see ferry %s --help", bare, command->name);
}

bool args_parse(const struct command *command, int argc, char **argv, void *options,
                int *argc_out, bool *help_out, char *error, size_t room)
{
    int n = 0;
    bool only_words = false;

    memset(options, 0, command->options_size);
    for (const struct opt *opt = command->opts; opt->name; opt++)
        if (opt->def && opt->type != OPT_FLAG && !store(opt, opt->def, options, error, room))
            return false;
    *help_out = false;
    for (int i = 0; i < argc; i++) {
        char *word = argv[i];
        const struct opt *opt = NULL;
        char *value = NULL;

        if (only_words || word[0] != '-' || !word[1]) {
            argv[n++] = word;
            continue;
        }
        if (strcmp(word, "--") == 0) {
            only_words = true;
            continue;
        }
        if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
            *help_out = true;
            return true;
        }
        if (word[1] == '-') {
            size_t len = strcspn(word + 2, "=");
            opt = find(command, word + 2, len);
            if (!opt)
                return unknown(command, word, error, room);
            if (word[2 + len])
                value = word + 2 + len + 1;
        } else {
            for (const struct opt *o = command->opts; o->name; o++)
                if (o->letter && o->letter == word[1])
                    opt = o;
            if (!opt)
                return fail(error, room, "no option -%c; see ferry %s --help", word[1],
                            command->name);
            if (word[2])
                value = word + 2;
        }
        if (opt->type == OPT_FLAG) {
            if (value)
                return fail(error, room, "--%s takes no value", opt->name);
        } else if (!value) {
            if (i + 1 == argc)
                return fail(error, room, "--%s needs a value (%s)", opt->name, opt->meta);
            value = argv[++i];
        }
        if (!store(opt, value, options, error, room))
            return false;
    }
    if (n > command->max_args)
        return fail(error, room, "'%s' is one word too many; see ferry %s --help",
                    argv[command->max_args], command->name);
    *argc_out = n;
    return true;
}

int args_usage_error(const struct command *command, const char *fmt, ...)
{
    va_list ap;

    fprintf(stderr, "ferry %s: ", command->name);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    return EXIT_USAGE;
}
