/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FY_PATH_MEASURE_H
#define FY_PATH_MEASURE_H

#include "engine.h"

#define FY_MEASURE_TURNS 8 /* one choice in so many thinks of another path */

unsigned fy_size_class(uint64_t bytes);
/* Has it carried enough of these that connecting others is worth while? */
bool fy_path_busy(const struct fy_path *path, uint32_t op, unsigned class);
/* Is `t` clearly faster than `on`, both measured? */
bool fy_path_beats(const struct fy_segment *segment, unsigned t, unsigned on, uint32_t op,
                   uint64_t bytes);
/* Is it `t`'s turn to be tried out? Takes what that costs from the segment's allowance. */
bool fy_path_explore(struct fy_segment *segment, unsigned t, unsigned on, uint32_t op,
                     uint64_t bytes);

#endif /* FY_PATH_MEASURE_H */
