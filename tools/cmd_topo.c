/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `ferry topo`: which RDMA devices are near which memory, and why. Shows what the rdma
 * transport decides, by the same code; opens no device.
 */
#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

#include "commands.h"
#include "out.h"
#include "topo.h"

struct topo_options {
    const char *devices, *file, *sysfs, *json;
    bool matrix;
};

/* NULL: the location is no GPU of this machine. */
static const struct rdma_place *gpu_of(const struct rdma_topo *topo, const char *location)
{
    for (size_t i = 0; i < topo->n_gpus; i++)
        if (strcmp(topo->gpu[i].name, location) == 0)
            return &topo->gpu[i];
    return NULL;
}

static const struct rdma_place *nic_of(const struct rdma_topo *topo, const char *name)
{
    for (size_t i = 0; i < topo->n_nics; i++)
        if (strcmp(topo->nic[i].name, name) == 0)
            return &topo->nic[i];
    return NULL;
}

static const char *distance_words(enum rdma_distance distance)
{
    static const char *const words[] = {"behind the same switch", "behind the same root port",
                                        "at the same host bridge", "at the same NUMA node",
                                        "across NUMA nodes, or unknown"};

    return words[distance];
}

static const char *reason(const struct rdma_topo *topo, const cJSON *row, const char *file)
{
    const struct rdma_place *gpu = gpu_of(topo, row->string);
    const cJSON *first = cJSON_GetArrayItem(cJSON_GetArrayItem(row, 0), 0);
    const struct rdma_place *nic = first ? nic_of(topo, first->valuestring) : NULL;

    if (file)
        return "the file says so";
    if (!nic)
        return topo->n_nics ? "no device is near" : "there is no device";
    if (gpu)
        return distance_words(rdma_topo_distance(gpu, nic));
    cJSON_ArrayForEach(first, cJSON_GetArrayItem(row, 0))
    {
        nic = nic_of(topo, first->valuestring);
        if (nic && nic->numa_node >= 0)
            return "at this NUMA node";
    }
    return "nobody knows their NUMA node";
}

static cJSON *place_json(const struct rdma_place *place)
{
    cJSON *json = cJSON_CreateObject();

    cJSON_AddStringToObject(json, "name", place->name);
    if (place->pci[0])
        cJSON_AddStringToObject(json, "pci", place->pci);
    if (place->model[0])
        cJSON_AddStringToObject(json, "model", place->model);
    if (place->numa_node >= 0)
        cJSON_AddNumberToObject(json, "numa_node", place->numa_node);
    return json;
}

static cJSON *to_json(const struct rdma_topo *topo, const cJSON *matrix, const char *file,
                      const char *sysfs)
{
    cJSON *json = cJSON_CreateObject(), *list = cJSON_AddArrayToObject(json, "devices");
    cJSON *far, *reasons;
    const cJSON *row;

    for (size_t i = 0; i < topo->n_nics; i++)
        cJSON_AddItemToArray(list, place_json(&topo->nic[i]));
    list = cJSON_AddArrayToObject(json, "gpus");
    for (size_t i = 0; i < topo->n_gpus; i++)
        cJSON_AddItemToArray(list, place_json(&topo->gpu[i]));
    list = cJSON_AddArrayToObject(json, "numa_nodes");
    for (size_t i = 0; i < topo->n_nodes; i++)
        cJSON_AddItemToArray(list, cJSON_CreateNumber(topo->node[i]));
    far = cJSON_AddObjectToObject(json, "distances");
    for (size_t i = 0; i < topo->n_gpus; i++) {
        cJSON *of = cJSON_AddObjectToObject(far, topo->gpu[i].name);

        for (size_t k = 0; k < topo->n_nics; k++)
            cJSON_AddStringToObject(
                of, topo->nic[k].name,
                rdma_distance_name(rdma_topo_distance(&topo->gpu[i], &topo->nic[k])));
    }
    cJSON_AddStringToObject(json, "source", file ? file : sysfs);
    cJSON_AddItemToObject(json, "priority_matrix", cJSON_Duplicate(matrix, true));
    reasons = cJSON_AddObjectToObject(json, "reasons");
    cJSON_ArrayForEach(row, matrix)
        cJSON_AddStringToObject(reasons, row->string, reason(topo, row, file));
    return json;
}

