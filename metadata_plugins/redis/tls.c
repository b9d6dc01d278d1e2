/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TLS by OpenSSL on a non-blocking socket, every step bounded. Writes go through send() so that
 * no SIGPIPE is raised. Knows nothing of redis.
 */
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>

#include "../common/net.h"
#include "../common/plug.h"
#include "redis.h"

struct redis_tls {
    SSL_CTX *ctx;
    BIO_METHOD *method;
};

struct tls {
    SSL *ssl;
    int fd;
};

static int bio_write(BIO *bio, const char *data, int len)
{
    ssize_t n = send((int)(intptr_t)BIO_get_data(bio), data, (size_t)len, MSG_NOSIGNAL);

    BIO_clear_retry_flags(bio);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        BIO_set_retry_write(bio);
    return (int)n;
}

static int bio_read(BIO *bio, char *data, int len)
{
    ssize_t n = recv((int)(intptr_t)BIO_get_data(bio), data, (size_t)len, 0);

    BIO_clear_retry_flags(bio);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        BIO_set_retry_read(bio);
    return (int)n;
}

static long bio_ctrl(BIO *bio, int command, long number, void *pointer)
{
    return command == BIO_CTRL_FLUSH;
}

static void say_error(const char *what, char *why, size_t room)
{
    unsigned long error = ERR_get_error();
    char text[200] = "";

    if (error)
        ERR_error_string_n(error, text, sizeof(text));
    snprintf(why, room, "%s: %s", what, error ? text : "not usable");
    ERR_clear_error();
}

ferry_status redis_tls_open(const char *ca_file, const char *cert_file, const char *key_file,
                            int verify, struct redis_tls **tls_out, char *why, size_t room)
{
    struct redis_tls *tls = calloc(1, sizeof(*tls));
    const char *bad = NULL;

    if (!tls)
        return FERRY_ENOMEM;
    tls->ctx = SSL_CTX_new(TLS_client_method());
    tls->method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "ferry socket");
    if (!tls->ctx || !tls->method) {
        redis_tls_close(tls);
        return FERRY_ENOMEM;
    }
    BIO_meth_set_write(tls->method, bio_write);
    BIO_meth_set_read(tls->method, bio_read);
    BIO_meth_set_ctrl(tls->method, bio_ctrl);
    SSL_CTX_set_min_proto_version(tls->ctx, TLS1_2_VERSION);
    SSL_CTX_set_mode(tls->ctx, SSL_MODE_ENABLE_PARTIAL_WRITE);
    SSL_CTX_set_verify(tls->ctx, verify ? SSL_VERIFY_PEER : SSL_VERIFY_NONE, NULL);
    if (ca_file ? SSL_CTX_load_verify_locations(tls->ctx, ca_file, NULL) != 1
                : SSL_CTX_set_default_verify_paths(tls->ctx) != 1)
        bad = ca_file ? ca_file : "the system's CA certificates";
    else if (cert_file && SSL_CTX_use_certificate_chain_file(tls->ctx, cert_file) != 1)
        bad = cert_file;
    else if (key_file && SSL_CTX_use_PrivateKey_file(tls->ctx, key_file, SSL_FILETYPE_PEM) != 1)
        bad = key_file;
    if (bad) {
        say_error(bad, why, room);
        redis_tls_close(tls);
        return FERRY_EINVAL;
    }
    *tls_out = tls;
    return FERRY_OK;
}

void redis_tls_close(struct redis_tls *tls)
{
    if (!tls)
        return;
    SSL_CTX_free(tls->ctx);
    BIO_meth_free(tls->method);
    free(tls);
}

/* Waits for what the call with this result wants; other than FERRY_OK ends it. */
static ferry_status wait_for(struct tls *tls, int rc, const char *what, uint64_t deadline_ms,
                             char *why, size_t room)
{
    char reason[128] = "";
    ferry_status status;
    long verified;
    int error = SSL_get_error(tls->ssl, rc);

    switch (error) {
    case SSL_ERROR_WANT_READ:
    case SSL_ERROR_WANT_WRITE:
        status = fm_net_wait(tls->fd, error == SSL_ERROR_WANT_READ ? POLLIN : POLLOUT,
                             deadline_ms, reason, sizeof(reason));
        if (status)
            snprintf(why, room, "%s: %s", what, reason);
        return status;
    case SSL_ERROR_SYSCALL:
    case SSL_ERROR_ZERO_RETURN:
        snprintf(why, room, "%s: closed the connection", what);
        ERR_clear_error();
        return FERRY_EUNREACH;
    default:
        verified = SSL_get_verify_result(tls->ssl);
        if (verified == X509_V_OK) {
            say_error(what, why, room);
        } else {
            snprintf(why, room, "%s: certificate: %s", what,
                     X509_verify_cert_error_string(verified));
            ERR_clear_error();
        }
        return FERRY_EUNREACH;
    }
}

static int expect_host(SSL *ssl, const char *host)
{
    X509_VERIFY_PARAM *param = SSL_get0_param(ssl);

    if (X509_VERIFY_PARAM_set1_ip_asc(param, host) == 1)
        return 1;
    return X509_VERIFY_PARAM_set1_host(param, host, 0) == 1 &&
           SSL_set_tlsext_host_name(ssl, host) == 1;
}

ferry_status tls_open(struct redis_tls *settings, int fd, const char *host,
                      uint64_t deadline_ms, struct tls **tls_out, char *why, size_t room)
{
    struct tls *tls = calloc(1, sizeof(*tls));
    ferry_status status = FERRY_OK;
    BIO *bio = NULL;
    int rc;

    if (!tls)
        return FERRY_ENOMEM;
    tls->fd = fd;
    tls->ssl = SSL_new(settings->ctx);
    bio = BIO_new(settings->method);
    if (!tls->ssl || !bio || !expect_host(tls->ssl, host)) {
        BIO_free(bio);
        tls_close(tls);
        return FERRY_ENOMEM;
    }
    BIO_set_data(bio, (void *)(intptr_t)fd);
    BIO_set_init(bio, 1);
    SSL_set_bio(tls->ssl, bio, bio);
    while (!status && (rc = SSL_connect(tls->ssl)) != 1)
        status = wait_for(tls, rc, "TLS", deadline_ms, why, room);
    if (status) {
        tls_close(tls);
        return status;
    }
    *tls_out = tls;
    return FERRY_OK;
}

ferry_status tls_write(struct tls *tls, const void *data, size_t len, uint64_t deadline_ms,
                       char *why, size_t room)
{
    const char *at = data;
    ferry_status status = FERRY_OK;

    while (len && !status) {
        size_t n = 0;
        int rc = SSL_write_ex(tls->ssl, at, len, &n);

        if (rc == 1) {
            at += n;
            len -= n;
        } else {
            status = wait_for(tls, rc, "TLS write", deadline_ms, why, room);
        }
    }
    return status;
}

ferry_status tls_read(struct tls *tls, void *data, size_t room, uint64_t deadline_ms,
                      size_t *len_out, char *why, size_t why_room)
{
    ferry_status status = FERRY_OK;
    int rc;

    while (!status && (rc = SSL_read_ex(tls->ssl, data, room, len_out)) != 1)
        status = wait_for(tls, rc, "TLS read", deadline_ms, why, why_room);
    return status;
}

void tls_close(struct tls *tls)
{
    if (!tls)
        return;
    SSL_free(tls->ssl);
    free(tls);
}
