"""The built-in backend: everything inside one process, for `memory://` URLs.

It comes in through the same hook as any other backend.
"""

from __future__ import annotations

from ..plugins import AdapterRegistry, hookimpl


@hookimpl
def corekit_register_adapters(registry: AdapterRegistry) -> None:
    """Offer the four memory adapters."""
    from .cache import memory_cache
    from .event_queue import memory_event_queue
    from .lock import memory_lock
    from .pub_sub import memory_pub_sub

    registry.add_cache("memory", memory_cache)
    registry.add_pub_sub("memory", memory_pub_sub)
    registry.add_event_queue("memory", memory_event_queue)
    registry.add_lock("memory", memory_lock)
