/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the `ferry` command reads from others: a line of a trace, a message of the hand-over, a
 * connection to the benchmark's reference. The first byte says which.
 */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bench_raw.h"
#include "kvmsg.h"
#include "trace.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_line(const char *text, size_t len)
{
    struct trace trace = {0};
    struct scale scale;
    char error[256] = "";

    if (!trace_line(text, len, &trace, error, sizeof(error))) {
        assert(error[0] && trace.n == 0);
        trace_free(&trace);
        return;
    }
    assert(trace.n == 1);
    for (uint32_t divisor = 1; divisor <= 32; divisor *= 2) {
        size_t n;
        uint64_t *keys;
        assert(scale_make(divisor, 16, &scale, error, sizeof(error)));
        n = scale_blocks(&scale, &trace.requests[0]);
        assert(n > 0 && scale_tokens(&scale, &trace.requests[0]) <= n * 16);
        keys = malloc(n * sizeof(*keys));
        assert(keys);
        scale_keys(&scale, &trace.requests[0], keys);
        free(keys);
    }
    trace_free(&trace);
}

static void read_message(const char *text, size_t len)
{
    struct kvmsg msg, again;
    char error[256] = "", *encoded;
    size_t encoded_len;

    if (!kvmsg_decode(text, len, &msg, error, sizeof(error))) {
        assert(error[0]);
        return;
    }
    encoded = kvmsg_encode(&msg, &encoded_len);
    assert(encoded);
    assert(kvmsg_decode(encoded, encoded_len, &again, error, sizeof(error)));
    assert(again.type == msg.type && again.session == msg.session && again.n == msg.n &&
           !again.keys == !msg.keys && !again.sums == !msg.sums &&
           (!msg.keys || memcmp(msg.keys, again.keys, msg.n * sizeof(*msg.keys)) == 0));
    free(encoded);
    kvmsg_free(&again);
    kvmsg_free(&msg);
}

/* The answers of a connection fit into the socket, so that nobody has to read them. */
static void serve(const uint8_t *data, size_t size)
{
    enum { GUARD = 64, LEN = 512 };
    static uint8_t memory[LEN + 2 * GUARD];
    static struct raw_server *server;
    char error[256];
    uint16_t port;
    int fds[2];

    if (!server)
        assert(raw_server_open("127.0.0.1", "reno", memory + GUARD, LEN, &server, &port, error,
                               sizeof(error)));
    if (size > 512 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds))
        return;
    assert(send(fds[0], data, size, MSG_NOSIGNAL) == (ssize_t)size);
    shutdown(fds[0], SHUT_WR);
    raw_server_serve(server, fds[1]);
    close(fds[0]);
    close(fds[1]);
    for (int i = 0; i < GUARD; i++)
        assert(!memory[i] && !memory[GUARD + LEN + i]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size && data[0] == 'T')
        read_line((const char *)data + 1, size - 1);
    else if (size && data[0] == 'M')
        read_message((const char *)data + 1, size - 1);
    else if (size && data[0] == 'R')
        serve(data + 1, size - 1);
    return 0;
}
