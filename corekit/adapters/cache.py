"""The contract of a cache store: entries under keys, in spaces that never see each other's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from .guarantees import Guarantee


class Stored(NamedTuple):
    """An entry as it is in the store."""

    value: Any
    """What was written: bytes, or the object itself with `Guarantee.BY_REFERENCE`."""

    version: object
    """Differs after every write of the key, whatever was written; opaque, comparable by `==`."""


class CacheSpace(Protocol):
    """The entries of one cache. Keys are checked names; values are bytes.

    (With `Guarantee.BY_REFERENCE` values are whatever the manager hands in, and come back as the
    same object.)

    `lifetime` is how long an entry must be kept, in seconds; None means until it is removed. The
    store may drop it any time later, and collects it in the end. The manager keeps the exact
    deadline inside the value, so an entry that is dropped late is never served.

    A store that is full drops entries that were not used for long, unless the space was opened
    with `evict=False`. Each call is atomic for each of its keys. A cancelled write was done or was
    not; it never leaves half an entry.
    """

    async def get(self, key: str) -> Stored | None:
        """Return the entry under *key*, None if there is none."""
        ...

    async def get_many(self, keys: Sequence[str]) -> list[Stored | None]:
        """Return the entries under *keys*, in that order, None where there is none.

        A key may stand there twice.
        """
        ...

    async def set(self, key: str, value: Any, lifetime: float | None) -> None:
        """Write *value* under *key*, whatever was there.

        Raises BackendRefused if the store takes no value that large, StorageFull if it has no
        room and may not evict; the old entry is then kept.
        """
        ...

    async def set_many(self, entries: Mapping[str, Any], lifetime: float | None) -> None:
        """Write each of *entries* as `set` does; readers may see some of them before others."""
        ...

    async def swap(
        self, key: str, value: Any, version: object | None, lifetime: float | None
    ) -> bool:
        """Write *value* only if the entry under *key* still has this *version*.

        With `version=None`: only if there is no entry. Returns whether it was written; if not,
        nothing was changed. Of several calls with one version at most one is True.
        """
        ...

    async def delete(self, keys: Sequence[str]) -> list[Any]:
        """Remove *keys* and return, in that order, the value that each had, None if it had none."""
        ...

    async def keys(self) -> list[str]:
        """Return the keys of all entries, in no particular order."""
        ...

    async def clear(self) -> None:
        """Remove every entry of this space, and of no other."""
        ...


class LocalCacheSpace(CacheSpace, Protocol):
    """A space inside this process, which can be read without waiting."""

    def peek(self, key: str) -> Any:
        """Return the value under *key* as `get` does, but at once; None if there is none."""
        ...


class CacheAdapter(Protocol):
    """A cache store."""

    guarantees: frozenset[Guarantee]

    async def open(self) -> None:
        """Connect."""
        ...

    async def close(self) -> None:
        """Disconnect. What is stored stays, as long as the store lives."""
        ...

    def space(self, name: str, *, evict: bool = True, **options: Any) -> CacheSpace:
        """Return the space with the full name *name*; the same entries for the same name.

        No I/O; may be called before `open`. *options* are this store's own, such as `max`.
        `evict=False`: its entries are never dropped for want of room.

        Raises ConfigurationError for an option that the store does not have.
        """
        ...

    async def clear(self, prefix: str) -> None:
        """Remove every entry of all spaces whose full name begins with *prefix*."""
        ...
