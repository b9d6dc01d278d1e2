/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "model.h"

static char error[256];

static void a_line_of_the_format_is_read(void **state)
{
    static const char line[] =
        "{\"timestamp\": 27482, \"input_length\": 1025, \"output_length\": 52, "
        "\"hash_ids\": [46, 47, 9007199254740992], \"more\": {}}\n";
    struct trace trace = {0};

    assert_true(trace_line(line, sizeof(line) - 1, &trace, error, sizeof(error)));
    assert_int_equal(trace.n, 1);
    assert_int_equal(trace.requests[0].at_ms, 27482);
    assert_int_equal(trace.requests[0].input_tokens, 1025);
    assert_int_equal(trace.requests[0].output_tokens, 52);
    assert_int_equal(trace.requests[0].n_hashes, 3);
    assert_true(trace.requests[0].hashes[2] == 9007199254740992u);
    trace_free(&trace);
}

static void a_broken_line_says_what_is_wrong(void **state)
{
    static const struct {
        const char *line, *error;
    } cases[] = {
        {"{\"timestamp\": 0", "not a JSON object"},
        {"[1]", "not a JSON object"},
        {"{\"timestamp\": 0, \"output_length\": 1, \"hash_ids\": [1]}", "no \"input_length\""},
        {"{\"timestamp\": 0, \"input_length\": -5, \"output_length\": 1, \"hash_ids\": [1]}",
         "\"input_length\" is not a whole number of at most 67108864"},
        {"{\"timestamp\": 0.5, \"input_length\": 5, \"output_length\": 1, \"hash_ids\": [1]}",
         "\"timestamp\" is not a whole number of at most 9007199254740992"},
        {"{\"timestamp\": 0, \"input_length\": 5, \"output_length\": 1}",
         "no array \"hash_ids\""},
        {"{\"timestamp\": 0, \"input_length\": 513, \"output_length\": 1, \"hash_ids\": [1]}",
         "513 tokens want 2 hash_ids, there are 1"},
        {"{\"timestamp\": 0, \"input_length\": 0, \"output_length\": 1, \"hash_ids\": []}",
         "0 tokens want 0 hash_ids, there are 0"},
        {"{\"timestamp\": 0, \"input_length\": 5, \"output_length\": 1, \"hash_ids\": [\"a\"]}",
         "hash_ids[0] is not a whole number"},
    };
    struct trace trace = {0};

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_false(
            trace_line(cases[i].line, strlen(cases[i].line), &trace, error, sizeof(error)));
        assert_string_equal(error, cases[i].error);
        assert_int_equal(trace.n, 0);
    }
    trace_free(&trace);
}

static void a_file_is_read_up_to_the_limit_and_errors_name_the_line(void **state)
{
    static const char good[] =
        "{\"timestamp\":0,\"input_length\":10,\"output_length\":1,\"hash_ids\":[0]}\n\n"
        "{\"timestamp\":5,\"input_length\":20,\"output_length\":1,\"hash_ids\":[1]}\n"
        "{\"timestamp\":";
    char path[] = "/tmp/ferry_trace_XXXXXX", want[128];
    int fd = mkstemp(path);
    struct trace trace;

    assert_true(fd >= 0);
    assert_int_equal(write(fd, good, sizeof(good) - 1), sizeof(good) - 1);
    close(fd);
    assert_true(trace_read(path, 2, &trace, error, sizeof(error)));
    assert_int_equal(trace.n, 2);
    assert_int_equal(trace.requests[1].at_ms, 5);
    trace_free(&trace);
    assert_false(trace_read(path, 0, &trace, error, sizeof(error)));
    snprintf(want, sizeof(want), "%s:4: not a JSON object", path);
    assert_string_equal(error, want);
    unlink(path);
    assert_false(trace_read(path, 0, &trace, error, sizeof(error)));
    assert_non_null(strstr(error, "No such file"));
}

static void a_synthetic_trace_shares_prefixes(void **state)
{
    struct trace trace, again;
    size_t shared = 0;

    assert_true(trace_synthetic(50, &trace));
    assert_true(trace_synthetic(50, &again));
    for (size_t i = 0; i < trace.n; i++) {
        const struct trace_request *r = &trace.requests[i];
        assert_int_equal(r->hashes[0], 0);
        assert_int_equal(r->n_hashes, (r->input_tokens + 511) / 512);
        assert_int_equal(r->n_hashes, again.requests[i].n_hashes);
        assert_memory_equal(r->hashes, again.requests[i].hashes, r->n_hashes * 8);
        for (size_t j = 0; j < i && r->n_hashes > 1; j++)
            if (trace.requests[j].n_hashes > 1 && trace.requests[j].hashes[1] == r->hashes[1]) {
                shared++;
                break;
            }
    }
    assert_true(shared > 10);
    trace_free(&trace);
    trace_free(&again);
}

static void models_are_named_or_spelt_out(void **state)
{
    struct model model;

    assert_true(model_parse("qwen2.5-7b", &model, error, sizeof(error)));
    assert_int_equal(model_token_bytes(&model), 57344);
    assert_true(
        model_parse("layers=2,kv_heads=1,head_dim=8,dtype=1", &model, error, sizeof(error)));
    assert_int_equal(model_token_bytes(&model), 32);
    assert_false(model_parse("gpt-9", &model, error, sizeof(error)));
    assert_non_null(strstr(error, "qwen2.5-7b"));
    assert_false(model_parse("layers=2,kv_heads=1", &model, error, sizeof(error)));
    assert_false(model_parse("layers=2,heads=1", &model, error, sizeof(error)));
    assert_false(model_parse("layers=,kv_heads=1,head_dim=1", &model, error, sizeof(error)));
    assert_false(
        model_parse("layers=99999,kv_heads=1,head_dim=1", &model, error, sizeof(error)));
}

