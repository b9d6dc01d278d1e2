/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FY_DOC_H
#define FY_DOC_H

#include <stdatomic.h>

#include "util/buf.h"
#include "util/kv.h"

/*
 * A segment's document: what a process publishes so that peers can reach its memory. Immutable
 * once made, counted. The JSON is Mooncake's with our members beside (docs/wire-document.md).
 */
#define FY_DOC_MAX_TRANSPORTS 16 /* more of a peer's are passed over */

struct fy_doc_text;

struct fy_doc_transport {
    char name[32];
    struct fy_kv attrs; /* as export_segment wrote them */
};

struct fy_doc_buffer {
    uint64_t addr, len;
    uint32_t
        access; /* FERRY_ACCESS_REMOTE_*; both where the document does not say (upstream) */
    const char *location; /* owned by the document; never empty */
    struct fy_kv *attrs;  /* by transport index of this document; NULL = none (all empty) */
    size_t place;         /* in the order of adding; may have gaps */
};

struct fy_doc {
    atomic_uint refs;
    char *name;
    char *epoch;    /* "" = an upstream node */
    char *protocol; /* the primary transport's name */
    size_t n_transports;
    struct fy_doc_transport *transports; /* primary first */
    size_t n_buffers;
    struct fy_doc_buffer *buffers; /* sorted by address; may overlap (upstream nodes) */
    /* The same in the order in which they were added, which is the one in the text: upstream's
     * clients take the first for the one that was registered first. */
    const struct fy_doc_buffer **listed;
    size_t n_added;                /* joined ones counted singly */
    struct fy_doc_text *locations; /* storage of the strings */
    /* Greatest end address of buffers[0..i]: lets a lookup stop early where buffers overlap. */
    uint64_t *ends;
};

/* For building one: everything is copied. Attributes cannot be named as members of the document
 * itself are (name, protocol, buffers, timestamp, epoch, transports, access, addr, length):
 * FERRY_EINVAL. */
ferry_status fy_doc_new(const char *name, const char *epoch, struct fy_doc **doc_out);
/* The first one added is the primary. */
ferry_status fy_doc_add_transport(struct fy_doc *doc, const char *name,
                                  const struct ferry_kvs *attrs);
/* `attrs[i]` belongs to the i-th transport; n_transports of them; NULL = all empty. */
ferry_status fy_doc_add_buffer(struct fy_doc *doc, uint64_t addr, uint64_t len, uint32_t access,
                               const char *location, const struct ferry_kvs *attrs);
/* Sorts, and keeps the order of adding beside; after this it is immutable. */
ferry_status fy_doc_seal(struct fy_doc *doc);

/* Compact JSON, members sorted by name as upstream writes them, no line feed. With `timestamp`.
 */
ferry_status fy_doc_encode(const struct fy_doc *doc, struct fy_buf *out);
/*
 * From untrusted text. Upstream's documents too: without "transports" the top-level members are
 * the attributes of the transport named in "protocol". FERRY_EINVAL: the text says which member
 * is missing or of a wrong type. Empty, wrapping and zero-address buffers are passed over; what
 * is in attributes (an empty rkey list, a zero gid) is left for the transport to judge.
 */
ferry_status fy_doc_parse(const char *json, size_t len, struct fy_doc **doc_out);

/* Where its node is, for its transports: "core.rpc_host" and "core.rpc_port" among the
 * attributes of each. Before anybody else has the document. */
ferry_status fy_doc_set_address(struct fy_doc *doc, const char *host, uint16_t port);

struct fy_doc *fy_doc_ref(struct fy_doc *doc);
void fy_doc_unref(struct fy_doc *doc); /* NULL is allowed */

/* Index of its transport of that name, or -1. */
int fy_doc_transport_index(const struct fy_doc *doc, const char *name);
/* HOT. The buffer that holds [addr, addr+len) with that access (0 = any); FERRY_ERANGE,
 * FERRY_EACCESS. `hint`: a buffer index to try first (in and out), so that neighbours cost no
 * search. */
ferry_status fy_doc_find(const struct fy_doc *doc, uint64_t addr, uint64_t len, uint32_t access,
                         size_t *hint);

#endif /* FY_DOC_H */
