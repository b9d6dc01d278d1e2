/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `ferry metadata`: what a metadata server holds, whose it is, whether the owners live, and
 * taking out what the dead left. Asks through ferry/admin.h only.
 */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "admin_options.h"
#include "commands.h"
#include "out.h"

#define LOOKERS 16 /* nodes that are asked at once */

struct metadata_options {
    struct admin_options common;
    uint64_t interval_ms;
    bool yes;
};

struct node {
    const char *name;
    cJSON *json; /* NULL = `error` */
    ferry_status status;
    char error[512];
};

struct nodes {
    struct ferry_admin *admin;
    uint32_t timeout_ms;
    cJSON *names; /* owns the names where they were listed */
    struct node *v;
    size_t n;
    atomic_size_t next;
};

static volatile sig_atomic_t interrupted;

static void on_signal(int number)
{
    interrupted = number;
}

static void on_log(void *arg, int level, const char *message)
{
    if (level <= 1)
        fprintf(stderr, "ferry metadata: %s\n", message);
}

static void complain(void)
{
    fprintf(stderr, "ferry metadata: %s\n", ferry_error());
}

/* ---- looking ---- */

static void *look_main(void *arg)
{
    struct nodes *nodes = arg;
    size_t i;

    while ((i = atomic_fetch_add(&nodes->next, 1)) < nodes->n) {
        struct node *node = &nodes->v[i];
        char *text;

        node->status = ferry_admin_node(nodes->admin, node->name, nodes->timeout_ms, &text);
        if (node->status)
            snprintf(node->error, sizeof(node->error), "%s", ferry_error());
        else
            node->json = admin_json(text);
    }
    return NULL;
}

static void nodes_free(struct nodes *nodes)
{
    for (size_t i = 0; i < nodes->n; i++)
        cJSON_Delete(nodes->v[i].json);
    free(nodes->v);
    cJSON_Delete(nodes->names);
    *nodes = (struct nodes){.n = 0};
}

/* The nodes of the command line, or all of them. EXIT_OK or an exit status after a message,
 * which is left out where it was `said` before that the server is away. */
static int look(struct ferry_admin *admin, const struct metadata_options *o, int argc,
                char **argv, bool said, struct nodes *nodes)
{
    pthread_t threads[LOOKERS];
    size_t started = 0;
    ferry_status status;
    char *text;

    *nodes = (struct nodes){.admin = admin, .timeout_ms = (uint32_t)o->common.timeout_ms};
    if (argc) {
        nodes->n = (size_t)argc;
    } else {
        status = ferry_admin_names(admin, nodes->timeout_ms, &text);
        if (status) {
            if (!said || status == FERRY_ENOTSUP)
                complain();
            if (status == FERRY_ENOTSUP)
                fprintf(stderr, "ferry metadata: give the names of the nodes: ferry metadata "
                                "list NAME...\n");
            return status == FERRY_ENOTSUP ? EXIT_USAGE : EXIT_LOST;
        }
        nodes->names = admin_json(text);
        nodes->n = (size_t)cJSON_GetArraySize(nodes->names);
    }
    nodes->v = calloc(nodes->n + 1, sizeof(*nodes->v));
    if (!nodes->v) {
        nodes->n = 0;
        nodes_free(nodes);
        return EXIT_LOST;
    }
    if (argc) {
        for (size_t i = 0; i < nodes->n; i++)
            nodes->v[i].name = argv[i];
    } else {
        const cJSON *name;
        size_t i = 0;

        cJSON_ArrayForEach(name, nodes->names) nodes->v[i++].name = name->valuestring;
    }
    while (started < LOOKERS - 1 && started + 1 < nodes->n &&
           !pthread_create(&threads[started], NULL, look_main, nodes))
        started++;
    look_main(nodes);
    while (started)
        pthread_join(threads[--started], NULL);
    return EXIT_OK;
}

static const char *state_of(const struct node *node)
{
    return node->json ? admin_text(node->json, "state") : "";
}

static void transports_of(const cJSON *json, char *text, size_t room)
{
    const cJSON *item;
    size_t len = 0;

    text[0] = 0;
    cJSON_ArrayForEach(item, cJSON_GetObjectItemCaseSensitive(json, "transports"))
    {
        if (cJSON_IsString(item) && len < room)
            len += (size_t)snprintf(text + len, room - len, "%s%s", len ? "," : "",
                                    item->valuestring);
    }
}

/* ---- list and get ---- */

