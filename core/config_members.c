/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The members of mooncake.json: the one table of those that are known, and the walk that holds
 * a file against it. What a value of a rule's own means is in config_rules.c; plugins' sections
 * pass unseen but for their names.
 */
#include <cjson/cJSON.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "config_parts.h"
#include "error.h"
#include "util/buf.h"

#define TOP(name, type, otherwise, help)                                                       \
    {                                                                                          \
        name, FY_HOME_TOP, type, 0, 0, otherwise, help                                         \
    }
#define OWN(name, type, min, max, otherwise, help)                                             \
    {                                                                                          \
        name, FY_HOME_FERRY, type, min, max, otherwise, help                                   \
    }
#define STORE(name, help)                                                                      \
    {                                                                                          \
        name, FY_HOME_STORE, FY_TYPE_ANY, 0, 0, "", help                                       \
    }

const struct fy_member fy_members[] = {
    TOP("prefill_url", FY_TYPE_TEXT, "",
        "\"host:port\" of the prefill node: our name in that role, else the peer's"),
    TOP("decode_url", FY_TYPE_TEXT, "",
        "\"host:port\" of the decode node: our name in that role, else the peer's"),
    TOP("metadata_server", FY_TYPE_TEXT, "P2PHANDSHAKE",
        "where nodes publish themselves: \"host:port\", a URL, or P2PHANDSHAKE for no server"),
    TOP("metadata_backend", FY_TYPE_TEXT, "",
        "deprecated: the scheme of a metadata_server that has none"),
    TOP("protocol", FY_TYPE_NAMES, "automatic",
        "one transport, or several in order of preference: with commas between, or as a list"),
    TOP("device_name", FY_TYPE_TEXT, "all",
        "network devices to use, with commas between; for transports that choose among them"),
    TOP("ferry", FY_TYPE_OBJECT, "{}", "Ferry's own settings, which Mooncake passes over"),

    OWN("name", FY_TYPE_TEXT, 0, 0, "from the role's URL",
        "\"host:port\" that peers use for this node, where no role gives it"),
    OWN("bind", FY_TYPE_TEXT, 0, 0, "every address", "address to listen on"),
    OWN("advertise", FY_TYPE_TEXT, 0, 0, "the host of the name",
        "host that is published for peers to connect to"),
    OWN("ipv6", FY_TYPE_BOOL, 0, 0, "false",
        "prefer an IPv6 address where Ferry finds the published one out itself"),
    OWN("default_port", FY_TYPE_INT, 1, 65535, "12001",
        "control port of names that have none (without a metadata server)"),
    OWN("min_port", FY_TYPE_INT, 1024, 65535, "15000", "lowest port chosen at random"),
    OWN("max_port", FY_TYPE_INT, 1024, 65535, "17000", "highest port chosen at random"),
    OWN("cluster_id", FY_TYPE_TEXT, 0, 0, "none",
        "keeps clusters apart that share a metadata server"),
    OWN("timeout_ms", FY_TYPE_INT, 1, 86400000, "30000",
        "time limit of a batch that names none, before 1 s is added for each 64 MiB"),
    OWN("connect_timeout_ms", FY_TYPE_INT, 1, 3600000, "5000",
        "time limit for reaching a peer's control port"),
    OWN("control_max_len", FY_TYPE_INT, 1048576, 134217728, "134217728",
        "longest control message accepted, in bytes"),
    OWN("queues", FY_TYPE_INT, 0, 64, "0", "queues opened on each transport; 0 = by itself"),
    OWN("spin_us", FY_TYPE_INT, 0, 1000000, "50",
        "how long a waiting caller spins before it sleeps; 0 on one processor"),
    OWN("max_spinners", FY_TYPE_INT, 0, 1024, "half the processors",
        "callers that may spin at once"),
    OWN("stripe_min_bytes", FY_TYPE_INT, 0, 1099511627776, "2 MiB; 0 on two processors",
        "bytes to one peer from which a batch is split over its connections; 0 = never"),
    OWN("feedback", FY_TYPE_BOOL, 0, 0, "true",
        "without a protocol: a transport that is measured to be clearly faster takes over"),
    OWN("status_socket", FY_TYPE_BOOL, 0, 0, "true",
        "a socket of this user's alone, where `ferry links` asks this node"),
    OWN("plugin_path", FY_TYPE_TEXT, 0, 0, "none",
        "absolute directories with plugins, with colons between"),
    OWN("log_level", FY_TYPE_LEVEL, 0, 4, "the caller's", "error, warn, info, debug or trace"),

    STORE("local_hostname", "name of a store's client; ferry.name is ours"),
    STORE("master_server_address", "the store's master"),
    STORE("master_metrics_port", "the store's master"),
    STORE("global_segment_size", "memory lent to the store"),
    STORE("local_buffer_size", "the store's own buffer"),
    STORE("mode", "the store's arrangement"),
    STORE("tenant_id", "the store's tenants"),
    STORE("preferred_segment", "the store's placement"),
    STORE("device_name_per_gpu", "devices of each of the store's clients"),
    STORE("enable_offload", "the store's disk tier"),
    STORE("enable_ssd_offload", "the store's disk tier"),
    STORE("ssd_offload_path", "the store's disk tier"),
    STORE("storage_root_dir", "the store's disk tier"),
    STORE("standalone_storage", "the store's arrangement"),
    STORE("client_server_address", "the store's stand-alone client"),
    STORE("check_server", "the store's start-up"),
    STORE("transfer_timeout", "the store's requests; ferry.timeout_ms is ours"),
    STORE("mooncake_prefer_local_alloc", "the store's placement"),
    STORE("use_exists_sync", "the store's look-ups"),
    STORE("save_chunk_meta", "the store's values"),
    STORE("use_ascend_direct", "the store on Ascend devices"),
    STORE("alloc_in_same_node", "the store's placement"),
};
const size_t fy_members_n = sizeof(fy_members) / sizeof(fy_members[0]);

