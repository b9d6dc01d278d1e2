/* SPDX-License-Identifier: Apache-2.0 */
/* Files that are named like plugins: looking into them never reads beyond, whatever they are.
 */
#include <stdint.h>
#include <stdlib.h>

#include "loader_inner.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct ferry_plugin_hdr hdr = {.size = 77};
    ferry_status status = fy_elf_peek(data, size, FERRY_TRANSPORT_SYMBOL, &hdr);

    if (status != FERRY_OK && (status != FERRY_EABI || hdr.size != 77))
        abort();
    return 0;
}
