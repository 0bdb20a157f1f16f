"""A cache in the broker's memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from corekit.adapters import AdapterContext, Guarantee, Stored
from corekit.config import BackendURL
from corekit.errors import BackendRefused, ConfigurationError

from .client import Client
from .protocol import Op

#: How much goes to the broker in one request: entries, and bytes.
_ENTRIES = 1000
_BYTES = 512 * 1024


class Cache:
    """The cache store for `zmq://` URLs. It is empty after a restart of the broker."""

    guarantees = frozenset({Guarantee.SHARED})

    def __init__(self, url: BackendURL, context: AdapterContext) -> None:
        self._client = Client(url, context, "cache")

    def __repr__(self) -> str:
        return f"<Cache {self._client!r}>"

    async def open(self) -> None:
        await self._client.open(self)

    async def close(self) -> None:
        await self._client.close()

    def space(self, name: str, *, evict: bool = True, **options: Any) -> Space:
        if options:
            raise ConfigurationError(
                f"{self._client.settings.text}: a cache has no option {', '.join(options)}; the "
                "broker bounds the memory of all caches together"
            )
        return Space(self, name, evict)

    async def clear(self, prefix: str) -> None:
        await self.request(Op.CACHE_FLUSH, prefix)

    async def request(self, op: Op, *arguments: Any, size: int = 0) -> Any:
        """Return the broker's answer."""
        return await self._client.connection.request(self, op, *arguments, size=size)

    @property
    def largest(self) -> int:
        """The size of the largest value that the broker takes."""
        return self._client.connection.max_message

    def restore(self, confirmed: int) -> None:
        """Nothing belongs to a session here."""


class Space:
    """The entries of one cache."""

    def __init__(self, cache: Cache, name: str, evict: bool) -> None:
        self._cache = cache
        self._name = name
        self._evict = evict
        self._request = cache.request

    def __repr__(self) -> str:
        return f"<Space {self._name!r} evict={self._evict}>"

    async def get(self, key: str) -> Stored | None:
        found = (await self._request(Op.CACHE_GET, self._name, [key]))[0]
        return None if found is None else Stored(found[0], found[1])

    async def get_many(self, keys: Sequence[str]) -> list[Stored | None]:
        entries = await self._in_parts(Op.CACHE_GET, list(keys))
        return [None if entry is None else Stored(entry[0], entry[1]) for entry in entries]

    async def set(self, key: str, value: Any, lifetime: float | None) -> None:
        await self.set_many({key: value}, lifetime)

    async def set_many(self, entries: Mapping[str, Any], lifetime: float | None) -> None:
        for value in entries.values():
            self._check(value)
        for part, size in _parts(entries):
            await self._request(Op.CACHE_SET, self._name, self._evict, part, lifetime, size=size)

    async def swap(
        self, key: str, value: Any, version: object | None, lifetime: float | None
    ) -> bool:
        self._check(value)
        swapped: bool = await self._request(
            Op.CACHE_SWAP, self._name, self._evict, key, value, version, lifetime, size=len(value)
        )
        return swapped

    async def delete(self, keys: Sequence[str]) -> list[Any]:
        return await self._in_parts(Op.CACHE_DELETE, list(keys))

    async def _in_parts(self, op: Op, keys: list[str]) -> list[Any]:
        """Return what *op* answers for *keys*, in as many requests as that takes."""
        if len(keys) <= _ENTRIES:
            try:
                answer: list[Any] = await self._request(op, self._name, keys)
            except BackendRefused:
                # Their values may be too much for one answer.
                if len(keys) < 2:
                    raise
            else:
                return answer
        half = len(keys) // 2
        return await self._in_parts(op, keys[:half]) + await self._in_parts(op, keys[half:])

    async def keys(self) -> list[str]:
        keys: list[str] = await self._request(Op.CACHE_KEYS, self._name)
        return keys

    async def clear(self) -> None:
        await self._request(Op.CACHE_CLEAR, self._name)

    def _check(self, value: bytes) -> None:
        if len(value) > self._cache.largest:
            raise BackendRefused(
                f"a value of {len(value)} bytes is larger than the broker takes "
                f"({self._cache.largest})"
            )


def _parts(entries: Mapping[str, bytes]) -> Iterator[tuple[dict[str, bytes], int]]:
    part: dict[str, bytes] = {}
    size = 0
    for key, value in entries.items():
        if part and (len(part) == _ENTRIES or size + len(value) > _BYTES):
            yield part, size
            part, size = {}, 0
        part[key] = value
        size += len(value) + len(key)
    if part:
        yield part, size
