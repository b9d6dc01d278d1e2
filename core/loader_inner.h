/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FY_LOADER_INNER_H
#define FY_LOADER_INNER_H

#include <link.h>

#include "loader.h"
#include "util/buf.h"

/* Shared by loader.c, loader_search.c, loader_elf.c and loader_stubs.c only. */

enum fy_plugin_kind { FY_PLUGIN_TRANSPORT, FY_PLUGIN_METADATA };

struct fy_loader {
    const struct fy_log *log;
    size_t n_dirs;
    char **dirs; /* absolute, and not for everybody to write to */
};

/* A file that is named like a plugin. */
struct fy_plugin_file {
    char name[32];
    char path[512];
    size_t dir;       /* index into the loader's */
    ptrdiff_t hidden; /* index of the file of that name in an earlier directory; -1 = none */
};

/* loader_search.c */
int fy_plugin_name_ok(const char *name);
/* The first of that name in the order of the directories. */
int fy_loader_find(const struct fy_loader *loader, enum fy_plugin_kind kind, const char *name,
                   char path_out[512]);
/* All, in the order of the directories, by name in each; freed with free(). */
ferry_status fy_loader_files(const struct fy_loader *loader, enum fy_plugin_kind kind,
                             struct fy_plugin_file **files_out, size_t *n_out);
/* "here are: a, b (in /dir), c (in /other); did you mean "b"?" */
void fy_loader_offer(const struct fy_loader *loader, enum fy_plugin_kind kind,
                     const char *wanted, struct fy_buf *out);
/* The nearest so far: *distance starts at SIZE_MAX. */
void fy_loader_nearest(const char *wanted, const char *name, char nearest[32],
                       size_t *distance);

/*
 * loader_elf.c: what a plugin says of itself, read from the file, so that none of its code runs
 * where it is refused.
 */
struct fy_elf {
    const char *data;
    size_t len;
    uint64_t symbol; /* its address */
    ElfW(Ehdr) head;
};
#define FY_ELF_ELSEWHERE UINTPTR_MAX /* a pointer out of the file */

/* `file` is borrowed by *elf_out. FERRY_EABI with an error text that does not name the file. */
ferry_status fy_elf_open(const void *file, size_t len, const char *symbol,
                         struct fy_elf *elf_out);
/* What lies there as it will be in memory, except that its pointers are addresses of the file.
 * 0: the file has no such bytes. */
int fy_elf_read(const struct fy_elf *elf, uint64_t addr, void *to, size_t len);
/* A text, cut short if need be. 0: the file has none there. */
int fy_elf_text(const struct fy_elf *elf, uint64_t addr, char *text, size_t room);

/* loader_stubs.c: name of a mandatory member that is missing, or NULL; holes are filled. */
const char *fy_transport_complete(struct ferry_transport_ops *ops);
const char *fy_metadata_complete(struct ferry_metadata_ops *ops);
int fy_transport_has_probe(const struct ferry_transport_ops *ops);

#endif /* FY_LOADER_INNER_H */
