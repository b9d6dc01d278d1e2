/* SPDX-License-Identifier: Apache-2.0 */
/*
 * NICs, accelerators and NUMA nodes as sysfs has them, how far they are from each other, and
 * what follows from it. Knows no verbs and nothing of the plugin: the command uses it too.
 */
#include "topo.h"

#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cJSON.h>

#define MAX_FILE (1l << 20) /* bytes of a file with a matrix */

static bool read_line(const char *dir, const char *name, char *out, size_t room)
{
    char path[PATH_MAX];
    FILE *file;
    bool good;

    snprintf(path, sizeof(path), "%.3500s/%.500s", dir, name);
    file = fopen(path, "re");
    good = file && fgets(out, (int)room, file);
    if (file)
        fclose(file);
    if (!good)
        out[0] = '\0';
    out[strcspn(out, "\n")] = '\0';
    return good;
}

static unsigned long read_hex(const char *dir, const char *name)
{
    char text[32];

    return read_line(dir, name, text, sizeof(text)) ? strtoul(text, NULL, 16) : 0;
}

/* "0000:3b:00.0" */
static bool is_pci(const char *name)
{
    return strlen(name) == 12 && name[4] == ':' && name[7] == ':' && name[10] == '.';
}

/* `dir` is the directory of a device, or a link to it. */
static void find_place(const char *dir, struct rdma_place *place)
{
    char real[PATH_MAX], text[32];
    const char *below, *last;

    place->numa_node = -1;
    if (!realpath(dir, real))
        return;
    below = strstr(real, "/devices/");
    last = strrchr(real, '/') + 1;
    if (below && strlen(below + 9) < sizeof(place->path))
        strcpy(place->path, below + 9);
    if (is_pci(last))
        strcpy(place->pci, last);
    if (read_line(real, "numa_node", text, sizeof(text)))
        place->numa_node = atoi(text);
    if (read_hex(real, "vendor"))
        snprintf(place->model, sizeof(place->model), "%04lx:%04lx",
                 read_hex(real, "vendor") & 0xffff, read_hex(real, "device") & 0xffff);
}

static int by_version(const struct dirent **a, const struct dirent **b)
{
    return strverscmp((*a)->d_name, (*b)->d_name);
}

