/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Mooncake's environment variables and what becomes of each: the one table, and its reading.
 * This is the only file of the core that may name plugins, because upstream's names do; nothing
 * here acts on such a name, it is a key in the configuration like any user's.
 */
#include <cjson/cJSON.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config_parts.h"
#include "error.h"
#include "util/buf.h"

const char fy_env_config_path[] = "MOONCAKE_CONFIG_PATH";
const char fy_env_force[] = "MC_FORCE_TCP";
const char fy_env_force_to[] = "tcp";
const char fy_env_bare_scheme[] = "etcd";

#define RULE(name, help)                                                                       \
    {                                                                                          \
        name, NULL, FY_ENV_RULE, NULL, NULL, FY_ENV_TEXT, 0, 0, 0, help                        \
    }
#define CORE_TEXT(name, key, help)                                                             \
    {                                                                                          \
        name, NULL, FY_ENV_CORE, NULL, key, FY_ENV_TEXT, 0, 0, 0, help                         \
    }
#define CORE_INT(name, key, min, max, scale, help)                                             \
    {                                                                                          \
        name, NULL, FY_ENV_CORE, NULL, key, FY_ENV_INT, min, max, scale, help                  \
    }
#define CORE_PORT(name, alias, key, help)                                                      \
    {                                                                                          \
        name, alias, FY_ENV_CORE, NULL, key, FY_ENV_PORT, 1024, 65535, 1, help                 \
    }
#define PLUGIN_TEXT(name, section, key, help)                                                  \
    {                                                                                          \
        name, NULL, FY_ENV_PLUGIN, section, key, FY_ENV_TEXT, 0, 0, 0, help                    \
    }
#define PLUGIN_INT(name, alias, section, key, min, max, help)                                  \
    {                                                                                          \
        name, alias, FY_ENV_PLUGIN, section, key, FY_ENV_INT, min, max, 1, help                \
    }
#define PLUGIN_NEAREST(name, section, key, min, max, help)                                     \
    {                                                                                          \
        name, NULL, FY_ENV_PLUGIN, section, key, FY_ENV_NEAREST, min, max, 1, help             \
    }
#define IGNORED(name, help)                                                                    \
    {                                                                                          \
        name, NULL, FY_ENV_IGNORED, NULL, NULL, FY_ENV_TEXT, 0, 0, 0, help                     \
    }

