/* SPDX-License-Identifier: Apache-2.0 */
/* What RDMA nodes tell each other: Mooncake's own bodies are read, ours carry what is ours. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "wire.h"

static const char *why;

static ferry_status hello_of(const char *text, struct rdma_hello *hello)
{
    why = "";
    return rdma_hello_parse(text, strlen(text), hello, &why);
}

static struct ferry_kvs attrs_of(struct ferry_kv *v, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        v[i].val_len = (uint32_t)strlen(v[i].val);
        v[i].flags = FERRY_KV_JSON;
    }
    return (struct ferry_kvs){.v = v, .n = n};
}

static void gids_as_mooncake_writes_them(void **state)
{
    const char *text = "00:00:00:00:00:00:00:00:00:00:ff:ff:0a:00:00:01";
    uint8_t gid[16] = {0};
    char out[48];

    assert_int_equal(rdma_gid_parse(text, gid), FERRY_OK);
    assert_int_equal(gid[10], 0xff);
    assert_int_equal(gid[15], 1);
    rdma_gid_text(gid, out);
    assert_string_equal(out, text);
    assert_int_equal(rdma_gid_parse("0:0:0:0:0:0:0:0:0:0:ff:ff:a:0:0:1", gid), FERRY_OK);
    assert_int_equal(gid[12], 10);

    const char *bad[] = {"",
                         "fe80::1",
                         "00:00:00:00:00:00:00:00:00:00:ff:ff:0a:00:00",
                         "00:00:00:00:00:00:00:00:00:00:ff:ff:0a:00:00:01:",
                         "00:00:00:00:00:00:00:00:00:00:ff:ff:0a:00:00:100",
                         "00:00:00:00:00:00:00:00:00:00:ff:ff:0a:00:00:0x1",
                         "00:00:00:00:00:00:00:00:00:00:ff:ff:0a:00:00: 1",
                         "00:00:00:00:00:00:00:00:00:00:ff:ff:0a:00:00:-1"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(rdma_gid_parse(bad[i], gid), FERRY_EINVAL);
}

/* The examples of docs/wire.md's sources: a node of today, and the least an old one says. */
static void reads_mooncakes_request(void **state)
{
    struct rdma_hello hello;

    assert_int_equal(
        hello_of(
            "{\"local_gid\":\"00:00:00:00:00:00:00:00:00:00:ff:ff:0a:00:00:01\","
            "\"local_lid\":7,\"local_nic_path\":\"10.0.0.1:15123@mlx5_0\",\"payload\":\"\","
            "\"peer_nic_path\":\"10.0.0.2:16001@mlx5_0\",\"qp_num\":[297,298],"
            "\"ready_ack\":false,\"reply_msg\":\"\"}\n",
            &hello),
        FERRY_OK);
    assert_string_equal(hello.local_nic_path, "10.0.0.1:15123@mlx5_0");
    assert_string_equal(hello.peer_nic_path, "10.0.0.2:16001@mlx5_0");
    assert_int_equal(hello.n_qp, 2);
    assert_int_equal(hello.qp_num[1], 298);
    assert_true(hello.has_gid);
    assert_int_equal(hello.lid, 7);
    assert_false(hello.ferry);

    assert_int_equal(hello_of("{\"local_nic_path\":\"A@m\",\"peer_nic_path\":\"B@m\","
                              "\"qp_num\":[1],\"reply_msg\":\"\"}",
                              &hello),
                     FERRY_OK);
    assert_false(hello.has_gid);
    assert_int_equal(hello_of("{\"local_gid\":\"\",\"local_lid\":0,\"local_nic_path\":\"\","
                              "\"payload\":\"\",\"peer_nic_path\":\"\",\"qp_num\":[],"
                              "\"reply_msg\":\"no such device\"}",
                              &hello),
                     FERRY_OK);
    assert_string_equal(hello.reply_msg, "no such device");
    assert_false(hello.ready_ack);
    assert_int_equal(hello_of("{\"qp_num\":[],\"ready_ack\":true}", &hello), FERRY_OK);
    assert_true(hello.ready_ack);
    assert_int_equal(hello_of("{\"qp_num\":[],\"ready_ack\":1}", &hello), FERRY_OK);
    assert_false(hello.ready_ack);
    assert_int_equal(hello_of("null", &hello), FERRY_EINVAL);
    assert_non_null(strstr(why, "takes no RDMA connections"));
}