const struct fy_member *fy_member_find(enum fy_member_home home, const char *name)
{
    for (size_t i = 0; i < fy_members_n; i++)
        if (fy_members[i].home == home && strcmp(fy_members[i].name, name) == 0)
            return &fy_members[i];
    return NULL;
}

/* ---- words ---- */

#define WORD_MAX 32

static size_t letters(const char *word, char out[WORD_MAX])
{
    size_t n = 0;

    for (; *word && n < WORD_MAX - 1; word++)
        if (*word != '_' && *word != '-')
            out[n++] = (char)tolower((unsigned char)*word);
    out[n] = 0;
    return n;
}

static size_t min3(size_t a, size_t b, size_t c)
{
    a = a < b ? a : b;
    return a < c ? a : c;
}

int fy_word_is_near(const char *word, const char *known)
{
    char a[WORD_MAX], b[WORD_MAX];
    size_t rows[3][WORD_MAX + 1];
    size_t n, m;

    if (strcmp(word, known) == 0 || strlen(word) >= WORD_MAX || strlen(known) >= WORD_MAX)
        return 0;
    n = letters(word, a);
    m = letters(known, b);
    for (size_t j = 0; j <= m; j++)
        rows[0][j] = j;
    for (size_t i = 1; i <= n; i++) {
        size_t *now = rows[i % 3], *up = rows[(i + 2) % 3], *up2 = rows[(i + 1) % 3];

        now[0] = i;
        for (size_t j = 1; j <= m; j++) {
            now[j] = min3(up[j] + 1, now[j - 1] + 1, up[j - 1] + (a[i - 1] != b[j - 1]));
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                up2[j - 2] + 1 < now[j])
                now[j] = up2[j - 2] + 1;
        }
    }
    return rows[n % 3][m] <= (m > 5 ? 2u : 1u);
}

int fy_level_by_name(const char *name)
{
    static const char *const names[] = {"error", "warn", "info", "debug", "trace"};

    for (int i = 0; i < 5; i++)
        if (strcasecmp(name, names[i]) == 0)
            return i;
    return strcasecmp(name, "warning") == 0 ? FERRY_LOG_WARN : -1;
}

ferry_status fy_set_text(char **out, const char *value)
{
    char *copy = strdup(value);

    if (!copy)
        return fy_fail(FERRY_ENOMEM, "out of memory for the configuration");
    free(*out);
    *out = copy;
    return FERRY_OK;
}

/* ---- the walk ---- */

struct walk {
    const char *name;
    const struct fy_log *log;
    enum fy_member_home home; /* what is being read: TOP or FERRY */
    struct fy_buf ignored;    /* members of Mooncake's store, for one line */
    uint32_t ignored_line, ignored_column;
    struct fy_places *places;
};

static struct fy_place place_of(const struct walk *w, const struct fy_node *node, int of_key)
{
    return (struct fy_place){w->name, of_key ? node->key_line : node->line,
                             of_key ? node->key_column : node->column};
}

