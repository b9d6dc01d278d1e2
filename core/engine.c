/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An engine from open to close. Everything is opened in one order and closed in the reverse.
 */
#include "engine.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "error.h"
#include "util/clock.h"
#include "util/thread.h"

#define WORKERS      16
#define CONNECTORS   256 /* one waits for as long as a peer does not answer */
#define NOTIFIERS    64  /* one waits for as long as its peer says nothing */
#define RETRIERS     256 /* one reads the document of one peer, which may say nothing */
#define WORK_IDLE_MS 2000
#define SPIN_US      50
#define STRIPE_MIN   (2u << 20)
#define LEAVE_MS     2000 /* for taking our keys out of the store when closing */
#define LOOKUP_MS    2000
#define CONNECT_MS   5000
#define BATCH_MS     30000
#define STORE_MS     5000

static int usable_cpus(void)
{
    cpu_set_t set;

    if (sched_getaffinity(0, sizeof(set), &set))
        return 1;
    return CPU_COUNT(&set);
}

static void init(struct ferry_engine *engine, const struct fy_log *log)
{
    engine->log = *log;
    engine->reap_fd = -1;
    engine->progress_epoll = engine->progress_timer = engine->progress_wake = -1;
    engine->reap_tail = &engine->reap_head;
    engine->notices_tail = &engine->notices;
    pthread_mutex_init(&engine->memory_lock, NULL);
    pthread_mutex_init(&engine->doc_lock, NULL);
    pthread_mutex_init(&engine->segments_lock, NULL);
    pthread_mutex_init(&engine->free_lock, NULL);
    pthread_mutex_init(&engine->active_lock, NULL);
    pthread_mutex_init(&engine->waiters_lock, NULL);
    pthread_mutex_init(&engine->reap_lock, NULL);
    pthread_mutex_init(&engine->notice_lock, NULL);
    pthread_mutex_init(&engine->follow_lock, NULL);
    fy_cond_init(&engine->notice_cond);
    fy_cond_init(&engine->follow_cond);
}

static void fini(struct ferry_engine *engine)
{
    if (engine->reap_fd >= 0)
        close(engine->reap_fd);
    pthread_cond_destroy(&engine->notice_cond);
    pthread_cond_destroy(&engine->follow_cond);
    pthread_mutex_destroy(&engine->follow_lock);
    pthread_mutex_destroy(&engine->memory_lock);
    pthread_mutex_destroy(&engine->doc_lock);
    pthread_mutex_destroy(&engine->segments_lock);
    pthread_mutex_destroy(&engine->free_lock);
    pthread_mutex_destroy(&engine->active_lock);
    pthread_mutex_destroy(&engine->waiters_lock);
    pthread_mutex_destroy(&engine->reap_lock);
    pthread_mutex_destroy(&engine->notice_lock);
    free(engine);
}

static ferry_status make_epoch(struct ferry_engine *engine)
{
    uint64_t random;

    if (getrandom(&random, sizeof(random), 0) != sizeof(random))
        return fy_fail(FERRY_EDEVICE, "cannot get random bytes: %s", strerror(errno));
    snprintf(engine->epoch, sizeof(engine->epoch), "%016llx", (unsigned long long)random);
    return FERRY_OK;
}

/* With a store a name is a key and may be anything; only "host:port" is an address as well. */
static ferry_status read_name(struct ferry_engine *engine, uint16_t *port_out)
{
    const char *given = engine->config->name;
    bool is_key = !fy_store_is_p2p(engine->store);

    if (!given || (is_key && !strchr(given, ':')))
        return FERRY_OK;
    if (!fy_name_split(given, 0, engine->host, port_out))
        return FERRY_OK;
    engine->host[0] = '\0';
    return is_key ? FERRY_OK : FERRY_EINVAL;
}

/* The control port: the name's, else one of the random ones, better with a free one after it,
 * where old peers of Mooncake's look for our data. With a metadata server the name is a key,
 * and peers learn the port there: as with Mooncake, where the name's is taken another one will
 * do. */
static ferry_status take_port(struct ferry_engine *engine, uint16_t port, int *fd_out)
{
    const struct fy_config *config = engine->config;
    uint16_t min = (uint16_t)config->min_port, max = (uint16_t)config->max_port;
    ferry_status status = FERRY_EEXIST;

    if (port) {
        status = fy_net_listen(config->bind, port, min, max, 0, fd_out, &engine->control_port);
        if (status != FERRY_EEXIST || fy_store_is_p2p(engine->store))
            return status;
        FY_WARN(&engine->log,
                "port %u of the name %s is taken: listening on another one, which the metadata "
                "server says",
                port, config->name);
    }
    for (int with_next = 1; status == FERRY_EEXIST && with_next >= 0; with_next--)
        status =
            fy_net_listen(config->bind, 0, min, max, with_next, fd_out, &engine->control_port);
    return status;
}

