/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Does a metadata plugin keep the promises of metadata_plugin.h? Loads one .so as the core
 * would and runs every point on one service, each in a process of its own. With --server, a
 * program started as child minds the real server (its first words are the URI and settings) and
 * stops, empties or freezes it when told. Knows no plugin by name and nothing of the core.
 *
 * Beside the options of cli.c:
 *   metadata_conformance PLUGIN.so URI [--config KEY=VALUE]... --try get|list|del|put KEY
 * [BYTES]
 */
#include "metadata_conformance.h"

#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cli.h"
#include "loader_trace.h"
#include "suite.h"

const struct ferry_metadata_ops *ops;
struct ferry_store *store;
uint32_t caps;
uint64_t max_value;
uint64_t suite_seed;
ferry_status absent = FERRY_ENOENT;

static const char *self, *plugin_path, *uri;
static struct ferry_kv settings[CLI_MAX_KEYS];
static size_t n_settings;
static FILE *to_server, *from_server;
static pid_t server_pid;
static _Thread_local char words[512];
static bool verbose;
static struct fc_shared *shared;
static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;

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
    if (shared) { /* threads come round to the same place */
        pthread_mutex_lock(&log_lock);
        snprintf(shared->log[atomic_fetch_add(&shared->log_at, 1) % FC_COUNT(shared->log)],
                 sizeof(shared->log[0]), "%.255s", words);
        pthread_mutex_unlock(&log_lock);
    }
    if (verbose)
        fprintf(stderr, "    [%s] (%s:%d)\n", words, file, line);
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
    return fc_now_ms();
}

void sleep_ms(unsigned ms)
{
    fc_sleep_ms(ms);
}

const char *status_name(ferry_status status)
{
    return fc_status(status);
}

