/* SPDX-License-Identifier: Apache-2.0 */
/* Parts of URLs: what is escaped, and the user and password that must not be shown. */
#include "url.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

char *fm_url_escape(const char *text)
{
    static const char hex[] = "0123456789ABCDEF";
    char *out = malloc(strlen(text) * 3 + 1), *at = out;

    if (!out)
        return NULL;
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;

        if ((c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ||
            strchr("-._~", c)) {
            *at++ = (char)c;
        } else {
            *at++ = '%';
            *at++ = hex[c >> 4];
            *at++ = hex[c & 15];
        }
    }
    *at = '\0';
    return out;
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

static char *decoded(const char *text, size_t len)
{
    char *out = malloc(len + 1), *at = out;

    for (size_t i = 0; out && i < len; i++) {
        if (text[i] == '%' && len - i > 2 && hex_digit(text[i + 1]) >= 0 &&
            hex_digit(text[i + 2]) >= 0) {
            *at++ = (char)(hex_digit(text[i + 1]) * 16 + hex_digit(text[i + 2]));
            i += 2;
        } else {
            *at++ = text[i];
        }
    }
    if (out)
        *at = '\0';
    return out;
}

ferry_status fm_url_split_user(const char *url, char **url_out, char **user_out,
                               char **password_out)
{
    const char *start = strstr(url, "://"), *slash, *at = NULL, *colon;
    char *user = NULL, *password = NULL, *plain = NULL;

    start = start ? start + 3 : url;
    slash = start + strcspn(start, "/?#");
    for (const char *c = start; c < slash; c++) {
        if (*c == '@')
            at = c;
    }
    if (!at) {
        plain = strdup(url);
    } else {
        colon = memchr(start, ':', (size_t)(at - start));
        user = decoded(start, (size_t)((colon ? colon : at) - start));
        if (colon)
            password = decoded(colon + 1, (size_t)(at - colon) - 1);
        if (user && (!colon || password) &&
            asprintf(&plain, "%.*s%s", (int)(start - url), url, at + 1) < 0)
            plain = NULL;
    }
    if (!plain) {
        free(user);
        free(password);
        return FERRY_ENOMEM;
    }
    *url_out = plain;
    *user_out = user;
    *password_out = password;
    return FERRY_OK;
}
