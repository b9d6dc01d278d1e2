/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The HTTP side of `ferry metadata-server`, by libmicrohttpd: which request is answered how.
 * What is kept and where, metadata_store.c knows; what the values mean nobody here does.
 */
#include "metadata_server.h"

#include <errno.h>
#include <microhttpd.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "metadata_store.h"

#define PATH "/metadata"

struct metadata_server {
    struct MHD_Daemon *daemon;
    struct metadata_store *store;
    size_t max_body;
    int overwrite, verbose;
    char *cert, *key;
};

/* One request's body as it comes in. */
struct upload {
    char *data;
    size_t len, cap;
    int too_long, no_memory;
};

static enum MHD_Result answer(const struct metadata_server *server, struct MHD_Connection *conn,
                              const char *method, const char *key, unsigned status,
                              struct MHD_Response *response)
{
    enum MHD_Result result = MHD_NO;

    if (response) {
        result = MHD_queue_response(conn, status, response);
        MHD_destroy_response(response);
    }
    if (server->verbose)
        fprintf(stderr, "%s %s: %u\n", method, key ? key : "-", status);
    return result;
}

static enum MHD_Result say(const struct metadata_server *server, struct MHD_Connection *conn,
                           const char *method, const char *key, unsigned status,
                           const char *fmt, ...) __attribute__((format(printf, 6, 7)));

static enum MHD_Result say(const struct metadata_server *server, struct MHD_Connection *conn,
                           const char *method, const char *key, unsigned status,
                           const char *fmt, ...)
{
    struct MHD_Response *response;
    char text[256];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    response = MHD_create_response_from_buffer(strlen(text), text, MHD_RESPMEM_MUST_COPY);
    if (response && status == MHD_HTTP_METHOD_NOT_ALLOWED)
        MHD_add_response_header(response, "Allow", "GET, PUT, DELETE");
    return answer(server, conn, method, key, status, response);
}

static enum MHD_Result do_get(const struct metadata_server *server, struct MHD_Connection *conn,
                              const char *key)
{
    struct MHD_Response *response;
    void *val;
    size_t len;

    switch (metadata_store_get(server->store, key, &val, &len)) {
    case METADATA_OK:
        response = MHD_create_response_from_buffer(len, val, MHD_RESPMEM_MUST_FREE);
        if (!response)
            free(val);
        else
            MHD_add_response_header(response, "Content-Type", "application/json");
        return answer(server, conn, "GET", key, MHD_HTTP_OK, response);
    case METADATA_ABSENT:
        return say(server, conn, "GET", key, MHD_HTTP_NOT_FOUND, "metadata not found");
    default:
        return say(server, conn, "GET", key, MHD_HTTP_INTERNAL_SERVER_ERROR, "out of memory");
    }
}

static enum MHD_Result do_put(const struct metadata_server *server, struct MHD_Connection *conn,
                              const char *key, const struct upload *upload)
{
    int once = !server->overwrite && strstr(key, "rpc_meta");

    if (upload->too_long)
        return say(server, conn, "PUT", key, MHD_HTTP_CONTENT_TOO_LARGE,
                   "a value has at most %zu bytes here", server->max_body);
    if (upload->no_memory)
        return say(server, conn, "PUT", key, MHD_HTTP_INTERNAL_SERVER_ERROR, "out of memory");
    switch (metadata_store_put(server->store, key, upload->data, upload->len, once)) {
    case METADATA_OK:
        return say(server, conn, "PUT", key, MHD_HTTP_OK, "metadata updated");
    case METADATA_DUPLICATE:
        return say(server, conn, "PUT", key, MHD_HTTP_BAD_REQUEST,
                   "Duplicate rpc_meta key not allowed");
    case METADATA_FULL:
        return say(server, conn, "PUT", key, MHD_HTTP_INSUFFICIENT_STORAGE,
                   "as many keys as this server allows are there (--max-keys)");
    case METADATA_DISK:
        return say(server, conn, "PUT", key, MHD_HTTP_INSUFFICIENT_STORAGE,
                   "the data file could not be written");
    default:
        return say(server, conn, "PUT", key, MHD_HTTP_INTERNAL_SERVER_ERROR, "out of memory");
    }
}

static enum MHD_Result do_del(const struct metadata_server *server, struct MHD_Connection *conn,
                              const char *key)
{
    switch (metadata_store_del(server->store, key)) {
    case METADATA_OK:
        return say(server, conn, "DELETE", key, MHD_HTTP_OK, "metadata deleted");
    case METADATA_ABSENT:
        return say(server, conn, "DELETE", key, MHD_HTTP_NOT_FOUND, "metadata not found");
    default:
        return say(server, conn, "DELETE", key, MHD_HTTP_INSUFFICIENT_STORAGE,
                   "the data file could not be written");
    }
}

