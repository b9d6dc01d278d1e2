/* SPDX-License-Identifier: Apache-2.0 */
/* The table of points. Numbers are for ever: they stand in guides and in people's scripts. */
#include "points.h"

const struct fc_point fc_points[] = {
    {0, "load", "a descriptor that the core can check before any code of the plugin runs",
     fc_point_load, 0, 10},
    {1, "bytes", "the bytes written and read are equal, at every size and alignment",
     fc_point_bytes, 1, 20},
    {2, "partial-accept",
     "5000 elements at depth 8: a prefix is accepted, then FERRY_EAGAIN; each completes once",
     fc_point_partial, 1, 20},
    {3, "bad-element",
     "a bad element in the middle: those before it complete, it and those after are untouched",
     fc_point_bad_element, 1, 20},
    {4, "access", "range and access violations are refused and spoil nothing else",
     fc_point_access, 1, 20},
    {5, "canaries", "no byte beside a range is touched", fc_point_canaries, 1, 20},
    {6, "size-fields", "nothing is written or read beyond a struct's size", fc_point_sizes, 1,
     20},
    {15, "delivered", "a WRITE reported FERRY_OK is seen by whatever reaches the peer later",
     fc_point_delivered, 1, 20},
};
const size_t fc_n_points = FC_COUNT(fc_points);
