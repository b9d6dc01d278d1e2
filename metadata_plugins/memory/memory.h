/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FM_MEMORY_H
#define FM_MEMORY_H

#include "ferry/metadata_plugin.h"

extern const struct ferry_metadata_ops fm_memory_ops;

#endif /* FM_MEMORY_H */
