/* SPDX-License-Identifier: Apache-2.0 */
/*
 * HOT. From requests to parts: every request is resolved to a registered local range and a
 * buffer of the peer's document, or the whole call is refused; what goes one way to one peer
 * becomes one part, or one for each lane where it is large.
 */
#include <stdlib.h>
#include <string.h>

#include "engine.h"
#include "error.h"
#include "util/clock.h"

#define RELOAD_MS 2000
#define MAX_LOOKS 16
#define LATE_BYTES                                                                             \
    (1u << 20) /* who does not wait hears of the end a little late: that much matters less */
#define BYTES_PER_SECOND                                                                       \
    (64ull << 20) /* of the default time limit: 1 s more for each 64 MiB                       \
                   */

/* Requests of one call that go one way to one peer. */
struct group {
    ferry_segment handle;
    uint32_t op;
    uint32_t local_kind, remote_kind; /* of memory: another kind may take another path */
    uint32_t n;
    uint64_t bytes;
    struct fy_segment *segment; /* counted */
    struct fy_view *view;       /* counted */
    size_t hint;
    uint32_t next; /* where its next element goes, once the sizes are known */
};

struct plan {
    struct ferry_engine *engine;
    struct fy_batch *batch;
    const struct ferry_request *requests;
    struct group first[4], *groups;
    size_t n_groups, cap_groups;
    uint32_t *group_of; /* by request, from the second group on; in batch->index until then */
    struct fy_region *region; /* the last local one */
    uint32_t remote_kind;     /* of the last remote range */
    uint64_t bytes;
    ferry_segment looked; /* whose document was read again last */
    unsigned n_looks;
    uint64_t looks_end_ns; /* time limit of all of them */
};

/* `i`: how many requests have their group already. Those that follow are likely to be as long.
 */
static ferry_status add_group(struct plan *plan, const struct ferry_request *request, size_t i,
                              uint32_t remote_kind)
{
    struct group group = {.handle = request->segment,
                          .op = request->op,
                          .local_kind = plan->region->kind,
                          .remote_kind = remote_kind};
    const struct fy_need need = {.only = plan->batch->only,
                                 .op = request->op,
                                 .local_kind = group.local_kind,
                                 .remote_kind = remote_kind,
                                 .bytes = request->len * (plan->batch->n - i)};
    ferry_status status;

    if (plan->n_groups == plan->cap_groups) {
        size_t cap = plan->cap_groups * 2;
        struct group *more = malloc(cap * sizeof(*more));

        if (!more)
            return fy_fail(FERRY_ENOMEM, "no memory for %zu peers", cap);
        memcpy(more, plan->groups, plan->n_groups * sizeof(*more));
        if (plan->groups != plan->first)
            free(plan->groups);
        plan->groups = more;
        plan->cap_groups = cap;
    }
    if (request->op > FERRY_WRITE)
        return fy_fail(FERRY_EINVAL, "op %u: FERRY_READ (0) and FERRY_WRITE (1) are known",
                       request->op);
    group.segment = fy_segment_get(plan->engine, request->segment);
    if (!group.segment)
        return FERRY_ENOENT;
    status = fy_segment_view(group.segment, &need, &group.view);
    if (status) {
        fy_segment_put(group.segment);
        return status;
    }
    plan->groups[plan->n_groups++] = group;
    return FERRY_OK;
}

static bool is_of(const struct group *group, const struct ferry_request *request,
                  uint32_t local_kind, uint32_t remote_kind)
{
    return group->handle == request->segment && group->op == request->op &&
           group->local_kind == local_kind && group->remote_kind == remote_kind;
}

/* The group of request `i`, whose local region is known; made if there is none yet. */
static ferry_status find_group(struct plan *plan, const struct ferry_request *request, size_t i,
                               uint32_t remote_kind, size_t *at)
{
    uint32_t local_kind = plan->region->kind;

    if (*at < plan->n_groups && is_of(&plan->groups[*at], request, local_kind, remote_kind))
        return FERRY_OK;
    for (*at = 0; *at < plan->n_groups; (*at)++) {
        if (is_of(&plan->groups[*at], request, local_kind, remote_kind))
            return FERRY_OK;
    }
    return add_group(plan, request, i, remote_kind);
}

