/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RDMA_TOPO_H
#define RDMA_TOPO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cJSON;

/*
 * Which devices are near which memory: places from sysfs, and Mooncake's priority_matrix made
 * of them or read from a file. `ferry topo` shows what the plugin decides with it. Knows no
 * verbs and nothing of the plugin.
 */
#define RDMA_TOPO_NICS  64u
#define RDMA_TOPO_GPUS  64u
#define RDMA_TOPO_NODES 64u

struct rdma_place {
    char name[64];  /* "mlx5_0", "cuda:0" */
    char model[16]; /* vendor and device number, "10de:2330"; "" = none */
    char pci[16];   /* "0000:3b:00.0"; "" = none */
    int numa_node;  /* -1 = unknown */
    char path[512]; /* below sysfs' devices/, from bridge to bridge; "" = none */
};

struct rdma_topo {
    size_t n_nodes, n_nics, n_gpus;
    int node[RDMA_TOPO_NODES]; /* ascending; at least one */
    struct rdma_place nic[RDMA_TOPO_NICS], gpu[RDMA_TOPO_GPUS];
};

/* As nvidia-smi calls them, nearest first. */
enum rdma_distance {
    RDMA_PIX,  /* behind one switch */
    RDMA_PXB,  /* behind one root port, with more switches between */
    RDMA_PHB,  /* by the host bridge */
    RDMA_NODE, /* by another host bridge of the same NUMA node */
    RDMA_SYS,  /* by the link between NUMA nodes, or nobody knows */
};

/* `sysfs`: "/sys". NULL = no memory. free(). */
struct rdma_topo *rdma_topo_read(const char *sysfs);
/* Only these NICs, in this order. False: *unknown_out is the index of one that is not there. */
bool rdma_topo_keep(struct rdma_topo *topo, const char *const *names, size_t n,
                    size_t *unknown_out);
enum rdma_distance rdma_topo_distance(const struct rdma_place *a, const struct rdma_place *b);
const char *rdma_distance_name(enum rdma_distance distance);

/* {"cpu:0": [[near], [others]], "cuda:0": ...}, {} without NICs; cJSON_Delete. NULL = no
 * memory. */
struct cJSON *rdma_topo_matrix(const struct rdma_topo *topo);
/*
 * The same from a file in that form. NULL: `why` says what is wrong. NICs that `topo` has not
 * are left out and named in `why`, which is "" else.
 */
struct cJSON *rdma_topo_load(const char *file, const struct rdma_topo *topo, char *why,
                             size_t room);
/* `text` of the file `name`. */
struct cJSON *rdma_topo_parse(const char *text, const char *name, const struct rdma_topo *topo,
                              char *why, size_t room);
/* The NUMA node whose memory `nic` is preferred for; -1 = none or all of them. */
int rdma_topo_node_of(const struct cJSON *matrix, const char *nic);

#endif /* RDMA_TOPO_H */
