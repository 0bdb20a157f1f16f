"""The cache in the broker's memory: spaces of entries, the least recently used go first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from heapq import heapify, heappop, heappush
from sys import intern

from corekit.errors import BackendRefused, StorageFull

#: What an entry costs beside its key and value, in bytes; measured, rounded up.
_OVERHEAD = 400

#: How many lifetimes that do not count any more are kept until they are thrown out all at once.
_STALE = 1000


class Entry:
    """A value under a key."""

    __slots__ = ("evict", "expires_at", "key", "size", "space", "value", "version")

    def __init__(
        self,
        space: str,
        key: str,
        value: bytes,
        version: int,
        expires_at: float,
        *,
        evict: bool,
    ) -> None:
        self.space = space
        self.key = key
        self.value = value
        self.version = version
        self.expires_at = expires_at
        self.evict = evict
        self.size = len(key) + len(value) + _OVERHEAD

    def __repr__(self) -> str:
        return f"<Entry {self.key!r} size={self.size} version={self.version}>"


class Cache:
    """All spaces. `now` is monotonic; an entry past its lifetime is no longer there."""

    def __init__(self, limit: int, first_version: int = 0) -> None:
        self._limit = limit
        self._spaces: dict[str, dict[str, Entry]] = {}
        # The least recently used first; only what may be evicted.
        self._used: OrderedDict[Entry, None] = OrderedDict()
        # (expires_at, version, entry): may hold entries that were replaced meanwhile.
        self._expiring: list[tuple[float, int, Entry]] = []
        # Begins higher in every life: a version read before a restart must match nothing after it.
        self._version = first_version
        self.bytes = 0
        self.count = 0

    def __repr__(self) -> str:
        return f"<Cache entries={self.count} bytes={self.bytes} spaces={len(self._spaces)}>"

    def _find(self, now: float, space: str, key: str) -> Entry | None:
        entries = self._spaces.get(space)
        entry = None if entries is None else entries.get(key)
        if entry is not None and entry.expires_at <= now:
            self._remove(entry)
            return None
        return entry

    def _remove(self, entry: Entry) -> None:
        entries = self._spaces[entry.space]
        del entries[entry.key]
        if not entries:
            del self._spaces[entry.space]
        self._used.pop(entry, None)
        self.bytes -= entry.size
        self.count -= 1
        # The list of lifetimes may know it for long, and must not keep the value.
        entry.value = b""

    def get(self, now: float, space: str, keys: Iterable[str]) -> list[tuple[bytes, int] | None]:
        """Return value and version of each of *keys*."""
        found: list[tuple[bytes, int] | None] = []
        for key in keys:
            entry = self._find(now, space, key)
            if entry is None:
                found.append(None)
                continue
            if entry.evict:
                self._used.move_to_end(entry)
            found.append((entry.value, entry.version))
        return found

    def set(
        self, now: float, space: str, key: str, value: bytes, lifetime: float | None, *, evict: bool
    ) -> None:
        """Write an entry; raises BackendRefused or StorageFull, the old one is kept then."""
        size = len(key) + len(value) + _OVERHEAD
        old = self._find(now, space, key)
        self._make_room(now, size, old)
        if old is not None:
            self._remove(old)
        self._version += 1
        expires_at = float("inf") if lifetime is None else now + lifetime
        # Each command brings a copy of the space's name: one is enough.
        space = intern(space)
        entry = Entry(space, key, value, self._version, expires_at, evict=evict)
        self._spaces.setdefault(space, {})[key] = entry
        self.bytes += entry.size
        self.count += 1
        if evict:
            self._used[entry] = None
        if lifetime is not None:
            heappush(self._expiring, (expires_at, entry.version, entry))
            # Two for each that comes: however fast they come, those that are over cannot pile up.
            self.expire(now, 2)

    def _sweep(self) -> None:
        if len(self._expiring) > 2 * self.count + _STALE:
            self._expiring = [one for one in self._expiring if self._is_current(one[2])]
            heapify(self._expiring)

    def _is_current(self, entry: Entry) -> bool:
        return self._spaces.get(entry.space, {}).get(entry.key) is entry

    def _make_room(self, now: float, size: int, old: Entry | None) -> None:
        if size > self._limit:
            raise BackendRefused(f"the entry needs {size} bytes, the cache has {self._limit}")
        wanted = self.bytes + size - (old.size if old is not None else 0) - self._limit
        if wanted <= 0:
            return
        self.expire(now, len(self._expiring))
        wanted = self.bytes + size - (old.size if old is not None else 0) - self._limit
        going = []
        for entry in self._used:
            if wanted <= 0:
                break
            if entry is not old:
                going.append(entry)
                wanted -= entry.size
        if wanted > 0:
            raise StorageFull(
                f"the cache is full ({self.bytes} of {self._limit} bytes) of entries that may not "
                "be evicted"
            )
        for entry in going:
            self._remove(entry)

    def swap(
        self,
        now: float,
        space: str,
        key: str,
        value: bytes,
        version: int | None,
        lifetime: float | None,
        *,
        evict: bool,
    ) -> bool:
        """Write an entry if it has that *version* (None: if there is none); whether it was."""
        entry = self._find(now, space, key)
        if (None if entry is None else entry.version) != version:
            return False
        self.set(now, space, key, value, lifetime, evict=evict)
        return True

    def delete(self, now: float, space: str, keys: Iterable[str]) -> list[bytes | None]:
        """Remove *keys*; return the value each had."""
        values: list[bytes | None] = []
        for key in keys:
            entry = self._find(now, space, key)
            values.append(None if entry is None else entry.value)
            if entry is not None:
                self._remove(entry)
        return values

    def keys(self, now: float, space: str) -> list[str]:
        """Return the keys of *space*."""
        entries = self._spaces.get(space, {})
        return [key for key, entry in entries.items() if entry.expires_at > now]

    def clear(self, space: str) -> None:
        """Remove every entry of *space*."""
        for entry in list(self._spaces.get(space, {}).values()):
            self._remove(entry)

    def flush(self, prefix: str) -> None:
        """Remove every entry of the spaces whose name begins with *prefix*."""
        for space in [name for name in self._spaces if name.startswith(prefix)]:
            self.clear(space)

    def expire(self, now: float, most: int) -> None:
        """Remove at most *most* entries that are past their lifetime."""
        for _ in range(most):
            if not self.overdue(now):
                break
            entry = heappop(self._expiring)[2]
            if self._is_current(entry):
                self._remove(entry)
        self._sweep()

    def overdue(self, now: float) -> bool:
        """Whether `expire` has something to do."""
        return bool(self._expiring) and self._expiring[0][0] <= now
