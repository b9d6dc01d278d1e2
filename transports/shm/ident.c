/* SPDX-License-Identifier: Apache-2.0 */
/* Who this process and others are: host, user, namespace, and which of the processes that had a
 * pid in turn. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "shm.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77 /* Linux 6.5 */
#endif

static bool read_text(const char *path, char *buf, size_t room)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n;

    if (fd < 0)
        return false;
    n = read(fd, buf, room - 1);
    close(fd);
    if (n <= 0)
        return false;
    buf[n] = '\0';
    return true;
}

bool shm_ended(int pidfd)
{
    struct pollfd p = {.fd = pidfd, .events = POLLIN};

    return poll(&p, 1, 0) > 0;
}

uint64_t shm_start_time(pid_t pid)
{
    char path[64], buf[1024];
    const char *at;

    if (pid)
        snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    else /* /proc may be another pid namespace's, where we have another number */
        snprintf(path, sizeof(path), "/proc/self/stat");
    if (!read_text(path, buf, sizeof(buf)))
        return 0;
    at = strrchr(buf, ')'); /* the name before it may hold anything */
    for (int field = 2; at && field < 22; field++)
        at = strchr(at + 1, ' ');
    return at ? strtoull(at, NULL, 10) : 0;
}

bool shm_ident_self(struct shm_ident *ident_out)
{
    struct shm_ident ident = {.uid = geteuid(), .pid = getpid()};
    char boot[64];
    struct stat st;

    if (!read_text("/proc/sys/kernel/random/boot_id", boot, sizeof(boot)) ||
        stat("/proc/self/ns/pid", &st))
        return false;
    boot[strcspn(boot, "\n")] = '\0';
    if (!boot[0] || strlen(boot) >= sizeof(ident.boot))
        return false;
    memcpy(ident.boot, boot, strlen(boot) + 1);
    ident.pidns = st.st_ino;
    ident.start = shm_start_time(0);
    *ident_out = ident;
    return ident.start != 0;
}

int shm_pidfd(int sock, pid_t pid)
{
    int fd;
    socklen_t len = sizeof(fd);

    if (!getsockopt(sock, SOL_SOCKET, SO_PEERPIDFD, &fd, &len)) {
        fcntl(fd, F_SETFD, FD_CLOEXEC);
        return fd;
    }
    if (errno != ENOPROTOOPT)
        return -1;
    return (int)syscall(SYS_pidfd_open, pid, 0);
}

int shm_ptrace_scope(void)
{
    char buf[16];

    return read_text("/proc/sys/kernel/yama/ptrace_scope", buf, sizeof(buf)) ? atoi(buf) : -1;
}
