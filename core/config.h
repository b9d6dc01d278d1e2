/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FY_CONFIG_H
#define FY_CONFIG_H

#include "ferry/ferry.h"
#include "log.h"
#include "util/kv.h"

struct cJSON;

/* What the configuration came to: file, options and environment joined. Strings are owned; NULL
 * = not said. */
struct fy_config {
    char *path;                     /* of the file, for messages; NULL = none */
    char *role;                     /* "prefill", "decode" or "" */
    char *name;                     /* our "host:port" (port 0 or none = any) */
    char *peer_name;                /* the other role's "host:port"; NULL = none */
    char *prefill_url, *decode_url; /* after the rules for equal URLs */
    char *bind;                     /* address to listen on */
    char *advertise;                /* host that is published; NULL = that of the name */
    char *metadata_server;          /* full URL with scheme, or "P2PHANDSHAKE" */
    char *protocol;                 /* comma list in order of preference; NULL = automatic */
    char *device_name;              /* comma list; NULL = all */
    char *plugin_path;
    char *cluster_id;    /* MC_METADATA_CLUSTER_ID: "" = none, else with its slash: "prod/" */
    struct cJSON *ferry; /* the object "ferry": {} if there is none */
    uint32_t min_port, max_port; /* for random ports; 15000 to 17000 */
    uint32_t default_port;       /* of names without one; 12001 */
    int ipv6;                    /* prefer IPv6 where the published address is found out */
    int log_level;               /* enum ferry_log_level: options', else the file's */
};

/*
 * `path` NULL = MOONCAKE_CONFIG_PATH; FERRY_ENOENT where that is not set either. `options` may
 * be NULL and wins over the file; the environment (MC_*) fills what neither says. Warnings go
 * to `log` and name file, line and column. Errors: FERRY_EINVAL, text "mooncake.json:3:5: ...".
 */
ferry_status fy_config_from_file(const char *path, const char *role,
                                 const struct ferry_options *options, const struct fy_log *log,
                                 struct fy_config **config_out);
/* Without a file. */
ferry_status fy_config_from_options(const struct ferry_options *options,
                                    const struct fy_log *log, struct fy_config **config_out);
/* The parser itself, on text (fuzz target): `yaml` says which language; `name` is for messages.
 */
ferry_status fy_config_parse(const char *text, size_t len, int yaml, const char *name,
                             const char *role, const struct fy_log *log,
                             struct fy_config **config_out);
void fy_config_free(struct fy_config *config);

/* The members of ferry.SECTION flattened to text keys ("rx.depth"), as plugins get them. An
 * absent section is an empty list. Environment variables that map to a plugin's key are
 * included. */
ferry_status fy_config_section(const struct fy_config *config, const char *section,
                               struct fy_kv *out);
/* A number of the object "ferry" (ferry.timeout_ms ...), which was checked against the table of
 * members when it was read; `otherwise` where it is not said. */
int64_t fy_config_int(const struct fy_config *config, const char *member, int64_t otherwise);
/* true or false of it, likewise. */
int fy_config_bool(const struct fy_config *config, const char *member, int otherwise);
/* A URL fit for messages: user:***@ in place of a password. Cut to `room`. */
void fy_config_hide(const char *url, char *out, size_t room);
/* For ferry_engine_describe "config": everything as understood, passwords replaced by "***". */
struct cJSON *fy_config_describe(const struct fy_config *config);

#endif /* FY_CONFIG_H */