/* The region of a local range; held once for all neighbours that are in the same one. */
static ferry_status local_region(struct plan *plan, uint64_t addr, uint64_t len)
{
    struct fy_batch *batch = plan->batch;
    struct fy_region *region = plan->region;
    ferry_status status;

    if (region && addr >= region->addr && addr - region->addr < region->len &&
        len <= region->len - (addr - region->addr))
        return FERRY_OK;
    if (batch->n_held == batch->cap_held) {
        size_t cap = batch->cap_held ? batch->cap_held * 2 : 16;
        struct fy_region **held = realloc(batch->held, cap * sizeof(*held));

        if (!held)
            return fy_fail(FERRY_ENOMEM, "no memory for %zu buffers", cap);
        batch->held = held;
        batch->cap_held = cap;
    }
    status = fy_registry_get(plan->engine->registry, addr, len, 0, &region);
    if (status)
        return fy_fail(status, "local range 0x%llx+%llu is not in one registered buffer",
                       (unsigned long long)addr, (unsigned long long)len);
    batch->held[batch->n_held++] = region;
    plan->region = region;
    return FERRY_OK;
}

/* The peer may have registered memory, or restarted, since its document was read: it is read
 * once more, within the batch's own time limit. FERRY_EAGAIN: begin again with what it says
 * now. */
static ferry_status look_again(struct plan *plan, const struct group *group,
                               ferry_status status)
{
    uint32_t asked_ms = plan->batch->timeout_ms;
    uint32_t limit_ms = asked_ms ? asked_ms : plan->engine->batch_ms;
    uint64_t now = fy_now_ns();

    if (plan->looked == group->handle || plan->n_looks == MAX_LOOKS)
        return status;
    if (limit_ms > RELOAD_MS)
        limit_ms = RELOAD_MS;
    if (!plan->n_looks++)
        plan->looks_end_ns = now + limit_ms * FY_NS_PER_MS;
    plan->looked = group->handle;
    limit_ms = (uint32_t)fy_ms_left(plan->looks_end_ns);
    return fy_segment_reload(group->segment, now, limit_ms) ? status : FERRY_EAGAIN;
}

static ferry_status remote_range(struct plan *plan, struct group *group,
                                 const struct ferry_request *request)
{
    bool reads = request->op == FERRY_READ;
    uint32_t access = reads ? FERRY_ACCESS_REMOTE_READ : FERRY_ACCESS_REMOTE_WRITE;
    ferry_status status =
        fy_doc_find(group->view->doc, request->remote, request->len, access, &group->hint);

    if (status)
        status = look_again(plan, group, status);
    if (status == FERRY_EACCESS)
        return fy_fail(status, "%s registered 0x%llx+%llu without the right to %s it",
                       group->segment->name, (unsigned long long)request->remote,
                       (unsigned long long)request->len, reads ? "read" : "write");
    if (status)
        return fy_fail(status, "0x%llx+%llu is not in one buffer of %s (%zu known)",
                       (unsigned long long)request->remote, (unsigned long long)request->len,
                       group->segment->name, group->view->doc->n_buffers);
    return FERRY_OK;
}

/* Of the buffer that was found last. */
static uint32_t remote_kind(const struct group *group)
{
    return fy_location_kind(group->view->doc->buffers[group->hint].location,
                            group->view->doc->name);
}

