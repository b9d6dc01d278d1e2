/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A node that does as it is told, for the end-to-end tests: commands in, one JSON line each
 * out, over the Unix socket that the first argument names, else stdin and stdout. It uses
 * nothing but ferry.h.
 *
 *   TAG [&] COMMAND KEY=VALUE ...     ("&": on a thread of its own, the answer comes when it
 * may)
 *   {"tag":TAG,"status":N,"error":"...","ms":T, ...}
 *
 * Numbers may be hexadecimal. `e` is the number of an engine, 0 if it is not given.
 */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "ferry/ferry.h"

#define MAX_ENGINES 1024
#define MAX_ARGS    24

struct command {
    char *line;
    const char *verb;
    char *arg[MAX_ARGS];
    int n_args;
    unsigned long tag;
    struct ferry_engine *e;
    FILE *out; /* members of the answer */
    ferry_status status;
    double ms; /* what the call itself took */
};

static struct ferry_engine *engines[MAX_ENGINES];
static FILE *answers;
static pthread_mutex_t answers_lock = PTHREAD_MUTEX_INITIALIZER;

static double now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

/* ---- arguments and answers
 * --------------------------------------------------------------------------- */

static const char *text(const struct command *c, const char *key)
{
    size_t n = strlen(key);

    for (int i = 0; i < c->n_args; i++) {
        if (!strncmp(c->arg[i], key, n) && c->arg[i][n] == '=')
            return c->arg[i] + n + 1;
    }
    return NULL;
}

static uint64_t number(const struct command *c, const char *key, uint64_t otherwise)
{
    const char *value = text(c, key);

    return value ? strtoull(value, NULL, 0) : otherwise;
}

static void *address(const struct command *c, const char *key)
{
    return (void *)(uintptr_t)number(c, key, 0); // NOLINT(performance-no-int-to-ptr)
}

static void put_string(FILE *out, const char *name, const char *value)
{
    fprintf(out, ",\"%s\":\"", name);
    for (; *value; value++) {
        if (*value == '"' || *value == '\\')
            fputc('\\', out);
        if ((unsigned char)*value < 0x20)
            fprintf(out, "\\u%04x", (unsigned char)*value);
        else
            fputc(*value, out);
    }
    fputc('"', out);
}

static void put_number(FILE *out, const char *name, uint64_t value)
{
    fprintf(out, ",\"%s\":%" PRIu64, name, value);
}

static void put_batch_status(FILE *out, const struct ferry_batch_status *s)
{
    put_number(out, "total", s->total);
    put_number(out, "done", s->done);
    put_number(out, "failed", s->failed);
    put_number(out, "bytes", s->bytes);
    fprintf(out, ",\"first_error\":%d", s->first_error);
}

/* ---- content
 * ----------------------------------------------------------------------------------------- */

static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

/* The eight bytes at `at`, a multiple of 8, of the content of `seed`. */
static uint64_t word(uint64_t seed, uint64_t at)
{
    return mix(seed * 0x9e3779b97f4a7c15ull + at + 1);
}

static void fill(unsigned char *p, uint64_t len, uint64_t seed)
{
    for (uint64_t i = 0; i < len; i += 8) {
        uint64_t w = word(seed, i);

        memcpy(p + i, &w, len - i < 8 ? len - i : 8);
    }
}

/* The first byte that is not of that content; len if there is none. */
static uint64_t differs(const unsigned char *p, uint64_t len, uint64_t seed)
{
    for (uint64_t i = 0; i < len; i += 8) {
        uint64_t w = word(seed, i), n = len - i < 8 ? len - i : 8;

        if (memcmp(p + i, &w, n)) {
            while (p[i] == (unsigned char)w) {
                i++;
                w >>= 8;
            }
            return i;
        }
    }
    return len;
}

