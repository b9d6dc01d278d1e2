/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The socket where this user's other processes ask a node: found, answered, and shut to others.
 */
#include "engine_pair.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <pwd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine.h"
#include "ferry/admin.h"
#include "local.h"
#include "util/clock.h"

static char folder[64], runtime[48];

static int set_up(void **state)
{
    snprintf(runtime, sizeof(runtime), "/tmp/ferry-test-XXXXXX");
    if (!mkdtemp(runtime))
        return -1;
    snprintf(folder, sizeof(folder), "%s/ferry", runtime);
    return setenv("XDG_RUNTIME_DIR", runtime, 1);
}

static int tear_down(void **state)
{
    rmdir(folder);
    return rmdir(runtime);
}

/* The node of that name in the list; NULL = it is not there. */
static cJSON *find(const char *name)
{
    char *text;
    cJSON *list, *node, *found = NULL;

    assert_ok(ferry_nodes(5000, &text));
    list = cJSON_Parse(text);
    ferry_string_free(text);
    cJSON_ArrayForEach(node, list)
    {
        if (!strcmp(cJSON_GetObjectItem(node, "name")->valuestring, name))
            found = cJSON_Duplicate(node, 1);
    }
    cJSON_Delete(list);
    return found;
}

static void nodes_are_found_and_asked(void **state)
{
    struct pair pair;
    char pid[24], name[64], *text;
    cJSON *node, *json;

    pair_open(&pair, "tcp", NULL);
    node = find(ferry_engine_name(pair.a));
    assert_non_null(node);
    assert_int_equal(cJSON_GetObjectItem(node, "pid")->valueint, getpid());
    cJSON_Delete(node);
    assert_ok(ferry_node_describe(ferry_engine_name(pair.a), "links", 5000, &text));
    json = cJSON_Parse(text);
    assert_string_equal(cJSON_GetObjectItem(cJSON_GetArrayItem(json, 0), "peer")->valuestring,
                        ferry_engine_name(pair.b));
    cJSON_Delete(json);
    ferry_string_free(text);
    snprintf(pid, sizeof(pid), "%d", (int)getpid());
    assert_int_equal(ferry_node_describe(pid, "links", 5000, &text), FERRY_EEXIST);
    assert_non_null(strstr(ferry_error(), ferry_engine_name(pair.b)));
    assert_int_equal(ferry_node_describe("nobody:1", "links", 5000, &text), FERRY_ENOENT);
    assert_non_null(strstr(ferry_error(), ferry_engine_name(pair.a)));
    assert_int_equal(ferry_node_describe(ferry_engine_name(pair.a), "weather", 5000, &text),
                     FERRY_EINVAL);
    snprintf(name, sizeof(name), "%s", ferry_engine_name(pair.a));
    pair_close(&pair);
    assert_null(find(name));
}

static void it_can_be_turned_off(void **state)
{
    struct ferry_engine *engine = pair_engine("a", "tcp", "{\"status_socket\": false}");

    assert_null(find(ferry_engine_name(engine)));
    ferry_engine_close(engine, 0);
}

static void what_a_killed_node_left_is_removed(void **state)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    mkdir(folder, 0700);
    snprintf(address.sun_path, sizeof(address.sun_path), "%s/1-dead.sock", folder);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    close(fd);
    assert_null(find("x"));
    assert_int_equal(access(address.sun_path, F_OK), -1);
}

static void a_folder_of_somebody_else_is_not_used(void **state)
{
    struct ferry_engine *engine;
    cJSON *node;

    mkdir(folder, 0700);
    chmod(folder, 0777);
    engine = pair_engine("a", "tcp", NULL);
    node = find(ferry_engine_name(engine)); /* in the other folder, if at all */
    if (node)
        assert_null(strstr(cJSON_GetObjectItem(node, "socket")->valuestring, folder));
    cJSON_Delete(node);
    assert_int_equal(rmdir(folder), 0);
    ferry_engine_close(engine, 0);
}

