/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A segment's document from text, which may come from anybody: ours, an upstream node's, or
 * rubbish. Reads the text in place, so that 64-bit numbers stay exact and a hundred thousand
 * buffers need no tree. Of members given twice the last counts; null is the same as missing.
 */
#include "doc_inner.h"

#include <string.h>

#include "error.h"
#include "util/base64.h"
#include "util/json.h"

/* Attributes are looked up one by one: more than any node has would only cost time. */
#define MAX_ATTRS 64

struct parser {
    struct fy_doc *doc;
    struct fy_buf key, text, decoded; /* scratch */
    int by_protocol;                  /* buffers say which transport they belong to */
    int ours;                         /* attributes are under "transports" */
};

/* The members that are the document's own. Missing ones are FY_JSON_NULL. */
struct top {
    struct fy_json name, epoch, protocol, buffers, transports;
};

struct buffer {
    struct fy_json addr, length, name, access, protocol, transports;
};

/* A transport's name, which scratch does not keep. */
struct name {
    char text[sizeof(((struct fy_doc_transport *)0)->name)];
};

struct member {
    const char *name;
    struct fy_json *value;
};

static ferry_status no_memory(void)
{
    return fy_fail(FERRY_ENOMEM, "segment document: out of memory");
}

static void pick(const struct fy_json *object, const struct member *members, size_t n)
{
    struct fy_json_iter iter;
    struct fy_json key, value;

    fy_json_enter(object, &iter);
    while (fy_json_next(&iter, &key, &value)) {
        for (size_t i = 0; i < n; i++) {
            if (fy_json_is(&key, members[i].name))
                *members[i].value = value;
        }
    }
}

/* Into scratch. A NUL inside would cut the text for whoever reads it. */
static ferry_status read_text(struct fy_buf *scratch, const struct fy_json *json,
                              const char *what)
{
    scratch->len = 0;
    if (json->type == FY_JSON_NULL)
        return fy_buf_append(scratch, "", 0) ? no_memory() : FERRY_OK;
    if (json->type != FY_JSON_STRING)
        return fy_fail(FERRY_EINVAL, "segment document: \"%s\" is not a string", what);
    if (fy_json_string(json, scratch))
        return no_memory();
    if (strlen(scratch->data) != scratch->len)
        return fy_fail(FERRY_EINVAL, "segment document: \"%s\" contains a NUL", what);
    return FERRY_OK;
}

/* 0 where it is empty or longer than any transport's. */
static int keep_name(const struct fy_buf *scratch, struct name *name)
{
    if (!scratch->len || scratch->len >= sizeof(name->text))
        return 0;
    memcpy(name->text, scratch->data, scratch->len + 1);
    return 1;
}

/* {"base64": "..."}: bytes. Anything else that looks like it stays JSON. */
static int read_bytes(struct parser *parser, const struct fy_json *value)
{
    struct fy_json_iter iter;
    struct fy_json key, text, extra;

    if (value->type != FY_JSON_OBJECT)
        return 0;
    fy_json_enter(value, &iter);
    if (!fy_json_next(&iter, &key, &text) || !fy_json_is(&key, "base64") ||
        text.type != FY_JSON_STRING || fy_json_next(&iter, &key, &extra))
        return 0;
    parser->decoded.len = 0;
    parser->text.len = 0;
    return !fy_json_string(&text, &parser->decoded) &&
           !fy_base64_decode(parser->decoded.data, parser->decoded.len, &parser->text);
}

static ferry_status put_attr(struct parser *parser, const struct fy_json *value,
                             struct fy_kv *attrs)
{
    uint32_t flags = value->type == FY_JSON_STRING ? FERRY_KV_TEXT : FERRY_KV_JSON;
    ferry_status status = FERRY_OK;

    if (read_bytes(parser, value)) {
        flags = 0;
    } else {
        parser->text.len = 0;
        status = flags == FERRY_KV_TEXT ? fy_json_string(value, &parser->text)
                                        : fy_json_compact(value, &parser->text);
    }
    if (!status)
        status = fy_kv_put(attrs, parser->key.data, parser->text.data, parser->text.len, flags);
    return status ? no_memory() : FERRY_OK;
}

