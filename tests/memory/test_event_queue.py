"""The memory adapter of event queues: the suite, and what only it can be asked."""

from __future__ import annotations

import asyncio
import gc
import itertools
import threading
import tracemalloc
from functools import partial

import pytest

from corekit.clock import SYSTEM_CLOCK
from corekit.config import BackendURL
from corekit.errors import BackendRefused, ConfigurationError, QueueFull
from corekit.memory import backlog
from corekit.memory.event_queue import memory_event_queue
from corekit.testing.contexts import make_context
from corekit.testing.event_queue import EventQueueSuite, Inbox


class TestMemoryEventQueue(EventQueueSuite):
    """The contract."""

    virtual = True

    def make_adapter(self):
        return memory_event_queue(
            BackendURL.parse("memory://suite"), make_context(clock=self.clock)
        )

    async def kill(self, adapter):
        with adapter.queues.lock:
            adapter.end(died=True)


_numbers = itertools.count()


@pytest.fixture
def make_on():
    """Return what makes adapters of one hub, on a clock."""
    name = f"alone-{next(_numbers)}"

    def make(clock, options=""):
        url = BackendURL.parse(f"memory://{name}{options}")
        return memory_event_queue(url, make_context(clock=clock))

    return make


@pytest.fixture
def make(make_on, clock):
    """Return what makes adapters of one hub, in virtual time."""
    return partial(make_on, clock)


def consume(adapter, channel, credit):
    """Return an inbox that was granted *credit*."""
    inbox = Inbox()
    inbox.consumer = adapter.consume(channel, inbox)
    if credit:
        inbox.grant(credit)
    return inbox


async def test_apps_with_one_url_meet():
    """Adapters meet by the URL's name, without one by the application's."""
    shop, twin, other, named = (
        memory_event_queue(BackendURL.parse(url), make_context(app))
        for app, url in (
            ("meeting", "memory://"),
            ("meeting", "memory://"),
            ("other", "memory://"),
            ("other", "memory://meeting"),
        )
    )
    for adapter in (shop, twin, other, named):
        await adapter.open()
    await shop.publish("c", "1", b"")
    assert [(await a.stats("c")).ready for a in (twin, other, named)] == [1, 0, 1]
    for adapter in (shop, twin, other, named):
        await adapter.close()


async def test_a_full_channel_refuses(make, clock):
    """The bound counts what has not ended: ready, delayed, in flight; other channels are free."""
    adapter = make("?max_messages=3")
    await adapter.open()
    inbox = consume(adapter, "c", 1)
    await adapter.publish("c", "1", b"")
    await adapter.publish("c", "2", b"", delay=100)
    await adapter.publish("c", "3", b"")
    await inbox.take()
    with pytest.raises(QueueFull, match="3 messages"):
        await adapter.publish("c", "4", b"")
    await adapter.publish("d", "1", b"")
    inbox.consumer.bury(inbox.received[0], error="E")
    await adapter.publish("c", "4", b"")
    with pytest.raises(QueueFull):
        await adapter.requeue("c", "1")
    assert [dead.id for dead in await adapter.dead_letters("c", 5)] == ["1"]
    await adapter.close()


@pytest.mark.parametrize("options", ["?max_messages=0", "?max_messages=x", "?most=5"])
def test_bad_options(make, options):
    """Options that are unknown or out of range are refused when the adapter is built."""
    with pytest.raises(ConfigurationError):
        make(options)


def test_options_of_other_components(make):
    """A URL for all components may hold the cache's options."""
    make("?max=500&copy=1")


async def test_channels_that_are_empty_cost_nothing(make, clock):
    """A channel that nothing is in and nobody consumes is forgotten, however it became so."""
    adapter = make()
    await adapter.open()
    for number in range(100):
        channel = f"c{number}"
        assert (await adapter.stats(channel)).ready == 0
        inbox = consume(adapter, channel, 3)
        await adapter.publish(channel, "1", b"")
        await adapter.publish(channel, "2", b"")
        await adapter.publish(channel, "3", b"", delay=1)
        first, second, third = await inbox.take(3)
        inbox.consumer.ack(first)
        inbox.consumer.bury(second, error="E")
        await inbox.close()
        assert await adapter.purge(channel) == 2
        assert third.id == "3"
    assert adapter.queues.channels == {}
    with pytest.raises(BackendRefused):
        await adapter.requeue("c1", "1")
    assert adapter.queues.channels == {}
    await adapter.close()