static void row(struct table *table, const struct node *node)
{
    const cJSON *json = node->json;
    char transports[128], buffers[32], memory[32], published[20];
    const char *cells[] = {node->name,
                           admin_text(json, "kind"),
                           state_of(node),
                           admin_text(json, "address"),
                           transports,
                           buffers,
                           memory,
                           published,
                           admin_text(json, "epoch")};

    transports_of(json, transports, sizeof(transports));
    snprintf(buffers, sizeof(buffers), "%.0f",
             cJSON_GetNumberValue(cJSON_GetObjectItemCaseSensitive(json, "buffers")));
    out_bytes(memory,
              (uint64_t)cJSON_GetNumberValue(cJSON_GetObjectItemCaseSensitive(json, "bytes")));
    snprintf(published, sizeof(published), "%.19s", admin_text(json, "published"));
    if (!cJSON_GetObjectItemCaseSensitive(json, "buffers"))
        buffers[0] = memory[0] = 0;
    table_row(table, cells);
}

static int show(const struct nodes *nodes)
{
    static const char *const heads[] = {"NAME",    "KIND",       "STATE",
                                        "ADDRESS", "TRANSPORTS", "BUFFERS",
                                        "MEMORY",  "PUBLISHED",  "EPOCH"};
    struct table *table = table_new(9, heads, "lllllrrll");
    size_t shown = 0;
    int status = EXIT_OK;

    for (size_t i = 0; i < nodes->n; i++) {
        if (nodes->v[i].json) {
            row(table, &nodes->v[i]);
            shown++;
        }
    }
    if (shown)
        table_print(table);
    else if (!nodes->n)
        printf("nothing is published\n");
    table_free(table);
    for (size_t i = 0; i < nodes->n; i++) {
        const struct node *node = &nodes->v[i];

        if (!node->json) {
            fprintf(stderr, "ferry metadata: %s\n", node->error);
            status = node->status == FERRY_ENOENT ? EXIT_WRONG : EXIT_LOST;
        } else if (strcmp(state_of(node), "answers") != 0) {
            printf("%s: %s: %s\n", node->name, state_of(node), admin_text(node->json, "why"));
        }
    }
    return status;
}

static cJSON *to_json(const struct nodes *nodes, bool documents)
{
    cJSON *list = cJSON_CreateArray();

    for (size_t i = 0; i < nodes->n; i++) {
        cJSON *item =
            nodes->v[i].json ? cJSON_Duplicate(nodes->v[i].json, 1) : cJSON_CreateObject();

        if (!nodes->v[i].json) {
            cJSON_AddStringToObject(item, "name", nodes->v[i].name);
            cJSON_AddStringToObject(item, "error", nodes->v[i].error);
        }
        if (!documents)
            cJSON_DeleteItemFromObjectCaseSensitive(item, "document");
        cJSON_AddItemToArray(list, item);
    }
    return list;
}

static int list(struct ferry_admin *admin, const struct metadata_options *o, int argc,
                char **argv, bool documents)
{
    bool quiet = o->common.json && strcmp(o->common.json, "-") == 0;
    struct nodes nodes;
    int status = look(admin, o, argc, argv, false, &nodes);

    if (status)
        return status;
    if (!quiet)
        status = show(&nodes);
    for (size_t i = 0; documents && !quiet && i < nodes.n; i++) {
        const cJSON *document = cJSON_GetObjectItemCaseSensitive(nodes.v[i].json, "document");
        char *text = document ? cJSON_Print(document) : NULL;

        if (text)
            printf("%s\n", text);
        cJSON_free(text);
    }
    if (o->common.json) {
        cJSON *json = to_json(&nodes, documents);

        if (!out_json(o->common.json, json))
            status = EXIT_WRONG;
        cJSON_Delete(json);
    }
    nodes_free(&nodes);
    return status;
}

/* ---- gc ---- */

