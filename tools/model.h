/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FERRY_TOOL_MODEL_H
#define FERRY_TOOL_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "trace.h"

/* What decides the size of a model's KV cache. */
struct model {
    char name[40];
    uint32_t layers, kv_heads, head_dim, dtype; /* dtype: bytes a number */
};

/* A name of the table, or "layers=28,kv_heads=4,head_dim=128,dtype=2". */
bool model_parse(const char *text, struct model *model_out, char *error, size_t room);
bool model_check(const struct model *model, char *error, size_t room);
/* Names of the table, "a, b, c". */
const char *model_names(void);
uint64_t model_token_bytes(const struct model *model);

/*
 * A paged KV cache in one stretch of memory: for each layer a region of keys and one of values,
 * in each a piece for every slot. A block of some tokens takes the same slot in all of them, so
 * that its pieces are 2 * layers ranges with nothing adjacent. Between layers there is a page
 * that belongs to nobody.
 */
struct layout {
    struct model model;
    uint32_t block_tokens;
    uint32_t slots;
    uint64_t piece_len;    /* bytes of one block in one layer, keys or values */
    uint64_t block_len;    /* of all pieces */
    uint64_t values_off;   /* from a layer's keys to its values */
    uint64_t layer_len;    /* what is registered of each layer */
    uint64_t layer_stride; /* from layer to layer */
    uint64_t total_len;
};

/* As many slots as fit into `memory`. False: none does. */
bool layout_make(const struct model *model, uint32_t block_tokens, uint64_t memory,
                 struct layout *layout_out, char *error, size_t room);
/* The layout that has exactly `slots`. */
bool layout_of(const struct model *model, uint32_t block_tokens, uint32_t slots,
               struct layout *layout_out, char *error, size_t room);
/* From the start of the memory; `half` 0 = keys, 1 = values. */
static inline uint64_t layout_off(const struct layout *layout, uint32_t slot, uint32_t layer,
                                  uint32_t half)
{
    return layer * layout->layer_stride + half * layout->values_off + slot * layout->piece_len;
}

/*
 * How a trace is made smaller so that it fits: each of its 512-token blocks stands for
 * 512/divisor tokens. 1 = as it is.
 */
struct scale {
    uint32_t divisor; /* a power of two */
    uint32_t block_tokens;
    uint32_t blocks_per_hash;
};

bool scale_make(uint32_t divisor, uint32_t block_tokens, struct scale *scale_out, char *error,
                size_t room);
/* The least divisor with which the largest request takes at most half of the slots, else all of
 * them. False: none is small enough; the text says what would help. */
bool scale_choose(const struct trace *trace, const struct layout *layout,
                  struct scale *scale_out, char *error, size_t room);
uint64_t scale_tokens(const struct scale *scale, const struct trace_request *request);
size_t scale_blocks(const struct scale *scale, const struct trace_request *request);
/* Names of its blocks: equal where prefix and position are; scale_blocks() of them. */
void scale_keys(const struct scale *scale, const struct trace_request *request, uint64_t *keys);

#endif /* FERRY_TOOL_MODEL_H */
