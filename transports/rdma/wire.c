/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What RDMA nodes tell each other in JSON: the Connection message and the attributes of
 * segments and buffers, in Mooncake's own layout with ours beside it. Everything read here is
 * untrusted. Knows no verbs, no threads.
 */
#include "wire.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cJSON.h>

#define MAX_CHUNKS 4096u

static const struct ferry_kv *find(const struct ferry_kvs *attrs, const char *key)
{
    for (size_t i = 0; i < attrs->n; i++)
        if (strcmp(attrs->v[i].key, key) == 0)
            return &attrs->v[i];
    return NULL;
}

static cJSON *parse_attr(const struct ferry_kvs *attrs, const char *key)
{
    const struct ferry_kv *kv = find(attrs, key);

    return kv ? cJSON_ParseWithLength(kv->val, kv->val_len) : NULL;
}

/* A whole number of [0, max]. */
static bool number(const cJSON *item, double max, double *out)
{
    if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0) || item->valuedouble > max ||
        item->valuedouble != (double)(uint64_t)item->valuedouble)
        return false;
    *out = item->valuedouble;
    return true;
}

static bool u32(const cJSON *item, uint32_t *out)
{
    double d;

    if (!number(item, 4294967295.0, &d))
        return false;
    *out = (uint32_t)d;
    return true;
}

/* Absent is "" and well; another type or too long is not. */
static bool text(const cJSON *object, const char *key, char *out, size_t room)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);

    out[0] = '\0';
    if (!item)
        return true;
    if (!cJSON_IsString(item) || strlen(item->valuestring) >= room)
        return false;
    strcpy(out, item->valuestring);
    return true;
}

void rdma_gid_text(const uint8_t gid[16], char out[48])
{
    for (int i = 0; i < 16; i++)
        snprintf(out + (size_t)i * 3, 4, i < 15 ? "%02x:" : "%02x", gid[i]);
}

ferry_status rdma_gid_parse(const char *in, uint8_t gid_out[16])
{
    uint8_t gid[16];

    for (int i = 0; i < 16; i++) {
        char *end;
        if (!isxdigit((unsigned char)*in))
            return FERRY_EINVAL;
        unsigned long v = strtoul(in, &end, 16);
        if (v > 0xff || end - in > 2 || *end != (i < 15 ? ':' : '\0'))
            return FERRY_EINVAL;
        gid[i] = (uint8_t)v;
        in = end + 1;
    }
    memcpy(gid_out, gid, 16);
    return FERRY_OK;
}

char *rdma_hello_encode(const struct rdma_hello *hello)
{
    char gid[48] = "";
    char *out = NULL;
    cJSON *root = cJSON_CreateObject();
    cJSON *qps = cJSON_AddArrayToObject(root, "qp_num");

    if (!root || !qps)
        goto out;
    for (uint32_t i = 0; i < hello->n_qp; i++) {
        cJSON *n = cJSON_CreateNumber(hello->qp_num[i]);
        if (!n || !cJSON_AddItemToArray(qps, n)) {
            cJSON_Delete(n);
            goto out;
        }
    }
    if (hello->has_gid)
        rdma_gid_text(hello->gid, gid);
    if (!cJSON_AddStringToObject(root, "local_gid", gid) ||
        !cJSON_AddNumberToObject(root, "local_lid", hello->lid) ||
        !cJSON_AddStringToObject(root, "local_nic_path", hello->local_nic_path) ||
        !cJSON_AddStringToObject(root, "payload", "") ||
        !cJSON_AddStringToObject(root, "peer_nic_path", hello->peer_nic_path) ||
        !cJSON_AddStringToObject(root, "reply_msg", hello->reply_msg))
        goto out;
    if (hello->ferry) {
        cJSON *ours = cJSON_AddObjectToObject(root, "ferry");
        if (!ours || !cJSON_AddStringToObject(ours, "instance", hello->instance) ||
            !cJSON_AddStringToObject(ours, "expect", hello->expect) ||
            !cJSON_AddNumberToObject(ours, "mtu", hello->mtu) ||
            !cJSON_AddNumberToObject(ours, "rd_atomic", hello->rd_atomic) ||
            !cJSON_AddBoolToObject(ours, "bye", hello->bye) ||
            !cJSON_AddNumberToObject(ours, "status", hello->status))
            goto out;
    }
    out = cJSON_PrintUnformatted(root);
out:
    cJSON_Delete(root);
    return out;
}

