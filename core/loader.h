/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FY_LOADER_H
#define FY_LOADER_H

#include "ferry/metadata_plugin.h"
#include "ferry/transport_plugin.h"
#include "log.h"

struct cJSON;
struct fy_loader; /* where plugins are looked for, and those that were loaded */

/*
 * Searched in this order: FERRY_PLUGIN_PATH, `plugin_path` (colon list; NULL = none), "ferry"
 * beside the object that holds this code (dladdr). Absolute directories only: others are
 * refused with a WARN line; so are directories that anyone may write to. `log` is borrowed for
 * the loader's life.
 */
ferry_status fy_loader_open(const char *plugin_path, const struct fy_log *log,
                            struct fy_loader **loader_out);
/* Plugins stay loaded (RTLD_NODELETE). */
void fy_loader_close(struct fy_loader *loader);

/* A loaded transport; lives for the process. `ops` is the core's own copy, holes filled with
 * stubs that return FERRY_ENOTSUP; so a probe that returns it says nothing. */
struct fy_transport_plugin {
    char name[32];
    char version[32];
    char path[512];
    struct ferry_transport_ops ops;
};
/* FERRY_ENOENT: no such file anywhere (the error text lists the transports that are there).
 * FERRY_EABI: found and refused (the text names file, found and wanted). Any thread. */
ferry_status fy_loader_transport(struct fy_loader *loader, const char *name,
                                 const struct fy_transport_plugin **plugin_out);

struct fy_metadata_plugin {
    char name[32];
    char version[32];
    char path[512];
    struct ferry_metadata_ops ops;
};
/* By URL scheme. First ferry_metadata_SCHEME.so, then any ferry_metadata_*.so that lists it. */
ferry_status fy_loader_metadata(struct fy_loader *loader, const char *scheme,
                                const struct fy_metadata_plugin **plugin_out);

/* Names of all transports that load, in the order of the search path; for the automatic choice.
 * Freed with free(): one block, NULL-terminated. */
char **fy_loader_transport_names(struct fy_loader *loader);

/*
 * Every file that is named like a transport or metadata plugin, as an array: kind, name, path,
 * status ("ok" or "refused"); version, abi, schemes (metadata), usable (transports with a
 * probe) where it is ok; reason where it is refused or not usable. NULL: out of memory.
 */
struct cJSON *fy_loader_describe(struct fy_loader *loader);

#endif /* FY_LOADER_H */