static const char *path_of(const struct walk *w)
{
    return w->home == FY_HOME_FERRY ? "ferry." : "";
}

static ferry_status wrong_type(const struct walk *w, const struct fy_node *node,
                               const char *wanted)
{
    const struct fy_place place = place_of(w, node, 0);

    return fy_fail_at(&place, "\"%s%s\" is %s; allowed is %s", path_of(w), node->key,
                      fy_node_kind_name(node->kind), wanted);
}

static ferry_status check_type(const struct walk *w, const struct fy_member *member,
                               const struct fy_node *node)
{
    const struct fy_place place = place_of(w, node, 0);
    char wanted[96];

    switch (member->type) {
    case FY_TYPE_TEXT:
        if (node->kind == FY_NODE_LIST)
            return wrong_type(w, node, "one text; several names have commas between: \"a,b\"");
        return node->kind == FY_NODE_TEXT ? FERRY_OK
                                          : wrong_type(w, node, "text, in double quotes");
    case FY_TYPE_NAMES:
        if (node->kind != FY_NODE_TEXT && node->kind != FY_NODE_LIST)
            return wrong_type(w, node, "text, or a list of texts");
        for (const struct fy_node *one = node->child; one; one = one->next) {
            const struct fy_place at = place_of(w, one, 0);

            if (one->kind != FY_NODE_TEXT || !one->text[0] || strchr(one->text, ','))
                return fy_fail_at(
                    &at, "\"%s\" has %s%s%s in its list; allowed is one name each", node->key,
                    fy_node_kind_name(one->kind), one->kind == FY_NODE_TEXT ? " " : "",
                    one->kind == FY_NODE_TEXT ? one->text : "");
        }
        return FERRY_OK;
    case FY_TYPE_BOOL:
        return node->kind == FY_NODE_BOOL ? FERRY_OK : wrong_type(w, node, "true or false");
    case FY_TYPE_OBJECT:
        return node->kind == FY_NODE_OBJECT ? FERRY_OK
                                            : wrong_type(w, node, "an object, {...}");
    case FY_TYPE_LEVEL:
        if (node->kind == FY_NODE_NUMBER && node->number >= 0 && node->number <= 4 &&
            fy_is_whole(node->number))
            return FERRY_OK;
        if (node->kind != FY_NODE_TEXT && node->kind != FY_NODE_NUMBER)
            return wrong_type(w, node, "error, warn, info, debug or trace");
        if (node->kind == FY_NODE_TEXT && fy_level_by_name(node->text) >= 0)
            return FERRY_OK;
        return fy_fail_at(&place,
                          "\"%s%s\" is %.60s; allowed are error, warn, info, debug, trace",
                          path_of(w), node->key, node->text);
    case FY_TYPE_INT:
        snprintf(wanted, sizeof(wanted), "a whole number from %lld to %lld",
                 (long long)member->min, (long long)member->max);
        if (node->kind != FY_NODE_NUMBER)
            return wrong_type(w, node, wanted);
        if (!fy_is_whole(node->number) || node->number < (double)member->min ||
            node->number > (double)member->max)
            return fy_fail_at(&place, "\"%s%s\" is %.40s; allowed is %s", path_of(w), node->key,
                              node->text, wanted);
        return FERRY_OK;
    default:
        return FERRY_OK;
    }
}

/* A name that is in no table of this place: an error where it is a slip, else one line. */
static ferry_status unknown(const struct walk *w, const struct fy_node *node)
{
    const struct fy_place place = place_of(w, node, 1);
    const enum fy_member_home other = w->home == FY_HOME_TOP ? FY_HOME_FERRY : FY_HOME_TOP;
    const char *near_store = NULL;

    for (size_t i = 0; i < fy_members_n; i++) {
        if (!fy_word_is_near(node->key, fy_members[i].name))
            continue;
        if (fy_members[i].home == w->home)
            return fy_fail_at(&place, "unknown member \"%s%.60s\"; did you mean \"%s%s\"?",
                              path_of(w), node->key, path_of(w), fy_members[i].name);
        if (fy_members[i].home == FY_HOME_STORE && w->home == FY_HOME_TOP)
            near_store = fy_members[i].name;
    }
    if (fy_member_find(other, node->key))
        fy_say_at(w->log, FERRY_LOG_WARN, &place, "\"%s\" has no effect here; it belongs %s",
                  node->key,
                  other == FY_HOME_FERRY ? "into the object \"ferry\""
                                         : "outside of the object \"ferry\"");
    else if (near_store)
        fy_say_at(w->log, FERRY_LOG_WARN, &place,
                  "unknown member \"%.60s\", near \"%s\" of Mooncake's store, has no effect",
                  node->key, near_store);
    else
        fy_say_at(w->log, FERRY_LOG_WARN, &place, "unknown member \"%s%.60s\" has no effect%s",
                  path_of(w), node->key,
                  w->home == FY_HOME_FERRY ? "; a plugin's settings are an object, {...}" : "");
    return FERRY_OK;
}

