/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `ferry links`: what carries what in a running node of this user: each peer, each path to it,
 * since when, how fast, what went wrong. Shows what the node says of itself.
 */
#include <cjson/cJSON.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "admin_options.h"
#include "commands.h"
#include "out.h"

struct links_options {
    const char *node, *peer, *json;
    bool list, once, rails;
    uint64_t interval_ms, timeout_ms;
};

static volatile sig_atomic_t stop;

static void on_signal(int number)
{
    stop = number;
}

static int lost(ferry_status status)
{
    fprintf(stderr, "ferry links: %s\n", ferry_error());
    return status == FERRY_ENOENT || status == FERRY_EEXIST ? EXIT_WRONG : EXIT_LOST;
}

static double number_of(const cJSON *object, const char *member)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, member);

    return cJSON_IsNumber(item) ? item->valuedouble : 0;
}

static const cJSON *list_of(const cJSON *object, const char *member)
{
    return cJSON_GetObjectItemCaseSensitive(object, member);
}

/* ---- which nodes there are ---- */

static int show_nodes(const struct links_options *o)
{
    static const char *const heads[] = {"NODE", "PID", "VERSION", "SOCKET"};
    struct table *table;
    const cJSON *node;
    char *text;
    cJSON *list;
    ferry_status status = ferry_nodes((uint32_t)o->timeout_ms, &text);
    int code = EXIT_OK;

    if (status)
        return lost(status);
    list = admin_json(text);
    if (o->json)
        code = out_json(o->json, list) ? EXIT_OK : EXIT_WRONG;
    if (!o->json || strcmp(o->json, "-") != 0) {
        table = table_new(4, heads, "lrll");
        cJSON_ArrayForEach(node, list)
        {
            char pid[24];
            const char *cells[] = {admin_text(node, "name"), pid, admin_text(node, "version"),
                                   admin_text(node, "socket")};

            snprintf(pid, sizeof(pid), "%.0f", number_of(node, "pid"));
            table_row(table, cells);
        }
        if (cJSON_GetArraySize(list))
            table_print(table);
        else
            printf("no node of this user runs on this machine\n");
        table_free(table);
    }
    cJSON_Delete(list);
    return code;
}

/* ---- links ---- */

/* "12 s", "3 min", "5 h", "2 d"; "-" where it is not connected. */
static const char *age(char *text, size_t room, const cJSON *path)
{
    double s = number_of(path, "since_s");

    if (!cJSON_GetObjectItemCaseSensitive(path, "since_s"))
        snprintf(text, room, "-");
    else if (s < 100)
        snprintf(text, room, "%.0f s", s);
    else if (s < 6000)
        snprintf(text, room, "%.0f min", s / 60);
    else if (s < 360000)
        snprintf(text, room, "%.0f h", s / 3600);
    else
        snprintf(text, room, "%.0f d", s / 86400);
    return text;
}

static const char *rate(char *text, size_t room, double Bps)
{
    static const char *const units[] = {"B/s", "KB/s", "MB/s", "GB/s"};
    size_t unit = 0;

    for (; Bps >= 1000 && unit < 3; unit++)
        Bps /= 1000;
    if (Bps > 0)
        snprintf(text, room, unit ? "%.2f %s" : "%.0f %s", Bps, units[unit]);
    else
        snprintf(text, room, "0");
    return text;
}

static const char *joined(char *text, size_t room, const cJSON *list)
{
    const cJSON *item;

    text[0] = '\0';
    cJSON_ArrayForEach(item, list)
    {
        size_t len = strlen(text);

        if (cJSON_IsString(item))
            snprintf(text + len, room - len, "%s%s", len ? " " : "", item->valuestring);
    }
    return text;
}

