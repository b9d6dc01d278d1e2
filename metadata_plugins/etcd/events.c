/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The messages of a watch's stream, and what they mean for who watches. Knows nothing of
 * connections, so that it can be fuzzed.
 */
#include <cjson/cJSON.h>

#include "../common/base64.h"
#include "../common/plug.h"
#include "etcd.h"

#define MAX_LINE (512u << 20) /* bytes */

void etcd_events_resync(struct etcd_events *events)
{
    struct ferry_store_event event = {.size = sizeof(event), .type = FERRY_STORE_RESYNC};

    events->cb(events->arg, &event);
}

/* Returns its revision. */
static uint64_t tell(struct etcd_events *events, const cJSON *item)
{
    const cJSON *kv = cJSON_GetObjectItemCaseSensitive(item, "kv");
    const cJSON *type = cJSON_GetObjectItemCaseSensitive(item, "type");
    const cJSON *key64 = cJSON_GetObjectItemCaseSensitive(kv, "key");
    const cJSON *val64 = cJSON_GetObjectItemCaseSensitive(kv, "value");
    int gone = cJSON_IsString(type) && !strcmp(type->valuestring, "DELETE");
    struct ferry_store_event event = {.size = sizeof(event),
                                      .type = gone ? FERRY_STORE_DELETED : FERRY_STORE_PUT,
                                      .rev = etcd_u64(kv, "mod_revision")};
    size_t key_len = 0;
    char *key, *val;

    if (event.rev < events->next_rev)
        return event.rev;
    key = fm_base64_decode(cJSON_IsString(key64) ? key64->valuestring : "", &key_len);
    val = fm_base64_decode(cJSON_IsString(val64) ? val64->valuestring : "", &event.val_len);
    if (key && val) {
        event.key = key;
        event.val = gone ? NULL : val;
        events->cb(events->arg, &event);
    } else {
        etcd_events_resync(events);
    }
    free(key);
    free(val);
    return event.rev;
}

/* One message of the stream. */
static void take(struct etcd_events *events, const char *line, size_t len)
{
    cJSON *json = cJSON_ParseWithLength(line, len);
    const cJSON *result = cJSON_GetObjectItemCaseSensitive(json, "result"), *item;
    uint64_t rev = etcd_revision(result);

    if (!cJSON_IsObject(result)) { /* "error" */
        events->again = 1;
    } else if (cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(result, "canceled"))) {
        uint64_t compacted = etcd_u64(result, "compact_revision");

        events->again = 1;
        if (compacted) {
            events->next_rev = compacted;
            etcd_events_resync(events);
        }
    } else if (cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(result, "created"))) {
        events->alive = 1;
        if (!events->next_rev || rev + 1 < events->next_rev) { /* another history than ours */
            events->again = events->next_rev != 0;
            events->next_rev = rev + 1;
            etcd_events_resync(events);
        }
    } else {
        const cJSON *list = cJSON_GetObjectItemCaseSensitive(result, "events");
        uint64_t last = list ? 0 : rev; /* while it catches up, the header is ahead of them */

        events->alive = 1;
        cJSON_ArrayForEach(item, list)
        {
            uint64_t told = tell(events, item);

            if (told > last)
                last = told;
        }
        if (last >= events->next_rev)
            events->next_rev = last + 1;
    }
    cJSON_Delete(json);
}

int etcd_events_take(struct etcd_events *events, const char *data, size_t len)
{
    while (len && !events->again) {
        const char *end = memchr(data, '\n', len);
        size_t n = end ? (size_t)(end - data) : len;

        if (n > MAX_LINE - events->len)
            return 1;
        if (events->cap - events->len <= n) {
            size_t cap = (events->len + n + 1) * 2;
            char *grown = realloc(events->line, cap);

            if (!grown)
                return 1;
            events->line = grown;
            events->cap = cap;
        }
        memcpy(events->line + events->len, data, n);
        events->len += n;
        if (!end)
            break;
        if (events->len)
            take(events, events->line, events->len);
        events->len = 0;
        data = end + 1;
        len -= n + 1;
    }
    return events->again;
}
