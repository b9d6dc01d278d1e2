/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FM_URL_H
#define FM_URL_H

#include "ferry/status.h"

/* Percent-encoded as Mooncake does (all but letters, digits and -._~, upper-case hex), the
 * caller's to free; NULL: out of memory. */
char *fm_url_escape(const char *text);
/* Takes "user:password@" out of a URL: *url_out is without; *user_out and *password_out are
 * decoded, NULL where absent. All three are the caller's. */
ferry_status fm_url_split_user(const char *url, char **url_out, char **user_out,
                               char **password_out);

#endif /* FM_URL_H */
