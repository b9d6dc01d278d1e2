# SPDX-License-Identifier: Apache-2.0
"""Stands for lmcache.v1.distributed.internal_api: one class, with the members that are used."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class L1MemoryDesc:
    ptr: int
    size: int
    align_bytes: int
