/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Registered memory: ranges go to every transport and into the document that peers read.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine.h"
#include "error.h"

#define HUGE_PAGE (2u << 20)
#define HUGE_2MB  (21u << 26) /* how mmap and memfd_create are told that size */

/* Memory of the engine's own, as ferry_memory_alloc made it. */
struct own {
    void *addr;
    size_t len;
    int fd; /* behind it, -1 = none */
};

struct fy_doc *fy_engine_doc(struct ferry_engine *engine)
{
    struct fy_doc *doc;

    pthread_mutex_lock(&engine->doc_lock);
    doc = fy_doc_ref(engine->doc);
    pthread_mutex_unlock(&engine->doc_lock);
    return doc;
}

/* ---- the document
 * ---------------------------------------------------------------------------- */

unsigned fy_primary(const struct ferry_engine *engine)
{
    for (unsigned t = 0; t < engine->n_transports; t++)
        if (engine->transports[t]->caps.flags & FERRY_CAP_MOONCAKE)
            return t;
    return 0;
}

/* Where the t-th transport stands in the document: the primary first. */
static unsigned place_of(const struct ferry_engine *engine, unsigned t)
{
    unsigned primary = fy_primary(engine);

    return t == primary ? 0 : t < primary ? t + 1 : t;
}

static ferry_status add_buffer(struct ferry_engine *engine, struct fy_doc *doc,
                               const struct fy_region *region)
{
    struct fy_kv attrs[FY_MAX_TRANSPORTS];
    struct ferry_kvs kvs[FY_MAX_TRANSPORTS];
    ferry_status status = FERRY_OK;
    bool any = false;

    for (unsigned t = 0; t < engine->n_transports; t++) {
        fy_kv_init(&attrs[t]);
        if (!status && region->mr[t])
            status = engine->transports[t]->ops->export_mem(region->mr[t], &attrs[t].sink);
        kvs[place_of(engine, t)] = attrs[t].kvs;
        any |= attrs[t].kvs.n > 0;
    }
    if (!status)
        status = fy_doc_add_buffer(doc, region->addr, region->len, region->access,
                                   region->location, any ? kvs : NULL);
    for (unsigned t = 0; t < engine->n_transports; t++)
        fy_kv_fini(&attrs[t]);
    return status;
}

static ferry_status build_doc(struct ferry_engine *engine, struct fy_doc **doc_out)
{
    const uint32_t remote = FERRY_ACCESS_REMOTE_READ | FERRY_ACCESS_REMOTE_WRITE;
    size_t n = fy_registry_count(engine->registry);
    struct fy_doc *doc;
    ferry_status status = fy_doc_new(engine->name, engine->epoch, &doc);

    if (status)
        return status;
    for (unsigned place = 0; place < engine->n_transports; place++)
        for (unsigned t = 0; t < engine->n_transports && !status; t++)
            if (place_of(engine, t) == place)
                status = fy_doc_add_transport(doc, engine->transports[t]->host.name,
                                              &engine->transports[t]->attrs.kvs);
    for (size_t i = 0; i < n && !status; i++) {
        const struct fy_region *region = fy_registry_at(engine->registry, i);

        /* What peers may not touch is not told to them. */
        if (region->access & remote)
            status = add_buffer(engine, doc, region);
    }
    if (!status)
        status = fy_doc_seal(doc);
    if (status) {
        fy_doc_unref(doc);
        return status;
    }
    *doc_out = doc;
    return FERRY_OK;
}

ferry_status fy_memory_publish(struct ferry_engine *engine, uint32_t timeout_ms)
{
    struct fy_doc *doc, *old;
    struct fy_buf text;
    ferry_status status = build_doc(engine, &doc);

    if (status)
        return status;
    pthread_mutex_lock(&engine->doc_lock);
    old = engine->doc;
    engine->doc = doc;
    pthread_mutex_unlock(&engine->doc_lock);
    fy_doc_unref(old);
    if (!engine->store || fy_store_is_p2p(engine->store))
        return FERRY_OK; /* peers ask us */
    fy_buf_init(&text, 0);
    status = fy_doc_encode(doc, &text);
    if (!status)
        status = fy_store_publish(engine->store, engine->name, engine->host,
                                  engine->control_port, text.data, text.len, timeout_ms);
    fy_buf_fini(&text);
    if (!status)
        engine->published = true;
    if (!engine->published ||
        (status != FERRY_EUNREACH && status != FERRY_ETIMEDOUT && status != FERRY_ECONNRESET))
        return status;
    /* Peers that know us ask us; the others cannot ask anybody now. */
    FY_WARN(&engine->log, "%s: published when the metadata server is back: %s", engine->name,
            ferry_error());
    return FERRY_OK;
}

