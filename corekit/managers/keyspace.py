"""The entries of one cache, in the space that its store gives it."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, cast
from weakref import WeakValueDictionary

from ..adapters import CacheSpace, LocalCacheSpace, Stored
from ..arguments import shown
from ..clock import Clock
from ..errors import BackendUnavailable, SerializationError
from .cache_entry import PASSED, Entry, EntryCodec, ReferenceCodec
from .log_limit import LogLimit

logger = logging.getLogger("corekit.cache")

#: How many keys one call of the adapter carries at most, and about how many bytes.
_CHUNK = 1000
_CHUNK_BYTES = 4 * 1024 * 1024

#: The least lifetime asked of a store, in seconds: for what is written only to end a claim.
_LEAST_LIFETIME = 1.0

#: An update is tried this often, at first at once, then after growing pauses (seconds) of at most
#: this length: more than ten seconds of nothing but lost races.
_ATTEMPTS = 400
_LONGEST_PAUSE = 0.05


class Keyspace:
    """Reads and writes the entries of one cache; `attach` says where they are."""

    def __init__(self, what: str, clock: Clock) -> None:
        self._what = what
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._unreadable = LogLimit(clock)
        # Assigned by `attach`, which happens before any call is let through.
        self.space: CacheSpace
        self._codec: EntryCodec
        #: Returns the time on the clock that deadlines count on.
        self.now: Callable[[], float]
        #: Returns what is under a key if the store can tell without waiting, else None.
        self.peek: Callable[[str], Any]

    def __repr__(self) -> str:
        return f"<Keyspace {self._what} in {getattr(self, 'space', None)!r}>"

    def attach(self, space: CacheSpace, codec: EntryCodec) -> None:
        """Use *space* from now on, with entries in the form of *codec*."""
        self.space = space
        self._codec = codec
        self.now = codec.now
        self.peek = _nothing
        if isinstance(codec, ReferenceCodec):
            self.peek = cast(LocalCacheSpace, space).peek

    def decode(self, key: str, stored: Stored | None) -> Entry | None:
        """Return the entry in *stored*; None if there is none, or none that can be read.

        What others wrote there costs a line in the log, not an error in the reader.
        """
        if stored is None:
            return None
        try:
            return self._codec.decode(stored.value)
        except SerializationError as error:
            if self._unreadable.passes():
                logger.warning(
                    "%s: the entry under %r cannot be read and counts as missing: %s "
                    "(%d such lines held back)",
                    self._what,
                    key,
                    error,
                    self._unreadable.held_back,
                )
            return None

    def live(self, entry: Entry | None) -> Entry | None:
        """Return *entry* if its value may be served."""
        if entry is None or entry.expires <= self.now():
            return None
        return entry

    def copied(self, value: Any) -> Any:
        """Return *value* as the store would give it back; raises SerializationError."""
        return self._codec.decode(self._codec.encode(Entry(value, PASSED))).value

    async def read(self, key: str) -> Entry | None:
        """Return the live entry under *key*."""
        return self.live(self.decode(key, await self.space.get(key)))

    async def read_many(self, keys: Sequence[str]) -> list[Entry | None]:
        """Return the live entries under *keys*, in that order."""
        entries: list[Entry | None] = []
        for chunk in _chunks(keys):
            found = await self.space.get_many(chunk)
            entries += [
                self.live(self.decode(key, stored))
                for key, stored in zip(chunk, found, strict=True)
            ]
        return entries

    async def write(self, key: str, entry: Entry) -> None:
        """Write *entry* under *key*, whatever was there."""
        await self.space.set(key, self._codec.encode(entry), self._lifetime(entry))

    async def write_many(self, values: Mapping[str, Any], expires: float) -> None:
        """Write all *values*; none is written if one of them cannot be encoded."""
        encoded: dict[str, Any] = {}
        for key, value in values.items():
            try:
                encoded[key] = self._codec.encode(Entry(value, expires))
            except SerializationError as error:
                raise type(error)(f"key {shown(key)}: {error}") from error.__cause__
        lifetime = self._lifetime(Entry(None, expires))
        chunk: dict[str, Any] = {}
        size = 0
        for key, data in encoded.items():
            chunk[key] = data
            size += len(data) if type(data) is bytes else 0
            if len(chunk) >= _CHUNK or size >= _CHUNK_BYTES:
                await self.space.set_many(chunk, lifetime)
                chunk, size = {}, 0
        if chunk:
            await self.space.set_many(chunk, lifetime)

    async def swap(self, key: str, entry: Entry, stored: Stored | None) -> bool:
        """Write *entry* if *stored* is still what is under *key*; return whether it was."""
        version = None if stored is None else stored.version
        return await self.space.swap(key, self._codec.encode(entry), version, self._lifetime(entry))

    async def update(self, key: str, change: Callable[[Entry | None], Entry | None]) -> bool:
        """Replace the entry under *key* by what *change* makes of it; return whether it did.

        *change* is given the entry, expired or not, and returns the new one, or None to leave all
        as it is. It is called again when another writer came between.
        """
        if (changed := await self._try_update(key, change)) is not None:
            return changed
        # Those of this process line up, instead of spoiling each other's attempts.
        async with self._turns.setdefault(key, asyncio.Lock()):
            for attempt in range(_ATTEMPTS):
                if (changed := await self._try_update(key, change)) is not None:
                    return changed
                longest = min(0.001 * 2 ** min(attempt, 10), _LONGEST_PAUSE)
                await asyncio.sleep(random.uniform(0, longest))  # noqa: S311 - jitter, no secret
        raise BackendUnavailable(f"{self._what}: too many others write {key!r} at the same time")

    async def remove(self, keys: Sequence[str]) -> int:
        """Remove *keys*; return how many of them had a live entry."""
        removed = 0
        for chunk in _chunks(keys):
            values = await self.space.delete(chunk)
            for key, value in zip(chunk, values, strict=True):
                stored = None if value is None else Stored(value, None)
                removed += self.live(self.decode(key, stored)) is not None
        return removed

    async def _try_update(
        self, key: str, change: Callable[[Entry | None], Entry | None]
    ) -> bool | None:
        stored = await self.space.get(key)
        entry = change(self.decode(key, stored))
        if entry is None:
            return False
        return True if await self.swap(key, entry, stored) else None

    def _lifetime(self, entry: Entry) -> float | None:
        until = entry.kept_until()
        return None if until == math.inf else max(until - self.now(), _LEAST_LIFETIME)


def _nothing(_key: str) -> None:
    """Peek into a store that cannot be read without waiting."""


def _chunks(keys: Iterable[str]) -> Iterator[list[str]]:
    iterator = iter(keys)
    while chunk := list(islice(iterator, _CHUNK)):
        yield chunk
