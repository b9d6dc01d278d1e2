/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Opens the transports that the configuration names, or every usable one. A named one that is
 * not there or does not open is an error: no other takes its place silently.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine.h"
#include "error.h"

#define DEFAULT_QUEUES 2

static void close_one(struct fy_transport *transport)
{
    if (!transport)
        return;
    for (unsigned i = 0; i < transport->n_lanes; i++)
        fy_lane_close(transport->lanes[i]);
    if (transport->tp)
        transport->ops->close(transport->tp);
    fy_kv_fini(&transport->attrs);
    free(transport);
}

static ferry_status core_keys(struct ferry_engine *engine, const char *name, struct fy_kv *kv)
{
    const char *bind = engine->config->bind, *devices = engine->config->device_name;
    char port[8];
    ferry_status status = fy_config_section(engine->config, name, kv);

    snprintf(port, sizeof(port), "%u", engine->control_port + 1u);
    if (!status)
        status = fy_kv_put_text(kv, "core.name", engine->name);
    if (!status)
        status = fy_kv_put_text(kv, "core.bind", bind ? bind : "");
    if (!status)
        status = fy_kv_put_text(kv, "core.host", engine->host);
    if (!status && engine->control_port < 65535)
        status = fy_kv_put_text(kv, "core.port", port);
    if (!status)
        status = fy_kv_put_text(kv, "core.devices", devices ? devices : "");
    return status;
}

static ferry_status open_queues(struct ferry_engine *engine, struct fy_transport *transport)
{
    int64_t asked = fy_config_int(engine->config, "queues", 0);
    uint32_t devices = transport->caps.n_devices ? transport->caps.n_devices : 1;
    uint32_t per_device = asked ? (uint32_t)asked : devices > 1 ? 1 : DEFAULT_QUEUES;

    for (uint32_t i = 0; i < per_device * devices; i++) {
        struct fy_lane *lane;
        ferry_status status;

        if (engine->n_lanes == FY_MAX_LANES ||
            (transport->caps.max_queues && i >= transport->caps.max_queues))
            break;
        status = fy_lane_open(transport, i % devices, &lane);
        if (status)
            return status;
    }
    return transport->n_lanes ? FERRY_OK : fy_fail(FERRY_ERANGE, "no room for more queues");
}

static ferry_status open_one(struct ferry_engine *engine, const char *name, bool named,
                             struct fy_transport **transport_out)
{
    struct fy_transport *transport = calloc(1, sizeof(*transport));
    struct fy_kv keys;
    ferry_status status;

    if (!transport)
        return fy_fail(FERRY_ENOMEM, "no memory for a transport");
    fy_kv_init(&keys);
    fy_kv_init(&transport->attrs);
    fy_host_init(&transport->host, engine, name);
    transport->index = engine->n_transports;
    transport->caps.size = sizeof(transport->caps);
    status = fy_loader_transport(engine->loader, name, &transport->plugin);
    if (status == FERRY_ENOENT)
        status = FERRY_ENOTSUP; /* for the application: no such protocol; the text stays */
    if (status)
        goto out;
    transport->ops = &transport->plugin->ops;
    if (transport->ops->probe(&transport->host.pub) == FERRY_EDEVICE) {
        status = fy_fail(FERRY_EDEVICE, "transport %s: not usable on this machine", name);
        goto out;
    }
    status = core_keys(engine, name, &keys);
    if (!status)
        status = transport->ops->open(&transport->host.pub, &keys.kvs, &transport->tp);
    if (status) {
        status = fy_fail(status, "transport %s does not open: %s (the log says more)", name,
                         ferry_strstatus(status));
        goto out;
    }
    status = transport->ops->query(transport->tp, &transport->caps);
    if (!status && !named && (transport->caps.flags & FERRY_CAP_MANUAL))
        status = fy_fail(FERRY_ENOTSUP, "transport %s is used only where it is named", name);
    if (!status)
        status = transport->ops->export_segment(transport->tp, &transport->attrs.sink);
    if (!status)
        status = open_queues(engine, transport);
out:
    fy_kv_fini(&keys);
    if (status) {
        engine->n_lanes -= transport->n_lanes;
        close_one(transport);
        return status;
    }
    *transport_out = transport;
    return FERRY_OK;
}

static ferry_status add(struct ferry_engine *engine, const char *name, bool named)
{
    struct fy_transport *transport = NULL;
    ferry_status status;

    if (engine->n_transports == FY_MAX_TRANSPORTS)
        return fy_fail(FERRY_ERANGE, "more than %d transports", FY_MAX_TRANSPORTS);
    status = open_one(engine, name, named, &transport);
    if (status)
        return status;
    engine->transports[engine->n_transports++] = transport;
    FY_INFO(&engine->log, "transport %s %s opened from %s", name, transport->plugin->version,
            transport->plugin->path);
    return FERRY_OK;
}

static ferry_status add_named(struct ferry_engine *engine, const char *list)
{
    char *names = strdup(list), *save = NULL;
    ferry_status status = names ? FERRY_OK : FERRY_ENOMEM;

    for (char *name = strtok_r(names, ", ", &save); name && !status;
         name = strtok_r(NULL, ", ", &save))
        status = add(engine, name, true);
    free(names);
    if (!status && !engine->n_transports)
        status = fy_fail(FERRY_EINVAL, "protocol \"%s\" names no transport", list);
    return status;
}

/* Lowest latency first, then the widest. Transports that say nothing come last. */
static int by_rank(const void *a, const void *b)
{
    const struct ferry_tp_caps *x = &(*(struct fy_transport *const *)a)->caps;
    const struct ferry_tp_caps *y = &(*(struct fy_transport *const *)b)->caps;
    uint32_t lx = x->latency_ns ? x->latency_ns : UINT32_MAX;
    uint32_t ly = y->latency_ns ? y->latency_ns : UINT32_MAX;

    if (lx != ly)
        return lx < ly ? -1 : 1;
    return x->bandwidth_Bps > y->bandwidth_Bps ? -1 : x->bandwidth_Bps < y->bandwidth_Bps;
}

static ferry_status add_usable(struct ferry_engine *engine)
{
    char **names = fy_loader_transport_names(engine->loader);

    for (char **name = names; name && *name; name++) {
        if (add(engine, *name, false))
            FY_INFO(&engine->log, "%s", ferry_error());
    }
    free(names);
    if (!engine->n_transports)
        return fy_fail(FERRY_ENOTSUP, "no transport is usable here (`ferry plugins` says why)");
    qsort(engine->transports, engine->n_transports, sizeof(engine->transports[0]), by_rank);
    for (unsigned i = 0; i < engine->n_transports; i++)
        engine->transports[i]->index = i;
    return FERRY_OK;
}

ferry_status fy_transports_open(struct ferry_engine *engine)
{
    const char *protocol = engine->config->protocol;

    if (protocol && protocol[0])
        return add_named(engine, protocol);
    engine->feedback = fy_config_bool(engine->config, "feedback", true);
    return add_usable(engine);
}

void fy_transports_close(struct ferry_engine *engine)
{
    while (engine->n_transports)
        close_one(engine->transports[--engine->n_transports]);
    engine->n_lanes = 0;
}
