/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FERRY_TOOL_COMMANDS_H
#define FERRY_TOOL_COMMANDS_H

#include "args.h"

/* One file a subcommand: cmd_NAME.c; main.c lists them. */
extern const struct command cmd_bench;
extern const struct command cmd_conformance;
extern const struct command cmd_decode;
extern const struct command cmd_doctor;
extern const struct command cmd_links;
extern const struct command cmd_metadata;
extern const struct command cmd_metadata_server;
extern const struct command cmd_plugin;
extern const struct command cmd_plugins;
extern const struct command cmd_prefill;
extern const struct command cmd_topo;

#endif /* FERRY_TOOL_COMMANDS_H */
