/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The transport's part of the configuration. Knows names, ranges and defaults only.
 */
#include "../common/members.h"
#include "fab.h"

/* docs/libfabric.md has the same table in words. */
static const struct ft_member members[] = {
    FT_TEXT("provider", struct fab_config, provider, 0, ""),
    FT_NUMBER("slice", struct fab_config, slice, 4096, UINT64_C(1) << 30, UINT64_C(1) << 20),
    FT_NUMBER("window", struct fab_config, window, 4096, UINT64_C(1) << 34, UINT64_C(4) << 20),
    FT_NUMBER("stall_ms", struct fab_config, stall_ms, 100, 600000, 1000),
    FT_NUMBER("cancel_ms", struct fab_config, cancel_ms, 10, 600000, 500),
    FT_TEXT("core.devices", struct fab_config, devices, 0, ""),
    FT_TEXT("core.bind", struct fab_config, bind, 0, ""),
};

ferry_status fab_config_read(const struct ferry_host *host, const struct ferry_kvs *kvs,
                             struct fab_config *config_out)
{
    struct fab_config config;
    ferry_status status =
        ft_members_read(host, kvs, members, sizeof(members) / sizeof(members[0]), &config);

    if (status == FERRY_OK)
        *config_out = config;
    return status;
}
