/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `ferry conformance`: tells a transport from a metadata plugin by the symbol that the file
 * exports, read without loading it, and becomes the suite for it. The suites are programs of
 * their own: one of them stands in the C library's way to count allocations.
 */
#include <elf.h>
#include <errno.h>
#include <link.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "beside.h"
#include "commands.h"

struct conformance_options {
    const char *only, *junit, *uri, *processes;
    uint64_t seed, limit_ms, stress_ms, wait;
    bool list, perf, verbose, metadata, absent_unreach;
};

/* Whether the dynamic string table, wherever it lies, holds the name: no more is wanted here,
 * the suite's first point judges the file. */
static bool holds_word(const char *data, size_t len, const char *word)
{
    return memmem(data, len, word, strlen(word) + 1) != NULL;
}

/* "transport" or "metadata"; NULL with the reason said. */
static const char *kind_of(const struct command *self, const char *path)
{
    FILE *file = fopen(path, "rb");
    const char *kind = NULL;
    char *data = NULL;
    size_t len = 0;

    if (!file) {
        args_usage_error(self, "%s: %s", path, strerror(errno));
        return NULL;
    }
    if (fseek(file, 0, SEEK_END) == 0 && ftell(file) > 0) {
        len = (size_t)ftell(file);
        rewind(file);
        data = malloc(len);
        len = data ? fread(data, 1, len, file) : 0;
    }
    fclose(file);
    if (len < sizeof(ElfW(Ehdr)) || memcmp(data, ELFMAG, SELFMAG) != 0)
        args_usage_error(self, "%s: not a shared object: no ELF header", path);
    else if (holds_word(data, len, "ferry_metadata_plugin"))
        kind = "metadata";
    else if (holds_word(data, len, "ferry_transport_plugin"))
        kind = "transport";
    else
        args_usage_error(
            self, "%s: exports neither ferry_transport_plugin nor ferry_metadata_plugin", path);
    free(data);
    return kind;
}

static char *text_of(uint64_t number)
{
    char *text = malloc(32);

    if (text)
        snprintf(text, 32, "%llu", (unsigned long long)number);
    return text;
}

static int run(const struct command *self, const void *options, int argc, char **argv)
{
    const struct conformance_options *o = options;
    char suite[4200], plugins[4200], name[64];
    const char *kind;
    char **args = calloc((size_t)argc + 32, sizeof(*args));
    int n = 0;

    if (!args)
        return EXIT_LOST;
    if (!o->list && (argc < 1 || strchr(argv[0], '=')))
        return args_usage_error(self, "wants the file of a plugin first");
    kind = o->list ? (o->metadata ? "metadata" : "transport") : kind_of(self, argv[0]);
    if (!kind)
        return EXIT_USAGE;
    snprintf(name, sizeof(name), "%s_conformance", kind);
    if (!beside(BESIDE_SUITES, name, suite, sizeof(suite))) {
        fprintf(stderr, "ferry conformance: the suite is not installed: %s\n", suite);
        return EXIT_USAGE;
    }
    args[n++] = suite;
    if (argc)
        args[n++] = argv[0];
    for (int i = 1; i < argc; i++) { /* files and KEY=VALUE */
        args[n++] = (char *)"--config";
        args[n++] = argv[i];
    }
    struct {
        const char *name, *value;
    } pass[] = {
        {"--only", o->only},
        {"--junit", o->junit},
        {"--uri", kind[0] == 'm' ? o->uri : NULL},
        {"--processes", kind[0] == 't' ? o->processes : NULL},
        {"--seed", text_of(o->seed)},
        {"--limit", o->limit_ms ? text_of((o->limit_ms + 999) / 1000) : NULL},
        {"--stress", o->stress_ms ? text_of((o->stress_ms + 999) / 1000) : NULL},
        {"--wait", o->wait && kind[0] == 't' ? text_of(o->wait) : NULL},
        {"--absent", o->absent_unreach && kind[0] == 'm' ? "unreach" : NULL},
    };
    for (size_t i = 0; i < sizeof(pass) / sizeof(pass[0]); i++)
        if (pass[i].value) {
            args[n++] = (char *)pass[i].name;
            args[n++] = (char *)pass[i].value;
        }
    if (kind[0] == 't' && beside(BESIDE_PLUGINS, "", plugins, sizeof(plugins))) {
        args[n++] = (char *)"--plugins";
        args[n++] = plugins;
    }
    if (o->list)
        args[n++] = (char *)"--list";
    if (o->perf)
        args[n++] = (char *)"--perf";
    if (o->verbose)
        args[n++] = (char *)"--verbose";
    args[n] = NULL;
    execv(suite, args);
    fprintf(stderr, "ferry conformance: %s: %s\n", suite, strerror(errno));
    return EXIT_USAGE;
}

