/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FERRY_TOOL_CONTENT_H
#define FERRY_TOOL_CONTENT_H

#include "model.h"

/*
 * What stands in a block follows from its key, the layer, keys or values, and the place inside
 * the piece: the receiver can make it up again without the sender, and no two places of two
 * caches hold the same.
 */
void content_fill(const struct layout *layout, uint64_t key, uint8_t *base, uint32_t slot);
/* Compares with what content_fill writes. The first differing place: false. */
struct content_fault {
    uint32_t layer, half;
    uint64_t off; /* in the piece */
};
bool content_check(const struct layout *layout, uint64_t key, const uint8_t *base,
                   uint32_t slot, struct content_fault *fault_out);
/* XXH3, 64 bits, over the key and all pieces in order. */
uint64_t content_sum(const struct layout *layout, uint64_t key, const uint8_t *base,
                     uint32_t slot);

#endif /* FERRY_TOOL_CONTENT_H */
