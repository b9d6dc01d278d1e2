/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The transport's part of the configuration. Knows names, ranges and defaults only.
 */
#include "../common/members.h"
#include "rdma.h"

#define NUMBER(key, member, min, max, start)                                                   \
    FT_NUMBER(key, struct rdma_config, member, min, max, start)

/* docs/rdma.md has the same table in words. */
static const struct ft_member members[] = {
    NUMBER("gid_index", gid_index, 0, 255, (uint64_t)-1),
    NUMBER("port", port, 1, 255, 1),
    NUMBER("mtu", mtu, 256, 4096, 4096),
    NUMBER("traffic_class", traffic_class, 0, 255, 0),
    NUMBER("service_level", service_level, 0, 15, 0),
    NUMBER("pkey_index", pkey_index, 0, 65535, 0),
    NUMBER("qp_per_peer", qps, 1, RDMA_MAX_QPS, 0),
    NUMBER("max_wr", max_wr, 4, 16384, 256),
    NUMBER("max_inline", max_inline, 0, 1024, 128),
    NUMBER("max_cqe", max_cqe, 16, 4194304, 8192),
    NUMBER("retry_count", retry_count, 1, 127, 9),
    NUMBER("qp_retry", qp_retry, 0, 7, 6),
    NUMBER("qp_timeout", qp_timeout, 1, 31, 14),
    NUMBER("relaxed_ordering", relaxed_ordering, 0, 2, 1),
    NUMBER("slice", slice, 4096, UINT64_C(1) << 30, UINT64_C(1) << 20),
    NUMBER("max_mr_len", max_mr_len, 0, UINT64_C(1) << 60, 0),
    NUMBER("stall_ms", stall_ms, 100, 600000, 10000),
    FT_TEXT("topology", struct rdma_config, topology, 0, ""),
    FT_TEXT("core.devices", struct rdma_config, devices, 0, ""),
    FT_TEXT("core.name", struct rdma_config, name, 0, ""),
    FT_IGNORED("max_sge"),
};

ferry_status rdma_config_read(const struct ferry_host *host, const struct ferry_kvs *kvs,
                              struct rdma_config *config_out)
{
    struct rdma_config config;
    ferry_status status =
        ft_members_read(host, kvs, members, sizeof(members) / sizeof(members[0]), &config);

    if (status == FERRY_OK)
        *config_out = config;
    return status;
}
