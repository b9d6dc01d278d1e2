# SPDX-License-Identifier: Apache-2.0
"""Mooncake's Transfer Engine API on Ferry.

This is not Mooncake: programs written for `mooncake.engine` run on it unchanged. The parts of
Mooncake that are no Transfer Engine (mooncake.store and what needs it) are not here.
"""

from . import _elsewhere

_elsewhere.install()
