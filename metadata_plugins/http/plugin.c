/* SPDX-License-Identifier: Apache-2.0 */
/* The symbol that the loader looks for. */
#include "store.h"

static const char *const schemes[] = {"http", "https", NULL};

FERRY_METADATA_PLUGIN("http", FERRY_VERSION, &fm_http_ops, schemes);
