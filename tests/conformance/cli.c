/* SPDX-License-Identifier: Apache-2.0 */
/* Command line, report and JUnit file of both conformance suites. */
#include "cli.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static void usage(const struct cli *cli, FILE *to)
{
    fprintf(to,
            "usage: %s_conformance PLUGIN.so [--config FILE|KEY=VALUE]... [--only N,...]\n"
            "           [--seed N] [--junit FILE] [--limit SECONDS] [--stress SECONDS]\n"
            "           [--list] [--verbose]\n",
            cli->kind);
    fputs(cli->kind[0] == 't'
              ? "           [--processes auto|one|two] [--wait MS] [--target KEY=VALUE]...\n"
                "           [--perf] [--plugins DIR] [--inherits WHY] [--allocates WHY]\n"
              : "           [--uri URI] [--absent=unreach] [--server PROGRAM ARG... (last)]\n",
          to);
    fputs("\n"
          "Runs the conformance points against a plugin, each in processes of its own.\n"
          "--config FILE is JSON: the object that the plugin has in a configuration.\n"
          "--limit is a point's time. --stress goes on with new seeds for so long.\n",
          to);
    fputs(
        cli->kind[0] == 't'
            ? "--wait is what an element may take to end. --target is --config for the passive\n"
              "end alone. --perf measures beside loop and tcp; for it and for --stress the\n"
              "plugins loop, tcp and fault are taken from DIR. --inherits: why a library's\n"
              "descriptors may stay open over exec. --allocates: why it allocates now and\n"
              "then in queue calls, 100 times a second at most. Both are counted.\n"
            : "--server starts a program that minds a real server: the URI and settings are its\n"
              "first words, and it stops, starts, freezes, thaws and empties the server.\n",
        to);
    fputs("Exit status: 0 all passed, 1 some failed, 2 usage, 77 this machine is not fit.\n",
          to);
}

static bool add_key(struct ferry_kv *v, size_t *n, const char *key, const char *val)
{
    if (*n == CLI_MAX_KEYS || !key[0])
        return false;
    v[(*n)++] = (struct ferry_kv){
        .key = key, .val = val, .val_len = (uint32_t)strlen(val), .flags = FERRY_KV_TEXT};
    return true;
}

/* As the core flattens a section: "a.b" for objects, commas in lists, text for all else. */
static bool add_json(struct cli *cli, const cJSON *item, const char *key)
{
    char below[256], *text;
    const cJSON *child;
    bool ok = true;

    if (cJSON_IsObject(item)) {
        cJSON_ArrayForEach(child, item)
        {
            snprintf(below, sizeof(below), "%s%s%s", key, *key ? "." : "", child->string);
            ok = ok && add_json(cli, child, below);
        }
        return ok;
    }
    if (cJSON_IsArray(item)) {
        size_t len = 0;
        text = calloc(1, 4096);
        cJSON_ArrayForEach(child, item) if (text && cJSON_IsString(child) && len < 4000) len +=
            (size_t)snprintf(text + len, 4096 - len, "%s%s", len ? "," : "",
                             child->valuestring);
    } else {
        text = cJSON_IsString(item) ? strdup(item->valuestring) : cJSON_PrintUnformatted(item);
    }
    return text && add_key(cli->config, &cli->n_config, strdup(key), text);
}

static bool add_file(struct cli *cli, const char *path)
{
    char *text = calloc(1, (1u << 20) + 1);
    FILE *file = fopen(path, "r");
    cJSON *json = NULL;
    bool ok = false;

    if (!file)
        fprintf(stderr, "--config %s: neither KEY=VALUE nor a file: %s\n", path,
                strerror(errno));
    else if (text && fread(text, 1, 1u << 20, file) && (json = cJSON_Parse(text)) != NULL &&
             cJSON_IsObject(json))
        ok = add_json(cli, json, "");
    if (file && !ok)
        fprintf(stderr, "--config %s: wants one JSON object with at most %d members\n", path,
                CLI_MAX_KEYS);
    if (file)
        fclose(file);
    cJSON_Delete(json);
    free(text);
    return ok;
}

static bool add_config(struct cli *cli, char *text, bool target)
{
    char *equals = strchr(text, '=');
    struct stat st;

    if (!target && (!equals || stat(text, &st) == 0))
        return add_file(cli, text);
    if (equals) {
        *equals = '\0';
        if (add_key(target ? cli->target : cli->config,
                    target ? &cli->n_target : &cli->n_config, text, equals + 1))
            return true;
    }
    fprintf(stderr, "--config and --target want KEY=VALUE, at most %d times\n", CLI_MAX_KEYS);
    return false;
}