static enum MHD_Result route(const struct metadata_server *server, struct MHD_Connection *conn,
                             const char *url, const char *method, const struct upload *upload)
{
    const char *key = NULL;
    size_t len = 0;

    if (!strcmp(url, "/health") && !strcmp(method, "GET"))
        return say(server, conn, method, NULL, MHD_HTTP_OK, "{\"status\":\"ok\",\"keys\":%zu}",
                   metadata_store_count(server->store));
    if (strcmp(url, PATH) != 0)
        return say(server, conn, method, NULL, MHD_HTTP_NOT_FOUND,
                   "no such path, " PATH " is wanted");
    if (strcmp(method, "GET") != 0 && strcmp(method, "PUT") != 0 &&
        strcmp(method, "DELETE") != 0)
        return say(server, conn, method, NULL, MHD_HTTP_METHOD_NOT_ALLOWED,
                   "GET, PUT and DELETE are understood");
    if (MHD_lookup_connection_value_n(conn, MHD_GET_ARGUMENT_KIND, "key", 3, &key, &len) !=
            MHD_YES ||
        !key || !len || strlen(key) != len)
        return say(server, conn, method, NULL, MHD_HTTP_BAD_REQUEST,
                   "?key= is missing, empty, or has a NUL byte in it");
    if (!strcmp(method, "GET"))
        return do_get(server, conn, key);
    if (!strcmp(method, "PUT"))
        return do_put(server, conn, key, upload);
    return do_del(server, conn, key);
}

static void upload_add(struct upload *upload, size_t max, const char *data, size_t len)
{
    if (upload->too_long || upload->no_memory)
        return;
    if (len > max - upload->len) {
        upload->too_long = 1;
    } else if (len > upload->cap - upload->len) {
        size_t cap = upload->cap ? upload->cap : 4096;
        char *grown;

        while (cap < upload->len + len)
            cap *= 2;
        grown = realloc(upload->data, cap);
        if (grown) {
            upload->data = grown;
            upload->cap = cap;
        } else {
            upload->no_memory = 1;
        }
    }
    if (upload->too_long || upload->no_memory) {
        free(upload->data);
        upload->data = NULL;
        upload->len = upload->cap = 0;
        return;
    }
    memcpy(upload->data + upload->len, data, len);
    upload->len += len;
}

static enum MHD_Result on_request(void *cls, struct MHD_Connection *conn, const char *url,
                                  const char *method, const char *version,
                                  const char *upload_data, size_t *upload_len, void **state)
{
    const struct metadata_server *server = cls;
    struct upload *upload = *state;

    if (!upload) {
        *state = calloc(1, sizeof(*upload));
        return *state ? MHD_YES : MHD_NO;
    }
    if (*upload_len) { /* read to the end even where it is too long, so that it gets its answer
                        */
        upload_add(upload, server->max_body, upload_data, *upload_len);
        *upload_len = 0;
        return MHD_YES;
    }
    return route(server, conn, url, method, upload);
}

static void on_end(void *cls, struct MHD_Connection *conn, void **state,
                   enum MHD_RequestTerminationCode why)
{
    struct upload *upload = *state;

    if (upload)
        free(upload->data);
    free(upload);
    *state = NULL;
}

static int listen_on(const char *host, uint16_t port, char *error, size_t room)
{
    struct addrinfo hints = {.ai_family = host ? AF_UNSPEC : AF_INET6,
                             .ai_socktype = SOCK_STREAM,
                             .ai_flags = AI_PASSIVE};
    struct addrinfo *found = NULL;
    int on = 1, off = 0, fd = -1, rc;
    char text[8];

    snprintf(text, sizeof(text), "%u", port);
    rc = getaddrinfo(host, text, &hints, &found);
    if (rc) {
        snprintf(error, room, "host %s: %s", host ? host : "::", gai_strerror(rc));
        return -1;
    }
    fd = socket(found->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 && !host) { /* a kernel without IPv6 */
        freeaddrinfo(found);
        return listen_on("0.0.0.0", port, error, room);
    }
    if (fd >= 0) {
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
        if (found->ai_family == AF_INET6)
            setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
    }
    if (fd < 0 || bind(fd, found->ai_addr, found->ai_addrlen) || listen(fd, 1024)) {
        snprintf(error, room, "%s port %u: %s", host ? host : "any address", port,
                 strerror(errno));
        if (fd >= 0)
            close(fd);
        fd = -1;
    }
    freeaddrinfo(found);
    return fd;
}

