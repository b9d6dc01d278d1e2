/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FM_P2P_H
#define FM_P2P_H

#include "ferry/metadata_plugin.h"

extern const struct ferry_metadata_ops fm_p2p_ops;

#endif /* FM_P2P_H */
