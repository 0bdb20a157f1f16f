"""asyncio.Lock, one for each key: what is enough within one process."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from ..contracts import Offer, Peer
from ..settings import Settings


class _Lock:
    def __init__(self) -> None:
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def turns(self, key: str, count: int) -> None:
        lock = self._locks[key]
        for _ in range(count):
            await lock.acquire()
            lock.release()

    async def section(self, key: str, inside: Callable[[], Awaitable[None]]) -> None:
        async with self._locks[key]:
            await inside()


@asynccontextmanager
async def _open(url: str, name: str, settings: Settings) -> AsyncIterator[_Lock]:
    yield _Lock()


PEER = Peer(
    distributions=(),
    statement="import asyncio",
    offers=(Offer("asyncio.Lock", "lock", _open, "one event loop, no lease"),),
)