/* Names in a plugin's section become keys, which have dots between levels. */
static ferry_status check_section(const struct walk *w, const struct fy_node *node)
{
    for (const struct fy_node *child = node->child; child; child = child->next) {
        const struct fy_place place = place_of(w, child, 1);
        ferry_status status;

        if (child->key &&
            (!child->key[0] ||
             child->key[strspn(child->key, "abcdefghijklmnopqrstuvwxyz0123456789_")]))
            return fy_fail_at(&place,
                              "\"%.60s\" is no name for a setting: a-z, 0-9 and _ are allowed",
                              child->key);
        status = check_section(w, child);
        if (status != FERRY_OK)
            return status;
    }
    return FERRY_OK;
}

/* Plugins get the core's own values under "core.": no setting may look like one. */
static ferry_status check_reserved(const struct walk *w, const struct fy_node *section)
{
    for (const struct fy_node *child = section->child; child; child = child->next) {
        const struct fy_place place = place_of(w, child, 1);

        if (strcmp(child->key, "core") == 0)
            return fy_fail_at(&place, "\"ferry.%.60s.core\" is reserved", section->key);
    }
    return FERRY_OK;
}

static ferry_status ignore(struct walk *w, const struct fy_node *node)
{
    if (!w->ignored.len) {
        w->ignored_line = node->key_line;
        w->ignored_column = node->key_column;
    }
    return fy_buf_printf(&w->ignored, "%s%s", w->ignored.len ? ", " : "", node->key);
}

/* An object joined into another: members of `from` win, objects are joined in turn. */
static ferry_status merge(cJSON *into, cJSON *from)
{
    cJSON *item;

    while ((item = from->child)) {
        cJSON *there = cJSON_GetObjectItemCaseSensitive(into, item->string);

        if (cJSON_IsObject(item) && cJSON_IsObject(there)) {
            ferry_status status = merge(there, item);

            if (status != FERRY_OK)
                return status;
            cJSON_Delete(cJSON_DetachItemViaPointer(from, item));
            continue;
        }
        if (there)
            cJSON_Delete(cJSON_DetachItemViaPointer(into, there));
        cJSON_DetachItemViaPointer(from, item);
        if (!cJSON_AddItemToObject(into, item->string, item)) {
            cJSON_Delete(item);
            return fy_fail(FERRY_ENOMEM, "out of memory for the configuration");
        }
    }
    return FERRY_OK;
}

static ferry_status take_ferry(struct walk *w, const struct fy_node *object,
                               struct fy_config *config)
{
    ferry_status status = FERRY_OK;
    cJSON *json;

    w->home = FY_HOME_FERRY;
    for (const struct fy_node *node = object->child; status == FERRY_OK && node;
         node = node->next) {
        const struct fy_member *member = fy_member_find(FY_HOME_FERRY, node->key);

        if (node->kind == FY_NODE_NULL)
            continue;
        if (strcmp(node->key, "name") == 0)
            w->places->name = place_of(w, node, 0);
        if (strcmp(node->key, "min_port") == 0 || strcmp(node->key, "max_port") == 0)
            w->places->ports = place_of(w, node, 0);
        if (member)
            status = check_type(w, member, node);
        else if (node->kind != FY_NODE_OBJECT)
            status = unknown(w, node);
        else
            status = check_reserved(w, node);
    }
    if (status == FERRY_OK)
        status = check_section(w, object);
    w->home = FY_HOME_TOP;
    if (status != FERRY_OK)
        return status;

    json = fy_tree_to_cjson(object);
    if (!json)
        return fy_fail(FERRY_ENOMEM, "out of memory for the configuration");
    status = merge(config->ferry, json);
    cJSON_Delete(json);
    return status;
}

/* The value of one member, from its node; "" and null are as if it were absent. */
static const char *text_of(const struct fy_node *node)
{
    return node && node->kind == FY_NODE_TEXT && node->text[0] ? node->text : NULL;
}

