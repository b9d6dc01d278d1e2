# SPDX-License-Identifier: Apache-2.0
"""transfer_engine_topology_dump: prints which network devices are near which memory."""

from __future__ import annotations

import argparse
import os
from typing import List, Optional

from .engine import TransferEngine


def main(arguments: Optional[List[str]] = None) -> None:
    """Prints one line."""
    parser = argparse.ArgumentParser(prog="transfer_engine_topology_dump", description=__doc__)
    parser.add_argument("--device-name", default="", help="only these devices, with commas between")
    parser.add_argument("--backend", choices=("auto", "te", "tent"), default="auto", help="there is one only")
    parser.add_argument("--use-custom-topo", action="store_true", help="keep MC_CUSTOM_TOPO_JSON, which is ignored else")
    parser.add_argument("--custom-topo-json", help="show this file instead of what is found")
    options = parser.parse_args(arguments)
    if options.custom_topo_json:
        os.environ["MC_CUSTOM_TOPO_JSON"] = options.custom_topo_json
    elif not options.use_custom_topo:
        os.environ.pop("MC_CUSTOM_TOPO_JSON", None)
    topology = TransferEngine().get_local_topology(options.device_name or None)
    print(f"Local topology [{options.device_name or 'all devices'}]: {topology.strip()}")


if __name__ == "__main__":
    main()
