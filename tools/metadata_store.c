/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keys and values with a log on disk: each change is appended with its checksum, and a log that
 * is mostly old changes is written anew beside itself and renamed. Knows nothing of HTTP.
 */
#include "metadata_store.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define MAGIC     "ferry-metadata 1\n"
#define MAGIC_LEN (sizeof(MAGIC) - 1)
#define MAX_KEY   65536u
#define MAX_VAL   (1ull << 31)
#define DELETED   UINT64_MAX
#define SLACK_BYTES                                                                            \
    (1u << 20) /* old changes that are tolerated before the log is rewritten                   \
                */

struct item {
    struct item *next;
    char *key;
    void *val;
    size_t len;
};

struct record {
    uint32_t sum; /* of what follows, key and value included */
    uint32_t key_len;
    uint64_t val_len; /* DELETED: the key is gone */
};

struct metadata_store {
    pthread_mutex_t lock; /* guards all below */
    struct item **slots;
    size_t n_slots, n, max_keys;
    char *path; /* NULL = memory only */
    int fd, lock_fd;
    uint64_t log_len, live_len;
};

static uint32_t sum_of(uint32_t sum, const void *data, size_t len)
{
    const unsigned char *at = data;

    for (size_t i = 0; i < len; i++)
        sum = (sum ^ at[i]) * 16777619u; /* FNV-1a */
    return sum;
}

static uint32_t record_sum(const struct record *record, const void *key, const void *val)
{
    uint32_t sum = sum_of(2166136261u, &record->key_len, sizeof(*record) - sizeof(uint32_t));

    sum = sum_of(sum, key, record->key_len);
    return record->val_len == DELETED ? sum : sum_of(sum, val, (size_t)record->val_len);
}

static uint64_t record_len(size_t key_len, size_t val_len)
{
    return sizeof(struct record) + key_len + val_len;
}

/* ---- the table ----------------------------------------------------------------------------
 */

static struct item **slot_of(const struct metadata_store *store, const char *key)
{
    struct item **at =
        &store->slots[sum_of(2166136261u, key, strlen(key)) & (store->n_slots - 1)];

    while (*at && strcmp((*at)->key, key) != 0)
        at = &(*at)->next;
    return at;
}

static void grow(struct metadata_store *store)
{
    size_t n_slots = store->n_slots * 2, old_slots = store->n_slots;
    struct item **slots = calloc(n_slots, sizeof(struct item *)), **old = store->slots;

    if (!slots)
        return; /* longer chains, nothing worse */
    store->slots = slots;
    store->n_slots = n_slots;
    for (size_t i = 0; i < old_slots; i++) {
        while (old[i]) {
            struct item *item = old[i], **at;

            old[i] = item->next;
            item->next = NULL;
            at = slot_of(store, item->key);
            *at = item;
        }
    }
    free(old);
}

static void item_free(struct item *item)
{
    if (!item)
        return;
    free(item->key);
    free(item->val);
    free(item);
}

static struct item *item_new(const char *key, size_t key_len, const void *val, size_t len)
{
    struct item *item = calloc(1, sizeof(*item));

    if (!item)
        return NULL;
    item->key = strndup(key, key_len);
    item->val = malloc(len + 1);
    item->len = len;
    if (!item->key || !item->val) {
        item_free(item);
        return NULL;
    }
    if (len)
        memcpy(item->val, val, len);
    return item;
}

static void table_put(struct metadata_store *store, struct item *item)
{
    struct item **at = slot_of(store, item->key), *old = *at;

    store->live_len += record_len(strlen(item->key), item->len);
    if (old) {
        store->live_len -= record_len(strlen(old->key), old->len);
        item->next = old->next;
        *at = item;
        item_free(old);
        return;
    }
    *at = item;
    if (++store->n > store->n_slots)
        grow(store);
}

static void table_del(struct metadata_store *store, const char *key)
{
    struct item **at = slot_of(store, key), *old = *at;

    if (!old)
        return;
    store->live_len -= record_len(strlen(old->key), old->len);
    *at = old->next;
    store->n--;
    item_free(old);
}

/* ---- the log ------------------------------------------------------------------------------
 */

static int write_all(int fd, struct iovec *iov, int n)
{
    while (n) {
        ssize_t written = writev(fd, iov, n);

        if (written < 0) {
            if (errno == EINTR)
                continue;
            return -1;
        }
        while (n && (size_t)written >= iov->iov_len) {
            written -= (ssize_t)iov->iov_len;
            iov++;
            n--;
        }
        if (n) {
            iov->iov_base = (char *)iov->iov_base + written;
            iov->iov_len -= (size_t)written;
        }
    }
    return 0;
}

