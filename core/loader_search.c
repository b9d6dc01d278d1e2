/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where plugins are looked for, and which files there are named like one. Loads nothing.
 * A directory counts only by an absolute path and while not everybody may write to it.
 */
#include "loader_inner.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "error.h"

static const char *const prefixes[] = {
    [FY_PLUGIN_TRANSPORT] = "ferry_transport_",
    [FY_PLUGIN_METADATA] = "ferry_metadata_",
};
static const char suffix[] = ".so";

/* "/ferry_transport_" + a name of 31 + ".so" fits behind it into a path of 512. */
enum { DIR_MAX_LEN = 400 };

int fy_plugin_name_ok(const char *name)
{
    size_t len = strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_");

    return len > 0 && len < 32 && !name[len];
}

static ferry_status add_dir(struct fy_loader *loader, const char *dir, size_t len,
                            int is_expected)
{
    char **dirs, *copy;
    struct stat st;

    if (!len)
        return FERRY_OK;
    copy = strndup(dir, len);
    if (!copy)
        return FERRY_ENOMEM;
    errno = 0;
    if (*copy != '/' || len > DIR_MAX_LEN) {
        FY_WARN(loader->log, "plugin directory %s is not used: %s", copy,
                *copy != '/' ? "not an absolute path" : "its path is too long");
    } else if (stat(copy, &st) || !S_ISDIR(st.st_mode)) {
        if (is_expected)
            FY_WARN(loader->log, "plugin directory %s is not used: %s", copy,
                    strerror(errno ? errno : ENOTDIR));
    } else if (st.st_mode & S_IWOTH) {
        FY_WARN(loader->log, "plugin directory %s is not used: anyone may write to it", copy);
    } else {
        dirs = realloc(loader->dirs, (loader->n_dirs + 1) * sizeof(*dirs));
        if (dirs) {
            loader->dirs = dirs;
            dirs[loader->n_dirs++] = copy;
            return FERRY_OK;
        }
        free(copy);
        return FERRY_ENOMEM;
    }
    free(copy);
    return FERRY_OK;
}

static ferry_status add_list(struct fy_loader *loader, const char *list)
{
    ferry_status status = FERRY_OK;

    while (list && !status) {
        size_t len = strcspn(list, ":");

        status = add_dir(loader, list, len, 1);
        list = list[len] ? list + len + 1 : NULL;
    }
    return status;
}

/* "ferry" beside the library (or program) that this code is in. */
static ferry_status add_own(struct fy_loader *loader)
{
    ferry_status status = FERRY_OK;
    char *path, *slash;
    Dl_info info;

    /* A path that is not absolute is the program's, as it was called: not to be trusted. */
    if (!dladdr(prefixes, &info) || !info.dli_fname || *info.dli_fname != '/')
        return FERRY_OK;
    path = realpath(info.dli_fname, NULL);
    slash = path ? strrchr(path, '/') : NULL;
    if (slash) {
        char *dir = NULL;
        int len = asprintf(&dir, "%.*s/ferry", (int)(slash - path), path);

        status = len < 0 ? FERRY_ENOMEM : add_dir(loader, dir, (size_t)len, 0);
        if (len >= 0)
            free(dir);
    }
    free(path);
    return status;
}

ferry_status fy_loader_open(const char *plugin_path, const struct fy_log *log,
                            struct fy_loader **loader_out)
{
    struct fy_loader *loader = calloc(1, sizeof(*loader));
    ferry_status status = FERRY_ENOMEM;

    if (loader) {
        loader->log = log;
        status = add_list(loader, secure_getenv("FERRY_PLUGIN_PATH"));
    }
    if (!status)
        status = add_list(loader, plugin_path);
    if (!status)
        status = add_own(loader);
    if (status) {
        fy_loader_close(loader);
        return fy_fail(status, "opening the plugin loader: out of memory");
    }
    *loader_out = loader;
    return FERRY_OK;
}

void fy_loader_close(struct fy_loader *loader)
{
    if (!loader)
        return;
    for (size_t i = 0; i < loader->n_dirs; i++)
        free(loader->dirs[i]);
    free(loader->dirs);
    free(loader);
}

int fy_loader_find(const struct fy_loader *loader, enum fy_plugin_kind kind, const char *name,
                   char path_out[512])
{
    struct stat st;

    for (size_t i = 0; fy_plugin_name_ok(name) && i < loader->n_dirs; i++) {
        snprintf(path_out, 512, "%s/%s%s%s", loader->dirs[i], prefixes[kind], name, suffix);
        if (!stat(path_out, &st))
            return 1;
    }
    return 0;
}

