/* SPDX-License-Identifier: Apache-2.0 */
/* Segment documents: what is written is read back, upstream's are understood, rubbish is not.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include <inttypes.h>

#include "doc.h"
#include "ferry/ferry.h"
#include "util/clock.h"

#define READ  FERRY_ACCESS_REMOTE_READ
#define WRITE FERRY_ACCESS_REMOTE_WRITE

static struct fy_doc *parsed(const char *text)
{
    struct fy_doc *doc = NULL;
    ferry_status status = fy_doc_parse(text, strlen(text), &doc);

    if (status)
        print_message("%s\n", ferry_error());
    assert_int_equal(status, FERRY_OK);
    return doc;
}

/* As JSON text, with the timestamp's digits replaced. */
static char *encoded(const struct fy_doc *doc)
{
    struct fy_buf buf;
    char *stamp;

    fy_buf_init(&buf, 0);
    assert_int_equal(fy_doc_encode(doc, &buf), FERRY_OK);
    assert_int_equal(strlen(buf.data), buf.len);
    stamp = strstr(buf.data, "\"timestamp\":\"");
    assert_non_null(stamp);
    for (stamp += strlen("\"timestamp\":\""); *stamp != '"'; stamp++) {
        if (*stamp >= '0' && *stamp <= '9')
            *stamp = '0';
    }
    return fy_buf_take(&buf);
}

static void assert_attr(const struct fy_kv *attrs, const char *key, const char *val, size_t len,
                        uint32_t flags)
{
    const struct ferry_kv *kv = fy_kv_get(&attrs->kvs, key);

    assert_non_null(kv);
    assert_int_equal(kv->flags, flags);
    assert_int_equal(kv->val_len, len);
    assert_memory_equal(kv->val, val, len);
}

static void assert_json(const struct fy_kv *attrs, const char *key, const char *val)
{
    assert_attr(attrs, key, val, strlen(val), FERRY_KV_JSON);
}

static struct ferry_kv text(const char *key, const char *val, uint32_t flags)
{
    return (struct ferry_kv){key, val, (uint32_t)strlen(val), flags};
}

/* Two transports, two buffers, not given in the order of their addresses. */
static struct fy_doc *sample(void)
{
    struct ferry_kv rdma[] = {
        text("priority_matrix", "{ \"cpu:0\": [[\"mlx5_0\"], []] }", FERRY_KV_JSON),
        text("device.label", "quote \" back \\ tab \t", FERRY_KV_TEXT),
        {"blob", "\0\1\2\xff", 4, 0},
    };
    struct ferry_kv tcp[] = {text("tcp_data_port", "15999", FERRY_KV_JSON)};
    struct ferry_kv keys[] = {text("rkey", "[7, 8]", FERRY_KV_JSON),
                              text("lkey", "[7,8]", FERRY_KV_JSON)};
    struct ferry_kvs attrs[2] = {{keys, 2}, {NULL, 0}};
    struct fy_doc *doc = NULL;

    assert_int_equal(fy_doc_new("10.0.0.1:1", "e-1", &doc), FERRY_OK);
    assert_int_equal(fy_doc_add_transport(doc, "rdma", &(struct ferry_kvs){rdma, 3}), FERRY_OK);
    assert_int_equal(fy_doc_add_transport(doc, "tcp", &(struct ferry_kvs){tcp, 1}), FERRY_OK);
    assert_int_equal(fy_doc_add_buffer(doc, 0x9000, 16, READ | WRITE, NULL, NULL), FERRY_OK);
    assert_int_equal(fy_doc_add_buffer(doc, 0x1000, 32, READ, "cpu:0", attrs), FERRY_OK);
    assert_int_equal(fy_doc_seal(doc), FERRY_OK);
    return doc;
}

static const char sample_text[] =
    "{\"blob\":{\"base64\":\"AAEC/w==\"},"
    "\"buffers\":["
    "{\"addr\":36864,\"length\":16,\"name\":\"*\"},"
    "{\"access\":2,\"addr\":4096,\"length\":32,\"lkey\":[7,8],\"name\":\"cpu:0\",\"rkey\":[7,8],"
    "\"transports\":{\"rdma\":{\"lkey\":[7,8],\"rkey\":[7,8]}}}],"
    "\"device.label\":\"quote \\\" back \\\\ tab \\u0009\","
    "\"epoch\":\"e-1\",\"name\":\"10.0.0.1:1\","
    "\"priority_matrix\":{\"cpu:0\":[[\"mlx5_0\"],[]]},\"protocol\":\"rdma\","
    "\"timestamp\":\"0000-00-00 00:00:00.000000\","
    "\"transports\":{"
    "\"rdma\":{\"blob\":{\"base64\":\"AAEC/w==\"},"
    "\"device.label\":\"quote \\\" back \\\\ tab \\u0009\","
    "\"priority_matrix\":{\"cpu:0\":[[\"mlx5_0\"],[]]}},"
    "\"tcp\":{\"tcp_data_port\":15999}}}";

