/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Loads libfabric when the transport is first asked for, so that neither the core nor the other
 * transports need it. Knows nothing of what is done with it.
 */
#include "lib.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct fab_lib table;
static char why[256];
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void load(void)
{
    /* A version fixes the layout of the structs that pass through: those of our headers. */
    const struct {
        const char *name, *version;
        void *slot;
    } symbols[] = {
        {"fi_getinfo", "FABRIC_1.3", &table.getinfo},
        {"fi_freeinfo", "FABRIC_1.3", &table.freeinfo},
        {"fi_dupinfo", "FABRIC_1.3", &table.dupinfo},
        {"fi_fabric", "FABRIC_1.1", &table.fabric},
        {"fi_strerror", "FABRIC_1.0", &table.strerror},
    };
    void *lib;

    /*
     * What only variables can tell it, and before it is loaded; the user's own stay. Its cache
     * keeps regions registered after they were closed, with keys that peers could still use
     * (seen with verbs;ofi_rxm), and is of no use to us, who register once. And a link has one
     * peer: completion queues for 256 are longer than some devices allow. Messages are not
     * received here: a few buffers do instead of 4096 of 16 KiB, and shared ones, for where
     * they are not, both ends tell each other of their number, and ofi_rxm 1.17 crashes when it
     * finds such a word while it closes the connection that brought it.
     */
    setenv("FI_MR_CACHE_MAX_COUNT", "0", 0);
    setenv("FI_MR_CACHE_MONITOR", "disabled", 0);
    setenv("FI_UNIVERSE_SIZE", "32", 0);
    setenv("FI_OFI_RXM_USE_SRX", "1", 0);
    setenv("FI_OFI_RXM_MSG_RX_SIZE", "64", 0);
    lib = dlopen("libfabric.so.1", RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (!lib) {
        snprintf(why, sizeof(why), "libfabric is not here: %s", dlerror());
        return;
    }
    for (size_t i = 0; i < sizeof(symbols) / sizeof(symbols[0]); i++) {
        void *fn = dlvsym(lib, symbols[i].name, symbols[i].version);
        if (!fn) {
            snprintf(why, sizeof(why), "libfabric has no %s of version %s", symbols[i].name,
                     symbols[i].version);
            return;
        }
        memcpy(symbols[i].slot, &fn, sizeof(fn));
    }
}

const struct fab_lib *fab_lib_get(const char **why_out)
{
    pthread_once(&once, load);
    if (why[0]) {
        *why_out = why;
        return NULL;
    }
    return &table;
}
