/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Thousands of nodes and one metadata server, in virtual time and without a network: what they
 * ask of it when they join, stay, restart, leave, die, and when it comes back empty. The nodes'
 * side is the core's own (store*.c: who owns a name, what is written, when the keeper looks
 * again); the server, the renewing of leases (as the plugins do it) and when followers look
 * (core/follow.c) are models, written out below.
 *
 *   sim_metadata N...            the tables of docs/metadata-scale.md
 *   sim_metadata --check N...    the same, and exit status 1 where a promise is broken
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "store_inner.h"

#define BUFFERS     28      /* registered by each node, as one a layer */
#define JOIN_MS     60000u  /* all start within this */
#define STEADY_MS   600000u /* looked at while nothing happens */
#define AWAY_MS     10000u  /* how long the server is away */
#define TTL_MS      30000u
#define RENEW_MS    4000u /* and up to a quarter sooner: metadata_plugins/{etcd,redis}/lease.c */
#define RETRY_MS    200u  /* doubled up to half of it while the server is away */
#define PEERS       32    /* that each node has open */
#define SETTLE_MS   100   /* from here: core/follow.c */
#define SPREAD_MS   400
#define REFRESH_MS  60000u
#define MIN_TICK_MS 250u
#define CHANGED     10 /* of a hundred nodes, in each act */

/* ---- chance and time ---- */

static uint64_t now_ms;
static uint64_t chance = 88172645463325252ull;

static uint64_t rnd(uint64_t below)
{
    chance ^= chance << 13;
    chance ^= chance >> 7;
    chance ^= chance << 17;
    return chance % below;
}

/* ---- the server ---- */

struct entry {
    struct entry *next;
    char *key, *val;
    size_t len;
    uint64_t rev;
    int owner; /* node whose lease it is under; -1 = none */
};

#define TABLE 32768

struct counts {
    uint64_t reads, writes, renewals, grants, bytes_in, bytes_out, events, event_bytes, refused;
};

static const struct kind {
    const char *name;
    uint32_t caps;
    unsigned renew_requests; /* one for a lease, or one a key */
} kinds[] = {
    {"http", 0, 0},
    {"etcd",
     FERRY_STORE_CAP_LEASE | FERRY_STORE_CAP_CAS | FERRY_STORE_CAP_WATCH | FERRY_STORE_CAP_LIST,
     1},
    {"redis", FERRY_STORE_CAP_LEASE | FERRY_STORE_CAP_CAS | FERRY_STORE_CAP_LIST, 2},
};

static const struct kind *kind;
static struct entry *table[TABLE];
static size_t n_entries;
static uint64_t revision;
static int away;
static unsigned watchers;
static struct counts count;
static uint32_t per_second[4096]; /* requests in each second since the act began */
static uint64_t act_began_ms;

static void request(size_t in, size_t out)
{
    uint64_t second = (now_ms - act_began_ms) / 1000;

    count.bytes_in += in;
    count.bytes_out += out;
    if (second < sizeof(per_second) / sizeof(per_second[0]))
        per_second[second]++;
}

static struct entry **slot_of(const char *key)
{
    uint64_t h = 0xcbf29ce484222325ull;
    struct entry **at;

    for (const char *c = key; *c; c++)
        h = (h ^ (unsigned char)*c) * 0x100000001b3ull;
    at = &table[h % TABLE];
    while (*at && strcmp((*at)->key, key) != 0)
        at = &(*at)->next;
    return at;
}

static void drop(struct entry **at)
{
    struct entry *gone = *at;

    *at = gone->next;
    free(gone->key);
    free(gone->val);
    free(gone);
    n_entries--;
}

static void drop_all(int owner) /* -1: everything */
{
    for (size_t i = 0; i < TABLE; i++) {
        struct entry **at = &table[i];

        while (*at) {
            if (owner < 0 || (*at)->owner == owner)
                drop(at);
            else
                at = &(*at)->next;
        }
    }
}

/* Only the control addresses are watched. */
static void tell(const struct entry *entry)
{
    if (!(kind->caps & FERRY_STORE_CAP_WATCH) || !strstr(entry->key, "/rpc_meta/"))
        return;
    count.events += watchers;
    count.event_bytes += (uint64_t)watchers * (strlen(entry->key) + entry->len);
}

struct ferry_store {
    int node;
};

static ferry_status sim_open(const struct ferry_host *host, const char *uri,
                             const struct ferry_kvs *config, struct ferry_store **store_out)
{
    *store_out = calloc(1, sizeof(**store_out));
    return *store_out ? FERRY_OK : FERRY_ENOMEM;
}

