/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which provider, and which of its domains: found, ranked, opened. Knows nothing of peers.
 */
#include "fab.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>

#define PAGE 4096u

/* The best first. A name stands for the first of its providers that is here: before 1.18 "tcp"
 * had no reliable datagrams of its own. */
static const struct {
    const char *name, *provider;
} ranks[] = {
    {"efa", "efa"},   {"cxi", "cxi"}, {"verbs;ofi_rxm", "verbs;ofi_rxm"},
    {"psm3", "psm3"}, {"tcp", "tcp"}, {"tcp", "tcp;ofi_rxm"},
    {"shm", "shm"},
};
#define N_RANKS (sizeof(ranks) / sizeof(ranks[0]))

static struct fi_info *ask(const struct ferry_tp *tp, const char *provider, const char *node)
{
    struct fi_info *hints = tp->lib->dupinfo(NULL), *info = NULL;

    if (!hints)
        return NULL;
    hints->caps = FI_RMA | FI_READ | FI_WRITE | FI_REMOTE_READ | FI_REMOTE_WRITE;
    hints->mode = FI_CONTEXT | FI_CONTEXT2;
    hints->ep_attr->type = FI_EP_RDM;
    hints->tx_attr->op_flags = FI_DELIVERY_COMPLETE;
    hints->domain_attr->threading = FI_THREAD_SAFE;
    hints->domain_attr->mr_mode =
        FI_MR_LOCAL | FI_MR_VIRT_ADDR | FI_MR_ALLOCATED | FI_MR_PROV_KEY | FI_MR_ENDPOINT;
    hints->fabric_attr->prov_name = strdup(provider);
    if (!hints->fabric_attr->prov_name ||
        tp->lib->getinfo(FAB_API, node, NULL, node ? FI_SOURCE : 0, hints, &info) != 0)
        info = NULL;
    tp->lib->freeinfo(hints);
    return info;
}

static bool is_named(const struct fi_info *info, const char *provider)
{
    return info->fabric_attr->prov_name && strcmp(info->fabric_attr->prov_name, provider) == 0;
}

static bool has_ip(const struct fi_info *info)
{
    return (info->addr_format == FI_SOCKADDR_IN || info->addr_format == FI_SOCKADDR_IN6) &&
           info->src_addr;
}

/* How good an address is to be reached at; 0 = not at all. */
static int reach(const struct fi_info *info)
{
    if (!has_ip(info))
        return 3;
    if (info->addr_format == FI_SOCKADDR_IN) {
        const struct sockaddr_in *in = info->src_addr;
        return (ntohl(in->sin_addr.s_addr) >> 24) == 127 ? 1 : 3;
    }
    const struct in6_addr *in6 = &((const struct sockaddr_in6 *)info->src_addr)->sin6_addr;
    return IN6_IS_ADDR_LINKLOCAL(in6) ? 0 : IN6_IS_ADDR_LOOPBACK(in6) ? 1 : 2;
}

static bool any_address(const char *bind)
{
    return !bind[0] || strcmp(bind, "0.0.0.0") == 0 || strcmp(bind, "::") == 0;
}

/* Its entries, at the address that we are to be bound to; NULL = it is not here. */
static struct fi_info *find(const struct ferry_tp *tp, const char *provider)
{
    struct fi_info *info = ask(tp, provider, NULL), *at = info;

    while (at && !is_named(at, provider))
        at = at->next;
    if (at && has_ip(at) && !any_address(tp->config.bind)) {
        tp->lib->freeinfo(info);
        at = info = ask(tp, provider, tp->config.bind);
        while (at && !is_named(at, provider))
            at = at->next;
    }
    if (!at && info) {
        tp->lib->freeinfo(info);
        info = NULL;
    }
    return info;
}

static bool is_listed(const char *list, const char *name)
{
    size_t len = strlen(name);

    for (const char *p = list; *p;) {
        size_t n = strcspn(p, ",");
        if (n == len && memcmp(p, name, n) == 0)
            return true;
        p += n + (p[n] == ',');
    }
    return false;
}

static uint64_t random_u64(void)
{
    uint64_t value = 0;

    if (getrandom(&value, sizeof(value), 0) != (ssize_t)sizeof(value))
        return 0;
    return value;
}

static const char *open_device(struct ferry_tp *tp, const struct fi_info *found,
                               struct fab_device *device)
{
    struct fi_info *info = device->info = tp->lib->dupinfo(found);
    struct fi_cq_attr attr = {.size = 1, .format = FI_CQ_FORMAT_CONTEXT};
    struct fid_cq *cq;
    int rc, fd;

