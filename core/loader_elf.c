/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Looks into a shared object without loading it: is it one, for this machine, whole, and what
 * will its data be once it is loaded? dlopen would run its initialisers first. Knows nothing of
 * plugins. The file may be anything; every offset in it is checked.
 */
#include "loader_inner.h"

#include <elf.h>
#include <link.h>
#include <string.h>

#include "error.h"

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
static int copy_out(const struct fy_elf *elf, uint64_t at, void *to, size_t len)
{
    if (at > elf->len || len > elf->len - at)
        return 0;
    memcpy(to, elf->data + at, len);
    return 1;
}

static ferry_status truncated(const struct fy_elf *elf, const char *what)
{
    return fy_fail(FERRY_EABI, "truncated: %zu bytes, and its %s lies beyond", elf->len, what);
}

static ferry_status check_head(struct fy_elf *elf)
{
    const unsigned char *ident = elf->head.e_ident;

    if (elf->len < SELFMAG || memcmp(elf->data, ELFMAG, SELFMAG) != 0)
        return fy_fail(FERRY_EABI, "not a shared object: no ELF header");
    if (!copy_out(elf, 0, &elf->head, sizeof(elf->head)))
        return truncated(elf, "header");
    if (ident[EI_CLASS] != (sizeof(void *) == 8 ? ELFCLASS64 : ELFCLASS32))
        return fy_fail(FERRY_EABI, "built for %d bits, wanted %d",
                       ident[EI_CLASS] == ELFCLASS64 ? 64 : 32, (int)sizeof(void *) * 8);
    if (ident[EI_DATA] != (__BYTE_ORDER == __LITTLE_ENDIAN ? ELFDATA2LSB : ELFDATA2MSB))
        return fy_fail(FERRY_EABI, "built for the other byte order");
    if (own_machine() && elf->head.e_machine != own_machine())
        return fy_fail(FERRY_EABI, "built for %s (%u), wanted %s (%u)",
                       machine_name(elf->head.e_machine), elf->head.e_machine,
                       machine_name(own_machine()), own_machine());
    if (elf->head.e_type != ET_DYN)
        return fy_fail(FERRY_EABI, "not a shared object: ELF type %u, wanted %u",
                       elf->head.e_type, ET_DYN);
    if (elf->head.e_shentsize != sizeof(ElfW(Shdr)) ||
        elf->head.e_phentsize != sizeof(ElfW(Phdr)))
        return fy_fail(FERRY_EABI, "not a shared object: headers of unknown size");
    return FERRY_OK;
}

/* dlopen maps segments unchecked, and touching a missing page would end the process. */
static ferry_status check_segments(const struct fy_elf *elf)
{
    for (unsigned i = 0; i < elf->head.e_phnum; i++) {
        ElfW(Phdr) segment;

        if (!copy_out(elf, (uint64_t)elf->head.e_phoff + i * sizeof(segment), &segment,
                      sizeof(segment)))
            return truncated(elf, "table of segments");
        if (segment.p_type == PT_LOAD &&
            (segment.p_offset > elf->len || segment.p_filesz > elf->len - segment.p_offset))
            return truncated(elf, "contents");
    }
    return FERRY_OK;
}

static int is_named(const struct fy_elf *elf, const ElfW(Shdr) * strings, uint64_t name,
                    const char *wanted)
{
    size_t size = strlen(wanted) + 1;

    return name < strings->sh_size && size <= strings->sh_size - name &&
           strings->sh_offset <= elf->len &&
           strings->sh_size <= elf->len - strings->sh_offset &&
           !memcmp(elf->data + strings->sh_offset + name, wanted, size);
}

static int find_in(const struct fy_elf *elf, const ElfW(Shdr) * table,
                   const ElfW(Shdr) * strings, const char *wanted, ElfW(Sym) * symbol_out)
{
    uint64_t n = table->sh_size / sizeof(*symbol_out);

    for (uint64_t i = 0; i < n; i++) {
        if (!copy_out(elf, (uint64_t)table->sh_offset + i * sizeof(*symbol_out), symbol_out,
                      sizeof(*symbol_out)))
            return 0;
        if (symbol_out->st_shndx != SHN_UNDEF &&
            is_named(elf, strings, symbol_out->st_name, wanted))
            return 1;
    }
    return 0;
}

static int section(const struct fy_elf *elf, unsigned index, ElfW(Shdr) * section_out)
{
    return index < elf->head.e_shnum &&
           copy_out(elf, (uint64_t)elf->head.e_shoff + index * sizeof(*section_out),
                    section_out, sizeof(*section_out));
}

static ferry_status find_symbol(const struct fy_elf *elf, const char *wanted,
                                ElfW(Sym) * symbol_out)
{
    ElfW(Shdr) table, strings;

    if (elf->head.e_shnum && !section(elf, elf->head.e_shnum - 1u, &table))
        return truncated(elf, "table of sections");
    for (unsigned i = 0; section(elf, i, &table); i++) {
        if (table.sh_type == SHT_DYNSYM && section(elf, table.sh_link, &strings) &&
            find_in(elf, &table, &strings, wanted, symbol_out))
            return FERRY_OK;
    }
    return fy_fail(FERRY_EABI, "no plugin of this kind: it exports no symbol %s", wanted);
}

static int read_at_address(const struct fy_elf *elf, uint64_t addr, void *to, size_t len)
{
    for (unsigned i = 0; i < elf->head.e_phnum; i++) {
        ElfW(Phdr) segment;

        if (copy_out(elf, (uint64_t)elf->head.e_phoff + i * sizeof(segment), &segment,
                     sizeof(segment)) &&
            segment.p_type == PT_LOAD && addr >= segment.p_vaddr &&
            addr - segment.p_vaddr < segment.p_filesz &&
            len <= segment.p_filesz - (addr - segment.p_vaddr))
            return copy_out(elf, segment.p_offset + (addr - segment.p_vaddr), to, len);
    }
    return 0;
}

