"""Event queues on virtual time, and an adapter that does what a test tells it."""

# ruff: noqa: A002 - the adapter's methods have a parameter `id`

from __future__ import annotations

import asyncio
import itertools
from collections import deque

import pytest

from corekit.adapters import Delivery, Guarantee, QueueStats
from corekit.config import BackendURL
from corekit.managers.context import ManagerContext
from corekit.managers.event_queue import EventQueue
from corekit.memory.event_queue import memory_event_queue
from corekit.serialization import Serializer
from corekit.testing.contexts import make_context
from corekit.transactions import AfterCommit


class Transaction:
    """A transaction whose end the test decides."""

    def __init__(self):
        self.callbacks = []

    def after_commit(self, callback):
        self.callbacks.append(callback)

    def commit(self):
        for callback in self.callbacks:
            callback()


class Source:
    """A consumer whose deliveries and settlements the test sees."""

    def __init__(self, backend, channel, receiver):
        self.backend = backend
        self.channel = channel
        self.receiver = receiver
        self.credit = 0
        self.grants = []
        self.revoked = 0
        self.settled = []
        self.closed = False
        self.order = []

    def deliver(self, *messages, spend=True, **fields):
        """Deliver *messages*: bytes as they are, deliveries too, others in an envelope."""
        batch = [self.backend.delivery(message, **fields) for message in messages]
        if spend:
            assert len(batch) <= self.credit, "more than was granted"
            self.credit -= len(batch)
        self.receiver.deliveries(batch)
        return batch

    def outcome(self, delivery):
        """Return what became of *delivery*: one tuple, or None."""
        found = [entry[1:] for entry in self.settled if entry[0] is delivery]
        assert len(found) <= 1, "settled twice"
        return found[0] if found else None

    def outcomes(self):
        """Return what became of what, in order: (message id, how)."""
        return [(entry[0].id, entry[1]) for entry in self.settled]

    def grant(self, credit):
        assert credit > 0
        self.credit += credit
        self.grants.append(credit)

    def revoke(self):
        self.credit = 0
        self.revoked += 1

    def ack(self, delivery):
        self.settled.append((delivery, "ack"))

    def release(self, delivery, *, started):
        self.settled.append((delivery, "release", started))

    def retry(self, delivery, *, delay, error):
        self.settled.append((delivery, "retry", delay, error))

    def bury(self, delivery, *, error):
        self.settled.append((delivery, "bury", error))

    async def close(self):
        self.closed = True
        await self.backend.point("consumer.close")


class Backend:
    """An adapter that records, and hangs or fails where the test says so."""

    def __init__(self, *missing):
        self.guarantees = frozenset(Guarantee) - set(missing)
        self.calls = []
        self.published = []
        self.sources = {}
        self.failures = {}
        self.hangs = set()
        self.closed = False
        self._numbers = itertools.count(1)
        self._serializer = Serializer()

    def delivery(
        self,
        message,
        *,
        timeout=15.0,
        max_retries=0,
        waits=0.5,
        attempt=1,
        deaths=0,
        id=None,
    ):
        if isinstance(message, Delivery):
            return message
        number = next(self._numbers)
        payload = (
            message
            if isinstance(message, bytes)
            else self._serializer.seal((timeout, max_retries, waits), message)
        )
        return Delivery(id or f"m{number}", payload, attempt, deaths, 1_700_000_000.0, number)

    async def point(self, name):
        self.calls.append(name)
        while name in self.hangs:  # noqa: ASYNC110 - which hangs end is the test's to say
            await asyncio.sleep(1.0)
        failures = self.failures.get(name)
        if isinstance(failures, deque):
            if failures:
                raise failures.popleft()
        elif failures is not None:
            raise failures

    async def open(self):
        await self.point("open")

    async def close(self):
        self.closed = True
        await self.point("close")

    async def publish(self, channel, id, payload, *, delay=0.0, dedup_id=None):
        await self.point("publish")
        self.published.append((channel, id, payload, delay, dedup_id))
        return id

    def consume(self, channel, receiver):
        if "consume" in self.failures:
            raise self.failures["consume"]
        source = Source(self, channel, receiver)
        self.sources.setdefault(channel, []).append(source)
        return source

    @property
    def source(self):
        """The newest consumer of the only channel."""
        ((*_, source),) = self.sources.values()
        return source

    async def stats(self, channel):
        await self.point("stats")
        return QueueStats(1, 2, 3, 4)

    async def dead_letters(self, channel, limit):
        await self.point("dead_letters")
        self.calls.append(limit)
        return []

    async def requeue(self, channel, id):
        await self.point("requeue")

    async def purge(self, channel):
        await self.point("purge")
        return 7


@pytest.fixture
def transaction():
    """Return a transaction."""
    return Transaction()


@pytest.fixture
def backend():
    """Return an adapter for one start."""
    return Backend()


@pytest.fixture
def make_backend():
    """Return what makes adapters; it is given the guarantees that they lack."""
    return Backend


@pytest.fixture
def make_queue(clock):
    """Return a function that makes an event queue, not opened."""

    def make(consumes=lambda _topic: True, app="shop"):
        context = ManagerContext(app, f"{app}-1", clock, Serializer(), AfterCommit([]))
        return EventQueue(context, consumes)

    return make


@pytest.fixture
def make_adapter(clock):
    """Return a function that makes memory adapters of one hub, which no other test has."""
    name = f"test-{id(clock)}-{next(_hubs)}"

    def make(app="shop", options=""):
        url = BackendURL.parse(f"memory://{name}{options}")
        return memory_event_queue(url, make_context(app, clock=clock))

    return make


_hubs = itertools.count()


@pytest.fixture
def queue(make_queue):
    """Return an event queue, not opened."""
    return make_queue()
