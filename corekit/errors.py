"""Every error of corekit, in one tree.

The class says whose fault it is and whether trying again can help:
`ConfigurationError`, `InvalidArgument`, `NotOpenError` and `SerializationError` are the caller's,
`BackendUnavailable` may pass, `BackendRefused` will not. Each class has a stable `code`, meant for
logs and for peers written in other languages. Driver errors are kept as `__cause__`.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "AdapterNotFound",
    "AuthenticationFailed",
    "BackendError",
    "BackendRefused",
    "BackendUnavailable",
    "CacheNotFound",
    "ConfigurationError",
    "CorekitError",
    "DeliveryExpired",
    "ForkedProcess",
    "InvalidArgument",
    "InvalidName",
    "InvalidType",
    "LockError",
    "LockLost",
    "LockNotAcquired",
    "LockTimeout",
    "MessageTooLarge",
    "NotOpenError",
    "OutcomeUnknown",
    "QueueFull",
    "SerializationError",
    "StorageFull",
    "VersionMismatch",
    "WrongLoop",
]


class CorekitError(Exception):
    """The base of every error that corekit raises."""

    code: ClassVar[str] = "error"


class ConfigurationError(CorekitError):
    """The App cannot work as it is set up; raised before anything was opened or changed."""

    code = "configuration"


class AdapterNotFound(ConfigurationError):
    """No installed distribution offers an adapter for this URL's scheme."""

    code = "adapter_not_found"


class CacheNotFound(ConfigurationError, KeyError):
    """No cache of this name was created."""

    code = "cache_not_found"

    # KeyError would show the repr of the message.
    __str__ = Exception.__str__


class InvalidArgument(CorekitError, ValueError):
    """A call was given a value that it does not take; nothing was changed."""

    code = "invalid_argument"


class InvalidName(InvalidArgument):
    """A name is empty, too long, or holds characters that names may not have."""

    code = "invalid_name"


class InvalidType(InvalidArgument, TypeError):
    """A call was given a value of a type that it does not take; nothing was changed."""

    code = "invalid_type"


class NotOpenError(CorekitError, RuntimeError):
    """The App is not started, not yet that far in its start, or stopped."""

    code = "not_open"


class WrongLoop(NotOpenError):
    """The call comes from another event loop than the one that started the App."""

    code = "wrong_loop"


class ForkedProcess(NotOpenError):
    """The App was started before this process was forked; start one in the child."""

    code = "forked_process"


class SerializationError(CorekitError):
    """A value cannot be written, or bytes cannot be read; the text says where in the value."""

    code = "serialization"


class MessageTooLarge(SerializationError):
    """A value is larger, or nested deeper, than the limit."""

    code = "message_too_large"


class BackendError(CorekitError):
    """Something outside this process failed."""

    code = "backend"


class BackendUnavailable(BackendError):
    """The backend cannot be reached; trying again may help, and nothing was done."""

    code = "backend_unavailable"


class OutcomeUnknown(BackendUnavailable):
    """The answer did not come: the backend may have done it, or not.

    `message_id` is the id of the message in question, if it was about one; publishing it
    again as `dedup_id` cannot double it on a backend that deduplicates.
    """

    code = "outcome_unknown"

    def __init__(self, text: str, *, message_id: str | None = None) -> None:
        super().__init__(text)
        self.message_id = message_id


class BackendRefused(BackendError):
    """The backend refused; trying the same again will not help, and nothing was done."""

    code = "backend_refused"


class QueueFull(BackendRefused):
    """The queue holds as many messages, or bytes, as it may."""

    code = "queue_full"


class StorageFull(BackendRefused):
    """The backend has no room left to keep anything more."""

    code = "storage_full"


class AuthenticationFailed(BackendRefused):
    """The backend does not accept these credentials or keys."""

    code = "authentication_failed"


class VersionMismatch(BackendRefused):
    """The backend speaks another version of the protocol; the text names both."""

    code = "version_mismatch"


class DeliveryExpired(BackendRefused):
    """The delivery is no longer this consumer's: the message was given to another one."""

    code = "delivery_expired"


class LockError(CorekitError):
    """A lock could not be had, or is held no longer."""

    code = "lock"


class LockNotAcquired(LockError):
    """Another holds the lock, or this very task does; the call has acquired nothing."""

    code = "lock_not_acquired"


class LockTimeout(LockError, TimeoutError):
    """The lock was not free within the time given; nothing is held."""

    code = "lock_timeout"


class LockLost(LockError):
    """The lease ended before its holder did; another may hold the lock now."""

    code = "lock_lost"
