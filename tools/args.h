/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FERRY_TOOL_ARGS_H
#define FERRY_TOOL_ARGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/*
 * One table a subcommand: parsing, --help, the manual page and the completion of the shell all
 * come from it, so that they cannot disagree.
 */
enum opt_type {
    OPT_FLAG,    /* bool */
    OPT_COUNT,   /* uint64_t */
    OPT_SIZE,    /* uint64_t bytes: 4096, 64k, 1m, 2g (powers of 1024) */
    OPT_SECONDS, /* uint64_t milliseconds, written as seconds: 30, 0.5 */
    OPT_TEXT,    /* const char *: borrowed from the command line or the table */
    OPT_FILE,    /* the same; the shell completes it with file names */
    OPT_CHOICE,  /* int: index in `choices` */
};

struct opt {
    const char *name;    /* without dashes; NULL ends the table */
    const char *meta;    /* what the value is called in the help; NULL for a flag */
    const char *def;     /* default, as a user would write it; NULL = none (0, NULL) */
    const char *choices; /* "one|two" for OPT_CHOICE */
    const char *help;    /* one sentence, no full stop */
    uint64_t min, max;   /* of counts, sizes and milliseconds; max 0 = no limit */
    size_t offset;       /* of the value in the options' struct */
    enum opt_type type;
    char letter; /* 'v' for -v; 0 = none */
};

struct example {
    const char *line, *what; /* line NULL ends the list */
};

struct command {
    const char *name;
    const char *summary;  /* one line for the list of commands */
    const char *synopsis; /* what follows the options: "[target | initiator]", "" = nothing */
    const char *words;    /* what may stand there, for completion: "target initiator" */
    const char *about;    /* paragraphs, separated by an empty line */
    const struct opt *opts;
    const struct example *examples; /* NULL = none */
    size_t options_size;
    int max_args;
    /* Returns the exit status. `options` was filled as the table says. */
    int (*run)(const struct command *self, const void *options, int argc, char **argv);
};

/* Exit statuses of every subcommand; the manual page lists them. */
enum { EXIT_OK = 0, EXIT_WRONG = 1, EXIT_USAGE = 2, EXIT_LOST = 3, EXIT_INTERRUPTED = 130 };

/*
 * Defaults first, then the words after the subcommand's name. `argv` is reordered: the words
 * that are no options come first, *argc_out of them. False: `error` says what is wrong in one
 * line. *help_out: --help was among them, nothing else is to be done.
 */
bool args_parse(const struct command *command, int argc, char **argv, void *options,
                int *argc_out, bool *help_out, char *error, size_t room);

/* One value as the table's types have it, for lists and for geometry strings. */
bool args_number(const char *text, enum opt_type type, uint64_t *value_out);
/* "4k,64k,1m"; at most `room` values, at least one. */
bool args_list(const char *text, enum opt_type type, uint64_t min, uint64_t max,
               uint64_t *values, size_t room, size_t *n_out, char *error, size_t error_room);

/* The word of `words` (n of them) most like `word`, or NULL where none is near. */
const char *args_nearest(const char *word, const char *const *words, size_t n);

/* One line to stderr, "ferry NAME: ...", and EXIT_USAGE. */
int args_usage_error(const struct command *command, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

#endif /* FERRY_TOOL_ARGS_H */
