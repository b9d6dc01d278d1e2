/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The asking side of the control channel: one request, one reply, one connection. Older
 * Mooncake nodes serve one connection at a time, so that none is kept a moment longer than
 * needed. Knows nothing of what bodies mean.
 */
#include "control.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "error.h"
#include "names.h"

/* A peer that is stopped still has its kernel acknowledge what we send; one that is cut off
 * does not. */
static ferry_status late(int fd, const char *phase)
{
    struct tcp_info info = {0};
    socklen_t len = sizeof(info);

    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) == 0 && info.tcpi_unacked > 0 &&
        info.tcpi_retransmits > 0)
        return fy_fail(FERRY_EUNREACH, "%s: nothing of what we send arrives", phase);
    return fy_fail(FERRY_ETIMEDOUT, "%s: connected, no answer in time", phase);
}

static ferry_status send_all(int fd, const char *data, size_t len, uint64_t deadline_ns)
{
    while (len > 0) {
        ssize_t n = send(fd, data, len, MSG_NOSIGNAL);
        ferry_status status;

        if (n > 0) {
            data += n;
            len -= (size_t)n;
            continue;
        }
        if (errno == EINTR)
            continue;
        if (errno != EAGAIN && errno != EWOULDBLOCK)
            return fy_fail(errno == EPIPE || errno == ECONNRESET ? FERRY_ECONNRESET
                                                                 : FERRY_EUNREACH,
                           "sending the request: %s", strerror(errno));
        status = fy_net_wait(fd, POLLOUT, deadline_ns);
        if (status)
            return status == FERRY_EAGAIN ? late(fd, "sending the request") : status;
    }
    return FERRY_OK;
}

static ferry_status closed(size_t got, size_t need)
{
    if (got == 0)
        return fy_fail(
            FERRY_ECONNRESET,
            "closed without a reply (older Mooncake nodes do so for requests they do "
            "not know)");
    return fy_fail(FERRY_ECONNRESET,
                   "receiving the reply: closed after %zu bytes, of at least %zu", got, need);
}

/* Exactly one frame, whose bytes are in `in` afterwards. It grows with what arrives and not
 * with what is announced. */
static ferry_status receive_frame(int fd, uint64_t deadline_ns, struct fy_buf *in,
                                  struct fy_control_frame *frame_out)
{
    char chunk[16384];

    for (;;) {
        size_t need = 0;
        ferry_status status = fy_control_parse(in->data, in->len, 0, frame_out, &need);
        ssize_t n;

        if (status == FERRY_OK)
            return FERRY_OK;
        if (status != FERRY_EAGAIN)
            return fy_fail_in(FERRY_EIO, "malformed reply: ");
        need -= in->len;
        n = recv(fd, chunk, need < sizeof(chunk) ? need : sizeof(chunk), 0);
        if (n > 0) {
            status = fy_buf_append(in, chunk, (size_t)n);
            if (status)
                return fy_fail(status, "receiving the reply: out of memory");
            continue;
        }
        if (n == 0 || errno == ECONNRESET)
            return closed(in->len, in->len + need);
        if (errno == EINTR)
            continue;
        if (errno != EAGAIN && errno != EWOULDBLOCK)
            return fy_fail(FERRY_EUNREACH, "receiving the reply: %s", strerror(errno));
        status = fy_net_wait(fd, POLLIN, deadline_ns);
        if (status)
            return status == FERRY_EAGAIN ? late(fd, "waiting for the reply") : status;
    }
}

static ferry_status exchange(int fd, int type, const char *body, size_t len,
                             uint64_t deadline_ns, struct fy_buf *in,
                             struct fy_control_frame *frame_out)
{
    struct fy_buf out;
    ferry_status status;
    int on = 1;

    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    fy_buf_init(&out, 0);
    status = fy_control_encode(type, body, len, &out);
    if (!status)
        status = send_all(fd, out.data, out.len, deadline_ns);
    fy_buf_fini(&out);
    if (!status)
        status = receive_frame(fd, deadline_ns, in, frame_out);
    if (!status && frame_out->type != type)
        status = fy_fail(FERRY_EIO, "malformed reply: it is of type %d (%s)", frame_out->type,
                         fy_control_type_name(frame_out->type));
    return status;
}

ferry_status fy_control_exchange(int fd, int type, const char *body, size_t len,
                                 uint64_t deadline_ns, struct fy_buf *reply)
{
    struct fy_control_frame frame;
    struct fy_buf in;
    ferry_status status;

    fy_buf_init(&in, 0);
    status = exchange(fd, type, body, len, deadline_ns, &in, &frame);
    if (!status) {
        const char *text = in.data + frame.body;

        if (text[frame.len - 1] == '\n')
            frame.len--;
        status = fy_buf_append(reply, text, frame.len);
        if (status)
            fy_fail(status, "no room for a reply of %zu bytes", frame.len);
    }
    fy_buf_fini(&in);
    return status;
}

ferry_status fy_control_request(const char *host, uint16_t port, int type, const char *body,
                                size_t len, uint64_t deadline_ns, struct fy_buf *reply)
{
    char peer[FY_HOST_MAX + 16];
    ferry_status status;
    int fd;

    status = fy_name_join(host, port, peer, sizeof(peer));
    if (status)
        return status;
    status = fy_net_connect(host, port, deadline_ns, &fd);
    if (status)
        return fy_fail_in(status == FERRY_ETIMEDOUT ? FERRY_EUNREACH : status,
                          "%s request to %s: connecting: ", fy_control_type_name(type), peer);
    status = fy_control_exchange(fd, type, body, len, deadline_ns, reply);
    close(fd);
    if (status)
        fy_fail_in(status, "%s request to %s: ", fy_control_type_name(type), peer);
    return status;
}
