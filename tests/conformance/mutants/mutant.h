/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MUTANT_H
#define MUTANT_H

#include <pthread.h>
#include <stdbool.h>
#include <string.h>

#include "ferry/transport_plugin.h"

/* The transport that is wrapped, its handles passed on as they are, and the fault chosen by the
 * key "mutant"; set by open. */
extern struct ferry_transport_ops mutant_inner;
extern const struct ferry_host *mutant_host;
extern char mutant_name[64];

static inline bool mutant_is(const char *name)
{
    return strcmp(mutant_name, name) == 0;
}

ferry_status mutant_queue_open(struct ferry_tp *tp, const struct ferry_queue_attr *attr,
                               struct ferry_queue **queue_out);
void mutant_queue_close(struct ferry_queue *queue);
ferry_status mutant_submit(struct ferry_queue *queue, const struct ferry_list *list,
                           uint32_t *accepted_out);
int32_t mutant_poll(struct ferry_queue *queue, struct ferry_comp *comp, uint32_t max);
ferry_status mutant_cancel(struct ferry_queue *queue, uint64_t cookie);
ferry_status mutant_queue_arm(struct ferry_queue *queue);

#endif /* MUTANT_H */
