# SPDX-License-Identifier: Apache-2.0
"""Mooncake's Python API of its Transfer Engine, on Ferry.

Results are Mooncake's: 0 or a negative number, a batch's number or 0, never an exception except
for arguments of a wrong type. What went wrong is logged (logger "mooncake.engine").
"""

from __future__ import annotations

import collections
import enum
import itertools
import logging
import os
import threading
from typing import Any, Callable, Deque, Dict, List, Optional, Sequence, Tuple, Union

import ferry
from ferry import _ferry

from . import _topology
from ._pool import Pool

SUPPORT_CUDA = False
SUPPORT_EFA = False
SUPPORT_HIP = False
SUPPORT_INTRA_NVLINK = False
SUPPORT_MNNVL = False
SUPPORT_MUSA = False

_log = logging.getLogger("mooncake.engine")
_LEVELS = {"TRACE": 5, "INFO": logging.INFO, "WARNING": logging.WARNING, "ERROR": logging.ERROR}
if os.environ.get("MC_LOG_LEVEL") in _LEVELS:
    _log.setLevel(_LEVELS[os.environ["MC_LOG_LEVEL"]])
_OPEN_S = 10.0
_TIMED_OUT = -43  # FERRY_ETIMEDOUT
_KEPT_ENDS = 4096  # batches that timed out can be asked for again, so many of them


class TransferOpcode(enum.IntEnum):
    """READ moves the peer's memory here, WRITE ours there."""

    Read = 0
    Write = 1
    READ = 0
    WRITE = 1


Read = READ = TransferOpcode.Read
Write = WRITE = TransferOpcode.Write


class TransferNotify:
    """A message that is delivered after the data of a transfer."""

    def __init__(self, name: str = "", msg: str = "") -> None:
        self.name = name
        self.msg = msg

    def __repr__(self) -> str:
        return f"TransferNotify({self.name!r}, {self.msg!r})"


class InnerTransferEngine:
    """What `TransferEngine.get_engine` gives: something to hold, for programs that pass it on."""

    def __init__(self, engine: ferry.Engine) -> None:
        self._engine = engine


def _text(value: Any, name: str) -> str:
    if isinstance(value, bytes):
        return value.decode()
    if not isinstance(value, str):
        raise TypeError(f"{name}: text is wanted, not {type(value).__name__}")
    return value


def _number(value: Any, name: str) -> int:
    """As a C++ size: any integer from 0 to 2**64-1."""
    index = getattr(type(value), "__index__", None)
    if index is None:
        raise TypeError(f"{name}: an integer is wanted, not {type(value).__name__}")
    number = index(value)
    if not 0 <= number < 1 << 64:
        raise TypeError(f"{name}: {number} is not in 0 to 2**64-1")
    return number


def _list(value: Any, name: str) -> Any:
    if not isinstance(value, (list, tuple)) and (isinstance(value, (str, bytes)) or not hasattr(value, "__getitem__")):
        raise TypeError(f"{name}: a sequence of integers is wanted, not {type(value).__name__}")
    return value


def _bytes(value: Union[str, bytes]) -> bytes:
    return value.encode("utf-8", "surrogateescape") if isinstance(value, str) else bytes(value)


def _say(level: int, text: str) -> None:
    _log.log(level, "%s", text)


def _host_of(name: str) -> str:
    """Without its port, as Mooncake takes names apart: the last colon, brackets, bare IPv6."""
    if name.startswith("["):
        return name.partition("]")[0][1:]
    if name.count(":") > 1:
        return name
    return name.partition(":")[0]


