/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TCP_H
#define TCP_H

#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <time.h>

#include "../common/plug.h"

#define TCP_MAX_QUEUES     64u
#define TCP_MAX_THREADS    64u
#define TCP_MAX_CONGESTION 16u

#define NS_PER_US 1000ull
#define NS_PER_MS 1000000ull
#define NS_PER_S  1000000000ull

enum tcp_engine { TCP_ENGINE_AUTO, TCP_ENGINE_IO_URING, TCP_ENGINE_EPOLL };
/* The first two as the configuration names them. */
enum tcp_dialect { TCP_DIALECT_AUTO, TCP_DIALECT_V2, TCP_DIALECT_V1, TCP_DIALECT_V3 };

/* What the configuration came to (config.c). */
struct tcp_config {
    char bind[256];
    char host[256];                      /* told to peers; "" = they use our name */
    char congestion[TCP_MAX_CONGESTION]; /* "auto", "system" or an algorithm's name */
    uint32_t port;                       /* 0 = any */
    uint32_t port_hint;                  /* 0 = none */
    uint32_t threads;                    /* 0 = by the number of processors */
    uint32_t spin_us;
    uint32_t user_timeout_ms; /* 0 = the system's */
    uint32_t keepalive_count; /* 0 = no keepalive */
    enum tcp_engine engine;
    enum tcp_dialect dialect; /* AUTO or V2 */
};

struct tcp_server;

struct ferry_tp {
    const struct ferry_host *host;
    struct tcp_config config;
    uint64_t incarnation;
    uint32_t cpus; /* that this process may use */
    struct tcp_server *server;
    /* Guards queues[] and orders whoever closes peers and queues. Rank: above queue->lock. */
    pthread_mutex_t lock;
    struct ferry_queue *queues[TCP_MAX_QUEUES];
};

struct ferry_mr {
    struct ferry_mr *next; /* while being registered */
    uintptr_t addr;
    uint64_t len;
    uint32_t access;
};

/* The address family's own struct, big enough for either. */
struct tcp_addr {
    struct sockaddr_storage ss;
    socklen_t len;
};

/* --- config.c --- */
ferry_status tcp_config_parse(const struct ferry_host *host, const struct ferry_kvs *kvs,
                              struct tcp_config *out);
/* The value of a key as text; false: absent or longer than the room. */
bool tcp_kv_text(const struct ferry_kvs *kvs, const char *key, char *out, size_t len);

/* --- sockopt.c --- */
/* Sets what every data socket has; `name_out` (may be NULL, TCP_MAX_CONGESTION) gets the
 * congestion control in use. */
void tcp_sock_options(const struct tcp_config *config, int fd, char *name_out);
/* A listening socket, non-blocking. *port_out: where. Logs why not. */
ferry_status tcp_listen(const struct ferry_host *host, const struct tcp_config *config,
                        int *fd_out, uint16_t *port_out);
/*
 * A connected, non-blocking socket to the first address of host:port that answers before the
 * deadline. `retry_ns`: how long a refusal is not taken as the last word. *addr_out: which.
 */
ferry_status tcp_connect(const struct tcp_config *config, const char *host, uint16_t port,
                         uint64_t deadline_ns, uint64_t retry_ns, int *fd_out,
                         struct tcp_addr *addr_out);
/* Starts one and does not wait; -1 and errno. Q calls may use it. */
int tcp_connect_start(const struct tcp_config *config, const struct tcp_addr *addr);
/* Waits for `events` (poll's) on fd; FERRY_ETIMEDOUT. */
ferry_status tcp_wait_fd(int fd, short events, uint64_t deadline_ns);
/* The status that an error of an established connection stands for. */
ferry_status tcp_status_of(int err);
/* Nothing that we send on it is acknowledged any more. A stopped process still acknowledges. */
bool tcp_unreachable(int fd);
/* After ETIMEDOUT: did acknowledgements come in until shortly before? */
bool tcp_heard_lately(int fd, uint32_t user_timeout_ms);
/*
 * Both end the connection at once even where the file is held elsewhere: by a child that was
 * forked, by a ring's poll. With RST what the kernel has not sent is dropped.
 */
void tcp_reset(int fd);
void tcp_close_fd(int fd);

#endif /* TCP_H */
