/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One end of a control channel, for test_control.py:
 *   control_node serve          listens, prints "ready on PORT"; answers probes, holds calls
 *   control_node ask HOST PORT TYPE BYTES TIMEOUT_MS
 *                               prints "status N after MS ms: TEXT"
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "control.h"
#include "ferry/ferry.h"
#include "names.h"
#include "util/clock.h"

static ferry_status handle(void *arg, int type, const char *body, size_t len,
                           struct fy_buf *reply)
{
    if (type == FY_CONTROL_CALL)
        pause();
    return fy_buf_printf(reply, "{\"status\":\"success\"}");
}

static int serve(void)
{
    struct fy_control *control;
    uint16_t port;
    int fd;

    if (fy_net_listen(NULL, 0, 0, 0, 0, &fd, &port) ||
        fy_control_open(fd, 0, handle, NULL, NULL, &control)) {
        fprintf(stderr, "%s\n", ferry_error());
        return 1;
    }
    printf("ready on %u\n", port);
    fflush(stdout);
    for (;;)
        pause();
}

static int ask(char **argv)
{
    size_t len = strtoul(argv[3], NULL, 10);
    char *body = malloc(len + 1);
    uint64_t began = fy_now_ns();
    struct fy_buf reply;
    ferry_status status;

    if (!body)
        return 1;
    memset(body, '7', len);
    fy_buf_init(&reply, 0);
    status = fy_control_request(argv[0], (uint16_t)atoi(argv[1]), atoi(argv[2]), body, len,
                                began + strtoul(argv[4], NULL, 10) * FY_NS_PER_MS, &reply);
    printf("status %d after %llu ms: %s\n", status,
           (unsigned long long)((fy_now_ns() - began) / FY_NS_PER_MS),
           status ? ferry_error() : reply.data);
    fy_buf_fini(&reply);
    free(body);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "serve") == 0)
        return serve();
    if (argc == 7 && strcmp(argv[1], "ask") == 0)
        return ask(argv + 2);
    fprintf(stderr, "usage: control_node serve | ask HOST PORT TYPE BYTES TIMEOUT_MS\n");
    return 2;
}
