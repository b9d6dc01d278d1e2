# SPDX-License-Identifier: Apache-2.0
"""Where the command `ferry` is."""

from __future__ import annotations

import os
import shutil
import sys
from typing import List, NoReturn, Optional

import ferry


def ferry_tool() -> Optional[str]:
    """The package's own, or else the one in PATH."""
    own = os.path.join(os.path.dirname(os.path.abspath(ferry.__file__)), "bin", "ferry")
    return own if os.access(own, os.X_OK) else shutil.which("ferry")


def run_ferry(arguments: List[str]) -> NoReturn:
    """Becomes the command."""
    tool = ferry_tool()
    if tool is None:
        sys.exit("the command `ferry` is neither in the package nor in PATH")
    os.execv(tool, ["ferry", *arguments])
