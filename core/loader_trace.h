/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FY_LOADER_TRACE_H
#define FY_LOADER_TRACE_H

#include "ferry/metadata_plugin.h"
#include "ferry/transport_plugin.h"

/*
 * With FERRY_PLUGIN_TRACE=FILE ("-" = standard error) in the environment, puts functions into
 * the table that call the plugin's own and write a line for each call; without, does nothing.
 * Members that are NULL stay so. `words` names a status. The first 8 transports and 4 metadata
 * plugins of a process are traced. Needs nothing else of the core: the conformance suites have
 * it too.
 */
void fy_trace_transport(const char *name, struct ferry_transport_ops *ops,
                        const char *(*words)(ferry_status));
void fy_trace_metadata(const char *name, struct ferry_metadata_ops *ops,
                       const char *(*words)(ferry_status));

#endif /* FY_LOADER_TRACE_H */
