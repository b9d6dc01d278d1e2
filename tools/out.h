/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FERRY_TOOL_OUT_H
#define FERRY_TOOL_OUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cJSON;

uint64_t out_now_ns(void); /* CLOCK_MONOTONIC */

/* "1.50 GiB", "917504 B" below 10 KiB; `text` has room for 32. Returns `text`. */
const char *out_bytes(char *text, uint64_t bytes);
/* "8.1 us", "12.3 ms", "4.56 s"; `text` has room for 32. Returns `text`. */
const char *out_duration(char *text, uint64_t ns);

/*
 * A line that is drawn over and over on a terminal, and nothing elsewhere. One thread at a
 * time. stderr, so that standard output keeps to results.
 */
struct progress {
    bool on;
    uint64_t total, drawn_ns;
    const char *what;
};
void progress_start(struct progress *progress, const char *what, uint64_t total);
/* Draws at most ten times a second. `note` stands behind the bar; may be "". */
void progress_at(struct progress *progress, uint64_t done, const char *note);
/* Wipes the line. Safe to call twice. */
void progress_end(struct progress *progress);

/* Rows of text with columns as wide as they need be. */
struct table;
struct table *table_new(size_t columns, const char *const *heads, const char *right_aligned);
/* `cells` are copied; NULL is an empty cell. */
void table_row(struct table *table, const char *const *cells);
void table_print(const struct table *table);
void table_free(struct table *table);

/* Writes the document to `path` ("-" = standard output) with a line feed. False: a message has
 * gone to stderr. */
bool out_json(const char *path, const struct cJSON *json);

#endif /* FERRY_TOOL_OUT_H */
