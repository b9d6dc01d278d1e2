/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stands between the program, its plugins included, and the C library's allocator, and counts
 * what is allocated inside queue calls. Only in builds where no sanitizer does the same.
 */
#include "suite.h"

#if !FC_SANITIZED && defined(__GLIBC__)
#include <errno.h>
#include <malloc.h>
#include <stdlib.h>

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *mem, size_t size);
void *__libc_memalign(size_t align, size_t size);

static void count(void)
{
    fc_allocations_watched = true;
    if (fc_in_queue_call)
        fc_allocations++;
}

void *malloc(size_t size)
{
    count();
    return __libc_malloc(size);
}

void *calloc(size_t n, size_t size)
{
    count();
    return __libc_calloc(n, size);
}

void *realloc(void *mem, size_t size)
{
    count();
    return __libc_realloc(mem, size);
}

void *memalign(size_t align, size_t size)
{
    count();
    return __libc_memalign(align, size);
}

void *aligned_alloc(size_t align, size_t size)
{
    return memalign(align, size);
}

int posix_memalign(void **mem_out, size_t align, size_t size)
{
    void *mem = memalign(align, size);
    if (!mem)
        return ENOMEM;
    *mem_out = mem;
    return 0;
}
#endif
