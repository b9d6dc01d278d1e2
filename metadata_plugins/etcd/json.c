/* SPDX-License-Identifier: Apache-2.0 */
/* How etcd's JSON gateway writes numbers, revisions and ranges. No connections here. */
#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../common/base64.h"
#include "etcd.h"

uint64_t etcd_u64(const struct cJSON *object, const char *member)
{
    const cJSON *value = cJSON_GetObjectItemCaseSensitive(object, member);

    if (cJSON_IsString(value))
        return strtoull(value->valuestring, NULL, 10);
    return cJSON_IsNumber(value) && value->valuedouble > 0 ? (uint64_t)value->valuedouble : 0;
}

uint64_t etcd_revision(const struct cJSON *reply)
{
    return etcd_u64(cJSON_GetObjectItemCaseSensitive(reply, "header"), "revision");
}

char *etcd_range_of(const char *prefix)
{
    size_t len = strlen(prefix), end_len = len;
    char *end = strdup(prefix), *first = NULL, *last = NULL, *json = NULL;

    /* The next key that does not begin so: the last byte that can be raised is, the rest goes.
     */
    while (end && end_len && (unsigned char)end[end_len - 1] == 0xff)
        end_len--;
    if (end && end_len)
        end[end_len - 1]++;
    first = len ? fm_base64(prefix, len) : fm_base64("\0", 1);
    if (end)
        last = end_len ? fm_base64(end, end_len) : fm_base64("\0", 1);
    if (first && last &&
        asprintf(&json, "\"key\":\"%s\",\"range_end\":\"%s\"", first, last) < 0)
        json = NULL;
    free(first);
    free(last);
    free(end);
    return json;
}
