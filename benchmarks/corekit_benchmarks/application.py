"""corekit as a user has it: the clients of the four components, through an App."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from corekit import App, Cache, DeliveryContext

from .contracts import Component, Opener
from .settings import Settings

_LEASE = 10

_POLL = 0.005


class _Cache:
    def __init__(self, cache: Cache) -> None:
        self.get = cache.get
        self.set = cache.set
        self.delete = cache.delete
        self._cache = cache

    def cached(
        self, fn: Callable[[int], Awaitable[bytes]], *, once: bool
    ) -> Callable[[int], Awaitable[object]]:
        return self._cache.cached("{number}", ttl=3600)(fn)


@asynccontextmanager
async def open_cache(url: str, name: str, settings: Settings) -> AsyncIterator[_Cache]:
    """Yield a cache of an App of its own, without a limit that the workloads would meet."""
    async with App(name, cache=url) as app:
        options = {"max": None} if url.startswith("memory:") else {}
        yield _Cache(await app.cache_manager.create_cache("bench", **options))


class _PubSub:
    def __init__(self, app: App, channels: int) -> None:
        self.channels = [f"channel-{number}" for number in range(channels)]
        self.publish = app.pub_sub_manager.publish
        self._app = app

    async def flush(self) -> None:
        pass  # `publish` returns when the message is on its way

    async def subscribe(self, handle: Callable[[bytes], None]) -> None:
        async def handler(message: bytes) -> None:
            handle(message)

        subscribe = self._app.pub_sub_manager.subscribe
        await asyncio.gather(*(subscribe(each, handler, buffer=100_000) for each in self.channels))


@asynccontextmanager
async def open_pub_sub(url: str, name: str, settings: Settings) -> AsyncIterator[_PubSub]:
    """Yield pub/sub of an App of its own."""
    async with App(name, pub_sub=url) as app:
        yield _PubSub(app, settings.channels)


class _Queue:
    def __init__(self, app: App, settings: Settings) -> None:
        self._app = app
        self._concurrency = settings.in_flight

    async def publish(self, body: bytes) -> None:
        await self._app.event_queue.publish("queue", body)

    async def consume(self, handle: Callable[[bytes], Awaitable[None]]) -> None:
        async def process(message: bytes, context: DeliveryContext) -> None:
            await handle(message)

        self._app.event_queue.subscribe("queue", process, concurrency=self._concurrency)

    async def settled(self) -> None:
        while (stats := await self._app.event_queue.stats("queue")).ready + stats.in_flight:
            await asyncio.sleep(_POLL)

    async def purge(self) -> None:
        await self._app.event_queue.purge("queue")


@asynccontextmanager
async def open_queue(url: str, name: str, settings: Settings) -> AsyncIterator[_Queue]:
    """Yield the event queue of an App of its own."""
    # What waits in a queue that is measured has no room in a memory adapter of the usual size.
    room = f"{url}{'&' if '?' in url else '?'}max_messages={10 * settings.depth + 1_000_000}"
    app = App(name, event_queue=room if url.startswith("memory:") else url, grace=0)
    async with app:
        yield _Queue(app, settings)


class _Lock:
    def __init__(self, app: App) -> None:
        self._app = app

    async def turns(self, key: str, count: int) -> None:
        acquire = self._app.lock_manager.acquire
        for _ in range(count):
            lease = await acquire(key, _LEASE)
            await lease.release()

    async def section(self, key: str, inside: Callable[[], Awaitable[None]]) -> None:
        async with self._app.lock_manager.lock(key, _LEASE):
            await inside()


@asynccontextmanager
async def open_lock(url: str, name: str, settings: Settings) -> AsyncIterator[_Lock]:
    """Yield the locks of an App of its own."""
    async with App(name, lock=url) as app:
        yield _Lock(app)


OPENERS: dict[Component, Opener] = {
    "cache": open_cache,
    "pub_sub": open_pub_sub,
    "event_queue": open_queue,
    "lock": open_lock,
}