void fail_with(const char *file, int line, const char *expected, const char *seen, ...)
{
    const char *base = strrchr(file, '/');
    int none = 0;
    va_list ap;
    size_t len;

    if (!atomic_compare_exchange_strong(&shared->ended, &none, -1))
        return;
    snprintf(shared->expected, sizeof(shared->expected), "%s", expected);
    va_start(ap, seen);
    vsnprintf(shared->seen, sizeof(shared->seen), seen, ap);
    va_end(ap);
    len = strlen(shared->seen);
    snprintf(shared->seen + len, sizeof(shared->seen) - len, " (%s:%d)", base ? base + 1 : file,
             line);
    atomic_store(&shared->ended, 1 + FC_FAIL);
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
        fail_with(__FILE__, __LINE__, "get to append nothing where it fails",
                  "%s and %zu bytes", fc_status(status), bytes.len);
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
    static char *argv[2 * CLI_MAX_KEYS + 8];
    static char texts[CLI_MAX_KEYS + 1][512];
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
    snprintf(texts[CLI_MAX_KEYS], sizeof(texts[0]), "%u", ttl_ms);
    argv[n++] = (char *)"--hold";
    argv[n++] = (char *)key;
    argv[n++] = texts[CLI_MAX_KEYS];
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

/* ---- the plugin, with the call that each process is in noted for who reports its end ------
 */

static const struct ferry_metadata_ops *raw;

#define STAGE(call)                                                                            \
    atomic_store_explicit(&shared->stage, call, memory_order_relaxed);                         \
    (void)0

static ferry_status staged_open(const struct ferry_host *h, const char *u,
                                const struct ferry_kvs *config, struct ferry_store **store_out)
{
    STAGE("open");
    ferry_status status = raw->open(h, u, config, store_out);
    STAGE(NULL);
    return status;
}

static void staged_close(struct ferry_store *s)
{
    STAGE("close");
    raw->close(s);
    STAGE(NULL);
}

static ferry_status staged_query(struct ferry_store *s, struct ferry_store_caps *c)
{
    STAGE("query");
    ferry_status status = raw->query(s, c);
    STAGE(NULL);
    return status;
}

static ferry_status staged_put(struct ferry_store *s, const struct ferry_store_put *args,
                               uint32_t timeout_ms, uint64_t *rev_out)
{
    STAGE("put");
    ferry_status status = raw->put(s, args, timeout_ms, rev_out);
    STAGE(NULL);
    return status;
}

static ferry_status staged_get(struct ferry_store *s, const char *key, uint32_t timeout_ms,
                               struct ferry_buf_sink *out, uint64_t *rev_out)
{
    STAGE("get");
    ferry_status status = raw->get(s, key, timeout_ms, out, rev_out);
    STAGE(NULL);
    return status;
}

static ferry_status staged_del(struct ferry_store *s, const char *key, uint32_t timeout_ms)
{
    STAGE("del");
    ferry_status status = raw->del(s, key, timeout_ms);
    STAGE(NULL);
    return status;
}

static ferry_status staged_list(struct ferry_store *s, const char *prefix, uint32_t timeout_ms,
                                struct ferry_kv_sink *out)
{
    STAGE("list");
    ferry_status status = raw->list(s, prefix, timeout_ms, out);
    STAGE(NULL);
    return status;
}

static ferry_status staged_watch(struct ferry_store *s, const char *prefix,
                                 void (*cb)(void *arg, const struct ferry_store_event *event),
                                 void *arg, uint64_t *watch_id_out)
{
    STAGE("watch");
    ferry_status status = raw->watch(s, prefix, cb, arg, watch_id_out);
    STAGE(NULL);
    return status;
}

static void staged_unwatch(struct ferry_store *s, uint64_t watch_id)
{
    STAGE("unwatch");
    raw->unwatch(s, watch_id);
    STAGE(NULL);
}

/* Any point may be the first to load it: all check it alike. */
static enum result load(void)
{
    static struct ferry_metadata_ops staged = {.size = sizeof(staged),
                                               .open = staged_open,
                                               .close = staged_close,
                                               .query = staged_query,
                                               .put = staged_put,
                                               .get = staged_get,
                                               .del = staged_del,
                                               .list = staged_list,
                                               .watch = staged_watch,
                                               .unwatch = staged_unwatch};
    const struct ferry_metadata_plugin *p;
    void *so;

    STAGE("loading");
    so = dlopen(plugin_path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    STAGE(NULL);
#define WANT(cond, expected, ...)                                                              \
    do {                                                                                       \
        if (!(cond)) {                                                                         \
            fail_with(__FILE__, __LINE__, expected, __VA_ARGS__);                              \
            return FAILED;                                                                     \
        }                                                                                      \
    } while (0)
    WANT(so, "a loadable file that needs no symbol of the core", "%s", dlerror());
    p = dlsym(so, FERRY_METADATA_SYMBOL);
    WANT(p, "the symbol " FERRY_METADATA_SYMBOL, "none");
    WANT(p->hdr.magic == FERRY_PLUGIN_MAGIC, "magic 0x31595246", "0x%08x", p->hdr.magic);
    WANT(p->hdr.abi_major == FERRY_METADATA_ABI_MAJOR, "ABI major 1", "%u.%u", p->hdr.abi_major,
         p->hdr.abi_minor);
    WANT(p->hdr.size >= sizeof(*p), "a descriptor of at least 56 bytes", "size %u",
         p->hdr.size);
    WANT(p->hdr.name && p->hdr.name[0] && strlen(p->hdr.name) < 32 &&
             strspn(p->hdr.name, "abcdefghijklmnopqrstuvwxyz0123456789_") ==
                 strlen(p->hdr.name),
         "a name of at most 31 of a-z 0-9 _", "\"%s\"", p->hdr.name ? p->hdr.name : "");
    WANT(p->hdr.version && p->hdr.version[0], "a version", "none");
    WANT(p->schemes && p->schemes[0], "at least one URL scheme", "none");
    WANT(p->ops, "a table", "none");
    WANT(p->ops->size >= FERRY_METADATA_OPS_SIZE_1_0, "a table that holds all of ABI 1.0",
         "%u of %zu bytes", p->ops->size, FERRY_METADATA_OPS_SIZE_1_0);
#define MEMBER(name) WANT(p->ops->name, "every mandatory member of the table", #name " is NULL")
    MEMBER(open);
    MEMBER(close);
    MEMBER(query);
    MEMBER(put);
    MEMBER(get);
    MEMBER(del);
    static struct ferry_metadata_ops copy;
    memcpy(&copy, p->ops, p->ops->size < sizeof(copy) ? p->ops->size : sizeof(copy));
    fy_trace_metadata(p->hdr.name, &copy, fc_status);
    raw = &copy;
    staged.list = raw->list ? staged_list : NULL;
    staged.watch = raw->watch && raw->unwatch ? staged_watch : NULL;
    ops = &staged;
    if (!uri) {
        static char default_uri[256];
        snprintf(default_uri, sizeof(default_uri), "%s://", p->schemes[0]);
        uri = default_uri;
    }
    return PASSED;
}

static enum result descriptor(void)
{
    static const struct ferry_kv unknown = {
        .key = "no_such_key", .val = "1", .val_len = 1, .flags = FERRY_KV_TEXT};
    static const struct ferry_kv core = {
        .key = "core.no_such_key", .val = "1", .val_len = 1, .flags = FERRY_KV_TEXT};
    struct ferry_kv keys[FC_COUNT(settings) + 1];
    const struct ferry_kvs config = {keys, n_settings + 1};
    struct ferry_store *other = NULL;

    memcpy(keys, settings, sizeof(settings));
    keys[n_settings] = unknown;
    CHECK_STATUS(ops->open(&host, uri, &config, &other), FERRY_EINVAL);
    WANT(!other, "outputs to be written on success only",
         "*store_out written by open that failed");
    CHECK(last_words()[0] != '\0');
    keys[n_settings] = core;
    CHECK_STATUS(ops->open(&host, uri, &config, &other), FERRY_OK);
    ops->close(other);
    return PASSED;
}

static const struct test load_test = {
    0, "load", "a descriptor that the core can check; open takes core. keys and no unknown one",
    descriptor};

static const struct test *test_of(int number)
{
    static const struct test *const tables[] = {value_tests, change_tests, outage_tests};

    if (number == 0)
        return &load_test;
    for (size_t i = 0; i < FC_COUNT(tables); i++)
        for (const struct test *t = tables[i]; t->name; t++)
            if (t->number == number)
                return t;
    return NULL;
}

static const char *name_of(int number, const char **about_out)
{
    const struct test *test = test_of(number);

    if (test && about_out)
        *about_out = test->about;
    return test ? test->name : NULL;
}

static void tell(enum fc_result result, const char *seen)
{
    int none = 0;

    if (!atomic_compare_exchange_strong(&shared->ended, &none, -1))
        return;
    snprintf(shared->seen, sizeof(shared->seen), "%s", seen);
    atomic_store(&shared->ended, 1 + (int)result);
}

/* In the point's process. */
static void run_test(void *arg)
{
    const struct test *test = arg;
    struct ferry_store_caps found = {.size = sizeof(found)};
    enum result result = load();
    ferry_status status;

    if (result == PASSED) {
        status = open_store(&store);
        if (!status)
            status = ops->query(store, &found);
        if (status)
            fail_with(__FILE__, __LINE__, "open and query to give FERRY_OK", "%s: %s",
                      fc_status(status), words);
        result = status ? FAILED : PASSED;
    }
    if (result == PASSED) {
        caps = found.flags;
        max_value = found.max_value;
        words[0] = '\0';
        result = test->run();
        ops->close(store);
    }
    if (result == FAILED) {
        tell(FC_FAIL, "a check that failed");
        _exit(9);
    }
    if (result == SKIPPED) {
        tell(FC_NOT_APPLICABLE, to_server ? "caps deny it, or its server cannot do so"
                                          : "caps deny it, or it needs --server");
        _exit(9);
    }
}

/* What a point left behind that died or hung: a server stopped, an answer unread. */
static int renew_server(const struct cli *cli)
{
    if (!to_server)
        return 1;
    fclose(to_server);
    fclose(from_server);
    waitpid(server_pid, NULL, 0);
    n_settings = cli->n_config;
    return start_server(cli->server);
}

static int run_points(struct cli *cli, const bool *chosen)
{
    for (int i = 0; i < N_TESTS; i++) {
        const struct test *test = test_of(i);
        const unsigned limit_s = cli->limit_s ? cli->limit_s : 120;
        struct fc_outcome outcome;

        if (chosen && !chosen[i])
            continue;
        if (!fc_run_process(shared, i, test->name, test->about, FC_SLOW(limit_s * 1000u),
                            run_test, (void *)(uintptr_t)test, &outcome)) {
            perror("metadata_conformance: the suite itself");
            return 0;
        }
        cli_report(cli, &outcome);
        if (outcome.result == FC_FAIL && !renew_server(cli)) {
            fprintf(stderr, "metadata_conformance: the server does not start again\n");
            return 0;
        }
    }
    return 1;
}

/* The points that stress repeats: values, threads, leases, holders that are killed. */
static const int stress_points[] = {3, 5, 7, 9, 11, 12, 13, 15, 16};

static int stress(struct cli *cli, char *tail, size_t room)
{
    const uint64_t end = now_ms() + cli->stress_s * 1000u;
    bool chosen[CLI_MAX_POINTS] = {0};
    unsigned rounds = 0;

    for (size_t i = 0; i < FC_COUNT(stress_points); i++)
        chosen[stress_points[i]] = !cli->some || cli->only[stress_points[i]];
    for (; now_ms() < end; rounds++) {
        suite_seed = cli->seed + rounds;
        printf("== seed %llu\n", (unsigned long long)suite_seed);
        if (!run_points(cli, chosen))
            return 0;
    }
    snprintf(tail, room, " to %llu, %u rounds", (unsigned long long)suite_seed, rounds);
    return 1;
}

/* --hold KEY TTL and --try CALL KEY [BYTES] end the command line: this program's own uses. */
static int special(int argc, char **argv)
{
    for (int i = 3; i + 2 < argc; i++) {
        bool is_try = !strcmp(argv[i], "--try");

        if (!is_try && strcmp(argv[i], "--hold") != 0)
            continue;
        plugin_path = argv[1];
        uri = argv[2];
        for (int k = 3; k + 1 < i; k += 2)
            add_setting(argv[k + 1]);
        if (load() != PASSED) {
            fprintf(stderr, "%s: %s\n", shared->expected, shared->seen);
            return CLI_USAGE;
        }
        return is_try ? try_one(argv[i + 1], argv[i + 2],
                                argc - i > 3 ? strtoull(argv[i + 3], NULL, 10) : 1)
                      : hold(argv[i + 1], argv[i + 2]);
    }
    return -1;
}

int main(int argc, char **argv)
{
    struct cli cli = {.kind = "metadata", .name_of = name_of, .n_points = N_TESTS};
    char tail[600] = "";
    int status, ok;

    self = argv[0];
    shared = fc_shared_new();
    if (!shared)
        return CLI_USAGE;
    status = special(argc, argv);
    if (status < 0)
        status = cli_parse(&cli, argc, argv);
    if (status >= 0)
        return status;
    plugin_path = cli.plugin;
    uri = cli.uri;
    verbose = cli.verbose;
    suite_seed = cli.seed;
    absent = cli.absent_unreach ? FERRY_EUNREACH : FERRY_ENOENT;
    memcpy(settings, cli.config, sizeof(settings));
    n_settings = cli.n_config;
    if (cli.perf) {
        fprintf(stderr, "metadata_conformance: --perf is for transports\n");
        return CLI_USAGE;
    }
    if (cli.server) {
        signal(SIGPIPE, SIG_IGN);
        if (!start_server(cli.server))
            return CLI_USAGE;
    }
    snprintf(tail, sizeof(tail), "%s%s", uri ? "; " : "", uri ? uri : "");
    ok = cli.stress_s ? stress(&cli, tail, sizeof(tail))
                      : run_points(&cli, cli.some ? cli.only : NULL);
    if (to_server) {
        fclose(to_server);
        waitpid(server_pid, NULL, 0);
    }
    return ok ? cli_end(&cli, tail) : CLI_USAGE;
}
