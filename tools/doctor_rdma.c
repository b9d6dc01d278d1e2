/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `ferry doctor --rdma`: ports from sysfs, modules, and then the rdma transport itself, opened
 * as a node would: what it says of each device, and whether memory can be registered. Nothing
 * is published.
 */
#include "doctor.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ferry/ferry.h"
#include "out.h"
#include "topo.h"

#define TRIAL (64ull << 20) /* bytes to register */

struct trial {
    struct findings *findings;
    int said; /* warnings and errors */
};

/* What helps against each reason that the transport gives. */
static const struct {
    const char *words, *remedy;
} remedies[] = {
    {"port is down",
     "cable and switch port; ip link set DEVICE up; ferry.rdma.port (MC_IB_PORT) "
     "where another port is meant"},
    {"no usable GID", "an IP address on its network interface; show_gids"},
    {"gid_index",
     "ferry.rdma.gid_index (MC_GID_INDEX): an entry that show_gids shows, or none"},
    {"pkey_index", "ferry.rdma.pkey_index (MC_PKEY_INDEX): ibv_devinfo -v shows the table"},
    {"number configured (port)", "ferry.rdma.port (MC_IB_PORT)"},
    {"no permission",
     "docker: --device /dev/infiniband; else the group of /dev/infiniband/uverbs*"},
    {"there is no device", "device_name: names of that list"},
    {"/dev/infiniband", "modprobe ib_uverbs; docker: --device /dev/infiniband"},
    {"libibverbs", "the package of libibverbs (rdma-core), with its providers"},
    {"limit of locked memory",
     "ulimit -l unlimited; LimitMEMLOCK=infinity; --ulimit memlock=-1"},
    {"topology", "ferry topo --topology FILE says more"},
    {"spaces round", "device_name without spaces"},
};

static const char *remedy_for(const char *message)
{
    for (size_t i = 0; i < sizeof(remedies) / sizeof(remedies[0]); i++)
        if (strstr(message, remedies[i].words))
            return remedies[i].remedy;
    return "";
}

static void on_log(void *arg, int level, const char *message)
{
    struct trial *trial = arg;
    const char *text = strncmp(message, "rdma: ", 6) == 0 ? message + 6 : NULL;

    if (!text || level > 2)
        return;
    trial->said += level < 2;
    found(trial->findings, "rdma device",
          level == 2   ? IS_OK
          : level == 1 ? IS_WARN
                       : IS_FAIL,
          level == 2 ? "" : remedy_for(text), "%s", text);
}

static bool is_loaded(const char *module)
{
    char path[128];

    snprintf(path, sizeof(path), "/sys/module/%s", module);
    return access(path, F_OK) == 0;
}

static bool library_has(const char *symbol)
{
    void *library = dlopen("libibverbs.so.1", RTLD_NOW | RTLD_LOCAL);
    bool has = library && dlsym(library, symbol);

    if (library)
        dlclose(library);
    return has;
}

static void check_modules(struct findings *findings, const struct rdma_topo *topo)
{
    bool peermem = is_loaded("nvidia_peermem") || is_loaded("nv_peer_mem");
    bool dmabuf = library_has("ibv_reg_dmabuf_mr");

    if (!is_loaded("ib_uverbs"))
        found(findings, "rdma modules", IS_FAIL, "modprobe ib_uverbs (package rdma-core)",
              "ib_uverbs is not loaded");
    else
        found(findings, "rdma modules", IS_OK, "", "ib_uverbs is loaded");
    if (!topo->n_gpus)
        found(findings, "gpu memory", IS_OK, "", "this machine has no GPU");
    else if (peermem || dmabuf)
        found(findings, "gpu memory", IS_OK, "", "%zu GPUs; NICs reach their memory by %s",
              topo->n_gpus, dmabuf ? "dma-buf (Linux 5.12, open kernel modules)" : "peermem");
    else
        found(findings, "gpu memory", IS_WARN,
              "modprobe nvidia_peermem, or a libibverbs with dma-buf (rdma-core 34)",
              "%zu GPUs, and NICs do not reach their memory", topo->n_gpus);
    if (library_has("ibv_reg_mr_iova2"))
        found(findings, "ordering", IS_OK, "",
              "relaxed ordering can be asked for: by default for memory that peers do not "
              "write to");
    else
        found(findings, "ordering", IS_WARN, "rdma-core 28 or newer",
              "libibverbs has no relaxed ordering");
}

