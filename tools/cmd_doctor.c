/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `ferry doctor`: would a node with this configuration work on this machine? One line a check,
 * with the remedy. Publishes nothing and changes nothing.
 */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "admin_options.h"
#include "commands.h"
#include "doctor.h"
#include "out.h"

#define CLOCK_WARN_S 5

struct doctor_options {
    struct admin_options common;
    bool rdma;
};

struct doctor {
    const struct admin_options *options;
    struct findings findings;
    struct ferry_admin *admin;
    cJSON *config, *store, *address, *plugins;
    bool no_store;
};

static const char *const verdicts[] = {"OK", "WARN", "FAIL"};

void found(struct findings *findings, const char *check, enum verdict verdict,
           const char *remedy, const char *fmt, ...)
{
    cJSON *item = cJSON_CreateObject();
    char text[1200];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    cJSON_AddStringToObject(item, "check", check);
    cJSON_AddStringToObject(item, "verdict", verdicts[verdict]);
    cJSON_AddStringToObject(item, "text", text);
    if (*remedy)
        cJSON_AddStringToObject(item, "remedy", remedy);
    cJSON_AddItemToArray(findings->list, item);
    if ((int)verdict > findings->worst)
        findings->worst = (int)verdict;
}

/* Warnings of the configuration are findings of their own. */
static void on_log(void *arg, int level, const char *message)
{
    struct doctor *d = arg;

    if (level <= 1 && !d->admin)
        found(&d->findings, "configuration", IS_WARN, "docs/configuration.md", "%s", message);
}

static cJSON *describe(struct doctor *d, const char *what)
{
    char *text;

    return ferry_admin_describe(d->admin, what, &text) ? NULL : admin_json(text);
}

static void check_configuration(struct doctor *d)
{
    const char *path = admin_config(d->options);
    ferry_status status = admin_open(d->options, on_log, d, &d->admin);

    if (status == FERRY_ENOTSUP)
        found(&d->findings, "store", IS_FAIL,
              "ferry plugins shows what is found and refused; FERRY_PLUGIN_PATH says where",
              "%s", ferry_error());
    else if (status)
        found(&d->findings, "configuration", IS_FAIL, "docs/configuration.md", "%s",
              ferry_error());
    if (status)
        return;
    d->config = describe(d, "config");
    d->store = describe(d, "store");
    d->address = describe(d, "address");
    d->plugins = describe(d, "plugins");
    if (path)
        found(&d->findings, "configuration", IS_OK, "", "%s", path);
    else
        found(&d->findings, "configuration", IS_WARN, "--config FILE or MOONCAKE_CONFIG_PATH",
              "no file; the defaults were looked at");
}

static void check_store(struct doctor *d)
{
    const char *server = admin_text(d->store, "server");
    const char *name = admin_text(d->address, "name");
    const cJSON *item;
    char can[64] = "get, put", *text;
    ferry_status status;

    if (cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(d->store, "serverless"))) {
        found(&d->findings, "store", IS_OK, "", "%s: none is needed, peers are asked", server);
        return;
    }
    cJSON_ArrayForEach(item, cJSON_GetObjectItemCaseSensitive(d->store, "can"))
    {
        strncat(can, ", ", sizeof(can) - strlen(can) - 1);
        strncat(can, item->valuestring, sizeof(can) - strlen(can) - 1);
    }
    status = ferry_admin_node(d->admin, *name ? name : "ferry-doctor",
                              (uint32_t)d->options->timeout_ms, &text);
    if (!status)
        ferry_string_free(text);
    if (!status || status == FERRY_ENOENT)
        found(&d->findings, "store", IS_OK, "", "%s answers; it can %s", server, can);
    d->no_store = status && status != FERRY_ENOENT;
    if (d->no_store)
        found(&d->findings, "store", IS_FAIL,
              "is it running, is its address right, is there a firewall? user and password, "
              "certificates: docs/operations.md",
              "%s", ferry_error());
}

