"""Entries in a dict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

from corekit.adapters import Guarantee, Stored
from corekit.clock import Clock
from corekit.errors import ConfigurationError

_versions = count()

#: The entries and their deadlines, by URL name, space and key.
_STORES: dict[str, dict[str, dict[str, tuple[Stored, float]]]] = {}


class DictCache:
    """One App's way to a store of this process."""

    guarantees: frozenset[Guarantee] = frozenset()

    def __init__(self, name: str, clock: Clock) -> None:
        self._name = name
        self._clock = clock
        self._spaces = _STORES.setdefault(name, {})

    def __repr__(self) -> str:
        return f"<DictCache {self._name!r} spaces={len(self._spaces)}>"

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    def space(self, name: str, *, evict: bool = True, **options: Any) -> DictSpace:
        if options:
            raise ConfigurationError(f"example:// knows no option {', '.join(options)}")
        return DictSpace(self._spaces.setdefault(name, {}), self._clock)

    async def clear(self, prefix: str) -> None:
        for name, entries in self._spaces.items():
            if name.startswith(prefix):
                entries.clear()


class DictSpace:
    """The entries of one space."""

    def __init__(self, entries: dict[str, tuple[Stored, float]], clock: Clock) -> None:
        self._all = entries
        self._clock = clock

    def __repr__(self) -> str:
        return f"<DictSpace entries={len(self._all)}>"

    @property
    def _entries(self) -> dict[str, tuple[Stored, float]]:
        now = self._clock.monotonic()
        for key in [key for key, (_, deadline) in self._all.items() if deadline <= now]:
            del self._all[key]
        return self._all

    async def get(self, key: str) -> Stored | None:
        entry = self._entries.get(key)
        return entry and entry[0]

    async def get_many(self, keys: Sequence[str]) -> list[Stored | None]:
        return [await self.get(key) for key in keys]

    async def set(self, key: str, value: Any, lifetime: float | None) -> None:
        deadline = float("inf") if lifetime is None else self._clock.monotonic() + lifetime
        self._entries[key] = Stored(value, next(_versions)), deadline

    async def set_many(self, entries: Mapping[str, Any], lifetime: float | None) -> None:
        for key, value in entries.items():
            await self.set(key, value, lifetime)

    async def swap(
        self, key: str, value: Any, version: object | None, lifetime: float | None
    ) -> bool:
        entry = await self.get(key)
        if (entry and entry.version) != version:
            return False
        await self.set(key, value, lifetime)
        return True

    async def delete(self, keys: Sequence[str]) -> list[Any]:
        removed = [self._entries.pop(key, None) for key in keys]
        return [entry and entry[0].value for entry in removed]

    async def keys(self) -> list[str]:
        return list(self._entries)

    async def clear(self) -> None:
        self._all.clear()
