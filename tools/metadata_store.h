/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FERRY_TOOL_METADATA_STORE_H
#define FERRY_TOOL_METADATA_STORE_H

#include <stddef.h>
#include <stdint.h>

/*
 * The metadata server's keys and values, in memory, and where a file is named also there: a
 * put or delete has been handed to the kernel when the call returns, so that it survives the
 * end of the process, however that comes. Any thread.
 */
struct metadata_store;

enum metadata_result {
    METADATA_OK,
    METADATA_ABSENT,
    METADATA_DUPLICATE, /* is there with another value, and `once` was asked */
    METADATA_FULL,      /* as many keys as allowed */
    METADATA_DISK,      /* the file could not be written; nothing has changed */
    METADATA_MEMORY,
};

/* `path` NULL = memory only; a directory = "metadata.db" in it. 0, or -1 with one line in
 * `error`. A torn end, as a power cut leaves it, is cut off and said in `note` ("" = none). */
int metadata_store_open(const char *path, size_t max_keys, struct metadata_store **store_out,
                        char *note, char *error, size_t room);
void metadata_store_close(struct metadata_store *store);

/* `once`: a key that is there is kept unless the value is the same. Copies. */
enum metadata_result metadata_store_put(struct metadata_store *store, const char *key,
                                        const void *val, size_t len, int once);
/* *val_out: the caller's (free). */
enum metadata_result metadata_store_get(struct metadata_store *store, const char *key,
                                        void **val_out, size_t *len_out);
enum metadata_result metadata_store_del(struct metadata_store *store, const char *key);
size_t metadata_store_count(struct metadata_store *store);

#endif /* FERRY_TOOL_METADATA_STORE_H */
