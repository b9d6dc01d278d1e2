/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <arpa/inet.h>
#include <unistd.h>
#include <cmocka.h>

#include "bench_plot.h"
#include "bench_raw.h"

static char error[300];

static const struct bench_spec shapes[] = {
    {.size = 100, .batch = 3, .threads = 1, .stride = 1, .hot = true},
    {.size = 4096, .batch = 16, .threads = 2, .stride = 2},
    {.size = 4096, .batch = 16, .threads = 2, .stride = 2, .read = true, .spin = true},
    {.size = 64, .batch = 3000, .threads = 1, .stride = 2}, /* more pieces than IOV_MAX */
    {.size = 64, .batch = 3000, .threads = 1, .stride = 3, .read = true},
    {.size = 1 << 20, .batch = 1, .threads = 3, .stride = 1, .read = true, .hot = true},
    {.size = 4097, .batch = 5, .threads = 1, .stride = 1, .spin = true},
};
enum { N_SHAPES = sizeof(shapes) / sizeof(shapes[0]), LEN = 4 << 20 };

static void no_two_pieces_overlap(void **state)
{
    uint8_t *taken = malloc(LEN);

    for (size_t s = 0; s < N_SHAPES; s++) {
        uint64_t region = bench_region(&shapes[s], 1 << 20);
        memset(taken, 0, LEN);
        for (uint32_t t = 0; t < shapes[s].threads; t++) {
            struct bench_walk walk = bench_walk(&shapes[s], region, t);
            assert_true(walk.n >= 1);
            assert_int_equal(bench_off(&shapes[s], &walk, walk.n, 0),
                             bench_off(&shapes[s], &walk, 0, 0));
            for (uint64_t i = 0; i < walk.n; i++)
                for (uint32_t p = 0; p < shapes[s].batch; p++) {
                    uint64_t off = bench_off(&shapes[s], &walk, i, p);
                    assert_true(off + shapes[s].size <= region);
                    for (uint64_t b = off; b < off + shapes[s].size; b++)
                        assert_int_equal(taken[b]++, 0);
                }
        }
    }
    free(taken);
}

/* What a correct transfer of one round leaves behind. */
static void move_by_hand(const struct bench_spec *spec, uint64_t region, uint8_t *to,
                         const uint8_t *from)
{
    for (uint32_t t = 0; t < spec->threads; t++) {
        struct bench_walk walk = bench_walk(spec, region, t);
        for (uint64_t i = 0; i < walk.n; i++)
            for (uint32_t p = 0; p < spec->batch; p++) {
                uint64_t off = bench_off(spec, &walk, i, p);
                memcpy(to + off, from + off, spec->size);
            }
    }
}

static void the_check_sees_every_byte(void **state)
{
    const struct bench_spec spec = {.size = 13, .batch = 4, .threads = 2, .stride = 2};
    enum { REGION = 500 };
    uint8_t from[REGION], to[REGION];
    uint64_t first;

    bench_fill(from, REGION, 1);
    bench_fill(to, REGION, 2);
    assert_true(bench_check(to, REGION, &spec, 1, 2, &first) > 0);
    move_by_hand(&spec, REGION, to, from);
    assert_int_equal(bench_check(to, REGION, &spec, 1, 2, &first), 0);
    for (uint64_t i = 0; i < REGION; i++) {
        to[i] ^= 0x10;
        assert_int_equal(bench_check(to, REGION, &spec, 1, 2, &first), 1);
        assert_int_equal(first, i);
        to[i] ^= 0x10;
    }
}

