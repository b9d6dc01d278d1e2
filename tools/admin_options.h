/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FERRY_TOOL_ADMIN_OPTIONS_H
#define FERRY_TOOL_ADMIN_OPTIONS_H

#include <cjson/cJSON.h>

#include "args.h"
#include "ferry/admin.h"

/* What `ferry metadata` and `ferry doctor` have in common: which configuration is meant. */
struct admin_options {
    const char *config, *server, *cluster, *json;
    int role;
    uint64_t timeout_ms;
};

/* The lines of the option table, for a struct whose member `common` is these options. */
#define ADMIN_OPTS(type_)                                                                      \
    {.name = "config",                                                                         \
     .letter = 'c',                                                                            \
     .meta = "FILE",                                                                           \
     .type = OPT_FILE,                                                                         \
     .help = "mooncake.json as the nodes have it; else MOONCAKE_CONFIG_PATH names it",         \
     .offset = offsetof(type_, common.config)},                                                \
        {.name = "role",                                                                       \
         .meta = "ROLE",                                                                       \
         .type = OPT_CHOICE,                                                                   \
         .choices = "prefill|decode",                                                          \
         .def = "prefill",                                                                     \
         .help = "which of the file's two nodes this machine is",                              \
         .offset = offsetof(type_, common.role)},                                              \
        {.name = "metadata-server",                                                            \
         .letter = 's',                                                                        \
         .meta = "URL",                                                                        \
         .type = OPT_TEXT,                                                                     \
         .help = "instead of the one in the file",                                             \
         .offset = offsetof(type_, common.server)},                                            \
        {.name = "cluster",                                                                    \
         .meta = "ID",                                                                         \
         .type = OPT_TEXT,                                                                     \
         .help = "the cluster_id of the nodes, instead of the one in the file",                \
         .offset = offsetof(type_, common.cluster)},                                           \
        {.name = "timeout",                                                                    \
         .meta = "SECONDS",                                                                    \
         .type = OPT_SECONDS,                                                                  \
         .def = "5",                                                                           \
         .min = 100,                                                                           \
         .max = 3600000,                                                                       \
         .help = "how long the metadata server and each node may take",                        \
         .offset = offsetof(type_, common.timeout_ms)},                                        \
    {                                                                                          \
        .name = "json", .meta = "FILE", .type = OPT_FILE,                                      \
        .help = "write it as JSON; - = standard output, and nothing else there",               \
        .offset = offsetof(type_, common.json)                                                 \
    }

/* `log` is called with the warnings of the configuration. The role does not matter where no
 * file is named. */
ferry_status admin_open(const struct admin_options *options,
                        void (*log)(void *arg, int level, const char *message), void *log_arg,
                        struct ferry_admin **admin_out);
/* Where the configuration comes from, for messages; NULL = there is none. */
const char *admin_config(const struct admin_options *options);
/* cJSON_Parse, and frees the text. */
cJSON *admin_json(char *text);
/* A member as text; "" where it is absent or of another type. */
const char *admin_text(const cJSON *object, const char *member);

#endif /* FERRY_TOOL_ADMIN_OPTIONS_H */