static int write_record(int fd, const char *key, const void *val, uint64_t val_len)
{
    struct record record = {.key_len = (uint32_t)strlen(key), .val_len = val_len};
    struct iovec iov[3] = {{&record, sizeof(record)},
                           {(void *)key, record.key_len},
                           {(void *)val, val_len == DELETED ? 0 : (size_t)val_len}};

    record.sum = record_sum(&record, key, val);
    return write_all(fd, iov, 3);
}

/* Writes what is live to a new file and puts it in the place of the old one. */
static int rewrite(struct metadata_store *store)
{
    struct iovec magic = {(void *)MAGIC, MAGIC_LEN};
    char *fresh = NULL;
    int fd = -1, rc = -1;

    if (asprintf(&fresh, "%s.new", store->path) < 0)
        return -1;
    fd = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0 || write_all(fd, &magic, 1))
        goto out;
    for (size_t i = 0; i < store->n_slots; i++) {
        for (const struct item *item = store->slots[i]; item; item = item->next) {
            if (write_record(fd, item->key, item->val, item->len))
                goto out;
        }
    }
    if (fsync(fd) || rename(fresh, store->path))
        goto out;
    if (store->fd >= 0)
        close(store->fd);
    store->fd = fd;
    store->log_len = MAGIC_LEN + store->live_len;
    fd = -1;
    rc = 0;
out:
    if (fd >= 0) {
        close(fd);
        unlink(fresh);
    }
    free(fresh);
    return rc;
}

/* Appends one change. A write that fails midway is taken back, so that what follows it is not
 * lost behind a torn record. */
static int append(struct metadata_store *store, const char *key, const void *val,
                  uint64_t val_len)
{
    uint64_t len = record_len(strlen(key), val_len == DELETED ? 0 : (size_t)val_len);

    if (!store->path)
        return 0;
    if (write_record(store->fd, key, val, val_len)) {
        if (ftruncate(store->fd, (off_t)store->log_len))
            rewrite(store);
        return -1;
    }
    store->log_len += len;
    return 0;
}

/* `left`: bytes of the file that no record has taken yet. */
static int read_record(FILE *file, uint64_t left, struct record *record, char **key_out,
                       void **val_out)
{
    size_t val_len;
    char *key = NULL;
    void *val = NULL;

    if (fread(record, sizeof(*record), 1, file) != 1 || !record->key_len ||
        record->key_len > MAX_KEY || (record->val_len > MAX_VAL && record->val_len != DELETED))
        return 0;
    val_len = record->val_len == DELETED ? 0 : (size_t)record->val_len;
    key = malloc(record->key_len + 1);
    val = malloc(val_len + 1);
    if (key && val && fread(key, 1, record->key_len, file) == record->key_len &&
        fread(val, 1, val_len, file) == val_len &&
        record_sum(record, key, val) == record->sum) {
        key[record->key_len] = '\0';
        *key_out = key;
        *val_out = val;
        return 1;
    }
    free(key);
    free(val);
    return 0;
}

static int load(struct metadata_store *store, char *note, char *error, size_t room)
{
    char magic[MAGIC_LEN];
    struct record record;
    struct stat st = {0};
    FILE *file = fopen(store->path, "rbe");
    uint64_t good = MAGIC_LEN;
    char *key;
    void *val;
    int rc = 0;

    if (!file && errno == ENOENT)
        return 0;
    if (!file || fstat(fileno(file), &st)) {
        snprintf(error, room, "%s: %s", store->path, strerror(errno));
        rc = -1;
    } else if (st.st_size && (fread(magic, 1, MAGIC_LEN, file) != MAGIC_LEN ||
                              memcmp(magic, MAGIC, MAGIC_LEN) != 0)) {
        snprintf(error, room, "%s: not a file of this server", store->path);
        rc = -1;
    }
    while (!rc && st.st_size &&
           read_record(file, (uint64_t)st.st_size - good, &record, &key, &val)) {
        size_t len = record.val_len == DELETED ? 0 : (size_t)record.val_len;
        struct item *item;

        good += record_len(record.key_len, len);
        if (record.val_len == DELETED) {
            table_del(store, key);
        } else if ((item = item_new(key, record.key_len, val, len))) {
            table_put(store, item);
        } else {
            snprintf(error, room, "%s: out of memory", store->path);
            rc = -1;
        }
        free(key);
        free(val);
    }
    if (!rc && st.st_size && (uint64_t)st.st_size != good)
        snprintf(note, room, "%s: %llu bytes at the end are no whole change, cut off",
                 store->path, (unsigned long long)((uint64_t)st.st_size - good));
    if (file)
        fclose(file);
    return rc;
}

/* ---- the calls ----------------------------------------------------------------------------
 */

