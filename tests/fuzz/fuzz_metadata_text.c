/* SPDX-License-Identifier: Apache-2.0 */
/* What metadata plugins read from keys, URLs and servers: names with ports, users in URLs,
 * base64. What is encoded must come back. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../../metadata_plugins/common/base64.h"
#include "../../metadata_plugins/common/net.h"
#include "../../metadata_plugins/common/url.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(int holds)
{
    if (!holds)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1), *coded, *plain, *user, *password, host[64];
    uint16_t port;
    size_t len = 0;

    if (!text)
        return 0;
    memcpy(text, data, size);
    text[size] = '\0';

    coded = fm_base64(data, size);
    plain = coded ? fm_base64_decode(coded, &len) : NULL;
    must(plain && len == size && !memcmp(plain, data, size));
    free(plain);
    free(coded);
    free(fm_base64_decode(text, &len));

    if (!fm_net_split(text, 12001, host, sizeof(host), &port))
        must(host[0] && strlen(host) < sizeof(host));

    coded = fm_url_escape(text);
    must(coded && strlen(coded) <= 3 * strlen(text));
    free(coded);
    if (!fm_url_split_user(text, &plain, &user, &password)) {
        must(strlen(plain) <= strlen(text));
        free(plain);
        free(user);
        free(password);
    }
    free(text);
    return 0;
}
