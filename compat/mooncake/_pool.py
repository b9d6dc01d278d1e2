# SPDX-License-Identifier: Apache-2.0
"""Managed buffers: registered memory by size classes, 8 KiB to 256 MiB; larger ones alone."""

from __future__ import annotations

import threading
from typing import Dict, List, Tuple

import ferry

SMALLEST, LARGEST = 8 << 10, 256 << 20
CHUNK = 4 << 20  # what small buffers are cut from


def class_of(length: int) -> int:
    return max(SMALLEST, 1 << (length - 1).bit_length())


class Pool:
    """Blocks that are given back are kept for the next of their class, as their registration is."""

    def __init__(self, engine: ferry.Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._free: Dict[int, List[int]] = {}
        self._used: Dict[int, Tuple[int, ferry.Memory]] = {}
        self._home: Dict[int, ferry.Memory] = {}

    def allocate(self, length: int) -> int:
        """The address. Raises ferry.Error where there is no more."""
        if length > LARGEST:
            memory = self._engine.alloc(length)
            with self._lock:
                self._used[memory.addr] = (0, memory)
            return memory.addr
        size = class_of(length)
        with self._lock:
            blocks = self._free.setdefault(size, [])
            if not blocks:
                memory = self._engine.alloc(max(size, CHUNK))
                for addr in range(memory.addr, memory.addr + max(size, CHUNK), size):
                    self._home[addr] = memory
                    blocks.append(addr)
            addr = blocks.pop()
            self._used[addr] = (size, self._home[addr])
            return addr

    def free(self, addr: int) -> bool:
        """False: not one of these, or given back before."""
        with self._lock:
            size, memory = self._used.pop(addr, (0, None))
            if memory is None:
                return False
            if size:
                self._free[size].append(addr)
                return True
        memory.unregister()
        return True
