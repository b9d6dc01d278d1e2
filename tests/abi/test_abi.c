/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Do the public headers still keep the promise of docs/abi.md? Compared with what freeze.py
 * wrote down: every member in its place and of its type, every number, text and function.
 */
#include <stdio.h>
#include <string.h>

#include "abi_1_0.h"

enum growth { FROZEN, GROWS };

static int compared, broken;

static void compare(int same, const char *what, const char *why)
{
    compared++;
    if (!same) {
        broken++;
        printf("%s: %s\n", what, why);
    }
}

static void compare_struct(const char *name, enum growth growth, size_t now, size_t then)
{
    compare(growth == GROWS ? now >= then : now == then, name,
            growth == GROWS ? "became smaller" : "is frozen, and its size changed");
}

static void compare_member(const char *name, size_t now, size_t then, size_t size_now,
                           size_t size_then, int same_type)
{
    compare(now == then, name, "moved");
    compare(size_now == size_then, name, "changed its size");
    compare(same_type, name, "changed its type");
}

#define ABI_STRUCT(name, growth)                                                               \
    compare_struct("struct ferry_" #name, growth, sizeof(struct ferry_##name),                 \
                   sizeof(struct abi10_##name));
#define MEMBER(tag, name, member) (((struct tag##_##name *)0)->member)
#define ABI_MEMBER(name, member)                                                               \
    compare_member("struct ferry_" #name ": " #member, offsetof(struct ferry_##name, member),  \
                   offsetof(struct abi10_##name, member), sizeof(MEMBER(ferry, name, member)), \
                   sizeof(MEMBER(abi10, name, member)),                                        \
                   __builtin_types_compatible_p(__typeof__(MEMBER(ferry, name, member)),       \
                                                __typeof__(MEMBER(abi10, name, member))));
#define ABI_NUMBER(name, value)                                                                \
    compare((long long)(name) == (value), #name, "has another value");
#define ABI_TEXT(name, value) compare(strcmp(name, value) == 0, #name, "has another text");
#define ABI_FUNCTION(name, result, arguments)                                                  \
    compare(__builtin_types_compatible_p(__typeof__(&name), __typeof__(result(*) arguments)),  \
            #name, "takes or returns something else");

int main(void)
{
#include "abi_1_0.inc"
    printf("%d comparisons, %d differences\n", compared, broken);
    return broken ? 1 : 0;
}
