/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Loads plugins: checks what the file says of itself before any of its code can run, loads it
 * for the life of the process, checks its table, and hands out the core's own copy of it. Knows
 * no plugin by name. Files are looked up in loader_search.c.
 */
#include "loader_inner.h"

#include <cjson/cJSON.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "error.h"
#include "ferry/ferry.h"
#include "loader_trace.h"

/* Larger than any plugin; the file is read whole. */
#define MAX_FILE_LEN ((off_t)256 << 20)

struct kind {
    const char *word, *symbol;
    uint16_t abi_major, abi_minor;
    uint32_t descriptor_len; /* of 1.0: shorter ones are refused */
    size_t table_len, table_len_1_0;
};

static const struct kind kinds[] = {
    [FY_PLUGIN_TRANSPORT] = {"transport", FERRY_TRANSPORT_SYMBOL, FERRY_TRANSPORT_ABI_MAJOR,
                             FERRY_TRANSPORT_ABI_MINOR, sizeof(struct ferry_transport_plugin),
                             sizeof(struct ferry_transport_ops), FERRY_TRANSPORT_OPS_SIZE_1_0},
    [FY_PLUGIN_METADATA] = {"metadata", FERRY_METADATA_SYMBOL, FERRY_METADATA_ABI_MAJOR,
                            FERRY_METADATA_ABI_MINOR, sizeof(struct ferry_metadata_plugin),
                            sizeof(struct ferry_metadata_ops), FERRY_METADATA_OPS_SIZE_1_0},
};

union descriptor {
    struct ferry_plugin_hdr hdr;
    struct ferry_transport_plugin transport;
    struct ferry_metadata_plugin metadata;
};

union table {
    struct ferry_transport_ops transport;
    struct ferry_metadata_ops metadata;
};

/* A plugin that was accepted: stays for the life of the process, whatever becomes of loaders.
 */
struct loaded {
    struct loaded *next;
    enum fy_plugin_kind kind;
    char *real_path; /* what it is known by: links to one file are one plugin */
    const char *name;
    uint16_t abi_major, abi_minor;
    const char *const *schemes; /* of a metadata plugin */
    union {
        struct fy_transport_plugin transport;
        struct fy_metadata_plugin metadata;
    };
};

/* Guards `all_loaded` and that no plugin is loaded twice. Rank: lowest; while it is held only
 * initialisers of plugins that passed the first check run. */
static pthread_mutex_t loaded_lock = PTHREAD_MUTEX_INITIALIZER;
static struct loaded *all_loaded;

static ferry_status check_hdr(const struct kind *kind, const struct ferry_plugin_hdr *hdr)
{
    if (hdr->magic != FERRY_PLUGIN_MAGIC)
        return fy_fail(FERRY_EABI, "no plugin: magic 0x%08x, wanted 0x%08x", hdr->magic,
                       FERRY_PLUGIN_MAGIC);
    if (hdr->abi_major != kind->abi_major)
        return fy_fail(FERRY_EABI, "built for %s ABI %u.%u, wanted %u.x", kind->word,
                       hdr->abi_major, hdr->abi_minor, kind->abi_major);
    if (hdr->size < kind->descriptor_len)
        return fy_fail(FERRY_EABI, "its descriptor has %u bytes, wanted at least %u", hdr->size,
                       kind->descriptor_len);
    return FERRY_OK;
}

static ferry_status check_name(const char *own, const char *name)
{
    if (strcmp(own, name) != 0)
        return fy_fail(FERRY_EABI, "calls itself \"%.40s\", its file \"%s\"", own, name);
    return FERRY_OK;
}

/* Both kinds of descriptor begin alike. */
static const void *table_of(enum fy_plugin_kind kind, const void *descriptor)
{
    return kind == FY_PLUGIN_TRANSPORT
               ? (const void *)((const struct ferry_transport_plugin *)descriptor)->ops
               : (const void *)((const struct ferry_metadata_plugin *)descriptor)->ops;
}

static ferry_status check_table_len(const struct kind *kind, uint32_t len)
{
    if (len < kind->table_len_1_0)
        return fy_fail(FERRY_EABI,
                       "its table has %u bytes, wanted at least the %zu of ABI %u.0", len,
                       kind->table_len_1_0, kind->abi_major);
    return FERRY_OK;
}

