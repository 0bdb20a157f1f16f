"""Instances of one application, and an adapter that does what a test tells it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from corekit.adapters import MessageReceiver, PubSubAdapter
from corekit.managers.context import ManagerContext
from corekit.managers.pub_sub import PubSubManager
from corekit.memory.pub_sub import Exchange, MemoryPubSub
from corekit.serialization import Serializer
from corekit.testing import VirtualClock
from corekit.transactions import AfterCommit


class Transaction:
    """A transaction whose end the test decides."""

    def __init__(self) -> None:
        self.callbacks: list[Callable[[], None]] = []

    def after_commit(self, callback: Callable[[], None]) -> None:
        self.callbacks.append(callback)

    def commit(self) -> None:
        for callback in self.callbacks:
            callback()


class Wire:
    """A pub/sub adapter that records, and hangs or fails where the test says so."""

    guarantees = frozenset()

    def __init__(self) -> None:
        self.receiver: MessageReceiver
        self.calls: list[str] = []
        self.published: list[tuple[str, bytes]] = []
        self.subscribed: set[str] = set()
        self.closed = False
        self.failures: dict[str, BaseException] = {}
        """By method: what it raises."""
        self.hangs: set[str] = set()
        """Methods that wait until `let_go`."""
        self.released = asyncio.Event()
        self.reached = Counter[str]()

    def let_go(self) -> None:
        self.hangs.clear()
        self.released.set()
        self.released = asyncio.Event()

    async def _point(self, method: str) -> None:
        self.calls.append(method)
        if method in self.hangs:
            self.reached[method] += 1
            await self.released.wait()
        if method in self.failures:
            raise self.failures[method]

    async def open(self, receiver: MessageReceiver) -> None:
        self.receiver = receiver
        await self._point("open")

    async def close(self) -> None:
        self.closed = True
        await self._point("close")

    async def publish(self, channel: str, payload: bytes) -> None:
        await self._point("publish")
        self.published.append((channel, payload))

    async def subscribe(self, channel: str) -> None:
        await self._point("subscribe")
        self.subscribed.add(channel)

    async def unsubscribe(self, channel: str) -> None:
        await self._point("unsubscribe")
        self.subscribed.discard(channel)

    # What the test says the network brought.

    def bring(self, *numbers: int, publisher: int = 7, channel: str = "shop/channel/c") -> None:
        """Deliver messages of another instance; the body of number n is n."""
        self.receiver.messages(channel, [sealed(n, publisher=publisher) for n in numbers])

    def bring_bodies(self, *bodies: Any, start: int = 1, channel: str = "shop/channel/c") -> None:
        """Deliver messages of another instance, numbered from *start*."""
        payloads = [sealed(n, body=body) for n, body in enumerate(bodies, start)]
        self.receiver.messages(channel, payloads)

    def lose(self, channel: str = "shop/channel/c") -> None:
        """Tell that something may have been missed."""
        self.receiver.gap(channel)


class Log:
    """An async handler that keeps what it is given; also an `on_gap`."""

    def __init__(self) -> None:
        self.messages: list[Any] = []

    async def __call__(self, message: Any) -> None:
        self.messages.append(message)

    def gap(self, channel: str) -> None:
        self.messages.append(f"gap {channel}")


_ABSENT = object()


def sealed(
    number: int,
    *,
    publisher: int = 7,
    instance: str = "other",
    audience: int = 1,
    body: Any = _ABSENT,
) -> bytes:
    """Return the envelope that another instance would send; the body is *number* by default."""
    body = number if body is _ABSENT else body
    return Serializer().seal((instance, publisher, number, audience), body)


class Cluster:
    """Makes the instances of one application, which meet in one exchange."""

    Wire = Wire
    Log = Log
    Transaction = Transaction
    sealed = staticmethod(sealed)

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.exchange = Exchange()

    def manager(self, instance: str = "a", app: str = "shop") -> PubSubManager:
        """Return a manager that is not opened."""
        context = ManagerContext(app, instance, self.clock, Serializer(), AfterCommit())
        return PubSubManager(context)

    def adapter(self) -> PubSubAdapter:
        return MemoryPubSub(self.exchange)

    @asynccontextmanager
    async def running(self, *instances: str) -> AsyncIterator[Sequence[PubSubManager]]:
        """Open one manager for each of *instances*."""
        managers = [self.manager(instance) for instance in instances]
        try:
            for manager in managers:
                await manager.open(self.adapter())
            yield managers
        finally:
            for manager in managers:
                await manager.close()

    @asynccontextmanager
    async def wired(self) -> AsyncIterator[tuple[PubSubManager, Wire]]:
        """Open one manager on a `Wire`."""
        manager, wire = self.manager(), Wire()
        await manager.open(wire)
        try:
            yield manager, wire
        finally:
            wire.let_go()
            wire.failures.clear()
            await manager.close()


@pytest.fixture
def cluster(clock: VirtualClock) -> Cluster:
    """Return a maker of instances; the test runs in virtual time."""
    return Cluster(clock)


@pytest.fixture(scope="session")
def cluster_of() -> type[Cluster]:
    """Return the maker for a test that runs loops of its own: `cluster_of(clock)`."""
    return Cluster
