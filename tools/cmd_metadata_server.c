/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `ferry metadata-server`: starts the server, says where it listens, ends on SIGTERM or SIGINT.
 */
#include <signal.h>
#include <stddef.h>
#include <stdio.h>

#include "commands.h"
#include "metadata_server.h"

struct server_options {
    const char *host, *data, *cert, *key;
    uint64_t port, max_body, max_keys;
    bool overwrite, verbose;
};

static int run(const struct command *self, const void *values, int argc, char **argv)
{
    const struct server_options *o = values;
    const struct metadata_server_options options = {.host = o->host,
                                                    .port = (uint16_t)o->port,
                                                    .data = o->data,
                                                    .max_body = (size_t)o->max_body,
                                                    .max_keys = (size_t)o->max_keys,
                                                    .cert_file = o->cert,
                                                    .key_file = o->key,
                                                    .overwrite = o->overwrite,
                                                    .verbose = o->verbose};
    struct metadata_server *server;
    char url[320], error[512];
    sigset_t signals;
    int got;

    if (!o->cert != !o->key)
        return args_usage_error(self, "--cert and --key belong together");
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigprocmask(SIG_BLOCK, &signals, NULL); /* before the server's threads are made */
    if (metadata_server_open(&options, &server, url, error, sizeof(error))) {
        fprintf(stderr, "ferry metadata-server: %s\n", error);
        return EXIT_WRONG;
    }
    printf("listening on %s\n", url);
    fflush(stdout);
    sigwait(&signals, &got);
    metadata_server_close(server);
    return EXIT_OK;
}

#define AT(member) offsetof(struct server_options, member)
static const struct opt opts[] = {
    {.name = "host",
     .meta = "ADDRESS",
     .type = OPT_TEXT,
     .offset = AT(host),
     .help = "listen on this address only, not on every one"},
    {.name = "port",
     .meta = "PORT",
     .def = "8080",
     .type = OPT_COUNT,
     .max = 65535,
     .offset = AT(port),
     .help = "listen on this port; 0 takes a free one"},
    {.name = "data",
     .meta = "PATH",
     .type = OPT_FILE,
     .offset = AT(data),
     .help = "keep everything in this file, or in this directory, and find it there again"},
    {.name = "max-body",
     .meta = "SIZE",
     .def = "32m",
     .type = OPT_SIZE,
     .min = 1,
     .max = 1u << 30,
     .offset = AT(max_body),
     .help = "refuse longer values"},
    {.name = "max-keys",
     .meta = "N",
     .def = "100000",
     .type = OPT_COUNT,
     .min = 1,
     .offset = AT(max_keys),
     .help = "refuse further keys"},
    {.name = "overwrite",
     .type = OPT_FLAG,
     .offset = AT(overwrite),
     .help = "let a node replace another's control address (rpc_meta), which is an error else"},
    {.name = "cert",
     .meta = "FILE",
     .type = OPT_FILE,
     .offset = AT(cert),
     .help = "serve https with this certificate (PEM)"},
    {.name = "key",
     .meta = "FILE",
     .type = OPT_FILE,
     .offset = AT(key),
     .help = "the certificate's private key (PEM)"},
    {.name = "verbose",
     .letter = 'v',
     .type = OPT_FLAG,
     .offset = AT(verbose),
     .help = "write a line for each request to standard error"},
    {0},
};

static const struct example examples[] = {
    {"ferry metadata-server --port 8080", "for nodes with http://HOST:8080/metadata"},
    {"ferry metadata-server --data /var/lib/ferry", "what is published outlives the server"},
    {0},
};

const struct command cmd_metadata_server = {
    .name = "metadata-server",
    .summary = "keep the nodes' metadata, for http:// metadata servers in mooncake.json",
    .synopsis = "",
    .words = "",
    .about = "Serves Mooncake's HTTP metadata protocol: GET, PUT and DELETE of "
             "/metadata?key=KEY, and GET /health. The first line on standard output says where "
             "it listens. There is no authentication: listen where only the cluster reaches "
             "it.\n\n"
             "A control address (rpc_meta) that is there is not replaced by another one, as "
             "with Mooncake's servers; a node that comes back under its name deletes it first.",
    .opts = opts,
    .examples = examples,
    .options_size = sizeof(struct server_options),
    .run = run,
};
