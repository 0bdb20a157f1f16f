"""cashews: a cache in memory or in Redis, used through its decorators."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import cashews

from ..contracts import Offer, Peer
from ..settings import Settings


class _Client:
    def __init__(self, cache: cashews.Cache) -> None:
        self.get = cache.get
        self.set = cache.set
        self.delete = cache.delete
        self._cache = cache

    def cached(
        self, fn: Callable[[int], Awaitable[bytes]], *, once: bool
    ) -> Callable[[int], Awaitable[object]]:
        decorated: Callable[[int], Awaitable[object]] = self._cache(
            ttl="1h", key="load:{number}", lock=once
        )(fn)
        return decorated


@asynccontextmanager
async def _open(url: str, name: str, settings: Settings) -> AsyncIterator[_Client]:
    cache = cashews.Cache()
    # Its limit is 1000 keys in memory; the workloads have more.
    options = {} if url else {"size": 1_000_000}
    cache.setup(url or "mem://", **options)
    await cache.init()
    try:
        yield _Client(cache)
    finally:
        await cache.close()


PEER = Peer(
    distributions=("cashews",),
    statement="import cashews",
    offers=(
        Offer("cashews mem://", "cache", _open, "values by reference, in one process"),
        Offer("cashews redis://", "cache", _open, "shared, not on disk", server="redis"),
    ),
)
