"""What a bad call may not disturb."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from corekit import App, Cache, Counter, Lease

URL = "memory://bad-input?copy=1"


class World:
    """Two instances of one application, with something of everything in use."""

    def __init__(self, app: App, other: App) -> None:
        self.app = app
        self.other = other
        self.cache: Cache
        self.counter: Counter
        self.lease: Lease
        self.heard: list[Any] = []

    async def fill(self) -> None:
        """Put something into every component."""
        self.cache = await self.app.cache_manager.create_cache("users", ttl=100)
        await self.cache.set("anna", 1)
        await self.cache.set("fields", {"a": 1})
        self.counter = await self.app.cache_manager.create_counter("visits")
        await self.counter.incrby("home", 3)
        await self.app.pub_sub_manager.subscribe("news", self.hear)
        await self.app.sync_message_manager.subscribe("reports", self.hear)
        self.app.event_queue.subscribe("served", self.serve)
        await self.app.event_queue.publish("jobs", "waits")
        await self.app.event_queue.publish("jobs", "delayed", delay=1000)
        self.lease = await self.app.lock_manager.acquire("held", ttl=1000)

    async def hear(self, message: Any) -> None:
        """Take a message in."""
        self.heard.append(message)

    async def serve(self, message: Any, context: Any) -> None:
        """Do a job."""
        self.heard.append(message)

    async def picture(self) -> list[Any]:
        """Return all that can be seen of both instances."""
        app, other = self.app, self.other
        return [
            {key: await self.cache.get(key) for key in sorted(await self.cache.keys())},
            sorted(await app.cache.keys()),
            await self.counter.get("home"),
            [await other.event_queue.stats(name) for name in ("jobs", "k", "served")],
            [await other.event_queue.stats(name, shared=True) for name in ("jobs", "k")],
            (self.lease.held, self.lease.token),
            [
                repr(part)
                for each in (app, other)
                for part in (
                    each,
                    each.cache_manager,
                    each.pub_sub_manager,
                    each.pub_sub_manager.channels,
                    each.sync_message_manager,
                    each.event_queue,
                    each.lock_manager,
                )
            ],
            list(self.heard),
        ]

    async def refuses(
        self, call: Callable[[], Any], error: type[Exception], base: type[Exception]
    ) -> str:
        """Check that *call* raises *error*, also a *base*, and changes nothing; return its text."""
        before = await self.picture()
        with pytest.raises(error) as caught:
            await _called(call)
        assert isinstance(caught.value, base)
        assert type(caught.value) is error, f"{caught.value!r} is not exactly {error.__name__}"
        assert await self.picture() == before
        return str(caught.value)


async def _called(call: Callable[[], Any]) -> None:
    result = call()
    if inspect.isawaitable(result):
        await result


@pytest.fixture
def world() -> Callable[[], contextlib.AbstractAsyncContextManager[World]]:
    """Return what makes a world, to be used by `async with`."""

    @contextlib.asynccontextmanager
    async def make() -> AsyncIterator[World]:
        async with App("shop", backend=URL) as app, App("shop", backend=URL) as other:
            made = World(app, other)
            await made.fill()
            yield made

    return make
