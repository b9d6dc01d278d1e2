/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Conformance of metadata plugins: compare-and-set, leases, lists and watches; what the caps
 * deny must be refused.
 */
#include "metadata_conformance.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static enum result compare_and_set(void)
{
    const char *key = key_of("cas");
    uint64_t rev1 = 0, rev2 = 0, rev = 0;
    struct bytes bytes;
    ferry_status status;

    if (!(caps & FERRY_STORE_CAP_CAS)) {
        CHECK_STATUS(put(key, "a", 1, 0, FERRY_REV_ABSENT, NULL), FERRY_ENOTSUP);
        CHECK_STATUS(put(key, "a", 1, 0, 7, NULL), FERRY_ENOTSUP);
        CHECK_STATUS(get_status(store, key, 5000), absent);
        return PASSED;
    }
    CHECK_STATUS(put(key, "a", 1, 0, 7, NULL), FERRY_ECONFLICT);
    CHECK_STATUS(get_status(store, key, 5000), FERRY_ENOENT);
    CHECK_STATUS(put(key, "a", 1, 0, FERRY_REV_ABSENT, &rev1), FERRY_OK);
    CHECK(rev1 != FERRY_REV_ANY && rev1 != FERRY_REV_ABSENT);
    CHECK_STATUS(put(key, "b", 1, 0, FERRY_REV_ABSENT, NULL), FERRY_ECONFLICT);
    CHECK(holds(key, "a", 1));
    CHECK_STATUS(put(key, "b", 1, 0, rev1, &rev2), FERRY_OK);
    CHECK(rev2 != rev1);
    CHECK_STATUS(put(key, "c", 1, 0, rev1, NULL), FERRY_ECONFLICT);
    CHECK(holds(key, "b", 1));
    bytes_init(&bytes);
    status = ops->get(store, key, 5000, &bytes.sink, &rev);
    bytes_free(&bytes);
    CHECK_STATUS(status, FERRY_OK);
    CHECK(rev == rev2);
    CHECK_STATUS(ops->del(store, key, 5000), FERRY_OK);
    CHECK_STATUS(put(key, "d", 1, 0, rev2, NULL), FERRY_ECONFLICT);
    CHECK_STATUS(put(key, "d", 1, 0, FERRY_REV_ABSENT, NULL), FERRY_OK);
    CHECK_STATUS(ops->del(store, key, 5000), FERRY_OK);
    return PASSED;
}

#define ROUNDS 25
static int counter_failed;

static void *count_up(void *arg)
{
    const char *key = arg;

    for (int i = 0; i < ROUNDS; i++) {
        ferry_status status = FERRY_ECONFLICT;

        while (status == FERRY_ECONFLICT) {
            struct bytes bytes;
            char text[32] = "";
            uint64_t rev = 0;
            int len;

            bytes_init(&bytes);
            status = ops->get(store, key, 5000, &bytes.sink, &rev);
            if (!status && bytes.len < sizeof(text)) {
                memcpy(text, bytes.data, bytes.len);
                len = snprintf(text, sizeof(text), "%d", atoi(text) + 1);
                status = put(key, text, (size_t)len, 0, rev, NULL);
            }
            bytes_free(&bytes);
        }
        if (status) {
            fail_with(__FILE__, __LINE__, "get and put to give FERRY_OK or FERRY_ECONFLICT",
                      "%s: %s", status_name(status), last_words());
            counter_failed = 1;
            break;
        }
    }
    return NULL;
}

static enum result counting_loses_nothing(void)
{
    const char *key = key_of("counter");
    pthread_t threads[4];

    if (!(caps & FERRY_STORE_CAP_CAS))
        return SKIPPED;
    CHECK_STATUS(put(key, "0", 1, 0, FERRY_REV_ANY, NULL), FERRY_OK);
    for (int i = 0; i < 4; i++)
        CHECK(pthread_create(&threads[i], NULL, count_up, (void *)key) == 0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    CHECK(!counter_failed);
    CHECK(holds(key, "100", 3));
    CHECK_STATUS(ops->del(store, key, 5000), FERRY_OK);
    return PASSED;
}

/* Long enough that a renewal can be late on a machine with much else to do, and keys too. */
static const uint32_t ttl_ms = 3000, gone_within_ms = 3 * 3000;

static enum result leases(void)
{
    const char *key = key_of("lease"), *held_on = key_of("lease2"), *later = key_of("lease3");
    struct ferry_store *owner, *mine = store;
    uint64_t closed_ms;
    ferry_status status;