static void sim_close(struct ferry_store *store)
{
    free(store);
}

static ferry_status sim_query(struct ferry_store *store, struct ferry_store_caps *caps)
{
    caps->flags = kind->caps;
    caps->max_value = 1 << 20;
    return FERRY_OK;
}

static ferry_status is_away(void)
{
    count.refused++;
    request(0, 0);
    return FERRY_EUNREACH;
}

static ferry_status sim_put(struct ferry_store *store, const struct ferry_store_put *args,
                            uint32_t timeout_ms, uint64_t *rev_out)
{
    struct entry **at, *entry;

    if (away)
        return is_away();
    at = slot_of(args->key);
    entry = *at;
    request(strlen(args->key) + args->val_len, 0);
    if ((args->expect_rev == FERRY_REV_ABSENT && entry) ||
        (args->expect_rev != FERRY_REV_ANY && args->expect_rev != FERRY_REV_ABSENT &&
         (!entry || entry->rev != args->expect_rev)))
        return FERRY_ECONFLICT;
    if (!entry) {
        entry = calloc(1, sizeof(*entry));
        entry->key = strdup(args->key);
        *at = entry;
        n_entries++;
    }
    free(entry->val);
    entry->val = malloc(args->val_len);
    memcpy(entry->val, args->val, args->val_len);
    entry->len = args->val_len;
    entry->rev = ++revision;
    entry->owner = args->ttl_ms ? store->node : -1;
    count.writes++;
    tell(entry);
    return FERRY_OK;
}

static ferry_status sim_get(struct ferry_store *store, const char *key, uint32_t timeout_ms,
                            struct ferry_buf_sink *out, uint64_t *rev_out)
{
    struct entry *entry;

    if (away)
        return is_away();
    entry = *slot_of(key);
    count.reads++;
    request(strlen(key), entry ? entry->len : 0);
    if (!entry)
        return FERRY_ENOENT;
    if (rev_out)
        *rev_out = entry->rev;
    return out->append(out, entry->val, entry->len);
}

static ferry_status sim_del(struct ferry_store *store, const char *key, uint32_t timeout_ms)
{
    struct entry **at;

    if (away)
        return is_away();
    at = slot_of(key);
    request(strlen(key), 0);
    count.writes++;
    if (*at)
        drop(at);
    return FERRY_OK;
}

static struct fy_metadata_plugin plugin = {
    .name = "sim",
    .ops = {.size = sizeof(struct ferry_metadata_ops),
            .open = sim_open,
            .close = sim_close,
            .query = sim_query,
            .put = sim_put,
            .get = sim_get,
            .del = sim_del},
};

/* ---- nodes ---- */

struct node {
    struct fy_store *store; /* NULL = it does not run */
    char name[32];
    uint16_t port;
    uint32_t life; /* events of an earlier one are passed over */
    int lease;     /* its lease is at the server */
    uint64_t renewed_ms, retry_ms;
    uint64_t published_ms; /* of this life */
};

static struct node *nodes;
static size_t n_nodes;
static struct fy_config *config;
static char doc[8192];

static void no_log(const struct ferry_host *host, enum ferry_log_level level, const char *file,
                   int line, const char *fmt, ...)
{
}

static const int log_level = FERRY_LOG_ERROR;
static const struct ferry_host host = {
    .size = sizeof(host), .abi_major = 1, .log_level = &log_level, .log = no_log};

static int lives(const struct fy_store *store, const char *name, const char *at, uint16_t port,
                 uint64_t deadline_ns)
{
    return nodes[atoi(name + 1)].store != NULL;
}

/* ---- what is to come ---- */

enum what { START, TURN, RENEW, EXPIRE, KILL, LEAVE, AWAY, BACK };

struct event {
    uint64_t at_ms;
    enum what what;
    uint32_t node, life;
};

static struct event *heap;
static size_t n_heap, cap_heap;

static void later(uint64_t at_ms, enum what what, size_t node)
{
    struct event event = {at_ms, what, (uint32_t)node, node < n_nodes ? nodes[node].life : 0};
    size_t i;

    if (n_heap == cap_heap) {
        cap_heap = cap_heap ? cap_heap * 2 : 1024;
        heap = realloc(heap, cap_heap * sizeof(*heap));
        if (!heap)
            abort();
    }
    for (i = n_heap++; i && heap[(i - 1) / 2].at_ms > at_ms; i = (i - 1) / 2)
        heap[i] = heap[(i - 1) / 2];
    heap[i] = event;
}

