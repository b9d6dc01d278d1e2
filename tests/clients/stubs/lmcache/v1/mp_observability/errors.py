# SPDX-License-Identifier: Apache-2.0
"""Stands for lmcache.v1.mp_observability.errors."""


class LMCacheTimeoutError(TimeoutError):
    """Without its report to LMCache's observers."""
