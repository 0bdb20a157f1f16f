"""A cache store inside this process."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from itertools import count, islice
from typing import Any

from ..adapters import AdapterContext, CacheAdapter, Guarantee, Stored
from ..arguments import whole
from ..clock import Clock
from ..config import BackendURL
from ..errors import ConfigurationError
from .hub import OPTIONS, hub

#: How many entries a space keeps unless it is told otherwise.
_MAX = 2000

#: How many entries each write looks at for their lifetime. Two, since a write adds at most one:
#: garbage then never outgrows what is alive.
_SWEPT = 2


class _Slot:
    """An entry, and when it may be dropped."""

    __slots__ = ("deadline", "value", "version")

    def __init__(self, value: Any, version: int, deadline: float | None) -> None:
        self.value = value
        self.version = version
        self.deadline = deadline


class _Entries:
    """The entries of one space, least recently used first."""

    def __init__(self) -> None:
        #: Held by everything but `peek`: Apps in several threads may share the space. Reentrant,
        #: since a value that is dropped may run any code.
        self.lock = threading.RLock()
        self.slots: OrderedDict[str, _Slot] = OrderedDict()
        #: The keys that are still to be looked at in the present round.
        self._round: Iterator[str] = iter(())

    def sweep(self, now: float) -> None:
        """Drop what is past its lifetime among the next few keys of the round."""
        keys = list(islice(self._round, _SWEPT))
        if len(keys) < _SWEPT:
            self._round = iter(list(self.slots))
        for key in keys:
            slot = self.slots.get(key)
            if slot is not None and slot.deadline is not None and slot.deadline <= now:
                del self.slots[key]


class CacheHub:
    """What all Apps on one `memory://NAME` share."""

    def __init__(self) -> None:
        self.spaces: dict[str, _Entries] = {}
        self.versions = count(1)

    def __repr__(self) -> str:
        return f"<CacheHub spaces={len(self.spaces)}>"


class MemorySpace:
    """A space of a `MemoryCache`; nothing in it ever waits for anything but other threads."""

    def __init__(self, name: str, hub: CacheHub, clock: Clock, limit: int | None) -> None:
        self._name = name
        self._versions = hub.versions
        self._entries = hub.spaces.setdefault(name, _Entries())
        self._lock = self._entries.lock
        self._slots = self._entries.slots
        self._touch = self._slots.move_to_end
        self._now = clock.monotonic
        self._max = limit

    def __repr__(self) -> str:
        return f"<MemorySpace {self._name!r} entries={len(self._slots)} max={self._max}>"

    def peek(self, key: str) -> Any:
        # Each of the two steps is one of the interpreter's: no lock is needed.
        try:
            self._touch(key)
            return self._slots[key].value
        except KeyError:
            return None

    async def get(self, key: str) -> Stored | None:
        with self._lock:
            slot = self._find(key)
        return None if slot is None else Stored(slot.value, slot.version)

    async def get_many(self, keys: Sequence[str]) -> list[Stored | None]:
        return [await self.get(key) for key in keys]

    async def set(self, key: str, value: Any, lifetime: float | None) -> None:
        with self._lock:
            self._write(key, value, lifetime)

    async def set_many(self, entries: Mapping[str, Any], lifetime: float | None) -> None:
        with self._lock:
            for key, value in entries.items():
                self._write(key, value, lifetime)

    async def swap(
        self, key: str, value: Any, version: object | None, lifetime: float | None
    ) -> bool:
        with self._lock:
            slot = self._find(key)
            if (None if slot is None else slot.version) != version:
                return False
            self._write(key, value, lifetime)
        return True

    async def delete(self, keys: Sequence[str]) -> list[Any]:
        with self._lock:
            slots = [self._find(key) and self._slots.pop(key) for key in keys]
        return [None if slot is None else slot.value for slot in slots]

    async def keys(self) -> list[str]:
        now = self._now()
        with self._lock:
            slots = list(self._slots.items())
        return [key for key, slot in slots if slot.deadline is None or slot.deadline > now]

    async def clear(self) -> None:
        with self._lock:
            self._slots.clear()

    def _find(self, key: str) -> _Slot | None:
        slot = self._slots.get(key)
        if slot is None:
            return None
        if slot.deadline is not None and slot.deadline <= self._now():
            del self._slots[key]
            return None
        self._touch(key)
        return slot

    def _write(self, key: str, value: Any, lifetime: float | None) -> None:
        now = self._now()
        deadline = None if lifetime is None else now + lifetime
        self._slots[key] = _Slot(value, next(self._versions), deadline)
        self._touch(key)
        self._entries.sweep(now)
        if self._max is not None:
            while len(self._slots) > self._max:
                self._slots.popitem(last=False)


class MemoryCache:
    """The cache of `memory://`: a hub's spaces, as one App sees them."""

    def __init__(self, url: BackendURL, context: AdapterContext) -> None:
        url.refuse_other_options(*OPTIONS)
        self._url = url
        self._max = url.whole("max", default=_MAX, least=1, most=10**12)
        self._clock = context.clock
        self._hub = hub(url, context, CacheHub)
        self.guarantees = frozenset() if url.flag("copy") else frozenset({Guarantee.BY_REFERENCE})

    def __repr__(self) -> str:
        return f"<MemoryCache {self._url} spaces={len(self._hub.spaces)}>"

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    def space(self, name: str, *, evict: bool = True, **options: Any) -> MemorySpace:
        limit = options.pop("max", self._max)
        if options:
            raise ConfigurationError(
                f"{self._url}: a cache has no option {', '.join(map(repr, options))} here; "
                "allowed: max"
            )
        if limit is not None:
            whole("max", limit, least=1)
        return MemorySpace(name, self._hub, self._clock, limit if evict else None)

    async def clear(self, prefix: str) -> None:
        for name, entries in list(self._hub.spaces.items()):
            if name.startswith(prefix):
                with entries.lock:
                    entries.slots.clear()


def memory_cache(url: BackendURL, context: AdapterContext) -> CacheAdapter:
    """Build the cache of `memory://NAME?max=2000&copy=0`.

    *max* is how many entries each cache keeps, the least recently used go first. With *copy* it
    keeps encoded copies, as a shared store does, instead of the objects themselves.
    """
    return MemoryCache(url, context)