/* All members but reserved ones, nulls, and those whose name no transport can have. */
static ferry_status read_attrs(struct parser *parser, const struct fy_json *object,
                               struct fy_kv *attrs)
{
    ferry_status status = FERRY_OK;
    struct fy_json_iter iter;
    struct fy_json key, value;

    fy_json_enter(object, &iter);
    while (!status && fy_json_next(&iter, &key, &value)) {
        parser->key.len = 0;
        if (fy_json_string(&key, &parser->key))
            return no_memory();
        if (value.type == FY_JSON_NULL || !parser->key.len ||
            strlen(parser->key.data) != parser->key.len || fy_doc_reserved(parser->key.data))
            continue;
        status = put_attr(parser, &value, attrs);
        if (!status && attrs->kvs.n > MAX_ATTRS)
            status =
                fy_fail(FERRY_EINVAL, "segment document: more than %d attributes", MAX_ATTRS);
    }
    return status;
}

/* Attributes of one transport, replacing those that it has already. */
static ferry_status set_transport(struct parser *parser, const char *name,
                                  const struct fy_json *object)
{
    struct fy_doc *doc = parser->doc;
    struct fy_kv attrs;
    ferry_status status;
    int index = fy_doc_transport_index(doc, name);

    fy_kv_init(&attrs);
    status = read_attrs(parser, object, &attrs);
    if (status) {
        fy_kv_fini(&attrs);
        return status;
    }
    if (index < 0)
        return fy_doc_take_transport(doc, name, &attrs);
    fy_kv_fini(&doc->transports[index].attrs);
    doc->transports[index].attrs = attrs;
    return FERRY_OK;
}

/* Of a document of ours: `primary` only, or all the others. */
static ferry_status set_transports(struct parser *parser, const struct fy_json *transports,
                                   const char *primary, int others)
{
    struct fy_json_iter iter;
    struct fy_json key, value;
    ferry_status status = FERRY_OK;
    struct name name;

    fy_json_enter(transports, &iter);
    while (!status && fy_json_next(&iter, &key, &value)) {
        status = read_text(&parser->key, &key, "transports");
        if (status || value.type == FY_JSON_NULL || !keep_name(&parser->key, &name) ||
            (strcmp(name.text, primary) != 0) != others)
            continue;
        if (value.type != FY_JSON_OBJECT)
            return fy_fail(FERRY_EINVAL,
                           "segment document: \"transports\".\"%s\" is not an "
                           "object",
                           name.text);
        if (parser->doc->n_transports < FY_DOC_MAX_TRANSPORTS ||
            fy_doc_transport_index(parser->doc, name.text) >= 0)
            status = set_transport(parser, name.text, &value);
    }
    return status;
}

static ferry_status read_protocol(struct parser *parser, const struct fy_json *protocol,
                                  struct name *name)
{
    ferry_status status = read_text(&parser->text, protocol, "protocol");

    if (status || keep_name(&parser->text, name))
        return status;
    return fy_fail(FERRY_EINVAL, "segment document: \"protocol\" is %s",
                   parser->text.len ? "too long" : "missing");
}

/* A document of ours: everything is under "transports". */
static ferry_status read_ours(struct parser *parser, const struct top *top)
{
    struct name name;
    ferry_status status = read_protocol(parser, &top->protocol, &name);

    if (status)
        return status;
    parser->ours = 1;
    status = set_transports(parser, &top->transports, name.text, 0);
    if (status)
        return status;
    if (!parser->doc->n_transports)
        return fy_fail(FERRY_EINVAL,
                       "segment document: \"transports\" has no \"%s\", its \"protocol\"",
                       name.text);
    return set_transports(parser, &top->transports, name.text, 1);
}