/* Fills optional holes of the core's own copy. */
static ferry_status check_members(enum fy_plugin_kind kind, union table *table)
{
    const char *missing = kind == FY_PLUGIN_TRANSPORT ? fy_transport_complete(&table->transport)
                                                      : fy_metadata_complete(&table->metadata);

    if (missing)
        return fy_fail(FERRY_EABI, "its table lacks \"%s\", which is mandatory", missing);
    return FERRY_OK;
}

static ferry_status no_schemes(void)
{
    return fy_fail(FERRY_EABI, "names no URL scheme that it serves");
}

static ferry_status read_file(int fd, size_t len, char **data_out)
{
    char *data = malloc(len + 1);
    size_t done = 0;

    if (!data)
        return fy_fail(FERRY_ENOMEM, "out of memory for its %zu bytes", len);
    while (done < len) {
        ssize_t n = read(fd, data + done, len - done);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            free(data);
            return fy_fail(FERRY_EABI, "cannot be read: %s",
                           n ? strerror(errno) : "it became shorter");
        }
        done += (size_t)n;
    }
    *data_out = data;
    return FERRY_OK;
}

/* All checks, on what the file will be in memory. */
static ferry_status check_file(enum fy_plugin_kind which, const struct fy_elf *elf,
                               const char *name)
{
    const struct kind *kind = &kinds[which];
    union descriptor descriptor;
    union table table = {0};
    uint64_t at;
    uintptr_t scheme = 0;
    uint32_t len;
    char own[64] = "";
    ferry_status status;

    if (!fy_elf_read(elf, elf->symbol, &descriptor.hdr, sizeof(descriptor.hdr)))
        return fy_fail(FERRY_EABI, "symbol %s is no data of the file", kind->symbol);
    status = check_hdr(kind, &descriptor.hdr);
    if (status)
        return status;
    if (!fy_elf_read(elf, elf->symbol, &descriptor, kind->descriptor_len))
        return fy_fail(FERRY_EABI, "symbol %s is no data of the file", kind->symbol);
    at = (uintptr_t)table_of(which, &descriptor);
    if (at == FY_ELF_ELSEWHERE || (uintptr_t)descriptor.hdr.name == FY_ELF_ELSEWHERE)
        return FERRY_OK; /* known only when it is loaded; checked then */
    fy_elf_text(elf, (uintptr_t)descriptor.hdr.name, own, sizeof(own));
    status = check_name(own, name);
    if (status)
        return status;
    if (!at)
        return fy_fail(FERRY_EABI, "has no table");
    if (!fy_elf_read(elf, at, &len, sizeof(len)))
        return fy_fail(FERRY_EABI, "its table is no constant of the file");
    status = check_table_len(kind, len);
    if (status)
        return status;
    if (!fy_elf_read(elf, at, &table, len < kind->table_len ? len : kind->table_len))
        return fy_fail(FERRY_EABI, "its table has %u bytes, and not all are in the file", len);
    status = check_members(which, &table);
    if (status || which == FY_PLUGIN_TRANSPORT)
        return status;
    at = (uintptr_t)descriptor.metadata.schemes;
    return at && fy_elf_read(elf, at, &scheme, sizeof(scheme)) && scheme ? FERRY_OK
                                                                         : no_schemes();
}

/* Everything, without loading it. */
static ferry_status peek(enum fy_plugin_kind kind, const char *path, const char *name)
{
    struct stat st;
    struct fy_elf elf;
    ferry_status status;
    char *data = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

    if (fd < 0)
        return fy_fail(FERRY_EABI, "cannot be opened: %s", strerror(errno));
    if (fstat(fd, &st))
        status = fy_fail(FERRY_EABI, "cannot be read: %s", strerror(errno));
    else if (!S_ISREG(st.st_mode))
        status = fy_fail(FERRY_EABI, "not a regular file");
    else if (st.st_mode & S_IWOTH)
        status = fy_fail(FERRY_EABI, "anyone may write to it (mode %03o), so it is not loaded",
                         (unsigned)st.st_mode & 0777);
    else if (st.st_size > MAX_FILE_LEN)
        status =
            fy_fail(FERRY_EABI, "has %lld bytes, more than any plugin", (long long)st.st_size);
    else
        status = read_file(fd, (size_t)st.st_size, &data);
    close(fd);
    if (status)
        return status;
    status = fy_elf_open(data, (size_t)st.st_size, kinds[kind].symbol, &elf);
    if (!status)
        status = check_file(kind, &elf, name);
    free(data);
    return status;
}