/* A list is the same as its names with commas between. */
static ferry_status take_protocol(struct walk *w, const struct fy_node *node,
                                  struct fy_config *config)
{
    const struct fy_place place = place_of(w, node, 0);
    struct fy_buf names;
    ferry_status status = FERRY_OK;

    if (node->kind == FY_NODE_TEXT)
        return fy_rule_protocol(&place, node->text, w->log, &config->protocol);
    fy_buf_init(&names, 0);
    for (const struct fy_node *one = node->child; one && !status; one = one->next)
        status = fy_buf_printf(&names, "%s%s", names.len ? "," : "", one->text);
    if (!status)
        status =
            fy_rule_protocol(&place, names.data ? names.data : "", w->log, &config->protocol);
    fy_buf_fini(&names);
    return status;
}

static ferry_status take_values(struct walk *w, const struct fy_node *root,
                                struct fy_config *config)
{
    const struct fy_node *server = NULL, *backend = NULL, *decode = NULL;
    ferry_status status = FERRY_OK;

    for (const struct fy_node *node = root->child; status == FERRY_OK && node;
         node = node->next) {
        const struct fy_place place = place_of(w, node, 0);

        if (strcmp(node->key, "metadata_server") == 0)
            server = node;
        else if (strcmp(node->key, "metadata_backend") == 0)
            backend = node;
        else if (strcmp(node->key, "decode_url") == 0)
            decode = node;
        else if (node->kind == FY_NODE_NULL)
            continue;
        else if (strcmp(node->key, "prefill_url") == 0)
            status = fy_rule_url(&place, node->key, node->text, &config->prefill_url);
        else if (strcmp(node->key, "protocol") == 0)
            status = take_protocol(w, node, config);
        else if (strcmp(node->key, "device_name") == 0)
            status = fy_rule_devices(&place, node->text, w->log, &config->device_name);
        else if (strcmp(node->key, "ferry") == 0)
            status = take_ferry(w, node, config);
    }
    if (status == FERRY_OK && decode && decode->kind != FY_NODE_NULL) {
        const struct fy_place place = place_of(w, decode, 0);

        status = fy_rule_url(&place, decode->key, decode->text, &config->decode_url);
        if (status == FERRY_OK)
            status = fy_rule_ports(&place, w->log, config);
    }
    if (status != FERRY_OK)
        return status;
    if (text_of(backend)) {
        const struct fy_place place = place_of(w, backend, 1);

        fy_say_at(w->log, FERRY_LOG_WARN, &place,
                  "\"metadata_backend\" is deprecated; write the scheme into "
                  "\"metadata_server\": \"SCHEME://host:port\"");
    }
    if (text_of(server)) {
        const struct fy_place place = place_of(w, server, 0);
        struct fy_place other = place;

        if (backend)
            other = place_of(w, backend, 0);
        status = fy_rule_metadata(&place, server->text, &other, text_of(backend), w->log,
                                  &config->metadata_server);
    }
    return status;
}

ferry_status fy_members_take(const struct fy_node *root, enum fy_member_home home,
                             const char *name, const struct fy_log *log,
                             struct fy_config *config, struct fy_places *places)
{
    struct walk w = {.name = name, .log = log, .home = FY_HOME_TOP, .places = places};
    ferry_status status = FERRY_OK;

    places->root = place_of(&w, root, 0);
    if (root->kind != FY_NODE_OBJECT) {
        const struct fy_place place = place_of(&w, root, 0);

        return fy_fail_at(&place, "this is %s; allowed is an object, {\"member\": value, ...}",
                          fy_node_kind_name(root->kind));
    }
    if (home == FY_HOME_FERRY)
        return take_ferry(&w, root, config);

    fy_buf_init(&w.ignored, 0);
    for (const struct fy_node *node = root->child; status == FERRY_OK && node;
         node = node->next) {
        const struct fy_member *member = fy_member_find(FY_HOME_TOP, node->key);

        if (member)
            status = node->kind == FY_NODE_NULL ? FERRY_OK : check_type(&w, member, node);
        else if (fy_member_find(FY_HOME_STORE, node->key))
            status = ignore(&w, node);
        else
            status = unknown(&w, node);
    }
    if (status == FERRY_OK)
        status = take_values(&w, root, config);
    if (status == FERRY_OK && w.ignored.len) {
        const struct fy_place place = {name, w.ignored_line, w.ignored_column};

        fy_say_at(log, FERRY_LOG_INFO, &place, "for Mooncake's store only, ignored: %s",
                  w.ignored.data);
    }
    fy_buf_fini(&w.ignored);
    return status;
}
