/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FERRY_TOOL_KVMSG_H
#define FERRY_TOOL_KVMSG_H

#include "model.h"

/*
 * What `ferry prefill` and `ferry decode` say to each other in notifications, one JSON object
 * each (docs/handover.md). KVMSG_VERSION grows with every change that an older side would
 * misread; unknown members are skipped.
 */
#define KVMSG_VERSION 1
#define KVMSG_NAME    "ferry.kv" /* the notification's name */

enum kvmsg_type {
    KVMSG_HELLO,   /* prefill: what will come */
    KVMSG_WELCOME, /* decode: where its cache lies */
    KVMSG_REFUSE,  /* decode: why not */
    KVMSG_OFFER,   /* prefill: a request's blocks are ready */
    KVMSG_GRANT,   /* decode: these of them are missing, and where they go */
    KVMSG_SENT,  /* prefill: they are there, with these sums; or `text` says why they are not */
    KVMSG_DONE,  /* decode: what became of the request */
    KVMSG_END,   /* prefill: that was all */
    KVMSG_BYE,   /* decode: totals */
    KVMSG_ABORT, /* either: gone, and why */
    KVMSG_TYPES
};

/* Most blocks of one request, and so the longest arrays. */
#define KVMSG_MAX_BLOCKS (1u << 20)

struct kvmsg {
    enum kvmsg_type type;
    uint64_t session; /* the prefill side's run, made up by it; replies carry it */
    uint64_t request;
    char text[400]; /* of refuse, abort, sent, done: what went wrong */

    /* hello; welcome repeats the geometry with its own base and slots */
    struct model model;
    uint32_t block_tokens, slots;
    uint64_t base; /* of the sender's cache */
    bool pull;     /* decode reads instead of prefill writing */
    uint64_t requests, most_blocks;

    /* offer: keys, and in pull mode source slots and sums; grant: places in the offer (`index`)
     * and slots; sent: sums of those. Arrays of `n`, NULL where the message has none. */
    uint64_t tokens;
    size_t n;
    uint64_t *keys, *sums;
    uint32_t *slots_of, *index;

    /* done, bye */
    uint64_t verified, failed, reused, bytes, verify_ns, transfer_ns;
    char carrier[64]; /* done in pull mode: the transport that carried it */
};

/* JSON text, for free(); *len_out without the NUL. NULL: out of memory. */
char *kvmsg_encode(const struct kvmsg *msg, size_t *len_out);
/* From a peer: untrusted. False: `error` says what is wrong; nothing is to be freed. */
bool kvmsg_decode(const char *text, size_t len, struct kvmsg *msg, char *error, size_t room);
void kvmsg_free(struct kvmsg *msg); /* the arrays */

#endif /* FERRY_TOOL_KVMSG_H */