    if (!(caps & FERRY_STORE_CAP_LEASE)) {
        CHECK_STATUS(put(key, "a", 1, ttl_ms, FERRY_REV_ANY, NULL), FERRY_ENOTSUP);
        CHECK_STATUS(get_status(store, key, 5000), absent);
        return PASSED;
    }
    CHECK_STATUS(open_store(&owner), FERRY_OK);
    store = owner;
    status = put(key, "a", 1, ttl_ms, FERRY_REV_ANY, NULL);
    if (!status)
        status = put(held_on, "b", 1, ttl_ms, FERRY_REV_ANY, NULL);
    store = mine;
    if (status)
        ops->close(owner);
    CHECK_STATUS(status, FERRY_OK);
    CHECK_STATUS(put(later, "c", 1, ttl_ms, FERRY_REV_ANY, NULL), FERRY_OK);
    CHECK_STATUS(put(later, "d", 1, 0, FERRY_REV_ANY, NULL), FERRY_OK); /* now for ever */
    sleep_ms(ttl_ms * 3 / 2);
    status = get_status(mine, key, 5000); /* kept alive while its owner lives */
    closed_ms = now_ms();
    ops->close(owner);
    CHECK_STATUS(status, FERRY_OK);
    CHECK_STATUS(get_status(mine, key, 5000), FERRY_OK);
    CHECK(becomes(mine, key, FERRY_ENOENT, gone_within_ms));
    CHECK(now_ms() - closed_ms > ttl_ms / 3);
    CHECK(becomes(mine, held_on, FERRY_ENOENT, ttl_ms));
    CHECK(holds(later, "d", 1));
    CHECK_STATUS(ops->del(mine, later, 5000), FERRY_OK);
    return PASSED;
}

static enum result the_killed_lose_their_keys(void)
{
    const char *key = key_of("killed");
    int pid;

    if (!(caps & FERRY_STORE_CAP_LEASE) || !have_server())
        return SKIPPED;
    pid = holder_start(key, ttl_ms);
    CHECK(pid > 0);
    if (get_status(store, key, 5000)) {
        holder_kill(pid);
        CHECK(!"the key is not there while its holder lives");
    }
    holder_kill(pid);
    CHECK(becomes(store, key, FERRY_ENOENT, gone_within_ms));
    return PASSED;
}

struct listing {
    struct ferry_kv_sink sink;
    size_t n;
    char keys[32][128];
    int with_value;
};

static ferry_status list_put(struct ferry_kv_sink *sink, const struct ferry_kv *kv)
{
    struct listing *listing = (struct listing *)sink;

    if (listing->n < 32)
        snprintf(listing->keys[listing->n], sizeof(listing->keys[0]), "%s", kv->key);
    listing->n++;
    listing->with_value |= kv->val != NULL;
    return FERRY_OK;
}

static int listed(const struct listing *listing, const char *key)
{
    int n = 0;

    for (size_t i = 0; i < listing->n && i < 32; i++)
        n += !strcmp(listing->keys[i], key);
    return n;
}

static enum result lists(void)
{
    static const char *const in[] = {"list/a", "list/b:1", "list/deep/c", "list/d*"};
    static const char *const out[] = {"lisu", "lis", "list"};
    struct listing listing = {.sink = {list_put}};