static void assert_sample(const struct fy_doc *doc)
{
    assert_string_equal(doc->name, "10.0.0.1:1");
    assert_string_equal(doc->epoch, "e-1");
    assert_string_equal(doc->protocol, "rdma");
    assert_int_equal(doc->n_transports, 2);
    assert_string_equal(doc->transports[0].name, "rdma");
    assert_int_equal(doc->transports[0].attrs.kvs.n, 3);
    assert_attr(&doc->transports[0].attrs, "blob", "\0\1\2\xff", 4, 0);
    assert_attr(&doc->transports[0].attrs, "device.label", "quote \" back \\ tab \t", 20,
                FERRY_KV_TEXT);
    assert_json(&doc->transports[0].attrs, "priority_matrix", "{\"cpu:0\":[[\"mlx5_0\"],[]]}");
    assert_json(&doc->transports[1].attrs, "tcp_data_port", "15999");
    assert_int_equal(fy_doc_transport_index(doc, "tcp"), 1);
    assert_int_equal(fy_doc_transport_index(doc, "rdm"), -1);
    assert_int_equal(doc->n_buffers, 2);
    assert_int_equal(doc->buffers[0].addr, 0x1000);
    assert_int_equal(doc->buffers[0].access, READ);
    assert_string_equal(doc->buffers[0].location, "cpu:0");
    assert_json(&doc->buffers[0].attrs[0], "rkey", "[7,8]");
    assert_int_equal(doc->buffers[0].attrs[1].kvs.n, 0);
    assert_int_equal(doc->buffers[1].addr, 0x9000);
    assert_int_equal(doc->buffers[1].access, READ | WRITE);
    assert_string_equal(doc->buffers[1].location, "*");
    assert_null(doc->buffers[1].attrs);
    assert_ptr_equal(doc->listed[0], &doc->buffers[1]); /* as given */
    assert_ptr_equal(doc->listed[1], &doc->buffers[0]);
}

static void what_is_written_is_read_back(void **state)
{
    struct fy_doc *doc = sample(), *again;
    char *first = encoded(doc), *second;

    assert_string_equal(first, sample_text);
    again = parsed(first);
    assert_sample(again);
    second = encoded(again);
    assert_string_equal(first, second);
    free(first);
    free(second);
    assert_ptr_equal(fy_doc_ref(doc), doc);
    fy_doc_unref(doc);
    fy_doc_unref(doc);
    fy_doc_unref(again);
    fy_doc_unref(NULL);
}

static void upstream_tcp_is_understood(void **state)
{
    struct fy_doc *doc = parsed(
        "{\"buffers\":[{\"addr\":140234567890944,\"length\":1048576,\"name\":\"node1\"}],"
        "\"name\":\"node1\",\"protocol\":\"tcp\",\"tcp_data_port\":15229,"
        "\"tcp_proto_version\":2,\"timestamp\":\"2026-08-22 13:12:18.000123\"}\n");

    assert_string_equal(doc->name, "node1");
    assert_string_equal(doc->epoch, "");
    assert_string_equal(doc->protocol, "tcp");
    assert_int_equal(doc->n_transports, 1);
    assert_string_equal(doc->transports[0].name, "tcp");
    assert_int_equal(doc->transports[0].attrs.kvs.n, 2);
    assert_json(&doc->transports[0].attrs, "tcp_data_port", "15229");
    assert_json(&doc->transports[0].attrs, "tcp_proto_version", "2");
    assert_int_equal(doc->n_buffers, 1);
    assert_true(doc->buffers[0].addr == 140234567890944u);
    assert_int_equal(doc->buffers[0].len, 1048576);
    assert_int_equal(doc->buffers[0].access, READ | WRITE);
    assert_null(doc->buffers[0].attrs);
    fy_doc_unref(doc);
}