const struct fy_env fy_envs[] = {
    RULE("MOONCAKE_CONFIG_PATH", "the file, where no path is given"),
    RULE("FERRY_PLUGIN_PATH", "directories with plugins, before all others"),
    RULE("MC_FORCE_TCP", "set to anything: the protocol is tcp, whatever else says"),

    CORE_TEXT("MC_METADATA_CLUSTER_ID", "cluster_id",
              "keeps clusters apart that share a metadata server"),
    CORE_PORT("MC_MIN_RPC_PORT", "MC_MIN_PRC_PORT", "min_port", "lowest port chosen at random"),
    CORE_PORT("MC_MAX_RPC_PORT", "MC_MAX_PRC_PORT", "max_port",
              "highest port chosen at random"),
    CORE_INT("MC_HANDSHAKE_PORT", "default_port", 1, 65535, 1,
             "control port of names that have none"),
    {"MC_TCP_BIND_ADDRESS", NULL, FY_ENV_STORE, NULL, "advertise", FY_ENV_TEXT, 0, 0, 0,
     "host that is published at a metadata server; as with Mooncake nothing is bound to it"},
    {"MC_USE_IPV6", NULL, FY_ENV_CORE, NULL, "ipv6", FY_ENV_FLAG, 0, 0, 0,
     "set to anything: prefer an IPv6 address where the published one is found out"},
    {"MC_TRANSFER_TIMEOUT", NULL, FY_ENV_CORE, NULL, "timeout_ms", FY_ENV_NEAREST, 5, 86400,
     1000, "seconds for a batch that names no limit"},
    CORE_INT("MC_HANDSHAKE_CONNECT_TIMEOUT", "connect_timeout_ms", 1, 3600, 1000,
             "seconds for reaching a peer's control port"),
    CORE_INT("MC_HANDSHAKE_MAX_LENGTH", "control_max_len", 1048576, 134217728, 1,
             "longest control message accepted, in bytes"),
    {"MC_LOG_LEVEL", NULL, FY_ENV_CORE, NULL, "log_level", FY_ENV_LEVEL, 0, 0, 0,
     "TRACE, INFO, WARNING or ERROR"},

    PLUGIN_TEXT("MC_REDIS_USERNAME", "redis", "username", "user for AUTH"),
    PLUGIN_TEXT("MC_REDIS_PASSWORD", "redis", "password", "password for AUTH"),
    PLUGIN_INT("MC_REDIS_DB_INDEX", NULL, "redis", "db", 0, 255, "number of the database"),

    PLUGIN_INT("MC_GID_INDEX", "NCCL_IB_GID_INDEX", "rdma", "gid_index", 0, 255,
               "entry of the port's GID table"),
    PLUGIN_INT("MC_IB_PORT", NULL, "rdma", "port", 1, 255, "port of the device"),
    PLUGIN_INT("MC_IB_TC", NULL, "rdma", "traffic_class", 0, 255, "traffic class"),
    PLUGIN_INT("MC_IB_SL", NULL, "rdma", "service_level", 0, 15, "service level"),
    PLUGIN_INT("MC_PKEY_INDEX", NULL, "rdma", "pkey_index", 0, 65535,
               "entry of the partition key table"),
    PLUGIN_INT("MC_MTU", NULL, "rdma", "mtu", 256, 4096, "largest path MTU, in bytes"),
    PLUGIN_NEAREST("MC_NUM_QP_PER_EP", "rdma", "qp_per_peer", 1, 16,
                   "queue pairs for each pair of devices"),
    PLUGIN_NEAREST("MC_MAX_WR", "rdma", "max_wr", 4, 16384, "depth of a queue pair"),
    PLUGIN_NEAREST("MC_MAX_INLINE", "rdma", "max_inline", 0, 1024,
                   "bytes sent within a work request"),
    PLUGIN_NEAREST("MC_MAX_CQE_PER_CTX", "rdma", "max_cqe", 16, 4194304,
                   "depth of a completion queue"),
    PLUGIN_INT("MC_RETRY_CNT", NULL, "rdma", "retry_count", 1, 127,
               "attempts before a path is given up"),
    PLUGIN_INT("MC_IB_PCI_RELAXED_ORDERING", NULL, "rdma", "relaxed_ordering", 0, 2,
               "0 = never, 1 = where the device can, 2 = always"),
    PLUGIN_INT("MC_MAX_MR_SIZE", NULL, "rdma", "max_mr_len", 4096, INT64_C(1) << 50,
               "longest memory region that is registered as one, in bytes"),
    PLUGIN_TEXT("MC_CUSTOM_TOPO_JSON", "rdma", "topology",
                "file that says which devices are near which memory"),

    IGNORED("MC_LEGACY_RPC_PORT_BINDING", "the port of a name is listened on where it is free"),
    IGNORED("MC_HANDSHAKE_LISTEN_BACKLOG", "the system's own limit is used"),
    IGNORED("MC_DISABLE_METACACHE", "a stale document is noticed by its epoch and read again"),
    IGNORED("MC_TE_METADATA_REFRESH_INTERVAL_SECONDS",
            "a stale document is noticed by its epoch and read again"),
    IGNORED("MC_MAX_SGE", "a work request has one piece"),
    IGNORED("MC_SLICE_SIZE", "each transport cuts transfers as suits it"),
    IGNORED("MC_FRAGMENT_RATIO", "each transport cuts transfers as suits it"),
    IGNORED("MC_SLICE_TIMEOUT", "the time limit of a batch holds for each part of it"),
    IGNORED("MC_LOG_DIR", "log lines go to the application"),
    IGNORED("MC_YLT_LOG_LEVEL", "concerns a library of Mooncake's"),
    IGNORED("MC_RPC_CLIENT_IO_THREADS", "concerns a library of Mooncake's"),
    IGNORED("MC_TE_RPC_CLIENT_IO_THREADS", "concerns a library of Mooncake's"),
    IGNORED("MC_TE_METRIC", "statistics are always counted; ferry_engine_describe reads them"),
    IGNORED("MC_TE_METRIC_INTERVAL_SECONDS",
            "statistics are always counted; ferry_engine_describe reads them"),
    IGNORED("MC_TE_FILTERS", "device_name names the devices"),
    IGNORED("MC_TE_FILTERS_EXCLUDE", "device_name names the devices"),
    IGNORED("MC_TCP_PROTO", "the framing without acknowledgements is spoken to old peers only"),
    IGNORED("MC_TCP_SLICE_SIZE", "each transport cuts transfers as suits it"),
    IGNORED("MC_TCP_ENABLE_CONNECTION_POOL", "connections are always kept"),
    IGNORED("MC_TCP_STATUS_TIMEOUT_SEC", "the time limit of the batch holds"),
    IGNORED("MC_TCP_LANES_PER_PEER", "ferry.queues is the like of it"),
    IGNORED("MC_TCP_MAX_CONNECTIONS_PER_PEER", "ferry.queues is the like of it"),
    IGNORED("MC_TCP_MAX_QUEUED_TRANSFERS_PER_PEER",
            "a batch holds what waits; there is no other queue"),
    IGNORED("MC_TCP_MAX_PENDING_ADMISSIONS_PER_PEER",
            "a batch holds what waits; there is no other queue"),
    IGNORED("MC_TCP_ADMISSION_TIMEOUT_MS", "the time limit of the batch holds"),
    IGNORED("MC_NUM_TCP_IO_THREADS", "ferry.tcp.threads is the like of it"),
    IGNORED("MC_FORCE_HCA", "chooses among transports of Mooncake's; protocol does so here"),
    IGNORED("MC_FORCE_MNNVL", "chooses among transports of Mooncake's; protocol does so here"),
    IGNORED("MC_INTRANODE_NVLINK",
            "chooses among transports of Mooncake's; protocol does so here"),
    IGNORED("MC_INTRA_NVLINK", "chooses among transports of Mooncake's; protocol does so here"),
    IGNORED("MC_USE_TENT", "chooses between two engines of Mooncake's"),
    IGNORED("MC_USE_TEV1", "chooses between two engines of Mooncake's"),
    IGNORED("MC_TENT_CONF", "configures another engine of Mooncake's"),
    IGNORED("MC_RPC_PROTOCOL", "concerns Mooncake's store"),
    IGNORED("MC_CXL_DEV_PATH", "there is no such transport here"),
    IGNORED("MC_CXL_DEV_SIZE", "there is no such transport here"),
    IGNORED("MC_EFA_NIC_SELECTION",
            "tunes Mooncake's RDMA code; there is nothing like it here"),
    IGNORED("MC_EFA_CQ_THREADS", "tunes Mooncake's RDMA code; there is nothing like it here"),
    IGNORED("MC_RDMA_BIND_ADDRESS", "nodes are known by one name on every transport"),
    IGNORED("MC_NUM_CQ_PER_CTX", "tunes Mooncake's RDMA code; there is nothing like it here"),
    IGNORED("MC_NUM_COMP_CHANNELS_PER_CTX",
            "tunes Mooncake's RDMA code; there is nothing like it here"),
    IGNORED("MC_MAX_EP_PER_CTX", "tunes Mooncake's RDMA code; there is nothing like it here"),
    IGNORED("MC_WORKERS_PER_CTX", "tunes Mooncake's RDMA code; there is nothing like it here"),
    IGNORED("MC_ENDPOINT_STORE_TYPE",
            "tunes Mooncake's RDMA code; there is nothing like it here"),
    IGNORED("MC_PATH_ROUNDROBIN", "tunes Mooncake's RDMA code; there is nothing like it here"),
    IGNORED("MC_ENABLE_DEST_DEVICE_AFFINITY",
            "tunes Mooncake's RDMA code; there is nothing like it here"),
    IGNORED("MC_ENABLE_HCA_PEER_AFFINITY",
            "tunes Mooncake's RDMA code; there is nothing like it here"),
    IGNORED("MC_NIC_PEER_AFFINITY",
            "tunes Mooncake's RDMA code; there is nothing like it here"),
    IGNORED("MC_ENABLE_PARALLEL_REG_MR",
            "tunes Mooncake's RDMA code; there is nothing like it here"),
    IGNORED("MC_MAX_CONCURRENT_REG_MR",
            "tunes Mooncake's RDMA code; there is nothing like it here"),
    IGNORED("MC_AUTO_GID_MAX_RETRIES",
            "tunes Mooncake's RDMA code; there is nothing like it here"),
    IGNORED("MC_MLX5_QP_UDP_SPORTS",
            "tunes Mooncake's RDMA code; there is nothing like it here"),
    IGNORED("MC_MLX5_QP_LAG_PORT_BALANCE",
            "tunes Mooncake's RDMA code; there is nothing like it here"),
    IGNORED("MC_RDMA_RAIL_PAUSE_SECONDS",
            "tunes Mooncake's RDMA code; there is nothing like it here"),
    IGNORED("MC_CONN_PAUSE_TTL_MS",
            "tunes Mooncake's RDMA code; there is nothing like it here"),
    IGNORED("MC_LOG_RDMA_SLICE_AFFINITY",
            "tunes Mooncake's RDMA code; there is nothing like it here"),
    IGNORED("MC_TRACK_RDMA_POSTED_SLICES",
            "tunes Mooncake's RDMA code; there is nothing like it here"),
    IGNORED("MC_DISABLE_GPU_DIRECT_RDMA",
            "tunes Mooncake's RDMA code; there is nothing like it here"),
    IGNORED("WITH_NVIDIA_PEERMEM", "tunes Mooncake's RDMA code; there is nothing like it here"),
};
const size_t fy_envs_n = sizeof(fy_envs) / sizeof(fy_envs[0]);