static const char *parse_ours(const cJSON *ours, struct rdma_hello *hello)
{
    const cJSON *status = cJSON_GetObjectItemCaseSensitive(ours, "status");

    if (!cJSON_IsObject(ours))
        return "ferry is no object";
    hello->ferry = true;
    if (!text(ours, "instance", hello->instance, sizeof(hello->instance)) ||
        !text(ours, "expect", hello->expect, sizeof(hello->expect)))
        return "ferry.instance or ferry.expect is no short string";
    if (!u32(cJSON_GetObjectItemCaseSensitive(ours, "mtu"), &hello->mtu) ||
        !u32(cJSON_GetObjectItemCaseSensitive(ours, "rd_atomic"), &hello->rd_atomic))
        return "ferry.mtu or ferry.rd_atomic is no number";
    hello->bye = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(ours, "bye"));
    if (cJSON_IsNumber(status) && status->valuedouble > -1000 && status->valuedouble <= 0)
        hello->status = (int32_t)status->valuedouble;
    return NULL;
}

static const char *parse_hello(const cJSON *root, struct rdma_hello *hello)
{
    char gid[64];
    const cJSON *item, *lid = cJSON_GetObjectItemCaseSensitive(root, "local_lid");
    const cJSON *qps = cJSON_GetObjectItemCaseSensitive(root, "qp_num");
    const cJSON *ours = cJSON_GetObjectItemCaseSensitive(root, "ferry");
    uint32_t v;

    if (cJSON_IsNull(root))
        return "it takes no RDMA connections, or refuses this one without a reason";
    if (!cJSON_IsObject(root))
        return "not a JSON object";
    if (!text(root, "local_nic_path", hello->local_nic_path, sizeof(hello->local_nic_path)) ||
        !text(root, "peer_nic_path", hello->peer_nic_path, sizeof(hello->peer_nic_path)))
        return "local_nic_path or peer_nic_path is no string of that length";
    item = cJSON_GetObjectItemCaseSensitive(root, "reply_msg");
    if (cJSON_IsString(item)) /* another node's words: cut, not refused */
        snprintf(hello->reply_msg, sizeof(hello->reply_msg), "%s", item->valuestring);
    if (!cJSON_IsArray(qps))
        return "qp_num is no array";
    cJSON_ArrayForEach(item, qps)
    {
        if (hello->n_qp == RDMA_MAX_QPS)
            return "too many entries in qp_num";
        if (!u32(item, &v) || v > 0xffffff)
            return "qp_num holds something else than queue pair numbers";
        hello->qp_num[hello->n_qp++] = v;
    }
    if (u32(lid, &v))
        hello->lid = (uint16_t)v;
    hello->ready_ack = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(root, "ready_ack"));
    if (!text(root, "local_gid", gid, sizeof(gid)))
        return "local_gid is no GID";
    if (gid[0]) {
        if (rdma_gid_parse(gid, hello->gid) != FERRY_OK)
            return "local_gid is no GID";
        hello->has_gid = true;
    }
    return ours ? parse_ours(ours, hello) : NULL;
}

ferry_status rdma_hello_parse(const char *in, size_t len, struct rdma_hello *hello_out,
                              const char **why_out)
{
    struct rdma_hello hello = {0};
    cJSON *root = cJSON_ParseWithLength(in, len);
    const char *why = root ? parse_hello(root, &hello) : "not JSON";

    cJSON_Delete(root);
    if (why) {
        *why_out = why;
        return FERRY_EINVAL;
    }
    *hello_out = hello;
    return FERRY_OK;
}

static const char *parse_devices(const cJSON *list, struct rdma_remote *remote)
{
    static const uint8_t zero[16];
    const cJSON *item;

    if (!cJSON_IsArray(list))
        return "it names no RDMA devices";
    cJSON_ArrayForEach(item, list)
    {
        struct rdma_remote_device *device = &remote->device[remote->n];
        char gid[64];
        uint32_t lid = 0;
        if (remote->n == RDMA_MAX_DEVICES)
            break; /* keys of later ones are passed over as well */
        if (!cJSON_IsObject(item) || !text(item, "name", device->name, sizeof(device->name)) ||
            !device->name[0] || !text(item, "gid", gid, sizeof(gid)))
            return "one of its RDMA devices has no name or gid";
        u32(cJSON_GetObjectItemCaseSensitive(item, "lid"), &lid);
        device->lid = (uint16_t)lid;
        device->usable = rdma_gid_parse(gid, device->gid) == FERRY_OK &&
                         (memcmp(device->gid, zero, 16) != 0 || device->lid != 0);
        remote->n++;
    }
    for (uint32_t i = 0; i < remote->n; i++)
        if (remote->device[i].usable)
            return NULL;
    return "none of its RDMA devices is usable";
}

