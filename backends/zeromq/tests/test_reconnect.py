"""Brokers that are killed, paused and restarted; networks that cut, delay and halve."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from corekit_zeromq.cache import Cache
from corekit_zeromq.event_queue import EventQueue
from corekit_zeromq.lock import Lock
from corekit_zeromq.pub_sub import PubSub

from corekit.adapters import Consumer, Delivery
from corekit.errors import BackendUnavailable
from corekit.testing import Proxy, eventually

from .conftest import LIMITS
from .fake_broker import opened
from .keys import keygen
from .processes import BrokerProcess


@pytest.fixture(params=["plain", "encrypted"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BrokerProcess]:
    """Return a broker process of this test: the two kinds of links have to bear the same."""
    files = {}
    if request.param == "encrypted":
        keygen(tmp_path, "broker")
        (tmp_path / "allowed").write_text(f"{keygen(tmp_path, 'client')} client\n")
        files = {"key_file": tmp_path / "broker.key", "allow_file": tmp_path / "allowed"}
    process = BrokerProcess(tmp_path / "broker", files=files, **LIMITS)
    if files:
        process.options = f"server_key={tmp_path}/broker.pub&key_file={tmp_path}/client.key"
    process.start()
    yield process
    process.kill()


class Worker:
    """Consumes a queue: settles everything at once, and remembers what it handled."""

    def __init__(self, queue: EventQueue, channel: str, credit: int = 20) -> None:
        self.handled: list[str] = []
        self.late = 0
        self.consumer: Consumer = queue.consume(channel, self)
        self.consumer.grant(credit)

    def deliveries(self, batch: Sequence[Delivery]) -> None:
        """Handle and settle."""
        for delivery in batch:
            self.handled.append(delivery.id)
            self.consumer.ack(delivery)
        self.consumer.grant(len(batch))

    def expired(self, delivery: Delivery) -> None:
        """Count."""
        self.late += 1


class Listener:
    """Keeps what arrives; None stands for a gap."""

    def __init__(self) -> None:
        self.arrived: list[int | None] = []

    def messages(self, channel: str, payloads: Sequence[bytes]) -> None:
        """Take messages."""
        self.arrived += map(int, payloads)

    def gap(self, channel: str) -> None:
        """Take a gap."""
        self.arrived.append(None)

    def check(self) -> None:
        """Check that numbers grow, and that none is missing without a gap before the next."""
        expected = None
        for number in self.arrived:
            if number is None:
                expected = None
                continue
            assert expected is None or number == expected, self.arrived
            expected = number + 1


class Load:
    """Publishes to a queue, with several calls under way, until it is told to stop."""

    def __init__(self, queue: EventQueue, channel: str, width: int = 10) -> None:
        self.confirmed: list[str] = []
        self.uncertain: list[str] = []
        self._queue = queue
        self._channel = channel
        self._stopping = False
        self._count = 0
        self._tasks = [asyncio.create_task(self._publish()) for _ in range(width)]

    async def _publish(self) -> None:
        while not self._stopping:
            self._count += 1
            id_ = f"m{self._count}"
            try:
                await self._queue.publish(self._channel, id_, b"x" * 100)
            except BackendUnavailable:
                self.uncertain.append(id_)
            else:
                self.confirmed.append(id_)
            await asyncio.sleep(0.001)

    async def stop(self) -> None:
        """Let what is under way end."""
        self._stopping = True
        await asyncio.gather(*self._tasks)


async def check_nothing_lost(load: Load, worker: Worker, queue: EventQueue, channel: str) -> None:
    """Check that everything confirmed was handled, and the queue is empty."""
    await eventually(lambda: set(load.confirmed) <= set(worker.handled), within=20)
    stats = await queue.stats(channel)
    while stats.ready or stats.in_flight or stats.delayed:
        await asyncio.sleep(0.05)
        stats = await queue.stats(channel)
    assert set(worker.handled) <= {*load.confirmed, *load.uncertain}
    assert stats.dead == 0


@asynccontextmanager
async def through_proxy(broker: BrokerProcess, kind: Any, *args: Any) -> AsyncIterator[Any]:
    """Open an adapter of *kind* behind a proxy; give both."""
    async with (
        Proxy(broker.port) as proxy,
        opened(kind, broker.url_at(proxy.address), *args) as adapter,
    ):
        yield adapter, proxy


async def test_kills_lose_nothing(broker: BrokerProcess) -> None:
    """A broker that is killed under load, again and again, loses no confirmed message.

    Publishers and consumers resume by themselves, within two seconds of its return, and no
    delivery was handled twice more than there were kills for it.
    """
    async with opened(EventQueue, broker.url) as producer, opened(EventQueue, broker.url) as queue:
        worker = Worker(queue, "q")
        load = Load(producer, "q")
        for _ in range(4):
            await asyncio.sleep(0.4)
            broker.kill()
            await asyncio.sleep(0.1)
            await asyncio.to_thread(broker.start)
            back = time.monotonic()
            confirmed, handled = len(load.confirmed), len(worker.handled)
            await eventually(lambda before=confirmed: len(load.confirmed) > before)  # type: ignore[misc]
            await eventually(lambda before=handled: len(worker.handled) > before)  # type: ignore[misc]
            assert time.monotonic() - back < 3
        await load.stop()
        await check_nothing_lost(load, worker, queue, "q")
        assert len(load.confirmed) > 200
        assert len(worker.handled) - len(set(worker.handled)) <= 4 * 20


async def test_cuts_lose_and_double_nothing(broker: BrokerProcess) -> None:
    """Over a connection that is cut all the time each message is handled exactly once."""
    async with (
        through_proxy(broker, EventQueue) as (producer, first),
        through_proxy(broker, EventQueue) as (queue, second),
    ):
        worker = Worker(queue, "q")
        load = Load(producer, "q")
        for number in range(12):
            await asyncio.sleep(0.15)
            (first, second)[number % 2].cut()
        await load.stop()
        assert load.uncertain == []
        await check_nothing_lost(load, worker, queue, "q")
        assert sorted(worker.handled) == sorted(load.confirmed)
        assert worker.late == 0
        assert first.accepted >= 6


async def test_a_short_partition_is_bridged(broker: BrokerProcess) -> None:
    """While nothing passes, calls wait; afterwards everything is there once, and nothing failed."""
    async with (
        through_proxy(broker, EventQueue) as (producer, proxy),
        opened(EventQueue, broker.url) as queue,
    ):
        worker = Worker(queue, "q")
        load = Load(producer, "q")
        await asyncio.sleep(0.3)
        proxy.hold()
        await asyncio.sleep(0.6)
        proxy.restore()
        await asyncio.sleep(0.3)
        await load.stop()
        assert load.uncertain == []
        await check_nothing_lost(load, worker, queue, "q")
        assert sorted(worker.handled) == sorted(load.confirmed)


async def test_a_long_partition_is_noticed(broker: BrokerProcess) -> None:
    """A dead network is noticed by the silence; calls fail in their time, then all goes on."""
    async with (
        Proxy(broker.port) as proxy,
        opened(EventQueue, broker.url_at(proxy.address, timeout=1)) as producer,
        opened(EventQueue, broker.url) as queue,
    ):
        worker = Worker(queue, "q")
        load = Load(producer, "q")
        await asyncio.sleep(0.2)
        proxy.hold()
        begun = time.monotonic()
        with pytest.raises(BackendUnavailable):
            await producer.stats("q")
        assert time.monotonic() - begun < 2
        await asyncio.sleep(1.5)  # longer than the broker keeps the session
        proxy.cut()
        proxy.restore()
        back = time.monotonic()
        before = len(load.confirmed)
        await eventually(lambda: len(load.confirmed) > before)
        assert time.monotonic() - back < 2
        await load.stop()
        await check_nothing_lost(load, worker, queue, "q")


@pytest.mark.parametrize("setting", ["slow", "in pieces"])
async def test_a_bad_network_is_only_slow(broker: BrokerProcess, setting: str) -> None:
    """Delays, and bytes that come one by one, change nothing but the time."""
    async with through_proxy(broker, PubSub, listener := Listener()) as (pub_sub, proxy):
        await pub_sub.subscribe("c")
        if setting == "slow":
            proxy.requests.delay = proxy.answers.delay = 0.05
        else:
            proxy.requests.piece = proxy.answers.piece = 3
        for number in range(200):
            await pub_sub.publish("c", str(number).encode())
        await eventually(lambda: len(listener.arrived) == 200)
        assert listener.arrived == list(range(200))


async def test_a_subscriber_misses_nothing_over_cuts(broker: BrokerProcess) -> None:
    """What is published while a subscriber is cut off is replayed: in order, without doubles."""
    async with (
        opened(PubSub, broker.url, Listener()) as publisher,
        through_proxy(broker, PubSub, listener := Listener()) as (subscriber, proxy),
    ):
        await subscriber.subscribe("c")
        for number in range(600):
            await publisher.publish("c", str(number).encode())
            if number % 60 == 59:
                proxy.cut()
            if number % 10 == 0:
                await asyncio.sleep(0.005)
        await eventually(lambda: len(listener.arrived) >= 600)
        assert listener.arrived == list(range(600))


async def test_a_subscriber_that_was_away_is_told(broker: BrokerProcess) -> None:
    """Away for longer than its session lives, it gets what the history holds, or a gap."""
    async with (
        opened(PubSub, broker.url, Listener()) as publisher,
        through_proxy(broker, PubSub, listener := Listener()) as (subscriber, proxy),
    ):
        await subscriber.subscribe("few")
        await subscriber.subscribe("many")
        await publisher.publish("few", b"1")
        await publisher.publish("many", b"1")
        await eventually(lambda: len(listener.arrived) == 2)
        listener.arrived.clear()
        proxy.refusing = True
        proxy.cut()
        await asyncio.sleep(2.2)
        await publisher.publish("few", b"2")
        proxy.refusing = False
        await eventually(lambda: listener.arrived == [2])
        listener.arrived.clear()
        proxy.refusing = True
        proxy.cut()
        await asyncio.sleep(2.2)
        for number in range(3000):
            await publisher.publish("many", str(number).encode())
        proxy.refusing = False
        await eventually(lambda: listener.arrived)
        await publisher.publish("many", b"3000")
        await eventually(lambda: 3000 in listener.arrived)
        assert listener.arrived == [None, 3000]


async def test_a_restart_is_a_gap(broker: BrokerProcess) -> None:
    """After a restart of the broker every subscriber is told, and hears what is published then."""
    async with (
        opened(PubSub, broker.url, Listener()) as publisher,
        opened(PubSub, broker.url, listener := Listener()) as subscriber,
    ):
        await subscriber.subscribe("c")
        await publisher.publish("c", b"1")
        await eventually(lambda: listener.arrived == [1])
        await asyncio.to_thread(broker.restart)
        await eventually(lambda: listener.arrived[-1:] == [None])
        await publisher.publish("c", b"2")
        await eventually(lambda: listener.arrived[-1:] == [2])
        listener.check()


async def test_a_paused_broker(broker: BrokerProcess) -> None:
    """A broker that stood still for a while has lost nothing, and nobody's session."""
    async with opened(EventQueue, broker.url) as producer, opened(EventQueue, broker.url) as queue:
        worker = Worker(queue, "q")
        load = Load(producer, "q")
        await asyncio.sleep(0.3)
        broker.pause()
        await asyncio.sleep(2.0)
        broker.resume()
        await asyncio.sleep(0.3)
        await load.stop()
        assert load.uncertain == []
        await check_nothing_lost(load, worker, queue, "q")
        assert sorted(worker.handled) == sorted(load.confirmed)