/* Our address and port as peers are told, and the listening socket behind it. */
static ferry_status take_name(struct ferry_engine *engine, int *fd_out)
{
    const struct fy_config *config = engine->config;
    const char *given = config->name;
    uint16_t port = 0;
    ferry_status status = read_name(engine, &port);

    if (!status && config->advertise)
        snprintf(engine->host, sizeof(engine->host), "%s", config->advertise);
    else if (!status && !engine->host[0])
        status = fy_name_own_host(config->ipv6, engine->host);
    if (!status && !config->advertise && !fy_store_is_p2p(engine->store))
        status =
            fy_host_check(engine->host, config->metadata_server, fy_store_server(engine->store),
                          fy_now_ns() + LOOKUP_MS * FY_NS_PER_MS);
    if (!status)
        status = take_port(engine, port, fd_out);
    /* A key stays as it was given, unless its port was left open. */
    if (!status && given && !fy_store_is_p2p(engine->store) && (port || !strchr(given, ':')))
        snprintf(engine->name, sizeof(engine->name), "%s", given);
    else if (!status)
        status = fy_name_join(engine->host, engine->control_port, engine->name,
                              sizeof(engine->name));
    return status;
}

static void tune(struct ferry_engine *engine)
{
    const struct fy_config *config = engine->config;
    int cpus = usable_cpus();

    engine->spin_ns = (uint64_t)fy_config_int(config, "spin_us", cpus > 1 ? SPIN_US : 0) * 1000;
    engine->max_spinners = (int)fy_config_int(config, "max_spinners", cpus > 2 ? cpus / 2 : 1);
    /* On two processors the peer's thread and ours have one each: a second connection gains
     * nothing. */
    engine->stripe_min =
        (uint64_t)fy_config_int(config, "stripe_min_bytes", cpus > 2 ? STRIPE_MIN : 0);
    if (!engine->stripe_min)
        engine->stripe_min = UINT64_MAX;
    engine->connect_ms = (uint32_t)fy_config_int(config, "connect_timeout_ms", CONNECT_MS);
    engine->store_ms = STORE_MS;
    engine->batch_ms = (uint32_t)fy_config_int(config, "timeout_ms", BATCH_MS);
}

static ferry_status open_all(struct ferry_engine *engine)
{
    struct fy_host *store_host = calloc(1, sizeof(*store_host));
    int fd = -1;
    ferry_status status = store_host ? make_epoch(engine) : FERRY_ENOMEM;

    engine->store_host = store_host;
    if (!status)
        status = fy_loader_open(engine->config->plugin_path, &engine->log, &engine->loader);
    if (!status)
        status = fy_registry_open(&engine->registry);
    if (!status)
        status = fy_work_open(WORKERS, "ferry-work", WORK_IDLE_MS, &engine->work);
    if (!status)
        status = fy_work_open(CONNECTORS, "ferry-connect", WORK_IDLE_MS, &engine->connectors);
    if (!status)
        status = fy_work_open(NOTIFIERS, "ferry-notify", WORK_IDLE_MS, &engine->notifiers);
    if (!status)
        status = fy_work_open(RETRIERS, "ferry-retry", WORK_IDLE_MS, &engine->retriers);
    if (!status) {
        fy_host_init(store_host, engine, "metadata");
        status = fy_store_open(engine->config, engine->loader, &store_host->pub, &engine->log,
                               &engine->store);
    }
    if (!status)
        status = take_name(engine, &fd);
    if (!status)
        status = fy_transports_open(engine);
    if (!status)
        status = fy_progress_start(engine);
    if (!status) { /* who asks before it is served waits in the socket's backlog */
        pthread_mutex_lock(&engine->memory_lock);
        status = fy_memory_publish(engine, engine->store_ms);
        pthread_mutex_unlock(&engine->memory_lock);
    }
    if (!status)
        status =
            fy_control_open(fd, (size_t)fy_config_int(engine->config, "control_max_len", 0),
                            fy_serve, engine, &engine->log, &engine->control);
    if (fd >= 0 && !engine->control)
        close(fd);
    if (!status && fy_config_bool(engine->config, "status_socket", true) &&
        fy_local_open(engine->epoch, fy_serve_local, engine, &engine->log, &engine->local))
        FY_INFO(&engine->log, "`ferry links` cannot ask this node: %s", ferry_error());
    return status;
}

static ferry_status start(struct fy_config *config, const struct fy_log *log,
                          struct ferry_engine **engine_out)
{
    struct ferry_engine *engine = calloc(1, sizeof(*engine));
    ferry_status status;

