/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests to hand over, from a file in Mooncake's trace format or made up. Knows nothing of
 * models, memory or engines; every line of a file is untrusted.
 */
#include "trace.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* More than any model's context; bounds what one line can make us allocate. */
#define MAX_TOKENS (1u << 26)
#define MAX_LINE   (64u << 20)

static bool fail(char *error, size_t room, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static bool fail(char *error, size_t room, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(error, room, fmt, ap);
    va_end(ap);
    return false;
}

static struct trace_request *grow(struct trace *trace, size_t n_hashes)
{
    struct trace_request *request;

    if (trace->n == trace->room) {
        size_t room = trace->room ? trace->room * 2 : 64;
        struct trace_request *grown = realloc(trace->requests, room * sizeof(*grown));
        if (!grown)
            return NULL;
        trace->requests = grown;
        trace->room = room;
    }
    request = &trace->requests[trace->n];
    *request = (struct trace_request){.n_hashes = n_hashes};
    request->hashes = malloc(n_hashes * sizeof(*request->hashes));
    if (!request->hashes)
        return NULL;
    trace->n++;
    return request;
}

/* A whole number that a double holds exactly. */
static bool whole(const cJSON *item, uint64_t max, uint64_t *value_out)
{
    if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0) || item->valuedouble > (double)max ||
        item->valuedouble != (double)(uint64_t)item->valuedouble)
        return false;
    *value_out = (uint64_t)item->valuedouble;
    return true;
}

static bool read_member(const cJSON *json, const char *name, uint64_t max, uint64_t *value_out,
                        char *error, size_t room)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, name);

    if (!item)
        return fail(error, room, "no \"%s\"", name);
    if (!whole(item, max, value_out))
        return fail(error, room, "\"%s\" is not a whole number of at most %llu", name,
                    (unsigned long long)max);
    return true;
}

bool trace_line(const char *line, size_t len, struct trace *trace, char *error, size_t room)
{
    cJSON *json = cJSON_ParseWithLength(line, len);
    const cJSON *ids, *id;
    struct trace_request *request;
    uint64_t at, in, out, want;
    size_t n, i = 0;
    bool good = false;

    if (!cJSON_IsObject(json)) {
        fail(error, room, "not a JSON object");
        goto out;
    }
    if (!read_member(json, "timestamp", 1ull << 53, &at, error, room) ||
        !read_member(json, "input_length", MAX_TOKENS, &in, error, room) ||
        !read_member(json, "output_length", MAX_TOKENS, &out, error, room))
        goto out;
    ids = cJSON_GetObjectItemCaseSensitive(json, "hash_ids");
    if (!cJSON_IsArray(ids)) {
        fail(error, room, "no array \"hash_ids\"");
        goto out;
    }
    n = (size_t)cJSON_GetArraySize(ids);
    want = (in + TRACE_BLOCK_TOKENS - 1) / TRACE_BLOCK_TOKENS;
    if (in == 0 || n != want) {
        fail(error, room, "%llu tokens want %llu hash_ids, there are %zu",
             (unsigned long long)in, (unsigned long long)want, n);
        goto out;
    }
    request = grow(trace, n);
    if (!request) {
        fail(error, room, "out of memory");
        goto out;
    }
    request->at_ms = at;
    request->input_tokens = in;
    request->output_tokens = out;
    cJSON_ArrayForEach(id, ids)
    {
        if (!whole(id, 1ull << 53, &request->hashes[i])) {
            fail(error, room, "hash_ids[%zu] is not a whole number", i);
            free(request->hashes);
            trace->n--;
            goto out;
        }
        i++;
    }
    good = true;
out:
    cJSON_Delete(json);
    return good;
}

bool trace_read(const char *path, size_t limit, struct trace *trace, char *error, size_t room)
{
    FILE *file = fopen(path, "re");
    char *line = NULL, why[200];
    size_t cap = 0, number = 0;
    ssize_t len;
    bool good = true;

    *trace = (struct trace){0};
    if (!file)
        return fail(error, room, "%s: %s", path, strerror(errno));
    while (good && (!limit || trace->n < limit) && (len = getline(&line, &cap, file)) > 0) {
        number++;
        if (line[strspn(line, " \t\r\n")] == 0)
            continue;
        if ((size_t)len > MAX_LINE)
            good =
                fail(error, room, "%s:%zu: longer than %u MiB", path, number, MAX_LINE >> 20);
        else if (!trace_line(line, (size_t)len, trace, why, sizeof(why)))
            good = fail(error, room, "%s:%zu: %s", path, number, why);
    }
    if (good && ferror(file))
        good = fail(error, room, "%s: %s", path, strerror(errno));
    if (good && !trace->n)
        good = fail(error, room, "%s: holds no request", path);
    free(line);
    fclose(file);
    if (!good)
        trace_free(trace);
    return good;
}

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

bool trace_synthetic(size_t n, struct trace *trace)
{
    enum { TALKS = 8, MAX_BLOCKS = 16 };
    uint64_t random = 0x2545f4914f6cdd1du, next_hash = 1;
    struct {
        uint64_t hashes[MAX_BLOCKS];
        size_t n;
    } talks[TALKS] = {0};

    *trace = (struct trace){0};
    for (size_t i = 0; i < n; i++) {
        size_t t = next_random(&random) % TALKS, add;
        uint64_t tail = 1 + next_random(&random) % TRACE_BLOCK_TOKENS;
        struct trace_request *request;

        add = 1 + next_random(&random) % 4;
        if (talks[t].n + add > MAX_BLOCKS)
            talks[t].n = 0;
        if (!talks[t].n)
            talks[t].hashes[talks[t].n++] = 0;
        for (; add && talks[t].n < MAX_BLOCKS; add--)
            talks[t].hashes[talks[t].n++] = next_hash++;
        request = grow(trace, talks[t].n);
        if (!request) {
            trace_free(trace);
            return false;
        }
        memcpy(request->hashes, talks[t].hashes, talks[t].n * sizeof(uint64_t));
        request->at_ms = i * 100;
        request->input_tokens = (talks[t].n - 1) * TRACE_BLOCK_TOKENS + tail;
        request->output_tokens = 1 + next_random(&random) % 500;
        if (tail < TRACE_BLOCK_TOKENS) /* the next turn fills that block up: another hash */
            talks[t].n--;
    }
    return true;
}

void trace_free(struct trace *trace)
{
    for (size_t i = 0; i < trace->n; i++)
        free(trace->requests[i].hashes);
    free(trace->requests);
    *trace = (struct trace){0};
}
