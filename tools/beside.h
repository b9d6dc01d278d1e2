/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FERRY_TOOL_BESIDE_H
#define FERRY_TOOL_BESIDE_H

#include <stdbool.h>
#include <stddef.h>

/*
 * What is installed with the command is found from where the command itself lies, so that a
 * prefix may be moved; in the build folder, from there.
 */
enum beside { BESIDE_SUITES, BESIDE_TEMPLATES, BESIDE_PLUGINS };

/* The path of `name` there ("" = the folder). False where there is none; path then names the
 * installed place, for messages. */
bool beside(enum beside what, const char *name, char *path, size_t room);

#endif /* FERRY_TOOL_BESIDE_H */
