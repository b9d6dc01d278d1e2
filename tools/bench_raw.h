/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FERRY_TOOL_BENCH_RAW_H
#define FERRY_TOOL_BENCH_RAW_H

#include "bench.h"

/*
 * The reference that Ferry is measured against: the least that moves a batch over TCP. One
 * connection a thread, one frame a batch (header, descriptors, payload in one sendmsg),
 * received into place with one recvmsg, answered with 8 bytes. No registration, no deadline, no
 * recovery.
 *
 * The same server answers the benchmark's questions to the target: its CPU time, its memory's
 * contents, where its threads should run.
 */
struct raw_server;

/* Listens on `host` (NULL = every address), port 0 = any. Serves until closed, with a thread a
 * connection; `region` is all that peers can reach. */
bool raw_server_open(const char *host, const char *congestion, uint8_t *region, uint64_t len,
                     struct raw_server **server_out, uint16_t *port_out, char *error,
                     size_t room);
/* Somebody has asked questions, and all connections are gone again. */
bool raw_server_ended(struct raw_server *server);
void raw_server_close(struct raw_server *server);
/* Serves one connection, in this thread, until it ends; the socket stays the caller's. */
void raw_server_serve(struct raw_server *server, int fd);

struct raw_client; /* one control connection and up to BENCH_MAX_THREADS for data */

bool raw_client_open(const char *host, uint16_t port, const char *congestion, uint8_t *region,
                     uint64_t len, struct raw_client **client_out, char *error, size_t room);
void raw_client_close(struct raw_client *client);
/* Connects what a row needs. Where the row says so and there are processors enough for all
 * threads of both ends, both spin; the target's from the first batch on until
 * raw_client_rest. */
bool raw_client_ready(struct raw_client *client, const struct bench_spec *spec, char *error,
                      size_t room);
void raw_client_rest(struct raw_client *client);
struct bench_mover raw_client_mover(struct raw_client *client);
/* What the kernel uses on the data connections. */
void raw_client_congestion(struct raw_client *client, char *name, size_t room);

/* Questions to the target process. */
struct raw_usage {
    uint64_t cpu_ns, rss, region_len;
};
bool raw_ask_usage(struct raw_client *client, struct raw_usage *usage_out);
bool raw_ask_place(struct raw_client *client, int nth);
bool raw_ask_fill(struct raw_client *client, uint64_t seed);
/* bench_check over there; *bad_out bytes are wrong, the first at *first_out. */
bool raw_ask_check(struct raw_client *client, const struct bench_spec *spec, uint64_t region,
                   uint64_t moved, uint64_t kept, uint64_t *bad_out, uint64_t *first_out);

#endif /* FERRY_TOOL_BENCH_RAW_H */
