/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The socket where this user's other processes ask a node what it does: where it lies, who may
 * come in, asking and answering. What is told is the handler's.
 */
#include "local.h"

#include <dirent.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "error.h"
#include "ferry/ferry.h"
#include "util/json.h"

#define MAX_REQUEST 4096
#define BACKLOG     128
#define BUSY_TRIES  50 /* to connect, 10 ms apart, where so many wait already */
#define FOLDERS     2
#define SUFFIX      ".sock"

struct fy_local {
    fy_local_handler handler;
    void *arg;
    struct fy_control *control;
    char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
};

/* ---- where ---- */

/* The n-th folder where nodes of this user may be; the first one that can be had is used.
 * false: there is none of that number. */
static bool folder_at(int n, char *out, size_t room)
{
    const char *runtime = getenv("XDG_RUNTIME_DIR");

    if (n == 0)
        return runtime && runtime[0] == '/' &&
               (size_t)snprintf(out, room, "%s/ferry", runtime) < room;
    return (size_t)snprintf(out, room, "/tmp/ferry-%u", (unsigned)geteuid()) < room;
}

/* Somebody else may have made it first. */
static ferry_status check_folder(const char *folder)
{
    struct stat st;

    if (lstat(folder, &st))
        return fy_fail(FERRY_ENOENT, "%s: %s", folder, strerror(errno));
    if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 077))
        return fy_fail(FERRY_EACCESS, "%s is not a folder of ours alone (mode 0700)", folder);
    return FERRY_OK;
}

static ferry_status make_folder(char *out, size_t room)
{
    ferry_status status = FERRY_ENOENT;

    for (int n = 0; n < FOLDERS; n++) {
        if (!folder_at(n, out, room))
            continue;
        if (mkdir(out, 0700) && errno != EEXIST)
            status = fy_fail(FERRY_ENOENT, "%s: %s", out, strerror(errno));
        else
            status = check_folder(out);
        if (!status)
            return FERRY_OK;
    }
    return status;
}

static bool set_address(struct sockaddr_un *address, const char *path)
{
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(address->sun_path))
        return false;
    memcpy(address->sun_path, path, strlen(path));
    return true;
}

/* ---- answering ---- */

/* Bound and listening under another name first: whoever sees the socket can connect. */
static ferry_status listen_at(const char *folder, const char *id, char *path, size_t room,
                              int *fd_out)
{
    struct sockaddr_un address;
    char early[sizeof(address.sun_path)];
    int fd;

    if ((size_t)snprintf(early, sizeof(early), "%s/.%ld-%s", folder, (long)getpid(), id) >=
            sizeof(early) ||
        (size_t)snprintf(path, room, "%s/%ld-%s" SUFFIX, folder, (long)getpid(), id) >= room ||
        !set_address(&address, early))
        return fy_fail(FERRY_ERANGE, "%s: the path is too long for a socket", folder);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return fy_fail(FERRY_EDEVICE, "a socket: %s", strerror(errno));
    unlink(early);
    if (bind(fd, (struct sockaddr *)&address, sizeof(address)) || chmod(early, 0600) ||
        listen(fd, BACKLOG) || rename(early, path)) {
        ferry_status status = fy_fail(FERRY_EDEVICE, "%s: %s", path, strerror(errno));

        unlink(early);
        close(fd);
        return status;
    }
    *fd_out = fd;
    return FERRY_OK;
}

static ferry_status handle(void *arg, int type, const char *body, size_t len,
                           struct fy_buf *reply)
{
    struct fy_local *local = arg;
    struct fy_json json;
    struct fy_buf topic;
    ferry_status status;

    if (type != FY_CONTROL_CALL)
        return fy_fail(FERRY_ENOTSUP, "not a question");
    fy_buf_init(&topic, MAX_REQUEST);
    status = fy_json_read(body, len, &json);
    if (!status && json.type != FY_JSON_STRING)
        status = FERRY_EINVAL;
    if (!status)
        status = fy_json_string(&json, &topic);
    if (!status)
        status = local->handler(local->arg, topic.data ? topic.data : "", reply);
    fy_buf_fini(&topic);
    return status;
}

