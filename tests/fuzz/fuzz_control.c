/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Control messages: the frame parser on every prefix of the input, and the input as what a
 * client sends to a live server (over a socket of the file system's family, so that no port is
 * taken). The server must answer with one whole frame or with nothing, and always end.
 */
#include <assert.h>
#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "control.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

#define MAX_LEN 4096

static struct fy_control *control;
static struct sockaddr_un address = {.sun_family = AF_UNIX};
static socklen_t address_len = sizeof(address);

static ferry_status handle(void *arg, int type, const char *body, size_t len,
                           struct fy_buf *reply)
{
    assert(type >= 0 && type <= 0x46 && len < MAX_LEN && body[len] == '\0');
    return len % 5 == 4 ? FERRY_EIO : fy_buf_append(reply, body, len);
}

static void close_server(void)
{
    fy_control_close(control);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    ferry_status status;

    (void)argc;
    (void)argv;
    /* No name: the kernel gives one. */
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(sa_family_t)) ||
        listen(fd, 16) || getsockname(fd, (struct sockaddr *)&address, &address_len))
        exit(2);
    status = fy_control_open(fd, MAX_LEN, handle, NULL, NULL, &control);
    if (status || atexit(close_server))
        exit(2);
    return 0;
}

static void parse_prefixes(const uint8_t *data, size_t size)
{
    ferry_status last = FERRY_EAGAIN;

    for (size_t n = 0; n <= size; n++) {
        struct fy_control_frame frame;
        size_t need = 0;
        uint8_t *exact = malloc(n ? n : 1);

        assert(exact);
        memcpy(exact, data, n);
        last = fy_control_parse(exact, n, MAX_LEN, &frame, &need);
        free(exact);
        if (last == FERRY_EAGAIN)
            assert(need > n && need <= MAX_LEN + 8);
        if (last == FERRY_OK)
            assert(frame.len > 0 && frame.body <= n && frame.len == n - frame.body);
        if (last != FERRY_EAGAIN)
            return;
    }
}

static void talk_to_server(const uint8_t *data, size_t size)
{
    uint8_t reply[2 * MAX_LEN];
    struct fy_control_frame frame;
    struct pollfd p;
    size_t got = 0, need;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    size_t first = size ? data[0] % size : 0;

    assert(fd >= 0 && connect(fd, (struct sockaddr *)&address, address_len) == 0);
    /* In two pieces; where the server has had enough, the rest cannot be sent. */
    if (send(fd, data, first, MSG_NOSIGNAL) >= 0 &&
        send(fd, data + first, size - first, MSG_NOSIGNAL) >= 0)
        shutdown(fd, SHUT_WR);
    for (;;) {
        ssize_t n;

        p = (struct pollfd){.fd = fd, .events = POLLIN};
        assert(poll(&p, 1, 10000) == 1);
        n = recv(fd, reply + got, sizeof(reply) - got, 0);
        if (n <= 0)
            break;
        got += (size_t)n;
        assert(got < sizeof(reply));
    }
    close(fd);
    if (got) {
        assert(got > 8 && reply[got - 1] == '\n');
        if (memcmp(reply + 8, "null\n", 5) == 0) /* to an untyped request */
            assert(got == 13 && reply[0] == 5);
        else
            assert(fy_control_parse(reply, got, 0, &frame, &need) == FERRY_OK &&
                   frame.body + frame.len == got);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > 2 * MAX_LEN)
        return 0;
    parse_prefixes(data, size);
    talk_to_server(data, size);
    return 0;
}
