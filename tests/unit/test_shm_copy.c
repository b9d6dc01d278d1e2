/* SPDX-License-Identifier: Apache-2.0 */
/* Copies that several threads share: whole, and ended at the first byte out of reach. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "shm.h"

enum { PIECE = 3 << 20, ROUNDS = 40 };

static void copy_round(struct shm_helpers *helpers, uint8_t *from, uint8_t *to, unsigned round)
{
    struct shm_piece piece = {.local = round & 1 ? to : from,
                              .remote = round & 1 ? from : to,
                              .len = PIECE - round * 4097,
                              .pid = round & 2 ? getpid() : 0,
                              .read = round & 1,
                              .cold = round & 4};

    memset(from, (int)round + 1, piece.len);
    memset(to, 0, PIECE + 1);
    shm_copy_together(helpers, &piece);
    assert_int_equal(piece.error, 0);
    assert_int_equal(piece.moved, PIECE - round * 4097);
    assert_memory_equal(from, to, piece.moved);
    assert_int_equal(to[piece.moved], 0);
}

static void *copy_rounds(void *helpers)
{
    uint8_t *from = malloc(PIECE + 1), *to = malloc(PIECE + 1);

    for (unsigned round = 0; round < ROUNDS; round++)
        copy_round(helpers, from, to, round);
    free(from);
    free(to);
    return NULL;
}

/* Two queues' worth of copies at once; whether helpers join in depends on what else runs. */
static void copies_are_whole_whoever_helps(void **state)
{
    struct shm_helpers *helpers = shm_helpers_start(SHM_COPY_THREADS);
    pthread_t other;

    assert_int_equal(pthread_create(&other, NULL, copy_rounds, helpers), 0);
    copy_rounds(helpers);
    pthread_join(other, NULL);
    copy_rounds(NULL);
    shm_helpers_stop(helpers);
}

/* The first byte that cannot be reached is where it ends, whose piece it may be. */
static void a_copy_that_fails_in_a_helper_ends_there(void **state)
{
    struct shm_helpers *helpers = shm_helpers_start(SHM_COPY_THREADS);
    uint8_t *local = malloc(PIECE);
    uint8_t *remote =
        mmap(NULL, PIECE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    memset(local, 7, PIECE);
    for (size_t hole = 4096; hole < PIECE; hole += 320 << 10) {
        struct shm_piece piece = {
            .local = local, .remote = remote, .len = PIECE, .pid = getpid()};

        assert_int_equal(mprotect(remote + (hole & ~(size_t)4095), 4096, PROT_NONE), 0);
        shm_copy_together(helpers, &piece);
        assert_true(piece.moved <= (hole & ~(size_t)4095));
        assert_int_equal(
            mprotect(remote + (hole & ~(size_t)4095), 4096, PROT_READ | PROT_WRITE), 0);
    }
    munmap(remote, PIECE);
    free(local);
    shm_helpers_stop(helpers);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(copies_are_whole_whoever_helps),
        cmocka_unit_test(a_copy_that_fails_in_a_helper_ends_there),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