    if (!(caps & FERRY_STORE_CAP_LIST)) {
        if (ops->list)
            CHECK_STATUS(ops->list(store, key_of("list/"), 5000, &listing.sink), FERRY_ENOTSUP);
        return PASSED;
    }
    for (int i = 0; i < 4; i++)
        CHECK_STATUS(put(key_of(in[i]), in[i], strlen(in[i]), 0, FERRY_REV_ANY, NULL),
                     FERRY_OK);
    for (int i = 0; i < 3; i++)
        CHECK_STATUS(put(key_of(out[i]), "x", 1, 0, FERRY_REV_ANY, NULL), FERRY_OK);
    CHECK_STATUS(ops->list(store, key_of("list/"), 5000, &listing.sink), FERRY_OK);
    CHECK(listing.n == 4 && !listing.with_value);
    for (int i = 0; i < 4; i++)
        CHECK(listed(&listing, key_of(in[i])) == 1);
    listing = (struct listing){.sink = {list_put}};
    CHECK_STATUS(ops->list(store, key_of("list/d*"), 5000, &listing.sink), FERRY_OK);
    CHECK(listing.n == 1); /* no pattern */
    listing = (struct listing){.sink = {list_put}};
    CHECK_STATUS(ops->list(store, key_of("nothing/"), 5000, &listing.sink), FERRY_OK);
    CHECK(listing.n == 0);
    for (int i = 0; i < 4; i++)
        CHECK_STATUS(ops->del(store, key_of(in[i]), 5000), FERRY_OK);
    for (int i = 0; i < 3; i++)
        CHECK_STATUS(ops->del(store, key_of(out[i]), 5000), FERRY_OK);
    return PASSED;
}

/* Events as a watch told them. `closed`: the callback waits until it is opened. */
struct seen {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int closed, waiting;
    size_t n, resyncs, puts, deletes, out_of_order, n_since_resync;
    uint64_t last_rev;
    char key[256], val[64];
    int last_type;
};

static void on_event(void *arg, const struct ferry_store_event *event)
{
    struct seen *seen = arg;

    pthread_mutex_lock(&seen->lock);
    seen->waiting = seen->closed;
    pthread_cond_broadcast(&seen->changed);
    while (seen->closed)
        pthread_cond_wait(&seen->changed, &seen->lock);
    seen->n++;
    seen->last_type = (int)event->type;
    if (event->type == FERRY_STORE_RESYNC) {
        seen->resyncs++;
        seen->n_since_resync = 0;
    } else {
        snprintf(seen->key, sizeof(seen->key), "%s", event->key);
        snprintf(seen->val, sizeof(seen->val), "%.*s", (int)event->val_len,
                 event->val ? (const char *)event->val : "");
        seen->puts += event->type == FERRY_STORE_PUT;
        seen->deletes += event->type == FERRY_STORE_DELETED;
        seen->out_of_order += event->rev <= seen->last_rev;
        seen->last_rev = event->rev;
        seen->n_since_resync++;
    }
    pthread_cond_broadcast(&seen->changed);
    pthread_mutex_unlock(&seen->lock);
}

/* Waits until `*what` is at least `n`. */
static int reaches(struct seen *seen, const size_t *what, size_t n, uint32_t within_ms)
{
    struct timespec until;
    int ok;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += within_ms / 1000;
    pthread_mutex_lock(&seen->lock);
    while (*what < n && !pthread_cond_timedwait(&seen->changed, &seen->lock, &until))
        ;
    ok = *what >= n;
    pthread_mutex_unlock(&seen->lock);
    return ok;
}

/* Waits for an event on this key with this value ("" = any), or for a RESYNC. */
static int sees(struct seen *seen, const char *key, const char *val, uint32_t within_ms)
{
    uint64_t end = now_ms() + within_ms;
    int found = 0;

    while (!found && now_ms() < end) {
        pthread_mutex_lock(&seen->lock);
        found = seen->resyncs && !*val ? 1 : !strcmp(seen->key, key) && strstr(seen->val, val);
        pthread_mutex_unlock(&seen->lock);
        if (!found)
            sleep_ms(20);
    }
    return found;
}

static void gate(struct seen *seen, int closed)
{
    pthread_mutex_lock(&seen->lock);
    seen->closed = closed;
    pthread_cond_broadcast(&seen->changed);
    pthread_mutex_unlock(&seen->lock);
}

static int arrives_at_gate(struct seen *seen)
{
    struct timespec until;
    int ok;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 10;
    pthread_mutex_lock(&seen->lock);
    while (!seen->waiting && !pthread_cond_timedwait(&seen->changed, &seen->lock, &until))
        ;
    ok = seen->waiting;
    pthread_mutex_unlock(&seen->lock);
    return ok;
}

#define SEEN_INIT                                                                              \
    {                                                                                          \
        .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER                 \
    }

static enum result watches(void)
{
    static struct seen seen = SEEN_INIT;
    const char *key = key_of("watch/a");
    uint64_t id = 0;
    size_t n;