ferry_status fy_local_open(const char *id, fy_local_handler handler, void *arg,
                           const struct fy_log *log, struct fy_local **local_out)
{
    struct fy_local *local = calloc(1, sizeof(*local));
    char folder[sizeof(local->path)];
    ferry_status status = FERRY_ENOMEM;
    int fd = -1;

    if (!local)
        return fy_fail(FERRY_ENOMEM, "no memory");
    local->handler = handler;
    local->arg = arg;
    status = make_folder(folder, sizeof(folder));
    if (!status)
        status = listen_at(folder, id, local->path, sizeof(local->path), &fd);
    if (!status) {
        status = fy_control_open(fd, MAX_REQUEST, handle, local, log, &local->control);
        if (status) {
            unlink(local->path);
            close(fd);
        }
    }
    if (status) {
        free(local);
        return status;
    }
    *local_out = local;
    return FERRY_OK;
}

void fy_local_close(struct fy_local *local)
{
    if (!local)
        return;
    unlink(local->path); /* before, so that nobody finds a node that does not answer */
    fy_control_close(local->control);
    free(local);
}

/* ---- asking ---- */

static int connect_to(int fd, const struct sockaddr_un *address)
{
    const struct timespec pause = {.tv_nsec = 10000000};
    int rc = -1;

    for (int i = 0; i < BUSY_TRIES && rc; i++) {
        rc = connect(fd, (const struct sockaddr *)address, sizeof(*address));
        if (rc && errno != EAGAIN && errno != EINTR)
            return rc;
        if (rc)
            nanosleep(&pause, NULL);
    }
    return rc;
}

/* Connected to a process of ours. FERRY_ENOENT: nobody listens there any more. */
static ferry_status reach(const char *path, int *fd_out)
{
    struct sockaddr_un address;
    struct ucred who = {0};
    socklen_t len = sizeof(who);
    ferry_status status = FERRY_OK;
    int fd;

    if (!set_address(&address, path))
        return fy_fail(FERRY_ERANGE, "%s: the path is too long for a socket", path);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return fy_fail(FERRY_EDEVICE, "a socket: %s", strerror(errno));
    if (connect_to(fd, &address))
        status =
            fy_fail(errno == ECONNREFUSED || errno == ENOENT ? FERRY_ENOENT : FERRY_EUNREACH,
                    "%s: %s", path, strerror(errno));
    else if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &len) || who.uid != geteuid())
        status = fy_fail(FERRY_EACCESS, "%s: not a process of this user", path);
    if (status) {
        close(fd);
        return status;
    }
    *fd_out = fd;
    return FERRY_OK;
}

static ferry_status list_folder(const char *folder, DIR *dir,
                                ferry_status (*found)(void *arg, const char *path), void *arg)
{
    const struct dirent *entry;
    ferry_status status = FERRY_OK;

    while (!status && (entry = readdir(dir))) {
        size_t len = strlen(entry->d_name);
        char path[600];
        int fd;

        if (entry->d_name[0] == '.' || len <= strlen(SUFFIX) ||
            strcmp(entry->d_name + len - strlen(SUFFIX), SUFFIX) != 0)
            continue;
        snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name);
        status = reach(path, &fd);
        if (!status) {
            close(fd);
            status = found(arg, path);
        } else {
            if (status == FERRY_ENOENT)
                unlink(path); /* its node was killed */
            status = FERRY_OK;
        }
    }
    return status;
}

ferry_status fy_local_list(ferry_status (*found)(void *arg, const char *path), void *arg)
{
    char folder[sizeof(((struct fy_local *)0)->path)];
    ferry_status status = FERRY_OK;

    for (int n = 0; n < FOLDERS && !status; n++) {
        DIR *dir;

        if (!folder_at(n, folder, sizeof(folder)) || check_folder(folder))
            continue;
        dir = opendir(folder);
        if (!dir)
            continue;
        status = list_folder(folder, dir, found, arg);
        closedir(dir);
    }
    return status;
}

ferry_status fy_local_ask(const char *path, const char *topic, uint64_t deadline_ns,
                          struct fy_buf *reply)
{
    struct fy_buf body;
    ferry_status status;
    int fd;

    fy_buf_init(&body, MAX_REQUEST);
    status = fy_json_put_string(&body, topic, strlen(topic));
    if (!status)
        status = reach(path, &fd);
    if (!status) {
        status =
            fy_control_exchange(fd, FY_CONTROL_CALL, body.data, body.len, deadline_ns, reply);
        close(fd);
        if (status)
            fy_fail_in(status, "%s: ", path);
    }
    fy_buf_fini(&body);
    return status;
}
