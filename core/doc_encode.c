/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A segment's document as text, in one pass and without a tree: documents of a hundred thousand
 * buffers are written anew at every change. Upstream's layout, ours beside it.
 */
#include "doc_inner.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "error.h"
#include "util/base64.h"
#include "util/json.h"

/* `attr` NULL: one of the document's own. */
struct member {
    const char *key;
    const struct ferry_kv *attr;
};

/* The first failure sticks; everything after it does nothing. */
struct writer {
    struct fy_buf *out;
    ferry_status status;
    struct member *members; /* a stack: an object's are on top while it is written */
    size_t used, room;
};

static void put(struct writer *writer, const char *text)
{
    if (!writer->status)
        writer->status = fy_buf_append(writer->out, text, strlen(text));
}

static void put_u64(struct writer *writer, uint64_t value)
{
    if (!writer->status)
        writer->status = fy_json_put_u64(writer->out, value);
}

static void put_text(struct writer *writer, const char *text, size_t len, const char *what)
{
    if (writer->status)
        return;
    writer->status = fy_json_put_string(writer->out, text, len);
    if (writer->status == FERRY_EINVAL)
        fy_fail(FERRY_EINVAL, "segment document: \"%s\" is not UTF-8", what);
}

static void put_key(struct writer *writer, int first, const char *key)
{
    put(writer, first ? "" : ",");
    put_text(writer, key, strlen(key), key);
    put(writer, ":");
}

static void put_json(struct writer *writer, const struct ferry_kv *attr)
{
    struct fy_json json;

    if (writer->status)
        return;
    writer->status = fy_json_read(attr->val, attr->val_len, &json);
    if (writer->status)
        fy_fail_in(writer->status, "segment document: attribute \"%s\": ", attr->key);
    else
        writer->status = fy_json_compact(&json, writer->out);
}

static void put_attr(struct writer *writer, const struct ferry_kv *attr)
{
    if (attr->flags & FERRY_KV_JSON) {
        put_json(writer, attr);
    } else if (attr->flags & FERRY_KV_TEXT) {
        put_text(writer, attr->val, attr->val_len, attr->key);
    } else {
        put(writer, "{\"base64\":\"");
        if (!writer->status)
            writer->status = fy_base64_encode(attr->val, attr->val_len, writer->out);
        put(writer, "\"}");
    }
}

/*
 * Pushes the members of an object, sorted by name: attributes are few, and mostly in order.
 * Returns the index of the first; the caller pops them by putting `used` back to it.
 */
static size_t push_members(struct writer *writer, const char *const *own, size_t n_own,
                           const struct ferry_kvs *attrs)
{
    size_t n = n_own + (attrs ? attrs->n : 0), base = writer->used;

    if (n > writer->room - base && !writer->status) {
        struct member *members = realloc(writer->members, (base + n) * sizeof(*members));

        if (members) {
            writer->members = members;
            writer->room = base + n;
        } else {
            writer->status = FERRY_ENOMEM;
        }
    }
    for (size_t i = 0; i < n && !writer->status; i++) {
        struct member member = {i < n_own ? own[i] : attrs->v[i - n_own].key,
                                i < n_own ? NULL : &attrs->v[i - n_own]};
        size_t at = writer->used++;

        for (; at > base && strcmp(writer->members[at - 1].key, member.key) > 0; at--)
            writer->members[at] = writer->members[at - 1];
        writer->members[at] = member;
    }
    return base;
}

static void put_attrs(struct writer *writer, const struct ferry_kvs *attrs)
{
    size_t base = push_members(writer, NULL, 0, attrs);

    put(writer, "{");
    for (size_t i = base; i < writer->used; i++) {
        put_key(writer, i == base, writer->members[i].key);
        put_attr(writer, writer->members[i].attr);
    }
    put(writer, "}");
    writer->used = base;
}

static int by_name(const void *a, const void *b)
{
    const struct fy_doc_transport *const *x = a, *const *y = b;

    return strcmp((*x)->name, (*y)->name);
}

/* `buffer` NULL: what the segment has; else what the buffer has, empty ones left out. */
static void put_transports(struct writer *writer, const struct fy_doc *doc,
                           const struct fy_doc_buffer *buffer)
{
    const struct fy_doc_transport *sorted[FY_DOC_MAX_TRANSPORTS];
    int first = 1;

    for (size_t i = 0; i < doc->n_transports; i++)
        sorted[i] = &doc->transports[i];
    qsort(sorted, doc->n_transports, sizeof(struct fy_doc_transport *), by_name);
    put(writer, "{");
    for (size_t i = 0; i < doc->n_transports; i++) {
        const struct ferry_kvs *attrs =
            buffer ? &buffer->attrs[sorted[i] - doc->transports].kvs : &sorted[i]->attrs.kvs;

        if (buffer && !attrs->n)
            continue;
        put_key(writer, first, sorted[i]->name);
        put_attrs(writer, attrs);
        first = 0;
    }
    put(writer, "}");
}

