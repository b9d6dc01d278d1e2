/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FY_CONFIG_PARTS_H
#define FY_CONFIG_PARTS_H

#include "config.h"
#include "config_tree.h"

/* What the files of the configuration share among themselves, and with the documentation's
 * test. */

enum fy_member_home {
    FY_HOME_TOP,   /* of mooncake.json itself */
    FY_HOME_FERRY, /* of its object "ferry" */
    FY_HOME_STORE, /* of mooncake.json, for Mooncake's store: accepted and passed over */
};
enum fy_member_type {
    FY_TYPE_ANY,
    FY_TYPE_TEXT,
    FY_TYPE_NAMES, /* a text with commas, or a list of texts */
    FY_TYPE_INT,
    FY_TYPE_BOOL,
    FY_TYPE_LEVEL,
    FY_TYPE_OBJECT
};

struct fy_member {
    const char *name;
    enum fy_member_home home;
    enum fy_member_type type;
    int64_t min, max;      /* of INT */
    const char *otherwise; /* where it is not said */
    const char *help;      /* one line */
};
extern const struct fy_member fy_members[];
extern const size_t fy_members_n;
const struct fy_member *fy_member_find(enum fy_member_home home, const char *name);

enum { FY_MIN_PORT = 15000, FY_MAX_PORT = 17000 }; /* of random ports, as Mooncake's */

enum fy_env_action {
    FY_ENV_CORE,   /* the member `key` of "ferry", where the file does not have it */
    FY_ENV_STORE,  /* likewise, and only with a metadata server */
    FY_ENV_PLUGIN, /* the member `key` of the section `section`, likewise */
    FY_ENV_RULE,   /* read elsewhere in the configuration; `help` says how */
    FY_ENV_IGNORED,
};
enum fy_env_type {
    FY_ENV_TEXT,
    FY_ENV_INT,
    FY_ENV_NEAREST, /* an INT that counts as the nearest one that can be used */
    FY_ENV_PORT, /* an INT that Mooncake refuses within Linux's usual range of outgoing ports */
    FY_ENV_FLAG, /* set, to anything: true, as Mooncake reads it */
    FY_ENV_LEVEL, /* TRACE, INFO, WARNING, ERROR */
};
struct fy_env {
    const char *name, *alias; /* alias: another spelling that Mooncake knows, or NULL */
    enum fy_env_action action;
    const char *section, *key;
    enum fy_env_type type;
    int64_t min, max, scale; /* of an INT; the key's value is the variable's times `scale` */
    const char *help;        /* one line; for IGNORED the reason */
};
extern const struct fy_env fy_envs[];
extern const size_t fy_envs_n;
extern const char fy_env_config_path[]; /* the variable that names the file */
extern const char fy_env_force[];       /* the variable that forces one transport ... */
extern const char fy_env_force_to[];    /* ... and its name */
extern const char fy_env_bare_scheme[]; /* what a metadata_server without a scheme is */

/* Fills what `ferry` does not have from the environment. A value that cannot be used is a WARN
 * line, as is one that is passed over. `is_p2p`: there is no metadata server. */
ferry_status fy_env_apply(struct cJSON *ferry, int is_p2p, const struct fy_log *log);

/* Where those values stand that are looked at once more when all is joined; line 0 = nowhere.
 */
struct fy_places {
    struct fy_place root, name, ports;
};

/* Reads a tree into the configuration: checks each member, warns of the unknown. `home` TOP: a
 * whole file; FERRY: the object alone. Joined into what is in `config`. */
ferry_status fy_members_take(const struct fy_node *root, enum fy_member_home home,
                             const char *name, const struct fy_log *log,
                             struct fy_config *config, struct fy_places *places);

/* Is `word` a slip of `known`? Case, '-' and '_' do not count; two edits do, one in a word of
 * up to five letters. Equal words are not near. */
int fy_word_is_near(const char *word, const char *known);

/* The rules for one value each. `out` is replaced on success. */
extern const char fy_rule_p2p[]; /* the metadata_server that is none */
ferry_status fy_rule_url(const struct fy_place *place, const char *member, const char *value,
                         char **out);
ferry_status fy_rule_metadata(const struct fy_place *place, const char *server,
                              const struct fy_place *backend_place, const char *backend,
                              const struct fy_log *log, char **out);
ferry_status fy_rule_protocol(const struct fy_place *place, const char *value,
                              const struct fy_log *log, char **out);
ferry_status fy_rule_devices(const struct fy_place *place, const char *value,
                             const struct fy_log *log, char **out);
/* Equal URLs, near ports: changes decode_url. */
ferry_status fy_rule_ports(const struct fy_place *place, const struct fy_log *log,
                           struct fy_config *config);

ferry_status fy_set_text(char **out, const char *value); /* a copy in place of what was there */
/* FERRY_LOG_ERROR ... FERRY_LOG_TRACE by name, any case; -1 = no such name. */
int fy_level_by_name(const char *name);

#endif /* FY_CONFIG_PARTS_H */
