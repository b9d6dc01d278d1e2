# SPDX-License-Identifier: Apache-2.0
"""Says what is not here, at the import of it, for each module of Mooncake's own package."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from typing import Any, NoReturn, Optional

_STORE = ("async_store", "buffer_pool", "cli", "cli_bench", "cli_client", "dataproto_catalog", "mooncake_config",
          "mooncake_ssd_register", "mooncake_ssd_unregister", "mooncake_store_service", "spdk_tgt_create", "store",
          "structured_object_store")
_OTHERS = ("allocator", "ep", "fabric_allocator_utils", "mooncake_connector_v1", "mooncake_elastic_buffer",
           "mooncake_ep_buffer", "pg", "reshard", "shared_segment", "vllm_v1_proxy_server")


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Optional[importlib.machinery.ModuleSpec]:
        package, _, name = fullname.partition(".")
        if package != "mooncake" or name not in _STORE + _OTHERS:
            return None
        return importlib.machinery.ModuleSpec(fullname, self)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> NoReturn:
        text = f"{spec.name} is not here: this `mooncake` is Ferry's, which has Mooncake's Transfer Engine (mooncake.engine)"
        if spec.name.partition(".")[2] in _STORE:
            raise ImportError(f"{text} and no store; install Mooncake's own package for the store", name=spec.name)
        raise ImportError(f"{text} alone", name=spec.name)

    def exec_module(self, module: Any) -> None:
        """Never: there is no module to execute."""


def install() -> None:
    """After Python's own finders, so that a file of that name wins."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
