/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs a program to which io_uring is forbidden, as the default profile of containers does:
 *   no_uring PROGRAM ARGUMENTS...
 */
#include <errno.h>
#include <seccomp.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    static const int calls[] = {SCMP_SYS(io_uring_setup), SCMP_SYS(io_uring_enter),
                                SCMP_SYS(io_uring_register)};
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);

    if (argc < 2 || !filter)
        return 2;
    for (size_t i = 0; i < sizeof(calls) / sizeof(*calls); i++) {
        if (seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), calls[i], 0))
            return 2;
    }
    if (seccomp_load(filter))
        return 2;
    seccomp_release(filter);
    execv(argv[1], argv + 1);
    fprintf(stderr, "%s: %s\n", argv[1], strerror(errno));
    return 1;
}
