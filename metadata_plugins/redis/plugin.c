/* SPDX-License-Identifier: Apache-2.0 */
/* The symbol that the loader looks for. */
#include "redis.h"

static const char *const schemes[] = {"redis", "rediss", NULL};

FERRY_METADATA_PLUGIN("redis", FERRY_VERSION, &fm_redis_ops, schemes);