/* The core's copy: members that the plugin does not know are NULL, its newer ones left out. */
static ferry_status copy_table(const struct kind *kind, const void *table, void *copy)
{
    uint32_t len; /* first member of every table */
    ferry_status status;

    if (!table)
        return fy_fail(FERRY_EABI, "has no table");
    memcpy(&len, table, sizeof(len));
    status = check_table_len(kind, len);
    if (status)
        return status;
    memset(copy, 0, kind->table_len);
    memcpy(copy, table, len < kind->table_len ? len : kind->table_len);
    len = (uint32_t)kind->table_len;
    memcpy(copy, &len, sizeof(len));
    return FERRY_OK;
}

static ferry_status accept_names(struct loaded *loaded, const struct ferry_plugin_hdr *hdr,
                                 const char *path, const char *name)
{
    int is_transport = loaded->kind == FY_PLUGIN_TRANSPORT;
    const char *version = hdr->version ? hdr->version : "";
    ferry_status status = check_name(hdr->name ? hdr->name : "", name);

    if (status)
        return status;
    snprintf(is_transport ? loaded->transport.name : loaded->metadata.name, 32, "%s", name);
    snprintf(is_transport ? loaded->transport.version : loaded->metadata.version, 32, "%s",
             version);
    snprintf(is_transport ? loaded->transport.path : loaded->metadata.path, 512, "%s", path);
    loaded->name = is_transport ? loaded->transport.name : loaded->metadata.name;
    loaded->abi_major = hdr->abi_major;
    loaded->abi_minor = hdr->abi_minor;
    return FERRY_OK;
}

static ferry_status accept_table(struct loaded *loaded, const void *descriptor)
{
    union table table;
    ferry_status status =
        copy_table(&kinds[loaded->kind], table_of(loaded->kind, descriptor), &table);

    if (!status && loaded->kind == FY_PLUGIN_TRANSPORT)
        fy_trace_transport(loaded->name, &table.transport, ferry_strstatus);
    else if (!status)
        fy_trace_metadata(loaded->name, &table.metadata, ferry_strstatus);
    if (!status)
        status = check_members(loaded->kind, &table);
    if (status)
        return status;
    if (loaded->kind == FY_PLUGIN_TRANSPORT) {
        loaded->transport.ops = table.transport;
        return FERRY_OK;
    }
    loaded->metadata.ops = table.metadata;
    loaded->schemes = ((const struct ferry_metadata_plugin *)descriptor)->schemes;
    return loaded->schemes && loaded->schemes[0] ? FERRY_OK : no_schemes();
}

/* dlerror begins with the path where it can. */
static ferry_status dl_failure(const char *path)
{
    const char *text = dlerror();
    size_t len = strlen(path);

    if (!text)
        text = "cannot be loaded";
    if (!strncmp(text, path, len) && !strncmp(text + len, ": ", 2))
        text += len + 2;
    return fy_fail(FERRY_EABI, "%s", text);
}

static ferry_status load_file(enum fy_plugin_kind kind, const char *path, const char *name,
                              struct loaded *loaded)
{
    struct ferry_plugin_hdr hdr;
    const void *descriptor;
    void *handle;
    ferry_status status = peek(kind, path, name);

    if (status)
        return status;
    handle = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (!handle)
        return dl_failure(path);
    descriptor = dlsym(handle, kinds[kind].symbol);
    if (!descriptor)
        return dl_failure(path);
    memcpy(&hdr, descriptor, sizeof(hdr));
    loaded->kind = kind;
    status = check_hdr(&kinds[kind], &hdr); /* an older file of this path may be loaded still */
    if (!status)
        status = accept_names(loaded, &hdr, path, name);
    return status ? status : accept_table(loaded, descriptor);
}

static struct loaded *already_loaded(enum fy_plugin_kind kind, const char *real_path)
{
    for (struct loaded *loaded = all_loaded; loaded; loaded = loaded->next) {
        if (loaded->kind == kind && !strcmp(loaded->real_path, real_path))
            return loaded;
    }
    return NULL;
}