static int parse_int(const char *text, int64_t *out)
{
    char *end;

    errno = 0;
    *out = strtoll(text, &end, 10);
    return end != text && !*end && !errno;
}

static cJSON *integer_of(const struct fy_env *env, const char *name, const char *text,
                         const struct fy_log *log)
{
    int64_t number;

    if (!parse_int(text, &number) ||
        (env->type != FY_ENV_NEAREST && (number < env->min || number > env->max))) {
        FY_WARN(log,
                "environment: %s=%.60s is ignored; allowed is a whole number from %lld to %lld",
                name, text, (long long)env->min, (long long)env->max);
        return NULL;
    }
    if (number < env->min || number > env->max) {
        number = number < env->min ? env->min : env->max;
        FY_WARN(log, "environment: %s=%.60s counts as %lld; allowed is %lld to %lld", name,
                text, (long long)number, (long long)env->min, (long long)env->max);
    }
    if (env->type == FY_ENV_PORT && number >= 32768 && number <= 60999) {
        FY_WARN(log,
                "environment: %s=%.60s is ignored, as Mooncake ignores it: 32768 to 60999 is "
                "where outgoing connections take their ports",
                name, text);
        return NULL;
    }
    return cJSON_CreateNumber((double)(number * env->scale));
}

/* The value as the configuration has it; NULL: cannot be used, after a line saying so. */
static cJSON *value_of(const struct fy_env *env, const char *name, const char *text,
                       const struct fy_log *log)
{
    static const char *const levels[] = {"TRACE", "INFO", "WARNING", "ERROR", NULL};

    switch (env->type) {
    case FY_ENV_FLAG:
        return cJSON_CreateTrue();
    case FY_ENV_LEVEL:
        for (int i = 0; levels[i]; i++)
            if (strcmp(text, levels[i]) == 0)
                return cJSON_CreateNumber(fy_level_by_name(levels[i]));
        FY_WARN(log, "environment: %s=%.60s is ignored; allowed are %s", name, text, env->help);
        return NULL;
    case FY_ENV_INT:
    case FY_ENV_NEAREST:
    case FY_ENV_PORT:
        return integer_of(env, name, text, log);
    default:
        return cJSON_CreateString(text);
    }
}

