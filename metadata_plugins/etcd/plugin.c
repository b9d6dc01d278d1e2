/* SPDX-License-Identifier: Apache-2.0 */
/* The symbol that the loader looks for. */
#include "etcd.h"

static const char *const schemes[] = {"etcd", "etcds", NULL};

FERRY_METADATA_PLUGIN("etcd", FERRY_VERSION, &fm_etcd_ops, schemes);
