/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Does a metadata plugin keep the promises of metadata_plugin.h? Loads one .so as the core
 * would and runs every test on one service; prints TAP. With --server, a program started as
 * child minds the real server (its first words are the URI and settings) and stops, empties or
 * freezes it when told. Knows no plugin by name and nothing of the core.
 *
 *   metadata_conformance PLUGIN.so URI [--config KEY=VALUE]... [--absent=unreach]
 *   metadata_conformance PLUGIN.so URI [--config KEY=VALUE]... --try get|list|del|put KEY
 * [BYTES] metadata_conformance PLUGIN.so --server PROGRAM ARG... (must come last)
 */
#include "metadata_conformance.h"

#include <dlfcn.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

const struct ferry_metadata_ops *ops;
struct ferry_store *store;
uint32_t caps;
uint64_t max_value;
ferry_status absent = FERRY_ENOENT;

static const char *self, *plugin_path, *uri;
static struct ferry_kv settings[32];
static size_t n_settings;
static FILE *to_server, *from_server;
static pid_t server_pid;
static _Thread_local char words[512];

__attribute__((format(printf, 5, 6))) static void host_log(const struct ferry_host *host,
                                                           enum ferry_log_level level,
                                                           const char *file, int line,
                                                           const char *fmt, ...)
{
    va_list ap;

    if (level > FERRY_LOG_WARN)
        return;
    va_start(ap, fmt);
    vsnprintf(words, sizeof(words), fmt, ap);
    va_end(ap);
    if (getenv("CONFORMANCE_LOG"))
        printf("# log %s\n", words);
}

static int log_level = FERRY_LOG_DEBUG;
static struct ferry_host host = {
    .size = sizeof(host), .abi_major = 1, .log_level = &log_level, .log = host_log};

const char *last_words(void)
{
    return words;
}

uint64_t now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

void sleep_ms(unsigned ms)
{
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};

    nanosleep(&t, NULL);
}

const char *key_of(const char *name)
{
    static _Thread_local char keys[8][256];
    static _Thread_local unsigned turn;
    char *key = keys[turn++ % 8];

    snprintf(key, sizeof(keys[0]), "conformance/%d/%s", (int)getpid(), name);
    return key;
}

static ferry_status append(struct ferry_buf_sink *sink, const void *data, size_t len)
{
    struct bytes *bytes = (struct bytes *)sink;
    char *grown = realloc(bytes->data, bytes->len + len + 1);

    if (!grown)
        return FERRY_ENOMEM;
    bytes->data = grown;
    if (len)
        memcpy(grown + bytes->len, data, len);
    bytes->len += len;
    return FERRY_OK;
}

void bytes_init(struct bytes *bytes)
{
    *bytes = (struct bytes){.sink = {append}};
}

void bytes_free(struct bytes *bytes)
{
    free(bytes->data);
    bytes_init(bytes);
}

ferry_status put(const char *key, const void *val, size_t len, uint32_t ttl_ms,
                 uint64_t expect_rev, uint64_t *rev_out)
{
    struct ferry_store_put args = {.size = sizeof(args),
                                   .ttl_ms = ttl_ms,
                                   .expect_rev = expect_rev,
                                   .key = key,
                                   .val = val,
                                   .val_len = len};

    return ops->put(store, &args, 10000, rev_out);
}

int holds(const char *key, const void *want, size_t len)
{
    struct bytes bytes;
    int same;

    bytes_init(&bytes);
    same = ops->get(store, key, 10000, &bytes.sink, NULL) == FERRY_OK && bytes.len == len &&
           (!len || !memcmp(bytes.data, want, len));
    bytes_free(&bytes);
    return same;
}

ferry_status get_status(struct ferry_store *from, const char *key, uint32_t timeout_ms)
{
    struct bytes bytes;
    ferry_status status;

    bytes_init(&bytes);
    status = ops->get(from, key, timeout_ms, &bytes.sink, NULL);
    if (status && bytes.len) {
        printf("# get failed and appended %zu bytes all the same\n", bytes.len);
        status = FERRY_EINTERNAL;
    }
    bytes_free(&bytes);
    return status;
}

int becomes(struct ferry_store *from, const char *key, ferry_status status, uint32_t within_ms)
{
    uint64_t end = now_ms() + within_ms;

    while (get_status(from, key, 1000) != status) {
        if (now_ms() > end)
            return 0;
        sleep_ms(50);
    }
    return 1;
}