/* Whether one who connects is told anything. */
static int is_answered(const char *path, uid_t uid)
{
    struct fy_buf reply;
    ferry_status status;
    pid_t child = fork();
    int ended;

    if (child == 0) {
        if (uid && setuid(uid))
            _exit(3);
        if (uid) { /* fy_local_ask looks at the other end as well, so not by that */
            struct sockaddr_un address = {.sun_family = AF_UNIX};
            int fd = socket(AF_UNIX, SOCK_STREAM, 0);
            char byte;

            snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
            if (connect(fd, (struct sockaddr *)&address, sizeof(address)))
                _exit(3);
            if (send(fd, "\x07\0\0\0\0\0\0\0\x46\"node\"\n", 16, MSG_NOSIGNAL) < 0)
                _exit(1);
            _exit(recv(fd, &byte, 1, 0) == 1 ? 0 : 1);
        }
        fy_buf_init(&reply, 0);
        status = fy_local_ask(path, "node", fy_now_ns() + 5 * FY_NS_PER_S, &reply);
        _exit(status ? 1 : 0);
    }
    waitpid(child, &ended, 0);
    return WIFEXITED(ended) ? WEXITSTATUS(ended) : -1;
}

static void other_users_are_turned_away(void **state)
{
    struct ferry_engine *engine = pair_engine("a", "tcp", NULL);
    cJSON *node = find(ferry_engine_name(engine));
    const char *path = cJSON_GetObjectItem(node, "socket")->valuestring;
    struct stat st;

    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 077, 0);
    assert_int_equal(stat(folder, &st), 0);
    assert_int_equal(st.st_mode & 077, 0);
    assert_int_equal(is_answered(path, 0), 0);
    if (geteuid() == 0) {
        assert_int_equal(is_answered(path, 65534), 3); /* the folder is shut */
        chmod(runtime, 0755);
        chmod(folder, 0755);
        chmod(path, 0666);
        assert_int_equal(is_answered(path, 65534), 1); /* and the socket as well */
        chmod(folder, 0700);
    } else {
        print_message("not run: another user: only root can become one\n");
    }
    cJSON_Delete(node);
    ferry_engine_close(engine, 0);
}

static void silence_and_rubbish_do_no_harm(void **state)
{
    struct ferry_engine *engine = pair_engine("a", "tcp", NULL);
    cJSON *node = find(ferry_engine_name(engine));
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fds[40];
    char *text;

    snprintf(address.sun_path, sizeof(address.sun_path), "%s",
             cJSON_GetObjectItem(node, "socket")->valuestring);
    for (int i = 0; i < 40; i++) {
        fds[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_int_equal(connect(fds[i], (struct sockaddr *)&address, sizeof(address)), 0);
        if (i % 2)
            assert_int_equal(send(fds[i], "\xff\xff\xff\xff\xff\xff\xff\xff zzz", 12, 0), 12);
    }
    assert_ok(ferry_node_describe(ferry_engine_name(engine), "statistics", 5000, &text));
    assert_non_null(strstr(text, "\"rails\""));
    ferry_string_free(text);
    for (int i = 0; i < 40; i++)
        close(fds[i]);
    cJSON_Delete(node);
    ferry_engine_close(engine, 0);
}

/* A process forked from ours has copies of all sockets: their end here must not depend on it.
 */
static void a_fork_does_not_keep_connections(void **state)
{
    struct ferry_engine *engine = pair_engine("a", "tcp", NULL);
    cJSON *node = find(ferry_engine_name(engine));
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    char *text;
    pid_t child;

    snprintf(address.sun_path, sizeof(address.sun_path), "%s",
             cJSON_GetObjectItem(node, "socket")->valuestring);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    usleep(50000); /* it is accepted by then */
    child = fork();
    if (child == 0) {
        close(fd);
        usleep(400000);
        _exit(0);
    }
    usleep(50000);
    close(fd);
    usleep(100000);
    for (int i = 0; i < 20; i++) {
        assert_ok(ferry_node_describe(ferry_engine_name(engine), "links", 5000, &text));
        ferry_string_free(text);
    }
    waitpid(child, NULL, 0);
    cJSON_Delete(node);
    ferry_engine_close(engine, 0);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nodes_are_found_and_asked),
        cmocka_unit_test(it_can_be_turned_off),
        cmocka_unit_test(what_a_killed_node_left_is_removed),
        cmocka_unit_test(a_folder_of_somebody_else_is_not_used),
        cmocka_unit_test(other_users_are_turned_away),
        cmocka_unit_test(silence_and_rubbish_do_no_harm),
        cmocka_unit_test(a_fork_does_not_keep_connections),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
