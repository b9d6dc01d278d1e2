/* SPDX-License-Identifier: Apache-2.0 */
/* What the rdma transport chooses without a device: its configuration, and the GID of a port.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "last_log.h"
#include "rdma.h"

static ferry_status read_one(const char *key, const char *value, struct rdma_config *config)
{
    struct ferry_kv v = {.key = key, .val = value, .val_len = (uint32_t)strlen(value)};
    struct ferry_kvs kvs = {.v = &v, .n = 1};

    last[0] = '\0';
    return rdma_config_read(&host, &kvs, config);
}

static void what_is_not_said_is_chosen(void **state)
{
    struct rdma_config config;

    assert_int_equal(rdma_config_read(&host, NULL, &config), FERRY_OK);
    assert_int_equal(config.gid_index, -1);
    assert_int_equal(config.port, 1);
    assert_int_equal(config.mtu, 4096);
    assert_int_equal(config.traffic_class, 0);
    assert_int_equal(config.service_level, 0);
    assert_int_equal(config.pkey_index, 0);
    assert_int_equal(config.qps, 0);
    assert_string_equal(config.topology, "");
}

static void members_and_their_limits(void **state)
{
    static const struct {
        const char *key, *least, *most, *beyond;
        size_t at;
    } members[] = {
        {"port", "1", "255", "256", offsetof(struct rdma_config, port)},
        {"mtu", "256", "4096", "4097", offsetof(struct rdma_config, mtu)},
        {"traffic_class", "0", "255", "256", offsetof(struct rdma_config, traffic_class)},
        {"service_level", "0", "15", "16", offsetof(struct rdma_config, service_level)},
        {"pkey_index", "0", "65535", "65536", offsetof(struct rdma_config, pkey_index)},
        {"gid_index", "0", "255", "256", offsetof(struct rdma_config, gid_index)},
        {"qp_per_peer", "1", "16", "17", offsetof(struct rdma_config, qps)},
    };
    struct rdma_config config;

    for (size_t i = 0; i < sizeof(members) / sizeof(members[0]); i++) {
        const char *key = members[i].key;
        uint32_t value;

        assert_int_equal(read_one(key, members[i].most, &config), FERRY_OK);
        memcpy(&value, (const char *)&config + members[i].at, sizeof(value));
        assert_int_equal(value, strtoul(members[i].most, NULL, 10));
        assert_int_equal(read_one(key, members[i].least, &config), FERRY_OK);
        assert_int_equal(read_one(key, members[i].beyond, &config), FERRY_EINVAL);
        assert_non_null(strstr(last, key));
        assert_non_null(strstr(last, "allowed are "));
        assert_int_equal(read_one(key, "many", &config), FERRY_EINVAL);
        assert_int_equal(read_one(key, "-1", &config), FERRY_EINVAL);
    }
    assert_int_equal(read_one("gid", "1", &config), FERRY_EINVAL);
    assert_non_null(strstr(last, "allowed are gid_index, port, "));
    assert_int_equal(read_one("core.devices", "mlx5_0,mlx5_1", &config), FERRY_OK);
    assert_string_equal(config.devices, "mlx5_0,mlx5_1");
    assert_int_equal(read_one("topology", "/etc/topo.json", &config), FERRY_OK);
    assert_string_equal(config.topology, "/etc/topo.json");
}

/* ---- GIDs */

static const struct ibv_gid_entry *table;
static size_t n_table;

static ssize_t query(struct ibv_context *ctx, struct ibv_gid_entry *entries, size_t room,
                     uint32_t flags, size_t size)
{
    assert_true(n_table <= room);
    memcpy(entries, table, n_table * sizeof(*entries));
    return (ssize_t)n_table;
}

static struct rdma_ibv ibv = {.query_gid_table = query};
static struct ferry_tp tp = {.host = &host, .ibv = &ibv, .config = {.gid_index = -1}};

static struct ibv_gid_entry entry(const char *gid, uint32_t index, uint32_t type)
{
    struct ibv_gid_entry e = {.gid_index = index, .port_num = 1, .gid_type = type};

    assert_int_equal(rdma_gid_parse(gid, e.gid.raw), FERRY_OK);
    return e;
}

