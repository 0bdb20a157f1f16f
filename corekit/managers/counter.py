"""Counters with fixed windows."""

from __future__ import annotations

import math
from datetime import timedelta

from .. import names
from ..arguments import seconds, shown, whole
from ..errors import InvalidType
from ..lifecycle import Gate
from .cache_entry import Entry
from .keyspace import Keyspace

#: What a counter may be changed by at once. The count itself has no bound.
_LARGEST = 2**63 - 1


def checked_delta(parameter: str, value: int) -> int:
    """Return *value*, which must be a whole number of at most 63 bits and a sign."""
    return whole(parameter, value, least=-_LARGEST, most=_LARGEST)


async def increment(keyspace: Keyspace, key: str, delta: int, ttl: float) -> int:
    """Add *delta* to the count under *key* and return the sum; a missing count is 0.

    The time runs from the first call: later ones change the count, never its deadline.

    Raises InvalidType, and changes nothing, if the value is not an int.
    """
    total = 0

    def add(entry: Entry | None) -> Entry:
        nonlocal total
        entry = keyspace.live(entry)
        if entry is None:
            total = delta
            return Entry(delta, keyspace.now() + ttl)
        if type(entry.value) is not int:
            raise InvalidType(
                f"key {shown(key)} holds no whole number but {type(entry.value).__name__}"
            )
        total = entry.value + delta
        return Entry(total, entry.expires)

    await keyspace.update(key, add)
    return total


class Counter:
    """Counts that all instances share. They are never evicted to make room.

    Every method raises NotOpenError while the App is not started, InvalidName for a bad key, and
    BackendError if the store fails. A call that is cancelled has counted or has not.
    """

    def __init__(self, name: str, keyspace: Keyspace, gate: Gate) -> None:
        self.name = name
        self._keyspace = keyspace
        self._gate = gate

    def __repr__(self) -> str:
        return f"<Counter {self.name!r} in {self._keyspace!r}>"

    async def get(self, key: str) -> int:
        """Return the count under *key*; 0 if there is none."""
        self._gate.check()
        entry = await self._keyspace.read(names.checked("key", key))
        return entry.value if entry is not None and type(entry.value) is int else 0

    async def incr(self, key: str, ttl: float | timedelta | None = None) -> int:
        """Count one more and return the count; as `incrby(key, 1, ttl)`."""
        return await self.incrby(key, 1, ttl)

    async def incrby(self, key: str, n: int, ttl: float | timedelta | None = None) -> int:
        """Add *n*, which may be negative or 0, and return the count.

        The window is fixed: *ttl* seconds (None or `math.inf`: no end) count from the call that
        began it, and only their end or `reset` makes the count start again; 0 does not.
        """
        self._gate.check()
        return await increment(
            self._keyspace,
            names.checked("key", key),
            checked_delta("n", n),
            math.inf if ttl is None else seconds("ttl", ttl, infinite=True),
        )

    async def reset(self, key: str) -> None:
        """Forget the count under *key*; the next call begins a new window."""
        self._gate.check()
        await self._keyspace.remove([names.checked("key", key)])
