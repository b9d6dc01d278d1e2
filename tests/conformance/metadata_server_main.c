/* SPDX-License-Identifier: Apache-2.0 */
/* `ferry metadata-server` alone, for tests that start it: needs no engine and no libferry. */
#include <stdio.h>
#include <stdlib.h>

#include "commands.h"

int main(int argc, char **argv)
{
    const struct command *command = &cmd_metadata_server;
    void *options = calloc(1, command->options_size);
    char error[256];
    bool help = false;
    int n = 0, rc = EXIT_USAGE;

    if (!options)
        return EXIT_LOST;
    if (args_parse(command, argc - 1, argv + 1, options, &n, &help, error, sizeof(error)))
        rc = command->run(command, options, n, argv + 1);
    else
        fprintf(stderr, "%s\n", error);
    free(options);
    return rc;
}