static const struct opt opts[] = {
    {.name = "only",
     .meta = "POINTS",
     .type = OPT_TEXT,
     .help = "these points alone, numbers or names of --list, commas between them",
     .offset = offsetof(struct conformance_options, only)},
    {.name = "seed",
     .meta = "N",
     .type = OPT_COUNT,
     .def = "1",
     .help = "of what is chosen at random; the same seed chooses the same",
     .offset = offsetof(struct conformance_options, seed)},
    {.name = "junit",
     .meta = "FILE",
     .type = OPT_FILE,
     .help = "write the results as JUnit XML",
     .offset = offsetof(struct conformance_options, junit)},
    {.name = "uri",
     .meta = "URI",
     .type = OPT_TEXT,
     .help = "of a metadata plugin's service; without it its first scheme and nothing after it",
     .offset = offsetof(struct conformance_options, uri)},
    {.name = "limit",
     .meta = "SECONDS",
     .type = OPT_SECONDS,
     .help = "a point's time, in place of each point's own",
     .offset = offsetof(struct conformance_options, limit_ms)},
    {.name = "wait",
     .meta = "MS",
     .type = OPT_COUNT,
     .max = 3600000,
     .help = "how long an element may take to end, 10000 if not given",
     .offset = offsetof(struct conformance_options, wait)},
    {.name = "processes",
     .meta = "HOW",
     .type = OPT_TEXT,
     .def = "auto",
     .help = "both ends of a transport in \"one\" process or in \"two\"; \"auto\" finds out",
     .offset = offsetof(struct conformance_options, processes)},
    {.name = "stress",
     .meta = "SECONDS",
     .type = OPT_SECONDS,
     .help = "threads, kills, stops and injected faults, with new seeds until the time is over",
     .offset = offsetof(struct conformance_options, stress_ms)},
    {.name = "perf",
     .type = OPT_FLAG,
     .help = "how fast a transport is beside loop and tcp, measured in turns",
     .offset = offsetof(struct conformance_options, perf)},
    {.name = "absent-unreach",
     .type = OPT_FLAG,
     .help = "a metadata plugin that cannot tell an absent key from one out of reach (p2p)",
     .offset = offsetof(struct conformance_options, absent_unreach)},
    {.name = "list",
     .type = OPT_FLAG,
     .help = "the points and their pages in the guide; needs no plugin",
     .offset = offsetof(struct conformance_options, list)},
    {.name = "metadata",
     .type = OPT_FLAG,
     .help = "with --list: those of metadata plugins",
     .offset = offsetof(struct conformance_options, metadata)},
    {.name = "verbose",
     .type = OPT_FLAG,
     .letter = 'v',
     .help = "what the plugin logs goes to standard error",
     .offset = offsetof(struct conformance_options, verbose)},
    {0},
};

static const struct example examples[] = {
    {"ferry conformance build/ferry_transport_mine.so depth=64 --junit result.xml",
     "every point, with one key of the configuration set"},
    {"ferry conformance ./ferry_metadata_mine.so --uri mine://10.0.0.1 --only 0,keys",
     "two points"},
    {NULL, NULL},
};

const struct command cmd_conformance = {
    .name = "conformance",
    .summary = "whether a plugin keeps its contract, point by point",
    .synopsis = "PLUGIN.so [FILE.json | KEY=VALUE]...",
    .words = "",
    .about =
        "Runs every point of the conformance suite against a transport or a metadata plugin, "
        "each in processes of its own with a time limit: a crash or a hang is that point's "
        "failure. One line a point: number, name, result, time, what was expected, what was "
        "seen, and the place in the plugin guide that explains it.\n\n"
        "What follows the plugin is its configuration: a JSON file with the object it has in "
        "a mooncake.json, or single keys.\n\n"
        "The exit status is that of the suite: 0 all passed, 1 some failed, 2 usage, 77 the "
        "plugin's probe says that this machine is not fit.",
    .opts = opts,
    .examples = examples,
    .options_size = sizeof(struct conformance_options),
    .max_args = 64,
    .run = run,
};
