/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FAB_WIRE_H
#define FAB_WIRE_H

#include <stdbool.h>

#include "../common/plug.h"

#define FAB_MAX_DEVICES 16u
#define FAB_NAME_MAX    64u
#define FAB_EP_MAX      256u /* bytes of an endpoint's name */
#define FAB_MAX_CHECKS  256u
#define FAB_KEY         "ferry_libfabric" /* of what we write into segments and buffers */

/* 64-bit numbers go as text of digits: JSON's numbers end at 2^53. */

/* What an initiator asks of its peer, over the core's control channel. */
enum fab_ask {
    FAB_OPEN,  /* an endpoint to reach: for `link`, in place of what it had */
    FAB_CLOSE, /* take it down: once answered, nothing of `link` lands any more */
    FAB_ALIVE, /* is `link` still served */
    FAB_VALID, /* from the one who serves: is `link` still yours */
};

struct fab_check { /* may this be touched */
    uint64_t base, key;
    uint32_t access; /* FERRY_ACCESS_ */
};

struct fab_request {
    enum fab_ask ask;
    uint64_t link;
    char instance[FT_INSTANCE_MAX]; /* of whoever asks */
    char expect[FT_INSTANCE_MAX];   /* the incarnation it believes to talk to */
    uint32_t device;                /* of whoever answers */
    uint32_t ep_len;
    uint8_t ep[FAB_EP_MAX]; /* of whoever asks */
    uint32_t n_checks;
    struct fab_check check[FAB_MAX_CHECKS];
};

struct fab_reply {
    int32_t status; /* ferry_status */
    uint32_t ep_len;
    uint8_t ep[FAB_EP_MAX];
    uint64_t word_addr, word_key, word; /* to be read first: proves that the path works */
    uint32_t n_checks;
    int32_t check[FAB_MAX_CHECKS]; /* ferry_status */
};

/* JSON text, to be freed with free(); NULL = no memory. */
char *fab_request_encode(const struct fab_request *request);
char *fab_reply_encode(const struct fab_reply *reply);
/* From untrusted text. FERRY_EINVAL: *why_out says in static words what is wrong. */
ferry_status fab_request_parse(const char *text, size_t len, struct fab_request *request_out,
                               const char **why_out);
ferry_status fab_reply_parse(const char *text, size_t len, struct fab_reply *reply_out,
                             const char **why_out);

/* What a node tells of itself. */
struct fab_remote {
    char instance[FT_INSTANCE_MAX];
    char provider[FAB_NAME_MAX];
    uint32_t n;
    char device[FAB_MAX_DEVICES][FAB_NAME_MAX];
};
char *fab_remote_encode(const struct fab_remote *remote);
ferry_status fab_remote_parse(const struct ferry_kvs *attrs, struct fab_remote *remote_out,
                              const char **why_out);

/* What it tells of one buffer. FERRY_EACCESS: nothing, so nobody may reach it. */
struct fab_keys {
    uint64_t base, len;
    uint32_t access;
    uint32_t n;
    uint64_t key[FAB_MAX_DEVICES];  /* by device */
    uint64_t addr[FAB_MAX_DEVICES]; /* what the provider calls `base` */
};
char *fab_keys_encode(const struct fab_keys *keys);
ferry_status fab_keys_parse(const struct ferry_kvs *attrs, struct fab_keys *keys_out,
                            const char **why_out);

#endif /* FAB_WIRE_H */