/* "refused: ..., again in 12 s", the last error, or what measuring changed. */
static void say(char *text, size_t room, const cJSON *link, const cJSON *path)
{
    const cJSON *last = cJSON_GetObjectItemCaseSensitive(path, "last_error"), *op;
    const char *refused = admin_text(path, "refused"), *over = admin_text(path, "passed_over");
    const cJSON *moved = cJSON_GetObjectItemCaseSensitive(link, "moved");
    size_t len;

    text[0] = '\0';
    if (*refused || *over)
        snprintf(text, room, "%s: %.160s; again in %.0f s",
                 *refused ? "refused" : "passed over", *refused ? refused : over,
                 number_of(path, "retry_in_s"));
    else if (last)
        snprintf(text, room, "last error %.0f s ago: %.160s", number_of(last, "ago_s"),
                 admin_text(last, "text"));
    cJSON_ArrayForEach(op, moved)
    {
        const cJSON *size;

        cJSON_ArrayForEach(size, op)
        {
            if (!cJSON_IsString(size) ||
                strcmp(size->valuestring, admin_text(path, "transport")) != 0)
                continue;
            len = strlen(text);
            snprintf(text + len, room - len, "%sfaster for %ss up to %s", len ? "; " : "",
                     op->string, size->string);
        }
    }
}

static void add_rows(struct table *table, const struct links_options *o, const cJSON *link)
{
    const char *carries = admin_text(link, "carries");
    const cJSON *path;

    cJSON_ArrayForEach(path, list_of(link, "paths"))
    {
        char mark[80], since[24], bytes[32], now[32], average[32], requests[24], failed[24],
            words[700], rails[300];
        bool first = path == list_of(link, "paths")->child;
        const char *cells[] = {first ? admin_text(link, "peer") : "",
                               mark,
                               admin_text(path, "state"),
                               since,
                               requests,
                               bytes,
                               now,
                               average,
                               failed,
                               o->rails ? rails : words,
                               words};

        snprintf(mark, sizeof(mark), "%s%s",
                 strcmp(carries, admin_text(path, "transport")) == 0 ? "*" : " ",
                 admin_text(path, "transport"));
        age(since, sizeof(since), path);
        snprintf(requests, sizeof(requests), "%.0f", number_of(path, "requests"));
        out_bytes(bytes, (uint64_t)number_of(path, "bytes"));
        rate(now, sizeof(now), number_of(path, "current_Bps"));
        rate(average, sizeof(average), number_of(path, "average_Bps"));
        snprintf(failed, sizeof(failed), "%.0f/%.0f", number_of(path, "failed"),
                 number_of(path, "retried"));
        joined(rails, sizeof(rails), list_of(path, "rails"));
        say(words, sizeof(words), link, path);
        table_row(table, cells);
    }
}

static int show_links(const struct links_options *o, const cJSON *links)
{
    static const char *const heads[] = {"PEER",  "OVER", "STATE",   "SINCE",       "REQUESTS",
                                        "BYTES", "NOW",  "AVERAGE", "FAILED/AGAIN"};
    const char *all[11];
    struct table *table;
    const cJSON *link;
    int shown = 0;

    memcpy(all, heads, sizeof(heads));
    all[9] = o->rails ? "RAILS" : "";
    all[10] = "";
    table = table_new(o->rails ? 11 : 10, all, "lllrrrrrrll");
    cJSON_ArrayForEach(link, links)
    {
        if (o->peer && strcmp(o->peer, admin_text(link, "peer")) != 0)
            continue;
        add_rows(table, o, link);
        shown++;
    }
    if (shown)
        table_print(table);
    else if (o->peer)
        printf("no link to %s\n", o->peer);
    else
        printf("no peer is open\n");
    table_free(table);
    return shown || !o->peer ? EXIT_OK : EXIT_WRONG;
}

static int once(const struct links_options *o, bool clear)
{
    char *text;
    cJSON *links;
    ferry_status status = ferry_node_describe(o->node, "links", (uint32_t)o->timeout_ms, &text);
    int code = EXIT_OK;

    if (status)
        return lost(status);
    links = admin_json(text);
    if (clear)
        printf("\033[H\033[2J");
    if (!o->json || strcmp(o->json, "-") != 0)
        code = show_links(o, links);
    if (o->json && !out_json(o->json, links))
        code = EXIT_WRONG;
    cJSON_Delete(links);
    fflush(stdout);
    return code;
}