static void show_places(const char *head, const struct rdma_place *places, size_t n)
{
    const char *const heads[] = {head, "PCI", "MODEL", "NUMA NODE"};
    struct table *table = table_new(4, heads, "llll");

    for (size_t i = 0; i < n; i++) {
        char node[16] = "unknown";
        const char *cells[] = {places[i].name, places[i].pci[0] ? places[i].pci : "-",
                               places[i].model[0] ? places[i].model : "-", node};

        if (places[i].numa_node >= 0)
            snprintf(node, sizeof(node), "%d", places[i].numa_node);
        table_row(table, cells);
    }
    table_print(table);
    table_free(table);
    printf("\n");
}

static void show_distances(const struct rdma_topo *topo)
{
    const char *heads[RDMA_TOPO_NICS + 1] = {"DISTANCE"}, *cells[RDMA_TOPO_NICS + 1];
    char left[RDMA_TOPO_NICS + 2];
    struct table *table;

    memset(left, 'l', sizeof(left));
    left[topo->n_nics + 1] = '\0';
    for (size_t i = 0; i < topo->n_nics; i++)
        heads[i + 1] = topo->nic[i].name;
    table = table_new(topo->n_nics + 1, heads, left);
    for (size_t i = 0; i < topo->n_gpus; i++) {
        cells[0] = topo->gpu[i].name;
        for (size_t k = 0; k < topo->n_nics; k++)
            cells[k + 1] = rdma_distance_name(rdma_topo_distance(&topo->gpu[i], &topo->nic[k]));
        table_row(table, cells);
    }
    table_print(table);
    table_free(table);
    printf(
        "PIX same switch, PXB same root port, PHB same host bridge, NODE same NUMA node, SYS "
        "another\n\n");
}

/* "mlx5_0, mlx5_1"; "-" = none. */
static const char *names_of(const cJSON *list, char *text, size_t room)
{
    const cJSON *name;
    size_t len = 0;

    snprintf(text, room, "-");
    cJSON_ArrayForEach(name, list) if (len < room) len +=
        (size_t)snprintf(text + len, room - len, "%s%s", len ? ", " : "", name->valuestring);
    return text;
}

static void show(const struct rdma_topo *topo, const cJSON *matrix, const char *file)
{
    static const char *const heads[] = {"MEMORY", "FIRST", "THEN", "WHY"};
    struct table *table;
    const cJSON *row;

    if (topo->n_nics)
        show_places("DEVICE", topo->nic, topo->n_nics);
    else
        printf("This machine has no RDMA device.\n\n");
    if (topo->n_gpus)
        show_places("GPU", topo->gpu, topo->n_gpus);
    if (topo->n_gpus && topo->n_nics)
        show_distances(topo);
    table = table_new(4, heads, "llll");
    cJSON_ArrayForEach(row, matrix)
    {
        char first[2048], then[2048];
        const char *cells[] = {
            row->string, names_of(cJSON_GetArrayItem(row, 0), first, sizeof(first)),
            names_of(cJSON_GetArrayItem(row, 1), then, sizeof(then)), reason(topo, row, file)};

        table_row(table, cells);
    }
    table_print(table);
    table_free(table);
}