static ferry_status resolve(struct plan *plan, size_t i, size_t *at)
{
    const struct ferry_request *request = &plan->requests[i];
    struct fy_batch *batch = plan->batch;
    struct ferry_xfer *x = &batch->v[i];
    struct group *group;
    ferry_status status;

    if (!request->len || !request->local)
        return fy_fail(FERRY_EINVAL, "%s", request->len ? "no local address" : "length 0");
    status = local_region(plan, (uint64_t)(uintptr_t)request->local, request->len);
    /* Of the kind of memory that the one before was of, until the range says otherwise. */
    if (!status)
        status = find_group(plan, request, i, plan->remote_kind, at);
    if (!status)
        status = remote_range(plan, &plan->groups[*at], request);
    if (!status && plan->groups[*at].remote_kind !=
                       (plan->remote_kind = remote_kind(&plan->groups[*at]))) {
        status = find_group(plan, request, i, plan->remote_kind, at);
        if (!status)
            status = remote_range(plan, &plan->groups[*at], request);
    }
    if (status)
        return status;
    group = &plan->groups[*at];
    x->mr = plan->region->mr[group->view->transport->index];
    if (!x->mr)
        return fy_fail(FERRY_ENOTSUP, "transport %s cannot reach the memory at %p",
                       group->view->transport->host.name, request->local);
    status = fy_view_rmem(group->view, group->hint, &x->rmem);
    if (status)
        return status;
    x->local = request->local;
    x->remote_off = request->remote - group->view->doc->buffers[group->hint].addr;
    x->len = request->len;
    batch->remote[i] = request->remote;
    fy_set_result(batch, i, FY_UNDER_WAY);
    atomic_store_explicit(&batch->carrier[i], FY_NO_LANE, memory_order_relaxed);
    group->n++;
    group->bytes += request->len;
    plan->bytes += request->len;
    if (plan->n_groups > 1 && !batch->permuted) { /* all before this one were of group 0 */
        batch->permuted = true;
        memset(batch->index, 0, i * sizeof(*batch->index));
    }
    if (batch->permuted)
        batch->index[i] = (uint32_t)*at;
    return FERRY_OK;
}

/* Puts the elements of each group side by side; batch->index turns from group numbers into
 * request numbers. */
static ferry_status sort_groups(struct plan *plan)
{
    struct fy_batch *batch = plan->batch;
    size_t n = batch->n;
    struct ferry_xfer *v = malloc(n * sizeof(*v));
    uint64_t *remote = malloc(n * sizeof(*remote));
    uint32_t *index = malloc(n * sizeof(*index));
    uint32_t start = 0;

    if (!v || !remote || !index) {
        free(v);
        free(remote);
        free(index);
        return fy_fail(FERRY_ENOMEM, "no memory for %zu requests", n);
    }
    for (size_t g = 0; g < plan->n_groups; g++) {
        plan->groups[g].next = start;
        start += plan->groups[g].n;
    }
    for (size_t i = 0; i < n; i++) {
        uint32_t to = plan->groups[batch->index[i]].next++;

        v[to] = batch->v[i];
        remote[to] = batch->remote[i];
        index[to] = (uint32_t)i;
    }
    free(batch->v);
    free(batch->remote);
    free(batch->index);
    batch->v = v;
    batch->remote = remote;
    batch->index = index;
    batch->cap = n; /* the other arrays have at least as much */
    return FERRY_OK;
}

static unsigned stripes(const struct plan *plan, const struct group *group)
{
    uint64_t lanes = atomic_load_explicit(&group->view->lanes, memory_order_relaxed);
    unsigned n = (unsigned)__builtin_popcountll(lanes);

    if (n < 2 || group->bytes < plan->engine->stripe_min)
        return 1;
    return group->n < n ? group->n : n;
}

/* One group as parts of about equal bytes. */
static void cut(struct fy_batch *batch, struct group *group, uint32_t start, unsigned n)
{
    uint64_t share = group->bytes / n;
    uint32_t at = start, end = start + group->n;

    for (unsigned k = 0; k < n && at < end; k++) {
        struct fy_part *part = &batch->parts[batch->n_parts++];

        memset(part, 0, sizeof(*part));
        part->batch = batch;
        part->view = fy_view_ref(group->view);
        part->meant = fy_view_stands(group->view);
        part->v = batch->v + at;
        part->first = at;
        part->index = batch->permuted ? batch->index + at : NULL;
        part->op = group->op;
        part->local_kind = group->local_kind;
        part->remote_kind = group->remote_kind;
        part->whole = group->bytes;
        part->timed = part->meant && (batch->waits || group->bytes >= LATE_BYTES) &&
                      fy_path_times(group->view, group->op, group->bytes);
        while (at < end && (k + 1 == n || part->bytes < share || !part->n)) {
            part->bytes += batch->v[at++].len;
            part->n++;
        }
    }
}

