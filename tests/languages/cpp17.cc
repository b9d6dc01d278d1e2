// SPDX-License-Identifier: Apache-2.0
// A transport in C++17, as small as one can be: peers are other open transports of this process,
// and submit copies at once. Here to show that the plugin headers serve C++, not for use.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <vector>

#include "ferry/transport_plugin.h"

namespace {

constexpr std::uint32_t max_queues = 32;
constexpr std::uint64_t max_len = UINT64_C(1) << 40;

std::mutex lock; // all of the below, and every queue
std::vector<ferry_tp *> open_ones;
std::uint64_t next_token;

} // namespace

struct ferry_tp {
    const ferry_host *host;
    std::string token;
    bool queue_used[max_queues] = {};
};

struct ferry_mr {
    ferry_mem_desc desc;
};

struct ferry_rmem {
    ferry_peer *peer;
    std::uint64_t addr, len;
};

struct ferry_peer {
    ferry_tp *tp;
    std::string token;
    bool attached[max_queues] = {};
    std::vector<ferry_rmem *> rmems;
};

struct ferry_queue {
    ferry_tp *tp;
    std::uint32_t number;
    std::vector<ferry_comp> ring;
    std::size_t head = 0, used = 0;
};

namespace {

// What a caller with an older, shorter struct has room for.
template <typename T> ferry_status give(T *to, T value)
{
    std::uint32_t n = std::min<std::uint32_t>(to->size, sizeof(T));

    if (n < sizeof(std::uint32_t))
        return FERRY_EINVAL;
    value.size = n;
    std::memcpy(to, &value, n);
    return FERRY_OK;
}

ferry_status tp_open(const ferry_host *host, const ferry_kvs *config, ferry_tp **tp_out)
{
    for (std::size_t i = 0; config && i < config->n; i++)
        if (std::strncmp(config->v[i].key, "core.", 5) != 0)
            return FERRY_EINVAL;
    auto tp = std::unique_ptr<ferry_tp>(new (std::nothrow) ferry_tp{host, {}});
    if (!tp)
        return FERRY_ENOMEM;
    std::lock_guard<std::mutex> hold(lock);
    tp->token = std::to_string(++next_token);
    open_ones.push_back(tp.get());
    *tp_out = tp.release();
    return FERRY_OK;
}

void tp_close(ferry_tp *tp)
{
    if (!tp)
        return;
    {
        std::lock_guard<std::mutex> hold(lock);
        open_ones.erase(std::find(open_ones.begin(), open_ones.end(), tp));
    }
    delete tp;
}

ferry_status tp_query(ferry_tp *, ferry_tp_caps *caps)
{
    ferry_tp_caps have{};

    have.flags = FERRY_CAP_READ | FERRY_CAP_WRITE | FERRY_CAP_LOOPBACK | FERRY_CAP_MANUAL;
    have.local_mem = have.remote_mem = FERRY_MEM_BIT(FERRY_MEM_HOST);
    have.max_xfer_len = max_len;
    have.max_list = 1024;
    have.max_queues = max_queues;
    have.n_devices = 1;
    have.addr_align = 1;
    have.size = caps->size;
    return give(caps, have);
}

ferry_status tp_device(ferry_tp *, std::uint32_t index, ferry_device *dev)
{
    ferry_device have{};

    if (index != 0)
        return FERRY_EINVAL;
    have.numa_node = -1;
    std::strcpy(have.name, "cpp17");
    return give(dev, have);
}

ferry_status tp_export_segment(ferry_tp *tp, ferry_kv_sink *out)
{
    ferry_kv kv{};

    kv.key = "cpp17_token";
    kv.val = tp->token.data();
    kv.val_len = static_cast<std::uint32_t>(tp->token.size());
    kv.flags = FERRY_KV_TEXT;
    return out->put(out, &kv);
}

ferry_status mem_reg(ferry_tp *, const ferry_mem_desc *desc, std::size_t n, ferry_mr **mr_out)
{
    std::vector<std::unique_ptr<ferry_mr>> fresh;

    for (std::size_t i = 0; i < n; i++) {
        auto mr = std::make_unique<ferry_mr>();
        const auto *at = reinterpret_cast<const char *>(desc) + i * desc->size;

        std::memcpy(&mr->desc, at, std::min<std::size_t>(desc->size, sizeof(mr->desc)));
        if (mr->desc.kind != FERRY_MEM_HOST)
            return FERRY_ENOTSUP;
        if (!mr->desc.addr || !mr->desc.len)
            return FERRY_EINVAL;
        fresh.push_back(std::move(mr));
    }
    for (std::size_t i = 0; i < n; i++)
        mr_out[i] = fresh[i].release();
    return FERRY_OK;
}

void mem_dereg(ferry_tp *, ferry_mr *const *mr, std::size_t n)
{
    for (std::size_t i = 0; i < n; i++)
        delete mr[i];
}

ferry_status export_mem(ferry_mr *, ferry_kv_sink *)
{
    return FERRY_OK; // addresses are all that it takes inside one process
}

ferry_status peer_open(ferry_tp *tp, const char *, const ferry_kvs *attrs, ferry_peer **peer_out)
{
    for (std::size_t i = 0; i < attrs->n; i++) {
        const ferry_kv &kv = attrs->v[i];

        if (std::strcmp(kv.key, "cpp17_token") == 0) {
            *peer_out = new ferry_peer{
                tp, std::string(static_cast<const char *>(kv.val), kv.val_len), {}, {}};
            return FERRY_OK;
        }
    }
    return FERRY_EINVAL;
}

ferry_tp *find(const std::string &token)
{
    for (ferry_tp *tp : open_ones)
        if (tp->token == token)
            return tp;
    return nullptr;
}

ferry_status peer_attach(ferry_peer *peer, ferry_queue *queue, std::uint32_t)
{
    std::lock_guard<std::mutex> hold(lock);

    if (!find(peer->token))
        return peer->attached[queue->number] ? FERRY_ECONNRESET : FERRY_EUNREACH;
    peer->attached[queue->number] = true;
    return FERRY_OK;
}

void peer_close(ferry_peer *peer)
{
    if (!peer)
        return;
    std::lock_guard<std::mutex> hold(lock); // nobody copies meanwhile
    for (ferry_rmem *rmem : peer->rmems)
        delete rmem;
    delete peer;
}

ferry_status rmem_open(ferry_peer *peer, std::uint64_t addr, std::uint64_t len, const ferry_kvs *,
                       ferry_rmem **rmem_out)
{
    if (!len || len - 1 > UINT64_MAX - addr)
        return FERRY_EINVAL;
    auto rmem = std::make_unique<ferry_rmem>(ferry_rmem{peer, addr, len});
    std::lock_guard<std::mutex> hold(lock);
    peer->rmems.push_back(rmem.get());
    *rmem_out = rmem.release();
    return FERRY_OK;
}

void rmem_close(ferry_rmem *rmem)
{
    if (!rmem)
        return;
    {
        std::lock_guard<std::mutex> hold(lock);
        auto &all = rmem->peer->rmems;
        all.erase(std::find(all.begin(), all.end(), rmem));
    }
    delete rmem;
}

ferry_status queue_open(ferry_tp *tp, const ferry_queue_attr *attr, ferry_queue **queue_out)
{
    if (attr->size < sizeof(*attr) || attr->device != 0) // that of ABI 1.0
        return FERRY_EINVAL;
    std::lock_guard<std::mutex> hold(lock);
    for (std::uint32_t i = 0; i < max_queues; i++) {
        if (tp->queue_used[i])
            continue;
        auto depth = attr->depth ? std::min(attr->depth, 1024u) : 1024u;
        tp->queue_used[i] = true;
        *queue_out = new ferry_queue{tp, i, std::vector<ferry_comp>(depth)};
        return FERRY_OK;
    }
    return FERRY_ERANGE;
}

void queue_close(ferry_queue *queue)
{
    if (!queue)
        return;
    std::lock_guard<std::mutex> hold(lock);
    queue->tp->queue_used[queue->number] = false;
    delete queue;
}

ferry_status check(const ferry_list *list, const ferry_xfer &x)
{
    if (!x.mr || !x.rmem || x.rmem->peer != list->peer || !x.len)
        return FERRY_EINVAL;
    auto begin = reinterpret_cast<std::uintptr_t>(x.mr->desc.addr);
    auto local = reinterpret_cast<std::uintptr_t>(x.local);
    if (x.len > max_len || local < begin || local - begin > x.mr->desc.len ||
        x.len > x.mr->desc.len - (local - begin))
        return FERRY_ERANGE;
    if (x.remote_off > x.rmem->len || x.len > x.rmem->len - x.remote_off)
        return FERRY_ERANGE;
    if (list->op == FERRY_OP_READ && !(x.mr->desc.access & FERRY_ACCESS_LOCAL_WRITE))
        return FERRY_EACCESS;
    return FERRY_OK;
}

// Asks the target's core, as a server over a wire would.
ferry_status copy(ferry_tp *target, std::uint32_t op, const ferry_xfer &x)
{
    if (!target)
        return FERRY_ECONNRESET;
    ferry_region region{};
    std::uint64_t at = x.rmem->addr + x.remote_off;
    auto right = op == FERRY_OP_READ ? FERRY_ACCESS_REMOTE_READ : FERRY_ACCESS_REMOTE_WRITE;
    ferry_status status = target->host->region_get(target->host, at, x.len, right, &region);
    if (status)
        return status;
    auto *remote = reinterpret_cast<void *>(static_cast<std::uintptr_t>(at));
    if (op == FERRY_OP_READ)
        std::memcpy(x.local, remote, x.len);
    else
        std::memcpy(remote, x.local, x.len);
    target->host->region_put(target->host, &region);
    return FERRY_OK;
}

ferry_status submit(ferry_queue *queue, const ferry_list *list, std::uint32_t *accepted_out)
{
    *accepted_out = 0;
    if (list->size < sizeof(*list) || list->op > FERRY_OP_WRITE || list->flags || !list->peer)
        return FERRY_EINVAL;
    std::lock_guard<std::mutex> hold(lock);
    if (!list->peer->attached[queue->number])
        return FERRY_EINVAL;
    ferry_tp *target = find(list->peer->token);
    for (std::uint32_t i = 0; i < list->n; i++) {
        ferry_status status = check(list, list->v[i]);

        if (!status && queue->used == queue->ring.size())
            status = FERRY_EAGAIN;
        if (status)
            return status;
        status = copy(target, list->op, list->v[i]);
        ferry_comp comp{};
        comp.cookie = list->cookie;
        comp.first = list->first + i;
        comp.n = 1;
        comp.status = status;
        comp.bytes = status ? 0 : list->v[i].len;
        queue->ring[(queue->head + queue->used++) % queue->ring.size()] = comp;
        *accepted_out = i + 1;
    }
    return FERRY_OK;
}

std::int32_t poll(ferry_queue *queue, ferry_comp *comp, std::uint32_t max)
{
    std::lock_guard<std::mutex> hold(lock);
    std::uint32_t n = 0;

    for (; n < max && queue->used; n++, queue->used--) {
        comp[n] = queue->ring[queue->head];
        queue->head = (queue->head + 1) % queue->ring.size();
    }
    return static_cast<std::int32_t>(n);
}

// A table is read before any code of the file runs, so it has to be a constant.
constexpr ferry_transport_ops make_ops()
{
    ferry_transport_ops ops{};

    ops.size = sizeof(ops);
    ops.open = tp_open;
    ops.close = tp_close;
    ops.query = tp_query;
    ops.device = tp_device;
    ops.export_segment = tp_export_segment;
    ops.mem_reg = mem_reg;
    ops.mem_dereg = mem_dereg;
    ops.export_mem = export_mem;
    ops.peer_open = peer_open;
    ops.peer_attach = peer_attach;
    ops.peer_close = peer_close;
    ops.rmem_open = rmem_open;
    ops.rmem_close = rmem_close;
    ops.queue_open = queue_open;
    ops.queue_close = queue_close;
    ops.submit = submit;
    ops.poll = poll;
    return ops;
}

constexpr ferry_transport_ops ops = make_ops();

} // namespace

FERRY_TRANSPORT_PLUGIN("cpp17", "1.0.0", &ops);
