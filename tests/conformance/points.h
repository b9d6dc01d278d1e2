/* SPDX-License-Identifier: Apache-2.0 */
#ifndef POINTS_H
#define POINTS_H

#include "suite.h"

/* One function a point; the table in points.c says what each expects. */
void fc_point_load(struct fc_ctx *ctx);
void fc_point_bytes(struct fc_ctx *ctx);
void fc_point_partial(struct fc_ctx *ctx);
void fc_point_bad_element(struct fc_ctx *ctx);
void fc_point_access(struct fc_ctx *ctx);
void fc_point_canaries(struct fc_ctx *ctx);
void fc_point_sizes(struct fc_ctx *ctx);
void fc_point_two_queues(struct fc_ctx *ctx);
void fc_point_arm(struct fc_ctx *ctx);
void fc_point_cancel(struct fc_ctx *ctx);
void fc_point_killed(struct fc_ctx *ctx);
void fc_point_close_in_flight(struct fc_ctx *ctx);
void fc_point_unknown_key(struct fc_ctx *ctx);
void fc_point_open_close(struct fc_ctx *ctx);
void fc_point_memory_kinds(struct fc_ctx *ctx);
void fc_point_delivered(struct fc_ctx *ctx);
void fc_point_stopped(struct fc_ctx *ctx);
void fc_point_denied(struct fc_ctx *ctx);
void fc_point_churn(struct fc_ctx *ctx);
void fc_point_allocations(struct fc_ctx *ctx);

#endif /* POINTS_H */
