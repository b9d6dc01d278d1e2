# SPDX-License-Identifier: Apache-2.0
"""Installs what the tests of this folder take from PyPI, while there is a network."""

import interop

interop.environments()
interop.environment(interop.VERSIONS[0], "aiohttp")
