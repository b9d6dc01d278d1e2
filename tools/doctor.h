/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FERRY_TOOL_DOCTOR_H
#define FERRY_TOOL_DOCTOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cJSON;

enum verdict { IS_OK, IS_WARN, IS_FAIL };

/* What was found, one line a check. */
struct findings {
    struct cJSON *list; /* of {check, verdict, text, remedy} */
    int worst;
};

/* `remedy` "" = none is needed. `fmt` is the text. */
void found(struct findings *findings, const char *check, enum verdict verdict,
           const char *remedy, const char *fmt, ...) __attribute__((format(printf, 5, 6)));

/* What this machine allows, whatever the configuration; doctor_system.c. `pins`: a transport
 * that locks memory may be used. `congestion`: the one configured, or "". */
void doctor_memlock(struct findings *findings, bool pins);
void doctor_io_uring(struct findings *findings);
void doctor_congestion(struct findings *findings, const char *congestion);
void doctor_descriptors(struct findings *findings);
/* Devices, ports, modules, and the transport opened for a moment; doctor_rdma.c. `config` NULL
 * = no file. */
void doctor_rdma(struct findings *findings, const char *config, const char *role);
/* Can it be listened on? `what` names it in the text. */
void doctor_port(struct findings *findings, const char *bind, uint16_t port, const char *what);
/* Seconds that the clock of the server behind a URL is before ours, by HTTP or redis; false =
 * it cannot be known. */
bool doctor_clock(const char *url, double *ahead_s_out);

#endif /* FERRY_TOOL_DOCTOR_H */
