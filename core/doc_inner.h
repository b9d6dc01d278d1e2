/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FY_DOC_INNER_H
#define FY_DOC_INNER_H

#include "doc.h"

/* Shared by doc.c, doc_parse.c and doc_encode.c only. */

#define FY_DOC_BOTH (FERRY_ACCESS_REMOTE_READ | FERRY_ACCESS_REMOTE_WRITE)

/* Members that are the document's own, so that no attribute can have their name. */
int fy_doc_reserved(const char *key);

/* As the public ones, but what is in `attrs` is moved into the document (also on failure it is
 * emptied); for a buffer it has one list a transport. */
ferry_status fy_doc_take_transport(struct fy_doc *doc, const char *name, struct fy_kv *attrs);
ferry_status fy_doc_take_buffer(struct fy_doc *doc, uint64_t addr, uint64_t len,
                                uint32_t access, const char *location, struct fy_kv *attrs);
/* Joins neighbours of the same range (of multi-protocol documents, which name a range once for
 * each protocol) where no transport has attributes in both. Before sealing. */
void fy_doc_join(struct fy_doc *doc);

#endif /* FY_DOC_INNER_H */