/* Of a multi-protocol build: the members at the top are every protocol's. */
static ferry_status read_list(struct parser *parser, const struct fy_json *root,
                              const struct fy_json *protocols)
{
    struct fy_json_iter iter;
    struct fy_json ignored, value;
    ferry_status status = FERRY_OK;
    struct name name;

    parser->by_protocol = 1;
    fy_json_enter(protocols, &iter);
    while (!status && fy_json_next(&iter, &ignored, &value)) {
        status = read_text(&parser->text, &value, "protocol");
        if (status || !keep_name(&parser->text, &name) ||
            parser->doc->n_transports == FY_DOC_MAX_TRANSPORTS)
            continue;
        if (fy_doc_transport_index(parser->doc, name.text) < 0)
            status = set_transport(parser, name.text, root);
    }
    if (!status && !parser->doc->n_transports)
        status = fy_fail(FERRY_EINVAL, "segment document: \"protocol\" names none");
    return status;
}

static ferry_status read_transports(struct parser *parser, const struct fy_json *root,
                                    const struct top *top)
{
    struct name name;
    ferry_status status;

    if (top->transports.type == FY_JSON_OBJECT)
        return read_ours(parser, top);
    if (top->transports.type != FY_JSON_NULL)
        return fy_fail(FERRY_EINVAL, "segment document: \"transports\" is not an object");
    if (top->protocol.type == FY_JSON_ARRAY)
        return read_list(parser, root, &top->protocol);
    status = read_protocol(parser, &top->protocol, &name);
    return status ? status : set_transport(parser, name.text, root);
}

/* Missing: `otherwise`. */
static ferry_status read_number(const struct fy_json *json, size_t index, const char *what,
                                uint64_t otherwise, uint64_t *value_out)
{
    *value_out = otherwise;
    if (json->type == FY_JSON_NULL)
        return FERRY_OK;
    if (json->type != FY_JSON_NUMBER)
        return fy_fail(FERRY_EINVAL,
                       "segment document: \"buffers\"[%zu].\"%s\" is not a number", index,
                       what);
    if (fy_json_u64(json, value_out))
        return fy_fail(
            FERRY_EINVAL,
            "segment document: \"buffers\"[%zu].\"%s\" is %.*s: a whole number of 64 "
            "bits is wanted",
            index, what, (int)(json->len < 40 ? json->len : 40), json->text);
    return FERRY_OK;
}

static ferry_status read_exported(struct parser *parser, const struct fy_json *transports,
                                  size_t index, struct fy_kv *attrs)
{
    struct fy_json_iter iter;
    struct fy_json key, value;
    ferry_status status = FERRY_OK;

    if (transports->type == FY_JSON_NULL)
        return FERRY_OK;
    if (transports->type != FY_JSON_OBJECT)
        return fy_fail(FERRY_EINVAL,
                       "segment document: \"buffers\"[%zu].\"transports\" is not an object",
                       index);
    fy_json_enter(transports, &iter);
    while (!status && fy_json_next(&iter, &key, &value)) {
        int transport;

        parser->key.len = 0;
        if (fy_json_string(&key, &parser->key))
            return no_memory();
        transport = fy_doc_transport_index(parser->doc, parser->key.data);
        if (transport < 0 || value.type == FY_JSON_NULL)
            continue;
        if (value.type != FY_JSON_OBJECT)
            return fy_fail(FERRY_EINVAL,
                           "segment document: \"buffers\"[%zu].\"transports\".\"%s\" is not an "
                           "object",
                           index, parser->doc->transports[transport].name);
        fy_kv_fini(&attrs[transport]);
        status = read_attrs(parser, &value, &attrs[transport]);
    }
    return status;
}

/* *transport_out: whose buffer it is; -1: of a protocol that the document does not name. */
static ferry_status whose(struct parser *parser, const struct fy_json *protocol,
                          int *transport_out)
{
    ferry_status status;

    *transport_out = 0;
    if (!parser->by_protocol || protocol->type == FY_JSON_NULL)
        return FERRY_OK;
    status = read_text(&parser->text, protocol, "buffers[].protocol");
    if (!status)
        *transport_out = fy_doc_transport_index(parser->doc, parser->text.data);
    return status;
}