static ferry_status make_parts(struct plan *plan)
{
    struct fy_batch *batch = plan->batch;
    size_t n = 0;
    uint32_t start = 0;

    for (size_t g = 0; g < plan->n_groups; g++)
        n += stripes(plan, &plan->groups[g]);
    if (n > batch->cap_parts) {
        struct fy_part *parts = realloc(batch->parts, n * 2 * sizeof(*parts));

        if (!parts)
            return fy_fail(FERRY_ENOMEM, "no memory for %zu parts", n);
        batch->parts = parts;
        batch->cap_parts = n * 2;
    }
    for (size_t g = 0; g < plan->n_groups; g++) {
        size_t room = n - batch->n_parts - (plan->n_groups - g - 1);
        unsigned k = stripes(plan, &plan->groups[g]);

        cut(batch, &plan->groups[g], start, k < room ? k : (unsigned)room);
        start += plan->groups[g].n;
    }
    return FERRY_OK;
}

static ferry_status set_attr(struct fy_batch *batch, const struct ferry_submit *attr)
{
    struct ferry_engine *engine = batch->engine;

    if (attr->size < offsetof(struct ferry_submit, notify_len) + sizeof(attr->notify_len))
        return fy_fail(FERRY_EINVAL, "struct ferry_submit: size %u, set it to sizeof",
                       attr->size);
    if (attr->flags)
        return fy_fail(FERRY_EINVAL, "struct ferry_submit: no flags are known, 0x%x given",
                       attr->flags);
    batch->timeout_ms = attr->timeout_ms;
    if (attr->protocol) {
        for (unsigned i = 0; i < engine->n_transports; i++) {
            if (!strcmp(engine->transports[i]->host.name, attr->protocol))
                batch->only = engine->transports[i];
        }
        if (!batch->only)
            return fy_fail(FERRY_ENOTSUP, "protocol \"%s\" is not one of this engine's",
                           attr->protocol);
    }
    if (attr->notify_name) {
        if (attr->notify_len && !attr->notify)
            return fy_fail(FERRY_EINVAL, "notify_len %zu without data", attr->notify_len);
        batch->notify_name = strdup(attr->notify_name);
        batch->notify = malloc(attr->notify_len + 1);
        if (!batch->notify_name || !batch->notify)
            return fy_fail(FERRY_ENOMEM, "no memory for a notification");
        if (attr->notify_len)
            memcpy(batch->notify, attr->notify, attr->notify_len);
        batch->notify_len = attr->notify_len;
    }
    return FERRY_OK;
}

static void drop_groups(struct plan *plan)
{
    for (size_t g = 0; g < plan->n_groups; g++) {
        fy_view_put(plan->groups[g].view);
        fy_segment_put(plan->groups[g].segment);
    }
    plan->n_groups = 0;
}

static ferry_status plan_all(struct plan *plan, size_t n, size_t *refused_out)
{
    size_t at = 0, i = 0;
    ferry_status status = FERRY_OK;

    while (i < n && !status) {
        status = resolve(plan, i, &at);
        if (status == FERRY_EAGAIN) {
            drop_groups(plan);
            fy_batch_release(plan->batch);
            plan->batch->permuted = false;
            plan->region = NULL;
            plan->bytes = 0;
            i = 0;
            status = FERRY_OK;
        } else if (status) {
            fy_fail_in(status, "request %zu: ", i);
            *refused_out = i;
        } else {
            i++;
        }
    }
    if (!status && plan->batch->permuted)
        status = sort_groups(plan);
    if (!status)
        status = make_parts(plan);
    return status;
}

