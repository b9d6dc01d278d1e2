/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What both sides of the main job share. Nothing here knows what a request or a block is; the
 * public API only.
 */
#include "job.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "ferry/plugin.h"

#define QUIET_MS 2000 /* without a message for so long, the peer is asked whether it lives */
#define PROBE_MS 2000

static volatile sig_atomic_t interrupted;

static void on_signal(int number)
{
    interrupted = number;
}

static void on_log(void *arg, int level, const char *message)
{
    static const char *const names[] = {"error", "warning", "info", "debug", "trace"};
    const struct job *job = arg;

    fprintf(stderr, "%sferry %s: %s: %s\n", job->colour_line ? "\r\033[K" : "",
            job->command->name, level >= 0 && level < 5 ? names[level] : "log", message);
}

static void complain(const struct job *job, const char *text)
{
    fprintf(stderr, "%sferry %s: %s\n", job->colour_line ? "\r\033[K" : "", job->command->name,
            text);
}

int job_open(struct job *job, const struct command *command, const struct job_options *options,
             const char *role)
{
    struct ferry_options engine_options = {.size = sizeof(engine_options),
                                           .metadata_server = options->metadata_server,
                                           .protocol = options->protocol,
                                           .log_level = options->log_level,
                                           .log = on_log,
                                           .log_arg = job};
    struct sigaction action = {.sa_handler = on_signal};
    pthread_condattr_t attr;
    ferry_status status;

    *job = (struct job){.command = command, .options = options};
    job->colour_line = isatty(STDERR_FILENO);
    pthread_mutex_init(&job->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&job->changed, &attr);
    pthread_condattr_destroy(&attr);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    if (options->push && options->pull)
        return args_usage_error(command, "--push and --pull exclude each other");
    status = ferry_engine_open_file(options->config, role, &engine_options, &job->engine);
    if (status != FERRY_OK) {
        complain(job, ferry_error());
        return status == FERRY_EINVAL || (status == FERRY_ENOENT && !options->config)
                   ? EXIT_USAGE
                   : EXIT_LOST;
    }
    return EXIT_OK;
}

void job_close(struct job *job)
{
    if (job->engine && job->peer)
        ferry_segment_close(job->engine, job->peer);
    ferry_engine_close(job->engine, 2000);
    if (job->memory)
        munmap(job->memory, job->layout.total_len);
    pthread_cond_destroy(&job->changed);
    pthread_mutex_destroy(&job->lock);
}

bool job_memory(struct job *job, const struct layout *layout, uint32_t access)
{
    struct ferry_buffer *buffers = calloc(layout->model.layers, sizeof(*buffers));
    int fd = ferry_memory_fd(job->engine, layout->total_len);
    void *memory = mmap(NULL, layout->total_len, PROT_READ | PROT_WRITE,
                        fd >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS, fd, 0);
    ferry_status status;

    if (!buffers || memory == MAP_FAILED) {
        job_stop(job, EXIT_LOST, "no memory for a cache of %llu bytes",
                 (unsigned long long)layout->total_len);
        free(buffers);
        if (fd >= 0)
            close(fd);
        return false;
    }
    madvise(memory, layout->total_len, MADV_HUGEPAGE);
    memset(memory, 0, layout->total_len); /* page faults now, not in the first transfers */
    job->memory = memory;
    job->layout = *layout;
    if (job->options->log_level >= FERRY_LOG_INFO)
        fprintf(stderr, "ferry %s: info: cache of %llu bytes at %p\n", job->command->name,
                (unsigned long long)layout->total_len, memory);
    for (uint32_t i = 0; i < layout->model.layers; i++)
        buffers[i] = (struct ferry_buffer){.addr = job->memory + i * layout->layer_stride,
                                           .len = layout->layer_len,
                                           .access = access,
                                           .location = "cpu:0"};
    status = fd >= 0 ? ferry_memory_register_fd(job->engine, buffers, layout->model.layers, fd,
                                                memory)
                     : ferry_memory_register(job->engine, buffers, layout->model.layers);
    if (fd >= 0)
        close(fd);
    free(buffers);
    if (status != FERRY_OK) {
        job_stop(job, EXIT_LOST, "registering the cache: %s", ferry_error());
        return false;
    }
    return true;
}