/* Only those of the comma list; false: a message has gone out. */
static bool keep(struct rdma_topo *topo, const char *list)
{
    const char *names[RDMA_TOPO_NICS];
    char *copy = strdup(list), *rest = copy, *name;
    size_t n = 0, unknown = 0;
    bool good = copy != NULL;

    while (good && (name = strsep(&rest, ","))) {
        name += strspn(name, " \t");
        name[strcspn(name, " \t")] = '\0';
        if (*name && n < RDMA_TOPO_NICS)
            names[n++] = name;
    }
    if (n && !rdma_topo_keep(topo, names, n, &unknown)) {
        fprintf(stderr, "ferry topo: there is no device \"%s\"; there are:", names[unknown]);
        for (size_t i = 0; i < topo->n_nics; i++)
            fprintf(stderr, " %s", topo->nic[i].name);
        fprintf(stderr, "%s\n", topo->n_nics ? "" : " none");
        good = false;
    }
    free(copy);
    return good;
}

static int run(const struct command *self, const void *options, int argc, char **argv)
{
    const struct topo_options *o = options;
    const char *file = o->file ? o->file : getenv("MC_CUSTOM_TOPO_JSON");
    struct rdma_topo *topo = rdma_topo_read(o->sysfs);
    char why[512] = "";
    cJSON *matrix = NULL, *json;
    int status = EXIT_OK;

    if (!topo)
        return EXIT_LOST;
    if (o->devices && !keep(topo, o->devices)) {
        free(topo);
        return EXIT_USAGE;
    }
    if (file && !*file)
        file = NULL;
    matrix = file ? rdma_topo_load(file, topo, why, sizeof(why)) : rdma_topo_matrix(topo);
    if (why[0])
        fprintf(stderr, "ferry topo: %s%s%s\n", matrix ? file : "", matrix ? ": " : "", why);
    if (!matrix) {
        free(topo);
        return EXIT_USAGE;
    }
    if (o->matrix) {
        status = out_json("-", matrix) ? EXIT_OK : EXIT_WRONG;
    } else if (o->json) {
        json = to_json(topo, matrix, file, o->sysfs);
        status = out_json(o->json, json) ? EXIT_OK : EXIT_WRONG;
        cJSON_Delete(json);
    }
    if (!o->matrix && (!o->json || strcmp(o->json, "-") != 0))
        show(topo, matrix, file);
    cJSON_Delete(matrix);
    free(topo);
    return status;
}

static const struct opt opts[] = {
    {.name = "devices",
     .meta = "LIST",
     .type = OPT_TEXT,
     .help = "only these, with commas between, as device_name has them",
     .offset = offsetof(struct topo_options, devices)},
    {.name = "topology",
     .meta = "FILE",
     .type = OPT_FILE,
     .help = "a priority_matrix as JSON instead of what is found; else MC_CUSTOM_TOPO_JSON "
             "names it",
     .offset = offsetof(struct topo_options, file)},
    {.name = "json",
     .meta = "FILE",
     .type = OPT_FILE,
     .help = "write it as JSON; - = standard output, and nothing else there",
     .offset = offsetof(struct topo_options, json)},
    {.name = "matrix",
     .type = OPT_FLAG,
     .help = "print the priority_matrix alone, as peers are told",
     .offset = offsetof(struct topo_options, matrix)},
    {.name = "sysfs",
     .meta = "DIR",
     .type = OPT_FILE,
     .def = "/sys",
     .help = "a copy of another machine's, to look at it from here",
     .offset = offsetof(struct topo_options, sysfs)},
    {0},
};

static const struct example examples[] = {
    {"ferry topo --matrix >topo.json", "a file to edit, for MC_CUSTOM_TOPO_JSON"},
    {0},
};

const struct command cmd_topo = {
    .name = "topo",
    .summary = "RDMA devices and GPUs, how far they are from each other, which are chosen",
    .synopsis = "",
    .words = "",
    .about =
        "Lists the RDMA devices and GPUs of this machine, the distances on the PCI bus "
        "between them, and for the memory of each NUMA node and GPU the devices that the "
        "rdma transport prefers, those that it takes when it must, and why.\n\n"
        "GPUs are numbered in the order of their PCI addresses, as CUDA does where all are "
        "of one model or CUDA_DEVICE_ORDER=PCI_BUS_ID.",
    .opts = opts,
    .examples = examples,
    .options_size = sizeof(struct topo_options),
    .run = run,
};