    if (!(caps & FERRY_STORE_CAP_WATCH)) {
        if (ops->watch)
            CHECK_STATUS(ops->watch(store, key_of("watch/"), on_event, &seen, &id),
                         FERRY_ENOTSUP);
        return PASSED;
    }
    CHECK_STATUS(ops->watch(store, key_of("watch/"), on_event, &seen, &id), FERRY_OK);
    CHECK_STATUS(put(key_of("watchless"), "x", 1, 0, FERRY_REV_ANY, NULL), FERRY_OK);
    CHECK_STATUS(put(key, "1", 1, 0, FERRY_REV_ANY, NULL), FERRY_OK);
    CHECK(reaches(&seen, &seen.puts, 1, 10000));
    CHECK(!strcmp(seen.key, key) && !strcmp(seen.val, "1"));
    CHECK_STATUS(put(key, "22", 2, 0, FERRY_REV_ANY, NULL), FERRY_OK);
    CHECK_STATUS(ops->del(store, key, 5000), FERRY_OK);
    CHECK(reaches(&seen, &seen.deletes, 1, 10000));
    CHECK(seen.puts == 2 && seen.last_type == FERRY_STORE_DELETED && !seen.out_of_order);
    if (caps & FERRY_STORE_CAP_LEASE) {
        struct ferry_store *owner, *mine = store;

        CHECK_STATUS(open_store(&owner), FERRY_OK);
        store = owner;
        put(key, "leased", 6, 2000, FERRY_REV_ANY, NULL);
        store = mine;
        ops->close(owner);
        CHECK(reaches(&seen, &seen.puts, 3, 10000));
        CHECK(reaches(&seen, &seen.deletes, 2, 10000)); /* expired */
    }
    ops->unwatch(store, id);
    n = seen.n;
    CHECK_STATUS(put(key, "3", 1, 0, FERRY_REV_ANY, NULL), FERRY_OK);
    CHECK_STATUS(ops->del(store, key, 5000), FERRY_OK);
    CHECK_STATUS(ops->del(store, key_of("watchless"), 5000), FERRY_OK);
    sleep_ms(200);
    CHECK(seen.n == n);
    return PASSED;
}

/* A watcher that does not keep up gets every event or is told to list again, and nothing is
 * lost after that. */
static enum result slow_watchers_resync(void)
{
    static struct seen seen = SEEN_INIT;
    const char *key = key_of("slow/a");
    const size_t many = 1500;
    uint64_t id = 0;
    int resynced;
    size_t n;

    if (!(caps & FERRY_STORE_CAP_WATCH))
        return SKIPPED;
    seen.closed = 1;
    CHECK_STATUS(ops->watch(store, key_of("slow/"), on_event, &seen, &id), FERRY_OK);
    for (size_t i = 0; i < many; i++)
        CHECK_STATUS(put(key, "v", 1, 0, FERRY_REV_ANY, NULL), FERRY_OK);
    gate(&seen, 0);
    CHECK_STATUS(put(key_of("slow/last"), "v", 1, 0, FERRY_REV_ANY, NULL), FERRY_OK);
    CHECK(sees(&seen, key_of("slow/last"), "", 10000));
    pthread_mutex_lock(&seen.lock);
    n = seen.puts;
    resynced = seen.resyncs != 0;
    pthread_mutex_unlock(&seen.lock);
    CHECK(n == many + 1 || resynced);
    CHECK_STATUS(put(key_of("slow/after"), "v", 1, 0, FERRY_REV_ANY, NULL), FERRY_OK);
    CHECK(reaches(&seen, &seen.puts, n + 1, 10000));
    ops->unwatch(store, id);
    CHECK(!seen.out_of_order);
    CHECK_STATUS(ops->del(store, key, 5000), FERRY_OK);
    CHECK_STATUS(ops->del(store, key_of("slow/last"), 5000), FERRY_OK);
    CHECK_STATUS(ops->del(store, key_of("slow/after"), 5000), FERRY_OK);
    return PASSED;
}

static enum result watches_resume(void)
{
    static struct seen seen = SEEN_INIT;
    const char *key = key_of("resume/a");
    const size_t many = 2500;
    uint64_t id = 0;

