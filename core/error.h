/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FY_ERROR_H
#define FY_ERROR_H

#include "ferry/status.h"

/* Sets this thread's error text (what ferry_error returns) and returns `status`, so that a
 * failure is one line: return fy_fail(FERRY_ERANGE, "request %zu: ...", i). Cuts the text at 1
 * KiB. */
ferry_status fy_fail(ferry_status status, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* Puts words before the text that is there: "opening segment a:1: " + cause. Returns `status`.
 */
ferry_status fy_fail_in(ferry_status status, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

#endif /* FY_ERROR_H */