static ferry_status fill(cJSON *ferry, const struct fy_env *env, const char *name,
                         const char *text, const struct fy_log *log)
{
    cJSON *object = ferry, *value;

    if (env->action == FY_ENV_PLUGIN) {
        object = cJSON_GetObjectItemCaseSensitive(ferry, env->section);
        if (object && !cJSON_IsObject(object))
            return FERRY_OK;
    }
    if (cJSON_GetObjectItemCaseSensitive(object, env->key)) {
        FY_DEBUG(log, "environment: %s is ignored: the configuration has %s", name, env->key);
        return FERRY_OK;
    }
    value = value_of(env, name, text, log);
    if (!value)
        return FERRY_OK;
    if (!object)
        object = cJSON_AddObjectToObject(ferry, env->section);
    if (!object || !cJSON_AddItemToObject(object, env->key, value)) {
        cJSON_Delete(value);
        return fy_fail(FERRY_ENOMEM, "out of memory for the configuration");
    }
    return FERRY_OK;
}

/* How it is set, NULL = it is not. */
static const char *set_as(const struct fy_env *env)
{
    const char *text = getenv(env->name);

    if (!text && env->alias && getenv(env->alias))
        return getenv(env->alias)[0] || env->type == FY_ENV_FLAG ? env->alias : NULL;
    return text && (*text || env->type == FY_ENV_FLAG) ? env->name : NULL;
}

