"""A cache in etcd: for configuration and small values that all instances share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from corekit.adapters import AdapterContext, Guarantee, Stored
from corekit.config import BackendURL
from corekit.errors import BackendRefused, ConfigurationError

from .client import Client
from .driver import (
    Call,
    DeleteRangeRequest,
    PutRequest,
    RangeRequest,
    TxnRequest,
    delete,
    is_text,
    modified_at,
    put,
    range_of,
)
from .failures import LeaseGone
from .lifetimes import Lifetimes

T = TypeVar("T")

#: How many operations etcd takes in one transaction.
_OPERATIONS = 128

#: How many keys are asked for at once where nobody knows how many there are.
_PAGE = 1000

#: What a request has beside keys and values, in bytes, for each operation and in all.
_OVERHEAD = 64

#: Stands between a space's name and a key. No name holds it.
_SEPARATOR = b"\0"
_AFTER_SEPARATOR = b"\1"


class Cache:
    """The cache store for `etcd://` URLs. Nothing is ever dropped for want of room."""

    guarantees = frozenset({Guarantee.SHARED, Guarantee.DURABLE})

    def __init__(self, url: BackendURL, context: AdapterContext) -> None:
        self._client = Client(url, context, "cache")
        self._lifetimes = Lifetimes(self._client)
        self._root = f"{self._client.settings.prefix}cache/".encode()

    def __repr__(self) -> str:
        return f"<Cache {self._client!r}>"

    async def open(self) -> None:
        await self._client.open()

    async def close(self) -> None:
        if await self._client.end_pending():
            await self._client.close()

    def space(self, name: str, *, evict: bool = True, **options: Any) -> Space:
        if options:
            raise ConfigurationError(
                f"{self._client.settings.text}: a cache has no option {', '.join(options)}; etcd "
                "bounds the size of its whole store (--quota-backend-bytes)"
            )
        return Space(self._client, self._lifetimes, self._root + name.encode() + _SEPARATOR)

    async def clear(self, prefix: str) -> None:
        start = self._root + prefix.encode()
        with self._client.pending():
            await _clear(self._client, start, _after(start))


class Space:
    """The entries of one cache. An entry's version is the revision at which it was written."""

    def __init__(self, client: Client, lifetimes: Lifetimes, start: bytes) -> None:
        self._client = client
        self._lifetimes = lifetimes
        self._start = start
        self._end = start[:-1] + _AFTER_SEPARATOR
        self._largest = client.settings.max_request

    def __repr__(self) -> str:
        return f"<Space {self._start!r}>"

    async def get(self, key: str) -> Stored | None:
        with self._client.pending():
            answer = await self._client.call(Call.RANGE, RangeRequest(key=self._full(key)))
        return _stored(answer.kvs)

    async def get_many(self, keys: Sequence[str]) -> list[Stored | None]:
        found: list[Stored | None] = []
        with self._client.pending():
            for part in _chunks(keys, _OPERATIONS):
                request = TxnRequest(success=[range_of(key=self._full(key)) for key in part])
                answer = await self._client.call(Call.TXN, request)
                found += [_stored(each.response_range.kvs) for each in answer.responses]
        return found

    async def set(self, key: str, value: Any, lifetime: float | None) -> None:
        self._check(key, value)
        with self._client.pending():
            while True:
                lease = await self._lifetimes.lease(lifetime)
                request = PutRequest(key=self._full(key), value=value, lease=lease)
                try:
                    await self._client.call(Call.PUT, request, repeatable=False)
                except LeaseGone:
                    self._lifetimes.forget(lease)
                else:
                    return

    async def set_many(self, entries: Mapping[str, Any], lifetime: float | None) -> None:
        for key, value in entries.items():
            self._check(key, value)
        with self._client.pending():
            for part in self._parts(entries):
                await self._write([], part, lifetime)

    async def swap(
        self, key: str, value: Any, version: object | None, lifetime: float | None
    ) -> bool:
        self._check(key, value)
        if version is not None and not isinstance(version, int):
            return False
        # A key that is not there has the revision 0.
        unchanged = modified_at(self._full(key), version or 0)
        with self._client.pending():
            return await self._write([unchanged], [(key, value)], lifetime)

    async def delete(self, keys: Sequence[str]) -> list[Any]:
        removed: dict[str, Any] = {}
        with self._client.pending():
            for part in _chunks(list(dict.fromkeys(keys)), _OPERATIONS):
                request = TxnRequest(success=[delete(self._full(key)) for key in part])
                answer = await self._client.call(Call.TXN, request, repeatable=False)
                for key, response in zip(part, answer.responses, strict=True):
                    for found in response.response_delete_range.prev_kvs:
                        removed[key] = found.value
        # A key that is named twice is there once.
        return [removed.pop(key, None) for key in keys]

    async def keys(self) -> list[str]:
        keys: list[str] = []
        with self._client.pending():
            start = self._start
            while True:
                page = await _page(self._client, start, self._end)
                ends = (found.key[len(self._start) :] for found in page)
                keys += [end.decode() for end in ends if is_text(end)]
                if len(page) < _PAGE:
                    return keys
                start = _next(page[-1].key)

    async def clear(self) -> None:
        with self._client.pending():
            await _clear(self._client, self._start, self._end)

    async def _write(
        self, conditions: list[Any], entries: list[tuple[str, Any]], lifetime: float | None
    ) -> bool:
        while True:
            lease = await self._lifetimes.lease(lifetime, len(entries))
            puts = [put(self._full(key), value, lease) for key, value in entries]
            request = TxnRequest(compare=conditions, success=puts)
            try:
                answer = await self._client.call(Call.TXN, request, repeatable=False)
            except LeaseGone:
                self._lifetimes.forget(lease)
            else:
                return bool(answer.succeeded)

    def _full(self, key: str) -> bytes:
        return self._start + key.encode()

    def _size(self, key: str, value: bytes) -> int:
        return len(self._start) + len(key.encode()) + len(value) + _OVERHEAD

    def _check(self, key: str, value: bytes) -> None:
        size = self._size(key, value)
        # The key stands in a condition too.
        if size + len(self._start) + len(key.encode()) + _OVERHEAD > self._largest:
            raise BackendRefused(
                f"{key!r}: a value of {len(value)} bytes is larger than etcd takes "
                f"({self._largest} bytes in one request, names included)"
            )

    def _parts(self, entries: Mapping[str, bytes]) -> Iterator[list[tuple[str, bytes]]]:
        part: list[tuple[str, bytes]] = []
        total = _OVERHEAD
        for key, value in entries.items():
            size = self._size(key, value)
            if part and (len(part) == _OPERATIONS or total + size > self._largest):
                yield part
                part, total = [], _OVERHEAD
            part.append((key, value))
            total += size
        if part:
            yield part


def _stored(found: Sequence[Any]) -> Stored | None:
    return Stored(found[0].value, found[0].mod_revision) if found else None


async def _page(client: Client, start: bytes, end: bytes) -> Sequence[Any]:
    request = RangeRequest(key=start, range_end=end, limit=_PAGE, keys_only=True)
    answer = await client.call(Call.RANGE, request)
    found: Sequence[Any] = answer.kvs
    return found


async def _clear(client: Client, start: bytes, end: bytes) -> None:
    """Remove the range page by page: one request for all of it would hold up everybody else."""
    while True:
        page = await _page(client, start, end)
        if page:
            after = _next(page[-1].key)
            await client.call(Call.DELETE, DeleteRangeRequest(key=start, range_end=after))
            start = after
        if len(page) < _PAGE:
            return


def _next(key: bytes) -> bytes:
    """Return the least key that is greater than *key*."""
    return key + b"\0"


def _after(prefix: bytes) -> bytes:
    """Return the least key that is greater than all that begin with *prefix*."""
    # The last byte of UTF-8, or of the root, is never 255.
    return prefix[:-1] + bytes([prefix[-1] + 1])


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
