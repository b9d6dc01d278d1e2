/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A metadata plugin that wraps another one (key "wrapped", a path) and does one thing wrong on
 * purpose (key "mutant"). metadata_mutants.py says at which point each must be caught.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "ferry/metadata_plugin.h"

#ifndef MUTANT_MAGIC
#define MUTANT_MAGIC FERRY_PLUGIN_MAGIC
#endif
#ifndef MUTANT_MAJOR
#define MUTANT_MAJOR FERRY_METADATA_ABI_MAJOR
#endif
#ifndef MUTANT_TABLE_SIZE
#define MUTANT_TABLE_SIZE sizeof(struct ferry_metadata_ops)
#endif
#ifndef MUTANT_PUT
#define MUTANT_PUT m_put
#endif
#ifndef MUTANT_SCHEME
#define MUTANT_SCHEME "memory"
#endif
#ifndef MUTANT_NAME
#define MUTANT_NAME "mutant"
#endif

static const struct ferry_metadata_ops *inner;
static char mutant[64];

static bool is(const char *name)
{
    return strcmp(mutant, name) == 0;
}

static void *idle(void *arg)
{
    for (;;)
        pause();
    return arg;
}

static void nap_ms(long ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

static ferry_status m_open(const struct ferry_host *host, const char *uri,
                           const struct ferry_kvs *config, struct ferry_store **store_out)
{
    struct ferry_kv kept[64];
    struct ferry_kvs rest = {kept, 0};
    char path[512] = "";
    pthread_t thread;

    for (size_t i = 0; i < config->n && rest.n < 64; i++) {
        const struct ferry_kv *kv = &config->v[i];
        char *to = !strcmp(kv->key, "mutant")    ? mutant
                   : !strcmp(kv->key, "wrapped") ? path
                                                 : NULL;

        if (to)
            memcpy(to, kv->val, kv->val_len + 1); /* the suite's end with NUL */
        else
            kept[rest.n++] = *kv;
    }
    if (!inner) {
        void *so = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        const struct ferry_metadata_plugin *p = so ? dlsym(so, FERRY_METADATA_SYMBOL) : NULL;

        if (!p)
            return FERRY_EINTERNAL;
        inner = p->ops;
    }
    if (is("crashes-in-open"))
        *(volatile int *)NULL = 1;
    if (is("takes-unknown-key"))
        rest.n = 0;
    if (is("leaks-descriptor"))
        (void)!open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (is("leaks-thread"))
        pthread_create(&thread, NULL, idle, NULL);
    return inner->open(host, uri, &rest, store_out);
}

static void m_close(struct ferry_store *store)
{
    if (is("hangs-in-close"))
        idle(NULL);
    if (is("crashes-at-close-of-null") && !store)
        *(volatile int *)NULL = 1;
    inner->close(store);
}

static ferry_status m_query(struct ferry_store *store, struct ferry_store_caps *caps)
{
    struct ferry_store_caps all = {.size = sizeof(all)};

    if (is("writes-beyond-size")) {
        ferry_status status = inner->query(store, &all);
        *caps = all;
        return status;
    }
    ferry_status status = inner->query(store, caps);
    if (caps->size >= 8)
        caps->flags &= ~(is("denies-lease")   ? FERRY_STORE_CAP_LEASE
                         : is("denies-cas")   ? FERRY_STORE_CAP_CAS
                         : is("denies-watch") ? FERRY_STORE_CAP_WATCH
                         : is("denies-list")  ? FERRY_STORE_CAP_LIST
                                              : 0u);
    if (is("lies-about-length") && caps->size >= sizeof(all))
        caps->max_value = 1000;
    return status;
}

/* What a careless protocol makes of a key. */
static const char *key_of(const char *key, char room[512])
{
    static char shared_key[512];
    size_t len = 0;

    if (is("shares-a-buffer")) {
        strncpy(shared_key, key, sizeof(shared_key) - 1);
        sched_yield();
        return shared_key;
    }
    if (!is("joins-slashes") && !is("cuts-keys"))
        return key;
    for (const char *p = key; *p && len < 511; p++) {
        if (is("joins-slashes") && p[0] == '/' && p[1] == '/')
            continue;
        if (is("cuts-keys") && *p == '?')
            break;
        room[len++] = *p;
    }
    room[len] = '\0';
    return room;
}

static ferry_status m_put(struct ferry_store *store, const struct ferry_store_put *args,
                          uint32_t timeout_ms, uint64_t *rev_out)
{
    struct ferry_store_put put = *args;
    char room[512];

    put.key = key_of(args->key, room);
    if (is("cuts-at-nul"))
        put.val_len = strnlen(args->val, args->val_len);
    if (is("cuts-large") && put.val_len > 1000000)
        put.val_len = 1000000;
    if (is("ignores-ttl"))
        put.ttl_ms = 0;
    if (is("ignores-revision") ||
        (is("races-in-compare") && put.expect_rev != FERRY_REV_ABSENT && put.expect_rev != 7))
        put.expect_rev = FERRY_REV_ANY;
    if (is("races-in-compare"))
        nap_ms(1); /* between the comparison and the setting */
    return inner->put(store, &put, timeout_ms, rev_out);
}

static ferry_status m_get(struct ferry_store *store, const char *key, uint32_t timeout_ms,
                          struct ferry_buf_sink *out, uint64_t *rev_out)
{
    char room[512];
    ferry_status status = inner->get(store, key_of(key, room), timeout_ms, out, rev_out);

    if (is("absent-is-unreach") && status == FERRY_ENOENT)
        return FERRY_EUNREACH;
    if (is("outage-is-absent") && status == FERRY_EUNREACH)
        return FERRY_ENOENT;
    if (is("appends-on-failure") && status)
        out->append(out, "?", 1);
    if (is("forgets-its-time") && status == FERRY_EUNREACH)
        nap_ms(2500);
    return status;
}

static ferry_status m_del(struct ferry_store *store, const char *key, uint32_t timeout_ms)
{
    char room[512];
    struct ferry_store_caps caps = {.size = sizeof(caps)};

    if (is("deletes-nothing"))
        return inner->query(store, &caps);
    return inner->del(store, key_of(key, room), timeout_ms);
}

/* Hands values on, which lists have not. */
struct with_values {
    struct ferry_kv_sink sink; /* first */
    struct ferry_kv_sink *out;
};

static ferry_status put_value(struct ferry_kv_sink *sink, const struct ferry_kv *kv)
{
    struct ferry_kv full = *kv;
    struct with_values *v = (struct with_values *)sink;
    ferry_status status;

    if (is("lists-values")) {
        full.val = "value";
        full.val_len = 5;
    }
    status = v->out->put(v->out, &full);
    return is("lists-twice") && !status ? v->out->put(v->out, &full) : status;
}

static ferry_status m_list(struct ferry_store *store, const char *prefix, uint32_t timeout_ms,
                           struct ferry_kv_sink *out)
{
    struct with_values v = {.sink = {put_value}, .out = out};
    char *star = is("lists-patterns") ? strchr(prefix, '*') : NULL;
    char cut[512];

    if (star) {
        snprintf(cut, sizeof(cut), "%.*s", (int)(star - prefix), prefix);
        prefix = cut;
    }
    return inner->list(store, prefix, timeout_ms, &v.sink);
}

static struct {
    void (*cb)(void *arg, const struct ferry_store_event *event);
    void *arg;
} watching;

static void on_event(void *arg, const struct ferry_store_event *event)
{
    if (is("loses-deletes") && event->type == FERRY_STORE_DELETED)
        return;
    if (is("hides-resync") && event->type == FERRY_STORE_RESYNC)
        return;
    watching.cb(watching.arg, event);
    if (is("tells-twice"))
        watching.cb(watching.arg, event);
}

static ferry_status m_watch(struct ferry_store *store, const char *prefix,
                            void (*cb)(void *arg, const struct ferry_store_event *event),
                            void *arg, uint64_t *watch_id_out)
{
    watching.cb = cb;
    watching.arg = arg;
    return inner->watch(store, prefix, on_event, NULL, watch_id_out);
}

static void m_unwatch(struct ferry_store *store, uint64_t watch_id)
{
    if (!is("tells-after-unwatch"))
        inner->unwatch(store, watch_id);
}

static const struct ferry_metadata_ops mutant_ops = {
    .size = (uint32_t)(MUTANT_TABLE_SIZE),
    .open = m_open,
    .close = m_close,
    .query = m_query,
    .put = MUTANT_PUT,
    .get = m_get,
    .del = m_del,
    .list = m_list,
    .watch = m_watch,
    .unwatch = m_unwatch,
};
static const char *const schemes[] = {MUTANT_SCHEME, NULL};

extern FERRY_PLUGIN_EXPORT const struct ferry_metadata_plugin ferry_metadata_plugin;
const struct ferry_metadata_plugin ferry_metadata_plugin = {
    .hdr = {.magic = MUTANT_MAGIC,
            .abi_major = MUTANT_MAJOR,
            .size = sizeof(struct ferry_metadata_plugin),
            .name = MUTANT_NAME,
            .version = "1"},
    .ops = &mutant_ops,
    .schemes = schemes,
};
