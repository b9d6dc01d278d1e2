/* SPDX-License-Identifier: Apache-2.0 */
/* Text in, checked values out. Knows nothing of what the members mean. */
#include "members.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define TEXT_MAX 1024u /* bytes of a value, with the NUL */

static void set_number(const struct ft_member *member, void *at, uint64_t value)
{
    uint32_t narrow = (uint32_t)value;

    if (member->room == sizeof(value))
        memcpy(at, &value, sizeof(value));
    else
        memcpy(at, &narrow, sizeof(narrow));
}

static void set_start(const struct ft_member *member, void *at)
{
    switch (member->kind) {
    case FT_KIND_NUMBER:
        set_number(member, at, member->start);
        break;
    case FT_KIND_TEXT:
        strcpy(at, member->text);
        break;
    case FT_KIND_WORD:
    case FT_KIND_SWITCH:
        memset(at, 0, member->room);
        break;
    case FT_KIND_IGNORED:
        break;
    }
}

static bool read_number(const struct ft_member *member, const char *text, void *at)
{
    const bool hex = text[0] == '0' && (text[1] == 'x' || text[1] == 'X');
    unsigned long long value;
    char *end;

    if (text[0] < '0' || text[0] > '9') /* strtoull takes signs and spaces */
        return false;
    errno = 0;
    value = strtoull(text, &end, hex ? 16 : 10);
    if (errno || *end || value < member->min || value > member->max)
        return false;
    set_number(member, at, value);
    return true;
}

static bool read_text(const struct ft_member *member, const char *text, void *at)
{
    size_t len = strlen(text);

    if (len < member->min || len >= member->room)
        return false;
    memcpy(at, text, len + 1);
    return true;
}

static bool read_word(const struct ft_member *member, const char *text, void *at)
{
    const size_t len = strlen(text);
    int place = 0;

    for (const char *word = member->text; word; place++) {
        const char *comma = strchr(word, ',');
        if (len == (comma ? (size_t)(comma - word) : strlen(word)) &&
            !memcmp(word, text, len)) {
            memcpy(at, &place, sizeof(place));
            return true;
        }
        word = comma ? comma + 2 : NULL;
    }
    return false;
}

static bool read_switch(const char *text, void *at)
{
    const bool on = !strcmp(text, "true") || !strcmp(text, "1");

    memcpy(at, &on, sizeof(on));
    return on || !strcmp(text, "false") || !strcmp(text, "0");
}

static bool read_one(const struct ft_member *member, const char *text, void *at)
{
    switch (member->kind) {
    case FT_KIND_NUMBER:
        return read_number(member, text, at);
    case FT_KIND_TEXT:
        return read_text(member, text, at);
    case FT_KIND_WORD:
        return read_word(member, text, at);
    case FT_KIND_SWITCH:
        return read_switch(text, at);
    case FT_KIND_IGNORED:
        break;
    }
    return true;
}

__attribute__((format(printf, 2, 3))) static ferry_status refuse(const struct ferry_host *host,
                                                                 const char *fmt, ...)
{
    char line[1024];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(line, sizeof(line), fmt, ap);
    va_end(ap);
    FT_LOG(host, FERRY_LOG_ERROR, "%s", line);
    return FERRY_EINVAL;
}

static ferry_status refuse_value(const struct ferry_host *host, const struct ft_member *member,
                                 const char *text)
{
    switch (member->kind) {
    case FT_KIND_NUMBER:
        return refuse(host, "%s is \"%.100s\", allowed are %llu to %llu", member->key, text,
                      (unsigned long long)member->min, (unsigned long long)member->max);
    case FT_KIND_TEXT:
        return refuse(host, "%s is \"%.100s\", allowed are %llu to %zu characters", member->key,
                      text, (unsigned long long)member->min, member->room - 1);
    case FT_KIND_WORD:
        return refuse(host, "%s is \"%.100s\", allowed are %s", member->key, text,
                      member->text);
    case FT_KIND_SWITCH:
    case FT_KIND_IGNORED:
        break;
    }
    return refuse(host, "%s is \"%.100s\", allowed are true, false", member->key, text);
}

static ferry_status refuse_key(const struct ferry_host *host, const struct ft_member *members,
                               size_t n, const char *key)
{
    char known[512] = "";
    size_t len = 0;

    for (size_t i = 0; i < n && len < sizeof(known); i++)
        if (members[i].kind != FT_KIND_IGNORED && strncmp(members[i].key, "core.", 5) != 0)
            len += (size_t)snprintf(known + len, sizeof(known) - len, "%s%s", len ? ", " : "",
                                    members[i].key);
    return refuse(host, "unknown key \"%.100s\", allowed are %s", key, known);
}

static const struct ft_member *find(const struct ft_member *members, size_t n, const char *key)
{
    for (size_t i = 0; i < n; i++)
        if (!strcmp(key, members[i].key))
            return &members[i];
    return NULL;
}

ferry_status ft_members_read(const struct ferry_host *host, const struct ferry_kvs *kvs,
                             const struct ft_member *members, size_t n, void *config)
{
    char text[TEXT_MAX];

    for (size_t i = 0; i < n; i++)
        set_start(&members[i], (char *)config + members[i].off);
    for (size_t i = 0; kvs && i < kvs->n; i++) {
        const struct ferry_kv *kv = &kvs->v[i];
        const struct ft_member *member = find(members, n, kv->key);

        if (!member && !strncmp(kv->key, "core.", 5))
            continue;
        if (!member)
            return refuse_key(host, members, n, kv->key);
        if (!ft_text(kv, text, sizeof(text)))
            return refuse(host, "%s: a text of less than %u bytes is allowed", kv->key,
                          TEXT_MAX);
        if (!read_one(member, text, (char *)config + member->off))
            return refuse_value(host, member, text);
    }
    return FERRY_OK;
}
