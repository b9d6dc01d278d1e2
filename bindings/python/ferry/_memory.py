# SPDX-License-Identifier: Apache-2.0
"""Memory: what may be registered, and where the local end of a transfer is."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, Any, Optional, Tuple

from . import _ferry
from ._errors import InvalidArgument, OutOfMemory

if TYPE_CHECKING:
    from ._engine import Engine

REMOTE_READ = 2
REMOTE_WRITE = 4


def range_of(obj: Any) -> Tuple[int, int, bool, Any]:
    """(address, bytes, read-only, what holds it in place) of a buffer object, a NumPy array or
    a tensor."""
    if isinstance(obj, Memory):
        return obj.addr, obj.nbytes, False, obj
    data_ptr = getattr(obj, "data_ptr", None)
    if callable(data_ptr):
        contiguous = getattr(obj, "is_contiguous", None)
        if callable(contiguous) and not contiguous():
            raise InvalidArgument("the tensor is not contiguous")
        nbytes = getattr(obj, "nbytes", None)
        if callable(nbytes):
            nbytes = nbytes()
        if nbytes is None:
            nbytes = obj.numel() * obj.element_size()
        return int(data_ptr()), int(nbytes), False, obj
    pin = _ferry.Pin(obj)
    addr, nbytes, readonly = pin.range()
    return addr, nbytes, readonly, pin


class Memory:
    """Registered memory, made by `Engine.register` and `Engine.alloc`.

    As a context manager it is unregistered at the end of the block. Until then the object it
    came from is kept alive and in place.
    """

    def __init__(self, engine: "Engine", addr: int, nbytes: int, access: int, location: Optional[str],
                 owner: Any, pin: Any) -> None:
        self._engine = engine
        self._owner = owner
        self._pin = pin
        self.addr = addr
        self.nbytes = nbytes
        self.access = access
        self.location = location

    def __len__(self) -> int:
        return self.nbytes

    def __repr__(self) -> str:
        state = "" if self._engine is not None else ", unregistered"
        return f"<ferry.Memory 0x{self.addr:x}+{self.nbytes}{state}>"

    @property
    def owner(self) -> Any:
        """The object that was registered; None for a bare address."""
        return self._owner

    @property
    def view(self) -> memoryview:
        """The bytes. Slices of it name parts of the memory in transfers."""
        if self._owner is None:
            raise InvalidArgument("memory that was registered by its address has no view")
        return memoryview(self._owner).cast("B")

    def at(self, offset: int) -> int:
        """The address `offset` bytes into it."""
        if not 0 <= offset <= self.nbytes:
            raise InvalidArgument(f"offset {offset} is not within {self.nbytes} bytes")
        return self.addr + offset

    def unregister(self) -> None:
        """Blocks until no transfer, local or remote, touches it any more. Again: nothing."""
        engine = self._engine
        if engine is not None:
            engine._unregister([self])

    def _forget(self) -> None:
        self._engine = None  # type: ignore[assignment]
        pin, self._pin = self._pin, None
        if isinstance(pin, _ferry.Pin):
            pin.release()

    def __enter__(self) -> "Memory":
        return self

    def __exit__(self, *exc: object) -> None:
        self.unregister()


HUGE = 2 << 20


def whole_pages(nbytes: int) -> int:
    unit = HUGE if nbytes >= HUGE else mmap.PAGESIZE
    return (nbytes + unit - 1) // unit * unit


def new_pages(nbytes: int, memfd: int = -1) -> mmap.mmap:
    """Zeroed memory that lives as long as somebody looks at it; huge pages where there are."""
    kind = mmap.MAP_SHARED if memfd >= 0 else mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    try:
        pages = mmap.mmap(memfd, nbytes, flags=kind)
    except OSError as error:
        raise OutOfMemory(f"{nbytes} bytes: {error.strerror}") from None
    if nbytes >= HUGE and hasattr(mmap, "MADV_HUGEPAGE"):
        try:
            pages.madvise(mmap.MADV_HUGEPAGE)
        except OSError:
            pass  # a kernel without them
    return pages
