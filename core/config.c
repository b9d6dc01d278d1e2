/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The configuration: file, options and environment read in that order of standing and joined
 * into one struct. What is known and what values mean is in the tables and rules beside; this
 * file knows no plugin.
 */
#include "config.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config_parts.h"
#include "error.h"

#define FILE_MAX 1048576u

void fy_config_free(struct fy_config *config)
{
    if (!config)
        return;
    free(config->path);
    free(config->role);
    free(config->name);
    free(config->peer_name);
    free(config->prefill_url);
    free(config->decode_url);
    free(config->bind);
    free(config->advertise);
    free(config->metadata_server);
    free(config->protocol);
    free(config->device_name);
    free(config->plugin_path);
    free(config->cluster_id);
    cJSON_Delete(config->ferry);
    free(config);
}

static ferry_status config_new(const char *path, const char *role,
                               struct fy_config **config_out)
{
    struct fy_config *config = calloc(1, sizeof(*config));
    ferry_status status;

    if (!config || !(config->ferry = cJSON_CreateObject())) {
        free(config);
        return fy_fail(FERRY_ENOMEM, "out of memory for the configuration");
    }
    status = path ? fy_set_text(&config->path, path) : FERRY_OK;
    if (status == FERRY_OK)
        status = fy_set_text(&config->role, role ? role : "");
    if (status != FERRY_OK)
        fy_config_free(config);
    else
        *config_out = config;
    return status;
}

/* ---- a text ---- */

static ferry_status take_text(const char *text, size_t len, int yaml, const char *name,
                              enum fy_member_home home, const struct fy_log *log,
                              struct fy_config *config, struct fy_places *places)
{
    const char *nul = memchr(text, 0, len);
    struct fy_node *root;
    ferry_status status;

    if (nul)
        return fy_fail(FERRY_EINVAL, "%.512s: a NUL at byte %zu; a configuration is UTF-8 text",
                       name, (size_t)(nul - text));
    status = yaml ? fy_tree_from_yaml(text, len, name, &root)
                  : fy_tree_from_json(text, len, name, &root);
    if (status != FERRY_OK)
        return status;
    status = fy_members_take(root, home, name, log, config, places);
    fy_node_free(root);
    return status;
}

static ferry_status read_file(const char *path, char **text_out, size_t *len_out)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    ferry_status status = FERRY_EINVAL;
    char *text = NULL;
    struct stat st;
    size_t len = 0;

    if (fd < 0)
        return fy_fail(errno == ENOENT ? FERRY_ENOENT : FERRY_EINVAL,
                       "%.512s: cannot be opened: %s", path, strerror(errno));
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        fy_fail(status, "%.512s: not a regular file", path);
        goto out;
    }
    text = malloc(FILE_MAX + 1);
    if (!text) {
        status = fy_fail(FERRY_ENOMEM, "%.512s: out of memory", path);
        goto out;
    }
    while (len <= FILE_MAX) {
        ssize_t n = read(fd, text + len, FILE_MAX + 1 - len);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            fy_fail(status, "%.512s: cannot be read: %s", path, strerror(errno));
            goto out;
        }
        if (n == 0)
            break;
        len += (size_t)n;
    }
    if (len > FILE_MAX) {
        fy_fail(status, "%.512s: larger than 1 MiB; this is no configuration", path);
        goto out;
    }
    *text_out = text;
    *len_out = len;
    text = NULL;
    status = FERRY_OK;
out:
    free(text);
    close(fd);
    return status;
}

static int ends_in(const char *path, const char *ending)
{
    size_t len = strlen(path), n = strlen(ending);

    return len > n && strcasecmp(path + len - n, ending) == 0;
}

/* ---- options ---- */

/* What an older caller's struct does not have is 0. */
static ferry_status options_copy(const struct ferry_options *from, struct ferry_options *out)
{
    const struct ferry_options none = {.size = sizeof(none)};

    *out = none;
    if (!from)
        return FERRY_OK;
    if (from->size < 2 * sizeof(uint32_t))
        return fy_fail(FERRY_EINVAL, "options: size is %u; it is sizeof(struct ferry_options)",
                       from->size);
    memcpy(out, from, from->size < sizeof(*out) ? from->size : sizeof(*out));
    return FERRY_OK;
}

static ferry_status own_text(struct fy_config *config, const char *member, const char *value)
{
    if (!value || !*value)
        return FERRY_OK;
    cJSON_DeleteItemFromObjectCaseSensitive(config->ferry, member);
    return cJSON_AddStringToObject(config->ferry, member, value)
               ? FERRY_OK
               : fy_fail(FERRY_ENOMEM, "out of memory for the configuration");
}

