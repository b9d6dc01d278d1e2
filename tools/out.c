/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the commands print: tables, figures with units, the progress line, JSON files. Knows
 * nothing of what is measured.
 */
#include "out.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

uint64_t out_now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

const char *out_bytes(char *text, uint64_t bytes)
{
    static const char *const units[] = {"KiB", "MiB", "GiB", "TiB"};
    double value = (double)bytes / 1024;
    size_t unit = 0;

    if (bytes < 10240) {
        snprintf(text, 32, "%llu B", (unsigned long long)bytes);
        return text;
    }
    while (value >= 1024 && unit + 1 < sizeof(units) / sizeof(units[0])) {
        value /= 1024;
        unit++;
    }
    snprintf(text, 32, value < 10 ? "%.2f %s" : "%.1f %s", value, units[unit]);
    return text;
}

const char *out_duration(char *text, uint64_t ns)
{
    if (ns < 1000000)
        snprintf(text, 32, "%.1f us", (double)ns / 1e3);
    else if (ns < 1000000000)
        snprintf(text, 32, "%.2f ms", (double)ns / 1e6);
    else
        snprintf(text, 32, "%.2f s", (double)ns / 1e9);
    return text;
}

void progress_start(struct progress *progress, const char *what, uint64_t total)
{
    const char *term = getenv("TERM");

    *progress = (struct progress){.total = total, .what = what};
    progress->on = isatty(STDERR_FILENO) && term && strcmp(term, "dumb") != 0;
}

void progress_at(struct progress *progress, uint64_t done, const char *note)
{
    enum { WIDTH = 30 };
    uint64_t now;
    char bar[WIDTH + 1];
    size_t full;

    if (!progress->on)
        return;
    now = out_now_ns();
    if (progress->drawn_ns && now - progress->drawn_ns < 100000000 && done < progress->total)
        return;
    progress->drawn_ns = now;
    full = progress->total ? (size_t)((double)done / (double)progress->total * WIDTH) : 0;
    memset(bar, '.', WIDTH);
    memset(bar, '#', full > WIDTH ? WIDTH : full);
    bar[WIDTH] = 0;
    fprintf(stderr, "\r\033[K%s [%s] %llu/%llu %s", progress->what, bar,
            (unsigned long long)done, (unsigned long long)progress->total, note);
    fflush(stderr);
}

void progress_end(struct progress *progress)
{
    if (progress->on && progress->drawn_ns) {
        fprintf(stderr, "\r\033[K");
        fflush(stderr);
    }
    progress->on = false;
}

struct table {
    size_t columns, rows, room;
    const char *right;
    char **cells; /* the heads are row 0 */
};

static void add(struct table *table, const char *const *cells)
{
    if (table->rows == table->room) {
        size_t room = table->room ? table->room * 2 : 16;
        char **grown = realloc(table->cells, room * table->columns * sizeof(char *));
        if (!grown)
            return;
        table->cells = grown;
        table->room = room;
    }
    for (size_t i = 0; i < table->columns; i++)
        table->cells[table->rows * table->columns + i] = strdup(cells[i] ? cells[i] : "");
    table->rows++;
}

struct table *table_new(size_t columns, const char *const *heads, const char *right_aligned)
{
    struct table *table = calloc(1, sizeof(*table));

    if (!table)
        return NULL;
    table->columns = columns;
    table->right = right_aligned;
    add(table, heads);
    return table;
}

void table_row(struct table *table, const char *const *cells)
{
    if (table)
        add(table, cells);
}

/* Columns on the screen: bytes that do not continue a UTF-8 character. */
static int width(const char *text)
{
    int n = 0;

    for (; *text; text++)
        n += ((unsigned char)*text & 0xc0) != 0x80;
    return n;
}

void table_print(const struct table *table)
{
    if (!table)
        return;
    for (size_t r = 0; r < table->rows; r++) {
        for (size_t c = 0; c < table->columns; c++) {
            const char *cell = table->cells[r * table->columns + c];
            bool last = c + 1 == table->columns;
            int most = 0;
            for (size_t i = 0; i < table->rows; i++) {
                int w = width(table->cells[i * table->columns + c]);
                most = w > most ? w : most;
            }
            if (c < strlen(table->right) && table->right[c] == 'r')
                printf("%*s%s%s", most - width(cell), "", cell, last ? "" : "  ");
            else
                printf("%s%*s", cell, last ? 0 : most - width(cell) + 2, "");
        }
        putchar('\n');
    }
    fflush(stdout);
}

void table_free(struct table *table)
{
    if (!table)
        return;
    for (size_t i = 0; i < table->rows * table->columns; i++)
        free(table->cells[i]);
    free(table->cells);
    free(table);
}

bool out_json(const char *path, const struct cJSON *json)
{
    char *text = cJSON_Print(json);
    bool stdio = strcmp(path, "-") == 0;
    FILE *file = stdio ? stdout : fopen(path, "we");
    bool good = text && file && fprintf(file, "%s\n", text) > 0;

    if (file && (stdio ? fflush(file) : fclose(file)) != 0)
        good = false;
    if (!good)
        fprintf(stderr, "ferry: cannot write %s: %s\n", path, strerror(errno));
    cJSON_free(text);
    return good;
}