static void upstream_rdma_is_understood(void **state)
{
    struct fy_doc *doc = parsed(
        "{\"buffers\":[{\"addr\":139637976727552,\"length\":1073741824,"
        "\"lkey\":[1052672,2105600],\"name\":\"cpu:0\",\"rkey\":[1052672,2105600]},"
        "{\"addr\":4096,\"length\":1,\"lkey\":[],\"name\":\"*\",\"rkey\":[]}],"
        "\"devices\":[{\"gid\":\"00:00:00:00:00:00:00:00:00:00:ff:ff:0a:00:00:02\",\"lid\":0,"
        "\"name\":\"mlx5_0\"},{\"gid\":\"00:00\",\"lid\":0,\"name\":\"mlx5_1\"}],"
        "\"name\":\"10.0.0.2:16001\",\"priority_matrix\":{\"cpu:0\":[[\"mlx5_0\"],[\"mlx5_1\"]]},"
        "\"protocol\":\"rdma\",\"rdma_server_name\":\"h\",\"tcp_data_port\":0,"
        "\"tcp_proto_version\":1,\"timestamp\":\"2026-08-22 13:12:19.500000\"}");
    const struct fy_kv *attrs = &doc->transports[0].attrs;

    assert_int_equal(attrs->kvs.n, 5);
    assert_json(attrs, "priority_matrix", "{\"cpu:0\":[[\"mlx5_0\"],[\"mlx5_1\"]]}");
    assert_json(attrs, "devices",
                "[{\"gid\":\"00:00:00:00:00:00:00:00:00:00:ff:ff:0a:00:00:02\",\"lid\":0,"
                "\"name\":\"mlx5_0\"},{\"gid\":\"00:00\",\"lid\":0,\"name\":\"mlx5_1\"}]");
    assert_attr(attrs, "rdma_server_name", "h", 1, FERRY_KV_TEXT);
    assert_int_equal(doc->n_buffers, 2);
    assert_json(&doc->buffers[0].attrs[0], "rkey", "[]"); /* the transport's to judge */
    assert_json(&doc->buffers[1].attrs[0], "rkey", "[1052672,2105600]");
    assert_string_equal(doc->buffers[1].location, "cpu:0");
    fy_doc_unref(doc);
}

static void upstream_multi_protocol_is_understood(void **state)
{
    struct fy_doc *doc = parsed(
        "{\"buffers\":["
        "{\"addr\":4096,\"length\":4096,\"name\":\"node2\",\"protocol\":\"tcp\"},"
        "{\"addr\":4096,\"length\":4096,\"lkey\":[1],\"name\":\"cpu:0\",\"protocol\":\"rdma\","
        "\"rkey\":[1]},"
        "{\"addr\":65536,\"length\":16,\"name\":\"x\",\"protocol\":\"hip\",\"shm_name\":\"s\"},"
        "{\"addr\":131072,\"length\":16,\"lkey\":[2],\"name\":\"cpu:1\",\"protocol\":\"rdma\","
        "\"rkey\":[2]},"
        "{\"addr\":131072,\"length\":8,\"name\":\"node2\",\"protocol\":\"tcp\"}],"
        "\"devices\":[],\"name\":\"node2\",\"protocol\":[\"rdma\",\"tcp\",\"tcp\"],"
        "\"tcp_data_port\":15999}");

    assert_string_equal(doc->protocol, "rdma");
    assert_int_equal(doc->n_transports, 2);
    assert_json(&doc->transports[0].attrs, "tcp_data_port", "15999");
    assert_json(&doc->transports[1].attrs, "tcp_data_port", "15999");
    assert_json(&doc->transports[1].attrs, "devices", "[]");
    /* The same range twice is one buffer; other ranges stay apart; hip is none of theirs. */
    assert_int_equal(doc->n_buffers, 3);
    assert_int_equal(doc->buffers[0].addr, 4096);
    assert_json(&doc->buffers[0].attrs[0], "rkey", "[1]");
    assert_string_equal(doc->buffers[0].location, "cpu:0");
    assert_int_equal(doc->buffers[0].attrs[1].kvs.n, 0);
    assert_int_equal(doc->buffers[1].len, 8);
    assert_int_equal(doc->buffers[2].len, 16);
    assert_json(&doc->buffers[2].attrs[0], "rkey", "[2]");
    assert_ptr_equal(doc->listed[0], &doc->buffers[0]); /* the text's order */
    assert_ptr_equal(doc->listed[1], &doc->buffers[2]);
    assert_ptr_equal(doc->listed[2], &doc->buffers[1]);
    fy_doc_unref(doc);
}

