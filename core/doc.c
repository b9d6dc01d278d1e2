/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A segment's document in memory: built once, sealed, then read by any number of threads. Knows
 * no transport's attribute by name; text is read in doc_parse.c and written in doc_encode.c.
 */
#include "doc_inner.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"

/* Locations of buffers, one after the other; most documents need a single piece. */
struct fy_doc_text {
    struct fy_doc_text *next;
    size_t len, cap;
    char text[];
};

int fy_doc_reserved(const char *key)
{
    static const char *const names[] = {"access",   "addr",      "buffers",
                                        "epoch",    "length",    "name",
                                        "protocol", "timestamp", "transports"};

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (!strcmp(key, names[i]))
            return 1;
    }
    return 0;
}

static ferry_status no_memory(void)
{
    return fy_fail(FERRY_ENOMEM, "segment document: out of memory");
}

ferry_status fy_doc_new(const char *name, const char *epoch, struct fy_doc **doc_out)
{
    struct fy_doc *doc = calloc(1, sizeof(*doc));

    if (!doc)
        return no_memory();
    atomic_init(&doc->refs, 1);
    doc->name = strdup(name);
    doc->epoch = strdup(epoch ? epoch : "");
    doc->protocol = strdup("");
    if (!doc->name || !doc->epoch || !doc->protocol) {
        fy_doc_unref(doc);
        return no_memory();
    }
    *doc_out = doc;
    return FERRY_OK;
}

static void free_attrs(struct fy_kv *attrs, size_t n)
{
    for (size_t i = 0; attrs && i < n; i++)
        fy_kv_fini(&attrs[i]);
    free(attrs);
}

struct fy_doc *fy_doc_ref(struct fy_doc *doc)
{
    atomic_fetch_add_explicit(&doc->refs, 1, memory_order_relaxed); /* is held already */
    return doc;
}

void fy_doc_unref(struct fy_doc *doc)
{
    /* Release what we did with it, acquire what others did: pairs with itself. */
    if (!doc || atomic_fetch_sub_explicit(&doc->refs, 1, memory_order_acq_rel) > 1)
        return;
    for (size_t i = 0; i < doc->n_buffers; i++)
        free_attrs(doc->buffers[i].attrs, doc->n_transports);
    for (size_t i = 0; i < doc->n_transports; i++)
        fy_kv_fini(&doc->transports[i].attrs);
    while (doc->locations) {
        struct fy_doc_text *next = doc->locations->next;

        free(doc->locations);
        doc->locations = next;
    }
    free(doc->buffers);
    free(doc->listed);
    free(doc->transports);
    free(doc->ends);
    free(doc->name);
    free(doc->epoch);
    free(doc->protocol);
    free(doc);
}

/* Room for one more: arrays double whenever their length is a power of two. */
static void *grown(void *array, size_t n, size_t size)
{
    if (n & (n - 1))
        return array;
    return realloc(array, (n ? n * 2 : 1) * size);
}

static ferry_status copy_attrs(const struct ferry_kvs *from, const char *whose,
                               struct fy_kv *to)
{
    fy_kv_init(to);
    for (size_t i = 0; from && i < from->n; i++) {
        const struct ferry_kv *kv = &from->v[i];

        if (fy_doc_reserved(kv->key)) {
            fy_kv_fini(to);
            return fy_fail(FERRY_EINVAL,
                           "transport %s: \"%s\" is a member of the document itself and "
                           "cannot be an attribute",
                           whose, kv->key);
        }
        if (fy_kv_put(to, kv->key, kv->val, kv->val_len, kv->flags)) {
            fy_kv_fini(to);
            return no_memory();
        }
    }
    return FERRY_OK;
}

