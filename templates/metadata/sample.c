/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A metadata store in a directory of files: sample:///var/lib/kv. A key is a file, its name the
 * key with all but letters, digits, '-' and '_' as %XX. Values are written beside and renamed,
 * so that a reader sees the old or the new one and a writer that is killed leaves no half.
 *
 * It can list. What it cannot (leases, compare-and-set, watches) its caps deny and its calls
 * refuse with FERRY_ENOTSUP: the core then publishes again and asks again by itself.
 *
 * Threads: no state changes after open but a counter, so nothing is locked. A store with a
 * connection locks it or keeps one for each thread.
 *
 * timeout_ms: a call is a few system calls on a local directory. A store that waits for a
 * network must give up after timeout_ms (0 = its own default) with FERRY_EUNREACH.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ferry/metadata_plugin.h"

#define SCHEME    "sample://"
#define MAX_VALUE (UINT64_C(16) << 20)
#define MAX_NAME  255 /* of a file */

#define CAPS_SIZE_1_0 ((uint32_t)sizeof(struct ferry_store_caps))
#define PUT_SIZE_1_0  (offsetof(struct ferry_store_put, val_len) + sizeof(size_t))

struct ferry_store {
    const struct ferry_host *host;
    char *path;
    atomic_uint serial; /* makes names of files that are being written unique */
};

/* The reason of a failure, once, in the caller's thread: the core shows it to the user. */
#define SAY(store, ...)                                                                        \
    (store)->host->log((store)->host, FERRY_LOG_WARN, __FILE__, __LINE__, __VA_ARGS__)

/* --- keys and names ----------------------------------------------------------------------- */

static int is_plain(unsigned char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           c == '-' || c == '_';
}

/* No name begins with a dot or holds a slash, so no key leads out of the directory. */
static ferry_status name_of(struct ferry_store *store, const char *key, char name[MAX_NAME + 1])
{
    size_t len = 0;

    for (const char *p = key; *p; p++) {
        if (len + 3 > MAX_NAME) {
            SAY(store, "sample: key \"%.60s...\" is too long for a file's name", key);
            return FERRY_ERANGE;
        }
        if (is_plain((unsigned char)*p))
            name[len++] = *p;
        else
            len += (size_t)sprintf(name + len, "%%%02X", (unsigned char)*p);
    }
    name[len] = '\0';
    if (len)
        return FERRY_OK;
    SAY(store, "sample: an empty key");
    return FERRY_EINVAL;
}

/* 0 where this is no file of ours. */
static int key_of(const char *name, char key[MAX_NAME + 1])
{
    size_t len = 0;

    for (const char *p = name; *p; len++) {
        unsigned c;

        if (is_plain((unsigned char)*p))
            c = (unsigned char)*p++;
        else if (*p == '%' && sscanf(p + 1, "%2X", &c) == 1 && p[1] && p[2] && c)
            p += 3;
        else
            return 0;
        key[len] = (char)c;
    }
    key[len] = '\0';
    return len != 0;
}

/* --- life --------------------------------------------------------------------------------- */

static ferry_status store_open(const struct ferry_host *host, const char *uri,
                               const struct ferry_kvs *config, struct ferry_store **store_out)
{
    struct ferry_store made = {.host = host}, *store;

    for (size_t i = 0; i < config->n; i++) {
        if (!strncmp(config->v[i].key, "core.", 5))
            continue; /* the core gives these to every plugin */
        SAY(&made, "sample: unknown key \"%s\"; there is none", config->v[i].key);
        return FERRY_EINVAL;
    }
    if (strncmp(uri, SCHEME "/", sizeof(SCHEME)) != 0) {
        SAY(&made, "sample: \"%s\": " SCHEME "/DIRECTORY is wanted", uri);
        return FERRY_EINVAL;
    }
    /* The directory need not be there yet: like a server, it may come later. */
    store = calloc(1, sizeof(*store));
    if (store)
        store->path = strdup(uri + sizeof(SCHEME) - 1);
    if (!store || !store->path) {
        free(store);
        return FERRY_ENOMEM;
    }
    store->host = host;
    *store_out = store;
    return FERRY_OK;
}

static void store_close(struct ferry_store *store)
{
    if (!store)
        return;
    free(store->path);
    free(store);
}

/* The caller may be older (less room) or newer (more) than these headers. */
static ferry_status store_query(struct ferry_store *store, struct ferry_store_caps *caps)
{
    struct ferry_store_caps have = {.flags = FERRY_STORE_CAP_LIST, .max_value = MAX_VALUE};
    const uint32_t len = caps->size < CAPS_SIZE_1_0 ? caps->size : CAPS_SIZE_1_0;

    (void)store;
    have.size = len;
    memcpy(caps, &have, len);
    return FERRY_OK;
}

/* --- calls -------------------------------------------------------------------------------- */

