# SPDX-License-Identifier: Apache-2.0
"""Which network devices are near which memory, in Mooncake's form: what `ferry topo` says."""

from __future__ import annotations

import json
import pathlib
import subprocess
from typing import Optional

from ._tool import ferry_tool

SYS = pathlib.Path("/sys")


def local_topology(device_names: Optional[str] = None, sys: pathlib.Path = SYS) -> str:
    """{"cpu:0": [[near devices], [others]], ...} as text; nothing where there are no devices."""
    tool = ferry_tool()
    if tool is None:
        raise RuntimeError("the command `ferry` is neither in the package nor in PATH")
    wanted = ["--devices", device_names] if device_names else []
    done = subprocess.run([tool, "topo", "--matrix", "--sysfs", str(sys), *wanted], capture_output=True, text=True)
    if done.returncode and "there is no device" in done.stderr:  # as Mooncake has it
        return "{}\n"
    if done.returncode:
        raise ValueError(done.stderr.strip())
    return json.dumps(json.loads(done.stdout), separators=(",", ":")) + "\n"
