/* SPDX-License-Identifier: Apache-2.0 */
/* The metadata server's file as a crash or anybody may have left it: it is read or refused,
 * what was read is there, and what is put then is found again. */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "metadata_store.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(int holds)
{
    if (!holds)
        abort();
}

static int open_at(const char *path, struct metadata_store **store)
{
    char note[300], error[300];

    return metadata_store_open(path, 1000, store, note, error, sizeof(note));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[] = "/dev/shm/ferry-fuzz-XXXXXX", lock[64];
    int fd = mkstemp(path);
    struct metadata_store *store;
    void *val;
    size_t n, len;

    if (fd < 0)
        return 0;
    must(write(fd, data, size) == (ssize_t)size);
    close(fd);
    if (!open_at(path, &store)) {
        n = metadata_store_count(store);
        must(metadata_store_put(store, "a key", "value", 5, 0) == METADATA_OK);
        must(metadata_store_count(store) - n <= 1);
        n = metadata_store_count(store);
        metadata_store_close(store);
        must(!open_at(path, &store) && metadata_store_count(store) == n);
        must(metadata_store_get(store, "a key", &val, &len) == METADATA_OK && len == 5 &&
             !memcmp(val, "value", 5));
        free(val);
        metadata_store_close(store);
    }
    unlink(path);
    snprintf(lock, sizeof(lock), "%s.lock", path);
    unlink(lock);
    return 0;
}
