# SPDX-License-Identifier: Apache-2.0
"""Says that there is no store."""

raise ImportError("mooncake.store is not here: this `mooncake` is Ferry's, which has Mooncake's Transfer Engine "
                  "(mooncake.engine) and no store; install Mooncake's own package for the store")
