/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `ferry plugins`: what the loader finds on this machine, and why it refuses what it refuses.
 * Shows the document that ferry_engine_describe gives; judges nothing itself.
 */
#include <cjson/cJSON.h>
#include <string.h>

#include "commands.h"
#include "ferry/ferry.h"
#include "out.h"

struct plugins_options {
    const char *json;
};

/* A member as text: strings as they are, numbers, lists joined by commas. */
static void text_of(const cJSON *plugin, const char *name, char *text, size_t room)
{
    const cJSON *member = cJSON_GetObjectItemCaseSensitive(plugin, name), *item;
    size_t len = 0;

    text[0] = 0;
    if (cJSON_IsString(member))
        snprintf(text, room, "%s", member->valuestring);
    else if (cJSON_IsNumber(member))
        snprintf(text, room, "%g", member->valuedouble);
    else if (cJSON_IsArray(member))
        cJSON_ArrayForEach(item, member) if (cJSON_IsString(item) && len < room) len +=
            (size_t)snprintf(text + len, room - len, "%s%s", len ? "," : "", item->valuestring);
}

/* Finds the reason of a refusal; "" = it is fine. */
static void reason_of(const cJSON *plugin, char *text, size_t room)
{
    static const char *const names[] = {"refused", "reason", "error"};

    text[0] = 0;
    for (size_t i = 0; !text[0] && i < sizeof(names) / sizeof(names[0]); i++)
        text_of(plugin, names[i], text, room);
}

/* Loaded well, and has nothing to work with on this machine. */
static bool is_idle(const cJSON *plugin)
{
    return cJSON_IsFalse(cJSON_GetObjectItemCaseSensitive(plugin, "usable"));
}

static int show(const cJSON *list)
{
    static const char *const heads[] = {"KIND", "NAME", "VERSION", "ABI", "CAN", "FILE"};
    struct table *table = table_new(6, heads, "llllll");
    const cJSON *plugin;
    int found = 0, said = 0, refused = 0;

    cJSON_ArrayForEach(plugin, list)
    {
        char kind[32], name[64], version[64], abi[64], can[256], path[600], reason[600];
        const char *cells[] = {kind, name, version, abi, can, path};

        reason_of(plugin, reason, sizeof(reason));
        if (reason[0] && !is_idle(plugin))
            continue;
        text_of(plugin, "kind", kind, sizeof(kind));
        text_of(plugin, "name", name, sizeof(name));
        text_of(plugin, "version", version, sizeof(version));
        text_of(plugin, "abi", abi, sizeof(abi));
        text_of(plugin, "caps", can, sizeof(can));
        if (!can[0])
            text_of(plugin, "schemes", can, sizeof(can));
        text_of(plugin, "path", path, sizeof(path));
        table_row(table, cells);
        found++;
    }
    if (found)
        table_print(table);
    table_free(table);
    cJSON_ArrayForEach(plugin, list)
    {
        char path[600], reason[600];

        reason_of(plugin, reason, sizeof(reason));
        if (!reason[0])
            continue;
        text_of(plugin, "path", path, sizeof(path));
        printf("%s%s: %s: %s\n", found && !said ? "\n" : "",
               is_idle(plugin) ? "not usable here" : "refused", path, reason);
        said++;
        refused += !is_idle(plugin);
    }
    if (!found && !refused)
        fprintf(stderr,
                "ferry plugins: none found; FERRY_PLUGIN_PATH names absolute directories\n");
    return refused ? EXIT_WRONG : found ? EXIT_OK : EXIT_LOST;
}

static int run(const struct command *self, const void *options, int argc, char **argv)
{
    const struct plugins_options *o = options;
    const cJSON *list;
    cJSON *json;
    char *text;
    int status;

    if (ferry_engine_describe(NULL, "plugins", &text) != FERRY_OK) {
        fprintf(stderr, "ferry plugins: %s\n", ferry_error());
        return EXIT_LOST;
    }
    json = cJSON_Parse(text);
    ferry_string_free(text);
    list = cJSON_IsArray(json) ? json : cJSON_GetObjectItemCaseSensitive(json, "plugins");
    if (o->json && strcmp(o->json, "-") == 0)
        status = out_json(o->json, json) ? EXIT_OK : EXIT_WRONG;
    else {
        status = show(list);
        if (o->json && !out_json(o->json, json))
            status = EXIT_WRONG;
    }
    cJSON_Delete(json);
    return status;
}

static const struct opt opts[] = {
    {.name = "json",
     .meta = "FILE",
     .type = OPT_FILE,
     .help = "write what was found as JSON; - = standard output, without the table",
     .offset = offsetof(struct plugins_options, json)},
    {0},
};

const struct command cmd_plugins = {
    .name = "plugins",
    .summary = "transports and metadata stores that are found, and why one is refused",
    .synopsis = "",
    .words = "",
    .about =
        "Lists every file in the search path that looks like a plugin: kind, name, version, "
        "ABI, what it can do (capabilities of a transport, URL schemes of a metadata store) "
        "and where it lies. Plugins that are refused are listed below with the reason; the "
        "exit status is then 1.\n\n"
        "Searched are the directories of FERRY_PLUGIN_PATH, then the directory \"ferry\" "
        "beside the library.",
    .opts = opts,
    .options_size = sizeof(struct plugins_options),
    .run = run,
};