/* ---- registration
 * ---------------------------------------------------------------------------- */

static void dereg(struct ferry_engine *engine, const struct fy_region *regions, size_t n)
{
    for (unsigned t = 0; t < engine->n_transports; t++) {
        for (size_t i = 0; i < n; i++) {
            if (regions[i].mr[t])
                engine->transports[t]->ops->mem_dereg(engine->transports[t]->tp,
                                                      &regions[i].mr[t], 1);
        }
    }
}

static struct ferry_mem_desc desc_of(const struct fy_region *region)
{
    return (struct ferry_mem_desc){
        .size = sizeof(struct ferry_mem_desc),
        .kind = region->kind,
        .addr = (void *)(uintptr_t)region->addr,
        .len = region->len,
        .device = region->device,
        .dmabuf_fd = -1,
        .access = region->access,
        .flags = region->memfd >= 0 ? FERRY_MEM_MEMFD : 0,
        .memfd = region->memfd,
        .memfd_off = region->memfd_off,
    };
}

/* With one transport: those of a kind of memory that it takes. `desc` and `mr` have room for n.
 */
static ferry_status reg_with(struct fy_transport *transport, struct fy_region *regions,
                             size_t n, struct ferry_mem_desc *desc, struct ferry_mr **mr)
{
    uint32_t kinds = transport->caps.local_mem;
    char words[400]; /* the plugin's own, which know more */
    size_t k = 0;
    ferry_status status;

    for (size_t i = 0; i < n; i++)
        if (fy_takes(kinds, regions[i].kind))
            desc[k++] = desc_of(&regions[i]);
    if (!k)
        return FERRY_OK;
    fy_host_listen(words, sizeof(words));
    status = transport->ops->mem_reg(transport->tp, desc, k, mr);
    fy_host_listen(NULL, 0);
    if (status)
        return fy_fail(status, "transport %s does not register %zu buffers from %p: %s",
                       transport->host.name, k, desc[0].addr,
                       words[0] ? words : ferry_strstatus(status));
    k = 0;
    for (size_t i = 0; i < n; i++)
        if (fy_takes(kinds, regions[i].kind))
            regions[i].mr[transport->index] = mr[k++];
    return FERRY_OK;
}

static ferry_status reg(struct ferry_engine *engine, struct fy_region *regions, size_t n)
{
    struct ferry_mem_desc *desc = calloc(n, sizeof(*desc));
    struct ferry_mr **mr = calloc(n, sizeof(*mr));
    ferry_status status = desc && mr ? FERRY_OK : fy_fail(FERRY_ENOMEM, "no memory");

    for (unsigned t = 0; t < engine->n_transports && !status; t++)
        status = reg_with(engine->transports[t], regions, n, desc, mr);
    if (status)
        dereg(engine, regions, n);
    free(desc);
    free(mr);
    return status;
}

static bool anybody_takes(const struct ferry_engine *engine, uint32_t kind)
{
    for (unsigned t = 0; t < engine->n_transports; t++)
        if (fy_takes(engine->transports[t]->caps.local_mem, kind))
            return true;
    return false;
}

/*
 * The kernel copies the eight bytes around, which are of one page, before it refuses the rest
 * of the call: no signal comes and nothing changes, whatever is mapped there. 0 is no address
 * to it.
 */
static bool is_readable(uint64_t addr)
{
    return addr >= 8 &&
           (!syscall(SYS_rt_sigprocmask, -1L, (long)(addr & ~7ull), 0L, 8L) || errno != EFAULT);
}