static uint64_t hash(const unsigned char *p, uint64_t len)
{
    uint64_t lane[4] = {1, 2, 3, 4}, tail[4] = {0}, w[4], at = 0;

    for (; len - at >= sizeof(w); at += sizeof(w)) {
        memcpy(w, p + at, sizeof(w));
        for (int k = 0; k < 4; k++) {
            lane[k] = (lane[k] ^ w[k]) * 0x9fb21c651e98df25ull;
            lane[k] ^= lane[k] >> 32;
        }
    }
    memcpy(tail, p + at, len - at);
    for (int k = 0; k < 4; k++)
        len = mix(len ^ lane[k]) ^ mix(tail[k] + (uint64_t)k);
    return len;
}

/* ---- engines
 * ----------------------------------------------------------------------------------------- */

static void log_line(void *arg, int level, const char *message)
{
    fprintf(stderr, "%.3f [%d] engine %u: %s\n", now_ms() / 1e3, level,
            (unsigned)(uintptr_t)arg, message);
}

static void do_open(struct command *c)
{
    uint64_t at = number(c, "e", 0);
    struct ferry_options options = {
        .size = sizeof(options),
        .log_level = (int32_t)number(c, "log", 2),
        .name = text(c, "name"),
        .bind = text(c, "bind"),
        .metadata_server = text(c, "metadata"),
        .protocol = text(c, "protocol"),
        .device_name = text(c, "devices"),
        .config_json = text(c, "config"),
        .log = log_line,
        .log_arg = (void *)(uintptr_t)at, // NOLINT(performance-no-int-to-ptr)
    };

    c->status = ferry_engine_open(&options, &engines[at]);
    if (!c->status)
        put_string(c->out, "name", ferry_engine_name(engines[at]));
}

static void do_close(struct command *c)
{
    uint64_t at = number(c, "e", 0);

    engines[at] = NULL;
    ferry_engine_close(c->e, (uint32_t)number(c, "timeout", 0));
}

/* ---- memory
 * ------------------------------------------------------------------------------------------ */

static void do_map(struct command *c)
{
    void *at = address(c, "at");
    void *p = mmap(at, number(c, "len", 0), PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);

    c->status = p == at ? FERRY_OK : FERRY_ENOMEM;
}

static void do_register(struct command *c)
{
    uint64_t n = number(c, "n", 1), len = number(c, "len", 0);
    uint64_t at = number(c, "at", 0), stride = number(c, "stride", len);
    struct ferry_buffer *buffers = calloc(n, sizeof(*buffers));

    for (uint64_t i = 0; i < n; i++) {
        buffers[i].addr = (void *)(uintptr_t)(at + i * stride); // NOLINT
        buffers[i].len = len;
        buffers[i].access =
            (uint32_t)number(c, "access", FERRY_REMOTE_READ | FERRY_REMOTE_WRITE);
        buffers[i].location = text(c, "location");
    }
    c->status = ferry_memory_register(c->e, buffers, n);
    free(buffers);
}

static void do_unregister(struct command *c)
{
    void *at = address(c, "at");

    c->status = ferry_memory_unregister(c->e, &at, 1);
}

static void do_alloc(struct command *c)
{
    void *at;

    c->status =
        ferry_memory_alloc(c->e, number(c, "len", 0), (uint32_t)number(c, "access", 6), &at);
    if (!c->status)
        put_number(c->out, "at", (uintptr_t)at);
}

static void do_release(struct command *c)
{
    ferry_memory_free(c->e, address(c, "at"));
}

static void do_fill(struct command *c)
{
    fill(address(c, "at"), number(c, "len", 0), number(c, "seed", 0));
}

static void do_check(struct command *c)
{
    uint64_t len = number(c, "len", 0);

    put_number(c->out, "same", differs(address(c, "at"), len, number(c, "seed", 0)));
}

static void do_hash(struct command *c)
{
    fprintf(c->out, ",\"hash\":\"%016" PRIx64 "\"",
            hash(address(c, "at"), number(c, "len", 0)));
}

static void do_peek(struct command *c)
{
    const unsigned char *p = address(c, "at");

    fputs(",\"hex\":\"", c->out);
    for (uint64_t i = 0, n = number(c, "len", 8); i < n; i++)
        fprintf(c->out, "%02x", p[i]);
    fputc('"', c->out);
}

/* ---- segments
 * ---------------------------------------------------------------------------------------- */