static char *read_file(const char *path, char *error, size_t room)
{
    FILE *file = fopen(path, "rbe");
    char *text = file ? calloc(1, 65537) : NULL;

    if (!text || (!fread(text, 1, 65536, file) && ferror(file))) {
        snprintf(error, room, "%s: %s", path, strerror(errno));
        free(text);
        text = NULL;
    }
    if (file)
        fclose(file);
    return text;
}

static int start(struct metadata_server *server, int fd, char *error, size_t room)
{
    struct MHD_OptionItem tls[] = {{MHD_OPTION_HTTPS_MEM_CERT, 0, server->cert},
                                   {MHD_OPTION_HTTPS_MEM_KEY, 0, server->key},
                                   {MHD_OPTION_END, 0, NULL}};
    struct MHD_OptionItem none[] = {{MHD_OPTION_END, 0, NULL}};
    unsigned flags = MHD_USE_AUTO | MHD_USE_INTERNAL_POLLING_THREAD;

    if (server->cert) {
        if (MHD_is_feature_supported(MHD_FEATURE_TLS) != MHD_YES) {
            snprintf(error, room, "this libmicrohttpd was built without TLS");
            return -1;
        }
        flags |= MHD_USE_TLS;
    }
    server->daemon =
        MHD_start_daemon(flags, 0, NULL, NULL, on_request, server, MHD_OPTION_LISTEN_SOCKET, fd,
                         MHD_OPTION_THREAD_POOL_SIZE, 2u, MHD_OPTION_CONNECTION_TIMEOUT, 60u,
                         MHD_OPTION_CONNECTION_LIMIT, 4096u, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
                         (size_t)131072, MHD_OPTION_NOTIFY_COMPLETED, on_end, NULL,
                         MHD_OPTION_ARRAY, server->cert ? tls : none, MHD_OPTION_END);
    if (!server->daemon) {
        snprintf(error, room, "the HTTP server did not start%s",
                 server->cert ? " (are certificate and key a pair, in PEM?)" : "");
        return -1;
    }
    return 0;
}

static void url_of(const struct metadata_server *server, const char *host, int fd, char *url)
{
    struct sockaddr_storage addr = {0};
    socklen_t len = sizeof(addr);
    unsigned port;

    getsockname(fd, (struct sockaddr *)&addr, &len);
    port = ntohs(addr.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&addr)->sin6_port
                                            : ((struct sockaddr_in *)&addr)->sin_port);
    if (!host || !strcmp(host, "0.0.0.0") || !strcmp(host, "::"))
        host = "127.0.0.1";
    snprintf(url, 320, strchr(host, ':') ? "%s://[%s]:%u%s" : "%s://%s:%u%s",
             server->cert ? "https" : "http", host, port, PATH);
}

int metadata_server_open(const struct metadata_server_options *options,
                         struct metadata_server **server_out, char *url_out, char *error,
                         size_t room)
{
    struct metadata_server *server = calloc(1, sizeof(*server));
    char note[512] = "";
    int fd = -1;

    if (!server) {
        snprintf(error, room, "out of memory");
        return -1;
    }
    server->max_body = options->max_body;
    server->overwrite = options->overwrite;
    server->verbose = options->verbose;
    if (!options->cert_file != !options->key_file) {
        snprintf(error, room, "--cert and --key belong together");
        goto fail;
    }
    if (options->cert_file && (!(server->cert = read_file(options->cert_file, error, room)) ||
                               !(server->key = read_file(options->key_file, error, room))))
        goto fail;
    if (metadata_store_open(options->data, options->max_keys, &server->store, note, error,
                            room < sizeof(note) ? room : sizeof(note)))
        goto fail;
    if (note[0])
        fprintf(stderr, "%s\n", note);
    fd = listen_on(options->host, options->port, error, room);
    if (fd < 0)
        goto fail;
    url_of(server, options->host, fd, url_out);
    if (start(server, fd, error, room)) {
        close(fd);
        goto fail;
    }
    *server_out = server;
    return 0;
fail:
    metadata_server_close(server);
    return -1;
}

void metadata_server_close(struct metadata_server *server)
{
    if (!server)
        return;
    if (server->daemon)
        MHD_stop_daemon(server->daemon); /* closes the listening socket too */
    metadata_store_close(server->store);
    free(server->cert);
    free(server->key);
    free(server);
}