async def test_dedup_ids_are_forgotten(make, clock):
    """After two minutes a dedup id is free again, if its message has ended."""
    adapter = make()
    await adapter.open()
    inbox = consume(adapter, "c", 1)
    await adapter.publish("c", "done", b"", dedup_id="a")
    inbox.consumer.ack(*await inbox.take())
    await adapter.publish("c", "waiting", b"", dedup_id="b")
    await asyncio.sleep(119)
    assert await adapter.publish("c", "2", b"", dedup_id="a") == "done"
    await asyncio.sleep(2)
    assert await adapter.publish("c", "3", b"", dedup_id="a") == "3"
    assert await adapter.publish("c", "4", b"", dedup_id="b") == "waiting"
    assert await adapter.purge("c") == 2
    assert await adapter.publish("c", "5", b"", dedup_id="b") == "5"
    await adapter.close()


async def test_a_dead_letter_has_ended(make, clock):
    """Its dedup id is free after two minutes; requeued, it is taken again."""
    adapter = make()
    await adapter.open()
    inbox = consume(adapter, "c", 1)
    await adapter.publish("c", "1", b"", dedup_id="a")
    inbox.consumer.bury(*await inbox.take(), error="E")
    await asyncio.sleep(121)
    await adapter.requeue("c", "1")
    assert await adapter.publish("c", "2", b"", dedup_id="a") == "1"
    assert await adapter.purge("c") == 1
    assert await adapter.publish("c", "3", b"", dedup_id="a") == "3"
    await adapter.close()


async def test_remembered_dedup_ids_are_bounded(make, clock, monkeypatch):
    """Beyond the bound the oldest are forgotten, but not those of waiting messages."""
    monkeypatch.setattr(backlog, "_MOST_DEDUP_IDS", 10)
    adapter = make()
    await adapter.open()
    await adapter.publish("c", "waiting", b"", dedup_id="waiting")
    for number in range(50):
        await adapter.publish("d", str(number), b"", dedup_id=str(number))
        await adapter.purge("d")
    assert await adapter.publish("d", "x", b"", dedup_id="49") == "49"
    assert await adapter.publish("d", "x", b"", dedup_id="5") == "x"
    assert await adapter.publish("c", "x", b"", dedup_id="waiting") == "waiting"
    await adapter.close()


async def test_dead_letters_are_bounded(make, clock, monkeypatch, caplog):
    """Beyond the bound the oldest are dropped, and the log names them."""
    monkeypatch.setattr(backlog, "MOST_DEAD", 3)
    adapter = make()
    await adapter.open()
    inbox = consume(adapter, "c", 5)
    for number in range(5):
        await adapter.publish("c", f"m{number}", b"")
    for delivery in await inbox.take(5):
        inbox.consumer.bury(delivery, error="E")
    assert [dead.id for dead in await adapter.dead_letters("c", 9)] == ["m2", "m3", "m4"]
    assert "m0" in caplog.text
    await adapter.close()


async def test_delays_outlive_their_publisher(make, clock):
    """When the adapter that waits for a delayed message closes, another one takes over."""
    first, second = make(), make()
    await first.open()
    await second.open()
    inbox = consume(second, "c", 1)
    await first.publish("c", "1", b"", delay=10)
    await first.close()
    await asyncio.sleep(11)
    assert [d.id for d in inbox.received] == ["1"]
    inbox.consumer.ack(inbox.received[0])
    await second.publish("c", "2", b"", delay=10)
    await second.close()
    await asyncio.sleep(11)
    third = make()
    await third.open()
    assert [d.id for d in await consume(third, "c", 1).take()] == ["2"]
    await third.close()