class TransferEngine:
    """Mooncake's class. Any thread may call any method; the interpreter's lock is free while one
    waits."""

    TransferOpcode = TransferOpcode

    def __init__(self) -> None:
        self._engine: Optional[ferry.Engine] = None
        self._pool: Optional[Pool] = None
        self._lock = threading.Lock()
        self._segments: Dict[str, ferry.Segment] = {}
        self._batches: Dict[int, Optional[ferry.Batch]] = {}
        self._timed_out: Deque[int] = collections.deque(maxlen=_KEPT_ENDS)
        self._ids = itertools.count(1)

    def __del__(self) -> None:
        self._close()

    def _close(self) -> None:
        engine, self._engine = getattr(self, "_engine", None), None
        if engine is not None:
            engine.close()

    # -- opening

    def initialize(self, local_hostname: str, metadata_server: str, protocol: str, device_name: str, /) -> int:
        """0, or -1. protocol "rdma" is a wish, as in Mooncake: without such devices it is tcp."""
        return self._initialize(_text(local_hostname, "local_hostname"), _text(metadata_server, "metadata_server"),
                                _text(protocol, "protocol"), _text(device_name, "device_name"))

    def initialize_ext(self, local_hostname: str, metadata_server: str, protocol: str, device_name: str,
                       metadata_type: str, /) -> int:
        """As `initialize`; `metadata_type` is the scheme of a metadata server that has none."""
        server, scheme = _text(metadata_server, "metadata_server"), _text(metadata_type, "metadata_type")
        if "://" not in server and server != "P2PHANDSHAKE" and scheme:
            server = f"{scheme}://{server}"
        return self._initialize(_text(local_hostname, "local_hostname"), server, _text(protocol, "protocol"),
                                _text(device_name, "device_name"))

    def _initialize(self, name: str, server: str, protocol: str, device_name: str) -> int:
        self._close()
        if server == "P2PHANDSHAKE":
            name = _host_of(name)
            if ":" in name:
                name = f"[{name}]"
        try:
            self._engine = ferry.Engine(name or None, metadata_server=server, log=_say,
                                        protocol=None if protocol in ("", "rdma") else protocol,
                                        device_name=device_name or None, log_level=_log.getEffectiveLevel())
        except ferry.Error as error:
            _log.error("initialize(%r, %r, %r, %r): %s", name, server, protocol, device_name, error)
            return -1
        with self._lock:
            self._segments.clear()
            self._batches.clear()
        self._pool = Pool(self._engine)
        return 0

    def get_rpc_port(self) -> int:
        """The port that peers ask for our memory; 0 before `initialize`."""
        return self._engine.port if self._engine is not None else 0

    def get_engine(self) -> InnerTransferEngine:
        """Something to hold, which keeps the engine."""
        if self._engine is None:
            raise RuntimeError("get_engine before initialize")
        return InnerTransferEngine(self._engine)

    def get_engine_ptr(self) -> int:
        """0: there is no C++ object."""
        return 0

    def get_local_topology(self, device_name: Optional[str] = None) -> str:
        """Which network devices are near which memory, as JSON. Also before `initialize`."""
        return _topology.local_topology(device_name)

    def warmup_efa_segment(self, segment_name: str) -> int:
        """0: there is nothing to warm up."""
        return 0

    # -- memory

    def _try(self, what: str, call: Callable[[ferry.Engine], Any]) -> int:
        """0, or the negative status."""
        if self._engine is None:
            _log.error("%s: not initialized", what)
            return -1
        try:
            call(self._engine)
        except ferry.Error as error:
            _log.error("%s: %s", what, error)
            return error.status or -1
        except ValueError as error:  # lists of different lengths
            _log.error("%s: %s", what, error)
            return -1
        except OverflowError as error:
            raise TypeError(str(error)) from None
        return 0

    def register_memory(self, buffer_addr: int, capacity: int, location: str = "*") -> int:
        """0, or negative."""
        return self._register("register_memory", [_number(buffer_addr, "buffer_addr")],
                              [_number(capacity, "capacity")], location)

    def batch_register_memory(self, buffer_addresses: Sequence[int], capacities: Sequence[int],
                              location: str = "*") -> int:
        """All or none: 0, or negative."""
        return self._register("batch_register_memory", _list(buffer_addresses, "buffer_addresses"),
                              _list(capacities, "capacities"), location)

    def _register(self, what: str, addrs: Sequence[int], lens: Sequence[int], location: str) -> int:
        access = ferry.REMOTE_READ | ferry.REMOTE_WRITE
        where = None if location in ("", "*") else _text(location, "location")
        return self._try(what, lambda engine: engine._core.register(addrs, lens, access, where))

    def unregister_memory(self, addr: int) -> int:
        """Blocks until no transfer touches it any more: 0, or negative."""
        addrs = [_number(addr, "addr")]
        return self._try("unregister_memory", lambda engine: engine._core.unregister(addrs))

    def batch_unregister_memory(self, buffer_addresses: Sequence[int]) -> int:
        """All or none: 0, or negative."""
        addrs = _list(buffer_addresses, "buffer_addresses")
        return self._try("batch_unregister_memory", lambda engine: engine._core.unregister(addrs))

    def allocate_managed_buffer(self, length: int) -> int:
        """The address of registered memory, or 0."""
        length = _number(length, "length")
        addrs: List[int] = []
        if length and self._pool is not None:
            pool = self._pool
            self._try("allocate_managed_buffer", lambda engine: addrs.append(pool.allocate(length)))
        return addrs[0] if addrs else 0

    def free_managed_buffer(self, addr: int, length: int) -> int:
        """0; -1 where the address is none of ours, or given back before."""
        addr, length = _number(addr, "addr"), _number(length, "length")
        if self._pool is not None and self._pool.free(addr):
            return 0
        _log.error("free_managed_buffer: 0x%x is not a managed buffer", addr)
        return -1

    def write_bytes_to_buffer(self, dest_addr: int, src: Union[str, bytes], length: int) -> int:
        """Copies the first `length` bytes to the address: 0; -1 where there are not so many."""
        data, length = memoryview(_bytes(src)), _number(length, "length")
        dest = _number(dest_addr, "dest_addr")
        if length > len(data) or (length and not dest):
            _log.error("write_bytes_to_buffer: %d bytes of %d to 0x%x", length, len(data), dest)
            return -1
        if length:
            _ferry.view_memory(dest, length)[:] = data[:length]
        return 0

    def read_bytes_from_buffer(self, addr: int, length: int) -> bytes:
        """The bytes at the address."""
        return _ferry.read_memory(_number(addr, "addr"), _number(length, "length"))

    def get_first_buffer_address(self, segment_name: str) -> int:
        """Where the buffer begins that the peer registered first; 0 where it has none or is not there."""
        found: List[int] = []

        def look(engine: ferry.Engine) -> None:
            segment = self._segment(engine, _text(segment_name, "segment_name"))
            segment.refresh(_OPEN_S)
            found.extend(buffer.addr for buffer in segment.buffers()[:1])

        self._try(f"get_first_buffer_address({segment_name!r})", look)
        return found[0] if found else 0

    # -- transfers

    def _segment(self, engine: ferry.Engine, target: str) -> ferry.Segment:
        target = target.lstrip("/") or target
        segment = self._segments.get(target)
        if segment is None:
            opened = engine.open(target, _OPEN_S)  # waits: not under the lock
            with self._lock:
                segment = self._segments.setdefault(target, opened)
            if segment is not opened:
                opened.close()
        return segment

    def _work(self, engine: ferry.Engine, target: str, op: int, buffers: Any, peers: Any, lengths: Any,
              notify: Optional[TransferNotify], hint: str) -> Tuple[Any, ...]:
        name, data = (_text(notify.name, "notify.name"), _bytes(notify.msg)) if notify is not None else (None, None)
        return (op, self._segment(engine, target)._live(), buffers, peers, lengths, 0, 0, hint or None, name, data)

    def _sync(self, target: str, op: int, buffers: Any, peers: Any, lengths: Any,
              notify: Optional[TransferNotify], hint: str) -> int:
        target = _text(target, "target_hostname")

        def move(engine: ferry.Engine) -> None:
            try:
                engine._core.transfer(*self._work(engine, target, op, buffers, peers, lengths, notify, hint))
            except ferry.Error as error:
                if not error.delivered:
                    raise
                _log.warning("transfer with %s: %s", target, error)  # the data counts

        for attempt in (0, 1):
            if not self._try(f"transfer with {target}", move):
                return 0
            cut = self._without_empty(buffers, peers, lengths) if not attempt else None
            if cut is None:
                break
            buffers, peers, lengths = cut
            if not lengths and notify is None:
                return 0
        return -1

    @staticmethod
    def _without_empty(buffers: Any, peers: Any, lengths: Any) -> Optional[Tuple[List[int], List[int], List[int]]]:
        """A transfer of no bytes is done; Ferry takes it for a mistake. None: there was none."""
        if isinstance(lengths, int):
            return ([], [], []) if lengths == 0 else None
        if not len(buffers) == len(peers) == len(lengths) or (len(lengths) and 0 not in lengths):
            return None
        rows = [row for row in zip(buffers, peers, lengths) if row[2]]
        return [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]

    def _async(self, target: str, op: int, buffers: Any, peers: Any, lengths: Any, hint: str) -> int:
        target = _text(target, "target_hostname")
        made: List[Optional[ferry.Batch]] = []

        def start(engine: ferry.Engine) -> None:
            handle = engine._core.submit(*self._work(engine, target, op, buffers, peers, lengths, None, hint))
            made.append(ferry.Batch(engine, handle, f"transfer with {target}", False))

        if self._try(f"transfer with {target}", start):
            cut = self._without_empty(buffers, peers, lengths)
            if cut is None:
                return 0
            buffers, peers, lengths = cut
            if not lengths:
                made.append(None)
            elif self._try(f"transfer with {target}", start):
                return 0
        with self._lock:
            number = next(self._ids)
            self._batches[number] = made[0]
        return number

    def transfer_sync_write(self, target_hostname: str, buffer: int, peer_buffer_address: int, length: int,
                            transport_hint: str = "") -> int:
        """Our memory to the peer's: 0 when it is there, else -1."""
        return self.transfer_sync(target_hostname, buffer, peer_buffer_address, length, Write, None, transport_hint)

    def transfer_sync_read(self, target_hostname: str, buffer: int, peer_buffer_address: int, length: int,
                           transport_hint: str = "") -> int:
        """The peer's memory to ours: 0 when it is here, else -1."""
        return self.transfer_sync(target_hostname, buffer, peer_buffer_address, length, Read, None, transport_hint)

    def transfer_sync(self, target_hostname: str, buffer: int, peer_buffer_address: int, length: int,
                      opcode: TransferOpcode, notify: Optional[TransferNotify] = None,
                      transport_hint: str = "") -> int:
        """One transfer, and a message after its data: 0 when that is there (where only the message failed, that is
        logged), or -1."""
        return self._sync(target_hostname, int(opcode), _number(buffer, "buffer"),
                          _number(peer_buffer_address, "peer_buffer_address"), _number(length, "length"), notify,
                          transport_hint)

    def batch_transfer_sync_write(self, target_hostname: str, buffers: Sequence[int],
                                  peer_buffer_addresses: Sequence[int], lengths: Sequence[int],
                                  transport_hint: str = "") -> int:
        """Many WRITEs at once: 0 when all are done, else -1."""
        return self.batch_transfer_sync(target_hostname, buffers, peer_buffer_addresses, lengths, Write, None,
                                        transport_hint)

    def batch_transfer_sync_read(self, target_hostname: str, buffers: Sequence[int],
                                 peer_buffer_addresses: Sequence[int], lengths: Sequence[int],
                                 transport_hint: str = "") -> int:
        """Many READs at once: 0 when all are done, else -1."""
        return self.batch_transfer_sync(target_hostname, buffers, peer_buffer_addresses, lengths, Read, None,
                                        transport_hint)

    def batch_transfer_sync(self, target_hostname: str, buffers: Sequence[int], peer_buffer_addresses: Sequence[int],
                            lengths: Sequence[int], opcode: TransferOpcode, notify: Optional[TransferNotify] = None,
                            transport_hint: str = "") -> int:
        """Many transfers at once, and a message after their data: 0 when that is all there (where only the message
        failed, that is logged), or -1."""
        return self._sync(target_hostname, int(opcode), _list(buffers, "buffers"),
                          _list(peer_buffer_addresses, "peer_buffer_addresses"), _list(lengths, "lengths"), notify,
                          transport_hint)

    def batch_transfer_async_write(self, target_hostname: str, buffers: Sequence[int],
                                   peer_buffer_addresses: Sequence[int], lengths: Sequence[int],
                                   transport_hint: str = "") -> int:
        """Starts many WRITEs: the batch's number, or 0."""
        return self.batch_transfer_async(target_hostname, buffers, peer_buffer_addresses, lengths, Write,
                                         transport_hint)

    def batch_transfer_async_read(self, target_hostname: str, buffers: Sequence[int],
                                  peer_buffer_addresses: Sequence[int], lengths: Sequence[int],
                                  transport_hint: str = "") -> int:
        """Starts many READs: the batch's number, or 0."""
        return self.batch_transfer_async(target_hostname, buffers, peer_buffer_addresses, lengths, Read,
                                         transport_hint)

    def batch_transfer_async(self, target_hostname: str, buffers: Sequence[int],
                             peer_buffer_addresses: Sequence[int], lengths: Sequence[int], opcode: TransferOpcode,
                             transport_hint: str = "") -> int:
        """Starts many transfers: the batch's number, or 0."""
        return self._async(target_hostname, int(opcode), _list(buffers, "buffers"),
                           _list(peer_buffer_addresses, "peer_buffer_addresses"), _list(lengths, "lengths"),
                           transport_hint)

    def transfer_submit_write(self, target_hostname: str, buffer: int, peer_buffer_address: int, length: int,
                              transport_hint: str = "") -> int:
        """Starts one WRITE: the batch's number, or 0."""
        return self._async(target_hostname, int(Write), _number(buffer, "buffer"),
                           _number(peer_buffer_address, "peer_buffer_address"), _number(length, "length"),
                           transport_hint)

    def get_batch_transfer_status(self, batch_ids: Sequence[int]) -> int:
        """Blocks until all have ended and forgets them: 0 when all succeeded, else -1."""
        result = 0
        for number in list(_list(batch_ids, "batch_ids")):
            number = _number(number, "batch_ids")
            with self._lock:
                is_known = number in self._batches
                batch = self._batches.pop(number, None)
            if not is_known:
                _log.error("get_batch_transfer_status: no batch %d", number)
                result = -1
            elif batch is not None:
                if self._try(batch._what, lambda _: batch.wait()):
                    result = -1
                batch.free()
        return result

    def transfer_check_status(self, batch_id: int) -> int:
        """Of the whole batch, at once: 1 done, 0 under way, -1 failed, -2 timed out. It is
        forgotten when it has ended, and then touches no memory any more."""
        number = _number(batch_id, "batch_id")
        with self._lock:
            if number not in self._batches:
                return -2 if number in self._timed_out else -1
            batch = self._batches[number]
        status: List[ferry.BatchStatus] = []
        if batch is not None:
            if self._try(batch._what, lambda _: status.append(batch.poll())):
                return -1
            if not status[0].ended:
                return 0
        with self._lock:
            self._batches.pop(number, None)
            if status and status[0].first_error == _TIMED_OUT:
                self._timed_out.append(number)
        if not status or not status[0].first_error:
            return 1
        self._try("transfer_check_status", lambda _: batch.wait())  # logs what it was
        return -2 if status[0].first_error == _TIMED_OUT else -1

    # -- peers

    def get_notifies(self) -> List[TransferNotify]:
        """Messages that came since the last call, oldest first."""
        found: List[TransferNotify] = []

        def take(engine: ferry.Engine) -> None:
            while True:
                item = engine.notification(0)
                if item is None:
                    return
                found.append(TransferNotify(item.name, item.data.decode("utf-8", "surrogateescape")))

        self._try("get_notifies", take)
        return found

    def send_probe(self, peer_server_name: str) -> int:
        """0 where the peer answers, else -1."""
        name = _text(peer_server_name, "peer_server_name")
        return -1 if self._try(f"send_probe({name!r})",
                               lambda engine: self._segment(engine, name).probe(_OPEN_S)) else 0


def __getattr__(name: str) -> Any:
    if name in ("RpcInterface", "CoroRPCInterface", "ReceivedData", "ReceivedTensor", "create_rpc_client",
                "create_rpc_server", "SharedSegment"):
        raise AttributeError(f"mooncake.engine.{name} is not here: this `mooncake` is Ferry's, which has the Transfer "
                             "Engine alone")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