static void check_clock(struct doctor *d)
{
    const char *server = admin_text(d->store, "server");
    double ahead_s;

    if (cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(d->store, "serverless")))
        return;
    if (!doctor_clock(server, &ahead_s)) {
        found(&d->findings, "clock", IS_OK, "",
              "the metadata server's is not known; leases do not depend on it");
    } else if (ahead_s > CLOCK_WARN_S || ahead_s < -CLOCK_WARN_S) {
        found(&d->findings, "clock", IS_WARN,
              "a time service on both; certificates and the times shown depend on it",
              "the metadata server's is %.0f s %s ours", ahead_s < 0 ? -ahead_s : ahead_s,
              ahead_s < 0 ? "behind" : "before");
    } else {
        found(&d->findings, "clock", IS_OK, "", "within %d s of the metadata server's",
              CLOCK_WARN_S);
    }
}

static bool is_loopback(const cJSON *address)
{
    return strcmp(admin_text(address, "reach"), "loopback") == 0;
}

static void check_address(struct doctor *d)
{
    const char *host = admin_text(d->address, "host"), *from = admin_text(d->address, "from");
    const char *reach = admin_text(d->address, "reach");
    const char *refused = admin_text(d->address, "refused");
    const char *peer = admin_text(d->config, "peer_name");
    static const char remedy[] =
        "ferry.advertise (MC_TCP_BIND_ADDRESS): the address that peers reach";

    if (*refused)
        found(&d->findings, "address", IS_FAIL, "", "%s", refused); /* says it itself */
    else if (strcmp(reach, "unknown") == 0)
        found(&d->findings, "address", IS_WARN, remedy,
              "%s, from %s, cannot be looked up on this machine", host, from);
    else if (strcmp(reach, "bridge") == 0)
        found(
            &d->findings, "address", IS_WARN, remedy,
            "%s, from %s, is the container bridge %s: only containers of this machine reach it",
            host, from, admin_text(d->address, "interface"));
    else if (is_loopback(d->address) && *peer && strncmp(peer, host, strlen(host)) != 0 &&
             strncmp(peer, "localhost", 9) != 0)
        found(&d->findings, "address", IS_WARN, remedy,
              "%s, from %s, is reached from this machine only, and the peer is %s", host, from,
              peer);
    else if (strcmp(reach, "elsewhere") == 0)
        found(&d->findings, "address", IS_WARN,
              "nothing with port forwarding; else the file's URL of this role, or --role",
              "%s, from %s, is no address of this machine", host, from);
    else
        found(&d->findings, "address", IS_OK, "", "%s, from %s%s", host, from,
              is_loopback(d->address) ? "; this machine only" : "");
}

static void check_ports(struct doctor *d)
{
    const cJSON *ferry = cJSON_GetObjectItemCaseSensitive(d->config, "ferry");
    const cJSON *tcp = cJSON_GetObjectItemCaseSensitive(ferry, "tcp");
    int control =
        (int)cJSON_GetNumberValue(cJSON_GetObjectItemCaseSensitive(d->address, "port"));
    const cJSON *data = cJSON_GetObjectItemCaseSensitive(tcp, "port");
    const char *bind = admin_text(d->address, "bind");

    if (control > 0)
        doctor_port(&d->findings, bind, (uint16_t)control, "control port");
    else
        found(&d->findings, "ports", IS_OK, "", "the control port is any that is free");
    if (cJSON_IsNumber(data) && data->valueint > 0)
        doctor_port(&d->findings, bind, (uint16_t)data->valueint, "data port");
}

static bool is_usable(const cJSON *plugin)
{
    return strcmp(admin_text(plugin, "status"), "refused") != 0 &&
           !cJSON_IsFalse(cJSON_GetObjectItemCaseSensitive(plugin, "usable"));
}