static void ranges_with_keys_of_several_protocols_are_joined(void **state)
{
    struct fy_doc *doc = parsed("{\"protocol\":[\"a\",\"b\"],\"buffers\":["
                                "{\"addr\":8,\"length\":8,\"protocol\":\"a\",\"k\":1},"
                                "{\"addr\":8,\"length\":8,\"protocol\":\"b\",\"k\":2},"
                                "{\"addr\":8,\"length\":8,\"protocol\":\"b\",\"k\":3}]}");

    assert_int_equal(doc->n_buffers, 2); /* two of b cannot be one */
    for (size_t i = 0, a = 0; i < 2; i++) {
        a += doc->buffers[i].attrs[0].kvs.n;
        assert_int_equal(doc->buffers[i].attrs[1].kvs.n, 1);
        assert_true(i == 0 || a == 1);
    }
    fy_doc_unref(doc);
}

static void large_numbers_stay_exact(void **state)
{
    struct fy_doc *doc =
        parsed("{\"protocol\":\"tcp\",\"key\":18446744073709551615,\"buffers\":["
               "{\"addr\":18446744073709551000,\"length\":615},"
               "{\"addr\":9007199254740993,\"length\":9007199254740995},"
               "{\"addr\":1e3,\"length\":5.0}]}");
    char *again = encoded(doc);

    assert_int_equal(doc->n_buffers, 3);
    assert_true(doc->buffers[0].addr == 1000 && doc->buffers[0].len == 5);
    assert_true(doc->buffers[1].addr == 9007199254740993u);
    assert_true(doc->buffers[1].len == 9007199254740995u);
    assert_true(doc->buffers[2].addr == 18446744073709551000u);
    assert_json(&doc->transports[0].attrs, "key", "18446744073709551615");
    assert_non_null(strstr(again, "\"addr\":18446744073709551000,\"length\":615,"));
    assert_non_null(strstr(again, "\"addr\":9007199254740993,\"length\":9007199254740995,"));
    free(again);
    fy_doc_unref(doc);
}

static void unusable_buffers_are_passed_over(void **state)
{
    struct fy_doc *doc =
        parsed("{\"protocol\":\"tcp\",\"buffers\":["
               "{\"addr\":0,\"length\":8,\"name\":\"a\"},{\"addr\":8,\"length\":0},{},"
               "{\"addr\":null,\"length\":8},"
               "{\"addr\":18446744073709551615,\"length\":1},"
               "{\"addr\":16,\"length\":18446744073709551615},"
               "{\"addr\":64,\"length\":8,\"name\":null,\"access\":null}]}");

    assert_int_equal(doc->n_buffers, 1);
    assert_int_equal(doc->buffers[0].addr, 64);
    assert_string_equal(doc->buffers[0].location, "*");
    assert_int_equal(doc->buffers[0].access, READ | WRITE);
    fy_doc_unref(doc);
}

static void what_upstream_would_pass_is_passed(void **state)
{
    /* Duplicate members: the last. Null: missing. Behind it: white space and NULs. Reserved
     * names and nulls are no attributes; unknown members are no error. */
    static const char odd[] =
        "{\"protocol\":\"rdma\",\"protocol\":\"tcp\",\"a\":1,\"a\":\"x\",\"b\":null,"
        "\"buffers\":[{\"addr\":1,\"addr\":16,\"length\":4}],\"name\":null,\"epoch\":null,"
        "\"transports\":null,\"addr\":5,\"x\\u0000y\":1,\"\":2} \n\0\0";
    struct fy_doc *doc = NULL;

    assert_int_equal(fy_doc_parse(odd, sizeof(odd), &doc), FERRY_OK);
    assert_string_equal(doc->protocol, "tcp");
    assert_string_equal(doc->name, "");
    assert_int_equal(doc->transports[0].attrs.kvs.n, 1);
    assert_attr(&doc->transports[0].attrs, "a", "x", 1, FERRY_KV_TEXT);
    assert_int_equal(doc->buffers[0].addr, 16);
    fy_doc_unref(doc);
    doc = parsed("{\"protocol\":\"tcp\",\"buffers\":null}");
    assert_int_equal(doc->n_buffers, 0);
    fy_doc_unref(doc);
}