/* Copies in this process must be able to touch what is called host memory. */
static ferry_status set_kind(const struct ferry_engine *engine, struct fy_region *region)
{
    char names[200] = "";

    region->kind = fy_location_kind(region->location, engine->name);
    if (region->kind == FERRY_MEM_HOST &&
        !(is_readable(region->addr) && is_readable(region->addr + region->len - 1))) {
        if (strcmp(region->location, "*") || !anybody_takes(engine, FERRY_MEM_DEVICE))
            return fy_fail(FERRY_EINVAL,
                           "%p+%llu is not memory that this process can read (device memory?)",
                           (void *)(uintptr_t)region->addr, (unsigned long long)region->len);
        region->kind = FERRY_MEM_DEVICE; /* its transport finds out whether it is any */
    }
    if (anybody_takes(engine, region->kind))
        return FERRY_OK;
    for (unsigned t = 0; t < engine->n_transports; t++)
        snprintf(names + strlen(names), sizeof(names) - strlen(names), "%s%s", t ? ", " : "",
                 engine->transports[t]->host.name);
    return fy_fail(FERRY_ENOTSUP,
                   "location \"%s\" is %s memory, and no transport here takes that: %s",
                   region->location, region->kind == FERRY_MEM_HOST ? "host" : "device", names);
}

static ferry_status to_region(const struct ferry_buffer *buffer, struct fy_region *region)
{
    const uint32_t known = FERRY_REMOTE_READ | FERRY_REMOTE_WRITE;
    const char *location = buffer->location && buffer->location[0] ? buffer->location : "*";

    if (!buffer->addr || !buffer->len || buffer->len > UINTPTR_MAX - (uintptr_t)buffer->addr)
        return fy_fail(FERRY_EINVAL, "%p+%llu is not a range", buffer->addr,
                       (unsigned long long)buffer->len);
    if (buffer->access & ~known)
        return fy_fail(FERRY_EINVAL,
                       "access 0x%x: FERRY_REMOTE_READ (2) and FERRY_REMOTE_WRITE "
                       "(4) are known",
                       buffer->access);
    if (strlen(location) >= sizeof(region->location))
        return fy_fail(FERRY_EINVAL, "location \"%.40s...\" is longer than %zu bytes", location,
                       sizeof(region->location) - 1);
    *region = (struct fy_region){
        .addr = (uint64_t)(uintptr_t)buffer->addr,
        .len = buffer->len,
        .access = buffer->access | FERRY_ACCESS_LOCAL_WRITE,
        .kind = FERRY_MEM_HOST,
        .device = -1,
        .memfd = -1,
    };
    memcpy(region->location, location, strlen(location) + 1);
    return FERRY_OK;
}

/* Nobody may be told of what was not registered after all. Leaves the error text. */
static void take_back(struct ferry_engine *engine, const uint64_t *addrs, size_t n,
                      struct fy_region *regions)
{
    char text[1024];

    snprintf(text, sizeof(text), "%s", ferry_error());
    if (!fy_registry_remove(engine->registry, addrs, n, regions)) {
        dereg(engine, regions, n);
        fy_memory_publish(engine, engine->store_ms);
    }
    fy_fail(FERRY_EINVAL, "%s", text);
}

/* What lies behind all buffers of a call: `fd`, the first byte of which is mapped at `base`. */
struct backing {
    int fd;
    const void *base;
};

static ferry_status set_backing(struct fy_region *region, const struct backing *backing)
{
    uint64_t off = region->addr - (uintptr_t)backing->base;
    int seals = fcntl(backing->fd, F_GET_SEALS);
    struct stat st;

    if (seals < 0 || fstat(backing->fd, &st))
        return fy_fail(FERRY_EINVAL, "descriptor %d is not a memfd: %s", backing->fd,
                       strerror(errno));
    if (!(seals & F_SEAL_SHRINK))
        return fy_fail(FERRY_EINVAL, "descriptor %d is not sealed with F_SEAL_SHRINK",
                       backing->fd);
    if (region->addr < (uintptr_t)backing->base || off > (uint64_t)st.st_size ||
        region->len > (uint64_t)st.st_size - off)
        return fy_fail(FERRY_EINVAL, "%p+%llu is not in the %lld bytes from %p",
                       (void *)(uintptr_t)region->addr, (unsigned long long)region->len,
                       (long long)st.st_size, backing->base);
    region->memfd = backing->fd;
    region->memfd_off = off;
    return FERRY_OK;
}

