# SPDX-License-Identifier: Apache-2.0
"""Which network devices are near which memory, from sysfs, in Mooncake's form."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Dict, List, Optional

SYS = pathlib.Path("/sys")


def _node_of(device: pathlib.Path) -> int:
    try:
        return max(int((device / "device/numa_node").read_text()), 0)
    except (OSError, ValueError):
        return 0


def local_topology(device_names: Optional[str] = None, sys: pathlib.Path = SYS) -> str:
    """{"cpu:0": [[near devices], [others]], ...} as text; nothing where there are no devices."""
    custom = os.environ.get("MC_CUSTOM_TOPO_JSON")
    if custom:
        return json.dumps(json.loads(pathlib.Path(custom).read_text()), separators=(",", ":")) + "\n"
    wanted = [name.strip() for name in (device_names or "").split(",") if name.strip()]
    devices = sorted(sys.glob("class/infiniband/*"))
    nodes = {device.name: _node_of(device) for device in devices if not wanted or device.name in wanted}
    numbers = sorted(int(path.name[4:]) for path in sys.glob("devices/system/node/node[0-9]*")) or [0]
    matrix: Dict[str, List[List[str]]] = {}
    if nodes:
        for number in numbers:
            matrix[f"cpu:{number}"] = [[name for name, node in nodes.items() if node == number],
                                       [name for name, node in nodes.items() if node != number]]
    return json.dumps(matrix, separators=(",", ":")) + "\n"