static const struct fy_env *env_of(const char *key)
{
    size_t i = 0;

    while (!fy_envs[i].key || strcmp(fy_envs[i].key, key) != 0)
        i++;
    return &fy_envs[i];
}

/* Mooncake judges the two ends of its ports together, and keeps to its own range where they are
 * none. `theirs`: what the environment was to fill. */
static void judge_ports(cJSON *ferry, const bool theirs[2], const struct fy_log *log)
{
    static const char *const keys[2] = {"min_port", "max_port"};
    double port[2] = {FY_MIN_PORT, FY_MAX_PORT};
    bool usable = true;

    for (int i = 0; i < 2; i++) {
        const cJSON *value = cJSON_GetObjectItemCaseSensitive(ferry, keys[i]);

        usable &= value || !theirs[i];
        if (value)
            port[i] = cJSON_GetNumberValue(value);
    }
    if (usable && port[0] <= port[1])
        return;
    for (int i = 0; i < 2; i++) {
        if (!theirs[i])
            continue;
        if (cJSON_GetObjectItemCaseSensitive(ferry, keys[i]))
            FY_WARN(log,
                    "environment: %s is ignored, as Mooncake ignores it: the two ends of the "
                    "ports, %d and %d where they are not set, are no range",
                    set_as(env_of(keys[i])), FY_MIN_PORT, FY_MAX_PORT);
        cJSON_DeleteItemFromObjectCaseSensitive(ferry, keys[i]);
    }
}

ferry_status fy_env_apply(struct cJSON *ferry, int is_p2p, const struct fy_log *log)
{
    const bool ports[2] = {
        set_as(env_of("min_port")) && !cJSON_HasObjectItem(ferry, "min_port"),
        set_as(env_of("max_port")) && !cJSON_HasObjectItem(ferry, "max_port"),
    };
    ferry_status status = FERRY_OK;
    struct fy_buf ignored;

    fy_buf_init(&ignored, 0);
    for (size_t i = 0; status == FERRY_OK && i < fy_envs_n; i++) {
        const struct fy_env *env = &fy_envs[i];
        const char *name = set_as(env);

        if (!name || env->action == FY_ENV_RULE)
            continue;
        if (env->action == FY_ENV_IGNORED)
            status = fy_buf_printf(&ignored, "%s%s", ignored.len ? ", " : "", name);
        else if (env->action == FY_ENV_STORE && is_p2p)
            FY_WARN(log,
                    "environment: %s is ignored, as Mooncake ignores it: without a metadata "
                    "server a node is reached by the name that it was given",
                    name);
        else
            status = fill(ferry, env, name, getenv(name), log);
    }
    if (ports[0] || ports[1])
        judge_ports(ferry, ports, log);
    if (status == FERRY_OK && ignored.len)
        FY_WARN(log,
                "environment: set and without effect here (docs/configuration.md says "
                "why): %s",
                ignored.data);
    fy_buf_fini(&ignored);
    return status;
}