static void read_text(const char *path, char *text, size_t room)
{
    FILE *file = fopen(path, "re");

    text[0] = '\0';
    if (file && !fgets(text, (int)room, file))
        text[0] = '\0';
    text[strcspn(text, "\n")] = '\0';
    if (file)
        fclose(file);
}

/* The kernel's word on the ports, whether or not they are used. */
static void check_ports(struct findings *findings, const struct rdma_topo *topo)
{
    for (size_t i = 0; i < topo->n_nics; i++)
        for (int port = 1; port < 256; port++) {
            char path[256], state[64], rate[64], layer[64];
            const char *name = topo->nic[i].name;

            snprintf(path, sizeof(path), "/sys/class/infiniband/%s/ports/%d/state", name, port);
            read_text(path, state, sizeof(state));
            if (!state[0])
                break;
            snprintf(path, sizeof(path), "/sys/class/infiniband/%s/ports/%d/rate", name, port);
            read_text(path, rate, sizeof(rate));
            snprintf(path, sizeof(path), "/sys/class/infiniband/%s/ports/%d/link_layer", name,
                     port);
            read_text(path, layer, sizeof(layer));
            if (strstr(state, "ACTIVE"))
                found(findings, "rdma port", IS_OK, "", "%s port %d: %s, %s, %s", name, port,
                      state, layer, rate);
            else
                found(findings, "rdma port", IS_WARN, remedies[0].remedy,
                      "%s port %d: %s, %s, %s", name, port, state, layer, rate);
        }
}

static void try_transport(struct findings *findings, const char *config, const char *role)
{
    struct trial trial = {.findings = findings};
    struct ferry_options options = {.size = sizeof(options),
                                    .log_level = 2,
                                    .name = "127.0.0.1:0",
                                    .bind = "127.0.0.1",
                                    .metadata_server = "P2PHANDSHAKE",
                                    .protocol = "rdma",
                                    .log = on_log,
                                    .log_arg = &trial};
    struct ferry_engine *engine;
    char size[32];
    void *memory;

    if (config ? ferry_engine_open_file(config, role, &options, &engine)
               : ferry_engine_open(&options, &engine)) {
        if (!trial.said)
            found(findings, "rdma", IS_FAIL, remedy_for(ferry_error()), "%s", ferry_error());
        return;
    }
    out_bytes(size, TRIAL);
    if (ferry_memory_alloc(engine, TRIAL, FERRY_REMOTE_READ | FERRY_REMOTE_WRITE, &memory)) {
        if (!trial.said)
            found(findings, "rdma memory", IS_FAIL, remedy_for(ferry_error()), "%s",
                  ferry_error());
    } else {
        found(findings, "rdma memory", IS_OK, "", "%s were registered on every device", size);
        ferry_memory_free(engine, memory);
    }
    ferry_engine_close(engine, 1000);
}

void doctor_rdma(struct findings *findings, const char *config, const char *role)
{
    struct rdma_topo *topo = rdma_topo_read("/sys");

    if (!topo)
        return;
    if (!topo->n_nics)
        found(
            findings, "rdma", IS_FAIL,
            "the NIC's driver (modprobe mlx5_ib, bnxt_re, irdma, ...); in a virtual machine or "
            "container: pass the NIC in",
            "the kernel has no RDMA device");
    check_ports(findings, topo);
    check_modules(findings, topo);
    if (getenv("MC_FORCE_TCP"))
        found(findings, "rdma", IS_WARN, "unset MC_FORCE_TCP",
              "MC_FORCE_TCP is set: rdma would not be used, and was not tried");
    else if (topo->n_nics)
        try_transport(findings, config, role);
    free(topo);
}