ferry_status open_store(struct ferry_store **store_out)
{
    const struct ferry_kvs config = {settings, n_settings};

    return ops->open(&host, uri, &config, store_out);
}

int have_server(void)
{
    return to_server != NULL;
}

int server(const char *command)
{
    char line[256];

    if (!to_server)
        return 0;
    fprintf(to_server, "%s\n", command);
    fflush(to_server);
    return fgets(line, sizeof(line), from_server) && !strcmp(line, "ok\n");
}

/* "key=value"; kept for the life of the process. */
static void add_setting(char *text)
{
    char *eq = strchr(text, '=');

    if (!eq || n_settings == sizeof(settings) / sizeof(settings[0])) {
        fprintf(stderr, "%s: not KEY=VALUE, or too many of them\n", text);
        exit(2);
    }
    *eq = '\0';
    settings[n_settings++] = (struct ferry_kv){.key = text,
                                               .val = eq + 1,
                                               .val_len = (uint32_t)strlen(eq + 1),
                                               .flags = FERRY_KV_TEXT};
}

static pid_t start_child(char **argv, FILE **to_out, FILE **from_out)
{
    int in[2], out[2];
    pid_t pid;

    if (pipe(in) || pipe(out))
        return -1;
    pid = fork();
    if (pid == 0) {
        dup2(in[0], 0);
        dup2(out[1], 1);
        close(in[0]);
        close(in[1]);
        close(out[0]);
        close(out[1]);
        execvp(argv[0], argv);
        _exit(127);
    }
    close(in[0]);
    close(out[1]);
    *to_out = fdopen(in[1], "w");
    *from_out = fdopen(out[0], "r");
    return pid;
}

/* "uri URI", any number of "config KEY=VALUE", "ready". */
static int start_server(char **argv)
{
    char line[1024];

    server_pid = start_child(argv, &to_server, &from_server);
    while (server_pid > 0 && fgets(line, sizeof(line), from_server)) {
        line[strcspn(line, "\n")] = '\0';
        if (!strncmp(line, "uri ", 4))
            uri = strdup(line + 4);
        else if (!strncmp(line, "config ", 7))
            add_setting(strdup(line + 7));
        else if (!strcmp(line, "ready"))
            return 1;
        else
            fprintf(stderr, "server: %s\n", line);
    }
    return 0;
}

static FILE *holder_in, *holder_out;

int holder_start(const char *key, uint32_t ttl_ms)
{
    static char *argv[80];
    static char texts[40][512];
    size_t n = 0;
    char line[64];
    pid_t pid;

    argv[n++] = (char *)self;
    argv[n++] = (char *)plugin_path;
    argv[n++] = (char *)uri;
    for (size_t i = 0; i < n_settings; i++) {
        snprintf(texts[i], sizeof(texts[i]), "%s=%s", settings[i].key,
                 (const char *)settings[i].val);
        argv[n++] = (char *)"--config";
        argv[n++] = texts[i];
    }
    snprintf(texts[39], sizeof(texts[39]), "%u", ttl_ms);
    argv[n++] = (char *)"--hold";
    argv[n++] = (char *)key;
    argv[n++] = texts[39];
    argv[n] = NULL;
    pid = start_child(argv, &holder_in, &holder_out);
    if (pid > 0 && (!fgets(line, sizeof(line), holder_out) || strcmp(line, "held\n") != 0)) {
        holder_kill(pid);
        pid = -1;
    }
    return pid;
}

void holder_kill(int pid)
{
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    fclose(holder_in);
    fclose(holder_out);
}

static int hold(const char *key, const char *ttl_ms)
{
    if (open_store(&store) ||
        put(key, "held", 4, (uint32_t)atoi(ttl_ms), FERRY_REV_ANY, NULL) != FERRY_OK)
        return 1;
    puts("held");
    fflush(stdout);
    for (;;)
        pause();
}

static ferry_status no_listing(struct ferry_kv_sink *sink, const struct ferry_kv *kv)
{
    return FERRY_OK;
}

