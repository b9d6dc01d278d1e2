/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FERRY_TOOL_JOB_H
#define FERRY_TOOL_JOB_H

#include <pthread.h>
#include <stdatomic.h>

#include "args.h"
#include "ferry/ferry.h"
#include "kvmsg.h"
#include "out.h"
#include "stats.h"

/* What `ferry prefill` and `ferry decode` have in common: options, engine, memory, messages, an
 * eye on the peer. */

struct job_options {
    const char *config, *metadata_server, *protocol, *json;
    uint64_t memory, wait_ms, peer_timeout_ms, inflight;
    int log_level;
    bool push, pull;
};

/* The lines of the option table, for a struct whose member `common` is a struct job_options. */
#define JOB_OPTS(type_)                                                                        \
    {.name = "config",                                                                         \
     .letter = 'c',                                                                            \
     .meta = "FILE",                                                                           \
     .type = OPT_FILE,                                                                         \
     .help = "mooncake.json, the same on both sides; else MOONCAKE_CONFIG_PATH names it",      \
     .offset = offsetof(type_, common.config)},                                                \
        {.name = "metadata-server",                                                            \
         .meta = "URL",                                                                        \
         .type = OPT_TEXT,                                                                     \
         .help = "instead of the one in the file",                                             \
         .offset = offsetof(type_, common.metadata_server)},                                   \
        {.name = "protocol",                                                                   \
         .meta = "NAMES",                                                                      \
         .type = OPT_TEXT,                                                                     \
         .help = "transports in order of preference, instead of those in the file",            \
         .offset = offsetof(type_, common.protocol)},                                          \
        {.name = "memory",                                                                     \
         .letter = 'm',                                                                        \
         .meta = "SIZE",                                                                       \
         .type = OPT_SIZE,                                                                     \
         .def = "1g",                                                                          \
         .min = 1 << 20,                                                                       \
         .help = "size of this side's KV cache, at most",                                      \
         .offset = offsetof(type_, common.memory)},                                            \
        {.name = "push",                                                                       \
         .type = OPT_FLAG,                                                                     \
         .help = "prefill writes the blocks to decode (the default)",                          \
         .offset = offsetof(type_, common.push)},                                              \
        {.name = "pull",                                                                       \
         .type = OPT_FLAG,                                                                     \
         .help = "decode reads the blocks from prefill",                                       \
         .offset = offsetof(type_, common.pull)},                                              \
        {.name = "inflight",                                                                   \
         .letter = 'n',                                                                        \
         .meta = "N",                                                                          \
         .type = OPT_COUNT,                                                                    \
         .def = "4",                                                                           \
         .min = 1,                                                                             \
         .max = 64,                                                                            \
         .help = "requests worked on at once by this side",                                    \
         .offset = offsetof(type_, common.inflight)},                                          \
        {.name = "peer-timeout",                                                               \
         .meta = "SECONDS",                                                                    \
         .type = OPT_SECONDS,                                                                  \
         .def = "10",                                                                          \
         .min = 1000,                                                                          \
         .help = "give the peer up when it has not answered for so long",                      \
         .offset = offsetof(type_, common.peer_timeout_ms)},                                   \
        {.name = "json",                                                                       \
         .meta = "FILE",                                                                       \
         .type = OPT_FILE,                                                                     \
         .help = "write the summary as JSON too; - = standard output",                         \
         .offset = offsetof(type_, common.json)},                                              \
    {                                                                                          \
        .name = "log", .meta = "LEVEL", .type = OPT_CHOICE,                                    \
        .choices = "error|warn|info|debug|trace", .def = "warn",                               \
        .help = "what the library may say on standard error",                                  \
        .offset = offsetof(type_, common.log_level)                                            \
    }

struct job {
    const struct command *command;
    const struct job_options *options;
    struct ferry_engine *engine;
    uint8_t *memory; /* NULL until job_memory */
    struct layout layout;
    char peer_name[300];
    ferry_segment peer;
    uint64_t session;
    bool colour_line; /* a progress line may have to be wiped before a message */

    /* Guards what a command's threads share; `changed` is broadcast on every change. */
    pthread_mutex_t lock;
    pthread_cond_t changed;

    atomic_bool stopped; /* set once, with status and cause */
    int status;
    bool peer_gone; /* it needs no word from us */
    char cause[700];

    /* of the receiving thread */
    uint64_t heard_ns, probed_ns;
    int refused;
};

/* Opens the engine by the configuration; `role` "prefill" or "decode". EXIT_OK, or the exit
 * status after a message. job_close in any case. */
int job_open(struct job *job, const struct command *command, const struct job_options *options,
             const char *role);
void job_close(struct job *job);
/* Maps and registers memory for `layout`, one buffer a layer. `access`: FERRY_REMOTE_. */
bool job_memory(struct job *job, const struct layout *layout, uint32_t access);
/* The peer of the configuration, or "". */
void job_configured_peer(struct job *job, char *name, size_t room);
/* Opens the segment, again and again until it is there or `wait_ms` is over (0 = no limit). */
bool job_find_peer(struct job *job, const char *name, uint64_t wait_ms);

/* Ends the job for this reason, unless there is one already. Any thread. */
void job_stop(struct job *job, int status, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* The peer is lost: what was being done, then ferry_error(). Any thread. */
void job_lost(struct job *job, const char *doing);

/* One message to the peer. False: the job is stopped with the cause. Any thread. */
bool job_send(struct job *job, const struct kvmsg *msg);
/* The same where nothing depends on it any more: the peer may leave as soon as it has read it,
 * before it has confirmed it. */
void job_send_last(struct job *job, const struct kvmsg *msg);
/* Word to the peer that we end, best effort. */
void job_say_abort(struct job *job);
/*
 * The next message; `from` (room for 300) gets the sender's name. False: none within
 * `timeout_ms`, which also looks after the peer and after interrupts. Messages that are not
 * for this command are dropped. kvmsg_free. One thread only.
 */
bool job_receive(struct job *job, uint32_t timeout_ms, struct kvmsg *msg, char *from);

/* Waits for a batch, freeing it. FERRY_OK: everything arrived. Else `text` says why; the job is
 * stopped where the peer is lost. `carrier` (room for 64) gets the transport. */
ferry_status job_batch(struct job *job, ferry_batch batch, const char *doing, char *carrier,
                       char *text, size_t room);

/* For threads that wait for `changed`: at most this long, and at most 200 ms. Lock held. */
void job_wait(struct job *job, uint64_t ns);

/* Time during which at least one transfer was under way. job->lock held. */
struct busy {
    uint64_t since_ns, total_ns;
    int active;
};
void busy_begin(struct busy *busy);
void busy_end(struct busy *busy);

/* Adds a name to "tcp, shm" unless it is there. */
void job_add_name(char *list, size_t room, const char *name);

#endif /* FERRY_TOOL_JOB_H */