static void put_buffer(struct writer *writer, const struct fy_doc *doc,
                       const struct fy_doc_buffer *buffer)
{
    const char *own[5] = {"addr", "length", "name"};
    size_t n_own = 3, base, end;

    if (buffer->access != FY_DOC_BOTH)
        own[n_own++] = "access";
    if (buffer->attrs)
        own[n_own++] = "transports";
    base = push_members(writer, own, n_own, buffer->attrs ? &buffer->attrs[0].kvs : NULL);
    end = writer->used;
    put(writer, "{");
    for (size_t i = base; i < end; i++) {
        struct member member = writer->members[i];

        put_key(writer, i == base, member.key);
        if (member.attr)
            put_attr(writer, member.attr);
        else if (!strcmp(member.key, "addr"))
            put_u64(writer, buffer->addr);
        else if (!strcmp(member.key, "length"))
            put_u64(writer, buffer->len);
        else if (!strcmp(member.key, "name"))
            put_text(writer, buffer->location, strlen(buffer->location), "location");
        else if (!strcmp(member.key, "access"))
            put_u64(writer, buffer->access);
        else
            put_transports(writer, doc, buffer);
    }
    put(writer, "}");
    writer->used = base;
}

static void put_buffers(struct writer *writer, const struct fy_doc *doc)
{
    put(writer, "[");
    for (size_t i = 0; i < doc->n_buffers && !writer->status; i++) {
        put(writer, i ? "," : "");
        put_buffer(writer, doc, doc->listed[i]);
    }
    put(writer, "]");
}

/* As upstream writes it: local time, for people only. */
static void put_timestamp(struct writer *writer)
{
    struct timespec now;
    struct tm tm = {0};
    char text[64];
    size_t len;

    clock_gettime(CLOCK_REALTIME, &now);
    localtime_r(&now.tv_sec, &tm);
    len = strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S", &tm);
    snprintf(text + len, sizeof(text) - len, ".%06ld", now.tv_nsec / 1000);
    put_text(writer, text, strlen(text), "timestamp");
}

static void put_document(struct writer *writer, const struct fy_doc *doc)
{
    const char *own[6] = {"buffers", "name", "protocol", "timestamp", "transports"};
    size_t n_own = 5, base, end;

    if (*doc->epoch)
        own[n_own++] = "epoch";
    base = push_members(writer, own, n_own, &doc->transports[0].attrs.kvs);
    end = writer->used;
    put(writer, "{");
    for (size_t i = base; i < end; i++) {
        struct member member = writer->members[i];

        put_key(writer, i == base, member.key);
        if (member.attr)
            put_attr(writer, member.attr);
        else if (!strcmp(member.key, "buffers"))
            put_buffers(writer, doc);
        else if (!strcmp(member.key, "name"))
            put_text(writer, doc->name, strlen(doc->name), "name");
        else if (!strcmp(member.key, "protocol"))
            put_text(writer, doc->protocol, strlen(doc->protocol), "protocol");
        else if (!strcmp(member.key, "timestamp"))
            put_timestamp(writer);
        else if (!strcmp(member.key, "epoch"))
            put_text(writer, doc->epoch, strlen(doc->epoch), "epoch");
        else
            put_transports(writer, doc, NULL);
    }
    put(writer, "}");
}

ferry_status fy_doc_encode(const struct fy_doc *doc, struct fy_buf *out)
{
    struct writer writer = {.out = out};
    size_t start = out->len;

    if (!doc->n_transports)
        return fy_fail(FERRY_EINVAL, "segment document of %s: has no transport", doc->name);
    put_document(&writer, doc);
    free(writer.members);
    if (writer.status) {
        out->len = start;
        if (out->data)
            out->data[start] = '\0';
    }
    if (writer.status == FERRY_ENOMEM)
        return fy_fail(FERRY_ENOMEM, "segment document of %s: out of memory", doc->name);
    if (writer.status == FERRY_ERANGE)
        return fy_fail(FERRY_ERANGE, "segment document of %s: longer than %zu bytes", doc->name,
                       out->max);
    return writer.status;
}
