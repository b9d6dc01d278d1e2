/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The `ferry` command: finds the subcommand in the table, reads its options, runs it. What a
 * subcommand does is in its own file; all of them use the public API only.
 */
#include <stdlib.h>
#include <string.h>

#include "commands.h"
#include "ferry/ferry.h"
#include "help.h"

static const struct command cmd_help;

static const struct command *const commands[] = {
    &cmd_prefill, &cmd_decode, &cmd_bench,       &cmd_links,    &cmd_doctor,          &cmd_topo,
    &cmd_plugins, &cmd_plugin, &cmd_conformance, &cmd_metadata, &cmd_metadata_server, &cmd_help,
    NULL,
};

static const struct command *find(const char *name)
{
    for (size_t i = 0; commands[i]; i++)
        if (strcmp(commands[i]->name, name) == 0)
            return commands[i];
    return NULL;
}

static int no_command(const char *name)
{
    const char *names[sizeof(commands) / sizeof(commands[0])];
    size_t n = 0;
    const char *near;

    for (; commands[n]; n++)
        names[n] = commands[n]->name;
    near = args_nearest(name, names, n);
    if (near)
        fprintf(stderr, "ferry: no command '%s'; did you mean '%s'?\n", name, near);
    else
        fprintf(stderr, "ferry: no command '%s'; see ferry --help\n", name);
    return EXIT_USAGE;
}

struct help_options {
    bool man;
    int completion;
};

static int help(const struct command *self, const void *options, int argc, char **argv)
{
    const struct help_options *o = options;
    const struct command *command;

    if (o->man)
        help_man(stdout, commands, FERRY_VERSION);
    else if (o->completion)
        help_bash(stdout, commands);
    else if (argc) {
        command = find(argv[0]);
        if (!command)
            return no_command(argv[0]);
        help_command(stdout, command);
    } else
        help_overview(stdout, commands);
    return EXIT_OK;
}

static const struct opt help_opts[] = {
    {.name = "man",
     .type = OPT_FLAG,
     .help = "print the manual page, for man -l",
     .offset = offsetof(struct help_options, man)},
    {.name = "completion",
     .meta = "SHELL",
     .type = OPT_CHOICE,
     .choices = "none|bash",
     .def = "none",
     .help = "print the completion for a shell",
     .offset = offsetof(struct help_options, completion)},
    {0},
};

static const struct command cmd_help = {
    .name = "help",
    .summary = "text about a command, the manual page, completion for the shell",
    .synopsis = "[COMMAND]",
    .words = "",
    .about = "Prints the list of commands or the options of one of them. The manual page and "
             "the completion are made from the same tables.",
    .opts = help_opts,
    .options_size = sizeof(struct help_options),
    .max_args = 1,
    .run = help,
};

static int run(const struct command *command, int argc, char **argv)
{
    void *options = malloc(command->options_size);
    char error[512];
    bool wants_help;
    int n, status;

    if (!options)
        return EXIT_LOST;
    if (!args_parse(command, argc, argv, options, &n, &wants_help, error, sizeof(error)))
        status = args_usage_error(command, "%s", error);
    else if (wants_help) {
        help_command(stdout, command);
        status = EXIT_OK;
    } else
        status = command->run(command, options, n, argv);
    free(options);
    return status;
}

int main(int argc, char **argv)
{
    const struct command *command;

    if (argc < 2) {
        help_overview(stderr, commands);
        return EXIT_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        help_overview(stdout, commands);
        return EXIT_OK;
    }
    if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0) {
        printf("ferry %s (library %s)\n", FERRY_VERSION, ferry_version());
        return EXIT_OK;
    }
    command = find(argv[1]);
    if (!command)
        return no_command(argv[1]);
    return run(command, argc - 2, argv + 2);
}
