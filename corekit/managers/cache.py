"""One cache: what an application reads and writes."""

from __future__ import annotations

import functools
import math
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping
from datetime import timedelta
from typing import Any, Literal, TypeVar, overload

from .. import names
from ..arguments import flag, seconds, shown
from ..errors import InvalidArgument, InvalidType
from ..lifecycle import Gate
from .cache_entry import Entry
from .cached_function import Cached, cached_function
from .counter import checked_delta, increment
from .dict_fields import delete_field, get_field, set_field
from .key_pattern import key_pattern
from .keyspace import Keyspace
from .outbox import Outbox
from .single_flight import Load, SingleFlight

T = TypeVar("T")

Seconds = float | timedelta
Coalesce = Literal["process", "cluster"]

#: Stands for "not there": None and everything falsy are values.
_MISSING: Any = object()

_FOREVER = math.inf


class Cache:
    """Values under keys, in a namespace of their own.

    Any value can be cached; None and falsy values too. In `memory://` it is the object itself, to
    be treated as read-only; in other stores an encoded copy. Keys are text of 1 to 512 bytes
    without control characters. *ttl* is in seconds, or a timedelta: None means the cache's
    default, `math.inf` for ever. Entries end exactly then, by Unix time in stores that several
    machines share.

    Every method raises NotOpenError while the App is not started (WrongLoop, ForkedProcess from
    elsewhere), InvalidName, InvalidType or InvalidArgument for what it does not take,
    SerializationError for a value that cannot be encoded, and BackendError if the store fails.
    Nothing was changed then, except after OutcomeUnknown. Calls may overlap freely. One that is
    cancelled has written or has not, never half.
    """

    def __init__(
        self,
        name: str,
        ttl: float,
        keyspace: Keyspace,
        flights: SingleFlight,
        outbox: Outbox,
        gate: Gate,
    ) -> None:
        self.name = name
        self._ttl = ttl
        self._keyspace = keyspace
        self._flights = flights
        self._outbox = outbox
        self._gate = gate

    def __repr__(self) -> str:
        state = "open" if self._gate.is_open else "closed"
        return f"<Cache {self.name!r} {state} ttl={self._ttl:g} loads={len(self._flights)}>"

    async def get(self, key: str, default: Any = None) -> Any:
        """Return the value under *key*, *default* if there is none."""
        value = self._peeked(key)
        if value is not _MISSING:
            return value
        entry = await self._keyspace.read(names.checked("key", key))
        return default if entry is None else entry.value

    async def set(
        self, key: str, value: Any, ttl: Seconds | None = None, *, transaction: Any = None
    ) -> None:
        """Write *value* under *key*. A load of the key that is running will not overwrite it.

        With *transaction* the call returns at once: the value as it is now is written when the
        outermost transaction has committed, never if it is rolled back, and *ttl* counts from then.
        If the store is away, that is tried for 30 seconds, and then logged as an error.
        """
        self._gate.check()
        key = names.checked("key", key)
        lifetime = self._lifetime(ttl)
        if transaction is None:
            await self._keyspace.write(key, Entry(value, self._keyspace.now() + lifetime))
            return
        value = self._keyspace.copied(value)
        self._after_commit(
            transaction,
            key,
            lambda: self._keyspace.write(key, Entry(value, self._keyspace.now() + lifetime)),
        )

    async def add(self, key: str, value: Any, ttl: Seconds | None = None) -> bool:
        """Write *value* only if there is none under *key*; return whether it was written."""
        self._gate.check()
        key = names.checked("key", key)
        lifetime = self._lifetime(ttl)

        def added(entry: Entry | None) -> Entry | None:
            if self._keyspace.live(entry) is not None:
                return None
            return Entry(value, self._keyspace.now() + lifetime)

        return await self._keyspace.update(key, added)

    async def delete(self, key: str, *, transaction: Any = None) -> bool:
        """Remove *key*; return whether there was a value.

        What a load of the key returns, if one is running, is not stored. With *transaction* the
        call returns False at once, and the key is removed as `set` writes.
        """
        self._gate.check()
        key = names.checked("key", key)
        if transaction is None:
            return await self._keyspace.remove([key]) == 1
        self._after_commit(transaction, key, lambda: self._keyspace.remove([key]))
        return False

    async def reset(self) -> None:
        """Remove everything from this cache, and nothing from any other."""
        self._gate.check()
        await self._keyspace.space.clear()

    async def mset(self, mapping: Mapping[str, Any], ttl: Seconds | None = None) -> None:
        """Write all values of *mapping*; none if one key is bad or one value cannot be encoded.

        If the store fails, some may have been written.
        """
        self._gate.check()
        if not isinstance(mapping, Mapping):
            raise InvalidType(f"mapping must map keys to values, not {shown(mapping)}")
        lifetime = self._lifetime(ttl)
        values = {names.checked("key", key): value for key, value in mapping.items()}
        await self._keyspace.write_many(values, self._keyspace.now() + lifetime)

    async def mget(self, keys: Iterable[str], default: Any = None) -> list[Any]:
        """Return the values under *keys*, in that order, *default* where there is none."""
        self._gate.check()
        entries = await self._keyspace.read_many(_checked_keys(keys))
        return [default if entry is None else entry.value for entry in entries]

    async def mdel(self, keys: Iterable[str]) -> int:
        """Remove *keys*; return how many of them had a value."""
        self._gate.check()
        return await self._keyspace.remove(_checked_keys(keys))

    @overload
    async def wrap(
        self,
        key: str,
        fn: Callable[[], Awaitable[T]],
        ttl: Seconds | None = None,
        *,
        stale: Seconds | None = None,
        coalesce: Coalesce = "process",
    ) -> T: ...
    @overload
    async def wrap(
        self,
        key: str,
        fn: Callable[[], T],
        ttl: Seconds | None = None,
        *,
        stale: Seconds | None = None,
        coalesce: Coalesce = "process",
    ) -> T: ...
    async def wrap(
        self,
        key: str,
        fn: Callable[[], Any],
        ttl: Seconds | None = None,
        *,
        stale: Seconds | None = None,
        coalesce: Coalesce = "process",
    ) -> Any:
        """Return the value under *key*; if there is none, what *fn* returns, which is stored.

        *fn* is plain or async. Concurrent calls for one key of one cache run it once in this
        process, with `coalesce="cluster"` once among all instances: the others look every 20 to 250
        ms whether it has ended, and take over 10 seconds after its instance has died.

        With *stale*, the old value is returned for so many seconds after *ttl*, while one refresh
        runs; only `wrap` sees it. A refresh that fails is logged, and tried by the next call.

        If *fn* raises, nothing is stored and every waiting call raises that error. A load goes on
        when its callers are cancelled. A set, delete or reset of the key meanwhile wins: the loaded
        value is returned, but not stored. If the store fails after *fn* has run, that is logged and
        the value returned.

        Raises InvalidArgument if the call is part of a running load of the same key, or of one that
        this load waits for, and NotOpenError if the App is stopped meanwhile.
        """
        _check_function(fn)
        _check_coalesce(coalesce)
        lifetime = self._lifetime(ttl)
        if stale is not None:
            stale = seconds("stale", stale)
        value = self._peeked(key)
        if value is not _MISSING:
            return value
        load = Load(fn, lifetime, stale, coalesce == "cluster")
        return await self._flights.get(names.checked("key", key), load)

    @overload
    async def wrap_with_condition(
        self,
        key: str,
        fn: Callable[[], Awaitable[T]],
        *,
        use_cache: bool = True,
        is_cacheable: Callable[[T], Any] | None = None,
        ttl: Seconds | None = None,
    ) -> T: ...
    @overload
    async def wrap_with_condition(
        self,
        key: str,
        fn: Callable[[], T],
        *,
        use_cache: bool = True,
        is_cacheable: Callable[[T], Any] | None = None,
        ttl: Seconds | None = None,
    ) -> T: ...
    async def wrap_with_condition(
        self,
        key: str,
        fn: Callable[[], Any],
        *,
        use_cache: bool = True,
        is_cacheable: Callable[[Any], Any] | None = None,
        ttl: Seconds | None = None,
    ) -> Any:
        """Do as `wrap`, but store only values for which *is_cacheable*, plain or async, is true.

        With `use_cache=False` *fn* is called and its result returned; the cache is neither read nor
        written.
        """
        self._gate.check()
        key = names.checked("key", key)
        _check_function(fn)
        if is_cacheable is not None and not callable(is_cacheable):
            raise InvalidType(f"is_cacheable must be a function, not {shown(is_cacheable)}")
        load = Load(fn, self._lifetime(ttl), is_cacheable=is_cacheable)
        if not flag("use_cache", use_cache):
            return await load.call()
        return await self._flights.get(key, load)

    def cached(
        self,
        key: str,
        ttl: Seconds | None = None,
        *,
        stale: Seconds | None = None,
        coalesce: Coalesce = "process",
    ) -> Cached:
        """Make a decorator that wraps a function, plain or async; see `wrap`.

        *key* is formatted with each call's arguments by name, defaults included, such as
        `"user:{user_id}"`. Functions that are given one key share its values. What is made
        is async, and may be made before the App is started.

        Decorating raises InvalidArgument for a field that is no parameter of the function.
        """
        _check_coalesce(coalesce)
        self._lifetime(ttl)
        if stale is not None:
            seconds("stale", stale)
        return cached_function(
            key, functools.partial(self.wrap, ttl=ttl, stale=stale, coalesce=coalesce)
        )

    async def keys(self, pattern: str = "*") -> list[str]:
        """Return the keys of all values, in no particular order.

        In *pattern* a `*` stands for any text, also for none; nothing else is special. The entries
        of the keys that match are read, to leave out what has expired.
        """
        self._gate.check()
        matches = key_pattern(names.checked("pattern", pattern))
        keys = [key for key in await self._keyspace.space.keys() if matches(key)]
        entries = await self._keyspace.read_many(keys)
        return [key for key, entry in zip(keys, entries, strict=True) if entry is not None]

    async def ttl(self, key: str) -> float | None:
        """Return for how many seconds the value under *key* will be there.

        `math.inf`: it does not expire. None: there is none.
        """
        self._gate.check()
        entry = await self._keyspace.read(names.checked("key", key))
        return None if entry is None else entry.expires - self._keyspace.now()

    async def increment(self, key: str, delta: int = 1, ttl: Seconds | None = None) -> int:
        """Add *delta* to the int under *key*, 0 if there is none, and return the sum.

        The window is fixed: *ttl* counts from the call that began it; only its end, a set, delete
        or reset makes the count start again. Raises InvalidType if the value is not an int.
        """
        self._gate.check()
        return await increment(
            self._keyspace,
            names.checked("key", key),
            checked_delta("delta", delta),
            self._lifetime(ttl),
        )

    async def set_value_in_object(self, key: str, field: Hashable, value: Any) -> None:
        """Set one *field* of the dict under *key*, at once for all readers.

        The key's ttl is kept; without a value a dict with this field is made, with the cache's ttl.
        Raises InvalidType if the value is not a dict, or *field* cannot be a key of one.
        """
        self._gate.check()
        key = names.checked("key", key)
        await set_field(self._keyspace, key, field, value, self._ttl)

    async def get_value_in_object(self, key: str, field: Hashable, default: Any = None) -> Any:
        """Return one *field* of the dict under *key*, *default* if either is missing.

        Raises InvalidType if the value is not a dict, or *field* cannot be a key of one.
        """
        self._gate.check()
        return await get_field(self._keyspace, names.checked("key", key), field, default)

    async def delete_value_in_object(self, key: str, field: Hashable) -> None:
        """Remove one *field* of the dict under *key*, at once for all readers; the ttl is kept.

        Raises InvalidType if the value is not a dict, or *field* cannot be a key of one.
        """
        self._gate.check()
        await delete_field(self._keyspace, names.checked("key", key), field)

    def _peeked(self, key: str) -> Any:
        """Return the value under *key* if it can be had without waiting, else _MISSING.

        The key is not checked: what is in a store has been.
        """
        self._gate.check()
        try:
            entry = self._keyspace.peek(key)
        except TypeError:  # unhashable: refused by the check of the key
            return _MISSING
        if type(entry) is Entry and (
            entry.expires == _FOREVER or entry.expires > self._keyspace.now()
        ):
            return entry.value
        return _MISSING

    def _lifetime(self, ttl: Seconds | None) -> float:
        return self._ttl if ttl is None else seconds("ttl", ttl, infinite=True)

    def _after_commit(
        self, transaction: Any, key: str, write: Callable[[], Awaitable[object]]
    ) -> None:
        self._outbox.defer(transaction, write, what=f"cache {self.name!r}, key {key!r}")


def _check_function(fn: object) -> None:
    if not callable(fn):
        raise InvalidType(f"fn must be a function, not {shown(fn)}")


def _check_coalesce(coalesce: object) -> None:
    if coalesce not in ("process", "cluster"):
        raise InvalidArgument(f'coalesce must be "process" or "cluster", not {shown(coalesce)}')


def _checked_keys(keys: Iterable[str]) -> list[str]:
    if isinstance(keys, str | bytes) or not isinstance(keys, Iterable):
        raise InvalidType(f"keys must be a list of keys, not {shown(keys)}")
    return [names.checked("key", key) for key in keys]
