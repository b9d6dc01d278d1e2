/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FERRY_TOOL_BENCH_PLOT_H
#define FERRY_TOOL_BENCH_PLOT_H

#include <stdio.h>

#include "bench_ferry.h"

/* "write 64k x 16, 1 thread, spin, hot"; `text` has room for 96. */
const char *bench_label(char *text, const struct bench_spec *spec);
/* A gnuplot program that draws the rows that were measured: bars in pairs, Ferry and the
 * reference. `path` is where it writes. */
void bench_plot_program(FILE *out, const struct bench_row *rows, size_t n, const char *path);
/* Runs gnuplot on it. False: a message has gone to stderr. */
bool bench_plot(const char *path, const struct bench_row *rows, size_t n);

#endif /* FERRY_TOOL_BENCH_PLOT_H */