/* One call and what comes of it: its status, its milliseconds, the plugin's words. */
static int try_one(const char *call, const char *key, size_t len)
{
    struct ferry_kv_sink sink = {no_listing};
    ferry_status status = open_store(&store);
    uint64_t start = now_ms();
    char *val;

    if (!status) {
        val = calloc(1, len + 1);
        status = !strcmp(call, "put")    ? put(key, val, len, 0, FERRY_REV_ANY, NULL)
                 : !strcmp(call, "del")  ? ops->del(store, key, 0)
                 : !strcmp(call, "list") ? ops->list(store, key, 0, &sink)
                                         : get_status(store, key, 0);
        free(val);
        ops->close(store);
    }
    printf("%d %llu %s\n", status, (unsigned long long)(now_ms() - start), words);
    return 0;
}

static const struct ferry_metadata_ops *load(const char *path)
{
    void *so = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    const struct ferry_metadata_plugin *plugin;

    if (!so) {
        fprintf(stderr, "%s\n", dlerror());
        return NULL;
    }
    plugin = dlsym(so, FERRY_METADATA_SYMBOL);
    if (!plugin || plugin->hdr.magic != FERRY_PLUGIN_MAGIC ||
        plugin->hdr.abi_major != FERRY_METADATA_ABI_MAJOR ||
        plugin->ops->size < FERRY_METADATA_OPS_SIZE_1_0 || !plugin->schemes ||
        !plugin->schemes[0]) {
        fprintf(stderr, "%s: no metadata plugin of this ABI\n", path);
        return NULL;
    }
    return plugin->ops;
}

static int run(const struct test *tests, int *number)
{
    int failed = 0;

    for (; tests->name; tests++) {
        enum result result = FAILED;
        uint64_t start = now_ms();

        words[0] = '\0';
        if (open_store(&store) == FERRY_OK) {
            result = tests->run();
            ops->close(store);
        } else {
            printf("# open failed: %s\n", words);
        }
        printf("%s %d - %s (%llu ms)%s\n", result == FAILED ? "not ok" : "ok", ++*number,
               tests->name, (unsigned long long)(now_ms() - start),
               result == SKIPPED ? " # SKIP not what this store does" : "");
        fflush(stdout);
        failed += result == FAILED;
    }
    return failed;
}

int main(int argc, char **argv)
{
    struct ferry_store_caps found = {.size = sizeof(found)};
    const char *hold_key = NULL, *hold_ttl = NULL;
    int failed, number = 0;

    self = argv[0];
    plugin_path = argc > 1 ? argv[1] : "";
    ops = argc > 2 ? load(plugin_path) : NULL;
    if (!ops)
        return 2;
    for (int i = 2; i < argc; i++) {
        if (!strcmp(argv[i], "--server") && i + 1 < argc) {
            signal(SIGPIPE, SIG_IGN);
            if (!start_server(argv + i + 1))
                return 2;
            break;
        }
        if (!strcmp(argv[i], "--config") && i + 1 < argc) {
            add_setting(argv[++i]);
        } else if (!strcmp(argv[i], "--hold") && i + 2 < argc) {
            hold_key = argv[++i];
            hold_ttl = argv[++i];
        } else if (!strcmp(argv[i], "--try") && i + 2 < argc) {
            return try_one(argv[i + 1], argv[i + 2],
                           argc - i > 3 ? strtoull(argv[i + 3], NULL, 10) : 1);
        } else if (!strcmp(argv[i], "--absent=unreach")) {
            absent = FERRY_EUNREACH;
        } else {
            uri = argv[i];
        }
    }
    if (hold_key)
        return hold(hold_key, hold_ttl);
    if (open_store(&store) || ops->query(store, &found)) {
        printf("Bail out! open %s: %s\n", uri, words);
        return 1;
    }
    ops->close(store);
    caps = found.flags;
    max_value = found.max_value;
    printf("# %s: caps%s%s%s%s, values up to %llu bytes\n", uri,
           caps & FERRY_STORE_CAP_LEASE ? " lease" : "",
           caps & FERRY_STORE_CAP_CAS ? " cas" : "",
           caps & FERRY_STORE_CAP_WATCH ? " watch" : "",
           caps & FERRY_STORE_CAP_LIST ? " list" : "", (unsigned long long)max_value);
    failed = run(value_tests, &number);
    failed += run(change_tests, &number);
    failed += run(outage_tests, &number);
    printf("1..%d\n", number);
    if (to_server) {
        fclose(to_server);
        waitpid(server_pid, NULL, 0);
    }
    return failed ? 1 : 0;
}
