/* SPDX-License-Identifier: Apache-2.0 */
/* The transport's part of the configuration. Knows names, ranges and defaults only. */
#include "../common/members.h"
#include "shm.h"

static const struct ft_member members[] = {
    FT_WORD("mode", struct shm_config, mode, "auto, cma, map"), /* as in enum shm_mode */
    FT_NUMBER("depth", struct shm_config, depth, 1, SHM_MAX_DEPTH, 1024),
    FT_NUMBER("poll_bytes", struct shm_config, poll_bytes, 1, UINT64_C(1) << 30,
              UINT64_C(4) << 20),
    FT_NUMBER("copy_threads", struct shm_config, copy_threads, 0, SHM_COPY_THREADS,
              SHM_COPY_THREADS),
    FT_SWITCH("any_tracer", struct shm_config, any_tracer),
};

ferry_status shm_config_parse(const struct ferry_host *host, const struct ferry_kvs *kvs,
                              struct shm_config *config_out)
{
    struct shm_config config;
    ferry_status status =
        ft_members_read(host, kvs, members, sizeof(members) / sizeof(members[0]), &config);

    if (status == FERRY_OK)
        *config_out = config;
    return status;
}
