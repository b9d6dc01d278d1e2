/* SPDX-License-Identifier: Apache-2.0 */
/* Files that are named like plugins: looking into them never reads beyond, whatever they are.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "loader_inner.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fy_elf elf = {.symbol = 77};
    struct ferry_transport_plugin descriptor;
    struct ferry_transport_ops table;
    ferry_status status = fy_elf_open(data, size, FERRY_TRANSPORT_SYMBOL, &elf);
    char text[64];

    if (status != FERRY_OK && (status != FERRY_EABI || elf.symbol != 77))
        abort();
    if (status || !fy_elf_read(&elf, elf.symbol, &descriptor, sizeof(descriptor)))
        return 0;
    (void)fy_elf_read(&elf, (uintptr_t)descriptor.ops, &table, sizeof(table));
    if (fy_elf_text(&elf, (uintptr_t)descriptor.hdr.name, text, sizeof(text)) &&
        strlen(text) >= sizeof(text))
        abort();
    return 0;
}
