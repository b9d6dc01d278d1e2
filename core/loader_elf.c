/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Looks into a shared object without loading it: is it one, for this machine, whole, and what
 * do the plain words at the head of its plugin descriptor say? dlopen would run its
 * initialisers first. Pointers (name, table) need relocation: they are checked after dlopen.
 * The file may be anything; every offset in it is checked.
 */
#include "loader_inner.h"

#include <elf.h>
#include <link.h>
#include <string.h>

#include "error.h"

struct image {
    const char *data;
    size_t len;
    ElfW(Ehdr) head;
};

static const char *machine_name(unsigned machine)
{
    switch (machine) {
    case EM_386:
        return "i386";
    case EM_X86_64:
        return "x86-64";
    case EM_ARM:
        return "arm";
    case EM_AARCH64:
        return "aarch64";
    case EM_PPC64:
        return "ppc64";
    case EM_RISCV:
        return "riscv";
    default:
        return "another machine";
    }
}

/* 0 = not known here: left to dlopen. */
static unsigned own_machine(void)
{
#if defined(__x86_64__)
    return EM_X86_64;
#elif defined(__aarch64__)
    return EM_AARCH64;
#elif defined(__powerpc64__)
    return EM_PPC64;
#elif defined(__riscv)
    return EM_RISCV;
#else
    return 0;
#endif
}

/* A copy of what lies there: nothing in the file is aligned for certain. */
static int copy_out(const struct image *image, uint64_t at, void *to, size_t len)
{
    if (at > image->len || len > image->len - at)
        return 0;
    memcpy(to, image->data + at, len);
    return 1;
}

static ferry_status truncated(const struct image *image, const char *what)
{
    return fy_fail(FERRY_EABI, "truncated: %zu bytes, and its %s lies beyond", image->len,
                   what);
}

static ferry_status check_head(struct image *image)
{
    const unsigned char *ident = image->head.e_ident;

    if (image->len < SELFMAG || memcmp(image->data, ELFMAG, SELFMAG) != 0)
        return fy_fail(FERRY_EABI, "not a shared object: no ELF header");
    if (!copy_out(image, 0, &image->head, sizeof(image->head)))
        return truncated(image, "header");
    if (ident[EI_CLASS] != (sizeof(void *) == 8 ? ELFCLASS64 : ELFCLASS32))
        return fy_fail(FERRY_EABI, "built for %d bits, wanted %d",
                       ident[EI_CLASS] == ELFCLASS64 ? 64 : 32, (int)sizeof(void *) * 8);
    if (ident[EI_DATA] != (__BYTE_ORDER == __LITTLE_ENDIAN ? ELFDATA2LSB : ELFDATA2MSB))
        return fy_fail(FERRY_EABI, "built for the other byte order");
    if (own_machine() && image->head.e_machine != own_machine())
        return fy_fail(FERRY_EABI, "built for %s (%u), wanted %s (%u)",
                       machine_name(image->head.e_machine), image->head.e_machine,
                       machine_name(own_machine()), own_machine());
    if (image->head.e_type != ET_DYN)
        return fy_fail(FERRY_EABI, "not a shared object: ELF type %u, wanted %u",
                       image->head.e_type, ET_DYN);
    if (image->head.e_shentsize != sizeof(ElfW(Shdr)) ||
        image->head.e_phentsize != sizeof(ElfW(Phdr)))
        return fy_fail(FERRY_EABI, "not a shared object: headers of unknown size");
    return FERRY_OK;
}

/* dlopen maps segments unchecked, and touching a missing page would end the process. */
static ferry_status check_segments(const struct image *image)
{
    for (unsigned i = 0; i < image->head.e_phnum; i++) {
        ElfW(Phdr) segment;

        if (!copy_out(image, (uint64_t)image->head.e_phoff + i * sizeof(segment), &segment,
                      sizeof(segment)))
            return truncated(image, "table of segments");
        if (segment.p_type == PT_LOAD &&
            (segment.p_offset > image->len || segment.p_filesz > image->len - segment.p_offset))
            return truncated(image, "contents");
    }
    return FERRY_OK;
}

static int is_named(const struct image *image, const ElfW(Shdr) * strings, uint64_t name,
                    const char *wanted)
{
    size_t size = strlen(wanted) + 1;

    return name < strings->sh_size && size <= strings->sh_size - name &&
           strings->sh_offset <= image->len &&
           strings->sh_size <= image->len - strings->sh_offset &&
           !memcmp(image->data + strings->sh_offset + name, wanted, size);
}

static int find_in(const struct image *image, const ElfW(Shdr) * table,
                   const ElfW(Shdr) * strings, const char *wanted, ElfW(Sym) * symbol_out)
{
    uint64_t n = table->sh_size / sizeof(*symbol_out);

    for (uint64_t i = 0; i < n; i++) {
        if (!copy_out(image, (uint64_t)table->sh_offset + i * sizeof(*symbol_out), symbol_out,
                      sizeof(*symbol_out)))
            return 0;
        if (symbol_out->st_shndx != SHN_UNDEF &&
            is_named(image, strings, symbol_out->st_name, wanted))
            return 1;
    }
    return 0;
}

static int section(const struct image *image, unsigned index, ElfW(Shdr) * section_out)
{
    return index < image->head.e_shnum &&
           copy_out(image, (uint64_t)image->head.e_shoff + index * sizeof(*section_out),
                    section_out, sizeof(*section_out));
}

static ferry_status find_symbol(const struct image *image, const char *wanted,
                                ElfW(Sym) * symbol_out)
{
    ElfW(Shdr) table, strings;

    if (image->head.e_shnum && !section(image, image->head.e_shnum - 1u, &table))
        return truncated(image, "table of sections");
    for (unsigned i = 0; section(image, i, &table); i++) {
        if (table.sh_type == SHT_DYNSYM && section(image, table.sh_link, &strings) &&
            find_in(image, &table, &strings, wanted, symbol_out))
            return FERRY_OK;
    }
    return fy_fail(FERRY_EABI, "no plugin of this kind: it exports no symbol %s", wanted);
}

static int read_at_address(const struct image *image, uint64_t addr, void *to, size_t len)
{
    for (unsigned i = 0; i < image->head.e_phnum; i++) {
        ElfW(Phdr) segment;

        if (copy_out(image, (uint64_t)image->head.e_phoff + i * sizeof(segment), &segment,
                     sizeof(segment)) &&
            segment.p_type == PT_LOAD && addr >= segment.p_vaddr &&
            addr - segment.p_vaddr < segment.p_filesz &&
            len <= segment.p_filesz - (addr - segment.p_vaddr))
            return copy_out(image, segment.p_offset + (addr - segment.p_vaddr), to, len);
    }
    return 0;
}

ferry_status fy_elf_peek(const void *file, size_t len, const char *symbol,
                         struct ferry_plugin_hdr *hdr_out)
{
    struct image image = {.data = file, .len = len};
    struct ferry_plugin_hdr hdr;
    ElfW(Sym) found;
    ferry_status status = check_head(&image);

    if (!status)
        status = check_segments(&image);
    if (!status)
        status = find_symbol(&image, symbol, &found);
    if (status)
        return status;
    if (!read_at_address(&image, found.st_value, &hdr, sizeof(hdr)))
        return fy_fail(FERRY_EABI, "symbol %s is no data of the file", symbol);
    *hdr_out = hdr;
    return FERRY_OK;
}