    if (!(caps & FERRY_STORE_CAP_WATCH) || !have_server())
        return SKIPPED;
    CHECK_STATUS(ops->watch(store, key_of("resume/"), on_event, &seen, &id), FERRY_OK);
    CHECK_STATUS(put(key, "1", 1, 0, FERRY_REV_ANY, NULL), FERRY_OK);
    CHECK(reaches(&seen, &seen.puts, 1, 10000));
    gate(&seen, 1);
    CHECK_STATUS(put(key, "2", 1, 0, FERRY_REV_ANY, NULL), FERRY_OK);
    CHECK(arrives_at_gate(&seen));
    CHECK(server("stop") && server("start"));
    CHECK(becomes(store, key, FERRY_OK, 10000));
    for (size_t i = 0; i < many; i++) /* more than a server tells in one message */
        CHECK_STATUS(put(key, "3", 1, 0, FERRY_REV_ANY, NULL), FERRY_OK);
    gate(&seen, 0);
    CHECK(reaches(&seen, &seen.puts, many + 2, 20000)); /* what happened meanwhile is told */
    CHECK(!strcmp(seen.val, "3") && seen.resyncs == 0 && !seen.out_of_order);
    ops->unwatch(store, id);
    CHECK_STATUS(ops->del(store, key, 5000), FERRY_OK);
    return PASSED;
}

static enum result compaction_resyncs(void)
{
    static struct seen seen = SEEN_INIT;
    const char *key = key_of("compact/a");
    uint64_t id = 0;

    if (!(caps & FERRY_STORE_CAP_WATCH) || !have_server())
        return SKIPPED;
    CHECK_STATUS(ops->watch(store, key_of("compact/"), on_event, &seen, &id), FERRY_OK);
    CHECK_STATUS(put(key, "1", 1, 0, FERRY_REV_ANY, NULL), FERRY_OK);
    CHECK(reaches(&seen, &seen.puts, 1, 10000));
    gate(&seen, 1);
    CHECK_STATUS(put(key, "2", 1, 0, FERRY_REV_ANY, NULL), FERRY_OK);
    CHECK(arrives_at_gate(&seen));
    CHECK(server("stop") && server("start"));
    CHECK(becomes(store, key, FERRY_OK, 10000));
    for (int i = 0; i < 5; i++)
        CHECK_STATUS(put(key, "more", 4, 0, FERRY_REV_ANY, NULL), FERRY_OK);
    CHECK(server("compact"));
    gate(&seen, 0);
    CHECK(reaches(&seen, &seen.resyncs, 1, 20000));
    CHECK_STATUS(put(key, "after", 5, 0, FERRY_REV_ANY, NULL), FERRY_OK);
    CHECK(reaches(&seen, &seen.n_since_resync, 1, 20000));
    CHECK(sees(&seen, key, "after", 10000));
    ops->unwatch(store, id);
    CHECK_STATUS(ops->del(store, key, 5000), FERRY_OK);
    return PASSED;
}

const struct test change_tests[] = {
    {10, "compare-and-set", "compare-and-set, or refused", compare_and_set},
    {11, "counting", "counting by compare-and-set loses nothing", counting_loses_nothing},
    {12, "leases", "leases: kept alive, gone after, or refused", leases},
    {13, "killed", "keys of a killed process are gone after their time",
     the_killed_lose_their_keys},
    {14, "lists", "lists, or refused", lists},
    {15, "watches", "watches, or refused", watches},
    {16, "slow-watchers", "slow watchers lose nothing silently", slow_watchers_resync},
    {17, "watch-resumes", "watches go on after a restart of the server", watches_resume},
    {18, "compaction", "watches say RESYNC after compaction", compaction_resyncs},
    {0},
};
