/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FERRY_TOOL_TRACE_H
#define FERRY_TOOL_TRACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Tokens that one hash of Mooncake's trace format stands for. */
#define TRACE_BLOCK_TOKENS 512

struct trace_request {
    uint64_t at_ms; /* from the start of the trace */
    uint64_t input_tokens, output_tokens;
    uint64_t *hashes; /* one for each 512 tokens begun; equal hashes = equal prefixes */
    size_t n_hashes;
};

struct trace {
    struct trace_request *requests;
    size_t n, room;
};

/*
 * Mooncake's JSONL trace: {"timestamp", "input_length", "output_length", "hash_ids"} a line.
 * At most `limit` requests (0 = all). False: `error` names file, line and what is wrong.
 */
bool trace_read(const char *path, size_t limit, struct trace *trace, char *error, size_t room);
/* One line of it; appended to the trace. */
bool trace_line(const char *line, size_t len, struct trace *trace, char *error, size_t room);
/* Made up, the same for equal `n`: conversations that grow turn by turn behind one system
 * prompt, 512 to 8192 tokens. False: out of memory. */
bool trace_synthetic(size_t n, struct trace *trace);
void trace_free(struct trace *trace);

#endif /* FERRY_TOOL_TRACE_H */