static ferry_status register_owned(struct ferry_engine *engine,
                                   const struct ferry_buffer *buffers, size_t n, void *owner,
                                   const struct backing *backing)
{
    struct fy_region *regions;
    uint64_t *addrs;
    ferry_status status = FERRY_OK;

    if (!engine || !buffers || !n)
        return fy_fail(FERRY_EINVAL, "memory_register: engine and buffers are needed");
    regions = calloc(n, sizeof(*regions));
    addrs = calloc(n, sizeof(*addrs));
    if (!regions || !addrs)
        status = fy_fail(FERRY_ENOMEM, "no memory for %zu buffers", n);
    for (size_t i = 0; i < n && !status; i++) {
        status = to_region(&buffers[i], &regions[i]);
        if (!status && backing->fd >= 0)
            status = set_backing(&regions[i], backing);
        if (!status)
            status = set_kind(engine, &regions[i]);
        if (status)
            fy_fail_in(status, "buffer %zu: ", i);
        regions[i].owner = owner;
        addrs[i] = regions[i].addr;
    }
    pthread_mutex_lock(&engine->memory_lock);
    if (!status)
        status = reg(engine, regions, n);
    if (!status) {
        status = fy_registry_add(engine->registry, regions, n);
        if (status)
            dereg(engine, regions, n);
    }
    if (!status) {
        status = fy_memory_publish(engine, engine->store_ms);
        if (status)
            take_back(engine, addrs, n, regions);
    }
    pthread_mutex_unlock(&engine->memory_lock);
    free(regions);
    free(addrs);
    return status;
}

ferry_status ferry_memory_register(struct ferry_engine *engine,
                                   const struct ferry_buffer *buffers, size_t n)
{
    return register_owned(engine, buffers, n, NULL, &(struct backing){.fd = -1});
}

ferry_status ferry_memory_register_fd(struct ferry_engine *engine,
                                      const struct ferry_buffer *buffers, size_t n, int fd,
                                      const void *base)
{
    if (fd < 0 || !base)
        return fy_fail(FERRY_EINVAL, "memory_register_fd: a descriptor and where it is mapped "
                                     "are needed");
    return register_owned(engine, buffers, n, NULL, &(struct backing){fd, base});
}

ferry_status ferry_memory_unregister(struct ferry_engine *engine, void *const *addrs, size_t n)
{
    struct fy_region *regions;
    uint64_t *starts;
    ferry_status status = FERRY_OK;

    if (!engine || !addrs || !n)
        return fy_fail(FERRY_EINVAL, "memory_unregister: engine and addresses are needed");
    regions = calloc(n, sizeof(*regions));
    starts = calloc(n, sizeof(*starts));
    if (!regions || !starts)
        status = fy_fail(FERRY_ENOMEM, "no memory for %zu buffers", n);
    for (size_t i = 0; i < n && !status; i++)
        starts[i] = (uint64_t)(uintptr_t)addrs[i];
    if (!status) {
        pthread_mutex_lock(&engine->memory_lock);
        status = fy_registry_remove(engine->registry, starts, n, regions);
        if (!status) {
            dereg(engine, regions, n);
            /* Peers that read the old document are refused by us; a store that is away now gets
             * the new one with the next publication. */
            if (fy_memory_publish(engine, engine->store_ms))
                FY_WARN(&engine->log, "published document is out of date: %s", ferry_error());
        }
        pthread_mutex_unlock(&engine->memory_lock);
    }
    free(regions);
    free(starts);
    return status;
}

/* ---- memory of the engine's own
 * -------------------------------------------------------------- */

static bool wants_memfd(const struct ferry_engine *engine)
{
    for (unsigned t = 0; t < engine->n_transports; t++)
        if (engine->transports[t]->caps.flags & FERRY_CAP_MEMFD)
            return true;
    return false;
}

/* Sealed, so that no peer that maps it loses it under its feet. -1: errno says why. */
static int make_memfd(uint64_t len, bool huge)
{
    int fd = memfd_create("ferry-memory", MFD_CLOEXEC | MFD_ALLOW_SEALING |
                                              (huge ? MFD_HUGETLB | HUGE_2MB : 0));
    int error;

    if (fd < 0 ||
        (!ftruncate(fd, (off_t)len) && !fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW)))
        return fd;
    error = errno;
    close(fd);
    errno = error;
    return -1;
}

/* Reserved huge pages are taken when they are mapped, so a success is one for good. */
static bool map_memfd(struct own *own, bool huge)
{
    int error;

    own->fd = make_memfd(own->len, huge);
    if (own->fd < 0)
        return false;
    own->addr = mmap(NULL, own->len, PROT_READ | PROT_WRITE, MAP_SHARED, own->fd, 0);
    if (own->addr != MAP_FAILED)
        return true;
    error = errno;
    close(own->fd);
    own->fd = -1;
    errno = error;
    return false;
}