static void do_segment(struct command *c)
{
    ferry_segment segment;

    c->status = ferry_segment_open(c->e, text(c, "name"), (uint32_t)number(c, "timeout", 5000),
                                   &segment);
    if (!c->status)
        put_number(c->out, "segment", segment);
}

static void do_refresh(struct command *c)
{
    c->status = ferry_segment_refresh(c->e, number(c, "segment", 0),
                                      (uint32_t)number(c, "timeout", 5000));
}

static void do_probe(struct command *c)
{
    c->status = ferry_segment_probe(c->e, number(c, "segment", 0),
                                    (uint32_t)number(c, "timeout", 5000));
}

static void do_forget(struct command *c)
{
    ferry_segment_close(c->e, number(c, "segment", 0));
}

static void do_buffers(struct command *c)
{
    struct ferry_buffer buffers[16];
    size_t n;

    c->status = ferry_segment_buffers(c->e, number(c, "segment", 0), buffers, 16, &n);
    if (c->status)
        return;
    put_number(c->out, "n", n);
    fputs(",\"buffers\":[", c->out);
    for (size_t i = 0; i < n && i < 16; i++)
        fprintf(c->out, "%s[%" PRIuPTR ",%" PRIu64 ",%u]", i ? "," : "",
                (uintptr_t)buffers[i].addr, buffers[i].len, buffers[i].access);
    fputc(']', c->out);
}

/* ---- transfers
 * --------------------------------------------------------------------------------------- */

/* n requests of `len` bytes, `local_step` and `remote_step` apart, going round after `wrap`. */
static struct ferry_request *requests_of(const struct command *c, uint64_t *n_out)
{
    uint64_t n = number(c, "n", 1), len = number(c, "len", 0), wrap = number(c, "wrap", n);
    uint64_t local = number(c, "local", 0), remote = number(c, "remote", 0);
    uint64_t local_step = number(c, "local_step", len), remote_step;
    struct ferry_request *v = calloc(n, sizeof(*v));
    const char *op = text(c, "op");

    remote_step = number(c, "remote_step", len);
    for (uint64_t i = 0; i < n; i++) {
        v[i].local = (void *)(uintptr_t)(local + i % wrap * local_step); // NOLINT
        v[i].remote = remote + i % wrap * remote_step;
        v[i].len = len;
        v[i].segment = number(c, "segment", 0);
        v[i].op = op && !strcmp(op, "read") ? FERRY_READ : FERRY_WRITE;
    }
    *n_out = n;
    return v;
}

static struct ferry_submit attr_of(const struct command *c)
{
    struct ferry_submit attr = {
        .size = sizeof(attr),
        .timeout_ms = (uint32_t)number(c, "timeout", 0),
        .protocol = text(c, "protocol"),
        .notify_name = text(c, "notify"),
        .notify = text(c, "message"),
    };

    attr.notify_len = attr.notify ? strlen(attr.notify) : 0;
    return attr;
}

static void do_transfer(struct command *c)
{
    struct ferry_submit attr = attr_of(c);
    uint64_t n;
    struct ferry_request *v = requests_of(c, &n);
    size_t failed;
    double began = now_ms();

    c->status = ferry_transfer(c->e, v, n, &attr, &failed);
    c->ms = now_ms() - began;
    put_number(c->out, "failed_at", failed);
    free(v);
}

static void do_submit(struct command *c)
{
    struct ferry_submit attr = attr_of(c);
    ferry_batch batch;
    uint64_t n;
    struct ferry_request *v = requests_of(c, &n);
    double began = now_ms();

    c->status = ferry_submit(c->e, v, n, &attr, &batch);
    c->ms = now_ms() - began;
    if (!c->status)
        put_number(c->out, "batch", batch);
    free(v);
}

static void with_status(struct command *c, ferry_status status,
                        const struct ferry_batch_status *s)
{
    c->status = status;
    if (status == FERRY_OK || status == FERRY_EAGAIN) {
        put_batch_status(c->out, s);
        if (s->first_error)
            put_string(c->out, "cause", ferry_error());
    }
}

static void do_wait(struct command *c)
{
    struct ferry_batch_status s = {0};

    with_status(c,
                ferry_batch_wait(c->e, number(c, "batch", 0),
                                 (uint32_t)number(c, "timeout", FERRY_FOREVER), &s),
                &s);
}

