/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The benchmark as a picture, through gnuplot. Knows the rows, not how they were measured.
 */
#include "bench_plot.h"

#include <errno.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

const char *bench_label(char *text, const struct bench_spec *spec)
{
    char size[24];

    snprintf(text, 96, "%s %s x %u, %u thread%s, %s, %s", spec->read ? "read" : "write",
             bench_size_text(size, spec->size), spec->batch, spec->threads,
             spec->threads == 1 ? "" : "s", spec->spin ? "spin" : "block",
             spec->hot ? "hot" : "cold");
    return text;
}

void bench_plot_program(FILE *out, const struct bench_row *rows, size_t n, const char *path)
{
    size_t shown = 0;

    fprintf(out, "$rows << EOD\n");
    for (size_t i = 0; i < n; i++) {
        char label[96];
        if (rows[i].error[0])
            continue;
        fprintf(out, "\"%s\" %.4f %.4f\n", bench_label(label, &rows[i].spec),
                rows[i].ferry[0].GBps, rows[i].raw.GBps);
        shown++;
    }
    fprintf(out, "EOD\nset output '");
    for (; *path; path++)
        fprintf(out, *path == '\'' ? "''" : "%c", *path);
    fprintf(out,
            "'\nset terminal svg size %zu,560 background 'white' font 'sans-serif,12'\n"
            "set title 'Ferry beside the raw reference of the same shape'\n"
            "set ylabel 'GB/s'\nset yrange [0:*]\nset grid ytics\n"
            "set style data histograms\nset style histogram clustered gap 1\n"
            "set style fill solid 0.9 noborder\nset xtics rotate by -40 noenhanced\n"
            "set key top left\nset rmargin 12\n"
            "plot $rows using 2:xtic(1) title 'ferry' linecolor rgb '#1f77b4', "
            "'' using 3 title 'raw' linecolor rgb '#bbbbbb'\n",
            400 + shown * 60);
}

bool bench_plot(const char *path, const struct bench_row *rows, size_t n)
{
    char name[] = "gnuplot";
    char *argv[] = {name, NULL};
    posix_spawn_file_actions_t actions;
    int fds[2], rc, status = 0;
    pid_t pid;
    FILE *out;

    if (pipe(fds) != 0) {
        fprintf(stderr, "ferry bench: --plot: %s\n", strerror(errno));
        return false;
    }
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, fds[0], STDIN_FILENO);
    posix_spawn_file_actions_addclose(&actions, fds[0]);
    posix_spawn_file_actions_addclose(&actions, fds[1]);
    rc = posix_spawnp(&pid, name, &actions, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    close(fds[0]);
    if (rc != 0) {
        close(fds[1]);
        fprintf(stderr, "ferry bench: --plot needs gnuplot (Debian: gnuplot-nox): %s\n",
                strerror(rc));
        return false;
    }
    out = fdopen(fds[1], "w");
    if (out) {
        bench_plot_program(out, rows, n, path);
        fclose(out);
    } else
        close(fds[1]);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (!out || !WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        fprintf(stderr, "ferry bench: gnuplot could not draw %s\n", path);
        return false;
    }
    return true;
}