/* Of several files the one that is used, else one that says why it is not. */
static const cJSON *transport_named(const struct doctor *d, const char *name)
{
    const cJSON *plugin, *best = NULL;

    cJSON_ArrayForEach(plugin, d->plugins)
    {
        if (strcmp(admin_text(plugin, "kind"), "transport") == 0 &&
            strcmp(admin_text(plugin, "name"), name) == 0 && (!best || is_usable(plugin)))
            best = plugin;
    }
    return best;
}

static bool pins_memory(const char *transport)
{
    return strcmp(transport, "rdma") == 0 || strcmp(transport, "libfabric") == 0;
}

/* An engine starts only with all that `protocol` names. */
static void check_protocol(struct doctor *d, const char *there)
{
    static const char remedy[] =
        "each that is named must be there and usable: take it out, or leave protocol out";
    const char *protocol = admin_text(d->config, "protocol");
    char names[256], *save = NULL;
    bool good = true, pins = false;

    snprintf(names, sizeof(names), "%s", protocol);
    for (char *name = strtok_r(names, ", ", &save); name; name = strtok_r(NULL, ", ", &save)) {
        const cJSON *plugin = transport_named(d, name);

        pins = pins || pins_memory(name);
        if (plugin && is_usable(plugin))
            continue;
        good = false;
        if (plugin)
            found(&d->findings, "protocol", IS_FAIL, remedy, "%s is not usable here: %s", name,
                  admin_text(plugin, "reason"));
        else
            found(&d->findings, "protocol", IS_FAIL, remedy,
                  "there is no transport \"%s\", only %s", name, *there ? there : "none");
    }
    if (good)
        found(&d->findings, "protocol", IS_OK, "", "%s", protocol);
    doctor_memlock(&d->findings, pins);
}

static void check_plugins(struct doctor *d)
{
    const cJSON *plugin;
    char names[256] = "";
    bool usable = false, pins = false;

    cJSON_ArrayForEach(plugin, d->plugins)
    {
        const char *name = admin_text(plugin, "name");

        if (strcmp(admin_text(plugin, "status"), "refused") == 0) {
            found(&d->findings, "plugins", IS_WARN, "ferry plugins; docs/operations.md",
                  "%s: %s", admin_text(plugin, "path"), admin_text(plugin, "reason"));
        } else if (strcmp(admin_text(plugin, "kind"), "transport") == 0) {
            strncat(names, *names ? ", " : "", sizeof(names) - strlen(names) - 1);
            strncat(names, name, sizeof(names) - strlen(names) - 1);
            if (is_usable(plugin))
                usable = true;
            else
                strncat(names, " (not usable here)", sizeof(names) - strlen(names) - 1);
            pins = pins || (is_usable(plugin) && pins_memory(name));
        }
    }
    if (usable)
        found(&d->findings, "plugins", IS_OK, "", "transports: %s", names);
    else
        found(&d->findings, "plugins", IS_FAIL,
              "FERRY_PLUGIN_PATH: absolute directories; ferry plugins", "no transport is %s%s",
              *names ? "usable: " : "found", names);
    if (*admin_text(d->config, "protocol"))
        check_protocol(d, names);
    else
        doctor_memlock(&d->findings, pins);
}

static void check_peer(struct doctor *d)
{
    const char *peer = admin_text(d->config, "peer_name");
    char *text;
    ferry_status status;
    cJSON *json;

    if (!*peer || d->no_store)
        return;
    status = ferry_admin_node(d->admin, peer, (uint32_t)d->options->timeout_ms, &text);
    if (status) {
        found(&d->findings, "peer", IS_WARN, "start it; is its name spelt alike there?", "%s",
              ferry_error());
        return;
    }
    json = admin_json(text);
    if (strcmp(admin_text(json, "state"), "answers") == 0)
        found(&d->findings, "peer", IS_OK, "", "%s answers at %s", peer,
              admin_text(json, "address"));
    else
        found(&d->findings, "peer", IS_WARN,
              "start it, or open its ports; a stale entry: ferry metadata gc", "%s is %s: %s",
              peer, admin_text(json, "state"), admin_text(json, "why"));
    cJSON_Delete(json);
}