static ferry_status take_options(const struct ferry_options *options, const struct fy_log *log,
                                 struct fy_config *config, struct fy_places *places)
{
    const struct fy_place server = {.name = "options"};
    ferry_status status = FERRY_OK;

    if (options->config_json && *options->config_json)
        status = take_text(options->config_json, strlen(options->config_json), 0,
                           "options.config_json", FY_HOME_FERRY, log, config, places);
    if (status == FERRY_OK)
        status = own_text(config, "bind", options->bind);
    if (status == FERRY_OK && options->name && *options->name)
        status = fy_set_text(&config->name, options->name);
    if (status == FERRY_OK && options->metadata_server && *options->metadata_server)
        status = fy_rule_metadata(&server, options->metadata_server, &server, NULL, log,
                                  &config->metadata_server);
    if (status == FERRY_OK && options->protocol)
        status = fy_rule_protocol(&server, options->protocol, log, &config->protocol);
    if (status == FERRY_OK && options->device_name)
        status = fy_rule_devices(&server, options->device_name, log, &config->device_name);
    return status;
}

static ferry_status take_environment(const struct fy_log *log, struct fy_config *config)
{
    if (getenv(fy_env_force)) {
        ferry_status status;

        if (config->protocol && strcmp(config->protocol, fy_env_force_to) != 0)
            FY_WARN(log, "environment: %s is set: protocol %s instead of %s", fy_env_force,
                    fy_env_force_to, config->protocol);
        status = fy_set_text(&config->protocol, fy_env_force_to);
        if (status != FERRY_OK)
            return status;
    }
    return fy_env_apply(
        config->ferry,
        !config->metadata_server || !strcmp(config->metadata_server, fy_rule_p2p), log);
}

/* ---- joining ---- */

static const char *ferry_text(const struct fy_config *config, const char *member)
{
    const char *text =
        cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(config->ferry, member));

    return text && *text ? text : NULL;
}

static ferry_status copy_text(const struct fy_config *config, const char *member, char **out)
{
    const char *text = ferry_text(config, member);

    return text ? fy_set_text(out, text) : FERRY_OK;
}

static ferry_status finish_role(const struct fy_places *places, const struct fy_log *log,
                                struct fy_config *config)
{
    const int prefill = strcmp(config->role, "prefill") == 0;
    const char *own = prefill ? config->prefill_url : config->decode_url;
    const char *peer = prefill ? config->decode_url : config->prefill_url;
    const char *said = ferry_text(config, "name");
    ferry_status status;

    if (!*config->role)
        return !config->name && said ? fy_set_text(&config->name, said) : FERRY_OK;
    if (peer) {
        status = fy_set_text(&config->peer_name, peer);
        if (status != FERRY_OK)
            return status;
    }
    if (config->name)
        return FERRY_OK;
    if (!own)
        return said
                   ? fy_set_text(&config->name, said)
                   : fy_fail_at(&places->root, "\"%s_url\" is missing, which the role %s needs",
                                config->role, config->role);
    if (said && strcmp(said, own) != 0)
        fy_say_at(log, FERRY_LOG_WARN, &places->name,
                  "\"ferry.name\" is ignored: the role %s has the name %s", config->role, own);
    return fy_set_text(&config->name, own);
}

static ferry_status finish_cluster(struct fy_config *config)
{
    const char *id = ferry_text(config, "cluster_id");
    size_t len = id ? strlen(id) : 0;

    config->cluster_id = calloc(1, len + 2);
    if (!config->cluster_id)
        return fy_fail(FERRY_ENOMEM, "out of memory for the configuration");
    if (len)
        memcpy(config->cluster_id, id, len);
    if (len && id[len - 1] != '/')
        config->cluster_id[len] = '/';
    return FERRY_OK;
}

/* Both ends may come from different places, so that they are compared here, and last. */
static ferry_status finish_ports(const struct fy_place *place, const struct fy_log *log,
                                 struct fy_config *config)
{
    config->min_port = (uint32_t)fy_config_int(config, "min_port", FY_MIN_PORT);
    config->max_port = (uint32_t)fy_config_int(config, "max_port", FY_MAX_PORT);
    config->default_port = (uint32_t)fy_config_int(config, "default_port", 12001);
    if (config->min_port > config->max_port)
        return fy_fail_at(place, "\"ferry.min_port\" is %u, above \"ferry.max_port\" %u",
                          config->min_port, config->max_port);
    if (config->max_port >= 32768 && config->min_port <= 60999)
        fy_say_at(log, FERRY_LOG_WARN, place,
                  "random ports from %u to %u meet those of outgoing connections (32768 to "
                  "60999): some may be taken at the wrong moment",
                  config->min_port, config->max_port);
    return FERRY_OK;
}

