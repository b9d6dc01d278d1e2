# SPDX-License-Identifier: Apache-2.0
"""asyncio: an engine's event descriptor in a loop's selector, and batches as awaitables."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Tuple

from ._errors import Error

if TYPE_CHECKING:
    import asyncio

    from . import _ferry
    from ._engine import Batch


def _running_loop() -> Optional["asyncio.AbstractEventLoop"]:
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return None
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


class Reaper:
    """Which loops wait for which batch. Several loops, in several threads, may share an engine, and
    several tasks a batch: the library names each batch once, to whoever asks first, who passes it on."""

    def __init__(self, core: "_ferry.Engine") -> None:
        self._core = core
        self._lock = threading.Lock()
        self._fd: Optional[int] = None
        self._waiting: Dict[int, List[Tuple[Any, Any]]] = {}
        self._loops: Dict[Any, int] = {}

    def prepare(self) -> bool:
        """Before a submission: whether the batch will show on the descriptor. Programs without
        asyncio never pay for it."""
        if self._fd is None and _running_loop() is not None:
            self._fd = self._core.fd()
        return self._fd is not None

    async def wait(self, batch: "Batch") -> None:
        """Returns when the batch has ended. Cancelled: it cancels the batch."""
        loop = _running_loop()
        assert loop is not None
        handle = batch._live()
        try:
            if not batch._is_counted:  # submitted outside of any loop
                await loop.run_in_executor(None, self._core.batch_wait, handle, 2**32 - 1)
                return
            future = loop.create_future()
            self._add(loop, handle, future)
            try:
                if batch.poll().ended:  # before we were listed, perhaps
                    return
                await future
            finally:
                self._remove(loop, handle, future)
        except BaseException as error:
            import asyncio
            if isinstance(error, asyncio.CancelledError):
                try:
                    self._core.batch_cancel(handle, 0)
                except Error:
                    pass  # closed meanwhile, which ends it as well
            raise

    def _add(self, loop: Any, handle: int, future: Any) -> None:
        with self._lock:
            self._waiting.setdefault(handle, []).append((loop, future))
            self._loops[loop] = self._loops.get(loop, 0) + 1
            is_first = self._loops[loop] == 1
        if is_first:
            loop.add_reader(self._fd, self._on_ready)

    def _remove(self, loop: Any, handle: int, future: Any) -> None:
        with self._lock:
            self._waiting[handle].remove((loop, future))
            if not self._waiting[handle]:
                del self._waiting[handle]
            self._loops[loop] -= 1
            is_last = not self._loops[loop]
            if is_last:
                del self._loops[loop]
        if is_last:
            loop.remove_reader(self._fd)

    def _on_ready(self) -> None:
        for handle in self._core.reap():
            with self._lock:
                waiting = list(self._waiting.get(handle, ()))
            _wake(waiting)

    def close(self) -> None:
        """After the engine is closed: everybody looks, and finds it so."""
        with self._lock:
            waiting = [one for several in self._waiting.values() for one in several]
        _wake(waiting)


def _wake(waiting: List[Tuple[Any, Any]]) -> None:
    for loop, future in waiting:
        try:
            loop.call_soon_threadsafe(_resolve, future)
        except RuntimeError:
            pass  # that loop is closed


def _resolve(future: Any) -> None:
    if not future.done():
        future.set_result(None)
