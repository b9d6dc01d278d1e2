/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FAB_LIB_H
#define FAB_LIB_H

#include <rdma/fabric.h>
#include <rdma/fi_cm.h>
#include <rdma/fi_domain.h>
#include <rdma/fi_endpoint.h>
#include <rdma/fi_errno.h>
#include <rdma/fi_rma.h>

/* The interface that we ask for: Debian 12's. */
#define FAB_API FI_VERSION(1, 17)

/*
 * libfabric, loaded at run time. What works on an open object is inline in its headers and goes
 * through the object's own table; everything else is called through this one.
 */
struct fab_lib {
    int (*getinfo)(uint32_t version, const char *node, const char *service, uint64_t flags,
                   const struct fi_info *hints, struct fi_info **info);
    void (*freeinfo)(struct fi_info *info);
    struct fi_info *(*dupinfo)(const struct fi_info *info);
    int (*fabric)(struct fi_fabric_attr *attr, struct fid_fabric **fabric, void *context);
    const char *(*strerror)(int errnum);
};

/* NULL where it cannot be loaded; *why_out then says so in static words. Any thread. Stays
 * loaded for the life of the process. */
const struct fab_lib *fab_lib_get(const char **why_out);

#endif /* FAB_LIB_H */