async def test_locks_survive_cuts(broker: BrokerProcess) -> None:
    """Over a cut the holder keeps its lock and a waiter its place."""
    async with (
        through_proxy(broker, Lock) as (holder, first),
        through_proxy(broker, Lock) as (waiter, second),
    ):
        grant = await holder.acquire("n", 30.0, None)
        waiting = asyncio.create_task(waiter.acquire("n", 30.0, None))
        await asyncio.sleep(0.1)
        first.cut()
        second.cut()
        assert await holder.extend(grant, 30.0) is not None
        await holder.release(grant)
        after = await waiting
        assert after.token > grant.token


async def test_a_dead_holder_frees_its_lock(broker: BrokerProcess) -> None:
    """When the session of a holder has ended, the lock goes to the next, before its time."""
    async with (
        opened(Lock, broker.url) as waiter,
        through_proxy(broker, Lock) as (holder, proxy),
    ):
        grant = await holder.acquire("n", 30.0, None)
        proxy.refusing = True
        proxy.cut()
        after = await waiter.acquire("n", 30.0, 10.0)
        assert after.token > grant.token
        proxy.refusing = False
        assert await holder.extend(grant, 30.0) is None


async def test_a_cache_is_empty_after_a_restart(broker: BrokerProcess) -> None:
    """A cache outlives cuts; a restart of the broker empties it, and it works on."""
    async with through_proxy(broker, Cache) as (cache, proxy):
        space = cache.space("s")
        await space.set("k", b"v", None)
        proxy.cut()
        assert (await space.get("k")).value == b"v"
        await asyncio.to_thread(broker.restart)
        assert await space.get("k") is None
        await space.set("k", b"w", None)
        assert (await space.get("k")).value == b"w"