static struct event take(void)
{
    struct event first = heap[0], last = heap[--n_heap];
    size_t i = 0;

    for (;;) {
        size_t child = 2 * i + 1;

        if (child >= n_heap)
            break;
        if (child + 1 < n_heap && heap[child + 1].at_ms < heap[child].at_ms)
            child++;
        if (heap[child].at_ms >= last.at_ms)
            break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = last;
    return first;
}

static void start(size_t i)
{
    struct node *node = &nodes[i];

    node->life++;
    if (fy_store_open_on(config, &plugin, "sim://", &host, NULL, &node->store)) {
        fprintf(stderr, "%s\n", ferry_error());
        exit(1);
    }
    node->store->no_keeper = 1;
    node->store->lives = lives;
    node->store->seed = (unsigned)rnd(UINT32_MAX);
    node->store->handle->node = (int)i;
    node->published_ms = 0;
    if (kind->caps & FERRY_STORE_CAP_LEASE) {
        node->lease = 1;
        node->renewed_ms = now_ms;
        count.grants++;
        request(16, 16);
        later(now_ms + RENEW_MS - rnd(RENEW_MS / 4), RENEW, i);
    }
    if (fy_store_publish(node->store, node->name, "10.0.0.1", node->port, doc, strlen(doc),
                         1000))
        later(now_ms + 1000, START, i); /* whoever started it starts it again */
    else
        node->published_ms = now_ms;
    watchers++;
    later(now_ms + rnd(4000), TURN, i);
}

static void end(size_t i, int clean)
{
    struct node *node = &nodes[i];

    if (clean)
        fy_store_unpublish(node->store, node->name, 1000);
    else if (node->lease)
        later(node->renewed_ms + TTL_MS, EXPIRE, i);
    fy_store_close(node->store);
    node->store = NULL;
    watchers--;
}

/* As the plugins: a lease that is gone is granted again, and its keys put. */
static void renew(size_t i)
{
    struct node *node = &nodes[i];
    uint64_t ms = RENEW_MS;

    if (away) {
        is_away();
        node->retry_ms = node->retry_ms ? node->retry_ms * 2 : RETRY_MS;
        ms = node->retry_ms = node->retry_ms > RENEW_MS / 2 ? RENEW_MS / 2 : node->retry_ms;
    } else if (node->lease) {
        count.renewals += kind->renew_requests;
        for (unsigned r = 0; r < kind->renew_requests; r++)
            request(32, 16);
        node->renewed_ms = now_ms;
        node->retry_ms = 0;
    } else {
        char *rpc_key = fy_store_rpc_key(node->store, node->name);
        char *doc_key = fy_store_doc_key(node->store, node->name);
        struct ferry_store_put put = {.size = sizeof(put),
                                      .ttl_ms = TTL_MS,
                                      .expect_rev = FERRY_REV_ABSENT,
                                      .key = rpc_key};
        char text[64];

        put.val_len =
            (size_t)snprintf(text, sizeof(text),
                             "{\"ip_or_host_name\":\"10.0.0.1\",\"rpc_port\":%u}", node->port);
        put.val = text;
        count.grants++;
        request(16, 16);
        sim_put(node->store->handle, &put, 0, NULL);
        put.key = doc_key;
        put.val = doc;
        put.val_len = strlen(doc);
        sim_put(node->store->handle, &put, 0, NULL);
        node->lease = 1;
        node->renewed_ms = now_ms;
        node->retry_ms = 0;
        free(rpc_key);
        free(doc_key);
    }
    later(now_ms + ms - rnd(ms / 4), RENEW, i);
}

static void happen(const struct event *event)
{
    struct node *node = event->node < n_nodes ? &nodes[event->node] : NULL;
    int stale = node && node->life != event->life;

    switch (event->what) {
    case START:
        if (!node->store)
            start(event->node);
        break;
    case TURN:
        if (!stale && node->store)
            later(now_ms + fy_store_turn(node->store), TURN, event->node);
        break;
    case RENEW:
        if (!stale && node->store)
            renew(event->node);
        break;
    case EXPIRE:
        if (!stale && !node->store)
            drop_all((int)event->node);
        break;
    case KILL:
    case LEAVE:
        if (!stale && node->store)
            end(event->node, event->what == LEAVE);
        break;
    case AWAY:
        away = 1;
        break;
    case BACK: /* empty */
        away = 0;
        drop_all(-1);
        for (size_t i = 0; i < n_nodes; i++)
            nodes[i].lease = 0;
        break;
    }
}

static void run_until(uint64_t end_ms)
{
    while (n_heap && heap[0].at_ms <= end_ms) {
        struct event event = take();

        now_ms = event.at_ms;
        happen(&event);
    }
    now_ms = end_ms;
}

/* ---- acts ---- */

static int checking, broken;

static void promise(int holds, const char *what)
{
    if (holds)
        return;
    fprintf(stderr, "broken: %s (%s, %zu nodes)\n", what, kind->name, n_nodes);
    broken = 1;
}

static void begin_act(void)
{
    memset(&count, 0, sizeof(count));
    memset(per_second, 0, sizeof(per_second));
    act_began_ms = now_ms;
}

static uint32_t peak(void)
{
    uint32_t most = 0;

    for (size_t i = 0; i < sizeof(per_second) / sizeof(per_second[0]); i++)
        most = per_second[i] > most ? per_second[i] : most;
    return most;
}

static size_t complete(void) /* nodes that run and are published in full */
{
    size_t n = 0;

    for (size_t i = 0; i < n_nodes; i++) {
        char *rpc_key, *doc_key;

        if (!nodes[i].store)
            continue;
        rpc_key = fy_store_rpc_key(nodes[i].store, nodes[i].name);
        doc_key = fy_store_doc_key(nodes[i].store, nodes[i].name);
        n += *slot_of(rpc_key) && *slot_of(doc_key);
        free(rpc_key);
        free(doc_key);
    }
    return n;
}

static void line(const char *act, size_t changed, double converged_s)
{
    const uint64_t renewals = count.renewals + count.grants;
    char converged[32] = "-";

    if (converged_s >= 0)
        snprintf(converged, sizeof(converged), "%.1f s", converged_s);
    printf("| %s | %zu | %s | %zu | %" PRIu64 " | %" PRIu64 " | %" PRIu64
           " | %.1f MB | %.1f MB | %" PRIu64 " (%.1f MB) | %u | %s |\n",
           kind->name, n_nodes, act, changed, count.writes, count.reads, renewals,
           (double)count.bytes_in / 1e6, (double)count.bytes_out / 1e6, count.events,
           (double)count.event_bytes / 1e6, peak(), converged);
}

/* When the last of those who have a restarted node open knows of it, without a transfer. */
static double followers_know(const uint64_t *published_ms, size_t n)
{
    uint64_t last = 0;
    uint64_t tick = REFRESH_MS / PEERS > MIN_TICK_MS ? REFRESH_MS / PEERS : MIN_TICK_MS;

    for (size_t i = 0; i < n; i++) {
        for (unsigned p = 0; p < PEERS; p++) {
            uint64_t wait = kind->caps & FERRY_STORE_CAP_WATCH ? SETTLE_MS + rnd(SPREAD_MS)
                                                               : rnd(tick * PEERS) + 1;

            if (published_ms[i] && wait > last)
                last = wait;
        }
    }
    return (double)last / 1e3;
}

static void act_join(void)
{
    begin_act();
    for (size_t i = 0; i < n_nodes; i++)
        later(now_ms + rnd(JOIN_MS), START, i);
    run_until(now_ms + JOIN_MS);
    line("join in 60 s", n_nodes, -1);
    promise(complete() == n_nodes, "a node that joined is not published");
    promise(count.writes == 2 * n_nodes, "joining takes more than two writes");
}

static void act_stay(void)
{
    begin_act();
    run_until(now_ms + STEADY_MS);
    line("stay for 600 s", 0, -1);
    promise(count.writes == 0, "a key is written although nothing changed");
    promise(count.reads <= n_nodes * (STEADY_MS / 2000 + 2),
            "a node looks more often than every 2 s");
}

static void act_restart(void)
{
    size_t n = n_nodes * CHANGED / 100;
    uint64_t *published = calloc(n, sizeof(*published));
    double know;

    begin_act();
    for (size_t i = 0; i < n; i++) {
        later(now_ms + rnd(10000), KILL, i);
        later(now_ms + 10000 + rnd(5000), START, i);
    }
    run_until(now_ms + 30000);
    for (size_t i = 0; i < n; i++)
        published[i] = nodes[i].published_ms;
    know = followers_know(published, n);
    line("restart", n, know);
    promise(complete() == n_nodes, "a node that restarted is not published");
    promise(know <= (kind->caps & FERRY_STORE_CAP_WATCH ? 0.6 : 61), "followers hear too late");
    free(published);
}

static void act_leave(void)
{
    size_t n = n_nodes * CHANGED / 100, before = n_entries;

    begin_act();
    for (size_t i = 0; i < n; i++)
        later(now_ms + rnd(10000), LEAVE, i);
    run_until(now_ms + 10000);
    line("leave", n, 0);
    promise(n_entries == before - 2 * n, "what left is still there");
    for (size_t i = 0; i < n; i++)
        later(now_ms + rnd(5000), START, i);
    run_until(now_ms + 10000);
}

static void act_die(void)
{
    size_t n = n_nodes * CHANGED / 100, left;
    uint64_t began = now_ms;
    double forgotten = -1;

    begin_act();
    for (size_t i = 0; i < n; i++)
        later(now_ms, KILL, i);
    left = 2 * (n_nodes - n);
    while (now_ms < began + 2 * TTL_MS && n_entries != left)
        run_until(now_ms + 100);
    if (n_entries == left)
        forgotten = (double)(now_ms - began) / 1e3;
    run_until(began + 2 * TTL_MS);
    line("die", n, forgotten);
    if (kind->caps & FERRY_STORE_CAP_LEASE)
        promise(forgotten >= 0 && forgotten <= TTL_MS / 1e3 + 5, "the dead are not forgotten");
    for (size_t i = 0; i < n; i++)
        later(now_ms + rnd(5000), START, i);
    run_until(now_ms + 10000);
}

static void act_lose(void)
{
    uint64_t began = now_ms;
    double again = -1;

    begin_act();
    later(now_ms + 1, AWAY, SIZE_MAX);
    later(now_ms + AWAY_MS, BACK, SIZE_MAX);
    run_until(began + AWAY_MS);
    while (now_ms < began + AWAY_MS + 60000 && complete() < n_nodes)
        run_until(now_ms + 100);
    if (complete() == n_nodes)
        again = (double)(now_ms - began - AWAY_MS) / 1e3;
    line("server away 10 s, back empty", n_nodes, again);
    promise(again >= 0 && again <= 5, "not everybody is published again 5 s after");
    promise(count.writes <= 2 * n_nodes + n_nodes / 10,
            "publishing again takes more than two writes");
    run_until(now_ms + 30000);
    promise(complete() == n_nodes, "a node is lost in the end");
}

static void play(const struct kind *with, size_t n)
{
    kind = with;
    n_nodes = n;
    now_ms = 0;
    nodes = calloc(n, sizeof(*nodes));
    if (!nodes)
        abort();
    for (size_t i = 0; i < n; i++) {
        snprintf(nodes[i].name, sizeof(nodes[i].name), "n%zu", i);
        nodes[i].port = (uint16_t)(1 + i);
    }
    act_join();
    act_stay();
    act_restart();
    act_leave();
    act_die();
    act_lose();
    for (size_t i = 0; i < n; i++)
        if (nodes[i].store)
            end(i, 0);
    drop_all(-1);
    n_heap = 0;
    free(nodes);
}

static void make_doc(void)
{
    size_t len = (size_t)snprintf(doc, sizeof(doc), "{\"buffers\":[");

    for (int i = 0; i < BUFFERS; i++)
        len +=
            (size_t)snprintf(doc + len, sizeof(doc) - len,
                             "%s{\"addr\":%" PRIu64 ",\"length\":67108864,\"name\":\"cpu:0\"}",
                             i ? "," : "", UINT64_C(0x600000000000) + ((uint64_t)i << 26));
    snprintf(doc + len, sizeof(doc) - len,
             "],\"epoch\":\"0123456789abcdef\",\"name\":\"n\",\"protocol\":\"tcp\","
             "\"tcp_data_port\":15001,\"tcp_proto_version\":3,\"timestamp\":"
             "\"2000-01-01 00:00:00.000000\",\"transports\":{\"tcp\":{\"tcp_data_port\":15001,"
             "\"tcp_proto_version\":3}}}");
}

int main(int argc, char **argv)
{
    const struct ferry_options options = {.size = sizeof(options),
                                          .metadata_server = "sim://x"};

    make_doc();
    if (fy_config_from_options(&options, NULL, &config))
        return 1;
    printf("| server | nodes | what | of them | writes | reads | renewals | to it | from it | "
           "events to watches | most requests in a second | converged after |\n"
           "|---|---|---|---|---|---|---|---|---|---|---|---|\n");
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--check")) {
            checking = 1;
            continue;
        }
        if (atoi(argv[i]) < 10 || atoi(argv[i]) > 60000)
            return 2;
        for (size_t k = 0; k < sizeof(kinds) / sizeof(kinds[0]); k++)
            play(&kinds[k], (size_t)atoi(argv[i]));
    }
    fy_config_free(config);
    free(heap);
    return checking && broken;
}
