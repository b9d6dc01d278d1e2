/* SPDX-License-Identifier: Apache-2.0 */
/* What an etcd server streams to a watch, in pieces of every size. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../../metadata_plugins/etcd/etcd.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void on_event(void *arg, const struct ferry_store_event *event)
{
    size_t *bytes = arg;

    if (event->type == FERRY_STORE_RESYNC)
        return;
    *bytes += strlen(event->key);
    for (size_t i = 0; i < event->val_len; i++)
        *bytes += event->val ? ((const unsigned char *)event->val)[i] : 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t bytes = 0, step = size ? 1 + data[0] % 37 : 1;
    struct etcd_events events = {.cb = on_event, .arg = &bytes, .next_rev = 5};

    for (size_t at = 1; at < size; at += step) {
        if (etcd_events_take(&events, (const char *)data + at,
                             size - at < step ? size - at : step))
            break;
    }
    free(events.line);
    return 0;
}