static void do_poll(struct command *c)
{
    struct ferry_batch_status s = {0};

    with_status(c, ferry_batch_poll(c->e, number(c, "batch", 0), &s), &s);
}

/* How many requests have which status, and what carried the first one. */
static void do_requests(struct command *c)
{
    uint64_t count[128] = {0}, n = number(c, "n", 1);
    struct ferry_request_status s;
    const char *comma = "";

    for (uint64_t i = 0; i < n && !c->status; i++) {
        c->status = ferry_batch_request(c->e, number(c, "batch", 0), i, &s);
        if (!c->status)
            count[-s.status & 127]++;
        if (!c->status && !i) {
            put_string(c->out, "transport", s.transport);
            put_string(c->out, "rail", s.rail);
        }
    }
    fputs(",\"by_status\":{", c->out);
    for (int i = 0; i < 128; i++) {
        if (count[i]) {
            fprintf(c->out, "%s\"%d\":%" PRIu64, comma, -i, count[i]);
            comma = ",";
        }
    }
    fputc('}', c->out);
}

/* With `hash_at` the answer has a hash of memory here, taken at once afterwards. */
static void do_cancel(struct command *c)
{
    c->status = ferry_batch_cancel(c->e, number(c, "batch", 0),
                                   (uint32_t)number(c, "timeout", FERRY_FOREVER));
    if (text(c, "hash_at"))
        fprintf(c->out, ",\"hash\":\"%016" PRIx64 "\"",
                hash(address(c, "hash_at"), number(c, "len", 0)));
}

static void do_free(struct command *c)
{
    ferry_batch_free(c->e, number(c, "batch", 0));
}

/* ---- notifications and the rest
 * ---------------------------------------------------------------------- */

/* `size` bytes of content `seed`, else the text `message`. */
static void do_notify(struct command *c)
{
    const char *message = text(c, "message");
    uint64_t len = number(c, "size", message ? strlen(message) : 0);
    unsigned char *data = malloc(len + 1);

    if (message)
        memcpy(data, message, len);
    else
        fill(data, len, number(c, "seed", 0));
    for (uint64_t i = number(c, "n", 1); i && !c->status; i--)
        c->status = ferry_notify(c->e, number(c, "segment", 0), text(c, "name"), data, len,
                                 (uint32_t)number(c, "timeout", 5000));
    free(data);
}

/* The next one; with `check` whether its data is that memory here, the content of `seed`. */
static void do_next(struct command *c)
{
    struct ferry_notification *got;
    uint64_t len = number(c, "len", 0);

    c->status = ferry_notification_next(c->e, (uint32_t)number(c, "timeout", 5000), &got);
    if (c->status)
        return;
    if (text(c, "check"))
        put_number(c->out, "same", differs(address(c, "check"), len, number(c, "seed", 0)));
    put_string(c->out, "from", got->from);
    put_string(c->out, "name", got->name);
    put_number(c->out, "size", got->len);
    put_number(c->out, "ends_with", ((const unsigned char *)got->data)[got->len]);
    if (got->len < 256 && !text(c, "content"))
        put_string(c->out, "message", got->data);
    if (text(c, "content"))
        put_number(c->out, "content", differs(got->data, got->len, number(c, "content", 0)));
    ferry_notification_free(got);
}

/* Takes all that come until none comes for `timeout`; how many, and how many of each name. */
static void do_drain(struct command *c)
{
    struct ferry_notification *got;
    uint64_t n = 0;

    while (n < number(c, "max", UINT64_MAX) &&
           !ferry_notification_next(c->e, (uint32_t)number(c, "timeout", 200), &got)) {
        ferry_notification_free(got);
        n++;
    }
    put_number(c->out, "n", n);
}

static void do_describe(struct command *c)
{
    char *json;

    c->status = ferry_engine_describe(c->e, text(c, "what"), &json);
    if (!c->status && text(c, "size"))
        put_number(c->out, "size", strlen(json));
    else if (!c->status)
        fprintf(c->out, ",\"json\":%s", json);
    if (!c->status)
        ferry_string_free(json);
}