static void gids_of(struct rdma_device *device, bool ethernet,
                    const struct ibv_gid_entry *entries, size_t n)
{
    *device = (struct rdma_device){.tp = &tp, .port = 1, .ethernet = ethernet};
    table = entries;
    n_table = n;
    assert_int_equal(rdma_gids_read(device, 16), FERRY_OK);
}

#define V1       IBV_GID_TYPE_ROCE_V1
#define V2       IBV_GID_TYPE_ROCE_V2
#define LINK     "fe:80:0:0:0:0:0:0:2:0:0:ff:fe:0:0:1"
#define IPV4     "0:0:0:0:0:0:0:0:0:0:ff:ff:a:4d:0:1"
#define LINK4    "0:0:0:0:0:0:0:0:0:0:ff:ff:a9:fe:0:1"
#define LOOPBACK "0:0:0:0:0:0:0:0:0:0:ff:ff:7f:0:0:1"
#define IPV6     "20:1:d:b8:0:0:0:0:0:0:0:0:0:0:0:1"

static void the_gid_that_reaches_most_comes_first(void **state)
{
    const struct ibv_gid_entry all[] = {
        entry(LINK, 0, V1), entry(LINK, 1, V2),
        entry(IPV6, 2, V1), entry(IPV6, 3, V2),
        entry(IPV4, 4, V1), entry(LINK4, 5, V2),
        entry(IPV4, 6, V2), entry("0:0:0:0:0:0:0:0:0:0:0:0:0:0:0:0", 7, V2)};
    static const int order[] = {6, 3, 1, 5, 4, 2, 0};
    struct rdma_device device;

    gids_of(&device, true, all, sizeof(all) / sizeof(all[0]));
    assert_int_equal(device.n_gids, sizeof(order) / sizeof(order[0]));
    for (size_t i = 0; i < device.n_gids; i++)
        assert_int_equal(device.gids[i].index, order[i]);
    assert_string_equal(rdma_gid_why(&device, &device.gids[0]), "RoCE v2, IPv4");
    free(device.gids);
    gids_of(&device, true, &all[3], 1);
    assert_non_null(strstr(rdma_gid_why(&device, &device.gids[0]), "no IPv4"));
    free(device.gids);
    gids_of(&device, true, &all[1], 1);
    assert_non_null(strstr(rdma_gid_why(&device, &device.gids[0]), "link-local"));
    free(device.gids);
    gids_of(&device, true, &all[4], 1);
    assert_non_null(strstr(rdma_gid_why(&device, &device.gids[0]), "v1"));
    free(device.gids);
}

/* InfiniBand routes by LID, and its GIDs look link-local. */
static void infiniband_takes_its_first(void **state)
{
    const struct ibv_gid_entry all[] = {entry(LINK, 0, IBV_GID_TYPE_IB),
                                        entry(IPV6, 1, IBV_GID_TYPE_IB)};
    struct rdma_device device;

    gids_of(&device, false, all, 2);
    assert_int_equal(device.gids[0].index, 0);
    assert_ptr_equal(rdma_gid_for(&device, all[1].gid.raw), &device.gids[0]);
    free(device.gids);
}

static void the_route_and_the_family_decide(void **state)
{
    const struct ibv_gid_entry all[] = {entry(IPV4, 1, V2), entry(LOOPBACK, 2, V2),
                                        entry(IPV6, 3, V2), entry(LINK, 4, V2)};
    struct rdma_device device;

    gids_of(&device, true, all, 4);
    /* The kernel sends to 127.0.0.1 from 127.0.0.1, although the other one comes first. */
    assert_int_equal(device.gids[0].index, 1);
    assert_int_equal(rdma_gid_for(&device, all[1].gid.raw)->index, 2);
    assert_int_equal(rdma_gid_for(&device, all[2].gid.raw)->index, 3);
    assert_int_equal(rdma_gid_for(&device, all[3].gid.raw)->index, 4);
    free(device.gids);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_not_said_is_chosen),
        cmocka_unit_test(members_and_their_limits),
        cmocka_unit_test(the_gid_that_reaches_most_comes_first),
        cmocka_unit_test(infiniband_takes_its_first),
        cmocka_unit_test(the_route_and_the_family_decide),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
