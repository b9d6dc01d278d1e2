/* SPDX-License-Identifier: Apache-2.0 */
/* What peers of the libfabric transport say: the first byte chooses the reader. What is read is
 * written and read again. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void request(const char *text, size_t len)
{
    static struct fab_request once, twice;
    const char *why = NULL;
    char *out;

    if (fab_request_parse(text, len, &once, &why) != FERRY_OK) {
        assert(why);
        return;
    }
    out = fab_request_encode(&once);
    assert(out && fab_request_parse(out, strlen(out), &twice, &why) == FERRY_OK);
    assert(memcmp(&once, &twice, sizeof(once)) == 0);
    free(out);
}

static void reply(const char *text, size_t len)
{
    static struct fab_reply once, twice;
    const char *why = NULL;
    char *out;

    if (fab_reply_parse(text, len, &once, &why) != FERRY_OK) {
        assert(why);
        return;
    }
    out = fab_reply_encode(&once);
    assert(out && fab_reply_parse(out, strlen(out), &twice, &why) == FERRY_OK);
    assert(memcmp(&once, &twice, sizeof(once)) == 0);
    free(out);
}

static void published(const char *text, size_t len)
{
    struct ferry_kv v = {.key = FAB_KEY, .val = text, .val_len = (uint32_t)len};
    struct ferry_kvs attrs = {.v = &v, .n = 1};
    struct fab_remote remote;
    struct fab_keys keys, again;
    const char *why = NULL;

    if (fab_remote_parse(&attrs, &remote, &why) == FERRY_OK) {
        assert(remote.n >= 1 && remote.n <= FAB_MAX_DEVICES);
        free(fab_remote_encode(&remote));
    }
    if (fab_keys_parse(&attrs, &keys, &why) == FERRY_OK) {
        char *out = fab_keys_encode(&keys);
        assert(keys.n >= 1 && keys.n <= FAB_MAX_DEVICES && keys.len);
        v.val = out;
        v.val_len = (uint32_t)strlen(out);
        assert(fab_keys_parse(&attrs, &again, &why) == FERRY_OK);
        assert(memcmp(&keys, &again, sizeof(keys)) == 0);
        free(out);
    }
    assert(why);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    const char *text = (const char *)data + 1;
    switch (data[0]) {
    case 'q':
        request(text, size - 1);
        break;
    case 'r':
        reply(text, size - 1);
        break;
    default:
        published(text, size - 1);
    }
    return 0;
}