/* Absent and out of reach are never confused: without the directory nothing is known. */
static ferry_status open_dir(struct ferry_store *store, int *dir_out)
{
    *dir_out = open(store->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (*dir_out >= 0)
        return FERRY_OK;
    SAY(store, "sample: %s: %s", store->path, strerror(errno));
    return FERRY_EUNREACH;
}

static ferry_status failed(struct ferry_store *store, const char *what, const char *key)
{
    SAY(store, "sample: %s %s in %s: %s", what, key, store->path, strerror(errno));
    return FERRY_EUNREACH;
}

static int write_all(int fd, const void *data, size_t len)
{
    for (size_t done = 0; done < len;) {
        ssize_t n = write(fd, (const char *)data + done, len - done);

        if (n < 0 && errno != EINTR)
            return 0;
        done += n > 0 ? (size_t)n : 0;
    }
    return 1;
}

static ferry_status store_put(struct ferry_store *store, const struct ferry_store_put *args,
                              uint32_t timeout_ms, uint64_t *rev_out)
{
    char name[MAX_NAME + 1], fresh[64];
    ferry_status status;
    int dir, fd;

    (void)timeout_ms;
    if (args->size < PUT_SIZE_1_0)
        return FERRY_EINVAL;
    if (args->ttl_ms || args->expect_rev != FERRY_REV_ANY)
        return FERRY_ENOTSUP; /* as the caps say */
    if (args->val_len > MAX_VALUE) {
        SAY(store, "sample: put %s: %zu bytes, at most %llu", args->key, args->val_len,
            (unsigned long long)MAX_VALUE);
        return FERRY_ERANGE;
    }
    status = name_of(store, args->key, name);
    if (!status)
        status = open_dir(store, &dir);
    if (status)
        return status;
    snprintf(fresh, sizeof(fresh), ".new-%d-%u", (int)getpid(),
             atomic_fetch_add(&store->serial, 1));
    fd = openat(dir, fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || !write_all(fd, args->val, args->val_len))
        status = failed(store, "put", args->key);
    if (fd >= 0 && close(fd) && !status)
        status = failed(store, "put", args->key);
    if (!status && renameat(dir, fresh, dir, name))
        status = failed(store, "put", args->key);
    if (status)
        unlinkat(dir, fresh, 0);
    else if (rev_out)
        *rev_out = 0; /* there are no revisions */
    close(dir);
    return status;
}

static ferry_status read_all(struct ferry_store *store, int fd, const char *key,
                             struct ferry_buf_sink *out)
{
    ferry_status status = FERRY_OK;
    size_t done = 0, len;
    struct stat st;
    char *data;

    if (fstat(fd, &st))
        return failed(store, "get", key);
    len = (size_t)st.st_size;
    data = malloc(len + 1);
    if (!data)
        return FERRY_ENOMEM;
    while (done < len && !status) { /* the file is never changed, only replaced */
        ssize_t n = read(fd, data + done, len - done);

        if (n == 0 || (n < 0 && errno != EINTR))
            status = failed(store, "get", key);
        done += n > 0 ? (size_t)n : 0;
    }
    if (!status) /* all of it or nothing */
        status = out->append(out, data, len);
    free(data);
    return status;
}

static ferry_status store_get(struct ferry_store *store, const char *key, uint32_t timeout_ms,
                              struct ferry_buf_sink *out, uint64_t *rev_out)
{
    char name[MAX_NAME + 1];
    ferry_status status = name_of(store, key, name);
    int dir, fd;

    (void)timeout_ms;
    if (!status)
        status = open_dir(store, &dir);
    if (status)
        return status;
    fd = openat(dir, name, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT)
        status = FERRY_ENOENT; /* the answer of a directory that is there */
    else if (fd < 0)
        status = failed(store, "get", key);
    else
        status = read_all(store, fd, key, out);
    if (fd >= 0)
        close(fd);
    close(dir);
    if (!status && rev_out)
        *rev_out = 0;
    return status;
}

static ferry_status store_del(struct ferry_store *store, const char *key, uint32_t timeout_ms)
{
    char name[MAX_NAME + 1];
    ferry_status status = name_of(store, key, name);
    int dir;

    (void)timeout_ms;
    if (!status)
        status = open_dir(store, &dir);
    if (status)
        return status;
    if (unlinkat(dir, name, 0) && errno != ENOENT)
        status = failed(store, "del", key);
    close(dir);
    return status;
}

static ferry_status store_list(struct ferry_store *store, const char *prefix,
                               uint32_t timeout_ms, struct ferry_kv_sink *out)
{
    char key[MAX_NAME + 1];
    ferry_status status;
    struct dirent *entry;
    int dir;
    DIR *d;

    (void)timeout_ms;
    status = open_dir(store, &dir);
    if (status)
        return status;
    d = fdopendir(dir);
    if (!d) {
        close(dir);
        return FERRY_ENOMEM;
    }
    while (!status && (entry = readdir(d)) != NULL) {
        struct ferry_kv kv = {.key = key}; /* no value: val is NULL */

        if (strlen(entry->d_name) <= MAX_NAME && key_of(entry->d_name, key) &&
            !strncmp(key, prefix, strlen(prefix)))
            status = out->put(out, &kv);
    }
    closedir(d);
    return status;
}

static const struct ferry_metadata_ops sample_ops = {
    .size = sizeof(sample_ops),
    .open = store_open,
    .close = store_close,
    .query = store_query,
    .put = store_put,
    .get = store_get,
    .del = store_del,
    .list = store_list,
};
static const char *const schemes[] = {"sample", NULL};

/* The name is that of the file: ferry_metadata_sample.so. */
FERRY_METADATA_PLUGIN("sample", "0.1.0", &sample_ops, schemes);