    if (!info)
        return "no memory";
    device->mr_mode = (uint32_t)info->domain_attr->mr_mode;
    if (device->mr_mode & FI_MR_ENDPOINT)
        return "it wants memory to be registered with each endpoint (FI_MR_ENDPOINT)";
    snprintf(device->name, sizeof(device->name), "%s",
             info->domain_attr->name ? info->domain_attr->name : "?");
    if ((rc = tp->lib->fabric(info->fabric_attr, &device->fabric, NULL)) != 0 ||
        (rc = fi_domain(device->fabric, info, &device->domain, NULL)) != 0)
        return tp->lib->strerror(-rc);
    attr.wait_obj = FI_WAIT_FD;
    if (fi_cq_open(device->domain, &attr, &cq, NULL) == 0) {
        device->wait_fd = fi_control(&cq->fid, FI_GETWAIT, &fd) == 0; /* some only say so */
        fi_close(&cq->fid);
    }
    /* half of what it takes: never so many that a part of a batch waits for a doorbell */
    device->credits = info->tx_attr->size < 8 ? 4 : (uint32_t)info->tx_attr->size / 2;
    if (device->credits > 1024)
        device->credits = 1024;
    device->max_piece = tp->config.slice;
    if (info->ep_attr->max_msg_size < device->max_piece)
        device->max_piece = info->ep_attr->max_msg_size;
    if (info->nic && info->nic->link_attr)
        device->bandwidth_Bps = info->nic->link_attr->speed / 8;
    if (info->nic && info->nic->bus_attr && info->nic->bus_attr->bus_type == FI_BUS_PCI) {
        const struct fi_pci_attr *pci = &info->nic->bus_attr->attr.pci;
        snprintf(device->pci, sizeof(device->pci), "%04x:%02x:%02x.%x", pci->domain_id,
                 pci->bus_id, pci->device_id, pci->function_id & 15);
    }
    device->words =
        mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (device->words == MAP_FAILED) {
        device->words = NULL;
        return "no memory";
    }
    device->words[0] = random_u64();
    if (fab_mr_open(device, device->words, PAGE, FI_REMOTE_READ | FI_READ | FI_WRITE,
                    &device->word_mr) != FERRY_OK)
        return "it does not register memory";
    device->word_key = fi_mr_key(device->word_mr);
    device->word_addr = device->mr_mode & FI_MR_VIRT_ADDR ? (uintptr_t)device->words : 0;
    return NULL;
}

static void close_device(struct ferry_tp *tp, struct fab_device *device)
{
    if (device->word_mr)
        fi_close(&device->word_mr->fid);
    if (device->words)
        munmap(device->words, PAGE);
    if (device->domain)
        fi_close(&device->domain->fid);
    if (device->fabric)
        fi_close(&device->fabric->fid);
    if (device->info)
        tp->lib->freeinfo(device->info);
    *device = (struct fab_device){0};
}

static const struct fi_info *best_of(const struct fi_info *list, const struct ferry_tp *tp,
                                     const struct fi_info *after, bool loopback)
{
    const struct fi_info *best = NULL;

    /* the next domain after `after` that is not open, at its best address */
    for (const struct fi_info *i = after ? after->next : list; i; i = i->next) {
        const char *name = i->domain_attr->name ? i->domain_attr->name : "?";
        bool known = false;
        for (uint32_t d = 0; d < tp->n_devices; d++)
            known |= strcmp(tp->device[d].name, name) == 0;
        if (known || !is_named(i, tp->provider) || reach(i) < (loopback ? 1 : 2) ||
            (tp->config.devices[0] && !is_listed(tp->config.devices, name)))
            continue;
        if (!best)
            best = i;
        else if (strcmp(best->domain_attr->name ? best->domain_attr->name : "?", name) == 0 &&
                 reach(i) > reach(best))
            best = i;
    }
    return best;
}

static ferry_status open_all(struct ferry_tp *tp, const struct fi_info *list)
{
    const bool bound = !any_address(tp->config.bind);

    for (int loopback = bound; loopback < 2 && tp->n_devices == 0; loopback++) {
        const struct fi_info *at;
        while (tp->n_devices < FAB_MAX_DEVICES && (at = best_of(list, tp, NULL, loopback))) {
            struct fab_device *device = &tp->device[tp->n_devices];
            const char *why = open_device(tp, at, device);
            if (!why) {
                tp->n_devices++;
                continue;
            }
            FT_LOG(tp->host, FERRY_LOG_WARN, "%s: domain %s is passed over: %s", tp->provider,
                   at->domain_attr->name ? at->domain_attr->name : "?", why);
            close_device(tp, device);
            break;
        }
    }
    if (tp->n_devices)
        return FERRY_OK;
    FT_LOG(tp->host, FERRY_LOG_ERROR, "%s: no domain is usable%s%s", tp->provider,
           tp->config.devices[0] ? " of those named: " : "", tp->config.devices);
    return tp->config.devices[0] ? FERRY_EINVAL : FERRY_EDEVICE;
}

ferry_status fab_devices_open(struct ferry_tp *tp)
{
    const char *wanted = tp->config.provider;
    struct fi_info *list = NULL;
    ferry_status status;

    if (strcmp(wanted, "net") == 0) {
        FT_LOG(tp->host, FERRY_LOG_ERROR,
               "provider \"net\" was a trial in libfabric 1.16 and 1.17, and crashes where an "
               "endpoint is closed with transfers on their way: use \"tcp\"");
        return FERRY_EINVAL;
    }
    for (size_t i = 0; i < N_RANKS && !list; i++) {
        if (wanted[0] && strcmp(wanted, ranks[i].name) != 0)
            continue;
        strcpy(tp->provider, ranks[i].provider);
        list = find(tp, tp->provider);
    }
    if (!list && wanted[0]) { /* one that has no rank */
        strcpy(tp->provider, wanted);
        list = find(tp, tp->provider);
    }
    if (!list) {
        FT_LOG(tp->host, FERRY_LOG_ERROR,
               "no provider of libfabric %s%s%s: reliable datagrams with RMA and delivery "
               "completion are needed (fi_info -t FI_EP_RDM -c FI_RMA lists what is here)",
               wanted[0] ? "by the name of \"" : "is usable", wanted, wanted[0] ? "\"" : "");
        return FERRY_EDEVICE;
    }
    status = open_all(tp, list);
    tp->lib->freeinfo(list);
    return status;
}

void fab_devices_close(struct ferry_tp *tp)
{
    while (tp->n_devices)
        close_device(tp, &tp->device[--tp->n_devices]);
}

bool fab_has_fabric(const struct ferry_tp *tp)
{
    static const char *const plain[] = {"tcp", "tcp;ofi_rxm", "shm", "udp;ofi_rxd", "sockets"};

    for (size_t i = 0; i < sizeof(plain) / sizeof(plain[0]); i++)
        if (strcmp(tp->provider, plain[i]) == 0)
            return false;
    return true;
}
