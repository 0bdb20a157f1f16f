"""The ZeroMQ backend: one broker process for everything that several processes need.

URLs: `zmq://host:port`, `zmq+ipc:///path/to/socket`, and `zmq+local://NAME`, which starts a broker
of this machine on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from corekit.plugins import AdapterRegistry, hookimpl

if TYPE_CHECKING:
    import click

    from corekit.adapters import (
        AdapterContext,
        CacheAdapter,
        EventQueueAdapter,
        LockAdapter,
        PubSubAdapter,
    )
    from corekit.config import BackendURL

SCHEMES = ("zmq", "zmq+ipc", "zmq+local")


# The driver is imported when an adapter is asked for, not when the plugin is discovered.
def zmq_cache(url: BackendURL, context: AdapterContext) -> CacheAdapter:
    """Return a cache in the memory of the broker at *url*."""
    from .cache import Cache

    return Cache(url, context)


def zmq_pub_sub(url: BackendURL, context: AdapterContext) -> PubSubAdapter:
    """Return pub/sub through the broker at *url*."""
    from .pub_sub import PubSub

    return PubSub(url, context)


def zmq_event_queue(url: BackendURL, context: AdapterContext) -> EventQueueAdapter:
    """Return the event queue of the broker at *url*."""
    from .event_queue import EventQueue

    return EventQueue(url, context)


def zmq_lock(url: BackendURL, context: AdapterContext) -> LockAdapter:
    """Return the locks of the broker at *url*."""
    from .lock import Lock

    return Lock(url, context)


@hookimpl
def corekit_register_adapters(registry: AdapterRegistry) -> None:
    """Offer the four adapters for each kind of address."""
    for scheme in SCHEMES:
        registry.add_cache(scheme, zmq_cache)
        registry.add_pub_sub(scheme, zmq_pub_sub)
        registry.add_event_queue(scheme, zmq_event_queue)
        registry.add_lock(scheme, zmq_lock)


@hookimpl
def corekit_register_commands(group: click.Group) -> None:
    """Add `corekit broker`."""
    from .broker.command import broker

    group.add_command(broker)