ferry_status fy_doc_take_transport(struct fy_doc *doc, const char *name, struct fy_kv *attrs)
{
    struct fy_doc_transport *transports = NULL;
    ferry_status status = FERRY_OK;

    if (!*name || strlen(name) >= sizeof(transports->name))
        status = fy_fail(FERRY_EINVAL, "transport \"%s\": a name of 1 to %zu bytes is wanted",
                         name, sizeof(transports->name) - 1);
    else if (doc->n_buffers)
        status = fy_fail(FERRY_EINVAL, "transport %s: comes after buffers", name);
    else if (doc->n_transports == FY_DOC_MAX_TRANSPORTS)
        status =
            fy_fail(FERRY_EINVAL, "transport %s: more than %d", name, FY_DOC_MAX_TRANSPORTS);
    else if (fy_doc_transport_index(doc, name) >= 0)
        status = fy_fail(FERRY_EINVAL, "transport %s: is there twice", name);
    if (!status) {
        transports = grown(doc->transports, doc->n_transports, sizeof(*transports));
        if (transports)
            doc->transports = transports;
        else
            status = no_memory();
    }
    if (!status && !doc->n_transports) {
        char *protocol = strdup(name);

        if (protocol) {
            free(doc->protocol);
            doc->protocol = protocol;
        } else {
            status = no_memory();
        }
    }
    if (status) {
        fy_kv_fini(attrs);
        return status;
    }
    transports[doc->n_transports] = (struct fy_doc_transport){.attrs = *attrs};
    memcpy(transports[doc->n_transports].name, name, strlen(name));
    doc->n_transports++;
    fy_kv_init(attrs);
    return FERRY_OK;
}

ferry_status fy_doc_add_transport(struct fy_doc *doc, const char *name,
                                  const struct ferry_kvs *attrs)
{
    struct fy_kv copy;
    ferry_status status = copy_attrs(attrs, name, &copy);

    return status ? status : fy_doc_take_transport(doc, name, &copy);
}

ferry_status fy_doc_set_address(struct fy_doc *doc, const char *host, uint16_t port)
{
    ferry_status status = FERRY_OK;
    char text[8];

    snprintf(text, sizeof(text), "%u", port);
    for (size_t i = 0; i < doc->n_transports && !status; i++) {
        status = fy_kv_put_text(&doc->transports[i].attrs, "core.rpc_host", host);
        if (!status)
            status = fy_kv_put_text(&doc->transports[i].attrs, "core.rpc_port", text);
    }
    return status;
}

/* The document's own copy; buffers mostly share their neighbour's. */
static const char *keep_location(struct fy_doc *doc, const char *location)
{
    struct fy_doc_text *text = doc->locations;
    size_t size = strlen(location) + 1;

    if (doc->n_buffers && !strcmp(doc->buffers[doc->n_buffers - 1].location, location))
        return doc->buffers[doc->n_buffers - 1].location;
    if (!text || size > text->cap - text->len) {
        size_t cap = size > 1024 ? size : text && text->cap < 65536 ? text->cap * 2 + 256 : 256;

        text = malloc(sizeof(*text) + cap);
        if (!text)
            return NULL;
        *text = (struct fy_doc_text){.next = doc->locations, .cap = cap};
        doc->locations = text;
    }
    memcpy(text->text + text->len, location, size);
    text->len += size;
    return text->text + text->len - size;
}

ferry_status fy_doc_take_buffer(struct fy_doc *doc, uint64_t addr, uint64_t len,
                                uint32_t access, const char *location, struct fy_kv *attrs)
{
    struct fy_doc_buffer *buffers;
    struct fy_kv *own = NULL;
    size_t n_attrs = 0;

    for (size_t i = 0; attrs && i < doc->n_transports; i++)
        n_attrs += attrs[i].kvs.n;
    location = keep_location(doc, location && *location ? location : "*");
    buffers = grown(doc->buffers, doc->n_buffers, sizeof(*buffers));
    if (buffers)
        doc->buffers = buffers;
    if (n_attrs)
        own = calloc(doc->n_transports, sizeof(*own));
    for (size_t i = 0; attrs && i < doc->n_transports; i++) {
        if (own && location && buffers) {
            own[i] = attrs[i];
            fy_kv_init(&attrs[i]);
        } else {
            fy_kv_fini(&attrs[i]);
        }
    }
    if (!location || !buffers || (n_attrs && !own)) {
        free(own);
        return no_memory();
    }
    buffers[doc->n_buffers++] = (struct fy_doc_buffer){.addr = addr,
                                                       .len = len,
                                                       .access = access,
                                                       .location = location,
                                                       .attrs = own,
                                                       .place = doc->n_added++};
    return FERRY_OK;
}