static bool map_plain(struct own *own, bool huge)
{
    own->addr =
        mmap(NULL, own->len, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | (huge ? MAP_HUGETLB | (int)HUGE_2MB : 0), -1, 0);
    return own->addr != MAP_FAILED;
}

static ferry_status map_own(struct ferry_engine *engine, uint32_t huge, struct own *own)
{
    bool memfd = wants_memfd(engine);

    own->fd = -1;
    if (huge) {
        if (memfd ? map_memfd(own, true) : map_plain(own, true))
            return FERRY_OK;
        if (huge & FERRY_HUGE_PAGES_ONLY)
            return fy_fail(FERRY_ENOMEM,
                           "no %zu reserved huge pages of 2 MiB: %s (raise vm.nr_hugepages)",
                           own->len / HUGE_PAGE, strerror(errno));
        FY_WARN(&engine->log,
                "memory_alloc: no %zu reserved huge pages of 2 MiB (%s): ordinary ones are "
                "used; raise vm.nr_hugepages",
                own->len / HUGE_PAGE, strerror(errno));
    }
    if (memfd && map_memfd(own, false))
        goto mapped;
    if (memfd)
        FY_INFO(&engine->log, "memory_alloc: no memfd (%s): peers of this host cannot map it",
                strerror(errno));
    if (!map_plain(own, false))
        return fy_fail(FERRY_ENOMEM, "cannot map %zu bytes: %s", own->len, strerror(errno));
mapped:
    if (own->len >= HUGE_PAGE)
        madvise(own->addr, own->len, MADV_HUGEPAGE); /* a hint */
    return FERRY_OK;
}

int ferry_memory_fd(struct ferry_engine *engine, uint64_t len)
{
    return engine && len && len <= SIZE_MAX / 2 && wants_memfd(engine) ? make_memfd(len, false)
                                                                       : -1;
}

static void unmap_own(struct own *own)
{
    munmap(own->addr, own->len);
    if (own->fd >= 0)
        close(own->fd);
    free(own);
}

ferry_status ferry_memory_alloc(struct ferry_engine *engine, uint64_t len, uint32_t access,
                                void **addr_out)
{
    const uint32_t huge = access & (FERRY_HUGE_PAGES | FERRY_HUGE_PAGES_ONLY);
    struct ferry_buffer buffer = {.len = len, .access = access & ~huge};
    size_t unit = huge || len >= HUGE_PAGE ? HUGE_PAGE : (size_t)sysconf(_SC_PAGESIZE);
    struct own *own;
    ferry_status status;

    if (!engine || !addr_out || !len || len > SIZE_MAX / 2)
        return fy_fail(FERRY_EINVAL, "memory_alloc: engine, length and result are needed");
    own = calloc(1, sizeof(*own));
    if (!own)
        return fy_fail(FERRY_ENOMEM, "no memory");
    own->len = (len + unit - 1) / unit * unit;
    status = map_own(engine, huge, own);
    if (status) {
        free(own);
        return status;
    }
    buffer.addr = own->addr;
    status = register_owned(engine, &buffer, 1, own, &(struct backing){own->fd, own->addr});
    if (status) {
        unmap_own(own);
        return status;
    }
    *addr_out = own->addr;
    return FERRY_OK;
}

void ferry_memory_free(struct ferry_engine *engine, void *addr)
{
    struct fy_region *region;
    struct own *own;

    if (!engine || !addr ||
        fy_registry_get(engine->registry, (uint64_t)(uintptr_t)addr, 1, 0, &region))
        return;
    own = region->owner;
    fy_region_put(region);
    if (!own || own->addr != addr || ferry_memory_unregister(engine, &addr, 1))
        return;
    unmap_own(own);
}

void fy_memory_close(struct ferry_engine *engine)
{
    size_t n = engine->registry ? fy_registry_count(engine->registry) : 0;
    uint64_t *addrs = calloc(n + 1, sizeof(*addrs));
    struct fy_region *regions = calloc(n + 1, sizeof(*regions));

    for (size_t i = 0; i < n && addrs; i++)
        addrs[i] = fy_registry_at(engine->registry, i)->addr;
    /* Waits for peers that are just reading or writing; later ones are refused. */
    if (n && addrs && regions && !fy_registry_remove(engine->registry, addrs, n, regions)) {
        dereg(engine, regions, n);
        for (size_t i = 0; i < n; i++) {
            struct own *own = regions[i].owner;

            if (own)
                unmap_own(own);
        }
    }
    free(addrs);
    free(regions);
}
