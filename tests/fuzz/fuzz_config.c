/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A configuration from an untrusted text, read as JSON and as YAML. What is refused names a
 * place that is in the text; what is taken can be described and handed to plugins, and what is
 * taken as JSON is JSON to cJSON too.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cjson/cJSON.h>

#include "config.h"
#include "error.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(int so, const char *what)
{
    if (!so) {
        fprintf(stderr, "%s; error text: %s\n", what, ferry_error());
        abort();
    }
}

static void count(void *arg, int level, const char *message)
{
    must(message[0] != 0, "an empty log line");
    *(size_t *)arg += strlen(message);
}

static void check_error(size_t size)
{
    unsigned line, column;

    if (sscanf(ferry_error(), "text:%u:%u: ", &line, &column) == 2)
        must(line >= 1 && line <= size + 1 && column >= 1 && column <= size + 1,
             "the place of an error is outside of the text");
    else
        must(strncmp(ferry_error(), "text: a NUL at byte", 19) == 0,
             "an error without a place");
}

static void check_config(const struct fy_config *config)
{
    const cJSON *item;
    cJSON *json = fy_config_describe(config);
    char *text = cJSON_PrintUnformatted(json);

    must(text != NULL, "cannot be described");
    must(config->metadata_server && config->cluster_id && config->role,
         "a NULL that may not be");
    must(config->min_port <= config->max_port && config->max_port <= 65535, "random ports");
    cJSON_ArrayForEach(item, config->ferry)
    {
        struct fy_kv kv;

        fy_kv_init(&kv);
        if (fy_config_section(config, item->string, &kv) == FERRY_OK)
            for (size_t i = 0; i < kv.kvs.n; i++)
                must(!kv.kvs.v[i].key[strspn(kv.kvs.v[i].key,
                                             "abcdefghijklmnopqrstuvwxyz0123456789_.")],
                     "a key that plugins do not expect");
        fy_kv_fini(&kv);
    }
    free(text);
    cJSON_Delete(json);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *role = size % 3 == 0 ? "prefill" : size % 3 == 1 ? "decode" : "";
    const char *text = (const char *)data;

    for (int yaml = 0; yaml < 2; yaml++) {
        struct fy_config *config = NULL;
        size_t logged = 0;
        const struct fy_log log = {.level = FERRY_LOG_TRACE, .fn = count, .arg = &logged};

        if (fy_config_parse(text, size, yaml, "text", role, &log, &config) == FERRY_OK) {
            if (!yaml) {
                cJSON *json = cJSON_ParseWithLength(text, size);

                must(json != NULL, "taken for JSON, and it is none");
                cJSON_Delete(json);
            }
            check_config(config);
        } else {
            must(config == NULL, "an error with a result");
            check_error(size);
        }
        fy_config_free(config);
    }
    return 0;
}