static void the_reference_moves_what_it_claims(void **state)
{
    uint8_t *ours = malloc(LEN), *theirs = malloc(LEN);
    struct raw_server *server;
    struct raw_client *client;
    struct bench_mover mover;
    uint16_t port;

    assert_true(raw_server_open("127.0.0.1", "cubic", theirs, LEN, &server, &port, error,
                                sizeof(error)));
    assert_true(
        raw_client_open("127.0.0.1", port, "cubic", ours, LEN, &client, error, sizeof(error)));
    mover = raw_client_mover(client);
    for (size_t s = 0; s < N_SHAPES; s++) {
        const struct bench_spec *spec = &shapes[s];
        uint64_t region = bench_region(spec, 1 << 20), bad, first;
        uint64_t n = bench_walk(spec, region, 0).n;
        struct bench_result result;

        assert_true(raw_client_ready(client, spec, error, sizeof(error)));
        bench_fill(ours, LEN, 1);
        assert_true(raw_ask_fill(client, 2));
        assert_true(bench_run(&mover, spec, region, 0, n, n, &result, error, sizeof(error)));
        raw_client_rest(client);
        assert_int_equal(result.batches, n * spec->threads);
        assert_int_equal(result.bytes, result.batches * spec->batch * spec->size);
        assert_true(result.p50_ns > 0 && result.p50_ns <= result.p99_ns);
        if (spec->read)
            assert_int_equal(bench_check(ours, region, spec, 2, 1, &first), 0);
        else {
            assert_true(raw_ask_check(client, spec, region, 1, 2, &bad, &first));
            assert_int_equal(bad, 0);
            /* and it would have seen the opposite */
            assert_true(raw_ask_check(client, spec, region, 2, 1, &bad, &first));
            assert_true(bad > 0);
        }
    }
    assert_false(raw_server_ended(server));
    raw_client_close(client);
    for (int i = 0; i < 2000 && !raw_server_ended(server); i++)
        usleep(1000);
    assert_true(raw_server_ended(server));
    raw_server_close(server);
    free(ours);
    free(theirs);
}

/* The other end is anybody on the network. */
static void the_server_keeps_to_its_region(void **state)
{
    static const struct {
        uint64_t off, len;
    } outside[] = {{4096, 1},       {0, 4097},       {4095, 2},
                   {UINT64_MAX, 1}, {1, UINT64_MAX}, {8192, 16}};
    struct raw_server *server;
    uint8_t *memory = calloc(3, 4096);
    uint16_t port;

    assert_true(raw_server_open("127.0.0.1", "cubic", memory + 4096, 4096, &server, &port,
                                error, sizeof(error)));
    for (size_t i = 0; i < sizeof(outside) / sizeof(outside[0]); i++)
        for (uint16_t op = 1; op <= 2; op++) {
            struct {
                uint16_t op, flags;
                uint32_t n;
                uint64_t total, off, len;
                char payload[32];
            } frame = {op, 0, 1, 16, outside[i].off, outside[i].len, "xxxxxxxxxxxxxxxx"};
            struct sockaddr_in to = {.sin_family = AF_INET,
                                     .sin_port = htons(port),
                                     .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
            int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
            char reply;

            assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof(to)), 0);
            assert_true(send(fd, &frame, sizeof(frame), MSG_NOSIGNAL) > 0);
            assert_true(recv(fd, &reply, 1, 0) <= 0); /* closed, without an answer */
            close(fd);
        }
    for (size_t i = 0; i < 3 * 4096; i++)
        assert_int_equal(memory[i], 0);
    raw_server_close(server);
    free(memory);
}

static bool fail_at_three(void *arg, const struct bench_spec *spec,
                          const struct bench_walk *walk, uint32_t thread, uint64_t i, char *why,
                          size_t room)
{
    if (thread == 1 && i == 3) {
        snprintf(why, room, "broken");
        return false;
    }
    return true;
}

static void a_failed_batch_ends_the_run(void **state)
{
    const struct bench_spec spec = {.size = 1, .batch = 1, .threads = 2, .stride = 1};
    struct bench_mover mover = {NULL, fail_at_three};
    struct bench_result result;

    assert_false(
        bench_run(&mover, &spec, 4096, 60000000000u, 1, 0, &result, error, sizeof(error)));
    assert_string_equal(error, "broken");
}

static void the_plot_shows_the_rows_that_were_measured(void **state)
{
    struct bench_row rows[2] = {
        {.spec = {.size = 65536, .batch = 16, .threads = 1, .spin = true, .hot = true},
         .ferry[0].GBps = 9.5,
         .raw.GBps = 10},
        {.spec = {.size = 1 << 20, .batch = 1, .threads = 4, .read = true},
         .error = "peer is gone"},
    };
    char *text;
    size_t len;
    FILE *out = open_memstream(&text, &len);

    bench_plot_program(out, rows, 2, "it's.svg");
    fclose(out);
    assert_non_null(strstr(text, "\"write 64k x 16, 1 thread, spin, hot\" 9.5000 10.0000\n"));
    assert_null(strstr(text, "\"read"));
    assert_non_null(strstr(text, "set output 'it''s.svg'"));
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_two_pieces_overlap),
        cmocka_unit_test(the_check_sees_every_byte),
        cmocka_unit_test(the_reference_moves_what_it_claims),
        cmocka_unit_test(the_server_keeps_to_its_region),
        cmocka_unit_test(a_failed_batch_ends_the_run),
        cmocka_unit_test(the_plot_shows_the_rows_that_were_measured),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