static void wrong_documents_say_what_is_wrong(void **state)
{
    static const struct {
        const char *text, *why;
    } wrong[] = {
        {"", "malformed JSON at byte 0"},
        {"null\n", "is null, not an object"},
        {"[]", "is another JSON value, not an object"},
        {"{}", "\"protocol\" is missing"},
        {"{\"protocol\":\"\"}", "\"protocol\" is missing"},
        {"{\"protocol\":[]}", "\"protocol\" names none"},
        {"{\"protocol\":[7]}", "\"protocol\" is not a string"},
        {"{\"protocol\":7}", "\"protocol\" is not a string"},
        {"{\"protocol\":\"t\\u0000p\"}", "\"protocol\" contains a NUL"},
        {"{\"protocol\":\"0123456789012345678901234567890123\"}", "\"protocol\" is too long"},
        {"{\"protocol\":\"tcp\",\"name\":{}}", "\"name\" is not a string"},
        {"{\"protocol\":\"tcp\",\"epoch\":1}", "\"epoch\" is not a string"},
        {"{\"protocol\":\"tcp\",\"buffers\":{}}", "\"buffers\" is not an array"},
        {"{\"protocol\":\"tcp\",\"buffers\":[[]]}", "\"buffers\"[0] is not an object"},
        {"{\"protocol\":\"tcp\",\"buffers\":[{},{\"addr\":\"1\"}]}",
         "\"buffers\"[1].\"addr\" is not a number"},
        {"{\"protocol\":\"tcp\",\"buffers\":[{\"addr\":-1}]}",
         "\"buffers\"[0].\"addr\" is -1: a whole number of 64 bits is wanted"},
        {"{\"protocol\":\"tcp\",\"buffers\":[{\"length\":1.5}]}", "\"length\" is 1.5"},
        {"{\"protocol\":\"tcp\",\"buffers\":[{\"addr\":1,\"length\":1,\"access\":true}]}",
         "\"access\" is not a number"},
        {"{\"protocol\":\"tcp\",\"buffers\":[{\"addr\":1,\"length\":1,\"name\":1}]}",
         "\"buffers[].name\" is not a string"},
        {"{\"protocol\":\"tcp\",\"transports\":[]}", "\"transports\" is not an object"},
        {"{\"protocol\":\"tcp\",\"transports\":{\"rdma\":{}}}",
         "\"transports\" has no \"tcp\", its \"protocol\""},
        {"{\"protocol\":\"tcp\",\"transports\":{\"tcp\":1}}",
         "\"transports\".\"tcp\" is not an object"},
        {"{\"protocol\":\"tcp\",\"transports\":{\"tcp\":{}},\"buffers\":[{\"addr\":1,"
         "\"length\":1,\"transports\":3}]}",
         "\"buffers\"[0].\"transports\" is not an object"},
        {"{\"protocol\":\"tcp\",\"transports\":{\"tcp\":{}},\"buffers\":[{\"addr\":1,"
         "\"length\":1,\"transports\":{\"tcp\":[]}}]}",
         "\"buffers\"[0].\"transports\".\"tcp\" is not an object"},
        {"{\"protocol\":\"tcp\"}{}", "nothing may follow"},
    };

    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        struct fy_doc *doc = NULL;

        assert_int_equal(fy_doc_parse(wrong[i].text, strlen(wrong[i].text), &doc),
                         FERRY_EINVAL);
        assert_null(doc);
        if (!strstr(ferry_error(), wrong[i].why))
            print_message("%s: %s\n", wrong[i].text, ferry_error());
        assert_non_null(strstr(ferry_error(), wrong[i].why));
        assert_int_equal(strncmp(ferry_error(), "segment document: ", 18), 0);
    }
}

static void every_cut_of_a_document_is_refused(void **state)
{
    for (size_t len = 0; len < sizeof(sample_text) - 1; len++) {
        char *cut = malloc(len + 1);
        struct fy_doc *doc = NULL;

        assert_non_null(cut);
        memcpy(cut, sample_text, len);
        assert_int_equal(fy_doc_parse(cut, len, &doc), FERRY_EINVAL);
        free(cut);
    }
}

static void too_many_attributes_are_refused(void **state)
{
    struct fy_doc *doc = NULL;
    struct fy_buf buf;

    fy_buf_init(&buf, 0);
    assert_int_equal(fy_buf_printf(&buf, "{\"protocol\":\"tcp\""), FERRY_OK);
    for (int i = 0; i < 65; i++)
        assert_int_equal(fy_buf_printf(&buf, ",\"a%d\":%d", i, i), FERRY_OK);
    assert_int_equal(fy_buf_append(&buf, "}", 1), FERRY_OK);
    assert_int_equal(fy_doc_parse(buf.data, buf.len, &doc), FERRY_EINVAL);
    assert_non_null(strstr(ferry_error(), "more than 64 attributes"));
    fy_buf_fini(&buf);
}