static int gc(struct ferry_admin *admin, const struct metadata_options *o, int argc,
              char **argv)
{
    bool quiet = o->common.json && strcmp(o->common.json, "-") == 0;
    cJSON *json = cJSON_CreateObject();
    cJSON *gone = cJSON_AddArrayToObject(json, o->yes ? "removed" : "would_remove");
    size_t alive = 0, dead = 0, removed = 0;
    struct nodes nodes;
    int status = look(admin, o, argc, argv, false, &nodes);

    if (status) {
        cJSON_Delete(json);
        return status;
    }
    for (size_t i = 0; i < nodes.n; i++) {
        const char *state = state_of(&nodes.v[i]);

        alive += !strcmp(state, "answers") || !strcmp(state, "silent");
        dead += !strcmp(state, "gone");
    }
    if (o->yes && !argc && !alive && dead) {
        fprintf(stderr,
                "ferry metadata: none of %zu nodes answers; is this machine in their network? "
                "Nothing was removed. Named ones are: ferry metadata gc --yes NAME...\n",
                dead);
        status = EXIT_WRONG;
        dead = 0;
    }
    for (size_t i = 0; i < nodes.n && dead; i++) {
        const struct node *node = &nodes.v[i];

        if (strcmp(state_of(node), "gone") != 0)
            continue;
        if (o->yes && ferry_admin_remove(admin, node->name, nodes.timeout_ms)) {
            complain();
            status = EXIT_WRONG;
            continue;
        }
        cJSON_AddItemToArray(gone, cJSON_CreateString(node->name));
        removed++;
        if (!quiet)
            printf("%s %s: %s\n", o->yes ? "removed" : "would remove", node->name,
                   admin_text(node->json, "why"));
    }
    for (size_t i = 0; i < nodes.n; i++) {
        if (!nodes.v[i].json) {
            fprintf(stderr, "ferry metadata: %s\n", nodes.v[i].error);
            status = nodes.v[i].status == FERRY_ENOENT ? EXIT_WRONG : EXIT_LOST;
        }
    }
    if (!quiet)
        printf("%zu nodes, %zu of them there, %zu %s%s\n", nodes.n, alive, removed,
               o->yes ? "removed" : "to be removed",
               !removed || o->yes ? ""
               : alive            ? " (ferry metadata gc --yes does it)"
                                  : " (ferry metadata gc --yes NAME... does it)");
    cJSON_AddNumberToObject(json, "nodes", (double)nodes.n);
    cJSON_AddNumberToObject(json, "alive", (double)alive);
    if (o->common.json && !out_json(o->common.json, json))
        status = EXIT_WRONG;
    cJSON_Delete(json);
    nodes_free(&nodes);
    return status;
}

/* ---- watch ---- */

static struct node *find(const struct nodes *nodes, const char *name)
{
    for (size_t i = 0; i < nodes->n; i++)
        if (strcmp(nodes->v[i].name, name) == 0)
            return &nodes->v[i];
    return NULL;
}

static void say(const char *what, const struct node *node, const char *more)
{
    time_t now = time(NULL);
    char clock[16];
    struct tm tm;

    localtime_r(&now, &tm);
    strftime(clock, sizeof(clock), "%H:%M:%S", &tm);
    printf("%s %s %s%s%s\n", clock, what, node->name, *more ? ": " : "", more);
    fflush(stdout);
}

static void compare(const struct nodes *before, const struct nodes *now)
{
    for (size_t i = 0; i < now->n; i++) {
        const struct node *node = &now->v[i], *old = find(before, node->name);

        if (!node->json)
            continue;
        if (!old || !old->json)
            say("+", node, state_of(node));
        else if (strcmp(admin_text(old->json, "epoch"), admin_text(node->json, "epoch")) != 0)
            say("restarted", node, admin_text(node->json, "address"));
        else if (strcmp(admin_text(old->json, "published"),
                        admin_text(node->json, "published")) != 0)
            say("published again", node, "");
        if (old && old->json && strcmp(state_of(old), state_of(node)) != 0)
            say(state_of(node), node, admin_text(node->json, "why"));
    }
    for (size_t i = 0; i < before->n; i++) {
        const struct node *node = find(now, before->v[i].name);

        if (before->v[i].json && (!node || node->status == FERRY_ENOENT))
            say("-", &before->v[i], "");
    }
}

/* Nodes of which nothing could be learnt stay as they were; why is said once, and once for all
 * where it is all of them. True: it is all of them. */
static bool carry_over(struct nodes *before, struct nodes *now)
{
    size_t failed = 0;

    for (size_t i = 0; i < now->n; i++)
        failed += !now->v[i].json && now->v[i].status != FERRY_ENOENT;
    for (size_t i = 0; i < now->n; i++) {
        struct node *node = &now->v[i], *old = find(before, node->name);

        if (node->json || node->status == FERRY_ENOENT)
            continue;
        if ((!old || old->status != node->status) && (i == 0 || failed < now->n))
            fprintf(stderr, "ferry metadata: %s\n", node->error);
        if (old) {
            node->json = old->json;
            old->json = NULL;
        }
    }
    return failed && failed == now->n;
}

