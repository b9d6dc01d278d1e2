/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FERRY_H
#define FERRY_H

/*
 * Ferry for applications: the whole of it.
 *
 * An engine owns what it made: memory registrations, segments, batches. Segments and batches
 * are named by numbers that are checked on every call, so that a stale one is FERRY_ENOENT and
 * never a crash. Any thread may call any function, at once with others, except that an engine
 * is closed once, by one thread, with no other call on it under way.
 *
 * Functions that can fail return a ferry_status; ferry_error() then says what happened in
 * words. Output arguments come last and are written only on success, unless their comment says
 * otherwise. What waits says so and takes a limit in milliseconds; 0 means "do not wait",
 * FERRY_FOREVER means no limit of this call's own (a batch still ends at its own deadline).
 *
 * The library prints nothing, installs no signal handlers and never ends the process.
 */
#include <stddef.h>
#include <stdint.h>

#include "ferry/status.h"

#ifdef __cplusplus
extern "C" {
#endif

struct ferry_engine;
typedef uint64_t ferry_segment; /* a peer's memory, by name; 0 is never one */
typedef uint64_t ferry_batch;   /* requests submitted together; 0 is never one */

#define FERRY_FOREVER UINT32_MAX

/* ---- engine
 * ---------------------------------------------------------------------------------- */

struct ferry_options {
    uint32_t size;     /* sizeof(struct ferry_options) */
    int32_t log_level; /* enum ferry_log_level of plugin.h; 2 = INFO */
    const char
        *name; /* "host:port" that peers use; port 0 or none = any; NULL = from the routes */
    const char *bind;            /* address to listen on; NULL = every address */
    const char *metadata_server; /* URL; NULL = "P2PHANDSHAKE" */
    const char *protocol;    /* "tcp", "rdma,tcp" in order of preference, NULL = automatic */
    const char *device_name; /* "mlx5_0,mlx5_1", NULL = all; where a transport chooses */
    const char
        *config_json; /* an object, as the member "ferry" of mooncake.json; NULL = none */
    /* Called from any thread, one line without line feed; must not call the engine. NULL =
     * silent. */
    void (*log)(void *log_arg, int level, const char *message);
    void *log_arg;
};

/*
 * Listens, opens the transports, publishes the segment. Blocks for as long as the metadata
 * server takes, at most its time limit. `options` is borrowed until the call returns.
 * FERRY_ENOTSUP: no such protocol or store (the text names those that are there).
 * FERRY_EEXIST: the name or port is taken. FERRY_EUNREACH: no answer from the metadata server.
 */
FERRY_API ferry_status ferry_engine_open(const struct ferry_options *options,
                                         struct ferry_engine **engine_out);

/*
 * The same from mooncake.json or its like in YAML (path ends in .yaml or .yml). `path` NULL =
 * the file that MOONCAKE_CONFIG_PATH names. `role` says which of the file's two URLs is ours:
 * "prefill" or "decode". `options` may be NULL; its members that are not 0 or NULL win.
 * FERRY_EINVAL: the text gives file, line, column and what is allowed.
 */
FERRY_API ferry_status ferry_engine_open_file(const char *path, const char *role,
                                              const struct ferry_options *options,
                                              struct ferry_engine **engine_out);

/*
 * Refuses new work, waits at most `timeout_ms` for batches to end by themselves, cancels the
 * rest, leaves the metadata server, joins its threads, frees everything. NULL is allowed.
 */
FERRY_API void ferry_engine_close(struct ferry_engine *engine, uint32_t timeout_ms);

/* "host:port" as published, the port as bound. Lives as long as the engine. */
FERRY_API const char *ferry_engine_name(const struct ferry_engine *engine);

/* ---- memory
 * ---------------------------------------------------------------------------------- */

enum { FERRY_REMOTE_READ = 2, FERRY_REMOTE_WRITE = 4 };

struct ferry_buffer {
    void *addr;
    uint64_t len;
    uint32_t access;      /* FERRY_REMOTE_READ | FERRY_REMOTE_WRITE; 0 = local only */
    uint32_t reserved;    /* 0 */
    const char *location; /* "cpu:0", "cuda:0"; NULL or "*" = found out */
};

/*
 * All or nothing, published in one write before the call returns. The memory stays the caller's
 * and must stay mapped until it is unregistered. FERRY_EEXIST: overlaps a registered buffer, or
 * a living node took our name at the metadata server while we were cut off from it.
 * FERRY_EINVAL: also memory of which this process cannot read the first and the last byte.
 * FERRY_ENOTSUP: the location is a device's, and no transport of the engine takes such memory.
 * A metadata server that is away is no failure: peers that know us see the memory at once, the
 * server is told when it is back, and a WARN line says so.
 */
FERRY_API ferry_status ferry_memory_register(struct ferry_engine *engine,
                                             const struct ferry_buffer *buffers, size_t n);

/*
 * By start address. Blocks until no transfer, local or remote, touches them any more; batches
 * of ours that use them end first. FERRY_ENOENT: one is not registered, and none was
 * unregistered.
 */
FERRY_API ferry_status ferry_memory_unregister(struct ferry_engine *engine, void *const *addrs,
                                               size_t n);

/*
 * The same for parts of one shared mapping: the first byte of memfd `fd`, which is sealed with
 * F_SEAL_SHRINK, is mapped at `base`. Peers of this host can then map the memory too. `fd` is
 * borrowed until the call returns; it may be closed then.
 */
FERRY_API ferry_status ferry_memory_register_fd(struct ferry_engine *engine,
                                                const struct ferry_buffer *buffers, size_t n,
                                                int fd, const void *base);
/* Such a descriptor of `len` zero bytes, the caller's to map and to close; -1 where no
 * transport of the engine has use for one, or none could be made: ordinary memory is right
 * then. */
FERRY_API int ferry_memory_fd(struct ferry_engine *engine, uint64_t len);

/* For ferry_memory_alloc alone, beside the rights: reserved huge pages (vm.nr_hugepages); where
 * there are none, ordinary ones with a WARN line, or FERRY_ENOMEM. */
enum { FERRY_HUGE_PAGES = 256, FERRY_HUGE_PAGES_ONLY = 512 };

/*
 * Zeroed memory of the engine's own, registered, for ferry_memory_free. Where a transport of
 * the engine can make use of it, peers of this host map the memory itself: the fastest
 * way between two processes. It is then shared with a child that forks, not copied.
 */
FERRY_API ferry_status ferry_memory_alloc(struct ferry_engine *engine, uint64_t len,
                                          uint32_t access, void **addr_out);
/* Unregisters (and so blocks as above) and frees. NULL is allowed. */
FERRY_API void ferry_memory_free(struct ferry_engine *engine, void *addr);

/* ---- segments
 * -------------------------------------------------------------------------------- */

/*
 * Opening a name twice gives the same number; it is closed as often as it was opened. Waits for
 * the peer's document, and then, if there is time left, for where its node listens (2 s).
 * FERRY_ENOENT: the metadata server does not know it. FERRY_EUNREACH: the server or, without
 * one, the peer did not answer. FERRY_ENOTSUP: no transport of ours reaches it (the text lists
 * both sides').
 */
FERRY_API ferry_status ferry_segment_open(struct ferry_engine *engine, const char *name,
                                          uint32_t timeout_ms, ferry_segment *segment_out);
/* Reads the peer's document again: its buffers, its ports, whether it restarted. */
FERRY_API ferry_status ferry_segment_refresh(struct ferry_engine *engine, ferry_segment segment,
                                             uint32_t timeout_ms);
/* Its buffers, in the order of its document, which is that of registration, also a Mooncake
 * node's: the first `room` of them; *n_out is how many there are. `location` lives until the
 * next refresh or close of the segment; `addr` is an address in the peer. */
FERRY_API ferry_status ferry_segment_buffers(struct ferry_engine *engine, ferry_segment segment,
                                             struct ferry_buffer *buffers, size_t room,
                                             size_t *n_out);
/* Is the peer alive? One round trip on its control channel. */
FERRY_API ferry_status ferry_segment_probe(struct ferry_engine *engine, ferry_segment segment,
                                           uint32_t timeout_ms);
/* Batches under way keep what they need. */
FERRY_API void ferry_segment_close(struct ferry_engine *engine, ferry_segment segment);

/* ---- transfers
 * ------------------------------------------------------------------------------- */

enum { FERRY_READ = 0, FERRY_WRITE = 1 };

struct ferry_request {
    void *local;     /* in one registered buffer */
    uint64_t remote; /* address in the peer, in one buffer of the segment */
    uint64_t len;    /* bytes, > 0 */
    ferry_segment segment;
    uint32_t op;       /* FERRY_READ: remote to local; FERRY_WRITE: local to remote */
    uint32_t reserved; /* 0 */
};

struct ferry_submit {
    uint32_t size;        /* sizeof(struct ferry_submit) */
    uint32_t flags;       /* 0 */
    uint32_t timeout_ms;  /* 0 = 30 s + 1 s for each 64 MiB */
    uint32_t priority;    /* 0 = ordinary */
    const char *protocol; /* only this transport; NULL = the engine's choice */
    /* Delivered to each peer after all data of the batch; NULL = none. A Ferry node that
     * restarted after it had the data is not told; the batch's first_error is FERRY_ESTALE
     * then, as it is any other status with which telling a peer fails, and its requests are
     * done all the same. */
    const char *notify_name;
    const void *notify; /* copied */
    size_t notify_len;  /* bytes */
};

struct ferry_batch_status {
    uint64_t total, done,
        failed;               /* requests; the batch has ended when done + failed == total */
    uint64_t bytes;           /* of the requests that are done */
    ferry_status first_error; /* FERRY_OK if none failed */
    uint32_t reserved;
};

struct ferry_request_status {
    ferry_status status; /* FERRY_EAGAIN while under way */
    char transport[20];  /* what carried it, "" = nothing yet */
    char rail[40];       /* "mlx5_0-mlx5_1" */
};

/*
 * Starts the requests and returns; it does not wait for the peer, not even to connect, with one
 * exception: a range that the known document of the peer lacks has that read again, for at most
 * 2,000 ms in all, or the batch's time limit where that is less. Every request ends: it
 * succeeds, or fails at the latest at the batch's time limit. FERRY_OK on a WRITE means that
 * the bytes are in the peer's memory. There is no order among requests. `requests` and `attr`
 * (may be NULL) are borrowed until the call returns. A request that breaks a rule here
 * (unregistered local range, range outside the peer's buffers, missing access) refuses the
 * whole call with FERRY_ERANGE or FERRY_EACCESS; the text gives its index.
 */
FERRY_API ferry_status ferry_submit(struct ferry_engine *engine,
                                    const struct ferry_request *requests, size_t n,
                                    const struct ferry_submit *attr, ferry_batch *batch_out);
/*
 * Blocks until the batch has ended (FERRY_OK, whether its requests succeeded or failed) or the
 * time is over (FERRY_EAGAIN). `status_out` may be NULL and is written in both cases.
 */
FERRY_API ferry_status ferry_batch_wait(struct ferry_engine *engine, ferry_batch batch,
                                        uint32_t timeout_ms,
                                        struct ferry_batch_status *status_out);
/* Never blocks. FERRY_EAGAIN while the batch is under way; status_out is written then too. */
FERRY_API ferry_status ferry_batch_poll(struct ferry_engine *engine, ferry_batch batch,
                                        struct ferry_batch_status *status_out);
/* One request of it, with what carried it. */
FERRY_API ferry_status ferry_batch_request(struct ferry_engine *engine, ferry_batch batch,
                                           uint64_t index,
                                           struct ferry_request_status *status_out);
/*
 * Ends what is unfinished with FERRY_ECANCELED. Blocks at most `timeout_ms`; after FERRY_OK no
 * byte of the batch moves any more, here or there. FERRY_EAGAIN: not ended yet, call again or
 * wait.
 */
FERRY_API ferry_status ferry_batch_cancel(struct ferry_engine *engine, ferry_batch batch,
                                          uint32_t timeout_ms);
/* Cancels what is left, blocking until it has ended, and forgets the batch. */
FERRY_API void ferry_batch_free(struct ferry_engine *engine, ferry_batch batch);

/*
 * Submit, wait, free. The fastest way for a caller that waits anyway. Returns the first error;
 * *failed_out (may be NULL, always written) is the lowest index that failed, or n.
 */
FERRY_API ferry_status ferry_transfer(struct ferry_engine *engine,
                                      const struct ferry_request *requests, size_t n,
                                      const struct ferry_submit *attr, size_t *failed_out);

/*
 * For an event loop: a descriptor that is readable while batches have ended that ferry_reap has
 * not yet named. Only batches submitted after the first call count. The engine's: never read or
 * close it.
 */
FERRY_API int ferry_engine_fd(struct ferry_engine *engine);
/* Batches that have ended, each named once; how many were written. They still have to be freed.
 */
FERRY_API size_t ferry_reap(struct ferry_engine *engine, ferry_batch *batches, size_t room);

/* ---- notifications
 * --------------------------------------------------------------------------- */

struct ferry_notification {
    const char *from; /* the sender's engine name, "" where the sender is not a Ferry node */
    const char *name; /* the application's label */
    const void *data; /* a NUL follows it */
    size_t len;       /* bytes */
};

/* Blocks until the peer has queued it, once. FERRY_ETIMEDOUT: it may or may not have arrived.
 */
FERRY_API ferry_status ferry_notify(struct ferry_engine *engine, ferry_segment segment,
                                    const char *name, const void *data, size_t len,
                                    uint32_t timeout_ms);
/* Oldest first. FERRY_EAGAIN: none in that time. The caller's until ferry_notification_free. */
FERRY_API ferry_status ferry_notification_next(struct ferry_engine *engine, uint32_t timeout_ms,
                                               struct ferry_notification **notification_out);
FERRY_API void ferry_notification_free(struct ferry_notification *notification);

/* ---- what is going on
 * ------------------------------------------------------------------------ */

/*
 * JSON documents, freed by ferry_string_free: "statistics", "links", "plugins", "segment" (our
 * own document as published), "config" (as understood, without secrets). `engine` may be NULL
 * for "plugins". Reading is cheap; nothing here stops transfers.
 */
FERRY_API ferry_status ferry_engine_describe(struct ferry_engine *engine, const char *what,
                                             char **json_out);
FERRY_API void ferry_string_free(char *string);
/* The last error of this thread in words: peer, device, errno, phase, remedy. Never NULL; valid
 * until this thread's next call. */
FERRY_API const char *ferry_error(void);
FERRY_API const char *ferry_version(void);

#ifdef __cplusplus
}
#endif

#endif /* FERRY_H */
