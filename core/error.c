/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Status words and each thread's last error in words. Knows nothing of the rest.
 */
#include "error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "ferry/ferry.h"

static _Thread_local char text[1024];

ferry_status fy_fail(ferry_status status, const char *fmt, ...)
{
    char fresh[sizeof(text)]; /* the arguments may point into the old text */
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(fresh, sizeof(fresh), fmt, ap);
    va_end(ap);
    memcpy(text, fresh, sizeof(text));
    return status;
}

ferry_status fy_fail_in(ferry_status status, const char *fmt, ...)
{
    char fresh[sizeof(text)];
    va_list ap;
    int n;

    va_start(ap, fmt);
    n = vsnprintf(fresh, sizeof(fresh), fmt, ap);
    va_end(ap);
    if (n >= 0 && (size_t)n < sizeof(fresh))
        snprintf(fresh + n, sizeof(fresh) - (size_t)n, "%s",
                 text[0] ? text : ferry_strstatus(status));
    memcpy(text, fresh, sizeof(text));
    return status;
}

const char *ferry_error(void)
{
    return text;
}

const char *ferry_version(void)
{
    return FERRY_VERSION;
}

const char *ferry_strstatus(ferry_status s)
{
    switch (s) {
    case FERRY_OK:
        return "success";
    case FERRY_EAGAIN:
        return "not now, try again";
    case FERRY_EINVAL:
        return "invalid argument";
    case FERRY_ENOMEM:
        return "out of memory";
    case FERRY_ENOTSUP:
        return "not supported";
    case FERRY_ENOENT:
        return "not found";
    case FERRY_EEXIST:
        return "exists already";
    case FERRY_ERANGE:
        return "outside the registered range";
    case FERRY_EABI:
        return "plugin and core do not match";
    case FERRY_ECONFLICT:
        return "changed by somebody else meanwhile";
    case FERRY_ECANCELED:
        return "canceled";
    case FERRY_EACCESS:
        return "access refused by the peer";
    case FERRY_EIO:
        return "input/output error";
    case FERRY_EUNREACH:
        return "peer unreachable";
    case FERRY_ECONNRESET:
        return "peer closed the connection";
    case FERRY_ESTALE:
        return "peer restarted";
    case FERRY_ETIMEDOUT:
        return "peer did not answer in time";
    case FERRY_EDEVICE:
        return "device lost or missing";
    case FERRY_EINTERNAL:
        return "internal error";
    default:
        return "unknown status";
    }
}
