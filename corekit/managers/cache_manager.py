"""The caches and counters of an App."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from .. import names
from ..adapters import CacheAdapter, Guarantee
from ..arguments import seconds, shown
from ..errors import CacheNotFound, ConfigurationError
from ..lifecycle import Gate
from ..tasks import TaskOwner
from .cache import Cache
from .cache_entry import BytesCodec, EntryCodec, ReferenceCodec
from .cache_stores import OWN, CacheStores
from .context import ManagerContext
from .counter import Counter
from .keyspace import Keyspace
from .outbox import Outbox
from .single_flight import SingleFlight

logger = logging.getLogger("corekit.cache")

#: The cache that is always there.
DEFAULT = "default"

#: How long stopping waits for writes whose transaction has committed, in seconds.
_GRACE = 1.0


@dataclass(frozen=True, slots=True)
class _Definition:
    """What a cache or counter was created with."""

    what: str
    """Its kind and name."""

    space: str
    """The full name of its space."""

    store: str
    ttl: float
    evict: bool
    options: Mapping[str, Any]
    """The options of its space, with the store's defaults."""

    keyspace: Keyspace = field(compare=False)


class CacheManager:
    """Creates caches and counters, and knows the stores beside the App's own.

    Caches and counters stay the same objects when the App is stopped and started again. Before the
    start every call but `register_store` raises NotOpenError.
    """

    def __init__(self, context: ManagerContext, build_store: Callable[[str], CacheAdapter]) -> None:
        self._context = context
        self._gate = Gate(f"app {context.app!r}")
        self._stores = CacheStores(build_store)
        self._loads = TaskOwner("cache loads")
        self._commits = TaskOwner("cache commits")
        self._outbox = Outbox(context, self._gate, self._commits, logger)
        #: One creation at a time, so that none is seen half done. A new lock for each loop.
        self._creating = asyncio.Lock()
        self._definitions: dict[str, _Definition] = {}
        self._counters: dict[str, Counter] = {}
        self._flights: list[SingleFlight] = []
        definition = self._defined(names.CACHE, DEFAULT, DEFAULT, None, None, {})
        self._definitions[definition.what] = definition
        #: The cache that is always there, usable while the App is started.
        self.default = self._cache(DEFAULT, definition)
        self._caches = {DEFAULT: self.default}

    def __repr__(self) -> str:
        state = "open" if self._gate.is_open else "closed"
        return f"<CacheManager {self._context.app!r} {state} {', '.join(self._definitions)}>"

    async def open(self, adapter: CacheAdapter) -> None:
        """Open *adapter*, new and not opened yet, as the App's own store, and the others in use.

        Raises what an adapter raises; all are then closed, as after a cancelled call.
        """
        try:
            await self._stores.open(OWN, adapter)
            for definition in self._definitions.values():
                await self._attach(definition)
        except BaseException:
            await self._stores.close()
            raise
        self._creating = asyncio.Lock()
        self._gate.open()

    async def close(self) -> None:
        """End running loads, whose callers get NotOpenError, then close all stores.

        Writes whose transactions have committed are given a second to end. On a closed manager it
        does nothing.
        """
        self._gate.close()
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._stores.close)
            for flights in self._flights:
                stack.callback(flights.forget)
            stack.push_async_callback(self._loads.close)
            stack.push_async_callback(self._commits.close)
            await self._commits.wait(_GRACE)

    def register_store(self, name: str, url: str, **defaults: Any) -> None:
        """Let caches be created in the store behind *url*, as `create_cache(..., store=name)`.

        *defaults* are arguments of `create_cache` that hold where it is not given them: `ttl` and
        the store's own, such as `max`. May be called before the App is started; the store is
        opened when it is first used. Registering the same again does nothing.

        Raises ConfigurationError for a URL without an adapter, or a name that is taken.
        """
        if not defaults.keys().isdisjoint({"prefix", "store"}):
            raise ConfigurationError(f"store {shown(name)}: prefix and store have no default")
        ttl = defaults.pop("ttl", None)
        self._stores.register(name, url, ttl, defaults)

    async def create_cache(
        self,
        name: str,
        *,
        prefix: str | None = None,
        store: str | None = None,
        ttl: float | timedelta | None = None,
        **options: Any,
    ) -> Cache:
        """Return the cache *name*, created on first use.

        *prefix* replaces the name in the keys. *store* is a registered store, by default the App's
        own. *ttl* holds where a call gives none; None: for ever. *options* are the store's own,
        such as `max`. One name and the same options give one object.

        Raises ConfigurationError if the name was created with other options, another cache has the
        same keys, or the store is unknown or has no such option; InvalidName, InvalidType or
        InvalidArgument for a bad value; BackendError if the store cannot be opened. Nothing was
        created then.
        """
        self._gate.check()
        names.checked("name", name)
        part = name if prefix is None else names.checked("prefix", prefix)
        definition = self._defined(names.CACHE, name, part, store, ttl, options)
        async with self._creating:
            if await self._is_new(definition):
                self._caches[name] = self._cache(name, definition)
            return self._caches[name]

    def get_cache(self, name: str) -> Cache:
        """Return the cache that was created as *name*, else raise CacheNotFound."""
        self._gate.check()
        found = self._caches.get(names.checked("name", name))
        if found is None:
            existing = ", ".join(map(repr, sorted(self._caches)))
            raise CacheNotFound(f"no cache {shown(name)} was created; there are: {existing}")
        return found

    async def create_counter(self, name: str, *, store: str | None = None) -> Counter:
        """Return the counter *name*, created on first use; its keys are no cache's.

        Raises ConfigurationError if it was created in another store, or the store is unknown, and
        BackendError if the store cannot be opened. Nothing was created then.
        """
        self._gate.check()
        names.checked("name", name)
        definition = self._defined(names.COUNTER, name, name, store, None, {})
        async with self._creating:
            if await self._is_new(definition):
                self._counters[name] = Counter(name, definition.keyspace, self._gate)
            return self._counters[name]

    async def flush_all(self) -> None:
        """Remove everything from every cache of the application, whichever instance created it.

        Counters stay. If one store fails, the caches in others may have been emptied.
        """
        self._gate.check()
        prefix = names.full(self._context.app, names.CACHE, "")
        for store in self._stores.names():
            async with self._creating:
                adapter = await self._stores.adapter(store)
            await adapter.clear(prefix)

    def _defined(
        self,
        component: str,
        name: str,
        part: str,
        store: str | None,
        ttl: float | timedelta | None,
        options: Mapping[str, Any],
    ) -> _Definition:
        store = OWN if store is None else names.checked("store", store)
        default_ttl, default_options = self._stores.defaults(store)
        if component == names.COUNTER:
            # What caches in this store may do with their room is no matter of counters.
            default_ttl, default_options = None, {}
        what = f"{component} {name!r}"
        return _Definition(
            what=what,
            space=names.full(self._context.app, component, part),
            store=store,
            ttl=_default_ttl(ttl, default_ttl),
            evict=component == names.CACHE,
            options={**default_options, **options},
            keyspace=Keyspace(what, self._context.clock),
        )

    async def _is_new(self, definition: _Definition) -> bool:
        """Attach and remember *definition*, unless it is known already."""
        known = self._definitions.get(definition.what)
        if known is not None:
            if known == definition:
                return False
            raise ConfigurationError(f"{definition.what} exists already, with other options")
        for other in self._definitions.values():
            if other.space == definition.space:
                raise ConfigurationError(
                    f"{definition.what} would have the same keys as {other.what}: give it another "
                    "name or prefix"
                )
        await self._attach(definition)
        self._definitions[definition.what] = definition
        return True

    async def _attach(self, definition: _Definition) -> None:
        """Open the store of *definition*, if it is not, and find its space there."""
        adapter = await self._stores.adapter(definition.store)
        space = adapter.space(definition.space, evict=definition.evict, **definition.options)
        clock = self._context.clock
        codec: EntryCodec = (
            ReferenceCodec(clock)
            if Guarantee.BY_REFERENCE in adapter.guarantees
            else BytesCodec(self._context.serializer, clock)
        )
        definition.keyspace.attach(space, codec)

    def _cache(self, name: str, definition: _Definition) -> Cache:
        flights = SingleFlight(
            name,
            self._context.instance_id,
            definition.keyspace,
            self._loads,
            self._context.clock,
            self._gate,
        )
        self._flights.append(flights)
        return Cache(name, definition.ttl, definition.keyspace, flights, self._outbox, self._gate)


def _default_ttl(ttl: float | timedelta | None, default: float | None) -> float:
    if ttl is not None:
        return seconds("ttl", ttl, infinite=True)
    return math.inf if default is None else default
