/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FY_CONTROL_H
#define FY_CONTROL_H

#include "log.h"
#include "util/buf.h"

/*
 * The control channel: one request and one reply a connection, Mooncake's framing
 * (docs/wire.md). Types 0 to 3 are Mooncake's; FY_CONTROL_CALL is ours and is sent to Ferry
 * nodes only.
 */
enum fy_control_type {
    FY_CONTROL_CONNECTION = 0,
    FY_CONTROL_METADATA = 1,
    FY_CONTROL_NOTIFY = 2,
    FY_CONTROL_PROBE = 3,
    FY_CONTROL_CALL = 0x46, /* body: JSON {"transport","from","data" (base64)} */
};

/* "metadata"; "unknown" where it is none of these. Static storage. */
const char *fy_control_type_name(int type);

struct fy_control;

/*
 * Answers a request: appends the reply's body (JSON text; the line feed is added). A failure is
 * answered "null". `type` of an untyped frame of very old peers is FY_CONTROL_CONNECTION.
 * `body` is without its line feed, and a NUL follows it. Runs on one of the server's own
 * threads, several at once; may block.
 */
typedef ferry_status (*fy_control_handler)(void *arg, int type, const char *body, size_t len,
                                           struct fy_buf *reply);

/* Takes over `listen_fd` unless it fails; where it is one of the file system's, processes of
 * other users are turned away. `log` is borrowed until close. Serves many
 * connections at once; a silent client costs nothing but its socket and is closed after 5 s.
 * `max_len`: longest request accepted (bytes; 0 or more = 128 MiB).
 */
ferry_status fy_control_open(int listen_fd, size_t max_len, fy_control_handler handler,
                             void *arg, const struct fy_log *log,
                             struct fy_control **control_out);
/* No handler runs after it has returned. */
void fy_control_close(struct fy_control *control);

/*
 * One request to host:port, blocking at most until the deadline; any thread. `body` without and
 * `reply` gets the JSON body without its line feed. FERRY_EUNREACH: refused, no route, or
 * nothing of what is sent arrives; FERRY_ETIMEDOUT: connected, no answer; FERRY_ECONNRESET:
 * closed without a reply (the peer does not know the type, or rejected it); FERRY_EIO:
 * malformed reply. The text names peer, type and phase.
 */
ferry_status fy_control_request(const char *host, uint16_t port, int type, const char *body,
                                size_t len, uint64_t deadline_ns, struct fy_buf *reply);

/* The same on a connected non-blocking socket, which stays the caller's and serves once. */
ferry_status fy_control_exchange(int fd, int type, const char *body, size_t len,
                                 uint64_t deadline_ns, struct fy_buf *reply);

/* Incremental frame parser, apart from sockets so that it can be fuzzed. */
struct fy_control_frame {
    int type;    /* FY_CONTROL_..., or -1 for an untyped frame */
    size_t body; /* offset of the body in the bytes given */
    size_t len;  /* of the body */
};
#define FY_CONTROL_MAX_LEN ((size_t)128 << 20) /* where max_len is 0 */
/* FERRY_OK: complete; FERRY_EAGAIN: more bytes are needed (*need_out: the total known so far);
 * FERRY_ERANGE: longer than max_len; FERRY_EINVAL: malformed. */
ferry_status fy_control_parse(const void *data, size_t len, size_t max_len,
                              struct fy_control_frame *frame_out, size_t *need_out);

/* Appends a whole frame; type -1 = untyped; the line feed is added. FERRY_ERANGE, FERRY_ENOMEM.
 */
ferry_status fy_control_encode(int type, const char *body, size_t len, struct fy_buf *out);

#endif /* FY_CONTROL_H */