static void pieces_of_a_layout_never_touch_each_other(void **state)
{
    struct model model;
    struct layout layout;
    uint8_t *taken;

    assert_true(
        model_parse("layers=3,kv_heads=1,head_dim=8,dtype=2", &model, error, sizeof(error)));
    assert_true(layout_make(&model, 16, 64 << 10, &layout, error, sizeof(error)));
    assert_true(layout.total_len <= 64 << 10);
    assert_true(layout.slots > 20);
    taken = calloc(1, layout.total_len);
    assert_non_null(taken);
    for (uint32_t slot = 0; slot < layout.slots; slot++)
        for (uint32_t layer = 0; layer < 3; layer++)
            for (uint32_t half = 0; half < 2; half++) {
                uint64_t off = layout_off(&layout, slot, layer, half);
                assert_true(off + layout.piece_len <=
                            layer * layout.layer_stride + layout.layer_len);
                for (uint64_t i = 0; i < layout.piece_len; i++)
                    assert_int_equal(taken[off + i]++, 0);
            }
    free(taken);
    assert_false(layout_make(&model, 16, 8192, &layout, error, sizeof(error)));
    assert_false(layout_make(&model, 24, 1 << 20, &layout, error, sizeof(error)));
    assert_false(layout_of(&model, 16, 0, &layout, error, sizeof(error)));
}

static void the_default_layout_fills_its_memory(void **state)
{
    struct model model;
    struct layout layout;

    assert_true(model_parse("qwen2.5-7b", &model, error, sizeof(error)));
    assert_true(layout_make(&model, 16, 1 << 30, &layout, error, sizeof(error)));
    assert_int_equal(layout.piece_len, 16384);
    assert_int_equal(layout.block_len, 917504);
    assert_true(layout.total_len <= 1 << 30);
    assert_true(layout.total_len > (1 << 30) - (2 << 20));
}

static void scaling_keeps_prefixes_and_fits(void **state)
{
    static const char *const lines[] = {
        "{\"timestamp\":0,\"input_length\":1000,\"output_length\":1,\"hash_ids\":[7,8]}",
        "{\"timestamp\":0,\"input_length\":1500,\"output_length\":1,\"hash_ids\":[7,9,10]}",
    };
    struct trace trace = {0};
    struct model model;
    struct layout layout;
    struct scale scale;
    uint64_t keys[2][96];

    for (int i = 0; i < 2; i++)
        assert_true(trace_line(lines[i], strlen(lines[i]), &trace, error, sizeof(error)));
    assert_true(scale_make(1, 16, &scale, error, sizeof(error)));
    assert_int_equal(scale_blocks(&scale, &trace.requests[0]), 63);
    assert_int_equal(scale_blocks(&scale, &trace.requests[1]), 94);
    assert_true(scale_make(4, 16, &scale, error, sizeof(error)));
    assert_int_equal(scale_tokens(&scale, &trace.requests[0]), 250);
    assert_int_equal(scale_blocks(&scale, &trace.requests[0]), 16);
    scale_keys(&scale, &trace.requests[0], keys[0]);
    scale_keys(&scale, &trace.requests[1], keys[1]);
    for (int i = 0; i < 8; i++)
        assert_true(keys[0][i] == keys[1][i]);
    for (int i = 8; i < 16; i++)
        for (int j = 0; j < 24; j++)
            assert_true(keys[0][i] != keys[1][j]);
    assert_false(scale_make(3, 16, &scale, error, sizeof(error)));
    assert_false(scale_make(64, 16, &scale, error, sizeof(error)));

    assert_true(
        model_parse("layers=1,kv_heads=1,head_dim=8,dtype=2", &model, error, sizeof(error)));
    assert_true(layout_of(&model, 16, 188, &layout, error, sizeof(error)));
    assert_true(scale_choose(&trace, &layout, &scale, error, sizeof(error)));
    assert_int_equal(scale.divisor, 1);
    assert_true(layout_of(&model, 16, 187, &layout, error, sizeof(error)));
    assert_true(scale_choose(&trace, &layout, &scale, error, sizeof(error)));
    assert_int_equal(scale.divisor, 2);
    assert_true(layout_of(&model, 16, 3, &layout, error, sizeof(error)));
    assert_true(scale_choose(&trace, &layout, &scale, error, sizeof(error)));
    assert_int_equal(scale.divisor, 32);
    assert_true(layout_of(&model, 16, 2, &layout, error, sizeof(error)));
    assert_false(scale_choose(&trace, &layout, &scale, error, sizeof(error)));
    assert_non_null(strstr(error, "takes 3 blocks even at 1/32, the memory holds 2"));
    trace_free(&trace);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_line_of_the_format_is_read),
        cmocka_unit_test(a_broken_line_says_what_is_wrong),
        cmocka_unit_test(a_file_is_read_up_to_the_limit_and_errors_name_the_line),
        cmocka_unit_test(a_synthetic_trace_shares_prefixes),
        cmocka_unit_test(models_are_named_or_spelt_out),
        cmocka_unit_test(pieces_of_a_layout_never_touch_each_other),
        cmocka_unit_test(the_default_layout_fills_its_memory),
        cmocka_unit_test(scaling_keeps_prefixes_and_fits),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
