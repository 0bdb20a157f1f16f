"""What the clauses of the event queue suite are made of: settings, adapters, receivers."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from ..adapters import Consumer, Delivery, EventQueueAdapter, QueueStats
from ..clock import Clock
from .suite import AdapterSuite
from .waiting import eventually


class Inbox:
    """A receiver that keeps what it gets, and notes what an adapter must not do."""

    def __init__(self) -> None:
        self.received: list[Delivery] = []
        self.late: list[Delivery] = []
        #: What was wrong; an error raised to the adapter would be seen by nobody.
        self.faults: list[str] = []
        self.closed = False
        self._granted = 0
        self._read = 0
        self.adapter: EventQueueAdapter
        self.consumer: Consumer

    def __repr__(self) -> str:
        return f"<Inbox received={len(self.received)} granted={self._granted} faults={self.faults}>"

    def deliveries(self, batch: Sequence[Delivery]) -> None:
        if self.closed:
            self.faults.append("the receiver was called after close had begun")
        self.received += batch
        if len(self.received) > self._granted:
            self.faults.append("more was delivered than was granted")

    def expired(self, delivery: Delivery) -> None:
        if self.closed:
            self.faults.append("the receiver was called after close had begun")
        self.late.append(delivery)

    @property
    def unread(self) -> int:
        """How many deliveries have not been taken."""
        return len(self.received) - self._read

    def grant(self, credit: int) -> None:
        """Grant *credit*, and remember it."""
        self._granted += credit
        self.consumer.grant(credit)

    async def take(self, count: int = 1, *, within: float = 10.0) -> list[Delivery]:
        """Wait for the next *count* deliveries and return them."""
        self._read += count
        await eventually(lambda: len(self.received) >= self._read, within=within)
        return self.received[self._read - count : self._read]

    async def close(self) -> None:
        """Close the consumer; whatever comes after that is a fault."""
        self.closed = True
        await self.consumer.close()


class EventQueueClauses(AdapterSuite):
    """The settings of a suite, and how its tests come to adapters, consumers and messages."""

    tick = 0.05
    """Longer than one call to the backend and the way back take, in seconds."""

    delay = 0.5
    """How long messages are held back, in seconds: several ticks, and more than is rounded away."""

    patience = 30.0
    """How long a death may go unnoticed, in seconds: more than the backend's session time-out."""

    def make_adapter(self) -> EventQueueAdapter:
        """Return a new adapter, not opened; each one plays a process of its own."""
        raise NotImplementedError

    async def kill(self, adapter: EventQueueAdapter) -> None:
        """Let the process that *adapter* plays die without a word."""
        pytest.skip("the suite is not told how to kill an adapter")

    async def cut(self, adapter: EventQueueAdapter) -> None:
        """Cut the connection of *adapter*, for a moment."""
        pytest.skip("the suite is not told how to cut a connection")

    async def restart(self) -> None:
        """Kill the backend and start it again on what it kept."""
        pytest.skip("the suite is not told how to restart the backend")

    def begin(self, clock: Clock) -> None:
        super().begin(clock)
        self.channel = f"suite/queue/{secrets.token_hex(8)}"
        self._ids = map(f"{secrets.token_hex(4)}-{{}}".format, itertools.count())

    @asynccontextmanager
    async def adapters(self, count: int) -> AsyncIterator[list[Any]]:
        """Open *count* adapters; at the end, check that their receivers were treated well."""
        adapters: list[EventQueueAdapter] = [self.make_adapter() for _ in range(count)]
        self._inboxes: list[Inbox] = []
        try:
            for adapter in adapters:
                await adapter.open()
            yield adapters
        finally:
            for adapter in adapters:
                # One by one: what the first gives back goes to the others.
                for inbox in self._inboxes:
                    inbox.closed = inbox.closed or inbox.adapter is adapter
                await adapter.close()
        assert [fault for inbox in self._inboxes for fault in inbox.faults] == []

    def consume(self, adapter: EventQueueAdapter, credit: int) -> Inbox:
        """Return a receiver on the channel that was granted *credit*."""
        inbox = Inbox()
        inbox.adapter = adapter
        inbox.consumer = adapter.consume(self.channel, inbox)
        self._inboxes.append(inbox)
        if credit:
            inbox.grant(credit)
        return inbox

    async def publish(self, adapter: EventQueueAdapter, count: int) -> list[str]:
        """Publish *count* messages one after another, and return their ids."""
        ids = []
        for _ in range(count):
            id = next(self._ids)  # noqa: A001 - it is the message's id in every other place too
            ids.append(await adapter.publish(self.channel, id, id.encode()))
        return ids

    async def bury(self, adapter: EventQueueAdapter, count: int) -> list[str]:
        """Make *count* dead letters, and return their ids."""
        inbox = self.consume(adapter, count)
        ids = await self.publish(adapter, count)
        for number, delivery in enumerate(await inbox.take(count), 1):
            inbox.consumer.bury(delivery, error="E")
            await self.counts(adapter, in_flight=count - number, dead=number)
        await inbox.close()
        return ids

    async def counts(self, adapter: EventQueueAdapter, **expected: int) -> None:
        """Wait until the channel holds just what is *expected*."""
        wanted = QueueStats(**{"ready": 0, "delayed": 0, "in_flight": 0, "dead": 0, **expected})
        deadline = self.clock.monotonic() + 10
        while (stats := await adapter.stats(self.channel)) != wanted:
            assert self.clock.monotonic() < deadline, f"{stats}, expected {wanted}"
            await asyncio.sleep(self.tick / 10)

    async def nothing_more(self, inbox: Inbox) -> None:
        """Check that nothing but what was taken arrives."""
        await asyncio.sleep(2 * self.tick)
        assert not inbox.unread, "something arrived that should not"
