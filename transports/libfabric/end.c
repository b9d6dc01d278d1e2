/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An endpoint with its own completion queue and address vector. Nothing is shared with other
 * endpoints but the domain: what is closed here disturbs nobody, and leaves no completion.
 */
#include "fab.h"

#include <string.h>
#include <sys/epoll.h>

ferry_status fab_status(ssize_t rc)
{
    switch (-rc) {
    case 0:
        return FERRY_OK;
    case FI_EAGAIN:
        return FERRY_EAGAIN;
    case FI_ENOMEM:
        return FERRY_ENOMEM;
    case FI_EACCES:
    case FI_EPERM:
    case FI_ENOKEY:
        return FERRY_EACCESS;
    default:
        return FERRY_EDEVICE;
    }
}

ferry_status fab_end_open(struct ferry_tp *tp, struct fab_device *device, uint32_t cq_size,
                          int epoll_fd, uint64_t tag, struct fab_end *end_out)
{
    struct fab_end end = {.fd = -1, .epoll_fd = epoll_fd};
    struct fi_cq_attr cq = {.size = cq_size, .format = FI_CQ_FORMAT_CONTEXT};
    struct fi_av_attr av = {.type = device->info->domain_attr->av_type};
    int rc;

    cq.wait_obj = device->wait_fd ? FI_WAIT_FD : FI_WAIT_NONE;
    if ((rc = fi_cq_open(device->domain, &cq, &end.cq, NULL)) != 0 ||
        (rc = fi_av_open(device->domain, &av, &end.av, NULL)) != 0 ||
        (rc = fi_endpoint(device->domain, device->info, &end.ep, NULL)) != 0 ||
        (rc = fi_ep_bind(end.ep, &end.av->fid, 0)) != 0 ||
        (rc = fi_ep_bind(end.ep, &end.cq->fid, FI_TRANSMIT | FI_RECV)) != 0 ||
        (rc = fi_enable(end.ep)) != 0)
        goto err;
    if (device->wait_fd) {
        struct epoll_event event = {.events = EPOLLIN, .data.u64 = tag};
        if ((rc = fi_control(&end.cq->fid, FI_GETWAIT, &end.fd)) != 0)
            goto err;
        if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, end.fd, &event) != 0) {
            rc = -FI_ENOMEM;
            end.fd = -1;
            goto err;
        }
    }
    *end_out = end;
    return FERRY_OK;

err:
    FT_LOG(tp->host, FERRY_LOG_ERROR, "%s: no endpoint on %s: %s", tp->provider, device->name,
           tp->lib->strerror(-rc));
    fab_end_close(&end);
    return fab_status(rc);
}

void fab_end_close(struct fab_end *end)
{
    if (end->fd >= 0)
        epoll_ctl(end->epoll_fd, EPOLL_CTL_DEL, end->fd, NULL);
    if (end->ep)
        fi_close(&end->ep->fid);
    if (end->av)
        fi_close(&end->av->fid);
    if (end->cq)
        fi_close(&end->cq->fid);
    *end = (struct fab_end){.fd = -1};
}

ferry_status fab_end_name(const struct fab_end *end, uint8_t name_out[FAB_EP_MAX],
                          uint32_t *len_out)
{
    size_t len = FAB_EP_MAX;
    int rc = fi_getname(&end->ep->fid, name_out, &len);

    if (rc != 0)
        return FERRY_EDEVICE;
    *len_out = (uint32_t)len;
    return FERRY_OK;
}