static int run(const struct command *self, const void *options, int argc, char **argv)
{
    struct links_options o = *(const struct links_options *)options;
    struct sigaction action = {.sa_handler = on_signal};
    bool terminal = isatty(STDOUT_FILENO), live;
    int code;

    if (argc)
        o.node = argv[0];
    if (o.list)
        return show_nodes(&o);
    live = !o.once && !o.json && (terminal || o.interval_ms);
    if (!live)
        return once(&o, false);
    if (!o.interval_ms)
        o.interval_ms = 1000;
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    do {
        struct timespec pause = {.tv_sec = (time_t)(o.interval_ms / 1000),
                                 .tv_nsec = (long)(o.interval_ms % 1000) * 1000000};

        code = once(&o, terminal);
        if (code == EXIT_LOST || (code == EXIT_WRONG && !o.peer) || stop)
            break;
        if (!terminal)
            printf("\n");
        nanosleep(&pause, NULL);
    } while (!stop);
    return code;
}

static const struct opt opts[] = {
    {.name = "interval",
     .letter = 'i',
     .meta = "SECONDS",
     .type = OPT_SECONDS,
     .min = 100,
     .max = 3600000,
     .help = "between two looks (default on a terminal: 1; elsewhere one look)",
     .offset = offsetof(struct links_options, interval_ms)},
    {.name = "once",
     .letter = '1',
     .type = OPT_FLAG,
     .help = "one look, on a terminal too",
     .offset = offsetof(struct links_options, once)},
    {.name = "peer",
     .letter = 'p',
     .meta = "NAME",
     .type = OPT_TEXT,
     .help = "this peer alone",
     .offset = offsetof(struct links_options, peer)},
    {.name = "rails",
     .letter = 'r',
     .type = OPT_FLAG,
     .help = "with the devices of each path",
     .offset = offsetof(struct links_options, rails)},
    {.name = "list",
     .letter = 'l',
     .type = OPT_FLAG,
     .help = "which nodes there are, instead",
     .offset = offsetof(struct links_options, list)},
    {.name = "timeout",
     .meta = "SECONDS",
     .type = OPT_SECONDS,
     .def = "3",
     .min = 100,
     .max = 3600000,
     .help = "how long the node may take to answer",
     .offset = offsetof(struct links_options, timeout_ms)},
    {.name = "json",
     .meta = "FILE",
     .type = OPT_FILE,
     .help = "one look, as JSON; - = standard output, without the table",
     .offset = offsetof(struct links_options, json)},
    {0},
};

static const struct example examples[] = {
    {"ferry links", "the one node of this user on this machine, refreshed every second"},
    {"ferry links 10.0.0.2:17000 --peer 10.0.0.3:17000 --interval 5",
     "one peer of one of several nodes"},
    {"ferry links --list", "which nodes run here"},
    {"ferry links --json - | jq '.[].carries'", "what carries to each peer now"},
    {0},
};

const struct command cmd_links = {
    .name = "links",
    .summary = "what carries data to each peer of a running node, and how it fares",
    .synopsis = "[NODE]",
    .words = "",
    .about =
        "Asks a node that runs on this machine under the same user; NODE is its name or its "
        "process id, and need not be given where there is only one. One line for each path to "
        "each peer; a star marks the one that new work takes. Behind it: since when it is "
        "connected, what it carried, its rate over the last second and on the average, "
        "requests that failed and that went over it after they failed elsewhere, and why a "
        "transport is not used for this peer.\n\n"
        "Nodes are reached through a socket in $XDG_RUNTIME_DIR/ferry or /tmp/ferry-UID that "
        "nobody else can open; \"status_socket\": false in a node's configuration turns that "
        "off. Asking does not hold up transfers.",
    .opts = opts,
    .examples = examples,
    .options_size = sizeof(struct links_options),
    .max_args = 1,
    .run = run,
};