static void transports_beyond_the_limit_are_passed_over(void **state)
{
    struct fy_doc *doc;
    struct fy_buf buf;
    ferry_status status = FERRY_OK;

    fy_buf_init(&buf, 0);
    assert_int_equal(fy_buf_printf(&buf, "{\"protocol\":\"zz\",\"transports\":{"), FERRY_OK);
    for (int i = 0; i < 40; i++)
        assert_int_equal(fy_buf_printf(&buf, "\"t%02d\":{},", i), FERRY_OK);
    assert_int_equal(fy_buf_printf(&buf, "\"0123456789012345678901234567890123\":{},"
                                         "\"zz\":{\"a\":1}}}"),
                     FERRY_OK);
    doc = parsed(buf.data);
    assert_int_equal(doc->n_transports, FY_DOC_MAX_TRANSPORTS);
    assert_string_equal(doc->transports[0].name, "zz");
    assert_string_equal(doc->transports[1].name, "t00");
    fy_doc_unref(doc);
    fy_buf_fini(&buf);

    assert_int_equal(fy_doc_new("n", NULL, &doc), FERRY_OK);
    for (int i = 0; i <= FY_DOC_MAX_TRANSPORTS && !status; i++) {
        char name[] = {'t', (char)('a' + i), '\0'};

        status = fy_doc_add_transport(doc, name, NULL);
        assert_int_equal(status, i == FY_DOC_MAX_TRANSPORTS ? FERRY_EINVAL : FERRY_OK);
    }
    fy_doc_unref(doc);
}

static void what_cannot_be_published_is_refused(void **state)
{
    static const char *const reserved[] = {"name",      "protocol", "buffers",
                                           "timestamp", "epoch",    "transports",
                                           "access",    "addr",     "length"};
    struct fy_doc *doc = NULL;
    struct ferry_kv kv = text("broken", "[1,", FERRY_KV_JSON);
    struct ferry_kvs attrs = {&kv, 1};
    struct fy_buf buf;

    assert_int_equal(fy_doc_new("n", NULL, &doc), FERRY_OK);
    fy_buf_init(&buf, 0);
    assert_int_equal(fy_buf_append(&buf, "before", 6), FERRY_OK);
    assert_int_equal(fy_doc_encode(doc, &buf), FERRY_EINVAL);
    assert_string_equal(ferry_error(), "segment document of n: has no transport");
    for (size_t i = 0; i < sizeof(reserved) / sizeof(reserved[0]); i++) {
        struct ferry_kv clash = text(reserved[i], "1", FERRY_KV_JSON);

        assert_int_equal(fy_doc_add_transport(doc, "tcp", &(struct ferry_kvs){&clash, 1}),
                         FERRY_EINVAL);
        assert_non_null(strstr(ferry_error(), reserved[i]));
    }
    assert_int_equal(fy_doc_add_transport(doc, "", NULL), FERRY_EINVAL);
    assert_int_equal(fy_doc_add_transport(doc, "0123456789012345678901234567890123", NULL),
                     FERRY_EINVAL);
    assert_int_equal(fy_doc_add_transport(doc, "tcp", &attrs), FERRY_OK);
    assert_int_equal(fy_doc_add_transport(doc, "tcp", NULL), FERRY_EINVAL);
    assert_int_equal(fy_doc_add_buffer(doc, 0, 1, 0, NULL, NULL), FERRY_EINVAL);
    assert_int_equal(fy_doc_add_buffer(doc, 1, 0, 0, NULL, NULL), FERRY_EINVAL);
    assert_int_equal(fy_doc_add_buffer(doc, UINT64_MAX, 1, 0, NULL, NULL), FERRY_EINVAL);
    kv = text("addr", "1", FERRY_KV_JSON);
    assert_int_equal(fy_doc_add_buffer(doc, 1, 1, 0, NULL, &attrs), FERRY_EINVAL);
    assert_int_equal(fy_doc_seal(doc), FERRY_OK);
    assert_int_equal(fy_doc_encode(doc, &buf), FERRY_EINVAL);
    assert_non_null(strstr(ferry_error(), "attribute \"broken\": malformed JSON"));
    assert_string_equal(buf.data, "before");
    fy_doc_unref(doc);

    assert_int_equal(fy_doc_new("\xff", NULL, &doc), FERRY_OK);
    assert_int_equal(fy_doc_add_transport(doc, "tcp", NULL), FERRY_OK);
    assert_int_equal(fy_doc_seal(doc), FERRY_OK);
    assert_int_equal(fy_doc_encode(doc, &buf), FERRY_EINVAL);
    assert_string_equal(ferry_error(), "segment document: \"name\" is not UTF-8");
    fy_doc_unref(doc);

    doc = sample();
    buf.max = 200;
    assert_int_equal(fy_doc_encode(doc, &buf), FERRY_ERANGE);
    assert_int_equal(buf.len, 6);
    assert_string_equal(buf.data, "before");
    fy_doc_unref(doc);
    fy_buf_fini(&buf);
}

