# SPDX-License-Identifier: Apache-2.0
"""Ferry: KV cache transfer between machines.

An `Engine` registers memory and opens peers by name; a `Segment` is a peer's memory, to read from
and write to; a `Batch` is work under way, to wait for or to `await`. Errors are classes by cause.
"""

import json as _json
from typing import Any

from . import _ferry
from ._engine import (READ, WRITE, Batch, BatchStatus, Buffer, Engine, Notification, Request, RequestStatus, Segment)
from ._errors import (AccessDenied, AlreadyExists, CallError, Canceled, Conflict, ConnectionReset, DeviceError,
                      DeviceLost, Error, InternalError, InvalidArgument, NotFound, NotReady, NotSupported, OutOfMemory,
                      OutOfRange, PeerError, PeerRestarted, PluginMismatch, TimedOut, TransferError, TransferFailed,
                      Unreachable)
from ._memory import REMOTE_READ, REMOTE_WRITE, Memory

__version__: str = _ferry.version()


def plugins() -> Any:
    """Which transports and metadata stores are found, where, and why one is refused."""
    return _json.loads(_ferry.plugins())


__all__ = [
    "READ", "WRITE", "REMOTE_READ", "REMOTE_WRITE", "Engine", "Segment", "Memory", "Batch", "Request", "Buffer",
    "BatchStatus", "RequestStatus", "Notification", "plugins", "Error", "CallError", "TransferError", "PeerError",
    "DeviceError", "NotReady", "InvalidArgument", "OutOfMemory", "NotSupported", "NotFound", "AlreadyExists",
    "OutOfRange", "PluginMismatch", "Conflict", "Canceled", "AccessDenied", "TransferFailed", "Unreachable",
    "ConnectionReset", "PeerRestarted", "TimedOut", "DeviceLost", "InternalError",
]