static int by_address(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static int visible(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

/* A device of software sits on a network interface, and is where that one is. */
static void read_nic(const char *sysfs, const char *name, struct rdma_place *nic)
{
    char dir[PATH_MAX], parent[64];

    snprintf(nic->name, sizeof(nic->name), "%.63s", name);
    snprintf(dir, sizeof(dir), "%.1000s/class/infiniband/%.255s/device", sysfs, name);
    find_place(dir, nic);
    if (nic->path[0])
        return;
    dir[strlen(dir) - strlen("/device")] = '\0';
    if (!read_line(dir, "parent", parent, sizeof(parent)))
        return;
    snprintf(dir, sizeof(dir), "%.1000s/class/net/%.63s/device", sysfs, parent);
    find_place(dir, nic);
}

/* Mooncake's prefix for accelerators of that vendor; NULL = it has none, or this is no one. */
static const char *accelerator(const char *dir)
{
    unsigned long class = read_hex(dir, "class") >> 8, vendor = read_hex(dir, "vendor");

    if (class != 0x0300 && class != 0x0302 && class != 0x0380 && class != 0x1200)
        return NULL;
    return vendor == 0x10de ? "cuda" : vendor == 0x1002 && class != 0x0300 ? "hip" : NULL;
}

/* Numbered in the order of their PCI addresses, as CUDA does for boards that are alike. */
static void read_gpus(const char *sysfs, struct rdma_topo *topo)
{
    struct dirent **entries = NULL;
    char dir[PATH_MAX];
    unsigned n_cuda = 0, n_hip = 0;
    int n;

    snprintf(dir, sizeof(dir), "%.1000s/bus/pci/devices", sysfs);
    n = scandir(dir, &entries, visible, by_address);
    for (int i = 0; i < n; i++) {
        struct rdma_place *gpu = &topo->gpu[topo->n_gpus];
        const char *prefix;

        snprintf(dir, sizeof(dir), "%.1000s/bus/pci/devices/%.255s", sysfs, entries[i]->d_name);
        prefix = accelerator(dir);
        if (prefix && topo->n_gpus < RDMA_TOPO_GPUS) {
            snprintf(gpu->name, sizeof(gpu->name), "%s:%u", prefix,
                     prefix[0] == 'c' ? n_cuda++ : n_hip++);
            find_place(dir, gpu);
            topo->n_gpus++;
        }
        free(entries[i]);
    }
    free(entries);
}

static int by_number(const void *a, const void *b)
{
    return *(const int *)a - *(const int *)b;
}

static void read_nodes(const char *sysfs, struct rdma_topo *topo)
{
    char dir[PATH_MAX];
    struct dirent *entry;
    DIR *list;
    int node;

    snprintf(dir, sizeof(dir), "%.1000s/devices/system/node", sysfs);
    list = opendir(dir);
    while (list && (entry = readdir(list)))
        if (sscanf(entry->d_name, "node%d", &node) == 1 && node >= 0 &&
            topo->n_nodes < RDMA_TOPO_NODES)
            topo->node[topo->n_nodes++] = node;
    if (list)
        closedir(list);
    if (topo->n_nodes == 0)
        topo->node[topo->n_nodes++] = 0;
    qsort(topo->node, topo->n_nodes, sizeof(topo->node[0]), by_number);
}

struct rdma_topo *rdma_topo_read(const char *sysfs)
{
    struct rdma_topo *topo = calloc(1, sizeof(*topo));
    struct dirent **entries = NULL;
    char dir[PATH_MAX];
    int n;

    if (!topo)
        return NULL;
    read_nodes(sysfs, topo);
    snprintf(dir, sizeof(dir), "%.1000s/class/infiniband", sysfs);
    n = scandir(dir, &entries, visible, by_version);
    for (int i = 0; i < n; i++) {
        if (topo->n_nics < RDMA_TOPO_NICS)
            read_nic(sysfs, entries[i]->d_name, &topo->nic[topo->n_nics++]);
        free(entries[i]);
    }
    free(entries);
    read_gpus(sysfs, topo);
    return topo;
}

bool rdma_topo_keep(struct rdma_topo *topo, const char *const *names, size_t n,
                    size_t *unknown_out)
{
    for (size_t i = 0; i < n; i++) {
        struct rdma_place swap;
        size_t at = i;

        while (at < topo->n_nics && strcmp(topo->nic[at].name, names[i]) != 0)
            at++;
        if (at >= topo->n_nics) {
            *unknown_out = i;
            return false;
        }
        swap = topo->nic[i];
        topo->nic[i] = topo->nic[at];
        topo->nic[at] = swap;
    }
    topo->n_nics = n;
    return true;
}

/* The parts of the path that both begin with. */
static size_t common_parts(const char *a, const char *b)
{
    size_t parts = 0;

    for (size_t i = 0;; i++) {
        bool end_a = a[i] == '/' || !a[i], end_b = b[i] == '/' || !b[i];

        if (end_a && end_b)
            parts++;
        else if (a[i] != b[i])
            return parts;
        if (!a[i] || !b[i])
            return parts;
    }
}

static size_t count_parts(const char *path)
{
    size_t parts = 1;

    for (; *path; path++)
        parts += *path == '/';
    return parts;
}

enum rdma_distance rdma_topo_distance(const struct rdma_place *a, const struct rdma_place *b)
{
    size_t common = a->pci[0] && b->pci[0] ? common_parts(a->path, b->path) : 0;

    if (common >=
        2) /* host bridge and root port; below it a port of the switch and the device */
        return count_parts(a->path) - common <= 2 && count_parts(b->path) - common <= 2
                   ? RDMA_PIX
                   : RDMA_PXB;
    if (common == 1)
        return RDMA_PHB;
    return a->numa_node >= 0 && a->numa_node == b->numa_node ? RDMA_NODE : RDMA_SYS;
}

const char *rdma_distance_name(enum rdma_distance distance)
{
    static const char *const names[] = {"PIX", "PXB", "PHB", "NODE", "SYS"};

    return names[distance];
}

/* Adds the row `location`; near[i] says which of its two lists the i-th NIC is in. */
static bool add_row(cJSON *matrix, const char *location, const struct rdma_topo *topo,
                    const bool *near)
{
    cJSON *row = cJSON_AddArrayToObject(matrix, location);

    for (int part = 0; part < 2; part++) {
        cJSON *list = row ? cJSON_CreateArray() : NULL;

        if (!list)
            return false;
        cJSON_AddItemToArray(row, list);
        for (size_t i = 0; i < topo->n_nics; i++) {
            cJSON *name = near[i] == (part == 0) ? cJSON_CreateString(topo->nic[i].name) : NULL;

            if (near[i] == (part == 0) && (!name || !cJSON_AddItemToArray(list, name)))
                return false;
        }
    }
    return true;
}

static bool add_node(cJSON *matrix, const struct rdma_topo *topo, int node)
{
    bool near[RDMA_TOPO_NICS];
    char location[24];

    for (size_t i = 0; i < topo->n_nics; i++)
        near[i] = topo->nic[i].numa_node < 0 || topo->nic[i].numa_node == node;
    snprintf(location, sizeof(location), "cpu:%d", node);
    return add_row(matrix, location, topo, near);
}

static bool add_gpu(cJSON *matrix, const struct rdma_topo *topo, const struct rdma_place *gpu)
{
    enum rdma_distance distance[RDMA_TOPO_NICS], best = RDMA_SYS;
    bool near[RDMA_TOPO_NICS];

    for (size_t i = 0; i < topo->n_nics; i++) {
        distance[i] = rdma_topo_distance(gpu, &topo->nic[i]);
        if (distance[i] < best)
            best = distance[i];
    }
    for (size_t i = 0; i < topo->n_nics; i++)
        near[i] = distance[i] == best;
    return add_row(matrix, gpu->name, topo, near);
}

cJSON *rdma_topo_matrix(const struct rdma_topo *topo)
{
    cJSON *matrix = cJSON_CreateObject();
    bool well = matrix != NULL;

    for (size_t i = 0; well && topo->n_nics && i < topo->n_nodes; i++)
        well = add_node(matrix, topo, topo->node[i]);
    for (size_t i = 0; well && topo->n_nics && i < topo->n_gpus; i++)
        well = add_gpu(matrix, topo, &topo->gpu[i]);
    if (well)
        return matrix;
    cJSON_Delete(matrix);
    return NULL;
}

static bool has_nic(const struct rdma_topo *topo, const char *name)
{
    for (size_t i = 0; i < topo->n_nics; i++)
        if (strcmp(topo->nic[i].name, name) == 0)
            return true;
    return false;
}

/* Takes the names out that `topo` has not. False: it is no list of names. */
static bool check_list(cJSON *list, const struct rdma_topo *topo, char *why, size_t room)
{
    cJSON *item = list ? list->child : NULL;

    if (!cJSON_IsArray(list))
        return false;
    while (item) {
        cJSON *next = item->next;

        if (!cJSON_IsString(item) || !item->valuestring[0])
            return false;
        if (!has_nic(topo, item->valuestring)) {
            size_t len = strlen(why);

            snprintf(why + len, room - len, "%s%.63s",
                     len ? ", " : "not in use here: ", item->valuestring);
            cJSON_Delete(cJSON_DetachItemViaPointer(list, item));
        }
        item = next;
    }
    return true;
}

cJSON *rdma_topo_parse(const char *text, const char *name, const struct rdma_topo *topo,
                       char *why, size_t room)
{
    cJSON *row, *matrix = cJSON_ParseWithOpts(text, NULL, 1);

    why[0] = '\0';
    if (!cJSON_IsObject(matrix) || !matrix->child) {
        snprintf(why, room, "%.200s is no %s", name,
                 matrix ? "object with a member for each location" : "JSON");
        cJSON_Delete(matrix);
        return NULL;
    }
    cJSON_ArrayForEach(row, matrix)
    {
        if (row->string[0] && cJSON_IsArray(row) && cJSON_GetArraySize(row) == 2 &&
            check_list(cJSON_GetArrayItem(row, 0), topo, why, room) &&
            check_list(cJSON_GetArrayItem(row, 1), topo, why, room))
            continue;
        snprintf(why, room,
                 "%.200s: \"%.63s\" is not two lists of device names, [[preferred...], "
                 "[others...]]",
                 name, row->string);
        cJSON_Delete(matrix);
        return NULL;
    }
    return matrix;
}

cJSON *rdma_topo_load(const char *file, const struct rdma_topo *topo, char *why, size_t room)
{
    FILE *stream = fopen(file, "re");
    char *text = stream ? calloc(1, MAX_FILE + 1) : NULL;
    cJSON *matrix = NULL;

    if (text && fread(text, 1, MAX_FILE, stream) < MAX_FILE)
        matrix = rdma_topo_parse(text, file, topo, why, room);
    else
        snprintf(why, room, "%.200s %s", file,
                 text ? "is longer than 1 MiB" : "cannot be read");
    free(text);
    if (stream)
        fclose(stream);
    return matrix;
}

int rdma_topo_node_of(const cJSON *matrix, const char *nic)
{
    const cJSON *row, *name;
    int node, found = -1;
    bool everywhere = true;

    cJSON_ArrayForEach(row, matrix)
    {
        bool preferred = false;

        if (sscanf(row->string, "cpu:%d", &node) != 1)
            continue;
        cJSON_ArrayForEach(name, cJSON_GetArrayItem(row, 0)) preferred |=
            strcmp(name->valuestring, nic) == 0;
        everywhere &= preferred;
        if (preferred && found < 0)
            found = node;
    }
    return everywhere ? -1 : found;
}
