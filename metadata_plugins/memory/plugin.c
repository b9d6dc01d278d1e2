/* SPDX-License-Identifier: Apache-2.0 */
/* The symbol that the loader looks for. */
#include "memory.h"

static const char *const schemes[] = {"memory", NULL};

FERRY_METADATA_PLUGIN("memory", FERRY_VERSION, &fm_memory_ops, schemes);