/* What goes to a Mooncake node holds its members and nothing else. */
static void says_what_mooncake_reads(void **state)
{
    struct rdma_hello in = {.local_nic_path = "a:1@x#5",
                            .peer_nic_path = "b:2@y",
                            .n_qp = 2,
                            .qp_num = {297, 298},
                            .gid = {[10] = 0xff, [11] = 0xff, [12] = 10, [15] = 1},
                            .has_gid = true,
                            .instance = "x"};
    char *text = rdma_hello_encode(&in);

    assert_string_equal(text,
                        "{\"qp_num\":[297,298],"
                        "\"local_gid\":\"00:00:00:00:00:00:00:00:00:00:ff:ff:0a:00:00:01\","
                        "\"local_lid\":0,\"local_nic_path\":\"a:1@x#5\",\"payload\":\"\","
                        "\"peer_nic_path\":\"b:2@y\",\"reply_msg\":\"\"}");
    free(text);
}

static void another_server_in_nic_paths(void **state)
{
    char devices[] =
        "[{\"name\":\"m\",\"lid\":1,\"gid\":\"0:0:0:0:0:0:0:0:0:0:ff:ff:a:0:0:1\"}]";
    char longer[300] = "";
    struct rdma_remote remote;
    struct ferry_kv v[] = {{.key = "devices", .val = devices},
                           {.key = "rdma_server_name", .val = "10.1.0.1:15000"}};
    struct ferry_kvs attrs = attrs_of(v, 2);

    assert_int_equal(rdma_remote_parse(&attrs, &remote, &why), FERRY_OK);
    assert_string_equal(remote.server, "10.1.0.1:15000");
    attrs.n = 1;
    assert_int_equal(rdma_remote_parse(&attrs, &remote, &why), FERRY_OK);
    assert_string_equal(remote.server, "");
    memset(longer, 'x', sizeof(longer) - 1);
    v[1].val = longer;
    attrs = attrs_of(v, 2);
    assert_int_equal(rdma_remote_parse(&attrs, &remote, &why), FERRY_EINVAL);
}

static void refuses_what_is_malformed(void **state)
{
    struct rdma_hello hello;
    const char *bad[] = {
        "",
        "null",
        "[]",
        "{}",
        "{\"qp_num\":[-1]}",
        "{\"qp_num\":[1.5]}",
        "{\"qp_num\":[16777216]}",
        "{\"qp_num\":[\"1\"]}",
        "{\"qp_num\":{}}",
        "{\"qp_num\":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17]}",
        "{\"qp_num\":[1],\"local_nic_path\":7}",
        "{\"qp_num\":[1],\"local_gid\":\"fe80::1\"}",
        "{\"qp_num\":[1],\"local_gid\":12}",
        "{\"qp_num\":[1],\"ferry\":1}",
        "{\"qp_num\":[1],\"ferry\":{\"mtu\":-1,\"rd_atomic\":1}}",
        "{\"qp_num\":[1],\"ferry\":{\"mtu\":1024}}",
        ("{\"qp_num\":[1],\"ferry\":{\"mtu\":1024,\"rd_atomic\":1,\"instance\":"
         "\"0123456789012345678901234567890123\"}}"),
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_int_equal(hello_of(bad[i], &hello), FERRY_EINVAL);
        assert_string_not_equal(why, "");
    }
}

static void what_is_ours_comes_back(void **state)
{
    struct rdma_hello in = {.local_nic_path = "a:1@x#5",
                            .peer_nic_path = "b:2@\"y\"",
                            .n_qp = 2,
                            .qp_num = {0xffffff, 1},
                            .gid = {0xfe, 0x80, [15] = 9},
                            .has_gid = true,
                            .lid = 65535,
                            .ferry = true,
                            .instance = "0123456789abcdef0123456789abcdef",
                            .expect = "f",
                            .mtu = 4096,
                            .rd_atomic = 16,
                            .bye = true,
                            .status = FERRY_ESTALE,
                            .reply_msg = "gone"};
    struct rdma_hello out;
    char *text = rdma_hello_encode(&in);

    assert_non_null(text);
    assert_int_equal(hello_of(text, &out), FERRY_OK);
    free(text);
    assert_memory_equal(&in, &out, sizeof(in));
}