/* Numbers or names of --list, commas between them. */
static bool parse_only(struct cli *cli, const char *text)
{
    char word[64];

    for (cli->some = true; *text; text += *text == ',') {
        size_t len = strcspn(text, ",");
        char *end;
        long number;
        bool found = false;
        snprintf(word, sizeof(word), "%.*s", (int)len, text);
        text += len;
        number = strtol(word, &end, 10);
        for (int i = 0; i < cli->n_points; i++) {
            const char *name = cli->name_of(i, NULL);
            if (name && ((word[0] && !*end && number == i) || !strcmp(word, name)))
                cli->only[i] = found = true;
        }
        if (!found) {
            fprintf(stderr, "--only %s: wants numbers or names of --list\n", word);
            return false;
        }
    }
    return true;
}

static int list_points(const struct cli *cli)
{
    for (int i = 0; i < cli->n_points; i++) {
        const char *about, *name = cli->name_of(i, &about);
        if (name)
            printf("%2d %-15s %s (plugin-guide.md#%s-%d-%s)\n", i, name, about, cli->kind, i,
                   name);
    }
    return CLI_PASSED;
}

static bool number_of(const char *option, const char *text, uint64_t max, uint64_t *out)
{
    char *end;

    errno = 0;
    *out = strtoull(text, &end, 0);
    if (end != text && !*end && !errno && text[0] != '-' && *out <= max)
        return true;
    fprintf(stderr, "--%s %s: wants a number, at most %" PRIu64 "\n", option, text, max);
    return false;
}

int cli_parse(struct cli *cli, int argc, char **argv)
{
    static const struct option options[] = {{"config", required_argument, NULL, 'c'},
                                            {"only", required_argument, NULL, 'o'},
                                            {"seed", required_argument, NULL, 's'},
                                            {"list", no_argument, NULL, 'l'},
                                            {"processes", required_argument, NULL, 'p'},
                                            {"verbose", no_argument, NULL, 'v'},
                                            {"target", required_argument, NULL, 't'},
                                            {"limit", required_argument, NULL, 'L'},
                                            {"wait", required_argument, NULL, 'w'},
                                            {"inherits", required_argument, NULL, 'i'},
                                            {"allocates", required_argument, NULL, 'A'},
                                            {"help", no_argument, NULL, 'h'},
                                            {"junit", required_argument, NULL, 'j'},
                                            {"stress", required_argument, NULL, 'S'},
                                            {"perf", no_argument, NULL, 'P'},
                                            {"plugins", required_argument, NULL, 'D'},
                                            {"uri", required_argument, NULL, 'u'},
                                            {"absent", required_argument, NULL, 'a'},
                                            {NULL, 0, NULL, 0}};
    uint64_t number = 0;
    int c;

    cli->seed = 1;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--server") != 0)
            continue;
        cli->server = argv + i + 1;
        argc = i;
    }
    while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
        bool ok = true;
        switch (c) {
        case 'c':
        case 't':
            ok = add_config(cli, optarg, c == 't');
            break;
        case 'o':
            ok = parse_only(cli, optarg);
            break;
        case 's':
            ok = number_of("seed", optarg, UINT64_MAX, &cli->seed);
            break;
        case 'p':
            ok = !strcmp(optarg, "auto") || !strcmp(optarg, "one") || !strcmp(optarg, "two");
            cli->processes = optarg[0] == 'o'   ? FC_PROCESSES_ONE
                             : optarg[0] == 't' ? FC_PROCESSES_TWO
                                                : FC_PROCESSES_AUTO;
            if (!ok)
                fprintf(stderr, "--processes %s: wants auto, one or two\n", optarg);
            break;
        case 'L':
            ok = number_of("limit", optarg, 86400, &number);
            cli->limit_s = (unsigned)number;
            break;
        case 'i':
            cli->inherits = optarg;
            break;
        case 'A':
            cli->allocates = optarg;
            break;
        case 'w':
            ok = number_of("wait", optarg, 3600000, &number);
            cli->wait_ms = (unsigned)number;
            break;
        case 'S':
            ok = number_of("stress", optarg, 30 * 86400, &number);
            cli->stress_s = (unsigned)number;
            break;
        case 'P':
            cli->perf = true;
            break;
        case 'D':
            cli->plugins = optarg;
            break;
        case 'j':
            cli->junit = optarg;
            break;
        case 'u':
            cli->uri = optarg;
            break;
        case 'a':
            cli->absent_unreach = !strcmp(optarg, "unreach");
            break;
        case 'l':
            return list_points(cli);
        case 'v':
            cli->verbose = true;
            break;
        case 'h':
            usage(cli, stdout);
            return CLI_PASSED;
        default:
            usage(cli, stderr);
            return CLI_USAGE;
        }
        if (!ok)
            return CLI_USAGE;
    }
    if (optind >= argc || optind + (cli->kind[0] == 'm' && !cli->uri ? 2 : 1) < argc) {
        usage(cli, stderr);
        return CLI_USAGE;
    }
    if (optind + 1 < argc)
        cli->uri = argv[optind + 1];
    cli->plugin = realpath(argv[optind], NULL);
    if (!cli->plugin) {
        perror(argv[optind]);
        return CLI_USAGE;
    }
    cli->cases = cli->junit ? open_memstream(&cli->cases_text, &cli->cases_len) : NULL;
    return -1;
}