static struct fy_doc *ranges(const uint64_t (*list)[3], size_t n)
{
    struct fy_doc *doc = NULL;

    assert_int_equal(fy_doc_new("peer:1", "e", &doc), FERRY_OK);
    assert_int_equal(fy_doc_add_transport(doc, "tcp", NULL), FERRY_OK);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(
            fy_doc_add_buffer(doc, list[i][0], list[i][1], (uint32_t)list[i][2], "cpu:0", NULL),
            FERRY_OK);
    assert_int_equal(fy_doc_seal(doc), FERRY_OK);
    return doc;
}

static ferry_status find(const struct fy_doc *doc, uint64_t addr, uint64_t len, uint32_t access,
                         size_t *at)
{
    ferry_status status = FERRY_OK;

    /* The result never depends on the hint. */
    for (size_t hint = 0; hint < doc->n_buffers + 2; hint++) {
        size_t index = hint;
        ferry_status now = fy_doc_find(doc, addr, len, access, &index);

        assert_true(hint == 0 || now == status);
        status = now;
        assert_true(now == FERRY_OK || index == hint);
        if (now == FERRY_OK) {
            const struct fy_doc_buffer *buffer = &doc->buffers[index];

            assert_true(addr >= buffer->addr && addr + len <= buffer->addr + buffer->len);
            assert_int_equal(buffer->access & access, access);
            *at = index;
        }
    }
    return status;
}

static void buffers_are_found(void **state)
{
    static const uint64_t list[][3] = {{0x3000, 0x100, READ},
                                       {0x1000, 0x100, READ | WRITE},
                                       {0x1100, 0x100, READ | WRITE},
                                       {UINT64_MAX - 16, 16, WRITE}};
    struct fy_doc *doc = ranges(list, 4);
    size_t at = 99;

    assert_int_equal(find(doc, 0x1000, 0x100, READ, &at), FERRY_OK);
    assert_int_equal(at, 0);
    assert_int_equal(find(doc, 0x11ff, 1, WRITE, &at), FERRY_OK);
    assert_int_equal(at, 1);
    assert_int_equal(find(doc, 0x10ff, 2, READ, &at), FERRY_ERANGE); /* two buffers */
    assert_int_equal(find(doc, 0xfff, 1, 0, &at), FERRY_ERANGE);
    assert_int_equal(find(doc, 0x1200, 1, 0, &at), FERRY_ERANGE);
    assert_string_equal(ferry_error(), "0x1200+1 is in no buffer of segment peer:1");
    assert_int_equal(find(doc, 0x3000, 1, READ | WRITE, &at), FERRY_EACCESS);
    assert_string_equal(ferry_error(), "0x3000+1 of segment peer:1 may not be written");
    assert_int_equal(find(doc, UINT64_MAX - 16, 1, READ, &at), FERRY_EACCESS);
    assert_string_equal(ferry_error(),
                        "0xffffffffffffffef+1 of segment peer:1 may not be read");
    assert_int_equal(find(doc, UINT64_MAX - 1, 1, WRITE, &at), FERRY_OK);
    assert_int_equal(find(doc, UINT64_MAX - 1, 2, WRITE, &at), FERRY_ERANGE);
    assert_int_equal(find(doc, 0x1000, UINT64_MAX, READ, &at), FERRY_ERANGE);
    assert_int_equal(find(doc, 0x1000, 0, READ, &at), FERRY_ERANGE);
    fy_doc_unref(doc);
    doc = ranges(NULL, 0);
    assert_int_equal(find(doc, 1, 1, 0, &at), FERRY_ERANGE);
    fy_doc_unref(doc);
}