/* ---- relocations --------------------------------------------------------------------------
 */

#if defined(__x86_64__)
enum { RELATIVE = R_X86_64_RELATIVE, ABSOLUTE = R_X86_64_64 };
#elif defined(__aarch64__)
enum { RELATIVE = R_AARCH64_RELATIVE, ABSOLUTE = R_AARCH64_ABS64 };
#elif defined(__powerpc64__)
enum { RELATIVE = R_PPC64_RELATIVE, ABSOLUTE = R_PPC64_ADDR64 };
#elif defined(__riscv)
enum { RELATIVE = R_RISCV_RELATIVE, ABSOLUTE = R_RISCV_64 };
#else
enum { RELATIVE = -1, ABSOLUTE = -2 };
#endif

#ifndef SHT_RELR
#define SHT_RELR 19
#endif

/* Where bytes of the file are put, and how they are changed there. */
struct window {
    uint64_t addr;
    char *to;
    size_t len;
};

static void set_pointer(const struct window *window, uint64_t at, uint64_t value)
{
    uintptr_t pointer = (uintptr_t)value;

    if (at >= window->addr && window->len >= sizeof(pointer) &&
        at - window->addr <= window->len - sizeof(pointer))
        memcpy(window->to + (at - window->addr), &pointer, sizeof(pointer));
}

/* The address that a symbol of this file has; FY_ELF_ELSEWHERE where it is another's. */
static uint64_t symbol_address(const struct fy_elf *elf, unsigned table_index, uint64_t index,
                               uint64_t addend)
{
    ElfW(Shdr) table;
    ElfW(Sym) symbol;

    if (!section(elf, table_index, &table) || index >= table.sh_size / sizeof(symbol) ||
        !copy_out(elf, (uint64_t)table.sh_offset + index * sizeof(symbol), &symbol,
                  sizeof(symbol)) ||
        symbol.st_shndx == SHN_UNDEF)
        return FY_ELF_ELSEWHERE;
    return symbol.st_value + addend;
}

static void apply_rela(const struct fy_elf *elf, const ElfW(Shdr) * list,
                       const struct window *window)
{
    for (uint64_t i = 0; i < list->sh_size / sizeof(ElfW(Rela)); i++) {
        ElfW(Rela) one;
        uint64_t value = FY_ELF_ELSEWHERE;
        int type;

        if (!copy_out(elf, (uint64_t)list->sh_offset + i * sizeof(one), &one, sizeof(one)))
            return;
        type = (int)(one.r_info & (sizeof(void *) == 8 ? 0xffffffffu : 0xffu));
        if (type == RELATIVE)
            value = (uint64_t)one.r_addend;
        else if (type == ABSOLUTE)
            value =
                symbol_address(elf, list->sh_link, one.r_info >> (sizeof(void *) == 8 ? 32 : 8),
                               (uint64_t)one.r_addend);
        set_pointer(window, one.r_offset, value);
    }
}

/* Packed relative ones, the addend in place: an address, then bits for the words behind it. */
static void apply_relr(const struct fy_elf *elf, const ElfW(Shdr) * list,
                       const struct window *window)
{
    const uint64_t word = sizeof(uintptr_t);
    uint64_t next = 0;

    for (uint64_t i = 0; i < list->sh_size / word; i++) {
        uintptr_t entry, value;

        if (!copy_out(elf, (uint64_t)list->sh_offset + i * word, &entry, sizeof(entry)))
            return;
        if (!(entry & 1)) {
            if (read_at_address(elf, entry, &value, sizeof(value)))
                set_pointer(window, entry, value);
            next = entry + word;
            continue;
        }
        for (uint64_t bit = 1; bit < word * 8; bit++) {
            uint64_t at = next + (bit - 1) * word;

            if (entry >> bit & 1 && read_at_address(elf, at, &value, sizeof(value)))
                set_pointer(window, at, value);
        }
        next += (word * 8 - 1) * word;
    }
}

int fy_elf_read(const struct fy_elf *elf, uint64_t addr, void *to, size_t len)
{
    const struct window window = {addr, to, len};
    ElfW(Shdr) list;

    if (!read_at_address(elf, addr, to, len))
        return 0;
    for (unsigned i = 0; section(elf, i, &list); i++) {
        if (!(list.sh_flags & SHF_ALLOC))
            continue;
        if (list.sh_type == SHT_RELA)
            apply_rela(elf, &list, &window);
        else if (list.sh_type == SHT_RELR)
            apply_relr(elf, &list, &window);
    }
    return 1;
}

int fy_elf_text(const struct fy_elf *elf, uint64_t addr, char *text, size_t room)
{
    for (size_t i = 0; i < room; i++) {
        if (!read_at_address(elf, addr + i, &text[i], 1))
            return 0;
        if (!text[i])
            return 1;
    }
    text[room - 1] = '\0';
    return 1;
}

ferry_status fy_elf_open(const void *file, size_t len, const char *symbol,
                         struct fy_elf *elf_out)
{
    struct fy_elf elf = {.data = file, .len = len};
    ElfW(Sym) found;
    ferry_status status = check_head(&elf);

    if (!status)
        status = check_segments(&elf);
    if (!status)
        status = find_symbol(&elf, symbol, &found);
    if (!status && (found.st_info & 0xf) == STT_FUNC)
        status = fy_fail(FERRY_EABI, "symbol %s is a function, wanted data", symbol);
    if (status)
        return status;
    elf.symbol = found.st_value;
    *elf_out = elf;
    return FERRY_OK;
}