static void rest(struct ferry_admin *admin, uint64_t ms)
{
    uint64_t end = out_now_ns() + ms * 1000000;

    while (!interrupted && out_now_ns() < end) {
        ferry_status status = ferry_admin_wait(admin, 200);

        if (status == FERRY_OK)
            return;
        if (status != FERRY_EAGAIN)
            usleep(200000);
    }
}

static int watch(struct ferry_admin *admin, const struct metadata_options *o, int argc,
                 char **argv)
{
    struct sigaction action = {.sa_handler = on_signal};
    struct nodes before = {.n = 0}, now;
    bool away = false, was_away;

    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    while (!interrupted) {
        int status = look(admin, o, argc, argv, away, &now);

        if (status == EXIT_USAGE)
            return status;
        was_away = away;
        away = status != EXIT_OK;
        if (!status) {
            compare(&before, &now);
            away = carry_over(&before, &now);
            nodes_free(&before);
            before = now;
        }
        if (was_away && !away) {
            printf("the metadata server answers again\n");
            fflush(stdout);
        }
        rest(admin, o->interval_ms);
    }
    nodes_free(&before);
    return EXIT_INTERRUPTED;
}

/* ---- the command ---- */

static int run(const struct command *self, const void *options, int argc, char **argv)
{
    const struct metadata_options *o = options;
    struct ferry_admin *admin;
    ferry_status status;
    int result;

    if (!argc)
        return args_usage_error(self, "what is it to do? get, list, watch or gc");
    if (!admin_config(&o->common) && !o->common.server)
        return args_usage_error(
            self, "which metadata server? --config FILE or --metadata-server URL says it");
    status = admin_open(&o->common, on_log, NULL, &admin);
    if (status) {
        complain();
        return status == FERRY_EINVAL || status == FERRY_ENOENT ? EXIT_USAGE : EXIT_LOST;
    }
    if (strcmp(argv[0], "list") == 0)
        result = list(admin, o, argc - 1, argv + 1, false);
    else if (strcmp(argv[0], "get") == 0 && argc > 1)
        result = list(admin, o, argc - 1, argv + 1, true);
    else if (strcmp(argv[0], "watch") == 0)
        result = watch(admin, o, argc - 1, argv + 1);
    else if (strcmp(argv[0], "gc") == 0)
        result = gc(admin, o, argc - 1, argv + 1);
    else if (strcmp(argv[0], "get") == 0)
        result = args_usage_error(self, "get: the name of a node is missing");
    else
        result = args_usage_error(self, "'%s' is none of get, list, watch, gc", argv[0]);
    ferry_admin_close(admin);
    return result;
}

static const struct opt opts[] = {
    ADMIN_OPTS(struct metadata_options),
    {.name = "yes",
     .letter = 'y',
     .type = OPT_FLAG,
     .help = "gc: really remove; without it, it only says what it would",
     .offset = offsetof(struct metadata_options, yes)},
    {.name = "interval",
     .meta = "SECONDS",
     .type = OPT_SECONDS,
     .def = "5",
     .min = 200,
     .max = 86400000,
     .help = "watch: look at least so often; sooner where the server tells of changes",
     .offset = offsetof(struct metadata_options, interval_ms)},
    {0},
};

static const struct example examples[] = {
    {"ferry metadata list --config mooncake.json", "who is published, and does it answer?"},
    {"ferry metadata gc --metadata-server etcd://10.0.0.9:2379 --yes",
     "removes what nodes left that are gone"},
    {"ferry metadata get 10.0.0.1:13003 -s http://10.0.0.9:8080/metadata",
     "one node, with its document"},
    {0},
};

const struct command cmd_metadata = {
    .name = "metadata",
    .summary = "what a metadata server holds, whose it is, and removing what dead nodes left",
    .synopsis = "get NAME... | list [NAME...] | watch [NAME...] | gc [NAME...]",
    .words = "get list watch gc",
    .about =
        "Shows each node that is published: its kind (ferry or mooncake), control address, "
        "transports, registered memory, when it last published, and its epoch, which changes "
        "with every start. Each is asked whether it lives: it answers, is silent (its port "
        "accepts and says nothing: stopped, or not a node's), is gone (nobody is there, or "
        "another node), or is unknown (no address is published).\n\n"
        "gc removes what gone nodes left, and never what belongs to one that answers or is "
        "silent; each is asked once more before. It only says what it would do unless --yes is "
        "given. Where no node at all answers it removes nothing that is not named: more likely "
        "this machine is in the wrong network.\n\n"
        "HTTP metadata servers cannot list: name the nodes there.",
    .opts = opts,
    .examples = examples,
    .options_size = sizeof(struct metadata_options),
    .max_args = 1000,
    .run = run,
};
