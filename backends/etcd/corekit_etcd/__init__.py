"""The etcd backend: locks, leases and a shared cache that survive the loss of a node.

URLs: `etcd://host:port,host:port`, and `etcds://...` for TLS.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from corekit.plugins import AdapterRegistry, hookimpl

if TYPE_CHECKING:
    from corekit.adapters import AdapterContext, CacheAdapter, LockAdapter
    from corekit.config import BackendURL

SCHEMES = ("etcd", "etcds")


# The driver is imported when an adapter is asked for, not when the plugin is discovered.
def etcd_cache(url: BackendURL, context: AdapterContext) -> CacheAdapter:
    """Return a cache in the etcd cluster at *url*."""
    from .cache import Cache

    return Cache(url, context)


def etcd_lock(url: BackendURL, context: AdapterContext) -> LockAdapter:
    """Return the locks of the etcd cluster at *url*."""
    from .lock import Lock

    return Lock(url, context)


@hookimpl
def corekit_register_adapters(registry: AdapterRegistry) -> None:
    """Offer both adapters for each kind of address."""
    for scheme in SCHEMES:
        registry.add_cache(scheme, etcd_cache)
        registry.add_lock(scheme, etcd_lock)