static ferry_status finish(const struct fy_places *places, const struct ferry_options *options,
                           const struct fy_log *log, struct fy_config *config)
{
    const cJSON *level = cJSON_GetObjectItemCaseSensitive(config->ferry, "log_level");
    ferry_status status = finish_role(places, log, config);

    if (status == FERRY_OK)
        status = finish_cluster(config);
    if (status == FERRY_OK)
        status = finish_ports(&places->ports, log, config);
    if (status == FERRY_OK)
        status = copy_text(config, "bind", &config->bind);
    if (status == FERRY_OK)
        status = copy_text(config, "advertise", &config->advertise);
    if (status == FERRY_OK)
        status = copy_text(config, "plugin_path", &config->plugin_path);
    if (status == FERRY_OK && !config->metadata_server)
        status = fy_set_text(&config->metadata_server, fy_rule_p2p);
    config->ipv6 = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(config->ferry, "ipv6"));
    config->log_level = options->log_level;
    if (!config->log_level && cJSON_IsNumber(level))
        config->log_level = level->valueint;
    else if (!config->log_level && cJSON_IsString(level))
        config->log_level = fy_level_by_name(level->valuestring);
    return status;
}

static struct fy_places places_in(const char *name)
{
    const struct fy_place place = {.name = name};

    return (struct fy_places){place, place, place};
}

static ferry_status check_role(const char *role)
{
    if (!role || !*role || strcmp(role, "prefill") == 0 || strcmp(role, "decode") == 0)
        return FERRY_OK;
    return fy_fail(FERRY_EINVAL, "role \"%.60s\"; allowed are \"prefill\" and \"decode\"",
                   role);
}

ferry_status fy_config_parse(const char *text, size_t len, int yaml, const char *name,
                             const char *role, const struct fy_log *log,
                             struct fy_config **config_out)
{
    const struct ferry_options options = {.size = sizeof(options)};
    struct fy_places places = places_in(name);
    struct fy_config *config;
    ferry_status status = check_role(role);

    if (status == FERRY_OK)
        status = config_new(name, role, &config);
    if (status != FERRY_OK)
        return status;
    status = take_text(text, len, yaml, name, FY_HOME_TOP, log, config, &places);
    if (status == FERRY_OK)
        status = finish(&places, &options, log, config);
    if (status != FERRY_OK)
        fy_config_free(config);
    else
        *config_out = config;
    return status;
}

/* `text` NULL = no file. */
static ferry_status load(const char *text, size_t len, const char *path, const char *role,
                         const struct ferry_options *given, const struct fy_log *log,
                         struct fy_config **config_out)
{
    struct fy_places places = places_in(path ? path : "configuration");
    struct ferry_options options;
    struct fy_config *config;
    ferry_status status = check_role(role);

    if (status == FERRY_OK)
        status = options_copy(given, &options);
    if (status == FERRY_OK)
        status = config_new(path, role, &config);
    if (status != FERRY_OK)
        return status;
    if (text)
        status = take_text(text, len, ends_in(path, ".yaml") || ends_in(path, ".yml"), path,
                           FY_HOME_TOP, log, config, &places);
    if (status == FERRY_OK)
        status = take_options(&options, log, config, &places);
    if (status == FERRY_OK)
        status = take_environment(log, config);
    if (status == FERRY_OK)
        status = finish(&places, &options, log, config);
    if (status != FERRY_OK)
        fy_config_free(config);
    else
        *config_out = config;
    return status;
}

ferry_status fy_config_from_file(const char *path, const char *role,
                                 const struct ferry_options *options, const struct fy_log *log,
                                 struct fy_config **config_out)
{
    ferry_status status;
    char *text = NULL;
    size_t len = 0;

    if (!path)
        path = getenv(fy_env_config_path);
    if (!path || !*path)
        return fy_fail(FERRY_ENOENT, "no configuration: give a path or set %s",
                       fy_env_config_path);
    status = read_file(path, &text, &len);
    if (status != FERRY_OK)
        return status;
    status = load(text, len, path, role, options, log, config_out);
    free(text);
    return status;
}

ferry_status fy_config_from_options(const struct ferry_options *options,
                                    const struct fy_log *log, struct fy_config **config_out)
{
    return load(NULL, 0, NULL, NULL, options, log, config_out);
}
