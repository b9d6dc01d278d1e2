/* SPDX-License-Identifier: Apache-2.0 */
/* What RDMA peers say: the first byte chooses the reader. What is read as a message is written
 * and read again. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include <cJSON.h>

#include "topo.h"
#include "wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void hello(const char *text, size_t len)
{
    struct rdma_hello once, twice;
    const char *why = NULL;
    char *out;

    if (rdma_hello_parse(text, len, &once, &why) != FERRY_OK) {
        assert(why);
        return;
    }
    out = rdma_hello_encode(&once);
    assert(out && rdma_hello_parse(out, strlen(out), &twice, &why) == FERRY_OK);
    assert(strcmp(once.local_nic_path, twice.local_nic_path) == 0);
    assert(once.n_qp == twice.n_qp &&
           memcmp(once.qp_num, twice.qp_num, sizeof(once.qp_num)) == 0);
    assert(once.has_gid == twice.has_gid && memcmp(once.gid, twice.gid, 16) == 0);
    assert(!once.ready_ack || !twice.ready_ack); /* nothing of ours asks for it */
    assert(once.ferry == twice.ferry && once.mtu == twice.mtu && once.status == twice.status);
    free(out);
}

static void remote(const char *text, size_t len)
{
    struct ferry_kv v[3] = {{.key = "devices", .val = text, .val_len = (uint32_t)len},
                            {.key = "rdma_server_name", .val = text, .val_len = (uint32_t)len},
                            {.key = "ferry_rdma", .val = text, .val_len = (uint32_t)len}};
    struct ferry_kvs attrs = {.v = v, .n = 1 + len % 3};
    struct rdma_remote out;
    const char *why = NULL;
    bool usable = false;

    if (rdma_remote_parse(&attrs, &out, &why) != FERRY_OK) {
        assert(why);
        return;
    }
    assert(out.n <= RDMA_MAX_DEVICES);
    for (uint32_t i = 0; i < out.n; i++)
        usable |= out.device[i].usable;
    assert(usable);
}

static void keys(const char *key, const char *text, size_t len)
{
    struct ferry_kv v = {.key = key, .val = text, .val_len = (uint32_t)len};
    struct ferry_kvs attrs = {.v = &v, .n = 1};
    struct rdma_keys out;
    const char *why = NULL;
    volatile uint32_t last;

    if (rdma_keys_parse(&attrs, 3, 40000, &out, &why) != FERRY_OK) {
        assert(why);
        return;
    }
    assert(out.n_chunks >= 1);
    for (uint32_t i = 0; i < 3 * out.n_chunks; i++)
        last = out.key[i]; /* all of them are there */
    (void)last;
    free(out.key);
}

/* A file that says which devices are near which memory. */
static void matrix(const char *text, size_t len)
{
    struct rdma_topo *topo = calloc(1, sizeof(*topo));
    char *copy = calloc(1, len + 1), why[64];
    cJSON *out, *row, *list, *name;

    assert(topo && copy);
    memcpy(copy, text, len);
    strcpy(topo->nic[topo->n_nics++].name, "a");
    strcpy(topo->nic[topo->n_nics++].name, "b");
    out = rdma_topo_parse(copy, "file", topo, why, sizeof(why));
    assert(out || why[0]);
    cJSON_ArrayForEach(row, out) cJSON_ArrayForEach(list, row) cJSON_ArrayForEach(name, list)
        assert(!strcmp(name->valuestring, "a") || !strcmp(name->valuestring, "b"));
    assert(rdma_topo_node_of(out, "a") >= -1);
    cJSON_Delete(out);
    free(copy);
    free(topo);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    const char *text = (const char *)data + 1;
    switch (data[0]) {
    case 'd':
        remote(text, size - 1);
        break;
    case 'k':
        keys("rkey", text, size - 1);
        break;
    case 'c':
        keys("ferry_rdma", text, size - 1);
        break;
    case 't':
        matrix(text, size - 1);
        break;
    default:
        hello(text, size - 1);
    }
    return 0;
}