ferry_status rdma_remote_parse(const struct ferry_kvs *attrs, struct rdma_remote *remote_out,
                               const char **why_out)
{
    struct rdma_remote remote = {0};
    cJSON *devices = parse_attr(attrs, "devices");
    cJSON *ours = parse_attr(attrs, "ferry_rdma");
    const struct ferry_kv *server = find(attrs, "rdma_server_name");
    const char *why = parse_devices(devices, &remote);

    if (!why && server) {
        if (server->val_len >= sizeof(remote.server) ||
            memchr(server->val, '\0', server->val_len))
            why = "its rdma_server_name is too long";
        else
            memcpy(remote.server, server->val, server->val_len);
    }

    if (!why && ours) {
        remote.ferry = true;
        if (!cJSON_IsObject(ours) ||
            !text(ours, "instance", remote.instance, sizeof(remote.instance)))
            why = "its ferry_rdma is malformed";
    }
    cJSON_Delete(devices);
    cJSON_Delete(ours);
    if (why) {
        *why_out = why;
        return FERRY_EINVAL;
    }
    *remote_out = remote;
    return FERRY_OK;
}

/* Keys of devices beyond ours to count are passed over. */
static bool parse_row(const cJSON *row, uint32_t n_devices, uint32_t stride, uint32_t *key)
{
    const cJSON *item;
    uint32_t i = 0;

    cJSON_ArrayForEach(item, row)
    {
        if (i == n_devices)
            return true;
        if (!u32(item, &key[(size_t)i * stride]))
            return false;
        i++;
    }
    return i == n_devices;
}

static const char *parse_chunks(const cJSON *ours, uint32_t n_devices, uint64_t len,
                                struct rdma_keys *keys)
{
    const cJSON *row, *rows = cJSON_GetObjectItemCaseSensitive(ours, "rkeys");
    double chunk_len;
    uint32_t i = 0;

    if (!number(cJSON_GetObjectItemCaseSensitive(ours, "chunk"), 9e15, &chunk_len) ||
        chunk_len < 4096 || !cJSON_IsArray(rows))
        return "its ferry_rdma is malformed";
    keys->chunk_len = (uint64_t)chunk_len;
    if ((len - 1) / keys->chunk_len >= MAX_CHUNKS)
        return "it comes in too many pieces";
    keys->n_chunks = (uint32_t)((len - 1) / keys->chunk_len + 1);
    keys->key = calloc((size_t)keys->n_chunks * n_devices, sizeof(*keys->key));
    if (!keys->key)
        return "no memory";
    cJSON_ArrayForEach(row, rows)
    {
        if (i == keys->n_chunks || !parse_row(row, n_devices, keys->n_chunks, &keys->key[i]))
            return "its keys do not match its pieces";
        i++;
    }
    return i == keys->n_chunks ? NULL : "its keys do not match its pieces";
}

ferry_status rdma_keys_parse(const struct ferry_kvs *attrs, uint32_t n_devices, uint64_t len,
                             struct rdma_keys *keys_out, const char **why_out)
{
    struct rdma_keys keys = {.n_chunks = 1};
    cJSON *rkey = parse_attr(attrs, "rkey");
    cJSON *ours = parse_attr(attrs, "ferry_rdma");
    const char *why = NULL;
    ferry_status status = FERRY_EINVAL;

    if (len == 0 || n_devices == 0) {
        why = "it is empty";
    } else if (ours) {
        why = parse_chunks(ours, n_devices, len, &keys);
    } else if (!cJSON_IsArray(rkey) || cJSON_GetArraySize(rkey) == 0) {
        why = "it has no rkey: nobody may reach it by RDMA";
        status = FERRY_EACCESS;
    } else {
        keys.key = calloc(n_devices, sizeof(*keys.key));
        if (!keys.key)
            why = "no memory";
        else if (!parse_row(rkey, n_devices, 1, keys.key))
            why = "its rkey does not match the devices";
    }
    cJSON_Delete(rkey);
    cJSON_Delete(ours);
    if (why) {
        free(keys.key);
        *why_out = why;
        return status;
    }
    *keys_out = keys;
    return FERRY_OK;
}