static ferry_status load_locked(enum fy_plugin_kind kind, const char *path, const char *name,
                                char *real_path, const struct loaded **loaded_out)
{
    struct loaded *loaded = already_loaded(kind, real_path);
    ferry_status status;

    if (loaded) {
        free(real_path);
        if (strcmp(loaded->name, name) != 0)
            return fy_fail(FERRY_EABI, "calls itself \"%s\", its file \"%s\"", loaded->name,
                           name);
        *loaded_out = loaded;
        return FERRY_OK;
    }
    loaded = calloc(1, sizeof(*loaded));
    status = loaded ? load_file(kind, path, name, loaded) : fy_fail(FERRY_ENOMEM, "no memory");
    if (status) {
        free(loaded);
        free(real_path);
        return status;
    }
    loaded->real_path = real_path;
    loaded->next = all_loaded;
    all_loaded = loaded;
    *loaded_out = loaded;
    return FERRY_OK;
}

static ferry_status load(enum fy_plugin_kind kind, const char *path, const char *name,
                         const struct loaded **loaded_out)
{
    char *real_path = realpath(path, NULL);
    ferry_status status;

    if (!real_path)
        return fy_fail(FERRY_EABI, "%s: cannot be opened: %s", path, strerror(errno));
    pthread_mutex_lock(&loaded_lock);
    status = load_locked(kind, path, name, real_path, loaded_out);
    pthread_mutex_unlock(&loaded_lock);
    return status ? fy_fail_in(status, "%s: ", path) : FERRY_OK;
}

static ferry_status none_such(struct fy_loader *loader, enum fy_plugin_kind kind,
                              const char *what, const char *name)
{
    struct fy_buf offer;
    char *text;

    fy_buf_init(&offer, 900);
    fy_loader_offer(loader, kind, name, &offer);
    text = fy_buf_take(&offer);
    fy_fail(FERRY_ENOENT, "no %s \"%.64s\"; %s", what, name, text ? text : "");
    free(text);
    return FERRY_ENOENT;
}

ferry_status fy_loader_transport(struct fy_loader *loader, const char *name,
                                 const struct fy_transport_plugin **plugin_out)
{
    const struct loaded *loaded;
    ferry_status status;
    char path[512];

    if (!fy_loader_find(loader, FY_PLUGIN_TRANSPORT, name, path))
        return none_such(loader, FY_PLUGIN_TRANSPORT, "transport", name);
    status = load(FY_PLUGIN_TRANSPORT, path, name, &loaded);
    if (!status)
        *plugin_out = &loaded->transport;
    return status;
}

static int serves(const struct loaded *loaded, const char *scheme)
{
    for (const char *const *s = loaded->schemes; *s; s++) {
        if (!strcmp(*s, scheme))
            return 1;
    }
    return 0;
}

ferry_status fy_loader_metadata(struct fy_loader *loader, const char *scheme,
                                const struct fy_metadata_plugin **plugin_out)
{
    const struct fy_metadata_plugin *found = NULL;
    struct fy_plugin_file *files;
    const struct loaded *loaded;
    ferry_status status;
    char path[512];
    size_t n;

    if (fy_loader_find(loader, FY_PLUGIN_METADATA, scheme, path)) {
        status = load(FY_PLUGIN_METADATA, path, scheme, &loaded);
        if (status)
            return status;
        if (serves(loaded, scheme)) {
            *plugin_out = &loaded->metadata;
            return FERRY_OK;
        }
    }
    status = fy_loader_files(loader, FY_PLUGIN_METADATA, &files, &n);
    if (status)
        return status;
    for (size_t i = 0; i < n && !found; i++) {
        if (files[i].hidden >= 0)
            continue;
        if (load(FY_PLUGIN_METADATA, files[i].path, files[i].name, &loaded))
            FY_WARN(loader->log, "metadata plugin passed over: %s", ferry_error());
        else if (serves(loaded, scheme))
            found = &loaded->metadata;
    }
    free(files);
    if (!found)
        return none_such(loader, FY_PLUGIN_METADATA, "metadata plugin for", scheme);
    *plugin_out = found;
    return FERRY_OK;
}