ferry_status fy_doc_add_buffer(struct fy_doc *doc, uint64_t addr, uint64_t len, uint32_t access,
                               const char *location, const struct ferry_kvs *attrs)
{
    struct fy_kv copies[FY_DOC_MAX_TRANSPORTS];
    ferry_status status = FERRY_OK;
    size_t n = 0;

    if (!addr || !len || len > UINT64_MAX - addr)
        return fy_fail(FERRY_EINVAL,
                       "buffer 0x%" PRIx64 "+%" PRIu64 ": empty, wrapping or at address 0",
                       addr, len);
    for (; attrs && n < doc->n_transports && !status; n++)
        status = copy_attrs(&attrs[n], doc->transports[n].name, &copies[n]);
    if (status) {
        while (n)
            fy_kv_fini(&copies[--n]);
        return status;
    }
    return fy_doc_take_buffer(doc, addr, len, access & FY_DOC_BOTH, location,
                              attrs ? copies : NULL);
}

static int by_range(const void *a, const void *b)
{
    const struct fy_doc_buffer *x = a, *y = b;

    if (x->addr != y->addr)
        return x->addr > y->addr ? 1 : -1;
    return (x->len > y->len) - (x->len < y->len);
}

static int by_range_and_place(const void *a, const void *b)
{
    const struct fy_doc_buffer *x = a, *y = b;
    int order = by_range(a, b);

    return order ? order : (x->place > y->place) - (x->place < y->place);
}

static int share_a_transport(const struct fy_doc *doc, const struct fy_doc_buffer *a,
                             const struct fy_doc_buffer *b)
{
    for (size_t i = 0; a->attrs && b->attrs && i < doc->n_transports; i++) {
        if (a->attrs[i].kvs.n && b->attrs[i].kvs.n)
            return 1;
    }
    return 0;
}

void fy_doc_join(struct fy_doc *doc)
{
    struct fy_doc_buffer *buffers = doc->buffers;
    size_t kept = 0;

    if (doc->n_buffers)
        qsort(buffers, doc->n_buffers, sizeof(*buffers), by_range_and_place);
    for (size_t i = 0; i < doc->n_buffers; i++) {
        struct fy_doc_buffer *last = kept ? &buffers[kept - 1] : NULL;

        if (!last || by_range(last, &buffers[i]) != 0 || last->access != buffers[i].access ||
            share_a_transport(doc, last, &buffers[i])) {
            buffers[kept++] = buffers[i];
            continue;
        }
        for (size_t t = 0; last->attrs && buffers[i].attrs && t < doc->n_transports; t++) {
            struct fy_kv swap = last->attrs[t];

            if (buffers[i].attrs[t].kvs.n) {
                last->attrs[t] = buffers[i].attrs[t];
                buffers[i].attrs[t] = swap;
            }
        }
        if (last->attrs) {
            free_attrs(buffers[i].attrs, doc->n_transports);
        } else {
            last->attrs = buffers[i].attrs;
            last->location = buffers[i].location;
        }
    }
    doc->n_buffers = kept;
}

