/* SPDX-License-Identifier: Apache-2.0 */
/* The symbol that the loader looks for. */
#include "p2p.h"

static const char *const schemes[] = {"p2p", NULL};

FERRY_METADATA_PLUGIN("p2p", FERRY_VERSION, &fm_p2p_ops, schemes);