static void overlapping_buffers_are_found(void **state)
{
    static const uint64_t list[][3] = {
        {0x1000, 0x10000, READ}, /* swallows the next three */
        {0x2000, 0x100, READ},   {0x2000, 0x200, READ | WRITE},
        {0x3000, 0x10, WRITE},   {0x10f00, 0x1000, READ}, /* hangs over its end */
    };
    struct fy_doc *doc = ranges(list, 5);
    size_t at;

    assert_int_equal(find(doc, 0x2010, 0x10, READ, &at), FERRY_OK);
    assert_int_equal(find(doc, 0x20ff, 2, READ, &at), FERRY_OK);
    assert_int_equal(find(doc, 0x20ff, 2, WRITE, &at), FERRY_OK);
    assert_int_equal(find(doc, 0x2100, 0x2000, READ, &at), FERRY_OK);
    assert_int_equal(at, 0);
    assert_int_equal(find(doc, 0x4000, 0xd000, READ, &at), FERRY_OK); /* to its last byte */
    assert_int_equal(find(doc, 0x4000, 0xd001, READ, &at), FERRY_ERANGE);
    assert_int_equal(find(doc, 0x3000, 0x20, READ, &at), FERRY_OK);
    assert_int_equal(find(doc, 0x3000, 0x20, WRITE, &at), FERRY_EACCESS);
    assert_int_equal(find(doc, 0x10fff, 2, READ, &at), FERRY_OK);
    assert_int_equal(at, 4);
    assert_int_equal(find(doc, 0x10e00, 0x300, READ, &at), FERRY_ERANGE);
    assert_int_equal(find(doc, 0x11f00, 1, READ, &at), FERRY_ERANGE);
    fy_doc_unref(doc);
}

static void a_hundred_thousand_buffers_are_no_burden(void **state)
{
    enum { N = 100000 };
    struct fy_doc *doc = NULL, *again = NULL;
    struct fy_buf buf;
    uint64_t began, encode_ms, parse_ms, find_ms;
    size_t hint = 0;

    assert_int_equal(fy_doc_new("10.0.0.1:15123", "0123456789abcdef", &doc), FERRY_OK);
    assert_int_equal(fy_doc_add_transport(doc, "tcp", NULL), FERRY_OK);
    for (uint64_t i = 0; i < N; i++)
        assert_int_equal(fy_doc_add_buffer(doc, 0x7f0000000000 + (i * 7919 % N) * 65536, 65536,
                                           READ | WRITE, i & 1 ? "cpu:0" : "cpu:1", NULL),
                         FERRY_OK);
    assert_int_equal(fy_doc_seal(doc), FERRY_OK);
    fy_buf_init(&buf, 0);
    began = fy_now_ns();
    assert_int_equal(fy_doc_encode(doc, &buf), FERRY_OK);
    encode_ms = (fy_now_ns() - began) / FY_NS_PER_MS;
    began = fy_now_ns();
    assert_int_equal(fy_doc_parse(buf.data, buf.len, &again), FERRY_OK);
    parse_ms = (fy_now_ns() - began) / FY_NS_PER_MS;
    assert_int_equal(again->n_buffers, N);
    for (uint64_t i = 0; i < N; i++)
        assert_true(again->listed[i]->addr == 0x7f0000000000 + (i * 7919 % N) * 65536);
    began = fy_now_ns();
    for (uint64_t i = 0; i < N; i++) {
        const struct fy_doc_buffer *want = &doc->buffers[i * 31337 % N];

        assert_int_equal(fy_doc_find(again, want->addr + 17, 65000, READ, &hint), FERRY_OK);
        assert_true(again->buffers[hint].addr == want->addr);
    }
    find_ms = (fy_now_ns() - began) / FY_NS_PER_MS;
    print_message("%zu bytes for %d buffers: written in %" PRIu64 " ms, read in %" PRIu64
                  " ms, each found in %" PRIu64 " ms\n",
                  buf.len, N, encode_ms, parse_ms, find_ms);
    assert_true(buf.len < (size_t)N * 64); /* nothing but what upstream writes */
    assert_true(encode_ms + parse_ms + find_ms < 10000);
    fy_buf_fini(&buf);
    fy_doc_unref(doc);
    fy_doc_unref(again);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_is_read_back),
        cmocka_unit_test(upstream_tcp_is_understood),
        cmocka_unit_test(upstream_rdma_is_understood),
        cmocka_unit_test(upstream_multi_protocol_is_understood),
        cmocka_unit_test(ranges_with_keys_of_several_protocols_are_joined),
        cmocka_unit_test(large_numbers_stay_exact),
        cmocka_unit_test(unusable_buffers_are_passed_over),
        cmocka_unit_test(what_upstream_would_pass_is_passed),
        cmocka_unit_test(wrong_documents_say_what_is_wrong),
        cmocka_unit_test(every_cut_of_a_document_is_refused),
        cmocka_unit_test(too_many_attributes_are_refused),
        cmocka_unit_test(transports_beyond_the_limit_are_passed_over),
        cmocka_unit_test(what_cannot_be_published_is_refused),
        cmocka_unit_test(buffers_are_found),
        cmocka_unit_test(overlapping_buffers_are_found),
        cmocka_unit_test(a_hundred_thousand_buffers_are_no_burden),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