static void give_up(struct fy_batch *batch)
{
    fy_batch_release(batch);
    fy_batch_put(batch);
    fy_batch_put(batch);
}

static ferry_status submit(struct ferry_engine *engine, const struct ferry_request *requests,
                           size_t n, const struct ferry_submit *attr, bool waits,
                           size_t *refused_out, struct fy_batch **batch_out)
{
    struct plan plan = {.engine = engine, .requests = requests};
    struct fy_batch *batch;
    size_t n_parts;
    ferry_status status;

    if (!engine || !requests || !n || n >= UINT32_MAX)
        return fy_fail(FERRY_EINVAL, "submit: %s",
                       !engine           ? "no engine"
                       : !n || !requests ? "no requests"
                                         : "too many requests");
    if (atomic_load_explicit(&engine->closing, memory_order_relaxed))
        return fy_fail(FERRY_ECANCELED, "the engine is being closed");
    status = fy_batch_new(engine, n, &batch);
    if (status)
        return status;
    plan.batch = batch;
    plan.groups = plan.first;
    plan.cap_groups = sizeof(plan.first) / sizeof(plan.first[0]);
    batch->timeout_ms = 0;
    batch->waits = waits;
    if (attr)
        status = set_attr(batch, attr);
    if (!status)
        status = plan_all(&plan, n, refused_out);
    drop_groups(&plan);
    if (plan.groups != plan.first)
        free(plan.groups);
    if (status) {
        give_up(batch);
        return status;
    }
    if (!batch->timeout_ms)
        batch->timeout_ms = (uint32_t)(engine->batch_ms + plan.bytes / BYTES_PER_SECOND * 1000);
    batch->began_ns = fy_now_ns();
    batch->deadline_ns = batch->began_ns + batch->timeout_ms * FY_NS_PER_MS;
    batch->counted_fd = !waits && engine->reap_fd >= 0;
    n_parts = batch->n_parts;
    atomic_store_explicit(&batch->parts_left, (unsigned)n_parts, memory_order_relaxed);
    fy_batch_activate(batch);
    /* The last part's end may end the batch, yet not free it: the user's reference is still
     * ours. */
    for (size_t i = 0; i < n_parts; i++)
        fy_part_start(&batch->parts[i]);
    fy_progress_kick(engine, !waits);
    *batch_out = batch;
    return FERRY_OK;
}

ferry_status ferry_submit(struct ferry_engine *engine, const struct ferry_request *requests,
                          size_t n, const struct ferry_submit *attr, ferry_batch *batch_out)
{
    struct fy_batch *batch;
    ferry_status status;
    size_t refused;

    if (!batch_out)
        return fy_fail(FERRY_EINVAL, "submit: nowhere to put the batch");
    status = submit(engine, requests, n, attr, false, &refused, &batch);
    if (!status)
        *batch_out = fy_batch_handle(batch);
    return status;
}

static size_t first_failed(const struct fy_batch *batch)
{
    for (size_t i = 0; i < batch->n; i++) {
        if (fy_get_result(batch, i))
            return i;
    }
    return batch->n;
}

ferry_status ferry_transfer(struct ferry_engine *engine, const struct ferry_request *requests,
                            size_t n, const struct ferry_submit *attr, size_t *failed_out)
{
    struct fy_batch *batch;
    size_t refused = 0;
    ferry_status status;

    status = submit(engine, requests, n, attr, true, &refused, &batch);
    if (failed_out)
        *failed_out = refused;
    if (status)
        return status;
    fy_wait(batch, UINT64_MAX);
    status = atomic_load_explicit(&batch->first_error, memory_order_relaxed);
    if (status) {
        pthread_mutex_lock(&batch->lock);
        fy_fail(status, "%s", batch->error);
        pthread_mutex_unlock(&batch->lock);
    }
    if (failed_out)
        *failed_out = status ? first_failed(batch) : n;
    fy_batch_put(batch);
    return status;
}
