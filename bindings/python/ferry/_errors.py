# SPDX-License-Identifier: Apache-2.0
"""Exceptions, one class for each cause, grouped by what is spoilt."""

from __future__ import annotations

from typing import Dict, Optional, Type

from . import _ferry


class Error(Exception):
    """Anything that Ferry reports.

    `status` is the library's number, `index` the first request that failed where a transfer of
    several was refused or broke; `delivered` where all data of a transfer is there, and only its
    notification failed (not where the peer has lost the data in a restart).
    """

    status: int = 0
    index: Optional[int] = None
    delivered: bool = False


class CallError(Error):
    """The call had no effect; nothing is spoilt."""


class TransferError(Error):
    """One transfer failed; its peer still works."""


class PeerError(Error, ConnectionError):
    """The peer is lost for now; a later transfer reconnects by itself."""


class DeviceError(Error):
    """A device, a queue or the library itself is lost."""


class NotReady(CallError, TimeoutError):
    """Not in the time that was given; try again."""


class InvalidArgument(CallError, ValueError):
    """The caller broke a rule."""


class OutOfMemory(CallError, MemoryError):
    """No memory."""


class NotSupported(CallError):
    """There is no such protocol or store, or it cannot do this."""


class NotFound(CallError, LookupError):
    """No such name, segment, batch or buffer."""


class AlreadyExists(CallError):
    """The name or port is taken, or the memory registered already."""


class OutOfRange(CallError, ValueError):
    """A range that is not within one registered buffer, here or at the peer."""


class PluginMismatch(CallError):
    """A plugin and the library do not fit each other."""


class Conflict(CallError):
    """Somebody else changed it first."""


class Canceled(TransferError):
    """It was cancelled, or the engine closed."""


class AccessDenied(TransferError, PermissionError):
    """The memory is registered without the right for this."""


class TransferFailed(TransferError):
    """The bytes could not be moved."""


class Unreachable(PeerError):
    """Nothing that is sent arrives, or nobody listens."""


class ConnectionReset(PeerError, ConnectionResetError):
    """The peer closed the connection: it ended, was killed or crashed."""


class PeerRestarted(PeerError):
    """The peer is another process than before, with other memory."""


class TimedOut(PeerError, TimeoutError):
    """The peer is there and did not answer in time."""


class DeviceLost(DeviceError):
    """A device or queue is gone."""


class InternalError(DeviceError):
    """A mistake of Ferry's own."""


CAUSES: Dict[int, Type[Error]] = {
    -1: NotReady,
    -2: InvalidArgument,
    -3: OutOfMemory,
    -4: NotSupported,
    -5: NotFound,
    -6: AlreadyExists,
    -7: OutOfRange,
    -8: PluginMismatch,
    -9: Conflict,
    -20: Canceled,
    -21: AccessDenied,
    -22: TransferFailed,
    -40: Unreachable,
    -41: ConnectionReset,
    -42: PeerRestarted,
    -43: TimedOut,
    -60: DeviceLost,
    -61: InternalError,
}
SCOPES = (CallError, TransferError, PeerError, DeviceError)


def make_error(status: int, text: str) -> Error:
    """The exception for a status of the library, not raised."""
    cause = CAUSES.get(status) or SCOPES[_ferry.scope(status)]
    error = cause(text or _ferry.strstatus(status))
    error.status = status
    return error


_ferry.set_make_error(make_error)
