/* SPDX-License-Identifier: Apache-2.0 */
/* The configuration that `ferry metadata` and `ferry doctor` are about. */
#include "admin_options.h"

#include <stdlib.h>
#include <string.h>

const char *admin_config(const struct admin_options *options)
{
    const char *path = options->config;

    if (!path && !options->server)
        path = getenv("MOONCAKE_CONFIG_PATH");
    return path && *path ? path : NULL;
}

ferry_status admin_open(const struct admin_options *options,
                        void (*log)(void *arg, int level, const char *message), void *log_arg,
                        struct ferry_admin **admin_out)
{
    struct ferry_options engine = {.size = sizeof(engine),
                                   .metadata_server = options->server,
                                   .log_level = 1,
                                   .log = log,
                                   .log_arg = log_arg};
    cJSON *ferry = NULL;
    char *text = NULL;
    ferry_status status;

    if (options->cluster) {
        ferry = cJSON_CreateObject();
        cJSON_AddStringToObject(ferry, "cluster_id", options->cluster);
        text = cJSON_PrintUnformatted(ferry);
        engine.config_json = text;
    }
    status = ferry_admin_open(admin_config(options), options->role ? "decode" : "prefill",
                              &engine, admin_out);
    cJSON_free(text);
    cJSON_Delete(ferry);
    return status;
}

cJSON *admin_json(char *text)
{
    cJSON *json = cJSON_Parse(text);

    ferry_string_free(text);
    return json;
}

const char *admin_text(const cJSON *object, const char *member)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, member);

    return cJSON_IsString(item) ? item->valuestring : "";
}