/* The name within a file's name; 0 where the file is not named like such a plugin. */
static int name_of_file(const char *file, enum fy_plugin_kind kind, char name_out[32])
{
    size_t head = strlen(prefixes[kind]), tail = strlen(suffix), len = strlen(file);

    if (len <= head + tail || len - head - tail >= 32 ||
        strncmp(file, prefixes[kind], head) != 0 || strcmp(file + len - tail, suffix) != 0)
        return 0;
    memcpy(name_out, file + head, len - head - tail);
    name_out[len - head - tail] = '\0';
    return fy_plugin_name_ok(name_out);
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

struct files {
    struct fy_plugin_file *v;
    size_t n;
};

static ferry_status add_file(const struct fy_loader *loader, struct files *files, size_t dir,
                             const char *file, const char *name)
{
    struct fy_plugin_file *v = realloc(files->v, (files->n + 1) * sizeof(*v)), *fresh;

    if (!v)
        return FERRY_ENOMEM;
    files->v = v;
    fresh = &v[files->n];
    *fresh = (struct fy_plugin_file){.dir = dir, .hidden = -1};
    snprintf(fresh->name, sizeof(fresh->name), "%s", name);
    snprintf(fresh->path, sizeof(fresh->path), "%s/%s", loader->dirs[dir], file);
    for (size_t i = 0; i < files->n && fresh->hidden < 0; i++) {
        if (!strcmp(v[i].path, fresh->path))
            return FERRY_OK; /* the directory is named twice */
        if (!strcmp(v[i].name, name))
            fresh->hidden = (ptrdiff_t)i;
    }
    files->n++;
    return FERRY_OK;
}

ferry_status fy_loader_files(const struct fy_loader *loader, enum fy_plugin_kind kind,
                             struct fy_plugin_file **files_out, size_t *n_out)
{
    struct files files = {0};
    ferry_status status = FERRY_OK;

    for (size_t dir = 0; dir < loader->n_dirs && !status; dir++) {
        struct dirent **entries;
        int n = scandir(loader->dirs[dir], &entries, NULL, by_name);

        for (int i = 0; i < n; i++) {
            char name[32];

            if (!status && name_of_file(entries[i]->d_name, kind, name))
                status = add_file(loader, &files, dir, entries[i]->d_name, name);
            free(entries[i]);
        }
        if (n >= 0)
            free(entries);
    }
    if (status) {
        free(files.v);
        return fy_fail(status, "looking for plugins: out of memory");
    }
    *files_out = files.v;
    *n_out = files.n;
    return FERRY_OK;
}

/* Levenshtein's; both shorter than 32. */
static size_t distance_of(const char *a, const char *b)
{
    size_t row[32], n = strlen(b);

    for (size_t j = 0; j <= n; j++)
        row[j] = j;
    for (size_t i = 0; a[i]; i++) {
        size_t diagonal = row[0];

        row[0] = i + 1;
        for (size_t j = 0; j < n; j++) {
            size_t best = diagonal + (a[i] != b[j]);

            diagonal = row[j + 1];
            best = row[j] + 1 < best ? row[j] + 1 : best;
            row[j + 1] = row[j + 1] + 1 < best ? row[j + 1] + 1 : best;
        }
    }
    return row[n];
}

void fy_loader_nearest(const char *wanted, const char *name, char nearest[32], size_t *distance)
{
    size_t now;

    if (strlen(wanted) >= 32 || strlen(name) >= 32)
        return;
    now = distance_of(wanted, name);
    if (now <= 2 && now < strlen(name) && now < *distance) {
        *distance = now;
        memcpy(nearest, name, strlen(name) + 1);
    }
}

void fy_loader_offer(const struct fy_loader *loader, enum fy_plugin_kind kind,
                     const char *wanted, struct fy_buf *out)
{
    struct fy_plugin_file *files = NULL;
    size_t n = 0, distance = SIZE_MAX, dir = 0;
    char nearest[32];
    int any = 0;

    if (fy_loader_files(loader, kind, &files, &n))
        return;
    for (size_t i = 0; i < n; i++) {
        if (files[i].hidden >= 0)
            continue;
        if (any && files[i].dir != dir)
            fy_buf_printf(out, " (in %s)", loader->dirs[dir]);
        fy_buf_printf(out, "%s%s", any ? ", " : "here are: ", files[i].name);
        dir = files[i].dir;
        any = 1;
        fy_loader_nearest(wanted, files[i].name, nearest, &distance);
    }
    free(files);
    if (any)
        fy_buf_printf(out, " (in %s)", loader->dirs[dir]);
    else
        fy_buf_printf(out,
                      loader->n_dirs ? "there is none in " : "no plugin directory is known");
    for (size_t i = 0; !any && i < loader->n_dirs; i++)
        fy_buf_printf(out, "%s%s", i ? ":" : "", loader->dirs[i]);
    if (distance != SIZE_MAX)
        fy_buf_printf(out, "; did you mean \"%s\"?", nearest);
}