void job_configured_peer(struct job *job, char *name, size_t room)
{
    char *text;
    cJSON *json;
    const cJSON *peer;

    name[0] = 0;
    if (ferry_engine_describe(job->engine, "config", &text) != FERRY_OK)
        return;
    json = cJSON_Parse(text);
    ferry_string_free(text);
    peer = cJSON_GetObjectItemCaseSensitive(json, "peer_name");
    if (cJSON_IsString(peer))
        snprintf(name, room, "%s", peer->valuestring);
    cJSON_Delete(json);
}

static bool check_interrupt(struct job *job)
{
    if (interrupted)
        job_stop(job, EXIT_INTERRUPTED, "interrupted");
    return atomic_load(&job->stopped);
}

bool job_find_peer(struct job *job, const char *name, uint64_t wait_ms)
{
    uint64_t end = out_now_ns() + wait_ms * 1000000;

    snprintf(job->peer_name, sizeof(job->peer_name), "%s", name);
    for (;;) {
        ferry_status status = ferry_segment_open(job->engine, name, 2000, &job->peer);
        if (status == FERRY_OK) {
            job->heard_ns = out_now_ns();
            return true;
        }
        if (check_interrupt(job))
            return false;
        if (status == FERRY_ENOTSUP || status == FERRY_EINVAL ||
            (wait_ms && out_now_ns() > end)) {
            job->peer_gone = true;
            job_stop(job, EXIT_LOST, "no peer %s: %s", name, ferry_error());
            return false;
        }
        usleep(200000);
    }
}

void job_stop(struct job *job, int status, const char *fmt, ...)
{
    va_list ap;

    pthread_mutex_lock(&job->lock);
    if (!atomic_load(&job->stopped)) {
        job->status = status;
        va_start(ap, fmt);
        vsnprintf(job->cause, sizeof(job->cause), fmt, ap);
        va_end(ap);
        complain(job, job->cause);
        atomic_store(&job->stopped, true);
    }
    pthread_cond_broadcast(&job->changed);
    pthread_mutex_unlock(&job->lock);
}

void job_lost(struct job *job, const char *doing)
{
    char why[512];

    snprintf(why, sizeof(why), "%s", ferry_error());
    pthread_mutex_lock(&job->lock);
    job->peer_gone = true;
    pthread_mutex_unlock(&job->lock);
    job_stop(job, EXIT_LOST, "lost %s while %s: %s", job->peer_name, doing, why);
}

bool job_send(struct job *job, const struct kvmsg *msg)
{
    size_t len;
    char *text = kvmsg_encode(msg, &len);
    ferry_status status;

    if (!text) {
        job_stop(job, EXIT_LOST, "out of memory");
        return false;
    }
    status = ferry_notify(job->engine, job->peer, KVMSG_NAME, text, len,
                          (uint32_t)job->options->peer_timeout_ms);
    free(text);
    if (status != FERRY_OK)
        job_lost(job, "sending it a message");
    return status == FERRY_OK;
}

void job_send_last(struct job *job, const struct kvmsg *msg)
{
    size_t len;
    char *text;

    if (!job->peer || job->peer_gone)
        return;
    text = kvmsg_encode(msg, &len);
    if (text)
        ferry_notify(job->engine, job->peer, KVMSG_NAME, text, len, 2000);
    free(text);
}

void job_say_abort(struct job *job)
{
    struct kvmsg msg = {.type = KVMSG_ABORT, .session = job->session};

    snprintf(msg.text, sizeof(msg.text), "%.390s", job->cause);
    job_send_last(job, &msg);
}

/* Nothing was heard for some time: is it still there? A port that refuses is a dead process; no
 * answer may be a busy one, which is given its time. */