static void show(const struct findings *findings)
{
    const cJSON *item;
    bool colours = isatty(STDOUT_FILENO) && !getenv("NO_COLOR");

    cJSON_ArrayForEach(item, findings->list)
    {
        const char *verdict = admin_text(item, "verdict"), *remedy = admin_text(item, "remedy");
        const char *colour = verdict[0] == 'O'   ? "\033[32m"
                             : verdict[0] == 'W' ? "\033[33m"
                                                 : "\033[31m";

        printf("%s%-5s%s%-14s %s%s%s\n", colours ? colour : "", verdict,
               colours ? "\033[0m" : "", admin_text(item, "check"), admin_text(item, "text"),
               *remedy ? " -> " : "", remedy);
    }
    fflush(stdout);
}

static int run(const struct command *self, const void *options, int argc, char **argv)
{
    const struct doctor_options *o = options;
    struct doctor d = {.options = &o->common, .findings = {.list = cJSON_CreateArray()}};
    bool quiet = o->common.json && strcmp(o->common.json, "-") == 0;
    const cJSON *ferry;
    int status;

    check_configuration(&d);
    if (d.admin) {
        check_store(&d);
        check_clock(&d);
        check_address(&d);
        check_ports(&d);
        check_plugins(&d);
        check_peer(&d);
    } else {
        doctor_memlock(&d.findings, false);
    }
    doctor_io_uring(&d.findings);
    ferry = cJSON_GetObjectItemCaseSensitive(d.config, "ferry");
    doctor_congestion(&d.findings,
                      admin_text(cJSON_GetObjectItemCaseSensitive(ferry, "tcp"), "congestion"));
    doctor_descriptors(&d.findings);
    if (o->rdma)
        doctor_rdma(&d.findings, admin_config(&o->common),
                    o->common.role ? "decode" : "prefill");
    if (!quiet)
        show(&d.findings);
    status = d.findings.worst == IS_FAIL ? EXIT_WRONG : EXIT_OK;
    if (o->common.json && !out_json(o->common.json, d.findings.list))
        status = EXIT_WRONG;
    cJSON_Delete(d.findings.list);
    cJSON_Delete(d.config);
    cJSON_Delete(d.store);
    cJSON_Delete(d.address);
    cJSON_Delete(d.plugins);
    ferry_admin_close(d.admin);
    return status;
}

static const struct opt opts[] = {
    ADMIN_OPTS(struct doctor_options),
    {.name = "rdma",
     .type = OPT_FLAG,
     .help = "RDMA devices, ports, GIDs, modules too, and register memory for a moment",
     .offset = offsetof(struct doctor_options, rdma)},
    {0},
};

static const struct example examples[] = {
    {"ferry doctor --config mooncake.json --role decode",
     "would the decode node of this file work on this machine?"},
    {"ferry doctor --rdma", "which RDMA devices can be used, and why not the others"},
    {0},
};

const struct command cmd_doctor = {
    .name = "doctor",
    .summary = "would a node with this configuration work on this machine, and if not, why",
    .synopsis = "",
    .words = "",
    .about =
        "Looks at what a node needs, one line a check: OK, WARN (it works, and less well or not "
        "yet) or FAIL, with the remedy. Checked are the configuration, the metadata server (does "
        "it answer and accept user and certificate; its clock, where it can be asked), the "
        "address that would be published, the ports, the plugins, the transports that protocol "
        "names, locked memory, io_uring, congestion control, the number of descriptors, and "
        "whether the peer answers.\n\n"
        "Nothing is published and nothing is changed; a running node is not disturbed. The exit "
        "status is 1 where a line says FAIL.",
    .opts = opts,
    .examples = examples,
    .options_size = sizeof(struct doctor_options),
    .run = run,
};
