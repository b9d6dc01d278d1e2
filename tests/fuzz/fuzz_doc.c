/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Segment documents of peers. What is accepted must keep its promises: sorted, usable buffers,
 * every one listed in the text's order and found again; and be written so that it reads back
 * the same.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "doc.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(int promise)
{
    if (!promise)
        abort();
}

/* The timestamp is the moment of writing. */
static void write_out(const struct fy_doc *doc, struct fy_buf *out)
{
    char *stamp;

    fy_buf_init(out, 0);
    check(fy_doc_encode(doc, out) == FERRY_OK);
    for (stamp = out->data; (stamp = strstr(stamp, "\"timestamp\":\"")); stamp++) {
        for (char *c = stamp + 13; *c && *c != '"'; c++)
            *c = '0';
    }
}

static void look_up(const struct fy_doc *doc)
{
    for (size_t i = 0; i < doc->n_buffers; i++) {
        const struct fy_doc_buffer *buffer = &doc->buffers[i];
        size_t hint = i * 7 % (doc->n_buffers + 1);

        check(buffer->addr && buffer->len && buffer->len <= UINT64_MAX - buffer->addr);
        check(!i || doc->buffers[i - 1].addr <= buffer->addr);
        check(*buffer->location);
        check(doc->listed[i] >= doc->buffers && doc->listed[i] < doc->buffers + doc->n_buffers);
        check(!i || doc->listed[i - 1]->place < doc->listed[i]->place);
        check(fy_doc_find(doc, buffer->addr, buffer->len, buffer->access, &hint) == FERRY_OK);
        check(doc->buffers[hint].addr <= buffer->addr);
        hint = 0;
        (void)fy_doc_find(doc, buffer->addr + buffer->len, 1, 0, &hint);
        (void)fy_doc_find(doc, buffer->addr, UINT64_MAX, 0, &hint);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fy_doc *doc = NULL, *again = NULL;
    struct fy_buf first, second;

    if (fy_doc_parse((const char *)data, size, &doc))
        return 0;
    check(doc->n_transports > 0 && !strcmp(doc->protocol, doc->transports[0].name));
    look_up(doc);
    write_out(doc, &first);
    check(fy_doc_parse(first.data, first.len, &again) == FERRY_OK);
    check(again->n_buffers == doc->n_buffers && again->n_transports == doc->n_transports);
    check(!strcmp(again->name, doc->name) && !strcmp(again->epoch, doc->epoch));
    write_out(again, &second);
    fy_doc_unref(again);
    check(first.len == second.len && !memcmp(first.data, second.data, first.len));
    fy_buf_fini(&first);
    fy_buf_fini(&second);
    fy_doc_unref(doc);
    return 0;
}
