"""The stores that caches can be in: the App's own, and those registered beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from .. import names
from ..adapters import CacheAdapter
from ..arguments import seconds, shown
from ..errors import ConfigurationError

#: The name of the App's own store.
OWN = "default"


@dataclass(frozen=True, slots=True)
class _Registered:
    """A store: where it is, and what holds for caches in it."""

    url: str
    ttl: float | None
    options: Mapping[str, Any]

    def __repr__(self) -> str:
        # The URL may hold a password.
        return f"<store ttl={self.ttl} {dict(self.options)}>"


class CacheStores:
    """Stores by name. A registered one is opened when it is first asked for."""

    def __init__(self, build: Callable[[str], CacheAdapter]) -> None:
        self._build = build
        self._registered: dict[str, _Registered] = {}
        self._open: dict[str, CacheAdapter] = {}

    def __repr__(self) -> str:
        states = [f"{name}: {self._open.get(name, 'closed')}" for name in self.names()]
        return f"<CacheStores {', '.join(states)}>"

    def names(self) -> list[str]:
        """Return the names of all stores."""
        return [OWN, *self._registered]

    def register(self, name: str, url: str, ttl: Any, options: Mapping[str, Any]) -> None:
        """Make known the store *name*; the same again does nothing.

        Raises ConfigurationError if the name is taken, or *url* has no adapter.
        """
        names.checked("name", name)
        ttl = None if ttl is None else seconds("ttl", ttl, infinite=True)
        store = _Registered(url, ttl, options)
        if name == OWN or self._registered.get(name, store) != store:
            raise ConfigurationError(f"there is a store {name!r} already, with other options")
        if name not in self._registered:
            # Built to have the URL checked by this call; that does no I/O.
            self._build(url)
            self._registered[name] = store

    def defaults(self, name: str) -> tuple[float | None, Mapping[str, Any]]:
        """Return ttl and options that hold in the store *name*, else raise ConfigurationError."""
        if name == OWN:
            return None, {}
        if name not in self._registered:
            known = ", ".join(map(repr, self.names()))
            raise ConfigurationError(f"no store {shown(name)} is registered; there are: {known}")
        store = self._registered[name]
        return store.ttl, store.options

    async def adapter(self, name: str) -> CacheAdapter:
        """Return the open adapter of the store *name*; one call at a time."""
        if name not in self._open:
            await self.open(name, self._build(self._registered[name].url))
        return self._open[name]

    async def open(self, name: str, adapter: CacheAdapter) -> None:
        """Open *adapter* as the store *name*."""
        try:
            await adapter.open()
        except BaseException:
            await adapter.close()
            raise
        self._open[name] = adapter

    async def close(self) -> None:
        """Close all adapters."""
        async with AsyncExitStack() as stack:
            while self._open:
                stack.push_async_callback(self._open.popitem()[1].close)