static void watch_peer(struct job *job)
{
    uint64_t now = out_now_ns();
    ferry_status status;

    if (!job->peer || now - job->heard_ns < QUIET_MS * 1000000ull ||
        now - job->probed_ns < 500000000)
        return;
    status = ferry_segment_probe(job->engine, job->peer, PROBE_MS);
    job->probed_ns = out_now_ns();
    if (status == FERRY_OK) {
        job->heard_ns = job->probed_ns;
        job->refused = 0;
        return;
    }
    job->refused = status == FERRY_EUNREACH || status == FERRY_ESTALE ? job->refused + 1 : 0;
    if (job->refused >= 2 ||
        job->probed_ns - job->heard_ns > job->options->peer_timeout_ms * 1000000)
        job_lost(job, "asking whether it lives");
}

bool job_receive(struct job *job, uint32_t timeout_ms, struct kvmsg *msg, char *from)
{
    struct ferry_notification *notification;
    char error[300];
    bool good;

    if (check_interrupt(job))
        return false;
    if (ferry_notification_next(job->engine, timeout_ms, &notification) != FERRY_OK) {
        watch_peer(job);
        return false;
    }
    good = strcmp(notification->name, KVMSG_NAME) == 0 &&
           kvmsg_decode(notification->data, notification->len, msg, error, sizeof(error));
    if (!good && strcmp(notification->name, KVMSG_NAME) == 0) {
        if (job->peer && strcmp(notification->from, job->peer_name) == 0)
            job_stop(job, EXIT_LOST, "message of %s: %s", notification->from, error);
        else
            complain(job, error);
    }
    snprintf(from, 300, "%s", notification->from);
    ferry_notification_free(notification);
    if (!good)
        return false;
    if (job->session && msg->session != job->session && msg->type != KVMSG_HELLO) {
        kvmsg_free(msg);
        return false;
    }
    job->heard_ns = out_now_ns();
    job->refused = 0;
    if (msg->type == KVMSG_ABORT) {
        job->peer_gone = true;
        job_stop(job, EXIT_LOST, "%s gave up: %s", from, msg->text);
        kvmsg_free(msg);
        return false;
    }
    return true;
}

ferry_status job_batch(struct job *job, ferry_batch batch, const char *doing, char *carrier,
                       char *text, size_t room)
{
    struct ferry_batch_status status;
    struct ferry_request_status first;
    ferry_status waited;

    while ((waited = ferry_batch_wait(job->engine, batch, 200, &status)) == FERRY_EAGAIN)
        if (atomic_load(&job->stopped))
            break;
    if (waited == FERRY_OK && status.failed == 0) {
        if (ferry_batch_request(job->engine, batch, 0, &first) == FERRY_OK)
            snprintf(carrier, 64, "%s", first.transport);
        ferry_batch_free(job->engine, batch);
        return FERRY_OK;
    }
    if (waited == FERRY_OK) {
        waited = status.first_error;
        snprintf(text, room, "%llu of %llu pieces: %s", (unsigned long long)status.failed,
                 (unsigned long long)status.total, ferry_error());
        if (ferry_status_scope(waited) >= FERRY_SCOPE_PEER)
            job_lost(job, doing);
    } else
        snprintf(text, room, "ended early");
    ferry_batch_free(job->engine, batch);
    return waited;
}

void job_wait(struct job *job, uint64_t ns)
{
    struct timespec until;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += (long)(ns < 200000000 ? ns : 200000000);
    if (until.tv_nsec >= 1000000000) {
        until.tv_nsec -= 1000000000;
        until.tv_sec++;
    }
    pthread_cond_timedwait(&job->changed, &job->lock, &until);
}

void busy_begin(struct busy *busy)
{
    if (busy->active++ == 0)
        busy->since_ns = out_now_ns();
}

void busy_end(struct busy *busy)
{
    if (--busy->active == 0)
        busy->total_ns += out_now_ns() - busy->since_ns;
}

void job_add_name(char *list, size_t room, const char *name)
{
    size_t len = strlen(list);

    if (*name && !strstr(list, name))
        snprintf(list + len, room - len, "%s%s", len ? ", " : "", name);
}