    if (!engine) {
        fy_config_free(config);
        return fy_fail(FERRY_ENOMEM, "no memory for an engine");
    }
    init(engine, log);
    engine->log.level = config->log_level;
    engine->config = config;
    engine->opened_ns = fy_now_ns();
    tune(engine);
    status = open_all(engine);
    if (status) {
        char text[1024];

        snprintf(text, sizeof(text), "%s", ferry_error());
        ferry_engine_close(engine, 0);
        return fy_fail(status, "%s", text);
    }
    FY_INFO(&engine->log, "engine %s is open", engine->name);
    *engine_out = engine;
    return FERRY_OK;
}

static struct fy_log log_of(const struct ferry_options *options)
{
    struct fy_log log = {.level = FERRY_LOG_INFO};

    if (options && options->size >= sizeof(*options)) {
        log.fn = options->log;
        log.arg = options->log_arg;
        log.level = options->log_level ? options->log_level : FERRY_LOG_INFO;
    }
    return log;
}

static ferry_status check_options(const struct ferry_options *options)
{
    if (options->size < sizeof(*options))
        return fy_fail(FERRY_EINVAL, "struct ferry_options: size %u, set it to sizeof (%zu)",
                       options->size, sizeof(*options));
    return FERRY_OK;
}

ferry_status ferry_engine_open(const struct ferry_options *options,
                               struct ferry_engine **engine_out)
{
    struct fy_log log = log_of(options);
    struct fy_config *config;
    ferry_status status;

    if (!options || !engine_out)
        return fy_fail(FERRY_EINVAL, "engine_open: options and result are needed");
    status = check_options(options);
    if (!status)
        status = fy_config_from_options(options, &log, &config);
    return status ? status : start(config, &log, engine_out);
}

ferry_status ferry_engine_open_file(const char *path, const char *role,
                                    const struct ferry_options *options,
                                    struct ferry_engine **engine_out)
{
    struct fy_log log = log_of(options);
    struct fy_config *config;
    ferry_status status = FERRY_OK;

    if (!engine_out)
        return fy_fail(FERRY_EINVAL, "engine_open_file: nowhere to put the engine");
    if (options)
        status = check_options(options);
    if (!status)
        status = fy_config_from_file(path, role ? role : "", options, &log, &config);
    return status ? status : start(config, &log, engine_out);
}

static void end_batches(struct ferry_engine *engine, uint32_t timeout_ms)
{
    uint64_t deadline_ns = fy_now_ns() + timeout_ms * FY_NS_PER_MS;
    struct timespec pause = {.tv_nsec = FY_NS_PER_MS};

    while (atomic_load_explicit(&engine->n_active, memory_order_acquire)) {
        if (fy_now_ns() >= deadline_ns) {
            struct fy_batch *batch;

            pthread_mutex_lock(&engine->active_lock);
            for (batch = engine->active; batch && atomic_load(&batch->abort);
                 batch = batch->next_active)
                ;
            if (batch)
                atomic_fetch_add_explicit(&batch->genref, 1, memory_order_relaxed);
            pthread_mutex_unlock(&engine->active_lock);
            if (batch) {
                fy_batch_abort(batch, FERRY_ECANCELED);
                fy_batch_put(batch);
                continue;
            }
        }
        fy_progress_kick(engine, true);
        nanosleep(&pause, NULL);
    }
}

void ferry_engine_close(struct ferry_engine *engine, uint32_t timeout_ms)
{
    if (!engine)
        return;
    atomic_store(&engine->closing, true);
    pthread_mutex_lock(&engine->notice_lock);
    pthread_cond_broadcast(&engine->notice_cond);
    pthread_mutex_unlock(&engine->notice_lock);
    end_batches(engine, timeout_ms);
    if (engine->published)
        fy_store_unpublish(engine->store, engine->name, LEAVE_MS);
    fy_local_close(engine->local);
    fy_follow_stop(engine);
    fy_control_close(engine->control);
    fy_progress_stop(engine); /* it holds batches while it looks at them */
    fy_batches_close(engine);
    fy_segments_close(engine);
    fy_work_close(engine->notifiers);
    fy_work_close(engine->retriers);   /* gives work to the next two */
    fy_work_close(engine->connectors); /* gives work to the next */
    fy_work_close(engine->work);       /* closes the last peers */
    fy_progress_close(engine);
    fy_memory_close(engine);
    fy_transports_close(engine);
    fy_registry_close(engine->registry); /* plugins asked it up to now */
    fy_doc_unref(engine->doc);
    fy_store_close(engine->store);
    fy_loader_close(engine->loader);
    fy_wait_close(engine);
    fy_notify_close(engine);
    fy_config_free(engine->config);
    free(engine->store_host);
    fini(engine);
}

const char *ferry_engine_name(const struct ferry_engine *engine)
{
    return engine ? engine->name : "";
}
