/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `ferry plugin new`: writes a project for a plugin, the template with another name. Templates
 * are ordinary files that build and pass as they are; nothing is replaced but their name.
 */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "beside.h"
#include "commands.h"

#define WORD "sample"

struct plugin_options {
    int unused;
};

static bool name_ok(const char *name)
{
    return islower((unsigned char)name[0]) && strlen(name) <= 31 &&
           strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_") == strlen(name);
}

/* As it stands, SAMPLE for SAMPLE. */
static void put_name(FILE *out, const char *name, bool upper)
{
    for (; *name; name++)
        fputc(upper ? toupper((unsigned char)*name) : *name, out);
}

static void replace(FILE *out, const char *text, const char *name)
{
    const size_t len = strlen(WORD);

    while (*text) {
        if (!strncmp(text, WORD, len) || !strncmp(text, "SAMPLE", len)) {
            put_name(out, name, *text == 'S');
            text += len;
        } else {
            fputc(*text++, out);
        }
    }
}

static char *slurp(const char *path)
{
    FILE *file = fopen(path, "r");
    char *text = NULL;
    size_t len = 0;

    if (!file)
        return NULL;
    if (getdelim(&text, &len, '\0', file) < 0) {
        free(text);
        text = NULL;
    }
    fclose(file);
    return text;
}

static bool write_one(const char *from_dir, const char *file, const char *to_dir,
                      const char *name)
{
    char from[4800], to[4800], *at, *text;
    FILE *out;
    bool ok;

    snprintf(from, sizeof(from), "%s/%s", from_dir, file);
    at = to + snprintf(to, sizeof(to), "%s/", to_dir);
    out = fmemopen(at, sizeof(to) - (size_t)(at - to), "w");
    if (out) {
        replace(out, file, name);
        fclose(out);
    }
    text = slurp(from);
    out = text ? fopen(to, "wx") : NULL; /* never over a file that is there */
    if (!out) {
        fprintf(stderr, "ferry plugin: %s: %s\n", text ? to : from, strerror(errno));
        free(text);
        return false;
    }
    replace(out, text, name);
    free(text);
    ok = !ferror(out);
    ok = !fclose(out) && ok;
    if (ok)
        printf("%s\n", to);
    else
        fprintf(stderr, "ferry plugin: %s: %s\n", to, strerror(errno));
    return ok;
}

static int write_project(const char *template, const char *dir, const char *name)
{
    struct dirent **files;
    int n, status = EXIT_OK;

    if (mkdir(dir, 0777) && errno != EEXIST) {
        fprintf(stderr, "ferry plugin: %s: %s\n", dir, strerror(errno));
        return EXIT_WRONG;
    }
    n = scandir(template, &files, NULL, alphasort);
    if (n < 0) {
        fprintf(stderr, "ferry plugin: %s: %s\n", template, strerror(errno));
        return EXIT_WRONG;
    }
    for (int i = 0; i < n; i++) {
        if (files[i]->d_name[0] != '.' && status == EXIT_OK &&
            !write_one(template, files[i]->d_name, dir, name))
            status = EXIT_WRONG;
        free(files[i]);
    }
    free(files);
    return status;
}

static int run(const struct command *self, const void *options, int argc, char **argv)
{
    char template[4200], dir[600];
    int status;

    if (argc < 3 || strcmp(argv[0], "new") != 0)
        return args_usage_error(self, "wants: new transport|metadata NAME [DIR]");
    if (strcmp(argv[1], "transport") != 0 && strcmp(argv[1], "metadata") != 0)
        return args_usage_error(self, "\"%s\": kinds are transport and metadata", argv[1]);
    if (!name_ok(argv[2]))
        return args_usage_error(
            self, "\"%s\": a name is a lower-case letter, then letters, digits, _; at most 31",
            argv[2]);
    if (!beside(BESIDE_TEMPLATES, argv[1], template, sizeof(template))) {
        fprintf(stderr, "ferry plugin: the templates are not installed: %s\n", template);
        return EXIT_LOST;
    }
    snprintf(dir, sizeof(dir), "%s%s", argc > 3 ? argv[3] : "ferry-", argc > 3 ? "" : argv[2]);
    status = write_project(template, dir, argv[2]);
    if (status == EXIT_OK)
        printf("\nNow: cd %s && meson setup build && meson test -C build\n"
               "Begin with %s/README.md; the guide is plugin-guide.md.\n",
               dir, dir);
    return status;
}

static const struct opt opts[] = {{0}};

static const struct example examples[] = {
    {"ferry plugin new transport mine", "writes ferry-mine/, which builds and passes at once"},
    {"ferry plugin new metadata mystore src/mystore", "into another directory"},
    {NULL, NULL},
};

const struct command cmd_plugin = {
    .name = "plugin",
    .summary = "write a project for a new transport or metadata plugin",
    .synopsis = "new transport|metadata NAME [DIR]",
    .words = "new transport metadata",
    .about =
        "Writes a small, complete project: sources with comments, a meson.build that finds "
        "ferry by pkg-config, and tests that run the conformance suite. It builds and passes "
        "as it is. The transport moves memory between processes of one host, the metadata "
        "store keeps files in a directory: read them with the plugin guide beside you, then "
        "put your own in their place.\n\n"
        "DIR is made if need be, ferry-NAME if not given; no file that is there is "
        "overwritten.",
    .opts = opts,
    .examples = examples,
    .options_size = sizeof(struct plugin_options),
    .max_args = 4,
    .run = run,
};
