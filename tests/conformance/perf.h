/* SPDX-License-Identifier: Apache-2.0 */
#ifndef PERF_H
#define PERF_H

#include "conformance.h"

/* Measures the plugin and, in turns with it, the two others (NULL = left out); prints a table.
 * Returns the exit status of the command. */
int fc_perf(const struct fc_options *options, const char *loop, const char *tcp);

#endif /* PERF_H */
