"""The driver's errors as corekit's: the one table.

The class says what became of the request. BackendUnavailable: it was not done, and may be sent
again. OutcomeUnknown: it was done or not. BackendRefused: it was not done and will not be.
"""

from __future__ import annotations

from grpc import StatusCode
from grpc.aio import AioRpcError

from corekit.errors import (
    AuthenticationFailed,
    BackendError,
    BackendRefused,
    BackendUnavailable,
    OutcomeUnknown,
    StorageFull,
    VersionMismatch,
)


class LeaseGone(BackendRefused):
    """The request names a lease that has ended."""


class LeaseExists(BackendRefused):
    """A lease with this id was granted before."""


class KeyGone(BackendRefused):
    """The request is for a key that must exist, and does not."""


class TokenExpired(AuthenticationFailed):
    """The login must be repeated; the request was not done."""


#: By a part of the text; the first that is found holds. What is not here goes by its code.
_BY_TEXT: tuple[tuple[str, type[BackendError]], ...] = (
    ("requested lease not found", LeaseGone),
    ("lease already exists", LeaseExists),
    ("etcdserver: key not found", KeyGone),
    ("invalid auth token", TokenExpired),
    ("revision of auth store is old", TokenExpired),
    ("authentication failed", AuthenticationFailed),
    ("user name is empty", AuthenticationFailed),
    ("database space exceeded", StorageFull),
    ("no leader", BackendUnavailable),
    ("not leader", BackendUnavailable),
    ("too many requests", BackendUnavailable),
)

_BY_CODE: dict[StatusCode, type[BackendError]] = {
    StatusCode.UNAVAILABLE: OutcomeUnknown,
    StatusCode.DEADLINE_EXCEEDED: OutcomeUnknown,
    StatusCode.CANCELLED: OutcomeUnknown,
    StatusCode.ABORTED: OutcomeUnknown,
    StatusCode.INTERNAL: OutcomeUnknown,
    StatusCode.UNKNOWN: OutcomeUnknown,
    StatusCode.UNAUTHENTICATED: AuthenticationFailed,
    StatusCode.PERMISSION_DENIED: AuthenticationFailed,
    StatusCode.UNIMPLEMENTED: VersionMismatch,
}


def translated(error: AioRpcError, where: str) -> BackendError:
    """Return *error*, which came from *where*, as one of corekit's; the cause is kept."""
    text = error.details() or ""
    return kind(text, error.code())(f"{where}: {error.code().name}: {text}")


def kind(text: str, code: StatusCode) -> type[BackendError]:
    """Return the class of error that a server's *text* and *code* mean."""
    for part, found in _BY_TEXT:
        if part in text:
            return found
    return _BY_CODE.get(code, BackendRefused)
