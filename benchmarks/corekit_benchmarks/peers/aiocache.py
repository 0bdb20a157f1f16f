"""aiocache: a cache in memory, used through its decorators."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiocache

from ..contracts import Offer, Peer
from ..settings import Settings

_HOUR = 3600


class _Client:
    def __init__(self, cache: aiocache.SimpleMemoryCache) -> None:
        self.get = cache.get
        self.set = cache.set
        self.delete = cache.delete

    def cached(
        self, fn: Callable[[int], Awaitable[bytes]], *, once: bool
    ) -> Callable[[int], Awaitable[object]]:
        decorator = aiocache.cached_stampede if once else aiocache.cached
        decorated: Callable[[int], Awaitable[object]] = decorator(
            ttl=_HOUR, key_builder=lambda _, number: f"load:{number}"
        )(fn)
        return decorated


@asynccontextmanager
async def _open(url: str, name: str, settings: Settings) -> AsyncIterator[_Client]:
    async with aiocache.SimpleMemoryCache() as cache:
        yield _Client(cache)


PEER = Peer(
    distributions=("aiocache",),
    statement="import aiocache",
    offers=(Offer("aiocache memory", "cache", _open, "values by reference, in one process"),),
)
