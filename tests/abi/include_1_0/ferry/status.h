/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FERRY_STATUS_H
#define FERRY_STATUS_H

#include <stdint.h>

#if defined(__GNUC__)
#define FERRY_API __attribute__((visibility("default")))
#else
#define FERRY_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Results. 0 is success, negative is failure; grouped by the largest thing the
 * failure spoils, so that the core can choose what to rebuild without knowing
 * the transport. Values are ABI: append inside a group, never renumber.
 */
typedef int32_t ferry_status;

enum {
    FERRY_OK = 0,

    /* The call had no effect; nothing is spoilt. */
    FERRY_EAGAIN = -1, /* no room now: poll, then call again */
    FERRY_EINVAL = -2, /* caller broke the contract */
    FERRY_ENOMEM = -3,
    FERRY_ENOTSUP = -4, /* not implemented by this plugin */
    FERRY_ENOENT = -5,  /* no such key, segment or buffer */
    FERRY_EEXIST = -6,
    FERRY_ERANGE = -7,    /* outside the registered region, or too large */
    FERRY_EABI = -8,      /* plugin and core do not match */
    FERRY_ECONFLICT = -9, /* compare-and-set lost */

    /* One transfer failed; its peer and queue still work. */
    FERRY_ECANCELED = -20,
    FERRY_EACCESS = -21, /* remote refused the address or key */
    FERRY_EIO = -22,

    /* The peer is lost: close it and open it again. */
    FERRY_EUNREACH = -40,   /* nothing of what we send arrives, or nobody listens */
    FERRY_ECONNRESET = -41, /* the peer closed the connection: killed or crashed */
    FERRY_ESTALE = -42,     /* peer restarted: reload its segment first */
    FERRY_ETIMEDOUT = -43,  /* the peer is reachable and did not answer in time */

    /* The queue or device is lost: close it and use another. */
    FERRY_EDEVICE = -60,
    FERRY_EINTERNAL = -61,
};

enum ferry_scope { FERRY_SCOPE_CALL, FERRY_SCOPE_XFER, FERRY_SCOPE_PEER, FERRY_SCOPE_DEVICE };

static inline enum ferry_scope ferry_status_scope(ferry_status s)
{
    return s > -20   ? FERRY_SCOPE_CALL
           : s > -40 ? FERRY_SCOPE_XFER
           : s > -60 ? FERRY_SCOPE_PEER
                     : FERRY_SCOPE_DEVICE;
}

/* Never NULL; static storage. Plugins that link nothing of the core have no use of it. */
FERRY_API const char *ferry_strstatus(ferry_status s);

#ifdef __cplusplus
}
#endif

#endif /* FERRY_STATUS_H */