static void devices_of_a_peer(void **state)
{
    struct rdma_remote remote;
    struct ferry_kv v[] = {
        {.key = "devices",
         .val = "[{\"name\":\"a\",\"lid\":0,\"gid\":\"00:00:00:00:00:00:00:00:00:00:00:00:00:"
                "00:00:00\"},{\"name\":\"b\",\"lid\":3,\"gid\":\"00:00:00:00:00:00:00:00:00:00:"
                "ff:ff:0a:00:00:01\",\"more\":[]}]"},
        {.key = "ferry_rdma", .val = "{\"instance\":\"abc\"}"},
    };
    struct ferry_kvs attrs = attrs_of(v, 2);

    assert_int_equal(rdma_remote_parse(&attrs, &remote, &why), FERRY_OK);
    assert_int_equal(remote.n, 2);
    assert_false(remote.device[0].usable); /* the place of one that is broken */
    assert_true(remote.device[1].usable);
    assert_int_equal(remote.device[1].lid, 3);
    assert_true(remote.ferry);
    assert_string_equal(remote.instance, "abc");

    attrs.n = 1;
    assert_int_equal(rdma_remote_parse(&attrs, &remote, &why), FERRY_OK);
    assert_false(remote.ferry);

    const char *bad[] = {"[]",
                         "{}",
                         "[7]",
                         "[{\"name\":\"\",\"gid\":\"\"}]",
                         "[{\"name\":\"a\",\"gid\":\"xx\"}]",
                         "[{\"gid\":\"00\"}]",
                         "["};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        v[0].val = bad[i];
        attrs = attrs_of(v, 1);
        assert_int_equal(rdma_remote_parse(&attrs, &remote, &why), FERRY_EINVAL);
    }
    attrs.n = 0;
    assert_int_equal(rdma_remote_parse(&attrs, &remote, &why), FERRY_EINVAL);
}

static void keys_of_a_buffer(void **state)
{
    struct rdma_keys keys;
    struct ferry_kv v[] = {
        {.key = "rkey", .val = "[7,4294967295]"},
        {.key = "ferry_rdma", .val = "{\"chunk\":4096,\"rkeys\":[[1,2],[3,4],[5,6]]}"},
    };
    struct ferry_kvs attrs = attrs_of(v, 1);

    assert_int_equal(rdma_keys_parse(&attrs, 2, 9000, &keys, &why), FERRY_OK);
    assert_int_equal(keys.n_chunks, 1);
    assert_int_equal(keys.key[1], 4294967295u);
    free(keys.key);
    /* more keys than devices that we took over: passed over; fewer: malformed */
    assert_int_equal(rdma_keys_parse(&attrs, 1, 9000, &keys, &why), FERRY_OK);
    free(keys.key);
    assert_int_equal(rdma_keys_parse(&attrs, 3, 9000, &keys, &why), FERRY_EINVAL);

    attrs = attrs_of(v, 2);
    assert_int_equal(rdma_keys_parse(&attrs, 2, 9000, &keys, &why), FERRY_OK);
    assert_int_equal(keys.n_chunks, 3);
    assert_int_equal(keys.chunk_len, 4096);
    assert_int_equal(keys.key[0 * 3 + 2], 5);
    assert_int_equal(keys.key[1 * 3 + 1], 4);
    free(keys.key);
    assert_int_equal(rdma_keys_parse(&attrs, 2, 4096, &keys, &why), FERRY_EINVAL);
    assert_int_equal(rdma_keys_parse(&attrs, 2, UINT64_MAX, &keys, &why), FERRY_EINVAL);

    v[0].val = "[]"; /* Mooncake's way to say that nobody may reach it */
    attrs = attrs_of(v, 1);
    assert_int_equal(rdma_keys_parse(&attrs, 2, 9000, &keys, &why), FERRY_EACCESS);
    attrs.n = 0;
    assert_int_equal(rdma_keys_parse(&attrs, 2, 9000, &keys, &why), FERRY_EACCESS);
    v[0].val = "[1,-1]";
    attrs = attrs_of(v, 1);
    assert_int_equal(rdma_keys_parse(&attrs, 2, 9000, &keys, &why), FERRY_EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gids_as_mooncake_writes_them),
        cmocka_unit_test(reads_mooncakes_request),
        cmocka_unit_test(says_what_mooncake_reads),
        cmocka_unit_test(another_server_in_nic_paths),
        cmocka_unit_test(refuses_what_is_malformed),
        cmocka_unit_test(what_is_ours_comes_back),
        cmocka_unit_test(devices_of_a_peer),
        cmocka_unit_test(keys_of_a_buffer),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
