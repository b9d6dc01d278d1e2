/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FT_MEMBERS_H
#define FT_MEMBERS_H

/*
 * A transport's part of the configuration, read by a table: what may be said, in which range,
 * and what holds where nothing is said. Compiled into each transport; no state.
 */
#include "plug.h"

struct ft_member {
    const char *key;
    enum ft_kind {
        FT_KIND_NUMBER, /* 4 or 8 bytes */
        FT_KIND_TEXT,
        FT_KIND_WORD,   /* one of a few; the enum's value is its place among them */
        FT_KIND_SWITCH, /* bool */
        FT_KIND_IGNORED /* Mooncake's, of no use here */
    } kind;
    size_t off, room; /* where it is in the transport's struct, bytes */
    uint64_t min, max, start;
    const char *text; /* what holds where nothing is said; the words, "one, two, three" */
};

#define FT_AT(type, member) offsetof(type, member), sizeof(((type *)0)->member)

/* Decimal, or hexadecimal after 0x. `start` need not be in range. */
#define FT_NUMBER(key, type, member, min, max, start)                                          \
    {                                                                                          \
        key, FT_KIND_NUMBER, FT_AT(type, member), min, max, start, NULL                        \
    }
/* `min`: characters. */
#define FT_TEXT(key, type, member, min, start)                                                 \
    {                                                                                          \
        key, FT_KIND_TEXT, FT_AT(type, member), min, 0, 0, start                               \
    }
#define FT_WORD(key, type, member, words)                                                      \
    {                                                                                          \
        key, FT_KIND_WORD, FT_AT(type, member), 0, 0, 0, words                                 \
    }
#define FT_SWITCH(key, type, member)                                                           \
    {                                                                                          \
        key, FT_KIND_SWITCH, FT_AT(type, member), 0, 0, 0, NULL                                \
    }
#define FT_IGNORED(key)                                                                        \
    {                                                                                          \
        key, FT_KIND_IGNORED, 0, 0, 0, 0, 0, NULL                                              \
    }

/*
 * Fills *config, a struct of the table's type: first with what holds where nothing is said,
 * then with what `kvs` (NULL: nothing) say. Keys that begin with "core." need not be in the
 * table. FERRY_EINVAL: logged, with the key, the value and what is allowed; *config is then of
 * no use.
 */
ferry_status ft_members_read(const struct ferry_host *host, const struct ferry_kvs *kvs,
                             const struct ft_member *members, size_t n, void *config);

#endif /* FT_MEMBERS_H */