ferry_status fy_doc_seal(struct fy_doc *doc)
{
    uint64_t end = 0;
    size_t listed = 0;
    int sorted = 1;

    free(doc->ends);
    free(doc->listed);
    doc->ends = calloc(doc->n_buffers + 1, sizeof(*doc->ends));
    doc->listed = calloc(doc->n_added + 1, sizeof(*doc->listed));
    if (!doc->ends || !doc->listed)
        return no_memory();
    for (size_t i = 1; i < doc->n_buffers && sorted; i++)
        sorted = by_range(&doc->buffers[i - 1], &doc->buffers[i]) <= 0;
    if (!sorted)
        qsort(doc->buffers, doc->n_buffers, sizeof(*doc->buffers), by_range_and_place);
    for (size_t i = 0; i < doc->n_buffers; i++) {
        const struct fy_doc_buffer *buffer = &doc->buffers[i];

        end = buffer->addr + buffer->len > end ? buffer->addr + buffer->len : end;
        doc->ends[i] = end;
        doc->listed[buffer->place] = buffer;
    }
    for (size_t i = 0; i < doc->n_added; i++) { /* close the gaps */
        if (doc->listed[i])
            doc->listed[listed++] = doc->listed[i];
    }
    return FERRY_OK;
}

int fy_doc_transport_index(const struct fy_doc *doc, const char *name)
{
    for (size_t i = 0; i < doc->n_transports; i++) {
        if (!strcmp(doc->transports[i].name, name))
            return (int)i;
    }
    return -1;
}

/* HOT. */
static int holds(const struct fy_doc_buffer *buffer, uint64_t addr, uint64_t len)
{
    return addr >= buffer->addr && addr - buffer->addr < buffer->len &&
           len <= buffer->len - (addr - buffer->addr);
}

/* HOT. How many buffers start at or before `addr`. */
static size_t starts_before(const struct fy_doc *doc, uint64_t addr)
{
    size_t low = 0, high = doc->n_buffers;

    while (low < high) {
        size_t mid = low + (high - low) / 2;

        if (doc->buffers[mid].addr <= addr)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

/* Of the first `n`, the first by which some buffer reaches `end`: it is that buffer. Or n. */
static size_t reaches(const struct fy_doc *doc, size_t n, uint64_t end)
{
    size_t low = 0, high = n;

    while (low < high) {
        size_t mid = low + (high - low) / 2;

        if (doc->ends[mid] < end)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

/* HOT. */
static int serves(const struct fy_doc *doc, size_t index, uint64_t addr, uint64_t len,
                  uint32_t access, size_t *hint)
{
    if (!holds(&doc->buffers[index], addr, len) ||
        (doc->buffers[index].access & access) != access)
        return 0;
    *hint = index;
    return 1;
}

/* HOT. */
ferry_status fy_doc_find(const struct fy_doc *doc, uint64_t addr, uint64_t len, uint32_t access,
                         size_t *hint)
{
    size_t n, first;

    if (!len || len > UINT64_MAX - addr)
        return fy_fail(FERRY_ERANGE, "0x%" PRIx64 "+%" PRIu64 " is empty or wraps", addr, len);
    if (*hint < doc->n_buffers && serves(doc, *hint, addr, len, access, hint))
        return FERRY_OK;
    if (*hint + 1 < doc->n_buffers && serves(doc, *hint + 1, addr, len, access, hint))
        return FERRY_OK;
    n = starts_before(doc, addr);
    if (n && serves(doc, n - 1, addr, len, access, hint))
        return FERRY_OK;
    first = reaches(doc, n, addr + len);
    if (first == n)
        return fy_fail(FERRY_ERANGE, "0x%" PRIx64 "+%" PRIu64 " is in no buffer of segment %s",
                       addr, len, doc->name);
    /* `first` holds the range; others between matter only where overlapping buffers differ in
     * access, which no node publishes. */
    for (size_t i = first; i < n; i++) {
        if (serves(doc, i, addr, len, access, hint))
            return FERRY_OK;
    }
    return fy_fail(FERRY_EACCESS, "0x%" PRIx64 "+%" PRIu64 " of segment %s may not be %s", addr,
                   len, doc->name,
                   (access & ~doc->buffers[first].access & FERRY_ACCESS_REMOTE_WRITE)
                       ? "written"
                       : "read");
}
