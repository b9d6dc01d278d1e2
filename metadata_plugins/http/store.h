/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FM_HTTP_PLUGIN_H
#define FM_HTTP_PLUGIN_H

#include "ferry/metadata_plugin.h"

extern const struct ferry_metadata_ops fm_http_ops;

#endif /* FM_HTTP_PLUGIN_H */
