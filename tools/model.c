/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Geometry: of models, of the paged cache that both sides keep, of requests scaled to fit. Only
 * arithmetic; knows neither engines nor contents.
 */
#include "model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "args.h"

#define PAGE 4096

static const struct model models[] = {
    {"qwen2.5-7b", 28, 4, 128, 2},   {"qwen2.5-0.5b", 24, 2, 64, 2},
    {"qwen2.5-14b", 48, 8, 128, 2},  {"qwen2.5-72b", 80, 8, 128, 2},
    {"llama-3.1-8b", 32, 8, 128, 2}, {"llama-3.1-70b", 80, 8, 128, 2},
};

const char *model_names(void)
{
    return "qwen2.5-7b, qwen2.5-0.5b, qwen2.5-14b, qwen2.5-72b, llama-3.1-8b, llama-3.1-70b";
}

bool model_check(const struct model *model, char *error, size_t room)
{
    if (model->layers < 1 || model->layers > 1024 || model->kv_heads < 1 ||
        model->kv_heads > 1024 || model->head_dim < 1 || model->head_dim > 4096 ||
        model->dtype < 1 || model->dtype > 8) {
        snprintf(
            error, room,
            "a model has 1 to 1024 layers, 1 to 1024 kv_heads, a head_dim of 1 to 4096 and "
            "a dtype of 1 to 8 bytes");
        return false;
    }
    return true;
}

bool model_parse(const char *text, struct model *model_out, char *error, size_t room)
{
    struct model model = {.dtype = 2};

    for (size_t i = 0; i < sizeof(models) / sizeof(models[0]); i++)
        if (strcmp(models[i].name, text) == 0) {
            *model_out = models[i];
            return true;
        }
    if (!strchr(text, '=')) {
        snprintf(error, room, "no model '%s'; there are %s, or layers=28,kv_heads=4,...", text,
                 model_names());
        return false;
    }
    for (const char *at = text; *at;) {
        size_t len = strcspn(at, ","), key = strcspn(at, "=");
        uint32_t *into = NULL;
        char number[16];
        uint64_t value;

        if (key == 6 && strncmp(at, "layers", 6) == 0)
            into = &model.layers;
        else if (key == 8 && strncmp(at, "kv_heads", 8) == 0)
            into = &model.kv_heads;
        else if (key == 8 && strncmp(at, "head_dim", 8) == 0)
            into = &model.head_dim;
        else if (key == 5 && strncmp(at, "dtype", 5) == 0)
            into = &model.dtype;
        if (!into || len <= key || len - key > sizeof(number)) {
            snprintf(error, room, "'%.*s' is none of layers=, kv_heads=, head_dim=, dtype=",
                     (int)(len < 60 ? len : 60), at);
            return false;
        }
        memcpy(number, at + key + 1, len - key - 1);
        number[len - key - 1] = 0;
        if (!args_number(number, OPT_COUNT, &value) || value > UINT32_MAX) {
            snprintf(error, room, "'%.*s' is not a whole number", (int)len, at);
            return false;
        }
        *into = (uint32_t)value;
        at += len;
        if (*at)
            at++;
    }
    snprintf(model.name, sizeof(model.name), "custom");
    if (!model_check(&model, error, room))
        return false;
    *model_out = model;
    return true;
}

uint64_t model_token_bytes(const struct model *model)
{
    return 2ull * model->layers * model->kv_heads * model->head_dim * model->dtype;
}

static uint64_t round_up(uint64_t value, uint64_t to)
{
    return (value + to - 1) / to * to;
}

static void fill(struct layout *layout, uint32_t slots)
{
    const struct model *m = &layout->model;

    layout->slots = slots;
    layout->piece_len = (uint64_t)layout->block_tokens * m->kv_heads * m->head_dim * m->dtype;
    layout->block_len = 2 * m->layers * layout->piece_len;
    layout->values_off = slots * layout->piece_len;
    layout->layer_len = 2 * layout->values_off;
    layout->layer_stride = round_up(layout->layer_len, PAGE) + PAGE;
    layout->total_len = layout->layer_stride * m->layers;
}

static bool check(const struct model *model, uint32_t block_tokens, char *error, size_t room)
{
    if (!model_check(model, error, room))
        return false;
    if (block_tokens < 1 || block_tokens > TRACE_BLOCK_TOKENS ||
        (block_tokens & (block_tokens - 1))) {
        snprintf(error, room, "%u tokens a block: not a power of two of at most %d",
                 block_tokens, TRACE_BLOCK_TOKENS);
        return false;
    }
    return true;
}