async def test_one_timer_for_all_delays(make, clock):
    """However many messages are held back, one timer waits."""
    adapter = make()
    await adapter.open()
    inbox = consume(adapter, "c", 1000)
    for number in range(500):
        await adapter.publish("c", str(number), b"", delay=500 - number)
    live = [h for h in asyncio.get_running_loop()._scheduled if not h.cancelled()]
    assert len(live) == 1
    assert [d.id for d in await inbox.take(500, within=1000)] == [
        str(n) for n in range(499, -1, -1)
    ]
    await adapter.close()


async def test_a_publisher_lets_others_run(make, clock):
    """Publishing in a loop does not keep consumers from their turn."""
    adapter = make("?max_messages=500")
    await adapter.open()
    inbox = consume(adapter, "c", 10_000)
    real = inbox.deliveries

    def acknowledge(batch):
        real(batch)
        for delivery in batch:
            inbox.consumer.ack(delivery)

    inbox.deliveries = acknowledge
    for number in range(5000):
        await adapter.publish("c", str(number), b"")
    await inbox.take(5000)
    await adapter.close()


async def test_apps_in_several_threads(make_on):
    """Adapters in other event loops take part: each message once, in this loop or another."""
    adapters, counts, ready, done = [], [], threading.Barrier(4), threading.Event()

    def work():
        async def main():
            adapter = make_on(SYSTEM_CLOCK)
            await adapter.open()
            inbox = consume(adapter, "c", 20)
            adapters.append(adapter)
            ready.wait()
            settled = 0
            while not done.is_set():
                await asyncio.sleep(0.001)
                for delivery in await inbox.take(inbox.unread):
                    inbox.consumer.ack(delivery)
                    inbox.grant(1)
                    settled += 1
            counts.append(settled)
            assert inbox.faults == []
            await adapter.close()

        asyncio.run(main())

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    adapter = make_on(SYSTEM_CLOCK)
    await adapter.open()
    await asyncio.to_thread(ready.wait)
    for number in range(2000):
        await adapter.publish("c", str(number), b"")

    async def empty():
        waiting = True
        while waiting:
            await asyncio.sleep(0.01)
            stats = await adapter.stats("c")
            waiting = stats.ready or stats.in_flight

    try:
        await asyncio.wait_for(empty(), 20)
    finally:
        done.set()
        for thread in threads:
            await asyncio.to_thread(thread.join)
    assert sum(counts) == 2000
    assert min(counts) > 0
    await adapter.close()


@pytest.mark.parametrize("noticed", ["at an open", "at a delivery"])
async def test_a_loop_that_ended_without_a_word(make_on, noticed):
    """The deliveries of an App whose loop is gone go to others, as deaths."""
    adapter = make_on(SYSTEM_CLOCK)
    if noticed == "at a delivery":
        await adapter.open()

    def work():
        async def main():
            other = make_on(SYSTEM_CLOCK)
            await other.open()
            inbox = consume(other, "c", 5)
            await other.publish("c", "1", b"")
            await inbox.take()

        asyncio.run(main())

    await asyncio.to_thread(work)
    if noticed == "at an open":
        await adapter.open()
    inbox = consume(adapter, "c", 5)
    await adapter.publish("c", "2", b"")
    await adapter.publish("c", "3", b"")
    deliveries = await inbox.take(3)
    assert {d.id: d.deaths for d in deliveries} == {"1": 1, "2": 0, "3": 0}
    await adapter.close()


async def test_memory_stays_flat(make, clock):
    """Settled messages leave nothing behind."""
    adapter = make()
    await adapter.open()
    inbox = consume(adapter, "c", 1)
    inbox.deliveries = lambda batch: [
        (inbox.consumer.ack(d), inbox.consumer.grant(1)) for d in batch
    ]

    async def many():
        for number in range(2000):
            await adapter.publish("c", str(number), b"x" * 100)
        await asyncio.sleep(1)
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        await many()
        before = await many()
        for _ in range(3):
            after = await many()
        assert after - before < 20_000
    finally:
        tracemalloc.stop()
    await adapter.close()