static int open_file(struct metadata_store *store, const char *path, char *note, char *error,
                     size_t room)
{
    struct stat st;
    int is_dir = !stat(path, &st) && S_ISDIR(st.st_mode);
    char *lock_path = NULL;

    if (asprintf(&store->path, "%s%s", path, is_dir ? "/metadata.db" : "") < 0) {
        store->path = NULL;
        snprintf(error, room, "out of memory");
        return -1;
    }
    if (asprintf(&lock_path, "%s.lock", store->path) < 0)
        lock_path = NULL;
    store->lock_fd = lock_path ? open(lock_path, O_RDWR | O_CREAT | O_CLOEXEC, 0600) : -1;
    if (store->lock_fd < 0 || flock(store->lock_fd, LOCK_EX | LOCK_NB)) {
        snprintf(error, room, "%s: %s", store->path,
                 errno == EWOULDBLOCK ? "another server uses it" : strerror(errno));
        free(lock_path);
        return -1;
    }
    free(lock_path);
    if (load(store, note, error, room))
        return -1;
    if (rewrite(store)) {
        snprintf(error, room, "%s: %s", store->path, strerror(errno));
        return -1;
    }
    return 0;
}

int metadata_store_open(const char *path, size_t max_keys, struct metadata_store **store_out,
                        char *note, char *error, size_t room)
{
    struct metadata_store *store = calloc(1, sizeof(*store));

    note[0] = '\0';
    if (store) {
        store->fd = store->lock_fd = -1;
        store->n_slots = 256;
        store->slots = calloc(store->n_slots, sizeof(struct item *));
        store->max_keys = max_keys;
        pthread_mutex_init(&store->lock, NULL);
    }
    if (!store || !store->slots) {
        snprintf(error, room, "out of memory");
        metadata_store_close(store);
        return -1;
    }
    if (path && open_file(store, path, note, error, room)) {
        metadata_store_close(store);
        return -1;
    }
    *store_out = store;
    return 0;
}

void metadata_store_close(struct metadata_store *store)
{
    if (!store)
        return;
    for (size_t i = 0; store->slots && i < store->n_slots; i++) {
        while (store->slots[i]) {
            struct item *item = store->slots[i];

            store->slots[i] = item->next;
            item_free(item);
        }
    }
    if (store->fd >= 0) {
        fsync(store->fd);
        close(store->fd);
    }
    if (store->lock_fd >= 0)
        close(store->lock_fd);
    free(store->slots);
    free(store->path);
    pthread_mutex_destroy(&store->lock);
    free(store);
}

static void tidy(struct metadata_store *store)
{
    if (store->path && store->log_len > 2 * store->live_len + SLACK_BYTES)
        rewrite(store); /* where it fails the long log stays good */
}

enum metadata_result metadata_store_put(struct metadata_store *store, const char *key,
                                        const void *val, size_t len, int once)
{
    enum metadata_result result = METADATA_OK;
    struct item *item = item_new(key, strlen(key), val, len);
    const struct item *old;

    if (!item || strlen(key) > MAX_KEY || len > MAX_VAL) {
        item_free(item);
        return METADATA_MEMORY;
    }
    pthread_mutex_lock(&store->lock);
    old = *slot_of(store, key);
    if (old && once) {
        if (old->len != len || (len && memcmp(old->val, val, len) != 0))
            result = METADATA_DUPLICATE;
    } else if (!old && store->n >= store->max_keys) {
        result = METADATA_FULL;
    } else if (append(store, key, val, len)) {
        result = METADATA_DISK;
    } else {
        table_put(store, item);
        item = NULL;
        tidy(store);
    }
    pthread_mutex_unlock(&store->lock);
    item_free(item);
    return result;
}

enum metadata_result metadata_store_get(struct metadata_store *store, const char *key,
                                        void **val_out, size_t *len_out)
{
    enum metadata_result result = METADATA_ABSENT;
    const struct item *item;

    pthread_mutex_lock(&store->lock);
    item = *slot_of(store, key);
    if (item) {
        void *val = malloc(item->len + 1);

        result = val ? METADATA_OK : METADATA_MEMORY;
        if (val) {
            memcpy(val, item->val, item->len);
            *val_out = val;
            *len_out = item->len;
        }
    }
    pthread_mutex_unlock(&store->lock);
    return result;
}

enum metadata_result metadata_store_del(struct metadata_store *store, const char *key)
{
    enum metadata_result result = METADATA_ABSENT;

    pthread_mutex_lock(&store->lock);
    if (*slot_of(store, key)) {
        result = append(store, key, NULL, DELETED) ? METADATA_DISK : METADATA_OK;
        if (result == METADATA_OK) {
            table_del(store, key);
            tidy(store);
        }
    }
    pthread_mutex_unlock(&store->lock);
    return result;
}

size_t metadata_store_count(struct metadata_store *store)
{
    size_t n;

    pthread_mutex_lock(&store->lock);
    n = store->n;
    pthread_mutex_unlock(&store->lock);
    return n;
}