static void xml(FILE *out, const char *text)
{
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '<')
            fputs("&lt;", out);
        else if (c == '&')
            fputs("&amp;", out);
        else if (c == '"')
            fputs("&quot;", out);
        else
            fputc(c < 32 && c != '\n' && c != '\t' ? '?' : c, out);
    }
}

static void junit_case(struct cli *cli, const struct fc_outcome *o)
{
    fprintf(cli->cases, "  <testcase classname=\"ferry.%s\" name=\"%d-%s\" time=\"%u.%03u\">\n",
            cli->kind, o->number, o->name, o->ms / 1000, o->ms % 1000);
    if (o->result == FC_FAIL) {
        fputs("    <failure message=\"expected ", cli->cases);
        xml(cli->cases, o->expected);
        fputs("; seen ", cli->cases);
        xml(cli->cases, o->seen);
        fputs("\">", cli->cases);
        xml(cli->cases, o->log);
        fputs("</failure>\n", cli->cases);
    } else if (o->result != FC_PASS) {
        fputs("    <skipped message=\"", cli->cases);
        xml(cli->cases, o->seen);
        fputs("\"/>\n", cli->cases);
    }
    fputs("  </testcase>\n", cli->cases);
}

void cli_report(void *arg, const struct fc_outcome *o)
{
    static const char *const words[] = {"pass", "FAIL", "n/a", "skip"};
    struct cli *cli = arg;

    cli->counts[o->result]++;
    cli->ms += o->ms;
    printf("%2d %-15s %-4s %6u ms  expected: %s", o->number, o->name, words[o->result], o->ms,
           o->expected);
    printf("; seen: %s; plugin-guide.md#%s-%d-%s\n",
           o->seen[0]             ? o->seen
           : o->result == FC_PASS ? "that"
                                  : "nothing",
           cli->kind, o->number, o->name);
    for (const char *line = o->result == FC_FAIL ? o->log : ""; *line;) {
        size_t n = strcspn(line, "\n");
        printf("     logged: %.*s\n", (int)n, line);
        line += n + (line[n] == '\n');
    }
    if (o->result == FC_SKIPPED) {
        const char *line = strrchr(o->log, '\n');
        line = line ? line + 1 : o->log;
        snprintf(cli->skip_reason, sizeof(cli->skip_reason), "%s%s%s", o->seen,
                 *line ? ": " : "", line);
    }
    fflush(stdout);
    if (cli->cases)
        junit_case(cli, o);
}

static bool write_junit(struct cli *cli)
{
    const unsigned *n = cli->counts;
    FILE *file;
    bool ok;

    fclose(cli->cases);
    file = fopen(cli->junit, "w");
    if (file) {
        fprintf(file,
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"ferry.%s\" "
                "tests=\"%u\" failures=\"%u\" skipped=\"%u\" time=\"%" PRIu64 ".%03u\">\n"
                "  <properties>\n    <property name=\"plugin\" value=\"",
                cli->kind, n[0] + n[1] + n[2] + n[3], n[FC_FAIL],
                n[FC_NOT_APPLICABLE] + n[FC_SKIPPED], cli->ms / 1000,
                (unsigned)(cli->ms % 1000));
        xml(file, cli->plugin);
        fprintf(file,
                "\"/>\n    <property name=\"seed\" value=\"%" PRIu64 "\"/>\n  </properties>\n",
                cli->seed);
        fwrite(cli->cases_text, 1, cli->cases_len, file);
        fputs("</testsuite>\n", file);
    }
    ok = file && !ferror(file);
    ok = (!file || !fclose(file)) && ok;
    if (!ok)
        perror(cli->junit);
    free(cli->cases_text);
    return ok;
}

int cli_end(struct cli *cli, const char *tail)
{
    const unsigned *n = cli->counts;
    int status = n[FC_FAIL] ? CLI_FAILED : n[FC_SKIPPED] ? CLI_UNFIT : CLI_PASSED;

    printf("%u passed, %u failed, %u not applicable, %u skipped; seed %" PRIu64 "%s\n",
           n[FC_PASS], n[FC_FAIL], n[FC_NOT_APPLICABLE], n[FC_SKIPPED], cli->seed, tail);
    if (status == CLI_UNFIT)
        printf("%s\n", cli->skip_reason);
    if (cli->junit && !write_junit(cli))
        status = CLI_USAGE;
    free(cli->plugin);
    return status;
}