bool layout_of(const struct model *model, uint32_t block_tokens, uint32_t slots,
               struct layout *layout_out, char *error, size_t room)
{
    struct layout layout = {.model = *model, .block_tokens = block_tokens};

    if (!check(model, block_tokens, error, room))
        return false;
    if (slots < 1 || slots > 1u << 24) {
        snprintf(error, room, "%u slots: not 1 to %u", slots, 1u << 24);
        return false;
    }
    fill(&layout, slots);
    *layout_out = layout;
    return true;
}

bool layout_make(const struct model *model, uint32_t block_tokens, uint64_t memory,
                 struct layout *layout_out, char *error, size_t room)
{
    struct layout layout = {.model = *model, .block_tokens = block_tokens};
    uint64_t per_layer, slots;

    if (!check(model, block_tokens, error, room))
        return false;
    fill(&layout, 1);
    per_layer = memory / model->layers / PAGE * PAGE;
    slots = per_layer > PAGE ? (per_layer - PAGE) / (2 * layout.piece_len) : 0;
    if (!slots) {
        snprintf(error, room,
                 "one block takes %llu bytes, which %llu bytes of memory do not hold",
                 (unsigned long long)layout.block_len, (unsigned long long)memory);
        return false;
    }
    return layout_of(model, block_tokens, slots > 1u << 24 ? 1u << 24 : (uint32_t)slots,
                     layout_out, error, room);
}

bool scale_make(uint32_t divisor, uint32_t block_tokens, struct scale *scale_out, char *error,
                size_t room)
{
    if (divisor < 1 || (divisor & (divisor - 1)) ||
        (uint64_t)divisor * block_tokens > TRACE_BLOCK_TOKENS) {
        snprintf(error, room,
                 "scale 1/%u: the divisor is a power of two of at most %u with blocks of %u "
                 "tokens",
                 divisor, TRACE_BLOCK_TOKENS / block_tokens, block_tokens);
        return false;
    }
    *scale_out = (struct scale){.divisor = divisor,
                                .block_tokens = block_tokens,
                                .blocks_per_hash = TRACE_BLOCK_TOKENS / divisor / block_tokens};
    return true;
}

static uint64_t tail_tokens(const struct scale *scale, const struct trace_request *request)
{
    uint64_t tail = request->input_tokens - (request->n_hashes - 1) * TRACE_BLOCK_TOKENS;

    return (tail + scale->divisor - 1) / scale->divisor;
}

uint64_t scale_tokens(const struct scale *scale, const struct trace_request *request)
{
    return (request->n_hashes - 1) * (TRACE_BLOCK_TOKENS / scale->divisor) +
           tail_tokens(scale, request);
}

size_t scale_blocks(const struct scale *scale, const struct trace_request *request)
{
    uint64_t tail = tail_tokens(scale, request);

    return (request->n_hashes - 1) * scale->blocks_per_hash +
           (size_t)((tail + scale->block_tokens - 1) / scale->block_tokens);
}

void scale_keys(const struct scale *scale, const struct trace_request *request, uint64_t *keys)
{
    size_t n = scale_blocks(scale, request);

    for (size_t i = 0; i < n; i++)
        keys[i] = request->hashes[i / scale->blocks_per_hash] * TRACE_BLOCK_TOKENS +
                  i % scale->blocks_per_hash;
}

bool scale_choose(const struct trace *trace, const struct layout *layout,
                  struct scale *scale_out, char *error, size_t room)
{
    struct scale scale, whole = {0};
    size_t most = 0;

    for (uint32_t d = 1; d * layout->block_tokens <= TRACE_BLOCK_TOKENS; d *= 2) {
        if (!scale_make(d, layout->block_tokens, &scale, error, room))
            return false;
        most = 0;
        for (size_t i = 0; i < trace->n; i++) {
            size_t blocks = scale_blocks(&scale, &trace->requests[i]);
            most = blocks > most ? blocks : most;
        }
        if (most <= layout->slots / 2) {
            *scale_out = scale;
            return true;
        }
        if (most <= layout->slots && !whole.divisor)
            whole = scale;
    }
    if (whole.divisor) {
        *scale_out = whole;
        return true;
    }
    snprintf(
        error, room,
        "the largest request takes %zu blocks even at 1/%u, the memory holds %u: give more "
        "--memory, fewer --block-tokens, or a smaller --model",
        most, TRACE_BLOCK_TOKENS / layout->block_tokens, layout->slots);
    return false;
}
