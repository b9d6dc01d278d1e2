/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FERRY_TOOL_METADATA_SERVER_H
#define FERRY_TOOL_METADATA_SERVER_H

#include <stddef.h>
#include <stdint.h>

/*
 * Mooncake's metadata service over HTTP: GET, PUT and DELETE of /metadata?key=KEY, and GET
 * /health. Serves from threads of its own until it is closed.
 */
struct metadata_server;

struct metadata_server_options {
    const char *host; /* NULL = every address */
    uint16_t port;    /* 0 = any */
    const char *data; /* file or directory; NULL = memory only */
    size_t max_body;  /* bytes of one value */
    size_t max_keys;
    const char *cert_file, *key_file; /* PEM; both or none */
    int overwrite;                    /* an rpc_meta key may change its value */
    int verbose;                      /* one line a request to stderr */
};

/* 0, or -1 with one line in `error`. `url_out` has room for 320: what users configure. */
int metadata_server_open(const struct metadata_server_options *options,
                         struct metadata_server **server_out, char *url_out, char *error,
                         size_t room);
void metadata_server_close(struct metadata_server *server);

#endif /* FERRY_TOOL_METADATA_SERVER_H */