static ferry_status read_buffer(struct parser *parser, const struct fy_json *json, size_t index)
{
    struct buffer buffer = {0};
    const struct member members[] = {
        {"addr", &buffer.addr},         {"length", &buffer.length},
        {"name", &buffer.name},         {"access", &buffer.access},
        {"protocol", &buffer.protocol}, {"transports", &buffer.transports}};
    struct fy_doc *doc = parser->doc;
    struct fy_kv attrs[FY_DOC_MAX_TRANSPORTS];
    uint64_t addr, len, access;
    int transport = 0;
    ferry_status status;

    if (json->type != FY_JSON_OBJECT)
        return fy_fail(FERRY_EINVAL, "segment document: \"buffers\"[%zu] is not an object",
                       index);
    pick(json, members, sizeof(members) / sizeof(members[0]));
    status = read_number(&buffer.addr, index, "addr", 0, &addr);
    if (!status)
        status = read_number(&buffer.length, index, "length", 0, &len);
    if (!status)
        status = read_number(&buffer.access, index, "access", FY_DOC_BOTH, &access);
    if (!status)
        status = whose(parser, &buffer.protocol, &transport);
    if (status || transport < 0 || !addr || !len || len > UINT64_MAX - addr)
        return status;
    for (size_t i = 0; i < doc->n_transports; i++)
        fy_kv_init(&attrs[i]);
    status = parser->ours ? read_exported(parser, &buffer.transports, index, attrs)
                          : read_attrs(parser, json, &attrs[transport]);
    if (!status)
        status = read_text(&parser->text, &buffer.name, "buffers[].name");
    if (!status)
        return fy_doc_take_buffer(doc, addr, len, (uint32_t)access & FY_DOC_BOTH,
                                  parser->text.data, attrs);
    for (size_t i = 0; i < doc->n_transports; i++)
        fy_kv_fini(&attrs[i]);
    return status;
}

static ferry_status read_buffers(struct parser *parser, const struct fy_json *buffers)
{
    struct fy_json_iter iter;
    struct fy_json ignored, value;
    ferry_status status = FERRY_OK;

    if (buffers->type == FY_JSON_NULL)
        return FERRY_OK;
    if (buffers->type != FY_JSON_ARRAY)
        return fy_fail(FERRY_EINVAL, "segment document: \"buffers\" is not an array");
    fy_json_enter(buffers, &iter);
    for (size_t i = 0; !status && fy_json_next(&iter, &ignored, &value); i++)
        status = read_buffer(parser, &value, i);
    return status;
}

static ferry_status read_document(struct parser *parser, const struct fy_json *root)
{
    struct top top = {0};
    const struct member members[] = {{"name", &top.name},
                                     {"epoch", &top.epoch},
                                     {"protocol", &top.protocol},
                                     {"buffers", &top.buffers},
                                     {"transports", &top.transports}};
    ferry_status status;

    pick(root, members, sizeof(members) / sizeof(members[0]));
    status = read_text(&parser->key, &top.name, "name");
    if (!status)
        status = read_text(&parser->text, &top.epoch, "epoch");
    if (!status)
        status = fy_doc_new(parser->key.data, parser->text.data, &parser->doc);
    if (!status)
        status = read_transports(parser, root, &top);
    if (!status)
        status = read_buffers(parser, &top.buffers);
    if (!status && parser->by_protocol)
        fy_doc_join(parser->doc);
    return status ? status : fy_doc_seal(parser->doc);
}

ferry_status fy_doc_parse(const char *json, size_t len, struct fy_doc **doc_out)
{
    struct parser parser = {0};
    struct fy_json root;
    ferry_status status = fy_json_read(json, len, &root);

    if (status)
        return fy_fail_in(status, "segment document: ");
    if (root.type != FY_JSON_OBJECT)
        return fy_fail(FERRY_EINVAL, "segment document: is %s, not an object",
                       root.type == FY_JSON_NULL ? "null" : "another JSON value");
    fy_buf_init(&parser.key, 0);
    fy_buf_init(&parser.text, 0);
    fy_buf_init(&parser.decoded, 0);
    status = read_document(&parser, &root);
    fy_buf_fini(&parser.key);
    fy_buf_fini(&parser.text);
    fy_buf_fini(&parser.decoded);
    if (status) {
        fy_doc_unref(parser.doc);
        return status;
    }
    *doc_out = parser.doc;
    return FERRY_OK;
}
