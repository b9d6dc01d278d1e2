/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FERRY_TOOL_HELP_H
#define FERRY_TOOL_HELP_H

#include "args.h"

/* `commands` end with NULL. */
void help_overview(FILE *out, const struct command *const *commands);
void help_command(FILE *out, const struct command *command);
/* roff with the man macros: ferry(1), all subcommands in one page. */
void help_man(FILE *out, const struct command *const *commands, const char *version);
void help_bash(FILE *out, const struct command *const *commands);

#endif /* FERRY_TOOL_HELP_H */
