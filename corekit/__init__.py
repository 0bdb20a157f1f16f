"""corekit: what the instances of one application share.

A cache, pub/sub, sync messages tied to transactions, an event queue, and locks with leases, behind
small interfaces that behave the same on every backend.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import (
    AdapterNotFound,
    AuthenticationFailed,
    BackendError,
    BackendRefused,
    BackendUnavailable,
    CacheNotFound,
    ConfigurationError,
    CorekitError,
    DeliveryExpired,
    ForkedProcess,
    InvalidArgument,
    InvalidName,
    InvalidType,
    LockError,
    LockLost,
    LockNotAcquired,
    LockTimeout,
    MessageTooLarge,
    NotOpenError,
    OutcomeUnknown,
    QueueFull,
    SerializationError,
    StorageFull,
    VersionMismatch,
    WrongLoop,
)

if TYPE_CHECKING:
    from .adapters import QueueStats
    from .app import App
    from .managers.cache import Cache
    from .managers.cache_manager import CacheManager
    from .managers.counter import Counter
    from .managers.event_queue import DeadLetter, DeliveryContext, EventQueue
    from .managers.guard import Guard
    from .managers.instances import Instance, InstanceChange, Instances
    from .managers.leader import Election, Leader
    from .managers.lease import Lease
    from .managers.lock import LockManager
    from .managers.pub_sub import PubSubManager
    from .managers.sync_messages import SyncMessageManager
    from .plugin import Plugin
    from .plugins import hookimpl

__all__ = [
    "AdapterNotFound",
    "App",
    "AuthenticationFailed",
    "BackendError",
    "BackendRefused",
    "BackendUnavailable",
    "Cache",
    "CacheManager",
    "CacheNotFound",
    "ConfigurationError",
    "CorekitError",
    "Counter",
    "DeadLetter",
    "DeliveryContext",
    "DeliveryExpired",
    "Election",
    "EventQueue",
    "ForkedProcess",
    "Guard",
    "Instance",
    "InstanceChange",
    "Instances",
    "InvalidArgument",
    "InvalidName",
    "InvalidType",
    "Leader",
    "Lease",
    "LockError",
    "LockLost",
    "LockManager",
    "LockNotAcquired",
    "LockTimeout",
    "MessageTooLarge",
    "NotOpenError",
    "OutcomeUnknown",
    "Plugin",
    "PubSubManager",
    "QueueFull",
    "QueueStats",
    "SerializationError",
    "StorageFull",
    "SyncMessageManager",
    "VersionMismatch",
    "WrongLoop",
    "hookimpl",
]


#: Where to find what is imported on first use. asyncio (and pluggy, for plugins of corekit) cost
#: more than all the rest: whoever only catches an error pays for neither.
_ORIGIN = {
    "App": "app",
    "Cache": "managers.cache",
    "CacheManager": "managers.cache_manager",
    "Counter": "managers.counter",
    "DeadLetter": "managers.event_queue",
    "DeliveryContext": "managers.event_queue",
    "Election": "managers.leader",
    "EventQueue": "managers.event_queue",
    "Guard": "managers.guard",
    "Instance": "managers.instances",
    "InstanceChange": "managers.instances",
    "Instances": "managers.instances",
    "Leader": "managers.leader",
    "Lease": "managers.lease",
    "LockManager": "managers.lock",
    "Plugin": "plugin",
    "PubSubManager": "managers.pub_sub",
    "QueueStats": "adapters",
    "SyncMessageManager": "managers.sync_messages",
    "hookimpl": "plugins",
}


def __getattr__(name: str) -> Any:
    module = _ORIGIN.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f".{module}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
