# SPDX-License-Identifier: Apache-2.0
"""Engines, segments and batches."""

from __future__ import annotations

import atexit
import json
import logging
import os
import sys
import threading
import warnings
import weakref
from numbers import Integral
from typing import (Any, Awaitable, Callable, Dict, Generator, Iterable, List, Mapping, NamedTuple, Optional, Sequence,
                    Tuple, Union)

from . import _ferry
from ._aio import Reaper
from ._errors import InvalidArgument, NotReady, PeerRestarted, make_error
from ._memory import REMOTE_READ, REMOTE_WRITE, Memory, new_pages, range_of, whole_pages

READ = 0
WRITE = 1
FOREVER_MS = 2**32 - 1
DEFAULT_CONNECT = 10.0

Numbers = Union[int, Sequence[int], memoryview, Any]
Notify = Tuple[str, Union[str, bytes]]

_log = logging.getLogger("ferry")
_log.addHandler(logging.NullHandler())
_LEVELS = (logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG, 5)
_engines: "weakref.WeakSet[Engine]" = weakref.WeakSet()


def _ms(timeout: Optional[float]) -> int:
    """Milliseconds of a wait; None is for ever. Never cut down to "do not wait"."""
    if timeout is None:
        return FOREVER_MS
    if timeout < 0:
        raise InvalidArgument(f"timeout {timeout}: seconds, 0 or more, or None")
    return min(int(-(-timeout * 1000 // 1)), FOREVER_MS - 1)


def _limit_ms(timeout: Optional[float]) -> int:
    """Milliseconds of a batch's time limit; None is the engine's."""
    return 0 if timeout is None else max(_ms(timeout), 1)


def _bytes(data: Union[str, bytes, bytearray, memoryview]) -> bytes:
    return data.encode() if isinstance(data, str) else bytes(data)


class Buffer(NamedTuple):
    """A buffer of a peer: where it is in the peer, and what may be done to it."""

    addr: int
    nbytes: int
    access: int
    location: str


class Request(NamedTuple):
    """One READ or WRITE, for `Engine.submit`."""

    op: int
    segment: "Segment"
    local: Any
    remote: int
    nbytes: Optional[int] = None


class BatchStatus(NamedTuple):
    """How far a batch is. It has ended when done + failed == total."""

    ended: bool
    total: int
    done: int
    failed: int
    nbytes: int
    first_error: int


class RequestStatus(NamedTuple):
    """One request of a batch; `error` is None unless it failed."""

    pending: bool
    error: Optional[Exception]
    transport: str
    rail: str


class Notification(NamedTuple):
    """A small message; `sender` is "" where the sender is not a Ferry node."""

    sender: str
    name: str
    data: bytes


def _local(obj: Any, nbytes: Optional[int], op: int) -> Tuple[int, int]:
    if isinstance(obj, Integral):  # NumPy's among them, which are buffers too
        if nbytes is None:
            raise InvalidArgument("an address needs a length")
        return int(obj), nbytes
    addr, has, readonly, pin = range_of(obj)
    if nbytes is not None and nbytes > has:
        raise InvalidArgument(f"{nbytes} bytes of a buffer of {has}")
    if readonly and op == READ:
        raise InvalidArgument("the buffer is read-only")
    del pin  # it is registered, which keeps it in place, or the call is refused
    return addr, has if nbytes is None else nbytes


def _locals(objs: Any, op: int) -> Any:
    """Addresses of many local ends, as they are where they are integers already."""
    if isinstance(objs, (list, tuple)) and objs and not isinstance(objs[0], Integral):
        return [obj if isinstance(obj, Integral) else _local(obj, None, op)[0] for obj in objs]
    if isinstance(objs, (Memory, bytearray)) or callable(getattr(objs, "data_ptr", None)):
        return _local(objs, None, op)[0]
    return objs


class Batch:
    """Requests submitted together. Wait for it, or `await` it.

    Freed with the object; one that is dropped while under way is cancelled.
    """

    def __init__(self, engine: "Engine", handle: int, what: str, is_counted: bool) -> None:
        self._engine = engine
        self._handle = handle
        self._what = what
        self._is_counted = is_counted
        self._status: Optional[BatchStatus] = None

    def __repr__(self) -> str:
        return f"<ferry.Batch {self._what}{' (freed)' if not self._handle else ''}>"

    def _live(self) -> int:
        if not self._handle:
            raise InvalidArgument("the batch is freed")
        return self._handle

    def poll(self) -> BatchStatus:
        """How far it is, at once."""
        if self._status is None:
            status = BatchStatus(*self._engine._core.batch_poll(self._live()))
            if not status.ended:
                return status
            self._status = status
        return self._status

    def wait(self, timeout: Optional[float] = None) -> BatchStatus:
        """Blocks until it has ended; raises the first error of its requests, or NotReady when
        `timeout` seconds are over. It ends at its own time limit in any case."""
        if self._status is None:
            status = BatchStatus(*self._engine._core.batch_wait(self._live(), _ms(timeout)))
            if not status.ended:
                raise NotReady(f"{self._what}: {status.done + status.failed} of {status.total} requests ended")
            self._status = status
        return self._result(self._status)

    def _result(self, status: BatchStatus) -> BatchStatus:
        if status.first_error:
            why = _ferry.strstatus(status.first_error)
            delivered = status.done == status.total
            error = make_error(status.first_error, f"{self._what}: data delivered, notification not: {why}" if delivered
                               else f"{self._what}: {status.failed} of {status.total} requests failed, the first: {why}")
            error.delivered = delivered and not isinstance(error, PeerRestarted)
            raise error
        return status

    def request(self, index: int) -> RequestStatus:
        """One request, with what carried it."""
        status, transport, rail = self._engine._core.batch_request(self._live(), index)
        pending = status == -1
        error = make_error(status, f"request {index} of {self._what}") if status and not pending else None
        return RequestStatus(pending, error, transport, rail)

    def cancel(self, timeout: Optional[float] = None) -> bool:
        """Ends what is unfinished. True: it has ended, and no byte of it moves any more."""
        return self._engine._core.batch_cancel(self._live(), _ms(timeout))

    def free(self) -> None:
        """Cancels what is left and forgets the batch. Again: nothing."""
        handle, self._handle = self._handle, 0
        if handle:
            self._engine._core.batch_free(handle)

    def __enter__(self) -> "Batch":
        return self

    def __exit__(self, *exc: object) -> None:
        self.free()

    def __del__(self) -> None:
        if getattr(self, "_handle", 0):
            self.free()

    def __await__(self) -> Generator[Any, None, BatchStatus]:
        return self._finish().__await__()

    async def _finish(self) -> BatchStatus:
        if not self.poll().ended:
            await self._engine._reaper.wait(self)
        return self._result(self.poll())


class Segment:
    """A peer's memory, by name, from `Engine.open`.

    The local ends of transfers are slices of registered buffer objects, NumPy arrays and tensors,
    or addresses; the remote ends are addresses in the peer.
    """

    def __init__(self, engine: "Engine", handle: int, name: str) -> None:
        self._engine = engine
        self._handle = handle
        self.name = name

    def __repr__(self) -> str:
        return f"<ferry.Segment {self.name}{' (closed)' if not self._handle else ''}>"

    def _live(self) -> int:
        if not self._handle:
            raise InvalidArgument(f"segment {self.name} is closed")
        return self._handle

    def buffers(self) -> List[Buffer]:
        """What the peer registered, in that order, as last read."""
        return [Buffer(*item) for item in self._engine._core.segment_buffers(self._live())]

    def refresh(self, timeout: float = DEFAULT_CONNECT) -> None:
        """Reads the peer's document again."""
        self._engine._core.segment_refresh(self._live(), _ms(timeout))

    def probe(self, timeout: float = DEFAULT_CONNECT) -> None:
        """One round trip to the peer; raises a PeerError if it does not answer."""
        self._engine._core.segment_probe(self._live(), _ms(timeout))

    def notify(self, name: str, data: Union[str, bytes] = b"", timeout: float = DEFAULT_CONNECT) -> None:
        """Blocks until the peer has queued the message, once."""
        self._engine._core.notify(self._live(), name, _bytes(data), _ms(timeout))

    def read(self, local: Any, remote: Numbers, nbytes: Optional[Numbers] = None, *, timeout: Optional[float] = None,
             protocol: Optional[str] = None, notify: Optional[Notify] = None, priority: int = 0) -> None:
        """Peer's memory to ours; returns when it is here. One transfer, or many: then `local`,
        `remote` and `nbytes` are sequences or buffers of 64-bit integers. Signal handlers run
        when it has ended."""
        self._engine._transfer(READ, self._live(), local, remote, nbytes, timeout, protocol, notify, priority)

    def write(self, local: Any, remote: Numbers, nbytes: Optional[Numbers] = None, *, timeout: Optional[float] = None,
              protocol: Optional[str] = None, notify: Optional[Notify] = None, priority: int = 0) -> None:
        """Our memory to the peer's; returns when it is there. Otherwise as `read`."""
        self._engine._transfer(WRITE, self._live(), local, remote, nbytes, timeout, protocol, notify, priority)

    def start_read(self, local: Any, remote: Numbers, nbytes: Optional[Numbers] = None, *,
                   timeout: Optional[float] = None, protocol: Optional[str] = None, notify: Optional[Notify] = None,
                   priority: int = 0) -> Batch:
        """As `read`, without waiting."""
        return self._engine._start(READ, self._live(), local, remote, nbytes, timeout, protocol, notify, priority,
                                   f"READ from {self.name}")

    def start_write(self, local: Any, remote: Numbers, nbytes: Optional[Numbers] = None, *,
                    timeout: Optional[float] = None, protocol: Optional[str] = None, notify: Optional[Notify] = None,
                    priority: int = 0) -> Batch:
        """As `write`, without waiting."""
        return self._engine._start(WRITE, self._live(), local, remote, nbytes, timeout, protocol, notify, priority,
                                   f"WRITE to {self.name}")

    def close(self) -> None:
        """Batches under way keep what they need. Again: nothing."""
        handle, self._handle = self._handle, 0
        if handle and not self._engine.closed:
            self._engine._core.segment_close(handle)

    def __enter__(self) -> "Segment":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Engine:
    """Moves registered memory to and from peers.

    >>> with Engine("127.0.0.1") as engine:
    ...     memory = engine.register(bytearray(1 << 20))
    ...     with engine.open("127.0.0.1:15001") as peer:
    ...         peer.write(memory.view[:4096], peer.buffers()[0].addr)

    name             "host:port" that peers use; without a port, any
    bind             address to listen on; None is every address
    metadata_server  URL; None is "P2PHANDSHAKE", no server
    protocol         "tcp", or several in order of preference; None is by what both ends can
    device_name      network devices, with commas between; None is all; for transports that choose among them
    config           a mapping or JSON text, as the member "ferry" of mooncake.json
    log              called with (level of logging, text); None is the logger "ferry"
    log_level        a level of logging; None is the logger's

    Any thread may call anything. The interpreter's lock is free while a call waits.
    """

    def __init__(self, name: Optional[str] = None, *, bind: Optional[str] = None,
                 metadata_server: Optional[str] = None, protocol: Optional[str] = None,
                 device_name: Optional[str] = None, config: Union[Mapping[str, Any], str, None] = None,
                 log: Optional[Callable[[int, str], None]] = None, log_level: Optional[int] = None) -> None:
        self._open(False, None, None, name, bind, metadata_server, protocol, device_name, config, log, log_level)

    @classmethod
    def from_file(cls, path: Optional[str] = None, role: Optional[str] = None, *, name: Optional[str] = None,
                  bind: Optional[str] = None, metadata_server: Optional[str] = None, protocol: Optional[str] = None,
                  device_name: Optional[str] = None, config: Union[Mapping[str, Any], str, None] = None,
                  log: Optional[Callable[[int, str], None]] = None, log_level: Optional[int] = None) -> "Engine":
        """From mooncake.json or its like in YAML; None is the file that MOONCAKE_CONFIG_PATH names.
        `role` is "prefill" or "decode". The other arguments win over the file."""
        self = cls.__new__(cls)
        self._open(True, path, role, name, bind, metadata_server, protocol, device_name, config, log, log_level)
        return self

    def _open(self, is_file: bool, path: Optional[str], role: Optional[str], name: Optional[str],
              bind: Optional[str], metadata_server: Optional[str], protocol: Optional[str],
              device_name: Optional[str], config: Union[Mapping[str, Any], str, None],
              log: Optional[Callable[[int, str], None]], log_level: Optional[int]) -> None:
        core = _ferry.Engine()
        if config is not None and not isinstance(config, str):
            config = json.dumps(config)
        if log_level is None:
            log_level = logging.INFO if log is not None else _log.getEffectiveLevel()
        level = next((i for i, limit in enumerate(_LEVELS) if limit <= log_level), 4)
        self._core = core
        self._closed = True
        self._lock = threading.Lock()
        self._memory: Dict[int, Memory] = {}
        self._reaper = Reaper(core)
        self._log_thread = threading.Thread(target=_pump_log, args=(core, log), name="ferry-log", daemon=True)
        self._log_thread.start()
        try:
            core.open(is_file, path, role, name, bind, metadata_server, protocol, device_name, config, max(level, 1),
                      True)
        except BaseException:
            core.close(0)
            self._log_thread.join()
            raise
        self._closed = False
        self._name = core.name()
        _engines.add(self)

    def __repr__(self) -> str:
        return f"<ferry.Engine {self._name}{' (closed)' if self._closed else ''}>"

    @property
    def name(self) -> str:
        """"host:port" as published, the port as bound."""
        return self._name

    @property
    def port(self) -> int:
        """Where our control channel listens."""
        return int(self.describe("config")["control_port"])

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def close(self, timeout: float = 0) -> None:
        """Gives batches `timeout` seconds to end by themselves, cancels the rest, leaves the
        metadata server and lets go of all memory. Blocking transfers of other threads end first.
        Again: nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._core.close(_ms(timeout))
        with self._lock:
            memory, self._memory = self._memory, {}
        for item in memory.values():
            item._forget()
        self._reaper.close()
        if threading.current_thread() is not self._log_thread:
            self._log_thread.join()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self)
            self.close()

    # -- memory

    def register(self, obj: Any, nbytes: Optional[int] = None, *, access: int = REMOTE_READ | REMOTE_WRITE,
                 location: Optional[str] = None) -> Memory:
        """Makes memory known to peers: a buffer object, NumPy array or tensor, or an address with
        its length, which the caller keeps mapped. `access` says what peers may do; 0 is nothing."""
        return self.register_all([(obj, nbytes)] if nbytes is not None else [obj], access=access,
                                 location=location)[0]

    def register_all(self, objs: Iterable[Any], *, access: int = REMOTE_READ | REMOTE_WRITE,
                     location: Optional[str] = None) -> List[Memory]:
        """All or none, published once. Addresses are given as (address, length)."""
        return self._register(objs, access, location)

    def _register(self, objs: Iterable[Any], access: int, location: Optional[str], memfd: int = -1) -> List[Memory]:
        made = []
        for obj in objs:
            nbytes = None
            if isinstance(obj, tuple):
                obj, nbytes = obj
            if isinstance(obj, Integral):
                if nbytes is None:
                    raise InvalidArgument("an address needs a length")
                made.append(Memory(self, int(obj), nbytes, access, location, None, None))
                continue
            addr, has, readonly, pin = range_of(obj)
            if nbytes is not None and nbytes > has:
                raise InvalidArgument(f"{nbytes} bytes of a buffer of {has}")
            if readonly and access & REMOTE_WRITE:
                raise InvalidArgument("a read-only buffer cannot be given REMOTE_WRITE")
            made.append(Memory(self, addr, has if nbytes is None else nbytes, access, location, obj, pin))
        self._core.register([item.addr for item in made], [item.nbytes for item in made], access, location,
                            memfd)
        with self._lock:
            self._memory.update((item.addr, item) for item in made)
        return made

    def alloc(self, nbytes: int, *, access: int = REMOTE_READ | REMOTE_WRITE) -> Memory:
        """Zeroed memory, registered; huge pages where there are. It stays mapped as long as the
        Memory or a view of it lives. Peers of this host can map it too, where the engine has a
        transport for that; a child that forks shares it then."""
        if nbytes <= 0:
            raise InvalidArgument(f"{nbytes} bytes")
        size = whole_pages(nbytes)
        memfd = self._core.memory_fd(size)
        try:
            return self._register([(new_pages(size, memfd), nbytes)], access, None, memfd)[0]
        finally:
            if memfd >= 0:
                os.close(memfd)

    def _unregister(self, items: Sequence[Memory]) -> None:
        self._core.unregister([item.addr for item in items])
        with self._lock:
            for item in items:
                self._memory.pop(item.addr, None)
        for item in items:
            item._forget()

    def unregister_all(self, items: Sequence[Memory]) -> None:
        """As `Memory.unregister`, published once."""
        self._unregister(items)

    # -- peers

    def open(self, name: str, timeout: float = DEFAULT_CONNECT) -> Segment:
        """A peer's memory, by the peer's name."""
        return Segment(self, self._core.segment_open(name, _ms(timeout)), name)

    def submit(self, requests: Iterable[Request], *, timeout: Optional[float] = None, protocol: Optional[str] = None,
               notify: Optional[Notify] = None, priority: int = 0) -> Batch:
        """Starts requests to any peers, both ways, as one batch."""
        rows = [(r.op, r.segment._live(), *_local(r.local, r.nbytes, r.op), r.remote)
                for r in (r if isinstance(r, Request) else Request(*r) for r in requests)]
        ops, segments, addrs, lens, remotes = (list(column) for column in zip(*rows)) if rows else ([], [], [], [], [])
        return self._submit(ops, segments, addrs, remotes, lens, timeout, protocol, notify, priority,
                            f"batch of {len(rows)}")

    def notification(self, timeout: Optional[float] = 0) -> Optional[Notification]:
        """The oldest message that is not read yet; None if there was none in that time."""
        item = self._core.notification(_ms(timeout))
        return None if item is None else Notification(*item)

    def describe(self, what: str) -> Any:
        """"statistics", "links", "plugins", "segment" or "config", as Python objects."""
        return json.loads(self._core.describe(what))

    # -- transfers

    @staticmethod
    def _ends(op: int, local: Any, remote: Numbers, nbytes: Optional[Numbers]) -> Tuple[Any, Any, Any]:
        if isinstance(remote, Integral) and (nbytes is None or isinstance(nbytes, Integral)):
            addr, length = _local(local, None if nbytes is None else int(nbytes), op)
            return addr, remote, length
        if nbytes is None:
            ranges = [_local(obj, None, op) for obj in local]
            return [addr for addr, _ in ranges], remote, [length for _, length in ranges]
        return _locals(local, op), remote, nbytes

    def _transfer(self, op: int, segment: int, local: Any, remote: Numbers, nbytes: Optional[Numbers],
                  timeout: Optional[float], protocol: Optional[str], notify: Optional[Notify], priority: int) -> None:
        name, data = (notify[0], _bytes(notify[1])) if notify else (None, None)
        self._core.transfer(op, segment, *self._ends(op, local, remote, nbytes), _limit_ms(timeout), priority,
                            protocol, name, data)

    def _start(self, op: int, segment: int, local: Any, remote: Numbers, nbytes: Optional[Numbers],
               timeout: Optional[float], protocol: Optional[str], notify: Optional[Notify], priority: int,
               what: str) -> Batch:
        return self._submit(op, segment, *self._ends(op, local, remote, nbytes), timeout, protocol, notify, priority,
                            what)

    def _submit(self, op: Any, segment: Any, local: Any, remote: Any, nbytes: Any, timeout: Optional[float],
                protocol: Optional[str], notify: Optional[Notify], priority: int, what: str) -> Batch:
        name, data = (notify[0], _bytes(notify[1])) if notify else (None, None)
        is_counted = self._reaper.prepare()
        handle = self._core.submit(op, segment, local, remote, nbytes, _limit_ms(timeout), priority, protocol, name,
                                   data)
        return Batch(self, handle, what, is_counted)


def _pump_log(core: "_ferry.Engine", log: Optional[Callable[[int, str], None]]) -> None:
    """One thread an engine: blocked in the extension until there is a line."""
    write = _log.log if log is None else log
    while True:
        line = core.next_log()
        if line is None:
            return
        level, text, lost = line
        try:
            if lost:
                write(logging.WARNING, f"{lost} lines were lost")
            write(_LEVELS[min(max(level, 0), len(_LEVELS) - 1)], text)
        except Exception:  # a caller's mistake ends no engine
            sys.excepthook(*sys.exc_info())


@atexit.register
def _close_all() -> None:
    for engine in list(_engines):
        engine.close()