/* ---- the loop
 * ---------------------------------------------------------------------------------------- */

static const struct verb {
    const char *name;
    void (*run)(struct command *c);
    bool no_engine;
} verbs[] = {
    {"open", do_open, true},
    {"close", do_close, false},
    {"map", do_map, true},
    {"register", do_register, false},
    {"unregister", do_unregister, false},
    {"alloc", do_alloc, false},
    {"release", do_release, false},
    {"fill", do_fill, true},
    {"check", do_check, true},
    {"hash", do_hash, true},
    {"peek", do_peek, true},
    {"segment", do_segment, false},
    {"refresh", do_refresh, false},
    {"probe", do_probe, false},
    {"forget", do_forget, false},
    {"buffers", do_buffers, false},
    {"transfer", do_transfer, false},
    {"submit", do_submit, false},
    {"wait", do_wait, false},
    {"poll", do_poll, false},
    {"requests", do_requests, false},
    {"cancel", do_cancel, false},
    {"free", do_free, false},
    {"notify", do_notify, false},
    {"next", do_next, false},
    {"drain", do_drain, false},
    {"describe", do_describe, false},
};

static void *run(void *arg)
{
    struct command *c = arg;
    const struct verb *verb = NULL;
    char *members = NULL;
    size_t len = 0;
    double began = now_ms();
    uint64_t at = number(c, "e", 0);

    c->out = open_memstream(&members, &len);
    for (size_t i = 0; i < sizeof(verbs) / sizeof(*verbs); i++) {
        if (!strcmp(verbs[i].name, c->verb))
            verb = &verbs[i];
    }
    c->e = at < MAX_ENGINES ? engines[at] : NULL;
    if (!verb || at >= MAX_ENGINES || (!verb->no_engine && !c->e)) {
        fprintf(stderr, "no command \"%s\", or no engine %" PRIu64 "\n", c->verb, at);
        exit(2);
    }
    verb->run(c);
    if (c->status)
        put_string(c->out, "error", ferry_error());
    fclose(c->out);
    pthread_mutex_lock(&answers_lock);
    fprintf(answers, "{\"tag\":%lu,\"status\":%d,\"ms\":%.3f%s}\n", c->tag, c->status,
            c->ms > 0 ? c->ms : now_ms() - began, members);
    fflush(answers);
    pthread_mutex_unlock(&answers_lock);
    free(members);
    free(c->line);
    free(c);
    return NULL;
}

static void take(const char *line)
{
    struct command *c = calloc(1, sizeof(*c));
    char *at, *state, *word_at;
    bool aside = false;
    pthread_t thread;

    c->line = strdup(line);
    at = c->line;
    c->tag = strtoul(at, &at, 10);
    c->verb = "";
    word_at = strtok_r(at, " \n", &state);
    if (word_at && !strcmp(word_at, "&")) {
        aside = true;
        word_at = strtok_r(NULL, " \n", &state);
    }
    if (word_at)
        c->verb = word_at;
    while ((word_at = strtok_r(NULL, " \n", &state)) && c->n_args < MAX_ARGS)
        c->arg[c->n_args++] = word_at;
    if (!aside)
        run(c);
    else if (!pthread_create(&thread, NULL, run, c))
        pthread_detach(thread);
    else
        exit(3);
}

int main(int argc, char **argv)
{
    FILE *commands = stdin;
    char *line = NULL;
    size_t room = 0;

    answers = stdout;
    if (argc > 1) {
        struct sockaddr_un to = {.sun_family = AF_UNIX};
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

        snprintf(to.sun_path, sizeof(to.sun_path), "%s", argv[1]);
        if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof(to))) {
            fprintf(stderr, "%s: %s\n", argv[1], strerror(errno));
            return 1;
        }
        commands = fdopen(fd, "r");
        answers = fdopen(dup(fd), "w");
    }
    while (commands && answers && getline(&line, &room, commands) > 0)
        take(line);
    free(line);
    for (int i = 0; i < MAX_ENGINES; i++)
        ferry_engine_close(engines[i], 0);
    return 0;
}