char **fy_loader_transport_names(struct fy_loader *loader)
{
    struct fy_plugin_file *files;
    size_t n, kept = 0, head;
    char **names;

    if (fy_loader_files(loader, FY_PLUGIN_TRANSPORT, &files, &n))
        return NULL;
    head = (n + 1) * sizeof(*names);
    names = calloc(1, head + n * sizeof(files->name));
    for (size_t i = 0; names && i < n; i++) {
        const struct loaded *loaded;
        char *text = (char *)names + head + i * sizeof(files->name);

        if (files[i].hidden >= 0)
            continue;
        if (load(FY_PLUGIN_TRANSPORT, files[i].path, files[i].name, &loaded)) {
            FY_WARN(loader->log, "transport passed over: %s", ferry_error());
            continue;
        }
        memcpy(text, files[i].name, sizeof(files->name));
        names[kept++] = text;
    }
    free(files);
    return names;
}

/* ---- description ------------------------------------------------------------------------ */

/* Enough of a host for probe(), which may only log; its last line is the reason. */
struct listener {
    struct ferry_host host;
    char line[512];
};

__attribute__((format(printf, 5, 6))) static void listen_log(const struct ferry_host *host,
                                                             enum ferry_log_level level,
                                                             const char *file, int line,
                                                             const char *fmt, ...)
{
    struct listener *listener = (struct listener *)host;
    va_list ap;

    if (level > FERRY_LOG_INFO)
        return;
    va_start(ap, fmt);
    vsnprintf(listener->line, sizeof(listener->line), fmt, ap);
    va_end(ap);
}

static void describe_probe(cJSON *item, const struct fy_transport_plugin *plugin)
{
    static const int level = FERRY_LOG_INFO;
    struct listener listener = {.host = {.size = sizeof(listener.host),
                                         .abi_major = FERRY_TRANSPORT_ABI_MAJOR,
                                         .abi_minor = FERRY_TRANSPORT_ABI_MINOR,
                                         .log_level = &level,
                                         .log = listen_log}};
    ferry_status status;

    if (!fy_transport_has_probe(&plugin->ops))
        return;
    status = plugin->ops.probe(&listener.host);
    cJSON_AddBoolToObject(item, "usable", status == FERRY_OK);
    if (status)
        cJSON_AddStringToObject(item, "reason",
                                listener.line[0] ? listener.line : ferry_strstatus(status));
}

static void describe_refused(cJSON *item, const char *reason)
{
    cJSON_AddStringToObject(item, "status", "refused");
    cJSON_AddStringToObject(item, "reason", reason);
}

static void describe_loaded(cJSON *item, const struct loaded *loaded)
{
    int is_transport = loaded->kind == FY_PLUGIN_TRANSPORT;
    char abi[16];

    snprintf(abi, sizeof(abi), "%u.%u", loaded->abi_major, loaded->abi_minor);
    cJSON_AddStringToObject(
        item, "version", is_transport ? loaded->transport.version : loaded->metadata.version);
    cJSON_AddStringToObject(item, "abi", abi);
    cJSON_AddStringToObject(item, "status", "ok");
    if (is_transport) {
        describe_probe(item, &loaded->transport);
    } else {
        cJSON *schemes = cJSON_AddArrayToObject(item, "schemes");

        for (const char *const *s = loaded->schemes; *s; s++)
            cJSON_AddItemToArray(schemes, cJSON_CreateString(*s));
    }
}

static int describe_kind(struct fy_loader *loader, enum fy_plugin_kind kind, cJSON *list)
{
    struct fy_plugin_file *files;
    size_t n;

    if (fy_loader_files(loader, kind, &files, &n))
        return 0;
    for (size_t i = 0; i < n; i++) {
        cJSON *item = cJSON_CreateObject();
        const struct loaded *loaded;
        char reason[640];

        cJSON_AddStringToObject(item, "kind", kinds[kind].word);
        cJSON_AddStringToObject(item, "name", files[i].name);
        cJSON_AddStringToObject(item, "path", files[i].path);
        if (files[i].hidden >= 0) {
            snprintf(reason, sizeof(reason), "hidden by %s", files[files[i].hidden].path);
            describe_refused(item, reason);
        } else if (load(kind, files[i].path, files[i].name, &loaded)) {
            describe_refused(item, ferry_error());
        } else {
            describe_loaded(item, loaded);
        }
        cJSON_AddItemToArray(list, item);
    }
    free(files);
    return 1;
}

struct cJSON *fy_loader_describe(struct fy_loader *loader)
{
    cJSON *list = cJSON_CreateArray();

    if (list && describe_kind(loader, FY_PLUGIN_TRANSPORT, list) &&
        describe_kind(loader, FY_PLUGIN_METADATA, list))
        return list;
    cJSON_Delete(list);
    return NULL;
}
