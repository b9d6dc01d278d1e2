# SPDX-License-Identifier: Apache-2.0
"""The command `ferry` of the wheel: the program that lies in the package."""

import os
import sys
from typing import NoReturn

PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "bin", "ferry")


def main() -> NoReturn:
    """Becomes the program."""
    if not os.access(PROGRAM, os.X_OK):
        sys.exit(f"{PROGRAM} is not there: this package came without the command")
    os.execv(PROGRAM, ["ferry", *sys.argv[1:]])
